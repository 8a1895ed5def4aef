//! Errors in one line.

/// The error and its causes, separated by colons. Many errors name their cause in their own words and give it as their source,
/// too: what has been said at the end of the line so far is not said again. A NUL, which no text of ROS may hold, is U+FFFD.
pub fn in_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\0', "\u{fffd}")
}

/// First line of a torch error: the rest is a C++ backtrace.
pub(crate) fn first_line(e: &impl std::fmt::Display) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}

/// At most so many bytes of a text, and that there was more: an error that is kept, published or answered repeats what came,
/// whatever its length.
pub(crate) fn cut(text: String) -> String {
    cut_to(1000, text)
}

/// As [`cut`], of another length.
pub(crate) fn cut_to(most: usize, mut text: String) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[derive(Debug, thiserror::Error)]
    #[error("file {path}: {source}")]
    struct Named {
        path: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn each_cause_is_named_once() {
        let source = std::io::Error::other("the disk is full");
        let error = Err::<(), _>(Named { path: "a", source }).context("cannot save").expect_err("an error");
        assert_eq!(format!("{error:#}"), "cannot save: file a: the disk is full: the disk is full");
        assert_eq!(in_line(&error), "cannot save: file a: the disk is full");
        assert_eq!(in_line(&anyhow::anyhow!("nothing")), "nothing");
        let plain =
            Err::<(), _>(std::io::Error::other("the disk is full")).context("cannot save").expect_err("an error");
        assert_eq!(in_line(&plain), "cannot save: the disk is full");
    }

    #[test]
    fn a_long_text_is_cut_between_two_letters() {
        assert_eq!(cut_to(4, "abcd".into()), "abcd");
        assert_eq!(cut_to(4, "abcde".into()), "abcd ...");
        assert_eq!(cut_to(4, "abc\u{e9}".into()), "abc ...");
        assert_eq!(cut("x".repeat(1 << 20)).len(), 1004);
    }

    #[test]
    fn a_line_has_no_nul() {
        let error = anyhow::anyhow!("no file '\0a'").context("cannot load 'b\0'");
        assert_eq!(in_line(&error), "cannot load 'b\u{fffd}': no file '\u{fffd}a'");
    }
}

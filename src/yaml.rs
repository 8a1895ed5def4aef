//! YAML from outside.

use serde::de::{DeserializeOwned, Error as _};

/// Most lists and mappings within each other that are written with brackets and braces. No file of ours has ten.
const DEEPEST: usize = 1000;
/// Most lines of directives (`%TAG`), each of which is compared with all before it.
const MOST_DIRECTIVES: usize = 100;

/// Reads a document, as `serde_yaml` does it. That looks at all open brackets for each one more, which takes minutes for a
/// file of nothing else, before it finds them too many.
///
/// # Errors
/// It is no YAML, or not of this type.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, serde_yaml::Error> {
    check_depth(text)?;
    serde_yaml::from_str(text)
}

/// Refuses more open brackets and braces than [`DEEPEST`], and more directives than [`MOST_DIRECTIVES`]. Those in quotes and in comments count, too: nobody writes so many.
///
/// # Errors
/// There are more.
pub(crate) fn check_depth(text: &str) -> Result<(), serde_yaml::Error> {
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            let what =
                format!("expected at most {DEEPEST} open brackets and braces, found more: it is no YAML, or damaged");
            return Err(serde_yaml::Error::custom(what));
        }
    }
    if text.lines().filter(|line| line.starts_with('%')).count() > MOST_DIRECTIVES {
        let what = format!("expected at most {MOST_DIRECTIVES} lines that begin with '%', found more");
        return Err(serde_yaml::Error::custom(what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_yaml::Value;

    #[test]
    fn brackets_without_end_are_refused_at_once() {
        for open in ["[", "{", "[{", "- [", "[\n"] {
            let error = read::<Value>(&open.repeat(200_000)).expect_err(open).to_string();
            assert!(error.contains("at most 1000 open brackets"), "{error}");
        }
    }

    #[test]
    fn directives_without_end_are_refused_at_once() {
        let error = read::<Value>(&("%TAG !0! x\n".repeat(80_000) + "--- a\n")).expect_err("refused").to_string();
        assert!(error.contains("at most 100 lines that begin with '%'"), "{error}");
        assert_eq!(read::<Value>("%YAML 1.1\n---\na\n").expect("one directive"), Value::from("a"));
    }

    #[test]
    fn many_brackets_that_are_closed_are_read() {
        let text = "- [1, {a: 2}]\n".repeat(5000);
        assert_eq!(read::<Value>(&text).expect("a list").as_sequence().map(Vec::len), Some(5000));
        let text = "a: \"[[[\" # {{{\n";
        assert_eq!(read::<Value>(text).expect("a mapping")["a"], "[[[");
    }
}

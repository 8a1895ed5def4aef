//! The name that was probably meant.

/// The candidate nearest to `name`, if any is near: at most a third of its letters differ (two letters that changed
/// places count once). Of equally near ones the first.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_by(name, candidates, strsim::damerau_levenshtein)
}

/// As [`nearest`]; `distance` says how many letters differ.
fn nearest_by<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    mut distance: impl FnMut(&str, &str) -> usize,
) -> Option<&'a str> {
    let count = name.chars().count();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let letters = candidate.chars().count();
        // As many differ at least. A client may send a name of a megabyte, and comparing it would take seconds.
        if count.abs_diff(letters) * 3 > letters {
            continue;
        }
        let differ = distance(name, candidate);
        if differ * 3 <= letters && best.is_none_or(|(least, _)| differ < least) {
            best = Some((differ, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `; did you mean X?`, or nothing.
pub(crate) fn suggestion<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or_else(String::new, |n| format!("; did you mean {n}?"))
}

#[cfg(test)]
mod tests {
    use super::{nearest, nearest_by};

    #[test]
    fn only_what_is_near_is_proposed() {
        let names = ["overlay_opacity", "roi", "device"];
        assert_eq!(nearest("overlay_opasity", names), Some("overlay_opacity"));
        assert_eq!(nearest("rio", names), Some("roi"));
        assert_eq!(nearest("devise", names), Some("device"));
        assert_eq!(nearest("zebra", names), None);
        assert_eq!(nearest("", names), None);
    }

    #[test]
    fn what_is_too_long_or_too_short_to_be_near_is_not_compared() {
        let names = ["overlay_opacity", "roi", "device"];
        let compared = |name: &str| {
            let mut with = Vec::new();
            let _ = nearest_by(name, names, |_, candidate| {
                with.push(candidate.to_owned());
                0
            });
            with
        };
        let endless = "q".repeat(1 << 20);
        assert!(compared(&endless).is_empty());
        assert_eq!(nearest(&endless, names), None);
        // A third of the candidate's letters may differ.
        assert_eq!(compared("devicess"), ["device"]);
        assert_eq!(nearest("devicess", names), Some("device"));
        assert_eq!(compared("devi"), ["roi", "device"]);
        assert_eq!(nearest("devi", names), Some("device"));
        assert!(compared("devicesss").is_empty());
        assert_eq!(compared("dev"), ["roi"]);
    }
}

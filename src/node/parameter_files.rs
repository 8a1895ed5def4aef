//! Keys of parameter files that r2r passes over without a word: of a file's nodes it takes `/**`, `**`, the node's full
//! name and its bare name; rclcpp understands wildcards in names and names without the leading slash, too.

use super::command_line::{arguments, ros_values};
use crate::yaml;
use anyhow::{bail, ensure};
use serde::Deserialize as _;
use serde_yaml::{Deserializer, Value};
use std::collections::HashSet;

/// Below it are the parameters; the keys above it name the node.
const PARAMETERS: &str = "ros__parameters";

/// Looks whether the files of this process's arguments say anything to `node` (its full name); a file that does not is
/// warned of. What cannot be read is left to rcl, which has refused it. Returns the parameters that they say to the node by its
/// full or bare name, and not to all nodes.
///
/// # Errors
/// A key that rclcpp would take for this node, and r2r does not.
pub(super) fn check(node: &str) -> anyhow::Result<HashSet<String>> {
    let mut said = HashSet::new();
    for file in ros_values(arguments(), &["--params-file"]) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        if let Some(warning) = look(&file, &text, node, &mut said)? {
            log::warn!("{warning}");
        }
    }
    Ok(said)
}

/// Adds the names of parameters: the keys of a block, joined with dots.
fn names(block: &Value, above: &str, found: &mut HashSet<String>) {
    for (key, below) in block.as_mapping().into_iter().flatten() {
        let Some(key) = key.as_str() else { continue };
        let name = if above.is_empty() { key.to_string() } else { format!("{above}.{key}") };
        if below.is_mapping() {
            names(below, &name, found);
        } else {
            found.insert(name);
        }
    }
}

/// What to warn of in a file with this text. `said`: gets the parameters that it says to the node by a name.
fn look(file: &str, text: &str, node: &str, said: &mut HashSet<String>) -> anyhow::Result<Option<String>> {
    let mut keys = Vec::new();
    if let Err(e) = yaml::check_depth(text) {
        return Ok(Some(format!("parameter file {file} could not be checked: {e}")));
    }
    for document in Deserializer::from_str(text) {
        let value = match Value::deserialize(document) {
            Ok(value) => value,
            // Of two rcl takes the last without a word, and this reader neither.
            Err(e) if e.to_string().contains("duplicate") => {
                bail!("parameter file {file}: expected each key once, found {e}; remove one of the two")
            }
            Err(e) => return Ok(Some(format!("parameter file {file} could not be checked: {e}"))),
        };
        blocks(&value, "", &mut |key, block| {
            keys.push(key.to_string());
            if is_taken(key, node) && !key.ends_with("**") {
                names(block, "", said);
            }
        });
    }
    let ignored: Vec<_> = keys.iter().filter(|key| means(key, node) && !is_taken(key, node)).cloned().collect();
    ensure!(
        ignored.is_empty(),
        "parameter file {file}: expected this node's key as {node}: or /**:, found {}:, which would be ignored; write \
         one of the two",
        ignored.join(":, ")
    );
    if keys.iter().any(|key| is_taken(key, node)) {
        return Ok(None);
    }
    let found = if keys.is_empty() { format!("no {PARAMETERS} at all") } else { format!("{}:", keys.join(":, ")) };
    Ok(Some(format!(
        "parameter file {file} says nothing to this node: expected the key {node}: or /**:, found {found}"
    )))
}

/// Calls with the names of nodes as rcl makes them, keys down to the parameters, joined with slashes, and what is below.
fn blocks(value: &Value, above: &str, found: &mut dyn FnMut(&str, &Value)) {
    for (key, below) in value.as_mapping().into_iter().flatten() {
        match key.as_str() {
            Some(PARAMETERS) if above.is_empty() => {}
            Some(PARAMETERS) => found(above, below),
            Some(key) if above.is_empty() || above.ends_with('/') => blocks(below, &format!("{above}{key}"), found),
            Some(key) => blocks(below, &format!("{above}/{key}"), found),
            None => {}
        }
    }
}

/// Whether r2r takes what is below this key.
fn is_taken(key: &str, node: &str) -> bool {
    let bare = node.rsplit('/').next();
    matches!(key, "/**" | "**") || key == node || Some(key) == bare
}

/// Whether rclcpp takes it: `**` stands for any number of a name's parts, `*` for one, and names begin at the root.
fn means(key: &str, node: &str) -> bool {
    fits(&parts(key), &parts(node))
}

fn parts(name: &str) -> Vec<&str> {
    name.strip_prefix('/').unwrap_or(name).split('/').collect()
}

fn fits(pattern: &[&str], name: &[&str]) -> bool {
    match pattern {
        [] => name.is_empty(),
        ["**", rest @ ..] => (0..=name.len()).any(|skipped| fits(rest, &name[skipped..])),
        [part, rest @ ..] => match name {
            [first, others @ ..] => (*part == "*" || part == first) && fits(rest, others),
            [] => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "/front/semantic_depth";

    fn look(file: &str, text: &str, node: &str) -> anyhow::Result<Option<String>> {
        super::look(file, text, node, &mut HashSet::new())
    }

    #[test]
    fn what_is_said_to_the_node_by_a_name_is_told_from_what_is_said_to_all() {
        let mut said = HashSet::new();
        let text = "/**:\n  ros__parameters: {a: 1}\nsemantic_depth:\n  ros__parameters: {b: {c: 1}}\n\
                    /front/semantic_depth:\n  ros__parameters: {d: 1}\nother:\n  ros__parameters: {e: 1}\n";
        assert_eq!(super::look("f", text, NODE, &mut said).expect("it is taken"), None);
        assert_eq!(said, ["b.c", "d"].map(String::from).into());
    }

    fn text(key: &str) -> String {
        format!("\"{key}\":\n  ros__parameters:\n    png_level: 7\n")
    }

    #[test]
    fn keys_that_are_taken_are_nothing_to_speak_of() {
        for key in ["/**", "**", NODE, "semantic_depth"] {
            assert_eq!(look("f", &text(key), NODE).expect(key), None, "{key}");
        }
        let nested = "/front:\n  semantic_depth:\n    ros__parameters: {}\nother:\n  ros__parameters: {}\n";
        assert_eq!(look("f", nested, NODE).expect("the key is absolute"), None);
        // rcl takes the last of two.
        for twice in ["semantic_depth:\n  ros__parameters: {png_level: 3, png_level: 7}\n", "/*: {}\n/*: {}\n"] {
            let why = format!("{:#}", look("f", twice, NODE).expect_err("a key twice"));
            assert!(why.contains("parameter file f: expected each key once") && why.contains("remove one"), "{why}");
        }
        let documents = "other:\n  ros__parameters: {}\n---\nsemantic_depth:\n  ros__parameters: {png_level: 3}\n";
        assert_eq!(look("f", documents, NODE).expect("rcl reads all of them"), None);
        let why = look("f", "not: [yaml", NODE).expect("rcl's to refuse").expect("a warning");
        assert!(why.contains("parameter file f could not be checked: "), "{why}");
        let why = look("f", &"[".repeat(200_000), NODE).expect("rcl's to refuse").expect("a warning");
        assert!(why.contains("could not be checked: expected at most 1000 open brackets"), "{why}");
    }

    #[test]
    fn keys_that_would_be_ignored_are_errors() {
        for key in [
            "front/semantic_depth",
            "/**/semantic_depth",
            "**/semantic_depth",
            "/front/**/semantic_depth",
            "/*/semantic_depth",
            "/front/*",
            "/front/**",
            "*/*",
        ] {
            let error = look("some.yaml", &text(key), NODE).expect_err(key).to_string();
            for words in ["some.yaml", &format!("found {key}:"), "/front/semantic_depth: or /**:"] {
                assert!(error.contains(words), "{error}");
            }
        }
        // Beside one that is taken, too.
        let nested =
            "/**:\n  ros__parameters: {}\nfront:\n  semantic_depth:\n    ros__parameters:\n      png_level: 7\n";
        let error = look("f", nested, NODE).expect_err("nested").to_string();
        assert!(error.contains("found front/semantic_depth:"), "{error}");
        assert!(look("f", &text("/*"), "/semantic_depth").is_err());
    }

    #[test]
    fn a_file_for_others_is_warned_of() {
        for key in ["other", "/semantic_depth", "/*", "/*/*/semantic_depth", "/front", "/front/semantic_depth/more"] {
            let warning = look("some.yaml", &text(key), NODE).expect(key).expect(key);
            for words in ["some.yaml", NODE, &format!("found {key}:")] {
                assert!(warning.contains(words), "{warning}");
            }
        }
        for text in ["", "semantic_depth:\n  png_level: 7\n", "ros__parameters:\n  png_level: 7\n"] {
            let warning = look("f", text, NODE).expect(text).expect(text);
            assert!(warning.contains("no ros__parameters"), "{warning}");
        }
    }
}

//! What is made of the tables: tables for README.md, the default parameter file, everything as JSON.

use super::diagnostics::{Status, DIAGNOSTICS};
use super::parameters::{Rule, Spec, PARAMETERS};
use super::qos::Role;
use super::topics::{SERVICES, TOPICS};
use super::value::Value;
use serde_json::{json, Map, Value as Json};
use std::fmt::Write as _;

/// Tables that README.md holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Section {
    /// Topics.
    Topics,
    /// Services.
    Services,
    /// Parameters.
    Parameters,
    /// Statuses and keys of `/diagnostics`.
    Diagnostics,
}

impl Section {
    /// All of them.
    pub const ALL: [Section; 4] = [Section::Topics, Section::Services, Section::Parameters, Section::Diagnostics];

    /// As on the command line and in the markers.
    pub const fn name(self) -> &'static str {
        match self {
            Section::Topics => "topics",
            Section::Services => "services",
            Section::Parameters => "parameters",
            Section::Diagnostics => "diagnostics",
        }
    }

    /// The table in Markdown.
    pub fn markdown(self) -> String {
        match self {
            Section::Topics => topics(),
            Section::Services => services(),
            Section::Parameters => parameters(),
            Section::Diagnostics => diagnostics(),
        }
    }

    /// The table as JSON.
    pub fn json(self) -> Json {
        match self {
            Section::Topics => TOPICS
                .iter()
                .map(|t| {
                    json!({
                        "name": t.name,
                        "direction": match t.role { Role::Subscription => "input", Role::Publisher => "output" },
                        "type": t.message,
                        "meaning": t.meaning,
                        "per_camera": t.per_camera,
                        "qos": t.qos.words(),
                        "switch": t.switch.map(|s| format!("outputs.{s}")),
                    })
                })
                .collect(),
            Section::Services => {
                SERVICES.iter().map(|s| json!({"name": s.name, "type": s.service, "meaning": s.meaning})).collect()
            }
            Section::Parameters => PARAMETERS.iter().map(parameter_json).collect(),
            Section::Diagnostics => DIAGNOSTICS
                .iter()
                .map(|s| {
                    let keys: Vec<Json> = s.keys.iter().map(|k| json!({"key": k.key, "meaning": k.meaning})).collect();
                    let levels: Vec<Json> =
                        s.levels.iter().map(|(l, when)| json!({"level": l.name(), "when": when})).collect();
                    json!({"status": status_name(s), "per_camera": s.per_camera, "levels": levels, "keys": keys})
                })
                .collect(),
        }
    }
}

/// All tables as one JSON object.
pub fn json() -> Json {
    Json::Object(Section::ALL.into_iter().map(|s| (s.name().to_string(), s.json())).collect::<Map<_, _>>())
}

/// A value of a parameter as JSON.
pub(super) fn value_json(value: &Value) -> Json {
    match value {
        Value::NotSet => Json::Null,
        Value::Bool(x) => json!(x),
        Value::Integer(x) => json!(x),
        Value::Double(x) => json!(x),
        Value::String(x) => json!(x),
        Value::Bytes(v) => json!(v),
        Value::Bools(v) => json!(v),
        Value::Integers(v) => json!(v),
        Value::Doubles(v) => json!(v),
        Value::Strings(v) => json!(v),
    }
}

fn parameter_json(spec: &Spec) -> Json {
    let mut entry = json!({
        "name": spec.name,
        "type": spec.default.kind().name(),
        "default": value_json(&spec.default.value()),
        "unit": spec.unit,
        "meaning": spec.meaning,
        "at_run_time": spec.at_run_time,
        "per_camera": spec.per_camera,
    });
    match spec.rule {
        Rule::Any => {}
        Rule::Between(low, high) => entry["range"] = json!([low, high]),
        Rule::OneOf(choices) => entry["choices"] = json!(choices),
        Rule::Syntax(syntax) => entry["syntax"] = json!(syntax.words()),
    }
    entry
}

/// A value as it is written in a parameter file.
fn yaml(value: &Value) -> String {
    match value {
        Value::String(s) if s.is_empty() => "\"\"".into(),
        Value::String(s) => s.clone(),
        Value::Strings(v) => format!("[{}]", v.join(", ")),
        other => other.to_string(),
    }
}

/// The first marker of a section of README.md.
pub fn opening_marker(section: Section) -> String {
    format!("<!-- interface:{} -->", section.name())
}

/// The last marker of a section of README.md.
pub const CLOSING_MARKER: &str = "<!-- /interface -->";

/// The text with every marked section made anew.
///
/// # Errors
/// A marker without the other, or a section that is not there.
pub fn update(text: &str) -> Result<String, String> {
    let mut text = text.to_string();
    for section in Section::ALL {
        let opening = opening_marker(section);
        let start = text.find(&opening).ok_or_else(|| format!("{opening} is missing"))? + opening.len();
        let length =
            text[start..].find(CLOSING_MARKER).ok_or_else(|| format!("{CLOSING_MARKER} after {opening} is missing"))?;
        text.replace_range(start..start + length, &format!("\n\n{}\n", section.markdown()));
    }
    Ok(text)
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let cells: Vec<String> = row.into_iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn topics() -> String {
    let row = |t: &super::topics::Topic| {
        let qos = match t.role {
            Role::Subscription => format!("`input_reliability`, depth {}", t.qos.depth),
            Role::Publisher => t.qos.words(),
        };
        vec![code(t.name), code(t.message), t.meaning.into(), qos]
    };
    table(&["topic", "type", "what", "QoS"], TOPICS.iter().map(row))
}

fn services() -> String {
    let row = |s: &super::topics::Service| vec![code(s.name), code(s.service), s.meaning.into()];
    table(&["service", "type", "what it does"], SERVICES.iter().map(row))
}

fn parameters() -> String {
    let row = |s: &Spec| {
        let mut when = String::new();
        if s.at_run_time {
            when.push('R');
        }
        if s.per_camera {
            when.push('C');
        }
        vec![code(s.name), code(&yaml(&s.default.value())), valid(s), when, s.meaning.into()]
    };
    table(&["parameter", "default", "valid", "", "meaning"], PARAMETERS.iter().map(row))
}

/// Which values are valid, in words, with the unit of a range.
fn valid(spec: &Spec) -> String {
    let words = spec.rule.words();
    match spec.rule {
        Rule::Between(..) if !spec.unit.is_empty() => format!("{words} {}", spec.unit),
        _ => words,
    }
}

fn status_name(status: &Status) -> String {
    format!("NODE: {}{}", if status.per_camera { "[CAMERA ]" } else { "" }, status.subtask)
}

fn diagnostics() -> String {
    let mut rows = Vec::new();
    for status in DIAGNOSTICS {
        let levels: Vec<String> =
            status.levels.iter().map(|(level, when)| format!("{}: {when}", level.name())).collect();
        rows.push(vec![code(&status_name(status)), String::new(), levels.join(". ")]);
        rows.extend(status.keys.iter().map(|k| vec![String::new(), code(k.key), k.meaning.into()]));
    }
    table(&["status", "key", "meaning"], rows)
}

/// Columns of the parameter file.
const WIDTH: usize = 118;

/// Comment lines of at most [`WIDTH`] columns.
fn comment(text: &mut String, indent: &str, words: &str) {
    let mut line = format!("{indent}#");
    for word in words.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = format!("{indent}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// The parameter file with every default: `config/semantic_depth.param.yaml`.
pub fn params_file() -> String {
    let mut text = String::new();
    comment(
        &mut text,
        "",
        "Parameters of the semantic_depth node, all of them, with their defaults. Made from the node's own table by \
         `semantic_depth interface --format params`. [R]: may change at run time. [C]: can be set for one camera too, \
         see the end.",
    );
    text.push_str("# yaml-language-server: $schema=semantic_depth.schema.json\n/**:\n  ros__parameters:\n");
    let mut group = None;
    for spec in PARAMETERS {
        if spec.group() != group {
            group = spec.group();
            if let Some(name) = group {
                let _ = writeln!(text, "    {name}:");
            }
        }
        let (indent, name) = match group {
            Some(group) => ("      ", &spec.name[group.len() + 1..]),
            None => ("    ", spec.name),
        };
        let mut words = spec.meaning.to_string();
        let valid = valid(spec);
        if !valid.is_empty() {
            let _ = write!(words, ". Valid: {valid}");
        }
        words.push_str(match (spec.at_run_time, spec.per_camera) {
            (true, true) => ". [R] [C]",
            (true, false) => ". [R]",
            (false, true) => ". [C]",
            (false, false) => ".",
        });
        comment(&mut text, indent, &words);
        // What the file says beats `--log-level`.
        let off = if spec.name == "log_level" { "# " } else { "" };
        let _ = writeln!(text, "{indent}{off}{name}: {}", yaml(&spec.default.value()));
    }
    text.push_str(
        "    # One camera's own values, with cameras: [front, rear]:\n\
         \x20   # front:\n\
         \x20   #   resize_mode: roi\n\
         \x20   #   roi: [0, 200, 1920, 800]\n\
         \x20   #   outputs:\n\
         \x20   #     overlay: false\n\
         \x20   # QoS of a topic by its final name (reliability, durability, history, depth, deadline and so on):\n\
         \x20   # qos_overrides:\n\
         \x20   #   /camera/image_raw:\n\
         \x20   #     subscription:\n\
         \x20   #       reliability: reliable\n",
    );
    text
}

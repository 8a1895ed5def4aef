//! The JSON Schema (draft 2020-12) of a parameter file, for editors and checks before a start.
//!
//! rcl takes `outputs.labels: true` and `outputs: {labels: true}` for the same, so the schema has both. What no schema
//! can say (a camera's name that is not in `cameras`, values that do not fit together) is left to the node.

use super::documents::value_json;
use super::parameters::{reserved, Preset, Rule, Spec, Syntax, MAX_CAMERAS, MAX_CLASSES, PARAMETERS};
use super::qos::{Policy, Role, PREFIX};
use serde_json::{json, Map, Value as Json};

/// `config/semantic_depth.schema.json`.
pub fn schema() -> Json {
    let mut definitions = Map::new();
    for spec in PARAMETERS {
        definitions.insert(spec.name.into(), parameter(spec));
    }
    for group in groups(|_| true) {
        definitions.insert(group.into(), object(members(group, |_| true), Map::new()));
    }
    // A group may have members that cannot be set for one camera: today none has, and this keeps it true.
    for group in groups(|s| s.per_camera) {
        definitions.insert(format!("camera.{group}"), object(members(group, |s| s.per_camera), Map::new()));
    }
    definitions.insert("camera".into(), camera());
    let qos = qos_end();
    definitions.insert("qos".into(), qos);
    definitions.insert(PREFIX.into(), qos_overrides());
    definitions.insert("parameters".into(), node_parameters());
    definitions.insert("node".into(), {
        let mut node =
            object([("ros__parameters".to_string(), reference("parameters"))].into_iter().collect(), Map::new());
        node["required"] = json!(["ros__parameters"]);
        node
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Parameter file of semantic_depth",
        "type": "object",
        // The keys that reach a node: for all nodes, a bare name, a full name (`crate::node`'s `parameter_files`).
        "patternProperties": { r"^(/?\*\*|[A-Za-z_][A-Za-z0-9_]*|(/[A-Za-z_][A-Za-z0-9_]*)+)$": reference("node") },
        "additionalProperties": false,
        "$defs": definitions,
    })
}

fn reference(name: &str) -> Json {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn object(properties: Map<String, Json>, patterns: Map<String, Json>) -> Json {
    let mut object = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !patterns.is_empty() {
        object["patternProperties"] = Json::Object(patterns);
    }
    object
}

/// Groups with a member of this kind, in order.
fn groups(which: impl Fn(&Spec) -> bool) -> Vec<&'static str> {
    let mut found: Vec<&str> = PARAMETERS.iter().filter(|s| which(s)).filter_map(Spec::group).collect();
    found.dedup();
    found
}

fn members(group: &str, which: impl Fn(&Spec) -> bool) -> Map<String, Json> {
    let of_group = PARAMETERS.iter().filter(|s| s.group() == Some(group) && which(s));
    of_group.map(|s| (s.name[group.len() + 1..].to_string(), reference(s.name))).collect()
}

/// A value that is valid for the parameter.
fn parameter(spec: &Spec) -> Json {
    let text = |syntax: Syntax| json!({ "type": "string", "pattern": syntax.pattern() });
    let mut valid = match (spec.default, spec.rule) {
        (Preset::Bool(_), _) => json!({ "type": "boolean" }),
        (Preset::Integer(_), Rule::Between(low, high)) => {
            json!({ "type": "integer", "minimum": low as i64, "maximum": high as i64 })
        }
        (Preset::Double(_), Rule::Between(low, high)) => json!({ "type": "number", "minimum": low, "maximum": high }),
        (_, Rule::OneOf(choices)) => json!({ "type": "string", "enum": choices }),
        (Preset::Integers(_), Rule::Syntax(Syntax::Roi)) => json!({
            "type": "array",
            "items": { "type": "integer", "minimum": 0, "maximum": 65_535 },
            "minItems": 4,
            "maxItems": 4,
        }),
        (Preset::Texts(_), Rule::Syntax(Syntax::Cameras)) => {
            let mut items = text(Syntax::Cameras);
            items["not"] = json!({ "enum": names_no_camera_has() });
            json!({ "type": "array", "items": items, "maxItems": MAX_CAMERAS, "uniqueItems": true })
        }
        (Preset::Texts(_), Rule::Syntax(syntax)) => {
            let ids = json!({ "type": "integer", "minimum": 0, "maximum": 255 });
            // rcl takes no list of both.
            json!({ "type": "array", "maxItems": MAX_CLASSES, "anyOf": [{ "items": text(syntax) }, { "items": ids }] })
        }
        (Preset::TextOrNumber(_), Rule::Syntax(syntax)) => {
            json!({ "anyOf": [text(syntax), { "type": "number", "minimum": 1e-3, "maximum": 1e3 }] })
        }
        (Preset::Text(_), Rule::Syntax(syntax)) => text(syntax),
        (Preset::Text(_) | Preset::TextOrNumber(_), _) => json!({ "type": "string" }),
        (Preset::Integer(_), _) => json!({ "type": "integer" }),
        (Preset::Double(_), _) => json!({ "type": "number" }),
        (Preset::Integers(_), _) => json!({ "type": "array", "items": { "type": "integer" } }),
        (Preset::Texts(_), _) => json!({ "type": "array", "items": { "type": "string" } }),
    };
    let unit = if spec.unit.is_empty() { String::new() } else { format!(" [{}]", spec.unit) };
    let when = if spec.at_run_time { "may change at run time" } else { "read at the start only" };
    valid["description"] = json!(format!("{}{unit} ({when})", spec.meaning));
    valid["default"] = value_json(&spec.default.value());
    valid
}

fn names_no_camera_has() -> Vec<&'static str> {
    let mut names: Vec<&str> = reserved().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A regular expression of a camera's name, without the anchors.
fn camera_name() -> String {
    format!("(?!(?:{})(?:\\.|$))(?![a-z0-9_]*__)[a-z][a-z0-9_]{{0,63}}", names_no_camera_has().join("|"))
}

/// One camera's own values.
fn camera() -> Json {
    let mut properties = Map::new();
    for spec in PARAMETERS.iter().filter(|s| s.per_camera) {
        properties.insert(spec.name.into(), reference(spec.name));
    }
    for group in groups(|s| s.per_camera) {
        properties.insert(group.into(), reference(&format!("camera.{group}")));
    }
    object(properties, Map::new())
}

fn node_parameters() -> Json {
    let mut properties = Map::new();
    for spec in PARAMETERS {
        properties.insert(spec.name.into(), reference(spec.name));
    }
    for group in groups(|_| true) {
        properties.insert(group.into(), reference(group));
    }
    properties.insert(PREFIX.into(), reference(PREFIX));
    let name = camera_name();
    let mut patterns = Map::new();
    patterns.insert(format!("^{name}$"), reference("camera"));
    for spec in PARAMETERS.iter().filter(|s| s.per_camera) {
        patterns.insert(format!("^{name}\\.{}$", spec.name.replace('.', "\\.")), reference(spec.name));
    }
    for group in groups(|s| s.per_camera) {
        patterns.insert(format!("^{name}\\.{group}$"), reference(&format!("camera.{group}")));
    }
    for policy in Policy::ALL {
        patterns.insert(dotted_qos(&format!("{PREFIX}\\."), policy), qos_value(policy));
    }
    object(properties, patterns)
}

fn dotted_qos(prefix: &str, policy: Policy) -> String {
    format!("^{prefix}/[^.]+\\.({}|{})\\.{}$", Role::Publisher.name(), Role::Subscription.name(), policy.name())
}

fn qos_value(policy: Policy) -> Json {
    match policy {
        policy if policy.choices().is_empty() => {
            let (least, most) = policy.range();
            json!({ "type": "integer", "minimum": least, "maximum": most, "description": policy.meaning() })
        }
        _ => json!({ "type": "string", "enum": policy.choices(), "description": policy.meaning() }),
    }
}

/// The policies of one end of a topic.
fn qos_end() -> Json {
    object(Policy::ALL.into_iter().map(|p| (p.name().to_string(), qos_value(p))).collect(), Map::new())
}

fn qos_overrides() -> Json {
    let ends = [Role::Publisher, Role::Subscription].map(|r| (r.name().to_string(), reference("qos")));
    let mut patterns = Map::new();
    patterns.insert("^/[^.]+$".into(), object(ends.into_iter().collect(), Map::new()));
    for policy in Policy::ALL {
        patterns.insert(dotted_qos("", policy), qos_value(policy));
    }
    object(Map::new(), patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_the_node_takes() {
        let validator = jsonschema::draft202012::new(&schema()).expect("a schema that can be used");
        let is_valid = |key: &str| validator.is_valid(&json!({ key: { "ros__parameters": {} } }));
        for key in ["/**", "**", "semantic_depth", "/semantic_depth", "/front/semantic_depth"] {
            assert!(is_valid(key), "{key}");
        }
        for key in ["front/semantic_depth", "/**/semantic_depth", "/*/semantic_depth", "/*", "/front/", ""] {
            assert!(!is_valid(key), "{key}");
        }
    }
}

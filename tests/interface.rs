//! README.md, the parameter file and its schema say what the code says; the schema, read by an independent validator,
//! takes what the node takes and refuses what it refuses.

use semantic_depth::cli::interface::{schema_text, PARAMS_FILE, SCHEMA_FILE};
use semantic_depth::interface::documents::{params_file, update};
use semantic_depth::interface::{ParameterSet, Value};
use serde_json::{json, Value as Json};
use std::path::Path;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

const HINT: &str = "is not what the code says: run `semantic_depth interface --update .` in the source folder";

#[test]
fn documents_are_what_the_code_says() {
    let readme = file("README.md");
    assert!(readme == update(&readme).expect("all markers"), "README.md {HINT}");
    assert!(file(SCHEMA_FILE) == schema_text().expect("a schema"), "{SCHEMA_FILE} {HINT}");
    assert!(file(PARAMS_FILE) == params_file(), "{PARAMS_FILE} {HINT}");
}

fn validator() -> jsonschema::Validator {
    let schema: Json = serde_json::from_str(&file(SCHEMA_FILE)).expect("JSON");
    jsonschema::draft202012::meta::validate(&schema).expect("a valid schema");
    jsonschema::draft202012::new(&schema).expect("a schema that can be used")
}

fn yaml(text: &str) -> Json {
    serde_yaml::from_str(text).expect("YAML")
}

/// The parameters as rcl makes them of a file: nested maps become names with dots.
fn flatten(prefix: &str, value: &Json, into: &mut Vec<(String, Value)>) {
    let value = match value {
        Json::Object(map) => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, into);
            }
            return;
        }
        Json::Bool(x) => Value::Bool(*x),
        Json::Number(n) if n.is_f64() => Value::Double(n.as_f64().expect("a double")),
        Json::Number(n) => Value::Integer(n.as_i64().expect("an integer")),
        Json::String(s) => Value::String(s.clone()),
        Json::Array(v) if v.is_empty() => Value::NotSet,
        Json::Array(v) if v.iter().all(Json::is_i64) => Value::Integers(v.iter().filter_map(Json::as_i64).collect()),
        Json::Array(v) => Value::Strings(v.iter().filter_map(|s| s.as_str().map(String::from)).collect()),
        Json::Null => Value::NotSet,
    };
    into.push((prefix.into(), value));
}

fn node_takes(file: &Json) -> Result<ParameterSet, String> {
    let mut given = Vec::new();
    flatten("", &file["/**"]["ros__parameters"], &mut given);
    ParameterSet::new(given).map_err(|e| e.to_string())
}

fn with(parameters: Json) -> Json {
    json!({ "/**": { "ros__parameters": parameters } })
}

#[test]
fn the_default_file_is_valid_and_says_the_defaults() {
    let file = yaml(&file(PARAMS_FILE));
    if let Err(e) = validator().validate(&file) {
        panic!("{e} at {}", e.instance_path());
    }
    assert_eq!(node_takes(&file), Ok(ParameterSet::default()));
    // Not only because it says little: it has every parameter but the one that is left to --log-level.
    let mut given = Vec::new();
    flatten("", &file["/**"]["ros__parameters"], &mut given);
    assert_eq!(given.len(), semantic_depth::interface::PARAMETERS.len() - 1);
}

#[test]
fn the_example_in_the_file_is_valid_too() {
    // The commented lines at the end, uncommented.
    let text = file(PARAMS_FILE);
    let (_, example) = text.split_once("cameras: [front, rear]:\n").expect("the example");
    let lines = example.lines().map(|line| line.replacen("# ", "", 1)).filter(|l| !l.contains("QoS of a topic"));
    let text =
        format!("/**:\n  ros__parameters:\n    cameras: [front, rear]\n{}\n", lines.collect::<Vec<_>>().join("\n"));
    let file = yaml(&text);
    if let Err(e) = validator().validate(&file) {
        panic!("{e} at {}\n{text}", e.instance_path());
    }
    let set = node_takes(&file).expect("valid");
    assert_eq!(set.camera(0).placement.roi.map(|r| r.width), Some(1920));
    assert!(!set.camera(0).outputs.overlay && set.camera(1).outputs.overlay);
}

#[test]
fn node_and_schema_take_the_same() {
    let validator = validator();
    for parameters in [
        json!({ "outputs": { "depth": false }, "outputs.labels": false }),
        json!({ "cameras": ["front"], "front": { "roi": [0, 0, 8, 8], "outputs": { "labels": false } } }),
        json!({ "cameras": ["front"], "front.roi": [0, 0, 8, 8], "front.points.stride": 2 }),
        json!({ "cameras": ["front"], "front": { "points.stride": 2 }, "front.outputs": { "mask": true } }),
        json!({ "depth_scaling": 1.5, "points": { "classes": [0, 13] } }),
        json!({ "depth_scaling": "none", "points": { "classes": ["road"] }, "output_size": "640x480" }),
        json!({ "qos_overrides": { "/camera/image": { "subscription": { "reliability": "reliable", "depth": 2 } } } }),
        json!({ "qos_overrides./camera/image.subscription.reliability": "best_effort" }),
        json!({ "overlay_opacity": 1, "device": "cuda:3" }),
    ] {
        let file = with(parameters);
        if let Err(e) = validator.validate(&file) {
            panic!("{file}: {e} at {}", e.instance_path());
        }
        assert!(node_takes(&file).is_ok(), "{file}: {:?}", node_takes(&file));
    }
}

#[test]
fn values_with_a_form_of_their_own_are_the_same_to_node_and_schema() {
    let validator = validator();
    let texts = |texts: &str| texts.split('|').map(Json::from).collect::<Vec<_>>();
    let lists = |values: Vec<Json>| values.into_iter().map(|value| json!([value])).collect::<Vec<_>>();
    let numbers = |values: &[f64]| values.iter().map(|x| json!(x)).collect::<Vec<_>>();
    let (long, tiny) = (|length: usize| json!("a".repeat(length)), json!(format!("0.{}1", "0".repeat(400))));
    for (name, valid, invalid) in [
        ("device", texts("auto|cpu|cuda|cuda:0|cuda:999"), texts("|cuda:|cuda:+1|cuda:1000|CPU|cpu |cuda:1\n")),
        (
            "output_size",
            texts("1x1|9x8192|8192x10|8191x8189|8099x7999|999x1000"),
            [
                texts("9000x480|8193x1|1x8193|8200x1|9999x1|10000x1|0x1|1x0|0640x0480|640x0480|+1x1|1x|x1|1x1x1|1X1"),
                texts("Source| 1x1|1x1\n"),
                vec![json!(640), json!(1.5)],
            ]
            .concat(),
        ),
        (
            "depth_scaling",
            [
                texts("camera_info|none|0.001|0.0010|0.01|0.5|1|1.0|9.99|10.05|999.999|1000|1000.00"),
                numbers(&[0.001, 0.5, 2.5, 1000.0]),
                vec![json!(1), json!(1000)],
            ]
            .concat(),
            [
                texts(
                    "|0|0.0|0.000|0.0009|1e400|1e2|1e-2|.5|+1.5|-1|1.|01.5|00.5|1000.01|1001|1001.0|10000|0x1|inf|nan",
                ),
                texts("None|1.5 |1.5\n"),
                numbers(&[0.0, -1.0, 0.0009, 1000.5, 1e300, 1e-300]),
                vec![json!(0), json!(-1), json!(1001), tiny],
            ]
            .concat(),
        ),
        (
            "roi",
            vec![json!([0, 0, 0, 0]), json!([0, 1, 65_535, 65_535])],
            vec![json!([0, 0, 0]), json!([0, 0, 0, 0, 0]), json!([0, 0, 0, 65_536]), json!([-1, 0, 0, 0])],
        ),
        (
            "cameras",
            lists([texts("a|a_|a9_b"), vec![long(64)]].concat()),
            [
                lists([texts("|_a|9a|a__b|a__|A|a-b|a b|\u{e4}|a\n"), vec![long(65), json!(0)]].concat()),
                vec![json!(["a", "a"]), json!("a")],
            ]
            .concat(),
        ),
        (
            "points.classes",
            [lists(texts("road|traffic light| road|0")), vec![json!([0, 255])]].concat(),
            [lists(texts("| |\t| \n")), vec![json!(["road", " "]), json!([0, -1]), json!([256])]].concat(),
        ),
    ] {
        for (value, expected) in valid.iter().map(|v| (v, true)).chain(invalid.iter().map(|v| (v, false))) {
            let file = with(json!({ name: value }));
            assert_eq!(validator.is_valid(&file), expected, "the schema on {file}");
            assert_eq!(node_takes(&file).is_ok(), expected, "the node on {file}: {:?}", node_takes(&file));
        }
    }
}

#[test]
fn node_and_schema_refuse_the_same() {
    let validator = validator();
    for parameters in [
        // Misspelt.
        json!({ "overlay_opasity": 0.5 }),
        json!({ "outputs": { "lables": true } }),
        json!({ "outputs.lables": true }),
        json!({ "output": { "labels": true } }),
        json!({ "cameras": ["front"], "front": { "rio": [0, 0, 8, 8] } }),
        json!({ "cameras": ["front"], "front.rio": [0, 0, 8, 8] }),
        json!({ "cameras": ["front"], "front": { "device": "cpu" } }),
        json!({ "cameras": ["front"], "front": { "outputs": { "lables": true } } }),
        json!({ "qos_override": { "/a": { "publisher": { "depth": 1 } } } }),
        json!({ "qos_overrides": { "/a": { "publishr": { "depth": 1 } } } }),
        json!({ "qos_overrides": { "/a": { "publisher": { "dept": 1 } } } }),
        // A wrong type.
        json!({ "overlay_opacity": "half" }),
        json!({ "device": 0 }),
        json!({ "autostart": "true" }),
        json!({ "png_level": 1.5 }),
        json!({ "cameras": "front" }),
        json!({ "outputs": true }),
        // Out of range.
        json!({ "overlay_opacity": 1.5 }),
        json!({ "png_level": 0 }),
        json!({ "num_threads": 257 }),
        json!({ "precision": "int8" }),
        json!({ "output_size": "640" }),
        json!({ "depth_scaling": 0 }),
        json!({ "roi": [0, 0, 8] }),
        json!({ "roi": [0, 0, 8, -8] }),
        json!({ "mask": { "free_classes": vec!["road"; 257] } }),
        json!({ "points": { "classes": vec![0; 257] } }),
        json!({ "cameras": ["Front"] }),
        json!({ "cameras": ["a__b"] }),
        json!({ "cameras": ["a__b"], "a__b": { "roi": [0, 0, 8, 8] } }),
        json!({ "cameras": ["front", "front"] }),
        json!({ "cameras": ["points"] }),
        json!({ "qos_overrides": { "/a": { "publisher": { "depth": 0 } } } }),
        json!({ "qos_overrides": { "a": { "publisher": { "depth": 1 } } } }),
    ] {
        let file = with(parameters);
        assert!(!validator.is_valid(&file), "the schema takes {file}");
        assert!(node_takes(&file).is_err(), "the node takes {file}");
    }
    // rcl has no such lists.
    assert!(!validator.is_valid(&with(json!({ "points": { "classes": ["road", 1] } }))));
    assert!(!validator.is_valid(&json!({ "/**": { "ros_parameters": {} } })));
    assert!(!validator.is_valid(&json!({ "/**": {} })));
    assert!(validator.is_valid(&json!({ "/front/semantic_depth": { "ros__parameters": {} } })));
}

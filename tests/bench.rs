//! `semantic_depth bench`, the program itself, on a small network of random weights. Nothing here is about how long
//! anything takes.

use semantic_depth::bench::versions;
use semantic_depth::export::trace::export;
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tch::{Kind, Tensor};

mod small_model;

const TOOL: &str = env!("CARGO_BIN_EXE_semantic_depth");

/// A model folder, made once.
fn model() -> PathBuf {
    static ONCE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let place = ONCE.get_or_init(|| {
        let place = tempfile::tempdir().expect("a folder");
        let request = small_model::request(small_model::random_weights(place.path()), (96, 64));
        export(&request, &place.path().join("model")).expect("exported");
        place
    });
    place.path().join("model")
}

fn bench(model: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(TOOL);
    command.args(["bench", "--device", "cpu", "--model"]).arg(model).args(more);
    command.output().expect("the program starts")
}

fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path).unwrap_or_else(|| panic!("no {path} in {value:#}"));
    found.as_f64().unwrap_or_else(|| panic!("{path} is no number: {found}"))
}

/// Counts, and the order that percentiles have.
fn check_spread(report: &Value, path: &str, count: f64) {
    let at = |name: &str| number(report, &format!("{path}/{name}"));
    assert_eq!(at("count"), count, "{path}");
    let ordered = [at("min"), at("p50"), at("p95"), at("p99"), at("max")];
    assert!(ordered.is_sorted() && ordered[0] >= 0.0, "{path}: {ordered:?}");
    assert!((at("min")..=at("max")).contains(&at("mean")) && at("deviation") >= 0.0, "{path}");
}

#[test]
fn frames_of_another_encoding_are_measured_and_one_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("bench.json");
    let with = |encoding: &str, size: &str| {
        let json = json.to_str().expect("UTF-8");
        let more = ["--quick", "--parts", "frames", "--encoding", encoding, "--frame-size", size, "--json", json];
        bench(&model(), &more)
    };
    for encoding in ["bayer_grbg16", "nv12", "mono8"] {
        let output = with(encoding, "320x160");
        assert!(output.status.success(), "{encoding}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("a frame, 320x160 {encoding} in")));
        let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("the file")).expect("JSON");
        assert_eq!(report["frames"]["encoding"], encoding);
        assert!(number(&report, "/frames/whole/wall_ms/count") > 0.0);
    }
    for (encoding, size, code, words) in [
        ("nv12", "320x161", 1, "an even width and height, but this one is 320x161"),
        ("nv21", "320x160", 2, "expected one of mono8"),
    ] {
        let output = with(encoding, size);
        assert_eq!(output.status.code(), Some(code), "{encoding}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(words) && !error.contains("panicked"), "{error}");
    }
}

#[test]
fn everything_is_measured_and_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let (json, answer) = (folder.path().join("bench.json"), folder.path().join("answer.safetensors"));
    let more = [
        "--quick",
        "--threads",
        "1",
        "--frame-size",
        "320x160",
        "--frames",
        "30",
        "--json",
        json.to_str().expect("UTF-8"),
        "--save-answer",
        answer.to_str().expect("UTF-8"),
    ];
    let output = bench(&model(), &more);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in
        ["network alone, 96x64", "a frame, 320x160 rgb8", "several cameras", "energy", "other sizes", "ceilings"]
    {
        assert!(text.contains(part), "no '{part}' in:\n{text}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("the file")).expect("JSON");

    let about = &report["about"];
    assert!(text.contains(about["date"].as_str().expect("text")), "no date in:\n{text}");
    // The libtorch of this process is the program's.
    let libtorch = versions::libtorch();
    assert_eq!(about["libtorch"].as_str(), libtorch.as_deref());
    assert!(text.contains(&format!("libtorch {}", libtorch.as_deref().unwrap_or("of unknown version"))), "{text}");
    assert!(about["cuda"].is_null(), "it ran on the processor");
    assert_eq!(report["about"]["threads"], 1);
    assert_eq!(report["about"]["device"], "cpu");
    assert!(report["about"]["command"].as_str().expect("text").starts_with("semantic_depth bench --device cpu"));
    assert!(!report["about"]["machine"]["cpu"].as_str().expect("text").is_empty());
    assert_eq!(report["model"]["name"], "small");
    // The manifest that was found, not the word that was typed.
    assert_eq!(report["model"]["path"], model().join("model.yaml").to_str().expect("UTF-8"));
    let artifact = semantic_depth::export::load(&model()).expect("the model");
    assert_eq!(report["model"]["torchscript_sha256"], artifact.manifest.files["network.ts"].as_str());

    for clock in ["wall_ms", "cpu_ms"] {
        check_spread(&report, &format!("/network/host/{clock}"), 5.0);
        check_spread(&report, &format!("/frames/whole/{clock}"), 30.0);
        for row in 0..2 {
            check_spread(&report, &format!("/together/{row}/batch/{clock}"), 2.0);
            check_spread(&report, &format!("/together/{row}/in_turn/{clock}"), 2.0);
            check_spread(&report, &format!("/scaling/{row}/host/{clock}"), 2.0);
        }
    }
    assert!(report["network"]["device"].is_null(), "there is no device beside the processor");
    let stages = report["frames"]["stages"].as_array().expect("stages");
    let names: Vec<_> = stages.iter().map(|s| s["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["decode", "infer", "labels", "depth"]);
    let sum: f64 = stages.iter().map(|s| number(s, "/wall_ms/mean")).sum();
    let whole = number(&report, "/frames/whole/wall_ms/mean");
    // The stages lie within the whole, and are most of it: what is between them is a few checks.
    assert!(sum <= whole && sum >= 0.5 * whole, "stages {sum} of {whole}");
    assert!(number(&report, "/frames/frames_a_second") > 0.0);
    assert_eq!(report["frames"]["memory"]["settled_frame"], 15);
    assert!(number(&report, "/frames/memory/end/peak_bytes") >= number(&report, "/frames/memory/end/now_bytes"));
    let memory = &report["frames"]["memory"];
    assert!(memory["growth_bytes"].is_i64());
    assert_eq!(memory["course_bytes"].as_array().map(Vec::len), Some(15), "every second one of 30 frames");
    assert_eq!(
        (report["together"][0]["cameras"].as_u64(), report["together"][1]["cameras"].as_u64()),
        (Some(1), Some(2))
    );
    // One or the other, and never a figure without a source.
    assert_ne!(report["energy"].is_null(), report["energy_unreadable"].is_null());
    if let Some(reasons) = report["energy_unreadable"].as_array() {
        assert!(!reasons.is_empty() && reasons.iter().all(|r| !r.as_str().expect("text").is_empty()));
    }
    assert_eq!(number(&report, "/scaling/1/width"), 256.0);
    assert!(number(&report, "/scaling/1/macs") > 3.9 * number(&report, "/scaling/0/macs"));
    for key in ["copy_gb_s", "product_gflop_s"] {
        assert!(number(&report, &format!("/ceilings/{key}")) > 0.0, "{key}");
    }
    let (ms, gflop_s) = (number(&report, "/reached/ms"), number(&report, "/reached/gflop_s"));
    let macs = number(&report, "/reached/macs");
    assert!((gflop_s * ms * 1e6 / (2.0 * macs) - 1.0).abs() < 1e-6);
    assert_eq!(ms, number(&report, "/network/host/wall_ms/p50"));

    // The answer is that of the network, decoded by the manifest.
    let tensors: std::collections::HashMap<_, _> =
        Tensor::read_safetensors(&answer).expect("the answer").into_iter().collect();
    let (image, labels, depth_m) = (&tensors["image"], &tensors["labels"], &tensors["depth_m"]);
    assert_eq!((image.size(), labels.size(), depth_m.size()), (vec![64, 96, 3], vec![64, 96], vec![64, 96]));
    let input = &artifact.manifest.input;
    let of = |v: [f32; 3]| Tensor::from_slice(&v);
    let x = (image.to_kind(Kind::Float) / 255.0 - of(input.mean)) / of(input.std);
    let module = artifact.load_module().expect("the module");
    let packed = module.forward_ts(&[x.permute([2, 0, 1]).unsqueeze(0)]).expect("it runs");
    // Its answer stays at the heads' resolution; outputs are interpolated from it.
    let packed = packed.upsample_bilinear2d([64, 96], false, None, None);
    let depth = artifact.manifest.output.depth.as_ref().expect("it answers depth");
    let expected = (packed.select(1, 20) * f64::from(depth.scale)).exp().clamp(0.0, f64::from(depth.max_m));
    let relative = ((expected.squeeze() - depth_m).abs() / depth_m.clamp_min(1e-3)).max().double_value(&[]);
    assert!(relative < 1e-3, "depth differs by {relative}");
    let ids: Vec<u8> = artifact.manifest.classes.iter().map(|c| c.id).collect();
    let best = packed.narrow(1, 0, 20).argmax(1, false).squeeze();
    let expected = Tensor::from_slice(&ids).to_kind(Kind::Int64).index_select(0, &best.view([-1])).view([64, 96]);
    let equal = expected.eq_tensor(&labels.to_kind(Kind::Int64)).to_kind(Kind::Float).mean(Kind::Float);
    assert!(equal.double_value(&[]) > 0.999, "labels equal: {equal:?}");
}

#[test]
fn parts_are_chosen() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("bench.json");
    let output = bench(&model(), &["--quick", "--parts", "network", "--json", json.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("the file")).expect("JSON");
    assert!(report["network"].is_object());
    for part in ["frames", "together", "energy", "energy_unreadable", "scaling", "ceilings", "reached"] {
        assert!(report[part].is_null(), "{part}: {}", report[part]);
    }
}

/// `bench | head`, with a name that is not UTF-8: what was measured is written all the same.
#[test]
fn results_are_written_though_nobody_reads_the_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join(OsStr::from_bytes(b"bench\xff.json"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(TOOL);
    command.args(["bench", "--device", "cpu", "--quick", "--parts", "network", "--model"]).arg(model());
    let output = command.arg("--json").arg(&json).stdout(writer).output().expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !error.contains("panicked"), "{error}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("the file")).expect("JSON");
    assert!(report["network"].is_object() && report["about"]["command"].as_str().is_some_and(|c| c.contains(".json")));
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("none/bench.json");
    let missing = missing.to_str().expect("UTF-8");
    let cases: [(&[&str], &str); 8] = [
        (&["--json", missing], "is not a folder; make it first"),
        (&["--save-answer", missing], "is not a folder; make it first"),
        (&["--repetitions", "0"], "expected 1 to 1000000, found '0'"),
        (&["--cameras", "33"], "expected 1 to 32, found '33'"),
        (&["--energy-seconds", "0"], "expected 0.05 to 3600 seconds, found '0'"),
        (&["--sizes", "64x32,7x7"], "expected WIDTHxHEIGHT"),
        (&["--parts", "speed"], "invalid value 'speed'"),
        (&["--threads", "0"], "0"),
    ];
    for (more, expected) in cases {
        let output = bench(&model(), more);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{more:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
    let output = bench(folder.path(), &["--quick"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("model.yaml"), "{error}");

    // Other sizes are made from the weights, and operations are counted of networks that have them.
    let bare = without_weights(folder.path());
    for parts in ["network,scaling", "network,ceilings"] {
        let output = bench(&bare, &["--quick", "--parts", parts]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("has no weights.safetensors"), "{error}");
        assert!(!error.contains("measuring"), "{error}");
    }
}

/// The model as another program might have made it, in a folder `bare` of this one.
fn without_weights(folder: &Path) -> PathBuf {
    let bare = folder.join("bare");
    std::fs::create_dir(&bare).expect("made");
    for name in ["network.ts", "golden.safetensors"] {
        std::fs::copy(model().join(name), bare.join(name)).expect("copied");
    }
    let text = std::fs::read_to_string(model().join("model.yaml")).expect("the manifest");
    let lines: Vec<_> = text.lines().filter(|l| !l.trim_start().starts_with("weights.safetensors:")).collect();
    std::fs::write(bare.join("model.yaml"), lines.join("\n")).expect("written");
    bare
}

#[test]
fn a_model_without_weights_is_measured_as_far_as_it_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("bench.json");
    let more = ["--quick", "--frame-size", "320x160", "--json", json.to_str().expect("UTF-8")];
    let output = bench(&without_weights(folder.path()), &more);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(error.contains("scaling and ceilings are left out"), "{error}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("the file")).expect("JSON");
    assert!(report["network"].is_object() && report["frames"].is_object() && report["together"].is_array());
    assert!(report["scaling"].is_null() && report["ceilings"].is_null() && report["reached"].is_null());
}

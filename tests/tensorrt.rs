//! The TensorRT path through the tool, on whatever this machine has.
//!
//! What needs NVIDIA's libraries is ignored by default; `./dev test` installs them (scripts/requirements/tensorrt.in) and runs it:
//! `SEMANTIC_DEPTH_TENSORRT_SITE=FOLDER cargo test --release --lib --test tensorrt -- --ignored` (the loader's own such test is
//! in src/tensorrt/libraries.rs).

use semantic_depth::tensorrt::libraries::{self, Library, Surroundings, FOLDERS};
use semantic_depth::tensorrt::{cuda, inspect, load_runtime, RuntimeError};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SITE: &str = "SEMANTIC_DEPTH_TENSORRT_SITE";

fn tool(arguments: &[&str], cache: &Path) -> Output {
    let tool = env!("CARGO_BIN_EXE_semantic_depth");
    Command::new(tool).args(arguments).env("SEMANTIC_DEPTH_CACHE", cache).output().expect("the tool was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The released weights, exported below `folder`.
fn street(folder: &Path) -> String {
    let weights = concat!(env!("CARGO_MANIFEST_DIR"), "/models/street/weights.safetensors");
    let model = folder.join("street").to_string_lossy().into_owned();
    let output = tool(&["export", "--weights", weights, "--focal-length", "565.6", "--out", &model], folder);
    assert!(output.status.success(), "{}", text(&output.stderr));
    model
}

fn has_a_gpu() -> bool {
    cuda::driver().is_ok_and(|driver| !driver.gpus.is_empty())
}

/// `tests/tensorrt/NAME`, which libtorch wrote.
fn archive(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tensorrt").join(name)
}

#[test]
fn archives_of_libtorch_are_described_without_loading_them() {
    let cache = tempfile::tempdir().expect("temporary");
    let file = archive("one_engine.ts");
    assert_eq!(inspect(&file).expect("libtorch wrote it").engines.len(), 1);
    let output = tool(&["doctor", "--engine", &file.to_string_lossy()], cache.path());
    let said = text(&output.stdout);
    for expected in [
        "engine forward_engine in data.pkl: ABI 8, TensorRT 10.15.1.29, Orin (8.7), linux_x86_64, plan of 92 bytes",
        "built on GPU 0; metadata of 8 bytes; output allocator: no; dynamic allocation: no",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    if !has_a_gpu() && cfg!(target_arch = "x86_64") {
        assert!(output.status.success(), "{said}");
        assert!(said.contains("  here: nothing that would be refused; not compared: compute capability"), "{said}");
        assert!(said.contains("there is no CUDA device"), "{said}");
    }

    // Of another ABI: refused everywhere.
    let file = archive("abi7.ts");
    let output = tool(&["doctor", "--engine", &file.to_string_lossy()], cache.path());
    let said = text(&output.stdout);
    let refused =
        format!(": refused: {}: expected an engine of Torch-TensorRT 2.11.0 (ABI 8), found ABI 7", file.display());
    assert!(said.contains(&refused) && said.contains("output allocator: no; dynamic allocation: -"), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    let output = tool(&["doctor", "--json", "--engine", &file.to_string_lossy()], cache.path());
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    assert_eq!(json["engine"]["engines"][0]["abi"], 7);
    assert_eq!(json["engine"]["engines"][0]["allocates_dynamically"], serde_json::Value::Null);
    assert!(json["engine"]["verdicts"][0]["refused"].as_str().is_some_and(|why| why.contains("found ABI 7")), "{json}");

    let output = tool(&["doctor", "--engine", &archive("make.py").to_string_lossy()], cache.path());
    assert!(!output.status.success());
    assert!(text(&output.stdout).contains("it is no zip archive"), "{}", text(&output.stdout));
}

#[test]
fn compiling_without_a_gpu_is_an_error_that_says_so() {
    if has_a_gpu() {
        return; // Here it compiles, or says which library is missing.
    }
    let folder = tempfile::tempdir().expect("temporary");
    let output = tool(&["export", "--tensorrt", "--model", "/nonexistent"], folder.path());
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("/nonexistent"), "{}", text(&output.stderr));

    let elsewhere = tempfile::tempdir().expect("temporary");
    let model = street(elsewhere.path());
    for more in [vec![], vec!["--precision", "fp32", "--batch", "1..4"], vec!["--engine", "x.ts"]] {
        let output = tool(&[&["export", "--tensorrt", "--model", &model], more.as_slice()].concat(), folder.path());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("error: TensorRT needs a CUDA device: "), "{said}");
        assert!(said.contains("set backend to torchscript"), "{said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0, "nothing was cached");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let folder = tempfile::tempdir().expect("temporary");
    for wrong in [
        &["export"][..],
        &["export", "--model", "x"],
        &["export", "--weights", "x"],
        &["export", "--weights", "x", "--out", "y", "--engine", "z"],
        &["export", "--tensorrt", "--model", "x", "--weights", "y", "--out", "z"],
        &["export", "--tensorrt", "--model", "x", "--batch", "4..1"],
        &["export", "--tensorrt", "--model", "x", "--batch", "2..4"],
        &["export", "--tensorrt", "--model", "x", "--batch", "33"],
        &["export", "--tensorrt", "--model", "x", "--precision", "int8"],
    ] {
        let output = tool(wrong, folder.path());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output.stderr));
    }
}

#[test]
fn the_doctor_runs_the_model() {
    let folder = tempfile::tempdir().expect("temporary");
    let model = street(folder.path());
    let output = tool(&["doctor", "--json", "--model", &model], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    // Every way, the best first, which is what the node takes.
    let ways: Vec<_> = ["device", "backend", "precision", "is_auto"]
        .map(|key| {
            json["model"]["checks"].as_array().expect("a list").iter().map(|c| c[key].clone()).collect::<Vec<_>>()
        })
        .into();
    assert_eq!(ways[0][..2], ["cpu", "cpu"]);
    assert_eq!(ways[1][..2], ["native", "torchscript"]);
    assert_eq!(ways[2][..2], ["fp32", "fp32"]);
    assert_eq!(ways[3][..2], [true, false]);
    let check = &json["model"]["checks"][0]["check"];
    assert!(check["golden"]["labels"].as_f64().is_some_and(|share| share < 1e-3), "{check}");
    let output = tool(&["doctor", "--model", &model, "--check", "cpu", "torchscript", "fp32"], folder.path());
    let alone: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    assert_eq!(alone["classes_seen"], check["classes_seen"], "{alone}");
    let output = tool(&["doctor", "--model", &model, "--check", "cpu", "tensorrt", "fp32"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("it needs a CUDA device"), "{}", text(&output.stderr));
    assert!(check["classes_seen"].as_u64().is_some_and(|n| n >= 2), "{check}");
    let depth = |key: &str| check[key].as_f64().expect("a number");
    assert!(
        depth("depth_min_m") < depth("depth_median_m") && depth("depth_median_m") < depth("depth_max_m"),
        "{check}"
    );
    assert_eq!(json["model"]["archive"]["engines"], serde_json::json!([]));
}

#[test]
#[ignore = "needs the wheels of Torch-TensorRT and of TensorRT's lean runtime, see the top of the file"]
fn the_real_libraries_are_found_and_not_loaded_without_a_device() {
    let site = std::env::var(SITE).unwrap_or_else(|_| panic!("{SITE} is not set"));
    let surroundings = Surroundings { folders: Some(site.clone()), ..Surroundings::here() };
    let runtime = surroundings.find(Library::TorchTrtRuntime).expect("in the wheel");
    assert_eq!(runtime.path, Path::new(&site).join("torch_tensorrt/lib/libtorchtrt_runtime.so"));
    assert_eq!(runtime.rule, FOLDERS);
    assert_eq!(libraries::torch_tensorrt_version(&runtime.path).as_deref(), Some("2.11.0"));
    assert!(surroundings.find(Library::TorchTrtc).is_some());

    // The lean runtime answers without a driver; its ABI of functions is the full one's.
    let lean = surroundings.find(Library::NvInferLean).expect("in the wheel");
    let version = libraries::version_of(&lean.path).expect("it loads by itself");
    assert_eq!((version.major, version.minor, version.patch), (10, 15, 1), "{version}");

    // Torch-TensorRT's library asks for libtorch's CUDA half and for the full TensorRT: by itself the loader refuses it.
    let error = libraries::version_of(&runtime.path).expect_err("its libraries are not there");
    assert!(error.contains("cannot open shared object file"), "{error}");
    if !has_a_gpu() {
        let error = load_runtime().expect_err("no device");
        assert!(matches!(error, RuntimeError::NoDevice(_)), "{error}");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
        assert!(!maps.contains("libtorchtrt"), "it was loaded");
    }

    let folder = tempfile::tempdir().expect("temporary");
    let tool = env!("CARGO_BIN_EXE_semantic_depth");
    let output =
        Command::new(tool).arg("doctor").env(FOLDERS, &site).env("SEMANTIC_DEPTH_CACHE", folder.path()).output();
    let said = text(&output.expect("the tool was built").stdout);
    assert!(said.contains("libtorchtrt_runtime.so (2.11.0; SEMANTIC_DEPTH_TENSORRT)"), "{said}");
    assert!(said.contains("libnvinfer_lean.so.10 (10.15.1"), "{said}");
}

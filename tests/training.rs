//! The `train` verb as a user runs it: the whole program, killed and resumed.

use semantic_depth::data::cityscapes::{DepthFiles, LabelFiles};
use semantic_depth::data::source::{Groups, Source};
use semantic_depth::data::street::{CITYSCAPES_FOCAL_PX, CITYSCAPES_WIDTH};
use semantic_depth::train::expert;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tch::Tensor;

const TOOL: &str = env!("CARGO_BIN_EXE_semantic_depth");

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(TOOL);
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    tool(arguments).output().expect("the tool starts")
}

fn ok(arguments: &[&str]) {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A small rendered set and a configuration of two short phases with everything that has a state.
fn prepare(root: &Path) -> PathBuf {
    let data = root.join("data");
    let data = data.to_str().expect("UTF-8");
    ok(&["render", "--out", data, "--splits", "train=3,val=1", "--frames", "2", "--size", "128x64", "--no-stereo"]);
    let config = root.join("config.yaml");
    let text = format!(
        "sources: [{{name: street, data: {{layout: cityscapes, root: {data}}}}}]\n\
         heads: [{{task: segmentation, class_weights: true}}, {{task: depth, weight: 20, loss: berhu}}, \
         {{task: normals}}, {{task: edges, weight: 0.5}}]\n\
         weighting: uncertainty\n\
         augment: {{focal_length_px: 70, vertical_flip: 0.2, rotation_deg: 5, stretch: 1.2, jitter: {{contrast: 0.3, hue: 0.05}}}}\n\
         optimizer: {{name: adamw, weight_decay: 1.0e-4}}\n\
         ema: 0.9\n\
         phases:\n\
         - {{crop: [64, 32], scale: [0.5, 1.0], batch: 2, steps: 10, max_learning_rate: 1.0e-3}}\n\
         - {{crop: [128, 64], scale: [1.0, 1.0], batch: 1, accumulate: 2, epochs: 3, max_learning_rate: 5.0e-4}}\n\
         watch: {{validate_every: 5, checkpoint_every: 1, best: abs_rel, pictures: 1}}\n\
         seed: 7\n"
    );
    std::fs::write(&config, text).expect("written");
    config
}

fn train<'a>(config: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["train", config.to_str().expect("UTF-8"), "--out", out.to_str().expect("UTF-8")];
    arguments.extend(["--device", "cpu", "--threads", "1"]);
    arguments.extend(more);
    arguments
}

/// Steps in the metrics file.
fn rows(out: &Path) -> usize {
    std::fs::read_to_string(out.join("metrics.csv")).map_or(0, |t| t.lines().count().saturating_sub(1))
}

fn kill_when(mut child: Child, ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() && start.elapsed() < Duration::from_secs(120) && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("an end");
}

#[test]
fn killed_at_any_moment_it_resumes_and_ends_with_the_same_weights() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let (whole, killed) = (root.path().join("whole"), root.path().join("killed"));
    ok(&train(&config, &whole, &[]));
    // In the first phase, at its end, and within the second one.
    for (resume, at) in [(false, 1), (true, 2), (true, 3)] {
        let more: &[&str] = if resume { &["--resume"] } else { &[] };
        let child = tool(&train(&config, &killed, more)).stderr(Stdio::null()).spawn().expect("the tool starts");
        kill_when(child, || rows(&killed) >= at);
    }
    let output = run(&train(&config, &killed, &["--resume"]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("going on after step"), "{log}");
    for file in ["last.safetensors", "best.safetensors"] {
        let read = |out: &Path| std::fs::read(out.join(file)).expect(file);
        assert!(read(&whole) == read(&killed), "{file} differs after a resume");
    }
    // The same rows but for what was measured with a clock.
    let steps = |out: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(out.join("metrics.csv")).expect("metrics");
        text.lines().map(|l| l.split(',').take(3).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(steps(&whole), steps(&killed));

    // What camera the frames are of is in the record.
    let record = std::fs::read_to_string(whole.join("run.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let share = record["focal_length_share"].as_f64().expect("one camera");
    let expected = CITYSCAPES_FOCAL_PX / (CITYSCAPES_WIDTH * 1024.0).sqrt();
    assert!((share - expected).abs() < 1e-6 && record["minutes"].is_null(), "{record}");

    // A run is not overwritten, and not resumed with another time or configuration.
    let output = run(&train(&config, &whole, &[]));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--resume"));
    let refused = |minutes: &str| {
        let output = run(&train(&config, &whole, &["--resume", minutes]));
        assert!(!output.status.success(), "{minutes}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let log = refused("--minutes=60");
    assert!(log.contains("begun without --minutes") && log.contains("with --minutes 60"), "{log}");
    let output = run(&train(&config, &root.path().join("none"), &["--minutes=1e-12"]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("over before the first step"), "{log}");
    for minutes in ["--minutes=0", "--minutes=-5"] {
        let log = refused(minutes);
        assert!(log.contains("a number above 0"), "{log}");
    }
    let text = std::fs::read_to_string(&config).expect("read").replace("seed: 7", "seed: 8");
    std::fs::write(&config, text).expect("written");
    let output = run(&train(&config, &whole, &["--resume"]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("'seed: 7' there, 'seed: 8' now"), "{log}");
    // Whatever the record leaves out because it has a default.
    let record = whole.join("config.yaml");
    let text = std::fs::read_to_string(&record).expect("read").replace("extra_light: false\n", "");
    std::fs::write(&record, text).expect("written");
    let output = run(&train(&config, &whole, &["--resume"]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("'seed: 7' there, 'seed: 8' now"), "{log}");
}

#[test]
fn a_run_resumes_without_the_weights_that_it_started_from() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let [first, whole, killed] = ["first", "whole", "killed"].map(|name| root.path().join(name));
    let short = "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 1, max_learning_rate: 1.0e-3}]";
    ok(&train(&config, &first, &["--set", short]));
    let start = first.join("last.safetensors");
    let init = ["--init", start.to_str().expect("UTF-8")];
    ok(&train(&config, &whole, &init));
    let child = tool(&train(&config, &killed, &init)).stderr(Stdio::null()).spawn().expect("the tool starts");
    kill_when(child, || rows(&killed) >= 1);
    std::fs::remove_file(&start).expect("removed");
    let output = run(&train(&config, &killed, &[&init[..], &["--resume"]].concat()));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("going on after step"), "{log}");
    assert!(!log.contains("start at random"), "{log}");
    let read = |out: &Path| std::fs::read(out.join("last.safetensors")).expect("weights");
    assert!(read(&whole) == read(&killed), "the checkpoint has all that the run needs");
}

/// What a look has kept as the best is known to whatever goes on after it.
#[test]
fn a_look_is_followed_by_a_checkpoint() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let out = root.path().join("out");
    let phases = "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 100000, max_learning_rate: 1.0e-3}]";
    let changes = ["--set", phases, "--set", "watch.validate_every=2", "--set", "watch.checkpoint_every=100000"];
    let child = tool(&train(&config, &out, &changes)).stderr(Stdio::null()).spawn().expect("the tool starts");
    let checkpoint = out.join("checkpoint.safetensors");
    // There is one before the first look, too, which knows of none.
    kill_when(child, || rows(&out) >= 2);
    let tensors = tch::Tensor::read_safetensors(&checkpoint).expect("a checkpoint");
    let (_, progress) = tensors.into_iter().find(|(name, _)| name == "progress").expect("how far it is");
    let text = Vec::<u8>::try_from(progress).expect("bytes");
    let progress: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert!(progress["best"].is_f64() && progress["looked"] == progress["total"], "{progress}");
}

/// What `export` takes from beside weights is of the run that made them.
#[test]
fn weights_keep_the_record_of_their_run() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let out = root.path().join("out");
    let short = "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 1, max_learning_rate: 1.0e-3}]";
    // Nothing is left of a run that has no data, so that it can be begun as soon as it has some.
    let nowhere = ["--set", short, "--data", "street=/nowhere"];
    assert!(!run(&train(&config, &out, &nowhere)).status.success());
    assert!(!out.exists(), "it was made for nothing");
    ok(&train(&config, &out, &["--set", short]));
    std::fs::remove_file(out.join("checkpoint.safetensors")).expect("removed");
    let record = || ["config.yaml", "run.json"].map(|name| std::fs::read(out.join(name)).expect(name));
    let before = record();
    for weights in ["best.safetensors", "last.safetensors"] {
        for resume in [&[][..], &["--resume"]] {
            let output = run(&train(&config, &out, &[&["--set", "augment.focal_length_px=565.6"], resume].concat()));
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && log.contains("weights of a run") && log.contains(weights), "{log}");
            assert!(record() == before, "the record of the weights is another run's");
        }
        std::fs::remove_file(out.join(weights)).expect("removed");
    }
    ok(&train(&config, &out, &["--set", short, "--resume"]));
}

/// As in `a_look_is_followed_by_a_checkpoint`, but killed between the weights of the first look and its checkpoint.
#[test]
fn killed_in_its_first_look_it_resumes() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let [whole, killed] = ["whole", "killed"].map(|name| root.path().join(name));
    let phases = "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 5, max_learning_rate: 1.0e-3}]";
    let changes = ["--set", phases, "--set", "watch.validate_every=2", "--set", "watch.checkpoint_every=100000"];
    ok(&train(&config, &whole, &changes));
    let child = tool(&train(&config, &killed, &changes)).stderr(Stdio::null()).spawn().expect("the tool starts");
    kill_when(child, || killed.join("checkpoint.safetensors").is_file());
    ok(&train(&config, &killed, &[&changes[..], &["--resume"]].concat()));
    for file in ["last.safetensors", "best.safetensors"] {
        let read = |out: &Path| std::fs::read(out.join(file)).expect(file);
        assert!(read(&whole) == read(&killed), "{file} differs after a resume");
    }
    let looks = |out: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(out.join("metrics.csv")).expect("metrics");
        text.lines().filter(|line| line.split(',').nth(2) == Some("")).map(String::from).collect()
    };
    assert_eq!(looks(&whole), looks(&killed));
}

/// A bit of the disk has changed: without a checksum it would go on in the weights.
#[test]
fn a_damaged_checkpoint_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let out = root.path().join("out");
    ok(&train(&config, &out, &[]));
    let checkpoint = out.join("checkpoint.safetensors");
    let whole = std::fs::read(&checkpoint).expect("a checkpoint");
    for at in [whole.len() / 3, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&checkpoint, &damaged).expect("written");
        let output = run(&train(&config, &out, &["--resume"]));
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "byte {at}: {log}");
        assert!(log.contains("is damaged: expected the checksum") && log.contains("--init"), "byte {at}: {log}");
    }
    std::fs::write(&checkpoint, &whole).expect("written");
    ok(&train(&config, &out, &["--resume"]));
}

/// No file may grow beyond 1 MiB, which is less than the weights need, and as on a full disk no signal tells of it.
#[test]
fn a_full_disk_ends_the_run_with_the_reason_and_leaves_the_last_good_state() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let out = root.path().join("out");
    let checkpoint = out.join("checkpoint.safetensors");
    let child = tool(&train(&config, &out, &[])).stderr(Stdio::null()).spawn().expect("the tool starts");
    kill_when(child, || checkpoint.is_file());
    let before = std::fs::read(&checkpoint).expect("a checkpoint");
    let parts = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&out).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "partial")).collect()
    };
    // What was being written when it was killed.
    parts().iter().for_each(|path| std::fs::remove_file(path).expect("removed"));
    let output = Command::new("bash")
        .args(["-c", r#"ulimit -f 1024; trap "" XFSZ; exec "$0" "$@""#, TOOL])
        .args(train(&config, &out, &["--resume"]))
        .stdin(Stdio::null())
        .output()
        .expect("bash starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains(".safetensors: File too large (os error 27)") && !log.contains("IoError"), "{log}");
    assert!(log.contains("holds the last good state (--resume goes on from it)") && !log.contains("panicked"), "{log}");
    assert!(std::fs::read(&checkpoint).expect("still there") == before, "the checkpoint is another one");
    assert!(parts().is_empty(), "{:?}", parts());
    ok(&train(&config, &out, &["--resume"]));
}

/// Exports a run's weights and judges the model.
fn evaluated(root: &Path, out: &Path) -> serde_json::Value {
    let model = out.join("model");
    let (weights, json) = (out.join("last.safetensors"), out.join("figures.json"));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
    ok(&["export", "--weights", &text(&weights), "--size", "128x64", "--out", &text(&model)]);
    let data = text(&root.join("data"));
    ok(&["evaluate", "--model", &text(&model), "--data", &data, "--split", "val", "--json", &text(&json)]);
    serde_json::from_str(&std::fs::read_to_string(json).expect("figures")).expect("JSON")
}

#[test]
fn further_heads_and_other_label_spaces_become_models() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let four = root.path().join("four");
    ok(&train(&config, &four, &[]));
    let figures = evaluated(root.path(), &four);
    assert_eq!(figures["iou"].as_array().expect("a list").len(), 19);
    let manifest = std::fs::read_to_string(four.join("model/model.yaml")).expect("a manifest");
    let degrees = figures["normals"]["mean_deg"].as_f64().expect("a number");
    assert!((0.0..120.0).contains(&degrees), "{degrees}");
    // The edges only helped training; the focal length is the run's own.
    assert!(manifest.contains("normals_channel: 21") && !manifest.contains("edges"), "{manifest}");
    assert!(manifest.contains("focal_length_px: 70"), "{manifest}");

    // What a source lacks, a trained model answers.
    let expert = format!("sources.0.expert={}", four.join("model").display());
    let distilled = root.path().join("distilled");
    let changes = ["--set", "sources.0.data.depth=none", "--set", &expert, "--set", "watch.best=miou"];
    let output = run(&train(&config, &distilled, &changes));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("6 frames completed by semantic_depth"), "{log}");
    assert!(log.contains("source street: what 6 frames lack is completed by semantic_depth"), "{log}");
    let metrics = std::fs::read_to_string(distilled.join("metrics.csv")).expect("metrics");
    assert!(!metrics.contains("NaN") && metrics.contains("loss_depth"), "{metrics}");

    // It sees the whole picture: rows that the source leaves out change nothing of the others.
    let completed = |run: &Path, remove_bottom: f64| {
        let (labels, depth) = (LabelFiles::default(), DepthFiles::None);
        let data = Source::Cityscapes { root: root.path().join("data"), labels, depth, remove_bottom };
        let items = data.index("val", &mut Groups::default()).expect("an index");
        expert::decode(&items, &run.join("model"), "street").expect("completed").swap_remove(0)
    };
    let (whole, cut) = (completed(&four, 0.0), completed(&four, 0.25));
    assert_eq!((whole.height, cut.height), (64, 48));
    let (whole_m, cut_m) = (whole.depth_m.expect("depth"), cut.depth_m.expect("depth"));
    assert_eq!(cut_m.len(), 48 * 128);
    assert!(whole_m.iter().zip(&cut_m).all(|(a, b)| (a - b).abs() <= 1e-4 * a), "metres differ");

    let seven = root.path().join("seven");
    ok(&train(
        &config,
        &seven,
        &["--set", "label_space=categories", "--set", "heads=[{task: segmentation}, {task: depth}]"],
    ));
    let figures = evaluated(root.path(), &seven);
    assert_eq!(figures["iou"].as_array().expect("a list").len(), 7);
    assert!(figures["depth"]["abs_rel"].as_f64().expect("a number") > 0.0);

    // From a network of other classes: a new head for these.
    let categories = root.path().join("categories");
    let (init, short) = (
        four.join("last.safetensors").display().to_string(),
        "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 1, max_learning_rate: 1.0e-3}]",
    );
    let to_seven = ["--set", "label_space=categories", "--set", short, "--init", &init];
    let output = run(&train(&config, &categories, &to_seven));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && log.contains("has 20 classes and this network's 8: the head starts at"),
        "{log}"
    );
    // A refinement alone would refine what nobody has taught.
    let alone = [&to_seven[..], &["--set", "refinement=alone", "--set", "heads=[{task: segmentation}, {task: depth}]"]];
    let output = run(&train(&config, &root.path().join("unlearned"), &alone.concat()));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("refinement: alone refines what trained weights answer"), "{log}");
    let checkpoint = four.join("checkpoint.safetensors").display().to_string();
    let output = run(&["export", "--weights", &checkpoint, "--out", "unused"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("last.safetensors or best.safetensors beside it"), "{log}");

    // From a network of other heads: what fits is taken over.
    let one = root.path().join("one");
    let init = four.join("last.safetensors");
    fn text(path: &Path) -> &str {
        path.to_str().expect("UTF-8")
    }
    let output = run(&train(&config, &one, &["--set", "heads=[{task: depth}]", "--init", text(&init)]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("0 variables start at random"), "{log}");
    // It is a model like others, and judged by what it answers.
    let figures = evaluated(root.path(), &one);
    assert!(figures["segmentation"].is_null() && figures["iou"].as_array().is_some_and(Vec::is_empty), "{figures}");
    assert!(figures["depth"]["abs_rel"].as_f64().expect("a number") > 0.0);
    assert!(figures["depth_detail"]["by_class"].as_array().is_some_and(|classes| !classes.is_empty()), "{figures}");
    assert!(completed(&one, 0.0).depth_m.is_some(), "an expert answers what it can");
    let weights = one.join("last.safetensors");
    let output = run(&["export", "--weights", text(&weights), "--refinement", text(&init), "--out", "unused"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("reads segmentation and depth, and these have one head"), "{log}");
    let classes = root.path().join("classes");
    let alone = ["--set", "heads=[{task: segmentation}]", "--set", "watch.best=miou", "--init", text(&init)];
    ok(&train(&config, &classes, &alone));
    // Of a depth that is not there nothing is said, wherever the weights are.
    let bare = root.path().join("bare/weights.safetensors");
    std::fs::create_dir(root.path().join("bare")).expect("a folder");
    std::fs::copy(classes.join("last.safetensors"), &bare).expect("copied");
    let (model, without) = (root.path().join("model"), "what focal length the depth of");
    let export =
        |weights: &Path| run(&["export", "--weights", text(weights), "--size", "64x32", "--out", text(&model)]);
    let output = export(&bare);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !log.contains(without), "{log}");
    std::fs::copy(one.join("last.safetensors"), &bare).expect("copied");
    assert!(String::from_utf8_lossy(&export(&bare).stderr).contains(without));
    let figures = evaluated(root.path(), &classes);
    assert!(figures["depth"].is_null() && figures["miou"].as_f64().is_some_and(|miou| miou > 0.0), "{figures}");
    assert!(completed(&classes, 0.0).depth_m.is_none(), "an expert answers no more than it can");
    // Weights of which nothing could be published.
    let mut tensors = Tensor::read_safetensors(&init).expect("weights");
    tensors.retain(|(name, _)| !["seg", "depth"].iter().any(|head| name.contains(&format!("decoder.{head}."))));
    let weights = root.path().join("normals.safetensors");
    Tensor::write_safetensors(&tensors, &weights).expect("written");
    let output = run(&["export", "--weights", text(&weights), "--out", "unused"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("no segmentation head in them, and no depth head"), "{log}");

    // Without camera files depth cannot be consistent with the scale, but for an expert's, which brings its own camera.
    std::fs::remove_dir_all(root.path().join("data/camera")).expect("removed");
    let short = "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 1, max_learning_rate: 1.0e-3}]";
    let output = run(&train(&config, &root.path().join("no_camera"), &["--set", short]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("2 of 2 frames with depth have no focal length"), "{log}");
    assert!(log.contains("split val"), "these are looked at before all training frames: {log}");
    let taught = root.path().join("taught");
    let output = run(&train(&config, &taught, &[&changes[..], &["--set", short]].concat()));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("decoded frames stay in memory (its expert)"), "{log}");
    let record = std::fs::read_to_string(taught.join("run.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    // The expert's input is as large as the frames, its focal length 70 pixels.
    let share = record["focal_length_share"].as_f64().expect("a camera");
    assert!((share - 70.0 / (128.0_f64 * 64.0).sqrt()).abs() < 1e-6, "{record}");
    // One that answers classes alone gives no depth, so that none needs a camera, and none is learned.
    let expert = format!("sources.0.expert={}", classes.join("model").display());
    let changes = ["--set", "sources.0.data.labels=none", "--set", "sources.0.data.depth=none", "--set", &expert];
    let output = run(&train(&config, &root.path().join("shown"), &[&changes[..], &["--set", short]].concat()));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("no training frame has truth for depth"), "{log}");
    assert!(!log.contains("no training frame has truth for segmentation"), "{log}");
}

/// Its schedule and what each crop is of would jump.
#[test]
fn a_run_is_resumed_with_the_data_that_it_was_begun_with() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let out = root.path().join("out");
    let short = "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 1, max_learning_rate: 1.0e-3}]";
    ok(&train(&config, &out, &["--set", short]));
    let resume = || run(&train(&config, &out, &["--set", short, "--resume"]));
    assert!(resume().status.success(), "the same data");
    let record = out.join("run.json");
    let begun = std::fs::read(&record).expect("a record");
    let data = root.path().join("data");
    let add =
        ["render", "--out", data.to_str().expect("UTF-8"), "--splits", "train=4", "--frames", "2", "--size", "128x64"];
    ok(&[&add[..], &["--no-stereo", "--add"]].concat());
    let output = resume();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("source street: 6 training frames then, 8 now"), "{log}");
    assert!(std::fs::read(&record).expect("a record") == begun, "a refused run leaves its record");
    // A run of an older version says nothing of it.
    let mut older: serde_json::Value = serde_json::from_slice(&begun).expect("JSON");
    older.as_object_mut().and_then(|keys| keys.remove("data")).expect("what the data are");
    std::fs::write(&record, older.to_string()).expect("written");
    assert!(resume().status.success());
}

/// A frame breaks while a run is under way that has not looked yet.
#[test]
fn a_run_that_ends_at_a_broken_frame_says_how_to_go_on() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let [out, anew] = ["out", "anew"].map(|name| root.path().join(name));
    let phases = "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 100000, max_learning_rate: 1.0e-3}]";
    let long = ["--set", phases, "--set", "watch.validate_every=100000"];
    let short = "phases=[{crop: [64, 32], scale: [0.5, 1.0], batch: 1, steps: 1, max_learning_rate: 1.0e-3}]";
    let checkpoint = out.join("checkpoint.safetensors");
    let child = tool(&train(&config, &out, &long)).stderr(Stdio::piped()).spawn().expect("the tool starts");
    let start = Instant::now();
    while !checkpoint.is_file() && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let is_picture = |path: &PathBuf| path.to_string_lossy().ends_with("_leftImg8bit.png");
    let frame = files_below(&root.path().join("data/leftImg8bit/train")).into_iter().find(is_picture);
    let frame = &frame.expect("a frame to train on");
    std::fs::write(frame, "broken").expect("written");
    let output = child.wait_with_output().expect("an end");
    let log = String::from_utf8_lossy(&output.stderr);
    let first = format!("holds the last good state (mend or replace {} first: --resume", frame.display());
    assert!(!output.status.success() && log.contains(&first), "{log}");
    assert!(!out.join("last.safetensors").exists(), "it has not looked");

    // Without the frame the data are others: what is named to begin anew from is there, and may be begun from.
    std::fs::remove_file(frame).expect("removed");
    let output = run(&train(&config, &out, &[&long[..], &["--resume"]].concat()));
    let log = String::from_utf8_lossy(&output.stderr);
    let init = checkpoint.to_str().expect("UTF-8");
    assert!(!output.status.success() && log.contains(&format!("with --init {init} from its weights")), "{log}");
    let output = run(&train(&config, &anew, &["--set", short, "--init", init]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains(&format!("starting from {init}; 0 variables")), "{log}");
    let output = run(&["export", "--weights", init, "--out", "unused"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("a training's checkpoint, which `train` takes"), "{log}");
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_data_set_that_is_not_there_is_told_with_the_option_for_it() {
    let root = tempfile::tempdir().expect("a folder");
    let config = root.path().join("config.yaml");
    let said = |sources: &str| {
        let phase = "{crop: [32, 32], scale: [1, 1], batch: 1, steps: 1, max_learning_rate: 1e-3}";
        std::fs::write(&config, format!("sources: [{sources}]\nphases: [{phase}]\n")).expect("written");
        let output = run(&train(&config, &root.path().join("run"), &[]));
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let one = "{name: a, data: {layout: cityscapes, root: nowhere}}";
    let error = said(one);
    let expected =
        "nowhere is not there: expected the root of a data set in the Cityscapes layout (--data PATH says where it is)";
    assert!(error.contains(expected), "{error}");
    let error = said(&format!("{one}, {{name: b, data: {{layout: cityscapes, root: nowhere}}}}"));
    assert!(error.contains("(--data a=PATH says where it is)"), "{error}");
}

/// Steps of two phases take different times: how far the run is follows from the pixels that they compute.
#[test]
fn a_line_of_the_log_names_the_phase_and_is_of_the_whole_run() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let output = run(&train(&config, &root.path().join("out"), &["--set", "phases.0.steps=20"]));
    let log = String::from_utf8_lossy(&output.stderr);
    // 20 steps of 2 crops of 64x32, and then 9 of 2 of 128x64.
    assert!(output.status.success() && log.contains("step 20  phase 1 of 2  35.7%  segmentation "), "{log}");
}

/// The data may take minutes to prepare, so what else is to be read is looked at before.
#[test]
fn a_file_that_is_misspelt_is_told_before_the_data_is_read() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let out = root.path().join("out");
    let init = (["--init", "/nowhere/weights"], "weights /nowhere/weights: No such file");
    let expert = (["--set", "sources.0.expert=/nowhere/model"], "expert /nowhere/model: there is no model");
    for (more, said) in [init, expert] {
        for data in ["street=/nowhere/data", root.path().join("data").to_str().expect("UTF-8")] {
            let output = run(&train(&config, &out, &[&["--data", data][..], &more].concat()));
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && log.contains(said), "{log}");
            assert!(!log.contains("/nowhere/data") && !log.contains("data read in"), "{log}");
            assert!(!out.exists(), "nothing was written");
        }
    }
}

#[test]
fn a_folder_has_one_training_at_a_time() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let out = root.path().join("run");
    std::fs::create_dir(&out).expect("a folder");
    let held = std::fs::File::open(&out).expect("it opens");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    for resume in [&["--resume"][..], &[]] {
        let output = run(&train(&config, &out, resume));
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains("is in use by another training"), "{log}");
        assert_eq!(std::fs::read_dir(&out).expect("a list").count(), 0, "nothing was written");
    }
}

/// The network's answers stay what they were, but for the depth: its labels to the last bit.
#[test]
fn a_refinement_learns_alone_and_is_exported_with_what_it_refines() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
    let heads = "heads=[{task: segmentation}, {task: depth, loss: relative}]";
    let (plain, refined) = (root.path().join("plain"), root.path().join("refined"));
    ok(&train(&config, &plain, &["--set", heads]));
    let before = evaluated(root.path(), &plain);

    let weights = text(&plain.join("last.safetensors"));
    let changes = ["--set", heads, "--set", "refinement=alone", "--set", "phases.0.max_learning_rate=1e-2"];
    let output = run(&train(&config, &refined, &changes));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("expected its weights (--init FILE)"), "{log}");
    ok(&train(&config, &refined, &[&changes[..], &["--init", &weights]].concat()));
    let learned = text(&refined.join("last.safetensors"));
    let names: Vec<String> =
        tch::Tensor::read_safetensors(&learned).expect("weights").into_iter().map(|(name, _)| name).collect();
    assert!(names.len() == 20 && names.iter().all(|name| name.starts_with("refinement.")), "{names:?}");

    let (model, json) = (text(&refined.join("model")), text(&refined.join("figures.json")));
    let export = |weights: &str, refinement: &str| {
        run(&["export", "--weights", weights, "--refinement", refinement, "--size", "128x64", "--out", &model])
    };
    let output = export(&weights, &weights);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("no refinement in it"), "{log}");
    let output = export(&learned, &learned);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("a refinement alone"), "{log}");
    let output = export(&weights, &learned);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest = std::fs::read_to_string(refined.join("model/model.yaml")).expect("a manifest");
    assert!(manifest.contains("refine_depth: true") && manifest.contains("refinement_sha256: "), "{manifest}");
    let data = text(&root.path().join("data"));
    let evaluate = |backend: &str| {
        let model = ["evaluate", "--model", &model, "--data", &data, "--split", "val", "--json", &json];
        ok(&[&model[..], &["--backend", backend]].concat());
        let figures = std::fs::read_to_string(&json).expect("figures");
        serde_json::from_str::<serde_json::Value>(&figures).expect("JSON")
    };
    let abs_rel = |figures: &serde_json::Value| figures["depth"]["abs_rel"].as_f64().expect("a number");
    let after = evaluate("native");
    assert_eq!(before["iou"], after["iou"]);
    assert!((abs_rel(&before) - abs_rel(&after)).abs() > 1e-4, "it changes the depth");
    assert!((abs_rel(&evaluate("torchscript")) - abs_rel(&after)).abs() < 1e-4);
}

#[test]
fn weights_that_learned_with_a_refinement_are_exported_with_and_without_it() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let heads = "heads=[{task: segmentation}, {task: depth, loss: relative, level_weight: 0.3}]";
    let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
    let run = |name: &str, changes: &[&str]| {
        ok(&train(&config, &root.path().join(name), &[&["--set", heads, "--set"], changes].concat()));
        text(&root.path().join(name).join("last.safetensors"))
    };
    let first = run("first", &["refinement=none"]);
    let refinement = run("refinement", &["refinement=alone", "--init", &first]);
    run("run", &["refinement=joint", "--init", &first, "--init", &refinement]);
    let used = std::fs::read_to_string(root.path().join("run/config.yaml")).expect("the run's configuration");
    assert!(used.contains("first/last.safetensors") && used.contains("refinement/last.safetensors"), "{used}");
    let (weights, model) = (text(&root.path().join("run/last.safetensors")), root.path().join("model"));
    for (more, is_refined) in [(&[][..], true), (&["--refinement", "none"], false), (&["--refinement", &weights], true)]
    {
        let export = ["export", "--weights", &weights, "--size", "128x64", "--out", &text(&model)];
        ok(&[&export[..], more].concat());
        let artifact = semantic_depth::export::load(&model).expect("a model");
        assert_eq!(artifact.manifest.network.refine_depth, is_refined, "{more:?}");
    }
}

#[test]
fn an_exploding_loss_ends_the_run_with_the_reason() {
    let root = tempfile::tempdir().expect("a folder");
    let config = prepare(root.path());
    let text = std::fs::read_to_string(&config).expect("read");
    let text = text.replace("max_learning_rate: 1.0e-3", "max_learning_rate: 1.0e+30").replace("adamw", "adam");
    std::fs::write(&config, text).expect("written");
    let out = root.path().join("out");
    let output = run(&train(&config, &out, &[]));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("a lower max_learning_rate"), "{log}");
    assert!(log.contains("last good state") || log.contains("no checkpoint"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    // What was kept before it is whole: the run can go on from it with a lower rate.
    let kept = out.join("checkpoint.safetensors");
    if kept.is_file() {
        let broken = tch::Tensor::read_safetensors(kept)
            .expect("a checkpoint")
            .into_iter()
            .find(|(name, t)| name.starts_with("network/") && t.isfinite().all().int64_value(&[]) == 0);
        assert!(broken.is_none(), "{broken:?}");
    }
}

//! `semantic_depth depth` on rendered stereo pairs: both ways, both teachers, and their table.

use clap::Parser as _;
use semantic_depth::cli::Cli;
use semantic_depth::data::cityscapes::{ReadOptions, Sample};
use std::path::Path;

fn tool(words: &[&str]) -> Result<(), String> {
    let words = std::iter::once("semantic_depth").chain(words.iter().copied());
    Cli::try_parse_from(words).map_err(|e| e.to_string())?.run().map_err(|e| format!("{e:#}"))
}

fn figures(path: &Path, folder: &str) -> (f64, f64, f64) {
    let text = std::fs::read_to_string(path).expect("the figures");
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    let rows = json["folders"].as_array().expect("rows");
    let row = rows.iter().find(|r| r["folder"] == folder).expect("the folder's row");
    let number = |key: &str| row[key].as_f64().expect("a number");
    (number("coverage"), number("bad3"), number("abs_rel"))
}

#[test]
fn depth_is_made_and_judged_on_rendered_pairs() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("street");
    let (data, json) = (root.to_str().expect("a path"), folder.path().join("table.json"));
    tool(&["render", "--out", data, "--size", "512x256", "--splits", "val=2", "--frames", "1"]).expect("rendered");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/block_matcher.pt");
    let of = ["--data", data, "--split", "val"];
    let run = |way: &str, more: &[&str]| tool(&[&["depth", way], &of[..], more].concat());
    let preview = folder.path().join("pictures/preview.png");
    let raw = ["--no-crop", "--no-smooth", "--no-inpaint"];
    run("disparity", &[&["--out-folder", "raw"], &raw[..]].concat()).expect("raw");
    run("disparity", &["--out-folder", "cleaned", "--half", "--preview", preview.to_str().expect("a path")])
        .expect("cleaned");
    run("teacher", &["--out-folder", "sgm", "--max-disparity", "64"]).expect("matched");
    run("teacher", &["--out-folder", "sgm_cleaned", "--max-disparity", "64", "--clean"]).expect("matched");
    let network = golden.to_str().expect("a path");
    run("teacher", &["--out-folder", "network", "--teacher", network, "--device", "cpu"]).expect("taught");
    let folders = ["disparity", "raw", "cleaned", "sgm", "sgm_cleaned", "network"];
    let table = [&["--json", json.to_str().expect("a path"), "--folder"], &folders[..]].concat();
    run("compare", &table).expect("compared");

    let (width, height) = image::image_dimensions(&preview).expect("a picture");
    assert_eq!((width, height), (512, 3 * 256 + 12));
    for name in ["disparity", "raw"] {
        let (coverage, bad3, abs_rel) = figures(&json, name);
        assert!(coverage > 0.999 && bad3 == 0.0 && abs_rel < 1e-3, "{name}: {coverage} {bad3} {abs_rel}");
    }
    let (coverage, bad3, abs_rel) = figures(&json, "cleaned");
    assert!((0.6..0.8).contains(&coverage) && bad3 < 0.01 && abs_rel < 0.01, "cleaned: {coverage} {bad3} {abs_rel}");
    let (coverage, bad3, abs_rel) = figures(&json, "sgm");
    assert!(coverage > 0.5 && bad3 < 0.15 && abs_rel < 0.25, "sgm: {coverage} {bad3} {abs_rel}");
    // The network answers everywhere, knows 24 pixels at most, and has no smoothness: better than chance is asked for.
    let (coverage, bad3, _) = figures(&json, "network");
    assert!(coverage > 0.9 && bad3 < 0.7, "network: {coverage} {bad3}");

    // What was made is a source of depth for training.
    let options = ReadOptions { depth: "sgm_cleaned".parse().expect("a folder"), ..ReadOptions::default() };
    let samples = Sample::index(&root, "val", &options).expect("indexed");
    Sample::check_all(&samples, &[]).expect("whole");
    let (depth, ..) = samples[0].read_depth().expect("read");
    assert!(depth.iter().any(|d| d.is_finite()));

    let error = run("teacher", &["--out-folder", "gtFine"]).expect_err("refused");
    assert!(error.contains("choose another name"), "{error}");
    let error = run("teacher", &["--out-folder", "x", "--memory", "1"]).expect_err("refused");
    assert!(error.contains("--memory 1") && error.contains("--paths 5"), "{error}");
    let error = run("compare", &["--folder", "nothing"]).expect_err("refused");
    assert!(error.contains("nothing"), "{error}");
}

/// What would be told only after the work, or never.
#[test]
fn options_that_cannot_be_followed_are_refused_before_the_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("street");
    let data = root.to_str().expect("a path");
    tool(&["render", "--out", data, "--size", "128x64", "--splits", "val=1", "--frames", "1"]).expect("rendered");
    let run = |way: &str, more: &[&str]| {
        tool(&[&["depth", way, "--data", data, "--split", "val"], more].concat()).expect_err("refused")
    };
    let cut = folder.path().join("cut");
    let cut = ["--cut-into", cut.to_str().expect("a path")];
    let steps: [&[&str]; 9] = [
        &["--no-crop"],
        &["--crop-bottom", "0.2"],
        &["--crop-left", "0.1"],
        &["--crop-top", "0.1"],
        &cut,
        &["--no-smooth"],
        &["--smooth", "2"],
        &["--no-inpaint"],
        &["--inpaint", "8"],
    ];
    for step in steps {
        let error = run("teacher", &[&["--out-folder", "sgm", "--max-disparity", "16"], step].concat());
        assert!(error.contains(&format!("{} is a step of cleaning", step[0])) && error.contains("--clean"), "{error}");
    }
    for name in ["preview", "preview.tif"] {
        let preview = folder.path().join(name);
        let preview = ["--out-folder", "made", "--preview", preview.to_str().expect("a path")];
        let error = run("disparity", &preview);
        assert!(error.contains("expected a name that ends in .png or .jpg"), "{error}");
    }
    assert!(tool(&["depth", "disparity", "--help"]).is_err_and(|help| help.contains("a .png or .jpg")));
    assert!(!root.join("sgm").exists() && !root.join("made").exists());
    let json = folder.path().join("missing/figures.json");
    let error = run("compare", &["--folder", "disparity", "--json", json.to_str().expect("a path")]);
    assert!(error.contains("missing is not a folder"), "{error}");
}

#[test]
fn several_splits_are_checked_before_the_first_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("street");
    let data = root.to_str().expect("a path");
    tool(&["render", "--out", data, "--size", "128x64", "--splits", "train=1,val=2", "--frames", "1"])
        .expect("rendered");
    let run = |way: &str, splits: &str, out: &str, more: &[&str]| {
        tool(&[&["depth", way, "--data", data, "--split", splits, "--out-folder", out], more].concat())
    };
    let made = |out: &str, split: &str| root.join(out).join(split).exists();
    let preview = |name: &str| folder.path().join(name).to_str().expect("a path").to_string();

    // A frame of the last split lacks its right picture.
    let right = root.join("rightImg8bit/val/street00001/street00001_000000_000000_rightImg8bit.png");
    let away = folder.path().join("away.png");
    std::fs::rename(&right, &away).expect("moved");
    let error = run("teacher", "train,val", "sgm", &[]).expect_err("refused");
    assert!(error.contains("street00001_000000_000000_rightImg8bit.png"), "{error}");
    assert!(!made("sgm", "train"));
    std::fs::rename(&away, &right).expect("moved back");

    // The last split has depth that was made in another way.
    run("disparity", "val", "other", &["--no-smooth"]).expect("made");
    let error = run("disparity", "train,val", "other", &[]).expect_err("refused");
    assert!(error.contains("split 'val'") && error.contains("another way"), "{error}");
    assert!(!made("other", "train"));

    // The one preview is of a frame that only the last split has.
    let stem = "street00001_000000_000000";
    let (late, alone) = (preview("late.png"), preview("alone.png"));
    let error = run("disparity", "train", "late", &["--preview", &late, "--preview-frame", stem]).expect_err("refused");
    assert!(error.contains("no such frame in train"), "{error}");
    assert!(!made("late", "train"));
    run("disparity", "train,val", "late", &["--preview", &late, "--preview-frame", stem]).expect("made");
    assert!(made("late", "train") && made("late", "val"));
    run("disparity", "val", "late", &["--preview", &alone, "--preview-frame", stem]).expect("made");
    let bytes = |path: &str| std::fs::read(path).expect("a picture");
    assert!(bytes(&late) == bytes(&alone), "the preview is of {stem}");
    // Without a name it is of the first split.
    let (both, first) = (preview("both.png"), preview("first.png"));
    run("disparity", "train,val", "late", &["--preview", &both]).expect("made");
    run("disparity", "train", "late", &["--preview", &first]).expect("made");
    assert!(bytes(&both) == bytes(&first), "the preview is of train");
}

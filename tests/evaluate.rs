//! `semantic_depth evaluate` from end to end: rendered frames and a folder of pictures with class ids, a small network
//! of random weights.

use clap::Parser as _;
use semantic_depth::cli::Cli;
use semantic_depth::export::trace::export;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

mod small_model;

/// A folder with `model`, `street` (three rendered frames, split test) and `folder` (two pictures, split val).
fn place() -> &'static Path {
    static ONCE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let place = ONCE.get_or_init(|| {
        let place = tempfile::tempdir().expect("a folder");
        let request = small_model::request(small_model::random_weights(place.path()), (96, 64));
        export(&request, &place.path().join("model")).expect("exported");
        let out = place.path().join("street");
        run(&[
            "render",
            "--out",
            text(&out),
            "--splits",
            "test=1",
            "--frames",
            "3",
            "--size",
            "256x128",
            "--no-stereo",
        ])
        .expect("rendered");
        for part in ["pictures", "ids"] {
            fs::create_dir_all(place.path().join("folder").join(part).join("val")).expect("made");
        }
        for name in ["a", "b"] {
            let path = |part: &str| place.path().join("folder").join(part).join("val").join(format!("{name}.png"));
            image::RgbImage::from_fn(120, 90, |x, y| image::Rgb([x as u8, y as u8, 90]))
                .save(path("pictures"))
                .expect("written");
            image::GrayImage::from_fn(120, 90, |x, _| image::Luma([(x % 12) as u8]))
                .save(path("ids"))
                .expect("written");
        }
        place
    });
    place.path()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn run(args: &[&str]) -> anyhow::Result<()> {
    Cli::try_parse_from(["semantic_depth"].iter().chain(args))?.run()
}

fn evaluate(data: &str, more: &[&str]) -> anyhow::Result<()> {
    let (model, data) = (place().join("model"), place().join(data));
    let args = ["evaluate", "--device", "cpu", "--model", text(&model), "--data", text(&data)];
    run(&[&args, more].concat())
}

fn camvid() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/data/camvid.yaml")
}

#[test]
fn rendered_frames_are_judged_and_reported() {
    let (json, report) = (place().join("street.json"), place().join("report"));
    evaluate("street", &["--json", text(&json), "--report", text(&report), "--pictures", "1", "--verbose"])
        .expect("judged");
    let figures: Value = serde_json::from_str(&fs::read_to_string(json).expect("written")).expect("JSON");
    assert_eq!((figures["model"].as_str(), figures["frames"].as_u64()), (Some("small"), Some(3)));
    assert_eq!(figures["iou"].as_array().map(Vec::len), Some(19));
    for value in [&figures["miou"], &figures["pixel_accuracy"], &figures["depth_factor"], &figures["depth"]["abs_rel"]]
    {
        assert!(value.as_f64().is_some_and(f64::is_finite), "{value}");
    }
    assert_eq!(figures["depth_detail"]["by_row"].as_array().map(Vec::len), Some(32));
    assert_eq!(figures["segmentation"]["pooled"]["miou"], figures["miou"]);
    assert_eq!(figures["per_frame"].as_array().map(Vec::len), Some(3));
    // With what it was judged: another run's figures are comparable only where this is the same.
    let judged = &figures["judged"];
    for (option, value) in [
        ("layout", "cityscapes"),
        ("depth", "auto"),
        ("label_files", "label_ids"),
        ("remove_bottom", "0"),
        ("resize_mode", "stretch"),
        ("depth_scaling", "camera_info where there is a camera file"),
        ("cap", "80"),
    ] {
        assert_eq!(judged["options"][option], value, "{option}");
    }
    assert_eq!(judged["weights_sha256"].as_str().map(str::len), Some(64));
    assert!(["backend", "precision", "package_version", "date"].iter().all(|key| judged[key].is_string()), "{judged}");
    let page = fs::read_to_string(report.join("report.html")).expect("a report");
    assert!(page.matches("<svg").count() >= 9, "{} plots", page.matches("<svg").count());
    assert!(page.contains("Judged with: layout cityscapes, depth auto, label_files label_ids, remove_bottom 0,"));
    assert!(page.contains("<meta name=\"viewport\"") && page.contains("100 m and beyond"));
    assert_eq!(page.matches("<svg role=\"img\"").count(), page.matches("<svg").count());
    // On a telephone long names are broken, and wide plots keep their size in a frame that scrolls.
    assert!(page.contains(".scroll svg{max-width:none}") && page.contains("overflow-wrap:anywhere"));
    let plots: Vec<_> = page.split("<svg role=\"img\" width=\"").collect();
    let scrolls = plots.windows(2).map(|pair| {
        let width = pair[1].split('"').next().and_then(|width| width.parse::<u32>().ok()).expect("a width");
        (width > 560, pair[0].ends_with("<div class=\"scroll\">"))
    });
    let scrolls: Vec<_> = scrolls.collect();
    assert!(
        scrolls.contains(&(true, true)) && scrolls.iter().all(|(is_wide, scrolls)| is_wide == scrolls),
        "{scrolls:?}"
    );
    assert!(page.contains("rgb(128,64,128)\"></i>road</span>") && page.contains("<p class=\"note\">Classes: "));
    // No frame's picture has the name of another's.
    assert!(page.contains("alt=\"predicted depth of street00000_000000_00000"), "in the pictures' names");
    // Five lists of one frame with seven pictures each.
    assert_eq!(page.matches("<img src=\"data:image/").count(), 35);
    // Without the pictures' own letters, and the name of SVG.
    let (first, pictures) = page.split_once("base64,").expect("pictures");
    let after = pictures.split("base64,").filter_map(|picture| picture.split_once('"')).map(|(_, rest)| rest);
    let bare: String = std::iter::once(first).chain(after).collect();
    let bare = bare.replace("http://www.w3.org/2000/svg", "");
    assert!(bare.len() > 100_000 && bare.ends_with("</html>\n"), "{} letters", bare.len());
    for word in ["http", "<script", "NaN", "url("] {
        assert!(!bare.contains(word), "{word}");
    }
}

#[test]
fn a_folder_is_judged_in_its_own_classes() {
    let (json, report, mapping) = (place().join("folder.json"), place().join("folder_report"), camvid());
    let layout = ["--layout", "folder", "--mapping", text(&mapping), "--split", "val"];
    let patterns = ["--images", "pictures/{split}", "--labels", "ids/{split}"];
    let outputs = ["--json", text(&json), "--report", text(&report)];
    evaluate("folder", &[&layout[..], &patterns, &outputs].concat()).expect("judged");
    let figures: Value = serde_json::from_str(&fs::read_to_string(json).expect("written")).expect("JSON");
    assert_eq!(figures["iou"].as_array().map(Vec::len), Some(11));
    assert_eq!(figures["segmentation"]["classes"][10]["name"].as_str(), Some("bicyclist"));
    assert_eq!(figures["segmentation"]["classes_with_iou"].as_u64(), Some(11), "all of them are in the truth");
    assert_eq!(figures["segmentation"]["pooled"]["pixels"].as_u64(), Some(2 * 90 * 110), "id 11 does not count");
    assert!(figures["depth"].is_null() && figures["depth_detail"].is_null());
    let page = fs::read_to_string(report.join("report.html")).expect("a report");
    assert!(page.contains("No frame of this data has depth"));
    assert!(page.contains("all pixels, mIoU over 11 classes"));
    assert!(page.contains("Judged with: layout folder, mapping ") && page.contains("images pictures/{split}, "));
    assert!(page.contains(">Predicted classes: ") && page.contains(">True classes: "));
    assert_eq!(figures["judged"]["options"]["labels"], "ids/{split}");
}

#[test]
fn what_is_left_out_at_the_bottom_is_seen_and_not_judged() {
    let json = place().join("rows.json");
    let rows = |more: &[&str]| {
        evaluate("street", &[&["--json", text(&json)], more].concat()).expect("judged");
        let figures: Value = serde_json::from_str(&fs::read_to_string(&json).expect("written")).expect("JSON");
        let bands = |part: &str| figures[part]["by_row"].as_array().expect("bands of rows").clone();
        // Median scaling is by the medians of all that is judged.
        let plain = bands("depth_detail").iter().map(|row| row["plain"].clone()).collect();
        [bands("segmentation"), plain]
    };
    // 32 of 128 rows: a quarter of the 32 bands.
    let report = place().join("bottom_report");
    let (whole, left) = (rows(&[]), rows(&["--remove-bottom", "0.25", "--report", text(&report), "--pictures", "1"]));
    for (whole, left) in whole.iter().zip(&left) {
        assert_eq!(whole[..24], left[..24], "the answers are those to the whole picture");
    }
    for (whole, left) in whole.iter().zip(&left) {
        assert!(whole[24..].iter().all(|row| row["pixels"].as_u64() > Some(0)));
        assert!(left[24..].iter().all(|row| row["pixels"].as_u64() == Some(0)));
    }
    assert!(!fs::read_to_string(report.join("report.html")).expect("a report").contains(">NaN"));
}

#[test]
fn every_frame_is_looked_at_before_the_first_is_judged() {
    let place = tempfile::tempdir().expect("a folder");
    let data = place.path().join("broken");
    let render =
        ["render", "--splits", "test=1", "--frames", "2", "--size", "64x32", "--no-stereo", "--out", text(&data)];
    run(&render).expect("rendered");
    let last = data.join("leftImg8bit/test/street00000/street00000_000000_000001_leftImg8bit.png");
    let bytes = fs::read(&last).expect("a picture");
    fs::write(&last, &bytes[..bytes.len() - 20]).expect("cut");
    let error = format!("{:#}", evaluate(text(&data), &[]).expect_err("refused"));
    assert!(error.contains("1 of 2 frames cannot be used") && error.contains("cut short"), "{error}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a folder") {
        let (from, to) = (entry.as_ref().expect("read").path(), to.join(entry.expect("read").file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).expect("copied");
        }
    }
}

/// A copy of the rendered frames under this name; returns a frame's files by the part's folder and ending, in order.
fn copy_of_street(name: &str) -> impl Fn(&str, &str) -> Vec<PathBuf> {
    place();
    let root = place().join(name);
    copy(&place().join("street"), &root);
    move |part, ending| {
        let cities =
            fs::read_dir(root.join(part).join("test")).expect("a split").map(|entry| entry.expect("read").path());
        let mut files: Vec<_> = cities
            .filter(|city| city.is_dir())
            .flat_map(|city| fs::read_dir(city).expect("a city"))
            .map(|file| file.expect("read").path())
            .filter(|file| text(file).ends_with(ending))
            .collect();
        files.sort();
        files
    }
}

#[test]
fn depth_is_scaled_in_every_frame_or_in_none() {
    let files = copy_of_street("two_kinds");
    let cameras = files("camera", ".json");
    assert_eq!(cameras.len(), 3);
    fs::remove_file(&cameras[1]).expect("removed");
    let said = |more: &[&str]| evaluate("two_kinds", more).expect_err("not of all frames").to_string();
    let error = said(&[]);
    assert!(
        error.contains("1 of 3 frames with depth have no camera file, ") && error.contains("would not be scaled"),
        "{error}"
    );
    assert!(error.contains("give --depth-scaling none or a factor"), "{error}");
    let error = said(&["--depth-scaling", "camera_info"]);
    assert!(error.contains("which 1 of 3 frames with depth do not have"), "{error}");
    for scaling in ["none", "1.5"] {
        evaluate("two_kinds", &["--depth-scaling", scaling]).expect("all alike");
    }
    evaluate("two_kinds", &["--depth", "none"]).expect("depth is not judged");
    for camera in [&cameras[0], &cameras[2]] {
        fs::remove_file(camera).expect("removed");
    }
    evaluate("two_kinds", &[]).expect("none is scaled");
}

/// Its header and its end are whole, so that it is noticed only when it is decoded.
#[test]
fn a_broken_picture_takes_no_other_frames_figures() {
    let files = copy_of_street("broken");
    // Another city with the same names: frames are told apart by their place.
    for part in fs::read_dir(place().join("broken")).expect("parts") {
        let split = part.expect("read").path().join("test");
        if split.is_dir() {
            copy(&split.join("street00000"), &split.join("town"));
        }
    }
    let pictures = files("leftImg8bit", ".png");
    let picture = &pictures[1];
    let mut bytes = fs::read(picture).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0);
    fs::write(picture, bytes).expect("written");
    let (json, report) = (place().join("broken.json"), place().join("broken_report"));
    let more = ["--json", text(&json), "--report", text(&report), "--pictures", "6"];
    let error = evaluate("broken", &more).expect_err("one is broken").to_string();
    assert!(error.contains("the figures are of 5 of 6 frames; the others cannot be read: "), "{error}");
    let name = picture.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    assert!(error.contains(name), "{error}");
    let figures: Value = serde_json::from_str(&fs::read_to_string(json).expect("written")).expect("JSON");
    assert_eq!((figures["frames"].as_u64(), figures["per_frame"].as_array().map(Vec::len)), (Some(5), Some(5)));
    let left_out = figures["left_out"].as_array().expect("names");
    assert!(left_out.len() == 1 && name.starts_with(left_out[0].as_str().expect("a name")), "{left_out:?}");
    let page = fs::read_to_string(report.join("report.html")).expect("written");
    assert!(page.contains("1, which cannot be read"), "the report says so");
    for file in files("leftImg8bit", ".png") {
        fs::write(file, fs::read(picture).expect("read")).expect("written");
    }
    let error = evaluate("broken", &[]).expect_err("all are broken").to_string();
    assert!(error.contains("no frame can be read: "), "{error}");
}

/// Standard output on a full disk: an error, not a panic, and no result is lost with it.
#[test]
fn results_are_written_though_the_table_cannot_be() {
    let (json, report, out) = (place().join("full.json"), place().join("full_report"), place().join("full_street"));
    let (model, data) = (place().join("model"), place().join("street"));
    let evaluate =
        ["evaluate", "--device", "cpu", "--model", text(&model), "--data", text(&data), "--json", text(&json)];
    let evaluate = [&evaluate[..], &["--report", text(&report), "--pictures", "0"]].concat();
    let render = ["render", "--out", text(&out), "--splits", "test=1", "--frames", "1", "--size", "64x32"];
    let interface = ["interface", "--format", "json"];
    for args in [&evaluate[..], &render, &interface, &["--version"], &["export", "--help"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a full disk");
        let mut command = Command::new(env!("CARGO_BIN_EXE_semantic_depth"));
        let output = command.args(args).stdout(full).output().expect("the program starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains("cannot be printed") && !error.contains("panicked"), "{args:?}: {error}");
    }
    let figures: Value = serde_json::from_str(&fs::read_to_string(json).expect("written")).expect("JSON");
    assert_eq!(figures["frames"].as_u64(), Some(3));
    assert!(report.join("report.html").is_file());
}

/// A foreign table of as many classes was judged by its ids as if these were train ids.
#[test]
fn a_model_of_other_classes_is_refused_before_the_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("made");
    for entry in fs::read_dir(place().join("model")).expect("a model") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
    }
    let manifest = model.join("model.yaml");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, text.replacen("name: sidewalk", "name: pavement", 1)).expect("written");
    let data = place().join("street");
    let error = run(&["evaluate", "--device", "cpu", "--model", self::text(&model), "--data", self::text(&data)]);
    let error = format!("{:#}", error.expect_err("refused"));
    assert!(error.contains("'pavement' (id 1) is none of them") && error.contains("manifest"), "{error}");
}

#[test]
fn wrong_arguments_are_refused_before_the_work() {
    let mapping = camvid();
    for (data, more, expected) in [
        ("folder", vec!["--layout", "folder"], "--mapping"),
        ("street", vec!["--mapping", text(&mapping)], "--layout folder"),
        ("street", vec!["--cap", "0.5"], "metres above 1"),
        ("street", vec!["--remove-bottom", "1"], "less than 1"),
        ("street", vec!["--json", "/nowhere/at/all.json"], "is not a folder"),
        ("street", vec!["--split", "val"], "leftImg8bit"),
        ("folder", vec!["--layout", "folder", "--mapping", text(&mapping), "--split", "val"], "folder/val/images"),
    ] {
        let error = format!("{:#}", evaluate(data, &more).expect_err("refused"));
        assert!(error.contains(expected), "{more:?}: {error}");
    }
}

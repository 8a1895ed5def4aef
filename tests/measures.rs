//! The measures against scikit-learn, torchmetrics and numpy on random frames: tests/golden/make_measures.py.

use safetensors::SafeTensors;
use semantic_depth::data::frame::Decoded;
use semantic_depth::data::source::{Groups, Source};
use semantic_depth::eval::{ClassTable, Confusion, DepthErrors, DepthReport, Judge, Summary};
use serde_json::Value;
use std::path::Path;

struct Golden {
    width: usize,
    height: usize,
    labels: Vec<u8>,
    predicted: Vec<u8>,
    depth_m: Vec<f32>,
    predicted_m: Vec<f32>,
    camvid: Vec<u8>,
    expected: Value,
}

fn golden() -> Golden {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bytes = std::fs::read(folder.join("measures.safetensors")).expect("the golden frames");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let raw = |name: &str| tensors.tensor(name).expect("a tensor").data().to_vec();
    let metres = |name: &str| {
        raw(name).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>()
    };
    let shape = tensors.tensor("labels").expect("labels").shape().to_vec();
    let text = std::fs::read_to_string(folder.join("measures.json")).expect("the golden figures");
    Golden {
        width: shape[2],
        height: shape[1],
        labels: raw("labels"),
        predicted: raw("predicted"),
        depth_m: metres("depth_m"),
        predicted_m: metres("predicted_m"),
        camvid: raw("camvid"),
        expected: serde_json::from_str(&text).expect("JSON"),
    }
}

fn same(found: f64, expected: &Value, what: &str) {
    match expected.as_f64() {
        Some(expected) => {
            assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{what}: {found}, expected {expected}");
        }
        None => assert!(expected.is_null() && found.is_nan(), "{what}: {found}, expected {expected}"),
    }
}

fn same_depth(found: &DepthReport, expected: &Value, what: &str) {
    assert_eq!(Some(found.missing), expected["missing"].as_u64(), "{what}: missing");
    assert_eq!(Some(found.pixels), expected["pixels"].as_u64(), "{what}: pixels");
    same_measures(found, expected, what);
}

fn same_measures(found: &DepthReport, expected: &Value, what: &str) {
    for (name, value) in [
        ("abs_rel", found.abs_rel),
        ("sq_rel_m", found.sq_rel_m),
        ("rmse_m", found.rmse_m),
        ("rmse_log", found.rmse_log),
        ("silog", found.silog),
        ("log_bias", found.log_bias),
    ] {
        same(value, &expected[name], &format!("{what}: {name}"));
    }
    for (i, value) in found.delta.iter().enumerate() {
        same(*value, &expected["delta"][i], &format!("{what}: delta {i}"));
    }
}

fn judged(golden: &Golden) -> Summary {
    let mut judge = Judge::new(ClassTable::cityscapes(), 80.0);
    let pixels = golden.width * golden.height;
    for (i, range) in (0..golden.labels.len() / pixels).map(|i| (i, i * pixels..(i + 1) * pixels)) {
        let frame = Decoded {
            width: golden.width,
            height: golden.height,
            rgb: vec![],
            labels: Some(golden.labels[range.clone()].to_vec()),
            depth_m: Some(golden.depth_m[range.clone()].to_vec()),
            focal_px: None,
            principal_px: None,
        };
        judge.add(&i.to_string(), &frame, &golden.predicted[range.clone()], &golden.predicted_m[range]);
    }
    judge.summary()
}

#[test]
fn confusion_and_depth_errors_are_the_libraries() {
    let golden = golden();
    let mut confusion = Confusion::new(19);
    confusion.add(&golden.labels, &golden.predicted);
    let expected = &golden.expected["segmentation"];
    for truth in 0..19 {
        for predicted in 0..20 {
            let count = expected["confusion"][truth][predicted].as_u64();
            assert_eq!(Some(confusion.count(truth, predicted)), count, "{truth} as {predicted}");
        }
        match confusion.iou(truth) {
            Some(iou) => same(iou, &expected["iou"][truth], "IoU"),
            None => assert!(expected["iou"][truth].is_null()),
        }
    }
    same(confusion.miou(), &expected["miou"], "mIoU");
    same(confusion.pixel_accuracy(), &expected["pixel_accuracy"], "pixel accuracy");
    assert!((0..19).any(|c| confusion.iou(c).is_none()), "a class that does not occur is tried");

    let mut errors = DepthErrors::new();
    errors.add(&golden.depth_m, &golden.predicted_m);
    same_depth(&errors.report(), &golden.expected["depth"]["plain"], "all pixels");
}

#[test]
fn a_mapped_source_is_judged_as_scikit_learn_does() {
    let golden = golden();
    let root = tempfile::tempdir().expect("a folder");
    for part in ["images", "labels"] {
        std::fs::create_dir_all(root.path().join("val").join(part)).expect("made");
    }
    let (width, height) = (golden.width as u32, (golden.camvid.len() / golden.width) as u32);
    image::RgbImage::new(width, height).save(root.path().join("val/images/a.png")).expect("written");
    image::GrayImage::from_raw(width, height, golden.camvid.clone())
        .expect("a picture")
        .save(root.path().join("val/labels/a.png"))
        .expect("written");
    let mapping = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/data/camvid.yaml");
    let yaml = format!("layout: folder\nroot: {}\nmapping: {}\n", root.path().display(), mapping.display());
    let source: Source = serde_yaml::from_str(&yaml).expect("a source");
    let mut groups = Groups::default();
    let items = source.index("val", &mut groups).expect("an index");
    let table = ClassTable::new(source.judged_classes().expect("classes"), &groups);
    assert_eq!(table.len(), 11);
    let frame = items[0].decode().expect("a frame");
    let mut judge = Judge::new(table, 80.0);
    judge.add("a", &frame, &golden.predicted, &vec![10.0; golden.predicted.len()]);
    let summary = judge.summary();
    let segmentation = summary.segmentation.expect("labels");
    let expected = &golden.expected["mapped"];
    same(segmentation.pooled.miou, &expected["miou"], "mIoU");
    same(segmentation.pooled.pixel_accuracy, &expected["pixel_accuracy"], "pixel accuracy");
    let found = serde_json::to_value(&segmentation.confusion).expect("JSON");
    assert_eq!(found, expected["confusion"]);
    assert!(summary.depth.is_none());
}

#[test]
fn everything_by_class_distance_row_and_image_is_the_libraries() {
    let golden = golden();
    let expected = &golden.expected;
    let summary = judged(&golden);
    let segmentation = summary.segmentation.expect("labels");
    same(segmentation.pooled.miou, &expected["segmentation"]["miou"], "mIoU");
    for (name, value) in
        [("miou", segmentation.per_image.miou), ("pixel_accuracy", segmentation.per_image.pixel_accuracy)]
    {
        same(value, &expected["segmentation_per_image"][name], name);
    }
    let labels = |found: &semantic_depth::eval::confusion::SegmentationReport, expected: &Value, what: &str| {
        same(found.miou, &expected["miou"], what);
        same(found.pixel_accuracy, &expected["pixel_accuracy"], what);
        assert_eq!(Some(found.pixels), expected["pixels"].as_u64(), "{what}");
    };
    assert_eq!((segmentation.by_distance.len(), segmentation.by_row.len()), (5, 32));
    for (i, band) in segmentation.by_distance.iter().enumerate() {
        labels(&band.report, &expected["segmentation_by_distance"][i], "labels by distance");
    }
    for (i, row) in segmentation.by_row.iter().enumerate() {
        labels(&row.report, &expected["segmentation_by_row"][i], "labels by row");
    }
    let front = segmentation.foreground.expect("foreground");
    same(front.pixel_accuracy, &expected["foreground_accuracy"], "foreground");

    let depth = summary.depth.expect("depth");
    let both = |found: &semantic_depth::eval::summary::Both, expected: &Value, what: &str| {
        same_depth(&found.plain, &expected["plain"], what);
        same_depth(&found.median_scaled, &expected["median_scaled"], &format!("{what}, median-scaled"));
    };
    both(&depth.pooled, &expected["depth"], "pooled");
    let per_image = &expected["depth_per_image"];
    same_measures(&depth.per_image.plain, &per_image["plain"], "per image");
    same_measures(&depth.per_image.median_scaled, &per_image["median_scaled"], "per image, median-scaled");
    both(&depth.foreground.expect("foreground"), &expected["foreground"], "foreground");
    both(&depth.background.expect("background"), &expected["background"], "background");
    let classes = expected["depth_by_class"].as_array().expect("classes");
    assert!(classes.len() == depth.by_class.len() && classes.len() > 10);
    for (found, expected) in depth.by_class.iter().zip(classes) {
        both(&found.errors, expected, &found.name);
    }
    for (i, band) in depth.by_distance.iter().enumerate() {
        both(&band.report, &expected["depth_by_distance"][i], "by distance");
    }
    for (i, row) in depth.by_row.iter().enumerate() {
        both(&row.report, &expected["depth_by_row"][i], "by row");
    }
    for (frame, ratio) in summary.per_frame.iter().zip(expected["median_ratios"].as_array().expect("ratios")) {
        same(frame.median_ratio.expect("a ratio"), ratio, "median ratio");
    }
    assert_eq!(serde_json::to_value(&depth.distribution.joint).expect("JSON"), expected["joint"]);
}

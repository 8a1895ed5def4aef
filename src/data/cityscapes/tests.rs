use super::*;
use crate::data::npy::Precision;

/// A data set with frames 0 .. `frames` of one city, 4x2 pixels; their pixels, labels and disparities are all the same.
fn data_set(frames: usize) -> (tempfile::TempDir, Vec<Sample>) {
    let folder = tempfile::tempdir().expect("a folder");
    let camera = Camera {
        focal_px: 100.0,
        center_x: 2.0,
        center_y: 1.0,
        baseline_m: 0.5,
        height_m: 1.0,
        pitch: 0.0,
        yaw: 0.0,
        roll: 0.0,
    };
    let samples = (0..frames)
        .map(|frame| {
            let sample = Sample::new(folder.path(), "val", "town", 3, frame);
            sample.write_picture(Part::Left, &RgbImage::from_pixel(4, 2, image::Rgb([9, 8, 7]))).expect("written");
            sample.write_labels(&[0, 1, 2, 10, 13, 18, 19, 0], 4, 2).expect("written");
            sample.write_disparity(&[10.0; 8], &camera, 4, 2).expect("written");
            sample.write_camera(&camera).expect("written");
            sample
        })
        .collect();
    (folder, samples)
}

fn options(labels: LabelFiles, depth: &str) -> ReadOptions {
    ReadOptions { labels, depth: depth.parse().expect("an option") }
}

fn grey(path: &Path, values: &[u8], width: u32, height: u32) {
    write_png(path, values, width, height, image::ExtendedColorType::L8).expect("written");
}

#[test]
fn depth_of_two_kinds_is_told() {
    let (folder, samples) = data_set(3);
    let kinds = |depth: &str| {
        let asked = options(LabelFiles::LabelIds, depth);
        Sample::kinds_of_depth(&Sample::index(folder.path(), "val", &asked).expect("all are there"))
    };
    let write =
        |sample: &Sample| npy::write(&sample.path(Part::Depth), &[1.0; 8], 4, 2, Precision::Single).expect("written");
    assert_eq!(kinds("auto"), None, "all have disparity alone");
    write(&samples[1]);
    let said = kinds("auto").expect("two kinds");
    assert!(said.contains("exactDepth in 1 frames and disparity, where there is none, in 2; "), "{said}");
    assert_eq!(kinds("disparity"), None);
    write(&samples[0]);
    write(&samples[2]);
    assert_eq!(kinds("auto"), None, "all have exactDepth");
}

#[test]
fn train_ids_are_read_and_other_values_are_named() {
    let (folder, samples) = data_set(1);
    let asked = options(LabelFiles::TrainIds, "disparity");
    let sample = samples[0].clone().with_options(&asked);
    let path = sample.path(Part::Labels);
    assert!(path.ends_with("gtFine/val/town/town_000003_000000_gtFine_labelTrainIds.png"));
    let missing = Sample::index(folder.path(), "val", &asked).expect_err("not there").to_string();
    assert!(missing.contains("labelTrainIds.png"), "{missing}");
    grey(&path, &[0, 1, 18, 19, 255, 7, 7, 7], 4, 2);
    assert_eq!(Sample::index(folder.path(), "val", &asked).expect("indexed"), std::slice::from_ref(&sample));
    assert_eq!(sample.read_labels().expect("read").0, [0, 1, 18, 19, 19, 7, 7, 7]);
    grey(&path, &[0, 1, 18, 19, 255, 7, 33, 7], 4, 2);
    let error = sample.read_labels().expect_err("33 is a label id").to_string();
    assert!(error.contains("labelTrainIds.png") && error.contains("found 33 at column 2, row 1"), "{error}");
}

#[test]
fn ids_that_cityscapes_does_not_have_are_named() {
    let (_folder, samples) = data_set(1);
    let path = samples[0].path(Part::Labels);
    // A licence plate's too, however it was written.
    grey(&path, &[0, 7, 8, 33, 34, 255, 1, 3], 4, 2);
    assert_eq!(samples[0].read_labels().expect("Cityscapes' own").0, [19, 0, 1, 18, 19, 19, 19, 19]);
    for id in [35, 254] {
        grey(&path, &[0, 7, 8, 33, 34, id, 1, 3], 4, 2);
        let error = samples[0].read_labels().expect_err("no label id").to_string();
        assert!(
            error.contains("_labelIds.png") && error.contains(&format!("found {id} at column 1, row 1")),
            "{error}"
        );
        assert!(error.contains("layout: folder") && error.contains("labels: train_ids"), "{error}");
    }
}

#[test]
fn depth_comes_from_a_named_folder_under_each_accepted_name() {
    let (folder, samples) = data_set(3);
    let asked = options(LabelFiles::LabelIds, "crestereo_depth");
    let at = |i: usize, ending: &str| {
        let stem = samples[i].stem();
        folder.path().join("crestereo_depth/val/town").join(format!("{stem}{ending}"))
    };
    for (i, ending) in ["_depth.npy", ".npy", "_crestereo_depth.npy"].iter().enumerate() {
        npy::write(&at(i, ending), &[i as f32 + 1.0; 8], 4, 2, Precision::Half).expect("written");
    }
    let found = Sample::index(folder.path(), "val", &asked).expect("indexed");
    Sample::check_all(&found, &[]).expect("whole");
    for (i, sample) in found.iter().enumerate() {
        assert_eq!(sample.read_depth().expect("read"), (vec![i as f32 + 1.0; 8], 4, 2));
    }
    // One that is named like no frame is told, and never paired by its place in the order.
    fs::rename(at(1, ".npy"), at(1, "x.npy")).expect("renamed");
    let error = Sample::index(folder.path(), "val", &asked).expect_err("unpaired").to_string();
    assert!(error.contains("town_000003_000001_depth.npy") && error.contains("1 files are missing"), "{error}");
    let lone = Sample::without_picture(&samples, folder.path(), "val", &asked).expect("listed");
    assert_eq!(lone, [at(1, "x.npy")]);
}

#[test]
fn where_no_frames_are_it_is_said_what_is_there() {
    let (folder, _) = data_set(1);
    let root = folder.path();
    let error = |root: &Path, split| Sample::index(root, split, &ReadOptions::default()).expect_err("nothing there");
    fs::create_dir_all(root.join("leftImg8bit/test")).expect("made");
    let (place, expected) = (root.display(), "expected the root of a data set in the Cityscapes layout");
    assert_eq!(
        error(root, "vall").to_string(),
        format!("{place}/leftImg8bit/vall is not there; {place}/leftImg8bit has the splits test, val")
    );
    let deep = error(&root.join("leftImg8bit"), "val");
    assert!(matches!(deep, DataError::Nowhere(_)));
    assert_eq!(deep.to_string(), format!("{place}/leftImg8bit has no leftImg8bit: {expected}, which {place} is"));
    let nowhere = error(&root.join("nowhere"), "val");
    assert_eq!(nowhere.to_string(), format!("{place}/nowhere is not there: {expected}"));
    fs::write(root.join("set.zip"), "").expect("written");
    assert_eq!(error(&root.join("set.zip"), "val").to_string(), format!("{place}/set.zip is not a folder: {expected}"));

    let above = tempfile::tempdir().expect("temporary folder");
    let said = error(above.path(), "val").to_string();
    assert!(said.contains("are the layout folder (for evaluate --layout folder --mapping FILE"), "{said}");
    fs::create_dir_all(above.path().join("b/leftImg8bit")).expect("made");
    let said = error(above.path(), "val").to_string();
    assert!(said.ends_with(&format!("which {}/b is", above.path().display())), "{said}");
    let said = error(&above.path().join("b"), "val").to_string();
    assert!(said.ends_with("b/leftImg8bit has no splits"), "{said}");
}

#[test]
fn only_what_is_missing_is_named_with_the_ways_out() {
    let (folder, samples) = data_set(3);
    let error = |depth: &str| {
        let asked = options(LabelFiles::LabelIds, depth);
        Sample::index(folder.path(), "val", &asked).expect_err("incomplete").to_string()
    };
    fs::remove_file(samples[1].path(Part::Disparity)).expect("removed");
    let without_depth = error("auto");
    assert!(without_depth.contains("1 files are missing from its 3 frames (depth (exactDepth, or"), "{without_depth}");
    assert!(
        without_depth.ends_with("in training a source with `depth: none`, for evaluate --depth none"),
        "{without_depth}"
    );
    assert!(!without_depth.contains("labels"), "{without_depth}");
    assert!(error("disparity").contains("(disparity or camera)"));
    fs::remove_file(samples[2].path(Part::Labels)).expect("removed");
    let without_both = error("auto");
    assert!(
        without_both.contains("2 files are missing") && without_both.contains("(labels, and depth (exact"),
        "{without_both}"
    );
    assert!(without_both.ends_with("`labels: none` or `depth: none`, for evaluate --label-files none or --depth none"));
    let without_labels = error("none");
    assert!(without_labels.contains("frames (labels): "), "{without_labels}");
    assert!(
        without_labels.ends_with("a source with `labels: none`, for evaluate --label-files none"),
        "{without_labels}"
    );
}

#[test]
fn what_has_no_picture_is_listed() {
    let (folder, samples) = data_set(2);
    fs::remove_file(samples[0].path(Part::Left)).expect("removed");
    let found = Sample::index(folder.path(), "val", &ReadOptions::default()).expect("the other is whole");
    assert_eq!(found, samples[1..]);
    let lone = Sample::without_picture(&found, folder.path(), "val", &ReadOptions::default()).expect("listed");
    assert_eq!(lone, [samples[0].path(Part::Labels), samples[0].path(Part::Disparity)]);
}

#[test]
fn none_asks_for_nothing_and_gives_an_error_not_a_guess() {
    let (folder, samples) = data_set(1);
    for part in [Part::Labels, Part::Disparity, Part::Camera] {
        fs::remove_file(samples[0].path(part)).expect("removed");
    }
    let found = Sample::index(folder.path(), "val", &options(LabelFiles::None, "none")).expect("a picture is enough");
    assert_eq!(found[0].check().expect("whole"), (4, 2));
    assert!(found[0].read_labels().expect_err("none").to_string().contains("without labels"));
    assert!(found[0].read_depth().expect_err("none").to_string().contains("without depth"));
}

#[test]
fn a_check_finds_what_is_broken_without_decoding_it() {
    let (folder, samples) = data_set(7);
    let all = |depth: &str| {
        Sample::index(folder.path(), "val", &options(LabelFiles::LabelIds, depth)).expect("indexed by name")
    };
    Sample::check_all(&all("auto"), &[]).expect("whole");
    let cut = |part: Part, i: usize| {
        let path = samples[i].path(part);
        let bytes = fs::read(&path).expect("read");
        fs::write(&path, &bytes[..bytes.len() - 20]).expect("cut");
    };
    cut(Part::Left, 0);
    fs::write(samples[1].path(Part::Labels), b"").expect("emptied");
    grey(&samples[2].path(Part::Labels), &[0; 6], 3, 2);
    grey(&samples[3].path(Part::Disparity), &[0; 8], 4, 2);
    fs::write(samples[4].path(Part::Camera), "{}").expect("emptied");
    npy::write(&samples[5].path(Part::Depth), &[1.0; 8], 2, 4, Precision::Single).expect("written");
    let errors: Vec<Option<String>> = all("auto").iter().map(|s| s.check().err().map(|e| e.to_string())).collect();
    for (error, expected) in errors.iter().zip([
        "leftImg8bit.png: the picture has no end",
        "labelIds.png",
        "expected 4x2 as the picture has, found 3x2",
        "expected a picture of kind L16, found L8",
        "extrinsic.baseline",
        "expected 4x2 as the picture has, found 2x4",
    ]) {
        assert!(error.as_ref().is_some_and(|e| e.contains(expected)), "expected '{expected}', found {error:?}");
    }
    assert_eq!(errors[6], None);
    let error = Sample::check_all(&all("auto"), &[]).expect_err("broken").to_string();
    assert!(error.contains("6 of 7 frames cannot be used") && error.ends_with("; ..."), "{error}");
}

#[test]
fn a_disparity_that_has_no_code_is_unknown() {
    for pixels in [0.004, 10.0, 255.9, 255.992] {
        let back = decode_disparity(encode_disparity(pixels));
        assert!((back - pixels).abs() <= 1.0 / 512.0, "{pixels} came back as {back}");
    }
    for pixels in [0.0, -3.0, f32::NAN, f32::INFINITY, 256.0, 4000.0] {
        assert_eq!(encode_disparity(pixels), 0, "{pixels}");
    }
}

#[test]
fn what_is_written_leaves_what_it_was_linked_to() {
    let (folder, samples) = data_set(1);
    let parts = [Part::Left, Part::Labels, Part::Disparity, Part::Camera];
    let links = parts.map(|part| folder.path().join(format!("{part:?}")));
    let bytes = |path: &Path| fs::read(path).expect("read");
    for (part, link) in parts.iter().zip(&links) {
        fs::hard_link(samples[0].path(*part), link).expect("linked");
    }
    let before = links.each_ref().map(|link| bytes(link));
    let camera = Camera {
        focal_px: 50.0,
        center_x: 1.0,
        center_y: 1.0,
        baseline_m: 0.1,
        height_m: 2.0,
        pitch: 0.1,
        yaw: 0.1,
        roll: 0.1,
    };
    samples[0].write_picture(Part::Left, &RgbImage::new(2, 2)).expect("written");
    samples[0].write_labels(&[5; 4], 2, 2).expect("written");
    samples[0].write_disparity(&[3.0; 4], &camera, 2, 2).expect("written");
    samples[0].write_camera(&camera).expect("written");
    for ((part, link), before) in parts.iter().zip(&links).zip(&before) {
        assert_eq!(bytes(link), *before, "{part:?}");
        assert_ne!(bytes(&samples[0].path(*part)), *before, "{part:?}");
    }
}

use super::mesh::Mesh;
use super::raster::{self, View, NOTHING};
use super::*;
use crate::data::cityscapes::{Part, ReadOptions, Sample};
use crate::data::classes::SCORED_CLASSES;
use glam::{Vec2, Vec3};

fn frame(seed: u64, width: usize, height: usize) -> Frame {
    Drive::new(&DriveConfig::new(seed, 1, width, height)).frame(0, false)
}

#[test]
fn a_seed_is_a_drive() {
    let a = frame(11, 96, 48);
    let b = frame(11, 96, 48);
    assert_eq!(a.left.as_raw(), b.left.as_raw());
    assert_eq!(a.labels, b.labels);
    assert!(a.depth_m.iter().zip(&b.depth_m).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert_ne!(a.left.as_raw(), frame(12, 96, 48).left.as_raw());
}

#[test]
fn frames_do_not_depend_on_the_frames_before_them() {
    let config = DriveConfig::new(5, 8, 96, 48);
    let mut in_order = Drive::new(&config);
    for index in 0..7 {
        in_order.frame(index, false);
    }
    let a = in_order.frame(7, false);
    let b = Drive::new(&config).frame(7, false);
    assert_eq!(a.left.as_raw(), b.left.as_raw());
    assert_ne!(b.left.as_raw(), Drive::new(&config).frame(0, false).left.as_raw(), "the camera has to move");
}

#[test]
fn sky_is_where_depth_is_infinite() {
    for seed in 0..4 {
        let f = frame(seed, 128, 64);
        for (label, depth) in f.labels.iter().zip(&f.depth_m) {
            assert_eq!(*label == 10, depth.is_infinite());
            assert!(*depth > 0.2, "nothing is nearer than the near plane: {depth}");
            assert!(usize::from(*label) < SCORED_CLASSES);
        }
    }
}

#[test]
fn a_plain_has_the_depth_that_geometry_says() {
    // A level camera h above a plane: row y sees it at depth h f / (y - cy).
    let mut mesh = Mesh::default();
    let far = 500.0;
    mesh.quad(
        [Vec3::new(-far, 0.0, -far), Vec3::new(far, 0.0, -far), Vec3::new(far, 0.0, far), Vec3::new(-far, 0.0, far)],
        Vec2::ZERO,
        Vec2::ONE,
        0,
    );
    let (h, f, cy) = (1.5, 80.0, 20.3);
    let view = View {
        eye: DVec3::new(0.0, h, 0.0),
        axes: axes(0.0, 0.0, 0.0),
        scale: DVec2::splat(f),
        center: DVec2::new(40.0, cy),
        orthographic: false,
        width: 80,
        height: 60,
    };
    let seen = raster::draw(&view, &mesh.triangles, |_| false, |_, _| false);
    for y in 0..60 {
        let expected = h * f / (y as f64 + 0.5 - cy);
        let id = seen.triangle[y * 80 + 17];
        if expected <= 0.0 || expected > 450.0 {
            assert!(id == NOTHING || expected > 0.0, "row {y} sees a plane above the horizon");
            continue;
        }
        assert_ne!(id, NOTHING, "row {y} sees nothing");
        let v = mesh.triangles[id as usize].v.map(|v| view.to_view(v.p));
        let (depth, _) = view.hit(DVec2::new(17.5, y as f64 + 0.5), &v).expect("a hit");
        assert!((depth - expected).abs() / expected < 1e-9, "row {y}: {depth} is not {expected}");
    }
}

#[test]
fn the_axes_turn_as_they_say() {
    let view = |yaw, pitch, roll| axes(yaw, pitch, roll);
    assert!((view(0.0, 0.0, 0.0).x_axis - DVec3::X).length() < 1e-12);
    assert!((view(0.0, 0.0, 0.0).y_axis + DVec3::Y).length() < 1e-12, "the second axis is down");
    assert!(view(0.2, 0.0, 0.0).z_axis.x > 0.1, "yaw turns to the right");
    assert!(view(0.0, 0.2, 0.0).z_axis.y < -0.1, "pitch turns down");
    assert!(view(0.0, 0.0, 0.2).x_axis.y < -0.1, "a clockwise roll sinks the right side");
}

#[test]
fn a_higher_camera_sees_the_same_street_from_above() {
    let usual = DriveConfig::new(3, 1, 256, 128);
    let (low, high) = (usual.clone(), DriveConfig { heights_m: (2.5, 2.5), ..usual });
    let [low, high] = [low, high].map(|config| Drive::new(&config).frame(0, false));
    assert!((1.18..1.72).contains(&low.camera.height_m) && (2.48..2.52).contains(&high.camera.height_m));
    assert_eq!(Camera { height_m: 0.0, ..low.camera }, Camera { height_m: 0.0, ..high.camera });
    // The road in front of it, at the same place of the picture, is farther by as much as the camera is higher.
    let ratio = high.camera.height_m / low.camera.height_m;
    let mut found: Vec<f64> = (100 * 256..128 * 256)
        .filter(|&i| low.labels[i] == 0 && high.labels[i] == 0)
        .map(|i| f64::from(high.depth_m[i] / low.depth_m[i]) / ratio)
        .collect();
    found.sort_by(f64::total_cmp);
    assert!(found.len() > 2000, "{}", found.len());
    let median = found[found.len() / 2];
    assert!((median - 1.0).abs() < 0.03, "{median}");
}

#[test]
fn the_right_picture_is_the_left_one_moved_by_the_disparity() {
    let config = DriveConfig { baseline_m: 0.6, ..DriveConfig::new(3, 1, 256, 128) };
    let f = Drive::new(&config).frame(0, true);
    let right = f.right.as_ref().expect("a stereo frame");
    // Mean difference of left pixels to the right ones, found through a disparity that is wrong by `off` pixels.
    let difference = |off: f64| {
        let (mut sum, mut count) = (0.0, 0_u32);
        for y in 0..128_u32 {
            for x in 0..256_u32 {
                let disparity = config.baseline_m * config.focal_px / f64::from(f.depth_m[(y * 256 + x) as usize]);
                let target = f64::from(x) - disparity + off;
                if disparity > 1.0 && (0.0..255.0).contains(&target) {
                    let (a, b) = (f.left.get_pixel(x, y), right.get_pixel(target.round() as u32, y));
                    sum += (0..3).map(|k| f64::from(a[k].abs_diff(b[k]))).sum::<f64>();
                    count += 1;
                }
            }
        }
        assert!(count > 8000, "too few pixels to judge: {count}");
        sum / f64::from(count)
    };
    let right_one = difference(0.0);
    for off in [-4.0, -2.0, 2.0, 4.0] {
        let wrong = difference(off);
        assert!(right_one < 0.85 * wrong, "{right_one} against {wrong} at {off} pixels off");
    }
}

#[test]
fn all_classes_are_drawn() {
    let mut pixels = [0_u64; SCORED_CLASSES];
    for seed in 100..140 {
        for label in frame(seed, 192, 96).labels {
            pixels[usize::from(label)] += 1;
        }
    }
    let all: u64 = pixels.iter().sum();
    for (class, &count) in pixels.iter().enumerate() {
        assert!(count as f64 / all as f64 > 2e-4, "class {class} has {count} of {all} pixels");
    }
}

#[test]
fn the_cityscapes_layout_keeps_the_truth() {
    let folder = tempfile::tempdir().expect("a folder");
    let f = frame(21, 128, 64);
    let sample = Sample::new(folder.path(), "val", "street00000", 0, 0);
    crate::cli::render::write_frame(&sample, &f, true).expect("written");
    assert_eq!(
        Sample::index(folder.path(), "val", &ReadOptions::default()).expect("indexed"),
        std::slice::from_ref(&sample)
    );
    assert_eq!(sample.read_left().expect("the picture").as_raw(), f.left.as_raw());
    assert_eq!(sample.read_labels().expect("labels"), (f.labels.clone(), 128, 64));
    let (depth, w, h) = sample.read_depth().expect("depth");
    assert_eq!((w, h), (128, 64));
    assert!(depth.iter().zip(&f.depth_m).all(|(a, b)| a.to_bits() == b.to_bits()));
    // Without the exact depth the disparity serves, to half a step of its 1/256 pixel.
    std::fs::remove_file(sample.path(Part::Depth)).expect("removed");
    let bf = f.camera.baseline_m * f.camera.focal_px;
    for (found, exact) in sample.read_depth().expect("depth").0.into_iter().zip(&f.depth_m) {
        let disparity = bf / f64::from(*exact);
        if disparity < 1.0 / 512.0 {
            assert!(found.is_nan() || found > 1000.0, "{found} for {exact}");
        } else {
            assert!((bf / f64::from(found) - disparity).abs() < 1.0 / 500.0, "{found} for {exact}");
        }
    }
    // A frame that lacks a part is named.
    std::fs::remove_file(sample.path(Part::Labels)).expect("removed");
    let message = Sample::index(folder.path(), "val", &ReadOptions::default()).expect_err("no labels").to_string();
    assert!(message.contains("street00000_000000_000000_gtFine_labelIds.png"), "{message}");
    assert!(Sample::index(folder.path(), "train", &ReadOptions::default()).is_err());
}

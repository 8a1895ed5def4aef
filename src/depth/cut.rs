//! The article's literal "crop, then resize to the original scale", done to picture, labels, depth and camera alike.
//!
//! A picture whose edges are cut off and that is stretched to its old size no longer lies on the depth of the whole
//! one, so all parts of a frame go together into a data set of their own. Metres stay what they are; the stretch is
//! in the camera file, whose focal lengths and principal point are those of the new pixels.

use super::clean::Window;
use crate::data::cityscapes::{LabelFiles, Part, ReadOptions, Sample};
use crate::data::disk::{write_atomically, DataError};
use crate::data::picture;
use image::imageops::{crop_imm, resize, FilterType};
use image::RgbImage;

/// `values` (`[height, width]`) inside of `window`, stretched to `width` x `height` again, each from the nearest pixel:
/// neither labels nor depth may be mixed.
pub fn stretch<T: Copy>(values: &[T], width: usize, height: usize, window: Window) -> Vec<T> {
    let source = |i: usize, of: usize, n: usize| (2 * i + 1) * n / (2 * of);
    let columns: Vec<usize> = (0..width).map(|x| window.left + source(x, width, window.width)).collect();
    (0..height)
        .flat_map(|y| {
            let row = (window.top + source(y, height, window.height)) * width;
            columns.iter().map(move |x| values[row + x])
        })
        .collect()
}

/// Writes the picture, the labels that are there (ids and train ids) and the camera of `from`, cut to `window` and
/// stretched, as those of `to`.
///
/// # Errors
/// A part cannot be read or written, or labels differ from the picture in size.
pub fn write_frame(from: &Sample, to: &Sample, window: Window) -> Result<(), DataError> {
    let picture = from.read_left()?;
    let (width, height) = picture.dimensions();
    let part = crop_imm(&picture, window.left as u32, window.top as u32, window.width as u32, window.height as u32);
    let stretched: RgbImage = resize(&*part, width, height, FilterType::Triangle);
    to.write_picture(Part::Left, &stretched)?;
    for labels in [LabelFiles::LabelIds, LabelFiles::TrainIds] {
        let options = ReadOptions { labels, ..from.options().clone() };
        let (from, to) = (from.clone().with_options(&options), to.clone().with_options(&options));
        write_labels(&from, &to, (width, height), window)?;
    }
    write_camera(from, to, (width, height), window)
}

fn write_labels(from: &Sample, to: &Sample, size: (u32, u32), window: Window) -> Result<(), DataError> {
    let path = from.path(Part::Labels);
    if !path.is_file() {
        return Ok(());
    }
    let ids = picture::read_ids(&path)?;
    if ids.dimensions() != size {
        let (found, expected) = (ids.dimensions(), size);
        return Err(DataError::bad(&path, format!("expected {expected:?} pixels as the picture has, found {found:?}")));
    }
    let ids = stretch(ids.as_raw(), size.0 as usize, size.1 as usize, window);
    to.write_label_values(&ids, size.0, size.1)
}

/// The camera file with the intrinsics of the stretched pixels; all else stays.
fn write_camera(from: &Sample, to: &Sample, size: (u32, u32), window: Window) -> Result<(), DataError> {
    let path = from.path(Part::Camera);
    let text = std::fs::read_to_string(&path).map_err(DataError::io(&path))?;
    let mut json: serde_json::Value = serde_json::from_str(&text).map_err(|e| DataError::bad(&path, e.to_string()))?;
    let axes = [
        ("fx", "u0", f64::from(size.0) / window.width as f64, window.left),
        ("fy", "v0", f64::from(size.1) / window.height as f64, window.top),
    ];
    for (focal, center, scale, start) in axes {
        let intrinsic = &mut json["intrinsic"];
        let number = |key: &str| {
            intrinsic[key].as_f64().ok_or_else(|| {
                DataError::bad(&path, format!("expected a number at intrinsic.{key}, found {}", intrinsic[key]))
            })
        };
        // From the picture's edge, as everywhere: pixel 0 reaches from 0 to 1.
        let (f, c) = (number(focal)? * scale, (number(center)? - start as f64) * scale);
        intrinsic[focal] = f.into();
        intrinsic[center] = c.into();
    }
    write_atomically(&to.path(Part::Camera), |file| {
        use std::io::Write as _;
        writeln!(file, "{json:#}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::street::Camera;

    #[test]
    fn all_parts_of_a_frame_are_cut_alike() {
        let (a, b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (width, height) = (80_usize, 40_usize);
        let from = Sample::new(a.path(), "train", "town", 0, 0);
        let to = from.in_root(b.path());
        // Columns: class 0 left of column 40, class 13 right of it; the picture is black and white there.
        let right = |i: usize| i % width >= width / 2;
        let picture = RgbImage::from_fn(80, 40, |x, _| image::Rgb([if x >= 40 { 255 } else { 0 }; 3]));
        from.write_picture(Part::Left, &picture).expect("written");
        let labels: Vec<u8> = (0..width * height).map(|i| if right(i) { 13 } else { 0 }).collect();
        from.write_labels(&labels, 80, 40).expect("written");
        let camera = Camera {
            focal_px: 100.0,
            center_x: 40.0,
            center_y: 20.0,
            baseline_m: 0.2,
            height_m: 1.0,
            pitch: 0.0,
            yaw: 0.0,
            roll: 0.0,
        };
        from.write_camera(&camera).expect("written");
        let window = Window { left: 20, top: 0, width: 60, height: 30 };
        write_frame(&from, &to, window).expect("cut");
        // The edge between the halves was at 40, that is 20 of 60 columns: now 80 / 3 = 26.67.
        let picture = to.read_left().expect("read");
        let (labels, w, h) = to.read_labels().expect("read");
        assert_eq!((picture.dimensions(), w, h), ((80, 40), 80, 40));
        for y in [0, 20, 39] {
            assert!(picture.get_pixel(25, y).0[0] < 64 && picture.get_pixel(28, y).0[0] > 192);
            let row = &labels[y as usize * width..][..width];
            assert_eq!(row.iter().position(|&l| l == 13), Some(27));
        }
        let depth: Vec<f32> = (0..width * height).map(|i| if right(i) { 9.0 } else { 4.0 }).collect();
        let depth = stretch(&depth, width, height, window);
        assert!(depth.iter().zip(&labels).all(|(&d, &l)| (d == 9.0) == (l == 13)), "depth lies on the labels");
        let (fx, fy) = to.read_focal().expect("camera");
        assert!((fx - 100.0 * 80.0 / 60.0).abs() < 1e-9 && (fy - 100.0 * 40.0 / 30.0).abs() < 1e-9);
        // The edge between the halves, as the camera sees it: tan is kept.
        let text = std::fs::read_to_string(to.path(Part::Camera)).expect("read");
        let json: serde_json::Value = serde_json::from_str(&text).expect("json");
        let u0 = json["intrinsic"]["u0"].as_f64().expect("a number");
        assert!(((80.0 / 3.0 - u0) / fx - (40.0 - 40.0) / 100.0).abs() < 1e-9);
    }
}

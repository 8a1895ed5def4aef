//! What is changed of a frame's answers before they are published: classes without a distance, and parts of the image that are
//! to be ignored.

use super::camera::source_center;
use super::geometry::Geometry;
use super::pipeline::Outputs;
use crate::data::classes::UNLABELLED;
use crate::data::picture;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Depth becomes +Inf, "out of range" in REP 117 (to which REP 118 refers), where the label is of a class that has no distance.
/// `far`: by label. Both `height x width`.
pub fn set_far(labels: &[u8], depth_m: &mut [f32], far: &[bool; 256]) {
    for (metres, label) in depth_m.iter_mut().zip(labels) {
        if far[usize::from(*label)] {
            *metres = f32::INFINITY;
        }
    }
}

/// Shares of 1 as bytes, 0 to 255, and NaN as 0: a pixel of which nothing is known is not to be relied on.
pub fn confidence_bytes(confidence: &[f32], bytes: &mut Vec<u8>) {
    bytes.clear();
    // A float that is no number becomes 0.
    bytes.extend(confidence.iter().map(|share| (share * 255.0 + 0.5) as u8));
}

/// Grey value from which on a pixel is ignored: edges may be soft, and a JPEG's black is not quite black.
const WHITE: u8 = 128;

/// What of a camera's images is ignored, such as the vehicle that carries it.
#[derive(Debug)]
pub struct IgnoreMask {
    path: PathBuf,
    width: usize,
    height: usize,
    /// `height x width`
    is_ignored: Vec<bool>,
    /// Of the outputs' pixels, row by row, for the geometry at hand.
    runs: Option<(Geometry, Vec<Range<usize>>)>,
}

impl IgnoreMask {
    /// Reads it: what is white is ignored.
    ///
    /// # Errors
    /// It cannot be read as a picture, or has no pixel that is ignored or none that is not.
    pub fn read(path: &Path) -> Result<Self, String> {
        let grey = picture::size(path, None)
            .and_then(|_| picture::read(path, None))
            .map_err(|e| format!("ignore_mask: {e}"))?
            .into_luma8();
        let (width, height) = (grey.width() as usize, grey.height() as usize);
        let is_ignored: Vec<bool> = grey.into_raw().into_iter().map(|value| value >= WHITE).collect();
        let white = is_ignored.iter().filter(|is| **is).count();
        if white == 0 || white == is_ignored.len() {
            let colour = if white == 0 { "black" } else { "white" };
            return Err(format!(
                "ignore_mask: {}: expected a picture that is white where the image is to be ignored and black elsewhere; all of it \
                 is {colour}",
                path.display()
            ));
        }
        Ok(Self { path: path.into(), width, height, is_ignored, runs: None })
    }

    /// Makes it fit the outputs of a geometry; costs nothing for the geometry of the frame before.
    ///
    /// # Errors
    /// The images have another aspect.
    pub fn fit(&mut self, geometry: &Geometry) -> Result<(), String> {
        if self.runs.as_ref().is_some_and(|(of, _)| of == geometry) {
            return Ok(());
        }
        let (width, height) = geometry.source();
        // Equal but for the rounding of a side to whole pixels.
        let difference = (self.width * height).abs_diff(self.height * width);
        if difference > width.max(height).max(self.width).max(self.height) {
            return Err(format!(
                "ignore_mask {} has {}x{} pixels, which is another aspect than that of the images, {width}x{height}; expected \
                 a picture of their size or scaled evenly",
                self.path.display(),
                self.width,
                self.height
            ));
        }
        self.runs = Some((geometry.clone(), self.runs_of(geometry)));
        Ok(())
    }

    /// Runs of ignored pixels in the outputs, by the mask's pixel under their centre.
    fn runs_of(&self, geometry: &Geometry) -> Vec<Range<usize>> {
        let (map, source, (columns, rows)) = (geometry.output_from_source(), geometry.source(), geometry.output());
        // `None` outside of the image: bars, of which nothing is known anyway.
        let at = |i: usize, scale: f64, offset: f64, source: usize, mask: usize| -> Option<usize> {
            let share = (source_center(i, scale, offset) + 0.5) / source as f64;
            (0.0..1.0).contains(&share).then(|| ((share * mask as f64) as usize).min(mask - 1))
        };
        let across: Vec<Option<usize>> =
            (0..columns).map(|x| at(x, map.scale_x, map.offset_x, source.0, self.width)).collect();
        let mut runs: Vec<Range<usize>> = Vec::new();
        for y in 0..rows {
            let Some(row) = at(y, map.scale_y, map.offset_y, source.1, self.height) else { continue };
            let row = &self.is_ignored[row * self.width..][..self.width];
            for (x, column) in across.iter().enumerate() {
                if !column.is_some_and(|column| row[column]) {
                    continue;
                }
                let pixel = y * columns + x;
                match runs.last_mut() {
                    Some(run) if run.end == pixel => run.end += 1,
                    _ => runs.push(pixel..pixel + 1),
                }
            }
        }
        runs
    }

    /// What lies in it is unlabelled, without depth and confidence, `neither` free nor an obstacle in the mask, and black in the
    /// pictures.
    /// [`Self::fit`] comes first: what it was not made for is left as it is.
    pub fn apply(&self, geometry: &Geometry, outputs: &mut Outputs, neither: u8) {
        let Some((_, runs)) = self.runs.as_ref().filter(|(of, _)| of == geometry) else { return };
        let Outputs { width: _, height: _, labels, depth_m, confidence, overlay, colors, mask, normals: _ } = outputs;
        fill(labels, runs, 1, UNLABELLED);
        fill(depth_m, runs, 1, f32::NAN);
        fill(confidence, runs, 1, f32::NAN);
        fill(overlay, runs, 3, 0);
        fill(colors, runs, 3, 0);
        fill(mask, runs, 1, neither);
    }
}

/// An output that was not wanted is empty.
fn fill<T: Copy>(values: &mut [T], runs: &[Range<usize>], channels: usize, value: T) {
    for run in runs {
        if let Some(part) = values.get_mut(run.start * channels..run.end * channels) {
            part.fill(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::geometry::{OutputSize, Placement, Rect, ResizeMode};

    #[test]
    fn classes_without_a_distance_are_infinitely_far() {
        let mut far = [false; 256];
        far[10] = true;
        let mut depth = [5.0, 190.0, f32::NAN, 3.0];
        set_far(&[0, 10, 10, UNLABELLED], &mut depth, &far);
        assert_eq!(depth.map(f32::to_bits), [5.0, f32::INFINITY, f32::INFINITY, 3.0].map(f32::to_bits));
    }

    #[test]
    fn a_share_becomes_the_nearest_byte() {
        let mut bytes = vec![9; 3];
        confidence_bytes(&[0.0, 1.0, 0.5, 0.1, f32::NAN], &mut bytes);
        assert_eq!(bytes, [0, 255, 128, 26, 0]);
    }

    /// Rows of `#` (white) and `.`, each character so many pixels wide and high.
    fn mask(rows: &[&str], scale: usize) -> IgnoreMask {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mask.png");
        let (width, height) = (rows[0].len() * scale, rows.len() * scale);
        let white = |x: u32, y: u32| rows[y as usize / scale].as_bytes()[x as usize / scale] == b'#';
        image::GrayImage::from_fn(width as u32, height as u32, |x, y| {
            image::Luma([if white(x, y) { 200 } else { 20 }])
        })
        .save(&path)
        .expect("written");
        IgnoreMask::read(&path).expect("a mask")
    }

    fn outputs((width, height): (usize, usize)) -> Outputs {
        let pixels = width * height;
        Outputs {
            width,
            height,
            labels: vec![3; pixels],
            depth_m: vec![7.0; pixels],
            confidence: Vec::new(),
            overlay: vec![90; 3 * pixels],
            colors: vec![80; 3 * pixels],
            mask: vec![0; pixels],
            normals: Vec::new(),
        }
    }

    /// What is ignored of the outputs, as rows of `#` and `.`; every output says the same.
    fn ignored(mask: &mut IgnoreMask, placement: &Placement, source: (usize, usize)) -> Vec<String> {
        let geometry = Geometry::new(placement, source, (8, 4)).expect("a geometry");
        mask.fit(&geometry).expect("the aspect of the images");
        let mut o = outputs(geometry.output());
        mask.apply(&geometry, &mut o, 127);
        let row = |y: usize| -> String {
            (y * o.width..(y + 1) * o.width)
                .map(|i| {
                    let is = o.labels[i] == UNLABELLED;
                    let pixel = (o.depth_m[i].is_nan(), o.mask[i], o.overlay[3 * i + 2], o.colors[3 * i]);
                    assert_eq!(pixel, if is { (true, 127, 0, 0) } else { (false, 0, 90, 80) }, "pixel {i}");
                    if is {
                        '#'
                    } else {
                        '.'
                    }
                })
                .collect()
        };
        assert!(o.confidence.is_empty(), "it was not wanted");
        (0..o.height).map(row).collect()
    }

    #[test]
    fn what_is_white_is_ignored_at_every_size_of_mask_image_and_output() {
        let rows = ["........", "........", "..####..", ".######."];
        let whole = Placement::default();
        for scale in [1, 3] {
            assert_eq!(ignored(&mut mask(&rows, scale), &whole, (8, 4)), rows);
        }
        // The same picture for images of another size, one after the other.
        let mut one = mask(&rows, 2);
        let double = ignored(&mut one, &whole, (16, 8));
        assert_eq!((double[4].as_str(), double[7].as_str()), ("....########....", "..############.."));
        let fixed = Placement { output: OutputSize::Fixed { width: 4, height: 4 }, ..whole.clone() };
        assert_eq!(ignored(&mut one, &fixed, (16, 8)), ["....", "....", ".##.", "###."], "the pixel under the centre");
        assert_eq!(ignored(&mut one, &whole, (8, 4)), rows);
    }

    #[test]
    fn it_lies_where_the_image_lies_in_the_outputs() {
        let rows = ["#...", "...."];
        // The output is the network's grid, which shows a part of the image.
        let roi = Placement {
            mode: ResizeMode::Roi,
            roi: Some(Rect { x: 2, y: 0, width: 4, height: 2 }),
            output: OutputSize::Network,
        };
        let seen = ignored(&mut mask(&rows, 2), &roi, (8, 4));
        assert_eq!(
            seen,
            ["####....", "####....", "####....", "####...."].map(|_| "....".repeat(2)),
            "left of what is seen"
        );
        let roi = Placement { roi: Some(Rect { x: 0, y: 0, width: 4, height: 2 }), ..roi };
        assert_eq!(ignored(&mut mask(&rows, 2), &roi, (8, 4)), ["####....", "####....", "####....", "####...."]);
    }

    #[test]
    fn a_mask_that_does_not_fit_is_told() {
        let mut mask = mask(&["#...", "...."], 10);
        let geometry = |source| Geometry::new(&Placement::default(), source, (8, 4)).expect("a geometry");
        assert_eq!(mask.fit(&geometry((801, 400))), Ok(()), "rounded to whole pixels");
        let why = mask.fit(&geometry((640, 480))).expect_err("another aspect");
        assert!(why.contains("has 40x20 pixels") && why.contains("640x480"), "{why}");
        // Nothing is ignored where another image was.
        let mut o = outputs((640, 480));
        mask.apply(&geometry((640, 480)), &mut o, 127);
        assert!(o.labels.iter().all(|label| *label == 3));

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mask.png");
        for (grey, colour) in [(0, "black"), (255, "white")] {
            image::GrayImage::from_pixel(4, 2, image::Luma([grey])).save(&path).expect("written");
            let why = IgnoreMask::read(&path).expect_err(colour);
            assert!(why.contains(&format!("all of it is {colour}")), "{why}");
        }
        let why = IgnoreMask::read(&folder.path().join("none.png")).expect_err("no file");
        assert!(why.starts_with("ignore_mask: ") && why.contains("none.png"), "{why}");
    }
}

//! The Cityscapes folder layout, written and read.
//!
//! `<root>/leftImg8bit/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png`, likewise `rightImg8bit`, `gtFine`
//! (`_gtFine_labelIds.png`), `disparity` (`_disparity.png`, 16 bit: 0 invalid, else (p - 1) / 256), `camera`
//! (`_camera.json`), and beside what Cityscapes has, `exactDepth` (`_depth.npy`, float32 metres, inf in the sky) and
//! any other folder of dense depth. Files belong together by their names. [`ReadOptions`] say which are read.

mod index;
mod options;
#[cfg(test)]
mod tests;

#[cfg(feature = "ros")]
pub(crate) use index::no_root;
pub use options::{folder_name, DepthFiles, LabelFiles, ReadOptions};

use super::disk::{read_text, write_atomically, DataError};
use super::picture::{self, write_png, Numbers};
use super::street::Camera;
use super::{classes, npy};
use image::{ImageBuffer, Luma, RgbImage};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The kinds of file of one frame: folder and the end of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Left picture.
    Left,
    /// Right picture.
    Right,
    /// Labels: Cityscapes label ids, or what the frame's [`ReadOptions`] say.
    Labels,
    /// 16-bit disparity.
    Disparity,
    /// Camera parameters.
    Camera,
    /// Exact depth.
    Depth,
}

impl Part {
    /// Its folder, and the end of its files' names.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            Part::Left => ("leftImg8bit", "_leftImg8bit.png"),
            Part::Right => ("rightImg8bit", "_rightImg8bit.png"),
            Part::Labels => ("gtFine", "_gtFine_labelIds.png"),
            Part::Disparity => ("disparity", "_disparity.png"),
            Part::Camera => ("camera", "_camera.json"),
            Part::Depth => ("exactDepth", "_depth.npy"),
        }
    }
}

/// End of the name of a label file with train ids.
const TRAIN_IDS_ENDING: &str = "_gtFine_labelTrainIds.png";

/// Ends of the names of dense depth in a folder; the first one that is there is read.
fn depth_endings(folder: &str) -> [String; 3] {
    ["_depth.npy".into(), ".npy".into(), format!("_{folder}.npy")]
}

/// One frame of a data set, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    root: PathBuf,
    split: String,
    city: String,
    /// `<city>_<seq>_<frame>`.
    stem: String,
    options: Arc<ReadOptions>,
}

/// Where a frame's depth is read from.
enum DepthOrigin {
    Npy(PathBuf),
    /// With the camera.
    Disparity,
}

impl Sample {
    /// The frame `frame` of sequence `seq`, read with the default options.
    pub fn new(root: &Path, split: &str, city: &str, seq: usize, frame: usize) -> Self {
        let stem = format!("{city}_{seq:06}_{frame:06}");
        Self::named(root, split, city, &stem)
    }

    /// The frame of any name, such as [`Sample::index`] finds, read with the default options.
    pub fn named(root: &Path, split: &str, city: &str, stem: &str) -> Self {
        Self { root: root.into(), split: split.into(), city: city.into(), stem: stem.into(), options: Arc::default() }
    }

    /// Name of the frame without folder and ending.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Which of its files are read.
    pub fn options(&self) -> &ReadOptions {
        &self.options
    }

    /// The same frame, read with other options.
    #[must_use]
    pub fn with_options(self, options: &ReadOptions) -> Self {
        Self { options: Arc::new(options.clone()), ..self }
    }

    /// The frame of the same name in another data set.
    #[must_use]
    pub fn in_root(&self, root: &Path) -> Self {
        Self { root: root.into(), ..self.clone() }
    }

    /// Where a part of it is.
    pub fn path(&self, part: Part) -> PathBuf {
        let (folder, ending) = part.names();
        match (part, self.options.labels) {
            (Part::Labels, LabelFiles::TrainIds) => self.file(folder, TRAIN_IDS_ENDING),
            _ => self.file(folder, ending),
        }
    }

    fn file(&self, folder: &str, ending: &str) -> PathBuf {
        self.root.join(folder).join(&self.split).join(&self.city).join(format!("{}{ending}", self.stem))
    }

    /// Its dense depth in a folder beside `leftImg8bit`: of the names `<stem>_depth.npy`, `<stem>.npy` and
    /// `<stem>_<folder>.npy` the first that is there; the first of all where none is, which is the one to write.
    pub fn depth_file(&self, folder: &str) -> PathBuf {
        let [first, others @ ..] = depth_endings(folder).map(|ending| self.file(folder, &ending));
        let there = |path: &PathBuf| path.is_file();
        if there(&first) {
            return first;
        }
        others.into_iter().find(there).unwrap_or(first)
    }

    fn depth_origin(&self) -> Option<DepthOrigin> {
        match &self.options.depth {
            DepthFiles::Auto => {
                let exact = self.path(Part::Depth);
                Some(if exact.is_file() { DepthOrigin::Npy(exact) } else { DepthOrigin::Disparity })
            }
            DepthFiles::Disparity => Some(DepthOrigin::Disparity),
            DepthFiles::Folder(name) => Some(DepthOrigin::Npy(self.depth_file(name))),
            DepthFiles::None => None,
        }
    }

    /// The left picture.
    pub fn read_left(&self) -> Result<RgbImage, DataError> {
        read_picture(&self.path(Part::Left))
    }

    /// The right picture.
    pub fn read_right(&self) -> Result<RgbImage, DataError> {
        read_picture(&self.path(Part::Right))
    }

    /// Train ids (19 unlabelled), row by row, with width and height.
    ///
    /// # Errors
    /// The file cannot be read, is not 8-bit grey, or holds a value that is none of the ids that the options say; or they ask
    /// for no labels.
    pub fn read_labels(&self) -> Result<(Vec<u8>, u32, u32), DataError> {
        let (meaning, expected, remedy): (fn(u8) -> Option<u8>, _, _) = match self.options.labels {
            LabelFiles::LabelIds => (
                |id| classes::is_label_id(id).then(|| classes::train_id(id)),
                "Cityscapes' label ids (0 to 34, or 255 for none)",
                "; ids of your own are read as a folder with a mapping (layout: folder, for evaluate --layout folder), train \
                 ids with labels: train_ids (--label-files train_ids)",
            ),
            LabelFiles::TrainIds => (
                |id| match id {
                    classes::UNLABELLED => Some(classes::UNLABELLED_TRAIN_ID),
                    id => (id <= classes::UNLABELLED_TRAIN_ID).then_some(id),
                },
                "train ids (0 to 18; 19 or 255 unlabelled)",
                "",
            ),
            LabelFiles::None => return Err(self.not_asked_for("labels")),
        };
        let table: [Option<u8>; 256] = std::array::from_fn(|id| meaning(id as u8));
        let path = self.path(Part::Labels);
        let ids = picture::read_ids(&path)?;
        let (w, h) = ids.dimensions();
        let mut train_ids = ids.into_raw();
        for (i, id) in train_ids.iter_mut().enumerate() {
            *id = table[usize::from(*id)].ok_or_else(|| {
                let (x, y) = (i as u32 % w, i as u32 / w);
                let what = format!("expected {expected}, found {id} at column {x}, row {y}{remedy}");
                DataError::bad(&path, what)
            })?;
        }
        Ok((train_ids, w, h))
    }

    /// Depth in metres, row by row (NaN where it is not known, inf in the sky), with width and height, from where the
    /// options say: dense depth, or baseline x fx / disparity.
    ///
    /// # Errors
    /// The file cannot be read; or the options ask for no depth.
    pub fn read_depth(&self) -> Result<(Vec<f32>, u32, u32), DataError> {
        match self.depth_origin() {
            Some(DepthOrigin::Npy(path)) => npy::read(&path),
            Some(DepthOrigin::Disparity) => {
                let (disparity, w, h) = self.read_disparity()?;
                let (baseline_m, focal_px) = self.read_camera()?;
                let depth = disparity.into_iter().map(|d| if d > 0.0 { baseline_m * focal_px / d } else { f32::NAN });
                Ok((depth.collect(), w, h))
            }
            None => Err(self.not_asked_for("depth")),
        }
    }

    fn not_asked_for(&self, what: &str) -> DataError {
        DataError::Split(format!("{}: its data set is read without {what}; set `{what}` to read it", self.stem))
    }

    /// Disparity in pixels (0 where it is not known), with width and height.
    pub fn read_disparity(&self) -> Result<(Vec<f32>, u32, u32), DataError> {
        let path = self.path(Part::Disparity);
        let picture = picture::read(&path, Some(Numbers::Disparity))?;
        let image::DynamicImage::ImageLuma16(codes) = picture else {
            return Err(DataError::bad(
                &path,
                format!("expected a 16-bit grey disparity, found {:?}", picture.color()),
            ));
        };
        let (w, h) = codes.dimensions();
        Ok((codes.into_raw().into_iter().map(decode_disparity).collect(), w, h))
    }

    /// Baseline in metres and horizontal focal length in pixels.
    pub fn read_camera(&self) -> Result<(f32, f32), DataError> {
        let [baseline_m, focal_px] = self.camera_numbers([("extrinsic", "baseline"), ("intrinsic", "fx")])?;
        Ok((baseline_m as f32, focal_px as f32))
    }

    /// Horizontal and vertical focal length in pixels.
    ///
    /// # Errors
    /// The camera file cannot be read or lacks them.
    pub fn read_focal(&self) -> Result<(f64, f64), DataError> {
        let [x, y] = self.camera_numbers([("intrinsic", "fx"), ("intrinsic", "fy")])?;
        Ok((x, y))
    }

    /// Where the optical axis goes through the picture, pixels from its left and upper edge.
    ///
    /// # Errors
    /// The camera file cannot be read or lacks it.
    pub fn read_principal(&self) -> Result<(f64, f64), DataError> {
        let [x, y] = self.camera_numbers([("intrinsic", "u0"), ("intrinsic", "v0")])?;
        Ok((x, y))
    }

    /// Positive numbers of the camera file.
    fn camera_numbers<const N: usize>(&self, keys: [(&str, &str); N]) -> Result<[f64; N], DataError> {
        let path = self.path(Part::Camera);
        let text = read_text(&path)?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| DataError::bad(&path, e.to_string()))?;
        let mut numbers = [0.0; N];
        for (number, (a, b)) in numbers.iter_mut().zip(keys) {
            *number = json[a][b].as_f64().filter(|v| v.is_finite() && *v > 0.0).ok_or_else(|| {
                DataError::bad(&path, format!("expected a positive number at {a}.{b}, found {}", json[a][b]))
            })?;
        }
        Ok(numbers)
    }

    /// Writes a part that is a colour picture.
    pub fn write_picture(&self, part: Part, picture: &RgbImage) -> Result<(), DataError> {
        write_png(&self.path(part), picture.as_raw(), picture.width(), picture.height(), image::ExtendedColorType::Rgb8)
    }

    /// Writes train ids as Cityscapes label ids.
    pub fn write_labels(&self, train_ids: &[u8], width: u32, height: u32) -> Result<(), DataError> {
        let ids: Vec<u8> = train_ids.iter().map(|&t| classes::label_id(t)).collect();
        write_png(&self.path(Part::Labels), &ids, width, height, image::ExtendedColorType::L8)
    }

    /// Writes the values of a label file as they are.
    pub(crate) fn write_label_values(&self, values: &[u8], width: u32, height: u32) -> Result<(), DataError> {
        write_png(&self.path(Part::Labels), values, width, height, image::ExtendedColorType::L8)
    }

    /// Writes depth as disparity of a stereo pair.
    pub fn write_disparity(&self, depth_m: &[f32], camera: &Camera, width: u32, height: u32) -> Result<(), DataError> {
        let bf = (camera.baseline_m * camera.focal_px) as f32;
        let codes = depth_m.iter().map(|&d| encode_disparity(bf / d)).collect();
        self.write_disparity_codes(codes, width, height)
    }

    /// Writes Cityscapes' codes of disparity (see [`encode_disparity`]).
    pub fn write_disparity_codes(&self, codes: Vec<u16>, width: u32, height: u32) -> Result<(), DataError> {
        let path = self.path(Part::Disparity);
        let n = codes.len();
        let picture = ImageBuffer::<Luma<u16>, Vec<u16>>::from_raw(width, height, codes)
            .ok_or_else(|| DataError::bad(&path, format!("{n} disparities for {width}x{height} pixels")))?;
        let mut png = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut png, image::ImageFormat::Png).map_err(|e| DataError::bad(&path, e.to_string()))?;
        write_atomically(&path, |file| file.write_all(png.get_ref()))
    }

    /// Writes exact depth.
    pub fn write_depth(&self, depth_m: &[f32], width: u32, height: u32) -> Result<(), DataError> {
        npy::write(&self.path(Part::Depth), depth_m, width, height, npy::Precision::Single)
    }

    /// Writes the camera under Cityscapes' keys.
    pub fn write_camera(&self, camera: &Camera) -> Result<(), DataError> {
        let json = serde_json::json!({
            "extrinsic": {
                "baseline": camera.baseline_m, "pitch": camera.pitch, "roll": camera.roll, "x": 0.0, "y": 0.0,
                "yaw": camera.yaw, "z": camera.height_m,
            },
            "intrinsic": {
                "fx": camera.focal_px, "fy": camera.focal_px, "u0": camera.center_x, "v0": camera.center_y,
            },
        });
        write_atomically(&self.path(Part::Camera), |file| writeln!(file, "{json:#}"))
    }

    /// Removes a part, if it is there.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn remove(&self, part: Part) -> Result<(), DataError> {
        let path = self.path(part);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(DataError::io(&path)(e)),
            _ => Ok(()),
        }
    }
}

fn read_picture(path: &Path) -> Result<RgbImage, DataError> {
    Ok(picture::read(path, None)?.into_rgb8())
}

/// Cityscapes' 16-bit code of a disparity in pixels; 0 for none, and for one that has no code: 256 pixels or more,
/// which the largest code would show too far away.
pub fn encode_disparity(pixels: f32) -> u16 {
    let code = (pixels * 256.0 + 1.0).round();
    if pixels > 0.0 && code <= f32::from(u16::MAX) {
        code as u16
    } else {
        0
    }
}

/// Disparity in pixels of Cityscapes' 16-bit code; 0 for none.
pub fn decode_disparity(code: u16) -> f32 {
    if code == 0 {
        0.0
    } else {
        (f32::from(code) - 1.0) / 256.0
    }
}

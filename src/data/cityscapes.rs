//! The Cityscapes folder layout, written and read.
//!
//! `<root>/leftImg8bit/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png`, likewise `rightImg8bit`, `gtFine`
//! (`_gtFine_labelIds.png`), `disparity` (`_disparity.png`, 16 bit: 0 invalid, else (p - 1) / 256), `camera`
//! (`_camera.json`), and beside what Cityscapes has, `exactDepth` (`_depth.npy`, float32 metres, inf in the sky).
//! Files belong together by their names.

use super::classes;
use super::street::Camera;
use image::{ImageBuffer, ImageEncoder as _, Luma, RgbImage};
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// The kinds of file of one frame: folder and the end of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Left picture.
    Left,
    /// Right picture.
    Right,
    /// Cityscapes label ids.
    Labels,
    /// 16-bit disparity.
    Disparity,
    /// Camera parameters.
    Camera,
    /// Exact depth.
    Depth,
}

impl Part {
    fn names(self) -> (&'static str, &'static str) {
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

/// What can go wrong with a data set on disk.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {what}")]
    Bad {
        /// Which one.
        path: PathBuf,
        /// Expected, found, and what to do.
        what: String,
    },
    /// A split cannot be used.
    #[error("{0}")]
    Split(String),
}

impl DataError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }

    fn bad(path: &Path, what: impl Into<String>) -> Self {
        Self::Bad { path: path.into(), what: what.into() }
    }
}

/// One frame of a data set, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    root: PathBuf,
    split: String,
    city: String,
    /// `<city>_<seq>_<frame>`.
    stem: String,
}

impl Sample {
    /// The frame `frame` of sequence `seq`.
    pub fn new(root: &Path, split: &str, city: &str, seq: usize, frame: usize) -> Self {
        let stem = format!("{city}_{seq:06}_{frame:06}");
        Self { root: root.into(), split: split.into(), city: city.into(), stem }
    }

    /// Name of the frame without folder and ending.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Where a part of it is.
    pub fn path(&self, part: Part) -> PathBuf {
        let (folder, ending) = part.names();
        self.root.join(folder).join(&self.split).join(&self.city).join(format!("{}{ending}", self.stem))
    }

    /// All frames of a split that have a picture, labels, and depth or disparity with a camera, sorted by name.
    ///
    /// # Errors
    /// An empty split, or any frame that lacks its labels or its depth: the first such files are named.
    pub fn index(root: &Path, split: &str) -> Result<Vec<Self>, DataError> {
        let folder = root.join(Part::Left.names().0).join(split);
        let list = |path: &Path| -> Result<Vec<PathBuf>, DataError> {
            let mut out = Vec::new();
            for entry in fs::read_dir(path).map_err(DataError::io(path))? {
                out.push(entry.map_err(DataError::io(path))?.path());
            }
            out.sort();
            Ok(out)
        };
        let mut samples = Vec::new();
        for city_path in list(&folder)?.into_iter().filter(|p| p.is_dir()) {
            let city = city_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for file in list(&city_path)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(stem) = name.strip_suffix(Part::Left.names().1) {
                    samples.push(Self {
                        root: root.into(),
                        split: split.into(),
                        city: city.clone(),
                        stem: stem.into(),
                    });
                }
            }
        }
        if samples.is_empty() {
            return Err(DataError::Split(format!(
                "{}: no *_leftImg8bit.png in any city folder; expected the Cityscapes layout",
                folder.display()
            )));
        }
        let mut missing = Vec::new();
        for s in &samples {
            if !s.path(Part::Labels).is_file() {
                missing.push(s.path(Part::Labels));
            }
            let exact = s.path(Part::Depth).is_file();
            if !(exact || s.path(Part::Disparity).is_file() && s.path(Part::Camera).is_file()) {
                missing.push(s.path(Part::Depth));
            }
        }
        if !missing.is_empty() {
            let named: Vec<_> = missing.iter().take(5).map(|p| p.display().to_string()).collect();
            return Err(DataError::Split(format!(
                "split '{split}' of {}: {} of {} frames lack labels, or depth (exactDepth, or disparity with camera); \
                 missing: {}{}",
                root.display(),
                missing.len(),
                samples.len(),
                named.join(", "),
                if missing.len() > 5 { ", ..." } else { "" }
            )));
        }
        Ok(samples)
    }

    /// The left picture.
    pub fn read_left(&self) -> Result<RgbImage, DataError> {
        let path = self.path(Part::Left);
        Ok(image::open(&path).map_err(|e| DataError::bad(&path, e.to_string()))?.into_rgb8())
    }

    /// Train ids, row by row, with width and height.
    pub fn read_labels(&self) -> Result<(Vec<u8>, u32, u32), DataError> {
        let path = self.path(Part::Labels);
        let picture = image::open(&path).map_err(|e| DataError::bad(&path, e.to_string()))?;
        let image::DynamicImage::ImageLuma8(ids) = picture else {
            return Err(DataError::bad(&path, format!("expected 8-bit grey label ids, found {:?}", picture.color())));
        };
        let table: [u8; 256] = std::array::from_fn(|i| classes::train_id(i as u8));
        let (w, h) = ids.dimensions();
        Ok((ids.into_raw().into_iter().map(|i| table[usize::from(i)]).collect(), w, h))
    }

    /// Depth in metres, row by row (NaN where it is not known, inf in the sky), with width and height: the exact one
    /// where it exists, else baseline x fx / disparity.
    pub fn read_depth(&self) -> Result<(Vec<f32>, u32, u32), DataError> {
        let path = self.path(Part::Depth);
        if path.is_file() {
            let t = tch::Tensor::read_npy(&path).map_err(|e| DataError::bad(&path, first_line(&e)))?;
            let size = t.size();
            let &[h, w] = size.as_slice() else {
                return Err(DataError::bad(&path, format!("expected depth of shape [height, width], found {size:?}")));
            };
            let flat = t.to_kind(tch::Kind::Float).contiguous().view([-1]);
            let values = Vec::<f32>::try_from(flat).map_err(|e| DataError::bad(&path, first_line(&e)))?;
            return Ok((values, w as u32, h as u32));
        }
        let (disparity, w, h) = self.read_disparity()?;
        let (baseline_m, focal_px) = self.read_camera()?;
        let depth = disparity.into_iter().map(|d| if d > 0.0 { baseline_m * focal_px / d } else { f32::NAN });
        Ok((depth.collect(), w, h))
    }

    /// Disparity in pixels (0 where it is not known), with width and height.
    pub fn read_disparity(&self) -> Result<(Vec<f32>, u32, u32), DataError> {
        let path = self.path(Part::Disparity);
        let picture = image::open(&path).map_err(|e| DataError::bad(&path, e.to_string()))?;
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

    /// Positive numbers of the camera file.
    fn camera_numbers<const N: usize>(&self, keys: [(&str, &str); N]) -> Result<[f64; N], DataError> {
        let path = self.path(Part::Camera);
        let text = fs::read_to_string(&path).map_err(DataError::io(&path))?;
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

    /// Writes depth as disparity of a stereo pair.
    pub fn write_disparity(&self, depth_m: &[f32], camera: &Camera, width: u32, height: u32) -> Result<(), DataError> {
        let path = self.path(Part::Disparity);
        let codes =
            depth_m.iter().map(|&d| encode_disparity((camera.baseline_m * camera.focal_px) as f32 / d)).collect();
        let picture = ImageBuffer::<Luma<u16>, Vec<u16>>::from_raw(width, height, codes)
            .ok_or_else(|| DataError::bad(&path, format!("{} depths for {width}x{height} pixels", depth_m.len())))?;
        create_parent(&path)?;
        picture.save(&path).map_err(|e| DataError::bad(&path, e.to_string()))
    }

    /// Writes exact depth.
    pub fn write_depth(&self, depth_m: &[f32], width: u32, height: u32) -> Result<(), DataError> {
        let path = self.path(Part::Depth);
        create_parent(&path)?;
        tch::Tensor::from_slice(depth_m)
            .f_view([i64::from(height), i64::from(width)])
            .and_then(|t| t.write_npy(&path))
            .map_err(|e| DataError::bad(&path, first_line(&e)))
    }

    /// Writes the camera under Cityscapes' keys.
    pub fn write_camera(&self, camera: &Camera) -> Result<(), DataError> {
        let path = self.path(Part::Camera);
        create_parent(&path)?;
        let json = serde_json::json!({
            "extrinsic": {
                "baseline": camera.baseline_m, "pitch": camera.pitch, "roll": camera.roll, "x": 0.0, "y": 0.0,
                "yaw": camera.yaw, "z": camera.height_m,
            },
            "intrinsic": {
                "fx": camera.focal_px, "fy": camera.focal_px, "u0": camera.center_x, "v0": camera.center_y,
            },
        });
        fs::write(&path, format!("{json:#}\n")).map_err(DataError::io(&path))
    }
}

/// First line of a torch error: the rest is a C++ backtrace.
fn first_line(e: &impl std::fmt::Display) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}

/// Cityscapes' 16-bit code of a disparity in pixels; 0 for none.
pub fn encode_disparity(pixels: f32) -> u16 {
    if pixels.is_finite() && pixels > 0.0 {
        (pixels * 256.0 + 1.0).round().clamp(1.0, 65535.0) as u16
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

fn create_parent(path: &Path) -> Result<(), DataError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(DataError::io(parent)),
        None => Ok(()),
    }
}

fn write_png(path: &Path, bytes: &[u8], w: u32, h: u32, kind: image::ExtendedColorType) -> Result<(), DataError> {
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    create_parent(path)?;
    let file = fs::File::create(path).map_err(DataError::io(path))?;
    PngEncoder::new_with_quality(BufWriter::new(file), CompressionType::Fast, FilterType::Sub)
        .write_image(bytes, w, h, kind)
        .map_err(|e| DataError::bad(path, e.to_string()))
}

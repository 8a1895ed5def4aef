//! The golden input of a model: a picture, and what the network answered to it in single precision when the model was
//! exported. Whatever runs the model later, in whatever precision, is compared with it before it is used.

use super::{ArtifactError, Manifest};
use crate::data::street::{Drive, DriveConfig};
use crate::model::weights;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use tch::{Kind, Tensor};

/// Its file in a model's folder.
pub const GOLDEN: &str = "golden.safetensors";

/// Seed of the street that is drawn: any would do, and this one has cars, people and poles near and far.
const SEED: u64 = 20;

/// A picture and its answer.
#[derive(Debug)]
pub struct Golden {
    /// rgb, `height x width x 3` of the network's input.
    pub image: Vec<u8>,
    /// `[rows][columns][channels]`: every so many-th row and column of the answer.
    answer: Vec<f32>,
    /// How many-th.
    stride: usize,
}

/// How far an answer is from another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Deviation {
    /// Share of pixels with another label.
    pub labels: f64,
    /// Median of the depth's relative difference.
    pub depth_median: f64,
    /// Greatest relative difference of the depth.
    pub depth_most: f64,
}

impl Deviation {
    /// None at all.
    pub const NONE: Self = Self { labels: 0.0, depth_median: 0.0, depth_most: 0.0 };

    /// Whether nothing exceeds its limit (what is not a number does).
    pub fn is_within(&self, limit: &Self) -> bool {
        self.labels <= limit.labels && self.depth_median <= limit.depth_median && self.depth_most <= limit.depth_most
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { labels, depth_median, depth_most } = self;
        write!(
            f,
            "{:.3} % of labels differ, depth by {:.2e} in the median and {:.2e} at most",
            100.0 * labels,
            depth_median,
            depth_most
        )
    }
}

/// A street, drawn at the size of the network's input: `height x width x 3`, rgb.
pub fn picture(width: usize, height: usize) -> Vec<u8> {
    Drive::new(&DriveConfig::new(SEED, 1, width, height)).frame(0, false).left.into_raw()
}

/// Writes a golden input. `answer` is `[channels, height, width]`, float32; of one that is as large as the input every
/// fourth row and column is kept.
///
/// # Errors
/// The folder cannot be written to.
pub fn write(path: &Path, image: &[u8], answer: &Tensor, manifest: &Manifest) -> Result<(), weights::WeightsError> {
    let (width, height) = (manifest.input.width as i64, manifest.input.height as i64);
    let stride = if manifest.answer_size() == (manifest.input.width, manifest.input.height) { 4 } else { 1 };
    let kept = answer.slice(1, None, None, stride).slice(2, None, None, stride);
    let tensors = [
        ("answer".to_string(), kept.permute([1, 2, 0]).contiguous()),
        ("image".to_string(), Tensor::from_slice(image).view([height, width, 3])),
        ("stride".to_string(), Tensor::from(stride)),
    ];
    weights::write(&tensors, path)
}

impl Golden {
    /// Reads one of a model.
    ///
    /// # Errors
    /// It is none, or of another model.
    pub fn read(path: &Path, manifest: &Manifest) -> Result<Self, ArtifactError> {
        let wrong = |what: String| ArtifactError::Value { path: path.into(), what };
        let tensors = weights::read(path).map_err(|e| wrong(e.to_string()))?;
        let get =
            |name: &str| tensors.get(name).ok_or_else(|| wrong(format!("expected a tensor '{name}', found none")));
        let stride = get("stride")?.f_int64_value(&[]).ok().filter(|s| *s == 1 || *s == 4);
        let stride = stride.ok_or_else(|| wrong("stride: expected 1 or 4".into()))? as usize;
        let (width, height) = manifest.answer_size();
        let answer = [height.div_ceil(stride), width.div_ceil(stride), manifest.output.channels()].map(|n| n as i64);
        let image = [manifest.input.height, manifest.input.width, 3].map(|n| n as i64);
        for (name, shape, kind) in [("answer", answer, Kind::Float), ("image", image, Kind::Uint8)] {
            let found = get(name)?;
            if found.size() != shape || found.kind() != kind {
                return Err(wrong(format!(
                    "{name}: expected {kind:?} {shape:?}, found {:?} {:?}",
                    found.kind(),
                    found.size()
                )));
            }
        }
        let torch = |e: tch::TchError| wrong(crate::causes::first_line(&e));
        let flat = |name: &str| get(name)?.f_flatten(0, -1).map_err(torch);
        Ok(Self {
            image: Vec::<u8>::try_from(flat("image")?).map_err(torch)?,
            answer: Vec::<f32>::try_from(flat("answer")?).map_err(torch)?,
            stride,
        })
    }

    /// How far an answer to [`Golden::image`], `[height][width][channels]`, is from the one at export.
    pub fn deviation(&self, answer: &[f32], manifest: &Manifest) -> Deviation {
        let (width, _) = manifest.answer_size();
        let (channels, output) = (manifest.output.channels(), &manifest.output);
        let rows = answer.chunks_exact(width * channels).step_by(self.stride);
        let found = rows.flat_map(|row| row.chunks_exact(channels).step_by(self.stride));
        let best = |pixel: &[f32]| {
            let scores = &pixel[..output.score_channels];
            (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
        };
        let (mut pixels, mut different, mut relative) = (0_usize, 0, Vec::new());
        for (found, expected) in found.zip(self.answer.chunks_exact(channels)) {
            pixels += 1;
            different += usize::from(best(found) != best(expected));
            let (Some(channel), Some(decoding)) = (output.depth_channel, &output.depth) else { continue };
            let difference = (f64::from(decoding.scale) * f64::from(found[channel] - expected[channel])).exp() - 1.0;
            // An answer that is no number is as far off as can be.
            relative.push(if difference.is_nan() { f64::INFINITY } else { difference.abs() });
        }
        relative.sort_by(f64::total_cmp);
        // Where nothing could be compared, nothing is as it should be; where there is no depth, nothing of it differs.
        let nothing = if output.depth.is_some() { f64::INFINITY } else { 0.0 };
        Deviation {
            labels: different as f64 / pixels.max(1) as f64,
            depth_median: relative.get(relative.len() / 2).copied().unwrap_or(nothing),
            depth_most: relative.last().copied().unwrap_or(nothing),
        }
    }
}

//! Depth truth for data sets in the Cityscapes layout, made from stereo.
//!
//! Two ways lead to it: the disparity that the data set brings along ([`files`]), and a teacher that looks at both
//! pictures of a pair: the built-in semi-global matcher ([`matcher`]) or any TorchScript network ([`teacher`]). What
//! comes out may be cleaned ([`clean`]) and is written as depth in metres. [`accuracy`] holds it against exact depth.

pub mod accuracy;
pub mod clean;
pub mod cut;
pub mod files;
pub mod matcher;
pub mod preview;
pub mod teacher;

use crate::data::cityscapes::Sample;
use crate::data::disk::DataError;

/// Disparity of a rectified pair, in pixels of the left picture: a thing at column `x` of the left one is at
/// `x - disparity` of the right one.
#[derive(Debug, Clone, PartialEq)]
pub struct Disparity {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Row by row; NaN where it is not known.
    pub px: Vec<f32>,
}

impl Disparity {
    /// The data set's own.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn read(sample: &Sample) -> Result<Self, DataError> {
        let (px, width, height) = sample.read_disparity()?;
        let px = px.into_iter().map(|d| if d > 0.0 { d } else { f32::NAN }).collect();
        Ok(Self { width: width as usize, height: height as usize, px })
    }

    /// Depth along the optical axis in metres, `baseline x focal length / disparity`; NaN where it is not known. A
    /// disparity of 0 would be infinitely far, which no matcher can tell from a failure: it counts as not known.
    pub fn depth_m(&self, baseline_m: f32, focal_px: f32) -> Vec<f32> {
        let bf = baseline_m * focal_px;
        self.px.iter().map(|&d| if d > 0.0 { bf / d } else { f32::NAN }).collect()
    }
}

//! `model.yaml`: everything that the node believes about a model. No constant of pre- or post-processing is code.

use crate::data::classes::Class;
use crate::model::NetworkConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The schema that this version reads and writes.
pub const SCHEMA_VERSION: u32 = 1;

/// The manifest of a deployable model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`SCHEMA_VERSION`]; anything else is refused.
    pub schema_version: u32,
    /// Short name, shown in diagnostics.
    pub name: String,
    /// The network's shape.
    pub network: NetworkConfig,
    /// File name of the TorchScript module, relative to the manifest.
    pub torchscript: String,
    /// What goes in.
    pub input: InputSpec,
    /// What comes out.
    pub output: OutputSpec,
    /// Entry `i` is channel `i` of the class scores.
    pub classes: Vec<Class>,
    /// Every file of the model but the manifest: name relative to the manifest -> sha256, in hexadecimal.
    pub files: BTreeMap<String, String>,
    /// How it was made.
    pub provenance: Provenance,
}

impl Manifest {
    /// Width and height of the network's answer, pixels.
    pub fn answer_size(&self) -> (usize, usize) {
        (self.output.width.unwrap_or(self.input.width), self.output.height.unwrap_or(self.input.height))
    }
}

/// The network's input: `[1, 3, height, width]`, float32, `(channel / 255 - mean) / std`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Order of the channels.
    pub channel_order: ChannelOrder,
    /// Per channel, in `channel_order`, of values in `0 ..= 1`.
    pub mean: [f32; 3],
    /// Per channel, in `channel_order`, of values in `0 ..= 1`.
    pub std: [f32; 3],
}

/// Order of the input's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// The network's output: one tensor `[1, C + 1, H, W]`, class scores first, log depth next, and after it three channels
/// of surface normals where the model has them. The whole of it lies on the whole of the input, with as many pixels or
/// with fewer, as PyTorch's interpolation with `align_corners=False` has it.
///
/// One tensor, because a trace made from Rust returns exactly one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Pixels, at most the input's; not said: the input's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Pixels, at most the input's; not said: the input's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<usize>,
    /// Number of class score channels, from channel 0.
    pub score_channels: usize,
    /// Channel of the depth code.
    pub depth_channel: usize,
    /// First of the three channels of the surface normal (camera frame: x right, y down, z forward; any length).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normals_channel: Option<usize>,
    /// How the depth code becomes metres.
    pub depth: DepthDecoding,
}

impl OutputSpec {
    /// Channels of the packed output.
    pub fn channels(&self) -> usize {
        self.score_channels + 1 + if self.normals_channel.is_some() { 3 } else { 0 }
    }
}

/// `depth_m = clip(exp(scale * code), min_m, max_m)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthDecoding {
    /// Factor before the exponential.
    pub scale: f32,
    /// Metres.
    pub min_m: f32,
    /// Metres.
    pub max_m: f32,
    /// Focal length, in pixels of an image as wide as the network's input, of the camera the depth was learned from.
    pub focal_length_px: f32,
}

/// How the model was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of this package.
    pub package_version: String,
    /// The command that wrote the artifact.
    pub command: String,
    /// Date, UTC, ISO 8601.
    pub created: String,
    /// sha256 of the weights file it was exported from.
    pub weights_sha256: String,
    /// libtorch's version.
    pub libtorch: String,
    /// What it was trained on and how, in words.
    pub training: String,
}

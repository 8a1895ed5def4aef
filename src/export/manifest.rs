//! `model.yaml`: everything that the node believes about a model. No constant of pre- or post-processing is code.
//!
//! Keys that were added to a schema version are optional, and are not written where they have their default: manifests
//! stay valid, and an older reader that does not know such a key refuses it by its name.

use crate::data::classes::Class;
use crate::model::{NetworkConfig, Task};
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
    /// Entry `i` is channel `i` of the class scores; none of a network without segmentation.
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

    /// Whether the network answers this: segmentation, depth or both, and normals where it has them.
    pub fn answers(&self, task: Task) -> bool {
        match task {
            Task::Segmentation => self.output.score_channels > 0,
            Task::Depth => self.output.depth.is_some(),
            Task::Normals => self.output.normals_channel.is_some(),
            Task::Edges => false,
        }
    }

    /// Focal length that the depth was learned at, see [`DepthDecoding::focal_length_px`]; `None` without depth.
    pub fn focal_length_px(&self) -> Option<f32> {
        self.output.depth.as_ref().map(|depth| depth.focal_length_px)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The network's input: `[B, 3, height, width]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Order of the channels.
    pub channel_order: ChannelOrder,
    /// What a channel's value is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: InputKind,
    /// Per channel, in `channel_order`, of values in `0 ..= 1`. It is also the colour of letterbox padding.
    pub mean: [f32; 3],
    /// Per channel, in `channel_order`, of values in `0 ..= 1`. Bytes do not use it.
    pub std: [f32; 3],
}

/// What the values of the input are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// Floating point: `(channel / 255 - mean) / std`.
    #[default]
    Float,
    /// Bytes, 0 to 255, as they are in the (resized) picture.
    U8,
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

/// The network's output: class channels, a depth channel, and after them three channels of surface normals, each where the
/// model has them; it has classes, depth or both. The whole of it lies on the whole of the input, with as many pixels or with
/// fewer, as PyTorch's interpolation with `align_corners=False` has it.
///
/// By default one tensor, `[B, channels, H, W]`, because a trace made from Rust returns exactly one; or a tuple of
/// tensors ([`OutputSpec::tensors`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// Pixels, at most the input's; not said: the input's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Pixels, at most the input's; not said: the input's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<usize>,
    /// Not said: one tensor with all channels. Else the network answers a tuple, and this says what its tensors are, in
    /// their order: `classes` and `depth`, once each where the network has them, and `other` for what is not read. Each is
    /// `[B, channels, H, W]`, or `[B, H, W]` where it has one channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<OutputTensor>>,
    /// What the class channels hold.
    #[serde(default, skip_serializing_if = "is_default")]
    pub classes: ClassKind,
    /// Number of class channels, from channel 0: a score for each class, or one with the label; 0 without segmentation.
    pub score_channels: usize,
    /// Channel of the depth: the one after the class channels. Not said: there is no depth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth_channel: Option<usize>,
    /// First of the three channels of the surface normal (camera frame: x right, y down, z forward; any length).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normals_channel: Option<usize>,
    /// How the depth channel becomes metres; said where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<DepthDecoding>,
}

impl OutputSpec {
    /// Channels of the packed output.
    pub fn channels(&self) -> usize {
        let (depth, normals) = (self.depth_channel.is_some(), self.normals_channel.is_some());
        self.score_channels + usize::from(depth) + if normals { 3 } else { 0 }
    }
}

/// One tensor of an answer that is a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputTensor {
    /// The class channels.
    Classes,
    /// The depth channel.
    Depth,
    /// Not read.
    Other,
}

/// What the class channels hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassKind {
    /// A score for each class, of which the greatest wins.
    #[default]
    Scores,
    /// One channel with the index of the class in [`Manifest::classes`]; anything else in it is unlabelled. Labels have
    /// nothing between them, so they are enlarged to the nearest, and have no confidence.
    Labels,
}

/// `depth_m = clip(metres, min_m, max_m)`, with `metres` from the interpolated depth channel as `code` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthDecoding {
    /// What the depth channel holds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub code: DepthCode,
    /// What `code` says.
    pub scale: f32,
    /// Metres.
    pub min_m: f32,
    /// Metres.
    pub max_m: f32,
    /// Focal length, in pixels of the network's input (geometric mean of across and down, the whole picture stretched into it), of
    /// the camera the depth was learned from.
    pub focal_length_px: f32,
}

/// What the depth channel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DepthCode {
    /// A logarithm: metres are `exp(scale * value)`.
    #[default]
    Log,
    /// Depth: metres are `scale * value`.
    Metres,
    /// Inverse depth or disparity: metres are `scale / value`, where `scale` is for a disparity in pixels the focal
    /// length in pixels times the baseline in metres. A value of 0 or less is infinitely far, which is `max_m`.
    Inverse,
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
    /// sha256 of the file with the depth's refinement, where that was another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement_sha256: Option<String>,
    /// libtorch's version.
    pub libtorch: String,
    /// What it was trained on and how, in words.
    pub training: String,
}

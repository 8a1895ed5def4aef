//! The whole path of one frame, from proven bytes to outputs at the image's own size. The node, the evaluation and
//! the demo's scoring all go through it: there is one definition of what the model answers.

use super::clock::{StageClock, StageTimes};
use super::input::InputBuilder;
use super::network::{self, DeviceChoice, Network, NetworkError};
use super::output::OutputBuilder;
use super::view::ImageView;
use crate::export::{Artifact, ArtifactError, Manifest};
use std::path::Path;
use thiserror::Error;

/// Why a pipeline cannot be made, or a frame not be answered.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// The artifact is not as it should be.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The network cannot be loaded or run.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Which outputs to compute; what is not wanted costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Class ids.
    pub labels: bool,
    /// Metres.
    pub depth: bool,
    /// The picture with class colours.
    pub overlay: bool,
}

impl Wanted {
    /// Everything.
    pub const ALL: Self = Self { labels: true, depth: true, overlay: true };

    /// Whether anything at all.
    pub fn any(self) -> bool {
        self.labels || self.depth || self.overlay
    }
}

/// Outputs at the image's own size, row by row. A buffer that was not wanted is empty (it keeps its memory), except
/// `labels`, which an overlay needs and fills too.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Class ids, 255 for unlabelled: `height x width`.
    pub labels: Vec<u8>,
    /// Metres along the optical axis, NaN for invalid: `height x width`.
    pub depth_m: Vec<f32>,
    /// rgb: `height x width x 3`.
    pub overlay: Vec<u8>,
}

/// A loaded model, ready for frames. It belongs to one thread at a time.
#[derive(Debug)]
pub struct Pipeline {
    manifest: Manifest,
    network: Network,
    input: InputBuilder,
    output: OutputBuilder,
    /// Share of the class's colour in the overlay, 0 to 1.
    overlay_opacity: f32,
}

impl Pipeline {
    /// Opacity of the overlay's colours unless [`Pipeline::set_overlay_opacity`] says otherwise.
    pub const OVERLAY_OPACITY: f32 = 0.5;

    /// Loads, verifies and warms up the model.
    ///
    /// # Errors
    /// [`PipelineError`]: the artifact is damaged or unknown, the device is not there, or libtorch refuses the module.
    pub fn load(model_yaml: &Path, device: DeviceChoice) -> Result<Self, PipelineError> {
        Self::from_artifact(crate::export::load(model_yaml)?, device)
    }

    /// As [`Pipeline::load`], with an artifact that is already verified.
    ///
    /// # Errors
    /// [`PipelineError::Network`].
    pub fn from_artifact(artifact: Artifact, device: DeviceChoice) -> Result<Self, PipelineError> {
        let network = Network::load(&artifact, network::resolve(device)?)?;
        let manifest = artifact.manifest;
        Ok(Self {
            input: InputBuilder::new(&manifest.input),
            output: OutputBuilder::new(&manifest),
            network,
            manifest,
            overlay_opacity: Self::OVERLAY_OPACITY,
        })
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// `cpu` or `cuda:N`.
    pub fn device_name(&self) -> String {
        network::device_name(self.network.device())
    }

    /// Which back end runs the network.
    pub fn backend(&self) -> &'static str {
        "torchscript"
    }

    /// Share of the class's colour in the overlay: 0 is the source picture, 1 the colours alone.
    pub fn set_overlay_opacity(&mut self, opacity: f32) {
        self.overlay_opacity = opacity;
    }

    /// Computes what is wanted of one image. If nothing is wanted, nothing runs.
    ///
    /// # Errors
    /// [`PipelineError::Network`]: the outputs are then empty.
    pub fn run(
        &mut self,
        image: &ImageView<'_>,
        wanted: Wanted,
        outputs: &mut Outputs,
    ) -> Result<StageTimes, PipelineError> {
        outputs.labels.clear();
        outputs.depth_m.clear();
        outputs.overlay.clear();
        let mut times = StageTimes::default();
        if !wanted.any() {
            return Ok(times);
        }
        let (width, height) = (image.width(), image.height());
        let mut clock = StageClock::start();
        self.input.build(image, self.network.input_mut());
        times.decode_ns = clock.lap_ns();
        let (output, opacity) = (&mut self.output, self.overlay_opacity);
        self.network.run(|packed| {
            times.infer_ns = clock.lap_ns();
            if wanted.labels || wanted.overlay {
                output.labels(&packed, width, height, &mut outputs.labels);
                times.labels_ns = clock.lap_ns();
            }
            if wanted.depth {
                output.depth(&packed, width, height, &mut outputs.depth_m);
                times.depth_ns = clock.lap_ns();
            }
            if wanted.overlay {
                output.overlay(image, &outputs.labels, opacity, &mut outputs.overlay);
                times.overlay_ns = clock.lap_ns();
            }
        })?;
        Ok(times)
    }
}

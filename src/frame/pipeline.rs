//! The whole path of some frames, from proven bytes to outputs. The node, the evaluation and the demo's scoring all go
//! through it: there is one definition of what the model answers.
//!
//! Frames of several cameras go through the network together, as one batch; everything before and after it is each
//! frame's own, with its own geometry.

use super::clock::{StageClock, StageTimes};
use super::geometry::Geometry;
use super::input::InputBuilder;
use super::network::{
    self, BackendChoice, Compile, Cuda, CudaDevice, DeviceChoice, FromDevice, Network, NetworkError, Order, Precision,
    Selection,
};
use super::output::OutputBuilder;
use super::view::ImageView;
use crate::export::golden::Deviation;
use crate::export::{Artifact, ArtifactError, Manifest};
use std::path::Path;
use thiserror::Error;

/// The most frames that may go through the network together.
pub const MOST_BATCH: usize = 32;

/// Why a pipeline cannot be made, or frames not be answered.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// The artifact is not as it should be.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The network cannot be loaded or run.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The batch size is not usable.
    #[error("max_batch: expected 1 to {MOST_BATCH} frames, found {0}")]
    MaxBatch(usize),
    /// More jobs than fit the network's input.
    #[error("{jobs} frames came at once, but the pipeline was loaded for at most {max_batch}; load it with more")]
    Batch {
        /// Found.
        jobs: usize,
        /// Expected at most.
        max_batch: usize,
    },
    /// A job's geometry was made for another image or another network.
    #[error(
        "the geometry is of an image of {geometry:?} and a network of {geometry_network:?}, but the image is {image:?} \
         and the network {network:?} (width, height); make the geometry again"
    )]
    Geometry {
        /// The geometry's source size.
        geometry: (usize, usize),
        /// The geometry's network size.
        geometry_network: (usize, usize),
        /// The image's size.
        image: (usize, usize),
        /// The network's size.
        network: (usize, usize),
    },
}

/// How to load a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Where the network runs.
    pub device: DeviceChoice,
    /// In which precision it computes.
    pub precision: Precision,
    /// What runs it.
    pub backend: BackendChoice,
    /// Whether something else may be taken where the back end or the precision that was named does not do.
    pub fallback: bool,
    /// Whether a TensorRT engine may be compiled (minutes) where none is cached.
    pub compile: Compile,
    /// The most frames that go through it together, 1 to [`MOST_BATCH`].
    pub max_batch: usize,
}

impl LoadOptions {
    /// The same with the device that is really there.
    ///
    /// # Errors
    /// [`NetworkError::NoCuda`]: a CUDA device was named and is not there.
    pub fn selection(&self) -> Result<Selection, NetworkError> {
        let Self { device, precision, backend, fallback, compile, max_batch } = *self;
        Ok(Selection { device: network::resolve(device)?, backend, precision, fallback, compile, max_batch })
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            precision: Precision::Auto,
            backend: BackendChoice::Auto,
            fallback: false,
            compile: Compile::default(),
            max_batch: 1,
        }
    }
}

/// Which outputs to compute; what is not wanted costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Class ids.
    pub labels: bool,
    /// Metres.
    pub depth: bool,
    /// Probability of the label.
    pub confidence: bool,
    /// The picture with class colours.
    pub overlay: bool,
    /// The class colours alone.
    pub colors: bool,
    /// The obstacle / free-space mask.
    pub mask: bool,
    /// Surface normals, of a model that answers them.
    pub normals: bool,
}

impl Wanted {
    /// Everything.
    pub const ALL: Self =
        Self { labels: true, depth: true, confidence: true, overlay: true, colors: true, mask: true, normals: true };

    /// Whether anything at all.
    pub fn any(self) -> bool {
        self.labels || self.depth || self.confidence || self.overlay || self.colors || self.mask || self.normals
    }

    /// Whether the label image is needed, for itself or for something made of it.
    fn needs_labels(self) -> bool {
        self.labels || self.overlay || self.colors || self.mask
    }
}

/// Outputs of one frame at its geometry's output size, row by row. What the model does not answer ([`Manifest::answers`]) is
/// unlabelled, or NaN. A buffer that was not wanted is empty (it keeps its memory), except `labels`, which overlay, colours and
/// mask need and fill, too.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Class ids, 255 for unlabelled, which is also what the network did not see: `height x width`.
    pub labels: Vec<u8>,
    /// Metres along the optical axis, NaN for invalid and for what the network did not see: `height x width`.
    pub depth_m: Vec<f32>,
    /// Softmax probability of the label, 0 to 1, NaN as for the depth, and everywhere for a model that answers labels
    /// instead of scores: `height x width`.
    pub confidence: Vec<f32>,
    /// rgb, the source picture with the classes' colours over it: `height x width x 3`.
    pub overlay: Vec<u8>,
    /// rgb, the classes' colours, black for unlabelled: `height x width x 3`.
    pub colors: Vec<u8>,
    /// The job's `mask_values` of the labels: `height x width`.
    pub mask: Vec<u8>,
    /// Unit surface normals in the camera's frame (x right, y down, z forward), NaN as for the depth: `3 x height x width`;
    /// empty where the model answers none.
    pub normals: Vec<f32>,
}

impl Outputs {
    /// Empties what is not wanted. What is wanted keeps an older frame's values until all of it is overwritten: filling it
    /// with zeros first would cost a pass over its memory.
    fn clear_unwanted(&mut self, wanted: Wanted) {
        let Self { width: _, height: _, labels, depth_m, confidence, overlay, colors, mask, normals } = self;
        for (bytes, is_wanted) in
            [(labels, wanted.needs_labels()), (overlay, wanted.overlay), (colors, wanted.colors), (mask, wanted.mask)]
        {
            if !is_wanted {
                bytes.clear();
            }
        }
        for (floats, is_wanted) in [(depth_m, wanted.depth), (confidence, wanted.confidence), (normals, wanted.normals)]
        {
            if !is_wanted {
                floats.clear();
            }
        }
    }
}

/// One frame's order.
#[derive(Debug)]
pub struct Job<'a> {
    /// The image, in any encoding.
    pub image: ImageView<'a>,
    /// Where things are; made for this image's size and this pipeline's network.
    pub geometry: &'a Geometry,
    /// What to compute.
    pub wanted: Wanted,
    /// Of the confidence only every so many-th row is needed: those that a point cloud of this stride takes. 1: all.
    pub confidence_stride: usize,
    /// Metres are multiplied by it, after the model's own decoding and clipping.
    pub depth_factor: f32,
    /// Share of the class's colour in the overlay: 0 is the source picture, 1 the colours alone.
    pub overlay_opacity: f32,
    /// Label -> value in the mask.
    pub mask_values: &'a [u8; 256],
    /// Where the answers go.
    pub outputs: &'a mut Outputs,
    /// Filled with how long it took.
    pub times: StageTimes,
    /// Filled with whether the answer is broken, as far as that was looked at: it has pixels of which no score is a number (seen
    /// where the host reads the answer and labels are wanted), or no depth at all that is one (where depth is wanted).
    pub is_broken: bool,
}

/// A loaded model, ready for frames. It belongs to one thread at a time.
#[derive(Debug)]
pub struct Pipeline {
    manifest: Manifest,
    network: Network,
    input: InputBuilder,
    output: OutputBuilder,
}

impl Pipeline {
    /// Loads, verifies and warms up the model, with every batch size that it may see.
    ///
    /// # Errors
    /// [`PipelineError`]: the artifact is damaged or unknown, the device is not there, or libtorch refuses the module
    /// or the precision.
    pub fn load(model_yaml: &Path, options: &LoadOptions) -> Result<Self, PipelineError> {
        Self::from_artifact(crate::export::load(model_yaml)?, options)
    }

    /// As [`Pipeline::load`], with an artifact that is already verified.
    ///
    /// # Errors
    /// [`PipelineError::Network`], [`PipelineError::MaxBatch`].
    pub fn from_artifact(artifact: Artifact, options: &LoadOptions) -> Result<Self, PipelineError> {
        if !(1..=MOST_BATCH).contains(&options.max_batch) {
            return Err(PipelineError::MaxBatch(options.max_batch));
        }
        let network = network::select(&artifact, &options.selection()?)?;
        let manifest = artifact.manifest;
        Ok(Self { input: InputBuilder::new(&manifest.input), output: OutputBuilder::new(&manifest), network, manifest })
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
        self.network.backend().name()
    }

    /// How far the network's answer to the model's golden input is from the one at export; `None` where the model has none.
    pub fn golden_deviation(&self) -> Option<Deviation> {
        self.network.golden_deviation()
    }

    /// Whether the class scores of a model without a golden input are probabilities, which makes confidences far too low.
    pub fn answers_probabilities(&self) -> bool {
        self.network.answers_probabilities()
    }

    /// `fp32`, `fp16` or `bf16`: what the network really computes in.
    pub fn precision_name(&self) -> &'static str {
        self.network.precision().name()
    }

    /// Width and height of the network's input.
    pub fn network_size(&self) -> (usize, usize) {
        (self.manifest.input.width, self.manifest.input.height)
    }

    /// The most jobs of one [`Pipeline::run`].
    pub fn max_batch(&self) -> usize {
        self.network.max_batch()
    }

    /// Computes what each job wants, with one run of the network for all of them. A job that wants nothing costs
    /// nothing.
    ///
    /// # Errors
    /// [`PipelineError`]: too many jobs, a geometry that is not the image's, or the network failed. All outputs are
    /// then empty.
    pub fn run(&mut self, jobs: &mut [Job<'_>]) -> Result<(), PipelineError> {
        for job in jobs.iter_mut() {
            job.outputs.clear_unwanted(job.wanted);
            (job.outputs.width, job.outputs.height) = job.geometry.output();
            job.times = StageTimes::default();
            job.is_broken = false;
        }
        let result = self.answer(jobs);
        if result.is_err() {
            // Nothing of an older frame may stay.
            jobs.iter_mut().for_each(|job| job.outputs.clear_unwanted(Wanted::default()));
        }
        result
    }

    /// Fills all outputs that are wanted, to their last value, or fails.
    fn answer(&mut self, jobs: &mut [Job<'_>]) -> Result<(), PipelineError> {
        let network_size = self.network_size();
        let count = jobs.iter().filter(|j| j.wanted.any()).count();
        if count > self.max_batch() {
            return Err(PipelineError::Batch { jobs: count, max_batch: self.max_batch() });
        }
        for job in jobs.iter() {
            let image = (job.image.width(), job.image.height());
            if (job.geometry.source(), job.geometry.network()) != (image, network_size) {
                return Err(PipelineError::Geometry {
                    geometry: job.geometry.source(),
                    geometry_network: job.geometry.network(),
                    image,
                    network: network_size,
                });
            }
        }
        if count == 0 {
            return Ok(());
        }
        if let Some(cuda) = self.network.on_device() {
            return run_on_device(cuda, &mut self.output, jobs, count);
        }
        let mut clock = StageClock::start();
        let working = jobs.iter_mut().filter(|j| j.wanted.any());
        for (job, input) in working.zip(self.network.input_mut().chunks_exact_mut(self.input.len())) {
            self.input.build(&job.image, job.geometry, input);
            job.times.decode_ns = clock.lap_ns();
        }
        let output = &mut self.output;
        self.network.run(count, |answers| {
            let infer_ns = clock.lap_ns();
            for (job, packed) in jobs.iter_mut().filter(|j| j.wanted.any()).zip(answers.each()) {
                job.times.infer_ns = infer_ns;
                let Job { geometry, wanted, confidence_stride, outputs, times, .. } = job;
                output.read(&packed, wanted.needs_labels(), wanted.depth);
                job.is_broken = output.is_broken();
                if wanted.needs_labels() {
                    output.labels(&packed, geometry, &mut outputs.labels);
                    times.labels_ns = clock.lap_ns();
                }
                if wanted.depth {
                    output.depth(geometry, job.depth_factor, &mut outputs.depth_m);
                    times.depth_ns = clock.lap_ns();
                }
                if wanted.confidence {
                    output.confidence(&packed, geometry, *confidence_stride, &mut outputs.confidence);
                    times.confidence_ns = clock.lap_ns();
                }
                if wanted.normals {
                    output.normals(&packed, geometry, &mut outputs.normals);
                    times.depth_ns += clock.lap_ns();
                }
                pictures(output, job, &mut clock);
            }
        })?;
        Ok(())
    }
}

/// [`Pipeline::run`] where the device does what comes before and after the network, too. Everything is asked for before
/// anything is waited for.
///
/// A job's times are then: `decode` until its bytes are on their way, `infer` until the network has answered, `labels` and
/// `depth` until they are here.
pub(in crate::frame) fn run_on_device<D: CudaDevice>(
    cuda: &mut Cuda<D>,
    output: &mut OutputBuilder,
    jobs: &mut [Job<'_>],
    count: usize,
) -> Result<(), PipelineError> {
    let mut clock = StageClock::start();
    let order = cuda.begin(count);
    let (has_classes, has_depth) = (output.has_classes(), output.has_depth());
    let want = |cuda: &mut Cuda<D>, slot: usize, job: &Job<'_>| {
        let Job { geometry, wanted, depth_factor, .. } = job;
        let answer = wanted.confidence || wanted.normals;
        let (labels, depth) = (wanted.needs_labels() && has_classes, wanted.depth && has_depth);
        let from = FromDevice { labels, depth, answer };
        cuda.want(slot, geometry, from, *depth_factor)
    };
    for (slot, job) in jobs.iter_mut().filter(|j| j.wanted.any()).enumerate() {
        cuda.prepare(slot, &job.image, job.geometry)?;
        if order == Order::InTurn {
            cuda.answer(1)?;
            want(cuda, slot, job)?;
        }
        job.times.decode_ns = clock.lap_ns();
    }
    if order == Order::Together {
        cuda.answer(count)?;
        for (slot, job) in jobs.iter().filter(|j| j.wanted.any()).enumerate() {
            want(cuda, slot, job)?;
        }
    }
    cuda.wait()?;
    let infer_ns = clock.lap_ns();
    for (slot, job) in jobs.iter_mut().filter(|j| j.wanted.any()).enumerate() {
        job.times.infer_ns = infer_ns;
        if job.wanted.needs_labels() {
            match has_classes {
                true => cuda.labels(slot, &mut job.outputs.labels)?,
                false => OutputBuilder::no_labels(job.geometry, &mut job.outputs.labels),
            }
            job.times.labels_ns = clock.lap_ns();
        }
        if job.wanted.depth {
            match has_depth {
                true => {
                    cuda.depth(slot, &mut job.outputs.depth_m)?;
                    // Mostly the first pixels that the network saw answer this.
                    job.is_broken = !job.outputs.depth_m.iter().any(|metres| metres.is_finite());
                }
                false => OutputBuilder::no_depth(job.geometry, &mut job.outputs.depth_m),
            }
            job.times.depth_ns = clock.lap_ns();
        }
        if job.wanted.confidence {
            let packed = cuda.packed(slot)?;
            output.read(&packed, false, false);
            output.confidence(&packed, job.geometry, job.confidence_stride, &mut job.outputs.confidence);
            job.times.confidence_ns = clock.lap_ns();
        }
        if job.wanted.normals {
            output.normals(&cuda.packed(slot)?, job.geometry, &mut job.outputs.normals);
            job.times.depth_ns += clock.lap_ns();
        }
        pictures(output, job, &mut clock);
    }
    Ok(())
}

/// What is made of the labels.
fn pictures(output: &mut OutputBuilder, job: &mut Job<'_>, clock: &mut StageClock) {
    let Job { geometry, wanted, outputs, times, .. } = job;
    if wanted.overlay {
        output.overlay(&job.image, geometry, &outputs.labels, job.overlay_opacity, &mut outputs.overlay);
    }
    if wanted.colors {
        output.colors(&outputs.labels, &mut outputs.colors);
    }
    if wanted.overlay || wanted.colors {
        times.overlay_ns = clock.lap_ns();
    }
    if wanted.mask {
        super::output::mask(&outputs.labels, job.mask_values, &mut outputs.mask);
        times.mask_ns = clock.lap_ns();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_wanted_is_emptied() {
        let lengths = |wanted| {
            let mut outputs = Outputs {
                width: 1,
                height: 1,
                labels: vec![0],
                depth_m: vec![0.0],
                confidence: vec![0.0],
                overlay: vec![0; 3],
                colors: vec![0; 3],
                mask: vec![0],
                normals: vec![0.0; 3],
            };
            outputs.clear_unwanted(wanted);
            let Outputs { labels, depth_m, confidence, overlay, colors, mask, normals, .. } = outputs;
            let bytes = [labels, overlay, colors, mask].map(|bytes| bytes.len());
            (bytes, [depth_m, confidence, normals].map(|floats| floats.len()))
        };
        let nothing = Wanted::default();
        assert_eq!(lengths(Wanted::ALL), ([1, 3, 3, 1], [1, 1, 3]));
        assert_eq!(lengths(nothing), ([0; 4], [0; 3]));
        assert_eq!(lengths(Wanted { labels: true, normals: true, ..nothing }), ([1, 0, 0, 0], [0, 0, 3]));
        assert_eq!(lengths(Wanted { depth: true, ..nothing }), ([0; 4], [1, 0, 0]));
        assert_eq!(lengths(Wanted { confidence: true, ..nothing }), ([0; 4], [0, 1, 0]));
        // Made of labels.
        assert_eq!(lengths(Wanted { overlay: true, ..nothing }), ([1, 3, 0, 0], [0; 3]));
        assert_eq!(lengths(Wanted { colors: true, ..nothing }), ([1, 0, 3, 0], [0; 3]));
        assert_eq!(lengths(Wanted { mask: true, ..nothing }), ([1, 0, 0, 1], [0; 3]));
    }
}

//! The network alone.
//!
//! The article's protocol: one image at the network's own size, 10 runs to warm up, then 300 that are measured; mean and
//! sample deviation. Its figure on a GPU is of the network with its input on the device and its answer left there, by
//! device events. Of a module of libtorch's that includes what makes its input's number format of single precision, and
//! single precision of its answer.

use super::frames::Cameras;
use super::measure::{repeat, Repetitions, Spread, Timing};
use super::BenchError;
use crate::export::trace::{export, ExportRequest, WEIGHTS};
use crate::export::Artifact;
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::input::InputBuilder;
use crate::frame::network::{KernelRun, Network, NetworkError};
use crate::frame::view::Encoding;
use crate::model::weights::RefinementSource;
use crate::model::Cost;
use serde::Serialize;

/// Runs of each kernel.
const KERNEL_REPETITIONS: usize = 50;

/// The network at its own size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alone {
    /// Images of one run.
    pub batch: usize,
    /// Of the input, pixels.
    pub width: usize,
    /// Of the input, pixels.
    pub height: usize,
    /// How often.
    pub repetitions: Repetitions,
    /// Input and answer in host memory. On the processor that is the network alone; on a GPU the copies are in it.
    pub host: Timing,
    /// Input and answer on the device, as in the article; CUDA only.
    pub device: Option<OnDevice>,
    /// Of the native back end on CUDA.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<KernelRun>,
}

/// Runs whose input and answer stay on the device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OnDevice {
    /// From asking for a run to the end of waiting for it, on the host.
    #[serde(flatten)]
    pub host: Timing,
    /// By the device's own clock.
    pub device_ms: Spread,
}

impl OnDevice {
    /// Median by the device's clock.
    pub fn median_ms(&self) -> f64 {
        self.device_ms.p50
    }
}

/// Fills the input with a rendered street: what the network is made for.
fn fill(network: &mut Network, artifact: &Artifact) -> Result<(), BenchError> {
    let spec = &artifact.manifest.input;
    let size = (spec.width, spec.height);
    let cameras = Cameras::new(1, size, size, Encoding::Rgb8)?;
    let geometry = Geometry::new(&Placement::default(), size, size)?;
    InputBuilder::new(spec).build(&cameras.image(0)?, &geometry, network.input_mut());
    Ok(())
}

/// Times a network that was loaded for batches of one.
///
/// # Errors
/// [`BenchError`]. `Ok(None)`: no repetitions were asked for.
pub fn alone(
    network: &mut Network,
    artifact: &Artifact,
    repetitions: Repetitions,
) -> Result<Option<Alone>, BenchError> {
    fill(network, artifact)?;
    let host = repeat(repetitions, || network.run(1, |_| ()))?;
    let kernels = network.kernels(KERNEL_REPETITIONS)?;
    let device = by_its_clock(network, repetitions)?;
    let (width, height) = (artifact.manifest.input.width, artifact.manifest.input.height);
    Ok(host.map(|host| Alone { batch: 1, width, height, repetitions, host, device, kernels }))
}

/// Input and answer stay on the device; the input is there from the runs before. `Ok(None)`: the device cannot tell.
fn by_its_clock(network: &mut Network, repetitions: Repetitions) -> Result<Option<OnDevice>, BenchError> {
    if network.device_time_ms()?.is_none() {
        return Ok(None);
    }
    let mut device_ns = Vec::with_capacity(repetitions.warm_up + repetitions.measured);
    let host = repeat(repetitions, || {
        device_ns.extend(network.device_time_ms()?.map(|ms| (f64::from(ms) * 1e6) as u64));
        Ok::<_, NetworkError>(())
    })?;
    let device_ms = Spread::of(&device_ns[repetitions.warm_up.min(device_ns.len())..]);
    Ok(host.zip(device_ms).map(|(host, device_ms)| OnDevice { host, device_ms }))
}

/// The network at one of several sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtSize {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Multiplications with an addition.
    pub macs: u64,
    /// Input and answer in host memory.
    pub host: Timing,
    /// Input and answer on the device; CUDA only.
    pub device: Option<OnDevice>,
    /// Median of `device`, else of `host`, by pixels of the input.
    pub ns_a_pixel: f64,
}

/// Whether the parts that need the model's weights can be measured: other sizes are exported from them, and only of a
/// network that is this package's own are the operations known.
///
/// # Errors
/// [`BenchError::NoWeights`].
pub fn check_weights(artifact: &Artifact) -> Result<(), BenchError> {
    match artifact.manifest.files.contains_key(WEIGHTS) {
        true => Ok(()),
        false => Err(BenchError::NoWeights { dir: artifact.dir.clone() }),
    }
}

/// Exports the model's weights at each size (width, height) into a folder that is removed again, and times each.
///
/// # Errors
/// [`BenchError`].
pub fn scaling(
    artifact: &Artifact,
    sizes: &[(usize, usize)],
    repetitions: Repetitions,
    load: impl Fn(&Artifact) -> Result<Network, NetworkError>,
) -> Result<Vec<AtSize>, BenchError> {
    check_weights(artifact)?;
    let manifest = &artifact.manifest;
    let mut rows = Vec::new();
    for &size in sizes {
        let folder = tempfile::Builder::new().prefix("semantic_depth_bench.").tempdir()?;
        let request = ExportRequest {
            weights: artifact.dir.join(WEIGHTS),
            refinement: RefinementSource::Weights,
            network: manifest.network.clone(),
            size,
            full_size: false,
            // Of a model without depth it says nothing.
            focal_length_px: manifest.focal_length_px().unwrap_or(1.0),
            name: manifest.name.clone(),
            training: manifest.provenance.training.clone(),
            command: "semantic_depth bench".into(),
            created: manifest.provenance.created.clone(),
        };
        let (width, height) = size;
        let (at_size, _) = export(&request, &folder.path().join("model")).map_err(|source| BenchError::Export {
            width,
            height,
            source,
        })?;
        let timed = alone(&mut load(&at_size)?, &at_size, repetitions)?;
        rows.extend(timed.map(|Alone { host, device, .. }| AtSize {
            width,
            height,
            macs: Cost::of(&at_size.manifest.network, size, true).macs,
            ns_a_pixel: device.map_or(host.wall_ms.p50, |d| d.median_ms()) * 1e6 / (width * height) as f64,
            host,
            device,
        }));
        if let Err(why) = folder.close() {
            log::warn!("the folder of an exported model is left behind: {why}");
        }
    }
    Ok(rows)
}

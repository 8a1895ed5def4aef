//! Frames on a CUDA device, from their bytes to their outputs.
//!
//! What comes before and after the network, the resizing of a picture's bytes and the enlarging of the answers to labels
//! and metres, is done on the device ([`Cuda::prepare`], [`Cuda::want`]), whoever computes the network, so that only bytes
//! travel: a frame's in, its labels and metres out, through page-locked memory and in parts, so that copying on the host
//! and transfers overlap. The host waits for nothing in between.
//!
//! The network is a module of libtorch's, with or without TensorRT engines ([`Cuda::around`]), or kernels of our own
//! ([`Cuda::load`]): half precision, single-precision sums, one graph a batch. libtorch's CUDA half starts some hundred
//! kernels of a few microseconds each for this network and moves every map through memory for every small operation; here
//! are about 40, each with what follows a convolution in it.
//!
//! Everything is asked for in streams of this pipeline's own: one frame in a single one. Several frames have one for their
//! copies to the device, one for the kernels and one for the copies back ([`Lane`]), so that one frame's transfers go on
//! beside another's kernels; the network answers them together, or in turn where it gains nothing from a batch ([`Order`]).

mod compute;
mod frame;
mod gpu;
#[cfg(test)]
mod host;
mod layers;
mod machine;
mod nvrtc;
#[cfg(test)]
mod sim;
mod transfer;

use super::torchscript::TorchScript;
use super::{own_network, Answers, Backend, KernelRun, NetworkError, Precision};
use crate::cpu::team::share_among;
use crate::export::{Artifact, Manifest};
use crate::frame::geometry::{Geometry, Rect};
use crate::frame::output::Packed;
use crate::frame::resample::Cache;
use crate::frame::view::ImageView;
use crate::model::NumberFormat;
use compute::{Compute, Module, Own};
use frame::{Decoding, Excerpt, FrameAddresses, InputTables, Normalisation, OnDevice, OutputTables};
use gpu::Gpu;
use layers::{Layers, Weights};
pub(in crate::frame) use machine::Device;
use machine::{Address, HostMemory as _, Lane, Launch, MachineError, Moment as _, Program};
use std::ffi::OsStr;
use tch::Kind;
use transfer::{Download, Room, COPIERS, PART, TASK};

/// The environment variable that says whether kernels read frames and write outputs in the host's memory, without copies to
/// the device's and back: 0 or 1; not said, they do where processor and GPU share their memory (a Jetson).
pub const ZERO_COPY: &str = "SEMANTIC_DEPTH_CUDA_ZERO_COPY";

/// Runs of each batch, of which the quickest counts, to see what the network gains from it.
const ORDER_RUNS: usize = 5;
/// Share of the time of images one by one that a batch has to stay under, to be worth waiting for.
const ORDER_GAIN: f32 = 0.9;

/// What [`ZERO_COPY`] says; `None` where it says nothing.
///
/// # Errors
/// It says something else than 0 or 1.
pub(in crate::frame::network) fn zero_copy() -> Result<Option<bool>, NetworkError> {
    read_zero_copy(std::env::var_os(ZERO_COPY).as_deref())
}

fn read_zero_copy(value: Option<&OsStr>) -> Result<Option<bool>, NetworkError> {
    match value.map(OsStr::as_encoded_bytes) {
        None | Some(b"") => Ok(None),
        Some(b"0") => Ok(Some(false)),
        Some(b"1") => Ok(Some(true)),
        Some(other) => Err(NetworkError::Variable {
            name: ZERO_COPY,
            expected: "0 or 1",
            found: String::from_utf8_lossy(other).into_owned(),
        }),
    }
}

impl From<MachineError> for NetworkError {
    fn from(error: MachineError) -> Self {
        Self::Cuda { what: error.what, reason: error.reason }
    }
}

/// What one image of a batch needs.
#[derive(Debug)]
struct Slot<D: Device> {
    picture: Room<D>,
    /// After the picture's last part has left the host.
    sent: D::Event,
    /// After the picture was read.
    read: D::Event,
    /// After labels and depth were made.
    made: D::Event,
    labels: Download<D>,
    depth: Download<D>,
    answer: Download<D>,
}

impl<D: Device> Slot<D> {
    fn new(gpu: &D) -> Result<Self, MachineError> {
        let event = || gpu.event(false);
        let (picture, sent, read, made) = (Room::default(), event()?, event()?, event()?);
        let (labels, depth, answer) = (Download::default(), Download::default(), Download::default());
        Ok(Self { picture, sent, read, made, labels, depth, answer })
    }
}

/// In which order several frames go through the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::frame) enum Order {
    /// The network answers all of them at once.
    Together,
    /// One after the other: while the network answers one, others are on their way there or back.
    InTurn,
}

/// What of a frame is wanted from the device.
#[derive(Debug, Clone, Copy)]
pub(in crate::frame) struct FromDevice {
    /// Labels at the output's size.
    pub labels: bool,
    /// Metres at the output's size.
    pub depth: bool,
    /// The network's answer itself.
    pub answer: bool,
}

type InputKey = (Rect, Rect);

/// Frames on a CUDA device.
#[derive(Debug)]
pub(in crate::frame) struct Cuda<D: Device = Gpu> {
    compute: Compute<D>,
    /// Height and width of the input.
    input: [usize; 2],
    /// For inputs that come in single precision.
    staging: Room<D>,
    normalisation: Normalisation,
    decoding: Decoding,
    inputs: Cache<InputKey, (InputTables, OnDevice<D, 4>)>,
    outputs: Cache<Geometry, (OutputTables, OnDevice<D, 2>)>,
    slots: Vec<Slot<D>>,
    /// Of one, two, ... frames.
    orders: Vec<Order>,
    /// How many are answered now.
    count: usize,
    answered: D::Event,
    /// The last to go.
    gpu: D,
}

impl<D: Device> Drop for Cuda<D> {
    fn drop(&mut self) {
        // A module's memory goes back to libtorch, for others: nothing may be left that writes to it.
        let _ = self.gpu.enter().and_then(|()| self.gpu.finish());
    }
}

impl Cuda {
    /// Loads a model's weights onto a device, for our own kernels, and makes the graphs. `zero_copy`: as in [`Gpu::open`].
    ///
    /// # Errors
    /// Another precision; no weights in the folder, or others than the manifest describes; the model answers at another size
    /// than the heads' own; no driver, no such device, no compiler, no memory.
    pub fn load(
        artifact: &Artifact,
        index: usize,
        precision: Precision,
        max_batch: usize,
        zero_copy: Option<bool>,
    ) -> Result<Self, NetworkError> {
        let error = |reason: String| NetworkError::Backend { backend: Backend::Native.name(), reason };
        if precision != Precision::Fp16 {
            return Err(error(format!(
                "on CUDA it computes in fp16, not in {}; set precision to fp16",
                precision.name()
            )));
        }
        let weights = own_weights(artifact).map_err(error)?;
        let instead = |reason| error(format!("{reason}; set backend to torchscript"));
        let gpu = Gpu::open(index, Program::Network, zero_copy).map_err(instead)?;
        let mut made = Self::of_weights(gpu, &weights, &artifact.manifest, max_batch)?;
        made.choose_orders()?;
        Ok(made)
    }

    /// A device for [`Self::around`], with the kernels that come before and after a network. `zero_copy`: as in
    /// [`Gpu::open`].
    ///
    /// # Errors
    /// No driver, too old a device, no compiler: in words.
    pub(in crate::frame::network) fn open(index: usize, zero_copy: Option<bool>) -> Result<Gpu, String> {
        Gpu::open(index, Program::Frame, zero_copy)
    }
}

/// The weights as our own kernels take them; an error in words.
fn own_weights(artifact: &Artifact) -> Result<Weights, String> {
    let network = own_network(artifact)?;
    let parts = network.folded(NumberFormat::Fixed(Kind::Float)).trunk_parts();
    Weights::new(parts.ok_or("the network is not folded")?, &network.end_weights(), network.refinement_parts())
}

impl<D: Device> Cuda<D> {
    fn of_weights(gpu: D, weights: &Weights, manifest: &Manifest, max_batch: usize) -> Result<Self, NetworkError> {
        let size = (manifest.input.height, manifest.input.width);
        let layers = Layers::new(&gpu, weights, size, max_batch, gpu.capacity())?;
        gpu.finish()?;
        let compute = Compute::Own(Own::new(&gpu, layers));
        Self::new(gpu, compute, manifest, max_batch)
    }

    /// Around a module that libtorch runs on this device.
    ///
    /// # Errors
    /// No memory.
    pub(in crate::frame::network) fn around(
        gpu: D,
        module: TorchScript,
        manifest: &Manifest,
        max_batch: usize,
    ) -> Result<Self, NetworkError> {
        let compute = Compute::Module(Box::new(Module::new(&gpu, module, manifest, max_batch)?));
        Self::new(gpu, compute, manifest, max_batch)
    }

    fn new(gpu: D, compute: Compute<D>, manifest: &Manifest, max_batch: usize) -> Result<Self, NetworkError> {
        let slots = (0..max_batch).map(|_| Slot::new(&gpu)).collect::<Result<_, _>>()?;
        Ok(Self {
            decoding: Decoding::new(manifest, compute.answer_shape()),
            normalisation: Normalisation::new(&manifest.input, compute.layout()),
            input: [manifest.input.height, manifest.input.width],
            staging: Room::default(),
            inputs: Cache::new(),
            outputs: Cache::new(),
            slots,
            orders: vec![Order::Together; max_batch],
            count: 1,
            answered: gpu.event(false)?,
            compute,
            gpu,
        })
    }

    /// Where the network gains nothing from several images at once, frames go in turn: so their transfers cost no time of
    /// their own. What it gains is measured, by the device's clock.
    fn choose_orders(&mut self) -> Result<(), NetworkError> {
        let mut one = self.quickest(1)?;
        for batch in 2..=self.slots.len() {
            let together = self.quickest(batch)?;
            // On both sides of the batch: an idle device's clocks are low, and rise while it works.
            one = one.min(self.quickest(1)?);
            let gains = together < ORDER_GAIN * batch as f32 * one;
            let order = if gains { Order::Together } else { Order::InTurn };
            log::debug!("{batch} images together take {together:.3} ms, one takes {one:.3} ms: {order:?}");
            self.orders[batch - 1] = order;
        }
        Ok(())
    }

    fn quickest(&mut self, batch: usize) -> Result<f32, NetworkError> {
        let mut quickest = f32::INFINITY;
        for _ in 0..ORDER_RUNS {
            quickest = quickest.min(self.timed(batch)?);
        }
        Ok(quickest)
    }

    fn pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Of one answer.
    fn answer_bytes(&self) -> usize {
        self.compute.answer_shape().iter().product::<usize>() * size_of::<f32>()
    }

    /// Starts the network on the first `batch` images.
    fn start(&mut self, batch: usize) -> Result<(), NetworkError> {
        // The answers before are overwritten, or go back to libtorch.
        self.slots.iter().try_for_each(|slot| slot.answer.hold(&self.gpu))?;
        self.compute.start(&self.gpu, &self.decoding, batch)
    }

    /// Answers a batch of inputs in host memory, `[B, H, W, 3]` in single precision, and hands the answers to `read`.
    ///
    /// # Errors
    /// The device fails.
    pub fn run<T>(
        &mut self,
        input: &[f32],
        batch: usize,
        read: impl FnOnce(Answers<'_>) -> T,
    ) -> Result<T, NetworkError> {
        self.gpu.enter()?;
        let pixels = batch * self.pixels();
        let bytes = pixels * 3 * size_of::<f32>();
        let staging = self.staging.fit(&self.gpu, bytes)?;
        self.staging.host()?.floats_mut()[..pixels * 3].copy_from_slice(&input[..pixels * 3]);
        self.staging.send(&self.gpu, Lane::Work, 0..bytes)?;
        self.compute.take(&self.gpu, staging, pixels)?;
        self.start(batch)?;
        let (bytes, answers) = (batch * self.answer_bytes(), self.compute.answer());
        let [height, width, channels] = self.compute.answer_shape();
        let download = &mut self.slots[0].answer;
        download.start(&self.gpu, Lane::Work, Some(answers), bytes)?;
        Ok(read(Answers { width, height, channels, data: download.floats()? }))
    }

    /// Begins with so many frames, which are then to be asked for in their order.
    pub fn begin(&mut self, count: usize) -> Order {
        self.count = count;
        self.order()
    }

    fn order(&self) -> Order {
        self.orders[self.count - 1]
    }

    /// One frame's copies and kernels follow each other anyhow: other lanes would only cost the waiting for each other.
    fn lane(&self, lane: Lane) -> Lane {
        if self.count == 1 {
            Lane::Work
        } else {
            lane
        }
    }

    /// Where a frame's input and answer are.
    fn image(&self, slot: usize) -> usize {
        if self.order() == Order::InTurn {
            0
        } else {
            slot
        }
    }

    /// Brings a picture's bytes to the device and makes the network's input of them, later.
    ///
    /// # Errors
    /// The device fails.
    pub fn prepare(&mut self, slot: usize, image: &ImageView<'_>, geometry: &Geometry) -> Result<(), NetworkError> {
        self.gpu.enter()?;
        let (lane, number) = (self.lane(Lane::In), self.image(slot));
        let key = (geometry.source_rect(), geometry.network_rect());
        let gpu = &self.gpu;
        let (tables, on_device) = self.inputs.try_get(&key, || {
            let tables = InputTables::new(geometry);
            OnDevice::new(gpu, tables.bytes()).map(|on_device| (tables, on_device))
        })?;
        let Slot { picture, sent, read, .. } = &mut self.slots[slot];
        let excerpt = Excerpt::new(image, tables.from);
        let (row, height) = (excerpt.row_bytes, excerpt.len());
        let at = picture.fit(gpu, row * height)?;
        // What came before may still be on its way, or unread, where an earlier batch failed half-way.
        if gpu.shares_memory() {
            read.wait()?;
        } else {
            sent.wait()?;
            if lane != Lane::Work {
                gpu.wait_for(lane, read)?;
            }
        }
        let rows_a_part = (PART / row).max(1);
        for first in (0..height).step_by(rows_a_part) {
            let rows = first..(first + rows_a_part).min(height);
            let part = rows.start * row..rows.end * row;
            let rows_a_task = (TASK / row).max(1);
            let tasks = picture.host()?.bytes_mut()[part.clone()].chunks_mut(row * rows_a_task).enumerate();
            share_among(
                COPIERS,
                tasks,
                || (),
                |(), (task, to)| {
                    for (i, to) in to.chunks_exact_mut(row).enumerate() {
                        to.copy_from_slice(excerpt.row(image, rows.start + task * rows_a_task + i));
                    }
                },
            );
            picture.send(gpu, lane, part)?;
        }
        gpu.record(lane, sent)?;
        if lane != Lane::Work {
            gpu.wait_for(Lane::Work, sent)?;
        }
        let [height, width] = self.input;
        let input = self.compute.input() + (number * height * width * self.compute.layout().pixel()) as Address;
        gpu.launch(&tables.launch(on_device.at, &self.normalisation, (image, &excerpt), at, input))?;
        Ok(gpu.record(Lane::Work, read)?)
    }

    /// Runs the network on the inputs `0..batch` that have been prepared, or on the one that was prepared last, later.
    ///
    /// # Errors
    /// The device fails.
    pub fn answer(&mut self, batch: usize) -> Result<(), NetworkError> {
        self.start(batch)?;
        Ok(self.gpu.record(Lane::Work, &self.answered)?)
    }

    /// Makes outputs of a frame's answer, and begins to fetch them.
    ///
    /// # Errors
    /// The device fails.
    pub fn want(
        &mut self,
        slot: usize,
        geometry: &Geometry,
        wanted: FromDevice,
        factor: f32,
    ) -> Result<(), NetworkError> {
        let (lane, number) = (self.lane(Lane::Out), self.image(slot));
        let (gpu, answer_bytes, answer_shape) = (&self.gpu, self.answer_bytes(), self.compute.answer_shape());
        let answer = self.compute.answer() + (number * answer_bytes) as Address;
        let best = self.compute.best() + (number * answer_shape[0] * answer_shape[1]) as Address;
        let (tables, on_device) = self.outputs.try_get(geometry, || {
            let tables = OutputTables::new(geometry, (answer_shape[1], answer_shape[0]));
            OnDevice::new(gpu, tables.bytes()).map(|on_device| (tables, on_device))
        })?;
        let Slot { labels, depth, answer: whole, made, .. } = &mut self.slots[slot];
        let (width, height) = geometry.output();
        let mut at = FrameAddresses { answer, best, tables: on_device.at, labels: 0, depth: 0 };
        if wanted.labels {
            at.labels = labels.fit(gpu, width * height)?;
            labels.hold(gpu)?;
        }
        if wanted.depth {
            at.depth = depth.fit(gpu, width * height * size_of::<f32>())?;
            depth.hold(gpu)?;
        }
        if wanted.labels || wanted.depth {
            gpu.launch(&self.decoding.launch(tables, at, factor))?;
        }
        if lane != Lane::Work {
            gpu.record(Lane::Work, made)?;
            gpu.wait_for(lane, made)?;
        }
        if wanted.labels {
            labels.start(gpu, lane, None, width * height)?;
        }
        if wanted.depth {
            depth.start(gpu, lane, None, width * height * size_of::<f32>())?;
        }
        if wanted.answer {
            whole.start(gpu, lane, Some(answer), answer_bytes)?;
        }
        Ok(())
    }

    /// Waits until the network has answered.
    ///
    /// # Errors
    /// The device failed.
    pub fn wait(&self) -> Result<(), NetworkError> {
        Ok(self.answered.wait()?)
    }

    /// Waits for the labels that were wanted, `[height][width]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn labels(&mut self, slot: usize, out: &mut Vec<u8>) -> Result<(), NetworkError> {
        Ok(self.slots[slot].labels.take(out)?)
    }

    /// Waits for the metres that were wanted, `[height][width]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn depth(&mut self, slot: usize, out: &mut Vec<f32>) -> Result<(), NetworkError> {
        Ok(self.slots[slot].depth.take(out)?)
    }

    /// Waits for the answer that was wanted.
    ///
    /// # Errors
    /// The device failed.
    pub fn packed(&mut self, slot: usize) -> Result<Packed<'_>, NetworkError> {
        let [height, width, channels] = self.compute.answer_shape();
        Ok(Packed { width, height, channels, data: self.slots[slot].answer.floats()? })
    }

    /// Milliseconds of a run of a batch whose input is there already, by the device's own clock.
    ///
    /// # Errors
    /// The device fails.
    pub fn timed(&mut self, batch: usize) -> Result<f32, NetworkError> {
        self.gpu.enter()?;
        let (start, end) = (self.gpu.event(true)?, self.gpu.event(true)?);
        self.gpu.record(Lane::Work, &start)?;
        self.start(batch)?;
        self.gpu.record(Lane::Work, &end)?;
        end.wait()?;
        Ok(end.since(&start)?)
    }

    /// Milliseconds of each of our own kernels of a batch of one, each run `repetitions` times in a row, in their order.
    ///
    /// # Errors
    /// The device fails.
    pub fn kernels(&self, repetitions: usize) -> Result<Vec<KernelRun>, NetworkError> {
        self.gpu.enter()?;
        let (start, end) = (self.gpu.event(true)?, self.gpu.event(true)?);
        let timed = |launch: &Launch| -> Result<KernelRun, MachineError> {
            self.gpu.launch(launch)?;
            self.gpu.record(Lane::Work, &start)?;
            (0..repetitions).try_for_each(|_| self.gpu.launch(launch))?;
            self.gpu.record(Lane::Work, &end)?;
            end.wait()?;
            let ms = end.since(&start)? / repetitions as f32;
            Ok(KernelRun { name: launch.kernel.name(), grid: launch.grid, ms })
        };
        self.compute.launches().iter().map(|launch| timed(launch).map_err(NetworkError::from)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::host::Host;
    use super::layers::narrow;
    use super::machine::{Capacity, Kernel, Machine as _};
    use super::sim::Sim;
    use super::*;
    use crate::export::trace::{export, packed_heads, ExportRequest};
    use crate::frame::clock::StageTimes;
    use crate::frame::geometry::{OutputSize, Placement, ResizeMode};
    use crate::frame::network::native::tests::{input, largest, network};
    use crate::frame::network::{BackendChoice, DeviceChoice};
    use crate::frame::output::OutputBuilder;
    use crate::frame::pipeline::{run_on_device, Job, LoadOptions, Outputs, Pipeline, Wanted};
    use crate::frame::view::tests::image_of;
    use crate::frame::view::Encoding;
    use crate::model::weights::RefinementSource;
    use crate::model::{self, NetworkConfig, Task};
    use std::path::Path;
    use tch::nn::VarStore;
    use tch::Tensor;
    use zerocopy::IntoBytes as _;

    /// The greatest of each pixel's scores, the first among equals; 255 where none is a number.
    pub(super) fn greatest(answer: &[f32], channels: usize, scores: usize) -> Vec<u8> {
        let first_greatest = |pixel: &[f32]| {
            let mut best = (255, f32::NEG_INFINITY);
            for (i, score) in pixel[..scores].iter().enumerate() {
                if *score > best.1 {
                    best = (i, *score);
                }
            }
            best.0 as u8
        };
        answer.chunks_exact(channels).map(first_greatest).collect()
    }

    /// The answers `[B, C, h, w]` to an input `[B, 3, H, W]`. The greatest scores are looked at, too.
    fn answers(host: &Host, layers: &Layers, x: &Tensor, scores: usize) -> Tensor {
        let batch = x.size()[0] as usize;
        let pixels = batch * (x.size()[2] * x.size()[3]) as usize;
        let flat = x.permute([0, 2, 3, 1]).contiguous().flatten(0, -1);
        let values = Vec::<f32>::try_from(flat).expect("float32");
        let staging = host.allocate(pixels * 12).expect("memory");
        host.upload(staging, values.as_bytes()).expect("memory");
        host.launch(&narrow(staging, layers.input, pixels)).expect("it runs");
        for launch in &layers.batches[batch - 1] {
            host.launch(launch).expect("it runs");
        }
        let [h, w, c] = layers.answer_shape;
        let found: Vec<f32> = host.values(layers.answer, batch * h * w * c);
        if scores > 0 {
            let best: Vec<u8> = host.values(layers.best, batch * h * w);
            assert_eq!(best, greatest(&found, c, scores));
        }
        Tensor::from_slice(&found).view([batch as i64, h as i64, w as i64, c as i64]).permute([0, 3, 1, 2])
    }

    /// Batch, height, width; multiprocessors, KiB of shared memory of a block. A device that works on few blocks at once gets
    /// large ones. Two are wider than a block, of either kind; the last one is cut into strips.
    type Size = (i64, i64, i64, usize, usize);
    const SIZES: [Size; 6] = [
        (2, 75, 53, 1, 99),
        (1, 64, 128, 132, 227),
        (2, 75, 53, 12, 163),
        (1, 9, 1412, 1, 227),
        (1, 9, 650, 999, 227),
        (1, 100, 72, 132, 227),
    ];

    /// With one head each.
    const ONE_HEAD: [Size; 1] = [(1, 40, 72, 132, 227)];

    /// Networks and the sizes that they are compared at.
    fn compared() -> [(NetworkConfig, &'static [Size]); 6] {
        let all = NetworkConfig::default;
        let more = || vec![Task::Normals, Task::Depth, Task::Segmentation];
        let refined = vec![Task::Segmentation, Task::Depth, Task::Normals];
        [
            (all(), &SIZES),
            (NetworkConfig { extra_light: true, ..all() }, &SIZES[..2]),
            (NetworkConfig { classes: 30, heads: more(), ..all() }, &SIZES[..2]),
            (NetworkConfig { classes: 0, heads: vec![Task::Depth], ..all() }, &ONE_HEAD),
            (NetworkConfig { heads: vec![Task::Segmentation], ..all() }, &ONE_HEAD),
            (NetworkConfig { classes: 8, heads: refined, refine_depth: true, ..all() }, &SIZES[..2]),
        ]
    }

    fn weights_of(network: &model::Network) -> Weights {
        let parts = network.folded(NumberFormat::Fixed(Kind::Float)).trunk_parts().expect("it is folded");
        Weights::new(parts, &network.end_weights(), network.refinement_parts()).expect("the heads fit")
    }

    fn compare(config: &NetworkConfig, sizes: &[Size]) {
        let Some(host) = Host::new() else { return };
        let _no_grad = tch::no_grad_guard();
        let network = network(config);
        let weights = weights_of(&network);
        for &(batch, height, width, blocks, shared) in sizes {
            let capacity = Capacity { blocks, shared: shared << 10 };
            let x = input(batch, height, width);
            let expected = packed_heads(&network, &x);
            let layers = Layers::new(&host, &weights, (height as usize, width as usize), 2, capacity).expect("memory");
            let found = answers(&host, &layers, &x, config.classes);
            assert_eq!(found.size(), expected.size());
            if *config == NetworkConfig::default() && blocks == 1 && batch == 2 {
                // What blocks count and add up begins at zero again.
                assert_eq!(answers(&host, &layers, &x, config.classes), found);
            }
            let difference = largest(&(&found - &expected)) / largest(&expected);
            let mean = (&found - &expected).abs().mean(Kind::Float).double_value(&[]) / largest(&expected);
            let kernels = layers.batches[batch as usize - 1].len();
            println!("{config:?} {batch}x{height}x{width} {capacity:?}, {kernels} kernels:");
            println!("most {difference:.2e}, mean {mean:.2e}");
            assert!(difference < 0.02 && mean < 0.002, "{config:?} {height}x{width}: {difference}, {mean}");
            if config.refine_depth {
                // Beside the scores, the depth's code is small: it is looked at by what is changed of it.
                let code = |t: &Tensor| t.narrow(1, config.classes as i64, 1);
                let before = network.forward_unrefined_t(&x, false);
                let before = before.get(Task::Depth).expect("a head");
                let mean = |t: Tensor| t.abs().mean(Kind::Float).double_value(&[]);
                let (off, changed) = (mean(code(&found) - code(&expected)), mean(code(&expected) - before));
                assert!(changed > 1e-3 && off < 0.05 * changed, "off by {off} in the mean, changed by {changed}");
            }
        }
    }

    /// What frames of a few sizes and placements become on a device that is not there, beside the processor's outputs:
    /// several together and one by one, in both orders, with other pictures each time.
    /// `counts`: how many together.
    fn compare_frames<D: Device>(
        cuda: &mut Cuda<D>,
        on_processor: &mut Pipeline,
        counts: &[usize],
        tolerance: (f64, f32),
    ) {
        let network = on_processor.network_size();
        let mut output = OutputBuilder::new(on_processor.manifest());
        for (round, &count) in counts.iter().enumerate() {
            for order in [Order::InTurn, Order::Together] {
                cuda.orders.fill(order);
                let size = [(96, 60), (200, 33)][round % 2];
                let placements = [
                    Placement::default(),
                    Placement { mode: ResizeMode::Letterbox, roi: None, output: OutputSize::Network },
                    Placement {
                        mode: ResizeMode::Crop,
                        roi: None,
                        output: OutputSize::Fixed { width: 77, height: 41 },
                    },
                ];
                let geometries = placements.map(|p| Geometry::new(&p, size, network).expect("it fits"));
                let pictures: Vec<Vec<u8>> = (0..count).map(|i| picture(size, 10 * round + i)).collect();
                let encodings = [
                    [Encoding::Rgb8, Encoding::Nv12, Encoding::BayerGrbg16],
                    [Encoding::Bgr16, Encoding::Rgba8, Encoding::Uyvy],
                ];
                let images = pictures.iter().enumerate().map(|(i, data)| {
                    image_of(encodings[round % 2][i], size, i % 2 == 0, data).expect("of this size, too")
                });
                let images: Vec<_> = images.collect();
                let mut found = vec![Outputs::default(); count];
                let mut expected = found.clone();
                // Everything of the first, labels of the second, depth of the third.
                let wanted = |i| match (i + round) % 3 {
                    0 => Wanted::ALL,
                    1 => Wanted { labels: true, ..Wanted::default() },
                    _ => Wanted { depth: true, confidence: true, ..Wanted::default() },
                };
                let ask = |outputs: &mut [Outputs], run: &mut dyn FnMut(&mut [Job<'_>])| {
                    let each = images.iter().zip(&geometries).zip(outputs).enumerate();
                    let mut jobs: Vec<_> = each
                        .map(|(i, ((image, geometry), outputs))| Job {
                            image: *image,
                            geometry,
                            wanted: wanted(i),
                            confidence_stride: 1,
                            depth_factor: 1.5,
                            overlay_opacity: 0.5,
                            mask_values: &[7; 256],
                            outputs,
                            times: StageTimes::default(),
                            is_broken: false,
                        })
                        .collect();
                    run(&mut jobs);
                };
                ask(&mut found, &mut |jobs| run_on_device(cuda, &mut output, jobs, count).expect("it answers"));
                ask(&mut expected, &mut |jobs| on_processor.run(jobs).expect("it answers"));
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let what = format!("round {round}, {order:?}, frame {i} of {count}");
                    assert_eq!(found.labels.len(), expected.labels.len(), "{what}");
                    let other = found.labels.iter().zip(&expected.labels).filter(|(a, b)| a != b).count() as f64;
                    let share = other / expected.labels.len().max(1) as f64;
                    assert!(share <= tolerance.0, "{what}: {share} of labels");
                    for (found, expected) in
                        [(&found.depth_m, &expected.depth_m), (&found.confidence, &expected.confidence)]
                    {
                        assert_eq!(found.len(), expected.len(), "{what}");
                        for (a, b) in found.iter().zip(expected) {
                            let near = (a - b).abs() <= tolerance.1 * b.abs() || (a.is_nan() && b.is_nan());
                            assert!(near, "{what}: {a} for {b}");
                        }
                    }
                }
            }
        }
    }

    /// Bytes for an image of any encoding.
    fn picture((width, height): (usize, usize), seed: usize) -> Vec<u8> {
        (0..(width * 8 + 3) * height).map(|i| ((i * i * 7 + i * (31 + seed)) / 5 + seed * 40) as u8).collect()
    }

    /// An exported network with random weights.
    fn small_model(folder: &Path, config: &NetworkConfig) -> Artifact {
        let weights = folder.join("w.safetensors");
        let vs = VarStore::new(tch::Device::Cpu);
        crate::model::Network::new(&vs.root(), config);
        crate::model::seeded::start(&vs, 5, |_| None);
        crate::model::weights::save(&vs, &weights).expect("saved");
        let request = ExportRequest {
            weights,
            refinement: RefinementSource::Weights,
            network: NetworkConfig::default(),
            size: (64, 32),
            full_size: false,
            focal_length_px: 60.0,
            name: "small".into(),
            training: "random".into(),
            command: "a test".into(),
            created: "2026-01-01T00:00:00Z".into(),
        };
        export(&request, &folder.join("model")).expect("exported").0
    }

    fn on_processor(artifact: Artifact) -> Pipeline {
        let (device, backend) = (DeviceChoice::Cpu, BackendChoice::Only(Backend::TorchScript));
        let options = LoadOptions { device, backend, max_batch: 3, ..LoadOptions::default() };
        Pipeline::from_artifact(artifact, &options).expect("it loads")
    }

    #[test]
    fn the_variable_that_says_whether_to_copy_is_read_strictly() {
        let read = |value: &str| read_zero_copy(Some(OsStr::new(value)));
        assert!(matches!(read_zero_copy(None), Ok(None)));
        assert!(matches!(read(""), Ok(None)));
        assert!(matches!(read("0"), Ok(Some(false))));
        assert!(matches!(read("1"), Ok(Some(true))));
        for typo in ["yes", "01", "1 "] {
            let message = read(typo).expect_err(typo).to_string();
            assert!(message.contains(ZERO_COPY) && message.contains(&format!("found {typo:?}")), "{message}");
        }
    }

    #[test]
    fn a_modules_frames_are_the_processors_in_every_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let artifact = small_model(folder.path(), &NetworkConfig::default());
        let manifest = artifact.manifest.clone();
        let path = artifact.torchscript_path();
        let mut pipeline = on_processor(artifact);
        for (seed, shares_memory) in [(1, false), (2, true), (3, false)] {
            let Some(sim) = Sim::new(seed, shares_memory) else { return };
            let module = TorchScript::load(&path, &manifest, tch::Device::Cpu, Precision::Fp32).expect("it loads");
            let mut cuda = Cuda::around(sim, module, &manifest, 3).expect("memory");
            // Labels may differ where two scores are equal but for rounding.
            compare_frames(&mut cuda, &mut pipeline, &[3, 3, 1, 2, 3], (0.002, 1e-4));
        }
    }

    #[test]
    fn our_own_kernels_frames_are_the_processors_in_every_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let artifact = small_model(folder.path(), &NetworkConfig::default());
        let manifest = artifact.manifest.clone();
        let Some(sim) = Sim::new(4, false) else { return };
        let weights = own_weights(&artifact).expect("they fit");
        let mut cuda = Cuda::of_weights(sim, &weights, &manifest, 3).expect("memory");
        compare_frames(&mut cuda, &mut on_processor(artifact), &[2, 1], (0.02, 0.02));
    }

    #[test]
    fn frames_of_a_model_of_one_task_are_the_processors() {
        for task in [Task::Segmentation, Task::Depth] {
            let folder = tempfile::tempdir().expect("a folder");
            let artifact = small_model(folder.path(), &NetworkConfig { heads: vec![task], ..NetworkConfig::default() });
            let manifest = artifact.manifest.clone();
            let [Some(own), Some(around)] = [5, 6].map(|seed| Sim::new(seed, false)) else { return };
            let weights = own_weights(&artifact).expect("they fit");
            let mut own = Cuda::of_weights(own, &weights, &manifest, 3).expect("memory");
            let module = TorchScript::load(&artifact.torchscript_path(), &manifest, tch::Device::Cpu, Precision::Fp32);
            let mut around = Cuda::around(around, module.expect("it loads"), &manifest, 3).expect("memory");
            let mut pipeline = on_processor(artifact);
            compare_frames(&mut own, &mut pipeline, &[1], (0.02, 0.02));
            compare_frames(&mut around, &mut pipeline, &[2], (0.002, 1e-4));
        }
    }

    // Tests of their own, so that they run beside each other.
    #[test]
    fn kernels_answer_as_the_network_does() {
        let [(all, sizes), ..] = compared();
        compare(&all, &sizes[..2]);
    }

    #[test]
    fn kernels_answer_as_the_network_does_in_other_blocks() {
        let [(all, sizes), ..] = compared();
        compare(&all, &sizes[2..]);
    }

    #[test]
    fn kernels_answer_as_the_network_does_without_the_quarter_stage() {
        let [_, (config, sizes), ..] = compared();
        compare(&config, sizes);
    }

    #[test]
    fn kernels_answer_as_the_network_does_with_more_heads() {
        let [_, _, (config, sizes), ..] = compared();
        compare(&config, sizes);
    }

    #[test]
    fn kernels_answer_as_the_network_does_with_one_head() {
        let [.., depth, segmentation, _] = compared();
        for (config, sizes) in [depth, segmentation] {
            compare(&config, sizes);
        }
    }

    #[test]
    fn kernels_refine_the_depth_as_the_network_does() {
        let [.., (config, sizes)] = compared();
        compare(&config, sizes);
    }

    /// Which kernels run, and how many blocks, follows from the size: each of them is compared somewhere.
    #[test]
    fn every_kernel_of_the_network_is_compared_and_the_quarter_stage_in_strips() {
        let Some(host) = Host::new() else { return };
        // What `answers` brings the input with.
        let (mut seen, mut strips) = (vec![Kernel::Narrow], 0);
        for (config, sizes) in compared() {
            let weights = weights_of(&network(&config));
            for &(batch, height, width, blocks, shared) in sizes {
                let capacity = Capacity { blocks, shared: shared << 10 };
                let layers = Layers::new(&host, &weights, (height as usize, width as usize), 2, capacity);
                for launch in &layers.expect("memory").batches[batch as usize - 1] {
                    seen.push(launch.kernel);
                    if matches!(launch.kernel, Kernel::Quarter4 | Kernel::Quarter8) {
                        strips = strips.max(launch.grid[1]);
                    }
                }
            }
        }
        let missing: Vec<_> = Kernel::ALL[Kernel::FRAME..].iter().filter(|k| !seen.contains(k)).collect();
        assert!(missing.is_empty(), "{missing:?} are compared nowhere");
        assert!(strips > 1, "the quarter stage is never cut into strips");
    }

    #[test]
    fn blocks_have_room_for_what_they_share() {
        let Some(host) = Host::new() else { return };
        let weights = weights_of(&network(&NetworkConfig::default()));
        for (blocks, shared) in [(132, 227 << 10), (46, 99 << 10)] {
            let layers = Layers::new(&host, &weights, (400, 1024), 2, Capacity { blocks, shared }).expect("memory");
            for (i, launches) in layers.batches.iter().enumerate() {
                for launch in launches {
                    let (name, grid) = (launch.kernel.name(), launch.grid);
                    println!("{} of {blocks}: {name} {grid:?} of {}, {} bytes", i + 1, launch.threads, launch.shared);
                    assert!(launch.shared as usize <= shared, "{name}");
                }
            }
        }
    }
}

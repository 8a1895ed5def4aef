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
//! Everything is asked for in the order of one stream, which is this pipeline's own.

mod core;
mod frame;
mod gpu;
#[cfg(test)]
mod host;
mod layers;
mod machine;
mod nvrtc;

use super::torchscript::TorchScript;
use super::{own_network, Answers, Backend, KernelRun, NetworkError, Precision};
use crate::cpu::team::share_among;
use crate::export::{Artifact, Manifest};
use crate::frame::geometry::{Geometry, Rect};
use crate::frame::output::Packed;
use crate::frame::resample::Cache;
use crate::frame::view::ImageView;
use crate::model::NumberFormat;
use core::{Core, Module, Own};
use frame::{Decoding, FrameAddresses, InputTables, Normalisation, OnDevice, OutputTables};
use gpu::{Buffer, Event, Gpu, Pinned};
use layers::{Layers, Weights};
use machine::{Address, Launch, Machine, MachineError, Program};
use std::mem::MaybeUninit;
use std::ops::Range;
use tch::Kind;

/// Bytes of a part of a transfer: while one travels, the next is copied on the host.
const PART: usize = 4 << 20;
/// Threads that copy between a frame's memory and page-locked memory.
const COPIERS: usize = 8;
/// Bytes that one thread copies at a time.
const TASK: usize = 128 << 10;

impl From<MachineError> for NetworkError {
    fn from(error: MachineError) -> Self {
        Self::Cuda { what: error.what, reason: error.reason }
    }
}

/// Memory of a size that grows.
#[derive(Debug, Default)]
struct Room {
    device: Option<Buffer>,
    host: Option<Pinned>,
}

impl Room {
    /// Makes both at least this large, and gives the device's address.
    fn fit(&mut self, gpu: &Gpu, bytes: usize) -> Result<Address, MachineError> {
        match &self.device {
            Some(buffer) if buffer.bytes() >= bytes => Ok(buffer.at),
            _ => {
                // What is on its way to or from the old memory arrives first.
                gpu.finish()?;
                (self.device, self.host) = (None, None);
                self.host = Some(gpu.pinned(bytes)?);
                let buffer = self.device.insert(gpu.buffer(bytes)?);
                Ok(buffer.at)
            }
        }
    }

    fn host(&mut self) -> Result<&mut Pinned, MachineError> {
        let missing = || MachineError { what: "copy".into(), reason: "there is no room yet".into() };
        self.host.as_mut().ok_or_else(missing)
    }
}

/// Something on its way from the device: in parts, each with the moment at which it has come.
#[derive(Debug, Default)]
struct Download {
    room: Room,
    bytes: usize,
    events: Vec<Event>,
}

impl Download {
    /// Begins to fetch so many bytes.
    fn start(&mut self, gpu: &Gpu, from: Address, bytes: usize) -> Result<(), MachineError> {
        self.bytes = bytes;
        self.room.fit(gpu, bytes)?;
        for (i, part) in parts(bytes).enumerate() {
            gpu.fetch(from + part.start as Address, self.room.host()?, part)?;
            if i == self.events.len() {
                self.events.push(gpu.event(false)?);
            }
            gpu.record(&self.events[i])?;
        }
        Ok(())
    }

    /// Waits for the parts and puts them into `out`, which becomes as long as they are.
    #[allow(unsafe_code)]
    fn take<T: Copy + Send>(&mut self, out: &mut Vec<T>) -> Result<(), MachineError> {
        out.clear();
        let count = self.bytes / size_of::<T>();
        out.reserve(count);
        let spare = &mut out.spare_capacity_mut()[..count];
        // SAFETY: bytes of `MaybeUninit` may be written as such; they are not read.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(spare.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of_val(spare)) };
        for (part, event) in parts(self.bytes).zip(&self.events) {
            event.wait()?;
            let from = &self.room.host()?.bytes()[part.clone()];
            let tasks = bytes[part].chunks_mut(TASK).zip(from.chunks(TASK));
            share_among(
                COPIERS,
                tasks,
                || (),
                |(), (to, from)| {
                    // SAFETY: as long as each other (the last chunks, too), and not the same memory.
                    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast::<u8>(), from.len()) };
                },
            );
        }
        // SAFETY: all of them have been written; `T` is u8 or f32, of which every bit pattern is a value.
        unsafe { out.set_len(count) };
        Ok(())
    }
}

fn parts(bytes: usize) -> impl Iterator<Item = Range<usize>> {
    (0..bytes).step_by(PART).map(move |start| start..(start + PART).min(bytes))
}

/// What one image of a batch needs.
#[derive(Debug, Default)]
struct Slot {
    picture: Room,
    /// After the picture's last part has left the host.
    sent: Option<Event>,
    labels: Download,
    depth: Download,
    answer: Download,
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
pub(in crate::frame) struct Cuda {
    core: Core,
    /// Height and width of the input.
    input: [usize; 2],
    /// Of one answer: height, width, channels.
    answer_shape: [usize; 3],
    /// For inputs that come in single precision.
    staging: Room,
    normalisation: Normalisation,
    decoding: Decoding,
    inputs: Cache<InputKey, (InputTables, OnDevice<4>)>,
    outputs: Cache<Geometry, (OutputTables, OnDevice<2>)>,
    slots: Vec<Slot>,
    answered: Event,
    /// The last to go.
    gpu: Gpu,
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // A module's memory goes back to libtorch, for others: nothing may be left that writes to it.
        let _ = self.gpu.enter().and_then(|()| self.gpu.finish());
    }
}

impl Cuda {
    /// Loads a model's weights onto a device, for our own kernels, and makes the graphs.
    ///
    /// # Errors
    /// Another precision; no weights in the folder, or others than the manifest describes; the model answers at another size
    /// than the heads' own; no driver, no such device, no compiler, no memory.
    pub fn load(
        artifact: &Artifact,
        index: usize,
        precision: Precision,
        max_batch: usize,
    ) -> Result<Self, NetworkError> {
        let error = |reason: String| NetworkError::Backend { backend: Backend::Native.name(), reason };
        if precision != Precision::Fp16 {
            return Err(error(format!(
                "on CUDA it computes in fp16, not in {}; set precision to fp16",
                precision.name()
            )));
        }
        let manifest = &artifact.manifest;
        let (width, height) = (manifest.input.width, manifest.input.height);
        let network = own_network(artifact).map_err(error)?;
        let parts = network.folded(NumberFormat::Fixed(Kind::Float)).trunk_parts();
        let parts = parts.ok_or_else(|| error("the network is not folded".into()))?;
        let weights = Weights::new(parts, &network.end_weights()).map_err(error)?;
        let gpu = Gpu::open(index, Program::Network).map_err(error)?;
        let layers = Layers::new(&gpu, &weights, (height, width), max_batch, gpu.capacity())?;
        gpu.finish()?;
        let core = Core::Own(Own::new(&gpu, layers));
        Self::new(gpu, core, manifest, max_batch)
    }

    /// Around a module that libtorch runs on this device.
    ///
    /// # Errors
    /// No driver, too old a device, no compiler, no memory.
    pub(in crate::frame::network) fn around(
        module: TorchScript,
        manifest: &Manifest,
        index: usize,
        max_batch: usize,
    ) -> Result<Self, NetworkError> {
        let error = |reason: String| NetworkError::Backend { backend: Backend::TorchScript.name(), reason };
        let gpu = Gpu::open(index, Program::Frame).map_err(error)?;
        let core = Core::Module(Box::new(Module::new(&gpu, module, manifest, max_batch)?));
        Self::new(gpu, core, manifest, max_batch)
    }

    fn new(gpu: Gpu, core: Core, manifest: &Manifest, max_batch: usize) -> Result<Self, NetworkError> {
        let answer_shape = core.answer_shape();
        Ok(Self {
            decoding: Decoding::new(manifest, answer_shape),
            normalisation: Normalisation::new(&manifest.input, core.layout()),
            input: [manifest.input.height, manifest.input.width],
            answer_shape,
            staging: Room::default(),
            inputs: Cache::new(),
            outputs: Cache::new(),
            slots: (0..max_batch).map(|_| Slot::default()).collect(),
            answered: gpu.event(false)?,
            core,
            gpu,
        })
    }

    fn pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn answer_length(&self) -> usize {
        self.answer_shape.iter().product()
    }

    /// Starts the network on the first `batch` images.
    fn start(&mut self, batch: usize) -> Result<(), NetworkError> {
        self.core.start(&self.gpu, &self.decoding, batch)
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
        let host = self.staging.host()?;
        host.floats_mut()[..pixels * 3].copy_from_slice(&input[..pixels * 3]);
        self.gpu.send(host, 0..bytes, staging)?;
        self.core.take(&self.gpu, staging, pixels)?;
        self.start(batch)?;
        let length = batch * self.answer_length();
        let room = &mut self.slots[0].answer.room;
        room.fit(&self.gpu, length * size_of::<f32>())?;
        self.gpu.fetch(self.core.answer(), room.host()?, 0..length * size_of::<f32>())?;
        self.gpu.finish()?;
        let [height, width, channels] = self.answer_shape;
        Ok(read(Answers { width, height, channels, data: &room.host()?.floats()[..length] }))
    }

    /// Brings a picture's bytes to the device and makes the network's input number `slot` of them, later.
    ///
    /// # Errors
    /// The device fails.
    pub fn prepare(&mut self, slot: usize, image: &ImageView<'_>, geometry: &Geometry) -> Result<(), NetworkError> {
        self.gpu.enter()?;
        let key = (geometry.source_rect(), geometry.network_rect());
        let gpu = &self.gpu;
        let (tables, on_device) = self.inputs.try_get(&key, || {
            let tables = InputTables::new(geometry);
            OnDevice::new(gpu, tables.bytes()).map(|on_device| (tables, on_device))
        })?;
        let Slot { picture, sent, .. } = &mut self.slots[slot];
        let (from, pixel) = (tables.from, image.encoding().channels());
        let row = from.width * pixel;
        let at = picture.fit(gpu, row * from.height)?;
        // The host half may still be travelling where an earlier batch failed half-way.
        match sent {
            Some(event) => event.wait()?,
            None => *sent = Some(gpu.event(false)?),
        }
        let rows_a_part = (PART / row).max(1);
        for first in (0..from.height).step_by(rows_a_part) {
            let rows = first..(first + rows_a_part).min(from.height);
            let part = rows.start * row..rows.end * row;
            let host = picture.host()?;
            let rows_a_task = (TASK / row).max(1);
            let tasks = host.bytes_mut()[part.clone()].chunks_mut(row * rows_a_task).enumerate();
            share_among(
                COPIERS,
                tasks,
                || (),
                |(), (task, to)| {
                    for (i, to) in to.chunks_exact_mut(row).enumerate() {
                        let source = image.row(from.y + rows.start + task * rows_a_task + i);
                        to.copy_from_slice(&source[from.x * pixel..][..row]);
                    }
                },
            );
            gpu.send(host, part.clone(), at + part.start as Address)?;
        }
        if let Some(event) = sent {
            gpu.record(event)?;
        }
        let [height, width] = self.input;
        let input = self.core.input() + (slot * height * width * self.core.layout().pixel()) as Address;
        Ok(gpu.launch(&tables.launch(on_device.at, &self.normalisation, image, at, input))?)
    }

    /// Runs the network on the inputs `0..batch` that have been prepared, later.
    ///
    /// # Errors
    /// The device fails.
    pub fn answer(&mut self, batch: usize) -> Result<(), NetworkError> {
        self.start(batch)?;
        Ok(self.gpu.record(&self.answered)?)
    }

    /// Makes outputs of the answer number `slot`, and begins to fetch them.
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
        let (gpu, answer_shape) = (&self.gpu, self.answer_shape);
        let answer = self.core.answer() + (slot * self.answer_length() * size_of::<f32>()) as Address;
        let best = self.core.best() + (slot * answer_shape[0] * answer_shape[1]) as Address;
        let answer_bytes = self.answer_length() * size_of::<f32>();
        let (tables, on_device) = self.outputs.try_get(geometry, || {
            let tables = OutputTables::new(geometry, (answer_shape[1], answer_shape[0]));
            OnDevice::new(gpu, tables.bytes()).map(|on_device| (tables, on_device))
        })?;
        let slot = &mut self.slots[slot];
        let (width, height) = geometry.output();
        let mut at = FrameAddresses { answer, best, tables: on_device.at, labels: 0, depth: 0 };
        if wanted.labels {
            at.labels = slot.labels.room.fit(gpu, width * height)?;
        }
        if wanted.depth {
            at.depth = slot.depth.room.fit(gpu, width * height * size_of::<f32>())?;
        }
        if wanted.labels || wanted.depth {
            gpu.launch(&self.decoding.launch(tables, at, factor))?;
        }
        if wanted.labels {
            slot.labels.start(gpu, at.labels, width * height)?;
        }
        if wanted.depth {
            slot.depth.start(gpu, at.depth, width * height * size_of::<f32>())?;
        }
        if wanted.answer {
            slot.answer.start(gpu, answer, answer_bytes)?;
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
        let ([height, width, channels], length) = (self.answer_shape, self.answer_length());
        let answer = &mut self.slots[slot].answer;
        answer.events.iter().try_for_each(Event::wait)?;
        Ok(Packed { width, height, channels, data: &answer.room.host()?.floats()[..length] })
    }

    /// Milliseconds of a run of a batch of one whose input is there already, by the device's own clock.
    ///
    /// # Errors
    /// The device fails.
    pub fn timed(&mut self) -> Result<f32, NetworkError> {
        self.gpu.enter()?;
        let (start, end) = (self.gpu.event(true)?, self.gpu.event(true)?);
        self.gpu.record(&start)?;
        self.start(1)?;
        self.gpu.record(&end)?;
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
            self.gpu.record(&start)?;
            (0..repetitions).try_for_each(|_| self.gpu.launch(launch))?;
            self.gpu.record(&end)?;
            end.wait()?;
            let ms = end.since(&start)? / repetitions as f32;
            Ok(KernelRun { name: launch.kernel.name(), grid: launch.grid, ms })
        };
        self.core.launches().iter().map(|launch| timed(launch).map_err(NetworkError::from)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::host::Host;
    use super::layers::{narrow, Layers, Weights};
    use super::machine::{bytes_of, Capacity, Machine};
    use crate::export::trace::packed_heads;
    use crate::frame::network::native::tests::{input, largest, network};
    use crate::model::{NetworkConfig, NumberFormat, Task};
    use tch::{Kind, Tensor};

    /// The greatest of each pixel's scores, the first among equals.
    pub(super) fn greatest(answer: &[f32], channels: usize, scores: usize) -> Vec<u8> {
        let first_greatest = |pixel: &[f32]| {
            let mut best = (0, f32::NEG_INFINITY);
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
        host.upload(staging, bytes_of(&values)).expect("memory");
        host.launch(&narrow(staging, layers.input, pixels)).expect("it runs");
        for launch in &layers.batches[batch - 1] {
            host.launch(launch).expect("it runs");
        }
        let [h, w, c] = layers.answer_shape;
        let found: Vec<f32> = host.values(layers.answer, batch * h * w * c);
        let best: Vec<u8> = host.values(layers.best, batch * h * w);
        assert_eq!(best, greatest(&found, c, scores));
        Tensor::from_slice(&found).view([batch as i64, h as i64, w as i64, c as i64]).permute([0, 3, 1, 2])
    }

    /// Batch, height, width; multiprocessors, KiB of shared memory of a block. A device that works on few blocks at once gets
    /// large ones. The last two are wider than a block, of either kind.
    type Size = (i64, i64, i64, usize, usize);
    const SIZES: [Size; 5] =
        [(2, 75, 53, 1, 99), (1, 64, 128, 132, 227), (2, 75, 53, 12, 163), (1, 9, 1090, 1, 227), (1, 9, 650, 999, 227)];

    fn compare(config: &NetworkConfig, sizes: &[Size]) {
        let Some(host) = Host::new() else { return };
        let _no_grad = tch::no_grad_guard();
        let network = network(config);
        let parts = network.folded(NumberFormat::Fixed(Kind::Float)).trunk_parts().expect("it is folded");
        let weights = Weights::new(parts, &network.end_weights()).expect("the heads fit");
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
        }
    }

    // Tests of their own, so that they run beside each other.
    #[test]
    fn kernels_answer_as_the_network_does() {
        compare(&NetworkConfig::default(), &SIZES[..2]);
    }

    #[test]
    fn kernels_answer_as_the_network_does_in_other_blocks() {
        compare(&NetworkConfig::default(), &SIZES[2..]);
    }

    #[test]
    fn kernels_answer_as_the_network_does_without_the_quarter_stage() {
        compare(&NetworkConfig { extra_light: true, ..NetworkConfig::default() }, &SIZES[..2]);
    }

    #[test]
    fn kernels_answer_as_the_network_does_with_more_heads() {
        let heads = vec![Task::Normals, Task::Depth, Task::Segmentation];
        compare(&NetworkConfig { classes: 30, heads, ..NetworkConfig::default() }, &SIZES[..2]);
    }

    #[test]
    fn blocks_have_room_for_what_they_share() {
        let Some(host) = Host::new() else { return };
        let network = network(&NetworkConfig::default());
        let parts = network.folded(NumberFormat::Fixed(Kind::Float)).trunk_parts().expect("it is folded");
        let weights = Weights::new(parts, &network.end_weights()).expect("the heads fit");
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

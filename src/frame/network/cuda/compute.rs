//! What makes answers of inputs, both on the device: our own kernels, or a module of libtorch's.

use super::frame::{Decoding, Layout};
use super::layers::{narrow, Layers};
use super::machine::{Address, Device, DeviceMemory as _, Lane, Launch, MachineError};
use crate::export::manifest::Manifest;
use crate::frame::network::maps::channels_last;
use crate::frame::network::torchscript::TorchScript;
use crate::frame::network::{torch_error, NetworkError};
use tch::{Kind, Tensor};

/// A network between inputs and answers on the device. Answers are single precision, `[image][height][width][channels]`.
#[derive(Debug)]
pub(super) enum Compute<D: Device> {
    Own(Own<D>),
    Module(Box<Module<D>>),
}

/// The network as our own kernels.
#[derive(Debug)]
pub(super) struct Own<D: Device> {
    layers: Layers,
    /// Of batches of one, two, ...; where there is none, kernels are started one by one.
    graphs: Vec<Option<D::Graph>>,
}

impl<D: Device> Own<D> {
    pub fn new(gpu: &D, layers: Layers) -> Self {
        Self { graphs: layers.batches.iter().map(|launches| gpu.graph(launches)).collect(), layers }
    }

    fn start(&self, gpu: &D, batch: usize) -> Result<(), MachineError> {
        match &self.graphs[batch - 1] {
            Some(graph) => gpu.start(graph),
            None => self.layers.batches[batch - 1].iter().try_for_each(|launch| gpu.launch(launch)),
        }
    }
}

/// A TorchScript module, with or without TensorRT engines. libtorch computes in a stream of its own; each side waits on the
/// device for what the other one has been asked for, and the host for neither.
#[derive(Debug)]
pub(super) struct Module<D: Device> {
    module: TorchScript,
    /// `[max_batch, height, width, 3]`, single precision.
    input: Tensor,
    /// The newest, `[batch, height, width, channels]`, single precision.
    answer: Tensor,
    /// Of one answer.
    answer_shape: [usize; 3],
    /// Classes of its pixels.
    best: D::Buffer,
    handed: D::Event,
    done: D::Event,
}

impl<D: Device> Module<D> {
    /// Input and answers are libtorch's memory on the module's device.
    pub fn new(gpu: &D, module: TorchScript, manifest: &Manifest, max_batch: usize) -> Result<Self, NetworkError> {
        let zeros = |shape: [usize; 4]| {
            let shape = shape.map(|n| n as i64);
            Tensor::f_zeros(shape, (Kind::Float, module.device())).map_err(torch_error("allocate the network's input"))
        };
        let (width, height) = manifest.answer_size();
        let answer_shape = [height, width, manifest.output.channels()];
        let input = zeros([max_batch, manifest.input.height, manifest.input.width, 3])?;
        let answer = zeros([max_batch, height, width, answer_shape[2]])?;
        let best = gpu.buffer(max_batch * width * height)?;
        let (handed, done) = (gpu.event(false)?, gpu.event(false)?);
        let made = Self { module, input, answer, answer_shape, best, handed, done };
        // libtorch is still setting them to zero.
        made.take_back(gpu)?;
        Ok(made)
    }

    /// Has libtorch wait for the kernels that have been asked for until now.
    fn hand_over(&self, gpu: &D) -> Result<(), MachineError> {
        gpu.record(Lane::Work, &self.handed)?;
        gpu.wait_for(Lane::Libtorch, &self.handed)
    }

    /// Has kernels that will be asked for wait for what libtorch has been asked for until now.
    fn take_back(&self, gpu: &D) -> Result<(), MachineError> {
        // libtorch may have left another device to this thread.
        gpu.enter()?;
        gpu.record(Lane::Libtorch, &self.done)?;
        gpu.wait_for(Lane::Work, &self.done)
    }

    fn start(&mut self, gpu: &D, decoding: &Decoding, batch: usize) -> Result<(), NetworkError> {
        self.hand_over(gpu)?;
        let answer = answer(&self.module, &self.input, batch)?;
        self.take_back(gpu)?;
        if let Some(launch) = decoding.best(address(&answer), self.best.at(), batch) {
            gpu.launch(&launch)?;
        }
        // The one before goes back to libtorch, which was made to wait for everything that still reads it.
        self.answer = answer;
        Ok(())
    }
}

/// What a module answers to the first `batch` inputs of `[max_batch, H, W, 3]`: single precision, `[batch, h, w, channels]`,
/// contiguous, on the module's device.
fn answer(module: &TorchScript, input: &Tensor, batch: usize) -> Result<Tensor, NetworkError> {
    let _no_grad = tch::no_grad_guard();
    // The logical [B, 3, H, W], in libtorch's channels-last format.
    let view = input.f_narrow(0, 0, batch as i64).and_then(|t| t.f_permute([0, 3, 1, 2]));
    let answer = module.answer(&view.map_err(torch_error("view the network's input"))?)?;
    // A module may answer elsewhere, as one that ends with `.cpu()` does; kernels are to read it.
    let answer = answer.f_to_device(module.device()).and_then(|answer| channels_last(&answer));
    answer.map_err(torch_error("read the network's answer"))
}

fn address(tensor: &Tensor) -> Address {
    tensor.data_ptr() as Address
}

impl<D: Device> Compute<D> {
    /// How its inputs lie in memory.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Own(_) => Layout::Half,
            Self::Module(_) => Layout::Float,
        }
    }

    /// Of one answer: height, width, channels.
    pub fn answer_shape(&self) -> [usize; 3] {
        match self {
            Self::Own(own) => own.layers.answer_shape,
            Self::Module(module) => module.answer_shape,
        }
    }

    /// Where its inputs begin.
    pub fn input(&self) -> Address {
        match self {
            Self::Own(own) => own.layers.input,
            Self::Module(module) => address(&module.input),
        }
    }

    /// Where its answers begin.
    pub fn answer(&self) -> Address {
        match self {
            Self::Own(own) => own.layers.answer,
            Self::Module(module) => address(&module.answer),
        }
    }

    /// Where the classes of its answers' pixels begin.
    pub fn best(&self) -> Address {
        match self {
            Self::Own(own) => own.layers.best,
            Self::Module(module) => module.best.at(),
        }
    }

    /// Fills the inputs from single precision on the device, `[pixels][3]`, later.
    pub fn take(&self, gpu: &D, from: Address, pixels: usize) -> Result<(), MachineError> {
        match self {
            Self::Own(own) => gpu.launch(&narrow(from, own.layers.input, pixels)),
            Self::Module(module) => gpu.copy(from, address(&module.input), pixels * Layout::Float.pixel()),
        }
    }

    /// Runs it on the first `batch` inputs, later.
    pub fn start(&mut self, gpu: &D, decoding: &Decoding, batch: usize) -> Result<(), NetworkError> {
        match self {
            Self::Own(own) => Ok(own.start(gpu, batch)?),
            Self::Module(module) => module.start(gpu, decoding, batch),
        }
    }

    /// Our own kernels of a batch of one.
    pub fn launches(&self) -> &[Launch] {
        match self {
            Self::Own(own) => &own.layers.batches[0],
            Self::Module(_) => &[],
        }
    }
}

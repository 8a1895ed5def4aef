//! The network at work: one of several back ends on a device, in a precision.
//!
//! - [`Backend`]: what can run it; [`select`] takes the best that can, and says which and why
//! - [`Network`]: a loaded one with its input buffer

mod backend;
mod cuda;
mod device;
mod maps;
mod native;
mod precision;
mod select;
mod torchscript;

pub use backend::{Backend, BackendChoice};
pub use cuda::ZERO_COPY;
pub use device::{device_name, load_cuda_half, resolve, DeviceChoice};
pub use precision::Precision;
pub use select::{select, usual, Compile, Selection};

use super::output::{Packed, MAX_CLASSES};
use crate::cpu::values;
use crate::data::classes::UNLABELLED;
use crate::export::golden::Deviation;
use crate::export::manifest::InputKind;
use crate::export::trace::WEIGHTS;
use crate::export::{Artifact, ArtifactError, Manifest};
use crate::model;
use crate::tensorrt::{self, BatchRange, BuildOptions, EnginePrecision};
pub(in crate::frame) use cuda::Cuda;
pub(in crate::frame) use cuda::{Device as CudaDevice, FromDevice, Order};
use native::Native;
use serde::Serialize;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use thiserror::Error;
use torchscript::TorchScript;

/// Why the network cannot be run.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A CUDA device was asked for and is not there.
    #[error(
        "device cuda:{index} was asked for, but libtorch sees {available} CUDA devices{reason}; set device to cpu or auto"
    )]
    NoCuda {
        /// Asked for.
        index: usize,
        /// Seen.
        available: i64,
        /// Why, where it is known; begins with a space.
        reason: String,
    },
    /// libtorch refused something.
    #[error("libtorch could not {what}: {reason}")]
    Torch {
        /// What was tried.
        what: String,
        /// The first line of libtorch's message.
        reason: String,
    },
    /// The CUDA driver refused something.
    #[error("CUDA could not {what}: {reason}")]
    Cuda {
        /// What was tried.
        what: String,
        /// The driver's name of the error.
        reason: String,
    },
    /// The module cannot compute in this precision on this device.
    #[error("the model cannot run in {precision} on {device}: {reason}; {remedy}")]
    Precision {
        /// `fp32`, `fp16` or `bf16`.
        precision: &'static str,
        /// `cpu` or `cuda:N`.
        device: String,
        /// libtorch's message.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A variable of the environment has a value that means nothing.
    #[error("{name}: expected {expected}, found {found:?}; correct the variable or unset it")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A class whose pixels would pass for unlabelled ones.
    #[error(
        "the model has {} classes, and its last one, '{name}', has the index {UNLABELLED}, which means unlabelled where labels \
         are bytes; leave a class out of its manifest, or put 'unlabelled' last", MAX_CLASSES + 1
    )]
    Classes {
        /// The class's name.
        name: String,
    },
    /// A file of the model.
    #[error(transparent)]
    Model(#[from] ArtifactError),
    /// A back end cannot be used here.
    #[error("the {backend} back end cannot be used: {reason}")]
    Backend {
        /// Its name.
        backend: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// The cache has an engine of the model that cannot be used here: it does not fit, or its libraries are missing.
    #[error("the tensorrt back end cannot be used: {0}")]
    EngineUnused(String),
    /// The answer to the model's golden input is not what it should be.
    #[error(
        "{backend} in {precision} on {device} answers the model's golden input otherwise than the network did at export: \
         {deviation}; expected {tolerance}"
    )]
    Golden {
        /// Its name.
        backend: &'static str,
        /// `fp32`, `fp16` or `bf16`.
        precision: &'static str,
        /// `cpu` or `cuda:N`.
        device: String,
        /// Found.
        deviation: Deviation,
        /// Allowed.
        tolerance: Deviation,
    },
    /// The module answers another number of tensors than the manifest says.
    #[error(
        "the network answered {found}, but its manifest says {expected} (output.tensors); correct the manifest or export \
         the model again"
    )]
    Answer {
        /// From the manifest.
        expected: String,
        /// From the module.
        found: String,
    },
    /// The module is not what the manifest says.
    #[error("{what} has the shape {actual:?}, but its manifest says {expected:?} (batch, channels, height, width); {remedy}")]
    Shape {
        /// The answer, or a tensor of it.
        what: String,
        /// From the manifest.
        expected: Vec<i64>,
        /// From the module.
        actual: Vec<i64>,
        /// What to do.
        remedy: String,
    },
}

impl NetworkError {
    /// Of a model's answer, or a tensor of it.
    fn shape(what: impl Into<String>, expected: Vec<i64>, actual: Vec<i64>, is_exported: bool) -> Self {
        let remedy = match is_exported {
            true => "export the model again",
            false => {
                "correct output.width, output.height (which all its tensors share; not said, they are the input's) or the \
                 number of channels in the manifest, or have the module bring its tensors to one size (F.interpolate)"
            }
        };
        Self::Shape { what: what.into(), expected, actual, remedy: remedy.into() }
    }

    /// A batch of somebody else's module failed whose smaller ones did not: it may be made for one frame at a time.
    fn at_batch(self, batch: usize) -> Self {
        let advice = "if the module takes one frame at a time, set max_batch_size to 1";
        match self {
            Self::Torch { what, reason } => {
                Self::Torch { what: format!("{what} with a batch of {batch}"), reason: format!("{reason}; {advice}") }
            }
            Self::Shape { what, expected, actual, remedy } => {
                Self::Shape { what, expected, actual, remedy: format!("{advice}; else {remedy}") }
            }
            other => other,
        }
    }
}

/// What has a shape, where the answer is one tensor.
const ANSWER: &str = "the network's answer";

/// Whether the model was exported here, and not somebody else's module with a manifest written by hand.
fn is_exported(manifest: &Manifest) -> bool {
    manifest.files.contains_key(WEIGHTS)
}

/// libtorch's messages carry a C++ stack: one line says it all, the first one, or after a TorchScript traceback the one
/// that names the error.
pub(crate) fn torch_error(what: impl Into<String>) -> impl FnOnce(tch::TchError) -> NetworkError {
    move |error| {
        // Its `Display` puts words of its own before libtorch's first line.
        let text = match error {
            tch::TchError::Torch(text) => text,
            other => other.to_string(),
        };
        let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty());
        let line =
            lines().find_map(|l| l.strip_prefix("RuntimeError: ")).or(lines().next()).unwrap_or("no reason given");
        NetworkError::Torch { what: what.into(), reason: line.chars().take(400).collect() }
    }
}

/// The answers to one batch, in host memory: `[batch, height, width, channels]`.
#[derive(Debug, Clone, Copy)]
pub struct Answers<'a> {
    width: usize,
    height: usize,
    channels: usize,
    data: &'a [f32],
}

impl<'a> Answers<'a> {
    /// Each of them, in the order of the inputs.
    pub fn each(self) -> impl Iterator<Item = Packed<'a>> {
        let Self { width, height, channels, data } = self;
        data.chunks_exact(width * height * channels).map(move |data| Packed { width, height, channels, data })
    }
}

/// A file with this model's engine for the GPU at hand, inspected, with the libraries that it needs in the process.
fn tensorrt_engine(artifact: &Artifact, wanted: &Selection, precision: Precision) -> Result<PathBuf, NetworkError> {
    let error = |reason: String| NetworkError::Backend { backend: Backend::TensorRt.name(), reason };
    let Device::Cuda(gpu) = wanted.device else {
        return Err(error(
            "it needs a CUDA device, and the network is to run on the processor; set backend to auto".into(),
        ));
    };
    let precision = match precision {
        Precision::Auto | Precision::Fp32 => EnginePrecision::Fp32,
        Precision::Fp16 => EnginePrecision::Fp16,
        Precision::Bf16 => return Err(error("it computes in fp16 or fp32; set precision to one of them".into())),
    };
    let build = BuildOptions {
        precision,
        batch: BatchRange { min: 1, best: wanted.max_batch, max: wanted.max_batch },
        engine: None,
        cache: None,
        compile: match wanted.compile {
            Compile::Always => true,
            Compile::IfNamed => wanted.backend == BackendChoice::Only(Backend::TensorRt),
            Compile::Never => false,
        },
    };
    tensorrt::prepare(artifact, gpu, &build).map_err(|e| match e.leaves_an_engine_unused() && !build.compile {
        true => NetworkError::EngineUnused(e.to_string()),
        false => error(e.to_string()),
    })
}

/// Refuses a file with TensorRT engines: libtorch would deserialise them before anything can be checked, and of some
/// versions end the process.
fn without_engines(torchscript: &Path) -> Result<(), NetworkError> {
    let error = |reason: String| NetworkError::Backend { backend: Backend::TorchScript.name(), reason };
    let archive = tensorrt::inspect(torchscript).map_err(|e| error(e.to_string()))?;
    if archive.engines.is_empty() {
        return Ok(());
    }
    Err(error(format!(
        "{} holds TensorRT engines; export the model without them, and take them with `semantic_depth export --tensorrt \
         --model MODEL --engine FILE`",
        torchscript.display()
    )))
}

/// Refuses a model of more classes than bytes can tell from each other and from unlabelled.
fn can_be_told_apart(manifest: &Manifest) -> Result<(), NetworkError> {
    match manifest.classes.get(MAX_CLASSES) {
        Some(class) if class.id != UNLABELLED => Err(NetworkError::Classes { name: class.name.clone() }),
        _ => Ok(()),
    }
}

/// The network that the native back end computes: built from a model's weights.
///
/// # Errors
/// In words: no weights in the folder, or not those of the network that the manifest describes; an input of bytes; or the model
/// answers at another size than the heads' own.
fn own_network(artifact: &Artifact) -> Result<model::Network, String> {
    let manifest = &artifact.manifest;
    if !manifest.files.contains_key(WEIGHTS) {
        return Err(format!(
            "the model has no {WEIGHTS}, which only an export of this package's own networks has; set backend to torchscript"
        ));
    }
    if manifest.input.kind != InputKind::Float {
        return Err("its input is floating point, and the model's is bytes; set backend to torchscript".into());
    }
    let stride = manifest.network.heads_stride();
    let expected = (manifest.input.width.div_ceil(stride), manifest.input.height.div_ceil(stride));
    if manifest.answer_size() != expected {
        return Err(format!(
            "the model's answer has the size {:?}, and it would give {expected:?} (width, height); export the model \
             again without --full-size, or set backend to torchscript",
            manifest.answer_size()
        ));
    }
    artifact.network().map_err(|e| e.to_string())
}

/// A module of libtorch's, with frames on its device where our kernels can be had there, else on the processor.
/// `zero_copy`: as in [`Cuda::open`]; `parameters` becomes what the module's are.
fn module_engine(
    path: &Path,
    backend: Backend,
    manifest: &Manifest,
    wanted: &Selection,
    precision: Precision,
    zero_copy: Option<bool>,
    parameters: &mut Parameters,
) -> Result<Engine, NetworkError> {
    let mut load = || {
        let module = TorchScript::load(path, manifest, wanted.device, precision)?;
        if !is_exported(manifest) {
            *parameters = module.parameters().map_or(Parameters::Unknown, Parameters::Of);
        }
        Ok::<_, NetworkError>(module)
    };
    let Device::Cuda(index) = wanted.device else { return Ok(Engine::TorchScript(load()?)) };
    // The device first: where it has no kernels of ours, the module is loaded only once.
    let cuda = match Cuda::open(index, zero_copy) {
        Ok(gpu) => Cuda::around(gpu, load()?, manifest, wanted.max_batch).map_err(|e| e.to_string()),
        Err(reason) => Err(reason),
    };
    match cuda {
        Ok(cuda) => Ok(Engine::Cuda(Box::new(cuda))),
        // Torch-TensorRT runs an engine on the thread's current device, which is the first one unless our kernels are there
        // and make theirs current.
        Err(reason) if backend == Backend::TensorRt && index > 0 => Err(NetworkError::Backend {
            backend: backend.name(),
            reason: format!(
                "it cannot be told to take cuda:{index} here ({reason}); set CUDA_VISIBLE_DEVICES={index} in the environment \
                 and take cuda:0"
            ),
        }),
        Err(reason) => {
            log::info!("frames are prepared and finished on the processor, as the device cannot: {reason}");
            Ok(Engine::TorchScript(load()?))
        }
    }
}

/// What libtorch's refusal of a first run says: a module's input is made in the precision that is asked for, but its parameters
/// stay what they are. `parameters`: their number format, of somebody else's module.
fn refused(what: String, reason: String, precision: Precision, device: Device, parameters: Parameters) -> NetworkError {
    let wanted = precision.kind();
    let remedy = match parameters {
        Parameters::Ours if wanted == Kind::Float => return NetworkError::Torch { what, reason },
        Parameters::Ours => "set precision to fp32, or export the model again if an older version exported it".into(),
        Parameters::Of(kind) if kind == wanted && wanted == Kind::Float => return NetworkError::Torch { what, reason },
        Parameters::Of(kind) if kind == wanted => {
            "convert the module to single precision, and set precision to fp32".into()
        }
        Parameters::Of(kind) => match Precision::of(kind) {
            Some(theirs) => format!(
                "a module runs in its own parameters' kind: set precision to {}, or convert the module",
                theirs.name()
            ),
            None => format!("a module runs in its own parameters' kind, {kind:?} here: convert it to single precision"),
        },
        // A frozen module has constants in their place.
        Parameters::Unknown if wanted == Kind::Float && !["Half", "BFloat16"].iter().any(|k| reason.contains(k)) => {
            return NetworkError::Torch { what, reason };
        }
        Parameters::Unknown if wanted == Kind::Float => {
            "a module runs in its own parameters' kind: set precision to that, or convert the module".into()
        }
        Parameters::Unknown => {
            "a module runs in its own parameters' kind: set precision to fp32, which is the usual one, or convert the module"
                .into()
        }
    };
    NetworkError::Precision { precision: precision.name(), device: device_name(device), reason, remedy }
}

/// The number format of a module's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameters {
    /// An exported network follows its input.
    Ours,
    /// All of somebody else's.
    Of(Kind),
    /// Several, or there are none.
    Unknown,
}

/// One of the back end's own kernels, as it runs again and again: its maps lie in the cache, and nothing waits for the one
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KernelRun {
    /// In the source.
    pub name: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Mean milliseconds of a run.
    pub ms: f32,
}

/// What runs the network.
#[derive(Debug)]
enum Engine {
    TorchScript(TorchScript),
    Native(Box<Native>),
    /// Our own kernels, or a module.
    Cuda(Box<Cuda>),
}

/// A loaded network with its input buffer. It belongs to one thread: libtorch's grad mode and streams are per thread.
#[derive(Debug)]
pub struct Network {
    engine: Engine,
    backend: Backend,
    device: Device,
    precision: Precision,
    max_batch: usize,
    /// `[max_batch, height, width, 3]` in host memory: channels last, libtorch's faster layout for this network.
    input: Tensor,
    /// Of one answer: `[height, width, channels]`.
    shape: [usize; 3],
    /// Not somebody else's module.
    is_exported: bool,
    /// How far its answer to the golden input was off.
    golden: Option<Deviation>,
    /// Its class scores are probabilities, it seems.
    answers_probabilities: bool,
}

impl Network {
    /// Loads a model into one back end, in one precision, on the wanted device, and runs it with every batch size, so that
    /// the first frames cost what the others do. [`select`] does so with the best one.
    ///
    /// # Errors
    /// [`NetworkError`]: the back end cannot load or run the model in this precision on this device, or it does not answer
    /// what the manifest says.
    pub fn load(
        artifact: &Artifact,
        wanted: &Selection,
        backend: Backend,
        precision: Precision,
    ) -> Result<Self, NetworkError> {
        let Selection { device, max_batch, .. } = *wanted;
        let precision = if precision == Precision::Auto { Precision::Fp32 } else { precision };
        let manifest = &artifact.manifest;
        can_be_told_apart(manifest)?;
        // Here and not where it is used: there an error would only lead to another back end.
        let zero_copy = if matches!(device, Device::Cuda(_)) { cuda::zero_copy()? } else { None };
        let is_exported = is_exported(manifest);
        let mut parameters = Parameters::Ours;
        let engine = match backend {
            Backend::Native => match device {
                Device::Cuda(index) => {
                    Engine::Cuda(Box::new(Cuda::load(artifact, index, precision, max_batch, zero_copy)?))
                }
                _ => Engine::Native(Box::new(Native::load(artifact, device, precision)?)),
            },
            Backend::TorchScript => {
                without_engines(&artifact.torchscript_path())?;
                module_engine(
                    &artifact.torchscript_path(),
                    backend,
                    manifest,
                    wanted,
                    precision,
                    zero_copy,
                    &mut parameters,
                )?
            }
            Backend::TensorRt => {
                let path = tensorrt_engine(artifact, wanted, precision)?;
                module_engine(&path, backend, manifest, wanted, precision, zero_copy, &mut parameters)?
            }
        };
        let (height, width) = (manifest.input.height as i64, manifest.input.width as i64);
        let input = Tensor::f_zeros([max_batch as i64, height, width, 3], (Kind::Float, Device::Cpu))
            .map_err(torch_error(format!("allocate an input of {max_batch} x {width}x{height}")))?;
        let (answer_width, answer_height) = manifest.answer_size();
        let shape = [answer_height, answer_width, manifest.output.channels()];
        let mut network = Self {
            engine,
            backend,
            device,
            precision,
            max_batch,
            input,
            shape,
            is_exported,
            golden: None,
            answers_probabilities: false,
        };
        for batch in 1..=max_batch {
            // Twice: the first run specialises the graph, the second one optimises it.
            for _ in 0..2 {
                network.run(batch, |_| ()).map_err(|error| match error {
                    error if batch > 1 && !is_exported => error.at_batch(batch),
                    NetworkError::Torch { what, reason } => refused(what, reason, precision, device, parameters),
                    other => other,
                })?;
            }
        }
        Ok(network)
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// What runs it.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// What it really computes in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How far its answer to the model's golden input is from the one at export; `None` where the model has none.
    pub fn golden_deviation(&self) -> Option<Deviation> {
        self.golden
    }

    /// Whether the class scores of a model without a golden input are probabilities, by one answer.
    pub fn answers_probabilities(&self) -> bool {
        self.answers_probabilities
    }

    /// The most inputs of one run.
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// The input, `[max_batch, height, width, 3]`, whose first `batch` images are to be filled before
    /// [`Network::run`].
    #[allow(unsafe_code)]
    pub fn input_mut(&mut self) -> &mut [f32] {
        // SAFETY: the tensor is contiguous float32 in host memory, made in `load` and never handed out: nobody else reads or
        // writes it while `self` is borrowed exclusively.
        unsafe { values::<f32>(&mut self.input) }
    }

    /// Where frames are answered on the device, from their bytes to their outputs.
    pub(in crate::frame) fn on_device(&mut self) -> Option<&mut Cuda> {
        match &mut self.engine {
            Engine::Cuda(cuda) => Some(cuda),
            _ => None,
        }
    }

    /// Milliseconds of a run of a batch of one, input and answer on the device, by its own clock; `None` where the back end
    /// cannot tell.
    ///
    /// # Errors
    /// The device fails.
    pub fn device_time_ms(&mut self) -> Result<Option<f32>, NetworkError> {
        match &mut self.engine {
            Engine::Cuda(cuda) => cuda.timed(1).map(Some),
            _ => Ok(None),
        }
    }

    /// Each kernel of a pass, run so many times in a row, in their order; none where they are not our own.
    ///
    /// # Errors
    /// The device fails.
    pub fn kernels(&self, repetitions: usize) -> Result<Vec<KernelRun>, NetworkError> {
        match &self.engine {
            Engine::Cuda(cuda) => cuda.kernels(repetitions),
            _ => Ok(Vec::new()),
        }
    }

    /// Runs the network on the first `batch` images of the input buffer, together, and hands their answers, in host
    /// memory and channels last, to `read`.
    ///
    /// # Errors
    /// [`NetworkError`]: libtorch failed (memory, a lost device), or the answer has another shape than it should.
    ///
    /// # Panics
    /// If `batch` is 0 or beyond [`Network::max_batch`].
    pub fn run<T>(&mut self, batch: usize, read: impl FnOnce(Answers<'_>) -> T) -> Result<T, NetworkError> {
        assert!((1..=self.max_batch).contains(&batch), "a batch of {batch}, of at most {}", self.max_batch);
        let Self { engine, input, is_exported, .. } = self;
        let [height, width, channels] = self.shape;
        let expected = [batch, height, width, channels];
        let read = |data: &[f32], found: [usize; 4]| {
            if found != expected {
                let order = |[b, h, w, c]: [usize; 4]| [b, c, h, w].map(|n| n as i64).to_vec();
                return Err(NetworkError::shape(ANSWER, order(expected), order(found), *is_exported));
            }
            Ok(read(Answers { width, height, channels, data }))
        };
        // The permutation of a channels-last buffer is the logical [B, 3, H, W] in libtorch's channels-last format.
        let view = |input: &Tensor| {
            let view = input.f_narrow(0, 0, batch as i64).and_then(|t| t.f_permute([0, 3, 1, 2]));
            view.map_err(torch_error("view the network's input"))
        };
        match engine {
            Engine::TorchScript(module) => {
                let _no_grad = tch::no_grad_guard();
                let answer = module.run(&view(input)?)?;
                read(answer.data(), answer.shape())
            }
            Engine::Native(native) => {
                let _no_grad = tch::no_grad_guard();
                let (data, shape) = native.run(&view(input)?).map_err(torch_error("run the network"))?;
                read(data, shape)
            }
            // SAFETY: as in `input_mut`.
            #[allow(unsafe_code)]
            Engine::Cuda(cuda) => cuda.run(unsafe { values::<f32>(input) }, batch, |a| {
                read(a.data, [batch, a.height, a.width, a.channels])
            })?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorchs_reason_is_its_first_line_or_the_one_that_names_the_error() {
        for (text, reason) in [
            ("CUDA out of memory. Tried to allocate 2.00 GiB.", "CUDA out of memory. Tried to allocate 2.00 GiB."),
            (
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory\nframe #0: c10::f()",
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
            ),
            ("Traceback of TorchScript, serialized code\n  File a\nRuntimeError: too white\n", "too white"),
            ("\n  \n", "no reason given"),
        ] {
            let error = torch_error("run the network")(tch::TchError::Torch(text.into())).to_string();
            assert!(error.contains("run the network") && error.ends_with(reason), "{error}");
        }
        // And of a real one.
        let sum = Tensor::zeros([2], (Kind::Float, Device::Cpu)).f_add(&Tensor::zeros([3], (Kind::Float, Device::Cpu)));
        let error = torch_error("add")(sum.expect_err("sizes differ")).to_string();
        assert!(error.contains("The size of tensor a (2) must match the size of tensor b (3)"), "{error}");
    }

    #[test]
    fn a_module_of_another_precision_is_told_which_to_set() {
        let said = |precision, parameters| {
            refused("run the network".into(), "it has no such kernel".into(), precision, Device::Cpu, parameters)
                .to_string()
        };
        use Parameters::{Of, Ours, Unknown};
        use Precision::{Bf16, Fp16, Fp32};
        for (precision, parameters, expected) in [
            (Fp32, Of(Kind::Half), "own parameters' kind: set precision to fp16, or"),
            (Fp32, Of(Kind::BFloat16), "own parameters' kind: set precision to bf16, or"),
            (Fp16, Of(Kind::Float), "own parameters' kind: set precision to fp32, or"),
            (Fp32, Of(Kind::Double), "own parameters' kind, Double here: convert it to single precision"),
            (Fp16, Of(Kind::Half), "convert the module to single precision, and set precision to fp32"),
            (Bf16, Unknown, "own parameters' kind: set precision to fp32, which is"),
            (Bf16, Ours, "set precision to fp32, or export the model again if an older version exported it"),
        ] {
            let message = said(precision, parameters);
            assert!(message.starts_with("the model cannot run in") && message.contains(expected), "{message}");
        }
        // Its precision is not what is wrong.
        for parameters in [Ours, Of(Kind::Float), Unknown] {
            assert_eq!(said(Fp32, parameters), "libtorch could not run the network: it has no such kernel");
        }
    }
}

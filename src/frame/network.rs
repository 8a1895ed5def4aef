//! The network at work: the artifact's TorchScript on a device.

use super::output::Packed;
use crate::export::manifest::{InputKind, OutputTensor};
use crate::export::Artifact;
use std::str::FromStr;
use tch::{CModule, Device, IValue, Kind, Tensor};
use thiserror::Error;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA device of this index; an error if it is not there.
    Cuda(usize),
}

/// Not the name of a device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("device {0:?} is not known; write auto, cpu, cuda or cuda:N")]
pub struct DeviceParseError(String);

impl FromStr for DeviceChoice {
    type Err = DeviceParseError;

    fn from_str(s: &str) -> Result<Self, DeviceParseError> {
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match s.strip_prefix("cuda:") {
                // `parse` alone would take "+1".
                Some(n) if !n.is_empty() && n.len() <= 3 && n.bytes().all(|b| b.is_ascii_digit()) => {
                    n.parse().map(Self::Cuda).map_err(|_| DeviceParseError(s.into()))
                }
                _ => Err(DeviceParseError(s.chars().take(32).collect())),
            },
        }
    }
}

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
    /// The module cannot compute in this precision on this device.
    #[error(
        "the model cannot run in {precision} on {device}: {reason}; set precision to fp32, or export the model again if \
         an older version exported it"
    )]
    Precision {
        /// `fp16` or `bf16`.
        precision: &'static str,
        /// `cpu` or `cuda:N`.
        device: String,
        /// libtorch's message.
        reason: String,
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
    #[error("the network answered shape {actual:?}, but its manifest says {expected:?}; export the model again")]
    Shape {
        /// From the manifest.
        expected: Vec<i64>,
        /// From the module.
        actual: Vec<i64>,
    },
}

/// libtorch's messages carry a C++ stack: one line says it all, the first one, or after a TorchScript traceback the one
/// that names the error.
pub(crate) fn torch_error(what: impl Into<String>) -> impl FnOnce(tch::TchError) -> NetworkError {
    move |error| {
        let text = error.to_string();
        let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("Internal torch error"));
        let line =
            lines().find_map(|l| l.strip_prefix("RuntimeError: ")).or(lines().next()).unwrap_or("no reason given");
        NetworkError::Torch { what: what.into(), reason: line.chars().take(400).collect() }
    }
}

/// Loads libtorch's CUDA half into the process, once, and says why where it cannot.
///
/// The binary is linked against the CPU half only, so that it starts everywhere; with the CUDA half loaded, its
/// devices are registered and `tch::Cuda` sees them.
fn load_cuda() -> Result<(), String> {
    static LOADED: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    LOADED.get_or_init(dlopen_cuda).clone()
}

#[allow(unsafe_code)]
fn dlopen_cuda() -> Result<(), String> {
    if !std::path::Path::new("/dev/nvidiactl").exists() && !std::path::Path::new("/dev/nvhost-gpu").exists() {
        return Err("this machine has no NVIDIA device".into());
    }
    let mut reason = String::new();
    let beside_libtorch = option_env!("SEMANTIC_DEPTH_LIBTORCH_LIB").map(|lib| format!("{lib}/libtorch_cuda.so"));
    for path in ["libtorch_cuda.so".to_string()].into_iter().chain(beside_libtorch) {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: libtorch_cuda's initialisers only register kernels and devices with the libtorch that is already
        // in this process; they are what runs when a program is linked against it. It is never unloaded.
        match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// Finds the device that was asked for.
///
/// # Errors
/// [`NetworkError::NoCuda`]: a CUDA device was named and is not there.
pub fn resolve(choice: DeviceChoice) -> Result<Device, NetworkError> {
    let index = match choice {
        DeviceChoice::Cpu => return Ok(Device::Cpu),
        DeviceChoice::Auto => 0,
        DeviceChoice::Cuda(index) => index,
    };
    let loaded = load_cuda();
    let available = if loaded.is_ok() { tch::Cuda::device_count() } else { 0 };
    if (index as i64) < available {
        return Ok(Device::Cuda(index));
    }
    match choice {
        DeviceChoice::Auto => {
            log::debug!("no CUDA device: {}", loaded.err().unwrap_or_else(|| "none is visible".into()));
            Ok(Device::Cpu)
        }
        _ => Err(NetworkError::NoCuda {
            index,
            available,
            reason: loaded.err().map_or_else(String::new, |e| format!(" ({e})")),
        }),
    }
}

/// `cpu` or `cuda:N`.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".into(),
    }
}

/// What the network computes in. Inputs are built and answers are read in single precision whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// The best for the device: today single precision on every one.
    #[default]
    Auto,
    /// Single precision.
    Fp32,
    /// Half precision.
    Fp16,
    /// `bfloat16`: single precision's range with 8 bits of significand.
    Bf16,
}

/// Not the name of a precision.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("precision {0:?} is not known; write auto, fp32, fp16 or bf16")]
pub struct PrecisionParseError(String);

impl FromStr for Precision {
    type Err = PrecisionParseError;

    fn from_str(s: &str) -> Result<Self, PrecisionParseError> {
        match s {
            "auto" => Ok(Self::Auto),
            "fp32" => Ok(Self::Fp32),
            "fp16" => Ok(Self::Fp16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(PrecisionParseError(s.chars().take(32).collect())),
        }
    }
}

impl Precision {
    fn kind(self) -> Kind {
        match self {
            Self::Auto | Self::Fp32 => Kind::Float,
            Self::Fp16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

fn precision_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "fp16",
        Kind::BFloat16 => "bf16",
        _ => "fp32",
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

/// A loaded network with its input buffer. It belongs to one thread: libtorch's grad mode and streams are per thread.
#[derive(Debug)]
pub struct Network {
    module: CModule,
    device: Device,
    kind: Kind,
    input_kind: InputKind,
    /// What a tuple that it answers consists of; `None`: it answers one tensor.
    tensors: Option<Vec<OutputTensor>>,
    max_batch: usize,
    /// `[max_batch, height, width, 3]` in host memory: channels last, libtorch's faster layout for this network.
    input: Tensor,
    /// Of one answer: `[channels, H, W]`.
    shape: [i64; 3],
}

impl Network {
    /// Loads the artifact's module on `device` and runs it with every batch size from 1 to `max_batch`, so that the
    /// first frames cost what the others do.
    ///
    /// # Errors
    /// [`NetworkError`]: libtorch cannot read or run the module in this precision, or it does not answer what the
    /// manifest says.
    pub fn load(
        artifact: &Artifact,
        device: Device,
        precision: Precision,
        max_batch: usize,
    ) -> Result<Self, NetworkError> {
        let manifest = &artifact.manifest;
        let path = artifact.torchscript_path();
        let mut module = CModule::load_on_device(&path, device).map_err(torch_error(format!(
            "load {} on {}",
            path.display(),
            device_name(device)
        )))?;
        module.set_eval();
        let kind = precision.kind();
        let (height, width) = (manifest.input.height as i64, manifest.input.width as i64);
        let input = Tensor::f_zeros([max_batch as i64, height, width, 3], (Kind::Float, Device::Cpu))
            .map_err(torch_error(format!("allocate an input of {max_batch} x {width}x{height}")))?;
        let (answer_width, answer_height) = manifest.answer_size();
        let shape = [manifest.output.channels(), answer_height, answer_width].map(|n| n as i64);
        let (input_kind, tensors) = (manifest.input.kind, manifest.output.tensors.clone());
        if input_kind == InputKind::U8 && kind != Kind::Float {
            return Err(NetworkError::Precision {
                precision: precision_name(kind),
                device: device_name(device),
                reason: "its input is bytes, so it computes in what it was exported in".into(),
            });
        }
        let mut network = Self { module, device, kind, input_kind, tensors, max_batch, input, shape };
        for batch in 1..=max_batch {
            // Twice: the first run specialises the graph, the second one optimises it.
            for _ in 0..2 {
                network.run(batch, |_| ()).map_err(|error| match error {
                    NetworkError::Torch { reason, .. } if kind != Kind::Float => {
                        NetworkError::Precision { precision: precision_name(kind), device: device_name(device), reason }
                    }
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

    /// `fp32`, `fp16` or `bf16`.
    pub fn precision_name(&self) -> &'static str {
        precision_name(self.kind)
    }

    /// The most inputs of one run.
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// The input, `[max_batch, height, width, 3]`, whose first `batch` images are to be filled before
    /// [`Network::run`].
    #[allow(unsafe_code)]
    pub fn input_mut(&mut self) -> &mut [f32] {
        let len = self.input.numel();
        // SAFETY: the tensor is contiguous float32 of `len` elements in host memory, made in `load` and never handed
        // out: nobody else reads or writes it while `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.input.data_ptr().cast::<f32>(), len) }
    }

    /// Runs the network on the first `batch` images of the input buffer, together, and hands their answers, in host
    /// memory and channels last, to `read`.
    ///
    /// # Errors
    /// [`NetworkError`]: libtorch failed (memory, a lost device), or the answer has another shape than it should.
    ///
    /// # Panics
    /// If `batch` is 0 or beyond [`Network::max_batch`].
    #[allow(unsafe_code)]
    pub fn run<T>(&mut self, batch: usize, read: impl FnOnce(Answers<'_>) -> T) -> Result<T, NetworkError> {
        assert!((1..=self.max_batch).contains(&batch), "a batch of {batch}, of at most {}", self.max_batch);
        let _no_grad = tch::no_grad_guard();
        let run = || -> Result<IValue, tch::TchError> {
            // The permutation of a channels-last buffer is the logical [B, 3, H, W] in libtorch's channels-last format.
            let input = self.input.f_narrow(0, 0, batch as i64)?.f_permute([0, 3, 1, 2])?;
            let input = match self.input_kind {
                InputKind::Float => input.f_to_device(self.device)?.f_to_kind(self.kind)?,
                InputKind::U8 => input.f_to_kind(Kind::Uint8)?.f_to_device(self.device)?,
            };
            self.module.forward_is(&[IValue::Tensor(input)])
        };
        let answer = self.packed(run().map_err(torch_error("run the network"))?, batch as i64)?;
        // The cast comes after the copy: half precision is half the bytes to copy.
        let host = answer
            .f_to_device(Device::Cpu)
            .and_then(|t| t.f_to_kind(Kind::Float))
            .and_then(|t| t.f_permute([0, 2, 3, 1]))
            .and_then(|t| t.f_contiguous())
            .map_err(torch_error("copy the network's answer"))?;
        let [channels, height, width] = self.shape.map(|n| n as usize);
        // SAFETY: `host` is contiguous float32 in host memory of exactly this many elements (the shape was checked
        // above), lives to the end of this function, and nothing writes to it.
        let data =
            unsafe { std::slice::from_raw_parts(host.data_ptr().cast::<f32>(), batch * channels * height * width) };
        Ok(read(Answers { width, height, channels, data }))
    }

    /// The tensors that the manifest says, as one `[batch, channels, H, W]`.
    fn packed(&self, answer: IValue, batch: i64) -> Result<Tensor, NetworkError> {
        let [channels, height, width] = self.shape;
        let check = |tensor: Tensor, channels: i64| {
            let expected = [batch, channels, height, width];
            match tensor.size() {
                actual if actual == expected => Ok(tensor),
                // A plane without a dimension for its one channel.
                actual if channels == 1 && actual == [batch, height, width] => {
                    tensor.f_unsqueeze(1).map_err(torch_error("read the network's answer"))
                }
                actual => Err(NetworkError::Shape { expected: expected.to_vec(), actual }),
            }
        };
        let (values, parts) = match (answer, &self.tensors) {
            (IValue::Tensor(tensor), None) => return check(tensor, channels),
            (IValue::Tuple(values), Some(parts)) if values.len() == parts.len() => (values, parts),
            (answer, parts) => {
                let expected = parts.as_ref().map_or("one tensor".into(), |p| format!("a tuple of {}", p.len()));
                return Err(NetworkError::Answer { expected, found: described(&answer) });
            }
        };
        let (mut classes, mut depth) = (None, None);
        for (value, part) in values.into_iter().zip(parts) {
            let place = match part {
                OutputTensor::Classes => &mut classes,
                OutputTensor::Depth => &mut depth,
                OutputTensor::Other => continue,
            };
            let IValue::Tensor(tensor) = value else {
                let expected = "tensors in its tuple".into();
                return Err(NetworkError::Answer { expected, found: described(&value) });
            };
            let channels = if *part == OutputTensor::Classes { channels - 1 } else { 1 };
            *place = Some(check(tensor, channels)?);
        }
        // Labels may be whole numbers; joined with the depth they become what it is.
        let parts: Vec<Tensor> = classes.into_iter().chain(depth).collect();
        Tensor::f_cat(&parts, 1).map_err(torch_error("read the network's answer"))
    }
}

/// What a module answered, without its values.
fn described(answer: &IValue) -> String {
    match answer {
        IValue::Tensor(_) => "one tensor".into(),
        IValue::Tuple(values) => format!("a tuple of {}", values.len()),
        IValue::TensorList(_) | IValue::GenericList(_) => "a list".into(),
        IValue::GenericDict(_) => "a dictionary".into(),
        _ => "something else than tensors".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_read_strictly() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for bad in ["", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda:1x", "gpu", "cuda:99999999999999999999"] {
            let error = bad.parse::<DeviceChoice>().expect_err(bad);
            assert!(error.to_string().contains("auto, cpu"), "{error}");
        }
    }

    #[test]
    fn a_cuda_device_that_is_not_there_is_an_error_and_auto_is_not() {
        let error = resolve(DeviceChoice::Cuda(900)).expect_err("no machine has 900 devices");
        assert!(error.to_string().contains("cuda:900"), "{error}");
        assert!(resolve(DeviceChoice::Auto).is_ok());
        assert_eq!(resolve(DeviceChoice::Cpu).expect("always there"), Device::Cpu);
    }
}

//! Whether an archive's engines run here.

use super::archive::{Archive, DeviceKind};
use super::version::{ComputeCapability, TensorRtVersion};
use std::path::PathBuf;

/// Torch-TensorRT's version that fits this libtorch, and the ABI of its engines.
pub const TORCH_TENSORRT: &str = "2.11.0";
/// The ABI of [`TORCH_TENSORRT`]: 2.11's alone; 2.7 to 2.10 have 7, 2.12 and 2.13 have 9.
pub const TORCH_TENSORRT_ABI: u32 = 8;

/// TensorRT's version that [`TORCH_TENSORRT`] was made for, major and minor: it asks for >= 10.15.1, < 10.16.
pub const TENSORRT: (u32, u32) = (10, 15);

/// Torch-TensorRT's name of the platform that this program was compiled for.
pub const PLATFORM: &str = if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
    "linux_x86_64"
} else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
    "linux_aarch64"
} else {
    "unknown"
};

/// Where the archive is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// Torch-TensorRT's ABI: [`TORCH_TENSORRT_ABI`].
    pub abi: u32,
    /// Version of the TensorRT library.
    pub tensorrt: TensorRtVersion,
    /// Of the GPU.
    pub compute_capability: ComputeCapability,
    /// The GPU's name, for messages.
    pub gpu: String,
    /// [`PLATFORM`].
    pub platform: String,
    /// Inputs and outputs of the network. An archive with one engine has to have as many; where the compiler left parts
    /// to libtorch, there are several engines, and what they hand to each other is the archive's own matter.
    pub bindings: (usize, usize),
}

/// Why an archive does not run here: expected, found, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// No engine.
    #[error(
        "{path}: expected a TorchScript file with TensorRT engines, found none in it; compile it with `semantic_depth \
         export --tensorrt`, or set backend to torchscript"
    )]
    Plain {
        /// The archive.
        path: PathBuf,
    },
    /// Written by another version of Torch-TensorRT.
    #[error(
        "{path}: expected an engine of Torch-TensorRT {TORCH_TENSORRT} (ABI {expected}), found ABI {found} \
         ({writer}); compile the model again with Torch-TensorRT {TORCH_TENSORRT}"
    )]
    Abi {
        /// The archive.
        path: PathBuf,
        /// Here.
        expected: u32,
        /// The engine's.
        found: u32,
        /// Which versions write it.
        writer: &'static str,
    },
    /// Made by another TensorRT.
    #[error(
        "{path}: expected a plan of TensorRT {expected}, which is installed here, found one of {found}; compile the model \
         again on this machine, or install TensorRT {found}"
    )]
    TensorRt {
        /// The archive.
        path: PathBuf,
        /// Here.
        expected: TensorRtVersion,
        /// The plan's.
        found: TensorRtVersion,
    },
    /// Made for a DLA core.
    #[error("{path}: expected an engine for a GPU, found one for a DLA core; compile the model again for the GPU")]
    Device {
        /// The archive.
        path: PathBuf,
    },
    /// Made on another GPU.
    #[error(
        "{path}: expected an engine for compute capability {expected} ({gpu}), found one for {found} \
         ({engine_gpu}{compatible}); compile the model again on this machine"
    )]
    ComputeCapability {
        /// The archive.
        path: PathBuf,
        /// This GPU's.
        expected: ComputeCapability,
        /// This GPU.
        gpu: String,
        /// The engine's.
        found: ComputeCapability,
        /// The GPU it was built on.
        engine_gpu: String,
        /// Whether that helps, for the message; begins with a comma.
        compatible: &'static str,
    },
    /// Made for another platform.
    #[error(
        "{path}: expected an engine for {expected}, found one for {found}; compile the model again on this kind of machine"
    )]
    Platform {
        /// The archive.
        path: PathBuf,
        /// Here.
        expected: String,
        /// The engine's.
        found: String,
    },
    /// Of another network.
    #[error(
        "{path}: expected an engine with {} input and {} output, found inputs {inputs:?} and outputs {outputs:?}; it was \
         made from another network: compile this model", expected.0, expected.1
    )]
    Bindings {
        /// The archive.
        path: PathBuf,
        /// The network's inputs and outputs.
        expected: (usize, usize),
        /// The engine's.
        inputs: Vec<String>,
        /// The engine's.
        outputs: Vec<String>,
    },
}

fn writer(abi: u32) -> &'static str {
    match abi {
        4 => "Torch-TensorRT 2.2",
        5 => "Torch-TensorRT 2.3 or 2.4",
        6 => "Torch-TensorRT 2.5 or 2.6",
        7 => "Torch-TensorRT 2.7 to 2.10",
        8 => "Torch-TensorRT 2.11",
        9 => "Torch-TensorRT 2.12 or 2.13",
        _ => "a version that is not known here",
    }
}

/// Whether every engine of the archive runs here. The rules are Torch-TensorRT's own of version 2.11 (ABI, platform,
/// device) and TensorRT's (version); they are applied before either is given the file.
///
/// # Errors
/// The first thing that does not fit.
pub fn check(archive: &Archive, here: &Here) -> Result<(), Mismatch> {
    check_without_device(archive, here.abi, &here.platform)?;
    let path = || archive.path.clone();
    let whole = archive.engines.len() == 1;
    for engine in &archive.engines {
        let compatible = engine.hardware_compatible && here.compute_capability.major >= 8;
        if engine.device.compute_capability != here.compute_capability && !compatible {
            return Err(Mismatch::ComputeCapability {
                path: path(),
                expected: here.compute_capability,
                gpu: here.gpu.clone(),
                found: engine.device.compute_capability,
                engine_gpu: engine.device.name.clone(),
                compatible: match engine.hardware_compatible {
                    true => ", hardware compatible from 8.0 on only",
                    false => ", not hardware compatible",
                },
            });
        }
        if !here.tensorrt.runs(engine.tensorrt) {
            return Err(Mismatch::TensorRt { path: path(), expected: here.tensorrt, found: engine.tensorrt });
        }
        let found = (engine.inputs.len(), engine.outputs.len());
        if (whole && found != here.bindings) || found.0 == 0 || found.1 == 0 {
            return Err(Mismatch::Bindings {
                path: path(),
                expected: here.bindings,
                inputs: engine.inputs.clone(),
                outputs: engine.outputs.clone(),
            });
        }
    }
    Ok(())
}

/// The part of [`check`] that asks neither for a GPU nor for TensorRT: that there are engines, and their ABI, platform and
/// kind of device.
///
/// # Errors
/// The first thing that does not fit.
pub fn check_without_device(archive: &Archive, abi: u32, platform: &str) -> Result<(), Mismatch> {
    let path = || archive.path.clone();
    if archive.is_plain() {
        return Err(Mismatch::Plain { path: path() });
    }
    for engine in &archive.engines {
        if engine.abi != abi {
            return Err(Mismatch::Abi { path: path(), expected: abi, found: engine.abi, writer: writer(engine.abi) });
        }
        let found = engine.platform.as_deref().unwrap_or("unknown");
        if found != platform {
            return Err(Mismatch::Platform { path: path(), expected: platform.into(), found: found.into() });
        }
        if engine.device.kind != DeviceKind::Gpu {
            return Err(Mismatch::Device { path: path() });
        }
    }
    Ok(())
}

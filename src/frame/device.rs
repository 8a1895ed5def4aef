//! Which device the network runs on. libtorch's CUDA part is loaded by name, only when it is asked for, so that one
//! program serves machines with and without it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use tch::Device;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// CUDA device N.
    Cuda(usize),
}

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("device '{0}': expected auto, cpu, cuda or cuda:N")]
    Name(String),
    /// There is no such device.
    #[error("device cuda:{index}: {why}; use device auto or cpu to run without it")]
    Cuda {
        /// The N of cuda:N.
        index: usize,
        /// What was found.
        why: String,
    },
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| DeviceError::Name(text.into())),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl DeviceChoice {
    /// Decides.
    ///
    /// # Errors
    /// `cuda:N` where that device or libtorch's CUDA part is missing. `auto` never fails.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(match cuda_devices() {
                Ok(n) if n > 0 => Device::Cuda(0),
                _ => Device::Cpu,
            }),
            Self::Cuda(index) => match cuda_devices() {
                Ok(n) if index < n => Ok(Device::Cuda(index)),
                Ok(n) => Err(DeviceError::Cuda { index, why: format!("this machine has {n} CUDA devices") }),
                Err(why) => Err(DeviceError::Cuda { index, why }),
            },
        }
    }
}

/// A device's name as users write it.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(n) => format!("cuda:{n}"),
        Device::Cpu => "cpu".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Number of CUDA devices, after loading libtorch's CUDA part.
fn cuda_devices() -> Result<usize, String> {
    // The driver's device node: without it there is nothing to load the large library for.
    if !Path::new("/dev/nvidiactl").exists()
        && !Path::new("/dev/nvhost-gpu").exists()
        && !Path::new("/dev/nvgpu").exists()
    {
        return Err("this machine has no NVIDIA device node".into());
    }
    load_torch_cuda()?;
    Ok(usize::try_from(tch::Cuda::device_count()).unwrap_or(0))
}

#[allow(unsafe_code)]
fn load_torch_cuda() -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    use std::sync::OnceLock;
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            // SAFETY: this is libtorch's own library, found by the same run path as the libtorch we are linked to;
            // its initialisers register kernels with that libtorch. It is never closed: libtorch keeps pointers to it.
            match unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => {
                    std::mem::forget(library);
                    Ok(())
                }
                Err(e) => Err(format!("libtorch's CUDA part cannot be loaded ({e}); install a CUDA build of libtorch")),
            }
        })
        .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3"] {
            assert_eq!(text.parse::<DeviceChoice>().expect(text).to_string(), text);
        }
        for text in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text} must be refused");
        }
    }
}

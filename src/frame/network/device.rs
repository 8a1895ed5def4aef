//! Which device the network runs on, and libtorch's CUDA half, which is loaded only where it is asked for.

use super::NetworkError;
use std::str::FromStr;
use tch::Device;
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

/// Loads libtorch's CUDA half where there is an NVIDIA device. To be called before libtorch is used for anything: the first
/// operation that asks whether there is CUDA settles it for the life of the process.
pub fn load_cuda_half() {
    if let Err(why) = load_cuda() {
        log::debug!("no CUDA: {why}");
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
            reason: match loaded {
                Err(why) => format!(" ({why})"),
                Ok(()) if available == 0 => {
                    " (its CUDA half was loaded after libtorch had been used, or finds no driver)".into()
                }
                Ok(()) => String::new(),
            },
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

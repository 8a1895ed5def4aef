//! Which device the network runs on, and libtorch's CUDA half, which is loaded only where it is asked for.

use super::NetworkError;
use log::Level;
use std::fmt;
use std::str::FromStr;
use std::sync::{Once, OnceLock};
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

/// Why libtorch's CUDA half is not in the process.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NoCudaHalf {
    /// The machine has no NVIDIA device.
    NoDevice,
    /// The loader's message.
    Load(String),
}

impl fmt::Display for NoCudaHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str("this machine has no NVIDIA device"),
            Self::Load(reason) => write!(f, "libtorch's CUDA half cannot be loaded: {reason}"),
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
fn load_cuda() -> Result<(), NoCudaHalf> {
    static LOADED: OnceLock<Result<(), NoCudaHalf>> = OnceLock::new();
    LOADED.get_or_init(dlopen_cuda).clone()
}

#[allow(unsafe_code)]
fn dlopen_cuda() -> Result<(), NoCudaHalf> {
    if !std::path::Path::new("/dev/nvidiactl").exists() && !std::path::Path::new("/dev/nvhost-gpu").exists() {
        return Err(NoCudaHalf::NoDevice);
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
    Err(NoCudaHalf::Load(reason))
}

/// What `auto` says where it takes the processor, and how loudly: a device that lies idle is worth a warning, unless there is
/// none, or the user has hidden it (`hidden`: the value of `CUDA_VISIBLE_DEVICES`).
fn why_the_processor(loaded: &Result<(), NoCudaHalf>, hidden: Option<&str>) -> (Level, String) {
    // An empty list or -1 is how devices are hidden.
    let chosen = hidden.map(str::trim).is_some_and(|list| list.is_empty() || list.starts_with('-'));
    let why = match loaded {
        Err(NoCudaHalf::NoDevice) => return (Level::Debug, format!("device: cpu; {}", NoCudaHalf::NoDevice)),
        _ if chosen => return (Level::Debug, "device: cpu; CUDA_VISIBLE_DEVICES hides every CUDA device".into()),
        Err(error) => format!("{error}; install a libtorch 2.11 with CUDA and build against it"),
        Ok(()) => {
            "libtorch sees no CUDA device: install a driver that serves its CUDA (`semantic_depth doctor` shows both)"
                .into()
        }
    };
    (
        Level::Warn,
        format!(
            "device: cpu, though this machine has an NVIDIA device: {why}; or set device to cpu, and this is not said"
        ),
    )
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
            // Nothing of it changes in the life of a process.
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                let hidden = std::env::var("CUDA_VISIBLE_DEVICES").ok();
                let (level, why) = why_the_processor(&loaded, hidden.as_deref());
                log::log!(level, "{why}");
            });
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
    fn a_device_that_lies_idle_is_warned_of_unless_the_user_wants_that() {
        let slim = Err(NoCudaHalf::Load("libtorch_cuda.so: cannot open shared object file".into()));
        let (level, why) = why_the_processor(&slim, None);
        assert_eq!(level, Level::Warn);
        assert!(why.contains("libtorch_cuda.so: cannot open") && why.contains("or set device to cpu"), "{why}");
        let (level, why) = why_the_processor(&Ok(()), Some("0"));
        assert_eq!(level, Level::Warn);
        assert!(why.contains("install a driver"), "{why}");
        for hidden in ["", " ", "-1"] {
            for loaded in [&slim, &Ok(())] {
                let (level, why) = why_the_processor(loaded, Some(hidden));
                assert_eq!(level, Level::Debug, "{why}");
                assert!(why.contains("CUDA_VISIBLE_DEVICES"), "{why}");
            }
        }
        let (level, why) = why_the_processor(&Err(NoCudaHalf::NoDevice), None);
        assert_eq!(level, Level::Debug, "{why}");
        assert!(why.contains("no NVIDIA device"), "{why}");
    }

    #[test]
    fn a_cuda_device_that_is_not_there_is_an_error_and_auto_is_not() {
        let error = resolve(DeviceChoice::Cuda(900)).expect_err("no machine has 900 devices");
        assert!(error.to_string().contains("cuda:900"), "{error}");
        assert!(resolve(DeviceChoice::Auto).is_ok());
        assert_eq!(resolve(DeviceChoice::Cpu).expect("always there"), Device::Cpu);
    }
}

//! The CUDA driver and its devices, asked through `libcuda` (opened at run time: it comes with the driver, not with us).
//!
//! Nothing of TensorRT is loaded before this has found a device: Torch-TensorRT's initialisers ask CUDA for devices, and
//! what is loaded for nothing may fail for nothing.

use super::version::ComputeCapability;
use libloading::Library;
use serde::Serialize;
use std::ffi::{c_char, c_int, c_uint, CStr};

/// A CUDA device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gpu {
    /// CUDA's number of it; `CUDA_VISIBLE_DEVICES` is heeded.
    pub index: usize,
    /// `NVIDIA H200`, `Orin`, ...
    pub name: String,
    /// Its generation.
    pub compute_capability: ComputeCapability,
    /// Of its memory.
    pub memory_bytes: u64,
}

/// The CUDA driver.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Driver {
    /// The newest CUDA that it serves: `13.0`.
    pub cuda: String,
    /// The driver's own version, where the kernel tells it.
    pub version: Option<String>,
    /// Its devices; may be empty.
    pub gpus: Vec<Gpu>,
}

/// Why there is no CUDA driver, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoDriver(String);

const LIBRARY: &str = "libcuda.so.1";
const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;

/// Asks the driver. The library stays loaded.
///
/// # Errors
/// There is no driver, or it finds no device or does not start.
#[allow(unsafe_code)]
pub fn driver() -> Result<Driver, NoDriver> {
    // SAFETY: libcuda is the driver's own library; loading it runs initialisers that need no device.
    let library = unsafe { Library::new(LIBRARY) }
        .map_err(|e| NoDriver(format!("this machine has no CUDA driver ({e}); install NVIDIA's driver")))?;
    let answer = ask(&library);
    // The driver keeps threads and state of this process: it must not be unloaded.
    std::mem::forget(library);
    answer
}

#[allow(unsafe_code)]
fn ask(library: &Library) -> Result<Driver, NoDriver> {
    // SAFETY (of every `function!`): the types are those of the C functions in cuda.h of the driver API.
    macro_rules! function {
        ($name:literal, $type:ty) => {
            unsafe { library.get::<$type>(concat!($name, "\0").as_bytes()) }
                .map_err(|e| NoDriver(format!("{LIBRARY} is no CUDA driver ({e})")))?
        };
    }
    let init = function!("cuInit", unsafe extern "C" fn(c_uint) -> c_int);
    let driver_version = function!("cuDriverGetVersion", unsafe extern "C" fn(*mut c_int) -> c_int);
    let count_devices = function!("cuDeviceGetCount", unsafe extern "C" fn(*mut c_int) -> c_int);
    let device_of = function!("cuDeviceGet", unsafe extern "C" fn(*mut c_int, c_int) -> c_int);
    let name_of = function!("cuDeviceGetName", unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int);
    let attribute_of = function!("cuDeviceGetAttribute", unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int);
    let memory_of = function!("cuDeviceTotalMem_v2", unsafe extern "C" fn(*mut usize, c_int) -> c_int);

    let ok = |what: &str, code: c_int| match code {
        0 => Ok(()),
        // CUDA_ERROR_STUB_LIBRARY
        34 => Err(NoDriver("a stub libcuda.so.1 is in LD_LIBRARY_PATH; take its folder out of the variable".into())),
        // CUDA_ERROR_NO_DEVICE
        100 => Err(NoDriver("the CUDA driver sees no device".into())),
        _ => Err(NoDriver(format!("the CUDA driver could not {what}: error {code}"))),
    };
    let mut cuda = 0;
    let mut count = 0;
    // SAFETY: plain C calls; every pointer is to a variable that lives across its call.
    unsafe {
        ok("start", init(0))?;
        ok("tell its version", driver_version(&mut cuda))?;
        ok("count its devices", count_devices(&mut count))?;
    }
    let mut gpus = Vec::new();
    for index in 0..count {
        let mut device = 0;
        let mut name: [c_char; 256] = [0; 256];
        let (mut major, mut minor, mut memory) = (0, 0, 0);
        // SAFETY: as above; the name's length is given, and the driver ends it with a zero.
        let name = unsafe {
            ok("open a device", device_of(&mut device, index))?;
            ok("name a device", name_of(name.as_mut_ptr(), name.len() as c_int - 1, device))?;
            ok("describe a device", attribute_of(&mut major, COMPUTE_CAPABILITY_MAJOR, device))?;
            ok("describe a device", attribute_of(&mut minor, COMPUTE_CAPABILITY_MINOR, device))?;
            ok("measure a device", memory_of(&mut memory, device))?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        gpus.push(Gpu {
            index: index as usize,
            name,
            compute_capability: ComputeCapability { major: major as u32, minor: minor as u32 },
            memory_bytes: memory as u64,
        });
    }
    let version = std::fs::read_to_string("/sys/module/nvidia/version").ok().map(|v| v.trim().to_string());
    Ok(Driver { cuda: format!("{}.{}", cuda / 1000, cuda % 1000 / 10), version, gpus })
}

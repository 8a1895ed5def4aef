//! What the machine says of itself: the kernel's small text files, and the driver of an NVIDIA GPU.

use nvml_wrapper::Nvml;
use std::ffi::{c_char, c_int, c_uint, CStr};
use std::path::{Path, PathBuf};

/// The first line of a file, trimmed; `None` where it is missing, unreadable or empty.
pub(crate) fn text(path: &Path) -> Option<String> {
    let content = std::fs::read_to_string(path).ok()?;
    content.lines().next().map(str::trim).filter(|l| !l.is_empty()).map(String::from)
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The entries of a folder whose names begin so, sorted.
pub(crate) fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(folder) else { return Vec::new() };
    let named = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
    let mut found: Vec<PathBuf> = read.flatten().map(|e| e.path()).filter(named).collect();
    found.sort();
    found
}

/// The number of a field of `/proc/PID/status`, in the file's own unit (KiB for memory).
pub(crate) fn status_number(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// NVML and the PCI bus id of a CUDA device. CUDA and NVML number the devices differently (CUDA_VISIBLE_DEVICES, and
/// CUDA's own order is by speed), so the driver is asked which one it is.
///
/// # Errors
/// Why there is none, in words.
pub(crate) fn open_nvml(number: usize) -> Result<(Nvml, String), String> {
    let nvml = Nvml::init().map_err(|e| format!("NVML is not available: {e}"))?;
    let bus_id = cuda_pci_bus_id(number)
        .or_else(|| only_device(&nvml))
        .ok_or_else(|| format!("which of NVML's GPUs is cuda:{number} is not known"))?;
    match nvml.device_by_pci_bus_id(bus_id.as_str()) {
        Ok(_) => Ok((nvml, bus_id)),
        Err(e) => Err(format!("NVML does not know the GPU at {bus_id}: {e}")),
    }
}

/// Without the driver's word only a single GPU is beyond doubt.
fn only_device(nvml: &Nvml) -> Option<String> {
    match nvml.device_count() {
        Ok(1) => nvml.device_by_index(0).ok()?.pci_info().ok().map(|p| p.bus_id),
        _ => None,
    }
}

/// `cuDeviceGetPCIBusId`: the PCI bus id ("0000:65:00.0") of a CUDA device, in CUDA's own numbering.
#[allow(unsafe_code)]
fn cuda_pci_bus_id(number: usize) -> Option<String> {
    type Init = unsafe extern "C" fn(c_uint) -> c_int;
    type DeviceGet = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
    type GetPciBusId = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
    let number = c_int::try_from(number).ok()?;
    let mut text: [c_char; 32] = [0; 32];
    // SAFETY: libcuda is NVIDIA's driver library, made to be opened at run time, and libtorch has it open already. The
    // three functions have these signatures since CUDA 4.1 (CUdevice and CUresult are ints); `cuInit` may be called
    // again. The pointers are to variables that outlive the calls, and 32 is the size of `text`.
    let code = unsafe {
        let driver = libloading::Library::new("libcuda.so.1").ok()?;
        let init = driver.get::<Init>(b"cuInit\0").ok()?;
        let device_get = driver.get::<DeviceGet>(b"cuDeviceGet\0").ok()?;
        let bus_id = driver.get::<GetPciBusId>(b"cuDeviceGetPCIBusId\0").ok()?;
        let mut device: c_int = 0;
        let code = match (init(0), device_get(&mut device, number)) {
            (0, 0) => bus_id(text.as_mut_ptr(), text.len() as c_int, device),
            (0, code) | (code, _) => code,
        };
        // The driver has threads of its own and must not be unloaded under them.
        std::mem::forget(driver);
        code
    };
    if code != 0 {
        log::debug!("the CUDA driver does not say where cuda:{number} is (error {code})");
        return None;
    }
    // The last element is never written: the function writes at most 13 characters and a NUL.
    let bytes: Vec<u8> = text.iter().map(|c| *c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).ok()?.to_str().ok().map(String::from)
}

/// Files of `/sys` and `/proc` for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use std::path::Path;

    /// Writes them below `root`.
    pub fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, content) in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("create");
            std::fs::write(path, content).expect("write");
        }
    }
}

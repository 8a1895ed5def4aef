//! What the machine says of itself: the kernel's small text files, and the driver of an NVIDIA GPU.

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::Nvml;
use std::ffi::{c_char, c_int, c_uint, CStr};
use std::path::{Path, PathBuf};

/// The first line of a file, trimmed; `None` where it is missing, unreadable or empty.
pub(crate) fn text(path: &Path) -> Option<String> {
    let content = std::fs::read_to_string(path).ok()?;
    // Files of the device tree end with a zero byte.
    let line = content.lines().next()?.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!line.is_empty()).then(|| line.into())
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

/// Bytes on a GPU that are this process's; `None` where the driver does not know this process (in a container it has another
/// number outside).
pub(crate) fn own_gpu_memory(device: &nvml_wrapper::Device<'_>) -> Option<u64> {
    let processes = device.running_compute_processes().ok()?;
    match processes.into_iter().find(|p| p.pid == std::process::id())?.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    }
}

/// The processor's name; a board's, where the processor has none (Arm's often), or else the architecture.
pub(crate) fn cpu_name() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let board = || text(Path::new("/proc/device-tree/model"));
    after(&cpuinfo, "model name", ':').map(String::from).or_else(board).unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The kernel's release.
pub(crate) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The value behind `key`, up to the line's end, without quotation marks; `None` where there is none.
pub(crate) fn after<'a>(text: &'a str, key: &str, delimiter: char) -> Option<&'a str> {
    let (_, value) = text.lines().filter_map(|line| line.split_once(delimiter)).find(|(name, _)| name.trim() == key)?;
    Some(value.trim().trim_matches('"')).filter(|value| !value.is_empty())
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
    let mut text = [0_u8; 32];
    // SAFETY: libcuda is NVIDIA's driver library, made to be opened at run time, and libtorch has it open already. The
    // three functions have these signatures since CUDA 4.1 (CUdevice and CUresult are ints); `cuInit` may be called
    // again. The pointers are to variables that outlive the calls, and 32 is the size of `text`.
    let code = unsafe {
        // The driver has threads of its own and must not be unloaded under them.
        let driver = std::mem::ManuallyDrop::new(libloading::Library::new("libcuda.so.1").ok()?);
        let init = driver.get::<Init>(b"cuInit\0").ok()?;
        let device_get = driver.get::<DeviceGet>(b"cuDeviceGet\0").ok()?;
        let bus_id = driver.get::<GetPciBusId>(b"cuDeviceGetPCIBusId\0").ok()?;
        let mut device: c_int = 0;
        match (init(0), device_get(&mut device, number)) {
            (0, 0) => bus_id(text.as_mut_ptr().cast(), text.len() as c_int, device),
            (0, code) | (code, _) => code,
        }
    };
    if code != 0 {
        log::debug!("the CUDA driver does not say where cuda:{number} is (error {code})");
        return None;
    }
    // The last element is never written: the function writes at most 13 characters and a NUL.
    CStr::from_bytes_until_nul(&text).ok()?.to_str().ok().map(String::from)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_behind_their_keys() {
        let x86 = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9B45\nmodel name\t: other\n";
        assert_eq!(after(x86, "model name", ':'), Some("AMD EPYC 9B45"));
        assert_eq!(after("processor\t: 0\nBogoMIPS\t: 62.50\nmodel name\t:\n", "model name", ':'), None);
        assert_eq!(after("NAME=\"Debian\"\nPRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME", '='), Some("Debian 12"));
    }

    #[test]
    fn this_machine_says_what_it_is() {
        assert!(!cpu_name().is_empty() && cores() >= 1 && kernel().contains('.'), "{} {}", cpu_name(), kernel());
    }

    #[test]
    fn a_text_is_its_first_line_without_a_zero_byte() {
        let root = tempfile::tempdir().expect("a folder");
        fixture::write(root.path(), &[("model", "NVIDIA Jetson Orin\0"), ("empty", "\0"), ("two", " a \nb\n")]);
        assert_eq!(text(&root.path().join("model")).as_deref(), Some("NVIDIA Jetson Orin"));
        assert_eq!(text(&root.path().join("two")).as_deref(), Some("a"));
        assert_eq!(text(&root.path().join("empty")), None);
        assert_eq!(text(&root.path().join("missing")), None);
    }
}

//! Memory of this process and of its GPU.

use crate::system::{self, open_nvml, own_gpu_memory, status_number};
use nvml_wrapper::Nvml;
use serde::Serialize;
use std::path::Path;
use tch::Device;

/// Bytes of this process in host memory, from `/proc/self/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// Now (`VmRSS`).
    pub now_bytes: u64,
    /// Most since the start (`VmHWM`).
    pub peak_bytes: u64,
}

/// Reads it; `None` where there is no `/proc`, or it does not say.
pub fn resident() -> Option<Resident> {
    resident_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_of(status: &str) -> Option<Resident> {
    let bytes = |field| status_number(status, field).map(|kib| kib * 1024);
    Some(Resident { now_bytes: bytes("VmRSS")?, peak_bytes: bytes("VmHWM")? })
}

/// The GPU's memory that this process has, where the driver tells.
#[derive(Debug)]
pub struct GpuMemory {
    nvml: Nvml,
    bus_id: String,
    /// In use on the whole GPU before this process used it.
    before_bytes: u64,
}

/// Bytes on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OnGpu {
    /// Of this process, as the driver counts it, its context included; `None` where the driver does not know this
    /// process (in a container it has another number outside).
    pub process_bytes: Option<u64>,
    /// What the whole GPU has in use beyond what it had before: others' changes are in it.
    pub above_before_bytes: u64,
}

impl GpuMemory {
    /// To be called before anything is on the GPU. `None` on the processor.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    pub fn watch(device: Device) -> Option<Result<Self, String>> {
        let Device::Cuda(number) = device else { return None };
        Some(open_nvml(number).and_then(|(nvml, bus_id)| {
            let before_bytes = used(&nvml, &bus_id)?;
            Ok(Self { nvml, bus_id, before_bytes })
        }))
    }

    /// Now.
    ///
    /// # Errors
    /// Why it cannot be read, in words.
    pub fn read(&self) -> Result<OnGpu, String> {
        let device = self.nvml.device_by_pci_bus_id(self.bus_id.as_str()).map_err(|e| e.to_string())?;
        let above_before_bytes = used(&self.nvml, &self.bus_id)?.saturating_sub(self.before_bytes);
        Ok(OnGpu { process_bytes: own_gpu_memory(&device), above_before_bytes })
    }
}

fn used(nvml: &Nvml, bus_id: &str) -> Result<u64, String> {
    let memory = nvml.device_by_pci_bus_id(bus_id).and_then(|d| d.memory_info());
    memory.map(|m| m.used).map_err(|e| format!("NVML does not say the memory of the GPU at {bus_id}: {e}"))
}

/// The processor's name, its cores, and what else is worth knowing of this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// As the processor calls itself.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Of the kernel.
    pub kernel: String,
    /// Programs that wanted a core over the last minute, on the average, before the start: above 0 somebody else works.
    pub load_before: Option<f64>,
    /// Name and driver version of the GPU, where the network runs on one.
    pub gpu: Option<String>,
}

impl Machine {
    /// This one.
    pub fn here(device: Device) -> Self {
        let gpu = match device {
            Device::Cuda(number) => Some(gpu_name(number).unwrap_or_else(|why| format!("unknown: {why}"))),
            _ => None,
        };
        Self {
            cpu: system::cpu_name(),
            cores: system::cores(),
            kernel: system::kernel(),
            load_before: system::text(Path::new("/proc/loadavg"))
                .and_then(|line| line.split_whitespace().next()?.parse().ok()),
            gpu,
        }
    }
}

fn gpu_name(number: usize) -> Result<String, String> {
    let (nvml, bus_id) = open_nvml(number)?;
    let name = nvml.device_by_pci_bus_id(bus_id.as_str()).and_then(|d| d.name()).map_err(|e| e.to_string())?;
    let driver = nvml.sys_driver_version().unwrap_or_else(|_| "unknown".into());
    Ok(format!("{name}, driver {driver}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_words() {
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t   300 kB\nVmRSS:\t   200 kB\nThreads:\t3\n";
        assert_eq!(resident_of(status), Some(Resident { now_bytes: 200 * 1024, peak_bytes: 300 * 1024 }));
        assert_eq!(resident_of("VmRSS:\tmuch\nVmHWM:\t1 kB\n"), None);
        let here = resident().expect("this test runs on Linux");
        assert!(here.now_bytes > 1 << 20 && here.peak_bytes >= here.now_bytes / 2, "{here:?}");
        assert!(GpuMemory::watch(Device::Cpu).is_none());
    }

    #[test]
    fn a_machine_without_the_gpu_has_none() {
        let here = Machine::here(Device::Cpu);
        assert!(!here.cpu.is_empty() && here.cores >= 1 && here.gpu.is_none(), "{here:?}");
    }
}

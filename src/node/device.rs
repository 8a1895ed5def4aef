//! Health of the device that the network runs on, and of this process: memory, temperature, clocks, load, throttling.
//!
//! Sources: NVML (opened at run time) for a discrete GPU; the kernel's `/sys/class/thermal` and `/sys/class/devfreq` for
//! the integrated GPU of a Jetson; `/proc/self` for the process; `hwmon`, `cpufreq` and `thermal_throttle` for the
//! processor. What cannot be read is left out: most of it is missing in a container or a virtual machine, and none of it
//! is needed to label images.

use crate::system::{entries, open_nvml, own_gpu_memory, status_number, text};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::Nvml;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What runs the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    /// The processor.
    Cpu,
    /// A CUDA device, by CUDA's number.
    Cuda(usize),
}

/// A clock limit that NVML names, in words. Idleness and limits that the user set are no fault, but explain a clock.
const REASONS: [(ThrottleReasons, &str, bool); 9] = [
    (ThrottleReasons::GPU_IDLE, "idle", false),
    (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "application clocks are set", false),
    (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display clocks are set", false),
    (ThrottleReasons::SYNC_BOOST, "another GPU of the sync boost group", false),
    (ThrottleReasons::SW_POWER_CAP, "power limit", true),
    (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown", true),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "temperature (driver)", true),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "temperature (hardware)", true),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "external power brake", true),
];

/// Every key that [`Health::values`] can give, in that order.
pub const KEYS: [&str; 18] = [
    "GPU memory used (MiB)",
    "GPU memory total (MiB)",
    "GPU memory of this process (MiB)",
    "GPU temperature (C)",
    "GPU utilisation (%)",
    "GPU memory utilisation (%)",
    "GPU clock (MHz)",
    "GPU memory clock (MHz)",
    "GPU power (W)",
    "GPU power limit (W)",
    "GPU clocks limited by",
    "Process memory (MiB)",
    "Process threads",
    "Process CPU (% of one core)",
    "CPU temperature (C)",
    "CPU clock (MHz)",
    "CPU core throttle events",
    "CPU package throttle events",
];

/// One reading of a GPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gpu {
    /// In use by everybody.
    pub memory_used_bytes: Option<u64>,
    /// Built in.
    pub memory_total_bytes: Option<u64>,
    /// In use by this process. Unknown where the process has another number than outside (containers).
    pub memory_process_bytes: Option<u64>,
    /// Of the chip.
    pub temperature_c: Option<f64>,
    /// Share of the time in which something ran.
    pub utilisation_percent: Option<f64>,
    /// Share of the time in which memory was read or written.
    pub memory_utilisation_percent: Option<f64>,
    /// Of the multiprocessors.
    pub clock_mhz: Option<f64>,
    /// Of the memory.
    pub memory_clock_mhz: Option<f64>,
    /// Drawn now.
    pub power_w: Option<f64>,
    /// At most.
    pub power_limit_w: Option<f64>,
    /// Why the clocks are not higher, in words; empty if nothing limits them.
    pub limited_by: Option<Vec<&'static str>>,
    /// One of the reasons is a fault (heat, power) and not idleness or a setting.
    pub is_throttled: bool,
}

/// One reading of the process and the processor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Host {
    /// Resident.
    pub memory_bytes: Option<u64>,
    /// Threads of this process.
    pub threads: Option<u64>,
    /// Processor time since the reading before, of one core; 200 is two cores.
    pub cpu_percent: Option<f64>,
    /// The hottest sensor of the processor.
    pub temperature_c: Option<f64>,
    /// Mean of the cores that are on line.
    pub clock_mhz: Option<f64>,
    /// Times that a core was throttled for heat since the machine started, of all cores.
    pub core_throttle_events: Option<u64>,
    /// Times that a package was, of the package that was most often.
    pub package_throttle_events: Option<u64>,
}

/// Reads all of it.
pub struct Health {
    processor: Processor,
    nvml: Option<(Nvml, String)>,
    proc_self: PathBuf,
    sys: PathBuf,
    ticks_per_second: f64,
    /// When the processor time was read last, and what it was.
    last: Option<(Instant, u64)>,
    gpu: Gpu,
    host: Host,
}

impl Health {
    /// For the device that the network runs on. Opening NVML can take some hundred milliseconds where the driver was
    /// not in use; where CUDA is (the model is loaded) it takes a few.
    pub fn new(processor: Processor) -> Self {
        let nvml = match processor {
            Processor::Cpu => None,
            Processor::Cuda(number) => match open_nvml(number) {
                Ok(found) => Some(found),
                Err(why) => {
                    log::debug!("the GPU's memory, power and throttling are left out: {why}");
                    None
                }
            },
        };
        Self {
            processor,
            nvml,
            proc_self: "/proc/self".into(),
            sys: "/sys".into(),
            ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
            last: None,
            gpu: Gpu::default(),
            host: Host::default(),
        }
    }

    /// Reads everything anew (some file reads and NVML calls: milliseconds) and says it as keys and values, the keys of
    /// [`KEYS`].
    pub fn values(&mut self) -> Vec<(String, String)> {
        self.sample(Instant::now());
        values(&self.gpu, &self.host)
    }

    /// The last reading of the GPU; empty for the processor.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn sample(&mut self, now: Instant) {
        self.gpu = match (&self.nvml, self.processor) {
            (Some((nvml, bus_id)), Processor::Cuda(_)) => read_nvml(nvml, bus_id),
            _ => Gpu::default(),
        };
        if matches!(self.processor, Processor::Cuda(_)) {
            // A Jetson's driver may have an NVML that knows little: what it leaves out, the kernel may know.
            self.gpu.fill_from(read_integrated_gpu(&self.sys));
        }
        let (mut host, ticks) = read_process(&self.proc_self);
        if let (Some(ticks), Some((then, before))) = (ticks, self.last) {
            let elapsed_s = now.saturating_duration_since(then).as_secs_f64();
            if elapsed_s > 0.0 {
                let busy_s = ticks.saturating_sub(before) as f64 / self.ticks_per_second;
                host.cpu_percent = Some(100.0 * busy_s / elapsed_s);
            }
        }
        self.last = ticks.map(|t| (now, t));
        read_processor(&self.sys, &mut host);
        self.host = host;
    }
}

impl Gpu {
    fn fill_from(&mut self, other: Self) {
        self.temperature_c = self.temperature_c.or(other.temperature_c);
        self.utilisation_percent = self.utilisation_percent.or(other.utilisation_percent);
        self.clock_mhz = self.clock_mhz.or(other.clock_mhz);
    }
}

fn values(gpu: &Gpu, host: &Host) -> Vec<(String, String)> {
    let mib = |bytes: Option<u64>| bytes.map(|b| format!("{:.1}", b as f64 / (1u64 << 20) as f64));
    let number = |value: Option<f64>| value.map(|v| format!("{v:.1}"));
    let count = |value: Option<u64>| value.map(|v| v.to_string());
    let limits = gpu.limited_by.as_ref().map(|l| if l.is_empty() { "nothing".to_string() } else { l.join(", ") });
    let all = [
        mib(gpu.memory_used_bytes),
        mib(gpu.memory_total_bytes),
        mib(gpu.memory_process_bytes),
        number(gpu.temperature_c),
        number(gpu.utilisation_percent),
        number(gpu.memory_utilisation_percent),
        number(gpu.clock_mhz),
        number(gpu.memory_clock_mhz),
        number(gpu.power_w),
        number(gpu.power_limit_w),
        limits,
        mib(host.memory_bytes),
        count(host.threads),
        number(host.cpu_percent),
        number(host.temperature_c),
        number(host.clock_mhz),
        count(host.core_throttle_events),
        count(host.package_throttle_events),
    ];
    KEYS.iter().zip(all).filter_map(|(key, value)| Some(((*key).to_string(), value?))).collect()
}

fn read_nvml(nvml: &Nvml, bus_id: &str) -> Gpu {
    let Ok(device) = nvml.device_by_pci_bus_id(bus_id) else { return Gpu::default() };
    let memory = device.memory_info().ok();
    let utilisation = device.utilization_rates().ok();
    let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
    let reasons = device.current_throttle_reasons().ok();
    Gpu {
        memory_used_bytes: memory.as_ref().map(|m| m.used),
        memory_total_bytes: memory.as_ref().map(|m| m.total),
        memory_process_bytes: own_gpu_memory(&device),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        utilisation_percent: utilisation.as_ref().map(|u| f64::from(u.gpu)),
        memory_utilisation_percent: utilisation.as_ref().map(|u| f64::from(u.memory)),
        clock_mhz: device.clock_info(Clock::SM).ok().map(f64::from),
        memory_clock_mhz: device.clock_info(Clock::Memory).ok().map(f64::from),
        power_w: device.power_usage().ok().map(watts),
        power_limit_w: device.enforced_power_limit().ok().map(watts),
        is_throttled: reasons.is_some_and(is_throttled),
        limited_by: reasons.map(in_words),
    }
}

fn in_words(reasons: ThrottleReasons) -> Vec<&'static str> {
    REASONS.iter().filter(|(flag, _, _)| reasons.contains(*flag)).map(|(_, words, _)| *words).collect()
}

fn is_throttled(reasons: ThrottleReasons) -> bool {
    REASONS.iter().any(|(flag, _, is_fault)| *is_fault && reasons.contains(*flag))
}

fn number(path: &Path) -> Option<f64> {
    text(path)?.parse().ok().filter(|v: &f64| v.is_finite())
}

fn count(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

fn hottest(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::max)
}

/// Temperatures of the thermal zones whose type passes, degrees Celsius. (The kernel gives thousandths; a zone whose
/// sensor is powered down cannot be read.)
fn zones<'a>(sys: &Path, passes: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = f64> + 'a {
    entries(&sys.join("class/thermal"), "thermal_zone").into_iter().filter_map(move |zone| {
        let kind = text(&zone.join("type"))?.to_ascii_lowercase();
        passes(&kind).then(|| number(&zone.join("temp"))).flatten().map(|t| t / 1e3)
    })
}

/// The integrated GPU of a Jetson: thermal zone `GPU-therm` or `gpu-thermal`; devfreq device `17000000.gpu`,
/// `17000000.ga10b`, `...gv11b`, `...gp10b`, `57000000.gpu` or `gpu-gpc-0` with its clock in Hz; load in thousandths.
fn read_integrated_gpu(sys: &Path) -> Gpu {
    let is_gpu = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        name.starts_with("gpu-gpc")
            || ["gpu", "ga10b", "gv11b", "gp10b", "gm20b"].iter().any(|chip| name.ends_with(&format!(".{chip}")))
    };
    let device = entries(&sys.join("class/devfreq"), "").into_iter().find(is_gpu);
    Gpu {
        temperature_c: hottest(zones(sys, |kind| kind == "gpu-therm" || kind == "gpu-thermal")),
        clock_mhz: device.as_ref().and_then(|d| number(&d.join("cur_freq"))).map(|hz| hz / 1e6),
        utilisation_percent: device.as_ref().and_then(|d| number(&d.join("device/load"))).map(|l| l / 10.0),
        ..Gpu::default()
    }
}

/// Memory and threads of this process, and the processor time it has used, in clock ticks.
fn read_process(proc_self: &Path) -> (Host, Option<u64>) {
    let status = std::fs::read_to_string(proc_self.join("status")).unwrap_or_default();
    let field = |name: &str| status_number(&status, name);
    let host =
        Host { memory_bytes: field("VmRSS").map(|kib| kib * 1024), threads: field("Threads"), ..Host::default() };
    let ticks = text(&proc_self.join("stat")).and_then(|stat| {
        // The second field is the name, in parentheses that may hold anything: count from the last one. What follows it
        // are the fields 3 and on; user and system time are the fields 14 and 15.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(14 - 3);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(user + system)
    });
    (host, ticks)
}

fn read_processor(sys: &Path, host: &mut Host) {
    // A sensor driver that is the processor's own; else a thermal zone of it.
    let sensors = entries(&sys.join("class/hwmon"), "hwmon").into_iter().filter(|folder| {
        let name = text(&folder.join("name")).unwrap_or_default();
        ["coretemp", "k10temp", "zenpower", "cpu_thermal"].contains(&name.as_str())
    });
    let inputs = sensors.flat_map(|folder| entries(&folder, "temp"));
    let inputs = inputs.filter(|p| p.to_string_lossy().ends_with("_input"));
    host.temperature_c = hottest(inputs.filter_map(|p| number(&p)).map(|t| t / 1e3)).or_else(|| {
        let is_cpu = |kind: &str| kind == "x86_pkg_temp" || kind.starts_with("cpu-therm") || kind == "cpu_thermal";
        hottest(zones(sys, is_cpu))
    });

    let cpus: Vec<PathBuf> = entries(&sys.join("devices/system/cpu"), "cpu");
    let clocks: Vec<f64> = cpus.iter().filter_map(|c| number(&c.join("cpufreq/scaling_cur_freq"))).collect();
    if !clocks.is_empty() {
        host.clock_mhz = Some(clocks.iter().sum::<f64>() / clocks.len() as f64 / 1e3);
    }
    let events = |name: &str| -> Vec<u64> {
        cpus.iter().filter_map(|c| count(&c.join("thermal_throttle").join(name))).collect()
    };
    let cores = events("core_throttle_count");
    host.core_throttle_events = (!cores.is_empty()).then(|| cores.iter().sum());
    // Every core of a package tells the package's own number.
    host.package_throttle_events = events("package_throttle_count").into_iter().max();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fixture::write;
    use std::time::Duration;

    fn health(root: &Path, processor: Processor) -> Health {
        Health {
            nvml: None,
            proc_self: root.join("proc/self"),
            sys: root.join("sys"),
            ticks_per_second: 100.0,
            ..Health::new(Processor::Cpu)
        }
        .on(processor)
    }

    impl Health {
        fn on(mut self, processor: Processor) -> Self {
            self.processor = processor;
            self
        }
    }

    fn get<'a>(values: &'a [(String, String)], key: &str) -> Option<&'a str> {
        assert!(KEYS.contains(&key), "{key}");
        values.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    const STAT: &str = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 USER SYSTEM 0 0 20 0 17 0 100 1 2";

    fn stat(user: u64, system: u64) -> String {
        STAT.replace("USER", &user.to_string()).replace("SYSTEM", &system.to_string())
    }

    #[test]
    fn this_process_is_read() {
        let mut health = Health::new(Processor::Cpu);
        let first = health.values();
        assert!(get(&first, "Process memory (MiB)").expect("resident memory").parse::<f64>().expect("number") > 1.0);
        assert!(get(&first, "Process threads").expect("threads").parse::<u64>().expect("number") >= 1);
        assert_eq!(get(&first, "Process CPU (% of one core)"), None, "there is no report before the first");
        // Until the kernel has counted some work of this process, however long that takes here.
        let (_, before) = read_process(&health.proc_self);
        let mut work = 1u64;
        while read_process(&health.proc_self).1 == before {
            for _ in 0..1_000_000 {
                work = std::hint::black_box(work.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        }
        let second = health.values();
        let percent: f64 = get(&second, "Process CPU (% of one core)").expect("known").parse().expect("number");
        assert!(percent > 0.0, "{percent} after {work}");
        assert_eq!(health.gpu(), &Gpu::default());
        assert!(health.host.memory_bytes.expect("known") > 1 << 20);
    }

    #[test]
    fn processor_time_is_a_share_of_the_time_between_reports() {
        let root = tempfile::tempdir().expect("folder");
        let mut health = health(root.path(), Processor::Cpu);
        let start = Instant::now();
        write(
            root.path(),
            &[("proc/self/stat", &stat(100, 20)), ("proc/self/status", "Name:\tx\nVmRSS:\t   2048 kB\nThreads:\t17\n")],
        );
        health.sample(start);
        assert_eq!(
            health.host,
            Host { memory_bytes: Some(2 << 20), threads: Some(17), ..Host::default() },
            "nothing but the process is there"
        );
        write(root.path(), &[("proc/self/stat", &stat(350, 70))]);
        health.sample(start + Duration::from_secs(2));
        // (350 + 70 - 120) ticks of 10 ms in 2 s.
        assert_eq!(health.host.cpu_percent, Some(150.0));
        // Gone and back again: no share from an old reading.
        write(root.path(), &[("proc/self/stat", "garbage")]);
        health.sample(start + Duration::from_secs(3));
        assert_eq!(health.host.cpu_percent, None);
        write(root.path(), &[("proc/self/stat", &stat(400, 70))]);
        health.sample(start + Duration::from_secs(4));
        assert_eq!(health.host.cpu_percent, None);
    }

    #[test]
    fn a_desktop_processor_is_read() {
        let root = tempfile::tempdir().expect("folder");
        write(
            root.path(),
            &[
                ("sys/class/hwmon/hwmon0/name", "nvme\n"),
                ("sys/class/hwmon/hwmon0/temp1_input", "99000\n"),
                ("sys/class/hwmon/hwmon3/name", "coretemp\n"),
                ("sys/class/hwmon/hwmon3/temp1_input", "61000\n"),
                ("sys/class/hwmon/hwmon3/temp1_crit", "100000\n"),
                ("sys/class/hwmon/hwmon3/temp2_input", "63500\n"),
                ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n"),
                ("sys/class/thermal/thermal_zone0/temp", "70000\n"),
                ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "3000000\n"),
                ("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "2000000\n"),
                ("sys/devices/system/cpu/cpufreq/scaling_cur_freq", "1\n"),
                ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "4\n"),
                ("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "5\n"),
                ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "6\n"),
                ("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "7\n"),
            ],
        );
        let mut health = health(root.path(), Processor::Cpu);
        let values = health.values();
        assert_eq!(get(&values, "CPU temperature (C)"), Some("63.5"));
        assert_eq!(health.host.temperature_c, Some(63.5));
        assert_eq!(get(&values, "CPU clock (MHz)"), Some("2500.0"));
        assert_eq!(get(&values, "CPU core throttle events"), Some("9"));
        assert_eq!(get(&values, "CPU package throttle events"), Some("7"));
        assert_eq!(values.len(), 4, "what is not there is left out: {values:?}");
    }

    #[test]
    fn a_jetson_is_read() {
        for (device, gpu_zone, cpu_zone) in [
            ("17000000.gpu", "gpu-thermal", "cpu-thermal"),
            ("17000000.ga10b", "GPU-therm", "CPU-therm"),
            ("57000000.gpu", "GPU-therm", "CPU-therm"),
            ("gpu-gpc-0", "gpu-thermal", "cpu-thermal"),
        ] {
            let root = tempfile::tempdir().expect("folder");
            write(
                root.path(),
                &[
                    ("sys/class/devfreq/13e40000.host1x/cur_freq", "1\n"),
                    (&format!("sys/class/devfreq/{device}/cur_freq"), "1300500000\n"),
                    (&format!("sys/class/devfreq/{device}/device/load"), "734\n"),
                    ("sys/class/thermal/thermal_zone0/type", &format!("{cpu_zone}\n")),
                    ("sys/class/thermal/thermal_zone0/temp", "48250\n"),
                    ("sys/class/thermal/thermal_zone1/type", &format!("{gpu_zone}\n")),
                    ("sys/class/thermal/thermal_zone1/temp", "52125\n"),
                    ("sys/class/thermal/thermal_zone2/type", "soc0-thermal\n"),
                    ("sys/class/thermal/thermal_zone2/temp", "99000\n"),
                ],
            );
            let mut health = health(root.path(), Processor::Cuda(0));
            let values = health.values();
            assert_eq!(get(&values, "GPU temperature (C)"), Some("52.1"), "{device}");
            assert_eq!(health.gpu().temperature_c, Some(52.125));
            assert_eq!(get(&values, "GPU clock (MHz)"), Some("1300.5"), "{device}");
            assert_eq!(get(&values, "GPU utilisation (%)"), Some("73.4"), "{device}");
            assert_eq!(get(&values, "CPU temperature (C)"), Some("48.2"), "{device}");
            // On the processor the GPU is of no interest.
            let mut health = health.on(Processor::Cpu);
            assert_eq!(get(&health.values(), "GPU temperature (C)"), None);
            assert_eq!(health.host.temperature_c, Some(48.25));
        }
    }

    #[test]
    fn nothing_and_nonsense_are_left_out() {
        let root = tempfile::tempdir().expect("folder");
        assert_eq!(health(root.path(), Processor::Cuda(3)).values(), []);
        write(
            root.path(),
            &[
                ("proc/self/stat", ""),
                ("proc/self/status", "VmRSS: lots\nThreads:\n"),
                ("sys/class/hwmon/hwmon0/name", "k10temp"),
                ("sys/class/hwmon/hwmon0/temp1_input", "warm"),
                ("sys/class/thermal/thermal_zone0/type", "gpu-thermal"),
                ("sys/class/thermal/thermal_zone0/temp", "NaN"),
                ("sys/class/devfreq/17000000.gpu/cur_freq", "\n"),
                ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "-1"),
            ],
        );
        assert_eq!(health(root.path(), Processor::Cuda(3)).values(), []);
    }

    #[test]
    fn every_value_has_its_key_and_unit() {
        let gpu = Gpu {
            memory_used_bytes: Some(3 << 20),
            memory_total_bytes: Some(1 << 30),
            memory_process_bytes: Some(1 << 19),
            temperature_c: Some(71.0),
            utilisation_percent: Some(12.0),
            memory_utilisation_percent: Some(13.0),
            clock_mhz: Some(1410.0),
            memory_clock_mhz: Some(1215.0),
            power_w: Some(59.25),
            power_limit_w: Some(300.0),
            limited_by: Some(vec!["power limit", "temperature (driver)"]),
            is_throttled: true,
        };
        let host = Host {
            memory_bytes: Some(5 << 20),
            threads: Some(6),
            cpu_percent: Some(7.0),
            temperature_c: Some(8.0),
            clock_mhz: Some(9.0),
            core_throttle_events: Some(10),
            package_throttle_events: Some(11),
        };
        let said = values(&gpu, &host);
        assert_eq!(said.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), KEYS);
        let expected = [
            "3.0",
            "1024.0",
            "0.5",
            "71.0",
            "12.0",
            "13.0",
            "1410.0",
            "1215.0",
            "59.2",
            "300.0",
            "power limit, temperature (driver)",
            "5.0",
            "6",
            "7.0",
            "8.0",
            "9.0",
            "10",
            "11",
        ];
        assert_eq!(said.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>(), expected);
        let unlimited = Gpu { limited_by: Some(Vec::new()), ..Gpu::default() };
        assert_eq!(values(&unlimited, &Host::default()), [("GPU clocks limited by".into(), "nothing".into())]);
    }

    #[test]
    fn throttle_reasons_are_in_words() {
        assert!(in_words(ThrottleReasons::NONE).is_empty());
        for (flag, words, is_fault) in REASONS {
            assert_eq!(in_words(flag), [words]);
            assert_eq!(is_throttled(flag), is_fault, "{words}");
        }
        let both = ThrottleReasons::GPU_IDLE | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(in_words(both), ["idle", "temperature (hardware)"]);
        assert!(is_throttled(both));
    }

    #[test]
    fn without_a_gpu_there_is_no_error() {
        // On a machine with one this reads it; here as there every value has a key.
        let mut health = Health::new(Processor::Cuda(0));
        for (key, value) in health.values() {
            assert!(KEYS.contains(&key.as_str()) && !value.is_empty(), "{key}: {value}");
        }
    }
}

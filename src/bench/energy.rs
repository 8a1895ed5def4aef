//! Energy of what a piece of work uses, in joules.
//!
//! Where from, best first: on CUDA the GPU's own counter (NVML; the GPU alone, not its host); the power rails of a
//! Jetson's board (INA sensors under `/sys/class/hwmon`), whose power is sampled and summed up; on the processor RAPL
//! (`/sys/class/powercap/intel-rapl:*`, which AMD's processors have too; package and, where it is told apart, memory).
//! Every source counts what the whole chip or board uses, whoever uses it: the energy of the same time at rest is
//! measured before, to be taken off.

use crate::system::{entries, open_nvml, text};
use nvml_wrapper::Nvml;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tch::Device;

/// Time between two looks at power rails: their sensors average over some milliseconds, and a look costs about one.
const SAMPLE: Duration = Duration::from_millis(10);

/// Rails that carry all of the supply: where one of them is there, it alone is the total. `ina238` is Jetson Thor's
/// sensor of its supply, which has no label.
const WHOLE: [&str; 4] = ["VDD_IN", "POM_5V_IN", "VIN", "ina238"];

/// Joules of one counter or rail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// As the machine calls it.
    pub name: String,
    /// Joules.
    pub joules: f64,
    /// Whether it is in the total (a rail that others carry is not).
    pub counted: bool,
}

/// Where energy is read from.
#[derive(Debug)]
pub enum Source {
    /// The GPU's counter.
    Nvml {
        /// Open.
        nvml: Box<Nvml>,
        /// Which GPU.
        bus_id: String,
    },
    /// Power sensors of a board.
    Rails(Vec<Rail>),
    /// The processor's counters.
    Rapl(Vec<Zone>),
}

/// One power sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Rail {
    name: String,
    counted: bool,
    reading: Reading,
}

#[derive(Debug, Clone, PartialEq)]
enum Reading {
    /// Microwatts.
    Power(PathBuf),
    /// Millivolts and milliamperes.
    VoltageCurrent(PathBuf, PathBuf),
}

impl Rail {
    fn watts(&self) -> Result<f64, String> {
        match &self.reading {
            Reading::Power(microwatts) => Ok(read(microwatts)? as f64 / 1e6),
            Reading::VoltageCurrent(mv, ma) => Ok(read(mv)? as f64 * read(ma)? as f64 / 1e6),
        }
    }
}

/// One energy counter of RAPL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    microjoules: PathBuf,
    /// The counter goes on at 0 after this.
    most: u64,
}

impl Zone {
    /// From one reading to another, at most one round of the counter apart.
    fn joules(&self, before: u64, after: u64) -> f64 {
        let gone = if after >= before { after - before } else { self.most.saturating_sub(before) + after };
        gone as f64 / 1e6
    }
}

/// A whole number from a file of the kernel, with the reason where there is none.
fn read(path: &Path) -> Result<i64, String> {
    let content = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => {
            format!("{}: {e}; run as root, or make it readable (chmod a+r)", path.display())
        }
        _ => format!("{}: {e}", path.display()),
    })?;
    content
        .trim()
        .parse()
        .map_err(|_| format!("{}: expected a whole number, found {:?}", path.display(), content.trim()))
}

impl Source {
    /// The best source for what the network runs on; `sys` is `/sys`.
    ///
    /// # Errors
    /// Why none can be read: one reason for each that was tried.
    pub fn find(device: Device, sys: &Path) -> Result<Self, Vec<String>> {
        let mut reasons = Vec::new();
        if let Device::Cuda(number) = device {
            match gpu_counter(number) {
                Ok(source) => return Ok(source),
                Err(why) => reasons.push(why),
            }
        }
        match rails(sys) {
            Ok(rails) => return Ok(Self::Rails(rails)),
            Err(why) => reasons.push(why),
        }
        // A discrete GPU's energy is not in the processor's counters.
        if device == Device::Cpu {
            match zones(sys) {
                Ok(zones) => return Ok(Self::Rapl(zones)),
                Err(why) => reasons.push(why),
            }
        }
        Err(reasons)
    }

    /// In words.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nvml { .. } => "NVML (the GPU alone)",
            Self::Rails(_) => "the board's power rails",
            Self::Rapl(_) => "RAPL (the processor's packages)",
        }
    }

    /// Begins to count.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn start(&self) -> Result<Counting<'_>, String> {
        let state = match self {
            Self::Nvml { nvml, bus_id } => State::Millijoules(millijoules(nvml, bus_id)?),
            Self::Rapl(zones) => State::Microjoules(zones.iter().map(counter).collect::<Result<_, _>>()?),
            Self::Rails(rails) => State::Sampled(Sampler::start(rails.clone())?),
        };
        Ok(Counting { source: self, state, since: Instant::now() })
    }
}

fn counter(zone: &Zone) -> Result<u64, String> {
    u64::try_from(read(&zone.microjoules)?).map_err(|e| format!("{}: {e}", zone.microjoules.display()))
}

fn gpu_counter(number: usize) -> Result<Source, String> {
    let (nvml, bus_id) = open_nvml(number)?;
    millijoules(&nvml, &bus_id)?;
    Ok(Source::Nvml { nvml: Box::new(nvml), bus_id })
}

fn millijoules(nvml: &Nvml, bus_id: &str) -> Result<u64, String> {
    let device = nvml.device_by_pci_bus_id(bus_id);
    device
        .and_then(|d| d.total_energy_consumption())
        .map_err(|e| format!("NVML has no energy counter of the GPU at {bus_id}: {e}"))
}

/// Sensors of TI's INA family; unused inputs have no label, or `NC`.
fn rails(sys: &Path) -> Result<Vec<Rail>, String> {
    let folder = sys.join("class/hwmon");
    let mut found = Vec::new();
    let is_ina = |sensor: &PathBuf| text(&sensor.join("name")).is_some_and(|name| name.starts_with("ina"));
    for sensor in entries(&folder, "hwmon").into_iter().filter(is_ina) {
        let named = |label: &str| text(&sensor.join(label)).filter(|l| l != "NC");
        let power = sensor.join("power1_input");
        if power.is_file() {
            let name = named("power1_label").or_else(|| named("in1_label")).or_else(|| text(&sensor.join("name")));
            found.extend(name.map(|name| (name, Reading::Power(power))));
            continue;
        }
        for channel in 1..=3 {
            let (mv, ma) = (sensor.join(format!("in{channel}_input")), sensor.join(format!("curr{channel}_input")));
            if let (Some(name), true, true) = (named(&format!("in{channel}_label")), mv.is_file(), ma.is_file()) {
                found.push((name, Reading::VoltageCurrent(mv, ma)));
            }
        }
    }
    if found.is_empty() {
        return Err(format!("{}: no power sensor of a Jetson's board (ina*) is there", folder.display()));
    }
    let whole = found.iter().any(|(name, _)| WHOLE.contains(&name.as_str()));
    let rail =
        |(name, reading): (String, Reading)| Rail { counted: !whole || WHOLE.contains(&name.as_str()), name, reading };
    let rails: Vec<Rail> = found.into_iter().map(rail).collect();
    rails.iter().try_for_each(|r| r.watts().map(|_| ()))?;
    Ok(rails)
}

/// Packages, and memory where it has a counter of its own; `core` and `uncore` are parts of a package, `psys` is more
/// than the processor.
fn zones(sys: &Path) -> Result<Vec<Zone>, String> {
    let folder = sys.join("class/powercap");
    let mut zones = Vec::new();
    for zone in entries(&folder, "intel-rapl:") {
        let Some(name) = text(&zone.join("name")).filter(|n| n.starts_with("package") || n == "dram") else { continue };
        let most = read(&zone.join("max_energy_range_uj"))?;
        let zone = Zone { name, microjoules: zone.join("energy_uj"), most: u64::try_from(most).unwrap_or(0) };
        counter(&zone)?;
        zones.push(zone);
    }
    match zones.is_empty() {
        true => Err(format!(
            "{}: no intel-rapl zone of a processor package is there (a virtual machine has none; elsewhere load the \
             kernel module intel_rapl_msr)",
            folder.display()
        )),
        false => Ok(zones),
    }
}

/// Reads power rails again and again and sums up.
#[derive(Debug)]
struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<f64>, String>>,
}

impl Sampler {
    fn start(rails: Vec<Rail>) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watts = move || rails.iter().map(Rail::watts).collect::<Result<Vec<f64>, _>>();
        let (mut at, mut last) = (Instant::now(), watts()?);
        let work = move || {
            let mut joules = vec![0.0; last.len()];
            loop {
                let done = stopped.load(Ordering::Relaxed);
                if !done {
                    std::thread::sleep(SAMPLE);
                }
                let (now, power) = (Instant::now(), watts()?);
                let seconds = (now - at).as_secs_f64();
                // Between two looks the power is taken to change evenly.
                for ((sum, then), is) in joules.iter_mut().zip(&last).zip(&power) {
                    *sum += (then + is) / 2.0 * seconds;
                }
                (at, last) = (now, power);
                if done {
                    return Ok(joules);
                }
            }
        };
        let thread = std::thread::Builder::new().name("power rails".into()).spawn(work);
        Ok(Self { stop, thread: thread.map_err(|e| format!("no thread to read power rails: {e}"))? })
    }

    fn stop(self) -> Result<Vec<f64>, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err("the thread that reads power rails ended".into()))
    }
}

#[derive(Debug)]
enum State {
    Millijoules(u64),
    Microjoules(Vec<u64>),
    Sampled(Sampler),
}

/// Energy is being counted.
#[derive(Debug)]
pub struct Counting<'a> {
    source: &'a Source,
    state: State,
    since: Instant,
}

impl Counting<'_> {
    /// Ends it: seconds, and the joules of each part.
    ///
    /// # Errors
    /// A counter cannot be read any more.
    pub fn stop(self) -> Result<(f64, Vec<Part>), String> {
        let seconds = self.since.elapsed().as_secs_f64();
        let part = |name: &str, joules, counted| Part { name: name.into(), joules, counted };
        let parts = match (self.source, self.state) {
            (Source::Nvml { nvml, bus_id }, State::Millijoules(before)) => {
                let joules = millijoules(nvml, bus_id)?.saturating_sub(before) as f64 / 1e3;
                vec![part("GPU", joules, true)]
            }
            (Source::Rapl(zones), State::Microjoules(before)) => zones
                .iter()
                .zip(before)
                .map(|(zone, before)| Ok(part(&zone.name, zone.joules(before, counter(zone)?), true)))
                .collect::<Result<_, String>>()?,
            (Source::Rails(rails), State::Sampled(sampler)) => {
                let joules = sampler.stop()?;
                rails.iter().zip(joules).map(|(rail, joules)| part(&rail.name, joules, rail.counted)).collect()
            }
            _ => return Err("the source of energy changed while it was read".into()),
        };
        Ok((seconds, parts))
    }
}

/// Energy of frames.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Energy {
    /// Where it is from.
    pub source: &'static str,
    /// Frames that were answered meanwhile.
    pub frames: usize,
    /// How long that took.
    pub seconds: f64,
    /// Everything that the source counts, divided by the frames.
    pub joules_a_frame: f64,
    /// The same without what it counted in as much time at rest.
    pub joules_a_frame_above_rest: f64,
    /// Mean power with frames.
    pub watts: f64,
    /// Mean power at rest, before.
    pub rest_watts: f64,
    /// Of the time with frames.
    pub parts: Vec<Part>,
}

/// Measures at rest for `duration`, then runs `frame` for as long.
///
/// # Errors
/// The inner one: a counter cannot be read, in words. The outer one: what `frame` says.
pub fn measure<E>(
    source: &Source,
    duration: Duration,
    mut frame: impl FnMut() -> Result<(), E>,
) -> Result<Result<Energy, String>, E> {
    let total = |parts: &[Part]| parts.iter().filter(|p| p.counted).map(|p| p.joules).sum::<f64>();
    let rest = source.start().and_then(|counting| {
        std::thread::sleep(duration);
        counting.stop()
    });
    let (rest_seconds, rest_parts) = match rest {
        Ok(rest) => rest,
        Err(why) => return Ok(Err(why)),
    };
    let counting = match source.start() {
        Ok(counting) => counting,
        Err(why) => return Ok(Err(why)),
    };
    let (mut frames, start) = (0_usize, Instant::now());
    while frames == 0 || start.elapsed() < duration {
        if let Err(error) = frame() {
            // Where a thread counts, it ends.
            let _ = counting.stop();
            return Err(error);
        }
        frames += 1;
    }
    Ok(counting.stop().map(|(seconds, parts)| {
        let (joules, rest_watts) = (total(&parts), total(&rest_parts) / rest_seconds);
        Energy {
            source: source.name(),
            frames,
            seconds,
            joules_a_frame: joules / frames as f64,
            joules_a_frame_above_rest: (joules - rest_watts * seconds) / frames as f64,
            watts: joules / seconds,
            rest_watts,
            parts,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fixture::write;
    use std::convert::Infallible;

    #[test]
    fn a_machine_without_sensors_says_what_was_looked_for() {
        let root = tempfile::tempdir().expect("folder");
        let reasons = Source::find(Device::Cpu, root.path()).expect_err("nothing is there");
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons[0].contains("class/hwmon") && reasons[1].contains("class/powercap"), "{reasons:?}");
        let reasons = Source::find(Device::Cuda(900), root.path()).expect_err("no machine has 900 GPUs");
        assert_eq!(reasons.len(), 2, "the processor's counters say nothing of a GPU: {reasons:?}");
    }

    const RAPL: [(&str, &str); 12] = [
        ("class/powercap/intel-rapl/enabled", "1\n"),
        ("class/powercap/intel-rapl:0/name", "package-0\n"),
        ("class/powercap/intel-rapl:0/energy_uj", "262143000000\n"),
        ("class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n"),
        ("class/powercap/intel-rapl:0:0/name", "core\n"),
        ("class/powercap/intel-rapl:0:0/energy_uj", "5\n"),
        ("class/powercap/intel-rapl:0:1/name", "dram\n"),
        ("class/powercap/intel-rapl:0:1/energy_uj", "1000\n"),
        ("class/powercap/intel-rapl:0:1/max_energy_range_uj", "65712999613\n"),
        ("class/powercap/intel-rapl:1/name", "psys\n"),
        ("class/powercap/intel-rapl:1/energy_uj", "7\n"),
        ("class/powercap/intel-rapl-mmio:0/name", "package-0\n"),
    ];

    #[test]
    fn rapls_joules_are_counted_across_the_counters_end() {
        let root = tempfile::tempdir().expect("folder");
        write(root.path(), &RAPL);
        let source = Source::find(Device::Cpu, root.path()).expect("RAPL is there");
        let Source::Rapl(zones) = &source else { panic!("{source:?}") };
        let names: Vec<_> = zones.iter().map(|z| z.name.as_str()).collect();
        assert_eq!(names, ["package-0", "dram"]);
        let counting = source.start().expect("readable");
        write(
            root.path(),
            &[
                ("class/powercap/intel-rapl:0/energy_uj", "1671150\n"),
                ("class/powercap/intel-rapl:0:1/energy_uj", "501000\n"),
            ],
        );
        let (_, parts) = counting.stop().expect("readable");
        let joules: Vec<f64> = parts.iter().map(|p| p.joules).collect();
        assert_eq!(joules, [2.0, 0.5]);
    }

    #[test]
    fn a_counter_that_cannot_be_read_is_named() {
        let root = tempfile::tempdir().expect("folder");
        write(root.path(), &RAPL);
        let counter = root.path().join("class/powercap/intel-rapl:0/energy_uj");
        std::fs::write(&counter, "lots").expect("write");
        let reasons = Source::find(Device::Cpu, root.path()).expect_err("no number");
        assert!(reasons[1].contains("energy_uj: expected a whole number, found \"lots\""), "{reasons:?}");
        std::fs::remove_file(&counter).expect("remove");
        let reasons = Source::find(Device::Cpu, root.path()).expect_err("not there");
        assert!(reasons[1].contains("energy_uj"), "{reasons:?}");
    }

    const AGX_ORIN: [(&str, &str); 14] = [
        ("class/hwmon/hwmon0/name", "tmp451\n"),
        ("class/hwmon/hwmon3/name", "ina3221\n"),
        ("class/hwmon/hwmon3/in1_label", "VDD_GPU_SOC\n"),
        ("class/hwmon/hwmon3/in1_input", "5000\n"),
        ("class/hwmon/hwmon3/curr1_input", "2000\n"),
        ("class/hwmon/hwmon3/in2_label", "VDD_CPU_CV\n"),
        ("class/hwmon/hwmon3/in2_input", "4000\n"),
        ("class/hwmon/hwmon3/curr2_input", "500\n"),
        ("class/hwmon/hwmon3/in7_label", "sum of shunt voltages\n"),
        ("class/hwmon/hwmon3/in7_input", "760\n"),
        ("class/hwmon/hwmon4/name", "ina3221\n"),
        ("class/hwmon/hwmon4/in1_label", "NC\n"),
        ("class/hwmon/hwmon4/in1_input", "0\n"),
        ("class/hwmon/hwmon4/curr1_input", "0\n"),
    ];

    #[test]
    fn a_jetsons_rails_are_summed_up() {
        let root = tempfile::tempdir().expect("folder");
        write(root.path(), &AGX_ORIN);
        let source = Source::find(Device::Cuda(900), root.path()).expect("rails are there");
        let Source::Rails(rails) = &source else { panic!("{source:?}") };
        let watts: Vec<_> = rails.iter().map(|r| (r.name.as_str(), r.watts().expect("readable"), r.counted)).collect();
        assert_eq!(watts, [("VDD_GPU_SOC", 10.0, true), ("VDD_CPU_CV", 2.0, true)]);
        // Constant power: joules are watts times seconds, whatever the sampling.
        let energy = measure(&source, Duration::from_millis(30), || {
            std::thread::sleep(Duration::from_millis(5));
            Ok::<_, Infallible>(())
        })
        .expect("it cannot fail")
        .expect("readable");
        assert!(energy.frames >= 1 && energy.seconds > 0.0);
        // The sampler's own time is a little longer or shorter than the measured one.
        let joules: f64 = energy.parts.iter().map(|p| p.joules).sum();
        assert_eq!(energy.parts.len(), 2);
        assert!((energy.parts[0].joules / energy.parts[1].joules - 5.0).abs() < 1e-9, "{energy:?}");
        assert!((energy.joules_a_frame * energy.frames as f64 - joules).abs() < 1e-9, "{energy:?}");
        assert!(energy.watts > 0.0 && energy.rest_watts > 0.0);
    }

    #[test]
    fn a_rail_of_the_whole_supply_is_the_total_alone() {
        let root = tempfile::tempdir().expect("folder");
        write(
            root.path(),
            &[
                ("class/hwmon/hwmon1/name", "ina3221\n"),
                ("class/hwmon/hwmon1/in1_label", "VDD_IN\n"),
                ("class/hwmon/hwmon1/in1_input", "5000\n"),
                ("class/hwmon/hwmon1/curr1_input", "1000\n"),
                ("class/hwmon/hwmon1/in2_label", "VDD_SOC\n"),
                ("class/hwmon/hwmon1/in2_input", "5000\n"),
                ("class/hwmon/hwmon1/curr2_input", "100\n"),
            ],
        );
        let rails = rails(root.path()).expect("rails are there");
        let found: Vec<_> = rails.iter().map(|r| (r.name.as_str(), r.watts().expect("watts"), r.counted)).collect();
        assert_eq!(found, [("VDD_IN", 5.0, true), ("VDD_SOC", 0.5, false)]);
        // Jetson Thor's sensor of its supply gives watts.
        let thor = tempfile::tempdir().expect("folder");
        write(
            thor.path(),
            &[
                ("class/hwmon/hwmon2/name", "ina238\n"),
                ("class/hwmon/hwmon2/power1_input", "7500000\n"),
                ("class/hwmon/hwmon3/name", "ina3221\n"),
                ("class/hwmon/hwmon3/in1_label", "VDD_GPU\n"),
                ("class/hwmon/hwmon3/in1_input", "5000\n"),
                ("class/hwmon/hwmon3/curr1_input", "1000\n"),
            ],
        );
        let found = super::rails(thor.path()).expect("rails are there");
        let found: Vec<_> = found.iter().map(|r| (r.name.as_str(), r.watts().expect("watts"), r.counted)).collect();
        assert_eq!(found, [("ina238", 7.5, true), ("VDD_GPU", 5.0, false)]);
        std::fs::remove_file(root.path().join("class/hwmon/hwmon1/curr1_input")).expect("remove");
        write(root.path(), &[("class/hwmon/hwmon1/curr2_input", "-\n")]);
        let why = super::rails(root.path()).expect_err("a rail that cannot be read");
        assert!(why.contains("curr2_input: expected a whole number"), "{why}");
    }
}

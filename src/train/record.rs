//! What a run leaves in its folder: configuration, provenance, metrics as CSV and TensorBoard events, pictures.

use super::checkpoint::Progress;
use super::config::TrainConfig;
use super::events::EventWriter;
use super::origin::Origin;
use super::validate::Validation;
use crate::data::disk::write_atomically;
use crate::export::trace::LIBTORCH_VERSION;
use crate::frame::network::device_name;
use crate::model::Task;
use anyhow::Context as _;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::Device;

/// The configuration as resolved.
pub const CONFIG: &str = "config.yaml";
/// What made the run.
pub const RUN: &str = "run.json";
/// Key of [`RUN`]: the time that the run's schedules were fitted to; null where they follow the steps.
const MINUTES: &str = "minutes";
/// Key of [`RUN`]: [`crate::data::source::Facts::focal_share`] of the camera that depth is learned from.
const FOCAL_SHARE: &str = "focal_length_share";
/// Key of [`RUN`]: what the data of each source are.
const DATA: &str = "data";
/// Key of [`RUN`]: by what the run was gone on with, where that was another program, device or number of threads.
const RESUMED: &str = "resumed";
const METRICS: &str = "metrics.csv";
/// Length of the progress bar, of which the share that is done is shown: steps of two phases take different times.
const LENGTH: u64 = 1000;

/// A run's records.
#[derive(Debug)]
pub struct Record {
    folder: PathBuf,
    metrics: fs::File,
    columns: Vec<String>,
    events: EventWriter,
    bar: indicatif::ProgressBar,
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Steps taken in all phases.
    pub total: usize,
    /// Index of the phase.
    pub phase: usize,
    /// How many phases there are.
    pub phases: usize,
    /// Share of the whole run that is done.
    pub share: f64,
    /// Time that its rest takes.
    pub left: Duration,
}

impl Reach {
    fn step(&self) -> String {
        let Self { total, phase, phases, .. } = self;
        let phase = if *phases > 1 { format!("  phase {} of {phases}", phase + 1) } else { String::new() };
        format!("step {total}{phase}")
    }

    fn left(&self) -> String {
        format!("{} left", indicatif::HumanDuration(self.left))
    }
}

/// Time that the rest of a run takes, of which the share that is done rose from `before` to `now` in the `elapsed` time.
pub fn time_left(elapsed: Duration, before: f64, now: f64) -> Duration {
    let left_s = elapsed.as_secs_f64() * (1.0 - now) / (now - before).max(1e-9);
    Duration::from_secs_f64(left_s.clamp(0.0, 1e9))
}

/// Numbers of a few steps.
#[derive(Debug)]
pub struct StepReport<'a> {
    /// How far the run is.
    pub reach: Reach,
    /// Now.
    pub learning_rate: f64,
    /// Mean loss of each head.
    pub losses: &'a [(Task, f64)],
    /// Mean norm of the gradient before it was shortened, where that is done.
    pub gradient_norm: Option<f64>,
    /// Crops a second.
    pub crops_per_s: f64,
    /// Share of the time in which the training waited for crops.
    pub waiting: f64,
}

impl StepReport<'_> {
    fn losses(&self) -> String {
        let losses: Vec<String> = self.losses.iter().map(|(task, v)| format!("{} {v:.4}", task.name())).collect();
        losses.join("  ")
    }

    fn pace(&self) -> String {
        format!("{:.1} crops/s  waiting {:.0}%", self.crops_per_s, 100.0 * self.waiting)
    }

    /// A line of the log.
    fn line(&self) -> String {
        format!(
            "{}  {:.1}%  {}  rate {:.2e}  {}  {}",
            self.reach.step(),
            100.0 * self.reach.share,
            self.losses(),
            self.learning_rate,
            self.pace(),
            self.reach.left()
        )
    }

    /// What stands beside the progress bar, behind what [`Record::advance`] puts there.
    fn beside_bar(&self) -> String {
        format!("{}  {}", self.losses(), self.pace())
    }
}

impl Record {
    /// Opens the records of a run; what an earlier part of the run wrote after the step of `progress`, or of a look that
    /// it does not count yet, is cut off.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn open(folder: &Path, config: &TrainConfig, progress: &Progress) -> anyhow::Result<Self> {
        let mut columns: Vec<String> =
            ["step", "phase", "learning_rate", "gradient_norm", "crops_per_s", "waiting"].map(String::from).to_vec();
        columns.extend(config.heads.iter().map(|h| format!("loss_{}", h.task.name())));
        for source in &config.sources {
            columns.extend(["miou", "abs_rel", "normal_deg"].map(|m| format!("{}/{m}", source.name)));
        }
        let path = folder.join(METRICS);
        let header = columns.join(",");
        let mut kept = vec![header.clone()];
        let done = progress.total;
        if done > 0 {
            if let Ok(text) = fs::read_to_string(&path) {
                // What comes after the last end of a line is a row that was being written.
                let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
                let before = |line: &&str| {
                    if line.split(',').count() != columns.len() {
                        return false;
                    }
                    let mut cells = line.split(',');
                    let step = cells.next().and_then(|s| s.parse::<usize>().ok());
                    // Only steps have a learning rate.
                    let last = if cells.nth(1) == Some("") { progress.looked } else { done };
                    step.is_some_and(|step| step <= last)
                };
                kept.extend(whole.lines().skip(1).filter(before).map(String::from));
            }
        }
        let context = || path.display().to_string();
        write_atomically(&path, |file| writeln!(file, "{}", kept.join("\n")))?;
        let metrics = fs::OpenOptions::new().append(true).open(&path).with_context(context)?;
        let events = EventWriter::create(folder, done as i64 + 1)?;
        let bar = if std::io::stderr().is_terminal() {
            let style = indicatif::ProgressStyle::with_template("{bar:30} {percent}%  {prefix}  {msg}")?;
            indicatif::ProgressBar::new(LENGTH).with_style(style)
        } else {
            indicatif::ProgressBar::hidden()
        };
        Ok(Self { folder: folder.into(), metrics, columns, events, bar })
    }

    fn row(&mut self, step: usize, phase: usize, values: &[(String, f64)]) -> anyhow::Result<()> {
        let cell = |column: &String| match column.as_str() {
            "step" => step.to_string(),
            "phase" => (phase + 1).to_string(),
            name => values.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_string()).unwrap_or_default(),
        };
        let row: Vec<String> = self.columns.iter().map(cell).collect();
        writeln!(self.metrics, "{}", row.join(",")).context(METRICS)?;
        for (name, value) in values {
            self.events.scalar(name, step as i64, *value as f32)?;
        }
        self.events.flush()?;
        Ok(())
    }

    /// One step was taken.
    pub fn advance(&self, reach: &Reach) {
        if !self.bar.is_hidden() {
            self.bar.set_position((reach.share.clamp(0.0, 1.0) * LENGTH as f64) as u64);
            self.bar.set_prefix(format!("{}  {}", reach.step(), reach.left()));
        }
    }

    /// A line that does not break the progress bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| log::info!("{text}"));
    }

    /// Records the numbers of a few steps.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn steps(&mut self, report: &StepReport<'_>) -> anyhow::Result<()> {
        if self.bar.is_hidden() {
            log::info!("{}", report.line());
        } else {
            self.bar.set_message(report.beside_bar());
        }
        let mut values = vec![
            ("learning_rate".to_string(), report.learning_rate),
            ("crops_per_s".into(), report.crops_per_s),
            ("waiting".into(), report.waiting),
        ];
        values.extend(report.gradient_norm.map(|n| ("gradient_norm".to_string(), n)));
        values.extend(report.losses.iter().map(|(task, v)| (format!("loss_{}", task.name()), *v)));
        self.row(report.reach.total, report.reach.phase, &values)
    }

    /// Records a look at the validation splits.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn validation(&mut self, step: usize, phase: usize, found: &[(String, Validation)]) -> anyhow::Result<()> {
        let mut values = Vec::new();
        for (source, v) in found {
            let measures = [("miou", v.miou), ("abs_rel", v.abs_rel), ("normal_deg", v.normal_deg)];
            values.extend(measures.into_iter().filter_map(|(m, v)| v.map(|v| (format!("{source}/{m}"), v))));
        }
        let text: Vec<String> = values.iter().map(|(name, v)| format!("{name} {v:.4}")).collect();
        self.say(&format!("step {step}  validation  {}", text.join("  ")));
        self.row(step, phase, &values)
    }

    /// Keeps a picture of predictions, as a file and as an event.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn picture(&mut self, step: usize, png: &[u8]) -> anyhow::Result<()> {
        let path = self.folder.join("predictions.png");
        write_atomically(&path, |file| file.write_all(png))?;
        self.events.image("predictions", step as i64, png)?;
        self.events.flush()?;
        Ok(())
    }

    /// The run is over.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// By what a part of a run is made.
fn made_by(device: Device) -> serde_json::Value {
    serde_json::json!({
        "semantic_depth": env!("CARGO_PKG_VERSION"),
        "libtorch": LIBTORCH_VERSION,
        "device": device_name(device),
        "threads": tch::get_num_threads(),
        "started": jiff::Timestamp::now().to_string(),
    })
}

/// Writes the configuration as resolved, and what made the run: versions, device, threads, seed, the time that it was
/// given, and the commit of the repository in which the configuration file lies, where it lies in one. That need not be
/// the commit of this program.
///
/// # Errors
/// The folder cannot be written to.
pub fn describe(
    folder: &Path,
    config: &TrainConfig,
    config_file: &Path,
    minutes: Option<f64>,
    device: Device,
) -> anyhow::Result<()> {
    let text = serde_yaml::to_string(config)?;
    write_atomically(&folder.join(CONFIG), |file| file.write_all(text.as_bytes()))?;
    let parent = config_file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").arg("-C").arg(parent).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let mut run = made_by(device);
    run["seed"] = config.seed.into();
    run[MINUTES] = minutes.into();
    run["configuration_file"] = config_file.display().to_string().into();
    run["git_commit"] = git(&["rev-parse", "HEAD"]).into();
    run["git_clean"] = git(&["status", "--porcelain", "--untracked-files=no"]).map(|s| s.is_empty()).into();
    run["command"] = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    write_run(folder, &run)
}

/// Adds to the record by what a run is gone on with, where that is not what its newest part was made by.
///
/// # Errors
/// The folder cannot be written to.
pub fn add_part(folder: &Path, device: Device) -> anyhow::Result<()> {
    let mut run = read_run(folder).unwrap_or_else(|| serde_json::json!({}));
    let mut parts = run[RESUMED].as_array().cloned().unwrap_or_default();
    let (newest, part) = (parts.last().unwrap_or(&run), made_by(device));
    if ["semantic_depth", "libtorch", "device", "threads"].iter().all(|key| newest[key] == part[key]) {
        return Ok(());
    }
    parts.push(part);
    run[RESUMED] = parts.into();
    write_run(folder, &run)
}

fn write_run(folder: &Path, run: &serde_json::Value) -> anyhow::Result<()> {
    Ok(write_atomically(&folder.join(RUN), |file| writeln!(file, "{run:#}"))?)
}

fn read_run(folder: &Path) -> Option<serde_json::Value> {
    let text = fs::read_to_string(folder.join(RUN)).ok()?;
    serde_json::from_str(&text).ok().filter(serde_json::Value::is_object)
}

/// The minutes that a run was begun with, `Some(None)` for a run by steps; `None` where its record does not say.
pub fn begun_minutes(folder: &Path) -> Option<Option<f64>> {
    read_run(folder)?.get(MINUTES).map(serde_json::Value::as_f64)
}

/// Adds to the record what camera depth is learned from, and what the sources' data are.
///
/// # Errors
/// The folder cannot be written to.
pub fn add_data(folder: &Path, focal_share: Option<f64>, origins: &[Origin]) -> anyhow::Result<()> {
    let mut run = read_run(folder).unwrap_or_else(|| serde_json::json!({}));
    run[FOCAL_SHARE] = focal_share.into();
    run[DATA] = serde_json::to_value(origins)?;
    write_run(folder, &run)
}

/// What the data were that a run was begun with; `None` where its record does not say.
pub fn origins(folder: &Path) -> Option<Vec<Origin>> {
    serde_json::from_value(read_run(folder)?[DATA].take()).ok()
}

/// Camera that depth of a run was learned from, as a focal share; `None` where its record has none, or there is no one camera.
pub fn focal_share(folder: &Path) -> Option<f64> {
    read_run(folder)?.get(FOCAL_SHARE)?.as_f64().filter(|f| f.is_finite() && *f > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        let text = "sources: [{name: a, data: {layout: cityscapes, root: x}}]\nphases: []";
        serde_yaml::from_str(text).expect("a configuration")
    }

    #[test]
    fn a_report_tells_losses_pace_and_what_is_left() {
        let losses = [(Task::Segmentation, 1.25), (Task::Depth, 0.5)];
        let reach = Reach { total: 40, phase: 0, phases: 1, share: 0.5, left: Duration::from_secs(120) };
        let report = StepReport {
            reach,
            learning_rate: 1e-3,
            losses: &losses,
            gradient_norm: None,
            crops_per_s: 12.34,
            waiting: 0.071,
        };
        let (losses, pace) = ("segmentation 1.2500  depth 0.5000", "12.3 crops/s  waiting 7%");
        let line = |step: &str| format!("{step}  50.0%  {losses}  rate 1.00e-3  {pace}  2 minutes left");
        assert_eq!(report.line(), line("step 40"));
        assert_eq!(report.beside_bar(), format!("{losses}  {pace}"));
        let second = StepReport { reach: Reach { phase: 1, phases: 3, ..reach }, ..report };
        assert_eq!(second.line(), line("step 40  phase 2 of 3"));
    }

    #[test]
    fn what_is_left_follows_from_what_this_process_has_done() {
        let left_s = |elapsed_s, before, now| time_left(Duration::from_secs(elapsed_s), before, now).as_secs_f64();
        for (found, expected) in [
            (left_s(10, 0.0, 0.05), 190.0),
            // Half of the run was done before it was resumed, whatever that took.
            (left_s(10, 0.5, 0.6), 40.0),
            (left_s(10, 0.5, 1.0), 0.0),
        ] {
            assert!((found - expected).abs() < 1e-6, "{found} and not {expected}");
        }
        assert!(left_s(0, 0.0, 0.0) <= 1e9 && left_s(10, 0.5, 0.5) <= 1e9, "before the first step");
    }

    #[test]
    fn metrics_are_cut_to_what_counts_in_a_file_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join(METRICS), folder.path().join("link"));
        let kept = "20,1,0.001,,12.5,0.1,0.5,0.25,,,\n";
        // Rows that are torn, and one that lacks its end alone: its last number may be cut.
        let torn = "20,1,0.0\n20,1,\n40,1,0.001,,12.5,0.1,0.5,0.25,,,\n20,1,,,,,,,0.5,0.2,3";
        let before = format!("step,phase,learning_rate\n{kept}{torn}");
        fs::write(&path, &before).expect("written");
        fs::hard_link(&path, &link).expect("linked");
        let progress = Progress { total: 20, looked: 20, ..Progress::default() };
        Record::open(folder.path(), &config(), &progress).expect("opened");
        let text = fs::read_to_string(&path).expect("metrics");
        assert!(
            text.starts_with("step,phase,") && text.ends_with(&format!("depth,a/miou,a/abs_rel,a/normal_deg\n{kept}")),
            "{text}"
        );
        assert_eq!(fs::read_to_string(&link).expect("read"), before, "nothing is written in place");
    }

    #[test]
    fn what_a_run_is_gone_on_with_is_noted_where_it_differs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        describe(path, &config(), &path.join("config.yaml"), None, Device::Cpu).expect("written");
        let run = || read_run(path).expect("a record");
        assert!(run()["device"] == "cpu" && run()["threads"].is_i64(), "{}", run());
        let resumed = |device| {
            add_part(path, device).expect("written");
            run()[RESUMED].as_array().map_or(0, Vec::len)
        };
        assert_eq!(resumed(Device::Cpu), 0);
        assert_eq!((resumed(Device::Cuda(1)), resumed(Device::Cuda(1)), resumed(Device::Cpu)), (1, 1, 2));
        let run = run();
        assert!(run["device"] == "cpu" && run[RESUMED][0]["device"] == "cuda:1", "{run}");
    }
}

//! What a run leaves in its folder: configuration, provenance, metrics as CSV and TensorBoard events, pictures.

use super::checkpoint::Progress;
use super::config::TrainConfig;
use super::events::EventWriter;
use super::validate::Validation;
use crate::data::disk::write_atomically;
use crate::model::Task;
use anyhow::Context as _;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

/// The configuration as resolved.
pub const CONFIG: &str = "config.yaml";
/// What made the run.
pub const RUN: &str = "run.json";
/// Key of [`RUN`]: the time that the run's schedules were fitted to; null where they follow the steps.
const MINUTES: &str = "minutes";
/// Key of [`RUN`]: [`crate::data::source::Facts::focal_share`] of the camera that depth is learned from.
const FOCAL_SHARE: &str = "focal_length_share";
const METRICS: &str = "metrics.csv";

/// A run's records.
#[derive(Debug)]
pub struct Record {
    folder: PathBuf,
    metrics: fs::File,
    columns: Vec<String>,
    events: EventWriter,
    bar: indicatif::ProgressBar,
}

/// Numbers of a few steps.
#[derive(Debug)]
pub struct StepReport<'a> {
    /// Index of the phase.
    pub phase: usize,
    /// Steps taken in all phases.
    pub total: usize,
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

impl Record {
    /// Opens the records of a run of `steps` steps; what an earlier part of the run wrote after the step of `progress`, or
    /// of a look that it does not count yet, is cut off.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn open(folder: &Path, config: &TrainConfig, progress: &Progress, steps: usize) -> anyhow::Result<Self> {
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
                let before = |line: &&str| {
                    let mut cells = line.split(',');
                    let step = cells.next().and_then(|s| s.parse::<usize>().ok());
                    // Only steps have a learning rate.
                    let last = if cells.nth(1) == Some("") { progress.looked } else { done };
                    step.is_some_and(|step| step <= last)
                };
                kept.extend(text.lines().skip(1).filter(before).map(String::from));
            }
        }
        let context = || path.display().to_string();
        fs::write(&path, kept.join("\n") + "\n").with_context(context)?;
        let metrics = fs::OpenOptions::new().append(true).open(&path).with_context(context)?;
        let events = EventWriter::create(folder, done as i64 + 1)?;
        let bar = if std::io::stderr().is_terminal() {
            let style = "{bar:30} {pos}/{len} {per_sec} {eta} left  {msg}";
            indicatif::ProgressBar::new(steps as u64)
                .with_style(indicatif::ProgressStyle::with_template(style)?)
                .with_position(done as u64)
        } else {
            indicatif::ProgressBar::hidden()
        };
        bar.reset_eta();
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
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// A line that does not break the progress bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| log::info!("{text}"));
    }

    /// Records the numbers of a few steps.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn steps(
        &mut self,
        report: &StepReport<'_>,
        share: f64,
        left: Option<std::time::Duration>,
    ) -> anyhow::Result<()> {
        let losses: Vec<String> = report.losses.iter().map(|(task, v)| format!("{} {v:.4}", task.name())).collect();
        let losses = losses.join("  ");
        if self.bar.is_hidden() {
            let left = left.map_or_else(String::new, |d| format!("  {} left", indicatif::HumanDuration(d)));
            log::info!(
                "step {}  {:.1}%  {losses}  rate {:.2e}  {:.1} crops/s  waiting {:.0}%{left}",
                report.total,
                100.0 * share,
                report.learning_rate,
                report.crops_per_s,
                100.0 * report.waiting
            );
        } else {
            self.bar.set_message(losses);
        }
        let mut values = vec![
            ("learning_rate".to_string(), report.learning_rate),
            ("crops_per_s".into(), report.crops_per_s),
            ("waiting".into(), report.waiting),
        ];
        values.extend(report.gradient_norm.map(|n| ("gradient_norm".to_string(), n)));
        values.extend(report.losses.iter().map(|(task, v)| (format!("loss_{}", task.name()), *v)));
        self.row(report.total, report.phase, &values)
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
        fs::write(&path, png).with_context(|| path.display().to_string())?;
        self.events.image("predictions", step as i64, png)?;
        self.events.flush()?;
        Ok(())
    }

    /// The run is over.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Writes the configuration as resolved, and what made the run: versions, seed, the time that it was given, and the commit
/// of the repository in which the configuration file lies, where it lies in one.
///
/// # Errors
/// The folder cannot be written to.
pub fn describe(folder: &Path, config: &TrainConfig, config_file: &Path, minutes: Option<f64>) -> anyhow::Result<()> {
    let context = || folder.display().to_string();
    fs::write(folder.join(CONFIG), serde_yaml::to_string(config)?).with_context(context)?;
    let parent = config_file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").arg("-C").arg(parent).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let run = serde_json::json!({
        "semantic_depth": env!("CARGO_PKG_VERSION"),
        "libtorch": crate::export::trace::LIBTORCH_VERSION,
        "seed": config.seed,
        MINUTES: minutes,
        "configuration_file": config_file.display().to_string(),
        "git_commit": git(&["rev-parse", "HEAD"]),
        "git_clean": git(&["status", "--porcelain", "--untracked-files=no"]).map(|s| s.is_empty()),
        "started": jiff::Timestamp::now().to_string(),
        "command": std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
    });
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

/// Adds to the record what camera depth is learned from.
///
/// # Errors
/// The folder cannot be written to.
pub fn add_focal_share(folder: &Path, focal_share: Option<f64>) -> anyhow::Result<()> {
    let mut run = read_run(folder).unwrap_or_else(|| serde_json::json!({}));
    run[FOCAL_SHARE] = focal_share.into();
    write_run(folder, &run)
}

/// What [`add_focal_share`] added to the record of a run; `None` where there is none, or no one camera.
pub fn focal_share(folder: &Path) -> Option<f64> {
    read_run(folder)?.get(FOCAL_SHARE)?.as_f64().filter(|f| f.is_finite() && *f > 0.0)
}

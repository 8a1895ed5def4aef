//! The demo: plays a drive on a ROS 2 graph, collects what the node publishes, scores, records and shows it.
//!
//! In the order of the work: [`drive`] and [`source`] (frames), [`process`] (the node), [`play`] (the graph), [`bag`] (the recording),
//! then, from the recording alone, scores and the contact [`sheet`]; [`report`] prints.
//!
//! Threads, all named: `demo-frames` reads ahead, `demo-ffmpeg` reads a video decoder's errors, `demo-player` publishes,
//! `demo-bag` writes, `demo-signals` waits for Ctrl-C; the caller's thread spins the ROS 2 node. Scores and pictures are
//! made after the drive, from the bag, so that they take nothing from the node while it is measured, and so that the bag is
//! proven to hold what is shown.

mod bag;
pub(crate) mod drive;
mod interfaces;
mod messages;
mod play;
mod process;
mod report;
mod sheet;
pub(crate) mod source;

use crate::data::classes::{self, Class, LabelSpace};
use crate::eval::answer::label_space;
use crate::eval::{Confusion, DepthErrors};
use crate::export::{self, Manifest};
use crate::installed;
use crate::interface::{ParameterSet, Value};
use crate::model::Task;
use crate::node::context;
use anyhow::{bail, ensure, Context};
use indicatif::{ProgressBar, ProgressStyle};
use messages::{stamp_ns, StampNs};
use play::{Graph, Played, Run, DEPTH, INPUT_IMAGE, LABELS, OVERLAY, TOPICS};
use process::NodeProcess;
use r2r::sensor_msgs::msg::Image;
use report::{NodeEnd, Report, Scores};
use serde::Serialize;
use sheet::{Row, Tile};
use source::Source;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows of the contact sheet.
const SHEET_ROWS: usize = 6;
/// Time that the node has to end after SIGINT.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Parameters of the node that the demo can have in one way only: name, value, why.
const NEEDED: [(&str, &str, &str); 13] = [
    ("cameras", "[]", "it plays one camera, which has no name"),
    ("image_transport", "raw", "it plays images that are not compressed"),
    ("output_size", "source", "it lays the outputs over the frames and their truth, pixel by pixel"),
    ("depth_encoding", "32FC1", "it reads depth in metres"),
    ("depth_far_classes", "[]", "it scores the depth of every pixel that has a true one"),
    ("autostart", "true", "it does not lead the node through its states"),
    ("build_only", "false", "it wants a node that answers"),
    ("use_sim_time", "false", "it stamps its frames with the time of now, and nobody publishes /clock"),
    ("outputs.labels", "true", SHOWN),
    ("outputs.depth", "true", SHOWN),
    ("outputs.overlay", "true", SHOWN),
    ("outputs.camera_info", "true", SHOWN),
    ("outputs.timing", "true", SHOWN),
];
const SHOWN: &str = "it collects this output";

/// What to do; every field is already valid.
#[derive(Debug, Clone)]
pub struct Options {
    /// `model.yaml`.
    pub model: PathBuf,
    /// The node's executable.
    pub node: PathBuf,
    /// `auto`, `cpu`, `cuda:N`.
    pub device: String,
    /// Further parameters of the node.
    pub parameters: Vec<(String, serde_yaml::Value)>,
    /// What to play.
    pub source: Source,
    /// At most so many frames.
    pub frames: usize,
    /// Frames a second, positive.
    pub rate_hz: f64,
    /// Folder for the results.
    pub out: PathBuf,
}

/// Plays, records, scores, shows; the report is also written to `report.json` and printed.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let Options { model, node, parameters, out, rate_hz, .. } = options;
    let table = check(model, node, parameters)?.classes;
    check_ros()?;
    let (stop, hurry) = stop_on_signals()?;

    let opened = open(options)?;
    let known = opened.known;
    opened.notes.iter().for_each(say);

    let prefixes = interfaces::Prefixes::from_env();
    let mut graph = Graph::join()?;
    let parameters = write_parameters(options)?;
    let arguments =
        ["--ros-args", "--params-file"].map(str::to_owned).into_iter().chain([parameters.display().to_string()]);
    let arguments: Vec<_> = arguments.collect();
    let mut process = NodeProcess::start(node, &arguments, &out.join("node.log"))?;
    say(format_args!("starting {} ...", node.display()));
    graph.wait_until_ready(&mut process, &stop)?;

    let recorder = graph.create_bag(&out.join("bag"), &prefixes)?;
    let mut show = Show::new(known);
    let run = graph.play(opened, *rate_hz, recorder.feed(), &mut process, &stop, |run| show.update(run));
    show.finish();
    // Whatever happened, the bag is closed and the node is ended in order.
    let end = process.interrupt(END_LIMIT);
    let bag = recorder.finish();
    let (run, bag, end) = (run?, bag?, end?);
    ensure!(!run.played.is_empty(), if run.interrupted { "interrupted" } else { "no frame was played" });
    if run.interrupted {
        say("interrupted: a report of what was played follows; once more ends it at once");
    }

    say("scoring and drawing from the bag ...");
    let rows = chosen(&run);
    let mut reading = Reading::new(&run, &rows, &table);
    let file = bag.folder.join("bag_0.mcap");
    bag::read::<anyhow::Error>(&file, |topic, data| {
        ensure!(!hurry.load(Ordering::Relaxed), "interrupted");
        reading.message(topic, data)
    })?;
    let sheet_path = out.join("contact_sheet.png");
    let mut report = report(options, &run, bag, end);
    report.scores = reading.scores();
    reading
        .sheet(&rows, &report)
        .save(&sheet_path)
        .with_context(|| format!("cannot write {}", sheet_path.display()))?;

    let json = serde_json::to_string_pretty(&report)?;
    let report_path = out.join("report.json");
    std::fs::write(&report_path, json).with_context(|| format!("cannot write {}", report_path.display()))?;
    say(format_args!("\n{}\n\n{}\n{}", report.table(), sheet_path.display(), report_path.display()));
    let log = out.join("node.log");
    ensure!(end.status.success(), "the node did not end cleanly after SIGINT: {}; see {}", end.status, log.display());
    ensure!(!run.interrupted, "interrupted after {} frames", run.played.len());
    ensure!(report.frames.answered > 0, "the node answered none of {} frames; see {}", run.played.len(), log.display());
    Ok(report)
}

/// Opens what is to be played, then makes the folder for the results: none is left behind where there is nothing to play.
fn open(Options { source, frames, rate_hz, out, .. }: &Options) -> anyhow::Result<source::Opened> {
    say("reading frames ahead ...");
    let opened = source.open(*frames, *rate_hz)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    Ok(opened)
}

/// Whether the files are there, and the model and the node's parameters are such as the demo can do with: asked before the long
/// work of rendering, too. Returns the model's manifest.
///
/// # Errors
/// The file, what the model lacks, or the parameter, with the value that it needs and why.
pub fn check(model: &Path, node: &Path, parameters: &[(String, serde_yaml::Value)]) -> anyhow::Result<Manifest> {
    check_parameters(parameters)?;
    ensure!(model.is_file(), "there is no model {}; export one with `semantic_depth export`", model.display());
    ensure!(node.is_file(), "there is no node {}; build it, or name it with --node", node.display());
    let manifest = export::load(model)?.manifest;
    ensure!(
        manifest.answers(Task::Segmentation) && manifest.answers(Task::Depth),
        "the demo shows labels and depth, and {} does not answer both; {}",
        model.display(),
        elsewhere(&manifest.classes)
    );
    Ok(manifest)
}

/// What else shows what a model answers.
fn elsewhere(table: &[Class]) -> &'static str {
    match label_space(table, &[LabelSpace::TrainIds, LabelSpace::Categories]) {
        Ok(_) => "start semantic_depth_node with it, or judge it with `semantic_depth evaluate`",
        // evaluate would refuse it.
        Err(_) => "start semantic_depth_node with it",
    }
}

/// Starts ROS for this process, which would otherwise fail only after the rendering: there may be no such domain, or no place for
/// the log.
///
/// # Errors
/// As [`context::create`].
pub(crate) fn check_ros() -> anyhow::Result<()> {
    prepare_environment();
    context::create_for_tool().map(drop)
}

fn check_parameters(parameters: &[(String, serde_yaml::Value)]) -> anyhow::Result<()> {
    for (name, value) in parameters {
        ensure!(name != "model_path", "--param model_path: use --model, which the report names");
        let Some((_, needed, why)) = NEEDED.iter().find(|(known, ..)| known == name) else { continue };
        let is_it = serde_yaml::from_str::<serde_yaml::Value>(needed).is_ok_and(|needed| needed == *value);
        ensure!(
            is_it,
            "--param {name}: the demo needs {needed}: {why}; start semantic_depth_node by itself to see it otherwise"
        );
    }
    // By the node's own table, long before the node is there. What is of no type that a parameter has is left to it.
    let given: Option<Vec<_>> = parameters.iter().map(|(name, value)| Some((name.clone(), of_yaml(value)?))).collect();
    if let Some(Err(problems)) = given.map(ParameterSet::new) {
        bail!("--param: {problems}");
    }
    Ok(())
}

fn of_yaml(value: &serde_yaml::Value) -> Option<Value> {
    use serde_yaml::Value as Yaml;
    fn all<T>(list: &[Yaml], one: impl Fn(&Yaml) -> Option<T>) -> Option<Vec<T>> {
        list.iter().map(one).collect()
    }
    match value {
        Yaml::Bool(value) => Some(Value::Bool(*value)),
        Yaml::Number(number) => number.as_i64().map(Value::Integer).or(number.as_f64().map(Value::Double)),
        Yaml::String(text) => Some(Value::String(text.clone())),
        // As rcl reads it.
        Yaml::Sequence(list) if list.is_empty() => Some(Value::NotSet),
        Yaml::Sequence(list) => all(list, Yaml::as_bool)
            .map(Value::Bools)
            .or_else(|| all(list, Yaml::as_i64).map(Value::Integers))
            .or_else(|| all(list, Yaml::as_f64).map(Value::Doubles))
            .or_else(|| all(list, |text| text.as_str().map(String::from)).map(Value::Strings)),
        _ => None,
    }
}

/// A line on standard output. The results are in files: a pipe that was closed must not end the drive.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn report(options: &Options, run: &Run, bag: bag::BagSummary, end: process::End) -> Report {
    let (stages, age) = report::stages(&run.timings);
    let frames = report::frames(run);
    let hz = |count: u64| if run.play_s > 0.0 { count.saturating_sub(1) as f64 / run.play_s } else { 0.0 };
    // The answers' own span: the last ones come after the last frame was played.
    let answered_at = run.timings.iter().map(|t| stamp_ns(&t.header.stamp) + t.age_ns);
    let answer_s = match (answered_at.clone().min(), answered_at.max()) {
        (Some(first), Some(last)) => (last - first) as f64 / 1e9,
        _ => 0.0,
    };
    let last = run.timings.last();
    // Of one that is given twice, the node has the last.
    let max_rate_hz = options.parameters.iter().rfind(|(name, _)| name == "max_rate_hz");
    Report {
        source: match &options.source {
            Source::Drive(path) => format!("drive {}", path.display()),
            Source::Images(path) => format!("images {}", path.display()),
            Source::Video(path) => format!("video {}", path.display()),
        },
        model: options.model.display().to_string(),
        backend: last.map_or_else(String::new, |t| t.backend.clone()),
        device: last.map_or_else(String::new, |t| t.device.clone()),
        rate_hz: options.rate_hz,
        max_rate_hz: max_rate_hz.and_then(|(_, value)| value.as_f64()).filter(|hz| *hz > 0.0),
        played_hz: hz(frames.played),
        answered_hz: if answer_s > 0.0 { frames.answered.saturating_sub(1) as f64 / answer_s } else { 0.0 },
        messages: report::messages(run),
        frames,
        strangers: run.strangers,
        stages,
        age,
        scores: None,
        bag,
        node_end: NodeEnd { exit_code: end.status.code(), took_s: end.took.as_secs_f64() },
    }
}

/// Flags that Ctrl-C and SIGTERM raise, the first time and the second time, so that the node is ended and the bag closed on
/// the way out.
fn stop_on_signals() -> anyhow::Result<(Arc<AtomicBool>, Arc<AtomicBool>)> {
    use tokio::signal::unix::{signal, SignalKind};
    let (stop, hurry) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let flags = [Arc::clone(&stop), Arc::clone(&hurry)];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(_guard);
    std::thread::Builder::new().name("demo-signals".into()).spawn(move || {
        for flag in flags {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            flag.store(true, Ordering::Relaxed);
        }
    })?;
    Ok((stop, hurry))
}

/// What the middleware needs for large images on one machine, where the user has not chosen otherwise.
/// It is inherited by the node.
fn prepare_environment() {
    if std::env::var_os("ROS_AUTOMATIC_DISCOVERY_RANGE").is_none() {
        std::env::set_var("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST");
    }
    // Transports that the user chose are not looked at beside a profile with transports of its own.
    let chosen = ["FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"];
    if chosen.into_iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    match installed::find("config/fastdds.xml") {
        Ok(file) => std::env::set_var("FASTRTPS_DEFAULT_PROFILES_FILE", file),
        Err(e) => log::warn!("with its default shared memory, Fast DDS loses many large images: {e}"),
    }
}

/// The node's executable where none is named: beside this one.
pub fn default_node() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    Ok(program.with_file_name("semantic_depth_node"))
}

#[derive(Serialize)]
struct Parameters {
    #[serde(rename = "ros__parameters")]
    parameters: BTreeMap<String, serde_yaml::Value>,
}

/// A parameter file rather than `-p`: a path may hold characters that YAML reads as something else.
fn write_parameters(options: &Options) -> anyhow::Result<PathBuf> {
    let model = std::path::absolute(&options.model)?;
    let model = model.to_str().context("the model's path is not UTF-8, which a ROS parameter must be")?.to_owned();
    let own = [("model_path", model), ("device", options.device.clone())];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), serde_yaml::Value::from(value)));
    let parameters = own.chain(options.parameters.iter().cloned()).collect();
    let file = BTreeMap::from([("/**", Parameters { parameters })]);
    let path = options.out.join("node.param.yaml");
    std::fs::write(&path, serde_yaml::to_string(&file)?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A bar on a terminal, a line every two seconds elsewhere.
struct Show {
    bar: Option<ProgressBar>,
    known: Option<usize>,
    last_line: Instant,
}

impl Show {
    fn new(known: Option<usize>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = known.map_or_else(ProgressBar::no_length, |n| ProgressBar::new(n as u64));
            let style = ProgressStyle::with_template("playing {bar:40} {pos}/{len}  {msg}  {elapsed}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, known, last_line: Instant::now() }
    }

    fn update(&mut self, run: &Run) {
        let (played, answered) = (run.played.len(), run.timings.len());
        match &self.bar {
            Some(bar) => {
                bar.set_position(played as u64);
                bar.set_message(format!("{answered} answered"));
            }
            None if self.last_line.elapsed() > Duration::from_secs(2) => {
                self.last_line = Instant::now();
                let of = self.known.map_or_else(String::new, |n| format!(" of {n}"));
                say(format_args!("played {played}{of} frames, {answered} answered"));
            }
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// The frames of the contact sheet: evenly spread over those that were answered in full.
fn chosen(run: &Run) -> Vec<&Played> {
    let complete: Vec<_> = run.played.iter().filter(|p| run.complete(p.stamp_ns)).collect();
    let rows = complete.len().min(SHEET_ROWS);
    // The first and the last are always among them.
    (0..rows).map(|i| complete[if rows == 1 { 0 } else { i * (complete.len() - 1) / (rows - 1) }]).collect()
}

/// What is taken from the bag in one pass.
struct Reading<'a> {
    played: HashMap<StampNs, &'a Played>,
    /// By frame of the sheet: the tiles that the messages give, by topic.
    tiles: BTreeMap<StampNs, [Option<Tile>; TOPICS.len()]>,
    /// By frame of the sheet: true labels and true depth.
    true_tiles: BTreeMap<StampNs, [Option<Tile>; 2]>,
    confusion: Confusion,
    depth_errors: DepthErrors,
    /// Frames whose labels and whose depth were scored.
    scored: [u64; 2],
    /// The model's classes.
    table: &'a [Class],
    /// Those of true labels: the model's, or Cityscapes' beside one of other classes.
    true_table: Cow<'a, [Class]>,
    /// Of a model of other classes: the frames with true labels, which cannot be compared with its.
    unscored: Option<u64>,
}

impl<'a> Reading<'a> {
    fn new(run: &'a Run, rows: &[&Played], table: &'a [Class]) -> Self {
        let is_cityscapes = classes::label_space(table) == Ok(LabelSpace::TrainIds);
        Self {
            table,
            true_table: if is_cityscapes { Cow::Borrowed(table) } else { Cow::Owned(classes::cityscapes()) },
            unscored: (!is_cityscapes).then_some(0),
            played: run.played.iter().map(|p| (p.stamp_ns, p)).collect(),
            tiles: rows.iter().map(|p| (p.stamp_ns, Default::default())).collect(),
            true_tiles: rows.iter().map(|p| (p.stamp_ns, Default::default())).collect(),
            confusion: Confusion::new(classes::SCORED_CLASSES),
            depth_errors: DepthErrors::new(),
            scored: [0; 2],
        }
    }

    fn message(&mut self, topic: &str, data: &[u8]) -> anyhow::Result<()> {
        let Some(index) = TOPICS.iter().position(|(name, _)| *name == topic) else { return Ok(()) };
        if ![INPUT_IMAGE, LABELS, DEPTH, OVERLAY].contains(&index) {
            return Ok(());
        }
        let image: Image = messages::read(data).with_context(|| format!("in the bag, {topic}"))?;
        let stamp_ns = stamp_ns(&image.header.stamp);
        let Some(played) = self.played.get(&stamp_ns) else { return Ok(()) };
        let (width, height) = (image.width, image.height);
        ensure!(
            (width, height) == (played.width, played.height),
            "{topic}: the answer to {} is {width}x{height}, the frame is {}x{}",
            played.name,
            played.width,
            played.height
        );
        let tile = self.tiles.get_mut(&stamp_ns);
        let picture = match (index, image.encoding.as_str()) {
            (INPUT_IMAGE | OVERLAY, "rgb8") => {
                tile.is_some().then(|| Tile::rgb(width, height, image.step, &image.data)).flatten()
            }
            (LABELS, "mono8") => {
                let labels = tight(&image, 1)?;
                if let Some((truth, true_width, true_height)) =
                    played.truth.as_ref().map(|t| t.labels()).transpose()?.flatten()
                {
                    same_size(&played.name, (width, height), (true_width, true_height))?;
                    match &mut self.unscored {
                        Some(frames) => *frames += 1,
                        None => {
                            self.confusion.add(&truth, &labels);
                            self.scored[0] += 1;
                        }
                    }
                    if let Some(tiles) = self.true_tiles.get_mut(&stamp_ns) {
                        tiles[0] = Some(Tile::labels(width, height, &truth, &self.true_table));
                    }
                }
                tile.is_some().then(|| Tile::labels(width, height, &labels, self.table))
            }
            (DEPTH, "32FC1") => {
                let depth_m = depth_m(&image)?;
                if let Some((truth, true_width, true_height)) =
                    played.truth.as_ref().map(|t| t.depth_m()).transpose()?.flatten()
                {
                    same_size(&played.name, (width, height), (true_width, true_height))?;
                    self.depth_errors.add(&truth, &depth_m);
                    self.scored[1] += 1;
                    if let Some(tiles) = self.true_tiles.get_mut(&stamp_ns) {
                        tiles[1] = Some(Tile::depth(width, height, &truth));
                    }
                }
                tile.is_some().then(|| Tile::depth(width, height, &depth_m))
            }
            (_, encoding) => bail!("{topic}: the encoding is `{encoding}`"),
        };
        if let (Some(tiles), Some(picture)) = (self.tiles.get_mut(&stamp_ns), picture) {
            tiles[index] = Some(picture);
        }
        Ok(())
    }

    /// Of all answers in the bag whose frame has a truth.
    fn scores(&self) -> Option<Scores> {
        let [labels_frames, depth_frames] = self.scored;
        let number = |v: f64| v.is_finite().then_some(v);
        let depth = self.depth_errors.report();
        let names = classes::cityscapes();
        let unscored_labels_frames = self.unscored.unwrap_or(0);
        (labels_frames + depth_frames + unscored_labels_frames > 0).then(|| Scores {
            labels_frames,
            depth_frames,
            unscored_labels_frames,
            miou: number(self.confusion.miou()),
            pixel_accuracy: number(self.confusion.pixel_accuracy()),
            iou: (0..classes::SCORED_CLASSES)
                .filter_map(|c| Some((names[c].name.clone(), self.confusion.iou(c)?)))
                .collect(),
            abs_rel: number(depth.abs_rel),
            rmse_m: number(depth.rmse_m),
            delta1: number(depth.delta[0]),
        })
    }

    fn sheet(mut self, rows: &[&Played], report: &Report) -> image::RgbImage {
        let with_truth = rows.iter().any(|p| p.truth.is_some());
        let mut columns = vec!["frame", "labels", "depth", "overlay"];
        if with_truth {
            let labels = if self.unscored.is_some() { "true labels, in Cityscapes' colours" } else { "true labels" };
            columns.extend([labels, "true depth"]);
        }
        let rows: Vec<_> = rows
            .iter()
            .map(|played| {
                let mut tiles = self.tiles.remove(&played.stamp_ns).unwrap_or_default();
                let mut tiles: Vec<_> = [INPUT_IMAGE, LABELS, DEPTH, OVERLAY].map(|i| tiles[i].take()).into();
                if with_truth {
                    tiles.extend(self.true_tiles.remove(&played.stamp_ns).unwrap_or_default());
                }
                let stamp_s = played.stamp_ns as f64 / 1e9;
                Row {
                    caption: format!("{}  {}x{}  stamp {stamp_s:.3}", played.name, played.width, played.height),
                    tiles,
                }
            })
            .collect();
        let title = format!("semantic_depth: {}, {} on {}", report.source, report.backend, report.device);
        sheet::compose(&title, &columns, &rows, self.table)
    }
}

fn same_size(name: &str, answer: (u32, u32), truth: (u32, u32)) -> anyhow::Result<()> {
    ensure!(answer == truth, "{name}: the truth is {}x{}, the picture {}x{}", truth.0, truth.1, answer.0, answer.1);
    Ok(())
}

/// The rows of an image without their padding; `pixel` bytes a pixel.
fn tight<'a>(image: &'a Image, pixel: usize) -> anyhow::Result<Cow<'a, [u8]>> {
    let (row, step, height) = (image.width as usize * pixel, image.step as usize, image.height as usize);
    let needed = step * height;
    ensure!(
        step >= row && image.data.len() >= needed,
        "an image of {}x{} with step {step} has {} bytes, expected {needed}",
        image.width,
        image.height,
        image.data.len()
    );
    if step == row {
        return Ok(Cow::Borrowed(&image.data[..needed]));
    }
    Ok(Cow::Owned(image.data.chunks_exact(step).take(height).flat_map(|r| &r[..row]).copied().collect()))
}

/// Metres, `[height, width]`, of a little-endian `32FC1` image.
fn depth_m(image: &Image) -> anyhow::Result<Vec<f32>> {
    let bytes = tight(image, 4)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Such a drive would fail at its end, or wait for topics that never come.
    #[test]
    fn parameters_that_the_demo_cannot_show_are_refused_at_once() {
        let asked = |name: &str, value: &str| {
            let value: serde_yaml::Value = serde_yaml::from_str(value).expect("YAML");
            let parameters = [(name.to_owned(), value)];
            check_parameters(&parameters).map_err(|error| error.to_string())
        };
        for (name, other, needed) in [
            ("output_size", "network", "source"),
            ("depth_encoding", "16UC1", "32FC1"),
            ("depth_far_classes", "[sky]", "[]"),
            ("cameras", "[front]", "[]"),
            ("image_transport", "compressed", "raw"),
            ("autostart", "false", "true"),
            ("build_only", "true", "false"),
            ("use_sim_time", "true", "false"),
            ("outputs.depth", "false", "true"),
        ] {
            let error = asked(name, other).expect_err(name);
            assert!(error.contains(name) && error.contains(&format!("the demo needs {needed}: ")), "{error}");
            assert_eq!(asked(name, needed), Ok(()), "what it needs may be said");
        }
        assert_eq!(asked("backend", "torchscript"), Ok(()));
        // The report names the model of --model.
        let error = asked("model_path", "/a/model.yaml").expect_err("another model");
        assert!(error.contains("--param model_path") && error.contains("use --model"), "{error}");
        let unknown = NEEDED.iter().find(|(name, ..)| crate::interface::parameters::spec(name).is_none());
        assert_eq!(unknown, None, "the node has no such parameter");
    }

    #[test]
    fn nothing_to_play_leaves_no_folder() {
        let place = tempfile::tempdir().expect("a folder");
        let out = place.path().join("out");
        let options = Options {
            model: PathBuf::new(),
            node: PathBuf::new(),
            device: "cpu".into(),
            parameters: Vec::new(),
            source: Source::Images(place.path().join("nowhere")),
            frames: 1,
            rate_hz: 1.0,
            out: out.clone(),
        };
        assert!(open(&options).is_err() && !out.exists());
        image::RgbImage::new(4, 2).save(place.path().join("a.png")).expect("written");
        open(&Options { source: Source::Images(place.path().into()), ..options }).expect("one frame");
        assert!(out.is_dir());
    }

    /// A foreign model's labels were drawn and scored as if its ids were train ids.
    #[test]
    fn labels_are_compared_with_the_truth_only_in_cityscapes_classes() {
        use crate::data::cityscapes::{Part, Sample};
        use r2r::WrappedTypesupport as _;
        let folder = tempfile::tempdir().expect("temporary folder");
        let sample = Sample::named(folder.path(), "val", "ulm", "a");
        sample.write_picture(Part::Left, &image::RgbImage::new(4, 2)).expect("written");
        sample.write_labels(&[0; 8], 4, 2).expect("written");
        let frame = Source::Drive(folder.path().into()).open(1, 1.0).expect("opened").frames.recv().expect("one");
        let truth = frame.expect("read").truth;
        let played = vec![Played { name: "a".into(), stamp_ns: 0, width: 4, height: 2, truth }];
        let run = Run {
            played,
            answers: BTreeMap::new(),
            timings: vec![],
            counts: messages::Counts::default(),
            play_s: 0.0,
            strangers: 0,
            interrupted: false,
        };
        let labels =
            Image { height: 2, width: 4, step: 4, encoding: "mono8".into(), data: vec![0; 8], ..Default::default() };
        let labels = labels.to_serialized_bytes().expect("a message");
        let scores = |table: &[Class]| {
            let mut reading = Reading::new(&run, &[], table);
            reading.message(TOPICS[LABELS].0, &labels).expect("read");
            reading.scores().expect("there is truth")
        };
        let own = classes::cityscapes();
        let found = scores(&own[..classes::SCORED_CLASSES]);
        assert_eq!((found.labels_frames, found.unscored_labels_frames, found.miou), (1, 0, Some(1.0)));
        let other: Vec<_> = (0..20).map(|id| Class { id, name: format!("thing {id}"), color: [1; 3] }).collect();
        let found = scores(&other);
        assert_eq!((found.labels_frames, found.unscored_labels_frames, found.miou), (0, 1, None));
        assert!(elsewhere(&own).contains("evaluate") && !elsewhere(&other).contains("evaluate"));
    }
}

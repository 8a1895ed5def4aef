//! `semantic_depth evaluate`

use super::progress::Pieces;
use crate::causes::in_line;
use crate::data::cityscapes::{DepthFiles, LabelFiles};
use crate::data::classes::LabelSpace;
use crate::data::disk::{self, write_atomically, DataError};
use crate::data::frame::Decoded;
use crate::data::source::{self, Facts, Groups, Item, Source};
use crate::eval::ahead::ahead;
use crate::eval::answer::{label_space, Answerer};
use crate::eval::depth::JUDGED_M;
use crate::eval::distribution::NEAREST_M;
use crate::eval::ground::GroundReport;
use crate::eval::judge::FrameScore;
use crate::eval::leak::LeakReport;
use crate::eval::normals::NormalReport;
use crate::eval::pictures::{choose, exhibit};
use crate::eval::report::{page, Gallery, Head};
use crate::eval::summary::{Depth, Segmentation, Summary};
use crate::eval::{ClassTable, DepthReport, Judge};
use crate::frame::camera::DepthScaling;
use crate::frame::geometry::{Placement, ResizeMode};
use crate::frame::pipeline::{Outputs, Pipeline};
use crate::model::Task;
use anyhow::{anyhow, bail, Context as _};
use serde::{Serialize, Serializer};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Most threads that read frames ahead; each holds up to two.
const MOST_READERS: usize = 8;
/// So many frames that cannot be read are named in an error.
const NAMED: usize = 5;

/// How a data set lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Layout {
    /// Cityscapes' folders.
    Cityscapes,
    /// Pictures in one folder, class ids in another, and a mapping file.
    Folder,
}

/// Arguments of `semantic_depth evaluate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: its folder, its model.yaml, or the name of an installed one.
    #[arg(long)]
    model: PathBuf,
    /// Root of the data set.
    #[arg(long)]
    data: PathBuf,
    /// A folder of the data set's pictures, such as train, val or test.
    #[arg(long, default_value = "test")]
    split: String,
    /// How the data set lies on disk. folder: pictures and 8-bit class ids, paired by name; needs --mapping.
    #[arg(long, value_enum, default_value = "cityscapes")]
    layout: Layout,
    /// Layout cityscapes: which files the depth comes from: auto (exactDepth, else disparity), disparity, none, or the name
    /// of a folder [default: auto].
    #[arg(long, value_name = "auto|disparity|none|NAME")]
    depth: Option<DepthFiles>,
    /// Layout cityscapes: the labels are label ids, train ids or none [default: label_ids].
    #[arg(long, value_name = "label_ids|train_ids|none", value_parser = parse_label_files)]
    label_files: Option<LabelFiles>,
    /// Share of the rows at the bottom that are not judged: the vehicle that carries the camera. The model sees them, as in
    /// the node.
    #[arg(long, allow_negative_numbers = true, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    remove_bottom: f64,
    /// Layout folder: YAML file that says what the class ids are, such as config/data/camvid.yaml. It is judged in
    /// these classes.
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Layout folder: where the pictures are below the root; {split} stands for the split [default: {split}/images].
    #[arg(long, value_name = "PATTERN")]
    images: Option<String>,
    /// Layout folder: where the class ids are, likewise [default: {split}/labels].
    #[arg(long, value_name = "PATTERN")]
    labels: Option<String>,
    #[command(flatten)]
    runner: super::Runner,
    /// What depth is multiplied with: camera_info (focal length of the frame's camera by the model's; needs camera
    /// files), none, or a number. By default camera_info for each frame that has a camera file.
    #[arg(long, allow_negative_numbers = true, value_name = "camera_info|none|FACTOR")]
    depth_scaling: Option<DepthScaling>,
    /// How a frame becomes the network's input, as the node's parameter: stretch, letterbox or crop (whose outside is
    /// answered by nothing and counts as wrong).
    #[arg(long, default_value = "stretch")]
    resize_mode: ResizeMode,
    /// Depth is judged where the truth is nearer than this, in metres.
    #[arg(long, allow_negative_numbers = true, value_name = "METRES", default_value_t = JUDGED_M.1, value_parser = parse_cap)]
    cap: f32,
    /// Print the figures by class, distance and image row, too.
    #[arg(long)]
    verbose: bool,
    /// Write all figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write report.html with plots and pictures into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// With --report: show this many of the worst, of the best and of evenly chosen frames.
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 4)]
    pictures: usize,
}

fn parse_label_files(text: &str) -> Result<LabelFiles, String> {
    // As in training configurations.
    serde_yaml::from_str(text).map_err(|_| format!("expected label_ids, train_ids or none, found '{text}'"))
}

fn parse_cap(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(cap) if cap.is_finite() && cap > NEAREST_M => Ok(cap),
        _ => Err(format!("expected metres above {NEAREST_M}, found '{text}'")),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err(format!("expected a share of 0 or more and less than 1, found '{text}'")),
    }
}

impl Args {
    fn source(&self) -> anyhow::Result<Source> {
        let folder_only = [
            ("--mapping", self.mapping.is_some()),
            ("--images", self.images.is_some()),
            ("--labels", self.labels.is_some()),
        ];
        match (self.layout, &self.mapping) {
            (Layout::Cityscapes, _) => {
                if let Some((name, _)) = folder_only.iter().find(|(_, given)| *given) {
                    bail!("{name} is of the layout folder; add --layout folder");
                }
                Ok(Source::Cityscapes {
                    root: self.data.clone(),
                    labels: self.label_files.unwrap_or_default(),
                    depth: self.depth.clone().unwrap_or_default(),
                    remove_bottom: 0.0,
                })
            }
            (Layout::Folder, _) if self.depth.is_some() || self.label_files.is_some() => {
                bail!("--depth and --label-files are of the layout cityscapes")
            }
            (Layout::Folder, None) => bail!("--layout folder needs --mapping FILE, which says what the class ids are"),
            (Layout::Folder, Some(mapping)) => Ok(Source::Folder {
                root: self.data.clone(),
                images: self.images.clone().unwrap_or_else(source::images),
                labels: self.labels.clone().unwrap_or_else(source::labels),
                mapping: mapping.clone(),
                focal_px: None,
                remove_bottom: 0.0,
            }),
        }
    }

    /// A whole frame, with the truth that is judged.
    fn frame(&self, item: &Item) -> Result<Decoded, DataError> {
        let mut frame = item.decode()?;
        frame.forget_bottom(self.remove_bottom);
        Ok(frame)
    }

    /// What would fail only after the whole work otherwise.
    fn check_outputs(&self) -> anyhow::Result<()> {
        if let Some(report) = &self.report {
            fs::create_dir_all(report).with_context(|| format!("--report {}", report.display()))?;
            super::check_file("--report", Some(&report.join("report.html")))?;
        }
        super::check_file("--json", self.json.as_deref())
    }
}

/// What was asked for and what answered: figures of two runs are comparable where these are the same.
#[derive(Debug, Serialize)]
struct Judged {
    /// The options, by their names; what does not belong to the layout is left out.
    #[serde(serialize_with = "as_object")]
    options: Vec<(&'static str, String)>,
    backend: &'static str,
    precision: &'static str,
    /// Of the files that the model was made from.
    weights_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refinement_sha256: Option<String>,
    package_version: &'static str,
    /// UTC, ISO 8601.
    date: String,
}

fn as_object<S: Serializer>(pairs: &[(&'static str, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

impl Judged {
    fn new(args: &Args, source: &Source, pipeline: &Pipeline) -> Self {
        let mut options = Vec::new();
        match source {
            Source::Folder { images, labels, mapping, .. } => options.extend([
                ("layout", "folder".to_owned()),
                ("mapping", mapping.display().to_string()),
                ("images", images.clone()),
                ("labels", labels.clone()),
            ]),
            Source::Cityscapes { labels, depth, .. } => {
                // In the words of the option, which are those of training configurations.
                let labels = serde_json::to_value(labels).ok().and_then(|name| Some(name.as_str()?.to_owned()));
                options.push(("layout", "cityscapes".into()));
                options.push(("depth", depth.to_string()));
                options.push(("label_files", labels.unwrap_or_default()));
            }
        }
        let scaling = args.depth_scaling.map_or("camera_info where there is a camera file".into(), |s| s.to_string());
        options.push(("remove_bottom", args.remove_bottom.to_string()));
        options.push(("resize_mode", args.resize_mode.name().into()));
        options.push(("depth_scaling", scaling));
        options.push(("cap", args.cap.to_string()));
        let made = &pipeline.manifest().provenance;
        let date = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
        Self {
            options,
            backend: pipeline.backend(),
            precision: pipeline.precision_name(),
            weights_sha256: made.weights_sha256.clone(),
            refinement_sha256: made.refinement_sha256.clone(),
            package_version: env!("CARGO_PKG_VERSION"),
            date: date.to_string(),
        }
    }

    /// The same for people: (what, value).
    fn facts(&self) -> Vec<(String, String)> {
        let options: Vec<_> = self.options.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mut facts = vec![
            ("Judged with".into(), options.join(", ")),
            ("Run by".into(), format!("{}, {}", self.backend, self.precision)),
            ("Weights' sha256".into(), self.weights_sha256.clone()),
        ];
        facts.extend(self.refinement_sha256.iter().map(|hash| ("Refinement's sha256".into(), hash.clone())));
        facts.push(("Made by".into(), format!("semantic_depth {} evaluate, {}", self.package_version, self.date)));
        facts
    }
}

/// The figures as JSON.
#[derive(Debug, Serialize)]
struct Figures<'a> {
    model: &'a str,
    data: String,
    split: &'a str,
    device: &'a str,
    judged: &'a Judged,
    frames: usize,
    /// Names of frames that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<&'a str>,
    miou: Option<f64>,
    pixel_accuracy: Option<f64>,
    /// In the order of the classes; null for a class that does not occur.
    iou: Vec<Option<f64>>,
    /// Over all pixels, without median scaling.
    depth: Option<DepthReport>,
    /// Mean over the frames of what depth was multiplied with.
    depth_factor: f64,
    segmentation: Option<&'a Segmentation>,
    depth_detail: Option<&'a Depth>,
    leak: Option<&'a LeakReport>,
    ground: Option<&'a GroundReport>,
    normals: Option<NormalReport>,
    per_frame: &'a [FrameScore],
}

/// Runs the verb: every frame goes the node's own way (`frame::pipeline`) and is scored at its own size.
pub fn run(args: Args) -> anyhow::Result<()> {
    // As the node.
    crate::spin::little();
    let source = args.source()?;
    args.check_outputs()?;
    let mut groups = Groups::default();
    let items = source.index(&args.split, &mut groups)?;
    // A broken file is an error now and not after half of the work.
    let facts = source::check_all(&items)?;
    let pipeline = Pipeline::load(&args.model, &args.runner.load_options(1))?;
    if pipeline.manifest().focal_length_px().is_some() {
        check_focal_lengths(&items, &facts, args.depth_scaling)?;
    }
    let (has_classes, has_depth) =
        (pipeline.manifest().answers(Task::Segmentation), pipeline.manifest().answers(Task::Depth));
    let space = label_space(&pipeline.manifest().classes, &[LabelSpace::TrainIds, LabelSpace::Categories]);
    let of_categories = space.map_err(|e| anyhow!("{}: {e}", args.model.display()))? == Some(LabelSpace::Categories);
    let table = match of_categories {
        true => ClassTable::categories(&groups),
        false => ClassTable::new(source.judged_classes()?, &groups),
    };
    if args.resize_mode == ResizeMode::Roi {
        bail!("--resize-mode roi needs a region, which evaluate does not have; use stretch, letterbox or crop");
    }
    let judged = Judged::new(&args, &source, &pipeline);
    let placement = Placement { mode: args.resize_mode, ..Placement::default() };
    let depth_scaling = args.depth_scaling;
    let mut runner = Answerer { pipeline, depth_scaling, placement, of_categories, outputs: Outputs::default() };
    let mut judge = Judge::new(table, args.cap).of_answers(has_classes, has_depth);
    let count = items.len();
    let Judging { depth_factor, items, left_out } = judge_all(items, &mut runner, &mut judge, &args)?;
    let (model, device) = (runner.pipeline.manifest().name.clone(), runner.pipeline.device_name());
    let summary = judge.summary();
    let results = Results { args: &args, items, model, device, judged, judge, summary, depth_factor, left_out };
    let written = results.write(&mut runner);
    // After the files, as there may be nobody to read it; and though they could not be written.
    let printed = super::print(results.table()).context("the table cannot be printed");
    let report = written?;
    printed?;
    if let Some(path) = report {
        super::print(format_args!("{}\n", path.display())).context("the report's name cannot be printed")?;
    }
    if results.left_out.is_empty() {
        return Ok(());
    }
    let errors: Vec<DataError> = results.left_out.into_iter().map(|(_, error)| error).collect();
    bail!(
        "the figures are of {} of {count} frames; the others cannot be read: {}",
        count - errors.len(),
        disk::in_line(&errors, NAMED)
    );
}

/// Frames of which some say their focal length and some do not have their depth scaled or not, one by one: figures over both mean
/// nothing.
fn check_focal_lengths(items: &[Item], facts: &[Facts], scaling: Option<DepthScaling>) -> anyhow::Result<()> {
    let with_depth = || items.iter().zip(facts).filter(|(_, facts)| facts.depth);
    let mut lacking = with_depth().filter(|(_, facts)| facts.focal_px.is_none()).map(|(item, _)| item.name());
    let Some(first) = lacking.next() else { return Ok(()) };
    let (count, of) = (1 + lacking.count(), with_depth().count());
    let what_to_do = "add them, or give --depth-scaling none or a factor";
    match scaling {
        Some(DepthScaling::CameraInfo) => bail!(
            "--depth-scaling camera_info needs each frame's camera file, which {count} of {of} frames with depth do not have, {first} \
             first; {what_to_do}"
        ),
        None if count < of => bail!(
            "{count} of {of} frames with depth have no camera file, {first} first: their depth would not be scaled, and that of the \
             others would; {what_to_do}"
        ),
        _ => Ok(()),
    }
}

/// What became of the frames.
struct Judging {
    /// Mean over the judged frames of what depth was multiplied with.
    depth_factor: f64,
    /// Those that were judged, in their order.
    items: Vec<Item>,
    /// Names of those that could not be read, with the reason.
    left_out: Vec<(String, DataError)>,
}

/// Judges what can be read.
fn judge_all(items: Vec<Item>, runner: &mut Answerer, judge: &mut Judge, args: &Args) -> anyhow::Result<Judging> {
    let progress = Pieces::new(items.len() as u64, "evaluating");
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_READERS);
    let (mut factors, mut errors) = (0.0, Vec::with_capacity(items.len()));
    ahead(
        &items,
        readers,
        |item| args.frame(item),
        |item, frame| -> anyhow::Result<()> {
            errors.push(match frame {
                Ok(frame) => {
                    factors += runner.run(&frame).with_context(|| item.name().to_string())?;
                    judge.add(item.name(), &frame, &runner.outputs.labels, &runner.outputs.depth_m);
                    judge.add_normals(&frame, &runner.outputs.normals);
                    None
                }
                // One picture in thousands must not take the others' figures.
                Err(error) => Some(error),
            });
            progress.one_more();
            Ok(())
        },
    )?;
    progress.finish();
    let (mut judged, mut left_out) = (Vec::with_capacity(items.len()), Vec::new());
    for (item, error) in items.into_iter().zip(errors) {
        match error {
            None => judged.push(item),
            Some(error) => left_out.push((item.name().to_string(), error)),
        }
    }
    if judged.is_empty() {
        let errors: Vec<DataError> = left_out.into_iter().map(|(_, error)| error).collect();
        bail!("no frame can be read: {}", disk::in_line(&errors, NAMED));
    }
    Ok(Judging { depth_factor: factors / judged.len() as f64, items: judged, left_out })
}

/// What came of it.
struct Results<'a> {
    args: &'a Args,
    items: Vec<Item>,
    model: String,
    device: String,
    judged: Judged,
    judge: Judge,
    summary: Summary,
    /// Mean over the frames of what depth was multiplied with.
    depth_factor: f64,
    /// Frames that could not be read, with the reason.
    left_out: Vec<(String, DataError)>,
}

impl Results<'_> {
    /// What was asked for and what was left out.
    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = self.judged.facts();
        if !self.left_out.is_empty() {
            facts.push(("Frames left out".into(), format!("{}, which cannot be read", self.left_out.len())));
        }
        facts
    }

    fn table(&self) -> String {
        let Self { args, model, device, depth_factor, .. } = self;
        let facts: String =
            self.facts().iter().map(|(what, value)| format!("{}: {value}\n", what.to_lowercase())).collect();
        format!(
            "{model} on {} frames of {} ({}), {device}\n{facts}depth times {depth_factor:.4} (mean of the frames)\n{}",
            self.items.len(),
            args.data.display(),
            args.split,
            self.summary.table(args.verbose)
        )
    }

    fn figures(&self) -> Figures<'_> {
        let summary = &self.summary;
        let segmentation = summary.segmentation.as_ref();
        Figures {
            model: &self.model,
            data: self.args.data.display().to_string(),
            split: &self.args.split,
            device: &self.device,
            judged: &self.judged,
            frames: self.items.len(),
            left_out: self.left_out.iter().map(|(name, _)| name.as_str()).collect(),
            miou: segmentation.map(|s| s.pooled.miou),
            pixel_accuracy: segmentation.map(|s| s.pooled.pixel_accuracy),
            iou: segmentation.map_or(vec![], |s| s.classes.iter().map(|c| c.iou).collect()),
            depth: summary.depth.as_ref().map(|d| d.pooled.plain),
            depth_factor: self.depth_factor,
            segmentation,
            depth_detail: summary.depth.as_ref(),
            leak: summary.leak.as_ref(),
            ground: summary.ground.as_ref(),
            normals: summary.normals,
            per_frame: &summary.per_frame,
        }
    }

    /// Writes the figures and the report where they are asked for; returns the report's path.
    fn write(&self, runner: &mut Answerer) -> anyhow::Result<Option<PathBuf>> {
        // A full disk must not take the report, too, which may be on another.
        let figures = self.args.json.as_ref().map_or(Ok(()), |path| super::write_json(path, &self.figures()));
        let report = self.args.report.as_ref().map(|folder| self.write_report(folder, runner)).transpose();
        both(figures, report)
    }

    /// Returns its path.
    fn write_report(&self, folder: &Path, runner: &mut Answerer) -> anyhow::Result<PathBuf> {
        let Self { args, model, device, depth_factor, .. } = self;
        let mut facts = vec![
            ("Frames".into(), self.items.len().to_string()),
            ("Model".into(), args.model.display().to_string()),
            ("Device".into(), device.clone()),
            ("Depth times".into(), format!("{depth_factor:.4} (mean of the frames)")),
        ];
        facts.extend(self.facts());
        let head = Head { model: model.clone(), data: format!("{} ({})", args.data.display(), args.split), facts };
        let galleries = self.galleries(runner)?;
        let path = folder.join("report.html");
        let text = page(&head, self.judge.table(), &self.summary, &galleries)?;
        write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
        Ok(path)
    }

    /// The frames of the report: worst and best by their own mIoU and by their own AbsRel, and evenly chosen ones.
    fn galleries(&self, runner: &mut Answerer) -> anyhow::Result<Vec<Gallery>> {
        let Self { args, items, judge, .. } = self;
        let frames = &self.summary.per_frame;
        let miou: Vec<_> = frames.iter().map(|f| f.segmentation.map(|s| s.miou)).collect();
        let abs_rel: Vec<_> = frames.iter().map(|f| f.depth.map(|d| d.abs_rel)).collect();
        let [worst_labels, best_labels, even] = choose(&miou, args.pictures);
        let [best_depth, worst_depth, _] = choose(&abs_rel, args.pictures);
        let lists = [
            ("Evenly chosen", even),
            ("Worst by the frame's own mIoU", worst_labels),
            ("Best by the frame's own mIoU", best_labels),
            ("Worst by the frame's own AbsRel", worst_depth),
            ("Best by the frame's own AbsRel", best_depth),
        ];
        let mut galleries = Vec::new();
        for (title, chosen) in lists {
            let mut exhibits = Vec::new();
            for index in chosen {
                let (item, score) = (&items[index], &frames[index]);
                let frame = args.frame(item)?;
                runner.run(&frame).with_context(|| item.name().to_string())?;
                let Outputs { labels, depth_m, .. } = &runner.outputs;
                let answers = |task| runner.pipeline.manifest().answers(task);
                let answers =
                    (answers(Task::Segmentation).then_some(&labels[..]), answers(Task::Depth).then_some(&depth_m[..]));
                exhibits.push(exhibit(judge.table(), &frame, answers, args.cap, caption(score))?);
            }
            galleries.push(Gallery { title: title.into(), exhibits });
        }
        Ok(galleries)
    }
}

fn caption(score: &FrameScore) -> String {
    let mut text = score.name.clone();
    if let Some(s) = score.segmentation.as_ref().filter(|s| s.pixels > 0) {
        text += &format!(", mIoU {:.3}, pixel accuracy {:.3}", s.miou, s.pixel_accuracy);
    }
    if let Some(d) = &score.depth {
        text += &format!(", AbsRel {:.3}, RMSE {:.2} m", d.abs_rel, d.rmse_m);
    }
    text
}

/// The report's path; or what could not be written, which may be both.
fn both(figures: anyhow::Result<()>, report: anyhow::Result<Option<PathBuf>>) -> anyhow::Result<Option<PathBuf>> {
    match (figures, report) {
        (Ok(()), report) => report,
        (Err(figures), Ok(_)) => Err(figures),
        (Err(figures), Err(report)) => bail!("{}; {}", in_line(&figures), in_line(&report)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_could_not_be_written_is_said() {
        let figures = || Err(anyhow!("the disk is full").context("a.json"));
        let report = || Err(anyhow!("permission denied").context("report.html"));
        let error = both(figures(), report()).expect_err("neither").to_string();
        assert_eq!(error, "a.json: the disk is full; report.html: permission denied");
        assert_eq!(in_line(&both(figures(), Ok(None)).expect_err("no figures")), "a.json: the disk is full");
        assert_eq!(in_line(&both(Ok(()), report()).expect_err("no report")), "report.html: permission denied");
        assert_eq!(both(Ok(()), Ok(Some("report.html".into()))).expect("both"), Some("report.html".into()));
    }
}

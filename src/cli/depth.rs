//! `semantic_depth depth`: depth truth from stereo, and how good it is.

use super::check_file;
use super::progress::Pieces;
use super::render::parse_size;
use crate::data::cityscapes::{folder_name, DepthFiles, LabelFiles, Part, ReadOptions, Sample};
use crate::data::disk::write_atomically;
use crate::data::npy::Precision;
use crate::depth::accuracy::{self, Accuracy, Report};
use crate::depth::clean::{clean, CleanOptions, Edges};
use crate::depth::files::{self, Broken, Job};
use crate::depth::matcher::{Matcher, MatcherOptions, Paths, Volumes};
use crate::depth::teacher::{Sign, Teacher, TeacherOptions, ValueRange};
use crate::depth::{preview, Disparity};
use crate::frame::network::{device_name, resolve, DeviceChoice};
use anyhow::{bail, ensure, Context as _};
use image::{DynamicImage, ImageFormat};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Arguments of `semantic_depth depth`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, clap::Subcommand)]
enum Way {
    /// From the disparity of the data set: baseline x focal length / disparity, cleaned.
    Disparity(DisparityArgs),
    /// From both pictures, by a teacher: the built-in semi-global matcher, or a TorchScript network.
    Teacher(TeacherArgs),
    /// How near the depth in folders is to exact depth.
    Compare(CompareArgs),
}

/// What goes in and what comes out.
#[derive(Debug, clap::Args)]
struct FileArgs {
    /// Root of the data set (Cityscapes layout).
    #[arg(long)]
    data: PathBuf,
    /// A folder of the data set's pictures, such as train, val or test; several with commas.
    #[arg(long, required = true, value_delimiter = ',')]
    split: Vec<String>,
    /// Folder for the depth, beside leftImg8bit; train with `depth: NAME`.
    #[arg(long, value_name = "NAME", value_parser = folder_name)]
    out_folder: String,
    /// Make the pixels that gtFine's label ids call sky infinitely far (inf), whatever stereo says of them.
    #[arg(long)]
    sky_from_labels: bool,
    /// Write float16, half the size.
    #[arg(long)]
    half: bool,
    /// Make anew what is there already (what was made in another way is removed first); otherwise it stays, and an
    /// interrupted run goes on.
    #[arg(long)]
    overwrite: bool,
    /// Write a picture of one frame, a .png or .jpg: left picture, depth before and after cleaning.
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// Which frame the picture shows, by its name without ending [default: the first of all].
    #[arg(long, value_name = "STEM", requires = "preview")]
    preview_frame: Option<String>,
}

impl FileArgs {
    /// Labels are needed for the sky only.
    fn labels(&self) -> LabelFiles {
        if self.sky_from_labels {
            LabelFiles::LabelIds
        } else {
            LabelFiles::None
        }
    }
}

/// Radius of the median, where none is given.
const SMOOTH_RADIUS: u8 = 1;
/// Pixels of the widest hole that is filled, where nothing is given.
const HOLE_PX: u16 = 16;

/// The help of an option that is told from one which was not given, and so has no default of clap's.
fn usual(what: &str, value: impl std::fmt::Display) -> String {
    format!("{what} [default: {value}]")
}

/// Cleaning.
#[derive(Debug, clap::Args)]
struct CleanArgs {
    /// Leave the edges as they are.
    #[arg(long)]
    no_crop: bool,
    #[arg(long, allow_negative_numbers = true, conflicts_with = "no_crop", value_name = "SHARE", help = usual(
        "Share of the height that is taken off at the bottom: the own vehicle", Edges::default().bottom))]
    crop_bottom: Option<f64>,
    #[arg(long, allow_negative_numbers = true, conflicts_with = "no_crop", value_name = "SHARE", help = usual(
        "Share of the width that is taken off at the left: what the right camera does not see", Edges::default().left))]
    crop_left: Option<f64>,
    #[arg(long, allow_negative_numbers = true,
          conflicts_with = "no_crop", value_name = "SHARE", help = usual(
        "Share of the height that is taken off at the top", Edges::default().top))]
    crop_top: Option<f64>,
    /// Really cut the edges off and stretch the rest to the old size, as the article does, and write that as a data set
    /// of its own: picture, labels, camera and depth alike. By default depth is only unknown there. ROOT is neither the
    /// data set itself nor one that has such pictures already, unless --overwrite is given.
    #[arg(long, value_name = "ROOT", conflicts_with = "no_crop")]
    cut_into: Option<PathBuf>,
    /// Do not smooth.
    #[arg(long)]
    no_smooth: bool,
    #[arg(long, allow_negative_numbers = true,
          conflicts_with = "no_smooth", value_name = "RADIUS", value_parser = clap::value_parser!(u8).range(1..=15), help = usual(
        "Median over a square of 2 x RADIUS + 1 pixels", SMOOTH_RADIUS))]
    smooth: Option<u8>,
    /// Do not fill holes.
    #[arg(long)]
    no_inpaint: bool,
    #[arg(long, allow_negative_numbers = true,
          conflicts_with = "no_inpaint", value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(1..), help = usual(
        "Widest hole that is filled, in pixels", HOLE_PX))]
    inpaint: Option<u16>,
}

impl CleanArgs {
    fn options(&self) -> CleanOptions {
        let default = Edges::default();
        let edges = Edges {
            left: self.crop_left.unwrap_or(default.left),
            top: self.crop_top.unwrap_or(default.top),
            bottom: self.crop_bottom.unwrap_or(default.bottom),
        };
        CleanOptions {
            edges: (!self.no_crop).then_some(edges),
            smooth_radius: if self.no_smooth { 0 } else { usize::from(self.smooth.unwrap_or(SMOOTH_RADIUS)) },
            hole_px: if self.no_inpaint { 0 } else { usize::from(self.inpaint.unwrap_or(HOLE_PX)) },
        }
    }

    /// The first of these options that was given.
    fn given(&self) -> Option<&'static str> {
        let all = [
            ("--no-crop", self.no_crop),
            ("--crop-bottom", self.crop_bottom.is_some()),
            ("--crop-left", self.crop_left.is_some()),
            ("--crop-top", self.crop_top.is_some()),
            ("--cut-into", self.cut_into.is_some()),
            ("--no-smooth", self.no_smooth),
            ("--smooth", self.smooth.is_some()),
            ("--no-inpaint", self.no_inpaint),
            ("--inpaint", self.inpaint.is_some()),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

#[derive(Debug, clap::Args)]
struct DisparityArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    clean: CleanArgs,
}

#[derive(Debug, clap::Args)]
struct TeacherArgs {
    #[command(flatten)]
    files: FileArgs,
    /// A TorchScript stereo network (docs/DEPTH.md has its signature); without it the built-in matcher teaches.
    #[arg(long, value_name = "FILE.pt")]
    teacher: Option<PathBuf>,
    /// Range of the network's input: 255 or 1.
    #[arg(long, default_value = "255", value_name = "255|1", value_parser = parse_range, requires = "teacher")]
    teacher_range: ValueRange,
    /// Sign of the network's disparity: positive or negative.
    #[arg(long, default_value = "positive", value_name = "positive|negative", value_parser = parse_sign,
          requires = "teacher", allow_hyphen_values = true)]
    teacher_sign: Sign,
    /// Size that the network was traced at; pictures are resized to it, and disparity back.
    #[arg(long, value_name = "WxH", value_parser = parse_size, requires = "teacher")]
    teacher_size: Option<(usize, usize)>,
    /// The network's input is padded to multiples of this.
    #[arg(long, allow_negative_numbers = true, default_value_t = 32, value_name = "PIXELS", requires = "teacher",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    teacher_multiple: u16,
    /// Where the network runs: auto, cpu or cuda:N.
    #[arg(long, default_value = "auto", requires = "teacher")]
    device: DeviceChoice,
    /// The matcher's range, in pixels of disparity [default: an eighth of the width].
    #[arg(long, allow_negative_numbers = true, value_name = "PIXELS", conflicts_with = "teacher")]
    max_disparity: Option<usize>,
    /// From how many directions the matcher adds up costs: 5 or 8.
    #[arg(long, allow_negative_numbers = true,
          default_value = "8", value_name = "5|8", value_parser = parse_paths, conflicts_with = "teacher")]
    paths: Paths,
    /// The matcher's penalty of a step of one pixel.
    #[arg(long, allow_negative_numbers = true, default_value_t = MatcherOptions::default().p1, conflicts_with = "teacher")]
    p1: u16,
    /// The matcher's penalty of any larger step.
    #[arg(long, allow_negative_numbers = true, default_value_t = MatcherOptions::default().p2, conflicts_with = "teacher")]
    p2: u16,
    /// How often pictures are smoothed (3 x 3) before the matcher compares them, against the sensor's noise.
    #[arg(long, allow_negative_numbers = true,
          default_value_t = MatcherOptions::default().presmooth, value_name = "TIMES", conflicts_with = "teacher")]
    presmooth: usize,
    /// Share by which the matcher's best disparity must beat every other one.
    #[arg(long, allow_negative_numbers = true,
          default_value_t = MatcherOptions::default().uniqueness, value_name = "SHARE", conflicts_with = "teacher")]
    uniqueness: f32,
    /// Leave out the matcher's left-right check.
    #[arg(long, conflicts_with = "teacher")]
    no_left_right: bool,
    /// Smallest region that the matcher keeps, in pixels; 0 keeps all.
    #[arg(long, allow_negative_numbers = true,
          default_value_t = MatcherOptions::default().speckle_px, value_name = "PIXELS", conflicts_with = "teacher")]
    speckle: usize,
    /// Memory for pairs that are matched at the same time, in MiB.
    #[arg(long, allow_negative_numbers = true, default_value_t = 2048, value_name = "MIB", conflicts_with = "teacher")]
    memory: usize,
    /// Write 16-bit disparity into `disparity`, too.
    #[arg(long)]
    write_disparity: bool,
    /// Clean what the teacher says, in the same way as `depth disparity`.
    #[arg(long = "clean")]
    wants_clean: bool,
    #[command(flatten)]
    clean: CleanArgs,
}

#[derive(Debug, clap::Args)]
struct CompareArgs {
    /// Root of the data set (Cityscapes layout), with exactDepth and camera.
    #[arg(long)]
    data: PathBuf,
    /// A folder of the data set's pictures, such as train, val or test.
    #[arg(long)]
    split: String,
    /// Folders of depth; `disparity` is the data set's own disparity, as it is.
    #[arg(long = "folder", value_name = "NAME", num_args = 1.., required = true)]
    folders: Vec<DepthFiles>,
    /// Share of the height at the bottom that is not judged.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0, value_name = "SHARE")]
    ignore_bottom: f64,
    /// Exact depth from here on does not count for AbsRel, in metres.
    #[arg(long, allow_negative_numbers = true, default_value_t = 80.0, value_name = "METRES")]
    cap: f32,
    /// Write the figures as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn parse_range(text: &str) -> Result<ValueRange, String> {
    match text {
        "255" => Ok(ValueRange::Bytes),
        "1" => Ok(ValueRange::Unit),
        _ => Err(format!("expected 255 or 1, found '{text}'")),
    }
}

fn parse_sign(text: &str) -> Result<Sign, String> {
    match text {
        "positive" => Ok(Sign::Positive),
        "negative" => Ok(Sign::Negative),
        _ => Err(format!("expected positive or negative, found '{text}'")),
    }
}

fn parse_paths(text: &str) -> Result<Paths, String> {
    match text {
        "5" => Ok(Paths::Five),
        "8" => Ok(Paths::Eight),
        _ => Err(format!("expected 5 or 8, found '{text}'")),
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.way {
        Way::Disparity(args) => disparity(&args),
        Way::Teacher(args) => teacher(&args),
        Way::Compare(args) => compare(&args),
    }
}

fn job(files: &FileArgs, clean: CleanOptions, cut_into: Option<&PathBuf>) -> Job {
    Job {
        folder: files.out_folder.clone(),
        clean,
        cut_into: cut_into.cloned(),
        sky_from_labels: files.sky_from_labels,
        precision: if files.half { Precision::Half } else { Precision::Single },
        overwrite: files.overwrite,
        write_disparity: false,
        frames_at_once: usize::MAX,
    }
}

/// A split, and how its depth is made.
struct Plan<'a, M> {
    split: &'a str,
    samples: Vec<Sample>,
    job: Job,
    /// Describes `make` in the recipe.
    how: serde_json::Value,
    make: M,
}

/// The splits that are asked for, each with its frames.
fn splits<'a>(
    args: &'a FileArgs,
    options: &ReadOptions,
    parts: &[Part],
) -> anyhow::Result<Vec<(&'a str, Vec<Sample>)>> {
    args.split.iter().map(|split| Ok((split.as_str(), files::frames(&args.data, split, options, parts)?))).collect()
}

/// Makes the splits. What can be wrong with any of them is looked for first: each may take hours.
fn make_all<M>(plans: &[Plan<'_, M>], args: &FileArgs) -> anyhow::Result<()>
where
    M: Fn(&Sample) -> anyhow::Result<Disparity> + Sync,
{
    let wanted = args.preview_frame.as_deref();
    let shown = plans.iter().enumerate().find_map(|(index, plan)| {
        let sample = plan.samples.iter().find(|s| wanted.is_none_or(|stem| s.stem() == stem))?;
        Some((index, sample))
    });
    ensure!(
        args.preview.is_none() || shown.is_some(),
        "--preview-frame {}: no such frame in {}; expected the name of a left picture without _leftImg8bit.png",
        wanted.unwrap_or_default(),
        args.split.join(", ")
    );
    if let Some(path) = &args.preview {
        preview_format(path)?;
    }
    for plan in plans {
        files::check(&plan.samples, &plan.job, &plan.how).with_context(|| format!("split '{}'", plan.split))?;
    }
    if let Some(path) = &args.preview {
        let folder = path.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(folder).with_context(|| format!("--preview {}", path.display()))?;
    }
    let mut broken = Vec::new();
    for (index, plan) in plans.iter().enumerate() {
        if let Some(why) = make(plan, args)? {
            broken.push(format!("split '{}': {why}", plan.split));
            // Its frame may be one of them.
            continue;
        }
        if let (Some(path), Some((_, sample))) = (&args.preview, shown.filter(|(at, _)| *at == index)) {
            write_preview(path, sample, &plan.job.clean, &plan.make)?;
            super::print(format_args!("{}: {}, its depth before and after cleaning\n", path.display(), sample.stem()))?;
        }
    }
    ensure!(
        broken.is_empty(),
        "{}; all other frames have their depth: mend or replace these files and start again, which makes what is missing",
        broken.join("; ")
    );
    Ok(())
}

/// Makes a split, and tells; returns which of its pictures are broken, if any.
fn make<M>(plan: &Plan<'_, M>, args: &FileArgs) -> anyhow::Result<Option<Broken>>
where
    M: Fn(&Sample) -> anyhow::Result<Disparity> + Sync,
{
    let Plan { split, samples, job, how, make } = plan;
    let started = Instant::now();
    let progress = Pieces::new(samples.len() as u64, "making depth");
    let done = files::run(samples, job, how, make, |is_new| match is_new {
        true => progress.one_more(),
        false => progress.one_was_there(),
    });
    progress.finish();
    let (done, broken) = match done.map_err(anyhow::Error::downcast::<Broken>) {
        Ok(done) => (done, None),
        Err(Ok(broken)) => (broken.done, Some(broken)),
        Err(Err(error)) => return Err(error),
    };
    super::print(format_args!(
        "{} depth files written to {} ({}), {} were there, {:.1} s\n",
        done.made,
        job.cut_into.as_ref().unwrap_or(&args.data).join(&job.folder).display(),
        split,
        done.skipped,
        started.elapsed().as_secs_f64()
    ))?;
    Ok(broken)
}

/// Which kind of picture a preview's name asks for.
fn preview_format(path: &Path) -> anyhow::Result<ImageFormat> {
    let format = ImageFormat::from_path(path).ok().filter(ImageFormat::writing_enabled);
    format.with_context(|| format!("--preview {}: expected a name that ends in .png or .jpg", path.display()))
}

fn write_preview(
    path: &Path,
    sample: &Sample,
    options: &CleanOptions,
    make: impl Fn(&Sample) -> anyhow::Result<Disparity>,
) -> anyhow::Result<()> {
    let before = make(sample)?;
    let mut after = before.clone();
    clean(&mut after, options).map_err(anyhow::Error::msg)?;
    let (baseline_m, focal_px) = sample.read_camera()?;
    let depth = |d: Disparity| d.depth_m(baseline_m, focal_px);
    let sheet = preview::before_and_after(&sample.read_left()?, &depth(before), &depth(after));
    let mut bytes = std::io::Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, preview_format(path)?).with_context(|| path.display().to_string())?;
    Ok(write_atomically(path, |file| file.write_all(bytes.get_ref()))?)
}

fn disparity(args: &DisparityArgs) -> anyhow::Result<()> {
    let options = ReadOptions { labels: args.files.labels(), depth: DepthFiles::Disparity };
    let job = job(&args.files, args.clean.options(), args.clean.cut_into.as_ref());
    let plan = |(split, samples)| Plan {
        split,
        samples,
        job: job.clone(),
        how: "disparity".into(),
        make: |sample: &Sample| -> anyhow::Result<Disparity> { Ok(Disparity::read(sample)?) },
    };
    let plans: Vec<_> = splits(&args.files, &options, &[])?.into_iter().map(plan).collect();
    make_all(&plans, &args.files)
}

fn teacher(args: &TeacherArgs) -> anyhow::Result<()> {
    // As the node.
    crate::spin::little();
    let options = ReadOptions { labels: args.files.labels(), depth: DepthFiles::None };
    let clean = if args.wants_clean { args.clean.options() } else { CleanOptions::NONE };
    let mut job = job(&args.files, clean, args.clean.cut_into.as_ref());
    if let Some(option) = args.clean.given().filter(|_| !args.wants_clean) {
        bail!("{option} is a step of cleaning, which is off: pass --clean, too");
    }
    job.write_disparity = args.write_disparity;
    let splits = splits(&args.files, &options, &[Part::Right, Part::Camera])?;
    match &args.teacher {
        Some(path) => network(args, path, splits, job),
        None => matcher(args, splits, &job),
    }
}

fn network(args: &TeacherArgs, path: &Path, splits: Vec<(&str, Vec<Sample>)>, mut job: Job) -> anyhow::Result<()> {
    let options = TeacherOptions {
        range: args.teacher_range,
        sign: args.teacher_sign,
        size: args.teacher_size,
        multiple: usize::from(args.teacher_multiple),
    };
    let device = resolve(args.device)?;
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let sha256: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let teacher = &Teacher::load(path, device, options)?;
    // libtorch has threads of its own, and a network's memory is not ours to foresee.
    job.frames_at_once = 1;
    let how = serde_json::json!({ "teacher": path.file_name().map(|n| n.to_string_lossy()), "sha256": sha256, "options": options });
    super::print(format_args!("teacher {} on {}\n", path.display(), device_name(device)))?;
    let plan = |(split, samples)| Plan {
        split,
        samples,
        job: job.clone(),
        how: how.clone(),
        make: move |sample: &Sample| -> anyhow::Result<Disparity> {
            Ok(teacher.run(&sample.read_left()?, &sample.read_right()?)?)
        },
    };
    let plans: Vec<_> = splits.into_iter().map(plan).collect();
    make_all(&plans, &args.files)
}

fn matcher(args: &TeacherArgs, splits: Vec<(&str, Vec<Sample>)>, job: &Job) -> anyhow::Result<()> {
    let (mut plans, volumes) = (Vec::new(), Arc::<Volumes>::default());
    for (split, samples) in splits {
        let (options, frames_at_once) = matcher_options(args, &samples)?;
        let matcher = Matcher::new(options, volumes.clone())?;
        plans.push(Plan {
            split,
            samples,
            job: Job { frames_at_once, ..job.clone() },
            how: serde_json::json!({ "matcher": options }),
            make: move |sample: &Sample| -> anyhow::Result<Disparity> {
                let (left, right) = (sample.read_left()?, sample.read_right()?);
                let grey = |picture| DynamicImage::ImageRgb8(picture).to_luma8();
                Ok(matcher.run(&grey(left), &grey(right))?)
            },
        });
    }
    make_all(&plans, &args.files)
}

/// The matcher for a split, and how many of its pairs are matched at the same time.
fn matcher_options(args: &TeacherArgs, samples: &[Sample]) -> anyhow::Result<(MatcherOptions, usize)> {
    let Some(first) = samples.first() else { bail!("no frame") };
    let (width, height) = first.check()?;
    let (width, height) = (width as usize, height as usize);
    let options = MatcherOptions {
        max_disparity: args.max_disparity.unwrap_or((width / 8).next_multiple_of(16).clamp(16, 1024)),
        paths: args.paths,
        p1: args.p1,
        p2: args.p2,
        presmooth: args.presmooth,
        uniqueness: args.uniqueness,
        left_right_px: (!args.no_left_right).then_some(MatcherOptions::default().left_right_px.unwrap_or(1)),
        speckle_px: args.speckle,
    };
    options.check()?;
    let each = options.memory_bytes(width, height);
    let at_once = (args.memory << 20) / each;
    ensure!(
        at_once > 0,
        "matching one pair of {width}x{height} takes about {} MiB, more than --memory {}: raise it, or lower \
         --max-disparity, or pass --paths 5",
        each >> 20,
        args.memory
    );
    // Two threads work on a pair with 8 paths, one on a pair with 5.
    let pairs = match options.paths {
        Paths::Five => rayon::current_num_threads(),
        Paths::Eight => rayon::current_num_threads().div_ceil(2),
    };
    Ok((options, at_once.min(pairs)))
}

/// The figures as JSON.
#[derive(Debug, Serialize)]
struct Figures {
    data: String,
    split: String,
    frames: usize,
    ignore_bottom: f64,
    cap_m: f32,
    folders: Vec<Named>,
}

#[derive(Debug, Serialize)]
struct Named {
    folder: String,
    #[serde(flatten)]
    report: Report,
}

fn compare(args: &CompareArgs) -> anyhow::Result<()> {
    ensure!(
        (0.0..1.0).contains(&args.ignore_bottom),
        "--ignore-bottom: expected a share of at least 0 and under 1, found {}",
        args.ignore_bottom
    );
    ensure!(args.cap > 0.0, "--cap: expected metres above 0, found {}", args.cap);
    check_file("--json", args.json.as_deref())?;
    let mut rows = Vec::new();
    let mut frames = 0;
    for folder in &args.folders {
        ensure!(*folder != DepthFiles::None, "--folder none: expected a folder of depth, or disparity");
        let options = ReadOptions { labels: LabelFiles::None, depth: folder.clone() };
        let samples = files::frames(&args.data, &args.split, &options, &[Part::Depth, Part::Camera])?;
        let progress = Pieces::new(samples.len() as u64, "comparing");
        let sums = samples
            .par_iter()
            .map(|sample| compare_one(sample, args).inspect(|_| progress.one_more()))
            .try_reduce(Accuracy::default, |a, b| Ok(a.merged(&b)))?;
        progress.finish();
        frames = samples.len();
        rows.push((folder.to_string(), sums.report()));
    }
    let table = accuracy::table(&rows);
    let (data, split) = (args.data.display(), &args.split);
    let table = format!("{frames} frames of {data} ({split}) against exactDepth\n{table}");
    let written = write_figures(args, frames, rows);
    // As `evaluate` does it: neither is lost though the other cannot be written.
    let printed = super::print(table).context("the table cannot be printed");
    written.and(printed)
}

fn write_figures(args: &CompareArgs, frames: usize, rows: Vec<(String, Report)>) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        let folders = rows.into_iter().map(|(folder, report)| Named { folder, report }).collect();
        let figures = Figures {
            data: args.data.display().to_string(),
            split: args.split.clone(),
            frames,
            ignore_bottom: args.ignore_bottom,
            cap_m: args.cap,
            folders,
        };
        super::write_json(path, &figures)?;
    }
    Ok(())
}

fn compare_one(sample: &Sample, args: &CompareArgs) -> anyhow::Result<Accuracy> {
    let exact = ReadOptions { labels: LabelFiles::None, depth: DepthFiles::Auto };
    let (exact_m, width, height) = sample.clone().with_options(&exact).read_depth()?;
    let (depth_m, w, h) = sample.read_depth()?;
    ensure!(
        (w, h) == (width, height),
        "{}: expected depth of {width}x{height} as exactDepth has, found {w}x{h}",
        sample.stem()
    );
    let (baseline_m, focal_px) = sample.read_camera()?;
    let rows = (f64::from(height) * (1.0 - args.ignore_bottom)).round() as usize;
    let judged = rows * width as usize;
    let mut sums = Accuracy::default();
    sums.add(&exact_m[..judged], &depth_m[..judged], baseline_m * focal_px, args.cap);
    Ok(sums)
}

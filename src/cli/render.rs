//! `semantic_depth render`: street drives with an exact truth, in the Cityscapes layout.

use super::progress::Pieces;
use crate::data::cityscapes::{Part, Sample};
use crate::data::classes;
use crate::data::disk::{hold, Recipe};
use crate::data::street::{Drive, DriveConfig, Frame, CITYSCAPES_BASELINE_M, CITYSCAPES_FOCAL_PX, CITYSCAPES_WIDTH};
use anyhow::{bail, Context as _};
use clap::builder::RangedU64ValueParser;
use rayon::prelude::*;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Seeds of one split lie in one block, so that a street of one split is never in another.
const SEEDS_A_SPLIT: u64 = 1 << 32;

/// Arguments of `semantic_depth render`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write: a new one or an empty one, unless --add is given, or one in which the same rendering was interrupted,
    /// which then goes on.
    #[arg(long)]
    out: PathBuf,
    /// Everything random follows from it.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1)]
    seed: u64,
    /// Drives (streets) of each split.
    #[arg(long, default_value = "train=8,val=2,test=2", value_parser = parse_splits)]
    splits: Splits,
    /// Frames of each drive.
    #[arg(long, allow_negative_numbers = true,
          default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(..=1_000_000))]
    frames: usize,
    /// Frames a second.
    #[arg(long, allow_negative_numbers = true, default_value_t = 10.0)]
    rate: f64,
    /// Width and height in pixels.
    #[arg(long, default_value = "2048x1024", value_parser = parse_size)]
    size: (usize, usize),
    /// Distance of the stereo cameras in metres.
    #[arg(long, allow_negative_numbers = true, default_value_t = CITYSCAPES_BASELINE_M)]
    baseline: f64,
    /// Focal length in pixels of the image; by default Cityscapes' camera at this width.
    #[arg(long, allow_negative_numbers = true)]
    focal: Option<f64>,
    /// The camera's height above the road in metres, 0.3 to 6: one, or LOW..HIGH of which each drive has one.
    #[arg(long, allow_negative_numbers = true, value_name = "METRES", default_value = "1.2..1.7", value_parser = parse_heights)]
    camera_height: (f64, f64),
    /// Leave out the right picture.
    #[arg(long)]
    no_stereo: bool,
    /// Leave out exact depth (the disparity stays).
    #[arg(long)]
    no_exact_depth: bool,
    /// Write into a folder that is not empty; frames of the same name are replaced, whatever they have, unless the same
    /// rendering made them.
    #[arg(long)]
    add: bool,
}

impl Args {
    /// The frame of this number in a drive.
    fn sample(&self, split: &str, drive: u64, index: usize) -> Sample {
        Sample::new(&self.out, split, &city(drive), 0, index)
    }
}

/// Split names with their number of drives.
#[derive(Debug, Clone)]
struct Splits(Vec<(String, u64)>);

/// Drives of a split that have streets of their own, and names of five digits.
const MOST_DRIVES: u64 = 100_000;

fn parse_splits(text: &str) -> Result<Splits, String> {
    let mut out = Vec::new();
    for part in text.split(',') {
        let (name, count) = part.split_once('=').ok_or_else(|| format!("expected NAME=DRIVES, found '{part}'"))?;
        if !["train", "val", "test"].contains(&name) {
            return Err(format!("expected train, val or test, found '{name}'"));
        }
        if out.iter().any(|(there, _)| there == name) {
            return Err(format!("'{name}' is there twice; give its drives once"));
        }
        let parsed = count.parse().ok().filter(|count| *count <= MOST_DRIVES);
        let count =
            parsed.ok_or_else(|| format!("drives of '{name}': expected 0 to {MOST_DRIVES}, found '{count}'"))?;
        out.push((name.to_string(), count));
    }
    Ok(Splits(out))
}

/// `WIDTHxHEIGHT`, each from 16 to 8192.
pub(super) fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let expected = || format!("expected WIDTHxHEIGHT, each from 16 to 8192, found '{text}'");
    let (w, h) = text.split_once('x').ok_or_else(expected)?;
    let parse = |v: &str| v.parse().ok().filter(|v| (16..=8192).contains(v)).ok_or_else(expected);
    Ok((parse(w)?, parse(h)?))
}

/// Metres, or two of them with two dots between.
fn parse_heights(text: &str) -> Result<(f64, f64), String> {
    let expected = || format!("expected metres from 0.3 to 6, or LOW..HIGH, found '{text}'");
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let parse = |v: &str| v.trim().parse().ok().filter(|v| (0.3..=6.0).contains(v)).ok_or_else(expected);
    let (low, high) = (parse(low)?, parse(high)?);
    (low <= high).then_some((low, high)).ok_or_else(expected)
}

/// Seed of drive `drive` of a split.
pub(crate) fn drive_seed(seed: u64, split: &str, drive: u64) -> u64 {
    let block = match split {
        "train" => 0,
        "val" => 1,
        _ => 2,
    };
    seed.wrapping_mul(16).wrapping_add(block).wrapping_mul(SEEDS_A_SPLIT).wrapping_add(drive)
}

/// Name of the file beside a split's pictures that says how they were rendered.
const RECORD: &str = "rendering.json";

/// What is in a split's folder of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    /// What the same rendering wrote.
    Same,
    /// What another one wrote.
    Another,
    /// Pictures of which nothing says how they were made.
    Unknown,
}

/// How a split is rendered, and what of it is there. `drive` is any of the split's: only its seed is its own.
fn record_of(args: &Args, split: &str, drives: u64, drive: &DriveConfig) -> anyhow::Result<(Recipe, There)> {
    let folder = args.out.join(Part::Left.names().0).join(split);
    let json = serde_json::json!({
        "program": concat!("semantic_depth ", env!("CARGO_PKG_VERSION")),
        "seed": args.seed,
        "drives": drives,
        "frames": drive.frames,
        "rate_hz": drive.rate_hz,
        "size": [drive.width, drive.height],
        "focal_px": drive.focal_px,
        "baseline_m": drive.baseline_m,
        "camera_heights_m": drive.heights_m,
        "stereo": !args.no_stereo,
        "exact_depth": !args.no_exact_depth,
    });
    let record = Recipe::read(folder.join(RECORD), json)?;
    let there = match &record.there {
        Some(_) if record.is_same() => There::Same,
        Some(_) => There::Another,
        None if is_empty(&folder)? => There::Nothing,
        None => There::Unknown,
    };
    Ok((record, there))
}

/// Whether there is nothing in a folder, or no folder.
fn is_empty(folder: &Path) -> anyhow::Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e).with_context(|| folder.display().to_string()),
    }
}

/// Whether rendering may begin in `out`, or go on.
fn check_place(out: &Path, records: &[(Recipe, There)]) -> anyhow::Result<()> {
    if is_empty(out)? {
        return Ok(());
    }
    if let Some((other, _)) = records.iter().find(|(_, there)| *there == There::Another) {
        bail!(
            "{} says that what is there was rendered in another way: choose another folder, or pass --add to replace \
             frames of the same name. Asked for: {}",
            other.path.display(),
            other.json
        );
    }
    let is_any = |what| records.iter().any(|(_, there)| *there == what);
    if !is_any(There::Same) || is_any(There::Unknown) {
        bail!("{} is not empty: choose another folder, or pass --add to write into it", out.display());
    }
    Ok(())
}

/// The parts that a frame has.
fn parts(stereo: bool, exact_depth: bool) -> impl Iterator<Item = Part> {
    let always = [Part::Left, Part::Labels, Part::Disparity, Part::Camera];
    stereo.then_some(Part::Right).into_iter().chain(always).chain(exact_depth.then_some(Part::Depth))
}

/// Writes one frame in the Cityscapes layout. What an earlier frame of this name had and this one has not is removed:
/// it would be the truth of another picture.
pub(crate) fn write_frame(sample: &Sample, frame: &Frame, exact_depth: bool) -> anyhow::Result<()> {
    let (w, h) = frame.left.dimensions();
    if !exact_depth {
        sample.remove(Part::Depth)?;
    }
    match &frame.right {
        Some(right) => sample.write_picture(Part::Right, right)?,
        None => sample.remove(Part::Right)?,
    }
    sample.write_picture(Part::Left, &frame.left)?;
    sample.write_labels(&frame.labels, w, h)?;
    sample.write_disparity(&frame.depth_m, &frame.camera, w, h)?;
    if exact_depth {
        sample.write_depth(&frame.depth_m, w, h)?;
    }
    // Last: where a rendering goes on, a frame with its camera is done.
    sample.write_camera(&frame.camera)?;
    Ok(())
}

/// Renders what is not there of a drive; returns how many pixels of each scored class its frames have. Tells of each frame
/// whether it is new.
fn render_drive(
    args: &Args,
    config: &DriveConfig,
    (split, drive): (&str, u64),
    tick: impl Fn(bool),
) -> anyhow::Result<Vec<u64>> {
    // A street takes a while to build, and of one that is done nothing is needed.
    let mut street = None;
    let mut pixels = vec![0_u64; classes::SCORED_CLASSES];
    for index in 0..args.frames {
        let sample = args.sample(split, drive, index);
        let is_there = parts(!args.no_stereo, !args.no_exact_depth).all(|part| sample.path(part).is_file());
        let labels = if is_there {
            sample.read_labels()?.0
        } else {
            let frame = street.get_or_insert_with(|| Drive::new(config)).frame(index, !args.no_stereo);
            write_frame(&sample, &frame, !args.no_exact_depth)?;
            frame.labels
        };
        for label in labels {
            if let Some(count) = pixels.get_mut(usize::from(label)) {
                *count += 1;
            }
        }
        tick(!is_there);
    }
    Ok(pixels)
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    if !(args.rate.is_finite() && args.rate > 0.0) {
        bail!("--rate: expected frames a second above 0, found {}", args.rate);
    }
    let (width, height) = args.size;
    let focal_px = args.focal.unwrap_or(CITYSCAPES_FOCAL_PX * width as f64 / CITYSCAPES_WIDTH);
    if !(focal_px.is_finite() && focal_px > 1.0) {
        bail!("--focal: expected pixels above 1, found {focal_px}");
    }
    if !(args.baseline.is_finite() && args.baseline > 0.0) {
        bail!("--baseline: expected metres above 0, found {}", args.baseline);
    }
    let drive_of = |seed: u64| DriveConfig {
        seed,
        frames: args.frames,
        rate_hz: args.rate,
        width,
        height,
        focal_px,
        baseline_m: args.baseline,
        heights_m: args.camera_height,
    };
    let _held = hold(&args.out, "rendering")?;
    let splits: Vec<&(String, u64)> = args.splits.0.iter().filter(|(_, drives)| *drives > 0).collect();
    let records: Vec<(Recipe, There)> = splits
        .iter()
        .map(|(split, drives)| record_of(&args, split, *drives, &drive_of(args.seed)))
        .collect::<anyhow::Result<_>>()?;
    if !args.add {
        check_place(&args.out, &records)?;
    }
    let jobs: Vec<(&str, u64)> =
        splits.iter().flat_map(|(name, drives)| (0..*drives).map(move |d| (name.as_str(), d))).collect();
    for ((split, drives), (record, there)) in splits.iter().zip(&records) {
        if *there == There::Same {
            continue;
        }
        // What is there of other frames under these names goes first: were this interrupted, it would be taken for done.
        for drive in 0..*drives {
            (0..args.frames).try_for_each(|index| args.sample(split, drive, index).remove(Part::Camera))?;
        }
        record.write()?;
    }
    let total = jobs.len() * args.frames;
    let kept = AtomicUsize::new(0);
    let progress = Pieces::new(total as u64, "rendering");
    let started = Instant::now();
    let shares = jobs
        .par_iter()
        .map(|&(split, drive)| {
            let config = drive_of(drive_seed(args.seed, split, drive));
            render_drive(&args, &config, (split, drive), |is_new| {
                if is_new {
                    progress.one_more();
                } else {
                    kept.fetch_add(1, Ordering::Relaxed);
                    progress.one_was_there();
                }
            })
        })
        .try_reduce(
            || vec![0; classes::SCORED_CLASSES],
            |a, b| Ok(a.into_iter().zip(b).map(|(a, b)| a + b).collect()),
        )?;
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    let kept = kept.into_inner();
    let mut text = format!(
        "{} frames of {width}x{height} in {} drives written to {} ({:.2} frames/s){}\n",
        total - kept,
        jobs.len(),
        args.out.display(),
        (total - kept) as f64 / seconds,
        if kept > 0 { format!(", {kept} were there") } else { String::new() }
    );
    let all: u64 = shares.iter().sum::<u64>().max(1);
    for (class, pixels) in classes::cityscapes().iter().zip(&shares) {
        text += &format!("  {:<14} {:>7.3} % of the pixels\n", class.name, 100.0 * *pixels as f64 / all as f64);
    }
    super::print(text).context("the frames are written, but what they hold cannot be printed")
}

/// Name of a drive's street, which is a city to Cityscapes.
fn city(drive: u64) -> String {
    format!("street{drive:05}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn render_split(out: &Path, more: &[&str]) -> anyhow::Result<()> {
        let words = ["semantic_depth", "render", "--size", "64x32", "--out", out.to_str().expect("UTF-8")];
        crate::cli::Cli::try_parse_from(words.iter().chain(more).copied())?.run()
    }

    /// One frame.
    fn render(out: &Path, more: &[&str]) -> anyhow::Result<()> {
        render_split(out, &[&["--splits", "val=1", "--frames", "1"], more].concat())
    }

    #[test]
    fn splits_are_given_once_and_within_reason() {
        assert_eq!(parse_splits("train=3,val=0").expect("two").0, [("train".to_string(), 3), ("val".to_string(), 0)]);
        for (text, words) in [
            ("val=1,val=1", "'val' is there twice"),
            ("val=18446744073709551615", "drives of 'val': expected 0 to 100000"),
            ("val=-1", "drives of 'val': expected 0 to 100000"),
            ("day=1", "expected train, val or test"),
            ("val", "expected NAME=DRIVES"),
        ] {
            let error = parse_splits(text).expect_err(text);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_frame_that_is_replaced_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("street");
        let sample = Sample::new(&out, "val", "street00000", 0, 0);
        let there = || [Part::Left, Part::Right, Part::Depth].map(|part| sample.path(part).is_file());
        render(&out, &[]).expect("rendered");
        assert_eq!(there(), [true; 3]);
        render(&out, &["--seed", "2", "--add", "--no-exact-depth"]).expect("rendered");
        assert_eq!(there(), [true, true, false]);
        render(&out, &["--seed", "3", "--add", "--no-stereo"]).expect("rendered");
        assert_eq!(there(), [true, false, true]);
    }

    /// The whole folder: names and contents.
    fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = std::fs::read(&path).expect("a file");
                    all.push((path.strip_prefix(root).expect("within").into(), bytes));
                }
            }
        }
        all.sort();
        all
    }

    #[test]
    fn an_interrupted_rendering_goes_on_and_ends_as_a_whole_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
        let render =
            |out: &Path, more: &[&str]| render_split(out, &[&["--splits", "val=2", "--frames", "2"], more].concat());
        render(&whole, &[]).expect("rendered");
        render(&broken, &[]).expect("rendered");
        // As if it had ended while the third frame was written: its last part is not there, and nothing of the fourth.
        let third = Sample::new(&broken, "val", "street00001", 0, 0);
        let fourth = Sample::new(&broken, "val", "street00001", 0, 1);
        third.remove(Part::Camera).expect("removed");
        parts(true, true).for_each(|part| fourth.remove(part).expect("removed"));
        let first = Sample::new(&broken, "val", "street00000", 0, 0).path(Part::Left);
        let made = || std::fs::metadata(&first).and_then(|m| m.modified()).expect("a time");
        let before = made();
        render(&broken, &[]).expect("it goes on");
        assert_eq!(made(), before, "what was done is not made anew");
        assert!(contents(&whole) == contents(&broken), "another end than that of a whole rendering");

        let error = render(&broken, &["--seed", "2"]).expect_err("another seed");
        assert!(error.to_string().contains("was rendered in another way"), "{error}");
        // Frames of another rendering are never taken for done, not even by one that is interrupted.
        render(&whole, &["--seed", "2", "--add"]).expect("replaced");
        assert!(contents(&whole).iter().zip(contents(&broken)).all(|(a, b)| a.0 == b.0 && a.1 != b.1));
        // Somebody's own pictures are no rendering.
        std::fs::remove_file(broken.join("leftImg8bit/val").join(RECORD)).expect("removed");
        let error = render(&broken, &[]).expect_err("no record").to_string();
        assert!(error.contains("is not empty"), "{error}");
    }

    #[test]
    fn a_baseline_is_above_0() {
        let folder = tempfile::tempdir().expect("a folder");
        for wrong in ["0", "-0.2", "NaN", "inf"] {
            let error = render(folder.path(), &[&format!("--baseline={wrong}")]).expect_err(wrong).to_string();
            assert!(error.contains("--baseline: expected metres above 0") && error.ends_with(wrong), "{error}");
        }
    }

    #[test]
    fn heights_are_one_or_two() {
        assert_eq!(parse_heights("2.5"), Ok((2.5, 2.5)));
        assert_eq!(parse_heights("1.2..1.7"), Ok((1.2, 1.7)));
        for wrong in ["", "0", "9", "2..1", "1..", "NaN", "1..2..3", "1-2"] {
            let error = parse_heights(wrong).expect_err(wrong);
            assert!(error.contains("LOW..HIGH") && error.contains(wrong), "{error}");
        }
    }
}

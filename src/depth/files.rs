//! Depth of a whole split, as files: in parallel, each whole or not there, and going on where it was interrupted.

use super::clean::{clean, CleanOptions};
use super::{cut, Disparity};
use crate::data::cityscapes::{encode_disparity, Part, ReadOptions, Sample};
use crate::data::classes::SKY_TRAIN_ID;
use crate::data::disk::{hold, in_line, read_text, DataError, Recipe};
use crate::data::{npy, picture};
use anyhow::{bail, ensure, Context as _};
use rayon::prelude::*;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Name of the file beside the cities that says how the depth of a split was made.
pub const RECIPE: &str = "recipe.json";
/// So many broken frames are named in an error.
const NAMED: usize = 5;

/// What is made, and where.
#[derive(Debug, Clone)]
pub struct Job {
    /// Folder beside `leftImg8bit`.
    pub folder: String,
    /// Cleaning.
    pub clean: CleanOptions,
    /// Data set to write instead, with all parts of each frame cut to what cleaning leaves of it ([`cut`]).
    pub cut_into: Option<PathBuf>,
    /// Pixels that the labels call sky become infinitely far: stereo finds something in an even sky, or nothing.
    pub sky_from_labels: bool,
    /// Of the depth files.
    pub precision: npy::Precision,
    /// Make what is there already anew; what was made in another way is removed before anything is made.
    pub overwrite: bool,
    /// Write disparity after Cityscapes' fashion, too.
    pub write_disparity: bool,
    /// Frames that are worked on at the same time, which bounds memory; at least 1.
    pub frames_at_once: usize,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Files that were written.
    pub made: usize,
    /// Files that were there.
    pub skipped: usize,
}

/// Pictures that turned out to be broken when they were decoded; all other frames have their depth.
#[derive(Debug, thiserror::Error)]
#[error("{count} of {of} frames have broken pictures: {what}")]
pub struct Broken {
    /// The others.
    pub done: Done,
    count: usize,
    of: usize,
    what: String,
}

/// The frames of a split with the named parts, whatever else they have.
///
/// # Errors
/// No frame, or frames without one of `parts`: the first are named.
pub fn frames(root: &Path, split: &str, options: &ReadOptions, parts: &[Part]) -> anyhow::Result<Vec<Sample>> {
    let samples = Sample::index(root, split, options)?;
    let missing: Vec<PathBuf> =
        samples.iter().flat_map(|s| parts.iter().map(|p| s.path(*p))).filter(|p| !p.is_file()).collect();
    if let Some(first) = missing.first() {
        bail!(
            "split '{split}' of {}: {} files are missing from its {} frames, the first is {}",
            root.display(),
            missing.len(),
            samples.len(),
            first.display()
        );
    }
    Sample::check_all(&samples, parts)?;
    Ok(samples)
}

/// Whether [`run`] may begin, which asks this itself, too: several splits are all asked before the first one is made.
/// Nothing is written or removed.
///
/// # Errors
/// The job contradicts itself, its edges leave nothing of a picture, it would replace files of its source, or would replace
/// or mix with what it has not made.
pub fn check(samples: &[Sample], job: &Job, how: &impl Serialize) -> anyhow::Result<()> {
    let Some(first) = samples.first() else { return Ok(()) };
    ensure!(
        job.folder != "exactDepth",
        "exactDepth is the folder of exact depth, which nothing but `render` writes: choose another name"
    );
    ensure!(
        job.cut_into.is_none() || job.clean.edges.is_some(),
        "a data set is cut at the edges, but cropping is off: leave one of the two out"
    );
    ensure!(
        job.cut_into.is_none() || !job.write_disparity,
        "a cut and stretched data set has no disparity: leave one of the two out"
    );
    if let Some(edges) = &job.clean.edges {
        let (width, height) = picture::size(&first.path(Part::Left), None)?;
        edges.window(width as usize, height as usize).map_err(anyhow::Error::msg)?;
    }
    if let Some(root) = &job.cut_into {
        samples.iter().try_for_each(|sample| check_apart(sample, root))?;
    }
    let recipe = recipe_of(first, job, how)?;
    check_same_cut(first, job, &recipe)?;
    if job.overwrite {
        return Ok(());
    }
    if let Some(text) = &recipe.there {
        let path = recipe.path.display();
        let there: serde_json::Value = serde_json::from_str(text).with_context(|| path.to_string())?;
        let asked = recipe.asked()?;
        ensure!(
            there == asked,
            "{path} says that the depth there was made in another way; pass --overwrite to make it anew, or choose \
             another folder. There: {there}. Asked for: {asked}"
        );
        return Ok(());
    }
    if let Some(there) = samples.iter().map(|s| target(s, job).depth_file(&job.folder)).find(|p| p.exists()) {
        bail!(
            "{} is there, and no {RECIPE} says how it was made; pass --overwrite to make it anew, or choose another \
             folder",
            there.display()
        );
    }
    let picture =
        samples.iter().map(|s| target(s, job).path(Part::Left)).find(|p| job.cut_into.is_some() && p.exists());
    if let Some(there) = picture {
        bail!(
            "{} is there and would be replaced by a cut one, and no {RECIPE} says that this job wrote it; choose a \
             folder of its own for --cut-into, or pass --overwrite to replace it",
            there.display()
        );
    }
    let replaced = samples.iter().map(|s| s.path(Part::Disparity)).find(|p| job.write_disparity && p.exists());
    if let Some(there) = replaced {
        bail!("{} is there and would be replaced; pass --overwrite to replace it", there.display());
    }
    Ok(())
}

/// Other depth of a cut data set lies on its pictures, which another cut would replace: the recipe of each says how it was cut.
fn check_same_cut(first: &Sample, job: &Job, recipe: &Recipe) -> anyhow::Result<()> {
    let Some(root) = &job.cut_into else { return Ok(()) };
    let folders = match std::fs::read_dir(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(DataError::io(root))?,
    };
    let asked = recipe.asked()?;
    let split = split_folder(first, job);
    for folder in folders {
        let other = folder.path().join(split.file_name().unwrap_or_default()).join(RECIPE);
        if other == recipe.path || !other.is_file() {
            continue;
        }
        let text = read_text(&other)?;
        let there: serde_json::Value = serde_json::from_str(&text).with_context(|| other.display().to_string())?;
        let edges = |recipe: &serde_json::Value| recipe["clean"]["edges"].clone();
        ensure!(
            there["edges"] != asked["edges"] || edges(&there) == edges(&asked),
            "{} says that its depth lies on pictures that were cut in another way, and they would be replaced; choose a \
             folder of its own for --cut-into, or the same edges. There: {}. Asked for: {}",
            other.display(),
            edges(&there),
            edges(&asked)
        );
    }
    Ok(())
}

/// A frame is never cut in place, however the folders are linked: there would be no whole one left, and a run that goes
/// on after an interruption would cut it twice.
fn check_apart(sample: &Sample, root: &Path) -> anyhow::Result<()> {
    let target = sample.in_root(root);
    for part in [Part::Left, Part::Labels, Part::Camera] {
        // Files are replaced by name within their folder, so folders are compared. One that is not there is nobody's.
        let place = |sample: &Sample| sample.path(part).parent().and_then(|folder| folder.canonicalize().ok());
        if let Some(folder) = place(&target).filter(|folder| place(sample).as_ref() == Some(folder)) {
            bail!(
                "--cut-into {}: {} is where the frames are read from, and its files would be replaced by cut ones; \
                 choose a folder of its own",
                root.display(),
                folder.display()
            );
        }
    }
    Ok(())
}

/// Makes the depth of `samples`, all of one split, with `make`; `how` describes `make` in the recipe. Calls `tick`
/// after each frame, with whether it was not there before. Files that are there stay, if they were made in the same way.
///
/// # Errors
/// What [`check`] finds; a frame cannot be read, made or written. Frames that are done stay done. [`Broken`] comes after all that can
/// be made.
pub fn run(
    samples: &[Sample],
    job: &Job,
    how: &impl Serialize,
    make: impl Fn(&Sample) -> anyhow::Result<Disparity> + Sync,
    tick: impl Fn(bool) + Sync,
) -> anyhow::Result<Done> {
    check(samples, job, how)?;
    let Some(first) = samples.first() else { return Ok(Done { made: 0, skipped: 0 }) };
    // From here to the last file nobody else writes there: depth of two kinds never mixes. Until here somebody may have.
    let _held = hold(&split_folder(first, job), "making of depth")?;
    check(samples, job, how)?;
    begin(&recipe_of(first, job, how)?, samples, job)?;
    let (made, skipped) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let broken = Mutex::new(Vec::new());
    for chunk in samples.chunks(job.frames_at_once.max(1)) {
        chunk.par_iter().try_for_each(|sample| -> anyhow::Result<()> {
            let is_new = job.overwrite || !is_done(sample, job);
            if !is_new {
                skipped.fetch_add(1, Ordering::Relaxed);
            } else if let Err(error) = one(sample, job, &make).with_context(|| sample.stem().to_string()) {
                // A picture that is broken is one frame's fault; all else is the work's.
                match error.downcast::<DataError>() {
                    Ok(error @ DataError::Bad { .. }) => {
                        // What was there before is of another picture, and would pass for what is made anew.
                        remove_depth(&target(sample, job), &job.folder)?;
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push((sample.stem().to_string(), error));
                    }
                    Ok(error) => return Err(anyhow::Error::new(error).context(sample.stem().to_string())),
                    Err(error) => return Err(error),
                }
            } else {
                made.fetch_add(1, Ordering::Relaxed);
            }
            tick(is_new);
            Ok(())
        })?;
    }
    let done = Done { made: made.into_inner(), skipped: skipped.into_inner() };
    let mut broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !broken.is_empty() {
        // Threads have found them in any order.
        broken.sort_by(|(a, _), (b, _)| a.cmp(b));
        let errors: Vec<DataError> = broken.into_iter().map(|(_, error)| error).collect();
        let (count, of, what) = (errors.len(), samples.len(), in_line(&errors, NAMED));
        return Err(Broken { done, count, of, what }.into());
    }
    Ok(done)
}

/// Where a frame's results go.
fn target(sample: &Sample, job: &Job) -> Sample {
    job.cut_into.as_ref().map_or_else(|| sample.clone(), |root| sample.in_root(root))
}

/// Where the depth of a split goes.
fn split_folder(first: &Sample, job: &Job) -> PathBuf {
    let file = target(first, job).depth_file(&job.folder);
    file.parent().and_then(Path::parent).unwrap_or(&file).into()
}

/// Depth is written last, so where it is, everything is.
fn is_done(sample: &Sample, job: &Job) -> bool {
    npy::read_size(&target(sample, job).depth_file(&job.folder)).is_ok()
}

/// How the depth of a split is made, and the file that says so.
fn recipe_of(first: &Sample, job: &Job, how: &impl Serialize) -> Result<Recipe, DataError> {
    let edges = if job.cut_into.is_some() { "cut off, and the frame stretched" } else { "unknown" };
    let json = serde_json::json!({
        "how": how,
        "clean": job.clean,
        "edges": edges,
        "sky_from_labels": job.sky_from_labels,
        "half": job.precision == npy::Precision::Half,
        "disparity_written": job.write_disparity,
    });
    Recipe::read(split_folder(first, job).join(RECIPE), json)
}

/// Leaves the recipe there. Depth of another recipe that is to be overwritten goes first: an interrupted run would be
/// taken up under the new recipe, with files of both kinds.
fn begin(recipe: &Recipe, samples: &[Sample], job: &Job) -> anyhow::Result<()> {
    if job.overwrite {
        if !recipe.is_same() {
            samples.iter().try_for_each(|sample| remove_depth(&target(sample, job), &job.folder))?;
        }
    } else if recipe.there.is_some() {
        // The same one, as `check` has found.
        return Ok(());
    }
    recipe.write()?;
    Ok(())
}

/// Removes a frame's depth, under whichever of its names.
fn remove_depth(sample: &Sample, folder: &str) -> Result<(), DataError> {
    loop {
        let path = sample.depth_file(folder);
        if !path.is_file() {
            return Ok(());
        }
        std::fs::remove_file(&path).map_err(DataError::io(&path))?;
    }
}

fn one(sample: &Sample, job: &Job, make: impl Fn(&Sample) -> anyhow::Result<Disparity>) -> anyhow::Result<()> {
    let mut disparity = make(sample)?;
    clean(&mut disparity, &job.clean).map_err(anyhow::Error::msg)?;
    let (width, height) = (disparity.width, disparity.height);
    let (baseline_m, focal_px) = sample.read_camera()?;
    let mut depth_m = disparity.depth_m(baseline_m, focal_px);
    if job.sky_from_labels {
        mark_sky(sample, &mut depth_m, (width, height))?;
    }
    let target = target(sample, job);
    if let (Some(_), Some(edges)) = (&job.cut_into, &job.clean.edges) {
        let window = edges.window(width, height).map_err(anyhow::Error::msg)?;
        cut::write_frame(sample, &target, window)?;
        depth_m = cut::stretch(&depth_m, width, height, window);
    }
    if job.write_disparity {
        let codes = disparity.px.iter().map(|&d| encode_disparity(d)).collect();
        sample.write_disparity_codes(codes, width as u32, height as u32)?;
    }
    npy::write(&target.depth_file(&job.folder), &depth_m, width as u32, height as u32, job.precision)?;
    Ok(())
}

/// Makes the sky of the labels infinitely far, as in exact depth.
fn mark_sky(sample: &Sample, depth_m: &mut [f32], (width, height): (usize, usize)) -> anyhow::Result<()> {
    let (labels, w, h) = sample.read_labels()?;
    ensure!(
        (w as usize, h as usize) == (width, height),
        "{}: expected labels of {width}x{height} as the depth has, found {w}x{h}",
        sample.path(Part::Labels).display()
    );
    for (depth, _) in depth_m.iter_mut().zip(&labels).filter(|(_, &label)| label == SKY_TRAIN_ID) {
        *depth = f32::INFINITY;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::clean::Edges;
    use super::*;
    use crate::data::cityscapes::{DepthFiles, LabelFiles};
    use crate::data::street::Camera;
    use image::RgbImage;
    use std::time::SystemTime;

    const WIDTH: usize = 20;
    const HEIGHT: usize = 10;

    /// Frames of 20x10 with a disparity of 4 pixels (of 0.5 m x 100 px: 12.5 m) and a hole in the middle.
    fn data_set(frames: usize) -> (tempfile::TempDir, Vec<Sample>) {
        let folder = tempfile::tempdir().expect("a folder");
        let camera = Camera {
            focal_px: 100.0,
            center_x: 10.0,
            center_y: 5.0,
            baseline_m: 0.5,
            height_m: 1.0,
            pitch: 0.0,
            yaw: 0.0,
            roll: 0.0,
        };
        for frame in 0..frames {
            let sample = Sample::new(folder.path(), "train", "town", 0, frame);
            sample.write_picture(Part::Left, &RgbImage::new(20, 10)).expect("written");
            let mut codes = vec![encode_disparity(4.0); WIDTH * HEIGHT];
            codes[4 * WIDTH + 9] = 0;
            sample.write_disparity_codes(codes, 20, 10).expect("written");
            sample.write_camera(&camera).expect("written");
        }
        let options = ReadOptions { labels: LabelFiles::None, depth: DepthFiles::Disparity };
        let samples = frames_of(folder.path(), &options);
        (folder, samples)
    }

    fn frames_of(root: &Path, options: &ReadOptions) -> Vec<Sample> {
        frames(root, "train", options, &[]).expect("whole")
    }

    fn job() -> Job {
        Job {
            folder: "made".into(),
            clean: CleanOptions::NONE,
            cut_into: None,
            sky_from_labels: false,
            precision: npy::Precision::Single,
            overwrite: false,
            write_disparity: false,
            frames_at_once: 2,
        }
    }

    fn own(sample: &Sample) -> anyhow::Result<Disparity> {
        Ok(Disparity::read(sample)?)
    }

    fn make(samples: &[Sample], job: &Job) -> anyhow::Result<Done> {
        run(samples, job, &"test", own, |_| ())
    }

    #[test]
    fn depth_is_written_where_training_reads_it() {
        let (folder, samples) = data_set(3);
        let ticks = AtomicUsize::new(0);
        let count = |_| {
            ticks.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(run(&samples, &job(), &"test", own, count).expect("made"), Done { made: 3, skipped: 0 });
        assert_eq!(ticks.into_inner(), 3);
        let options = ReadOptions { labels: LabelFiles::None, depth: "made".parse().expect("a folder") };
        for sample in frames_of(folder.path(), &options) {
            let (depth, w, h) = sample.read_depth().expect("read");
            assert_eq!((w, h), (20, 10));
            assert!(depth.iter().enumerate().all(|(i, &d)| if i == 89 { d.is_nan() } else { d == 12.5 }));
        }
    }

    #[test]
    fn an_interrupted_run_goes_on_and_what_is_there_stays() {
        let (_folder, samples) = data_set(4);
        // The third frame fails at first: what was made before stays.
        let failing = |sample: &Sample| {
            ensure!(!sample.stem().ends_with("000002"), "no power");
            own(sample)
        };
        let one_at_once = Job { frames_at_once: 1, ..job() };
        let error = format!("{:#}", run(&samples, &one_at_once, &"test", failing, |_| ()).expect_err("it failed"));
        assert!(error.contains("town_000000_000002") && error.contains("no power"), "{error}");
        let made = |i: usize| -> SystemTime {
            let path = samples[i].depth_file("made");
            std::fs::metadata(path).and_then(|m| m.modified()).expect("a time")
        };
        let before = [made(0), made(1)];
        // A file that is cut short counts for nothing.
        let path = samples[3].depth_file("made");
        std::fs::write(&path, b"\x93NUMPY").expect("written");
        assert_eq!(make(&samples, &job()).expect("made"), Done { made: 2, skipped: 2 });
        assert_eq!([made(0), made(1)], before);
        assert_eq!(make(&samples, &job()).expect("made"), Done { made: 0, skipped: 4 });
        assert_eq!(make(&samples, &Job { overwrite: true, ..job() }).expect("made"), Done { made: 4, skipped: 0 });
    }

    #[test]
    fn broken_pictures_are_told_after_all_others_are_made() {
        let (_folder, samples) = data_set(5);
        let broken = |sample: &Sample| {
            if ["000001", "000003"].iter().any(|number| sample.stem().ends_with(number)) {
                let error = DataError::bad(&sample.path(Part::Left), "unknown filter method");
                return Err(anyhow::Error::new(error).context("left picture"));
            }
            own(sample)
        };
        let error = format!("{:#}", run(&samples, &job(), &"test", broken, |_| ()).expect_err("two are broken"));
        assert!(error.contains("2 of 5 frames have broken pictures: "), "{error}");
        assert!(error.contains("town_000000_000001_leftImg8bit.png: unknown filter method; "), "{error}");
        assert!(error.contains("town_000000_000003_leftImg8bit.png: the same"), "{error}");
        let ticks = Mutex::new([0, 0]);
        let done = run(&samples, &job(), &"test", own, |is_new| ticks.lock().expect("alone")[usize::from(is_new)] += 1);
        assert_eq!(done.expect("mended"), Done { made: 2, skipped: 3 });
        assert_eq!(ticks.into_inner().expect("alone"), [3, 2]);
        // Depth of what the picture was before it broke does not stay.
        let anew = Job { overwrite: true, ..job() };
        let error = run(&samples, &anew, &"test", broken, |_| ()).expect_err("two are broken again");
        let done = error.downcast::<Broken>().expect("no other reason").done;
        assert_eq!(done, Done { made: 3, skipped: 0 });
        assert_eq!(make(&samples, &job()).expect("mended"), Done { made: 2, skipped: 3 });
    }

    #[test]
    fn depth_made_in_two_ways_is_never_mixed() {
        let (_folder, samples) = data_set(1);
        make(&samples, &job()).expect("made");
        let filled = Job { clean: CleanOptions { hole_px: 3, ..CleanOptions::NONE }, ..job() };
        let error = make(&samples, &filled).expect_err("another way").to_string();
        assert!(error.contains("recipe.json") && error.contains("--overwrite"), "{error}");
        make(&samples, &Job { overwrite: true, ..filled.clone() }).expect("made anew");
        assert_eq!(make(&samples, &filled).expect("the same way"), Done { made: 0, skipped: 1 });
        let (depth, ..) = npy::read(&samples[0].depth_file("made")).expect("read");
        assert_eq!(depth[89], 12.5, "the hole is filled");
        // Depth of unknown origin is not taken for ours.
        std::fs::remove_file(samples[0].depth_file("made").with_file_name("../recipe.json")).expect("removed");
        assert!(make(&samples, &filled).expect_err("whose?").to_string().contains("no recipe.json"));
    }

    #[test]
    fn an_interrupted_overwrite_goes_on_without_what_it_replaces() {
        let (_folder, samples) = data_set(3);
        make(&samples, &job()).expect("made");
        // Under another accepted name, too.
        let other = samples[2].depth_file("made").with_file_name(format!("{}.npy", samples[2].stem()));
        std::fs::copy(samples[2].depth_file("made"), other).expect("copied");
        let filled = Job { clean: CleanOptions { hole_px: 3, ..CleanOptions::NONE }, frames_at_once: 1, ..job() };
        let failing = |sample: &Sample| {
            ensure!(!sample.stem().ends_with("000001"), "no power");
            own(sample)
        };
        let overwrite = Job { overwrite: true, ..filled.clone() };
        run(&samples, &overwrite, &"test", failing, |_| ()).expect_err("it failed");
        assert_eq!(make(&samples, &filled).expect("it goes on"), Done { made: 2, skipped: 1 });
        for sample in &samples {
            let (depth, ..) = npy::read(&sample.depth_file("made")).expect("read");
            assert_eq!(depth[89], 12.5, "{}: the hole is filled", sample.stem());
        }
        // Made anew in the same way, what is there stays until it is replaced.
        run(&samples, &overwrite, &"test", failing, |_| ()).expect_err("it failed");
        assert!(samples.iter().all(|sample| sample.depth_file("made").is_file()));
    }

    #[test]
    fn truth_and_disparity_are_not_overwritten_by_accident() {
        let (_folder, samples) = data_set(1);
        let error = make(&samples, &Job { folder: "exactDepth".into(), ..job() }).expect_err("refused").to_string();
        assert!(error.contains("choose another name"), "{error}");
        let error = make(&samples, &Job { write_disparity: true, ..job() }).expect_err("refused").to_string();
        assert!(error.contains("would be replaced"), "{error}");
        let twice = |s: &Sample| {
            let mut d = own(s)?;
            d.px.iter_mut().for_each(|d| *d *= 2.0);
            Ok(d)
        };
        let job = Job { write_disparity: true, overwrite: true, ..job() };
        run(&samples, &job, &"twice", twice, |_| ()).expect("made");
        assert_eq!(samples[0].read_disparity().expect("read").0[0], 8.0);
    }

    #[test]
    fn the_sky_of_the_labels_is_infinitely_far() {
        let (_folder, samples) = data_set(1);
        let job = Job { sky_from_labels: true, ..job() };
        assert!(make(&samples, &job).is_err(), "read without labels");
        let labels: Vec<u8> = (0..WIDTH * HEIGHT).map(|i| if i < WIDTH { SKY_TRAIN_ID } else { 0 }).collect();
        samples[0].write_labels(&labels, 20, 10).expect("written");
        let with_labels = [samples[0].clone().with_options(&ReadOptions::default())];
        make(&with_labels, &job).expect("made");
        let (depth, ..) = npy::read(&samples[0].depth_file("made")).expect("read");
        assert!(depth[..WIDTH].iter().all(|&d| d == f32::INFINITY) && depth[WIDTH..40].iter().all(|&d| d == 12.5));
    }

    #[test]
    fn a_cut_data_set_has_all_parts() {
        let (folder, samples) = data_set(2);
        let out = folder.path().join("cut");
        let job = cutting(&out);
        assert_eq!(make(&samples, &job).expect("made"), Done { made: 2, skipped: 0 });
        let options = ReadOptions { labels: LabelFiles::None, depth: "made".parse().expect("a folder") };
        for sample in frames_of(&out, &options) {
            assert!(sample.read_depth().expect("read").0.iter().all(|&d| d == 12.5), "nothing is masked");
            assert_eq!(sample.read_focal().expect("camera"), (200.0, 200.0));
        }
        let no_edges = Job { clean: CleanOptions::NONE, ..job };
        assert!(make(&samples, &no_edges).expect_err("refused").to_string().contains("cropping is off"));
    }

    #[test]
    fn edges_that_leave_nothing_are_told_before_anything_is_replaced() {
        let (_folder, samples) = data_set(2);
        make(&samples, &job()).expect("made");
        let made = samples[0].depth_file("made");
        for (bottom, words) in [(20.0, "bottom edge: expected a share"), (0.96, "take all of a picture of 20x10")] {
            let edges = Some(Edges { left: 0.0, top: 0.0, bottom });
            let job = Job { clean: CleanOptions { edges, ..CleanOptions::NONE }, overwrite: true, ..job() };
            let error = make(&samples, &job).expect_err("nothing is left").to_string();
            assert!(error.contains(words), "{error}");
            assert!(made.is_file(), "what was there is gone");
        }
    }

    /// A job that cuts the upper right quarter out of frames.
    fn cutting(into: &Path) -> Job {
        let edges = Some(Edges { left: 0.5, top: 0.0, bottom: 0.5 });
        Job { clean: CleanOptions { edges, ..CleanOptions::NONE }, cut_into: Some(into.into()), ..job() }
    }

    #[test]
    fn frames_are_never_cut_in_place() {
        let (folder, samples) = data_set(1);
        let picture = samples[0].path(Part::Left);
        let before = std::fs::read(&picture).expect("read");
        // The source itself, and a root whose pictures, or cameras alone, are links to the source's.
        let roots = [folder.path().to_path_buf(), folder.path().join("linked"), folder.path().join("cameras")];
        for (root, part) in roots[1..].iter().zip(["leftImg8bit", "camera"]) {
            std::fs::create_dir(root).expect("a folder");
            std::os::unix::fs::symlink(folder.path().join(part), root.join(part)).expect("linked");
        }
        for root in &roots {
            for overwrite in [false, true] {
                let error = make(&samples, &Job { overwrite, ..cutting(root) }).expect_err("refused").to_string();
                assert!(error.contains("choose a folder of its own"), "{error}");
            }
            assert!(!root.join("made").exists(), "nothing is begun");
        }
        assert_eq!(std::fs::read(&picture).expect("read"), before);
        assert_eq!(samples[0].read_focal().expect("camera"), (100.0, 100.0));
    }

    #[test]
    fn two_never_write_into_one_folder() {
        let (_folder, samples) = data_set(1);
        let job = Job { overwrite: true, ..job() };
        let held = hold(&split_folder(&samples[0], &job), "making of depth").expect("it is free");
        let error = make(&samples, &job).expect_err("another is at work").to_string();
        assert!(error.contains("is in use by another making of depth"), "{error}");
        drop(held);
        assert_eq!(make(&samples, &job).expect("made"), Done { made: 1, skipped: 0 });
    }

    /// As `cp -al` and `cp -rs` make it.
    #[test]
    fn a_copy_of_links_is_cut_and_its_source_is_not() {
        let (folder, samples) = data_set(2);
        let root = folder.path().join("links");
        let sources = samples.iter().flat_map(|sample| [sample.path(Part::Left), sample.path(Part::Camera)]);
        let before: Vec<(PathBuf, Vec<u8>)> =
            sources.map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect();
        for part in [Part::Left, Part::Camera] {
            let [hard, soft] = [0, 1].map(|i| samples[i].in_root(&root).path(part));
            std::fs::create_dir_all(hard.parent().expect("a folder")).expect("made");
            std::fs::hard_link(samples[0].path(part), hard).expect("linked");
            std::os::unix::fs::symlink(samples[1].path(part), soft).expect("linked");
        }
        let job = Job { overwrite: true, ..cutting(&root) };
        assert_eq!(make(&samples, &job).expect("cut"), Done { made: 2, skipped: 0 });
        for (path, bytes) in before {
            assert!(std::fs::read(&path).expect("read") == bytes, "{}", path.display());
        }
        assert!(samples.iter().all(|s| s.in_root(&root).read_focal().expect("camera") == (200.0, 200.0)));
    }

    #[test]
    fn another_data_set_is_not_cut_into_by_accident() {
        let (folder, samples) = data_set(2);
        let root = folder.path().join("other");
        let theirs = samples[1].in_root(&root);
        theirs.write_picture(Part::Left, &RgbImage::new(4, 4)).expect("written");
        let before = std::fs::read(theirs.path(Part::Left)).expect("read");
        let error = make(&samples, &cutting(&root)).expect_err("refused").to_string();
        assert!(error.contains("000001_leftImg8bit.png is there") && error.contains("--overwrite"), "{error}");
        assert_eq!(std::fs::read(theirs.path(Part::Left)).expect("read"), before);
        assert!(!samples[0].in_root(&root).path(Part::Left).exists(), "nothing is begun");
        let done = make(&samples, &Job { overwrite: true, ..cutting(&root) }).expect("asked for");
        assert_eq!(done, Done { made: 2, skipped: 0 });
        // What the job itself has written is gone on with.
        assert_eq!(make(&samples, &cutting(&root)).expect("ours"), Done { made: 0, skipped: 2 });
    }

    #[test]
    fn pictures_that_other_depth_lies_on_are_not_cut_in_another_way() {
        let (folder, samples) = data_set(2);
        let root = folder.path().join("cut");
        make(&samples, &cutting(&root)).expect("made");
        let picture = samples[0].in_root(&root).path(Part::Left);
        let before = std::fs::read(&picture).expect("read");
        let second = Job { folder: "second".into(), overwrite: true, ..cutting(&root) };
        assert_eq!(make(&samples, &second).expect("the same edges"), Done { made: 2, skipped: 0 });
        let edges = Some(Edges { left: 0.25, top: 0.0, bottom: 0.5 });
        let clean = CleanOptions { edges, ..CleanOptions::NONE };
        for (folder, overwrite) in [("third", true), ("third", false), ("second", true)] {
            let job = Job { folder: folder.into(), overwrite, clean, ..second.clone() };
            let error = make(&samples, &job).expect_err("other edges").to_string();
            assert!(error.contains("made/train/recipe.json") || error.contains("second/train/recipe.json"), "{error}");
            assert!(error.contains("cut in another way") && error.contains(r#""left":0.25"#), "{error}");
        }
        assert!(std::fs::read(&picture).expect("read") == before, "it was cut anew");
        // With no other depth on them they may be.
        std::fs::remove_dir_all(root.join("made")).expect("removed");
        make(&samples, &Job { clean, ..second }).expect("made anew");
        assert!(samples[0].in_root(&root).read_focal().expect("camera").0 < 200.0, "it is the old one");
    }

    #[test]
    fn a_frame_without_its_right_picture_is_named_before_anything_is_made() {
        let (folder, samples) = data_set(2);
        samples[0].write_picture(Part::Right, &RgbImage::new(20, 10)).expect("written");
        let options = ReadOptions { labels: LabelFiles::None, depth: DepthFiles::None };
        let error = frames(folder.path(), "train", &options, &[Part::Right]).expect_err("one lacks it").to_string();
        assert!(
            error.contains("1 files are missing") && error.contains("town_000000_000001_rightImg8bit.png"),
            "{error}"
        );
        samples[1].write_picture(Part::Right, &RgbImage::new(20, 11)).expect("written");
        let error = frames(folder.path(), "train", &options, &[Part::Right]).expect_err("another size").to_string();
        assert!(error.contains("1 of 2 frames") && error.contains("found 20x11"), "{error}");
    }
}

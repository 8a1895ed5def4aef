//! Frames of all sources, mixed, augmented and put together into batches, some of them ahead of the training.
//!
//! Which frame and which random numbers crop `n` of a phase gets follows from the run's seed and `n` alone, whatever
//! the threads do: a resumed run sees the crops that it would have seen.

use super::config::{Cache, Phase, TrainConfig, Turn};
use super::guard::guarded;
use super::labels::LabelTable;
use super::origin;
use super::packed::Packed;
use crate::data::augment::{self, AugmentConfig, Crop, CropSize};
use crate::data::disk::DataError;
use crate::data::frame::Decoded;
use crate::data::source::{self, Facts, Groups, Item};
use crate::model::Task;
use anyhow::{bail, Context as _};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg32;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::thread::JoinHandle;
use tch::{Device, Kind};

/// Batches that may wait.
const AHEAD: usize = 2;
/// Frames that fill less of a phase's crops are warned of. Those of the recipes in `config/train` fill 0.84 and more.
const FILLED: f32 = 0.82;
/// Frames of a source of which classes are counted for their weights, when frames are not kept in memory.
const COUNTED: usize = 500;
/// Cameras whose focal lengths differ by no more than this factor are taken as one.
const ONE_CAMERA: f64 = 1.01;

/// The training frames of one source.
#[derive(Debug)]
pub struct Supply {
    /// The source's name.
    pub name: String,
    /// Its part of the crops, 0 to 1.
    pub share: f64,
    /// Factor on a phase's scales.
    pub scale: f32,
    /// Factor on the aspect.
    pub aspect: f32,
    /// Width and height of most frames, pixels.
    size: (usize, usize),
    /// Whether any frame has labels.
    labelled: bool,
    /// Of each frame with depth: [`Facts::focal_share`].
    focals: Vec<Option<f64>>,
    /// As they were indexed.
    pub origin: origin::Frames,
    frames: Frames,
}

#[derive(Debug)]
enum Frames {
    Decoded(Vec<Decoded>),
    OnDisk(Vec<Item>),
}

impl Supply {
    /// Frames.
    #[allow(clippy::len_without_is_empty)] // there is always one
    pub fn len(&self) -> usize {
        match &self.frames {
            Frames::Decoded(frames) => frames.len(),
            Frames::OnDisk(items) => items.len(),
        }
    }

    /// Size and augmentation as they are for this source.
    fn own(&self, size: &CropSize, config: &AugmentConfig) -> (CropSize, AugmentConfig) {
        let (low, high) = size.scale;
        let size = CropSize { scale: (low * self.scale, high * self.scale), ..*size };
        (size, AugmentConfig { aspect: config.aspect * self.aspect, ..config.clone() })
    }

    fn crop(&self, index: usize, size: &CropSize, config: &AugmentConfig, seed: u64) -> Result<Crop, DataError> {
        let (size, config) = &self.own(size, config);
        let mut rng = Pcg32::seed_from_u64(seed);
        match &self.frames {
            Frames::Decoded(frames) => Ok(augment::crop(&frames[index], size, config, &mut rng)),
            Frames::OnDisk(items) => Ok(augment::crop(&items[index].decode()?, size, config, &mut rng)),
        }
    }

    /// How often each label code occurs, in all frames that are in memory or in a part of those that are not.
    fn label_counts(&self) -> Result<[u64; 256], DataError> {
        let count = |frame: &Decoded| {
            let mut counts = [0_u64; 256];
            for &label in frame.labels.iter().flatten() {
                counts[usize::from(label)] += 1;
            }
            counts
        };
        let add = |a: [u64; 256], b: [u64; 256]| std::array::from_fn(|i| a[i] + b[i]);
        match &self.frames {
            Frames::Decoded(frames) => Ok(frames.par_iter().map(count).reduce(|| [0; 256], add)),
            Frames::OnDisk(items) => {
                let every = items.len().div_ceil(COUNTED).max(1);
                items
                    .par_iter()
                    .step_by(every)
                    .map(|i| Ok(count(&i.decode()?)))
                    .try_reduce(|| [0; 256], |a, b| Ok(add(a, b)))
            }
        }
    }
}

/// The training frames of all sources, and what their label codes are.
///
/// # Errors
/// The first frame or source that cannot be read, before any training.
pub fn supplies(config: &TrainConfig, groups: &mut Groups) -> anyhow::Result<Vec<Supply>> {
    let mut supplies = Vec::new();
    for part in &config.sources {
        let context = || format!("source {}", part.name);
        let items = part.data.index(&part.train, groups).with_context(context)?;
        let origin = origin::Frames::of(&items);
        // A broken file is an error now and not at epoch 40.
        let mut facts = source::check_all(&items).with_context(context)?;
        let frames = match (config.cache, &part.expert) {
            (Cache::None, None) => Frames::OnDisk(items),
            (_, expert) => {
                let kept = if expert.is_some() { Kept::Expert } else { Kept::Cache };
                make_room(&part.name, &facts, kept, available_bytes()).with_context(context)?;
                Frames::Decoded(match expert {
                    None => items.par_iter().map(Item::decode).collect::<Result<_, _>>().with_context(context)?,
                    Some(model) => {
                        let frames = super::expert::decode(&items, model, &part.name)?;
                        for (facts, frame) in facts.iter_mut().zip(&frames) {
                            let (labels, depth) = (frame.labels.is_some(), frame.depth_m.is_some());
                            *facts = Facts { labels, depth, focal_px: frame.focal_px, ..*facts };
                        }
                        frames
                    }
                })
            }
        };
        check_focal(config, &facts).with_context(context)?;
        let mut supply = Supply {
            name: part.name.clone(),
            share: 0.0,
            scale: part.scale as f32,
            aspect: part.aspect as f32,
            size: most_frequent(facts.iter().map(|f| (f.width, f.height))),
            labelled: facts.iter().any(|f| f.labels),
            focals: facts.iter().filter(|f| f.depth).map(Facts::focal_share).collect(),
            origin,
            frames,
        };
        supply.share = part.share.unwrap_or(supply.len() as f64);
        supplies.push(supply);
    }
    let all: f64 = supplies.iter().map(|s| s.share).sum();
    supplies.iter_mut().for_each(|s| s.share /= all);
    Ok(supplies)
}

/// Why frames are decoded once and stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// `cache: memory`.
    Cache,
    /// An expert completes each frame as a whole, whatever `cache` says.
    Expert,
    /// A look at the validation split.
    Watch,
}

impl Kept {
    fn why(self) -> &'static str {
        match self {
            Self::Cache => "cache: memory",
            Self::Expert => "its expert",
            Self::Watch => "watch.frames",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Cache => "write cache: none, or take fewer frames",
            Self::Expert => "give the expert a split of fewer frames",
            Self::Watch => "write a smaller number at watch.frames",
        }
    }

    /// Bytes of a frame: of one that an expert is to complete, as if it answered all.
    fn bytes(self, facts: &Facts) -> u64 {
        match self {
            Self::Expert => Facts { labels: true, depth: true, height: facts.whole_height, ..*facts }.bytes(),
            Self::Cache | Self::Watch => facts.bytes(),
        }
    }
}

/// Says what decoded frames take, and refuses more than the `available` bytes, where these are known.
///
/// # Errors
/// They take more than there is.
pub fn make_room(name: &str, facts: &[Facts], kept: Kept, available: Option<u64>) -> anyhow::Result<()> {
    let bytes: u64 = facts.iter().map(|f| kept.bytes(f)).sum();
    let (frames, why) = (facts.len(), kept.why());
    log::info!("{name}: {frames} decoded frames stay in memory ({why}): {} MiB", bytes >> 20);
    if let Some(available) = available.filter(|available| bytes > *available) {
        bail!(
            "{frames} decoded frames take {} MiB ({why}), of which {} MiB are available; {}",
            bytes >> 20,
            available >> 20,
            kept.advice()
        );
    }
    Ok(())
}

/// Memory that can be had without swapping, as the kernel estimates it.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    crate::system::status_number(&text, "MemAvailable").map(|kib| kib << 10)
}

/// Whether depth can be made consistent with the scale, where that is asked for.
///
/// # Errors
/// Frames with depth, so many of them, have no focal length.
pub fn check_focal(config: &TrainConfig, facts: &[Facts]) -> anyhow::Result<()> {
    let with_depth = facts.iter().filter(|f| f.depth);
    let lacking = with_depth.clone().filter(|f| f.focal_px.is_none()).count();
    if lacking > 0 && config.augment.focal_length_px > 0.0 && config.head(Task::Depth).is_some() {
        bail!(
            "{lacking} of {} frames with depth have no focal length, without which augment.focal_length_px cannot make \
             depth consistent with the scale; expected camera files (camera/SPLIT/CITY/FRAME_camera.json), or \
             focal_length_px: 0",
            with_depth.count()
        );
    }
    Ok(())
}

/// [`Facts::focal_share`] of the camera that depth is learned from; `None` where a frame's is not known, or they differ.
pub fn focal_share(supplies: &[Supply]) -> Option<f64> {
    let all = supplies.iter().flat_map(|s| &s.focals).copied().collect::<Option<Vec<f64>>>()?;
    let (low, high) = all.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), &f| (low.min(f), high.max(f)));
    (!all.is_empty() && high <= low * ONE_CAMERA).then_some((low + high) / 2.0)
}

/// The heads that no training frame has truth for: they stay as they start.
pub fn untaught(config: &TrainConfig, supplies: &[Supply]) -> Vec<Task> {
    let is_taught = |task: &Task| match task {
        Task::Segmentation | Task::Edges => supplies.iter().any(|s| s.labelled),
        Task::Depth => supplies.iter().any(|s| !s.focals.is_empty()),
        Task::Normals => supplies.iter().flat_map(|s| &s.focals).any(Option::is_some),
    };
    config.heads.iter().map(|head| head.task).filter(|task| !is_taught(task)).collect()
}

/// Of sizes, of which there is at least one.
fn most_frequent(sizes: impl Iterator<Item = (usize, usize)>) -> (usize, usize) {
    let mut counts = BTreeMap::new();
    sizes.for_each(|size| *counts.entry(size).or_insert(0_usize) += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map_or((0, 0), |(size, _)| size)
}

/// Sources whose frames are so small at the phases' scales that much of a crop lies beside them, with the scale at which they fill it.
pub fn too_small(config: &TrainConfig, supplies: &[Supply]) -> Vec<String> {
    let mut said = Vec::new();
    for (index, supply) in supplies.iter().enumerate() {
        let (width, height) = supply.size;
        let mut worst: Option<(f32, usize)> = None;
        let mut scale = 0.0_f64;
        for (number, phase) in config.phases.iter().enumerate() {
            let size = CropSize { size: phase.crop, scale: phase.scale, stride: config.loss_stride };
            let (size, augment) = supply.own(&size, &config.augment);
            let filled = augment::filled(supply.size, &size, &augment);
            if filled >= FILLED {
                continue;
            }
            if worst.is_none_or(|(least, _)| filled < least) {
                worst = Some((filled, number));
            }
            // At the smallest scale the whole frame covers the crop, as Cityscapes' frames do in the article's recipe.
            let root = augment.aspect.sqrt();
            let across = size.size.0 as f32 / (width as f32 * size.scale.0 * root);
            let down = size.size.1 as f32 / (height as f32 * size.scale.0 / root);
            scale = scale.max(f64::from(supply.scale * across.max(down)));
        }
        let Some((filled, number)) = worst else { continue };
        let (crop_width, crop_height) = config.phases[number].crop;
        // Up to hundredths, but not for what single precision made of a number.
        let scale = (scale * 100.0 - 0.01).ceil() / 100.0;
        said.push(format!(
            "source {}: frames of {width}x{height} fill {:.0} % of the crops of {crop_width}x{crop_height} in phase {} on average, \
             and the rest has no truth; with sources.{index}.scale={scale} they fill them (watch.scale is times that, too)",
            supply.name,
            100.0 * filled,
            number + 1
        ));
    }
    said
}

/// Share of each channel of the segmentation head among the labelled pixels of the mix; a group of classes counts for
/// each of its members in equal parts.
///
/// # Errors
/// A frame cannot be read.
pub fn frequencies(supplies: &[Supply], table: &LabelTable) -> Result<Vec<f64>, DataError> {
    let mut all = vec![0.0; table.channels()];
    for supply in supplies {
        let counts = supply.label_counts()?;
        let members = table.members();
        let labelled: u64 = members.iter().zip(counts).filter(|(m, _)| !m.is_empty()).map(|(_, n)| n).sum();
        if labelled == 0 {
            continue;
        }
        for (channels, n) in members.iter().zip(counts) {
            for &channel in channels {
                all[usize::from(channel)] += supply.share * n as f64 / channels.len() as f64 / labelled as f64;
            }
        }
    }
    let sum: f64 = all.iter().sum();
    if sum > 0.0 {
        all.iter_mut().for_each(|f| *f /= sum);
    }
    Ok(all)
}

/// Chooses the crops of a phase, one after the other.
#[derive(Debug)]
struct Picker {
    seed: u64,
    rng: Pcg32,
    /// Of each source: crops so far.
    picked: Vec<u64>,
    /// Of each source: the frames that are still to come in this pass, last first.
    orders: Vec<Vec<usize>>,
}

/// One crop to make: source, frame, seed of its random numbers.
type Pick = (usize, usize, u64);

impl Picker {
    fn new(seed: u64, sources: usize) -> Self {
        Self { seed, rng: Pcg32::seed_from_u64(seed), picked: vec![0; sources], orders: vec![Vec::new(); sources] }
    }

    /// The source that is farthest behind its share: every batch has nearly the same mix, so that batch norm's
    /// statistics do not wander with it.
    fn next(&mut self, supplies: &[Supply]) -> Pick {
        let picked = self.picked.iter().sum::<u64>() as f64 + 1.0;
        let behind = |i: usize| supplies[i].share * picked - self.picked[i] as f64;
        let source = (0..supplies.len()).max_by(|&a, &b| behind(a).total_cmp(&behind(b))).unwrap_or_default();
        self.picked[source] += 1;
        let order = &mut self.orders[source];
        if order.is_empty() {
            order.extend(0..supplies[source].len());
            // Fisher-Yates.
            for i in (1..order.len()).rev() {
                order.swap(i, self.rng.random_range(0..=i));
            }
        }
        let frame = order.pop().unwrap_or_default();
        (source, frame, self.rng.random::<u64>() ^ self.seed)
    }
}

/// An endless supply of batches.
#[derive(Debug)]
pub struct Batches {
    ready: Receiver<anyhow::Result<Packed>>,
    /// Ends by itself when the receiver is dropped.
    _thread: JoinHandle<()>,
}

/// What a phase's batches are made of.
#[derive(Debug, Clone)]
pub struct BatchesConfig {
    /// Size, scale and number of the crops of batches that take turns.
    pub turns: Vec<(CropSize, usize)>,
    /// Transforms.
    pub augment: AugmentConfig,
    /// Tasks whose truth is needed.
    pub tasks: Vec<Task>,
    /// Number format that the network computes in.
    pub kind: Kind,
    /// Where the batches go.
    pub device: Device,
    /// Of the phase.
    pub seed: u64,
    /// Batches that were used before.
    pub skip: usize,
}

impl BatchesConfig {
    /// Of a phase.
    pub fn new(config: &TrainConfig, phase: &Phase, index: usize, skip: usize, device: Device) -> Self {
        let turn =
            |turn: &Turn| (CropSize { size: turn.size, scale: turn.scale, stride: config.loss_stride }, turn.batch);
        Self {
            turns: phase.turns().iter().map(turn).collect(),
            augment: config.augment.clone(),
            tasks: config.heads.iter().map(|h| h.task).collect(),
            kind: config.precision.kind(),
            device,
            // Golden-ratio steps: neighbouring seeds and phases share no numbers.
            seed: config.seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64),
            skip,
        }
    }
}

impl Batches {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn new(supplies: Arc<Vec<Supply>>, table: Arc<LabelTable>, config: BatchesConfig) -> anyhow::Result<Self> {
        let (send, ready) = sync_channel(AHEAD);
        let pool = rayon::ThreadPoolBuilder::new().thread_name(|i| format!("crops-{i}")).build()?;
        let thread = std::thread::Builder::new().name("batches".into()).spawn(move || {
            let mut picker = Picker::new(config.seed, supplies.len());
            let codes = table.codes();
            let mut turns = config.turns.iter().cycle();
            for (_, batch) in turns.by_ref().take(config.skip) {
                for _ in 0..*batch {
                    picker.next(&supplies);
                }
            }
            for (size, batch) in turns {
                let picks: Vec<Pick> = (0..*batch).map(|_| picker.next(&supplies)).collect();
                let batch = guarded(|| {
                    let mut packed = Packed::new(picks.len(), size, &config.tasks, config.kind, config.device);
                    pool.install(|| {
                        picks.par_iter().zip(packed.rows()).try_for_each(|(&(source, frame, seed), row)| {
                            row.fill(&supplies[source].crop(frame, size, &config.augment, seed)?, &codes);
                            anyhow::Ok(())
                        })
                    })?;
                    anyhow::Ok(packed)
                })
                .flatten();
                let failed = batch.is_err();
                if send.send(batch).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { ready, _thread: thread })
    }

    /// The next batch.
    ///
    /// # Errors
    /// A frame cannot be read, memory is out, or the thread has died.
    pub fn next(&self) -> anyhow::Result<Packed> {
        self.ready.recv().context("the thread that makes batches has ended early")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::LabelSpace;

    fn supply(name: &str, share: f64, frames: usize, label: u8) -> Supply {
        let frame = |i: usize| Decoded {
            width: 64,
            height: 64,
            rgb: vec![i as u8; 64 * 64 * 3],
            labels: Some(vec![label; 64 * 64]),
            depth_m: None,
            focal_px: None,
            principal_px: None,
        };
        let frames = Frames::Decoded((0..frames).map(frame).collect());
        let (focals, origin) = (Vec::new(), origin::Frames::default());
        let (name, size) = (name.into(), (64, 64));
        Supply { name, share, scale: 1.0, aspect: 1.0, size, labelled: true, focals, origin, frames }
    }

    fn batches(skip: usize) -> Batches {
        let config = BatchesConfig {
            turns: vec![
                (CropSize { size: (32, 32), scale: (0.5, 1.0), stride: 4 }, 4),
                (CropSize { size: (64, 32), scale: (1.0, 2.0), stride: 4 }, 2),
            ],
            augment: AugmentConfig { stretch: 1.2, ..AugmentConfig::default() },
            tasks: vec![Task::Segmentation, Task::Depth],
            kind: Kind::Float,
            device: Device::Cpu,
            seed: 5,
            skip,
        };
        let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
        let supplies = vec![supply("a", 0.75, 10, 3), supply("b", 0.25, 3, 7)];
        Batches::new(Arc::new(supplies), Arc::new(table), config).expect("threads")
    }

    #[test]
    fn frames_that_are_small_for_a_recipe_are_told_with_the_scale_that_fits() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/train/article.yaml");
        let config = TrainConfig::read(&path, &[]).expect("the article's");
        let told = |size, scale: f32| {
            let more = Supply { size, scale, ..supply("mine", 1.0, 1, 0) };
            too_small(&config, &[Supply { size: (2048, 819), ..supply("cityscapes", 1.0, 1, 0) }, more])
        };
        let expected = "source mine: frames of 640x384 fill 32 % of the crops of 2048x819 in phase 3 on average, and the rest has no \
                        truth; with sources.1.scale=3.2 they fill them (watch.scale is times that, too)";
        assert_eq!(told((640, 384), 1.0), [expected]);
        assert!(told((640, 384), 3.2).is_empty() && told((2048, 819), 1.0).is_empty());
        let hd = told((1280, 576), 1.0);
        assert!(hd.len() == 1 && hd[0].contains("fill 81 %") && hd[0].contains("sources.1.scale=1.6 "), "{hd:?}");
        // Of frames that are nearly as large nothing is said.
        assert!(told((1600, 720), 1.0).is_empty());
    }

    #[test]
    fn the_size_of_most_frames_is_told() {
        assert_eq!(most_frequent([(4, 2), (8, 2), (4, 2), (9, 9)].into_iter()), (4, 2));
    }

    #[test]
    fn a_resumed_run_sees_the_crops_that_it_would_have_seen() {
        let whole = batches(0);
        for _ in 0..3 {
            whole.next().expect("a batch");
        }
        let resumed = batches(3);
        for turn in 3..6 {
            let [a, b] = [&whole, &resumed].map(|b| b.next().expect("a batch").to(Device::Cpu));
            assert_eq!(a.images.size(), [[4, 3, 32, 32], [2, 3, 32, 64]][turn % 2]);
            assert_eq!(a.images, b.images);
            assert_eq!(a.labels, b.labels);
        }
    }

    #[test]
    fn each_source_has_its_share_and_each_frame_its_turn() {
        let supplies = [supply("a", 0.75, 10, 3), supply("b", 0.25, 3, 7)];
        let mut picker = Picker::new(1, 2);
        let mut counts = [[0; 10], [0; 10]];
        for _ in 0..4000 {
            let (source, frame, _) = picker.next(&supplies);
            counts[source][frame] += 1;
        }
        let of_a: i32 = counts[0].iter().sum();
        assert_eq!(of_a, 3000, "of 4000 at a share of 0.75");
        let (least, most) = (counts[0].iter().min(), counts[0].iter().max());
        assert!(most.zip(least).is_some_and(|(m, l)| m - l <= 1), "{counts:?}");
    }

    fn config(more: &str) -> TrainConfig {
        let text = format!("sources: [{{name: a, data: {{layout: cityscapes, root: x}}}}]\nphases: []\n{more}");
        serde_yaml::from_str(&text).expect("a configuration")
    }

    fn facts(labels: bool, depth: bool, focal_px: Option<(f64, f64)>) -> Facts {
        Facts { width: 1024, height: 512, whole_height: 512, labels, depth, focal_px }
    }

    #[test]
    fn decoded_frames_have_to_fit_into_memory() {
        // Half a million pixels of 4 and of 8 bytes.
        let frames = [facts(true, false, None); 100];
        make_room("a", &frames, Kept::Cache, Some(200 << 20)).expect("room");
        make_room("a", &frames, Kept::Expert, None).expect("nobody knows");
        for (kept, bytes, named) in [
            (Kept::Cache, "take 200 MiB", "cache: none"),
            (Kept::Expert, "take 400 MiB", "fewer frames"),
            (Kept::Watch, "take 200 MiB", "watch.frames"),
        ] {
            let error = make_room("a", &frames, kept, Some((200 << 20) - 1)).expect_err("too large").to_string();
            assert!(error.contains(bytes) && error.contains("199 MiB") && error.contains(named), "{error}");
        }
        let cut = [Facts { height: 256, ..frames[0] }; 100];
        make_room("a", &cut, Kept::Cache, Some(100 << 20)).expect("half of the rows");
        make_room("a", &cut, Kept::Expert, Some((400 << 20) - 1)).expect_err("an expert sees whole frames");
        assert!(available_bytes().is_none_or(|bytes| bytes > 0));
    }

    #[test]
    fn consistent_depth_needs_a_focal_length() {
        let frames = [facts(true, true, None), facts(true, true, Some((900.0, 900.0))), facts(true, false, None)];
        let asked = config("augment: {focal_length_px: 500}");
        let error = check_focal(&asked, &frames).expect_err("one has none").to_string();
        assert!(error.contains("1 of 2 frames with depth"), "{error}");
        check_focal(&asked, &frames[1..]).expect("what has depth has a focal length");
        check_focal(&config(""), &frames).expect("nothing is asked for");
        check_focal(&config("augment: {focal_length_px: 500}\nheads: [{task: segmentation}]"), &frames)
            .expect("no depth");
    }

    #[test]
    fn one_camera_is_told_from_several() {
        let of = |focals: &[Option<f64>]| {
            let half = |focals: &[Option<f64>]| Supply { focals: focals.into(), ..supply("a", 0.5, 1, 3) };
            let (a, b) = focals.split_at(focals.len() / 2);
            focal_share(&[half(a), half(b)])
        };
        assert_eq!(of(&[Some(1.1), Some(1.1), Some(1.1)]), Some(1.1));
        assert!(of(&[Some(1.1), Some(1.105)]).is_some_and(|f| (f - 1.1025).abs() < 1e-12), "within a percent");
        assert_eq!(of(&[Some(1.1), Some(0.73)]), None, "two cameras");
        assert_eq!(of(&[Some(1.1), None]), None, "one is not known");
        assert_eq!(of(&[]), None, "nobody has depth");
    }

    #[test]
    fn heads_without_truth_are_told() {
        let config = config("heads: [{task: segmentation}, {task: depth}, {task: normals}, {task: edges}]");
        let with = |labelled: bool, focals: &[Option<f64>]| {
            untaught(&config, &[Supply { labelled, focals: focals.into(), ..supply("a", 1.0, 1, 3) }])
        };
        assert!(with(true, &[Some(1.1)]).is_empty());
        assert_eq!(with(true, &[None]), [Task::Normals]);
        assert_eq!(with(true, &[]), [Task::Depth, Task::Normals]);
        assert_eq!(with(false, &[Some(1.1)]), [Task::Segmentation, Task::Edges]);
    }

    #[test]
    fn frequencies_follow_the_mix() {
        let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
        let f = frequencies(&[supply("a", 0.75, 10, 3), supply("b", 0.25, 3, 7)], &table).expect("counted");
        assert!((f[3] - 0.75).abs() < 1e-9 && (f[7] - 0.25).abs() < 1e-9, "{f:?}");
    }
}

//! Frames of all sources, mixed, augmented and put together into batches, some of them ahead of the training.
//!
//! Which frame and which random numbers crop `n` of a phase gets follows from the run's seed and `n` alone, whatever
//! the threads do: a resumed run sees the crops that it would have seen.

use super::config::{Cache, Phase, TrainConfig, Turn};
use super::labels::LabelTable;
use super::packed::Packed;
use crate::data::augment::{self, AugmentConfig, Crop, CropSize};
use crate::data::disk::DataError;
use crate::data::frame::Decoded;
use crate::data::source::{self, Groups, Item};
use crate::model::Task;
use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg32;
use rayon::prelude::*;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::thread::JoinHandle;
use tch::{Device, Kind};

/// Batches that may wait.
const AHEAD: usize = 2;
/// Frames of a source of which classes are counted for their weights, when frames are not kept in memory.
const COUNTED: usize = 500;

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
    frames: Frames,
}

#[derive(Debug)]
enum Frames {
    Decoded(Vec<Decoded>),
    OnDisk(Vec<Item>),
}

impl Supply {
    /// Frames.
    pub fn len(&self) -> usize {
        match &self.frames {
            Frames::Decoded(frames) => frames.len(),
            Frames::OnDisk(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn crop(&self, index: usize, size: &CropSize, config: &AugmentConfig, seed: u64) -> Result<Crop, DataError> {
        let (low, high) = size.scale;
        let size = CropSize { scale: (low * self.scale, high * self.scale), ..*size };
        let config = &AugmentConfig { aspect: config.aspect * self.aspect, ..config.clone() };
        let mut rng = Pcg32::seed_from_u64(seed);
        match &self.frames {
            Frames::Decoded(frames) => Ok(augment::crop(&frames[index], &size, config, &mut rng)),
            Frames::OnDisk(items) => Ok(augment::crop(&items[index].decode()?, &size, config, &mut rng)),
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
        // A broken file is an error now and not at epoch 40.
        source::check_all(&items).with_context(context)?;
        let frames = match (config.cache, &part.expert) {
            (Cache::None, None) => Frames::OnDisk(items),
            _ => {
                let mut frames: Vec<_> =
                    items.par_iter().map(Item::decode).collect::<Result<_, _>>().with_context(context)?;
                if let Some(model) = &part.expert {
                    super::expert::complete(&mut frames, model, &part.name)?;
                }
                Frames::Decoded(frames)
            }
        };
        let mut supply = Supply {
            name: part.name.clone(),
            share: 0.0,
            scale: part.scale as f32,
            aspect: part.aspect as f32,
            frames,
        };
        supply.share = part.share.unwrap_or(supply.len() as f64);
        supplies.push(supply);
    }
    let all: f64 = supplies.iter().map(|s| s.share).sum();
    supplies.iter_mut().for_each(|s| s.share /= all);
    Ok(supplies)
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
    ready: Receiver<Result<Packed, DataError>>,
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
                let mut packed = Packed::new(picks.len(), size, &config.tasks, config.kind, config.device);
                let made = pool.install(|| {
                    picks.par_iter().zip(packed.rows()).try_for_each(|(&(source, frame, seed), row)| {
                        row.fill(&supplies[source].crop(frame, size, &config.augment, seed)?, &codes);
                        Ok(())
                    })
                });
                let batch = made.map(|()| packed);
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
    /// A frame cannot be read, or the thread has died.
    pub fn next(&self) -> anyhow::Result<Packed> {
        Ok(self.ready.recv().context("the thread that makes batches has ended early")??)
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
        Supply { name: name.into(), share, scale: 1.0, aspect: 1.0, frames }
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

    #[test]
    fn frequencies_follow_the_mix() {
        let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
        let f = frequencies(&[supply("a", 0.75, 10, 3), supply("b", 0.25, 3, 7)], &table).expect("counted");
        assert!((f[3] - 0.75).abs() < 1e-9 && (f[7] - 0.25).abs() < 1e-9, "{f:?}");
    }
}

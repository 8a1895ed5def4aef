//! Decoded frames in memory, augmented on a thread of their own into batches, two of them ahead.

use crate::data::augment::{self, AugmentConfig, Crop};
use crate::data::cityscapes::DataError;
use crate::data::classes::{CLASSES, SCORED_CLASSES};
use crate::data::frame::Decoded;
use crate::data::source::{Groups, Item, Source};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg32;
use rayon::prelude::*;
use std::path::Path;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::thread::JoinHandle;
use tch::{Device, Kind, Tensor};

/// Batches that may wait.
const AHEAD: usize = 2;

/// One step's worth of crops.
#[derive(Debug)]
pub struct Batch {
    /// `[B, 3, H, W]` float32, normalised, channels last in memory.
    pub images: Tensor,
    /// `[B, h, w]` int64; -100 where unlabelled.
    pub labels: Tensor,
    /// `[B, h, w]` float32 depth code, NaN where not known.
    pub depth: Tensor,
}

impl Batch {
    /// Moves it to a device.
    pub fn to(&self, device: Device) -> Self {
        Self {
            images: self.images.to_device(device),
            labels: self.labels.to_device(device),
            depth: self.depth.to_device(device),
        }
    }
}

/// Reads and decodes a whole split.
///
/// # Errors
/// The first frame that cannot be read, or whose parts differ in size.
pub fn decode(root: &Path, split: &str) -> Result<Vec<Decoded>, DataError> {
    let source = Source::cityscapes(root.into());
    source.index(split, &mut Groups::default())?.par_iter().map(Item::decode).collect()
}

/// Share of the labelled pixels that each scored class has.
pub fn frequencies(frames: &[Decoded]) -> [f64; SCORED_CLASSES] {
    let mut counts = [0_u64; SCORED_CLASSES];
    for label in frames.iter().filter_map(|f| f.labels.as_ref()).flatten() {
        if let Some(count) = counts.get_mut(usize::from(*label)) {
            *count += 1;
        }
    }
    let all = counts.iter().sum::<u64>().max(1) as f64;
    counts.map(|c| c as f64 / all)
}

/// Puts crops together. Unlabelled pixels do not count.
pub fn collate(crops: &[Crop], (width, height): (usize, usize), stride: usize) -> Batch {
    let b = crops.len() as i64;
    let (lw, lh) = (width.div_ceil(stride) as i64, height.div_ceil(stride) as i64);
    let pixels: Vec<f32> = crops.iter().flat_map(|c| c.pixels.iter().copied()).collect();
    let labels: Vec<i64> =
        crops.iter().flat_map(|c| c.labels.iter().map(|&l| if l + 1 == CLASSES as i64 { -100 } else { l })).collect();
    let depth: Vec<f32> = crops.iter().flat_map(|c| c.depth.iter().copied()).collect();
    Batch {
        // (B, H, W, 3) in memory, seen as (B, 3, H, W): the layout that convolutions are quickest with.
        images: Tensor::from_slice(&pixels).view([b, height as i64, width as i64, 3]).permute([0, 3, 1, 2]),
        labels: Tensor::from_slice(&labels).view([b, lh, lw]),
        depth: Tensor::from_slice(&depth).view([b, lh, lw]).to_kind(Kind::Float),
    }
}

/// An endless, shuffled supply of batches.
#[derive(Debug)]
pub struct Batches {
    supply: Receiver<Batch>,
    /// Ends by itself when the supply is dropped.
    _thread: JoinHandle<()>,
}

impl Batches {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn new(
        frames: Arc<Vec<Decoded>>,
        config: AugmentConfig,
        batch: usize,
        stride: usize,
        seed: u64,
    ) -> std::io::Result<Self> {
        let (send, supply) = sync_channel(AHEAD);
        let thread = std::thread::Builder::new().name("batches".into()).spawn(move || {
            let mut rng = Pcg32::seed_from_u64(seed);
            let mut order: Vec<usize> = Vec::new();
            loop {
                let mut picks = Vec::with_capacity(batch);
                while picks.len() < batch {
                    if order.is_empty() {
                        order.extend(0..frames.len());
                        // Fisher-Yates.
                        for i in (1..order.len()).rev() {
                            order.swap(i, rng.random_range(0..=i));
                        }
                    }
                    picks.extend(order.pop().map(|i| (i, rng.random::<u64>())));
                }
                let crops: Vec<Crop> = picks
                    .iter()
                    .map(|&(i, seed)| augment::crop(&frames[i], &config, stride, &mut Pcg32::seed_from_u64(seed)))
                    .collect();
                if send.send(collate(&crops, config.crop, stride)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { supply, _thread: thread })
    }

    /// The next batch.
    ///
    /// # Errors
    /// The thread has died.
    pub fn next(&self) -> anyhow::Result<Batch> {
        self.supply.recv().map_err(|_| anyhow::anyhow!("the thread that makes batches has ended early"))
    }
}

//! All of a run's state in one file, so that a run that is killed at any moment goes on as if it had not been.
//!
//! Everything random in a run follows from its seed and from how far it is, so the position is all of the random state
//! that there is to keep.

use super::ema::{self, Ema};
use super::optimizer::Optimizer;
use crate::model::weights;
use anyhow::{ensure, Context as _};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Name of the file in the run's folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// Name of the tensor that holds [`Progress`] as JSON.
const PROGRESS: &str = "progress";
/// Name of the tensor that holds [`checksum`] of all others.
const CHECKSUM: &str = "checksum";
/// What the network's variables are below; `model::weights` knows a checkpoint by it.
const NETWORK: &str = "network";
/// What their averages are below.
const EMA: &str = "ema";

/// CRC-32C of names and bytes, in the order of the names: the format has none of its own, and a bit of a disk that has changed
/// would go on in the weights.
fn checksum<'a>(tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>) -> anyhow::Result<i64> {
    let sorted: BTreeMap<_, _> = tensors.into_iter().filter(|(name, _)| *name != CHECKSUM).collect();
    let mut sum = 0;
    for (name, tensor) in sorted {
        let bytes = Vec::<u8>::try_from(tensor.f_flatten(0, -1)?.f_view_dtype(Kind::Uint8)?)?;
        sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, name.as_bytes()), &bytes);
    }
    Ok(sum.into())
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Index of the phase.
    pub phase: usize,
    /// Steps taken in it.
    pub step: usize,
    /// Steps taken in all phases.
    pub total: usize,
    /// Steps taken before the newest look at the validation splits.
    pub looked: usize,
    /// The watched measure of the best weights so far.
    pub best: Option<f64>,
    /// Seconds that the run has taken.
    pub elapsed_s: f64,
    /// Seconds of these in the present phase.
    pub phase_elapsed_s: f64,
    /// Factor on the loss in half precision.
    pub loss_scale: f64,
    /// Steps since that factor changed.
    pub steady: usize,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            phase: 0,
            step: 0,
            total: 0,
            looked: 0,
            best: None,
            elapsed_s: 0.0,
            phase_elapsed_s: 0.0,
            loss_scale: 65536.0,
            steady: 0,
        }
    }
}

/// What is saved besides [`Progress`].
#[derive(Debug)]
pub struct State<'a> {
    /// The network's variables.
    pub network: &'a VarStore,
    /// What the objective has learned.
    pub objective: &'a VarStore,
    /// Its moments.
    pub optimizer: &'a mut Optimizer,
    /// The moving average, where there is one.
    pub ema: Option<&'a mut Ema>,
}

impl State<'_> {
    /// Writes a checkpoint; it appears whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written to, or the disk is full.
    pub fn save(&self, progress: &Progress, path: &Path) -> anyhow::Result<()> {
        let mut tensors = Vec::new();
        let mut add = |kind: &str, name: &str, t: &Tensor| {
            // A copy: the format wants tensors that lie by themselves in host memory.
            tensors.push((format!("{kind}/{name}"), t.detach().to_device(Device::Cpu).copy()));
        };
        for (kind, store) in [(NETWORK, self.network), ("objective", self.objective)] {
            store.variables().iter().for_each(|(name, t)| add(kind, name, t));
        }
        self.optimizer.state().iter().for_each(|(name, t)| add("optimizer", name, t));
        if let Some(ema) = &self.ema {
            ema.state().iter().for_each(|(name, t)| add(EMA, name, t));
        }
        let text = serde_json::to_vec(progress)?;
        tensors.push((PROGRESS.into(), Tensor::from_slice(&text)));
        let sum = checksum(tensors.iter().map(|(name, tensor)| (name, tensor)))?;
        tensors.push((CHECKSUM.into(), Tensor::from_slice(&[sum])));
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(weights::write(&tensors, path)?)
    }

    /// Puts everything back as it was; `path` is where it was read from.
    ///
    /// # Errors
    /// It belongs to another network or configuration.
    pub fn restore(&mut self, mut saved: Saved, path: &Path) -> anyhow::Result<Progress> {
        let context = || format!("checkpoint {}", path.display());
        for (kind, store) in [(NETWORK, self.network), ("objective", self.objective)] {
            weights::fill(store, &saved.part(kind), path)?;
        }
        self.optimizer.load_state(&saved.part("optimizer")).with_context(context)?;
        if let Some(ema) = &mut self.ema {
            ema.load_state(&saved.part(EMA)).with_context(context)?;
        }
        Ok(saved.progress)
    }
}

/// A checkpoint as it was read.
#[derive(Debug)]
pub struct Saved {
    /// How far the run was.
    pub progress: Progress,
    /// Tensors by the kind of what they are of, then by name.
    parts: HashMap<String, HashMap<String, Tensor>>,
}

impl Saved {
    /// Reads one.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is no checkpoint.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Self::of(weights::read(path)?, path)
    }

    fn of(tensors: HashMap<String, Tensor>, path: &Path) -> anyhow::Result<Self> {
        let context = || format!("checkpoint {}", path.display());
        let mut parts: HashMap<String, HashMap<String, Tensor>> = HashMap::new();
        let mut progress = None;
        match tensors
            .get(CHECKSUM)
            .map(|sum| Vec::<i64>::try_from(sum.flatten(0, -1)))
            .transpose()
            .with_context(context)?
        {
            None => log::warn!("{}: an older one, without a checksum: damage is not seen", context()),
            Some(expected) => {
                let found = checksum(&tensors).with_context(context)?;
                ensure!(
                    expected == [found],
                    "{} is damaged: expected the checksum {expected:x?}, found {found:x}; bring back a copy of the file, or begin \
                     anew in another folder, with --init and weights that are whole",
                    context()
                );
            }
        }
        for (name, tensor) in tensors {
            match name.split_once('/') {
                Some((kind, name)) => {
                    parts.entry(kind.into()).or_default().insert(name.into(), tensor);
                }
                None if name == PROGRESS => progress = Some(tensor),
                None => {}
            }
        }
        let progress = progress.with_context(|| format!("{}: no state of a training run in it", path.display()))?;
        let text = Vec::<u8>::try_from(progress.to_kind(Kind::Uint8)).with_context(context)?;
        Ok(Self { progress: serde_json::from_slice(&text).with_context(context)?, parts })
    }

    fn part(&mut self, kind: &str) -> HashMap<String, Tensor> {
        self.parts.remove(kind).unwrap_or_default()
    }
}

/// The weights that a file has for a training to start from: of a checkpoint those that a look would have kept, which are
/// the averaged ones where the run has such.
///
/// # Errors
/// The file cannot be read; a checkpoint is damaged.
pub fn weights_of(path: &Path) -> anyhow::Result<HashMap<String, Tensor>> {
    let tensors = weights::read(path)?;
    if !tensors.keys().any(|name| name.split_once('/').is_some_and(|(kind, _)| kind == NETWORK)) {
        return Ok(tensors);
    }
    let mut saved = Saved::of(tensors, path)?;
    let mut given = saved.part(NETWORK);
    let averaged = saved.part(EMA);
    // The average has a count besides, which is no variable.
    given.extend(averaged.into_iter().filter(|(name, _)| name != ema::UPDATES));
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, tensors: &[(&str, Tensor)]) -> std::path::PathBuf {
        let path = folder.join(CHECKPOINT);
        let progress = serde_json::to_vec(&Progress::default()).expect("JSON");
        let mut tensors: Vec<_> = tensors.iter().map(|(n, t)| ((*n).to_string(), t.shallow_clone())).collect();
        tensors.push((PROGRESS.into(), Tensor::from_slice(&progress)));
        let sum = checksum(tensors.iter().map(|(name, tensor)| (name, tensor))).expect("a sum");
        tensors.push((CHECKSUM.into(), Tensor::from_slice(&[sum])));
        weights::write(&tensors, &path).expect("written");
        path
    }

    #[test]
    fn a_training_starts_from_the_averaged_weights_of_a_checkpoint() {
        let folder = tempfile::tempdir().expect("a folder");
        let number = |x: f32| Tensor::from_slice(&[x]);
        let plain = [("network/a.b", number(1.0)), ("objective/o", number(2.0)), ("optimizer/a.b.mean", number(3.0))];
        let given = weights_of(&written(folder.path(), &plain)).expect("weights");
        assert_eq!(given, HashMap::from([("a.b".to_string(), number(1.0))]));
        let averaged = [("network/a.b", number(1.0)), ("ema/a.b", number(4.0)), ("ema/updates", Tensor::from(7_i64))];
        let path = written(folder.path(), &averaged);
        assert_eq!(weights_of(&path).expect("weights"), HashMap::from([("a.b".to_string(), number(4.0))]));
        let mut damaged = std::fs::read(&path).expect("read");
        let at = damaged.len() - 1;
        damaged[at] ^= 0x40;
        std::fs::write(&path, damaged).expect("written");
        let error = weights_of(&path).expect_err("damaged").to_string();
        assert!(error.contains("is damaged: expected the checksum"), "{error}");
        // What is no checkpoint is as it is.
        weights::write(&[("a.b".into(), number(5.0))], &path).expect("written");
        assert_eq!(weights_of(&path).expect("weights"), HashMap::from([("a.b".to_string(), number(5.0))]));
    }
}

//! A training run's configuration file (`config/train/*.yaml`).

use crate::data::augment::AugmentConfig;
use crate::model::NetworkConfig;
use anyhow::{bail, Context as _};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The network's shape.
    #[serde(default)]
    pub network: NetworkConfig,
    /// Root of the data set (Cityscapes layout).
    pub data: PathBuf,
    /// Split to train on.
    #[serde(default = "train_split")]
    pub train_split: String,
    /// Split to watch.
    #[serde(default = "val_split")]
    pub val_split: String,
    /// Scale, crop, flip, colour.
    pub augment: AugmentConfig,
    /// Crops of a step.
    pub batch: usize,
    /// Steps of the run.
    pub steps: usize,
    /// The schedule's highest learning rate.
    pub max_learning_rate: f64,
    /// Share of the steps in which the learning rate rises.
    pub warmup: f64,
    /// Decoupled weight decay (Adam).
    #[serde(default)]
    pub weight_decay: f64,
    /// Factor of the depth loss; the article adds both losses unweighted, which is 1.
    pub depth_weight: f64,
    /// Weigh classes by `1 / ln(1.1 + frequency)` instead of evenly.
    #[serde(default)]
    pub class_weights: bool,
    /// Compute the network in bfloat16 (its variables, batch norm statistics and losses stay float32).
    #[serde(default)]
    pub bf16: bool,
    /// Steps between two looks at the validation split.
    pub validate_every: usize,
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
}

fn train_split() -> String {
    "train".into()
}

fn val_split() -> String {
    "val".into()
}

impl TrainConfig {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown or missing key, or a value out of its range.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("training configuration {}", path.display()))?;
        let config: Self =
            serde_yaml::from_str(&text).with_context(|| format!("training configuration {}", path.display()))?;
        config.check().with_context(|| format!("training configuration {}", path.display()))?;
        Ok(config)
    }

    /// Checks the values' ranges.
    ///
    /// # Errors
    /// Names the key, what was expected and what was found.
    pub fn check(&self) -> anyhow::Result<()> {
        let positive =
            |name: &str, v: usize| if v == 0 { bail!("{name}: expected 1 or more, found 0") } else { Ok(()) };
        positive("batch", self.batch)?;
        positive("steps", self.steps)?;
        positive("validate_every", self.validate_every)?;
        let (w, h) = self.augment.crop;
        if w < 32 || h < 32 {
            bail!("augment.crop: expected 32 x 32 pixels or more, found {w} x {h}");
        }
        let (low, high) = self.augment.scale;
        if !(low > 0.0 && high >= low && high.is_finite()) {
            bail!("augment.scale: expected 0 < low <= high, found {low} and {high}");
        }
        let share = |name: &str, v: f64| {
            if (0.0..=1.0).contains(&v) {
                Ok(())
            } else {
                bail!("{name}: expected 0 to 1, found {v}")
            }
        };
        share("augment.flip", self.augment.flip)?;
        share("augment.jitter", self.augment.jitter.into())?;
        share("augment.hue", self.augment.hue.into())?;
        share("warmup", self.warmup)?;
        for (name, v) in [
            ("max_learning_rate", self.max_learning_rate),
            ("weight_decay", self.weight_decay),
            ("depth_weight", self.depth_weight),
            ("augment.reference_scale", self.augment.reference_scale.into()),
        ] {
            if !(v >= 0.0 && v.is_finite()) {
                bail!("{name}: expected a number of 0 or more, found {v}");
            }
        }
        Ok(())
    }
}

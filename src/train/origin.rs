//! What the data of a run are, in a few words, so that it goes on with the same: how long an epoch is follows from the number of
//! frames, which frame a crop is of from their order, and what a head is taught from mappings and experts.

use super::batches::Supply;
use super::config::{SourceConfig, TrainConfig};
use super::expert;
use super::validate::Watched;
use crate::data::source::Item;
use anyhow::{bail, Context as _};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Frames of a split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// How many.
    frames: usize,
    /// CRC-32C of their names, in order.
    names: String,
}

impl Frames {
    /// Those of a split as it is indexed.
    pub fn of(items: &[Item]) -> Self {
        let mut sum = 0;
        for item in items {
            sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, item.name().as_bytes()), b"\n");
        }
        Self { frames: items.len(), names: format!("{sum:08x}") }
    }

    /// How frames that are there `now` differ.
    fn difference(&self, now: &Self, what: &str) -> Option<String> {
        if self.frames != now.frames {
            return Some(format!("{} {what} frames then, {} now", self.frames, now.frames));
        }
        (self.names != now.names).then(|| format!("{what} frames of other names"))
    }
}

/// What a source's data are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The source's name.
    source: String,
    /// To train on.
    train: Frames,
    /// To watch.
    val: Frames,
    /// CRC-32C of what its mapping says, where it has one.
    mapping: Option<String>,
    /// [`expert::identity`], where it has one.
    expert: Option<String>,
}

impl Origin {
    fn difference(&self, now: &Self) -> Option<String> {
        let is_other = |differs: bool, what: &str| differs.then(|| what.to_string());
        let found = [
            self.train.difference(&now.train, "training"),
            self.val.difference(&now.val, "validation"),
            is_other(self.mapping != now.mapping, "a mapping of ids to other classes"),
            is_other(self.expert != now.expert, "another expert"),
        ];
        let words: Vec<String> = found.into_iter().flatten().collect();
        (!words.is_empty()).then(|| format!("source {}: {}", self.source, words.join(", ")))
    }
}

/// What the data of all sources are.
///
/// # Errors
/// A mapping or an expert cannot be read.
pub fn of(config: &TrainConfig, supplies: &[Supply], watched: &[Watched]) -> anyhow::Result<Vec<Origin>> {
    let parts = config.sources.iter().zip(supplies).zip(watched);
    let of = |((source, supply), watched): ((&SourceConfig, &Supply), &Watched)| -> anyhow::Result<Origin> {
        let context = || format!("source {}", source.name);
        let mapping = source.data.mapped().with_context(context)?;
        Ok(Origin {
            source: source.name.clone(),
            train: supply.origin.clone(),
            val: watched.origin.clone(),
            mapping: mapping
                .map(|ids| serde_json::to_vec(&ids).map(|text| format!("{:08x}", crc32c::crc32c(&text))))
                .transpose()?,
            expert: source.expert.as_deref().map(expert::identity).transpose().with_context(context)?,
        })
    };
    parts.map(of).collect()
}

/// Checks that the data are those that the run in `folder` was `begun` with; `weights` are what it has learned.
///
/// # Errors
/// Says what differs, and what to do.
pub fn check(begun: &[Origin], now: &[Origin], folder: &Path, weights: &Path) -> anyhow::Result<()> {
    let differences: Vec<String> = begun.iter().zip(now).filter_map(|(begun, now)| begun.difference(now)).collect();
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "{} was begun with other data ({}), and its schedule would jump; resume it with the data that it was begun with, or \
         begin anew in another folder, with --init {} from its weights",
        folder.display(),
        differences.join("; "),
        weights.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let frames = |frames, names: &str| Frames { frames, names: names.into() };
        let begun = Origin {
            source: "street".into(),
            train: frames(6, "a"),
            val: frames(2, "b"),
            mapping: None,
            expert: Some("c".into()),
        };
        let folder = Path::new("run");
        let weights = Path::new("run/checkpoint.safetensors");
        let check =
            |now: Origin| check(std::slice::from_ref(&begun), &[now], folder, weights).map_err(|e| e.to_string());
        assert_eq!(check(begun.clone()), Ok(()));
        for (now, said) in [
            (Origin { train: frames(7, "d"), ..begun.clone() }, "street: 6 training frames then, 7 now)"),
            (Origin { val: frames(2, "d"), ..begun.clone() }, "street: validation frames of other names)"),
            (
                Origin { mapping: Some("d".into()), expert: None, ..begun.clone() },
                "street: a mapping of ids to other classes, another expert)",
            ),
        ] {
            let error = check(now).expect_err(said);
            assert!(error.contains(said) && error.contains("--init run/checkpoint.safetensors from"), "{error}");
        }
    }
}

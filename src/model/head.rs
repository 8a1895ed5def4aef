//! The tasks that a head can be for. A new one is an entry here, its truth in `train::targets`, its loss in
//! `train::objective`, and, where it is exported, its place in the packed output.

use serde::{Deserialize, Serialize};

/// What a head answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Class scores before softmax, one channel a class.
    Segmentation,
    /// Depth code, one channel: see [`crate::data::depth`].
    Depth,
    /// Surface normal in the camera's frame (x right, y down, z forward), three channels, of any length.
    Normals,
    /// Score before the sigmoid of "a class boundary passes here", one channel. It only helps training.
    Edges,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 4] = [Self::Segmentation, Self::Depth, Self::Normals, Self::Edges];

    /// Name of the head's variables in the state dict, the article's where it has one.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Segmentation => "seg",
            Self::Depth => "depth",
            Self::Normals => "normals",
            Self::Edges => "edges",
        }
    }

    /// Whether a variable of the state dict belongs to this head alone.
    pub fn owns(self, variable: &str) -> bool {
        let rest = variable.strip_prefix("decoder.").unwrap_or_default();
        let layer = rest.split('.').next().unwrap_or_default();
        layer.strip_prefix("pre_").unwrap_or(layer) == self.key()
    }

    /// As in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segmentation => "segmentation",
            _ => self.key(),
        }
    }

    /// Channels of the head, in a network of `classes` classes.
    pub fn channels(self, classes: usize) -> usize {
        match self {
            Self::Segmentation => classes,
            Self::Depth | Self::Edges => 1,
            Self::Normals => 3,
        }
    }

    /// Whether an exported model answers it; other heads are dropped at export.
    pub fn is_exported(self) -> bool {
        self != Self::Edges
    }
}

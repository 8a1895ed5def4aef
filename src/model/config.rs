//! What the network is, before it is built.

use super::Task;
use crate::data::classes;
use serde::{Deserialize, Serialize};

/// Shape of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Channels of the segmentation head.
    pub classes: usize,
    /// Leave out the decoder's 1/4 stage: the heads then work at 1/8 of the input.
    pub extra_light: bool,
    /// Refine the depth behind the heads, see `model::refine`: not a part of the article's network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refine_depth: bool,
    /// One head for each, in this order.
    #[serde(skip_serializing_if = "is_default")]
    pub heads: Vec<Task>,
}

/// The article's two tasks.
const DEFAULT_HEADS: [Task; 2] = [Task::Segmentation, Task::Depth];

impl NetworkConfig {
    /// Pixels of the input to one of the heads.
    pub fn heads_stride(&self) -> usize {
        if self.extra_light {
            8
        } else {
            4
        }
    }
}

// A manifest of the usual network stays readable to versions that know no other heads.
fn is_default(heads: &[Task]) -> bool {
    heads == DEFAULT_HEADS
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { classes: classes::CLASSES, extra_light: false, refine_depth: false, heads: DEFAULT_HEADS.to_vec() }
    }
}

//! What the network is, before it is built.

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
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { classes: classes::CLASSES, extra_light: false }
    }
}

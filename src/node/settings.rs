//! The parameters' values as one frame sees them: a snapshot that is replaced when a parameter changes.

use crate::data::classes::Class;
use crate::interface::settings::MaskSettings;
use crate::interface::{classes, CameraSettings, NodeSettings, ParameterSet, Thresholds};
use std::sync::{Arc, Mutex};

/// Everything that follows from the parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Of the node.
    pub node: NodeSettings,
    /// Of each camera, in the order of parameter `cameras`; at least one.
    pub cameras: Vec<CameraSettings>,
    /// What diagnostics compare with.
    pub thresholds: Thresholds,
}

/// Where the spinning thread puts the newest snapshot.
pub type SettingsCell = Mutex<Arc<Settings>>;

impl Settings {
    /// The values now.
    pub fn of(set: &ParameterSet) -> Self {
        Self { node: set.node(), cameras: set.cameras(), thresholds: set.thresholds() }
    }

    /// Holds every class that a parameter names against a model's classes.
    ///
    /// # Errors
    /// The model does not have one of them.
    pub fn check_classes(&self, table: &[Class]) -> Result<(), String> {
        self.cameras.iter().try_for_each(|camera| ClassSets::of(camera, table).map(|_| ()))
    }
}

/// The class lists of a camera's parameters, by published id of the model in use.
#[derive(Debug, Clone)]
pub struct ClassSets {
    /// What it was made from.
    source: Option<(MaskSettings, Vec<String>)>,
    /// Mask value of each id.
    pub mask: [u8; 256],
    /// Whether an id becomes points.
    pub points: [bool; 256],
}

impl Default for ClassSets {
    fn default() -> Self {
        Self { source: None, mask: [classes::NEITHER; 256], points: [true; 256] }
    }
}

impl ClassSets {
    fn of(settings: &CameraSettings, table: &[Class]) -> Result<Self, String> {
        Ok(Self {
            source: None,
            mask: classes::mask_values(&settings.mask, table)?,
            points: classes::chosen(&settings.points.classes, table).map_err(|e| format!("points.classes: {e}"))?,
        })
    }

    /// Follows the parameters. What the model does not have (after it was exchanged; else it was refused before) is
    /// said once, and nothing is left out then.
    pub fn follow(&mut self, settings: &CameraSettings, table: &[Class]) {
        if matches!(&self.source, Some((mask, points)) if *mask == settings.mask && *points == settings.points.classes)
        {
            return;
        }
        *self = Self::of(settings, table).unwrap_or_else(|e| {
            log::warn!("{e}");
            Self::default()
        });
        self.source = Some((settings.mask.clone(), settings.points.classes.clone()));
    }
}

//! The parameters' values as one frame sees them: a snapshot that is replaced when a parameter changes.

use crate::data::classes::{Class, UNLABELLED};
use crate::interface::settings::MaskSettings;
use crate::interface::{classes, CameraSettings, NodeSettings, ParameterSet, Thresholds};
use std::collections::BTreeSet;
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

    /// What to warn of when a model is loaded: masks without free space, or without obstacles, because nothing in a default list is
    /// a class of the model. Cameras with the same lists are one line.
    pub fn idle_masks(&self, table: &[Class]) -> BTreeSet<String> {
        let with_mask = self.cameras.iter().filter(|camera| camera.outputs.mask);
        with_mask.flat_map(|camera| classes::idle_defaults(&camera.mask, table)).collect()
    }
}

/// The class lists of a camera's parameters, by published id of the model in use.
#[derive(Debug, Clone)]
pub struct ClassSets {
    /// What it was made from.
    source: Option<Lists>,
    /// Mask value of each id.
    pub mask: [u8; 256],
    /// Whether an id becomes points.
    pub points: [bool; 256],
    /// Whether an id has no distance.
    pub far: [bool; 256],
}

/// The lists of a camera's parameters.
#[derive(Debug, Clone, PartialEq)]
struct Lists {
    mask: MaskSettings,
    points: Vec<String>,
    far: Vec<String>,
}

impl Lists {
    fn are_of(&self, settings: &CameraSettings) -> bool {
        let Self { mask, points, far } = self;
        *mask == settings.mask && *points == settings.points.classes && *far == settings.depth_far_classes
    }
}

/// By published id: whether it has no distance.
fn far(names: &[String], table: &[Class]) -> Result<[bool; 256], String> {
    if names.is_empty() {
        return Ok([false; 256]);
    }
    let far = classes::chosen(names, table)?;
    if far[usize::from(UNLABELLED)] {
        return Err("unlabelled is what nothing is known of, and no class that is far".into());
    }
    Ok(far)
}

impl Default for ClassSets {
    fn default() -> Self {
        Self { source: None, mask: [classes::NEITHER; 256], points: [true; 256], far: [false; 256] }
    }
}

impl ClassSets {
    /// Whether any class has no distance.
    pub fn has_far(&self) -> bool {
        self.source.as_ref().is_some_and(|lists| !lists.far.is_empty())
    }

    fn of(settings: &CameraSettings, table: &[Class]) -> Result<Self, String> {
        Ok(Self {
            source: None,
            mask: classes::mask_values(&settings.mask, table)?,
            points: classes::chosen(&settings.points.classes, table).map_err(|e| format!("points.classes: {e}"))?,
            far: far(&settings.depth_far_classes, table).map_err(|e| format!("depth_far_classes: {e}"))?,
        })
    }

    /// Of the names that the model has.
    fn of_known(settings: &CameraSettings, table: &[Class]) -> Self {
        let known = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| classes::ids_of(name, table).is_ok()).cloned().collect()
        };
        let obstacles = known(&settings.mask.obstacle_classes);
        let mask = |free_classes| MaskSettings { free_classes, obstacle_classes: obstacles.clone() };
        // What is in both lists, by name in one and by id in the other, is no free space to be sure.
        let values = classes::mask_values(&mask(known(&settings.mask.free_classes)), table)
            .or_else(|_| classes::mask_values(&mask(Vec::new()), table));
        let default = Self::default();
        Self {
            source: None,
            mask: values.unwrap_or(default.mask),
            points: classes::chosen(&known(&settings.points.classes), table).unwrap_or(default.points),
            far: far(&known(&settings.depth_far_classes), table).unwrap_or(default.far),
        }
    }

    /// Follows the parameters. Names that the model does not have (a parameter was set while the model was exchanged;
    /// else they were refused before) are said once and passed over; the others count.
    pub fn follow(&mut self, settings: &CameraSettings, table: &[Class]) {
        if self.source.as_ref().is_some_and(|lists| lists.are_of(settings)) {
            return;
        }
        *self = Self::of(settings, table).unwrap_or_else(|e| {
            log::warn!("{e}; the other names count");
            Self::of_known(settings, table)
        });
        self.source = Some(Lists {
            mask: settings.mask.clone(),
            points: settings.points.classes.clone(),
            far: settings.depth_far_classes.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::classes::cityscapes;
    use crate::interface::Value;

    #[test]
    fn what_a_model_lacks_is_passed_over_and_the_rest_counts() {
        let texts = |names: &[&str]| Value::Strings(names.iter().map(|s| s.to_string()).collect());
        let given = [
            ("points.classes", texts(&["pole", "car"])),
            ("mask.free_classes", texts(&["road", "sidewalk"])),
            ("mask.obstacle_classes", texts(&["pole", "car"])),
        ];
        let set = ParameterSet::new(given.map(|(name, value)| (name.to_string(), value))).expect("valid");
        let settings = Settings::of(&set);
        let table = cityscapes();
        let id = |name: &str| usize::from(classes::ids_of(name, &table).expect(name)[0]);
        let without: Vec<Class> = table.iter().filter(|c| c.name != "pole" && c.name != "sidewalk").cloned().collect();
        assert_eq!(settings.check_classes(&table), Ok(()));
        assert!(settings.check_classes(&without).expect_err("no pole").contains("the model has no class"));

        let mut sets = ClassSets::default();
        sets.follow(&settings.cameras[0], &without);
        let values = [id("road"), id("car"), id("sidewalk"), id("pole")].map(|i| sets.mask[i]);
        assert_eq!(values, [classes::FREE, classes::OBSTACLE, classes::NEITHER, classes::NEITHER]);
        assert!(sets.points[id("car")] && !sets.points[id("road")]);
        // Where nothing of a list is left, no point is left out.
        let only_poles = [("points.classes".to_string(), texts(&["pole"]))];
        let settings = Settings::of(&ParameterSet::new(only_poles).expect("valid"));
        sets.follow(&settings.cameras[0], &without);
        assert!(sets.points.iter().all(|&chosen| chosen));
        assert_eq!(sets.mask[id("car")], classes::OBSTACLE, "the lists of the mask are not touched");
    }

    #[test]
    fn masks_of_nothing_are_told_once_and_only_where_there_is_a_mask() {
        let other: Vec<Class> = (0..3).map(|id| Class { id, name: format!("thing {id}"), color: [0; 3] }).collect();
        let cameras = Value::Strings(vec!["front".into(), "rear".into()]);
        let lines = |more: &[(&str, Value)]| {
            let given = [&[("cameras", cameras.clone())], more].concat();
            let set =
                ParameterSet::new(given.into_iter().map(|(name, value)| (name.to_string(), value))).expect("valid");
            Settings::of(&set).idle_masks(&other)
        };
        assert_eq!(lines(&[]).len(), 2, "one for each list, not for each camera");
        assert_eq!(lines(&[("outputs.mask", Value::Bool(false))]).len(), 0);
    }

    #[test]
    fn what_is_in_both_lists_is_an_obstacle() {
        let names = |name: &str| Value::Strings(vec![name.into()]);
        let given = [("mask.free_classes", names("13")), ("mask.obstacle_classes", names("car"))];
        let set = ParameterSet::new(given.map(|(name, value)| (name.to_string(), value))).expect("valid");
        let mut sets = ClassSets::default();
        sets.follow(&Settings::of(&set).cameras[0], &cityscapes());
        assert_eq!(sets.mask[13], classes::OBSTACLE);
    }
}

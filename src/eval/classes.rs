//! The classes of a judged source, and what a prediction counts as among them.

use crate::data::classes::{self, Class, CATEGORIES, SCORED_CLASSES};
use crate::data::source::{Groups, JudgedClass};
use std::collections::BTreeSet;

/// In a table of classes: none.
pub const NO_CLASS: u8 = 255;

/// Foreground: what stands, walks or drives in the street ("things", and what is thin). Cityscapes names.
pub const FOREGROUND: [&str; 11] = [
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "pole",
    "traffic light",
    "traffic sign",
];
/// Background: what is all around ("stuff"). Cityscapes names; together with the foreground all 19.
pub const BACKGROUND: [&str; 8] = ["road", "sidewalk", "building", "wall", "fence", "vegetation", "terrain", "sky"];
/// What things stand on. Cityscapes names.
pub const GROUND: [&str; 3] = ["road", "sidewalk", "terrain"];
/// What [`super::leak`] looks at. Cityscapes names.
pub const POLES: [&str; 1] = ["pole"];

/// One side of the split into foreground and background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// All of the class's train ids are in [`FOREGROUND`].
    Foreground,
    /// All of them are in [`BACKGROUND`].
    Background,
}

/// The judged classes of a source. Truth codes and predicted train ids become indices into it.
///
/// A prediction counts as class k where k's train ids hold it. Where several classes hold it: as the true one if that
/// is among them (then it is right), else as the one with the fewest train ids, the first of those.
#[derive(Debug, Clone)]
pub struct ClassTable {
    classes: Vec<JudgedClass>,
    /// Truth code -> class, [`NO_CLASS`] where it does not count.
    of_code: [u8; 256],
    /// `counts_as[class * 256 + predicted train id]` -> class.
    counts_as: Vec<u8>,
}

impl ClassTable {
    /// Of a source whose index has entered its codes into `groups`.
    pub fn new(classes: Vec<JudgedClass>, groups: &Groups) -> Self {
        let position = |ids: &[u8]| {
            let exact = classes.iter().position(|c| !ids.is_empty() && c.train_ids == ids);
            let whole = |c: &JudgedClass| !ids.is_empty() && ids.iter().all(|id| c.train_ids.contains(id));
            exact.or_else(|| classes.iter().position(whole))
        };
        let mut of_code = [NO_CLASS; 256];
        for (of_code, members) in of_code.iter_mut().zip(groups.members()) {
            *of_code = position(&members).map_or(NO_CLASS, |i| i as u8);
        }
        let owner = |id: u8| {
            let holding = classes.iter().enumerate().filter(|(_, c)| c.train_ids.contains(&id));
            holding.min_by_key(|(_, c)| c.train_ids.len()).map_or(NO_CLASS, |(i, _)| i as u8)
        };
        let owners: Vec<u8> = (0..=255).map(owner).collect();
        let counts_as = classes.iter().enumerate().flat_map(|(i, class)| {
            let owners = &owners;
            (0..=255).map(move |id| if class.train_ids.contains(&id) { i as u8 } else { owners[usize::from(id)] })
        });
        let counts_as = counts_as.collect();
        Self { classes, of_code, counts_as }
    }

    /// The 19 scored classes of Cityscapes.
    pub fn cityscapes() -> Self {
        let scored = classes::cityscapes().into_iter().take(SCORED_CLASSES);
        Self::new(scored.map(|c| JudgedClass { name: c.name, train_ids: vec![c.id] }).collect(), &Groups::default())
    }

    /// The 7 scored categories of Cityscapes, for models of these. A label that may be of several does not count.
    pub fn categories(groups: &Groups) -> Self {
        let scored = classes::categories().into_iter().take(CATEGORIES);
        let class = |c: Class| JudgedClass { name: c.name, train_ids: classes::in_category(c.id).collect() };
        Self::new(scored.map(class).collect(), groups)
    }

    /// Number of classes.
    #[allow(clippy::len_without_is_empty)] // an empty one is of no use
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// The classes, in order.
    pub fn classes(&self) -> &[JudgedClass] {
        &self.classes
    }

    /// Translates one image: label codes of the truth and predicted train ids become classes, [`NO_CLASS`] for none.
    pub fn translate(&self, codes: &[u8], predicted: &[u8], truth: &mut Vec<u8>, answer: &mut Vec<u8>) {
        truth.clear();
        truth.extend(codes.iter().map(|&code| self.of_code[usize::from(code)]));
        answer.clear();
        answer.extend(truth.iter().zip(predicted).map(|(&t, &p)| self.counts_as(t, p)));
    }

    /// What a predicted train id counts as where the truth is this class.
    #[inline]
    fn counts_as(&self, truth: u8, predicted: u8) -> u8 {
        self.counts_as.get(usize::from(truth) * 256 + usize::from(predicted)).copied().unwrap_or(NO_CLASS)
    }

    /// The Cityscapes colour of a class's first train id, sRGB; black for none.
    pub fn color(&self, class: u8) -> [u8; 3] {
        let first = self.classes.get(usize::from(class)).and_then(|c| c.train_ids.first());
        let table = classes::cityscapes();
        first.and_then(|&id| table.get(usize::from(id))).map_or([0; 3], |c| c.color)
    }

    /// Which side of the split a class is on; `None` where its train ids are on both.
    pub fn side(&self, class: usize) -> Option<Side> {
        if self.all_in(class, &FOREGROUND) {
            Some(Side::Foreground)
        } else {
            self.all_in(class, &BACKGROUND).then_some(Side::Background)
        }
    }

    /// Whether all train ids of a class are among these Cityscapes names.
    pub fn all_in(&self, class: usize, names: &[&str]) -> bool {
        let table = classes::cityscapes();
        let named: BTreeSet<u8> = table.iter().filter(|c| names.contains(&c.name.as_str())).map(|c| c.id).collect();
        self.classes[class].train_ids.iter().all(|id| named.contains(id))
    }

    /// For each value of a translated pixel: whether it is a class whose train ids are all among these names.
    pub fn flags(&self, names: &[&str]) -> [bool; 256] {
        std::array::from_fn(|i| i < self.len() && self.all_in(i, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_hold_their_classes() {
        let table = ClassTable::categories(&Groups::default());
        let (mut truth, mut answer) = (vec![], vec![]);
        // Road, sidewalk, person, unlabelled; answered: road, car, rider, road.
        table.translate(&[0, 1, 11, 19], &[0, 13, 12, 0], &mut truth, &mut answer);
        assert_eq!(truth, [0, 0, 5, NO_CLASS]);
        assert_eq!(answer[..3], [0, 6, 5]);
    }

    #[test]
    fn the_split_has_every_class_once() {
        let table = ClassTable::cityscapes();
        let sides: Vec<_> = (0..table.len()).map(|c| table.side(c)).collect();
        assert_eq!(sides.iter().filter(|s| **s == Some(Side::Foreground)).count(), FOREGROUND.len());
        assert_eq!(sides.iter().filter(|s| **s == Some(Side::Background)).count(), BACKGROUND.len());
        assert_eq!(table.flags(&GROUND).iter().filter(|f| **f).count(), GROUND.len(), "every name is known");
        assert_eq!(table.flags(&POLES).iter().position(|f| *f), Some(5));
    }

    #[test]
    fn cityscapes_are_themselves() {
        let (mut truth, mut answer) = (vec![], vec![]);
        ClassTable::cityscapes().translate(&[0, 18, 19, 3], &[0, 5, 3, 255], &mut truth, &mut answer);
        assert_eq!(truth, [0, 18, NO_CLASS, 3]);
        assert_eq!((answer[0], answer[1], answer[3]), (0, 5, NO_CLASS));
    }

    /// Overlapping sets: "rider", "two-wheeler" (rider or bicycle), "car"; nothing has "sky".
    #[test]
    fn a_prediction_counts_as_the_true_class_or_the_narrowest() {
        let class = |name: &str, ids: &[u8]| JudgedClass { name: name.into(), train_ids: ids.into() };
        let classes = vec![class("two-wheeler", &[12, 18]), class("rider", &[12]), class("car", &[13])];
        let mapping = "classes:\n  1: {name: two-wheeler, is: [rider, bicycle]}\n  2: {name: rider, is: [rider]}\n  \
                       3: {name: car, is: [car]}\n";
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("mapping.yaml");
        std::fs::write(&path, mapping).expect("written");
        for part in ["images", "labels"] {
            std::fs::create_dir_all(root.path().join("val").join(part)).expect("made");
            image::GrayImage::new(1, 1).save(root.path().join("val").join(part).join("a.png")).expect("written");
        }
        let source: crate::data::source::Source = serde_yaml::from_str(&format!(
            "layout: folder\nroot: {}\nmapping: {}\n",
            root.path().display(),
            path.display()
        ))
        .expect("a source");
        let mut groups = Groups::default();
        source.index("val", &mut groups).expect("an index");
        assert_eq!(source.judged_classes().expect("classes"), classes);
        let table = ClassTable::new(classes, &groups);
        // Code 20 is the group [12, 18]; 12 is rider; 13 is car.
        let codes = [20, 20, 20, 12, 13, 13, 13];
        let predicted = [12, 18, 13, 12, 12, 18, 10];
        let (mut truth, mut answer) = (vec![], vec![]);
        table.translate(&codes, &predicted, &mut truth, &mut answer);
        assert_eq!(truth, [0, 0, 0, 1, 2, 2, 2]);
        // A rider is right for both; on a car it counts as "rider", a bicycle as "two-wheeler", sky as nothing.
        assert_eq!(answer, [0, 0, 2, 1, 1, 0, NO_CLASS]);
    }
}

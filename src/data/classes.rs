//! The label space: the 19 Cityscapes train classes and "unlabelled", with names, colours and the
//! Cityscapes label ids. Source: the Cityscapes dataset's published label definitions (Cordts et al., CVPR 2016).

use serde::{Deserialize, Serialize};

/// Number of classes that are scored.
pub const SCORED_CLASSES: usize = 19;
/// Number of channels of the segmentation head: the scored classes and "unlabelled".
pub const CLASSES: usize = 20;
/// Train id of "unlabelled" inside the network (channel 19).
pub const UNLABELLED_TRAIN_ID: u8 = 19;
/// Train id of the sky, which has no depth.
pub const SKY_TRAIN_ID: u8 = 10;
/// Value of an unlabelled pixel in every label image that leaves the project.
pub const UNLABELLED: u8 = 255;

/// One class of the label space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Value of a pixel of this class in published label images (the Cityscapes train id; 255 for unlabelled).
    pub id: u8,
    /// Cityscapes name.
    pub name: String,
    /// Cityscapes colour, sRGB.
    pub color: [u8; 3],
}

/// `(train id, Cityscapes label id, name, colour)` of the scored classes, in train id order.
const CITYSCAPES: [(u8, &str, [u8; 3]); SCORED_CLASSES] = [
    (7, "road", [128, 64, 128]),
    (8, "sidewalk", [244, 35, 232]),
    (11, "building", [70, 70, 70]),
    (12, "wall", [102, 102, 156]),
    (13, "fence", [190, 153, 153]),
    (17, "pole", [153, 153, 153]),
    (19, "traffic light", [250, 170, 30]),
    (20, "traffic sign", [220, 220, 0]),
    (21, "vegetation", [107, 142, 35]),
    (22, "terrain", [152, 251, 152]),
    (23, "sky", [70, 130, 180]),
    (24, "person", [220, 20, 60]),
    (25, "rider", [255, 0, 0]),
    (26, "car", [0, 0, 142]),
    (27, "truck", [0, 0, 70]),
    (28, "bus", [0, 60, 100]),
    (31, "train", [0, 80, 100]),
    (32, "motorcycle", [0, 0, 230]),
    (33, "bicycle", [119, 11, 32]),
];

/// The class table of a model trained here: channel `i` of the segmentation head is entry `i`.
///
/// The last entry is "unlabelled", black, with id 255.
pub fn cityscapes() -> Vec<Class> {
    CITYSCAPES
        .iter()
        .enumerate()
        .map(|(train_id, &(_, name, color))| Class { id: train_id as u8, name: name.into(), color })
        .chain(std::iter::once(Class { id: UNLABELLED, name: "unlabelled".into(), color: [0, 0, 0] }))
        .collect()
}

/// Cityscapes label id (as in `*_labelIds.png`) of a train id; "unlabelled" (19 or more) is label id 0.
pub fn label_id(train_id: u8) -> u8 {
    CITYSCAPES.get(usize::from(train_id)).map_or(0, |c| c.0)
}

/// Train id of a Cityscapes label id; every id that is not scored becomes [`UNLABELLED_TRAIN_ID`].
pub fn train_id(label_id: u8) -> u8 {
    CITYSCAPES.iter().position(|c| c.0 == label_id).map_or(UNLABELLED_TRAIN_ID, |i| i as u8)
}

/// Whether a label file in Cityscapes' ids may hold this: 0 to 33 and, for a licence plate (-1), 34 or 255, as tools write it.
pub fn is_label_id(value: u8) -> bool {
    value <= 34 || value == UNLABELLED
}

/// Number of Cityscapes categories that are scored.
pub const CATEGORIES: usize = 7;

/// `(name, colour, the train ids in it)` of the categories; the colour is that of their commonest class.
const CATEGORY_TABLE: [(&str, [u8; 3], std::ops::RangeInclusive<u8>); CATEGORIES] = [
    ("flat", [128, 64, 128], 0..=1),
    ("construction", [70, 70, 70], 2..=4),
    ("object", [153, 153, 153], 5..=7),
    ("nature", [107, 142, 35], 8..=9),
    ("sky", [70, 130, 180], 10..=10),
    ("human", [220, 20, 60], 11..=12),
    ("vehicle", [0, 0, 142], 13..=18),
];

/// Cityscapes category of a train id: 0 to 6 as in [`categories`]; 7 for what is not labelled.
pub fn category_of(train_id: u8) -> u8 {
    CATEGORY_TABLE.iter().position(|c| c.2.contains(&train_id)).unwrap_or(CATEGORIES) as u8
}

/// Train ids in a category of [`categories`]; none for another number.
pub fn in_category(category: u8) -> std::ops::Range<u8> {
    CATEGORY_TABLE.get(usize::from(category)).map_or(0..0, |c| *c.2.start()..c.2.end() + 1)
}

/// The table of the categories, as [`cityscapes`] is that of the classes: "unlabelled" comes last, with id 255.
pub fn categories() -> Vec<Class> {
    CATEGORY_TABLE
        .iter()
        .enumerate()
        .map(|(id, (name, color, _))| Class { id: id as u8, name: (*name).into(), color: *color })
        .chain(std::iter::once(Class { id: UNLABELLED, name: "unlabelled".into(), color: [0, 0, 0] }))
        .collect()
}

/// What labels are: of a training, or of a model's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelSpace {
    /// Cityscapes' 19 train ids and unlabelled: [`cityscapes`].
    #[default]
    TrainIds,
    /// Cityscapes' 7 categories and unlabelled: [`categories`].
    Categories,
}

impl LabelSpace {
    /// Channels of the segmentation head; the last one is "unlabelled".
    pub fn channels(self) -> usize {
        match self {
            Self::TrainIds => CLASSES,
            Self::Categories => CATEGORIES + 1,
        }
    }

    /// A train id that a channel stands for, the first of several.
    pub fn train_id(self, channel: u8) -> u8 {
        match self {
            Self::TrainIds => channel,
            Self::Categories => in_category(channel).next().unwrap_or(UNLABELLED_TRAIN_ID),
        }
    }

    /// Channel of a train id that is scored.
    pub fn channel(self, train_id: u8) -> u8 {
        match self {
            Self::TrainIds => train_id,
            Self::Categories => category_of(train_id),
        }
    }
}

/// The label space of a model's class table: the one whose ids and names it has, in whatever order and colours. "unlabelled"
/// may be missing: a usual Cityscapes model has 19 channels, and a pixel that is not answered is unlabelled all the same.
///
/// # Errors
/// It is neither; says the first class by which it differs from the nearer one.
pub fn label_space(table: &[Class]) -> Result<LabelSpace, String> {
    let spaces = [(LabelSpace::TrainIds, cityscapes()), (LabelSpace::Categories, categories())];
    if let Some((space, _)) = spaces.iter().find(|(space, own)| difference(table, *space, own).is_none()) {
        return Ok(*space);
    }
    // A name with another id is near to it: official label ids, above all.
    let named = |own: &[Class]| table.iter().filter(|class| own.iter().any(|c| c.name == class.name)).count();
    let [classes, categories] = spaces;
    let (space, own) = if named(&categories.1) > named(&classes.1) { categories } else { classes };
    let all = match space {
        LabelSpace::TrainIds => format!("Cityscapes' {SCORED_CLASSES} classes"),
        LabelSpace::Categories => format!("Cityscapes' {CATEGORIES} categories"),
    };
    let first = difference(table, space, &own).unwrap_or_default();
    Err(format!("its {} classes are not {all}: {first}", table.len()))
}

/// The first class by which a table differs from a label space's `own`, in words.
fn difference(table: &[Class], space: LabelSpace, own: &[Class]) -> Option<String> {
    let has = |table: &[Class], class: &Class| table.iter().any(|c| c.id == class.id && c.name == class.name);
    if let Some(class) = table.iter().find(|class| !has(own, class)) {
        let Class { id, name, .. } = class;
        return Some(match own.iter().find(|c| c.name == *name) {
            Some(known) if label_id(known.id) == *id && space == LabelSpace::TrainIds => {
                format!("'{name}' has the id {id}, which is its label id; its train id is {}", known.id)
            }
            Some(known) => format!("'{name}' has the id {id}, expected {}", known.id),
            None => format!("'{name}' (id {id}) is none of them"),
        });
    }
    let missing = own.iter().find(|class| class.id != UNLABELLED && !has(table, class))?;
    Some(format!("'{}' (id {}) is missing", missing.name, missing.id))
}

/// The class table of a network with this many score channels; `None` where no label space has as many.
pub fn table(channels: usize) -> Option<Vec<Class>> {
    [cityscapes(), categories()].into_iter().find(|table| table.len() == channels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_category() {
        let classes = cityscapes();
        let names = categories();
        assert_eq!(names.len(), CATEGORIES + 1);
        let category = |name: &str| {
            let class = classes.iter().find(|c| c.name == name).expect(name);
            names[usize::from(category_of(class.id))].name.clone()
        };
        for (class, expected) in [
            ("road", "flat"),
            ("sidewalk", "flat"),
            ("fence", "construction"),
            ("pole", "object"),
            ("traffic sign", "object"),
            ("terrain", "nature"),
            ("sky", "sky"),
            ("rider", "human"),
            ("car", "vehicle"),
            ("bicycle", "vehicle"),
            ("unlabelled", "unlabelled"),
        ] {
            assert_eq!(category(class), expected, "{class}");
        }
        assert_eq!(classes[usize::from(SKY_TRAIN_ID)].name, "sky");
        assert_eq!(category_of(UNLABELLED_TRAIN_ID), CATEGORIES as u8);
    }

    #[test]
    fn a_label_space_is_known_by_ids_and_names() {
        let (classes, categories) = (cityscapes(), categories());
        for (table, space) in [(&classes, LabelSpace::TrainIds), (&categories, LabelSpace::Categories)] {
            assert_eq!(label_space(table), Ok(space));
            assert_eq!(label_space(&table[..table.len() - 1]), Ok(space), "without unlabelled");
            let other_order: Vec<_> = table.iter().rev().map(|c| Class { color: [1, 2, 3], ..c.clone() }).collect();
            assert_eq!(label_space(&other_order), Ok(space));
        }
        let error = |table: &[Class]| label_space(table).expect_err("another table");
        let foreign = |n: u8| -> Vec<_> {
            (0..n).map(|id| Class { id: 10 * id, name: format!("thing {id}"), color: [0; 3] }).collect()
        };
        assert_eq!(
            error(&foreign(20)),
            "its 20 classes are not Cityscapes' 19 classes: 'thing 0' (id 0) is none of them"
        );
        assert!(error(&foreign(8)).ends_with("'thing 0' (id 0) is none of them"));
        let official: Vec<_> = classes[..19].iter().map(|c| Class { id: label_id(c.id), ..c.clone() }).collect();
        assert!(error(&official).ends_with("'road' has the id 7, which is its label id; its train id is 0"));
        let mut swapped = categories.clone();
        (swapped[2].id, swapped[5].id) = (5, 2);
        assert_eq!(
            error(&swapped),
            "its 8 classes are not Cityscapes' 7 categories: 'object' has the id 5, expected 2"
        );
        assert_eq!(error(&classes[1..]), "its 19 classes are not Cityscapes' 19 classes: 'road' (id 0) is missing");
        assert!(error(&[&classes[..], &foreign(1)].concat()).ends_with("'thing 0' (id 0) is none of them"));
    }

    #[test]
    fn ids_go_there_and_back() {
        for train in 0..SCORED_CLASSES as u8 {
            assert_eq!(train_id(label_id(train)), train);
        }
        assert_eq!(train_id(0), UNLABELLED_TRAIN_ID);
        assert_eq!(train_id(29), UNLABELLED_TRAIN_ID, "caravan is not scored");
        assert_eq!(label_id(UNLABELLED_TRAIN_ID), 0);
        assert_eq!(cityscapes().len(), CLASSES);
    }
}

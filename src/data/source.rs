//! Where frames come from: data sets of several shapes behind one type.
//!
//! A source may lack labels or depth, and its labels may be coarser than the network's classes: a mapping file gives
//! each of its ids one class or several (CamVid's "bicyclist" is Cityscapes' rider or bicycle). A pixel of several
//! possible classes is coded as a group; see [`Groups`].

use super::cityscapes::{DepthFiles, LabelFiles, Part, ReadOptions, Sample};
use super::classes::{self, CLASSES, SCORED_CLASSES, UNLABELLED_TRAIN_ID};
use super::disk::{self, in_line, read_text, DataError};
use super::frame::{rows_above_bottom, Decoded};
use super::picture::{self, Numbers};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most groups of all mappings together: label codes are bytes, and the last byte stands for what does not count
/// ([`crate::train::labels::IGNORED_BYTE`]).
const MOST_GROUPS: usize = 255 - CLASSES;

/// A data set on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "layout", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// Cityscapes' folders: see [`super::cityscapes`].
    Cityscapes {
        /// The folder that holds `leftImg8bit`.
        root: PathBuf,
        /// `label_ids`, `train_ids` or `none`.
        #[serde(default)]
        labels: LabelFiles,
        /// `auto`, `disparity`, `none`, or the name of a folder of dense depth.
        #[serde(default)]
        depth: DepthFiles,
        /// Share of the rows at the bottom to leave out: the vehicle that carries the camera (the article: 0.2).
        #[serde(default)]
        remove_bottom: f64,
    },
    /// Pictures in one folder, class ids in another, files paired by their names without the ending (CamVid).
    Folder {
        /// What the other paths start from.
        root: PathBuf,
        /// Folder of PNG or JPEG pictures below the root; `{split}` stands for the split.
        #[serde(default = "images")]
        images: String,
        /// Folder of 8-bit PNG files with a class id a pixel, likewise.
        #[serde(default = "labels")]
        labels: String,
        /// YAML file that says what the ids are: [`Mapping`].
        mapping: PathBuf,
        /// Focal length of the camera in pixels of its pictures, where it is known.
        #[serde(default)]
        focal_px: Option<f64>,
        /// As above.
        #[serde(default)]
        remove_bottom: f64,
    },
}

/// Where pictures usually are below the root.
pub fn images() -> String {
    "{split}/images".into()
}

/// Where class ids usually are below the root.
pub fn labels() -> String {
    "{split}/labels".into()
}

/// What the class ids of a [`Source::Folder`] are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Class id of the source -> its name and meaning. Every id that occurs has to be here.
    pub classes: BTreeMap<u8, MappedClass>,
}

/// One class of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappedClass {
    /// The source's own name.
    pub name: String,
    /// Names of the Cityscapes classes that it may be; none: its pixels do not count.
    pub is: Vec<String>,
}

impl Mapping {
    /// Reads a mapping file: the class of each id.
    ///
    /// # Errors
    /// It cannot be read, says an id twice, or names a class that there is not.
    pub fn read(path: &Path) -> Result<BTreeMap<u8, JudgedClass>, DataError> {
        let bad = |what: String| DataError::Bad { path: path.into(), what };
        const EXPECTED: &str =
            "expected a mapping file, which says what the class ids are, such as config/data/camvid.yaml";
        let text = read_text(path).map_err(|error| match error {
            DataError::Io { source, .. } => bad(format!("{source}; {EXPECTED}")),
            other => other,
        })?;
        // A map of its own type takes the last of several entries with one key; this one refuses them.
        let _: serde_yaml::Value = crate::yaml::read(&text).map_err(|e| bad(e.to_string()))?;
        // From the text again: its reader says where in the file something is wrong.
        let mapping: Self = serde_yaml::from_str(&text).map_err(|e| bad(e.to_string()))?;
        mapping.resolved().map_err(bad)
    }

    /// With train ids for names.
    ///
    /// # Errors
    /// The first class name that is not one of Cityscapes'.
    fn resolved(self) -> Result<BTreeMap<u8, JudgedClass>, String> {
        let table = classes::cityscapes();
        let id_of = |name: &String| {
            table[..SCORED_CLASSES].iter().find(|c| c.name == *name).map(|c| c.id).ok_or_else(|| {
                let known: Vec<_> = table[..SCORED_CLASSES].iter().map(|c| c.name.as_str()).collect();
                format!("class {name:?} is not known; expected one of {}", known.join(", "))
            })
        };
        self.classes
            .into_iter()
            .map(|(id, MappedClass { name, is })| {
                let mut train_ids = is.iter().map(id_of).collect::<Result<Vec<_>, _>>()?;
                train_ids.sort_unstable();
                train_ids.dedup();
                Ok((id, JudgedClass { name, train_ids }))
            })
            .collect()
    }
}

/// A class of a source, by which predictions on it are judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JudgedClass {
    /// The source's own name.
    pub name: String,
    /// Sorted train ids: where this class is the truth, a prediction of any of them is right.
    pub train_ids: Vec<u8>,
}

/// What a label code above the train ids stands for: one of several classes.
///
/// Code `c < 20` is the train id `c` (19: unlabelled); code `20 + g` is group `g`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups(Vec<Vec<u8>>);

impl Groups {
    /// The code of a set of train ids; a new group where it needs one.
    ///
    /// # Errors
    /// There are more groups than codes.
    fn code(&mut self, train_ids: &[u8]) -> Result<u8, String> {
        match train_ids {
            [] => Ok(UNLABELLED_TRAIN_ID),
            [one] => Ok(*one),
            several => {
                let index = self.0.iter().position(|g| g == several).unwrap_or_else(|| {
                    self.0.push(several.to_vec());
                    self.0.len() - 1
                });
                if index >= MOST_GROUPS {
                    return Err(format!("more than {MOST_GROUPS} different groups of classes in all mappings"));
                }
                Ok((CLASSES + index) as u8)
            }
        }
    }

    /// Train ids of each code: the scored classes by themselves, nothing for unlabelled, then the groups.
    pub fn members(&self) -> Vec<Vec<u8>> {
        let single = (0..CLASSES as u8).map(|id| if id == UNLABELLED_TRAIN_ID { vec![] } else { vec![id] });
        single.chain(self.0.iter().cloned()).collect()
    }
}

/// How one frame is read.
#[derive(Debug, Clone)]
enum Read {
    Cityscapes(Sample),
    Folder { picture: PathBuf, labels: PathBuf, codes: Arc<[Option<u8>; 256]>, focal_px: Option<f64> },
}

/// One frame of a source, by name.
#[derive(Debug, Clone)]
pub struct Item {
    name: String,
    read: Read,
    remove_bottom: f64,
}

/// What is known of a frame before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// Pixels.
    pub width: usize,
    /// Pixels, without the rows at the bottom that are left out.
    pub height: usize,
    /// Pixels, with these rows: the picture as the camera sends it.
    pub whole_height: usize,
    /// Whether it has labels.
    pub labels: bool,
    /// Whether it has depth.
    pub depth: bool,
    /// Horizontal and vertical focal length in pixels of the frame, where a camera file tells it.
    pub focal_px: Option<(f64, f64)>,
}

impl Facts {
    /// Bytes of the frame once it is decoded.
    pub fn bytes(&self) -> u64 {
        let pixel = 3 + usize::from(self.labels) + 4 * usize::from(self.depth);
        (self.width * self.height * pixel) as u64
    }

    /// The geometric mean of the focal lengths as a share of that of the whole frame's width and height, where it is known. It
    /// stays what it is however the whole frame is stretched into a network's input.
    pub fn focal_share(&self) -> Option<f64> {
        self.focal_px.map(|(x, y)| (x * y / (self.width * self.whole_height) as f64).sqrt())
    }
}

impl Source {
    /// The same source at another place.
    #[must_use]
    pub fn at(mut self, place: PathBuf) -> Self {
        match &mut self {
            Self::Cityscapes { root, .. } | Self::Folder { root, .. } => *root = place,
        }
        self
    }

    /// The classes by which predictions on this source are judged, in the order of its ids: the 19 of Cityscapes, or
    /// those of the mapping that count. Classes of the same train ids cannot be told apart and are one, "a / b".
    ///
    /// # Errors
    /// The mapping cannot be read, makes no sense, or no class of it counts.
    pub fn judged_classes(&self) -> Result<Vec<JudgedClass>, DataError> {
        let Self::Folder { mapping: path, .. } = self else {
            let scored = classes::cityscapes().into_iter().take(SCORED_CLASSES);
            return Ok(scored.map(|c| JudgedClass { name: c.name, train_ids: vec![c.id] }).collect());
        };
        let mut judged: Vec<JudgedClass> = Vec::new();
        for class in Mapping::read(path)?.into_values().filter(|class| !class.train_ids.is_empty()) {
            match judged.iter_mut().find(|c| c.train_ids == class.train_ids) {
                Some(same) => same.name = format!("{} / {}", same.name, class.name),
                None => judged.push(class),
            }
        }
        if judged.is_empty() {
            return Err(DataError::bad(path, "no class counts; expected at least one with a class name in `is`"));
        }
        Ok(judged)
    }

    /// Sorted train ids of each of its ids, where a mapping says what they are.
    ///
    /// # Errors
    /// The mapping cannot be read, or makes no sense.
    pub fn mapped(&self) -> Result<Option<BTreeMap<u8, Vec<u8>>>, DataError> {
        let Self::Folder { mapping, .. } = self else { return Ok(None) };
        Ok(Some(Mapping::read(mapping)?.into_iter().map(|(id, class)| (id, class.train_ids)).collect()))
    }

    /// The frames of a split, sorted by name. Label codes of several classes are entered into `groups`.
    ///
    /// # Errors
    /// An empty split, a frame that lacks a file (the first few are named), a mapping that makes no sense.
    pub fn index(&self, split: &str, groups: &mut Groups) -> Result<Vec<Item>, DataError> {
        match self {
            Self::Cityscapes { root, labels, depth, remove_bottom } => {
                let samples = Sample::index(root, split, &ReadOptions { labels: *labels, depth: depth.clone() })?;
                let remove_bottom = share(*remove_bottom)?;
                let item = |s: Sample| Item { name: s.stem().into(), read: Read::Cityscapes(s), remove_bottom };
                Ok(samples.into_iter().map(item).collect())
            }
            Self::Folder { root, images, labels, mapping, focal_px, remove_bottom } => {
                let folder = |pattern: &String| root.join(pattern.replace("{split}", split));
                if !root.is_dir() {
                    let what = disk::not_a_folder(root);
                    return Err(DataError::Nowhere(format!(
                        "{} {what}: expected the root of a data set",
                        root.display()
                    )));
                }
                if let Some(focal_px) = focal_px.filter(|f| !(f.is_finite() && *f > 0.0)) {
                    return Err(DataError::Split(format!("focal_px: expected pixels above 0, found {focal_px}")));
                }
                let mut codes = [None; 256];
                for (id, class) in Mapping::read(mapping)? {
                    let code = groups.code(&class.train_ids).map_err(|what| DataError::bad(mapping, what))?;
                    codes[usize::from(id)] = Some(code);
                }
                let codes = Arc::new(codes);
                let remove_bottom = share(*remove_bottom)?;
                let items = pair(&folder(images), &folder(labels))?.into_iter().map(|(name, picture, labels)| Item {
                    name,
                    read: Read::Folder { picture, labels, codes: codes.clone(), focal_px: *focal_px },
                    remove_bottom,
                });
                Ok(items.collect())
            }
        }
    }
}

fn share(value: f64) -> Result<f64, DataError> {
    if (0.0..1.0).contains(&value) {
        Ok(value)
    } else {
        Err(DataError::Split(format!("remove_bottom: expected 0 or more and less than 1, found {value}")))
    }
}

/// Files of two folders with the same name without ending: (name, first, second), sorted.
fn pair(pictures: &Path, labels: &Path) -> Result<Vec<(String, PathBuf, PathBuf)>, DataError> {
    let list = |folder: &Path, endings: &[&str]| -> Result<BTreeMap<String, PathBuf>, DataError> {
        let io = |source| match disk::is_absent(&source) {
            true => DataError::Split(disk::no_such_folder(folder, "folders")),
            false => DataError::Io { path: folder.into(), source },
        };
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            if endings.contains(&ending.as_str()) {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(other) = found.insert(name, path.clone()) {
                    return Err(DataError::Split(format!(
                        "{} and {} have one name; expected one file a frame",
                        other.display(),
                        path.display()
                    )));
                }
            }
        }
        Ok(found)
    };
    let pictures_found = list(pictures, &["png", "jpg", "jpeg"])?;
    let mut labels_found = list(labels, &["png"])?;
    if pictures_found.is_empty() {
        return Err(DataError::Split(format!("{}: no PNG or JPEG pictures in it", pictures.display())));
    }
    let mut alone = Vec::new();
    let mut pairs = Vec::new();
    for (name, picture) in pictures_found {
        match labels_found.remove(&name) {
            Some(labels) => pairs.push((name, picture, labels)),
            None => alone.push(picture),
        }
    }
    alone.extend(labels_found.into_values());
    if !alone.is_empty() {
        let named: Vec<_> = alone.iter().take(5).map(|p| p.display().to_string()).collect();
        return Err(DataError::Split(format!(
            "{} files have no partner of the same name in {} and {}: {}{}",
            alone.len(),
            pictures.display(),
            labels.display(),
            named.join(", "),
            if alone.len() > 5 { ", ..." } else { "" }
        )));
    }
    Ok(pairs)
}

/// [`Item::check`] of all frames, in parallel.
///
/// # Errors
/// How many frames are broken, and the first of them with the reasons.
pub fn check_all(items: &[Item]) -> Result<Vec<Facts>, DataError> {
    let checked: Vec<Result<Facts, DataError>> = items.par_iter().map(Item::check).collect();
    let n = checked.len();
    let (mut facts, mut broken) = (Vec::with_capacity(n), Vec::new());
    for checked in checked {
        match checked {
            Ok(known) => facts.push(known),
            Err(error) => broken.push(error),
        }
    }
    if broken.is_empty() {
        return Ok(facts);
    }
    Err(DataError::Split(format!("{} of {n} frames cannot be used: {}", broken.len(), in_line(&broken, 5))))
}

impl Item {
    /// Name of the frame.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks cheaply, by the files' headers and the camera file, that it can be decoded. What the pixels' values are is
    /// not looked at.
    ///
    /// # Errors
    /// The first part that cannot be opened, is cut short, of another kind or of another size than the picture.
    pub fn check(&self) -> Result<Facts, DataError> {
        let (size, labels, depth, focal_px) = match &self.read {
            Read::Cityscapes(sample) => {
                let size = sample.check()?;
                let (focal_px, _) = read_camera(sample)?;
                let options = sample.options();
                (size, options.labels != LabelFiles::None, options.depth != DepthFiles::None, focal_px)
            }
            Read::Folder { picture, labels, focal_px, .. } => {
                let size = picture::size(picture, None)?;
                same_size(labels, size, picture::size(labels, Some(Numbers::Ids))?)?;
                (size, true, false, focal_px.map(|f| (f, f)))
            }
        };
        let whole_height = size.1 as usize;
        let height = self.rows(whole_height)?;
        Ok(Facts { width: size.0 as usize, height, whole_height, labels, depth, focal_px })
    }

    /// Reads and decodes it, without the rows at the bottom that the source leaves out.
    ///
    /// # Errors
    /// A part that cannot be read, parts of different sizes, a class id that the mapping does not have, or no row is left.
    pub fn decode(&self) -> Result<Decoded, DataError> {
        let mut frame = self.decode_whole()?;
        self.rows(frame.height)?;
        self.cut(&mut frame);
        Ok(frame)
    }

    /// Rows of `whole_height` that the source does not leave out.
    fn rows(&self, whole_height: usize) -> Result<usize, DataError> {
        let rows = rows_above_bottom(whole_height, self.remove_bottom);
        if rows > 0 {
            return Ok(rows);
        }
        let Self { name, remove_bottom, .. } = self;
        Err(DataError::Split(format!("{name}: remove_bottom: {remove_bottom} leaves no row of {whole_height}")))
    }

    /// Cuts off the rows at the bottom that the source leaves out.
    pub fn cut(&self, whole: &mut Decoded) {
        whole.remove_bottom(self.remove_bottom);
    }

    /// [`Self::decode`] with all rows: what a model has to see that learned from whole pictures.
    ///
    /// # Errors
    /// As there.
    pub fn decode_whole(&self) -> Result<Decoded, DataError> {
        match &self.read {
            Read::Cityscapes(sample) => decode_cityscapes(sample),
            Read::Folder { picture, labels, codes, focal_px } => {
                let rgb = picture::read(picture, None)?.into_rgb8();
                let ids = picture::read_ids(labels)?;
                let (width, height) = rgb.dimensions();
                same_size(labels, (width, height), ids.dimensions())?;
                let code = |&id: &u8| {
                    codes[usize::from(id)].ok_or_else(|| DataError::Bad {
                        path: labels.clone(),
                        what: format!("class id {id} is not in the mapping; add it there (with `is: []` to ignore it)"),
                    })
                };
                Ok(Decoded {
                    width: width as usize,
                    height: height as usize,
                    rgb: rgb.into_raw(),
                    labels: Some(ids.as_raw().iter().map(code).collect::<Result<_, _>>()?),
                    depth_m: None,
                    focal_px: focal_px.map(|f| (f, f)),
                    principal_px: None,
                })
            }
        }
    }
}

fn same_size(labels: &Path, picture: (u32, u32), found: (u32, u32)) -> Result<(), DataError> {
    if found == picture {
        return Ok(());
    }
    let what = format!("expected {}x{} pixels as its picture has, found {}x{}", picture.0, picture.1, found.0, found.1);
    Err(DataError::Bad { path: labels.into(), what })
}

fn decode_cityscapes(sample: &Sample) -> Result<Decoded, DataError> {
    let rgb = sample.read_left()?;
    let size = rgb.dimensions();
    let expect = |what: &str, found: (u32, u32)| {
        if found == size {
            return Ok(());
        }
        Err(DataError::Split(format!(
            "{}: expected {what} of the picture's {}x{} pixels, found {}x{}",
            sample.stem(),
            size.0,
            size.1,
            found.0,
            found.1
        )))
    };
    let labels = match sample.options().labels {
        LabelFiles::None => None,
        _ => {
            let (labels, w, h) = sample.read_labels()?;
            expect("labels", (w, h))?;
            Some(labels)
        }
    };
    let depth_m = match sample.options().depth {
        DepthFiles::None => None,
        _ => {
            let (depth_m, w, h) = sample.read_depth()?;
            expect("depth", (w, h))?;
            Some(depth_m)
        }
    };
    let (focal_px, principal_px) = read_camera(sample)?;
    let (width, height) = (size.0 as usize, size.1 as usize);
    Ok(Decoded { width, height, rgb: rgb.into_raw(), labels, depth_m, focal_px, principal_px })
}

/// What a frame's camera file may tell, across and down, pixels.
type Pair = Option<(f64, f64)>;

/// Focal lengths and principal point, where the frame has a camera file.
fn read_camera(sample: &Sample) -> Result<(Pair, Pair), DataError> {
    if sample.path(Part::Camera).is_file() {
        Ok((Some(sample.read_focal()?), Some(sample.read_principal()?)))
    } else {
        Ok((None, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, RgbImage};

    const MAPPING: &str = "classes:\n  0: {name: sky, is: [sky]}\n  10: {name: bicyclist, is: [bicycle, rider]}\n  \
                           11: {name: void, is: []}\n";

    fn folder(ids: &[u8]) -> (tempfile::TempDir, Source) {
        let root = tempfile::tempdir().expect("a folder");
        for part in ["images", "labels"] {
            fs::create_dir_all(root.path().join("val").join(part)).expect("made");
        }
        fs::write(root.path().join("mapping.yaml"), MAPPING).expect("written");
        RgbImage::new(ids.len() as u32, 1).save(root.path().join("val/images/a.jpg")).expect("written");
        GrayImage::from_raw(ids.len() as u32, 1, ids.to_vec())
            .expect("a picture")
            .save(root.path().join("val/labels/a.png"))
            .expect("written");
        let source = Source::Folder {
            root: root.path().into(),
            images: images(),
            labels: labels(),
            mapping: root.path().join("mapping.yaml"),
            focal_px: None,
            remove_bottom: 0.0,
        };
        (root, source)
    }

    #[test]
    fn a_mapping_that_is_not_there_is_told_with_what_it_is() {
        let error = Mapping::read(Path::new("/nowhere/mapping.yaml")).expect_err("no file").to_string();
        assert!(error.starts_with("/nowhere/mapping.yaml: No such file"), "{error}");
        assert!(error.contains("expected a mapping file") && error.contains("config/data/camvid.yaml"), "{error}");
    }

    #[test]
    fn ids_become_train_ids_and_groups() {
        let (_root, source) = folder(&[0, 10, 11]);
        let mut groups = Groups::default();
        let items = source.index("val", &mut groups).expect("an index");
        let frame = items[0].decode().expect("a frame");
        assert_eq!(frame.labels, Some(vec![10, 20, UNLABELLED_TRAIN_ID]));
        assert!(frame.depth_m.is_none());
        let members = groups.members();
        assert_eq!((members.len(), &members[20]), (21, &vec![12, 18]));
        assert!(members[19].is_empty());
    }

    #[test]
    fn a_mapped_source_is_judged_in_its_own_classes() {
        let (root, source) = folder(&[0]);
        let class = |name: &str, train_ids: &[u8]| JudgedClass { name: name.into(), train_ids: train_ids.into() };
        let expected = [class("sky", &[10]), class("bicyclist", &[12, 18])];
        assert_eq!(source.judged_classes().expect("classes"), expected);
        let same = MAPPING.replace("name: void, is: []", "name: clouds, is: [sky]");
        fs::write(root.path().join("mapping.yaml"), same).expect("written");
        assert_eq!(source.judged_classes().expect("classes")[0], class("sky / clouds", &[10]));
        fs::write(root.path().join("mapping.yaml"), "classes: {0: {name: sky, is: []}}").expect("written");
        let error = source.judged_classes().expect_err("nothing counts").to_string();
        assert!(error.contains("no class counts"), "{error}");
        let (labels, depth) = (LabelFiles::default(), DepthFiles::default());
        let cityscapes = Source::Cityscapes { root: "x".into(), labels, depth, remove_bottom: 0.0 };
        let cityscapes = cityscapes.judged_classes().expect("classes");
        assert_eq!((cityscapes.len(), &cityscapes[18]), (19, &class("bicycle", &[18])));
    }

    #[test]
    fn a_check_tells_what_there_is_and_what_decoding_would_refuse() {
        let (root, source) = folder(&[0, 10]);
        let check = |source: &Source| source.index("val", &mut Groups::default()).expect("an index")[0].check();
        let facts = Facts { width: 2, height: 1, whole_height: 1, labels: true, depth: false, focal_px: None };
        assert_eq!((check(&source).expect("whole"), facts.bytes()), (facts, 2 * 4));
        let ids = root.path().join("val/labels/a.png");
        RgbImage::new(2, 1).save(&ids).expect("written");
        let error = check(&source).expect_err("colours").to_string();
        assert!(error.contains("a.png") && error.contains("expected a picture of kind L8, found Rgb8"), "{error}");
        image::ImageBuffer::<image::Luma<u16>, Vec<u16>>::new(2, 1).save(&ids).expect("written");
        let error = check(&source).expect_err("16 bits").to_string();
        assert!(error.contains("found L16"), "{error}");

        // A camera file is read where there is one, whatever depth needs.
        let root = tempfile::tempdir().expect("a folder");
        let sample = Sample::new(root.path(), "val", "town", 0, 0);
        sample.write_picture(Part::Left, &RgbImage::new(4, 10)).expect("written");
        sample.write_labels(&[0; 40], 4, 10).expect("written");
        sample.write_depth(&[1.0; 40], 4, 10).expect("written");
        let (labels, depth) = (LabelFiles::default(), DepthFiles::default());
        let source = Source::Cityscapes { root: root.path().into(), labels, depth, remove_bottom: 0.2 };
        let facts = Facts { width: 4, height: 8, whole_height: 10, labels: true, depth: true, focal_px: None };
        assert_eq!((check(&source).expect("whole"), facts.bytes()), (facts, 32 * 8));
        let camera = sample.path(Part::Camera);
        fs::create_dir_all(camera.parent().expect("a folder")).expect("made");
        fs::write(&camera, r#"{"intrinsic": {"fx": 50.0, "fy": 40.0, "u0": 2.0, "v0": 5.0}}"#).expect("written");
        let facts = check(&source).expect("whole");
        // 50 * 40 by 4 * 10 pixels of the whole frame.
        assert_eq!((facts.focal_px, facts.focal_share()), (Some((50.0, 40.0)), Some(50.0_f64.sqrt())));
        fs::write(&camera, "{}").expect("written");
        let error = check(&source).expect_err("an empty camera").to_string();
        assert!(error.contains("intrinsic.fx"), "{error}");
    }

    #[test]
    fn a_frame_has_rows_above_its_bottom() {
        let (_root, mut source) = folder(&[0, 10]);
        if let Source::Folder { remove_bottom, .. } = &mut source {
            *remove_bottom = 0.6;
        }
        let item = source.index("val", &mut Groups::default()).expect("an index").remove(0);
        for error in [item.check().expect_err("no row"), item.decode().expect_err("no row")] {
            assert_eq!(error.to_string(), "a: remove_bottom: 0.6 leaves no row of 1");
        }
    }

    #[test]
    fn pictures_are_read_by_what_is_in_them() {
        let (root, source) = folder(&[0, 10]);
        let images = root.path().join("val/images");
        fs::rename(images.join("a.jpg"), images.join("a.png")).expect("renamed");
        let items = source.index("val", &mut Groups::default()).expect("an index");
        items[0].check().expect("a JPEG");
        assert_eq!(items[0].decode().expect("a frame").width, 2);
    }

    #[test]
    fn a_focal_length_is_above_0() {
        let (_root, mut source) = folder(&[0]);
        for (wrong, said) in [(0.0, "0"), (-600.0, "-600"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            if let Source::Folder { focal_px, .. } = &mut source {
                *focal_px = Some(wrong);
            }
            let error = source.index("val", &mut Groups::default()).expect_err(said).to_string();
            assert!(error.contains("focal_px: expected pixels above 0") && error.ends_with(said), "{error}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_with_those_that_are() {
        let (root, mut source) = folder(&[0]);
        let error = |source: &Source, split: &str| source.index(split, &mut Groups::default()).expect_err(split);
        let place = root.path().display();
        let said = error(&source, "vall").to_string();
        assert_eq!(said, format!("{place}/vall/images is not there; {place} has the folders val"));
        if let Source::Folder { labels, .. } = &mut source {
            *labels = "{split}/annot".into();
        }
        let said = error(&source, "val").to_string();
        assert_eq!(said, format!("{place}/val/annot is not there; {place}/val has the folders images, labels"));
        let nowhere = error(&source.clone().at("nowhere".into()), "val");
        assert!(matches!(nowhere, DataError::Nowhere(_)));
        assert_eq!(nowhere.to_string(), "nowhere is not there: expected the root of a data set");
        let file = error(&source.at(root.path().join("mapping.yaml")), "val").to_string();
        assert_eq!(file, format!("{place}/mapping.yaml is not a folder: expected the root of a data set"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (_root, source) = folder(&[0, 7]);
        let items = source.index("val", &mut Groups::default()).expect("an index");
        let error = items[0].decode().expect_err("id 7").to_string();
        assert!(error.contains("class id 7") && error.contains("a.png"), "{error}");

        let (root, source) = folder(&[0]);
        RgbImage::new(1, 1).save(root.path().join("val/images/b.png")).expect("written");
        let error = source.index("val", &mut Groups::default()).expect_err("unpaired").to_string();
        assert!(error.contains("b.png"), "{error}");

        fs::write(root.path().join("mapping.yaml"), "classes: {0: {name: sky, is: [heaven]}}").expect("written");
        let error = source.index("val", &mut Groups::default()).expect_err("a wrong class").to_string();
        assert!(error.contains("heaven") && error.contains("vegetation"), "{error}");

        for twice in ["11: {name: void, is: []}\n  10:", "11: {name: void, is: []}\n  0x0A:"] {
            let text = MAPPING.replace("11:", &format!("{twice} {{name: car, is: [car]}}\n  12:"));
            fs::write(root.path().join("mapping.yaml"), text).expect("written");
            let error = source.index("val", &mut Groups::default()).expect_err("an id twice").to_string();
            assert!(error.contains("mapping.yaml") && error.contains("duplicate entry with key 10"), "{error}");
        }
    }
}

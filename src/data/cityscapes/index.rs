//! The frames of a split: paired by their names, and checked before anything long begins.

use super::{DataError, DepthFiles, LabelFiles, Part, ReadOptions, Sample};
use crate::data::picture::{self, Numbers};
use crate::data::{disk, npy};
use rayon::prelude::*;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many files are named in a message.
const NAMED: usize = 5;

/// What the options ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Labels,
    Depth,
}

/// Only what is missing, in words.
fn what_is_missing(missing: &[(Wanted, PathBuf)], options: &ReadOptions) -> String {
    let lacks = |wanted| missing.iter().any(|(what, _)| *what == wanted);
    let depth = match &options.depth {
        DepthFiles::Auto => "depth (exactDepth, or disparity with camera)".to_string(),
        DepthFiles::Disparity => "disparity or camera".into(),
        DepthFiles::Folder(name) => format!("depth in {name}"),
        DepthFiles::None => "depth".into(),
    };
    match (lacks(Wanted::Labels), lacks(Wanted::Depth)) {
        (true, true) => format!("labels, and {depth}"),
        (true, false) => "labels".into(),
        (false, _) => depth,
    }
}

/// How frames without it can be used all the same.
fn ways_out(missing: &[(Wanted, PathBuf)]) -> String {
    let lacks = |wanted| missing.iter().any(|(what, _)| *what == wanted);
    let both = [(Wanted::Labels, "labels: none", "--label-files none"), (Wanted::Depth, "depth: none", "--depth none")];
    let (keys, options): (Vec<_>, Vec<_>) =
        both.into_iter().filter(|(wanted, ..)| lacks(*wanted)).map(|(_, key, option)| (key, option)).unzip();
    format!(
        "frames that have none belong into a split or data set of their own: in training a source with `{}`, for evaluate {}",
        keys.join("` or `"),
        options.join(" or ")
    )
}

impl Sample {
    /// All frames of a split that have a picture and what `options` ask for, sorted by city and name. Files belong
    /// together by their names, never by their order. Labels and depth without their picture are named in a warning.
    ///
    /// # Errors
    /// An empty split, or any frame that lacks its labels or its depth: the first such files are named.
    pub fn index(root: &Path, split: &str, options: &ReadOptions) -> Result<Vec<Self>, DataError> {
        let (folder, ending) = Part::Left.names();
        let shared = Arc::new(options.clone());
        let samples: Vec<Self> = files(&root.join(folder).join(split))
            .map_err(|error| no_split(root, split, error))?
            .into_iter()
            .filter_map(|(city, name)| {
                let stem = name.strip_suffix(ending)?.to_string();
                Some(Self { root: root.into(), split: split.into(), city, stem, options: shared.clone() })
            })
            .collect();
        if samples.is_empty() {
            return Err(DataError::Split(format!(
                "{}: no *{ending} in any city folder; expected the Cityscapes layout",
                root.join(folder).join(split).display()
            )));
        }
        let missing: Vec<(Wanted, PathBuf)> = samples.par_iter().flat_map_iter(Self::missing).collect();
        if !missing.is_empty() {
            return Err(DataError::Split(format!(
                "split '{split}' of {}: {} files are missing from its {} frames ({}): {}; {}",
                root.display(),
                missing.len(),
                samples.len(),
                what_is_missing(&missing, options),
                named(&missing.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>()),
                ways_out(&missing)
            )));
        }
        let lone = Self::without_picture(&samples, root, split, options)?;
        if !lone.is_empty() {
            let (n, names) = (lone.len(), named(&lone));
            log::warn!("split '{split}' of {}: {n} files have no picture and are not used: {names}", root.display());
        }
        if let Some(kinds) = Self::kinds_of_depth(&samples) {
            log::warn!("split '{split}' of {}: {kinds}", root.display());
        }
        Ok(samples)
    }

    /// Where `auto` finds depth of two kinds, which may not agree: how many frames have each, and what to do.
    pub(super) fn kinds_of_depth(samples: &[Self]) -> Option<String> {
        let origins = || samples.iter().filter_map(Self::depth_origin);
        let exact = origins().filter(|origin| matches!(origin, super::DepthOrigin::Npy(_))).count();
        let others = origins().count() - exact;
        (exact > 0 && others > 0).then(|| {
            format!(
                "depth auto takes {} in {exact} frames and disparity, where there is none, in {others}; to have one kind, make what is \
                 missing or ask for depth disparity",
                Part::Depth.names().0
            )
        })
    }

    /// What the options ask for and is not there.
    fn missing(&self) -> Vec<(Wanted, PathBuf)> {
        let mut missing = Vec::new();
        if self.options.labels != LabelFiles::None {
            missing.push((Wanted::Labels, self.path(Part::Labels)));
        }
        let mut want = |path: PathBuf| missing.push((Wanted::Depth, path));
        match &self.options.depth {
            DepthFiles::Auto => {
                if !(self.path(Part::Disparity).is_file() && self.path(Part::Camera).is_file()) {
                    want(self.path(Part::Depth));
                }
            }
            DepthFiles::Disparity => {
                want(self.path(Part::Disparity));
                want(self.path(Part::Camera));
            }
            DepthFiles::Folder(name) => want(self.depth_file(name)),
            DepthFiles::None => {}
        }
        missing.retain(|(_, path)| !path.is_file());
        missing
    }

    /// Files of labels and depth, of the kinds that `options` ask for, that belong to none of `samples`.
    ///
    /// # Errors
    /// A folder that is there cannot be listed.
    pub fn without_picture(
        samples: &[Self],
        root: &Path,
        split: &str,
        options: &ReadOptions,
    ) -> Result<Vec<PathBuf>, DataError> {
        let known: HashSet<(&str, &str)> = samples.iter().map(|s| (s.city.as_str(), s.stem.as_str())).collect();
        let mut kinds: Vec<(&str, Vec<String>)> = Vec::new();
        let mut kind = |part: Part| kinds.push((part.names().0, vec![part.names().1.to_string()]));
        match options.labels {
            LabelFiles::LabelIds => kind(Part::Labels),
            LabelFiles::TrainIds => kinds.push((Part::Labels.names().0, vec![super::TRAIN_IDS_ENDING.into()])),
            LabelFiles::None => {}
        }
        let mut kind = |part: Part| kinds.push((part.names().0, vec![part.names().1.to_string()]));
        match &options.depth {
            DepthFiles::Auto => {
                kind(Part::Depth);
                kind(Part::Disparity);
            }
            DepthFiles::Disparity => kind(Part::Disparity),
            DepthFiles::Folder(name) => kinds.push((name, super::depth_endings(name).to_vec())),
            DepthFiles::None => {}
        }
        let mut lone = Vec::new();
        for (folder, endings) in kinds {
            let folder = root.join(folder).join(split);
            if !folder.is_dir() {
                continue;
            }
            for (city, name) in files(&folder)? {
                let mut stems = endings.iter().filter_map(|e| name.strip_suffix(e.as_str())).peekable();
                if stems.peek().is_some() && !stems.any(|stem| known.contains(&(city.as_str(), stem))) {
                    lone.push(folder.join(&city).join(&name));
                }
            }
        }
        Ok(lone)
    }

    /// Checks that every wanted part can be opened, is of the right kind, is whole, and has the picture's size. Reads
    /// headers and the files' ends only. Returns width and height.
    ///
    /// # Errors
    /// The first part that is not so.
    pub fn check(&self) -> Result<(u32, u32), DataError> {
        self.check_with(&[])
    }

    /// [`Sample::check`], and the same of further parts, whatever the options say.
    fn check_with(&self, further: &[Part]) -> Result<(u32, u32), DataError> {
        let size = picture::size(&self.path(Part::Left), None)?;
        if self.options.labels != LabelFiles::None {
            self.check_part(Part::Labels, size)?;
        }
        match self.depth_origin() {
            Some(super::DepthOrigin::Npy(path)) => same_size(&path, npy::read_size(&path)?, size)?,
            Some(super::DepthOrigin::Disparity) => {
                self.check_part(Part::Disparity, size)?;
                self.check_part(Part::Camera, size)?;
            }
            None => {}
        }
        further.iter().try_for_each(|part| self.check_part(*part, size))?;
        Ok(size)
    }

    fn check_part(&self, part: Part, size: (u32, u32)) -> Result<(), DataError> {
        let path = self.path(part);
        let found = match part {
            Part::Left | Part::Right => picture::size(&path, None)?,
            Part::Labels => picture::size(&path, Some(Numbers::Ids))?,
            Part::Disparity => picture::size(&path, Some(Numbers::Disparity))?,
            Part::Depth => npy::read_size(&path)?,
            Part::Camera => {
                self.read_camera()?;
                return self.read_focal().map(|_| ());
            }
        };
        same_size(&path, found, size)
    }

    /// [`Sample::check`] of all frames, in parallel, and of `further` parts that the options do not ask for.
    ///
    /// # Errors
    /// How many frames are broken, and the first of them with the reason.
    pub fn check_all(samples: &[Self], further: &[Part]) -> Result<(), DataError> {
        let broken: Vec<DataError> = samples.par_iter().filter_map(|s| s.check_with(further).err()).collect();
        if broken.is_empty() {
            return Ok(());
        }
        Err(DataError::Split(format!(
            "{} of {} frames cannot be used: {}",
            broken.len(),
            samples.len(),
            disk::in_line(&broken, NAMED)
        )))
    }
}

/// What should be there, where the split's pictures are not.
fn no_split(root: &Path, split: &str, error: DataError) -> DataError {
    match &error {
        DataError::Io { source, .. } if disk::is_absent(source) => {}
        _ => return error,
    }
    let name = Part::Left.names().0;
    let pictures = root.join(name);
    if pictures.is_dir() {
        return DataError::Split(disk::no_such_folder(&pictures.join(split), "splits"));
    }
    const FOLDERS: &str =
        "; pictures and class ids in two folders are the layout folder (for evaluate --layout folder --mapping \
                           FILE, in training a source with `layout: folder`)";
    no_root(root, FOLDERS)
}

/// What should be there, where a folder is no root of a data set; `otherwise` is what to do with what is none.
pub(crate) fn no_root(root: &Path, otherwise: &str) -> DataError {
    const EXPECTED: &str = "expected the root of a data set in the Cityscapes layout";
    let name = Part::Left.names().0;
    if !root.is_dir() {
        return DataError::Nowhere(format!("{} {}: {EXPECTED}", root.display(), disk::not_a_folder(root)));
    }
    // One level too deep, or too high.
    let above = root.parent().filter(|above| above.join(name).is_dir()).map(Path::to_path_buf);
    let below = || disk::folders(root).into_iter().map(|folder| root.join(folder)).find(|f| f.join(name).is_dir());
    let meant = match above.or_else(below) {
        Some(place) if place.as_os_str().is_empty() => ", which the folder above it is".into(),
        Some(place) => format!(", which {} is", place.display()),
        None => otherwise.into(),
    };
    DataError::Nowhere(format!("{} has no {name}: {EXPECTED}{meant}", root.display()))
}

/// City and name of the files in the city folders of a split, sorted.
fn files(split: &Path) -> Result<Vec<(String, String)>, DataError> {
    let list = |path: &Path| -> Result<Vec<PathBuf>, DataError> {
        let entries = fs::read_dir(path).map_err(DataError::io(path))?;
        entries.map(|e| e.map(|e| e.path()).map_err(DataError::io(path))).collect()
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Vec::new();
    for city in list(split)?.into_iter().filter(|p| p.is_dir()) {
        found.extend(list(&city)?.iter().map(|file| (name(&city), name(file))));
    }
    found.sort();
    Ok(found)
}

fn same_size(path: &Path, found: (u32, u32), expected: (u32, u32)) -> Result<(), DataError> {
    if found == expected {
        return Ok(());
    }
    let [expected, found] = [expected, found].map(|(w, h)| format!("{w}x{h}"));
    Err(DataError::bad(path, format!("expected {expected} as the picture has, found {found}")))
}

fn named(paths: &[PathBuf]) -> String {
    let first: Vec<_> = paths.iter().take(NAMED).map(|p| p.display().to_string()).collect();
    first.join(", ") + if paths.len() > NAMED { ", ..." } else { "" }
}

//! Which files of a frame are read.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which files the labels come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelFiles {
    /// `_gtFine_labelIds.png`: Cityscapes label ids.
    #[default]
    LabelIds,
    /// `_gtFine_labelTrainIds.png`: 0 to 18; 19 or 255 unlabelled.
    TrainIds,
    /// Frames have no labels, or none that are wanted.
    None,
}

/// Which files depth comes from.
///
/// As text: `auto`, `disparity`, `none`, or the name of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DepthFiles {
    /// `exactDepth` where a frame has it, else its disparity and camera.
    #[default]
    Auto,
    /// `disparity` and `camera`.
    Disparity,
    /// `.npy` files (see [`crate::data::npy`]) in this folder beside `leftImg8bit`.
    Folder(String),
    /// Frames have no depth, or none that is wanted.
    None,
}

impl FromStr for DepthFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "disparity" => Self::Disparity,
            "none" => Self::None,
            name => Self::Folder(folder_name(name)?),
        })
    }
}

/// The name of a folder beside `leftImg8bit`: one component of a path, and not one of Cityscapes' own folders.
///
/// # Errors
/// It is none; says why.
pub fn folder_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!(
            "expected the name of a folder in the data set (letters, digits, '.', '_', '-'), found '{name}'"
        ));
    }
    if ["leftImg8bit", "rightImg8bit", "gtFine", "camera", "disparity"].contains(&name) {
        return Err(format!(
            "'{name}' is Cityscapes' folder of something else than depth in metres: choose another name"
        ));
    }
    Ok(name.into())
}

impl TryFrom<String> for DepthFiles {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for DepthFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Disparity => "disparity",
            Self::Folder(name) => name,
            Self::None => "none",
        })
    }
}

impl From<DepthFiles> for String {
    fn from(files: DepthFiles) -> Self {
        files.to_string()
    }
}

/// Which files of a data set are read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// Labels.
    pub labels: LabelFiles,
    /// Depth.
    pub depth: DepthFiles,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_they_are_written() {
        let read = |text: &str| serde_json::from_str::<ReadOptions>(text);
        assert_eq!(read("{}").expect("defaults"), ReadOptions::default());
        let options = read(r#"{"labels": "train_ids", "depth": "crestereo_depth"}"#).expect("both");
        assert_eq!(options.labels, LabelFiles::TrainIds);
        assert_eq!(options.depth, DepthFiles::Folder("crestereo_depth".into()));
        for depth in ["auto", "disparity", "none", "exactDepth"] {
            let options = read(&format!(r#"{{"depth": "{depth}"}}"#)).expect(depth);
            let again = read(&serde_json::to_string(&options).expect("written")).expect("read again");
            assert_eq!((options.depth.to_string().as_str(), &again), (depth, &options));
        }
        for bad in ["", "..", "a/b", "/tmp", "gtFine", "leftImg8bit"] {
            let error = read(&format!(r#"{{"depth": "{bad}"}}"#)).expect_err(bad).to_string();
            assert!(error.contains("folder"), "{error}");
        }
        assert!(read(r#"{"label": "train_ids"}"#).is_err(), "an unknown key");
    }
}

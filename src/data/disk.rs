//! What can go wrong with files of a data set, and how they are written.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// What can go wrong with a data set on disk.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {what}")]
    Bad {
        /// Which one.
        path: PathBuf,
        /// Expected, found, and what to do.
        what: String,
    },
    /// A split cannot be used.
    #[error("{0}")]
    Split(String),
}

impl DataError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }

    pub(crate) fn bad(path: &Path, what: impl Into<String>) -> Self {
        Self::Bad { path: path.into(), what: what.into() }
    }
}

/// Writes a file beside its place and moves it there when it is whole and on the disk, so that whoever sees the name
/// sees all of it, even after a crash. Missing folders are made.
///
/// # Errors
/// What `fill` or the file system says.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<fs::File>) -> std::io::Result<()>,
) -> Result<(), DataError> {
    create_parent(path)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = (|| {
        let mut file = BufWriter::new(fs::File::create(&partial)?);
        fill(&mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&partial, path)
    })();
    written.map_err(|e| {
        // A full disk: what was written of it must not stay.
        let _ = fs::remove_file(&partial);
        DataError::io(path)(e)
    })
}

/// Makes the folder that a file is to be in.
fn create_parent(path: &Path) -> Result<(), DataError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(DataError::io(parent)),
        None => Ok(()),
    }
}

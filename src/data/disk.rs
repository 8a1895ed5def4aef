//! How files are written, whole or not at all, and what can go wrong with those of a data set, a record or a cache.

use std::fs;
use std::io::{BufWriter, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What can go wrong with files on the disk.
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
    /// There is no data set where one was looked for.
    #[error("{0}")]
    Nowhere(String),
    /// Another process writes there.
    #[error("{path} is in use by another {by}; wait for its end, or choose another folder")]
    InUse {
        /// Which folder.
        path: PathBuf,
        /// What the other one does.
        by: &'static str,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }

    pub(crate) fn bad(path: &Path, what: impl Into<String>) -> Self {
        Self::Bad { path: path.into(), what: what.into() }
    }
}

/// So many folders are named in a message.
const NAMED: usize = 12;

/// Whether what was looked for is not there, or is no folder.
pub(crate) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// "is not there" or "is not a folder", of what is not one.
pub(crate) fn not_a_folder(path: &Path) -> &'static str {
    if path.exists() {
        "is not a folder"
    } else {
        "is not there"
    }
}

/// Names of the folders in a folder, sorted; none of one that cannot be listed: this is for messages.
pub(crate) fn folders(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.filter(|entry| entry.path().is_dir()).map(name).collect();
    names.sort();
    names
}

/// That there is no such folder, and which ones there are: `kind` of folders, "splits", say.
pub(crate) fn no_such_folder(path: &Path, kind: &str) -> String {
    let there = path.ancestors().skip(1).find(|above| above.is_dir()).map_or_else(String::new, |above| {
        let mut names = folders(above);
        let more = if names.len() > NAMED { ", ..." } else { "" };
        names.truncate(NAMED);
        let which =
            if names.is_empty() { format!("no {kind}") } else { format!("the {kind} {}{more}", names.join(", ")) };
        format!("; {} has {which}", above.display())
    });
    format!("{} {}{there}", path.display(), not_a_folder(path))
}

/// The first few errors of many, in one line; what is wrong with several files is said once.
pub(crate) fn in_line(errors: &[DataError], most: usize) -> String {
    let mut said: Vec<&str> = Vec::new();
    let mut words = Vec::new();
    for error in &errors[..errors.len().min(most)] {
        match error {
            DataError::Bad { path, what } if said.contains(&what.as_str()) => {
                words.push(format!("{}: the same", path.display()));
            }
            DataError::Bad { what, .. } => {
                said.push(what);
                words.push(error.to_string());
            }
            other => words.push(other.to_string()),
        }
    }
    if errors.len() > most {
        words.push("...".into());
    }
    words.join("; ")
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

/// A file that says how what lies beside it was made: a run that was interrupted goes on under the same, and what was made in
/// another way is told from it.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// The file.
    pub path: PathBuf,
    /// What it says; `None` where it is not there.
    pub there: Option<String>,
    /// What it is to say.
    pub json: serde_json::Value,
}

impl Recipe {
    /// Reads the file, if it is there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: PathBuf, json: serde_json::Value) -> Result<Self, DataError> {
        let there = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(DataError::io(&path)(e)),
        };
        Ok(Self { path, there, json })
    }

    /// What is to be compared with a file. Through text and back: a float may not come back from a file bit for bit.
    ///
    /// # Errors
    /// None that is known of.
    pub fn asked(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::from_str(&self.json.to_string())
    }

    /// Whether the file is there and says the same.
    pub fn is_same(&self) -> bool {
        let there = self.there.as_ref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        there.is_some() && there == self.asked().ok()
    }

    /// Leaves the file there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self) -> Result<(), DataError> {
        write_atomically(&self.path, |file| writeln!(file, "{:#}", self.json))
    }
}

/// A folder that is this process's alone. One that was made for it and stayed empty goes with it.
#[derive(Debug)]
pub struct Held {
    /// Open for its lock.
    _folder: fs::File,
    made: Option<PathBuf>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(folder) = &self.made {
            // One that is not empty stays: this is refused then.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Makes the folder and takes it for this process alone, for as long as the value lives or the process does: what two of them
/// write there would be a mixture.
///
/// # Errors
/// [`DataError::InUse`], or it cannot be made or opened.
pub fn hold(folder: &Path, by: &'static str) -> Result<Held, DataError> {
    let made = (!folder.exists()).then(|| folder.to_path_buf());
    fs::create_dir_all(folder).map_err(DataError::io(folder))?;
    lock(folder, by).map(|held| Held { _folder: held, made })
}

/// Locks a folder that is there.
fn lock(folder: &Path, by: &'static str) -> Result<fs::File, DataError> {
    let held = fs::File::open(folder).map_err(DataError::io(folder))?;
    let in_use = || Err(DataError::InUse { path: folder.into(), by });
    match held.try_lock() {
        Err(fs::TryLockError::WouldBlock) => in_use(),
        // Some file systems of a network have no locks.
        Err(fs::TryLockError::Error(e)) => {
            log::warn!("{}: cannot be held for this {by} alone: {e}", folder.display());
            Ok(held)
        }
        // Whoever held it may have removed it, and another has made it anew.
        Ok(()) if !is_at(&held, folder) => in_use(),
        Ok(()) => Ok(held),
    }
}

/// Whether an open folder is the one of this name.
fn is_at(open: &fs::File, folder: &Path) -> bool {
    let of = |metadata: std::io::Result<fs::Metadata>| metadata.ok().map(|m| (m.dev(), m.ino()));
    let open = of(open.metadata());
    open.is_some() && open == of(fs::metadata(folder))
}

/// Opens what has to be a file: opening a pipe waits for somebody who writes to it, and a device may have no end.
///
/// # Errors
/// It is no file, or cannot be opened.
pub(crate) fn open(path: &Path) -> std::io::Result<fs::File> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(std::io::Error::other("expected a file, found a pipe or a device"));
    }
    fs::File::open(path)
}

/// Most bytes of a text that is read whole.
const MOST_TEXT: u64 = 64 << 20;

/// A text file, without the mark that some editors put before it. It may come through a pipe, but not without end.
///
/// # Errors
/// It cannot be read, is no UTF-8, or has more than 64 MiB.
pub fn read_text(path: &Path) -> Result<String, DataError> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(DataError::io(path))?;
    file.take(MOST_TEXT + 1).read_to_end(&mut bytes).map_err(DataError::io(path))?;
    if bytes.len() as u64 > MOST_TEXT {
        return Err(DataError::bad(path, format!("expected a text of at most {MOST_TEXT} bytes, found more")));
    }
    let text = String::from_utf8(bytes).map_err(|e| DataError::io(path)(std::io::Error::other(e)))?;
    Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
}

/// Makes the folder that a file is to be in.
fn create_parent(path: &Path) -> Result<(), DataError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(DataError::io(parent)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_several_files_is_said_once() {
        let bad = |name: &str, what: &str| DataError::bad(Path::new(name), what);
        let errors = [bad("a", "long words"), bad("b", "long words"), bad("c", "others"), bad("d", "others")];
        assert_eq!(in_line(&errors, 4), "a: long words; b: the same; c: others; d: the same");
        assert_eq!(in_line(&errors, 3), "a: long words; b: the same; c: others; ...");
    }

    #[test]
    fn a_folder_is_held_by_one_and_free_after_it() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("a/b");
        let held = hold(&folder, "rendering").expect("it is free");
        let why = hold(&folder, "rendering").expect_err("it is held").to_string();
        assert!(why.contains("a/b is in use by another rendering; wait"), "{why}");
        drop(held);
        assert!(!folder.exists() && root.path().join("a").is_dir(), "nothing was written there");
        fs::create_dir(&folder).expect("a folder");
        drop(hold(&folder, "rendering").expect("it is free again"));
        assert!(folder.is_dir(), "it was there before");
        fs::remove_dir(&folder).expect("empty");
        let held = hold(&folder, "rendering").expect("it is free again");
        fs::write(folder.join("picture"), "").expect("written");
        drop(held);
        assert!(folder.is_dir(), "something was written there");
        let other = root.path().join("other");
        fs::create_dir(&other).expect("a folder");
        let open = fs::File::open(&folder).expect("it opens");
        assert!(is_at(&open, &folder) && !is_at(&open, &other) && !is_at(&open, &root.path().join("none")));
        std::fs::write(root.path().join("file"), "").expect("written");
        assert!(matches!(hold(&root.path().join("file/c"), "rendering"), Err(DataError::Io { .. })));
    }

    #[test]
    fn what_has_no_end_is_no_file() {
        let why = |path: &str| open(Path::new(path)).expect_err(path).to_string();
        assert_eq!(why("/dev/zero"), "expected a file, found a pipe or a device");
        assert_eq!(why("/dev"), "is a directory");
        let error = read_text(Path::new("/dev/zero")).expect_err("no end").to_string();
        assert!(error.contains("/dev/zero: expected a text of at most 67108864 bytes"), "{error}");
    }

    #[test]
    fn the_mark_before_a_text_is_no_part_of_it() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("text");
        for (bytes, text) in [("\u{feff}a: 1", "a: 1"), ("a: 1", "a: 1"), ("", "")] {
            std::fs::write(&path, bytes).expect("written");
            assert_eq!(read_text(&path).expect("read"), text);
        }
    }
}

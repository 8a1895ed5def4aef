//! Files that are installed with the package: `share/semantic_depth/...` under an install prefix.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where a file of `share/semantic_depth` may be: under this program's own prefix
/// (`PREFIX/lib/semantic_depth/PROGRAM`), then under the prefixes of `AMENT_PREFIX_PATH`.
fn candidates(relative: &Path) -> Vec<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|exe| exe.ancestors().nth(3).map(Path::to_path_buf));
    let sourced = std::env::var_os("AMENT_PREFIX_PATH").unwrap_or_default();
    under(own, &sourced, relative)
}

/// The same of this program's own prefix and a list of others. Empty ones, of which an empty list has one, are left out:
/// they would be the working directory.
fn under(own: Option<PathBuf>, sourced: &OsStr, relative: &Path) -> Vec<PathBuf> {
    let sourced = std::env::split_paths(sourced).filter(|prefix| !prefix.as_os_str().is_empty());
    let prefixes = own.into_iter().chain(sourced);
    prefixes.map(|prefix| prefix.join("share/semantic_depth").join(relative)).collect()
}

/// The names of the folders in a folder of `share/semantic_depth` that hold a file of this name, in alphabetical order.
pub fn folders_with(file: &str, folder: impl AsRef<Path>) -> Vec<String> {
    let places = candidates(folder.as_ref());
    let entries = places.iter().filter_map(|place| place.read_dir().ok()).flatten().flatten();
    let holders = entries.filter(|entry| entry.path().join(file).is_file());
    let names: BTreeSet<_> = holders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.into_iter().collect()
}

/// Finds a file of `share/semantic_depth`.
///
/// # Errors
/// It is not installed: the places that were looked at.
pub fn find(relative: impl AsRef<Path>) -> Result<PathBuf, NotInstalled> {
    let relative = relative.as_ref();
    let looked_at = candidates(relative);
    match looked_at.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(NotInstalled { file: relative.to_path_buf(), looked_at }),
    }
}

/// A file that no prefix has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not installed: build the package and source its workspace. Looked at: {}", .file.display(), list(.looked_at))]
pub struct NotInstalled {
    file: PathBuf,
    looked_at: Vec<PathBuf>,
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_prefix_is_not_the_working_directory() {
        let places = |own: Option<&str>, sourced: &str| under(own.map(Into::into), OsStr::new(sourced), Path::new("f"));
        let at = |prefixes: &[&str]| -> Vec<PathBuf> {
            prefixes.iter().map(|prefix| Path::new(prefix).join("share/semantic_depth/f")).collect()
        };
        assert_eq!(places(None, ""), at(&[]));
        assert_eq!(places(Some("/own"), ""), at(&["/own"]));
        assert_eq!(places(Some("/own"), ":/a::/b:"), at(&["/own", "/a", "/b"]));
    }

    #[test]
    fn a_missing_file_says_where_it_was_looked_for() {
        let message = find("models/none/model.yaml").expect_err("there is none").to_string();
        assert!(message.contains("models/none/model.yaml is not installed"), "{message}");
        assert!(message.contains("/share/semantic_depth/models/none/model.yaml"), "{message}");
    }
}

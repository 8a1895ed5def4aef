//! From weights to a deployable model (a TorchScript file and its manifest), and back into a verified artifact.
//!
//! - [`manifest`]: what `model.yaml` says; `check`: what it must not say
//! - [`golden`]: an input with its answer, which whatever runs the model is compared with
//! - [`load`]: reads a model folder and believes nothing that it has not checked
//! - [`trace`]: turns the network into TorchScript and writes the folder

mod check;
pub mod golden;
pub mod manifest;
pub mod trace;

pub use manifest::Manifest;

use crate::causes::{cut, cut_to};
use crate::data::disk::{self, DataError};
use crate::installed::{self, NotInstalled};
use crate::model::weights::{self, WeightsError};
use crate::model::Network;
use crate::yaml;
use manifest::SCHEMA_VERSION;
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::Device;

/// Name of the manifest in a model's folder.
pub const MANIFEST: &str = "model.yaml";

/// The installed model that is used where none is named.
pub const DEFAULT_MODEL: &str = "street";

/// Where installed models are, one folder each, under `share/semantic_depth`.
const INSTALLED_MODELS: &str = "models";

/// Longest manifest, in bytes: those of 256 classes have some ten thousand.
const MOST_MANIFEST: u64 = 1 << 20;

/// Why a model is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A file cannot be read or written.
    #[error("model file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no file, folder or installed model of this name.
    #[error(
        "there is no model {named}{hint}: expected a model.yaml, its folder, or the name of an installed model \
         ({installed}); `semantic_depth export --weights FILE --out DIR` makes one"
    )]
    Missing {
        /// What was asked for.
        named: PathBuf,
        /// The names of those that are installed.
        installed: String,
        /// What is there instead.
        hint: &'static str,
    },
    /// The manifest is not YAML, lacks a key or has an unknown one.
    #[error("model manifest {path}: {what}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What the reader says.
        what: String,
    },
    /// The manifest is of another schema.
    #[error(
        "model manifest {path}: schema version {found} is not known to this version of semantic_depth, which reads \
         version {SCHEMA_VERSION}; export the model again with it, or install the version that made it"
    )]
    Schema {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// A value of the manifest makes no sense.
    #[error("model manifest {path}: {what}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// The key, what was expected, what was found.
        what: String,
    },
    /// A file of the model is not the one that was exported.
    #[error(
        "model file {path}: its sha256 is {found}, but the manifest says {expected}; it was changed or is incomplete: \
         copy the whole model folder again, or export it again"
    )]
    Hash {
        /// Which file.
        path: PathBuf,
        /// The manifest's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// libtorch does not take the TorchScript file.
    #[error("model file {path}: libtorch cannot load it: {what}")]
    Torch {
        /// Which file.
        path: PathBuf,
        /// First line of its message.
        what: String,
    },
    /// The exported network does not answer as the network that it was made from.
    #[error(
        "the exported network's answers differ from the original's by {difference:.1e} of the largest (at most {allowed:.0e} is \
         rounding); nothing was written; with --full-size nothing is changed in it"
    )]
    Parity {
        /// Largest difference, as a share of the largest answer.
        difference: f64,
        /// Largest that is allowed.
        allowed: f64,
    },
    /// The place to write to is a file's.
    #[error("{path} is a file, expected a folder for a model; choose another name")]
    File {
        /// Which file.
        path: PathBuf,
    },
    /// The place to write to is in use.
    #[error("{path} is not a model folder (it has no {MANIFEST}) and is not empty; choose another folder")]
    Occupied {
        /// Which folder.
        path: PathBuf,
    },
    /// The place to write to holds more than the model that would be replaced.
    #[error(
        "{path} holds more than a model: {entries}; its {MANIFEST} does not list that, and it would be lost: move it \
         away, or choose another folder"
    )]
    Foreign {
        /// Which folder.
        path: PathBuf,
        /// What else is in it, in alphabetical order.
        entries: String,
    },
    /// Another process writes there.
    #[error(transparent)]
    Held(#[from] DataError),
    /// The place to write to is where a file system is mounted, so it cannot be replaced.
    #[error(
        "{path} is a mount point (or in use by the system), so the model cannot take its place; give a folder in it, as in \
         {path}/model"
    )]
    MountPoint {
        /// Which folder.
        path: PathBuf,
    },
    /// The place to write to is named by where it is (`.`, `..`), so it cannot be replaced as a whole.
    #[error(
        "{path} does not end with a folder's name: expected the folder that is to become the model, as in {path}/model"
    )]
    Unnamed {
        /// Which folder.
        path: PathBuf,
    },
}

impl ArtifactError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }
}

/// A model whose manifest and files have been verified.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// What it says.
    pub manifest: Manifest,
    /// Where its files are.
    pub dir: PathBuf,
}

impl Artifact {
    /// The TorchScript file.
    pub fn torchscript_path(&self) -> PathBuf {
        self.dir.join(&self.manifest.torchscript)
    }

    /// The network that the model was exported from, with its weights, on the processor; it cannot be trained.
    ///
    /// # Errors
    /// The weights are not in the folder, or are not those of the network that the manifest describes.
    pub fn network(&self) -> Result<Network, WeightsError> {
        let mut vs = VarStore::new(Device::Cpu);
        let network = Network::new(&vs.root(), &self.manifest.network);
        weights::load(&mut vs, &self.dir.join(trace::WEIGHTS))?;
        vs.freeze();
        Ok(network)
    }

    /// The model's golden input; `None` in a model of an older version or of somebody else.
    ///
    /// # Errors
    /// It is of another model.
    pub fn golden(&self) -> Result<Option<golden::Golden>, ArtifactError> {
        if !self.manifest.files.contains_key(golden::GOLDEN) {
            return Ok(None);
        }
        golden::Golden::read(&self.dir.join(golden::GOLDEN), &self.manifest).map(Some)
    }

    /// Loads the TorchScript module onto the processor, in evaluation mode.
    ///
    /// # Errors
    /// libtorch does not take it.
    pub fn load_module(&self) -> Result<tch::CModule, ArtifactError> {
        let path = self.torchscript_path();
        let mut module = tch::CModule::load_on_device(&path, Device::Cpu)
            .map_err(|e| ArtifactError::Torch { path: path.clone(), what: crate::causes::first_line(&e) })?;
        module.f_set_eval().map_err(|e| ArtifactError::Torch { path, what: crate::causes::first_line(&e) })?;
        Ok(module)
    }
}

/// The manifest of a model that is installed with the package, by its name.
///
/// # Errors
/// It is not installed.
pub fn find_installed(name: &str) -> Result<PathBuf, NotInstalled> {
    installed::find(Path::new(INSTALLED_MODELS).join(name).join(MANIFEST))
}

/// The manifest of the model that a user names: a manifest, the folder of one, or an installed model by its name
/// (`street_refined`). What is here comes before what is installed, but a folder without a manifest is no model.
///
/// # Errors
/// There is none of these.
pub fn find(named: &Path) -> Result<PathBuf, ArtifactError> {
    let is_folder = named.is_dir();
    let manifest = if is_folder { named.join(MANIFEST) } else { named.to_path_buf() };
    // Whatever else keeps it from being read (no permission, say) is told by whoever reads it.
    if !matches!(manifest.try_exists(), Ok(false)) {
        return Ok(manifest);
    }
    // A name is one word; `absent/model.yaml` and `street/` are paths.
    let name = named.to_str().filter(|text| !text.contains(std::path::is_separator));
    name.and_then(|name| find_installed(name).ok()).ok_or_else(|| ArtifactError::Missing {
        named: named.to_path_buf(),
        installed: match installed::folders_with(MANIFEST, INSTALLED_MODELS) {
            none if none.is_empty() => "none is: source the workspace that has them".into(),
            models => models.join(", "),
        },
        hint: if is_folder { " (a folder of that name has no model.yaml)" } else { "" },
    })
}

/// Reads and verifies a model, given as [`find`] takes it.
///
/// # Errors
/// There is no such model, an unknown schema version, a missing or unknown key, a value out of its range, a missing file, a wrong hash.
pub fn load(path: &Path) -> Result<Artifact, ArtifactError> {
    let path = find(path)?;
    let syntax = |what: String| ArtifactError::Syntax { path: path.clone(), what: cut(what) };
    let mut file = disk::open(&path).map_err(ArtifactError::io(&path))?;
    let bytes = file.metadata().map_err(ArtifactError::io(&path))?.len();
    if bytes > MOST_MANIFEST {
        return Err(syntax(format!("expected a manifest of at most {MOST_MANIFEST} bytes, found {bytes}")));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(ArtifactError::io(&path))?;
    // The version first: another schema may have other keys, and the reader would complain of those.
    let raw: serde_yaml::Value = yaml::read(&text).map_err(|e| syntax(e.to_string()))?;
    match raw.get("schema_version") {
        Some(v) if v.as_u64() == Some(SCHEMA_VERSION.into()) => {}
        Some(v) => {
            let found = cut_to(64, serde_yaml::to_string(v).unwrap_or_default().trim().to_string());
            return Err(ArtifactError::Schema { path, found });
        }
        None => {
            return Err(ArtifactError::Syntax { path, what: "no schema_version: this is not a model manifest".into() })
        }
    }
    let manifest: Manifest = yaml::read(&text).map_err(|e| syntax(e.to_string()))?;
    check::check(&manifest).map_err(|what| ArtifactError::Value { path: path.clone(), what })?;
    let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
    for (name, expected) in &manifest.files {
        let file = dir.join(name);
        let found = sha256(&file)?;
        if found != expected.to_ascii_lowercase() {
            return Err(ArtifactError::Hash { path: file, expected: expected.clone(), found });
        }
    }
    Ok(Artifact { manifest, dir })
}

/// sha256 of a file, hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn sha256(path: &Path) -> Result<String, ArtifactError> {
    let mut file = disk::open(path).map_err(ArtifactError::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let n = file.read(&mut buffer).map_err(ArtifactError::io(path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

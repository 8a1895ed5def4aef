//! The libraries that run TensorRT engines, and NVRTC: where they are looked for, and how they are loaded.
//!
//! They are looked for in this order; the first file of a name counts:
//!
//! 1. each folder in `SEMANTIC_DEPTH_TENSORRT` (separated by `:`): the folder itself, its `lib` and `bin`, and, if it is a
//!    site-packages of Python, the places of the wheels in it;
//! 2. the places of the wheels beside the libtorch that is in use (PyTorch's own site-packages), then those of the active
//!    virtual environment;
//! 3. each folder in `LD_LIBRARY_PATH`;
//! 4. the system's folders ([`SYSTEM`]).
//!
//! They are loaded by absolute path, `RTLD_NOW | RTLD_GLOBAL`, in the order of [`ORDER`], and never closed:
//! `libtorchtrt_runtime.so` asks for the others by name, and its own run path leads nowhere outside its build. One that is
//! in the process already is taken as it is: a second copy of, say, the CUDA runtime would have its own state.

use super::check::{TENSORRT, TORCH_TENSORRT, TORCH_TENSORRT_ABI};
use super::cuda;
use super::version::TensorRtVersion;
use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};
use serde::Serialize;
use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Names folders to look in first, separated by `:`.
pub const FOLDERS: &str = "SEMANTIC_DEPTH_TENSORRT";

/// Where wheels put libraries and programs, in a site-packages.
const WHEELS: [&str; 10] = [
    "torch_tensorrt/lib",
    "torch_tensorrt/bin",
    "tensorrt_libs",
    "tensorrt_cu13_libs",
    "tensorrt_lean_libs",
    "tensorrt_dispatch_libs",
    "nvidia/cu13/lib",
    "nvidia/cuda_runtime/lib",
    "nvidia/cuda_nvrtc/lib",
    "torch/lib",
];

/// Folders of distributions, of NVIDIA's packages and archives, and of JetPack.
pub const SYSTEM: [&str; 12] = [
    "/usr/local/tensorrt/lib",
    "/opt/tensorrt/lib",
    "/usr/src/tensorrt/bin",
    "/usr/local/torch_tensorrt/lib",
    "/usr/local/torch_tensorrt/bin",
    "/usr/local/cuda/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/bin",
];

/// A file that the TensorRT back end needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Library {
    /// The CUDA runtime.
    Cudart,
    /// libtorch's CUDA half: of the libtorch in use and of no other.
    TorchCuda,
    /// TensorRT.
    NvInfer,
    /// TensorRT's plugins.
    NvInferPlugin,
    /// Torch-TensorRT's class of engines.
    TorchTrtRuntime,
    /// TensorRT's lean runtime. It is reported only: Torch-TensorRT asks for `libnvinfer.so.10` and for plugins that come
    /// with the full runtime.
    NvInferLean,
    /// Torch-TensorRT's compiler.
    TorchTrtc,
    /// TensorRT's kernels, which it loads by itself when it compiles: one file, or one for each generation of GPUs. It is
    /// reported only.
    NvInferBuilder,
    /// CUDA's run-time compiler, which compiles the kernels of the native back end.
    Nvrtc,
}

/// Libraries in the order in which they are loaded.
pub const ORDER: [Library; 5] =
    [Library::Cudart, Library::TorchCuda, Library::NvInfer, Library::NvInferPlugin, Library::TorchTrtRuntime];

impl Library {
    /// Names of the file, the best first. A star stands for any text, and such a name may go on behind its end.
    pub fn file_names(self) -> &'static [&'static str] {
        match self {
            Self::Cudart => &["libcudart.so.13", "libcudart.so.12"],
            Self::TorchCuda => &["libtorch_cuda.so"],
            Self::NvInfer => &["libnvinfer.so.10"],
            Self::NvInferPlugin => &["libnvinfer_plugin.so.10"],
            Self::TorchTrtRuntime => &["libtorchtrt_runtime.so"],
            Self::NvInferLean => &["libnvinfer_lean.so.10"],
            Self::TorchTrtc => &["torchtrtc"],
            Self::NvInferBuilder => &["libnvinfer_builder_resource*.so.10"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
        }
    }

    /// How it comes onto a machine.
    pub fn how_to_install(self) -> &'static str {
        match self {
            Self::Cudart => "it comes with the CUDA toolkit, JetPack, or `pip install nvidia-cuda-runtime`",
            Self::TorchCuda => "this libtorch has no CUDA half: install a CUDA build of PyTorch 2.11 and build against it",
            Self::NvInfer | Self::NvInferPlugin | Self::NvInferBuilder => {
                "install TensorRT 10.15: NVIDIA's packages `libnvinfer10` and `libnvinfer-plugin10`, its archive, JetPack, \
                 or `pip install tensorrt-cu13` from NVIDIA's index"
            }
            Self::TorchTrtRuntime | Self::TorchTrtc => "`pip install --no-deps torch-tensorrt==2.11.0`",
            Self::Nvrtc => "it comes with PyTorch's CUDA builds, the CUDA toolkit, JetPack, or `pip install nvidia-cuda-nvrtc`",
            Self::NvInferLean => "`pip install tensorrt-lean-cu13-libs`; it is not needed",
        }
    }
}

/// A folder that is looked in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The folder.
    pub folder: PathBuf,
    /// Which rule names it.
    pub rule: &'static str,
}

/// A library that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Which one.
    pub library: Library,
    /// Absolute, as it was found (links are not followed: wheels and packages link names to files).
    pub path: PathBuf,
    /// Which rule led there.
    pub rule: &'static str,
}

/// What the places follow from.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// [`FOLDERS`].
    pub folders: Option<String>,
    /// The folder of the libtorch in use.
    pub libtorch: Option<PathBuf>,
    /// `VIRTUAL_ENV`.
    pub virtual_env: Option<PathBuf>,
    /// `LD_LIBRARY_PATH`.
    pub library_path: Option<String>,
}

impl Surroundings {
    /// Those of this process.
    pub fn here() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        Self {
            folders: variable(FOLDERS),
            libtorch: libtorch_folder(),
            virtual_env: variable("VIRTUAL_ENV").map(PathBuf::from),
            library_path: variable("LD_LIBRARY_PATH"),
        }
    }

    /// Every folder that is there, in the order in which they are looked in.
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        let mut add = |folder: PathBuf, rule| {
            // A relative folder would mean another one after a change of directory.
            if folder.is_absolute() && folder.is_dir() && places.iter().all(|p| p.folder != folder) {
                places.push(Place { folder, rule });
            }
        };
        for folder in split(self.folders.as_deref()) {
            let folder = std::path::absolute(&folder).unwrap_or(folder);
            let wheels = WHEELS.map(|wheel| folder.join(wheel));
            [folder.clone(), folder.join("lib"), folder.join("bin")]
                .into_iter()
                .chain(wheels)
                .for_each(|f| add(f, FOLDERS));
        }
        // torch/lib -> torch -> site-packages
        if let Some(libtorch) = &self.libtorch {
            add(libtorch.clone(), "libtorch in use");
            if let Some(site) = libtorch.ancestors().nth(2) {
                WHEELS.iter().for_each(|wheel| add(site.join(wheel), "wheels beside libtorch"));
            }
        }
        for site in self.virtual_env.iter().flat_map(|env| site_packages(env)) {
            WHEELS.iter().for_each(|wheel| add(site.join(wheel), "wheels of VIRTUAL_ENV"));
        }
        split(self.library_path.as_deref()).for_each(|folder| add(folder, "LD_LIBRARY_PATH"));
        SYSTEM.iter().for_each(|folder| add(folder.into(), "system"));
        places
    }

    /// Where the library is, by the rules.
    pub fn find(&self, library: Library) -> Option<Found> {
        let mut places = self.places();
        if library == Library::TorchCuda {
            places.retain(|p| Some(&p.folder) == self.libtorch.as_ref());
        }
        library.file_names().iter().find_map(|name| {
            places.iter().find_map(|place| {
                let path = named(&place.folder, name)?;
                Some(Found { library, path, rule: place.rule })
            })
        })
    }
}

/// The folder's file of this name; of a name with a star ([`Library::file_names`]) the first one.
fn named(folder: &Path, name: &str) -> Option<PathBuf> {
    let Some((start, end)) = name.split_once('*') else {
        return Some(folder.join(name)).filter(|path| path.is_file());
    };
    let fits = |path: &PathBuf| {
        let rest = path.file_name().and_then(|name| name.to_str()?.strip_prefix(start));
        rest.is_some_and(|rest| rest.contains(end)) && path.is_file()
    };
    std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(fits).min()
}

fn split(folders: Option<&str>) -> impl Iterator<Item = PathBuf> + '_ {
    folders.into_iter().flat_map(|f| f.split(':')).filter(|f| !f.is_empty()).map(PathBuf::from)
}

/// `lib/python3.X/site-packages` of an environment.
fn site_packages(environment: &Path) -> Vec<PathBuf> {
    let versions = std::fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
    let mut sites: Vec<_> = versions.map(|v| v.path().join("site-packages")).filter(|s| s.is_dir()).collect();
    sites.sort();
    sites
}

/// Where the libtorch of this process is.
pub fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        let path = &line[line.find('/')?..];
        path.ends_with("/libtorch_cpu.so").then_some(path)
    })?;
    Path::new(path).parent().map(Path::to_path_buf)
}

/// Version of the Torch-TensorRT wheel that a file in its `lib` or `bin` belongs to, where it says so.
pub fn torch_tensorrt_version(file: &Path) -> Option<String> {
    version_in(&file.parent()?.parent()?.join("_version.py"))
}

/// Version of the libtorch whose libraries are in `folder`: beside it PyTorch's package says so in `version.py`, an archive in
/// `build-version`; else that of the wheel. `None` where nobody says, as where a distribution has packed it.
pub fn libtorch_version(folder: &Path) -> Option<String> {
    let package = folder.parent()?;
    let archive = || crate::system::text(&package.join("build-version"));
    let stated = version_in(&package.join("version.py")).or_else(archive);
    stated.or_else(|| version_of_file(&folder.join("libtorch_cpu.so")))
}

/// What a Python file says of its package's version.
fn version_in(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.trim().strip_prefix("__version__ = "))?;
    Some(line.trim_matches(['"', '\'']).to_string())
}

/// Version of a library, without loading it: what its file's name ends in, links followed (`libcudart.so.13.0.96`), else that
/// of the wheel whose list of files has it (files of wheels are no links).
pub fn version_of_file(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let in_name = path.file_name().and_then(|name| name.to_str()?.rsplit_once(".so.")).map(|(_, version)| version);
    // The major version alone is in the name of every such file.
    match in_name.filter(|version| version.contains('.')) {
        Some(version) => Some(version.to_string()),
        None => wheel_version(&path),
    }
}

fn wheel_version(file: &Path) -> Option<String> {
    // The deepest place is `nvidia/cu13/lib`, in site-packages.
    file.ancestors().skip(1).take(4).find_map(|site| {
        let listed = file.strip_prefix(site).ok()?.to_str()?;
        let entries = std::fs::read_dir(site).ok()?.flatten().map(|entry| entry.path());
        let mut wheels = entries.filter(|path| path.extension().is_some_and(|e| e == "dist-info"));
        let wheel = wheels.find(|wheel| {
            let record = std::fs::read_to_string(wheel.join("RECORD")).unwrap_or_default();
            record.lines().any(|line| line.split(',').next() == Some(listed))
        })?;
        let (_, version) = wheel.file_stem()?.to_str()?.rsplit_once('-')?;
        Some(version.to_string())
    })
}

/// Why engines cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// No CUDA device: nothing was loaded.
    #[error("TensorRT needs a CUDA device: {0}; set backend to torchscript, or run on a machine with one")]
    NoDevice(String),
    /// A library is missing: nothing was loaded.
    #[error(
        "TensorRT needs {name}, which was found in none of {looked_in}; {install}, or name its folder in {FOLDERS}"
    )]
    Missing {
        /// The file.
        name: &'static str,
        /// How many places, and the rules.
        looked_in: String,
        /// What to do.
        install: &'static str,
    },
    /// Another version of Torch-TensorRT.
    #[error(
        "{path}: expected Torch-TensorRT {TORCH_TENSORRT}, which fits this libtorch, found {found}; `pip install --no-deps \
         torch-tensorrt=={TORCH_TENSORRT}`, or name the folder of one in {FOLDERS}"
    )]
    Version {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// The loader refuses a library.
    #[error("{path} cannot be loaded: {reason}; `semantic_depth doctor` shows what was found where")]
    Load {
        /// The library.
        path: PathBuf,
        /// The loader's message.
        reason: String,
    },
}

/// What runs engines, once it is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Runtime {
    /// TensorRT's version, as the library says.
    pub tensorrt: TensorRtVersion,
    /// Version of the Torch-TensorRT wheel; [`TORCH_TENSORRT`] where the library does not come with its version.
    pub torch_tensorrt: String,
    /// ABI of its engines.
    pub abi: u32,
    /// The libraries, in the order in which they were loaded.
    pub libraries: Vec<Found>,
}

/// Finds the libraries and loads them, the first time; says what came of it every time. Torch-TensorRT then registers its
/// class of engines with libtorch, and `CModule::load` can read archives with engines.
///
/// # Errors
/// There is no CUDA device, or a library is missing or cannot be loaded. Nothing is loaded unless all are found.
pub fn load_runtime() -> Result<Runtime, RuntimeError> {
    static LOADED: OnceLock<Result<Runtime, RuntimeError>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            let gpus = cuda::driver().map_err(|e| RuntimeError::NoDevice(e.to_string()))?.gpus;
            if gpus.is_empty() {
                return Err(RuntimeError::NoDevice("the CUDA driver sees no device".into()));
            }
            load(find_all(&Surroundings::here())?)
        })
        .clone()
}

/// All that is loaded, in order.
fn find_all(surroundings: &Surroundings) -> Result<Vec<Found>, RuntimeError> {
    let found = ORDER.map(|library| surroundings.find(library).ok_or_else(|| missing(surroundings, library)));
    let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
    match found.iter().rev().find_map(|f| Some((f, torch_tensorrt_version(&f.path)?))) {
        Some((f, version)) if !same_release(&version) => {
            Err(RuntimeError::Version { path: f.path.clone(), found: version })
        }
        _ => Ok(found),
    }
}

/// 2.11.0 and 2.11.1 have one ABI; a build's suffix does not matter.
fn same_release(version: &str) -> bool {
    let release = |v: &str| v.splitn(3, '.').take(2).map(String::from).collect::<Vec<_>>();
    release(version) == release(TORCH_TENSORRT)
}

pub(super) fn missing(surroundings: &Surroundings, library: Library) -> RuntimeError {
    let places = surroundings.places();
    let mut rules: Vec<&str> = places.iter().map(|p| p.rule).collect();
    rules.dedup();
    RuntimeError::Missing {
        name: library.file_names()[0],
        looked_in: format!("{} folders ({})", places.len(), rules.join(", ")),
        install: library.how_to_install(),
    }
}

fn load(found: Vec<Found>) -> Result<Runtime, RuntimeError> {
    let mut tensorrt = None;
    for f in &found {
        let handle = open_global(f)?;
        if f.library == Library::NvInfer {
            tensorrt =
                Some(infer_version(&handle).map_err(|reason| RuntimeError::Load { path: f.path.clone(), reason })?);
        }
        log::debug!("loaded {} ({})", f.path.display(), f.rule);
        // Never closed: libtorch keeps what the initialisers registered.
        std::mem::forget(handle);
    }
    let runtime = found.last().map(|f| f.path.clone()).unwrap_or_default();
    let tensorrt =
        tensorrt.ok_or(RuntimeError::Load { path: runtime.clone(), reason: "TensorRT tells no version".into() })?;
    if (tensorrt.major, tensorrt.minor) != TENSORRT {
        let (major, minor) = TENSORRT;
        log::warn!(
            "Torch-TensorRT {TORCH_TENSORRT} was made for TensorRT {major}.{minor}; {tensorrt} is here and may not do"
        );
    }
    let torch_tensorrt = torch_tensorrt_version(&runtime).unwrap_or_else(|| TORCH_TENSORRT.into());
    Ok(Runtime { tensorrt, torch_tensorrt, abi: TORCH_TENSORRT_ABI, libraries: found })
}

/// The library that the process has under this name, else the one that was found.
#[allow(unsafe_code)]
pub(crate) fn open_global(found: &Found) -> Result<Handle, RuntimeError> {
    let flags = RTLD_NOW | RTLD_GLOBAL;
    for name in found.library.file_names() {
        // SAFETY: RTLD_NOLOAD loads nothing and runs no initialiser; the symbols of what is there become global.
        if let Ok(handle) = unsafe { Handle::open(Some(name), flags | libc::RTLD_NOLOAD) } {
            return Ok(handle);
        }
    }
    // SAFETY: these are NVIDIA's and PyTorch's own libraries, loaded in the order that their dependencies ask for, and
    // only after a CUDA device was found, which their initialisers count on. The caller never unloads them.
    unsafe { Handle::open(Some(&found.path), flags) }
        .map_err(|e| RuntimeError::Load { path: found.path.clone(), reason: e.to_string() })
}

/// A file of NVIDIA's that another library asks for by name.
#[allow(unsafe_code)]
pub(crate) fn open(path: &Path) -> Result<Handle, libloading::Error> {
    // SAFETY: NVIDIA's own library, which its other half would load itself if it found it; it is never unloaded.
    unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
}

/// TensorRT's version, as the library (the full or the lean one) says.
#[allow(unsafe_code)]
fn infer_version(library: &Handle) -> Result<TensorRtVersion, String> {
    type Version = unsafe extern "C" fn() -> c_int;
    // SAFETY: both functions take nothing and return an int32 (NvInferRuntime.h); they read constants.
    unsafe {
        let version = library.get::<Version>(b"getInferLibVersion\0").map_err(|e| e.to_string())?;
        let build = library.get::<Version>(b"getInferLibBuildVersion\0").ok();
        let build = build.and_then(|build| u32::try_from(build()).ok());
        let version = u32::try_from(version()).map_err(|_| "getInferLibVersion() is negative".to_string())?;
        Ok(TensorRtVersion::from_library(version, build))
    }
}

/// Opens a TensorRT library by itself and asks for its version; it needs neither a device nor a driver for that.
///
/// # Errors
/// The loader's message.
#[allow(unsafe_code)]
pub fn version_of(path: &Path) -> Result<TensorRtVersion, String> {
    // SAFETY: TensorRT's library and its lean one start no CUDA when they are loaded (`load_runtime` says what does).
    let library = unsafe { Handle::open(Some(path), RTLD_LAZY | RTLD_LOCAL) }.map_err(|e| e.to_string())?;
    let version = infer_version(&library);
    // Its initialisers register things that the end of the process cleans up.
    std::mem::forget(library);
    version
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    fn touch(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("in a folder")).expect("temporary");
            fs::write(path, "").expect("temporary");
        }
    }

    #[test]
    fn the_first_rule_that_has_the_file_wins() {
        let root = tempfile::tempdir().expect("temporary");
        let at = |folder: &str| root.path().join(folder);
        touch(
            root.path(),
            &[
                "site/torch/lib/libtorch_cpu.so",
                "site/torch/lib/libtorch_cuda.so",
                "site/torch_tensorrt/lib/libtorchtrt_runtime.so",
                "site/tensorrt_libs/libnvinfer.so.10",
                "site/nvidia/cu13/lib/libcudart.so.13",
                "env/lib/python3.12/site-packages/tensorrt_libs/libnvinfer_plugin.so.10",
                "path/libnvinfer.so.10",
                "path/libcudart.so.12",
                "mine/lib/libtorch_cuda.so",
                "mine/site/torch_tensorrt/bin/torchtrtc",
            ],
        );
        let mut surroundings = Surroundings {
            folders: None,
            libtorch: Some(at("site/torch/lib")),
            virtual_env: Some(at("env")),
            library_path: Some(format!("relative:{}", at("path").display())),
        };
        let find = |s: &Surroundings, library| s.find(library).map(|f| (f.path, f.rule));
        let wheel = Some((at("site/tensorrt_libs/libnvinfer.so.10"), "wheels beside libtorch"));
        assert_eq!(find(&surroundings, Library::NvInfer), wheel);
        let env = at("env/lib/python3.12/site-packages/tensorrt_libs/libnvinfer_plugin.so.10");
        assert_eq!(find(&surroundings, Library::NvInferPlugin), Some((env, "wheels of VIRTUAL_ENV")));
        // The newer name counts before the earlier place.
        let cudart = Some((at("site/nvidia/cu13/lib/libcudart.so.13"), "wheels beside libtorch"));
        assert_eq!(find(&surroundings, Library::Cudart), cudart);
        assert_eq!(surroundings.find(Library::TorchTrtc), None);
        assert!(find_all(&surroundings).is_ok());

        surroundings.folders = Some(format!("{}:{}", at("mine").display(), at("mine/site").display()));
        let program = Some((at("mine/site/torch_tensorrt/bin/torchtrtc"), FOLDERS));
        assert_eq!(find(&surroundings, Library::TorchTrtc), program);
        // Another libtorch's CUDA half would not fit.
        let cuda = Some((at("site/torch/lib/libtorch_cuda.so"), "libtorch in use"));
        assert_eq!(find(&surroundings, Library::TorchCuda), cuda);
    }

    #[test]
    fn what_is_missing_is_named_with_how_to_get_it() {
        let root = tempfile::tempdir().expect("temporary");
        touch(
            root.path(),
            &["torch/lib/libtorch_cpu.so", "torch/lib/libtorch_cuda.so", "nvidia/cu13/lib/libcudart.so.13"],
        );
        let surroundings = Surroundings { libtorch: Some(root.path().join("torch/lib")), ..Surroundings::default() };
        let Err(error) = find_all(&surroundings) else {
            return; // This machine has all of TensorRT in its system folders.
        };
        let message = error.to_string();
        assert!(matches!(error, RuntimeError::Missing { .. }), "{message}");
        assert!(message.contains("libtorchtrt_runtime") || message.contains("libnvinfer"), "{message}");
        assert!(message.contains("pip install") && message.contains(FOLDERS), "{message}");
    }

    #[test]
    fn another_torch_tensorrt_is_refused() {
        let root = tempfile::tempdir().expect("temporary");
        let files = ["torch_tensorrt/lib/libtorchtrt_runtime.so", "tensorrt_libs/libnvinfer.so.10"];
        touch(root.path(), &files);
        touch(root.path(), &["tensorrt_libs/libnvinfer_plugin.so.10", "nvidia/cu13/lib/libcudart.so.13"]);
        touch(root.path(), &["torch/lib/libtorch_cuda.so"]);
        let surroundings = Surroundings { libtorch: Some(root.path().join("torch/lib")), ..Surroundings::default() };
        let version = root.path().join("torch_tensorrt/_version.py");
        fs::write(&version, "# of a build\n__version__ = \"2.10.0\"\n").expect("temporary");
        let error = find_all(&surroundings).expect_err("another ABI");
        assert!(matches!(&error, RuntimeError::Version { found, .. } if found == "2.10.0"), "{error}");
        fs::write(&version, "__version__ = '2.11.0+cu130'\n").expect("temporary");
        assert!(find_all(&surroundings).is_ok());
    }

    #[test]
    fn the_builders_kernels_are_found_under_each_of_their_names() {
        let root = tempfile::tempdir().expect("temporary");
        let surroundings =
            Surroundings { folders: Some(root.path().to_string_lossy().into_owned()), ..Surroundings::default() };
        let find = || surroundings.find(Library::NvInferBuilder).filter(|f| f.rule == FOLDERS).map(|f| f.path);
        touch(root.path(), &["libnvinfer_builder_resource.so.8.6.1", "libnvinfer_builder_resource_sm90.txt"]);
        assert_eq!(find(), None);
        let of_one_generation = "tensorrt_libs/libnvinfer_builder_resource_sm90.so.10.15.1";
        touch(root.path(), &[of_one_generation]);
        assert_eq!(find(), Some(root.path().join(of_one_generation)));
        // What is in the first folder comes first, and of one folder's the first.
        touch(
            root.path(),
            &["lib/libnvinfer_builder_resource.so.10.15.1", "lib/libnvinfer_builder_resource_win.so.10.15.1"],
        );
        assert_eq!(find(), Some(root.path().join("lib/libnvinfer_builder_resource.so.10.15.1")));
    }

    #[test]
    fn a_version_is_in_the_files_name_or_in_its_wheel() {
        let root = tempfile::tempdir().expect("temporary");
        let at = |file: &str| root.path().join(file);
        touch(
            root.path(),
            &["system/libcudart.so.13.0.96", "site/nvidia/cu13/lib/libnvrtc.so.13", "site/lib/libx.so.1"],
        );
        symlink("libcudart.so.13.0.96", at("system/libcudart.so.13")).expect("temporary");
        assert_eq!(version_of_file(&at("system/libcudart.so.13")).as_deref(), Some("13.0.96"));
        assert_eq!(version_of_file(&at("site/nvidia/cu13/lib/libnvrtc.so.13")), None, "no wheel lists it yet");
        touch(root.path(), &["site/other-1.0.dist-info/RECORD", "site/nvidia_cuda_nvrtc-13.0.88.dist-info/RECORD"]);
        fs::write(at("site/other-1.0.dist-info/RECORD"), "other/libnvrtc.so.13,sha256=x,1\n").expect("temporary");
        let list = "nvidia/cu13/lib/libnvrtc-builtins.so.13.0,,\nnvidia/cu13/lib/libnvrtc.so.13,sha256=x,1\n";
        fs::write(at("site/nvidia_cuda_nvrtc-13.0.88.dist-info/RECORD"), list).expect("temporary");
        assert_eq!(version_of_file(&at("site/nvidia/cu13/lib/libnvrtc.so.13")).as_deref(), Some("13.0.88"));
        assert_eq!(version_of_file(&at("site/lib/libx.so.1")), None, "of no wheel");
        assert_eq!(version_of_file(&at("absent.so.1.2")), None);
    }

    #[test]
    fn libtorch_says_its_version_as_a_package_as_an_archive_and_as_a_wheel() {
        let root = tempfile::tempdir().expect("temporary");
        let (folder, file) = (root.path().join("torch/lib"), |name: &str| root.path().join(name));
        touch(root.path(), &["torch/lib/libtorch_cpu.so", "torch-2.11.0+xpu.dist-info/RECORD"]);
        assert_eq!(libtorch_version(&folder), None);
        fs::write(file("torch-2.11.0+xpu.dist-info/RECORD"), "torch/lib/libtorch_cpu.so,sha256=x,0\n")
            .expect("temporary");
        assert_eq!(libtorch_version(&folder).as_deref(), Some("2.11.0+xpu"));
        fs::write(file("torch/build-version"), "2.11.0+cpu\n").expect("temporary");
        assert_eq!(libtorch_version(&folder).as_deref(), Some("2.11.0+cpu"));
        fs::write(file("torch/version.py"), "debug = False\n__version__ = '2.11.0+cu130'\n").expect("temporary");
        assert_eq!(libtorch_version(&folder).as_deref(), Some("2.11.0+cu130"));
    }

    /// For a test in a process of its own: the folder of what it is to load.
    const CHILD: &str = "SEMANTIC_DEPTH_TEST_LOADS_FROM";

    /// Names of [`ORDER`] in words, so that a change of it is one of the tests, too.
    const NAMES: [&str; 5] = [
        "libcudart.so.13",
        "libtorch_cuda.so",
        "libnvinfer.so.10",
        "libnvinfer_plugin.so.10",
        "libtorchtrt_runtime.so",
    ];

    /// A library that notes its name in the file `STUB_LOG` when it is loaded, has a function and calls one.
    const STUB: &str = r#"
        #include <cstdio>
        #include <cstdlib>
        extern "C" int HAS() { return 101501; }
        extern "C" int NEEDS();
        __attribute__((constructor)) static void loaded() {
            if (std::FILE* log = std::fopen(std::getenv("STUB_LOG"), "a")) {
                std::fputs(NAME "\n", log);
                std::fclose(log);
            }
            NEEDS();
        }
    "#;

    /// Compiles `source` into the library `name`, which is linked with the libraries `with`.
    fn compile(folder: &Path, name: &str, source: &str, flags: &[String], with: &[&str]) {
        let file = folder.join("stub.cpp");
        fs::write(&file, source).expect("temporary");
        let mut compiler = Command::new("c++");
        compiler.args(["-shared", "-fPIC", &format!("-Wl,-soname,{name}"), "-o"]).arg(folder.join(name)).args(flags);
        let output = compiler.arg(&file).args(with.iter().map(|w| folder.join(w))).output().expect("a C++ compiler");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn stub(folder: &Path, name: &str, has: &str, needs: &str, with: &[&str]) {
        let flags = [format!("-DNAME=\"{name}\""), format!("-DHAS={has}"), format!("-DNEEDS={needs}")];
        compile(folder, name, STUB, &flags, with);
    }

    /// What loading in a process of its own came to.
    struct Loaded {
        /// What the process had before, of [`NAMES`].
        before: Vec<String>,
        /// The stubs, in the order in which they were loaded.
        stubs: Vec<String>,
        /// In words, a line a step.
        outcome: Vec<String>,
    }

    /// Runs `test` of this module in a process of its own, whose [`loads_as_child`] then answers. The loader looks into
    /// `search`, too.
    fn load_apart(test: &str, folder: &Path, search: &[PathBuf]) -> Loaded {
        let (_, module) = module_path!().split_once("::").expect("in a crate");
        let lines = |name: &str| -> Vec<String> {
            fs::read_to_string(folder.join(name)).unwrap_or_default().lines().map(String::from).collect()
        };
        for old in ["before", "stubs", "outcome"] {
            let _ = fs::remove_file(folder.join(old));
        }
        let before = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let search = search.iter().cloned().chain(std::env::split_paths(&before).filter(|p| p.is_absolute()));
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--include-ignored", "--exact", &format!("{module}::{test}")])
            .env(CHILD, folder)
            .env("STUB_LOG", folder.join("stubs"))
            .env("LD_LIBRARY_PATH", std::env::join_paths(search).expect("no colons"))
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        Loaded { before: lines("before"), stubs: lines("stubs"), outcome: lines("outcome") }
    }

    /// In such a process: loads what is in the folder, and then once more from nowhere.
    fn loads_as_child() -> bool {
        let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return false };
        let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
        let is_there = |library: Library| library.file_names().iter().any(|name| maps.contains(&format!("/{name}")));
        let all = ORDER.into_iter().zip(NAMES);
        let before: Vec<_> = all.filter(|(library, _)| is_there(*library)).map(|(_, name)| name).collect();
        fs::write(folder.join("before"), before.join("\n")).expect("temporary");
        let engine = folder.join("engine.ts");
        let load_engine = || {
            let error = tch::CModule::load(&engine).err().map(|e| e.to_string()).unwrap_or_default();
            error.replace('\n', " ")
        };
        let load_from = |folder: &Path| {
            let found = |(library, name): (Library, &str)| Found { library, path: folder.join(name), rule: "test" };
            let loaded = load(ORDER.into_iter().zip(NAMES).map(found).collect());
            loaded.map_or_else(|e| e.to_string(), |runtime| format!("TensorRT {}", runtime.tensorrt))
        };
        let mut outcome = Vec::new();
        if engine.exists() {
            outcome.push(load_engine());
        }
        outcome.push(load_from(&folder));
        if outcome.last().is_some_and(|said| said.starts_with("TensorRT ")) {
            outcome.push(load_from(Path::new("/nonexistent")));
        }
        if engine.exists() {
            outcome.push(load_engine());
        }
        fs::write(folder.join("outcome"), outcome.join("\n")).expect("temporary");
        true
    }

    #[test]
    fn libraries_are_loaded_in_order_and_one_that_cannot_be_is_named() {
        if loads_as_child() {
            return;
        }
        assert_eq!(ORDER.map(|library| library.file_names()[0]), NAMES);
        let root = tempfile::tempdir().expect("temporary");
        let folder = root.path();
        let [cudart, torch_cuda, nvinfer, plugin, runtime] = NAMES;
        let load = || load_apart("libraries_are_loaded_in_order_and_one_that_cannot_be_is_named", folder, &[]);
        stub(folder, cudart, "stub_cudart", "stub_cudart", &[]);
        stub(folder, torch_cuda, "stub_torch_cuda", "stub_torch_cuda", &[]);
        stub(folder, nvinfer, "getInferLibVersion", "getInferLibVersion", &[]);
        // Linked with nothing: it loads only where the symbols of what came before are global.
        stub(folder, plugin, "initLibNvInferPlugins", "getInferLibVersion", &[]);
        // As Torch-TensorRT's own: it asks for another library by name.
        stub(folder, runtime, "stub_runtime", "initLibNvInferPlugins", &[plugin]);

        let loaded = load();
        // libtorch's CUDA builds bring the CUDA runtime, which is taken as it is; so is everything the second time.
        let of_us: Vec<_> = NAMES.into_iter().filter(|name| !loaded.before.iter().any(|b| b == name)).collect();
        assert!(of_us.ends_with(&[nvinfer, plugin, runtime]), "{of_us:?}");
        assert_eq!(loaded.outcome, ["TensorRT 10.15.1", "TensorRT 10.15.1"]);
        assert_eq!(loaded.stubs, of_us);

        let until_plugin = &of_us[..of_us.len() - 2];
        fs::remove_file(folder.join(plugin)).expect("it was compiled");
        let loaded = load();
        let expected = format!("{} cannot be loaded: ", folder.join(plugin).display());
        assert!(loaded.outcome[0].starts_with(&expected), "{:?}", loaded.outcome);
        assert_eq!(loaded.stubs, until_plugin);

        stub(folder, plugin, "initLibNvInferPlugins", "nobody_has_this", &[]);
        let loaded = load();
        let said = &loaded.outcome[0];
        assert!(said.starts_with(&expected) && said.contains("undefined symbol: nobody_has_this"), "{said}");
        assert_eq!(loaded.stubs, until_plugin);
    }

    #[test]
    #[ignore = "needs the wheels of Torch-TensorRT and of TensorRT's lean runtime, see tests/tensorrt.rs"]
    fn the_real_runtime_is_loaded_where_stubs_stand_in_for_what_it_needs_a_gpu_for() {
        if loads_as_child() {
            return;
        }
        let site = std::env::var("SEMANTIC_DEPTH_TENSORRT_SITE").expect("SEMANTIC_DEPTH_TENSORRT_SITE is not set");
        let surroundings = Surroundings { folders: Some(site), ..Surroundings::here() };
        let real = |library| surroundings.find(library).unwrap_or_else(|| panic!("{library:?} is missing")).path;
        let root = tempfile::tempdir().expect("temporary");
        let folder = root.path();
        let [cudart, torch_cuda, nvinfer, plugin, runtime] = NAMES;
        symlink(real(Library::Cudart), folder.join(cudart)).expect("temporary");
        symlink(real(Library::NvInferLean), folder.join(nvinfer)).expect("temporary");
        symlink(real(Library::TorchTrtRuntime), folder.join(runtime)).expect("temporary");
        let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tensorrt/one_engine.ts");
        symlink(archive, folder.join("engine.ts")).expect("temporary");
        stub(folder, plugin, "initLibNvInferPlugins", "initLibNvInferPlugins", &[]);
        // libtorch's CUDA half and what that needs are gigabytes. What the runtime wants of it, graphs of CUDA, is not called
        // before an engine runs.
        let output = Command::new("nm").args(["-D", "--undefined-only"]).arg(folder.join(runtime)).output();
        let symbols = String::from_utf8(output.expect("binutils").stdout).expect("text");
        let wanted = symbols.lines().filter_map(|line| line.split_whitespace().next_back()?.split('@').next());
        let wanted = wanted.filter(|symbol| symbol.starts_with("_ZN2at4cuda") || symbol.starts_with("_ZNK2at4cuda"));
        let functions: String = wanted.map(|symbol| format!("extern \"C\" void {symbol}() {{}}\n")).collect();
        compile(folder, torch_cuda, &functions, &[], &[]);

        let test = "the_real_runtime_is_loaded_where_stubs_stand_in_for_what_it_needs_a_gpu_for";
        // The lean runtime has another name of its own than the one that is asked for; libc10_cuda is beside libtorch.
        let search: Vec<_> = [folder.to_path_buf()].into_iter().chain(libtorch_folder()).collect();
        let Loaded { outcome, .. } = load_apart(test, folder, &search);
        let [unknown, first, second, known] = outcome.as_slice() else { panic!("{outcome:?}") };
        assert!(first.starts_with("TensorRT 10.15.1") && second == first, "{outcome:?}");
        // The class of engines is known then; that there is no device comes later.
        assert!(unknown.contains("tensorrt") && known != unknown, "{outcome:?}");
    }

    #[test]
    fn the_libtorch_of_this_process_is_found() {
        // A call into libtorch: without one the linker may leave it out.
        assert!(!tch::Cuda::is_available() || tch::Cuda::device_count() > 0);
        let folder = libtorch_folder().expect("this test is linked against it");
        assert!(folder.join("libtorch_cpu.so").is_file(), "{}", folder.display());
    }

    #[test]
    fn nothing_is_loaded_without_a_device() {
        if cuda::driver().is_ok_and(|d| !d.gpus.is_empty()) {
            return; // Here it would be loaded, which tests/tensorrt.rs tries.
        }
        let error = load_runtime().expect_err("no device");
        assert!(matches!(error, RuntimeError::NoDevice(_)), "{error}");
        let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
        assert!(!maps.contains("libnvinfer.so") && !maps.contains("libtorchtrt"), "something was loaded");
    }
}

//! The libraries that run TensorRT engines, and NVRTC: where they are looked for, and how they are loaded.
//!
//! They are looked for in this order; the first file of a name counts:
//!
//! 1. each folder in `SEMANTIC_DEPTH_TENSORRT` (separated by `:`): the folder itself, its `lib`, and, if it is a
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
    /// CUDA's run-time compiler, which compiles the kernels of the native back end.
    Nvrtc,
}

/// Libraries in the order in which they are loaded.
pub const ORDER: [Library; 5] =
    [Library::Cudart, Library::TorchCuda, Library::NvInfer, Library::NvInferPlugin, Library::TorchTrtRuntime];

impl Library {
    /// Names of the file, the best first.
    pub fn file_names(self) -> &'static [&'static str] {
        match self {
            Self::Cudart => &["libcudart.so.13", "libcudart.so.12"],
            Self::TorchCuda => &["libtorch_cuda.so"],
            Self::NvInfer => &["libnvinfer.so.10"],
            Self::NvInferPlugin => &["libnvinfer_plugin.so.10"],
            Self::TorchTrtRuntime => &["libtorchtrt_runtime.so"],
            Self::NvInferLean => &["libnvinfer_lean.so.10"],
            Self::TorchTrtc => &["torchtrtc"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
        }
    }

    /// How it comes onto a machine.
    pub fn how_to_install(self) -> &'static str {
        match self {
            Self::Cudart => "it comes with the CUDA toolkit, JetPack, or `pip install nvidia-cuda-runtime`",
            Self::TorchCuda => "this libtorch has no CUDA half: install a CUDA build of PyTorch 2.11 and build against it",
            Self::NvInfer | Self::NvInferPlugin => {
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
                let path = place.folder.join(name);
                path.is_file().then_some(Found { library, path, rule: place.rule })
            })
        })
    }
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
    let version = std::fs::read_to_string(file.parent()?.parent()?.join("_version.py")).ok()?;
    let line = version.lines().find_map(|l| l.trim().strip_prefix("__version__ = "))?;
    Some(line.trim_matches(['"', '\'']).to_string())
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

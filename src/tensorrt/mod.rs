//! TensorRT: TorchScript files whose network runs as engines that were compiled for one GPU.
//!
//! - [`archive`]: what a TorchScript file holds of engines, read without loading anything
//! - [`check`](mod@check): whether they run here
//! - [`cuda`]: the driver and its devices
//! - [`libraries`]: the runtime libraries, found by rules and loaded in order
//! - [`compile`]: Torch-TensorRT's compiler, run as a program
//! - [`cache`]: compiled engines on disk
//! - [`prepare`]: all of it: a file that libtorch can load
//!
//! Nothing of TensorRT is linked or loaded where it is not asked for, nor without a CUDA device, nor where nothing may be
//! compiled and the cache has no engine of the model.

pub mod archive;
pub mod cache;
pub mod check;
pub mod compile;
pub mod cuda;
pub mod libraries;
mod pickle;
pub mod version;

pub use archive::{inspect, Archive, ArchiveError};
pub use cache::{Cache, CacheError};
pub use check::{check, Here, Mismatch};
pub use compile::{BatchRange, CompileError, EnginePrecision};
pub use libraries::{load_runtime, Runtime, RuntimeError};

use crate::export::manifest::InputKind;
use crate::export::trace::{self, WEIGHTS};
use crate::export::{Artifact, Manifest};
use crate::system::quoted;
use cache::{Key, Lookup};
use compile::{Compiler, Job};
use cuda::Gpu;
use std::fs;
use std::path::{Path, PathBuf};

/// How the engine is to be.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// What it computes in, and what it takes and answers.
    pub precision: EnginePrecision,
    /// Batches that it takes.
    pub batch: BatchRange,
    /// A file that was compiled elsewhere, taken in place of compiling.
    pub engine: Option<PathBuf>,
    /// Whether it may be compiled (minutes) where the cache has none.
    pub compile: bool,
    /// Folder of the cache; by default [`Cache::default_folder`].
    pub cache: Option<PathBuf>,
}

/// Why there is no engine to run.
#[derive(Debug, thiserror::Error)]
pub enum TensorRtError {
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A GPU that is not there.
    #[error("GPU {index} was asked for, but the CUDA driver sees {available}; give a number below that")]
    NoGpu {
        /// Asked for.
        index: usize,
        /// Seen.
        available: usize,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file that does not run here.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The compiler.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Nothing in the cache, and no leave to compile.
    #[error(
        "no compiled engine is in the cache ({0}); compile one with `semantic_depth export --tensorrt --model MODEL` (with \
         --batch N for batches of up to N), or set backend to tensorrt"
    )]
    NotCompiled(String),
    /// The cache has an engine of this model, which does not fit this GPU or these libraries, and there is no leave to compile.
    #[error("the cache has an engine of this model that does not fit here ({why}); compile it anew with `{command}`")]
    Stale {
        /// What does not fit.
        why: String,
        /// What compiles it.
        command: String,
    },
    /// The compiler's input cannot be made.
    #[error("the network cannot be traced for the compiler: {0}")]
    Source(trace::ExportError),
    /// The model's input is not what an engine is compiled for.
    #[error(
        "an engine's input is floating point, and the model's is bytes (input.kind: u8); set backend to torchscript, or \
         export a model that takes float"
    )]
    Bytes,
    /// The model's manifest does not say what is needed.
    #[error("the model's manifest has no sha256 of {0}; export the model again")]
    Manifest(String),
}

impl TensorRtError {
    /// Of [`prepare`] without leave to compile: whether the cache has an engine of the model, which cannot be run. It does not
    /// fit (after an upgrade, on another GPU), or the libraries are missing, which are asked for only where there is one.
    pub fn leaves_an_engine_unused(&self) -> bool {
        matches!(self, Self::Stale { .. } | Self::Runtime(_))
    }
}

/// What an engine is compiled from.
struct Model<'a> {
    /// Where the compiler's input can be made of its weights; else the compiler gets `torchscript`.
    artifact: Option<&'a Artifact>,
    torchscript: PathBuf,
    sha256: String,
    /// Channels, height, width.
    shape: [usize; 3],
    /// Tensors of its answer.
    outputs: usize,
}

impl<'a> Model<'a> {
    fn of(artifact: &'a Artifact) -> Result<Self, TensorRtError> {
        let manifest = &artifact.manifest;
        if manifest.input.kind == InputKind::U8 {
            return Err(TensorRtError::Bytes);
        }
        let sha256 = manifest.files.get(&manifest.torchscript).cloned();
        Ok(Self {
            artifact: manifest.files.contains_key(WEIGHTS).then_some(artifact),
            torchscript: artifact.torchscript_path(),
            sha256: sha256.ok_or_else(|| TensorRtError::Manifest(manifest.torchscript.clone()))?,
            shape: [3, manifest.input.height, manifest.input.width],
            outputs: outputs(manifest),
        })
    }
}

/// Tensors of a model's answer: an engine has as many outputs.
pub fn outputs(manifest: &Manifest) -> usize {
    manifest.output.tensors.as_ref().map_or(1, Vec::len)
}

/// Loads the runtime and returns a TorchScript file with engines of this model for this GPU, which was inspected: out of
/// the cache, or compiled (minutes) or imported into it. `gpu` is CUDA's number.
///
/// # Errors
/// A model whose input is bytes, nothing cached that could be this model's where nothing may be compiled (then nothing is
/// loaded), or what is cached does not fit; no CUDA device, a missing library or compiler, a failed compilation, an engine
/// that does not run here, or a cache that cannot be written.
pub fn prepare(artifact: &Artifact, gpu: usize, build: &BuildOptions) -> Result<PathBuf, TensorRtError> {
    let model = Model::of(artifact)?;
    if build.engine.is_none() && !build.compile {
        is_perhaps_cached(&model, build)?;
    }
    let runtime = load_runtime()?;
    let gpus = cuda::driver().map_err(|e| RuntimeError::NoDevice(e.to_string()))?.gpus;
    let device = gpus.get(gpu).ok_or(TensorRtError::NoGpu { index: gpu, available: gpus.len() })?;
    let find = || Compiler::find(&libraries::Surroundings::here());
    prepare_on(&model, device, &runtime, build, find)
}

/// Where the cache is.
fn folder(build: &BuildOptions) -> Result<PathBuf, CacheError> {
    build.cache.clone().map_or_else(Cache::default_folder, Ok)
}

fn batches(build: &BuildOptions) -> [usize; 3] {
    let BatchRange { min, best, max } = build.batch;
    [min, best, max]
}

/// Whether the cache has an engine of this model for any GPU and any versions. Which ones those are here is only known once
/// the libraries are loaded, hundreds of megabytes: not for a question whose answer is no.
fn is_perhaps_cached(model: &Model<'_>, build: &BuildOptions) -> Result<(), TensorRtError> {
    let precision = build.precision.name();
    let fits = |key: &Key| {
        let found = (key.model_sha256.as_str(), key.precision.as_str(), key.shape);
        found == (model.sha256.as_str(), precision, model.shape) && key.takes(batches(build))
    };
    if Cache::at(folder(build)?).entries().iter().any(|(_, entry)| entry.as_ref().is_ok_and(|e| fits(&e.key))) {
        return Ok(());
    }
    let BatchRange { min, max, .. } = build.batch;
    Err(TensorRtError::NotCompiled(format!("none of this model in {precision} for batches of {min} to {max}")))
}

/// What compiles the engine that is wanted.
fn command(model: &Model<'_>, gpu: &Gpu, build: &BuildOptions) -> String {
    let folder = model.torchscript.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    format!(
        "semantic_depth export --tensorrt --model {} --precision {} --batch {} --gpu {}",
        quoted(&folder.to_string_lossy()),
        build.precision.name(),
        build.batch.max,
        gpu.index
    )
}

fn prepare_on(
    model: &Model<'_>,
    gpu: &Gpu,
    runtime: &Runtime,
    build: &BuildOptions,
    find_compiler: impl FnOnce() -> Result<Compiler, CompileError>,
) -> Result<PathBuf, TensorRtError> {
    let here = Here {
        abi: runtime.abi,
        tensorrt: runtime.tensorrt,
        compute_capability: gpu.compute_capability,
        gpu: gpu.name.clone(),
        platform: check::PLATFORM.into(),
        bindings: (1, model.outputs),
    };
    let key = Key {
        model_sha256: model.sha256.clone(),
        gpu: gpu.name.clone(),
        compute_capability: gpu.compute_capability,
        tensorrt: runtime.tensorrt,
        torch_tensorrt: runtime.torch_tensorrt.clone(),
        platform: here.platform.clone(),
        precision: build.precision.name().into(),
        shape: model.shape,
        batch: batches(build),
    };
    let cache = Cache::open(folder(build)?)?;
    let ready = || match build.engine {
        Some(_) => Err("a file is to be taken".to_string()),
        None => cached(&cache, &key, &here),
    };
    // Without the lock first: a cache that is only read (an image of a container) may be in a folder that cannot be written.
    match ready() {
        Ok(path) => return Ok(path),
        Err(why) if build.engine.is_none() && !build.compile => {
            is_perhaps_cached(model, build)?;
            return Err(TensorRtError::Stale { why, command: command(model, gpu, build) });
        }
        Err(_) => {}
    }
    let lock = cache.lock(&key)?;
    match ready() {
        Ok(path) => return Ok(path),
        Err(why) => log::info!("a TensorRT engine has to be made: {why}"),
    }
    let unfinished = cache.unfinished(&key);
    let made = (|| {
        let origin = match &build.engine {
            Some(file) => import(file, &unfinished, &here)?,
            None => {
                let source = unfinished.with_extension("source");
                let input = match model.artifact {
                    Some(artifact) => {
                        trace::write_engine_source(artifact, &source).map_err(TensorRtError::Source)?;
                        &source
                    }
                    None => &model.torchscript,
                };
                let job = Job {
                    input,
                    output: &unfinished,
                    shape: model.shape,
                    batch: build.batch,
                    precision: build.precision,
                    gpu: gpu.index,
                };
                let compiled = find_compiler().and_then(|compiler| compiler.run(&job, &lock));
                let _ = fs::remove_file(&source);
                compiled?;
                "torchtrtc".to_string()
            }
        };
        let archive = inspect(&unfinished)?;
        check(&archive, &here)?;
        if archive.engines.len() > 1 {
            log::warn!(
                "the compiler left parts of the network to libtorch: {} engines and not one; it runs, but slower",
                archive.engines.len()
            );
        }
        Ok(cache.put(&key, origin, &lock)?)
    })();
    if made.is_err() {
        // What does not fit must not lie about.
        let _ = fs::remove_file(&unfinished);
    }
    made
}

/// A cached engine that would be compiled the same today, but perhaps for larger batches.
fn cached(cache: &Cache, key: &Key, here: &Here) -> Result<PathBuf, String> {
    let path = match cache.look_up(key) {
        Lookup::Hit(path) => path,
        Lookup::Miss(why) => return Err(why),
    };
    let archive = inspect(&path).map_err(|e| e.to_string())?;
    check(&archive, here).map_err(|e| e.to_string())?;
    log::info!("TensorRT engine out of the cache: {}", path.display());
    Ok(path)
}

fn import(file: &Path, to: &Path, here: &Here) -> Result<String, TensorRtError> {
    // First where it lies: a message about it should name it.
    check(&inspect(file)?, here)?;
    fs::copy(file, to).map_err(|source| CacheError::Io { path: to.into(), source })?;
    Ok(file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::archive::tests::{archive, orin, strings};
    use super::compile::tests::stand_in;
    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        model: Model<'static>,
        gpu: Gpu,
        runtime: Runtime,
    }

    /// The machine that the engines of these tests are for.
    fn bench() -> Bench {
        let folder = tempfile::tempdir().expect("temporary");
        let torchscript = folder.path().join("network.ts");
        fs::write(&torchscript, "not read here").expect("temporary");
        let here = orin();
        Bench {
            model: Model { artifact: None, torchscript, sha256: "ab".repeat(32), shape: [3, 256, 512], outputs: 1 },
            gpu: Gpu { index: 0, name: here.gpu, compute_capability: here.compute_capability, memory_bytes: 32 << 30 },
            runtime: Runtime {
                tensorrt: here.tensorrt,
                torch_tensorrt: "2.11.0".into(),
                abi: here.abi,
                libraries: vec![],
            },
            folder,
        }
    }

    impl Bench {
        fn options(&self) -> BuildOptions {
            BuildOptions {
                precision: EnginePrecision::Fp16,
                batch: BatchRange { min: 1, best: 1, max: 1 },
                engine: None,
                compile: true,
                cache: Some(self.folder.path().join("cache")),
            }
        }

        /// A compiler that writes an archive with this engine and keeps a tally of its calls.
        fn compiler(&self, strings: Vec<String>) -> Compiler {
            let ready = self.folder.path().join("ready.ts");
            fs::write(&ready, archive(&[strings])).expect("temporary");
            let tally = self.folder.path().join("tally");
            stand_in(self.folder.path(), &format!("echo call >> {}; cp {} \"$2\"", tally.display(), ready.display()))
        }

        fn calls(&self) -> usize {
            fs::read_to_string(self.folder.path().join("tally")).unwrap_or_default().lines().count()
        }

        fn left_over(&self) -> Vec<String> {
            let files = fs::read_dir(self.folder.path().join("cache")).expect("made");
            let names = files.map(|f| f.expect("readable").file_name().to_string_lossy().into_owned());
            names.filter(|name| !name.ends_with(".lock")).collect()
        }
    }

    fn mine() -> Vec<String> {
        let mut strings = strings();
        strings[8] = check::PLATFORM.into();
        strings
    }

    #[test]
    fn an_engine_is_compiled_once() {
        let b = bench();
        let run = |options: &BuildOptions| prepare_on(&b.model, &b.gpu, &b.runtime, options, || Ok(b.compiler(mine())));
        let first = run(&b.options()).expect("compiled");
        assert_eq!(run(&b.options()).expect("cached"), first);
        assert_eq!(b.calls(), 1);
        assert_eq!(inspect(&first).expect("whole").engines.len(), 1);
        // Another precision is another engine; a damaged one is made anew.
        let single = BuildOptions { precision: EnginePrecision::Fp32, ..b.options() };
        assert_ne!(run(&single).expect("compiled"), first);
        assert_eq!(b.calls(), 2);
        fs::write(&first, "damaged").expect("temporary");
        assert_eq!(run(&b.options()).expect("compiled again"), first);
        assert_eq!(b.calls(), 3);
        assert!(inspect(&first).is_ok());
    }

    #[test]
    fn without_leave_nothing_is_compiled() {
        let b = bench();
        let options = BuildOptions { compile: false, ..b.options() };
        let error = prepare_on(&b.model, &b.gpu, &b.runtime, &options, || panic!("nothing is compiled"));
        assert!(matches!(error, Err(TensorRtError::NotCompiled(_))), "{error:?}");
        let compiled =
            prepare_on(&b.model, &b.gpu, &b.runtime, &b.options(), || Ok(b.compiler(mine()))).expect("compiled");
        let cached = prepare_on(&b.model, &b.gpu, &b.runtime, &options, || panic!("nothing is compiled"));
        assert_eq!(cached.expect("cached"), compiled);
    }

    #[test]
    fn without_leave_nothing_is_loaded_unless_an_engine_of_the_model_is_there() {
        let b = bench();
        let options = BuildOptions { compile: false, ..b.options() };
        let error = is_perhaps_cached(&b.model, &options).expect_err("the cache is empty");
        let message = error.to_string();
        assert!(message.contains("none of this model in fp16 for batches of 1 to 1"), "{message}");
        assert!(!b.folder.path().join("cache").exists(), "it is only looked for");
        prepare_on(&b.model, &b.gpu, &b.runtime, &b.options(), || Ok(b.compiler(mine()))).expect("compiled");
        is_perhaps_cached(&b.model, &options).expect("there it is");
        let others = [
            BuildOptions { precision: EnginePrecision::Fp32, ..options.clone() },
            BuildOptions { batch: BatchRange { min: 1, best: 2, max: 2 }, ..options.clone() },
        ];
        for other in others {
            assert!(matches!(is_perhaps_cached(&b.model, &other), Err(TensorRtError::NotCompiled(_))), "{other:?}");
        }
        let other = Model { sha256: "cd".repeat(32), torchscript: "other.ts".into(), ..b.model };
        assert!(is_perhaps_cached(&other, &options).is_err());
    }

    #[test]
    fn an_engine_that_does_not_fit_any_more_is_told_from_none() {
        let b = bench();
        let options = BuildOptions { compile: false, ..b.options() };
        let ask = |gpu: &Gpu, runtime: &Runtime| {
            prepare_on(&b.model, gpu, runtime, &options, || panic!("nothing is compiled"))
        };
        let none = ask(&b.gpu, &b.runtime).expect_err("the cache is empty");
        assert!(matches!(none, TensorRtError::NotCompiled(_)) && !none.leaves_an_engine_unused(), "{none}");
        let engine =
            prepare_on(&b.model, &b.gpu, &b.runtime, &b.options(), || Ok(b.compiler(mine()))).expect("compiled");

        let patch = b.runtime.tensorrt.patch + 1;
        let upgraded =
            Runtime { tensorrt: version::TensorRtVersion { patch, ..b.runtime.tensorrt }, ..b.runtime.clone() };
        let other = Gpu { index: 1, name: "Thor".into(), ..b.gpu.clone() };
        for (gpu, runtime, words) in
            [(&b.gpu, &upgraded, "differs in tensorrt"), (&other, &b.runtime, "differs in gpu")]
        {
            let error = ask(gpu, runtime).expect_err("it was made for another case");
            assert!(matches!(error, TensorRtError::Stale { .. }) && error.leaves_an_engine_unused(), "{error:?}");
            let (message, folder) = (error.to_string(), b.folder.path().display());
            let command = format!("export --tensorrt --model {folder} --precision fp16 --batch 1 --gpu {}`", gpu.index);
            assert!(message.contains(words) && message.ends_with(&command), "{message}");
        }
        fs::write(&engine, "damaged").expect("temporary");
        assert!(matches!(ask(&b.gpu, &b.runtime), Err(TensorRtError::Stale { .. })));
        // A missing library is asked for only where there is an engine.
        assert!(TensorRtError::from(RuntimeError::NoDevice(String::new())).leaves_an_engine_unused());
    }

    #[test]
    fn an_engine_for_larger_batches_is_taken() {
        let b = bench();
        let up_to = |most| BuildOptions { batch: BatchRange { min: 1, best: most, max: most }, ..b.options() };
        let run = |options: &BuildOptions| prepare_on(&b.model, &b.gpu, &b.runtime, options, || Ok(b.compiler(mine())));
        let four = run(&up_to(4)).expect("compiled");
        for most in [1, 3, 4] {
            let options = BuildOptions { compile: false, ..up_to(most) };
            is_perhaps_cached(&b.model, &options).expect("there it is");
            assert_eq!(run(&options).expect("cached"), four, "{most}");
        }
        let five = BuildOptions { compile: false, ..up_to(5) };
        assert!(matches!(is_perhaps_cached(&b.model, &five), Err(TensorRtError::NotCompiled(_))));
        assert!(matches!(run(&five), Err(TensorRtError::NotCompiled(_))));
        assert_eq!(b.calls(), 1);
    }

    #[test]
    fn an_engine_has_as_many_outputs_as_the_models_answer_has_tensors() {
        let mut b = bench();
        b.model.outputs = 2;
        let one = prepare_on(&b.model, &b.gpu, &b.runtime, &b.options(), || Ok(b.compiler(mine())));
        assert!(matches!(one, Err(TensorRtError::Mismatch(Mismatch::Bindings { expected: (1, 2), .. }))), "{one:?}");
        let mut two = mine();
        two[5] = "output_0%output_1".into();
        prepare_on(&b.model, &b.gpu, &b.runtime, &b.options(), || Ok(b.compiler(two))).expect("it fits");
    }

    #[test]
    fn an_engine_that_does_not_fit_never_enters_the_cache() {
        let b = bench();
        let mut wrong = mine();
        wrong[0] = "77".into();
        let error = prepare_on(&b.model, &b.gpu, &b.runtime, &b.options(), || Ok(b.compiler(wrong)));
        assert!(matches!(error, Err(TensorRtError::Mismatch(Mismatch::Abi { found: 77, .. }))), "{error:?}");
        assert_eq!(b.left_over(), Vec::<String>::new());
        let crashes = || Ok(stand_in(b.folder.path(), "printf half > \"$2\"; kill -SEGV $$"));
        let error = prepare_on(&b.model, &b.gpu, &b.runtime, &b.options(), crashes).expect_err("it crashed");
        assert!(error.to_string().contains("signal: 11"), "{error}");
        assert_eq!(b.left_over(), Vec::<String>::new());
    }

    #[test]
    fn an_engine_compiled_elsewhere_is_taken_after_inspection() {
        let b = bench();
        let file = b.folder.path().join("elsewhere.ts");
        let options = BuildOptions { engine: Some(file.clone()), ..b.options() };
        let run = || prepare_on(&b.model, &b.gpu, &b.runtime, &options, || panic!("nothing is compiled"));
        assert!(matches!(run(), Err(TensorRtError::Archive(ArchiveError::Io { .. }))));
        fs::write(&file, "no archive").expect("temporary");
        let error = run().expect_err("no archive").to_string();
        assert!(error.contains("elsewhere.ts"), "{error}");
        let mut other = mine();
        other[2] = "0%9%0%0%H100".into();
        fs::write(&file, archive(&[other])).expect("temporary");
        let error = run().expect_err("another GPU").to_string();
        assert!(error.contains("elsewhere.ts: expected an engine for compute capability 8.7 (Orin)"), "{error}");
        assert_eq!(b.left_over(), Vec::<String>::new());
        fs::write(&file, archive(&[mine()])).expect("temporary");
        let taken = run().expect("it fits");
        // From now on it is the model's engine.
        let cached = prepare_on(&b.model, &b.gpu, &b.runtime, &b.options(), || panic!("nothing is compiled"));
        assert_eq!(cached.expect("cached"), taken);
    }
}

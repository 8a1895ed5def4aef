//! `semantic_depth doctor`: what is here, and whether the model runs on it; what a question to us should come with.

use crate::causes::in_line;
use crate::data::classes::UNLABELLED;
use crate::data::frame::Decoded;
use crate::data::street::{Drive, DriveConfig};
use crate::eval::answer::Answerer;
use crate::export::golden::Deviation;
use crate::export::trace::LIBTORCH_VERSION;
use crate::export::{self, Manifest};
use crate::frame::geometry::Placement;
use crate::frame::network::{self, device_name, usual, Backend, Compile, Precision};
use crate::frame::pipeline::{LoadOptions, Outputs, Pipeline};
use crate::model::Task;
use crate::system::{self, after};
use crate::tensorrt::archive::DeviceKind;
use crate::tensorrt::cache::{Cache, Entry};
use crate::tensorrt::check::{check_without_device, PLATFORM, TORCH_TENSORRT_ABI};
use crate::tensorrt::cuda::{self, Driver, Gpu};
use crate::tensorrt::libraries::{self, Library, Place, Surroundings, ORDER};
use crate::tensorrt::version::TensorRtVersion;
use crate::tensorrt::{self, Archive, Here, Mismatch};
use anyhow::{ensure, Context as _};
use serde::{Deserialize, Serialize, Serializer};
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

/// Arguments of `semantic_depth doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model to be described and run: its folder, its model.yaml, or the name of an installed one.
    #[arg(long)]
    model: Option<PathBuf>,
    /// A TorchScript file with TensorRT engines, to be inspected (nothing of it is loaded) and compared with this machine; with
    /// --model also with the model's inputs and outputs.
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// For programs, in place of text.
    #[arg(long)]
    json: bool,
    /// Only load TensorRT's libraries and print what came of it. The doctor starts itself so, because a library that does
    /// not fit may end the process.
    #[arg(long, hide = true, conflicts_with_all = ["model", "engine", "json", "check"])]
    load_runtime: bool,
    /// Only run the model one way, and print what came of it as JSON. The doctor starts itself so for TensorRT.
    #[arg(long, hide = true, num_args = 3, value_names = ["DEVICE", "BACKEND", "PRECISION"], requires = "model")]
    check: Option<Vec<String>>,
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    date: String,
    system: System,
    environment: Vec<(&'static str, String)>,
    cuda: Answer<Driver>,
    libtorch: Libtorch,
    tensorrt: TensorRt,
    cache: EngineCache,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Model>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EngineFile>,
}

/// Something, or why it could not be had.
#[derive(Debug)]
struct Answer<T>(Result<T, String>);

impl<T: Serialize> Serialize for Answer<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(value) => value.serialize(serializer),
            Err(error) => serializer.collect_map([("error", error)]),
        }
    }
}

fn answer<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> Answer<T> {
    Answer(result.map_err(|e| in_line(&e.into())))
}

#[derive(Debug, Serialize)]
struct System {
    os: String,
    kernel: String,
    architecture: &'static str,
    /// The board, where the kernel knows it: Jetsons.
    board: Option<String>,
    /// Version of a Jetson's system.
    jetson: Option<String>,
    cpu: String,
    cores: usize,
    cpu_features: Vec<String>,
    memory_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Libtorch {
    /// The version that this program was written for.
    expected: &'static str,
    folder: Option<PathBuf>,
    version: Option<String>,
    cuda_half: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct TensorRt {
    expected: &'static str,
    libraries: Vec<Part>,
    looked_in: Vec<Place>,
    /// Whether it loads; asked only where there is a CUDA device.
    runtime: Answer<String>,
}

/// A library or program: found, or how to get it.
#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    path: Option<PathBuf>,
    rule: Option<&'static str>,
    version: Option<String>,
    /// Why the version is not known, or how to install what is missing.
    remark: Option<String>,
}

#[derive(Debug, Serialize)]
struct EngineCache {
    folder: Answer<PathBuf>,
    entries: Vec<(PathBuf, Answer<Entry>)>,
}

#[derive(Debug, Serialize)]
struct Model {
    path: PathBuf,
    manifest: Answer<Manifest>,
    /// What its TorchScript file holds.
    archive: Option<Answer<Archive>>,
    /// On each device that is here, the best first.
    checks: Vec<Checked>,
}

/// A file with TensorRT engines.
#[derive(Debug, Serialize)]
struct EngineFile {
    #[serde(flatten)]
    archive: Answer<Archive>,
    /// For each CUDA device; where there is none, or no TensorRT, one of what needs neither. None of what cannot be read.
    verdicts: Vec<Verdict>,
}

/// Whether a file with engines would be loaded here.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verdict {
    /// `cuda:N`.
    device: Option<String>,
    /// Why it would be refused.
    refused: Option<String>,
    /// What was not compared, and why.
    not_compared: Option<String>,
}

/// One of the ways in which a model can be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Way {
    device: String,
    backend: &'static str,
    precision: &'static str,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(flatten)]
    way: Way,
    /// Whether the node takes it on this device where it is not told what to take.
    is_auto: bool,
    check: Answer<Check>,
}

/// What running the model came to.
#[derive(Debug, Serialize, Deserialize)]
struct Check {
    /// How far the answer to the model's golden input is from the one at export.
    golden: Option<Deviation>,
    /// Width and height.
    network_size: (usize, usize),
    /// Of a model that answers classes.
    classes_seen: Option<usize>,
    /// This and the next two of a model that answers depth.
    depth_min_m: Option<f32>,
    depth_median_m: Option<f32>,
    depth_max_m: Option<f32>,
    /// The quickest of three, from the picture to labels and metres: a hint, no measurement.
    answer_ms: f64,
}

impl Report {
    fn of(args: &Args) -> Self {
        let surroundings = Surroundings::here();
        let cuda = cuda::driver();
        let gpus = cuda.as_ref().map_or(&[] as &[Gpu], |driver| driver.gpus.as_slice());
        let model = args.model.as_deref().map(|path| Model::of(path, gpus.len()));
        let outputs = model.as_ref().and_then(|m| m.manifest.0.as_ref().ok()).map(tensorrt::outputs);
        let engine = args.engine.as_deref().map(|path| EngineFile::of(path, gpus, &surroundings, outputs));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            date: jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string(),
            system: System::here(),
            environment: environment(),
            libtorch: Libtorch::of(&surroundings),
            tensorrt: TensorRt::of(&surroundings, &cuda),
            cuda: answer(cuda),
            cache: EngineCache::here(),
            model,
            engine,
        }
    }

    /// A model was asked about, and runs on nothing; or a file with engines, and it cannot be read or no device would load it.
    fn failed(&self) -> bool {
        let model_fails = self.model.as_ref().is_some_and(|m| m.checks.iter().all(|c| c.check.0.is_err()));
        model_fails || self.engine.as_ref().is_some_and(|e| e.verdicts.iter().all(|v| v.refused.is_some()))
    }
}

/// Variables that change what is found.
fn environment() -> Vec<(&'static str, String)> {
    const NAMES: [&str; 11] = [
        libraries::FOLDERS,
        tensorrt::cache::FOLDER,
        "XDG_CACHE_HOME",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "CUDA_VISIBLE_DEVICES",
        network::ZERO_COPY,
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "GOMP_SPINCOUNT",
        "ROS_DISTRO",
    ];
    NAMES.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect()
}

/// `L4T 36.4.3 (JetPack 6)` of a Jetson's /etc/nv_tegra_release; its first line where that is of another form.
fn jetson(release: &str) -> Option<String> {
    // # R36 (release), REVISION: 4.3, GCID: ..., BOARD: generic, EABI: aarch64, DATE: ...
    let line = release.lines().next()?;
    let major = line.strip_prefix("# R").and_then(|rest| rest.split_whitespace().next());
    let minor = line.split(',').find_map(|part| part.trim().strip_prefix("REVISION:")).map(str::trim);
    let (Some(major), Some(minor)) = (major, minor) else { return Some(line.into()) };
    let jetpack = match major {
        "32" => " (JetPack 4)",
        "34" | "35" => " (JetPack 5)",
        "36" => " (JetPack 6)",
        "38" => " (JetPack 7)",
        _ => "",
    };
    Some(format!("L4T {major}.{minor}{jetpack}"))
}

impl System {
    fn here() -> Self {
        // Those that decide which kernels run: of x86-64, and of 64-bit Arm.
        const FEATURES: [&str; 20] = [
            "sse4_2",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "avx_vnni",
            "avx512f",
            "avx512bw",
            "avx512_vnni",
            "avx512_bf16",
            "avx512_fp16",
            "amx_tile",
            "amx_bf16",
            "amx_int8",
            "asimd",
            "asimdhp",
            "asimddp",
            "bf16",
            "i8mm",
            "sve",
        ];
        let whole = |path| std::fs::read_to_string(path).unwrap_or_default();
        let (cpu, release, memory) = (whole("/proc/cpuinfo"), whole("/etc/os-release"), whole("/proc/meminfo"));
        let flags = after(&cpu, "flags", ':').or_else(|| after(&cpu, "Features", ':')).unwrap_or_default();
        let has = |feature: &&str| flags.split_whitespace().any(|flag| flag == *feature);
        let memory_kib = after(&memory, "MemTotal", ':').and_then(|m| m.strip_suffix("kB")?.trim().parse::<u64>().ok());
        Self {
            os: after(&release, "PRETTY_NAME", '=').unwrap_or("unknown").into(),
            kernel: system::kernel(),
            architecture: std::env::consts::ARCH,
            board: system::text(Path::new("/proc/device-tree/model")),
            jetson: system::text(Path::new("/etc/nv_tegra_release")).as_deref().and_then(jetson),
            cpu: system::cpu_name(),
            cores: system::cores(),
            cpu_features: FEATURES.iter().filter(|f| has(f)).map(|f| f.to_string()).collect(),
            memory_bytes: memory_kib.map(|kib| kib << 10),
        }
    }
}

impl Libtorch {
    fn of(surroundings: &Surroundings) -> Self {
        // A call into it: the linker leaves out what nothing calls.
        log::debug!("libtorch: CUDA is {}", tch::Cuda::is_available());
        let folder = surroundings.libtorch.clone();
        Self {
            expected: LIBTORCH_VERSION,
            version: folder.as_deref().and_then(libraries::libtorch_version),
            cuda_half: surroundings.find(Library::TorchCuda).map(|found| found.path),
            folder,
        }
    }
}

impl TensorRt {
    fn of(surroundings: &Surroundings, cuda: &Result<Driver, cuda::NoDriver>) -> Self {
        let all = ORDER.into_iter().chain([
            Library::TorchTrtc,
            Library::NvInferBuilder,
            Library::NvInferLean,
            Library::Nvrtc,
        ]);
        let runtime = match cuda {
            Err(error) => Err(format!("not loaded: {error}")),
            Ok(driver) if driver.gpus.is_empty() => Err("not loaded: the CUDA driver sees no device".into()),
            Ok(_) => doctor_in_a_process_of_its_own(["--load-runtime"]),
        };
        Self {
            expected: tensorrt::check::TORCH_TENSORRT,
            libraries: all.map(|library| Part::of(surroundings, library)).collect(),
            looked_in: surroundings.places(),
            runtime: Answer(runtime),
        }
    }
}

/// What `doctor` with these arguments printed, or how it ended.
fn doctor_in_a_process_of_its_own(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = std::process::Command::new(program).arg("doctor").args(arguments).output();
    let output = output.map_err(|e| e.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    match output.status.success() {
        true => Ok(said(&output.stdout)),
        false => Err(format!("{}: {}", output.status, said(&output.stderr))),
    }
}

impl Part {
    fn of(surroundings: &Surroundings, library: Library) -> Self {
        let found = surroundings.find(library);
        let unsaid = || "version unknown: neither the file's name nor a wheel that lists it tells it".to_string();
        let version = found.as_ref().map(|f| {
            let own = match library {
                Library::NvInfer | Library::NvInferLean => {
                    return libraries::version_of(&f.path).map(|version| version.to_string());
                }
                Library::TorchTrtRuntime | Library::TorchTrtc => libraries::torch_tensorrt_version(&f.path),
                Library::TorchCuda => f.path.parent().and_then(libraries::libtorch_version),
                _ => None,
            };
            own.or_else(|| libraries::version_of_file(&f.path)).ok_or_else(unsaid)
        });
        let (version, unknown) = match version {
            Some(Ok(version)) => (Some(version), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let missing = found.is_none().then(|| format!("missing: {}", library.how_to_install()));
        Self {
            name: library.file_names()[0],
            rule: found.as_ref().map(|f| f.rule),
            path: found.map(|f| f.path),
            version,
            remark: missing.or(unknown),
        }
    }
}

impl EngineFile {
    /// `outputs`: tensors of the answer of the model that it is to be an engine of, where that is known.
    fn of(path: &Path, gpus: &[Gpu], surroundings: &Surroundings, outputs: Option<usize>) -> Self {
        let archive = answer(tensorrt::inspect(path));
        let library = surroundings.find(Library::NvInfer).ok_or_else(|| "there is no libnvinfer.so.10".to_string());
        let version = || library.and_then(|found| libraries::version_of(&found.path));
        let tensorrt = if gpus.is_empty() { Err("there is no CUDA device".into()) } else { version() };
        let verdicts =
            archive.0.as_ref().map(|archive| verdicts(archive, gpus, &tensorrt, outputs)).unwrap_or_default();
        Self { archive, verdicts }
    }
}

/// What [`tensorrt::prepare`] would say to the file, on each device. `tensorrt`: the version of its library, or why there is none
/// to compare with.
fn verdicts(
    archive: &Archive,
    gpus: &[Gpu],
    tensorrt: &Result<TensorRtVersion, String>,
    outputs: Option<usize>,
) -> Vec<Verdict> {
    let refused = |checked: Result<(), Mismatch>| checked.err().map(|mismatch| mismatch.to_string());
    let version = match tensorrt {
        Ok(version) => *version,
        Err(why) => {
            let refused = refused(check_without_device(archive, TORCH_TENSORRT_ABI, PLATFORM));
            let not_compared = Some(format!("compute capability, TensorRT's version, inputs and outputs: {why}"));
            return vec![Verdict { device: None, refused, not_compared }];
        }
    };
    let own = archive.engines.first().map_or((0, 0), |engine| (engine.inputs.len(), engine.outputs.len()));
    let on = |gpu: &Gpu| Verdict {
        device: Some(format!("cuda:{}", gpu.index)),
        refused: refused(tensorrt::check(
            archive,
            &Here {
                abi: TORCH_TENSORRT_ABI,
                tensorrt: version,
                compute_capability: gpu.compute_capability,
                gpu: gpu.name.clone(),
                platform: PLATFORM.into(),
                bindings: outputs.map_or(own, |outputs| (1, outputs)),
            },
        )),
        not_compared: outputs.is_none().then(|| "inputs and outputs: name the model with --model".into()),
    };
    gpus.iter().map(on).collect()
}

impl EngineCache {
    fn here() -> Self {
        let folder = Cache::default_folder();
        // Looking must not make it.
        let cache = folder.as_ref().ok().filter(|f| f.is_dir()).and_then(|f| Cache::open(f.clone()).ok());
        let entries = cache.map(|cache| cache.entries()).unwrap_or_default();
        Self {
            folder: answer(folder),
            entries: entries.into_iter().map(|(path, entry)| (path, Answer(entry))).collect(),
        }
    }
}

impl Model {
    fn of(path: &Path, devices: usize) -> Self {
        let artifact = export::load(path);
        let archive = artifact.as_ref().ok().map(|a| answer(tensorrt::inspect(&a.torchscript_path())));
        let gpus = (0..devices).map(tch::Device::Cuda);
        let checks = std::iter::once(tch::Device::Cpu).chain(gpus).flat_map(|device| checks(path, device));
        Self { path: path.into(), checks: checks.collect(), manifest: answer(artifact.map(|a| a.manifest)), archive }
    }
}

/// The usual ways on a device, the best first, tried.
fn checks(path: &Path, device: tch::Device) -> Vec<Checked> {
    let mut is_first = true;
    let tried = |(backend, precision): (Backend, Precision)| {
        let way = Way { device: device_name(device), backend: backend.name(), precision: precision.name() };
        let names = [&*way.device, way.backend, way.precision];
        let check = match backend {
            Backend::TensorRt => Answer(run_apart(path, names)),
            _ => answer(run_one_way(path, names)),
        };
        let is_auto = check.0.is_ok() && std::mem::take(&mut is_first);
        Checked { way, is_auto, check }
    };
    usual(device).into_iter().map(tried).collect()
}

/// Loads and runs the model one way, of a device's, a back end's and a precision's name.
fn run_one_way(model: &Path, [device, backend, precision]: [&str; 3]) -> anyhow::Result<Check> {
    let (device, backend, precision) = (device.parse()?, backend.parse()?, precision.parse()?);
    // Minutes of compiling are not what a doctor is asked for.
    let options = LoadOptions { device, backend, precision, compile: Compile::Never, ..LoadOptions::default() };
    Check::run(model, &options)
}

/// The same in a process of its own: an engine that does not fit may end it.
fn run_apart(model: &Path, way: [&str; 3]) -> Result<Check, String> {
    let way = std::iter::once("--check").chain(way).map(OsStr::new);
    let arguments = [OsStr::new("--model"), model.as_os_str()].into_iter().chain(way);
    let json = doctor_in_a_process_of_its_own(arguments)?;
    serde_json::from_str(&json).map_err(|e| format!("{e}: {json}"))
}

impl Check {
    /// Loads the model and answers a rendered street four times: the answers have to be of the right size, finite, within the
    /// model's own range, and the same.
    fn run(path: &Path, options: &LoadOptions) -> anyhow::Result<Self> {
        let pipeline = Pipeline::load(path, options)?;
        let (width, height) = pipeline.network_size();
        let picture = Drive::new(&DriveConfig::new(1, 1, width, height)).frame(0, false);
        let frame = Decoded {
            width,
            height,
            rgb: picture.left.into_raw(),
            labels: None,
            depth_m: None,
            focal_px: None,
            principal_px: None,
        };
        let mut answerer = Answerer {
            pipeline,
            depth_scaling: None,
            placement: Placement::default(),
            of_categories: false,
            outputs: Outputs::default(),
        };
        answerer.run(&frame)?;
        let first = answerer.outputs.clone();
        let mut answer_ms = f64::INFINITY;
        for _ in 0..3 {
            let start = std::time::Instant::now();
            answerer.run(&frame)?;
            answer_ms = answer_ms.min(start.elapsed().as_secs_f64() * 1e3);
        }
        let Outputs { labels, depth_m, .. } = &answerer.outputs;

        let manifest = answerer.pipeline.manifest();
        let pixels = width * height;
        ensure!(
            labels.len() == pixels && depth_m.len() == pixels,
            "expected {pixels} labels and depths, found {} and {}",
            labels.len(),
            depth_m.len()
        );
        // No depth is an answer, too, as is no class: the node publishes both.
        if let Some(depth) = &manifest.output.depth {
            let range = depth.min_m..=depth.max_m;
            let outside = depth_m.iter().find(|d| !d.is_nan() && !range.contains(*d));
            ensure!(
                outside.is_none(),
                "expected depths from {} to {} m, found {:?}",
                depth.min_m,
                depth.max_m,
                outside
            );
        }
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        ensure!(
            *labels == first.labels && same(depth_m, &first.depth_m),
            "expected the same answer to the same picture, found two that differ"
        );
        let ids: Vec<u8> = manifest.classes.iter().map(|c| c.id).collect();
        let unknown = labels.iter().find(|l| **l != UNLABELLED && !ids.contains(l));
        ensure!(unknown.is_none(), "expected labels of the manifest's classes, found {unknown:?}");
        let mut sorted: Vec<f32> = depth_m.iter().copied().filter(|d| !d.is_nan()).collect();
        sorted.sort_by(f32::total_cmp);
        let classes_seen =
            manifest.answers(Task::Segmentation).then(|| ids.iter().filter(|id| labels.contains(id)).count());
        ensure!(classes_seen != Some(0), "expected a class somewhere, found none");
        ensure!(!manifest.answers(Task::Depth) || !sorted.is_empty(), "expected a depth somewhere, found none");
        Ok(Self {
            golden: answerer.pipeline.golden_deviation(),
            network_size: (width, height),
            classes_seen,
            depth_min_m: sorted.first().copied(),
            depth_median_m: sorted.get(sorted.len() / 2).copied(),
            depth_max_m: sorted.last().copied(),
            answer_ms,
        })
    }
}

/// `-` where nothing is known.
fn or_dash<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".into(), T::to_string)
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "semantic_depth {}, {}", self.version, self.date)?;
        let s = &self.system;
        writeln!(f, "\nsystem\n  {}, kernel {}, {}", s.os, s.kernel, s.architecture)?;
        if let Some(board) = &s.board {
            writeln!(f, "  board: {board}")?;
        }
        if let Some(jetson) = &s.jetson {
            writeln!(f, "  {jetson}")?;
        }
        writeln!(f, "  processor: {}, {} cores: {}", s.cpu, s.cores, s.cpu_features.join(" "))?;
        writeln!(f, "  memory: {}", or_dash(s.memory_bytes.map(gib).as_ref()))?;
        for (name, value) in &self.environment {
            writeln!(f, "  {name}={value}")?;
        }
        writeln!(f, "\nCUDA")?;
        match &self.cuda.0 {
            Err(error) => writeln!(f, "  none: {error}")?,
            Ok(driver) => {
                writeln!(f, "  driver {}, serves CUDA up to {}", or_dash(driver.version.as_ref()), driver.cuda)?;
                for gpu in &driver.gpus {
                    let (name, memory) = (&gpu.name, gib(gpu.memory_bytes));
                    writeln!(
                        f,
                        "  cuda:{}: {name}, compute capability {}, {memory}",
                        gpu.index, gpu.compute_capability
                    )?;
                }
            }
        }
        let l = &self.libtorch;
        writeln!(f, "\nlibtorch (expected {})", l.expected)?;
        let folder = l.folder.as_ref().map(|p| p.display());
        writeln!(f, "  version {} in {}", or_dash(l.version.as_ref()), or_dash(folder.as_ref()))?;
        let cuda_half = l.cuda_half.as_ref().map(|p| p.display());
        writeln!(f, "  CUDA half: {}", or_dash(cuda_half.as_ref()))?;
        writeln!(f, "\nTensorRT (expected Torch-TensorRT {})", self.tensorrt.expected)?;
        for part in &self.tensorrt.libraries {
            let path = part.path.as_ref().map(|p| p.display());
            write!(f, "  {}: {}", part.name, or_dash(path.as_ref()))?;
            let parts = [part.version.as_deref(), part.rule, part.remark.as_deref()];
            writeln!(f, " ({})", parts.into_iter().flatten().collect::<Vec<_>>().join("; "))?;
        }
        let folders: Vec<_> = self.tensorrt.looked_in.iter().map(|p| p.folder.display().to_string()).collect();
        writeln!(f, "  looked in {}", folders.join(", "))?;
        match &self.tensorrt.runtime.0 {
            Ok(said) => writeln!(f, "  loads: {said}")?,
            Err(error) => writeln!(f, "  {error}")?,
        }
        writeln!(f, "\ncompiled engines")?;
        match &self.cache.folder.0 {
            Ok(folder) => writeln!(f, "  {} in {}", self.cache.entries.len(), folder.display())?,
            Err(error) => writeln!(f, "  {error}")?,
        }
        for (path, entry) in &self.cache.entries {
            match &entry.0 {
                Ok(e) => writeln!(
                    f,
                    "  {}: {} ({}), TensorRT {}, Torch-TensorRT {}, {}, {:?}, batch {:?}, model {}, {} by {}",
                    path.display(),
                    e.key.gpu,
                    e.key.compute_capability,
                    e.key.tensorrt,
                    e.key.torch_tensorrt,
                    e.key.precision,
                    e.key.shape,
                    e.key.batch,
                    e.key.model_sha256.get(..12).unwrap_or_default(),
                    e.created,
                    e.origin
                )?,
                Err(error) => writeln!(f, "  {error}")?,
            }
        }
        if let Some(model) = &self.model {
            f.write_str(&describe_model(model)?)?;
        }
        if let Some(engine) = &self.engine {
            writeln!(f, "\nengine")?;
            f.write_str(&describe_archive(&engine.archive)?)?;
            for Verdict { device, refused, not_compared } in &engine.verdicts {
                write!(f, "  {}: ", device.as_deref().unwrap_or("here"))?;
                match refused {
                    Some(why) => write!(f, "refused: {why}")?,
                    None => write!(f, "nothing that would be refused")?,
                }
                match not_compared {
                    Some(what) => writeln!(f, "; not compared: {what}")?,
                    None => writeln!(f)?,
                }
            }
        }
        Ok(())
    }
}

fn describe_model(model: &Model) -> Result<String, fmt::Error> {
    let mut f = format!("\nmodel {}\n", model.path.display());
    match &model.manifest.0 {
        Err(error) => writeln!(f, "  {error}")?,
        Ok(m) => {
            let depth = if m.answers(Task::Depth) { "depth" } else { "no depth" };
            let (name, w, h, classes) = (&m.name, m.input.width, m.input.height, m.classes.len());
            writeln!(f, "  {name}: input {w}x{h}, {classes} classes, {depth}")?;
            let p = &m.provenance;
            writeln!(f, "  made {} by version {} for libtorch {}", p.created, p.package_version, p.libtorch)?;
            for (name, sha256) in &m.files {
                writeln!(f, "  {name}: sha256 {sha256}")?;
            }
        }
    }
    if let Some(archive) = &model.archive {
        f.push_str(&describe_archive(archive)?);
    }
    for Checked { way: Way { device, backend, precision }, is_auto, check } in &model.checks {
        write!(f, "  {device}, {backend}, {precision}")?;
        match &check.0 {
            Ok(c) => {
                let auto = if *is_auto { " (what the node takes by default there)" } else { "" };
                let golden = c.golden.map_or_else(|| "the model has none".into(), |d| d.to_string());
                let (width, height) = c.network_size;
                writeln!(f, " runs{auto}")?;
                writeln!(f, "    golden input: {golden}")?;
                write!(f, "    a street of {width}x{height}: equal, finite answers")?;
                if let Some(classes) = c.classes_seen {
                    write!(f, ", {classes} classes")?;
                }
                if let (Some(min), Some(median), Some(max)) = (c.depth_min_m, c.depth_median_m, c.depth_max_m) {
                    write!(f, ", depth {min:.1} to {max:.1} m, median {median:.1} m")?;
                }
                writeln!(f, "; about {:.1} ms", c.answer_ms)?;
            }
            Err(error) => writeln!(f, " does not run: {error}")?,
        }
    }
    Ok(f)
}

fn describe_archive(archive: &Answer<Archive>) -> Result<String, fmt::Error> {
    let mut f = String::new();
    let archive = match &archive.0 {
        Ok(archive) => archive,
        Err(error) => {
            writeln!(f, "  {error}")?;
            return Ok(f);
        }
    };
    if archive.is_plain() {
        writeln!(f, "  {}: plain TorchScript, no TensorRT engine", archive.path.display())?;
    }
    for engine in &archive.engines {
        let (device, platform) = (&engine.device, or_dash(engine.platform.as_ref()));
        writeln!(
            f,
            "  {}: engine {} in {}: ABI {}, TensorRT {}, {} ({}{}), {platform}, plan of {} bytes, {:?} -> {:?}",
            archive.path.display(),
            engine.name,
            engine.record,
            engine.abi,
            engine.tensorrt,
            device.name,
            device.compute_capability,
            if engine.hardware_compatible { ", hardware compatible" } else { "" },
            engine.plan_bytes,
            engine.inputs,
            engine.outputs
        )?;
        let kind = match device.kind {
            DeviceKind::Gpu => "GPU",
            DeviceKind::Dla => "DLA core",
        };
        let known = |flag: Option<bool>| match flag {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        writeln!(
            f,
            "    built on {kind} {}; metadata of {} bytes; output allocator: {}; dynamic allocation: {}",
            device.id,
            engine.metadata_bytes,
            known(engine.needs_output_allocator),
            known(engine.allocates_dynamically)
        )?;
    }
    Ok(f)
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    if args.load_runtime {
        let runtime = tensorrt::load_runtime()?;
        println!("TensorRT {}, Torch-TensorRT {} (ABI {})", runtime.tensorrt, runtime.torch_tensorrt, runtime.abi);
        return Ok(());
    }
    if let (Some([device, backend, precision]), Some(model)) = (args.check.as_deref(), &args.model) {
        let check = run_one_way(model, [device, backend, precision])?;
        println!("{}", serde_json::to_string(&check).context("print the check as JSON")?);
        return Ok(());
    }
    let report = Report::of(&args);
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("print the report as JSON")? + "\n"
    } else {
        report.to_string()
    };
    super::print(text).context("the report cannot be printed")?;
    ensure!(
        !report.failed(),
        "the model runs on nothing here, or the engine's file cannot be read or would be refused (see the report above)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing_asked() -> Args {
        Args { model: None, engine: None, json: true, load_runtime: false, check: None }
    }

    #[test]
    fn this_machine_is_described() {
        let report = Report::of(&nothing_asked());
        assert!(!report.failed());
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!(json["libtorch"]["expected"], LIBTORCH_VERSION);
        assert!(json["libtorch"]["folder"].is_string(), "{json}");
        assert_eq!(json["tensorrt"]["libraries"].as_array().map(Vec::len), Some(ORDER.len() + 4));
        // What is found has a version or a reason why it is not known; what is not, the way to get it.
        for part in &report.tensorrt.libraries {
            assert_eq!(part.version.is_none(), part.remark.is_some(), "{part:?}");
            assert!(
                part.path.is_some() || part.remark.as_ref().is_some_and(|r| r.starts_with("missing: ")),
                "{part:?}"
            );
        }
        assert!(json["system"]["memory_bytes"].as_u64().is_some_and(|b| b > 1 << 28), "{json}");
        let text = report.to_string();
        for heading in ["system", "CUDA", "libtorch", "TensorRT", "compiled engines"] {
            assert!(text.contains(&format!("\n{heading}")), "{text}");
        }
    }

    #[test]
    fn a_jetsons_release_is_read() {
        let line = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8";
        assert_eq!(jetson(&format!("{line}\n# more")).as_deref(), Some("L4T 36.4.3 (JetPack 6)"));
        assert_eq!(jetson("# R99 (release), REVISION: 0").as_deref(), Some("L4T 99.0"));
        assert_eq!(jetson("another form").as_deref(), Some("another form"));
    }

    #[test]
    fn an_engine_gets_a_verdict_for_each_device() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tensorrt/one_engine.ts");
        let mut archive = tensorrt::inspect(&file).expect("libtorch wrote it");
        archive.engines[0].platform = Some(PLATFORM.into());
        let gpu = |index, name: &str, major, minor| {
            let compute_capability = tensorrt::version::ComputeCapability { major, minor };
            Gpu { index, name: name.into(), compute_capability, memory_bytes: 1 << 30 }
        };
        let gpus = [gpu(0, "NVIDIA H100", 9, 0), gpu(1, "Orin", 8, 7)];
        let version = Ok(TensorRtVersion { major: 10, minor: 15, patch: 1, build: Some(29) });
        let refusal = |verdict: &Verdict| verdict.refused.clone().unwrap_or_default();

        let both = verdicts(&archive, &gpus, &version, Some(1));
        assert!(refusal(&both[0]).contains("expected an engine for compute capability 9.0 (NVIDIA H100)"), "{both:?}");
        assert_eq!(both[1], Verdict { device: Some("cuda:1".into()), refused: None, not_compared: None });
        let engine = EngineFile { archive: Answer(Ok(archive.clone())), verdicts: both };
        let mut report = Report { engine: Some(engine), ..Report::of(&nothing_asked()) };
        assert!(!report.failed(), "one device would load it");
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!(json["engine"]["engines"][0]["abi"], 8, "{json}");
        assert_eq!(json["engine"]["verdicts"][1]["device"], "cuda:1", "{json}");
        let text = report.to_string();
        assert!(
            text.contains("  cuda:0: refused: ") && text.contains("  cuda:1: nothing that would be refused\n"),
            "{text}"
        );

        let two_outputs = verdicts(&archive, &gpus[1..], &version, Some(2));
        assert!(refusal(&two_outputs[0]).contains("2 output"), "{two_outputs:?}");
        report.engine = Some(EngineFile { archive: Answer(Ok(archive.clone())), verdicts: two_outputs });
        assert!(report.failed());
        let unnamed = verdicts(&archive, &gpus[1..], &version, None);
        assert!(unnamed[0].refused.is_none() && unnamed[0].not_compared.is_some(), "{unnamed:?}");
        let older = Ok(TensorRtVersion { major: 10, minor: 14, patch: 1, build: None });
        let older = verdicts(&archive, &gpus[1..], &older, Some(1));
        assert!(refusal(&older[0]).contains("expected a plan of TensorRT 10.14.1"), "{older:?}");

        let nothing = Err("there is no CUDA device".to_string());
        let apart = verdicts(&archive, &[], &nothing, Some(1));
        assert!(apart[0].refused.is_none() && apart[0].device.is_none(), "{apart:?}");
        assert!(
            apart[0].not_compared.as_ref().is_some_and(|what| what.ends_with("there is no CUDA device")),
            "{apart:?}"
        );
        archive.engines[0].device.kind = DeviceKind::Dla;
        assert!(refusal(&verdicts(&archive, &[], &nothing, Some(1))[0]).contains("DLA core"));
        let text = describe_archive(&Answer(Ok(archive))).expect("text");
        let expected = "built on DLA core 0; metadata of 8 bytes; output allocator: no; dynamic allocation: no";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_model_that_is_not_there_fails_and_says_so() {
        let args = Args {
            model: Some("/nonexistent".into()),
            engine: Some("/nonexistent.ts".into()),
            json: false,
            load_runtime: false,
            check: None,
        };
        let report = Report::of(&args);
        assert!(report.failed());
        let text = report.to_string();
        assert!(text.contains("cpu, native, fp32 does not run: ") && text.contains("/nonexistent.ts"), "{text}");
    }
}

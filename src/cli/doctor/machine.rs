//! What is here: the machine, libtorch, TensorRT, compiled engines.

use super::{answer, doctor_in_a_process_of_its_own, Answer, EngineCache, Libtorch, Part, System, TensorRt};
use crate::export::trace::LIBTORCH_VERSION;
use crate::frame::network;
use crate::system::{self, after};
use crate::tensorrt;
use crate::tensorrt::cache::Cache;
use crate::tensorrt::cuda::{self, Driver};
use crate::tensorrt::libraries::{self, Library, Surroundings, ORDER};
use std::path::Path;

/// Variables that change what is found.
pub(super) fn environment() -> Vec<(&'static str, String)> {
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
    pub(super) fn here() -> Self {
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
    pub(super) fn of(surroundings: &Surroundings) -> Self {
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
    pub(super) fn of(surroundings: &Surroundings, cuda: &Result<Driver, cuda::NoDriver>) -> Self {
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

impl EngineCache {
    pub(super) fn here() -> Self {
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

#[cfg(test)]
mod tests {
    use super::jetson;

    #[test]
    fn a_jetsons_release_is_read() {
        let line = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8";
        assert_eq!(jetson(&format!("{line}\n# more")).as_deref(), Some("L4T 36.4.3 (JetPack 6)"));
        assert_eq!(jetson("# R99 (release), REVISION: 0").as_deref(), Some("L4T 99.0"));
        assert_eq!(jetson("another form").as_deref(), Some("another form"));
    }
}

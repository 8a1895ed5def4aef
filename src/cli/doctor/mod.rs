//! `semantic_depth doctor`: what is here, and whether the model runs on it; what a question to us should come with.

mod engine;
mod machine;
mod model;
mod text;

use crate::causes::in_line;
use crate::export::golden::Deviation;
use crate::export::Manifest;
use crate::tensorrt::cache::Entry;
use crate::tensorrt::cuda::{self, Driver, Gpu};
use crate::tensorrt::libraries::{Place, Surroundings};
use crate::tensorrt::{self, Archive};
use anyhow::{ensure, Context as _};
use serde::{Deserialize, Serialize, Serializer};
use std::ffi::OsStr;
use std::path::PathBuf;

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
    /// On each device that is here, the best first; none of a model that cannot be read.
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
            environment: machine::environment(),
            libtorch: Libtorch::of(&surroundings),
            tensorrt: TensorRt::of(&surroundings, &cuda),
            cuda: answer(cuda),
            cache: EngineCache::here(),
            model,
            engine,
        }
    }

    /// What was asked about and fails: a model that cannot be read or runs on nothing, a file with engines that cannot be read or
    /// that no device would load.
    fn failures(&self) -> Vec<&'static str> {
        let model = self.model.as_ref().and_then(|model| match model.manifest.0 {
            Err(_) => Some("the model cannot be read"),
            Ok(_) => model.checks.iter().all(|c| c.check.0.is_err()).then_some("the model runs on nothing here"),
        });
        let engine = self.engine.as_ref().and_then(|engine| match engine.archive.0 {
            Err(_) => Some("the engine's file cannot be read"),
            Ok(_) => {
                engine.verdicts.iter().all(|v| v.refused.is_some()).then_some("the engine's file would be refused")
            }
        });
        model.into_iter().chain(engine).collect()
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

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    // As the node.
    crate::spin::little();
    if args.load_runtime {
        let runtime = tensorrt::load_runtime()?;
        println!("TensorRT {}, Torch-TensorRT {} (ABI {})", runtime.tensorrt, runtime.torch_tensorrt, runtime.abi);
        return Ok(());
    }
    if let (Some([device, backend, precision]), Some(model)) = (args.check.as_deref(), &args.model) {
        let check = model::run_one_way(model, [device, backend, precision])?;
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
    let failures = report.failures();
    ensure!(failures.is_empty(), "{} (see the report above)", failures.join(", and "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::engine::verdicts;
    use super::text::describe_archive;
    use super::*;
    use crate::export::trace::LIBTORCH_VERSION;
    use crate::tensorrt::archive::DeviceKind;
    use crate::tensorrt::check::PLATFORM;
    use crate::tensorrt::libraries::ORDER;
    use crate::tensorrt::version::TensorRtVersion;
    use std::path::Path;

    fn nothing_asked() -> Args {
        Args { model: None, engine: None, json: true, load_runtime: false, check: None }
    }

    #[test]
    fn this_machine_is_described() {
        let report = Report::of(&nothing_asked());
        assert!(report.failures().is_empty());
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
        assert!(report.failures().is_empty(), "one device would load it");
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
        assert_eq!(report.failures(), ["the engine's file would be refused"]);
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
    fn what_is_not_there_fails_and_is_said_once() {
        let args = Args { model: Some("/nonexistent".into()), ..nothing_asked() };
        let report = Report::of(&args);
        assert_eq!(report.failures(), ["the model cannot be read"]);
        let text = report.to_string();
        assert_eq!(text.matches("there is no model").count(), 1, "{text}");
        let report = Report::of(&Args { engine: Some("/nonexistent.ts".into()), ..args });
        assert_eq!(report.failures(), ["the model cannot be read", "the engine's file cannot be read"]);
        assert!(report.to_string().contains("/nonexistent.ts"));
    }
}

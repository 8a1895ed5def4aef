//! `semantic_depth bench`

use super::render::parse_size;
use crate::bench::ceilings;
use crate::bench::energy::{self, Source};
use crate::bench::frames::{self, Cameras};
use crate::bench::measure::Repetitions;
use crate::bench::memory::Machine;
use crate::bench::report::{About, Model, Report};
use crate::bench::versions::{self, CudaVersions};
use crate::bench::{network, BenchError};
use crate::export::trace::WEIGHTS;
use crate::export::{self, Artifact};
use crate::frame::network::{resolve, select, Backend, Network, NetworkError};
use crate::frame::pipeline::Pipeline;
use crate::frame::view::Encoding;
use crate::model::{Cost, Task};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::{Device, Tensor};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Part {
    /// Whole frames, one at a time, and memory.
    Frames,
    /// The network alone.
    Network,
    /// A frame of each of several cameras, in turn and as a batch.
    Together,
    /// Energy of a frame.
    Energy,
    /// The network at other sizes.
    Scaling,
    /// The device's speed of copying and of matrix products, and the network against them.
    Ceilings,
}

const EVERYTHING: [Part; 6] =
    [Part::Frames, Part::Network, Part::Together, Part::Energy, Part::Scaling, Part::Ceilings];

/// What cannot be measured of a model without its weights, such as one that another program made.
const OF_WEIGHTS: [Part; 2] = [Part::Scaling, Part::Ceilings];

/// Width and height: the ratio of the article's data set, from 1/16 to all of its pixels.
const SIZES: [(usize, usize); 5] = [(512, 256), (768, 384), (1024, 512), (1536, 768), (2048, 1024)];

/// How often what is done, where it is not said.
struct Defaults {
    warm_up: usize,
    repetitions: usize,
    frames: usize,
    cameras: usize,
    rounds: usize,
    energy_s: f64,
    sizes: &'static [(usize, usize)],
    size_repetitions: usize,
}

/// The article's protocol; the rest in some three minutes on two cores.
const FULL: Defaults = Defaults {
    warm_up: 10,
    repetitions: 300,
    frames: 300,
    cameras: 8,
    rounds: 5,
    energy_s: 5.0,
    sizes: &SIZES,
    size_repetitions: 10,
};

/// Whether it works, not how fast.
const QUICK: Defaults = Defaults {
    warm_up: 1,
    repetitions: 5,
    frames: 12,
    cameras: 2,
    rounds: 2,
    energy_s: 0.1,
    sizes: &[(128, 64), (256, 128)],
    size_repetitions: 2,
};

/// Arguments of `semantic_depth bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: its folder, its model.yaml, or the name of an installed one.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    runner: super::Runner,
    /// Threads of libtorch within an operation, and of decoding and post-processing; by default one a core.
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// What to measure, separated by commas; by default everything (of a model without
    /// weights.safetensors all but scaling and ceilings, which need it).
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Few repetitions: whether it works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Runs of the network before it is measured, and frames before they are [default: 10].
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    warm_up: Option<usize>,
    /// Measured runs of the network [default: 300].
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = parse_count)]
    repetitions: Option<usize>,
    /// Measured frames, one at a time [default: 300].
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = parse_count)]
    frames: Option<usize>,
    /// Width and height of the frames.
    #[arg(long, default_value = "2048x1024", value_parser = parse_size)]
    frame_size: (usize, usize),
    /// Encoding of the frames, as ROS names it: rgb8, bayer_rggb8, uyvy, nv12 and so on.
    #[arg(long, value_name = "NAME", default_value = "rgb8", value_parser = parse_encoding)]
    encoding: Encoding,
    /// Together: from one to this many cameras, 1 to 32 [default: 8].
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = parse_cameras)]
    cameras: Option<usize>,
    /// Together: how often each number of cameras [default: 5].
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = parse_count)]
    rounds: Option<usize>,
    /// Energy: seconds at rest, and then with frames [default: 5].
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = parse_seconds)]
    energy_seconds: Option<f64>,
    /// Scaling: sizes of the network, WIDTHxHEIGHT separated by commas [default: five from 512x256 to 2048x1024].
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = parse_size)]
    sizes: Vec<(usize, usize)>,
    /// Scaling: measured runs at each size [default: 10].
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = parse_count)]
    size_repetitions: Option<usize>,
    /// Write all figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of the network's size with the labels and the depth (metres) that the model gives it, as
    /// safetensors: what others' answers are compared with.
    #[arg(long, value_name = "FILE")]
    save_answer: Option<PathBuf>,
}

fn parse_in(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let in_range = |n: &usize| (least..=most).contains(n);
    text.parse().ok().filter(in_range).ok_or_else(|| format!("expected {least} to {most}, found '{text}'"))
}

fn parse_count(text: &str) -> Result<usize, String> {
    parse_in(text, 1, 1_000_000)
}

fn parse_cameras(text: &str) -> Result<usize, String> {
    parse_in(text, 1, crate::frame::pipeline::MOST_BATCH)
}

fn parse_encoding(text: &str) -> Result<Encoding, String> {
    Encoding::parse(text).ok_or_else(|| format!("expected one of {}, found '{text}'", Encoding::names()))
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let usable = |s: &f64| (0.05..=3600.0).contains(s);
    text.parse().ok().filter(usable).ok_or_else(|| format!("expected 0.05 to 3600 seconds, found '{text}'"))
}

impl Args {
    /// How every model of this run is loaded.
    /// The network alone.
    fn load_network(&self, artifact: &Artifact) -> Result<Network, NetworkError> {
        select(artifact, &self.runner.load_options(1).selection()?)
    }

    fn defaults(&self) -> Defaults {
        if self.quick {
            QUICK
        } else {
            FULL
        }
    }

    /// What is measured: what was named, else all that this model allows.
    fn parts(&self, artifact: &Artifact) -> Result<BTreeSet<Part>, BenchError> {
        let chosen = if self.parts.is_empty() { &EVERYTHING[..] } else { &self.parts };
        let mut chosen: BTreeSet<_> = chosen.iter().copied().collect();
        if let Err(why) = network::check_weights(artifact) {
            // Said now, and not after minutes of measuring.
            if self.parts.iter().any(|part| OF_WEIGHTS.contains(part)) {
                return Err(why);
            }
            if self.parts.is_empty() {
                log::info!("scaling and ceilings are left out: {} has no {WEIGHTS}", artifact.dir.display());
            }
            chosen.retain(|part| !OF_WEIGHTS.contains(part));
        }
        Ok(chosen)
    }

    /// What would fail only after the whole work otherwise.
    fn check_outputs(&self) -> anyhow::Result<()> {
        super::check_file("--json", self.json.as_deref())?;
        super::check_file("--save-answer", self.save_answer.as_deref())
    }

    fn set_threads(&self) -> anyhow::Result<()> {
        let Some(threads) = self.threads else { return Ok(()) };
        tch::set_num_threads(threads.into());
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.into())
            .build_global()
            .context("--threads: the thread pool cannot be made")
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    // As the node.
    crate::spin::little();
    args.check_outputs()?;
    args.set_threads()?;
    // The manifest that was found, for the report: a name may mean another model on another day.
    let manifest = export::find(&args.model)?;
    let artifact = export::load(&manifest)?;
    let (parts, defaults) = (args.parts(&artifact)?, args.defaults());
    let device = resolve(args.runner.device)?;
    let machine = Machine::here(device);
    let warm_up = args.warm_up.unwrap_or(defaults.warm_up);
    let repetitions = Repetitions { warm_up, measured: args.repetitions.unwrap_or(defaults.repetitions) };
    let network_size = (artifact.manifest.input.width, artifact.manifest.input.height);

    // Whole frames come first: memory is to be seen before anything else has used some.
    let count = if parts.contains(&Part::Together) { args.cameras.unwrap_or(defaults.cameras) } else { 1 };
    let of_frames = [Part::Frames, Part::Energy, Part::Together].iter().any(|part| parts.contains(part));
    // Drawing a large picture takes seconds that nobody needs for the network alone.
    let frame_size = if of_frames { args.frame_size } else { network_size };
    let mut cameras = Cameras::new(count, frame_size, network_size, args.encoding)?;
    let load = || Pipeline::from_artifact(artifact.clone(), &args.runner.load_options(1));
    let mut frames = None;
    let mut pipeline = if parts.contains(&Part::Frames) {
        say("whole frames");
        let number = args.frames.unwrap_or(defaults.frames);
        let (measured, pipeline) = frames::alone(&mut cameras, device, warm_up, number, load)?;
        frames = measured;
        pipeline
    } else {
        load()?
    };
    let about = About {
        date: jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string(),
        command: super::command_line(),
        package_version: env!("CARGO_PKG_VERSION"),
        libtorch: versions::libtorch(),
        cuda: matches!(device, Device::Cuda(_))
            .then(|| CudaVersions::here(pipeline.backend() == Backend::TensorRt.name())),
        machine,
        device: pipeline.device_name(),
        backend: pipeline.backend(),
        precision: pipeline.precision_name(),
        threads: tch::get_num_threads().max(1) as usize,
        debug_build: cfg!(debug_assertions),
    };
    if let Some(path) = &args.save_answer {
        save_answer(path, &mut pipeline)?;
    }
    let mut report = Report { frames, ..empty(about, &artifact, &manifest) };
    if parts.contains(&Part::Energy) {
        say("energy");
        let seconds = args.energy_seconds.unwrap_or(defaults.energy_s);
        match Source::find(device, Path::new("/sys")) {
            Err(reasons) => report.energy_unreadable = Some(reasons),
            Ok(source) => {
                let frame = || cameras.run(&mut pipeline, 0..1).map(|_| ());
                match energy::measure(&source, Duration::from_secs_f64(seconds), frame)? {
                    Ok(energy) => report.energy = Some(energy),
                    Err(why) => report.energy_unreadable = Some(vec![why]),
                }
            }
        }
    }
    drop(pipeline);
    if parts.contains(&Part::Network) || parts.contains(&Part::Ceilings) {
        say("the network alone");
        report.network = network::alone(&mut args.load_network(&artifact)?, &artifact, repetitions)?;
    }
    if parts.contains(&Part::Ceilings) {
        say("ceilings");
        against_ceilings(&mut report, device, &artifact)?;
    }
    if parts.contains(&Part::Together) {
        say("several cameras");
        let mut pipeline = Pipeline::from_artifact(artifact.clone(), &args.runner.load_options(count))?;
        let rounds = args.rounds.unwrap_or(defaults.rounds);
        report.together = Some(frames::together(&mut cameras, &mut pipeline, rounds)?);
    }
    if parts.contains(&Part::Scaling) {
        say("the network at other sizes");
        let sizes = if args.sizes.is_empty() { defaults.sizes } else { &args.sizes };
        let measured = args.size_repetitions.unwrap_or(defaults.size_repetitions);
        let repetitions = Repetitions { warm_up: 1, measured };
        report.scaling = Some(network::scaling(&artifact, sizes, repetitions, |a| args.load_network(a))?);
    }
    // The file first: nobody may be there any more to read the table.
    if let Some(path) = &args.json {
        super::write_json(path, &report)?;
    }
    super::print(report.table()).context("the table cannot be printed")
}

/// What is being measured, for whoever waits; not among the results.
fn say(what: &str) {
    log::info!("measuring {what}");
}

fn empty(about: About, artifact: &Artifact, found: &Path) -> Report {
    let manifest = &artifact.manifest;
    let model = Model {
        name: manifest.name.clone(),
        path: found.display().to_string(),
        width: manifest.input.width,
        height: manifest.input.height,
        torchscript_sha256: manifest.files.get(&manifest.torchscript).cloned().unwrap_or_default(),
        weights_sha256: manifest.provenance.weights_sha256.clone(),
    };
    Report {
        about,
        model,
        frames: None,
        network: None,
        together: None,
        energy: None,
        energy_unreadable: None,
        scaling: None,
        ceilings: None,
        reached: None,
    }
}

fn against_ceilings(report: &mut Report, device: Device, artifact: &Artifact) -> anyhow::Result<()> {
    let ceilings = ceilings::measure(device, report.about.precision.parse()?).context("the device's ceilings")?;
    report.reached = report.network.as_ref().map(|network| {
        let size = (network.width, network.height);
        let cost = Cost::of(&artifact.manifest.network, size, true);
        ceilings.reached(&cost, size, network.device.map_or(network.host.wall_ms.p50, |d| d.median_ms()))
    });
    report.ceilings = Some(ceilings);
    Ok(())
}

/// A rendered street at the network's size and what the pipeline answers to it: `image` `[H, W, 3]` as bytes and, of the two
/// what the model answers, `labels` `[H, W]` as bytes and `depth_m` `[H, W]` in single precision.
fn save_answer(path: &Path, pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let (width, height) = pipeline.network_size();
    let mut camera = Cameras::new(1, (width, height), (width, height), Encoding::Rgb8)?;
    camera.run(pipeline, 0..1)?;
    let (size, outputs) = ([height as i64, width as i64], camera.outputs(0));
    let image = Tensor::f_from_slice(camera.picture(0))?.f_view([size[0], size[1], 3])?;
    let mut tensors = vec![("image", image)];
    if pipeline.manifest().answers(Task::Segmentation) {
        tensors.push(("labels", Tensor::f_from_slice(&outputs.labels)?.f_view(size)?));
    }
    if pipeline.manifest().answers(Task::Depth) {
        tensors.push(("depth_m", Tensor::f_from_slice(&outputs.depth_m)?.f_view(size)?));
    }
    Tensor::write_safetensors(&tensors, path).with_context(|| format!("--save-answer {}", path.display()))
}

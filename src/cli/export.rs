//! `semantic_depth export`

use super::render::parse_size;
use crate::data::street::{CITYSCAPES_FOCAL_PX, CITYSCAPES_WIDTH};
use crate::export::trace::{self, ExportRequest};
use crate::export::Artifact;
use crate::model::weights::{self, RefinementSource};
use crate::model::{NetworkConfig, Task};
use crate::tensorrt::{self, BatchRange, BuildOptions, EnginePrecision};
use crate::train::record::{self, CONFIG};
use crate::train::TrainConfig;
use anyhow::{bail, Context as _};
use std::path::{Path, PathBuf};

/// Height that [`CITYSCAPES_FOCAL_PX`] belongs to.
const CITYSCAPES_HEIGHT: f64 = 1024.0;

/// Arguments of `semantic_depth export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// safetensors, or a PyTorch state dict (.pth).
    #[arg(long, required_unless_present = "model", requires = "out")]
    weights: Option<PathBuf>,
    /// File with the depth's refinement, from a training with `refinement: alone` or `joint`; none: the depth as the head gives it;
    /// by default as the weights have it.
    #[arg(long, requires = "weights", value_name = "FILE|none")]
    refinement: Option<PathBuf>,
    /// Folder of the model: model.yaml, network.ts, weights.safetensors.
    #[arg(long, requires = "weights")]
    out: Option<PathBuf>,
    /// Width and height of the network's input in pixels.
    #[arg(long, default_value = "512x256", value_parser = parse_size, requires = "weights")]
    size: (usize, usize),
    /// Focal length that the depth was learned at, in pixels of the network's input; by default that of the training run
    /// in whose folder the weights are (augment.focal_length_px of its config.yaml, or the camera of its frames in run.json),
    /// else, with a warning, Cityscapes' camera, its whole pictures stretched to this size.
    #[arg(long, allow_negative_numbers = true, requires = "weights", value_name = "PIXELS", value_parser = parse_focal_length)]
    focal_length: Option<f32>,
    /// The weights are of the network without its 1/4 stage.
    #[arg(long, requires = "weights")]
    extra_light: bool,
    /// The article's own form: answers as large as the input, batch norm and poolings as they are. Several times slower.
    #[arg(long, requires = "weights")]
    full_size: bool,
    /// Short name, shown in diagnostics.
    #[arg(long, default_value = "semantic_depth", requires = "weights", value_parser = parse_name)]
    name: String,
    /// What it was trained on and how, for the manifest.
    #[arg(long, default_value = "not stated", requires = "weights")]
    training: String,
    /// With --tensorrt: a model that was exported before, in place of weights: its folder, its model.yaml, or the name of
    /// an installed one.
    #[arg(long, requires = "tensorrt", conflicts_with_all = ["weights", "out"])]
    model: Option<PathBuf>,
    /// Also compile the model with TensorRT for the GPU of this machine, into the cache that the node looks in. Takes
    /// minutes; docs/TENSORRT.md says what has to be installed.
    #[arg(long)]
    tensorrt: bool,
    /// With --tensorrt: what the engine computes in.
    #[arg(long, value_enum, default_value = "fp16", requires = "tensorrt")]
    precision: EnginePrecision,
    /// With --tensorrt: the most frames that go through the engine together, N or 1..N, up to 32; it is tuned for that many and
    /// takes fewer, too.
    #[arg(long, allow_negative_numbers = true, default_value = "1", requires = "tensorrt", value_name = "N|1..N")]
    batch: BatchRange,
    /// With --tensorrt: CUDA's number of the GPU.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0, requires = "tensorrt")]
    gpu: usize,
    /// With --tensorrt: take this file, compiled elsewhere for this GPU and these versions, instead of compiling.
    #[arg(long, requires = "tensorrt", value_name = "FILE")]
    engine: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    // As the node.
    crate::spin::little();
    let compile = args.tensorrt.then(|| {
        let build = BuildOptions {
            precision: args.precision,
            batch: args.batch,
            engine: args.engine.clone(),
            compile: true,
            cache: None,
        };
        (args.gpu, build)
    });
    let artifact = match (&args.weights, &args.out, &args.model) {
        (Some(weights), Some(out), _) => export_weights(&args, weights, out)?,
        (_, _, Some(model)) => crate::export::load(model)?,
        _ => bail!("expected --weights and --out, or --tensorrt and --model"),
    };
    if let Some((gpu, build)) = compile {
        let path = tensorrt::prepare(&artifact, gpu, &build)?;
        super::print(format_args!("{} is the engine of {} for GPU {gpu}\n", path.display(), artifact.dir.display()))?;
    }
    Ok(())
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && !text.contains(char::is_control);
    is_plain.then(|| text.into()).ok_or_else(|| format!("expected text without control characters, found {text:?}"))
}

fn parse_focal_length(text: &str) -> Result<f32, String> {
    let pixels = text.parse().ok().filter(|pixels: &f32| pixels.is_finite() && *pixels > 0.0);
    pixels.ok_or_else(|| format!("expected pixels above 0, found '{text}'"))
}

fn export_weights(args: &Args, path: &Path, out: &Path) -> anyhow::Result<Artifact> {
    // Before anything is said of what is not known of them.
    std::fs::File::open(path).with_context(|| format!("--weights {}", path.display()))?;
    let assumed = of_share(CITYSCAPES_FOCAL_PX / (CITYSCAPES_WIDTH * CITYSCAPES_HEIGHT).sqrt(), args.size);
    let focal_length_px = match args.focal_length {
        Some(given) => given,
        // Without depth it is not written.
        None if !weights::contents(path)?.heads.contains(&Task::Depth) => assumed,
        None => learned_at(path, args.size)?.unwrap_or_else(|| {
            log::warn!(
                "what focal length the depth of {} was learned at is not known: its folder has no record of the training, \
                 or one of several cameras. Cityscapes' camera is taken, {assumed:.1} pixels at {}x{}; of another one \
                 depth is wrong by the ratio: pass --focal-length then",
                path.display(),
                args.size.0,
                args.size.1
            );
            assumed
        }),
    };
    let request = ExportRequest {
        weights: path.into(),
        refinement: match &args.refinement {
            None => RefinementSource::Weights,
            Some(none) if none.as_os_str() == "none" => RefinementSource::None,
            Some(file) => RefinementSource::File(file.clone()),
        },
        network: NetworkConfig { extra_light: args.extra_light, ..NetworkConfig::default() },
        size: args.size,
        full_size: args.full_size,
        focal_length_px,
        name: args.name.clone(),
        training: args.training.clone(),
        command: super::command_line(),
        created: jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string(),
    };
    let (artifact, difference) = trace::export(&request, out)?;
    super::print(format_args!(
        "{} written: input {}x{}, largest difference to the original network's answers {difference:.1e} of the largest\n",
        artifact.dir.display(),
        artifact.manifest.input.width,
        artifact.manifest.input.height
    ))?;
    Ok(artifact)
}

/// Focal length, in pixels of an input of this size, that the run which made the weights trained at, where it is known: one
/// that does not depend on the size (metric consistency), else that of the camera of its frames.
fn learned_at(weights: &Path, size: (usize, usize)) -> anyhow::Result<Option<f32>> {
    let path = weights.with_file_name(CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    // Whatever is called so may lie there.
    let config = TrainConfig::read(&path, &[]).with_context(|| {
        format!(
            "{} is read for the focal length the depth was learned at; pass --focal-length PIXELS if it is not of the run \
             that made the weights",
            path.display()
        )
    })?;
    let focal_px = config.augment.focal_length_px;
    if focal_px > 0.0 {
        return Ok(Some(focal_px));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(record::focal_share(folder).map(|share| of_share(share, size)))
}

/// Focal length, in pixels of an input of this size into which whole frames are stretched, of a camera with this
/// [`crate::data::source::Facts::focal_share`]: depth of that camera's frames then needs no factor.
fn of_share(share: f64, (width, height): (usize, usize)) -> f32 {
    (share * ((width * height) as f64).sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::source::Facts;
    use crate::frame::camera::focal_ratio;
    use crate::frame::geometry::{Geometry, Placement};
    use std::fs;

    #[test]
    fn the_focal_length_is_the_runs_own() {
        let run = tempfile::tempdir().expect("a folder");
        let weights = run.path().join("best.safetensors");
        let learned = || learned_at(&weights, (512, 256)).expect("read");
        assert_eq!(learned(), None, "weights alone");
        let config = |focal: &str| {
            let text = format!(
                "sources: [{{name: a, data: {{layout: cityscapes, root: x}}}}]\naugment: {{focal_length_px: {focal}}}\n\
                 phases: [{{crop: [64, 64], scale: [1, 1], batch: 2, steps: 3, max_learning_rate: 1e-3}}]\n"
            );
            fs::write(run.path().join(CONFIG), text).expect("written");
        };
        config("0");
        assert_eq!(learned(), None, "of an older run");
        record::add_data(run.path(), None, &[]).expect("written");
        assert_eq!(learned(), None, "of several cameras");
        // The camera that depth was learned from needs no factor, whatever its shape and the rows that were left out.
        let focal_px = Some((1500.0, 1480.0));
        let facts = Facts { width: 1920, height: 960, whole_height: 1200, labels: true, depth: true, focal_px };
        record::add_data(run.path(), facts.focal_share(), &[]).expect("written");
        let ratio = |focal_px, frame, size, f_model: f32| {
            let geometry = Geometry::new(&Placement::default(), frame, size).expect("it fits");
            focal_ratio(focal_px, geometry.focal_scale(), f64::from(f_model))
        };
        let factor = ratio((1500.0, 1480.0), (1920, 1200), (512, 256), learned().expect("one camera"));
        assert!((factor - 1.0).abs() < 1e-6, "{factor}");
        let share = CITYSCAPES_FOCAL_PX / (CITYSCAPES_WIDTH * CITYSCAPES_HEIGHT).sqrt();
        let focal_px = (CITYSCAPES_FOCAL_PX, CITYSCAPES_FOCAL_PX);
        for size in [(1024, 400), (512, 256)] {
            let factor = ratio(focal_px, (2048, 1024), size, of_share(share, size));
            assert!((factor - 1.0).abs() < 1e-6, "{size:?}: {factor}");
        }
        config("565.6");
        assert_eq!(learned(), Some(565.6), "whatever the camera was");
    }

    #[test]
    fn a_foreign_configuration_beside_the_weights_is_told_apart_by_the_user() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(CONFIG), "architecture: another\n").expect("written");
        let error = learned_at(&folder.path().join("w.safetensors"), (512, 256)).expect_err("no training's");
        let line = crate::causes::in_line(&error);
        assert!(line.contains("pass --focal-length PIXELS") && line.contains("training configuration"), "{line}");
    }
}

//! `semantic_depth export`

use super::render::parse_size;
use crate::data::street::{CITYSCAPES_FOCAL_PX, CITYSCAPES_WIDTH};
use crate::export::trace::{self, ExportRequest};
use crate::export::Artifact;
use crate::model::weights::RefinementSource;
use crate::model::NetworkConfig;
use crate::tensorrt::{self, BatchRange, BuildOptions, EnginePrecision};
use crate::train::record::{self, CONFIG};
use crate::train::TrainConfig;
use anyhow::bail;
use std::path::{Path, PathBuf};

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
    #[arg(long, default_value = "512x256", value_parser = parse_size)]
    size: (usize, usize),
    /// Focal length that the depth was learned at, in pixels of the network's input; by default that of the training run
    /// in whose folder the weights are (augment.focal_length_px of its config.yaml, or the camera of its frames in run.json),
    /// else, with a warning, Cityscapes' camera at this width.
    #[arg(long)]
    focal_length: Option<f32>,
    /// The weights are of the network without its 1/4 stage.
    #[arg(long)]
    extra_light: bool,
    /// The article's own form: answers as large as the input, batch norm and poolings as they are. Several times slower.
    #[arg(long)]
    full_size: bool,
    /// Short name, shown in diagnostics.
    #[arg(long, default_value = "semantic_depth")]
    name: String,
    /// What it was trained on and how, for the manifest.
    #[arg(long, default_value = "not stated")]
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
    /// With --tensorrt: frames that go through the engine together, N or MIN..MAX; it is tuned for the most.
    #[arg(long, default_value = "1", requires = "tensorrt", value_name = "N|MIN..MAX")]
    batch: BatchRange,
    /// With --tensorrt: CUDA's number of the GPU.
    #[arg(long, default_value_t = 0, requires = "tensorrt")]
    gpu: usize,
    /// With --tensorrt: take this file, compiled elsewhere for this GPU and these versions, instead of compiling.
    #[arg(long, requires = "tensorrt", value_name = "FILE")]
    engine: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
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
        println!("{} is the engine of {} for GPU {gpu}", path.display(), artifact.dir.display());
    }
    Ok(())
}

fn export_weights(args: &Args, weights: &Path, out: &Path) -> anyhow::Result<Artifact> {
    let width = args.size.0;
    let focal_length_px = match args.focal_length {
        Some(given) => given,
        None => learned_at(weights, width)?.unwrap_or_else(|| {
            let assumed = (CITYSCAPES_FOCAL_PX * width as f64 / CITYSCAPES_WIDTH) as f32;
            log::warn!(
                "what focal length the depth of {} was learned at is not known: its folder has no record of the training, \
                 or one of several cameras. Cityscapes' camera is taken, {assumed:.1} pixels at a width of {width}; of \
                 another one depth is wrong by the ratio: pass --focal-length then",
                weights.display()
            );
            assumed
        }),
    };
    let request = ExportRequest {
        weights: weights.into(),
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
    println!(
        "{} written: input {}x{}, largest difference to the original network {difference:.1e}",
        artifact.dir.display(),
        artifact.manifest.input.width,
        artifact.manifest.input.height
    );
    Ok(artifact)
}

/// Focal length, in pixels of an input of this width, that the run which made the weights trained at, where it is known: one
/// that does not depend on the width (metric consistency), else that of the camera of its frames.
fn learned_at(weights: &Path, width: usize) -> anyhow::Result<Option<f32>> {
    let path = weights.with_file_name(CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    let focal_px = TrainConfig::read(&path, &[])?.augment.focal_length_px;
    if focal_px > 0.0 {
        return Ok(Some(focal_px));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(record::focal_by_width(folder).map(|share| (share * width as f64) as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_focal_length_is_the_runs_own() {
        let run = tempfile::tempdir().expect("a folder");
        let weights = run.path().join("best.safetensors");
        let learned = || learned_at(&weights, 512).expect("read");
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
        record::add_focal_by_width(run.path(), None).expect("written");
        assert_eq!(learned(), None, "of several cameras");
        // 1500 pixels at a width of 2048.
        record::add_focal_by_width(run.path(), Some(1500.0 / 2048.0)).expect("written");
        assert_eq!(learned(), Some(375.0));
        config("565.6");
        assert_eq!(learned(), Some(565.6), "whatever the camera was");
    }
}

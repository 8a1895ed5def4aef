//! `semantic_depth export`

use super::render::parse_size;
use crate::data::street::{CITYSCAPES_FOCAL_PX, CITYSCAPES_WIDTH};
use crate::export::trace::{self, ExportRequest};
use crate::model::NetworkConfig;
use crate::train::record::CONFIG;
use crate::train::TrainConfig;
use std::path::{Path, PathBuf};

/// Arguments of `semantic_depth export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// safetensors, or a PyTorch state dict (.pth).
    #[arg(long)]
    weights: PathBuf,
    /// Folder of the model: model.yaml, network.ts, weights.safetensors.
    #[arg(long)]
    out: PathBuf,
    /// Width and height of the network's input in pixels.
    #[arg(long, default_value = "512x256", value_parser = parse_size)]
    size: (usize, usize),
    /// Focal length that the depth was learned at, in pixels of the network's input; by default that of the training run
    /// in whose folder the weights are (augment.focal_length_px of its config.yaml), else Cityscapes' camera at this
    /// width.
    #[arg(long)]
    focal_length: Option<f32>,
    /// The weights are of the network without its 1/4 stage.
    #[arg(long)]
    extra_light: bool,
    /// Short name, shown in diagnostics.
    #[arg(long, default_value = "semantic_depth")]
    name: String,
    /// What it was trained on and how, for the manifest.
    #[arg(long, default_value = "not stated")]
    training: String,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let by_default = match learned_at(&args.weights)? {
        Some(focal_px) => focal_px,
        None => (CITYSCAPES_FOCAL_PX * args.size.0 as f64 / CITYSCAPES_WIDTH) as f32,
    };
    let words: Vec<String> = std::env::args().skip(1).map(quoted).collect();
    let request = ExportRequest {
        weights: args.weights,
        network: NetworkConfig { extra_light: args.extra_light, ..NetworkConfig::default() },
        size: args.size,
        focal_length_px: args.focal_length.unwrap_or(by_default),
        name: args.name,
        training: args.training,
        command: format!("semantic_depth {}", words.join(" ")),
        created: jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string(),
    };
    let (artifact, difference) = trace::export(&request, &args.out)?;
    println!(
        "{} written: input {}x{}, largest difference to the original network {difference:.1e}",
        artifact.dir.display(),
        artifact.manifest.input.width,
        artifact.manifest.input.height
    );
    Ok(())
}

/// Focal length that the run which made the weights trained at, where it is known: at one that does not depend on the
/// input's width (metric consistency).
fn learned_at(weights: &Path) -> anyhow::Result<Option<f32>> {
    let path = weights.with_file_name(CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    let focal_px = TrainConfig::read(&path, &[])?.augment.focal_length_px;
    Ok((focal_px > 0.0).then_some(focal_px))
}

/// A word as a shell takes it.
pub(super) fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

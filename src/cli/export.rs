//! `semantic_depth export`

use super::render::parse_size;
use crate::data::street::{CITYSCAPES_FOCAL_PX, CITYSCAPES_WIDTH};
use crate::export::trace::{self, ExportRequest};
use crate::model::NetworkConfig;
use std::path::PathBuf;

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
    /// Focal length that the depth was learned at, in pixels of an image as wide as the input; by default Cityscapes'
    /// camera at this width.
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
    let by_default = CITYSCAPES_FOCAL_PX * args.size.0 as f64 / CITYSCAPES_WIDTH;
    let words: Vec<String> = std::env::args().skip(1).map(quoted).collect();
    let request = ExportRequest {
        weights: args.weights,
        network: NetworkConfig { extra_light: args.extra_light, ..NetworkConfig::default() },
        size: args.size,
        focal_length_px: args.focal_length.unwrap_or(by_default as f32),
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

/// A word as a shell takes it.
fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

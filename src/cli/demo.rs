//! `semantic_depth demo`

use crate::data::disk::hold;
use crate::demo::source::Source;
use crate::demo::{self, drive, Options};
use crate::export;
use anyhow::ensure;
use std::path::PathBuf;

/// Arguments of `semantic_depth demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: its folder, its model.yaml, or the name of an installed one [default: street]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// At most so many frames
    #[arg(long, allow_negative_numbers = true, default_value_t = 100)]
    frames: usize,
    /// Frames a second, 0.001 or more
    #[arg(long, allow_negative_numbers = true, default_value_t = 10.0, value_name = "HZ")]
    rate: f64,
    /// Folder for the contact sheet, the bag and the report
    #[arg(long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
    /// Width and height of the rendered drive, in pixels
    #[arg(long, default_value = "2048x1024", value_name = "WxH", value_parser = super::render::parse_size,
        conflicts_with_all = ["drive", "images", "video"])]
    size: (usize, usize),
    /// Which drive is rendered; whichever it is, no training set made with `semantic_depth render` has its street
    #[arg(long, allow_negative_numbers = true, default_value_t = 1, conflicts_with_all = ["drive", "images", "video"])]
    seed: u64,
    /// Play a folder in the Cityscapes layout, with its truth where it has one
    #[arg(long, value_name = "DIR", conflicts_with_all = ["images", "video"])]
    drive: Option<PathBuf>,
    /// Play the PNG and JPEG files of a folder, in the order of their names
    #[arg(long, value_name = "DIR", conflicts_with = "video")]
    images: Option<PathBuf>,
    /// Play a video, decoded by ffmpeg (on PATH, or named by SEMANTIC_DEPTH_FFMPEG)
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    /// The node's executable [default: semantic_depth_node beside this program]
    #[arg(long, value_name = "PATH")]
    node: Option<PathBuf>,
    /// Where the network runs: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// A parameter of the node, such as backend:=native or precision:=fp16 (repeatable); those that the demo has to decide,
    /// above all which pictures the node takes and gives, are refused
    #[arg(long = "param", short = 'p', value_name = "NAME:=VALUE", value_parser = parse_parameter)]
    parameters: Vec<(String, serde_yaml::Value)>,
}

/// Frames a second.
const SLOWEST_HZ: f64 = 0.001;

/// As ROS has it: the value is YAML.
fn parse_parameter(text: &str) -> Result<(String, serde_yaml::Value), String> {
    let (name, value) = text.split_once(":=").ok_or_else(|| format!("expected NAME:=VALUE, found {text}"))?;
    if name.is_empty() {
        return Err(format!("expected NAME:=VALUE, found {text}"));
    }
    Ok((name.into(), serde_yaml::from_str(value).map_err(|e| format!("{name}: expected YAML, found {value}: {e}"))?))
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    ensure!(args.frames > 0, "--frames is 0, expected at least 1");
    // Slower, nobody waits for the next frame; much slower, the time until it is no Duration.
    ensure!(
        args.rate.is_finite() && args.rate >= SLOWEST_HZ,
        "--rate is {:?}, expected at least {SLOWEST_HZ} frames a second",
        args.rate
    );
    let model = match args.model {
        Some(named) => export::find(&named)?,
        None => export::find_installed(export::DEFAULT_MODEL)?,
    };
    let node = args.node.map_or_else(demo::default_node, Ok)?;
    demo::check(&model, &node, &args.parameters)?;
    demo::check_ros()?;
    // Another one would write into the same bag, and render the same drive.
    let _held = hold(&args.out, "demo")?;
    let source = match (args.drive, args.images, args.video) {
        (Some(folder), _, _) => Source::Drive(folder),
        (_, Some(folder), _) => Source::Images(folder),
        (_, _, Some(file)) => Source::Video(file),
        _ => Source::Drive(drive::prepare(&args.out, args.seed, args.frames, args.rate, args.size)?),
    };
    let options = Options {
        model,
        node,
        device: args.device,
        parameters: args.parameters,
        source,
        frames: args.frames,
        rate_hz: args.rate,
        out: args.out,
    };
    demo::run(&options).map(|_| ())
}

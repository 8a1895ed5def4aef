//! `semantic_depth train`

use crate::frame::network::{self, DeviceChoice};
use crate::train::{run, TrainConfig};
use std::path::PathBuf;

/// Arguments of `semantic_depth train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's configuration, such as config/train/street.yaml.
    config: PathBuf,
    /// Folder for the run's weights and metrics.
    #[arg(long)]
    out: PathBuf,
    /// Root of the data set, instead of the configuration's.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Weights to start from.
    #[arg(long)]
    init: Option<PathBuf>,
    /// Train for this long; the schedule then follows the clock instead of the steps.
    #[arg(long)]
    minutes: Option<f64>,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut config = TrainConfig::read(&args.config)?;
    if let Some(data) = args.data {
        config.data = data;
    }
    let minutes = args.minutes.filter(|m| *m > 0.0);
    run::train(&config, &args.out, args.init.as_deref(), minutes, network::resolve(args.device)?)
}

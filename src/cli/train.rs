//! `semantic_depth train`

use crate::frame::network::{self, DeviceChoice};
use crate::train::run::{self, Options};
use crate::train::TrainConfig;
use anyhow::{bail, Context as _};
use std::path::PathBuf;

/// Arguments of `semantic_depth train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's configuration, such as config/train/street.yaml.
    config: PathBuf,
    /// Folder for the run's weights, checkpoint and metrics.
    #[arg(long)]
    out: PathBuf,
    /// Where a source is, instead of the configuration's place; NAME= may be left out where there is one source only.
    /// What has a slash before its first = is a path.
    #[arg(long, value_name = "[NAME=]PATH", value_parser = parse_place)]
    data: Vec<Place>,
    /// Change a value of the configuration: keys and list indices separated by dots, then YAML (`heads.1.loss=berhu`).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Weights to start from, instead of the configuration's, or another run's checkpoint.safetensors, whose averaged
    /// weights are taken where it has such; given several times, later ones go over earlier ones. A run that is resumed
    /// needs the same names, and no longer the files.
    #[arg(long)]
    init: Vec<PathBuf>,
    /// Go on from the checkpoint in the folder, if there is one.
    #[arg(long)]
    resume: bool,
    /// Train for this long; the schedules then follow the clock instead of the steps. A run is resumed with what it was
    /// begun with.
    #[arg(long, allow_negative_numbers = true, value_parser = parse_minutes)]
    minutes: Option<f64>,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Processor threads of the network; 0: libtorch's own choice (one a core).
    #[arg(long, allow_negative_numbers = true, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

/// Name of a source, if given, and its place.
type Place = (Option<String>, PathBuf);

#[allow(clippy::unnecessary_wraps)]
fn parse_place(text: &str) -> Result<Place, std::convert::Infallible> {
    Ok(match text.split_once('=') {
        // No source's name holds a slash.
        Some((name, place)) if !name.contains('/') => (Some(name.into()), place.into()),
        _ => (None, text.into()),
    })
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes.is_finite() && minutes > 0.0 => Ok(minutes),
        _ => Err(format!("expected a number above 0, found '{text}'")),
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    // As the node.
    crate::spin::little();
    let mut config = TrainConfig::read(&args.config, &args.set)?;
    for (name, place) in args.data {
        let names: Vec<_> = config.sources.iter().map(|s| s.name.clone()).collect();
        let found = match &name {
            Some(name) => config.sources.iter_mut().find(|s| s.name == *name),
            None if names.len() == 1 => config.sources.first_mut(),
            None => bail!("--data {}: write NAME=PATH, NAME one of {}", place.display(), names.join(", ")),
        };
        let source = found
            .with_context(|| format!("--data {}: expected one of {}", name.unwrap_or_default(), names.join(", ")))?;
        source.data = source.data.clone().at(place);
    }
    if !args.init.is_empty() {
        config.init = args.init;
    }
    if args.threads > 0 {
        tch::set_num_threads(args.threads.into());
    }
    let options = Options { config_file: args.config, out: args.out, resume: args.resume, minutes: args.minutes };
    run::train(&config, &options, network::resolve(args.device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_hold_an_equals_sign() {
        for (text, name, place) in [
            ("street=/data/a=b", Some("street"), "/data/a=b"),
            ("/data/a=b", None, "/data/a=b"),
            ("./a=b", None, "./a=b"),
            ("data", None, "data"),
        ] {
            assert_eq!(parse_place(text), Ok((name.map(String::from), PathBuf::from(place))), "{text}");
        }
    }
}

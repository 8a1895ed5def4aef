//! The command line: one module a verb, each with its arguments and `run`.

pub mod bench;
#[cfg(feature = "ros")]
pub mod demo;
pub mod depth;
pub mod doctor;
pub mod evaluate;
pub mod export;
pub mod interface;
pub(crate) mod progress;
pub mod render;
pub mod train;

use crate::data::disk::write_atomically;
use crate::frame::network::{BackendChoice, DeviceChoice, Precision};
use crate::frame::pipeline::LoadOptions;
use crate::system::quoted;
use anyhow::{bail, Context as _};
use clap::{Parser, Subcommand};
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Semantic labels and metric depth from one camera image.
#[derive(Debug, Parser)]
#[command(name = "semantic_depth", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw deterministic street drives with exact labels and depth, in the Cityscapes folder layout.
    Render(render::Args),
    /// Make depth truth from stereo, and judge it.
    Depth(depth::Args),
    /// Train the network.
    Train(train::Args),
    /// Score a model against the truth of a data set.
    Evaluate(evaluate::Args),
    /// Turn weights into a deployable model: TorchScript and its manifest.
    Export(export::Args),
    /// Describe this machine and what is found on it, and try a model: what to send with a question.
    Doctor(doctor::Args),
    /// Measure how fast a model runs here, what memory and energy it takes, and how near the device's limits it comes.
    Bench(bench::Args),
    /// Print the node's parameters, topics, services and diagnostics.
    Interface(interface::Args),
    /// Play a drive through the node on a real ROS 2 graph; record, score and show what comes back.
    #[cfg(feature = "ros")]
    Demo(demo::Args),
}

/// Prints a result. Whoever has closed the pipe (`| head`) has read what it wanted: that is no error, and no panic.
///
/// # Errors
/// Standard output cannot be written otherwise, to a full disk, say.
pub(crate) fn print(text: impl Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// What runs a model; said in the same way wherever one is run.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Runner {
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// auto, fp32, fp16 or bf16.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// What runs the network: auto, torchscript, tensorrt or native.
    #[arg(long, default_value = "auto")]
    backend: BackendChoice,
}

impl Runner {
    fn load_options(self, max_batch: usize) -> LoadOptions {
        let Self { device, precision, backend } = self;
        LoadOptions { device, precision, backend, max_batch, ..LoadOptions::default() }
    }
}

/// That the file which `option` names, if it was given, can be written: that would fail only after the whole work otherwise.
fn check_file(option: &str, file: Option<&Path>) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let place = place_of(file);
    let folder = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("{option} {}: {} is not a folder; make it first", file.display(), folder.display());
    }
    if place.is_dir() {
        bail!("{option} {}: it is a folder; give a file", file.display());
    }
    if is_device(&place) {
        return Ok(());
    }
    // A file without a name, which is gone at once.
    tempfile::tempfile_in(folder)
        .with_context(|| format!("{option} {}: its folder cannot be written to", file.display()))?;
    Ok(())
}

/// Where what is written to a file goes: where a link leads to.
fn place_of(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.into())
}

/// Or a pipe: what is written to as it is, and not replaced.
fn is_device(place: &Path) -> bool {
    place.exists() && !place.is_file()
}

/// Writes figures as JSON. A file appears whole or not at all; a device or a pipe is written to, and what a link leads to takes
/// the figures, not the link's place.
fn write_json(path: &Path, figures: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(figures)? + "\n";
    let place = place_of(path);
    if is_device(&place) {
        return std::fs::write(&place, text).with_context(|| path.display().to_string());
    }
    Ok(write_atomically(&place, |file| file.write_all(text.as_bytes()))?)
}

/// What this program was called with, for records of what made something.
pub(crate) fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy()));
    std::iter::once("semantic_depth".to_string()).chain(words).collect::<Vec<_>>().join(" ")
}

impl Cli {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<()> {
        use Command::{Bench, Depth, Doctor, Evaluate, Train};
        if let Depth(_) | Train(_) | Evaluate(_) | Doctor(_) | Bench(_) = &self.command {
            crate::frame::network::load_cuda_half();
        }
        match self.command {
            Command::Render(args) => render::run(args),
            Command::Depth(args) => depth::run(args),
            Command::Train(args) => train::run(args),
            Command::Evaluate(args) => evaluate::run(args),
            Command::Export(args) => export::run(args),
            Command::Doctor(args) => doctor::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Interface(args) => interface::run(args),
            #[cfg(feature = "ros")]
            Command::Demo(args) => demo::run(args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind as ClapError;
    use clap::CommandFactory as _;

    /// All commands, by their words.
    fn commands(command: &clap::Command, words: &[String], found: &mut Vec<(Vec<String>, clap::Command)>) {
        found.push((words.to_vec(), command.clone()));
        for verb in command.get_subcommands() {
            commands(verb, &[words, &[verb.get_name().to_string()]].concat(), found);
        }
    }

    /// They passed for options that there are not.
    #[test]
    fn negative_numbers_are_what_the_option_before_them_says() {
        let kind = |words: &[String], more: &[&str]| {
            let words = words.iter().map(String::as_str).chain(more.iter().copied());
            Cli::try_parse_from(words).err().map(|error| error.kind())
        };
        let mut all = Vec::new();
        commands(&Cli::command(), &["semantic_depth".into()], &mut all);
        let (mut numbers, mut refused) = (0, Vec::new());
        for (words, command) in &all {
            for option in command.get_arguments().filter_map(|option| option.get_long()) {
                // Something is wrong in any case, if only the option that there is not.
                let with = |value: &str| kind(words, &[&format!("--{option}={value}"), "--no-such-option"]);
                let takes = |value| with(value) == Some(ClapError::UnknownArgument);
                if takes("word") || !(takes("8") || takes("0.5")) {
                    continue;
                }
                numbers += 1;
                if kind(words, &[&format!("--{option}"), "-8"]) == Some(ClapError::UnknownArgument) {
                    refused.push(format!("{} --{option}", words.join(" ")));
                }
            }
        }
        assert!(numbers > 30 && refused.is_empty(), "{numbers}, of which {refused:?} take none below 0");
    }

    #[test]
    fn figures_go_through_links_and_into_devices() {
        let root = tempfile::tempdir().expect("a folder");
        let [real, link] = ["real.json", "link.json"].map(|name| root.path().join(name));
        std::fs::write(&real, "before").expect("written");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        for path in [&link, &root.path().join("new.json")] {
            check_file("--json", Some(path)).expect("it can be written");
            write_json(path, &[1, 2]).expect("written");
            let text = std::fs::read_to_string(path).expect("read");
            assert_eq!(serde_json::from_str::<Vec<i32>>(&text).expect("JSON"), [1, 2]);
        }
        assert!(link.is_symlink() && !real.is_symlink());
        let null = Path::new("/dev/null");
        check_file("--json", Some(null)).expect("a device");
        write_json(null, &[1]).expect("it takes everything");
        assert!(null.exists() && !null.is_file(), "it is a device still");
        let error = check_file("--json", Some(&root.path().join("no/a.json"))).expect_err("no folder").to_string();
        assert!(error.contains("is not a folder; make it first"), "{error}");
    }
}

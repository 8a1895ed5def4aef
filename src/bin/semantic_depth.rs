//! The command-line tool: parse, call, print the error.

use clap::Parser as _;
use semantic_depth::cli::Cli;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    semantic_depth::allocator::keep_large_blocks();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let done = match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(said) => match print_usage(&said) {
            Ok(()) => return ExitCode::from(said.exit_code() as u8),
            Err(error) => Err(anyhow::Error::new(error).context("what was asked for cannot be printed")),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where it cannot be said, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "error: {}", semantic_depth::causes::in_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Help and version, or what is wrong with the arguments. Whoever closed the pipe has read what it wanted.
fn print_usage(said: &clap::Error) -> std::io::Result<()> {
    match said.print() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

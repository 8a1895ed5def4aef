//! The command-line tool: parse, call, print the error.

use clap::Parser;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    semantic_depth::allocator::keep_large_blocks();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match semantic_depth::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where it cannot be said, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "error: {}", semantic_depth::causes::in_line(&error));
            ExitCode::FAILURE
        }
    }
}

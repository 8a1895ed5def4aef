//! The ROS 2 node's executable: run, print the error that the log does not have, tell the truth in the exit code.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    semantic_depth::spin::little();
    semantic_depth::allocator::keep_large_blocks();
    match semantic_depth::node::run() {
        Ok(code) => code,
        Err(error) => {
            // Where it cannot be said, the exit code still tells.
            let _ =
                writeln!(std::io::stderr(), "[FATAL] [semantic_depth]: {}", semantic_depth::causes::in_line(&error));
            ExitCode::FAILURE
        }
    }
}

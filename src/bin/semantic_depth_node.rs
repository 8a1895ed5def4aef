//! The ROS 2 node's executable: run, print the error that the log does not have, tell the truth in the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    semantic_depth::allocator::keep_large_blocks();
    match semantic_depth::node::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("[FATAL] [semantic_depth]: {}", semantic_depth::causes::in_line(&error));
            ExitCode::FAILURE
        }
    }
}

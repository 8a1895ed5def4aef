//! The node as a process of its own: started with its parameters, watched, ended by SIGINT, never left behind.

use rustix::process::{kill_process, Pid, Signal};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Why the node is not there.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message says what its variant is
pub enum ProcessError {
    #[error("cannot start {program}: {source}")]
    Start { program: PathBuf, source: std::io::Error },
    #[error("cannot write the node's log {path}: {source}")]
    Log { path: PathBuf, source: std::io::Error },
    #[error("the node ended by itself ({status}); the end of {log}:\n{tail}")]
    Ended { status: ExitStatus, log: PathBuf, tail: String },
    #[error("cannot watch the node: {0}")]
    Wait(std::io::Error),
    #[error("the node did not end within {limit:?} of SIGINT and was killed; the end of {log}:\n{tail}")]
    Stuck { limit: Duration, log: PathBuf, tail: String },
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    log: PathBuf,
}

/// How a node ended after SIGINT.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the signal to the end.
    pub took: Duration,
}

impl NodeProcess {
    /// Starts `program`; all it prints goes to the file `log`.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self, ProcessError> {
        let log_error = |source| ProcessError::Log { path: log.to_path_buf(), source };
        let file = File::create(log).map_err(log_error)?;
        let copy = file.try_clone().map_err(log_error)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            // A group of its own: Ctrl-C in the terminal reaches the demo alone, which then ends the node in order.
            .process_group(0)
            .spawn()
            .map_err(|source| ProcessError::Start { program: program.to_path_buf(), source })?;
        Ok(Self { child, log: log.to_path_buf() })
    }

    /// The last lines of its log.
    fn tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
            let mut bytes = Vec::new();
            file.take(4096).read_to_end(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().collect();
            Ok(lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        read().unwrap_or_else(|error| format!("(cannot be read: {error})"))
    }

    /// An error once the node has ended.
    pub fn check(&mut self) -> Result<(), ProcessError> {
        match self.child.try_wait().map_err(ProcessError::Wait)? {
            None => Ok(()),
            Some(status) => Err(ProcessError::Ended { status, log: self.log.clone(), tail: self.tail() }),
        }
    }

    /// Ends it by SIGINT, as Ctrl-C does, and waits for at most `limit`.
    pub fn interrupt(mut self, limit: Duration) -> Result<End, ProcessError> {
        self.check()?;
        let start = Instant::now();
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::INT).map_err(|error| ProcessError::Wait(error.into()))?;
        }
        while start.elapsed() < limit {
            if let Some(status) = self.child.try_wait().map_err(ProcessError::Wait)? {
                return Ok(End { status, took: start.elapsed() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Dropping kills it.
        Err(ProcessError::Stuck { limit, log: self.log.clone(), tail: self.tail() })
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> (tempfile::TempDir, NodeProcess) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let arguments = ["-c".to_owned(), script.to_owned()];
        let node = NodeProcess::start(Path::new("/bin/sh"), &arguments, &folder.path().join("log")).expect("started");
        (folder, node)
    }

    fn wait_for_log(node: &NodeProcess, text: &str) {
        let start = Instant::now();
        while !node.tail().contains(text) {
            assert!(start.elapsed() < Duration::from_secs(20), "`{text}` never came: {}", node.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_early_end_comes_with_the_log() {
        let (_folder, mut node) = start("echo starting; echo no model >&2; exit 3");
        let start = Instant::now();
        let error = loop {
            match node.check() {
                Ok(()) => assert!(start.elapsed() < Duration::from_secs(20), "it never ended"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("starting\nno model") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn sigint_ends_it_and_its_status_is_kept() {
        let (_folder, node) = start("trap 'exit 7' INT; echo ready; while :; do sleep 0.01; done");
        wait_for_log(&node, "ready");
        assert_eq!(node.interrupt(Duration::from_secs(20)).expect("ended").status.code(), Some(7));
    }

    #[test]
    fn a_stuck_one_is_killed() {
        let (_folder, node) = start("trap '' INT; echo ready; while :; do sleep 0.01; done");
        wait_for_log(&node, "ready");
        let pid = Pid::from_raw(node.child.id() as i32).expect("a process id");
        let error = node.interrupt(Duration::from_millis(200)).expect_err("stuck");
        assert!(matches!(error, ProcessError::Stuck { .. }));
        assert!(rustix::process::test_kill_process(pid).is_err(), "it is still there");
    }
}

//! Compiles a TorchScript file with Torch-TensorRT's own program, `torchtrtc`.
//!
//! It comes in the `bin` of the torch-tensorrt wheel, needs the GPU that the engine is for and the full TensorRT, and
//! takes minutes: it times kernels. It runs as a process of its own, so that a crash of it is an error here and its memory
//! is free afterwards; what it says goes to the log.

use super::cache::Lock;
use super::libraries::{self, Library, RuntimeError, Surroundings, ORDER};
use serde::Serialize;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Largest batch of an engine: the most frames that go through a network together.
const MOST_BATCH: usize = 32;

/// A sign of life where the compiler says nothing for so long.
const QUIET: Duration = Duration::from_secs(15);

/// Lines of the compiler's output that may wait for the log.
const LINES_AHEAD: usize = 64;

/// Lines of the compiler's output that are repeated in an error.
const LAST_LINES: usize = 6;

/// What the engine computes in, and what it takes and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EnginePrecision {
    /// Single precision (without TF32, whose products have 10 bits).
    Fp32,
    /// Half precision.
    Fp16,
}

impl EnginePrecision {
    /// `fp32` or `fp16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
        }
    }
}

/// Sizes of the batches that an engine takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BatchRange {
    /// Smallest.
    pub min: usize,
    /// The one that it is tuned for.
    pub best: usize,
    /// Largest.
    pub max: usize,
}

impl std::str::FromStr for BatchRange {
    type Err = String;

    /// `N` or `1..N`, both included; it is tuned for the largest, which several cameras in step make.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected N or 1..N with N from 1 to {MOST_BATCH}, found {text:?}; an engine takes every batch from one \
                 frame on, as the node makes them all"
            )
        };
        let number = |n: &str| n.parse::<usize>().ok().filter(|n| (1..=MOST_BATCH).contains(n)).ok_or_else(wrong);
        let (min, max) = text.split_once("..").unwrap_or(("1", text));
        if number(min)? != 1 {
            return Err(wrong());
        }
        let max = number(max)?;
        Ok(Self { min: 1, best: max, max })
    }
}

/// What to compile.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The TorchScript file.
    pub input: &'a Path,
    /// Where the compiled one goes.
    pub output: &'a Path,
    /// One input: channels, height, width.
    pub shape: [usize; 3],
    /// Batches.
    pub batch: BatchRange,
    /// What it computes in.
    pub precision: EnginePrecision,
    /// CUDA's number of the GPU.
    pub gpu: usize,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler, or a library that it needs, is missing.
    #[error(
        "{missing}; a model can also be compiled with Python's torch_tensorrt where that is installed (docs/TENSORRT.md has \
         the script) and taken with `semantic_depth export --tensorrt --engine FILE`"
    )]
    Missing {
        /// Which one.
        missing: RuntimeError,
    },
    /// The compiler cannot be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The compiler failed.
    #[error("{command} ended with {status} after {seconds} s; its last words: {last}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// How long it ran.
        seconds: u64,
        /// What it said.
        last: String,
    },
}

/// `torchtrtc` and the folders of its libraries.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: PathBuf,
    /// For `LD_LIBRARY_PATH`: the run path of the wheel's program leads nowhere outside its build.
    folders: Vec<PathBuf>,
}

impl Compiler {
    /// Finds it, and every library that it needs.
    ///
    /// # Errors
    /// One is missing.
    pub fn find(surroundings: &Surroundings) -> Result<Self, CompileError> {
        let find = |library| {
            surroundings
                .find(library)
                .ok_or_else(|| CompileError::Missing { missing: libraries::missing(surroundings, library) })
        };
        let program = find(Library::TorchTrtc)?.path;
        let mut folders: Vec<PathBuf> = Vec::new();
        for library in ORDER {
            let folder = find(library)?.path.parent().map(Path::to_path_buf).unwrap_or_default();
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        Ok(Self { program, folders })
    }

    /// Compiles; on failure there may be a part of the output. The compiler has the lock, too (as its input, which it does not
    /// read): it goes on for a while when this process is killed, and nobody else should compile meanwhile.
    ///
    /// # Errors
    /// The compiler does not start, fails, or writes nothing.
    pub fn run(&self, job: &Job, lock: &Lock) -> Result<(), CompileError> {
        let start = |source| CompileError::Start { program: self.program.clone(), source };
        let arguments = arguments(job);
        let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
        let command = format!("{} {}", self.program.display(), words.join(" "));
        log::info!("compiling for TensorRT, which takes minutes: {command}");

        let (reader, writer) = std::io::pipe().map_err(start)?;
        let mut child = {
            let mut process = Command::new(&self.program);
            process.args(&arguments).env("LD_LIBRARY_PATH", self.library_path());
            process.stdin(lock.shared().map_err(start)?);
            process.stdout(writer.try_clone().map_err(start)?).stderr(writer);
            // With `process`, our ends of the pipe are closed: it ends when the compiler does.
            process.spawn().map_err(start)?
        };
        let began = Instant::now();
        // Who reads does not wait for ever: every line is taken below, until the compiler's output ends.
        let (sender, lines) = mpsc::sync_channel(LINES_AHEAD);
        let reading = std::thread::Builder::new().name("torchtrtc".into()).spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                if sender.send(plain(&String::from_utf8_lossy(&line))).is_err() {
                    break;
                }
            }
        });
        if let Err(error) = reading {
            let _ = child.kill();
            let _ = child.wait();
            return Err(start(error));
        }
        let mut last = VecDeque::new();
        loop {
            match lines.recv_timeout(QUIET) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => {
                    log::info!("torchtrtc: {line}");
                    last.push_back(line);
                    if last.len() > LAST_LINES {
                        last.pop_front();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    log::info!("still compiling for TensorRT, {} s so far", began.elapsed().as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait().map_err(start)?;
        let seconds = began.elapsed().as_secs();
        let written = job.output.metadata().is_ok_and(|m| m.len() > 0);
        if status.success() && written {
            log::info!("compiled for TensorRT in {seconds} s");
            return Ok(());
        }
        let status = if status.success() { "success, but wrote nothing".into() } else { status.to_string() };
        let last = last.into_iter().collect::<Vec<_>>().join(" | ");
        Err(CompileError::Failed { command, status, seconds, last })
    }

    /// The folders, then what the variable holds now.
    fn library_path(&self) -> OsString {
        let before = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let before = std::env::split_paths(&before).filter(|p| !p.as_os_str().is_empty()).collect::<Vec<_>>();
        let all = self.folders.iter().cloned().chain(before);
        // A folder with a colon in its name cannot be in such a variable.
        std::env::join_paths(all.filter(|p| !p.to_string_lossy().contains(':'))).unwrap_or_default()
    }
}

/// The arguments, as `torchtrtc` of 2.11 reads them (`cpp/bin/torchtrtc/main.cpp`): the GPU's number is heeded only
/// together with the type of device.
fn arguments(job: &Job) -> Vec<OsString> {
    let [channels, height, width] = job.shape;
    let shape = |batch: usize| format!("({batch},{channels},{height},{width})");
    let BatchRange { min, best, max } = job.batch;
    let shapes = if min == max { shape(max) } else { format!("[{};{};{}]", shape(min), shape(best), shape(max)) };
    let kind = match job.precision {
        EnginePrecision::Fp32 => "f32",
        EnginePrecision::Fp16 => "f16",
    };
    let mut arguments: Vec<OsString> = vec![
        job.input.into(),
        job.output.into(),
        format!("{shapes}@{kind}").into(),
        "--info".into(),
        "-p".into(),
        kind.into(),
        "-d".into(),
        "gpu".into(),
        "--gpu-id".into(),
        job.gpu.to_string().into(),
        // It would compare with TorchScript within 1e-8 and only print what it finds.
        "--no-threshold-check".into(),
    ];
    if job.precision == EnginePrecision::Fp32 {
        arguments.push("--disable-tf32".into());
    }
    arguments
}

/// Without the colours of a terminal (`ESC [ ... letter`).
fn plain(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut text = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        text.push_str(&part[end..]);
    }
    text.trim_end().to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cache::Cache;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    /// A program in `torchtrtc`'s place: what is tested is how it is called and what its answers lead to.
    pub(in crate::tensorrt) fn stand_in(folder: &Path, script: &str) -> Compiler {
        let program = folder.join("torchtrtc");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("temporary");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("temporary");
        Compiler { program, folders: vec!["/some/libraries".into()] }
    }

    fn lock(folder: &Path) -> Lock {
        let cache = Cache::open(folder.join("cache")).expect("temporary");
        cache.lock(&super::super::cache::tests::key()).expect("free")
    }

    fn job<'a>(input: &'a Path, output: &'a Path) -> Job<'a> {
        let batch = BatchRange { min: 1, best: 4, max: 4 };
        Job { input, output, shape: [3, 400, 1024], batch, precision: EnginePrecision::Fp16, gpu: 1 }
    }

    #[test]
    fn the_arguments_are_torchtrtcs() {
        let (input, output) = (Path::new("in.ts"), Path::new("out.ts"));
        let words =
            |job: &Job| arguments(job).iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(&job(input, output)),
            "in.ts out.ts [(1,3,400,1024);(4,3,400,1024);(4,3,400,1024)]@f16 --info -p f16 -d gpu --gpu-id 1 \
             --no-threshold-check"
        );
        let one = BatchRange { min: 1, best: 1, max: 1 };
        assert_eq!(
            words(&Job { batch: one, precision: EnginePrecision::Fp32, gpu: 0, ..job(input, output) }),
            "in.ts out.ts (1,3,400,1024)@f32 --info -p f32 -d gpu --gpu-id 0 --no-threshold-check --disable-tf32"
        );
    }

    #[test]
    fn batch_ranges_are_read_strictly() {
        assert_eq!("4".parse(), Ok(BatchRange { min: 1, best: 4, max: 4 }));
        assert_eq!("1".parse(), Ok(BatchRange { min: 1, best: 1, max: 1 }));
        assert_eq!("1..6".parse(), Ok(BatchRange { min: 1, best: 6, max: 6 }));
        assert_eq!("1..32".parse(), Ok(BatchRange { min: 1, best: 32, max: 32 }));
        for wrong in ["", "0", "0..2", "2..4", "3..2", "1..", "..2", "1-2", "1..33", "33", "a"] {
            let error = wrong.parse::<BatchRange>().expect_err(wrong);
            assert!(error.contains("expected N or 1..N with N from 1 to 32"), "{error}");
        }
        assert_eq!(MOST_BATCH, crate::frame::pipeline::MOST_BATCH, "as many as are asked for, and no more");
    }

    #[test]
    fn the_compiler_gets_its_libraries_and_its_output_is_kept() {
        let folder = tempfile::tempdir().expect("temporary");
        let output = folder.path().join("out.ts");
        let compiler = stand_in(folder.path(), r#"echo "$LD_LIBRARY_PATH" > "$2""#);
        compiler.run(&job(Path::new("in.ts"), &output), &lock(folder.path())).expect("it wrote something");
        let path = fs::read_to_string(&output).expect("written");
        assert!(path.starts_with("/some/libraries"), "{path}");
    }

    /// As one goes on that was begun by a process which was killed.
    #[test]
    fn the_compiler_holds_the_lock_as_long_as_it_runs() {
        let folder = tempfile::tempdir().expect("temporary");
        let output = folder.path().join("out.ts");
        // What it starts in the background outlives it, with its input.
        let script = r#"exec 3<&0; (exec >&- 2>&-; sleep 1) & echo > "$2""#;
        stand_in(folder.path(), script).run(&job(Path::new("in.ts"), &output), &lock(folder.path())).expect("it wrote");
        let start = Instant::now();
        let _lock = lock(folder.path());
        assert!(start.elapsed() > Duration::from_millis(500), "{:?}", start.elapsed());
    }

    #[test]
    fn a_failure_says_what_was_run_and_the_last_words() {
        let folder = tempfile::tempdir().expect("temporary");
        let output = folder.path().join("out.ts");
        // More than may wait, and then the last ones.
        let script = r#"i=0; while [ $i -lt 300 ]; do echo "early $i"; i=$((i + 1)); done
            for i in 1 2 3 4 5 6 7 8; do echo "line $i"; done
            printf '\033[31mERROR\033[0m: no GPU\n' >&2; exit 3"#;
        let error = stand_in(folder.path(), script)
            .run(&job(Path::new("in.ts"), &output), &lock(folder.path()))
            .expect_err("it fails");
        let message = error.to_string();
        assert!(message.contains("torchtrtc in.ts") && message.contains("exit status: 3"), "{message}");
        assert!(message.ends_with("line 4 | line 5 | line 6 | line 7 | line 8 | ERROR: no GPU"), "{message}");

        let error = stand_in(folder.path(), "exit 0")
            .run(&job(Path::new("in.ts"), &output), &lock(folder.path()))
            .expect_err("nothing written");
        assert!(error.to_string().contains("wrote nothing"), "{error}");
        let nothing = Compiler { program: folder.path().join("absent"), folders: vec![] };
        let error = nothing.run(&job(Path::new("in.ts"), &output), &lock(folder.path())).expect_err("no program");
        assert!(matches!(error, CompileError::Start { .. }), "{error}");
    }

    #[test]
    fn a_missing_compiler_names_the_other_way() {
        let Err(error) = Compiler::find(&Surroundings::default()) else {
            return; // This machine has all of it in its system folders.
        };
        let message = error.to_string();
        assert!(message.contains("docs/TENSORRT.md") && message.contains("--engine FILE"), "{message}");
    }
}

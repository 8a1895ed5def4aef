//! CUDA's run-time compiler, which comes with libtorch's CUDA build, the CUDA toolkit and JetPack.

use super::machine::Program;
use crate::data::disk::write_atomically;
use crate::tensorrt::cache;
use crate::tensorrt::libraries::{open_global, Library, Surroundings};
use libloading::os::unix::Library as Handle;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void, CString};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// The compiler's own `nvrtcProgram`.
type Compilation = *mut c_void;

/// Machine code, as the driver loads it.
pub(super) type Code = Arc<[u8]>;

/// The compiler's functions. They stay in the process.
struct Nvrtc(Handle);

// SAFETY (of every use of `get`): the types are those of the functions in nvrtc.h.
macro_rules! function {
    ($nvrtc:expr, $name:literal, fn($($argument:ty),*)) => {
        unsafe { $nvrtc.0.get::<unsafe extern "C" fn($($argument),*) -> c_int>(concat!($name, "\0").as_bytes()) }
            .map_err(|e| format!("NVRTC has no {}: {e}", $name))?
    };
}

fn library() -> Result<&'static Nvrtc, String> {
    static LOADED: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
    let load = || {
        let surroundings = Surroundings::here();
        let find = |library: Library| {
            let names = library.file_names().join(" or ");
            let missing = || format!("{names} was not found; {}", library.how_to_install());
            surroundings.find(library).ok_or_else(missing)
        };
        // It looks for its other half by name, and its own folder is not always among those that are searched.
        let nvrtc = find(Library::Nvrtc)?;
        if let Some(builtins) = beside(&nvrtc.path) {
            if let Ok(handle) = crate::tensorrt::libraries::open(&builtins) {
                std::mem::forget(handle);
            }
        }
        open_global(&nvrtc).map(Nvrtc).map_err(|e| e.to_string())
    };
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// `libnvrtc-builtins.so.*` in the folder of `libnvrtc.so.*`.
fn beside(nvrtc: &Path) -> Option<std::path::PathBuf> {
    let major = nvrtc.file_name()?.to_str()?.rsplit('.').next()?.to_string();
    let start = format!("libnvrtc-builtins.so.{major}");
    let mut files = std::fs::read_dir(nvrtc.parent()?).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with(&start)))
}

/// A program's machine code for one architecture (`sm_90`), compiled once: a model that is loaded again finds it in the
/// process, the next process in a file ([`cache::folder`]).
///
/// # Errors
/// As [`compile`]'s.
pub(super) fn machine_code(program: Program, architecture: &str) -> Result<Code, String> {
    kept((program, architecture.into()), || {
        let source = program.source();
        let (major, minor) = version()?;
        let key = Sha256::digest(format!("NVRTC {major}.{minor} {architecture}\n{source}"));
        let file = cache::folder("kernels").map(|folder| folder.join(format!("{key:x}.cubin")));
        stored(file.ok().as_deref(), || {
            let start = Instant::now();
            let code = compile(&source, architecture)?;
            log::info!("the kernels were compiled for {architecture} in {:.1} s", start.elapsed().as_secs_f64());
            Ok(code)
        })
    })
}

/// What the file has, or what is made now and put there: sha256 and code. A file that is damaged is made anew; that one cannot be
/// written costs the next start some seconds, and no more.
fn stored(file: Option<&Path>, make: impl FnOnce() -> Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    let Some(file) = file else { return make() };
    let found = std::fs::read(file).unwrap_or_default();
    if let Some((sum, code)) = found.split_first_chunk::<32>() {
        if Sha256::digest(code)[..] == sum[..] {
            log::debug!("kernels: {}", file.display());
            return Ok(code.to_vec());
        }
        log::warn!("{} is damaged: the kernels are compiled anew", file.display());
    }
    let code = make()?;
    let written = write_atomically(file, |out| {
        out.write_all(&Sha256::digest(&code))?;
        out.write_all(&code)
    });
    if let Err(why) = written {
        log::info!("the kernels will be compiled at the next start, too: {why}");
    }
    Ok(code)
}

/// What was made for this key before, or is made now; an error is not kept.
fn kept(key: (Program, String), make: impl FnOnce() -> Result<Vec<u8>, String>) -> Result<Code, String> {
    static KEPT: Mutex<BTreeMap<(Program, String), Code>> = Mutex::new(BTreeMap::new());
    // Locked while it is made: who comes second waits instead of making its own.
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = kept.get(&key) {
        return Ok(code.clone());
    }
    let code: Code = make()?.into();
    kept.insert(key, code.clone());
    Ok(code)
}

/// The compiler's own.
#[allow(unsafe_code)]
fn version() -> Result<(c_int, c_int), String> {
    let version = function!(library()?, "nvrtcVersion", fn(*mut c_int, *mut c_int));
    let (mut major, mut minor) = (0, 0);
    // SAFETY: it writes two numbers.
    match unsafe { version(&mut major, &mut minor) } {
        0 => Ok((major, minor)),
        error => Err(format!("NVRTC could not tell its version: error {error}")),
    }
}

/// Compiles for one architecture (`sm_90`) into machine code.
///
/// # Errors
/// In words: there is no compiler, it does not know the architecture, the source is wrong.
#[allow(unsafe_code)]
fn compile(source: &str, architecture: &str) -> Result<Vec<u8>, String> {
    let nvrtc = library()?;
    let create = function!(
        nvrtc,
        "nvrtcCreateProgram",
        fn(*mut Compilation, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char)
    );
    let compile = function!(nvrtc, "nvrtcCompileProgram", fn(Compilation, c_int, *const *const c_char));
    let log_size = function!(nvrtc, "nvrtcGetProgramLogSize", fn(Compilation, *mut usize));
    let log = function!(nvrtc, "nvrtcGetProgramLog", fn(Compilation, *mut c_char));
    let code_size = function!(nvrtc, "nvrtcGetCUBINSize", fn(Compilation, *mut usize));
    let code = function!(nvrtc, "nvrtcGetCUBIN", fn(Compilation, *mut c_char));
    let destroy = function!(nvrtc, "nvrtcDestroyProgram", fn(*mut Compilation));
    let ok =
        |what: &str, code: c_int| if code == 0 { Ok(()) } else { Err(format!("NVRTC could not {what}: error {code}")) };
    let text = |text: &str| CString::new(text).map_err(|e| e.to_string());
    let (source, name) = (text(source)?, text("kernels.cu")?);
    let options = [text(&format!("--gpu-architecture={architecture}"))?, text("--std=c++17")?];
    let options: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
    let mut program: Compilation = std::ptr::null_mut();
    // SAFETY: every pointer is to something that lives across its call; the sizes are the compiler's own; the program is
    // destroyed once, at the end.
    unsafe {
        ok("begin", create(&mut program, source.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null()))?;
        let compiled = compile(program, options.len() as c_int, options.as_ptr());
        let mut size = 0;
        let result = if compiled == 0 {
            ok("tell the code's size", code_size(program, &mut size)).and_then(|()| {
                let mut bytes = vec![0_u8; size];
                ok("give the code", code(program, bytes.as_mut_ptr().cast())).map(|()| bytes)
            })
        } else {
            ok("tell the messages' size", log_size(program, &mut size)).and_then(|()| {
                let mut bytes = vec![0_u8; size];
                ok("give its messages", log(program, bytes.as_mut_ptr().cast()))?;
                let text = String::from_utf8_lossy(&bytes);
                let line = reason(&text);
                Err(format!("NVRTC did not compile the kernels for {architecture}: {line} (error {compiled})"))
            })
        };
        destroy(&mut program);
        result
    }
}

/// The line of the compiler's messages that says why it failed; warnings may come before it.
fn reason(messages: &str) -> &str {
    let lines = || messages.trim_matches(['\0', '\n', ' ']).lines();
    lines().find(|line| line.contains("error")).or(lines().next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_compilers_messages_the_first_error_is_told() {
        let warning = "frame.cu(3): warning #177-D: variable \"a\" was declared but never referenced";
        let error = "frame.cu(9): error: identifier \"b\" is undefined";
        assert_eq!(reason(&format!("{warning}\n  int a;\n\n{error}\n  b;\n1 error detected\n\0")), error);
        assert_eq!(reason(&format!("\n{warning}\n  int a;\n\0")), warning);
        assert_eq!(reason("\0"), "");
    }

    #[test]
    fn what_was_compiled_is_kept_by_program_and_architecture() {
        let of = |program, architecture: &str, code| kept((program, architecture.into()), || code);
        assert!(of(Program::Frame, "sm_test", Err("no compiler".into())).is_err());
        let first = of(Program::Frame, "sm_test", Ok(vec![1])).expect("the error was not kept");
        let again = kept((Program::Frame, "sm_test".into()), || panic!("it is there")).expect("kept");
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(*of(Program::Network, "sm_test", Ok(vec![2])).expect("another program"), [2]);
        assert_eq!(*of(Program::Frame, "sm_test2", Ok(vec![3])).expect("another device"), [3]);
    }

    #[test]
    fn what_was_compiled_is_there_for_the_next_process() {
        let folder = tempfile::tempdir().expect("temporary");
        let file = folder.path().join("new/kernels.cubin");
        let file = file.as_path();
        let never = || panic!("it is there");
        assert_eq!(stored(Some(file), || Err("no compiler".into())), Err("no compiler".into()));
        assert!(!file.exists(), "an error is not kept");
        assert_eq!(stored(Some(file), || Ok(vec![1, 2, 3])), Ok(vec![1, 2, 3]));
        assert_eq!(stored(Some(file), never), Ok(vec![1, 2, 3]));
        let whole = std::fs::read(file).expect("written");
        for damaged in [&whole[..whole.len() - 1], &whole[..20], &[], &[&whole[..], &[0]].concat()] {
            std::fs::write(file, damaged).expect("temporary");
            assert_eq!(stored(Some(file), || Ok(vec![4])), Ok(vec![4]), "{} bytes", damaged.len());
            assert_eq!(stored(Some(file), never), Ok(vec![4]));
        }
        // No place, and one that cannot be.
        assert_eq!(stored(None, || Ok(vec![5])), Ok(vec![5]));
        assert_eq!(stored(Some(&file.join("below a file")), || Ok(vec![5])), Ok(vec![5]));
    }

    #[test]
    fn machine_code_is_kept_in_the_users_cache() {
        // The folder is the environment's: this test runs itself.
        const CHILD: &str = "SEMANTIC_DEPTH_TEST_KERNELS";
        if std::env::var_os(CHILD).is_some() {
            return match library() {
                Ok(_) => drop(machine_code(Program::Frame, "sm_80").expect("it compiles")),
                Err(why) => println!("skipped: {why}"),
            };
        }
        let folder = tempfile::tempdir().expect("temporary");
        let name = "frame::network::cuda::nvrtc::tests::machine_code_is_kept_in_the_users_cache";
        let run = || {
            let output = std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", name, "--nocapture"])
                .env(CHILD, "1")
                .env(cache::FOLDER, folder.path())
                .output()
                .expect("it starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).contains("skipped: ")
        };
        if run() {
            return eprintln!("skipped: no NVRTC");
        }
        let files = || -> Vec<_> { std::fs::read_dir(folder.path()).expect("made").flatten().collect() };
        assert_eq!(files().len(), 1, "{:?}", files());
        let made = files()[0].metadata().and_then(|m| m.modified()).expect("a time");
        assert!(!run());
        assert_eq!(files().len(), 1);
        assert_eq!(files()[0].metadata().and_then(|m| m.modified()).expect("a time"), made, "it was made once");
    }

    // Tests of their own, so that they run beside each other.
    #[test]
    fn the_kernels_compile_for_an_a100() {
        compiles_for("sm_80");
    }

    #[test]
    fn the_kernels_compile_for_an_orin() {
        compiles_for("sm_87");
    }

    #[test]
    fn the_kernels_compile_for_an_h100() {
        compiles_for("sm_90");
    }

    #[test]
    fn the_kernels_compile_for_an_rtx_50() {
        compiles_for("sm_120");
    }

    fn compiles_for(architecture: &str) {
        if let Err(why) = library() {
            return eprintln!("skipped: {why}");
        }
        // The other program's kernels are among them.
        match compile(&Program::Network.source(), architecture) {
            // Only compilers since CUDA 12.8 know it.
            Err(why) if architecture == "sm_120" && why.contains("gpu-architecture") => eprintln!("skipped: {why}"),
            code => assert!(code.expect(architecture).starts_with(b"\x7fELF"), "for {architecture}"),
        }
    }

    #[test]
    fn what_does_not_compile_is_told_with_its_place() {
        if let Err(why) = library() {
            return eprintln!("skipped: {why}");
        }
        let error = compile("what?", "sm_80").expect_err("no CUDA");
        assert!(error.contains("kernels.cu(1)"), "{error}");
        let wrong = format!("{}\nwhat?", Program::Frame.source());
        let error = compile(&wrong, "sm_80").expect_err("no CUDA either");
        assert!(error.contains("frame.cu("), "messages name the file: {error}");
    }
}

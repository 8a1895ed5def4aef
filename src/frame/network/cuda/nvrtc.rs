//! CUDA's run-time compiler, which comes with libtorch's CUDA build, the CUDA toolkit and JetPack.

use crate::tensorrt::libraries::{open_global, Library, Surroundings};
use libloading::os::unix::Library as Handle;
use std::ffi::{c_char, c_int, c_void, CString};
use std::sync::OnceLock;

type Program = *mut c_void;

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
fn beside(nvrtc: &std::path::Path) -> Option<std::path::PathBuf> {
    let major = nvrtc.file_name()?.to_str()?.rsplit('.').next()?.to_string();
    let start = format!("libnvrtc-builtins.so.{major}");
    let mut files = std::fs::read_dir(nvrtc.parent()?).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with(&start)))
}

/// Compiles for one architecture (`sm_90`) into machine code.
///
/// # Errors
/// In words: there is no compiler, it does not know the architecture, the source is wrong.
#[allow(unsafe_code)]
pub(super) fn compile(source: &str, architecture: &str) -> Result<Vec<u8>, String> {
    let nvrtc = library()?;
    let create = function!(
        nvrtc,
        "nvrtcCreateProgram",
        fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char)
    );
    let compile = function!(nvrtc, "nvrtcCompileProgram", fn(Program, c_int, *const *const c_char));
    let log_size = function!(nvrtc, "nvrtcGetProgramLogSize", fn(Program, *mut usize));
    let log = function!(nvrtc, "nvrtcGetProgramLog", fn(Program, *mut c_char));
    let code_size = function!(nvrtc, "nvrtcGetCUBINSize", fn(Program, *mut usize));
    let code = function!(nvrtc, "nvrtcGetCUBIN", fn(Program, *mut c_char));
    let destroy = function!(nvrtc, "nvrtcDestroyProgram", fn(*mut Program));
    let ok =
        |what: &str, code: c_int| if code == 0 { Ok(()) } else { Err(format!("NVRTC could not {what}: error {code}")) };
    let text = |text: &str| CString::new(text).map_err(|e| e.to_string());
    let (source, name) = (text(source)?, text("kernels.cu")?);
    let options = [text(&format!("--gpu-architecture={architecture}"))?, text("--std=c++17")?];
    let options: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
    let mut program: Program = std::ptr::null_mut();
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
                let line = text.trim_matches(['\0', '\n', ' ']).lines().next().unwrap_or_default().to_string();
                Err(format!("NVRTC did not compile the kernels for {architecture}: {line} (error {compiled})"))
            })
        };
        destroy(&mut program);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::Program;
    use super::*;

    #[test]
    fn the_kernels_compile_for_every_generation_with_their_tensor_cores() {
        if let Err(why) = library() {
            eprintln!("skipped: {why}");
            return;
        }
        for architecture in ["sm_80", "sm_87", "sm_90", "sm_120"] {
            for program in [Program::Frame, Program::Network] {
                let code = compile(&program.source(), architecture).expect(architecture);
                assert!(code.starts_with(b"\x7fELF"), "{program:?} for {architecture}");
            }
        }
        let error = compile("what?", "sm_80").expect_err("no CUDA");
        assert!(error.contains("kernels.cu(1)"), "{error}");
        let wrong = format!("{}\nwhat?", Program::Frame.source());
        let error = compile(&wrong, "sm_80").expect_err("no CUDA either");
        assert!(error.contains("frame.cu("), "messages name the file: {error}");
    }
}

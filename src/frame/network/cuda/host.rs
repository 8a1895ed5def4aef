//! The kernels on the processor, compiled by the C++ compiler: see `host.h`.

use super::machine::{Address, Kernel, Launch, Machine, MachineError};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::cell::RefCell;
use std::ffi::c_void;
use std::process::Command;
use std::sync::OnceLock;

type Run = unsafe extern "C" fn(*const c_void, *const u32, u32, u32);

/// The compiled kernels, in the order of [`Kernel::ALL`]; `None` where there is no C++ compiler with half precision.
#[allow(unsafe_code)]
fn compiled() -> Option<&'static [Run]> {
    static COMPILED: OnceLock<Option<Vec<Run>>> = OnceLock::new();
    let compile = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let library = folder.path().join("kernels.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/frame/network/cuda/host.cpp");
        // No contraction: kernels before and after the network are to give the processor's own numbers. No checks of jumps,
        // which take a fiber's for one up its own stack.
        let mut flags =
            vec!["-O2", "-std=c++17", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-Wall", "-Wno-unknown-pragmas"];
        // Conversions of half precision without a call.
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("f16c") {
            flags.push("-mf16c");
        }
        flags.extend(["-fPIC", "-shared", source, "-o"]);
        let output = Command::new("c++").args(flags).arg(&library).output().ok()?;
        assert!(output.status.success(), "the kernels do not compile: {}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: our own library; its initialisers make thread-local variables only.
        let library = unsafe { Library::open(Some(&library), RTLD_NOW | RTLD_LOCAL) }.expect("it has just been made");
        // SAFETY: `HOST_KERNEL` defines each with this signature.
        let symbol = |kernel: Kernel| unsafe {
            *library.get::<Run>(format!("host_{}\0", kernel.name()).as_bytes()).expect("every kernel is defined")
        };
        let runs = Kernel::ALL.map(symbol).to_vec();
        std::mem::forget(library);
        Some(runs)
    };
    COMPILED.get_or_init(compile).as_deref()
}

/// The processor as a machine.
#[derive(Debug)]
pub(super) struct Host {
    runs: &'static [Run],
    memory: RefCell<Vec<Vec<u64>>>,
}

impl Host {
    /// `None`, said on standard error, where there is no C++ compiler: every machine that builds this project has one.
    pub fn new() -> Option<Self> {
        let runs = compiled();
        if runs.is_none() {
            eprintln!("skipped: no C++ compiler");
        }
        Some(Self { runs: runs?, memory: RefCell::default() })
    }

    #[allow(unsafe_code)]
    pub fn values<T: Copy>(&self, at: Address, count: usize) -> Vec<T> {
        // SAFETY: tests ask for what kernels wrote to memory of `allocate`, which lives as long as `self`.
        unsafe { std::slice::from_raw_parts(at as *const T, count).to_vec() }
    }
}

impl Machine for Host {
    fn allocate(&self, bytes: usize) -> Result<Address, MachineError> {
        // 16 more, so that it can be aligned for eight channels.
        let block = vec![0_u64; bytes.div_ceil(8) + 2];
        let at = (block.as_ptr() as Address).next_multiple_of(16);
        self.memory.borrow_mut().push(block);
        Ok(at)
    }

    #[allow(unsafe_code)]
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), MachineError> {
        // SAFETY: memory of `allocate`, at least as long.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    #[allow(unsafe_code)]
    fn launch(&self, launch: &Launch) -> Result<(), MachineError> {
        assert!(launch.fits(), "{}: no device has a grid of {:?} blocks", launch.kernel.name(), launch.grid);
        let run = self.runs[launch.kernel as usize];
        // SAFETY: the arguments are the kernel's structure with addresses of this machine's memory.
        unsafe { run(launch.arguments().cast(), launch.grid.as_ptr(), launch.threads, launch.shared) };
        Ok(())
    }
}

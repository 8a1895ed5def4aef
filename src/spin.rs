//! How long libtorch's threads spin before they sleep, which is decided before there is any of this code.
//!
//! A thread of libtorch's that has done its part waits for the others by spinning, for milliseconds (libgomp counts to 300,000).
//! Where another process wants the core, the spinning thread keeps it from the very one that it waits for: a pass of some thirty
//! milliseconds then takes seconds. Counting to 2000 is long enough for the gaps between the network's parts, and short enough to
//! give way (docs/BENCHMARKS.md, "Beside another process").

/// What libgomp reads, as it is loaded.
const COUNT: &str = "GOMP_SPINCOUNT";
/// What says the same in OpenMP's own words.
const POLICY: &str = "OMP_WAIT_POLICY";
/// Of `pause` instructions, some 25 to 90 microseconds. Other architectures' loops are of another length, and were not measured.
const LITTLE: &str = "2000";

/// Starts the program anew, in the same process, with less spinning, unless the environment says how long. Returns where that is
/// so or it cannot be done. Before anything else: what was done so far is done again.
pub fn little() {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) || [COUNT, POLICY].map(std::env::var_os) != [None, None]
    {
        return;
    }
    #[cfg(target_os = "linux")]
    if let Some(program) = std::env::current_exe().ok().filter(|program| is_ours(program)) {
        use std::os::unix::process::CommandExt as _;
        let mut arguments = std::env::args_os();
        let mut command = std::process::Command::new(program);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        // Where it fails, everything works, only slower beside others.
        let _ = command.args(arguments).env(COUNT, LITTLE).exec();
    }
}

/// Not a loader, which was told to run the program and would take our arguments for its own.
#[cfg(target_os = "linux")]
fn is_ours(program: &std::path::Path) -> bool {
    program.file_name().is_some_and(|name| name == "semantic_depth" || name == "semantic_depth_node")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_loader_is_not_started_anew() {
        assert!(is_ours(Path::new("/ws/install/lib/semantic_depth/semantic_depth_node")));
        assert!(!is_ours(Path::new("/lib64/ld-linux-x86-64.so.2")) && !is_ours(Path::new("/")));
    }
}

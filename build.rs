//! Gives the binaries a run path to the libtorch they were built against, so that they start without
//! `LD_LIBRARY_PATH`. torch-sys publishes where that is as `DEP_TCH_LIBTORCH_LIB`.
//!
//! Also sets `cfg(has_vision_msgs)` and `cfg(has_bond)` where r2r generates Rust for those packages (see CMakeLists.txt).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        println!("cargo:rustc-env=SEMANTIC_DEPTH_LIBTORCH_LIB={lib}");
    }
    println!("cargo:rerun-if-env-changed=IDL_PACKAGE_FILTER");
    let packages = std::env::var("IDL_PACKAGE_FILTER").unwrap_or_default();
    for optional in ["vision_msgs", "bond"] {
        println!("cargo:rustc-check-cfg=cfg(has_{optional})");
        if packages.split(';').any(|package| package == optional) {
            println!("cargo:rustc-cfg=has_{optional}");
        }
    }
}

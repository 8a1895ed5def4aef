//! Gives the binaries a run path to the libtorch they were built against, so that they start without
//! `LD_LIBRARY_PATH`. torch-sys publishes where that is as `DEP_TCH_LIBTORCH_LIB`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        println!("cargo:rustc-env=SEMANTIC_DEPTH_LIBTORCH_LIB={lib}");
    }
}

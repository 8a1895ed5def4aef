//! What ARCHITECTURE.md says of the source tree, held against the source tree.

use std::path::{Path, PathBuf};

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Files of `src` whose code (not comments) holds `word`, relative to `src`.
fn files_with(word: &str) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 30, "only {} source files were found", files.len());
    let holds = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("a source file");
        text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word))
    };
    let mut found: Vec<String> = files
        .iter()
        .filter(|f| holds(f))
        .map(|f| f.strip_prefix(&src).expect("below src").to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

#[test]
fn ros_is_spoken_in_the_node_and_the_demo_only() {
    let speakers = files_with("r2r::");
    assert!(speakers.iter().any(|f| f.starts_with("node/")), "the search finds nothing: {speakers:?}");
    let others: Vec<_> = speakers.iter().filter(|f| !f.starts_with("node/") && !f.starts_with("demo/")).collect();
    assert!(others.is_empty(), "r2r is used outside of node/ and demo/: {others:?}");
}

#[test]
fn every_thread_has_a_name() {
    let unnamed = files_with("thread::spawn(");
    assert!(unnamed.is_empty(), "use thread::Builder with a name: {unnamed:?}");
    assert!(!files_with("thread::Builder::new()").is_empty(), "the search finds nothing");
}

#[test]
fn unsafe_code_says_why() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in files_with("unsafe {").into_iter().chain(files_with("unsafe impl")) {
        let text = std::fs::read_to_string(src.join(&file)).expect("a source file");
        assert!(text.contains("// SAFETY:"), "{file} has unsafe code without a SAFETY comment");
    }
}

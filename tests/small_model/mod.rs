//! Models to export for tests, with random weights where no sense is needed in their answers.
#![allow(dead_code, reason = "each test program takes what it needs of this")]

#[path = "../../src/model/seeded.rs"]
mod seeded;

use semantic_depth::export::trace::ExportRequest;
use semantic_depth::model::{weights, Network, NetworkConfig};
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::Device;

/// Random weights of the usual network in a folder, always the same file.
pub fn random_weights(folder: &Path) -> PathBuf {
    let path = folder.join("w.safetensors");
    if !path.exists() {
        let vs = VarStore::new(Device::Cpu);
        Network::new(&vs.root(), &NetworkConfig::default());
        seeded::start(&vs, 5, |name| name.ends_with("bias").then_some([-0.05, 0.05]));
        weights::save(&vs, &path).expect("saved");
    }
    path
}

/// An export of weights of the usual network at a size (width, height).
pub fn request(weights: PathBuf, size: (usize, usize)) -> ExportRequest {
    ExportRequest {
        weights,
        refinement: weights::RefinementSource::Weights,
        network: NetworkConfig::default(),
        size,
        full_size: false,
        focal_length_px: 110.0,
        name: "small".into(),
        training: "random weights".into(),
        command: "test".into(),
        created: "2026-01-01T00:00:00Z".into(),
    }
}

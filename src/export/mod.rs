//! From weights to a deployable model: a TorchScript file and its manifest, and back into a loaded model.

pub mod manifest;

pub use manifest::Manifest;

//! Classes, the depth code, samples on disk, augmentation, and the street renderer.

pub mod classes;
pub mod depth;

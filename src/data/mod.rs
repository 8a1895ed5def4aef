//! Classes, the depth code, samples on disk, augmentation, and the street renderer.

pub mod augment;
pub mod cityscapes;
pub mod classes;
pub mod depth;
pub mod npy;
pub mod street;

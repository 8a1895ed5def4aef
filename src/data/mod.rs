//! Classes, the depth code, samples on disk in several layouts, augmentation, the surfaces that depth shows, and the street renderer.

pub mod augment;
pub mod cityscapes;
pub mod classes;
pub mod colour;
pub mod depth;
pub mod disk;
pub mod frame;
pub mod npy;
pub(crate) mod picture;
pub mod source;
pub mod street;
pub mod surface;
pub(crate) mod zip;

//! One frame's path, in order of travel: decode ([`view`], [`compressed`], [`convert`]) -> [`input`] -> [`network`] ->
//! [`output`], joined by [`pipeline`], its [`geometry`], and its stage [`clock`]. What follows from the outputs: with a
//! calibration ([`camera`]) the point [`cloud`], and lossless pictures ([`png`]). The two ROS ends (arrive, publish) are
//! in `crate::node`.

pub mod amend;
pub mod camera;
pub mod clock;
pub mod cloud;
pub mod compressed;
pub mod convert;
pub mod geometry;
pub mod input;
pub mod network;
#[cfg(test)]
mod noise;
pub mod output;
pub mod pipeline;
pub mod png;
mod resample;
pub mod view;

//! One frame's path, in order of travel: decode ([`view`]) -> [`input`] -> [`network`] -> [`output`], joined by
//! [`pipeline`], its [`geometry`], and its stage [`clock`]. The two ROS ends (arrive, publish) are in `crate::node`.

pub mod clock;
pub mod geometry;
pub mod input;
pub mod network;
pub mod output;
pub mod pipeline;
mod resample;
pub mod view;

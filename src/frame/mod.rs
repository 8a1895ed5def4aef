//! One frame's path, in order of travel: decode ([`view`], [`compressed`], [`convert`]) -> [`input`] -> [`network`] -> [`output`], joined by
//! [`pipeline`], and its stage [`clock`]. The two ROS ends (arrive, publish) are in `crate::node`.

pub mod clock;
pub mod compressed;
pub mod convert;
pub mod input;
pub mod network;
pub mod output;
pub mod pipeline;
pub mod view;

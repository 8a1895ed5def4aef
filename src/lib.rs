//! `semantic_depth`: semantic labels and metric depth from one camera image, in one pass of one light network.
//!
//! The modules in reading order:
//!
//! - [`data`]: classes, the depth code, samples, augmentation, the street renderer
//! - [`model`]: the network in tch, weights in and out
//! - [`export`]: the deployable artifact (TorchScript and manifest)
//! - [`frame`]: one frame's path from bytes to labels and metres
//! - `cpu`: vector instructions and libtorch's threads, for what is computed without libtorch's operators
//! - [`depth`]: depth truth made from stereo: disparity, a semi-global matcher, a TorchScript teacher
//! - [`tensorrt`]: engines compiled for one GPU: inspected, compiled, cached, and the libraries that run them
//! - [`train`], [`eval`]: how weights are made and judged
//! - `node`, `demo` (feature `ros`): the ROS 2 node, and the demo that drives it
//! - [`allocator`]: the C library's allocator, told to keep large blocks
//! - [`spin`]: how long libtorch's threads spin before they sleep
//! - [`causes`]: an error in one line
//! - `panics`: others' panics as errors
//! - [`installed`]: files that are installed with the package
//! - [`interface`]: parameters, topics, services and diagnostics as tables, and what is made of them
//! - [`mod@bench`]: how fast and at what cost in memory and energy a model runs on this machine
//! - `system`: what the machine says of itself
//! - `yaml`: YAML from outside
//! - `nearest`: the name that was probably meant
//! - [`cli`]: the command line's verbs

pub mod allocator;
pub mod bench;
pub mod causes;
pub mod cli;
pub(crate) mod cpu;
pub mod data;
#[cfg(feature = "ros")]
pub(crate) mod demo;
pub mod depth;
pub mod eval;
pub mod export;
pub mod frame;
pub mod installed;
pub mod interface;
pub mod model;
pub(crate) mod nearest;
#[cfg(feature = "ros")]
pub mod node;
pub(crate) mod panics;
pub(crate) mod pickle;
pub mod spin;
pub(crate) mod system;
pub mod tensorrt;
pub mod train;
pub(crate) mod yaml;

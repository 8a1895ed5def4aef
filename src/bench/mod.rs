//! How fast, and at what cost in memory and energy, a model runs on this machine: `semantic_depth bench`.
//!
//! - [`measure`]: repetitions and what is made of their times
//! - [`network`]: the network alone, by the article's protocol, and at other sizes
//! - [`frames`]: whole frames through the pipeline, alone and several together, and the memory that takes
//! - [`encode`]: their pictures in any encoding
//! - [`memory`]: of this process and of its GPU; what machine this is
//! - [`energy`]: joules, from NVML, a Jetson's power rails or RAPL
//! - [`ceilings`]: what the device can do at most, measured, and how near the network comes
//! - [`versions`]: of the libraries that did the work
//! - [`report`]: the results as JSON and as a table

pub mod ceilings;
pub mod encode;
pub mod energy;
pub mod frames;
pub mod measure;
pub mod memory;
pub mod network;
pub mod report;
pub mod versions;

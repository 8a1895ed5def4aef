//! How weights are made: configuration, batches, losses, schedule, and the loop.
//!
//! - [`config`]: what a training run is
//! - [`batches`]: decoded frames, augmented on their own thread into batches
//! - [`losses`]: cross entropy and the depth code's mean squared error
//! - [`schedule`]: one cycle, cosine
//! - [`run`]: the loop

pub mod batches;
pub mod config;
pub mod losses;
pub mod run;
pub mod schedule;

pub use config::TrainConfig;

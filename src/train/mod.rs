//! How weights are made: configuration, batches, losses, schedule, and the loop.
//!
//! - [`config`]: what a training run is
//! - [`batches`]: decoded frames, augmented on their own thread into batches
//! - [`ema`]: the exponential moving average of the weights
//! - [`losses`]: cross entropy and the depth code's mean squared error
//! - [`optimizer`]: Adam and AdamW whose state can be saved
//! - [`schedule`]: one cycle, cosine
//! - [`run`]: the loop

pub mod batches;
pub mod config;
pub mod ema;
pub mod losses;
pub mod optimizer;
pub mod run;
pub mod schedule;

pub use config::TrainConfig;

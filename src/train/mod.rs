//! How weights are made.
//!
//! - [`config`]: what a training run is; `pair`: its values that are two
//! - [`batches`]: frames of all sources, mixed and augmented on their own threads into batches; [`packed`]: how these lie in
//!   host memory
//! - [`labels`], [`targets`]: the truth of each task; [`expert`]: a model's answers where a source has no truth
//! - [`losses`], [`objective`]: each task's loss, and their sum
//! - [`step`]: one pass forwards and backwards; [`quarter`]: the 1/4 stage's part of it on a processor
//! - [`optimizer`], [`schedule`], [`loss_scale`], [`ema`]: how weights move
//! - [`checkpoint`]: all of a run's state in one file; [`origin`]: what its data are
//! - [`validate`], [`record`], [`events`], [`pictures`]: how a run is looked at
//! - [`run`]: the loop

pub mod batches;
pub mod checkpoint;
pub mod config;
pub mod ema;
pub mod events;
pub mod expert;
mod guard;
pub mod labels;
pub mod loss_scale;
pub mod losses;
pub mod objective;
pub mod optimizer;
pub mod origin;
pub mod packed;
mod pair;
pub mod pictures;
pub mod quarter;
pub mod record;
pub mod run;
pub mod schedule;
pub mod step;
pub mod targets;
pub mod validate;

pub use config::TrainConfig;

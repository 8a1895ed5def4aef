//! How well a model does: segmentation and depth measures, and the report of them.
//!
//! - [`confusion`], [`depth`]: the measures themselves
//! - [`classes`]: the classes of a source, and its foreground and background
//! - [`bands`]: by distance and by image row; [`distribution`]: histograms of depth; [`leak`]: the bottoms of poles;
//!   [`ground`]: the road and what stands on it, where no depth is known; [`pieces`] of a class for both; [`normals`]
//! - [`answer`]: what a model says to a frame; [`judge`]: all of them over a data set, read by [`mod@ahead`]; [`summary`]: as they are written out
//! - [`plots`], [`pictures`], [`report`]: as a page for a person

pub mod ahead;
pub mod answer;
pub mod bands;
pub mod classes;
pub mod confusion;
pub mod depth;
pub mod distribution;
pub mod ground;
pub mod judge;
pub mod leak;
pub mod normals;
pub mod pictures;
pub mod pieces;
pub mod plots;
pub mod report;
pub mod summary;

pub use classes::ClassTable;
pub use confusion::Confusion;
pub use depth::{DepthErrors, DepthReport, JUDGED_M};
pub use judge::Judge;
pub use summary::Summary;

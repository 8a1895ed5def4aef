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

use crate::export::trace::{ExportError, WEIGHTS};
use crate::frame::geometry::GeometryError;
use crate::frame::network::NetworkError;
use crate::frame::view::LayoutError;
use std::path::PathBuf;

/// Why it cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The network cannot be loaded or run.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The model cannot be exported at another size.
    #[error("at {width}x{height}: {source}")]
    Export {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// Why.
        source: ExportError,
    },
    /// A size.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A picture.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Where models of other sizes are to be written.
    #[error("no temporary folder: {0}")]
    Folder(#[from] std::io::Error),
    /// There is nothing to export from.
    #[error(
        "the model in {dir} has no {} among its files, which the parts scaling and ceilings need; export it \
         again from its weights, or leave these parts out",
        WEIGHTS
    )]
    NoWeights {
        /// The model's folder.
        dir: PathBuf,
    },
}

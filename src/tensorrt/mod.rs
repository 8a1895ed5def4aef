pub mod archive;
pub mod check;
pub mod cuda;
pub mod libraries;
mod pickle;
pub mod version;

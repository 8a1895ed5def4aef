//! The one place where parameters, topics, services and diagnostics are written down. No ROS types: the node
//! (`crate::node`) and the documents ([`documents`]) both follow these tables.
//!
//! - [`parameters`]: the table; [`value`]: values and types
//! - [`set`]: values read, checked, changed, with the nearest name where one is misspelt
//! - [`settings`]: the values, typed, for the node, for each camera, for diagnostics
//! - [`qos`]: the parameters of `qos_overrides`
//! - [`classes`]: class names held against a model's table
//! - [`topics`]: topics and services; [`diagnostics`]: statuses and keys
//! - [`documents`], [`schema`]: what is made of the tables

pub mod classes;
pub mod diagnostics;
pub mod documents;
pub mod parameters;
pub mod qos;
pub mod schema;
pub mod set;
pub mod settings;
pub mod topics;
pub mod value;

pub use parameters::{Rule, PARAMETERS};
pub use set::{Change, ParameterSet};
pub use settings::{CameraSettings, Limit, NodeSettings, Severity, Thresholds};
pub use value::{Kind, Value};

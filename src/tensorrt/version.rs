//! Versions and capabilities that an engine is bound to.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of TensorRT: `10.15.1.29`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorRtVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
    /// Fourth number; the library of an older version does not tell it.
    pub build: Option<u32>,
}

impl TensorRtVersion {
    /// From what `getInferLibVersion()` returns (`major * 10000 + minor * 100 + patch` since version 10, `major * 1000`
    /// before) and, where it is known, the build.
    pub fn from_library(version: u32, build: Option<u32>) -> Self {
        let base = if version >= 100_000 { 10_000 } else { 1_000 };
        Self { major: version / base, minor: version % base / 100, patch: version % 100, build }
    }

    /// TensorRT runs a plan of exactly its own version. Builds are compared where both are known.
    pub fn runs(self, plan: Self) -> bool {
        let numbers = |v: Self| (v.major, v.minor, v.patch);
        let builds_fit = match (self.build, plan.build) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        numbers(self) == numbers(plan) && builds_fit
    }
}

impl fmt::Display for TensorRtVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        match self.build {
            Some(build) => write!(f, ".{build}"),
            None => Ok(()),
        }
    }
}

/// What generation of GPU: `8.7` is Orin, `9.0` Hopper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeCapability {
    /// Before the point.
    pub major: u32,
    /// After the point.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_versions_of_both_codings_are_read() {
        // 101501 is what the library of 10.15.1.29 answers.
        assert_eq!(TensorRtVersion::from_library(101_501, Some(29)).to_string(), "10.15.1.29");
        assert_eq!(TensorRtVersion::from_library(8601, None).to_string(), "8.6.1");
    }

    #[test]
    fn a_plan_runs_on_its_own_version_only() {
        let plan = TensorRtVersion::from_library(101_501, Some(29));
        assert!(plan.runs(plan));
        assert!(TensorRtVersion { build: None, ..plan }.runs(plan));
        for other in [
            TensorRtVersion { major: 11, ..plan },
            TensorRtVersion { minor: 14, ..plan },
            TensorRtVersion { patch: 0, ..plan },
            TensorRtVersion { build: Some(28), ..plan },
        ] {
            assert!(!other.runs(plan), "{other}");
        }
    }
}

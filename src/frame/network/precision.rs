//! The number format that the network computes in.

use std::str::FromStr;
use tch::Kind;
use thiserror::Error;

/// What the network computes in. Inputs are built and answers are read in single precision whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// The best for the device whose answers stay near those of single precision: fp16 on CUDA, fp32 on the processor.
    #[default]
    Auto,
    /// Single precision.
    Fp32,
    /// Half precision.
    Fp16,
    /// `bfloat16`: single precision's range with 8 bits of significand.
    Bf16,
}

/// Not the name of a precision.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("precision {0:?} is not known; write auto, fp32, fp16 or bf16")]
pub struct PrecisionParseError(String);

impl FromStr for Precision {
    type Err = PrecisionParseError;

    fn from_str(s: &str) -> Result<Self, PrecisionParseError> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == s);
        found.ok_or_else(|| PrecisionParseError(s.chars().take(32).collect()))
    }
}

impl Precision {
    const ALL: [Self; 4] = [Self::Auto, Self::Fp32, Self::Fp16, Self::Bf16];

    /// libtorch's name of it.
    pub fn kind(self) -> Kind {
        match self {
            Self::Auto | Self::Fp32 => Kind::Float,
            Self::Fp16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }

    /// The one of libtorch's name, if there is one.
    pub fn of(kind: Kind) -> Option<Self> {
        [Self::Fp32, Self::Fp16, Self::Bf16].into_iter().find(|precision| precision.kind() == kind)
    }

    /// `auto`, `fp32`, `fp16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }
}

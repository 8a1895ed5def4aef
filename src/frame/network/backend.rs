//! What can run the network.

use std::str::FromStr;
use thiserror::Error;

/// What runs the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The model's TorchScript in libtorch, on any device.
    TorchScript,
    /// TorchScript with TensorRT engines that were compiled for the GPU at hand.
    TensorRt,
    /// Own kernels: on a CUDA device for all of it, on the processor where libtorch is slow.
    Native,
}

impl Backend {
    const ALL: [Self; 3] = [Self::TorchScript, Self::TensorRt, Self::Native];

    /// As in parameters and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::TorchScript => "torchscript",
            Self::TensorRt => "tensorrt",
            Self::Native => "native",
        }
    }
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// The best that can run the model here.
    #[default]
    Auto,
    /// This one.
    Only(Backend),
}

/// Not the name of a back end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("back end {0:?} is not known; write auto, torchscript, tensorrt or native")]
pub struct BackendParseError(String);

impl FromStr for BackendChoice {
    type Err = BackendParseError;

    fn from_str(s: &str) -> Result<Self, BackendParseError> {
        if s == "auto" {
            return Ok(Self::Auto);
        }
        let found = Backend::ALL.into_iter().find(|backend| backend.name() == s);
        found.map(Self::Only).ok_or_else(|| BackendParseError(s.chars().take(32).collect()))
    }
}

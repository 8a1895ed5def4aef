//! Stands in for types of `crate::frame` that are being written; removed when they are there.
#![allow(missing_docs)]
use std::str::FromStr;
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    Auto,
    Fp32,
    Fp16,
    Bf16,
}
impl FromStr for Precision {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        match s {
            "auto" => Ok(Self::Auto),
            "fp32" => Ok(Self::Fp32),
            "fp16" => Ok(Self::Fp16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(()),
        }
    }
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeMode {
    Stretch,
    Letterbox,
    Crop,
    Roi,
}
impl FromStr for ResizeMode {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        match s {
            "stretch" => Ok(Self::Stretch),
            "letterbox" => Ok(Self::Letterbox),
            "crop" => Ok(Self::Crop),
            "roi" => Ok(Self::Roi),
            _ => Err(()),
        }
    }
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputSize {
    Source,
    Network,
    Fixed { width: usize, height: usize },
}
impl FromStr for OutputSize {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        match s {
            "source" => Ok(Self::Source),
            "network" => Ok(Self::Network),
            _ => {
                let (w, h) = s.split_once('x').ok_or(())?;
                Ok(Self::Fixed { width: w.parse().map_err(drop)?, height: h.parse().map_err(drop)? })
            }
        }
    }
}
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    pub mode: ResizeMode,
    pub roi: Option<Rect>,
    pub output: OutputSize,
}
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DepthScaling {
    CameraInfo,
    None,
    Factor(f64),
}
impl FromStr for DepthScaling {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        match s {
            "camera_info" => Ok(Self::CameraInfo),
            "none" => Ok(Self::None),
            _ => s.parse().map(Self::Factor).map_err(drop),
        }
    }
}

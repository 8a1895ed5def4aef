//! Stands in for a type of `crate::frame` that is being written; removed when it is there.
#![allow(missing_docs)]
use std::str::FromStr;
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
            _ => s.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0).map(Self::Factor).ok_or(()),
        }
    }
}

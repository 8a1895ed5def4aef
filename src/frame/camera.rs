//! What a camera's calibration says: focal lengths for the depth's scale, the calibration of a resized picture, and
//! the ray of every output pixel.
//!
//! Everything is in `sensor_msgs/CameraInfo`'s terms. Its K, P and D belong to the *full* sensor, whose size `width`
//! and `height` are; the picture beside it may be a region of interest of that, and binned: a full-resolution
//! coordinate `u` is `(u - roi.x_offset) / binning_x` in the picture (`image_geometry::PinholeCameraModel` does the
//! same). Pixel coordinates are those of pixel centres: the first pixel's centre is 0.

use super::geometry::{Geometry, OutputMap};
use rayon::prelude::*;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Rays steeper than this against the optical axis (89 degrees) have no x/z worth the name: tan 89 degrees.
const MAX_TANGENT: f64 = 57.289_961_630_759_42;
/// What a camera's focal length may multiply depth by: beyond, it is not in pixels.
pub(crate) const LEAST_FACTOR: f64 = 1e-3;
pub(crate) const MOST_FACTOR: f64 = 1e3;
/// Largest distortion coefficient of a lens. Those of a strong fisheye's polynomial are some hundreds.
const MOST_DISTORTION: f64 = 1e6;
/// Distortion coefficients below it are 0: they move no ray, and computing with what is denormal takes a hundred times as long.
const LEAST_DISTORTION: f64 = 1e-30;
/// The same limit as an angle in radians.
const MAX_ANGLE: f64 = 89.0 * std::f64::consts::PI / 180.0;
/// How near, in units of x/z, the distorted solution must come to the pixel: a ten-thousandth of a pixel at a focal
/// length of 10000 pixels.
const TOLERANCE: f64 = 1e-8;

/// Why a calibration is of no use for rays.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CameraError {
    /// No focal length.
    #[error("camera_info is not calibrated: the focal lengths in {matrix} are {fx} and {fy}, expected both above 0")]
    Uncalibrated {
        /// `K`, or `P` for a rectified input.
        matrix: &'static str,
        /// Pixels.
        fx: f64,
        /// Pixels.
        fy: f64,
    },
    /// The calibration belongs to pictures of another size.
    #[error(
        "camera_info is for images of {}x{} pixels (ROI and binning applied), but the image has {}x{}",
        expected.0, expected.1, found.0, found.1
    )]
    Size {
        /// Width and height that the calibration says.
        expected: (u32, u32),
        /// Width and height of the image.
        found: (usize, usize),
    },
    /// The distortion model is none that is read.
    #[error(
        "camera_info's distortion_model {model:?} with {coefficients} coefficients is not supported; \
         expected plumb_bob or rational_polynomial (4, 5, 8 or 12; 14 with tilt 0) or equidistant (4), \
         or a rectified image with input_rectified"
    )]
    Model {
        /// As it came, at most 32 characters of it.
        model: String,
        /// How many came with it.
        coefficients: usize,
    },
    /// No camera has such a focal length.
    #[error(
        "camera_info's focal lengths in {matrix} are {fx} and {fy}: depth would be multiplied by less than {LEAST_FACTOR} or more \
         than {MOST_FACTOR}; expected pixels"
    )]
    Implausible {
        /// `K`, or `P` for a rectified input.
        matrix: &'static str,
        /// As it came.
        fx: f64,
        /// As it came.
        fy: f64,
    },
    /// Nothing can be seen through any pixel.
    #[error(
        "camera_info gives no pixel a ray: the principal point, the region of interest or the distortion is far off"
    )]
    NoRays,
    /// No lens has such a distortion.
    #[error("camera_info's D holds {value:e}; expected -{MOST_DISTORTION:e} to {MOST_DISTORTION:e}")]
    Distortion {
        /// As it came.
        value: f64,
    },
    /// A distortion that hardly any ray can be found through.
    #[error("camera_info's distortion takes more than {seconds} s to undo, so it is that of no lens; calibrate the camera anew")]
    Slow {
        /// How long it was tried.
        seconds: f64,
    },
    /// A number in the calibration is NaN or infinite.
    #[error("camera_info's {field} holds a number that is not finite")]
    NotFinite {
        /// `K`, `P` or `D`.
        field: &'static str,
    },
}

/// Region of interest of the sensor, in full-resolution pixels (`sensor_msgs/RegionOfInterest`). All zero: the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoiInfo {
    /// Leftmost column.
    pub x_offset: u32,
    /// Topmost row.
    pub y_offset: u32,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// Whether a rectified picture should be cut to it too; carried along.
    pub do_rectify: bool,
}

/// A camera's calibration as `sensor_msgs/CameraInfo` has it, without ROS types.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// Columns of the full sensor.
    pub width: u32,
    /// Rows of the full sensor.
    pub height: u32,
    /// `plumb_bob`, `rational_polynomial`, `equidistant`.
    pub model: String,
    /// Distortion coefficients.
    pub d: Vec<f64>,
    /// Camera matrix of the raw picture, 3 x 3.
    pub k: [f64; 9],
    /// Rectification, 3 x 3; carried along.
    pub r: [f64; 9],
    /// Projection of the rectified picture, 3 x 4.
    pub p: [f64; 12],
    /// Sensor columns a picture column; 0 means 1.
    pub binning_x: u32,
    /// Sensor rows a picture row; 0 means 1.
    pub binning_y: u32,
    /// The part of the sensor that the picture shows.
    pub roi: RoiInfo,
}

/// Focal lengths and principal point in pixels of the picture itself (region of interest and binning applied).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pinhole {
    fx: f64,
    fy: f64,
    cx: f64,
    cy: f64,
}

impl Calibration {
    /// Whether K holds focal lengths: `K[0]` and `K[4]` are finite and above 0.
    pub fn is_calibrated(&self) -> bool {
        focal_lengths(self.k[0], self.k[4]).is_some()
    }

    /// Focal lengths in pixels of the picture beside this calibration: of K, or of P if that picture is rectified.
    /// `None` without calibration.
    pub fn focal_px(&self, rectified: bool) -> Option<(f64, f64)> {
        self.pinhole(rectified).map(|p| (p.fx, p.fy))
    }

    /// Whether all of it is the same, numbers to the bit: `==` never holds where one is NaN, and what is made of a
    /// calibration once would be made for every picture.
    pub fn is_same(&self, other: &Self) -> bool {
        fn bits(c: &Calibration) -> impl Iterator<Item = u64> + '_ {
            c.d.iter().chain(&c.k).chain(&c.r).chain(&c.p).map(|number| number.to_bits())
        }
        let Self { width, height, model, d: _, k: _, r: _, p: _, binning_x, binning_y, roi } = self;
        (*width, *height, *binning_x, *binning_y) == (other.width, other.height, other.binning_x, other.binning_y)
            && *model == other.model
            && *roi == other.roi
            && bits(self).eq(bits(other))
    }

    /// Columns and rows of the picture beside this calibration, or `None` where it does not say.
    pub fn image_size(&self) -> Option<(u32, u32)> {
        let (width, height) =
            if self.has_roi() { (self.roi.width, self.roi.height) } else { (self.width, self.height) };
        (width > 0 && height > 0).then(|| (width / self.binning_x.max(1), height / self.binning_y.max(1)))
    }

    /// Checks that a picture of this size may belong to this calibration. A calibration without a size is believed.
    /// Binning of a size that it does not divide may round either way.
    ///
    /// # Errors
    /// [`CameraError::Size`].
    pub fn check_size(&self, image: (usize, usize)) -> Result<(), CameraError> {
        let Some(expected) = self.image_size() else { return Ok(()) };
        let full = if self.has_roi() { (self.roi.width, self.roi.height) } else { (self.width, self.height) };
        let fits = |full: u32, binning: u32, pixels: usize| {
            let binning = u64::from(binning.max(1));
            (pixels as u64).saturating_mul(binning).abs_diff(u64::from(full)) < binning
        };
        if fits(full.0, self.binning_x, image.0) && fits(full.1, self.binning_y, image.1) {
            Ok(())
        } else {
            Err(CameraError::Size { expected, found: image })
        }
    }

    /// The calibration of an output picture: `output` pixels, `map` from the source picture's coordinates.
    ///
    /// As `image_proc::ResizeNode` does it: K and P (with Tx and Ty) are multiplied by the scale, the region of
    /// interest too (rounded down), distortion, R and binning are kept. The map's offset (crop, letterbox) is added
    /// to the principal points. Where the region of interest does not scale to whole pixels, or the map has an offset,
    /// the principal point takes up the rest, so that a reader who applies region and binning gets the output's own
    /// coordinates exactly; `width` and `height` hold the region.
    pub fn scaled(&self, map: &OutputMap, output: (usize, usize)) -> Self {
        let mut info = self.clone();
        let x = Axis { scale: map.scale_x, offset: map.offset_x, binning: self.binning_x };
        let y = Axis { scale: map.scale_y, offset: map.offset_y, binning: self.binning_y };
        let has_roi = self.has_roi();
        let (width, height) = (clip(output.0), clip(output.1));
        let (shift_x, shift_y);
        (info.width, info.roi.x_offset, info.roi.width, shift_x) =
            x.scale_size(self.width, has_roi.then_some(self.roi.x_offset), width, self.roi.width);
        (info.height, info.roi.y_offset, info.roi.height, shift_y) =
            y.scale_size(self.height, has_roi.then_some(self.roi.y_offset), height, self.roi.height);
        // Zeros stay zeros: an offset does not calibrate a camera.
        if self.is_calibrated() {
            info.k[0] *= x.scale;
            info.k[1] *= x.scale;
            info.k[2] = info.k[2] * x.scale + shift_x;
            info.k[4] *= y.scale;
            info.k[5] = info.k[5] * y.scale + shift_y;
        }
        if focal_lengths(self.p[0], self.p[5]).is_some() {
            info.p[0] *= x.scale;
            info.p[1] *= x.scale;
            info.p[2] = info.p[2] * x.scale + shift_x;
            info.p[3] *= x.scale;
            info.p[5] *= y.scale;
            info.p[6] = info.p[6] * y.scale + shift_y;
            info.p[7] *= y.scale;
        }
        info
    }

    /// `sensor_msgs/CameraInfo`: a region of all zeros is the whole sensor.
    fn has_roi(&self) -> bool {
        self.roi.width > 0 && self.roi.height > 0
    }

    fn pinhole(&self, rectified: bool) -> Option<Pinhole> {
        // K[1] and P[1] (skew) are not read, as OpenCV's undistortPoints and image_geometry do not. P[3] (Tx) is the
        // place of a stereo partner: a ray of this camera does not depend on it.
        let [fx, fy, cx, cy] =
            if rectified { [0, 5, 2, 6].map(|i| self.p[i]) } else { [0, 4, 2, 5].map(|i| self.k[i]) };
        focal_lengths(fx, fy)?;
        if !(cx.is_finite() && cy.is_finite()) {
            return None;
        }
        let (bx, by) = (f64::from(self.binning_x.max(1)), f64::from(self.binning_y.max(1)));
        let (x0, y0) = if self.has_roi() { (self.roi.x_offset, self.roi.y_offset) } else { (0, 0) };
        Some(Pinhole { fx: fx / bx, fy: fy / by, cx: (cx - f64::from(x0)) / bx, cy: (cy - f64::from(y0)) / by })
    }
}

fn focal_lengths(fx: f64, fy: f64) -> Option<(f64, f64)> {
    (fx.is_finite() && fy.is_finite() && fx > 0.0 && fy > 0.0).then_some((fx, fy))
}

fn clip(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// One axis of [`Calibration::scaled`].
struct Axis {
    scale: f64,
    offset: f64,
    binning: u32,
}

impl Axis {
    /// Full size, ROI offset, ROI size, and what is added to the scaled principal point.
    fn scale_size(&self, full: u32, roi_offset: Option<u32>, output: u32, roi_size: u32) -> (u32, u32, u32, f64) {
        let binning = self.binning.max(1);
        let size = output.saturating_mul(binning);
        let offset = self.offset * f64::from(binning);
        // A binned size may have had a rest, and a picture that is not resized keeps its calibration as it is.
        let unchanged = self.scale == 1.0 && self.offset == 0.0;
        match roi_offset {
            None if unchanged && full.abs_diff(size) < binning => (full, 0, 0, 0.0),
            None => (size, 0, 0, offset),
            Some(start) if unchanged && roi_size.abs_diff(size) < binning => (full, start, roi_size, 0.0),
            Some(start) => {
                let exact = f64::from(start) * self.scale;
                // Saturating casts.
                let start = exact as u32;
                let full = ((f64::from(full) * self.scale) as u32).max(start.saturating_add(size));
                (full, start, size, offset - (exact - f64::from(start)))
            }
        }
    }
}

/// Where the factor that multiplies the network's metres comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DepthScaling {
    /// The ratio of the camera's focal length to the one that the network learned with.
    CameraInfo,
    /// 1: the network's own metres.
    None,
    /// A number that the user has measured, from 0.001 to 1000.
    Factor(f64),
}

/// A depth scaling that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("depth scaling {0:?} is not known; expected \"camera_info\", \"none\" or a factor from {LEAST_FACTOR} to {MOST_FACTOR}")]
pub struct DepthScalingError(String);

impl FromStr for DepthScaling {
    type Err = DepthScalingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "camera_info" => Ok(Self::CameraInfo),
            "none" => Ok(Self::None),
            number => match number.parse::<f64>() {
                Ok(factor) if (LEAST_FACTOR..=MOST_FACTOR).contains(&factor) => Ok(Self::Factor(factor)),
                _ => Err(DepthScalingError(text.chars().take(32).collect())),
            },
        }
    }
}

impl fmt::Display for DepthScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CameraInfo => f.write_str("camera_info"),
            Self::None => f.write_str("none"),
            Self::Factor(factor) => write!(f, "{factor}"),
        }
    }
}

/// Which rule gave a depth factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorSource {
    /// The calibration's focal length.
    CameraInfo,
    /// The user: a number, or no scaling.
    Fixed,
    /// The user's fallback: there is no calibration, or it is of no use (no focal length, an impossible one, another image size).
    Fallback,
}

/// What the network's metres are multiplied by.
///
/// The network sees apparent sizes: an object that is `f_eff` / Z pixels large a metre of its own is what it learned
/// to be at `f_model` / Z pixels. Its answer for a camera of another focal length is therefore off by the ratio, and
/// the factor is `f_eff / f_model`: `f_eff = sqrt(fx sx fy sy)` with (sx, sy) = [`Geometry::focal_scale`], network
/// pixels a source pixel; `f_model` is the manifest's `focal_length_px`, made of the training's camera in the same way.
pub fn depth_factor(
    scaling: DepthScaling,
    fallback: f64,
    calibration: Option<&Calibration>,
    rectified: bool,
    geometry: &Geometry,
    f_model: f64,
) -> (f64, FactorSource) {
    match scaling {
        DepthScaling::None => (1.0, FactorSource::Fixed),
        DepthScaling::Factor(factor) => (factor, FactorSource::Fixed),
        DepthScaling::CameraInfo => calibration
            .filter(|c| c.check_size(geometry.source()).is_ok())
            .and_then(|c| c.focal_px(rectified))
            .map(|focal| focal_ratio(focal, geometry.focal_scale(), f_model))
            .filter(|factor| (LEAST_FACTOR..=MOST_FACTOR).contains(factor))
            .map_or((fallback, FactorSource::Fallback), |factor| (factor, FactorSource::CameraInfo)),
    }
}

/// `f_eff / f_model` of a camera's focal lengths and [`Geometry::focal_scale`]; see [`depth_factor`].
pub fn focal_ratio((fx, fy): (f64, f64), (sx, sy): (f64, f64), f_model: f64) -> f64 {
    (fx * sx * fy * sy).sqrt() / f_model
}

/// x/z and y/z of every output pixel's centre in the camera's optical frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Rays {
    width: usize,
    height: usize,
    table: Table,
}

#[derive(Debug, Clone, PartialEq)]
enum Table {
    /// Without distortion x/z depends on the column and y/z on the row only.
    Pinhole { columns: Vec<f32>, rows: Vec<f32> },
    /// `height x width` pairs; NaN where no ray leads to the pixel.
    Distorted(Vec<[f32; 2]>),
}

/// One row of [`Rays`].
#[derive(Debug, Clone, Copy)]
pub enum RayRow<'a> {
    /// x/z by column, and the row's y/z.
    Pinhole(&'a [f32], f32),
    /// x/z and y/z by column.
    Distorted(&'a [[f32; 2]]),
}

impl RayRow<'_> {
    /// x/z and y/z of a column.
    ///
    /// # Panics
    /// If there is no such column.
    #[inline(always)]
    pub fn at(&self, x: usize) -> [f32; 2] {
        match *self {
            Self::Pinhole(columns, y) => [columns[x], y],
            Self::Distorted(row) => row[x],
        }
    }
}

impl Rays {
    /// The rays of the output picture of `geometry`: through the pixels of a raw picture (K, with its distortion
    /// undone), or of a rectified one (P). Both are in the frame of the picture: R is not applied.
    ///
    /// Output pixels whose centre has no ray are NaN: those for which the distortion has no inverse (beyond the radius
    /// at which a fitted polynomial turns back), and those of 89 degrees and more from the axis. It takes a while
    /// (some 0.1 microseconds a pixel with distortion); make it once for a calibration and a geometry.
    ///
    /// # Errors
    /// [`CameraError`]: no calibration, a calibration of another image size, an unknown distortion, no ray at all, and one that
    /// takes far longer than a lens's.
    pub fn new(calibration: &Calibration, rectified: bool, geometry: &Geometry) -> Result<Self, CameraError> {
        calibration.check_size(geometry.source())?;
        let (width, height) = geometry.output();
        // Meanwhile no frame is answered. Ten times what a lens's distortion takes on one core, and never a slow machine's fault.
        let most = Duration::from_secs(2) + Duration::from_micros((width * height) as u64);
        Self::of_grid(calibration, rectified, &geometry.output_from_source(), (width, height), most)
    }

    fn of_grid(
        calibration: &Calibration,
        rectified: bool,
        map: &OutputMap,
        (width, height): (usize, usize),
        most: Duration,
    ) -> Result<Self, CameraError> {
        let (matrix, fx, fy) = if rectified {
            ("P", calibration.p[0], calibration.p[5])
        } else {
            ("K", calibration.k[0], calibration.k[4])
        };
        if focal_lengths(fx, fy).is_none() {
            return Err(CameraError::Uncalibrated { matrix, fx, fy });
        }
        let pinhole = calibration.pinhole(rectified).ok_or(CameraError::NotFinite { field: matrix })?;
        let distortion = if rectified { None } else { Distortion::of(calibration)? };
        // Resampling is by half-pixel centres, so the map holds for distances from the edge: centre + 1/2.
        let column = |x: usize| (source_center(x, map.scale_x, map.offset_x) - pinhole.cx) / pinhole.fx;
        let row = |y: usize| (source_center(y, map.scale_y, map.offset_y) - pinhole.cy) / pinhole.fy;
        let columns: Vec<f64> = (0..width).map(column).collect();
        let rows: Vec<f64> = (0..height).map(row).collect();
        let single = |v: &f64| if v.abs() <= MAX_TANGENT { *v as f32 } else { f32::NAN };
        let table = match distortion {
            None => {
                let [columns, rows] = [columns, rows].map(|all| all.iter().map(single).collect::<Vec<_>>());
                if [&columns, &rows].into_iter().any(|all| all.iter().all(|v| v.is_nan())) {
                    return Err(CameraError::NoRays);
                }
                Table::Pinhole { columns, rows }
            }
            Some(distortion) => {
                let mut rays = vec![[f32::NAN; 2]; width * height];
                let start = Instant::now();
                rays.par_chunks_mut(width.max(1)).zip(&rows).try_for_each(|(rays, &y)| {
                    if start.elapsed() > most {
                        return Err(CameraError::Slow { seconds: most.as_secs_f64() });
                    }
                    for (ray, &x) in rays.iter_mut().zip(&columns) {
                        if let Some(solution) = distortion.undistort([x, y]) {
                            *ray = solution.map(|v| v as f32);
                        }
                    }
                    Ok(())
                })?;
                if rays.iter().flatten().all(|v| v.is_nan()) {
                    return Err(CameraError::NoRays);
                }
                Table::Distorted(rays)
            }
        };
        Ok(Self { width, height, table })
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// A row of rays.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, y: usize) -> RayRow<'_> {
        match &self.table {
            Table::Pinhole { columns, rows } => RayRow::Pinhole(columns, rows[y]),
            Table::Distorted(rays) => RayRow::Distorted(&rays[y * self.width..][..self.width]),
        }
    }
}

/// Source coordinate (pixel centres are whole numbers) under the centre of output pixel `i`.
pub(super) fn source_center(i: usize, scale: f64, offset: f64) -> f64 {
    (i as f64 + 0.5 - offset) / scale - 0.5
}

/// Distortion that is undone numerically, in units of x/z.
#[derive(Debug, Clone, PartialEq)]
enum Distortion {
    Polynomial(Polynomial),
    Equidistant { k: [f64; 4], max_angle: f64 },
}

impl Distortion {
    /// `None` is no distortion at all.
    fn of(calibration: &Calibration) -> Result<Option<Self>, CameraError> {
        let d = calibration.d.as_slice();
        if d.iter().any(|v| !v.is_finite()) {
            return Err(CameraError::NotFinite { field: "D" });
        }
        if let Some(&value) = d.iter().find(|v| v.abs() > MOST_DISTORTION) {
            return Err(CameraError::Distortion { value });
        }
        let d: Vec<f64> = d.iter().map(|&v| if v.abs() < LEAST_DISTORTION { 0.0 } else { v }).collect();
        let model = calibration.model.as_str();
        // Zeros are a pinhole under every model but this one, where they are an ideal fisheye lens.
        if model != "equidistant" && d.iter().all(|v| *v == 0.0) {
            return Ok(None);
        }
        match (model, d.len()) {
            // Orbbec's driver fills its eight up with zeros.
            ("equidistant", 4..) if d[4..].iter().all(|v| *v == 0.0) => {
                let k = [d[0], d[1], d[2], d[3]];
                let max_angle = rising_until(|a| equidistant(&k, a), MAX_ANGLE);
                Ok(Some(Self::Equidistant { k, max_angle }))
            }
            // One model, whose number of coefficients says how much of it there is, as for OpenCV and image_geometry: some drivers
            // (Orbbec's, MultiSense's) call eight of them plumb_bob.
            ("plumb_bob" | "rational_polynomial", 4 | 5 | 8 | 12) => Ok(Some(Self::Polynomial(Polynomial::new(&d)))),
            // The last two are the angles of a tilted sensor.
            ("plumb_bob" | "rational_polynomial", 14) if d[12..] == [0.0; 2] => {
                Ok(Some(Self::Polynomial(Polynomial::new(&d[..12]))))
            }
            (_, coefficients) => Err(CameraError::Model { model: model.chars().take(32).collect(), coefficients }),
        }
    }

    fn undistort(&self, distorted: [f64; 2]) -> Option<[f64; 2]> {
        match self {
            Self::Polynomial(p) => p.undistort(distorted),
            Self::Equidistant { k, max_angle } => {
                let radius = length(distorted);
                let angle = solve_rising(|a| equidistant(k, a), radius, *max_angle, 0.1 * TOLERANCE)?;
                // The limit of tan(angle) / radius at the centre is 1.
                let scale = if radius < 1e-12 { 1.0 } else { angle.tan() / radius };
                Some(distorted.map(|v| v * scale))
            }
        }
    }
}

/// Kannala and Brandt's fisheye as OpenCV's `cv::fisheye` has it: the distorted radius of an angle, and its slope.
fn equidistant(k: &[f64; 4], angle: f64) -> (f64, f64) {
    let s = angle * angle;
    let value = angle * (1.0 + s * (k[0] + s * (k[1] + s * (k[2] + s * k[3]))));
    let slope = 1.0 + s * (3.0 * k[0] + s * (5.0 * k[1] + s * (7.0 * k[2] + s * 9.0 * k[3])));
    (value, slope)
}

/// OpenCV's distortion of a pinhole: radial (a polynomial over a polynomial), tangential, thin prism.
#[derive(Debug, Clone, PartialEq)]
struct Polynomial {
    /// k1, k2, k3 over k4, k5, k6.
    numerator: [f64; 3],
    denominator: [f64; 3],
    /// p1, p2.
    tangential: [f64; 2],
    /// s1, s2 for x and s3, s4 for y.
    prism: [f64; 4],
    /// The radial part rises up to this undistorted radius; what lies beyond is folded back onto the picture.
    max_radius: f64,
}

impl Polynomial {
    /// Of 4, 5, 8 or 12 coefficients in OpenCV's order k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4.
    fn new(d: &[f64]) -> Self {
        let d = |i: usize| d.get(i).copied().unwrap_or(0.0);
        let mut p = Self {
            numerator: [d(0), d(1), d(4)],
            denominator: [d(5), d(6), d(7)],
            tangential: [d(2), d(3)],
            prism: [d(8), d(9), d(10), d(11)],
            max_radius: 0.0,
        };
        p.max_radius = rising_until(|r| p.radial(r), MAX_TANGENT);
        p
    }

    /// The radial factor and its derivative by the squared radius `s`.
    fn factor(&self, s: f64) -> (f64, f64) {
        let cubic = |[a, b, c]: [f64; 3]| (1.0 + s * (a + s * (b + s * c)), a + s * (2.0 * b + s * 3.0 * c));
        let (n, dn) = cubic(self.numerator);
        let (d, dd) = cubic(self.denominator);
        (n / d, (dn * d - n * dd) / (d * d))
    }

    /// The radially distorted radius of an undistorted one, and its slope.
    fn radial(&self, r: f64) -> (f64, f64) {
        let (f, df) = self.factor(r * r);
        (r * f, f + 2.0 * r * r * df)
    }

    /// The distorted point and its Jacobian, rows dx', dy', columns dx, dy.
    fn distort(&self, [x, y]: [f64; 2]) -> ([f64; 2], [[f64; 2]; 2]) {
        let s = x * x + y * y;
        let (f, df) = self.factor(s);
        let [p1, p2] = self.tangential;
        let [s1, s2, s3, s4] = self.prism;
        let point = [
            x * f + 2.0 * p1 * x * y + p2 * (s + 2.0 * x * x) + s * (s1 + s * s2),
            y * f + p1 * (s + 2.0 * y * y) + 2.0 * p2 * x * y + s * (s3 + s * s4),
        ];
        // Derivatives of the prism by s.
        let (dx, dy) = (s1 + 2.0 * s * s2, s3 + 2.0 * s * s4);
        let cross = 2.0 * x * y * df + 2.0 * p1 * x + 2.0 * p2 * y;
        let jacobian = [
            [f + 2.0 * x * x * df + 2.0 * p1 * y + 6.0 * p2 * x + 2.0 * x * dx, cross + 2.0 * y * dx],
            [cross + 2.0 * x * dy, f + 2.0 * y * y * df + 6.0 * p1 * y + 2.0 * p2 * x + 2.0 * y * dy],
        ];
        (point, jacobian)
    }

    /// Newton's method in the plane, from the solution of the radial part alone: that is near, and on the right side
    /// of the fold. A coarse one nearly always does; where the radial part is almost level, only an exact one may.
    fn undistort(&self, distorted: [f64; 2]) -> Option<[f64; 2]> {
        let radius = length(distorted);
        [1e-3, 0.1 * TOLERANCE].into_iter().find_map(|tolerance| {
            // The tangential part may still bring a pixel a little beyond the radial limit back.
            let start = solve_rising(|r| self.radial(r), radius, self.max_radius, tolerance).unwrap_or(self.max_radius);
            let scale = if radius < 1e-12 { 1.0 } else { start / radius };
            self.refine(distorted, distorted.map(|v| v * scale))
        })
    }

    /// The point whose image is `distorted`, on the sheet around the axis, from one nearby.
    fn refine(&self, distorted: [f64; 2], mut point: [f64; 2]) -> Option<[f64; 2]> {
        let evaluate = |point: [f64; 2]| {
            let ([x, y], jacobian) = self.distort(point);
            let error = [x - distorted[0], y - distorted[1]];
            (error, jacobian, error[0].abs().max(error[1].abs()))
        };
        let (mut error, mut jacobian, mut size) = evaluate(point);
        for _ in 0..40 {
            let [[a, b], [c, d]] = jacobian;
            let determinant = a * d - b * c;
            if size <= TOLERANCE {
                // The disc around the axis on which the map keeps its orientation is where it is one to one.
                let on_sheet = determinant > 0.0 && length(point) <= self.max_radius * (1.0 + 1e-9);
                return on_sheet.then_some(point);
            }
            let step = [(d * error[0] - b * error[1]) / determinant, (a * error[1] - c * error[0]) / determinant];
            // Near an inflection a whole step may lead away; a part of it does not. A comparison with NaN fails.
            let mut share = 1.0;
            loop {
                let next = [point[0] - share * step[0], point[1] - share * step[1]];
                let (e, j, s) = evaluate(next);
                if s < size {
                    (point, error, jacobian, size) = (next, e, j, s);
                    break;
                }
                share *= 0.5;
                if share < 1e-3 {
                    return None;
                }
            }
        }
        None
    }
}

/// Not `hypot`, which guards against an overflow that cannot be here and costs as much as the rest.
fn length([x, y]: [f64; 2]) -> f64 {
    (x * x + y * y).sqrt()
}

/// Up to where `f` (value and slope), which rises from 0, goes on rising; at most `end`.
fn rising_until(f: impl Fn(f64) -> (f64, f64), end: f64) -> f64 {
    // Fine near the axis, where pictures are; coarser outwards.
    const STEPS: usize = 20_000;
    let at = |i: usize| end * (i as f64 / STEPS as f64).powi(2);
    // Behind a pole the value has the other sign, whatever its slope. NaN does not rise.
    let rises = |r: f64| {
        let (value, slope) = f(r);
        value > 0.0 && slope > 0.0
    };
    let Some(first) = (1..=STEPS).find(|&i| !rises(at(i))) else { return end };
    let (mut low, mut high) = (at(first - 1), at(first));
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if rises(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The x in 0 ..= `end` with `f(x) = target`, within `tolerance` of the target, for an `f` (value and slope) that rises
/// from 0 on that interval; `None` if `f` does not reach `target` there. Newton's method, kept within a bracket.
fn solve_rising(f: impl Fn(f64) -> (f64, f64), target: f64, end: f64, tolerance: f64) -> Option<f64> {
    let (mut low, mut high) = (0.0, end);
    // Not at the end itself: beside a pole Newton's steps are minute.
    let mut x = target.min(0.5 * end);
    let mut reached = false;
    for _ in 0..100 {
        let (value, slope) = f(x);
        let error = value - target;
        if error.abs() <= tolerance {
            return Some(x);
        }
        if error > 0.0 {
            high = x;
        } else {
            low = x;
        }
        let next = x - error / slope;
        if next > low && next < high {
            x = next;
            continue;
        }
        // Beyond the bracket. Where `f` has not yet been seen above the target, it may end below it.
        if high == end && !reached {
            if f(end).0 < target - tolerance {
                return None;
            }
            reached = true;
        }
        x = 0.5 * (low + high);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::geometry::{OutputSize, Placement, Rect, ResizeMode};
    use super::super::noise::signed;
    use super::*;

    /// 1280x720, a full calibration with a stereo partner and another P than K.
    fn calibration() -> Calibration {
        Calibration {
            width: 1280,
            height: 720,
            model: "plumb_bob".into(),
            d: vec![-0.3, 0.1, 0.001, -0.002, 0.0],
            k: [1000.0, 0.0, 630.0, 0.0, 990.0, 350.0, 0.0, 0.0, 1.0],
            r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            p: [900.0, 0.0, 640.0, -90.0, 0.0, 910.0, 360.0, 7.0, 0.0, 0.0, 1.0, 0.0],
            ..Calibration::default()
        }
    }

    fn geometry(mode: ResizeMode, output: OutputSize, source: (usize, usize)) -> Geometry {
        let placement = Placement { mode, roi: None, output };
        Geometry::new(&placement, source, (640, 320)).expect("a valid geometry")
    }

    fn map(scale_x: f64, scale_y: f64, offset_x: f64, offset_y: f64) -> OutputMap {
        OutputMap { scale_x, scale_y, offset_x, offset_y }
    }

    fn near(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance
    }

    #[test]
    fn rays_are_opencvs() {
        let text = include_str!("../../tests/golden/undistort.txt");
        let mut camera = Calibration::default();
        let (mut checked, mut cameras) = (0, 0);
        for line in text.lines() {
            let mut words = line.split(' ');
            let first = words.next().expect("a word");
            let numbers = |words: std::str::Split<'_, char>| -> Vec<f64> {
                words.map(|w| w.parse().expect("a number")).collect()
            };
            match first {
                "model" => {
                    camera.model = words.next().expect("a name").into();
                    cameras += 1;
                }
                "k" => {
                    let k = numbers(words);
                    camera.k = [k[0], 0.0, k[2], 0.0, k[1], k[3], 0.0, 0.0, 1.0];
                }
                "d" => camera.d = numbers(words),
                _ => {
                    let [u, v, x, y] = numbers(line.split(' '))[..] else { panic!("four numbers in {line:?}") };
                    let pinhole = camera.pinhole(false).expect("calibrated");
                    let distortion = Distortion::of(&camera).expect("a known model").expect("distorted");
                    let point = [(u - pinhole.cx) / pinhole.fx, (v - pinhole.cy) / pinhole.fy];
                    let ray = distortion.undistort(point).unwrap_or_else(|| panic!("{camera:?} has no ray at {u} {v}"));
                    // OpenCV's answer is right within 1e-7 pixels, ours within TOLERANCE, both before the inverse
                    // stretches the error.
                    let tolerance = 1e-6 * (1.0 + x * x + y * y);
                    assert!(
                        near(ray[0], x, tolerance) && near(ray[1], y, tolerance),
                        "{camera:?} at {u} {v}: {ray:?} for {x} {y}"
                    );
                    checked += 1;
                }
            }
        }
        assert!(checked > 350 && cameras == 7, "{checked} pixels of {cameras} cameras");
    }

    #[test]
    fn what_no_ray_notices_is_no_distortion() {
        let of = |d: [f64; 5]| Distortion::of(&Calibration { d: d.to_vec(), ..calibration() });
        assert_eq!(of([1e-40, -1e-310, 0.0, 1e-31, 0.0]), Ok(None));
        assert_eq!(of([-0.3, 0.1, 1e-310, -0.002, 1e-200]), of([-0.3, 0.1, 0.0, -0.002, 0.0]));
        assert_ne!(of([-0.3, 0.1, 1e-29, -0.002, 0.0]), of([-0.3, 0.1, 0.0, -0.002, 0.0]));
    }

    #[test]
    fn rays_are_not_sought_without_end() {
        let map = map(1.0, 1.0, 0.0, 0.0);
        let rays = |c: &Calibration, most| Rays::of_grid(c, false, &map, (1280, 720), most);
        let error = rays(&calibration(), Duration::ZERO).expect_err("no time for it");
        assert_eq!(error, CameraError::Slow { seconds: 0.0 });
        assert!(error.to_string().contains("that of no lens"), "{error}");
        assert!(rays(&calibration(), Duration::from_secs(60)).is_ok());
        let pinhole = Calibration { d: vec![0.0; 5], ..calibration() };
        assert!(rays(&pinhole, Duration::ZERO).is_ok(), "nothing is sought");
    }

    #[test]
    fn undistortion_inverts_the_distortion_up_to_the_fold_and_gives_nothing_beyond() {
        let mut noise = signed(5);
        let mut random = |range: f64| f64::from(noise.next().expect("it has no end")) * range;
        let mut tried = 0;
        for _ in 0..300 {
            let mut d = [random(0.4), random(0.2), 0.0, 0.0, random(0.05), random(0.3), random(0.1), random(0.03)];
            d[2] = random(0.001);
            d[3] = random(0.001);
            let p = Polynomial::new(&d);
            let limit = p.max_radius.min(2.0);
            for _ in 0..20 {
                let (radius, angle) = (0.9 * limit * random(1.0).abs(), random(std::f64::consts::PI));
                let point = [radius * angle.cos(), radius * angle.sin()];
                let (distorted, _) = p.distort(point);
                let found = p.undistort(distorted).unwrap_or_else(|| panic!("{p:?} loses {point:?}"));
                assert!(
                    near(found[0], point[0], 1e-5) && near(found[1], point[1], 1e-5),
                    "{p:?}: {found:?} for {point:?}"
                );
                tried += 1;
            }
        }
        assert_eq!(tried, 6000);
        // r - r^3 / 2 turns back at sqrt(2/3), where it is 0.5443.
        let p = Polynomial::new(&[-0.5, 0.0, 0.0, 0.0]);
        assert!(near(p.max_radius, (2.0_f64 / 3.0).sqrt(), 1e-9), "{}", p.max_radius);
        assert!(p.undistort([0.0, 0.544]).is_some() && p.undistort([0.0, 0.545]).is_none());
        assert!(p.undistort([0.0, 0.8]).is_none() && p.undistort([5.0, 5.0]).is_none());
        assert_eq!(p.undistort([0.0, 0.0]), Some([0.0, 0.0]));
        // A pole of the denominator, 1 - r^2, ends the sheet too.
        let pole = Polynomial::new(&[0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0]);
        assert!(near(pole.max_radius, 1.0, 1e-6), "{}", pole.max_radius);
        let found = pole.undistort([100.0, 0.0]).expect("100 = r / (1 - r^2) has a solution below 1");
        assert!(near(found[0] / (1.0 - found[0] * found[0]), 100.0, 1e-6), "{found:?}");
    }

    #[test]
    fn a_fisheye_without_coefficients_is_not_a_pinhole() {
        let mut c = Calibration { model: "equidistant".into(), d: vec![0.0; 4], ..calibration() };
        c.k = [400.0, 0.0, 639.5, 0.0, 400.0, 359.5, 0.0, 0.0, 1.0];
        let rays = Rays::new(&c, false, &geometry(ResizeMode::Stretch, OutputSize::Source, (1280, 720))).expect("rays");
        // Right of the middle by 400 pixels is an angle of one radian.
        let [x, y] = rays.row(359).at(1039);
        let expected = (f64::hypot(399.5, 0.5) / 400.0).tan();
        assert!(near(f64::from(x).hypot(f64::from(y)), expected, 1e-6), "{x} {y} for {expected}");
        // 639.5 pixels are 1.599 radians, more than a right angle.
        assert!(rays.row(359).at(1279)[0].is_nan() && rays.row(359).at(0)[0].is_nan());
    }

    #[test]
    fn rays_of_a_smaller_picture_lie_between_those_of_the_source() {
        let c = Calibration { d: vec![0.0; 5], ..calibration() };
        let source =
            Rays::new(&c, false, &geometry(ResizeMode::Stretch, OutputSize::Source, (1280, 720))).expect("rays");
        assert_eq!(source.size(), (1280, 720));
        let [x, y] = source.row(350).at(1130);
        assert!(near(f64::from(x), 0.5, 1e-7) && y == 0.0, "K's own pixels: {x} {y}");
        let half = geometry(ResizeMode::Crop, OutputSize::Fixed { width: 640, height: 360 }, (1280, 720));
        let half = Rays::new(&c, false, &half).expect("rays");
        assert_eq!(half.size(), (640, 360));
        for (x, y) in [(0, 0), (639, 359), (123, 45)] {
            let [a, b] = half.row(y).at(x);
            let (near_corner, far_corner) = (source.row(2 * y).at(2 * x), source.row(2 * y + 1).at(2 * x + 1));
            assert!(near(f64::from(a), f64::from(near_corner[0] + far_corner[0]) / 2.0, 1e-6), "{x} {y}");
            assert!(near(f64::from(b), f64::from(near_corner[1] + far_corner[1]) / 2.0, 1e-6), "{x} {y}");
        }
        // The largest centred 2:1 part of 1280x720 is 1280x640 from row 40, shown at 640x320.
        let crop = Rays::new(&c, false, &geometry(ResizeMode::Crop, OutputSize::Network, (1280, 720))).expect("rays");
        let [_, b] = crop.row(10).at(0);
        let expected = f64::from(source.row(60).at(0)[1] + source.row(61).at(0)[1]) / 2.0;
        assert!(near(f64::from(b), expected, 1e-6), "{b} for {expected}");
    }

    #[test]
    fn distorted_rays_of_a_grid_are_the_single_ones() {
        let c = calibration();
        let g = geometry(ResizeMode::Stretch, OutputSize::Fixed { width: 320, height: 180 }, (1280, 720));
        let rays = Rays::new(&c, false, &g).expect("rays");
        let distortion = Distortion::of(&c).expect("known").expect("distorted");
        for (x, y) in [(0, 0), (319, 179), (160, 20)] {
            let point = [(4.0 * x as f64 + 1.5 - 630.0) / 1000.0, (4.0 * y as f64 + 1.5 - 350.0) / 990.0];
            let expected = distortion.undistort(point).expect("a ray");
            let found = rays.row(y).at(x).map(f64::from);
            assert!(near(found[0], expected[0], 1e-6) && near(found[1], expected[1], 1e-6), "{found:?} {expected:?}");
            assert!(
                !near(found[0], point[0], 1e-3) || (x, y) == (160, 20),
                "the distortion shows: {found:?} {point:?}"
            );
        }
    }

    #[test]
    fn a_rectified_picture_has_the_rays_of_p_without_distortion_or_baseline() {
        let rays = Rays::new(&calibration(), true, &geometry(ResizeMode::Stretch, OutputSize::Source, (1280, 720)))
            .expect("rays");
        let [x, y] = rays.row(451).at(1090);
        assert!(near(f64::from(x), 0.5, 1e-7) && near(f64::from(y), 0.1, 1e-7), "{x} {y}");
        assert_eq!(calibration().focal_px(true), Some((900.0, 910.0)));
        assert_eq!(calibration().focal_px(false), Some((1000.0, 990.0)));
    }

    #[test]
    fn a_calibration_with_nan_is_the_same_as_itself() {
        let mut c = calibration();
        c.p[3] = f64::NAN;
        let copy = c.clone();
        assert!(c != copy && c.is_same(&copy));
        let changes: [fn(&mut Calibration); 12] = [
            |c| c.width += 1,
            |c| c.height += 1,
            |c| c.model.clear(),
            |c| c.d[4] = f64::NAN,
            |c| c.d.truncate(4),
            |c| c.k[8] = 0.5,
            |c| c.r[0] = 0.5,
            |c| c.p[3] = 0.0,
            |c| c.p[11] = 0.5,
            |c| c.binning_x = 2,
            |c| c.binning_y = 2,
            |c| c.roi.do_rectify = true,
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut other = c.clone();
            change(&mut other);
            assert!(!c.is_same(&other) && !other.is_same(&c), "change {i}");
        }
    }

    #[test]
    fn binning_and_region_belong_to_the_full_sensor() {
        let mut c = calibration();
        c.binning_x = 2;
        c.binning_y = 2;
        c.roi = RoiInfo { x_offset: 200, y_offset: 100, width: 800, height: 400, do_rectify: true };
        assert_eq!(c.image_size(), Some((400, 200)));
        assert_eq!(c.focal_px(false), Some((500.0, 495.0)));
        assert_eq!(c.pinhole(false), Some(Pinhole { fx: 500.0, fy: 495.0, cx: 215.0, cy: 125.0 }));
        assert_eq!(c.pinhole(true), Some(Pinhole { fx: 450.0, fy: 455.0, cx: 220.0, cy: 130.0 }));
        assert_eq!(c.check_size((400, 200)), Ok(()));
        assert_eq!(c.check_size((1280, 720)), Err(CameraError::Size { expected: (400, 200), found: (1280, 720) }));
        // A rest of the binning may be kept or dropped.
        c.roi.width = 801;
        assert!(c.check_size((400, 200)).is_ok() && c.check_size((401, 200)).is_ok());
        assert!(c.check_size((399, 200)).is_err() && c.check_size((402, 200)).is_err());
        // A calibration that names no size.
        assert!(Calibration::default().check_size((5, 7)).is_ok());
    }

    #[test]
    fn a_resized_calibration_is_what_resize_node_makes() {
        let c = calibration();
        let half = c.scaled(&map(0.5, 0.25, 0.0, 0.0), (640, 180));
        assert_eq!((half.width, half.height), (640, 180));
        assert_eq!(half.k, [500.0, 0.0, 315.0, 0.0, 247.5, 87.5, 0.0, 0.0, 1.0]);
        assert_eq!(half.p, [450.0, 0.0, 320.0, -45.0, 0.0, 227.5, 90.0, 1.75, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!((&half.d, &half.model, half.r, half.roi), (&c.d, &c.model, c.r, RoiInfo::default()));
        let mut c = c;
        c.roi = RoiInfo { x_offset: 200, y_offset: 100, width: 800, height: 400, do_rectify: false };
        let half = c.scaled(&map(0.5, 0.25, 0.0, 0.0), (400, 100));
        assert_eq!((half.width, half.height), (640, 180));
        assert_eq!(half.roi, RoiInfo { x_offset: 100, y_offset: 25, width: 400, height: 100, do_rectify: false });
        assert_eq!(half.k, [500.0, 0.0, 315.0, 0.0, 247.5, 87.5, 0.0, 0.0, 1.0]);
        // Letterbox and crop: the offset moves the principal points only.
        let moved = calibration().scaled(&map(0.5, 0.5, 0.0, -20.0), (640, 320));
        assert_eq!((moved.k[2], moved.k[5], moved.p[2], moved.p[6]), (315.0, 155.0, 320.0, 160.0));
        assert_eq!((moved.width, moved.height), (640, 320));
    }

    #[test]
    fn a_resized_calibration_leads_to_the_outputs_own_coordinates() {
        for roi in
            [RoiInfo::default(), RoiInfo { x_offset: 201, y_offset: 103, width: 801, height: 402, do_rectify: true }]
        {
            for binning in [0, 1, 2, 3] {
                let c = Calibration { roi, binning_x: binning, binning_y: binning, ..calibration() };
                let source = c.image_size().expect("a size");
                let before = [false, true].map(|r| c.pinhole(r).expect("calibrated"));
                let source = (source.0 as usize, source.1 as usize);
                for mode in [ResizeMode::Stretch, ResizeMode::Letterbox, ResizeMode::Crop] {
                    for output in
                        [OutputSize::Source, OutputSize::Network, OutputSize::Fixed { width: 333, height: 77 }]
                    {
                        let g = geometry(mode, output, source);
                        let m = g.output_from_source();
                        let scaled = c.scaled(&m, g.output());
                        let what = format!("{roi:?} binning {binning} {mode:?} {output:?}: {scaled:?}");
                        scaled.check_size(g.output()).expect(&what);
                        assert!(scaled.roi.x_offset + scaled.roi.width <= scaled.width, "{what}");
                        assert!(scaled.roi.y_offset + scaled.roi.height <= scaled.height, "{what}");
                        for (rectified, before) in [false, true].into_iter().zip(before) {
                            let after = scaled.pinhole(rectified).expect("calibrated");
                            assert!(near(after.fx, before.fx * m.scale_x, 1e-9), "{what}");
                            assert!(near(after.fy, before.fy * m.scale_y, 1e-9), "{what}");
                            assert!(near(after.cx, before.cx * m.scale_x + m.offset_x, 1e-9), "{what}");
                            assert!(near(after.cy, before.cy * m.scale_y + m.offset_y, 1e-9), "{what}");
                        }
                        if output == OutputSize::Source {
                            assert_eq!(scaled, c, "a picture of the same size keeps its calibration");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_uncalibrated_camera_stays_so() {
        let none = Calibration { width: 1280, height: 720, ..Calibration::default() };
        assert!(!none.is_calibrated() && none.focal_px(false).is_none() && none.focal_px(true).is_none());
        let scaled = none.scaled(&map(0.5, 0.5, 10.0, 20.0), (640, 360));
        assert_eq!((scaled.width, scaled.height, scaled.k, scaled.p), (640, 360, [0.0; 9], [0.0; 12]));
        for bad in [f64::NAN, f64::INFINITY, -5.0, 0.0] {
            let mut c = calibration();
            c.k[4] = bad;
            assert!(!c.is_calibrated() && c.focal_px(false).is_none(), "{bad}");
            assert!(c.focal_px(true).is_some(), "P is another matter");
        }
    }

    #[test]
    fn what_cannot_make_rays_is_named() {
        let g = geometry(ResizeMode::Stretch, OutputSize::Network, (1280, 720));
        // Without the limit on the time, which a slow machine may reach.
        let (map, most) = (g.output_from_source(), Duration::from_secs(60));
        let made = |c: &Calibration| Rays::of_grid(c, false, &map, g.output(), most);
        let error = |change: &dyn Fn(&mut Calibration)| {
            let mut c = calibration();
            change(&mut c);
            Rays::new(&c, false, &g).expect_err("must be refused")
        };
        assert_eq!(error(&|c| c.k[0] = 0.0), CameraError::Uncalibrated { matrix: "K", fx: 0.0, fy: 990.0 });
        assert_eq!(error(&|c| c.width = 640), CameraError::Size { expected: (640, 720), found: (1280, 720) });
        assert_eq!(error(&|c| c.d[1] = f64::NAN), CameraError::NotFinite { field: "D" });
        assert_eq!(error(&|c| c.d[0] = -1e7), CameraError::Distortion { value: -1e7 });
        assert_eq!(error(&|c| c.k[2] = f64::INFINITY), CameraError::NotFinite { field: "K" });
        // Finite, and no pixel of the picture looks anywhere.
        let mut beside = calibration();
        beside.k[2] = 1e12;
        assert_eq!(made(&beside), Err(CameraError::NoRays));
        let mut above = calibration();
        (above.k[5], above.d) = (-1e12, vec![0.0; 5]);
        assert_eq!(made(&above), Err(CameraError::NoRays));
        for (model, count) in
            [("plumb_bob", 3), ("plumb_bob", 14), ("rational_polynomial", 9), ("equidistant", 5), ("fov", 1), ("", 5)]
        {
            let change = |c: &mut Calibration| {
                c.model = model.into();
                c.d = vec![0.1; count];
            };
            assert_eq!(error(&change), CameraError::Model { model: model.into(), coefficients: count });
        }
        // A tilted sensor is refused, the same length without tilt is not.
        let tilted = |tilt: f64| {
            let mut c = Calibration { model: "rational_polynomial".into(), d: vec![0.01; 14], ..calibration() };
            c.d[12] = 0.0;
            c.d[13] = tilt;
            made(&c).map(|_| ())
        };
        assert_eq!(tilted(0.0), Ok(()));
        assert!(matches!(tilted(0.1), Err(CameraError::Model { coefficients: 14, .. })));
        // The number of coefficients says how much there is of a model, by whatever name.
        let rays = |model: &str, d: &[f64]| {
            made(&Calibration { model: model.into(), d: d.to_vec(), ..calibration() }).expect("rays")
        };
        let d = [0.1, -0.05, 0.001, 0.002, 0.01, 0.2, 0.03, 0.004];
        assert_eq!(rays("plumb_bob", &d), rays("rational_polynomial", &d));
        let filled = [&d[..5], &[0.0; 3]].concat();
        assert_eq!(rays("plumb_bob", &filled), rays("plumb_bob", &d[..5]));
        assert_eq!(rays("rational_polynomial", &d[..5]), rays("plumb_bob", &d[..5]));
        assert_ne!(rays("plumb_bob", &d[..5]), rays("plumb_bob", &d));
        let filled = [&d[..4], &[0.0; 4]].concat();
        assert_eq!(rays("equidistant", &filled), rays("equidistant", &d[..4]));
        // Without coefficients, or with zeros, every model is a pinhole; a rectified picture needs none.
        for d in [vec![], vec![0.0; 3]] {
            assert!(Rays::new(&Calibration { model: String::new(), d, ..calibration() }, false, &g).is_ok());
        }
        assert!(Rays::new(&Calibration { model: "fov".into(), ..calibration() }, true, &g).is_ok());
        let unrectified = Calibration { p: [0.0; 12], ..calibration() };
        assert!(matches!(Rays::new(&unrectified, true, &g), Err(CameraError::Uncalibrated { matrix: "P", .. })));
    }

    #[test]
    fn depth_is_scaled_by_the_ratio_of_focal_lengths() {
        let c = calibration();
        let g = geometry(ResizeMode::Stretch, OutputSize::Source, (1280, 720));
        let factor = |scaling, c: Option<&Calibration>, rectified| depth_factor(scaling, 1.7, c, rectified, &g, 500.0);
        let expected = f64::sqrt((1000.0 * 0.5) * (990.0 * 320.0 / 720.0)) / 500.0;
        let (found, source) = factor(DepthScaling::CameraInfo, Some(&c), false);
        assert!(near(found, expected, 1e-12) && source == FactorSource::CameraInfo, "{found} for {expected}");
        let (found, _) = factor(DepthScaling::CameraInfo, Some(&c), true);
        assert!(near(found, f64::sqrt((900.0 * 0.5) * (910.0 * 320.0 / 720.0)) / 500.0, 1e-12));
        // Binning halves the picture's focal length.
        let binned = Calibration { binning_x: 2, binning_y: 2, width: 2560, height: 1440, ..calibration() };
        let (found, _) = factor(DepthScaling::CameraInfo, Some(&binned), false);
        assert!(near(found, expected / 2.0, 1e-12));
        // A region of interest magnifies: half of the source on the whole network.
        let placement = Placement {
            mode: ResizeMode::Roi,
            roi: Some(Rect { x: 10, y: 20, width: 640, height: 320 }),
            output: OutputSize::Source,
        };
        let roi = Geometry::new(&placement, (1280, 720), (640, 320)).expect("a geometry");
        let (found, _) = depth_factor(DepthScaling::CameraInfo, 1.0, Some(&c), false, &roi, 500.0);
        assert!(near(found, (1000.0_f64 * 990.0).sqrt() / 500.0, 1e-12), "{found}");

        assert_eq!(factor(DepthScaling::None, Some(&c), false), (1.0, FactorSource::Fixed));
        assert_eq!(factor(DepthScaling::Factor(0.3), None, false), (0.3, FactorSource::Fixed));
        let fallback = (1.7, FactorSource::Fallback);
        assert_eq!(factor(DepthScaling::CameraInfo, None, false), fallback);
        assert_eq!(factor(DepthScaling::CameraInfo, Some(&Calibration::default()), false), fallback);
        // Metres in place of pixels; numbers whose product is none.
        for focal in [0.004, 1e300, 1e-300] {
            let k = [focal, 0.0, 630.0, 0.0, focal, 350.0, 0.0, 0.0, 1.0];
            let senseless = Calibration { k, ..calibration() };
            assert_eq!(factor(DepthScaling::CameraInfo, Some(&senseless), false), fallback, "{focal}");
        }
        let other_size = Calibration { width: 640, ..calibration() };
        assert_eq!(factor(DepthScaling::CameraInfo, Some(&other_size), false), fallback);
        for f_model in [0.0, f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(
                depth_factor(DepthScaling::CameraInfo, 1.7, Some(&c), false, &g, f_model),
                fallback,
                "{f_model}"
            );
        }
    }

    #[test]
    fn depth_scalings_are_read_and_written() {
        for (text, scaling) in [
            ("camera_info", DepthScaling::CameraInfo),
            ("none", DepthScaling::None),
            ("0.5", DepthScaling::Factor(0.5)),
            ("2", DepthScaling::Factor(2.0)),
        ] {
            assert_eq!(text.parse(), Ok(scaling));
            assert_eq!(scaling.to_string(), text);
        }
        for text in ["", "0", "-1", "nan", "inf", "Camera_Info", "1,5"] {
            let error = text.parse::<DepthScaling>().expect_err("must be refused").to_string();
            assert!(error.contains("a factor from 0.001 to 1000"), "{error}");
        }
    }
}

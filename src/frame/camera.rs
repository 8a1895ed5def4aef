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
use thiserror::Error;

/// Rays steeper than this against the optical axis (89 degrees) have no x/z worth the name: tan 89 degrees.
const MAX_TANGENT: f64 = 57.289_961_630_759_42;
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
         expected plumb_bob (4 or 5), rational_polynomial (8 or 12; 14 with tilt 0) or equidistant (4), \
         or a rectified image with input_rectified"
    )]
    Model {
        /// As it came, at most 32 characters of it.
        model: String,
        /// How many came with it.
        coefficients: usize,
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
    /// Whether K holds focal lengths: K[0] and K[4] are finite and above 0.
    pub fn is_calibrated(&self) -> bool {
        focal_lengths(self.k[0], self.k[4]).is_some()
    }

    /// Focal lengths in pixels of the picture beside this calibration: of K, or of P if that picture is rectified.
    /// `None` without calibration.
    pub fn focal_px(&self, rectified: bool) -> Option<(f64, f64)> {
        self.pinhole(rectified).map(|p| (p.fx, p.fy))
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
    /// A number that the user has measured, above 0.
    Factor(f64),
}

/// A depth scaling that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("depth scaling {0:?} is not known; expected \"camera_info\", \"none\" or a number above 0")]
pub struct DepthScalingError(String);

impl FromStr for DepthScaling {
    type Err = DepthScalingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "camera_info" => Ok(Self::CameraInfo),
            "none" => Ok(Self::None),
            number => match number.parse::<f64>() {
                Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Self::Factor(factor)),
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
    /// The user's fallback: there is no calibration, or it is of no use (no focal length, another image size).
    Fallback,
}

/// What the network's metres are multiplied by.
///
/// The network sees apparent sizes: an object that is `f_eff` / Z pixels large a metre of its own is what it learned
/// to be at `f_model` / Z pixels. Its answer for a camera of another focal length is therefore off by the ratio, and
/// the factor is `f_eff / f_model`: `f_eff = sqrt(fx sx fy sy)` with (sx, sy) = [`Geometry::focal_scale`], network
/// pixels a source pixel; `f_model` is the manifest's `focal_length_px`, pixels of an image as wide as the network's
/// input.
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
            .filter(|factor| factor.is_finite() && *factor > 0.0)
            .map_or((fallback, FactorSource::Fallback), |factor| (factor, FactorSource::CameraInfo)),
    }
}

fn focal_ratio((fx, fy): (f64, f64), (sx, sy): (f64, f64), f_model: f64) -> f64 {
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
    /// [`CameraError`]: no calibration, a calibration of another image size, an unknown distortion.
    pub fn new(calibration: &Calibration, rectified: bool, geometry: &Geometry) -> Result<Self, CameraError> {
        calibration.check_size(geometry.source())?;
        Self::of_grid(calibration, rectified, &geometry.output_from_source(), geometry.output())
    }

    fn of_grid(
        calibration: &Calibration,
        rectified: bool,
        map: &OutputMap,
        (width, height): (usize, usize),
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
            None => Table::Pinhole {
                columns: columns.iter().map(single).collect(),
                rows: rows.iter().map(single).collect(),
            },
            Some(distortion) => {
                let mut rays = vec![[f32::NAN; 2]; width * height];
                rays.par_chunks_mut(width.max(1)).zip(&rows).for_each(|(rays, &y)| {
                    for (ray, &x) in rays.iter_mut().zip(&columns) {
                        if let Some(solution) = distortion.undistort([x, y]) {
                            *ray = solution.map(|v| v as f32);
                        }
                    }
                });
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
        let model = calibration.model.as_str();
        // Zeros are a pinhole under every model but this one, where they are an ideal fisheye lens.
        if model != "equidistant" && d.iter().all(|v| *v == 0.0) {
            return Ok(None);
        }
        match (model, d.len()) {
            ("equidistant", 4) => {
                let k = [d[0], d[1], d[2], d[3]];
                let max_angle = rising_until(|a| equidistant(&k, a), MAX_ANGLE);
                Ok(Some(Self::Equidistant { k, max_angle }))
            }
            ("plumb_bob", 4 | 5) | ("rational_polynomial", 8 | 12) => Ok(Some(Self::Polynomial(Polynomial::new(d)))),
            // The last two are the angles of a tilted sensor.
            ("rational_polynomial", 14) if d[12..] == [0.0; 2] => Ok(Some(Self::Polynomial(Polynomial::new(&d[..12])))),
            (_, coefficients) => Err(CameraError::Model { model: model.chars().take(32).collect(), coefficients }),
        }
    }

    fn undistort(&self, distorted: [f64; 2]) -> Option<[f64; 2]> {
        match self {
            Self::Polynomial(p) => p.undistort(distorted),
            Self::Equidistant { k, max_angle } => {
                let radius = distorted[0].hypot(distorted[1]);
                let angle = solve_rising(|a| equidistant(k, a), radius, *max_angle)?;
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
    /// of the fold.
    fn undistort(&self, distorted: [f64; 2]) -> Option<[f64; 2]> {
        let radius = distorted[0].hypot(distorted[1]);
        // The tangential part may still bring a pixel a little beyond the radial limit back.
        let start = solve_rising(|r| self.radial(r), radius, self.max_radius).unwrap_or(self.max_radius);
        let scale = if radius < 1e-12 { 1.0 } else { start / radius };
        let mut point = distorted.map(|v| v * scale);
        for _ in 0..20 {
            let ([px, py], [[a, b], [c, d]]) = self.distort(point);
            let (ex, ey) = (px - distorted[0], py - distorted[1]);
            let determinant = a * d - b * c;
            // The first disc around the axis on which the map keeps its orientation is where it is one to one.
            let on_sheet = determinant > 0.0 && point[0].hypot(point[1]) <= self.max_radius * (1.0 + 1e-9);
            if ex.abs().max(ey.abs()) <= TOLERANCE {
                return on_sheet.then_some(point);
            }
            if determinant.abs() < 1e-12 || !determinant.is_finite() {
                return None;
            }
            point = [point[0] - (d * ex - b * ey) / determinant, point[1] - (a * ey - c * ex) / determinant];
        }
        None
    }
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

/// The x in 0 ..= `end` with `f(x) = target` for an `f` (value and slope) that rises from 0 on that interval; `None`
/// if `f` does not reach `target` there. Newton's method, kept within a bracket.
fn solve_rising(f: impl Fn(f64) -> (f64, f64), target: f64, end: f64) -> Option<f64> {
    if target > f(end).0 + TOLERANCE {
        return None;
    }
    let (mut low, mut high) = (0.0, end);
    let mut x = target.min(end);
    for _ in 0..80 {
        let (value, slope) = f(x);
        let error = value - target;
        if error.abs() <= 0.01 * TOLERANCE {
            break;
        }
        if error > 0.0 {
            high = x;
        } else {
            low = x;
        }
        let next = x - error / slope;
        x = if next > low && next < high { next } else { 0.5 * (low + high) };
    }
    ((f(x).0 - target).abs() <= TOLERANCE).then_some(x)
}

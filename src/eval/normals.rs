//! Surface normals: the angle between the predicted one and the one that the true depth shows.

use crate::data::frame::Decoded;
use crate::data::surface::surface_normals;
use serde::Serialize;

/// Angles below which pixels are counted, degrees (Fouhey, Gupta and Hebert, ICCV 2013).
const WITHIN_DEG: [f64; 3] = [11.25, 22.5, 30.0];
/// Bins of a degree, for the median.
const BINS: usize = 20;

/// Angles of all judged pixels: those whose true normal is known.
#[derive(Debug, Clone, PartialEq)]
pub struct NormalErrors {
    frames: usize,
    pixels: u64,
    missing: u64,
    degrees: f64,
    within: [u64; 3],
    histogram: Vec<u64>,
}

/// What the angles come to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NormalReport {
    /// Frames with pixels that are judged.
    pub frames: usize,
    /// Mean angle, degrees.
    pub mean_deg: f64,
    /// Median angle, degrees, to a twentieth of one.
    pub median_deg: f64,
    /// Share of the pixels within 11.25, 22.5 and 30 degrees.
    pub within: [f64; 3],
    /// Judged pixels with a prediction.
    pub pixels: u64,
    /// Judged pixels without a prediction.
    pub missing: u64,
}

impl Default for NormalErrors {
    fn default() -> Self {
        let histogram = vec![0; 180 * BINS + 1];
        Self { frames: 0, pixels: 0, missing: 0, degrees: 0.0, within: [0; 3], histogram }
    }
}

impl NormalErrors {
    /// Counts a frame: unit normals `[3, h, w]`, NaN where there is none, against those of its true depth. A frame without
    /// depth or without a camera file has none.
    pub fn add(&mut self, frame: &Decoded, normals: &[f32]) {
        let (Some(depth_m), Some(focal_px)) = (&frame.depth_m, frame.focal_px) else { return };
        let single = |(a, b): (f64, f64)| (a as f32, b as f32);
        let size = (frame.width, frame.height);
        let truth = surface_normals(depth_m, size, single(focal_px), single(frame.principal()));
        self.add_planes(&truth, normals);
    }

    /// Counts normals `[3, pixels]` against true unit ones, NaN where there is none. The predicted ones may be of any length.
    pub fn add_planes(&mut self, truth: &[f32], predicted: &[f32]) {
        let plane = truth.len() / 3;
        let before = self.pixels + self.missing;
        for i in 0..plane {
            let at = |planes: &[f32]| [0, 1, 2].map(|k| f64::from(planes[k * plane + i]));
            let (t, p) = (at(truth), at(predicted));
            if t[0].is_nan() {
                continue;
            }
            let length = p.iter().map(|v| v * v).sum::<f64>().sqrt();
            let cosine = t.iter().zip(p).map(|(t, p)| t * p).sum::<f64>() / length;
            if cosine.is_nan() {
                self.missing += 1;
                continue;
            }
            let degrees = cosine.clamp(-1.0, 1.0).acos().to_degrees();
            self.pixels += 1;
            self.degrees += degrees;
            self.within.iter_mut().zip(WITHIN_DEG).for_each(|(count, limit)| *count += u64::from(degrees < limit));
            self.histogram[(degrees * BINS as f64) as usize] += 1;
        }
        self.frames += usize::from(self.pixels + self.missing > before);
    }

    /// `None` where nothing was judged.
    pub fn report(&self) -> Option<NormalReport> {
        let of_all = |count: f64| count / self.pixels as f64;
        let middle = |(sum, found): (u64, Option<usize>), (bin, count): (usize, &u64)| {
            let sum = sum + count;
            (sum, found.or_else(|| (2 * sum >= self.pixels).then_some(bin)))
        };
        let (_, median) = self.histogram.iter().enumerate().fold((0, None), middle);
        (self.frames > 0).then(|| NormalReport {
            frames: self.frames,
            mean_deg: of_all(self.degrees),
            median_deg: median.map_or(f64::NAN, |bin| (bin as f64 + 0.5) / BINS as f64),
            within: self.within.map(|count| of_all(count as f64)),
            pixels: self.pixels,
            missing: self.missing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turned by an angle from the one that looks at the camera.
    fn turned(degrees: f64) -> [f32; 3] {
        let (sine, cosine) = degrees.to_radians().sin_cos();
        [sine as f32, 0.0, -cosine as f32]
    }

    fn planes(normals: &[[f32; 3]]) -> Vec<f32> {
        (0..3).flat_map(|k| normals.iter().map(move |n| n[k])).collect()
    }

    #[test]
    fn angles_by_hand() {
        let none = [f32::NAN; 3];
        let truth = planes(&[turned(0.0), turned(10.0), turned(-90.0), none, turned(5.0), turned(0.0)]);
        let predicted = planes(&[turned(0.0), turned(22.0), turned(90.0), turned(0.0), none, turned(25.0)]);
        let mut errors = NormalErrors::default();
        assert_eq!(errors.report(), None);
        errors.add_planes(&truth, &predicted);
        let report = errors.report().expect("pixels");
        assert_eq!((report.frames, report.pixels, report.missing), (1, 4, 1));
        // 0, 12, 180 and 25 degrees.
        assert!((report.mean_deg - 217.0 / 4.0).abs() < 1e-3, "{report:?}");
        assert!((report.median_deg - 12.0).abs() < 0.1, "{report:?}");
        assert_eq!(report.within, [0.25, 0.5, 0.75]);
        // The length does not matter, but nothing has no direction.
        let mut errors = NormalErrors::default();
        errors.add_planes(&planes(&[turned(0.0); 2]), &planes(&[turned(12.0).map(|v| 1e20 * v), [0.0; 3]]));
        let report = errors.report().expect("pixels");
        assert!((report.mean_deg - 12.0).abs() < 1e-3 && report.missing == 1, "{report:?}");
    }

    #[test]
    fn a_wall_ahead_is_judged_by_its_depth() {
        let (width, height) = (8, 6);
        let mut frame = Decoded {
            width,
            height,
            rgb: vec![],
            labels: None,
            depth_m: Some(vec![10.0; width * height]),
            focal_px: Some((20.0, 20.0)),
            principal_px: None,
        };
        let normals = planes(&vec![turned(3.0); width * height]);
        let mut errors = NormalErrors::default();
        errors.add(&frame, &normals);
        let report = errors.report().expect("pixels");
        // None at the border.
        assert_eq!(report.pixels as usize, (width - 2) * (height - 2));
        assert!((report.mean_deg - 3.0).abs() < 1e-2, "{report:?}");
        frame.focal_px = None;
        errors.add(&frame, &normals);
        assert_eq!(errors.report(), Some(report), "without a camera file there is no truth");
    }
}

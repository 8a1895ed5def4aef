//! Depth measures, pooled over pixels.
//!
//! AbsRel, SqRel, RMSE, RMSE log and the delta thresholds are those of Eigen, Puhrsch and Fergus (NIPS 2014), SILog is
//! that of the KITTI depth benchmark (the square root of Eigen's scale-invariant error with lambda = 1, times 100).

use serde::Serialize;

/// Depth is judged where the truth lies between these, in metres.
pub const JUDGED_M: (f32, f32) = (1e-3, 80.0);

/// The thresholds of delta: 1.25, 1.25^2, 1.25^3.
const DELTA: [f64; 3] = [1.25, 1.25 * 1.25, 1.25 * 1.25 * 1.25];

/// Sums over all judged pixels. The prediction is clamped to the judged range.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DepthErrors {
    pixels: u64,
    relative: f64,
    squared_relative: f64,
    squared: f64,
    log: f64,
    squared_log: f64,
    within: [u64; 3],
    /// Judged pixels without a prediction (NaN): counted, and left out of the sums.
    missing: u64,
}

/// Depth measures of a set of pixels; NaN when none was judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DepthReport {
    /// Mean of `|predicted - truth| / truth`.
    pub abs_rel: f64,
    /// Mean of `(predicted - truth)^2 / truth`, metres.
    pub sq_rel_m: f64,
    /// Root mean square error, metres.
    pub rmse_m: f64,
    /// Root mean square error of the natural logarithm.
    pub rmse_log: f64,
    /// 100 times the standard deviation of the logarithm's error: what no scaling of the prediction mends.
    pub silog: f64,
    /// Mean of `ln(predicted / truth)`: below zero where things are taken as near.
    pub log_bias: f64,
    /// Share of pixels with `max(predicted / truth, truth / predicted)` under 1.25, 1.25^2, 1.25^3.
    pub delta: [f64; 3],
    /// Judged pixels with a prediction.
    pub pixels: u64,
    /// Judged pixels without a prediction.
    pub missing: u64,
}

impl DepthErrors {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one image: metres of the truth and of the prediction, pixel by pixel, where the truth lies within
    /// [`JUDGED_M`].
    pub fn add(&mut self, truth_m: &[f32], predicted_m: &[f32]) {
        for (&t, &p) in truth_m.iter().zip(predicted_m) {
            if !judged(t, JUDGED_M.1) {
                continue;
            }
            if p.is_nan() {
                self.add_missing();
                continue;
            }
            let (t, p) = (f64::from(t), f64::from(p.clamp(JUDGED_M.0, JUDGED_M.1)));
            self.add_one(t, p, (p / t).ln());
        }
    }

    /// Counts one judged pixel: metres of truth and prediction, both above 0, and `ln(predicted / truth)`, which a
    /// caller who needs it too computes once.
    #[inline]
    pub fn add_one(&mut self, truth_m: f64, predicted_m: f64, log_ratio: f64) {
        let difference = predicted_m - truth_m;
        let relative = difference.abs() / truth_m;
        self.pixels += 1;
        self.relative += relative;
        self.squared_relative += relative * difference.abs();
        self.squared += difference * difference;
        self.log += log_ratio;
        self.squared_log += log_ratio * log_ratio;
        for (count, limit) in self.within.iter_mut().zip(DELTA) {
            *count += u64::from(predicted_m < limit * truth_m && truth_m < limit * predicted_m);
        }
    }

    /// Counts one judged pixel that has no prediction.
    pub fn add_missing(&mut self) {
        self.missing += 1;
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        self.pixels += other.pixels;
        self.relative += other.relative;
        self.squared_relative += other.squared_relative;
        self.squared += other.squared;
        self.log += other.log;
        self.squared_log += other.squared_log;
        for (sum, count) in self.within.iter_mut().zip(other.within) {
            *sum += count;
        }
        self.missing += other.missing;
    }

    /// Whether nothing was judged.
    pub fn is_empty(&self) -> bool {
        self.pixels + self.missing == 0
    }

    /// The measures; NaN when nothing was judged.
    pub fn report(&self) -> DepthReport {
        let n = self.pixels as f64;
        let bias = self.log / n;
        let mean_square_log = self.squared_log / n;
        DepthReport {
            abs_rel: self.relative / n,
            sq_rel_m: self.squared_relative / n,
            rmse_m: (self.squared / n).sqrt(),
            rmse_log: mean_square_log.sqrt(),
            // A difference of nearly equal numbers may fall below zero by rounding.
            silog: if n > 0.0 { 100.0 * (mean_square_log - bias * bias).max(0.0).sqrt() } else { f64::NAN },
            log_bias: bias,
            delta: self.within.map(|c| c as f64 / n),
            pixels: self.pixels,
            missing: self.missing,
        }
    }
}

impl DepthReport {
    /// The mean of each measure over images (the literature's custom); pixels are summed. An image where nothing was
    /// judged (NaN) is left out. `None` of no image.
    pub fn mean<'a>(images: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let images: Vec<_> = images.filter(|r| r.pixels > 0).collect();
        if images.is_empty() {
            return None;
        }
        let mean = |of: &dyn Fn(&Self) -> f64| images.iter().map(|r| of(r)).sum::<f64>() / images.len() as f64;
        Some(Self {
            abs_rel: mean(&|r| r.abs_rel),
            sq_rel_m: mean(&|r| r.sq_rel_m),
            rmse_m: mean(&|r| r.rmse_m),
            rmse_log: mean(&|r| r.rmse_log),
            silog: mean(&|r| r.silog),
            log_bias: mean(&|r| r.log_bias),
            delta: [0, 1, 2].map(|i| mean(&|r| r.delta[i])),
            pixels: images.iter().map(|r| r.pixels).sum(),
            missing: images.iter().map(|r| r.missing).sum(),
        })
    }
}

/// Whether depth is judged at a pixel of this true depth.
#[inline]
pub fn judged(truth_m: f32, cap_m: f32) -> bool {
    truth_m > JUDGED_M.0 && truth_m < cap_m
}

/// `median(truth) / median(predicted)` over the judged pixels of one image: what the prediction is multiplied with
/// when its scale is not to count (Zhou et al., CVPR 2017; Godard et al., ICCV 2019). `None` where nothing is judged.
pub fn median_ratio(truth_m: &[f32], predicted_m: &[f32], cap_m: f32) -> Option<f64> {
    let pairs = truth_m.iter().zip(predicted_m).filter(|(&t, p)| judged(t, cap_m) && !p.is_nan());
    let (mut truth, mut predicted): (Vec<f32>, Vec<f32>) = pairs.unzip();
    let (truth, predicted) = rayon::join(|| median(&mut truth), || median(&mut predicted));
    let (truth, predicted) = (truth?, predicted?);
    // A prediction that is zero or infinite nearly everywhere cannot be scaled.
    Some(truth / predicted).filter(|r| r.is_finite() && *r > 0.0)
}

/// The median, of an even number the mean of the middle two as numpy has it; changes the order. `None` of nothing.
pub fn median(values: &mut [f32]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    let upper = f64::from(*upper);
    if !even {
        return Some(upper);
    }
    let lower = below.iter().copied().max_by(f32::total_cmp)?;
    Some((f64::from(lower) + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_by_hand() {
        let mut d = DepthErrors::new();
        // Judged: 10 -> 11, 20 -> 15. Left out: no truth, too far, sky.
        d.add(&[10.0, 20.0, 0.0, 90.0, f32::INFINITY, 5.0], &[11.0, 15.0, 3.0, 90.0, 250.0, f32::NAN]);
        let r = d.report();
        assert_eq!((r.pixels, r.missing), (2, 1));
        assert!((r.abs_rel - (0.1 + 0.25) / 2.0).abs() < 1e-7);
        assert!((r.sq_rel_m - (0.1 + 1.25) / 2.0).abs() < 1e-6);
        assert!((r.rmse_m - (26.0_f64 / 2.0).sqrt()).abs() < 1e-6);
        assert_eq!(r.delta, [0.5, 1.0, 1.0]);
        let (a, b) = (1.1_f64.ln(), 0.75_f64.ln());
        assert!((r.log_bias - (a + b) / 2.0).abs() < 1e-7);
        assert!((r.rmse_log - ((a * a + b * b) / 2.0).sqrt()).abs() < 1e-7);
        // The standard deviation of two numbers is half their distance.
        assert!((r.silog - 100.0 * (a - b) / 2.0).abs() < 1e-5);
    }

    #[test]
    fn a_wrong_scale_has_no_silog_and_is_mended_by_the_median() {
        let truth = [4.0_f32, 8.0, 16.0, 70.0, 200.0, f32::NAN];
        let predicted = truth.map(|t| t * 0.5);
        let mut d = DepthErrors::new();
        d.add(&truth, &predicted);
        assert!(d.report().silog < 1e-5 && (d.report().log_bias - 0.5_f64.ln()).abs() < 1e-7);
        assert_eq!(median_ratio(&truth, &predicted, 80.0), Some(2.0));
        assert_eq!(median_ratio(&truth, &predicted, 4.0), None);
        assert_eq!(median_ratio(&[5.0], &[0.0], 80.0), None);
    }

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 8.0]), Some(3.0));
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn the_mean_of_images_leaves_out_the_empty() {
        let mut one = DepthErrors::new();
        one.add(&[10.0], &[11.0]);
        let mut two = DepthErrors::new();
        two.add(&[10.0, 10.0], &[13.0, 13.0]);
        let reports = [one.report(), two.report(), DepthErrors::new().report()];
        let mean = DepthReport::mean(reports.iter()).expect("two images");
        assert!((mean.abs_rel - 0.2).abs() < 1e-7, "{mean:?}");
        assert_eq!(mean.pixels, 3);
        assert!(DepthReport::mean([].iter()).is_none());
    }
}

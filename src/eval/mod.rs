//! Segmentation and depth measures, pooled over the pixels of a whole data set.

use crate::data::classes::{self, SCORED_CLASSES};
use serde::Serialize;

/// One confusion matrix summed over a data set, as Cityscapes counts: unlabelled truth is left out, a wrong or
/// missing answer on a labelled pixel is an error.
#[derive(Debug, Clone)]
pub struct Confusion {
    classes: usize,
    /// `counts[truth * (classes + 1) + predicted]`; the last column is "no class".
    counts: Vec<u64>,
}

impl Confusion {
    /// For `classes` scored classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * (classes + 1)] }
    }

    /// Counts one image: train ids of the truth and of the prediction, pixel by pixel.
    pub fn add(&mut self, truth: &[u8], predicted: &[u8]) {
        let (classes, columns) = (self.classes, self.classes + 1);
        for (&t, &p) in truth.iter().zip(predicted) {
            if usize::from(t) < classes {
                self.counts[usize::from(t) * columns + usize::from(p).min(classes)] += 1;
            }
        }
    }

    fn cell(&self, truth: usize, predicted: usize) -> u64 {
        self.counts[truth * (self.classes + 1) + predicted]
    }

    /// Intersection over union of a class; `None` where it is neither in the truth nor in the prediction.
    pub fn iou(&self, class: usize) -> Option<f64> {
        let hit = self.cell(class, class);
        let truth: u64 = (0..=self.classes).map(|p| self.cell(class, p)).sum();
        let predicted: u64 = (0..self.classes).map(|t| self.cell(t, class)).sum();
        let union = truth + predicted - hit;
        (union > 0).then(|| hit as f64 / union as f64)
    }

    /// Mean of the classes' IoU; a class that does not occur is left out, NaN when none does.
    pub fn miou(&self) -> f64 {
        let present: Vec<f64> = (0..self.classes).filter_map(|c| self.iou(c)).collect();
        present.iter().sum::<f64>() / present.len() as f64
    }

    /// Share of the labelled pixels that are right.
    pub fn pixel_accuracy(&self) -> f64 {
        let hits: u64 = (0..self.classes).map(|c| self.cell(c, c)).sum();
        hits as f64 / self.counts.iter().sum::<u64>() as f64
    }
}

/// Depth is judged where the truth lies between these, in metres.
pub const JUDGED_M: (f32, f32) = (1e-3, 80.0);

/// Sums over all judged pixels. The prediction is clamped to the judged range; no median scaling.
#[derive(Debug, Clone, Default)]
pub struct DepthErrors {
    pixels: u64,
    relative: f64,
    squared: f64,
    squared_log: f64,
    within: [u64; 3],
    /// Judged pixels without a prediction (NaN): counted, and left out of the sums.
    missing: u64,
}

/// Depth measures of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DepthReport {
    /// Mean of `|predicted - truth| / truth`.
    pub abs_rel: f64,
    /// Root mean square error, metres.
    pub rmse_m: f64,
    /// Root mean square error of the natural logarithm.
    pub rmse_log: f64,
    /// Share of pixels with `max(predicted / truth, truth / predicted)` under 1.25, 1.25^2, 1.25^3.
    pub delta: [f64; 3],
    /// Judged pixels.
    pub pixels: u64,
    /// Judged pixels without a prediction.
    pub missing: u64,
}

impl DepthErrors {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one image: metres of the truth and of the prediction, pixel by pixel.
    pub fn add(&mut self, truth_m: &[f32], predicted_m: &[f32]) {
        for (&t, &p) in truth_m.iter().zip(predicted_m) {
            if !(t > JUDGED_M.0 && t < JUDGED_M.1) {
                continue;
            }
            if p.is_nan() {
                self.missing += 1;
                continue;
            }
            let (t, p) = (f64::from(t), f64::from(p.clamp(JUDGED_M.0, JUDGED_M.1)));
            let ratio = (p / t).max(t / p);
            self.pixels += 1;
            self.relative += (p - t).abs() / t;
            self.squared += (p - t) * (p - t);
            self.squared_log += (p / t).ln().powi(2);
            for (count, limit) in self.within.iter_mut().zip([1.25, 1.25 * 1.25, 1.25 * 1.25 * 1.25]) {
                *count += u64::from(ratio < limit);
            }
        }
    }

    /// The measures; NaN when nothing was judged.
    pub fn report(&self) -> DepthReport {
        let n = self.pixels as f64;
        DepthReport {
            abs_rel: self.relative / n,
            rmse_m: (self.squared / n).sqrt(),
            rmse_log: (self.squared_log / n).sqrt(),
            delta: self.within.map(|c| c as f64 / n),
            pixels: self.pixels,
            missing: self.missing,
        }
    }
}

/// A table of the classes' IoU and the depth measures.
pub fn table(confusion: &Confusion, depth: &DepthReport) -> String {
    let mut out = String::new();
    for (index, class) in classes::cityscapes().iter().take(SCORED_CLASSES).enumerate() {
        let value = confusion.iou(index).map_or("      -".into(), |v| format!("{v:7.4}"));
        out += &format!("  {:<14} IoU {value}\n", class.name);
    }
    out += &format!("mIoU over {SCORED_CLASSES} classes  {:.4}\n", confusion.miou());
    out += &format!("pixel accuracy         {:.4}\n", confusion.pixel_accuracy());
    out += &format!(
        "AbsRel                 {:.4}   (pooled over pixels with {} < truth < {} m, not median-scaled)\n",
        depth.abs_rel, JUDGED_M.0, JUDGED_M.1
    );
    out += &format!("RMSE                   {:.3} m\nRMSE log               {:.4}\n", depth.rmse_m, depth.rmse_log);
    out += &format!("delta < 1.25, ^2, ^3   {:.4} {:.4} {:.4}\n", depth.delta[0], depth.delta[1], depth.delta[2]);
    if depth.missing > 0 {
        out += &format!("pixels without depth   {}\n", depth.missing);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_by_hand() {
        let mut c = Confusion::new(3);
        // Class 0: 2 right, 1 taken for class 1. Class 1: 1 right, 1 without an answer. One pixel is unlabelled.
        c.add(&[0, 0, 0, 1, 1, 19], &[0, 0, 1, 1, 255, 0]);
        assert_eq!(c.iou(0), Some(2.0 / 3.0));
        assert_eq!(c.iou(1), Some(1.0 / 3.0));
        assert_eq!(c.iou(2), None);
        assert!((c.miou() - 0.5).abs() < 1e-12);
        assert!((c.pixel_accuracy() - 0.6).abs() < 1e-12);
    }

    #[test]
    fn depth_by_hand() {
        let mut d = DepthErrors::new();
        // Judged: 10 -> 11, 20 -> 15. Left out: no truth, too far, sky.
        d.add(&[10.0, 20.0, 0.0, 90.0, f32::INFINITY, 5.0], &[11.0, 15.0, 3.0, 90.0, 250.0, f32::NAN]);
        let r = d.report();
        assert_eq!((r.pixels, r.missing), (2, 1));
        assert!((r.abs_rel - (0.1 + 0.25) / 2.0).abs() < 1e-7);
        assert!((r.rmse_m - (26.0_f64 / 2.0).sqrt()).abs() < 1e-6);
        assert_eq!(r.delta, [0.5, 1.0, 1.0]);
    }
}

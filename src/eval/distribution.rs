//! How true and predicted depth are distributed: one joint histogram, of which both are margins.

use serde::Serialize;

/// Nearest edge of the bins, in metres.
pub const NEAREST_M: f32 = 1.0;
/// Bins between [`NEAREST_M`] and the cap, equally wide in the logarithm.
pub const BINS: usize = 48;
/// And one for what lies on either side.
const CELLS: usize = BINS + 2;

/// Counts of judged pixels by true and predicted depth.
#[derive(Debug, Clone, PartialEq)]
pub struct JointHistogram {
    log_near: f64,
    bins_per_log: f64,
    /// `counts[truth * CELLS + predicted]`.
    counts: Vec<u64>,
}

/// The histogram as it is written out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// Edges of the bins, metres.
    pub edges_m: Vec<f64>,
    /// Judged pixels by true depth: below the first edge, in each bin, at the last edge or beyond it.
    pub truth: Vec<u64>,
    /// The same pixels by predicted depth, likewise.
    pub predicted: Vec<u64>,
    /// `joint[truth][predicted]`, likewise.
    pub joint: Vec<Vec<u64>>,
}

impl JointHistogram {
    /// Up to `cap_m`, which must be above [`NEAREST_M`].
    pub fn new(cap_m: f32) -> Self {
        let log_near = f64::from(NEAREST_M).ln();
        let bins_per_log = BINS as f64 / (f64::from(cap_m).ln() - log_near);
        Self { log_near, bins_per_log, counts: vec![0; CELLS * CELLS] }
    }

    #[inline]
    fn cell(&self, log_depth: f64) -> usize {
        // A cast of what is negative or NaN is 0.
        ((log_depth - self.log_near) * self.bins_per_log + 1.0).clamp(0.0, (CELLS - 1) as f64) as usize
    }

    /// Counts one pixel, by the natural logarithms of its depths in metres.
    #[inline]
    pub fn add(&mut self, log_truth: f64, log_predicted: f64) {
        let cell = self.cell(log_truth) * CELLS + self.cell(log_predicted);
        self.counts[cell] += 1;
    }

    /// Adds what another one of the same cap has counted.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
    }

    /// As it is written out.
    pub fn report(&self) -> Distribution {
        let edge = |i: usize| (self.log_near + i as f64 / self.bins_per_log).exp();
        let joint: Vec<Vec<u64>> = self.counts.chunks(CELLS).map(<[u64]>::to_vec).collect();
        Distribution {
            edges_m: (0..=BINS).map(edge).collect(),
            truth: joint.iter().map(|row| row.iter().sum()).collect(),
            predicted: (0..CELLS).map(|p| joint.iter().map(|row| row[p]).sum()).collect(),
            joint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_is_in_the_bin_of_its_depth() {
        let mut h = JointHistogram::new(80.0);
        let pixels: [(f64, f64); 5] = [(1.0001, 79.99), (0.2, 80.0001), (10.0, 250.0), (10.0, 10.0), (40.0, 1e-3)];
        for (t, p) in pixels {
            h.add(t.ln(), p.ln());
        }
        let d = h.report();
        assert!((d.edges_m[0] - 1.0).abs() < 1e-12 && (d.edges_m[BINS] - 80.0).abs() < 1e-4);
        assert_eq!((d.truth[0], d.truth[1], d.truth[CELLS - 1]), (1, 1, 0), "0.2 is below, 1.0001 in the first bin");
        assert_eq!((d.predicted[BINS], d.predicted[CELLS - 1], d.predicted[0]), (1, 2, 1));
        let ten = 1 + d.edges_m.windows(2).position(|e| e[0] <= 10.0 && 10.0 < e[1]).expect("a bin");
        assert_eq!((d.truth[ten], d.predicted[ten], d.joint[ten][ten]), (2, 1, 1));
        let mut twice = h.clone();
        twice.merge(&h);
        assert_eq!(twice.report().truth.iter().sum::<u64>(), 10);
    }
}

//! How near depth is to exact depth.

use crate::data::depth::{MAX_DEPTH_M, MIN_DEPTH_M};
use serde::Serialize;

/// A disparity is bad when it is off by more than so many pixels (the usual "bad 3").
pub const BAD_PX: f32 = 3.0;

/// Sums over images.
#[derive(Debug, Clone, Default)]
pub struct Accuracy {
    /// Pixels with an exact depth.
    truth: u64,
    /// Of them, with an answer.
    answered: u64,
    /// Of the answered, bad ones.
    bad: u64,
    relative: f64,
    /// Answered pixels under the cap.
    near: u64,
    /// Pixels of the sky.
    sky: u64,
    /// Of them, with a depth.
    sky_answered: u64,
}

/// Measures of one kind of depth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Share of the pixels of known exact depth (not the sky) that have a depth.
    pub coverage: f64,
    /// Share of the pixels with a depth whose disparity is off by more than 3 pixels.
    pub bad3: f64,
    /// The same, with every pixel without a depth counted as bad.
    pub bad3_of_all: f64,
    /// Mean of `|depth - exact| / exact` over pixels with a depth whose exact one is under the cap; depth is clipped to
    /// what the depth code holds (0.1 to 250 m), as a student sees it.
    pub abs_rel: f64,
    /// Share of the sky's pixels that have a depth under the cap: those are invented.
    pub sky_with_depth: f64,
    /// Pixels of known exact depth.
    pub pixels: u64,
}

impl Accuracy {
    /// Counts one image: exact depth and depth in metres, pixel by pixel. `bf` is baseline x focal length, in metres x
    /// pixels; exact depth from `cap_m` on does not count for AbsRel.
    pub fn add(&mut self, exact_m: &[f32], depth_m: &[f32], bf: f32, cap_m: f32) {
        for (&exact, &depth) in exact_m.iter().zip(depth_m).filter(|(exact, _)| **exact > 0.0) {
            if exact.is_infinite() {
                self.sky += 1;
                self.sky_answered += u64::from(depth < cap_m);
                continue;
            }
            self.truth += 1;
            if depth.is_nan() {
                continue;
            }
            self.answered += 1;
            // An infinite depth is a disparity of 0.
            self.bad += u64::from((bf / depth - bf / exact).abs() > BAD_PX);
            if exact < cap_m {
                let depth = depth.clamp(MIN_DEPTH_M, MAX_DEPTH_M);
                self.relative += f64::from((depth - exact).abs() / exact);
                self.near += 1;
            }
        }
    }

    /// Counts what another one counted.
    #[must_use]
    pub fn merged(mut self, other: &Self) -> Self {
        self.truth += other.truth;
        self.answered += other.answered;
        self.bad += other.bad;
        self.relative += other.relative;
        self.near += other.near;
        self.sky += other.sky;
        self.sky_answered += other.sky_answered;
        self
    }

    /// The measures; NaN (null in JSON) where nothing was counted.
    pub fn report(&self) -> Report {
        let (truth, answered) = (self.truth as f64, self.answered as f64);
        Report {
            coverage: answered / truth,
            bad3: self.bad as f64 / answered,
            bad3_of_all: (self.truth - self.answered + self.bad) as f64 / truth,
            abs_rel: self.relative / self.near as f64,
            sky_with_depth: self.sky_answered as f64 / self.sky as f64,
            pixels: self.truth,
        }
    }
}

/// A table of named reports.
pub fn table(rows: &[(String, Report)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("depth".len());
    let mut out = format!("{:<width$}  coverage  bad-3  bad-3 of all  AbsRel  sky with depth\n", "depth");
    for (name, r) in rows {
        out += &format!(
            "{name:<width$}  {:>6.2} %  {:>5.2} %  {:>10.2} %  {:>6.4}  {:>12.2} %\n",
            100.0 * r.coverage,
            100.0 * r.bad3,
            100.0 * r.bad3_of_all,
            r.abs_rel,
            100.0 * r.sky_with_depth
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_by_hand() {
        // bf = 100: 10 m is 10 px, 20 m is 5 px, 50 m is 2 px, 100 m is 1 px.
        let inf = f32::INFINITY;
        let mut a = Accuracy::default();
        // Good (10 -> 12.5 m is 8 px), bad (20 -> 10 m), none, sky, beyond the cap but good, unknown truth.
        a.add(&[10.0, 20.0, 50.0, inf, 100.0, f32::NAN], &[12.5, 10.0, f32::NAN, 7.0, inf, 3.0], 100.0, 80.0);
        a.add(&[inf, inf, inf], &[f32::NAN, inf, 200.0], 100.0, 80.0);
        let r = a.report();
        assert_eq!(r.pixels, 4);
        assert_eq!((r.coverage, r.bad3, r.bad3_of_all), (0.75, 1.0 / 3.0, 0.5));
        assert_eq!(r.sky_with_depth, 0.25);
        assert!((r.abs_rel - (0.25 + 0.5) / 2.0).abs() < 1e-7);
        let twice = Accuracy::default().merged(&a).merged(&a).report();
        assert_eq!((twice.coverage, twice.bad3, twice.bad3_of_all, twice.pixels), (0.75, 1.0 / 3.0, 0.5, 8));
        assert_eq!((twice.sky_with_depth, twice.abs_rel), (0.25, r.abs_rel));
        let text = table(&[("sgm".into(), r)]);
        assert!(text.contains("sgm") && text.contains("75.00 %") && text.contains("0.3750"), "{text}");
    }
}

//! The one-cycle learning rate (Smith & Topin 2017), with PyTorch's `OneCycleLR` cosine shape and divisors.

use std::f64::consts::PI;

/// The cycle starts at the highest rate divided by this.
const START_DIVISOR: f64 = 25.0;
/// And ends at the starting rate divided by this.
const END_DIVISOR: f64 = 1e4;

/// Learning rate of step `step` of `steps`: a cosine up over the first `warmup` share, a cosine down over the rest.
pub fn one_cycle(step: usize, steps: usize, highest: f64, warmup: f64) -> f64 {
    let start = highest / START_DIVISOR;
    let end = start / END_DIVISOR;
    let last = (steps.max(2) - 1) as f64;
    let peak = warmup * last;
    let step = (step as f64).min(last);
    let cosine = |from: f64, to: f64, share: f64| to + (from - to) / 2.0 * (1.0 + (PI * share).cos());
    if step < peak {
        cosine(start, highest, step / peak)
    } else {
        cosine(highest, end, if last > peak { (step - peak) / (last - peak) } else { 1.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::one_cycle;

    #[test]
    fn the_cycle_starts_peaks_and_ends_where_it_should() {
        let rate = |step| one_cycle(step, 101, 1e-3, 0.3);
        assert!((rate(0) - 4e-5).abs() < 1e-12);
        assert!((rate(30) - 1e-3).abs() < 1e-12);
        assert!((rate(100) - 4e-9).abs() < 1e-12);
        assert!((1..=30).all(|s| rate(s) > rate(s - 1)) && (31..=100).all(|s| rate(s) < rate(s - 1)));
        assert!(one_cycle(0, 1, 1e-3, 0.0).is_finite());
    }
}

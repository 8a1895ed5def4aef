//! Cleaning of disparity: the edges where stereo knows nothing, noise, small holes.
//!
//! It works on disparity, not on depth: a plane is linear in disparity, and the noise of a matcher is the same at every
//! distance. All steps leave every value at its pixel, so depth stays aligned with picture and labels.

use super::Disparity;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Parts of a picture that are taken off, as shares of its width or height.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Edges {
    /// Of the width: what the right camera does not see.
    pub left: f64,
    /// Of the height.
    pub top: f64,
    /// Of the height: the own vehicle.
    pub bottom: f64,
}

/// Shares that the article names (bottom) or only mentions (left, top: there is no figure; these are 128 of 2048
/// columns, the usual range of disparities, and 51 of 1024 rows).
impl Default for Edges {
    fn default() -> Self {
        Self { left: 0.0625, top: 0.05, bottom: 0.2 }
    }
}

/// A rectangle of whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Edges {
    /// What is left of a picture without its edges.
    ///
    /// # Errors
    /// A share is outside of 0 to 1, or nothing is left.
    pub fn window(&self, width: usize, height: usize) -> Result<Window, String> {
        let pixels = |share: f64, n: usize, name: &str| {
            if (0.0..1.0).contains(&share) {
                Ok((share * n as f64).round() as usize)
            } else {
                Err(format!("{name}: expected a share of at least 0 and under 1, found {share}"))
            }
        };
        let left = pixels(self.left, width, "left edge")?;
        let (top, bottom) = (pixels(self.top, height, "top edge")?, pixels(self.bottom, height, "bottom edge")?);
        match (width.checked_sub(left), height.checked_sub(top + bottom)) {
            (Some(width), Some(height)) if width > 0 && height > 0 => Ok(Window { left, top, width, height }),
            _ => Err(format!("the edges take all of a picture of {width}x{height}")),
        }
    }
}

/// Which steps are done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CleanOptions {
    /// Edges that become unknown.
    pub edges: Option<Edges>,
    /// Median over a square of `2 * radius + 1` pixels; 0 leaves the step out.
    pub smooth_radius: usize,
    /// Gaps up to so many pixels are filled; 0 leaves the step out.
    pub hole_px: usize,
}

impl CleanOptions {
    /// No step at all.
    pub const NONE: Self = Self { edges: None, smooth_radius: 0, hole_px: 0 };
}

/// Does all steps.
///
/// # Errors
/// [`Edges::window`].
pub fn clean(disparity: &mut Disparity, options: &CleanOptions) -> Result<(), String> {
    if let Some(edges) = &options.edges {
        mask(disparity, edges.window(disparity.width, disparity.height)?);
    }
    if options.smooth_radius > 0 {
        smooth(disparity, options.smooth_radius);
    }
    if options.hole_px > 0 {
        inpaint(disparity, options.hole_px);
    }
    Ok(())
}

/// Makes everything outside of `window` unknown.
pub fn mask(disparity: &mut Disparity, window: Window) {
    let (columns, rows) = (window.left..window.left + window.width, window.top..window.top + window.height);
    for (y, row) in disparity.px.chunks_exact_mut(disparity.width).enumerate() {
        for (x, d) in row.iter_mut().enumerate() {
            if !(columns.contains(&x) && rows.contains(&y)) {
                *d = f32::NAN;
            }
        }
    }
}

/// Median of the known pixels around each known pixel. A median keeps edges, where a mean would invent surfaces
/// between them. Of an even number the lower middle is taken, never a mean, for the same reason.
pub fn smooth(disparity: &mut Disparity, radius: usize) {
    let (w, h) = (disparity.width, disparity.height);
    let source = disparity.px.clone();
    disparity.px.par_chunks_exact_mut(w).enumerate().for_each(|(y, row)| {
        let mut known = Vec::with_capacity((2 * radius + 1).pow(2));
        let rows = y.saturating_sub(radius)..(y + radius + 1).min(h);
        for (x, d) in row.iter_mut().enumerate().filter(|(_, d)| !d.is_nan()) {
            let columns = x.saturating_sub(radius)..(x + radius + 1).min(w);
            known.clear();
            for y in rows.clone() {
                known.extend(source[y * w..][columns.clone()].iter().filter(|d| !d.is_nan()));
            }
            let middle = (known.len() - 1) / 2;
            *d = *known.select_nth_unstable_by(middle, f32::total_cmp).1;
        }
    });
}

/// Ends of a gap that differ by less lie on one surface, in pixels of disparity.
const ONE_SURFACE_PX: f32 = 1.0;

/// Fills gaps of at most `hole_px` pixels between two known pixels of a row, then those of a column.
///
/// A gap inside of one surface is bridged linearly. One between two surfaces is what the nearer one hides from the
/// other camera, so it belongs to the farther one, and gets its disparity. A gap that reaches the picture's edge has
/// one end only and stays: whatever lies there, nobody has seen it.
pub fn inpaint(disparity: &mut Disparity, hole_px: usize) {
    let w = disparity.width;
    disparity.px.par_chunks_exact_mut(w).for_each(|row| fill_gaps(row, hole_px));
    let mut column = Vec::with_capacity(disparity.height);
    for x in 0..w {
        column.clear();
        column.extend(disparity.px.iter().skip(x).step_by(w));
        fill_gaps(&mut column, hole_px);
        for (d, &filled) in disparity.px.iter_mut().skip(x).step_by(w).zip(&column) {
            *d = filled;
        }
    }
}

fn fill_gaps(line: &mut [f32], longest: usize) {
    let mut last_known = None;
    for i in 0..line.len() {
        if line[i].is_nan() {
            continue;
        }
        if let Some(before) = last_known {
            let gap = i - before - 1;
            let (a, b): (f32, f32) = (line[before], line[i]);
            if (1..=longest).contains(&gap) {
                for (k, d) in line[before + 1..i].iter_mut().enumerate() {
                    let t = (k + 1) as f32 / (gap + 1) as f32;
                    *d = if (a - b).abs() < ONE_SURFACE_PX { a + (b - a) * t } else { a.min(b) };
                }
            }
        }
        last_known = Some(i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: f32 = f32::NAN;

    fn map(width: usize, px: &[f32]) -> Disparity {
        Disparity { width, height: px.len() / width, px: px.to_vec() }
    }

    fn same(found: &[f32], expected: &[f32]) {
        let equal = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6 || a.is_nan() && b.is_nan();
        assert!(found.len() == expected.len() && found.iter().zip(expected).all(equal), "{found:?} != {expected:?}");
    }

    #[test]
    fn edges_are_whole_pixels_and_leave_something() {
        let edges = Edges { left: 0.25, top: 0.1, bottom: 0.2 };
        assert_eq!(edges.window(8, 10), Ok(Window { left: 2, top: 1, width: 6, height: 7 }));
        assert!(Edges { left: 1.0, ..edges }.window(8, 10).expect_err("all").contains("left edge"));
        assert!(Edges { top: f64::NAN, ..edges }.window(8, 10).expect_err("none").contains("NaN"));
        assert!(Edges { top: 0.9, ..edges }.window(8, 10).expect_err("all").contains("all of a picture"));
        let mut d = map(4, &[5.0; 20]);
        let cut =
            CleanOptions { edges: Some(Edges { left: 0.25, top: 0.2, bottom: 0.2 }), smooth_radius: 2, hole_px: 9 };
        clean(&mut d, &cut).expect("cleaned");
        let kept = |i: usize| !i.is_multiple_of(4) && (4..16).contains(&i);
        let expected: [f32; 20] = std::array::from_fn(|i| if kept(i) { 5.0 } else { N });
        same(&d.px, &expected);
    }

    #[test]
    fn smoothing_takes_noise_and_keeps_an_edge() {
        // Left half 10, right half 30, one wild pixel in each, one unknown.
        let (w, h) = (12, 9);
        let ideal: Vec<f32> = (0..w * h).map(|i| if i % w < w / 2 { 10.0 } else { 30.0 }).collect();
        let mut noisy = ideal.clone();
        noisy[4 * w + 2] = 90.0;
        noisy[5 * w + 9] = 1.0;
        noisy[2 * w + 4] = N;
        let mut d = map(w, &noisy);
        smooth(&mut d, 1);
        let mut expected = ideal;
        expected[2 * w + 4] = N;
        same(&d.px, &expected);
    }

    #[test]
    fn smoothing_never_makes_a_value_that_was_not_there() {
        let mut d = map(2, &[10.0, N, N, 20.0]);
        smooth(&mut d, 1);
        same(&d.px, &[10.0, N, N, 10.0]);
    }

    #[test]
    fn holes_are_filled_from_their_surface_or_the_farther_one() {
        let mut d = map(9, &[10.0, N, N, N, 10.4, 30.0, N, N, 10.0]);
        inpaint(&mut d, 3);
        same(&d.px, &[10.0, 10.1, 10.2, 10.3, 10.4, 30.0, 10.0, 10.0, 10.0]);
    }

    #[test]
    fn nothing_is_invented_beyond_the_largest_hole_or_at_the_edge() {
        let holes = [N, 10.0, N, N, N, 10.0, N, N];
        let mut d = map(8, &holes);
        inpaint(&mut d, 2);
        same(&d.px, &holes);
        inpaint(&mut d, 3);
        same(&d.px, &[N, 10.0, 10.0, 10.0, 10.0, 10.0, N, N]);
    }

    #[test]
    fn columns_fill_what_rows_cannot() {
        let mut d = map(2, &[8.0, N, N, N, 8.0, N]);
        inpaint(&mut d, 1);
        same(&d.px, &[8.0, N, 8.0, N, 8.0, N]);
    }
}

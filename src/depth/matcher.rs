//! A semi-global stereo matcher: H. Hirschmüller, "Stereo Processing by Semiglobal Matching and Mutual Information",
//! PAMI 30(2), 2008, with the census transform (R. Zabih, J. Woodfill, ECCV 1994) in place of mutual information, which
//! H. Hirschmüller and D. Scharstein (PAMI 31(9), 2009) found best under differing exposure.
//!
//! Costs of 8 directions need one number a pixel and disparity. Two sweeps make them: one down the picture and one up
//! it, at the same time. Each keeps its sums for the half that it sees first; in the other half it adds to what the
//! other sweep has left there, and decides. So two threads work without waiting for each other, the result does not
//! depend on how many there are, and there is one volume in memory, not two. With 5 directions the downward sweep
//! decides each row at once and there is no volume.

use super::Disparity;
use image::GrayImage;
use multiversion::multiversion;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// From how many directions costs are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paths {
    /// Both horizontal, and those from above. Memory of a few rows.
    Five,
    /// All.
    #[default]
    Eight,
}

/// How pairs are matched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MatcherOptions {
    /// Disparities `0 .. max_disparity` are tried, in pixels. What is nearer than `baseline x focal length /
    /// max_disparity` cannot be found.
    pub max_disparity: usize,
    /// Directions.
    pub paths: Paths,
    /// Cost of a step of one pixel of disparity between neighbours, in differing bits of the census (of 62).
    pub p1: u16,
    /// Cost of any larger step, where neighbours look alike; less where they do not.
    pub p2: u16,
    /// How often the pictures are smoothed before they are compared; 0 to 8.
    pub presmooth: usize,
    /// The best disparity must cost less than every other one, but its neighbours, by this share; 0 asks for nothing.
    pub uniqueness: f32,
    /// Matching from the right must find the same disparity, to so many pixels; none leaves the check out.
    pub left_right_px: Option<u16>,
    /// Regions of even disparity that are smaller than so many pixels are dropped; 0 keeps all.
    pub speckle_px: usize,
}

/// For pictures about 1000 pixels wide; chosen on rendered streets, where noise hides what little texture a road has.
impl Default for MatcherOptions {
    fn default() -> Self {
        Self {
            max_disparity: 128,
            paths: Paths::Eight,
            p1: 32,
            p2: 500,
            presmooth: 1,
            uniqueness: 0.05,
            left_right_px: Some(1),
            speckle_px: 200,
        }
    }
}

/// Why a pair cannot be matched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// The pictures of a pair differ.
    #[error("expected a left and a right picture of one size, found {0:?} and {1:?}")]
    Sizes((u32, u32), (u32, u32)),
    /// An option is out of its range.
    #[error("{0}")]
    Option(String),
}

/// Stands beside the first and the last disparity; above any cost, and with room for `p1` below `u16::MAX`.
const BEYOND: u16 = 0x7000;
/// Grey levels between neighbours that halve `p2`.
const HALF_P2_GREY: u16 = 24;

impl MatcherOptions {
    /// Holds the options against their ranges.
    ///
    /// # Errors
    /// Which one is outside, and what it may be.
    pub fn check(&self) -> Result<(), MatchError> {
        let fail = |what: String| Err(MatchError::Option(what));
        if !(8..=1024).contains(&self.max_disparity) {
            return fail(format!("max disparity: expected 8 to 1024 pixels, found {}", self.max_disparity));
        }
        if !(1..self.p2).contains(&self.p1) || self.p2 > 1000 {
            return fail(format!("penalties: expected 0 < P1 < P2 <= 1000, found {} and {}", self.p1, self.p2));
        }
        if self.presmooth > 8 {
            return fail(format!("presmooth: expected 0 to 8 times, found {}", self.presmooth));
        }
        if !(0.0..1.0).contains(&self.uniqueness) {
            return fail(format!("uniqueness: expected at least 0 and under 1, found {}", self.uniqueness));
        }
        Ok(())
    }

    /// Bytes that matching one pair of this size takes, about.
    pub fn memory_bytes(&self, width: usize, height: usize) -> usize {
        let row = (width + 2) * (self.max_disparity + 2) * size_of::<u16>();
        match self.paths {
            Paths::Five => 9 * row + 20 * width * height,
            Paths::Eight => (height + 16) * row + 20 * width * height,
        }
    }

    /// Disparity of the left picture of a rectified pair; of many pairs, a [`Matcher`] takes less time.
    ///
    /// # Errors
    /// Pictures of different sizes, or [`MatcherOptions::check`].
    pub fn run(&self, left: &GrayImage, right: &GrayImage) -> Result<Disparity, MatchError> {
        Matcher::new(*self, Arc::default())?.run(left, right)
    }
}

/// Memory of pairs that were matched, for the next ones: to map and unmap a gigabyte for each pair takes the system as long as the
/// matching takes.
#[derive(Debug, Default)]
pub struct Volumes(Mutex<Vec<Vec<u16>>>);

/// Matches pairs, several at a time.
#[derive(Debug)]
pub struct Matcher {
    options: MatcherOptions,
    volumes: Arc<Volumes>,
}

impl Matcher {
    /// With these options; matchers that do not work at the same time share their memory.
    ///
    /// # Errors
    /// [`MatcherOptions::check`].
    pub fn new(options: MatcherOptions, volumes: Arc<Volumes>) -> Result<Self, MatchError> {
        options.check()?;
        Ok(Self { options, volumes })
    }

    /// Disparity of the left picture of a rectified pair.
    ///
    /// # Errors
    /// Pictures of different sizes.
    pub fn run(&self, left: &GrayImage, right: &GrayImage) -> Result<Disparity, MatchError> {
        let options = &self.options;
        if left.dimensions() != right.dimensions() {
            return Err(MatchError::Sizes(left.dimensions(), right.dimensions()));
        }
        let (width, height) = (left.width() as usize, left.height() as usize);
        let mut disparity = Disparity { width, height, px: vec![f32::NAN; width * height] };
        if width == 0 || height == 0 {
            return Ok(disparity);
        }
        let pair = Pair {
            options: *options,
            width,
            height,
            grey: left.as_raw(),
            left: census(&smoothed(left, options.presmooth), width, height),
            right: census(&smoothed(right, options.presmooth), width, height),
        };
        match options.paths {
            Paths::Five => pair.five(&mut disparity.px),
            Paths::Eight => {
                let volumes = || self.volumes.0.lock().unwrap_or_else(PoisonError::into_inner);
                let mut volume = volumes().pop().unwrap_or_default();
                pair.eight(&mut volume, &mut disparity.px);
                volumes().push(volume);
            }
        }
        if options.speckle_px > 0 {
            drop_speckles(&mut disparity, options.speckle_px);
        }
        Ok(disparity)
    }
}

/// The picture, smoothed `times` times by the binomial 3 x 3, in units of 1/256 grey level: in an even region the order
/// of neighbours, which is all that a census sees, is that of the sensor's noise, and smoothing brings out what little
/// the surface itself has.
fn smoothed(picture: &GrayImage, times: usize) -> Vec<u16> {
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    let mut values: Vec<u16> = picture.as_raw().iter().map(|&v| u16::from(v) << 8).collect();
    let mut next = vec![0; values.len()];
    let binomial = |a: u16, b: u16, c: u16| ((u32::from(a) + 2 * u32::from(b) + u32::from(c) + 2) / 4) as u16;
    for _ in 0..times {
        next.par_chunks_exact_mut(w).zip(values.par_chunks_exact(w)).for_each(|(out, row)| {
            for (x, out) in out.iter_mut().enumerate() {
                *out = binomial(row[x.saturating_sub(1)], row[x], row[(x + 1).min(w - 1)]);
            }
        });
        values.par_chunks_exact_mut(w).enumerate().for_each(|(y, out)| {
            let row = |y: usize| &next[y * w..][..w];
            let (above, own, below) = (row(y.saturating_sub(1)), row(y), row((y + 1).min(h - 1)));
            for (x, out) in out.iter_mut().enumerate() {
                *out = binomial(above[x], own[x], below[x]);
            }
        });
    }
    values
}

/// Census transform of each pixel over 9 x 7: a bit for each neighbour, set where it is darker than the pixel.
/// Neighbours outside of the picture are the nearest inside.
fn census(values: &[u16], w: usize, h: usize) -> Vec<u64> {
    // Pixels beyond a row's end: half a window, and what is missing from a whole block.
    let stride = w.next_multiple_of(CENSUS_BLOCK) + 8;
    let mut codes = vec![0; w * h];
    codes.par_chunks_exact_mut(w).enumerate().for_each_init(
        || vec![0; 7 * stride],
        |rows, (y, codes)| {
            for (dy, row) in rows.chunks_exact_mut(stride).enumerate() {
                let own = &values[(y + dy).saturating_sub(3).min(h - 1) * w..][..w];
                row[..4].fill(own[0]);
                row[4..4 + w].copy_from_slice(own);
                row[4 + w..].fill(own[w - 1]);
            }
            census_row(rows, stride, codes);
        },
    );
    codes
}

/// Pixels whose codes are made at once.
const CENSUS_BLOCK: usize = 16;

/// The codes of a row from the seven rows about it, four pixels before the first one on.
#[multiversion(targets("x86_64+avx2"))]
fn census_row(rows: &[u16], stride: usize, codes: &mut [u64]) {
    for (i, codes) in codes.chunks_mut(CENSUS_BLOCK).enumerate() {
        let at = |neighbour: usize| -> &[u16] {
            let from = neighbour / 9 * stride + i * CENSUS_BLOCK + neighbour % 9;
            &rows[from..][..CENSUS_BLOCK]
        };
        let own = at(MIDDLE);
        // The neighbours before the pixel itself and those behind it, as words of 16 bits.
        let words = [0..14, 14..30, 30..47, 47..63].map(|neighbours| {
            let mut word = [0_u16; CENSUS_BLOCK];
            for neighbour in neighbours.filter(|neighbour| *neighbour != MIDDLE) {
                for ((word, neighbour), own) in word.iter_mut().zip(at(neighbour)).zip(own) {
                    *word = *word << 1 | u16::from(neighbour < own);
                }
            }
            word.map(u64::from)
        });
        let [a, b, c, d] = &words;
        for (k, code) in codes.iter_mut().enumerate() {
            *code = a[k] << 48 | b[k] << 32 | c[k] << 16 | d[k];
        }
    }
}

/// The pixel itself among the 63 of its window.
const MIDDLE: usize = 31;

/// A pair, ready to be matched.
struct Pair<'a> {
    options: MatcherOptions,
    width: usize,
    height: usize,
    /// Of the left picture.
    grey: &'a [u8],
    left: Vec<u64>,
    right: Vec<u64>,
}

/// Path costs `[pixel, disparity]` of one direction along one row, with a pixel beyond each end, and with a disparity
/// beyond each end of each pixel; and the least cost of each pixel. A pixel of zeros starts a path.
struct PathRow {
    costs: Vec<u16>,
    least: Vec<u16>,
}

impl PathRow {
    fn new(pixels: usize, disparities: usize) -> Self {
        let mut costs = vec![0; (pixels + 2) * (disparities + 2)];
        for pixel in costs.chunks_exact_mut(disparities + 2) {
            pixel[0] = BEYOND;
            pixel[disparities + 1] = BEYOND;
        }
        Self { costs, least: vec![0; pixels + 2] }
    }
}

/// A sweep over the rows, downwards or upwards: what it has to remember from row to row.
struct Sweep<'a> {
    pair: &'a Pair<'a>,
    /// The row before, in the direction of the sweep.
    before: Option<usize>,
    /// Of the row before, and of this row: straight, from the left, from the right.
    paths: [[PathRow; 3]; 2],
    /// Horizontal paths: the pixel before and this one.
    along: [PathRow; 2],
    /// `[pixel, disparity]` of this row.
    costs: Vec<u8>,
    /// The right picture's codes of this row, from right to left, and room beyond them.
    reversed: Vec<u64>,
    decision: Decision,
}

impl<'a> Sweep<'a> {
    fn new(pair: &'a Pair<'a>) -> Self {
        let (w, n) = (pair.width, pair.options.max_disparity);
        let rows = || [PathRow::new(w, n), PathRow::new(w, n), PathRow::new(w, n)];
        Self {
            pair,
            before: None,
            paths: [rows(), rows()],
            along: [PathRow::new(1, n), PathRow::new(1, n)],
            costs: vec![0; w * n],
            reversed: vec![0; w + n],
            decision: Decision::new(w, n),
        }
    }

    /// Adds this row's path costs to `sums` (`[pixel, disparity]`). The `first` sweep over a row adds the horizontal ones, too, and
    /// begins the sums: what was there before is overwritten.
    fn add_row(&mut self, y: usize, first: bool, sums: &mut [u16]) {
        let (w, n, options) = (self.pair.width, self.pair.options.max_disparity, &self.pair.options);
        for (code, &right) in self.reversed.iter_mut().zip(self.pair.right[y * w..][..w].iter().rev()) {
            *code = right;
        }
        matching_costs(&self.pair.left[y * w..][..w], &self.reversed, n, &mut self.costs);
        let grey = &self.pair.grey[y * w..][..w];
        if first {
            along_row(options, grey, &self.costs, &mut self.along, sums);
        }
        let [old, new] = &mut self.paths;
        let above = self.before.map(|y| &self.pair.grey[y * w..][..w]);
        from_row(options, above, grey, &self.costs, old, new, sums);
        self.paths.swap(0, 1);
        self.before = Some(y);
    }
}

impl Pair<'_> {
    fn five(&self, disparity: &mut [f32]) {
        let mut sums = vec![0; self.width * self.options.max_disparity];
        let mut sweep = Sweep::new(self);
        for (y, out) in disparity.chunks_exact_mut(self.width).enumerate() {
            sweep.add_row(y, true, &mut sums);
            sweep.decision.decide(&self.options, &sums, out);
        }
    }

    /// `volume` is only memory: what is in it does not matter.
    fn eight(&self, volume: &mut Vec<u16>, disparity: &mut [f32]) {
        let (w, middle) = (self.width, self.height / 2);
        let row = w * self.options.max_disparity;
        volume.resize(row * self.height, 0);
        let (upper, lower) = volume.split_at_mut(row * middle);
        let (upper_out, lower_out) = disparity.split_at_mut(w * middle);
        let (mut down, mut up) = (Sweep::new(self), Sweep::new(self));
        let keep = |sweep: &mut Sweep, rows: &mut dyn Iterator<Item = (usize, &mut [u16])>| {
            rows.for_each(|(y, sums)| sweep.add_row(y, true, sums));
        };
        rayon::join(
            || keep(&mut down, &mut upper.chunks_exact_mut(row).enumerate()),
            || keep(&mut up, &mut lower.chunks_exact_mut(row).enumerate().map(|(y, s)| (middle + y, s)).rev()),
        );
        let finish = |sweep: &mut Sweep, y: usize, sums: &mut [u16], out: &mut [f32]| {
            sweep.add_row(y, false, sums);
            sweep.decision.decide(&self.options, sums, out);
        };
        rayon::join(
            || {
                for (y, (sums, out)) in lower.chunks_exact_mut(row).zip(lower_out.chunks_exact_mut(w)).enumerate() {
                    finish(&mut down, middle + y, sums, out);
                }
            },
            || {
                let rows = upper.chunks_exact_mut(row).zip(upper_out.chunks_exact_mut(w)).enumerate();
                for (y, (sums, out)) in rows.rev() {
                    finish(&mut up, y, sums, out);
                }
            },
        );
    }
}

/// Differing bits of each left pixel's code and the right ones that its disparities point to.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512vpopcntdq",
    "x86_64+avx2+popcnt",
    "x86_64+avx2"
))]
fn matching_costs(left: &[u64], reversed: &[u64], disparities: usize, costs: &mut [u8]) {
    let w = left.len();
    for (x, (&code, costs)) in left.iter().zip(costs.chunks_exact_mut(disparities)).enumerate() {
        let right = &reversed[w - 1 - x..][..disparities];
        for (cost, &other) in costs.iter_mut().zip(right) {
            *cost = (code ^ other).count_ones() as u8;
        }
        if x + 1 < disparities {
            // Beyond the right picture's edge nothing speaks for a disparity and nothing against it: the mean of the
            // others. A fixed cost would draw even surfaces to the few disparities that the left edge allows.
            let (inside, outside) = costs.split_at_mut(x + 1);
            let sum: u32 = inside.iter().map(|&c| u32::from(c)).sum();
            outside.fill(sum.div_ceil(inside.len() as u32) as u8);
        }
    }
}

/// `p2` between two neighbours.
#[inline(always)]
fn adapted_p2(options: &MatcherOptions, a: u8, b: u8) -> u16 {
    let step = u16::from(a.abs_diff(b));
    (options.p2 * HALF_P2_GREY / (HALF_P2_GREY + step)).max(options.p1 + 1)
}

/// One pixel of a path: `L(p, d) = C(p, d) + min(L(q, d), L(q, d +- 1) + P1, min L(q) + P2) - min L(q)` with the pixel
/// `q` before. Adds it to the sums, which the `FIRST` path begins, and returns its least cost.
#[inline(always)]
fn step<const FIRST: bool>(
    costs: &[u8],
    before: &[u16],
    least: u16,
    (p1, p2): (u16, u16),
    new: &mut [u16],
    sums: &mut [u16],
) -> u16 {
    let n = costs.len();
    let (same, less, more) = (&before[1..][..n], &before[..n], &before[2..][..n]);
    let (new, sums) = (&mut new[1..][..n], &mut sums[..n]);
    let jump = least + p2;
    let mut new_least = u16::MAX;
    for d in 0..n {
        let near = less[d].min(more[d]) + p1;
        let cost = u16::from(costs[d]) + same[d].min(near).min(jump) - least;
        new[d] = cost;
        sums[d] = if FIRST { cost } else { sums[d] + cost };
        new_least = new_least.min(cost);
    }
    new_least
}

/// Both horizontal directions of a row, with which its sums begin.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn along_row(options: &MatcherOptions, grey: &[u8], costs: &[u8], along: &mut [PathRow; 2], sums: &mut [u16]) {
    let n = options.max_disparity;
    let w = grey.len();
    for backwards in [false, true] {
        // A path starts from zeros.
        along[0].costs[1..=n].fill(0);
        let mut least = 0;
        let mut grey_before = None;
        for i in 0..w {
            let x = if backwards { w - 1 - i } else { i };
            let p2 = grey_before.map_or(options.p2, |g| adapted_p2(options, g, grey[x]));
            let [before, new] = along;
            let (costs, sums) = (&costs[x * n..][..n], &mut sums[x * n..][..n]);
            let (before, new, penalties) = (&before.costs[..n + 2], &mut new.costs[..n + 2], (options.p1, p2));
            least = if backwards {
                step::<false>(costs, before, least, penalties, new, sums)
            } else {
                step::<true>(costs, before, least, penalties, new, sums)
            };
            along.swap(0, 1);
            grey_before = Some(grey[x]);
        }
    }
}

/// The three directions that come from the row before.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn from_row(
    options: &MatcherOptions,
    above: Option<&[u8]>,
    grey: &[u8],
    costs: &[u8],
    old: &[PathRow; 3],
    new: &mut [PathRow; 3],
    sums: &mut [u16],
) {
    let n = options.max_disparity;
    for (x, &own) in grey.iter().enumerate() {
        let (costs, sums) = (&costs[x * n..][..n], &mut sums[x * n..][..n]);
        // Straight, from the left, from the right: pixel x stands at place x + 1.
        for ((old, new), from) in old.iter().zip(new.iter_mut()).zip([x + 1, x, x + 2]) {
            let other = above.and_then(|row| row.get((from).wrapping_sub(1)));
            let p2 = other.map_or(options.p2, |&g| adapted_p2(options, g, own));
            let before = &old.costs[from * (n + 2)..][..n + 2];
            let pixel = &mut new.costs[(x + 1) * (n + 2)..][..n + 2];
            new.least[x + 1] = step::<false>(costs, before, old.least[from], (options.p1, p2), pixel, sums);
        }
    }
}

/// Chooses the disparities of a row; kept for its memory.
struct Decision {
    /// Least sum of each pixel of the right picture, from right to left, with room beyond; and its disparity.
    right_sum: Vec<u16>,
    right_disparity: Vec<u16>,
}

impl Decision {
    fn new(width: usize, disparities: usize) -> Self {
        Self { right_sum: vec![0; width + disparities], right_disparity: vec![0; width + disparities] }
    }

    fn decide(&mut self, options: &MatcherOptions, sums: &[u16], out: &mut [f32]) {
        decide_row(options, sums, &mut self.right_sum, &mut self.right_disparity, out);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decide_row(
    options: &MatcherOptions,
    sums: &[u16],
    right_sum: &mut [u16],
    right_disparity: &mut [u16],
    out: &mut [f32],
) {
    let (n, w) = (options.max_disparity, out.len());
    right_sum.fill(u16::MAX);
    for (x, sums) in sums.chunks_exact(n).enumerate() {
        // Disparity d of left pixel x is disparity d of right pixel x - d, which stands at w - 1 - x + d.
        let (best, best_d) = (&mut right_sum[w - 1 - x..][..n], &mut right_disparity[w - 1 - x..][..n]);
        for d in 0..n {
            let better = sums[d] < best[d];
            best[d] = if better { sums[d] } else { best[d] };
            best_d[d] = if better { d as u16 } else { best_d[d] };
        }
    }
    for (x, (sums, out)) in sums.chunks_exact(n).zip(out).enumerate() {
        let least = least_of(sums);
        let d = sums.iter().position(|&s| s == least).unwrap_or(0);
        let rival = least_of(&sums[..d.saturating_sub(1)]).min(least_of(&sums[(d + 2).min(n)..]));
        let unique = options.uniqueness == 0.0 || f32::from(rival) * (1.0 - options.uniqueness) > f32::from(least);
        let seen = d <= x;
        let agrees = options.left_right_px.is_none_or(|most| {
            // A left pixel whose match lies outside has no partner to ask.
            seen && right_disparity[w - 1 - x + d].abs_diff(d as u16) <= most
        });
        *out = if seen && unique && agrees { refined(sums, d) } else { f32::NAN };
    }
}

#[inline(always)]
fn least_of(sums: &[u16]) -> u16 {
    sums.iter().fold(u16::MAX, |least, &s| least.min(s))
}

/// Between whole disparities by two lines of equal steepness through the three sums around the least: costs of a
/// census grow linearly with the distance, not with its square.
#[inline(always)]
fn refined(sums: &[u16], d: usize) -> f32 {
    if d == 0 || d + 1 >= sums.len() {
        return d as f32;
    }
    let (before, at, after) = (f32::from(sums[d - 1]), f32::from(sums[d]), f32::from(sums[d + 1]));
    let steep = (before - at).max(after - at);
    d as f32 + if steep > 0.0 { (before - after) / (2.0 * steep) } else { 0.0 }
}

/// Neighbours whose disparity differs by more are in different regions, in pixels.
const REGION_STEP_PX: f32 = 1.0;

/// Makes regions of fewer than `smallest` pixels unknown.
pub fn drop_speckles(disparity: &mut Disparity, smallest: usize) {
    let (w, h) = (disparity.width, disparity.height);
    let px = &mut disparity.px;
    let mut visited = vec![false; px.len()];
    let mut region: Vec<usize> = Vec::new();
    for start in 0..px.len() {
        if visited[start] || px[start].is_nan() {
            continue;
        }
        visited[start] = true;
        region.clear();
        region.push(start);
        let mut next = 0;
        while let Some(&i) = region.get(next) {
            next += 1;
            let (x, y) = (i % w, i / w);
            let around =
                [(x > 0, i.wrapping_sub(1)), (x + 1 < w, i + 1), (y > 0, i.wrapping_sub(w)), (y + 1 < h, i + w)];
            for (_, j) in around.into_iter().filter(|(inside, _)| *inside) {
                // Unknown neighbours compare false.
                if !visited[j] && (px[j] - px[i]).abs() <= REGION_STEP_PX {
                    visited[j] = true;
                    region.push(j);
                }
            }
        }
        if region.len() < smallest {
            for &i in &region {
                px[i] = f32::NAN;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A surface's texture, smooth between whole numbers, so that a scene can be seen at parts of a pixel.
    fn texture(x: f64, y: usize, surface: u32) -> f64 {
        let lattice = |i: f64| {
            let mut h = (i as i64 as u32).wrapping_mul(0x9e37_79b9) ^ (y as u32).wrapping_mul(0x85eb_ca6b) ^ surface;
            h = (h ^ h >> 15).wrapping_mul(0x2c1b_3c6d);
            h = (h ^ h >> 12).wrapping_mul(0x297a_2d39);
            f64::from((h ^ h >> 15) & 255)
        };
        let (i, t) = (x.floor(), x - x.floor());
        lattice(i) * (1.0 - t) + lattice(i + 1.0) * t
    }

    /// A pair of a surface with disparity `at(x, y)` of the left picture, and where `front` says so another one before
    /// it, with 22 pixels.
    fn pair(
        (w, h): (u32, u32),
        at: impl Fn(f64, f64) -> f64,
        front: impl Fn(f64, u32) -> bool,
    ) -> (GrayImage, GrayImage) {
        let picture =
            |f: &dyn Fn(f64, u32) -> f64| GrayImage::from_fn(w, h, |x, y| image::Luma([f(f64::from(x), y) as u8]));
        // Textures stand still in the left picture's columns; the right picture solves x_left - d(x_left) = x.
        let left = picture(&|x, y| texture(x, y as usize, u32::from(front(x, y))));
        let right = picture(&|x, y| {
            if front(x + 22.0, y) {
                return texture(x + 22.0, y as usize, 1);
            }
            let mut from = x;
            for _ in 0..50 {
                from = x + at(from, f64::from(y));
            }
            texture(from, y as usize, 0)
        });
        (left, right)
    }

    const PLAIN: MatcherOptions = MatcherOptions {
        max_disparity: 32,
        paths: Paths::Eight,
        p1: 8,
        p2: 96,
        presmooth: 0,
        uniqueness: 0.0,
        left_right_px: Some(1),
        speckle_px: 0,
    };

    #[test]
    fn a_slanted_plane_is_found_to_half_a_pixel() {
        let plane = |x: f64, y: f64| 4.3 + 0.06 * x + 0.04 * y;
        let (left, right) = pair((200, 90), plane, |_, _| false);
        for paths in [Paths::Five, Paths::Eight] {
            let d = MatcherOptions { paths, ..PLAIN }.run(&left, &right).expect("matched");
            let (mut known, mut off, mut all, mut sum) = (0, 0, 0, 0.0);
            for y in 4..86 {
                for x in 24..196 {
                    let error = (f64::from(d.px[y * 200 + x]) - plane(x as f64, y as f64)).abs();
                    all += 1;
                    known += usize::from(!error.is_nan());
                    off += usize::from(error > 0.5);
                    sum += if error.is_nan() { 0.0 } else { error };
                }
            }
            assert!(known * 100 > all * 98, "{paths:?}: {known} of {all} known");
            // Where the plane passes the middle between two whole disparities either may win.
            assert!(off * 20 < known, "{paths:?}: {off} of {known} are off by more than half a pixel");
            assert!(sum / (known as f64) < 0.25, "{paths:?}: {} px off in the mean", sum / known as f64);
        }
    }

    #[test]
    fn what_the_right_camera_cannot_see_is_unknown() {
        // A square in front, 22 px; the background, 6 px, is hidden from the right camera 16 columns to its left.
        let front = |x: f64, y: u32| (90.0..130.0).contains(&x) && (20..60).contains(&y);
        let (left, right) = pair((200, 80), |_, _| 6.0, front);
        let hidden = |d: &Disparity| {
            let of = |x: usize, y: usize| d.px[y * 200 + x];
            (25..55).flat_map(|y| (76..88).map(move |x| (x, y))).filter(|&(x, y)| of(x, y).is_nan()).count()
        };
        let checked = PLAIN.run(&left, &right).expect("matched");
        assert!(hidden(&checked) > 330, "{} of 360 hidden pixels are unknown", hidden(&checked));
        let believed = MatcherOptions { left_right_px: None, ..PLAIN }.run(&left, &right).expect("matched");
        assert!(hidden(&believed) < 30, "without the check {} are unknown", hidden(&believed));
        // What both see is right on both sides of the edge.
        for (x, y, expected) in [(110, 40, 22.0), (60, 40, 6.0), (150, 40, 6.0), (110, 10, 6.0)] {
            assert!((checked.px[y * 200 + x] - expected).abs() < 0.5, "{x},{y}: {}", checked.px[y * 200 + x]);
        }
    }

    #[test]
    fn the_result_does_not_depend_on_the_threads() {
        let (left, right) = pair((150, 61), |x, _| 5.0 + x / 20.0, |_, _| false);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| MatcherOptions::default().run(&left, &right)).expect("matched").px
        };
        let bits = |px: Vec<f32>| px.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(run(1)), bits(run(4)));
    }

    #[test]
    fn pictures_of_one_pixel_or_narrower_than_the_range_are_matched() {
        for (w, h) in [(1, 1), (5, 3), (3, 40)] {
            let (left, right) = pair((w, h), |_, _| 1.0, |_, _| false);
            for paths in [Paths::Five, Paths::Eight] {
                let d = MatcherOptions { paths, ..PLAIN }.run(&left, &right).expect("matched");
                assert_eq!(d.px.len(), (w * h) as usize);
                assert!(d.px.iter().enumerate().all(|(i, &d)| d.is_nan() || d <= (i as u32 % w) as f32 + 0.5));
            }
        }
    }

    #[test]
    fn an_even_surface_is_unknown() {
        let even = GrayImage::from_pixel(160, 40, image::Luma([90]));
        let d = MatcherOptions { uniqueness: 0.05, ..PLAIN }.run(&even, &even).expect("matched");
        let known = d.px.iter().filter(|d| !d.is_nan()).count();
        assert_eq!(known, 0, "pixels of an even surface are believed");
    }

    #[test]
    fn speckles_go_and_regions_stay() {
        let (w, h) = (20, 10);
        let mut d = Disparity { width: w, height: h, px: vec![5.0; w * h] };
        for i in [44, 45, 64] {
            d.px[i] = 9.0;
        }
        d.px[100] = f32::NAN;
        drop_speckles(&mut d, 4);
        let unknown: Vec<usize> = (0..w * h).filter(|&i| d.px[i].is_nan()).collect();
        assert_eq!(unknown, [44, 45, 64, 100]);
        drop_speckles(&mut d, 196);
        assert_eq!(d.px.iter().filter(|d| !d.is_nan()).count(), 196);
        drop_speckles(&mut d, 197);
        assert!(d.px.iter().all(|d| d.is_nan()));
    }

    #[test]
    fn wrong_options_and_pictures_are_refused() {
        let picture = |w| GrayImage::new(w, 4);
        let refused = |o: MatcherOptions| o.run(&picture(4), &picture(4)).expect_err("refused").to_string();
        assert!(refused(MatcherOptions { max_disparity: 4, ..PLAIN }).contains("8 to 1024 pixels, found 4"));
        assert!(refused(MatcherOptions { p1: 96, ..PLAIN }).contains("P1 < P2"));
        assert!(refused(MatcherOptions { uniqueness: f32::NAN, ..PLAIN }).contains("NaN"));
        assert!(refused(MatcherOptions { presmooth: 9, ..PLAIN }).contains("found 9"));
        let error = PLAIN.run(&picture(4), &picture(5)).expect_err("sizes differ").to_string();
        assert!(error.contains("(4, 4) and (5, 4)"), "{error}");
    }
}

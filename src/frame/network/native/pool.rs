//! 5x5 max pooling, alone and chained.
#![allow(unsafe_code)]

use crate::cpu::simd::{kernel, Bf16, Block, Element, Isa, LANES};
use crate::frame::network::native::Image;
use crate::model::CRP_STAGES as STAGES;
use std::marker::PhantomData;

/// Rows and columns that a pool looks beyond its own pixel, to each side.
const REACH: usize = 2;
/// Rows of a pool.
const WINDOW: usize = 2 * REACH + 1;
/// Rows between a chain's newest input row and the sum that it completes, and that one.
const PENDING: usize = STAGES * REACH + 1;

kernel! {
    /// [`Step`] in single precision.
    pub pool_row = pool_row_in(step: Step<'_, f32, f32>, column: &mut [f32]);
    /// [`Step`] from single precision to `bfloat16`.
    pub pool_row_narrowing = pool_row_in(step: Step<'_, f32, Bf16>, column: &mut [f32]);
    /// [`Step`] in `bfloat16`.
    pub pool_row_bf16 = pool_row_in(step: Step<'_, Bf16, Bf16>, column: &mut [f32]);
}

/// One row of one pooling of a chain: the 5x5 maximum of `top`, as libtorch's `max_pool2d` pads (what is outside does not
/// count), and the chain's sum with both added. `column` in the functions is room for a row.
#[derive(Debug)]
pub struct Step<'a, A, B> {
    /// `[height][width][channels]`.
    pub top: &'a [A],
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// A multiple of [`LANES`].
    pub channels: usize,
    /// Which row.
    pub y: usize,
    /// The row's maximum.
    pub pooled: &'a mut [B],
    /// The row's sum before, and after.
    pub sum: &'a mut [f32],
    /// Nothing is in the sum yet.
    pub is_first: bool,
}

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn pool_row_in<S: Isa, A: Element, B: Element>(_: PhantomData<S>, step: Step<'_, A, B>, column: &mut [f32]) {
    let Step { top, height, width, channels, y, pooled, sum, is_first } = step;
    let row = width * channels;
    assert!(y < height && channels % LANES == 0 && top.len() == height * row);
    assert!(column.len() == row && pooled.len() == row && sum.len() == row);
    let (first, last) = (y.saturating_sub(REACH), (y + REACH).min(height - 1));
    // Rows beyond the edge are replaced by the edge's own, which the maximum has seen already.
    let rows: [&[A]; WINDOW] = std::array::from_fn(|i| {
        let at = (y + i).saturating_sub(REACH).clamp(first, last);
        &top[at * row..][..row]
    });
    // SAFETY: `rows`, `column`, `pooled` and `sum` have `row` values, `row` is a multiple of `LANES`, and all offsets are
    // below it.
    unsafe {
        for i in (0..row).step_by(LANES) {
            // Not by `map`, into which what is compiled for other instruction sets is not inlined.
            let mut most = A::load::<S>(rows[0].as_ptr().add(i));
            for row in &rows[1..] {
                most = S::max(most, A::load::<S>(row.as_ptr().add(i)));
            }
            S::store(most, column.as_mut_ptr().add(i));
        }
        let here = rows[REACH].as_ptr();
        for x in 0..width {
            let (first, last) = (x.saturating_sub(REACH), (x + REACH).min(width - 1));
            let from: [usize; WINDOW] =
                std::array::from_fn(|i| (x + i).saturating_sub(REACH).clamp(first, last) * channels);
            for c in (0..channels).step_by(LANES) {
                let at = x * channels + c;
                let mut most = S::load(column.as_ptr().add(from[0] + c));
                for from in &from[1..] {
                    most = S::max(most, S::load(column.as_ptr().add(from + c)));
                }
                B::store::<S>(most, pooled.as_mut_ptr().add(at));
                let top = A::load::<S>(here.add(at));
                let before = if is_first { top } else { S::add(S::load(sum.as_ptr().add(at)), top) };
                S::store(S::add(before, most), sum.as_mut_ptr().add(at));
            }
        }
    }
}

/// The 1/4 stage of [`LANES`] channels: room for the rows that are under way.
///
/// Rows go in at the top; each of the four pools holds the last five rows of its input, so that a map is read once and its
/// sum written once, and everything between lies in the processor's cache.
#[derive(Debug)]
pub struct Chain {
    width: usize,
    /// Of each pool, its last five input rows, in rotation.
    rings: [Vec<Block>; STAGES],
    /// Sums that are not complete, in rotation.
    sums: Vec<Block>,
    /// The maximum along columns, with [`REACH`] of minus infinity at both ends.
    column: Vec<Block>,
    /// A row of the smaller map, enlarged in height.
    enlarged: Vec<Block>,
}

impl Chain {
    /// Makes it one for maps of `width` columns.
    pub fn fit(&mut self, width: usize) {
        if self.width != width {
            *self = Self::new(width);
        }
    }

    /// For maps of `width` columns.
    pub fn new(width: usize) -> Self {
        let rows = |n: usize| vec![[0.0; LANES]; n * width];
        Self {
            width,
            rings: std::array::from_fn(|_| rows(WINDOW)),
            sums: rows(PENDING),
            column: vec![[f32::NEG_INFINITY; LANES]; width + 2 * REACH],
            enlarged: Vec::new(),
        }
    }
}

/// What the 1/4 stage is computed from: `relu6(enlarged(eighth) + conv6(block1))`, and its pools' factors.
#[derive(Debug, Clone, Copy)]
pub struct QuarterInput<'a> {
    /// `[H/4, W/4, 16]`.
    pub block1: Image<'a>,
    /// `[H/8, W/8, channels]`.
    pub eighth: Image<'a>,
    /// Where each row of the larger map lies in the smaller one.
    pub rows: &'a [Lerp],
    /// The same of the columns.
    pub columns: &'a [Lerp],
    /// Projection of block 1: for each block of channels, its 16 inputs' weights.
    pub conv6: &'a [[Block; LANES]],
    /// For each block of channels, the factors after each pool.
    pub scales: &'a [[Block; STAGES]],
}

/// A place between two pixels of a smaller map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lerp {
    /// The first.
    pub first: usize,
    /// The next, or the first at the edge.
    pub next: usize,
    /// Share of the next.
    pub weight: f32,
}

impl Lerp {
    /// Half-pixel centres, replicated edges: PyTorch's `align_corners=False`, from `small` pixels to `large`.
    pub fn axis(small: usize, large: usize) -> Vec<Self> {
        let scale = small as f32 / large as f32;
        let place = |i: usize| {
            let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
            let first = (at as usize).min(small - 1);
            Self { first, next: (first + 1).min(small - 1), weight: at - first as f32 }
        };
        (0..large).map(place).collect()
    }
}

kernel! {
    /// Chained residual pooling of one block of channels at 1/4 of the input: `sums` becomes
    /// `x + sum over the stages of (pool + factor * pool)`, `[H/4, W/4]`.
    pub quarter_block = quarter_block_in(chain: &mut Chain, input: QuarterInput<'_>, block: usize, sums: &mut [Block])
}

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn quarter_block_in<S: Isa>(
    _: PhantomData<S>,
    chain: &mut Chain,
    input: QuarterInput<'_>,
    block: usize,
    sums: &mut [Block],
) {
    let (height, width) = (input.block1.height, input.block1.width);
    assert_eq!((chain.width, sums.len()), (width, width * height));
    for y in 0..height + STAGES * REACH {
        // SAFETY: the caller's condition.
        unsafe {
            if y < height {
                input_row::<S>(chain, &input, block, y);
            }
            for stage in 0..STAGES {
                // This stage's newest input row is `y - REACH * stage`; the pool that it completes is REACH above that.
                let Some(at) = y.checked_sub((stage + 1) * REACH).filter(|at| *at < height) else { continue };
                pool_stage::<S>(chain, stage, at, height, &input.scales[block][stage]);
            }
        }
        if let Some(done) = y.checked_sub(STAGES * REACH) {
            let sum = &chain.sums[(done % PENDING) * width..][..width];
            sums[done * width..][..width].copy_from_slice(sum);
        }
    }
}

/// Row `y` of the chain's input: into the first ring and as the beginning of its sum.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn input_row<S: Isa>(chain: &mut Chain, input: &QuarterInput<'_>, block: usize, y: usize) {
    let width = chain.width;
    let QuarterInput { block1, eighth, rows, columns, conv6, .. } = *input;
    let from = block * LANES;
    assert!(block1.channels == LANES && from + LANES <= eighth.channels && columns.len() == width);
    assert!(columns.iter().all(|c| c.first < eighth.width && c.next < eighth.width));
    let Lerp { first, next, weight } = rows[y];
    let (upper, lower) = (eighth.row(first), eighth.row(next));
    chain.enlarged.resize(eighth.width, [0.0; LANES]);
    let ring = &mut chain.rings[0][(y % WINDOW) * width..][..width];
    let sum = &mut chain.sums[(y % PENDING) * width..][..width];
    let inputs = block1.row(y);
    // SAFETY: rows of `eighth` have `eighth.width * eighth.channels` values and `from + LANES` of a pixel's channels are there;
    // `enlarged` has `eighth.width` blocks and the columns' places are below that; `ring`, `sum` and `inputs` have `width`
    // blocks of 16.
    unsafe {
        let (a, b) = (S::splat(1.0 - weight), S::splat(weight));
        for (x, out) in chain.enlarged.iter_mut().enumerate() {
            let at = x * eighth.channels + from;
            let mixed = S::mul(S::load(upper.as_ptr().add(at)), a);
            S::store(S::fma(S::load(lower.as_ptr().add(at)), b, mixed), out.as_mut_ptr());
        }
        let (zero, six) = (S::splat(0.0), S::splat(6.0));
        let weights: [S::V; LANES] = std::array::from_fn(|i| S::load(conv6[block][i].as_ptr()));
        for (x, Lerp { first, next, weight }) in columns.iter().enumerate() {
            let mixed = S::mul(S::load(chain.enlarged[*first].as_ptr()), S::splat(1.0 - weight));
            let mut even = S::fma(S::load(chain.enlarged[*next].as_ptr()), S::splat(*weight), mixed);
            let mut odd = zero;
            let pixel = &inputs[x * LANES..][..LANES];
            // Two sums, so that one addition need not wait for the other.
            for i in (0..LANES).step_by(2) {
                even = S::fma(S::splat(pixel[i]), weights[i], even);
                odd = S::fma(S::splat(pixel[i + 1]), weights[i + 1], odd);
            }
            let value = S::min(S::max(S::add(even, odd), zero), six);
            S::store(value, ring[x].as_mut_ptr());
            S::store(value, sum[x].as_mut_ptr());
        }
    }
}

/// Row `at` of a stage's pool: added to its sum, and into the next stage's ring.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn pool_stage<S: Isa>(chain: &mut Chain, stage: usize, at: usize, height: usize, scale: &Block) {
    let width = chain.width;
    let (first, last) = (at.saturating_sub(REACH), (at + REACH).min(height - 1));
    let (here, next) = chain.rings.split_at_mut(stage + 1);
    let rows: [&[Block]; WINDOW] = std::array::from_fn(|i| {
        let row = (at + i).saturating_sub(REACH).clamp(first, last);
        &here[stage][(row % WINDOW) * width..][..width]
    });
    let mut next = next.first_mut().map(|ring| &mut ring[(at % WINDOW) * width..][..width]);
    let sum = &mut chain.sums[(at % PENDING) * width..][..width];
    let column = &mut chain.column[..width + 2 * REACH];
    // SAFETY: every pointer is that of a block of 16 floats, taken by a checked index.
    unsafe {
        for (x, out) in column[REACH..REACH + width].iter_mut().enumerate() {
            let [a, b, c, d, e] = rows.map(|r| S::load(r[x].as_ptr()));
            S::store(S::max(S::max(S::max(a, b), S::max(c, d)), e), out.as_mut_ptr());
        }
        let scale = S::load(scale.as_ptr());
        let mut window: [S::V; WINDOW] = std::array::from_fn(|i| S::load(column[i].as_ptr()));
        for x in 0..width {
            window[WINDOW - 1] = S::load(column[x + 2 * REACH].as_ptr());
            let [a, b, c, d, e] = window;
            let pooled = S::max(S::max(S::max(a, b), S::max(c, d)), e);
            let top = S::mul(pooled, scale);
            if let Some(next) = &mut next {
                S::store(top, next[x].as_mut_ptr());
            }
            let total = S::add(S::load(sum[x].as_ptr()), S::add(pooled, top));
            S::store(total, sum[x].as_mut_ptr());
            window = [b, c, d, e, e];
        }
    }
}

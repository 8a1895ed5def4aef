//! The heads: a factor a channel, ReLU6, and a 3x3 convolution with zeros around the map.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::Level;
use crate::cpu::simd::{kernel, Bf16, Block, Element, Isa, LANES};
use crate::model::HeadWeights;
#[cfg(target_arch = "x86_64")]
use half::bf16;
use std::marker::PhantomData;

/// Outputs that are computed together by a [`wide`] head: three vectors of eight.
const GROUP: usize = 24;

/// Rows of the maps that a task works on: the rows above and below are prepared once more by the neighbours.
pub const TASK_ROWS: usize = 8;

/// The map that the heads read: `[blocks][height][width]` of [`Block`].
#[derive(Debug, Clone, Copy)]
pub struct Blocked<'a> {
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// `blocks * height * width`.
    pub data: &'a [Block],
}

/// A head, its weights in the order in which they are read.
#[derive(Debug)]
pub struct Head {
    /// Factors before ReLU6, for each block of channels.
    pre: Vec<Block>,
    /// Its channels' number.
    outputs: usize,
    weights: Weights,
}

/// Of each group of outputs: biases and weights.
type Groups<W> = Vec<([f32; GROUP], Vec<W>)>;

/// Few outputs are sums over lanes; many outputs are lanes.
#[derive(Debug)]
enum Weights {
    /// For each output: bias, and `[row][block][column]` of weights.
    Narrow(Vec<(f32, Vec<Block>)>),
    /// For each group of outputs: biases, and `[row][block][column][lane]` of weights.
    Wide(Groups<[f32; GROUP]>),
    /// The same in `bfloat16`, with the weights of every two lanes beside each other.
    #[cfg(target_arch = "x86_64")]
    WideBf16(Groups<[[u16; 2]; GROUP]>),
}

/// Heads with fewer outputs are cheaper as sums over lanes.
const NARROW: usize = 5;

impl Head {
    /// From the network's weights: any number of outputs, a multiple of [`LANES`] channels.
    pub fn new(head: &HeadWeights) -> Result<Self, tch::TchError> {
        let [outputs, channels] = [0, 1].map(|i| head.weight.size()[i] as usize);
        let blocks = channels / LANES;
        let weight = Vec::<f32>::try_from(head.weight.f_flatten(0, -1)?)?;
        let bias = Vec::<f32>::try_from(&head.bias)?;
        let at = |output: usize, block: usize, lane: usize, row: usize, column: usize| {
            weight[((output * channels + block * LANES + lane) * 3 + row) * 3 + column]
        };
        // [row][block][column], as the kernels go.
        let taps = || {
            (0..3)
                .flat_map(move |row| (0..blocks).flat_map(move |block| (0..3).map(move |column| (row, block, column))))
        };
        let weights = if outputs < NARROW {
            let of = |output: usize| {
                let tap = |(row, block, column)| std::array::from_fn(|lane| at(output, block, lane, row, column));
                (bias[output], taps().map(tap).collect())
            };
            Weights::Narrow((0..outputs).map(of).collect())
        } else {
            let of = |first: usize| {
                let each = |value: &dyn Fn(usize) -> f32| {
                    std::array::from_fn(|i| if first + i < outputs { value(first + i) } else { 0.0 })
                };
                let tap =
                    |(row, block, column)| (0..LANES).map(move |lane| (row, block, column, lane)).collect::<Vec<_>>();
                let lanes = taps().flat_map(tap);
                let weights = lanes.map(|(row, block, column, lane)| each(&|o| at(o, block, lane, row, column)));
                (each(&|o| bias[o]), weights.collect())
            };
            Weights::Wide((0..outputs).step_by(GROUP).map(of).collect())
        };
        let pre = Vec::<f32>::try_from(&head.pre)?;
        Ok(Self { pre: pre.chunks_exact(LANES).map(|c| std::array::from_fn(|i| c[i])).collect(), outputs, weights })
    }

    /// Computes class scores from `bfloat16` products from now on, where the processor has them. The depth and other heads
    /// of few outputs stay in single precision: they cost little, and a distance of some per cent is much.
    pub fn narrow(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if has_bf16_products() {
            if let Weights::Wide(groups) = &self.weights {
                let two = |lanes: &[[f32; GROUP]]| {
                    std::array::from_fn(|output| [0, 1].map(|i| bf16::from_f32(lanes[i][output]).to_bits()))
                };
                let narrow = |(bias, weights): &([f32; GROUP], Vec<[f32; GROUP]>)| {
                    (*bias, weights.chunks_exact(2).map(two).collect())
                };
                self.weights = Weights::WideBf16(groups.iter().map(narrow).collect());
            }
        }
    }

    /// Number of its outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Channels of the answer that a group of outputs fills, where the head's first is `channel`.
    fn channels_of(&self, group: usize, channel: usize) -> std::ops::Range<usize> {
        let first = channel + group * GROUP;
        first..first + (self.outputs - group * GROUP).min(GROUP)
    }
}

/// Room for one task's rows.
#[derive(Debug, Default)]
pub struct HeadScratch {
    /// The last three rows after ReLU6, in rotation: `[block][3][1 + width + 1 and more]`, zeros at both ends.
    rows: Vec<Block>,
    /// The same in `bfloat16`.
    narrow: Vec<[Bf16; LANES]>,
}

/// Where a head's answer goes.
#[derive(Debug)]
pub struct Answer<'a> {
    /// First row of the map that is answered.
    pub first: usize,
    /// First of the head's channels.
    pub channel: usize,
    /// Of all heads.
    pub channels: usize,
    /// `[rows][width][channels]`; all but the head's own channels stay as they are.
    pub out: &'a mut [f32],
}

kernel! {
    /// Some rows of a head's answer.
    pub head_rows = head_rows_in(head: &Head, map: Blocked<'_>, scratch: &mut HeadScratch, answer: Answer<'_>)
}

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn head_rows_in<S: Isa>(
    _: PhantomData<S>,
    head: &Head,
    map: Blocked<'_>,
    scratch: &mut HeadScratch,
    answer: Answer<'_>,
) {
    let Answer { first, channel, channels, out } = answer;
    let blocks = head.pre.len();
    assert!(map.data.len() == blocks * map.height * map.width && channel + head.outputs <= channels);
    // Beyond a row's end, so that the last pixels are worked on with as many others as the first ones.
    let stride = map.width + 2 + S::PIXELS;
    let is_narrow = !matches!(head.weights, Weights::Narrow(_) | Weights::Wide(_));
    if is_narrow {
        scratch.narrow.clear();
        scratch.narrow.resize(blocks * 3 * stride, [Bf16::ZERO; LANES]);
    } else {
        scratch.rows.clear();
        scratch.rows.resize(blocks * 3 * stride, [0.0; LANES]);
    }
    for (i, out) in out.chunks_exact_mut(map.width * channels).enumerate() {
        let y = first + i;
        let from = if i == 0 { 0 } else { 2 };
        for above in from..3 {
            // Row `y - 1 + above` of the map; outside of it are zeros.
            // SAFETY: the caller's condition.
            unsafe {
                let (row, slot) = ((y + above).checked_sub(1), (y + above) % 3);
                if is_narrow {
                    prepare::<S, Bf16>(head, map, row, slot, stride, &mut scratch.narrow);
                } else {
                    prepare::<S, f32>(head, map, row, slot, stride, &mut scratch.rows);
                }
            }
        }
        let order = [y % 3, (y + 1) % 3, (y + 2) % 3];
        // SAFETY: the caller's condition.
        unsafe {
            match &head.weights {
                Weights::Narrow(all) => {
                    for (output, (bias, weights)) in all.iter().enumerate() {
                        narrow::<S>(
                            &scratch.rows,
                            (blocks, stride),
                            order,
                            *bias,
                            weights,
                            (channel + output, channels),
                            out,
                        );
                    }
                }
                #[cfg(target_arch = "x86_64")]
                Weights::WideBf16(groups) => {
                    for (group, (bias, weights)) in groups.iter().enumerate() {
                        let at = head.channels_of(group, channel);
                        wide_bf16(&scratch.narrow, (blocks, stride), order, bias, weights, (at, channels), out);
                    }
                }
                Weights::Wide(groups) => {
                    for (group, (bias, weights)) in groups.iter().enumerate() {
                        let at = head.channels_of(group, channel);
                        wide::<S>(&scratch.rows, (blocks, stride), order, bias, weights, (at, channels), out);
                    }
                }
            }
        }
    }
}

/// Fills the slot of one row: `relu6(pre * map)`, or zeros outside of the map.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn prepare<S: Isa, E: Element>(
    head: &Head,
    map: Blocked<'_>,
    row: Option<usize>,
    slot: usize,
    stride: usize,
    rows: &mut [[E; LANES]],
) {
    for (block, pre) in head.pre.iter().enumerate() {
        let out = &mut rows[(block * 3 + slot) * stride + 1..][..map.width];
        let Some(row) = row.filter(|row| *row < map.height) else {
            out.fill([E::ZERO; LANES]);
            continue;
        };
        let from = &map.data[(block * map.height + row) * map.width..][..map.width];
        // SAFETY: every pointer is that of a block of 16 floats.
        unsafe {
            let (pre, zero, six) = (S::load(pre.as_ptr()), S::splat(0.0), S::splat(6.0));
            for (out, from) in out.iter_mut().zip(from) {
                let value = S::mul(S::load(from.as_ptr()), pre);
                E::store::<S>(S::min(S::max(value, zero), six), out.as_mut_ptr());
            }
        }
    }
}

/// One output of a row: sums over lanes, which are added up at the end.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn narrow<S: Isa>(
    rows: &[Block],
    (blocks, stride): (usize, usize),
    order: [usize; 3],
    bias: f32,
    weights: &[Block],
    (channel, channels): (usize, usize),
    out: &mut [f32],
) {
    /// Pixels at once: enough that no addition waits for the one before.
    const PIXELS: usize = 4;
    assert_eq!(weights.len(), blocks * 9);
    let width = out.len() / channels;
    for x in (0..width).step_by(PIXELS) {
        // SAFETY: every pointer is that of a block of 16 floats, taken by a checked index.
        unsafe {
            let mut sums = [S::splat(0.0); PIXELS];
            for (row, &slot) in order.iter().enumerate() {
                for block in 0..blocks {
                    let line = &rows[(block * 3 + slot) * stride + x..][..PIXELS + 2];
                    let weights = &weights[(row * blocks + block) * 3..][..3];
                    for column in 0..3 {
                        let weight = S::load(weights[column].as_ptr());
                        for (pixel, sum) in sums.iter_mut().enumerate() {
                            *sum = S::fma(S::load(line[pixel + column].as_ptr()), weight, *sum);
                        }
                    }
                }
            }
            for (pixel, sum) in sums.into_iter().enumerate().take(width - x) {
                let mut lanes = [0.0; LANES];
                S::store(sum, lanes.as_mut_ptr());
                out[(x + pixel) * channels + channel] = bias + lanes.iter().sum::<f32>();
            }
        }
    }
}

/// A group of outputs of a row: the outputs are lanes, and every value of the map is multiplied with all of them.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn wide<S: Isa>(
    rows: &[Block],
    (blocks, stride): (usize, usize),
    order: [usize; 3],
    bias: &[f32; GROUP],
    weights: &[[f32; GROUP]],
    (at, channels): (std::ops::Range<usize>, usize),
    out: &mut [f32],
) {
    assert_eq!(weights.len(), blocks * 9 * LANES);
    let width = out.len() / channels;
    let mut done = [[0.0_f32; GROUP]; 8];
    for x in (0..width).step_by(S::PIXELS) {
        // SAFETY: all pointers are into slices that are cut to what is read from them: `PIXELS + 2` blocks of 16 of `line`,
        // 16 times `GROUP` (24) of `weights`.
        unsafe {
            let bias = bias.as_ptr();
            let mut sums = [[S::load8(bias), S::load8(bias.add(8)), S::load8(bias.add(16))]; 8];
            for (row, &slot) in order.iter().enumerate() {
                for block in 0..blocks {
                    let line = rows[(block * 3 + slot) * stride + x..][..S::PIXELS + 2].as_ptr().cast::<f32>();
                    for column in 0..3 {
                        let first = ((row * blocks + block) * 3 + column) * LANES;
                        let weights = weights[first..][..LANES].as_ptr().cast::<f32>();
                        for lane in 0..LANES {
                            let w = weights.add(lane * GROUP);
                            let w = [S::load8(w), S::load8(w.add(8)), S::load8(w.add(16))];
                            for (pixel, sums) in sums.iter_mut().enumerate().take(S::PIXELS) {
                                let value = S::splat8(line.add((pixel + column) * LANES + lane));
                                for (sum, w) in sums.iter_mut().zip(w) {
                                    *sum = S::fma8(value, w, *sum);
                                }
                            }
                        }
                    }
                }
            }
            for (done, sums) in done.iter_mut().zip(sums).take(S::PIXELS) {
                for (i, sum) in sums.into_iter().enumerate() {
                    S::store8(sum, done[i * 8..][..8].as_mut_ptr());
                }
            }
        }
        for (pixel, done) in done.iter().enumerate().take(S::PIXELS.min(width - x)) {
            let out = &mut out[(x + pixel) * channels..][..channels];
            out[at.clone()].copy_from_slice(&done[..at.len()]);
        }
    }
}

/// Whether the processor multiplies `bfloat16`.
#[cfg(target_arch = "x86_64")]
fn has_bf16_products() -> bool {
    is_x86_feature_detected!("avx512bf16") && Level::best() == Level::Avx512
}

/// As [`wide`], with two channels a multiplication.
///
/// # Safety
/// [`has_bf16_products`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bf16,avx512f,avx512vl,avx2")]
unsafe fn wide_bf16(
    rows: &[[Bf16; LANES]],
    (blocks, stride): (usize, usize),
    order: [usize; 3],
    bias: &[f32; GROUP],
    weights: &[[[u16; 2]; GROUP]],
    (at, channels): (std::ops::Range<usize>, usize),
    out: &mut [f32],
) {
    use std::arch::x86_64::*;
    const PIXELS: usize = 8;
    const PAIRS: usize = LANES / 2;
    assert_eq!(weights.len(), blocks * 9 * PAIRS);
    let width = out.len() / channels;
    let mut done = [[0.0_f32; GROUP]; PIXELS];
    for x in (0..width).step_by(PIXELS) {
        // SAFETY: all pointers are into slices that are cut to what is read from them: `PIXELS + 2` blocks of 8 pairs of
        // `line`, 8 times 24 pairs of `weights`. A vector of 16 bfloat16 is one of 8 floats to the type system's bits.
        unsafe {
            let bias = bias.as_ptr();
            let bias = [_mm256_loadu_ps(bias), _mm256_loadu_ps(bias.add(8)), _mm256_loadu_ps(bias.add(16))];
            let mut sums = [bias; PIXELS];
            for (row, &slot) in order.iter().enumerate() {
                for block in 0..blocks {
                    let line = rows[(block * 3 + slot) * stride + x..][..PIXELS + 2].as_ptr().cast::<i32>();
                    for column in 0..3 {
                        let first = ((row * blocks + block) * 3 + column) * PAIRS;
                        let weights = weights[first..][..PAIRS].as_ptr().cast::<i32>();
                        for pair in 0..PAIRS {
                            let load = |i: usize| {
                                let bits = _mm256_loadu_si256(weights.add(pair * GROUP + i).cast());
                                std::mem::transmute::<__m256i, __m256bh>(bits)
                            };
                            let w = [load(0), load(8), load(16)];
                            for (pixel, sums) in sums.iter_mut().enumerate() {
                                let value =
                                    _mm256_set1_epi32(line.add((pixel + column) * PAIRS + pair).read_unaligned());
                                let value = std::mem::transmute::<__m256i, __m256bh>(value);
                                for (sum, w) in sums.iter_mut().zip(w) {
                                    *sum = _mm256_dpbf16_ps(*sum, value, w);
                                }
                            }
                        }
                    }
                }
            }
            for (done, sums) in done.iter_mut().zip(sums) {
                for (i, sum) in sums.into_iter().enumerate() {
                    _mm256_storeu_ps(done[i * 8..][..8].as_mut_ptr(), sum);
                }
            }
        }
        for (pixel, done) in done.iter().enumerate().take(PIXELS.min(width - x)) {
            let out = &mut out[(x + pixel) * channels..][..channels];
            out[at.clone()].copy_from_slice(&done[..at.len()]);
        }
    }
}

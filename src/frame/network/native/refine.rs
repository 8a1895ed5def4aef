//! The refinement of the depth on a processor: small maps of 24 channels, of which libtorch's convolutions make a third of the
//! whole network's time. The channels are lanes, and every value of a map is multiplied with the weights of all of them.
#![allow(unsafe_code)]

use crate::cpu::exp;
use crate::cpu::simd::{kernel, Isa, Level};
use crate::cpu::team::{share, Spare};
use crate::data::depth::LOG_SCALE;
use crate::model::parts::{Filter, RefinementParts};
use multiversion::multiversion;
use std::marker::PhantomData;

/// Channels of a map: three vectors of eight.
const WIDTH: usize = 24;
/// The most pixels at once of any instruction set ([`Isa::PIXELS`]): so many beyond a row's end may be read.
const PIXELS: usize = 8;
/// Weights of one value of a map for all channels of the next.
type Tap = [f32; WIDTH];

/// A 3x3 convolution from map to map.
#[derive(Debug)]
struct Block {
    bias: Tap,
    /// `[row][column][input]`.
    taps: Vec<Tap>,
    dilation: usize,
}

/// The refinement's weights, in the order in which they are read.
#[derive(Debug)]
pub struct Refinement {
    bias: Tap,
    /// Of each class's probability.
    classes: Vec<Tap>,
    /// How far a ring's neighbours are, and `[row][column]` of its weights.
    rings: Vec<(usize, Vec<Tap>)>,
    blocks: Vec<Block>,
    /// `[row][column]`.
    last: Vec<Tap>,
    last_bias: f32,
    /// Zeros around a map.
    margin: usize,
    rows: Spare<Vec<f32>>,
}

/// What a picture is worked on in.
#[derive(Debug, Default)]
pub struct Room {
    size: (usize, usize),
    code: Vec<f32>,
    /// With zeros around.
    maps: [Vec<f32>; 2],
}

/// A map or a plane with so many rows and columns before the first.
#[derive(Debug, Clone, Copy)]
struct Margins<'a> {
    data: &'a [f32],
    /// Rows without those before and behind.
    height: usize,
    /// Pixels of a row.
    stride: usize,
    margin: usize,
}

impl<'a> Margins<'a> {
    /// Whether there is a row so far from row `y`: what lies beyond is a margin.
    fn has_row(&self, y: usize, dy: isize) -> bool {
        y.checked_add_signed(dy).is_some_and(|row| row < self.height)
    }

    /// From a pixel at some place about another one on: as many, of `channels` numbers each, as any instruction set reads at
    /// once.
    fn at(&self, channels: usize, (y, x): (usize, usize), (dy, dx): (isize, isize)) -> &'a [f32] {
        let row = (y + self.margin).wrapping_add_signed(dy);
        let column = (x + self.margin).wrapping_add_signed(dx);
        &self.data[(row * self.stride + column) * channels..][..PIXELS * channels]
    }
}

/// The nine places of a 3x3 convolution.
fn places(dilation: usize) -> impl Iterator<Item = (isize, isize)> {
    let d = dilation as isize;
    [-d, 0, d].into_iter().flat_map(move |dy| [-d, 0, d].into_iter().map(move |dx| (dy, dx)))
}

/// Weights of one input at one place, for all outputs.
fn tap(filter: &Filter, input: usize, place: usize) -> Tap {
    let [_, inputs, height, width] = filter.shape;
    std::array::from_fn(|output| filter.weight[(output * inputs + input) * height * width + place])
}

fn lanes(values: &[f32]) -> Tap {
    std::array::from_fn(|i| values[i])
}

impl Refinement {
    /// From the network's weights.
    pub fn new(parts: &RefinementParts) -> Self {
        let inputs = parts.classes.shape[1];
        let ring = |(reach, filter): &(usize, Filter)| (*reach, (0..9).map(|place| tap(filter, 0, place)).collect());
        let block = |(dilation, filter): &(usize, Filter)| Block {
            bias: lanes(&filter.bias),
            taps: (0..9).flat_map(|place| (0..WIDTH).map(move |input| tap(filter, input, place))).collect(),
            dilation: *dilation,
        };
        let last = &parts.last;
        Self {
            bias: lanes(&parts.classes.bias),
            classes: (0..inputs).map(|input| tap(&parts.classes, input, 0)).collect(),
            rings: parts.rings.iter().map(ring).collect(),
            blocks: parts.blocks.iter().map(block).collect(),
            last: (0..9).map(|place| std::array::from_fn(|input| last.weight[input * 9 + place])).collect(),
            last_bias: last.bias[0],
            margin: parts.blocks.iter().map(|(dilation, _)| *dilation).max().unwrap_or(1),
            rows: Spare::default(),
        }
    }

    /// Refines one picture's packed answers in place: `[height][width][channels]`, scores first and then the depth's code.
    pub fn refine(&self, level: Level, answers: &mut [f32], [height, width, channels]: [usize; 3], room: &mut Room) {
        let classes = self.classes.len();
        assert!(answers.len() == height * width * channels && classes < channels);
        room.fit((height, width), self.margin);
        let Room { code, maps: [from, to], .. } = room;
        let (mut from, mut to) = (from, to);
        let reach = self.rings.iter().map(|(reach, _)| *reach).max().unwrap_or(0);
        copy_code(answers, [height, width, channels], classes, reach, code);
        let code = Margins { data: code, height, stride: stride(width, reach), margin: reach };
        let stride = stride(width, self.margin);
        self.rows.share(rows(from, stride, self.margin, height).enumerate(), Vec::new, |scratch, (y, out)| {
            let answers = &answers[y * width * channels..][..width * channels];
            probabilities(answers, channels, classes, scratch);
            start_row(level, self, scratch, code, y, &mut out[self.margin * WIDTH..][..width * WIDTH]);
        });
        for block in &self.blocks {
            let map = Margins { data: from, height, stride, margin: self.margin };
            share(
                rows(to, stride, self.margin, height).enumerate(),
                || (),
                |(), (y, out)| {
                    block_row(level, block, map, y, &mut out[self.margin * WIDTH..][..width * WIDTH]);
                },
            );
            std::mem::swap(&mut from, &mut to);
        }
        let map = Margins { data: from, height, stride, margin: self.margin };
        share(
            answers.chunks_mut(width * channels).enumerate(),
            || (),
            |(), (y, answers)| {
                last_row(level, self, map, y, answers, channels);
            },
        );
    }
}

impl Room {
    /// Zeros where they are needed; what is inside of them is written anew for each picture.
    fn fit(&mut self, size: (usize, usize), margin: usize) {
        if self.size == size {
            return;
        }
        self.size = size;
        let length = (size.0 + 2 * margin) * stride(size.1, margin) * WIDTH;
        for map in &mut self.maps {
            map.clear();
            map.resize(length, 0.0);
        }
    }
}

/// Pixels of a row with its margins, and of what may be read beyond it.
fn stride(width: usize, margin: usize) -> usize {
    width + 2 * margin + PIXELS
}

/// The rows of a map, each with its margins.
fn rows(map: &mut [f32], stride: usize, margin: usize, height: usize) -> impl Iterator<Item = &mut [f32]> + Send {
    map.chunks_mut(stride * WIDTH).skip(margin).take(height)
}

/// The depth's code out of packed answers; in the margins is what is nearest.
fn copy_code(
    answers: &[f32],
    [height, width, channels]: [usize; 3],
    channel: usize,
    margin: usize,
    plane: &mut Vec<f32>,
) {
    let stride = stride(width, margin);
    plane.resize((height + 2 * margin) * stride, 0.0);
    for (y, row) in plane.chunks_exact_mut(stride).enumerate() {
        let from = &answers[y.saturating_sub(margin).min(height - 1) * width * channels..][..width * channels];
        for (to, pixel) in row[margin..].iter_mut().zip(from.chunks_exact(channels)) {
            *to = pixel[channel];
        }
        let (first, last) = (row[margin], row[margin + width - 1]);
        row[..margin].fill(first);
        row[margin + width..].fill(last);
    }
}

/// Softmax of a row's scores: `[width][classes]`, and room for pixels beyond its end, of which nothing is kept.
#[multiversion(targets("x86_64+avx2"))]
fn probabilities(answers: &[f32], channels: usize, classes: usize, out: &mut Vec<f32>) {
    let width = answers.len() / channels;
    out.resize((width + PIXELS) * classes, 0.0);
    for (out, pixel) in out.chunks_exact_mut(classes).zip(answers.chunks_exact(channels)) {
        let scores = &pixel[..classes];
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (out, score) in out.iter_mut().zip(scores) {
            *out = exp(score - most);
        }
        let whole = 1.0 / out.iter().sum::<f32>();
        out.iter_mut().for_each(|p| *p *= whole);
    }
}

kernel! {
    /// A row of the first map.
    start_row = start_row_in(
        weights: &Refinement, probabilities: &[f32], code: Margins<'_>, y: usize, out: &mut [f32]
    );
    /// A row of a later map.
    block_row = block_row_in(block: &Block, map: Margins<'_>, y: usize, out: &mut [f32]);
    /// Corrects a row of packed answers.
    last_row = last_row_in(
        weights: &Refinement, map: Margins<'_>, y: usize, answers: &mut [f32], channels: usize
    );
}

/// Sums of some pixels.
type Sums<S> = [[<S as Isa>::H; 3]; PIXELS];

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn load<S: Isa>(values: &Tap) -> [S::H; 3] {
    let p = values.as_ptr();
    // SAFETY: there are 24 of them.
    unsafe { [S::load8(p), S::load8(p.add(8)), S::load8(p.add(16))] }
}

/// Adds the products of one value of each pixel, `step` numbers apart, with its weights.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn add<S: Isa>(values: &[f32], step: usize, tap: &Tap, sums: &mut Sums<S>) {
    assert!(values.len() > (S::PIXELS - 1) * step);
    // SAFETY: the values are there, as just seen.
    unsafe {
        let weights = load::<S>(tap);
        for (pixel, sums) in sums.iter_mut().enumerate().take(S::PIXELS) {
            let value = S::splat8(values.as_ptr().add(pixel * step));
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = S::fma8(value, weight, *sum);
            }
        }
    }
}

/// Writes `max(0, sum)` of as many pixels as `out` has, at most [`Isa::PIXELS`].
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn store<S: Isa>(sums: &Sums<S>, out: &mut [f32]) {
    let zero = [0.0; 8];
    for (out, sums) in out.chunks_exact_mut(WIDTH).zip(sums).take(S::PIXELS) {
        for (out, sum) in out.chunks_exact_mut(8).zip(sums) {
            // SAFETY: eight numbers each.
            unsafe { S::store8(S::max8(*sum, S::load8(zero.as_ptr())), out.as_mut_ptr()) }
        }
    }
}

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn start_row_in<S: Isa>(
    _: PhantomData<S>,
    weights: &Refinement,
    probabilities: &[f32],
    code: Margins<'_>,
    y: usize,
    out: &mut [f32],
) {
    let classes = weights.classes.len();
    for x in (0..out.len() / WIDTH).step_by(S::PIXELS) {
        // SAFETY: the caller's condition.
        unsafe {
            let mut sums = [load::<S>(&weights.bias); PIXELS];
            for (class, tap) in weights.classes.iter().enumerate() {
                add::<S>(&probabilities[x * classes + class..], classes, tap, &mut sums);
            }
            for (reach, taps) in &weights.rings {
                for (place, tap) in places(*reach).zip(taps) {
                    add::<S>(code.at(1, (y, x), place), 1, tap, &mut sums);
                }
            }
            store::<S>(&sums, &mut out[x * WIDTH..]);
        }
    }
}

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn block_row_in<S: Isa>(_: PhantomData<S>, block: &Block, map: Margins<'_>, y: usize, out: &mut [f32]) {
    for x in (0..out.len() / WIDTH).step_by(S::PIXELS) {
        // SAFETY: the caller's condition; `at` gives 24 numbers for each of the pixels.
        unsafe {
            let bias = load::<S>(&block.bias);
            let one = S::splat8(&1.0);
            let mut sums = [bias; PIXELS];
            let own = map.at(WIDTH, (y, x), (0, 0));
            for (sums, own) in sums.iter_mut().zip(own.chunks_exact(WIDTH)).take(S::PIXELS) {
                for (sum, own) in sums.iter_mut().zip(own.chunks_exact(8)) {
                    *sum = S::fma8(S::load8(own.as_ptr()), one, *sum);
                }
            }
            // Margins are zero; of a wide dilation they are a good part of what there is.
            let inside = |((dy, _), _): &((isize, isize), _)| map.has_row(y, *dy);
            for (place, taps) in places(block.dilation).zip(block.taps.chunks_exact(WIDTH)).filter(inside) {
                let values = map.at(WIDTH, (y, x), place);
                for (input, tap) in taps.iter().enumerate() {
                    add::<S>(&values[input..], WIDTH, tap, &mut sums);
                }
            }
            store::<S>(&sums, &mut out[x * WIDTH..]);
        }
    }
}

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn last_row_in<S: Isa>(
    _: PhantomData<S>,
    weights: &Refinement,
    map: Margins<'_>,
    y: usize,
    answers: &mut [f32],
    channels: usize,
) {
    for (x, answer) in answers.chunks_exact_mut(channels).enumerate() {
        let mut sums = [0.0; WIDTH];
        // SAFETY: the caller's condition; `at` gives 24 numbers and more.
        unsafe {
            let mut all = load::<S>(&sums);
            for (place, tap) in places(1).zip(&weights.last) {
                let values = map.at(WIDTH, (y, x), place);
                for ((sum, weight), values) in all.iter_mut().zip(load::<S>(tap)).zip(values.chunks_exact(8)) {
                    *sum = S::fma8(S::load8(values.as_ptr()), weight, *sum);
                }
            }
            for (sum, out) in all.into_iter().zip(sums.chunks_exact_mut(8)) {
                S::store8(sum, out.as_mut_ptr());
            }
        }
        answer[weights.classes.len()] += (sums.iter().sum::<f32>() + weights.last_bias) / LOG_SCALE;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{input, largest, network};
    use super::*;
    use crate::export::trace::packed_heads;
    use crate::model::NetworkConfig;
    use tch::{Kind, Tensor};

    /// Against libtorch's convolutions, of every shape of map that has an edge in its way.
    #[test]
    fn it_refines_as_libtorch_does() {
        let _no_grad = tch::no_grad_guard();
        for classes in [8, 20] {
            let config = NetworkConfig { classes, refine_depth: true, ..NetworkConfig::default() };
            let network = network(&config);
            let plain = network.folded(crate::model::NumberFormat::Input);
            let parts = plain.refinement_parts().expect("it refines");
            let refinement = Refinement::new(&parts);
            for level in Level::available() {
                let mut room = Room::default();
                let mut changed = 0_f64;
                for (height, width) in [(64, 96), (4, 4), (12, 300), (180, 20), (64, 96)] {
                    let x = input(1, height, width);
                    let scores_and_code = |t: &Tensor| t.permute([0, 2, 3, 1]).contiguous();
                    let expected = scores_and_code(&packed_heads(&network, &x));
                    let heads = network.forward_unrefined_t(&x, false);
                    let heads = [crate::model::Task::Segmentation, crate::model::Task::Depth].map(|t| heads.get(t));
                    let heads: Vec<_> = heads.into_iter().flatten().collect();
                    let before = scores_and_code(&Tensor::cat(&heads, 1));
                    let shape: Vec<usize> = before.size()[1..].iter().map(|n| *n as usize).collect();
                    let mut answers = crate::model::parts::values(&before);
                    refinement.refine(level, &mut answers, [shape[0], shape[1], shape[2]], &mut room);
                    let found = Tensor::from_slice(&answers).view(expected.size().as_slice()).to_kind(Kind::Float);
                    changed = changed.max(largest(&(&before - &expected)));
                    assert!(largest(&(found - &expected)) < 1e-5, "{level:?} {height}x{width}");
                }
                assert!(changed > 1e-3, "it changes something");
            }
        }
    }
}

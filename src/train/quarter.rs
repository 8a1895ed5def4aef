//! The network's 1/4 stage forwards and backwards on a processor, from before its ReLU6 to the heads' last convolutions.
//!
//! It does next to no arithmetic on the network's largest maps: in libtorch's operators, each of which reads and writes a
//! map, it takes a third of a training step (`benches/step.rs`). Here `LANES` channels of a picture go through all of the
//! stage while they lie in the processor's cache. Nothing is kept for the way back: computing the poolings again costs less
//! than storing them.
#![allow(unsafe_code)]

use crate::cpu::simd::{kernel, Bf16, Block, Element, Isa, Level, LANES};
use crate::cpu::team::Spare;
use crate::cpu::{channels_last, values};
use crate::model::CRP_STAGES as STAGES;
use std::marker::PhantomData;
use tch::{Device, Kind, TchError, Tensor};

/// Rows and columns that a pool looks beyond its own pixel, to each side.
const REACH: usize = 2;
/// Rows of a pool.
const WINDOW: usize = 2 * REACH + 1;

/// Gradients of a loss, see [`QuarterStage::backward`].
#[derive(Debug)]
pub struct Gradients {
    /// As the stage's input.
    pub x: Tensor,
    /// `[4, C]` float32.
    pub scales: Tensor,
    /// `[heads, C]` float32.
    pub factors: Tensor,
}

/// The stage, with the room that it works in.
#[derive(Debug)]
pub struct QuarterStage {
    level: Level,
    rooms: Spare<Room>,
}

/// What both ways begin with.
struct Pass {
    /// `[B, h, w, C]`.
    x: Tensor,
    form: Form,
}

/// Of the input, and the factors.
struct Form {
    /// `[B, h, w, C]`.
    shape: [usize; 4],
    scales: Vec<f32>,
    factors: Vec<f32>,
}

impl Pass {
    fn new(x: &Tensor, scales: &Tensor, factors: &Tensor) -> Result<Self, TchError> {
        let (x, shape) = channels_last(&x.detach())?;
        let numbers = |t: &Tensor| Vec::<f32>::try_from(t.detach().to_kind(Kind::Float).f_reshape([-1])?);
        let (scales, factors) = (numbers(scales)?, numbers(factors)?);
        let channels = shape[3];
        if channels % LANES != 0 || scales.len() != STAGES * channels || factors.len() % channels != 0 {
            return Err(TchError::Shape(format!(
                "the 1/4 stage of {channels} channels has {} factors and its heads {}",
                scales.len(),
                factors.len()
            )));
        }
        Ok(Self { x, form: Form { shape, scales, factors } })
    }

    fn map_like_x(&self) -> Result<Tensor, TchError> {
        Tensor::f_empty(self.form.shape.map(|n| n as i64), (self.x.kind(), Device::Cpu))
    }
}

impl Form {
    fn heads(&self) -> usize {
        self.factors.len() / self.shape[3]
    }

    /// Numbers of one picture.
    fn picture(&self) -> usize {
        self.shape[1..].iter().product()
    }

    fn stage<'a, E>(&'a self, x: &'a [E]) -> Stage<'a, E> {
        let [_, height, width, channels] = self.shape;
        Stage { x, height, width, channels, scales: &self.scales, factors: &self.factors }
    }
}

/// From `[B, h, w, C]` in memory to `[B, C, h, w]`.
fn as_seen(t: &Tensor) -> Result<Tensor, TchError> {
    t.f_permute([0, 3, 1, 2])
}

impl QuarterStage {
    /// For a device and a number format; `None` where libtorch's operators are the way.
    pub fn new(device: Device, kind: Kind) -> Option<Self> {
        let fits = device == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16);
        fits.then(|| Self { level: Level::best(), rooms: Spare::default() })
    }

    /// The stage: `crp = x' + sum over 4 stages of (pool + scale * pool)`, where `x' = relu6(x)` and each 5x5 maximum is that
    /// of the stage before times its scale; then for each head `relu6(factor * crp)`.
    ///
    /// # Shapes
    /// `x`: `[B, C, h, w]`, float32 or bfloat16, quickest channels last; `scales`: `[4, C]`; `factors`: `[heads, C]`. Returns
    /// for each head a map like `x`, of which libtorch does not know where it came from.
    ///
    /// # Errors
    /// The shapes do not fit, or memory is out.
    pub fn forward(&self, x: &Tensor, scales: &Tensor, factors: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let pass = Pass::new(x, scales, factors)?;
        let mut outs: Vec<Tensor> = (0..pass.form.heads()).map(|_| pass.map_like_x()).collect::<Result<_, _>>()?;
        match pass.x.kind() {
            // SAFETY: the kind says that these are floats.
            Kind::Float => unsafe { self.forward_all(&pass, &mut outs, forward_f32) },
            // SAFETY: the kind says that these are `bfloat16`.
            Kind::BFloat16 => unsafe { self.forward_all(&pass, &mut outs, forward_bf16) },
            kind => return Err(TchError::Kind(format!("the 1/4 stage takes float and bfloat16, not {kind:?}"))),
        }
        outs.iter().map(as_seen).collect()
    }

    /// # Safety
    /// `E` is the number format of `pass.x` and of `outs`, which are fresh.
    unsafe fn forward_all<E: Element + Sync + Send>(&self, pass: &Pass, outs: &mut [Tensor], kernel: Forwards<E>) {
        let (level, form) = (self.level, &pass.form);
        let picture = form.picture();
        let mut own = pass.x.shallow_clone();
        // SAFETY: the caller's conditions; `x` is only read.
        let (x, outs) = unsafe { (&*values::<E>(&mut own), outs.iter_mut().map(|t| values::<E>(t))) };
        let mut parts: Vec<Vec<&mut [E]>> = x.chunks(picture).map(|_| Vec::new()).collect();
        for out in outs {
            parts.iter_mut().zip(out.chunks_mut(picture)).for_each(|(part, chunk)| part.push(chunk));
        }
        let tasks = x.chunks(picture).zip(parts);
        self.rooms.share(tasks, Room::default, |room, (x, mut outs)| kernel(level, form.stage(x), &mut outs, room));
    }

    /// From the gradients of what [`QuarterStage::forward`] gave for these arguments to those of the arguments, as libtorch's
    /// operators would give them: of several equal maxima the first one is pulled at.
    ///
    /// # Errors
    /// The shapes do not fit, or memory is out.
    pub fn backward(
        &self,
        x: &Tensor,
        scales: &Tensor,
        factors: &Tensor,
        pulls: &[Tensor],
    ) -> Result<Gradients, TchError> {
        let pass = Pass::new(x, scales, factors)?;
        let kind = pass.x.kind();
        let pulls = pulls.iter().map(|t| {
            let (t, shape) = channels_last(&t.f_to_kind(kind)?)?;
            if shape == pass.form.shape {
                Ok(t)
            } else {
                Err(TchError::Shape(format!("a gradient of {shape:?} for a map of {:?}", pass.form.shape)))
            }
        });
        let mut pulls: Vec<Tensor> = pulls.collect::<Result<_, _>>()?;
        if pulls.len() != pass.form.heads() {
            return Err(TchError::Shape(format!("{} gradients for {} heads", pulls.len(), pass.form.heads())));
        }
        let mut out = pass.map_like_x()?;
        let sums = match kind {
            // SAFETY: the kind says that these are floats.
            Kind::Float => unsafe { self.backward_all(&pass, &mut pulls, &mut out, backward_f32) },
            // SAFETY: the kind says that these are `bfloat16`.
            Kind::BFloat16 => unsafe { self.backward_all(&pass, &mut pulls, &mut out, backward_bf16) },
            kind => return Err(TchError::Kind(format!("the 1/4 stage takes float and bfloat16, not {kind:?}"))),
        };
        let channels = pass.form.shape[3];
        let (scales, factors) = sums.split_at(STAGES * channels);
        let rows = |values: &[f32]| Tensor::f_from_slice(values)?.f_view([-1, channels as i64]);
        Ok(Gradients { x: as_seen(&out)?, scales: rows(scales)?, factors: rows(factors)? })
    }

    /// Returns the gradients of the scales and then of the factors.
    ///
    /// # Safety
    /// `E` is the number format of `pass.x`, `pulls` and `out`, which is fresh.
    unsafe fn backward_all<E: Element + Sync + Send>(
        &self,
        pass: &Pass,
        pulls: &mut [Tensor],
        out: &mut Tensor,
        kernel: Backwards<E>,
    ) -> Vec<f32> {
        let (level, form) = (self.level, &pass.form);
        let picture = form.picture();
        let numbers = form.scales.len() + form.factors.len();
        let mut own = pass.x.shallow_clone();
        // SAFETY: the caller's conditions; `x` and the pulls are only read.
        let (x, pulls, out) = unsafe {
            let pulls: Vec<&[E]> = pulls.iter_mut().map(|t| &*values::<E>(t)).collect();
            (&*values::<E>(&mut own), pulls, values::<E>(out))
        };
        // A picture's sums are its own and added in order, so that the threads' speed changes no number.
        let mut sums = vec![0.0; numbers * form.shape[0]];
        let tasks = x.chunks(picture).zip(out.chunks_mut(picture)).zip(sums.chunks_mut(numbers)).enumerate();
        self.rooms.share(tasks, Room::default, |room, (i, ((x, out), sums))| {
            let pulls: Vec<&[E]> = pulls.iter().map(|p| &p[i * picture..][..picture]).collect();
            let (scales, factors) = sums.split_at_mut(form.scales.len());
            let pulled = Pulled { x: out, scales, factors };
            kernel(level, form.stage(x), &pulls, pulled, room);
        });
        (0..numbers).map(|i| sums.iter().skip(i).step_by(numbers).sum()).collect()
    }
}

/// A kernel: the stage, the heads' maps that are to be filled.
type Forwards<E> = fn(Level, Stage<'_, E>, &mut [&mut [E]], &mut Room);
/// A kernel: the stage, the gradients of the heads' maps, those that are to be filled.
type Backwards<E> = fn(Level, Stage<'_, E>, &[&[E]], Pulled<'_, E>, &mut Room);

/// The stage of one picture.
#[derive(Debug, Clone, Copy)]
struct Stage<'a, E> {
    /// `[height][width][channels]`, before ReLU6.
    x: &'a [E],
    height: usize,
    width: usize,
    /// A multiple of [`LANES`].
    channels: usize,
    /// `[STAGES][channels]`.
    scales: &'a [f32],
    /// `[heads][channels]`.
    factors: &'a [f32],
}

/// Gradients of one picture.
#[derive(Debug)]
struct Pulled<'a, E> {
    x: &'a mut [E],
    scales: &'a mut [f32],
    factors: &'a mut [f32],
}

/// Which of a window's five values was the largest, of [`LANES`] channels.
type Choice = [u8; LANES];

/// What a thread works in: maps of [`LANES`] channels.
#[derive(Debug, Default)]
struct Room {
    /// `(height, width)` that it is for.
    size: (usize, usize),
    /// After ReLU6.
    x: Vec<Block>,
    /// After each pool.
    pooled: [Vec<Block>; STAGES],
    /// Of each pool: the column of a row's five pixels, the row of a column's five.
    across: [Vec<Choice>; STAGES],
    along: [Vec<Choice>; STAGES],
    /// Five rows, in rotation.
    ring: Vec<Block>,
    /// A row with [`REACH`] more at both ends.
    line: Vec<Block>,
    /// Gradient of the chain's sum.
    sum: Vec<Block>,
    /// Gradient of what a pool reads.
    top: Vec<Block>,
}

impl Room {
    fn fit(&mut self, height: usize, width: usize) {
        if self.size == (height, width) {
            return;
        }
        let map = || vec![[0.0; LANES]; height * width];
        let choices = || vec![[0; LANES]; height * width];
        *self = Self {
            size: (height, width),
            x: map(),
            pooled: std::array::from_fn(|_| map()),
            across: std::array::from_fn(|_| choices()),
            along: std::array::from_fn(|_| choices()),
            ring: vec![[0.0; LANES]; WINDOW * width],
            line: vec![[0.0; LANES]; width + 2 * REACH],
            sum: map(),
            top: map(),
        };
    }
}

kernel! {
    /// Forwards in single precision.
    forward_f32 = forward_in(stage: Stage<'_, f32>, outs: &mut [&mut [f32]], room: &mut Room);
    /// Forwards in `bfloat16`; what lies between is in single precision.
    forward_bf16 = forward_in(stage: Stage<'_, Bf16>, outs: &mut [&mut [Bf16]], room: &mut Room);
    /// Backwards in single precision.
    backward_f32 = backward_in(stage: Stage<'_, f32>, pulls: &[&[f32]], out: Pulled<'_, f32>, room: &mut Room);
    /// Backwards in `bfloat16`; what lies between is in single precision.
    backward_bf16 = backward_in(stage: Stage<'_, Bf16>, pulls: &[&[Bf16]], out: Pulled<'_, Bf16>, room: &mut Room);
}

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn forward_in<S: Isa, E: Element>(
    _: PhantomData<S>,
    stage: Stage<'_, E>,
    outs: &mut [&mut [E]],
    room: &mut Room,
) {
    let channels = stage.channels;
    check(&stage, outs.iter().map(|o| o.len()));
    room.fit(stage.height, stage.width);
    for from in (0..channels).step_by(LANES) {
        // SAFETY: the caller's condition; `check` has seen that every map has `height * width * channels` numbers and
        // `scales` and `factors` a row of `channels` for each stage and head; `from + LANES <= channels`.
        unsafe {
            pools::<S, E, false>(&stage, from, room);
            let plus = plus_one::<S>(&stage, from);
            for i in 0..stage.height * stage.width {
                let sum = chain_sum::<S>(room, &plus, i);
                for (head, out) in outs.iter_mut().enumerate() {
                    let factor = S::load(stage.factors.as_ptr().add(head * channels + from));
                    E::store::<S>(relu6::<S>(S::mul(factor, sum)), out.as_mut_ptr().add(i * channels + from));
                }
            }
        }
    }
}

/// What the kernels rely on.
fn check<E>(stage: &Stage<'_, E>, mut maps: impl Iterator<Item = usize>) {
    let numbers = stage.height * stage.width * stage.channels;
    assert!(stage.channels.is_multiple_of(LANES) && stage.x.len() == numbers && maps.all(|n| n == numbers));
    assert!(stage.scales.len() == STAGES * stage.channels && stage.factors.len().is_multiple_of(stage.channels));
}

/// `1 + scale` of each stage.
///
/// # Safety
/// As [`forward_in`] and what it has checked.
#[inline(always)]
unsafe fn plus_one<S: Isa>(stage: &Stage<'_, impl Copy>, from: usize) -> [S::V; STAGES] {
    // SAFETY: the caller's conditions.
    unsafe {
        let one = S::splat(1.0);
        let mut plus = [one; STAGES];
        for (i, v) in plus.iter_mut().enumerate() {
            *v = S::add(one, S::load(stage.scales.as_ptr().add(i * stage.channels + from)));
        }
        plus
    }
}

/// The chain's sum at a pixel.
///
/// # Safety
/// As [`forward_in`]; the room's maps have a pixel `i`.
#[inline(always)]
unsafe fn chain_sum<S: Isa>(room: &Room, plus: &[S::V; STAGES], i: usize) -> S::V {
    // SAFETY: the caller's conditions; the pixels are found by checked indices.
    unsafe {
        let mut sum = S::load(room.x[i].as_ptr());
        for (plus, pooled) in plus.iter().zip(&room.pooled) {
            sum = S::fma(*plus, S::load(pooled[i].as_ptr()), sum);
        }
        sum
    }
}

/// The chain's poolings of the channels from `from` on; with `CHOICES`, where each maximum came from.
///
/// # Safety
/// As [`forward_in`] and what it has checked.
#[inline(always)]
unsafe fn pools<S: Isa, E: Element, const CHOICES: bool>(stage: &Stage<'_, E>, from: usize, room: &mut Room) {
    let Stage { height, width, channels, .. } = *stage;
    let Room { x, pooled, across, along, ring, line, .. } = room;
    // SAFETY: the caller's conditions; rows of blocks are found by checked indices.
    unsafe {
        for (i, x) in x.iter_mut().enumerate() {
            let value = E::load::<S>(stage.x.as_ptr().add(i * channels + from));
            S::store(relu6::<S>(value), x.as_mut_ptr());
        }
        line[..REACH].fill([f32::NEG_INFINITY; LANES]);
        line[REACH + width..].fill([f32::NEG_INFINITY; LANES]);
        for number in 0..STAGES {
            let (before, rest) = pooled.split_at_mut(number);
            let source = before.last().unwrap_or(x);
            let factor = match number {
                0 => S::splat(1.0),
                n => S::load(stage.scales.as_ptr().add((n - 1) * channels + from)),
            };
            let (out, across, along) = (&mut rest[0], &mut across[number], &mut along[number]);
            for y in 0..height + REACH {
                if y < height {
                    let source = &source[y * width..][..width];
                    for (to, from) in line[REACH..].iter_mut().zip(source) {
                        S::store(S::mul(factor, S::load(from.as_ptr())), to.as_mut_ptr());
                    }
                    let most = &mut ring[y % WINDOW * width..][..width];
                    let choices = &mut across[y * width..][..width];
                    for (x, (most, choice)) in most.iter_mut().zip(choices).enumerate() {
                        let window: &[Block; WINDOW] = line[x..].first_chunk().unwrap_or(&[[0.0; LANES]; WINDOW]);
                        let [a, b, c, d, e] = window;
                        let window = [a.as_ptr(), b.as_ptr(), c.as_ptr(), d.as_ptr(), e.as_ptr()];
                        let (value, which) = largest::<S, CHOICES>(0, &window);
                        S::store(value, most.as_mut_ptr());
                        if CHOICES {
                            S::store_u8(which, choice.as_mut_ptr());
                        }
                    }
                }
                let Some(at) = y.checked_sub(REACH).filter(|at| *at < height) else { continue };
                let (first, last) = (at.saturating_sub(REACH), (at + REACH).min(height - 1));
                let out = &mut out[at * width..][..width];
                let choices = &mut along[at * width..][..width];
                let mut rows = [&ring[..width]; WINDOW];
                for (row, number) in rows.iter_mut().zip(first..=last) {
                    *row = &ring[number % WINDOW * width..][..width];
                }
                let rows_there = last + 1 - first;
                for (x, (out, choice)) in out.iter_mut().zip(choices).enumerate() {
                    let [a, b, c, d, e] = rows;
                    let column = [a[x].as_ptr(), b[x].as_ptr(), c[x].as_ptr(), d[x].as_ptr(), e[x].as_ptr()];
                    let (value, which) = largest::<S, CHOICES>(first + REACH - at, &column[..rows_there]);
                    S::store(value, out.as_mut_ptr());
                    if CHOICES {
                        S::store_u8(which, choice.as_mut_ptr());
                    }
                }
            }
        }
    }
}

/// The largest of some values, and with `CHOICES` which one it is, counted from `first`; of equal ones the first.
///
/// # Safety
/// The processor has `S`'s instruction set, and the pointers, at least one, are valid for a block.
#[inline(always)]
unsafe fn largest<S: Isa, const CHOICES: bool>(first: usize, values: &[*const f32]) -> (S::V, S::V) {
    // SAFETY: the caller's conditions.
    unsafe {
        // No closures: what is compiled for other instruction sets is not inlined into them.
        let mut most = S::load(values[0]);
        let mut which = S::splat(first as f32);
        for (i, p) in values.iter().enumerate().skip(1) {
            let value = S::load(*p);
            if CHOICES {
                which = S::select(S::gt(value, most), S::splat((first + i) as f32), which);
            }
            most = S::max(value, most);
        }
        (most, which)
    }
}

/// ReLU6. A NaN stays one, so that the loss tells it: where either operand is NaN, `max` and `min` give the second.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn relu6<S: Isa>(value: S::V) -> S::V {
    // SAFETY: the caller's condition.
    unsafe { S::min(S::splat(6.0), S::max(S::splat(0.0), value)) }
}

/// `pull` where ReLU6 of `value` has a slope, else 0.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn through_relu6<S: Isa>(value: S::V, pull: S::V) -> S::V {
    // SAFETY: the caller's condition.
    unsafe {
        let zero = S::splat(0.0);
        S::select(S::gt(value, zero), S::select(S::gt(S::splat(6.0), value), pull, zero), zero)
    }
}

/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn backward_in<S: Isa, E: Element>(
    _: PhantomData<S>,
    stage: Stage<'_, E>,
    pulls: &[&[E]],
    out: Pulled<'_, E>,
    room: &mut Room,
) {
    let Stage { height, width, channels, .. } = stage;
    check(&stage, pulls.iter().map(|p| p.len()).chain([out.x.len()]));
    assert!(pulls.len() * channels == stage.factors.len());
    assert!(out.scales.len() == stage.scales.len() && out.factors.len() == stage.factors.len());
    room.fit(height, width);
    for from in (0..channels).step_by(LANES) {
        // SAFETY: the caller's condition, and as in `forward_in`; `out`'s sums are as long as what they belong to.
        unsafe {
            pools::<S, E, true>(&stage, from, room);
            let plus = plus_one::<S>(&stage, from);
            for i in 0..height * width {
                let sum = chain_sum::<S>(room, &plus, i);
                let mut total = S::splat(0.0);
                for (head, pull) in pulls.iter().enumerate() {
                    let row = head * channels + from;
                    let factor = S::load(stage.factors.as_ptr().add(row));
                    let pull = E::load::<S>(pull.as_ptr().add(i * channels + from));
                    let pull = through_relu6::<S>(S::mul(factor, sum), pull);
                    let slot = out.factors.as_mut_ptr().add(row);
                    S::store(S::fma(pull, sum, S::load(slot)), slot);
                    total = S::fma(factor, pull, total);
                }
                S::store(total, room.sum[i].as_mut_ptr());
            }
            room.top.fill([0.0; LANES]);
            for number in (0..STAGES).rev() {
                let row = number * channels + from;
                let scale = S::load(stage.scales.as_ptr().add(row));
                let pulled = unpool::<S>(room, number, scale, plus[number]);
                S::store(pulled, out.scales.as_mut_ptr().add(row));
            }
            for i in 0..height * width {
                let pull = S::add(S::load(room.sum[i].as_ptr()), S::load(room.top[i].as_ptr()));
                let pull = through_relu6::<S>(S::load(room.x[i].as_ptr()), pull);
                E::store::<S>(pull, out.x.as_mut_ptr().add(i * channels + from));
            }
        }
    }
}

/// One pool backwards: `room.top`, the gradient of what the next pool reads, becomes that of what this one reads. Returns
/// the gradient of the scale between the two.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
unsafe fn unpool<S: Isa>(room: &mut Room, number: usize, scale: S::V, plus: S::V) -> S::V {
    let Room { size: (height, width), pooled, across, along, ring, line, sum, top, .. } = room;
    let (height, width) = (*height, *width);
    let (pooled, across, along) = (&pooled[number], &across[number], &along[number]);
    // SAFETY: the caller's condition; every block is found by a checked index.
    unsafe {
        let zero = S::splat(0.0);
        let mut of_scale = zero;
        ring.fill([0.0; LANES]);
        for y in 0..height + REACH {
            if y < height {
                let (first, last) = (y.saturating_sub(REACH), (y + REACH).min(height - 1));
                for x in 0..width {
                    let i = y * width + x;
                    let (sum, top) = (S::load(sum[i].as_ptr()), S::load(top[i].as_ptr()));
                    of_scale = S::fma(S::load(pooled[i].as_ptr()), S::add(sum, top), of_scale);
                    let pull = S::fma(plus, sum, S::mul(scale, top));
                    let which = S::load_u8(along[i].as_ptr());
                    for row in first..=last {
                        let chosen = S::eq(which, S::splat((row + REACH - y) as f32));
                        let slot = ring[row % WINDOW * width + x].as_mut_ptr();
                        S::store(S::add(S::load(slot), S::select(chosen, pull, zero)), slot);
                    }
                }
            }
            // No later row pulls at this one. It is read no more either: its place in `top` is free.
            let Some(at) = y.checked_sub(REACH).filter(|at| *at < height) else { continue };
            line.fill([0.0; LANES]);
            let done = &mut ring[at % WINDOW * width..][..width];
            for (x, pull) in done.iter_mut().enumerate() {
                let (value, which) = (S::load(pull.as_ptr()), S::load_u8(across[at * width + x].as_ptr()));
                for (number, slot) in line[x..x + WINDOW].iter_mut().enumerate() {
                    let chosen = S::eq(which, S::splat(number as f32));
                    let slot = slot.as_mut_ptr();
                    S::store(S::add(S::load(slot), S::select(chosen, value, zero)), slot);
                }
                *pull = [0.0; LANES];
            }
            top[at * width..][..width].copy_from_slice(&line[REACH..][..width]);
        }
        of_scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::seeded;

    /// The same by libtorch's operators.
    fn by_libtorch(x: &Tensor, scales: &Tensor, factors: &Tensor) -> Vec<Tensor> {
        let of = |t: &Tensor, i: i64| t.get(i).to_kind(x.kind()).view([1, -1, 1, 1]);
        let mut top = x.relu6();
        let mut sum = top.shallow_clone();
        for i in 0..STAGES as i64 {
            let pooled = top.max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false);
            top = &pooled * of(scales, i);
            sum = sum + pooled + &top;
        }
        (0..factors.size()[0]).map(|i| (&sum * of(factors, i)).relu6()).collect()
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
        (&a - &b).abs().max().double_value(&[]) / b.abs().max().double_value(&[]).max(1e-9)
    }

    fn stages() -> Vec<QuarterStage> {
        let of = |level| QuarterStage { level, rooms: Spare::default() };
        Level::available().into_iter().map(of).collect()
    }

    /// Both ways beside libtorch's, at every instruction set, for maps with and without room for a whole window.
    #[test]
    fn both_ways_are_libtorchs() {
        for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 3e-2)] {
            for (batch, height, width, heads) in [(3, 9, 14, 2), (1, 1, 1, 1), (2, 3, 2, 3), (1, 17, 5, 2)] {
                let size = [batch, 32, height, width];
                // Many equal maxima: ReLU6 has its ends in every window.
                let x = seeded::uniform(1, &size, [-4.0, 9.0]).to_kind(kind).set_requires_grad(true);
                let scales = seeded::uniform(2, &[4, 32], [-0.6, 0.9]).set_requires_grad(true);
                let factors = seeded::uniform(3, &[heads, 32], [-0.2, 0.6]).set_requires_grad(true);
                let expected = by_libtorch(&x, &scales, &factors);
                let pull = |(seed, e): (u64, &Tensor)| seeded::uniform(seed, &e.size(), [-1.0, 1.0]).to_kind(kind);
                let pulls: Vec<Tensor> = (4..).zip(&expected).map(pull).collect();
                let products = expected.iter().zip(&pulls).map(|(e, p)| (e * p).sum(Kind::Float));
                products.reduce(|a, b| a + b).expect("a head").backward();
                for stage in stages() {
                    let case = format!("{kind:?} {size:?} {:?}", stage.level);
                    let found = stage.forward(&x, &scales, &factors).expect("forwards");
                    assert_eq!(found.len(), expected.len());
                    for (f, e) in found.iter().zip(&expected) {
                        assert_eq!((f.size(), f.kind()), (e.size(), kind));
                        assert!(difference(f, e) < tolerance, "{case}: {}", difference(f, e));
                    }
                    let g = stage.backward(&x, &scales, &factors, &pulls).expect("backwards");
                    for (name, found, expected) in [
                        ("x", &g.x, x.grad()),
                        ("scales", &g.scales, scales.grad()),
                        ("factors", &g.factors, factors.grad()),
                    ] {
                        // A chain of rounded maxima has other winners than one of exact ones here and there.
                        let off = match kind {
                            Kind::Float => difference(found, &expected),
                            _ => mean_difference(found, &expected),
                        };
                        assert!(off < tolerance.max(1e-4), "{case}: gradient of {name} differs by {off}");
                    }
                }
            }
        }
    }

    fn mean_difference(a: &Tensor, b: &Tensor) -> f64 {
        let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
        ((&a - &b).norm() / b.norm().clamp_min(1e-9)).double_value(&[]) * 0.1
    }

    #[test]
    fn of_equal_maxima_the_first_is_pulled_at() {
        let x = Tensor::full([1, 16, 6, 7], 3.0, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let ones = Tensor::ones([4, 16], (Kind::Float, Device::Cpu)) * 0.01;
        let factors = Tensor::full([1, 16], 0.1, (Kind::Float, Device::Cpu));
        by_libtorch(&x, &ones, &factors)[0].sum(Kind::Float).backward();
        let pull = Tensor::ones([1, 16, 6, 7], (Kind::Float, Device::Cpu));
        for stage in stages() {
            let g = stage.backward(&x, &ones, &factors, std::slice::from_ref(&pull)).expect("backwards");
            assert!(difference(&g.x, &x.grad()) < 1e-5, "{:?}", stage.level);
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = Tensor::ones([2, 16, 4, 5], (Kind::Float, Device::Cpu));
            let _ = x.get(0).get(7).get(2).get(3).fill_(f64::NAN);
            let ones = |rows: i64| Tensor::ones([rows, 16], (Kind::Float, Device::Cpu));
            for stage in stages() {
                for map in stage.forward(&x.to_kind(kind), &ones(4), &ones(2)).expect("forwards") {
                    let map = map.to_kind(Kind::Float);
                    assert!(map.double_value(&[0, 7, 2, 3]).is_nan(), "{kind:?} {:?}", stage.level);
                    assert!(map.get(1).isfinite().all().int64_value(&[]) == 1, "another picture");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(QuarterStage::new(Device::Cuda(0), Kind::Float).is_none());
        assert!(QuarterStage::new(Device::Cpu, Kind::Half).is_none());
        let stage = QuarterStage::new(Device::Cpu, Kind::Float).expect("a processor");
        let of = |size: &[i64]| Tensor::ones(size, (Kind::Float, Device::Cpu));
        assert!(stage.forward(&of(&[1, 20, 4, 4]), &of(&[4, 20]), &of(&[1, 20])).is_err());
        assert!(stage.forward(&of(&[1, 32, 4, 4]), &of(&[3, 32]), &of(&[1, 32])).is_err());
        assert!(stage.forward(&of(&[1, 32, 4, 4]).to_kind(Kind::Half), &of(&[4, 32]), &of(&[1, 32])).is_err());
        let (x, scales, factors) = (of(&[1, 32, 4, 4]), of(&[4, 32]), of(&[1, 32]));
        assert!(stage.backward(&x, &scales, &factors, &[]).is_err());
        assert!(stage.backward(&x, &scales, &factors, &[of(&[1, 32, 4, 5])]).is_err());
    }
}

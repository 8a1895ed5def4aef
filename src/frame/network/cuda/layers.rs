//! The folded network as a list of kernels.
//!
//! Weights and maps are half precision, sums single precision. Channels are padded to a multiple of 16 with zeros: all
//! weights that meet them are zero, and every activation here leaves zero as it is.

use super::machine::{Address, Capacity, Kernel, Launch, Machine, MachineError};
use crate::export::trace::ANSWERED;
use crate::model::parts::{values, Activation, BlockParts, Filter, RefinementParts, TrunkParts};
use crate::model::{EndWeights, Task, CRP_STAGES};
use half::f16;
use std::borrow::Borrow;
use zerocopy::{Immutable, IntoBytes};

/// The most outputs of a head.
pub(super) const HEAD_OUTPUTS: usize = 32;
/// The most channels that squeeze-and-excitation has room for, and of its inner layer.
const EXCITE: (usize, usize) = (576, 160);
/// Inputs of the stem as a 1x1 convolution: 12 pixels of 4 channels, of which 9 of 3 are not zero.
const STEM_INPUTS: usize = 48;
/// The most channels of a block without squeeze-and-excitation, and its outputs.
const WHOLE: (usize, usize) = (96, 32);
/// Pixels of a block of `inverted`, but for the stem's, and of `whole`: across, down.
const INVERTED: (usize, usize) = (8, 4);
/// What the kernels of products are made for.
const PRODUCT: Product = Product { pitch: 144, chunk: 64, shared: 90 << 10 };
/// What the kernels of a chain are made for: `stages` are the most chunks of weights at once, where not all are.
const CHAIN: Chain = Chain { channels: 256, height: 4, chunk: 32, stages: 6 };
/// The most heads that one kernel makes, its rows of a group with the pixels that a block of two groups sees, its threads,
/// the channels that come at once, and the shared memory that every device has for a block.
const HEADS_AT_ONCE: usize = 2;
const HEAD_ROWS: [(usize, usize, Kernel); 2] = [(3, 18 * 8, Kernel::Heads3), (7, 18 * 16, Kernel::Heads7)];
const HEADS_THREADS: u32 = 256;
const HEAD_CHUNK: usize = 32;
const HEADS_SHARED: usize = 99 << 10;
/// `quarter`'s columns of a lane, its kernel, and the shared memory of a block.
const QUARTER: [(usize, Kernel, usize); 2] = [(4, Kernel::Quarter4, 43008), (8, Kernel::Quarter8, 87040)];
const QUARTER_THREADS: u32 = 384;
/// What `quarter` sees of a map beyond a block's part of the answer, at each side.
const QUARTER_HALO: usize = 8;

/// Rings and channels of the refinement that its kernels are made for, pixels of a block, and its threads.
const RINGS: usize = 4;
const REFINE_CHANNELS: usize = 24;
const REFINE_ACROSS: usize = 32;
const REFINE_THREADS: u32 = 96;

/// [`PRODUCT`].
struct Product {
    /// Bytes of a row of a tile in shared memory.
    pitch: usize,
    /// Inputs that come at once.
    chunk: usize,
    /// Bytes of shared memory that all chunks on their way may take: every device has them.
    shared: usize,
}

/// [`CHAIN`].
struct Chain {
    channels: usize,
    /// Rows of a block.
    height: usize,
    /// Inputs whose weights come at once.
    chunk: usize,
    stages: usize,
}

/// A map on the machine: `[image][height][width][channels]`, half precision; those that the 1/4 stage and the heads read and
/// write, by planes of eight channels: `[image][channels / 8][height][width][8]`.
#[derive(Debug, Clone, Copy)]
struct Map {
    at: Address,
    height: usize,
    width: usize,
    channels: usize,
}

impl Map {
    fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// Twins of the structures in `network.cu` and `refine.cu`, in their order.
mod twin {
    use super::Address;

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Narrow {
        pub input: Address,
        pub out: Address,
        pub pixels: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Inverted {
        pub input: Address,
        pub widen: Address,
        pub widen_bias: Address,
        pub weight: Address,
        pub bias: Address,
        pub out: Address,
        pub sums: Address,
        pub arrived: Address,
        pub squeeze: Address,
        pub squeeze_bias: Address,
        pub excite: Address,
        pub excite_bias: Address,
        pub factors: Address,
        pub size: [i32; 2],
        pub out_size: [i32; 2],
        pub picture_size: [i32; 2],
        pub inputs: i32,
        pub channels: i32,
        pub widen_act: i32,
        pub act: i32,
        pub squeezed: i32,
        pub images: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Whole {
        pub input: Address,
        pub widen: Address,
        pub widen_bias: Address,
        pub weight: Address,
        pub bias: Address,
        pub project: Address,
        pub project_bias: Address,
        pub out: Address,
        pub size: [i32; 2],
        pub out_size: [i32; 2],
        pub inputs: i32,
        pub channels: i32,
        pub act: i32,
        pub is_residual: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Product {
        pub a: Address,
        pub b: Address,
        pub weight: Address,
        pub bias: Address,
        pub factors: Address,
        pub enlarged: Address,
        pub add: Address,
        pub out: Address,
        pub outputs: i32,
        pub a_channels: i32,
        pub b_channels: i32,
        pub act: i32,
        pub size: [i32; 2],
        pub small: [i32; 2],
        pub stages: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Chain {
        pub top: Address,
        pub sum_in: Address,
        pub sum_out: Address,
        pub weight: Address,
        pub out: Address,
        pub size: [i32; 2],
        pub outputs: i32,
        pub stages: i32,
        pub planes: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Quarter {
        pub block1: Address,
        pub eighth: Address,
        pub conv6: Address,
        pub scales: Address,
        pub out: Address,
        pub size: [i32; 2],
        pub small: [i32; 2],
        pub channels: i32,
        pub strip: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Head {
        pub pre: Address,
        pub weight: Address,
        pub bias: Address,
        pub outputs: i32,
        pub first: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Heads {
        pub input: Address,
        pub answer: Address,
        pub best: Address,
        pub size: [i32; 2],
        pub channels: i32,
        pub answer_channels: i32,
        pub head: [Head; super::HEADS_AT_ONCE],
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct RefineStart {
        pub answer: Address,
        pub bias: Address,
        pub score: Address,
        pub ring: Address,
        pub out: Address,
        pub size: [i32; 2],
        pub channels: i32,
        pub classes: i32,
        pub reach: [i32; super::RINGS],
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct RefineBlock {
        pub input: Address,
        pub bias: Address,
        pub weight: Address,
        pub out: Address,
        pub size: [i32; 2],
        pub dilation: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct RefineLast {
        pub input: Address,
        pub weight: Address,
        pub answer: Address,
        pub bias: f32,
        pub size: [i32; 2],
        pub channels: i32,
        pub classes: i32,
    }
}

#[derive(Debug, Clone, Copy)]
enum Act {
    None = 0,
    Relu = 1,
    Relu6 = 2,
    Hardswish = 3,
}

impl From<Activation> for Act {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::None => Self::None,
            Activation::Relu => Self::Relu,
            Activation::Hardswish => Self::Hardswish,
        }
    }
}

fn size_of_map(map: &Map) -> [i32; 2] {
    [map.height as i32, map.width as i32]
}

fn padded(channels: usize) -> usize {
    channels.next_multiple_of(16)
}

/// Pixels that a block of `inverted` or `whole` sees, padded.
fn seen(across: usize, size: usize, stride: usize) -> usize {
    (((across - 1) * stride + size) * ((INVERTED.1 - 1) * stride + size)).next_multiple_of(16)
}

/// What a product may have beside its sources and weights.
#[derive(Debug, Clone, Copy)]
struct With {
    factors: Address,
    enlarged: Option<Map>,
    add: Address,
    act: Act,
}

impl With {
    const NOTHING: Self = Self { factors: 0, enlarged: None, add: 0, act: Act::None };

    fn act(act: Act) -> Self {
        Self { act, ..Self::NOTHING }
    }
}

/// Dense weights on the machine.
#[derive(Debug, Clone, Copy)]
struct Dense {
    weight: Address,
    /// 0: none.
    bias: Address,
    outputs: usize,
    inputs: usize,
}

/// What is allocated when the largest batch is laid out serves the smaller ones.
#[derive(Debug, Default)]
struct Arena {
    blocks: Vec<(Address, usize)>,
    next: usize,
}

/// Lays the network out.
struct Builder<'a, M> {
    machine: &'a M,
    arena: &'a mut Arena,
    /// Weights are there already.
    is_again: bool,
    images: usize,
    /// Blocks that fill the machine: where there are fewer, they are made smaller.
    many_blocks: usize,
    /// Bytes of shared memory that a block may have.
    shared: usize,
    launches: Vec<Launch>,
}

impl<M: Machine> Builder<'_, M> {
    fn room(&mut self, bytes: usize) -> Result<Address, MachineError> {
        let index = self.arena.next;
        self.arena.next += 1;
        if let Some((at, length)) = self.arena.blocks.get(index) {
            assert!(bytes <= *length, "the largest batch is laid out first");
            return Ok(*at);
        }
        let at = self.machine.allocate(bytes)?;
        self.arena.blocks.push((at, bytes));
        Ok(at)
    }

    fn map(&mut self, height: usize, width: usize, channels: usize) -> Result<Map, MachineError> {
        let at = self.room(self.images * height * width * channels * size_of::<f16>())?;
        Ok(Map { at, height, width, channels })
    }

    /// What `make` makes, which is not called where it is there already.
    fn constant<T: IntoBytes + Immutable>(&mut self, make: impl FnOnce() -> Vec<T>) -> Result<Address, MachineError> {
        if self.is_again {
            return self.room(0);
        }
        let values = make();
        let at = self.room(size_of_val(values.as_slice()))?;
        self.machine.upload(at, values.as_bytes())?;
        Ok(at)
    }

    /// `of(row, column)` in rows of padded length, in half precision.
    fn matrix(
        &mut self,
        (rows, padded_rows): (usize, usize),
        (columns, padded_columns): (usize, usize),
        of: impl Fn(usize, usize) -> f32,
    ) -> Result<Address, MachineError> {
        self.constant(|| {
            let mut values = vec![f16::ZERO; padded_rows * padded_columns];
            for (row, out) in values.chunks_exact_mut(padded_columns).take(rows).enumerate() {
                for (column, out) in out.iter_mut().take(columns).enumerate() {
                    *out = f16::from_f32(of(row, column));
                }
            }
            values
        })
    }

    /// Single precision, padded with zeros.
    fn vector(&mut self, values: &[f32], length: usize) -> Result<Address, MachineError> {
        self.constant(|| {
            let mut values = values.to_vec();
            values.resize(length, 0.0);
            values
        })
    }

    /// Of inputs that come from `parts` maps of as many channels each.
    fn dense(&mut self, filter: &Filter, parts: usize) -> Result<Dense, MachineError> {
        let [outputs, inputs, ..] = filter.shape;
        let (each, padded_outputs) = (inputs / parts, padded(outputs));
        let padded_each = padded(each);
        let weight = self.constant(|| {
            let mut values = vec![f16::ZERO; padded_outputs * parts * padded_each];
            for (o, line) in filter.weight.chunks_exact(inputs).enumerate() {
                for (i, value) in line.iter().enumerate() {
                    values[(o * parts + i / each) * padded_each + i % each] = f16::from_f32(*value);
                }
            }
            values
        })?;
        let bias = if filter.bias.is_empty() { 0 } else { self.vector(&filter.bias, padded_outputs)? };
        Ok(Dense { weight, bias, outputs: padded_outputs, inputs: parts * padded_each })
    }

    /// A product of one or two maps of one size. The fewer blocks, the smaller they are.
    fn product(&mut self, a: Map, b: Option<Map>, dense: Dense, with: With) -> Result<Map, MachineError> {
        let out = self.map(a.height, a.width, dense.outputs)?;
        let b_channels = b.map_or(0, |b| b.channels);
        assert_eq!(a.channels + b_channels, dense.inputs, "the weights are of these maps");
        let grid =
            |(rows, outputs): (usize, usize)| [a.pixels().div_ceil(rows), dense.outputs.div_ceil(outputs), self.images];
        let tiles = [(64, 64), (32, 32), (16, 32)];
        let fills = |tile: &&(usize, usize)| grid(**tile).iter().product::<usize>() >= self.many_blocks;
        let tile = *tiles.iter().find(fills).unwrap_or(&tiles[2]);
        let kernel = match (tile.0, with.factors != 0, with.enlarged.is_some()) {
            (64, false, false) => Kernel::Product64,
            (64, true, false) => Kernel::Product64Factors,
            (64, false, true) => Kernel::Product64Enlarged,
            (32, false, false) => Kernel::Product32,
            (32, true, false) => Kernel::Product32Factors,
            (32, false, true) => Kernel::Product32Enlarged,
            (_, false, false) => Kernel::Product16,
            (_, true, false) => Kernel::Product16Factors,
            (_, false, true) => Kernel::Product16Enlarged,
            (_, true, true) => unreachable!("no layer of the network has both"),
        };
        let stage = (tile.0 + tile.1) * PRODUCT.pitch;
        let stages = dense.inputs.div_ceil(PRODUCT.chunk).min(PRODUCT.shared / stage);
        let arguments = twin::Product {
            a: a.at,
            b: b.map_or(0, |b| b.at),
            weight: dense.weight,
            bias: dense.bias,
            factors: with.factors,
            enlarged: with.enlarged.map_or(0, |map| map.at),
            add: with.add,
            out: out.at,
            outputs: dense.outputs as i32,
            a_channels: a.channels as i32,
            b_channels: b_channels as i32,
            act: with.act as i32,
            size: size_of_map(&a),
            small: with.enlarged.map_or([1, 1], |map| size_of_map(&map)),
            stages: stages as i32,
        };
        self.launches.push(Launch::new(kernel, grid(tile), 128, arguments).with_shared(stages * stage));
        Ok(out)
    }

    /// The stem as a 1x1 convolution of 9 of the picture's pixels, and some more that are zero.
    fn stem(&mut self, filter: &Filter) -> Result<Dense, MachineError> {
        assert_eq!(filter.shape, [16, 3, 3, 3], "the stem's kernel is made for this shape");
        // [output][channel][tap] -> [output][tap][channel]
        let of = |output: usize, input: usize| match (input / 4, input % 4) {
            (tap @ ..9, channel @ ..3) => filter.weight[(output * 3 + channel) * 9 + tap],
            _ => 0.0,
        };
        let weight = self.matrix((16, 16), (STEM_INPUTS, STEM_INPUTS), of)?;
        let bias = self.vector(&filter.bias, 16)?;
        Ok(Dense { weight, bias, outputs: 16, inputs: STEM_INPUTS })
    }

    /// A block; the first one with the stem, of the picture.
    fn block(&mut self, input: Map, stem: Option<&Filter>, parts: &BlockParts) -> Result<Map, MachineError> {
        if let (Some(filter), None) = (&parts.expand, &parts.squeeze) {
            return self.whole(input, filter, parts);
        }
        let (deep, factors) = self.inverted(input, stem, parts)?;
        let dense = self.dense(&parts.project, 1)?;
        assert!(stem.is_none() || !parts.residual, "there is no map of the stem's answer");
        let add = if parts.residual { input.at } else { 0 };
        self.product(deep, None, dense, With { factors, add, ..With::NOTHING })
    }

    /// The depthwise convolution's weights and bias.
    fn depthwise(&mut self, filter: &Filter) -> Result<(Address, Address), MachineError> {
        let [own, _, size, _] = filter.shape;
        let (taps, channels) = (size * size, padded(own));
        let of = |tap: usize, channel: usize| filter.weight[channel * taps + tap];
        let weight = self.matrix((taps, taps), (own, channels), of)?;
        Ok((weight, self.vector(&filter.bias, channels)?))
    }

    /// A block without squeeze-and-excitation.
    fn whole(&mut self, input: Map, widen: &Filter, parts: &BlockParts) -> Result<Map, MachineError> {
        let (widen, project) = (self.dense(widen, 1)?, self.dense(&parts.project, 1)?);
        let (channels, outputs) = WHOLE;
        let fits = widen.outputs <= channels && project.outputs == outputs && project.inputs == widen.outputs;
        assert!(fits && parts.depthwise.shape[2] == 3, "the kernel is made for them");
        assert!(widen.bias != 0 && project.bias != 0, "normalisation is folded into them");
        assert_eq!(widen.inputs, input.channels, "the weights are of this map");
        assert!(!parts.residual || (parts.stride == 1 && input.channels == outputs), "both maps are alike");
        let (height, width) = (input.height.div_ceil(parts.stride), input.width.div_ceil(parts.stride));
        let out = self.map(height, width, outputs)?;
        let (weight, bias) = self.depthwise(&parts.depthwise)?;
        let arguments = twin::Whole {
            input: input.at,
            widen: widen.weight,
            widen_bias: widen.bias,
            weight,
            bias,
            project: project.weight,
            project_bias: project.bias,
            out: out.at,
            size: size_of_map(&input),
            out_size: size_of_map(&out),
            inputs: widen.inputs as i32,
            channels: widen.outputs as i32,
            act: Act::from(parts.activation) as i32,
            is_residual: i32::from(parts.residual),
        };
        let kernel = match parts.stride {
            1 => Kernel::Whole1,
            2 => Kernel::Whole2,
            _ => unreachable!("no layer of the network has another stride"),
        };
        let (across, down) = INVERTED;
        let seen = seen(across, 3, parts.stride);
        let deep = (across * down + outputs) * (channels + 8);
        let halves = seen * (32 + 8) + 9 * channels + deep + (channels + seen) * (widen.inputs + 8);
        let grid = [width.div_ceil(across), height.div_ceil(down), self.images];
        self.launches.push(Launch::new(kernel, grid, 128, arguments).with_shared(halves * size_of::<f16>()));
        Ok(out)
    }

    /// A block up to its depthwise convolution, and the factors of squeeze-and-excitation.
    fn inverted(
        &mut self,
        from: Map,
        stem: Option<&Filter>,
        parts: &BlockParts,
    ) -> Result<(Map, Address), MachineError> {
        let [own, _, size, _] = parts.depthwise.shape;
        let (channels, taps, stride) = (padded(own), size * size, parts.stride);
        let [first, second] = parts.squeeze.as_ref().expect("a block that widens nothing or 5x5 has them");
        let squeezed = first.shape[0];
        assert!(channels <= EXCITE.0 && squeezed <= EXCITE.1, "the kernel has room for them");
        let act = Act::from(parts.activation);
        let (input, widen, widen_act) = match (stem, &parts.expand) {
            (Some(filter), None) => {
                let [height, width] = [from.height, from.width].map(|n| n.div_ceil(2));
                let input = Map { height, width, channels: STEM_INPUTS, ..from };
                (input, self.stem(filter)?, Act::Hardswish)
            }
            (None, Some(filter)) => (from, self.dense(filter, 1)?, act),
            _ => unreachable!("every block but the first one widens its input"),
        };
        let out = self.map(input.height.div_ceil(stride), input.width.div_ceil(stride), channels)?;
        assert_eq!((widen.inputs, widen.outputs), (input.channels, channels), "the weights are of this map");
        let (weight, bias) = self.depthwise(&parts.depthwise)?;
        let arguments = twin::Inverted {
            input: input.at,
            widen: widen.weight,
            widen_bias: widen.bias,
            weight,
            bias,
            out: out.at,
            sums: self.room(self.images * padded(squeezed) * size_of::<u64>())?,
            arrived: self.room(self.images * 2 * size_of::<u32>())?,
            squeeze: self.tiles(first, true)?,
            squeeze_bias: self.vector(&first.bias, padded(squeezed))?,
            excite: self.tiles(second, false)?,
            excite_bias: self.vector(&second.bias, channels)?,
            factors: self.room(self.images * channels * size_of::<f32>())?,
            size: size_of_map(&input),
            out_size: size_of_map(&out),
            picture_size: size_of_map(&from),
            inputs: widen.inputs as i32,
            channels: channels as i32,
            widen_act: widen_act as i32,
            act: act as i32,
            squeezed: squeezed as i32,
            images: self.images as i32,
        };
        let blocks = |across: usize, part: usize| {
            out.width.div_ceil(across) * out.height.div_ceil(INVERTED.1) * self.images * channels.div_ceil(part)
        };
        // Blocks of many channels read each pixel less often, unless much of them is beyond the channels.
        let wastes = 4 * channels.next_multiple_of(64) > 5 * channels;
        let fills = blocks(INVERTED.0, 64) >= self.many_blocks;
        let (across, part) = match stem {
            Some(_) => (16, 16),
            None => (INVERTED.0, if fills && !wastes { 64 } else { 32 }),
        };
        let kernel = match (size, stride, part) {
            (3, 2, 16) => Kernel::Stem,
            (5, 1, 64) => Kernel::Inverted5x1x64,
            (5, 1, 32) => Kernel::Inverted5x1x32,
            (5, 2, 64) => Kernel::Inverted5x2x64,
            (5, 2, 32) => Kernel::Inverted5x2x32,
            _ => unreachable!("no layer of the network has another kernel"),
        };
        let seen = seen(across, size, stride);
        let halves = (seen + taps + padded(squeezed)) * part + 8 * seen + (part + seen) * (widen.inputs + 8);
        // Those that make the factors come last: they wait for the others. Devices start blocks in their order, so that all of
        // the others get a place; where these are fewer than a device takes at once, any order would do.
        let more = self.images * channels.div_ceil(part);
        let launch = Launch::new(kernel, [blocks(across, part) + more, 1, 1], 128, arguments);
        self.launches.push(launch.with_shared(halves * size_of::<f16>()));
        Ok((out, arguments.factors))
    }

    /// A matrix as tiles of 16x16, each as the lanes of a warp put it into the tensor cores: all of its first 16 inputs or
    /// outputs first.
    fn tiles(&mut self, filter: &Filter, by_inputs: bool) -> Result<Address, MachineError> {
        let [outputs, inputs, ..] = filter.shape;
        let (down, across) = (outputs.div_ceil(16), inputs.div_ceil(16));
        self.constant(|| {
            let mut values = vec![f16::ZERO; padded(outputs) * padded(inputs)];
            for (i, value) in values.iter_mut().enumerate() {
                let (tile, lane, half) = (i / 256, i / 8 % 32, i % 8);
                // Lane 4 g + t has pairs of row g and row g + 8 from column 2 t, and those from column 2 t + 8.
                let (row, column) = if by_inputs { (tile % down, tile / down) } else { (tile / across, tile % across) };
                let row = row * 16 + lane / 4 + half / 2 % 2 * 8;
                let column = column * 16 + lane % 4 * 2 + half / 4 * 8 + half % 2;
                if row < outputs && column < inputs {
                    *value = f16::from_f32(filter.weight[row * inputs + column]);
                }
            }
            values
        })
    }

    /// The weights of a chain's stage, by chunks of inputs, as the kernel has them in shared memory.
    fn chunks<F: Borrow<Filter>>(&mut self, make: impl FnOnce() -> F) -> Result<Address, MachineError> {
        self.constant(|| {
            let made = make();
            let filter: &Filter = made.borrow();
            let [outputs, inputs, ..] = filter.shape;
            assert!(outputs == CHAIN.channels && inputs % CHAIN.channels == 0, "the kernel is made for them");
            assert!(filter.bias.is_empty(), "the decoder has no biases there");
            let mut values = vec![f16::ZERO; outputs * inputs];
            for (i, value) in filter.weight.iter().enumerate() {
                let (output, input) = (i / inputs, i % inputs);
                let (chunk, eight) = (input / CHAIN.chunk, input % CHAIN.chunk / 8);
                let line = (chunk * outputs + output) * CHAIN.chunk;
                values[line + (eight ^ (output / 2 % 4)) * 8 + input % 8] = f16::from_f32(*value);
            }
            values
        })
    }

    /// Chained residual pooling, and the projection that follows it, `adapt`, if one does: a kernel a stage. The last
    /// projection and `adapt` are one product: of the sum so far and of the last maxima.
    fn chain(
        &mut self,
        input: Map,
        projections: &[Filter],
        adapt: Option<&Filter>,
        planes: bool,
    ) -> Result<Map, MachineError> {
        let Map { height, width, channels, .. } = input;
        assert_eq!(channels, CHAIN.channels, "the kernel is made for them");
        let sum = self.map(height, width, channels)?;
        // A stage writes beside what it reads.
        let tops = [self.map(height, width, channels)?, self.map(height, width, channels)?];
        let (last, before) = projections.split_last().expect("a chain has stages");
        let mut arguments = twin::Chain {
            top: input.at,
            sum_in: 0,
            sum_out: sum.at,
            weight: 0,
            out: 0,
            size: size_of_map(&input),
            outputs: channels as i32,
            stages: 0,
            planes: 0,
        };
        for (stage, filter) in before.iter().enumerate() {
            arguments.weight = self.chunks(|| filter)?;
            arguments.out = tops[stage % 2].at;
            self.stage(arguments, false);
            (arguments.top, arguments.sum_in) = (arguments.out, sum.at);
        }
        let out = self.map(height, width, channels)?;
        arguments.weight = self.chunks(|| match adapt {
            Some(adapt) => followed(last, adapt),
            None => followed(last, &unchanged(channels)),
        })?;
        arguments.out = out.at;
        arguments.planes = i32::from(planes);
        self.stage(arguments, true);
        Ok(out)
    }

    /// A stage of a chain. The fewer blocks, the smaller they are.
    fn stage(&mut self, arguments: twin::Chain, is_last: bool) {
        let [height, width] = arguments.size.map(|n| n as usize);
        let grid = |across: usize, outputs: usize| {
            let slices = CHAIN.channels / outputs;
            [width.div_ceil(across), height.div_ceil(CHAIN.height), self.images * slices]
        };
        let count = |across, outputs| grid(across, outputs).iter().product::<usize>();
        // Large blocks pool every pixel once: they may leave a third of the machine idle.
        let (across, outputs) = if 3 * count(16, 256) >= 2 * self.many_blocks {
            (16, 256)
        } else if count(8, 64) >= self.many_blocks {
            (8, 64)
        } else {
            (8, 32)
        };
        let kernel = match (outputs, is_last) {
            (256, false) => Kernel::Chain256,
            (256, true) => Kernel::Chain256Last,
            (64, false) => Kernel::Chain64,
            (64, true) => Kernel::Chain64Last,
            (_, false) => Kernel::Chain32,
            (_, true) => Kernel::Chain32Last,
        };
        let inputs = if is_last { 2 * CHAIN.channels } else { CHAIN.channels };
        let maxima = CHAIN.height * (across + 4) * CHAIN.channels;
        let left = CHAIN.height * across * (inputs + 8);
        let room = maxima.max(left) * size_of::<f16>();
        let chunk = outputs * CHAIN.chunk * size_of::<f16>();
        let stages = if outputs < 256 {
            inputs / CHAIN.chunk
        } else {
            // A block of the next stage has room beside one of this stage, and its weights come meanwhile.
            let beside = if is_last { self.shared } else { (self.shared / 2).saturating_sub(1 << 10) };
            (beside.saturating_sub(room) / chunk).clamp(if is_last { 2 } else { 3 }, CHAIN.stages)
        };
        let arguments = twin::Chain { stages: stages as i32, ..arguments };
        let grid = grid(across, outputs);
        self.launches.push(Launch::new(kernel, grid, 256, arguments).with_shared(room + stages * chunk));
    }

    fn quarter(&mut self, block1: Map, eighth: Map, conv6: &[f32], scales: &[Vec<f32>]) -> Result<Map, MachineError> {
        assert_eq!((block1.channels, scales.len()), (16, CRP_STAGES), "the kernel is made for them");
        let is_half = |small: usize, large: usize| small == large.div_ceil(2);
        assert!(is_half(eighth.width, block1.width) && is_half(eighth.height, block1.height), "and for twice the size");
        let out = self.map(block1.height, block1.width, eighth.channels)?;
        let (conv6, scales) = (self.constant(|| conv6.to_vec())?, self.constant(|| scales.concat())?);
        let deep = self.images * out.channels / 8;
        let (kernel, shared, across, strip) = quarter_blocks(&out, deep, self.many_blocks);
        let arguments = twin::Quarter {
            block1: block1.at,
            eighth: eighth.at,
            conv6,
            scales,
            out: out.at,
            size: size_of_map(&block1),
            small: size_of_map(&eighth),
            channels: eighth.channels as i32,
            strip: strip as i32,
        };
        let grid = [across, out.height.div_ceil(strip), deep];
        self.launches.push(Launch::new(kernel, grid, QUARTER_THREADS, arguments).with_shared(shared));
        Ok(out)
    }

    /// Answers of all heads, single precision, `[image][height][width][channels]`, and of each pixel the greatest of its
    /// scores.
    fn heads(
        &mut self,
        input: Map,
        heads: &[HeadParts],
        (answer, best): (Address, Address),
    ) -> Result<(), MachineError> {
        let answer_channels: usize = heads.iter().map(|h| h.bias.len()).sum();
        let channels = input.channels.next_multiple_of(HEAD_CHUNK);
        let blocks = |rows: usize| [input.width.div_ceil(16), input.height.div_ceil(2 * rows), self.images];
        let cost = |&(rows, ..): &(usize, usize, Kernel)| {
            // What a block takes, whatever its rows, in rows of a group.
            const BLOCK: usize = 2;
            blocks(rows).iter().product::<usize>().div_ceil(self.many_blocks) * (rows + BLOCK)
        };
        let (rows, pixels, kernel) = HEAD_ROWS.into_iter().min_by_key(cost).expect("there are some");
        let grid = blocks(rows);
        let shared = |heads: &[HeadParts]| {
            let tiles: usize = heads.iter().map(|h| h.bias.len().div_ceil(8)).sum();
            let map = (1 + heads.len()) * pixels * HEAD_CHUNK * size_of::<f16>();
            map + 2 * tiles * 8 * 9 * HEAD_CHUNK * size_of::<f16>() + heads.len() * channels * 2 * size_of::<f16>()
        };
        let (mut rest, mut first) = (heads, 0);
        while !rest.is_empty() {
            let pair = rest.len().min(HEADS_AT_ONCE);
            let (now, later) = rest.split_at(if shared(&rest[..pair]) <= HEADS_SHARED { pair } else { 1 });
            let mut twins = [twin::Head::default(); HEADS_AT_ONCE];
            for (twin, head) in twins.iter_mut().zip(now) {
                let outputs = head.bias.len();
                let pre = self.constant(|| head_factors(head, channels))?;
                let weight = self.constant(|| head_weights(head, input.channels, channels))?;
                let bias = self.constant(|| head.bias.clone())?;
                *twin = twin::Head { pre, weight, bias, outputs: outputs as i32, first };
                first += outputs as i32;
            }
            let arguments = twin::Heads {
                input: input.at,
                answer,
                best: if now[0].is_scores { best } else { 0 },
                size: size_of_map(&input),
                channels: input.channels as i32,
                answer_channels: answer_channels as i32,
                head: twins,
            };
            self.launches.push(Launch::new(kernel, grid, HEADS_THREADS, arguments).with_shared(shared(now)));
            rest = later;
        }
        Ok(())
    }

    /// Corrects the depth's code in all answers; `answer` is `[image][height][width][channels]`, single precision.
    fn refine(&mut self, parts: &RefinementParts, answer: Map) -> Result<(), MachineError> {
        let Map { height, width, channels, .. } = answer;
        let classes = parts.classes.shape[1];
        assert_eq!(
            (parts.rings.len(), parts.classes.shape[0]),
            (RINGS, REFINE_CHANNELS),
            "the kernels are made for them"
        );
        let grid = [width.div_ceil(REFINE_ACROSS), height, self.images];
        let bytes = self.images * height * width * REFINE_CHANNELS * size_of::<f32>();
        let [mut from, mut to] = [self.room(bytes)?, self.room(bytes)?];
        let start = twin::RefineStart {
            answer: answer.at,
            bias: self.constant(|| parts.classes.bias.clone())?,
            score: self.constant(|| by_places(&parts.classes))?,
            ring: self.constant(|| parts.rings.iter().flat_map(|(_, filter)| by_places(filter)).collect::<Vec<_>>())?,
            out: from,
            size: size_of_map(&answer),
            channels: channels as i32,
            classes: classes as i32,
            reach: std::array::from_fn(|i| parts.rings[i].0 as i32),
        };
        self.launches.push(Launch::new(Kernel::RefineStart, grid, REFINE_THREADS, start));
        for (dilation, filter) in &parts.blocks {
            let block = twin::RefineBlock {
                input: from,
                bias: self.constant(|| filter.bias.clone())?,
                weight: self.constant(|| by_places(filter))?,
                out: to,
                size: size_of_map(&answer),
                dilation: *dilation as i32,
            };
            self.launches.push(Launch::new(Kernel::RefineBlock, grid, REFINE_THREADS, block));
            std::mem::swap(&mut from, &mut to);
        }
        let last = twin::RefineLast {
            input: from,
            weight: self.constant(|| by_places(&parts.last))?,
            answer: answer.at,
            bias: parts.last.bias[0],
            size: size_of_map(&answer),
            channels: channels as i32,
            classes: classes as i32,
        };
        self.launches.push(Launch::new(Kernel::RefineLast, grid, REFINE_ACROSS as u32, last));
        Ok(())
    }
}

/// A filter's weights as `[row][column][input][output]`.
fn by_places(filter: &Filter) -> Vec<f32> {
    let [outputs, inputs, height, width] = filter.shape;
    let (places, mut values) = (height * width, Vec::with_capacity(filter.weight.len()));
    for place in 0..places {
        for input in 0..inputs {
            values.extend((0..outputs).map(|output| filter.weight[(output * inputs + input) * places + place]));
        }
    }
    values
}

/// Sixths of a head's factors: of eight channels the nearest in half precision, and what is left.
fn head_factors(head: &HeadParts, channels: usize) -> Vec<f16> {
    let mut values = vec![f16::ZERO; 2 * channels];
    for (values, factors) in values.chunks_exact_mut(16).zip(head.pre.chunks(8)) {
        for (i, factor) in factors.iter().enumerate() {
            values[i] = f16::from_f32(factor / 6.0);
            values[i + 8] = f16::from_f32(factor / 6.0 - values[i].to_f32());
        }
    }
    values
}

/// A head's weights in the order in which the tensor cores take them: of 32 channels, of half of them, of a column and a row
/// of the filter, of eight outputs, of a lane. They are six times as large, as what they are multiplied with is a sixth.
fn head_weights(head: &HeadParts, inputs: usize, channels: usize) -> Vec<f16> {
    let outputs = head.bias.len();
    let mut values = Vec::with_capacity(outputs.next_multiple_of(8) * 9 * channels);
    for half in 0..channels / 16 {
        for tap in 0..9 {
            // The filter has its rows first.
            let tap = tap % 3 * 3 + tap / 3;
            for i in 0..outputs.div_ceil(8) * 128 {
                let (tile, lane, k) = (i / 128, i / 4 % 32, i % 4);
                let output = tile * 8 + lane / 4;
                let input = half * 16 + lane % 4 * 2 + k % 2 + k / 2 * 8;
                let is_there = output < outputs && input < inputs;
                let weight = if is_there { 6.0 * head.weight[(output * inputs + input) * 9 + tap] } else { 0.0 };
                values.push(f16::from_f32(weight));
            }
        }
    }
    values
}

/// How `quarter` is divided: its kernel with its shared memory, blocks of a row, rows of a block. A multiprocessor has one
/// block at a time.
fn quarter_blocks(out: &Map, deep: usize, many_blocks: usize) -> (Kernel, usize, usize, usize) {
    // Turns that a block takes more than it has rows to go through, and what a turn takes, whatever its columns, in columns
    // of a lane.
    const MORE_TURNS: usize = 3;
    const TURN: usize = 1;
    let across = |columns: usize| 1 + out.width.saturating_sub(32 * columns).div_ceil(32 * columns - 2 * QUARTER_HALO);
    let most_strips = out.height.div_ceil(QUARTER_HALO);
    let ways = QUARTER.iter().flat_map(|of| (1..=most_strips).map(move |strips| (of, out.height.div_ceil(strips))));
    let cost = |&((columns, ..), strip): &(&(usize, Kernel, usize), usize)| {
        let strips = out.height.div_ceil(strip);
        let waves = (across(*columns) * strips * deep).div_ceil(many_blocks);
        let rows = strip + if strips > 1 { 2 * QUARTER_HALO } else { QUARTER_HALO };
        waves * (rows.div_ceil(2) + MORE_TURNS) * (columns + TURN)
    };
    let (&(columns, kernel, shared), strip) = ways.min_by_key(cost).expect("a map has rows");
    (kernel, shared, across(columns), strip)
}

/// A head's weights in host memory.
#[derive(Debug)]
struct HeadParts {
    /// Whether the greatest of its outputs is looked for.
    is_scores: bool,
    pre: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// `[adapt, adapt last]`: what `adapt` makes of `sum + last(pooled)`, of `sum` and `pooled`.
fn followed(last: &Filter, adapt: &Filter) -> Filter {
    let [outputs, inner, ..] = adapt.shape;
    let inputs = last.shape[1];
    let mut weight = Vec::with_capacity(outputs * (inner + inputs));
    for line in adapt.weight.chunks_exact(inner) {
        weight.extend_from_slice(line);
        let mut product = vec![0.0_f64; inputs];
        for (factor, row) in line.iter().zip(last.weight.chunks_exact(inputs)) {
            product.iter_mut().zip(row).for_each(|(p, w)| *p += f64::from(*factor) * f64::from(*w));
        }
        weight.extend(product.into_iter().map(|p| p as f32));
    }
    Filter { shape: [outputs, inner + inputs, 1, 1], weight, bias: Vec::new() }
}

/// A projection that changes nothing.
fn unchanged(channels: usize) -> Filter {
    let weight = (0..channels * channels).map(|i| if i % (channels + 1) == 0 { 1.0 } else { 0.0 }).collect();
    Filter { shape: [channels, channels, 1, 1], weight, bias: Vec::new() }
}

/// What is laid out.
#[derive(Debug)]
pub(super) struct Weights {
    trunk: TrunkParts,
    quarter: Option<(Vec<f32>, Vec<Vec<f32>>)>,
    /// In the order of the packed answer.
    heads: Vec<HeadParts>,
    refinement: Option<RefinementParts>,
}

impl Weights {
    /// # Errors
    /// In words: the kernels have no room for a head.
    pub fn new(trunk: TrunkParts, end: &EndWeights, refinement: Option<RefinementParts>) -> Result<Self, String> {
        let of = |task| end.heads.iter().find(|h| h.task == task);
        let heads: Vec<_> = ANSWERED
            .into_iter()
            .filter_map(of)
            .map(|h| HeadParts {
                is_scores: h.task == Task::Segmentation,
                pre: values(&h.pre),
                weight: values(&h.weight),
                bias: values(&h.bias),
            })
            .collect();
        if let Some(head) = heads.iter().find(|h| h.bias.len() > HEAD_OUTPUTS) {
            return Err(format!(
                "a head of at most {HEAD_OUTPUTS} channels fits its kernels, and one has {}; set backend to torchscript",
                head.bias.len()
            ));
        }
        let quarter = end.quarter.as_ref().map(|q| (values(&q.conv6), q.scales.iter().map(values).collect()));
        Ok(Self { trunk, quarter, heads, refinement })
    }

    fn answer_channels(&self) -> usize {
        self.heads.iter().map(|h| h.bias.len()).sum()
    }
}

/// The network on a machine, for batches of any size up to one.
#[derive(Debug)]
pub(super) struct Layers {
    /// `[image][height][width][4]`, half precision.
    pub input: Address,
    /// `[image][height][width][channels]`, single precision.
    pub answer: Address,
    /// `[image][height][width]`: the greatest of a pixel's scores, the first among equals.
    pub best: Address,
    /// Of one answer: height, width, channels.
    pub answer_shape: [usize; 3],
    /// Of batches of one, two, ...
    pub batches: Vec<Vec<Launch>>,
}

impl Layers {
    /// Uploads the weights and lays out every batch up to `max_batch`, for inputs of (`height`, `width`) and for a machine
    /// of this capacity.
    ///
    /// # Errors
    /// The machine has no memory.
    pub fn new<M: Machine>(
        machine: &M,
        weights: &Weights,
        (height, width): (usize, usize),
        max_batch: usize,
        capacity: Capacity,
    ) -> Result<Self, MachineError> {
        let Capacity { blocks: many_blocks, shared } = capacity;
        let mut arena = Arena::default();
        let stride = if weights.quarter.is_some() { 4 } else { 8 };
        let answer_shape = [height.div_ceil(stride), width.div_ceil(stride), weights.answer_channels()];
        let mut layers = Self { input: 0, answer: 0, best: 0, answer_shape, batches: Vec::new() };
        for images in (1..=max_batch).rev() {
            arena.next = 0;
            let is_again = images < max_batch;
            let mut builder =
                Builder { machine, arena: &mut arena, is_again, images, many_blocks, shared, launches: Vec::new() };
            let input = builder.map(height, width, 4)?;
            let answer = builder.room(images * answer_shape.iter().product::<usize>() * size_of::<f32>())?;
            let best = builder.room(images * answer_shape[0] * answer_shape[1])?;
            (layers.input, layers.answer, layers.best) = (input.at, answer, best);
            lay_out(&mut builder, weights, input, (answer, best))?;
            let launches = builder.launches;
            layers.batches.insert(0, launches);
        }
        Ok(layers)
    }
}

fn lay_out<M: Machine>(
    b: &mut Builder<'_, M>,
    weights: &Weights,
    input: Map,
    answers: (Address, Address),
) -> Result<(), MachineError> {
    let Weights { trunk, quarter, heads, refinement } = weights;
    let mut y = input;
    let mut outputs = Vec::with_capacity(trunk.blocks.len());
    for (i, parts) in trunk.blocks.iter().enumerate() {
        y = b.block(y, (i == 0).then_some(&trunk.stem), parts)?;
        outputs.push(y);
    }
    let block = |i: usize| outputs[i - 1];
    let decoder = &trunk.decoder;
    let pair = |a, second| (a, Some(second));
    let sources = [pair(block(10), block(11)), pair(block(7), block(8)), (block(3), None)];
    let adapts = [Some(&decoder.adapt[0]), Some(&decoder.adapt[1]), decoder.adapt_quarter.as_ref()];
    let mut enlarged = None;
    for (level, (((source, filter), projections), adapt)) in
        sources.into_iter().zip(&decoder.inputs).zip(&decoder.chains).zip(adapts).enumerate()
    {
        let (first, second) = source;
        let dense = b.dense(filter, if second.is_some() { 2 } else { 1 })?;
        let map = b.product(first, second, dense, With { enlarged, ..With::act(Act::Relu6) })?;
        enlarged = Some(b.chain(map, projections, adapt, level == 2)?);
    }
    let eighth = enlarged.expect("the decoder has three levels");
    let map = match quarter {
        Some((conv6, scales)) => b.quarter(block(1), eighth, conv6, scales)?,
        None => eighth,
    };
    b.heads(map, heads, answers)?;
    match refinement {
        Some(parts) => b.refine(parts, Map { at: answers.0, channels: weights.answer_channels(), ..map }),
        None => Ok(()),
    }
}

/// Single precision `[pixel][3]` at `from` -> the network's input.
pub(super) fn narrow(from: Address, to: Address, pixels: usize) -> Launch {
    let arguments = twin::Narrow { input: from, out: to, pixels: pixels as i32 };
    Launch::each(Kernel::Narrow, pixels, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Keeps what it is given.
    #[derive(Debug, Default)]
    struct Ledger {
        allocated: RefCell<Address>,
        uploads: RefCell<Vec<(Address, Vec<u8>)>>,
    }

    impl Machine for Ledger {
        fn allocate(&self, bytes: usize) -> Result<Address, MachineError> {
            Ok(self.allocated.replace_with(|next| *next + bytes as Address))
        }

        fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), MachineError> {
            self.uploads.borrow_mut().push((to, bytes.to_vec()));
            Ok(())
        }

        fn launch(&self, _: &Launch) -> Result<(), MachineError> {
            unreachable!("nothing is laid out")
        }
    }

    #[test]
    fn weights_are_made_once_for_all_batches() {
        let (machine, mut arena, mut made) = (Ledger::default(), Arena::default(), 0);
        let mut places = Vec::new();
        for is_again in [false, true, true] {
            arena.next = 0;
            let (arena, launches) = (&mut arena, Vec::new());
            let mut b = Builder { machine: &machine, arena, is_again, images: 1, many_blocks: 1, shared: 0, launches };
            let mut constant = |values: [f32; 2]| {
                let make = || {
                    made += 1;
                    values.to_vec()
                };
                b.constant(make).expect("memory")
            };
            places.push([constant([1.0, 2.0]), constant([3.0, 4.0])]);
        }
        assert_eq!((places, made), (vec![[0, 8]; 3], 2));
        let bytes = |values: [f32; 2]| values.as_bytes().to_vec();
        assert_eq!(*machine.uploads.borrow(), [(0, bytes([1.0, 2.0])), (8, bytes([3.0, 4.0]))]);
    }
}

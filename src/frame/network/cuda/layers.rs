//! The folded network as a list of kernels.
//!
//! Weights and maps are half precision, sums single precision. Channels are padded to a multiple of 16 with zeros: all
//! weights that meet them are zero, and every activation here leaves zero as it is.

use super::machine::{bytes_of, Address, Kernel, Launch, Machine, MachineError};
use crate::export::trace::ANSWERED;
use crate::model::parts::{values, Activation, BlockParts, Filter, TrunkParts};
use crate::model::{EndWeights, Task, CRP_STAGES};
use half::f16;

/// The most outputs of a head.
pub(super) const HEAD_OUTPUTS: usize = 32;
/// The most heads that one kernel makes, its rows of a group with the pixels that a block of two groups sees, its threads,
/// the channels that come at once, and the shared memory that every device has for a block.
const HEADS_AT_ONCE: usize = 2;
const HEAD_ROWS: [(usize, usize, Kernel); 2] = [(3, 18 * 8, Kernel::Heads3), (7, 18 * 16, Kernel::Heads7)];
const HEADS_THREADS: u32 = 256;
const HEAD_CHUNK: usize = 32;
const HEADS_SHARED: usize = 99 << 10;
/// The most channels that squeeze-and-excitation has room for.
const EXCITE_CHANNELS: usize = 576;
/// Bytes of a row of a product's tile in shared memory, and of inputs that come at once, and how many of these chunks.
const PRODUCT: (usize, usize, usize) = (144, 64, 4);
/// `stem`'s pixels of a block, and its threads.
const STEM: (usize, u32) = (128, 128);
/// `quarter`'s columns of a lane, its kernel, and the shared memory of a block.
const QUARTER: [(usize, Kernel, usize); 2] = [(4, Kernel::Quarter4, 43008), (8, Kernel::Quarter8, 87040)];
const QUARTER_THREADS: u32 = 384;
/// What `quarter` sees of a map beyond a block's part of the answer, at each side.
const QUARTER_HALO: usize = 8;

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

/// Twins of the structures in `kernels.cu`, in its order.
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
    pub struct Stem {
        pub input: Address,
        pub out: Address,
        pub weight: Address,
        pub bias: Address,
        pub size: [i32; 2],
        pub out_size: [i32; 2],
        pub images: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Depthwise {
        pub input: Address,
        pub out: Address,
        pub weight: Address,
        pub bias: Address,
        pub sums: Address,
        pub size: [i32; 2],
        pub out_size: [i32; 2],
        pub channels: i32,
        pub stride: i32,
        pub act: i32,
        pub per_block: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Excite {
        pub sums: Address,
        pub weight1: Address,
        pub bias1: Address,
        pub weight2: Address,
        pub bias2: Address,
        pub factors: Address,
        pub channels: i32,
        pub squeezed: i32,
        pub pixels: i32,
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
        pub rows: i32,
        pub outputs: i32,
        pub a_channels: i32,
        pub b_channels: i32,
        pub act: i32,
        pub size: [i32; 2],
        pub small: [i32; 2],
        pub planes: i32,
    }

    #[repr(C)]
    #[derive(Debug, Clone, Copy)]
    pub struct Pool {
        pub top: Address,
        pub sum_in: Address,
        pub pooled: Address,
        pub sum_out: Address,
        pub size: [i32; 2],
        pub channels: i32,
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

/// What a product may have beside its sources and weights.
#[derive(Debug, Clone, Copy)]
struct With {
    factors: Address,
    enlarged: Option<Map>,
    add: Address,
    act: Act,
    /// Whether the answer is by planes of eight channels.
    planes: bool,
}

impl With {
    const NOTHING: Self = Self { factors: 0, enlarged: None, add: 0, act: Act::None, planes: false };

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

    fn constant<T: Copy>(&mut self, values: &[T]) -> Result<Address, MachineError> {
        let at = self.room(size_of_val(values))?;
        if !self.is_again {
            self.machine.upload(at, bytes_of(values))?;
        }
        Ok(at)
    }

    /// `of(row, column)` in rows of padded length, in half precision.
    fn matrix(
        &mut self,
        (rows, padded_rows): (usize, usize),
        (columns, padded_columns): (usize, usize),
        of: impl Fn(usize, usize) -> f32,
    ) -> Result<Address, MachineError> {
        let mut values = vec![f16::ZERO; padded_rows * padded_columns];
        for (row, out) in values.chunks_exact_mut(padded_columns).take(rows).enumerate() {
            for (column, out) in out.iter_mut().take(columns).enumerate() {
                *out = f16::from_f32(of(row, column));
            }
        }
        self.constant(&values)
    }

    /// Single precision, padded with zeros.
    fn vector(&mut self, values: &[f32], length: usize) -> Result<Address, MachineError> {
        let mut values = values.to_vec();
        values.resize(length, 0.0);
        self.constant(&values)
    }

    /// Of inputs that come from `parts` maps of as many channels each.
    fn dense(&mut self, filter: &Filter, parts: usize) -> Result<Dense, MachineError> {
        let [outputs, inputs, ..] = filter.shape;
        let (each, padded_outputs) = (inputs / parts, padded(outputs));
        let padded_each = padded(each);
        let mut values = vec![f16::ZERO; padded_outputs * parts * padded_each];
        for (o, line) in filter.weight.chunks_exact(inputs).enumerate() {
            for (i, value) in line.iter().enumerate() {
                values[(o * parts + i / each) * padded_each + i % each] = f16::from_f32(*value);
            }
        }
        let weight = self.constant(&values)?;
        let bias = if filter.bias.is_empty() { 0 } else { self.vector(&filter.bias, padded_outputs)? };
        Ok(Dense { weight, bias, outputs: padded_outputs, inputs: parts * padded_each })
    }

    /// A product of one or two maps of one size.
    fn product(&mut self, a: Map, b: Option<Map>, dense: Dense, with: With) -> Result<Map, MachineError> {
        let out = self.map(a.height, a.width, dense.outputs)?;
        self.product_into(out, a, b, dense, with);
        Ok(out)
    }

    fn product_into(&mut self, out: Map, a: Map, b: Option<Map>, dense: Dense, with: With) {
        let b_channels = b.map_or(0, |b| b.channels);
        assert_eq!(a.channels + b_channels, dense.inputs, "the weights are of these maps");
        let rows = self.images * a.pixels();
        let arguments = twin::Product {
            a: a.at,
            b: b.map_or(0, |b| b.at),
            weight: dense.weight,
            bias: dense.bias,
            factors: with.factors,
            enlarged: with.enlarged.map_or(0, |map| map.at),
            add: with.add,
            out: out.at,
            rows: rows as i32,
            outputs: dense.outputs as i32,
            a_channels: a.channels as i32,
            b_channels: b_channels as i32,
            act: with.act as i32,
            size: size_of_map(&a),
            small: with.enlarged.map_or([1, 1], |map| size_of_map(&map)),
            planes: i32::from(with.planes),
        };
        let blocks = |side: usize| [rows.div_ceil(side), dense.outputs.div_ceil(side), 1];
        let side = if blocks(64).iter().product::<usize>() >= self.many_blocks { 64 } else { 32 };
        let kernel = match (side, with.factors != 0, with.enlarged.is_some()) {
            (64, false, false) => Kernel::Product64,
            (64, true, false) => Kernel::Product64Factors,
            (64, false, true) => Kernel::Product64Enlarged,
            (_, false, false) => Kernel::Product32,
            (_, true, false) => Kernel::Product32Factors,
            (_, false, true) => Kernel::Product32Enlarged,
            (_, true, true) => unreachable!("no layer of the network has both"),
        };
        let (pitch, chunk, most) = PRODUCT;
        let chunks = dense.inputs.div_ceil(chunk).min(most);
        let shared = chunks * 2 * side * pitch;
        self.launches.push(Launch::new(kernel, blocks(side), 128, arguments).with_shared(shared));
    }

    fn stem(&mut self, input: Map, filter: &Filter) -> Result<Map, MachineError> {
        assert_eq!(filter.shape, [16, 3, 3, 3], "the stem's kernel is made for this shape");
        let out = self.map(input.height.div_ceil(2), input.width.div_ceil(2), 16)?;
        // [output][input][row][column] -> as the tensor cores take them: [row][half of the outputs][lane][input]. A lane's
        // place in four is a column. A fourth column and a fourth input weigh nothing.
        let of = |i: usize| {
            let (row, half, lane, input) = (i / 256, i / 128 % 2, i / 4 % 32, i % 4);
            let (output, column) = (half * 8 + lane / 4, lane % 4);
            let is_there = column < 3 && input < 3;
            if is_there {
                filter.weight[output * 27 + input * 9 + row * 3 + column]
            } else {
                0.0
            }
        };
        let rest = |weight: f32| weight - f16::from_f32(weight).to_f32();
        let weights = || (0..3 * 256).map(of);
        let weight: Vec<f16> = weights().chain(weights().map(rest)).map(f16::from_f32).collect();
        let (weight, bias) = (self.constant(&weight)?, self.vector(&filter.bias, 16)?);
        let arguments = twin::Stem {
            input: input.at,
            out: out.at,
            weight,
            bias,
            size: size_of_map(&input),
            out_size: size_of_map(&out),
            images: self.images as i32,
        };
        let grid = [(self.images * out.pixels()).div_ceil(STEM.0), 1, 1];
        self.launches.push(Launch::new(Kernel::Stem, grid, STEM.1, arguments));
        Ok(out)
    }

    fn block(&mut self, input: Map, parts: &BlockParts) -> Result<Map, MachineError> {
        let act = Act::from(parts.activation);
        let wide = match &parts.expand {
            Some(filter) => {
                let dense = self.dense(filter, 1)?;
                self.product(input, None, dense, With::act(act))?
            }
            None => input,
        };
        let (deep, factors) = self.depthwise(wide, parts, act)?;
        let dense = self.dense(&parts.project, 1)?;
        let add = if parts.residual { input.at } else { 0 };
        self.product(deep, None, dense, With { factors, add, ..With::NOTHING })
    }

    /// The depthwise convolution, and the factors of squeeze-and-excitation (0: none).
    fn depthwise(&mut self, input: Map, parts: &BlockParts, act: Act) -> Result<(Map, Address), MachineError> {
        const THREADS: usize = 256;
        let [own, _, size, _] = parts.depthwise.shape;
        let (channels, taps) = (input.channels, size * size);
        let out = self.map(input.height.div_ceil(parts.stride), input.width.div_ceil(parts.stride), channels)?;
        let weights = &parts.depthwise.weight;
        let weight = self.matrix((taps, taps), (own, channels), |tap, channel| weights[channel * taps + tap])?;
        let bias = self.vector(&parts.depthwise.bias, channels)?;
        let lanes = THREADS / (channels / 8);
        // More than one pixel a thread where there are more than enough of them: fewer sums to add.
        let rounds = (out.pixels() / (lanes * 8 * self.many_blocks)).max(1);
        let per_block = lanes * rounds;
        let blocks = out.pixels().div_ceil(per_block);
        let sums = match parts.squeeze {
            Some(_) => self.room(self.images * channels * size_of::<u64>())?,
            None => 0,
        };
        let arguments = twin::Depthwise {
            input: input.at,
            out: out.at,
            weight,
            bias,
            sums,
            size: size_of_map(&input),
            out_size: size_of_map(&out),
            channels: channels as i32,
            stride: parts.stride as i32,
            act: act as i32,
            per_block: per_block as i32,
        };
        let kernel = if size == 3 { Kernel::Depthwise3 } else { Kernel::Depthwise5 };
        self.launches.push(Launch::new(kernel, [blocks, self.images, 1], THREADS as u32, arguments));
        let Some([first, second]) = &parts.squeeze else { return Ok((out, 0)) };
        let squeezed = first.shape[0];
        assert!(channels <= EXCITE_CHANNELS && squeezed % 8 == 0 && squeezed <= 256, "excite has room for them");
        // By eight inputs, so that threads beside each other read what lies beside each other.
        let by_eights = |inputs: usize, outputs: usize, of: &dyn Fn(usize, usize) -> f32| -> Vec<f16> {
            let at = |i: usize| (i / 8 % outputs, i / 8 / outputs * 8 + i % 8);
            (0..inputs * outputs).map(at).map(|(output, input)| f16::from_f32(of(output, input))).collect()
        };
        let of_first = |j: usize, c: usize| if c < own { first.weight[j * own + c] } else { 0.0 };
        let of_second = |c: usize, j: usize| if c < own { second.weight[c * squeezed + j] } else { 0.0 };
        let weight1 = self.constant(&by_eights(channels, squeezed, &of_first))?;
        let weight2 = self.constant(&by_eights(squeezed, channels, &of_second))?;
        let (bias1, bias2) = (self.vector(&first.bias, squeezed)?, self.vector(&second.bias, channels)?);
        // A product reads a chunk of inputs too many, and multiplies zeros with them.
        let factors = self.room((self.images * channels + PRODUCT.1) * size_of::<f32>())?;
        let arguments = twin::Excite {
            sums,
            weight1,
            bias1,
            weight2,
            bias2,
            factors,
            channels: channels as i32,
            squeezed: squeezed as i32,
            pixels: out.pixels() as i32,
        };
        self.launches.push(Launch::new(Kernel::Excite, [self.images, 1, 1], 1024, arguments));
        Ok((out, factors))
    }

    /// Chained residual pooling, and the projection that follows it, `adapt`, if one does. The last projection and `adapt`
    /// are one product: of the sum so far and of the last maxima.
    fn chain(
        &mut self,
        input: Map,
        projections: &[Filter],
        adapt: Option<&Filter>,
        planes: bool,
    ) -> Result<Map, MachineError> {
        let Map { height, width, channels, .. } = input;
        let pooled = self.map(height, width, channels)?;
        let sums = [self.map(height, width, channels)?, self.map(height, width, channels)?];
        let top = self.map(height, width, channels)?;
        let (last, before) = projections.split_last().expect("a chain has stages");
        let mut at = input;
        for stage in 0..projections.len() {
            let sum_in = if stage == 0 { 0 } else { sums[(stage - 1) % 2].at };
            let arguments = twin::Pool {
                top: at.at,
                sum_in,
                pooled: pooled.at,
                sum_out: sums[stage % 2].at,
                size: size_of_map(&input),
                channels: channels as i32,
            };
            let grid = [width.div_ceil(16), height.div_ceil(8), self.images * channels / 32];
            self.launches.push(Launch::new(Kernel::Pool, grid, 256, arguments));
            if let Some(filter) = before.get(stage) {
                let dense = self.dense(filter, 1)?;
                self.product_into(top, pooled, None, dense, With::NOTHING);
                at = top;
            }
        }
        let sum = sums[(projections.len() - 1) % 2];
        match adapt {
            Some(adapt) => {
                let dense = self.dense(&followed(last, adapt), 2)?;
                self.product(sum, Some(pooled), dense, With { planes, ..With::NOTHING })
            }
            None => {
                let dense = self.dense(last, 1)?;
                self.product(pooled, None, dense, With { add: sum.at, planes, ..With::NOTHING })
            }
        }
    }

    fn quarter(&mut self, block1: Map, eighth: Map, conv6: &[f32], scales: &[Vec<f32>]) -> Result<Map, MachineError> {
        assert_eq!((block1.channels, scales.len()), (16, CRP_STAGES), "the kernel is made for them");
        let is_half = |small: usize, large: usize| small == large.div_ceil(2);
        assert!(is_half(eighth.width, block1.width) && is_half(eighth.height, block1.height), "and for twice the size");
        let out = self.map(block1.height, block1.width, eighth.channels)?;
        let (conv6, scales) = (self.constant(conv6)?, self.constant(&scales.concat())?);
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
                let pre = self.constant(&head_factors(head, channels))?;
                let weight = self.constant(&head_weights(head, input.channels, channels))?;
                let bias = self.constant(&head.bias)?;
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

/// What is laid out.
#[derive(Debug)]
pub(super) struct Weights {
    trunk: TrunkParts,
    quarter: Option<(Vec<f32>, Vec<Vec<f32>>)>,
    /// In the order of the packed answer.
    heads: Vec<HeadParts>,
}

impl Weights {
    /// # Errors
    /// In words: the kernels have no room for a head.
    pub fn new(trunk: TrunkParts, end: &EndWeights) -> Result<Self, String> {
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
                "a head of at most {HEAD_OUTPUTS} channels fits its kernels, and one has {}",
                head.bias.len()
            ));
        }
        let quarter = end.quarter.as_ref().map(|q| (values(&q.conv6), q.scales.iter().map(values).collect()));
        Ok(Self { trunk, quarter, heads })
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
    /// that works on so many blocks at once.
    ///
    /// # Errors
    /// The machine has no memory.
    pub fn new<M: Machine>(
        machine: &M,
        weights: &Weights,
        (height, width): (usize, usize),
        max_batch: usize,
        many_blocks: usize,
    ) -> Result<Self, MachineError> {
        let mut arena = Arena::default();
        let stride = if weights.quarter.is_some() { 4 } else { 8 };
        let answer_shape = [height.div_ceil(stride), width.div_ceil(stride), weights.answer_channels()];
        let mut layers = Self { input: 0, answer: 0, best: 0, answer_shape, batches: Vec::new() };
        for images in (1..=max_batch).rev() {
            arena.next = 0;
            let is_again = images < max_batch;
            let mut builder =
                Builder { machine, arena: &mut arena, is_again, images, many_blocks, launches: Vec::new() };
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
    let Weights { trunk, quarter, heads } = weights;
    let mut y = b.stem(input, &trunk.stem)?;
    let mut outputs = Vec::with_capacity(trunk.blocks.len());
    for parts in &trunk.blocks {
        y = b.block(y, parts)?;
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
    b.heads(map, heads, answers)
}

/// Single precision `[pixel][3]` at `from` -> the network's input.
pub(super) fn narrow(from: Address, to: Address, pixels: usize) -> Launch {
    let arguments = twin::Narrow { input: from, out: to, pixels: pixels as i32 };
    Launch::each(Kernel::Narrow, pixels, arguments)
}

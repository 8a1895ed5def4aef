//! The network on the processor without libtorch where libtorch is slow: its 1/4 stage and heads, which do little
//! arithmetic on large maps, and all poolings. The dense convolutions are libtorch's.
//!
//! Where the time of the plain network goes on a processor: half to the 5x5 poolings, a fifth to enlarging and moving
//! answers that are as large as the input, a quarter to the convolutions. Here a map of the 1/4 stage is read once for all
//! of its poolings, and the heads' answers stay at 1/4 of the input.

mod heads;
mod pool;
mod refine;

use super::maps::Maps;
use super::{own_network, Backend, NetworkError, Precision};
use crate::cpu::simd::{Block, Level, LANES};
use crate::cpu::team::Spare;
use crate::cpu::{channels_last, values};
use crate::export::trace::ANSWERED;
use crate::export::Artifact;
use crate::model::{self, EndWeights, NumberFormat, CRP_STAGES};
use crate::panics::caught;
use heads::{head_rows, Answer, Blocked, Head, HeadScratch, TASK_ROWS};
use pool::{pool_row, pool_row_bf16, pool_row_narrowing, quarter_block, Chain, Lerp, QuarterInput, Step};
use tch::{Device, Kind, Tensor};

/// A map in memory, channels last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Image<'a> {
    height: usize,
    width: usize,
    channels: usize,
    /// `height * width * channels`.
    data: &'a [f32],
}

impl<'a> Image<'a> {
    fn row(&self, y: usize) -> &'a [f32] {
        let row = self.width * self.channels;
        &self.data[y * row..][..row]
    }
}

impl Maps {
    fn images(&self) -> impl Iterator<Item = Image<'_>> {
        let [_, height, width, channels] = self.shape();
        self.data().chunks_exact(height * width * channels).map(move |data| Image { height, width, channels, data })
    }
}

/// One pooling of a chain, see [`Pool`](model::Pool): the numbers of libtorch's, in one pass over the map. `kind`, float or
/// bfloat16, is that of the maximum, which the next product reads; the sum is in single precision.
#[allow(unsafe_code)]
fn pool(
    (level, kind): (Level, Kind),
    rooms: &Spare<Vec<f32>>,
    top: &Tensor,
    sum: Option<Tensor>,
) -> Result<(Tensor, Tensor), tch::TchError> {
    let (top, shape) = channels_last(top)?;
    let mut top = if top.kind() == Kind::BFloat16 { top } else { top.f_to_kind(Kind::Float)? };
    let is_first = sum.is_none();
    let dimensions = shape.map(|n| n as i64);
    let mut pooled = Tensor::f_empty(dimensions, (kind, Device::Cpu))?;
    let mut sum = match sum {
        // It is this chain's own, made below at the first stage.
        Some(sum) => channels_last(&sum)?.0,
        None => Tensor::f_empty(dimensions, (Kind::Float, Device::Cpu))?,
    };
    let narrow = |kind| kind == Kind::BFloat16;
    // SAFETY: each slice has the type of its tensor's number format: `top`'s and `pooled`'s are matched on (either is bfloat16
    // or float), the sum is float; `pooled` is fresh, the sum this chain's own, `top` is only read.
    unsafe {
        let sum = values::<f32>(&mut sum);
        match (narrow(top.kind()), narrow(kind)) {
            (false, false) => {
                pool_maps(shape, values(&mut top), values(&mut pooled), sum, (is_first, rooms), |step, room| {
                    pool_row(level, step, room);
                })
            }
            (false, true) => {
                pool_maps(shape, values(&mut top), values(&mut pooled), sum, (is_first, rooms), |step, room| {
                    pool_row_narrowing(level, step, room);
                })
            }
            (true, true) => {
                pool_maps(shape, values(&mut top), values(&mut pooled), sum, (is_first, rooms), |step, room| {
                    pool_row_bf16(level, step, room);
                })
            }
            (true, false) => return Err(tch::TchError::Kind("a chain does not widen on its way".into())),
        }
    }
    let back = |t: Tensor| t.f_permute([0, 3, 1, 2]);
    Ok((back(pooled)?, back(sum)?))
}

/// All rows of all maps of a batch.
fn pool_maps<A: Sync, B: Send>(
    [_, height, width, channels]: [usize; 4],
    top: &[A],
    pooled: &mut [B],
    sum: &mut [f32],
    (is_first, rooms): (bool, &Spare<Vec<f32>>),
    row: impl Fn(Step<'_, A, B>, &mut [f32]) + Sync,
) {
    let length = width * channels;
    let rows = pooled.chunks_mut(length).zip(sum.chunks_mut(length)).enumerate();
    rooms.share(rows, Vec::new, |room, (i, (pooled, sum))| {
        let top = &top[i / height * height * length..][..height * length];
        let step = Step { top, height, width, channels, y: i % height, pooled, sum, is_first };
        room.resize(length, 0.0);
        row(step, room);
    });
}

/// Weights of the 1/4 stage, by blocks of channels.
#[derive(Debug)]
struct Quarter {
    conv6: Vec<[Block; LANES]>,
    scales: Vec<[Block; CRP_STAGES]>,
}

/// What follows the trunk.
#[derive(Debug)]
struct End {
    quarter: Option<Quarter>,
    heads: Vec<Head>,
    channels: usize,
    /// From a map's size at 1/8 and 1/4 to where the rows and columns of the larger lie in the smaller.
    enlarging: Option<(Sizes, [Vec<Lerp>; 2])>,
    chains: Spare<Chain>,
    rooms: Spare<HeadScratch>,
}

/// Height and width of the smaller and of the larger map.
type Sizes = [(usize, usize); 2];

impl End {
    fn new(weights: &EndWeights) -> Result<Self, tch::TchError> {
        let values = |t: &Tensor| Vec::<f32>::try_from(t.f_flatten(0, -1)?);
        let quarter = match &weights.quarter {
            None => None,
            Some(quarter) => {
                let conv6 = values(&quarter.conv6)?;
                let scales = quarter.scales.iter().map(values).collect::<Result<Vec<_>, _>>()?;
                let blocks = conv6.len() / LANES / LANES;
                let channel = |block: usize, lane: usize| block * LANES + lane;
                let of = |block, input| std::array::from_fn(|lane| conv6[channel(block, lane) * LANES + input]);
                let factor = |block, stage: usize| std::array::from_fn(|lane| scales[stage][channel(block, lane)]);
                Some(Quarter {
                    conv6: (0..blocks).map(|b| std::array::from_fn(|input| of(b, input))).collect(),
                    scales: (0..blocks).map(|b| std::array::from_fn(|stage| factor(b, stage))).collect(),
                })
            }
        };
        // In the order of the packed answer.
        let of = |task| weights.heads.iter().find(|h| h.task == task);
        let heads = ANSWERED.into_iter().filter_map(of).map(Head::new).collect::<Result<Vec<_>, _>>()?;
        let channels = heads.iter().map(Head::outputs).sum();
        let (chains, rooms) = (Spare::default(), Spare::default());
        Ok(Self { quarter, heads, channels, enlarging: None, chains, rooms })
    }

    /// The map that the heads read, `[blocks][height][width]`.
    fn sums(&mut self, level: Level, block1: Image<'_>, eighth: Image<'_>, sums: &mut Vec<Block>) -> (usize, usize) {
        let Some(Quarter { conv6, scales }) = &self.quarter else {
            blocked(eighth, sums);
            return (eighth.height, eighth.width);
        };
        let (height, width) = (block1.height, block1.width);
        let sizes = [(eighth.height, eighth.width), (height, width)];
        self.enlarging.take_if(|(known, _)| *known != sizes);
        let axes = || [Lerp::axis(eighth.height, height), Lerp::axis(eighth.width, width)];
        let (_, [rows, columns]) = self.enlarging.get_or_insert_with(|| (sizes, axes()));
        let input = QuarterInput { block1, eighth, rows, columns, conv6, scales };
        sums.resize(conv6.len() * height * width, [0.0; LANES]);
        self.chains.share(
            sums.chunks_mut(height * width).enumerate(),
            || Chain::new(width),
            |chain, (block, sums)| {
                chain.fit(width);
                quarter_block(level, chain, input, block, sums);
            },
        );
        (height, width)
    }

    /// All heads' answers, `[height][width][channels]`.
    fn answer(&self, level: Level, map: Blocked<'_>, out: &mut [f32]) {
        let task = map.width * self.channels * TASK_ROWS;
        self.rooms.share(out.chunks_mut(task).enumerate(), HeadScratch::default, |room, (i, out)| {
            let mut channel = 0;
            for head in &self.heads {
                let answer = Answer { first: i * TASK_ROWS, channel, channels: self.channels, out };
                head_rows(level, head, map, room, answer);
                channel += head.outputs();
            }
        });
    }
}

/// Channels last -> by blocks of channels.
fn blocked(image: Image<'_>, out: &mut Vec<Block>) {
    let pixels = image.height * image.width;
    out.resize(image.channels / LANES * pixels, [0.0; LANES]);
    for (block, out) in out.chunks_exact_mut(pixels).enumerate() {
        for (out, pixel) in out.iter_mut().zip(image.data.chunks_exact(image.channels)) {
            out.copy_from_slice(&pixel[block * LANES..][..LANES]);
        }
    }
}

/// The network, ready to answer.
#[derive(Debug)]
pub(super) struct Native {
    trunk: model::Network,
    kind: Kind,
    end: End,
    refinement: Option<(refine::Refinement, refine::Room)>,
    level: Level,
    /// Rows of poolings.
    rows: Spare<Vec<f32>>,
    sums: Vec<Block>,
    answers: Vec<f32>,
}

impl Native {
    /// From the weights of a model folder. Single precision, or bfloat16 for the dense products and single precision for
    /// the rest.
    ///
    /// # Errors
    /// Another device or precision; no weights in the folder, or not those of the network that the manifest describes; or
    /// the model answers at another size than the heads' own.
    pub fn load(artifact: &Artifact, device: Device, precision: Precision) -> Result<Self, NetworkError> {
        let error = |reason: String| NetworkError::Backend { backend: Backend::Native.name(), reason };
        if device != Device::Cpu {
            return Err(error("it is for the processor; set device to cpu, or backend to auto".into()));
        }
        let kind = match precision {
            Precision::Auto | Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp16 => return Err(error("it computes in fp32 or bf16; set precision to one of them".into())),
        };
        let network = own_network(artifact).map_err(error)?;
        Self::new(&network, kind, Level::best()).map_err(|e| error(crate::causes::first_line(&e)))
    }

    fn new(network: &model::Network, kind: Kind, level: Level) -> Result<Self, tch::TchError> {
        let mut end = End::new(&network.end_weights())?;
        if kind == Kind::BFloat16 {
            end.heads.iter_mut().for_each(Head::narrow);
        }
        Ok(Self {
            trunk: network.folded(NumberFormat::Fixed(kind)),
            kind,
            end,
            refinement: network
                .refinement_parts()
                .map(|parts| (refine::Refinement::new(&parts), refine::Room::default())),
            level,
            rows: Spare::default(),
            sums: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Answers a batch `[B, 3, H, W]`: `[B, H/4, W/4, channels]` (1/8 for an extra light network).
    ///
    /// # Errors
    /// libtorch's: no memory, above all.
    pub fn run(&mut self, input: &Tensor) -> Result<(&[f32], [usize; 4]), tch::TchError> {
        let Self { trunk, kind, end, refinement, level, rows, sums, answers } = self;
        let trunk = || {
            let pool = |top: &Tensor, sum| pool((*level, *kind), rows, top, sum).unwrap_or_else(|e| panic!("{e}"));
            trunk.forward_trunk(input, *kind, &pool)
        };
        let (block1, eighth) = caught(trunk).map_err(tch::TchError::Torch)?;
        let (block1, eighth) = (Maps::new(&block1)?, Maps::new(&eighth)?);
        let batch = block1.shape()[0];
        let [_, height, width, _] = if end.quarter.is_some() { block1.shape() } else { eighth.shape() };
        let length = height * width * end.channels;
        answers.resize(batch * length, 0.0);
        let images = block1.images().zip(eighth.images());
        for ((block1, eighth), answer) in images.zip(answers.chunks_exact_mut(length)) {
            let (height, width) = end.sums(*level, block1, eighth, sums);
            end.answer(*level, Blocked { height, width, data: sums }, answer);
        }
        if let Some((refinement, room)) = refinement {
            for answer in answers.chunks_exact_mut(length) {
                refinement.refine(*level, answer, [height, width, end.channels], room);
            }
        }
        Ok((answers, [batch, height, width, end.channels]))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::export::trace::packed_heads;
    use crate::model::{seeded, NetworkConfig};
    use tch::nn::VarStore;

    /// Batch norm that is not the identity, factors of both signs, biases, so that what is left out shows.
    pub(in crate::frame::network) fn network(config: &NetworkConfig) -> model::Network {
        let vs = VarStore::new(Device::Cpu);
        let network = model::Network::new(&vs.root(), config);
        seeded::start(&vs, 7, |name| match name {
            "refinement.last.weight" => Some([-0.2, 0.2]),
            _ if name.contains("crp4") || name.contains("pre_") => Some([-0.4, 0.8]),
            _ if name.ends_with("running_mean") => Some([-0.3, 0.3]),
            _ if name.ends_with("running_var") => Some([0.5, 1.5]),
            _ if name.ends_with("bias") => Some([-0.1, 0.1]),
            _ => None,
        });
        network
    }

    pub(in crate::frame::network) fn input(batch: i64, height: i64, width: i64) -> Tensor {
        // As spread as a normalised picture.
        let spread = 3_f32.sqrt();
        seeded::uniform(3, &[batch, height, width, 3], [-spread, spread]).permute([0, 3, 1, 2])
    }

    pub(in crate::frame::network) fn largest(t: &Tensor) -> f64 {
        t.abs().max().double_value(&[])
    }

    #[test]
    fn pooling_has_libtorchs_numbers() {
        for (height, width) in [(1, 1), (1, 7), (2, 2), (3, 9), (17, 5), (8, 31)] {
            let x = input(2, height, width).repeat([1, 16, 1, 1]) - 3.0;
            let x = Tensor::cat(&[&x.narrow(1, 0, 16), &x.narrow(1, 5, 32)], 1);
            let expected = x.max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false);
            let (narrow, rooms) = (|t: &Tensor| t.to_kind(Kind::BFloat16), Spare::default());
            for level in Level::available() {
                let (found, sum) = pool((level, Kind::Float), &rooms, &x, None).expect("it pools");
                assert_eq!(found.size(), expected.size());
                assert_eq!(largest(&(found - &expected)), 0.0, "{level:?} {height}x{width}");
                assert_eq!(largest(&(&sum - (&x + &expected))), 0.0, "{level:?} {height}x{width}");
                let before = sum.copy();
                let (_, sum) = pool((level, Kind::Float), &rooms, &x, Some(sum)).expect("it pools");
                assert_eq!(largest(&(sum - (before + &x + &expected))), 0.0, "{level:?} {height}x{width}");
                // In bfloat16 the maximum is rounded as libtorch rounds, and the sum takes it as it was.
                let (found, sum) = pool((level, Kind::BFloat16), &rooms, &x, None).expect("it pools");
                assert_eq!(found.kind(), Kind::BFloat16);
                assert_eq!(largest(&(found - narrow(&expected))), 0.0, "{level:?} {height}x{width}");
                assert_eq!(largest(&(&sum - (&x + &expected))), 0.0, "{level:?} {height}x{width}");
                let (before, x) = (sum.copy(), narrow(&x));
                let (found, sum) = pool((level, Kind::BFloat16), &rooms, &x, Some(sum)).expect("it pools");
                assert_eq!(largest(&(found - narrow(&expected))), 0.0, "{level:?} {height}x{width}");
                let wide = |t: &Tensor| t.to_kind(Kind::Float);
                assert_eq!(largest(&(sum - (before + wide(&x) + wide(&narrow(&expected))))), 0.0, "{level:?}");
            }
        }
    }

    #[test]
    fn it_answers_as_the_network_does() {
        let _no_grad = tch::no_grad_guard();
        let three = [model::Task::Segmentation, model::Task::Depth, model::Task::Normals];
        let configs = [
            NetworkConfig::default(),
            NetworkConfig { extra_light: true, ..NetworkConfig::default() },
            NetworkConfig { classes: 8, heads: three.to_vec(), ..NetworkConfig::default() },
            NetworkConfig { classes: 30, heads: vec![three[1], three[0]], ..NetworkConfig::default() },
            NetworkConfig { heads: vec![three[0]], ..NetworkConfig::default() },
            NetworkConfig { classes: 0, heads: vec![three[1]], ..NetworkConfig::default() },
            NetworkConfig { classes: 8, heads: three.to_vec(), refine_depth: true, ..NetworkConfig::default() },
        ];
        for config in configs {
            let network = network(&config);
            for (batch, height, width) in [(1, 64, 128), (2, 75, 53), (1, 9, 200)] {
                let x = input(batch, height, width);
                let expected = packed_heads(&network, &x);
                for level in Level::available() {
                    let mut native = Native::new(&network, Kind::Float, level).expect("it is built");
                    let (answers, shape) = native.run(&x).expect("it runs");
                    let found = Tensor::from_slice(answers).view(shape.map(|n| n as i64)).permute([0, 3, 1, 2]);
                    assert_eq!(found.size(), expected.size());
                    let difference = largest(&(found - &expected)) / largest(&expected);
                    assert!(difference < 1e-5, "{level:?} {config:?} {height}x{width}: {difference}");
                }
            }
        }
    }

    #[test]
    fn bfloat16_products_stay_near() {
        let _no_grad = tch::no_grad_guard();
        let network = network(&NetworkConfig::default());
        let x = input(1, 64, 128);
        let expected = packed_heads(&network, &x);
        let mut native = Native::new(&network, Kind::BFloat16, Level::best()).expect("it is built");
        let (answers, shape) = native.run(&x).expect("it runs");
        let found = Tensor::from_slice(answers).view(shape.map(|n| n as i64)).permute([0, 3, 1, 2]);
        let difference = largest(&(found - &expected)) / largest(&expected);
        assert!(difference > 0.0 && difference < 0.03, "{difference}");
    }
}

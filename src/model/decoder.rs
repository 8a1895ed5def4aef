//! Light-Weight RefineNet (Nekrasov et al. 2018) and the heads.

use super::encoder::Skips;
use super::layer::{Conv2d, ConvSpec, NumberFormat, Start};
use super::parts::{DecoderParts, Filter};
use super::{NetworkConfig, Task};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// Width of the decoder.
pub(super) const WIDTH: i64 = 256;
/// Stages of a chained residual pooling block.
pub const CRP_STAGES: usize = 4;

/// 1x1 convolution without bias, with PyTorch's default start: the decoder has no normalisation, and with a wider
/// start ReLU6 saturates and nothing is learned.
fn conv1x1(p: Path, inputs: i64, groups: i64) -> Conv2d {
    Conv2d::new(p, ConvSpec { groups, ..ConvSpec::pointwise(inputs, WIDTH, Start::Default) })
}

/// 3x3 convolution with bias.
fn head3x3(p: Path, outputs: i64) -> Conv2d {
    let spec = ConvSpec { kernel: 3, bias: true, ..ConvSpec::pointwise(WIDTH, outputs, Start::Default) };
    Conv2d::new(p, spec)
}

/// Bilinear resize, corners not aligned.
pub(super) fn bilinear(x: &Tensor, height: i64, width: i64) -> Tensor {
    x.upsample_bilinear2d([height, width], false, None, None)
}

fn bilinear_like(x: &Tensor, like: &Tensor) -> Tensor {
    let size = like.size();
    bilinear(x, size[2], size[3])
}

/// The sum of two projections to the decoder's width.
#[derive(Debug)]
struct Pair {
    parts: [Conv2d; 2],
    /// Both as one product over the concatenated channels.
    joined: Option<Conv2d>,
}

impl Pair {
    fn new(p: &Path, names: [&str; 2], inputs: i64) -> Self {
        Self { parts: names.map(|name| conv1x1(p / name, inputs, 1)), joined: None }
    }

    fn folded(&self, format: NumberFormat) -> Self {
        let [a, b] = &self.parts;
        Self { parts: [a.share(), b.share()], joined: Some(a.joined(b).with_format(format)) }
    }

    fn forward(&self, a: &Tensor, b: &Tensor) -> Tensor {
        match &self.joined {
            Some(joined) => joined.forward_mixed(&Tensor::cat(&[a, b], 1)),
            None => self.parts[0].forward(a) + self.parts[1].forward(b),
        }
    }
}

/// One pooling of a chain: from the stage's input and the chain's sum so far (`None` at the first stage, whose input is the
/// chain's) to the 5x5 maximum and the sum with both of them added.
pub type Pool<'a> = &'a dyn Fn(&Tensor, Option<Tensor>) -> (Tensor, Tensor);

fn added(top: &Tensor, sum: Option<Tensor>, pooled: Tensor) -> (Tensor, Tensor) {
    let before = sum.map_or_else(|| top.shallow_clone(), |sum| sum + top);
    let sum = before + &pooled;
    (pooled, sum)
}

/// [`Pool`] as it is trained.
pub(super) fn pool(top: &Tensor, sum: Option<Tensor>) -> (Tensor, Tensor) {
    added(top, sum, top.max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false))
}

/// The same numbers, along rows and then along columns: 8 comparisons for 24.
pub(super) fn separable_pool(top: &Tensor, sum: Option<Tensor>) -> (Tensor, Tensor) {
    let rows = top.max_pool2d([1, 5], [1, 1], [0, 2], [1, 1], false);
    added(top, sum, rows.max_pool2d([5, 1], [1, 1], [2, 0], [1, 1], false))
}

/// Chained residual pooling: each stage pools and projects the one before; every pool and every projection is added to
/// the input.
#[derive(Debug)]
struct ChainedResidualPooling {
    projections: Vec<Conv2d>,
}

impl ChainedResidualPooling {
    fn new(p: Path, groups: i64) -> Self {
        // Even entries of `mini_blocks` are the pools, which have no variables.
        let projections =
            (0..CRP_STAGES as i64).map(|i| conv1x1(&p / "mini_blocks" / (2 * i + 1), WIDTH, groups)).collect();
        Self { projections }
    }

    fn with_format(&self, format: NumberFormat) -> Self {
        Self { projections: self.projections.iter().map(|c| c.with_format(format)).collect() }
    }

    fn forward(&self, x: &Tensor, pool: Pool<'_>) -> Tensor {
        let mut sum = None;
        let mut top = x.shallow_clone();
        for projection in &self.projections {
            // The article's code adds after the pool and again after the projection: nine terms in all.
            let (pooled, so_far) = pool(&top, sum);
            top = projection.forward_mixed(&pooled);
            sum = Some(so_far);
        }
        sum.map_or_else(|| top.shallow_clone(), |sum| sum + &top)
    }
}

/// The decoder's last stage, at 1/4 of the input.
#[derive(Debug)]
struct QuarterStage {
    conv6: Conv2d,
    crp4: ChainedResidualPooling,
    conv_adapt2: Conv2d,
}

/// The decoder and its heads.
#[derive(Debug)]
pub struct Decoder {
    /// At 1/32: block 10, block 11.
    inputs32: Pair,
    /// At 1/16: block 7, block 8.
    inputs16: Pair,
    conv5: Conv2d,
    crp1: ChainedResidualPooling,
    crp2: ChainedResidualPooling,
    crp3: ChainedResidualPooling,
    conv_adapt1: Conv2d,
    conv_adapt3: Conv2d,
    quarter: Option<QuarterStage>,
    heads: Vec<Head>,
}

/// One head: a factor a channel, ReLU6, a 3x3 convolution.
#[derive(Debug)]
struct Head {
    task: Task,
    pre: Conv2d,
    last: Conv2d,
}

/// Weights of the decoder's end, from the sum of the 1/4 stage on, for who computes it without libtorch.
#[derive(Debug)]
pub struct EndWeights {
    /// Of the 1/4 stage, unless the network is extra light.
    pub quarter: Option<QuarterWeights>,
    /// Of each head, in the network's order.
    pub heads: Vec<HeadWeights>,
}

/// Weights of the 1/4 stage.
#[derive(Debug)]
pub struct QuarterWeights {
    /// Projection of block 1: `[256, 16]`.
    pub conv6: Tensor,
    /// Factors of the four stages of its chained residual pooling: `[256]` each.
    pub scales: Vec<Tensor>,
}

/// Weights of one head.
#[derive(Debug)]
pub struct HeadWeights {
    /// What it is for.
    pub task: Task,
    /// Factors before ReLU6: `[256]`.
    pub pre: Tensor,
    /// `[channels, 256, 3, 3]`.
    pub weight: Tensor,
    /// `[channels]`.
    pub bias: Tensor,
}

/// Variables of the 1/4 stage that are factors a channel, `[256, 1, 1, 1]` each.
#[derive(Debug)]
pub struct QuarterFactors {
    /// After each pool of its chained residual pooling.
    pub scales: Vec<Tensor>,
    /// Of each head before its ReLU6, in the network's order.
    pub heads: Vec<Tensor>,
}

impl Decoder {
    /// Registers the decoder's variables under `p`, under the names of the article's published model.
    pub fn new(p: Path, config: &NetworkConfig) -> Self {
        let p = &p;
        Self {
            inputs32: Pair::new(p, ["conv2", "conv1"], 96),
            inputs16: Pair::new(p, ["conv4", "conv3"], 48),
            conv5: conv1x1(p / "conv5", 24, 1),
            crp1: ChainedResidualPooling::new(p / "crp1", 1),
            crp2: ChainedResidualPooling::new(p / "crp2", 1),
            crp3: ChainedResidualPooling::new(p / "crp3", 1),
            conv_adapt1: conv1x1(p / "conv_adapt1", WIDTH, 1),
            conv_adapt3: conv1x1(p / "conv_adapt3", WIDTH, 1),
            quarter: (!config.extra_light).then(|| QuarterStage {
                conv6: conv1x1(p / "conv6", 16, 1),
                crp4: ChainedResidualPooling::new(p / "crp4", WIDTH),
                conv_adapt2: conv1x1(p / "conv_adapt2", WIDTH, 1),
            }),
            heads: config.heads.iter().map(|&task| Head::new(p, task, config.classes)).collect(),
        }
    }

    /// With paired projections joined and the dense products in `format`.
    pub fn folded(&self, format: NumberFormat) -> Self {
        // What follows the trunk is in the sums' own format.
        let small = match format {
            NumberFormat::Input => format,
            NumberFormat::Fixed(_) => NumberFormat::Fixed(Kind::Float),
        };
        Self {
            inputs32: self.inputs32.folded(format),
            inputs16: self.inputs16.folded(format),
            conv5: self.conv5.with_format(format),
            crp1: self.crp1.with_format(format),
            crp2: self.crp2.with_format(format),
            crp3: self.crp3.with_format(format),
            conv_adapt1: self.conv_adapt1.with_format(format),
            conv_adapt3: self.conv_adapt3.with_format(format),
            quarter: self.quarter.as_ref().map(|q| QuarterStage {
                conv6: q.conv6.with_format(small),
                crp4: q.crp4.with_format(small),
                conv_adapt2: q.conv_adapt2.with_format(format),
            }),
            heads: self
                .heads
                .iter()
                .map(|h| Head { task: h.task, pre: h.pre.with_format(small), last: h.last.with_format(small) })
                .collect(),
        }
    }

    /// Up to where the 1/4 stage begins.
    ///
    /// # Shapes
    /// `[B, 256, H/8, W/8]`: what is enlarged and added to block 1's projection; of an extra light network, what the
    /// heads read.
    pub fn trunk(&self, skips: &Skips, pool: Pool<'_>) -> Tensor {
        let y = self.inputs32.forward(&skips.block10, &skips.block11).relu6();
        let y = bilinear_like(&self.conv_adapt1.forward_mixed(&self.crp1.forward(&y, pool)), &skips.block8);
        let y = (self.inputs16.forward(&skips.block7, &skips.block8) + y).relu6();
        let y = bilinear_like(&self.conv_adapt3.forward_mixed(&self.crp2.forward(&y, pool)), &skips.block3);
        let y = self.crp3.forward(&(y + self.conv5.forward_mixed(&skips.block3)).relu6(), pool);
        match &self.quarter {
            Some(quarter) => quarter.conv_adapt2.forward_mixed(&y),
            None => y,
        }
    }

    /// # Shapes
    /// Returns each head's answer, `[B, channels, H/4, W/4]` (1/8 for an extra light network).
    pub fn forward(&self, skips: &Skips, pool: Pool<'_>) -> Vec<(Task, Tensor)> {
        let y = match &self.quarter {
            Some(quarter) => quarter.crp4.forward(&self.quarter_input(quarter, skips, pool).relu6(), pool),
            None => self.trunk(skips, pool),
        };
        let answer = |head: &Head| (head.task, head.last.forward(&head.pre.forward(&y).relu6()));
        self.heads.iter().map(answer).collect()
    }

    fn quarter_input(&self, quarter: &QuarterStage, skips: &Skips, pool: Pool<'_>) -> Tensor {
        let y = bilinear_like(&self.trunk(skips, pool), &skips.block1);
        quarter.conv6.forward(&skips.block1) + y
    }

    /// Up to the 1/4 stage's ReLU6, for who computes what follows without libtorch; `None` of an extra light network.
    ///
    /// # Shapes
    /// `[B, 256, H/4, W/4]`.
    pub fn before_quarter(&self, skips: &Skips, pool: Pool<'_>) -> Option<Tensor> {
        self.quarter.as_ref().map(|quarter| self.quarter_input(quarter, skips, pool))
    }

    /// The 1/4 stage's own weights, between [`Decoder::before_quarter`] and [`Decoder::after_quarter`]; `None` of an extra
    /// light network.
    pub fn quarter_factors(&self) -> Option<QuarterFactors> {
        let quarter = self.quarter.as_ref()?;
        let of = |c: &Conv2d| c.weight().shallow_clone();
        Some(QuarterFactors {
            scales: quarter.crp4.projections.iter().map(of).collect(),
            heads: self.heads.iter().map(|h| of(&h.pre)).collect(),
        })
    }

    /// The heads' last convolutions, of what the 1/4 stage gives each of them.
    pub fn after_quarter(&self, maps: &[Tensor]) -> Vec<(Task, Tensor)> {
        self.heads.iter().zip(maps).map(|(head, map)| (head.task, head.last.forward(map))).collect()
    }

    /// Copies of the weights of [`Decoder::trunk`], float32; `None` where paired projections are not joined, as in a network
    /// that is trained.
    pub fn parts(&self) -> Option<DecoderParts> {
        let chain = |crp: &ChainedResidualPooling| crp.projections.iter().map(Filter::of).collect();
        Some(DecoderParts {
            inputs: [
                Filter::of(self.inputs32.joined.as_ref()?),
                Filter::of(self.inputs16.joined.as_ref()?),
                Filter::of(&self.conv5),
            ],
            chains: [chain(&self.crp1), chain(&self.crp2), chain(&self.crp3)],
            adapt: [Filter::of(&self.conv_adapt1), Filter::of(&self.conv_adapt3)],
            adapt_quarter: self.quarter.as_ref().map(|quarter| Filter::of(&quarter.conv_adapt2)),
        })
    }

    /// Copies of the weights behind [`Decoder::trunk`], float32.
    pub fn end_weights(&self) -> EndWeights {
        let flat = |t: &Tensor| t.detach().to_kind(Kind::Float).flatten(0, -1).contiguous();
        EndWeights {
            quarter: self.quarter.as_ref().map(|q| QuarterWeights {
                conv6: q.conv6.weight().detach().to_kind(Kind::Float).flatten(1, -1).contiguous(),
                scales: q.crp4.projections.iter().map(|c| flat(c.weight())).collect(),
            }),
            heads: self
                .heads
                .iter()
                .map(|h| HeadWeights {
                    task: h.task,
                    pre: flat(h.pre.weight()),
                    weight: h.last.weight().detach().to_kind(Kind::Float).contiguous(),
                    bias: h.last.bias().map_or_else(|| Tensor::zeros([1], (Kind::Float, tch::Device::Cpu)), flat),
                })
                .collect(),
        }
    }
}

impl Head {
    fn new(p: &Path, task: Task, classes: usize) -> Self {
        Self {
            task,
            pre: conv1x1(p / format!("pre_{}", task.key()), WIDTH, WIDTH),
            last: head3x3(p / task.key(), task.channels(classes) as i64),
        }
    }
}

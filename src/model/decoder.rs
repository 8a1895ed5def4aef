//! Light-Weight RefineNet (Nekrasov et al. 2018) and the heads.

use super::encoder::Skips;
use super::layer::{Conv2d, ConvSpec, Start};
use super::{NetworkConfig, Task};
use tch::nn::Path;
use tch::Tensor;

/// Width of the decoder.
pub(super) const WIDTH: i64 = 256;
/// Stages of a chained residual pooling block.
pub(super) const CRP_STAGES: i64 = 4;

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

/// Chained residual pooling: each stage pools and projects the one before; every pool and every projection is added to
/// the input.
#[derive(Debug)]
struct ChainedResidualPooling {
    projections: Vec<Conv2d>,
}

impl ChainedResidualPooling {
    fn new(p: Path, groups: i64) -> Self {
        // Even entries of `mini_blocks` are the pools, which have no variables.
        let projections = (0..CRP_STAGES).map(|i| conv1x1(&p / "mini_blocks" / (2 * i + 1), WIDTH, groups)).collect();
        Self { projections }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let mut sum = x.shallow_clone();
        let mut top = x.shallow_clone();
        for projection in &self.projections {
            // The article's code adds after the pool and again after the projection: nine terms in all.
            let pooled = top.max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false);
            top = projection.forward(&pooled);
            sum = sum + pooled + &top;
        }
        sum
    }
}

/// The decoder's last stage, at 1/4 of the input.
#[derive(Debug)]
struct QuarterStage {
    conv6: Conv2d,
    crp4: ChainedResidualPooling,
    conv_adapt2: Conv2d,
}

/// The decoder and the two heads.
#[derive(Debug)]
pub struct Decoder {
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
    conv4: Conv2d,
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

impl Decoder {
    /// Registers the decoder's variables under `p`, under the names of the article's published model.
    pub fn new(p: Path, config: &NetworkConfig) -> Self {
        let p = &p;
        Self {
            conv1: conv1x1(p / "conv1", 96, 1),
            conv2: conv1x1(p / "conv2", 96, 1),
            conv3: conv1x1(p / "conv3", 48, 1),
            conv4: conv1x1(p / "conv4", 48, 1),
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

    /// # Shapes
    /// Returns each head's answer, `[B, channels, H/4, W/4]` (1/8 for an extra light network).
    pub fn forward(&self, skips: &Skips) -> Vec<(Task, Tensor)> {
        let y = (self.conv2.forward(&skips.block10) + self.conv1.forward(&skips.block11)).relu6();
        let y = bilinear_like(&self.conv_adapt1.forward(&self.crp1.forward(&y)), &skips.block8);
        let y = (self.conv4.forward(&skips.block7) + self.conv3.forward(&skips.block8) + y).relu6();
        let y = bilinear_like(&self.conv_adapt3.forward(&self.crp2.forward(&y)), &skips.block3);
        let mut y = self.crp3.forward(&(y + self.conv5.forward(&skips.block3)).relu6());
        if let Some(quarter) = &self.quarter {
            y = bilinear_like(&quarter.conv_adapt2.forward(&y), &skips.block1);
            y = quarter.crp4.forward(&(quarter.conv6.forward(&skips.block1) + y).relu6());
        }
        let answer = |head: &Head| (head.task, head.last.forward(&head.pre.forward(&y).relu6()));
        self.heads.iter().map(answer).collect()
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

//! The encoder: torchvision's MobileNetV3-small features (Howard et al. 2019), blocks 0 to 11 of which give the
//! skips; block 12 is part of the published state dict and therefore of this module, but nothing reads its output.

use super::layer::{BatchNorm2d, Conv2d, ConvSpec, NumberFormat, Start};
use super::parts::{Activation, BlockParts, Filter};
use tch::nn::Path;
use tch::{Kind, Tensor};

/// One row of MobileNetV3-small's table: (input channels, kernel, expanded channels, output channels,
/// squeeze-and-excitation, hard-swish instead of ReLU, stride).
pub(super) type Row = (i64, i64, i64, i64, bool, bool, i64);

pub(super) const ROWS: [Row; 11] = [
    (16, 3, 16, 16, true, false, 2),
    (16, 3, 72, 24, false, false, 2),
    (24, 3, 88, 24, false, false, 1),
    (24, 5, 96, 40, true, true, 2),
    (40, 5, 240, 40, true, true, 1),
    (40, 5, 240, 40, true, true, 1),
    (40, 5, 120, 48, true, true, 1),
    (48, 5, 144, 48, true, true, 1),
    (48, 5, 288, 96, true, true, 2),
    (96, 5, 576, 96, true, true, 1),
    (96, 5, 576, 96, true, true, 1),
];

/// torchvision rounds channel counts to multiples of 8, never down by more than a tenth.
pub(super) fn make_divisible(v: i64) -> i64 {
    let rounded = ((v + 4) / 8 * 8).max(8);
    if rounded * 10 < v * 9 {
        rounded + 8
    } else {
        rounded
    }
}

/// Convolution, batch norm, activation: torchvision's `Conv2dNormActivation` (keys `0.*` and `1.*`).
#[derive(Debug)]
struct ConvBnAct {
    conv: Conv2d,
    /// `None` where it is a part of the convolution.
    bn: Option<BatchNorm2d>,
    act: Activation,
}

impl ConvBnAct {
    fn new(p: Path, (inputs, outputs): (i64, i64), kernel: i64, stride: i64, groups: i64, act: Activation) -> Self {
        let spec =
            ConvSpec { inputs, outputs, kernel, stride, dilation: 1, groups, bias: false, start: Start::HeFanOut };
        Self { conv: Conv2d::new(&p / "0", spec), bn: Some(BatchNorm2d::new(&p / "1", outputs)), act }
    }

    fn folded(&self, format: NumberFormat) -> Self {
        let conv = self.bn.as_ref().map_or_else(|| self.conv.share(), |bn| self.conv.with_norm(bn));
        Self { conv: conv.with_format(format), bn: None, act: self.act }
    }

    fn part(&self) -> Filter {
        Filter::of(&self.conv)
    }

    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        let y = self.conv.forward(x);
        let y = match &self.bn {
            Some(bn) => bn.forward_t(&y, train),
            None => y,
        };
        match self.act {
            Activation::None => y,
            Activation::Relu => y.relu(),
            Activation::Hardswish => y.hardswish(),
        }
    }
}

/// Squeeze-and-excitation with a hard sigmoid.
#[derive(Debug)]
struct SqueezeExcitation {
    fc1: Conv2d,
    fc2: Conv2d,
}

impl SqueezeExcitation {
    fn new(p: Path, channels: i64) -> Self {
        let squeezed = make_divisible(channels / 4);
        let spec = |i, o| ConvSpec { bias: true, ..ConvSpec::pointwise(i, o, Start::HeFanOut) };
        Self {
            fc1: Conv2d::new(&p / "fc1", spec(channels, squeezed)),
            fc2: Conv2d::new(&p / "fc2", spec(squeezed, channels)),
        }
    }

    fn with_format(&self, format: NumberFormat) -> Self {
        Self { fc1: self.fc1.with_format(format), fc2: self.fc2.with_format(format) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        // As matrix products: libtorch takes its slowest path for a convolution of one pixel.
        let scale = self.fc1.linear(&x.adaptive_avg_pool2d([1, 1]).flatten(1, -1)).relu();
        x * self.fc2.linear(&scale).hardsigmoid().unsqueeze(-1).unsqueeze(-1)
    }
}

#[derive(Debug)]
struct InvertedResidual {
    expand: Option<ConvBnAct>,
    depthwise: ConvBnAct,
    se: Option<SqueezeExcitation>,
    project: ConvBnAct,
    residual: bool,
    stride: i64,
}

impl InvertedResidual {
    fn new(p: Path, (i, k, e, o, se, hs, stride): Row) -> Self {
        let act = if hs { Activation::Hardswish } else { Activation::Relu };
        // torchvision numbers the parts of `block` in the order in which they exist.
        let mut index = 0;
        let mut next = || {
            index += 1;
            &p / "block" / (index - 1)
        };
        let expand = (e != i).then(|| ConvBnAct::new(next(), (i, e), 1, 1, 1, act));
        let depthwise = ConvBnAct::new(next(), (e, e), k, stride, e, act);
        let se = se.then(|| SqueezeExcitation::new(next(), e));
        let project = ConvBnAct::new(next(), (e, o), 1, 1, 1, Activation::None);
        Self { expand, depthwise, se, project, residual: stride == 1 && i == o, stride }
    }

    fn folded(&self, format: NumberFormat) -> Self {
        Self {
            expand: self.expand.as_ref().map(|c| c.folded(format)),
            depthwise: self.depthwise.folded(format),
            se: self.se.as_ref().map(|se| se.with_format(format)),
            project: self.project.folded(format),
            residual: self.residual,
            stride: self.stride,
        }
    }

    fn parts(&self) -> BlockParts {
        BlockParts {
            expand: self.expand.as_ref().map(ConvBnAct::part),
            depthwise: self.depthwise.part(),
            squeeze: self.se.as_ref().map(|se| [Filter::of(&se.fc1), Filter::of(&se.fc2)]),
            project: self.project.part(),
            activation: self.depthwise.act,
            stride: self.stride as usize,
            residual: self.residual,
        }
    }

    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        let y = match &self.expand {
            Some(expand) => self.depthwise.forward_t(&expand.forward_t(x, train), train),
            None => self.depthwise.forward_t(x, train),
        };
        let y = match &self.se {
            Some(se) => se.forward(&y),
            None => y,
        };
        let y = self.project.forward_t(&y, train);
        if self.residual {
            y + x
        } else {
            y
        }
    }
}

/// What the decoder reads, named after the block of the encoder that made it.
#[derive(Debug)]
pub struct Skips {
    /// Block 1, `[B, 16, H/4, W/4]`.
    pub block1: Tensor,
    /// Block 3, `[B, 24, H/8, W/8]`.
    pub block3: Tensor,
    /// Block 7, `[B, 48, H/16, W/16]`.
    pub block7: Tensor,
    /// Block 8, `[B, 48, H/16, W/16]`.
    pub block8: Tensor,
    /// Block 10, `[B, 96, H/32, W/32]`.
    pub block10: Tensor,
    /// Block 11, `[B, 96, H/32, W/32]`.
    pub block11: Tensor,
}

impl Skips {
    /// All of them in another number format.
    pub fn to_kind(&self, kind: Kind) -> Self {
        Self {
            block1: self.block1.to_kind(kind),
            block3: self.block3.to_kind(kind),
            block7: self.block7.to_kind(kind),
            block8: self.block8.to_kind(kind),
            block10: self.block10.to_kind(kind),
            block11: self.block11.to_kind(kind),
        }
    }
}

/// MobileNetV3-small's features (keys `backbone.0` to `backbone.12`).
#[derive(Debug)]
pub struct Encoder {
    stem: ConvBnAct,
    blocks: Vec<InvertedResidual>,
    /// Block 12: in the state dict, not in the path.
    #[allow(dead_code)]
    last: ConvBnAct,
}

impl Encoder {
    /// Registers the encoder's variables under `p`.
    pub fn new(p: Path) -> Self {
        let p = p / "backbone";
        Self {
            stem: ConvBnAct::new(&p / 0, (3, 16), 3, 2, 1, Activation::Hardswish),
            blocks: ROWS.iter().enumerate().map(|(i, &row)| InvertedResidual::new(&p / (i + 1), row)).collect(),
            last: ConvBnAct::new(&p / 12, (96, 576), 1, 1, 1, Activation::Hardswish),
        }
    }

    /// With batch norm's running statistics folded into the convolutions.
    pub fn folded(&self, format: NumberFormat) -> Self {
        let blocks = self.blocks.iter().map(|b| b.folded(format)).collect();
        Self { stem: self.stem.folded(format), blocks, last: self.last.folded(format) }
    }

    /// The stem's filter and the blocks' parts.
    pub fn parts(&self) -> (Filter, Vec<BlockParts>) {
        (self.stem.part(), self.blocks.iter().map(InvertedResidual::parts).collect())
    }

    /// # Shapes
    /// `x`: `[B, 3, H, W]`, ImageNet-normalised. Returns the skips at 1/4, 1/8, 1/16 and 1/32 (rounded up).
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Skips {
        let mut y = self.stem.forward_t(x, train);
        let mut outputs = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            y = block.forward_t(&y, train);
            outputs.push(y.shallow_clone());
        }
        let block = |i: usize| outputs[i - 1].shallow_clone();
        Skips {
            block1: block(1),
            block3: block(3),
            block7: block(7),
            block8: block(8),
            block10: block(10),
            block11: block(11),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::make_divisible;

    #[test]
    fn squeeze_widths_are_torchvisions() {
        // From torchvision's MobileNetV3-small: expanded width / 4, made divisible by 8.
        for (expanded, squeezed) in [(16, 8), (96, 24), (240, 64), (120, 32), (144, 40), (288, 72), (576, 144)] {
            assert_eq!(make_divisible(expanded / 4), squeezed, "for {expanded}");
        }
    }
}

//! The weights of a folded network, for who computes it without libtorch.

use super::layer::Conv2d;
use tch::{Device, Kind, Tensor};

/// What follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(0, x)`.
    Relu,
    /// `x * relu6(x + 3) / 6`.
    Hardswish,
}

/// Copies of a convolution's weights, float32, in host memory.
#[derive(Debug, Clone)]
pub struct Filter {
    /// `[outputs, inputs / groups, kernel, kernel]`.
    pub shape: [usize; 4],
    /// In that order.
    pub weight: Vec<f32>,
    /// Of each output; empty where there is none.
    pub bias: Vec<f32>,
}

/// A copy of a tensor's values, float32.
pub fn values(t: &Tensor) -> Vec<f32> {
    let flat = t.detach().to_device(Device::Cpu).to_kind(Kind::Float).flatten(0, -1).contiguous();
    let mut values = vec![0.0; flat.numel()];
    flat.copy_data(&mut values, flat.numel());
    values
}

impl Filter {
    pub(super) fn of(conv: &Conv2d) -> Self {
        let size = conv.weight().size();
        let shape = std::array::from_fn(|i| size.get(i).map_or(1, |n| *n as usize));
        Self { shape, weight: values(conv.weight()), bias: conv.bias().map(values).unwrap_or_default() }
    }
}

/// An inverted residual of the encoder.
#[derive(Debug)]
pub struct BlockParts {
    /// 1x1; `None` where nothing is expanded.
    pub expand: Option<Filter>,
    /// 3x3 or 5x5, depthwise.
    pub depthwise: Filter,
    /// The two layers of squeeze-and-excitation: ReLU follows the first, a hard sigmoid the second.
    pub squeeze: Option<[Filter; 2]>,
    /// 1x1, nothing follows.
    pub project: Filter,
    /// After the expansion and the depthwise convolution.
    pub activation: Activation,
    /// Of the depthwise convolution.
    pub stride: usize,
    /// Whether the input is added.
    pub residual: bool,
}

/// The decoder up to where the 1/4 stage begins.
#[derive(Debug)]
pub struct DecoderParts {
    /// Projections of the encoder's blocks 10 and 11 together, 7 and 8 together, and 3; ReLU6 follows the sum with what is
    /// enlarged.
    pub inputs: [Filter; 3],
    /// Projections of the chained residual poolings at 1/32, 1/16 and 1/8.
    pub chains: [Vec<Filter>; 3],
    /// What follows the first two, before it is enlarged.
    pub adapt: [Filter; 2],
    /// What follows the third; `None` of an extra light network.
    pub adapt_quarter: Option<Filter>,
}

/// All of the network up to where the 1/4 stage begins.
#[derive(Debug)]
pub struct TrunkParts {
    /// 3x3, stride 2, hard swish.
    pub stem: Filter,
    /// Blocks 1 to 11.
    pub blocks: Vec<BlockParts>,
    /// The decoder.
    pub decoder: DecoderParts,
}

/// The refinement of the depth (`model::refine`).
#[derive(Debug)]
pub struct RefinementParts {
    /// 1x1, of the classes' probabilities.
    pub classes: Filter,
    /// How far the neighbours are, and a 3x3 convolution of the depth's code of that dilation, without bias, over a map that
    /// goes on beyond its edge as it is at the edge; added to the classes', and ReLU follows the sum.
    pub rings: Vec<(usize, Filter)>,
    /// Dilation and 3x3 convolution, whose input is added, and ReLU follows.
    pub blocks: Vec<(usize, Filter)>,
    /// 3x3: the correction of the depth's natural logarithm.
    pub last: Filter,
}

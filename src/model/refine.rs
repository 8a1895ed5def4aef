//! Sharpens the depth by what the network has answered around each pixel. Not a part of the article's network: a few small
//! convolutions behind its heads, which a model may have.
//!
//! The heads' last convolution is linear and reads maps that have been pooled over up to 17 pixels, so a depth that should
//! jump from a pole to what is behind it runs from one to the other over some pixels, and fits neither. From how the depth
//! changes about a pixel, and which classes are there, a small network can tell which of the two it is.
//!
//! Of the depth only differences are read: the correction is the same at every distance, and for every camera's focal
//! length. Of the picture nothing is read, so there is little that could be peculiar to the pictures it was learned on.

use super::layer::{Conv2d, ConvSpec, Start};
use super::parts::{values, Filter, RefinementParts};
use crate::data::depth::LOG_SCALE;
use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

/// Width of the maps.
pub(super) const WIDTH: i64 = 24;
/// How far, in pixels of the heads, those eight neighbours lie whose depths are compared with a pixel's own.
pub(super) const RINGS: [i64; 4] = [1, 2, 4, 7];
/// Neighbours of a ring.
const NEIGHBOURS: i64 = 8;
/// Dilations of the 3x3 convolutions in between. The wide ones see what a thing stands on, and where its front begins.
pub(super) const DILATIONS: [i64; 6] = [1, 2, 4, 8, 16, 32];
/// Differences are read in units of this difference of the natural logarithm, so that they are about as large as the
/// classes' probabilities.
const UNIT: f64 = 1.5;

/// Differences of the depth to eight neighbours, and what they count for.
#[derive(Debug)]
struct Ring {
    reach: i64,
    /// `[WIDTH, 8]`, in the neighbours' order of rows and columns.
    weight: Tensor,
    /// As a convolution, of a network that is folded.
    filter: Option<Tensor>,
}

impl Ring {
    fn new(p: Path, reach: i64, bound: f64) -> Self {
        let weight = p.var("weight", &[WIDTH, NEIGHBOURS], Init::Uniform { lo: -bound, up: bound });
        Self { reach, weight, filter: None }
    }

    /// `[WIDTH, 1, 3, 3]`: the weights of differences to the middle are those of the neighbours, and less their sum of the
    /// middle.
    fn filter(&self) -> Tensor {
        let half = NEIGHBOURS / 2;
        let middle = -self.weight.sum_dim_intlist([1_i64].as_slice(), true, Kind::Float);
        let all = Tensor::cat(&[&self.weight.narrow(1, 0, half), &middle, &self.weight.narrow(1, half, half)], 1);
        all.view([WIDTH, 1, 3, 3]) * (f64::from(LOG_SCALE) / UNIT)
    }

    fn folded(&self) -> Self {
        Self { reach: self.reach, weight: self.weight.shallow_clone(), filter: Some(self.filter().detach()) }
    }

    /// # Shapes
    /// `code`: `[B, 1, h, w]`; returns `[B, WIDTH, h, w]`. Beyond the edge is what is at the edge.
    fn forward(&self, code: &Tensor) -> Tensor {
        let made = || self.filter();
        let filter = self.filter.as_ref().map_or_else(made, Tensor::shallow_clone);
        let r = self.reach;
        let wide = code.replication_pad2d([r, r, r, r]);
        wide.conv2d(&filter, None::<&Tensor>, [1, 1], [0, 0], [r, r], 1)
    }
}

/// The refinement, always in single precision: depths that differ by a few per cent have codes that differ in the last bits
/// of a shorter format.
#[derive(Debug)]
pub(super) struct Refinement {
    classes: Conv2d,
    rings: Vec<Ring>,
    blocks: Vec<Conv2d>,
    last: Conv2d,
}

impl Refinement {
    /// Registers the variables under `p`. As it starts it changes nothing.
    pub fn new(p: &Path, classes: usize) -> Self {
        let inputs = classes as i64;
        let bound = 1.0 / ((inputs + NEIGHBOURS * RINGS.len() as i64) as f64).sqrt();
        let wide = |p, dilation, outputs, start| {
            let spec = ConvSpec::pointwise(WIDTH, outputs, start);
            Conv2d::new(p, ConvSpec { kernel: 3, dilation, bias: true, ..spec })
        };
        let ring = |(i, &reach): (usize, &i64)| Ring::new(p / "rings" / i, reach, bound);
        // They start by doing nothing, so that training goes on where a refinement with fewer of them has ended.
        let block = |(i, &dilation): (usize, &i64)| wide(p / "blocks" / i, dilation, WIDTH, Start::Zero);
        Self {
            classes: Conv2d::new(
                p / "classes",
                ConvSpec { bias: true, ..ConvSpec::pointwise(inputs, WIDTH, Start::Default) },
            ),
            rings: RINGS.iter().enumerate().map(ring).collect(),
            blocks: DILATIONS.iter().enumerate().map(block).collect(),
            last: wide(p / "last", 1, 1, Start::Zero),
        }
    }

    /// With everything that only depends on the weights computed.
    pub fn folded(&self) -> Self {
        Self {
            classes: self.classes.share(),
            rings: self.rings.iter().map(Ring::folded).collect(),
            blocks: self.blocks.iter().map(Conv2d::share).collect(),
            last: self.last.share(),
        }
    }

    /// Copies of the weights, float32.
    pub fn parts(&self) -> RefinementParts {
        let ring = |ring: &Ring| {
            let shape = [WIDTH as usize, 1, 3, 3];
            (ring.reach as usize, Filter { shape, weight: values(&ring.filter()), bias: Vec::new() })
        };
        let block = |(dilation, block): (&i64, &Conv2d)| (*dilation as usize, Filter::of(block));
        RefinementParts {
            classes: Filter::of(&self.classes),
            rings: self.rings.iter().map(ring).collect(),
            blocks: DILATIONS.iter().zip(&self.blocks).map(block).collect(),
            last: Filter::of(&self.last),
        }
    }

    /// # Shapes
    /// `scores`: `[B, classes, h, w]`, before softmax; `code`: `[B, 1, h, w]`, the depth's code ([`crate::data::depth`]).
    /// Returns the refined code, as `code`, in single precision.
    pub fn forward(&self, scores: &Tensor, code: &Tensor) -> Tensor {
        // `type_as` and not `to_kind`, which a trace records with the device.
        let single = |t: &Tensor| t.type_as(self.last.weight());
        let (scores, code) = (single(scores), single(code));
        let start = self.classes.forward(&scores.softmax(1, None::<Kind>));
        let mut x = self.rings.iter().fold(start, |sum, ring| sum + ring.forward(&code)).relu();
        for block in &self.blocks {
            x = (block.forward(&x) + &x).relu();
        }
        code + self.last.forward(&x) * (1.0 / f64::from(LOG_SCALE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::seeded;
    use tch::nn::VarStore;
    use tch::Device;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn largest(t: &Tensor) -> f64 {
        t.abs().max().double_value(&[])
    }

    fn scores(shape: &[i64]) -> Tensor {
        seeded::uniform(2, shape, [-2.0, 2.0])
    }

    fn codes(shape: &[i64]) -> Tensor {
        seeded::uniform(3, shape, [0.0, 1.0])
    }

    /// Of random weights, so that it changes something.
    fn refinement() -> (VarStore, Refinement) {
        let vs = VarStore::new(Device::Cpu);
        let made = Refinement::new(&vs.root(), 20);
        seeded::start(&vs, 1, |name| (name == "last.weight").then_some([-0.2, 0.2]));
        (vs, made)
    }

    #[test]
    fn it_starts_by_changing_nothing() {
        let vs = VarStore::new(Device::Cpu);
        let made = Refinement::new(&vs.root(), 20);
        let code = codes(&[1, 1, 9, 13]);
        assert_eq!(made.forward(&scores(&[1, 20, 9, 13]), &code), code);
    }

    #[test]
    fn the_correction_is_the_same_at_every_distance() {
        let (_vs, made) = refinement();
        let (scores, code) = (scores(&[2, 20, 12, 17]), codes(&[2, 1, 12, 17]));
        let (near, far) = (made.forward(&scores, &code), made.forward(&scores, &(&code + 0.25)));
        assert!(largest(&(&near - &code)) > 1e-3, "it changes something");
        assert!(largest(&(far - near - 0.25)) < 1e-6);
        // Where nothing differs, only the classes count: far from the edges of the convolutions all pixels are alike.
        let (reach, inside) = (DILATIONS.iter().sum::<i64>() + 1, 10);
        let size = inside + 2 * reach;
        let code = Tensor::full([1, 1, size, size], 0.4, FLOAT);
        let flat = made.forward(&Tensor::zeros([1, 20, size, size], FLOAT), &code);
        let inner = flat.narrow(2, reach, inside).narrow(3, reach, inside);
        assert!((inner.max() - inner.min()).double_value(&[]) < 1e-6);
    }

    /// Against sums written out pixel by pixel.
    #[test]
    fn a_ring_weighs_differences_to_its_neighbours() {
        let vs = VarStore::new(Device::Cpu);
        let (height, width) = (6_i64, 9_i64);
        let code = codes(&[1, 1, height, width]);
        for reach in RINGS {
            let ring = Ring::new(vs.root() / reach, reach, 0.3);
            let found = ring.forward(&code);
            assert!(largest(&(&found - ring.folded().forward(&code))) < 1e-6);
            let at = |y: i64, x: i64| code.double_value(&[0, 0, y.clamp(0, height - 1), x.clamp(0, width - 1)]);
            for (y, x, channel) in [(0, 0, 0), (3, 4, 7), (5, 8, 23)] {
                let around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dy, dx))).filter(|d| *d != (0, 0));
                let expected: f64 = around
                    .enumerate()
                    .map(|(i, (dy, dx))| {
                        let difference = at(y + dy * reach, x + dx * reach) - at(y, x);
                        ring.weight.double_value(&[channel, i as i64]) * difference * 5.0 / UNIT
                    })
                    .sum();
                let off = found.double_value(&[0, channel, y, x]) - expected;
                assert!(off.abs() < 1e-5, "reach {reach} at {y}, {x}: off by {off}");
            }
        }
    }

    #[test]
    fn any_size_and_any_number_format_does() {
        let (_vs, made) = refinement();
        for (height, width) in [(1, 1), (1, 5), (3, 2)] {
            let scores = scores(&[1, 20, height, width]);
            let code = codes(&[1, 1, height, width]);
            let expected = made.forward(&scores, &code);
            assert_eq!(expected.size(), [1, 1, height, width]);
            let half = made.forward(&scores.to_kind(Kind::Half), &code.to_kind(Kind::Half));
            assert_eq!(half.kind(), Kind::Float);
            assert!(largest(&(half - expected)) < 0.02);
        }
    }
}

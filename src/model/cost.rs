//! What one pass costs by its structure: operations and bytes, from the layers' table and the input's size.

use super::decoder::{CRP_STAGES, WIDTH};
use super::encoder::{make_divisible, ROWS};
use super::{refine, NetworkConfig};

/// Cost of one pass of one image, whatever runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Multiplications with an addition, of the convolutions.
    pub macs: u64,
    /// Numbers that are read and written if each convolution (with its batch norm and activation), pool, sum and
    /// upsampling reads its inputs and writes its output once. Weights are not among them.
    pub activations: u64,
    /// Numbers of the weights that are used (the state dict's last encoder block is not).
    pub weights: u64,
}

/// Channels, height and width of a map.
#[derive(Debug, Clone, Copy)]
struct Map {
    channels: u64,
    height: u64,
    width: u64,
}

impl Map {
    fn numbers(self) -> u64 {
        self.channels * self.height * self.width
    }
}

impl Cost {
    /// Of a network as it is trained, with its answers resized to the input's size (`full_size`) or left at the heads'
    /// own.
    pub fn of(config: &NetworkConfig, (width, height): (usize, usize), full_size: bool) -> Self {
        let mut cost = Self::default();
        let input = Map { channels: 3, height: height as u64, width: width as u64 };
        let skips = cost.encoder(input);
        cost.decoder(config, input, skips, full_size);
        cost
    }

    /// The least bytes that have to move: an 8-bit picture in, the weights, 8-bit labels and 16-bit depth out, at
    /// `bytes_a_weight`.
    pub fn compulsory_bytes(&self, (width, height): (usize, usize), bytes_a_weight: u64) -> u64 {
        (width * height) as u64 * (3 + 1 + 2) + self.weights * bytes_a_weight
    }

    fn convolution(&mut self, from: Map, outputs: u64, kernel: u64, stride: u64, groups: u64, biases: u64) -> Map {
        let to = Map { channels: outputs, height: from.height.div_ceil(stride), width: from.width.div_ceil(stride) };
        let filter = from.channels / groups * kernel * kernel;
        self.macs += to.numbers() * filter;
        self.weights += outputs * (filter + biases);
        self.activations += from.numbers() + to.numbers();
        to
    }

    /// Convolution and batch norm, which at run time is a factor and an addend a channel.
    fn normalised(&mut self, from: Map, outputs: u64, kernel: u64, stride: u64, groups: u64) -> Map {
        self.convolution(from, outputs, kernel, stride, groups, 2)
    }

    /// An operation without weights that reads `inputs` maps of this size and writes one.
    fn pass(&mut self, map: Map, inputs: u64) {
        self.activations += map.numbers() * (inputs + 1);
    }

    fn upsampled(&mut self, from: Map, like: Map) -> Map {
        let to = Map { channels: from.channels, ..like };
        self.activations += from.numbers() + to.numbers();
        to
    }

    /// Returns the outputs of blocks 1 to 11.
    fn encoder(&mut self, input: Map) -> Vec<Map> {
        let mut x = self.normalised(input, 16, 3, 2, 1);
        let blocks = ROWS.iter().map(|&(inputs, kernel, expanded, outputs, se, _, stride)| {
            let [kernel, wide, outputs_, stride] = [kernel, expanded, outputs, stride].map(|n| n as u64);
            let from = x;
            if expanded != inputs {
                x = self.normalised(x, wide, 1, 1, 1);
            }
            x = self.normalised(x, wide, kernel, stride, wide);
            if se {
                let pooled = Map { height: 1, width: 1, ..x };
                self.activations += x.numbers() + pooled.numbers();
                let squeezed = self.convolution(pooled, make_divisible(expanded / 4) as u64, 1, 1, 1, 1);
                self.convolution(squeezed, wide, 1, 1, 1, 1);
                self.pass(x, 1);
            }
            x = self.normalised(x, outputs_, 1, 1, 1);
            if stride == 1 && inputs == outputs {
                self.pass(from, 2);
            }
            x
        });
        blocks.collect()
    }

    fn decoder(&mut self, config: &NetworkConfig, input: Map, blocks: Vec<Map>, full_size: bool) {
        let width = WIDTH as u64;
        let [block1, block3, block7, block8, block10, block11] = [1, 3, 7, 8, 10, 11].map(|i: usize| blocks[i - 1]);
        let pointwise = |cost: &mut Self, from, groups| cost.convolution(from, width, 1, 1, groups, 0);
        let pooling = |cost: &mut Self, x: Map, groups| {
            for _ in 0..CRP_STAGES {
                cost.pass(x, 1);
                cost.convolution(x, width, 1, 1, groups, 0);
                // The sum so far, the pool and the projection.
                cost.pass(x, 3);
            }
        };

        pointwise(self, block10, 1);
        let mut y = pointwise(self, block11, 1);
        self.pass(y, 2);
        pooling(self, y, 1);
        y = pointwise(self, y, 1);
        y = self.upsampled(y, block8);
        pointwise(self, block7, 1);
        pointwise(self, block8, 1);
        self.pass(y, 3);
        pooling(self, y, 1);
        y = pointwise(self, y, 1);
        y = self.upsampled(y, block3);
        pointwise(self, block3, 1);
        self.pass(y, 2);
        pooling(self, y, 1);
        if !config.extra_light {
            y = pointwise(self, y, 1);
            y = self.upsampled(y, block1);
            pointwise(self, block1, 1);
            self.pass(y, 2);
            pooling(self, y, width);
        }
        let at_heads = y;
        for task in &config.heads {
            let pre = pointwise(self, y, width);
            let answer = self.convolution(pre, task.channels(config.classes) as u64, 3, 1, 1, 1);
            if full_size {
                self.upsampled(answer, input);
            }
        }
        if config.refine_depth {
            self.refinement(config, at_heads);
        }
    }

    fn refinement(&mut self, config: &NetworkConfig, at_heads: Map) {
        let scores = Map { channels: config.classes as u64, ..at_heads };
        let code = Map { channels: 1, ..at_heads };
        // Softmax.
        self.pass(scores, 1);
        let mut x = self.convolution(scores, refine::WIDTH as u64, 1, 1, 1, 1);
        for _ in refine::RINGS {
            self.convolution(code, refine::WIDTH as u64, 3, 1, 1, 0);
            self.pass(x, 2);
            // The weight of the middle follows from the others.
            self.weights -= refine::WIDTH as u64;
        }
        for _ in refine::DILATIONS {
            let from = x;
            x = self.convolution(x, refine::WIDTH as u64, 3, 1, 1, 1);
            self.pass(from, 2);
        }
        self.convolution(x, 1, 3, 1, 1, 1);
        self.pass(code, 2);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Network;
    use super::*;
    use tch::{nn, Device};

    #[test]
    fn the_articles_network_costs_what_was_counted_by_hand() {
        let config = NetworkConfig::default();
        let small = Cost::of(&config, (1024, 400), true);
        assert_eq!((small.macs as f64 / 1e7).round() / 100.0, 4.67, "{small:?}");
        let large = Cost::of(&config, (2048, 1024), true);
        assert_eq!((large.macs as f64 / 1e8).round() / 10.0, 23.8, "{large:?}");
        assert_eq!((small.compulsory_bytes((1024, 400), 2) as f64 / 1e5).round() / 10.0, 6.4);
        assert_eq!((large.compulsory_bytes((2048, 1024), 2) as f64 / 1e5).round() / 10.0, 16.6);
        let at_heads = Cost::of(&config, (1024, 400), false);
        assert_eq!(at_heads.macs, small.macs, "upsampling is no convolution");
        // 21 channels read at 1/4 and written at full size are saved.
        assert_eq!(small.activations - at_heads.activations, 21 * (1024 * 400 + 256 * 100));
    }

    #[test]
    fn the_layers_are_those_of_the_network() {
        let light = NetworkConfig { extra_light: true, ..NetworkConfig::default() };
        let refined = NetworkConfig { refine_depth: true, ..NetworkConfig::default() };
        for config in [NetworkConfig::default(), light, refined] {
            let vs = nn::VarStore::new(Device::Cpu);
            Network::new(&vs.root(), &config);
            let used = |name: &str| !name.starts_with("encoder.backbone.12.");
            let numbers: usize =
                vs.variables().iter().filter(|(name, v)| used(name) && v.requires_grad()).map(|(_, v)| v.numel()).sum();
            assert_eq!(Cost::of(&config, (512, 256), true).weights, numbers as u64, "{config:?}");
        }
    }
}

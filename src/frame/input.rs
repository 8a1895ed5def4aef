//! Bytes -> the network's input: stretched to the network's size and normalised, in one pass into one reused buffer.
//!
//! Down-scaling by 2 or more averages over the covered area (so that nothing aliases); anything else is bilinear with
//! half-pixel centres. At exactly 2 the two agree: both are the 2x2 mean.

use super::view::ImageView;
use crate::export::manifest::{ChannelOrder, InputSpec};
use rayon::prelude::*;

/// Channels of the network's input.
pub const CHANNELS: usize = 3;

/// For each destination position: first source position, and where its weights lie in `weights`.
#[derive(Debug, Default)]
struct Taps {
    spans: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<f32>,
}

impl Taps {
    /// Weights that resample `source` positions to `destination` positions; each position's weights sum to 1.
    fn new(source: usize, destination: usize) -> Self {
        let mut taps = Self::default();
        let scale = source as f64 / destination as f64;
        for i in 0..destination {
            let from = taps.weights.len();
            let first = if scale >= 2.0 {
                // Area: source position j covers [j, j + 1); its share is the overlap with [lo, hi).
                let (lo, hi) = (i as f64 * scale, ((i + 1) as f64 * scale).min(source as f64));
                let first = lo.floor() as usize;
                let mut j = first;
                while j < source && (j as f64) < hi {
                    let overlap = (hi.min(j as f64 + 1.0) - lo.max(j as f64)).max(0.0);
                    taps.weights.push((overlap / (hi - lo)) as f32);
                    j += 1;
                }
                first
            } else {
                let (j, next, weight) = bilinear(i, source, destination);
                taps.weights.push(1.0 - weight);
                if next > j {
                    taps.weights.push(weight);
                }
                j
            };
            taps.spans.push((first, from..taps.weights.len()));
        }
        taps
    }

    fn at(&self, i: usize) -> (usize, &[f32]) {
        let (first, range) = &self.spans[i];
        (*first, &self.weights[range.clone()])
    }
}

/// Bilinear interpolation with half-pixel centres and replicated edges, as PyTorch's `align_corners=False`:
/// `(j, next, weight)` such that destination `i` is `(1 - weight) * source[j] + weight * source[next]`.
pub(super) fn bilinear(i: usize, source: usize, destination: usize) -> (usize, usize, f32) {
    let scale = source as f64 / destination as f64;
    let at = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (source - 1) as f64);
    let j = at.floor() as usize;
    let next = (j + 1).min(source - 1);
    let weight = if next > j { (at - j as f64) as f32 } else { 0.0 };
    (j, next, weight)
}

/// Builds network inputs for one model; keeps the resampling weights of the last image size.
#[derive(Debug)]
pub struct InputBuilder {
    width: usize,
    height: usize,
    order: ChannelOrder,
    /// Per input channel: `value = byte * scale + bias`.
    scale: [f32; CHANNELS],
    bias: [f32; CHANNELS],
    source: (usize, usize),
    columns: Taps,
    rows: Taps,
}

impl InputBuilder {
    /// For a network whose input is described by `spec`.
    pub fn new(spec: &InputSpec) -> Self {
        Self {
            width: spec.width,
            height: spec.height,
            order: spec.channel_order,
            scale: std::array::from_fn(|c| 1.0 / (255.0 * spec.std[c])),
            bias: std::array::from_fn(|c| -spec.mean[c] / spec.std[c]),
            source: (0, 0),
            columns: Taps::default(),
            rows: Taps::default(),
        }
    }

    /// Number of values of the input.
    pub fn len(&self) -> usize {
        self.width * self.height * CHANNELS
    }

    /// Whether the input has no values; a verified manifest never describes such a one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out`, `[height, width, 3]` (channels last), with the resized and normalised image.
    ///
    /// # Panics
    /// If `out` is not [`InputBuilder::len`] long.
    pub fn build(&mut self, image: &ImageView<'_>, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "the input buffer has the network's size");
        if self.source != (image.width(), image.height()) {
            self.columns = Taps::new(image.width(), self.width);
            self.rows = Taps::new(image.height(), self.height);
            self.source = (image.width(), image.height());
        }
        let rgb = image.encoding().rgb_offsets();
        let offsets = match self.order {
            ChannelOrder::Rgb => rgb,
            ChannelOrder::Bgr => [rgb[2], rgb[1], rgb[0]],
        };
        let this = &*self;
        let halved = image.width() == 2 * this.width && image.height() == 2 * this.height;
        // Constant pixel sizes let the compiler unroll the loops over pixels.
        match image.encoding().channels() {
            1 if halved => this.halve::<1>(image, offsets, out),
            3 if halved => this.halve::<3>(image, offsets, out),
            4 if halved => this.halve::<4>(image, offsets, out),
            1 => this.resample::<1>(image, offsets, out),
            3 => this.resample::<3>(image, offsets, out),
            _ => this.resample::<4>(image, offsets, out),
        }
    }

    /// The 2x2 mean in whole numbers: what [`Self::resample`] answers, faster.
    fn halve<const N: usize>(&self, image: &ImageView<'_>, offsets: [usize; CHANNELS], out: &mut [f32]) {
        let scale = self.scale.map(|s| s * 0.25);
        out.par_chunks_mut(self.width * CHANNELS).enumerate().for_each(|(y, out)| {
            let (top, bottom) = (image.row(2 * y), image.row(2 * y + 1));
            for ((out, top), bottom) in
                out.chunks_exact_mut(CHANNELS).zip(top.chunks_exact(2 * N)).zip(bottom.chunks_exact(2 * N))
            {
                for c in 0..CHANNELS {
                    let o = offsets[c];
                    let sum =
                        u16::from(top[o]) + u16::from(top[N + o]) + u16::from(bottom[o]) + u16::from(bottom[N + o]);
                    out[c] = f32::from(sum) * scale[c] + self.bias[c];
                }
            }
        });
    }

    /// Rows first (a weighted sum of whole rows, which vectorises), then columns.
    fn resample<const N: usize>(&self, image: &ImageView<'_>, offsets: [usize; CHANNELS], out: &mut [f32]) {
        out.par_chunks_mut(self.width * CHANNELS).enumerate().for_each_init(
            || vec![0.0_f32; image.width() * N],
            |blended, (y, out)| {
                let (first, weights) = self.rows.at(y);
                for (i, &weight) in weights.iter().enumerate() {
                    let row = image.row(first + i);
                    if i == 0 {
                        blended.iter_mut().zip(row).for_each(|(b, &v)| *b = weight * f32::from(v));
                    } else {
                        blended.iter_mut().zip(row).for_each(|(b, &v)| *b += weight * f32::from(v));
                    }
                }
                for (x, out) in out.chunks_exact_mut(CHANNELS).enumerate() {
                    let (first, weights) = self.columns.at(x);
                    let mut sum = [0.0_f32; CHANNELS];
                    for (pixel, &weight) in blended[first * N..].chunks_exact(N).zip(weights) {
                        for c in 0..CHANNELS {
                            sum[c] += weight * pixel[offsets[c]];
                        }
                    }
                    for c in 0..CHANNELS {
                        out[c] = sum[c] * self.scale[c] + self.bias[c];
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::view::Encoding;

    fn spec(width: usize, height: usize, channel_order: ChannelOrder) -> InputSpec {
        InputSpec { width, height, channel_order, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }

    /// Repeatable bytes.
    fn bytes(n: usize) -> Vec<u8> {
        let mut state = 12345_u32;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect()
    }

    /// The definition, a pixel at a time, in f64.
    fn reference(image: &ImageView<'_>, spec: &InputSpec) -> Vec<f32> {
        let axis = |i: usize, source: usize, destination: usize| -> Vec<(usize, f64)> {
            let scale = source as f64 / destination as f64;
            if scale >= 2.0 {
                let (lo, hi) = (i as f64 * scale, (i as f64 + 1.0) * scale);
                (0..source)
                    .map(|j| (j, (hi.min(j as f64 + 1.0) - lo.max(j as f64)).max(0.0) / scale))
                    .filter(|t| t.1 > 0.0)
                    .collect()
            } else {
                let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
                let j = (at as usize).min(source - 1);
                let w = if j + 1 < source { at - j as f64 } else { 0.0 };
                vec![(j, 1.0 - w), ((j + 1).min(source - 1), w)]
            }
        };
        let n = image.encoding().channels();
        let mut offsets = image.encoding().rgb_offsets();
        if spec.channel_order == ChannelOrder::Bgr {
            offsets.reverse();
        }
        let mut out = Vec::new();
        for y in 0..spec.height {
            for x in 0..spec.width {
                for (c, &offset) in offsets.iter().enumerate() {
                    let mut sum = 0.0;
                    for &(sy, wy) in &axis(y, image.height(), spec.height) {
                        for &(sx, wx) in &axis(x, image.width(), spec.width) {
                            sum += wy * wx * f64::from(image.row(sy)[sx * n + offset]);
                        }
                    }
                    out.push(((sum / 255.0 - f64::from(spec.mean[c])) / f64::from(spec.std[c])) as f32);
                }
            }
        }
        out
    }

    #[test]
    fn every_size_and_encoding_matches_the_definition() {
        for encoding in Encoding::DIRECT {
            for order in [ChannelOrder::Rgb, ChannelOrder::Bgr] {
                // (source) 1x1, up, 1:1, between 1 and 2, exactly 2, more than 2, thin, mixed up and down
                for (w, h) in [(1, 1), (5, 3), (16, 8), (23, 11), (32, 16), (61, 37), (409, 3), (3, 99)] {
                    let spec = spec(16, 8, order);
                    let step = w * encoding.channels() + 3;
                    let data = bytes(step * h);
                    let image = ImageView::new(encoding.name(), w as u32, h as u32, step as u32, false, &data)
                        .expect("a valid layout");
                    let mut builder = InputBuilder::new(&spec);
                    let mut out = vec![f32::NAN; builder.len()];
                    builder.build(&image, &mut out);
                    for (i, (a, b)) in out.iter().zip(reference(&image, &spec)).enumerate() {
                        assert!((a - b).abs() < 2e-5, "{} {w}x{h} {order:?} at {i}: {a} for {b}", encoding.name());
                    }
                }
            }
        }
    }

    #[test]
    fn a_builder_follows_changing_sizes() {
        let spec = spec(16, 8, ChannelOrder::Rgb);
        let mut builder = InputBuilder::new(&spec);
        let mut out = vec![f32::NAN; builder.len()];
        for (w, h) in [(40, 40), (7, 9), (32, 16), (7, 9)] {
            let data = bytes(w * h * 3);
            let image = ImageView::rgb8(w as u32, h as u32, &data).expect("a valid layout");
            builder.build(&image, &mut out);
            for (a, b) in out.iter().zip(reference(&image, &spec)) {
                assert!((a - b).abs() < 2e-5, "{w}x{h}");
            }
        }
    }
}

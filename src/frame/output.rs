//! The network's answer -> labels, metres and a picture, at the source image's own size.
//!
//! The full-resolution answer is *defined* as: scores and depth code interpolated bilinearly (half-pixel centres) to
//! the source's size, then the arg-max (the lowest channel among equals) and the depth decoding. Where the four corners
//! of a cell share their arg-max, so does every pixel between them: such pixels need no interpolation.

use super::input::bilinear;
use super::view::ImageView;
use crate::data::classes::Class;
use crate::export::manifest::{DepthDecoding, Manifest};
use rayon::prelude::*;

/// The packed answer of the network in host memory, channels last: `[height, width, channels]`.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Score channels and the depth channel.
    pub channels: usize,
    /// `height x width x channels` values.
    pub data: &'a [f32],
}

impl<'a> Packed<'a> {
    fn pixel(&self, y: usize, x: usize) -> &'a [f32] {
        let start = (y * self.width + x) * self.channels;
        &self.data[start..start + self.channels]
    }
}

/// One axis of the interpolation: for each destination position `(j, next, weight)`.
#[derive(Debug, Default)]
struct Axis {
    source: usize,
    positions: Vec<(u32, u32, f32)>,
}

impl Axis {
    fn fit(&mut self, source: usize, destination: usize) {
        if self.source != source || self.positions.len() != destination {
            self.source = source;
            self.positions.clear();
            self.positions.extend((0..destination).map(|i| {
                let (j, next, weight) = bilinear(i, source, destination);
                (j as u32, next as u32, weight)
            }));
        }
    }
}

/// Most score channels that a model may have: labels are bytes and 255 is "unlabelled".
pub const MAX_CLASSES: usize = 255;

/// Turns packed answers into outputs; keeps every buffer that it needs.
#[derive(Debug)]
pub struct OutputBuilder {
    score_channels: usize,
    depth_channel: usize,
    decoding: DepthDecoding,
    /// Channel -> published id.
    ids: [u8; 256],
    /// Published id -> colour.
    colors: [[u8; 3]; 256],
    columns: Axis,
    rows: Axis,
    /// Arg-max channel of each network pixel.
    best: Vec<u8>,
    /// Depth code of each network pixel.
    code: Vec<f32>,
}

impl OutputBuilder {
    /// For the model described by `manifest`.
    pub fn new(manifest: &Manifest) -> Self {
        let mut ids = [crate::data::classes::UNLABELLED; 256];
        let mut colors = [[0; 3]; 256];
        for (channel, Class { id, color, .. }) in manifest.classes.iter().take(MAX_CLASSES).enumerate() {
            ids[channel] = *id;
            colors[usize::from(*id)] = *color;
        }
        Self {
            score_channels: manifest.output.score_channels,
            depth_channel: manifest.output.depth_channel,
            decoding: manifest.output.depth.clone(),
            ids,
            colors,
            columns: Axis::default(),
            rows: Axis::default(),
            best: Vec::new(),
            code: Vec::new(),
        }
    }

    /// Class ids at `width` x `height`.
    pub fn labels(&mut self, packed: &Packed<'_>, width: usize, height: usize, out: &mut Vec<u8>) {
        let classes = self.score_channels;
        self.best.resize(packed.width * packed.height, 0);
        self.best.par_chunks_mut(packed.width).zip(packed.data.par_chunks(packed.width * packed.channels)).for_each(
            |(best, scores)| {
                for (best, scores) in best.iter_mut().zip(scores.chunks_exact(packed.channels)) {
                    *best = argmax(&scores[..classes]);
                }
            },
        );
        out.resize(width * height, 0);
        self.columns.fit(packed.width, width);
        self.rows.fit(packed.height, height);
        let Self { best, columns, rows, ids, .. } = &*self;
        out.par_chunks_mut(width).zip(&rows.positions).for_each(|(out, &(y0, y1, wy))| {
            let (y0, y1) = (y0 as usize, y1 as usize);
            let (top, bottom) =
                (&best[y0 * packed.width..][..packed.width], &best[y1 * packed.width..][..packed.width]);
            let mut mixed = [0.0_f32; MAX_CLASSES];
            for (out, &(x0, x1, wx)) in out.iter_mut().zip(&columns.positions) {
                let (x0, x1) = (x0 as usize, x1 as usize);
                let corner = top[x0];
                let channel = if corner == top[x1] && corner == bottom[x0] && corner == bottom[x1] {
                    corner
                } else {
                    let mixed = &mut mixed[..classes];
                    let corners = [(y0, x0), (y0, x1), (y1, x0), (y1, x1)].map(|(y, x)| &packed.pixel(y, x)[..classes]);
                    let weights = corner_weights(wx, wy);
                    for (c, m) in mixed.iter_mut().enumerate() {
                        *m = weights[0] * corners[0][c]
                            + weights[1] * corners[1][c]
                            + weights[2] * corners[2][c]
                            + weights[3] * corners[3][c];
                    }
                    argmax(mixed)
                };
                *out = ids[usize::from(channel)];
            }
        });
    }

    /// Depth in metres at `width` x `height`; NaN where the network's answer is not finite.
    pub fn depth(&mut self, packed: &Packed<'_>, width: usize, height: usize, out: &mut Vec<f32>) {
        self.code.resize(packed.width * packed.height, 0.0);
        let channel = self.depth_channel;
        self.code.par_chunks_mut(packed.width).zip(packed.data.par_chunks(packed.width * packed.channels)).for_each(
            |(code, pixels)| {
                for (code, pixel) in code.iter_mut().zip(pixels.chunks_exact(packed.channels)) {
                    *code = pixel[channel];
                }
            },
        );
        out.resize(width * height, 0.0);
        self.columns.fit(packed.width, width);
        self.rows.fit(packed.height, height);
        let Self { code, columns, rows, decoding, .. } = &*self;
        out.par_chunks_mut(width).zip(&rows.positions).for_each_init(
            || vec![0.0_f32; packed.width],
            |blended, (out, &(y0, y1, wy))| {
                let top = &code[y0 as usize * packed.width..][..packed.width];
                let bottom = &code[y1 as usize * packed.width..][..packed.width];
                for ((b, &t), &u) in blended.iter_mut().zip(top).zip(bottom) {
                    *b = t * (1.0 - wy) + u * wy;
                }
                for (out, &(x0, x1, wx)) in out.iter_mut().zip(&columns.positions) {
                    *out = blended[x0 as usize] * (1.0 - wx) + blended[x1 as usize] * wx;
                }
                // A loop of its own, without gathers, so that it vectorises.
                for out in out.iter_mut() {
                    *out = decode(*out, decoding);
                }
            },
        );
    }

    /// The source picture with each class's colour blended over it: `opacity` 0 is the source, 1 the colours alone.
    ///
    /// `labels` are published ids at the image's size.
    pub fn overlay(&self, image: &ImageView<'_>, labels: &[u8], opacity: f32, out: &mut Vec<u8>) {
        let width = image.width();
        out.resize(width * image.height() * 3, 0);
        // Fixed point with 8 bits: exact at both ends.
        let opacity = (opacity.clamp(0.0, 1.0) * 256.0).round() as u32;
        let tinted: Vec<[u32; 3]> = self.colors.iter().map(|c| c.map(|v| u32::from(v) * opacity + 128)).collect();
        let keep = 256 - opacity;
        let (n, [r, g, b]) = (image.encoding().channels(), image.encoding().rgb_offsets());
        out.par_chunks_mut(width * 3).zip(labels.par_chunks(width)).enumerate().for_each(|(y, (out, labels))| {
            for ((out, pixel), &label) in out.chunks_exact_mut(3).zip(image.row(y).chunks_exact(n)).zip(labels) {
                let color = &tinted[usize::from(label)];
                for (c, source) in [pixel[r], pixel[g], pixel[b]].into_iter().enumerate() {
                    out[c] = ((u32::from(source) * keep + color[c]) >> 8) as u8;
                }
            }
        });
    }
}

/// Weights of the corners (y0, x0), (y0, x1), (y1, x0), (y1, x1).
fn corner_weights(wx: f32, wy: f32) -> [f32; 4] {
    [(1.0 - wy) * (1.0 - wx), (1.0 - wy) * wx, wy * (1.0 - wx), wy * wx]
}

/// Index of the greatest value, the lowest among equals. NaN never wins; all NaN is 0.
fn argmax(values: &[f32]) -> u8 {
    let mut best = 0;
    let mut value = f32::NEG_INFINITY;
    for (i, &v) in values.iter().enumerate() {
        if v > value {
            value = v;
            best = i;
        }
    }
    best as u8
}

/// `clip(exp(scale * code), min_m, max_m)`; NaN where `code` is not finite.
#[inline(always)]
fn decode(code: f32, d: &DepthDecoding) -> f32 {
    let depth_m = exp(code * d.scale).max(d.min_m).min(d.max_m);
    if code.is_finite() {
        depth_m
    } else {
        f32::NAN
    }
}

/// e^x, clamped to what f32 holds, with a relative error under 3e-7: x = k ln 2 + r, then a polynomial of degree 6
/// (the Taylor series, |r| <= ln 2 / 2) times 2^k. Free of branches and calls, so that a loop over it vectorises.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // ln 2 in two parts, the first with few bits, so that k times it is exact (Cody and Waite).
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 x 2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let k = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - k * LN2_HI) - k * LN2_LO;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    p * f32::from_bits(((k as i32 + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 * 2.0 - 1.0
            })
            .collect()
    }

    fn builder(classes: usize) -> OutputBuilder {
        let mut ids = [255; 256];
        let mut colors = [[0; 3]; 256];
        for c in 0..classes - 1 {
            ids[c] = c as u8 + 3;
            colors[c + 3] = [c as u8, 100, 200];
        }
        OutputBuilder {
            score_channels: classes,
            depth_channel: classes,
            decoding: DepthDecoding { scale: 5.0, min_m: 0.1, max_m: 250.0, focal_length_px: 1000.0 },
            ids,
            colors,
            columns: Axis::default(),
            rows: Axis::default(),
            best: Vec::new(),
            code: Vec::new(),
        }
    }

    /// Smooth patches with noise, so that both uniform and mixed cells occur.
    fn packed_data(w: usize, h: usize, channels: usize) -> Vec<f32> {
        let mut data = noise(w * h * channels, 7);
        for y in 0..h {
            for x in 0..w {
                let favourite = (x / 5 + 3 * (y / 4)) % (channels - 1);
                data[(y * w + x) * channels + favourite] += 1.5;
            }
        }
        data
    }

    #[test]
    fn labels_are_the_argmax_of_the_interpolated_scores_at_every_size() {
        let (w, h, classes) = (24, 12, 20);
        let data = packed_data(w, h, classes + 1);
        let packed = Packed { width: w, height: h, channels: classes + 1, data: &data };
        let mut b = builder(classes);
        let mut out = Vec::new();
        for (width, height) in [(48, 24), (24, 12), (1, 1), (101, 67), (7, 5), (400, 3)] {
            b.labels(&packed, width, height, &mut out);
            assert_eq!(out.len(), width * height);
            let mut seen = std::collections::BTreeSet::new();
            for y in 0..height {
                for x in 0..width {
                    let (y0, y1, wy) = bilinear(y, h, height);
                    let (x0, x1, wx) = bilinear(x, w, width);
                    let k = corner_weights(wx, wy);
                    let score = |c: usize| {
                        k[0] * packed.pixel(y0, x0)[c]
                            + k[1] * packed.pixel(y0, x1)[c]
                            + k[2] * packed.pixel(y1, x0)[c]
                            + k[3] * packed.pixel(y1, x1)[c]
                    };
                    let mut best = 0;
                    for c in 1..classes {
                        if score(c) > score(best) {
                            best = c;
                        }
                    }
                    assert_eq!(out[y * width + x], b.ids[best], "{width}x{height} at {x},{y}");
                    seen.insert(best);
                }
            }
            if width * height > 100 {
                assert!(seen.len() > 5, "the pattern has many classes: {seen:?}");
            }
        }
    }

    #[test]
    fn depth_matches_torchs_bilinear_and_the_decoding() {
        let (w, h) = (24, 12);
        let data = noise(w * h * 3, 3);
        let packed = Packed { width: w, height: h, channels: 3, data: &data };
        let mut b = builder(2);
        let mut out = Vec::new();
        for (width, height) in [(48, 24), (24, 12), (1, 1), (101, 67), (7, 5)] {
            b.depth(&packed, width, height, &mut out);
            let expected = (tch::Tensor::from_slice(&data)
                .reshape([1, h as i64, w as i64, 3])
                .permute([0, 3, 1, 2])
                .narrow(1, 2, 1)
                .upsample_bilinear2d([height as i64, width as i64], false, None, None)
                * 5.0)
                .exp()
                .clamp(0.1, 250.0)
                .reshape([-1]);
            let expected = Vec::<f32>::try_from(expected).expect("a flat tensor");
            for (i, (a, e)) in out.iter().zip(expected).enumerate() {
                // Both interpolate in single precision, in another order; the exponential makes 5 times as much of it.
                assert!((a - e).abs() <= 3e-5 * e, "{width}x{height} at {i}: {a} for {e}");
            }
        }
    }

    #[test]
    fn depth_is_nan_where_the_answer_is_not_finite_and_clipped_elsewhere() {
        let data = [0.0, f32::NAN, 0.0, f32::INFINITY, 0.0, 9.0, 0.0, -9.0];
        let packed = Packed { width: 4, height: 1, channels: 2, data: &data };
        let mut b = builder(2);
        b.depth_channel = 1;
        let mut out = Vec::new();
        b.depth(&packed, 4, 1, &mut out);
        assert!(out[0].is_nan() && out[1].is_nan(), "{out:?}");
        assert_eq!(out[2..], [250.0, 0.1]);
    }

    #[test]
    fn the_exponential_is_exact_to_single_precision() {
        for i in -86_000..=88_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) - expected).abs() / expected < 3e-7, "e^{x} = {} for {expected}", exp(x));
        }
    }

    #[test]
    fn the_overlay_is_the_source_at_0_and_the_colours_at_1() {
        let b = builder(4);
        // bgra8: blue, green, red, alpha
        let data = [10, 20, 30, 0, 40, 50, 60, 0];
        let image = ImageView::new("bgra8", 2, 1, 8, false, &data).expect("a valid layout");
        let mut out = Vec::new();
        b.overlay(&image, &[4, 255], 0.0, &mut out);
        assert_eq!(out, [30, 20, 10, 60, 50, 40]);
        b.overlay(&image, &[4, 255], 1.0, &mut out);
        assert_eq!(out, [1, 100, 200, 0, 0, 0]);
        b.overlay(&image, &[4, 255], 0.5, &mut out);
        assert_eq!(out, [16, 60, 105, 30, 25, 20], "half way, rounded half up");
    }
}

//! The network's answer -> labels, metres and pictures, where and as large as the geometry says.
//!
//! An output is *defined* as: scores and depth code interpolated bilinearly (half-pixel centres, [`Geometry`]) at the
//! output pixel's place, then the arg-max (the lowest channel among equals) and the depth decoding. Where the four
//! corners of a cell share their arg-max, so does every pixel between them: such pixels need no interpolation.

use super::geometry::{Axis, Geometry, Position};
use super::resample::{Cache, Resampler};
use super::view::ImageView;
use crate::data::classes::{Class, UNLABELLED};
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
    fn pixel(&self, y: u32, x: u32) -> &'a [f32] {
        let start = (y as usize * self.width + x as usize) * self.channels;
        &self.data[start..start + self.channels]
    }

    /// The scores of the four corners of a cell, in the order of [`corner_weights`].
    fn corners(&self, row: &Position, column: &Position, classes: usize) -> [&'a [f32]; 4] {
        [(row.first, column.first), (row.first, column.next), (row.next, column.first), (row.next, column.next)]
            .map(|(y, x)| &self.pixel(y, x)[..classes])
    }
}

/// Most score channels that a model may have: labels are bytes and 255 is "unlabelled".
pub const MAX_CLASSES: usize = 255;

/// What belongs to a geometry.
#[derive(Debug)]
struct Plan {
    columns: Axis,
    rows: Axis,
    /// The source picture at the output's size, and where in the output; `None` where it is the source itself.
    picture: Option<(Resampler, super::geometry::Rect)>,
}

impl Plan {
    fn new(geometry: &Geometry) -> Self {
        let (from, to) = geometry.shown();
        let picture = (from != to).then(|| (Resampler::new(from, (to.width, to.height)), to));
        Self { columns: geometry.columns(), rows: geometry.rows(), picture }
    }
}

/// Turns packed answers into outputs; keeps every buffer that it needs, and what belongs to the geometries it has seen
/// lately.
#[derive(Debug)]
pub struct OutputBuilder {
    score_channels: usize,
    depth_channel: usize,
    decoding: DepthDecoding,
    /// Channel -> published id.
    ids: [u8; 256],
    /// Published id -> colour.
    colors: [[u8; 3]; 256],
    plans: Cache<Geometry, Plan>,
    /// Arg-max channel of each network pixel.
    best: Vec<u8>,
    /// Depth code of each network pixel.
    code: Vec<f32>,
}

impl OutputBuilder {
    /// For the model described by `manifest`.
    pub fn new(manifest: &Manifest) -> Self {
        let mut ids = [UNLABELLED; 256];
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
            plans: Cache::new(),
            best: Vec::new(),
            code: Vec::new(),
        }
    }

    /// Class ids at the output's size; 255 where the network saw nothing.
    pub fn labels(&mut self, packed: &Packed<'_>, geometry: &Geometry, out: &mut Vec<u8>) {
        let classes = self.score_channels;
        self.best.resize(packed.width * packed.height, 0);
        self.best.par_chunks_mut(packed.width).zip(packed.data.par_chunks(packed.width * packed.channels)).for_each(
            |(best, scores)| {
                for (best, scores) in best.iter_mut().zip(scores.chunks_exact(packed.channels)) {
                    *best = argmax(&scores[..classes]);
                }
            },
        );
        let (width, height) = geometry.output();
        out.resize(width * height, 0);
        let Plan { columns, rows, .. } = self.plans.get(geometry, || Plan::new(geometry));
        let (best, ids) = (&self.best, &self.ids);
        out.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
            let Some(row) = rows.at(y) else { return out.fill(UNLABELLED) };
            let line = |y: u32| &best[y as usize * packed.width..][..packed.width];
            let (top, bottom) = (line(row.first), line(row.next));
            let mut mixed = [0.0_f32; MAX_CLASSES];
            out[..columns.seen.start].fill(UNLABELLED);
            out[columns.seen.end..].fill(UNLABELLED);
            for (out, column) in out[columns.seen.clone()].iter_mut().zip(&columns.positions) {
                let (x0, x1) = (column.first as usize, column.next as usize);
                let corner = top[x0];
                let channel = if corner == top[x1] && corner == bottom[x0] && corner == bottom[x1] {
                    corner
                } else {
                    let mixed = &mut mixed[..classes];
                    interpolate(packed, row, column, mixed);
                    argmax(mixed)
                };
                *out = ids[usize::from(channel)];
            }
        });
    }

    /// Depth in metres, times `factor`, at the output's size; NaN where the network's answer is not finite or where it
    /// saw nothing.
    pub fn depth(&mut self, packed: &Packed<'_>, geometry: &Geometry, factor: f32, out: &mut Vec<f32>) {
        self.code.resize(packed.width * packed.height, 0.0);
        let channel = self.depth_channel;
        self.code.par_chunks_mut(packed.width).zip(packed.data.par_chunks(packed.width * packed.channels)).for_each(
            |(code, pixels)| {
                for (code, pixel) in code.iter_mut().zip(pixels.chunks_exact(packed.channels)) {
                    *code = pixel[channel];
                }
            },
        );
        let (width, height) = geometry.output();
        out.resize(width * height, 0.0);
        let Plan { columns, rows, .. } = self.plans.get(geometry, || Plan::new(geometry));
        let (code, decoding) = (&self.code, &self.decoding);
        out.par_chunks_mut(width).enumerate().for_each_init(
            || vec![0.0_f32; packed.width],
            |blended, (y, out)| {
                let Some(row) = rows.at(y) else { return out.fill(f32::NAN) };
                let line = |y: u32| &code[y as usize * packed.width..][..packed.width];
                for ((b, &t), &u) in blended.iter_mut().zip(line(row.first)).zip(line(row.next)) {
                    *b = t * (1.0 - row.weight) + u * row.weight;
                }
                out[..columns.seen.start].fill(f32::NAN);
                out[columns.seen.end..].fill(f32::NAN);
                let out = &mut out[columns.seen.clone()];
                for (out, p) in out.iter_mut().zip(&columns.positions) {
                    *out = blended[p.first as usize] * (1.0 - p.weight) + blended[p.next as usize] * p.weight;
                }
                // A loop of its own, without gathers, so that it vectorises.
                for out in out.iter_mut() {
                    *out = factor * decode(*out, decoding);
                }
            },
        );
    }

    /// The softmax probability of the arg-max of the interpolated scores, at the output's size; NaN where a score is
    /// not a number or where the network saw nothing.
    pub fn confidence(&mut self, packed: &Packed<'_>, geometry: &Geometry, out: &mut Vec<f32>) {
        let classes = self.score_channels;
        let (width, height) = geometry.output();
        out.resize(width * height, 0.0);
        let Plan { columns, rows, .. } = self.plans.get(geometry, || Plan::new(geometry));
        out.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
            let Some(row) = rows.at(y) else { return out.fill(f32::NAN) };
            out[..columns.seen.start].fill(f32::NAN);
            out[columns.seen.end..].fill(f32::NAN);
            let mut mixed = [0.0_f32; MAX_CLASSES];
            let mixed = &mut mixed[..classes];
            for (out, column) in out[columns.seen.clone()].iter_mut().zip(&columns.positions) {
                interpolate(packed, row, column, mixed);
                let best = mixed[usize::from(argmax(mixed))];
                // The arg-max's own term is e^0.
                *out = 1.0 / mixed.iter().map(|&s| if s.is_nan() { f32::NAN } else { exp(s - best) }).sum::<f32>();
            }
        });
    }

    /// The source picture, at the output's size, with each class's colour blended over it: `opacity` 0 is the source,
    /// 1 the colours alone. What the network did not see is the source, and black where the output shows no source.
    ///
    /// `labels` are published ids at the output's size.
    pub fn overlay(
        &mut self,
        image: &ImageView<'_>,
        geometry: &Geometry,
        labels: &[u8],
        opacity: f32,
        out: &mut Vec<u8>,
    ) {
        let (width, height) = geometry.output();
        out.resize(width * height * 3, 0);
        // Fixed point with 8 bits: exact at both ends.
        let opacity = (opacity.clamp(0.0, 1.0) * 256.0).round() as u32;
        let tinted: Vec<[u32; 3]> = self.colors.iter().map(|c| c.map(|v| u32::from(v) * opacity + 128)).collect();
        let keep = 256 - opacity;
        let blend = |out: &mut [u8; 3], pixel: [u8; 3], label: u8| {
            let color = &tinted[usize::from(label)];
            for c in 0..3 {
                out[c] = ((u32::from(pixel[c]) * keep + color[c]) >> 8) as u8;
            }
        };
        let (n, [r, g, b]) = (image.encoding().channels(), image.encoding().rgb_offsets());
        let Plan { columns, rows, picture } = self.plans.get(geometry, || Plan::new(geometry));
        out.par_chunks_mut(width * 3).zip(labels.par_chunks(width)).enumerate().for_each_init(
            || (Vec::new(), Vec::new()),
            |(scratch, pixels), (y, (out, labels))| {
                let (out, _) = out.as_chunks_mut::<3>();
                match picture {
                    None => {
                        for (out, pixel) in out.iter_mut().zip(image.row(y).chunks_exact(n)) {
                            *out = [pixel[r], pixel[g], pixel[b]];
                        }
                    }
                    Some((resampler, to)) => {
                        out.fill([0; 3]);
                        let Some(y) = y.checked_sub(to.y).filter(|y| *y < to.height) else { return };
                        pixels.resize(to.width, [0_u8; 3]);
                        resampler.row(image, y, scratch, pixels, |out, values| {
                            *out = [values[r], values[g], values[b]].map(|v| (v + 0.5) as u8);
                        });
                        out[to.x..to.x + to.width].copy_from_slice(pixels);
                    }
                }
                if rows.at(y).is_some() {
                    let seen = columns.seen.clone();
                    for (out, &label) in out[seen.clone()].iter_mut().zip(&labels[seen]) {
                        blend(out, *out, label);
                    }
                }
            },
        );
    }

    /// The classes' colours, black for unlabelled.
    pub fn colors(&self, labels: &[u8], out: &mut Vec<u8>) {
        out.resize(labels.len() * 3, 0);
        let (pixels, _) = out.as_chunks_mut::<3>();
        pixels.par_chunks_mut(CHUNK).zip(labels.par_chunks(CHUNK)).for_each(|(out, labels)| {
            for (out, &label) in out.iter_mut().zip(labels) {
                *out = self.colors[usize::from(label)];
            }
        });
    }

    /// `values` of the labels.
    pub fn mask(&self, labels: &[u8], values: &[u8; 256], out: &mut Vec<u8>) {
        out.resize(labels.len(), 0);
        out.par_chunks_mut(CHUNK).zip(labels.par_chunks(CHUNK)).for_each(|(out, labels)| {
            for (out, &label) in out.iter_mut().zip(labels) {
                *out = values[usize::from(label)];
            }
        });
    }
}

/// Pixels of one task where rows do not matter.
const CHUNK: usize = 1 << 16;

/// The scores at one place.
#[inline(always)]
fn interpolate(packed: &Packed<'_>, row: &Position, column: &Position, out: &mut [f32]) {
    let corners = packed.corners(row, column, out.len());
    let weights = corner_weights(column.weight, row.weight);
    for (c, out) in out.iter_mut().enumerate() {
        *out = weights[0] * corners[0][c]
            + weights[1] * corners[1][c]
            + weights[2] * corners[2][c]
            + weights[3] * corners[3][c];
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
    use crate::frame::geometry::{OutputSize, Placement};

    /// An answer of `network` stretched to `output`.
    fn stretch(network: (usize, usize), (width, height): (usize, usize)) -> Geometry {
        let placement = Placement { output: OutputSize::Fixed { width, height }, ..Placement::default() };
        Geometry::new(&placement, (width, height), network).expect("a stretch always fits")
    }

    /// PyTorch's bilinear interpolation, `align_corners=False`: `(j, next, weight)`.
    fn bilinear(i: usize, source: usize, destination: usize) -> (u32, u32, f32) {
        let scale = source as f64 / destination as f64;
        let at = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (source - 1) as f64);
        let j = at.floor();
        let next = (j as usize + 1).min(source - 1);
        (j as u32, next as u32, if next as f64 > j { (at - j) as f32 } else { 0.0 })
    }

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
            plans: Cache::new(),
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
            b.labels(&packed, &stretch((w, h), (width, height)), &mut out);
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
            b.depth(&packed, &stretch((w, h), (width, height)), 1.0, &mut out);
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
        b.depth(&packed, &stretch((4, 1), (4, 1)), 1.0, &mut out);
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
        let mut b = builder(4);
        let geometry = stretch((2, 1), (2, 1));
        // bgra8: blue, green, red, alpha
        let data = [10, 20, 30, 0, 40, 50, 60, 0];
        let image = ImageView::new("bgra8", 2, 1, 8, false, &data).expect("a valid layout");
        let mut out = Vec::new();
        b.overlay(&image, &geometry, &[4, 255], 0.0, &mut out);
        assert_eq!(out, [30, 20, 10, 60, 50, 40]);
        b.overlay(&image, &geometry, &[4, 255], 1.0, &mut out);
        assert_eq!(out, [1, 100, 200, 0, 0, 0]);
        b.overlay(&image, &geometry, &[4, 255], 0.5, &mut out);
        assert_eq!(out, [16, 60, 105, 30, 25, 20], "half way, rounded half up");
    }
}

//! Resampling of 8-bit pictures, and the bounded memory of what belongs to a geometry.
//!
//! Down-scaling by 2 or more averages over the covered area (so that nothing aliases); anything else is bilinear with
//! half-pixel centres. At exactly 2 the two agree: both are the 2x2 mean.

use super::geometry::Rect;
use super::view::ImageView;
use multiversion::multiversion;
use std::ops::Range;

/// For each destination position: first source position, and where its weights lie in `weights`.
#[derive(Debug)]
struct Taps {
    spans: Vec<(usize, Range<usize>)>,
    weights: Vec<f32>,
}

impl Taps {
    /// Weights that resample `from`, a part of a source's positions, to `destination` positions; each position's
    /// weights sum to 1, and none lies outside of `from`.
    fn new(from: Range<usize>, destination: usize) -> Self {
        let (mut spans, mut weights) = (Vec::with_capacity(destination), Vec::new());
        let source = from.len();
        let scale = source as f64 / destination as f64;
        for i in 0..destination {
            let start = weights.len();
            let first = if scale >= 2.0 {
                // Area: source position j covers [j, j + 1); its share is the overlap with [lo, hi).
                let (lo, hi) = (i as f64 * scale, ((i + 1) as f64 * scale).min(source as f64));
                let first = lo.floor() as usize;
                let mut j = first;
                while j < source && (j as f64) < hi {
                    let overlap = (hi.min(j as f64 + 1.0) - lo.max(j as f64)).max(0.0);
                    weights.push((overlap / (hi - lo)) as f32);
                    j += 1;
                }
                first
            } else {
                let at = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (source - 1) as f64);
                let j = at.floor() as usize;
                let weight = (at - j as f64) as f32;
                weights.push(1.0 - weight);
                if weight > 0.0 {
                    weights.push(weight);
                }
                j
            };
            spans.push((from.start + first, start..weights.len()));
        }
        Self { spans, weights }
    }

    fn at(&self, i: usize) -> (usize, &[f32]) {
        let (first, range) = &self.spans[i];
        (*first, &self.weights[range.clone()])
    }
}

/// Resamples a rectangle of an image to another size; made once, used row by row.
#[derive(Debug)]
pub(super) struct Resampler {
    columns: Taps,
    rows: Taps,
    /// Source columns that the taps read.
    span: Range<usize>,
}

impl Resampler {
    /// From the part `from` of the source images to (`width`, `height`).
    pub fn new(from: Rect, (width, height): (usize, usize)) -> Self {
        let span = from.x..from.x + from.width;
        Self { columns: Taps::new(span.clone(), width), rows: Taps::new(from.y..from.y + from.height, height), span }
    }

    /// Row `y` of the result: hands each pixel's channels, in the image's own order, to `out`'s pixels by way of
    /// `put`. `scratch` is any vector, kept between calls.
    #[inline(always)]
    pub fn row<T>(
        &self,
        image: &ImageView<'_>,
        y: usize,
        scratch: &mut Vec<f32>,
        out: &mut [T],
        put: impl Fn(&mut T, [f32; 4]),
    ) {
        let n = image.encoding().channels();
        // Pixels are read four values at a time below; what is beyond the last one is read and not used.
        scratch.resize(self.span.len() * n + 4, 0.0);
        let (first, weights) = self.rows.at(y);
        let bytes = self.span.start * n..self.span.end * n;
        blend(|i| &image.row(first + i)[bytes.clone()], weights, &mut scratch[..self.span.len() * n]);
        // Constant pixel sizes let the compiler unroll.
        match n {
            1 => self.gather::<1, T>(scratch, out, put),
            3 => self.gather::<3, T>(scratch, out, put),
            _ => self.gather::<4, T>(scratch, out, put),
        }
    }

    #[inline(always)]
    fn gather<const N: usize, T>(&self, blended: &[f32], out: &mut [T], put: impl Fn(&mut T, [f32; 4])) {
        for (out, (first, range)) in out.iter_mut().zip(&self.columns.spans) {
            let mut sum = [0.0_f32; 4];
            let mut at = (first - self.span.start) * N;
            for &weight in &self.columns.weights[range.clone()] {
                let pixel = &blended[at..at + 4];
                for c in 0..4 {
                    sum[c] += weight * pixel[c];
                }
                at += N;
            }
            put(out, sum);
        }
    }
}

/// The weighted sum of whole rows.
#[inline(always)]
fn blend<'a>(row: impl Fn(usize) -> &'a [u8], weights: &[f32], out: &mut [f32]) {
    match weights {
        [_] => out.iter_mut().zip(row(0)).for_each(|(o, &v)| *o = f32::from(v)),
        _ => {
            for (i, pair) in weights.chunks(2).enumerate() {
                // Two rows at a time halve the passes over `out`.
                let (a, wa) = (row(2 * i), pair[0]);
                let (b, wb) = if pair.len() == 2 { (row(2 * i + 1), pair[1]) } else { (a, 0.0) };
                blend_two(a, wa, b, wb, i == 0, out);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn blend_two(a: &[u8], wa: f32, b: &[u8], wb: f32, first: bool, out: &mut [f32]) {
    let pairs = out.iter_mut().zip(a.iter().zip(b));
    if first {
        pairs.for_each(|(o, (&a, &b))| *o = wa * f32::from(a) + wb * f32::from(b));
    } else {
        pairs.for_each(|(o, (&a, &b))| *o += wa * f32::from(a) + wb * f32::from(b));
    }
}

/// What was made for the keys that were used last. Cameras take turns on one pipeline, so one entry is not enough; a
/// stream of ever new keys must not grow without bound either.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    /// The most recently used last.
    entries: Vec<(K, V)>,
}

/// More than the cameras of one pipeline ([`super::pipeline::MOST_BATCH`]).
const CACHED: usize = 40;

impl<K: PartialEq + Clone, V> Cache<K, V> {
    pub fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// What belongs to `key`, made if it is not there.
    pub fn get(&mut self, key: &K, make: impl FnOnce() -> V) -> &V {
        let entry = match self.entries.iter().position(|(k, _)| k == key) {
            Some(at) => self.entries.remove(at),
            None => {
                if self.entries.len() >= CACHED {
                    self.entries.remove(0);
                }
                (key.clone(), make())
            }
        };
        let at = self.entries.len();
        self.entries.push(entry);
        &self.entries[at].1
    }
}

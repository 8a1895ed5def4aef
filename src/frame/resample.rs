//! Resampling of 8-bit pictures, and the bounded memory of what belongs to a geometry.
//!
//! Down-scaling by 2 or more averages over the covered area (so that nothing aliases); anything else is bilinear with
//! half-pixel centres. At exactly 2 the two agree: both are the 2x2 mean.

use super::convert::Rows;
use super::geometry::Rect;
use multiversion::multiversion;
use std::convert::Infallible;
use std::ops::Range;

/// For each destination position: the first source position, and as many weights as every other position has (zeros
/// where it needs fewer), so that the loop over them has one length.
#[derive(Debug)]
struct Taps {
    firsts: Vec<usize>,
    count: usize,
    /// `destination x count`.
    weights: Vec<f32>,
}

impl Taps {
    /// Weights that resample `from`, a part of a source's positions, to `destination` positions; each position's
    /// weights sum to 1, and none lies outside of `from`.
    fn new(from: Range<usize>, destination: usize) -> Self {
        let source = from.len();
        let scale = source as f64 / destination as f64;
        let taps: Vec<(usize, Vec<f32>)> = (0..destination)
            .map(|i| {
                if scale >= 2.0 {
                    // Area: source position j covers [j, j + 1); its share is the overlap with [lo, hi).
                    let (lo, hi) = (i as f64 * scale, ((i + 1) as f64 * scale).min(source as f64));
                    let first = lo.floor() as usize;
                    let overlap = |j: usize| (hi.min(j as f64 + 1.0) - lo.max(j as f64)).max(0.0);
                    let covered = (first..source).take_while(|j| (*j as f64) < hi);
                    (first, covered.map(|j| (overlap(j) / (hi - lo)) as f32).collect())
                } else {
                    let at = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (source - 1) as f64);
                    let j = at.floor() as usize;
                    let weight = (at - j as f64) as f32;
                    (j, if weight > 0.0 { vec![1.0 - weight, weight] } else { vec![1.0] })
                }
            })
            .collect();
        let count = taps.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1);
        let mut weights = vec![0.0; destination * count];
        let firsts = taps
            .iter()
            .zip(weights.chunks_exact_mut(count))
            .map(|((first, own), weights)| {
                // Positions at the end have their zeros in front, so that nothing beyond `from` is read.
                let shift = (first + count).saturating_sub(source);
                weights[shift..shift + own.len()].copy_from_slice(own);
                from.start + first - shift
            })
            .collect();
        Self { firsts, count, weights }
    }
}

/// The weights along one axis, for who resamples elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    /// For each destination position the first source position.
    pub firsts: &'a [usize],
    /// Source positions of each.
    pub count: usize,
    /// `destination x count`.
    pub weights: &'a [f32],
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
        Self { columns: Taps::new(from.columns(), width), rows: Taps::new(from.rows(), height), span: from.columns() }
    }

    /// The weights of the columns and of the rows.
    pub fn tables(&self) -> [Table<'_>; 2] {
        [&self.columns, &self.rows].map(|t| Table { firsts: &t.firsts, count: t.count, weights: &t.weights })
    }

    /// Row `y` of the result: hands the red, green and blue of each pixel, 0 to 255, to `out`'s pixels by way of `put`.
    /// `scratch` is any vector, kept between calls.
    #[inline(always)]
    pub fn row<T>(
        &self,
        source: &mut Rows<'_>,
        y: usize,
        scratch: &mut Vec<f32>,
        out: &mut [T],
        put: impl Fn(&mut T, [f32; 3]),
    ) {
        let pixels = source.pixels();
        let n = pixels.channels();
        let len = self.span.len() * n;
        // Pixels are read four values at a time below; what is beyond the last one is read and not used.
        scratch.resize(len + 4, 0.0);
        let weights = &self.rows.weights[y * self.rows.count..][..self.rows.count];
        blend(source, self.rows.firsts[y], self.span.start * n, weights, &mut scratch[..len]);
        // Constant pixel sizes and orders let the compiler unroll.
        match (n, pixels.rgb_offsets()) {
            (1, _) => self.gather::<1, T>(scratch, out, |out, [v, ..]| put(out, [v; 3])),
            (3, [0, ..]) => self.gather::<3, T>(scratch, out, |out, [r, g, b, _]| put(out, [r, g, b])),
            (3, _) => self.gather::<3, T>(scratch, out, |out, [b, g, r, _]| put(out, [r, g, b])),
            (_, [0, ..]) => self.gather::<4, T>(scratch, out, |out, [r, g, b, _]| put(out, [r, g, b])),
            (_, _) => self.gather::<4, T>(scratch, out, |out, [b, g, r, _]| put(out, [r, g, b])),
        }
    }

    #[inline(always)]
    fn gather<const N: usize, T>(&self, blended: &[f32], out: &mut [T], put: impl Fn(&mut T, [f32; 4])) {
        match self.columns.count {
            1 => self.gather_taps::<N, 1, T>(blended, out, put),
            2 => self.gather_taps::<N, 2, T>(blended, out, put),
            3 => self.gather_taps::<N, 3, T>(blended, out, put),
            4 => self.gather_taps::<N, 4, T>(blended, out, put),
            5 => self.gather_taps::<N, 5, T>(blended, out, put),
            _ => self.gather_taps::<N, 0, T>(blended, out, put),
        }
    }

    /// `COUNT` 0 is any number of taps.
    #[inline(always)]
    fn gather_taps<const N: usize, const COUNT: usize, T>(
        &self,
        blended: &[f32],
        out: &mut [T],
        put: impl Fn(&mut T, [f32; 4]),
    ) {
        let count = if COUNT == 0 { self.columns.count } else { COUNT };
        let weights = self.columns.weights.chunks_exact(count);
        for ((out, first), weights) in out.iter_mut().zip(&self.columns.firsts).zip(weights) {
            let pixels = &blended[(first - self.span.start) * N..][..(count - 1) * N + 4];
            let mut sum = [0.0_f32; 4];
            for (i, &weight) in weights.iter().enumerate() {
                for c in 0..4 {
                    sum[c] += weight * pixels[i * N + c];
                }
            }
            put(out, sum);
        }
    }
}

/// The weighted sum of rows from `first`, of the bytes from `start`.
#[inline(always)]
fn blend(source: &mut Rows<'_>, first: usize, start: usize, weights: &[f32], out: &mut [f32]) {
    let bytes = start..start + out.len();
    // Two rows at a time halve the passes over `out`.
    for (i, pair) in weights.chunks(2).enumerate() {
        let y = first + 2 * i;
        match *pair {
            [a, b] => {
                let rows = source.pair(y).map(|row| &row[bytes.clone()]);
                if i == 0 {
                    begin_two(rows, [a, b], out);
                } else {
                    add_two(rows, [a, b], out);
                }
            }
            [weight] => {
                let row = &source.row(y)[bytes.clone()];
                if i == 0 {
                    begin_one(row, weight, out);
                } else {
                    add_one(row, weight, out);
                }
            }
            _ => {}
        }
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn begin_two([a, b]: [&[u8]; 2], [wa, wb]: [f32; 2], out: &mut [f32]) {
    out.iter_mut().zip(a).zip(b).for_each(|((o, &a), &b)| *o = wa * f32::from(a) + wb * f32::from(b));
}

#[multiversion(targets("x86_64+avx2"))]
fn add_two([a, b]: [&[u8]; 2], [wa, wb]: [f32; 2], out: &mut [f32]) {
    out.iter_mut().zip(a).zip(b).for_each(|((o, &a), &b)| *o += wa * f32::from(a) + wb * f32::from(b));
}

#[multiversion(targets("x86_64+avx2"))]
fn begin_one(row: &[u8], weight: f32, out: &mut [f32]) {
    out.iter_mut().zip(row).for_each(|(o, &v)| *o = weight * f32::from(v));
}

#[multiversion(targets("x86_64+avx2"))]
fn add_one(row: &[u8], weight: f32, out: &mut [f32]) {
    out.iter_mut().zip(row).for_each(|(o, &v)| *o += weight * f32::from(v));
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
        let Ok(value) = self.try_get(key, || Ok::<_, Infallible>(make()));
        value
    }

    /// As [`Cache::get`], of what may fail to be made; nothing is kept then.
    pub fn try_get<E>(&mut self, key: &K, make: impl FnOnce() -> Result<V, E>) -> Result<&V, E> {
        let entry = match self.entries.iter().position(|(k, _)| k == key) {
            Some(at) => self.entries.remove(at),
            None => {
                let made = make()?;
                if self.entries.len() >= CACHED {
                    self.entries.remove(0);
                }
                (key.clone(), made)
            }
        };
        let at = self.entries.len();
        self.entries.push(entry);
        Ok(&self.entries[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_was_used_last_and_is_bounded() {
        let mut cache = Cache::new();
        let mut made = 0;
        for turn in 0..3 {
            for key in 0..CACHED {
                assert_eq!(
                    *cache.get(&key, || {
                        made += 1;
                        key * 10
                    }),
                    key * 10,
                    "turn {turn}"
                );
            }
        }
        assert_eq!(made, CACHED, "each was made once");
        cache.get(&0, || unreachable!("it is there"));
        cache.get(&CACHED, || 1);
        cache.get(&0, || unreachable!("it was used after 1 was"));
        cache.get(&1, || {
            made += 1;
            10
        });
        assert_eq!(made, CACHED + 1, "the one that was not used for longest has gone");
        assert_eq!(cache.entries.len(), CACHED);
    }
}

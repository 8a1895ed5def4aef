//! The picture's pixels under a crop, row by row.

use super::placement::{between, Placement};
use crate::data::frame::Decoded;
use multiversion::multiversion;

/// Below this scale a pixel of the crop is the mean of 2 x 2 points, each from the nearest pixel, and below a half of more
/// of them ([`taps_along`]): an area mean, as when a model is deployed. From it on it is one point, interpolated.
const SHRINKING: f32 = 0.95;
/// Where in a pixel two points lie.
const TAPS: [f32; 2] = [0.25, 0.75];

/// Points of a shrunk pixel along an axis: enough to meet every pixel of the frame.
fn taps_along(scale: f32) -> usize {
    // A quarter may come as a little less.
    ((1.0 / scale - 1e-3).ceil() as usize).max(TAPS.len())
}

/// Where in a pixel point `i` of `n` lies.
fn tap(i: usize, n: usize) -> f32 {
    (i as f32 + 0.5) / n as f32
}

/// A row's colours, each by itself.
pub(super) type Colors = [Vec<f32>; 3];

/// Reads rows of a crop.
#[derive(Debug)]
pub(super) struct Sampler<'a> {
    frame: &'a Decoded,
    placement: &'a Placement,
    way: Way,
    /// Interpolated between two rows of the frame, or the sum of several.
    blended: Vec<f32>,
}

#[derive(Debug)]
enum Way {
    /// Offsets of each pixel's two columns.
    Shrunk(Vec<[usize; 2]>),
    /// First and last column, the columns of each pixel one after the other, as offsets from the first, and how many
    /// columns and rows a pixel has.
    Gathered { first: usize, end: usize, columns: Vec<usize>, taps: (usize, usize) },
    /// First and last column, and each pixel's two columns with the second one's weight, as offsets from the first.
    Enlarged { first: usize, end: usize, columns: Vec<(usize, usize, f32)> },
    /// Not along the frame's rows.
    Warped { taps: Option<(usize, usize)> },
}

/// Index of the pixel that a coordinate lies in, clamped to the edge.
fn nearest(v: f32, n: usize) -> usize {
    (v.max(0.0) as usize).min(n - 1)
}

impl<'a> Sampler<'a> {
    pub fn new(frame: &'a Decoded, placement: &'a Placement, width: usize) -> Self {
        let (scale_x, scale_y) = placement.scale;
        let taps = (scale_x.min(scale_y) < SHRINKING).then(|| (taps_along(scale_x), taps_along(scale_y)));
        let column = |x: f32| nearest(placement.column(x), frame.width);
        let way = if !placement.is_straight() {
            Way::Warped { taps }
        } else if taps == Some((TAPS.len(), TAPS.len())) {
            Way::Shrunk((0..width).map(|x| TAPS.map(|t| 3 * column(x as f32 + t))).collect())
        } else if let Some(taps) = taps {
            let of = |x: usize| (0..taps.0).map(move |i| x as f32 + tap(i, taps.0));
            let columns: Vec<usize> = (0..width).flat_map(of).map(column).collect();
            let first = columns.iter().copied().min().unwrap_or(0);
            let end = columns.iter().map(|c| c + 1).max().unwrap_or(0);
            Way::Gathered { first, end, columns: columns.into_iter().map(|c| 3 * (c - first)).collect(), taps }
        } else {
            let columns: Vec<_> =
                (0..width).map(|x| between(placement.column(x as f32 + 0.5) - 0.5, frame.width)).collect();
            let first = columns.iter().map(|c| c.0).min().unwrap_or(0);
            let end = columns.iter().map(|c| c.1 + 1).max().unwrap_or(0);
            let columns = columns.into_iter().map(|(a, b, f)| (3 * (a - first), 3 * (b - first), f)).collect();
            Way::Enlarged { first, end, columns }
        };
        Self { frame, placement, way, blended: Vec::new() }
    }

    /// Points that [`Self::row`] adds up for a pixel.
    pub fn points(&self) -> f32 {
        match self.way {
            Way::Shrunk(_) => 4.0,
            Way::Gathered { taps: (across, down), .. } | Way::Warped { taps: Some((across, down)) } => {
                (across * down) as f32
            }
            Way::Enlarged { .. } | Way::Warped { taps: None } => 1.0,
        }
    }

    /// Row `y` of the crop: sums of values in `0 ..= 255`.
    pub fn row(&mut self, y: usize, out: &mut Colors) {
        let (frame, placement) = (self.frame, self.placement);
        let row = |y: usize| &frame.rgb[3 * y * frame.width..3 * (y + 1) * frame.width];
        match &self.way {
            Way::Shrunk(columns) => {
                let [a, b] = TAPS.map(|t| row(nearest(placement.row(y as f32 + t), frame.height)));
                shrunk(a, b, columns, out);
            }
            Way::Gathered { first, end, columns, taps: (across, down) } => {
                self.blended.clear();
                self.blended.resize(3 * (end - first), 0.0);
                for i in 0..*down {
                    let at = nearest(placement.row(y as f32 + tap(i, *down)), frame.height);
                    add(&row(at)[3 * first..3 * end], &mut self.blended);
                }
                gathered(&self.blended, columns, *across, out);
            }
            Way::Enlarged { first, end, columns } => {
                let (above, below, weight) = between(placement.row(y as f32 + 0.5) - 0.5, frame.height);
                let part = |y| &row(y)[3 * first..3 * end];
                self.blended.resize(3 * (end - first), 0.0);
                blend(part(above), part(below), weight, &mut self.blended);
                enlarged(&self.blended, columns, out);
            }
            Way::Warped { taps } => {
                for x in 0..out[0].len() {
                    let (x_px, y_px) = (x as f32, y as f32);
                    let color = match *taps {
                        Some(taps) => sum_of_points(frame, placement, (x_px, y_px), taps),
                        None => interpolated(frame, placement.source(x_px + 0.5, y_px + 0.5)),
                    };
                    (0..3).for_each(|k| out[k][x] = color[k]);
                }
            }
        }
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn shrunk(above: &[u8], below: &[u8], columns: &[[usize; 2]], out: &mut Colors) {
    let [red, green, blue] = out;
    for (((&[left, right], red), green), blue) in columns.iter().zip(red).zip(green).zip(blue) {
        let points =
            [&above[left..left + 3], &above[right..right + 3], &below[left..left + 3], &below[right..right + 3]];
        let sum = |k: usize| f32::from(points.iter().map(|p| u16::from(p[k])).sum::<u16>());
        (*red, *green, *blue) = (sum(0), sum(1), sum(2));
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn add(row: &[u8], sums: &mut [f32]) {
    sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f32::from(value));
}

/// Adds up `across` columns of each pixel.
#[multiversion(targets("x86_64+avx2"))]
fn gathered(sums: &[f32], columns: &[usize], across: usize, out: &mut Colors) {
    let [red, green, blue] = out;
    for (((columns, red), green), blue) in columns.chunks_exact(across).zip(red).zip(green).zip(blue) {
        let mut sum = [0.0_f32; 3];
        for &at in columns {
            let color = &sums[at..at + 3];
            (0..3).for_each(|k| sum[k] += color[k]);
        }
        [*red, *green, *blue] = sum;
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn blend(above: &[u8], below: &[u8], weight: f32, out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(above).zip(below) {
        *out = f32::from(a) * (1.0 - weight) + f32::from(b) * weight;
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn enlarged(row: &[f32], columns: &[(usize, usize, f32)], out: &mut Colors) {
    let [red, green, blue] = out;
    for (((&(left, right, weight), red), green), blue) in columns.iter().zip(red).zip(green).zip(blue) {
        let (left, right) = (&row[left..left + 3], &row[right..right + 3]);
        let at = |k: usize| left[k] * (1.0 - weight) + right[k] * weight;
        (*red, *green, *blue) = (at(0), at(1), at(2));
    }
}

fn pixel(frame: &Decoded, x: usize, y: usize) -> [f32; 3] {
    let at = 3 * (y * frame.width + x);
    std::array::from_fn(|k| f32::from(frame.rgb[at + k]))
}

/// Sum of the points of a pixel of a warped crop, so many across and down.
fn sum_of_points(
    frame: &Decoded,
    placement: &Placement,
    (x, y): (f32, f32),
    (across, down): (usize, usize),
) -> [f32; 3] {
    let mut sum = [0.0; 3];
    for j in 0..down {
        for i in 0..across {
            let (sx, sy) = placement.source(x + tap(i, across), y + tap(j, down));
            let color = pixel(frame, nearest(sx, frame.width), nearest(sy, frame.height));
            (0..3).for_each(|k| sum[k] += color[k]);
        }
    }
    sum
}

/// Bilinear interpolation at a point of the frame.
fn interpolated(frame: &Decoded, (x, y): (f32, f32)) -> [f32; 3] {
    let ((x0, x1, fx), (y0, y1, fy)) = (between(x - 0.5, frame.width), between(y - 0.5, frame.height));
    let row = |y: usize| {
        let (left, right) = (pixel(frame, x0, y), pixel(frame, x1, y));
        std::array::from_fn::<f32, 3, _>(|k| left[k] * (1.0 - fx) + right[k] * fx)
    };
    let (above, below) = (row(y0), row(y1));
    std::array::from_fn(|k| above[k] * (1.0 - fy) + below[k] * fy)
}

//! The semantic point cloud: labels, depth and the source picture -> the bytes of a `sensor_msgs/PointCloud2`, in the
//! camera's optical frame (x right, y down, z forward; REP 103).
//!
//! Depth is measured along the optical axis, so a point is `(x/z, y/z, 1)` times it. Two kinds of cloud:
//!
//! - Organised, by default: a grid of every `stride`-th pixel, one point a pixel, x, y and z NaN where there is none
//!   (its colour, label and confidence stay the pixel's).
//! - Thinned to voxels: of the same pixels, one point for each cube of space that holds any, in the order in which
//!   their first pixels come.

use super::camera::{source_center, Rays};
use super::geometry::{Geometry, OutputMap};
use super::pipeline::Outputs;
use super::view::ImageView;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use thiserror::Error;

/// `sensor_msgs/PointField`'s number for a 32-bit whole number without sign.
pub const UINT32: u8 = 6;
/// `sensor_msgs/PointField`'s number for a single-precision number.
pub const FLOAT32: u8 = 7;

/// A field of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// Bytes from the start of the point.
    pub offset: u32,
    /// Number of the type in `sensor_msgs/PointField`.
    pub datatype: u8,
    /// Elements.
    pub count: u32,
}

/// The fields of a point, little endian, without padding.
///
/// `rgb` is 0x00RRGGBB as the bits of a FLOAT32, as PCL and RViz read it. `label` is UINT32 and not a byte because PCL
/// takes a field only if its type is the one of its own structure: this is `pcl::PointXYZRGBL`'s (and
/// `pcl::PointXYZL`'s); RViz reads every type. A byte would save nothing: what follows is aligned to four bytes.
pub const FIELDS: [Field; 6] = [
    Field { name: "x", offset: 0, datatype: FLOAT32, count: 1 },
    Field { name: "y", offset: 4, datatype: FLOAT32, count: 1 },
    Field { name: "z", offset: 8, datatype: FLOAT32, count: 1 },
    Field { name: "rgb", offset: 12, datatype: FLOAT32, count: 1 },
    Field { name: "label", offset: 16, datatype: UINT32, count: 1 },
    Field { name: "confidence", offset: 20, datatype: FLOAT32, count: 1 },
];

/// Bytes of a point.
pub const POINT_STEP: u32 = 24;
const STEP: usize = POINT_STEP as usize;

/// What a cloud is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudSettings {
    /// Every how many-th pixel of a row and of a column is taken; 0 means 1.
    pub stride: usize,
    /// Edge of the cubes that points are thinned to, metres; 0 does not thin.
    pub voxel_size_m: f32,
    /// Points farther than this from the camera (not from its image plane) are left out, metres.
    pub max_range_m: f32,
    /// Which labels make points, by published id.
    pub classes: [bool; 256],
}

/// A cloud's part of a `sensor_msgs/PointCloud2`, with [`FIELDS`] and [`POINT_STEP`]; `row_step` is `width` x
/// `POINT_STEP`, `is_bigendian` is false.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cloud {
    /// Points in a row.
    pub width: u32,
    /// Rows; 1 if the cloud is not organised.
    pub height: u32,
    /// Whether no point has NaN coordinates.
    pub is_dense: bool,
    /// `height x width` points.
    pub data: Vec<u8>,
}

/// Inputs that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CloudError {
    /// A grid of another size than the output's.
    #[error("{what} has {found} pixels, but the output is {}x{}", output.0, output.1)]
    Output {
        /// Which.
        what: &'static str,
        /// Columns and rows of the output.
        output: (usize, usize),
        /// Pixels.
        found: usize,
    },
    /// Rays of another grid.
    #[error("the rays are for {}x{} pixels, but the output is {}x{}", found.0, found.1, output.0, output.1)]
    Rays {
        /// Columns and rows of the output.
        output: (usize, usize),
        /// Columns and rows of the rays.
        found: (usize, usize),
    },
    /// A source picture of another size.
    #[error(
        "the source image is {}x{} pixels, but the geometry was made for {}x{}",
        found.0, found.1, expected.0, expected.1
    )]
    Source {
        /// Columns and rows of the geometry's source.
        expected: (usize, usize),
        /// Columns and rows of the image.
        found: (usize, usize),
    },
}

/// Makes clouds; keeps its buffers.
#[derive(Debug, Default)]
pub struct CloudBuilder {
    /// Output column and byte offset of the source pixel in its row, for each column of the grid.
    columns: Vec<(u32, u32)>,
    /// Voxel of every point of the grid; `NO_VOXEL` where there is none.
    keys: Vec<u64>,
    /// Points of the grid, before they are thinned.
    grid: Vec<u8>,
    voxels: Voxels,
}

const NO_VOXEL: u64 = u64::MAX;

impl CloudBuilder {
    /// A builder without buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the cloud of one frame out of labels, depth and confidence (where that was not computed, the points'
    /// confidence is NaN); `out` is replaced.
    ///
    /// `image` is the direct 8-bit source picture: a point's colour is the source pixel under the output pixel's
    /// centre. With a stride the grid's points are the pixels at the middle of each block (`stride / 2` from its left
    /// and upper edge, a block at the right or lower edge that is cut before its middle has none).
    /// Memory is bounded by the grid: at most one voxel a point.
    ///
    /// # Errors
    /// [`CloudError`]: sizes that differ.
    pub fn build(
        &mut self,
        outputs: &Outputs,
        image: &ImageView<'_>,
        geometry: &Geometry,
        rays: &Rays,
        settings: &CloudSettings,
        out: &mut Cloud,
    ) -> Result<(), CloudError> {
        let output = geometry.output();
        let found = (image.width(), image.height());
        if found != geometry.source() {
            return Err(CloudError::Source { expected: geometry.source(), found });
        }
        if rays.size() != output {
            return Err(CloudError::Rays { output, found: rays.size() });
        }
        let pixels = output.0 * output.1;
        for (what, found, needed) in [
            ("labels", outputs.labels.len(), true),
            ("depth", outputs.depth_m.len(), true),
            ("confidence", outputs.confidence.len(), !outputs.confidence.is_empty()),
        ] {
            if needed && found != pixels {
                return Err(CloudError::Output { what, output, found });
            }
        }
        let stride = settings.stride.max(1);
        let (width, height) = (grid_size(output.0, stride), grid_size(output.1, stride));
        let grid = Grid::new(outputs, image, &geometry.output_from_source(), rays, settings, output);
        grid.columns(stride, width, &mut self.columns);
        let columns = self.columns.as_slice();
        let size = width * height * STEP;
        let voxel_size_m = settings.voxel_size_m;
        if voxel_size_m > 0.0 {
            self.grid.resize(size, 0);
            self.keys.resize(width * height, NO_VOXEL);
            let inverse = 1.0 / voxel_size_m;
            self.grid.par_chunks_mut(width * STEP).zip(self.keys.par_chunks_mut(width)).enumerate().for_each(
                |(j, (points, keys))| {
                    let mut keys = keys.iter_mut();
                    grid.row(pixel(j, stride, output.1), columns, points, |point| {
                        if let Some(key) = keys.next() {
                            *key = voxel_of(point, inverse);
                        }
                    });
                },
            );
            self.voxels.thin(&self.grid, &self.keys, &mut out.data);
            out.width = (out.data.len() / STEP) as u32;
            out.height = 1;
            out.is_dense = true;
        } else {
            out.data.resize(size, 0);
            out.data
                .par_chunks_mut(width * STEP)
                .enumerate()
                .for_each(|(j, points)| grid.row(pixel(j, stride, output.1), columns, points, |_| {}));
            out.width = width as u32;
            out.height = height as u32;
            out.is_dense = false;
        }
        Ok(())
    }
}

/// Points along an axis of `length` pixels; at least one.
fn grid_size(length: usize, stride: usize) -> usize {
    length.saturating_sub(stride / 2).div_ceil(stride).max(1)
}

/// The pixel of a point.
fn pixel(i: usize, stride: usize, length: usize) -> usize {
    (i * stride + stride / 2).min(length - 1)
}

/// What every row of a cloud needs.
struct Grid<'a> {
    outputs: &'a Outputs,
    image: &'a ImageView<'a>,
    map: OutputMap,
    rays: &'a Rays,
    classes: &'a [bool; 256],
    max_range_squared: f32,
    width: usize,
}

impl<'a> Grid<'a> {
    fn new(
        outputs: &'a Outputs,
        image: &'a ImageView<'a>,
        map: &OutputMap,
        rays: &'a Rays,
        settings: &'a CloudSettings,
        output: (usize, usize),
    ) -> Self {
        let mut range = settings.max_range_m.max(0.0);
        if settings.voxel_size_m > 0.0 {
            // A voxel's coordinate has 21 bits.
            range = range.min(settings.voxel_size_m * (VOXELS_EACH_WAY - 1) as f32);
        }
        Self {
            outputs,
            image,
            map: *map,
            rays,
            classes: &settings.classes,
            max_range_squared: range * range,
            width: output.0,
        }
    }

    fn columns(&self, stride: usize, count: usize, out: &mut Vec<(u32, u32)>) {
        let channels = self.image.encoding().channels();
        out.clear();
        out.extend((0..count).map(|i| {
            let x = pixel(i, stride, self.width);
            let source = nearest(x, self.map.scale_x, self.map.offset_x, self.image.width());
            (x as u32, (source * channels) as u32)
        }));
    }

    /// The points of output row `y`; each one's coordinates go to `each` too.
    fn row(&self, y: usize, columns: &[(u32, u32)], points: &mut [u8], mut each: impl FnMut([f32; 3])) {
        let start = y * self.width;
        let labels = &self.outputs.labels[start..start + self.width];
        let depth_m = &self.outputs.depth_m[start..start + self.width];
        let confidence = self.outputs.confidence.get(start..start + self.width);
        let source = self.image.row(nearest(y, self.map.scale_y, self.map.offset_y, self.image.height()));
        let [red, green, blue] = self.image.encoding().rgb_offsets();
        let rays = self.rays.row(y);
        for (point, &(x, at)) in points.chunks_exact_mut(STEP).zip(columns) {
            let (x, at) = (x as usize, at as usize);
            let (z, label) = (depth_m[x], labels[x]);
            let [rx, ry] = rays.at(x);
            // NaN in depth or ray fails the comparisons.
            let near = z * z * (1.0 + rx * rx + ry * ry) <= self.max_range_squared;
            let valid = z > 0.0 && z < f32::INFINITY && near && self.classes[usize::from(label)];
            let position = if valid { [rx * z, ry * z, z] } else { [f32::NAN; 3] };
            let mut bytes = [0; STEP];
            bytes[0..4].copy_from_slice(&position[0].to_le_bytes());
            bytes[4..8].copy_from_slice(&position[1].to_le_bytes());
            bytes[8..12].copy_from_slice(&position[2].to_le_bytes());
            bytes[12] = source[at + blue];
            bytes[13] = source[at + green];
            bytes[14] = source[at + red];
            bytes[16] = label;
            bytes[20..24].copy_from_slice(&confidence.map_or(f32::NAN, |c| c[x]).to_le_bytes());
            point.copy_from_slice(&bytes);
            each(position);
        }
    }
}

/// The source pixel under the centre of output pixel `i`, the nearest one for what lies outside.
fn nearest(i: usize, scale: f64, offset: f64, length: usize) -> usize {
    // Its edges are half a pixel from its centre. The cast saturates.
    ((source_center(i, scale, offset) + 0.5).max(0.0) as usize).min(length - 1)
}

/// Voxels from the camera to either side of each axis: 21 bits hold twice as many.
const VOXELS_EACH_WAY: i64 = 1 << 20;

/// The three coordinates of a point's voxel, 21 bits each.
fn voxel_of(point: [f32; 3], inverse: f32) -> u64 {
    if point[2].is_nan() {
        return NO_VOXEL;
    }
    point.iter().fold(0, |key, v| {
        let cell = (v * inverse).floor() as i64 + VOXELS_EACH_WAY;
        key << 21 | cell.clamp(0, 2 * VOXELS_EACH_WAY - 1) as u64
    })
}

/// How often a label was met in a voxel: one link of the voxel's list.
#[derive(Debug, Clone, Copy)]
struct Count {
    label: u8,
    points: u32,
    /// Index of the next link, or `END`.
    next: u32,
}

const END: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Voxel {
    position: [f64; 3],
    confidence: f64,
    color: [u64; 3],
    points: u32,
    /// First link of its labels.
    labels: u32,
}

/// Reused memory of the thinning.
#[derive(Debug, Default)]
struct Voxels {
    index: FxHashMap<u64, u32>,
    /// In the order in which they were met.
    voxels: Vec<Voxel>,
    counts: Vec<Count>,
}

impl Voxels {
    fn thin(&mut self, points: &[u8], keys: &[u64], out: &mut Vec<u8>) {
        let Self { index, voxels, counts } = self;
        index.clear();
        voxels.clear();
        counts.clear();
        // Neighbours mostly share their voxel.
        let (mut last_key, mut last) = (NO_VOXEL, 0);
        for (point, &key) in points.chunks_exact(STEP).zip(keys) {
            if key == NO_VOXEL {
                continue;
            }
            if key != last_key {
                last_key = key;
                last = *index.entry(key).or_insert_with(|| {
                    voxels.push(Voxel { position: [0.0; 3], confidence: 0.0, color: [0; 3], points: 0, labels: END });
                    (voxels.len() - 1) as u32
                });
            }
            let voxel = &mut voxels[last as usize];
            let float =
                |at: usize| f64::from(f32::from_le_bytes([point[at], point[at + 1], point[at + 2], point[at + 3]]));
            for (i, sum) in voxel.position.iter_mut().enumerate() {
                *sum += float(4 * i);
            }
            voxel.confidence += float(20);
            for (i, sum) in voxel.color.iter_mut().enumerate() {
                *sum += u64::from(point[12 + i]);
            }
            voxel.points += 1;
            count(counts, &mut voxel.labels, point[16]);
        }
        out.resize(voxels.len() * STEP, 0);
        for (point, voxel) in out.chunks_exact_mut(STEP).zip(voxels.iter()) {
            let n = f64::from(voxel.points);
            for (i, sum) in voxel.position.iter().enumerate() {
                point[4 * i..4 * i + 4].copy_from_slice(&((sum / n) as f32).to_le_bytes());
            }
            for (i, sum) in voxel.color.iter().enumerate() {
                let n = u64::from(voxel.points);
                point[12 + i] = ((sum + n / 2) / n) as u8;
            }
            point[15] = 0;
            point[16..20].copy_from_slice(&u32::from(majority(counts, voxel.labels)).to_le_bytes());
            point[20..24].copy_from_slice(&((voxel.confidence / n) as f32).to_le_bytes());
        }
    }
}

/// Adds one to a label's count in the list that begins at `first`.
fn count(counts: &mut Vec<Count>, first: &mut u32, label: u8) {
    let mut link = *first;
    while let Some(found) = counts.get_mut(link as usize) {
        if found.label == label {
            found.points += 1;
            return;
        }
        link = found.next;
    }
    counts.push(Count { label, points: 1, next: *first });
    *first = (counts.len() - 1) as u32;
}

/// The most frequent label of a list, the lowest among equals.
fn majority(counts: &[Count], first: u32) -> u8 {
    let mut best = (0, 0);
    let mut link = first;
    while let Some(c) = counts.get(link as usize) {
        if c.points > best.0 || c.points == best.0 && c.label < best.1 {
            best = (c.points, c.label);
        }
        link = c.next;
    }
    best.1
}

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
    /// Points nearer than this to the camera are left out, metres.
    pub min_range_m: f32,
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
    /// From and to, both included.
    range_squared: [f32; 2],
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
            range_squared: [settings.min_range_m.max(0.0).powi(2), range * range],
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
        let [nearest_squared, farthest_squared] = self.range_squared;
        for (point, &(x, at)) in points.chunks_exact_mut(STEP).zip(columns) {
            let (x, at) = (x as usize, at as usize);
            let (z, label) = (depth_m[x], labels[x]);
            let [rx, ry] = rays.at(x);
            // NaN in depth or ray fails the comparisons.
            let squared = z * z * (1.0 + rx * rx + ry * ry);
            let is_in_range = squared >= nearest_squared && squared <= farthest_squared;
            let valid = z > 0.0 && z < f32::INFINITY && is_in_range && self.classes[usize::from(label)];
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
    // Its edges are half a pixel from its centre. A centre exactly between two pixels is the latter's; the millionth
    // keeps rounding errors from deciding otherwise. The cast saturates.
    ((source_center(i, scale, offset) + 0.5 + 1e-6).max(0.0) as usize).min(length - 1)
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

/// Sums over points.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    position: [f64; 3],
    confidence: f64,
    /// In the order of the bytes: blue, green, red.
    color: [u64; 3],
    points: u32,
}

impl Sum {
    fn add_point(&mut self, point: &[u8; STEP]) {
        let float = |at: usize| f64::from(f32::from_le_bytes([point[at], point[at + 1], point[at + 2], point[at + 3]]));
        for (i, sum) in self.position.iter_mut().enumerate() {
            *sum += float(4 * i);
        }
        self.confidence += float(20);
        for (i, sum) in self.color.iter_mut().enumerate() {
            *sum += u64::from(point[12 + i]);
        }
        self.points += 1;
    }

    fn add(&mut self, other: &Self) {
        for (sum, v) in self.position.iter_mut().zip(other.position) {
            *sum += v;
        }
        self.confidence += other.confidence;
        for (sum, v) in self.color.iter_mut().zip(other.color) {
            *sum += v;
        }
        self.points += other.points;
    }

    fn write_mean(&self, label: u8, point: &mut [u8]) {
        let (n, inverse) = (u64::from(self.points), 1.0 / f64::from(self.points));
        for (i, sum) in self.position.iter().enumerate() {
            point[4 * i..4 * i + 4].copy_from_slice(&((sum * inverse) as f32).to_le_bytes());
        }
        for (i, sum) in self.color.iter().enumerate() {
            point[12 + i] = ((sum + n / 2) / n) as u8;
        }
        point[15] = 0;
        point[16..20].copy_from_slice(&u32::from(label).to_le_bytes());
        point[20..24].copy_from_slice(&((self.confidence * inverse) as f32).to_le_bytes());
    }
}

#[derive(Debug, Clone, Copy)]
struct Voxel {
    sum: Sum,
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
        self.index.clear();
        self.voxels.clear();
        self.counts.clear();
        // Neighbours mostly share their voxel and their label: such a run is summed up before the voxel is looked up.
        let (mut run, mut run_key, mut run_label) = (Sum::default(), NO_VOXEL, 0);
        let (points, _) = points.as_chunks::<STEP>();
        for (point, &key) in points.iter().zip(keys) {
            if (key, point[16]) != (run_key, run_label) {
                self.add(run_key, run_label, &run);
                (run, run_key, run_label) = (Sum::default(), key, point[16]);
            }
            run.add_point(point);
        }
        self.add(run_key, run_label, &run);
        out.resize(self.voxels.len() * STEP, 0);
        for (point, voxel) in out.chunks_exact_mut(STEP).zip(&self.voxels) {
            voxel.sum.write_mean(majority(&self.counts, voxel.labels), point);
        }
    }

    /// Adds a run of points with one label; those without a voxel are left out.
    fn add(&mut self, key: u64, label: u8, run: &Sum) {
        if key == NO_VOXEL {
            return;
        }
        let Self { index, voxels, counts } = self;
        let i = *index.entry(key).or_insert_with(|| {
            voxels.push(Voxel { sum: Sum::default(), labels: END });
            (voxels.len() - 1) as u32
        });
        let voxel = &mut voxels[i as usize];
        voxel.sum.add(run);
        count(counts, &mut voxel.labels, label, run.points);
    }
}

/// Adds points to a label's count in the list that begins at `first`.
fn count(counts: &mut Vec<Count>, first: &mut u32, label: u8, points: u32) {
    let mut link = *first;
    while let Some(found) = counts.get_mut(link as usize) {
        if found.label == label {
            found.points += points;
            return;
        }
        link = found.next;
    }
    counts.push(Count { label, points, next: *first });
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

#[cfg(test)]
mod tests {
    use super::super::camera::Calibration;
    use super::super::geometry::{OutputSize, Placement, ResizeMode};
    use super::*;
    use std::collections::BTreeMap;

    /// A point as a reader finds it by [`FIELDS`].
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Point {
        position: [f32; 3],
        rgb: u32,
        label: u32,
        confidence: f32,
    }

    fn points(cloud: &Cloud) -> Vec<Point> {
        assert_eq!(cloud.data.len(), cloud.width as usize * cloud.height as usize * STEP);
        cloud
            .data
            .chunks_exact(STEP)
            .map(|bytes| {
                let at = |name: &str| {
                    let field = FIELDS.iter().find(|f| f.name == name).expect("a field");
                    let start = field.offset as usize;
                    <[u8; 4]>::try_from(&bytes[start..start + 4]).expect("four bytes")
                };
                Point {
                    position: ["x", "y", "z"].map(|f| f32::from_le_bytes(at(f))),
                    rgb: f32::from_le_bytes(at("rgb")).to_bits(),
                    label: u32::from_le_bytes(at("label")),
                    confidence: f32::from_le_bytes(at("confidence")),
                }
            })
            .collect()
    }

    const SOURCE: (usize, usize) = (60, 40);

    /// A scene with some invalid depths: source picture (bgra8 with padding), geometry, rays, outputs.
    struct Scene {
        data: Vec<u8>,
        geometry: Geometry,
        rays: Rays,
        outputs: Outputs,
    }

    impl Scene {
        fn new(mode: ResizeMode, output: OutputSize) -> Self {
            let placement = Placement { mode, roi: None, output };
            let geometry = Geometry::new(&placement, SOURCE, (32, 32)).expect("a geometry");
            let calibration = Calibration {
                model: "plumb_bob".into(),
                d: vec![-0.2, 0.05, 0.001, 0.0, 0.0],
                k: [50.0, 0.0, 31.0, 0.0, 52.0, 18.0, 0.0, 0.0, 1.0],
                ..Calibration::default()
            };
            let rays = Rays::new(&calibration, false, &geometry).expect("rays");
            let step = SOURCE.0 * 4 + 3;
            let data = (0..step * SOURCE.1).map(|i| (i * 7 % 251) as u8).collect();
            let (width, height) = geometry.output();
            let mut outputs = Outputs { width, height, ..Outputs::default() };
            for i in 0..width * height {
                let (x, y) = (i % width, i / width);
                outputs.labels.push(((x / 9 + y / 6) % 5) as u8);
                outputs.confidence.push((i % 100) as f32 / 100.0);
                outputs.depth_m.push(match i % 37 {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => 0.0,
                    3 => -4.0,
                    _ => 2.0 + (x / 4) as f32 * 1.5 + (y % 3) as f32 * 0.1,
                });
            }
            Self { data, geometry, rays, outputs }
        }

        fn image(&self) -> ImageView<'_> {
            let step = SOURCE.0 * 4 + 3;
            ImageView::new("bgra8", SOURCE.0 as u32, SOURCE.1 as u32, step as u32, false, &self.data).expect("a layout")
        }

        fn build(&self, builder: &mut CloudBuilder, settings: &CloudSettings, out: &mut Cloud) {
            builder
                .build(&self.outputs, &self.image(), &self.geometry, &self.rays, settings, out)
                .expect("inputs that belong together");
        }

        /// A pixel's point, written down directly.
        fn point(&self, x: usize, y: usize, settings: &CloudSettings) -> Point {
            let (width, height) = self.geometry.output();
            let i = y * width + x;
            let z = self.outputs.depth_m[i];
            let [rx, ry] = self.rays.row(y).at(x);
            let label = self.outputs.labels[i];
            let position = [rx * z, ry * z, z];
            let range = position.iter().map(|v| v * v).sum::<f32>().sqrt();
            let is_in_range = range >= settings.min_range_m && range <= settings.max_range_m;
            let valid = z.is_finite() && z > 0.0 && is_in_range && settings.classes[label as usize];
            // All of the source is shown: the fraction of the way across is the same.
            let sx = (x * 2 + 1) * SOURCE.0 / (2 * width);
            let sy = (y * 2 + 1) * SOURCE.1 / (2 * height);
            let pixel = &self.image().row(sy)[sx * 4..sx * 4 + 4];
            Point {
                position: if valid { position } else { [f32::NAN; 3] },
                rgb: u32::from_be_bytes([0, pixel[2], pixel[1], pixel[0]]),
                label: u32::from(label),
                confidence: self.outputs.confidence[i],
            }
        }
    }

    fn settings(stride: usize, voxel_size_m: f32) -> CloudSettings {
        let mut classes = [true; 256];
        classes[3] = false;
        CloudSettings { stride, voxel_size_m, min_range_m: 2.0, max_range_m: 18.0, classes }
    }

    fn same(a: &Point, b: &Point) -> bool {
        let positions = a.position.iter().zip(&b.position);
        positions.into_iter().all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
            && (a.rgb, a.label, a.confidence) == (b.rgb, b.label, b.confidence)
    }

    #[test]
    fn fields_are_packed_and_named_as_pcl_has_them() {
        let mut offset = 0;
        for field in FIELDS {
            assert_eq!((field.offset, field.count), (offset, 1), "{}", field.name);
            offset += 4;
        }
        assert_eq!(offset, POINT_STEP);
        assert_eq!(FIELDS.map(|f| f.datatype), [7, 7, 7, 7, 6, 7]);
    }

    #[test]
    fn an_organised_cloud_has_every_strideth_pixel_in_its_place() {
        let mut builder = CloudBuilder::new();
        let mut cloud = Cloud::default();
        let mut kinds = BTreeMap::new();
        for output in [OutputSize::Source, OutputSize::Fixed { width: 23, height: 50 }] {
            let scene = Scene::new(ResizeMode::Stretch, output);
            let (width, height) = scene.geometry.output();
            // The greater strides leave a part of a block over, with and without its middle.
            for stride in [1, 2, 3, 4, 7, 64] {
                let settings = settings(stride, 0.0);
                scene.build(&mut builder, &settings, &mut cloud);
                let middle = |length: usize| -> Vec<usize> {
                    let found: Vec<_> = (0..length).filter(|i| i % stride == stride / 2).collect();
                    if found.is_empty() {
                        vec![length - 1]
                    } else {
                        found
                    }
                };
                let (columns, rows) = (middle(width), middle(height));
                assert_eq!((cloud.width as usize, cloud.height as usize), (columns.len(), rows.len()), "{stride}");
                assert!(!cloud.is_dense);
                let found = points(&cloud);
                for (j, &y) in rows.iter().enumerate() {
                    for (i, &x) in columns.iter().enumerate() {
                        let (found, expected) = (found[j * columns.len() + i], scene.point(x, y, &settings));
                        assert!(same(&found, &expected), "stride {stride} at {x} {y}: {found:?} for {expected:?}");
                        *kinds.entry(found.position[0].is_nan()).or_insert(0) += 1;
                    }
                }
            }
        }
        assert!(kinds[&true] > 300 && kinds[&false] > 1000, "{kinds:?}");
    }

    #[test]
    fn a_stride_of_nothing_is_one_and_confidence_may_be_missing() {
        let mut scene = Scene::new(ResizeMode::Stretch, OutputSize::Source);
        scene.outputs.confidence.clear();
        let mut cloud = Cloud::default();
        scene.build(&mut CloudBuilder::new(), &settings(0, 0.0), &mut cloud);
        assert_eq!((cloud.width, cloud.height), (60, 40));
        assert!(points(&cloud).iter().all(|p| p.confidence.is_nan()));
    }

    #[test]
    fn colours_follow_the_geometry() {
        // The largest centred square of 60x40 is columns 10 to 49, shown as 32x32: 1.25 source pixels each.
        let scene = Scene::new(ResizeMode::Crop, OutputSize::Network);
        let mut cloud = Cloud::default();
        scene.build(&mut CloudBuilder::new(), &settings(1, 0.0), &mut cloud);
        let found = points(&cloud);
        for (x, y) in [(0, 0), (31, 31), (5, 20)] {
            let (sx, sy) = (10 + (2 * x + 1) * 40 / 64, (2 * y + 1) * 40 / 64);
            let pixel = &scene.image().row(sy)[sx * 4..];
            assert_eq!(found[y * 32 + x].rgb, u32::from_be_bytes([0, pixel[2], pixel[1], pixel[0]]), "{x} {y}");
        }
        // A letterbox has places without a source pixel, which have no depth either.
        let mut scene = Scene::new(ResizeMode::Letterbox, OutputSize::Network);
        for (i, depth_m) in scene.outputs.depth_m.iter_mut().enumerate() {
            *depth_m = if (5..26).contains(&(i / 32)) { 3.0 } else { f32::NAN };
        }
        scene.build(&mut CloudBuilder::new(), &settings(1, 0.0), &mut cloud);
        let found = points(&cloud);
        assert!(
            found[31].position[2].is_nan() && found[1000].position[2].is_nan() && found[16 * 32].position[2] == 3.0
        );
    }

    /// Voxels of the valid points of an organised cloud, slowly.
    fn thinned(all: &[Point], voxel_size_m: f32) -> Vec<Point> {
        let mut order = Vec::new();
        let mut cells: BTreeMap<[i64; 3], Vec<Point>> = BTreeMap::new();
        for p in all.iter().filter(|p| !p.position[0].is_nan()) {
            let cell = p.position.map(|v| (v * (1.0 / voxel_size_m)).floor() as i64);
            if !cells.contains_key(&cell) {
                order.push(cell);
            }
            cells.entry(cell).or_default().push(*p);
        }
        order
            .iter()
            .map(|cell| {
                let members = &cells[cell];
                let mean = |f: &dyn Fn(&Point) -> f64| members.iter().map(f).sum::<f64>() / members.len() as f64;
                let mut votes = BTreeMap::new();
                for p in members {
                    *votes.entry(p.label).or_insert(0) += 1;
                }
                // max_by_key gives the last among equals, so from the highest label down.
                let (&label, _) = votes.iter().rev().max_by_key(|(_, n)| **n).expect("a vote");
                let color = [16, 8, 0].map(|s| (mean(&|p| f64::from(p.rgb >> s & 255)) + 0.5).floor() as u32);
                Point {
                    position: [0, 1, 2].map(|i| mean(&|p| f64::from(p.position[i])) as f32),
                    rgb: color[0] << 16 | color[1] << 8 | color[2],
                    label,
                    confidence: mean(&|p| f64::from(p.confidence)) as f32,
                }
            })
            .collect()
    }

    #[test]
    fn voxels_hold_the_mean_and_the_majority_of_their_points() {
        let mut builder = CloudBuilder::new();
        let (mut grid, mut cloud, mut again) = (Cloud::default(), Cloud::default(), Cloud::default());
        let scene = Scene::new(ResizeMode::Stretch, OutputSize::Fixed { width: 120, height: 80 });
        for (stride, voxel_size_m) in [(1, 0.4), (1, 3.0), (3, 1.0), (1, 100.0), (1, 0.001)] {
            scene.build(&mut builder, &settings(stride, 0.0), &mut grid);
            let all = points(&grid);
            let expected = thinned(&all, voxel_size_m);
            scene.build(&mut builder, &settings(stride, voxel_size_m), &mut cloud);
            let found = points(&cloud);
            assert_eq!((found.len(), cloud.width as usize, cloud.height), (expected.len(), expected.len(), 1));
            assert!(cloud.is_dense);
            for (found, expected) in found.iter().zip(&expected) {
                // Sums of doubles in another order.
                let near = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs();
                let positions = found.position.iter().zip(expected.position).all(|(a, b)| near(*a, b));
                assert!(
                    positions
                        && near(found.confidence, expected.confidence)
                        && (found.rgb, found.label) == (expected.rgb, expected.label),
                    "voxel {voxel_size_m}: {found:?} for {expected:?}"
                );
            }
            scene.build(&mut builder, &settings(stride, voxel_size_m), &mut again);
            assert_eq!(again, cloud, "the same frame makes the same bytes");
        }
    }

    #[test]
    fn a_cloud_without_points_is_empty() {
        let mut scene = Scene::new(ResizeMode::Stretch, OutputSize::Source);
        scene.outputs.depth_m.fill(f32::NAN);
        let mut cloud = Cloud::default();
        scene.build(&mut CloudBuilder::new(), &settings(1, 0.5), &mut cloud);
        assert_eq!((cloud.width, cloud.height, cloud.data.len(), cloud.is_dense), (0, 1, 0, true));
    }

    #[test]
    fn ties_go_to_the_lowest_label_and_voxels_reach_to_both_sides() {
        let mut counts = Vec::new();
        let mut first = END;
        for label in [9, 4, 7, 4, 9, 200] {
            count(&mut counts, &mut first, label, 1);
        }
        assert_eq!((majority(&counts, first), counts.len()), (4, 4));
        assert_eq!(voxel_of([f32::NAN; 3], 1.0), NO_VOXEL);
        let all: Vec<_> = [[-0.5, 0.5, 3.5], [0.5, -0.5, 3.5], [0.5, 0.5, 3.5], [-0.5, -0.5, 3.5], [0.5, 0.5, 4.5]]
            .into_iter()
            .map(|p| voxel_of(p, 1.0))
            .collect();
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "{all:?}");
        assert_eq!(voxel_of([0.1, 0.2, 3.3], 1.0), all[2]);
    }

    #[test]
    fn an_endless_range_takes_finite_depths_only() {
        let scene = Scene::new(ResizeMode::Stretch, OutputSize::Source);
        let everything =
            CloudSettings { min_range_m: 0.0, max_range_m: f32::INFINITY, classes: [true; 256], ..settings(1, 0.0) };
        let mut cloud = Cloud::default();
        scene.build(&mut CloudBuilder::new(), &everything, &mut cloud);
        let valid = scene.outputs.depth_m.iter().filter(|z| z.is_finite() && **z > 0.0).count();
        let found = points(&cloud);
        assert_eq!(found.iter().filter(|p| p.position[2].is_finite()).count(), valid);
        assert_eq!(found.iter().filter(|p| p.position[2].is_nan()).count(), found.len() - valid);
    }

    #[test]
    fn inputs_of_other_sizes_are_refused() {
        let scene = Scene::new(ResizeMode::Stretch, OutputSize::Source);
        let other = Scene::new(ResizeMode::Stretch, OutputSize::Network);
        let mut builder = CloudBuilder::new();
        let mut cloud = Cloud::default();
        let mut error = |outputs: &Outputs, image: &ImageView<'_>, rays: &Rays| {
            builder
                .build(outputs, image, &scene.geometry, rays, &settings(1, 0.0), &mut cloud)
                .expect_err("must be refused")
                .to_string()
        };
        let rgb = vec![0; 30];
        let small = ImageView::rgb8(5, 2, &rgb).expect("a layout");
        assert!(error(&scene.outputs, &small, &scene.rays).contains("5x2"));
        assert!(error(&scene.outputs, &scene.image(), &other.rays).contains("32x32"));
        assert!(error(&other.outputs, &scene.image(), &scene.rays).contains("labels has 1024 pixels"));
        let mut outputs = scene.outputs.clone();
        outputs.confidence.pop();
        assert!(error(&outputs, &scene.image(), &scene.rays).contains("confidence has 2399 pixels"));
        outputs.depth_m.clear();
        assert!(error(&outputs, &scene.image(), &scene.rays).contains("depth has 0 pixels"));
    }
}

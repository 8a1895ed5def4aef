//! The network's answer -> labels, metres and pictures, where and as large as the geometry says.
//!
//! An output is *defined* as: scores and depth code interpolated bilinearly (half-pixel centres, [`Geometry`]) from the
//! answer, whatever its size, straight to the output pixel's place, then the arg-max (the lowest channel among equals;
//! unlabelled where no score is a number) and the depth decoding. Where the four corners of a cell share their arg-max, so does every pixel between them: such
//! pixels need no interpolation. Elsewhere only channels count that are not below a corner's winner at all four corners.
//! Both follow from what interpolation is; single precision, in which two scores may round to the same, does not enter.

use super::convert::Kept;
use super::geometry::{Axis, Geometry, Position, Rect, LANES};
use super::resample::{Cache, Resampler};
use super::view::ImageView;
use crate::cpu::exp;
use crate::cpu::team::{share, Spare};
use crate::data::classes::{Class, UNLABELLED};
use crate::export::manifest::{ClassKind, DepthCode, DepthDecoding, Manifest};
use multiversion::multiversion;

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
    /// Width and height.
    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Whether the first `classes` channels are probabilities: of every pixel between 0 and 1, and 1 in sum, as far as half precision
    /// has it. (Scores that are so by chance at every pixel are not to be expected; a single class has 1 everywhere or is none.)
    pub fn has_probabilities(&self, classes: usize) -> bool {
        let is_one = |pixel: &[f32]| {
            let scores = &pixel[..classes];
            scores.iter().all(|p| (0.0..=1.0).contains(p)) && (scores.iter().sum::<f32>() - 1.0).abs() < 0.02
        };
        classes > 1 && !self.data.is_empty() && self.data.chunks_exact(self.channels).all(is_one)
    }

    fn pixel(&self, y: u32, x: u32) -> &'a [f32] {
        let start = (y as usize * self.width + x as usize) * self.channels;
        &self.data[start..start + self.channels]
    }

    /// The scores of the four corners of a cell, in the order of [`corner_weights`].
    fn corners(&self, row: &Position, (x0, x1): (u32, u32), classes: usize) -> [&'a [f32]; 4] {
        [(row.first, x0), (row.first, x1), (row.next, x0), (row.next, x1)].map(|(y, x)| &self.pixel(y, x)[..classes])
    }
}

/// Most classes that labels tell apart: they are bytes, of which 255 is "unlabelled". One class more has to be that one.
pub const MAX_CLASSES: usize = 255;

/// What belongs to a geometry.
#[derive(Debug)]
struct Plan {
    columns: Axis,
    rows: Axis,
    /// The source picture at the output's size, and where in the output; `None` where it is the source itself.
    picture: Option<(Resampler, Rect)>,
}

impl Plan {
    /// For an answer of (`width`, `height`).
    fn new(geometry: &Geometry, (width, height): (usize, usize)) -> Self {
        let (from, to) = geometry.shown();
        // A part as large as the output is not the source itself, even where both begin at 0.
        let is_source = from == Rect::whole(geometry.source()) && to == from && geometry.output() == geometry.source();
        let picture = (!is_source).then(|| (Resampler::new(from, (to.width, to.height)), to));
        Self { columns: geometry.columns(width), rows: geometry.rows(height), picture }
    }
}

/// By geometry and by the answer's width and height.
type Plans = Cache<(Geometry, (usize, usize)), Plan>;

fn plan<'a>(plans: &'a mut Plans, geometry: &Geometry, answer: (usize, usize)) -> &'a Plan {
    plans.get(&(geometry.clone(), answer), || Plan::new(geometry, answer))
}

/// Channel -> published id, [`UNLABELLED`] where there is no class.
pub(super) fn published_ids(manifest: &Manifest) -> [u8; 256] {
    let mut ids = [UNLABELLED; 256];
    ids.iter_mut().zip(manifest.classes.iter().take(MAX_CLASSES)).for_each(|(id, class)| *id = class.id);
    ids
}

/// Turns packed answers into outputs; keeps every buffer that it needs, and what belongs to the geometries it has seen
/// lately. What an output's vector held before does not matter: it gets its length, and every value is overwritten.
#[derive(Debug)]
pub struct OutputBuilder {
    kind: ClassKind,
    /// 0 where the network answers no classes.
    score_channels: usize,
    /// Channel of the depth, and how it is read, where the network answers depth.
    depth: Option<(usize, DepthDecoding)>,
    normals_channel: Option<usize>,
    /// Channel -> published id.
    ids: [u8; 256],
    /// Published id -> colour.
    colors: [[u8; 3]; 256],
    plans: Plans,
    /// Width and height of the answer that was read last; before that of the manifest's.
    size: (usize, usize),
    /// Index of the class of each pixel of the answer: the arg-max channel, or what the answer says itself.
    best: Vec<u8>,
    /// Depth channel of each pixel of the answer.
    code: Vec<f32>,
    rooms: Rooms,
}

/// What threads work with, kept from frame to frame.
#[derive(Debug, Default)]
struct Rooms {
    labels: Spare<LabelScratch>,
    rows: Spare<RowScratch>,
    softmax: Spare<SoftmaxScratch>,
    tint: Spare<TintScratch>,
}

impl OutputBuilder {
    /// For the model described by `manifest`.
    pub fn new(manifest: &Manifest) -> Self {
        let mut colors = [[0; 3]; 256];
        for Class { id, color, .. } in manifest.classes.iter().take(MAX_CLASSES) {
            colors[usize::from(*id)] = *color;
        }
        Self {
            kind: manifest.output.classes,
            score_channels: manifest.output.score_channels,
            depth: manifest.output.depth_channel.zip(manifest.output.depth.clone()),
            normals_channel: manifest.output.normals_channel,
            ids: published_ids(manifest),
            colors,
            plans: Cache::new(),
            size: manifest.answer_size(),
            best: Vec::new(),
            code: Vec::new(),
            rooms: Rooms::default(),
        }
    }

    /// Whether the network answers classes. Where it does not, every pixel is unlabelled, and has no confidence.
    pub fn has_classes(&self) -> bool {
        self.score_channels > 0
    }

    /// Whether the network answers depth. Where it does not, every pixel's is NaN.
    pub fn has_depth(&self) -> bool {
        self.depth.is_some()
    }

    /// Reads what [`Self::labels`] and [`Self::depth`], each where it is wanted, are made of: the answer is large, and
    /// this is the only pass over all of it.
    pub fn read(&mut self, packed: &Packed<'_>, labels: bool, depth: bool) {
        let (labels, depth) = (labels && self.has_classes(), depth && self.has_depth());
        let (kind, classes) = (self.kind, self.score_channels);
        let channel = self.depth.as_ref().map_or(0, |(channel, _)| *channel);
        self.size = packed.size();
        // What is not wanted becomes empty, so that nothing can be made of the answer before this one.
        self.best.resize(if labels { packed.width * packed.height } else { 0 }, 0);
        self.code.resize(if depth { packed.width * packed.height } else { 0 }, 0.0);
        let task = packed.width * 4;
        let answers = packed.data.chunks(task * packed.channels);
        let nothing = || ();
        match (labels, depth) {
            (true, true) => {
                let tasks = self.best.chunks_mut(task).zip(self.code.chunks_mut(task)).zip(answers);
                share(tasks, nothing, |(), ((best, code), answer)| {
                    class_pixels(kind, answer, packed.channels, classes, best);
                    channel_of(answer, packed.channels, channel, code);
                });
            }
            (true, false) => share(self.best.chunks_mut(task).zip(answers), nothing, |(), (best, answer)| {
                class_pixels(kind, answer, packed.channels, classes, best);
            }),
            (false, true) => share(self.code.chunks_mut(task).zip(answers), nothing, |(), (code, answer)| {
                channel_of(answer, packed.channels, channel, code);
            }),
            (false, false) => {}
        }
    }

    /// Whether what [`Self::read`] has read has pixels of which no score is a number, or no depth at all that is one. A network
    /// of which one number is none soon has nothing else: it sums over the whole picture.
    pub fn is_broken(&self) -> bool {
        // One class more than there are labels would have this index itself.
        let is_scored = self.kind == ClassKind::Scores && self.score_channels <= MAX_CLASSES;
        (is_scored && self.best.contains(&UNLABELLED))
            || (!self.code.is_empty() && !self.code.iter().any(|code| code.is_finite()))
    }

    /// Class ids at the output's size; 255 where the network saw nothing or no score is a number, and everywhere where it answers no classes.
    ///
    /// # Panics
    /// If [`Self::read`] has not read this answer's labels.
    pub fn labels(&mut self, packed: &Packed<'_>, geometry: &Geometry, out: &mut Vec<u8>) {
        if !self.has_classes() {
            return Self::no_labels(geometry, out);
        }
        let classes = self.score_channels;
        assert_eq!(self.best.len(), packed.width * packed.height, "the answer's labels have been read");
        let (width, height) = geometry.output();
        out.resize(width * height, 0);
        let Plan { columns, rows, .. } = plan(&mut self.plans, geometry, packed.size());
        let (kind, best, ids, rooms) = (self.kind, &self.best, &self.ids, &self.rooms.labels);
        let tasks = out.chunks_mut(width * TASK_ROWS).enumerate();
        rooms.share(tasks, LabelScratch::default, |scratch, (task, out)| {
            scratch.rows = None;
            for (y, out) in out.chunks_exact_mut(width).enumerate() {
                let Some(row) = rows.at(task * TASK_ROWS + y) else {
                    out.fill(UNLABELLED);
                    continue;
                };
                match kind {
                    ClassKind::Scores => scratch.fit(packed, best, classes, ids, columns, row),
                    ClassKind::Labels => {
                        let row = row.nearest() as usize;
                        scratch.fit_nearest(row, &best[row * packed.width..][..packed.width], ids, columns);
                    }
                }
                out[..columns.seen.start].fill(UNLABELLED);
                out[columns.seen.end..].fill(UNLABELLED);
                let out = &mut out[columns.seen.clone()];
                out.copy_from_slice(&scratch.uniform[..out.len()]);
                mix(scratch, columns, row.weight, out);
            }
        });
    }

    /// The labels of a network that answers no classes.
    pub fn no_labels(geometry: &Geometry, out: &mut Vec<u8>) {
        let (width, height) = geometry.output();
        out.resize(width * height, UNLABELLED);
        out.fill(UNLABELLED);
    }

    /// The depth of a network that answers none.
    pub fn no_depth(geometry: &Geometry, out: &mut Vec<f32>) {
        let (width, height) = geometry.output();
        out.resize(width * height, f32::NAN);
        out.fill(f32::NAN);
    }

    /// Depth in metres, times `factor`, at the output's size; NaN where the network's answer is not finite or where it
    /// saw nothing, and everywhere where it answers no depth.
    ///
    /// # Panics
    /// If [`Self::read`] has not read the answer's depth.
    pub fn depth(&mut self, geometry: &Geometry, factor: f32, out: &mut Vec<f32>) {
        let Some((_, decoding)) = &self.depth else { return Self::no_depth(geometry, out) };
        let answer_width = self.size.0;
        assert_eq!(self.code.len(), self.size.0 * self.size.1, "the answer's depth has been read");
        let (width, height) = geometry.output();
        out.resize(width * height, 0.0);
        let Plan { columns, rows, .. } = plan(&mut self.plans, geometry, self.size);
        let (code, rooms) = (&self.code, &self.rooms.rows);
        let tasks = out.chunks_mut(width * TASK_ROWS).enumerate();
        rooms.share(tasks, RowScratch::default, |scratch, (task, out)| {
            scratch.fit(answer_width, columns);
            let RowScratch { blended, expanded, .. } = scratch;
            for (y, out) in out.chunks_exact_mut(width).enumerate() {
                let Some(row) = rows.at(task * TASK_ROWS + y) else {
                    out.fill(f32::NAN);
                    continue;
                };
                out[..columns.seen.start].fill(f32::NAN);
                out[columns.seen.end..].fill(f32::NAN);
                let line = |y: u32| &code[y as usize * answer_width..][..answer_width];
                blend_rows(line(row.first), line(row.next), row.weight, blended);
                columns.expand(blended, expanded);
                decode_row(expanded, decoding, factor, &mut out[columns.seen.clone()]);
            }
        });
    }

    /// Unit surface normals at the output's size, `[3, height, width]`, interpolated and then made as long as 1; NaN where
    /// the answer is not finite or nothing, or where the network saw nothing. Empty of a model that answers none.
    pub fn normals(&mut self, packed: &Packed<'_>, geometry: &Geometry, out: &mut Vec<f32>) {
        out.clear();
        let Some(first) = self.normals_channel else { return };
        let (width, height) = geometry.output();
        out.resize(3 * width * height, f32::NAN);
        let Plan { columns, rows, .. } = plan(&mut self.plans, geometry, packed.size());
        self.rooms.rows.take(RowScratch::default).with(|scratch| {
            scratch.fit(packed.width, columns);
            let RowScratch { lines: [line, other], blended, expanded } = scratch;
            for (k, plane) in out.chunks_exact_mut(width * height).enumerate() {
                for (y, out) in plane.chunks_exact_mut(width).enumerate() {
                    let Some(row) = rows.at(y) else { continue };
                    let of = |y: u32| {
                        &packed.data[y as usize * packed.width * packed.channels..][..packed.width * packed.channels]
                    };
                    channel_of(of(row.first), packed.channels, first + k, line);
                    channel_of(of(row.next), packed.channels, first + k, other);
                    blend_rows(line, other, row.weight, blended);
                    columns.expand(blended, expanded);
                    let seen = &mut out[columns.seen.clone()];
                    seen.copy_from_slice(&expanded[..seen.len()]);
                }
            }
        });
        let (x, rest) = out.split_at_mut(width * height);
        let (y, z) = rest.split_at_mut(width * height);
        for ((x, y), z) in x.iter_mut().zip(y).zip(z) {
            // By the largest component first: squares of large numbers overflow.
            let most = x.abs().max(y.abs()).max(z.abs());
            let length = ((*x / most).powi(2) + (*y / most).powi(2) + (*z / most).powi(2)).sqrt() * most;
            let is_one = length > 0.0 && length.is_finite();
            for v in [x, y, z] {
                *v = if is_one { *v / length } else { f32::NAN };
            }
        }
    }

    /// The softmax probability of the arg-max of the interpolated scores, at the output's size; NaN where a score is
    /// not finite or where the network saw nothing, and everywhere where the network answers labels or no classes.
    ///
    /// With a `stride` above 1 only the rows at the middle of each block of so many rows are computed (and the last one),
    /// those that a point cloud of this stride takes; the others are NaN. A row costs what twenty rows of labels do.
    pub fn confidence(&mut self, packed: &Packed<'_>, geometry: &Geometry, stride: usize, out: &mut Vec<f32>) {
        let stride = stride.max(1);
        let classes = self.score_channels;
        let (width, height) = geometry.output();
        out.resize(width * height, 0.0);
        if self.kind == ClassKind::Labels || !self.has_classes() {
            return out.fill(f32::NAN);
        }
        let Plan { columns, rows, .. } = plan(&mut self.plans, geometry, packed.size());
        let rooms = &self.rooms.softmax;
        let tasks = out.chunks_mut(width * TASK_ROWS).enumerate();
        rooms.share(tasks, SoftmaxScratch::default, |scratch, (task, out)| {
            scratch.fit(packed.width, classes, columns);
            for (y, out) in out.chunks_exact_mut(width).enumerate() {
                let y = task * TASK_ROWS + y;
                let is_taken = y % stride == stride / 2 || y + 1 == height;
                let Some(row) = rows.at(y).filter(|_| is_taken) else {
                    out.fill(f32::NAN);
                    continue;
                };
                out[..columns.seen.start].fill(f32::NAN);
                out[columns.seen.end..].fill(f32::NAN);
                scratch.row(packed, columns, row, &mut out[columns.seen.clone()]);
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
        let opacity = (opacity.clamp(0.0, 1.0) * 256.0).round() as u16;
        let (colors, rooms) = (&self.colors, &self.rooms.tint);
        let Plan { columns, rows, picture } = plan(&mut self.plans, geometry, self.size);
        let tasks = out.chunks_mut(width * 3 * TASK_ROWS).zip(labels.chunks(width * TASK_ROWS)).enumerate();
        rooms.share(tasks, TintScratch::default, |TintScratch { kept, row, tint }, (task, (out, labels))| {
            let mut source = kept.of(image);
            let (n, [r, g, b]) = (source.pixels().channels(), source.pixels().rgb_offsets());
            let lines = out.chunks_exact_mut(width * 3).zip(labels.chunks_exact(width));
            for (y, (out, labels)) in lines.enumerate() {
                let y = task * TASK_ROWS + y;
                let (pixels, _) = out.as_chunks_mut::<3>();
                match picture {
                    None if [r, g, b, n] == [0, 1, 2, 3] => pixels.as_flattened_mut().copy_from_slice(source.row(y)),
                    None => {
                        for (out, pixel) in pixels.iter_mut().zip(source.row(y).chunks_exact(n)) {
                            *out = [pixel[r], pixel[g], pixel[b]];
                        }
                    }
                    Some((resampler, to)) => {
                        let Some(y) = y.checked_sub(to.y).filter(|y| *y < to.height) else {
                            pixels.fill([0; 3]);
                            continue;
                        };
                        pixels[..to.x].fill([0; 3]);
                        pixels[to.x + to.width..].fill([0; 3]);
                        resampler.row(&mut source, y, row, &mut pixels[to.columns()], |out, values| {
                            *out = values.map(|v| (v + 0.5) as u8);
                        });
                    }
                }
                if rows.at(y).is_some() {
                    let seen = columns.seen.clone();
                    tint.clear();
                    tint.extend(labels[seen.clone()].iter().map(|&label| colors[usize::from(label)]));
                    tint_row(tint.as_flattened(), opacity, pixels[seen].as_flattened_mut());
                }
            }
        });
    }

    /// The classes' colours, black for unlabelled.
    pub fn colors(&self, labels: &[u8], out: &mut Vec<u8>) {
        out.resize(labels.len() * 3, 0);
        let (pixels, _) = out.as_chunks_mut::<3>();
        look_up(labels, &self.colors, pixels);
    }
}

/// `values` of the labels.
pub fn mask(labels: &[u8], values: &[u8; 256], out: &mut Vec<u8>) {
    out.resize(labels.len(), 0);
    look_up(labels, values, out);
}

fn look_up<T: Copy + Send + Sync>(labels: &[u8], table: &[T; 256], out: &mut [T]) {
    share(
        out.chunks_mut(CHUNK).zip(labels.chunks(CHUNK)),
        || (),
        |(), (out, labels)| {
            for (out, &label) in out.iter_mut().zip(labels) {
                *out = table[usize::from(label)];
            }
        },
    );
}

/// Rows on their way from the answer to an output's.
#[derive(Debug, Default)]
struct RowScratch {
    /// One channel of two rows of the answer.
    lines: [Vec<f32>; 2],
    blended: Vec<f32>,
    expanded: Vec<f32>,
}

impl RowScratch {
    /// Gives it room for an answer of so many columns.
    fn fit(&mut self, width: usize, columns: &Axis) {
        let [line, other] = &mut self.lines;
        for row in [line, other, &mut self.blended] {
            row.resize(width, 0.0);
        }
        self.expanded.resize(columns.expanded_len(), 0.0);
    }
}

/// A row of an overlay.
#[derive(Debug, Default)]
struct TintScratch {
    /// The source's, as pixels.
    kept: Kept,
    /// The source's, summed.
    row: Vec<f32>,
    /// Colours of the labels.
    tint: Vec<[u8; 3]>,
}

/// Rows of one task: enough that a task's start costs little, few enough for every core to have some.
const TASK_ROWS: usize = 32;

/// Pixels of one task where rows do not matter.
const CHUNK: usize = 1 << 16;

/// Length of a fill of [`LabelScratch::fit`].
const FILL: usize = 8;

/// A cell whose corners differ in their arg-max.
#[derive(Debug)]
struct MixedCell {
    start: u32,
    end: u32,
    /// Of [`LabelScratch::candidates`].
    candidates: std::ops::Range<u32>,
}

/// A channel that may win somewhere in a cell.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Published.
    id: u32,
    /// Its scores.
    corners: [f32; 4],
}

/// A channel's scores at a cell's left and right end, in one output row.
#[derive(Debug, Clone, Copy)]
struct Line {
    left: f32,
    right: f32,
    id: u32,
}

/// Labels of all output rows between two network rows: what is the same in each, and the cells that are not.
#[derive(Debug, Default)]
struct LabelScratch {
    /// Which two.
    rows: Option<(u32, u32)>,
    /// Published ids; anything in the mixed cells.
    uniform: Vec<u8>,
    mixed: Vec<MixedCell>,
    candidates: Vec<Candidate>,
    /// The candidates of one cell in one output row.
    lines: Vec<Line>,
}

impl LabelScratch {
    /// Labels that are given: row `y` of the answer, `line`, enlarged to the nearest.
    fn fit_nearest(&mut self, y: usize, line: &[u8], ids: &[u8; 256], columns: &Axis) {
        if self.rows != Some((y as u32, y as u32)) {
            self.rows = Some((y as u32, y as u32));
            self.mixed.clear();
            self.uniform.clear();
            self.uniform.extend(columns.positions.iter().map(|p| ids[usize::from(line[p.nearest() as usize])]));
        }
    }

    /// Labels of scores, between the two rows of the answer that `row` lies between.
    fn fit(
        &mut self,
        packed: &Packed<'_>,
        best: &[u8],
        classes: usize,
        ids: &[u8; 256],
        columns: &Axis,
        row: &Position,
    ) {
        if self.rows == Some((row.first, row.next)) {
            return;
        }
        self.rows = Some((row.first, row.next));
        self.uniform.resize(columns.positions.len() + FILL, 0);
        self.mixed.clear();
        self.candidates.clear();
        let line = |y: u32| &best[y as usize * packed.width..][..packed.width];
        let (top, bottom) = (line(row.first), line(row.next));
        for cell in &columns.cells {
            let (x0, x1) = (cell.first as usize, cell.next as usize);
            let winners = [top[x0], top[x1], bottom[x0], bottom[x1]];
            let [a, b, c, d] = winners;
            if (a ^ b) | (a ^ c) | (a ^ d) == 0 {
                let id = ids[usize::from(a)];
                // Whole lanes: what is too many belongs to the next cell, which comes after and overwrites it.
                let mut i = cell.start as usize;
                while let Some(out) = self.uniform[i..].first_chunk_mut::<FILL>() {
                    *out = [id; FILL];
                    i += FILL;
                    if i >= cell.end as usize {
                        break;
                    }
                }
            } else {
                let start = self.candidates.len() as u32;
                let corners = packed.corners(row, (cell.first, cell.next), classes);
                candidates(corners, winners, ids, &mut self.candidates);
                let candidates = start..self.candidates.len() as u32;
                self.mixed.push(MixedCell { start: cell.start, end: cell.end, candidates });
            }
        }
    }
}

/// Fills the mixed cells of the output row that lies `weight` below the upper row of the answer.
#[allow(unsafe_code)]
fn mix(scratch: &mut LabelScratch, columns: &Axis, weight: f32, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has been asked whether it has AVX2.
        return unsafe { mix_avx2(scratch, columns, weight, out) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every 64-bit Arm processor has NEON.
    mix_with(scratch, columns, weight, out, |lines, weights| unsafe { winners_neon(lines, weights) });
    #[cfg(not(target_arch = "aarch64"))]
    mix_with(scratch, columns, weight, out, winners);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn mix_avx2(scratch: &mut LabelScratch, columns: &Axis, weight: f32, out: &mut [u8]) {
    mix_with(scratch, columns, weight, out, |lines, weights| winners_avx2(lines, weights));
}

/// [`mix`] with a way to find the winners of [`LANES`] positions.
#[inline(always)]
fn mix_with(
    scratch: &mut LabelScratch,
    columns: &Axis,
    weight: f32,
    out: &mut [u8],
    winners: impl Fn(&[Line], &[f32; LANES]) -> [u8; LANES],
) {
    let LabelScratch { mixed, candidates, lines, .. } = scratch;
    for cell in mixed.iter() {
        lines.clear();
        for c in &candidates[cell.candidates.start as usize..cell.candidates.end as usize] {
            lines.push(Line {
                left: c.corners[0] * (1.0 - weight) + c.corners[2] * weight,
                right: c.corners[1] * (1.0 - weight) + c.corners[3] * weight,
                id: c.id,
            });
        }
        let (start, end) = (cell.start as usize, cell.end as usize);
        for (i, out) in (start..end).step_by(LANES).zip(out[start..end].chunks_mut(LANES)) {
            let ids = winners(lines, columns.weights(i));
            match out.first_chunk_mut() {
                Some(out) => *out = ids,
                None => out.copy_from_slice(&ids[..out.len()]),
            }
        }
    }
}

/// The id of the greatest score at each of some positions between two columns, the first among equals; [`UNLABELLED`]
/// where no score is a number.
#[cfg(any(not(target_arch = "aarch64"), test))]
#[inline(always)]
fn winners(lines: &[Line], weights: &[f32; LANES]) -> [u8; LANES] {
    let mut top = [f32::NEG_INFINITY; LANES];
    let mut winner = [UNLABELLED; LANES];
    for line in lines {
        for k in 0..LANES {
            let score = line.left * (1.0 - weights[k]) + line.right * weights[k];
            if score > top[k] {
                (top[k], winner[k]) = (score, line.id as u8);
            }
        }
    }
    winner
}

/// `winners`: the compiler does not find it by itself, and cells between an answer's pixels are large where the answer
/// is small.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn winners_avx2(lines: &[Line], weights: &[f32; LANES]) -> [u8; LANES] {
    use std::arch::x86_64::*;
    let [a, b, c, d, e, f, g, h] = *weights;
    let right = _mm256_setr_ps(a, b, c, d, e, f, g, h);
    let left = _mm256_sub_ps(_mm256_set1_ps(1.0), right);
    let mut top = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut winner = _mm256_set1_epi32(UNLABELLED.into());
    for line in lines {
        let score = _mm256_add_ps(
            _mm256_mul_ps(_mm256_set1_ps(line.left), left),
            _mm256_mul_ps(_mm256_set1_ps(line.right), right),
        );
        let wins = _mm256_cmp_ps::<_CMP_GT_OQ>(score, top);
        top = _mm256_blendv_ps(top, score, wins);
        winner = _mm256_blendv_epi8(winner, _mm256_set1_epi32(line.id as i32), _mm256_castps_si256(wins));
    }
    let words = _mm_packus_epi32(_mm256_castsi256_si128(winner), _mm256_extracti128_si256::<1>(winner));
    _mm_cvtsi128_si64(_mm_packus_epi16(words, words)).to_le_bytes()
}

/// The same with NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
#[inline]
fn winners_neon(lines: &[Line], weights: &[f32; LANES]) -> [u8; LANES] {
    use std::arch::aarch64::*;
    let fours = |[a, b, c, d]: [f32; 4]| {
        let low = vset_lane_f32::<1>(b, vdup_n_f32(a));
        vcombine_f32(low, vset_lane_f32::<1>(d, vdup_n_f32(c)))
    };
    let [a, b, c, d, e, f, g, h] = *weights;
    let right = [fours([a, b, c, d]), fours([e, f, g, h])];
    let left = right.map(|right| vsubq_f32(vdupq_n_f32(1.0), right));
    let mut top = [vdupq_n_f32(f32::NEG_INFINITY); 2];
    let mut winner = [vdupq_n_u32(UNLABELLED.into()); 2];
    for line in lines {
        for k in 0..2 {
            // No fused multiplication: all processors find the same winners.
            let score = vaddq_f32(vmulq_n_f32(left[k], line.left), vmulq_n_f32(right[k], line.right));
            let wins = vcgtq_f32(score, top[k]);
            top[k] = vbslq_f32(wins, score, top[k]);
            winner[k] = vbslq_u32(wins, vdupq_n_u32(line.id), winner[k]);
        }
    }
    let words = vcombine_u16(vmovn_u32(winner[0]), vmovn_u32(winner[1]));
    vget_lane_u64::<0>(vreinterpret_u64_u8(vmovn_u16(words))).to_le_bytes()
}

/// The channels that may win somewhere between four corners, in ascending order.
///
/// Interpolation weighs the corners alike for all channels, so a channel that is below another one at all four corners
/// is below it everywhere between them. The others are kept; mostly they are the corners' own winners.
#[multiversion(targets("x86_64+avx2"))]
fn candidates(corners: [&[f32]; 4], winners: [u8; 4], ids: &[u8; 256], out: &mut Vec<Candidate>) {
    // A corner without a winner beats nothing, for nothing is below what is no number.
    let mut heights = [[f32::NAN; 4]; 4];
    for (heights, w) in heights.iter_mut().zip(winners) {
        for (height, corner) in heights.iter_mut().zip(corners) {
            *height = corner.get(usize::from(w)).copied().unwrap_or(f32::NAN);
        }
    }
    let [a, b, c, d] = corners;
    for (id, (((a, b), c), d)) in ids.iter().zip(a.iter().zip(b).zip(c).zip(d)) {
        let here = [*a, *b, *c, *d];
        let mut beaten = false;
        for w in &heights {
            beaten |= (here[0] < w[0]) & (here[1] < w[1]) & (here[2] < w[2]) & (here[3] < w[3]);
        }
        if !beaten {
            out.push(Candidate { id: u32::from(*id), corners: here });
        }
    }
}

/// The index of the class of each pixel of `answer`, `[pixels, channels]`, of which the first `classes` are of classes.
fn class_pixels(kind: ClassKind, answer: &[f32], channels: usize, classes: usize, best: &mut [u8]) {
    match kind {
        ClassKind::Scores => argmax_pixels(answer, channels, classes, best),
        ClassKind::Labels => {
            for (best, pixel) in best.iter_mut().zip(answer.chunks_exact(channels)) {
                let index = pixel[0] as u8;
                *best = if f32::from(index) == pixel[0] { index } else { UNLABELLED };
            }
        }
    }
}

/// The arg-max channel of each pixel of `scores`, `[pixels, channels]`, of which the first `classes` count.
fn argmax_pixels(scores: &[f32], channels: usize, classes: usize, best: &mut [u8]) {
    let pixels = best.iter_mut().zip(scores.chunks_exact(channels));
    // A constant number of classes unrolls everything; Cityscapes' are the usual ones.
    match classes {
        19 => pixels.for_each(|(best, pixel)| *best = argmax(&pixel[..19])),
        20 => pixels.for_each(|(best, pixel)| *best = argmax(&pixel[..20])),
        _ => pixels.for_each(|(best, pixel)| *best = argmax(&pixel[..classes])),
    }
}

/// Index of the greatest value, the lowest among equals. NaN and minus infinity never win: [`UNLABELLED`] where there is
/// nothing else.
#[inline(always)]
fn argmax(values: &[f32]) -> u8 {
    let (blocks, rest) = values.as_chunks::<4>();
    // Four maxima side by side, of every fourth value: one alone would wait for itself at every step. Where `block[k]`
    // is not a number the comparison is false.
    let mut top = [f32::NEG_INFINITY; 4];
    for block in blocks {
        for k in 0..4 {
            top[k] = if block[k] > top[k] { block[k] } else { top[k] };
        }
    }
    let greater = |a: f32, b: f32| if a > b { a } else { b };
    let mut greatest = greater(greater(top[0], top[2]), greater(top[1], top[3]));
    for &v in rest {
        greatest = greater(v, greatest);
    }
    if greatest == f32::NEG_INFINITY {
        return UNLABELLED;
    }
    // Then where it was first, 64 values at a time.
    for (chunk, blocks) in blocks.chunks(16).enumerate() {
        let mut equal = 0_u64;
        for (shift, block) in (0..).step_by(4).zip(blocks) {
            equal |= u64::from(equal_lanes(block, greatest)) << shift;
        }
        if equal != 0 {
            return (64 * chunk) as u8 + equal.trailing_zeros() as u8;
        }
    }
    let first = rest.iter().position(|v| *v == greatest);
    first.map_or(UNLABELLED, |i| (4 * blocks.len() + i) as u8)
}

/// Bit `k` says whether value `k` is `to`.
#[inline(always)]
#[allow(unsafe_code)]
fn equal_lanes(values: &[f32; 4], to: f32) -> u8 {
    #[cfg(target_arch = "x86_64")]
    {
        // The compiler does not find the second one by itself.
        use std::arch::x86_64::{_mm_cmpeq_ps, _mm_movemask_ps, _mm_set1_ps, _mm_setr_ps};
        let &[a, b, c, d] = values;
        // SAFETY: they are SSE, which every x86-64 has, and touch no memory.
        unsafe { _mm_movemask_ps(_mm_cmpeq_ps(_mm_setr_ps(a, b, c, d), _mm_set1_ps(to))) as u8 }
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::aarch64::*;
        // SAFETY: every 64-bit Arm processor has NEON; the pointers are those of four numbers.
        unsafe {
            let equal = vceqq_f32(vld1q_f32(values.as_ptr()), vdupq_n_f32(to));
            vaddvq_u32(vandq_u32(equal, vld1q_u32([1, 2, 4, 8].as_ptr()))) as u8
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    (0..4).fold(0, |bits, k| bits | u8::from(values[k] == to) << k)
}

/// One channel of each pixel of `answer`, `[pixels, channels]`: the depth code, or another.
fn channel_of(answer: &[f32], channels: usize, channel: usize, codes: &mut [f32]) {
    for (code, pixel) in codes.iter_mut().zip(answer.chunks_exact(channels)) {
        *code = pixel[channel];
    }
}

/// `(1 - opacity / 256) * pixel + opacity / 256 * color`, rounded.
#[multiversion(targets("x86_64+avx2"))]
fn tint_row(colors: &[u8], opacity: u16, pixels: &mut [u8]) {
    for (pixel, &color) in pixels.iter_mut().zip(colors) {
        // At most 255 x 256 + 128.
        *pixel = ((u16::from(*pixel) * (256 - opacity) + u16::from(color) * opacity + 128) >> 8) as u8;
    }
}

/// `(1 - weight) * a + weight * b`.
#[multiversion(targets("x86_64+avx2"))]
fn blend_rows(a: &[f32], b: &[f32], weight: f32, out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = a * (1.0 - weight) + b * weight;
    }
}

/// `factor * clip(metres, min_m, max_m)`, with the metres of a code as [`DepthCode`] says; NaN where it is not finite.
#[multiversion(targets("x86_64+avx2"))]
fn decode_row(codes: &[f32], d: &DepthDecoding, factor: f32, out: &mut [f32]) {
    let scale = d.scale;
    match d.code {
        DepthCode::Log => clip_row(codes, d, factor, out, |code| exp(code * scale)),
        DepthCode::Metres => clip_row(codes, d, factor, out, |code| code * scale),
        DepthCode::Inverse => {
            clip_row(codes, d, factor, out, |code| if code > 0.0 { scale / code } else { f32::INFINITY });
        }
    }
}

#[inline(always)]
fn clip_row(codes: &[f32], d: &DepthDecoding, factor: f32, out: &mut [f32], metres: impl Fn(f32) -> f32) {
    for (out, &code) in out.iter_mut().zip(codes) {
        let depth_m = metres(code);
        let depth_m = if depth_m < d.min_m { d.min_m } else { depth_m };
        let depth_m = if depth_m > d.max_m { d.max_m } else { depth_m };
        *out = if code.is_finite() { factor * depth_m } else { f32::NAN };
    }
}

/// Softmax of interpolated scores, a row at a time.
///
/// Scores are taken relative to their pixel's greatest before they are interpolated: softmax does not see a shift that
/// is common to all channels, interpolation is linear, and no exponential can overflow.
#[derive(Debug, Default)]
struct SoftmaxScratch {
    classes: usize,
    /// Which network rows `planes` holds.
    rows: [Option<u32>; 2],
    /// Two network rows, `[classes, width]`.
    planes: [Vec<f32>; 2],
    blended: Vec<f32>,
    expanded: Vec<f32>,
    sum: Vec<f32>,
}

impl SoftmaxScratch {
    /// Makes it one for an answer of so many columns, of which it has no rows yet.
    fn fit(&mut self, width: usize, classes: usize, columns: &Axis) {
        (self.classes, self.rows) = (classes, [None; 2]);
        self.planes.iter_mut().for_each(|plane| plane.resize(width * classes, 0.0));
        self.blended.resize(width, 0.0);
        self.expanded.resize(columns.expanded_len(), 0.0);
        self.sum.resize(columns.expanded_len(), 0.0);
    }

    /// `out` is the seen part of an output row.
    fn row(&mut self, packed: &Packed<'_>, columns: &Axis, row: &Position, out: &mut [f32]) {
        if self.rows[1] == Some(row.first) && self.rows[0] != Some(row.first) {
            self.planes.swap(0, 1);
            self.rows.swap(0, 1);
        }
        for (i, y) in [row.first, row.next].into_iter().enumerate() {
            if self.rows[i] != Some(y) {
                shifted_planes(packed, y, self.classes, &mut self.planes[i]);
                self.rows[i] = Some(y);
            }
        }
        let [top, bottom] = &self.planes;
        out.fill(0.0);
        self.sum.fill(0.0);
        for (top, bottom) in top.chunks_exact(packed.width).zip(bottom.chunks_exact(packed.width)) {
            blend_rows(top, bottom, row.weight, &mut self.blended);
            columns.expand(&self.blended, &mut self.expanded);
            add_exp(&self.expanded, &mut self.sum, out);
        }
        for ((i, out), &sum) in (0..).zip(out.iter_mut()).zip(&self.sum) {
            // The greatest term nearly vanishes only where neighbours' greatest scores are of different channels and
            // tens apart; then too little is left of its precision.
            *out = if *out > 1e-25 { *out / sum } else { self.one(packed, row, columns, i) };
        }
    }

    /// One pixel, by the definition; NaN if a score that it is made of is not finite.
    #[cold]
    fn one(&self, packed: &Packed<'_>, row: &Position, columns: &Axis, i: usize) -> f32 {
        let column = &columns.positions[i];
        let corners = packed.corners(row, (column.first, column.next), self.classes);
        if corners.iter().any(|c| c.iter().any(|s| !s.is_finite())) {
            return f32::NAN;
        }
        let weights = corner_weights(column.weight, row.weight);
        let score = |c: usize| -> f32 { (0..4).map(|k| weights[k] * corners[k][c]).sum() };
        let best = (0..self.classes).map(score).fold(f32::NEG_INFINITY, f32::max);
        1.0 / (0..self.classes).map(|c| exp(score(c) - best)).sum::<f32>()
    }
}

/// Scores of network row `y`, relative to each pixel's greatest, as `[classes, width]`. NaN in all classes of a pixel
/// that has a score that is not finite.
fn shifted_planes(packed: &Packed<'_>, y: u32, classes: usize, planes: &mut [f32]) {
    for x in 0..packed.width {
        let scores = &packed.pixel(y, x as u32)[..classes];
        let best = scores.get(usize::from(argmax(scores))).copied().unwrap_or(f32::NAN);
        let finite = scores.iter().all(|s| s.is_finite());
        for (plane, &score) in planes.chunks_exact_mut(packed.width).zip(scores) {
            plane[x] = if finite { score - best } else { f32::NAN };
        }
    }
}

/// Adds `e^x` to `sum`, which is NaN from then on where `x` is, and keeps the greatest in `top`.
#[multiversion(targets("x86_64+avx2"))]
fn add_exp(x: &[f32], sum: &mut [f32], top: &mut [f32]) {
    for ((top, sum), &x) in top.iter_mut().zip(sum).zip(x) {
        let e = exp(x);
        *sum += e;
        *top = top.max(e);
    }
}

/// Weights of the corners (y0, x0), (y0, x1), (y1, x0), (y1, x1).
fn corner_weights(wx: f32, wy: f32) -> [f32; 4] {
    [(1.0 - wy) * (1.0 - wx), (1.0 - wy) * wx, wy * (1.0 - wx), wy * wx]
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::convert::Converter;
    use super::super::view::tests::image_of;
    use super::super::view::Encoding;
    use super::*;
    use crate::export::manifest::{ChannelOrder, InputKind, InputSpec};
    use crate::frame::geometry::{OutputSize, Placement, ResizeMode};
    use crate::frame::input::InputBuilder;
    use crate::frame::noise::signed;

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
        signed(seed).take(n).collect()
    }

    pub(in crate::frame) fn builder(classes: usize) -> OutputBuilder {
        let mut ids = [255; 256];
        let mut colors = [[0; 3]; 256];
        for c in 0..classes - 1 {
            ids[c] = c as u8 + 3;
            colors[c + 3] = [c as u8, 100, 200];
        }
        OutputBuilder {
            kind: ClassKind::Scores,
            score_channels: classes,
            depth: Some((
                classes,
                DepthDecoding { code: DepthCode::Log, scale: 5.0, min_m: 0.1, max_m: 250.0, focal_length_px: 1000.0 },
            )),
            normals_channel: None,
            ids,
            colors,
            plans: Cache::new(),
            size: (1, 1),
            best: Vec::new(),
            code: Vec::new(),
            rooms: Rooms::default(),
        }
    }

    /// The same for an answer of one label and a depth.
    pub(in crate::frame) fn of_labels(builder: OutputBuilder) -> OutputBuilder {
        let depth = builder.depth.clone().map(|(_, decoding)| (1, decoding));
        OutputBuilder { kind: ClassKind::Labels, score_channels: 1, depth, ..builder }
    }

    /// Smooth patches with noise, so that both uniform and mixed cells occur.
    pub(in crate::frame) fn packed_data(w: usize, h: usize, channels: usize) -> Vec<f32> {
        let mut data = noise(w * h * channels, 7);
        for y in 0..h {
            for x in 0..w {
                let favourite = (x / 5 + 3 * (y / 4)) % (channels - 1);
                data[(y * w + x) * channels + favourite] += 1.5;
            }
        }
        data
    }

    /// Labels by the definition, every channel of every pixel; positions are tested where they are made.
    fn slow_labels(b: &OutputBuilder, packed: &Packed<'_>, geometry: &Geometry) -> Vec<u8> {
        let (columns, rows) = (geometry.columns(packed.width), geometry.rows(packed.height));
        let classes = b.score_channels;
        let (width, height) = geometry.output();
        let mut out = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let (Some(row), Some(column)) = (rows.at(y), columns.at(x)) else {
                    out.push(UNLABELLED);
                    continue;
                };
                let corners = packed.corners(row, (column.first, column.next), classes);
                let winners = corners.map(|c| {
                    (0..classes).fold(None, |best, i| {
                        let top = best.map_or(f32::NEG_INFINITY, |best: usize| c[best]);
                        if c[i] > top {
                            Some(i)
                        } else {
                            best
                        }
                    })
                });
                let (wx, wy) = (column.weight, row.weight);
                let mut best = (f32::NEG_INFINITY, 255);
                for c in 0..classes {
                    let mut winners = winners.iter().flatten();
                    let beaten = winners.any(|w| corners.iter().all(|corner| corner[c] < corner[*w]));
                    let left = corners[0][c] * (1.0 - wy) + corners[2][c] * wy;
                    let right = corners[1][c] * (1.0 - wy) + corners[3][c] * wy;
                    let score = left * (1.0 - wx) + right * wx;
                    if !beaten && score > best.0 {
                        best = (score, c);
                    }
                }
                out.push(b.ids[best.1]);
            }
        }
        out
    }

    /// (network, answer): the answer has the network's size, a quarter of it, rounded up, or another one.
    const SIZES: [((usize, usize), (usize, usize)); 5] =
        [((24, 12), (24, 12)), ((96, 48), (24, 12)), ((101, 67), (26, 17)), ((40, 31), (13, 31)), ((9, 9), (1, 1))];

    #[test]
    fn labels_are_the_argmax_of_the_interpolated_scores_ties_included() {
        for (network, (w, h)) in SIZES {
            for classes in [2, 5, 19, 20, 33] {
                let noisy = packed_data(w, h, classes + 1);
                // Few different scores: many equal ones at the corners and between them.
                let rounded: Vec<f32> = noisy.iter().map(|v| v.round()).collect();
                for data in [&noisy, &rounded] {
                    let packed = Packed { width: w, height: h, channels: classes + 1, data };
                    let mut b = builder(classes);
                    let mut out = Vec::new();
                    for placement in placements((160, 70)) {
                        let geometry = Geometry::new(&placement, (160, 70), network).expect("it fits");
                        b.read(&packed, true, false);
                        b.labels(&packed, &geometry, &mut out);
                        let expected = slow_labels(&b, &packed, &geometry);
                        let differ = out.iter().zip(&expected).filter(|(a, e)| a != e).count();
                        assert_eq!(differ, 0, "{classes} classes, {w}x{h} on {network:?}, {placement:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_pixel_without_a_score_that_is_a_number_is_unlabelled() {
        let (w, h, classes) = (26, 17, 19);
        for nothing in [f32::NAN, f32::NEG_INFINITY] {
            let mut data = packed_data(w, h, classes + 1);
            // Whole patches, single pixels, and single scores, which only do not win.
            for (i, pixel) in data.chunks_exact_mut(classes + 1).enumerate() {
                let (x, y) = (i % w, i / w);
                if (x > 18 && y > 9) || i % 23 == 0 {
                    pixel[..classes].fill(nothing);
                }
                pixel[i % classes] = nothing;
            }
            let packed = Packed { width: w, height: h, channels: classes + 1, data: &data };
            let mut b = builder(classes);
            let (mut out, mut confidence) = (Vec::new(), Vec::new());
            for placement in placements((160, 70)) {
                let geometry = Geometry::new(&placement, (160, 70), (101, 67)).expect("it fits");
                b.read(&packed, true, false);
                b.labels(&packed, &geometry, &mut out);
                assert!(b.is_broken());
                assert!(out == slow_labels(&b, &packed, &geometry), "{nothing}, {placement:?}");
                assert!(out.contains(&255) && out.iter().any(|id| *id != 255), "{placement:?}");
                b.confidence(&packed, &geometry, 1, &mut confidence);
                assert!(out.iter().zip(&confidence).all(|(id, c)| *id != 255 || c.is_nan()), "{placement:?}");
            }
            let data = vec![nothing; data.len()];
            let packed = Packed { data: &data, ..packed };
            b.read(&packed, true, false);
            b.labels(&packed, &stretch((w, h), (60, 40)), &mut out);
            assert_eq!(out, [255; 60 * 40], "{nothing}");
        }
        // Depth that is not known here or there is no fault; none at all is.
        let mut data = packed_data(w, h, classes + 1);
        for (holes, is_broken) in [(0, false), (w * h - 1, false), (w * h, true)] {
            data.chunks_exact_mut(classes + 1).take(holes).for_each(|pixel| pixel[classes] = f32::NAN);
            let mut b = builder(classes);
            b.read(&Packed { width: w, height: h, channels: classes + 1, data: &data }, true, true);
            assert_eq!(b.is_broken(), is_broken, "{holes} holes");
        }
    }

    #[test]
    fn the_networks_own_grid_is_torchs_interpolation_of_the_answer() {
        let classes = 20;
        for (network, (w, h)) in SIZES.into_iter().chain([((1024, 400), (256, 100)), ((1022, 397), (256, 100))]) {
            let data = packed_data(w, h, classes + 1);
            let packed = Packed { width: w, height: h, channels: classes + 1, data: &data };
            let placement = Placement { output: OutputSize::Network, ..Placement::default() };
            let geometry = Geometry::new(&placement, (640, 480), network).expect("it fits");
            let up = tch::Tensor::from_slice(&data)
                .reshape([1, h as i64, w as i64, classes as i64 + 1])
                .permute([0, 3, 1, 2])
                .upsample_bilinear2d([network.1 as i64, network.0 as i64], false, None, None);
            let flat = |t: tch::Tensor| Vec::<f32>::try_from(t.reshape([-1])).expect("a flat tensor");
            let mut b = builder(classes);
            let (mut labels, mut depth, mut confidence) = (Vec::new(), Vec::new(), Vec::new());
            b.read(&packed, true, true);
            b.labels(&packed, &geometry, &mut labels);
            b.depth(&geometry, 1.0, &mut depth);
            b.confidence(&packed, &geometry, 1, &mut confidence);
            let scores = up.narrow(1, 0, classes as i64);
            let channels: Vec<i64> =
                labels.iter().map(|id| b.ids.iter().position(|i| i == id).expect("a class") as i64).collect();
            let index = tch::Tensor::from_slice(&channels).reshape([1, 1, network.1 as i64, network.0 as i64]);
            let lost = (scores.amax([1], true) - scores.gather(1, &index, false)).max().double_value(&[]);
            // torch places its samples in single precision: some 1e-5 of a pixel off in the largest of these.
            assert!(lost < 6e-5, "{network:?} of {w}x{h}: a label's score is {lost} below the best");
            let expected = flat((up.narrow(1, classes as i64, 1) * 5.0).exp().clamp(0.1, 250.0));
            for (i, (a, e)) in depth.iter().zip(expected).enumerate() {
                assert!((a - e).abs() <= 3e-4 * e, "{network:?} of {w}x{h} at {i}: {a} m for {e} m");
            }
            let expected = flat(scores.softmax(1, tch::Kind::Float).amax([1], true));
            for (i, (a, e)) in confidence.iter().zip(expected).enumerate() {
                assert!((a - e).abs() < 3e-5, "{network:?} of {w}x{h} at {i}: {a} for {e}");
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
            b.read(&packed, false, true);
            b.depth(&stretch((w, h), (width, height)), 1.0, &mut out);
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
        b.depth.as_mut().expect("it has depth").0 = 1;
        let mut out = Vec::new();
        b.read(&packed, false, true);
        b.depth(&stretch((4, 1), (4, 1)), 1.0, &mut out);
        assert!(out[0].is_nan() && out[1].is_nan(), "{out:?}");
        assert_eq!(out[2..], [250.0, 0.1]);
    }

    #[test]
    fn normals_are_interpolated_and_then_of_length_1() {
        let (w, h, channels) = (7, 5, 3 + 1 + 3);
        let data = packed_data(w, h, channels);
        let packed = Packed { width: w, height: h, channels, data: &data };
        let mut b = builder(3);
        let (mut out, geometry) = (vec![1.0], stretch((w, h), (18, 11)));
        b.normals(&packed, &geometry, &mut out);
        assert!(out.is_empty(), "the model has none");
        b.normals_channel = Some(4);
        b.normals(&packed, &geometry, &mut out);
        assert_eq!(out.len(), 3 * 18 * 11);
        for y in 0..11 {
            let (y0, y1, wy) = bilinear(y, h, 11);
            for x in 0..18 {
                let (x0, x1, wx) = bilinear(x, w, 18);
                let v = [4, 5, 6].map(|channel| {
                    let at = |y, x| packed.pixel(y, x)[channel];
                    let corners = [at(y0, x0), at(y0, x1), at(y1, x0), at(y1, x1)];
                    corners.iter().zip(corner_weights(wx, wy)).map(|(c, w)| c * w).sum::<f32>()
                });
                let length = v.iter().map(|v| v * v).sum::<f32>().sqrt();
                for (k, v) in v.iter().enumerate() {
                    let found = out[(k * 11 + y) * 18 + x];
                    assert!((found - v / length).abs() < 1e-5, "{found} for {}", v / length);
                }
            }
        }
        // Nothing and what is no number have no direction; very large numbers have one.
        let mut data = vec![0.0; 3 * channels];
        data[channels + 5] = f32::INFINITY;
        data[2 * channels + 4] = 3e30;
        b.normals(&Packed { width: 3, height: 1, channels, data: &data }, &stretch((3, 1), (3, 1)), &mut out);
        assert!(out[0].is_nan() && out[1].is_nan() && out[4].is_nan());
        assert_eq!([out[2], out[5], out[8]], [1.0, 0.0, 0.0]);
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

    /// Every mode, with every kind of output size, for one image and one network.
    pub(in crate::frame) fn placements((w, h): (usize, usize)) -> Vec<Placement> {
        let mut all = Vec::new();
        for mode in ResizeMode::ALL {
            for output in [
                OutputSize::Source,
                OutputSize::Network,
                OutputSize::Fixed { width: w / 2, height: h / 2 },
                OutputSize::Fixed { width: 2 * w + 1, height: h - 1 },
            ] {
                let roi = Some(Rect { x: 9, y: 4, width: w - 30, height: h - 10 });
                all.push(Placement { mode, roi, output });
            }
        }
        all
    }

    /// Source coordinates of an output pixel's centre, by the definition.
    fn place(placement: &Placement, geometry: &Geometry, x: usize, y: usize) -> (f64, f64) {
        let (seen, net) = (geometry.source_rect(), geometry.network_rect());
        let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
        if placement.output == OutputSize::Network {
            (
                seen.x as f64 + (x - net.x as f64) * seen.width as f64 / net.width as f64,
                seen.y as f64 + (y - net.y as f64) * seen.height as f64 / net.height as f64,
            )
        } else {
            let ((sw, sh), (ow, oh)) = (geometry.source(), geometry.output());
            (x * sw as f64 / ow as f64, y * sh as f64 / oh as f64)
        }
    }

    fn is_seen(geometry: &Geometry, (x, y): (f64, f64)) -> bool {
        let r = geometry.source_rect();
        (r.x as f64..(r.x + r.width) as f64).contains(&x) && (r.y as f64..(r.y + r.height) as f64).contains(&y)
    }

    #[test]
    fn known_edges_lie_on_their_pixel_in_every_mode_and_size() {
        let (source, network) = ((120, 50), (32, 16));
        for (answer, placement) in [(32, 16), (16, 8), (13, 11)]
            .into_iter()
            .flat_map(|answer| placements(source).into_iter().map(move |placement| (answer, placement)))
        {
            let geometry = Geometry::new(&placement, source, network).expect("it fits");
            let (seen, net) = (geometry.source_rect(), geometry.network_rect());
            // Network pixels a pixel of the answer.
            let (sx, sy) = (network.0 as f64 / answer.0 as f64, network.1 as f64 / answer.1 as f64);
            // Class 0 left of the answer's column `ex` and above its row `ey`, 1 right of it, 2 below; 3, unlabelled,
            // where padding was.
            let ex = ((net.x as f64 + net.width as f64 / 3.0) / sx).round() as usize;
            let ey = ((net.y as f64 + net.height as f64 / 2.0) / sy).round() as usize;
            let mut data = vec![0.0; answer.0 * answer.1 * 5];
            for y in 0..answer.1 {
                for x in 0..answer.0 {
                    let (cx, cy) = ((x as f64 + 0.5) * sx, (y as f64 + 0.5) * sy);
                    let padding = cx <= net.x as f64
                        || cx >= (net.x + net.width) as f64
                        || cy <= net.y as f64
                        || cy >= (net.y + net.height) as f64;
                    let class = if y >= ey { 2 } else { usize::from(x >= ex) };
                    data[(y * answer.0 + x) * 5 + if padding { 3 } else { class }] = 1.0;
                }
            }
            let packed = Packed { width: answer.0, height: answer.1, channels: 5, data: &data };
            // Source pixels a network pixel.
            let (px, py) = (seen.width as f64 / net.width as f64, seen.height as f64 / net.height as f64);
            let edge_x = seen.x as f64 + (ex as f64 * sx - net.x as f64) * px;
            let edge_y = seen.y as f64 + (ey as f64 * sy - net.y as f64) * py;
            let mut b = builder(4);
            let mut out = Vec::new();
            b.read(&packed, true, false);
            b.labels(&packed, &geometry, &mut out);
            let (width, height) = geometry.output();
            assert_eq!(out.len(), width * height);
            // Where three regions meet the edges are not straight: one pixel of the answer around is left out.
            let (cell_x, cell_y) = (px * sx, py * sy);
            let mut counts = [0; 4];
            let what = format!("{answer:?} for {placement:?}");
            for y in 0..height {
                for x in 0..width {
                    let at = place(&placement, &geometry, x, y);
                    let found = out[y * width + x];
                    if !is_seen(&geometry, at) {
                        assert_eq!(found, 255, "{what}: {x},{y} is not seen");
                        counts[3] += 1;
                        continue;
                    }
                    if (at.0 - edge_x).abs() < cell_x && (at.1 - edge_y).abs() < cell_y {
                        continue;
                    }
                    // On an edge exactly, both are right.
                    if (at.0 - edge_x).abs() < 1e-6 || (at.1 - edge_y).abs() < 1e-6 {
                        continue;
                    }
                    let class = if at.1 > edge_y { 2 } else { usize::from(at.0 > edge_x) };
                    assert_eq!(found, b.ids[class], "{what}: {x},{y} shows {at:?}, edges {edge_x}, {edge_y}");
                    counts[class] += 1;
                }
            }
            assert!(counts[..3].iter().all(|c| *c > 10), "{what}: {counts:?}");
            let partly = match placement.output {
                OutputSize::Network => placement.mode == ResizeMode::Letterbox,
                _ => matches!(placement.mode, ResizeMode::Crop | ResizeMode::Roi),
            };
            assert_eq!(counts[3] > 0, partly, "{what}: {} pixels are not seen", counts[3]);
        }
    }

    #[test]
    fn input_and_output_together_come_back_to_the_same_place() {
        // The picture says where it is: red is the column, green the row.
        let (source, network) = ((120, 50), (64, 32));
        let picture: Vec<u8> =
            (0..source.1).flat_map(|y| (0..source.0).flat_map(move |x| [x as u8 * 2, y as u8 * 2, 0])).collect();
        let image = ImageView::rgb8(source.0 as u32, source.1 as u32, &picture).expect("a valid layout");
        let spec = InputSpec {
            width: network.0,
            height: network.1,
            channel_order: ChannelOrder::Rgb,
            kind: InputKind::Float,
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        for placement in placements(source) {
            let geometry = Geometry::new(&placement, source, network).expect("it fits");
            let mut input = vec![0.0; network.0 * network.1 * 3];
            InputBuilder::new(&spec).build(&image, &geometry, &mut input);
            let (width, height) = geometry.output();
            for channel in [0, 1] {
                // The identity as a network: its depth code is the input's red or green.
                let packed = Packed { width: network.0, height: network.1, channels: 3, data: &input };
                let mut b = builder(2);
                b.depth.as_mut().expect("it has depth").0 = channel;
                let mut out = Vec::new();
                b.read(&packed, false, true);
                b.depth(&geometry, 2.0, &mut out);
                let seen = geometry.source_rect();
                let mut count = 0;
                for y in 0..height {
                    for x in 0..width {
                        let at = place(&placement, &geometry, x, y);
                        let found = out[y * width + x];
                        assert_eq!(found.is_nan(), !is_seen(&geometry, at), "{placement:?}: {x},{y}");
                        // Two network pixels at the seen part's edges are flattened by the replication.
                        let (from, to, value) = if channel == 0 {
                            (seen.x as f64 + 5.0, (seen.x + seen.width) as f64 - 5.0, at.0)
                        } else {
                            (seen.y as f64 + 5.0, (seen.y + seen.height) as f64 - 5.0, at.1)
                        };
                        if (from..to).contains(&value) && !found.is_nan() {
                            let back = f64::from((found / 2.0).ln() / 5.0 * 255.0) / 2.0 + 0.5;
                            assert!((back - value).abs() < 2e-3, "{placement:?}: {x},{y} shows {value}, says {back}");
                            count += 1;
                        }
                    }
                }
                assert!(count > 100, "{placement:?}: {count} compared");
            }
        }
    }

    #[test]
    fn an_overlay_shows_an_image_of_any_encoding() {
        let size = (40, 30);
        let data: Vec<u8> =
            (0..40_000_u32).map(|i| i.wrapping_mul(i).wrapping_mul(7).wrapping_add(i * 31) as u8).collect();
        let mut converter = Converter::new();
        let mut b = builder(4);
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for encoding in Encoding::ALL {
            let image = image_of(encoding, size, true, &data).expect("every encoding has even sizes");
            for output in [OutputSize::Source, OutputSize::Network] {
                let geometry =
                    Geometry::new(&Placement { output, ..Placement::default() }, size, (16, 8)).expect("it fits");
                let (width, height) = geometry.output();
                let labels: Vec<u8> = (0..width * height).map(|i| (i % 5) as u8).collect();
                b.overlay(&image, &geometry, &labels, 0.5, &mut found);
                b.overlay(&converter.eight_bit(&image), &geometry, &labels, 0.5, &mut expected);
                assert_eq!(found, expected, "{} {output:?}", encoding.name());
            }
        }
    }

    #[test]
    fn what_the_network_did_not_see_is_said_so_in_every_output() {
        let (source, network) = ((40, 30), (16, 8));
        let data = packed_data(network.0, network.1, 5);
        let packed = Packed { width: network.0, height: network.1, channels: 5, data: &data };
        let picture: Vec<u8> = (0..source.0 * source.1 * 4).map(|i| (i * 7 % 251) as u8).collect();
        let image = ImageView::new("bgra8", source.0 as u32, source.1 as u32, 160, false, &picture).expect("valid");
        let roi = Some(Rect { x: 10, y: 5, width: 20, height: 12 });
        let placement = Placement { mode: ResizeMode::Roi, roi, output: OutputSize::Source };
        let geometry = Geometry::new(&placement, source, network).expect("it fits");
        let mut b = builder(4);
        let (mut labels, mut depth, mut confidence) = (Vec::new(), Vec::new(), Vec::new());
        let (mut overlay, mut colors, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        let mut values = [7; 256];
        values[255] = 99;
        b.read(&packed, true, true);
        b.labels(&packed, &geometry, &mut labels);
        b.depth(&geometry, 1.0, &mut depth);
        b.confidence(&packed, &geometry, 1, &mut confidence);
        b.overlay(&image, &geometry, &labels, 0.75, &mut overlay);
        b.colors(&labels, &mut colors);
        super::mask(&labels, &values, &mut mask);
        let mut tinted = 0;
        for y in 0..30 {
            for x in 0..40 {
                let i = y * 40 + x;
                let pixel = &image.row(y)[4 * x..];
                let shown = [pixel[2], pixel[1], pixel[0]];
                let (over, color) = (&overlay[3 * i..3 * i + 3], &colors[3 * i..3 * i + 3]);
                if (10..30).contains(&x) && (5..17).contains(&y) {
                    assert!(depth[i].is_finite() && (0.0..=1.0).contains(&confidence[i]), "{x},{y}");
                    assert_eq!(color, b.colors[usize::from(labels[i])]);
                    assert_eq!(mask[i], values[usize::from(labels[i])]);
                    tinted += usize::from(over != shown);
                } else {
                    assert!(depth[i].is_nan() && confidence[i].is_nan(), "{x},{y}");
                    assert_eq!((labels[i], mask[i]), (255, 99));
                    assert_eq!((over, color), (&shown[..], &[0, 0, 0][..]), "{x},{y}");
                }
            }
        }
        assert!(tinted > 200, "{tinted}");
    }

    #[test]
    fn the_overlay_shows_the_source_at_the_outputs_size() {
        let corner = Rect { x: 0, y: 0, width: 16, height: 8 };
        let of_network = |mode, roi| Placement { mode, roi, output: OutputSize::Network };
        // Parts as large as what is shown that are not the whole: of the source, and of the output.
        let parts = [
            (of_network(ResizeMode::Roi, Some(corner)), (61, 37), (16, 8)),
            (of_network(ResizeMode::Crop, None), (17, 8), (16, 8)),
            (of_network(ResizeMode::Letterbox, None), (16, 8), (16, 9)),
            (of_network(ResizeMode::Stretch, None), (16, 8), (16, 8)),
        ];
        let usual = placements((61, 37)).into_iter().map(|placement| (placement, (61, 37), (16, 8)));
        for (placement, source, network) in usual.chain(parts) {
            let picture: Vec<u8> = (0..source.0 * source.1 * 3).map(|i| (i * 31 % 253) as u8).collect();
            let image = ImageView::rgb8(source.0 as u32, source.1 as u32, &picture).expect("a valid layout");
            let geometry = Geometry::new(&placement, source, network).expect("it fits");
            let (width, height) = geometry.output();
            let mut out = Vec::new();
            builder(4).overlay(&image, &geometry, &vec![255; width * height], 0.0, &mut out);
            // The input builder is tested on its own: it resizes the same part to the same rectangle.
            let (mut like, (from, to)) = (placement.clone(), geometry.shown());
            (like.mode, like.roi) = (ResizeMode::Roi, Some(from));
            let resized = Geometry::new(&like, source, (to.width, to.height)).expect("it fits");
            let spec = InputSpec {
                width: to.width,
                height: to.height,
                channel_order: ChannelOrder::Rgb,
                kind: InputKind::Float,
                mean: [0.0; 3],
                std: [1.0; 3],
            };
            let mut expected = vec![0.0; to.width * to.height * 3];
            InputBuilder::new(&spec).build(&image, &resized, &mut expected);
            for y in 0..height {
                for x in 0..width {
                    let found = &out[3 * (y * width + x)..][..3];
                    if !(to.columns().contains(&x) && to.rows().contains(&y)) {
                        assert_eq!(found, [0; 3], "{placement:?}: {x},{y} shows no source");
                        continue;
                    }
                    let expected = &expected[3 * ((y - to.y) * to.width + x - to.x)..][..3];
                    for (a, e) in found.iter().zip(expected) {
                        assert!((f32::from(*a) - e * 255.0).abs() < 0.501, "{placement:?}: {x},{y} {a} for {e}");
                    }
                }
            }
        }
    }

    #[test]
    fn confidence_is_the_softmax_of_the_interpolated_scores() {
        let (w, h, classes) = (24, 12, 20);
        // 4: between sure and unsure. 60: so sure that neighbours' scores are tens apart.
        for strength in [1.0_f32, 4.0, 60.0] {
            let data: Vec<f32> = packed_data(w, h, classes + 1).iter().map(|v| v * strength).collect();
            let packed = Packed { width: w, height: h, channels: classes + 1, data: &data };
            let mut b = builder(classes);
            let mut out = Vec::new();
            for (width, height) in [(96, 48), (24, 12), (1, 1), (101, 67), (7, 5), (400, 3)] {
                b.confidence(&packed, &stretch((w, h), (width, height)), 1, &mut out);
                assert_eq!(out.len(), width * height);
                for y in 0..height {
                    for x in 0..width {
                        let (y0, y1, wy) = bilinear(y, h, height);
                        let (x0, x1, wx) = bilinear(x, w, width);
                        let (wx, wy) = (f64::from(wx), f64::from(wy));
                        let at = |y, x, c: usize| f64::from(packed.pixel(y, x)[c]);
                        let scores: Vec<f64> = (0..classes)
                            .map(|c| {
                                (1.0 - wy) * ((1.0 - wx) * at(y0, x0, c) + wx * at(y0, x1, c))
                                    + wy * ((1.0 - wx) * at(y1, x0, c) + wx * at(y1, x1, c))
                            })
                            .collect();
                        let best = scores.iter().fold(f64::MIN, |a, b| a.max(*b));
                        let expected = 1.0 / scores.iter().map(|s| (s - best).exp()).sum::<f64>();
                        let found = f64::from(out[y * width + x]);
                        // Scores of some 100 in single precision are exact to 1e-5, and so is their exponential.
                        let tolerance = if strength > 10.0 { 5e-5 } else { 2e-6 };
                        assert!(
                            (found - expected).abs() < tolerance,
                            "{width}x{height} at {x},{y}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn confidence_of_a_stride_is_that_of_every_row_in_the_middle_rows() {
        let (w, h, classes) = (24, 12, 20);
        let data = packed_data(w, h, classes + 1);
        let packed = Packed { width: w, height: h, channels: classes + 1, data: &data };
        let (mut b, geometry) = (builder(classes), stretch((w, h), (50, 43)));
        let (mut all, mut some) = (Vec::new(), Vec::new());
        b.confidence(&packed, &geometry, 1, &mut all);
        for stride in [2, 4, 7, 64] {
            b.confidence(&packed, &geometry, stride, &mut some);
            for (y, (some, all)) in some.chunks(50).zip(all.chunks(50)).enumerate() {
                if y % stride == stride / 2 || y == 42 {
                    assert_eq!(some, all, "row {y} of stride {stride}");
                } else {
                    assert!(some.iter().all(|c| c.is_nan()), "row {y} of stride {stride}");
                }
            }
        }
    }

    #[test]
    fn confidence_is_nan_where_a_score_is_not_finite() {
        let mut data = vec![1.0; 6 * 3];
        data[3] = f32::NAN;
        data[9] = f32::INFINITY;
        let packed = Packed { width: 6, height: 1, channels: 3, data: &data };
        let mut b = builder(2);
        let mut out = Vec::new();
        b.confidence(&packed, &stretch((6, 1), (6, 1)), 1, &mut out);
        let nan: Vec<bool> = out.iter().map(|c| c.is_nan()).collect();
        assert_eq!(nan, [false, true, false, true, false, false]);
        assert_eq!(out[0], 0.5);
    }

    #[test]
    fn confidence_survives_neighbours_that_are_sure_of_different_classes() {
        // Half way between +300 and -300 for one class, -300 and +300 for the other: both 0, so one half each.
        let data = [300.0, -300.0, 0.0, -300.0, 300.0, 0.0];
        let packed = Packed { width: 2, height: 1, channels: 3, data: &data };
        let mut b = builder(2);
        let mut out = Vec::new();
        b.confidence(&packed, &stretch((2, 1), (3, 1)), 1, &mut out);
        assert_eq!(out, [1.0, 0.5, 1.0]);
    }

    #[test]
    #[allow(unsafe_code)]
    fn winners_are_the_first_of_the_greatest() {
        type Winners = fn(&[Line], &[f32; LANES]) -> [u8; LANES];
        #[allow(unused_mut)]
        let mut ways: Vec<(&str, Winners)> = vec![("without vectors", winners)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has been asked.
            ways.push(("AVX2", |lines, weights| unsafe { winners_avx2(lines, weights) }));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every 64-bit Arm processor has NEON.
        ways.push(("NEON", |lines, weights| unsafe { winners_neon(lines, weights) }));
        // Whole scores and weights with few bits: nothing is rounded, and many are equal.
        let weights = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0];
        let scores = noise(600, 5).into_iter().map(|v| (v * 3.0).round()).collect::<Vec<_>>();
        for (n, scores) in scores.as_chunks::<12>().0.iter().enumerate() {
            let mut lines: Vec<Line> =
                (7..).zip(scores.as_chunks::<2>().0).map(|(id, &[left, right])| Line { left, right, id }).collect();
            if n % 4 == 0 {
                lines[n % 6].left = f32::NAN;
            }
            let expected = weights.map(|w| {
                let score = |l: &Line| l.left * (1.0 - w) + l.right * w;
                let greatest = lines.iter().map(score).fold(f32::NEG_INFINITY, f32::max);
                lines.iter().find(|l| score(l) == greatest).map_or(255, |l| l.id as u8)
            });
            for (way, winners) in &ways {
                assert_eq!(winners(&lines, &weights), expected, "{way}: {lines:?}");
            }
        }
        for (way, winners) in ways {
            assert_eq!(winners(&[Line { left: f32::NAN, right: 1.0, id: 9 }], &weights), [255; LANES], "{way}");
        }
    }

    #[test]
    fn labels_that_are_no_class_are_unlabelled() {
        // Three classes, the last of which is published as 255, and a depth beside them.
        let given = [0.0, 1.0, 2.0, 3.0, 254.0, 255.0, 256.0, -1.0, 0.5, f32::NAN, f32::INFINITY, -0.0];
        let data: Vec<f32> = given.iter().flat_map(|&label| [label, 0.0]).collect();
        let packed = Packed { width: given.len(), height: 1, channels: 2, data: &data };
        let mut b = of_labels(builder(3));
        let mut out = Vec::new();
        b.read(&packed, true, false);
        b.labels(&packed, &stretch((given.len(), 1), (given.len(), 1)), &mut out);
        assert_eq!(out, [3, 4, 255, 255, 255, 255, 255, 255, 255, 255, 255, 3]);
    }

    #[test]
    fn argmax_is_the_first_of_the_greatest_and_never_nan() {
        let mut values = noise(255, 11);
        for n in 1..=values.len() {
            // Equal values, infinities and NaN in changing places.
            for (i, v) in values.iter_mut().enumerate() {
                *v = match (i * 7 + n * 3) % 13 {
                    0 => f32::NAN,
                    1 => f32::NEG_INFINITY,
                    2 => 0.5,
                    3 if n % 3 == 0 => 1.5,
                    4 if n % 5 == 0 => f32::INFINITY,
                    _ => *v,
                };
            }
            let values = &values[..n];
            let mut expected = 255;
            let mut greatest = f32::NEG_INFINITY;
            for (i, &v) in values.iter().enumerate() {
                if v > greatest {
                    (greatest, expected) = (v, i);
                }
            }
            assert_eq!(usize::from(argmax(values)), expected, "{values:?}");
        }
        assert_eq!(argmax(&[f32::NAN; 9]), UNLABELLED);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 7]), UNLABELLED);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY, f32::NAN, f32::NEG_INFINITY, -3.0]), 4);
    }

    /// Everything that a builder makes of an answer and a picture, numbers as their bits, in vectors that hold `old` values
    /// of something else.
    fn everything(
        b: &mut OutputBuilder,
        packed: &Packed<'_>,
        geometry: &Geometry,
        image: &ImageView<'_>,
        old: usize,
    ) -> Vec<Vec<u32>> {
        let [mut labels, mut overlay] = [(); 2].map(|()| vec![77; old]);
        let [mut depth, mut normals, mut confidence] = [(); 3].map(|()| vec![-77.0; old]);
        b.read(packed, true, true);
        b.labels(packed, geometry, &mut labels);
        b.depth(geometry, 1.5, &mut depth);
        b.normals(packed, geometry, &mut normals);
        b.confidence(packed, geometry, 3, &mut confidence);
        b.overlay(image, geometry, &labels, 0.5, &mut overlay);
        let bytes = [labels, overlay].map(|bytes| bytes.into_iter().map(u32::from).collect::<Vec<_>>());
        let floats =
            [depth, normals, confidence].map(|floats| floats.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        bytes.into_iter().chain(floats).collect()
    }

    #[test]
    fn what_is_kept_from_other_answers_does_not_show() {
        let classes = 3;
        let with_normals = || OutputBuilder { normals_channel: Some(classes + 1), ..builder(classes) };
        let mut kept = with_normals();
        let source = (64, 40);
        let picture: Vec<u8> = (0..source.0 * source.1 * 3).map(|i| (i * 31 % 253) as u8).collect();
        let image = ImageView::rgb8(source.0 as u32, source.1 as u32, &picture).expect("a valid layout");
        // Larger and smaller ones in turn.
        for (network, (w, h)) in SIZES.into_iter().chain(SIZES.into_iter().rev()) {
            let data = packed_data(w, h, classes + 4);
            let packed = Packed { width: w, height: h, channels: classes + 4, data: &data };
            for placement in placements(source) {
                let geometry = Geometry::new(&placement, source, network).expect("it fits");
                let expected = everything(&mut with_normals(), &packed, &geometry, &image, 0);
                // More than some outputs have, and less than others.
                let found = everything(&mut kept, &packed, &geometry, &image, 3000);
                assert!(found == expected, "{w}x{h} on {network:?}, {placement:?}");
            }
        }
        // And it is kept: the next frame's threads do not make their own.
        let rooms = &kept.rooms;
        drop(rooms.labels.take(|| unreachable!("one of the labels is kept")));
        drop(rooms.rows.take(|| unreachable!("one of the depth is kept")));
        drop(rooms.softmax.take(|| unreachable!("one of the confidence is kept")));
        drop(rooms.tint.take(|| unreachable!("one of the overlay is kept")));
    }

    #[test]
    fn cameras_that_take_turns_get_their_own_geometry() {
        let (w, h) = (24, 12);
        let data = packed_data(w, h, 4);
        let packed = Packed { width: w, height: h, channels: 4, data: &data };
        let all: Vec<Geometry> =
            placements((64, 40)).iter().map(|p| Geometry::new(p, (64, 40), (w, h)).expect("it fits")).collect();
        let mut shared = builder(3);
        let mut out = Vec::new();
        for turn in 0..3 {
            for geometry in all.iter().rev() {
                let mut alone = builder(3);
                let mut expected = Vec::new();
                alone.read(&packed, true, false);
                alone.labels(&packed, geometry, &mut expected);
                shared.read(&packed, true, false);
                shared.labels(&packed, geometry, &mut out);
                assert_eq!(out, expected, "turn {turn}, {geometry:?}");
            }
        }
    }
}

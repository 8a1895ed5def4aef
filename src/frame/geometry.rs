//! Where things are: which part of the source image the network sees, where that part lies in the network's input, and
//! which pixel of an output shows which place of the source.
//!
//! Four grids: the source image, the network's input, its answer, the output. One rectangle of whole source pixels is
//! resized onto one rectangle of whole network pixels, so nothing is ever off by a fraction. The whole answer lies on
//! the whole input; it may have fewer pixels.
//! Positions are continuous, with pixel `i` covering `[i, i + 1)` and its centre at `i + 0.5`; an output is the exact
//! inverse of how the input was made.

use multiversion::multiversion;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use thiserror::Error;

/// The most pixels of a side of an output.
pub const MOST_PIXELS: usize = 8192;

/// A rectangle of whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rect {
    /// Its left column.
    pub x: usize,
    /// Its top row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Rect {
    /// All of an image of (`width`, `height`).
    pub fn whole((width, height): (usize, usize)) -> Self {
        Self { x: 0, y: 0, width, height }
    }

    /// The columns that it covers.
    pub fn columns(&self) -> Range<usize> {
        self.x..self.x + self.width
    }

    /// The rows that it covers.
    pub fn rows(&self) -> Range<usize> {
        self.y..self.y + self.height
    }

    fn lies_in(&self, (width, height): (usize, usize)) -> bool {
        let fits = |at: usize, length: usize, size: usize| length > 0 && length <= size && at <= size - length;
        fits(self.x, self.width, width) && fits(self.y, self.height, height)
    }
}

impl fmt::Display for Rect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} at ({}, {})", self.width, self.height, self.x, self.y)
    }
}

/// How the source image becomes the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ResizeMode {
    /// `stretch`: all of it, each axis by its own factor.
    #[default]
    Stretch,
    /// `letterbox`: all of it, both axes by one factor, centred; the rest of the input is the network's mean colour.
    Letterbox,
    /// `crop`: its largest centred part that has the network's aspect ratio.
    Crop,
    /// `roi`: a given part of it, each axis by its own factor.
    Roi,
}

impl ResizeMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stretch, Self::Letterbox, Self::Crop, Self::Roi];

    /// As in parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stretch => "stretch",
            Self::Letterbox => "letterbox",
            Self::Crop => "crop",
            Self::Roi => "roi",
        }
    }
}

/// Not the name of a resize mode.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("resize mode {0:?} is not known; write stretch, letterbox, crop or roi")]
pub struct ResizeModeError(String);

impl FromStr for ResizeMode {
    type Err = ResizeModeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == s);
        found.ok_or_else(|| ResizeModeError(s.chars().take(32).collect()))
    }
}

/// The size of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutputSize {
    /// `source`: the source image's own, all of it.
    #[default]
    Source,
    /// `network`: the grid of the network's input.
    Network,
    /// `WIDTHxHEIGHT`: all of the source image at this size.
    Fixed {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
}

/// Not an output size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("output size {0:?} is not known; write source, network, or WIDTHxHEIGHT with each from 1 to {MOST_PIXELS}")]
pub struct OutputSizeError(String);

impl FromStr for OutputSize {
    type Err = OutputSizeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // `parse` alone would take "+1", and "007", which the JSON schema's pattern has no room for.
        let side = |text: &str| {
            (text.len() <= 5 && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()))
                .then(|| text.parse().ok())
                .flatten()
                .filter(|n| (1..=MOST_PIXELS).contains(n))
        };
        match s {
            "source" => Ok(Self::Source),
            "network" => Ok(Self::Network),
            _ => s
                .split_once('x')
                .and_then(|(w, h)| Some(Self::Fixed { width: side(w)?, height: side(h)? }))
                .ok_or_else(|| OutputSizeError(s.chars().take(32).collect())),
        }
    }
}

/// One camera's settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Placement {
    /// How the source image becomes the network's input.
    pub mode: ResizeMode,
    /// The part of the source image for [`ResizeMode::Roi`], which alone reads it; `None`, or four zeros, is all of it.
    pub roi: Option<Rect>,
    /// Size of the outputs.
    pub output: OutputSize,
}

/// Why a placement does not fit an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GeometryError {
    /// The region of interest does not lie in the image.
    #[error(
        "the region of interest is {roi}, but the image is {width}x{height}; set roi to [x, y, width, height] inside of \
         it, or to [0, 0, 0, 0] for all of it"
    )]
    Roi {
        /// As it was given.
        roi: Rect,
        /// Of the image.
        width: usize,
        /// Of the image.
        height: usize,
    },
    /// A grid has no pixels, or an output has too many.
    #[error("the {what} is {width}x{height} pixels; expected each side to be from 1 to {most}")]
    Size {
        /// Which grid.
        what: &'static str,
        /// Found.
        width: usize,
        /// Found.
        height: usize,
        /// The most that is allowed.
        most: usize,
    },
}

/// `output coordinate = scale * source coordinate + offset`, for each axis.
///
/// In the convention of `image_pipeline` (`image_proc`'s resize and crop nodes), which scales a calibration as
/// `fx' = fx * scale`, `cx' = cx * scale + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutputMap {
    /// Output pixels a source pixel.
    pub scale_x: f64,
    /// Output pixels a source pixel.
    pub scale_y: f64,
    /// Output pixels.
    pub offset_x: f64,
    /// Output pixels.
    pub offset_y: f64,
}

/// A placement applied to one image size and one network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Geometry {
    source: (usize, usize),
    network: (usize, usize),
    output: (usize, usize),
    source_rect: Rect,
    network_rect: Rect,
    /// Whether the output is the grid of the network's input; else it shows all of the source.
    on_network: bool,
}

/// Sides beyond this could overflow the whole-number arithmetic of [`Geometry`].
const MOST_SOURCE_PIXELS: usize = 1 << 17;

impl Geometry {
    /// Sizes are (width, height) in pixels.
    ///
    /// # Errors
    /// [`GeometryError`]: the region of interest does not lie in the image, or a size is not usable.
    pub fn new(placement: &Placement, source: (usize, usize), network: (usize, usize)) -> Result<Self, GeometryError> {
        let output = match placement.output {
            OutputSize::Source => source,
            OutputSize::Network => network,
            OutputSize::Fixed { width, height } => (width, height),
        };
        let most_output = match placement.output {
            OutputSize::Source => MOST_SOURCE_PIXELS,
            OutputSize::Network | OutputSize::Fixed { .. } => MOST_PIXELS,
        };
        for (what, (width, height), most) in
            [("image", source, MOST_SOURCE_PIXELS), ("network", network, MOST_PIXELS), ("output", output, most_output)]
        {
            if !(1..=most).contains(&width) || !(1..=most).contains(&height) {
                return Err(GeometryError::Size { what, width, height, most });
            }
        }
        let (source_rect, network_rect) = match placement.mode {
            ResizeMode::Stretch => (Rect::whole(source), Rect::whole(network)),
            ResizeMode::Letterbox => (Rect::whole(source), centred(source, network)),
            ResizeMode::Crop => (centred(network, source), Rect::whole(network)),
            ResizeMode::Roi => {
                let roi = placement.roi.filter(|r| *r != Rect::default()).unwrap_or(Rect::whole(source));
                if !roi.lies_in(source) {
                    return Err(GeometryError::Roi { roi, width: source.0, height: source.1 });
                }
                (roi, Rect::whole(network))
            }
        };
        let on_network = placement.output == OutputSize::Network;
        Ok(Self { source, network, output, source_rect, network_rect, on_network })
    }

    /// Width and height of the source image.
    pub fn source(&self) -> (usize, usize) {
        self.source
    }

    /// Width and height of the network's input.
    pub fn network(&self) -> (usize, usize) {
        self.network
    }

    /// Width and height of the outputs.
    pub fn output(&self) -> (usize, usize) {
        self.output
    }

    /// What the network sees, in source pixels.
    pub fn source_rect(&self) -> Rect {
        self.source_rect
    }

    /// Where [`Self::source_rect`] lies in the network's input, in its pixels.
    pub fn network_rect(&self) -> Rect {
        self.network_rect
    }

    /// Network pixels a source pixel, for x and y: what a focal length in source pixels is multiplied with to have it
    /// in network pixels.
    pub fn focal_scale(&self) -> (f64, f64) {
        let ratio = |network: usize, source: usize| network as f64 / source as f64;
        (
            ratio(self.network_rect.width, self.source_rect.width),
            ratio(self.network_rect.height, self.source_rect.height),
        )
    }

    /// From source to output coordinates, for `camera_info`.
    pub fn output_from_source(&self) -> OutputMap {
        let (from, to) = self.shown();
        let scale = |to: usize, from: usize| to as f64 / from as f64;
        let (scale_x, scale_y) = (scale(to.width, from.width), scale(to.height, from.height));
        OutputMap {
            scale_x,
            scale_y,
            offset_x: to.x as f64 - from.x as f64 * scale_x,
            offset_y: to.y as f64 - from.y as f64 * scale_y,
        }
    }

    /// The part of the source that the output shows, and where in the output it lies.
    pub(super) fn shown(&self) -> (Rect, Rect) {
        if self.on_network {
            (self.source_rect, self.network_rect)
        } else {
            (Rect::whole(self.source), Rect::whole(self.output))
        }
    }

    /// The horizontal axis of an output's interpolation from an answer that is `answer_width` pixels wide.
    pub(super) fn columns(&self, answer_width: usize) -> Axis {
        let (from, to) = self.shown();
        let seen = Seen { source: self.source_rect.columns(), network: self.network_rect.columns() };
        Axis::new(from.columns(), to.columns(), seen, self.network.0, answer_width)
    }

    /// The vertical axis of an output's interpolation from an answer that is `answer_height` pixels high.
    pub(super) fn rows(&self, answer_height: usize) -> Axis {
        let (from, to) = self.shown();
        let seen = Seen { source: self.source_rect.rows(), network: self.network_rect.rows() };
        Axis::new(from.rows(), to.rows(), seen, self.network.1, answer_height)
    }
}

/// The largest rectangle of `inner`'s aspect ratio in `outer`, centred, in whole pixels (at least one).
fn centred(inner: (usize, usize), outer: (usize, usize)) -> Rect {
    let rounded = |a: usize, b: usize, c: usize| (2 * a * b + c) / (2 * c);
    let (width, height) = if outer.0 * inner.1 <= outer.1 * inner.0 {
        (outer.0, rounded(outer.0, inner.1, inner.0).clamp(1, outer.1))
    } else {
        (rounded(outer.1, inner.0, inner.1).clamp(1, outer.0), outer.1)
    };
    Rect { x: (outer.0 - width) / 2, y: (outer.1 - height) / 2, width, height }
}

/// The first and the last pixel of an answer (`answer` pixels on the network's `network`) whose centres lie within `net`
/// (network pixels); where there is none, the one pixel that `net`'s middle lies in.
fn usable(net: &Range<usize>, network: i128, answer: i128) -> (i128, i128) {
    let (start, end) = (net.start as i128, net.end as i128);
    // The centre of pixel j is at (2 * j + 1) * network / (2 * answer).
    let first = (2 * answer * start - network).div_euclid(2 * network) + 1;
    let last = -(network - 2 * answer * end).div_euclid(2 * network) - 1;
    let middle = (start + end) * answer / (2 * network);
    if first <= last {
        (first, last)
    } else {
        (middle, middle)
    }
}

/// Where one interpolated position comes from: `(1 - weight) * [first] + weight * [next]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Position {
    pub first: u32,
    pub next: u32,
    pub weight: f32,
}

impl Position {
    /// The nearer of the two, the second one of equals.
    pub fn nearest(&self) -> u32 {
        if self.weight < 0.5 {
            self.first
        } else {
            self.next
        }
    }
}

/// Output positions between the same two positions of the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cell {
    pub first: u32,
    pub next: u32,
    /// From the first output position that the network saw.
    pub start: u32,
    pub end: u32,
}

/// Positions that are worked on at once.
pub(super) const LANES: usize = 8;

/// What the network sees, along one axis.
struct Seen {
    /// In source pixels.
    source: Range<usize>,
    /// Where that lies in the network's input.
    network: Range<usize>,
}

/// One axis of an output's interpolation from the network's answer: half-pixel centres, replicated edges (of the part
/// that shows the source: padding bleeds in only where a pixel of the answer covers both). With all of the source on all
/// of the network it is PyTorch's `align_corners=False`, from the answer's size to the output's.
#[derive(Debug)]
pub(super) struct Axis {
    /// Output positions whose centre the network saw.
    pub seen: Range<usize>,
    /// Of each position in `seen`.
    pub positions: Vec<Position>,
    /// The same, by what they lie between.
    pub cells: Vec<Cell>,
    /// The weights of `positions`, and [`LANES`] zeros.
    weights: Vec<f32>,
}

impl Axis {
    /// `from` (source pixels) is shown at `to` (output pixels); the network's input is `network` pixels long and its
    /// answer `answer`.
    fn new(from: Range<usize>, to: Range<usize>, seen: Seen, network: usize, answer: usize) -> Self {
        // In whole numbers, so that no position is off by rounding: with
        //   u = 2 * len(to) * (source coordinate of the output pixel's centre - seen.start)
        //   d = 2 * len(to) * len(seen)
        // that centre is at net.start + u * len(net) / d in the network's input, and in the answer at answer / network
        // times that.
        let wide = |r: &Range<usize>| (r.len() as i128, r.start as i128);
        let ((from_len, from_at), (to_len, to_at), (seen_len, seen_at), (net_len, net_at)) =
            (wide(&from), wide(&to), wide(&seen.source), wide(&seen.network));
        let d = 2 * to_len * seen_len;
        let (network, answer) = (network as i128, answer as i128);
        let (first, last) = usable(&seen.network, network, answer);
        let denominator = 2 * network * d;
        let mut start = to.start;
        let mut positions = Vec::with_capacity(to.len());
        for i in to {
            let u = (2 * (i as i128 - to_at) + 1) * from_len + 2 * to_len * (from_at - seen_at);
            if u < 0 || u >= d {
                continue;
            }
            if positions.is_empty() {
                start = i;
            }
            // Its distance from the centre of the answer's first pixel, as a fraction.
            let numerator = 2 * answer * (net_at * d + u * net_len) - network * d;
            let numerator = numerator.clamp(first * denominator, last * denominator);
            let (whole, rest) = (numerator / denominator, numerator % denominator);
            let next = whole + i128::from(rest > 0);
            let weight = (rest as f64 / denominator as f64) as f32;
            positions.push(Position { first: whole as u32, next: next as u32, weight });
        }
        let mut cells: Vec<Cell> = Vec::new();
        for (i, p) in (0..).zip(&positions) {
            match cells.last_mut().filter(|c| (c.first, c.next) == (p.first, p.next)) {
                Some(cell) => cell.end = i + 1,
                None => cells.push(Cell { first: p.first, next: p.next, start: i, end: i + 1 }),
            }
        }
        let weights = positions.iter().map(|p| p.weight).chain([0.0; LANES]).collect();
        Self { seen: start..start + positions.len(), positions, cells, weights }
    }

    /// Position `i` of the output; `None` where the network saw nothing.
    pub fn at(&self, i: usize) -> Option<&Position> {
        self.positions.get(i.checked_sub(self.seen.start)?)
    }

    /// The weights from position `i` of `seen`, [`LANES`] of them.
    #[inline(always)]
    pub fn weights(&self, i: usize) -> &[f32; LANES] {
        self.weights[i..].first_chunk().unwrap_or(&[0.0; LANES])
    }

    /// Length that [`Axis::expand`] needs.
    pub fn expanded_len(&self) -> usize {
        self.positions.len() + LANES
    }

    /// Interpolates a row of network positions at every seen output position. `out` is [`Axis::expanded_len`] long;
    /// what is beyond the seen positions is filled with anything.
    pub fn expand(&self, row: &[f32], out: &mut [f32]) {
        expand(&self.cells, &self.weights, row, out);
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn expand(cells: &[Cell], weights: &[f32], row: &[f32], out: &mut [f32]) {
    for cell in cells {
        let (a, b) = (row[cell.first as usize], row[cell.next as usize]);
        // Whole lanes: what is too many belongs to the next cell, which comes after and overwrites it.
        let mut i = cell.start as usize;
        while let (Some(w), Some(out)) = (weights[i..].first_chunk::<LANES>(), out[i..].first_chunk_mut()) {
            // A loop and not `map`, into which what is compiled for other instruction sets is not inlined.
            let mut values = [0.0; LANES];
            for (value, w) in values.iter_mut().zip(w) {
                *value = a * (1.0 - w) + b * w;
            }
            *out = values;
            i += LANES;
            if i >= cell.end as usize {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(mode: ResizeMode, roi: Option<Rect>, output: OutputSize) -> Geometry {
        Geometry::new(&Placement { mode, roi, output }, (1920, 1080), (512, 256)).expect("it fits")
    }

    #[test]
    fn names_are_read_strictly() {
        assert_eq!("letterbox".parse(), Ok(ResizeMode::Letterbox));
        assert_eq!("stretch".parse(), Ok(ResizeMode::Stretch));
        assert_eq!("crop".parse(), Ok(ResizeMode::Crop));
        assert_eq!("roi".parse(), Ok(ResizeMode::Roi));
        let error = "Crop".parse::<ResizeMode>().expect_err("names are lower case");
        assert!(error.to_string().contains("letterbox"), "{error}");
        assert_eq!("source".parse(), Ok(OutputSize::Source));
        assert_eq!("network".parse(), Ok(OutputSize::Network));
        assert_eq!("640x360".parse(), Ok(OutputSize::Fixed { width: 640, height: 360 }));
        for bad in [
            "",
            "x",
            "640",
            "640x",
            "0x360",
            "0640x360",
            "+640x360",
            "640x-1",
            "640X360",
            "9000x2",
            "640x360x3",
            "1e3x3",
        ] {
            let error = bad.parse::<OutputSize>().expect_err(bad);
            assert!(error.to_string().contains("WIDTHxHEIGHT"), "{error}");
        }
    }

    #[test]
    fn each_mode_resizes_the_right_part() {
        let whole = Rect::whole((1920, 1080));
        let all = Rect::whole((512, 256));
        let g = make(ResizeMode::Stretch, None, OutputSize::Source);
        assert_eq!((g.source_rect(), g.network_rect(), g.output()), (whole, all, (1920, 1080)));
        assert_eq!(g.focal_scale(), (512.0 / 1920.0, 256.0 / 1080.0));
        // 256 rows are 455.1 columns.
        let g = make(ResizeMode::Letterbox, None, OutputSize::Network);
        assert_eq!(g.source_rect(), whole);
        assert_eq!(g.network_rect(), Rect { x: 28, y: 0, width: 455, height: 256 });
        assert_eq!(g.output(), (512, 256));
        // The other way round: a narrow network.
        let g =
            Geometry::new(&Placement { mode: ResizeMode::Letterbox, ..Placement::default() }, (1000, 500), (100, 80))
                .expect("it fits");
        assert_eq!(g.network_rect(), Rect { x: 0, y: 15, width: 100, height: 50 });
        let g = make(ResizeMode::Crop, None, OutputSize::Source);
        assert_eq!((g.source_rect(), g.network_rect()), (Rect { x: 0, y: 60, width: 1920, height: 960 }, all));
        let roi = Rect { x: 100, y: 200, width: 640, height: 480 };
        let g = make(ResizeMode::Roi, Some(roi), OutputSize::Source);
        assert_eq!((g.source_rect(), g.network_rect()), (roi, all));
        assert_eq!(g.focal_scale(), (0.8, 256.0 / 480.0));
        // No region, and one of zeros, are the whole image; other modes do not read it.
        for roi in [None, Some(Rect::default())] {
            assert_eq!(make(ResizeMode::Roi, roi, OutputSize::Source).source_rect(), whole);
        }
        assert_eq!(make(ResizeMode::Stretch, Some(roi), OutputSize::Source).source_rect(), whole);
        // Extreme shapes keep at least one pixel.
        let g = Geometry::new(&Placement { mode: ResizeMode::Letterbox, ..Placement::default() }, (4000, 1), (16, 8))
            .expect("it fits");
        assert_eq!(g.network_rect(), Rect { x: 0, y: 3, width: 16, height: 1 });
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_sizes() {
        let refuse = |roi: Rect| {
            let placement = Placement { mode: ResizeMode::Roi, roi: Some(roi), output: OutputSize::Source };
            Geometry::new(&placement, (640, 480), (512, 256)).expect_err("outside").to_string()
        };
        let far = usize::MAX;
        for (x, y, width, height) in [
            (0, 0, 641, 480),
            (1, 0, 640, 480),
            (0, 400, 10, 81),
            (0, 0, 0, 10),
            (5, 5, 0, 0),
            (far, 0, 2, 2),
            (0, 2, 2, far),
        ] {
            let message = refuse(Rect { x, y, width, height });
            assert!(message.contains(&format!("{width}x{height} at ({x}, {y})")), "{message}");
            assert!(message.contains("640x480"), "{message}");
        }
        let placement = Placement::default();
        for (source, network) in [((0, 5), (4, 4)), ((5, 0), (4, 4)), ((5, 5), (0, 4)), ((1 << 18, 5), (4, 4))] {
            let error = Geometry::new(&placement, source, network).expect_err("no size");
            assert!(matches!(error, GeometryError::Size { .. }), "{error}");
        }
        let placement = Placement { output: OutputSize::Fixed { width: 9000, height: 1 }, ..placement };
        assert!(Geometry::new(&placement, (5, 5), (4, 4)).expect_err("too wide").to_string().contains("9000x1"));
    }

    #[test]
    fn calibrations_follow_the_output() {
        let map = |g: Geometry| {
            let m = g.output_from_source();
            [m.scale_x, m.scale_y, m.offset_x, m.offset_y]
        };
        let roi = Some(Rect { x: 100, y: 200, width: 640, height: 512 });
        for mode in ResizeMode::ALL {
            assert_eq!(map(make(mode, roi, OutputSize::Source)), [1.0, 1.0, 0.0, 0.0]);
            let half = OutputSize::Fixed { width: 960, height: 270 };
            assert_eq!(map(make(mode, roi, half)), [0.5, 0.25, 0.0, 0.0]);
        }
        // The region's corners are the output's corners.
        assert_eq!(map(make(ResizeMode::Roi, roi, OutputSize::Network)), [0.8, 0.5, -80.0, -100.0]);
        assert_eq!(
            map(make(ResizeMode::Letterbox, None, OutputSize::Network)),
            [455.0 / 1920.0, 256.0 / 1080.0, 28.0, 0.0]
        );
    }

    #[test]
    fn positions_are_the_exact_inverse_and_stay_in_the_seen_part() {
        let roi = Some(Rect { x: 101, y: 203, width: 639, height: 512 });
        let fixed = |width, height| OutputSize::Fixed { width, height };
        for mode in ResizeMode::ALL {
            for output in [OutputSize::Source, OutputSize::Network, fixed(960, 540), fixed(37, 41), fixed(4000, 3000)] {
                let g = make(mode, roi, output);
                let (shown, at) = g.shown();
                let (seen, net) = (g.source_rect(), g.network_rect());
                for (network, answer) in [((512, 256), (512, 256)), ((512, 256), (128, 64)), ((512, 256), (77, 101))] {
                    for (axis, length, net_len, answer_len, [shown, at, seen, net]) in [
                        (
                            g.columns(answer.0),
                            g.output().0,
                            network.0,
                            answer.0,
                            [shown, at, seen, net].map(|r| r.columns()),
                        ),
                        (g.rows(answer.1), g.output().1, network.1, answer.1, [shown, at, seen, net].map(|r| r.rows())),
                    ] {
                        let what = format!("{mode:?} {output:?} of {answer_len}");
                        let centre = |j: usize| (j as f64 + 0.5) * net_len as f64 / answer_len as f64;
                        let usable: Vec<usize> = (0..answer_len)
                            .filter(|j| centre(*j) > net.start as f64 && centre(*j) < net.end as f64)
                            .collect();
                        let (first, last) = (usable[0], usable[usable.len() - 1]);
                        let mut count = 0;
                        for i in 0..length {
                            let place = shown.start as f64
                                + (i as f64 + 0.5 - at.start as f64) * shown.len() as f64 / at.len() as f64;
                            let inside = (seen.start as f64..seen.end as f64).contains(&place) && at.contains(&i);
                            assert_eq!(axis.at(i).is_some(), inside, "{what}: {i}");
                            let Some(p) = axis.at(i) else { continue };
                            count += 1;
                            let in_network =
                                net.start as f64 + (place - seen.start as f64) * net.len() as f64 / seen.len() as f64;
                            let exact = (in_network * answer_len as f64 / net_len as f64 - 0.5)
                                .clamp(first as f64, last as f64);
                            let found = f64::from(p.first) + f64::from(p.weight) * f64::from(p.next - p.first);
                            assert!((exact - found).abs() < 1e-6, "{what}: {i} is at {found}, not {exact}");
                            assert!(p.first as usize >= first && p.next as usize <= last && p.next - p.first <= 1);
                        }
                        assert!(count > 5 && axis.positions.len() == count, "{what}: {count} are seen");
                    }
                }
            }
        }
    }

    #[test]
    fn only_answers_whose_centres_lie_in_the_picture_are_used() {
        // All of it, at the same size and at a quarter that is rounded up.
        assert_eq!(usable(&(0..512), 512, 512), (0, 511));
        assert_eq!(usable(&(0..101), 101, 26), (0, 25));
        // Letterbox: from network pixel 28 on, with centres at 2, 6, ..., 26, 30, ...
        assert_eq!(usable(&(28..483), 512, 512), (28, 482));
        assert_eq!(usable(&(28..483), 512, 128), (7, 120));
        // A centre on the edge itself belongs to both: it is left out.
        assert_eq!(usable(&(6..14), 16, 4), (2, 2));
        assert_eq!(usable(&(5..14), 16, 4), (1, 2));
        assert_eq!(usable(&(6..15), 16, 4), (2, 3));
        // No centre at all: the pixel that holds the middle.
        assert_eq!(usable(&(3..5), 8, 2), (1, 1));
        assert_eq!(usable(&(0..1), 8, 1), (0, 0));
        assert_eq!(usable(&(7..8), 8, 2), (1, 1));
    }

    #[test]
    fn expansion_interpolates_every_position() {
        let row: Vec<f32> = (0..512).map(|i| ((i * 37) % 101) as f32).collect();
        for width in [1, 3, 100, 511, 512, 640, 1024, 1280, 1920, 2048] {
            let placement = Placement { output: OutputSize::Fixed { width, height: 1 }, ..Placement::default() };
            let axis = Geometry::new(&placement, (1920, 1080), (512, 256)).expect("it fits").columns(512);
            let mut out = vec![f32::NAN; axis.expanded_len()];
            axis.expand(&row, &mut out);
            assert_eq!(axis.seen, 0..width);
            for (i, p) in axis.positions.iter().enumerate() {
                let expected = row[p.first as usize] * (1.0 - p.weight) + row[p.next as usize] * p.weight;
                assert_eq!(out[i], expected, "position {i} of {width}");
            }
        }
    }
}

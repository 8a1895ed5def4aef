//! Where things are: which part of the source image the network sees, where that part lies in the network's input, and
//! which pixel of an output shows which place of the source.
//!
//! Three grids: the source image, the network's input (and answer, which has its size), the output. One rectangle of
//! whole source pixels is resized onto one rectangle of whole network pixels, so nothing is ever off by a fraction.
//! Positions are continuous, with pixel `i` covering `[i, i + 1)` and its centre at `i + 0.5`; an output is the exact
//! inverse of how the input was made.

use std::fmt;
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

/// Not the name of a resize mode.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("resize mode {0:?} is not known; write stretch, letterbox, crop or roi")]
pub struct ResizeModeError(String);

impl FromStr for ResizeMode {
    type Err = ResizeModeError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "stretch" => Ok(Self::Stretch),
            "letterbox" => Ok(Self::Letterbox),
            "crop" => Ok(Self::Crop),
            "roi" => Ok(Self::Roi),
            _ => Err(ResizeModeError(s.chars().take(32).collect())),
        }
    }
}

/// The size of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutputSize {
    /// `source`: the source image's own, all of it.
    #[default]
    Source,
    /// `network`: the network's own grid.
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
        // `parse` alone would take "+1".
        let side = |text: &str| {
            (text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()))
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
    /// Whether the output is the network's grid; else it shows all of the source.
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

    /// Width and height of the network's input and answer.
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

    /// The horizontal axis of an output's interpolation.
    pub(super) fn columns(&self) -> Axis {
        let (from, to) = self.shown();
        Axis::new(self.output.0, from.x..from.x + from.width, to.x..to.x + to.width, self.seen_x(), self.net_x())
    }

    /// The vertical axis of an output's interpolation.
    pub(super) fn rows(&self) -> Axis {
        let (from, to) = self.shown();
        let (seen, net) = (self.source_rect, self.network_rect);
        Axis::new(
            self.output.1,
            from.y..from.y + from.height,
            to.y..to.y + to.height,
            seen.y..seen.y + seen.height,
            net.y..net.y + net.height,
        )
    }

    fn seen_x(&self) -> std::ops::Range<usize> {
        self.source_rect.x..self.source_rect.x + self.source_rect.width
    }

    fn net_x(&self) -> std::ops::Range<usize> {
        self.network_rect.x..self.network_rect.x + self.network_rect.width
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

/// Where one interpolated position comes from: `(1 - weight) * [first] + weight * [next]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Position {
    pub first: u32,
    pub next: u32,
    pub weight: f32,
}

/// One axis of an output's interpolation from the network's answer: half-pixel centres, replicated edges (of the part
/// that shows the source: padding never bleeds in). With all of the source on all of the network it is PyTorch's
/// `align_corners=False`.
#[derive(Debug)]
pub(super) struct Axis {
    /// Output positions whose centre the network saw.
    pub seen: std::ops::Range<usize>,
    /// Of each position in `seen`.
    pub positions: Vec<Position>,
}

impl Axis {
    /// `from` (source pixels) is shown at `to` (output pixels, of `length`); the network saw `seen` (source pixels) at
    /// `net` (network pixels).
    fn new(
        length: usize,
        from: std::ops::Range<usize>,
        to: std::ops::Range<usize>,
        seen: std::ops::Range<usize>,
        net: std::ops::Range<usize>,
    ) -> Self {
        // In whole numbers, so that no position is off by rounding: with
        //   u = 2 * len(to) * (source coordinate of the output pixel's centre - seen.start)
        // the network coordinate of that centre is net.start + u * len(net) / (2 * len(to) * len(seen)).
        let wide = |r: &std::ops::Range<usize>| (r.len() as i128, r.start as i128);
        let ((from_len, from_at), (to_len, to_at), (seen_len, seen_at), (net_len, net_at)) =
            (wide(&from), wide(&to), wide(&seen), wide(&net));
        let mut first_seen = None;
        let mut positions = Vec::with_capacity(length);
        for i in 0..length {
            if !to.contains(&i) {
                continue;
            }
            let u = (2 * (i as i128 - to_at) + 1) * from_len + 2 * to_len * (from_at - seen_at);
            if u < 0 || u >= 2 * to_len * seen_len {
                continue;
            }
            first_seen.get_or_insert(i);
            // Its distance from the first network pixel's centre, as a fraction.
            let denominator = 2 * to_len * seen_len;
            let numerator = (u * net_len - to_len * seen_len).clamp(0, (net_len - 1) * denominator);
            let (whole, rest) = (numerator / denominator, numerator % denominator);
            // A neighbour without weight is not read: 0 times NaN is NaN. (At the last position nothing is left.)
            let next = if rest > 0 { whole + 1 } else { whole };
            let weight = (rest as f64 / denominator as f64) as f32;
            positions.push(Position { first: (net_at + whole) as u32, next: (net_at + next) as u32, weight });
        }
        let start = first_seen.unwrap_or(0);
        Self { seen: start..start + positions.len(), positions }
    }

    /// Position `i` of the output; `None` where the network saw nothing.
    pub fn at(&self, i: usize) -> Option<&Position> {
        self.positions.get(i.checked_sub(self.seen.start)?)
    }
}

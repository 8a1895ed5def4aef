//! Before and after the network: tables of where things lie, and the kernels that read them.

use super::machine::{Address, Device, DeviceMemory as _, Kernel, Launch, MachineError};
use crate::export::manifest::{ChannelOrder, ClassKind, DepthCode, InputKind, InputSpec, Manifest};
use crate::frame::geometry::{Axis, Geometry, Rect};
use crate::frame::input::{normalisation, padding};
use crate::frame::output::published_ids;
use crate::frame::resample::Resampler;
use crate::frame::view::{self, ImageView};
use zerocopy::{Immutable, IntoBytes};

/// Twin of `Prepare` in `frame.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PrepareTwin {
    bytes: Address,
    out: Address,
    columns: Address,
    column_weights: Address,
    rows: Address,
    row_weights: Address,
    step: i32,
    pixel: i32,
    offsets: [i32; 3],
    column_taps: i32,
    row_taps: i32,
    width: i32,
    height: i32,
    to: [i32; 4],
    kind: i32,
    scale: [f32; 3],
    bias: [f32; 3],
    padding: [f32; 3],
}

/// Twin of `PrepareConverted`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PrepareConvertedTwin {
    prepare: PrepareTwin,
    colors: u64,
    layout: i32,
    left: i32,
    above: i32,
    top: i32,
    width: i32,
    height: i32,
    is_wide: i32,
    is_big: i32,
    red_column: i32,
    red_row: i32,
    luma: i32,
    is_bgr: i32,
}

/// Twin of `Best`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct BestTwin {
    answer: Address,
    best: Address,
    pixels: i32,
    channels: i32,
    scores: i32,
    is_labels: i32,
}

/// Twin of `Place`.
#[repr(C)]
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
pub(super) struct PlaceTwin {
    first: i32,
    next: i32,
    weight: f32,
}

/// Twin of `Outputs`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct OutputsTwin {
    answer: Address,
    best: Address,
    columns: Address,
    rows: Address,
    labels: Address,
    depth: Address,
    answer_width: i32,
    channels: i32,
    scores: i32,
    depth_channel: i32,
    code: i32,
    is_labels: i32,
    width: i32,
    height: i32,
    scale: f32,
    min_m: f32,
    max_m: f32,
    factor: f32,
    ids: [u8; 256],
}

/// How an input lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Half precision, `[height][width][4]`, the fourth is 0: what our own network reads.
    Half,
    /// Single precision, `[height][width][3]`; whole numbers from 0 to 255 for a model whose input is bytes.
    Float,
}

impl Layout {
    /// Bytes of a pixel.
    pub fn pixel(self) -> usize {
        match self {
            Self::Half => 4 * size_of::<u16>(),
            Self::Float => 3 * size_of::<f32>(),
        }
    }
}

/// How bytes become an input: the manifest's part of it.
#[derive(Debug, Clone)]
pub(super) struct Normalisation {
    width: usize,
    height: usize,
    order: ChannelOrder,
    kind: InputKind,
    layout: Layout,
    scale: [f32; 3],
    bias: [f32; 3],
    padding: [f32; 3],
}

impl Normalisation {
    pub fn new(spec: &InputSpec, layout: Layout) -> Self {
        let (scale, bias) = normalisation(spec);
        Self {
            width: spec.width,
            height: spec.height,
            order: spec.channel_order,
            kind: spec.kind,
            layout,
            scale,
            bias,
            padding: padding(spec),
        }
    }
}

/// The bytes of a picture that travel to the device: rows of one length, without gaps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Excerpt {
    /// The picture's first row.
    top: usize,
    /// How many of its rows.
    rows: usize,
    /// How many rows of colours behind them (NV12).
    color_rows: usize,
    /// The first byte of each row.
    start: usize,
    /// Bytes of each row.
    pub row_bytes: usize,
}

impl Excerpt {
    /// What is read for the part `from` of the picture: the part itself, or, if its pixels are made of others', whole rows and
    /// some beside them.
    pub fn new(image: &ImageView<'_>, from: Rect) -> Self {
        let encoding = image.encoding();
        if encoding.is_direct() {
            let pixel = encoding.channels();
            let (start, row_bytes) = (from.x * pixel, from.width * pixel);
            return Self { top: from.y, rows: from.height, color_rows: 0, start, row_bytes };
        }
        let (first, end) = (from.y, from.y + from.height);
        let (top, bottom) = match encoding.layout() {
            // The border's rows are made of their neighbours' neighbours.
            view::Layout::Bayer { .. } => {
                (first.saturating_sub(1).min(image.height() - 3), (end + 1).clamp(3, image.height()))
            }
            // Two rows share theirs.
            view::Layout::Nv12 => (first / 2 * 2, end.next_multiple_of(2)),
            view::Layout::Packed422 { .. } | view::Layout::Interleaved => (first, end),
        };
        let rows = bottom - top;
        let color_rows = if encoding.layout() == view::Layout::Nv12 { rows / 2 } else { 0 };
        Self { top, rows, color_rows, start: 0, row_bytes: image.row(top).len() }
    }

    /// Rows in all.
    pub fn len(&self) -> usize {
        self.rows + self.color_rows
    }

    /// Row `i` of the excerpt.
    ///
    /// # Panics
    /// If `i` is not less than [`Self::len`], or the excerpt another picture's.
    pub fn row<'a>(&self, image: &ImageView<'a>, i: usize) -> &'a [u8] {
        let row = match i.checked_sub(self.rows) {
            None => image.row(self.top + i),
            Some(color) => image.chroma_row(self.top + 2 * color),
        };
        &row[self.start..][..self.row_bytes]
    }
}

/// Tables of a resampling, in host memory.
#[derive(Debug)]
pub(super) struct InputTables {
    /// First source column and row of each of the input, from the corner of the part that is read.
    firsts: [Vec<i32>; 2],
    weights: [Vec<f32>; 2],
    taps: [usize; 2],
    /// The part that is read.
    pub from: Rect,
    /// Where it goes.
    to: Rect,
}

impl InputTables {
    pub fn new(geometry: &Geometry) -> Self {
        let (from, to) = (geometry.source_rect(), geometry.network_rect());
        let resampler = Resampler::new(from, (to.width, to.height));
        let [columns, rows] = resampler.tables();
        let firsts = |firsts: &[usize], start: usize| firsts.iter().map(|f| (f - start) as i32).collect();
        Self {
            firsts: [firsts(columns.firsts, from.x), firsts(rows.firsts, from.y)],
            weights: [columns.weights.to_vec(), rows.weights.to_vec()],
            taps: [columns.count, rows.count],
            from,
            to,
        }
    }

    /// The kernel that fills one image of the input, from the excerpt's `bytes`.
    pub fn launch(
        &self,
        tables: [Address; 4],
        norm: &Normalisation,
        (image, excerpt): (&ImageView<'_>, &Excerpt),
        bytes: Address,
        out: Address,
    ) -> Launch {
        let encoding = image.encoding();
        let is_bgr = norm.order == ChannelOrder::Bgr;
        let mut offsets = encoding.rgb_offsets().map(|o| o as i32);
        // The other kernel orders what it has made.
        if is_bgr && encoding.is_direct() {
            offsets.reverse();
        }
        let value_bytes = if encoding.is_sixteen_bit() { 2 } else { 1 };
        let to = self.to;
        let prepare = PrepareTwin {
            bytes,
            out,
            columns: tables[0],
            column_weights: tables[1],
            rows: tables[2],
            row_weights: tables[3],
            step: excerpt.row_bytes as i32,
            pixel: (encoding.channels() * value_bytes) as i32,
            offsets,
            column_taps: self.taps[0] as i32,
            row_taps: self.taps[1] as i32,
            width: norm.width as i32,
            height: norm.height as i32,
            to: [to.x, to.y, to.width, to.height].map(|n| n as i32),
            kind: match (norm.layout, norm.kind) {
                (Layout::Half, _) => 0,
                (Layout::Float, InputKind::Float) => 1,
                (Layout::Float, InputKind::U8) => 2,
            },
            scale: norm.scale,
            bias: norm.bias,
            padding: norm.padding,
        };
        let pixels = norm.width * norm.height;
        if encoding.is_direct() {
            return Launch::each(Kernel::Prepare, pixels, prepare);
        }
        let (layout, [red_column, red_row], luma) = match encoding.layout() {
            view::Layout::Interleaved => (0, [0; 2], 0),
            view::Layout::Bayer { red_column, red_row } => (1, [red_column, red_row], 0),
            view::Layout::Packed422 { luma } => (2, [0; 2], luma),
            view::Layout::Nv12 => (3, [0; 2], 0),
        };
        let arguments = PrepareConvertedTwin {
            prepare,
            colors: (excerpt.rows * excerpt.row_bytes) as u64,
            layout,
            left: self.from.x as i32,
            above: self.from.y as i32,
            top: excerpt.top as i32,
            width: image.width() as i32,
            height: image.height() as i32,
            is_wide: i32::from(encoding.is_sixteen_bit()),
            is_big: i32::from(image.is_bigendian()),
            red_column: red_column as i32,
            red_row: red_row as i32,
            luma: luma as i32,
            is_bgr: i32::from(is_bgr),
        };
        Launch::each(Kernel::PrepareConverted, pixels, arguments)
    }

    /// Columns, their weights, rows, theirs: as bytes.
    pub fn bytes(&self) -> [&[u8]; 4] {
        let ([x, y], [of_x, of_y]) = (&self.firsts, &self.weights);
        [x.as_bytes(), of_x.as_bytes(), y.as_bytes(), of_y.as_bytes()]
    }
}

/// Where an output's rows and columns lie in the answer, in host memory.
#[derive(Debug)]
pub(super) struct OutputTables {
    columns: Vec<PlaceTwin>,
    rows: Vec<PlaceTwin>,
}

impl OutputTables {
    pub fn new(geometry: &Geometry, (answer_width, answer_height): (usize, usize)) -> Self {
        let places = |axis: &Axis, length: usize| {
            let nowhere = PlaceTwin { first: -1, next: -1, weight: 0.0 };
            let place = |i| {
                axis.at(i).map_or(nowhere, |p| PlaceTwin {
                    first: p.first as i32,
                    next: p.next as i32,
                    weight: p.weight,
                })
            };
            (0..length).map(place).collect()
        };
        let (width, height) = geometry.output();
        Self {
            columns: places(&geometry.columns(answer_width), width),
            rows: places(&geometry.rows(answer_height), height),
        }
    }

    /// Columns and rows, as bytes.
    pub fn bytes(&self) -> [&[u8]; 2] {
        [self.columns.as_bytes(), self.rows.as_bytes()]
    }

    pub fn size(&self) -> (usize, usize) {
        (self.columns.len(), self.rows.len())
    }
}

/// How an answer becomes labels and metres: the manifest's part of it.
#[derive(Debug, Clone)]
pub(super) struct Decoding {
    /// Height, width, channels.
    answer: [usize; 3],
    classes: ClassKind,
    /// 0 where there are no classes: [`Self::best`] is then nothing to launch.
    scores: usize,
    /// This and what follows mean nothing where there is no depth.
    depth_channel: usize,
    code: DepthCode,
    scale: f32,
    min_m: f32,
    max_m: f32,
    ids: [u8; 256],
}

/// Where things of one frame are.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameAddresses {
    pub answer: Address,
    /// Of each pixel of the answer the class: what `best` makes of it.
    pub best: Address,
    /// Columns and rows.
    pub tables: [Address; 2],
    /// 0: not wanted.
    pub labels: Address,
    /// 0: not wanted.
    pub depth: Address,
}

impl Decoding {
    pub fn new(manifest: &Manifest, answer: [usize; 3]) -> Self {
        let depth = manifest.output.depth.as_ref();
        Self {
            answer,
            classes: manifest.output.classes,
            scores: manifest.output.score_channels,
            depth_channel: manifest.output.depth_channel.unwrap_or(0),
            code: depth.map(|d| d.code).unwrap_or_default(),
            scale: depth.map_or(0.0, |d| d.scale),
            min_m: depth.map_or(0.0, |d| d.min_m),
            max_m: depth.map_or(0.0, |d| d.max_m),
            ids: published_ids(manifest),
        }
    }

    /// The kernel that finds the classes of so many answers, one behind the other; `None` where there are none.
    pub fn best(&self, answers: Address, best: Address, count: usize) -> Option<Launch> {
        if self.scores == 0 {
            return None;
        }
        let [height, width, channels] = self.answer;
        let pixels = count * height * width;
        let arguments = BestTwin {
            answer: answers,
            best,
            pixels: pixels as i32,
            channels: channels as i32,
            scores: self.scores as i32,
            is_labels: i32::from(self.classes == ClassKind::Labels),
        };
        Some(Launch::each(Kernel::Best, pixels, arguments))
    }

    /// The kernel that makes one frame's outputs of its answer.
    pub fn launch(&self, tables: &OutputTables, at: FrameAddresses, factor: f32) -> Launch {
        let [_, answer_width, channels] = self.answer.map(|n| n as i32);
        let (width, height) = tables.size();
        let outputs = OutputsTwin {
            answer: at.answer,
            best: at.best,
            columns: at.tables[0],
            rows: at.tables[1],
            labels: at.labels,
            depth: at.depth,
            answer_width,
            channels,
            scores: self.scores as i32,
            depth_channel: self.depth_channel as i32,
            code: match self.code {
                DepthCode::Log => 0,
                DepthCode::Metres => 1,
                DepthCode::Inverse => 2,
            },
            is_labels: i32::from(self.classes == ClassKind::Labels),
            width: width as i32,
            height: height as i32,
            scale: self.scale,
            min_m: self.min_m,
            max_m: self.max_m,
            factor,
            ids: self.ids,
        };
        // Rows behind each other: a picture may have more than a grid may be high.
        Launch::new(Kernel::Outputs, [width.div_ceil(4 * 64) * height, 1, 1], 64, outputs)
    }
}

/// Some tables in one allocation on the device. Kernels alone read them; those that go from a cache make room for others,
/// whose making has waited for the kernels ([`super::machine::Machine::upload`]).
#[derive(Debug)]
pub(super) struct OnDevice<D: Device, const N: usize> {
    _memory: D::Buffer,
    pub at: [Address; N],
}

impl<D: Device, const N: usize> OnDevice<D, N> {
    pub fn new(device: &D, tables: [&[u8]; N]) -> Result<Self, MachineError> {
        let room = |bytes: &[u8]| bytes.len().next_multiple_of(256);
        let memory = device.buffer(tables.iter().map(|t| room(t)).sum())?;
        let mut next = memory.at();
        let mut at = [0; N];
        for (at, table) in at.iter_mut().zip(tables) {
            device.upload(next, table)?;
            *at = next;
            next += room(table) as Address;
        }
        Ok(Self { _memory: memory, at })
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::Host;
    use super::super::machine::Machine as _;
    use super::*;
    use crate::frame::geometry::{OutputSize, Placement, ResizeMode};
    use crate::frame::input::InputBuilder;
    use crate::frame::output::tests::{builder, of_labels, packed_data, placements};
    use crate::frame::output::{OutputBuilder, Packed};
    use crate::frame::view::tests::image_of;
    use crate::frame::view::Encoding;
    use half::f16;

    fn upload<const N: usize>(host: &Host, tables: [&[u8]; N]) -> [Address; N] {
        tables.map(|table| {
            let at = host.allocate(table.len()).expect("memory");
            host.upload(at, table).expect("memory");
            at
        })
    }

    /// As `builder`'s, but for the answer's size.
    fn decoding(classes: usize) -> Decoding {
        let mut ids = [255; 256];
        (0..classes - 1).for_each(|c| ids[c] = c as u8 + 3);
        Decoding {
            answer: [0; 3],
            classes: ClassKind::Scores,
            scores: classes,
            depth_channel: classes,
            code: DepthCode::Log,
            scale: 5.0,
            min_m: 0.1,
            max_m: 250.0,
            ids,
        }
    }

    /// What a picture's bytes become, on the machine and by the processor.
    fn inputs(
        host: &Host,
        spec: &InputSpec,
        placement: &Placement,
        image: &ImageView<'_>,
        layout: Layout,
    ) -> (Address, Vec<f32>) {
        let (size, network) = ((image.width(), image.height()), (spec.width, spec.height));
        let geometry = Geometry::new(placement, size, network).expect("it fits");
        let pixels = spec.width * spec.height;
        let mut expected = vec![0.0; pixels * 3];
        InputBuilder::new(spec).build(image, &geometry, &mut expected);
        let tables = InputTables::new(&geometry);
        let excerpt = Excerpt::new(image, tables.from);
        let rows: Vec<_> = (0..excerpt.len()).flat_map(|i| excerpt.row(image, i)).copied().collect();
        let [bytes] = upload(host, [&rows]);
        let out = host.allocate(pixels * layout.pixel()).expect("memory");
        let norm = Normalisation::new(spec, layout);
        host.launch(&tables.launch(upload(host, tables.bytes()), &norm, (image, &excerpt), bytes, out))
            .expect("it runs");
        (out, expected)
    }

    #[test]
    fn inputs_are_the_processors() {
        let Some(host) = Host::new() else { return };
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let of = |channel_order, kind| InputSpec { width: 16, height: 8, channel_order, kind, mean, std };
        let mut seen = 0;
        for encoding in Encoding::ALL {
            for order in [ChannelOrder::Rgb, ChannelOrder::Bgr] {
                for (w, h) in [(1, 1), (5, 3), (32, 16), (61, 37), (100, 20), (209, 9)] {
                    let data: Vec<u8> = (0..(w * 8 + 3) * (h + h / 2)).map(|i| (i * i * 7 + i * 31) as u8).collect();
                    for mode in ResizeMode::ALL {
                        let Some(image) = image_of(encoding, (w, h), order == ChannelOrder::Bgr, &data) else {
                            continue;
                        };
                        let roi = (w > 9).then(|| Rect { x: 3, y: 2, width: w - 5, height: h - 4 });
                        let placement = Placement { mode, roi, ..Placement::default() };
                        let what = format!("{} {order:?} {w}x{h} {mode:?}", encoding.name());
                        seen += 1;
                        // A module's is the processor's, to the bit; ours is that, rounded.
                        for kind in [InputKind::Float, InputKind::U8] {
                            let (out, expected) = inputs(&host, &of(order, kind), &placement, &image, Layout::Float);
                            let values: Vec<f32> = host.values(out, 16 * 8 * 3);
                            assert_eq!(values, expected, "{what} {kind:?}");
                        }
                        let spec = of(order, InputKind::Float);
                        let (out, expected) = inputs(&host, &spec, &placement, &image, Layout::Half);
                        let values: Vec<f16> = host.values(out, 16 * 8 * 4);
                        for (i, (found, expected)) in values.chunks_exact(4).zip(expected.chunks_exact(3)).enumerate() {
                            let expected = [expected[0], expected[1], expected[2], 0.0].map(f16::from_f32);
                            assert_eq!(found, expected, "{what} pixel {i}");
                        }
                    }
                }
            }
        }
        assert!(seen > 600, "{seen}");
    }

    /// What is read at a picture's edges and for parts of one row and one column: of every row that a pixel is made of there is
    /// all, and no more than two rows beside the part.
    #[test]
    fn an_excerpt_has_what_its_pixels_are_made_of() {
        let Some(host) = Host::new() else { return };
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let spec =
            InputSpec { width: 4, height: 3, channel_order: ChannelOrder::Rgb, kind: InputKind::Float, mean, std };
        let (w, h) = (10, 6);
        let data: Vec<u8> = (0..(w * 8 + 3) * (h + h / 2)).map(|i| (i * i * 7 + i * 31) as u8).collect();
        for encoding in Encoding::ALL {
            let image = image_of(encoding, (w, h), false, &data).expect("every encoding has even sizes");
            for (y, height) in (0..h).flat_map(|y| (1..=h - y).map(move |height| (y, height))) {
                for (x, width) in [(0, 1), (w - 1, 1), (3, 2), (0, w)] {
                    let roi = Rect { x, y, width, height };
                    let excerpt = Excerpt::new(&image, roi);
                    assert!((height..=height + 2).contains(&excerpt.rows), "{} {roi:?}: {excerpt:?}", encoding.name());
                    let placement = Placement { mode: ResizeMode::Roi, roi: Some(roi), ..Placement::default() };
                    let (out, expected) = inputs(&host, &spec, &placement, &image, Layout::Float);
                    assert_eq!(host.values::<f32>(out, 4 * 3 * 3), expected, "{} {roi:?}", encoding.name());
                }
            }
        }
    }

    #[test]
    fn outputs_of_labels_are_the_processors() {
        let Some(host) = Host::new() else { return };
        let (w, h) = (24, 12);
        // Labels, some of which are none, and metres.
        let mut data: Vec<f32> = packed_data(w, h, 2);
        for (i, pixel) in data.chunks_exact_mut(2).enumerate() {
            pixel[0] = [0.0, -0.0, 3.0, 6.0, 7.0, 255.0, 256.0, -1.0, 1.5, f32::NAN, f32::INFINITY][i * i % 11];
            if i % 17 == 0 {
                pixel[1] = f32::NAN;
            }
        }
        let packed = Packed { width: w, height: h, channels: 2, data: &data };
        let (classes, answer) = (ClassKind::Labels, [h, w, 2]);
        let decoding = Decoding { answer, classes, scores: 1, depth_channel: 1, ..decoding(8) };
        let mut b = of_labels(builder(8));
        for placement in placements((64, 40)) {
            let geometry = Geometry::new(&placement, (64, 40), (48, 24)).expect("it fits");
            compare(&host, &decoding, &mut b, &packed, &geometry);
        }
    }

    #[test]
    fn outputs_are_the_processors() {
        let Some(host) = Host::new() else { return };
        let (w, h, classes) = (24, 12, 7);
        let mut data = packed_data(w, h, classes + 1);
        // Equal scores, and what is no number.
        for (i, pixel) in data.chunks_exact_mut(classes + 1).enumerate() {
            if i % 5 == 0 {
                pixel[..classes].iter_mut().for_each(|v| *v = (*v * 2.0).round());
            }
            if i % 41 == 0 {
                (pixel[2], pixel[classes]) = (f32::NAN, f32::INFINITY);
            }
            // A patch, and pixels here and there, without a score that is a number.
            if (i % w > 17 && i / w > 7) || i % 37 == 5 {
                pixel[..classes].fill(f32::NAN);
            }
        }
        let packed = Packed { width: w, height: h, channels: classes + 1, data: &data };
        let decoding = Decoding { answer: [h, w, classes + 1], ..decoding(classes) };
        let mut b = builder(classes);
        // The last ones have several blocks a row.
        let wide = [601, 512]
            .map(|width| Placement { output: OutputSize::Fixed { width, height: 9 }, ..Placement::default() });
        for placement in placements((64, 40)).into_iter().chain(wide) {
            let geometry = Geometry::new(&placement, (64, 40), (48, 24)).expect("it fits");
            compare(&host, &decoding, &mut b, &packed, &geometry);
        }
    }

    #[test]
    fn outputs_of_the_tallest_and_of_the_widest_source_fit_a_grid() {
        for source in [(2, 1 << 17), (1 << 17, 2)] {
            let geometry = Geometry::new(&Placement::default(), source, (48, 24)).expect("it fits");
            let tables = OutputTables::new(&geometry, (24, 12));
            assert_eq!(tables.size(), source);
            let at = FrameAddresses { answer: 0, best: 0, tables: [0; 2], labels: 0, depth: 0 };
            let launch = Decoding { answer: [12, 24, 8], ..decoding(7) }.launch(&tables, at, 1.0);
            assert!(launch.fits(), "{:?} blocks", launch.grid);
            let covered = launch.grid.iter().product::<u32>() as usize * launch.threads as usize * 4;
            assert!(covered >= source.0 * source.1, "{:?} blocks for {source:?}", launch.grid);
        }
    }

    /// Labels are the processor's; metres are to rounding, as its exponential is another one.
    fn compare(host: &Host, decoding: &Decoding, b: &mut OutputBuilder, packed: &Packed<'_>, geometry: &Geometry) {
        let (width, height) = geometry.output();
        let (mut labels, mut depth) = (Vec::new(), Vec::new());
        b.read(packed, true, true);
        b.labels(packed, geometry, &mut labels);
        b.depth(geometry, 1.5, &mut depth);
        let tables = OutputTables::new(geometry, (packed.width, packed.height));
        let room = |bytes| host.allocate(bytes).expect("memory");
        let (on_labels, on_depth) = (room(width * height), room(width * height * 4));
        // The same answer twice, one behind the other, as two images of a batch.
        let pixels = packed.width * packed.height;
        let [answers] = upload(host, [[packed.data, packed.data].concat().as_bytes()]);
        let bests = room(2 * pixels);
        host.launch(&decoding.best(answers, bests, 2).expect("there are classes")).expect("it runs");
        let places = upload(host, tables.bytes());
        for image in 0..2 {
            let answer = answers + (image * size_of_val(packed.data)) as Address;
            let best = bests + (image * pixels) as Address;
            let at = FrameAddresses { answer, best, tables: places, labels: on_labels, depth: on_depth };
            host.launch(&decoding.launch(&tables, at, 1.5)).expect("it runs");
            assert_eq!(host.values::<u8>(on_labels, width * height), labels, "{geometry:?}");
            for (i, (found, expected)) in host.values::<f32>(on_depth, width * height).iter().zip(&depth).enumerate() {
                let near = (found - expected).abs() <= 2e-6 * expected.abs() || (found.is_nan() && expected.is_nan());
                assert!(near, "{geometry:?} at {i}: {found} for {expected}");
            }
        }
    }
}

//! Any encoding to 8-bit colours: row by row while the network's input is made of them (`Rows`), or a whole picture for who
//! needs one ([`Converter`]). What is already 8-bit and interleaved passes untouched. `network/cuda/frame.cu` does the same
//! on a device, pixel by pixel.
//!
//! The answers are OpenCV's to the bit, so that a picture is what `cv_bridge` would have made of it: 16 bits are scaled
//! by 255/65535 and rounded; Bayer mosaics are interpolated bilinearly (`cvtColor`'s `COLOR_BayerXX2RGB`, 16-bit ones
//! in 16 bits); YUV is BT.601 in limited range, in OpenCV's fixed point (`COLOR_YUV2RGB_UYVY`, `_YUY2`, `_NV12`).
//! tests/encodings.rs holds that.
//!
//! Within a row the work is done in blocks on the stack: taken apart into planes, then computed in loops without branches, which
//! vectorise, then put together.

use super::view::{Encoding, ImageView, Layout};
use crate::cpu::team::share;
use multiversion::multiversion;

/// Pixels of a block; even, so that every block begins at the same place of a Bayer pattern.
const BLOCK: usize = 64;
/// Rows of one task.
const TASK_ROWS: usize = 16;
/// Pairs of pixels of a block.
const PAIRS: usize = BLOCK / 2;

/// What the pixels of an encoding become: the same if it is direct ([`Encoding::is_direct`]), else rgb8, of mono16 mono8.
pub(super) fn eight_bit(encoding: Encoding) -> Encoding {
    match encoding {
        Encoding::Mono16 => Encoding::Mono8,
        direct if direct.is_direct() => direct,
        _ => Encoding::Rgb8,
    }
}

/// Row `y` of an image that is not direct, as pixels of [`eight_bit`]: `out` is as long as they are.
#[multiversion(targets("x86_64+avx2"))]
fn convert_row(image: &ImageView<'_>, y: usize, out: &mut [u8]) {
    let encoding = image.encoding();
    match (encoding.layout(), image.is_bigendian()) {
        (Layout::Interleaved, false) => sixteen::<false>(encoding, image.row(y), out),
        (Layout::Interleaved, true) => sixteen::<true>(encoding, image.row(y), out),
        (Layout::Bayer { red_column, red_row }, big_endian) => {
            // OpenCV's border: the first and last row repeat their neighbours.
            let y = y.clamp(1, image.height() - 2);
            let lines = [image.row(y - 1), image.row(y), image.row(y + 1)];
            let red = y % 2 == red_row;
            // The row's own colour lies in red's columns if that is red, else in the others.
            let even = if red { red_column == 0 } else { red_column == 1 };
            match (encoding.is_sixteen_bit(), big_endian) {
                (false, _) => bayer_row::<Byte, { BLOCK + 2 }>(lines, red, even, out),
                (true, false) => bayer_row::<Word<false>, { 2 * (BLOCK + 2) }>(lines, red, even, out),
                (true, true) => bayer_row::<Word<true>, { 2 * (BLOCK + 2) }>(lines, red, even, out),
            }
        }
        (Layout::Packed422 { luma: 0 }, _) => packed422::<0>(image.row(y), out),
        (Layout::Packed422 { .. }, _) => packed422::<1>(image.row(y), out),
        (Layout::Nv12, _) => nv12(image.row(y), image.chroma_row(y), out),
    }
}

/// Makes 8-bit pictures of images of any encoding, in one reused buffer: for who needs pixels in any order, or often.
#[derive(Debug, Default)]
pub struct Converter {
    pixels: Vec<u8>,
}

impl Converter {
    /// Without a buffer yet: the first image that needs one makes it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The image itself if its encoding is direct ([`Encoding::is_direct`]), else an rgb8 picture (mono8 of a mono16
    /// image) of the same size, tightly packed in the converter's own buffer.
    pub fn eight_bit<'a>(&'a mut self, image: &ImageView<'a>) -> ImageView<'a> {
        if image.encoding().is_direct() {
            return *image;
        }
        let answer = eight_bit(image.encoding());
        let (width, height) = (image.width(), image.height());
        let row = width * answer.channels();
        // Every byte is overwritten; only what is new is zeroed here.
        self.pixels.resize(row * height, 0);
        let tasks = self.pixels.chunks_mut(TASK_ROWS * row).enumerate();
        share(
            tasks,
            || (),
            |(), (task, out)| {
                for (i, out) in out.chunks_exact_mut(row).enumerate() {
                    convert_row(image, task * TASK_ROWS + i, out);
                }
            },
        );
        ImageView::packed(answer, width, height, &self.pixels)
    }
}

/// The memory of [`Rows`]: the last two that were converted, each at the place of its parity, so that two neighbours are
/// there together.
#[derive(Debug, Default)]
pub(super) struct Kept {
    numbers: [Option<usize>; 2],
    rows: [Vec<u8>; 2],
}

impl Kept {
    /// For the rows of one image, none of which is there yet.
    pub fn of<'a>(&'a mut self, image: &'a ImageView<'a>) -> Rows<'a> {
        self.numbers = [None; 2];
        Rows { image, pixels: eight_bit(image.encoding()), kept: self }
    }
}

/// Rows of an image of any encoding as pixels of 8 bits: in place if it is direct, else each converted when it is asked for,
/// so that its pixels are still in the processor's cache when they are read. Who asks in order has each converted once.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    image: &'a ImageView<'a>,
    pixels: Encoding,
    kept: &'a mut Kept,
}

impl Rows<'_> {
    /// The encoding of the pixels.
    pub fn pixels(&self) -> Encoding {
        self.pixels
    }

    /// Row `y`.
    pub fn row(&mut self, y: usize) -> &[u8] {
        if self.image.encoding().is_direct() {
            return self.image.row(y);
        }
        self.convert(y);
        &self.kept.rows[y % 2]
    }

    /// Rows `y` and `y + 1`.
    pub fn pair(&mut self, y: usize) -> [&[u8]; 2] {
        if self.image.encoding().is_direct() {
            return [self.image.row(y), self.image.row(y + 1)];
        }
        self.convert(y);
        self.convert(y + 1);
        [&self.kept.rows[y % 2], &self.kept.rows[(y + 1) % 2]]
    }

    fn convert(&mut self, y: usize) {
        if self.kept.numbers[y % 2] == Some(y) {
            return;
        }
        let row = &mut self.kept.rows[y % 2];
        // Every byte is overwritten; only what is new is zeroed here.
        row.resize(self.image.width() * self.pixels.channels(), 0);
        convert_row(self.image, y, row);
        self.kept.numbers[y % 2] = Some(y);
    }
}

/// The first `N` bytes, in place or, if there are fewer, as the beginning of `rest`. Loops over a number of bytes that
/// the compiler knows are several times as fast.
#[inline(always)]
fn whole<'a, const N: usize>(bytes: &'a [u8], rest: &'a mut [u8; N]) -> &'a [u8; N] {
    if let Some(whole) = bytes.first_chunk() {
        return whole;
    }
    rest[..bytes.len()].copy_from_slice(bytes);
    rest
}

#[inline(always)]
fn word<const BIG: bool>(bytes: [u8; 2]) -> u16 {
    if BIG {
        u16::from_be_bytes(bytes)
    } else {
        u16::from_le_bytes(bytes)
    }
}

/// `round(v * 255 / 65535)` without a division; there are no halves to round, because that is `v / 257`. A test holds
/// it for every value.
#[inline(always)]
fn high_byte(v: u16) -> u8 {
    ((u32::from(v) * 255 + 32_895) >> 16) as u8
}

/// A row of 16-bit channels.
#[inline(always)]
fn sixteen<const BIG: bool>(encoding: Encoding, row: &[u8], out: &mut [u8]) {
    let offsets = encoding.rgb_offsets();
    match (encoding.channels(), offsets) {
        // The channels are already in order.
        (1, _) | (3, [0, 1, 2]) => {
            for (out, v) in out.iter_mut().zip(row.chunks_exact(2)) {
                *out = high_byte(word::<BIG>([v[0], v[1]]));
            }
        }
        (3, _) => reorder::<3, 6, BIG>(offsets, row, out),
        _ => reorder::<4, 8, BIG>(offsets, row, out),
    }
}

/// `BYTES` = 2 x `N`: bytes of a pixel.
#[inline(always)]
fn reorder<const N: usize, const BYTES: usize, const BIG: bool>(offsets: [usize; 3], row: &[u8], out: &mut [u8]) {
    for (out, pixel) in out.chunks_exact_mut(3).zip(row.chunks_exact(BYTES)) {
        let eight: [u8; N] = std::array::from_fn(|c| high_byte(word::<BIG>([pixel[2 * c], pixel[2 * c + 1]])));
        for (out, offset) in out.iter_mut().zip(offsets) {
            *out = eight[offset];
        }
    }
}

/// A value of a mosaic, widened so that the sum of four of them fits.
trait Sample {
    const BYTES: usize;
    type Wide: Copy + Default;
    fn load(bytes: &[u8]) -> Self::Wide;
    /// Rounded half up.
    fn mean2(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// Rounded half up.
    fn mean4(a: Self::Wide, b: Self::Wide, c: Self::Wide, d: Self::Wide) -> Self::Wide;
    fn eight_bit(v: Self::Wide) -> u8;
}

struct Byte;

impl Sample for Byte {
    const BYTES: usize = 1;
    type Wide = u16;
    #[inline(always)]
    fn load(bytes: &[u8]) -> u16 {
        u16::from(bytes[0])
    }
    #[inline(always)]
    fn mean2(a: u16, b: u16) -> u16 {
        (a + b + 1) >> 1
    }
    #[inline(always)]
    fn mean4(a: u16, b: u16, c: u16, d: u16) -> u16 {
        (a + b + c + d + 2) >> 2
    }
    #[inline(always)]
    fn eight_bit(v: u16) -> u8 {
        v as u8
    }
}

struct Word<const BIG: bool>;

impl<const BIG: bool> Sample for Word<BIG> {
    const BYTES: usize = 2;
    type Wide = u32;
    #[inline(always)]
    fn load(bytes: &[u8]) -> u32 {
        u32::from(word::<BIG>([bytes[0], bytes[1]]))
    }
    #[inline(always)]
    fn mean2(a: u32, b: u32) -> u32 {
        (a + b + 1) >> 1
    }
    #[inline(always)]
    fn mean4(a: u32, b: u32, c: u32, d: u32) -> u32 {
        (a + b + c + d + 2) >> 2
    }
    #[inline(always)]
    fn eight_bit(v: u32) -> u8 {
        high_byte(v as u16)
    }
}

/// One row of a Bayer mosaic, from the rows above, at and below it.
///
/// The row has `own` (red or blue) and green pixels in turn, the rows beside it green and `other`. At a pixel of the
/// own colour, green is the mean of the four beside it and the other colour the mean of the four diagonal ones; at a
/// green pixel, the own colour is the mean of left and right, the other of above and below. `even`: the own colour is
/// in the even columns. `BYTES`: of a block's columns and the two beside it.
#[inline(always)]
fn bayer_row<S: Sample, const BYTES: usize>(lines: [&[u8]; 3], red: bool, even: bool, out: &mut [u8]) {
    let inner = out.len() - 3;
    // Blocks begin at column 1, so that the own colour is at a block's even positions if it is in the odd columns.
    for (i, out) in out[3..inner].chunks_mut(3 * BLOCK).enumerate() {
        // The block's columns and one more at each side.
        let mut wide = [[S::Wide::default(); BLOCK + 2]; 3];
        for (wide, line) in wide.iter_mut().zip(lines) {
            let mut rest = [0; BYTES];
            let bytes = whole::<BYTES>(&line[i * BLOCK * S::BYTES..], &mut rest);
            for (wide, bytes) in wide.iter_mut().zip(bytes.chunks_exact(S::BYTES)) {
                *wide = S::load(bytes);
            }
        }
        let [own, green, other] = if even { bayer_block::<S, 1>(&wide) } else { bayer_block::<S, 0>(&wide) };
        if red {
            interleave([&own, &green, &other], out);
        } else {
            interleave([&other, &green, &own], out);
        }
    }
    // OpenCV's border: the first and last column repeat their neighbours.
    out.copy_within(3..6, 0);
    out.copy_within(inner - 3..inner, inner);
}

/// Own, green and other colour of a block; the own colour is at the positions of parity `OWN`.
#[inline(always)]
fn bayer_block<S: Sample, const OWN: usize>([up, at, down]: &[[S::Wide; BLOCK + 2]; 3]) -> [[u8; BLOCK]; 3] {
    let mut planes = [[0; BLOCK]; 3];
    let [own, green, other] = &mut planes;
    for i in 0..BLOCK {
        // `up[i + 1]` is straight above.
        let (left, here, right) = (at[i], at[i + 1], at[i + 2]);
        let cross = S::mean4(up[i + 1], down[i + 1], left, right);
        let diagonal = S::mean4(up[i], up[i + 2], down[i], down[i + 2]);
        let across = S::mean2(left, right);
        let along = S::mean2(up[i + 1], down[i + 1]);
        let is_own = i % 2 == OWN;
        own[i] = S::eight_bit(if is_own { here } else { across });
        green[i] = S::eight_bit(if is_own { cross } else { here });
        other[i] = S::eight_bit(if is_own { diagonal } else { along });
    }
    planes
}

/// Puts planes together; what of the block is beyond `out` is left out.
///
/// Two pixels at a time: 6 bytes in a word of 8, whose last two the next word overwrites. One store for six bytes is
/// most of this module's speed.
#[inline(always)]
fn interleave([r, g, b]: [&[u8; BLOCK]; 3], out: &mut [u8]) {
    let pixels: [u32; BLOCK] = std::array::from_fn(|i| u32::from(r[i]) | u32::from(g[i]) << 8 | u32::from(b[i]) << 16);
    let mut bytes = [0_u8; 3 * BLOCK + 2];
    for (i, pair) in pixels.chunks_exact(2).enumerate() {
        let six = u64::from(pair[0]) | u64::from(pair[1]) << 24;
        bytes[6 * i..6 * i + 8].copy_from_slice(&six.to_le_bytes());
    }
    out.copy_from_slice(&bytes[..out.len()]);
}

/// A block of YUV 4:2:x taken apart: the brightness of each pair's two pixels, and the colours that they share.
struct Yuv {
    first: [u8; PAIRS],
    second: [u8; PAIRS],
    u: [u8; PAIRS],
    v: [u8; PAIRS],
}

impl Yuv {
    const EMPTY: Self = Self { first: [0; PAIRS], second: [0; PAIRS], u: [0; PAIRS], v: [0; PAIRS] };

    /// ITU-R BT.601, limited range, in fixed point with 20 bits: OpenCV's constants (1.164, 2.018, -0.391, -0.813 and
    /// 1.596 x 2^20) and its order of rounding.
    #[inline(always)]
    fn rgb(&self, out: &mut [u8]) {
        const BITS: i32 = 20;
        const HALF: i32 = 1 << (BITS - 1);
        let clip = |v: i32| (v >> BITS).clamp(0, 255) as u8;
        let mut planes = [[0_u8; BLOCK]; 3];
        let [r, g, b] = &mut planes;
        for i in 0..PAIRS {
            let (u, v) = (i32::from(self.u[i]) - 128, i32::from(self.v[i]) - 128);
            let red = HALF + 1_673_527 * v;
            let green = HALF - 852_492 * v - 409_993 * u;
            let blue = HALF + 2_116_026 * u;
            for (at, luma) in [(2 * i, self.first[i]), (2 * i + 1, self.second[i])] {
                let luma = (i32::from(luma) - 16).max(0) * 1_220_542;
                r[at] = clip(luma + red);
                g[at] = clip(luma + green);
                b[at] = clip(luma + blue);
            }
        }
        interleave([r, g, b], out);
    }
}

/// A row of UYVY (`LUMA` 1) or YUYV (`LUMA` 0).
#[inline(always)]
fn packed422<const LUMA: usize>(row: &[u8], out: &mut [u8]) {
    for (row, out) in row.chunks(4 * PAIRS).zip(out.chunks_mut(3 * BLOCK)) {
        let mut block = Yuv::EMPTY;
        let mut rest = [0; 4 * PAIRS];
        for (i, four) in whole(row, &mut rest).chunks_exact(4).enumerate() {
            block.first[i] = four[LUMA];
            block.second[i] = four[LUMA + 2];
            block.u[i] = four[1 - LUMA];
            block.v[i] = four[3 - LUMA];
        }
        block.rgb(out);
    }
}

/// A row of NV12 from its brightness and its colours.
#[inline(always)]
fn nv12(luma: &[u8], chroma: &[u8], out: &mut [u8]) {
    for ((luma, chroma), out) in luma.chunks(BLOCK).zip(chroma.chunks(BLOCK)).zip(out.chunks_mut(3 * BLOCK)) {
        let mut block = Yuv::EMPTY;
        let (mut rest_y, mut rest_uv) = ([0; BLOCK], [0; BLOCK]);
        let (luma, chroma) = (whole(luma, &mut rest_y), whole(chroma, &mut rest_uv));
        for (i, (luma, chroma)) in luma.chunks_exact(2).zip(chroma.chunks_exact(2)).enumerate() {
            block.first[i] = luma[0];
            block.second[i] = luma[1];
            block.u[i] = chroma[0];
            block.v[i] = chroma[1];
        }
        block.rgb(out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::image_of;
    use super::*;

    #[test]
    fn sixteen_bits_are_scaled_and_rounded() {
        for v in 0..=u16::MAX {
            assert_eq!(high_byte(v), (f64::from(v) * 255.0 / 65535.0).round() as u8, "{v}");
        }
    }

    #[test]
    fn a_direct_picture_is_not_copied() {
        let mut converter = Converter::new();
        for encoding in Encoding::DIRECT {
            let data = vec![7; 4 * 20];
            let view = ImageView::new(encoding.name(), 4, 4, 20, false, &data).expect("a valid layout");
            let found = converter.eight_bit(&view);
            assert_eq!(found.encoding(), encoding);
            assert!(std::ptr::eq(found.row(3).as_ptr(), view.row(3).as_ptr()), "{}", encoding.name());
        }
        assert_eq!(converter.pixels.capacity(), 0);
    }

    /// A colour that is the same everywhere, at each pattern's own places, is that colour in every pixel: each pattern
    /// reads its own colours at every size.
    #[test]
    fn a_mosaic_of_one_colour_is_that_colour() {
        let mut converter = Converter::new();
        for encoding in Encoding::ALL {
            let Layout::Bayer { red_column, red_row } = encoding.layout() else { continue };
            let first = encoding.name().as_bytes()[6];
            assert_eq!((red_column, red_row) == (0, 0), first == b'r', "{}", encoding.name());
            for (width, height) in [(3, 3), (4, 5), (65, 3), (66, 4), (67, 7), (130, 3), (131, 4)] {
                for big_endian in [false, true] {
                    let (mut data, mut step) = (Vec::new(), width);
                    for y in 0..height {
                        for x in 0..width {
                            let v = match ((x + red_column) % 2, (y + red_row) % 2) {
                                (0, 0) => 200_u8,
                                (1, 1) => 100,
                                _ => 50,
                            };
                            match (encoding.is_sixteen_bit(), big_endian) {
                                (false, _) => data.push(v),
                                (true, false) => data.extend((u16::from(v) * 257).to_le_bytes()),
                                (true, true) => data.extend((u16::from(v) * 257).to_be_bytes()),
                            }
                        }
                    }
                    if encoding.is_sixteen_bit() {
                        step *= 2;
                    }
                    let view = ImageView::of(encoding, (width as u32, height as u32), step as u32, big_endian, &data)
                        .expect("a valid layout");
                    let found = converter.eight_bit(&view);
                    for y in 0..height {
                        let wrong = found.row(y).chunks_exact(3).position(|p| p != [200, 50, 100]);
                        assert_eq!(wrong, None, "{} {width}x{height} row {y}", encoding.name());
                    }
                }
            }
        }
    }

    #[test]
    fn rows_are_those_of_the_whole_picture_in_whatever_order_they_are_asked_for() {
        let data: Vec<u8> = (0..20_000_u32).map(|i| (i * i * 7 + i * 31) as u8).collect();
        let mut kept = Kept::default();
        let mut converter = Converter::new();
        for encoding in Encoding::ALL {
            for (size, big_endian) in [((18, 12), false), ((70, 4), true)] {
                let image = image_of(encoding, size, big_endian, &data).expect("every encoding has even sizes");
                let whole = converter.eight_bit(&image);
                let mut rows = kept.of(&image);
                assert_eq!(rows.pixels(), whole.encoding());
                for y in [0, 1, 1, 3, 0, 2, 3, 2, 1] {
                    assert_eq!(rows.row(y), whole.row(y), "{} row {y}", encoding.name());
                }
                for y in [0, 1, 2, 0, 2] {
                    assert_eq!(rows.pair(y), [whole.row(y), whole.row(y + 1)], "{} rows from {y}", encoding.name());
                }
                // The next image begins at the row at which this one ended.
                assert_eq!(rows.row(0), whole.row(0));
            }
        }
    }

    #[test]
    fn the_buffer_is_reused_for_every_size_and_encoding() {
        let mut converter = Converter::new();
        let mut fresh = Vec::new();
        let mut capacity = 0;
        for (encoding, width, height) in [
            ("uyvy", 10, 9),
            ("rgb16", 9, 7),
            ("mono16", 3, 2),
            ("nv12", 8, 6),
            ("bayer_rggb8", 3, 3),
            ("uyvy", 10, 9),
            ("mono16", 1, 1),
        ] {
            let bytes = match encoding {
                "rgb16" => 6,
                "mono16" | "uyvy" => 2,
                _ => 1,
            };
            let rows = if encoding == "nv12" { height * 3 / 2 } else { height };
            let data: Vec<u8> = (0..width * bytes * rows).map(|i| (i * 37) as u8).collect();
            let view = ImageView::new(encoding, width as u32, height as u32, (width * bytes) as u32, false, &data)
                .expect("a valid layout");
            fresh.clear();
            let mut other = Converter::new();
            let expected = other.eight_bit(&view);
            (0..height).for_each(|y| fresh.extend_from_slice(expected.row(y)));
            let found = converter.eight_bit(&view);
            let found: Vec<u8> = (0..height).flat_map(|y| found.row(y).to_vec()).collect();
            assert_eq!(found, fresh, "{encoding}");
            capacity = if capacity == 0 { converter.pixels.capacity() } else { capacity };
            assert_eq!(converter.pixels.capacity(), capacity, "only a larger picture than the first makes it grow");
        }
    }
}

//! Compressed pictures (`sensor_msgs/CompressedImage`): what they are, how large, and their pixels.
//!
//! The decoders are `zune-jpeg` and `png`, the ones of the `image` crate. They are used without it because its JPEG
//! reader, above all, takes one that ends too early or is damaged for a whole one with a grey rest. (Of a progressive JPEG
//! nobody can tell: its scans refine each other.)

use super::convert::Converter;
use super::view::{is_type_name, Encoding, ImageView};
use crate::panics::caught;
use std::io::Cursor;
use thiserror::Error;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Pixels a side that are decoded at most: a few bytes can announce any size.
pub const MAX_SIDE: u32 = 8192;
/// Bytes of a decoded picture at most, with what a progressive JPEG needs beside them: 8192 x 8192 in 8-bit colours with alpha.
const MAX_BYTES: usize = 256 << 20;
/// Scans of a progressive JPEG at most: encoders make some ten, and each costs time for all pixels, however few its bytes are.
const MAX_SCANS: usize = 32;
/// Bytes that the PNG decoder may use beside the pixels, e.g. for a colour profile.
const MAX_PNG_EXTRAS: usize = 8 << 20;

/// What the JPEG decoder, which reads ahead, finds behind the last pixel's bits: ones (each with the zero that says that it is no
/// marker), which are no code of any table (T.81, annex C).
const BEHIND: [[u8; 2]; 16] = [[0xFF, 0]; 16];

const JPEG_MAGIC: [u8; 3] = [0xFF, 0xD8, 0xFF];
const PNG_MAGIC: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// A compression that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressedKind {
    /// Baseline or progressive, 8 bits a channel.
    Jpeg,
    /// Any PNG.
    Png,
}

impl std::fmt::Display for CompressedKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
        })
    }
}

/// Why a compressed picture was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompressedError {
    /// `compressedDepth`: a depth image behind a header of its own.
    #[error(
        "format {format:?} carries depth, but a colour or grey picture is expected; \
         subscribe to the colour camera's compressed topic"
    )]
    Depth {
        /// As it came, at most 64 characters of it.
        format: String,
    },
    /// Numbers whose meaning is not brightness, e.g. `16UC1`.
    #[error(
        "format {format:?} carries {encoding} values, but a colour or grey picture is expected; \
         publish an encoding with a meaning, e.g. mono16 or bgr8"
    )]
    Values {
        /// As it came, at most 64 characters of it.
        format: String,
        /// The encoding before compression.
        encoding: String,
    },
    /// Neither JPEG nor PNG.
    #[error(
        "expected the first bytes of a JPEG (FF D8 FF) or a PNG (89 50 4E 47), found {found} (format {format:?}); \
         publish with image_transport's \"compressed\", as jpeg or png"
    )]
    Kind {
        /// As it came, at most 64 characters of it.
        format: String,
        /// The first bytes.
        found: String,
    },
    /// No pixels, or too many.
    #[error(
        "a {kind} of {width}x{height} pixels; expected 1 to {MAX_SIDE} a side (and at most {MAX_BYTES} bytes decoded)"
    )]
    Size {
        /// The compression.
        kind: CompressedKind,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// It ends before its end mark.
    #[error("the {kind} ends after {bytes} bytes without its end mark: the publisher or the transport cut it short")]
    Truncated {
        /// The compression.
        kind: CompressedKind,
        /// Bytes that came.
        bytes: usize,
    },
    /// The decoder does not understand it.
    #[error("expected a whole {kind} of 8 or 16 bits, found a damaged or unusual one: {reason}")]
    Damaged {
        /// The compression.
        kind: CompressedKind,
        /// The decoder's words.
        reason: String,
    },
}

/// What is known of a picture before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    kind: CompressedKind,
    width: u32,
    height: u32,
    jpeg: JpegHeader,
}

/// What only a JPEG has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct JpegHeader {
    components: u8,
    has_huffman_tables: bool,
    /// Each component is in one scan, whole and from above to below; not progressive.
    is_sequential: bool,
    is_progressive: bool,
    /// Where the first scan's header begins.
    scan: usize,
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

fn damaged(kind: CompressedKind, reason: impl ToString) -> CompressedError {
    CompressedError::Damaged { kind, reason: reason.to_string() }
}

/// Looks at the format and the first bytes, and reads the size in the header: cheap, nothing is decoded.
///
/// The bytes say which compression it is; `format` is free text in practice (`jpeg`, `rgb8; jpeg compressed bgr8`) and
/// is believed where it says that the pixels are no colours.
///
/// # Errors
/// [`CompressedError`], all but the faults that only decoding shows.
pub fn inspect(format: &str, data: &[u8]) -> Result<(CompressedKind, u32, u32), CompressedError> {
    header(format, data).map(|h| (h.kind, h.width, h.height))
}

fn header(format: &str, data: &[u8]) -> Result<Header, CompressedError> {
    if format.contains("compressedDepth") {
        return Err(CompressedError::Depth { format: cut(format) });
    }
    if let Some((encoding, _)) = format.split_once(';') {
        let encoding = encoding.trim();
        // The 8-bit ones are what OpenCV calls a plain picture.
        if is_type_name(encoding) && !matches!(encoding, "8UC1" | "8UC3" | "8UC4") {
            return Err(CompressedError::Values { format: cut(format), encoding: cut(encoding) });
        }
    }
    let header = if data.starts_with(&JPEG_MAGIC) {
        jpeg_header(data)?
    } else if data.starts_with(&PNG_MAGIC) {
        png_header(data)?
    } else {
        let first: Vec<_> = data.iter().take(8).map(|b| format!("{b:02X}")).collect();
        let found = if first.is_empty() { "no data".into() } else { first.join(" ") };
        return Err(CompressedError::Kind { format: cut(format), found });
    };
    let Header { kind, width, height, jpeg } = header;
    // The coefficients of all components are kept, of 16 bits each, until the last scan has refined them.
    let of_a_pixel = if jpeg.is_progressive { 3 * u64::from(jpeg.components) } else { 0 };
    if width == 0
        || height == 0
        || width > MAX_SIDE
        || height > MAX_SIDE
        || u64::from(width) * u64::from(height) * of_a_pixel > MAX_BYTES as u64
    {
        return Err(CompressedError::Size { kind, width, height });
    }
    Ok(header)
}

/// Signature, then the chunk IHDR: length (13), name, width, height.
fn png_header(data: &[u8]) -> Result<Header, CompressedError> {
    let kind = CompressedKind::Png;
    let (Some(name), Some(size)) = (data.get(8..16), data.get(16..24)) else {
        return Err(CompressedError::Truncated { kind, bytes: data.len() });
    };
    if name != b"\0\0\0\rIHDR" {
        return Err(damaged(kind, "its first chunk is not IHDR"));
    }
    let number = |at: usize| u32::from_be_bytes([size[at], size[at + 1], size[at + 2], size[at + 3]]);
    Ok(Header { kind, width: number(0), height: number(4), jpeg: JpegHeader::default() })
}

/// Walks the marker segments to the first scan (ITU-T T.81, annex B). It must be there, and an end mark after it:
/// entropy-coded data holds no such pair of bytes.
fn jpeg_header(data: &[u8]) -> Result<Header, CompressedError> {
    let kind = CompressedKind::Jpeg;
    let truncated = CompressedError::Truncated { kind, bytes: data.len() };
    let mut frame = None;
    let (mut has_huffman_tables, mut is_sequential, mut is_progressive) = (false, false, false);
    let mut at = 2;
    let scan = loop {
        // Any number of fill bytes FF may stand before a marker, and some cameras leave bytes between segments.
        while data.get(at).is_some_and(|&b| b != 0xFF) {
            at += 1;
        }
        while data.get(at) == Some(&0xFF) {
            at += 1;
        }
        let Some(&marker) = data.get(at) else { return Err(truncated) };
        at += 1;
        match marker {
            // Not a marker, or one without a segment.
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            0xD9 => return Err(damaged(kind, "it ends before its first scan")),
            _ => {}
        }
        let Some(&[high, low]) = data.get(at..at + 2) else { return Err(truncated) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some(segment) = data.get(at + 2..at + length.max(2)) else { return Err(truncated) };
        let start = at - 2;
        at += length.max(2);
        match (marker, segment) {
            (0xC4, _) => has_huffman_tables = true,
            // A start of frame: bits, height, width, components.
            (0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF, &[_, h1, h0, w1, w0, n, ..]) => {
                frame = Some((u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]), n));
                is_sequential = matches!(marker, 0xC0 | 0xC1);
                is_progressive = marker == 0xC2;
            }
            (0xDA, _) => break start,
            _ => {}
        }
    };
    let Some((width, height, components)) = frame else {
        return Err(damaged(kind, "it has no frame header before its first scan"));
    };
    // Found at once in a whole picture, even if a driver pads it.
    if !data[at..].windows(2).rev().any(|pair| pair == [0xFF, 0xD9]) {
        return Err(truncated);
    }
    let jpeg = JpegHeader { components, has_huffman_tables, is_sequential, is_progressive, scan };
    Ok(Header { kind, width: width.into(), height: height.into(), jpeg })
}

/// The next marker from `at` on that ends entropy-coded data, where it is, and its segment: such data holds a marker only where it
/// ends or starts anew (T.81, B.1.1.5), and behind a scan there are segments of a known length.
fn next_segment(data: &[u8], mut at: usize) -> Option<(u8, usize, &[u8])> {
    loop {
        at += data.get(at..)?.iter().position(|&b| b == 0xFF)?;
        match *data.get(at + 1)? {
            // A byte FF, a new start, or a fill byte before a marker.
            0x00 | 0xD0..=0xD7 => at += 2,
            0xFF => at += 1,
            // Without a segment.
            marker @ (0xD8 | 0xD9) => return Some((marker, at, &[])),
            marker => {
                let &[high, low] = data.get(at + 2..at + 4)? else { return None };
                let length = usize::from(u16::from_be_bytes([high, low]));
                return Some((marker, at, data.get(at + 4..at + 2 + length.max(2))?));
            }
        }
    }
}

/// Where the data of the last scan ends, of those of a sequential picture of which the first has its header at `at`.
///
/// # Errors
/// A component is in two scans, or in none. The decoder takes both for whole: it leaves a scan at the next one's header, and the
/// pixels as they were.
fn end_of_scans(data: &[u8], mut at: usize, components: u8) -> Result<usize, String> {
    let (mut end, mut is_scanned) = (None, [false; 256]);
    while let Some((marker, start, segment)) = next_segment(data, at) {
        match marker {
            0xD8 => return Err("another picture begins in it".into()),
            0xD9 => {
                let found = is_scanned.iter().filter(|is| **is).count();
                if found != usize::from(components) {
                    return Err(format!("only {found} of its {components} components are there"));
                }
                return Ok(end.unwrap_or(start));
            }
            0xDA => {
                // How many components, and of each its number and its tables.
                let count = segment.first().map_or(0, |&n| n.into());
                for component in segment.iter().skip(1).step_by(2).take(count) {
                    if std::mem::replace(&mut is_scanned[usize::from(*component)], true) {
                        return Err("a component is there twice: a part is lost, or another picture's follows".into());
                    }
                }
                end = None;
            }
            _ => end = end.or(Some(start)),
        }
        at = start + 4 + segment.len();
    }
    Err("its segments lead beyond its end mark".into())
}

/// Decodes compressed pictures into one reused buffer.
#[derive(Debug, Default)]
pub struct Decoder {
    decoded: Vec<u8>,
    converter: Converter,
    /// A JPEG with what it left out, or without its end mark.
    completed: Vec<u8>,
}

impl Decoder {
    /// Without a buffer yet: the first picture makes it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The pixels, as rgb8 or (of a grey picture) mono8.
    ///
    /// 16 bits are made 8 as `frame::convert` does it, alpha is dropped, palettes are resolved. If `format` says that
    /// the image was a Bayer mosaic (`bayer_rggb8; png compressed `) and the picture is grey, as `image_transport`
    /// writes those, it is interpolated. An EXIF orientation is not applied: the camera's calibration is of the
    /// pixels as they are stored.
    ///
    /// # Errors
    /// [`CompressedError`], with what was expected and what came.
    pub fn decode<'a>(&'a mut self, format: &str, data: &[u8]) -> Result<ImageView<'a>, CompressedError> {
        let header = header(format, data)?;
        let kind = header.kind;
        let Self { decoded, converter, completed } = self;
        // Both decoders are meant not to panic. They read what comes from outside, so that is not left to them.
        let decode = || match kind {
            CompressedKind::Jpeg => decode_jpeg(&header, data, completed, decoded),
            CompressedKind::Png => decode_png(&header, data, decoded),
        };
        let encoding =
            caught(decode).unwrap_or_else(|why| Err(damaged(kind, format!("the decoder gave up: {why}"))))?;
        let encoding = mosaic(format, encoding).unwrap_or(encoding);
        let step = decoded.len() / header.height as usize;
        // Cannot fail but for a mosaic of fewer than 3x3 pixels.
        let view = ImageView::of(encoding, (header.width, header.height), step as u32, true, decoded)
            .map_err(|e| damaged(kind, e))?;
        Ok(converter.eight_bit(&view))
    }
}

/// The Bayer encoding in the bit depth that was decoded, if `format` names one and the picture has one channel.
fn mosaic(format: &str, decoded: Encoding) -> Option<Encoding> {
    let (original, _) = format.split_once(';')?;
    let pattern = original.trim().strip_prefix("bayer_")?.trim_end_matches(|c: char| c.is_ascii_digit());
    let bits = match decoded {
        Encoding::Mono8 => 8,
        Encoding::Mono16 => 16,
        _ => return None,
    };
    Encoding::parse(&format!("bayer_{pattern}{bits}"))
}

fn decode_jpeg(
    header: &Header,
    data: &[u8],
    completed: &mut Vec<u8>,
    pixels: &mut Vec<u8>,
) -> Result<Encoding, CompressedError> {
    let kind = CompressedKind::Jpeg;
    let (color, encoding) = match header.jpeg.components {
        1 => (ColorSpace::Luma, Encoding::Mono8),
        3 | 4 => (ColorSpace::RGB, Encoding::Rgb8),
        n => return Err(damaged(kind, format!("it has {n} components, not 1 (grey), 3 (colour) or 4 (CMYK)"))),
    };
    // The decoder fills what a scan lacks with grey if the end mark comes too early, as in a picture of which a transport has
    // lost a part. Without the mark it finds that there is too little, for sequential pictures at least.
    let JpegHeader { components, has_huffman_tables, is_sequential, scan, .. } = header.jpeg;
    let end = is_sequential.then(|| end_of_scans(data, scan, components)).transpose().map_err(|e| damaged(kind, e))?;
    let mut data = data;
    if end.is_some() || !has_huffman_tables {
        completed.clear();
        if !has_huffman_tables {
            // Webcams' Motion JPEG leaves out the tables that are always the same. This segment is how the AVI format
            // marks such frames, and makes the decoder use the tables of the standard.
            completed.extend_from_slice(b"\xFF\xD8\xFF\xE0\x00\x10AVI1\0\0\0\0\0\0\0\0\0\0");
        }
        let start = if has_huffman_tables { 0 } else { 2 };
        match end {
            Some(end) => {
                completed.extend_from_slice(&data[start..end]);
                completed.extend_from_slice(BEHIND.as_flattened());
            }
            None => completed.extend_from_slice(&data[start..]),
        }
        data = completed;
    }
    let options = DecoderOptions::new_fast()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(color);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(data), options);
    decoder.decode_headers().map_err(|e| damaged(kind, e))?;
    let length = header.width as usize * header.height as usize * encoding.channels();
    if decoder.output_buffer_size() != Some(length) || decoder.output_colorspace() != Some(color) {
        return Err(damaged(kind, "it has more than one frame header"));
    }
    // Whatever it leaves out is black, and never another picture.
    pixels.clear();
    pixels.resize(length, 0);
    decoder.decode_into(pixels).map_err(|e| damaged(kind, e))?;
    Ok(encoding)
}

fn decode_png(header: &Header, data: &[u8], pixels: &mut Vec<u8>) -> Result<Encoding, CompressedError> {
    use png::{BitDepth, ColorType, DecodingError};
    let kind = CompressedKind::Png;
    let fault = |e: DecodingError| match e {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            CompressedError::Truncated { kind, bytes: data.len() }
        }
        e => damaged(kind, e),
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(data), png::Limits { bytes: MAX_PNG_EXTRAS });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(fault)?;
    let (width, height) = (header.width, header.height);
    let length = reader.output_buffer_size().filter(|&length| length <= MAX_BYTES);
    let Some(length) = length else { return Err(CompressedError::Size { kind, width, height }) };
    pixels.clear();
    pixels.resize(length, 0);
    let info = reader.next_frame(pixels).map_err(fault)?;
    if (info.width, info.height) != (width, height) || info.buffer_size() != length {
        return Err(damaged(kind, "its first frame is not of the picture's size"));
    }
    reader.finish().map_err(fault)?;
    let encoding = match (info.color_type, info.bit_depth) {
        (ColorType::Grayscale | ColorType::GrayscaleAlpha, BitDepth::Eight) => Encoding::Mono8,
        (ColorType::Grayscale | ColorType::GrayscaleAlpha, BitDepth::Sixteen) => Encoding::Mono16,
        (ColorType::Rgb | ColorType::Rgba, BitDepth::Eight) => Encoding::Rgb8,
        (ColorType::Rgb | ColorType::Rgba, BitDepth::Sixteen) => Encoding::Rgb16,
        (color, bits) => return Err(damaged(kind, format!("{color:?} of {bits:?} bits"))),
    };
    if matches!(info.color_type, ColorType::GrayscaleAlpha | ColorType::Rgba) {
        let bytes = if encoding.is_sixteen_bit() { 2 } else { 1 };
        drop_alpha(pixels, encoding.channels() * bytes, bytes);
    }
    Ok(encoding)
}

/// Moves pixels of `kept` bytes, each followed by `dropped` bytes, together.
fn drop_alpha(pixels: &mut Vec<u8>, kept: usize, dropped: usize) {
    let count = pixels.len() / (kept + dropped);
    for i in 0..count {
        let from = i * (kept + dropped);
        pixels.copy_within(from..from + kept, i * kept);
    }
    pixels.truncate(count * kept);
}

#[cfg(test)]
mod tests {
    use super::super::noise::numbers;
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut data = PNG_MAGIC.to_vec();
        data.extend(b"\0\0\0\rIHDR");
        data.extend(width.to_be_bytes());
        data.extend(height.to_be_bytes());
        data.extend(b"\x08\x02\0\0\0");
        data
    }

    fn jpeg(width: u16, height: u16, components: u8) -> Vec<u8> {
        let mut data = b"\xFF\xD8\xFF\xC0\0\x0B\x08".to_vec();
        data.extend(height.to_be_bytes());
        data.extend(width.to_be_bytes());
        data.extend([components, 1, 0x11, 0, 0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 0xFF, 0xD9]);
        data
    }

    #[test]
    fn kind_and_size_come_from_the_bytes() {
        assert_eq!(inspect("whatever", &png(640, 480)), Ok((CompressedKind::Png, 640, 480)));
        assert_eq!(inspect("", &jpeg(1920, 1080, 3)), Ok((CompressedKind::Jpeg, 1920, 1080)));
        assert_eq!(inspect("png", &jpeg(3, 2, 1)), Ok((CompressedKind::Jpeg, 3, 2)), "the bytes are believed");
        assert_eq!(inspect("8UC3; jpeg compressed bgr8", &jpeg(3, 2, 3)), Ok((CompressedKind::Jpeg, 3, 2)));
    }

    /// One progressive component, and behind its header Adobe's marker of a picture with four, which zune-jpeg 0.5.15 believes.
    #[test]
    fn a_decoder_that_panics_refuses_the_picture() {
        let data = include_bytes!("../../tests/golden/decoder_panics.jpg");
        let error = Decoder::new().decode("jpeg", data).expect_err("it is damaged").to_string();
        assert!(error.contains("the decoder gave up: index out of bounds"), "{error}");
    }

    #[test]
    fn sizes_are_limited_before_anything_is_decoded() {
        let size = |kind, width, height| Err(CompressedError::Size { kind, width, height });
        let (png_kind, jpeg_kind) = (CompressedKind::Png, CompressedKind::Jpeg);
        assert_eq!(inspect("", &png(8192, 8192)), Ok((png_kind, 8192, 8192)));
        assert_eq!(inspect("", &png(8193, 1)), size(png_kind, 8193, 1));
        assert_eq!(inspect("", &png(1, u32::MAX)), size(png_kind, 1, u32::MAX));
        assert_eq!(inspect("", &png(0, 1)), size(png_kind, 0, 1));
        assert_eq!(inspect("", &jpeg(65535, 65535, 3)), size(jpeg_kind, 65535, 65535));
        assert_eq!(inspect("", &jpeg(8, 0, 3)), size(jpeg_kind, 8, 0));
        // A progressive one's coefficients count.
        let progressive = |width, height, components| {
            let mut data = jpeg(width, height, components);
            data[3] = 0xC2;
            inspect("", &data)
        };
        assert_eq!(progressive(8192, 8192, 1), Ok((jpeg_kind, 8192, 8192)));
        assert_eq!(progressive(8192, 8192, 3), size(jpeg_kind, 8192, 8192));
        assert_eq!(progressive(6144, 4096, 3), Ok((jpeg_kind, 6144, 4096)));
        let mut decoder = Decoder::new();
        assert!(decoder.decode("", &png(8193, 8193)).is_err());
        assert_eq!(decoder.decoded.capacity(), 0);
        // 16 bits with alpha are 8 bytes a pixel: twice what is allowed, at a side that is.
        let mut bomb = Vec::new();
        let mut encoder = png::Encoder::new(&mut bomb, 8192, 8192);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Sixteen);
        let mut writer = encoder.write_header().expect("a header");
        writer.write_chunk(png::chunk::IDAT, &[0x78, 0x01, 0, 0, 0, 0, 0, 0]).expect("a chunk");
        drop(writer);
        let error = decoder.decode("png", &bomb).map(|_| ()).expect_err("too many bytes");
        assert_eq!(error, CompressedError::Size { kind: png_kind, width: 8192, height: 8192 });
        assert_eq!(decoder.decoded.capacity(), 0);
    }

    #[test]
    fn what_is_no_picture_is_refused_with_advice() {
        let text = |format: &str, data: &[u8]| inspect(format, data).expect_err("must be refused").to_string();
        let t = text("16UC1; compressedDepth png", &png(4, 4));
        assert!(t.contains("carries depth") && t.contains("subscribe to"), "{t}");
        let t = text("16UC1; png compressed 16UC1", &png(4, 4));
        assert!(t.contains("carries 16UC1 values") && t.contains("publish"), "{t}");
        let t = text("rgb8; webp compressed", b"RIFF\x10\0\0\0WEBP");
        assert!(t.contains("FF D8 FF") && t.contains("52 49 46 46") && t.contains("as jpeg or png"), "{t}");
        assert!(text("jpeg", &[]).contains("found no data"));
        let t = text(&"y\n".repeat(400), &[0; 100]);
        assert!(t.len() < 500 && !t.contains('\n'), "cut and escaped: {t}");
        // A frame header without pixels' meaning, none at all, and an end at once.
        let mut decoder = Decoder::new();
        let two = decoder.decode("jpeg", &jpeg(8, 8, 2)).map(|_| ()).expect_err("two components").to_string();
        assert!(two.contains("2 components"), "{two}");
        assert!(text("jpeg", b"\xFF\xD8\xFF\xDA\0\x02\xFF\xD9").contains("no frame header"));
        assert!(text("jpeg", b"\xFF\xD8\xFF\xD9").contains("before its first scan"));
        assert!(text("png", b"\x89PNG\r\n\x1a\n\0\0\0\rIDAT0123456789012").contains("IHDR"));
    }

    #[test]
    fn headers_of_any_bytes_do_no_harm() {
        let mut noise = numbers(1);
        for round in 0..20_000 {
            let mut data = if round % 2 == 0 { JPEG_MAGIC.to_vec() } else { jpeg(16, 16, 3) };
            for n in noise.by_ref().take(round % 40) {
                // Many markers, short lengths.
                let byte = match n >> 29 {
                    0..=2 => 0xFF,
                    3 => 0,
                    4 => 0xC0 | ((n >> 8) as u8 % 32),
                    _ => (n >> 16) as u8,
                };
                data.insert(data.len().min(3 + (n >> 20) as usize % data.len()), byte);
            }
            let _ = inspect("jpeg", &data);
        }
    }

    /// A colour JPEG of 16x8 pixels, two blocks a component, with these scans: the components of each, and its data.
    fn scanned(scans: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut data = b"\xFF\xD8\xFF\xDB\0\x43\0".to_vec();
        data.extend([8; 64]);
        data.extend(b"\xFF\xC0\0\x11\x08\0\x08\0\x10\x03\x01\x11\0\x02\x11\0\x03\x11\0");
        // Code 0: the same brightness as the block before. Code 10: another one, in six bits.
        data.extend(b"\xFF\xC4\0\x15\0\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x00\x06");
        // Code 0: the block is all of this brightness.
        data.extend(b"\xFF\xC4\0\x14\x10\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x00");
        for (components, bits) in scans {
            data.extend([0xFF, 0xDA, 0, 6 + 2 * components.len() as u8, components.len() as u8]);
            data.extend(components.iter().flat_map(|&c| [c, 0]));
            data.extend([0, 63, 0]);
            data.extend(*bits);
        }
        data.extend([0xFF, 0xD9]);
        data
    }

    /// Both blocks 32 brighter than the middle, or neither; the same of the first two components together.
    const BRIGHT: &[u8] = &[0xA0, 0x1F];
    const EVEN: &[u8] = &[0x0F];
    const TOGETHER: &[u8] = &[0xA0, 0x50, 0x00, 0x3F];

    #[test]
    fn components_may_come_together_or_one_by_one() {
        let mut decoder = Decoder::new();
        for scans in [
            [([1, 2, 3].as_slice(), TOGETHER)].as_slice(),
            &[(&[1], BRIGHT), (&[2], BRIGHT), (&[3], EVEN)],
            &[(&[3], EVEN), (&[1], BRIGHT), (&[2], BRIGHT)],
        ] {
            let data = scanned(scans);
            let view = decoder.decode("jpeg", &data).expect("a whole picture");
            for pixel in (0..view.height()).flat_map(|y| view.row(y).chunks_exact(3)) {
                assert!(pixel.iter().zip([160, 149, 217]).all(|(&p, e)| p.abs_diff(e) < 2), "{pixel:?}");
            }
        }
    }

    #[test]
    fn scans_of_a_progressive_jpeg_are_few() {
        let mut decoder = Decoder::new();
        let mut decode = |count: usize| {
            let all: &[u8] = &[1, 2, 3];
            let mut data = scanned(&vec![(all, TOGETHER); count]);
            let frame = data.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("a frame");
            data[frame + 1] = 0xC2;
            // The brightness of blocks alone: the first coefficient of 64, whose data lacks the code for the others.
            for at in 0..data.len() - 14 {
                if data[at..at + 2] == [0xFF, 0xDA] {
                    data[at + 12] = 0;
                }
            }
            decoder.decode("jpeg", &data).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(decode(10), Ok(()));
        let error = decode(40).expect_err("too many");
        assert!(error.contains("scans"), "{error}");
    }

    #[test]
    fn a_jpeg_whose_scans_are_not_all_there_once_is_refused() {
        let all: &[u8] = &[1, 2, 3];
        let mut decoder = Decoder::new();
        let mut refused = |data: &[u8], why: &str| {
            let error = decoder.decode("jpeg", data).map(|_| ()).expect_err(why).to_string();
            assert!(error.contains("a damaged or unusual one") && error.contains(why), "{error}");
        };
        // Cut behind the first block: on with its own header, with another picture's, or with another picture.
        refused(&scanned(&[(all, &TOGETHER[..2]), (all, &TOGETHER[2..])]), "twice");
        refused(&scanned(&[(all, &TOGETHER[..2]), (all, &[])]), "twice");
        let another = scanned(&[(all, TOGETHER)]);
        let start = scanned(&[(all, &TOGETHER[..2])]);
        let start = &start[..start.len() - 2];
        refused(&[start, &another].concat(), "another picture begins");
        refused(&[start, &another[2..]].concat(), "twice");
        refused(&[start, b"\xFF\xE0\xFF\xFF\xFF\xD9"].concat(), "beyond its end mark");
        refused(&scanned(&[(&[1], BRIGHT), (&[1], BRIGHT), (&[2], BRIGHT), (&[3], EVEN)]), "twice");
        refused(&scanned(&[(&[1, 1], TOGETHER)]), "twice");
        refused(&scanned(&[(&[1], BRIGHT), (&[2], BRIGHT)]), "only 2 of its 3 components");
        refused(&scanned(&[(&[1], BRIGHT)]), "only 1 of its 3 components");
    }

    #[test]
    fn alpha_is_taken_out_in_place() {
        let mut pixels = vec![1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0];
        drop_alpha(&mut pixels, 3, 1);
        assert_eq!(pixels, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let mut pixels = vec![1, 2, 0, 0, 3, 4, 0, 0];
        drop_alpha(&mut pixels, 2, 2);
        assert_eq!(pixels, [1, 2, 3, 4]);
    }
}

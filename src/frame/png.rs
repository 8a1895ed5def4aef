//! Lossless PNG pictures of labels and depth, as `sensor_msgs/CompressedImage` carries them.
//!
//! Three payloads are made of two kinds of picture: 8-bit grey (class ids) and 16-bit grey (millimetres).
//!
//! - `compressed_image_transport` (topics `.../compressed`) takes a plain PNG: of class ids [`PngEncoder::grey8`], of
//!   millimetres what follows the header below.
//! - `compressed_depth_image_transport` (topics `.../compressedDepth`) takes a 12-byte header and a PNG:
//!   [`PngEncoder::compressed_depth`].

use png::{BitDepth, ColorType, DeflateCompression, Encoder, EncodingError, Filter};
use thiserror::Error;

/// `format` of a `CompressedImage` with labels, as `compressed_image_transport` writes it.
pub const LABELS_FORMAT: &str = "mono8; png compressed mono8";
/// `format` of a `CompressedImage` with millimetres on `.../compressed`.
pub const DEPTH_FORMAT: &str = "16UC1; png compressed 16UC1";
/// `format` of a `CompressedImage` with millimetres on `.../compressedDepth`.
pub const COMPRESSED_DEPTH_FORMAT: &str = "16UC1; compressedDepth png";

/// Greatest depth that 16 bits of millimetres hold.
pub const MAX_DEPTH_MM: u16 = u16::MAX;

/// Bytes before the PNG in a `compressedDepth` payload: `ConfigHeader` of `compressed_depth_image_transport` is an enum
/// of four bytes (`INV_DEPTH` is 0) and two float32 quantisation parameters, in the sender's byte order (little endian
/// on every platform that ROS 2 supports). For 16-bit pictures its publisher leaves the parameters at 0 and its
/// subscriber does not read them: the PNG's values are the millimetres.
pub const COMPRESSED_DEPTH_HEADER: [u8; 12] = [0; 12];

/// Why a picture cannot be encoded.
#[derive(Debug, Error)]
pub enum PngError {
    /// The number of pixels is not width x height, or the size is none that PNG can hold.
    #[error("{pixels} pixels do not make a picture of {width}x{height} (expected {})", *width as u128 * *height as u128)]
    Size {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Pixels that came.
        pixels: usize,
    },
    /// The compression level is none.
    #[error("PNG compression level {0} does not exist: expected 1 (fastest) to 9 (smallest)")]
    Level(u8),
    /// The encoder's own words.
    #[error("cannot encode a PNG: {0}")]
    Encoding(#[from] EncodingError),
}

/// Depth in metres -> millimetres, rounded to the nearest; 0 says that there is no measurement (REP 118).
///
/// 0 is written for NaN and infinities, for what rounds to 0 or is negative, and for what lies beyond
/// [`MAX_DEPTH_MM`] (65.535 m). The last is not clipped to 65535, since a reader would take that for a surface at
/// 65.535 m, e.g. a wall in a point cloud where there is sky; cameras' drivers and `compressed_depth_image_transport`
/// write 0 beyond their range too. Who needs the far field takes the 32FC1 picture.
pub fn depth_mm(depth_m: &[f32], out: &mut Vec<u16>) {
    out.resize(depth_m.len(), 0);
    for (out, &depth_m) in out.iter_mut().zip(depth_m) {
        // Truncation of a value raised by a half: `round` would be a call for each pixel.
        let raised = depth_m * 1000.0 + 0.5;
        // NaN fails the comparison. Through i32, for which there are vector instructions.
        *out = if raised >= 0.0 && raised < f32::from(MAX_DEPTH_MM) + 1.0 { raised as i32 as u16 } else { 0 };
    }
}

/// Encodes pictures into buffers that the caller keeps.
#[derive(Debug, Default)]
pub struct PngEncoder {
    /// The samples of a 16-bit picture in PNG's order, big endian.
    big_endian: Vec<u8>,
}

impl PngEncoder {
    /// An encoder without buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Encodes `height x width` bytes as an 8-bit grey picture; `out` is replaced.
    ///
    /// `level` is 1 (fastest) to 9 (smallest).
    ///
    /// # Errors
    /// [`PngError`]; `out` is then of no use.
    pub fn grey8(
        &mut self,
        pixels: &[u8],
        width: usize,
        height: usize,
        level: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), PngError> {
        out.clear();
        encode(pixels, pixels.len(), width, height, BitDepth::Eight, level, out)
    }

    /// Encodes millimetres as `compressed_depth_image_transport` does a 16UC1 picture: header, then PNG; `out` is
    /// replaced.
    ///
    /// `level` is 1 (fastest) to 9 (smallest).
    ///
    /// # Errors
    /// [`PngError`]; `out` is then of no use.
    pub fn compressed_depth(
        &mut self,
        pixels_mm: &[u16],
        width: usize,
        height: usize,
        level: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), PngError> {
        out.clear();
        out.extend_from_slice(&COMPRESSED_DEPTH_HEADER);
        self.big_endian.resize(pixels_mm.len() * 2, 0);
        for (bytes, &v) in self.big_endian.chunks_exact_mut(2).zip(pixels_mm) {
            bytes.copy_from_slice(&v.to_be_bytes());
        }
        encode(&self.big_endian, pixels_mm.len(), width, height, BitDepth::Sixteen, level, out)
    }
}

/// The filter and the DEFLATE compressor of a level. The filters are those that were quickest or smallest on a network's
/// answers: a class map repeats the row above, a depth map is smooth.
fn method(depth: BitDepth, level: u8) -> Result<(Filter, DeflateCompression), PngError> {
    match (level, depth) {
        (1, BitDepth::Sixteen) => Ok((Filter::Paeth, DeflateCompression::FdeflateUltraFast)),
        (1, _) => Ok((Filter::Up, DeflateCompression::FdeflateUltraFast)),
        (2..=9, BitDepth::Sixteen) => Ok((Filter::Sub, DeflateCompression::Level(level))),
        (2..=9, _) => Ok((Filter::Up, DeflateCompression::Level(level))),
        _ => Err(PngError::Level(level)),
    }
}

fn encode(
    bytes: &[u8],
    pixels: usize,
    width: usize,
    height: usize,
    depth: BitDepth,
    level: u8,
    out: &mut Vec<u8>,
) -> Result<(), PngError> {
    let (filter, deflate) = method(depth, level)?;
    let size = PngError::Size { width, height, pixels };
    // PNG's own limit is 31 bits.
    let (Ok(w), Ok(h)) = (i32::try_from(width), i32::try_from(height)) else { return Err(size) };
    if width.checked_mul(height) != Some(pixels) {
        return Err(size);
    }
    let mut encoder = Encoder::new(out, w.unsigned_abs(), h.unsigned_abs());
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(depth);
    encoder.set_filter(filter);
    encoder.set_deflate_compression(deflate);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(bytes)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::noise::numbers;
    use super::*;
    use image::{DynamicImage, ImageFormat};

    fn noise(n: usize) -> Vec<u16> {
        numbers(9).map(|n| (n >> 16) as u16).take(n).collect()
    }

    /// Blocks of equal values with a ramp: compressible, with every byte value.
    fn patches(width: usize, height: usize) -> Vec<u16> {
        (0..width * height).map(|i| ((i % width / 7) * 900 + (i / width / 5) * 77) as u16).collect()
    }

    #[test]
    fn labels_and_millimetres_survive_at_every_level() {
        let mut encoder = PngEncoder::new();
        let mut out = vec![1, 2, 3];
        for (width, height) in [(1, 1), (3, 2), (130, 67), (257, 31)] {
            for wide in [noise(width * height), patches(width, height)] {
                let bytes: Vec<u8> = wide.iter().map(|v| (v >> 4) as u8).collect();
                for level in 1..=9 {
                    encoder.grey8(&bytes, width, height, level, &mut out).expect("encodes");
                    match image::load_from_memory_with_format(&out, ImageFormat::Png).expect("a PNG") {
                        DynamicImage::ImageLuma8(picture) => {
                            assert_eq!(picture.dimensions(), (width as u32, height as u32));
                            assert_eq!(picture.as_raw(), &bytes, "{width}x{height} level {level}");
                        }
                        other => panic!("not an 8-bit grey picture: {:?}", other.color()),
                    }
                    encoder.compressed_depth(&wide, width, height, level, &mut out).expect("encodes");
                    match image::load_from_memory_with_format(&out[12..], ImageFormat::Png).expect("a PNG") {
                        DynamicImage::ImageLuma16(picture) => {
                            assert_eq!(picture.as_raw(), &wide, "{width}x{height} level {level}");
                        }
                        other => panic!("not a 16-bit grey picture: {:?}", other.color()),
                    }
                }
            }
        }
    }

    #[test]
    fn higher_levels_are_smaller_and_noise_is_not_blown_up() {
        let mut encoder = PngEncoder::new();
        let (width, height) = (400, 300);
        let mut size = |pixels: &[u16], level| {
            let mut out = Vec::new();
            encoder.compressed_depth(pixels, width, height, level, &mut out).expect("encodes");
            out.len()
        };
        let smooth = patches(width, height);
        assert!(size(&smooth, 9) < size(&smooth, 1) && size(&smooth, 1) < width * height / 2);
        assert!(size(&noise(width * height), 1) < width * height * 2 + 2000);
    }

    #[test]
    fn a_compressed_depth_payload_is_twelve_zero_bytes_and_a_png() {
        let mut encoder = PngEncoder::new();
        let pixels = patches(20, 10);
        let mut out = Vec::new();
        for _ in 0..2 {
            encoder.compressed_depth(&pixels, 20, 10, 1, &mut out).expect("encodes");
            assert_eq!(out[..12], [0; 12], "INV_DEPTH as int32, two float32 0");
            assert_eq!(out[12..20], *b"\x89PNG\r\n\x1a\n");
        }
    }

    #[test]
    fn millimetres_are_rounded_and_zero_where_there_is_no_measurement() {
        let depth_m = [1.0, 0.0014, 0.0016, 2.0004, 2.0006, 65.535, 65.5354, 65.5356, 250.0, 0.0004, 0.0, -1.0];
        let mut out = vec![7; 40];
        depth_mm(&depth_m, &mut out);
        assert_eq!(out, [1000, 1, 2, 2000, 2001, 65535, 65535, 0, 0, 0, 0, 0]);
        depth_mm(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN], &mut out);
        assert_eq!(out, [0; 5]);
    }

    #[test]
    fn wrong_sizes_and_levels_are_refused() {
        let mut encoder = PngEncoder::new();
        let mut out = Vec::new();
        let message = |r: Result<(), PngError>| r.expect_err("must be refused").to_string();
        assert!(message(encoder.grey8(&[0; 5], 3, 2, 1, &mut out)).contains("expected 6"));
        assert!(message(encoder.compressed_depth(&[0; 7], 3, 2, 1, &mut out)).contains("7 pixels"));
        assert!(message(encoder.grey8(&[], usize::MAX, 2, 1, &mut out)).contains("0 pixels"));
        assert!(message(encoder.grey8(&[], 0, 0, 1, &mut out)).contains("cannot encode"));
        for level in [0, 10, 255] {
            assert!(message(encoder.grey8(&[0], 1, 1, level, &mut out)).contains("1 (fastest) to 9"));
        }
    }
}

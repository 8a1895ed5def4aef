//! Pictures of a data set: checked and decoded in one way, so that what passes the check can be read; and written.

use super::disk::{self, write_atomically, DataError};
use crate::panics::caught;
use image::{ColorType, DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder as _, ImageReader, Limits};
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

const PNG_START: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// A PNG's last chunk: length 0, IEND, checksum.
const PNG_END: [u8; 12] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xAE, 0x42, 0x60, 0x82];
const JPEG_START: [u8; 3] = [0xFF, 0xD8, 0xFF];
/// Its end mark, which is not in its pixels' data.
const JPEG_END: [u8; 2] = [0xFF, 0xD9];
/// Bytes at a JPEG's end in which the mark is looked for first: some devices pad their files.
const JPEG_TAIL: u64 = 1 << 16;
/// Where a PNG says how many bits a number has; its first chunk is always the one that does.
const PNG_BITS: usize = 24;
/// Where it says what the numbers are.
const PNG_COLOURS: usize = 25;
/// They are places in a palette: decoders give the colours there, and the numbers are lost.
const PALETTE: u8 = 3;
/// Writes numbers of a palette or of 16 bits as 8-bit grey.
const TO_GREY: &str = "python3 -c \"import sys, numpy; from PIL import Image; \
     [Image.fromarray(numpy.uint8(Image.open(f))).save(f) for f in sys.argv[1:]]\" FILES";

/// What the numbers of a picture without colours mean, which says in what form they have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Class ids, 8-bit grey.
    Ids,
    /// Cityscapes' code of disparity, 16-bit grey.
    Disparity,
}

impl Numbers {
    fn kind(self) -> ColorType {
        match self {
            Self::Ids => ColorType::L8,
            Self::Disparity => ColorType::L16,
        }
    }

    /// What is wrong with a picture of another kind, and what to do.
    fn refusal(self, found: ColorType, is_palette: bool) -> String {
        let remedy = match (self, found) {
            (Self::Ids, _) if is_palette => {
                format!("where the places in its palette are the ids, write these as 8-bit grey: {TO_GREY}")
            }
            (Self::Ids, ColorType::L16) => format!("where no id is above 255, write them as 8-bit grey: {TO_GREY}"),
            (Self::Ids, _) => {
                "its colours are no ids: write each pixel's class id as 8-bit grey (Cityscapes has these in _labelIds.png)"
                    .into()
            }
            (Self::Disparity, _) => {
                "write it with 16 bits, as 256 times the disparity in pixels plus 1, and 0 where it is not known".into()
            }
        };
        let found = if is_palette { "a PNG with a palette".into() } else { format!("{found:?}") };
        self.expected(&found, &remedy)
    }

    fn expected(self, found: &str, remedy: &str) -> String {
        let what = match self {
            Self::Ids => "class ids",
            Self::Disparity => "disparity",
        };
        format!("read as {what}: expected a picture of kind {:?}, found {found}; {remedy}", self.kind())
    }
}

/// The picture behind a file's header, which has to be of the `expected` kind: by its content, whatever its name ends
/// in, and no larger than is decoded.
fn decoder(path: &Path, expected: Option<Numbers>) -> Result<Box<dyn ImageDecoder>, DataError> {
    let bad = |e: image::ImageError| DataError::bad(path, e.to_string());
    let mut file = BufReader::new(disk::open(path).map_err(DataError::io(path))?);
    let mut start = Vec::with_capacity(PNG_COLOURS + 1);
    file.by_ref().take(PNG_COLOURS as u64 + 1).read_to_end(&mut start).map_err(DataError::io(path))?;
    file.rewind().map_err(DataError::io(path))?;
    let reader = ImageReader::new(file).with_guessed_format().map_err(DataError::io(path))?;
    let decoder = reader.into_decoder().map_err(bad)?;
    if let Some(expected) = expected {
        let is_png = start.starts_with(&PNG_START);
        let found = decoder.color_type();
        if found != expected.kind() {
            let is_palette = is_png && start.get(PNG_COLOURS) == Some(&PALETTE);
            return Err(DataError::bad(path, expected.refusal(found, is_palette)));
        }
        // Numbers of fewer bits are stretched to eight: what they count would be something else.
        let bits = start.get(PNG_BITS).copied().filter(|bits| is_png && *bits < 8);
        if let Some(bits) = bits {
            let what = expected.expected(&format!("L{bits}"), "write it anew with 8 bits a pixel");
            return Err(DataError::bad(path, what));
        }
    }
    Limits::default().reserve(decoder.total_bytes()).map_err(bad)?;
    Ok(Box::new(decoder))
}

/// Width and height by the file's header, which has to be of the `expected` kind; a PNG or JPEG that does not end as
/// one is cut short: the decoder of JPEGs would fill it up with grey. What passes is decoded by [`read`], unless the pixels
/// themselves are broken.
///
/// # Errors
/// The file cannot be read, is no picture or of another kind, or is larger than is decoded.
pub(crate) fn size(path: &Path, expected: Option<Numbers>) -> Result<(u32, u32), DataError> {
    let size = decoder(path, expected)?.dimensions();
    let ends = || -> std::io::Result<bool> {
        let mut file = File::open(path)?;
        let (mut start, mut end) = ([0; 8], [0; 12]);
        file.read_exact(&mut start)?;
        if start.starts_with(&JPEG_START) {
            let length = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(length.saturating_sub(JPEG_TAIL)))?;
            let has_end = |bytes: &[u8]| bytes.windows(2).rev().any(|pair| pair == JPEG_END);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            if has_end(&bytes) {
                return Ok(true);
            }
            // A telephone's, which has a film behind it.
            bytes.clear();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            return Ok(has_end(&bytes));
        }
        if start != PNG_START {
            return Ok(true);
        }
        file.seek(SeekFrom::End(-12))?;
        file.read_exact(&mut end)?;
        Ok(end == PNG_END)
    };
    if ends().map_err(DataError::io(path))? {
        Ok(size)
    } else {
        Err(DataError::bad(path, "the picture has no end: it is cut short"))
    }
}

/// Decodes a picture, which has to be of the `expected` kind.
///
/// # Errors
/// As [`size`], and broken pixels.
pub(crate) fn read(path: &Path, expected: Option<Numbers>) -> Result<DynamicImage, DataError> {
    let decoder = decoder(path, expected)?;
    // Decoders are meant not to panic.
    caught(|| DynamicImage::from_decoder(decoder))
        .map_err(|why| DataError::bad(path, format!("the decoder gave up: {why}")))?
        .map_err(|e| DataError::bad(path, e.to_string()))
}

/// Decodes a picture of 8-bit grey values: class ids.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_ids(path: &Path) -> Result<image::GrayImage, DataError> {
    match read(path, Some(Numbers::Ids))? {
        DynamicImage::ImageLuma8(ids) => Ok(ids),
        other => Err(DataError::bad(path, format!("expected 8-bit grey ids, found {:?}", other.color()))),
    }
}

/// Writes a PNG, quickly rather than small. It appears whole or not at all, and whatever else the place is a link to
/// stays as it is.
///
/// # Errors
/// `bytes` do not fit the size, or the folder cannot be written to.
pub(crate) fn write_png(path: &Path, bytes: &[u8], w: u32, h: u32, kind: ExtendedColorType) -> Result<(), DataError> {
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Sub)
        .write_image(bytes, w, h, kind)
        .map_err(|e| DataError::bad(path, e.to_string()))?;
    write_atomically(path, |file| file.write_all(&png))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_the_check_is_decoded_whatever_its_name_ends_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.png");
        image::RgbImage::new(5, 3).save_with_format(&path, image::ImageFormat::Jpeg).expect("written");
        assert_eq!(size(&path, None).expect("checked"), (5, 3));
        assert_eq!(read(&path, None).expect("decoded").into_rgb8().dimensions(), (5, 3));
    }

    #[test]
    fn a_decoder_that_panics_refuses_the_picture_by_its_name() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decoder_panics.jpg");
        let error = read(&path, None).expect_err("it is damaged").to_string();
        assert!(error.contains("decoder_panics.jpg") && error.contains("the decoder gave up"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.png");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("a named pipe");
        for error in [size(&path, None).expect_err("a pipe"), read(&path, None).expect_err("a pipe")] {
            assert!(error.to_string().contains("a.png: expected a file"), "{error}");
        }
    }

    #[test]
    fn a_picture_that_is_cut_short_does_not_pass_the_check() {
        let folder = tempfile::tempdir().expect("a folder");
        let noise =
            image::RgbImage::from_fn(200, 100, |x, y| image::Rgb([(x * y) as u8, (x * 7) as u8, (y * 31) as u8]));
        for ending in ["jpg", "png"] {
            let path = folder.path().join(format!("a.{ending}"));
            noise.save(&path).expect("written");
            let mut whole = std::fs::read(&path).expect("read");
            assert_eq!(size(&path, None).expect("whole"), (200, 100));
            std::fs::write(&path, &whole[..whole.len() / 3]).expect("written");
            let error = size(&path, None).expect_err(ending).to_string();
            assert!(error.contains(&format!("a.{ending}: ")) && error.contains("cut short"), "{error}");
            if ending == "jpg" {
                // As devices leave it that write whole blocks.
                whole.extend([0; 4096]);
                std::fs::write(&path, &whole).expect("written");
                assert_eq!(size(&path, None).expect("padded"), (200, 100));
                whole.extend([0; 1 << 17]);
                std::fs::write(&path, &whole).expect("written");
                assert_eq!(size(&path, None).expect("with something long behind it"), (200, 100));
            }
        }
    }

    #[test]
    fn ids_of_fewer_than_eight_bits_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ids.png");
        for (bits, depth) in [(1, png::BitDepth::One), (2, png::BitDepth::Two), (4, png::BitDepth::Four)] {
            let mut encoder = png::Encoder::new(File::create(&path).expect("a file"), 8, 1);
            encoder.set_color(png::ColorType::Grayscale);
            encoder.set_depth(depth);
            let mut writer = encoder.write_header().expect("a header");
            writer.write_image_data(&vec![0x1b; bits]).expect("eight pixels");
            writer.finish().expect("written");
            let errors = [size(&path, Some(Numbers::Ids)).err(), read_ids(&path).err()];
            for error in errors {
                let error = error.expect("refused").to_string();
                assert!(error.contains("expected a picture of kind L8") && error.contains(&format!("found L{bits};")));
            }
            assert_eq!(size(&path, None).expect("a picture all the same"), (8, 1));
        }
        write_png(&path, &[3; 8], 8, 1, ExtendedColorType::L8).expect("written");
        assert_eq!(size(&path, Some(Numbers::Ids)).expect("eight bits"), (8, 1));
        assert_eq!(read_ids(&path).expect("ids").into_raw(), [3; 8]);
    }

    #[test]
    fn numbers_in_another_form_are_refused_with_how_to_write_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("numbers.png");
        let write = |colours: png::ColorType, depth: png::BitDepth, palette: Option<&[u8]>, bytes: usize| {
            let mut encoder = png::Encoder::new(File::create(&path).expect("a file"), 8, 1);
            encoder.set_color(colours);
            encoder.set_depth(depth);
            if let Some(palette) = palette {
                encoder.set_palette(palette.to_vec());
                encoder.set_trns(vec![0]);
            }
            let mut writer = encoder.write_header().expect("a header");
            writer.write_image_data(&vec![1; bytes]).expect("eight pixels");
            writer.finish().expect("written");
        };
        let refused = |numbers: Numbers, expected: &[&str]| {
            for error in [size(&path, Some(numbers)).err(), read(&path, Some(numbers)).err()] {
                let error = error.expect("refused").to_string();
                assert!(expected.iter().all(|words| error.contains(words)), "{expected:?}: {error}");
            }
        };
        let palette: Vec<u8> = (0..48).collect();
        for (depth, bytes) in [(png::BitDepth::Eight, 8), (png::BitDepth::Four, 4)] {
            write(png::ColorType::Indexed, depth, Some(&palette), bytes);
            refused(
                Numbers::Ids,
                &["read as class ids: ", "L8, found a PNG with a palette; ", "8-bit grey: python3 -c"],
            );
            refused(Numbers::Disparity, &["read as disparity: ", "L16, found a PNG with a palette; "]);
        }
        write(png::ColorType::Grayscale, png::BitDepth::Sixteen, None, 16);
        refused(Numbers::Ids, &["L8, found L16; where no id is above 255", "python3 -c"]);
        write(png::ColorType::Rgb, png::BitDepth::Eight, None, 24);
        refused(Numbers::Ids, &["L8, found Rgb8; its colours are no ids", "_labelIds.png"]);
        write(png::ColorType::Grayscale, png::BitDepth::Eight, None, 8);
        refused(Numbers::Disparity, &["L16, found L8; write it with 16 bits, as 256 times the disparity"]);
    }

    #[test]
    fn a_picture_that_is_too_large_to_be_decoded_does_not_pass_the_check() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large.png");
        let mut encoder = png::Encoder::new(File::create(&path).expect("a file"), 20_000, 20_000);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().expect("a header");
        writer.write_chunk(png::chunk::IDAT, &[0x78, 0x01, 0, 0, 0, 0, 0, 0]).expect("a chunk");
        writer.finish().expect("an end");
        let error = size(&path, None).expect_err("1.2 GB").to_string();
        assert!(error.contains("large.png") && error.contains("limit"), "{error}");
    }
}

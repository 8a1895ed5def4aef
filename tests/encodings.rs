//! Images of every encoding that is converted, and compressed ones, against OpenCV (tests/golden/make_encodings.py).

use hashes::hashes;
use safetensors::SafeTensors;
use semantic_depth::frame::compressed::{inspect, CompressedError, CompressedKind, Decoder};
use semantic_depth::frame::convert::Converter;
use semantic_depth::frame::view::{Encoding, ImageView};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[path = "golden/hashes.rs"]
mod hashes;

/// Shape and bytes by name.
fn golden() -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/encodings.safetensors");
    let bytes = std::fs::read(path).expect("the golden answers");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    tensors.iter().map(|(name, t)| (name.to_string(), (t.shape().to_vec(), t.data().to_vec()))).collect()
}

/// Must agree with `values` in make_encodings.py to the bit.
fn values(name: &str, count: usize, bits: u32) -> Vec<u16> {
    let max = ((1_u32 << bits) - 1) as u16;
    let value = |h: u32| match h & 15 {
        0 => 0,
        1 => max,
        _ => (h >> (32 - bits)) as u16,
    };
    hashes(name).map(value).take(count).collect()
}

/// Message data of the values in rows of `row`, each followed by `padding` bytes.
fn message(values: &[u16], row: usize, bits: u32, big_endian: bool, padding: usize) -> Vec<u8> {
    let mut data = Vec::new();
    for row in values.chunks(row) {
        for &v in row {
            match (bits, big_endian) {
                (8, _) => data.push(v as u8),
                (_, true) => data.extend(v.to_be_bytes()),
                (_, false) => data.extend(v.to_le_bytes()),
            }
        }
        data.extend(std::iter::repeat_n(0xA5, padding));
    }
    data
}

#[test]
fn every_encoding_becomes_what_opencv_makes_of_it() {
    let golden = golden();
    let mut converter = Converter::new();
    let mut seen = BTreeSet::new();
    for (key, (shape, answer)) in &golden {
        let Some(name) = key.strip_prefix("raw ") else { continue };
        let encoding = name.split(' ').next().expect("an encoding");
        let kind = Encoding::ALL.into_iter().find(|e| e.name() == encoding).expect("a known encoding");
        seen.insert(encoding.to_string());
        let (height, width) = (shape[0], shape[1]);
        let bits = if kind.is_sixteen_bit() { 16 } else { 8 };
        let (row, rows) = match kind {
            Encoding::Uyvy | Encoding::Yuyv => (2 * width, height),
            Encoding::Nv12 => (width, height / 2 * 3),
            _ => (width * kind.channels(), height),
        };
        let values = values(name, row * rows, bits);
        for big_endian in [false, true] {
            for padding in [0, 1, 6] {
                let data = message(&values, row, bits, big_endian, padding);
                let step = row * bits as usize / 8 + padding;
                let view =
                    ImageView::new(encoding, width as u32, height as u32, step as u32, big_endian, &data).expect(name);
                let found = converter.eight_bit(&view);
                assert!(found.encoding().is_direct());
                assert_eq!((found.width(), found.height()), (width, height), "{name}");
                assert_eq!(found.encoding().channels(), if shape.len() == 2 { 1 } else { 3 }, "{name}");
                let found: Vec<u8> = (0..height).flat_map(|y| found.row(y).to_vec()).collect();
                if let Some(i) = found.iter().zip(answer).position(|(f, a)| f != a) {
                    panic!(
                        "{name}, big endian {big_endian}, padding {padding}: value {i} is {} and not OpenCV's {}",
                        found[i], answer[i]
                    );
                }
                assert_eq!(found.len(), answer.len(), "{name}");
            }
        }
    }
    let expected: BTreeSet<_> =
        Encoding::ALL.into_iter().filter(|e| !e.is_direct()).map(|e| e.name().to_string()).collect();
    assert_eq!(seen, expected, "every encoding that is not direct has answers");
}

struct Picture {
    name: String,
    format: String,
    data: Vec<u8>,
    shape: Vec<usize>,
    answer: Vec<u8>,
}

fn pictures() -> Vec<Picture> {
    let golden = golden();
    let picture = |(key, (_, data)): (&String, &(Vec<usize>, Vec<u8>))| {
        let name = key.strip_prefix("compressed ")?.strip_suffix("|data")?;
        let (shape, answer) = golden.get(&format!("compressed {name}|answer"))?.clone();
        let (name, format) = name.split_once('|')?;
        Some(Picture { name: name.into(), format: format.into(), data: data.clone(), shape, answer })
    };
    let pictures: Vec<_> = golden.iter().filter_map(picture).collect();
    assert_eq!(pictures.len(), 21);
    pictures
}

/// Greatest and mean difference.
fn difference(found: &ImageView<'_>, answer: &[u8]) -> (u8, f64) {
    let found: Vec<u8> = (0..found.height()).flat_map(|y| found.row(y).to_vec()).collect();
    assert_eq!(found.len(), answer.len());
    let differences: Vec<u8> = found.iter().zip(answer).map(|(f, a)| f.abs_diff(*a)).collect();
    let sum: f64 = differences.iter().map(|&d| f64::from(d)).sum();
    (differences.iter().copied().max().unwrap_or(0), sum / differences.len() as f64)
}

#[test]
fn compressed_pictures_become_what_opencv_makes_of_them() {
    let mut decoder = Decoder::new();
    for p in pictures() {
        let size = (p.shape[1] as u32, p.shape[0] as u32);
        let kind = if p.name.starts_with("jpeg") { CompressedKind::Jpeg } else { CompressedKind::Png };
        assert_eq!(inspect(&p.format, &p.data), Ok((kind, size.0, size.1)), "{}", p.name);
        let found = decoder.decode(&p.format, &p.data).unwrap_or_else(|e| panic!("{}: {e}", p.name));
        assert_eq!((found.width() as u32, found.height() as u32), size, "{}", p.name);
        let expected = if p.shape.len() == 2 { Encoding::Mono8 } else { Encoding::Rgb8 };
        assert_eq!(found.encoding(), expected, "{}", p.name);
        let (most, mean) = difference(&found, &p.answer);
        // PNG is exact. The standard leaves a JPEG decoder its arithmetic: the cosine transform, the colours and the
        // interpolation of colours at half the resolution round differently. Measured: 3 at most, 0.35 in the mean,
        // and 1.0 of CMYK, which has one more multiplication.
        let (allowed, allowed_mean) = match kind {
            CompressedKind::Png => (0, 0.0),
            CompressedKind::Jpeg if p.name == "jpeg_cmyk" => (4, 1.2),
            CompressedKind::Jpeg => (4, 0.5),
        };
        assert!(most <= allowed && mean <= allowed_mean, "{}: differs by {most} at most, {mean} in the mean", p.name);
    }
}

#[test]
fn a_picture_that_was_cut_short_is_refused_wherever_it_was_cut() {
    let mut decoder = Decoder::new();
    for p in pictures() {
        for end in 0..p.data.len() {
            let cut = &p.data[..end];
            let error = decoder.decode(&p.format, cut).map(|_| ()).expect_err(&p.name);
            let kind = if p.name.starts_with("jpeg") { CompressedKind::Jpeg } else { CompressedKind::Png };
            let expected = if end < 3 || (end < 8 && kind == CompressedKind::Png) {
                matches!(error, CompressedError::Kind { .. })
            } else {
                error == CompressedError::Truncated { kind, bytes: end }
            };
            assert!(expected, "{} cut at {end} of {}: {error}", p.name, p.data.len());
        }
    }
}

#[test]
fn damaged_pictures_do_no_harm() {
    let mut decoder = Decoder::new();
    let mut refused = 0;
    let mut tried = 0;
    for p in pictures() {
        for round in 0..300_usize {
            let noise = values(&format!("{} {round}", p.name), 8, 16);
            let mut data = p.data.clone();
            let at = usize::from(noise[0]) % data.len();
            match round % 4 {
                0 => data[at] = noise[1] as u8,
                1 => noise.chunks_exact(2).for_each(|n| {
                    let at = usize::from(n[0]) % data.len();
                    data[at] ^= 1 << (n[1] % 8);
                }),
                2 => drop(data.drain(at..(at + usize::from(noise[1]) % 40 + 1).min(data.len()))),
                // In the headers, where sizes and tables are.
                _ => data[at % 200.min(p.data.len())] = noise[1] as u8,
            }
            tried += 1;
            match decoder.decode(&p.format, &data) {
                Ok(view) => assert!(view.encoding().is_direct()),
                Err(e) => {
                    assert!(!e.to_string().contains("gave up"), "{} {round}: the decoder panicked", p.name);
                    refused += 1;
                }
            }
        }
        // And it is as good as before.
        let found = decoder.decode(&p.format, &p.data).expect("the whole picture");
        assert!(difference(&found, &p.answer).0 <= 4, "{}", p.name);
    }
    assert!(refused > tried / 2, "only {refused} of {tried} damaged pictures were refused");
}

/// The marker segments of a JPEG before its scan: marker and place.
fn segments(data: &[u8]) -> Vec<(u8, std::ops::Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 2;
    while data[at + 1] != 0xDA {
        let end = at + 2 + usize::from(u16::from_be_bytes([data[at + 2], data[at + 3]]));
        found.push((data[at + 1], at..end));
        at = end;
    }
    found
}

/// As a transport leaves it that loses packets: with the head and the end mark, but not all between them.
#[test]
fn a_jpeg_that_lacks_a_part_of_its_scan_is_refused() {
    let mut decoder = Decoder::new();
    let mut tried = 0;
    // Of a progressive one every scan may be whole as far as it goes: that cannot be told.
    for p in pictures().into_iter().filter(|p| p.name.starts_with("jpeg") && p.name != "jpeg_progressive") {
        let head = segments(&p.data).last().expect("segments").1.end + 2;
        let start = head + usize::from(u16::from_be_bytes([p.data[head], p.data[head + 1]]));
        let end = p.data.len() - 2;
        assert_eq!(p.data[end..], [0xFF, 0xD9], "{}", p.name);
        let third = (end - start) / 3;
        // The last bytes, too.
        for lost in [start..start + third, start + third..end - third, end - third..end, end - 6..end] {
            let mut data = p.data.clone();
            data.drain(lost.clone());
            let error = decoder.decode(&p.format, &data).map(|_| ()).expect_err(&p.name);
            assert!(matches!(error, CompressedError::Damaged { .. }), "{} without {lost:?}: {error}", p.name);
            tried += 1;
        }
        // A segment between the data and the end mark is allowed.
        let mut commented = p.data[..end].to_vec();
        commented.extend(*b"\xFF\xFE\x00\x05abc\xFF\xD9");
        let found = decoder.decode(&p.format, &commented).expect("it is whole");
        assert!(difference(&found, &p.answer).0 <= 4, "{}", p.name);
        // Two behind each other are the first.
        let found = decoder.decode(&p.format, &[p.data.as_slice(), &p.data].concat()).expect("the first");
        assert!(difference(&found, &p.answer).0 <= 4, "{}", p.name);
    }
    assert!(tried >= 4 * 7, "{tried}");
}

#[test]
fn jpegs_as_cameras_send_them() {
    let picture = pictures().into_iter().find(|p| p.name == "jpeg_420_even").expect("the picture");
    let mut decoder = Decoder::new();
    let mut pixels = |data: &[u8]| {
        let view = decoder.decode("jpeg", data)?;
        Ok::<_, CompressedError>((0..view.height()).flat_map(|y| view.row(y).to_vec()).collect::<Vec<u8>>())
    };
    let expected = pixels(&picture.data).expect("the whole picture");
    // Motion JPEG leaves out the standard's Huffman tables.
    let mut bare = picture.data.clone();
    for (_, range) in segments(&picture.data).into_iter().filter(|(marker, _)| *marker == 0xC4).rev() {
        bare.drain(range);
    }
    assert!(bare.len() + 400 < picture.data.len(), "the tables were there");
    assert_eq!(pixels(&bare).as_ref(), Ok(&expected));
    // Drivers send their whole buffer.
    let mut padded = picture.data.clone();
    padded.extend([0; 1000]);
    assert_eq!(pixels(&padded).as_ref(), Ok(&expected));
    // A thumbnail's end mark is not the picture's.
    let mut thumbnail = vec![0xFF, 0xD8, 0xFF, 0xE1, 0, 8, b'x', b'x', 0xFF, 0xD9, 0, 0];
    thumbnail.extend(&picture.data[2..]);
    assert_eq!(pixels(&thumbnail).as_ref(), Ok(&expected));
    thumbnail.truncate(thumbnail.len() - 2);
    assert!(matches!(pixels(&thumbnail), Err(CompressedError::Truncated { .. })));
}

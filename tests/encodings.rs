//! Images of every encoding that is converted, and compressed ones, against OpenCV (tests/golden/make_encodings.py).

use safetensors::SafeTensors;
use semantic_depth::frame::compressed::{inspect, CompressedError, CompressedKind, Decoder};
use semantic_depth::frame::convert::Converter;
use semantic_depth::frame::view::{Encoding, ImageView};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Shape and bytes by name.
fn golden() -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/encodings.safetensors");
    let bytes = std::fs::read(path).expect("the golden answers");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    tensors.iter().map(|(name, t)| (name.to_string(), (t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// Must agree with `values` in make_encodings.py to the bit.
fn values(name: &str, count: usize, bits: u32) -> Vec<u16> {
    let base = fnv(name);
    let max = ((1_u32 << bits) - 1) as u16;
    (0..count)
        .map(|i| {
            let mut h = (i as u64).wrapping_mul(0x9e37_79b1).wrapping_add(base.into()) as u32;
            h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
            h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
            h ^= h >> 16;
            match h & 15 {
                0 => 0,
                1 => max,
                _ => (h >> (32 - bits)) as u16,
            }
        })
        .collect()
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
        println!("{}: differs by at most {most}, by {mean:.3} in the mean", p.name);
        // PNG is exact. The standard leaves a JPEG decoder its arithmetic: the cosine transform and the colours round
        // differently by 1 or 2, and colours at half the resolution are interpolated by another rule.
        let (allowed, allowed_mean) = match p.name.as_str() {
            _ if kind == CompressedKind::Png => (0, 0.0),
            _ => (255, 255.0),
        };
        assert!(most <= allowed && mean <= allowed_mean, "{}: {most}, {mean}", p.name);
    }
}

//! Dense depth as NumPy's `.npy` (format versions 1 to 3, NEP 1).
//!
//! Read: `float16`, `float32` and `float64` metres, and `uint16` millimetres with 0 for unknown (what REP 118 calls
//! 16UC1, and this project's node publishes), little-endian, of shape `[height, width]`, `[1, height, width]` or
//! `[height, width, 1]`. The header is read on its own, so that a whole split can be checked without its data. The
//! readers at hand lack `uint16` and the header (`tch`), or bring a parser generator along (`npyz`, `ndarray-npy`).

use super::disk::{write_atomically, DataError};
use half::f16;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// What one element of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    /// `float16`, metres.
    Half,
    /// `float32`, metres.
    Single,
    /// `float64`, metres.
    Double,
    /// `uint16`, millimetres; 0 unknown.
    Millimetres,
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Self::Half | Self::Millimetres => 2,
            Self::Single => 4,
            Self::Double => 8,
        }
    }

    /// Metres of one element; NaN where it says "unknown".
    fn metres(self, bytes: &[u8]) -> f32 {
        let metres = match (self, bytes) {
            (Self::Half, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (Self::Single, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::Double, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            (Self::Millimetres, &[a, b]) => f32::from(u16::from_le_bytes([a, b])) / 1000.0,
            _ => f32::NAN,
        };
        // No depth is 0 or negative: those are other people's codes for "unknown".
        if metres > 0.0 {
            metres
        } else {
            f32::NAN
        }
    }
}

/// What a depth file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    element: Element,
    /// Columns one after the other, not rows.
    fortran: bool,
    width: u32,
    height: u32,
    /// Where the elements begin.
    offset: usize,
}

impl Header {
    fn data_bytes(&self) -> u64 {
        (u64::from(self.width) * u64::from(self.height)).saturating_mul(self.element.bytes() as u64)
    }
}

/// Longest header that is read: NumPy's own is 128 bytes for an array of this kind.
const LONGEST_HEADER: usize = 1 << 16;

/// Reads the header, and leaves `file` at the first element.
fn read_header(file: &mut impl std::io::Read) -> Result<Header, String> {
    let short = |e: std::io::Error| format!("not an .npy file: its header cannot be read ({e})");
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(short)?;
    if magic[..6] != *b"\x93NUMPY" {
        return Err("expected an .npy file (it begins with \\x93NUMPY), found something else".into());
    }
    let (length, before) = match magic[6] {
        1 => {
            let mut n = [0; 2];
            file.read_exact(&mut n).map_err(short)?;
            (usize::from(u16::from_le_bytes(n)), 10)
        }
        2 | 3 => {
            let mut n = [0; 4];
            file.read_exact(&mut n).map_err(short)?;
            (u32::from_le_bytes(n) as usize, 12)
        }
        version => return Err(format!("expected .npy format 1, 2 or 3, found {version}")),
    };
    if length > LONGEST_HEADER {
        return Err(format!("expected a header of at most {LONGEST_HEADER} bytes, found {length}"));
    }
    let mut text = vec![0; length];
    file.read_exact(&mut text).map_err(short)?;
    parse_header(&String::from_utf8_lossy(&text), before + length)
}

fn parse_header(text: &str, offset: usize) -> Result<Header, String> {
    let after = |key: &str| {
        text.split_once(&format!("'{key}':"))
            .map(|(_, rest)| rest.trim_start())
            .ok_or_else(|| format!("its header lacks '{key}'"))
    };
    let descr = after("descr")?;
    let descr = descr.strip_prefix('\'').and_then(|d| d.split_once('\'')).map_or("a structured type", |(d, _)| d);
    let element = match descr {
        "<f2" => Element::Half,
        "<f4" => Element::Single,
        "<f8" => Element::Double,
        "<u2" => Element::Millimetres,
        other => {
            return Err(format!(
                "expected float16, float32 or float64 (metres) or uint16 (millimetres), little-endian, found {other}"
            ))
        }
    };
    let fortran = after("fortran_order")?.starts_with("True");
    let shape = after("shape")?;
    let inner = shape.strip_prefix('(').and_then(|s| s.split_once(')')).map(|(inner, _)| inner).unwrap_or_default();
    let sizes: Option<Vec<u32>> =
        inner.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().ok()).collect();
    let (height, width) = match sizes.as_deref() {
        Some(&[h, w] | &[1, h, w] | &[h, w, 1]) if h > 0 && w > 0 => (h, w),
        _ => return Err(format!("expected depth of shape [height, width], found ({inner})")),
    };
    Ok(Header { element, fortran, width, height, offset })
}

/// Width and height of a depth file, and whether it is whole: its header is read, and its length.
///
/// # Errors
/// It cannot be read, is no depth (see the module), or is cut short.
pub fn read_size(path: &Path) -> Result<(u32, u32), DataError> {
    let mut file = fs::File::open(path).map_err(DataError::io(path))?;
    let header = read_header(&mut file).map_err(|what| DataError::bad(path, what))?;
    let length = file.metadata().map_err(DataError::io(path))?.len();
    let expected = (header.offset as u64).saturating_add(header.data_bytes());
    if length < expected {
        return Err(DataError::bad(path, format!("expected {expected} bytes, found {length}: it is cut short")));
    }
    Ok((header.width, header.height))
}

/// Metres row by row (NaN where unknown: NaN, 0 or negative in the file; inf stays, the sky), with width and height.
///
/// # Errors
/// It cannot be read, is no depth (see the module), or is cut short.
pub fn read(path: &Path) -> Result<(Vec<f32>, u32, u32), DataError> {
    let mut file = fs::File::open(path).map_err(DataError::io(path))?;
    let header = read_header(&mut file).map_err(|what| DataError::bad(path, what))?;
    // The header's word is not taken for how much memory there must be: only what the file has is read.
    let mut bytes = Vec::new();
    file.take(header.data_bytes()).read_to_end(&mut bytes).map_err(DataError::io(path))?;
    if (bytes.len() as u64) < header.data_bytes() {
        let (found, expected) = (bytes.len(), header.data_bytes());
        return Err(DataError::bad(
            path,
            format!("expected {expected} bytes of depth, found {found}: it is cut short"),
        ));
    }
    let element = header.element;
    let mut depth_m: Vec<f32> = bytes.chunks_exact(element.bytes()).map(|b| element.metres(b)).collect();
    if header.fortran {
        let (w, h) = (header.width as usize, header.height as usize);
        depth_m = (0..w * h).map(|i| depth_m[i % w * h + i / w]).collect();
    }
    Ok((depth_m, header.width, header.height))
}

/// How depth is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// `float32`.
    #[default]
    Single,
    /// `float16`: half the size; 11 bits, 0.05 % of the depth.
    Half,
}

/// Writes metres, row by row, as `[height, width]`. The file appears whole or not at all.
///
/// # Errors
/// It cannot be written, or the number of values is not `width * height`.
pub fn write(path: &Path, depth_m: &[f32], width: u32, height: u32, precision: Precision) -> Result<(), DataError> {
    if depth_m.len() as u64 != u64::from(width) * u64::from(height) {
        return Err(DataError::bad(path, format!("{} depths for {width}x{height} pixels", depth_m.len())));
    }
    let descr = match precision {
        Precision::Single => "<f4",
        Precision::Half => "<f2",
    };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({height}, {width}), }}");
    // Magic, version and length are 10 bytes; the elements begin at a multiple of 64.
    let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    write_atomically(path, |file| {
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&(length as u16).to_le_bytes())?;
        writeln!(file, "{dict:width$}", width = length - 1)?;
        for &d in depth_m {
            match precision {
                Precision::Single => file.write_all(&d.to_le_bytes())?,
                Precision::Half => file.write_all(&f16::from_f32(d).to_le_bytes())?,
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, header: &str, data: &[u8]) -> std::path::PathBuf {
        let path = folder.join("a.npy");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        fs::write(&path, bytes).expect("written");
        path
    }

    #[test]
    fn depth_goes_there_and_back_in_both_precisions() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/folder/d_depth.npy");
        let depth = [1.5, f32::NAN, f32::INFINITY, 80.25, 0.125, 3.0];
        for precision in [Precision::Single, Precision::Half] {
            write(&path, &depth, 3, 2, precision).expect("written");
            assert_eq!(read_size(&path).expect("header"), (3, 2));
            let (back, w, h) = read(&path).expect("read");
            assert_eq!((w, h), (3, 2));
            assert!(back.iter().zip(&depth).all(|(a, b)| a == b || a.is_nan() && b.is_nan()), "{back:?}");
        }
        let left: Vec<_> = fs::read_dir(path.parent().expect("a parent")).expect("listed").collect();
        assert_eq!(left.len(), 1, "nothing but the file is left");
        // libtorch's reader agrees.
        write(&path, &depth, 3, 2, Precision::Single).expect("written");
        assert_eq!(tch::Tensor::read_npy(&path).expect("read").size(), [2, 3]);
        assert!(write(&path, &depth, 4, 2, Precision::Single).is_err(), "a wrong number of values");
    }

    #[test]
    fn every_kind_is_read_in_metres() {
        let folder = tempfile::tempdir().expect("a folder");
        let doubles: Vec<u8> = [2.5_f64, -1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let path = file(folder.path(), "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 2), }\n", &doubles);
        let (d, w, h) = read(&path).expect("float64");
        assert_eq!((d[0], d[1].is_nan(), w, h), (2.5, true, 2, 1));
        let codes: Vec<u8> = [1500_u16, 0, 65535, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
        let path = file(folder.path(), "{'descr': '<u2', 'fortran_order': True, 'shape': (2, 2), }\n", &codes);
        let (d, ..) = read(&path).expect("uint16, column by column");
        assert_eq!((d[0], d[1], d[2].is_nan(), d[3]), (1.5, 65.535, true, 0.002));
    }

    #[test]
    fn what_is_no_depth_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = |header: &str, data: &[u8], expected: &str| {
            let path = file(folder.path(), header, data);
            for message in [read(&path).map(|_| ()), read_size(&path).map(|_| ())].map(|r| r.expect_err(expected)) {
                let message = message.to_string();
                assert!(message.contains(expected) && message.contains("a.npy"), "{message}");
            }
        };
        refused("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2), }", &[0; 32], "found <i8");
        refused("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 2), }", &[0; 16], "found >f4");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 8], "found (2,)");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2), }", &[], "[height, width]");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", &[0; 15], "cut short");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 2), }", &[0; 15], "cut short");
        // More than 64 bits count.
        refused("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967295, 4294967295), }", &[0; 15], "cut short");
        refused("{'descr': '<f4', 'shape': (2, 2), }", &[0; 16], "fortran_order");
        let path = folder.path().join("b.npy");
        fs::write(&path, b"PK\x03\x04 not numpy").expect("written");
        assert!(read(&path).expect_err("a zip").to_string().contains("NUMPY"));
        fs::write(&path, b"").expect("written");
        assert!(read_size(&path).expect_err("empty").to_string().contains("header"));
    }

    #[test]
    fn a_file_that_cannot_be_filled_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.npy");
        let error = write_atomically(&path, |f| {
            f.write_all(b"half")?;
            Err(std::io::Error::other("no space"))
        });
        assert!(error.expect_err("it failed").to_string().contains("no space"));
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
    }
}

//! A picture as a camera of any encoding would send it.

use crate::frame::view::{Encoding, Layout};

/// The bytes of an rgb picture (`height x width x 3`) in another encoding, without padding; 16-bit values have their low
/// byte first. YUV is BT.601 in limited range, a colour that pixels share their mean.
pub fn encode(encoding: Encoding, (width, height): (usize, usize), rgb: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgb.as_chunks::<3>();
    let pixel = |x: usize, y: usize| pixels[y * width + x];
    let mut out = Vec::new();
    let mut put = |value: u8| {
        if encoding.is_sixteen_bit() {
            out.extend((u16::from(value) * 257).to_le_bytes());
        } else {
            out.push(value);
        }
    };
    match encoding.layout() {
        Layout::Interleaved if encoding.channels() == 1 => pixels.iter().for_each(|p| put(grey(*p))),
        Layout::Interleaved => {
            let offsets = encoding.rgb_offsets();
            for p in pixels {
                let mut channels = [255; 4];
                offsets.iter().zip(p).for_each(|(offset, value)| channels[*offset] = *value);
                channels[..encoding.channels()].iter().for_each(|value| put(*value));
            }
        }
        Layout::Bayer { red_column, red_row } => {
            for y in 0..height {
                for x in 0..width {
                    let [red, green, blue] = pixel(x, y);
                    put(match (x % 2 == red_column, y % 2 == red_row) {
                        (true, true) => red,
                        (false, false) => blue,
                        _ => green,
                    });
                }
            }
        }
        Layout::Packed422 { luma } => {
            for pair in pixels.chunks_exact(2) {
                let [first, second] = [pair[0], pair[1]].map(yuv);
                let mut four = [0; 4];
                (four[luma], four[luma + 2]) = (first[0], second[0]);
                (four[1 - luma], four[3 - luma]) = (mean(&[first[1], second[1]]), mean(&[first[2], second[2]]));
                four.iter().for_each(|value| put(*value));
            }
        }
        Layout::Nv12 => {
            pixels.iter().for_each(|p| put(yuv(*p)[0]));
            for y in (0..height).step_by(2) {
                for x in (0..width).step_by(2) {
                    let four = [(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)].map(|(x, y)| yuv(pixel(x, y)));
                    put(mean(&four.map(|v| v[1])));
                    put(mean(&four.map(|v| v[2])));
                }
            }
        }
    }
    out
}

/// The nearest byte.
fn byte(value: f32) -> u8 {
    (value + 0.5) as u8
}

fn mean(values: &[u8]) -> u8 {
    byte(values.iter().map(|v| f32::from(*v)).sum::<f32>() / values.len() as f32)
}

/// ITU-R BT.601.
fn grey(rgb: [u8; 3]) -> u8 {
    let [r, g, b] = rgb.map(f32::from);
    byte(0.299 * r + 0.587 * g + 0.114 * b)
}

/// ITU-R BT.601, limited range.
fn yuv(rgb: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = rgb.map(f32::from);
    [
        byte(16.0 + 0.257 * r + 0.504 * g + 0.098 * b),
        byte(128.0 - 0.148 * r - 0.291 * g + 0.439 * b),
        byte(128.0 + 0.439 * r - 0.368 * g - 0.071 * b),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::convert::Converter;
    use crate::frame::view::ImageView;

    #[test]
    fn a_picture_comes_back_from_every_encoding() {
        let (width, height) = (12, 8);
        // Smooth, so that neighbours tell what a mosaic and shared colours leave out.
        let rgb: Vec<u8> = (0..width * height)
            .flat_map(|i| [40 + 6 * (i % width) as u8, 90 + 8 * (i / width) as u8, 200 - 7 * (i % width) as u8])
            .collect();
        let mut converter = Converter::new();
        for encoding in Encoding::ALL {
            let data = encode(encoding, (width, height), &rgb);
            let step = data.len() / if encoding == Encoding::Nv12 { height * 3 / 2 } else { height };
            let image =
                ImageView::new(encoding.name(), width as u32, height as u32, step as u32, false, &data).expect("valid");
            let found = converter.eight_bit(&image);
            let (n, offsets) = (found.encoding().channels(), found.encoding().rgb_offsets());
            for y in 1..height - 1 {
                for x in 1..width - 1 {
                    let expected: [u8; 3] = rgb[(y * width + x) * 3..][..3].try_into().expect("three");
                    let expected = if n == 1 { [grey(expected); 3] } else { expected };
                    let found = offsets.map(|o| found.row(y)[x * n + o]);
                    let off = found.iter().zip(expected).map(|(a, b)| a.abs_diff(b)).max();
                    let exact = encoding.layout() == Layout::Interleaved;
                    assert!(off <= Some(if exact { 0 } else { 8 }), "{} {x},{y}: {found:?}", encoding.name());
                }
            }
        }
    }
}

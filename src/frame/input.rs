//! Bytes of any encoding -> the network's input: converted, resized as the geometry says and normalised, in one pass into one
//! reused buffer.

use super::convert::Kept;
use super::geometry::{Geometry, Rect};
use super::resample::{Cache, Resampler};
use super::view::ImageView;
use crate::cpu::team::Spare;
use crate::export::manifest::{ChannelOrder, InputKind, InputSpec};

/// Channels of the network's input.
pub const CHANNELS: usize = 3;
/// Rows of one task.
const TASK_ROWS: usize = 16;

/// Per input channel: `value = byte * scale + bias`.
pub(super) fn normalisation(spec: &InputSpec) -> ([f32; CHANNELS], [f32; CHANNELS]) {
    (std::array::from_fn(|c| 1.0 / (255.0 * spec.std[c])), std::array::from_fn(|c| -spec.mean[c] / spec.std[c]))
}

/// A pixel of the mean colour: what the input is where the picture is not.
pub(super) fn padding(spec: &InputSpec) -> [f32; CHANNELS] {
    match spec.kind {
        InputKind::Float => [0.0; CHANNELS],
        InputKind::U8 => spec.mean.map(|m| byte(m * 255.0)),
    }
}

/// Builds network inputs for one model; keeps what its threads work with, and the resampling weights of the geometries it
/// has seen lately.
#[derive(Debug)]
pub struct InputBuilder {
    width: usize,
    height: usize,
    order: ChannelOrder,
    kind: InputKind,
    /// Per input channel: `value = byte * scale + bias`.
    scale: [f32; CHANNELS],
    bias: [f32; CHANNELS],
    /// A pixel of the mean colour.
    padding: [f32; CHANNELS],
    /// By what is resized to what size.
    resamplers: Cache<(Rect, (usize, usize)), Resampler>,
    /// Rows of sources: as pixels, and summed.
    rows: Spare<(Kept, Vec<f32>)>,
}

impl InputBuilder {
    /// For a network whose input is described by `spec`.
    pub fn new(spec: &InputSpec) -> Self {
        let (scale, bias) = normalisation(spec);
        Self {
            width: spec.width,
            height: spec.height,
            order: spec.channel_order,
            kind: spec.kind,
            scale,
            bias,
            padding: padding(spec),
            resamplers: Cache::new(),
            rows: Spare::default(),
        }
    }

    /// Number of values of the input.
    #[allow(clippy::len_without_is_empty)] // a verified manifest never describes an empty one
    pub fn len(&self) -> usize {
        self.width * self.height * CHANNELS
    }

    /// Fills `out`, `[height, width, 3]` (channels last), with the resized and normalised image; for an input of bytes
    /// with whole numbers from 0 to 255. Where the geometry puts nothing it is the network's mean colour.
    ///
    /// # Panics
    /// If `out` is not [`InputBuilder::len`] long, or the geometry is not of this image and this network.
    pub fn build(&mut self, image: &ImageView<'_>, geometry: &Geometry, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "the input buffer has the network's size");
        assert_eq!(geometry.source(), (image.width(), image.height()), "the geometry is of the image");
        assert_eq!(geometry.network(), (self.width, self.height), "the geometry is of the network");
        let (from, to) = (geometry.source_rect(), geometry.network_rect());
        let size = (to.width, to.height);
        let resampler = self.resamplers.get(&(from, size), || Resampler::new(from, size));
        let (scale, bias, order, kind, padding) = (self.scale, self.bias, self.order, self.kind, self.padding);
        let row = self.width * CHANNELS;
        let tasks = out.chunks_mut(row * TASK_ROWS).enumerate();
        self.rows.share(tasks, Default::default, |(kept, scratch), (task, out)| {
            let mut source = kept.of(image);
            for (y, out) in out.chunks_exact_mut(row).enumerate() {
                let (pixels, _) = out.as_chunks_mut::<CHANNELS>();
                let Some(y) = (task * TASK_ROWS + y).checked_sub(to.y).filter(|y| *y < to.height) else {
                    pixels.fill(padding);
                    continue;
                };
                pixels[..to.x].fill(padding);
                pixels[to.x + to.width..].fill(padding);
                let pixels = &mut pixels[to.x..to.x + to.width];
                let ordered = |[r, g, b]: [f32; 3]| if order == ChannelOrder::Rgb { [r, g, b] } else { [b, g, r] };
                match kind {
                    InputKind::Float => resampler.row(&mut source, y, scratch, pixels, |out, values| {
                        let values = ordered(values);
                        for c in 0..CHANNELS {
                            out[c] = values[c] * scale[c] + bias[c];
                        }
                    }),
                    InputKind::U8 => {
                        resampler.row(&mut source, y, scratch, pixels, |out, values| *out = ordered(values).map(byte));
                    }
                }
            }
        });
    }
}

/// The nearest byte, halves up.
fn byte(value: f32) -> f32 {
    f32::from((value + 0.5) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::convert::Converter;
    use crate::frame::geometry::{Placement, ResizeMode};
    use crate::frame::noise::numbers;
    use crate::frame::view::tests::image_of;
    use crate::frame::view::Encoding;

    fn spec(width: usize, height: usize, channel_order: ChannelOrder) -> InputSpec {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        InputSpec { width, height, channel_order, kind: InputKind::Float, mean, std }
    }

    fn stretch(source: (usize, usize)) -> Geometry {
        Geometry::new(&Placement::default(), source, (16, 8)).expect("a stretch always fits")
    }

    /// Repeatable bytes.
    fn bytes(n: usize) -> Vec<u8> {
        numbers(12345).map(|n| (n >> 24) as u8).take(n).collect()
    }

    /// The definition, a pixel at a time, in f64.
    fn reference(image: &ImageView<'_>, spec: &InputSpec, geometry: &Geometry) -> Vec<f32> {
        let axis = |i: usize, from: std::ops::Range<usize>, destination: usize| -> Vec<(usize, f64)> {
            let scale = from.len() as f64 / destination as f64;
            if scale >= 2.0 {
                let (lo, hi) = (i as f64 * scale, (i as f64 + 1.0) * scale);
                from.clone()
                    .enumerate()
                    .map(|(j, at)| (at, (hi.min(j as f64 + 1.0) - lo.max(j as f64)).max(0.0) / scale))
                    .filter(|t| t.1 > 0.0)
                    .collect()
            } else {
                let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
                let j = (at as usize).min(from.len() - 1);
                let w = if j + 1 < from.len() { at - j as f64 } else { 0.0 };
                vec![(from.start + j, 1.0 - w), (from.start + (j + 1).min(from.len() - 1), w)]
            }
        };
        let n = image.encoding().channels();
        let mut offsets = image.encoding().rgb_offsets();
        if spec.channel_order == ChannelOrder::Bgr {
            offsets.reverse();
        }
        let (from, to) = (geometry.source_rect(), geometry.network_rect());
        let mut out = Vec::new();
        for y in 0..spec.height {
            for x in 0..spec.width {
                for (c, &offset) in offsets.iter().enumerate() {
                    if !(to.columns().contains(&x) && to.rows().contains(&y)) {
                        out.push(0.0);
                        continue;
                    }
                    let mut sum = 0.0;
                    for &(sy, wy) in &axis(y - to.y, from.rows(), to.height) {
                        for &(sx, wx) in &axis(x - to.x, from.columns(), to.width) {
                            sum += wy * wx * f64::from(image.row(sy)[sx * n + offset]);
                        }
                    }
                    out.push(((sum / 255.0 - f64::from(spec.mean[c])) / f64::from(spec.std[c])) as f32);
                }
            }
        }
        out
    }

    #[test]
    fn every_mode_matches_the_definition_and_pads_with_the_mean() {
        let spec = spec(16, 8, ChannelOrder::Rgb);
        let mut builder = InputBuilder::new(&spec);
        let mut out = vec![f32::NAN; builder.len()];
        for (w, h) in [(40, 40), (7, 9), (64, 16), (61, 37), (100, 20)] {
            let data = bytes(w * h * 3);
            let image = ImageView::rgb8(w as u32, h as u32, &data).expect("a valid layout");
            for mode in ResizeMode::ALL {
                for roi in [Rect { x: 2, y: 3, width: w - 2, height: h - 5 }, Rect { x: 1, y: 2, width: 5, height: 3 }]
                {
                    let placement = Placement { mode, roi: Some(roi), ..Placement::default() };
                    let geometry = Geometry::new(&placement, (w, h), (16, 8)).expect("it fits");
                    out.fill(f32::NAN);
                    builder.build(&image, &geometry, &mut out);
                    for (i, (a, b)) in out.iter().zip(reference(&image, &spec, &geometry)).enumerate() {
                        assert!((a - b).abs() < 2e-5, "{mode:?} of {w}x{h} at {i}: {a} for {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_size_and_encoding_matches_the_definition() {
        for encoding in Encoding::DIRECT {
            for order in [ChannelOrder::Rgb, ChannelOrder::Bgr] {
                // (source) 1x1, up, 1:1, between 1 and 2, exactly 2, more than 2, thin, mixed up and down
                for (w, h) in [(1, 1), (5, 3), (16, 8), (23, 11), (32, 16), (61, 37), (409, 3), (3, 99)] {
                    let spec = spec(16, 8, order);
                    let step = w * encoding.channels() + 3;
                    let data = bytes(step * h);
                    let image = ImageView::new(encoding.name(), w as u32, h as u32, step as u32, false, &data)
                        .expect("a valid layout");
                    let mut builder = InputBuilder::new(&spec);
                    let mut out = vec![f32::NAN; builder.len()];
                    builder.build(&image, &stretch((w, h)), &mut out);
                    for (i, (a, b)) in out.iter().zip(reference(&image, &spec, &stretch((w, h)))).enumerate() {
                        assert!((a - b).abs() < 2e-5, "{} {w}x{h} {order:?} at {i}: {a} for {b}", encoding.name());
                    }
                }
            }
        }
    }

    #[test]
    fn an_image_of_any_encoding_is_read_as_its_picture() {
        let spec = spec(16, 8, ChannelOrder::Bgr);
        let (mut builder, mut converter) = (InputBuilder::new(&spec), Converter::new());
        let (mut found, mut expected) = (vec![f32::NAN; builder.len()], vec![f32::NAN; builder.len()]);
        let mut compared = 0;
        for encoding in Encoding::ALL.into_iter().filter(|e| !e.is_direct()) {
            for (w, h) in [(3, 3), (7, 9), (16, 8), (24, 12), (64, 16), (62, 38), (61, 37), (100, 20)] {
                let data = bytes((w * 8 + 3) * (h + h / 2));
                for (mode, big_endian) in
                    [(ResizeMode::Stretch, false), (ResizeMode::Letterbox, true), (ResizeMode::Crop, false)]
                {
                    let Some(image) = image_of(encoding, (w, h), big_endian, &data) else { continue };
                    let placement = Placement { mode, ..Placement::default() };
                    let geometry = Geometry::new(&placement, (w, h), (16, 8)).expect("it fits");
                    builder.build(&image, &geometry, &mut found);
                    builder.build(&converter.eight_bit(&image), &geometry, &mut expected);
                    assert_eq!(found, expected, "{} {w}x{h} {mode:?}", encoding.name());
                    compared += 1;
                }
            }
        }
        assert!(compared > 200, "{compared}");
    }

    #[test]
    fn an_input_of_bytes_is_the_picture_rounded_and_padded_with_the_mean() {
        let floats = spec(16, 8, ChannelOrder::Bgr);
        let plain = InputSpec { mean: [0.0; 3], std: [1.0; 3], ..floats.clone() };
        let bytes_spec = InputSpec { kind: InputKind::U8, ..floats };
        let mut builder = InputBuilder::new(&bytes_spec);
        let mut out = vec![f32::NAN; builder.len()];
        let mut padded = 0;
        for (w, h) in [(40, 40), (16, 8), (7, 9), (61, 37)] {
            let data = bytes(w * h * 3);
            let image = ImageView::rgb8(w as u32, h as u32, &data).expect("a valid layout");
            for mode in [ResizeMode::Stretch, ResizeMode::Letterbox] {
                let placement = Placement { mode, ..Placement::default() };
                let geometry = Geometry::new(&placement, (w, h), (16, 8)).expect("it fits");
                builder.build(&image, &geometry, &mut out);
                let to = geometry.network_rect();
                let expected = reference(&image, &plain, &geometry);
                for (i, (a, e)) in out.iter().zip(expected).enumerate() {
                    assert_eq!(a.fract(), 0.0);
                    if to.columns().contains(&(i / 3 % 16)) && to.rows().contains(&(i / 48)) {
                        assert!((a - e * 255.0).abs() < 0.501, "{mode:?} of {w}x{h} at {i}: {a} for {}", e * 255.0);
                    } else {
                        assert_eq!(*a, [124.0, 116.0, 104.0][i % 3], "{mode:?} of {w}x{h} at {i}");
                        padded += 1;
                    }
                }
            }
        }
        assert!(padded > 100, "{padded}");
    }

    #[test]
    fn a_builder_follows_changing_sizes() {
        let spec = spec(16, 8, ChannelOrder::Rgb);
        let mut builder = InputBuilder::new(&spec);
        let mut out = vec![f32::NAN; builder.len()];
        for (w, h) in [(40, 40), (7, 9), (32, 16), (7, 9)] {
            let data = bytes(w * h * 3);
            let image = ImageView::rgb8(w as u32, h as u32, &data).expect("a valid layout");
            builder.build(&image, &stretch((w, h)), &mut out);
            for (a, b) in out.iter().zip(reference(&image, &spec, &stretch((w, h)))) {
                assert!((a - b).abs() < 2e-5, "{w}x{h}");
            }
            // Not one of its own for every frame.
            drop(builder.rows.take(|| unreachable!("one is kept")));
        }
    }
}

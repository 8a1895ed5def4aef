//! From a decoded frame to a training crop: scale, crop, flip and colour, the same geometry for picture, labels and depth.

use super::classes::UNLABELLED_TRAIN_ID;
use super::depth;
use super::frame::Decoded;
use rand::RngExt as _;
use rand_pcg::Pcg32;
use serde::{Deserialize, Serialize};

/// ImageNet's mean, RGB, of values in `0 ..= 1`.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's standard deviation.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Size of a crop and how large a frame appears in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CropSize {
    /// Width and height of the crop, pixels.
    pub size: (usize, usize),
    /// Pixels of the crop a pixel of the frame, drawn evenly (on a logarithmic scale) between the two.
    pub scale: (f32, f32),
    /// Labels and depth are taken at every `stride`-th pixel, where a head's output stands.
    pub stride: usize,
}

/// What may happen to a frame on its way to a crop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Metric consistency: focal length, in pixels of the network's input, that depth is learned at. In a crop with
    /// another one a thing looks as near as the ratio of the two makes it, and its depth is multiplied by that ratio.
    /// Frames of an unknown focal length keep their depth. 0: off, depth stays as it is at every scale.
    pub focal_length_px: f32,
    /// Probability of a mirror image.
    pub flip: f64,
    /// Greatest change of brightness, contrast and saturation, as a factor of 1 +- this.
    pub jitter: f32,
    /// Greatest turn of the hue, as a share of the colour circle.
    pub hue: f32,
}

impl Default for AugmentConfig {
    /// No colour changes; a mirror image half of the time.
    fn default() -> Self {
        Self { focal_length_px: 0.0, flip: 0.5, jitter: 0.0, hue: 0.0 }
    }
}

impl AugmentConfig {
    /// Nothing happens to the frame but its scale.
    pub fn still(&self) -> Self {
        Self { focal_length_px: self.focal_length_px, flip: 0.0, jitter: 0.0, hue: 0.0 }
    }

    /// Checks the values' ranges.
    ///
    /// # Errors
    /// Names the key, what was expected and what was found.
    pub fn check(&self) -> anyhow::Result<()> {
        let share = |name: &str, v: f64| {
            anyhow::ensure!((0.0..=1.0).contains(&v), "augment.{name}: expected 0 to 1, found {v}");
            Ok(())
        };
        share("flip", self.flip)?;
        share("jitter", self.jitter.into())?;
        share("hue", self.hue.into())?;
        let f = self.focal_length_px;
        anyhow::ensure!(f >= 0.0 && f.is_finite(), "augment.focal_length_px: expected 0 or more, found {f}");
        Ok(())
    }
}

/// Which part of the frame, how large, mirrored or not.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Placement {
    scale: f32,
    left: f32,
    top: f32,
    flip: bool,
}

/// One crop, ready for the network.
#[derive(Debug)]
pub struct Crop {
    /// Normalised, interleaved (H, W, 3).
    pub pixels: Vec<f32>,
    /// Label codes ([`super::source::Groups`]) at every `stride`-th pixel.
    pub labels: Vec<u8>,
    /// Depth code there; NaN where depth is not known.
    pub depth: Vec<f32>,
    /// Horizontal and vertical focal length in pixels of the labels and the depth, where it is known.
    pub focal_px: Option<(f32, f32)>,
    /// Where the frame's middle lies in pixels of the labels and the depth; there, or near it, goes the optical axis.
    pub principal_px: (f32, f32),
}

/// Makes one crop. Labels and depth are taken at the pixel in the middle of each `stride` x `stride` cell, which is
/// where a head's output at `1 / stride` of the input stands.
pub fn crop(frame: &Decoded, size: &CropSize, config: &AugmentConfig, rng: &mut Pcg32) -> Crop {
    let (w, h) = size.size;
    let (low, high) = size.scale;
    let scale = if high > low { libm::expf(rng.random_range(libm::logf(low)..libm::logf(high))) } else { low };
    let (span_x, span_y) = (w as f32 / scale, h as f32 / scale);
    let (room_x, room_y) = (frame.width as f32 - span_x, frame.height as f32 - span_y);
    let mut place = |room: f32| if room > 0.0 { rng.random_range(0.0..room) } else { room / 2.0 };
    let (left, top) = (place(room_x), place(room_y));
    let placement = Placement { scale, left, top, flip: rng.random_bool(config.flip) };
    let color = color_matrix(config, rng);
    cut(frame, size, config, placement, &color)
}

fn cut(frame: &Decoded, size: &CropSize, config: &AugmentConfig, p: Placement, color: &Color) -> Crop {
    let ((w, h), stride) = (size.size, size.stride);
    // Where output pixel centre x lies in the frame, as a continuous coordinate.
    let source_x = |x: f32| {
        let x = if p.flip { w as f32 - x } else { x };
        p.left + x / p.scale
    };
    let source_y = |y: f32| p.top + y / p.scale;
    let nearest = |v: f32, n: usize| (v.floor() >= 0.0 && v.floor() < n as f32).then_some(v as usize);

    // Shrinking takes the mean of 2 x 2 points a pixel (an area mean down to a half), each from the nearest pixel;
    // otherwise one point, interpolated.
    let shrinks = p.scale < 0.95;
    let taps: &[f32] = if shrinks { &[0.25, 0.75] } else { &[0.5] };
    let neighbours = |v: f32, n: usize| if shrinks { nearest_two(v, n) } else { linear(v, n) };
    let columns: Vec<[(usize, f32); 2]> = (0..w)
        .flat_map(|x| taps.iter().map(move |t| x as f32 + t))
        .map(|x| neighbours(source_x(x) - 0.5, frame.width))
        .collect();
    let mut pixels = Vec::with_capacity(w * h * 3);
    let each = 1.0 / (taps.len() * taps.len()) as f32;
    for y in 0..h {
        let rows: Vec<[(usize, f32); 2]> =
            taps.iter().map(|t| neighbours(source_y(y as f32 + t) - 0.5, frame.height)).collect();
        for x in 0..w {
            let mut sum = [0.0_f32; 3];
            for row in &rows {
                for &(sy, wy) in row {
                    if wy == 0.0 {
                        continue;
                    }
                    for column in &columns[x * taps.len()..(x + 1) * taps.len()] {
                        for &(sx, wx) in column.iter().filter(|c| c.1 > 0.0) {
                            let at = (sy * frame.width + sx) * 3;
                            let weight = wx * wy * each;
                            for (s, &v) in sum.iter_mut().zip(&frame.rgb[at..at + 3]) {
                                *s += weight * f32::from(v);
                            }
                        }
                    }
                }
            }
            pixels.extend(color.apply(sum));
        }
    }
    let (lw, lh) = (w.div_ceil(stride), h.div_ceil(stride));
    let mut labels = Vec::with_capacity(lw * lh);
    let mut depth_code = Vec::with_capacity(lw * lh);
    let focal_px = frame.focal_px.map(|(x, y)| (x as f32 * p.scale, y as f32 * p.scale));
    let apparent = match focal_px {
        Some((x, y)) if config.focal_length_px > 0.0 => config.focal_length_px / (x * y).sqrt(),
        _ => 1.0,
    };
    for y in 0..lh {
        let sy = nearest(source_y((y as f32 + 0.5) * stride as f32), frame.height);
        for x in 0..lw {
            let sx = nearest(source_x((x as f32 + 0.5) * stride as f32), frame.width);
            let at = sy.zip(sx).map(|(sy, sx)| sy * frame.width + sx);
            let label = frame.labels.as_ref().zip(at).map_or(UNLABELLED_TRAIN_ID, |(labels, i)| labels[i]);
            labels.push(label);
            let code = frame.depth_m.as_ref().zip(at).and_then(|(depth_m, i)| depth::encode(depth_m[i] * apparent));
            depth_code.push(code.unwrap_or(f32::NAN));
        }
    }
    let at_heads = |f: f32| f / stride as f32;
    let middle = ((frame.width as f32 / 2.0 - p.left) * p.scale, (frame.height as f32 / 2.0 - p.top) * p.scale);
    Crop {
        pixels,
        labels,
        depth: depth_code,
        focal_px: focal_px.map(|(x, y)| (at_heads(x), at_heads(y))),
        principal_px: (at_heads(if p.flip { w as f32 - middle.0 } else { middle.0 }), at_heads(middle.1)),
    }
}

/// The two neighbours of a coordinate (in pixel centres) and their weights, clamped to the edge.
fn linear(v: f32, n: usize) -> [(usize, f32); 2] {
    let v = v.clamp(0.0, (n - 1) as f32);
    let i = (v as usize).min(n - 1);
    let f = v - i as f32;
    [(i, 1.0 - f), ((i + 1).min(n - 1), f)]
}

/// The nearest pixel alone, in the form of [`linear`].
fn nearest_two(v: f32, n: usize) -> [(usize, f32); 2] {
    let i = ((v + 0.5).max(0.0) as usize).min(n - 1);
    [(i, 1.0), (i, 0.0)]
}

/// An affine map of RGB, in `0 ..= 255`, to the normalised network input.
#[derive(Debug, Clone, Copy)]
struct Color {
    matrix: [[f32; 3]; 3],
    offset: [f32; 3],
}

impl Color {
    fn apply(&self, c: [f32; 3]) -> [f32; 3] {
        std::array::from_fn(|k| {
            let m = self.matrix[k];
            let v = (m[0] * c[0] + m[1] * c[1] + m[2] * c[2] + self.offset[k]).clamp(0.0, 255.0);
            (v / 255.0 - IMAGENET_MEAN[k]) / IMAGENET_STD[k]
        })
    }
}

/// Weights of luminance (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

fn color_matrix(config: &AugmentConfig, rng: &mut Pcg32) -> Color {
    let mut factor = |amount: f32| if amount > 0.0 { 1.0 + rng.random_range(-amount..amount) } else { 1.0 };
    let (brightness, contrast, saturation) = (factor(config.jitter), factor(config.jitter), factor(config.jitter));
    let turn = if config.hue > 0.0 { rng.random_range(-config.hue..config.hue) * std::f32::consts::TAU } else { 0.0 };
    // A turn of the hue is a rotation about the grey axis (Rodrigues), then greys are mixed in for saturation.
    let (s, c) = (libm::sinf(turn), libm::cosf(turn));
    let (third, root) = ((1.0 - c) / 3.0, s / 3.0_f32.sqrt());
    let hue = [
        [c + third, third - root, third + root],
        [third + root, c + third, third - root],
        [third - root, third + root, c + third],
    ];
    let gain = brightness * contrast;
    let matrix = std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let grey: f32 = (0..3).map(|k| LUMA[k] * hue[k][j]).sum();
            gain * (saturation * hue[i][j] + (1.0 - saturation) * grey)
        })
    });
    // Contrast turns about mid grey.
    Color { matrix, offset: [127.5 * (1.0 - contrast); 3] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    /// Left half: red, class 3, 10 m; right half: blue, class 7, 40 m; the lower half's depth is unknown.
    fn halves(width: usize, height: usize) -> Decoded {
        let (mut rgb, mut labels, mut depth_m) = (vec![], vec![], vec![]);
        for y in 0..height {
            for x in 0..width {
                let left = x < width / 2;
                rgb.extend(if left { [200, 0, 0] } else { [0, 0, 200] });
                labels.push(if left { 3 } else { 7 });
                depth_m.push(if y >= height / 2 {
                    f32::NAN
                } else if left {
                    10.0
                } else {
                    40.0
                });
            }
        }
        Decoded { width, height, rgb, labels: Some(labels), depth_m: Some(depth_m), focal_px: None }
    }

    fn plain() -> AugmentConfig {
        AugmentConfig::default().still()
    }

    fn size(size: (usize, usize), scale: f32, stride: usize) -> CropSize {
        CropSize { size, scale: (scale, scale), stride }
    }

    fn redness(c: &Crop, width: usize, x: usize, y: usize) -> bool {
        let at = (y * width + x) * 3;
        c.pixels[at] > c.pixels[at + 2]
    }

    #[test]
    fn picture_labels_and_depth_stay_together() {
        let frame = halves(64, 32);
        let mut rng = Pcg32::seed_from_u64(4);
        for flip in [0.0, 1.0] {
            for scale in [0.5, 0.75, 1.0, 2.0] {
                let config = AugmentConfig { flip, ..plain() };
                for _ in 0..20 {
                    let c = crop(&frame, &size((32, 16), scale, 1), &config, &mut rng);
                    for (i, (&label, &code)) in c.labels.iter().zip(&c.depth).enumerate() {
                        let (x, y) = (i % 32, i / 32);
                        // One pixel beside the border between the halves is a mixture.
                        let calm = (1..31).contains(&x) && c.labels[i - 1] == label && c.labels[i + 1] == label;
                        if calm {
                            assert_eq!(redness(&c, 32, x, y), label == 3, "flip {flip} scale {scale} at {x},{y}");
                        }
                        if !code.is_nan() {
                            let expected = if label == 3 { 10.0 } else { 40.0 };
                            assert!((depth::decode(code) - expected).abs() < 0.01);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn metric_consistency_divides_depth_by_the_zoom() {
        let frame = Decoded { focal_px: Some((100.0, 100.0)), ..halves(64, 32) };
        let config = AugmentConfig { focal_length_px: 50.0, ..plain() };
        let c = crop(&frame, &size((16, 8), 1.0, 4), &config, &mut Pcg32::seed_from_u64(0));
        assert_eq!(c.focal_px, Some((25.0, 25.0)));
        let mut known = 0;
        for (&label, &code) in c.labels.iter().zip(&c.depth).filter(|(_, code)| !code.is_nan()) {
            let expected = if label == 3 { 5.0 } else { 20.0 };
            assert!((depth::decode(code) - expected).abs() < 1e-3, "twice as large looks half as far");
            known += 1;
        }
        assert!(known > 0, "choose another seed");
        assert_eq!(c.labels.len(), 4 * 2);
    }

    #[test]
    fn without_jitter_the_colours_are_imagenet_normalised() {
        let frame = halves(8, 8);
        let c = crop(&frame, &size((8, 8), 1.0, 1), &plain(), &mut Pcg32::seed_from_u64(0));
        let red = (200.0 / 255.0 - 0.485) / 0.229;
        assert!((c.pixels[0] - red).abs() < 1e-4, "{} is not {red}", c.pixels[0]);
    }

    #[test]
    fn outside_the_frame_is_unlabelled() {
        let frame = halves(8, 8);
        let c = crop(&frame, &size((32, 32), 1.0, 1), &plain(), &mut Pcg32::seed_from_u64(0));
        assert_eq!(c.labels[0], UNLABELLED_TRAIN_ID);
        assert!(c.depth[0].is_nan());
    }
}

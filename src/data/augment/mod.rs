//! From a decoded frame to a training crop: scale, crop, flip and colour, the same geometry for picture, labels and depth.

mod color;
mod config;
mod placement;
mod sample;

pub use config::{AugmentConfig, ElasticConfig, JitterConfig};

use super::classes::UNLABELLED_TRAIN_ID;
use super::depth;
use super::frame::Decoded;
use color::Color;
use placement::Placement;
use rand_pcg::Pcg32;
use sample::Sampler;

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

/// One crop, ready for the network.
#[derive(Debug)]
pub struct Crop {
    /// Normalised, interleaved (H, W, 3).
    pub pixels: Vec<f32>,
    /// Label codes ([`super::source::Groups`]) at every `stride`-th pixel.
    pub labels: Vec<u8>,
    /// Depth code there; NaN where depth is not known.
    pub depth: Vec<f32>,
    /// What the frame's depth was multiplied by before it became code: how far a thing appears to be to a camera of
    /// [`AugmentConfig::focal_length_px`].
    pub depth_factor: f32,
    /// Horizontal and vertical focal length in pixels of the labels and the depth, where it is known.
    pub focal_px: Option<(f32, f32)>,
    /// Where the optical axis goes through, in pixels of the labels and the depth.
    pub principal_px: (f32, f32),
}

/// Makes one crop. Labels and depth are taken at the pixel in the middle of each `stride` x `stride` cell, which is
/// where a head's output at `1 / stride` of the input stands.
pub fn crop(frame: &Decoded, size: &CropSize, config: &AugmentConfig, rng: &mut Pcg32) -> Crop {
    let placement = Placement::draw((frame.width, frame.height), size, config, rng);
    let truth = TruthPoints::new(frame, size, &placement);
    let color = Color::draw(&config.jitter, || truth.mean_color(frame), rng);
    let stride = size.stride as f32;
    let (scale_x, scale_y) = placement.scale;
    let focal_px = frame.focal_px.map(|(x, y)| (x as f32 * scale_x, y as f32 * scale_y));
    let depth_factor = match focal_px {
        Some((x, y)) if config.focal_length_px > 0.0 => config.focal_length_px / (x * y).sqrt(),
        _ => 1.0,
    };
    let (axis_x, axis_y) = frame.principal();
    let principal = placement.target(axis_x as f32, axis_y as f32);
    Crop {
        pixels: pixels(frame, size, &placement, &color),
        labels: truth.labels(frame),
        depth: truth.depth(frame, depth_factor),
        depth_factor,
        focal_px: focal_px.map(|(x, y)| (x / stride, y / stride)),
        principal_px: (principal.0 / stride, principal.1 / stride),
    }
}

/// Share of a crop that a frame of this width and height fills, in the mean over the scales; the rest has no truth.
pub fn filled(frame: (usize, usize), size: &CropSize, config: &AugmentConfig) -> f32 {
    Placement::filled(frame, size, config)
}

fn pixels(frame: &Decoded, size: &CropSize, placement: &Placement, color: &Color) -> Vec<f32> {
    let (width, height) = size.size;
    let mut sampler = Sampler::new(frame, placement, width);
    let map = color.normalised(sampler.points());
    let mut row = [vec![0.0; width], vec![0.0; width], vec![0.0; width]];
    let mut pixels = vec![0.0; 3 * width * height];
    for (y, out) in pixels.chunks_exact_mut(3 * width).enumerate() {
        sampler.row(y, &mut row);
        color::apply(&map, &row, out);
    }
    pixels
}

/// The frame's pixels under the points where the heads' outputs stand; `None` outside of the frame.
struct TruthPoints(Vec<Option<usize>>);

impl TruthPoints {
    fn new(frame: &Decoded, size: &CropSize, placement: &Placement) -> Self {
        let ((width, height), stride) = (size.size, size.stride);
        let middle = |i: usize| (i as f32 + 0.5) * stride as f32;
        let index = |v: f32, n: usize| (v >= 0.0 && v < n as f32).then_some(v as usize);
        let mut points = Vec::with_capacity(width.div_ceil(stride) * height.div_ceil(stride));
        for y in (0..height.div_ceil(stride)).map(middle) {
            points.extend((0..width.div_ceil(stride)).map(middle).map(|x| {
                let (x, y) = placement.source(x, y);
                index(x, frame.width).zip(index(y, frame.height)).map(|(x, y)| y * frame.width + x)
            }));
        }
        Self(points)
    }

    fn labels(&self, frame: &Decoded) -> Vec<u8> {
        let Some(labels) = &frame.labels else { return vec![UNLABELLED_TRAIN_ID; self.0.len()] };
        self.0.iter().map(|at| at.map_or(UNLABELLED_TRAIN_ID, |i| labels[i])).collect()
    }

    /// Codes of the depth times `factor`.
    fn depth(&self, frame: &Decoded, factor: f32) -> Vec<f32> {
        let Some(depth_m) = &frame.depth_m else { return vec![f32::NAN; self.0.len()] };
        let code = |at: &Option<usize>| at.and_then(|i| depth::encode(depth_m[i] * factor)).unwrap_or(f32::NAN);
        self.0.iter().map(code).collect()
    }

    /// Mean colour at the points: that of the crop, at a fraction of the work.
    fn mean_color(&self, frame: &Decoded) -> [f32; 3] {
        let mut sum = [0_u64; 3];
        let mut count = 0_u64;
        for &at in self.0.iter().flatten() {
            count += 1;
            (0..3).for_each(|k| sum[k] += u64::from(frame.rgb[3 * at + k]));
        }
        sum.map(|s| s as f32 / count.max(1) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    const FRAME: (usize, usize) = (60, 40);

    fn label_at(x: usize, y: usize) -> u8 {
        ((x / 5 + y / 4) % 19) as u8
    }

    fn depth_at(x: usize, y: usize) -> f32 {
        1.0 + (y * FRAME.0 + x) as f32 / 10.0
    }

    /// Everything tells where it is: red is 4 x, green 4 y, depth tells the pixel.
    fn ramps() -> Decoded {
        let positions = || (0..FRAME.1).flat_map(|y| (0..FRAME.0).map(move |x| (x, y)));
        Decoded {
            width: FRAME.0,
            height: FRAME.1,
            rgb: positions().flat_map(|(x, y)| [4 * x as u8, 4 * y as u8, 77]).collect(),
            labels: Some(positions().map(|(x, y)| label_at(x, y)).collect()),
            depth_m: Some(positions().map(|(x, y)| depth_at(x, y)).collect()),
            focal_px: Some((100.0, 100.0)),
            principal_px: None,
        }
    }

    fn plain() -> AugmentConfig {
        AugmentConfig::default().still()
    }

    fn size(size: (usize, usize), scale: f32, stride: usize) -> CropSize {
        CropSize { size, scale: (scale, scale), stride }
    }

    fn made(size: &CropSize, config: &AugmentConfig, seed: u64) -> Crop {
        crop(&ramps(), size, config, &mut Pcg32::seed_from_u64(seed))
    }

    /// Where in the frame a crop's pixel is, by its colour.
    fn by_color(c: &Crop, pixel: usize) -> (f32, f32) {
        let value = |k: usize| 255.0 * (c.pixels[3 * pixel + k] * IMAGENET_STD[k] + IMAGENET_MEAN[k]);
        (value(0) / 4.0 + 0.5, value(1) / 4.0 + 0.5)
    }

    /// And by its depth.
    fn by_depth(c: &Crop, pixel: usize) -> Option<(usize, usize)> {
        let code = Some(c.depth[pixel]).filter(|d| !d.is_nan())?;
        let index = ((depth::decode(code) - 1.0) * 10.0).round() as usize;
        Some((index % FRAME.0, index / FRAME.0))
    }

    /// Checks every pixel of a crop of stride 1. An interpolated colour tells its place exactly, the mean of four points'
    /// nearest pixels to about a pixel.
    fn assert_together(c: &Crop, size: &CropSize, what: &str) {
        let most = if size.scale.0 >= 1.5 { 0.51 } else { 1.6 };
        let mut inside = 0;
        for (pixel, &label) in c.labels.iter().enumerate() {
            let Some((x, y)) = by_depth(c, pixel) else {
                assert_eq!(label, UNLABELLED_TRAIN_ID, "{what}: depth and labels end together");
                continue;
            };
            assert_eq!(label, label_at(x, y), "{what}: label and depth are of the same pixel");
            let (cx, cy) = by_color(c, pixel);
            let off = (cx - x as f32 - 0.5).abs().max((cy - y as f32 - 0.5).abs());
            assert!(off <= most, "{what}: the colour of {cx},{cy} with the depth of {x},{y}");
            inside += 1;
        }
        assert!(inside > size.size.0 * size.size.1 / 3, "{what}: only {inside} pixels are inside");
    }

    #[test]
    fn picture_labels_and_depth_stay_together() {
        let elastic = ElasticConfig { amplitude_px: 30.0, smoothness_px: 4.0 };
        let all = AugmentConfig {
            flip: 0.5,
            vertical_flip: 0.5,
            rotation_deg: 30.0,
            stretch: 1.3,
            elastic,
            ..AugmentConfig::default()
        };
        let configs = [
            ("still", plain()),
            ("flip", AugmentConfig { flip: 1.0, ..plain() }),
            ("vertical flip", AugmentConfig { vertical_flip: 1.0, ..plain() }),
            ("rotation", AugmentConfig { rotation_deg: 40.0, ..plain() }),
            ("stretch", AugmentConfig { stretch: 2.0, ..plain() }),
            ("elastic", AugmentConfig { elastic, ..plain() }),
            ("all", all),
        ];
        for (name, config) in configs {
            for scale in [0.5, 0.75, 1.0, 2.0] {
                let size = size((32, 16), scale, 1);
                for seed in 0..20 {
                    assert_together(&made(&size, &config, seed), &size, &format!("{name} at {scale}, {seed}"));
                }
            }
        }
    }

    #[test]
    fn each_transform_does_what_its_name_says() {
        let size = size((40, 32), 2.0, 1);
        // Pixels of the frame, to the right and down, for one to the right in the crop's middle, and for one down.
        let steps = |config: &AugmentConfig, seed| {
            let c = made(&size, config, seed);
            let [(x0, y0), (x1, y1), (x2, y2)] =
                [(20, 14), (28, 14), (20, 22)].map(|(x, y): (usize, usize)| by_color(&c, y * 40 + x));
            [(x1 - x0) / 4.0, (y1 - y0) / 4.0, (x2 - x0) / 4.0, (y2 - y0) / 4.0]
        };
        let assert_near = |found: [f32; 4], expected: [f32; 4]| {
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 0.02), "{found:?} is not {expected:?}");
        };
        assert_near(steps(&plain(), 1), [1.0, 0.0, 0.0, 1.0]);
        assert_near(steps(&AugmentConfig { flip: 1.0, ..plain() }, 1), [-1.0, 0.0, 0.0, 1.0]);
        assert_near(steps(&AugmentConfig { vertical_flip: 1.0, ..plain() }, 1), [1.0, 0.0, 0.0, -1.0]);
        let mut angles = Vec::new();
        let mut ratios = Vec::new();
        for seed in 0..20 {
            let [a, b, c, d] = steps(&AugmentConfig { rotation_deg: 25.0, ..plain() }, seed);
            assert_near([a * a + b * b, a * c + b * d, c + b, d - a], [1.0, 0.0, 0.0, 0.0]);
            angles.push(b.atan2(a).to_degrees());
            let [a, b, c, d] = steps(&AugmentConfig { stretch: 1.5, ..plain() }, seed);
            assert_near([a * d, b, c, 0.0], [1.0, 0.0, 0.0, 0.0]);
            ratios.push(d / a);
            let wide = AugmentConfig { aspect: 1.44, ..plain() };
            assert_near(steps(&wide, seed), [1.0 / 1.2, 0.0, 0.0, 1.2]);
        }
        let beyond = |v: &[f32], low, high| v.iter().any(|&v| v < low) && v.iter().any(|&v| v > high);
        assert!(angles.iter().all(|a| a.abs() < 25.5) && beyond(&angles, -12.0, 12.0), "{angles:?}");
        assert!(ratios.iter().all(|r| (0.65..1.52).contains(r)) && beyond(&ratios, 0.85, 1.2), "{ratios:?}");
        let elastic = ElasticConfig { amplitude_px: 30.0, smoothness_px: 4.0 };
        let (bent, straight) = (made(&size, &AugmentConfig { elastic, ..plain() }, 1), made(&size, &plain(), 1));
        let moved = |p: usize| (by_color(&bent, p).0 - by_color(&straight, p).0).abs();
        assert!((0..1280).any(|p| moved(p) > 0.3) && (0..1280).all(|p| moved(p) < 4.0));
    }

    #[test]
    fn a_seed_is_a_crop() {
        let config = AugmentConfig {
            vertical_flip: 0.5,
            rotation_deg: 30.0,
            stretch: 1.3,
            elastic: ElasticConfig { amplitude_px: 30.0, smoothness_px: 4.0 },
            jitter: JitterConfig { brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 0.1 },
            ..AugmentConfig::default()
        };
        let size = CropSize { size: (24, 16), scale: (0.6, 1.5), stride: 2 };
        let (a, b, other) = (made(&size, &config, 7), made(&size, &config, 7), made(&size, &config, 8));
        let bits = |c: &Crop| c.depth.iter().map(|d| d.to_bits()).collect::<Vec<_>>();
        assert_eq!((&a.pixels, &a.labels, bits(&a)), (&b.pixels, &b.labels, bits(&b)));
        assert_ne!(a.pixels, other.pixels);
    }

    #[test]
    fn the_camera_follows_the_transforms() {
        let config = AugmentConfig {
            flip: 0.5,
            vertical_flip: 0.5,
            rotation_deg: 30.0,
            stretch: 1.4,
            ..AugmentConfig::default()
        };
        let size = CropSize { size: (40, 24), scale: (0.8, 1.6), stride: 2 };
        let mut seen = 0;
        for seed in 0..20 {
            let c = made(&size, &config, seed);
            let (focal, principal) = (c.focal_px.expect("known"), c.principal_px);
            // There stands the depth of the frame's middle, pixel (30, 20), where the crop shows it.
            let (x, y) = (principal.0 as usize, principal.1 as usize);
            if principal.0 >= 0.0 && x < 20 && principal.1 >= 0.0 && y < 12 {
                let (fx, fy) = by_depth(&c, y * 20 + x).expect("inside");
                assert!(fx.abs_diff(30) <= 3 && fy.abs_diff(20) <= 3, "{fx},{fy} at the principal point");
                seen += 1;
            }
            let area = focal.0 * focal.1 * 4.0 / 100.0_f32.powi(2);
            assert!((0.63..2.57).contains(&area), "{area}: the square of a scale between 0.8 and 1.6");
        }
        assert!(seen > 5, "the crops show the middle {seen} times");
    }

    #[test]
    fn metric_consistency_divides_depth_by_the_zoom() {
        let config = AugmentConfig { focal_length_px: 50.0, ..plain() };
        let (size, seed) = (size((16, 8), 1.0, 4), 3);
        let (c, before) = (made(&size, &config, seed), made(&size, &plain(), seed));
        assert_eq!(c.focal_px, Some((25.0, 25.0)));
        assert_eq!(c.labels.len(), 4 * 2);
        for (after, before) in c.depth.iter().zip(&before.depth) {
            let ratio = depth::decode(*after) / depth::decode(*before);
            assert!((ratio - 0.5).abs() < 1e-4, "twice as large looks half as far, not {ratio} times");
        }
    }

    #[test]
    fn without_jitter_the_colours_are_imagenet_normalised() {
        let frame = Decoded { rgb: [200, 100, 50].repeat(64), ..small() };
        for scale in [0.5, 1.0] {
            let c = crop(&frame, &size((4, 4), scale, 1), &plain(), &mut Pcg32::seed_from_u64(0));
            for (k, value) in [200.0, 100.0, 50.0].into_iter().enumerate() {
                let expected = (value / 255.0 - IMAGENET_MEAN[k]) / IMAGENET_STD[k];
                assert!((c.pixels[k] - expected).abs() < 1e-4, "{} is not {expected}", c.pixels[k]);
            }
        }
    }

    /// Of rows and columns of the frame of which each fourth alone is bright.
    #[test]
    fn a_much_shrunk_crop_reads_every_pixel_of_the_frame() {
        let bright = |i: usize| if i.is_multiple_of(4) { 240 } else { 0 };
        let frame = |of: &dyn Fn(usize, usize) -> u8| Decoded {
            width: 64,
            height: 64,
            rgb: (0..64 * 64).flat_map(|i| [of(i % 64, i / 64); 3]).collect(),
            labels: None,
            depth_m: None,
            focal_px: None,
            principal_px: None,
        };
        let frames = [frame(&|x, _| bright(x)), frame(&|_, y| bright(y))];
        let bent = AugmentConfig { elastic: ElasticConfig { amplitude_px: 1e-3, smoothness_px: 4.0 }, ..plain() };
        for config in [plain(), AugmentConfig { flip: 1.0, ..plain() }, bent] {
            for frame in &frames {
                let c = crop(frame, &size((16, 16), 0.25, 1), &config, &mut Pcg32::seed_from_u64(0));
                for (i, value) in c.pixels.iter().enumerate() {
                    let value = 255.0 * (value * IMAGENET_STD[i % 3] + IMAGENET_MEAN[i % 3]);
                    assert!((value - 60.0).abs() < 1e-2, "{value} is not the mean of 240 and three times 0");
                }
            }
        }
    }

    fn small() -> Decoded {
        Decoded {
            width: 8,
            height: 8,
            rgb: vec![9; 192],
            labels: Some(vec![3; 64]),
            depth_m: Some(vec![5.0; 64]),
            focal_px: None,
            principal_px: None,
        }
    }

    #[test]
    fn outside_the_frame_is_unlabelled() {
        let c = crop(&small(), &size((32, 32), 1.0, 1), &plain(), &mut Pcg32::seed_from_u64(0));
        assert_eq!((c.labels[0], c.labels[16 * 32 + 16]), (UNLABELLED_TRAIN_ID, 3));
        assert!(c.depth[0].is_nan() && !c.depth[16 * 32 + 16].is_nan());
        let turned = AugmentConfig { rotation_deg: 45.0, ..plain() };
        let c = crop(&small(), &size((8, 8), 1.0, 1), &turned, &mut Pcg32::seed_from_u64(2));
        assert_eq!(c.labels[0], UNLABELLED_TRAIN_ID, "the corners of a turned crop");
        let bare = Decoded { labels: None, depth_m: None, ..small() };
        let c = crop(&bare, &size((8, 8), 1.0, 1), &plain(), &mut Pcg32::seed_from_u64(0));
        assert!(c.labels.iter().all(|&l| l == UNLABELLED_TRAIN_ID) && c.depth.iter().all(|d| d.is_nan()));
    }
}

//! Changes of colour and ImageNet's normalisation, as one affine map of RGB.

use super::config::JitterConfig;
use super::{IMAGENET_MEAN, IMAGENET_STD};
use multiversion::multiversion;
use rand::RngExt as _;
use rand_pcg::Pcg32;

/// Weights of luminance (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

type Matrix = [[f32; 3]; 3];

/// An affine map of RGB in `0 ..= 255`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Color {
    matrix: Matrix,
    offset: [f32; 3],
}

/// One change of colour.
#[derive(Debug, Clone, Copy)]
enum Change {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    /// Radians.
    Hue(f32),
}

fn grey(c: [f32; 3]) -> f32 {
    (0..3).map(|k| LUMA[k] * c[k]).sum()
}

impl Color {
    const IDENTITY: Self = Self { matrix: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], offset: [0.0; 3] };

    /// Draws the changes and their order. `mean` gives the crop's mean colour, which contrast turns about.
    pub fn draw(config: &JitterConfig, mean: impl FnOnce() -> [f32; 3], rng: &mut Pcg32) -> Self {
        let mut changes = Vec::with_capacity(4);
        let kinds = [
            (config.brightness, Change::Brightness as fn(f32) -> Change),
            (config.contrast, Change::Contrast),
            (config.saturation, Change::Saturation),
        ];
        for (most, change) in kinds.into_iter().filter(|(most, _)| *most > 0.0) {
            changes.push(change(rng.random_range((1.0 - most).max(0.0)..1.0 + most)));
        }
        if config.hue > 0.0 {
            changes.push(Change::Hue(rng.random_range(-config.hue..config.hue) * std::f32::consts::TAU));
        }
        // Fisher-Yates.
        for i in (1..changes.len()).rev() {
            changes.swap(i, rng.random_range(0..=i));
        }
        let mean = if config.contrast > 0.0 { mean() } else { [0.0; 3] };
        changes.into_iter().fold(Self::IDENTITY, |color, change| color.then(change, mean))
    }

    fn then(self, change: Change, mean: [f32; 3]) -> Self {
        let scaled =
            |f: f32| Self { matrix: self.matrix.map(|row| row.map(|v| f * v)), offset: self.offset.map(|v| f * v) };
        match change {
            Change::Brightness(f) => scaled(f),
            Change::Contrast(f) => {
                let pivot = (1.0 - f) * grey(self.of(mean));
                let scaled = scaled(f);
                Self { offset: scaled.offset.map(|v| v + pivot), ..scaled }
            }
            Change::Saturation(f) => {
                let matrix = std::array::from_fn(|i| {
                    std::array::from_fn(|j| (1.0 - f) * LUMA[j] + if i == j { f } else { 0.0 })
                });
                self.through(&matrix)
            }
            Change::Hue(turn) => {
                // A rotation about the grey axis (Rodrigues).
                let (s, c) = (libm::sinf(turn), libm::cosf(turn));
                let (third, root) = ((1.0 - c) / 3.0, s / 3.0_f32.sqrt());
                self.through(&[
                    [c + third, third - root, third + root],
                    [third + root, c + third, third - root],
                    [third - root, third + root, c + third],
                ])
            }
        }
    }

    fn through(self, m: &Matrix) -> Self {
        let row = |i: usize, of: &dyn Fn(usize) -> f32| (0..3).map(|k| m[i][k] * of(k)).sum();
        Self {
            matrix: std::array::from_fn(|i| std::array::from_fn(|j| row(i, &|k| self.matrix[k][j]))),
            offset: std::array::from_fn(|i| row(i, &|k| self.offset[k])),
        }
    }

    fn of(&self, c: [f32; 3]) -> [f32; 3] {
        std::array::from_fn(|k| (0..3).map(|j| self.matrix[k][j] * c[j]).sum::<f32>() + self.offset[k])
    }

    /// The map of sums of `count` colours to the network's input.
    pub fn normalised(&self, count: f32) -> Normalised {
        let unit: [f32; 3] = IMAGENET_STD.map(|s| 1.0 / (255.0 * s));
        Normalised {
            matrix: std::array::from_fn(|k| self.matrix[k].map(|v| v * unit[k] / count)),
            offset: std::array::from_fn(|k| self.offset[k] * unit[k] - IMAGENET_MEAN[k] / IMAGENET_STD[k]),
            low: std::array::from_fn(|k| -IMAGENET_MEAN[k] / IMAGENET_STD[k]),
            high: std::array::from_fn(|k| (1.0 - IMAGENET_MEAN[k]) / IMAGENET_STD[k]),
        }
    }
}

/// Color change and normalisation in one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Normalised {
    matrix: Matrix,
    offset: [f32; 3],
    low: [f32; 3],
    high: [f32; 3],
}

/// Applies the map to a row of separate colours; `out` is interleaved.
#[multiversion(targets("x86_64+avx2+fma"))]
pub(super) fn apply(map: &Normalised, colors: &[Vec<f32>; 3], out: &mut [f32]) {
    let Normalised { matrix: m, offset: o, low, high } = *map;
    let [red, green, blue] = colors;
    for (((out, &r), &g), &b) in out.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        for k in 0..3 {
            out[k] = (m[k][0] * r + m[k][1] * g + m[k][2] * b + o[k]).max(low[k]).min(high[k]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn assert_near(found: [f32; 3], expected: [f32; 3]) {
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 0.01), "{found:?} is not {expected:?}");
    }

    #[test]
    fn changes_by_hand() {
        let mean = [100.0, 50.0, 0.0]; // grey 59.25
        let of = |changes: &[Change]| changes.iter().fold(Color::IDENTITY, |c, &change| c.then(change, mean));
        let pixel = [200.0, 100.0, 20.0]; // grey 120.78
        assert_near(of(&[]).of(pixel), pixel);
        assert_near(of(&[Change::Brightness(1.1)]).of(pixel), [220.0, 110.0, 22.0]);
        assert_near(of(&[Change::Contrast(0.5)]).of(pixel), [129.625, 79.625, 39.625]);
        assert_near(of(&[Change::Saturation(0.0)]).of(pixel), [120.78; 3]);
        assert_near(of(&[Change::Saturation(2.0)]).of(pixel), [279.22, 79.22, -80.78]);
        // A third of the circle: red to green, green to blue, blue to red.
        assert_near(of(&[Change::Hue(std::f32::consts::TAU / 3.0)]).of(pixel), [20.0, 200.0, 100.0]);
        // Contrast turns about the mean as it is by then, so that the order matters.
        assert_near(of(&[Change::Brightness(2.0), Change::Contrast(0.5)]).of(pixel), [259.25, 159.25, 79.25]);
        assert_near(of(&[Change::Contrast(0.5), Change::Brightness(2.0)]).of(pixel), [259.25, 159.25, 79.25]);
        let grey_first = of(&[Change::Saturation(0.0), Change::Hue(2.0)]).of(pixel);
        assert_near(grey_first, [120.78; 3]);
    }

    #[test]
    fn the_crop_mean_keeps_its_grey_under_contrast_and_saturation() {
        let mean = [90.0, 120.0, 60.0];
        let config = JitterConfig { contrast: 0.8, saturation: 0.8, ..JitterConfig::default() };
        let mut rng = Pcg32::seed_from_u64(5);
        let mut drawn = Vec::new();
        for _ in 0..50 {
            let color = Color::draw(&config, || mean, &mut rng);
            assert!((grey(color.of(mean)) - grey(mean)).abs() < 1e-3);
            drawn.push(color.of([255.0, 0.0, 0.0])[0]);
        }
        assert!(drawn.iter().any(|&v| v > 300.0) && drawn.iter().any(|&v| v < 150.0), "{drawn:?}");
    }

    #[test]
    fn without_jitter_nothing_changes_and_nothing_is_drawn() {
        let (mut a, mut b) = (Pcg32::seed_from_u64(5), Pcg32::seed_from_u64(5));
        let color = Color::draw(&JitterConfig::default(), || unreachable!("the mean is not needed"), &mut a);
        assert_eq!(color, Color::IDENTITY);
        assert_eq!(a.random::<u64>(), b.random::<u64>());
    }

    #[test]
    fn values_are_clipped_and_normalised() {
        let bright = Color::IDENTITY.then(Change::Brightness(2.0), [0.0; 3]).normalised(4.0);
        let mut out = [0.0; 6];
        apply(&bright, &[vec![4.0 * 200.0, 0.0], vec![4.0 * 10.0, 0.0], vec![-5.0, 0.0]], &mut out);
        let expected = [(1.0 - 0.485) / 0.229, (20.0 / 255.0 - 0.456) / 0.224, -0.406 / 0.225];
        assert!(out.iter().zip(expected).all(|(o, e)| (o - e).abs() < 1e-5), "{out:?} is not {expected:?}");
    }
}

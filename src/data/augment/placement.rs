//! Where in the frame a point of the crop lies.

use super::config::{AugmentConfig, ElasticConfig};
use super::CropSize;
use rand::RngExt as _;
use rand_pcg::Pcg32;

/// So many scales stand for all that may be drawn.
const FILL_STEPS: u16 = 64;

/// The map from the crop to the frame. Coordinates are continuous: a pixel's middle is at its index and a half.
#[derive(Debug)]
pub(super) struct Placement {
    /// Of the crop, pixels.
    size: (f32, f32),
    /// Pixels of the crop a pixel of the frame, along the crop's axes.
    pub scale: (f32, f32),
    /// Of the crop before it is turned, in the frame.
    left: f32,
    top: f32,
    flip: bool,
    vertical_flip: bool,
    /// Cosine and sine of the angle.
    turn: Option<(f32, f32)>,
    elastic: Option<Elastic>,
}

impl Placement {
    /// Draws where the crop lies. A transform that is off draws nothing.
    pub fn draw(frame: (usize, usize), size: &CropSize, config: &AugmentConfig, rng: &mut Pcg32) -> Self {
        let (w, h) = (size.size.0 as f32, size.size.1 as f32);
        let log_even = |low: f32, high: f32, rng: &mut Pcg32| {
            if high > low {
                libm::expf(rng.random_range(libm::logf(low)..libm::logf(high)))
            } else {
                low
            }
        };
        let scale = log_even(size.scale.0, size.scale.1, rng);
        let ratio = libm::sqrtf(config.aspect * log_even(1.0 / config.stretch, config.stretch, rng));
        let scale = (scale * ratio, scale / ratio);
        let (room_x, room_y) = (frame.0 as f32 - w / scale.0, frame.1 as f32 - h / scale.1);
        let mut place = |room: f32| if room > 0.0 { rng.random_range(0.0..room) } else { room / 2.0 };
        let (left, top) = (place(room_x), place(room_y));
        let mut happens = |probability: f64| probability > 0.0 && rng.random_bool(probability);
        let (flip, vertical_flip) = (happens(config.flip), happens(config.vertical_flip));
        let most = config.rotation_deg.to_radians();
        let turn = (most > 0.0).then(|| rng.random_range(-most..most)).map(|a| (libm::cosf(a), libm::sinf(a)));
        let elastic = (config.elastic.amplitude_px > 0.0).then(|| Elastic::draw(size.size, &config.elastic, rng));
        Self { size: (w, h), scale, left, top, flip, vertical_flip, turn, elastic }
    }

    /// Share of the crop that lies in the frame, in the mean over the scales that are drawn; turned and deformed it is about as much.
    pub fn filled(frame: (usize, usize), size: &CropSize, config: &AugmentConfig) -> f32 {
        let (low, high) = (libm::logf(size.scale.0), libm::logf(size.scale.1));
        let root = libm::sqrtf(config.aspect);
        // The crop lies within the frame where that has room for it, and the frame in the crop's middle where not.
        let along = |frame: usize, crop: usize, scale: f32| (frame as f32 * scale / crop as f32).min(1.0);
        let at = |i: u16| {
            let scale = libm::expf(low + (high - low) * (f32::from(i) + 0.5) / f32::from(FILL_STEPS));
            along(frame.0, size.size.0, scale * root) * along(frame.1, size.size.1, scale / root)
        };
        (0..FILL_STEPS).map(at).sum::<f32>() / f32::from(FILL_STEPS)
    }

    /// Whether rows of the crop lie along rows of the frame, so that [`Self::column`] and [`Self::row`] say it all.
    pub fn is_straight(&self) -> bool {
        self.turn.is_none() && self.elastic.is_none()
    }

    /// Where a column of a straight crop lies.
    pub fn column(&self, x: f32) -> f32 {
        self.left + (if self.flip { self.size.0 - x } else { x }) / self.scale.0
    }

    /// Where a row of a straight crop lies.
    pub fn row(&self, y: f32) -> f32 {
        self.top + (if self.vertical_flip { self.size.1 - y } else { y }) / self.scale.1
    }

    /// Where a point of the crop lies.
    pub fn source(&self, x: f32, y: f32) -> (f32, f32) {
        let (dx, dy) = self.elastic.as_ref().map_or((0.0, 0.0), |e| e.at(x, y));
        let (x, y) = (self.column(x + dx), self.row(y + dy));
        let Some((cos, sin)) = self.turn else { return (x, y) };
        let (middle_x, middle_y) = self.middle();
        let (x, y) = (x - middle_x, y - middle_y);
        (middle_x + cos * x - sin * y, middle_y + sin * x + cos * y)
    }

    /// The crop's middle in the frame.
    fn middle(&self) -> (f32, f32) {
        (self.left + self.size.0 / self.scale.0 / 2.0, self.top + self.size.1 / self.scale.1 / 2.0)
    }

    /// Where a point of the frame lies in the crop, elastic deformation aside.
    pub fn target(&self, x: f32, y: f32) -> (f32, f32) {
        let (middle_x, middle_y) = self.middle();
        let (cos, sin) = self.turn.unwrap_or((1.0, 0.0));
        let (x, y) = (x - middle_x, y - middle_y);
        let (x, y) = ((cos * x + sin * y) * self.scale.0, (cos * y - sin * x) * self.scale.1);
        let (x, y) = (if self.flip { -x } else { x }, if self.vertical_flip { -y } else { y });
        (self.size.0 / 2.0 + x, self.size.1 / 2.0 + y)
    }
}

/// A field of smooth random displacements, in pixels of the crop.
#[derive(Debug)]
struct Elastic {
    width: usize,
    height: usize,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Elastic {
    fn draw((width, height): (usize, usize), config: &ElasticConfig, rng: &mut Pcg32) -> Self {
        let kernel = gaussian(config.smoothness_px);
        // Smoothing needs noise beyond the edges.
        let noisy = (width + kernel.len() - 1, height + kernel.len() - 1);
        let mut field = || {
            let noise: Vec<f32> = (0..noisy.0 * noisy.1).map(|_| rng.random_range(-1.0..1.0)).collect();
            let mut smooth = blur(&noise, noisy, &kernel);
            smooth.iter_mut().for_each(|v| *v *= config.amplitude_px);
            smooth
        };
        Self { width, height, x: field(), y: field() }
    }

    /// Between pixels' middles interpolated.
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        let ((x0, x1, fx), (y0, y1, fy)) = (between(x - 0.5, self.width), between(y - 0.5, self.height));
        let of = |field: &[f32]| {
            let row = |y: usize| field[y * self.width + x0] * (1.0 - fx) + field[y * self.width + x1] * fx;
            row(y0) * (1.0 - fy) + row(y1) * fy
        };
        (of(&self.x), of(&self.y))
    }
}

/// The two neighbours of a coordinate in pixels' middles, clamped to the edge, and the second one's weight.
pub(super) fn between(v: f32, n: usize) -> (usize, usize, f32) {
    let v = v.clamp(0.0, (n - 1) as f32);
    let i = v as usize;
    (i, (i + 1).min(n - 1), v - i as f32)
}

/// A Gaussian over three standard deviations to each side; its sum is 1.
fn gaussian(deviation: f32) -> Vec<f32> {
    let reach = (3.0 * deviation).ceil() as i32;
    let weights: Vec<f32> = (-reach..=reach).map(|i| libm::expf(-0.5 * (i as f32 / deviation).powi(2))).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// Smooths rows, then columns; the result is smaller than the field by the kernel, but for one.
fn blur(field: &[f32], (width, height): (usize, usize), kernel: &[f32]) -> Vec<f32> {
    let (out_width, out_height) = (width + 1 - kernel.len(), height + 1 - kernel.len());
    let mut across = vec![0.0; out_width * height];
    for (row, out) in field.chunks_exact(width).zip(across.chunks_exact_mut(out_width)) {
        for (i, weight) in kernel.iter().enumerate() {
            add(out, &row[i..i + out_width], *weight);
        }
    }
    let mut along = vec![0.0; out_width * out_height];
    for (y, out) in along.chunks_exact_mut(out_width).enumerate() {
        for (i, weight) in kernel.iter().enumerate() {
            add(out, &across[(y + i) * out_width..(y + i + 1) * out_width], *weight);
        }
    }
    along
}

fn add(out: &mut [f32], values: &[f32], weight: f32) {
    out.iter_mut().zip(values).for_each(|(o, v)| *o += weight * v);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn target_undoes_source() {
        let config = AugmentConfig { vertical_flip: 0.5, rotation_deg: 40.0, stretch: 1.5, ..AugmentConfig::default() };
        let size = CropSize { size: (60, 30), scale: (0.5, 2.0), stride: 1 };
        let mut rng = Pcg32::seed_from_u64(9);
        for _ in 0..50 {
            let p = Placement::draw((100, 70), &size, &config, &mut rng);
            for (x, y) in [(0.0, 0.0), (13.5, 28.0), (60.0, 2.5)] {
                let (sx, sy) = p.source(x, y);
                let (tx, ty) = p.target(sx, sy);
                assert!((tx - x).abs() < 1e-3 && (ty - y).abs() < 1e-3, "{x},{y} came back as {tx},{ty}");
            }
        }
    }

    #[test]
    fn a_crop_is_filled_as_much_as_is_told() {
        let still = AugmentConfig { aspect: 1.3, ..AugmentConfig::default() };
        let of = |frame, scale, stretch: f32| {
            let config = AugmentConfig { stretch, ..still.clone() };
            let size = CropSize { size: (60, 30), scale, stride: 1 };
            let mut rng = Pcg32::seed_from_u64(5);
            let draws = 400;
            let mut inside = 0;
            for _ in 0..draws {
                let p = Placement::draw(frame, &size, &config, &mut rng);
                let is_in = |(x, y): (f32, f32)| x >= 0.0 && y >= 0.0 && x < frame.0 as f32 && y < frame.1 as f32;
                let points = (0..60 * 30).map(|i| p.source((i % 60) as f32 + 0.5, (i / 60) as f32 + 0.5));
                inside += points.filter(|point| is_in(*point)).count();
            }
            (Placement::filled(frame, &size, &config), inside as f32 / (draws * 60 * 30) as f32)
        };
        for (frame, scale, stretch) in
            [((100, 70), (0.25, 0.5), 1.0), ((40, 90), (0.5, 2.0), 1.2), ((64, 48), (0.3, 0.3), 1.0)]
        {
            let (told, drawn) = of(frame, scale, stretch);
            assert!((told - drawn).abs() < 0.03 && told < 0.95, "{frame:?}: {told}, drawn {drawn}");
        }
        assert_eq!(of((100, 70), (1.0, 2.0), 1.0), (1.0, 1.0));
    }

    #[test]
    fn displacements_are_smooth_and_as_large_as_promised() {
        let config = ElasticConfig { amplitude_px: 40.0, smoothness_px: 6.0 };
        let field = Elastic::draw((300, 200), &config, &mut Pcg32::seed_from_u64(2));
        let rms = |v: &[f32]| (v.iter().map(|v| v * v).sum::<f32>() / v.len() as f32).sqrt();
        let steps: Vec<f32> = field.x.windows(2).map(|w| w[1] - w[0]).collect();
        // Smoothing divides the deviation of the noise, 1 / sqrt(3), by 2 sqrt(pi) times the Gaussian's.
        let expected = 40.0 / 3.0_f32.sqrt() / (2.0 * std::f32::consts::PI.sqrt() * 6.0);
        for axis in [&field.x, &field.y] {
            assert!((rms(axis) / expected - 1.0).abs() < 0.25, "{} is not about {expected}", rms(axis));
        }
        assert!(rms(&steps[..290]) < 0.3 * expected, "neighbours move together");
        assert!(field.x != field.y);
        assert_eq!(field.at(10.5, 7.5), (field.x[7 * 300 + 10], field.y[7 * 300 + 10]));
    }

    #[test]
    fn smoothing_keeps_a_constant() {
        let smooth = blur(&[3.0; 17 * 15], (17, 15), &gaussian(2.0));
        assert!(smooth.len() == 5 * 3 && smooth.iter().all(|v| (v - 3.0).abs() < 1e-5), "{smooth:?}");
    }
}

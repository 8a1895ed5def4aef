//! Deterministic street drives with an exact truth: training data, test data and the demo's camera.
//!
//! A seed makes a street (`scene`); a software rasteriser finds the nearest surface of each pixel centre
//! (`raster`); its class and its depth along the optical axis are the truth, its material, the sun, the sky and a
//! camera model make the picture (`light`). The same seed gives the same bytes everywhere: random numbers come from
//! PCG, transcendental functions from `libm`, and no result depends on the number of threads.

mod light;
mod material;
mod mesh;
mod noise;
mod objects;
mod raster;
mod scene;
#[cfg(test)]
mod tests;

use glam::{DMat3, DVec2, DVec3};
use image::RgbImage;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg32;

/// Focal length of the Cityscapes cameras, in pixels of an image 2048 wide.
pub const CITYSCAPES_FOCAL_PX: f64 = 2262.52;
/// Width that [`CITYSCAPES_FOCAL_PX`] belongs to.
pub const CITYSCAPES_WIDTH: f64 = 2048.0;
/// Stereo baseline of the Cityscapes cameras, metres.
pub const CITYSCAPES_BASELINE_M: f64 = 0.209313;

/// Heights of cameras of passenger cars above the road, metres; Cityscapes' is 1.22.
pub const HEIGHTS_M: (f64, f64) = (1.2, 1.7);

/// What decides a drive.
#[derive(Debug, Clone, PartialEq)]
pub struct DriveConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// Frames of the drive.
    pub frames: usize,
    /// Frames a second.
    pub rate_hz: f64,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Focal length, pixels of an image of `width`.
    pub focal_px: f64,
    /// Distance of the right camera from the left one, metres.
    pub baseline_m: f64,
    /// Least and greatest height of the camera above the road, metres; evenly between them, one a drive.
    pub heights_m: (f64, f64),
}

impl DriveConfig {
    /// A drive with Cityscapes' camera at a size.
    pub fn new(seed: u64, frames: usize, width: usize, height: usize) -> Self {
        Self {
            seed,
            frames,
            rate_hz: 10.0,
            width,
            height,
            focal_px: CITYSCAPES_FOCAL_PX * width as f64 / CITYSCAPES_WIDTH,
            baseline_m: CITYSCAPES_BASELINE_M,
            heights_m: HEIGHTS_M,
        }
    }
}

/// A pinhole camera and its pose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Camera {
    /// Pixels, horizontally and vertically.
    pub focal_px: f64,
    /// Principal point, pixels from the left edge of the image.
    pub center_x: f64,
    /// Principal point, pixels from the upper edge of the image.
    pub center_y: f64,
    /// Metres.
    pub baseline_m: f64,
    /// Metres above the road.
    pub height_m: f64,
    /// Radians, downwards.
    pub pitch: f64,
    /// Radians, to the right.
    pub yaw: f64,
    /// Radians, clockwise.
    pub roll: f64,
}

/// One frame with its truth.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The left camera's picture.
    pub left: RgbImage,
    /// The right camera's picture, where asked for.
    pub right: Option<RgbImage>,
    /// Train id of each pixel centre of the left picture, row by row.
    pub labels: Vec<u8>,
    /// Depth along the optical axis in metres, `+inf` in the sky.
    pub depth_m: Vec<f32>,
    /// Where it was taken from.
    pub camera: Camera,
}

/// The height that takes the place of `drawn`, which was drawn from [`HEIGHTS_M`]: at the same share of other heights. So drives
/// of other heights are the same in everything else.
fn height_of(drawn: f64, heights: (f64, f64)) -> f64 {
    if heights == HEIGHTS_M {
        return drawn;
    }
    let share = (drawn - HEIGHTS_M.0) / (HEIGHTS_M.1 - HEIGHTS_M.0);
    heights.0 + share * (heights.1 - heights.0)
}

/// A drive through one street.
#[derive(Debug)]
pub struct Drive {
    config: DriveConfig,
    scene: scene::Scene,
    light: light::Light,
    speed: f32,
    height_m: f64,
    pitch: f64,
    roll: f64,
    wobble: [f64; 6],
}

impl Drive {
    /// Builds the street and decides light, weather and camera.
    pub fn new(config: &DriveConfig) -> Self {
        let mut rng = Pcg32::seed_from_u64(config.seed ^ 0x5eed_5eed);
        let speed = rng.random_range(3.0..9.0_f32);
        let path_m = speed * (config.frames.saturating_sub(1) as f64 / config.rate_hz.max(1e-3)) as f32;
        Self {
            scene: scene::Scene::new(config.seed, path_m, speed),
            light: light::Light::new(&mut rng),
            speed,
            height_m: height_of(rng.random_range(HEIGHTS_M.0..HEIGHTS_M.1), config.heights_m),
            pitch: rng.random_range(-0.01..0.05),
            roll: rng.random_range(-0.012..0.012),
            wobble: std::array::from_fn(|_| rng.random_range(0.0..std::f64::consts::TAU)),
            config: config.clone(),
        }
    }

    /// Draws frame `index`; `stereo` asks for the right picture too.
    pub fn frame(&mut self, index: usize, stereo: bool) -> Frame {
        let c = &self.config;
        let time = index as f64 / c.rate_hz;
        let s = self.speed * time as f32;
        let wave = |k: usize, hz: f64| libm::sin(std::f64::consts::TAU * hz * time + self.wobble[k]);
        let camera = Camera {
            focal_px: c.focal_px,
            // Cityscapes' principal point, as a share of the image.
            center_x: c.width as f64 * (1096.98 / 2048.0),
            center_y: c.height as f64 * (513.137 / 1024.0),
            baseline_m: c.baseline_m,
            height_m: self.height_m + 0.015 * wave(0, 1.3),
            pitch: self.pitch + 0.006 * wave(1, 0.9) + 0.002 * wave(2, 2.1),
            yaw: 0.015 * wave(3, 0.31),
            roll: self.roll + 0.004 * wave(4, 0.7),
        };
        let street = &self.scene.course;
        let drift = 0.12 * wave(5, 0.17);
        let eye = street.at(s, self.scene.lane_t + drift as f32, camera.height_m as f32).as_dvec3();
        let axes =
            axes(f64::from(street.heading(s)) + camera.yaw, camera.pitch - f64::from(street.slope(s)), camera.roll);
        let mesh = self.scene.at(time as f32, s);
        let view = raster::View {
            eye,
            axes,
            scale: DVec2::splat(camera.focal_px),
            center: DVec2::new(camera.center_x, camera.center_y),
            orthographic: false,
            width: c.width,
            height: c.height,
        };
        let noise_seed = (c.seed as u32).wrapping_mul(0x9e37_79b9) ^ (index as u32).wrapping_mul(0x85eb_ca6b);
        let shadows = self.light.shadows(&mesh, &self.scene.palette.materials, eye, axes.z_axis);
        let render = |view: &raster::View, seed: u32| {
            self.light.picture(view, &mesh, &self.scene.palette.materials, &shadows, seed)
        };
        let left = render(&view, noise_seed);
        let right = stereo.then(|| {
            let moved = raster::View { eye: view.eye + axes.x_axis * c.baseline_m, ..view.clone() };
            render(&moved, noise_seed ^ 0x00ff_00ff).image
        });
        Frame { left: left.image, right, labels: left.labels, depth_m: left.depth_m, camera }
    }
}

/// Right, down and forward axes (as the matrix' columns) of a camera.
fn axes(yaw: f64, pitch_down: f64, roll: f64) -> DMat3 {
    let (sy, cy) = (libm::sin(yaw), libm::cos(yaw));
    let (sp, cp) = (libm::sin(pitch_down), libm::cos(pitch_down));
    let forward = DVec3::new(sy * cp, -sp, cy * cp);
    let right = DVec3::new(cy, 0.0, -sy);
    let down = right.cross(forward);
    // The camera's roll is clockwise: its right axis turns towards down.
    let (sr, cr) = (libm::sin(roll), libm::cos(roll));
    DMat3::from_cols(right * cr + down * sr, down * cr - right * sr, forward)
}

//! Sun, sky, haze, shadows, and the camera that turns light into bytes.

use super::material::{class, Material};
use super::mesh::Mesh;
use super::noise::{fbm, hash};
use super::raster::{self, interpolate_uv, View, Visibility, NOTHING};
use glam::{DMat3, DVec2, DVec3, Vec2, Vec3};
use image::RgbImage;
use rand::RngExt as _;
use rand_pcg::Pcg32;
use rayon::prelude::*;
use std::sync::OnceLock;

/// Shadows are drawn over this many metres to each side of a point ahead of the camera.
const SHADOW_REACH_M: f64 = 70.0;
const SHADOW_PIXELS: usize = 1536;

/// Light, weather and the camera's settings of one drive.
#[derive(Debug, Clone)]
pub(super) struct Light {
    /// Towards the sun.
    sun: Vec3,
    sun_color: Vec3,
    zenith: Vec3,
    horizon: Vec3,
    /// Share of the sky under clouds.
    clouds: f32,
    /// Extinction, 1/m.
    haze: f32,
    exposure: f32,
    white: Vec3,
    vignette: f32,
    /// Standard deviation of the sensor's noise at mid grey, in 8-bit steps.
    noise: f32,
    blur: f32,
    seed: u32,
}

/// The sun's own view of the scene.
pub(super) struct Shadows {
    view: View,
    seen: Visibility,
}

/// The display's gamma, `255 v^(1 / 2.2)` of 0 to 1: by lines between places that are as far apart as floats are, in proportion.
struct Gamma(Vec<f32>);

fn gamma() -> &'static Gamma {
    static GAMMA: OnceLock<Gamma> = OnceLock::new();
    GAMMA.get_or_init(Gamma::new)
}

impl Gamma {
    /// Bits of a float beyond those that say between which places it lies: 256 places for each power of two.
    const BELOW: u32 = 15;
    /// The first place: what is less is black but for the noise, and rare.
    const FIRST: u32 = (1.0_f32 / 4096.0).to_bits() >> Self::BELOW;
    /// The last.
    const LAST: u32 = 1.0_f32.to_bits() >> Self::BELOW;
    /// Most that the lines are off.
    const ERROR: f32 = 2.5e-4;

    fn new() -> Self {
        // One more, of which none is taken.
        Self((Self::FIRST..=Self::LAST + 1).map(|i| Self::exactly(f32::from_bits(i << Self::BELOW))).collect())
    }

    fn exactly(v: f32) -> f32 {
        255.0 * libm::powf(v, 1.0 / 2.2)
    }

    /// To [`Self::ERROR`]; `None` of what is less than the first place.
    fn nearly(&self, v: f32) -> Option<f32> {
        let bits = v.to_bits();
        let at = (bits >> Self::BELOW).checked_sub(Self::FIRST)? as usize;
        let [a, b] = self.0.get(at..at + 2)? else { return None };
        let share = (bits & ((1 << Self::BELOW) - 1)) as f32 / (1 << Self::BELOW) as f32;
        Some(a + (b - a) * share)
    }
}

/// A picture and its truth.
pub(super) struct Picture {
    pub image: RgbImage,
    pub labels: Vec<u8>,
    pub depth_m: Vec<f32>,
}

impl Light {
    pub fn new(rng: &mut Pcg32) -> Self {
        let overcast = rng.random_bool(0.3);
        let elevation: f32 = rng.random_range(0.22..1.15);
        let azimuth: f32 = rng.random_range(0.0..std::f32::consts::TAU);
        let sun = Vec3::new(
            libm::cosf(elevation) * libm::sinf(azimuth),
            libm::sinf(elevation),
            libm::cosf(elevation) * libm::cosf(azimuth),
        );
        let low = 1.0 - (elevation / 0.9).clamp(0.0, 1.0);
        let strength = if overcast { 0.25 } else { rng.random_range(1.7..3.0) };
        let grey = Vec3::new(0.72, 0.75, 0.8);
        let (zenith, horizon) = if overcast {
            (grey * 0.9, grey * 1.05)
        } else {
            (Vec3::new(0.2, 0.38, 0.75), Vec3::new(0.75, 0.83, 0.93) + Vec3::new(0.15, 0.02, -0.15) * low)
        };
        Self {
            sun,
            sun_color: Vec3::new(1.0, 0.95 - 0.12 * low, 0.87 - 0.32 * low) * strength,
            zenith,
            horizon,
            clouds: if overcast { 0.9 } else { rng.random_range(0.0..0.75) },
            haze: if rng.random_bool(0.2) { rng.random_range(0.006..0.014) } else { rng.random_range(0.0006..0.005) },
            exposure: rng.random_range(1.0..1.9) * if overcast { 1.5 } else { 1.0 },
            white: Vec3::new(rng.random_range(0.92..1.08), 1.0, rng.random_range(0.9..1.1)),
            vignette: rng.random_range(0.05..0.4),
            noise: rng.random_range(0.6..3.2),
            blur: rng.random_range(0.05..0.2),
            seed: rng.random_range(0..100_000),
        }
    }

    /// The sky in a direction, linear.
    fn sky(&self, d: Vec3, detail: bool) -> Vec3 {
        let up = d.y.max(0.0);
        let base = self.horizon + (self.zenith - self.horizon) * (1.0 - (1.0 - up).powi(4));
        if !detail {
            return base;
        }
        let glare = d.dot(self.sun).max(0.0);
        let base = base + self.sun_color * (0.05 * glare.powi(12) + 0.6 * glare.powi(400));
        let q = Vec2::new(d.x, d.z) / (up + 0.12);
        let cover = ((fbm(q * 1.1, self.seed) - 0.62 + 0.4 * self.clouds) * 4.0).clamp(0.0, 1.0) * (up * 8.0).min(1.0);
        let shade = 0.8 + 0.35 * fbm(q * 2.7 + Vec2::splat(7.0), self.seed ^ 1);
        base + (Vec3::splat(0.95) * shade - base) * cover * 0.85
    }

    /// Draws the scene as the sun sees it.
    pub fn shadows(&self, mesh: &Mesh, materials: &[Material], eye: DVec3, forward: DVec3) -> Shadows {
        let toward = -self.sun.as_dvec3();
        let right = toward.cross(DVec3::Y).normalize_or(DVec3::X);
        let down = toward.cross(right);
        let ahead = DVec3::new(forward.x, 0.0, forward.z).normalize_or(DVec3::Z);
        let view = View {
            eye: eye + ahead * (SHADOW_REACH_M - 12.0) - toward * 300.0,
            axes: DMat3::from_cols(right, down, toward),
            scale: DVec2::splat(SHADOW_PIXELS as f64 / (2.0 * SHADOW_REACH_M)),
            center: DVec2::splat(SHADOW_PIXELS as f64 / 2.0),
            orthographic: true,
            width: SHADOW_PIXELS,
            height: SHADOW_PIXELS,
        };
        let seen = raster::draw(
            &view,
            &mesh.triangles,
            |m| materials[usize::from(m)].has_holes(),
            |m, uv| materials[usize::from(m)].hole(uv),
        );
        Shadows { view, seen }
    }

    /// Share of the sun that reaches a point.
    fn sunlight(&self, shadows: &Shadows, p: Vec3, n: Vec3) -> f32 {
        let (pixel, nearness) = shadows.view.project(shadows.view.to_view(p + n * 0.05));
        let q = pixel - DVec2::splat(0.5);
        let (x, y) = (q.x.floor(), q.y.floor());
        let limit = SHADOW_PIXELS as f64 - 2.0;
        if !(0.0..limit).contains(&x) || !(0.0..limit).contains(&y) {
            return 1.0;
        }
        let (fx, fy) = ((q.x - x) as f32, (q.y - y) as f32);
        let at = |dx: usize, dy: usize| {
            let blocker = shadows.seen.nearness[(y as usize + dy) * SHADOW_PIXELS + x as usize + dx];
            f32::from(f64::from(blocker) <= nearness + 0.12)
        };
        let top = at(0, 0) * (1.0 - fx) + at(1, 0) * fx;
        let bottom = at(0, 1) * (1.0 - fx) + at(1, 1) * fx;
        top * (1.0 - fy) + bottom * fy
    }

    /// Draws the scene for a pinhole view.
    pub fn picture(&self, view: &View, mesh: &Mesh, materials: &[Material], shadows: &Shadows, seed: u32) -> Picture {
        let seen = raster::draw(
            view,
            &mesh.triangles,
            |m| materials[usize::from(m)].has_holes(),
            |m, uv| materials[usize::from(m)].hole(uv),
        );
        let (w, h) = (view.width, view.height);
        let mut labels = vec![class::SKY; w * h];
        let mut depth_m = vec![f32::INFINITY; w * h];
        let mut light = vec![Vec3::ZERO; w * h];
        light.par_chunks_mut(w).zip(labels.par_chunks_mut(w)).zip(depth_m.par_chunks_mut(w)).enumerate().for_each(
            |(y, ((light, labels), depth))| {
                for x in 0..w {
                    let pixel = DVec2::new(x as f64 + 0.5, y as f64 + 0.5);
                    let q = (pixel - view.center) / view.scale;
                    let ray = view.axes * DVec3::new(q.x, q.y, 1.0);
                    let d = ray.as_vec3().normalize_or_zero();
                    let id = seen.triangle[y * w + x];
                    if id == NOTHING {
                        light[x] = self.sky(d, true);
                        continue;
                    }
                    let t = &mesh.triangles[id as usize];
                    let Some((z, bary)) = view.hit(pixel, &t.v.map(|v| view.to_view(v.p))) else {
                        light[x] = self.sky(d, true);
                        continue;
                    };
                    let material = &materials[usize::from(t.material)];
                    labels[x] = material.class;
                    depth[x] = z as f32;
                    let point = (view.eye + ray * z).as_vec3();
                    let b = bary.as_vec3();
                    let n = (t.v[0].n * b.x + t.v[1].n * b.y + t.v[2].n * b.z).normalize_or(Vec3::Y);
                    let n = if n.dot(d) > 0.0 { -n } else { n };
                    let grazing = (-n.dot(d)).max(0.12);
                    let pixel_m = (z / view.scale.x) as f32 / grazing;
                    let surface = material.at(interpolate_uv(t, bary), pixel_m);
                    let sun = n.dot(self.sun).max(0.0);
                    let sun = if sun > 0.0 { sun * self.sunlight(shadows, point, n) } else { 0.0 };
                    let ambient = (self.zenith * 0.55 + self.horizon * 0.45) * (0.32 + 0.23 * n.y)
                        + Vec3::new(0.1, 0.095, 0.085) * (0.5 - 0.5 * n.y);
                    let mut c = surface.albedo * (self.sun_color * sun + ambient) + surface.glow;
                    if surface.mirror > 0.0 {
                        let r = d - n * (2.0 * n.dot(d));
                        let fresnel = surface.mirror + (1.0 - surface.mirror) * (1.0 - grazing.min(1.0)).powi(5) * 0.5;
                        let mirrored = if r.y > 0.02 { self.sky(r, false) * 0.8 } else { self.horizon * 0.22 };
                        let gleam = self.sun_color * r.dot(self.sun).max(0.0).powi(180) * sun.min(1.0);
                        c = c * (1.0 - fresnel) + (mirrored + gleam) * fresnel;
                    }
                    let haze = 1.0 - libm::expf(-self.haze * z as f32);
                    light[x] = c + (self.horizon * 0.9 - c) * haze;
                }
            },
        );
        let image = self.expose(&light, &seen, w, h, seed);
        Picture { image, labels, depth_m }
    }

    /// Lens and sensor: blur (more of it over the edges of things, against jagged lines), vignetting, exposure,
    /// white balance, tone curve, noise.
    fn expose(&self, light: &[Vec3], seen: &Visibility, w: usize, h: usize, seed: u32) -> RgbImage {
        let gamma = gamma();
        let mut bytes = vec![0_u8; w * h * 3];
        bytes.par_chunks_mut(w * 3).enumerate().for_each(|(y, row)| {
            for x in 0..w {
                let here = y * w + x;
                let neighbours = [
                    if x > 0 { here - 1 } else { here },
                    if x + 1 < w { here + 1 } else { here },
                    if y > 0 { here - w } else { here },
                    if y + 1 < h { here + w } else { here },
                ];
                let edge = neighbours.iter().any(|&n| seen.triangle[n] != seen.triangle[here]);
                let share = if edge { 0.42 } else { self.blur };
                let around = neighbours.iter().map(|&n| light[n].min(Vec3::splat(4.0))).sum::<Vec3>() * 0.25;
                let c = light[here] * (1.0 - share) + around * share;
                let q = Vec2::new(x as f32 / w as f32 - 0.5, y as f32 / h as f32 - 0.5);
                let c = c * self.white * self.exposure * (1.0 - self.vignette * q.length_squared() * 2.0);
                for (k, v) in c.to_array().into_iter().enumerate() {
                    // A gentle shoulder, then the display's gamma.
                    let v = v.max(0.0);
                    let toned = v * (1.0 + v / 6.0) / (1.0 + v * 0.85);
                    let toned = toned.min(1.0);
                    let r = hash(x as i32 * 3 + k as i32, y as i32, seed);
                    // Sum of four bytes: near enough to normal; variance of one byte is 5461.
                    let n = [r, r >> 8, r >> 16, r >> 24].into_iter().map(|b| (b & 255) as f32 - 127.5).sum::<f32>()
                        / 147.8;
                    let noisy = |byte: f32| byte + n * self.noise * (0.6 + 0.8 * byte / 255.0) + 0.5;
                    // Where nearly is not near enough to know the byte, it is asked for exactly.
                    let value = gamma.nearly(toned).map(noisy).filter(|v| (v - v.round()).abs() > 2.0 * Gamma::ERROR);
                    let value = value.unwrap_or_else(|| noisy(Gamma::exactly(toned)));
                    row[x * 3 + k] = value.clamp(0.0, 255.0) as u8;
                }
            }
        });
        RgbImage::from_raw(w as u32, h as u32, bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gamma_by_lines_is_as_near_as_it_says() {
        let gamma = gamma();
        let (mut known, mut most) = (0, 0.0_f32);
        for bits in (0..=1.0_f32.to_bits()).rev().step_by(97) {
            let v = f32::from_bits(bits);
            if let Some(nearly) = gamma.nearly(v) {
                known += 1;
                most = most.max((nearly - Gamma::exactly(v)).abs());
            } else {
                assert!(v < 1.0 / 4096.0, "{v}");
            }
        }
        assert!(known > 1_000_000 && most < Gamma::ERROR, "{known}, {most}");
        assert_eq!(gamma.nearly(1.0), Some(255.0));
        assert_eq!(gamma.nearly(0.0), None);
    }
}

//! What surfaces look like: a class, two colours and a procedural pattern over texture coordinates in metres.

use super::noise::{cell, fbm, value};
use glam::{Vec2, Vec3};
use std::sync::OnceLock;

/// Train ids by name, so that scene code reads as what it builds.
pub(super) mod class {
    pub const ROAD: u8 = 0;
    pub const SIDEWALK: u8 = 1;
    pub const BUILDING: u8 = 2;
    pub const WALL: u8 = 3;
    pub const FENCE: u8 = 4;
    pub const POLE: u8 = 5;
    pub const TRAFFIC_LIGHT: u8 = 6;
    pub const TRAFFIC_SIGN: u8 = 7;
    pub const VEGETATION: u8 = 8;
    pub const TERRAIN: u8 = 9;
    pub const SKY: u8 = 10;
    pub const PERSON: u8 = 11;
    pub const RIDER: u8 = 12;
    pub const CAR: u8 = 13;
    pub const TRUCK: u8 = 14;
    pub const BUS: u8 = 15;
    pub const TRAIN: u8 = 16;
    pub const MOTORCYCLE: u8 = 17;
    pub const BICYCLE: u8 = 18;
}

/// The pattern of a surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pattern {
    /// One colour, slightly uneven.
    Plain,
    /// Smooth paint that mirrors the sky a little.
    Paint,
    /// Window glass: dark, mirrors the sky.
    Glass,
    /// Shines by itself (lamps).
    Lamp,
    /// u = metres across the road from its centre, v = metres along it: asphalt with lane markings.
    Road {
        /// Half the carriageway's width.
        half_width: f32,
        /// Number of lanes a side.
        lanes: u8,
        /// A zebra crossing begins here, along the road.
        zebra_at: f32,
    },
    /// Paving slabs of a size.
    Slabs(f32),
    /// Grass, with bare patches.
    Grass,
    /// Leaves, without holes.
    Foliage,
    /// Leaves with holes: the outer shell of a crown.
    LooseFoliage,
    /// Bark.
    Bark,
    /// Bricks.
    Brick,
    /// Concrete panels with stains.
    Concrete,
    /// A house front with windows: width of a bay, height of a storey, shops in the ground floor.
    Facade { bay: f32, storey: f32, shops: bool },
    /// Roof tiles.
    Tiles,
    /// Upright planks.
    Planks,
    /// Bars with gaps.
    Railing,
    /// Wire mesh between posts.
    Mesh,
    /// A row of vehicle windows: height of the band's lower and upper edge, spacing of the posts.
    WindowBand { low: f32, high: f32, post: f32 },
    /// A wheel (disc): tyre and rim of a radius.
    Wheel(f32),
    /// A bicycle's wheel: thin tyre, spokes.
    SpokedWheel(f32),
    /// Sign faces, over metres from the centre, for a radius.
    SignTriangle(f32),
    /// Round with a red border and something dark inside.
    SignRound(f32),
    /// Octagonal, red with a white band.
    SignStop(f32),
    /// Rectangular with lines of writing.
    SignBoard,
    /// Three dark lenses, one lit: metres from the housing's lower edge.
    Lenses { lit: u8, height: f32 },
    /// Woven cloth.
    Cloth,
}

/// A surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Material {
    /// Train id.
    pub class: u8,
    pub pattern: Pattern,
    /// Linear colour.
    pub base: Vec3,
    /// Linear second colour (frames, borders, mortar).
    pub second: Vec3,
    pub seed: u32,
}

/// What a point of a surface sends to the eye, before light.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surface {
    /// Linear albedo.
    pub albedo: Vec3,
    /// Share of mirrored sky.
    pub mirror: f32,
    /// Linear light of its own.
    pub glow: Vec3,
}

impl Surface {
    fn matte(albedo: Vec3) -> Self {
        Self { albedo, mirror: 0.0, glow: Vec3::ZERO }
    }

    fn shiny(albedo: Vec3, mirror: f32) -> Self {
        Self { albedo, mirror, glow: Vec3::ZERO }
    }
}

/// sRGB bytes to linear.
pub(super) fn rgb(r: u8, g: u8, b: u8) -> Vec3 {
    static LINEAR: OnceLock<[f32; 256]> = OnceLock::new();
    let linear = LINEAR.get_or_init(|| std::array::from_fn(|v| libm::powf(v as f32 / 255.0, 2.2)));
    let f = |v: u8| linear[usize::from(v)];
    Vec3::new(f(r), f(g), f(b))
}

/// 1 inside `from .. to`, 0 outside, softened over `soft`.
fn band(x: f32, from: f32, to: f32, soft: f32) -> f32 {
    let s = soft.max(1e-4);
    ((x - from) / s + 0.5).clamp(0.0, 1.0) * ((to - x) / s + 0.5).clamp(0.0, 1.0)
}

fn mix(a: Vec3, b: Vec3, t: f32) -> Vec3 {
    a + (b - a) * t
}

/// 1 near a multiple of `period`, over `width`.
fn line(x: f32, period: f32, width: f32, soft: f32) -> f32 {
    let d = (x / period - (x / period).round()).abs() * period;
    1.0 - ((d - width / 2.0) / soft.max(1e-4) + 0.5).clamp(0.0, 1.0)
}

impl Material {
    /// Whether [`Material::hole`] can be true.
    pub fn has_holes(&self) -> bool {
        matches!(self.pattern, Pattern::LooseFoliage | Pattern::Railing | Pattern::Mesh)
    }

    /// Whether there is nothing here.
    pub fn hole(&self, uv: Vec2) -> bool {
        match self.pattern {
            Pattern::LooseFoliage => fbm(uv * 3.1, self.seed) > 0.52,
            Pattern::Railing => {
                let bar = line(uv.x, 0.16, 0.075, 1e-3) > 0.5;
                let rail = line(uv.y, 0.85, 0.09, 1e-3) > 0.5;
                !(bar || rail)
            }
            Pattern::Mesh => {
                let wire = line(uv.x + uv.y, 0.16, 0.05, 1e-3).max(line(uv.x - uv.y, 0.16, 0.05, 1e-3)) > 0.5;
                let post = line(uv.x, 2.5, 0.1, 1e-3).max(line(uv.y, 1.5, 0.08, 1e-3)) > 0.5;
                !(wire || post)
            }
            _ => false,
        }
    }

    /// The surface at `uv`; `pixel_m` is the size of a pixel there, over which detail is blurred.
    pub fn at(&self, uv: Vec2, pixel_m: f32) -> Surface {
        // Detail of size s is drawn in full where a pixel is much smaller than s.
        let fade = |s: f32| (s / (s + 2.0 * pixel_m)).powi(2);
        let grain = |s: f32, amount: f32| 1.0 + amount * fade(s) * (fbm(uv / s, self.seed) - 0.5) * 2.0;
        match self.pattern {
            Pattern::Plain => Surface::matte(self.base * grain(0.4, 0.12)),
            Pattern::Paint => Surface::shiny(self.base, 0.16),
            Pattern::Glass => Surface::shiny(self.base, 0.45),
            Pattern::Lamp => Surface { albedo: self.base, mirror: 0.1, glow: self.base * 0.9 },
            Pattern::Cloth => Surface::matte(self.base * grain(0.12, 0.3)),
            Pattern::Road { half_width, lanes, zebra_at } => self.road(uv, pixel_m, half_width, lanes, zebra_at),
            Pattern::Slabs(size) => {
                let row = (uv.y / size).floor();
                let u = uv.x + if row as i32 % 2 == 0 { 0.0 } else { size / 2.0 };
                let joint = line(u, size, 0.025, pixel_m).max(line(uv.y, size, 0.025, pixel_m)) * fade(0.05);
                let tone = 0.9 + 0.2 * cell((u / size).floor() as i32, row as i32, self.seed) * fade(size);
                Surface::matte(mix(self.base * tone * grain(1.7, 0.16), self.second, joint))
            }
            Pattern::Grass => {
                let patch = fbm(uv * 0.21, self.seed ^ 3);
                let blade = 1.0 + 0.5 * fade(0.06) * (value(uv * 17.0, self.seed) - 0.5);
                let c = mix(self.base, self.second, (patch * 1.7 - 0.6).clamp(0.0, 1.0));
                Surface::matte(c * blade * grain(0.5, 0.35))
            }
            Pattern::Foliage | Pattern::LooseFoliage => {
                let clump = fbm(uv * 1.3, self.seed ^ 9);
                let leaf = 1.0 + 0.9 * fade(0.1) * (value(uv * 11.0, self.seed ^ 5) - 0.5);
                Surface::matte(mix(self.base * 0.45, self.base * 1.35, clump) * leaf)
            }
            Pattern::Bark => Surface::matte(
                self.base * (1.0 + 0.6 * fade(0.05) * (value(uv * Vec2::new(28.0, 4.0), self.seed) - 0.5)),
            ),
            Pattern::Brick => {
                let row = (uv.y / 0.085).floor();
                let u = uv.x + if row as i32 % 2 == 0 { 0.0 } else { 0.125 };
                let joint = line(u, 0.25, 0.018, pixel_m).max(line(uv.y, 0.085, 0.018, pixel_m)) * fade(0.04);
                let tone = 0.75 + 0.5 * cell((u / 0.25).floor() as i32, row as i32, self.seed) * fade(0.2);
                Surface::matte(mix(self.base * tone, self.second, joint) * grain(2.5, 0.2))
            }
            Pattern::Concrete => {
                let joint = line(uv.x, 2.4, 0.05, pixel_m) * fade(0.1);
                let stain = fbm(uv * Vec2::new(0.9, 0.25), self.seed);
                Surface::matte(self.base * (0.75 + 0.45 * stain) * (1.0 - 0.5 * joint) * grain(0.3, 0.1))
            }
            Pattern::Facade { bay, storey, shops } => self.facade(uv, pixel_m, bay, storey, shops),
            Pattern::Tiles => {
                let row = line(uv.y, 0.3, 0.06, pixel_m) * fade(0.2);
                Surface::matte(self.base * (1.0 - 0.45 * row) * grain(1.2, 0.25))
            }
            Pattern::Planks => {
                let gap = line(uv.x, 0.15, 0.025, pixel_m) * fade(0.06);
                let tone = 0.8 + 0.4 * cell((uv.x / 0.15 + 0.5).floor() as i32, 0, self.seed) * fade(0.15);
                let knot = 1.0 + 0.3 * fade(0.1) * (value(uv * Vec2::new(20.0, 1.5), self.seed) - 0.5);
                Surface::matte(self.base * tone * knot * (1.0 - 0.75 * gap))
            }
            Pattern::Railing | Pattern::Mesh => Surface::shiny(self.base, 0.05),
            Pattern::WindowBand { low, high, post } => {
                let window = band(uv.y, low, high, pixel_m) * (1.0 - line(uv.x, post, 0.14, pixel_m));
                let stripe = band(uv.y, low - 0.45, low - 0.2, pixel_m);
                let door = band((uv.x / (3.0 * post)).fract().abs() * 3.0 * post, 0.1, post - 0.1, pixel_m)
                    * band(uv.y, 0.35, high, pixel_m);
                let seam = line(uv.x, post, 0.03, pixel_m) * fade(0.08);
                let body = mix(self.base, self.second, stripe) * (1.0 - 0.35 * seam) * (1.0 - 0.15 * door);
                let glass = rgb(38, 46, 54);
                Surface::shiny(mix(body, glass, window), 0.1 + 0.3 * window)
            }
            Pattern::Wheel(radius) => {
                let r = uv.length() / radius;
                let spoke = line(libm::atan2f(uv.y, uv.x), std::f32::consts::TAU / 5.0, 0.5, 0.05);
                if r > 0.66 {
                    Surface::matte(rgb(28, 28, 29))
                } else {
                    Surface::shiny(mix(rgb(45, 45, 48), self.base, (0.35 + 0.65 * spoke) * fade(0.3)), 0.1)
                }
            }
            Pattern::SpokedWheel(radius) => {
                let r = uv.length() / radius;
                let spoke = line(libm::atan2f(uv.y, uv.x), std::f32::consts::TAU / 14.0, 0.05, 0.02) * fade(0.05);
                if !(0.1..=0.86).contains(&r) {
                    Surface::matte(rgb(25, 25, 27))
                } else {
                    Surface::shiny(mix(self.base, rgb(190, 190, 190), spoke), 0.08)
                }
            }
            Pattern::SignTriangle(radius) => {
                // Distance to the nearest side of an upright triangle, in radii.
                let q = uv / radius;
                let d = (0.5 + q.y).min(0.5 - 0.5 * q.y - 0.866 * q.x.abs());
                let border = d < 0.16;
                let mark = q.x.abs() < 0.09 && q.y > -0.25 && q.y < 0.35;
                let c = if border {
                    rgb(190, 20, 25)
                } else if mark {
                    rgb(20, 20, 20)
                } else {
                    rgb(235, 235, 230)
                };
                Surface::shiny(c, 0.05)
            }
            Pattern::SignRound(radius) => {
                let r = uv.length() / radius;
                let q = uv / radius;
                let mark = (q.x.abs() - 0.25).abs() < 0.12 && q.y.abs() < 0.38;
                let c = if r > 0.74 {
                    self.second
                } else if mark {
                    rgb(25, 25, 25)
                } else {
                    self.base
                };
                Surface::shiny(c, 0.05)
            }
            Pattern::SignStop(radius) => {
                let q = uv / radius;
                let white = q.y.abs() < 0.2 && q.x.abs() < 0.7 || uv.length() / radius > 0.9;
                Surface::shiny(if white { rgb(235, 235, 235) } else { rgb(185, 20, 25) }, 0.05)
            }
            Pattern::SignBoard => {
                let row = line(uv.y, 0.22, 0.09, pixel_m)
                    * f32::from(cell((uv.x * 6.0) as i32, (uv.y / 0.22) as i32, 7) > 0.3);
                Surface::shiny(mix(self.base, self.second, row * fade(0.08)), 0.05)
            }
            Pattern::Lenses { lit, height } => {
                let third = height / 3.0;
                let k = (uv.y / third).floor().clamp(0.0, 2.0) as u8;
                let center = Vec2::new(0.15, (f32::from(k) + 0.5) * third);
                let inside = (uv - center).length() < 0.11;
                let color = [rgb(30, 220, 120), rgb(250, 190, 40), rgb(250, 40, 40)][usize::from(k)];
                if inside && k == lit {
                    Surface { albedo: color, mirror: 0.0, glow: color * 1.6 }
                } else if inside {
                    Surface::shiny(color * 0.12, 0.1)
                } else {
                    Surface::matte(self.base)
                }
            }
        }
    }

    fn road(&self, uv: Vec2, pixel_m: f32, half_width: f32, lanes: u8, zebra_at: f32) -> Surface {
        let fade = |s: f32| (s / (s + 2.0 * pixel_m)).powi(2);
        let coarse = 0.85 + 0.3 * fbm(uv * 0.35, self.seed);
        let fine = 1.0 + 0.35 * fade(0.03) * (value(uv * 40.0, self.seed) - 0.5);
        // Wheels polish two tracks a lane; cracks and patches are darker.
        let patch = if fbm(uv * 0.12, self.seed ^ 21) > 0.62 { 0.8 } else { 1.0 };
        let crack = band((fbm(uv * 0.6, self.seed ^ 77) - 0.5).abs(), -1.0, 0.008, 0.004) * fade(0.05);
        let mut c = self.base * coarse * fine * patch * (1.0 - 0.4 * crack);
        let lane = half_width / f32::from(lanes.max(1));
        let wear = 0.55 + 0.45 * fbm(uv * 1.9, self.seed ^ 4);
        let dashed = f32::from((uv.y / 9.0).fract().abs() < 0.45);
        let mut paint = band(uv.x.abs(), -1.0, 0.07, pixel_m) * if lanes > 1 { 1.0 } else { dashed };
        for k in 1..lanes {
            paint =
                paint.max(band(uv.x.abs(), lane * f32::from(k) - 0.07, lane * f32::from(k) + 0.07, pixel_m) * dashed);
        }
        paint = paint.max(band(uv.x.abs(), half_width - 0.35, half_width - 0.23, pixel_m));
        let along = uv.y - zebra_at;
        if (0.0..3.5).contains(&along) {
            paint = line(uv.x, 1.0, 0.5, pixel_m);
        } else if (-2.2..-1.8).contains(&along) && uv.x > 0.0 {
            paint = 1.0;
        }
        c = mix(c, rgb(205, 205, 200) * coarse, paint * wear * fade(0.12));
        Surface::matte(c)
    }

    fn facade(&self, uv: Vec2, pixel_m: f32, bay: f32, storey: f32, shops: bool) -> Surface {
        let fade = |s: f32| (s / (s + 2.0 * pixel_m)).powi(2);
        let (i, j) = ((uv.x / bay).floor(), (uv.y / storey).floor());
        let (x, y) = (uv.x - i * bay, uv.y - j * storey);
        let rough =
            1.0 + 0.25 * (fbm(uv * 0.5, self.seed) - 0.5) + 0.15 * fade(0.1) * (value(uv * 9.0, self.seed) - 0.5);
        let mut wall = self.base * rough;
        // A cornice between storeys, and dirt towards the ground.
        wall *= 1.0 - 0.25 * band(y, -1.0, 0.16, pixel_m);
        wall *= 0.75 + 0.25 * (uv.y / 1.2).clamp(0.0, 1.0);
        let r = cell(i as i32, j as i32, self.seed);
        let ground = uv.y < storey;
        let (x0, x1, y0, y1) = if ground && shops {
            (0.12 * bay, 0.88 * bay, 0.35, storey - 0.75)
        } else if ground && r < 0.25 {
            (0.33 * bay, 0.67 * bay, 0.0, 2.2)
        } else {
            (0.26 * bay, 0.74 * bay, 0.28 * storey, 0.8 * storey)
        };
        let frame = band(x, x0 - 0.09, x1 + 0.09, pixel_m) * band(y, y0 - 0.09, y1 + 0.09, pixel_m);
        let pane = band(x, x0, x1, pixel_m) * band(y, y0, y1, pixel_m);
        let bars = if ground && shops { 0.0 } else { band((x - bay / 2.0).abs(), -1.0, 0.035, pixel_m) * fade(0.07) };
        let glass = match r {
            r if ground && !shops && r < 0.25 => mix(rgb(70, 45, 30), rgb(40, 60, 50), r * 4.0),
            r if r < 0.45 => rgb(150, 145, 130) * (0.5 + r),
            r => rgb(40, 48, 58) * (0.6 + r),
        };
        let awning = if ground && shops { band(y, y1, y1 + 0.55, pixel_m) } else { 0.0 };
        let sign = [rgb(170, 40, 40), rgb(40, 80, 150), rgb(40, 110, 60), rgb(200, 170, 60)][(r * 3.99) as usize];
        let c = mix(wall, self.second, frame);
        let c = mix(c, glass, pane * (1.0 - bars));
        let c = mix(c, sign, awning * f32::from(cell(i as i32 / 2, 0, self.seed ^ 8) < 0.8));
        Surface::shiny(c, 0.35 * pane * f32::from(r > 0.4))
    }
}

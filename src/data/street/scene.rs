//! Lays a street out from a seed: its course, its ground, what lines it, what stands on it, what moves on it.

use super::material::{class, rgb, Pattern};
use super::mesh::{MaterialId, Mesh};
use super::objects::{self, pick, Palette, Pose};
use glam::{Affine3A, Mat3A, Vec2, Vec3};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg32;

/// The course of the street: a gentle bend and gentle hills.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// 1 / radius, 1/m.
    curvature: f32,
    hill_m: f32,
    hill_wavelength_m: f32,
    hill_phase: f32,
}

impl Course {
    fn height(&self, s: f32) -> f32 {
        self.hill_m * libm::sinf(s / self.hill_wavelength_m + self.hill_phase)
    }

    /// Heading at `s` metres along, radians to the right of +z.
    pub fn heading(&self, s: f32) -> f32 {
        (self.curvature * s).clamp(-0.6, 0.6)
    }

    /// World point at `s` along, `t` to the right of the centre line, `y` above the road.
    pub fn at(&self, s: f32, t: f32, y: f32) -> Vec3 {
        let h = self.heading(s);
        Vec3::new(0.5 * self.curvature * s * s + t * libm::cosf(h), self.height(s) + y, s - t * libm::sinf(h))
    }

    /// Slope angle at `s`, radians upwards.
    pub fn slope(&self, s: f32) -> f32 {
        libm::atanf(self.hill_m / self.hill_wavelength_m * libm::cosf(s / self.hill_wavelength_m + self.hill_phase))
    }

    /// Places an object at `(s, t, y)`, turned by `yaw` from the street's heading.
    pub fn place(&self, s: f32, t: f32, y: f32, yaw: f32) -> Affine3A {
        let turn = Mat3A::from_rotation_y(self.heading(s) + yaw);
        Affine3A { matrix3: turn, translation: self.at(s, t, y).into() }
    }
}

/// Something that goes along the street.
#[derive(Debug)]
struct Mover {
    mesh: Mesh,
    s: f32,
    t: f32,
    y: f32,
    yaw: f32,
    speed: f32,
}

/// Somebody who walks: drawn anew in each step.
#[derive(Debug)]
struct Walker {
    seed: u64,
    s: f32,
    t: f32,
    y: f32,
    yaw: f32,
    speed: f32,
    phase: f32,
}

/// A street, ready to be seen at any time.
#[derive(Debug)]
pub(super) struct Scene {
    pub course: Course,
    pub palette: Palette,
    still: Mesh,
    movers: Vec<Mover>,
    walkers: Vec<Walker>,
    /// Lateral position of the camera's lane.
    pub lane_t: f32,
}

/// How far behind the start and ahead of the end of the drive there is a street.
const BEHIND_M: f32 = 12.0;
const AHEAD_M: f32 = 170.0;
const KERB_M: f32 = 0.13;

struct Builder<'a> {
    rng: &'a mut Pcg32,
    palette: Palette,
    still: Mesh,
    course: Course,
    movers: Vec<Mover>,
    walkers: Vec<Walker>,
    /// Along the street: from, to.
    span: (f32, f32),
    /// Keeps things that stand by the road from growing into each other.
    taken: Vec<(f32, f32, f32)>,
}

impl Builder<'_> {
    /// A strip of ground from `t0` to `t1` at height `y`; texture coordinates are (t, s).
    fn strip(&mut self, (t0, y0): (f32, f32), (t1, y1): (f32, f32), material: MaterialId) {
        let step = 5.0;
        let mut s = self.span.0;
        while s < self.span.1 {
            let e = s + step;
            let c = &self.course;
            let p = [c.at(s, t0, y0), c.at(s, t1, y1), c.at(e, t1, y1), c.at(e, t0, y0)];
            // A vertical strip (a kerb) has no extent in t: use the height instead.
            let (u0, u1) = if t0 == t1 { (y0, y1) } else { (t0, t1) };
            self.still.quad(p, Vec2::new(u0, s), Vec2::new(u1, e), material);
            s = e;
        }
    }

    fn put(&mut self, mesh: &Mesh, s: f32, t: f32, y: f32, yaw: f32) {
        let to = self.course.place(s, t, y, yaw);
        self.still.add(mesh, &to);
    }

    /// Reserves a circle on the ground; false where something stands already.
    fn take(&mut self, s: f32, t: f32, radius: f32) -> bool {
        let free = self.taken.iter().all(|&(a, b, r)| libm::hypotf(a - s, b - t) > r + radius);
        if free {
            self.taken.push((s, t, radius));
        }
        free
    }

    fn house(&mut self, s: f32, length: f32, side: f32, t: f32) {
        let color = pick(
            self.rng,
            &[
                (196, 180, 150),
                (170, 110, 86),
                (214, 206, 190),
                (150, 146, 140),
                (190, 150, 96),
                (130, 90, 74),
                (176, 186, 190),
                (222, 196, 160),
                (120, 124, 128),
            ],
        );
        let base = rgb(color.0, color.1, color.2);
        let storeys = self.rng.random_range(2..7) as f32;
        let storey = self.rng.random_range(2.9..3.6);
        let bay = self.rng.random_range(2.2..3.8);
        let facade = Pattern::Facade { bay, storey, shops: self.rng.random_bool(0.4) };
        let frame = pick(self.rng, &[rgb(225, 222, 214), rgb(90, 80, 70), rgb(200, 196, 186)]);
        let seed = self.rng.random_range(0..9999);
        let wall = self.palette.add(class::BUILDING, facade, base, frame, seed);
        let tile = pick(self.rng, &[rgb(140, 70, 52), rgb(84, 80, 82), rgb(110, 60, 50)]);
        let roof = self.palette.add(class::BUILDING, Pattern::Tiles, tile, tile, seed);
        let height = storeys * storey + 0.5;
        let depth = self.rng.random_range(9.0..14.0);
        let mut m = Mesh::default();
        m.block(Vec3::new(0.0, -1.5, -length / 2.0), Vec3::new(depth, height, length / 2.0), wall, roof);
        if self.rng.random_bool(0.55) {
            let ridge = height + self.rng.random_range(2.0..4.0);
            let (a, b) = (-length / 2.0 - 0.2, length / 2.0 + 0.2);
            for (x0, x1) in [(-0.4, depth / 2.0), (depth + 0.4, depth / 2.0)] {
                let p = [
                    Vec3::new(x0, height - 0.1, a),
                    Vec3::new(x0, height - 0.1, b),
                    Vec3::new(x1, ridge, b),
                    Vec3::new(x1, ridge, a),
                ];
                m.quad(p, Vec2::ZERO, Vec2::new(length, 6.0), roof);
            }
            for z in [a, b] {
                m.triangle(
                    [
                        Vec3::new(0.0, height - 0.1, z),
                        Vec3::new(depth, height - 0.1, z),
                        Vec3::new(depth / 2.0, ridge, z),
                    ],
                    [Vec2::ZERO, Vec2::new(3.0, 0.0), Vec2::new(1.5, 2.0)],
                    wall,
                );
            }
        } else {
            m.block(
                Vec3::new(-0.25, height - 0.35, -length / 2.0),
                Vec3::new(depth, height + 0.1, length / 2.0),
                roof,
                roof,
            );
        }
        if self.rng.random_bool(0.35) {
            let mut z = -length / 2.0 + bay / 2.0;
            while z < length / 2.0 - 1.0 {
                for k in 1..storeys as i32 {
                    let y = k as f32 * storey;
                    m.block(Vec3::new(-0.9, y, z - 0.9), Vec3::new(0.0, y + 0.95, z + 0.9), roof, roof);
                }
                z += 2.0 * bay;
            }
        }
        // Built towards +x; a house on the left is turned round.
        self.put(&m, s, t, 0.0, if side > 0.0 { 0.0 } else { std::f32::consts::PI });
    }

    /// A wall or fence of a length along the street.
    fn barrier(&mut self, s: f32, length: f32, t: f32, fence: bool) {
        let seed = self.rng.random_range(0..999);
        let mut m = Mesh::default();
        let (h, half, material) = if fence {
            let (pattern, color) = pick(
                self.rng,
                &[
                    (Pattern::Planks, (150, 112, 76)),
                    (Pattern::Planks, (190, 186, 176)),
                    (Pattern::Planks, (96, 80, 66)),
                    (Pattern::Railing, (60, 66, 64)),
                    (Pattern::Mesh, (110, 130, 116)),
                ],
            );
            let c = rgb(color.0, color.1, color.2);
            (self.rng.random_range(1.0..1.9), 0.02, self.palette.add(class::FENCE, pattern, c, c, seed))
        } else {
            let (pattern, color) = pick(
                self.rng,
                &[
                    (Pattern::Concrete, (168, 166, 160)),
                    (Pattern::Brick, (150, 84, 66)),
                    (Pattern::Concrete, (140, 132, 120)),
                    (Pattern::Brick, (120, 100, 90)),
                ],
            );
            let c = rgb(color.0, color.1, color.2);
            (self.rng.random_range(1.3..3.0), 0.15, self.palette.add(class::WALL, pattern, c, rgb(190, 186, 178), seed))
        };
        let mut z = -length / 2.0;
        while z < length / 2.0 {
            let e = (z + 6.0).min(length / 2.0);
            let mut part = Mesh::default();
            part.block(Vec3::new(-half, -0.3, z), Vec3::new(half, h, e), material, material);
            if !fence {
                part.block(Vec3::new(-half - 0.05, h, z), Vec3::new(half + 0.05, h + 0.1, e), material, material);
            }
            m.add(&part, &Affine3A::IDENTITY);
            z = e;
        }
        self.put(&m, s, t, KERB_M, 0.0);
    }

    /// Fills one side of the street behind the pavement.
    fn line_side(&mut self, side: f32, edge: f32, leafy: f32) {
        let mut s = self.span.0;
        while s < self.span.1 {
            let length = self.rng.random_range(9.0..24.0);
            let middle = s + length / 2.0;
            let roll: f32 = self.rng.random();
            if roll < 0.56 - 0.3 * leafy {
                let setback = if self.rng.random_bool(0.3) { self.rng.random_range(2.0..5.0) } else { 0.2 };
                self.house(middle, length - 0.3, side, side * (edge + setback));
            } else {
                if roll < 0.92 {
                    self.barrier(middle, length, side * (edge + 0.3), roll > 0.67);
                }
                for _ in 0..self.rng.random_range(1..4) {
                    let tree = objects::tree(&mut self.palette, self.rng);
                    let (ds, dt) = (self.rng.random_range(-0.5..0.5) * length, self.rng.random_range(3.0..11.0));
                    self.put(&tree, middle + ds, side * (edge + dt), 0.0, 0.0);
                }
                if self.rng.random_bool(0.2) {
                    let hedge = objects::hedge(&mut self.palette, self.rng, length * 0.8);
                    self.put(&hedge, middle, side * (edge + 1.4), 0.0, 0.0);
                }
                if self.rng.random_bool(0.75) {
                    let back = edge + self.rng.random_range(12.0..22.0);
                    self.house(middle, length * 0.8, side, side * back);
                }
            }
            s += length + if self.rng.random_bool(0.25) { self.rng.random_range(2.0..7.0) } else { 0.0 };
        }
        // A far row of trees and houses closes the view behind gaps.
        let mut s = self.span.0;
        while s < self.span.1 {
            let length = self.rng.random_range(14.0..30.0);
            self.house(s + length / 2.0, length, side, side * (edge + 34.0));
            s += length + self.rng.random_range(0.0..12.0);
        }
    }

    /// What stands on the pavement between `kerb` and `edge`.
    fn furnish(&mut self, side: f32, kerb: f32, edge: f32, leafy: f32) {
        let (from, to) = self.span;
        let facing = if side > 0.0 { 0.0 } else { std::f32::consts::PI };
        let near_kerb = side * (kerb + 0.45);
        let each = |b: &mut Self, gap: (f32, f32), f: &mut dyn FnMut(&mut Self, f32)| {
            let mut s = from + b.rng.random_range(0.0..gap.1);
            while s < to {
                f(b, s);
                s += b.rng.random_range(gap.0..gap.1);
            }
        };
        each(self, (20.0, 32.0), &mut |b, s| {
            if b.take(s, near_kerb, 0.5) {
                let m = objects::lamp_post(&mut b.palette, b.rng);
                b.put(&m, s, near_kerb, KERB_M, facing);
            }
        });
        each(self, (12.0, 34.0), &mut |b, s| {
            if b.take(s, near_kerb, 0.5) {
                let m = objects::sign(&mut b.palette, b.rng);
                let turned =
                    b.rng.random_range(-0.15..0.15) + if side < 0.0 && b.rng.random_bool(0.5) { facing } else { 0.0 };
                b.put(&m, s, near_kerb, KERB_M, turned);
            }
        });
        each(self, (6.0, 28.0), &mut |b, s| {
            if b.take(s, near_kerb, 0.3) {
                let m = objects::post(&mut b.palette, b.rng);
                b.put(&m, s, near_kerb, KERB_M, 0.0);
            }
        });
        if edge - kerb > 2.6 {
            each(self, (9.0, 9.0 + 26.0 * (1.2 - leafy)), &mut |b, s| {
                if b.take(s, side * (kerb + 0.9), 0.7) {
                    let m = objects::tree(&mut b.palette, b.rng);
                    b.put(&m, s, side * (kerb + 0.9), KERB_M, 0.0);
                }
            });
        }
        // Bicycles lean in racks, singly or in rows; motorcycles stand beside the road.
        each(self, (10.0, 34.0), &mut |b, s| {
            let motor = b.rng.random_bool(0.42);
            for k in 0..b.rng.random_range(1..6) {
                let t = side * (kerb + 1.0);
                let at = s + k as f32 * if motor { 1.3 } else { 0.75 };
                if b.take(at, t, 0.36) {
                    let m = if motor {
                        objects::motorcycle(&mut b.palette, b.rng)
                    } else {
                        objects::bicycle(&mut b.palette, b.rng)
                    };
                    let yaw = std::f32::consts::FRAC_PI_2 + b.rng.random_range(-0.35..0.35);
                    let yaw = if b.rng.random_bool(0.35) { yaw - 1.4 } else { yaw };
                    b.put(&m, at, t, KERB_M, yaw);
                }
            }
        });
        each(self, (2.5, 15.0), &mut |b, s| {
            let group = if b.rng.random_bool(0.3) { b.rng.random_range(2..5) } else { 1 };
            for k in 0..group {
                let t = side * b.rng.random_range(kerb + 0.8..edge.max(kerb + 1.4) - 0.3);
                let at = s + 0.7 * k as f32;
                if b.take(at, t, 0.3) {
                    let away = b.rng.random_bool(0.5);
                    let standing = b.rng.random_bool(0.25);
                    b.walkers.push(Walker {
                        seed: b.rng.random(),
                        s: at,
                        t,
                        y: KERB_M,
                        yaw: if standing {
                            b.rng.random_range(-3.0..3.0)
                        } else if away {
                            0.0
                        } else {
                            std::f32::consts::PI
                        },
                        speed: if standing {
                            0.0
                        } else {
                            b.rng.random_range(0.8..1.7) * if away { 1.0 } else { -1.0 }
                        },
                        phase: b.rng.random_range(0.0..6.0),
                    });
                }
            }
        });
    }

    fn vehicle(&mut self, rare: f64) -> (Mesh, f32) {
        let r: f64 = self.rng.random();
        if r < rare / 2.0 {
            (objects::truck(&mut self.palette, self.rng), 11.5)
        } else if r < rare {
            (objects::bus(&mut self.palette, self.rng), 14.0)
        } else {
            (objects::car(&mut self.palette, self.rng), 5.6)
        }
    }

    fn park(&mut self, side: f32, t: f32) {
        let density = self.rng.random_range(0.25..0.95);
        let mut s = self.span.0;
        while s < self.span.1 {
            if self.rng.random_bool(density) {
                let (m, length) = self.vehicle(0.1);
                let middle = s + length / 2.0;
                let turned = if side > 0.0 { 0.0 } else { std::f32::consts::PI };
                let (jitter, yaw) = (self.rng.random_range(-0.12..0.12), turned + self.rng.random_range(-0.03..0.03));
                // Not beside the camera's own start, where it would fill the picture.
                if self.take(middle, t, length * 0.35) {
                    self.put(&m, middle, t + jitter, 0.0, yaw);
                }
                s += length;
            } else {
                s += self.rng.random_range(3.0..9.0);
            }
        }
    }

    fn traffic(&mut self, lane_t: f32, direction: f32, own: bool, ego_speed: f32) {
        let mut s =
            if own { self.rng.random_range(11.0..34.0) } else { self.span.0 + self.rng.random_range(0.0..15.0) };
        let pace = if own { ego_speed * self.rng.random_range(0.95..1.15) } else { self.rng.random_range(4.0..11.0) };
        while s < self.span.1 {
            let r: f64 = self.rng.random();
            let (mesh, length, t) = if r < 0.24 {
                (objects::ridden(&mut self.palette, self.rng, false), 4.0, lane_t + direction * 0.8)
            } else if r < 0.42 {
                (objects::ridden(&mut self.palette, self.rng, true), 5.0, lane_t)
            } else {
                let (m, l) = self.vehicle(0.2);
                (m, l, lane_t)
            };
            let turned = if direction > 0.0 { 0.0 } else { std::f32::consts::PI };
            self.movers.push(Mover { mesh, s: s + length / 2.0, t, y: 0.0, yaw: turned, speed: direction * pace });
            s += length + self.rng.random_range(4.0..26.0);
        }
    }
}

impl Scene {
    /// Builds the street of a seed for a camera that drives `path_m` metres at `ego_speed` m/s.
    pub fn new(seed: u64, path_m: f32, ego_speed: f32) -> Self {
        let mut rng = Pcg32::seed_from_u64(seed);
        let straight = rng.random_bool(0.4);
        let course = Course {
            curvature: if straight { 0.0 } else { rng.random_range(-0.0035..0.0035) },
            hill_m: rng.random_range(0.0..1.4),
            hill_wavelength_m: rng.random_range(55.0..110.0),
            hill_phase: rng.random_range(0.0..std::f32::consts::TAU),
        };
        let lanes: u8 = if rng.random_bool(0.7) { 1 } else { 2 };
        let lane = rng.random_range(3.0..3.6);
        let (park_left, park_right) = (rng.random_bool(0.6), rng.random_bool(0.7));
        let leafy: f32 = rng.random();
        let mut b = Builder {
            rng: &mut rng,
            palette: Palette::default(),
            still: Mesh::default(),
            course,
            movers: Vec::new(),
            walkers: Vec::new(),
            span: (-BEHIND_M, path_m + AHEAD_M),
            taken: Vec::new(),
        };
        let driving = lane * f32::from(lanes);
        let asphalt = pick(b.rng, &[rgb(92, 92, 94), rgb(76, 77, 80), rgb(112, 108, 104), rgb(100, 102, 106)]);
        let zebra_at = b.rng.random_range(8.0..120.0);
        let surface_seed = b.rng.random_range(0..999);
        let road = b.palette.add(
            class::ROAD,
            Pattern::Road { half_width: driving, lanes, zebra_at },
            asphalt,
            asphalt,
            surface_seed,
        );
        let kerb = b.palette.plain(class::SIDEWALK, rgb(150, 148, 144));
        let slab_color = pick(b.rng, &[rgb(150, 146, 140), rgb(168, 160, 150), rgb(140, 120, 110), rgb(128, 130, 132)]);
        let slab_size = b.rng.random_range(0.3..0.8);
        let slabs =
            b.palette.add(class::SIDEWALK, Pattern::Slabs(slab_size), slab_color, slab_color * 0.5, surface_seed);
        let (green, dry) = (rgb(88, 108, 46), rgb(136, 122, 78));
        let grass = b.palette.add(class::TERRAIN, Pattern::Grass, green, dry, surface_seed);

        // A railway or tramway beside the road, on one side of some streets.
        let rails_side = pick(b.rng, &[0.0, 0.0, 1.0, -1.0, -1.0]);
        let mut edges = [0.0_f32; 2];
        let mut kerbs = [0.0_f32; 2];
        for (index, side) in [(0, -1.0_f32), (1, 1.0)] {
            let parked = if side > 0.0 { park_right } else { park_left };
            let mut t = driving + if parked { 2.2 } else { 0.0 };
            b.strip((0.0, 0.0), (side * t, -0.03), road);
            if rails_side == side {
                // Grass track: a green verge, two rails, and a train now and then.
                let base = b.palette.add(class::TERRAIN, Pattern::Grass, green * 0.9, rgb(120, 112, 100), surface_seed);
                b.strip((side * t, -0.03), (side * t, KERB_M), kerb);
                b.strip((side * t, KERB_M), (side * (t + 4.4), KERB_M), base);
                let steel = b.palette.plain(class::TERRAIN, rgb(120, 116, 112));
                for rail in [1.5, 2.94] {
                    b.strip((side * (t + rail), KERB_M + 0.03), (side * (t + rail + 0.08), KERB_M + 0.03), steel);
                }
                let mut s = b.rng.random_range(6.0..30.0);
                while s < b.span.1 - 40.0 {
                    let mesh = objects::train(&mut b.palette, b.rng);
                    let speed = b.rng.random_range(0.0..9.0) * -side.signum();
                    b.movers.push(Mover { mesh, s: s + 20.0, t: side * (t + 2.25), y: KERB_M, yaw: 0.0, speed });
                    s += b.rng.random_range(50.0..110.0);
                }
                t += 4.4;
            }
            kerbs[index] = t;
            b.strip((side * t, if rails_side == side { KERB_M } else { -0.03 }), (side * t, KERB_M + 0.002), kerb);
            b.strip((side * t, KERB_M), (side * (t + 0.16), KERB_M), kerb);
            let walk = b.rng.random_range(1.9..4.2);
            b.strip((side * (t + 0.16), KERB_M), (side * (t + walk), KERB_M + 0.03), slabs);
            t += walk;
            let verge: f32 =
                if b.rng.random_bool(0.35 + 0.5 * f64::from(leafy)) { b.rng.random_range(0.8..4.5) } else { 0.0 };
            b.strip((side * t, KERB_M + 0.03), (side * (t + verge.max(0.01)), KERB_M + 0.03), grass);
            t += verge;
            edges[index] = t;
            b.strip((side * t, KERB_M), (side * (t + 60.0), KERB_M + 0.5), grass);
        }

        let lane_t = driving - lane / 2.0 - if lanes == 2 && b.rng.random_bool(0.4) { lane } else { 0.0 };
        for (index, side) in [(0, -1.0_f32), (1, 1.0)] {
            b.line_side(side, edges[index], leafy);
            if if side > 0.0 { park_right } else { park_left } {
                b.park(side, side * (driving + 1.1));
            }
            // Traffic lights first: they have the best places.
            if b.rng.random_bool(0.85) {
                let further = b.rng.random_range(22.0..45.0);
                for s in [zebra_at - 1.0, zebra_at + further, zebra_at + 2.0 * further, zebra_at - further] {
                    let arm = b.rng.random_bool(0.5);
                    let m = objects::traffic_light(&mut b.palette, b.rng, arm && side > 0.0);
                    let t = side * (kerbs[index] + 0.4);
                    if b.take(s, t, 0.5) {
                        b.put(&m, s, t, KERB_M, 0.0);
                    }
                }
            }
            b.furnish(side, kerbs[index], edges[index], leafy);
        }
        for k in 0..lanes {
            let t = driving - lane * (f32::from(k) + 0.5);
            b.traffic(t, 1.0, (t - lane_t).abs() < 0.1, ego_speed);
            b.traffic(-t, -1.0, false, ego_speed);
        }
        // People on the crossing, and the odd one in the road.
        for _ in 0..b.rng.random_range(0..5) {
            let across: f32 = b.rng.random_range(-1.0..1.0);
            let right = b.rng.random_bool(0.5);
            b.walkers.push(Walker {
                seed: b.rng.random(),
                s: zebra_at + b.rng.random_range(0.4..3.2),
                t: across * driving,
                y: 0.0,
                yaw: if right { 1.57 } else { -1.57 },
                speed: 0.0,
                phase: b.rng.random_range(0.0..6.0),
            });
        }
        let Builder { palette, still, movers, walkers, .. } = b;
        Self { course, palette, still, movers, walkers, lane_t }
    }

    /// Everything in the street `time` seconds after the start. Nothing moves through the camera at `ego_s`.
    pub fn at(&mut self, time: f32, ego_s: f32) -> Mesh {
        let mut mesh = self.still.clone();
        for m in &self.movers {
            let s = m.s + m.speed * time;
            let beside = (m.t - self.lane_t).abs() > 1.8;
            if beside || (s - ego_s) > 6.5 {
                let mut to = self.course.place(s, m.t, m.y, m.yaw);
                to.matrix3 *= Mat3A::from_rotation_x(-self.course.slope(s) * libm::cosf(m.yaw));
                mesh.add(&m.mesh, &to);
            }
        }
        for w in &self.walkers {
            let s = w.s + w.speed * time;
            if (w.t - self.lane_t).abs() < 1.5 && (s - ego_s) < 5.0 {
                continue;
            }
            let mut rng = Pcg32::seed_from_u64(w.seed);
            let phase = w.phase + time * 6.5 * w.speed.abs().min(1.5) / 1.2;
            let body = objects::human(&mut self.palette, &mut rng, class::PERSON, Pose::Walking(phase));
            mesh.add(&body, &self.course.place(s, w.t, w.y, w.yaw));
        }
        mesh
    }
}

//! The things that stand and move in a street. Each is built around its own origin on the ground, facing +z.

use super::material::{class, rgb, Material, Pattern};
use super::mesh::{MaterialId, Mesh};
use glam::{Affine3A, Vec2, Vec3};
use rand::RngExt as _;
use rand_pcg::Pcg32;

/// The scene's materials; equal ones are kept once.
#[derive(Debug, Default)]
pub(super) struct Palette {
    pub materials: Vec<Material>,
}

impl Palette {
    pub fn add(&mut self, class: u8, pattern: Pattern, base: Vec3, second: Vec3, seed: u32) -> MaterialId {
        let material = Material { class, pattern, base, second, seed };
        if let Some(i) = self.materials.iter().position(|m| *m == material) {
            return i as MaterialId;
        }
        self.materials.push(material);
        (self.materials.len() - 1) as MaterialId
    }

    pub fn plain(&mut self, class: u8, base: Vec3) -> MaterialId {
        self.add(class, Pattern::Plain, base, base, 1)
    }
}

/// One of a list, at random.
pub(super) fn pick<T: Copy>(rng: &mut Pcg32, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

fn car_color(rng: &mut Pcg32) -> Vec3 {
    let c = pick(
        rng,
        &[
            (20, 20, 22),
            (60, 62, 66),
            (120, 124, 128),
            (175, 178, 182),
            (225, 226, 226),
            (225, 226, 226),
            (130, 20, 24),
            (24, 42, 96),
            (40, 82, 132),
            (34, 66, 44),
            (150, 120, 60),
            (90, 70, 50),
        ],
    );
    rgb(c.0, c.1, c.2)
}

fn v(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3::new(x, y, z)
}

fn wheel(mesh: &mut Mesh, at: Vec3, radius: f32, width: f32, face: MaterialId, tyre: MaterialId) {
    let half = Vec3::X * width / 2.0;
    mesh.tube((at - half, radius), (at + half, radius), 14, tyre);
    mesh.disc(at + half * 1.06, Vec3::X, radius, 16, face);
    mesh.disc(at - half * 1.06, Vec3::X, radius, 16, face);
}

/// Lamps and number plates on both ends of a vehicle of half width `half` from `rear` to `front`.
fn lamps(mesh: &mut Mesh, p: &mut Palette, kind: u8, (rear, front): (f32, f32), half: f32, y: f32) {
    let white = p.add(kind, Pattern::Lamp, rgb(225, 225, 210), Vec3::ZERO, 0);
    let red = p.add(kind, Pattern::Lamp, rgb(190, 20, 20), Vec3::ZERO, 0);
    let plate = p.plain(kind, rgb(235, 235, 225));
    let mut face = |z: f32, x0: f32, x1: f32, y0: f32, y1: f32, m: MaterialId| {
        mesh.quad([v(x0, y0, z), v(x1, y0, z), v(x1, y1, z), v(x0, y1, z)], Vec2::ZERO, Vec2::ONE, m);
    };
    for (z, m) in [(front + 0.015, white), (rear - 0.015, red)] {
        for side in [-1.0, 1.0] {
            face(z, side * (half - 0.42), side * (half - 0.06), y, y + 0.15, m);
        }
        face(z, -0.26, 0.26, y - 0.25, y - 0.13, plate);
    }
}

/// A car: hatchback, saloon, estate or van.
pub(super) fn car(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let k = class::CAR;
    let color = car_color(rng);
    let paint = p.add(k, Pattern::Paint, color, color, 0);
    let glass = p.add(k, Pattern::Glass, rgb(22, 27, 32), Vec3::ZERO, 0);
    let tyre = p.plain(k, rgb(26, 26, 27));
    let dark = p.plain(k, rgb(18, 18, 19));
    let mut m = Mesh::default();
    let style = rng.random_range(0..5);
    let length = match style {
        0 => rng.random_range(3.6..4.0),
        4 => rng.random_range(4.6..5.2),
        _ => rng.random_range(4.2..4.8),
    };
    let half = rng.random_range(0.85..0.94) + if style == 4 { 0.05 } else { 0.0 };
    let (r, f) = (-length / 2.0, length / 2.0);
    let (belt, roof) =
        if style == 4 { (1.1, 1.95) } else { (rng.random_range(0.86..0.98), rng.random_range(1.42..1.62)) };
    let hood = if style == 4 { 0.75 } else { length * 0.25 };
    // Body: from sill to belt line; the bonnet drops to the front.
    let body = [
        (r, 0.42),
        (r + 0.1, 0.24),
        (f - 0.1, 0.24),
        (f, 0.44),
        (f - 0.06, belt - 0.22),
        (f - hood, belt),
        (r + 0.03, belt),
    ];
    m.extrude(&body, half, (belt + 1.0, 0.0), paint, paint);
    // Cabin: glass all round under a painted roof with pillars.
    let tail = match style {
        1 => length * 0.2,
        0 | 3 => 0.12,
        2 => 0.3,
        _ => 0.04,
    };
    let cabin = [
        (r + tail, belt),
        (f - hood + 0.1, belt),
        (f - hood - (roof - belt) * 0.95, roof),
        (r + tail + if style == 4 { 0.05 } else { 0.35 }, roof),
    ];
    m.extrude(&cabin, half - 0.05, (roof - 0.02, 0.1), glass, glass);
    let (roof_front, roof_rear) = (cabin[2].0, cabin[3].0);
    m.block(v(-half + 0.14, roof - 0.01, roof_rear), v(half - 0.14, roof + 0.04, roof_front), paint, paint);
    for (z_low, z_high) in [
        (cabin[1].0, roof_front),
        ((roof_front + roof_rear) / 2.0, (roof_front + roof_rear) / 2.0),
        (cabin[0].0, roof_rear),
    ] {
        for side in [-1.0, 1.0] {
            m.tube(
                (v(side * (half - 0.06), belt, z_low), 0.05),
                (v(side * (half - 0.13), roof, z_high), 0.05),
                5,
                paint,
            );
        }
    }
    if style == 4 && rng.random_bool(0.5) {
        // A delivery van: no windows behind the driver.
        m.block(v(-half + 0.02, belt, r + 0.05), v(half - 0.02, roof - 0.02, f - hood - 1.3), paint, paint);
    }
    let rim = p.add(k, Pattern::Wheel(0.32), rgb(165, 168, 172), Vec3::ZERO, 0);
    for z in [r + length * 0.19, f - length * 0.19] {
        for side in [-1.0, 1.0] {
            wheel(&mut m, v(side * (half - 0.08), 0.32, z), 0.32, 0.22, rim, tyre);
        }
    }
    for side in [-1.0, 1.0] {
        let mirror = v(side * (half + 0.08), belt + 0.06, f - hood - 0.15);
        m.block(mirror - v(0.08, 0.06, 0.05), mirror + v(0.08, 0.08, 0.05), paint, paint);
    }
    m.block(v(-half + 0.15, 0.42, f - 0.02), v(half - 0.15, 0.56, f + 0.01), dark, dark);
    lamps(&mut m, p, k, (r, f), half, belt - 0.32);
    m
}

/// A lorry: cab and box, tipper or tanker.
pub(super) fn truck(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let k = class::TRUCK;
    let cab_color =
        pick(rng, &[rgb(200, 200, 200), rgb(170, 30, 30), rgb(30, 60, 120), rgb(210, 120, 20), rgb(50, 90, 60)]);
    let cargo_color =
        pick(rng, &[rgb(220, 220, 215), rgb(215, 215, 220), rgb(60, 90, 150), rgb(170, 60, 40), rgb(120, 125, 130)]);
    let paint = p.add(k, Pattern::Paint, cab_color, cab_color, 0);
    let cargo = p.add(k, Pattern::Concrete, cargo_color, cargo_color, rng.random_range(0..4));
    let glass = p.add(k, Pattern::Glass, rgb(20, 25, 30), Vec3::ZERO, 0);
    let dark = p.plain(k, rgb(30, 30, 32));
    let mut m = Mesh::default();
    let length = rng.random_range(6.5..10.5);
    let (r, f, half) = (-length / 2.0, length / 2.0, 1.22);
    let cab_length = 1.9;
    let top = rng.random_range(2.6..2.9);
    let cab = [(f - cab_length, 0.5), (f, 0.5), (f, 1.3), (f - 0.18, top), (f - cab_length, top)];
    m.extrude(&cab, half - 0.04, (9.0, 0.0), paint, paint);
    m.quad(
        [
            v(-half + 0.15, 1.42, f + 0.02),
            v(half - 0.15, 1.42, f + 0.02),
            v(half - 0.2, top - 0.25, f - 0.12),
            v(-half + 0.2, top - 0.25, f - 0.12),
        ],
        Vec2::ZERO,
        Vec2::ONE,
        glass,
    );
    for side in [-1.0, 1.0] {
        let x = side * (half - 0.02);
        m.quad(
            [v(x, 1.45, f - 1.25), v(x, 1.45, f - 0.3), v(x, top - 0.3, f - 0.4), v(x, top - 0.3, f - 1.25)],
            Vec2::ZERO,
            Vec2::ONE,
            glass,
        );
        m.block(v(side * (half + 0.12) - 0.06, 1.5, f - 0.3), v(side * (half + 0.12) + 0.06, 2.1, f - 0.2), dark, dark);
    }
    m.block(v(-half + 0.1, 0.55, r), v(half - 0.1, 0.95, f - 0.2), dark, dark);
    let box_top = rng.random_range(3.0..3.9);
    match rng.random_range(0..4) {
        0 => m.tube((v(0.0, 2.0, r + 0.1), 1.15), (v(0.0, 2.0, f - cab_length - 0.3), 1.15), 18, cargo),
        1 => m.block(v(-half, 0.95, r), v(half, 1.9, f - cab_length - 0.25), cargo, dark),
        _ => m.block(v(-half, 0.95, r), v(half, box_top, f - cab_length - 0.25), cargo, cargo),
    }
    let rim = p.add(k, Pattern::Wheel(0.5), rgb(120, 122, 125), Vec3::ZERO, 0);
    for z in [r + 1.2, r + 2.3, f - 1.2] {
        for side in [-1.0, 1.0] {
            wheel(&mut m, v(side * (half - 0.14), 0.5, z), 0.5, 0.3, rim, dark);
        }
    }
    lamps(&mut m, p, k, (r, f), half, 0.75);
    m
}

/// A city bus.
pub(super) fn bus(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let k = class::BUS;
    let c = pick(rng, &[rgb(190, 40, 36), rgb(225, 175, 40), rgb(230, 228, 220), rgb(60, 130, 80), rgb(50, 100, 170)]);
    let stripe = pick(rng, &[rgb(240, 240, 235), rgb(40, 60, 110), rgb(150, 30, 40)]);
    let side = p.add(k, Pattern::WindowBand { low: 1.05, high: 2.25, post: 1.35 }, c, stripe, 0);
    let paint = p.add(k, Pattern::Paint, c, c, 0);
    let glass = p.add(k, Pattern::Glass, rgb(22, 28, 34), Vec3::ZERO, 0);
    let dark = p.plain(k, rgb(26, 26, 28));
    let mut m = Mesh::default();
    let length = rng.random_range(10.0..13.0);
    let (r, f, half, top) = (-length / 2.0, length / 2.0, 1.27, 3.05);
    m.block(v(-half, 0.35, r), v(half, top, f), side, paint);
    m.block(v(-half + 0.3, top, r + 1.5), v(half - 0.3, top + 0.28, r + 4.5), paint, paint);
    for (z, out) in [(f, 0.02), (r, -0.02)] {
        m.quad(
            [
                v(-half + 0.05, 0.4, z + out),
                v(half - 0.05, 0.4, z + out),
                v(half - 0.05, top, z + out),
                v(-half + 0.05, top, z + out),
            ],
            Vec2::ZERO,
            Vec2::ONE,
            paint,
        );
        m.quad(
            [
                v(-half + 0.14, 1.1, z + 2.0 * out),
                v(half - 0.14, 1.1, z + 2.0 * out),
                v(half - 0.14, 2.5, z + 2.0 * out),
                v(-half + 0.14, 2.5, z + 2.0 * out),
            ],
            Vec2::ZERO,
            Vec2::ONE,
            glass,
        );
        let sign = p.add(k, Pattern::Lamp, rgb(240, 170, 40), Vec3::ZERO, 0);
        m.quad(
            [
                v(-0.7, 2.62, z + 2.0 * out),
                v(0.7, 2.62, z + 2.0 * out),
                v(0.7, 2.88, z + 2.0 * out),
                v(-0.7, 2.88, z + 2.0 * out),
            ],
            Vec2::ZERO,
            Vec2::ONE,
            sign,
        );
    }
    let rim = p.add(k, Pattern::Wheel(0.48), rgb(130, 130, 132), Vec3::ZERO, 0);
    for z in [r + 2.9, f - 2.6] {
        for s in [-1.0, 1.0] {
            wheel(&mut m, v(s * (half - 0.12), 0.48, z), 0.48, 0.3, rim, dark);
        }
    }
    lamps(&mut m, p, k, (r - 0.05, f + 0.05), half, 0.7);
    m
}

/// A tram or train of several cars, on its rails.
pub(super) fn train(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let k = class::TRAIN;
    let c = pick(rng, &[rgb(215, 200, 60), rgb(225, 225, 225), rgb(170, 36, 40), rgb(60, 110, 90)]);
    let stripe = pick(rng, &[rgb(60, 60, 70), rgb(30, 70, 140), rgb(180, 30, 40)]);
    let side = p.add(k, Pattern::WindowBand { low: 1.5, high: 2.55, post: 1.9 }, c, stripe, 3);
    let paint = p.add(k, Pattern::Paint, c, stripe, 3);
    let roof = p.plain(k, rgb(95, 98, 100));
    let glass = p.add(k, Pattern::Glass, rgb(20, 26, 32), Vec3::ZERO, 0);
    let dark = p.plain(k, rgb(34, 33, 33));
    let mut m = Mesh::default();
    let cars = rng.random_range(2..4);
    let (car_length, half, top) = (12.5, 1.3, 3.45);
    let total = car_length * cars as f32;
    for i in 0..cars {
        let r = -total / 2.0 + car_length * i as f32;
        let f = r + car_length - 0.5;
        m.block(v(-half, 0.55, r), v(half, top, f), side, roof);
        m.block(v(-0.8, top, r + 2.0), v(0.8, top + 0.35, f - 2.0), roof, roof);
        m.block(v(-half + 0.2, 0.75, f), v(half - 0.2, top - 0.2, f + 0.5), dark, dark);
        for z in [r + 2.0, f - 2.0] {
            m.block(v(-half + 0.15, 0.1, z - 1.1), v(half - 0.15, 0.6, z + 1.1), dark, dark);
        }
    }
    for (z, out) in [(total / 2.0 - 0.48, 0.02), (-total / 2.0, -0.02)] {
        m.quad(
            [v(-half, 0.55, z + out), v(half, 0.55, z + out), v(half, top, z + out), v(-half, top, z + out)],
            Vec2::ZERO,
            Vec2::ONE,
            paint,
        );
        m.quad(
            [
                v(-1.05, 1.55, z + 2.0 * out),
                v(1.05, 1.55, z + 2.0 * out),
                v(1.0, 2.9, z + 2.0 * out),
                v(-1.0, 2.9, z + 2.0 * out),
            ],
            Vec2::ZERO,
            Vec2::ONE,
            glass,
        );
    }
    lamps(&mut m, p, k, (-total / 2.0 - 0.04, total / 2.0 - 0.44), half, 1.1);
    m
}

/// What a body is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pose {
    /// Phase of the step, radians.
    Walking(f32),
    /// On a saddle of this height.
    Riding(f32),
}

/// A person or, on a saddle, a rider; 1.5 to 1.95 m.
pub(super) fn human(p: &mut Palette, rng: &mut Pcg32, kind: u8, pose: Pose) -> Mesh {
    let cloth = |rng: &mut Pcg32| {
        let c = pick(
            rng,
            &[
                (30, 32, 40),
                (60, 62, 70),
                (40, 55, 100),
                (120, 30, 36),
                (180, 170, 150),
                (70, 90, 60),
                (200, 200, 205),
                (150, 100, 50),
                (210, 160, 30),
                (20, 20, 22),
            ],
        );
        rgb(c.0, c.1, c.2)
    };
    let skin_color = pick(rng, &[rgb(225, 180, 150), rgb(190, 140, 105), rgb(110, 75, 50), rgb(235, 195, 170)]);
    let skin = p.plain(kind, skin_color);
    let hair = if kind == class::RIDER {
        p.add(kind, Pattern::Paint, pick(rng, &[rgb(230, 230, 230), rgb(40, 40, 44), rgb(190, 40, 40)]), Vec3::ZERO, 0)
    } else {
        p.plain(kind, pick(rng, &[rgb(30, 22, 18), rgb(90, 60, 35), rgb(170, 140, 90), rgb(120, 120, 120)]))
    };
    let top_color = cloth(rng);
    let top = p.add(kind, Pattern::Cloth, top_color, top_color, 2);
    let legs_color = cloth(rng) * 0.7;
    let legs = p.add(kind, Pattern::Cloth, legs_color, legs_color, 3);
    let shoe = p.plain(kind, rgb(30, 28, 27));
    let mut m = Mesh::default();
    let s = rng.random_range(0.9..1.1);
    let wide = rng.random_range(0.92..1.2);
    let (hip, shoulder, lean) = match pose {
        Pose::Walking(_) => (0.86 * s, 1.42 * s, 0.03),
        Pose::Riding(saddle) => (saddle, saddle + 0.52 * s, 0.28),
    };
    for side in [-1.0_f32, 1.0] {
        let swing = match pose {
            Pose::Walking(phase) => 0.32 * libm::sinf(phase) * side,
            Pose::Riding(_) => 0.0,
        };
        let hip_at = v(side * 0.1 * wide, hip, 0.0);
        let (knee, foot) = match pose {
            Pose::Walking(_) => (v(side * 0.1, 0.46 * s, swing * 0.55 + 0.04), v(side * 0.1, 0.07, swing)),
            Pose::Riding(saddle) => (
                v(side * 0.13, saddle - 0.1 + 0.12 * side, 0.38),
                v(side * 0.13, (saddle - 0.62 + 0.1 * side).max(0.12), 0.2),
            ),
        };
        m.tube((hip_at, 0.105 * wide), (knee, 0.075 * wide), 7, legs);
        m.tube((knee, 0.075 * wide), (foot, 0.055), 7, legs);
        m.ellipsoid(foot + v(0.0, -0.01, 0.06), v(0.06, 0.06, 0.14), 6, shoe);
        let shoulder_at = v(side * 0.2 * wide, shoulder - 0.04, lean);
        let hand = match pose {
            Pose::Walking(_) => v(side * 0.26 * wide, 0.8 * s, lean - swing * 0.7),
            Pose::Riding(saddle) => v(side * 0.24, saddle + 0.12, 0.55),
        };
        let elbow = (shoulder_at + hand) / 2.0 + v(side * 0.05, -0.02, -0.06);
        m.tube((shoulder_at, 0.06), (elbow, 0.048), 6, top);
        m.tube((elbow, 0.048), (hand, 0.038), 6, top);
        m.ellipsoid(hand, v(0.04, 0.05, 0.04), 5, skin);
    }
    m.tube((v(0.0, hip - 0.06, 0.0), 0.15 * wide), (v(0.0, (hip + shoulder) / 2.0, lean * 0.5), 0.16 * wide), 9, top);
    m.tube((v(0.0, (hip + shoulder) / 2.0, lean * 0.5), 0.16 * wide), (v(0.0, shoulder, lean), 0.19 * wide), 9, top);
    m.ellipsoid(v(0.0, shoulder, lean), v(0.21 * wide, 0.09, 0.12), 8, top);
    let head = v(0.0, shoulder + 0.21 * s, lean + 0.03);
    m.tube((v(0.0, shoulder, lean), 0.05), (head, 0.05), 6, skin);
    m.ellipsoid(head, v(0.085, 0.12, 0.1), 10, skin);
    m.ellipsoid(head + v(0.0, 0.04, -0.02), v(0.095, 0.105, 0.105), 10, hair);
    if kind == class::PERSON && rng.random_bool(0.3) {
        let bag_color = cloth(rng);
        let bag = p.add(kind, Pattern::Cloth, bag_color, bag_color, 5);
        m.block(v(-0.15, hip + 0.1, -0.32), v(0.15, shoulder - 0.05, -0.14), bag, bag);
    }
    m
}

/// A bicycle. Its wheels are full discs of spokes: as in Cityscapes, what is seen through a wheel is bicycle.
pub(super) fn bicycle(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let k = class::BICYCLE;
    let c = car_color(rng);
    let frame = p.add(k, Pattern::Paint, c, c, 0);
    let dark = p.plain(k, rgb(24, 24, 25));
    let spokes = p.add(k, Pattern::SpokedWheel(0.35), rgb(70, 72, 74), Vec3::ZERO, 0);
    let mut m = Mesh::default();
    for z in [-0.52, 0.55] {
        m.disc(v(0.012, 0.35, z), Vec3::X, 0.35, 20, spokes);
        for k in 0..14 {
            let at = |k: usize| {
                let a = std::f32::consts::TAU * k as f32 / 14.0;
                v(0.0, 0.35 + 0.33 * libm::sinf(a), z + 0.33 * libm::cosf(a))
            };
            m.tube((at(k), 0.022), (at(k + 1), 0.022), 4, dark);
        }
    }
    let (crank, seat, head, rear, front) =
        (v(0.0, 0.3, -0.02), v(0.0, 0.86, -0.2), v(0.0, 0.86, 0.38), v(0.0, 0.35, -0.52), v(0.0, 0.35, 0.55));
    for (a, b) in [(crank, seat), (seat, head), (crank, head), (crank, rear), (seat, rear), (head, front)] {
        m.tube((a, 0.026), (b, 0.026), 5, frame);
    }
    m.block(v(-0.07, 0.9, -0.34), v(0.07, 0.97, -0.08), dark, dark);
    m.tube((v(-0.28, 1.02, 0.36), 0.02), (v(0.28, 1.02, 0.36), 0.02), 5, dark);
    m.tube((head, 0.024), (v(0.0, 1.02, 0.36), 0.024), 5, frame);
    if rng.random_bool(0.35) {
        m.block(v(-0.16, 0.85, 0.46), v(0.16, 1.05, 0.74), dark, dark);
    }
    m
}

/// A motorcycle or scooter.
pub(super) fn motorcycle(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let k = class::MOTORCYCLE;
    let c = car_color(rng);
    let paint = p.add(k, Pattern::Paint, c, c, 0);
    let dark = p.plain(k, rgb(25, 25, 27));
    let metal = p.plain(k, rgb(140, 142, 146));
    let rim = p.add(k, Pattern::Wheel(0.33), rgb(150, 150, 152), Vec3::ZERO, 0);
    let mut m = Mesh::default();
    for z in [-0.7, 0.72] {
        wheel(&mut m, v(0.0, 0.33, z), 0.33, 0.15, rim, dark);
    }
    m.block(v(-0.16, 0.3, -0.35), v(0.16, 0.68, 0.4), dark, metal);
    m.ellipsoid(v(0.0, 0.86, 0.14), v(0.19, 0.16, 0.36), 10, paint);
    m.extrude(&[(-0.95, 0.82), (-0.15, 0.72), (-0.1, 0.86), (-0.9, 0.95)], 0.14, (9.0, 0.0), dark, dark);
    m.extrude(&[(-1.0, 0.68), (-0.3, 0.55), (-0.3, 0.78), (-0.95, 0.86)], 0.12, (9.0, 0.0), paint, paint);
    m.tube((v(0.0, 0.33, 0.72), 0.05), (v(0.0, 1.02, 0.46), 0.05), 6, metal);
    m.tube((v(-0.36, 1.08, 0.4), 0.025), (v(0.36, 1.08, 0.4), 0.025), 5, dark);
    m.ellipsoid(v(0.0, 0.96, 0.62), v(0.17, 0.19, 0.14), 8, paint);
    m.tube((v(0.17, 0.36, -0.85), 0.06), (v(0.17, 0.33, 0.1), 0.045), 7, metal);
    let lamp = p.add(k, Pattern::Lamp, rgb(235, 232, 215), Vec3::ZERO, 0);
    m.disc(v(0.0, 0.97, 0.77), Vec3::Z, 0.09, 10, lamp);
    let tail = p.add(k, Pattern::Lamp, rgb(180, 20, 20), Vec3::ZERO, 0);
    m.block(v(-0.08, 0.84, -1.02), v(0.08, 0.92, -0.98), tail, tail);
    m
}

/// A vehicle with its rider; the vehicle keeps its own class.
pub(super) fn ridden(p: &mut Palette, rng: &mut Pcg32, motor: bool) -> Mesh {
    let (mut m, saddle) = if motor { (motorcycle(p, rng), 0.92) } else { (bicycle(p, rng), 0.98) };
    let rider = human(p, rng, class::RIDER, Pose::Riding(saddle));
    m.add(&rider, &Affine3A::from_translation(v(0.0, 0.0, -0.2)));
    m
}

/// A tree.
pub(super) fn tree(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let k = class::VEGETATION;
    let c = pick(rng, &[rgb(70, 96, 40), rgb(88, 110, 48), rgb(60, 84, 46), rgb(110, 112, 44), rgb(54, 74, 34)]);
    let seed = rng.random_range(0..6);
    let bark = p.add(k, Pattern::Bark, rgb(84, 70, 56), Vec3::ZERO, 0);
    let core = p.add(k, Pattern::Foliage, c, c, seed);
    let shell = p.add(k, Pattern::LooseFoliage, c, c, seed);
    let mut m = Mesh::default();
    let height: f32 = rng.random_range(4.5..10.0);
    let trunk = height * rng.random_range(0.28..0.4);
    let radius = height * rng.random_range(0.2..0.3);
    m.tube((Vec3::ZERO, 0.035 * height.sqrt() + 0.06), (v(0.0, trunk * 1.4, 0.0), 0.09), 8, bark);
    for _ in 0..rng.random_range(5..9) {
        let at = v(
            rng.random_range(-0.6..0.6) * radius,
            rng.random_range(trunk..height - 0.5 * radius),
            rng.random_range(-0.6..0.6) * radius,
        );
        let r = radius * rng.random_range(0.55..0.85);
        m.tube((v(0.0, trunk, 0.0), 0.06), (at, 0.03), 5, bark);
        m.ellipsoid(at, v(r, r * 0.85, r) * 0.86, 10, core);
        m.ellipsoid(at, v(r, r * 0.85, r) * 1.12, 12, shell);
    }
    m
}

/// A hedge or bush of a length along z.
pub(super) fn hedge(p: &mut Palette, rng: &mut Pcg32, length: f32) -> Mesh {
    let c = pick(rng, &[rgb(58, 84, 38), rgb(74, 96, 44)]);
    let seed = rng.random_range(0..6);
    let core = p.add(class::VEGETATION, Pattern::Foliage, c, c, seed);
    let shell = p.add(class::VEGETATION, Pattern::LooseFoliage, c, c, seed);
    let mut m = Mesh::default();
    let height = rng.random_range(0.8..1.9);
    let mut z = -length / 2.0;
    while z < length / 2.0 {
        let r = v(0.55, height * rng.random_range(0.48..0.56), 0.75);
        m.ellipsoid(v(0.0, height * 0.5, z), r, 9, core);
        m.ellipsoid(v(0.0, height * 0.5, z), r * 1.14, 10, shell);
        z += 0.8;
    }
    m
}

/// A street lamp; its arm reaches over the road, to -x.
pub(super) fn lamp_post(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let c = pick(rng, &[rgb(110, 114, 116), rgb(70, 76, 74), rgb(140, 142, 140)]);
    let metal = p.plain(class::POLE, c);
    let mut m = Mesh::default();
    let h = rng.random_range(5.5..8.5);
    m.tube((Vec3::ZERO, 0.11), (v(0.0, h, 0.0), 0.07), 8, metal);
    m.tube((v(0.0, h, 0.0), 0.05), (v(-1.5, h + 0.3, 0.0), 0.05), 6, metal);
    m.block(v(-2.0, h + 0.22, -0.13), v(-1.35, h + 0.38, 0.13), metal, metal);
    m
}

/// A bollard or a plain post.
pub(super) fn post(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let h: f32 = if rng.random_bool(0.6) { 1.0 } else { rng.random_range(2.5..7.0) };
    let metal = p.plain(class::POLE, pick(rng, &[rgb(90, 92, 94), rgb(150, 140, 130), rgb(56, 60, 62)]));
    let mut m = Mesh::default();
    m.tube((Vec3::ZERO, if h > 1.5 { 0.1 } else { 0.07 }), (v(0.0, h, 0.0), 0.07), 8, metal);
    m
}

/// A traffic sign on its pole, facing -z (towards who drives in +z).
pub(super) fn sign(p: &mut Palette, rng: &mut Pcg32) -> Mesh {
    let metal = p.plain(class::POLE, rgb(130, 134, 136));
    let back = p.plain(class::TRAFFIC_SIGN, rgb(120, 122, 124));
    let k = class::TRAFFIC_SIGN;
    let mut m = Mesh::default();
    let h = rng.random_range(2.1..2.7);
    m.tube((Vec3::ZERO, 0.045), (v(0.0, h + 0.35, 0.0), 0.045), 7, metal);
    let r = rng.random_range(0.36..0.5);
    let at = v(0.0, h + r * 0.4, -0.06);
    let behind = at + v(0.0, 0.0, 0.025);
    match rng.random_range(0..5) {
        0 => {
            let face = p.add(k, Pattern::SignTriangle(r), Vec3::ONE, Vec3::ONE, 0);
            let corner = |a: f32| v(libm::cosf(a), libm::sinf(a), 0.0) * r;
            let c = [90.0_f32, 210.0, 330.0].map(|a| corner(a.to_radians()));
            m.triangle(c.map(|c| at + c), c.map(|c| Vec2::new(c.x, c.y)), face);
            m.triangle(c.map(|c| behind + c), [Vec2::ZERO; 3], back);
        }
        1 => {
            let face = p.add(k, Pattern::SignRound(r), rgb(235, 235, 230), rgb(190, 22, 28), 0);
            m.disc(at, Vec3::Z, r, 20, face);
            m.disc(behind, Vec3::Z, r, 20, back);
        }
        2 => {
            let face = p.add(k, Pattern::SignStop(r), Vec3::ONE, Vec3::ONE, 0);
            m.disc(at, Vec3::Z, r, 8, face);
            m.disc(behind, Vec3::Z, r, 8, back);
        }
        3 => {
            let face = p.add(k, Pattern::SignRound(r), rgb(30, 80, 170), rgb(235, 235, 235), 0);
            m.disc(at, Vec3::Z, r, 20, face);
            m.disc(behind, Vec3::Z, r, 20, back);
        }
        _ => {
            let (w, t) = (rng.random_range(0.4..0.8), rng.random_range(0.6..1.0));
            let face = p.add(
                k,
                Pattern::SignBoard,
                pick(rng, &[rgb(30, 80, 170), rgb(235, 200, 40), rgb(235, 235, 230)]),
                rgb(20, 20, 24),
                0,
            );
            let q = |z: f32| {
                [
                    v(-w / 2.0, h - 0.4, z),
                    v(w / 2.0, h - 0.4, z),
                    v(w / 2.0, h - 0.4 + t, z),
                    v(-w / 2.0, h - 0.4 + t, z),
                ]
            };
            m.quad(q(-0.06), Vec2::ZERO, Vec2::new(w, t), face);
            m.quad(q(-0.035), Vec2::ZERO, Vec2::new(w, t), back);
        }
    }
    m
}

/// A traffic light facing -z; with `arm`, a second head hangs over the road at -x.
pub(super) fn traffic_light(p: &mut Palette, rng: &mut Pcg32, arm: bool) -> Mesh {
    let metal = p.plain(class::POLE, rgb(84, 90, 88));
    let k = class::TRAFFIC_LIGHT;
    let lit = rng.random_range(0..3);
    let front = p.add(k, Pattern::Lenses { lit, height: 0.95 }, rgb(26, 28, 27), Vec3::ZERO, 0);
    let housing = p.plain(k, rgb(26, 30, 28));
    let mut m = Mesh::default();
    let head = |m: &mut Mesh, x: f32, y: f32| {
        m.block(v(x - 0.16, y, -0.14), v(x + 0.16, y + 0.97, 0.14), housing, housing);
        m.quad(
            [v(x - 0.15, y, -0.16), v(x + 0.15, y, -0.16), v(x + 0.15, y + 0.95, -0.16), v(x - 0.15, y + 0.95, -0.16)],
            Vec2::ZERO,
            Vec2::new(0.3, 0.95),
            front,
        );
    };
    let h = if arm { 5.6 } else { 2.3 };
    m.tube((v(0.0, 0.0, 0.2), 0.09), (v(0.0, h + 0.3, 0.2), 0.07), 8, metal);
    head(&mut m, 0.0, 2.3);
    if arm {
        m.tube((v(0.0, 5.8, 0.2), 0.06), (v(-4.2, 5.9, 0.2), 0.05), 7, metal);
        head(&mut m, -3.9, 4.95);
    }
    m
}

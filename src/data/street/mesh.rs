//! Triangles, and the few solids that everything in a street is put together from.
//!
//! Object space: x to the right, y up, z forward, metres. Texture coordinates are metres along the surface unless a
//! material says otherwise.

use glam::{Affine3A, Vec2, Vec3};
use std::f32::consts::{PI, TAU};

/// Index into the scene's material table.
pub(super) type MaterialId = u16;

/// A corner of a triangle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vertex {
    pub p: Vec3,
    pub n: Vec3,
    pub uv: Vec2,
}

/// A triangle of one material.
#[derive(Debug, Clone, Copy)]
pub(super) struct Triangle {
    pub v: [Vertex; 3],
    pub material: MaterialId,
}

/// A bag of triangles.
#[derive(Debug, Clone, Default)]
pub(super) struct Mesh {
    pub triangles: Vec<Triangle>,
}

impl Mesh {
    /// Adds `other`, moved by `to`.
    pub fn add(&mut self, other: &Mesh, to: &Affine3A) {
        self.triangles.extend(other.triangles.iter().map(|t| Triangle {
            v: t.v.map(|v| Vertex {
                p: to.transform_point3(v.p),
                n: to.transform_vector3(v.n).normalize_or_zero(),
                uv: v.uv,
            }),
            material: t.material,
        }));
    }

    /// A triangle with a flat normal.
    pub fn triangle(&mut self, p: [Vec3; 3], uv: [Vec2; 3], material: MaterialId) {
        let n = (p[1] - p[0]).cross(p[2] - p[0]).normalize_or_zero();
        let v = [0, 1, 2].map(|i| Vertex { p: p[i], n, uv: uv[i] });
        self.triangles.push(Triangle { v, material });
    }

    /// A quadrilateral `a b c d` (in order around it); `uv0` belongs to `a`, `uv1` to `c`.
    pub fn quad(&mut self, p: [Vec3; 4], uv0: Vec2, uv1: Vec2, material: MaterialId) {
        let uv = [uv0, Vec2::new(uv1.x, uv0.y), uv1, Vec2::new(uv0.x, uv1.y)];
        self.triangle([p[0], p[1], p[2]], [uv[0], uv[1], uv[2]], material);
        self.triangle([p[0], p[2], p[3]], [uv[0], uv[2], uv[3]], material);
    }

    /// A box from `lo` to `hi`: `side` on the four walls (u along the wall, v up from the floor), `top` above.
    pub fn block(&mut self, lo: Vec3, hi: Vec3, side: MaterialId, top: MaterialId) {
        let c = |x: f32, y: f32, z: f32| Vec3::new(x, y, z);
        let d = hi - lo;
        let walls = [
            ([c(lo.x, lo.y, lo.z), c(lo.x, lo.y, hi.z), c(lo.x, hi.y, hi.z), c(lo.x, hi.y, lo.z)], d.z),
            ([c(hi.x, lo.y, hi.z), c(hi.x, lo.y, lo.z), c(hi.x, hi.y, lo.z), c(hi.x, hi.y, hi.z)], d.z),
            ([c(hi.x, lo.y, lo.z), c(lo.x, lo.y, lo.z), c(lo.x, hi.y, lo.z), c(hi.x, hi.y, lo.z)], d.x),
            ([c(lo.x, lo.y, hi.z), c(hi.x, lo.y, hi.z), c(hi.x, hi.y, hi.z), c(lo.x, hi.y, hi.z)], d.x),
        ];
        for (p, length) in walls {
            self.quad(p, Vec2::ZERO, Vec2::new(length, d.y), side);
        }
        for y in [hi.y, lo.y] {
            self.quad(
                [c(lo.x, y, lo.z), c(hi.x, y, lo.z), c(hi.x, y, hi.z), c(lo.x, y, hi.z)],
                Vec2::ZERO,
                Vec2::new(d.x, d.z),
                top,
            );
        }
    }

    /// A tube from `a` (radius `ra`) to `b` (radius `rb`) with `sides` sides and closed ends.
    pub fn tube(&mut self, (a, ra): (Vec3, f32), (b, rb): (Vec3, f32), sides: usize, material: MaterialId) {
        let axis = (b - a).normalize_or(Vec3::Y);
        let helper = if axis.x.abs() > 0.8 { Vec3::Y } else { Vec3::X };
        let e1 = axis.cross(helper).normalize_or(Vec3::Z);
        let e2 = axis.cross(e1);
        let length = (b - a).length();
        let ring = |k: usize| {
            let angle = TAU * k as f32 / sides as f32;
            e1 * libm::cosf(angle) + e2 * libm::sinf(angle)
        };
        for k in 0..sides {
            let (d0, d1) = (ring(k), ring(k + 1));
            let (u0, u1) = (ra * TAU * k as f32 / sides as f32, ra * TAU * (k + 1) as f32 / sides as f32);
            let v = [
                Vertex { p: a + d0 * ra, n: d0, uv: Vec2::new(u0, 0.0) },
                Vertex { p: a + d1 * ra, n: d1, uv: Vec2::new(u1, 0.0) },
                Vertex { p: b + d1 * rb, n: d1, uv: Vec2::new(u1, length) },
                Vertex { p: b + d0 * rb, n: d0, uv: Vec2::new(u0, length) },
            ];
            self.triangles.push(Triangle { v: [v[0], v[1], v[2]], material });
            self.triangles.push(Triangle { v: [v[0], v[2], v[3]], material });
            for (end, radius) in [(a, ra), (b, rb)] {
                let flat = |d: Vec3| Vec2::new(d.dot(e1), d.dot(e2)) * radius;
                self.triangle([end, end + d0 * radius, end + d1 * radius], [Vec2::ZERO, flat(d0), flat(d1)], material);
            }
        }
    }

    /// An ellipsoid, smooth. Texture coordinates are metres around the equator and along the meridian.
    pub fn ellipsoid(&mut self, center: Vec3, radii: Vec3, detail: usize, material: MaterialId) {
        let (around, up) = (detail.max(5), (detail / 2).max(3));
        let vertex = |i: usize, j: usize| {
            let (a, b) = (TAU * i as f32 / around as f32, PI * j as f32 / up as f32 - PI / 2.0);
            let d = Vec3::new(libm::cosf(b) * libm::cosf(a), libm::sinf(b), libm::cosf(b) * libm::sinf(a));
            let n = (d / radii).normalize_or(Vec3::Y);
            Vertex { p: center + d * radii, n, uv: Vec2::new(a * radii.x.max(radii.z), b * radii.y) }
        };
        for i in 0..around {
            for j in 0..up {
                let v = [vertex(i, j), vertex(i + 1, j), vertex(i + 1, j + 1), vertex(i, j + 1)];
                self.triangles.push(Triangle { v: [v[0], v[1], v[2]], material });
                self.triangles.push(Triangle { v: [v[0], v[2], v[3]], material });
            }
        }
    }

    /// A disc of two faces with the given axis; texture coordinates are metres from its centre.
    pub fn disc(&mut self, center: Vec3, axis: Vec3, radius: f32, sides: usize, material: MaterialId) {
        let helper = if axis.y.abs() > 0.8 { Vec3::X } else { Vec3::Y };
        let e1 = axis.cross(helper).normalize_or(Vec3::Z);
        let e2 = e1.cross(axis).normalize_or(Vec3::Y);
        for k in 0..sides {
            // Turned by half a side, so that four sides stand as a square and eight as a stop sign.
            let at = |k: usize| {
                let a = TAU * (k as f32 + 0.5) / sides as f32;
                Vec2::new(libm::cosf(a), libm::sinf(a)) * radius
            };
            let (a, b) = (at(k), at(k + 1));
            let p = |q: Vec2| center + e1 * q.x + e2 * q.y;
            self.triangle([center, p(a), p(b)], [Vec2::ZERO, a, b], material);
        }
    }

    /// A convex profile in the (z, y) plane, extruded from `x = -half` to `half`; `inset` narrows the upper part
    /// (points above `shoulder_y`) on each side. Texture coordinates on the flanks are (z, y) of the profile.
    pub fn extrude(
        &mut self,
        profile: &[(f32, f32)],
        half: f32,
        (shoulder_y, inset): (f32, f32),
        flank: MaterialId,
        rim: MaterialId,
    ) {
        let x_of = |y: f32| if y > shoulder_y { half - inset } else { half };
        let point = |side: f32, (z, y): (f32, f32)| Vec3::new(side * x_of(y), y, z);
        let count = profile.len();
        for side in [-1.0, 1.0] {
            for k in 1..count - 1 {
                let q = [profile[0], profile[k], profile[k + 1]];
                self.triangle(q.map(|c| point(side, c)), q.map(|(z, y)| Vec2::new(z, y)), flank);
            }
        }
        for k in 0..count {
            let (a, b) = (profile[k], profile[(k + 1) % count]);
            let length = libm::hypotf(b.0 - a.0, b.1 - a.1);
            self.quad(
                [point(-1.0, a), point(1.0, a), point(1.0, b), point(-1.0, b)],
                Vec2::ZERO,
                Vec2::new(2.0 * half, length),
                rim,
            );
        }
    }
}

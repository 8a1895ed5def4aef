//! The visibility buffer: for each pixel centre the nearest triangle, for a pinhole or an orthographic view.
//!
//! Only the triangle's number is kept. Where exactly the pixel's ray meets it (depth, texture coordinates, normal) is
//! computed afterwards, in double precision, from the triangle itself: depth is exact to rounding, not interpolated.

use super::mesh::{MaterialId, Triangle};
use glam::{DMat3, DVec2, DVec3, Vec2, Vec3};
use rayon::prelude::*;

/// No triangle: the sky.
pub(super) const NOTHING: u32 = u32::MAX;

/// Nothing nearer than this is drawn, metres.
const NEAR_M: f64 = 0.25;

/// From where the scene is looked at.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// World position of the eye.
    pub eye: DVec3,
    /// Rows: the view's right, down and forward axes in the world.
    pub axes: DMat3,
    /// Pixels: focal lengths of a pinhole, or pixels a metre of an orthographic view.
    pub scale: DVec2,
    /// Pixels: the principal point.
    pub center: DVec2,
    /// Orthographic instead of pinhole.
    pub orthographic: bool,
    pub width: usize,
    pub height: usize,
}

impl View {
    /// World point to view axes (right, down, forward).
    pub fn to_view(&self, p: Vec3) -> DVec3 {
        let d = p.as_dvec3() - self.eye;
        DVec3::new(self.axes.x_axis.dot(d), self.axes.y_axis.dot(d), self.axes.z_axis.dot(d))
    }

    /// View coordinates to pixels, and a nearness that is linear on the screen and grows towards the eye.
    pub fn project(&self, v: DVec3) -> (DVec2, f64) {
        if self.orthographic {
            (DVec2::new(v.x, v.y) * self.scale + self.center, -v.z)
        } else {
            (DVec2::new(v.x, v.y) / v.z * self.scale + self.center, 1.0 / v.z)
        }
    }

    /// Origin and direction, in view coordinates, of the ray through a pixel; a pinhole's direction has z = 1.
    fn ray(&self, pixel: DVec2) -> (DVec3, DVec3) {
        let q = (pixel - self.center) / self.scale;
        if self.orthographic {
            (DVec3::new(q.x, q.y, 0.0), DVec3::Z)
        } else {
            (DVec3::ZERO, DVec3::new(q.x, q.y, 1.0))
        }
    }

    /// Where the ray through `pixel` meets the plane of a triangle given in view coordinates: depth along the
    /// forward axis and the barycentric coordinates. `None` for a triangle seen edge on.
    pub fn hit(&self, pixel: DVec2, v: &[DVec3; 3]) -> Option<(f64, DVec3)> {
        let (origin, direction) = self.ray(pixel);
        let (e1, e2) = (v[1] - v[0], v[2] - v[0]);
        let q = direction.cross(e2);
        let det = e1.dot(q);
        if det.abs() < 1e-14 {
            return None;
        }
        let t = origin - v[0];
        let b1 = t.dot(q) / det;
        let r = t.cross(e1);
        let b2 = direction.dot(r) / det;
        let z = e2.dot(r) / det;
        Some((z, DVec3::new(1.0 - b1 - b2, b1, b2)))
    }
}

/// A triangle (or a part of one, after clipping) on the screen.
struct ScreenTriangle {
    p: [DVec2; 3],
    nearness: [f64; 3],
    source: u32,
    y_range: (i32, i32),
}

fn screen_triangle(view: &View, v: [DVec3; 3], source: u32) -> Option<ScreenTriangle> {
    let projected = v.map(|v| view.project(v));
    let p = projected.map(|q| q.0);
    let lo = p[0].min(p[1]).min(p[2]);
    let hi = p[0].max(p[1]).max(p[2]);
    if hi.x < 0.0 || hi.y < 0.0 || lo.x > view.width as f64 || lo.y > view.height as f64 || !(hi - lo).is_finite() {
        return None;
    }
    let first = (lo.y - 0.5).ceil().max(0.0) as i32;
    let last = (hi.y - 0.5).floor().min(view.height as f64 - 1.0) as i32;
    (first <= last).then_some(ScreenTriangle { p, nearness: projected.map(|q| q.1), source, y_range: (first, last) })
}

/// Clips against the near plane (a pinhole only) and projects.
fn prepare(view: &View, triangle: &Triangle, source: u32, out: &mut Vec<ScreenTriangle>) {
    let v = triangle.v.map(|v| view.to_view(v.p));
    if view.orthographic {
        out.extend(screen_triangle(view, v, source));
        return;
    }
    let inside = v.map(|v| v.z >= NEAR_M);
    match inside.iter().filter(|&&i| i).count() {
        0 => {}
        3 => out.extend(screen_triangle(view, v, source)),
        _ => {
            let mut polygon = [DVec3::ZERO; 4];
            let mut count = 0;
            for k in 0..3 {
                let (a, b) = (v[k], v[(k + 1) % 3]);
                if inside[k] {
                    polygon[count] = a;
                    count += 1;
                }
                if inside[k] != inside[(k + 1) % 3] {
                    polygon[count] = a + (b - a) * ((NEAR_M - a.z) / (b.z - a.z));
                    count += 1;
                }
            }
            for k in 1..count - 1 {
                out.extend(screen_triangle(view, [polygon[0], polygon[k], polygon[k + 1]], source));
            }
        }
    }
}

/// What is seen at each pixel centre.
pub(super) struct Visibility {
    /// Number of the triangle, or [`NOTHING`].
    pub triangle: Vec<u32>,
    /// Nearness as [`View::project`] gives it; minus infinity where there is nothing.
    pub nearness: Vec<f32>,
}

/// Draws `triangles`. `cut(material, uv)` says where a triangle of a material with holes has a hole;
/// `has_holes(material)` spares the question for all others.
pub(super) fn draw(
    view: &View,
    triangles: &[Triangle],
    has_holes: impl Fn(MaterialId) -> bool + Sync,
    cut: impl Fn(MaterialId, Vec2) -> bool + Sync,
) -> Visibility {
    let screen: Vec<ScreenTriangle> = triangles
        .par_chunks(2048)
        .enumerate()
        .map(|(chunk, part)| {
            let mut out = Vec::with_capacity(part.len());
            for (k, t) in part.iter().enumerate() {
                prepare(view, t, (chunk * 2048 + k) as u32, &mut out);
            }
            out
        })
        .flatten()
        .collect();

    let mut triangle = vec![NOTHING; view.width * view.height];
    let mut nearness = vec![f32::NEG_INFINITY; view.width * view.height];
    let band_rows = view.height.div_ceil(16).max(8);
    let band_pixels = band_rows * view.width;
    triangle.par_chunks_mut(band_pixels).zip(nearness.par_chunks_mut(band_pixels)).enumerate().for_each(
        |(band, (ids, near))| {
            let top = (band * band_rows) as i32;
            let bottom = top + (ids.len() / view.width) as i32 - 1;
            for s in &screen {
                if s.y_range.1 < top || s.y_range.0 > bottom {
                    continue;
                }
                fill(view, s, triangles, (top, bottom), ids, near, &has_holes, &cut);
            }
        },
    );
    Visibility { triangle, nearness }
}

#[allow(clippy::too_many_arguments)] // one inner loop, not an interface
fn fill(
    view: &View,
    s: &ScreenTriangle,
    triangles: &[Triangle],
    (top, bottom): (i32, i32),
    ids: &mut [u32],
    near: &mut [f32],
    has_holes: &impl Fn(MaterialId) -> bool,
    cut: &impl Fn(MaterialId, Vec2) -> bool,
) {
    let [a, b, c] = s.p;
    let area = (b - a).perp_dot(c - a);
    if area.abs() < 1e-12 {
        return;
    }
    let source = &triangles[s.source as usize];
    let holes = has_holes(source.material).then(|| source.v.map(|v| view.to_view(v.p)));
    // Nearness is linear on the screen: n(x, y) = n_a + gx (x - a.x) + gy (y - a.y).
    let (db, dc) = (s.nearness[1] - s.nearness[0], s.nearness[2] - s.nearness[0]);
    let (eb, ec) = (b - a, c - a);
    let gx = (db * ec.y - dc * eb.y) / area;
    let gy = (dc * eb.x - db * ec.x) / area;
    for y in s.y_range.0.max(top)..=s.y_range.1.min(bottom) {
        let py = f64::from(y) + 0.5;
        // The row's span: where it crosses the triangle's edges.
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for (p, q) in [(a, b), (b, c), (c, a)] {
            let (low, high) = if p.y < q.y { (p, q) } else { (q, p) };
            if py < low.y || py > high.y || low.y == high.y {
                continue;
            }
            let x = low.x + (high.x - low.x) * ((py - low.y) / (high.y - low.y));
            from = from.min(x);
            to = to.max(x);
        }
        let first = (from - 0.5).ceil().max(0.0);
        let last = (to - 0.5).floor().min(view.width as f64 - 1.0);
        if first > last {
            continue;
        }
        let row = (y - top) as usize * view.width;
        for x in first as usize..=last as usize {
            let px = x as f64 + 0.5;
            let nearness = (s.nearness[0] + gx * (px - a.x) + gy * (py - a.y)) as f32;
            if nearness <= near[row + x] {
                continue;
            }
            if let Some(v) = &holes {
                let Some((_, bary)) = view.hit(DVec2::new(px, py), v) else { continue };
                if cut(source.material, interpolate_uv(source, bary)) {
                    continue;
                }
            }
            near[row + x] = nearness;
            ids[row + x] = s.source;
        }
    }
}

/// Texture coordinates at barycentric coordinates.
pub(super) fn interpolate_uv(t: &Triangle, bary: DVec3) -> Vec2 {
    let b = bary.as_vec3();
    t.v[0].uv * b.x + t.v[1].uv * b.y + t.v[2].uv * b.z
}

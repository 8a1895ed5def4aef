//! Surfaces that a depth map shows.

/// A surface ends where the inverse depth of a pixel differs from the mean of its two neighbours' by more than half
/// this share of itself. (On a plane the inverse depth is linear in the image, so that a road is whole up to the
/// horizon, where depth itself jumps from row to row.)
const DISCONTINUITY: f32 = 0.1;

/// Unit normals `[3, h, w]` (planes x, y, z) of the surface that a depth map shows, towards the camera, in its frame: x
/// right, y down, z forward. A road is (0, -1, 0).
///
/// The normal is the cross product of the differences between the back-projected points of the right and the left, and
/// of the lower and the upper neighbour. NaN at the picture's border, where one of the five depths is not known, and
/// where the surface ends between them (`DISCONTINUITY`). One factor on all depths changes no normal.
///
/// `depth_m` `[h, w]`, NaN or not positive where not known; `focal_px` and `principal_px` horizontal and vertical, in
/// pixels of the map, in which the first pixel's middle is at 0.5.
pub fn surface_normals(
    depth_m: &[f32],
    (width, height): (usize, usize),
    focal_px: (f32, f32),
    principal_px: (f32, f32),
) -> Vec<f32> {
    let plane = width * height;
    let mut normals = vec![f32::NAN; 3 * plane];
    let ray = |x: usize, y: usize| {
        [(x as f32 + 0.5 - principal_px.0) / focal_px.0, (y as f32 + 0.5 - principal_px.1) / focal_px.1, 1.0]
    };
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let at = y * width + x;
            let [center, left, right, up, down] = [at, at - 1, at + 1, at - width, at + width].map(|i| depth_m[i]);
            if !continues(left, center, right) || !continues(up, center, down) {
                continue;
            }
            let point = |x, y, depth: f32| ray(x, y).map(|v| v * depth);
            let across = difference(point(x + 1, y, right), point(x - 1, y, left));
            let along = difference(point(x, y + 1, down), point(x, y - 1, up));
            let normal = cross(along, across);
            let length = dot(normal, normal).sqrt();
            if length > 0.0 && length.is_finite() {
                let sign = if dot(normal, ray(x, y)) > 0.0 { -1.0 } else { 1.0 };
                for (k, v) in normal.into_iter().enumerate() {
                    normals[k * plane + at] = sign * v / length;
                }
            }
        }
    }
    normals
}

/// Whether three neighbouring depths lie on one surface. (NaN compares as false: not known is no surface.)
fn continues(before: f32, center: f32, after: f32) -> bool {
    let bend = (1.0 / before + 1.0 / after - 2.0 / center).abs() * center;
    before > 0.0 && center > 0.0 && after > 0.0 && bend <= DISCONTINUITY
}

fn difference(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    std::array::from_fn(|k| a[k] - b[k])
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    (0..3).map(|k| a[k] * b[k]).sum()
}

fn cross(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (24, 16);
    const FOCAL: (f32, f32) = (30.0, 28.0);
    /// Not in the middle, as in a crop.
    const PRINCIPAL: (f32, f32) = (9.0, 4.3);

    /// Depth of the plane `normal . p = -distance` in the picture; NaN where a ray misses it.
    fn plane(normal: [f32; 3], distance: f32, principal: (f32, f32)) -> Vec<f32> {
        let mut depth = Vec::new();
        for y in 0..SIZE.1 {
            for x in 0..SIZE.0 {
                let ray = [(x as f32 + 0.5 - principal.0) / FOCAL.0, (y as f32 + 0.5 - principal.1) / FOCAL.1, 1.0];
                let z = -distance / dot(normal, ray);
                depth.push(if z > 0.0 { z } else { f32::NAN });
            }
        }
        depth
    }

    fn at(normals: &[f32], x: usize, y: usize) -> [f32; 3] {
        let (at, plane) = (y * SIZE.0 + x, SIZE.0 * SIZE.1);
        std::array::from_fn(|k| normals[k * plane + at])
    }

    fn unit(v: [f32; 3]) -> [f32; 3] {
        v.map(|c| c / dot(v, v).sqrt())
    }

    #[test]
    fn planes_have_their_normals() {
        // A road, a wall ahead, a wall on the left, a roof, something slanted.
        let planes = [[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, -0.7, -0.6]];
        for normal in planes.map(unit) {
            let depth = plane(normal, 1.5, PRINCIPAL);
            let normals = surface_normals(&depth, SIZE, FOCAL, PRINCIPAL);
            let mut known = 0;
            for y in 0..SIZE.1 {
                for x in 0..SIZE.0 {
                    let found = at(&normals, x, y);
                    let border = x == 0 || y == 0 || x + 1 == SIZE.0 || y + 1 == SIZE.1;
                    if found[0].is_nan() {
                        let seen = |x: usize, y: usize| depth[y * SIZE.0 + x] > 0.0;
                        let all = !border && seen(x - 1, y) && seen(x + 1, y) && seen(x, y - 1) && seen(x, y + 1);
                        assert!(!all || !seen(x, y), "{normal:?} is unknown at {x},{y}");
                        continue;
                    }
                    known += 1;
                    assert!(!border, "{normal:?} at the border");
                    let off = difference(found, normal);
                    assert!(dot(off, off).sqrt() < 2e-3, "{found:?} is not {normal:?} at {x},{y}");
                }
            }
            assert!(known > 40, "{normal:?}: only {known} known");
        }
    }

    #[test]
    fn nothing_is_said_across_a_jump_or_beside_the_unknown() {
        // A wall at 10 m, its right half at 14 m; one pixel is not known.
        let mut depth: Vec<f32> = (0..SIZE.0 * SIZE.1).map(|i| if i % SIZE.0 < 12 { 10.0 } else { 14.0 }).collect();
        depth[5 * SIZE.0 + 4] = f32::NAN;
        depth[5 * SIZE.0 + 20] = f32::INFINITY;
        let normals = surface_normals(&depth, SIZE, FOCAL, PRINCIPAL);
        let known = |x, y| !at(&normals, x, y)[0].is_nan();
        assert!(known(10, 8) && !known(11, 8) && !known(12, 8) && known(13, 8));
        for hole in [4, 20] {
            assert!(
                !known(hole, 5) && !known(hole - 1, 5) && !known(hole + 1, 5) && !known(hole, 4) && !known(hole, 6)
            );
            assert!(known(hole - 1, 4) && known(hole, 8));
        }
    }

    #[test]
    fn a_mirror_image_has_mirrored_normals() {
        let mirror = |v: &[f32]| -> Vec<f32> { v.chunks(SIZE.0).flat_map(|row| row.iter().rev().copied()).collect() };
        let depth = plane(unit([0.3, -0.8, -0.2]), 1.5, PRINCIPAL);
        let normals = surface_normals(&depth, SIZE, FOCAL, PRINCIPAL);
        let mirrored = surface_normals(&mirror(&depth), SIZE, FOCAL, (SIZE.0 as f32 - PRINCIPAL.0, PRINCIPAL.1));
        for y in 0..SIZE.1 {
            for x in 0..SIZE.0 {
                let (there, here) = (at(&mirrored, SIZE.0 - 1 - x, y), at(&normals, x, y));
                assert_eq!(there[0].is_nan(), here[0].is_nan());
                let off = difference(there, [-here[0], here[1], here[2]]);
                assert!(here[0].is_nan() || dot(off, off).sqrt() < 1e-3, "{there:?} for {here:?}");
            }
        }
    }
}

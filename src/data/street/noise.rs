//! Deterministic value noise from an integer hash: the same on every machine.

use glam::Vec2;

/// A well mixed 32-bit hash of two integers and a seed.
pub(super) fn hash(x: i32, y: i32, seed: u32) -> u32 {
    let mut h = seed ^ 0x9e37_79b9;
    for v in [x as u32, y as u32] {
        h ^= v.wrapping_mul(0x85eb_ca6b);
        h = h.rotate_left(13).wrapping_mul(0xc2b2_ae35);
    }
    h ^= h >> 16;
    h = h.wrapping_mul(0x7feb_352d);
    h ^= h >> 15;
    h = h.wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

/// Uniform in `0 .. 1` from a lattice point.
pub(super) fn cell(x: i32, y: i32, seed: u32) -> f32 {
    (hash(x, y, seed) >> 8) as f32 / (1 << 24) as f32
}

/// Smooth value noise in `0 .. 1` with features of size 1.
pub(super) fn value(p: Vec2, seed: u32) -> f32 {
    let base = p.floor();
    let f = p - base;
    let u = f * f * (Vec2::splat(3.0) - 2.0 * f);
    let (x, y) = (base.x as i32, base.y as i32);
    let a = cell(x, y, seed);
    let b = cell(x + 1, y, seed);
    let c = cell(x, y + 1, seed);
    let d = cell(x + 1, y + 1, seed);
    let top = a + (b - a) * u.x;
    let bottom = c + (d - c) * u.x;
    top + (bottom - top) * u.y
}

/// Three octaves of [`value`], in `0 .. 1`.
pub(super) fn fbm(p: Vec2, seed: u32) -> f32 {
    0.55 * value(p, seed) + 0.3 * value(p * 2.13, seed ^ 0x51) + 0.15 * value(p * 4.57, seed ^ 0xa7)
}

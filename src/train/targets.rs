//! Truth that follows from other truth: surface normals from depth, semantic edges from labels.
//!
//! Both are made where the crops are made, at the heads' resolution, after every transform.

use crate::data::augment::Crop;
use crate::data::classes::UNLABELLED_TRAIN_ID;
use crate::data::depth::{decode, MAX_DEPTH_M, MIN_DEPTH_M};
use crate::data::surface::surface_normals;

/// Surface normals of a crop, `[3, h, w]`: see [`surface_normals`]. NaN everywhere where the focal length is not known.
pub fn normals_of(crop: &Crop, width: usize, height: usize) -> Vec<f32> {
    let Some(focal_px) = crop.focal_px else { return vec![f32::NAN; 3 * width * height] };
    // At the ends of the code's range stands all that lies beyond them: the sky is no wall at 250 m.
    let range_m = MIN_DEPTH_M * 1.001..MAX_DEPTH_M * 0.999;
    let metres = |&code: &f32| Some(decode(code)).filter(|d| range_m.contains(d)).unwrap_or(f32::NAN);
    let depth_m: Vec<f32> = crop.depth.iter().map(metres).collect();
    surface_normals(&depth_m, (width, height), focal_px, crop.principal_px)
}

/// Semantic edges of a crop, `[h, w]`: see [`semantic_edges`].
pub fn edges_of(crop: &Crop, width: usize, height: usize) -> Vec<f32> {
    semantic_edges(&crop.labels, (width, height))
}

/// Semantic edges `[h, w]`: 1 where one of the four neighbours has another label, 0 where all have the same, NaN where
/// the pixel or one of its neighbours is unlabelled: the edge of what is not labelled is no edge of things.
///
/// `labels` `[h, w]` are label codes; two codes are two things, so a code for a group of classes borders on its members.
pub fn semantic_edges(labels: &[u8], (width, height): (usize, usize)) -> Vec<f32> {
    let mut edges = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let at = y * width + x;
            let own = labels[at];
            let neighbours = [
                (x > 0).then(|| at - 1),
                (x + 1 < width).then_some(at + 1),
                (y > 0).then(|| at - width),
                (y + 1 < height).then_some(at + width),
            ];
            let others = neighbours.map(|i| i.map_or(own, |i| labels[i]));
            let unknown = own == UNLABELLED_TRAIN_ID || others.contains(&UNLABELLED_TRAIN_ID);
            let edge = others.iter().any(|&other| other != own);
            edges.push(if unknown { f32::NAN } else { f32::from(u8::from(edge)) });
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::depth::encode;

    const SIZE: (usize, usize) = (24, 16);
    const FOCAL: (f32, f32) = (30.0, 28.0);
    /// Not in the middle, as in a crop.
    const PRINCIPAL: (f32, f32) = (9.0, 4.3);

    fn at(normals: &[f32], x: usize, y: usize) -> [f32; 3] {
        let (at, plane) = (y * SIZE.0 + x, SIZE.0 * SIZE.1);
        std::array::from_fn(|k| normals[k * plane + at])
    }

    #[test]
    fn a_mirror_image_has_mirrored_edges() {
        let mirror = |v: &[f32]| -> Vec<f32> { v.chunks(SIZE.0).flat_map(|row| row.iter().rev().copied()).collect() };
        let labels: Vec<u8> = (0..SIZE.0 * SIZE.1).map(|i| [0, 0, 0, 3, 3, 19, 7][i * 5 / 13 % 7]).collect();
        let back: Vec<u8> = labels.chunks(SIZE.0).flat_map(|row| row.iter().rev().copied()).collect();
        let (edges, mirrored) = (mirror(&semantic_edges(&labels, SIZE)), semantic_edges(&back, SIZE));
        assert!(edges.iter().zip(&mirrored).all(|(a, b)| a == b || a.is_nan() && b.is_nan()));
        assert!(edges.contains(&1.0) && edges.contains(&0.0) && edges.iter().any(|e| e.is_nan()));
    }

    #[test]
    fn edges_by_hand() {
        #[rustfmt::skip]
        let labels = [
            0, 0, 1, 1,
            0, 0, 1, 1,
            0, 0, 0, 19,
            0, 0, 0, 0,
        ];
        let edges = semantic_edges(&labels, (4, 4));
        let n = f32::NAN;
        #[rustfmt::skip]
        let expected = [
            0.0, 1.0, 1.0, 0.0,
            0.0, 1.0, 1.0, n,
            0.0, 0.0, n, n,
            0.0, 0.0, 0.0, n,
        ];
        assert!(edges.iter().zip(expected).all(|(a, e)| *a == e || a.is_nan() && e.is_nan()), "{edges:?}");
    }

    #[test]
    fn the_sky_has_no_normal() {
        let (w, h) = SIZE;
        let code = |i: usize| encode(if i < w * h / 2 { f32::INFINITY } else { 12.0 }).expect("positive");
        let crop = Crop {
            pixels: vec![],
            labels: vec![19; w * h],
            depth: (0..w * h).map(code).collect(),
            depth_factor: 1.0,
            focal_px: Some(FOCAL),
            principal_px: PRINCIPAL,
        };
        let normals = normals_of(&crop, w, h);
        assert!(at(&normals, 5, 3)[0].is_nan());
        let [x, y, z] = at(&normals, 5, 12);
        assert!(x.abs() < 1e-3 && y.abs() < 1e-3 && (z + 1.0).abs() < 1e-3);
        let unknown = Crop { focal_px: None, ..crop };
        assert!(normals_of(&unknown, w, h).iter().all(|v| v.is_nan()));
        assert!(edges_of(&unknown, w, h).iter().all(|v| v.is_nan()));
    }
}

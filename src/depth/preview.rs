//! A picture of what cleaning did.

use crate::data::colour::depth_colour;
use image::imageops::{replace, resize, FilterType};
use image::{Rgb, RgbImage};

/// A tile is at most so wide, in pixels.
const TILE: u32 = 1024;
/// Between tiles, in pixels.
const GAP: u32 = 6;

/// The left picture, depth before and depth after (metres, of the picture's size), one below the other. Near is red,
/// far is blue as the sky (infinity) is, unknown is black.
pub fn before_and_after(left: &RgbImage, before_m: &[f32], after_m: &[f32]) -> RgbImage {
    let (w, h) = left.dimensions();
    let (tile_w, tile_h) =
        if w > TILE { (TILE, (u64::from(h) * u64::from(TILE) / u64::from(w)).max(1) as u32) } else { (w, h) };
    let coloured = |depth_m: &[f32]| {
        RgbImage::from_fn(w, h, |x, y| {
            Rgb(depth_colour(depth_m.get((y * w + x) as usize).copied().unwrap_or(f32::NAN)))
        })
    };
    let mut sheet = RgbImage::from_pixel(tile_w, 3 * tile_h + 2 * GAP, Rgb([255; 3]));
    let tiles = [
        resize(left, tile_w, tile_h, FilterType::Triangle),
        resize(&coloured(before_m), tile_w, tile_h, FilterType::Nearest),
        resize(&coloured(after_m), tile_w, tile_h, FilterType::Nearest),
    ];
    for (i, tile) in tiles.iter().enumerate() {
        replace(&mut sheet, tile, 0, i as i64 * i64::from(tile_h + GAP));
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_in_order_and_shrunk_to_fit() {
        let left = RgbImage::from_pixel(2048, 4, Rgb([1, 2, 3]));
        let before = vec![5.0; 2048 * 4];
        let mut after = before.clone();
        after[..1024].fill(f32::NAN);
        let sheet = before_and_after(&left, &before, &after);
        assert_eq!(sheet.dimensions(), (1024, 3 * 2 + 2 * GAP));
        assert_eq!(sheet.get_pixel(9, 1).0, [1, 2, 3]);
        assert_eq!(sheet.get_pixel(9, 2 + GAP).0, depth_colour(5.0));
        assert_eq!(sheet.get_pixel(9, 2 * (2 + GAP)).0, depth_colour(5.0), "row 1 of 4 is shown");
        assert_eq!(sheet.height() - 1, 2 * (2 + GAP) + 1);
    }
}

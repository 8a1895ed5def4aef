//! The contact sheet: one row a frame, with what was seen, what was answered, and the truth, side by side.

use crate::data::classes::{Class, UNLABELLED};
use crate::data::colour::{depth_colour, SCALE_MAX_M, SCALE_MIN_M};
use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{get_raster, get_raster_width, FontWeight, RasterHeight};

/// Width of a tile, in pixels.
const TILE: u32 = 384;
/// Between tiles, in pixels.
const GAP: u32 = 6;
/// Height of a line of text, in pixels.
const LINE: u32 = 20;
const BACKGROUND: Rgb<u8> = Rgb([24, 24, 28]);
const TEXT: Rgb<u8> = Rgb([230, 230, 230]);
/// Around the legend's colours, of which some are as dark as the background.
const BORDER: Rgb<u8> = Rgb([150, 150, 150]);

/// One picture of the sheet.
#[derive(Debug, Clone)]
pub struct Tile {
    /// Already as wide as a tile.
    picture: RgbImage,
}

fn tile_height(width: u32, height: u32) -> u32 {
    let scaled = u64::from(height) * u64::from(TILE) / u64::from(width.max(1));
    (scaled as u32).clamp(1, 2 * TILE)
}

impl Tile {
    /// From `rgb8`: `rgb` is `[height, step]` bytes; `None` where that does not fit.
    pub fn rgb(width: u32, height: u32, step: u32, rgb: &[u8]) -> Option<Self> {
        let row = width as usize * 3;
        let mut tight = Vec::with_capacity(row * height as usize);
        for y in 0..height as usize {
            tight.extend_from_slice(rgb.get(y * step as usize..)?.get(..row)?);
        }
        let picture = RgbImage::from_raw(width, height, tight)?;
        let filter =
            if width > TILE { image::imageops::FilterType::Triangle } else { image::imageops::FilterType::Nearest };
        Some(Self { picture: image::imageops::resize(&picture, TILE, tile_height(width, height), filter) })
    }

    /// From any picture that is a function of the pixel: nearest neighbour, as labels must not be mixed.
    fn sampled(width: u32, height: u32, colour: impl Fn(usize) -> [u8; 3]) -> Self {
        let tile_height = tile_height(width, height);
        let picture = RgbImage::from_fn(TILE, tile_height, |x, y| {
            let source_x = (2 * u64::from(x) + 1) * u64::from(width) / (2 * u64::from(TILE));
            let source_y = (2 * u64::from(y) + 1) * u64::from(height) / (2 * u64::from(tile_height));
            Rgb(colour((source_y * u64::from(width) + source_x) as usize))
        });
        Self { picture }
    }

    /// From class ids, `[height, width]`, in the colours of a class table; what is not in it is black.
    pub fn labels(width: u32, height: u32, ids: &[u8], table: &[Class]) -> Self {
        let mut colours = [[0; 3]; 256];
        for class in table {
            colours[usize::from(class.id)] = class.color;
        }
        Self::sampled(width, height, |i| colours[usize::from(ids.get(i).copied().unwrap_or(UNLABELLED))])
    }

    /// From metres, `[height, width]`; what is not known (NaN) is black, the sky (infinity) is far.
    pub fn depth(width: u32, height: u32, depth_m: &[f32]) -> Self {
        Self::sampled(width, height, |i| depth_colour(depth_m.get(i).copied().unwrap_or(f32::NAN)))
    }
}

/// One row: its caption and its tiles, in the order of the columns; `None` leaves a place empty.
#[derive(Debug, Clone)]
pub struct Row {
    /// Under the tiles.
    pub caption: String,
    /// One a column.
    pub tiles: Vec<Option<Tile>>,
}

/// Composes the sheet, with a legend of the classes' colours.
pub fn compose(title: &str, columns: &[&str], rows: &[Row], table: &[Class]) -> RgbImage {
    let heights: Vec<u32> =
        rows.iter().map(|r| r.tiles.iter().flatten().map(|t| t.picture.height()).max().unwrap_or(LINE)).collect();
    let width = GAP + columns.len() as u32 * (TILE + GAP);
    let legend_lines = lines(table, width);
    // Title, classes, depth, columns.
    let top = GAP + LINE * (3 + legend_lines.len() as u32) + GAP;
    let height = top + heights.iter().map(|h| h + LINE + GAP).sum::<u32>();
    let mut sheet = RgbImage::from_pixel(width, height, BACKGROUND);
    text(&mut sheet, GAP, GAP, title, TEXT);
    legend(&mut sheet, GAP + LINE, &legend_lines);
    for (i, column) in columns.iter().enumerate() {
        text(&mut sheet, GAP + i as u32 * (TILE + GAP), top - LINE - GAP / 2, column, TEXT);
    }
    let mut y = top;
    for (row, height) in rows.iter().zip(&heights) {
        for (i, tile) in row.tiles.iter().enumerate().take(columns.len()) {
            if let Some(tile) = tile {
                let x = GAP + i as u32 * (TILE + GAP);
                image::imageops::replace(&mut sheet, &tile.picture, i64::from(x), i64::from(y));
            }
        }
        text(&mut sheet, GAP, y + height + 2, &row.caption, TEXT);
        y += height + LINE + GAP;
    }
    sheet
}

/// Width of a class in the legend, with its name and the space after it, and without.
fn entry_width(class: &Class) -> (u32, u32) {
    let width = 15 + text_width(&class.name);
    (width + 12, width)
}

/// The classes of the legend, line by line; what is not labelled is not one of them.
fn lines(table: &[Class], width: u32) -> Vec<Vec<&Class>> {
    let (mut lines, mut x) = (Vec::<Vec<&Class>>::new(), GAP);
    for class in table.iter().filter(|class| class.id != UNLABELLED) {
        let (with_space, alone) = entry_width(class);
        match lines.last_mut() {
            Some(line) if x + alone <= width => line.push(class),
            _ => {
                lines.push(vec![class]);
                x = GAP;
            }
        }
        x += with_space;
    }
    lines
}

/// The classes' colours, and the depth scale with its ends.
fn legend(sheet: &mut RgbImage, y: u32, lines: &[Vec<&Class>]) {
    let mut y = y;
    for line in lines {
        let mut x = GAP;
        for class in line {
            fill(sheet, x - 1, y + 1, 14, 14, BORDER);
            fill(sheet, x, y + 2, 12, 12, Rgb(class.color));
            text(sheet, x + 15, y, &class.name, TEXT);
            x += entry_width(class).0;
        }
        y += LINE;
    }
    let mut x = text(sheet, GAP, y, &format!("depth, logarithmic: {SCALE_MIN_M} m"), TEXT) + 6;
    for i in 0..300 {
        let depth_m = SCALE_MIN_M * (SCALE_MAX_M / SCALE_MIN_M).powf(i as f32 / 299.0);
        fill(sheet, x, y + 2, 1, 12, Rgb(depth_colour(depth_m)));
        x += 1;
    }
    text(sheet, x + 6, y, &format!("{SCALE_MAX_M} m and beyond (the sky); black: unknown"), TEXT);
}

fn fill(sheet: &mut RgbImage, x: u32, y: u32, width: u32, height: u32, colour: Rgb<u8>) {
    for y in y..(y + height).min(sheet.height()) {
        for x in x..(x + width).min(sheet.width()) {
            sheet.put_pixel(x, y, colour);
        }
    }
}

const WEIGHT: FontWeight = FontWeight::Regular;
const SIZE: RasterHeight = RasterHeight::Size16;

/// Width of a text, in pixels.
fn text_width(text: &str) -> u32 {
    (text.chars().count() * get_raster_width(WEIGHT, SIZE)) as u32
}

/// Draws ASCII text, 16 pixels high; returns where it ends. What lies outside of the sheet is cut.
fn text(sheet: &mut RgbImage, x: u32, y: u32, text: &str, colour: Rgb<u8>) -> u32 {
    let mut left = x;
    for character in text.chars() {
        let Some(glyph) = get_raster(character, WEIGHT, SIZE).or_else(|| get_raster('?', WEIGHT, SIZE)) else {
            continue;
        };
        for (row, values) in glyph.rows().enumerate() {
            for (column, &value) in values.iter().enumerate() {
                let (x, y) = (left + column as u32, y + row as u32);
                if x < sheet.width() && y < sheet.height() {
                    let below = sheet.get_pixel(x, y).0;
                    let share = |i: usize| {
                        (u32::from(colour.0[i]) * u32::from(value) + u32::from(below[i]) * (255 - u32::from(value)))
                            / 255
                    };
                    sheet.put_pixel(x, y, Rgb([share(0) as u8, share(1) as u8, share(2) as u8]));
                }
            }
        }
        left += glyph.width() as u32;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::classes::cityscapes;

    /// A model's own classes, as many as there may be, and not those of Cityscapes under the same ids.
    #[test]
    fn labels_and_legend_are_in_the_models_own_classes() {
        let class = |id: u8| Class { id, name: format!("thing {id}"), color: [id, 200, 255 - id] };
        let table: Vec<_> = (0..150).map(class).collect();
        let tile = Tile::labels(20, 10, &[149; 200], &table);
        assert_eq!(tile.picture.get_pixel(0, 0).0, [149, 200, 106]);
        assert_eq!(Tile::labels(20, 10, &[150; 200], &table).picture.get_pixel(0, 0).0, [0; 3]);
        let row = Row { caption: "frame 0".into(), tiles: vec![] };
        let sheet = compose("title", &["labels", "truth"], &[row], &table);
        for class in &table {
            assert_eq!(sheet.pixels().filter(|p| p.0 == class.color).count(), 144, "{} in the legend", class.name);
        }
        // 14 x 14 around 12 x 12; more of it is in the letters' edges.
        let border = sheet.pixels().filter(|p| **p == BORDER).count();
        assert!(border >= 150 * 52, "each has its border: {border}");
    }

    #[test]
    fn tiles_keep_where_things_are() {
        // Left half road, right half sky, in a picture larger than a tile.
        let (width, height) = (1000, 500);
        let ids: Vec<u8> = (0..height).flat_map(|_| (0..width).map(|x| if x < width / 2 { 0 } else { 10 })).collect();
        let tile = Tile::labels(width, height, &ids, &cityscapes());
        assert_eq!(tile.picture.dimensions(), (TILE, TILE / 2));
        assert_eq!(tile.picture.get_pixel(TILE / 2 - 1, 7).0, [128, 64, 128]);
        assert_eq!(tile.picture.get_pixel(TILE / 2, 7).0, [70, 130, 180]);
    }

    #[test]
    fn padding_is_not_shown() {
        // 1 x 2 pixels with four bytes of padding a row.
        let rgb = [10, 20, 30, 9, 9, 9, 9, 40, 50, 60, 9, 9, 9, 9];
        let tile = Tile::rgb(1, 2, 7, &rgb).expect("fits");
        assert_eq!(tile.picture.get_pixel(0, 0).0, [10, 20, 30]);
        assert_eq!(tile.picture.get_pixel(TILE - 1, tile.picture.height() - 1).0, [40, 50, 60]);
        assert!(Tile::rgb(1, 3, 7, &rgb).is_none(), "too short");
    }

    #[test]
    fn a_sheet_has_its_tiles_and_captions() {
        let tile = Tile::depth(20, 10, &[5.0; 200]);
        let row = Row { caption: "frame 0".into(), tiles: vec![Some(tile), None] };
        let sheet = compose("title", &["depth", "truth"], &[row], &cityscapes());
        assert_eq!(sheet.width(), 3 * GAP + 2 * TILE);
        let count = |colour: Rgb<u8>| sheet.pixels().filter(|p| **p == colour).count() as u32;
        assert_eq!(count(Rgb(depth_colour(5.0))) / (TILE * TILE / 2), 1, "the tile, whole, once");
        let bright = sheet.pixels().filter(|p| p.0.iter().all(|&v| v > 150)).count();
        assert!(bright > 200, "text");
    }
}

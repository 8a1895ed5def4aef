//! What the network says to some validation frames, as one picture: a row a frame; the frame, then for each head the
//! truth and the answer.

use super::labels::LabelTable;
use super::validate::Look;
use crate::data::augment::{IMAGENET_MEAN, IMAGENET_STD};
use crate::data::{classes, colour, depth};
use anyhow::Context as _;
use image::{Rgb, RgbImage};
use tch::Tensor;

/// Pixels between two pictures.
const GAP: u32 = 4;
/// Width of one picture: they are enlarged to about this, in whole steps.
const WIDTH: u32 = 240;

/// Puts the looks together; PNG.
///
/// # Errors
/// The picture cannot be encoded.
pub fn grid_of(looks: &[Look], table: &LabelTable) -> anyhow::Result<Vec<u8>> {
    let rows: Vec<Vec<RgbImage>> = looks.iter().map(|look| cells(look, table)).collect();
    let row_height = |row: &Vec<RgbImage>| row.iter().map(RgbImage::height).max().unwrap_or(0) + GAP;
    let row_width = |row: &Vec<RgbImage>| row.iter().map(|c| c.width() + GAP).sum::<u32>();
    let width = rows.iter().map(row_width).max().unwrap_or(0) + GAP;
    let height = rows.iter().map(row_height).sum::<u32>() + GAP;
    let mut grid = RgbImage::from_pixel(width, height, Rgb([32; 3]));
    let mut y = GAP;
    for row in &rows {
        let mut x = GAP;
        for cell in row {
            image::imageops::replace(&mut grid, cell, x.into(), y.into());
            x += cell.width() + GAP;
        }
        y += row_height(row);
    }
    let mut png = std::io::Cursor::new(Vec::new());
    grid.write_to(&mut png, image::ImageFormat::Png).context("the picture of predictions")?;
    Ok(png.into_inner())
}

fn cells(look: &Look, table: &LabelTable) -> Vec<RgbImage> {
    let (width, _) = look.size.size;
    let stride = look.size.stride;
    let columns = width.div_ceil(stride);
    let names = classes::table(table.channels()).unwrap_or_default();
    let channel_colour = |channel: usize| names.get(channel).map_or([0; 3], |c| c.color);
    let cell = |pixel: &dyn Fn(usize) -> [u8; 3]| {
        let rows = look.crop.labels.len() / columns.max(1);
        let picture =
            RgbImage::from_fn(columns as u32, rows as u32, |x, y| Rgb(pixel(y as usize * columns + x as usize)));
        let factor = (WIDTH / columns as u32).max(1);
        let (w, h) = (columns as u32 * factor, rows as u32 * factor);
        image::imageops::resize(&picture, w, h, image::imageops::FilterType::Nearest)
    };
    let mut cells = vec![cell(&|i| {
        let (x, y) = (i % columns * stride, i / columns * stride);
        let at = (y * width + x) * 3;
        std::array::from_fn(|k| {
            let v = look.crop.pixels[at + k] * IMAGENET_STD[k] + IMAGENET_MEAN[k];
            (v * 255.0).round().clamp(0.0, 255.0) as u8
        })
    })];
    if !look.channels.is_empty() {
        // Of a label that may be one of several classes, the first one's colour.
        let truth = |i: usize| table.members()[usize::from(look.crop.labels[i])].first().copied();
        cells.push(cell(&|i| truth(i).map_or([0; 3], |c| channel_colour(c.into()))));
        cells.push(cell(&|i| channel_colour(look.channels[i].into())));
    }
    if !look.depth.is_empty() {
        cells.push(cell(&|i| colour::depth_colour(depth::decode(look.crop.depth[i]))));
        cells.push(cell(&|i| colour::depth_colour(depth::decode(look.depth[i]))));
    }
    if !look.normals.is_empty() {
        let normal = |values: &[f32], i: usize| {
            let plane = values.len() / 3;
            let n = [values[i], values[plane + i], values[2 * plane + i]];
            let length = n.iter().map(|v| v * v).sum::<f32>().sqrt();
            // The usual colours of normal maps: each axis from -1 to 1 is 0 to 255.
            n.map(|v| if length > 0.0 { ((v / length + 1.0) * 127.5).clamp(0.0, 255.0) as u8 } else { 0 })
        };
        if let Some(truth) = numbers(look.batch.normals.as_ref()) {
            cells.push(cell(&|i| normal(&truth, i)));
        }
        cells.push(cell(&|i| normal(&look.normals, i)));
    }
    if !look.edges.is_empty() {
        // White is an edge; what is not known is red.
        if let Some(truth) = numbers(look.batch.edges.as_ref()) {
            cells.push(cell(&|i| if truth[i].is_nan() { [96, 0, 0] } else { [(255.0 * truth[i]) as u8; 3] }));
        }
        cells.push(cell(&|i| [(255.0 / (1.0 + (-look.edges[i]).exp())) as u8; 3]));
    }
    cells
}

fn numbers(truth: Option<&Tensor>) -> Option<Vec<f32>> {
    truth.and_then(|t| Vec::try_from(t.reshape([-1])).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::augment::{Crop, CropSize};
    use crate::data::source::Groups;
    use crate::model::Task;
    use crate::train::config::LabelSpace;
    use crate::train::packed::collate;

    /// Left half road at 4 m, right half sky without depth; the network takes the halves for each other.
    fn look(table: &LabelTable) -> Look {
        let size = CropSize { size: (64, 32), scale: (1.0, 1.0), stride: 4 };
        let left = |i: usize| i % 16 < 8;
        let pixels = 16 * 8;
        let map = |f: &dyn Fn(usize) -> f32| (0..pixels).map(f).collect::<Vec<f32>>();
        let near = depth::encode(4.0).expect("positive");
        let crop = Crop {
            pixels: vec![0.0; 64 * 32 * 3],
            labels: (0..pixels).map(|i| if left(i) { 0 } else { 10 }).collect(),
            depth: map(&|i| if left(i) { near } else { f32::NAN }),
            depth_factor: 1.0,
            focal_px: Some((30.0, 30.0)),
            principal_px: (8.0, 4.0),
        };
        Look {
            batch: collate(std::slice::from_ref(&crop), &size, table, &[Task::Normals, Task::Edges]),
            crop,
            size,
            channels: (0..pixels).map(|i| if left(i) { 10 } else { 0 }).collect(),
            depth: map(&|i| if left(i) { depth::encode(70.0).expect("positive") } else { near }),
            normals: [vec![0.0; pixels], vec![-3.0; pixels], vec![0.0; pixels]].concat(),
            edges: map(&|i| if left(i) { 20.0 } else { -20.0 }),
        }
    }

    #[test]
    fn every_picture_is_in_its_place() {
        let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
        let png = grid_of(&[look(&table), look(&table)], &table).expect("a picture");
        let grid = image::load_from_memory(&png).expect("PNG").to_rgb8();
        let (cell, row) = (16 * 15 + GAP, 8 * 15 + GAP);
        assert_eq!(grid.dimensions(), (9 * cell + GAP, 2 * row + GAP));
        let (road, sky) = ([128, 64, 128], [70, 130, 180]);
        let (near, far) = (colour::depth_colour(4.0), colour::depth_colour(70.0));
        let mean = IMAGENET_MEAN.map(|m| (255.0 * m).round() as u8);
        let expected = [
            (mean, mean),
            (road, sky),
            (sky, road),
            (near, [0; 3]),
            (far, near),
            // A wall ahead, and where it is not known; then a road.
            ([127, 127, 0], [0; 3]),
            ([127, 0, 127], [127, 0, 127]),
            ([0; 3], [0; 3]),
            ([255; 3], [0; 3]),
        ];
        for (column, (left, right)) in expected.into_iter().enumerate() {
            for y in [GAP + 50, GAP + row + 50] {
                let x = GAP + column as u32 * cell;
                // Inside of the halves, away from the border between them and from that of the normals.
                assert_eq!(grid.get_pixel(x + 60, y).0, left, "left half of picture {column}");
                assert_eq!(grid.get_pixel(x + 180, y).0, right, "right half of picture {column}");
            }
        }
    }
}

//! What a frame, its answers and its truth look like side by side, as pictures inside a page.

use super::classes::{ClassTable, NO_CLASS};
use super::depth::{judged, JUDGED_M};
use crate::data::classes;
use crate::data::colour::{depth_colour, error_colour};
use crate::data::frame::Decoded;
use base64ct::{Base64, Encoding as _};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ImageError, ImageFormat, Rgb, RgbImage};
use std::io::Cursor;

/// Width of a picture in pixels, at most.
const WIDTH: u32 = 420;
const JPEG_QUALITY: u8 = 82;
const RIGHT: [u8; 3] = [225, 225, 225];
const WRONG: [u8; 3] = [200, 30, 40];

/// A picture as a `data:` address.
#[derive(Debug, Clone)]
pub struct Tile {
    /// What it shows.
    pub title: &'static str,
    /// For an `img` element.
    pub address: String,
}

/// One frame's pictures.
#[derive(Debug, Clone)]
pub struct Exhibit {
    /// The frame's name and figures.
    pub caption: String,
    /// In the order of [`exhibit`].
    pub tiles: Vec<Tile>,
}

/// The pictures of a frame: itself, predicted and true labels and where they differ, predicted and true depth and their
/// ratio; what there is no truth for is left out. `labels` are predicted train ids, `depth_m` predicted metres, each `None`
/// of a model that does not answer it: then its truth is left out, too.
///
/// # Errors
/// A picture cannot be encoded.
pub fn exhibit(
    table: &ClassTable,
    frame: &Decoded,
    (labels, depth_m): (Option<&[u8]>, Option<&[f32]>),
    cap_m: f32,
    caption: String,
) -> Result<Exhibit, ImageError> {
    let size = (frame.width, frame.height);
    let mut tiles = vec![Tile { title: "frame", address: jpeg(&photo(frame))? }];
    let mut flat = |title, colour: &dyn Fn(usize) -> [u8; 3]| -> Result<(), ImageError> {
        tiles.push(Tile { title, address: png(&sampled(size, colour))? });
        Ok(())
    };
    if let Some(labels) = labels {
        let names = classes::cityscapes();
        flat("predicted classes", &|i| names.get(usize::from(labels[i])).map_or([0; 3], |c| c.color))?;
    }
    if let (Some(codes), Some(labels)) = (&frame.labels, labels) {
        let (mut truth, mut answer) = (Vec::new(), Vec::new());
        table.translate(codes, labels, &mut truth, &mut answer);
        let colours: Vec<_> = (0..=NO_CLASS).map(|class| table.color(class)).collect();
        flat("true classes", &|i| colours[usize::from(truth[i])])?;
        flat("wrong classes (red)", &|i| match (truth[i], answer[i]) {
            (NO_CLASS, _) => [0; 3],
            (t, a) if t == a => RIGHT,
            _ => WRONG,
        })?;
    }
    let mut smooth = |title, colour: &dyn Fn(usize) -> [u8; 3]| -> Result<(), ImageError> {
        tiles.push(Tile { title, address: jpeg(&sampled(size, colour))? });
        Ok(())
    };
    if let Some(depth_m) = depth_m {
        smooth("predicted depth", &|i| depth_colour(depth_m[i]))?;
    }
    if let (Some(truth_m), Some(depth_m)) = (&frame.depth_m, depth_m) {
        smooth("true depth", &|i| depth_colour(truth_m[i]))?;
        smooth("depth error (red: too near)", &|i| {
            if judged(truth_m[i], cap_m) && !depth_m[i].is_nan() {
                error_colour(depth_m[i].clamp(JUDGED_M.0, cap_m) / truth_m[i])
            } else {
                [0; 3]
            }
        })?;
    }
    Ok(Exhibit { caption, tiles })
}

fn tile_size((width, height): (usize, usize)) -> (u32, u32) {
    let tile_width = (width as u32).clamp(1, WIDTH);
    let tile_height = height as u64 * u64::from(tile_width) / (width as u64).max(1);
    (tile_width, tile_height.clamp(1, 4 * u64::from(WIDTH)) as u32)
}

fn photo(frame: &Decoded) -> RgbImage {
    let (width, height) = tile_size((frame.width, frame.height));
    let whole = RgbImage::from_raw(frame.width as u32, frame.height as u32, frame.rgb.clone());
    imageops::resize(&whole.unwrap_or_else(|| RgbImage::new(1, 1)), width, height, FilterType::Triangle)
}

/// A function of the pixel, by its nearest neighbour: classes must not be mixed.
fn sampled(size: (usize, usize), colour: &dyn Fn(usize) -> [u8; 3]) -> RgbImage {
    let (width, height) = tile_size(size);
    RgbImage::from_fn(width, height, |x, y| {
        let source_x = (2 * x as usize + 1) * size.0 / (2 * width as usize);
        let source_y = (2 * y as usize + 1) * size.1 / (2 * height as usize);
        Rgb(colour(source_y * size.0 + source_x))
    })
}

fn jpeg(picture: &RgbImage) -> Result<String, ImageError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(picture)?;
    Ok(format!("data:image/jpeg;base64,{}", Base64::encode_string(&bytes)))
}

fn png(picture: &RgbImage) -> Result<String, ImageError> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(format!("data:image/png;base64,{}", Base64::encode_string(bytes.get_ref())))
}

/// Which frames to show, by rank: the `count` with the least value, the `count` with the greatest, and `count` evenly
/// chosen ones (the middle of each of `count` equal parts), all by index and none twice within one list. A frame
/// without a value is in none of the first two.
pub fn choose(values: &[Option<f64>], count: usize) -> [Vec<usize>; 3] {
    let mut ranked: Vec<(usize, f64)> =
        values.iter().enumerate().filter_map(|(i, v)| Some((i, v.filter(|v| !v.is_nan())?))).collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
    let index = |pair: &(usize, f64)| pair.0;
    let least = ranked.iter().take(count).map(index).collect();
    let greatest = ranked.iter().rev().take(count).map(index).collect();
    let count = count.min(values.len());
    let even = (0..count).map(|i| (2 * i + 1) * values.len() / (2 * count)).collect();
    [least, greatest, even]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_best_and_evenly() {
        let values = [Some(0.5), None, Some(0.1), Some(f64::NAN), Some(0.9), Some(0.3)];
        assert_eq!(choose(&values, 2), [vec![2, 5], vec![4, 0], vec![1, 4]]);
        assert_eq!(choose(&values, 9)[0].len(), 4);
        assert_eq!(choose(&values, 9)[2], [0, 1, 2, 3, 4, 5]);
        assert_eq!(choose(&values, 0), <[Vec<usize>; 3]>::default());
        assert_eq!(choose(&[], 3), <[Vec<usize>; 3]>::default());
    }

    #[test]
    fn pictures_show_what_there_is() {
        let mut frame = Decoded {
            width: 840,
            height: 2,
            rgb: vec![100; 840 * 2 * 3],
            labels: Some(vec![0; 1680]),
            depth_m: Some(vec![10.0; 1680]),
            focal_px: None,
            principal_px: None,
        };
        let table = ClassTable::cityscapes();
        let (labels, depth_m) = (vec![13; 1680], vec![8.0; 1680]);
        let shown =
            |frame: &Decoded, answers| exhibit(&table, frame, answers, 80.0, "a".into()).expect("encoded").tiles;
        let show = |frame: &Decoded| shown(frame, (Some(&labels[..]), Some(&depth_m[..])));
        let titles = |tiles: Vec<Tile>| tiles.iter().map(|t| t.title).collect::<Vec<_>>();
        let tiles = show(&frame);
        assert_eq!(tiles.len(), 7);
        let wrong = tiles[3].address.strip_prefix("data:image/png;base64,").expect("a PNG");
        let wrong = image::load_from_memory(&Base64::decode_vec(wrong).expect("base64")).expect("a picture");
        assert!(wrong.width() == 420 && wrong.into_rgb8().pixels().all(|p| p.0 == WRONG));
        // What a model does not answer is neither shown nor wrong.
        let of_classes = ["frame", "predicted classes", "true classes", "wrong classes (red)"];
        assert_eq!(titles(shown(&frame, (Some(&labels[..]), None))), of_classes);
        let of_depth = ["frame", "predicted depth", "true depth", "depth error (red: too near)"];
        assert_eq!(titles(shown(&frame, (None, Some(&depth_m[..])))), of_depth);
        frame.labels = None;
        frame.depth_m = None;
        assert_eq!(titles(show(&frame)), ["frame", "predicted classes", "predicted depth"]);
    }
}

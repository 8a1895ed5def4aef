//! The demo's own drive: rendered once, kept in the Cityscapes layout, found again by the next demo.

use crate::cli::progress::Pieces;
use crate::cli::render;
use crate::data::cityscapes::Sample;
use crate::data::street::{Drive, DriveConfig};
use anyhow::Context;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Split and city of the drive in its folder.
const SPLIT: &str = "demo";
const CITY: &str = "street00000";

/// The street's seed. `semantic_depth render` gives blocks 0 to 2 of each seed's sixteen to its splits; the demo's is
/// another one, so that no data set made that way, whatever its seed, holds the demo's street.
fn street_seed(seed: u64) -> u64 {
    const BLOCK: u64 = 15;
    seed.wrapping_mul(16).wrapping_add(BLOCK).wrapping_mul(1 << 32)
}

/// Sixteen hexadecimal digits that change with what the renderer draws: a drive of an earlier renderer is not reused.
fn fingerprint(config: &DriveConfig) -> String {
    let small = DriveConfig::new(config.seed, 1, 64, 32);
    let frame = Drive::new(&small).frame(0, false);
    let mut hash = Sha256::new();
    hash.update(frame.left.as_raw());
    hash.update(&frame.labels);
    for depth_m in &frame.depth_m {
        hash.update(depth_m.to_le_bytes());
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Ending of the folder of a drive that is not whole.
const UNFINISHED: &str = "unfinished";

/// The folder of the drive under `out`, rendered if it is not there yet. Nobody else may be at work in `out`.
pub fn prepare(out: &Path, seed: u64, frames: usize, rate_hz: f64, size: (usize, usize)) -> anyhow::Result<PathBuf> {
    let (width, height) = size;
    let config = DriveConfig { rate_hz, ..DriveConfig::new(street_seed(seed), frames, width, height) };
    let name = format!("drive_{width}x{height}_{frames}_frames_{rate_hz}_hz_seed_{seed}_{}", fingerprint(&config));
    let folder = out.join("drives").join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    // Under another name until it is whole: a rendering that was cut off is never taken for a drive. Those of other sizes and seeds
    // would stay for ever.
    let unfinished = folder.with_extension(UNFINISHED);
    for entry in std::fs::read_dir(out.join("drives")).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let place = folder.display();
    super::say(format_args!("rendering {frames} frames of {width}x{height}, once; they are kept in {place}"));
    let progress = Pieces::new(frames as u64, "rendering");
    let shares = rayon::current_num_threads().min(frames).max(1);
    (0..shares).into_par_iter().try_for_each(|share| -> anyhow::Result<()> {
        // Each thread builds the street for itself: drawing needs the drive's own scratch space.
        let mut drive = Drive::new(&config);
        for index in (share..frames).step_by(shares) {
            let sample = Sample::new(&unfinished, SPLIT, CITY, 0, index);
            render::write_frame(&sample, &drive.frame(index, false), true)?;
            progress.one_more();
        }
        Ok(())
    })?;
    progress.finish();
    std::fs::rename(&unfinished, &folder).with_context(|| format!("cannot rename {}", unfinished.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::messages;
    use crate::demo::source::Source;

    #[test]
    fn the_drive_is_rendered_once_and_comes_back_with_its_truth() {
        let out = tempfile::tempdir().expect("temporary folder");
        let folder = prepare(out.path(), 3, 3, 10.0, (96, 48)).expect("rendered");
        let file = folder.join("leftImg8bit/demo/street00000/street00000_000000_000001_leftImg8bit.png");
        let before = std::fs::metadata(&file).expect("there").modified().expect("time");
        assert_eq!(prepare(out.path(), 3, 3, 10.0, (96, 48)).expect("found"), folder);
        assert_eq!(std::fs::metadata(&file).expect("there").modified().expect("time"), before, "rendered again");
        assert_ne!(prepare(out.path(), 4, 1, 10.0, (96, 48)).expect("rendered"), folder);

        let config = DriveConfig::new(street_seed(3), 3, 96, 48);
        let mut drive = Drive::new(&config);
        let opened = Source::Drive(folder).open(10, 10.0).expect("opened");
        let frames: Vec<_> = opened.frames.iter().map(|f| f.expect("read")).collect();
        assert_eq!(frames.len(), 3);
        for (index, frame) in frames.iter().enumerate() {
            let expected = drive.frame(index, false);
            let message = messages::read::<r2r::sensor_msgs::msg::Image>(&frame.image).expect("an image");
            assert!(&message.data == expected.left.as_raw(), "frame {index}: other pixels");
            let truth = frame.truth.as_ref().expect("a truth");
            assert!(truth.labels().expect("read").expect("labels").0 == expected.labels, "frame {index}: other labels");
            assert!(truth.depth_m().expect("read").expect("depth").0 == expected.depth_m, "frame {index}: other depth");
        }
    }

    #[test]
    fn no_split_of_render_has_the_demos_street() {
        for seed in 0..100 {
            for split in ["train", "val", "test"] {
                for demo in 0..100 {
                    let first = render::drive_seed(seed, split, 0);
                    assert!(
                        !(first..first + (1 << 32)).contains(&street_seed(demo)),
                        "seed {seed}, {split}, demo {demo}"
                    );
                }
            }
        }
    }
}

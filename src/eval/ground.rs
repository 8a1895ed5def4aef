//! Whether depth makes sense where no truth tells: the road goes away from the camera, and things stand on it.
//!
//! - **The road's profile.** In each frame the true road's pixels are taken in [`ROW_BANDS`] bands of rows; of a band with
//!   at least [`LEAST_PIXELS`] of them the median predicted depth. From each band to the next one up, depth has to grow.
//! - **Things on the ground.** A thing is a connected piece of a true foreground class that stands and is no pole or sign
//!   ([`STANDING`]), at least [`LEAST_HEIGHT`] of the picture high, with true ground under at least half of the labelled
//!   pixels within three rows below its lowest row. The median predicted depth of its lowest fifth (and the row above) is
//!   held against the median predicted depth of that ground: they are the same distance away, but for half the thing's length.

use super::bands::{rows_of, ROW_BANDS};
use super::classes::{ClassTable, GROUND, NO_CLASS};
use super::depth::median;
use super::pieces::{pieces, Piece};
use serde::Serialize;

/// Things that stand on the ground. Cityscapes names.
pub const STANDING: [&str; 8] = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"];
const ROAD: [&str; 1] = ["road"];
/// Road pixels of a band for its median to count.
pub const LEAST_PIXELS: usize = 20;
/// Least height of a thing as a share of the picture's.
pub const LEAST_HEIGHT: f64 = 0.04;
/// Depths that differ by less than this share are the same.
pub const SAME: f64 = 0.15;

/// The profile of the road and the feet of things over a data set.
#[derive(Debug, Clone)]
pub struct Ground {
    road: [bool; 256],
    ground: [bool; 256],
    standing: [bool; 256],
    /// Steps from a band of the road to the next one up, and those in which depth grows.
    steps: [u64; 2],
    /// Frames with at least two bands of road, and those in which depth grows at every step.
    frames: [u64; 2],
    /// ln(predicted depth of the foot / of the ground under it), one a thing.
    feet: Vec<f32>,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GroundReport {
    /// Frames with a road of at least two bands.
    pub road_frames: u64,
    /// Share of the steps up the road in which the predicted depth grows.
    pub road_steps_growing: Option<f64>,
    /// Share of the frames in which it grows at every step.
    pub road_frames_growing: Option<f64>,
    /// Things that stand on visible ground.
    pub things: usize,
    /// Median of ln(depth of the foot / depth of the ground under it).
    pub foot_log_ratio: Option<f64>,
    /// Share of the things whose foot is within 15% of the ground's depth.
    pub feet_on_ground: Option<f64>,
}

impl Ground {
    /// For a source's classes; `None` where none of them is road.
    pub fn new(table: &ClassTable) -> Option<Self> {
        let (road, ground, standing) = (table.flags(&ROAD), table.flags(&GROUND), table.flags(&STANDING));
        let (steps, frames, feet) = ([0; 2], [0; 2], Vec::new());
        road.contains(&true).then_some(Self { road, ground, standing, steps, frames, feet })
    }

    /// Measures one picture: true classes of a [`ClassTable`] and predicted metres, `height x width`.
    pub fn add(&mut self, width: usize, truth: &[u8], predicted_m: &[f32]) {
        if width == 0 {
            return;
        }
        self.profile(width, truth, predicted_m);
        let size = (width, truth.len() / width);
        // Things of one class that touch each other are one: the lowest is then the one that is looked at.
        let standing = |at: usize| self.standing[usize::from(truth[at])];
        for piece in pieces(size, standing, |a, b| truth[a] == truth[b]) {
            if let Some(ratio) = self.foot(size, truth, predicted_m, &piece) {
                self.feet.push(ratio);
            }
        }
    }

    fn profile(&mut self, width: usize, truth: &[u8], predicted_m: &[f32]) {
        let height = truth.len() / width;
        let of_band = |band: usize| {
            let rows = rows_of(band, height);
            let pixels = rows.start * width..rows.end * width;
            let on_road = pixels.filter(|&at| self.road[usize::from(truth[at])] && predicted_m[at].is_finite());
            let mut depths: Vec<f32> = on_road.map(|at| predicted_m[at]).collect();
            (depths.len() >= LEAST_PIXELS).then(|| median(&mut depths)).flatten()
        };
        let upwards: Vec<f64> = (0..ROW_BANDS).rev().filter_map(of_band).collect();
        let growing = upwards.windows(2).filter(|pair| pair[1] > pair[0]).count();
        if upwards.len() >= 2 {
            let steps = upwards.len() - 1;
            self.steps = [self.steps[0] + steps as u64, self.steps[1] + growing as u64];
            self.frames = [self.frames[0] + 1, self.frames[1] + u64::from(growing == steps)];
        }
    }

    fn foot(&self, size: (usize, usize), truth: &[u8], predicted_m: &[f32], piece: &Piece) -> Option<f32> {
        if (piece.height() as f64) < LEAST_HEIGHT * size.1 as f64 {
            return None;
        }
        let labelled: Vec<usize> = piece.under(size).filter(|&at| truth[at] != NO_CLASS).collect();
        let ground: Vec<usize> = labelled.iter().copied().filter(|&at| self.ground[usize::from(truth[at])]).collect();
        if ground.is_empty() || 2 * ground.len() < labelled.len() {
            return None;
        }
        let lowest = piece.bottom - piece.height() / 5;
        let foot = piece.pixels.iter().copied().filter(|at| at / size.0 >= lowest);
        let middle = |pixels: &mut dyn Iterator<Item = usize>| {
            let mut depths: Vec<f32> = pixels.map(|at| predicted_m[at]).filter(|d| d.is_finite() && *d > 0.0).collect();
            median(&mut depths)
        };
        let (foot, ground) = (middle(&mut foot.into_iter())?, middle(&mut ground.into_iter())?);
        Some((foot / ground).ln() as f32)
    }

    /// The figures.
    pub fn report(&self) -> GroundReport {
        let share = |[all, some]: [u64; 2]| (all > 0).then(|| some as f64 / all as f64);
        let near = self.feet.iter().filter(|r| f64::from(r.abs()) < (1.0 + SAME).ln()).count();
        GroundReport {
            road_frames: self.frames[0],
            road_steps_growing: share(self.steps),
            road_frames_growing: share(self.frames),
            things: self.feet.len(),
            foot_log_ratio: median(&mut self.feet.clone()),
            feet_on_ground: share([self.feet.len() as u64, near as u64]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = 64;
    const H: usize = 64;

    /// Building above row 32, road below; depth of a flat road; a car of 8 x 8 pixels whose last row is 47.
    fn street() -> (Vec<u8>, Vec<f32>) {
        let depth = |y: usize| if y < 32 { 60.0 } else { 100.0 / (y as f32 - 31.0) };
        let mut labels: Vec<u8> = (0..W * H).map(|at| if at / W < 32 { 2 } else { 0 }).collect();
        let mut depth_m: Vec<f32> = (0..W * H).map(|at| depth(at / W)).collect();
        for y in 40..48 {
            for x in 20..28 {
                labels[y * W + x] = 13;
                depth_m[y * W + x] = depth(48);
            }
        }
        (labels, depth_m)
    }

    fn report(labels: &[u8], depth_m: &[f32]) -> GroundReport {
        let mut ground = Ground::new(&ClassTable::cityscapes()).expect("there is road");
        ground.add(W, labels, depth_m);
        ground.report()
    }

    #[test]
    fn a_right_street_is_right() {
        let (labels, depth_m) = street();
        let r = report(&labels, &depth_m);
        assert_eq!((r.road_frames, r.road_steps_growing, r.road_frames_growing), (1, Some(1.0), Some(1.0)));
        assert_eq!((r.things, r.feet_on_ground), (1, Some(1.0)));
        assert!(r.foot_log_ratio.expect("a car").abs() < 0.1);
    }

    #[test]
    fn a_hole_in_the_road_and_a_car_in_the_air_are_seen() {
        let (labels, mut depth_m) = street();
        depth_m[56 * W..58 * W].fill(50.0);
        for y in 40..48 {
            depth_m[y * W + 20..y * W + 28].fill(12.0);
        }
        let r = report(&labels, &depth_m);
        // One of the 15 steps up goes down again: out of the hole.
        assert_eq!((r.road_steps_growing, r.road_frames_growing), (Some(14.0 / 15.0), Some(0.0)));
        assert_eq!(r.feet_on_ground, Some(0.0));
        assert!(r.foot_log_ratio.expect("a car") > 0.5);
    }

    #[test]
    fn a_thing_without_ground_does_not_count() {
        let (mut labels, depth_m) = street();
        labels[48 * W..51 * W].fill(2);
        assert_eq!(report(&labels, &depth_m).things, 0);
    }
}

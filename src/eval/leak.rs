//! The leak at the bottom of poles: a network that takes the foot of a thin upright thing as near, and its label as
//! the ground's (or the ground's as the pole's), measured pole by pole.
//!
//! A *pole* is a connected piece (8 neighbours; where depth is known, of neighbours whose true depth differs by less
//! than [`SAME_DEPTH`]) of true class "pole" that is at least [`LEAST_HEIGHT`] of the picture high, at least
//! [`LEAST_SLENDER`] times as high as wide (width: its pixels by its rows), and stands on the ground: of the labelled
//! pixels within [`FOOT_GAP`](super::pieces::FOOT_GAP) rows below its lowest row at least half are true ground (road, sidewalk, terrain).
//!
//! Its *reach* is its width, or 1% of the picture's height if that is more. Its zones:
//!
//! - deciles of its height, from top to foot; *middle*: deciles 5 and 6; *bottom*: deciles 9 and 10
//! - *beside*: true ground in the rows of the bottom, left and right of the pole within its reach
//! - *below*: true ground in the columns of its lowest row, within its reach below it
//! - *apart*: true ground in the rows of beside and below, between 4 and 8 reaches to the left and right: what the same
//!   rows look like where there is no pole
//!
//! Of each zone: the mean of ln(predicted depth / true depth), whether that is nearer than the truth by more than
//! [`TAKEN_AS_NEAR`], and the shares of pixels that are predicted as pole and as ground. Every figure is the mean over poles of the pole's own figure, so that a near pole counts no more than a
//! far one.

use super::classes::{ClassTable, GROUND, NO_CLASS, POLES};
use super::depth::{judged, median, JUDGED_M};
use super::pieces::{pieces, Piece};
use serde::Serialize;

/// Least height of a pole as a share of the picture's.
pub const LEAST_HEIGHT: f64 = 0.03;
/// Least height of a pole in its own widths.
pub const LEAST_SLENDER: f64 = 3.0;
/// Largest ratio of true depths within one pole from pixel to pixel.
pub const SAME_DEPTH: f32 = 1.1;
/// What is nearer than this share of its true depth is taken as near.
pub const TAKEN_AS_NEAR: f64 = 0.95;

/// Parts of a pole's height.
pub const DECILES: usize = 10;
/// Zones: the deciles, then beside, below, apart.
const ZONES: usize = DECILES + 3;
const BESIDE: usize = DECILES;
const BELOW: usize = DECILES + 1;
const APART: usize = DECILES + 2;
const MIDDLE: std::ops::Range<usize> = 4..6;
const BOTTOM: std::ops::Range<usize> = 8..10;

/// One picture as the leak is measured in it. All slices are `height x width`.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// Columns.
    pub width: usize,
    /// True classes of a [`ClassTable`].
    pub truth: &'a [u8],
    /// Predicted classes.
    pub answer: &'a [u8],
    /// True and predicted metres, and the cap.
    pub depth: Option<(&'a [f32], &'a [f32], f32)>,
}

/// Sums over pixels of one zone of one pole.
#[derive(Debug, Clone, Copy, Default)]
struct Zone {
    pixels: u64,
    as_pole: u64,
    as_ground: u64,
    depth_pixels: u64,
    log_error: f64,
}

impl Zone {
    fn sum(zones: &[Self]) -> Self {
        zones.iter().fold(Self::default(), |a, b| Self {
            pixels: a.pixels + b.pixels,
            as_pole: a.as_pole + b.as_pole,
            as_ground: a.as_ground + b.as_ground,
            depth_pixels: a.depth_pixels + b.depth_pixels,
            log_error: a.log_error + b.log_error,
        })
    }

    fn share(&self, count: u64) -> Option<f64> {
        (self.pixels > 0).then(|| count as f64 / self.pixels as f64)
    }

    fn mean_log_error(&self) -> Option<f64> {
        (self.depth_pixels > 0).then(|| self.log_error / self.depth_pixels as f64)
    }
}

/// All poles of a data set.
#[derive(Debug, Clone)]
pub struct Leak {
    pole: [bool; 256],
    ground: [bool; 256],
    poles: Vec<[Zone; ZONES]>,
}

/// Figures of one zone: means over the poles that have it; `None` where none has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ZoneReport {
    /// Mean of ln(predicted / true depth).
    pub log_error: Option<f64>,
    /// Share of the poles whose zone is on the average (of the logarithm) more than 5% nearer than the truth.
    pub taken_as_near: Option<f64>,
    /// Share of the zone that is predicted as pole, 0 to 1.
    pub as_pole: Option<f64>,
    /// Share of the zone that is predicted as ground, 0 to 1.
    pub as_ground: Option<f64>,
}

/// The leak of a data set; see the module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeakReport {
    /// Poles that were measured.
    pub poles: usize,
    /// Poles whose depth was measured at bottom and middle.
    pub poles_with_depth: usize,
    /// Mean over poles of ln error of the bottom minus that of the middle. Below zero, the pole leans towards the camera:
    /// its bottom is too near, or what is behind it shows through its middle; the zones' own errors tell which.
    pub depth_leak: Option<f64>,
    /// The median of the same.
    pub depth_leak_median: Option<f64>,
    /// Mean over poles of ln error of the ground beside and below minus that of the ground apart.
    pub ground_depth_leak: Option<f64>,
    /// Mean share of the bottom that is predicted as ground, minus the same of the middle.
    pub foot_lost_to_ground: Option<f64>,
    /// Mean share of the ground beside and below that is predicted as pole, minus the same of the ground apart.
    pub ground_lost_to_pole: Option<f64>,
    /// The zones by name.
    pub middle: ZoneReport,
    /// Deciles 9 and 10.
    pub bottom: ZoneReport,
    /// Ground beside the bottom.
    pub beside: ZoneReport,
    /// Ground below the foot.
    pub below: ZoneReport,
    /// Ground of the same rows farther away.
    pub apart: ZoneReport,
    /// Each tenth of the height, from top to foot.
    pub deciles: Vec<ZoneReport>,
}

impl Leak {
    /// For a source's classes; `None` where none of them is "pole" or none is ground.
    pub fn new(table: &ClassTable) -> Option<Self> {
        let (pole, ground) = (table.flags(&POLES), table.flags(&GROUND));
        (pole.contains(&true) && ground.contains(&true)).then(|| Self { pole, ground, poles: Vec::new() })
    }

    /// Measures the poles of one picture.
    pub fn add(&mut self, scene: &Scene<'_>) {
        if scene.width == 0 {
            return;
        }
        let size = (scene.width, scene.truth.len() / scene.width);
        let is_pole = |at: usize| self.pole[usize::from(scene.truth[at])];
        for segment in pieces(size, is_pole, |a, b| same_depth(scene, a, b)) {
            if let Some(zones) = self.measure(scene, &segment) {
                self.poles.push(zones);
            }
        }
    }

    /// The zones of a segment, if it is a pole that stands on the ground.
    fn measure(&self, scene: &Scene<'_>, segment: &Piece) -> Option<[Zone; ZONES]> {
        let (width, height) = (scene.width, scene.truth.len() / scene.width);
        let rows = segment.height();
        let mean_width = segment.pixels.len() as f64 / rows as f64;
        if (rows as f64) < (LEAST_HEIGHT * height as f64).max(LEAST_SLENDER * mean_width) || rows < DECILES {
            return None;
        }
        let extents = segment.extents(width);
        let foot = extents[rows - 1];
        let under: Vec<u8> =
            segment.under((width, height)).map(|at| scene.truth[at]).filter(|&class| class != NO_CLASS).collect();
        let on_ground = under.iter().filter(|&&class| self.ground[usize::from(class)]).count();
        if on_ground == 0 || on_ground * 2 < under.len() {
            return None;
        }
        let reach = mean_width.max(0.01 * height as f64).round().max(1.0) as usize;
        let mut zones = [Zone::default(); ZONES];
        for &at in &segment.pixels {
            self.count(scene, at, &mut zones[(at / width - segment.top) * DECILES / rows]);
        }
        let bottom_top = segment.top + (BOTTOM.start * rows).div_ceil(DECILES);
        for y in bottom_top..(segment.bottom + 1 + reach).min(height) {
            let below = y > segment.bottom;
            let (left, right) = extents.get(y - segment.top).copied().unwrap_or(foot);
            // A row that the segment skips cannot be: it is connected.
            let mut count_ground = |from: usize, to: usize, zone: usize| {
                for x in from..to.min(width) {
                    if self.ground[usize::from(scene.truth[y * width + x])] {
                        self.count(scene, y * width + x, &mut zones[zone]);
                    }
                }
            };
            if below {
                count_ground(left, right + 1, BELOW);
            } else {
                count_ground(left.saturating_sub(reach), left, BESIDE);
                count_ground(right + 1, right + 1 + reach, BESIDE);
            }
            count_ground(left.saturating_sub(8 * reach), left.saturating_sub(4 * reach), APART);
            count_ground(right + 1 + 4 * reach, right + 1 + 8 * reach, APART);
        }
        Some(zones)
    }

    fn count(&self, scene: &Scene<'_>, at: usize, zone: &mut Zone) {
        let answer = usize::from(scene.answer[at]);
        zone.pixels += 1;
        zone.as_pole += u64::from(self.pole[answer]);
        zone.as_ground += u64::from(self.ground[answer]);
        if let Some((truth_m, predicted_m, cap_m)) = scene.depth {
            let (t, p) = (truth_m[at], predicted_m[at]);
            if judged(t, cap_m) && !p.is_nan() {
                zone.depth_pixels += 1;
                zone.log_error += (f64::from(p.clamp(JUDGED_M.0, cap_m)) / f64::from(t)).ln();
            }
        }
    }

    /// The figures.
    pub fn report(&self) -> LeakReport {
        let zone = |range: std::ops::Range<usize>| {
            let zones: Vec<_> = self.poles.iter().map(|pole| Zone::sum(&pole[range.clone()])).collect();
            ZoneReport {
                log_error: mean(zones.iter().filter_map(Zone::mean_log_error)),
                taken_as_near: mean(
                    zones.iter().filter_map(Zone::mean_log_error).map(|e| f64::from(e < TAKEN_AS_NEAR.ln())),
                ),
                as_pole: mean(zones.iter().filter_map(|z| z.share(z.as_pole))),
                as_ground: mean(zones.iter().filter_map(|z| z.share(z.as_ground))),
            }
        };
        // Differences pole by pole, so that both sides are of the same poles.
        let difference =
            |of: &dyn Fn(&Zone) -> Option<f64>, here: std::ops::Range<usize>, there: std::ops::Range<usize>| {
                let of_pole = |pole: &[Zone; ZONES]| {
                    Some(of(&Zone::sum(&pole[here.clone()]))? - of(&Zone::sum(&pole[there.clone()]))?)
                };
                self.poles.iter().filter_map(of_pole).collect::<Vec<f64>>()
            };
        let leaks = difference(&Zone::mean_log_error, BOTTOM, MIDDLE);
        let mut sorted: Vec<f32> = leaks.iter().map(|&d| d as f32).collect();
        let average = |values: Vec<f64>| mean(values.into_iter());
        LeakReport {
            poles: self.poles.len(),
            poles_with_depth: leaks.len(),
            depth_leak: mean(leaks.iter().copied()),
            depth_leak_median: median(&mut sorted),
            ground_depth_leak: average(difference(&Zone::mean_log_error, BESIDE..APART, APART..ZONES)),
            foot_lost_to_ground: average(difference(&|z| z.share(z.as_ground), BOTTOM, MIDDLE)),
            ground_lost_to_pole: average(difference(&|z| z.share(z.as_pole), BESIDE..APART, APART..ZONES)),
            middle: zone(MIDDLE),
            bottom: zone(BOTTOM),
            beside: zone(BESIDE..BELOW),
            below: zone(BELOW..APART),
            apart: zone(APART..ZONES),
            deciles: (0..DECILES).map(|d| zone(d..d + 1)).collect(),
        }
    }
}

/// Whether two neighbours may be one pole: yes where a depth is not known.
fn same_depth(scene: &Scene<'_>, a: usize, b: usize) -> bool {
    let Some((truth_m, _, _)) = scene.depth else { return true };
    let (a, b) = (truth_m[a], truth_m[b]);
    !(a.is_finite() && b.is_finite()) || a.max(b) < SAME_DEPTH * a.min(b)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), v| (sum + v, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = 200;
    const H: usize = 200;
    const ROAD: u8 = 0;
    const BUILDING: u8 = 2;
    const POLE: u8 = 5;
    const CAR: u8 = 13;

    /// Building above row 100, road below; poles of 4 pixels at these columns from row 50 to 149, 20 m away.
    fn street(columns: &[usize]) -> (Vec<u8>, Vec<f32>) {
        let mut labels = vec![ROAD; W * H];
        let mut depth_m = vec![15.0; W * H];
        labels[..100 * W].fill(BUILDING);
        depth_m[..100 * W].fill(50.0);
        for &column in columns {
            fill(&mut labels, column..column + 4, 50..150, POLE);
            fill(&mut depth_m, column..column + 4, 50..150, 20.0);
        }
        (labels, depth_m)
    }

    fn fill<T: Copy>(picture: &mut [T], x: std::ops::Range<usize>, y: std::ops::Range<usize>, value: T) {
        for row in y {
            picture[row * W + x.start..row * W + x.end].fill(value);
        }
    }

    fn leak(truth: &[u8], answer: &[u8], depth: Option<(&[f32], &[f32])>) -> LeakReport {
        let mut leak = Leak::new(&ClassTable::cityscapes()).expect("it has poles");
        leak.add(&Scene { width: W, truth, answer, depth: depth.map(|(t, p)| (t, p, 80.0)) });
        leak.report()
    }

    fn near(a: Option<f64>, b: f64) -> bool {
        a.is_some_and(|a| (a - b).abs() < 1e-6)
    }

    #[test]
    fn a_perfect_answer_has_no_leak() {
        let (labels, depth_m) = street(&[60, 120]);
        let r = leak(&labels, &labels, Some((&depth_m, &depth_m)));
        assert_eq!((r.poles, r.poles_with_depth), (2, 2));
        assert!(
            near(r.depth_leak, 0.0) && near(r.bottom.taken_as_near, 0.0) && near(r.ground_depth_leak, 0.0),
            "{r:?}"
        );
        assert!(near(r.foot_lost_to_ground, 0.0) && near(r.ground_lost_to_pole, 0.0));
        assert!(near(r.bottom.as_pole, 1.0) && near(r.below.as_ground, 1.0) && near(r.apart.as_pole, 0.0));
    }

    #[test]
    fn a_known_leak_is_found() {
        let (labels, depth_m) = street(&[60, 120]);
        // Of one of the two poles the lowest fifth is answered at 0.8 of its depth and its lowest tenth as road.
        let (mut answer, mut predicted) = (labels.clone(), depth_m.clone());
        fill(&mut predicted, 60..64, 130..150, 16.0);
        fill(&mut answer, 60..64, 140..150, ROAD);
        // Below it, the pole goes on for 2 of the 4 rows of its reach, and the ground there is as far as the pole.
        fill(&mut answer, 60..64, 150..152, POLE);
        fill(&mut predicted, 60..64, 150..154, 20.0);
        let r = leak(&labels, &answer, Some((&depth_m, &predicted)));
        assert!(near(r.depth_leak, 0.8_f64.ln() / 2.0), "{r:?}");
        assert!(near(r.bottom.taken_as_near, 0.5) && near(r.middle.taken_as_near, 0.0));
        assert!(near(r.foot_lost_to_ground, 0.25));
        assert!(near(r.below.as_pole, 0.25) && near(r.beside.as_pole, 0.0));
        assert!(near(r.below.log_error, (20.0_f64 / 15.0).ln() / 2.0) && near(r.apart.log_error, 0.0));
        // Of 20 rows x 8 pixels beside and 4 x 4 below, 8 are lost and 16 too far.
        assert!(near(r.ground_lost_to_pole, 8.0 / 176.0 / 2.0));
        assert!(near(r.ground_depth_leak, (20.0_f64 / 15.0).ln() * 16.0 / 176.0 / 2.0));
        let as_ground: Vec<_> = r.deciles.iter().map(|d| d.as_ground.expect("labels")).collect();
        assert_eq!(as_ground, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]);
        let error = r.deciles[8].log_error.expect("depth");
        assert!((error - 0.8_f64.ln() / 2.0).abs() < 1e-6 && near(r.deciles[7].log_error, 0.0));
    }

    #[test]
    fn a_pole_that_is_wrong_all_over_does_not_leak() {
        let (labels, depth_m) = street(&[60]);
        let predicted: Vec<f32> = depth_m.iter().map(|d| d * 0.5).collect();
        let answer = vec![BUILDING; W * H];
        let r = leak(&labels, &answer, Some((&depth_m, &predicted)));
        assert!(near(r.depth_leak, 0.0) && near(r.bottom.log_error, 0.5_f64.ln()) && near(r.bottom.as_pole, 0.0));
    }

    #[test]
    fn without_depth_the_labels_are_measured() {
        let (labels, _) = street(&[60]);
        let mut answer = labels.clone();
        fill(&mut answer, 60..64, 130..150, ROAD);
        let r = leak(&labels, &answer, None);
        assert_eq!((r.poles, r.poles_with_depth, r.depth_leak), (1, 0, None));
        assert!(near(r.foot_lost_to_ground, 1.0));
    }

    #[test]
    fn what_is_no_standing_pole_is_left_out() {
        let (mut labels, mut depth_m) = street(&[]);
        // Its foot behind a car; a plate; one that leaves the picture at the bottom.
        fill(&mut labels, 20..24, 50..150, POLE);
        fill(&mut labels, 10..40, 150..170, CAR);
        fill(&mut labels, 60..100, 90..150, POLE);
        fill(&mut labels, 150..154, 90..200, POLE);
        assert_eq!(leak(&labels, &labels, None).poles, 0);
        // Two poles that touch are two where their depth says so, and one too wide to be a pole where it does not.
        let (mut touching, _) = street(&[]);
        for (x, metres) in [(60, 20.0), (68, 30.0)] {
            fill(&mut touching, x..x + 8, 90..130, POLE);
            fill(&mut depth_m, x..x + 8, 90..130, metres);
        }
        assert_eq!(leak(&touching, &touching, Some((&depth_m, &depth_m))).poles, 2);
        assert_eq!(leak(&touching, &touching, None).poles, 0);
    }

    #[test]
    fn classes_without_poles_have_no_leak() {
        let table = ClassTable::cityscapes();
        let some = |names: &[&str]| {
            let classes = table.classes().iter().filter(|c| names.contains(&c.name.as_str())).cloned().collect();
            Leak::new(&ClassTable::new(classes, &crate::data::source::Groups::default()))
        };
        assert!(some(&["road", "sky"]).is_none() && some(&["pole"]).is_none() && some(&["pole", "road"]).is_some());
    }
}

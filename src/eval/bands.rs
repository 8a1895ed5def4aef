//! Where in the scene and where in the picture: bands of distance, bands of rows.

use super::depth::JUDGED_M;
use serde::Serialize;

/// Bands of rows of a picture, from its top to its bottom.
pub const ROW_BANDS: usize = 32;

/// The first edge beyond 0, in metres; each further one is twice as far.
const FIRST_EDGE_M: f32 = 5.0;

/// Bands of true distance: 0 to 5 m, 5 to 10 m, and so on, twice as far each time, up to the cap.
#[derive(Debug, Clone, PartialEq)]
pub struct DistanceBands {
    /// Far end of each band, in metres.
    far_m: Vec<f32>,
}

/// One band, in metres.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distance {
    /// Near end, part of the band.
    pub from_m: f32,
    /// Far end, not part of it.
    pub to_m: f32,
}

impl DistanceBands {
    /// Up to `cap_m`.
    pub fn new(cap_m: f32) -> Self {
        let doubled = std::iter::successors(Some(FIRST_EDGE_M), |edge| Some(edge * 2.0));
        let far_m = doubled.take_while(|&edge| edge < cap_m).chain([cap_m]).collect();
        Self { far_m }
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty)] // there is always one
    pub fn len(&self) -> usize {
        self.far_m.len()
    }

    /// The band of a true depth; `None` where depth is not judged ([`super::depth::judged`]).
    #[inline]
    pub fn of(&self, truth_m: f32) -> Option<usize> {
        if truth_m > JUDGED_M.0 {
            self.far_m.iter().position(|&far| truth_m < far)
        } else {
            None
        }
    }

    /// All of them, near to far.
    pub fn all(&self) -> impl Iterator<Item = Distance> + '_ {
        let near = std::iter::once(0.0).chain(self.far_m.iter().copied());
        near.zip(&self.far_m).map(|(from_m, &to_m)| Distance { from_m, to_m })
    }
}

/// Rows `start..end` of a picture that are its band `band` of [`ROW_BANDS`]; of a picture with fewer rows some are
/// empty.
pub fn rows_of(band: usize, height: usize) -> std::ops::Range<usize> {
    band * height / ROW_BANDS..(band + 1) * height / ROW_BANDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_of_distance_end_at_the_cap() {
        let bands = DistanceBands::new(80.0);
        let edges: Vec<_> = bands.all().map(|b| (b.from_m, b.to_m)).collect();
        assert_eq!(edges, [(0.0, 5.0), (5.0, 10.0), (10.0, 20.0), (20.0, 40.0), (40.0, 80.0)]);
        assert_eq!(
            [4.9, 5.0, 79.9, 80.0, 0.0, f32::NAN, f32::INFINITY].map(|t| bands.of(t)),
            [Some(0), Some(1), Some(4), None, None, None, None]
        );
        assert_eq!(DistanceBands::new(50.0).all().last(), Some(Distance { from_m: 40.0, to_m: 50.0 }));
        assert_eq!(DistanceBands::new(3.0).len(), 1);
    }

    #[test]
    fn bands_of_rows_are_the_whole_picture_once() {
        for height in [1, 31, 32, 33, 360, 1024] {
            let rows: Vec<_> = (0..ROW_BANDS).flat_map(|band| rows_of(band, height)).collect();
            assert_eq!(rows, (0..height).collect::<Vec<_>>());
        }
    }
}

//! A decoded frame, whatever source it comes from.

use super::classes::UNLABELLED_TRAIN_ID;

/// One frame with its annotations. A source may lack one of the two (asymmetric annotations, Nekrasov et al. 2019).
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Interleaved, row by row.
    pub rgb: Vec<u8>,
    /// Codes of [`crate::data::source::Groups`]: train ids, 19 for unlabelled, above it a group of classes. `None`
    /// where the source has no labels.
    pub labels: Option<Vec<u8>>,
    /// Metres; NaN where not known, inf in the sky. `None` where the source has no depth.
    pub depth_m: Option<Vec<f32>>,
    /// Horizontal and vertical focal length in pixels of this frame, where a camera file tells it.
    pub focal_px: Option<(f64, f64)>,
    /// Where the optical axis goes through the picture, where a camera file tells it; else through its middle.
    pub principal_px: Option<(f64, f64)>,
}

impl Decoded {
    /// Where the optical axis goes through the picture, pixels.
    pub fn principal(&self) -> (f64, f64) {
        self.principal_px.unwrap_or((self.width as f64 / 2.0, self.height as f64 / 2.0))
    }

    /// Cuts off this share of the rows at the bottom: the vehicle that carries the camera.
    pub fn remove_bottom(&mut self, share: f64) {
        self.principal_px = Some(self.principal());
        let height = rows_above_bottom(self.height, share);
        self.height = height;
        self.rgb.truncate(height * self.width * 3);
        if let Some(labels) = &mut self.labels {
            labels.truncate(height * self.width);
        }
        if let Some(depth) = &mut self.depth_m {
            depth.truncate(height * self.width);
        }
    }

    /// Makes the truth of this share of the rows at the bottom unknown. The picture stays whole, as a camera sends it.
    pub fn forget_bottom(&mut self, share: f64) {
        let first = rows_above_bottom(self.height, share) * self.width;
        if let Some(labels) = &mut self.labels {
            labels[first..].fill(UNLABELLED_TRAIN_ID);
        }
        if let Some(depth) = &mut self.depth_m {
            depth[first..].fill(f32::NAN);
        }
    }
}

/// Rows of `height` that are left without this share, 0 to 1, at the bottom.
pub(super) fn rows_above_bottom(height: usize, share: f64) -> usize {
    height - (height as f64 * share).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bottom_goes_from_everything() {
        let mut frame = Decoded {
            width: 2,
            height: 10,
            rgb: (0..60).collect(),
            labels: Some((0..20).collect()),
            depth_m: None,
            focal_px: None,
            principal_px: None,
        };
        frame.remove_bottom(0.2);
        assert_eq!(frame.principal(), (1.0, 5.0), "the axis stays where it was");
        assert_eq!((frame.height, frame.rgb.len(), frame.labels.map(|l| l.len())), (8, 48, Some(16)));
    }

    #[test]
    fn a_forgotten_bottom_stays_in_the_picture() {
        let mut frame = Decoded {
            width: 2,
            height: 10,
            rgb: (0..60).collect(),
            labels: Some(vec![3; 20]),
            depth_m: Some(vec![5.0; 20]),
            focal_px: None,
            principal_px: None,
        };
        frame.forget_bottom(0.2);
        assert_eq!((frame.height, frame.rgb.len(), frame.principal_px), (10, 60, None));
        let (labels, depth) = (frame.labels.expect("labels"), frame.depth_m.expect("depth"));
        assert!(labels[..16].iter().all(|&l| l == 3) && labels[16..].iter().all(|&l| l == UNLABELLED_TRAIN_ID));
        assert!(depth[..16].iter().all(|&d| d == 5.0) && depth[16..].iter().all(|d| d.is_nan()));
    }
}

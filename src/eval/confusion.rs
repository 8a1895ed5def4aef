//! Segmentation measures from one confusion matrix.

use serde::Serialize;

/// One confusion matrix summed over a data set, as Cityscapes counts: unlabelled truth is left out, a wrong or
/// missing answer on a labelled pixel is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `counts[truth * (classes + 1) + predicted]`; the last column is "no class".
    counts: Vec<u64>,
}

/// The main figures of a confusion matrix.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SegmentationReport {
    /// Mean of the classes' IoU, 0 to 1; NaN when no class occurs.
    pub miou: f64,
    /// Share of the labelled pixels that are right, 0 to 1.
    pub pixel_accuracy: f64,
    /// Labelled pixels.
    pub pixels: u64,
}

impl Confusion {
    /// For `classes` scored classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * (classes + 1)] }
    }

    /// Number of scored classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Counts one image: classes of the truth and of the prediction, pixel by pixel.
    pub fn add(&mut self, truth: &[u8], predicted: &[u8]) {
        for (&t, &p) in truth.iter().zip(predicted) {
            self.add_one(t, p);
        }
    }

    /// Counts one pixel. A truth beyond the scored classes is left out, such a prediction is "no class".
    #[inline]
    pub fn add_one(&mut self, truth: u8, predicted: u8) {
        let (truth, predicted) = (usize::from(truth), usize::from(predicted));
        if truth < self.classes {
            self.counts[truth * (self.classes + 1) + predicted.min(self.classes)] += 1;
        }
    }

    /// Adds what another one of the same classes has counted.
    ///
    /// # Panics
    /// It has other classes.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.classes, other.classes, "confusion matrices of different classes");
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
    }

    /// Pixels of class `truth` that were predicted as `predicted`; `predicted == classes()` is "no class".
    ///
    /// # Panics
    /// There is no such class.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        assert!(truth < self.classes && predicted <= self.classes, "no such class");
        self.counts[truth * (self.classes + 1) + predicted]
    }

    /// Pixels of a class in the truth.
    pub fn truth_pixels(&self, class: usize) -> u64 {
        (0..=self.classes).map(|p| self.count(class, p)).sum()
    }

    /// Labelled pixels that were predicted as this class.
    pub fn predicted_pixels(&self, class: usize) -> u64 {
        (0..self.classes).map(|t| self.count(t, class)).sum()
    }

    /// Labelled pixels.
    pub fn pixels(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Intersection over union of a class; `None` where it is neither in the truth nor in the prediction.
    pub fn iou(&self, class: usize) -> Option<f64> {
        let hit = self.count(class, class);
        let union = self.truth_pixels(class) + self.predicted_pixels(class) - hit;
        (union > 0).then(|| hit as f64 / union as f64)
    }

    /// Mean of the classes' IoU; a class that does not occur is left out, NaN when none does.
    pub fn miou(&self) -> f64 {
        self.miou_of(|_| true)
    }

    /// Mean IoU of some of the classes, likewise. Their false positives on all other classes count.
    pub fn miou_of(&self, chosen: impl Fn(usize) -> bool) -> f64 {
        let present: Vec<f64> = (0..self.classes).filter(|&c| chosen(c)).filter_map(|c| self.iou(c)).collect();
        present.iter().sum::<f64>() / present.len() as f64
    }

    /// Share of the labelled pixels that are right.
    pub fn pixel_accuracy(&self) -> f64 {
        self.accuracy_of(|_| true)
    }

    /// Share of the pixels whose truth is one of these classes that are right.
    pub fn accuracy_of(&self, chosen: impl Fn(usize) -> bool) -> f64 {
        let chosen: Vec<_> = (0..self.classes).filter(|&c| chosen(c)).collect();
        let hits: u64 = chosen.iter().map(|&c| self.count(c, c)).sum();
        hits as f64 / chosen.iter().map(|&c| self.truth_pixels(c)).sum::<u64>() as f64
    }

    /// The main figures.
    pub fn report(&self) -> SegmentationReport {
        self.report_of(|_| true)
    }

    /// The main figures of some of the classes: [`Self::miou_of`], [`Self::accuracy_of`].
    pub fn report_of(&self, chosen: impl Fn(usize) -> bool + Copy) -> SegmentationReport {
        SegmentationReport {
            miou: self.miou_of(chosen),
            pixel_accuracy: self.accuracy_of(chosen),
            pixels: (0..self.classes).filter(|&c| chosen(c)).map(|c| self.truth_pixels(c)).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_by_hand() {
        let mut c = Confusion::new(3);
        // Class 0: 2 right, 1 taken for class 1. Class 1: 1 right, 1 without an answer. One pixel is unlabelled.
        c.add(&[0, 0, 0, 1, 1, 19], &[0, 0, 1, 1, 255, 0]);
        assert_eq!(c.iou(0), Some(2.0 / 3.0));
        assert_eq!(c.iou(1), Some(1.0 / 3.0));
        assert_eq!(c.iou(2), None);
        assert!((c.miou() - 0.5).abs() < 1e-12);
        assert!((c.pixel_accuracy() - 0.6).abs() < 1e-12);
        assert_eq!((c.pixels(), c.truth_pixels(1), c.predicted_pixels(1), c.count(1, 3)), (5, 2, 2, 1));
        let only_one = c.report_of(|class| class == 1);
        assert_eq!(only_one, SegmentationReport { miou: 1.0 / 3.0, pixel_accuracy: 0.5, pixels: 2 });
    }

    #[test]
    fn two_halves_are_the_whole() {
        let (truth, predicted) = ([0, 1, 2, 2, 9, 1], [0, 2, 2, 1, 1, 200]);
        let mut whole = Confusion::new(3);
        whole.add(&truth, &predicted);
        let mut halves = Confusion::new(3);
        halves.add(&truth[..2], &predicted[..2]);
        let mut second = Confusion::new(3);
        second.add(&truth[2..], &predicted[2..]);
        halves.merge(&second);
        assert_eq!(whole, halves);
        assert!(Confusion::new(3).miou().is_nan() && Confusion::new(3).pixel_accuracy().is_nan());
    }
}

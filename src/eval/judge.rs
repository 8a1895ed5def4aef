//! Judges a data set frame by frame: every measure from one walk over the pixels.

use super::bands::{rows_of, DistanceBands, ROW_BANDS};
use super::classes::{ClassTable, Side, NO_CLASS};
use super::confusion::{Confusion, SegmentationReport};
use super::depth::{judged, median_ratio, DepthErrors, DepthReport, JUDGED_M};
use super::distribution::JointHistogram;
use super::ground::Ground;
use super::leak::{Leak, Scene};
use super::normals::NormalErrors;
use crate::data::frame::Decoded;
use rayon::prelude::*;
use serde::Serialize;

/// Depth errors of the prediction as it is, and of the prediction scaled by each image's medians.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct BothErrors {
    pub plain: DepthErrors,
    pub scaled: DepthErrors,
}

impl BothErrors {
    pub(super) fn merge(&mut self, other: &Self) {
        self.plain.merge(&other.plain);
        self.scaled.merge(&other.scaled);
    }

    pub(super) fn sum<'a>(errors: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        errors.for_each(|e| sum.merge(e));
        sum
    }
}

/// The scores of one frame.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrameScore {
    /// Its name.
    pub name: String,
    /// Over the classes that occur in its truth or prediction; absent without labels.
    pub segmentation: Option<SegmentationReport>,
    /// Absent without depth.
    pub depth: Option<DepthReport>,
    /// With median scaling; absent without depth.
    pub depth_median_scaled: Option<DepthReport>,
    /// What median scaling multiplied the prediction with.
    pub median_ratio: Option<f64>,
}

/// All that is counted, over a data set or over the rows of a frame.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    /// By distance band; the last is of pixels whose depth is not judged.
    pub confusion: Vec<Confusion>,
    /// By class, the last for none, and distance band: `[class * bands + band]`.
    pub depth: Vec<BothErrors>,
    /// Foreground, background, neither.
    pub joint: [JointHistogram; 3],
}

impl Counts {
    fn new(classes: usize, bands: usize, cap_m: f32) -> Self {
        Self {
            confusion: vec![Confusion::new(classes); bands + 1],
            depth: vec![BothErrors::default(); (classes + 1) * bands],
            joint: std::array::from_fn(|_| JointHistogram::new(cap_m)),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.confusion.iter_mut().zip(&other.confusion).for_each(|(a, b)| a.merge(b));
        self.depth.iter_mut().zip(&other.depth).for_each(|(a, b)| a.merge(b));
        self.joint.iter_mut().zip(&other.joint).for_each(|(a, b)| a.merge(b));
    }

    /// Over all distances.
    pub(super) fn whole_confusion(&self) -> Confusion {
        let mut whole = self.confusion[0].clone();
        self.confusion[1..].iter().for_each(|c| whole.merge(c));
        whole
    }

    /// Over all classes and distances.
    pub(super) fn whole_depth(&self) -> BothErrors {
        BothErrors::sum(self.depth.iter())
    }
}

/// One band of rows over a data set.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub confusion: Confusion,
    pub depth: BothErrors,
}

/// Everything that is judged of a data set.
#[derive(Debug, Clone)]
pub struct Judge {
    pub(super) table: ClassTable,
    pub(super) bands: DistanceBands,
    pub(super) cap_m: f32,
    pub(super) counts: Counts,
    pub(super) rows: Vec<Row>,
    pub(super) leak: Option<Leak>,
    pub(super) ground: Option<Ground>,
    pub(super) normals: NormalErrors,
    pub(super) frames: Vec<FrameScore>,
    /// Value of a translated pixel -> histogram of [`Counts::joint`].
    side_of: [u8; 256],
    /// Whether the model answers classes, and depth.
    answers: (bool, bool),
    /// True classes of the frame at hand, and what its prediction counts as.
    truth: Vec<u8>,
    answer: Vec<u8>,
}

/// A frame's slices, whole or of a band of rows.
#[derive(Clone, Copy)]
struct Pixels<'a> {
    labels: Option<(&'a [u8], &'a [u8])>,
    /// True and predicted metres.
    depth: Option<(&'a [f32], &'a [f32])>,
    scale: f64,
}

impl<'a> Pixels<'a> {
    fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self {
            labels: self.labels.map(|(t, p)| (&t[range.clone()], &p[range.clone()])),
            depth: self.depth.map(|(t, p)| (&t[range.clone()], &p[range.clone()])),
            scale: self.scale,
        }
    }
}

impl Judge {
    /// Of a source's classes. Depth is judged up to `cap_m`, above [`super::distribution::NEAREST_M`].
    pub fn new(table: ClassTable, cap_m: f32) -> Self {
        let bands = DistanceBands::new(cap_m);
        let classes = table.len();
        let empty_row = Row { confusion: Confusion::new(classes), depth: BothErrors::default() };
        let sides: Vec<_> = (0..classes).map(|c| table.side(c)).collect();
        Self {
            counts: Counts::new(classes, bands.len(), cap_m),
            rows: vec![empty_row; ROW_BANDS],
            leak: Leak::new(&table),
            ground: Ground::new(&table),
            normals: NormalErrors::default(),
            frames: Vec::new(),
            side_of: std::array::from_fn(|i| match sides.get(i) {
                Some(Some(Side::Foreground)) => 0,
                Some(Some(Side::Background)) => 1,
                _ => 2,
            }),
            answers: (true, true),
            truth: Vec::new(),
            answer: Vec::new(),
            table,
            bands,
            cap_m,
        }
    }

    /// Of a model that does not answer both: the rest is not judged, though depth still is by the true classes.
    #[must_use]
    pub fn of_answers(mut self, classes: bool, depth: bool) -> Self {
        self.answers = (classes, depth);
        self
    }

    /// The classes that it judges by.
    pub fn table(&self) -> &ClassTable {
        &self.table
    }

    /// Judges a frame: predicted train ids and metres, `height x width`. What the frame's truth lacks is not judged, nor what the
    /// model does not answer ([`Self::of_answers`]).
    ///
    /// # Panics
    /// Truth and prediction differ in size.
    pub fn add(&mut self, name: &str, frame: &Decoded, labels: &[u8], depth_m: &[f32]) {
        let pixels = frame.width * frame.height;
        assert!(labels.len() == pixels && depth_m.len() == pixels, "truth and prediction of {name} differ in size");
        let (has_classes, has_depth) = self.answers;
        let true_depth_m = frame.depth_m.as_ref().filter(|_| has_depth);
        let (mut truth, mut answer) = (std::mem::take(&mut self.truth), std::mem::take(&mut self.answer));
        let ((), ratio) = rayon::join(
            || {
                if let Some(codes) = &frame.labels {
                    self.table.translate(codes, labels, &mut truth, &mut answer);
                }
            },
            || true_depth_m.and_then(|t| median_ratio(t, depth_m, self.cap_m)),
        );
        let whole = Pixels {
            labels: frame.labels.as_ref().map(|_| (truth.as_slice(), answer.as_slice())),
            depth: true_depth_m.map(|t| (t.as_slice(), depth_m)),
            scale: ratio.unwrap_or(1.0),
        };
        let (mut leak, mut ground) = (self.leak.take(), self.ground.take());
        let ((), by_rows) = rayon::join(
            || {
                if let (true, Some(leak), Some((truth, answer))) = (has_classes, &mut leak, whole.labels) {
                    let depth = whole.depth.map(|(t, p)| (t, p, self.cap_m));
                    leak.add(&Scene { width: frame.width, truth, answer, depth });
                }
                if let (true, Some(ground), Some((truth, _))) = (has_depth, &mut ground, whole.labels) {
                    ground.add(frame.width, truth, depth_m);
                }
            },
            || {
                let count = |band| {
                    let rows = rows_of(band, frame.height);
                    self.count(whole.part(rows.start * frame.width..rows.end * frame.width))
                };
                (0..ROW_BANDS).into_par_iter().map(count).collect::<Vec<Counts>>()
            },
        );
        (self.leak, self.ground) = (leak, ground);
        // In the order of the rows, so that sums do not depend on the threads.
        let mut counts = Counts::new(self.table.len(), self.bands.len(), self.cap_m);
        for (row, part) in self.rows.iter_mut().zip(&by_rows) {
            row.confusion.merge(&part.whole_confusion());
            row.depth.merge(&part.whole_depth());
            counts.merge(part);
        }
        let errors = counts.whole_depth();
        self.frames.push(FrameScore {
            name: name.into(),
            segmentation: whole.labels.filter(|_| has_classes).map(|_| counts.whole_confusion().report()),
            depth: whole.depth.map(|_| errors.plain.report()),
            depth_median_scaled: whole.depth.map(|_| errors.scaled.report()),
            median_ratio: ratio,
        });
        self.counts.merge(&counts);
        (self.truth, self.answer) = (truth, answer);
    }

    /// Judges a frame's surface normals, `[3, h, w]`; empty of a model that answers none.
    pub fn add_normals(&mut self, frame: &Decoded, normals: &[f32]) {
        if !normals.is_empty() {
            self.normals.add(frame, normals);
        }
    }

    /// The walk over some pixels.
    fn count(&self, pixels: Pixels<'_>) -> Counts {
        let bands = self.bands.len();
        let mut counts = Counts::new(self.table.len(), bands, self.cap_m);
        let limits = (f64::from(JUDGED_M.0), f64::from(self.cap_m));
        let log_limits = (limits.0.ln(), limits.1.ln());
        let log_scale = pixels.scale.ln();
        if let Some((truth, answer)) = pixels.labels {
            for (i, (&t, &a)) in truth.iter().zip(answer).enumerate() {
                let band = pixels.depth.and_then(|(truth_m, _)| self.bands.of(truth_m[i])).unwrap_or(bands);
                counts.confusion[band].add_one(t, a);
            }
        }
        let Some((truth_m, predicted_m)) = pixels.depth else { return counts };
        for (i, (&t, &p)) in truth_m.iter().zip(predicted_m).enumerate() {
            let Some(band) = self.bands.of(t).filter(|_| judged(t, self.cap_m)) else { continue };
            let class = pixels.labels.map_or(NO_CLASS, |(truth, _)| truth[i]);
            let errors = &mut counts.depth[usize::from(class).min(self.table.len()) * bands + band];
            if p.is_nan() {
                errors.plain.add_missing();
                errors.scaled.add_missing();
                continue;
            }
            let (t, raw) = (f64::from(t), f64::from(p));
            let log_t = t.ln();
            let plain = raw.clamp(limits.0, limits.1);
            let log_plain = plain.ln();
            errors.plain.add_one(t, plain, log_plain - log_t);
            let scaled = (raw * pixels.scale).clamp(limits.0, limits.1);
            // The logarithm of a product, where nothing was clamped.
            let log_scaled = if scaled == limits.0 {
                log_limits.0
            } else if scaled == limits.1 {
                log_limits.1
            } else if plain == raw {
                log_plain + log_scale
            } else {
                scaled.ln()
            };
            errors.scaled.add_one(t, scaled, log_scaled - log_t);
            // Beyond the cap is beyond the histogram, too.
            let log_seen = if plain == raw { log_plain } else { raw.ln() };
            counts.joint[usize::from(self.side_of[usize::from(class)])].add(log_t, log_seen);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::classes::UNLABELLED;

    /// 4 columns, 64 rows: the upper half building at 30 m, the lower half road at 8 m, one car at 8 m, some sky.
    fn frame() -> Decoded {
        let (width, height) = (4, 64);
        let mut labels = vec![2_u8; width * height];
        let mut depth_m = vec![30.0_f32; width * height];
        labels[width * 32..].fill(0);
        depth_m[width * 32..].fill(8.0);
        labels[width * 32..width * 36].fill(13);
        labels[..width].fill(10);
        depth_m[..width].fill(f32::INFINITY);
        labels[width * 63..].fill(19);
        Decoded {
            width,
            height,
            rgb: vec![],
            labels: Some(labels),
            depth_m: Some(depth_m),
            focal_px: None,
            principal_px: None,
        }
    }

    fn judge() -> Judge {
        Judge::new(ClassTable::cityscapes(), 80.0)
    }

    #[test]
    fn the_walk_counts_what_the_plain_measures_count() {
        let frame = frame();
        let (labels, depth_m) = (frame.labels.clone().expect("labels"), frame.depth_m.clone().expect("depth"));
        let mut answer = labels.clone();
        answer[..20].fill(8);
        answer[200] = 255;
        let predicted: Vec<f32> = depth_m
            .iter()
            .enumerate()
            .map(|(i, d)| if i == 77 { f32::NAN } else { d * (1.0 + i as f32 / 99.0) })
            .collect();
        let mut judge = judge();
        judge.add("a", &frame, &answer, &predicted);
        let summary = judge.summary();
        let mut confusion = Confusion::new(19);
        confusion.add(&labels, &answer);
        let mut errors = DepthErrors::new();
        errors.add(&depth_m, &predicted);
        let segmentation = summary.segmentation.expect("labels");
        assert_eq!(segmentation.pooled, confusion.report());
        let (depth, plain) = (summary.depth.expect("depth"), errors.report());
        assert_eq!((depth.pooled.plain.pixels, depth.pooled.plain.missing), (plain.pixels, 1));
        for (a, b) in [
            (depth.pooled.plain.abs_rel, plain.abs_rel),
            (depth.pooled.plain.rmse_log, plain.rmse_log),
            (depth.pooled.plain.silog, plain.silog),
            (depth.per_image.plain.rmse_m, plain.rmse_m),
        ] {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
        // Each pixel is in one class, one band, one row and one bin.
        let pixels = plain.pixels + 1;
        let of = |r: &DepthReport| r.pixels + r.missing;
        assert_eq!(depth.by_class.iter().map(|c| of(&c.errors.plain)).sum::<u64>() + 4, pixels, "4 are unlabelled");
        assert_eq!(depth.by_distance.iter().map(|b| of(&b.report.plain)).sum::<u64>(), pixels);
        assert_eq!(depth.by_row.iter().map(|b| of(&b.report.plain)).sum::<u64>(), pixels);
        assert_eq!(depth.distribution.truth.iter().sum::<u64>(), plain.pixels);
        assert_eq!(segmentation.by_row.iter().map(|b| b.report.pixels).sum::<u64>(), confusion.pixels());
        // The sky has no band.
        assert_eq!(segmentation.by_distance.iter().map(|b| b.report.pixels).sum::<u64>(), confusion.pixels() - 4);
    }

    #[test]
    fn median_scaling_is_by_the_image() {
        let frame = frame();
        let truth = frame.depth_m.clone().expect("depth");
        let labels = frame.labels.clone().expect("labels");
        let mut judge = judge();
        judge.add("half", &frame, &labels, &truth.iter().map(|d| d * 0.5).collect::<Vec<_>>());
        judge.add("twice", &frame, &labels, &truth.iter().map(|d| d * 2.0).collect::<Vec<_>>());
        let depth = judge.summary().depth.expect("depth");
        assert!(depth.pooled.median_scaled.abs_rel < 1e-9 && depth.pooled.plain.abs_rel > 0.7);
        assert!((depth.per_image.plain.abs_rel - (0.5 + 1.0) / 2.0).abs() < 1e-9);
        assert_eq!(depth.median_ratio.expect("ratios").mean, 1.25);
        assert_eq!(judge.frames[0].median_ratio, Some(2.0));
    }

    #[test]
    fn what_a_frame_lacks_is_not_judged() {
        let mut frame = frame();
        let labels = frame.labels.take().expect("labels");
        let depth_m = frame.depth_m.clone().expect("depth");
        let mut judge = judge();
        judge.add("no labels", &frame, &labels, &depth_m);
        let summary = judge.summary();
        assert!(summary.segmentation.is_none() && summary.leak.is_none());
        let depth = summary.depth.expect("depth");
        assert!(depth.by_class.is_empty() && depth.foreground.is_none(), "there are no classes to split by");
        frame.labels = Some(labels.clone());
        frame.depth_m = None;
        judge.add("no depth", &frame, &labels, &depth_m);
        let summary = judge.summary();
        let segmentation = summary.segmentation.expect("labels");
        assert_eq!((segmentation.frames, summary.depth.expect("depth").frames, summary.frames), (1, 1, 2));
        assert!(segmentation.by_distance.iter().all(|b| b.report.pixels == 0));
    }

    #[test]
    fn what_a_model_does_not_answer_is_not_judged() {
        let frame = frame();
        let (labels, depth_m) = (frame.labels.clone().expect("labels"), frame.depth_m.clone().expect("depth"));
        let both = {
            let mut judge = judge();
            judge.add("both", &frame, &labels, &depth_m);
            judge.summary()
        };
        let mut classes_alone = judge().of_answers(true, false);
        classes_alone.add("classes", &frame, &labels, &vec![f32::NAN; depth_m.len()]);
        let found = classes_alone.summary();
        assert!(found.depth.is_none() && found.ground.is_none());
        assert_eq!(found.segmentation.expect("judged").pooled, both.segmentation.expect("judged").pooled);
        let mut depth_alone = judge().of_answers(false, true);
        depth_alone.add("depth", &frame, &vec![UNLABELLED; labels.len()], &depth_m);
        let found = depth_alone.summary();
        assert!(found.segmentation.is_none() && found.leak.is_none());
        let (found, both) = (found.depth.expect("judged"), both.depth.expect("judged"));
        assert_eq!(found.pooled, both.pooled);
        assert!(
            !found.by_class.is_empty() && found.by_class.len() == both.by_class.len(),
            "the true classes are known"
        );
    }
}

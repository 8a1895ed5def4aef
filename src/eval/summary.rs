//! All measures of a data set, as they are written out.

use super::bands::{Distance, ROW_BANDS};
use super::classes::{Side, BACKGROUND, FOREGROUND};
use super::confusion::SegmentationReport;
use super::depth::DepthReport;
use super::distribution::{Distribution, JointHistogram};
use super::ground::GroundReport;
use super::judge::{BothErrors, FrameScore, Judge};
use super::leak::LeakReport;
use super::normals::NormalReport;
use crate::data::classes;
use serde::Serialize;

/// All measures of a data set.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Frames that were judged.
    pub frames: usize,
    /// `None` where no frame has labels.
    pub segmentation: Option<Segmentation>,
    /// `None` where no frame has depth.
    pub depth: Option<Depth>,
    /// `None` where the classes have no pole or no ground, or no pole was found.
    pub leak: Option<LeakReport>,
    /// Whether depth makes sense on the ground; `None` where no frame has a road.
    pub ground: Option<GroundReport>,
    /// Of a model that answers surface normals, where depth and camera are known.
    pub normals: Option<NormalReport>,
    /// The scores of each frame.
    pub per_frame: Vec<FrameScore>,
}

/// Segmentation.
#[derive(Debug, Clone, Serialize)]
pub struct Segmentation {
    /// Frames with labels.
    pub frames: usize,
    /// From one confusion matrix of all frames.
    pub pooled: SegmentationReport,
    /// Means of the frames' own figures.
    pub per_image: SegmentationReport,
    /// Class by class.
    pub classes: Vec<ClassReport>,
    /// How many of these have an IoU: the pooled mean is over them.
    pub classes_with_iou: usize,
    /// `confusion[truth][predicted]` in pixels; the last column is "no class".
    pub confusion: Vec<Vec<u64>>,
    /// Pixels whose true class is foreground.
    pub foreground: Option<SegmentationReport>,
    /// Pixels whose true class is background.
    pub background: Option<SegmentationReport>,
    /// Labelled pixels by true distance, where depth is judged.
    pub by_distance: Vec<ByDistance<SegmentationReport>>,
    /// Labelled pixels by image row.
    pub by_row: Vec<ByRow<SegmentationReport>>,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    /// The source's name.
    pub name: String,
    /// Cityscapes names of what counts as it.
    pub is: Vec<String>,
    /// Foreground, background, or neither.
    pub side: Option<&'static str>,
    /// 0 to 1; absent for a class that does not occur.
    pub iou: Option<f64>,
    /// Share of its true pixels that are predicted as it (recall).
    pub recall: Option<f64>,
    /// Share of the pixels predicted as it that are it.
    pub precision: Option<f64>,
    /// Pixels in the truth.
    pub pixels: u64,
}

/// Depth.
#[derive(Debug, Clone, Serialize)]
pub struct Depth {
    /// Frames with depth.
    pub frames: usize,
    /// Depth is judged where the truth is above the first and below the second, metres.
    pub judged_m: (f32, f32),
    /// Over all pixels of all frames.
    pub pooled: Both,
    /// Means of the frames' own figures: the literature's custom.
    pub per_image: Both,
    /// What median scaling multiplied the frames' predictions with.
    pub median_ratio: Option<Spread>,
    /// Pixels by true class; empty without labels.
    pub by_class: Vec<ByClass>,
    /// Pixels whose true class is foreground.
    pub foreground: Option<Both>,
    /// Pixels whose true class is background.
    pub background: Option<Both>,
    /// Pixels by true distance.
    pub by_distance: Vec<ByDistance<Both>>,
    /// Pixels by image row.
    pub by_row: Vec<ByRow<Both>>,
    /// Of all pixels, without median scaling.
    pub distribution: Distribution,
    /// Of the foreground.
    pub distribution_foreground: Option<Distribution>,
    /// Of the background.
    pub distribution_background: Option<Distribution>,
}

/// Depth measures without and with median scaling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Both {
    /// The prediction as it is.
    pub plain: DepthReport,
    /// The prediction of each frame times the ratio of the medians of truth and prediction in that frame.
    pub median_scaled: DepthReport,
}

/// A class and its depth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ByClass {
    /// The source's name.
    pub name: String,
    /// Its measures.
    #[serde(flatten)]
    pub errors: Both,
}

/// Something by true distance. The measures are beside the band's ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ByDistance<T> {
    /// The band.
    #[serde(flatten)]
    pub band: Distance,
    /// Its measures.
    #[serde(flatten)]
    pub report: T,
}

/// Something by image row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ByRow<T> {
    /// First row of the band as a share of the image's height; 0 is the top.
    pub top: f64,
    /// End of the band, likewise.
    pub bottom: f64,
    /// Its measures.
    #[serde(flatten)]
    pub report: T,
}

/// Mean and standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the population.
    pub deviation: f64,
}

impl From<&BothErrors> for Both {
    fn from(errors: &BothErrors) -> Self {
        Self { plain: errors.plain.report(), median_scaled: errors.scaled.report() }
    }
}

impl Judge {
    /// All measures.
    pub fn summary(&self) -> Summary {
        let leak = self.leak.as_ref().map(super::leak::Leak::report).filter(|r| r.poles > 0);
        Summary {
            frames: self.frames.len(),
            segmentation: segmentation(self),
            depth: depth(self),
            leak,
            ground: self.ground.as_ref().map(super::ground::Ground::report).filter(|r| r.road_frames > 0),
            normals: self.normals.report(),
            per_frame: self.frames.clone(),
        }
    }
}

fn segmentation(judge: &Judge) -> Option<Segmentation> {
    let frames: Vec<_> = judge.frames.iter().filter_map(|f| f.segmentation).collect();
    if frames.is_empty() {
        return None;
    }
    let whole = judge.counts.whole_confusion();
    let scored: Vec<_> = frames.iter().filter(|f| f.pixels > 0).collect();
    let mean =
        |of: &dyn Fn(&SegmentationReport) -> f64| scored.iter().map(|f| of(f)).sum::<f64>() / scored.len() as f64;
    let side = |side: Side| {
        let report = whole.report_of(|c| judge.table.side(c) == Some(side));
        (report.pixels > 0).then_some(report)
    };
    let by_distance = judge.bands.all().zip(&judge.counts.confusion);
    let classes = class_reports(judge);
    Some(Segmentation {
        frames: frames.len(),
        pooled: whole.report(),
        per_image: SegmentationReport {
            miou: mean(&|f| f.miou),
            pixel_accuracy: mean(&|f| f.pixel_accuracy),
            pixels: whole.pixels(),
        },
        classes_with_iou: classes.iter().filter(|c| c.iou.is_some()).count(),
        classes,
        confusion: (0..whole.classes()).map(|t| (0..=whole.classes()).map(|p| whole.count(t, p)).collect()).collect(),
        foreground: side(Side::Foreground),
        background: side(Side::Background),
        by_distance: by_distance.map(|(band, c)| ByDistance { band, report: c.report() }).collect(),
        by_row: by_row(judge.rows.iter().map(|r| r.confusion.report())),
    })
}

fn class_reports(judge: &Judge) -> Vec<ClassReport> {
    let whole = judge.counts.whole_confusion();
    let names = classes::cityscapes();
    let share = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
    let report = |(c, class): (usize, &crate::data::source::JudgedClass)| ClassReport {
        name: class.name.clone(),
        is: class.train_ids.iter().filter_map(|&id| Some(names.get(usize::from(id))?.name.clone())).collect(),
        side: judge.table.side(c).map(|s| if s == Side::Foreground { "foreground" } else { "background" }),
        iou: whole.iou(c),
        recall: share(whole.count(c, c), whole.truth_pixels(c)),
        precision: share(whole.count(c, c), whole.predicted_pixels(c)),
        pixels: whole.truth_pixels(c),
    };
    judge.table.classes().iter().enumerate().map(report).collect()
}

fn depth(judge: &Judge) -> Option<Depth> {
    let frames = judge.frames.iter().filter(|f| f.depth.is_some()).count();
    if frames == 0 {
        return None;
    }
    let (bands, classes) = (judge.bands.len(), judge.table.len());
    let pooled = Both::from(&judge.counts.whole_depth());
    let of_class = |c: usize| BothErrors::sum(judge.counts.depth[c * bands..(c + 1) * bands].iter());
    let of_band = |band: usize| BothErrors::sum(judge.counts.depth.iter().skip(band).step_by(bands));
    let of_side = |side: Side| {
        let errors: Vec<_> = (0..classes).filter(|&c| judge.table.side(c) == Some(side)).map(of_class).collect();
        let sum = BothErrors::sum(errors.iter());
        (!sum.plain.is_empty()).then(|| Both::from(&sum))
    };
    let mean = |of: &dyn Fn(&FrameScore) -> Option<DepthReport>| {
        let reports: Vec<_> = judge.frames.iter().filter_map(of).collect();
        DepthReport::mean(reports.iter())
    };
    let (foreground, background) = (of_side(Side::Foreground), of_side(Side::Background));
    let [front, back, _] = &judge.counts.joint;
    let mut all = JointHistogram::new(judge.cap_m);
    judge.counts.joint.iter().for_each(|h| all.merge(h));
    Some(Depth {
        frames,
        judged_m: (super::JUDGED_M.0, judge.cap_m),
        pooled,
        per_image: Both {
            plain: mean(&|f| f.depth).unwrap_or(pooled.plain),
            median_scaled: mean(&|f| f.depth_median_scaled).unwrap_or(pooled.median_scaled),
        },
        median_ratio: spread(judge.frames.iter().filter_map(|f| f.median_ratio)),
        by_class: (0..classes)
            .map(|c| (c, of_class(c)))
            .filter(|(_, errors)| !errors.plain.is_empty())
            .map(|(c, errors)| ByClass { name: judge.table.classes()[c].name.clone(), errors: Both::from(&errors) })
            .collect(),
        distribution: all.report(),
        distribution_foreground: foreground.map(|_| front.report()),
        distribution_background: background.map(|_| back.report()),
        foreground,
        background,
        by_distance: judge
            .bands
            .all()
            .enumerate()
            .map(|(i, band)| ByDistance { band, report: Both::from(&of_band(i)) })
            .collect(),
        by_row: by_row(judge.rows.iter().map(|r| Both::from(&r.depth))),
    })
}

fn by_row<T>(reports: impl Iterator<Item = T>) -> Vec<ByRow<T>> {
    let share = |row: usize| row as f64 / ROW_BANDS as f64;
    reports.enumerate().map(|(band, report)| ByRow { top: share(band), bottom: share(band + 1), report }).collect()
}

fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt();
    (!values.is_empty()).then_some(Spread { mean, deviation })
}

impl Summary {
    /// The main figures as a table for a terminal; with `details` the bands, the foreground and the leak's zones too.
    pub fn table(&self, details: bool) -> String {
        let mut out = String::new();
        match &self.segmentation {
            Some(segmentation) => out += &segmentation.table(self.frames, details),
            None => out += "segmentation           not judged: no frame has labels, or the model answers none\n",
        }
        match &self.depth {
            Some(depth) => out += &depth.table(self.frames, details),
            None => out += "depth                  not judged: no frame has depth, or the model answers none\n",
        }
        if let Some(leak) = &self.leak {
            out += &leak_table(leak, details);
        }
        if let Some(ground) = &self.ground {
            out += &ground_table(ground);
        }
        if let Some(normals) = &self.normals {
            out += &normals_table(normals, self.frames);
        }
        out
    }
}

/// "on 3 of 5 frames", where it is not all.
fn only(judged: usize, frames: usize) -> String {
    if judged == frames {
        String::new()
    } else {
        format!("   (on {judged} of {frames} frames)")
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or("      -".into(), |v| format!("{v:7.4}"))
}

impl Segmentation {
    /// What the pooled mean IoU is over, in words: a class that occurs neither in the truth nor in the answers has no IoU.
    pub(super) fn mean_over(&self) -> String {
        let (with, all) = (self.classes_with_iou, self.classes.len());
        if with == all {
            format!("{all} classes")
        } else {
            format!("{with} of {all} classes")
        }
    }

    fn table(&self, frames: usize, details: bool) -> String {
        let mut out = String::new();
        let note = only(self.frames, frames);
        if self.pooled.pixels == 0 {
            return format!("segmentation           not judged: no labelled pixel{note}\n");
        }
        for class in &self.classes {
            out += &format!("  {:<20} IoU {}\n", class.name, number(class.iou));
        }
        let (pooled, image) = (&self.pooled, &self.per_image);
        out += &format!("mIoU over {:<10}   {:.4}{note}\n", self.mean_over(), pooled.miou);
        out += &format!("pixel accuracy         {:.4}\n", pooled.pixel_accuracy);
        out += &format!("mean of the images     mIoU {:.4}, accuracy {:.4}\n", image.miou, image.pixel_accuracy);
        if !details {
            return out;
        }
        let line = |what: &str, r: &SegmentationReport| {
            format!("  {what:<20} mIoU {} accuracy {}\n", number(real(r.miou)), number(real(r.pixel_accuracy)))
        };
        for (name, report) in [("foreground", &self.foreground), ("background", &self.background)] {
            if let Some(report) = report {
                out += &line(name, report);
            }
        }
        for band in self.by_distance.iter().filter(|b| b.report.pixels > 0) {
            out += &line(&format!("{} to {} m", band.band.from_m, band.band.to_m), &band.report);
        }
        for row in self.by_row.iter().filter(|r| r.report.pixels > 0) {
            out += &line(&rows(row), &row.report);
        }
        out
    }
}

fn rows<T>(row: &ByRow<T>) -> String {
    format!("rows {:.1} to {:.1}%", 100.0 * row.top, 100.0 * row.bottom)
}

fn real(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

impl Depth {
    fn table(&self, frames: usize, details: bool) -> String {
        let mut out = format!(
            "depth, {} < truth < {} m        AbsRel  SqRel m   RMSE m RMSElog    SILog   d<1.25   ^2      ^3{}\n",
            self.judged_m.0,
            self.judged_m.1,
            only(self.frames, frames)
        );
        let line = |what: &str, r: &DepthReport| {
            format!(
                "  {what:<29} {:7.4} {:8.4} {:8.3} {:7.4} {:8.3}  {:7.4} {:7.4} {:7.4}\n",
                r.abs_rel, r.sq_rel_m, r.rmse_m, r.rmse_log, r.silog, r.delta[0], r.delta[1], r.delta[2]
            )
        };
        out += &line("over all pixels", &self.pooled.plain);
        out += &line("the same, median-scaled", &self.pooled.median_scaled);
        out += &line("mean of the images", &self.per_image.plain);
        out += &line("the same, median-scaled", &self.per_image.median_scaled);
        if let Some(ratio) = self.median_ratio {
            out += &format!("  median ratio {:.4}, standard deviation {:.4}\n", ratio.mean, ratio.deviation);
        }
        if self.pooled.plain.missing > 0 {
            out += &format!("  pixels without depth   {}\n", self.pooled.plain.missing);
        }
        if !details {
            return out;
        }
        out += "by true class, distance and row, over all pixels, not median-scaled\n";
        for class in &self.by_class {
            out += &line(&class.name, &class.errors.plain);
        }
        for (name, both) in [("foreground", &self.foreground), ("background", &self.background)] {
            if let Some(both) = both {
                out += &line(name, &both.plain);
            }
        }
        let some = |both: &Both| both.plain.pixels > 0;
        for band in self.by_distance.iter().filter(|b| some(&b.report)) {
            out += &line(&format!("{} to {} m", band.band.from_m, band.band.to_m), &band.report.plain);
        }
        for row in self.by_row.iter().filter(|r| some(&r.report)) {
            out += &line(&rows(row), &row.report.plain);
        }
        out
    }
}

fn normals_table(normals: &NormalReport, frames: usize) -> String {
    let [near, middle, far] = normals.within;
    let mut out = format!(
        "surface normals        mean {:.2} degrees, median {:.2}; within 11.25 {near:.4}, 22.5 {middle:.4}, 30 {far:.4}{}\n",
        normals.mean_deg,
        normals.median_deg,
        only(normals.frames, frames)
    );
    if normals.missing > 0 {
        out += &format!("  pixels without one     {}\n", normals.missing);
    }
    out
}

fn leak_table(leak: &LeakReport, details: bool) -> String {
    let mut out = format!("bottoms of {} poles\n", leak.poles);
    let line = |what: &str, value: Option<f64>| match value {
        Some(value) => format!("  {what:<56} {value:+.4}\n"),
        None => String::new(),
    };
    out += &line("ln error of the bottom; below 0 is too near", leak.bottom.log_error);
    out += &line("depth leak: that minus the ln error of the middle", leak.depth_leak);
    out += &line("share of poles with a bottom more than 5% too near", leak.bottom.taken_as_near);
    out += &line("ground's depth leak: ln error beside a pole minus apart", leak.ground_depth_leak);
    out += &line("bottom labelled as ground, more than the middle", leak.foot_lost_to_ground);
    out += &line("ground beside a pole labelled as pole, more than apart", leak.ground_lost_to_pole);
    if details {
        let zones = [
            ("middle", &leak.middle),
            ("bottom", &leak.bottom),
            ("ground beside", &leak.beside),
            ("ground below", &leak.below),
            ("ground apart", &leak.apart),
        ];
        for (name, zone) in zones {
            out += &format!(
                "  {name:<14} ln error {}  too near {}  as pole {}  as ground {}\n",
                number(zone.log_error),
                number(zone.taken_as_near),
                number(zone.as_pole),
                number(zone.as_ground)
            );
        }
    }
    out
}

fn ground_table(ground: &GroundReport) -> String {
    let share = |value: Option<f64>| value.map_or("-".into(), |v| format!("{:.1}%", 100.0 * v));
    format!(
        "predicted depth grows upwards on the road in {} of the steps, at every step in {} of {} frames\n\
         things that stand on visible ground {}: foot within 15% of the ground's depth {}, median ln ratio {}\n",
        share(ground.road_steps_growing),
        share(ground.road_frames_growing),
        ground.road_frames,
        ground.things,
        share(ground.feet_on_ground),
        number(ground.foot_log_ratio)
    )
}

/// The lists of the split, for documents.
pub fn split_text() -> String {
    format!("Foreground: {}. Background: {}.", FOREGROUND.join(", "), BACKGROUND.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::frame::Decoded;
    use crate::data::source::Groups;
    use crate::eval::ClassTable;

    #[test]
    fn the_mean_iou_tells_how_many_classes_it_is_over() {
        // Rows of pixels of every class below `classes`, all answered right.
        let judged = |table: ClassTable, classes: u8| {
            let labels: Vec<u8> = (0..32).flat_map(|_| 0..classes).collect();
            let frame = Decoded {
                width: usize::from(classes),
                height: 32,
                rgb: vec![],
                labels: Some(labels.clone()),
                depth_m: None,
                focal_px: None,
                principal_px: None,
            };
            let mut judge = Judge::new(table, 80.0);
            judge.add("a", &frame, &labels, &vec![10.0; labels.len()]);
            let summary = judge.summary();
            let figures = serde_json::to_value(&summary.segmentation).expect("JSON");
            (summary.table(false), figures["classes_with_iou"].as_u64())
        };
        let (table, count) = judged(ClassTable::cityscapes(), 19);
        assert!(table.contains("mIoU over 19 classes   1.0000\n") && count == Some(19), "{table}");
        let (table, count) = judged(ClassTable::cityscapes(), 18);
        assert!(table.contains("mIoU over 18 of 19 classes   1.0000\n") && count == Some(18), "{table}");
        let (table, count) = judged(ClassTable::categories(&Groups::default()), 19);
        assert!(table.contains("mIoU over 7 classes    1.0000\n") && count == Some(7), "{table}");
    }

    #[test]
    fn labels_without_a_labelled_pixel_are_not_judged() {
        let frame = Decoded {
            width: 4,
            height: 32,
            rgb: vec![],
            labels: Some(vec![classes::UNLABELLED_TRAIN_ID; 128]),
            depth_m: None,
            focal_px: None,
            principal_px: None,
        };
        let mut judge = Judge::new(ClassTable::cityscapes(), 80.0);
        judge.add("a", &frame, &[0; 128], &[10.0; 128]);
        let summary = judge.summary();
        for details in [false, true] {
            let table = summary.table(details);
            assert!(table.starts_with("segmentation           not judged: no labelled pixel\n"), "{table}");
            assert!(!table.contains("NaN") && !table.contains("mIoU"), "{table}");
        }
        let head = crate::eval::report::Head { model: "m".into(), data: "d".into(), facts: vec![] };
        let page = crate::eval::report::page(&head, judge.table(), &summary, &[]).expect("a page");
        assert!(page.contains("No pixel is labelled: it is not judged") && !page.contains("NaN"), "{page}");
    }
}

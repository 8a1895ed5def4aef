//! The demo's figures: as a table for people, as JSON for programs.

use super::bag::BagSummary;
use super::messages::{Counts, FrameTiming};
use super::play::{Run, DEPTH, LABELS, OVERLAY, TIMING};
use crate::data::classes::SCORED_CLASSES;
use crate::frame::clock;
use serde::Serialize;
use std::fmt::Write;

/// As [`clock::Percentiles`], in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)] // usual names
pub struct Percentiles {
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Percentiles {
    /// Of nanoseconds; `None` of nothing.
    pub fn of(values_ns: Vec<i64>) -> Option<Self> {
        let clock::Percentiles { p50, p95, p99, max } = clock::Percentiles::of(values_ns)?;
        let ms = |ns: i64| ns as f64 / 1e6;
        Some(Self { p50_ms: ms(p50), p95_ms: ms(p95), p99_ms: ms(p99), max_ms: ms(max) })
    }
}

/// One stage's name and its percentiles.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// As in `FrameTiming`, without `_ns`.
    pub name: &'static str,
    /// Over all answered frames.
    #[serde(flatten)]
    pub percentiles: Percentiles,
}

/// Where the frames went. `played = lost + dropped + refused + answered + waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Frames {
    /// Published by the demo.
    pub played: u64,
    /// That never arrived at the node (or arrived after its last word).
    pub lost: u64,
    /// Replaced by a newer one before the network was free, or over the node's `max_rate_hz`, by the node's own count.
    pub dropped: u64,
    /// Malformed, by the node's own count.
    pub refused: u64,
    /// Answered, by the node's own count.
    pub answered: u64,
    /// Whose labels, depth, overlay and timing all came back.
    pub complete: u64,
}

/// Segmentation and depth against the truth.
#[derive(Debug, Clone, Serialize)]
pub struct Scores {
    /// Answered frames with true labels.
    pub labels_frames: u64,
    /// Answered frames with true depth.
    pub depth_frames: u64,
    /// Answered frames with true labels that a model of other classes than Cityscapes' cannot be compared with.
    pub unscored_labels_frames: u64,
    /// Mean intersection over union of the classes that occur, 0 to 1.
    pub miou: Option<f64>,
    /// Share of pixels that are right, 0 to 1.
    pub pixel_accuracy: Option<f64>,
    /// Class name and its IoU, of the classes that occur.
    pub iou: Vec<(String, f64)>,
    /// Mean of |error| / truth.
    pub abs_rel: Option<f64>,
    /// Root of the mean squared error, metres.
    pub rmse_m: Option<f64>,
    /// Share of pixels within a factor of 1.25.
    pub delta1: Option<f64>,
}

/// How many messages of each output came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the topics' names
pub struct Messages {
    pub labels: u64,
    pub depth: u64,
    pub overlay: u64,
    pub timing: u64,
}

/// How the node ended.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct NodeEnd {
    /// Its exit code; none if a signal ended it.
    pub exit_code: Option<i32>,
    /// From SIGINT to its end.
    pub took_s: f64,
}

/// All figures of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was played.
    pub source: String,
    /// The model.
    pub model: String,
    /// The node's back end and device.
    pub backend: String,
    /// The node's device.
    pub device: String,
    /// Frames a second asked for.
    pub rate_hz: f64,
    /// The node's `max_rate_hz`, where one was set: frames above it were dropped because that was asked for.
    pub max_rate_hz: Option<f64>,
    /// Frames a second that were played.
    pub played_hz: f64,
    /// Frames a second that were answered.
    pub answered_hz: f64,
    /// Where the frames went.
    pub frames: Frames,
    /// Messages that came back.
    pub messages: Messages,
    /// Messages with a stamp that was never played.
    pub strangers: u64,
    /// The node's stages, in order.
    pub stages: Vec<Stage>,
    /// Stamp to publication.
    pub age: Option<Percentiles>,
    /// Against the truth, where there is one.
    pub scores: Option<Scores>,
    /// The recording.
    pub bag: BagSummary,
    /// How the node ended.
    pub node_end: NodeEnd,
}

/// A stage of [`FrameTiming`].
type StageOf = (&'static str, fn(&FrameTiming) -> u64);

const STAGES: [StageOf; 10] = [
    ("receive", |t| t.receive_ns),
    ("wait", |t| t.wait_ns),
    ("decode", |t| t.decode_ns),
    ("infer", |t| t.infer_ns),
    ("labels", |t| t.labels_ns),
    ("depth", |t| t.depth_ns),
    ("overlay", |t| t.overlay_ns),
    ("compress", |t| t.compress_ns),
    ("publish", |t| t.publish_ns),
    ("total", |t| t.total_ns),
];

/// The frames' accounts of a run.
pub fn frames(run: &Run) -> Frames {
    let played = run.played.len() as u64;
    let complete = run.played.iter().filter(|p| run.complete(p.stamp_ns)).count() as u64;
    let Counts { received, dropped, refused, answered, .. } = run.counts;
    Frames { played, lost: played.saturating_sub(received), dropped, refused, answered, complete }
}

/// Percentiles by stage, and of the age at publication.
pub fn stages(timings: &[FrameTiming]) -> (Vec<Stage>, Option<Percentiles>) {
    let stages = STAGES.iter().filter_map(|(name, of)| {
        let percentiles = Percentiles::of(timings.iter().map(|t| of(t) as i64).collect())?;
        Some(Stage { name, percentiles })
    });
    (stages.collect(), Percentiles::of(timings.iter().map(|t| t.age_ns).collect()))
}

/// How many of each output came back.
pub fn messages(run: &Run) -> Messages {
    let count = |topic: usize| run.answers.values().filter(|a| a[topic]).count() as u64;
    Messages { labels: count(LABELS), depth: count(DEPTH), overlay: count(OVERLAY), timing: count(TIMING) }
}

fn scores_table(s: &Scores) -> String {
    let mut t = String::new();
    let figure = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.4}"));
    let _ = writeln!(
        t,
        "\nagainst the truth of the answered frames ({} labels, {} depth):",
        s.labels_frames, s.depth_frames
    );
    if s.unscored_labels_frames > 0 {
        let _ = writeln!(
            t,
            "mIoU   not scored: the model's classes are not the {SCORED_CLASSES} of Cityscapes, which true labels are in"
        );
    } else {
        let _ = writeln!(
            t,
            "mIoU   {} ({} classes occur)   pixel accuracy {}",
            figure(s.miou),
            s.iou.len(),
            figure(s.pixel_accuracy)
        );
    }
    let (abs_rel, rmse_m, delta1) = (figure(s.abs_rel), figure(s.rmse_m), figure(s.delta1));
    let _ = writeln!(t, "AbsRel {abs_rel}   RMSE {rmse_m} m   delta1 {delta1}");
    t
}

impl Report {
    /// What the rate means, in a sentence.
    pub fn sentence(&self) -> String {
        let total = self.stages.iter().find(|s| s.name == "total");
        let Some(total) = total else {
            return "The node answered no frame.".into();
        };
        let p50 = total.percentiles.p50_ms;
        let Frames { played, dropped, answered, lost, .. } = self.frames;
        if dropped == 0 && lost == 0 && played == 1 {
            return format!("On {} a frame takes {p50:.0} ms: the one frame was answered.", self.device);
        }
        if dropped == 0 && lost == 0 {
            return format!(
                "On {} a frame takes {p50:.0} ms (median), and all {played} frames at {:.1} Hz were answered.",
                self.device, self.played_hz
            );
        }
        let (so, because, dropped_for) = match self.max_rate_hz {
            Some(hz) => ("and", format!("max_rate_hz is {hz}"), "as over that rate or for a newer one"),
            None => ("so", "the newest frame always wins".to_owned(), "for a newer one"),
        };
        // One answer has no rate.
        let rates = match answered {
            0 | 1 => String::new(),
            _ => format!(", {so} of {:.1} frames a second {:.1} were answered", self.played_hz, self.answered_hz),
        };
        format!(
            "On {} a frame takes {p50:.0} ms (median){rates}: {because}, and of {played} frames {answered} were answered, \
             {dropped} were dropped {dropped_for} and {lost} did not reach the node.",
            self.device
        )
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut t = String::new();
        let f = &self.frames;
        // Writing into a String cannot fail.
        let _ = writeln!(t, "source    {}", self.source);
        // Only answers tell what ran it.
        let by =
            if self.backend.is_empty() { String::new() } else { format!(" ({} on {})", self.backend, self.device) };
        let _ = writeln!(t, "model     {}{by}", self.model);
        let _ = writeln!(
            t,
            "frames    {} in, {} out, {} dropped, {} refused, {} lost on the way",
            f.played, f.answered, f.dropped, f.refused, f.lost
        );
        let Messages { labels, depth, overlay, timing } = self.messages;
        let _ = writeln!(t, "messages  {labels} labels, {depth} depth, {overlay} overlay, {timing} timing");
        // It takes two of them to have one.
        match (f.played, f.answered) {
            (0 | 1, _) => {}
            (_, 0 | 1) => {
                let _ = writeln!(t, "rate      {:.2} Hz in", self.played_hz);
            }
            _ => {
                let _ = writeln!(t, "rate      {:.2} Hz in, {:.2} Hz out", self.played_hz, self.answered_hz);
            }
        }
        let _ = writeln!(t, "\n{:<18}{:>10}{:>10}{:>10}{:>10}", "stage, ms", "p50", "p95", "p99", "max");
        let age = self.age.map(|percentiles| Stage { name: "age at publication", percentiles });
        for Stage { name, percentiles: p } in self.stages.iter().chain(&age) {
            let _ = writeln!(t, "{name:<18}{:>10.2}{:>10.2}{:>10.2}{:>10.2}", p.p50_ms, p.p95_ms, p.p99_ms, p.max_ms);
        }
        if let Some(scores) = &self.scores {
            t += &scores_table(scores);
        }
        let bag = &self.bag;
        let messages: u64 = bag.messages.values().sum();
        let _ =
            writeln!(t, "\nbag       {}: {messages} messages, {:.1} MB", bag.folder.display(), bag.bytes as f64 / 1e6);
        for (topic, lost) in &bag.lost {
            let _ =
                writeln!(t, "          {lost} messages of {topic} are not in it: the disk or the cores were too slow");
        }
        if self.strangers > 0 {
            let _ = writeln!(t, "warning   {} answers carry a stamp that was never played", self.strangers);
        }
        let code = self.node_end.exit_code.map_or_else(|| "none".into(), |c| c.to_string());
        let _ = writeln!(t, "node      ended {:.2} s after SIGINT, exit code {code}", self.node_end.took_s);
        let _ = write!(t, "\n{}", self.sentence());
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn report() -> Report {
        let percentiles = Percentiles { p50_ms: 20.0, p95_ms: 20.0, p99_ms: 20.0, max_ms: 20.0 };
        Report {
            source: "drive".into(),
            model: "model.yaml".into(),
            backend: "native".into(),
            device: "cpu".into(),
            rate_hz: 10.0,
            max_rate_hz: None,
            played_hz: 10.0,
            answered_hz: 2.5,
            frames: Frames { played: 100, lost: 1, dropped: 74, refused: 0, answered: 25, complete: 25 },
            messages: Messages { labels: 25, depth: 25, overlay: 25, timing: 25 },
            strangers: 0,
            stages: vec![Stage { name: "total", percentiles }],
            age: None,
            scores: None,
            bag: BagSummary { folder: "bag".into(), bytes: 0, messages: BTreeMap::new(), lost: BTreeMap::new() },
            node_end: NodeEnd { exit_code: Some(0), took_s: 0.1 },
        }
    }

    #[test]
    fn what_is_too_few_for_a_rate_is_said_without() {
        assert!(report().table().contains("rate      10.00 Hz in, 2.50 Hz out"));
        let one = Frames { played: 1, lost: 0, dropped: 0, refused: 0, answered: 1, complete: 1 };
        let one = Report { frames: one, played_hz: 0.0, answered_hz: 0.0, ..report() };
        assert_eq!(one.sentence(), "On cpu a frame takes 20 ms: the one frame was answered.");
        assert!(!one.table().contains("Hz"), "{}", one.table());
        let frames = Frames { played: 2, lost: 0, dropped: 1, refused: 0, answered: 1, complete: 1 };
        let of_two = Report { frames, answered_hz: 0.0, ..report() };
        assert!(of_two.table().contains("rate      10.00 Hz in\n"), "{}", of_two.table());
        assert!(
            of_two.sentence().starts_with("On cpu a frame takes 20 ms (median): the newest"),
            "{}",
            of_two.sentence()
        );
    }

    #[test]
    fn messages_are_told_by_name() {
        let json = serde_json::to_value(report()).expect("JSON");
        assert_eq!(json["messages"], serde_json::json!({"labels": 25, "depth": 25, "overlay": 25, "timing": 25}));
    }

    #[test]
    fn frames_over_max_rate_hz_are_not_said_to_be_replaced() {
        let sentence = |max_rate_hz| Report { max_rate_hz, ..report() }.sentence();
        assert!(sentence(None).contains(
            "the newest frame always wins, and of 100 frames 25 were answered, 74 were dropped for a newer one"
        ));
        let throttled = sentence(Some(2.5));
        assert!(throttled.contains("max_rate_hz is 2.5") && throttled.contains("74 were dropped as over that rate"));
        assert!(!throttled.contains("always wins"), "{throttled}");
    }

    #[test]
    fn labels_that_are_not_scored_are_told() {
        let scores = |unscored_labels_frames, miou| Scores {
            labels_frames: 7,
            depth_frames: 7,
            unscored_labels_frames,
            miou,
            pixel_accuracy: miou,
            iou: vec![],
            abs_rel: Some(0.25),
            rmse_m: None,
            delta1: None,
        };
        let table = |scores| scores_table(&scores);
        assert!(table(scores(0, Some(0.5))).contains("mIoU   0.5000 (0 classes occur)"));
        let without = table(scores(7, None));
        assert!(without.contains("mIoU   not scored: the model's classes are not the 19 of Cityscapes"), "{without}");
        assert!(!without.contains("pixel accuracy") && without.contains("AbsRel 0.2500"), "{without}");
    }

    #[test]
    fn percentiles_are_in_milliseconds_whatever_their_sign() {
        let p = Percentiles::of((-1..=98).rev().map(|ms| ms * 1_000_000).collect()).expect("values");
        assert_eq!((p.p50_ms, p.p95_ms, p.p99_ms, p.max_ms), (48.0, 93.0, 97.0, 98.0));
        assert_eq!(Percentiles::of(vec![]), None);
    }
}

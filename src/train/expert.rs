//! Answers of a trained model in place of an annotation that a source lacks (Nekrasov et al. 2019: knowledge
//! distillation for asymmetric annotations).

use crate::data::classes::{LabelSpace, UNLABELLED, UNLABELLED_TRAIN_ID};
use crate::data::frame::Decoded;
use crate::data::source::Item;
use crate::eval::answer::{label_space, Answerer};
use crate::export::{self, trace};
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::pipeline::{LoadOptions, Outputs, Pipeline};
use crate::model::Task;
use anyhow::{anyhow, Context as _};
use rayon::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};

/// Decodes frames and gives each the annotation that it lacks, as far as the expert answers it. Depth is metric where the
/// frame's focal length is known; where it is not, it is as to the camera that the expert learned from, and the frame is taken
/// as that camera's. The expert sees the whole picture; rows at the bottom that the source leaves out go after it.
///
/// # Errors
/// A frame cannot be read; the model cannot be loaded or run, or has other classes.
pub fn decode(items: &[Item], model: &Path, source: &str) -> anyhow::Result<Vec<Decoded>> {
    let context = || format!("source {source}: expert {}", model.display());
    let options = LoadOptions::default();
    let pipeline = Pipeline::load(model, &options).with_context(context)?;
    let manifest = pipeline.manifest();
    let f_model = manifest.focal_length_px();
    let has_classes = manifest.answers(Task::Segmentation);
    label_space(&manifest.classes, &[LabelSpace::TrainIds]).map_err(|e| anyhow!("{}: {e}", context()))?;
    let mut expert = Answerer {
        pipeline,
        depth_scaling: None,
        placement: Placement::default(),
        of_categories: false,
        outputs: Outputs::default(),
    };
    let name = expert.pipeline.manifest().name.clone();
    log::info!("source {source}: what {} frames lack is completed by {name}", items.len());
    let decoded = items.par_iter().map(Item::decode_whole).collect::<Result<Vec<_>, _>>();
    let mut frames = decoded.with_context(|| format!("source {source}"))?;
    let mut completed = 0;
    let lacks = |f: &Decoded| (f.labels.is_none() && has_classes, f.depth_m.is_none() && f_model.is_some());
    let of = frames.iter().filter(|frame| lacks(frame) != (false, false)).count();
    let (mut pace, started) = (Pace::new(of), Instant::now());
    for frame in frames.iter_mut() {
        let (labels_are_missing, depth_is_missing) = lacks(frame);
        if !labels_are_missing && !depth_is_missing {
            continue;
        }
        expert.run(frame).with_context(context)?;
        let Outputs { labels, depth_m, .. } = &expert.outputs;
        let code = |&id: &u8| if id == UNLABELLED { UNLABELLED_TRAIN_ID } else { id };
        if labels_are_missing {
            frame.labels = Some(labels.iter().map(code).collect());
        }
        if let Some(f_model) = f_model.filter(|_| depth_is_missing) {
            frame.depth_m = Some(depth_m.clone());
            let size = (frame.width, frame.height);
            let geometry =
                Geometry::new(&expert.placement, size, expert.pipeline.network_size()).with_context(context)?;
            frame.focal_px.get_or_insert_with(|| as_learned(f64::from(f_model), geometry.focal_scale()));
        }
        completed += 1;
        if let Some(how_far) = pace.line(completed, started.elapsed()) {
            log::info!("source {source}: {how_far}");
        }
    }
    for (item, frame) in items.iter().zip(&mut frames) {
        item.cut(frame);
    }
    log::info!("source {source}: {completed} frames completed by {name}");
    Ok(frames)
}

/// Between two lines of how far an expert is.
const PERIOD: Duration = Duration::from_secs(10);

/// How far an expert is: there may be thousands of frames.
struct Pace {
    /// Frames that it completes.
    of: usize,
    /// When the next line is due, from the start.
    due: Duration,
}

impl Pace {
    fn new(of: usize) -> Self {
        Self { of, due: PERIOD }
    }

    /// What is to be said after `completed` frames and so much time.
    fn line(&mut self, completed: usize, elapsed: Duration) -> Option<String> {
        if elapsed < self.due || completed == self.of {
            return None;
        }
        self.due = elapsed + PERIOD;
        let left = elapsed.mul_f64((self.of - completed) as f64 / completed.max(1) as f64);
        Some(format!("{completed} of {} frames completed  {} left", self.of, indicatif::HumanDuration(left)))
    }
}

/// What an expert's answers follow from: the sha256 of its weights, and its input's size.
///
/// # Errors
/// There is no such model, or it is damaged.
pub fn identity(model: &Path) -> anyhow::Result<String> {
    let manifest = export::load(model).with_context(|| format!("expert {}", model.display()))?.manifest;
    let weights = manifest.files.get(trace::WEIGHTS).or_else(|| manifest.files.get(&manifest.torchscript));
    let input = &manifest.input;
    Ok(format!("{} at {}x{}", weights.map_or("", String::as_str), input.width, input.height))
}

/// Focal lengths, in pixels of a frame, of the camera that a model's depth needs no factor for.
fn as_learned(f_model: f64, (scale_x, scale_y): (f64, f64)) -> (f64, f64) {
    let focal_px = f_model / (scale_x * scale_y).sqrt();
    (focal_px, focal_px)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::camera::focal_ratio;

    #[test]
    fn an_expert_at_work_says_how_far_it_is_every_ten_seconds() {
        let mut pace = Pace::new(400);
        let mut at = |completed, s| pace.line(completed, Duration::from_secs(s));
        assert_eq!(at(50, 9), None);
        assert_eq!(at(100, 10).as_deref(), Some("100 of 400 frames completed  30 seconds left"));
        assert_eq!(at(150, 19), None);
        assert_eq!(at(200, 50).as_deref(), Some("200 of 400 frames completed  50 seconds left"));
        assert_eq!(at(400, 100), None, "the end has a line of its own");
    }

    #[test]
    fn the_camera_that_an_expert_learned_from_needs_no_factor() {
        let geometry = Geometry::new(&Placement::default(), (1000, 800), (500, 200)).expect("it fits");
        let focal_px = as_learned(250.0, geometry.focal_scale());
        assert!((focal_px.0 - 250.0 * 8.0_f64.sqrt()).abs() < 1e-9, "{focal_px:?}");
        assert!((focal_ratio(focal_px, geometry.focal_scale(), 250.0) - 1.0).abs() < 1e-12);
    }
}

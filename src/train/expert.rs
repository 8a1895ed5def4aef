//! Answers of a trained model in place of an annotation that a source lacks (Nekrasov et al. 2019: knowledge
//! distillation for asymmetric annotations).

use crate::data::classes::{CLASSES, UNLABELLED, UNLABELLED_TRAIN_ID};
use crate::data::frame::Decoded;
use crate::eval::answer::Answerer;
use crate::frame::geometry::Placement;
use crate::frame::pipeline::{LoadOptions, Outputs, Pipeline};
use anyhow::{bail, Context as _};
use std::path::Path;

/// Gives each frame the annotation that it lacks. Depth is metric where the frame's focal length is known.
///
/// # Errors
/// The model cannot be loaded or run, or has other classes.
pub fn complete(frames: &mut [Decoded], model: &Path, source: &str) -> anyhow::Result<()> {
    let context = || format!("source {source}: expert {}", model.display());
    let options = LoadOptions::default();
    let pipeline = Pipeline::load(model, &options).with_context(context)?;
    let classes = pipeline.manifest().classes.len();
    if classes != CLASSES {
        bail!("{}: expected a model of the {CLASSES} Cityscapes classes, found {classes}", context());
    }
    let mut expert = Answerer {
        pipeline,
        depth_scaling: None,
        placement: Placement::default(),
        of_categories: false,
        outputs: Outputs::default(),
    };
    let mut completed = 0;
    for frame in frames.iter_mut().filter(|f| f.labels.is_none() || f.depth_m.is_none()) {
        expert.run(frame).with_context(context)?;
        let Outputs { labels, depth_m, .. } = &expert.outputs;
        let code = |&id: &u8| if id == UNLABELLED { UNLABELLED_TRAIN_ID } else { id };
        frame.labels.get_or_insert_with(|| labels.iter().map(code).collect());
        frame.depth_m.get_or_insert_with(|| depth_m.clone());
        completed += 1;
    }
    log::info!("source {source}: {completed} frames completed by {}", expert.pipeline.manifest().name);
    Ok(())
}

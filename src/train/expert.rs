//! Answers of a trained model in place of an annotation that a source lacks (Nekrasov et al. 2019: knowledge
//! distillation for asymmetric annotations).

use crate::data::classes::{CLASSES, UNLABELLED, UNLABELLED_TRAIN_ID};
use crate::data::frame::Decoded;
use crate::frame::camera::focal_ratio;
use crate::frame::clock::StageTimes;
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::network::{DeviceChoice, Precision};
use crate::frame::pipeline::{Job, LoadOptions, Outputs, Pipeline, Wanted};
use crate::frame::view::ImageView;
use anyhow::{bail, Context as _};
use std::path::Path;

/// Gives each frame the annotation that it lacks. Depth is metric where the frame's focal length is known.
///
/// # Errors
/// The model cannot be loaded or run, or has other classes.
pub fn complete(frames: &mut [Decoded], model: &Path, source: &str) -> anyhow::Result<()> {
    let context = || format!("source {source}: expert {}", model.display());
    let options = LoadOptions { device: DeviceChoice::Auto, precision: Precision::Auto, max_batch: 1 };
    let mut pipeline = Pipeline::load(model, &options).with_context(context)?;
    let classes = pipeline.manifest().classes.len();
    if classes != CLASSES {
        bail!("{}: expected a model of the {CLASSES} Cityscapes classes, found {classes}", context());
    }
    let learned_at = f64::from(pipeline.manifest().output.depth.focal_length_px);
    let mut outputs = Outputs::default();
    let mut completed = 0;
    for frame in frames.iter_mut().filter(|f| f.labels.is_none() || f.depth_m.is_none()) {
        let image = ImageView::rgb8(frame.width as u32, frame.height as u32, &frame.rgb).with_context(context)?;
        let geometry = Geometry::new(&Placement::default(), (frame.width, frame.height), pipeline.network_size())
            .with_context(context)?;
        let factor = frame.focal_px.map_or(1.0, |f| focal_ratio(f, geometry.focal_scale(), learned_at));
        let job = Job {
            image,
            geometry: &geometry,
            wanted: Wanted { labels: true, depth: true, ..Wanted::default() },
            confidence_stride: 1,
            depth_factor: factor as f32,
            overlay_opacity: 0.0,
            mask_values: &[0; 256],
            outputs: &mut outputs,
            times: StageTimes::default(),
        };
        pipeline.run(&mut [job]).with_context(context)?;
        let code = |&id: &u8| if id == UNLABELLED { UNLABELLED_TRAIN_ID } else { id };
        frame.labels.get_or_insert_with(|| outputs.labels.iter().map(code).collect());
        frame.depth_m.get_or_insert_with(|| outputs.depth_m.clone());
        completed += 1;
    }
    log::info!("source {source}: {completed} frames completed by {}", pipeline.manifest().name);
    Ok(())
}

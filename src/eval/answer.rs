//! A model's answer to a decoded frame, the node's own way: for judging, and for experts in training.

use crate::data::classes::{self, Class, LabelSpace, CATEGORIES, SCORED_CLASSES, UNLABELLED};
use crate::data::frame::Decoded;
use crate::frame::camera::{focal_ratio, DepthScaling, LEAST_FACTOR, MOST_FACTOR};
use crate::frame::clock::StageTimes;
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::pipeline::{Job, Outputs, Pipeline, Wanted};
use crate::frame::view::ImageView;
use crate::model::Task;
use anyhow::bail;

/// What the depth of one frame is multiplied with, as the node does it with the frame's camera_info.
fn factor(asked: Option<DepthScaling>, frame: &Decoded, geometry: &Geometry, f_model: f64) -> anyhow::Result<f64> {
    match asked {
        Some(DepthScaling::None) => Ok(1.0),
        Some(DepthScaling::Factor(factor)) => Ok(factor),
        Some(DepthScaling::CameraInfo) | None => match (frame.focal_px, asked) {
            (Some(focal_px), _) => {
                let ratio = focal_ratio(focal_px, geometry.focal_scale(), f_model);
                if !(LEAST_FACTOR..=MOST_FACTOR).contains(&ratio) {
                    bail!(
                        "the camera file's focal lengths are {} and {}: depth would be multiplied by {ratio:.1e}; expected pixels, \
                         and a factor from {LEAST_FACTOR} to {MOST_FACTOR}",
                        focal_px.0,
                        focal_px.1
                    );
                }
                Ok(ratio)
            }
            (None, None) => Ok(1.0),
            (None, Some(_)) => bail!("no camera file tells the focal length; use --depth-scaling none or a factor"),
        },
    }
}

/// The label space of a model's class table, which has to be one of `accepted`: what it answers is compared with truth, or
/// stands in its place, by the ids that it publishes. `None` of an empty one, a model's that answers no
/// classes.
///
/// # Errors
/// It answers in another one; says by which class it differs, and what to do.
pub fn label_space(table: &[Class], accepted: &[LabelSpace]) -> Result<Option<LabelSpace>, String> {
    if table.is_empty() {
        return Ok(None);
    }
    let found = match classes::label_space(table) {
        Ok(space) if accepted.contains(&space) => return Ok(Some(space)),
        Ok(_) => format!("its {} classes are Cityscapes' categories", table.len()),
        Err(difference) => difference,
    };
    let expected: Vec<_> = accepted
        .iter()
        .map(|space| match space {
            LabelSpace::TrainIds => format!("the {SCORED_CLASSES} Cityscapes classes (by train id)"),
            LabelSpace::Categories => format!("its {CATEGORIES} categories"),
        })
        .collect();
    Err(format!(
        "expected a model of {}, each with or without 'unlabelled', or of depth alone, but {found}; where it is one of these, \
         correct the ids and names under `classes` in its manifest; one of other classes runs in the node alone",
        expected.join(" or of ")
    ))
}

/// The network with what it takes to answer a decoded frame.
#[derive(Debug)]
pub struct Answerer {
    /// The model at work.
    pub pipeline: Pipeline,
    /// What depth is multiplied with; by default by the focal length, where the frame has one.
    pub depth_scaling: Option<DepthScaling>,
    /// How a frame becomes the network's input.
    pub placement: Placement,
    /// The model answers categories: they stand as the first train id of each.
    pub of_categories: bool,
    /// The newest answer.
    pub outputs: Outputs,
}

impl Answerer {
    /// Answers a frame into `outputs`, at its own size, the node's own way; returns what depth was multiplied with (1 of a
    /// model without depth).
    ///
    /// # Errors
    /// The network fails, or a focal length is asked for that the frame does not have.
    pub fn run(&mut self, frame: &Decoded) -> anyhow::Result<f64> {
        let view = ImageView::rgb8(frame.width as u32, frame.height as u32, &frame.rgb)?;
        let size = (frame.width, frame.height);
        let geometry = Geometry::new(&self.placement, size, self.pipeline.network_size())?;
        let manifest = self.pipeline.manifest();
        let factor = match manifest.focal_length_px() {
            Some(f_model) => factor(self.depth_scaling, frame, &geometry, f64::from(f_model))?,
            None => 1.0,
        };
        let normals = manifest.answers(Task::Normals);
        let job = Job {
            image: view,
            geometry: &geometry,
            wanted: Wanted { labels: true, depth: true, normals, ..Wanted::default() },
            confidence_stride: 1,
            depth_factor: factor as f32,
            overlay_opacity: 0.0,
            mask_values: &[0; 256],
            outputs: &mut self.outputs,
            times: StageTimes::default(),
            is_broken: false,
        };
        self.pipeline.run(&mut [job])?;
        if self.of_categories {
            for label in &mut self.outputs.labels {
                *label = classes::in_category(*label).next().unwrap_or(UNLABELLED);
            }
        }
        Ok(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_label_space_is_refused_with_what_to_do() {
        let (all, classes_alone) = ([LabelSpace::TrainIds, LabelSpace::Categories], [LabelSpace::TrainIds]);
        let (classes, categories) = (classes::cityscapes(), classes::categories());
        assert_eq!(label_space(&[], &classes_alone), Ok(None), "depth alone");
        assert_eq!(label_space(&classes[..SCORED_CLASSES], &classes_alone), Ok(Some(LabelSpace::TrainIds)));
        assert_eq!(label_space(&categories[..CATEGORIES], &all), Ok(Some(LabelSpace::Categories)));
        let error = label_space(&categories, &classes_alone).expect_err("categories");
        assert!(error.contains("expected a model of the 19 Cityscapes classes"), "{error}");
        assert!(
            error.contains("but its 8 classes are Cityscapes' categories") && !error.contains("or of its 7"),
            "{error}"
        );
        let mut other = classes;
        other[3].name = "hedge".into();
        let error = label_space(&other, &all).expect_err("a hedge");
        assert!(
            error.contains("or of its 7 categories") && error.contains("'hedge' (id 3) is none of them"),
            "{error}"
        );
        assert!(error.contains("correct the ids and names under `classes` in its manifest"), "{error}");
    }

    #[test]
    fn the_factor_is_the_cameras_focal_length_by_the_models() {
        let geometry = Geometry::new(&Placement::default(), (1000, 800), (500, 200)).expect("it fits");
        let frame = |focal_px| Decoded {
            width: 1000,
            height: 800,
            rgb: vec![],
            labels: None,
            depth_m: None,
            focal_px,
            principal_px: None,
        };
        let factor = |asked, focal_px| super::factor(asked, &frame(focal_px), &geometry, 250.0);
        // Without a camera file: no scaling by default, an error where it was asked for.
        assert_eq!(factor(None, None).expect("none"), 1.0);
        let error = format!("{:#}", factor(Some(DepthScaling::CameraInfo), None).expect_err("no camera"));
        assert!(error.contains("no camera file"), "{error}");
        // 800 pixels are 400 across and 200 down in the network: their geometric mean by 250.
        let camera = Some((800.0, 800.0));
        let expected = (400.0_f64 * 200.0).sqrt() / 250.0;
        assert!((factor(None, camera).expect("scaled") - expected).abs() < 1e-12);
        assert!((factor(Some(DepthScaling::CameraInfo), camera).expect("scaled") - expected).abs() < 1e-12);
        assert_eq!(factor(Some(DepthScaling::None), camera).expect("none"), 1.0);
        assert_eq!(factor("1.25".parse().ok(), camera).expect("fixed"), 1.25);
        let error = format!("{:#}", factor(None, Some((1e9, 800.0))).expect_err("no pixels"));
        assert!(
            error.contains("focal lengths are 1000000000 and 800") && error.contains("from 0.001 to 1000"),
            "{error}"
        );
        assert!(factor(Some(DepthScaling::CameraInfo), Some((1e-9, 800.0))).is_err());
        for bad in ["", "0", "-1", "nan", "inf", "camera", "1e300", "1e-300", "0.0009", "1001"] {
            assert!(bad.parse::<DepthScaling>().is_err(), "{bad}");
        }
    }
}

//! `semantic_depth evaluate`

use super::render::bar;
use crate::data::classes::{CLASSES, SCORED_CLASSES};
use crate::data::frame::Decoded;
use crate::data::source::{Groups, Source};
use crate::eval::{self, Confusion, DepthErrors, DepthReport};
use crate::frame::camera::{focal_ratio, DepthScaling};
use crate::frame::clock::StageTimes;
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::network::{DeviceChoice, Precision};
use crate::frame::pipeline::{Job, LoadOptions, Outputs, Pipeline, Wanted};
use crate::frame::view::ImageView;
use anyhow::{bail, Context as _};
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `semantic_depth evaluate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model's folder or its model.yaml.
    #[arg(long)]
    model: PathBuf,
    /// Root of the data set (Cityscapes layout).
    #[arg(long)]
    data: PathBuf,
    /// train, val or test.
    #[arg(long, default_value = "test")]
    split: String,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// auto, fp32, fp16 or bf16.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    /// What depth is multiplied with: camera_info (focal length of the frame's camera by the model's; needs camera
    /// files), none, or a number. By default camera_info for each frame that has a camera file.
    #[arg(long, value_name = "camera_info|none|FACTOR")]
    depth_scaling: Option<DepthScaling>,
    /// Write the figures as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What the depth of one frame is multiplied with, as the node does it with the frame's camera_info.
fn factor(asked: Option<DepthScaling>, frame: &Decoded, geometry: &Geometry, f_model: f64) -> anyhow::Result<f64> {
    match asked {
        Some(DepthScaling::None) => Ok(1.0),
        Some(DepthScaling::Factor(factor)) => Ok(factor),
        Some(DepthScaling::CameraInfo) | None => match (frame.focal_px, asked) {
            (Some(focal_px), _) => Ok(focal_ratio(focal_px, geometry.focal_scale(), f_model)),
            (None, None) => Ok(1.0),
            (None, Some(_)) => bail!("no camera file tells the focal length; use --depth-scaling none or a factor"),
        },
    }
}

/// The figures as JSON.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    data: String,
    split: String,
    frames: usize,
    miou: f64,
    pixel_accuracy: f64,
    /// In train id order; null for a class that does not occur.
    iou: Vec<Option<f64>>,
    depth: DepthReport,
    /// Mean over the frames of what depth was multiplied with.
    depth_factor: f64,
}

/// Runs the verb: every frame goes the node's own way (`frame::pipeline`) and is scored at its own size.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut pipeline =
        Pipeline::load(&args.model, &LoadOptions { device: args.device, precision: args.precision, max_batch: 1 })?;
    let classes = pipeline.manifest().classes.len();
    if classes != CLASSES {
        bail!("{}: expected a model of the {CLASSES} Cityscapes classes, found {classes}", args.model.display());
    }
    let source = Source::cityscapes(args.data.clone());
    let samples = source.index(&args.split, &mut Groups::default())?;
    let mut confusion = Confusion::new(SCORED_CLASSES);
    let mut errors = DepthErrors::new();
    let mut outputs = Outputs::default();
    let f_model = f64::from(pipeline.manifest().output.depth.focal_length_px);
    let mut factors = 0.0;
    let progress = bar(samples.len() as u64, "evaluating");
    for sample in &samples {
        let frame = sample.decode()?;
        let view = ImageView::rgb8(frame.width as u32, frame.height as u32, &frame.rgb)
            .with_context(|| sample.name().to_string())?;
        let geometry = Geometry::new(&Placement::default(), (frame.width, frame.height), pipeline.network_size())
            .with_context(|| sample.name().to_string())?;
        let factor =
            factor(args.depth_scaling, &frame, &geometry, f_model).with_context(|| sample.name().to_string())?;
        factors += factor;
        let job = Job {
            image: view,
            geometry: &geometry,
            wanted: Wanted { labels: true, depth: true, ..Wanted::default() },
            confidence_stride: 1,
            depth_factor: factor as f32,
            overlay_opacity: 0.0,
            mask_values: &[0; 256],
            outputs: &mut outputs,
            times: StageTimes::default(),
        };
        pipeline.run(&mut [job]).with_context(|| sample.name().to_string())?;
        if let Some(labels) = &frame.labels {
            confusion.add(labels, &outputs.labels);
        }
        if let Some(depth_m) = &frame.depth_m {
            errors.add(depth_m, &outputs.depth_m);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let depth = errors.report();
    let depth_factor = factors / samples.len() as f64;
    println!(
        "{} on {} frames of {} ({}), {}",
        pipeline.manifest().name,
        samples.len(),
        args.data.display(),
        args.split,
        pipeline.device_name()
    );
    println!("depth times {depth_factor:.4} (mean of the frames)");
    print!("{}", eval::table(&confusion, &depth));
    if let Some(path) = args.json {
        let report = Report {
            model: pipeline.manifest().name.clone(),
            data: args.data.display().to_string(),
            split: args.split,
            frames: samples.len(),
            miou: confusion.miou(),
            pixel_accuracy: confusion.pixel_accuracy(),
            iou: (0..SCORED_CLASSES).map(|c| confusion.iou(c)).collect(),
            depth,
            depth_factor,
        };
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_the_cameras_focal_length_by_the_models() {
        let geometry = Geometry::new(&Placement::default(), (1000, 800), (500, 200)).expect("it fits");
        let frame = |focal_px| Decoded { width: 1000, height: 800, rgb: vec![], labels: None, depth_m: None, focal_px };
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
        for bad in ["", "0", "-1", "nan", "inf", "camera"] {
            assert!(bad.parse::<DepthScaling>().is_err(), "{bad}");
        }
    }
}

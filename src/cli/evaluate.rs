//! `semantic_depth evaluate`

use super::render::bar;
use crate::data::cityscapes::{Part, ReadOptions, Sample};
use crate::data::classes::{CLASSES, SCORED_CLASSES};
use crate::eval::{self, Confusion, DepthErrors, DepthReport};
use crate::frame::camera::{focal_ratio, DepthScaling};
use crate::frame::clock::StageTimes;
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::network::{DeviceChoice, Precision};
use crate::frame::pipeline::{Job, LoadOptions, Outputs, Pipeline, Wanted};
use crate::frame::view::ImageView;
use crate::train::batches::decode_one;
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
fn factor(asked: Option<DepthScaling>, sample: &Sample, geometry: &Geometry, f_model: f64) -> anyhow::Result<f64> {
    match asked {
        Some(DepthScaling::None) => Ok(1.0),
        Some(DepthScaling::Factor(factor)) => Ok(factor),
        None if !sample.path(Part::Camera).is_file() => Ok(1.0),
        Some(DepthScaling::CameraInfo) | None => Ok(focal_ratio(sample.read_focal()?, geometry.focal_scale(), f_model)),
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
    let samples = Sample::index(&args.data, &args.split, &ReadOptions::default())?;
    let mut confusion = Confusion::new(SCORED_CLASSES);
    let mut errors = DepthErrors::new();
    let mut outputs = Outputs::default();
    let f_model = f64::from(pipeline.manifest().output.depth.focal_length_px);
    let mut factors = 0.0;
    let progress = bar(samples.len() as u64, "evaluating");
    for sample in &samples {
        let frame = decode_one(sample)?;
        let view = ImageView::rgb8(frame.width as u32, frame.height as u32, &frame.rgb)
            .with_context(|| sample.stem().to_string())?;
        let geometry = Geometry::new(&Placement::default(), (frame.width, frame.height), pipeline.network_size())
            .with_context(|| sample.stem().to_string())?;
        let factor =
            factor(args.depth_scaling, sample, &geometry, f_model).with_context(|| sample.stem().to_string())?;
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
        pipeline.run(&mut [job]).with_context(|| sample.stem().to_string())?;
        confusion.add(&frame.labels, &outputs.labels);
        errors.add(&frame.depth_m, &outputs.depth_m);
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
    use crate::data::street::Camera;

    #[test]
    fn the_factor_is_the_cameras_focal_length_by_the_models() {
        let root = tempfile::tempdir().expect("a folder");
        let sample = Sample::new(root.path(), "test", "city", 0, 0);
        let geometry = Geometry::new(&Placement::default(), (1000, 800), (500, 200)).expect("it fits");
        let factor = |asked| super::factor(asked, &sample, &geometry, 250.0);
        // Without a camera file: no scaling by default, an error where it was asked for.
        assert_eq!(factor(None).expect("none"), 1.0);
        let error = format!("{:#}", factor(Some(DepthScaling::CameraInfo)).expect_err("no camera"));
        assert!(error.contains("city_000000_000000_camera.json"), "{error}");
        let camera = Camera {
            focal_px: 800.0,
            center_x: 500.0,
            center_y: 400.0,
            baseline_m: 0.2,
            height_m: 1.0,
            pitch: 0.0,
            yaw: 0.0,
            roll: 0.0,
        };
        sample.write_camera(&camera).expect("written");
        // 800 pixels are 400 across and 200 down in the network: their geometric mean by 250.
        let expected = (400.0_f64 * 200.0).sqrt() / 250.0;
        assert!((factor(None).expect("scaled") - expected).abs() < 1e-12);
        assert!((factor(Some(DepthScaling::CameraInfo)).expect("scaled") - expected).abs() < 1e-12);
        assert_eq!(factor(Some(DepthScaling::None)).expect("none"), 1.0);
        assert_eq!(factor("1.25".parse().ok()).expect("fixed"), 1.25);
        for bad in ["", "0", "-1", "nan", "inf", "camera"] {
            assert!(bad.parse::<DepthScaling>().is_err(), "{bad}");
        }
    }
}

//! Whether the model runs on what is here.

use super::{answer, doctor_in_a_process_of_its_own, Answer, Check, Checked, Model, Way};
use crate::data::classes::UNLABELLED;
use crate::data::frame::Decoded;
use crate::data::street::{Drive, DriveConfig};
use crate::eval::answer::Answerer;
use crate::export;
use crate::frame::geometry::Placement;
use crate::frame::network::{device_name, usual, Backend, Compile, Precision};
use crate::frame::pipeline::{LoadOptions, Outputs, Pipeline};
use crate::model::Task;
use crate::tensorrt;
use anyhow::ensure;
use std::ffi::OsStr;
use std::path::Path;

impl Model {
    pub(super) fn of(path: &Path, devices: usize) -> Self {
        let artifact = export::load(path);
        let archive = artifact.as_ref().ok().map(|a| answer(tensorrt::inspect(&a.torchscript_path())));
        let gpus = (0..devices).map(tch::Device::Cuda);
        // Every way would say once more why it cannot be read.
        let devices = std::iter::once(tch::Device::Cpu).chain(gpus).filter(|_| artifact.is_ok());
        let checks = devices.flat_map(|device| checks(path, device)).collect();
        Self { path: path.into(), checks, manifest: answer(artifact.map(|a| a.manifest)), archive }
    }
}

/// The usual ways on a device, the best first, tried.
fn checks(path: &Path, device: tch::Device) -> Vec<Checked> {
    let mut is_first = true;
    let tried = |(backend, precision): (Backend, Precision)| {
        let way = Way { device: device_name(device), backend: backend.name(), precision: precision.name() };
        let names = [&*way.device, way.backend, way.precision];
        let check = match backend {
            Backend::TensorRt => Answer(run_apart(path, names)),
            _ => answer(run_one_way(path, names)),
        };
        let is_auto = check.0.is_ok() && std::mem::take(&mut is_first);
        Checked { way, is_auto, check }
    };
    usual(device).into_iter().map(tried).collect()
}

/// Loads and runs the model one way, of a device's, a back end's and a precision's name.
pub(super) fn run_one_way(model: &Path, [device, backend, precision]: [&str; 3]) -> anyhow::Result<Check> {
    let (device, backend, precision) = (device.parse()?, backend.parse()?, precision.parse()?);
    // Minutes of compiling are not what a doctor is asked for.
    let options = LoadOptions { device, backend, precision, compile: Compile::Never, ..LoadOptions::default() };
    Check::run(model, &options)
}

/// The same in a process of its own: an engine that does not fit may end it.
fn run_apart(model: &Path, way: [&str; 3]) -> Result<Check, String> {
    let way = std::iter::once("--check").chain(way).map(OsStr::new);
    let arguments = [OsStr::new("--model"), model.as_os_str()].into_iter().chain(way);
    let json = doctor_in_a_process_of_its_own(arguments)?;
    serde_json::from_str(&json).map_err(|e| format!("{e}: {json}"))
}

impl Check {
    /// Loads the model and answers a rendered street four times: the answers have to be of the right size, finite, within the
    /// model's own range, and the same.
    fn run(path: &Path, options: &LoadOptions) -> anyhow::Result<Self> {
        let pipeline = Pipeline::load(path, options)?;
        let (width, height) = pipeline.network_size();
        let picture = Drive::new(&DriveConfig::new(1, 1, width, height)).frame(0, false);
        let frame = Decoded {
            width,
            height,
            rgb: picture.left.into_raw(),
            labels: None,
            depth_m: None,
            focal_px: None,
            principal_px: None,
        };
        let mut answerer = Answerer {
            pipeline,
            depth_scaling: None,
            placement: Placement::default(),
            of_categories: false,
            outputs: Outputs::default(),
        };
        answerer.run(&frame)?;
        let first = answerer.outputs.clone();
        let mut answer_ms = f64::INFINITY;
        for _ in 0..3 {
            let start = std::time::Instant::now();
            answerer.run(&frame)?;
            answer_ms = answer_ms.min(start.elapsed().as_secs_f64() * 1e3);
        }
        let Outputs { labels, depth_m, .. } = &answerer.outputs;

        let manifest = answerer.pipeline.manifest();
        let pixels = width * height;
        ensure!(
            labels.len() == pixels && depth_m.len() == pixels,
            "expected {pixels} labels and depths, found {} and {}",
            labels.len(),
            depth_m.len()
        );
        // No depth is an answer, too, as is no class: the node publishes both.
        if let Some(depth) = &manifest.output.depth {
            let range = depth.min_m..=depth.max_m;
            let outside = depth_m.iter().find(|d| !d.is_nan() && !range.contains(*d));
            ensure!(
                outside.is_none(),
                "expected depths from {} to {} m, found {:?}",
                depth.min_m,
                depth.max_m,
                outside
            );
        }
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        ensure!(
            *labels == first.labels && same(depth_m, &first.depth_m),
            "expected the same answer to the same picture, found two that differ"
        );
        let ids: Vec<u8> = manifest.classes.iter().map(|c| c.id).collect();
        let unknown = labels.iter().find(|l| **l != UNLABELLED && !ids.contains(l));
        ensure!(unknown.is_none(), "expected labels of the manifest's classes, found {unknown:?}");
        let mut sorted: Vec<f32> = depth_m.iter().copied().filter(|d| !d.is_nan()).collect();
        sorted.sort_by(f32::total_cmp);
        let classes_seen =
            manifest.answers(Task::Segmentation).then(|| ids.iter().filter(|id| labels.contains(id)).count());
        ensure!(classes_seen != Some(0), "expected a class somewhere, found none");
        ensure!(!manifest.answers(Task::Depth) || !sorted.is_empty(), "expected a depth somewhere, found none");
        Ok(Self {
            golden: answerer.pipeline.golden_deviation(),
            network_size: (width, height),
            classes_seen,
            depth_min_m: sorted.first().copied(),
            depth_median_m: sorted.get(sorted.len() / 2).copied(),
            depth_max_m: sorted.last().copied(),
            answer_ms,
        })
    }
}

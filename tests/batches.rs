//! Frames of several cameras in one run of the network, and other precisions than single.

use semantic_depth::data::street::{Drive, DriveConfig};
use semantic_depth::export::trace::{export, ExportRequest};
use semantic_depth::export::Artifact;
use semantic_depth::frame::clock::StageTimes;
use semantic_depth::frame::geometry::{Geometry, OutputSize, Placement, Rect, ResizeMode};
use semantic_depth::frame::network::{DeviceChoice, Precision};
use semantic_depth::frame::pipeline::{Job, LoadOptions, Outputs, Pipeline, PipelineError, Wanted};
use semantic_depth::frame::view::ImageView;
use semantic_depth::model::weights::RefinementSource;
use small_model::{random_weights, request};
use std::path::Path;
use std::sync::OnceLock;
use tch::{CModule, Device, Kind, Tensor};

mod small_model;

/// The size of the small network's input.
const SMALL: (usize, usize) = (96, 48);

/// A small model with random weights, exported once.
fn small() -> Artifact {
    static ONCE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = ONCE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = random_weights(folder.path());
        export(&request(path, SMALL), &folder.path().join("model")).expect("exported");
        folder
    });
    semantic_depth::export::load(&folder.path().join("model")).expect("the model loads")
}

fn options(precision: Precision, max_batch: usize) -> LoadOptions {
    LoadOptions { device: DeviceChoice::Cpu, precision, max_batch, ..LoadOptions::default() }
}

/// One camera of the tests.
struct Camera {
    picture: Vec<u8>,
    geometry: Geometry,
    wanted: Wanted,
}

impl Camera {
    fn view(&self) -> ImageView<'_> {
        let (width, height) = self.geometry.source();
        ImageView::rgb8(width as u32, height as u32, &self.picture).expect("a valid layout")
    }
}

/// Cameras of different sizes, modes and wishes.
fn cameras(count: usize) -> Vec<Camera> {
    (0..count)
        .map(|i| {
            let source = (100 + 17 * i, 60 + 7 * i);
            let placement = Placement {
                mode: [ResizeMode::Stretch, ResizeMode::Letterbox, ResizeMode::Crop, ResizeMode::Roi][i % 4],
                roi: Some(Rect { x: 5, y: 6, width: 70, height: 40 }),
                output: [OutputSize::Source, OutputSize::Network, OutputSize::Fixed { width: 64, height: 48 }][i % 3],
            };
            let frame = Drive::new(&DriveConfig::new(i as u64, 1, source.0, source.1)).frame(0, false);
            Camera {
                picture: frame.left.into_raw(),
                geometry: Geometry::new(&placement, source, SMALL).expect("it fits"),
                wanted: if i == 2 { Wanted::default() } else { Wanted::ALL },
            }
        })
        .collect()
}

fn run(pipeline: &mut Pipeline, cameras: &[&Camera]) -> Vec<(Outputs, StageTimes)> {
    let mut outputs = vec![Outputs::default(); cameras.len()];
    let mask_values = std::array::from_fn(|i| (i * 3) as u8);
    let mut jobs: Vec<Job<'_>> = cameras
        .iter()
        .zip(&mut outputs)
        .map(|(camera, outputs)| Job {
            image: camera.view(),
            geometry: &camera.geometry,
            wanted: camera.wanted,
            confidence_stride: 1,
            depth_factor: 1.0,
            overlay_opacity: 0.5,
            mask_values: &mask_values,
            outputs,
            times: StageTimes::default(),
            is_broken: false,
        })
        .collect();
    pipeline.run(&mut jobs).expect("the frames are computed");
    let times: Vec<_> = jobs.iter().map(|j| j.times).collect();
    outputs.into_iter().zip(times).collect()
}

fn share_of_equal(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

#[test]
fn a_batch_answers_as_one_by_one() {
    let cameras = cameras(8);
    let mut alone = Pipeline::from_artifact(small(), &options(Precision::Fp32, 1)).expect("loads");
    let mut together = Pipeline::from_artifact(small(), &options(Precision::Fp32, 8)).expect("loads");
    assert_eq!((together.max_batch(), together.network_size()), (8, SMALL));
    let singles: Vec<_> = cameras.iter().map(|c| run(&mut alone, &[c]).remove(0)).collect();
    for count in [8, 1, 3, 2, 8, 5, 4, 7, 6] {
        let batch: Vec<&Camera> = cameras.iter().take(count).collect();
        for (i, ((found, times), (expected, _))) in run(&mut together, &batch).iter().zip(&singles).enumerate() {
            assert_eq!((found.width, found.height), cameras[i].geometry.output(), "{count}, {i}");
            if !cameras[i].wanted.any() {
                assert_eq!(*times, StageTimes::default(), "nothing was wanted");
                assert!(found.labels.is_empty() && found.depth_m.is_empty() && found.overlay.is_empty());
                continue;
            }
            assert!(times.decode_ns > 0 && times.infer_ns > 0 && times.labels_ns > 0 && times.confidence_ns > 0);
            let pixels = found.width * found.height;
            for length in [found.labels.len(), found.mask.len(), found.depth_m.len(), found.confidence.len()] {
                assert_eq!(length, pixels, "{count}, {i}");
            }
            assert_eq!((found.overlay.len(), found.colors.len()), (3 * pixels, 3 * pixels));
            // libtorch may sum in another order for another batch size.
            for (found, expected) in [(&found.depth_m, &expected.depth_m), (&found.confidence, &expected.confidence)] {
                for (a, e) in found.iter().zip(expected) {
                    assert!(a.is_nan() && e.is_nan() || (a - e).abs() <= 1e-3 * e.abs(), "{count}, {i}: {a} for {e}");
                }
            }
            assert!(share_of_equal(&found.labels, &expected.labels) > 0.999, "{count}, {i}: labels");
            assert!(found.labels.iter().any(|l| *l != 255), "{count}, {i}: something is seen");
        }
    }
    // Different pictures have different answers: the batch does not answer one of them for all.
    assert_ne!(singles[0].0.depth_m[..2000], singles[4].0.depth_m[..2000]);
}

#[test]
fn what_is_not_wanted_is_empty_and_depth_is_multiplied() {
    let mut pipeline = Pipeline::from_artifact(small(), &options(Precision::Auto, 2)).expect("loads");
    assert_eq!(pipeline.precision_name(), "fp32");
    let camera = cameras(1).remove(0);
    let whole = run(&mut pipeline, &[&camera]).remove(0).0;
    let mut outputs = Outputs::default();
    let mut jobs = [Job {
        image: camera.view(),
        geometry: &camera.geometry,
        wanted: Wanted { depth: true, ..Wanted::default() },
        confidence_stride: 1,
        depth_factor: 1.5,
        overlay_opacity: 0.5,
        mask_values: &[0; 256],
        outputs: &mut outputs,
        times: StageTimes::default(),
        is_broken: false,
    }];
    pipeline.run(&mut jobs).expect("the frame is computed");
    assert!(outputs.labels.is_empty() && outputs.confidence.is_empty() && outputs.mask.is_empty());
    assert_eq!(outputs.depth_m.len(), whole.depth_m.len());
    for (a, b) in outputs.depth_m.iter().zip(&whole.depth_m) {
        assert!((a - 1.5 * b).abs() < 1e-4 * b, "{a} for 1.5 times {b}");
    }
}

#[test]
fn the_time_of_normals_is_the_depths() {
    let mut pipeline = Pipeline::from_artifact(small(), &options(Precision::Auto, 1)).expect("loads");
    let mut camera = cameras(1).remove(0);
    camera.wanted = Wanted { normals: true, mask: true, ..Wanted::default() };
    let times = run(&mut pipeline, &[&camera]).remove(0).1;
    assert!(times.labels_ns > 0 && times.depth_ns > 0 && times.mask_ns > 0, "{times:?}");
    assert_eq!((times.confidence_ns, times.overlay_ns), (0, 0));
}

#[test]
fn wrong_orders_are_refused_with_what_was_expected() {
    let refuse = |max_batch| match Pipeline::from_artifact(small(), &options(Precision::Auto, max_batch)) {
        Err(e @ PipelineError::MaxBatch(_)) => e.to_string(),
        other => panic!("{max_batch}: {:?}", other.map(|p| p.max_batch())),
    };
    assert!(refuse(0).contains("expected 1 to 32 frames, found 0"));
    assert!(refuse(33).contains("found 33"));

    let mut pipeline = Pipeline::from_artifact(small(), &options(Precision::Auto, 2)).expect("loads");
    let cameras = cameras(2);
    let fitting = &cameras[0];
    let mut order = |geometries: &[&Geometry]| {
        let mut outputs = vec![Outputs { labels: vec![1], ..Outputs::default() }; geometries.len()];
        let mut jobs: Vec<Job<'_>> = geometries
            .iter()
            .zip(&mut outputs)
            .map(|(geometry, outputs)| Job {
                image: fitting.view(),
                geometry,
                wanted: Wanted::ALL,
                confidence_stride: 1,
                depth_factor: 1.0,
                overlay_opacity: 0.5,
                mask_values: &[0; 256],
                outputs,
                times: StageTimes::default(),
                is_broken: false,
            })
            .collect();
        let error = pipeline.run(&mut jobs).expect_err("must be refused").to_string();
        assert!(outputs.iter().all(|o| o.labels.is_empty()), "nothing old is left");
        error
    };
    let message = order(&[&fitting.geometry; 3]);
    assert!(message.contains("3 frames came at once") && message.contains("at most 2"), "{message}");
    let message = order(&[&fitting.geometry, &cameras[1].geometry]);
    assert!(message.contains("(117, 67)") && message.contains("(100, 60)"), "{message}");
    let other = Geometry::new(&Placement::default(), (100, 60), (512, 256)).expect("it fits");
    let message = order(&[&other]);
    assert!(message.contains("(512, 256)") && message.contains("(96, 48)"), "{message}");
}

/// A model of somebody else's: it answers at its input's size, and is nothing but a TorchScript file.
fn traced(folder: &Path, forward: &mut dyn FnMut(&[Tensor]) -> Vec<Tensor>) -> Artifact {
    let example = Tensor::rand([1, 3, SMALL.1 as i64, SMALL.0 as i64], (Kind::Float, Device::Cpu));
    let mut forward = |x: &[Tensor]| forward(x);
    let module = CModule::create_by_tracing("Theirs", "forward", &[example], &mut forward).expect("traced");
    let mut manifest = small().manifest;
    (manifest.output.width, manifest.output.height) = (None, None);
    manifest.files.retain(|name, _| *name == manifest.torchscript);
    module.save(folder.join(&manifest.torchscript)).expect("saved");
    Artifact { manifest, dir: folder.into() }
}

#[test]
fn a_model_that_is_bound_to_single_precision_is_refused_in_half() {
    // As a trace records a cast: with the kind that the example had.
    let weight = Tensor::ones([21, 3, 1, 1], (Kind::Half, Device::Cpu));
    let mut closure =
        |x: &[Tensor]| vec![x[0].conv2d(&weight.to_kind(Kind::Float), None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)];
    let folder = tempfile::tempdir().expect("a folder");
    let artifact = traced(folder.path(), &mut closure);
    assert_eq!(Pipeline::from_artifact(artifact.clone(), &options(Precision::Fp32, 1)).expect("runs").max_batch(), 1);
    let error = Pipeline::from_artifact(artifact, &options(Precision::Bf16, 1)).expect_err("is refused").to_string();
    assert!(error.contains("cannot run in bf16 on cpu") && error.contains("set precision to fp32"), "{error}");
    assert!(error.contains("BFloat16") && !error.contains("Traceback"), "libtorch's reason is there: {error}");
}

/// Whether a model that answers these scores of 20 classes, made of its input, is taken for one of probabilities.
fn of_scores(scores: impl Fn(&Tensor) -> Tensor) -> bool {
    let weight = Tensor::randn([21, 3, 1, 1], (Kind::Float, Device::Cpu));
    let mut closure = |x: &[Tensor]| {
        let answer = x[0].conv2d(&weight, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1);
        vec![Tensor::cat(&[scores(&answer.narrow(1, 0, 20)), answer.narrow(1, 20, 1)], 1)]
    };
    let folder = tempfile::tempdir().expect("a folder");
    let artifact = traced(folder.path(), &mut closure);
    Pipeline::from_artifact(artifact, &options(Precision::Fp32, 1)).expect("runs").answers_probabilities()
}

#[test]
fn probabilities_are_told_from_scores() {
    assert!(of_scores(|scores| scores.softmax(1, Kind::Float)));
    assert!(!of_scores(|scores| scores.log_softmax(1, Kind::Float)));
    assert!(!of_scores(Tensor::sigmoid));
    assert!(!of_scores(Tensor::shallow_clone));
    let ours = Pipeline::from_artifact(small(), &options(Precision::Fp32, 1)).expect("runs");
    assert!(!ours.answers_probabilities());
}

/// The released weights at their own size, on a rendered street, in half the precision on the processor.
///
/// Tolerances: `bfloat16` has 8 bits of significand, half precision 11. Labels differ where two classes are nearly
/// equally likely, along the edges of things.
#[test]
fn half_precisions_agree_with_single_precision_on_the_released_weights() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let street = request(models.join("street/weights.safetensors"), (512, 256));
    half_precisions_agree(&street);
    half_precisions_agree(&ExportRequest {
        refinement: RefinementSource::File(models.join("street_refined/refinement.safetensors")),
        ..street
    });
}

fn half_precisions_agree(street: &ExportRequest) {
    let folder = tempfile::tempdir().expect("a folder");
    let size = street.size;
    export(street, &folder.path().join("model")).expect("exported");
    let frame = Drive::new(&DriveConfig::new(3, 1, 1024, 512)).frame(0, false);
    let camera = Camera {
        picture: frame.left.into_raw(),
        geometry: Geometry::new(&Placement::default(), (1024, 512), size).expect("it fits"),
        wanted: Wanted { labels: true, depth: true, ..Wanted::default() },
    };
    let answer = |precision, name| {
        let mut pipeline =
            Pipeline::load(&folder.path().join("model"), &options(precision, 1)).expect("the precision loads");
        assert_eq!(pipeline.precision_name(), name);
        run(&mut pipeline, &[&camera]).remove(0).0
    };
    let single = answer(Precision::Fp32, "fp32");
    // The model knows this street: the comparison is one of real answers.
    assert!(share_of_equal(&single.labels, &frame.labels) > 0.8, "{}", share_of_equal(&single.labels, &frame.labels));
    for (precision, name, labels, depth) in
        [(Precision::Bf16, "bf16", 0.995, 0.01), (Precision::Fp16, "fp16", 0.998, 0.005)]
    {
        let half = answer(precision, name);
        let share = share_of_equal(&half.labels, &single.labels);
        let mut errors: Vec<f32> = half.depth_m.iter().zip(&single.depth_m).map(|(a, b)| (a - b).abs() / b).collect();
        errors.sort_by(f32::total_cmp);
        let median = errors[errors.len() / 2];
        println!("{name}: {share:.4} of the labels agree, the median depth differs by {median:.5}");
        assert!(share > labels, "{name}: {share} of the labels agree");
        assert!(median < depth, "{name}: the median depth differs by {median}");
        assert_ne!(half.depth_m, single.depth_m, "{name}: it was computed in single precision");
    }
}

#[test]
fn a_pipeline_may_be_handed_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Pipeline>();
}

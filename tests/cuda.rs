//! Back ends on a CUDA device, beside the native one on the processor. Where there is no such device the kernels are
//! tested on the processor (`src/frame/network/cuda`), and these tests say that they were skipped. With
//! `SEMANTIC_DEPTH_CUDA_ZERO_COPY=1` they run without copies, as on a Jetson.

use semantic_depth::bench::encode::encode;
use semantic_depth::data::street::{Drive, DriveConfig};
use semantic_depth::export::trace::{export, ExportRequest};
use semantic_depth::export::Artifact;
use semantic_depth::frame::clock::StageTimes;
use semantic_depth::frame::convert::Converter;
use semantic_depth::frame::geometry::{Geometry, OutputSize, Placement, Rect, ResizeMode};
use semantic_depth::frame::network::{resolve, Backend, BackendChoice, DeviceChoice, Precision};
use semantic_depth::frame::pipeline::{Job, LoadOptions, Outputs, Pipeline, Wanted};
use semantic_depth::frame::view::{Encoding, ImageView};
use semantic_depth::model::weights::RefinementSource;
use semantic_depth::tensorrt::cuda::driver;
use std::path::Path;

mod small_model;

/// The back ends that the first device can run; none where libtorch has no CUDA device.
fn back_ends() -> Vec<Backend> {
    if let Err(why) = resolve(DeviceChoice::Cuda(0)) {
        eprintln!("skipped: {why}");
        return Vec::new();
    }
    let has_kernels = driver().is_ok_and(|driver| driver.gpus[0].compute_capability.major >= 8);
    if !has_kernels {
        eprintln!("skipped in part: the native back end needs compute capability 8.0");
    }
    has_kernels.then_some(Backend::Native).into_iter().chain([Backend::TorchScript]).collect()
}

/// The released weights, as they are or with their depth refined.
fn model(size: (usize, usize), is_refined: bool) -> (tempfile::TempDir, Artifact) {
    let folder = tempfile::tempdir().expect("a folder");
    // cargo runs tests in the package's folder.
    let weights = "models/street/weights.safetensors".into();
    let request = ExportRequest {
        refinement: match is_refined {
            true => RefinementSource::File("models/street_refined/refinement.safetensors".into()),
            false => RefinementSource::None,
        },
        focal_length_px: 565.6,
        ..small_model::request(weights, size)
    };
    let (artifact, _) = export(&request, &folder.path().join("model")).expect("it exports");
    (folder, artifact)
}

fn pipeline(folder: &Path, device: DeviceChoice, backend: Backend, precision: Precision, max_batch: usize) -> Pipeline {
    let backend = BackendChoice::Only(backend);
    let options = LoadOptions { device, precision, backend, max_batch, ..LoadOptions::default() };
    Pipeline::load(&folder.join("model/model.yaml"), &options).expect("it loads")
}

fn street((width, height): (usize, usize)) -> Vec<u8> {
    Drive::new(&DriveConfig::new(3, 1, width, height)).frame(0, false).left.into_raw()
}

fn rgb8((width, height): (usize, usize), picture: &[u8]) -> ImageView<'_> {
    ImageView::rgb8(width as u32, height as u32, picture).expect("a valid layout")
}

/// Outputs of one frame a geometry, together.
fn answers(pipeline: &mut Pipeline, image: ImageView<'_>, geometries: &[Geometry], wanted: Wanted) -> Vec<Outputs> {
    let mut outputs = vec![Outputs::default(); geometries.len()];
    let mut jobs: Vec<_> = geometries
        .iter()
        .zip(&mut outputs)
        .map(|(geometry, outputs)| Job {
            image,
            geometry,
            wanted,
            confidence_stride: 1,
            depth_factor: 1.25,
            overlay_opacity: 0.5,
            mask_values: &[7; 256],
            outputs,
            times: StageTimes::default(),
            is_broken: false,
        })
        .collect();
    pipeline.run(&mut jobs).expect("it answers");
    drop(jobs);
    outputs
}

#[test]
fn a_device_answers_as_the_processor_does() {
    let back_ends = back_ends();
    if back_ends.is_empty() {
        return;
    }
    // Single precision is multiplied as TF32 there by default, with as many bits as half precision.
    let ways = [
        (Backend::Native, Precision::Fp16),
        (Backend::TorchScript, Precision::Fp16),
        (Backend::TorchScript, Precision::Fp32),
    ];
    for (network, is_refined) in [((512, 256), false), ((512, 256), true), ((500, 190), false)] {
        let (folder, _) = model(network, is_refined);
        let mut on_processor = pipeline(folder.path(), DeviceChoice::Cpu, Backend::Native, Precision::Fp32, 3);
        for (backend, precision) in ways.into_iter().filter(|(backend, _)| back_ends.contains(backend)) {
            let mut on_device = pipeline(folder.path(), DeviceChoice::Cuda(0), backend, precision, 3);
            assert_eq!((on_device.backend(), on_device.device_name().as_str()), (backend.name(), "cuda:0"));
            compare(&mut on_device, &mut on_processor, network, is_refined);
        }
    }
}

/// Frames of several sizes, placements and batches.
fn compare(on_device: &mut Pipeline, on_processor: &mut Pipeline, network: (usize, usize), is_refined: bool) {
    // Of the depth, relative: in the median, and at most. libtorch rounds after every operation, our own kernels after
    // several; and what refines the depth begins with what was rounded.
    let limits = match (on_device.backend() == Backend::Native.name(), is_refined) {
        (true, _) => (2e-3, 0.05),
        (false, false) => (5e-3, 0.05),
        (false, true) => (5e-3, 0.1),
    };
    let way = format!("{} {} {network:?}", on_device.backend(), on_device.precision_name());
    for size in [(2048, 1024), (611, 301)] {
        let picture = street(size);
        let image = rgb8(size, &picture);
        let roi = Some(Rect { x: 11, y: 7, width: size.0 - 40, height: size.1 - 30 });
        let placements = [
            Placement::default(),
            Placement { mode: ResizeMode::Letterbox, roi: None, output: OutputSize::Network },
            Placement { mode: ResizeMode::Roi, roi, output: OutputSize::Fixed { width: 333, height: 222 } },
        ];
        let geometries = placements.map(|p| Geometry::new(&p, size, network).expect("it fits"));
        // All together, then one: another graph, and buffers that have been used.
        for count in [3, 1] {
            let found = answers(on_device, image, &geometries[..count], Wanted::ALL);
            let expected = answers(on_processor, image, &geometries[..count], Wanted::ALL);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.labels.len(), expected.labels.len());
                let pixels = expected.labels.len() as f64;
                let equal = found.labels.iter().zip(&expected.labels).filter(|(a, b)| a == b).count() as f64;
                let mut off: Vec<f32> = found
                    .depth_m
                    .iter()
                    .zip(&expected.depth_m)
                    .map(|(a, b)| match (a.is_nan(), b.is_nan()) {
                        (false, false) => (a - b).abs() / b,
                        (true, true) => 0.0,
                        _ => f32::INFINITY,
                    })
                    .collect();
                off.sort_by(f32::total_cmp);
                let (median, most) = (off[off.len() / 2], off[off.len() - 1]);
                println!(
                    "{way} {size:?} {i}: {:.4} % labels differ, depth median {:.2e}, most {most:.2e}",
                    100.0 * (1.0 - equal / pixels),
                    median
                );
                assert!(equal / pixels > 0.995, "{way} {size:?} {i}: {}", equal / pixels);
                assert!(median < limits.0 && most < limits.1, "{way} {size:?} {i}: {median}, {most} of {limits:?}");
                let sure = |o: &Outputs| o.confidence.iter().filter(|c| **c > 0.9).count() as f64 / pixels;
                assert!((sure(found) - sure(expected)).abs() < 0.01);
                assert_eq!(found.overlay.len(), expected.overlay.len());
                assert!(found.mask.iter().all(|m| *m == 7));
            }
        }
    }
}

/// Without a device on the processor alone.
#[test]
fn an_image_of_any_encoding_is_answered_as_its_picture() {
    let (folder, _) = model((256, 128), false);
    let size = (612, 302);
    let rgb = street(size);
    let roi = Some(Rect { x: 11, y: 7, width: 571, height: 271 });
    let placements = [Placement::default(), Placement { mode: ResizeMode::Roi, roi, output: OutputSize::Network }];
    let geometries = placements.map(|p| Geometry::new(&p, size, (256, 128)).expect("it fits"));
    let wanted = Wanted { labels: true, depth: true, overlay: true, ..Wanted::default() };
    let has_kernels = back_ends().contains(&Backend::Native);
    let device = has_kernels.then_some((DeviceChoice::Cuda(0), Precision::Fp16));
    let mut converter = Converter::new();
    for (device, precision) in [(DeviceChoice::Cpu, Precision::Fp32)].into_iter().chain(device) {
        let mut pipeline = pipeline(folder.path(), device, Backend::Native, precision, 2);
        for encoding in Encoding::ALL {
            let data = encode(encoding, size, &rgb);
            let image =
                ImageView::without_padding(encoding, (size.0 as u32, size.1 as u32), &data).expect("a valid layout");
            let found = answers(&mut pipeline, image, &geometries, wanted);
            let expected = answers(&mut pipeline, converter.eight_bit(&image), &geometries, wanted);
            for (found, expected) in found.iter().zip(&expected) {
                let what = format!("{} on {}", encoding.name(), pipeline.device_name());
                assert!(found.labels == expected.labels && found.overlay == expected.overlay, "{what}");
                let bits = |outputs: &Outputs| outputs.depth_m.iter().map(|m| m.to_bits()).collect::<Vec<_>>();
                assert!(bits(found) == bits(expected), "{what}");
            }
        }
    }
}

#[test]
fn the_same_frame_has_the_same_answer() {
    let back_ends = back_ends();
    if back_ends.is_empty() {
        return;
    }
    let (folder, _) = model((512, 256), false);
    let size = (1024, 512);
    let picture = street(size);
    let image = rgb8(size, &picture);
    let geometry = Geometry::new(&Placement::default(), size, (512, 256)).expect("it fits");
    let wanted = Wanted { labels: true, depth: true, ..Wanted::default() };
    for backend in back_ends {
        let mut on_device = pipeline(folder.path(), DeviceChoice::Cuda(0), backend, Precision::Fp16, 1);
        let first = answers(&mut on_device, image, std::slice::from_ref(&geometry), wanted);
        // libtorch promises the same sums for the same input only to who asks for it: of the pixels so large a share may
        // differ, and of the others the depth by so much. That is a bit of a code in half precision: 2^-10 from 1 on, of
        // which the decoding makes five times as much.
        let (share, off) = if backend == Backend::Native { (0.0, 0.0) } else { (1e-3, 5e-3) };
        let is_first = |again: &[Outputs]| {
            let depth = again[0].depth_m.iter().zip(&first[0].depth_m);
            let labels = again[0].labels.iter().zip(&first[0].labels);
            let pixels = first[0].labels.len();
            let most = share * pixels as f32;
            let other = pixels - labels.filter(|(a, b)| a == b).count();
            let far = pixels - depth.filter(|(a, b)| (*a - *b).abs() <= off * **b).count();
            other as f32 <= most && far as f32 <= most
        };
        for _ in 0..300 {
            assert!(is_first(&answers(&mut on_device, image, std::slice::from_ref(&geometry), wanted)));
        }
        // On another thread: the device's context is taken there, too.
        let moved = std::thread::scope(|scope| {
            let frame = || answers(&mut on_device, image, std::slice::from_ref(&geometry), wanted);
            let thread = std::thread::Builder::new().name("another".into()).spawn_scoped(scope, frame);
            thread.expect("a thread").join().expect("no panic")
        });
        assert!(is_first(&moved), "{backend:?}");
    }
}

//! What comes before and after the network, for one frame: a 2048x1024 picture, a network of 512x256 with an answer of
//! that size and (`of 1/4`) of 128x64.
//!
//! `cargo bench --no-default-features --bench frame`. The figures are processor time summed over all cores: what a
//! frame takes away from whatever else the machine has to do. `OMP_NUM_THREADS=1
//! RAYON_NUM_THREADS=1` leaves out what threads that wait for work burn.
//! The scene is a rendered street; the answer is made of its truth at a quarter of the network's size, with noise; the
//! large one is it interpolated to the network's size, as the network itself may end. `read` is a part of labels and of depth that they
//! share: a frame of both costs decode + read + labels + depth.

use criterion::{criterion_group, criterion_main, Criterion};
use processor_time::ProcessorTime;
use semantic_depth::bench::encode::encode;
use semantic_depth::data::street::{Drive, DriveConfig};
use semantic_depth::data::{classes, depth};
use semantic_depth::export::manifest::{
    ChannelOrder, ClassKind, DepthCode, DepthDecoding, InputKind, InputSpec, Manifest, OutputSpec, Provenance,
    SCHEMA_VERSION,
};
use semantic_depth::frame::convert::Converter;
use semantic_depth::frame::geometry::{Geometry, OutputSize, Placement, Rect, ResizeMode};
use semantic_depth::frame::input::InputBuilder;
use semantic_depth::frame::output::{self, OutputBuilder, Packed};
use semantic_depth::frame::view::{Encoding, ImageView};
use semantic_depth::model::NetworkConfig;
use std::hint::black_box;
use std::time::Duration;
use tch::{Kind, Tensor};

mod processor_time;

const SOURCE: (usize, usize) = (2048, 1024);
const NETWORK: (usize, usize) = (512, 256);
const HEAD: (usize, usize) = (128, 64);
const CHANNELS: usize = classes::CLASSES + 1;

fn manifest() -> Manifest {
    Manifest {
        schema_version: SCHEMA_VERSION,
        name: "bench".into(),
        network: NetworkConfig::default(),
        torchscript: "network.ts".into(),
        input: InputSpec {
            width: NETWORK.0,
            height: NETWORK.1,
            channel_order: ChannelOrder::Rgb,
            kind: InputKind::Float,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        },
        output: OutputSpec {
            width: None,
            height: None,
            tensors: None,
            classes: ClassKind::Scores,
            normals_channel: None,
            score_channels: classes::CLASSES,
            depth_channel: Some(classes::CLASSES),
            depth: Some(DepthDecoding {
                code: DepthCode::Log,
                scale: depth::LOG_SCALE,
                min_m: 0.0,
                max_m: depth::MAX_DEPTH_M,
                focal_length_px: 565.63,
            }),
        },
        classes: classes::cityscapes(),
        files: [].into(),
        provenance: Provenance {
            package_version: String::new(),
            command: String::new(),
            created: String::new(),
            weights_sha256: String::new(),
            refinement_sha256: None,
            libtorch: String::new(),
            training: String::new(),
        },
    }
}

/// A picture, and what a network would answer to it, at 1/4 and at full size.
fn scene() -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let frame = Drive::new(&DriveConfig::new(3, 1, SOURCE.0, SOURCE.1)).frame(0, false);
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 * 2.0 - 1.0
    };
    let mut head = Vec::with_capacity(HEAD.0 * HEAD.1 * CHANNELS);
    for y in 0..HEAD.1 {
        for x in 0..HEAD.0 {
            let at = (y * SOURCE.1 / HEAD.1 + 8) * SOURCE.0 + x * SOURCE.0 / HEAD.0 + 8;
            let label = usize::from(frame.labels[at]);
            head.extend((0..classes::CLASSES).map(|c| if c == label { 8.0 } else { 0.0 } + noise()));
            head.push(depth::encode(frame.depth_m[at]).unwrap_or(1.1));
        }
    }
    let answer = Tensor::from_slice(&head)
        .reshape([1, HEAD.1 as i64, HEAD.0 as i64, CHANNELS as i64])
        .permute([0, 3, 1, 2])
        .upsample_bilinear2d([NETWORK.1 as i64, NETWORK.0 as i64], false, None, None)
        .permute([0, 2, 3, 1])
        .to_kind(Kind::Float)
        .contiguous()
        .reshape([-1]);
    (frame.left.into_raw(), head, Vec::try_from(answer).expect("a flat tensor"))
}

fn geometry(placement: &Placement) -> Geometry {
    Geometry::new(placement, SOURCE, NETWORK).expect("the placement fits")
}

fn frame(criterion: &mut Criterion<ProcessorTime>) {
    let (picture, head, answer_data) = scene();
    let image = ImageView::rgb8(SOURCE.0 as u32, SOURCE.1 as u32, &picture).expect("a valid layout");
    let bgra: Vec<u8> = picture.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [b, g, r, 255]).collect();
    let bgra = ImageView::new("bgra8", SOURCE.0 as u32, SOURCE.1 as u32, 4 * SOURCE.0 as u32, false, &bgra)
        .expect("a valid layout");
    let answer = |(width, height), data| Packed { width, height, channels: CHANNELS, data };
    let (packed, quarter) = (answer(NETWORK, &answer_data), answer(HEAD, &head));
    let manifest = manifest();
    let mut input = InputBuilder::new(&manifest.input);
    let mut output = OutputBuilder::new(&manifest);
    let stretch = geometry(&Placement::default());
    let roi = geometry(&Placement {
        mode: ResizeMode::Roi,
        roi: Some(Rect { x: 64, y: 16, width: 1920, height: 1000 }),
        output: OutputSize::Source,
    });
    let resized = geometry(&Placement { output: OutputSize::Fixed { width: 1280, height: 640 }, ..Default::default() });

    let mut group = criterion.benchmark_group("frame");
    let mut tensor = vec![0.0; input.len()];
    for (name, image, geometry) in
        [("decode", &image, &stretch), ("decode bgra8", &bgra, &stretch), ("decode roi 1920x1000", &image, &roi)]
    {
        group.bench_function(name, |b| b.iter(|| input.build(black_box(image), geometry, &mut tensor)));
    }
    let mut converter = Converter::new();
    for encoding in [Encoding::BayerRggb8, Encoding::BayerRggb16, Encoding::Uyvy, Encoding::Nv12, Encoding::Rgb16] {
        let (name, data) = (encoding.name(), encode(encoding, SOURCE, &picture));
        let size = (SOURCE.0 as u32, SOURCE.1 as u32);
        let image = ImageView::without_padding(encoding, size, &data).expect("a valid layout");
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(|| input.build(black_box(&image), &stretch, &mut tensor));
        });
        group.bench_function(format!("decode {name}, a whole picture first"), |b| {
            b.iter(|| input.build(&converter.eight_bit(black_box(&image)), &stretch, &mut tensor));
        });
    }
    let (mut labels, mut metres, mut confidence, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (of, packed) in [("", &packed), (" of 1/4", &quarter)] {
        group.bench_function(format!("read{of}"), |b| b.iter(|| output.read(black_box(packed), true, true)));
        output.read(packed, true, true);
        for (name, geometry) in [("", &stretch), (" of roi 1920x1000", &roi), (" at 1280x640", &resized)] {
            group.bench_function(format!("labels{name}{of}"), |b| {
                b.iter(|| output.labels(black_box(packed), geometry, &mut labels));
            });
            group.bench_function(format!("depth{name}{of}"), |b| {
                b.iter(|| output.depth(black_box(geometry), 1.0, &mut metres));
            });
        }
        group.bench_function(format!("confidence{of}"), |b| {
            b.iter(|| output.confidence(black_box(packed), &stretch, 1, &mut confidence));
        });
    }
    output.read(&packed, true, false);
    output.labels(&packed, &stretch, &mut labels);
    for (name, image) in [("overlay", &image), ("overlay bgra8", &bgra)] {
        group.bench_function(name, |b| {
            b.iter(|| output.overlay(black_box(image), &stretch, &labels, 0.5, &mut bytes));
        });
    }
    group.bench_function("colors", |b| b.iter(|| output.colors(black_box(&labels), &mut bytes)));
    let values = std::array::from_fn(|i| (i * 7) as u8);
    group.bench_function("mask", |b| b.iter(|| output::mask(black_box(&labels), &values, &mut bytes)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .with_measurement(ProcessorTime)
        .sample_size(30)
        .measurement_time(Duration::from_secs(2));
    targets = frame
}
criterion_main!(benches);

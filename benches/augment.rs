//! From a decoded frame (1024x512, a rendered street with labels and depth) to a training crop of 384x192.
//!
//! `cargo bench --no-default-features --bench augment`. The figures are processor time: the crops are made on the cores
//! that train.

use criterion::{criterion_group, criterion_main, Criterion};
use processor_time::ProcessorTime;
use rand::SeedableRng as _;
use rand_pcg::Pcg32;
use semantic_depth::data::augment::{crop, AugmentConfig, CropSize, ElasticConfig, JitterConfig};
use semantic_depth::data::frame::Decoded;
use semantic_depth::data::street::{Drive, DriveConfig};
use std::hint::black_box;
use std::time::Duration;

mod processor_time;

fn augment(c: &mut Criterion<ProcessorTime>) {
    let street = Drive::new(&DriveConfig::new(3, 1, 1024, 512)).frame(0, false);
    let frame = Decoded {
        width: 1024,
        height: 512,
        rgb: street.left.into_raw(),
        labels: Some(street.labels),
        depth_m: Some(street.depth_m),
        focal_px: Some((1131.0, 1131.0)),
        principal_px: None,
    };
    let jitter = JitterConfig { brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 0.04 };
    let usual = AugmentConfig { jitter, ..AugmentConfig::default() };
    let turned = AugmentConfig { rotation_deg: 10.0, ..usual.clone() };
    let elastic = AugmentConfig { elastic: ElasticConfig { amplitude_px: 50.0, smoothness_px: 5.0 }, ..usual.clone() };
    let configs = [("usual", &usual), ("turned", &turned), ("elastic", &elastic)];
    let mut group = c.benchmark_group("crop");
    for (what, scale) in [("shrunk", (0.42, 0.75)), ("enlarged", (1.0, 2.0))] {
        for (name, config) in &configs {
            let size = CropSize { size: (384, 192), scale, stride: 4 };
            let mut rng = Pcg32::seed_from_u64(1);
            group.bench_function(format!("{what}, {name}"), |b| {
                b.iter(|| crop(black_box(&frame), &size, config, &mut rng));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .with_measurement(ProcessorTime)
        .sample_size(30)
        .measurement_time(Duration::from_secs(2));
    targets = augment
}
criterion_main!(benches);

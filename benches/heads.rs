//! One network for two tasks, or two networks: processor time and, where the machine has a counter that can be read, energy of
//! one pass at 512x256 with both heads, and with each head alone; parameters of each.
//! `cargo bench --no-default-features --bench heads`.

use criterion::{criterion_group, criterion_main, Criterion};
use processor_time::ProcessorTime;
use semantic_depth::bench::energy::{self, Source};
use semantic_depth::model::{Answers, Network, NetworkConfig, Task};
use std::convert::Infallible;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

mod processor_time;

/// At rest, and then with one pass after the other.
const ENERGY_TIME: Duration = Duration::from_secs(5);

/// Prints the energy of a pass.
fn print_energy(source: &Source, name: &str, pass: impl Fn() -> Answers) {
    let pass = || {
        black_box(pass());
        Ok::<_, Infallible>(())
    };
    let Ok(measured) = energy::measure(source, ENERGY_TIME, pass);
    match measured {
        Ok(e) => eprintln!(
            "{name}: {:.4} J a pass, {:.4} J of it above rest, from {}",
            e.joules_a_frame, e.joules_a_frame_above_rest, e.source
        ),
        Err(why) => eprintln!("{name}: energy cannot be read: {why}"),
    }
}

fn heads(criterion: &mut Criterion<ProcessorTime>) {
    tch::set_num_threads(1);
    let _no_grad = tch::no_grad_guard();
    // Channels last in memory, as the node gives it.
    let x = Tensor::randn([1, 256, 512, 3], (Kind::Float, Device::Cpu)).permute([0, 3, 1, 2]);
    let source = Source::find(Device::Cpu, Path::new("/sys"));
    if let Err(reasons) = &source {
        eprintln!("energy cannot be read: {}", reasons.join("; "));
    }
    let mut group = criterion.benchmark_group("heads");
    for (name, heads) in [
        ("both", vec![Task::Segmentation, Task::Depth]),
        ("segmentation alone", vec![Task::Segmentation]),
        ("depth alone", vec![Task::Depth]),
        ("both and normals", vec![Task::Segmentation, Task::Depth, Task::Normals]),
    ] {
        let mut variables = VarStore::new(Device::Cpu);
        let network = Network::new(&variables.root(), &NetworkConfig { heads, ..NetworkConfig::default() });
        variables.freeze();
        let parameters: usize = variables.variables().values().map(Tensor::numel).sum();
        eprintln!("{name}: {parameters} numbers");
        if let Ok(source) = &source {
            print_energy(source, name, || network.forward_t(black_box(&x), false));
        }
        group.bench_function(name, |b| b.iter(|| network.forward_t(black_box(&x), false)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .with_measurement(ProcessorTime)
        .sample_size(20)
        .measurement_time(Duration::from_secs(3));
    targets = heads
}
criterion_main!(benches);

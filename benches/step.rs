//! One training step's passes on the processor, 8 crops of 352x224 in bfloat16: all in libtorch's operators, and with the
//! 1/4 stage's own; and that stage alone. `cargo bench --no-default-features --bench step`.

use criterion::{criterion_group, criterion_main, Criterion};
use semantic_depth::data::source::Groups;
use semantic_depth::model::Network;
use semantic_depth::train::config::{LabelSpace, TrainConfig};
use semantic_depth::train::labels::LabelTable;
use semantic_depth::train::objective::Objective;
use semantic_depth::train::packed::Batch;
use semantic_depth::train::quarter::QuarterStage;
use semantic_depth::train::step;
use std::time::Duration;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

const CONFIG: &str = "sources: [{name: a, data: {layout: cityscapes, root: x}}]\nphases: []\nloss_stride: 2\n";
const KIND: Kind = Kind::BFloat16;

fn steps(criterion: &mut Criterion) {
    semantic_depth::allocator::keep_large_blocks();
    let config: TrainConfig = serde_yaml::from_str(CONFIG).expect("a configuration");
    let (variables, extra) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    let network = Network::new(&variables.root(), &config.network());
    let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
    let objective = Objective::new(&extra.root(), &config, &table, &[], Device::Cpu);
    let float = (Kind::Float, Device::Cpu);
    let batch = Batch {
        images: Tensor::randn([8, 224, 352, 3], float).permute([0, 3, 1, 2]),
        labels: Tensor::randint(19, [8, 112, 176], (Kind::Int64, Device::Cpu)),
        depth: Tensor::rand([8, 112, 176], float),
        judged_to: Tensor::full([8, 1, 1], 0.9, float),
        normals: None,
        edges: None,
    };
    let stage = QuarterStage::new(Device::Cpu, KIND).expect("a processor");
    let mut group = criterion.benchmark_group("step");
    for (name, stage) in [("libtorch's operators", None), ("own 1/4 stage", Some(&stage))] {
        group.bench_function(name, |b| {
            b.iter(|| step::pass(&network, &objective, stage, &batch, KIND, 1.0).expect("a pass"));
        });
    }
    let x = (Tensor::randn([8, 56, 88, 256], float) * 4.0).permute([0, 3, 1, 2]).to_kind(KIND);
    let (scales, factors) = (Tensor::randn([4, 256], float), Tensor::randn([2, 256], float));
    group.bench_function("1/4 stage forwards", |b| b.iter(|| stage.forward(&x, &scales, &factors).expect("maps")));
    let pulls = [x.copy(), x.copy()];
    group.bench_function("1/4 stage backwards", |b| {
        b.iter(|| stage.backward(&x, &scales, &factors, &pulls).expect("gradients"));
    });
    let pieces = || network.forward_before_quarter_t(&batch.images.to_kind(KIND), true).expect("a map");
    group.bench_function("before it, both ways", |b| b.iter(|| pieces().sum(Kind::Float).backward()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(8));
    targets = steps
}
criterion_main!(benches);

//! The network against PyTorch: torchvision's encoder and an independent decoder (tests/golden/make_golden.py).

use hashes::{fnv, hashes};
use semantic_depth::export::trace::packed;
use semantic_depth::model::{weights, Network, NetworkConfig, Task};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

#[path = "golden/hashes.rs"]
mod hashes;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Must agree with `hashed` in make_golden.py to the bit.
fn hashed(name: &str, count: usize) -> Vec<f32> {
    hashes(name).map(|h| (h >> 8) as f32 / (1 << 23) as f32 - 1.0).take(count).collect()
}

/// Must agree with `fill` in make_golden.py.
fn fill(name: &str, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let v = Tensor::from_slice(&hashed(name, count)).view(shape);
    if name.ends_with("running_var") {
        v * 0.5 + 1.0
    } else if name.ends_with("running_mean") || name.ends_with("bias") {
        v * 0.1_f32 as f64
    } else if shape.len() == 1 {
        v * 0.25 + 1.0
    } else {
        let fan_in: i64 = shape[1..].iter().product();
        v * f64::from((3.0 / fan_in as f64).sqrt() as f32)
    }
}

fn network(extra_light: bool) -> (VarStore, Network) {
    let vs = VarStore::new(Device::Cpu);
    let network = Network::new(&vs.root(), &NetworkConfig { extra_light, ..NetworkConfig::default() });
    tch::no_grad(|| {
        for (name, mut variable) in vs.variables() {
            let value = fill(&name, &variable.size());
            variable.copy_(&value);
        }
    });
    (vs, network)
}

#[test]
fn outputs_are_pytorchs() {
    let answers: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(golden("golden.safetensors")).expect("the golden answers").into_iter().collect();
    assert_eq!(answers.len(), 4);
    let (_full_vs, full) = network(false);
    let (_light_vs, light) = network(true);
    for (key, expected) in answers {
        let (kind, size) = key.split_once(' ').expect("a key of kind and size");
        let (height, width) = size.split_once('x').expect("a size");
        let (height, width): (i64, i64) = (height.parse().expect("height"), width.parse().expect("width"));
        let pixels = hashed(&format!("input {size}"), (3 * height * width) as usize);
        let x = Tensor::from_slice(&pixels).view([1, 3, height, width]) * 2.0;
        let net = if kind == "full" { &full } else { &light };
        let found = tch::no_grad(|| packed(net, &x));
        assert_eq!(found.size(), expected.size(), "{key}");
        let worst = (found - &expected).abs().max().double_value(&[]);
        assert!(
            worst <= 1e-4,
            "{key}: differs by {worst:e} where answers are of size {:.2}",
            expected.std(true).double_value(&[])
        );
    }
}

#[test]
fn the_state_dict_has_the_articles_keys() {
    let (vs, _network) = network(false);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    weights::save(&vs, &path).expect("the folder is there");
    let mut saved = Tensor::read_safetensors(&path).expect("it was written whole");
    saved.sort_by(|a, b| a.0.cmp(&b.0));
    let found: Vec<String> = saved.iter().map(|(name, tensor)| format!("{name} {:?}", tensor.size())).collect();
    let text = std::fs::read_to_string(golden("state_dict_keys.txt")).expect("the list of keys");
    let expected: Vec<&str> = text.lines().collect();
    assert_eq!(expected.len(), 271);
    assert_eq!(found, expected);
}

#[test]
fn a_pytorch_state_dict_loads() {
    let (mut vs, _network) = network(false);
    weights::load(&mut vs, &golden("state_dict.pth")).expect("a file that torch.save wrote");
    for (name, variable) in vs.variables() {
        // make_golden.py filled each tensor with one number that follows from its name.
        let expected = f64::from(fnv(&name) % 1000) / 1000.0;
        let (low, high) = (variable.min().double_value(&[]), variable.max().double_value(&[]));
        assert!(
            (low - expected).abs() < 1e-6 && (high - expected).abs() < 1e-6,
            "{name}: {low} to {high}, not {expected}"
        );
    }
}

#[test]
fn safetensors_go_there_and_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("w.safetensors");
    let (vs, _a) = network(true);
    weights::save(&vs, &path).expect("saved");
    let mut other = VarStore::new(Device::Cpu);
    let _b = Network::new(&other.root(), &NetworkConfig { extra_light: true, ..NetworkConfig::default() });
    weights::load(&mut other, &path).expect("loaded");
    let loaded = other.variables();
    for (name, variable) in vs.variables() {
        assert_eq!((variable - &loaded[&name]).abs().max().double_value(&[]), 0.0, "{name}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("listing").collect();
    assert_eq!(left.len(), 1, "no partial file is left");
}

#[test]
fn every_misfit_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("w.safetensors");
    let (vs, _network) = network(false);
    let mut tensors: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    tensors.retain(|(n, _)| n != "decoder.seg.bias");
    for (name, tensor) in &mut tensors {
        if name == "decoder.depth.weight" {
            *tensor = Tensor::zeros([1, 256, 5, 5], (tch::Kind::Float, Device::Cpu));
        }
    }
    tensors.push(("decoder.third.weight".into(), Tensor::zeros([1], (tch::Kind::Float, Device::Cpu))));
    Tensor::write_safetensors(&tensors, &path).expect("written");
    let (mut other, _other) = network(false);
    let before = other.variables()["decoder.conv1.weight"].copy();
    let message = weights::load(&mut other, &path).expect_err("it does not fit").to_string();
    for part in [
        "missing decoder.seg.bias [20]",
        "decoder.depth.weight: expected shape [1, 256, 3, 3], found [1, 256, 5, 5]",
        "extra decoder.third.weight",
    ] {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
    let after = &other.variables()["decoder.conv1.weight"];
    assert_eq!((before - after).abs().max().double_value(&[]), 0.0, "nothing may change when loading fails");
    // The weights of the full network are not those of the light one.
    let mut light = VarStore::new(Device::Cpu);
    let _l = Network::new(&light.root(), &NetworkConfig { extra_light: true, ..NetworkConfig::default() });
    let message = weights::load(&mut light, &golden("state_dict.pth")).expect_err("extra keys").to_string();
    assert!(message.contains("extra decoder.conv6.weight"), "{message}");
}

#[test]
fn broken_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("w");
    let whole = std::fs::read(golden("state_dict.pth")).expect("the fixture");
    let (mut vs, _network) = network(false);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("text", b"not weights at all".to_vec()),
        ("a zip cut short", whole[..whole.len() / 2].to_vec()),
        ("an old pickle", vec![0x80, 0x02, b'.']),
        ("a header that promises too much", [&(1_u64 << 40).to_le_bytes()[..], b"{}"].concat()),
    ];
    for (what, bytes) in cases {
        std::fs::write(&path, bytes).expect("written");
        let message = weights::load(&mut vs, &path).expect_err(what).to_string();
        assert!(message.starts_with("weights "), "{what}: {message}");
    }
    // Damage inside the pickle: refused or, where it hits a name or a number, found not to fit; never a panic.
    for at in (0..whole.len()).step_by(997) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x5a;
        std::fs::write(&path, damaged).expect("written");
        let _ = weights::load(&mut vs, &path);
    }
    assert!(weights::load(&mut vs, &folder.path().join("none")).is_err());
}

#[test]
fn a_training_starts_from_torchvisions_encoder_or_from_a_network_of_other_heads() {
    let load_start = |vs: &VarStore, path: &Path| weights::fill_start(vs, weights::read(path)?, path);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("start.safetensors");
    let given = VarStore::new(Device::Cpu);
    let _g = Network::new(&given.root(), &NetworkConfig::default());
    // torchvision's names, with its classifier, which is of no use here.
    let mut tensors: Vec<(String, Tensor)> = given
        .variables()
        .into_iter()
        .filter_map(|(name, t)| {
            Some((name.strip_prefix("encoder.backbone.").map(|rest| format!("features.{rest}"))?, t))
        })
        .collect();
    tensors.push(("classifier.0.weight".into(), Tensor::zeros([4, 4], (Kind::Float, Device::Cpu))));
    Tensor::write_safetensors(&tensors, &path).expect("written");

    let taken = VarStore::new(Device::Cpu);
    let heads = vec![Task::Depth, Task::Normals];
    let _t = Network::new(&taken.root(), &NetworkConfig { heads, ..NetworkConfig::default() });
    let random = load_start(&taken, &path).expect("it fits");
    assert!(random.iter().all(|name| name.starts_with("decoder.")) && !random.is_empty(), "{random:?}");
    let (a, b) = (given.variables(), taken.variables());
    let name = "encoder.backbone.4.block.0.0.weight";
    assert_eq!(a[name], b[name]);

    weights::save(&given, &path).expect("written");
    let random = load_start(&taken, &path).expect("it fits");
    assert!(random.iter().all(|name| name.contains("normals")) && !random.is_empty(), "{random:?}");

    // Of another number of classes: all but the head's last layer, and the refinement, which reads the classes.
    let refined = |classes| NetworkConfig { classes, refine_depth: true, ..NetworkConfig::default() };
    let (given, taken) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    let _g = Network::new(&given.root(), &refined(20));
    let _t = Network::new(&taken.root(), &refined(8));
    weights::save(&given, &path).expect("written");
    let random = load_start(&taken, &path).expect("it fits");
    let is_left =
        |name: &str| ["decoder.seg.weight", "decoder.seg.bias"].contains(&name) || Network::is_refinement(name);
    assert!(random.iter().all(|name| is_left(name)), "{random:?}");
    assert_eq!(random.len(), taken.variables().keys().filter(|name| is_left(name)).count());
    let name = "decoder.depth.weight";
    assert_eq!(given.variables()[name], taken.variables()[name]);

    let checkpoint = [("network/decoder.depth.weight", Tensor::zeros([1], (Kind::Float, Device::Cpu)))];
    Tensor::write_safetensors(&checkpoint, &path).expect("written");
    let error = weights::contents(&path).expect_err("a checkpoint").to_string();
    assert!(error.contains("a training's checkpoint, which `train` takes (--resume, or --init"), "{error}");
    assert!(error.contains("expected its weights: last.safetensors or best.safetensors beside it"), "{error}");

    Tensor::write_safetensors(&[("other", Tensor::zeros([1], (Kind::Float, Device::Cpu)))], &path).expect("written");
    let error = load_start(&taken, &path).expect_err("another network's").to_string();
    assert!(error.contains("no variable of this network"), "{error}");
}

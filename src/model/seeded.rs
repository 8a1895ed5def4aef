//! Weights and inputs of tests, from a generator of their own: libtorch's has one state for all threads, so that where tests
//! run beside each other no seed says what one of them draws.

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg32;
use tch::nn::VarStore;
use tch::Tensor;

fn draw(rng: &mut Pcg32, shape: &[i64], [low, high]: [f32; 2]) -> Tensor {
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(low..high)).collect();
    Tensor::from_slice(&numbers).view(shape)
}

/// Even numbers in a range, on the processor.
pub fn uniform(seed: u64, shape: &[i64], range: [f32; 2]) -> Tensor {
    draw(&mut Pcg32::seed_from_u64(seed), shape, range)
}

/// Starts a network anew. The variables for which there is a `range` are even in it; other weights of convolutions are as
/// large as `layer` starts them, and the rest is as it was.
pub fn start(vs: &VarStore, seed: u64, range: impl Fn(&str) -> Option<[f32; 2]>) {
    let mut rng = Pcg32::seed_from_u64(seed);
    let variables: std::collections::BTreeMap<_, _> = vs.variables().into_iter().collect();
    for (name, mut variable) in variables {
        let shape = variable.size();
        let usual = || {
            let bound = match shape[..] {
                [outputs, _, height, width] if name.starts_with("encoder") => 6.0 / (outputs * height * width) as f32,
                [_, inputs, height, width] => 1.0 / (inputs * height * width) as f32,
                _ => return None,
            };
            Some([-bound.sqrt(), bound.sqrt()])
        };
        if let Some(range) = range(&name).or_else(usual) {
            tch::no_grad(|| variable.copy_(&draw(&mut rng, &shape, range)));
        }
    }
}

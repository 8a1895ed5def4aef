//! Adam and AdamW with a state that can be read and restored: a run that was killed goes on where it stood.
//!
//! libtorch's own optimisers keep their state where tch cannot reach it. Here all parameters, their gradients and both
//! moments lie in four long tensors, and each parameter and its gradient are views into them. A step is then a dozen
//! operations on long tensors instead of ten small ones for each of some two hundred parameters, and what concerns all
//! gradients (zeroing, scaling, their norm, whether they are finite) is one operation.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use tch::{Device, Kind, Tensor};

/// Parameters start at multiples of this (256 bytes), for the alignment that convolutions are quickest with.
const ALIGN: i64 = 64;
/// Numbers of a piece of work on the processor: small enough for the caches, large enough for two threads and to be
/// worth a call. (A step of the default network's 2.0 million parameters on one core took 5.9, 5.5, 5.1 and 9.3 ms with
/// 2^15, 2^16, 2^17 and all at once, and 6.9 ms parameter by parameter.)
const CPU_PIECE: i64 = 1 << 17;
/// PyTorch's guard against a division by a norm of zero.
const NORM_EPS: f64 = 1e-6;

/// Which update rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Kingma & Ba 2015; weight decay is an L2 penalty, added to the gradient (`torch.optim.Adam`).
    #[default]
    Adam,
    /// Loshchilov & Hutter 2019; weight decay is decoupled from the gradient (`torch.optim.AdamW`).
    AdamW,
}

/// An optimiser; defaults as in PyTorch, without weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// `adam` or `adamw`.
    pub name: Rule,
    /// How much of the old averages of the gradient and of its square stays at each step, `0 <= beta < 1`.
    #[serde(deserialize_with = "super::pair::betas")]
    pub betas: (f64, f64),
    /// Added to the denominator, above 0.
    pub eps: f64,
    /// 0 or more.
    pub weight_decay: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { name: Rule::Adam, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }
}

/// What can be wrong with an optimiser's input.
#[derive(Debug, thiserror::Error)]
pub enum OptimizerError {
    /// A value of the configuration.
    #[error("optimizer.{key}: expected {expected}, found {found}")]
    Config {
        /// Which.
        key: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        found: f64,
    },
    /// The parameters that it should work on.
    #[error("optimizer: {0}")]
    Parameters(String),
    /// A saved state that belongs to something else; one line for each problem.
    #[error("the saved state does not fit: {}", .0.join("; "))]
    State(Vec<String>),
}

impl OptimizerConfig {
    /// Checks the values' ranges.
    ///
    /// # Errors
    /// Names the key, what was expected and what was found.
    pub fn check(&self) -> Result<(), OptimizerError> {
        let fail = |key, expected, found| Err(OptimizerError::Config { key, expected, found });
        for beta in [self.betas.0, self.betas.1] {
            if !(0.0..1.0).contains(&beta) {
                return fail("betas", "0 <= beta < 1", beta);
            }
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return fail("eps", "a number above 0", self.eps);
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return fail("weight_decay", "a number of 0 or more", self.weight_decay);
        }
        Ok(())
    }
}

/// Where a parameter lies in the long tensors.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: i64,
    length: i64,
}

impl Span {
    fn of(self, long: &Tensor, like: &Tensor) -> Tensor {
        long.narrow(0, self.start, self.length).view_(like.size())
    }
}

/// Parameters that lie beside each other and learn alike.
#[derive(Debug, Clone, Copy)]
struct Run {
    span: Span,
    rate: f64,
}

/// A parameter, with its places in the long tensors.
#[derive(Debug)]
struct Parameter {
    name: String,
    span: Span,
    /// Factor on the learning rate.
    rate: f64,
    variable: Tensor,
    value: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

/// Adam or AdamW over a list of parameters.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    parameters: Vec<Parameter>,
    values: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    steps: i64,
}

impl Optimizer {
    /// Takes over the parameters' storage: each becomes a view into one long tensor, with the value that it has. They
    /// lie there in the order of their names: a `VarStore` lists them in another order in each process, and where in a
    /// vector register a number falls may decide its last bit.
    ///
    /// Whoever holds the variables (the network, the `VarStore`) sees this, as these are the same variables. They may
    /// be written to in place at any time, as loading weights does.
    ///
    /// # Errors
    /// A value of the configuration is out of its range; there is no parameter, a name comes twice, or a parameter is
    /// not float32 or on another device than the first.
    pub fn new(mut parameters: Vec<(String, Tensor)>, config: OptimizerConfig) -> Result<Self, OptimizerError> {
        config.check()?;
        let device = check_parameters(&parameters)?;
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        let mut spans = Vec::with_capacity(parameters.len());
        let mut end = 0;
        for (_, variable) in &parameters {
            let length = variable.numel() as i64;
            spans.push(Span { start: end, length });
            end += (length + ALIGN - 1) / ALIGN * ALIGN;
        }
        let long = || Tensor::zeros([end.max(1)], (Kind::Float, device));
        let (values, gradients, exp_avg, exp_avg_sq) = (long(), long(), long(), long());
        let mut parameters: Vec<Parameter> = parameters
            .into_iter()
            .zip(spans)
            .map(|((name, variable), span)| Parameter {
                name,
                span,
                rate: 1.0,
                value: span.of(&values, &variable),
                gradient: span.of(&gradients, &variable),
                exp_avg: span.of(&exp_avg, &variable),
                exp_avg_sq: span.of(&exp_avg_sq, &variable),
                variable,
            })
            .collect();
        tch::no_grad(|| {
            for p in &mut parameters {
                move_into(&mut p.variable, &mut p.value);
            }
        });
        Ok(Self { config, parameters, values, gradients, exp_avg, exp_avg_sq, steps: 0 })
    }

    /// Gives each parameter, by its name, a factor on the learning rate.
    pub fn set_rates(&mut self, rate: impl Fn(&str) -> f64) {
        self.parameters.iter_mut().for_each(|p| p.rate = rate(&p.name));
    }

    /// One step along the gradients that the variables hold. A parameter that has never had a gradient stays as it is.
    pub fn step(&mut self, learning_rate: f64) {
        tch::no_grad(|| {
            let runs = self.adopt();
            self.steps += 1;
            let piece = if self.values.device() == Device::Cpu { CPU_PIECE } else { i64::MAX };
            for Run { span, rate } in runs {
                let end = span.start + span.length;
                let mut start = span.start;
                while start < end {
                    let length = piece.min(end - start);
                    self.update(Span { start, length }, learning_rate * rate);
                    start += length;
                }
            }
        });
    }

    /// The update rule, operation by operation as in PyTorch's single-tensor implementation.
    fn update(&self, span: Span, learning_rate: f64) {
        let of = |long: &Tensor| long.narrow(0, span.start, span.length);
        let (mut value, mut exp_avg, mut exp_avg_sq) = (of(&self.values), of(&self.exp_avg), of(&self.exp_avg_sq));
        let mut gradient = of(&self.gradients);
        let OptimizerConfig { name, betas: (beta1, beta2), eps, weight_decay } = self.config;
        if weight_decay > 0.0 {
            match name {
                Rule::Adam => gradient = &gradient + &value * weight_decay,
                Rule::AdamW => _ = value.g_mul_scalar_(1.0 - learning_rate * weight_decay),
            }
        }
        let _ = exp_avg.lerp_(&gradient, 1.0 - beta1);
        let _ = exp_avg_sq.lerp_(&gradient.square(), 1.0 - beta2);
        let steps = self.steps as f64;
        let correction1 = 1.0 - beta1.powf(steps);
        let correction2 = 1.0 - beta2.powf(steps);
        let denominator = exp_avg_sq.sqrt().g_div_scalar_(correction2.sqrt()).g_add_scalar_(eps);
        let _ = value.g_sub_(&exp_avg.g_div(&denominator).g_mul_scalar_(learning_rate / correction1));
    }

    /// Sets all gradients to zero. (They stay defined: tch cannot take a gradient away from a variable.)
    pub fn zero_grad(&mut self) {
        tch::no_grad(|| {
            self.adopt();
            let _ = self.gradients.zero_();
        });
    }

    /// Multiplies all gradients: 1 over the loss scale, 1 over the number of accumulated batches.
    pub fn scale_gradients(&mut self, factor: f64) {
        tch::no_grad(|| {
            self.adopt();
            let _ = self.gradients.g_mul_scalar_(factor);
        });
    }

    /// Whether no gradient is infinite or NaN. Waits for the device once.
    pub fn gradients_are_finite(&mut self) -> bool {
        tch::no_grad(|| {
            self.adopt();
            self.gradients.isfinite().all().int64_value(&[]) != 0
        })
    }

    /// Shrinks all gradients together so that their common Euclidean norm is at most `max_norm`, as
    /// `torch.nn.utils.clip_grad_norm_` does. Returns the norm before, on the device: reading it waits for it.
    pub fn clip_gradient_norm(&mut self, max_norm: f64) -> Tensor {
        tch::no_grad(|| {
            self.adopt();
            let norm = self.gradients.norm();
            let factor = ((&norm + NORM_EPS).reciprocal() * max_norm).clamp_max(1.0);
            let _ = self.gradients.g_mul_(&factor);
            norm
        })
    }

    /// What a run needs to go on: `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` of every parameter, and `step`
    /// (a single int64). Copies on the processor.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let copy = |t: &Tensor| t.to_device_(Device::Cpu, Kind::Float, false, true);
        let moments = self.parameters.iter().flat_map(|p| {
            [(format!("{}.exp_avg", p.name), copy(&p.exp_avg)), (format!("{}.exp_avg_sq", p.name), copy(&p.exp_avg_sq))]
        });
        moments.chain([("step".to_string(), Tensor::from(self.steps))]).collect()
    }

    /// Takes a state that [`Self::state`] gave.
    ///
    /// # Errors
    /// Names every missing or misshapen tensor, and the moments of parameters that are not here; nothing is changed
    /// then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<(), OptimizerError> {
        let mut wanted: Vec<(String, Tensor)> = Vec::with_capacity(2 * self.parameters.len());
        for p in &self.parameters {
            wanted.push((format!("{}.exp_avg", p.name), p.exp_avg.shallow_clone()));
            wanted.push((format!("{}.exp_avg_sq", p.name), p.exp_avg_sq.shallow_clone()));
        }
        let mut problems = misfits(&wanted, state);
        let known: HashSet<&str> = wanted.iter().map(|(n, _)| n.as_str()).collect();
        let is_moment = |n: &str| n.ends_with(".exp_avg") || n.ends_with(".exp_avg_sq");
        let mut extra: Vec<_> = state.keys().filter(|n| is_moment(n) && !known.contains(n.as_str())).collect();
        extra.sort();
        problems.extend(extra.iter().map(|n| format!("extra {n}")));
        let steps = count("step", state, &mut problems);
        if !problems.is_empty() {
            return Err(OptimizerError::State(problems));
        }
        fill(&mut wanted, state)?;
        self.steps = steps;
        Ok(())
    }

    /// Makes the variables and their gradients views into the long tensors where they are not, and returns the
    /// stretches of parameters that have a gradient and learn alike.
    ///
    /// A gradient is there only after the first backward pass, in storage of its own; from then on libtorch adds to it
    /// in place. What somebody else gave new storage is taken over again in the same way.
    fn adopt(&mut self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut joins = false;
        for p in &mut self.parameters {
            move_into(&mut p.variable, &mut p.value);
            let mut gradient = p.variable.grad();
            if !gradient.defined() {
                joins = false;
                continue;
            }
            move_into(&mut gradient, &mut p.gradient);
            match runs.last_mut() {
                Some(run) if joins && run.rate == p.rate => {
                    run.span.length = p.span.start + p.span.length - run.span.start;
                }
                _ => runs.push(Run { span: p.span, rate: p.rate }),
            }
            joins = true;
        }
        runs
    }
}

/// Makes `tensor` share the storage of `view`, with the value that it has.
fn move_into(tensor: &mut Tensor, view: &mut Tensor) {
    if tensor.data_ptr() != view.data_ptr() {
        view.copy_(tensor);
        tensor.set_data(view);
    }
}

fn check_parameters(parameters: &[(String, Tensor)]) -> Result<Device, OptimizerError> {
    let fail = |what: String| Err(OptimizerError::Parameters(what));
    let Some((_, first)) = parameters.first() else {
        return fail("expected one parameter or more, found none".into());
    };
    let device = first.device();
    let mut names = HashSet::new();
    for (name, variable) in parameters {
        if !names.insert(name) {
            return fail(format!("the parameter {name} is there twice"));
        }
        if variable.kind() != Kind::Float {
            return fail(format!("{name}: expected float32, found {:?}", variable.kind()));
        }
        if variable.device() != device {
            return fail(format!("{name}: expected all parameters on {device:?}, found {:?}", variable.device()));
        }
    }
    Ok(device)
}

/// One line for every wanted tensor that `state` lacks or has in another shape.
fn misfits(wanted: &[(String, Tensor)], state: &HashMap<String, Tensor>) -> Vec<String> {
    let misfit = |(name, tensor): &(String, Tensor)| match state.get(name) {
        None => Some(format!("missing {name} {:?}", tensor.size())),
        Some(t) if t.size() != tensor.size() => {
            Some(format!("{name}: expected shape {:?}, found {:?}", tensor.size(), t.size()))
        }
        Some(t) if !t.is_floating_point() => {
            Some(format!("{name}: expected floating point numbers, found {:?}", t.kind()))
        }
        Some(_) => None,
    };
    wanted.iter().filter_map(misfit).collect()
}

/// The whole number `name`, 0 or more; 0 with a line in `problems` where it is not there.
fn count(name: &str, state: &HashMap<String, Tensor>, problems: &mut Vec<String>) -> i64 {
    let value = state.get(name).filter(|t| t.numel() == 1).map(|t| t.int64_value(&vec![0; t.dim()]));
    match value {
        Some(v) if v >= 0 => v,
        _ => {
            let found = value.map_or_else(|| "none".into(), |v| v.to_string());
            problems.push(format!("{name}: expected one whole number of 0 or more, found {found}"));
            0
        }
    }
}

/// Copies from `state` into tensors that [`misfits`] has checked.
fn fill(wanted: &mut [(String, Tensor)], state: &HashMap<String, Tensor>) -> Result<(), OptimizerError> {
    tch::no_grad(|| {
        for (name, tensor) in wanted {
            if let Some(source) = state.get(name) {
                let failed = |e| OptimizerError::State(vec![format!("{name}: {}", crate::causes::first_line(&e))]);
                tensor.f_copy_(source).map_err(failed)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Network, NetworkConfig, Task};
    use tch::nn::VarStore;

    const SHAPES: [&[i64]; 4] = [&[7], &[3, 4], &[2, 3, 3, 3], &[]];

    /// Must agree with `number` in tests/golden/make_optimizer.py.
    fn number(which: i64, step: i64, index: i64) -> f32 {
        ((index * 7 + step * 3 + which * 5) % 11 - 5) as f32 / 8.0
    }

    fn tensor(which: i64, step: i64) -> Tensor {
        let shape = SHAPES[which as usize];
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|i| number(which, step, i)).collect();
        Tensor::from_slice(&numbers).view(shape)
    }

    fn parameters() -> Vec<(String, Tensor)> {
        (0..SHAPES.len() as i64).map(|k| (format!("p{k}"), tensor(k, 0).set_requires_grad(true))).collect()
    }

    fn clones(parameters: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
        parameters.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect()
    }

    /// A backward pass whose gradients are the golden ones.
    fn backward(parameters: &[(String, Tensor)], step: i64) {
        let losses = parameters.iter().enumerate().map(|(k, (_, p))| (p * tensor(k as i64, step)).sum(Kind::Float));
        losses.reduce(|a, b| a + b).expect("parameters").backward();
    }

    fn learning_rate(step: i64) -> f64 {
        0.01 / step as f64
    }

    fn golden() -> HashMap<String, Tensor> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/optimizer.safetensors");
        Tensor::read_safetensors(path).expect("the golden values").into_iter().collect()
    }

    fn assert_close(found: &Tensor, expected: &Tensor, what: &str) {
        assert_eq!(found.size(), expected.size(), "{what}");
        let worst = ((found - expected).abs() / (expected.abs() + 1e-3)).max().double_value(&[]);
        assert!(worst < 2e-6, "{what}: differs by {worst:e}");
    }

    const RULES: [(&str, OptimizerConfig); 3] = [
        ("adam", OptimizerConfig { name: Rule::Adam, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }),
        ("adam decay", OptimizerConfig { name: Rule::Adam, betas: (0.8, 0.95), eps: 1e-6, weight_decay: 0.05 }),
        ("adamw decay", OptimizerConfig { name: Rule::AdamW, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 }),
    ];

    #[test]
    fn steps_are_pytorchs() {
        let golden = golden();
        for (kind, config) in RULES {
            let parameters = parameters();
            let mut optimizer = Optimizer::new(clones(&parameters), config).expect("an optimizer");
            for step in 1..=10 {
                backward(&parameters, step);
                optimizer.step(learning_rate(step));
                optimizer.zero_grad();
                if step != 1 && step != 10 {
                    continue;
                }
                for (name, p) in &parameters {
                    assert_close(p, &golden[&format!("{kind} {step} {name}")], &format!("{kind} {step} {name}"));
                }
            }
            for (name, t) in optimizer.state() {
                match name.as_str() {
                    "step" => assert_eq!(t.int64_value(&[]), 10),
                    _ => assert_close(&t, &golden[&format!("{kind} 10 {name}")], &name),
                }
            }
        }
    }

    #[test]
    fn a_parameter_learns_at_a_rate_of_its_own() {
        let steps = |rates: [f64; 4], rate: f64| {
            let parameters = parameters();
            let mut optimizer = Optimizer::new(clones(&parameters), RULES[2].1).expect("an optimizer");
            optimizer.set_rates(|name| rates[name[1..].parse::<usize>().expect("p0 to p3")]);
            for step in 1..=3 {
                backward(&parameters, step);
                optimizer.step(rate * learning_rate(step));
                optimizer.zero_grad();
            }
            parameters.iter().map(|(_, t)| t.detach().copy()).collect::<Vec<_>>()
        };
        let (own, slow, usual) = (steps([1.0, 0.1, 0.1, 1.0], 1.0), steps([1.0; 4], 0.1), steps([1.0; 4], 1.0));
        for k in 0..4 {
            let expected = if k == 1 || k == 2 { &slow[k] } else { &usual[k] };
            assert!(own[k].allclose(expected, 1e-6, 1e-7, false), "{k}");
        }
        assert_ne!(slow[1], usual[1]);
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_for_bit() {
        let run = |restart_at: Option<i64>| {
            let mut parameters = parameters();
            let mut optimizer = Optimizer::new(clones(&parameters), RULES[2].1).expect("an optimizer");
            for step in 1..=8 {
                backward(&parameters, step);
                optimizer.step(learning_rate(step));
                optimizer.zero_grad();
                if restart_at == Some(step) {
                    let state = optimizer.state().into_iter().collect();
                    parameters = parameters
                        .iter()
                        .map(|(n, t)| (n.clone(), t.detach().copy().set_requires_grad(true)))
                        .collect();
                    let mut in_another_order = clones(&parameters);
                    in_another_order.rotate_left(1);
                    optimizer = Optimizer::new(in_another_order, RULES[2].1).expect("an optimizer");
                    optimizer.load_state(&state).expect("its own state");
                }
            }
            parameters.iter().map(|(_, t)| t.detach().copy()).collect::<Vec<_>>()
        };
        let whole = run(None);
        assert_eq!(whole, run(Some(3)));
        assert_eq!(whole, run(Some(7)));
    }

    #[test]
    fn a_parameter_without_a_gradient_stays() {
        let parameters = parameters();
        let before: Vec<Tensor> = parameters.iter().map(|(_, t)| t.detach().copy()).collect();
        let mut optimizer = Optimizer::new(clones(&parameters), RULES[2].1).expect("an optimizer");
        // One and three get gradients, two others do not.
        let loss = (&parameters[1].1 * 2.0).sum(Kind::Float) + (&parameters[3].1 * 3.0).sum(Kind::Float);
        loss.backward();
        optimizer.step(0.1);
        for (k, (_, p)) in parameters.iter().enumerate() {
            assert_eq!(*p == before[k], k % 2 == 0, "parameter {k}");
        }
        let state: HashMap<_, _> = optimizer.state().into_iter().collect();
        assert_eq!(state["p0.exp_avg"].abs().max().double_value(&[]), 0.0);
        assert!((state["p1.exp_avg"].double_value(&[0, 0]) - 0.2).abs() < 1e-6);
        // Later they get one after all.
        backward(&parameters, 1);
        optimizer.step(0.1);
        assert!(parameters[0].1 != before[0] && parameters[2].1 != before[2]);
    }

    #[test]
    fn gradients_are_scaled_clipped_and_looked_at() {
        let parameters = parameters();
        let mut optimizer = Optimizer::new(clones(&parameters), OptimizerConfig::default()).expect("an optimizer");
        assert!(optimizer.gradients_are_finite(), "there are none yet");
        let loss = (&parameters[0].1 * 3.0).sum(Kind::Float) + &parameters[3].1 * 1.0;
        loss.backward();
        let gradient = |k: usize| parameters[k].1.grad().view([-1]).double_value(&[0]);
        optimizer.scale_gradients(2.0);
        assert_eq!((gradient(0), gradient(3)), (6.0, 2.0));
        // Seven sixes and a two: the norm is 16.
        assert_eq!(optimizer.clip_gradient_norm(4.0).double_value(&[]), 16.0);
        assert!((gradient(0) - 1.5).abs() < 1e-5 && (gradient(3) - 0.5).abs() < 1e-5);
        assert!((optimizer.clip_gradient_norm(100.0).double_value(&[]) - 4.0).abs() < 1e-5);
        assert!((gradient(0) - 1.5).abs() < 1e-5, "small enough gradients stay");
        // A second backward pass adds to the first (accumulation).
        (&parameters[0].1 * 1.0).sum(Kind::Float).backward();
        assert!((gradient(0) - 2.5).abs() < 1e-5);
        for bad in [f64::NAN, f64::INFINITY] {
            optimizer.zero_grad();
            assert!(optimizer.gradients_are_finite());
            assert_eq!((gradient(0), gradient(3)), (0.0, 0.0));
            (&parameters[3].1 * bad).backward();
            assert!(!optimizer.gradients_are_finite());
        }
    }

    #[test]
    fn the_network_and_its_store_see_the_steps() {
        let vs = VarStore::new(Device::Cpu);
        let network = Network::new(&vs.root(), &NetworkConfig::default());
        let parameters: Vec<_> = vs.variables().into_iter().filter(|(_, t)| t.requires_grad()).collect();
        let x = Tensor::ones([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        let scores = || network.forward_heads_t(&x, true).get(Task::Segmentation).expect("the head").shallow_clone();
        let before = tch::no_grad(scores);
        let mut optimizer = Optimizer::new(parameters, OptimizerConfig::default()).expect("an optimizer");
        let moved = tch::no_grad(scores);
        assert!(before.allclose(&moved, 1e-5, 1e-6, false), "taking over the storage changes no value");
        scores().square().mean(Kind::Float).backward();
        optimizer.step(1e-3);
        let after = tch::no_grad(scores);
        assert!(!before.allclose(&after, 1e-3, 1e-3, false), "the network computes with the new values");
        // Values written into the store, as loading weights does, are what the next step starts from.
        let mut bias = vs.variables().remove("decoder.seg.bias").expect("the head's bias");
        tch::no_grad(|| _ = bias.fill_(3.0));
        optimizer.zero_grad();
        optimizer.step(0.0);
        assert_eq!(vs.variables()["decoder.seg.bias"].double_value(&[0]), 3.0);
    }

    #[test]
    fn misfits_are_named_and_change_nothing() {
        let parameters = parameters();
        let mut optimizer = Optimizer::new(clones(&parameters), OptimizerConfig::default()).expect("an optimizer");
        let mut state: HashMap<_, _> = optimizer.state().into_iter().collect();
        tch::no_grad(|| state.values_mut().for_each(|t| _ = t.fill_(1.0)));
        let whole: HashMap<_, _> = state.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        state.remove("p0.exp_avg");
        state.insert("p1.exp_avg_sq".into(), Tensor::zeros([4, 3], (Kind::Float, Device::Cpu)));
        state.insert("other.exp_avg".into(), Tensor::zeros([1], (Kind::Float, Device::Cpu)));
        state.insert("step".into(), Tensor::from(-1_i64));
        let message = optimizer.load_state(&state).expect_err("it does not fit").to_string();
        for part in [
            "missing p0.exp_avg [7]",
            "p1.exp_avg_sq: expected shape [3, 4], found [4, 3]",
            "extra other.exp_avg",
            "step: expected one whole number of 0 or more, found -1",
        ] {
            assert!(message.contains(part), "'{part}' is not in: {message}");
        }
        let kept: HashMap<_, _> = optimizer.state().into_iter().collect();
        assert_eq!(kept["p2.exp_avg"].abs().max().double_value(&[]), 0.0, "nothing was loaded");
        optimizer.load_state(&whole).expect("fits");
        assert_eq!(optimizer.steps, 1);
    }

    #[test]
    fn wrong_parameters_and_values_are_refused() {
        let refuse = |parameters, config| Optimizer::new(parameters, config).expect_err("is refused").to_string();
        let twice = || vec![("a".to_string(), Tensor::from(1.0_f32)), ("a".to_string(), Tensor::from(1.0_f32))];
        assert!(refuse(vec![], OptimizerConfig::default()).contains("found none"));
        assert!(refuse(twice(), OptimizerConfig::default()).contains("the parameter a is there twice"));
        let double = vec![("a".to_string(), Tensor::from(1.0_f64))];
        assert!(refuse(double, OptimizerConfig::default()).contains("a: expected float32, found Double"));
        let config = OptimizerConfig { betas: (0.9, 1.0), ..OptimizerConfig::default() };
        assert!(refuse(twice(), config).contains("optimizer.betas: expected 0 <= beta < 1, found 1"));
        let config = OptimizerConfig { eps: 0.0, ..OptimizerConfig::default() };
        assert!(refuse(twice(), config).contains("optimizer.eps: expected a number above 0, found 0"));
    }
}

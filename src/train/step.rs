//! One pass over a batch, forwards and backwards.

use super::objective::{Loss, Objective};
use super::packed::Batch;
use super::quarter::QuarterStage;
use crate::model::{Answers, Network, QuarterFactors};
use tch::{Kind, Tensor};

/// Adds the gradients of `scale` times the batch's loss to the variables'; returns the loss.
///
/// With a `stage` the 1/4 stage is computed there and not by libtorch's operators: the same numbers to rounding, of a network
/// that has this stage.
pub fn pass(
    network: &Network,
    objective: &Objective,
    stage: Option<&QuarterStage>,
    batch: &Batch,
    kind: Kind,
    scale: f64,
) -> Result<Loss, tch::TchError> {
    let images = batch.images.to_kind(kind);
    if let (Some(stage), Some(factors)) = (stage, network.quarter_factors()) {
        if let Some(x) = network.forward_before_quarter_t(&images, true) {
            return around(network, objective, stage, &factors, &x, batch, scale);
        }
    }
    Ok(backwards(judge(network, objective, &network.forward_unrefined_t(&images, true), batch), scale))
}

/// As [`pass`], for the variables of the network's refinement alone: `before` answers what it refines.
pub fn refinement_pass(
    network: &Network,
    before: &Network,
    objective: &Objective,
    stage: Option<&QuarterStage>,
    batch: &Batch,
    scale: f64,
) -> Result<Loss, tch::TchError> {
    let answers = tch::no_grad(|| unrefined(before, stage, &batch.images))?;
    Ok(backwards(objective.loss(&network.refined(&answers).unwrap_or(answers), None, batch), scale))
}

/// Loss of the heads' answers, with their depth refined where the network does so.
fn judge(network: &Network, objective: &Objective, answers: &Answers, batch: &Batch) -> Loss {
    match network.refined(answers) {
        Some(refined) => objective.loss(&refined, Some(answers), batch),
        None => objective.loss(answers, None, batch),
    }
}

fn backwards(loss: Loss, scale: f64) -> Loss {
    if loss.total.requires_grad() {
        (&loss.total * scale).backward();
    }
    loss
}

/// What the heads answer, with batch norm as in use.
fn unrefined(network: &Network, stage: Option<&QuarterStage>, images: &Tensor) -> Result<Answers, tch::TchError> {
    if let (Some(stage), Some(factors)) = (stage, network.quarter_factors()) {
        if let Some(x) = network.forward_before_quarter_t(images, false) {
            let maps = stage.forward(&x, &rows(&factors.scales), &rows(&factors.heads))?;
            return Ok(network.forward_after_quarter(&maps));
        }
    }
    Ok(network.forward_unrefined_t(images, false))
}

/// Variables of so many numbers each as one table.
fn rows(variables: &[Tensor]) -> Tensor {
    Tensor::stack(&variables.iter().map(|v| v.view([-1])).collect::<Vec<_>>(), 0)
}

/// The pass from the 1/4 stage on. libtorch differentiates what comes before it and what comes after it; the stage's own
/// gradients go from one to the other.
fn around(
    network: &Network,
    objective: &Objective,
    stage: &QuarterStage,
    factors: &QuarterFactors,
    x: &Tensor,
    batch: &Batch,
    scale: f64,
) -> Result<Loss, tch::TchError> {
    let (scales, heads) = (rows(&factors.scales), rows(&factors.heads));
    let maps = stage.forward(x, &scales, &heads)?;
    let maps: Vec<Tensor> = maps.into_iter().map(|map| map.set_requires_grad(true)).collect();
    let loss = backwards(judge(network, objective, &network.forward_after_quarter(&maps), batch), scale);
    if !loss.total.requires_grad() {
        return Ok(loss);
    }
    // A head without a loss pulls at nothing.
    let pulls = maps.iter().map(|map| Some(map.grad()).filter(Tensor::defined).unwrap_or_else(|| map.zeros_like()));
    let gradients = stage.backward(x, &scales, &heads, &pulls.collect::<Vec<_>>())?;
    // The gradient of the sum of `t * g` by `t` is `g`: that is how libtorch is told to go on from here.
    let product = |t: &Tensor, g: &Tensor| (t * g).sum(Kind::Float);
    let total = product(&scales, &gradients.scales) + product(&heads, &gradients.factors) + product(x, &gradients.x);
    total.backward();
    Ok(loss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::source::Groups;
    use crate::model::seeded;
    use crate::train::config::{LabelSpace, TrainConfig};
    use crate::train::labels::LabelTable;
    use std::collections::BTreeMap;
    use tch::nn::VarStore;
    use tch::Device;

    fn gradients(vs: &VarStore) -> BTreeMap<String, Tensor> {
        let trained = vs.variables().into_iter().filter(|(_, v)| v.grad().defined());
        trained
            .map(|(name, v)| {
                let gradient = v.grad().copy();
                let _ = v.grad().zero_();
                (name, gradient)
            })
            .collect()
    }

    /// A network with some heads, its loss and a batch for it.
    fn prepared(heads: &str, more: &str) -> (VarStore, Network, Objective, Batch) {
        let text = format!(
            "sources: [{{name: a, data: {{layout: cityscapes, root: x}}}}]\nphases: []\nheads: {heads}\n\
             {more}\n"
        );
        let config: TrainConfig = serde_yaml::from_str(&text).expect("a configuration");
        let (vs, extra) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let network = Network::new(&vs.root(), &config.network());
        // As it starts, a refinement pulls at nothing before its last layer.
        seeded::start(&vs, 4, |name| (name == "refinement.last.weight").then_some([-0.1, 0.1]));
        let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
        let objective = Objective::new(&extra.root(), &config, &table, &[], Device::Cpu);
        let batch = Batch {
            images: seeded::uniform(1, &[2, 3, 64, 96], [-2.0, 2.0]),
            labels: seeded::uniform(2, &[2, 32, 48], [0.0, 19.0]).to_kind(Kind::Int64),
            depth: seeded::uniform(3, &[2, 32, 48], [0.0, 1.0]),
            judged_to: Tensor::from_slice(&[0.8_f32, 0.9]).view([2, 1, 1]),
            normals: None,
            edges: None,
        };
        (vs, network, objective, batch)
    }

    /// Losses and gradients of a network with some heads, by libtorch's operators and around the stage.
    fn compare(heads: &str, more: &str) {
        let (vs, network, objective, batch) = prepared(heads, more);
        let stage = QuarterStage::new(Device::Cpu, Kind::Float).expect("a processor");
        let one = |stage| {
            let loss = pass(&network, &objective, stage, &batch, Kind::Float, 0.5).expect("a pass");
            (loss.total.double_value(&[]), gradients(&vs))
        };
        let ((loss, expected), (around, found)) = (one(None), one(Some(&stage)));
        assert!((loss - around).abs() < 1e-4 * loss, "{loss} and {around}");
        let norm = |t: &Tensor| t.norm().double_value(&[]);
        // What nothing pulls at has no gradient there and one of 0 here.
        assert!(expected.len() > 100 && expected.keys().all(|name| found.contains_key(name)));
        assert!(found.iter().all(|(name, t)| expected.contains_key(name) || norm(t) == 0.0));
        // Next to nothing pulls at some variables: what differs is measured by the largest of all gradients too.
        let largest = expected.values().map(norm).fold(0.0, f64::max);
        for (name, expected) in &expected {
            let off = norm(&(&found[name] - expected));
            assert!(off < 2e-3 * norm(expected) + 1e-5 * largest, "{name}: {off} of {}", norm(expected));
        }
    }

    #[test]
    fn the_stage_changes_no_gradient() {
        compare("[{task: segmentation}, {task: depth, loss: berhu}]", "");
        compare("[{task: segmentation}, {task: depth, loss: relative}]", "refinement: joint");
        compare("[{task: depth}]", "");
        compare("[{task: segmentation}, {task: depth}]", "extra_light: true");
    }

    /// Half precision, as it trains on CUDA, with the loss scaled by what a run starts with: on a processor the same operators
    /// are there, only slow.
    #[test]
    fn half_precision_pulls_as_single_precision_does() {
        let (vs, network, objective, batch) =
            prepared("[{task: segmentation}, {task: depth, loss: relative}]", "refinement: joint");
        let one = |kind, scale| {
            let loss = pass(&network, &objective, None, &batch, kind, scale).expect("a pass");
            (loss.total.double_value(&[]), gradients(&vs))
        };
        let (loss, expected) = one(Kind::Float, 1.0);
        // As a run does: halved until nothing overflows.
        let is_finite =
            |gradients: &BTreeMap<String, Tensor>| gradients.values().all(|t| t.isfinite().all().int64_value(&[]) != 0);
        let tried = std::iter::successors(Some(65536.0), |scale| Some(scale / 2.0)).take(16);
        let mut answers = tried.map(|scale| (scale, one(Kind::Half, scale)));
        let (scale, (half, found)) =
            answers.find(|(_, (_, found))| is_finite(found)).expect("a scale without overflow");
        assert!((loss - half).abs() < 1e-2 * loss, "{loss} and {half}");
        let flat = |gradients: &BTreeMap<String, Tensor>, by: f64| {
            assert!(gradients.len() > 100 && gradients.values().all(|t| t.kind() == Kind::Float));
            let parts: Vec<Tensor> = gradients.values().map(|t| t.view([-1]) / by).collect();
            Tensor::cat(&parts, 0).to_kind(Kind::Double)
        };
        let (expected, found) = (flat(&expected, 1.0), flat(&found, scale));
        let norm = |t: &Tensor| t.norm().double_value(&[]);
        let cosine = (&expected * &found).sum(Kind::Double).double_value(&[]) / (norm(&expected) * norm(&found));
        assert!(cosine > 0.995, "{cosine}");
        assert!((norm(&found) / norm(&expected) - 1.0).abs() < 0.05, "{} and {}", norm(&found), norm(&expected));
    }

    /// The batch has no normals, so nothing pulls at that head.
    #[test]
    fn a_head_without_truth_pulls_at_nothing() {
        compare("[{task: segmentation}, {task: normals}]", "");
    }
}

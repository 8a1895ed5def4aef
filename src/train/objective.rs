//! What a step makes smaller: the heads' losses, added up.

use super::config::{DepthLoss, Refinement, TrainConfig, Weighting};
use super::labels::LabelTable;
use super::losses;
use super::packed::Batch;
use crate::model::{Answers, Task};
use tch::nn::Path;
use tch::{Device, Tensor};

/// The loss of a run's heads.
#[derive(Debug)]
pub struct Objective {
    heads: Vec<Head>,
    /// For labels that may stand for several channels.
    groups: Option<losses::Groups>,
}

#[derive(Debug)]
struct Head {
    task: Task,
    weight: f64,
    depth_loss: DepthLoss,
    /// Of depth that is farther than it is judged.
    far_weight: f64,
    /// Of a frame's median error of depth.
    level_weight: f64,
    /// Weight of the soft Jaccard loss, and what it needs to know.
    jaccard: Option<(f64, losses::Overlaps)>,
    /// Of each channel, or of each label code where there are groups.
    class_weights: Option<Tensor>,
    /// Logarithm of the task's variance, learned.
    log_variance: Option<Tensor>,
}

/// Loss of a batch.
#[derive(Debug)]
pub struct Loss {
    /// What is differentiated.
    pub total: Tensor,
    /// Of each head, in the configuration's order, before weighting.
    pub parts: Vec<(Task, Tensor)>,
}

impl Objective {
    /// `frequencies` of the segmentation's channels are needed where classes are weighed. What is learned here is
    /// registered under `p`.
    pub fn new(p: &Path, config: &TrainConfig, table: &LabelTable, frequencies: &[f64], device: Device) -> Self {
        let class_weights = || {
            let w = class_weights(frequencies);
            let weights = if table.has_groups() { grouped(&w, table.members()) } else { w };
            Tensor::from_slice(&weights).to_device(device)
        };
        let head = |h: &super::config::HeadConfig| Head {
            task: h.task,
            weight: h.weight,
            depth_loss: h.loss,
            far_weight: h.far_weight,
            level_weight: h.level_weight,
            jaccard: (h.jaccard > 0.0).then(|| (h.jaccard, overlaps(table, device))),
            class_weights: h.class_weights.then(class_weights),
            log_variance: (config.weighting == Weighting::Uncertainty)
                .then(|| p.zeros(&format!("log_variance_{}", h.task.name()), &[])),
        };
        // Where nothing else learns, nothing else has a loss.
        let learns = |h: &&super::config::HeadConfig| config.refinement != Refinement::Alone || h.task == Task::Depth;
        Self {
            heads: config.heads.iter().filter(learns).map(head).collect(),
            groups: table.has_groups().then(|| losses::Groups::new(table.members(), device)),
        }
    }

    /// Loss of the network's answers to a batch, enlarged to where the batch has its truth. A task of which the batch has no
    /// truth adds nothing.
    ///
    /// The depth `before` its refinement has the same loss besides, so that the weights are of use without the refinement
    /// and what is refined does not drift.
    pub fn loss(&self, answers: &Answers, before: Option<&Answers>, batch: &Batch) -> Loss {
        let plane = batch.labels.size();
        let mut total: Option<Tensor> = None;
        let mut parts = Vec::new();
        for head in &self.heads {
            let part_of = |answers: &Answers| {
                let answer = answers.get_resized(head.task, plane[1], plane[2])?;
                self.part(head, &answer, batch)
            };
            let Some(part) = part_of(answers) else { continue };
            let loss = match before.filter(|_| head.task == Task::Depth).and_then(part_of) {
                Some(early) => &part + early,
                None => part.shallow_clone(),
            };
            let weighed = match &head.log_variance {
                Some(s) => losses::uncertain(&loss, s, head.task != Task::Segmentation && head.task != Task::Edges),
                None => loss,
            } * head.weight;
            total = Some(match total {
                Some(sum) => sum + weighed,
                None => weighed,
            });
            parts.push((head.task, part.detach()));
        }
        let total = total.unwrap_or_else(|| Tensor::from(0.0_f32));
        Loss { total, parts }
    }

    fn part(&self, head: &Head, answer: &Tensor, batch: &Batch) -> Option<Tensor> {
        let weights = head.class_weights.as_ref();
        match head.task {
            Task::Segmentation => {
                let loss = match &self.groups {
                    Some(groups) => losses::segmentation_grouped(answer, &batch.labels, groups, weights),
                    None => losses::segmentation(answer, &batch.labels, weights),
                };
                Some(match &head.jaccard {
                    Some((weight, overlaps)) => loss + losses::soft_jaccard(answer, &batch.labels, overlaps) * *weight,
                    None => loss,
                })
            }
            Task::Depth => {
                let mut weights = weights.map(|w| losses::pixel_weights(&batch.labels, w));
                if head.far_weight < 1.0 {
                    let by_distance = losses::distance_weights(&batch.depth, &batch.judged_to, head.far_weight);
                    weights = Some(weights.map_or_else(|| by_distance.shallow_clone(), |w| w * &by_distance));
                }
                let weights = weights.as_ref();
                let level = head.level_weight;
                let levelled = || losses::levelled(answer, &batch.depth, &batch.judged_to, weights, level);
                let answer = &if head.level_weight < 1.0 { levelled() } else { answer.shallow_clone() };
                Some(match head.depth_loss {
                    DepthLoss::Squared => losses::depth(answer, &batch.depth, weights),
                    DepthLoss::Berhu => losses::berhu(answer, &batch.depth, weights),
                    DepthLoss::Relative => losses::relative(answer, &batch.depth, weights),
                })
            }
            Task::Normals => batch.normals.as_ref().map(|truth| losses::normals(answer, truth)),
            Task::Edges => batch.edges.as_ref().map(|truth| losses::edges(answer, truth)),
        }
    }
}

/// Of what [`LabelTable::index`] gives.
fn overlaps(table: &LabelTable, device: Device) -> losses::Overlaps {
    let channels = table.channels();
    if table.has_groups() {
        return losses::Overlaps::new(table.members(), channels, device);
    }
    // The last channel is "unlabelled" and never a truth.
    let single = |c: usize| if c + 1 < channels { vec![c as u8] } else { Vec::new() };
    losses::Overlaps::new(&(0..channels).map(single).collect::<Vec<_>>(), channels, device)
}

/// `1 / ln(1.1 + frequency)` (after ENet, Paszke et al. 2016) of each channel; 0 for the last one, "unlabelled".
fn class_weights(frequencies: &[f64]) -> Vec<f32> {
    let mut w: Vec<f32> = frequencies.iter().map(|f| (1.0 / (1.1 + f).ln()) as f32).collect();
    if let Some(last) = w.last_mut() {
        *last = 0.0;
    }
    w
}

/// The weight of a label code is the mean of its channels' weights.
fn grouped(channels: &[f32], members: &[Vec<u8>]) -> Vec<f32> {
    let mean = |m: &Vec<u8>| m.iter().map(|&c| channels[usize::from(c)]).sum::<f32>() / m.len().max(1) as f32;
    members.iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::augment::{self, AugmentConfig, CropSize};
    use crate::data::frame::Decoded;
    use crate::data::source::Groups;
    use crate::data::street::{Drive, DriveConfig};
    use crate::model::{seeded, Network, NetworkConfig};
    use crate::train::config::LabelSpace;
    use crate::train::optimizer::{Optimizer, OptimizerConfig};
    use crate::train::packed::collate;
    use rand::SeedableRng as _;
    use tch::nn::VarStore;
    use tch::Kind;

    fn batch(table: &LabelTable, tasks: &[Task]) -> Batch {
        let frame = |seed| {
            let frame = Drive::new(&DriveConfig::new(seed, 1, 128, 64)).frame(0, false);
            Decoded {
                width: 128,
                height: 64,
                rgb: frame.left.into_raw(),
                labels: Some(frame.labels),
                depth_m: Some(frame.depth_m),
                focal_px: Some((70.0, 70.0)),
                principal_px: None,
            }
        };
        let size = CropSize { size: (128, 64), scale: (1.0, 1.0), stride: 4 };
        let mut rng = rand_pcg::Pcg32::seed_from_u64(0);
        let still = AugmentConfig::default().still();
        let crops: Vec<_> = (0..2).map(|seed| augment::crop(&frame(seed), &size, &still, &mut rng)).collect();
        collate(&crops, &size, table, tasks)
    }

    /// Every head learns, and the gradient reaches the encoder's first convolution: the article's published code wraps
    /// the skips into parameters anew and so cuts the encoder off.
    #[test]
    fn a_few_steps_lower_every_loss_and_reach_the_first_convolution() {
        let text = "sources: [{name: a, data: {layout: cityscapes, root: x}}]\nphases: []\n\
                    heads: [{task: segmentation}, {task: depth}, {task: normals}, {task: edges}]\n";
        let config: TrainConfig = serde_yaml::from_str(text).expect("a configuration");
        let (vs, extra) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let network = Network::new(&vs.root(), &config.network());
        seeded::start(&vs, 3, |name| name.ends_with("bias").then_some([-0.05, 0.05]));
        let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
        let objective = Objective::new(&extra.root(), &config, &table, &[], Device::Cpu);
        let batch = batch(&table, &Task::ALL);
        let trained = vs.variables().into_iter().filter(|(_, t)| t.requires_grad()).collect();
        let mut optimizer = Optimizer::new(trained, OptimizerConfig::default()).expect("an optimiser");
        let first = vs.variables()["encoder.backbone.0.0.weight"].shallow_clone();
        let mut history: Vec<Vec<f64>> = Vec::new();
        for _ in 0..40 {
            optimizer.zero_grad();
            let loss = objective.loss(&network.forward_heads_t(&batch.images, true), None, &batch);
            loss.total.backward();
            history.push(loss.parts.iter().map(|(_, t)| t.double_value(&[])).collect());
            let gradient = first.grad().abs().sum(Kind::Float).double_value(&[]);
            assert!(gradient > 0.0, "the encoder's first convolution gets no gradient");
            optimizer.step(1e-3);
        }
        for (head, task) in Task::ALL.iter().enumerate() {
            let first = history[0][head];
            // Single steps go up and down.
            let last: f64 = history[30..].iter().map(|losses| losses[head] / 10.0).sum();
            assert!(last < 0.96 * first, "the {} loss went from {first} to {last}: {history:?}", task.name());
        }
    }

    #[test]
    fn depth_has_its_loss_before_and_after_its_refinement() {
        let text = "sources: [{name: a, data: {layout: cityscapes, root: x}}]\nphases: []\nrefinement: joint\n\
                    heads: [{task: segmentation}, {task: depth, weight: 3}]\n";
        let config: TrainConfig = serde_yaml::from_str(text).expect("a configuration");
        let (vs, extra) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let network = Network::new(&vs.root(), &config.network());
        seeded::start(&vs, 3, |name| (name == "refinement.last.weight").then_some([-0.2, 0.2]));
        let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
        let objective = Objective::new(&extra.root(), &config, &table, &[], Device::Cpu);
        let batch = batch(&table, &Task::ALL);
        let before = tch::no_grad(|| network.forward_unrefined_t(&batch.images, true));
        let after = tch::no_grad(|| network.refined(&before)).expect("it refines");
        let loss = |answers, before| {
            let loss = objective.loss(answers, before, &batch);
            (loss.total.double_value(&[]), loss.parts.iter().map(|(_, t)| t.double_value(&[])).collect::<Vec<_>>())
        };
        let ((both, parts), (first, parts_before), (last, parts_after)) =
            (loss(&after, Some(&before)), loss(&before, None), loss(&after, None));
        assert!(parts_before[1] != parts_after[1], "it changes something");
        assert!((both - (last + 3.0 * parts_before[1])).abs() < 1e-5 * both);
        assert!((both - (first + 3.0 * parts_after[1])).abs() < 1e-5 * both);
        assert_eq!(parts, parts_after);
    }

    #[test]
    fn bf16_computes_the_same_to_its_precision() {
        let vs = VarStore::new(Device::Cpu);
        let network = Network::new(&vs.root(), &NetworkConfig::default());
        seeded::start(&vs, 1, |_| None);
        let x = seeded::uniform(2, &[1, 3, 64, 64], [-2.0, 2.0]);
        let scores = |x: &Tensor| {
            let answers = network.forward_heads_t(x, true);
            answers.get(Task::Segmentation).map(|t| t.to_kind(Kind::Float)).expect("a head")
        };
        let (a, b) = tch::no_grad(|| (scores(&x), scores(&x.to_kind(Kind::BFloat16))));
        let difference = (&a - &b).norm().double_value(&[]) / a.norm().double_value(&[]);
        assert!(difference < 0.06, "relative difference {difference}");
    }

    #[test]
    fn rare_classes_weigh_more_and_unlabelled_nothing() {
        let w = class_weights(&[0.9, 0.1, 0.0]);
        assert!(w[1] > w[0] && w[2] == 0.0);
        assert!((w[0] - 1.0 / 2.0_f32.ln()).abs() < 1e-6);
        assert_eq!(grouped(&w, &[vec![0], vec![0, 1], vec![]]), [w[0], (w[0] + w[1]) / 2.0, 0.0]);
    }
}

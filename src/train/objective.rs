//! What a step makes smaller: the heads' losses, added up.

use super::batches::Batch;
use super::config::{DepthLoss, TrainConfig, Weighting};
use super::labels::LabelTable;
use super::losses;
use crate::model::{Answers, Task};
use tch::nn::Path;
use tch::{Device, Tensor};

/// The loss of a run's heads.
#[derive(Debug)]
pub struct Objective {
    heads: Vec<Head>,
    /// For labels that may stand for several channels.
    groups: Option<Tensor>,
}

#[derive(Debug)]
struct Head {
    task: Task,
    weight: f64,
    depth_loss: DepthLoss,
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
            class_weights: (h.class_weights && h.task == Task::Segmentation).then(class_weights),
            log_variance: (config.weighting == Weighting::Uncertainty)
                .then(|| p.zeros(&format!("log_variance_{}", h.task.name()), &[])),
        };
        Self {
            heads: config.heads.iter().map(head).collect(),
            groups: table.has_groups().then(|| table.groups().to_device(device)),
        }
    }

    /// Loss of the network's answers to a batch. A task of which the batch has no truth adds nothing.
    pub fn loss(&self, answers: &Answers, batch: &Batch) -> Loss {
        let mut total: Option<Tensor> = None;
        let mut parts = Vec::new();
        for head in &self.heads {
            let Some(answer) = answers.get(head.task) else { continue };
            let Some(part) = self.part(head, answer, batch) else { continue };
            let weighed = match &head.log_variance {
                Some(s) => losses::uncertain(&part, s, head.task != Task::Segmentation && head.task != Task::Edges),
                None => part.shallow_clone(),
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
            Task::Segmentation => Some(match &self.groups {
                Some(groups) => losses::segmentation_grouped(answer, &batch.labels, groups, weights),
                None => losses::segmentation(answer, &batch.labels, weights),
            }),
            Task::Depth => Some(match head.depth_loss {
                DepthLoss::Squared => losses::depth(answer, &batch.depth),
                DepthLoss::Berhu => losses::berhu(answer, &batch.depth),
            }),
            Task::Normals => batch.normals.as_ref().map(|truth| losses::normals(answer, truth)),
            Task::Edges => batch.edges.as_ref().map(|truth| losses::edges(answer, truth)),
        }
    }
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

    #[test]
    fn rare_classes_weigh_more_and_unlabelled_nothing() {
        let w = class_weights(&[0.9, 0.1, 0.0]);
        assert!(w[1] > w[0] && w[2] == 0.0);
        assert!((w[0] - 1.0 / 2.0_f32.ln()).abs() < 1e-6);
        assert_eq!(grouped(&w, &[vec![0], vec![0, 1], vec![]]), [w[0], (w[0] + w[1]) / 2.0, 0.0]);
    }
}

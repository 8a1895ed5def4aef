//! The tasks' losses: the article's two, and what else may be chosen.
//!
//! All are computed in float32 whatever the network computes in, as means over the pixels whose truth is known. Where
//! no truth is known a loss is 0 and pulls at nothing.

use crate::data::depth::LOG_SCALE;
use tch::{Device, Kind, Reduction, Tensor};

/// Below this a sum of weights counts as nothing.
const NO_WEIGHT: f64 = 1e-12;
/// The inverse Huber loss changes from linear to square at this share of the batch's largest error (Laina et al. 2016).
const BERHU_SHARE: f64 = 0.2;
/// No error is this small: keeps the inverse Huber loss and lengths of vectors away from a division by 0.
const TINY: f64 = 1e-6;

/// Cross entropy, mean over the pixels (weighted, where `weights` `[C]` are given).
///
/// # Shapes
/// `scores` `[B, C, h, w]`, `labels` `[B, h, w]` int64 class indices; a negative label does not count.
pub fn segmentation(scores: &Tensor, labels: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let known = labels.ge(0);
    let ignored = -100;
    let labels = labels.where_scalarother(&known, ignored);
    let sum = scores.to_kind(Kind::Float).cross_entropy_loss(&labels, weights, Reduction::Sum, ignored, 0.0);
    sum / weight_of(&labels, &known, weights).sum(Kind::Float).clamp_min(NO_WEIGHT)
}

/// Weight of each pixel: 0 where the label is not known.
fn weight_of(labels: &Tensor, known: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let known = known.to_kind(Kind::Float);
    match weights {
        Some(weights) => weights.take(&labels.clamp_min(0)) * known,
        None => known,
    }
}

/// What labels mean that may say "one of these classes".
#[derive(Debug)]
pub struct Groups {
    /// `[G, M]` int64: the classes of each group; shorter groups are filled up with class 0.
    members: Tensor,
    /// `[G, M]` float32: 0 for a member, minus infinity for what fills up.
    log_member: Tensor,
    /// `[G]` bool: whether there are members.
    counts: Tensor,
}

impl Groups {
    /// From the classes of each group; a group without any does not count.
    pub fn new(groups: &[Vec<u8>], device: Device) -> Self {
        let most = groups.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let at = |of: &dyn Fn(Option<&u8>) -> f32| {
            let values: Vec<f32> = groups.iter().flat_map(|g| (0..most).map(|i| of(g.get(i)))).collect();
            Tensor::from_slice(&values).view([groups.len() as i64, most as i64]).to_device(device)
        };
        let counts: Vec<bool> = groups.iter().map(|g| !g.is_empty()).collect();
        Self {
            members: at(&|class| class.copied().map_or(0.0, f32::from)).to_kind(Kind::Int64),
            log_member: at(&|class| if class.is_some() { 0.0 } else { f32::NEG_INFINITY }),
            counts: Tensor::from_slice(&counts).to_device(device),
        }
    }
}

/// Cross entropy where a label may say "one of these classes": `-ln` of the sum of their probabilities, weighted mean
/// over the pixels. Where each group is a single class this is [`segmentation`].
///
/// # Shapes
/// `scores` `[B, C, h, w]`; `labels` `[B, h, w]` int64 indices of groups, a negative one does not count; `weights` `[G]`.
pub fn segmentation_grouped(scores: &Tensor, labels: &Tensor, groups: &Groups, weights: Option<&Tensor>) -> Tensor {
    let index = labels.clamp_min(0);
    let known = labels.ge(0).logical_and(&groups.counts.take(&index));
    let log_probability = scores.to_kind(Kind::Float).log_softmax(1, Kind::Float);
    // Only the members' values are taken out: over all classes the sum would cost several passes over the scores.
    let members = log_probability.gather(1, &rows_at(&groups.members, &index), false);
    // Where nothing is known, 0 stands for what fills up too: minus infinity has no gradient that is a number.
    let fill = rows_at(&groups.log_member, &index);
    let fill = fill.where_scalarother(&known.unsqueeze(1), 0.0);
    let loss = -(members + fill).logsumexp([1_i64].as_slice(), false);
    let weight = weight_of(labels, &known, weights);
    (loss * &weight).sum(Kind::Float) / weight.sum(Kind::Float).clamp_min(NO_WEIGHT)
}

/// The rows of a table `[G, M]` at `[B, h, w]` indices, as `[B, M, h, w]`.
fn rows_at(table: &Tensor, index: &Tensor) -> Tensor {
    let mut size = index.size();
    size.push(table.size()[1]);
    table.index_select(0, &index.reshape([-1])).view(size.as_slice()).permute([0, 3, 1, 2])
}

/// Which classes the labels mean, for [`soft_jaccard`].
#[derive(Debug)]
pub struct Overlaps {
    /// `[G, C]` float32: 1 where a label means a class.
    members: Tensor,
    /// `[G, G]` float32: 1 where two labels have no class in common and both mean something.
    disjoint: Tensor,
}

impl Overlaps {
    /// From the classes of each label, of `classes` channels; a label without any does not count.
    pub fn new(labels: &[Vec<u8>], classes: usize, device: Device) -> Self {
        let n = labels.len();
        let mut members = vec![0.0_f32; n * classes];
        let mut disjoint = vec![0.0_f32; n * n];
        for (i, of_label) in labels.iter().enumerate() {
            of_label.iter().for_each(|&class| members[i * classes + usize::from(class)] = 1.0);
            for (j, other) in labels.iter().enumerate() {
                let apart = !of_label.is_empty() && !other.is_empty() && !of_label.iter().any(|c| other.contains(c));
                disjoint[i * n + j] = f32::from(u8::from(apart));
            }
        }
        let table = |values: &[f32], columns: usize| {
            Tensor::from_slice(values).view([n as i64, columns as i64]).to_kind(Kind::Float).to_device(device)
        };
        Self { members: table(&members, classes), disjoint: table(&disjoint, n) }
    }
}

/// The soft confusion matrix `[label, class]`: sums of the classes' probabilities over each of `n` labels' pixels, taken of
/// each picture in `parts` parts, which divide its pixels.
fn soft_confusion(scores: &Tensor, labels: &Tensor, n: i64, parts: i64) -> Tensor {
    let size = scores.size();
    let (all, classes, pixels) = (size[0] * parts, size[1], size[2] * size[3] / parts);
    let probability = scores.to_kind(Kind::Float).softmax(1, Kind::Float);
    let probability = probability.reshape([size[0], classes, parts, pixels]).transpose(1, 2);
    let probability = probability.reshape([all, classes, pixels]);
    // One more row takes what is not known.
    let rows = labels.where_scalarother(&labels.ge(0), n).reshape([all, 1, pixels]);
    let truth = Tensor::zeros([all, n + 1, pixels], (Kind::Float, scores.device()));
    let truth = truth.scatter_value(1, &rows, 1.0).narrow(1, 0, n);
    truth.bmm(&probability.transpose(1, 2)).sum_dim_intlist([0_i64].as_slice(), false, Kind::Float)
}

/// One minus the soft IoU of the batch, mean over the labels that occur (Rahman & Wang 2016): intersection and union are
/// those of probabilities. Pixels of a label that shares a class with another one do not count as errors of that other.
///
/// # Shapes
/// As in [`segmentation_grouped`].
pub fn soft_jaccard(scores: &Tensor, labels: &Tensor, overlaps: &Overlaps) -> Tensor {
    // The product of few rows and columns over all pixels of a picture: a GPU, which would leave it to a few of its
    // processors, takes it row by row of the picture.
    let parts = if scores.device().is_cuda() { scores.size()[2] } else { 1 };
    let confusion = soft_confusion(scores, labels, overlaps.members.size()[0], parts);
    let over = |t: Tensor, dimension: i64| t.sum_dim_intlist([dimension].as_slice(), false, Kind::Float);
    let meant = &overlaps.members;
    let hit = over(&confusion * meant, 1);
    let wrong = over(confusion.matmul(&meant.transpose(0, 1)) * &overlaps.disjoint, 0);
    let pixels = over(confusion.detach(), 1);
    let iou = hit / (&pixels + wrong).clamp_min(NO_WEIGHT);
    let occurs = pixels.gt(0.5).logical_and(&over(meant.shallow_clone(), 1).gt(0.0)).to_kind(Kind::Float);
    let lost: Tensor = (1.0 - iou) * &occurs;
    lost.sum(Kind::Float) / occurs.sum(Kind::Float).clamp_min(1.0)
}

/// Mean of `values` over the `known` pixels; 0 where there is none.
fn mean_where(values: &Tensor, known: &Tensor) -> Tensor {
    let known = known.to_kind(Kind::Float);
    (values * &known).sum(Kind::Float) / known.sum(Kind::Float).clamp_min(1.0)
}

/// As [`mean_where`], weighted where weights are given.
fn weighted_mean_where(values: &Tensor, known: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let Some(weights) = weights else { return mean_where(values, known) };
    let weights = weights * known.to_kind(Kind::Float);
    (values * &weights).sum(Kind::Float) / weights.sum(Kind::Float).clamp_min(NO_WEIGHT)
}

/// Difference of a depth code to the truth, 0 where the truth is NaN, and where it is not.
fn code_error(predicted: &Tensor, truth: &Tensor) -> (Tensor, Tensor) {
    let known = truth.isnan().logical_not();
    let difference = predicted.to_kind(Kind::Float).squeeze_dim(1) - truth;
    (difference.where_self(&known, &truth.zeros_like()), known)
}

/// How much each pixel counts for the depth, `[B, h, w]` float32: its class's weight; where it has no label, the mean of
/// the weights of those that have one, or 1.
pub fn pixel_weights(labels: &Tensor, weights: &Tensor) -> Tensor {
    let known = labels.ge(0);
    let weight = weight_of(labels, &known, Some(weights));
    let count = known.sum(Kind::Float);
    let mean = (weight.sum(Kind::Float) + count.eq(0.0).to_kind(Kind::Float)) / count.clamp_min(1.0);
    weight.where_self(&known, &mean)
}

/// How much each pixel counts for the depth, as its truth `[B, h, w]`: `far` where that is farther than depth is judged
/// (`judged_to` `[B, 1, 1]`, a code), else 1.
pub fn distance_weights(truth: &Tensor, judged_to: &Tensor, far: f64) -> Tensor {
    1.0 - truth.ge_tensor(judged_to).to_kind(Kind::Float) * (1.0 - far)
}

/// An answer of depth codes with each frame's level of error taken out but for a share of it, `level_weight`: what the loss is
/// then taken of. What differs within the frame counts as before, how far the frame is as a whole less (after the
/// scale-invariant error of Eigen et al. 2014, there of squares and with a share of 1/2).
///
/// The level is the median of what is judged (truth below `judged_to` `[B, 1, 1]`, a code). Of the mean, which edges draw to one side, the absolute error
/// would make several times as much of a bias: it is smallest where the median of what is left is 0. In the gradient the mean
/// stands for the median, so that all pixels have their part.
///
/// # Shapes
/// As in [`depth`]; returns `[B, 1, h, w]` float32.
pub fn levelled(
    predicted: &Tensor,
    truth: &Tensor,
    judged_to: &Tensor,
    weights: Option<&Tensor>,
    level_weight: f64,
) -> Tensor {
    let (error, known) = code_error(predicted, truth);
    let judged = known.logical_and(&truth.lt_tensor(judged_to));
    let of_frame = |t: &Tensor| t.flatten(1, -1);
    let values = of_frame(&error.detach().where_self(&judged, &error.full_like(f64::NAN)));
    let median = values.nanmedian_dim(1, true).0.nan_to_num(0.0, None, None);
    let known = known.to_kind(Kind::Float);
    let weights = weights.map_or_else(|| known.shallow_clone(), |w| w * &known);
    let sum = |t: &Tensor| of_frame(t).sum_dim_intlist([1_i64].as_slice(), true, Kind::Float);
    let mean = sum(&(error * &weights)) / sum(&weights).clamp_min(NO_WEIGHT);
    let level = median + &mean - mean.detach();
    predicted.to_kind(Kind::Float) - level.view([-1, 1, 1, 1]) * (1.0 - level_weight)
}

/// Mean squared error of the depth code, over the pixels whose code is not NaN, weighted where `weights` `[B, h, w]` are given;
/// 0 where there is none.
///
/// # Shapes
/// `predicted` `[B, 1, h, w]`, `truth` `[B, h, w]` float32 of [`crate::data::depth::encode`].
pub fn depth(predicted: &Tensor, truth: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let (error, known) = code_error(predicted, truth);
    weighted_mean_where(&error.square(), &known, weights)
}

/// Inverse Huber loss of the depth code (Laina et al. 2016): `|x|` up to `c`, `(x^2 + c^2) / (2 c)` above, where `c` is a
/// fifth of the batch's largest error. Small errors pull harder than in [`depth`], large ones still more.
///
/// # Shapes
/// As in [`depth`].
pub fn berhu(predicted: &Tensor, truth: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let (error, known) = code_error(predicted, truth);
    let error = error.abs();
    let c = (error.detach().max() * BERHU_SHARE).clamp_min(TINY);
    let square = (error.square() + c.square()) / (&c * 2.0);
    weighted_mean_where(&error.where_self(&error.le_tensor(&c), &square), &known, weights)
}

/// The mean of `|x|` and `|e^x - 1|`, where `x` is the error of the depth's natural logarithm: the second is the relative error
/// of the metres, by which depth is judged (AbsRel). Beyond `x` = 1, where a depth is more than e times too far, it goes on
/// with the slope of `|x|`, or single pixels at edges would pull harder than all others.
///
/// # Shapes
/// As in [`depth`].
pub fn relative(predicted: &Tensor, truth: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let (error, known) = code_error(predicted, truth);
    let x = error * f64::from(LOG_SCALE);
    let relative = x.clamp_max(1.0).expm1().abs() + (&x - 1.0).clamp_min(0.0);
    weighted_mean_where(&((x.abs() + relative) * 0.5), &known, weights)
}

/// One minus the cosine of the angle between true and predicted surface normals, over the pixels whose normal is known.
/// The prediction's length does not matter.
///
/// # Shapes
/// `predicted` `[B, 3, h, w]`; `truth` `[B, 3, h, w]` float32 of length 1, NaN where not known.
pub fn normals(predicted: &Tensor, truth: &Tensor) -> Tensor {
    let over_xyz = [1_i64];
    let known = truth.isnan().any_dim(1, true).logical_not();
    let truth = truth.where_self(&known, &truth.zeros_like());
    let predicted = predicted.to_kind(Kind::Float);
    // Scaled by the largest component first: squares of large numbers overflow.
    let predicted = &predicted / predicted.detach().abs().amax(over_xyz, true).clamp_min(TINY);
    let sum = |t: Tensor| t.sum_dim_intlist(over_xyz.as_slice(), true, Kind::Float);
    let length = (sum(predicted.square()) + TINY * TINY).sqrt();
    let cosine = sum(&predicted * truth) / length;
    mean_where(&(1.0 - cosine), &known)
}

/// Binary cross entropy of semantic edges in which edges and the rest weigh one half each, however few the edges are
/// (Xie & Tu 2015).
///
/// # Shapes
/// `predicted` `[B, 1, h, w]` before the logistic function; `truth` `[B, h, w]` float32, 0 or 1, NaN where not known.
pub fn edges(predicted: &Tensor, truth: &Tensor) -> Tensor {
    let predicted = predicted.to_kind(Kind::Float).squeeze_dim(1);
    // -ln(logistic(x)) = softplus(-x).
    let edge = mean_where(&(-&predicted).softplus(), &truth.gt(0.5));
    let rest = mean_where(&predicted.softplus(), &truth.le(0.5));
    (edge + rest) * 0.5
}

/// A task's loss under a learned uncertainty (Kendall et al. 2018): `exp(-s) loss + s / 2`, with half the first term for
/// a regression, where `s` is the logarithm of the task's variance. A loss of exactly 0 is that of a batch without the
/// task's truth: it must not teach that the task is certain, so `s` gets no gradient then.
pub fn uncertain(loss: &Tensor, log_variance: &Tensor, regression: bool) -> Tensor {
    let half = if regression { 0.5 } else { 1.0 };
    let present = loss.detach().ne(0.0).to_kind(Kind::Float);
    loss * (-log_variance).exp() * half + log_variance * present * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::seeded;

    fn number(t: &Tensor) -> f64 {
        t.double_value(&[])
    }

    fn leaf(values: &[f32], shape: &[i64]) -> Tensor {
        Tensor::from_slice(values).view(shape).set_requires_grad(true)
    }

    #[test]
    fn the_soft_confusion_is_the_same_in_parts() {
        let scores = seeded::uniform(1, &[2, 3, 4, 5], [-2.0, 2.0]);
        let labels = seeded::uniform(2, &[2, 4, 5], [-1.0, 4.0]).floor().to_kind(Kind::Int64);
        let [whole, rows] = [1, 4].map(|parts| soft_confusion(&scores, &labels, 4, parts));
        assert_eq!(whole.size(), [4, 3]);
        assert!(whole.allclose(&rows, 1e-5, 1e-6, false), "{whole} and {rows}");
        assert!((number(&whole.sum(Kind::Float)) - number(&labels.ge(0).sum(Kind::Float))).abs() < 1e-4);
    }

    fn gradient(loss: &Tensor, of: &Tensor) -> Vec<f32> {
        loss.backward();
        Vec::try_from(of.grad().reshape([-1])).expect("a gradient")
    }

    fn single(classes: u8) -> Groups {
        Groups::new(&(0..classes).map(|c| vec![c]).collect::<Vec<_>>(), Device::Cpu)
    }

    fn assert_near(found: &Tensor, expected: f64) {
        assert!((number(found) - expected).abs() < 1e-6, "{} is not {expected}", number(found));
    }

    #[test]
    fn cross_entropy_by_hand() {
        // Two pixels, two classes; scores (ln 3, 0) give the probabilities 3/4 and 1/4. The third pixel does not count.
        let s = 3.0_f32.ln();
        let scores = Tensor::from_slice(&[s, s, s, 0.0, 0.0, 0.0]).view([1, 2, 1, 3]);
        let labels = Tensor::from_slice(&[0_i64, 1, -100]).view([1, 1, 3]);
        let expected = -(0.75_f64.ln() + 0.25_f64.ln()) / 2.0;
        assert_near(&segmentation(&scores, &labels, None), expected);
        let other_negative = Tensor::from_slice(&[0_i64, 1, -1]).view([1, 1, 3]);
        assert_near(&segmentation(&scores, &other_negative, None), expected);
        let weights = Tensor::from_slice(&[1.0_f32, 3.0]);
        let expected = -(0.75_f64.ln() + 3.0 * 0.25_f64.ln()) / 4.0;
        assert_near(&segmentation(&scores, &labels, Some(&weights)), expected);
    }

    #[test]
    fn a_group_is_right_where_any_member_is() {
        // Probabilities 1/2, 1/3, 1/6 at each of four pixels.
        let row = [3.0_f32.ln(), 2.0_f32.ln(), 0.0];
        let scores: Vec<f32> = row.iter().flat_map(|&v| [v; 4]).collect();
        let scores = leaf(&scores, &[1, 3, 2, 2]);
        let groups = Groups::new(&[vec![0], vec![1, 2], vec![]], Device::Cpu);
        // Class 0; one of the classes 1 and 2; a group without members; unknown.
        let labels = Tensor::from_slice(&[0_i64, 1, 2, -100]).view([1, 2, 2]);
        let weights = Tensor::from_slice(&[1.0_f32, 3.0, 50.0]);
        assert_near(&segmentation_grouped(&scores, &labels, &groups, None), -(0.5_f64.ln()));
        let only_group = Tensor::from_slice(&[1_i64, -1, -1, -1]).view([1, 2, 2]);
        assert_near(&segmentation_grouped(&scores, &only_group, &groups, None), 2.0_f64.ln());
        let both = segmentation_grouped(&scores, &labels, &groups, Some(&weights));
        assert_near(&both, (2.0_f64.ln() + 3.0 * 2.0_f64.ln()) / 4.0);
        // d/ds of -ln(sum): softmax minus the share within the group. Pixel 1, times 3/4 by its weight.
        let g = gradient(&both, &scores);
        let expected = [0.5, 1.0 / 3.0 - 2.0 / 3.0, 1.0 / 6.0 - 1.0 / 3.0].map(|v| 0.75 * v);
        for (class, e) in expected.into_iter().enumerate() {
            assert!((g[class * 4 + 1] - e).abs() < 1e-6, "{g:?}");
            assert_eq!((g[class * 4 + 2], g[class * 4 + 3]), (0.0, 0.0), "what is not known must not pull");
        }
    }

    #[test]
    fn single_classes_as_groups_are_cross_entropy() {
        let scores = seeded::uniform(1, &[2, 5, 4, 6], [-8.0, 8.0]);
        let labels = seeded::uniform(2, &[2, 4, 6], [-2.0, 5.0]).floor().to_kind(Kind::Int64);
        let weights = seeded::uniform(3, &[5], [0.1, 1.1]);
        let groups = single(5);
        for weights in [None, Some(&weights)] {
            let (a, b) = (scores.copy().set_requires_grad(true), scores.copy().set_requires_grad(true));
            let plain = segmentation(&a, &labels, weights);
            let grouped = segmentation_grouped(&b, &labels, &groups, weights);
            assert!((number(&plain) - number(&grouped)).abs() < 1e-5, "{plain:?} {grouped:?}");
            plain.backward();
            grouped.backward();
            assert!(a.grad().allclose(&b.grad(), 1e-4, 1e-6, false));
        }
    }

    #[test]
    fn soft_iou_by_hand() {
        // Labels: class 0, class 1, class 2, one of the classes 1 and 2, nothing.
        let overlaps = Overlaps::new(&[vec![0], vec![1], vec![2], vec![1, 2], vec![]], 3, Device::Cpu);
        let of = |classes: &[i64]| {
            let index = Tensor::from_slice(classes).view([1, 1, -1, 1]);
            let zeros = Tensor::zeros([1, 3, classes.len() as i64, 1], (Kind::Float, Device::Cpu));
            zeros.scatter_value(1, &index, 100.0).set_requires_grad(true)
        };
        // Class 0: 1 of 2 right: 1/2. Class 1: 1 of 1, and the 0 that was taken for it: 1/2. Either of 1 and 2: both
        // right, and the same 0: 2/3. Class 2 does not occur; what is not known counts nowhere.
        let scores = of(&[0, 1, 1, 1, 2, 0, 2]);
        let labels = Tensor::from_slice(&[0_i64, 0, 1, 3, 3, -100, 4]).view([1, 7, 1]);
        let loss = soft_jaccard(&scores, &labels, &overlaps);
        assert_near(&loss, 1.0 - (0.5 + 0.5 + 2.0 / 3.0) / 3.0);
        assert!(gradient(&loss, &scores).iter().all(|g| g.is_finite()));
        let unsure = leaf(&[0.0; 6], &[1, 3, 2, 1]);
        let labels = Tensor::from_slice(&[0_i64, 1]).view([1, 2, 1]);
        // A third hit of one pixel, a third wrong of the other: 1/3 / (1 + 1/3).
        let loss = soft_jaccard(&unsure, &labels, &overlaps);
        assert_near(&loss, 0.75);
        let g = gradient(&loss, &unsure);
        assert!(g[0] < 0.0 && g[1] > 0.0 && g[3] < 0.0, "towards the truth: {g:?}");
        let nothing = Tensor::from_slice(&[-100_i64, 4]).view([1, 2, 1]);
        assert_near(&soft_jaccard(&unsure, &nothing, &overlaps), 0.0);
    }

    #[test]
    fn depth_error_by_hand() {
        let predicted = leaf(&[0.5, 0.9, 7.0], &[1, 1, 1, 3]);
        let truth = Tensor::from_slice(&[0.2_f32, 1.0, f32::NAN]).view([1, 1, 3]);
        let loss = depth(&predicted, &truth, None);
        assert_near(&loss, (0.09 + 0.01) / 2.0);
        let gradient = gradient(&loss, &predicted);
        assert!((gradient[0] - 0.3).abs() < 1e-6 && gradient[2] == 0.0, "an unknown depth must not pull: {gradient:?}");
    }

    #[test]
    fn depth_of_rare_classes_counts_more_by_hand() {
        // Classes 1 and 0, one without a label (it counts as their mean), and one whose depth is not known.
        let labels = Tensor::from_slice(&[1_i64, 0, -100, 1]).view([1, 2, 2]);
        let weights = pixel_weights(&labels, &Tensor::from_slice(&[1.0_f32, 4.0]));
        assert_eq!(Vec::<f32>::try_from(weights.reshape([-1])).expect("four"), [4.0, 1.0, 3.0, 4.0]);
        let predicted = leaf(&[0.5, 0.9, 0.2, 7.0], &[1, 1, 2, 2]);
        let truth = Tensor::from_slice(&[0.2_f32, 1.0, 0.4, f32::NAN]).view([1, 2, 2]);
        let loss = depth(&predicted, &truth, Some(&weights));
        assert_near(&loss, (4.0 * 0.09 + 0.01 + 3.0 * 0.04) / 8.0);
        let g = gradient(&loss, &predicted);
        for (found, expected) in g.iter().zip([4.0 * 0.6 / 8.0, -0.2 / 8.0, -3.0 * 0.4 / 8.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{g:?}");
        }
        let none =
            pixel_weights(&Tensor::full([1, 1, 2], -100, (Kind::Int64, Device::Cpu)), &Tensor::from_slice(&[3.0_f32]));
        assert_eq!(Vec::<f32>::try_from(none.reshape([-1])).expect("two"), [1.0, 1.0]);
    }

    #[test]
    fn inverse_huber_by_hand() {
        // The largest error is 5, so c is 1: 0.5 is linear, -3 and 5 are square; the last is not known.
        let predicted = leaf(&[0.5, -3.0, 5.0, 100.0], &[1, 1, 1, 4]);
        let truth = Tensor::from_slice(&[0.0_f32, 0.0, 0.0, f32::NAN]).view([1, 1, 4]);
        let loss = berhu(&predicted, &truth, None);
        assert_near(&loss, (0.5 + (9.0 + 1.0) / 2.0 + (25.0 + 1.0) / 2.0) / 3.0);
        let g = gradient(&loss, &predicted);
        for (found, expected) in g.iter().zip([1.0 / 3.0, -3.0 / 3.0, 5.0 / 3.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{g:?}");
        }
        let right = leaf(&[0.0; 4], &[1, 1, 1, 4]);
        let loss = berhu(&right, &truth, None);
        assert_near(&loss, 0.0);
        assert_eq!(gradient(&loss, &right), [0.0; 4]);
    }

    #[test]
    fn what_is_far_counts_less_by_hand() {
        let code = |m: f32| m.ln() / LOG_SCALE;
        let truth = Tensor::from_slice(&[code(10.0), code(79.0), code(81.0), f32::NAN]).view([1, 1, 4]);
        let judged_to = Tensor::from_slice(&[code(80.0)]).view([1, 1, 1]);
        let weights = distance_weights(&truth, &judged_to, 0.1);
        for (i, expected) in [1.0, 1.0, 0.1, 1.0].into_iter().enumerate() {
            assert!((weights.double_value(&[0, 0, i as i64]) - expected).abs() < 1e-6);
        }
        let predicted = (&truth + 0.2).view([1, 1, 1, 4]);
        let predicted = predicted + Tensor::from_slice(&[0.0_f32, 0.0, 0.8, 0.0]).view([1, 1, 1, 4]);
        let (near, far) = (0.2_f64 * 0.2, 1.0);
        assert_near(&depth(&predicted, &truth, Some(&weights)), (2.0 * near + 0.1 * far) / 2.1);
    }

    #[test]
    fn relative_error_by_hand() {
        // Logarithms off by 0.1, -0.2 and 2; the last is not known.
        let predicted = leaf(&[0.02, -0.04, 0.4, 100.0], &[1, 1, 1, 4]);
        let truth = Tensor::from_slice(&[0.0_f32, 0.0, 0.0, f32::NAN]).view([1, 1, 4]);
        let loss = relative(&predicted, &truth, None);
        let (near, less, far) = (0.1_f64, 0.2_f64, 2.0_f64);
        let of_metres = near.exp_m1() + (1.0 - (-less).exp()) + (1.0_f64.exp_m1() + far - 1.0);
        assert_near(&loss, (near + less + far + of_metres) / 2.0 / 3.0);
        // Slopes by the code, of which the logarithm is five.
        let slope = |of_metres: f64| 5.0 * (1.0 + of_metres) / 2.0 / 3.0;
        let expected = [slope(near.exp()), -slope((-less).exp()), slope(1.0), 0.0];
        for (found, expected) in gradient(&loss, &predicted).iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} for {expected}");
        }
        let right = leaf(&[0.0; 4], &[1, 1, 1, 4]);
        assert_near(&relative(&right, &truth, None), 0.0);
    }

    #[test]
    fn normals_by_hand() {
        // Right but three times as long; at 90 degrees; opposite; not known. Components are planes.
        let predicted = leaf(&[0., 1., 0., 9., 0., 0., 0., 9., -3., 0., 1., 9.], &[1, 3, 2, 2]);
        let n = f32::NAN;
        let truth = Tensor::from_slice(&[0., 0., 0., n, 0., 0., 0., n, -1., -1., -1., n]).view([1, 3, 2, 2]);
        let loss = normals(&predicted, &truth);
        assert_near(&loss, (0.0 + 1.0 + 2.0) / 3.0);
        let g = gradient(&loss, &predicted);
        // At 90 degrees the second pixel is pulled along the truth only.
        assert!((g[9] - 1.0 / 3.0).abs() < 1e-6 && g[1].abs() < 1e-6 && g[5] == 0.0, "{g:?}");
        assert_eq!((g[3], g[7], g[11]), (0.0, 0.0, 0.0));
    }

    #[test]
    fn edges_by_hand() {
        // One edge of probability 3/4 and three others of probability 1/4: both sides weigh the same.
        let s = 3.0_f32.ln();
        let predicted = leaf(&[s, -s, -s, -s, 7.0], &[1, 1, 1, 5]);
        let truth = Tensor::from_slice(&[1.0_f32, 0.0, 0.0, 0.0, f32::NAN]).view([1, 1, 5]);
        let loss = edges(&predicted, &truth);
        assert_near(&loss, -(0.75_f64.ln()));
        let g = gradient(&loss, &predicted);
        for (found, expected) in g.iter().zip([-0.125, 0.125 / 3.0, 0.125 / 3.0, 0.125 / 3.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{g:?}");
        }
    }

    #[test]
    fn uncertainty_by_hand() {
        let s = leaf(&[2.0_f32.ln()], &[1]);
        let of = |loss: f32, regression| uncertain(&Tensor::from(loss), &s, regression).squeeze();
        assert_near(&of(6.0, false), 3.0 + 2.0_f64.ln() / 2.0);
        assert_near(&of(6.0, true), 1.5 + 2.0_f64.ln() / 2.0);
        // For a regression the best variance is the loss itself: 0.5 exp(-s) loss = 0.5.
        assert!(gradient(&of(2.0, true), &s)[0].abs() < 1e-6);
        let mut before = s.grad();
        let _ = before.zero_();
        assert_eq!(gradient(&of(0.0, true), &s), [0.0], "a task that is not there teaches nothing");
    }

    #[test]
    fn extremes_have_finite_gradients() {
        let labels = Tensor::from_slice(&[0_i64, 1, -100, 1]).view([1, 2, 2]);
        let none = Tensor::from_slice(&[-100_i64; 4]).view([1, 2, 2]);
        let groups = Groups::new(&[vec![0], vec![0, 1, 2]], Device::Cpu);
        let n = f32::NAN;
        let code = Tensor::from_slice(&[0.1_f32, 1.0, n, 0.4]).view([1, 2, 2]);
        let edge = Tensor::from_slice(&[0.0_f32, 1.0, n, 1.0]).view([1, 2, 2]);
        let normal = Tensor::from_slice(&[0.0_f32, 1.0, n, 0.6, 0.0, 0.0, n, 0.0, 1.0, 0.0, n, 0.8]).view([1, 3, 2, 2]);
        let unknown = |t: &Tensor| t.full_like(f64::NAN);
        for size in [0.0_f32, 1.0, 1e4, 1e15] {
            let three: Vec<f32> = (0..12).map(|i| size * [1.0, -1.0, 0.5, 0.0, -0.25][i % 5]).collect();
            let three = leaf(&three, &[1, 3, 2, 2]);
            let one = leaf(&[size, -size, size, 0.5 * size], &[1, 1, 2, 2]);
            let weights = Tensor::from_slice(&[1.0_f32, 2.0, 0.0]);
            let known = [
                (segmentation(&three, &labels, Some(&weights)), &three),
                (segmentation_grouped(&three, &labels, &groups, None), &three),
                (normals(&three, &normal), &three),
                (depth(&one, &code, None), &one),
                (berhu(&one, &code, None), &one),
                (edges(&one, &edge), &one),
            ];
            for (i, (loss, answer)) in known.iter().enumerate() {
                let mut old = answer.grad();
                if old.defined() {
                    let _ = old.zero_();
                }
                let g = gradient(loss, answer);
                assert!(number(loss).is_finite() && g.iter().all(|v| v.is_finite()), "{i} at {size}: {loss:?} {g:?}");
            }
            let nothing = [
                (segmentation(&three, &none, Some(&weights)), &three),
                (segmentation(&three, &none, None), &three),
                (segmentation_grouped(&three, &none, &groups, None), &three),
                (normals(&three, &unknown(&normal)), &three),
                (depth(&one, &unknown(&code), None), &one),
                (berhu(&one, &unknown(&code), None), &one),
                (berhu(&one, &unknown(&code), Some(&code.ones_like())), &one),
                (edges(&one, &unknown(&edge)), &one),
            ];
            for (i, (loss, answer)) in nothing.iter().enumerate() {
                let _ = answer.grad().zero_();
                assert_eq!(number(loss), 0.0, "{i} at {size}");
                assert!(gradient(loss, answer).iter().all(|&v| v == 0.0), "{i} at {size}");
            }
        }
    }

    #[test]
    fn levelling_takes_a_frames_median_error_and_keeps_the_rest() {
        // The first frame is off by -0.3, 0 and 0.4, the second by 0.2 and at one pixel, an edge, by 0.5; of the third
        // nothing is judged.
        let truth = leaf(&[0.4, 0.2, 0.1, 0.3, 0.3, 0.3, f32::NAN, 1.1, 1.1], &[3, 1, 3]).detach();
        let answer = leaf(&[0.1, 0.2, 0.5, 0.5, 0.5, 0.8, 9.0, 0.1, 0.2], &[3, 1, 1, 3]);
        // Code 1 is 148 m.
        let judged_to = Tensor::ones([3, 1, 1], (Kind::Float, Device::Cpu));
        let levelled = || levelled(&answer, &truth, &judged_to, None, 0.25);
        let found = levelled();
        let expected = Tensor::from_slice(&[0.1_f32, 0.2, 0.5, 0.35, 0.35, 0.65, 9.0, 0.1, 0.2]).view([3, 1, 1, 3]);
        assert!(found.allclose(&expected, 1e-6, 1e-6, false), "{found} and {expected}");
        // What pulls a whole frame pulls a quarter as hard; what pulls at two pixels to different sides as ever.
        let weights = Tensor::from_slice(&[1.0_f32, 0.0, -1.0]).view([1, 1, 1, 3]);
        let whole = gradient(&found.narrow(0, 1, 1).sum(Kind::Float), &answer);
        assert!(whole[3..6].iter().all(|g| (g - 0.25).abs() < 1e-6), "{whole:?}");
        let _ = answer.grad().zero_();
        let within = gradient(&(levelled().narrow(0, 1, 1) * weights).sum(Kind::Float), &answer);
        assert!(within[3..6].iter().zip([1.0, 0.0, -1.0]).all(|(g, e)| (g - e).abs() < 1e-6), "{within:?}");
    }

    #[test]
    fn half_precision_answers_have_float_losses() {
        let scores = seeded::uniform(1, &[1, 3, 4, 4], [-2.0, 2.0]).to_kind(Kind::BFloat16);
        let labels = Tensor::zeros([1, 4, 4], (Kind::Int64, Device::Cpu));
        assert_eq!(segmentation(&scores, &labels, None).kind(), Kind::Float);
        let groups = single(3);
        assert_eq!(segmentation_grouped(&scores, &labels, &groups, None).kind(), Kind::Float);
        let code = Tensor::zeros([1, 4, 4], (Kind::Float, Device::Cpu));
        let one = scores.narrow(1, 0, 1);
        assert!([depth, berhu].iter().all(|loss| loss(&one, &code, None).kind() == Kind::Float));
        assert_eq!(edges(&one, &code).kind(), Kind::Float);
        assert_eq!(normals(&scores, &Tensor::ones([1, 3, 4, 4], (Kind::Float, Device::Cpu))).kind(), Kind::Float);
    }
}

//! The two losses of the article.

use tch::{Kind, Reduction, Tensor};

/// Cross entropy, mean over the pixels (weighted, where `weights` are given).
///
/// # Shapes
/// `scores` `[B, C, h, w]`, `labels` `[B, h, w]` int64 class indices; a negative label does not count. The loss is
/// computed in float32.
pub fn segmentation(scores: &Tensor, labels: &Tensor, weights: Option<&Tensor>) -> Tensor {
    scores.to_kind(Kind::Float).cross_entropy_loss(labels, weights, Reduction::Mean, -100, 0.0)
}

/// Mean squared error of the depth code, over the pixels whose code is not NaN; 0 where there is none.
///
/// # Shapes
/// `predicted` `[B, 1, h, w]`, `truth` `[B, h, w]` float32 of [`crate::data::depth::encode`].
pub fn depth(predicted: &Tensor, truth: &Tensor) -> Tensor {
    let known = truth.isnan().logical_not();
    let zero = Tensor::zeros_like(truth);
    let difference = predicted.to_kind(Kind::Float).squeeze_dim(1) - truth.where_self(&known, &zero);
    let squared = (&difference * &difference).where_self(&known, &zero);
    squared.sum(Kind::Float) / known.sum(Kind::Float).clamp_min(1.0)
}

/// TEMP
pub fn segmentation_grouped(scores: &Tensor, labels: &Tensor, groups: &Tensor, weights: Option<&Tensor>) -> Tensor {
    let log_p = scores.to_kind(Kind::Float).log_softmax(1, Kind::Float);
    let known = labels.ge(0);
    let index = labels.clamp_min(0);
    // [B, h, w, C] of 0 / -inf
    let open = groups
        .log()
        .index_select(0, &index.view([-1]))
        .view([labels.size()[0], labels.size()[1], labels.size()[2], -1])
        .permute([0, 3, 1, 2]);
    let nll = -(log_p + open).logsumexp(1, false);
    let w = match weights {
        Some(w) => w.index_select(0, &index.view([-1])).view_as(&index),
        None => Tensor::ones_like(&nll),
    };
    let zero = Tensor::zeros_like(&nll);
    let w = w.where_self(&known, &zero);
    (nll.where_self(&known, &zero) * &w).sum(Kind::Float) / w.sum(Kind::Float).clamp_min(1e-12)
}
/// Inverse Huber loss (Laina et al. 2016).
pub fn berhu(predicted: &Tensor, truth: &Tensor) -> Tensor {
    let known = truth.isnan().logical_not();
    let zero = Tensor::zeros_like(truth);
    let difference = predicted.to_kind(Kind::Float).squeeze_dim(1) - truth.where_self(&known, &zero);
    let error = difference.abs().where_self(&known, &zero);
    let c = (error.max() * 0.2).clamp_min(1e-6).detach();
    let far = (error.square() + c.square()) / (&c * 2.0);
    let loss = error.where_self(&error.le_tensor(&c), &far);
    loss.sum(Kind::Float) / known.sum(Kind::Float).clamp_min(1.0)
}

/// TEMP
pub fn normals(p: &Tensor, _t: &Tensor) -> Tensor {
    p.sum(Kind::Float) * 0.0
}
/// TEMP
pub fn edges(p: &Tensor, _t: &Tensor) -> Tensor {
    p.sum(Kind::Float) * 0.0
}
/// TEMP
pub fn uncertain(l: &Tensor, s: &Tensor, regression: bool) -> Tensor {
    l * (-s).exp() * (if regression { 0.5 } else { 1.0 }) + s * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(t: &Tensor) -> f64 {
        t.double_value(&[])
    }

    #[test]
    fn cross_entropy_by_hand() {
        // Two pixels, two classes; scores (ln 3, 0) give the probabilities 3/4 and 1/4. The third pixel does not count.
        let s = 3.0_f32.ln();
        let scores = Tensor::from_slice(&[s, s, s, 0.0, 0.0, 0.0]).view([1, 2, 1, 3]);
        let labels = Tensor::from_slice(&[0_i64, 1, -100]).view([1, 1, 3]);
        let expected = -(0.75_f64.ln() + 0.25_f64.ln()) / 2.0;
        assert!((number(&segmentation(&scores, &labels, None)) - expected).abs() < 1e-6);
        let weights = Tensor::from_slice(&[1.0_f32, 3.0]);
        let expected = -(0.75_f64.ln() + 3.0 * 0.25_f64.ln()) / 4.0;
        assert!((number(&segmentation(&scores, &labels, Some(&weights))) - expected).abs() < 1e-6);
    }

    #[test]
    fn depth_error_by_hand() {
        let predicted = Tensor::from_slice(&[0.5_f32, 0.9, 7.0]).view([1, 1, 1, 3]).set_requires_grad(true);
        let truth = Tensor::from_slice(&[0.2_f32, 1.0, f32::NAN]).view([1, 1, 3]);
        let loss = depth(&predicted, &truth);
        assert!((number(&loss) - (0.09 + 0.01) / 2.0).abs() < 1e-7);
        loss.backward();
        let gradient = Vec::<f32>::try_from(predicted.grad().view([-1])).expect("a gradient");
        assert!((gradient[0] - 0.3).abs() < 1e-6 && gradient[2] == 0.0, "an unknown depth must not pull: {gradient:?}");
        let none = Tensor::from_slice(&[f32::NAN; 3]).view([1, 1, 3]);
        assert_eq!(number(&depth(&predicted, &none)), 0.0);
    }
}

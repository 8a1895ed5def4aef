//! The training loop.

use super::batches::{self, collate, Batches};
use super::{losses, schedule, TrainConfig};
use crate::data::augment::{self, AugmentConfig};
use crate::data::classes::{CLASSES, SCORED_CLASSES};
use crate::data::depth;
use crate::data::frame::Decoded;
use crate::eval::{Confusion, DepthErrors};
use crate::model::{weights, Network};
use anyhow::{bail, Context as _};
use rand::SeedableRng as _;
use rand_pcg::Pcg32;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tch::nn::{AdamW, OptimizerConfig as _, VarStore};
use tch::{Device, Kind, Tensor};

/// Steps between two lines of progress.
const REPORT_EVERY: usize = 20;

/// What a validation found.
#[derive(Debug, Clone, Copy)]
pub struct Validation {
    /// Mean IoU over the scored classes.
    pub miou: f64,
    /// Mean relative depth error.
    pub abs_rel: f64,
}

/// Trains and leaves in `out`: `config.yaml` as resolved, `metrics.csv`, `last.safetensors`, `best.safetensors`.
///
/// `init` gives the weights to start from; `minutes` ends the run early: the schedule then follows the clock.
///
/// # Errors
/// The data cannot be read, the loss is not finite, a file cannot be written.
pub fn train(
    config: &TrainConfig,
    out: &Path,
    init: Option<&Path>,
    minutes: Option<f64>,
    device: Device,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("{}", out.display()))?;
    std::fs::write(out.join("config.yaml"), serde_yaml::to_string(config)?)?;
    let mut metrics = std::fs::File::create(out.join("metrics.csv"))?;
    writeln!(metrics, "step,learning_rate,loss_segmentation,loss_depth,val_miou,val_abs_rel")?;

    let decoding = Instant::now();
    let frames = batches::decode(&config.data, &config.train_split)?;
    let watched = batches::decode(&config.data, &config.val_split)?;
    log::info!(
        "{} training and {} validation frames decoded in {:.1} s",
        frames.len(),
        watched.len(),
        decoding.elapsed().as_secs_f64()
    );

    tch::manual_seed(config.seed as i64);
    let mut vs = VarStore::new(device);
    let network = Network::new(&vs.root(), &config.network);
    if let Some(path) = init {
        weights::load(&mut vs, path)?;
        log::info!("starting from {}", path.display());
    }
    let stride = network.heads_stride();
    let class_weights = config.class_weights.then(|| weights_of(&batches::frequencies(&frames)).to_device(device));
    let supply = Batches::new(Arc::new(frames), config.augment.clone(), config.batch, stride, config.seed)?;
    let mut optimizer = AdamW { wd: config.weight_decay, ..adam() }.build(&vs, config.max_learning_rate)?;

    let started = Instant::now();
    let (mut sum, mut counted) = ([0.0_f64; 2], 0_usize);
    let mut best = f64::NEG_INFINITY;
    let mut step = 0;
    loop {
        // With a time limit the schedule follows the clock, so that it always comes to its end.
        let elapsed = started.elapsed().as_secs_f64();
        let (now, of) = match minutes {
            Some(m) => ((elapsed / (m * 60.0) * 1e5) as usize, 100_000),
            None => (step, config.steps),
        };
        if now >= of {
            break;
        }
        let rate = schedule::one_cycle(now, of, config.max_learning_rate, config.warmup);
        optimizer.set_lr(rate);
        let batch = supply.next()?.to(device);
        let images = if config.bf16 { batch.images.to_kind(Kind::BFloat16) } else { batch.images };
        let heads = network.forward_heads_t(&images, true);
        let segmentation = losses::segmentation(&heads.scores, &batch.labels, class_weights.as_ref());
        let depth = losses::depth(&heads.log_depth, &batch.depth);
        let values = [segmentation.double_value(&[]), depth.double_value(&[])];
        if values.iter().any(|v| !v.is_finite()) {
            bail!(
                "the loss is not finite at step {step} (segmentation {}, depth {}); {} holds the last good weights; \
                 a lower max_learning_rate helps",
                values[0],
                values[1],
                out.join("last.safetensors").display()
            );
        }
        optimizer.backward_step(&(segmentation + depth * config.depth_weight));
        step += 1;
        sum = [sum[0] + values[0], sum[1] + values[1]];
        counted += 1;
        if step % REPORT_EVERY == 0 {
            let mean = sum.map(|s| s / counted as f64);
            let per_step = started.elapsed().as_secs_f64() / step as f64;
            log::info!(
                "step {step}  {:.0}%  loss {:.4} + {:.5}  rate {rate:.2e}  {per_step:.2} s/step",
                100.0 * now as f64 / of as f64,
                mean[0],
                mean[1]
            );
            writeln!(metrics, "{step},{rate:e},{},{},,", mean[0], mean[1])?;
            (sum, counted) = ([0.0; 2], 0);
        }
        if step % config.validate_every == 0 {
            weights::save(&vs, &out.join("last.safetensors"))?;
            let v = validate(&network, &watched, &config.augment, config.bf16, device);
            log::info!("step {step}  validation: mIoU {:.4}, AbsRel {:.4}", v.miou, v.abs_rel);
            writeln!(metrics, "{step},{rate:e},,,{},{}", v.miou, v.abs_rel)?;
            if v.miou > best {
                best = v.miou;
                weights::save(&vs, &out.join("best.safetensors"))?;
            }
        }
    }
    weights::save(&vs, &out.join("last.safetensors"))?;
    let v = validate(&network, &watched, &config.augment, false, device);
    log::info!(
        "{step} steps in {:.1} min; at the end: mIoU {:.4}, AbsRel {:.4}",
        started.elapsed().as_secs_f64() / 60.0,
        v.miou,
        v.abs_rel
    );
    Ok(())
}

/// Adam with PyTorch's defaults; its weight decay (0 here) is decoupled from the gradient (Loshchilov & Hutter 2019).
fn adam() -> AdamW {
    AdamW { wd: 0.0, ..AdamW::default() }
}

/// `1 / ln(1.1 + frequency)` (after ENet, Paszke et al. 2016); 0 for "unlabelled".
fn weights_of(frequencies: &[f64; SCORED_CLASSES]) -> Tensor {
    let mut w: Vec<f32> = frequencies.iter().map(|f| (1.0 / (1.1 + f).ln()) as f32).collect();
    w.resize(CLASSES, 0.0);
    Tensor::from_slice(&w)
}

/// Scores the network at the heads' resolution on the middle crop of each frame at the training's middle scale.
///
/// A quick look during training; `semantic_depth evaluate` is the judge.
pub fn validate(
    network: &Network,
    frames: &[Decoded],
    augment_config: &AugmentConfig,
    bf16: bool,
    device: Device,
) -> Validation {
    let (low, high) = augment_config.scale;
    let reference = augment_config.reference_scale;
    let scale = if reference > 0.0 { reference } else { (low * high).sqrt() };
    let still = AugmentConfig { scale: (scale, scale), flip: 0.0, jitter: 0.0, hue: 0.0, ..augment_config.clone() };
    let stride = network.heads_stride();
    let mut confusion = Confusion::new(SCORED_CLASSES);
    let mut errors = DepthErrors::new();
    let mut rng = Pcg32::seed_from_u64(0);
    tch::no_grad(|| {
        for frame in frames {
            let crop = augment::crop(frame, &still, stride, &mut rng);
            let batch = collate(std::slice::from_ref(&crop), still.crop, stride).to(device);
            let images = if bf16 { batch.images.to_kind(Kind::BFloat16) } else { batch.images };
            let heads = network.forward_heads_t(&images, false);
            let best = heads.scores.narrow(1, 0, SCORED_CLASSES as i64).argmax(1, false).to_kind(Kind::Uint8);
            let code = heads.log_depth.to_kind(Kind::Float);
            let flat = |t: &Tensor| t.to_device(Device::Cpu).contiguous().view([-1]);
            let (Ok(labels), Ok(codes)) = (Vec::<u8>::try_from(flat(&best)), Vec::<f32>::try_from(flat(&code))) else {
                continue;
            };
            let truth: Vec<u8> = crop.labels.iter().map(|&l| l as u8).collect();
            confusion.add(&truth, &labels);
            let metres = |codes: &[f32]| codes.iter().map(|&c| depth::decode(c)).collect::<Vec<_>>();
            errors.add(&metres(&crop.depth), &metres(&codes));
        }
    });
    Validation { miou: confusion.miou(), abs_rel: errors.report().abs_rel }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::street::{Drive, DriveConfig};
    use crate::model::NetworkConfig;

    fn frames(count: u64) -> Vec<Decoded> {
        (0..count)
            .map(|seed| {
                let frame = Drive::new(&DriveConfig::new(seed, 1, 128, 64)).frame(0, false);
                Decoded {
                    width: 128,
                    height: 64,
                    rgb: frame.left.into_raw(),
                    labels: Some(frame.labels),
                    depth_m: Some(frame.depth_m),
                    focal_px: None,
                }
            })
            .collect()
    }

    fn config() -> AugmentConfig {
        AugmentConfig { crop: (128, 64), scale: (1.0, 1.0), reference_scale: 0.0, flip: 0.0, jitter: 0.0, hue: 0.0 }
    }

    #[test]
    fn a_few_steps_lower_the_loss_and_reach_the_first_convolution() {
        tch::manual_seed(3);
        let vs = VarStore::new(Device::Cpu);
        let network = Network::new(&vs.root(), &NetworkConfig::default());
        let frames = frames(2);
        let mut rng = Pcg32::seed_from_u64(0);
        let crops: Vec<_> = frames.iter().map(|f| augment::crop(f, &config(), 4, &mut rng)).collect();
        let batch = collate(&crops, (128, 64), 4);
        let mut optimizer = adam().build(&vs, 1e-3).expect("an optimizer");
        let first = vs.variables()["encoder.backbone.0.0.weight"].shallow_clone();
        let mut history = Vec::new();
        for _ in 0..12 {
            let heads = network.forward_heads_t(&batch.images, true);
            let loss = losses::segmentation(&heads.scores, &batch.labels, None)
                + losses::depth(&heads.log_depth, &batch.depth);
            history.push(loss.double_value(&[]));
            optimizer.backward_step(&loss);
            let gradient = first.grad().abs().sum(Kind::Float).double_value(&[]);
            assert!(gradient > 0.0, "the encoder's first convolution gets no gradient");
        }
        assert!(history[11] < 0.7 * history[0], "the loss went {history:?}");
    }

    /// The median of some random networks: other tests draw from libtorch's one generator meanwhile, so that no seed
    /// says which networks these are, and a single one may lie at the edge.
    #[test]
    fn bf16_computes_the_same_to_its_precision() {
        let mut differences: Vec<_> = (0..7).map(|_| bf16_difference()).collect();
        differences.sort_by(f64::total_cmp);
        assert!(differences[3] < 0.06, "relative differences {differences:?}");
    }

    fn bf16_difference() -> f64 {
        let vs = VarStore::new(Device::Cpu);
        let network = Network::new(&vs.root(), &NetworkConfig::default());
        let x = Tensor::randn([1, 3, 64, 64], (Kind::Float, Device::Cpu));
        let (a, b) = tch::no_grad(|| {
            (network.forward_heads_t(&x, true).scores, network.forward_heads_t(&x.to_kind(Kind::BFloat16), true).scores)
        });
        (&a - b.to_kind(Kind::Float)).norm().double_value(&[]) / a.norm().double_value(&[])
    }
}

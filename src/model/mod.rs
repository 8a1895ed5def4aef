//! The network: configuration, encoder, decoder with its heads, weights in and out.

mod config;
mod cost;
mod decoder;
mod encoder;
mod head;
mod layer;
pub mod parts;
mod pth;
mod refine;
#[cfg(test)]
pub mod seeded;
pub mod weights;

pub use config::NetworkConfig;
pub use cost::Cost;
pub use decoder::{EndWeights, HeadWeights, Pool, QuarterFactors, CRP_STAGES};
pub use head::Task;
pub use layer::NumberFormat;

use tch::nn::Path;
use tch::{Kind, Tensor};

/// What the refinement's variables are named under.
const REFINEMENT: &str = "refinement";

/// What the network's heads answer, in the order of its configuration.
#[derive(Debug)]
pub struct Answers(Vec<(Task, Tensor)>);

impl Answers {
    /// Answer of a head, `[B, channels, H, W]`; `None` where the network has no such head.
    pub fn get(&self, task: Task) -> Option<&Tensor> {
        self.0.iter().find(|(t, _)| *t == task).map(|(_, answer)| answer)
    }

    /// As [`Answers::get`], in float32, bilinearly resized to `height` x `width`.
    pub fn get_resized(&self, task: Task, height: i64, width: i64) -> Option<Tensor> {
        self.get(task).map(|t| decoder::bilinear(&t.to_kind(Kind::Float), height, width))
    }
}

/// The multi-task network of the article: MobileNetV3-small encoder, Light-Weight RefineNet decoder, and by default its two heads.
#[derive(Debug)]
pub struct Network {
    encoder: encoder::Encoder,
    decoder: decoder::Decoder,
    refinement: Option<refine::Refinement>,
    config: NetworkConfig,
    /// See [`Network::folded`].
    is_folded: bool,
}

impl Network {
    /// Registers the network's variables under `p` (the root of a `VarStore`), under the names of the article's
    /// published state dict (`encoder.backbone.*`, `decoder.*`).
    pub fn new(p: &Path, config: &NetworkConfig) -> Self {
        Self {
            encoder: encoder::Encoder::new(p / "encoder"),
            decoder: decoder::Decoder::new(p / "decoder", config),
            refinement: config.refine_depth.then(|| refine::Refinement::new(&(p / REFINEMENT), config.classes)),
            config: config.clone(),
            is_folded: false,
        }
    }

    /// The network in its deployment form: the same answers to rounding, from fewer and larger operations. Batch norm is
    /// a part of the convolutions, paired projections are one product over concatenated channels, and a 5x5 pooling is
    /// one along rows and one along columns. It cannot be trained.
    ///
    /// `format` is the number format of the encoder and of the decoder's dense products; sums and poolings of the decoder
    /// stay in the input's.
    pub fn folded(&self, format: NumberFormat) -> Self {
        Self {
            encoder: self.encoder.folded(format),
            decoder: self.decoder.folded(format),
            refinement: self.refinement.as_ref().map(refine::Refinement::folded),
            config: self.config.clone(),
            is_folded: true,
        }
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Pixels of the input to one of the heads.
    pub fn heads_stride(&self) -> usize {
        self.config.heads_stride()
    }

    /// One pass, up to the heads' own resolution: 1/4 of the input (1/8 for an extra light network), rounded up.
    ///
    /// `train` puts batch norm into training mode (batch statistics, running statistics updated).
    ///
    /// # Shapes
    /// `x`: `[B, 3, H, W]`, RGB, ImageNet-normalised. Any `H`, `W` of 1 or more.
    pub fn forward_heads_t(&self, x: &Tensor, train: bool) -> Answers {
        let answers = self.forward_unrefined_t(x, train);
        self.refined(&answers).unwrap_or(answers)
    }

    /// As [`Network::forward_heads_t`], with the depth as the head gives it.
    pub fn forward_unrefined_t(&self, x: &Tensor, train: bool) -> Answers {
        // A GPU's 5x5 pooling is bound by its comparisons, of which 24 become 8; of several equal maxima both find the first.
        let separable = self.is_folded || x.device().is_cuda();
        let pool: Pool<'_> = if separable { &decoder::separable_pool } else { &decoder::pool };
        Answers(self.decoder.forward(&self.encoder.forward_t(x, train), pool))
    }

    /// Answers of the heads with the depth refined, in the answer's number format; `None` where the network does not do so
    /// or lacks one of the two heads.
    pub fn refined(&self, answers: &Answers) -> Option<Answers> {
        let (scores, code) = (answers.get(Task::Segmentation)?, answers.get(Task::Depth)?);
        let refined = self.refinement.as_ref()?.forward(scores, code).type_as(code);
        let replaced =
            |(task, t): &(Task, Tensor)| (*task, if *task == Task::Depth { &refined } else { t }.shallow_clone());
        Some(Answers(answers.0.iter().map(replaced).collect()))
    }

    /// Whether it is a variable of the refinement.
    pub fn is_refinement(name: &str) -> bool {
        name.strip_prefix(REFINEMENT).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The first part of a pass, for who computes the rest ([`Network::end_weights`]) without libtorch: up to where the
    /// 1/4 stage begins, with the back end's own pooling.
    ///
    /// # Shapes
    /// `x`: `[B, 3, H, W]` float32. Returns block 1, `[B, 16, H/4, W/4]`, and the decoder's sum, `[B, 256, H/8, W/8]`, both
    /// float32.
    pub fn forward_trunk(&self, x: &Tensor, kind: Kind, pool: Pool<'_>) -> (Tensor, Tensor) {
        let skips = self.encoder.forward_t(&x.to_kind(kind), false).to_kind(Kind::Float);
        let y = self.decoder.trunk(&skips, pool);
        (skips.block1, y)
    }

    /// The first part of a training pass, for who computes the rest of the 1/4 stage without libtorch: up to its ReLU6,
    /// `[B, 256, H/4, W/4]`. `None` of an extra light network, which has no such stage.
    pub fn forward_before_quarter_t(&self, x: &Tensor, train: bool) -> Option<Tensor> {
        self.decoder.before_quarter(&self.encoder.forward_t(x, train), &decoder::pool)
    }

    /// Variables of that rest; `None` of an extra light network.
    pub fn quarter_factors(&self) -> Option<QuarterFactors> {
        self.decoder.quarter_factors()
    }

    /// The last part of a training pass: the heads' last convolutions. Their depth is still to be [refined](Network::refined).
    pub fn forward_after_quarter(&self, maps: &[Tensor]) -> Answers {
        Answers(self.decoder.after_quarter(maps))
    }

    /// Weights of [`Network::forward_trunk`], for who computes it without libtorch; `None` of a network that is not
    /// [folded](Network::folded).
    pub fn trunk_parts(&self) -> Option<parts::TrunkParts> {
        let (stem, blocks) = self.encoder.parts();
        Some(parts::TrunkParts { stem, blocks, decoder: self.decoder.parts().filter(|_| self.is_folded)? })
    }

    /// Weights of the refinement, for who computes it without libtorch; `None` of a network that has none.
    pub fn refinement_parts(&self) -> Option<parts::RefinementParts> {
        self.refinement.as_ref().map(refine::Refinement::parts)
    }

    /// Weights of what follows [`Network::forward_trunk`], but for the refinement.
    pub fn end_weights(&self) -> EndWeights {
        self.decoder.end_weights()
    }

    /// One pass, with the answers bilinearly resized to the input's size.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Answers {
        let size = x.size();
        let up = |(task, t): (Task, Tensor)| (task, decoder::bilinear(&t, size[2], size[3]));
        Answers(self.forward_heads_t(x, train).0.into_iter().map(up).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::weights::RefinementSource;
    use super::*;
    use crate::data::augment::{IMAGENET_MEAN, IMAGENET_STD};
    use crate::data::depth::LOG_SCALE;
    use crate::data::street::{Drive, DriveConfig};
    use tch::{nn, Device};

    /// The released weights, as they are or with their depth refined.
    fn released(is_refined: bool) -> Network {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let config = NetworkConfig { refine_depth: is_refined, ..NetworkConfig::default() };
        let network = Network::new(&vs.root(), &config);
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let refinement = match is_refined {
            true => RefinementSource::File(models.join("street_refined/refinement.safetensors")),
            false => RefinementSource::None,
        };
        weights::load_without(&mut vs, &models.join("street/weights.safetensors"), |_| false, &refinement)
            .expect("they fit");
        vs.freeze();
        network
    }

    /// A rendered street as the network's input, `[1, 3, height, width]`.
    fn street(height: i64, width: i64) -> Tensor {
        let picture = Drive::new(&DriveConfig::new(20, 1, width as usize, height as usize)).frame(0, false).left;
        let bytes = Tensor::from_slice(picture.as_raw()).view([1, height, width, 3]);
        let of = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]);
        (bytes.permute([0, 3, 1, 2]) / 255.0 - of(IMAGENET_MEAN)) / of(IMAGENET_STD)
    }

    /// As the article has it: 5x5 maxima, and convolutions also where a factor a channel would do.
    fn as_in_the_article(network: &Network, x: &Tensor) -> Answers {
        let depthwise =
            |x: &Tensor, weight: &Tensor| x.conv2d(weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], weight.size()[0]);
        let before = network.forward_before_quarter_t(x, false).expect("it has this stage");
        let QuarterFactors { scales, heads } = network.quarter_factors().expect("it has this stage");
        let mut top = before.relu6();
        let mut sum = top.shallow_clone();
        for scale in &scales {
            let pooled = top.max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false);
            top = depthwise(&pooled, scale);
            sum = sum + pooled + &top;
        }
        let maps: Vec<_> = heads.iter().map(|factors| depthwise(&sum, factors).relu6()).collect();
        let answers = network.forward_after_quarter(&maps);
        network.refined(&answers).unwrap_or(answers)
    }

    /// Labels are equal but for ties, and depth is within a thousandth.
    fn assert_alike(found: &Answers, expected: &Answers, what: &str) {
        let both = |task| [found, expected].map(|answers| answers.get(task).expect("it has both heads"));
        let largest = |t: &Tensor| t.abs().max().double_value(&[]);
        let [scores, expected_scores] = both(Task::Segmentation);
        let [best, expected_best] = [scores, expected_scores].map(|scores| scores.argmax(1, true));
        // By how much the class that was found is the worse one: where it is the same, by nothing.
        let score_of = |class: &Tensor| expected_scores.gather(1, class, false);
        let worse = largest(&(score_of(&expected_best) - score_of(&best))) / largest(expected_scores);
        assert!(worse < 1e-4, "{what}: a class that is worse by {worse} of the largest score");
        let [code, expected_code] = both(Task::Depth);
        let off = largest(&((code - expected_code) * f64::from(LOG_SCALE)).expm1());
        assert!(off <= 1e-3, "{what}: depth is off by {off} of itself");
    }

    /// Each change of the deployment form by itself, then all of them, with trained weights on a street. That the answers stay
    /// at the heads' resolution is tested with what enlarges them (`tests/artifact.rs`).
    #[test]
    fn each_change_of_the_deployment_form_keeps_the_answers() {
        type Change = (&'static str, fn(&mut Network));
        const CHANGES: [Change; 7] = [
            ("factors in place of depthwise 1x1 convolutions", |_| ()),
            ("folded batch norm", |n| n.encoder = n.encoder.folded(NumberFormat::Input)),
            ("joined projections", |n| n.decoder = n.decoder.folded(NumberFormat::Input)),
            ("poolings by rows and columns", |n| n.is_folded = true),
            ("the refinement's differences as convolutions of constants", |n| {
                n.refinement = n.refinement.as_ref().map(refine::Refinement::folded);
            }),
            ("all", |n| *n = n.folded(NumberFormat::Input)),
            ("all, with constant weights", |n| *n = n.folded(NumberFormat::Fixed(Kind::Float))),
        ];
        let _no_grad = tch::no_grad_guard();
        let x = street(128, 256);
        for is_refined in [false, true] {
            let expected = as_in_the_article(&released(is_refined), &x);
            for (what, change) in CHANGES {
                let mut network = released(is_refined);
                change(&mut network);
                assert_alike(&network.forward_heads_t(&x, false), &expected, what);
            }
        }
    }

    /// What is learned on a GPU, whose pooling goes by rows and columns, is what is learned elsewhere.
    #[test]
    fn both_poolings_pull_at_the_same_pixels() {
        // Many equal numbers, as after ReLU6.
        let x = seeded::uniform(1, &[2, 3, 12, 9], [-2.0, 4.0]).floor().relu();
        let pull = seeded::uniform(2, &[2, 3, 12, 9], [0.0, 8.0]).floor();
        let gradient = |pool: Pool<'_>| {
            let x = x.copy().set_requires_grad(true);
            (pool(&x, None).0 * &pull).sum(Kind::Float).backward();
            x.grad()
        };
        assert_eq!(gradient(&decoder::pool), gradient(&decoder::separable_pool));
    }

    #[test]
    fn the_network_has_the_articles_parameter_count() {
        let vs = nn::VarStore::new(Device::Cpu);
        Network::new(&vs.root(), &NetworkConfig::default());
        let parameters: usize = vs.trainable_variables().iter().map(|t| t.numel()).sum();
        assert_eq!(parameters, 2_043_957);
    }
}

//! A training run's configuration file (`config/train/*.yaml`).

use super::optimizer::OptimizerConfig;
use super::pair;
use crate::data::augment::AugmentConfig;
pub use crate::data::classes::LabelSpace;
use crate::data::disk::read_text;
use crate::data::source::Source;
use crate::model::{NetworkConfig, Task};
use crate::nearest::suggestion;
use crate::yaml;
use anyhow::{anyhow, bail, Context as _};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Leave out the decoder's 1/4 stage: the heads then work at 1/8 of the input.
    #[serde(default)]
    pub extra_light: bool,
    /// Whether the network refines its depth (`model::refine`), and what then learns.
    #[serde(default)]
    pub refinement: Refinement,
    /// What the labels are taken as.
    #[serde(default)]
    pub label_space: LabelSpace,
    /// The network's heads, each with its loss.
    #[serde(default = "default_heads")]
    pub heads: Vec<HeadConfig>,
    /// How the heads' losses are added.
    #[serde(default)]
    pub weighting: Weighting,
    /// The losses are taken at every so many pixels of a crop, with the answers enlarged to them: 1 as in the article. At 4,
    /// where the heads' own answers stand, a thing that is thinner than 4 pixels is seldom met.
    #[serde(default = "one_each")]
    pub loss_stride: usize,
    /// Where frames come from.
    pub sources: Vec<SourceConfig>,
    /// What may happen to a frame.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// One after the other, each with its own size, schedule and optimiser.
    pub phases: Vec<Phase>,
    /// Adam or AdamW.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Longest gradient, as the Euclidean norm over all weights; a longer one is shortened to it. 0: none is.
    #[serde(default)]
    pub clip_gradient: f64,
    /// Weights to start from, a file or a list of files of which later ones go over earlier ones: ours, PyTorch's of the
    /// article's network, or torchvision's MobileNetV3-small.
    #[serde(default, deserialize_with = "one_or_several")]
    pub init: Vec<PathBuf>,
    /// Leave the encoder's weights as they start (its batch statistics still move): what the article's published code
    /// does, without saying so.
    #[serde(default)]
    pub freeze_encoder: bool,
    /// Decay of the weights' exponential moving average, which is then what is judged and kept; 0: none.
    #[serde(default)]
    pub ema: f64,
    /// Number format of the network; its variables, batch norm statistics and losses stay fp32.
    #[serde(default)]
    pub precision: TrainPrecision,
    /// Where decoded frames are kept.
    #[serde(default)]
    pub cache: Cache,
    /// When and how the run is looked at.
    #[serde(default)]
    pub watch: Watch,
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
}

/// A head and its loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// What it answers.
    pub task: Task,
    /// Factor of its loss (the article adds both losses unweighted).
    #[serde(default = "one")]
    pub weight: f64,
    /// Factor of the learning rate of the variables that are this head's alone, above 0. All that the depth's last layer reads
    /// is 0 or more, so that what pulls at a frame as a whole pulls at all of its weights to one side; a step of the same size at each
    /// of them then moves all depth.
    #[serde(default = "one")]
    pub rate: f64,
    /// Segmentation and depth: weigh classes by `1 / ln(1.1 + frequency)` instead of evenly.
    #[serde(default)]
    pub class_weights: bool,
    /// Segmentation: weight of a soft Jaccard loss beside the cross entropy. It weighs each class by what is at stake for
    /// its IoU: cross entropy alone seldom says "pole" where "building" is as likely.
    #[serde(default)]
    pub jaccard: f64,
    /// Depth: which loss.
    #[serde(default)]
    pub loss: DepthLoss,
    /// Depth: weight of pixels that are farther than depth is judged (80 m, the sky among them), 0 to 1. At an edge to the sky the
    /// logarithm jumps by more than at any other, and such pixels would pull hardest.
    #[serde(default = "one")]
    pub far_weight: f64,
    /// Depth: weight of a frame's median error beside what differs within the frame, 0 to 1. How far a frame is as a whole is
    /// the hardest to tell, pulls all pixels alike and so much of each step, in a direction that the next frame turns.
    #[serde(default = "one")]
    pub level_weight: f64,
}

/// Loss of the depth code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepthLoss {
    /// Mean squared error, as in the article.
    #[default]
    Squared,
    /// Inverse Huber (Laina et al. 2016).
    Berhu,
    /// The mean of the absolute error of the logarithm and of the relative error of the metres.
    Relative,
}

/// Whether there is a refinement of the depth, and what learns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refinement {
    /// The article's network.
    #[default]
    None,
    /// With a refinement, which learns with the rest. The depth has its loss before and after it.
    Joint,
    /// With a refinement, and it alone learns: the rest is as `init` has it. What is kept is the refinement's weights.
    Alone,
}

/// How the heads' losses are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// By the heads' `weight`.
    #[default]
    Fixed,
    /// By a learned uncertainty a task (Kendall et al. 2018), times the heads' `weight`.
    Uncertainty,
}

/// A source's part in the mix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Short name, for tables and `--data NAME=PATH`.
    pub name: String,
    /// What it is.
    pub data: Source,
    /// Its part of the crops, relative to the other sources' parts; by default each frame of all sources is as likely.
    #[serde(default)]
    pub share: Option<f64>,
    /// Factor on a phase's scales, for frames of another resolution than the other sources'.
    #[serde(default = "one")]
    pub scale: f64,
    /// Factor on `augment.aspect`, for frames of another shape than the other sources'.
    #[serde(default = "one")]
    pub aspect: f64,
    /// Split to train on.
    #[serde(default = "train_split")]
    pub train: String,
    /// Split to watch.
    #[serde(default = "val_split")]
    pub val: String,
    /// A model (its folder or model.yaml) whose answers stand in for the task that this source lacks. The source's decoded
    /// frames then stay in memory, whatever `cache` says.
    #[serde(default)]
    pub expert: Option<PathBuf>,
}

/// A part of the run with its own size and schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Width and height of the crops, pixels of the network's input.
    #[serde(deserialize_with = "pair::size")]
    pub crop: (usize, usize),
    /// Pixels of the crop a pixel of the frame, drawn evenly (on a logarithmic scale) between the two.
    #[serde(deserialize_with = "pair::range")]
    pub scale: (f32, f32),
    /// Crops of a step.
    pub batch: usize,
    /// Sizes that take turns with `crop`, a batch each: `scale` follows their width, so that they show as much of a frame,
    /// and `batch` their area, so that a batch has as many pixels.
    #[serde(default, deserialize_with = "pair::sizes")]
    pub also: Vec<(usize, usize)>,
    /// Batches whose gradients are averaged for a step.
    #[serde(default = "one_each")]
    pub accumulate: usize,
    /// Passes over as many crops as there are training frames. Either this or `steps`.
    #[serde(default)]
    pub epochs: Option<usize>,
    /// Steps. Either this or `epochs`.
    #[serde(default)]
    pub steps: Option<usize>,
    /// The one-cycle schedule's highest learning rate.
    pub max_learning_rate: f64,
    /// Share of the steps in which the learning rate rises.
    #[serde(default = "warmup")]
    pub warmup: f64,
}

/// What a phase's batch is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// Width and height of the crops, pixels.
    pub size: (usize, usize),
    /// Pixels of the crop a pixel of the frame, from, to.
    pub scale: (f32, f32),
    /// Crops.
    pub batch: usize,
}

/// Number format of the network while it trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainPrecision {
    /// Single precision.
    #[default]
    Fp32,
    /// `bfloat16`.
    Bf16,
    /// Half precision with loss scaling; CUDA.
    Fp16,
}

impl TrainPrecision {
    /// libtorch's name of it.
    pub fn kind(self) -> tch::Kind {
        match self {
            Self::Fp32 => tch::Kind::Float,
            Self::Bf16 => tch::Kind::BFloat16,
            Self::Fp16 => tch::Kind::Half,
        }
    }
}

/// Where decoded frames are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Nowhere: each is read and decoded each time.
    #[default]
    None,
    /// In memory, all of them: 8 bytes a pixel.
    Memory,
}

/// When and how a run is looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Watch {
    /// Steps between two looks at the validation splits.
    pub validate_every: usize,
    /// Steps between two checkpoints. After each look there is one, too.
    pub checkpoint_every: usize,
    /// Most frames of a source's validation split that are looked at, evenly chosen.
    pub frames: usize,
    /// Pixels of the network's input a pixel of the frame, for whole frames.
    pub scale: f32,
    /// The measure that says which weights are the best: `miou` (highest) or `abs_rel` (lowest), the mean of the sources that
    /// have it, or of one source as `NAME/miou`. With `refinement: alone` it is `abs_rel`.
    pub best: String,
    /// Frames of each source in the picture grid.
    pub pictures: usize,
}

impl Default for Watch {
    fn default() -> Self {
        Self { validate_every: 500, checkpoint_every: 200, frames: 100, scale: 1.0, best: "miou".into(), pictures: 4 }
    }
}

fn one_or_several<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "init: expected a file or a list of files")]
    enum Paths {
        One(PathBuf),
        Several(Vec<PathBuf>),
    }
    Ok(match Option::<Paths>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Paths::One(path)) => vec![path],
        Some(Paths::Several(paths)) => paths,
    })
}

fn default_heads() -> Vec<HeadConfig> {
    let head = |task| HeadConfig {
        task,
        weight: 1.0,
        class_weights: false,
        jaccard: 0.0,
        loss: DepthLoss::Squared,
        rate: 1.0,
        far_weight: 1.0,
        level_weight: 1.0,
    };
    vec![head(Task::Segmentation), head(Task::Depth)]
}

fn train_split() -> String {
    "train".into()
}

fn val_split() -> String {
    "val".into()
}

fn one() -> f64 {
    1.0
}

fn one_each() -> usize {
    1
}

fn warmup() -> f64 {
    0.3
}

impl TrainConfig {
    /// Reads and checks a configuration file, with changes (`heads.1.loss=berhu`: keys and list indices separated by
    /// dots, then a value as YAML).
    ///
    /// # Errors
    /// The file cannot be read, a change has no place in it, an unknown or missing key, a value out of its range.
    pub fn read(path: &Path, changes: &[String]) -> anyhow::Result<Self> {
        let with: String = changes.iter().map(|change| format!(" --set {change}")).collect();
        let with = if with.is_empty() { with } else { format!(" with{with}") };
        let context = || format!("training configuration {}{with}", path.display());
        let text = read_text(path).context("training configuration")?;
        let mut value: serde_yaml::Value = yaml::read(&text).with_context(context)?;
        for change in changes {
            set(&mut value, change)?;
        }
        // Through text again: its reader says where in the file something is wrong.
        let changed = serde_yaml::to_string(&value)?;
        let text = if changes.is_empty() { &text } else { &changed };
        let config: Self = yaml::read(text).map_err(|error| fault(&error, changes.is_empty())).with_context(context)?;
        config.check().with_context(context)?;
        Ok(config)
    }

    /// Shape of the network.
    pub fn network(&self) -> NetworkConfig {
        NetworkConfig {
            classes: self.label_space.channels(),
            extra_light: self.extra_light,
            refine_depth: self.refinement != Refinement::None,
            heads: self.heads.iter().map(|h| h.task).collect(),
        }
    }

    /// The head for a task.
    pub fn head(&self, task: Task) -> Option<&HeadConfig> {
        self.heads.iter().find(|h| h.task == task)
    }

    /// The option of `train` that says where a source is.
    pub(super) fn data_option(&self, source: &str) -> String {
        if self.sources.len() == 1 {
            "--data PATH".into()
        } else {
            format!("--data {source}=PATH")
        }
    }

    /// Checks the values' ranges.
    ///
    /// # Errors
    /// Names the key, what was expected and what was found.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.heads.is_empty() {
            bail!("heads: expected one or more, found none");
        }
        for (i, head) in self.heads.iter().enumerate() {
            if self.heads[..i].iter().any(|h| h.task == head.task) {
                bail!("heads: expected each task once, found {} twice", head.task.name());
            }
            not_negative(&format!("heads: weight of {}", head.task.name()), head.weight)?;
            if !(head.rate > 0.0 && head.rate.is_finite()) {
                bail!("heads: rate of {}: expected a number above 0, found {}", head.task.name(), head.rate);
            }
            not_negative(&format!("heads: jaccard of {}", head.task.name()), head.jaccard)?;
            for (key, weight) in [("far_weight", head.far_weight), ("level_weight", head.level_weight)] {
                if !(0.0..=1.0).contains(&weight) {
                    bail!("heads: {key}: expected 0 to 1, found {weight}");
                }
                if weight != 1.0 && head.task != Task::Depth {
                    bail!("heads: {key}: expected at depth only, found at {}", head.task.name());
                }
            }
            if head.jaccard > 0.0 && head.task != Task::Segmentation {
                bail!("heads: jaccard: expected at segmentation only, found at {}", head.task.name());
            }
            if head.loss != DepthLoss::default() && head.task != Task::Depth {
                bail!("heads: loss: expected at depth only, found at {}", head.task.name());
            }
            if head.class_weights && !matches!(head.task, Task::Segmentation | Task::Depth) {
                bail!("heads: class_weights: expected at segmentation or depth, found at {}", head.task.name());
            }
            if head.rate != 1.0 && self.refinement == Refinement::Alone {
                bail!("heads: rate: with refinement: alone no head learns; expected 1, found {}", head.rate);
            }
        }
        if self.refinement != Refinement::None {
            if let Some(task) = [Task::Segmentation, Task::Depth].into_iter().find(|task| self.head(*task).is_none()) {
                bail!("refinement: expected heads for segmentation and depth, found none for {}", task.name());
            }
        }
        if self.refinement == Refinement::Alone && self.precision != TrainPrecision::Fp32 {
            bail!("refinement: alone computes in fp32; expected precision: fp32, found another one");
        }
        self.check_sources()?;
        if self.phases.is_empty() {
            bail!("phases: expected one or more, found none");
        }
        for (i, phase) in self.phases.iter().enumerate() {
            phase.check().with_context(|| format!("phase {}", i + 1))?;
        }
        self.augment.check()?;
        self.optimizer.check()?;
        not_negative("clip_gradient", self.clip_gradient)?;
        if !(1..=8).contains(&self.loss_stride) {
            bail!("loss_stride: expected 1 to 8, found {}", self.loss_stride);
        }
        if !(0.0..1.0).contains(&self.ema) {
            bail!("ema: expected 0 or more and less than 1, found {}", self.ema);
        }
        at_least_one("watch.validate_every", self.watch.validate_every)?;
        at_least_one("watch.checkpoint_every", self.watch.checkpoint_every)?;
        at_least_one("watch.frames", self.watch.frames)?;
        if !(self.watch.scale > 0.0 && self.watch.scale <= 8.0) {
            bail!("watch.scale: expected a number above 0 and up to 8, found {}", self.watch.scale);
        }
        let (source, measure) = self.watch.best_of();
        if !["miou", "abs_rel"].contains(&measure) {
            bail!("watch.best: expected miou or abs_rel, or SOURCE/miou or SOURCE/abs_rel, found {}", self.watch.best);
        }
        if source.is_some_and(|name| !self.sources.iter().any(|s| s.name == name)) {
            bail!("watch.best: expected the name of a source before the slash, found {}", self.watch.best);
        }
        if self.refinement == Refinement::Alone && measure == "miou" {
            let best = &self.watch.best;
            bail!("watch.best: refinement: alone leaves the labels as they are; expected abs_rel, found {best}");
        }
        let task = if measure == "miou" { Task::Segmentation } else { Task::Depth };
        if self.head(task).is_none() {
            let best = &self.watch.best;
            bail!("watch.best: {best} needs a head for {}; add it to heads, or watch another measure", task.name());
        }
        Ok(())
    }

    fn check_sources(&self) -> anyhow::Result<()> {
        if self.sources.is_empty() {
            bail!("sources: expected one or more, found none");
        }
        for (i, source) in self.sources.iter().enumerate() {
            let name = &source.name;
            // They are heads of columns in metrics.csv, and in lines of the log.
            if name.is_empty() || name.contains(['/', '=', ',', '"']) || name.contains(char::is_control) {
                bail!("sources: expected names without / = \" comma and control characters, found {name:?}");
            }
            if self.sources[..i].iter().any(|s| s.name == *name) {
                bail!("sources: expected each name once, found {name} twice");
            }
            if !(source.scale > 0.0 && source.scale.is_finite()) {
                bail!("source {name}: scale: expected a number above 0, found {}", source.scale);
            }
            if !(0.25..=4.0).contains(&source.aspect) {
                bail!("source {name}: aspect: expected 0.25 to 4, found {}", source.aspect);
            }
            if source.share.is_some_and(|s| !(s > 0.0 && s.is_finite())) {
                bail!("source {name}: share: expected a number above 0, found {:?}", source.share);
            }
        }
        let given = self.sources.iter().filter(|s| s.share.is_some()).count();
        if given != 0 && given != self.sources.len() {
            bail!("sources: expected a share for all of them or for none, found {given} of {}", self.sources.len());
        }
        Ok(())
    }
}

impl SourceConfig {
    /// Whether the frames to watch are the frames to train on.
    pub fn watches_what_it_learns(&self) -> bool {
        let has_no_splits = matches!(&self.data, Source::Folder { images, .. } if !images.contains("{split}"));
        has_no_splits || self.train == self.val
    }
}

impl Watch {
    /// Source (`None`: all of them) and measure of `best`.
    pub fn best_of(&self) -> (Option<&str>, &str) {
        match self.best.split_once('/') {
            Some((source, measure)) => (Some(source), measure),
            None => (None, &self.best),
        }
    }
}

/// Crops of a batch, and batches of a step.
const MOST_BATCH: usize = 1 << 16;
/// Epochs or steps of a phase: no run comes to so many, and the sums of steps and schedules are far from what a number holds.
const MOST_TURNS: usize = 1_000_000_000;
/// Pixels.
const CROP_SIDES: RangeInclusive<usize> = 32..=8192;
/// Of a phase: beyond, a crop is of less than a pixel, or of a million times its size.
const SCALES: RangeInclusive<f32> = 1e-3..=1e3;

impl Phase {
    fn check(&self) -> anyhow::Result<()> {
        for (name, value) in [("batch", self.batch), ("accumulate", self.accumulate)] {
            if !(1..=MOST_BATCH).contains(&value) {
                bail!("{name}: expected 1 to {MOST_BATCH}, found {value}");
            }
        }
        let sizes = std::iter::once(("crop", &self.crop)).chain(self.also.iter().map(|size| ("also", size)));
        for (name, (w, h)) in sizes {
            if [w, h].iter().any(|n| !CROP_SIDES.contains(n)) {
                let (least, most) = (CROP_SIDES.start(), CROP_SIDES.end());
                bail!("{name}: expected {least} to {most} pixels a side, found {w} x {h}");
            }
        }
        let (low, high) = self.scale;
        let (least, most) = (SCALES.start(), SCALES.end());
        if !(SCALES.contains(&low) && SCALES.contains(&high) && low <= high) {
            bail!("scale: expected {least} <= low <= high <= {most}, found {low} and {high}");
        }
        let (name, turns) = match (self.epochs, self.steps) {
            (Some(n), None) => ("epochs", n),
            (None, Some(n)) => ("steps", n),
            _ => bail!("expected either epochs or steps"),
        };
        if !(1..=MOST_TURNS).contains(&turns) {
            bail!("{name}: expected 1 to {MOST_TURNS}, found {turns}");
        }
        not_negative("max_learning_rate", self.max_learning_rate)?;
        if !(0.0..=1.0).contains(&self.warmup) {
            bail!("warmup: expected 0 to 1, found {}", self.warmup);
        }
        Ok(())
    }

    /// Size, scales and number of crops of the batches that take turns.
    pub fn turns(&self) -> Vec<Turn> {
        let (width, height) = self.crop;
        let (low, high) = self.scale;
        let of = |size: (usize, usize)| {
            let wider = size.0 as f32 / width as f32;
            let batch = (self.batch * width * height) as f64 / (size.0 * size.1) as f64;
            Turn { size, scale: (low * wider, high * wider), batch: (batch.round() as usize).max(1) }
        };
        std::iter::once(self.crop).chain(self.also.iter().copied()).map(of).collect()
    }

    /// Steps of the phase, where all sources together have `frames` training frames.
    pub fn steps(&self, frames: usize) -> usize {
        let turns = self.turns();
        let crops: usize = turns.iter().map(|turn| turn.batch).sum();
        let an_epoch = (frames * turns.len()).div_ceil(crops * self.accumulate);
        self.steps.unwrap_or_else(|| self.epochs.unwrap_or(1) * an_epoch.max(1))
    }
}

/// What is wrong, with the key that was probably meant. Lines and columns of a text with changes in it are nobody's: they are left out.
fn fault(error: &serde_yaml::Error, is_file: bool) -> anyhow::Error {
    let mut text = error.to_string();
    // serde names them all: the one that it does not know, then those that it does.
    let is_name = text.contains("unknown field `") || text.contains("unknown variant `");
    let mut names = text.split('`').skip(1).step_by(2);
    let near = names.next().filter(|_| is_name).map_or_else(String::new, |unknown| suggestion(unknown, names));
    if let (false, Some(at)) = (is_file, text.rfind(" at line ")) {
        text.truncate(at);
    }
    anyhow!("{text}{near}")
}

fn at_least_one(name: &str, value: usize) -> anyhow::Result<()> {
    if value == 0 {
        bail!("{name}: expected 1 or more, found 0");
    }
    Ok(())
}

fn not_negative(name: &str, value: f64) -> anyhow::Result<()> {
    if !(value >= 0.0 && value.is_finite()) {
        bail!("{name}: expected a number of 0 or more, found {value}");
    }
    Ok(())
}

/// Makes one change to a YAML value.
fn set(value: &mut serde_yaml::Value, change: &str) -> anyhow::Result<()> {
    let (path, new) =
        change.split_once('=').with_context(|| format!("--set {change}: expected KEY=VALUE, such as seed=2"))?;
    let new: serde_yaml::Value = serde_yaml::from_str(new).with_context(|| format!("--set {change}"))?;
    let mut at = value;
    for key in path.split('.') {
        at = match at {
            serde_yaml::Value::Sequence(list) => {
                let n = list.len();
                let index = key.parse::<usize>().ok();
                index.and_then(|i| list.get_mut(i)).with_context(|| {
                    format!("--set {change}: expected an index of 0 to {} at '{key}'", n.saturating_sub(1))
                })?
            }
            serde_yaml::Value::Mapping(map) => map.entry(key.into()).or_insert(serde_yaml::Value::Null),
            nothing @ serde_yaml::Value::Null => {
                *nothing = serde_yaml::Value::Mapping(serde_yaml::Mapping::new());
                match nothing {
                    serde_yaml::Value::Mapping(map) => map.entry(key.into()).or_insert(serde_yaml::Value::Null),
                    _ => bail!("--set {change}: no place for '{key}'"),
                }
            }
            _ => bail!("--set {change}: there is a plain value before '{key}', not a list or keys"),
        };
    }
    *at = new;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "sources: [{name: a, data: {layout: cityscapes, root: x}}]\n\
                         phases: [{crop: [64, 64], scale: [1, 1], batch: 2, epochs: 3, max_learning_rate: 1e-3}]\n";

    fn read(text: &str) -> anyhow::Result<TrainConfig> {
        let config: TrainConfig = serde_yaml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn a_small_configuration_is_enough_and_epochs_become_steps() {
        let config = read(SMALL).expect("it is valid");
        assert_eq!(config.network(), NetworkConfig::default());
        assert_eq!(config.phases[0].steps(7), 12);
    }

    #[test]
    fn frames_to_watch_are_told_from_frames_to_train_on() {
        let of = |data: &str| {
            let data = format!("{{name: a, data: {{layout: folder, root: x, mapping: m{data}");
            let text = SMALL.replace("{name: a, data: {layout: cityscapes, root: x}", &data);
            read(&text).expect("it is valid").sources[0].watches_what_it_learns()
        };
        assert!(!of("}") && of(", images: pictures, labels: ids}") && of("}, val: train"));
        assert!(!read(SMALL).expect("it is valid").sources[0].watches_what_it_learns());
    }

    #[test]
    fn sizes_take_turns_with_as_much_of_a_frame_and_as_many_pixels() {
        let mut phase = read(SMALL).expect("it is valid").phases.remove(0);
        phase = Phase { crop: (64, 32), scale: (0.5, 1.0), batch: 8, also: vec![(128, 64), (32, 32)], ..phase };
        let [first, wide, narrow] = phase.turns().try_into().expect("three");
        assert_eq!(first, Turn { size: (64, 32), scale: (0.5, 1.0), batch: 8 });
        assert_eq!(wide, Turn { size: (128, 64), scale: (1.0, 2.0), batch: 2 });
        assert_eq!(narrow, Turn { size: (32, 32), scale: (0.25, 0.5), batch: 16 });
        // 26 crops in three steps.
        assert_eq!(phase.steps(52), 3 * 6);
        assert!(read(&SMALL.replace("batch: 2", "batch: 2, also: [[16, 64]]")).is_err());
    }

    #[test]
    fn changes_have_their_place() {
        let mut value: serde_yaml::Value = serde_yaml::from_str("a: [{b: 1}, 2]").expect("YAML");
        set(&mut value, "a.0.b=[3, x]").expect("a list's entry");
        set(&mut value, "c.d=true").expect("a new key");
        assert_eq!(serde_yaml::to_string(&value).expect("text"), "a:\n- b:\n  - 3\n  - x\n- 2\nc:\n  d: true\n");
        for (change, named) in [("a.2=1", "0 to 1"), ("a.1.x=1", "plain value"), ("a", "KEY=VALUE")] {
            let error = format!("{:#}", set(&mut value, change).expect_err(change));
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_wrong_change_is_named_and_no_line_of_a_text_that_nobody_sees() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, SMALL).expect("written");
        let said = |changes: &[&str]| {
            let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
            format!("{:#}", TrainConfig::read(&path, &changes).expect_err("something is wrong"))
        };
        let error = said(&["seed=1", "phases.0.bach=2"]);
        assert!(
            error.contains("config.yaml with --set seed=1 --set phases.0.bach=2: phases[0]: unknown field `bach`"),
            "{error}"
        );
        assert!(!error.contains(" at line ") && error.ends_with("; did you mean batch?"), "{error}");
        let error = said(&["heads=[{task: depth, loss: behru}]"]);
        assert!(error.ends_with("did you mean berhu?"), "{error}");
        for (change, expected) in [
            ("phases.0.crop=512x204", "phases[0].crop: invalid type: string \"512x204\", expected [WIDTH, HEIGHT]"),
            ("phases.0.crop=[64, 64, 64]", "phases[0].crop: invalid length 3, expected [WIDTH, HEIGHT]"),
            ("phases.0.also=[[64]]", "invalid length 1, expected [WIDTH, HEIGHT]"),
            ("phases.0.scale=0.5", "expected [LOW, HIGH]"),
            ("optimizer.betas=0.9", "expected [BETA1, BETA2]"),
            ("phases.0.batch=many", "invalid type: string \"many\", expected usize"),
        ] {
            let error = said(&[change]);
            assert!(error.contains(&format!("--set {change}: ")) && error.ends_with(expected), "{error}");
        }
        // Of the file itself it is said where.
        std::fs::write(&path, SMALL.replace("batch", "bach")).expect("written");
        let error = said(&[]);
        assert!(error.contains(" at line 2 column ") && error.ends_with("; did you mean batch?"), "{error}");
    }

    #[test]
    fn mistakes_are_named() {
        for (change, into, named) in [
            ("epochs: 3", "epochs: 3, steps: 4", "either epochs or steps"),
            ("epochs: 3", "epochs: 0", "epochs: expected 1 to 1000000000, found 0"),
            ("epochs: 3", "epochs: 9223372036854775808", "epochs: expected 1 to 1000000000"),
            ("epochs: 3", "steps: 1000000001", "steps: expected 1 to 1000000000"),
            ("batch: 2", "batch: 0", "batch"),
            ("batch: 2", "batch: 1000000000000", "batch: expected 1 to 65536"),
            ("batch: 2", "batch: 2, accumulate: 9223372036854775808", "accumulate: expected 1 to 65536"),
            ("crop: [64, 64]", "crop: [64, 18446744073709551615]", "crop: expected 32 to 8192"),
            ("scale: [1, 1]", "scale: [1e-30, 1]", "scale: expected 0.001"),
            ("phases:", "init: 5\nphases:", "init: expected a file or a list of files"),
            ("name: a", "name: a/b", "a/b"),
            ("name: a", "name: 'a\"b'", r#"found "a\"b""#),
            ("name: a", "name: \"a\\nb\"", r#"found "a\nb""#),
            ("scale: [1, 1]", "scale: [2, 1]", "low <= high"),
            ("phases:", "watch: {best: b/miou}\nphases:", "b/miou"),
            ("phases:", "heads: [{task: depth}, {task: depth}]\nphases:", "depth twice"),
            ("phases:", "colour: 1\nphases:", "colour"),
            ("phases:", "heads: [{task: depth, jaccard: 1}]\nphases:", "segmentation only"),
            ("phases:", "loss_stride: 0\nphases:", "loss_stride"),
            ("phases:", "heads: [{task: depth, far_weight: 2}]\nphases:", "0 to 1"),
            ("phases:", "heads: [{task: depth, rate: 0}]\nphases:", "above 0"),
            ("phases:", "heads: [{task: segmentation, far_weight: 0.5}]\nphases:", "depth only"),
            ("phases:", "heads: [{task: segmentation, level_weight: 0.5}]\nphases:", "depth only"),
            ("phases:", "heads: [{task: segmentation, loss: berhu}]\nphases:", "depth only"),
            ("phases:", "heads: [{task: segmentation}, {task: normals, class_weights: true}]\nphases:", "or depth"),
            (
                "phases:",
                "refinement: alone\nheads: [{task: segmentation}, {task: depth, rate: 0.1}]\nphases:",
                "no head learns",
            ),
            ("phases:", "refinement: joint\nheads: [{task: depth}]\nphases:", "none for segmentation"),
            ("phases:", "refinement: alone\nprecision: bf16\nphases:", "fp32"),
            ("phases:", "refinement: alone\nphases:", "expected abs_rel, found miou"),
            ("phases:", "refinement: alone\nwatch: {best: a/miou}\nphases:", "expected abs_rel, found a/miou"),
            ("phases:", "heads: [{task: depth}]\nphases:", "miou needs a head for segmentation"),
            ("phases:", "heads: [{task: segmentation}]\nwatch: {best: a/abs_rel}\nphases:", "a head for depth"),
        ] {
            let text = SMALL.replace(change, into);
            let error = format!("{:#}", read(&text).expect_err(&text));
            assert!(error.contains(named), "{error} does not name {named}");
        }
    }
}

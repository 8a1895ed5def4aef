//! A training run: phases of steps, looks at the validation splits, checkpoints.

use super::batches::{self, Batches, BatchesConfig, Kept, Supply};
use super::checkpoint::{self, Progress, Saved, State, CHECKPOINT};
use super::config::{LabelSpace, Refinement, SourceConfig, TrainConfig, TrainPrecision};
use super::ema::Ema;
use super::guard::{explained, guarded};
use super::labels::LabelTable;
use super::loss_scale::LossScale;
use super::objective::Objective;
use super::optimizer::Optimizer;
use super::quarter::QuarterStage;
use super::record::{self, Reach, Record, StepReport};
use super::step;
use super::validate::{self, LookConfig, Validation, Watched};
use super::{expert, origin, pictures, schedule};
use crate::data::disk::{hold, DataError};
use crate::data::source::{check_all, Groups, Item};
use crate::eval::ClassTable;
use crate::model::{weights, Network, NumberFormat, Task};
use anyhow::{anyhow, bail, Context as _};
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Steps between two lines of progress.
const REPORT_EVERY: usize = 20;
/// Weights after the newest look at the validation splits, or at the end.
const LAST: &str = "last.safetensors";
/// Weights with the best watched measure.
const BEST: &str = "best.safetensors";

/// What a run is started with besides its configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration's file, for the record.
    pub config_file: PathBuf,
    /// The run's folder.
    pub out: PathBuf,
    /// Go on from the checkpoint in the folder.
    pub resume: bool,
    /// End after this time; the schedules then follow the clock.
    pub minutes: Option<f64>,
}

/// Trains; the folder holds `config.yaml`, `run.json`, `metrics.csv`, TensorBoard events, `predictions.png`,
/// `checkpoint.safetensors` and the weights `last.safetensors` and `best.safetensors`.
///
/// # Errors
/// The data cannot be read, the folder is in use or cannot be written to, the loss is not finite, memory is out. The
/// folder then holds the last good checkpoint.
pub fn train(config: &TrainConfig, options: &Options, device: Device) -> anyhow::Result<()> {
    if config.precision == TrainPrecision::Fp16 && !device.is_cuda() {
        bail!("precision: fp16 trains on CUDA only; write bf16 or fp32 for this device");
    }
    if config.refinement == Refinement::Alone && config.init.is_empty() {
        bail!("refinement: alone learns from what a trained network answers; expected its weights (--init FILE), found none");
    }
    let _held = hold(&options.out, "training")?;
    check_folder(config, options)?;
    let mut run = guarded(|| Run::new(config, options, device)).flatten()?;
    let result = guarded(|| run.phases()).flatten();
    run.record.finish();
    result.map_err(|error| {
        let said = what_is_left(&error, &options.out);
        error.context(said)
    })
}

/// What is left in the folder of a run that ended with an error, and how it goes on from there.
fn what_is_left(error: &anyhow::Error, out: &Path) -> String {
    let checkpoint = out.join(CHECKPOINT);
    if !checkpoint.is_file() {
        return "no checkpoint had been written yet".into();
    }
    let how = match error.downcast_ref() {
        // Which frame comes when follows from the position, and what the data are is not to change: the frame comes again.
        Some(DataError::Io { path, .. } | DataError::Bad { path, .. }) if !path.starts_with(out) => {
            format!("mend or replace {} first: --resume goes on from there and comes to it again", path.display())
        }
        _ => "--resume goes on from it".into(),
    };
    format!("{} holds the last good state ({how})", checkpoint.display())
}

/// Weights to begin anew with what a run has learned so far.
fn newest_weights(config: &TrainConfig, out: &Path) -> PathBuf {
    let last = out.join(LAST);
    // Before the first look there is the checkpoint alone; where the refinement learns alone, only that has what it refines.
    if last.is_file() && config.refinement != Refinement::Alone {
        last
    } else {
        out.join(CHECKPOINT)
    }
}

/// Checks that the folder is free for a new run, or holds the one to resume. Nothing is written.
fn check_folder(config: &TrainConfig, options: &Options) -> anyhow::Result<()> {
    let out = &options.out;
    let checkpoint = out.join(CHECKPOINT);
    if !checkpoint.is_file() {
        // Their configuration, which tells `export` what depth was learned at, would become another run's.
        if let Some(weights) = [BEST, LAST].into_iter().find(|name| out.join(name).exists()) {
            bail!(
                "{} holds weights of a run ({weights}) without its {CHECKPOINT}; choose another folder, or move them away",
                out.display()
            );
        }
        if options.resume {
            // A run that was killed before its first checkpoint begins anew.
            log::info!("{}: no checkpoint yet, starting from the beginning", out.display());
        }
        return Ok(());
    }
    if !options.resume {
        bail!("{} holds a run already; --resume goes on with it, or choose another folder", out.display());
    }
    let saved = out.join(record::CONFIG);
    let text = fs::read_to_string(&saved).with_context(|| saved.display().to_string())?;
    let old: TrainConfig = crate::yaml::read(&text).with_context(|| saved.display().to_string())?;
    if old != *config {
        // Both as this program writes them: the file may leave out what has a default.
        let (was, now) = (serde_yaml::to_string(&old)?, serde_yaml::to_string(config)?);
        let differs = was.lines().zip(now.lines()).find(|(a, b)| a != b);
        bail!(
            "{} was begun with another configuration ({}); resume with that one, or choose another folder",
            out.display(),
            differs.map_or("of another length".into(), |(a, b)| format!("'{}' there, '{}' now", a.trim(), b.trim()))
        );
    }
    if let Some(begun) = record::begun_minutes(out) {
        // A float may not come back from a file bit for bit.
        let differ = match (begun, options.minutes) {
            (Some(a), Some(b)) => (a - b).abs() > 1e-9 * b,
            (a, b) => a.is_some() != b.is_some(),
        };
        if differ {
            let words = |m: Option<f64>| m.map_or("without --minutes".into(), |m| format!("with --minutes {m}"));
            bail!(
                "{} was begun {}, and its schedule would jump {}; resume it as it was begun, or choose another folder",
                out.display(),
                words(begun),
                words(options.minutes)
            );
        }
    }
    Ok(())
}

/// Everything of a run at work.
struct Run<'a> {
    config: &'a TrainConfig,
    options: &'a Options,
    device: Device,
    network: Network,
    /// Where the refinement alone learns: what answers before it, in its quicker form.
    before: Option<Network>,
    /// Where it is quicker than libtorch's operators.
    stage: Option<QuarterStage>,
    variables: VarStore,
    objective: Objective,
    /// What the objective learns.
    extra: VarStore,
    optimizer: Optimizer,
    ema: Option<Ema>,
    supplies: Arc<Vec<Supply>>,
    /// Of all sources.
    frames: usize,
    table: Arc<LabelTable>,
    watched: Vec<Watched>,
    record: Record,
    progress: Progress,
    /// When this process began with its steps, and the share of the run that was done then.
    begun: (Instant, f64),
}

/// Sums between two reports.
#[derive(Default)]
struct Sums {
    /// On the device, as the next one.
    losses: Vec<(Task, Tensor)>,
    /// Of the gradient's norm, where it is looked at.
    gradient: Option<Tensor>,
    steps: usize,
    /// Steps of these that moved the weights: in half precision not all do.
    taken: usize,
    crops: usize,
    waited: Duration,
    since: Option<Instant>,
}

impl<'a> Run<'a> {
    fn new(config: &'a TrainConfig, options: &'a Options, device: Device) -> anyhow::Result<Self> {
        let checkpoint = options.out.join(CHECKPOINT);
        let resumes = options.resume && checkpoint.is_file();
        // Before the data, which may take minutes: a misspelt file is told at once.
        check_experts(config)?;
        tch::manual_seed(config.seed as i64);
        let variables = VarStore::new(device);
        let network = Network::new(&variables.root(), &config.network());
        // A checkpoint has every variable: the weights that its run started from may be gone.
        let saved = if resumes {
            Some(Saved::read(&checkpoint)?)
        } else {
            start_from_weights(config, &variables)?;
            None
        };
        let reading = Instant::now();
        let mut groups = Groups::default();
        // First, as it is quick: what is wrong with a validation split is told before an expert has seen all training frames.
        let watched = watched(config, &mut groups)?;
        let supplies = batches::supplies(config, &mut groups)?;
        let table = LabelTable::new(config.label_space, &groups);
        for supply in &supplies {
            log::info!("{}: {} training frames, {:.0}% of the crops", supply.name, supply.len(), 100.0 * supply.share);
        }
        let frequencies = if config.heads.iter().any(|h| h.class_weights) {
            batches::frequencies(&supplies, &table)?
        } else {
            Vec::new()
        };
        log::info!("data read in {:.1} s", reading.elapsed().as_secs_f64());
        warn_of_data(config, &supplies, &watched);
        // Not before the data has been read: a run that fails at once leaves the folder as it was.
        let origins = origin::of(config, &supplies, &watched)?;
        if resumes {
            // A run of an older version does not say.
            let begun = record::origins(&options.out).unwrap_or_default();
            origin::check(&begun, &origins, &options.out, &newest_weights(config, &options.out))?;
            record::add_part(&options.out, device)?;
        } else {
            record::describe(&options.out, config, &options.config_file, options.minutes, device)?;
        }
        record::add_data(&options.out, batches::focal_share(&supplies), &origins)?;

        let extra = VarStore::new(device);
        let objective = Objective::new(&extra.root(), config, &table, &frequencies, device);
        for (name, mut t) in variables.variables() {
            let alone = config.refinement == Refinement::Alone && !Network::is_refinement(&name);
            if alone || (config.freeze_encoder && name.starts_with("encoder.")) {
                let _ = t.requires_grad_(false);
            }
        }
        let mut optimizer = optimizer(config, &variables, &extra)?;
        let mut ema = (config.ema > 0.0).then(|| Ema::new(named(&variables), config.ema));
        let mut progress = Progress::default();
        if let Some(saved) = saved {
            let mut state =
                State { network: &variables, objective: &extra, optimizer: &mut optimizer, ema: ema.as_mut() };
            progress = state.restore(saved, &checkpoint)?;
            log::info!("going on after step {}", progress.total);
        }
        let before = (config.refinement == Refinement::Alone).then(|| network.folded(NumberFormat::Fixed(Kind::Float)));
        let frames = supplies.iter().map(Supply::len).sum();
        let mut run = Self {
            config,
            options,
            device,
            before,
            network,
            stage: QuarterStage::new(device, config.precision.kind()),
            variables,
            objective,
            extra,
            optimizer,
            ema,
            supplies: Arc::new(supplies),
            frames,
            table: Arc::new(table),
            watched,
            record: Record::open(&options.out, config, &progress)?,
            progress,
            begun: (Instant::now(), 0.0),
        };
        run.begun.1 = run.share();
        Ok(run)
    }

    fn state(&mut self) -> State<'_> {
        State {
            network: &self.variables,
            objective: &self.extra,
            optimizer: &mut self.optimizer,
            ema: self.ema.as_mut(),
        }
    }

    fn phases(&mut self) -> anyhow::Result<()> {
        while self.progress.phase < self.config.phases.len() {
            self.phase()?;
            self.progress.phase += 1;
            self.progress.step = 0;
            self.progress.phase_elapsed_s = 0.0;
            // Each phase has a schedule and moments of its own.
            if self.progress.phase < self.config.phases.len() {
                self.optimizer = optimizer(self.config, &self.variables, &self.extra)?;
            }
            self.checkpoint()?;
        }
        self.record.say(&format!(
            "{} steps in {:.1} min; weights: {}",
            self.progress.total,
            self.progress.elapsed_s / 60.0,
            self.options.out.join(LAST).display()
        ));
        Ok(())
    }

    fn phase(&mut self) -> anyhow::Result<()> {
        let index = self.progress.phase;
        let phase = &self.config.phases[index];
        let steps = phase.steps(self.frames);
        let seconds = self.options.minutes.map(|m| m * 60.0 * self.part_of(index));
        let skip = self.progress.step * phase.accumulate;
        let supply = Batches::new(
            self.supplies.clone(),
            self.table.clone(),
            BatchesConfig::new(self.config, phase, index, skip, self.device),
        )?;
        let before = (self.progress.elapsed_s, self.progress.phase_elapsed_s);
        let started = Instant::now();
        let mut sums = Sums::default();
        // Killed in its first look, a run goes on from the checkpoint before it.
        let every = self.config.watch.validate_every;
        let is_look_due = |progress: &Progress| progress.total.is_multiple_of(every);
        if self.progress.step > 0 && is_look_due(&self.progress) && self.progress.looked != self.progress.total {
            self.look()?;
            self.checkpoint()?;
        }
        loop {
            let here = started.elapsed().as_secs_f64();
            (self.progress.elapsed_s, self.progress.phase_elapsed_s) = (before.0 + here, before.1 + here);
            // With a time limit the schedule follows the clock, so that it always comes to its end.
            let share = match seconds {
                Some(all) => self.progress.phase_elapsed_s / all,
                None => self.progress.step as f64 / steps as f64,
            };
            if share >= 1.0 {
                break;
            }
            let (now, of) = match seconds {
                Some(_) => ((share * 1e5) as usize, 100_000),
                None => (self.progress.step, steps),
            };
            let rate = schedule::one_cycle(now, of, phase.max_learning_rate, phase.warmup);
            self.step(&supply, phase.accumulate, rate, &mut sums)?;
            self.progress.step += 1;
            self.progress.total += 1;
            self.record.advance(&self.reach());
            let total = self.progress.total;
            if total.is_multiple_of(REPORT_EVERY) {
                self.report(&mut sums, rate)?;
            }
            let is_look = is_look_due(&self.progress);
            if is_look || total.is_multiple_of(self.config.watch.checkpoint_every) {
                // Nothing is written of weights whose loss was no number.
                self.check_losses(&sums.losses)?;
            }
            if is_look {
                self.look()?;
            }
            // After a look, too: it may have replaced the best weights, and what goes on has to know how good they are.
            if is_look || total.is_multiple_of(self.config.watch.checkpoint_every) {
                self.checkpoint()?;
            }
        }
        if self.progress.total == 0 {
            bail!("the time was over before the first step, so there are no weights: pass more --minutes");
        }
        if self.progress.looked == self.progress.total {
            return Ok(());
        }
        self.look()
    }

    /// A phase's part of the time, by the pixels that it computes.
    fn part_of(&self, index: usize) -> f64 {
        let work =
            |p: &super::config::Phase| (p.steps(self.frames) * p.batch * p.accumulate * p.crop.0 * p.crop.1) as f64;
        work(&self.config.phases[index]) / self.config.phases.iter().map(work).sum::<f64>()
    }

    /// The share of the run's steps that is done, by the pixels that they compute.
    fn share(&self) -> f64 {
        let Progress { phase, step, .. } = self.progress;
        let before: f64 = (0..phase).map(|index| self.part_of(index)).sum();
        let at_hand = self.config.phases.get(phase);
        let here = at_hand.map_or(0.0, |p| self.part_of(phase) * step as f64 / p.steps(self.frames) as f64);
        before + here
    }

    fn reach(&self) -> Reach {
        let Progress { phase, total, elapsed_s, .. } = self.progress;
        let (share, left) = match self.options.minutes.map(|minutes| minutes * 60.0) {
            // All of its time is known.
            Some(all_s) => ((elapsed_s / all_s).min(1.0), Duration::from_secs_f64((all_s - elapsed_s).clamp(0.0, 1e9))),
            None => {
                let (since, before) = self.begun;
                let share = self.share();
                (share, record::time_left(since.elapsed(), before, share))
            }
        };
        Reach { total, phase, phases: self.config.phases.len(), share, left }
    }

    /// One step of the optimiser.
    fn step(&mut self, supply: &Batches, accumulate: usize, rate: f64, sums: &mut Sums) -> anyhow::Result<()> {
        sums.since.get_or_insert_with(Instant::now);
        let half = self.config.precision == TrainPrecision::Fp16;
        let scale = if half { self.progress.loss_scale } else { 1.0 };
        self.optimizer.zero_grad();
        for _ in 0..accumulate {
            let waiting = Instant::now();
            let batch = supply.next()?;
            sums.waited += waiting.elapsed();
            sums.crops += batch.crops();
            let (network, objective, device, kind) =
                (&self.network, &self.objective, self.device, self.config.precision.kind());
            let (stage, before) = (self.stage.as_ref(), self.before.as_ref());
            let parts = guarded(|| {
                let batch = batch.to(device);
                let scale = scale / accumulate as f64;
                let loss = match before {
                    Some(before) => step::refinement_pass(network, before, objective, stage, &batch, scale)?,
                    None => step::pass(network, objective, stage, &batch, kind, scale)?,
                };
                Ok(loss.parts.into_iter().map(|(task, t)| (task, t.to_kind(Kind::Double))).collect::<Vec<_>>())
            })?
            .map_err(|e: tch::TchError| explained(&e.to_string()))?;
            // To read a number from a GPU is to wait for all that it has been asked to do: there it is done once a report.
            if !device.is_cuda() {
                self.check_losses(&parts)?;
            }
            for (task, value) in parts {
                let value = value / accumulate as f64;
                match sums.losses.iter_mut().find(|(t, _)| *t == task) {
                    Some((_, sum)) => *sum = &*sum + value,
                    None => sums.losses.push((task, value)),
                }
            }
        }
        sums.steps += 1;
        if half {
            self.optimizer.scale_gradients(1.0 / scale);
            let mut scale = LossScale { factor: scale, steady: self.progress.steady };
            let is_taken = scale.follow(self.optimizer.gradients_are_finite())?;
            (self.progress.loss_scale, self.progress.steady) = (scale.factor, scale.steady);
            if !is_taken {
                return Ok(());
            }
        }
        sums.taken += 1;
        if self.config.clip_gradient > 0.0 {
            let norm = self.optimizer.clip_gradient_norm(self.config.clip_gradient).to_kind(Kind::Double);
            sums.gradient = Some(match sums.gradient.take() {
                Some(sum) => sum + norm,
                None => norm,
            });
        }
        self.optimizer.step(rate);
        if let Some(ema) = &mut self.ema {
            ema.update();
        }
        Ok(())
    }

    /// Losses, or sums of them, are numbers.
    fn check_losses(&self, losses: &[(Task, Tensor)]) -> anyhow::Result<()> {
        for (task, value) in losses {
            let value = value.double_value(&[]);
            if !value.is_finite() {
                bail!(
                    "the {} loss is {value} after step {}: a lower max_learning_rate helps, or precision fp32",
                    task.name(),
                    self.progress.total
                );
            }
        }
        Ok(())
    }

    fn report(&mut self, sums: &mut Sums, rate: f64) -> anyhow::Result<()> {
        let sums = std::mem::take(sums);
        self.check_losses(&sums.losses)?;
        let mean = |sum: &Tensor, steps: usize| sum.double_value(&[]) / steps as f64;
        let losses: Vec<(Task, f64)> = sums.losses.iter().map(|(t, v)| (*t, mean(v, sums.steps))).collect();
        let gradient_norm = sums.gradient.as_ref().map(|sum| mean(sum, sums.taken));
        let seconds = sums.since.map_or(0.0, |s| s.elapsed().as_secs_f64()).max(1e-9);
        let report = StepReport {
            reach: self.reach(),
            learning_rate: rate,
            losses: &losses,
            gradient_norm,
            crops_per_s: sums.crops as f64 / seconds,
            waiting: sums.waited.as_secs_f64() / seconds,
        };
        self.record.steps(&report)
    }

    /// Looks at the validation splits, with the averaged weights where there are such; keeps the weights.
    fn look(&mut self) -> anyhow::Result<()> {
        self.check_weights()?;
        // Weights without a checkpoint are taken for those of another run.
        if !self.options.out.join(CHECKPOINT).is_file() {
            self.checkpoint()?;
        }
        self.progress.looked = self.progress.total;
        self.averaged(|run| {
            let still = run.config.augment.still();
            let look_config = LookConfig { augment: &still, kind: run.config.precision.kind(), device: run.device };
            let mut found: Vec<(String, Validation)> = Vec::new();
            let mut shown = Vec::new();
            for source in &run.watched {
                let network = &run.network;
                let indices = evenly(source.frames.len(), run.config.watch.pictures);
                let (validation, pictures) = guarded(|| {
                    let look = |index| source.look(index, network, &run.table, &look_config);
                    (
                        source.validate(network, &run.table, &look_config),
                        indices.into_iter().map(look).collect::<Vec<_>>(),
                    )
                })?;
                found.push((source.name.clone(), validation));
                shown.extend(pictures);
            }
            run.record.validation(run.progress.total, run.progress.phase, &found)?;
            if !shown.is_empty() {
                let png = pictures::grid_of(&shown, &run.table)?;
                run.record.picture(run.progress.total, &png)?;
            }
            run.keep(LAST)?;
            if let Some((value, more)) = validate::watched(run.config, &found) {
                let better = |best: f64| if more { value > best } else { value < best };
                if run.progress.best.is_none_or(better) {
                    run.progress.best = Some(value);
                    run.keep(BEST)?;
                }
            }
            Ok(())
        })
    }

    /// Writes the weights that were learned.
    fn keep(&self, name: &str) -> Result<(), weights::WeightsError> {
        let learned = |name: &str| self.before.is_none() || Network::is_refinement(name);
        weights::save_some(&self.variables, learned, &self.options.out.join(name))
    }

    /// Does something with the averaged weights in the network.
    fn averaged<T>(&mut self, work: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        if let Some(ema) = &mut self.ema {
            ema.swap();
        }
        let result = work(self);
        if let Some(ema) = &mut self.ema {
            ema.swap();
        }
        result
    }

    /// A step along a broken gradient leaves broken weights, which the next loss would tell: too late for what is kept.
    fn check_weights(&self) -> anyhow::Result<()> {
        let whole = |t: &Tensor| t.isfinite().all().int64_value(&[]) != 0;
        match named(&self.variables).into_iter().find(|(_, t)| !whole(t)) {
            Some((name, _)) => bail!(
                "{name} is not finite after step {}: a lower max_learning_rate or clip_gradient helps, or precision fp32",
                self.progress.total
            ),
            None => Ok(()),
        }
    }

    fn checkpoint(&mut self) -> anyhow::Result<()> {
        self.check_weights()?;
        let path = self.options.out.join(CHECKPOINT);
        let progress = self.progress;
        self.state().save(&progress, &path)
    }
}

/// What the data lack that would be seen only late.
fn warn_of_data(config: &TrainConfig, supplies: &[Supply], watched: &[Watched]) {
    for task in batches::untaught(config, supplies) {
        log::warn!("heads: no training frame has truth for {}: this head stays as it starts", task.name());
    }
    for source in config.sources.iter().filter(|source| source.watches_what_it_learns()) {
        log::warn!(
            "source {}: the frames that it watches are those that it trains on, so that its measures and {BEST} say nothing \
             of others; give it two splits ({{split}} in the paths of a folder, train and val)",
            source.name
        );
    }
    for small in batches::too_small(config, supplies) {
        log::warn!("{small}");
    }
    if !validate::can_be_watched(config, watched) {
        let best = &config.watch.best;
        log::warn!("watch.best: no validation frame has truth for {best}: there will be no {BEST}, only {LAST}");
    }
}

/// That there are the models that are to complete frames, and that they are whole.
fn check_experts(config: &TrainConfig) -> anyhow::Result<()> {
    for source in &config.sources {
        if let Some(model) = &source.expert {
            expert::identity(model).with_context(|| format!("source {}", source.name))?;
        }
    }
    Ok(())
}

/// Loads the weights that the run starts from; what none of them has starts at random.
fn start_from_weights(config: &TrainConfig, variables: &VarStore) -> anyhow::Result<()> {
    let mut random: Vec<String> = variables.variables().into_keys().collect();
    for path in &config.init {
        let kept = weights::fill_start(variables, checkpoint::weights_of(path)?, path)?;
        random.retain(|name| kept.contains(name));
        log::info!("starting from {}; {} variables start at random", path.display(), random.len());
    }
    check_refined(config, &random)
}

/// What a refinement that learns alone refines has been learned: `random` are the variables that no weights were given for.
fn check_refined(config: &TrainConfig, random: &[String]) -> anyhow::Result<()> {
    let is_read = |name: &&String| {
        !Network::is_refinement(name) && ![Task::Normals, Task::Edges].iter().any(|task| task.owns(name))
    };
    if let (Refinement::Alone, Some(name)) = (config.refinement, random.iter().find(is_read)) {
        bail!("refinement: alone refines what trained weights answer; expected {name} in the files of init, found none that fits");
    }
    Ok(())
}

/// Variables with their names, sorted.
fn named(store: &VarStore) -> Vec<(String, Tensor)> {
    let mut variables: Vec<_> = store.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    variables
}

fn optimizer(config: &TrainConfig, network: &VarStore, extra: &VarStore) -> anyhow::Result<Optimizer> {
    let trained = named(network).into_iter().chain(named(extra)).filter(|(_, t)| t.requires_grad()).collect();
    let mut optimizer = Optimizer::new(trained, config.optimizer)?;
    optimizer.set_rates(|name| config.heads.iter().find(|h| h.task.owns(name)).map_or(1.0, |h| h.rate));
    Ok(optimizer)
}

/// Checks and decodes the validation frames of all sources.
fn watched(config: &TrainConfig, groups: &mut Groups) -> anyhow::Result<Vec<Watched>> {
    // All label codes have to be known before it is said what each of them is judged as.
    let mut indices = Vec::new();
    for source in &config.sources {
        let items = source.data.index(&source.val, groups).map_err(|error| match error {
            DataError::Nowhere(what) => anyhow!("{what} ({} says where it is)", config.data_option(&source.name)),
            error => error.into(),
        });
        indices.push(items.with_context(|| format!("source {}", source.name))?);
    }
    let of = |(source, items): (&SourceConfig, &Vec<Item>)| {
        let context = || format!("source {}, split {}", source.name, source.val);
        let chosen: Vec<_> = evenly(items.len(), config.watch.frames).into_iter().map(|i| items[i].clone()).collect();
        let facts = check_all(&chosen).with_context(context)?;
        batches::check_focal(config, &facts).with_context(context)?;
        let name = format!("{}, split {}", source.name, source.val);
        batches::make_room(&name, &facts, Kept::Watch, batches::available_bytes()).with_context(context)?;
        let frames: Vec<_> = chosen.par_iter().map(Item::decode).collect::<Result<_, _>>().with_context(context)?;
        let classes = match config.label_space {
            LabelSpace::TrainIds => ClassTable::new(source.data.judged_classes().with_context(context)?, groups),
            LabelSpace::Categories => ClassTable::categories(groups),
        };
        Ok(Watched {
            name: source.name.clone(),
            scale: config.watch.scale * source.scale as f32,
            aspect: config.augment.aspect * source.aspect as f32,
            classes,
            origin: origin::Frames::of(items),
            frames,
        })
    };
    config.sources.iter().zip(&indices).map(of).collect()
}

/// At most `most` of `n` indices, evenly chosen.
fn evenly(n: usize, most: usize) -> Vec<usize> {
    let count = n.min(most);
    (0..count).map(|i| i * n / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_ended_at_a_frame_says_what_to_do_before_it_is_resumed() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path();
        let said = |path: &Path| {
            let frame: anyhow::Result<()> = Err(DataError::bad(path, "no picture").into());
            what_is_left(&frame.context("source street").expect_err("an error"), out)
        };
        let frame = Path::new("data/a.png");
        assert_eq!(said(frame), "no checkpoint had been written yet");
        let checkpoint = out.join(CHECKPOINT);
        fs::write(&checkpoint, "").expect("written");
        let left = format!("{} holds the last good state (", checkpoint.display());
        assert_eq!(
            said(frame),
            format!("{left}mend or replace data/a.png first: --resume goes on from there and comes to it again)")
        );
        // Of the run's own files, and of anything else.
        assert_eq!(said(&out.join("metrics.csv")), format!("{left}--resume goes on from it)"));
        assert_eq!(what_is_left(&anyhow!("a loss"), out), format!("{left}--resume goes on from it)"));
    }

    #[test]
    fn weights_to_begin_anew_with_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path();
        let text = "sources: [{name: a, data: {layout: cityscapes, root: x}}]\nphases: []";
        let config: TrainConfig = serde_yaml::from_str(text).expect("a configuration");
        let alone = TrainConfig { refinement: Refinement::Alone, ..config.clone() };
        assert_eq!(newest_weights(&config, out), out.join(CHECKPOINT));
        fs::write(out.join(LAST), "").expect("written");
        assert_eq!(newest_weights(&config, out), out.join(LAST));
        assert_eq!(newest_weights(&alone, out), out.join(CHECKPOINT), "the weights are the refinement's alone");
    }
}

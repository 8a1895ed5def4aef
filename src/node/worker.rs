//! The inference thread: owns the model and the output publishers, computes what is wanted, and has it published (`products`).

use super::arrival::{Calibrations, Content, Frame};
use super::inbox::{Batching, Inbox, Taken};
use super::loader::Loaded;
use super::lock;
use super::products::{Batch, Closed, Gate, InFlight, Products};
use super::publishers::Publishers;
use super::settings::{ClassSets, Settings, SettingsCell};
use super::stats::{Stats, Throttle, BROKEN};
use crate::export::Manifest;
use crate::frame::amend::IgnoreMask;
use crate::frame::camera::depth_factor;
use crate::frame::clock::nanoseconds;
use crate::frame::compressed::Decoder;
use crate::frame::convert::Converter;
use crate::frame::geometry::{Geometry, GeometryError, Placement};
use crate::frame::pipeline::{Job, Outputs};
use crate::frame::view::ImageView;
use crate::interface::CameraSettings;
use anyhow::{anyhow, bail, Context as _};
use r2r::Clock;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread sleeps without a frame before it looks around.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether the thread has come to something.
const LOOK: Duration = Duration::from_millis(5);
/// The longest time between two images on which the network failed that counts as one of failure.
const GAP: Duration = Duration::from_secs(1);
/// How long the spinning thread waits for an output that is being sent when it says that no more are.
const SETTLE: Duration = Duration::from_millis(100);

/// One camera, as the thread is given it.
pub struct CameraSetup {
    /// Its name; empty for the one unnamed camera.
    pub name: String,
    /// Output topics.
    pub publishers: Publishers,
    /// Calibrations.
    pub calibrations: Arc<Mutex<Calibrations>>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// What of its images is ignored.
    pub ignore: Option<IgnoreMask>,
}

/// What the thread is given.
pub struct Setup {
    /// The model.
    pub model: Loaded,
    /// In the order of the inbox's slots.
    pub cameras: Vec<CameraSetup>,
    /// Where frames come from.
    pub inbox: Arc<Inbox<Frame>>,
    /// Parameters.
    pub settings: Arc<SettingsCell>,
    /// `~/enable`.
    pub enabled: Arc<AtomicBool>,
    /// The node's clock.
    pub clock: Arc<Mutex<Clock>>,
}

/// A model on its way to the thread, and where its arrival is told.
type Swap = (Box<Loaded>, SyncSender<()>);

/// What the spinning thread and this one tell each other.
#[derive(Debug, Default)]
struct Shared {
    swap: Mutex<Option<Swap>>,
    /// That the network fails; `None` from the first frame that it answers again.
    failure: Mutex<Option<Failure>>,
    gate: Gate,
    /// Since when the thread is at something else than waiting for frames.
    busy_since: Mutex<Option<Instant>>,
}

/// The network failed on all frames of a while.
#[derive(Debug)]
struct Failure {
    /// How long it has failed, from image to image.
    failing: Duration,
    /// On the newest image.
    until: Instant,
    /// On the newest image.
    why: String,
}

impl Failure {
    /// One more, after those before it. Where there was no image for longer than [`GAP`], the time is not known to be one of failure:
    /// the camera was silent, the node not active, the process stopped.
    fn after(before: Option<&Self>, now: Instant, why: String) -> Self {
        let failing = before
            .map_or(Duration::ZERO, |before| before.failing + now.saturating_duration_since(before.until).min(GAP));
        Self { failing, until: now, why }
    }
}

/// The running thread.
pub struct Worker {
    thread: JoinHandle<Vec<Publishers>>,
    inbox: Arc<Inbox<Frame>>,
    shared: Arc<Shared>,
}

impl Worker {
    /// Starts it. It answers no frame before [`Self::set_active`].
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        let inbox = setup.inbox.clone();
        let shared = Arc::new(Shared { gate: Gate::new(setup.enabled.clone()), ..Shared::default() });
        let its_own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("inference".into())
            .spawn(move || Loop::new(setup, its_own).run())
            .context("cannot start the inference thread")?;
        Ok(Self { thread, inbox, shared })
    }

    /// Gives it another model: it is used from the next frame on, and the receiver is told then.
    pub fn swap(&self, model: Loaded) -> Receiver<()> {
        let (tell, done) = sync_channel(1);
        *lock(&self.shared.swap) = Some((Box::new(model), tell));
        self.inbox.wake();
        done
    }

    /// Why the network fails, if it failed on the newest frame that it was given.
    pub fn failure(&self) -> Option<String> {
        lock(&self.shared.failure).as_ref().map(|failure| failure.why.clone())
    }

    /// For how long nothing has come out of the network although it was given frames: from failure to failure, or at one batch, of
    /// which only the time counts for which the process has been `awake`. `None`: it answers.
    pub fn barren_for(&self, awake: Duration) -> Option<Duration> {
        let failing = lock(&self.shared.failure).as_ref().map(|failure| failure.failing);
        failing.max(self.busy_for().map(|busy| busy.min(awake)))
    }

    /// Whether the managed node is active; of one that is not any more, nothing is published afterwards (see
    /// [`Self::settle`]).
    pub fn set_active(&self, active: bool) {
        self.shared.gate.set_active(active);
        if !active {
            self.settle();
        }
    }

    /// For who has just said that no frame is to be answered: waits until the output that is being sent is out. Not for
    /// longer than 0.1 s, in which nothing else is answered.
    pub fn settle(&self) {
        let start = Instant::now();
        while self.shared.gate.is_in_use() && start.elapsed() < SETTLE && !self.has_ended() {
            std::thread::sleep(LOOK);
        }
    }

    /// How long it has been at one batch; `None` while it waits for frames.
    pub fn busy_for(&self) -> Option<Duration> {
        let since = *lock(&self.shared.busy_since);
        since.filter(|_| !self.has_ended()).map(|since| since.elapsed())
    }

    /// Whether it is at no batch.
    pub fn is_idle(&self) -> bool {
        self.busy_for().is_none()
    }

    /// Waits until `done`, at most `limit`.
    ///
    /// # Errors
    /// It does not come to it: the network does not return.
    pub fn wait(&self, limit: Duration, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let start = Instant::now();
        while !done(self) {
            if start.elapsed() > limit {
                let seconds = self.busy_for().unwrap_or(limit).as_secs_f64();
                bail!("the network has been at one batch for {seconds:.0} s and cannot be interrupted");
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Whether it has ended (it should not, by itself).
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it after the batch it is at, however long that takes (see [`Self::wait`]); gives the publishers back.
    ///
    /// # Errors
    /// It panicked.
    pub fn end(self) -> anyhow::Result<Vec<Publishers>> {
        self.inbox.close();
        self.thread.join().map_err(|_| anyhow!("the inference thread died of an internal error; its message is above"))
    }
}

/// One camera's part of the thread's state: what is needed before the network.
struct Camera {
    calibrations: Arc<Mutex<Calibrations>>,
    stats: Arc<Stats>,
    converter: Converter,
    decoder: Decoder,
    outputs: Outputs,
    geometry: Option<(Placement, (usize, usize), Geometry)>,
    sets: ClassSets,
    products: Products,
}

/// The thread's own state.
struct Loop {
    inbox: Arc<Inbox<Frame>>,
    settings: Arc<SettingsCell>,
    clock: Arc<Mutex<Clock>>,
    shared: Arc<Shared>,
    model: Loaded,
    cameras: Vec<Camera>,
    failures: Throttle,
}

impl Loop {
    fn new(setup: Setup, shared: Arc<Shared>) -> Self {
        let cameras = setup.cameras.into_iter().map(Camera::new).collect();
        let Setup { model, inbox, settings, clock, .. } = setup;
        Self { inbox, settings, clock, shared, model, cameras, failures: Throttle::default() }
    }

    fn run(mut self) -> Vec<Publishers> {
        let mut frames = Vec::new();
        loop {
            let settings = lock(&self.settings).clone();
            self.announce_classes(&settings);
            let most = self.model.pipeline.max_batch();
            let batching = Batching { most, timeout: settings.node.batch_timeout };
            *lock(&self.shared.busy_since) = None;
            let taken = self.inbox.take(PATIENCE, batching, &mut frames);
            *lock(&self.shared.busy_since) = Some(Instant::now());
            match taken {
                // What is left to do is to let go of the model.
                Taken::Closed => break,
                Taken::Nothing => {}
                // Parameters may have changed while we waited.
                Taken::Frames => {
                    let settings = lock(&self.settings).clone();
                    self.answer(&mut frames, &settings);
                }
            }
            let swap = lock(&self.shared.swap).take();
            if let Some((model, tell)) = swap {
                self.model = *model;
                *lock(&self.shared.failure) = None;
                self.cameras.iter_mut().for_each(Camera::forget_model);
                let _ = tell.send(());
            }
        }
        self.cameras.into_iter().map(|c| c.products.into_publishers()).collect()
    }

    /// Publishes what the labels mean, once for each camera, model and switching on; who comes late gets it too.
    fn announce_classes(&mut self, settings: &Settings) {
        #[cfg(has_vision_msgs)]
        for (camera, settings) in self.cameras.iter_mut().zip(&settings.cameras) {
            let classes = &self.model.ready.manifest.classes;
            camera.products.announce_classes(settings.outputs.label_info, classes, &self.clock);
        }
        #[cfg(not(has_vision_msgs))]
        let _ = settings;
    }

    /// Computes and publishes a batch; at most one frame of each camera.
    fn answer(&mut self, frames: &mut Vec<(usize, Frame)>, settings: &Settings) {
        let Self { model: Loaded { pipeline, ready }, cameras, clock, shared, failures, .. } = self;
        if !shared.gate.is_open() {
            // They waited when the node was disabled or deactivated.
            for (camera, _) in frames.drain(..) {
                Stats::count(&cameras[camera].stats.skipped);
            }
            return;
        }
        let size = pipeline.network_size();
        let (mut jobs, mut flights) = (Vec::with_capacity(frames.len()), Vec::with_capacity(frames.len()));
        for (index, (camera, settings)) in cameras.iter_mut().zip(&settings.cameras).enumerate() {
            let Some((_, frame)) = frames.iter().find(|(i, _)| *i == index) else { continue };
            if let Some((job, flight)) = camera.prepare(frame, settings, size, &ready.manifest, &shared.gate) {
                jobs.push(job);
                flights.push(flight);
            }
        }
        if jobs.is_empty() {
            return frames.clear();
        }
        let computed = pipeline.run(&mut jobs);
        {
            let (now, mut failure) = (Instant::now(), lock(&shared.failure));
            *failure = computed.as_ref().err().map(|e| Failure::after(failure.as_ref(), now, e.to_string()));
        }
        if let Err(e) = computed {
            let why = format!("the network fails on images: {e}");
            flights.iter().for_each(|f| f.fail(&why));
            failures.warn(format_args!("a frame could not be computed: {e}"));
        } else {
            let batch = Batch { size: jobs.len() as u32, ready, clock, gate: &shared.gate };
            for (job, flight) in jobs.iter_mut().zip(flights) {
                let stats = flight.stats();
                if job.is_broken {
                    *lock(&stats.last_broken) = Some(Instant::now());
                    failures.warn(format_args!("an answer is broken: {BROKEN}"));
                }
                if flight.publish(job, &batch) == Err(Closed) {
                    Stats::count(&stats.skipped);
                }
            }
        }
        drop(jobs);
        frames.clear();
    }
}

impl Camera {
    fn new(setup: CameraSetup) -> Self {
        let CameraSetup { name, publishers, calibrations, stats, ignore } = setup;
        Self {
            calibrations,
            stats: stats.clone(),
            converter: Converter::new(),
            decoder: Decoder::new(),
            outputs: Outputs::default(),
            geometry: None,
            sets: ClassSets::default(),
            products: Products::new(name, publishers, stats, ignore),
        }
    }

    /// Everything that followed from the model's manifest is made anew.
    fn forget_model(&mut self) {
        self.geometry = None;
        self.sets = ClassSets::default();
        self.products.forget_model();
    }

    /// From a frame to a job; `None` if it needs no answer or can have none.
    fn prepare<'a>(
        &'a mut self,
        frame: &'a Frame,
        settings: &'a CameraSettings,
        network: (usize, usize),
        manifest: &Manifest,
        gate: &Gate,
    ) -> Option<(Job<'a>, InFlight<'a>)> {
        let wait_ns = nanoseconds(frame.arrived.elapsed().saturating_sub(frame.receive));
        let header = frame.header();
        let mut demand = self.products.demand(settings, manifest);
        let calibration = lock(&self.calibrations).of(&header);
        let Self { stats, converter, decoder, outputs, geometry, sets, products, .. } = self;
        let source = frame.size();
        *lock(&stats.image) = frame.encoding().map(|encoding| (source.0, source.1, encoding));
        // The diagnostics tell of it, whether or not anybody wants an output.
        let fitted = fit(geometry, &settings.placement, source, network);
        let mut factor = 1.0;
        if !demand.points {
            products.note_no_cloud();
        }
        if let Ok(geometry) = &fitted {
            if let Some(f_model) = manifest.focal_length_px() {
                let found = depth_factor(
                    settings.depth_scaling,
                    settings.depth_scaling_fallback,
                    calibration.as_deref(),
                    settings.input_rectified,
                    geometry,
                    f64::from(f_model),
                );
                products.note_calibration(found, calibration.as_deref(), settings.input_rectified, source);
                factor = found.0;
            }
            // Where there can be none, nothing is computed for it.
            demand.points =
                demand.points && products.find_rays(calibration.as_ref(), settings.input_rectified, geometry);
        }
        sets.follow(settings, &manifest.classes);
        let wanted = demand.wanted(sets);
        if !wanted.any() {
            Stats::count(&stats.skipped);
            if let Some(geometry) = fitted.ok().filter(|_| demand.camera_info) {
                // The frame is counted already, sent or not.
                let _ = products.publish_camera_info(&header, calibration.as_deref(), geometry, gate);
            }
            return None;
        }
        let converting = Instant::now();
        // For these its pixels are read once more, and in another order.
        let is_read_again = wanted.overlay || demand.points;
        let found = picture(frame, is_read_again.then_some(converter), decoder);
        let (image, geometry) = match found.and_then(|image| Ok((image, fitted.map_err(|e| e.to_string())?))) {
            Ok(found) => found,
            Err(why) => {
                products.refuse(&why);
                return None;
            }
        };
        if let Err(why) = products.fit_ignore_mask(geometry) {
            products.refuse(&why);
            return None;
        }
        let convert_ns = nanoseconds(converting.elapsed());
        let job = Job {
            image,
            geometry,
            wanted,
            confidence_stride: if demand.confidence { 1 } else { settings.points.stride },
            depth_factor: factor as f32,
            overlay_opacity: settings.overlay_opacity,
            mask_values: &sets.mask,
            outputs,
            times: Default::default(),
            is_broken: false,
        };
        let flight = InFlight { frame, header, demand, calibration, settings, sets, wait_ns, convert_ns, products };
        Some((job, flight))
    }
}

/// Pixels of a frame; with a converter they become an 8-bit picture.
fn picture<'a>(
    frame: &'a Frame,
    converter: Option<&'a mut Converter>,
    decoder: &'a mut Decoder,
) -> Result<ImageView<'a>, String> {
    match frame.content().map_err(|e| e.to_string())? {
        Content::Raw(view) => Ok(converter.map_or(view, |c| c.eight_bit(&view))),
        Content::Compressed { format, data } => decoder.decode(format, data).map_err(|e| e.to_string()),
    }
}

/// The geometry of an image: the one at hand, or made anew where that is another's.
fn fit<'a>(
    at_hand: &'a mut Option<(Placement, (usize, usize), Geometry)>,
    placement: &Placement,
    source: (usize, usize),
    network: (usize, usize),
) -> Result<&'a Geometry, GeometryError> {
    let kept = at_hand.take().filter(|(p, s, _)| p == placement && *s == source);
    let found = match kept {
        Some(found) => found,
        None => (placement.clone(), source, Geometry::new(placement, source, network)?),
    };
    Ok(&at_hand.insert(found).2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failure_upon_failure_counts_as_time_of_failure() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let first = Failure::after(None, start, "white".into());
        assert_eq!(first.failing, ms(0));
        let second = Failure::after(Some(&first), start + ms(100), "white".into());
        assert_eq!(second.failing, ms(100));
        // A night without images.
        let later = Failure::after(Some(&second), start + ms(30_000_000), "white".into());
        assert_eq!(later.failing, ms(100) + GAP);
        assert_eq!(Failure::after(Some(&later), later.until + ms(500), "white".into()).failing, ms(600) + GAP);
    }
}

//! The inference thread: owns the model and the output publishers, computes what is wanted, publishes it.

use super::arrival::{camera_info, Calibrations, Content, Frame, Header};
use super::inbox::{Batching, Inbox, Taken};
use super::loader::{Loaded, Ready};
use super::lock;
use super::publishers::{is_heard, Native, Publishers};
use super::settings::{ClassSets, Settings, SettingsCell};
use super::stats::{CalibrationState, FrameTimes, Stats, Throttle, BROKEN};
use crate::export::Manifest;
use crate::frame::camera::{depth_factor, Calibration, CameraError, FactorSource, Rays};
use crate::frame::clock::nanoseconds;
use crate::frame::cloud::{Cloud, CloudBuilder, CloudSettings};
use crate::frame::compressed::Decoder;
use crate::frame::convert::Converter;
use crate::frame::geometry::{Geometry, GeometryError, Placement};
use crate::frame::pipeline::{Job, Outputs, Wanted};
use crate::frame::png::{depth_mm, PngEncoder, PngError, COMPRESSED_DEPTH_HEADER};
use crate::frame::view::ImageView;
use crate::interface::settings::DepthEncoding;
use crate::interface::CameraSettings;
use crate::model::Task;
use anyhow::{anyhow, bail, Context as _};
use r2r::semantic_depth::msg::FrameTiming;
use r2r::sensor_msgs::msg::{CompressedImage, Image};
use r2r::Clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes as _;

/// How long the thread sleeps without a frame before it looks around.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether the thread has come to something.
const LOOK: Duration = Duration::from_millis(5);
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
    /// Why the network failed on the newest frames; `None` from the first that it answers again.
    failure: Mutex<Option<String>>,
    /// `~/enable`.
    enabled: Arc<AtomicBool>,
    /// The managed node is active.
    active: AtomicBool,
    /// An output is on its way to the middleware.
    publishing: AtomicBool,
    /// Since when the thread is at something else than waiting for frames.
    busy_since: Mutex<Option<Instant>>,
}

impl Shared {
    /// Whether frames are to be answered. Sequentially consistent, together with `publishing`: either who says no sees
    /// that an output is being sent, or the look before that output sees the no.
    fn is_open(&self) -> bool {
        self.active.load(Ordering::SeqCst) && self.enabled.load(Ordering::SeqCst)
    }

    /// Sends one output if frames are to be answered still. Each on its own: what is made between two of them may take
    /// far longer than [`SETTLE`].
    fn send<T>(&self, output: impl FnOnce() -> T) -> Result<T, Closed> {
        self.publishing.store(true, Ordering::SeqCst);
        let sent = if self.is_open() { Ok(output()) } else { Err(Closed) };
        self.publishing.store(false, Ordering::SeqCst);
        sent
    }
}

/// The node was disabled or deactivated while a frame was answered: nothing more of it is sent.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

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
        let shared = Arc::new(Shared { enabled: setup.enabled.clone(), ..Shared::default() });
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
        lock(&self.shared.failure).clone()
    }

    /// Whether the managed node is active; of one that is not any more, nothing is published afterwards (see
    /// [`Self::settle`]).
    pub fn set_active(&self, active: bool) {
        self.shared.active.store(active, Ordering::SeqCst);
        if !active {
            self.settle();
        }
    }

    /// For who has just said that no frame is to be answered: waits until the output that is being sent is out. Not for
    /// longer than 0.1 s, in which nothing else is answered.
    pub fn settle(&self) {
        let start = Instant::now();
        while self.shared.publishing.load(Ordering::SeqCst) && start.elapsed() < SETTLE && !self.has_ended() {
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

/// Which outputs somebody hears, no parameter switches off and the model can give.
#[derive(Debug, Clone, Copy, Default)]
struct Demand {
    labels: bool,
    labels_compressed: bool,
    depth: bool,
    depth_compressed: bool,
    depth_compressed_depth: bool,
    confidence: bool,
    overlay: bool,
    labels_color: bool,
    mask: bool,
    points: bool,
    camera_info: bool,
}

impl Demand {
    fn of(p: &Publishers, s: &CameraSettings, manifest: &Manifest) -> Self {
        let o = &s.outputs;
        let (classes, depth) = (manifest.answers(Task::Segmentation), manifest.answers(Task::Depth));
        Self {
            labels: classes && o.labels && p.labels.is_heard(),
            labels_compressed: classes && o.labels_compressed && p.labels_compressed.is_heard(),
            depth: depth && o.depth && p.depth.is_heard(),
            depth_compressed: depth && o.depth_compressed && p.depth_compressed.is_heard(),
            depth_compressed_depth: depth && o.depth_compressed && p.depth_compressed_depth.is_heard(),
            confidence: classes && o.confidence && p.confidence.is_heard(),
            overlay: classes && o.overlay && p.overlay.is_heard(),
            labels_color: classes && o.labels_color && p.labels_color.is_heard(),
            mask: classes && o.mask && p.mask.is_heard(),
            // Without classes its points are unlabelled.
            points: depth && o.points && p.points.is_heard(),
            camera_info: o.camera_info && is_heard(&p.camera_info),
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            labels: self.labels || self.labels_compressed || self.points,
            depth: self.depth || self.depth_compressed || self.depth_compressed_depth || self.points,
            confidence: self.confidence || self.points,
            overlay: self.overlay,
            colors: self.labels_color,
            mask: self.mask,
            normals: false,
        }
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

/// What rays were made for: calibration, whether the input is rectified, geometry.
type RaysKey = (Arc<Calibration>, bool, Geometry);

/// One camera's part of the thread's state: what is needed after the network.
struct Products {
    name: String,
    publishers: Publishers,
    stats: Arc<Stats>,
    rays: Option<(RaysKey, Result<Rays, String>)>,
    builder: CloudBuilder,
    cloud: Cloud,
    depth_mm: Vec<u16>,
    encoder: PngEncoder,
    png: Vec<u8>,
    failures: Throttle,
    misfits: Throttle,
    fallbacks: Throttle,
    /// What became of the frame's outputs at the middleware.
    sending: Sending,
    /// What the labels mean has been published.
    #[cfg(has_vision_msgs)]
    is_announced: bool,
}

/// A frame between the network's input and its publication.
struct InFlight<'a> {
    frame: &'a Frame,
    header: Header,
    demand: Demand,
    calibration: Option<Arc<Calibration>>,
    settings: &'a CameraSettings,
    sets: &'a ClassSets,
    wait_ns: u64,
    /// Decompression and colour conversion.
    convert_ns: u64,
    products: &'a mut Products,
}

/// What the frames that went through the network together have in common.
struct Batch<'a> {
    size: u32,
    ready: &'a Ready,
    clock: &'a Mutex<Clock>,
    shared: &'a Shared,
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
        self.cameras.into_iter().map(|c| c.products.publishers).collect()
    }

    /// Publishes what the labels mean, once for each camera, model and switching on; who comes late gets it too.
    fn announce_classes(&mut self, settings: &Settings) {
        #[cfg(has_vision_msgs)]
        for (camera, settings) in self.cameras.iter_mut().zip(&settings.cameras) {
            use r2r::vision_msgs::msg::{LabelInfo, VisionClass};
            let products = &mut camera.products;
            if products.is_announced == settings.outputs.label_info {
                continue;
            }
            products.is_announced = settings.outputs.label_info;
            if !products.is_announced {
                continue;
            }
            let mut info = LabelInfo::default();
            if let Ok(now) = lock(&self.clock).get_now() {
                info.header.stamp = Clock::to_builtin_time(&now);
            }
            let class =
                |c: &crate::data::classes::Class| VisionClass { class_id: c.id.into(), class_name: c.name.clone() };
            info.class_map = self.model.ready.manifest.classes.iter().map(class).collect();
            let result = products.publishers.label_info.publish(&info);
            check(&mut products.failures, &mut Sending::default(), "label_info", result);
        }
        #[cfg(not(has_vision_msgs))]
        let _ = settings;
    }

    /// Computes and publishes a batch; at most one frame of each camera.
    fn answer(&mut self, frames: &mut Vec<(usize, Frame)>, settings: &Settings) {
        let Self { model: Loaded { pipeline, ready }, cameras, clock, shared, failures, .. } = self;
        if !shared.is_open() {
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
            if let Some((job, flight)) = camera.prepare(frame, settings, size, &ready.manifest, shared) {
                jobs.push(job);
                flights.push(flight);
            }
        }
        if jobs.is_empty() {
            return frames.clear();
        }
        let computed = pipeline.run(&mut jobs);
        *lock(&shared.failure) = computed.as_ref().err().map(ToString::to_string);
        if let Err(e) = computed {
            let why = format!("the network fails on images: {e}");
            flights.iter().for_each(|f| f.products.stats.fail(&why));
            failures.warn(format_args!("a frame could not be computed: {e}"));
        } else {
            let batch = Batch { size: jobs.len() as u32, ready, clock, shared };
            for (job, flight) in jobs.iter_mut().zip(flights) {
                let stats = flight.products.stats.clone();
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
        let CameraSetup { name, publishers, calibrations, stats } = setup;
        Self {
            calibrations,
            stats: stats.clone(),
            converter: Converter::new(),
            decoder: Decoder::new(),
            outputs: Outputs::default(),
            geometry: None,
            sets: ClassSets::default(),
            products: Products {
                name,
                publishers,
                stats,
                rays: None,
                builder: CloudBuilder::new(),
                cloud: Cloud::default(),
                depth_mm: Vec::new(),
                encoder: PngEncoder::new(),
                png: Vec::new(),
                failures: Throttle::default(),
                misfits: Throttle::default(),
                fallbacks: Throttle::default(),
                sending: Sending::default(),
                #[cfg(has_vision_msgs)]
                is_announced: false,
            },
        }
    }

    /// Everything that followed from the model's manifest is made anew.
    fn forget_model(&mut self) {
        self.geometry = None;
        self.sets = ClassSets::default();
        self.products.rays = None;
        *lock(&self.stats.calibration) = CalibrationState::default();
        #[cfg(has_vision_msgs)]
        {
            self.products.is_announced = false;
        }
    }

    /// From a frame to a job; `None` if it needs no answer or can have none.
    fn prepare<'a>(
        &'a mut self,
        frame: &'a Frame,
        settings: &'a CameraSettings,
        network: (usize, usize),
        manifest: &Manifest,
        shared: &Shared,
    ) -> Option<(Job<'a>, InFlight<'a>)> {
        let wait_ns = nanoseconds(frame.arrived.elapsed().saturating_sub(frame.receive));
        let header = frame.header();
        let mut demand = Demand::of(&self.products.publishers, settings, manifest);
        let calibration = lock(&self.calibrations).of(&header);
        let Self { stats, converter, decoder, outputs, geometry, sets, products, .. } = self;
        let source = frame.size();
        *lock(&stats.image) = frame.encoding().map(|encoding| (source.0, source.1, encoding));
        // The diagnostics tell of it, whether or not anybody wants an output.
        let fitted = fit(geometry, &settings.placement, source, network);
        let mut factor = 1.0;
        if !demand.points {
            note_cloud(&products.stats, None);
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
        let wanted = demand.wanted();
        if !wanted.any() {
            Stats::count(&stats.skipped);
            if let Some(geometry) = fitted.ok().filter(|_| demand.camera_info) {
                // The frame is counted already, sent or not.
                let _ = products.publish_camera_info(&header, calibration.as_deref(), geometry, shared);
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
        let convert_ns = nanoseconds(converting.elapsed());
        sets.follow(settings, &manifest.classes);
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

impl InFlight<'_> {
    /// Makes and sends what is demanded; what is left when the node closes is not.
    fn publish(self, job: &mut Job<'_>, batch: &Batch<'_>) -> Result<(), Closed> {
        let shared = batch.shared;
        // The network takes its time: there may be nothing to make any more.
        if !shared.is_open() {
            return Err(Closed);
        }
        let Self { frame, header, demand, calibration, settings, sets, wait_ns, convert_ns, products } = self;
        products.sending = Sending::default();
        let receive_ns = nanoseconds(frame.receive);
        let mut times = FrameTimes { receive_ns, wait_ns, stages: job.times, ..FrameTimes::default() };
        times.stages.decode_ns += convert_ns;
        // Publishing is interleaved with what is made from labels and depth, so that a raw image does not wait for a
        // cloud or a PNG; its parts are added up.
        let mut publishing = Duration::ZERO;
        let mut timed = |work: &mut dyn FnMut() -> Result<(), Closed>| {
            let start = Instant::now();
            let sent = work();
            publishing += start.elapsed();
            sent
        };
        // Once, for whichever output needs them first.
        let is_published_in_mm = demand.depth && settings.depth_encoding == DepthEncoding::Millimetres;
        if is_published_in_mm {
            let start = Instant::now();
            depth_mm(&job.outputs.depth_m, &mut products.depth_mm);
            times.stages.depth_ns += nanoseconds(start.elapsed());
        }
        timed(&mut || products.publish_images(&header, &demand, settings, job.outputs, shared))?;
        let output = job.geometry.output();
        if demand.camera_info {
            timed(&mut || products.publish_camera_info(&header, calibration.as_deref(), job.geometry, shared))?;
        }
        if demand.labels_compressed {
            let start = Instant::now();
            let Products { encoder, png, .. } = &mut *products;
            let encoded = encoder.grey8(&job.outputs.labels, output.0, output.1, settings.png_level, png);
            times.compress_ns += nanoseconds(start.elapsed());
            timed(&mut || products.publish_png(&encoded, 0, &header, |p| &mut p.labels_compressed, shared))?;
        }
        if demand.depth_compressed || demand.depth_compressed_depth {
            let start = Instant::now();
            let Products { encoder, png, depth_mm: mm, .. } = &mut *products;
            if !is_published_in_mm {
                depth_mm(&job.outputs.depth_m, mm);
            }
            let encoded = encoder.compressed_depth(mm, output.0, output.1, settings.png_level, png);
            times.compress_ns += nanoseconds(start.elapsed());
            if demand.depth_compressed_depth {
                timed(&mut || products.publish_png(&encoded, 0, &header, |p| &mut p.depth_compressed_depth, shared))?;
            }
            if demand.depth_compressed {
                // The same file without the transport's own header.
                let skip = COMPRESSED_DEPTH_HEADER.len();
                timed(&mut || products.publish_png(&encoded, skip, &header, |p| &mut p.depth_compressed, shared))?;
            }
        }
        if demand.points {
            let start = Instant::now();
            let made = products.make_points(&job.image, job.geometry, job.outputs, settings, sets);
            times.points_ns = nanoseconds(start.elapsed());
            if made {
                timed(&mut || products.publish_points(&header, shared))?;
            }
        }
        if let Some(why) = products.sending.failure() {
            // Computed, and nobody has it.
            products.stats.fail(why);
            return Ok(());
        }
        times.publish_ns = nanoseconds(publishing);
        times.total_ns = nanoseconds(frame.arrived.elapsed());
        products.conclude(header, &times, settings, batch);
        Ok(())
    }
}

impl Products {
    /// A frame that came whole and cannot be computed.
    fn refuse(&mut self, why: &str) {
        self.stats.refuse(why);
        let (of, camera) = if self.name.is_empty() { ("", "") } else { (" of camera ", self.name.as_str()) };
        self.failures.warn(format_args!("an image{of}{camera} was refused: {why}"));
    }

    fn publish_images(
        &mut self,
        header: &Header,
        demand: &Demand,
        settings: &CameraSettings,
        o: &mut Outputs,
        shared: &Shared,
    ) -> Result<(), Closed> {
        let Self { publishers: p, depth_mm: mm, failures, sending, .. } = self;
        let size = (o.width, o.height);
        let mut send = |output: &str, image: &mut Native<Image>, encoding: &str, pixel: usize, data: &mut [u8]| {
            let result = shared.send(|| image.publish(header, encoding, size, size.0 * pixel, data));
            result.map(|result| check(failures, sending, output, result))
        };
        if demand.labels {
            send("labels", &mut p.labels, "mono8", 1, &mut o.labels)?;
        }
        if demand.depth {
            match settings.depth_encoding {
                DepthEncoding::Metres => send("depth", &mut p.depth, "32FC1", 4, o.depth_m.as_mut_bytes())?,
                DepthEncoding::Millimetres => send("depth", &mut p.depth, "16UC1", 2, mm.as_mut_bytes())?,
            }
        }
        if demand.confidence {
            send("confidence", &mut p.confidence, "32FC1", 4, o.confidence.as_mut_bytes())?;
        }
        if demand.overlay {
            send("overlay", &mut p.overlay, "rgb8", 3, &mut o.overlay)?;
        }
        if demand.labels_color {
            send("labels_color", &mut p.labels_color, "rgb8", 3, &mut o.colors)?;
        }
        if demand.mask {
            send("mask", &mut p.mask, "mono8", 1, &mut o.mask)?;
        }
        Ok(())
    }

    fn publish_png(
        &mut self,
        encoded: &Result<(), PngError>,
        skip: usize,
        header: &Header,
        topic: impl FnOnce(&mut Publishers) -> &mut Native<CompressedImage>,
        shared: &Shared,
    ) -> Result<(), Closed> {
        let Self { publishers, png, failures, sending, .. } = self;
        match encoded {
            Ok(()) => {
                let file = png.get_mut(skip..).unwrap_or_default();
                let result = shared.send(|| topic(publishers).publish(header, file))?;
                check(failures, sending, "a compressed image", result);
            }
            Err(e) => failures.warn(format_args!("an image could not be compressed: {e}")),
        }
        Ok(())
    }

    /// The cloud that [`Self::make_points`] filled.
    fn publish_points(&mut self, header: &Header, shared: &Shared) -> Result<(), Closed> {
        let Self { publishers, cloud, failures, sending, .. } = self;
        let result = shared.send(|| publishers.points.publish(header, cloud))?;
        check(failures, sending, "points", result);
        Ok(())
    }

    /// The calibration as it is at the outputs' size. That of images of another size is not published: nothing in the
    /// message would say that its K is wrong.
    fn publish_camera_info(
        &mut self,
        header: &Header,
        calibration: Option<&Calibration>,
        geometry: &Geometry,
        shared: &Shared,
    ) -> Result<(), Closed> {
        let Some(calibration) = calibration else { return Ok(()) };
        if let Err(e) = calibration.check_size(geometry.source()) {
            self.misfits.warn(format_args!("camera_info is not published: {e}"));
            return Ok(());
        }
        let scaled = calibration.scaled(&geometry.output_from_source(), geometry.output());
        let message = camera_info(&scaled, header);
        let result = shared.send(|| self.publishers.camera_info.publish(&message))?;
        check(&mut self.failures, &mut self.sending, "camera_info", result);
        Ok(())
    }

    /// Says, when it changes, where the depth's scale comes from.
    fn note_calibration(
        &mut self,
        (factor, from): (f64, FactorSource),
        calibration: Option<&Calibration>,
        rectified: bool,
        source: (usize, usize),
    ) {
        let why = match (from, calibration) {
            (FactorSource::CameraInfo, _) => "camera_info".into(),
            (FactorSource::Fixed, _) => "depth_scaling".into(),
            (FactorSource::Fallback, None) => "depth_scaling_fallback: no camera_info has arrived".into(),
            (FactorSource::Fallback, Some(c)) => match c.check_size(source) {
                Err(e) => format!("depth_scaling_fallback: {e}"),
                Ok(()) => format!("depth_scaling_fallback: {}", no_focal_length(c, rectified)),
            },
        };
        let degraded = from == FactorSource::Fallback;
        let is_new = {
            let state = lock(&self.stats.calibration);
            state.why != why || state.factor != factor
        };
        if is_new {
            // Not while others wait for the state: a console may be slow.
            if degraded {
                let camera = &self.name;
                let colon = if camera.is_empty() { "" } else { ": " };
                // Images of two sizes in turn would change it with every frame.
                self.fallbacks.warn(format_args!("{camera}{colon}depth is multiplied by {factor}, by {why}"));
            }
            *lock(&self.stats.calibration) = CalibrationState { why, factor, degraded };
        }
    }

    /// Whether there can be a cloud: its rays are made where those at hand are another's. Why there can be none is logged,
    /// and kept for the diagnostics.
    fn find_rays(&mut self, calibration: Option<&Arc<Calibration>>, rectified: bool, geometry: &Geometry) -> bool {
        let Self { rays, misfits, stats, .. } = self;
        let mut none = |why: &str| {
            misfits.warn(format_args!("no points: {why}"));
            note_cloud(stats, Some(Err(why)));
            false
        };
        let Some(calibration) = calibration else { return none("no camera_info has arrived") };
        let fits = |((c, r, g), _): &(RaysKey, _)| c.is_same(calibration) && *r == rectified && g == geometry;
        if !rays.as_ref().is_some_and(fits) {
            let made = Rays::new(calibration, rectified, geometry).map_err(|e| e.to_string());
            *rays = Some(((calibration.clone(), rectified, geometry.clone()), made));
        }
        match rays {
            Some((_, Err(why))) => none(why),
            found => found.is_some(),
        }
    }

    /// Fills the cloud, with the rays that [`Self::find_rays`] found.
    fn make_points(
        &mut self,
        image: &ImageView<'_>,
        geometry: &Geometry,
        outputs: &Outputs,
        settings: &CameraSettings,
        sets: &ClassSets,
    ) -> bool {
        let Some((_, Ok(rays))) = &self.rays else { return false };
        let cloud = CloudSettings {
            stride: settings.points.stride,
            voxel_size_m: settings.points.voxel_size_m,
            max_range_m: settings.points.max_range_m,
            classes: sets.points,
        };
        match self.builder.build(outputs, image, geometry, rays, &cloud, &mut self.cloud) {
            Ok(()) => {
                note_cloud(&self.stats, Some(Ok(())));
                true
            }
            Err(e) => {
                self.misfits.warn(format_args!("no points: {e}"));
                note_cloud(&self.stats, Some(Err(&e.to_string())));
                false
            }
        }
    }

    /// Counts a frame as answered, and tells its times: to the diagnostics, and on `output/timing` where that is wanted.
    fn conclude(&mut self, header: Header, times: &FrameTimes, settings: &CameraSettings, batch: &Batch<'_>) {
        let now_ns = lock(batch.clock).get_now().map_or(0, |d| d.as_nanos() as i64);
        let age_ns = now_ns - header.stamp_ns();
        let stats = &self.stats;
        let sequence = Stats::count(&stats.answered);
        // What becomes of images is counted after their arrival: read in the other order, never more has become of them.
        let [dropped, refused, skipped] = [&stats.dropped, &stats.refused, &stats.skipped].map(Stats::read);
        {
            let (now, mut measures) = (Instant::now(), lock(&stats.measures));
            measures.add(now, times, (header.stamp_ns() != 0).then_some(age_ns));
            measures.batch.add(now, batch.size.into());
        }
        if !settings.outputs.timing || !is_heard(&self.publishers.timing) {
            return;
        }
        let s = &times.stages;
        let mut message = FrameTiming {
            camera: self.name.clone(),
            sequence,
            received: Stats::read(&stats.received),
            dropped,
            refused,
            skipped,
            batch_size: batch.size,
            receive_ns: times.receive_ns,
            wait_ns: times.wait_ns,
            decode_ns: s.decode_ns,
            infer_ns: s.infer_ns,
            labels_ns: s.labels_ns,
            depth_ns: s.depth_ns,
            confidence_ns: s.confidence_ns,
            overlay_ns: s.overlay_ns,
            mask_ns: s.mask_ns,
            points_ns: times.points_ns,
            compress_ns: times.compress_ns,
            publish_ns: times.publish_ns,
            total_ns: times.total_ns,
            age_ns,
            backend: batch.ready.backend.clone(),
            device: batch.ready.device.clone(),
            ..FrameTiming::default()
        };
        message.header.stamp.sec = header.sec;
        message.header.stamp.nanosec = header.nanosec;
        message.header.frame_id = header.frame_id;
        // A frame whose outputs are all sent is answered, even if this is not sent.
        if let Ok(result) = batch.shared.send(|| self.publishers.timing.publish(&message)) {
            check(&mut self.failures, &mut self.sending, "timing", result);
        }
    }
}

/// What became of one frame's outputs at the middleware.
#[derive(Debug, Default)]
struct Sending {
    /// It took one of them.
    is_sent: bool,
    /// Why it did not take the last one that it did not.
    refusal: Option<String>,
}

impl Sending {
    /// Why none of them went out, if so.
    fn failure(&self) -> Option<&str> {
        self.refusal.as_deref().filter(|_| !self.is_sent)
    }
}

/// Keeps whether an output could be published, and logs that it could not.
fn check(failures: &mut Throttle, sending: &mut Sending, output: &str, result: r2r::Result<()>) {
    match result {
        Ok(()) => sending.is_sent = true,
        Err(e) => {
            let why = format!("{output} could not be published: {e}");
            failures.warn(format_args!("{why}"));
            sending.refusal = Some(why);
        }
    }
}

/// Says to the diagnostics whether there is a point cloud; most often it is what was said before.
fn note_cloud(stats: &Stats, state: Option<Result<(), &str>>) {
    let mut known = lock(&stats.cloud);
    let before = known.as_ref().map(|state| state.as_ref().copied().map_err(String::as_str));
    if before != state {
        *known = state.map(|state| state.map_err(String::from));
    }
}

/// Why a calibration has no focal length that depth could be scaled by: in K, or in P for a rectified input.
fn no_focal_length(c: &Calibration, rectified: bool) -> CameraError {
    let (matrix, fx, fy) = if rectified { ("P", c.p[0], c.p[5]) } else { ("K", c.k[0], c.k[4]) };
    if ![fx, fy].iter().all(|f| f.is_finite() && *f > 0.0) {
        CameraError::Uncalibrated { matrix, fx, fy }
    } else if c.focal_px(rectified).is_none() {
        // Then it is the principal point.
        CameraError::NotFinite { field: matrix }
    } else {
        CameraError::Implausible { matrix, fx, fy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_sent_only_while_frames_are_to_be_answered() {
        let shared = Shared::default();
        let is_publishing = || shared.publishing.load(Ordering::SeqCst);
        assert_eq!(shared.send(is_publishing), Err(Closed), "neither active nor enabled");
        shared.active.store(true, Ordering::SeqCst);
        shared.enabled.store(true, Ordering::SeqCst);
        assert_eq!(shared.send(is_publishing), Ok(true), "who closes the node sees it");
        assert!(!is_publishing(), "and does not wait for what is made next");
        for flag in [&shared.active, &*shared.enabled] {
            flag.store(false, Ordering::SeqCst);
            let mut is_sent = false;
            assert_eq!(shared.send(|| is_sent = true), Err(Closed));
            assert!(!is_sent && !is_publishing());
            flag.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_frame_of_which_nothing_went_out_is_told_from_one_that_lacks_an_output() {
        let (mut failures, mut sending) = (Throttle::default(), Sending::default());
        assert_eq!(sending.failure(), None, "nothing was to be sent");
        check(&mut failures, &mut sending, "labels", Err(r2r::Error::RCL_RET_ERROR));
        assert!(sending.failure().is_some_and(|why| why.starts_with("labels could not be published: ")));
        check(&mut failures, &mut sending, "depth", Ok(()));
        assert_eq!(sending.failure(), None);
    }

    #[test]
    fn the_matrix_without_a_focal_length_is_named() {
        let mut c = Calibration { k: [100.0; 9], ..Calibration::default() };
        let said = |c: &Calibration, rectified| no_focal_length(c, rectified).to_string();
        assert!(said(&c, true).contains("the focal lengths in P are 0 and 0"), "{}", said(&c, true));
        c.k[4] = 0.0;
        assert!(said(&c, false).contains("the focal lengths in K are 100 and 0"), "{}", said(&c, false));
        c.k[4] = 100.0;
        c.k[2] = f64::NAN;
        assert!(said(&c, false).contains("K holds a number that is not finite"), "{}", said(&c, false));
        c.k[2] = 100.0;
        c.k[0] = 0.004;
        assert!(said(&c, false).contains("in K are 0.004 and 100: depth would be"), "{}", said(&c, false));
    }
}

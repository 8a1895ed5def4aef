//! The ROS 2 node. r2r is used here and in `demo` only.
//!
//! Two threads matter. The main thread spins the ROS node: it takes images and calibrations, answers the services,
//! publishes diagnostics and log records, and changes the node's state. The thread `inference` owns the model and the
//! output publishers. Between them is an `inbox` with one slot per camera: the newest frame wins, what it replaces is
//! counted. A thread `model-loader` lives while a model is loaded, so that the node answers meanwhile.
//!
//! - `logger`: the `log` crate's records, to the `console`, rcl's file and `/rosout`
//! - `parameters`: the parameter services, over the table in [`crate::interface`]
//! - `settings`: the parameters' values as one frame sees them
//! - `context`: the start of ROS, which the demo needs, too; `shared_memory`: whether there is room for it
//! - `namesake`: whether another node of its name is in the graph
//! - `names`, `qos`: remapped topic names; `qos_overrides` and publishers that cannot be heard
//! - `camera`, `arrival`: messages from the middleware into frames
//! - `inbox`: the slots, and which frames make a batch
//! - `loader`: a model, made ready to answer
//! - `worker`, `products`, `publishers`: the inference thread, what it makes of the answers, and how that is published
//! - `lifecycle`: the states of a managed node
//! - `bond`: what it and a lifecycle manager tell each other
//! - `control`: `~/enable` and `~/reload_model`; `service`: what all services share
//! - `stats`, `device`, `diagnostics`: what is counted and measured, and what `/diagnostics` says

mod arrival;
mod awake;
#[cfg(has_bond)]
mod bond;
mod camera;
mod command_line;
mod console;
pub(crate) mod context;
mod control;
mod device;
mod diagnostics;
mod inbox;
mod lifecycle;
mod loader;
mod logger;
mod names;
mod namesake;
mod parameter_files;
mod parameters;
mod products;
mod publishers;
mod qos;
mod service;
mod settings;
mod shared_memory;
mod stats;
mod watch;
mod worker;

use crate::causes::{cut, in_line};
use crate::data::classes::Class;
use crate::export;
use crate::frame::amend::IgnoreMask;
use crate::frame::network::{resolve, Compile};
use crate::frame::pipeline::LoadOptions;
use crate::interface::qos::Role;
use crate::interface::topics::Topic;
use crate::interface::{CameraSettings, NodeSettings};
use anyhow::{anyhow, bail, Context as _};
use arrival::Frame;
use awake::Awake;
use camera::Camera;
use control::Control;
use diagnostics::Reporter;
use inbox::Inbox;
use lifecycle::{Lifecycle, Outcome, State, Transition};
use loader::{Loaded, Loader, Ready};
use names::Names;
use namesake::Namesake;
use parameters::{Known, ParameterServer};
use publishers::Publishers;
use r2r::{Clock, QosProfile};
use settings::{Settings, SettingsCell};
use stats::Stats;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use worker::{CameraSetup, Worker};

/// Name of the node where no remapping gives another.
const NAME: &str = "semantic_depth";
/// Longest sleep of the spinning thread: how late a signal can be noticed. Each waking costs a wait set of some thirty
/// entities.
const SPIN: Duration = Duration::from_millis(100);
/// The same while a model loads, the end of which wakes nobody.
const LOADING: Duration = Duration::from_millis(10);
/// How long a batch that the network is at may hold up the node's end, or that of its model.
const END_LIMIT: Duration = Duration::from_secs(5);
/// A signal within this after the first is taken for the same one: a terminal and a launcher may both send it.
const SAME_SIGNAL: Duration = Duration::from_secs(1);
/// What is said of a transition that failed, and told apart by it.
const CONFIGURE: &str = "configure";
/// How often the publishers of the images are looked at.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// Locks; a thread that panicked while it held the lock leaves data that is still whole for what we keep there.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the node until a signal ends it; the code to exit with. What else ends the node while it runs (a model that
/// cannot be loaded, the death of a thread, a network that does not return) has been logged, and the code is that of a
/// failure.
///
/// # Errors
/// Before there is a node at work: malformed arguments, a wrong parameter.
pub fn run() -> anyhow::Result<ExitCode> {
    if let Some(text) = command_line::asked(command_line::arguments().skip(1))? {
        writeln!(std::io::stdout(), "{text}").context("cannot print")?;
        return Ok(ExitCode::SUCCESS);
    }
    // MKL ends a process without a word of its own that has none.
    if std::env::current_dir().is_err() {
        std::env::set_current_dir("/").context("the working directory is gone, and / cannot be entered")?;
    }
    let records = logger::init()?;
    // Signals before the middleware, whose shared memory would be left behind: from here on every way out is an orderly one.
    spare_means()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("signals")
        .enable_all()
        .build()
        .context("cannot start the signals' thread")?;
    let stop = Arc::new(AtomicBool::new(false));
    watch_signals(&runtime, &stop)?;
    let shortage = shared_memory::shortage();
    let context = context::create()?;
    logger::open_file();
    if let Some(shortage) = shortage {
        log::warn!("{shortage}");
    }
    let mut node = r2r::Node::create(context, NAME, "").context("cannot create the ROS node")?;
    let name = node.fully_qualified_name().context("the node's own name")?;
    logger::set_name(&name);

    // What the middleware has left.
    spare_means()?;
    // A first model on the processor must not settle that there is no CUDA for a later one.
    crate::frame::network::load_cuda_half();

    let parameters = ParameterServer::create(&mut node)?;
    let names = Names::of(&node)?;
    let rosout_qos = common_qos(&parameters, &names, logger::Rosout::QOS, "/rosout");
    let rosout = logger::Rosout::create(&mut node, records, rosout_qos)?;
    let mut app = App::create(node, name, names, parameters, rosout)?;
    let result = app.run(&stop);
    if let Err(error) = &result {
        logger::fatal(format_args!("{}", in_line(error)));
    }
    if result.is_err() {
        app.rosout.await_listeners(&stop);
    }
    app.rosout.flush();
    if result.is_err() {
        app.rosout.await_delivery();
    }
    let code = u8::from(result.is_err());
    if app.is_loading() || app.is_stuck() {
        // A participant that is not destroyed would leave its shared memory, and peers would see the node for a while.
        // A thread in libtorch does not hold it up: r2r owns the publishers, and a later call is an error.
        let App { node, .. } = app;
        drop(node);
        end_at_once(code);
    }
    Ok(ExitCode::from(code))
}

/// The QoS of a topic that the node as a whole publishes: `profile`, and over it what the parameters say.
fn common_qos(parameters: &ParameterServer, names: &Names, profile: QosProfile, topic: &str) -> QosProfile {
    qos::overridden(profile, parameters.set(), &names.topic(topic), Role::Publisher)
}

/// What the node is doing with its model.
enum Phase {
    /// There is none.
    Idle,
    /// It is being loaded, for the transition `configure`.
    Loading(Loader),
    /// It is loaded.
    Running { worker: Worker, inbox: Arc<Inbox<Frame>>, ready: Ready },
}

/// The spinning thread's state.
struct App {
    node: r2r::Node,
    names: Names,
    namesake: Namesake,
    parameters: ParameterServer,
    settings: Arc<SettingsCell>,
    lifecycle: Lifecycle,
    #[cfg(has_bond)]
    bond: bond::Bond,
    control: Control,
    cameras: Vec<Camera>,
    clock: Arc<Mutex<Clock>>,
    rosout: logger::Rosout,
    log_levels: logger::LevelServices,
    reporter: Reporter,
    phase: Phase,
    /// Why no model could be loaded, until one is.
    configure_failure: Option<String>,
    /// The node's own start, until it is over.
    start: Start,
    awake: Awake,
}

/// The node's own start (parameter `autostart`).
enum Start {
    /// This transition comes next.
    Next(Transition),
    /// This transition is under way.
    At(Transition),
    /// The node is active, a client took over, or there is none.
    Over,
}

impl App {
    fn create(
        mut node: r2r::Node,
        name: String,
        names: Names,
        parameters: ParameterServer,
        rosout: logger::Rosout,
    ) -> anyhow::Result<Self> {
        let settings = Settings::of(parameters.set());
        // libtorch counts cores and not a container's share of their time, and its threads wait by spinning.
        let cores = std::thread::available_parallelism().map_or(i32::MAX, |n| n.get() as i32);
        let threads = settings.node.num_threads;
        if threads > cores {
            // Fewer have been asked for already.
            spare_threads(2 * threads as usize + FEW_THREADS)?;
        }
        tch::set_num_threads(if threads > 0 { threads } else { tch::get_num_threads().min(cores) });
        start_workers(settings.node.num_threads)?;
        // The default is what `--log-level` said, and fatal is no value of the parameter: only what was given counts.
        let is_given = lock(&node.params).contains_key("log_level");
        if is_given && settings.node.log_level != log::max_level() {
            logger::set_level(settings.node.log_level);
        }
        let cameras = camera::cameras(&settings);
        // rcl_lifecycle's own, too: the default profile (reliable, volatile, the last 10).
        let qos = |topic| common_qos(&parameters, &names, QosProfile::default(), topic);
        let (diagnostics_qos, events_qos) = (qos("/diagnostics"), qos("~/transition_event"));
        let start = if settings.node.autostart { Start::Next(Transition::Configure) } else { Start::Over };
        Ok(Self {
            lifecycle: Lifecycle::create(&mut node, events_qos)?,
            #[cfg(has_bond)]
            bond: bond::Bond::create(&mut node, &name, qos(bond::TOPIC))?,
            control: Control::create(&mut node)?,
            log_levels: logger::LevelServices::create(&mut node)?,
            clock: node.get_ros_clock(),
            reporter: Reporter::create(&mut node, name.trim_start_matches('/'), diagnostics_qos)?,
            settings: Arc::new(Mutex::new(Arc::new(settings))),
            phase: Phase::Idle,
            configure_failure: None,
            namesake: Namesake::new(&name, &names),
            node,
            names,
            parameters,
            cameras,
            rosout,
            start,
            awake: Awake::new(Instant::now()),
        })
    }

    fn settings(&self) -> Arc<Settings> {
        lock(&self.settings).clone()
    }

    fn run(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let settings = self.settings();
        if settings.node.build_only {
            return self.build_only(stop);
        }
        if matches!(self.start, Start::Over) {
            log::info!("unconfigured; waiting for ~/change_state (autostart is false)");
        }
        let (mut watch_due, mut report_due) = (Instant::now() + WATCH_PERIOD, Instant::now());
        let mut report_period = settings.node.diagnostics_period;
        // Shorter where an image waits for its calibration.
        let mut longest = SPIN;
        let mut bond_due = None;
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = bond_due.into_iter().fold(watch_due.min(report_due), Instant::min);
            let sleep = match (&self.start, &self.phase) {
                // What comes next at the node's own start waits for nothing.
                (Start::Next(_), _) => Duration::ZERO,
                (_, Phase::Loading(_)) => longest.min(LOADING),
                _ => longest,
            };
            self.node.spin_once(sleep.min(due.saturating_duration_since(now)));
            let settings = self.settings();
            let cameras = self.cameras.iter_mut().zip(&settings.cameras);
            longest = cameras.filter_map(|(camera, settings)| camera.drain(settings)).fold(SPIN, Duration::min);
            let known = match &self.phase {
                Phase::Running { ready, .. } => Known::Classes(&ready.manifest.classes),
                Phase::Loading(_) => Known::Loading,
                // The node's own start comes next, and is not to fail of them either.
                Phase::Idle if matches!(self.start, Start::Next(_)) => Known::Loading,
                Phase::Idle => Known::Nothing,
            };
            if self.parameters.poll(&mut self.node, known) {
                self.adopt_parameters();
            }
            self.log_levels.poll();
            self.step()?;
            self.serve()?;
            bond_due = self.keep_bond(self.lifecycle.state() == State::Active);
            let now = Instant::now();
            if now >= watch_due {
                watch_due = now + WATCH_PERIOD;
                self.namesake.watch(&self.node);
                for camera in &mut self.cameras {
                    if camera.watch_publishers(&self.node) {
                        report_due = report_due.min(now);
                    }
                }
            }
            let period = self.settings().node.diagnostics_period;
            if period != report_period {
                // At once: at 0.1 Hz the old due time may be ten seconds away.
                report_due = report_due.min(now + period);
                report_period = period;
            }
            if now >= report_due {
                report_due = next_due(report_due, report_period, now);
                let (ready, network_failure, busy) = match &self.phase {
                    Phase::Running { worker, ready, .. } => (Some(ready), worker.failure(), worker.busy_for()),
                    _ => (None, None, None),
                };
                let state = self.lifecycle.state();
                let now = diagnostics::Now {
                    settings: &settings,
                    ready,
                    state,
                    enabled: self.control.is_enabled(),
                    configure_failure: self.configure_failure.as_deref(),
                    reload_failure: self.control.last_failure(),
                    network_failure: network_failure.as_deref(),
                    namesake: self.namesake.problem(),
                    busy,
                };
                self.reporter.publish(&now, &self.cameras, &self.clock);
            }
            self.rosout.flush();
        }
        log::info!("ending");
        self.end()
    }

    /// Speaks with the lifecycle manager, where there is one; when next.
    #[cfg_attr(not(has_bond), allow(clippy::unused_self, unused_variables))]
    fn keep_bond(&mut self, is_active: bool) -> Option<Instant> {
        #[cfg(has_bond)]
        return self.bond.poll(is_active);
        #[cfg(not(has_bond))]
        None
    }

    /// What parameters changed is seen by the next frame.
    fn adopt_parameters(&mut self) {
        *lock(&self.settings) = Arc::new(Settings::of(self.parameters.set()));
    }

    /// Loads the model, to see that it can be loaded (and, of a model that is built for the machine, to build it).
    fn build_only(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let (model, options) = model_to_load(&self.settings())?;
        log::info!("build_only: loading {}", model.display());
        let loader = Loader::start(model, options)?;
        loop {
            self.node.spin_once(SPIN);
            self.rosout.flush();
            if stop.load(Ordering::Relaxed) {
                say_that_a_model_loads();
                // [`run`] ends the process beside it.
                self.phase = Phase::Loading(loader);
                return Ok(());
            }
            if let Some(result) = loader.result() {
                let ready = result?.ready;
                log::info!("build_only: {}; ending", describe(&ready));
                return Ok(());
            }
        }
    }

    /// Moves the state on: what a client asked for, what the start asks for, and what is under way.
    fn step(&mut self) -> anyhow::Result<()> {
        if let Some(transition) = self.lifecycle.poll() {
            self.start = Start::Over;
            self.perform(transition)?;
        } else if let Start::Next(transition) = self.start {
            match self.lifecycle.begin(transition) {
                Ok(()) => {
                    self.start = Start::At(transition);
                    self.perform(transition)?;
                }
                Err(e) => {
                    self.start = Start::Over;
                    log::warn!("{e}");
                }
            }
        }
        let Phase::Loading(loader) = &self.phase else { return Ok(()) };
        let Some(result) = loader.result() else { return Ok(()) };
        self.phase = Phase::Idle;
        match result.and_then(|model| self.configured(model)) {
            Ok(()) => self.succeed(),
            Err(e) => self.fail(CONFIGURE, e)?,
        }
        Ok(())
    }

    fn succeed(&mut self) {
        self.lifecycle.finish(Outcome::Success);
        self.start = match self.start {
            Start::At(Transition::Configure) => Start::Next(Transition::Activate),
            _ => Start::Over,
        };
    }

    /// A transition that could not be made: the client is told; at the node's own start it is the end.
    fn fail(&mut self, what: &str, error: anyhow::Error) -> anyhow::Result<()> {
        let at_start = matches!(self.start, Start::At(_));
        if !at_start {
            log::error!("cannot {what}: {}", cut(in_line(&error)));
        }
        if what == CONFIGURE {
            self.configure_failure = Some(cut(in_line(&error)));
        }
        self.lifecycle.finish(Outcome::Failure);
        if at_start {
            Err(error)
        } else {
            Ok(())
        }
    }

    fn perform(&mut self, transition: Transition) -> anyhow::Result<()> {
        match transition {
            Transition::Configure => {
                let started = model_to_load(&self.settings()).and_then(|(model, options)| {
                    log::info!("loading {}", model.display());
                    Loader::start(model, options)
                });
                match started {
                    Ok(loader) => self.phase = Phase::Loading(loader),
                    Err(e) => self.fail(CONFIGURE, e)?,
                }
            }
            Transition::Activate => {
                if let Err(e) = self.activate() {
                    self.deactivate();
                    self.fail("activate", e)?;
                } else {
                    self.succeed();
                }
            }
            Transition::Deactivate => {
                self.deactivate();
                self.succeed();
            }
            Transition::Cleanup | Transition::Shutdown => {
                self.deactivate();
                let rested = match &self.phase {
                    Phase::Running { worker, .. } => worker.wait(END_LIMIT, Worker::is_idle),
                    _ => Ok(()),
                };
                if let Err(e) = rested {
                    // Thread and model stay as they are; an active node is inactive, though, or finalized.
                    self.fail(transition.label(), anyhow!("{e}; a signal ends the node"))?;
                } else if let Err(e) = self.release() {
                    log::error!("{transition}: {}", in_line(&e));
                    // The inference thread died; everything else was let go of.
                    self.lifecycle.finish(Outcome::Error { recovered: transition == Transition::Cleanup });
                } else {
                    self.succeed();
                }
            }
        }
        Ok(())
    }

    /// The model is there: topics and the inference thread.
    fn configured(&mut self, model: Loaded) -> anyhow::Result<()> {
        let ready = model.ready.clone();
        let settings = self.settings();
        settings.check_classes(&ready.manifest.classes).map_err(anyhow::Error::msg)?;
        // Before the first publisher: those of a configure that fails would stay on the graph.
        let masks = settings.cameras.iter().map(ignore_mask).collect::<anyhow::Result<Vec<_>>>()?;
        let mut setups = Vec::with_capacity(self.cameras.len());
        let inbox = Arc::new(Inbox::new(self.cameras.len()));
        for (index, (camera, ignore)) in self.cameras.iter_mut().zip(masks).enumerate() {
            let (names, set) = (&self.names, self.parameters.set());
            let qos = |topic: &Topic, name: &str| {
                qos::overridden(qos::profile(&topic.qos), set, &names.topic(name), topic.role)
            };
            camera.connect(index, &inbox, self.control.enabled(), &self.clock);
            setups.push(CameraSetup {
                name: camera.name.clone(),
                publishers: Publishers::create(&mut self.node, &camera.name, &qos)?,
                calibrations: camera.calibrations.clone(),
                stats: camera.stats.clone(),
                ignore,
            });
        }
        let worker = Worker::start(worker::Setup {
            model,
            cameras: setups,
            inbox: inbox.clone(),
            settings: self.settings.clone(),
            enabled: self.control.enabled().clone(),
            clock: self.clock.clone(),
        })?;
        log::info!("{}", describe(&ready));
        settings.idle_masks(&ready.manifest.classes).iter().for_each(|line| log::warn!("{line}"));
        self.phase = Phase::Running { worker, inbox, ready };
        self.configure_failure = None;
        Ok(())
    }

    fn activate(&mut self) -> anyhow::Result<()> {
        let settings = self.settings();
        let (names, set) = (&self.names, self.parameters.set());
        for (camera, settings) in self.cameras.iter_mut().zip(&settings.cameras) {
            let qos = |topic: &Topic, name: &str| {
                let profile = qos::profile(&topic.qos);
                let profile = if settings.reliable_input { profile.reliable() } else { profile };
                qos::overridden(profile, set, &names.topic(name), topic.role)
            };
            camera.subscribe(&mut self.node, settings, &qos, names)?;
        }
        if let Phase::Running { worker, .. } = &self.phase {
            worker.set_active(true);
        }
        Ok(())
    }

    /// Takes no more images; those that wait or are computed are not answered.
    fn deactivate(&mut self) {
        self.cameras.iter_mut().for_each(Camera::unsubscribe);
        if let Phase::Running { worker, inbox, .. } = &self.phase {
            worker.set_active(false);
            for camera in inbox.clear() {
                Stats::count(&self.cameras[camera].stats.skipped);
            }
        }
    }

    /// Lets go of model and topics.
    fn release(&mut self) -> anyhow::Result<()> {
        self.deactivate();
        self.control.abandon_reload("the node lets go of its model");
        if let Phase::Running { worker, .. } = std::mem::replace(&mut self.phase, Phase::Idle) {
            worker.end()?.into_iter().for_each(|p| p.destroy(&mut self.node));
        }
        Ok(())
    }

    /// Answers `~/enable` and `~/reload_model`, and watches the inference thread.
    fn serve(&mut self) -> anyhow::Result<()> {
        let loading = || {
            let settings = lock(&self.settings).clone();
            let (model, options) = model_to_load(&settings)?;
            Loader::start(model, options)
        };
        let running = match &mut self.phase {
            Phase::Running { worker, ready, .. } => Some((&*worker, ready)),
            _ => None,
        };
        let fits = |table: &[Class]| {
            let settings = lock(&self.settings).clone();
            settings.check_classes(table)?;
            settings.idle_masks(table).iter().for_each(|line| log::warn!("{line}"));
            Ok(())
        };
        self.control.poll(running, loading, fits);
        if matches!(&self.phase, Phase::Running { worker, .. } if worker.has_ended()) {
            self.release()?;
            bail!("the inference thread ended by itself");
        }
        let awake = self.awake.look(Instant::now());
        if let (Phase::Running { worker, .. }, Some(limit)) = (&self.phase, self.settings().node.exit_after_failure) {
            if let Some(barren) = worker.barren_for(awake).filter(|barren| *barren > limit) {
                let why = worker.failure().map_or_else(String::new, |why| format!(" ({why})"));
                bail!(
                    "the network has answered nothing for {:.0} s{why}: ending, as exit_after_failure_s says",
                    barren.as_secs_f64()
                );
            }
        }
        Ok(())
    }

    /// Whether a thread is in libtorch to load a model.
    fn is_loading(&self) -> bool {
        matches!(self.phase, Phase::Loading(_)) || self.control.is_loading()
    }

    /// Whether a thread is in libtorch with a batch: its end was waited for in vain.
    fn is_stuck(&self) -> bool {
        matches!(&self.phase, Phase::Running { worker, .. } if !worker.is_idle())
    }

    /// Lets go of the model, but for one that loads, or that does not return from a batch within [`END_LIMIT`] (an
    /// error): [`run`] then ends the process at once.
    fn end(&mut self) -> anyhow::Result<()> {
        self.keep_bond(false);
        if self.is_loading() {
            say_that_a_model_loads();
        }
        // A phase `Loading` stays: it is what [`run`] asks for.
        let Phase::Running { worker, inbox, .. } = &self.phase else { return Ok(()) };
        inbox.close();
        worker.wait(END_LIMIT, Worker::has_ended)?;
        if let Phase::Running { worker, .. } = std::mem::replace(&mut self.phase, Phase::Idle) {
            worker.end()?;
        }
        Ok(())
    }
}

/// The last word before [`run`] ends the process beside the thread that loads.
fn say_that_a_model_loads() {
    logger::write_through();
    log::info!("ending while a model loads");
}

/// The threads of what is not done on libtorch's: format conversions, point clouds, rays of cameras; 0 for one per core.
fn start_workers(threads: i32) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(0) as usize)
        .thread_name(|i| format!("worker-{i}"))
        .build_global()
        .context("cannot start the worker threads")
}

/// Whether there are threads and file descriptors for what is to come. Without them tokio's begin is a panic, and libtorch's never
/// ends.
fn spare_means() -> anyhow::Result<()> {
    spare_threads(2 * std::thread::available_parallelism().map_or(1, usize::from) + FEW_THREADS)?;
    spare_descriptors()
}

/// Threads beside libtorch's and our own workers, of which there are as many as `num_threads`: signals, inference, the loading of a
/// model, the device's health, and a few more.
const FEW_THREADS: usize = 8;

/// Whether the system gives so many threads more: they are started, all at once, and end again.
fn spare_threads(count: usize) -> anyhow::Result<()> {
    let gate = std::sync::RwLock::new(());
    std::thread::scope(|scope| {
        let closed = gate.write();
        for there in 0..count {
            let probe = std::thread::Builder::new().name("probe".into()).stack_size(1 << 14);
            probe.spawn_scoped(scope, || drop(gate.read())).with_context(|| {
                format!(
                    "the system gives {there} more threads, and the node needs {count}: raise the limit (ulimit -u; TasksMax of \
                     systemd; the pids limit of a container), or set num_threads lower"
                )
            })?;
        }
        drop(closed);
        Ok(())
    })
}

/// Files that are open at once beside what the middleware holds: the signals' pipe, those of a model, the device's health.
const FEW_DESCRIPTORS: usize = 16;

/// Whether the system gives so many file descriptors more: they are opened, all at once, and closed again.
fn spare_descriptors() -> anyhow::Result<()> {
    let mut open = Vec::with_capacity(FEW_DESCRIPTORS);
    for there in 0..FEW_DESCRIPTORS {
        open.push(std::fs::File::open("/dev/null").with_context(|| {
            format!(
                "the system gives {there} more file descriptors, and the node needs {FEW_DESCRIPTORS}: raise the limit (ulimit -n; \
                 LimitNOFILE of systemd)"
            )
        })?);
    }
    Ok(())
}

fn describe(ready: &Ready) -> String {
    let Ready { manifest, backend, precision, device, .. } = ready;
    let (name, w, h) = (&manifest.name, manifest.input.width, manifest.input.height);
    format!("model {name} on {device} ({backend}, {precision}), input {w}x{h}")
}

/// Which model is to be loaded, and how.
fn model_to_load(settings: &Settings) -> anyhow::Result<(PathBuf, LoadOptions)> {
    Ok((find_model(&settings.node.model_path)?, load_options(settings)?))
}

/// How the model is to be loaded. By default a batch takes all cameras on a CUDA device and one frame on the
/// processor, where frames that go through together only wait for each other.
fn load_options(settings: &Settings) -> anyhow::Result<LoadOptions> {
    let NodeSettings { device, precision, backend, fallback, build_only, .. } = settings.node;
    let on_cuda = settings.cameras.len() > 1 && matches!(resolve(device)?, tch::Device::Cuda(_));
    let max_batch = settings.node.batch_limit(on_cuda);
    let compile = if build_only { Compile::Always } else { Compile::IfNamed };
    Ok(LoadOptions { device, precision, backend, fallback, compile, max_batch })
}

/// Ends the process at once, with this code. A thread is in libtorch, where it loads a model or does not return from a
/// batch, and cannot be interrupted; waiting for it would keep Ctrl-C for seconds or for ever, and to run the static
/// destructors beside it would crash.
#[allow(unsafe_code)]
fn end_at_once(code: u8) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code.into()) }
}

/// When the next report is due, after one that was due at `due` and is made at `now`: a period after that, so that the
/// period does not drift; after a stall that took longer, a period from now.
fn next_due(due: Instant, period: Duration, now: Instant) -> Instant {
    let next = due + period;
    if next > now {
        next
    } else {
        now + period
    }
}

/// Whether the process was started to outlive its terminal, as by `nohup`.
#[allow(unsafe_code)]
fn ignores_hangup() -> bool {
    // SAFETY: an all-zero `sigaction` is a value of it, and the call writes to it and changes nothing else.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

/// Sets `stop` at SIGINT, SIGTERM or the end of the terminal. A second one ends the process at once, whatever the other threads are at.
fn watch_signals(runtime: &tokio::runtime::Runtime, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    use tokio::signal::unix::{signal, SignalKind};
    let _entered = runtime.enter();
    let first = Arc::new(OnceLock::<Instant>::new());
    let hangup = (!ignores_hangup()).then(SignalKind::hangup);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hangup) {
        let mut signals = signal(kind).context("cannot watch signals")?;
        let (stop, first) = (stop.clone(), first.clone());
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                stop.store(true, Ordering::Relaxed);
                if first.get_or_init(Instant::now).elapsed() > SAME_SIGNAL {
                    log::error!("a second signal: ending at once");
                    end_at_once(1);
                }
            }
        });
    }
    Ok(())
}

/// What of a camera's images is ignored, where its parameters name a picture of it.
fn ignore_mask(settings: &CameraSettings) -> anyhow::Result<Option<IgnoreMask>> {
    if settings.ignore_mask.is_empty() {
        return Ok(None);
    }
    IgnoreMask::read(Path::new(&settings.ignore_mask)).map(Some).map_err(anyhow::Error::msg)
}

/// The model that `model_path` names (as [`export::find`] takes it), or the one that is installed with the package.
fn find_model(model_path: &str) -> anyhow::Result<PathBuf> {
    if !model_path.is_empty() {
        return Ok(model_path.into());
    }
    export::find_installed(export::DEFAULT_MODEL).context("parameter model_path is empty: set it to a model.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_keep_their_period_and_do_not_come_twice_after_a_stall() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        assert_eq!(next_due(start, ms(100), start + ms(7)), start + ms(100), "no drift");
        assert_eq!(next_due(start, ms(100), start + ms(350)), start + ms(450));
    }

    #[test]
    fn threads_that_the_system_gives_are_given_back() {
        let own = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        for _ in 0..50 {
            spare_threads(100).expect("a hundred threads");
        }
        assert!(own() < 2000, "{} of 5000 are left", own());
    }
}

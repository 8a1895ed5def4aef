//! The ROS 2 node. r2r is used here and in [`crate::demo`] only.
//!
//! Two threads matter. The main thread spins the ROS node: it takes images and calibrations, answers parameter
//! services, publishes diagnostics and log records. The thread `inference` owns the model and the output publishers.
//! Between them is a [`mailbox`] of one frame: the newest wins, what it replaces is counted.
//!
//! - [`logger`]: the `log` crate's records, to the console and `/rosout`
//! - [`parameters`]: what was given, the parameter services and events; [`names`], [`qos`]: final names, QoS overrides
//! - [`arrival`]: messages from the middleware into frames
//! - [`mailbox`]: the one-frame slot
//! - [`stats`]: counters and percentiles
//! - [`worker`]: the inference thread and what it publishes
//! - [`diagnostics`]: what `/diagnostics` says

pub mod arrival;
pub mod diagnostics;
pub mod logger;
pub mod mailbox;
pub mod names;
pub mod parameters;
pub mod qos;
pub mod stats;
pub mod worker;

use crate::installed;
use crate::interface::qos::Role;
use anyhow::{bail, Context as _};
use arrival::Arrival;
use futures::{FutureExt as _, StreamExt as _};
use mailbox::Mailbox;
use names::Names;
use parameters::ParameterServer;
use r2r::diagnostic_msgs::msg::DiagnosticArray;
use r2r::sensor_msgs::msg::{CameraInfo, Image};
use r2r::QosProfile;
use stats::Stats;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use worker::{Ready, Worker};

/// Name of the node where no remapping gives another.
const NAME: &str = "semantic_depth";
/// Longest sleep of the spinning thread: how late a signal can be noticed.
const SPIN: Duration = Duration::from_millis(50);
/// Diagnostics come this often.
const DIAGNOSTICS_PERIOD: Duration = Duration::from_secs(1);
/// Images that wait in the middleware. Each is taken at once; the mailbox keeps the newest.
const INPUT_DEPTH: usize = 1;

/// Locks; a thread that panicked while it held the lock leaves data that is still whole for what we keep there.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the node until a signal ends it.
///
/// # Errors
/// Malformed ROS arguments, a wrong parameter, a model that cannot be loaded, or the death of a thread.
pub fn run() -> anyhow::Result<()> {
    let records = logger::init()?;
    let context = create_context()?;
    let mut node = r2r::Node::create(context, NAME, "").context("cannot create the ROS node")?;
    let name = node.fully_qualified_name().context("the node's own name")?;
    logger::set_name(&name);

    // Signals first: from here on every way out is an orderly one.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("signals")
        .enable_all()
        .build()
        .context("cannot start the signals' thread")?;
    let stop = Arc::new(AtomicBool::new(false));
    watch_signals(&runtime, &stop)?;

    let mut parameters = ParameterServer::create(&mut node)?;
    let settings = parameters.set().node();
    log::set_max_level(settings.log_level);
    let names = Names::of(&node)?;
    // The one camera that this version has.
    let camera = Arc::new(Mutex::new(parameters.set().camera(0)));
    if settings.num_threads > 0 {
        tch::set_num_threads(settings.num_threads);
    }
    let model = find_model(&settings.model_path)?;

    let stats = Arc::new(Stats::default());
    let mailbox = Arc::new(Mailbox::default());
    let infos = Arc::new(Mutex::new(arrival::Calibrations::default()));
    let outputs = worker::Publishers::create(&mut node, |topic, profile| {
        qos::overridden(profile, parameters.set(), &names.topic(topic), Role::Publisher)
    })?;
    let diagnostics = node
        .create_publisher::<DiagnosticArray>("/diagnostics", QosProfile::default())
        .context("cannot publish /diagnostics")?;
    let rosout = logger::Rosout::create(&mut node, records)?;
    let clock = node.get_ros_clock();

    let worker = Worker::start(worker::Setup {
        model: model.clone(),
        device: settings.device,
        outputs,
        mailbox: mailbox.clone(),
        infos: infos.clone(),
        stats: stats.clone(),
        camera: camera.clone(),
        clock: clock.clone(),
    })?;
    log::info!("loading {}", model.display());
    let ready = match wait_for_model(&mut node, &mut parameters, &worker, &stop, &rosout)? {
        Some(ready) => ready,
        None => {
            log::info!("ending while the model loads");
            rosout.flush();
            end_while_loading()
        }
    };
    log::info!("model {} on {} ({}), input {}x{}", ready.name, ready.device, ready.backend, ready.width, ready.height);

    let sensor = QosProfile::default().volatile();
    let sensor = if lock(&camera).reliable_input { sensor.reliable() } else { sensor.best_effort() };
    let overridden = |topic: &str, depth: usize| {
        let profile = sensor.clone().keep_last(depth);
        qos::overridden(profile, parameters.set(), &names.topic(topic), Role::Subscription)
    };
    let mut images = node
        .subscribe_native::<Image>("~/input/image", overridden("~/input/image", INPUT_DEPTH))
        .context("cannot subscribe to ~/input/image")?;
    let mut calibrations = node
        .subscribe::<CameraInfo>("~/input/camera_info", overridden("~/input/camera_info", 8))
        .context("cannot subscribe to ~/input/camera_info")?;

    let mut arrival = Arrival::new(stats.clone(), mailbox.clone());
    let mut reporter = diagnostics::Reporter::new(name.trim_start_matches('/'), ready);
    let mut due = Instant::now() + DIAGNOSTICS_PERIOD;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        node.spin_once(SPIN.min(due.saturating_duration_since(now)));
        if parameters.poll(&mut node) {
            log::set_max_level(parameters.set().node().log_level);
            *lock(&camera) = parameters.set().camera(0);
        }
        while let Some(Some(info)) = calibrations.next().now_or_never() {
            lock(&infos).add(info);
        }
        while let Some(Some(message)) = images.next().now_or_never() {
            arrival.take(message);
        }
        if Instant::now() >= due {
            // From the due time, not from now: the period does not drift. After a stall, from now.
            due = (due + DIAGNOSTICS_PERIOD).max(Instant::now());
            let limits = diagnostics::Limits {
                age: parameters.set().thresholds().age,
                stale_after: parameters.set().node().stale_after,
            };
            let array = reporter.report(&stats, &limits, &mut lock(&clock));
            if let Err(e) = diagnostics.publish(&array) {
                log::warn!("cannot publish /diagnostics: {e}");
            }
        }
        rosout.flush();
        if worker.has_ended() {
            mailbox.close();
            worker.join()?;
            bail!("the inference thread ended by itself");
        }
    }
    log::info!("ending");
    rosout.flush();
    let result = end(worker, &mailbox);
    rosout.flush();
    result
}

fn end(worker: Worker, mailbox: &Mailbox<arrival::Frame>) -> anyhow::Result<()> {
    mailbox.close();
    worker.join()
}

/// Ends the process at once. The loading thread is in libtorch and cannot be interrupted; waiting for it would keep
/// Ctrl-C for seconds, and to run the static destructors beside it would crash. Nothing is open but the ROS node,
/// whose peers see its lease end.
#[allow(unsafe_code)]
fn end_while_loading() -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(0) }
}

/// Spins (parameters can already be read) until the worker has loaded the model; `None` if a signal came first.
fn wait_for_model(
    node: &mut r2r::Node,
    parameters: &mut ParameterServer,
    worker: &Worker,
    stop: &AtomicBool,
    rosout: &logger::Rosout,
) -> anyhow::Result<Option<Ready>> {
    loop {
        node.spin_once(SPIN);
        parameters.poll(node);
        rosout.flush();
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some(result) = worker.ready() {
            return result.map(Some);
        }
        if worker.has_ended() {
            bail!("the inference thread ended while it loaded the model");
        }
    }
}

/// r2r panics on malformed ROS arguments (rcl's message is in the panic): make it an error.
fn create_context() -> anyhow::Result<r2r::Context> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let created = catch_unwind(AssertUnwindSafe(r2r::Context::create));
    std::panic::set_hook(hook);
    match created {
        Ok(context) => context.context("cannot start ROS"),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            bail!("cannot start ROS with these arguments: {text}")
        }
    }
}

/// Sets `stop` at SIGINT or SIGTERM.
fn watch_signals(runtime: &tokio::runtime::Runtime, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    use tokio::signal::unix::{signal, SignalKind};
    let _entered = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind).context("cannot watch signals")?;
        let stop = stop.clone();
        runtime.spawn(async move {
            signals.recv().await;
            stop.store(true, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// The model that `model_path` names, or the one that is installed with the package.
fn find_model(model_path: &str) -> anyhow::Result<PathBuf> {
    if !model_path.is_empty() {
        return Ok(model_path.into());
    }
    installed::find(installed::STREET_MODEL).context("parameter model_path is empty: set it to a model.yaml")
}

//! The inference thread: owns the model and the output publishers, computes what is wanted, publishes it.

use super::arrival::{Calibrations, Frame, Header};
use super::lock;
use super::mailbox::{Mailbox, Taken};
use super::stats::{Stats, Throttle};
use crate::export;
use crate::frame::clock::{nanoseconds, StageTimes};
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::network::DeviceChoice;
use crate::frame::pipeline::{Job, LoadOptions, Outputs, Pipeline, Wanted};
use crate::interface::CameraSettings;
use anyhow::{anyhow, Context as _};
use r2r::semantic_depth::msg::FrameTiming;
use r2r::sensor_msgs::msg::{CameraInfo, Image};
use r2r::{Clock, NativeMsg, Publisher, QosProfile};
use std::path::PathBuf;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread sleeps without a frame before it looks around.
const PATIENCE: Duration = Duration::from_millis(500);
/// At most one warning of a kind in this time.
const WARNING_PERIOD: Duration = Duration::from_secs(5);
/// Messages that an output keeps for a slow reliable subscriber.
const OUTPUT_DEPTH: usize = 5;

/// The output topics.
pub struct Publishers {
    labels: ImagePublisher,
    depth: ImagePublisher,
    overlay: ImagePublisher,
    camera_info: Publisher<CameraInfo>,
    timing: Publisher<FrameTiming>,
}

impl Publishers {
    /// Creates all of them, reliable; `overridden` is given a topic and its profile and may change the profile.
    ///
    /// # Errors
    /// A topic cannot be published.
    pub fn create(node: &mut r2r::Node, overridden: impl Fn(&str, QosProfile) -> QosProfile) -> anyhow::Result<Self> {
        let qos = |topic: &str| overridden(topic, QosProfile::default().keep_last(OUTPUT_DEPTH).reliable().volatile());
        let mut image = |topic: &'static str, encoding| -> anyhow::Result<ImagePublisher> {
            let publisher = node.create_publisher::<Image>(topic, qos(topic)).context(topic)?;
            Ok(ImagePublisher::new(publisher, encoding))
        };
        Ok(Self {
            labels: image("~/output/labels", "mono8")?,
            depth: image("~/output/depth", "32FC1")?,
            overlay: image("~/output/overlay", "rgb8")?,
            camera_info: node
                .create_publisher("~/output/camera_info", qos("~/output/camera_info"))
                .context("~/output/camera_info")?,
            timing: node.create_publisher("~/output/timing", qos("~/output/timing")).context("~/output/timing")?,
        })
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            labels: is_heard(&self.labels.publisher),
            depth: is_heard(&self.depth.publisher),
            overlay: is_heard(&self.overlay.publisher),
            ..Wanted::default()
        }
    }
}

/// Whether anybody subscribes. An error of the middleware counts as yes: work too much rather than too little.
fn is_heard<T: r2r::WrappedTypesupport + 'static>(publisher: &Publisher<T>) -> bool {
    publisher.get_inter_process_subscription_count().map_or(true, |n| n > 0)
}

/// Publishes images from our own buffers: the message points at them while it is sent, and nothing is copied before
/// the middleware does.
struct ImagePublisher {
    publisher: Publisher<Image>,
    message: NativeMsg<Image>,
    frame_id: String,
}

// SAFETY: the message is a plain C structure on the C heap that this value owns alone; it was made here, not loaned.
#[allow(unsafe_code)]
unsafe impl Send for ImagePublisher {}

impl ImagePublisher {
    fn new(publisher: Publisher<Image>, encoding: &str) -> Self {
        let mut message = NativeMsg::<Image>::new();
        message.encoding.assign(encoding);
        Self { publisher, message, frame_id: String::new() }
    }

    /// `data`: rows of `row_bytes`, without padding, in this machine's byte order.
    fn publish(
        &mut self,
        header: &Header,
        (w, h): (usize, usize),
        row_bytes: usize,
        data: &mut [u8],
    ) -> r2r::Result<()> {
        let m = &mut self.message;
        m.header.stamp.sec = header.sec;
        m.header.stamp.nanosec = header.nanosec;
        if self.frame_id != header.frame_id {
            // It came in a C string, so it has no NUL in it.
            m.header.frame_id.assign(&header.frame_id);
            self.frame_id.clone_from(&header.frame_id);
        }
        (m.width, m.height, m.step) = (w as u32, h as u32, row_bytes as u32);
        m.is_bigendian = u8::from(cfg!(target_endian = "big"));
        // The message must never free our buffer: its own triple is put back before anything else happens.
        // `publish_native` neither unwinds nor keeps the pointer (the middleware serialises before it returns).
        let own = (m.data.data, m.data.size, m.data.capacity);
        (m.data.data, m.data.size, m.data.capacity) = (data.as_mut_ptr(), data.len(), data.len());
        let result = self.publisher.publish_native(m);
        let m = &mut self.message;
        (m.data.data, m.data.size, m.data.capacity) = own;
        result
    }
}

/// What the thread is given.
pub struct Setup {
    /// Manifest or folder.
    pub model: PathBuf,
    /// Where to run.
    pub device: DeviceChoice,
    /// Output topics.
    pub outputs: Publishers,
    /// Where frames come from.
    pub mailbox: Arc<Mailbox<Frame>>,
    /// Calibrations.
    pub infos: Arc<Mutex<Calibrations>>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Settings of the camera, as they are now.
    pub camera: Arc<Mutex<CameraSettings>>,
    /// The node's clock.
    pub clock: Arc<Mutex<Clock>>,
}

/// What was loaded.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The model's name.
    pub name: String,
    /// sha256 of its TorchScript file.
    pub sha256: String,
    /// Back end.
    pub backend: String,
    /// Device.
    pub device: String,
    /// Network input, pixels.
    pub width: usize,
    /// Network input, pixels.
    pub height: usize,
}

/// The running thread.
#[derive(Debug)]
pub struct Worker {
    thread: JoinHandle<()>,
    ready: Receiver<anyhow::Result<Ready>>,
}

impl Worker {
    /// Starts it; it loads the model first.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(setup: Setup) -> anyhow::Result<Self> {
        let (tell, ready) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("inference".into())
            .spawn(move || match load(&setup) {
                Ok((pipeline, loaded)) => {
                    if tell.send(Ok(loaded.clone())).is_ok() {
                        Loop::new(setup, pipeline, loaded).run();
                    }
                }
                Err(e) => drop(tell.send(Err(e))),
            })
            .context("cannot start the inference thread")?;
        Ok(Self { thread, ready })
    }

    /// The outcome of loading, once, when it is there.
    pub fn ready(&self) -> Option<anyhow::Result<Ready>> {
        self.ready.try_recv().ok()
    }

    /// Whether it has ended (it should not, by itself).
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It panicked.
    pub fn join(self) -> anyhow::Result<()> {
        self.thread.join().map_err(|_| anyhow!("the inference thread died of an internal error; its message is above"))
    }
}

fn load(setup: &Setup) -> anyhow::Result<(Pipeline, Ready)> {
    let artifact = export::load(&setup.model)?;
    let sha256 = artifact.manifest.files.get(&artifact.manifest.torchscript).cloned().unwrap_or_default();
    let pipeline = Pipeline::from_artifact(artifact, &LoadOptions { device: setup.device, ..LoadOptions::default() })?;
    let ready = Ready {
        name: pipeline.manifest().name.clone(),
        sha256,
        backend: pipeline.backend().into(),
        device: pipeline.device_name(),
        width: pipeline.manifest().input.width,
        height: pipeline.manifest().input.height,
    };
    Ok((pipeline, ready))
}

/// The thread's own state.
struct Loop {
    setup: Setup,
    pipeline: Pipeline,
    loaded: Ready,
    outputs: Outputs,
    failures: Throttle,
    misfits: Throttle,
}

impl Loop {
    fn new(setup: Setup, pipeline: Pipeline, loaded: Ready) -> Self {
        Self {
            setup,
            pipeline,
            loaded,
            outputs: Outputs::default(),
            failures: Throttle::default(),
            misfits: Throttle::default(),
        }
    }

    fn run(mut self) {
        loop {
            match self.setup.mailbox.take(PATIENCE) {
                Taken::Closed => return,
                Taken::Nothing => {}
                Taken::New(frame) => self.answer(&frame),
            }
        }
    }

    fn answer(&mut self, frame: &Frame) {
        let wait_ns = nanoseconds(frame.arrived.elapsed().saturating_sub(frame.receive));
        let header = frame.header();
        let wanted = self.setup.outputs.wanted();
        if !wanted.any() {
            Stats::count(&self.setup.stats.skipped);
            self.publish_camera_info(&header, None);
            return;
        }
        let Ok(view) = frame.view() else { return }; // proven at arrival
        let opacity = lock(&self.setup.camera).overlay_opacity;
        let size = (view.width(), view.height());
        let geometry = Geometry::new(&Placement::default(), size, self.pipeline.network_size());
        let answered = geometry.map_err(anyhow::Error::from).and_then(|geometry| {
            let mut jobs = [Job {
                image: view,
                geometry: &geometry,
                wanted,
                depth_factor: 1.0,
                overlay_opacity: opacity,
                mask_values: &[0; 256],
                outputs: &mut self.outputs,
                times: StageTimes::default(),
            }];
            self.pipeline.run(&mut jobs)?;
            Ok(jobs[0].times)
        });
        let stages = match answered {
            Ok(stages) => stages,
            Err(e) => {
                self.setup.stats.refuse(&e.to_string());
                self.failures.warn(format_args!("a frame could not be computed: {e}"));
                return;
            }
        };
        let publishing = Instant::now();
        let size = (view.width(), view.height());
        self.publish_images(&header, size, wanted);
        self.publish_camera_info(&header, Some(size));
        let publish_ns = nanoseconds(publishing.elapsed());
        self.publish_timing(frame, header, wait_ns, &stages, publish_ns);
    }

    fn publish_images(&mut self, header: &Header, size: (usize, usize), wanted: Wanted) {
        let p = &mut self.setup.outputs;
        let o = &mut self.outputs;
        let results = [
            wanted.labels.then(|| p.labels.publish(header, size, size.0, &mut o.labels)),
            wanted.depth.then(|| p.depth.publish(header, size, size.0 * 4, bytes_of(&mut o.depth_m))),
            wanted.overlay.then(|| p.overlay.publish(header, size, size.0 * 3, &mut o.overlay)),
        ];
        for result in results.into_iter().flatten() {
            if let Err(e) = result {
                self.failures.warn(format_args!("an output could not be published: {e}"));
            }
        }
    }

    fn publish_camera_info(&mut self, header: &Header, size: Option<(usize, usize)>) {
        if !is_heard(&self.setup.outputs.camera_info) {
            return;
        }
        let Some(info) = lock(&self.setup.infos).of(header) else { return };
        if let Some((w, h)) = size {
            let uncalibrated = info.width == 0 && info.height == 0;
            if !uncalibrated && (info.width as usize, info.height as usize) != (w, h) {
                self.misfits.warn(format_args!(
                    "camera_info is of {}x{}, the image of {w}x{h}: it is passed on as it is",
                    info.width, info.height
                ));
            }
        }
        if let Err(e) = self.setup.outputs.camera_info.publish(&info) {
            self.failures.warn(format_args!("camera_info could not be published: {e}"));
        }
    }

    fn publish_timing(&mut self, frame: &Frame, header: Header, wait_ns: u64, stages: &StageTimes, publish_ns: u64) {
        let stats = &self.setup.stats;
        let total_ns = nanoseconds(frame.arrived.elapsed());
        let now_ns = lock(&self.setup.clock).get_now().map_or(0, |d| d.as_nanos() as i64);
        let age_ns = now_ns - header.stamp_ns();
        let sequence = Stats::count(&stats.answered);
        lock(&stats.measures).add(wait_ns, stages, publish_ns, total_ns, age_ns);
        if !is_heard(&self.setup.outputs.timing) {
            return;
        }
        let mut message = FrameTiming {
            sequence,
            received: Stats::read(&stats.received),
            dropped: Stats::read(&stats.dropped),
            refused: Stats::read(&stats.refused),
            receive_ns: nanoseconds(frame.receive),
            wait_ns,
            decode_ns: stages.decode_ns,
            infer_ns: stages.infer_ns,
            labels_ns: stages.labels_ns,
            depth_ns: stages.depth_ns,
            overlay_ns: stages.overlay_ns,
            publish_ns,
            total_ns,
            age_ns,
            backend: self.loaded.backend.clone(),
            device: self.loaded.device.clone(),
            ..FrameTiming::default()
        };
        message.header.stamp.sec = header.sec;
        message.header.stamp.nanosec = header.nanosec;
        message.header.frame_id = header.frame_id;
        if let Err(e) = self.setup.outputs.timing.publish(&message) {
            self.failures.warn(format_args!("timing could not be published: {e}"));
        }
    }
}

impl Throttle {
    fn warn(&mut self, text: std::fmt::Arguments<'_>) {
        if let Some(more) = self.pass(Instant::now(), WARNING_PERIOD) {
            log::warn!("{text} ({more} more since the last such message)");
        }
    }
}

/// The bytes of floats, in this machine's order.
#[allow(unsafe_code)]
fn bytes_of(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: a float is four initialised bytes, every byte may be read and written as u8, whose alignment is 1; the
    // borrow of `values` lasts as long as the result.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), std::mem::size_of_val(values)) }
}

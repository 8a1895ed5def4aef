//! The input side of one camera on the spinning thread: its subscriptions while the node is active, its calibrations,
//! and whether its publishers can be heard at all.

use super::arrival::{Arrival, Calibrations, Frame};
use super::inbox::Inbox;
use super::names::{full_name, Names};
use super::settings::Settings;
use super::stats::{CalibrationState, Stats, Throttle};
use super::{lock, qos};
use crate::interface::settings::ImageTransport;
use crate::interface::topics::{self, Topic};
use crate::interface::CameraSettings;
use anyhow::Context as _;
use futures::{FutureExt as _, Stream, StreamExt as _};
use r2r::sensor_msgs::msg::{CameraInfo, CompressedImage, Image};
use r2r::{Clock, NativeMsg, Node, QosProfile};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Messages<T> = Box<dyn Stream<Item = T> + Unpin>;

/// Subscriptions, which live while the node is active.
struct Subscriptions {
    raw: Option<Messages<NativeMsg<Image>>>,
    compressed: Option<Messages<NativeMsg<CompressedImage>>>,
    infos: Option<Messages<CameraInfo>>,
    image: Source,
    calibration: Source,
}

/// What a subscription hears.
struct Source {
    /// The topic's final name.
    topic: String,
    /// Its type.
    kind: &'static str,
    /// What is asked of its publishers.
    qos: QosProfile,
}

/// What the graph says of a source.
#[derive(Default)]
struct Look {
    /// The number of its publishers.
    publishers: usize,
    /// Why some of them cannot be heard.
    problems: Vec<String>,
    /// Why nothing may have come of those that can be heard.
    missed: Option<String>,
}

impl Source {
    /// Looks at its publishers; `None` where the graph cannot be read.
    fn look(&self, node: &Node) -> Option<Look> {
        let Self { topic, kind, qos } = self;
        let publishers = node.get_publishers_info_by_topic(topic, false).ok()?;
        let mut look = Look { publishers: publishers.len(), ..Look::default() };
        for p in &publishers {
            let who = full_name(&p.node_namespace, &p.node_name);
            if p.topic_type != *kind {
                look.problems.push(format!("{who} publishes {} on {topic}, expected {kind}", p.topic_type));
            } else if let Some(why) = qos::incompatibility(&p.qos_profile, qos) {
                look.problems.push(format!("{who} on {topic}: {why}"));
            } else if let Some(why) = qos::missed(&p.qos_profile, qos) {
                look.missed.get_or_insert_with(|| format!("{who} on {topic}: {why}"));
            }
        }
        Some(look)
    }
}

/// One camera's input.
pub struct Camera {
    /// Its name; empty for the one unnamed camera.
    pub name: String,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Its newest calibrations.
    pub calibrations: Arc<Mutex<Calibrations>>,
    arrival: Option<Arrival>,
    subscriptions: Option<Subscriptions>,
    /// What is not listened to any more and still on the graph: r2r takes a subscription off only with a message that it
    /// would get, so that of a silent topic would stay, and one more with each activation. It is taken up again instead.
    parked: Option<Subscriptions>,
    unheard: Throttle,
    /// Looks at the publishers, one after the other, at which a calibration was wanted and none had come.
    without_calibration: u32,
}

impl Camera {
    /// Number and name as in parameter `cameras`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            stats: Arc::default(),
            calibrations: Arc::default(),
            arrival: None,
            subscriptions: None,
            parked: None,
            unheard: Throttle::default(),
            without_calibration: 0,
        }
    }

    /// Where its frames go from now on.
    pub fn connect(
        &mut self,
        index: usize,
        inbox: &Arc<Inbox<Frame>>,
        enabled: &Arc<AtomicBool>,
        clock: &Arc<Mutex<Clock>>,
    ) {
        let (stats, inbox, enabled, clock) = (self.stats.clone(), inbox.clone(), enabled.clone(), clock.clone());
        let calibrations = self.calibrations.clone();
        self.arrival = Some(Arrival::new((index, &self.name), stats, calibrations, inbox, enabled, clock));
    }

    /// Subscribes to the image and the calibration.
    ///
    /// # Errors
    /// A subscription cannot be made, or a `qos_overrides` of it is not valid.
    pub fn subscribe(
        &mut self,
        node: &mut Node,
        settings: &CameraSettings,
        qos: &dyn Fn(&Topic, &str) -> QosProfile,
        names: &Names,
    ) -> anyhow::Result<()> {
        let input = |name: &str| -> anyhow::Result<(String, QosProfile)> {
            let topic = topics::find(name).with_context(|| format!("{name} is not in the table of topics"))?;
            let name = names.request(&topic.name_for(&self.name));
            let qos = qos(topic, &name);
            Ok((name, qos))
        };
        let subscribing = |topic: &str| format!("cannot subscribe to {topic}");
        // Transport, topics and QoS are read at the start only, so what is parked is what is wanted.
        let (mut raw, mut compressed, mut infos) =
            self.parked.take().map_or((None, None, None), |p| (p.raw, p.compressed, p.infos));
        let (info_topic, info_qos) = input("~/input/camera_info")?;
        if infos.is_none() {
            let stream = node.subscribe::<CameraInfo>(&info_topic, info_qos.clone());
            infos = Some(Box::new(stream.with_context(|| subscribing(&info_topic))?) as Messages<_>);
            if !info_topic.starts_with('~') {
                log::info!("subscribed to {}, the camera_info beside the image", names.topic(&info_topic));
            }
        }
        let ((topic, image_qos), kind) = match settings.image_transport {
            ImageTransport::Raw => (input("~/input/image")?, "sensor_msgs/msg/Image"),
            ImageTransport::Compressed => (input("~/input/image/compressed")?, "sensor_msgs/msg/CompressedImage"),
        };
        match settings.image_transport {
            ImageTransport::Raw if raw.is_none() => {
                let stream = node.subscribe_native::<Image>(&topic, image_qos.clone());
                raw = Some(Box::new(stream.with_context(|| subscribing(&topic))?) as Messages<_>);
            }
            ImageTransport::Compressed if compressed.is_none() => {
                let stream = node.subscribe_native::<CompressedImage>(&topic, image_qos.clone());
                compressed = Some(Box::new(stream.with_context(|| subscribing(&topic))?) as Messages<_>);
            }
            _ => {}
        }
        let image = Source { topic: names.topic(&topic), kind, qos: image_qos };
        let kind = "sensor_msgs/msg/CameraInfo";
        let calibration = Source { topic: names.topic(&info_topic), kind, qos: info_qos };
        self.subscriptions = Some(Subscriptions { raw, compressed, infos, image, calibration });
        lock(&self.stats.arrivals).watch(Instant::now());
        *lock(&self.stats.last_arrival) = None;
        Ok(())
    }

    /// Takes no more images. The subscriptions leave the graph with the next messages that they would get.
    pub fn unsubscribe(&mut self) {
        if let Some(subscriptions) = self.subscriptions.take() {
            self.parked = Some(subscriptions);
        }
        if let Some(arrival) = &mut self.arrival {
            arrival.let_go();
        }
        *lock(&self.stats.qos_problem) = None;
        *lock(&self.stats.calibration) = CalibrationState::default();
        *lock(&self.stats.cloud) = None;
    }

    /// Whether it is subscribed.
    pub fn is_subscribed(&self) -> bool {
        self.subscriptions.is_some()
    }

    /// Takes what has arrived. Returns after which time at most it is to be called again, if an image waits.
    pub fn drain(&mut self, settings: &CameraSettings) -> Option<Duration> {
        if let Some(parked) = &mut self.parked {
            let_go(&mut parked.raw);
            let_go(&mut parked.compressed);
            let_go(&mut parked.infos);
        }
        let (Some(s), Some(arrival)) = (&mut self.subscriptions, &mut self.arrival) else { return None };
        if let Some(infos) = &mut s.infos {
            while let Some(Some(info)) = infos.next().now_or_never() {
                lock(&self.calibrations).add(&info);
            }
        }
        arrival.release();
        if let Some(messages) = &mut s.raw {
            while let Some(Some(message)) = messages.next().now_or_never() {
                arrival.take(message, settings.min_period);
            }
        }
        if let Some(messages) = &mut s.compressed {
            while let Some(Some(message)) = messages.next().now_or_never() {
                arrival.take_compressed(message, settings.min_period);
            }
        }
        arrival.release()
    }

    /// Looks whether the publishers of the image and of its calibration can be heard; a problem is logged, and kept for
    /// the diagnostics, the image's first. True: it is another one than before, or none any more.
    pub fn watch_publishers(&mut self, node: &Node) -> bool {
        let Some(s) = &self.subscriptions else { return false };
        let Some(Look { publishers, mut problems, .. }) = s.image.look(node) else { return false };
        // Where nobody publishes images, that is what there is to say.
        let calibration = if publishers > 0 { s.calibration.look(node) } else { None }.unwrap_or_default();
        problems.extend(calibration.problems);
        let is_wanted = lock(&self.stats.calibration).degraded || matches!(*lock(&self.stats.cloud), Some(Err(_)));
        self.without_calibration =
            if is_wanted && lock(&self.calibrations).is_empty() { self.without_calibration + 1 } else { 0 };
        // The first one may be on its way.
        if self.without_calibration > 2 && problems.is_empty() {
            problems.extend(calibration.missed);
        }
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        let is_new = *lock(&self.stats.qos_problem) != problem;
        if let Some(problem) = &problem {
            if is_new {
                log::warn!("{problem}");
            } else {
                self.unheard.warn(format_args!("still not heard: {problem}"));
            }
        }
        *lock(&self.stats.qos_problem) = problem;
        self.stats.publishers.store(publishers as u64, Ordering::Relaxed);
        is_new
    }
}

/// Drops a parked stream once a message came: it is then the next one that takes the subscription off the graph.
fn let_go<T>(messages: &mut Option<Messages<T>>) {
    if messages.as_mut().is_some_and(|m| matches!(m.next().now_or_never(), Some(Some(_)))) {
        *messages = None;
    }
}

/// The cameras of the parameters.
pub fn cameras(settings: &Settings) -> Vec<Camera> {
    if settings.node.cameras.is_empty() {
        vec![Camera::new("")]
    } else {
        settings.node.cameras.iter().map(|name| Camera::new(name)).collect()
    }
}

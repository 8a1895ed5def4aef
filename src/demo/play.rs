//! The demo's end of the ROS 2 graph: plays the frames, collects everything the node publishes, feeds the bag.

use super::bag::{self, BagError, Feed, Qos, QosTime, Recorder, Topic};
use super::interfaces::{InterfaceError, Prefixes};
use super::messages::{self, Counts, FrameTiming, StampNs};
use super::process::{NodeProcess, ProcessError};
use super::source::{Opened, SourceError, Truth};
use crate::node::context;
use futures::{FutureExt, Stream, StreamExt};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Name of the node that is shown.
pub const NODE: &str = "/semantic_depth";
/// The topics of the bag: name, type. The first two are played, the others collected; up to the timing they belong to a
/// frame. The last one is there where the node publishes it.
pub const TOPICS: [(&str, &str); 11] = [
    ("/semantic_depth/input/image", "sensor_msgs/msg/Image"),
    ("/semantic_depth/input/camera_info", "sensor_msgs/msg/CameraInfo"),
    ("/semantic_depth/output/labels", "sensor_msgs/msg/Image"),
    ("/semantic_depth/output/depth", "sensor_msgs/msg/Image"),
    ("/semantic_depth/output/overlay", "sensor_msgs/msg/Image"),
    // Foxglove shows floating-point depth of more than a metre as white.
    ("/semantic_depth/output/depth/compressed", "sensor_msgs/msg/CompressedImage"),
    ("/semantic_depth/output/camera_info", "sensor_msgs/msg/CameraInfo"),
    ("/semantic_depth/output/timing", "semantic_depth/msg/FrameTiming"),
    ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
    ("/rosout", "rcl_interfaces/msg/Log"),
    ("/semantic_depth/output/label_info", "vision_msgs/msg/LabelInfo"),
];
/// Index of the image that is played.
pub const INPUT_IMAGE: usize = 0;
/// Index of its camera info.
pub const INPUT_CAMERA_INFO: usize = 1;
/// Index of the labels.
pub const LABELS: usize = 2;
/// Index of the depth.
pub const DEPTH: usize = 3;
/// Index of the overlay.
pub const OVERLAY: usize = 4;
/// Index of the timing.
pub const TIMING: usize = 7;
/// Index of the diagnostics.
pub const DIAGNOSTICS: usize = 8;
/// Index of the log.
pub const ROSOUT: usize = 9;
/// Index of what the labels mean.
pub const LABEL_INFO: usize = 10;

/// Depth of the queues on both sides of the graph.
const QUEUE: usize = 10;
/// What publishers keep for late listeners, by topic: index, depth of our queue, which takes all of it at once.
const LATCHED: [(usize, usize); 2] = [(ROSOUT, 1000), (LABEL_INFO, 1)];
/// Time for the node to load its model and appear.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// What it seldom exceeds.
const READY_USUALLY: Duration = Duration::from_secs(15);
/// Time without any answer after which what is missing is given up, where nothing is known of the node's speed.
const TAIL_LIMIT: Duration = Duration::from_secs(20);
/// The least of it, and how many times what the slowest answer took it is otherwise.
const TAIL_LEAST: (Duration, u32) = (Duration::from_secs(2), 5);

/// How often a wait for the next frame looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Why a drive could not be played.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message says what its variant is
pub enum PlayError {
    #[error("{0:#}")]
    Start(anyhow::Error),
    #[error("ROS 2: {what}: {source}")]
    Ros { what: String, source: r2r::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Bag(#[from] BagError),
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    #[error("a node already publishes {topic} in ROS domain {domain}; stop it, or choose another ROS_DOMAIN_ID")]
    Occupied { topic: String, domain: String },
    #[error("the node did not offer {missing} within {limit:?}; is it at work (node.log), and does the network let the two find each other?")]
    NotReady { missing: String, limit: Duration },
    #[error("a message on {0} is malformed")]
    Message(String),
    #[error("interrupted")]
    Interrupted,
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

fn ros(what: impl Into<String>) -> impl FnOnce(r2r::Error) -> PlayError {
    let what = what.into();
    move |source| PlayError::Ros { what, source }
}

/// One frame that was played.
#[derive(Debug, Clone)]
pub struct Played {
    /// File name, or number in the video.
    pub name: String,
    /// What its answers are matched by.
    pub stamp_ns: StampNs,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Its truth.
    pub truth: Option<Truth>,
}

/// What came back for one frame; index as in [`TOPICS`].
pub type Answered = [bool; TOPICS.len()];

/// A drive that was played.
#[derive(Debug, Default)]
pub struct Run {
    /// In order.
    pub played: Vec<Played>,
    /// By stamp.
    pub answers: BTreeMap<StampNs, Answered>,
    /// In order.
    pub timings: Vec<FrameTiming>,
    /// The node's newest.
    pub counts: Counts,
    /// First frame to last frame.
    pub play_s: f64,
    /// Messages with a stamp that was never played.
    pub strangers: u64,
    /// Whether a signal ended it.
    pub interrupted: bool,
}

impl Run {
    /// Takes newer counts: diagnostics and timings come by different ways, and none of them ever sinks.
    fn count(&mut self, counts: Counts) {
        let Counts { received, answered, dropped, refused, skipped } = &mut self.counts;
        *received = counts.received.max(*received);
        *answered = counts.answered.max(*answered);
        *dropped = counts.dropped.max(*dropped);
        *refused = counts.refused.max(*refused);
        *skipped = counts.skipped.max(*skipped);
    }

    /// Whether nothing more will come: the last frame is answered, or all are accounted for (the last ones may be over
    /// `max_rate_hz`) and the answers have come.
    fn is_done(&self) -> bool {
        let Some(last) = self.played.last() else { return true };
        let has_come = self.counts.answered == self.timings.len() as u64
            && self.timings.last().is_none_or(|timing| self.complete(messages::stamp_ns(&timing.header.stamp)));
        self.complete(last.stamp_ns) || (has_come && self.counts.settle(self.played.len() as u64))
    }

    /// Whether all images and the timing came back for a frame.
    pub fn complete(&self, stamp_ns: StampNs) -> bool {
        self.answers.get(&stamp_ns).is_some_and(|a| a[LABELS] && a[DEPTH] && a[OVERLAY] && a[TIMING])
    }
}

/// Messages of one topic in their wire form.
type RawStream = Box<dyn Stream<Item = Vec<u8>> + Unpin>;

/// The demo's node.
pub struct Graph {
    node: r2r::Node,
    publishers: Vec<r2r::PublisherUntyped>,
    streams: Vec<(usize, RawStream)>,
}

/// Nanoseconds since the epoch.
fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// Subscribes to one of [`TOPICS`].
fn subscribe(node: &mut r2r::Node, index: usize, qos: r2r::QosProfile) -> Result<RawStream, PlayError> {
    let (name, type_name) = TOPICS[index];
    let stream = node.subscribe_raw(name, type_name, qos);
    Ok(Box::new(stream.map_err(ros(format!("cannot subscribe to {name} ({type_name})")))?))
}

impl Graph {
    /// Joins the graph of `ROS_DOMAIN_ID`, in which the node that will be shown must not run yet.
    pub fn join() -> Result<Self, PlayError> {
        let context = context::create_for_tool().map_err(PlayError::Start)?;
        let mut node = r2r::Node::create(context, "semantic_depth_demo", "").map_err(ros("cannot create a node"))?;
        let qos = || r2r::QosProfile::default().keep_last(QUEUE).reliable().volatile();
        let mut publishers = Vec::new();
        let mut streams: Vec<(usize, RawStream)> = Vec::new();
        for (index, (name, type_name)) in TOPICS.into_iter().enumerate().take(DIAGNOSTICS + 1) {
            if index <= INPUT_CAMERA_INFO {
                let publisher = node.create_publisher_untyped(name, type_name, qos());
                publishers.push(publisher.map_err(ros(format!("cannot publish {name}")))?);
            } else {
                streams.push((index, subscribe(&mut node, index, qos())?));
            }
        }
        let mut graph = Self { node, publishers, streams };
        // Discovery on one machine takes some tens of milliseconds.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            graph.node.spin_once(Duration::from_millis(50));
        }
        for (topic, _) in &TOPICS[LABELS..DIAGNOSTICS] {
            if !graph.publishers_of(topic)?.is_empty() {
                let domain = std::env::var("ROS_DOMAIN_ID").unwrap_or_else(|_| "0".into());
                return Err(PlayError::Occupied { topic: (*topic).into(), domain });
            }
        }
        Ok(graph)
    }

    /// As a recorder that joins now, it gets what publishers have kept: the node's log of late, and what the labels mean.
    fn subscribe_to_latched(&mut self) -> Result<(), PlayError> {
        for (index, depth) in LATCHED {
            // This program knows the type only where vision_msgs was there when it was built.
            let is_there =
                index != LABEL_INFO || (cfg!(has_vision_msgs) && !self.publishers_of(TOPICS[index].0)?.is_empty());
            if is_there {
                let qos = r2r::QosProfile::default().keep_last(depth).reliable().transient_local();
                self.streams.push((index, subscribe(&mut self.node, index, qos)?));
            }
        }
        Ok(())
    }

    fn publishers_of(&self, topic: &str) -> Result<Vec<r2r::QosProfile>, PlayError> {
        let endpoints =
            self.node.get_publishers_info_by_topic(topic, false).map_err(ros("cannot look at the graph"))?;
        Ok(endpoints.into_iter().map(|e| e.qos_profile).collect())
    }

    /// Waits until the node takes images and offers every output.
    pub fn wait_until_ready(&mut self, process: &mut NodeProcess, stop: &AtomicBool) -> Result<(), PlayError> {
        let start = Instant::now();
        let mut is_said = false;
        loop {
            process.check()?;
            if stop.load(Ordering::Relaxed) {
                return Err(PlayError::Interrupted);
            }
            self.node.spin_once(Duration::from_millis(50));
            let mut missing = Vec::new();
            for (publisher, (topic, _)) in self.publishers.iter().zip(TOPICS) {
                if publisher.get_inter_process_subscription_count().map_err(ros("cannot look at the graph"))? == 0 {
                    missing.push(format!("a subscription to {topic}"));
                }
            }
            for (topic, _) in &TOPICS[LABELS..=DIAGNOSTICS] {
                if self.publishers_of(topic)?.is_empty() {
                    missing.push((*topic).to_owned());
                }
            }
            if missing.is_empty() {
                // What we have discovered, the node discovers about us at the same time; this covers its side, which
                // cannot be seen from here.
                let settle = Instant::now();
                while settle.elapsed() < Duration::from_millis(300) {
                    self.node.spin_once(Duration::from_millis(50));
                }
                for (_, stream) in &mut self.streams {
                    while let Some(Some(_)) = stream.next().now_or_never() {}
                }
                return self.subscribe_to_latched();
            }
            if start.elapsed() > READY_LIMIT {
                return Err(PlayError::NotReady { missing: missing.join(", "), limit: READY_LIMIT });
            }
            if start.elapsed() > READY_USUALLY && !is_said {
                is_said = true;
                super::say(format_args!(
                    "waiting for the node, at most {READY_LIMIT:?}: yet to come: {}",
                    missing.join(", ")
                ));
            }
        }
    }

    /// The bag that [`Graph::play`] feeds, of a graph that is ready.
    pub fn create_bag(&self, folder: &Path, prefixes: &Prefixes) -> Result<Recorder, PlayError> {
        let mut topics = Vec::new();
        for (index, (name, type_name)) in TOPICS.into_iter().enumerate() {
            let qos = if index <= INPUT_CAMERA_INFO {
                vec![Qos::reliable(QUEUE)]
            } else if !self.streams.iter().any(|(subscribed, _)| *subscribed == index) {
                continue;
            } else {
                self.publishers_of(name)?.iter().map(offered).collect()
            };
            topics.push(Topic { name: name.into(), interface: prefixes.load(type_name)?, qos });
        }
        Ok(Recorder::create(folder, topics)?)
    }

    /// Plays all frames at `rate_hz`, 0.001 or more, and collects until the last one is answered.
    pub fn play(
        &mut self,
        opened: Opened,
        rate_hz: f64,
        feed: Feed,
        process: &mut NodeProcess,
        stop: &Arc<AtomicBool>,
        mut progress: impl FnMut(&Run),
    ) -> Result<Run, PlayError> {
        let (sender, played) = sync_channel(64);
        let player = Player {
            image: self.publishers[INPUT_IMAGE].clone(),
            camera_info: self.publishers[INPUT_CAMERA_INFO].clone(),
            period: Duration::from_secs_f64(1.0 / rate_hz),
            feed: feed.clone(),
            stop: Arc::clone(stop),
            sender,
        };
        let player = std::thread::Builder::new()
            .name("demo-player".into())
            .spawn(move || player.run(opened))
            .map_err(PlayError::Thread)?;
        let mut run = Run::default();
        let result = self.collect(&mut run, &played, &feed, process, stop, &mut progress);
        // The player's next send fails once nobody listens, so it ends on every path.
        drop(played);
        let ended = player.join().map_err(|_| PlayError::Thread(std::io::Error::other("the player panicked")))?;
        result?;
        run.play_s = ended?.as_secs_f64();
        Ok(run)
    }

    fn collect(
        &mut self,
        run: &mut Run,
        played: &Receiver<Played>,
        feed: &Feed,
        process: &mut NodeProcess,
        stop: &AtomicBool,
        progress: &mut impl FnMut(&Run),
    ) -> Result<(), PlayError> {
        let mut playing = true;
        let mut last_answer = Instant::now();
        // Whether the node's counts have come since the last frame.
        let mut is_told = false;
        let mut last_check = Instant::now();
        loop {
            self.node.spin_once(Duration::from_millis(20));
            while playing {
                match played.try_recv() {
                    Ok(frame) => {
                        run.played.push(frame);
                        last_answer = Instant::now();
                        is_told = false;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => playing = false,
                }
            }
            for (topic, stream) in &mut self.streams {
                while let Some(Some(message)) = stream.next().now_or_never() {
                    let log_time_ns = now_ns();
                    if *topic < DIAGNOSTICS {
                        let malformed = || PlayError::Message(TOPICS[*topic].0.into());
                        let stamp_ns = messages::stamp(&message).ok_or_else(malformed)?;
                        run.answers.entry(stamp_ns).or_default()[*topic] = true;
                        if *topic == TIMING {
                            let timing = messages::read::<FrameTiming>(&message).map_err(|_| malformed())?;
                            run.count(Counts::from(&timing));
                            run.timings.push(timing);
                        }
                        last_answer = Instant::now();
                    } else if *topic == DIAGNOSTICS {
                        if let Some(counts) = Counts::read(&message, NODE) {
                            run.count(counts);
                            is_told = true;
                        }
                    }
                    feed.record(*topic, log_time_ns, log_time_ns, message);
                }
            }
            if last_check.elapsed() > Duration::from_millis(100) {
                last_check = Instant::now();
                process.check()?;
                // What cannot be recorded any more need not be played on.
                if stop.load(Ordering::Relaxed) || feed.has_ended() {
                    break;
                }
                progress(run);
            }
            if !playing && (run.is_done() || last_answer.elapsed() > tail_limit(is_told, &run.timings)) {
                break;
            }
        }
        // The player stops by itself, too, and all that it played may have been answered by then. What has been measured so
        // far is worth a report.
        run.interrupted = stop.load(Ordering::Relaxed);
        progress(run);
        let stamps: std::collections::BTreeSet<_> = run.played.iter().map(|p| p.stamp_ns).collect();
        run.strangers = run.answers.keys().filter(|stamp| !stamps.contains(stamp)).count() as u64;
        Ok(())
    }
}

/// How long to wait for what is missing: frames that were lost on their way are in nobody's count. `is_told`: whether the node's
/// counts have come since the last frame.
fn tail_limit(is_told: bool, timings: &[FrameTiming]) -> Duration {
    let slowest = timings.iter().map(|t| Duration::from_nanos(t.total_ns)).max();
    let (least, times) = TAIL_LEAST;
    let long = |slowest: Duration| slowest.saturating_mul(times).clamp(least, TAIL_LIMIT);
    slowest.filter(|_| is_told).map_or(TAIL_LIMIT, long)
}

struct Player {
    image: r2r::PublisherUntyped,
    camera_info: r2r::PublisherUntyped,
    period: Duration,
    feed: Feed,
    stop: Arc<AtomicBool>,
    sender: SyncSender<Played>,
}

impl Player {
    /// Returns at `due`, or soon after a stop: at a low rate there are minutes between two frames.
    fn wait_until(&self, due: Instant) {
        while !self.stop.load(Ordering::Relaxed) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(STOP_INTERVAL));
        }
    }

    /// Returns the time from the first frame to the last.
    fn run(self, opened: Opened) -> Result<Duration, PlayError> {
        let mut due = Instant::now();
        let mut first = None;
        let mut last = due;
        loop {
            let frame = match opened.frames.recv_timeout(Duration::from_millis(200)) {
                Ok(frame) => frame?,
                Err(RecvTimeoutError::Timeout) if !self.stop.load(Ordering::Relaxed) => continue,
                Err(_) => break,
            };
            let super::source::Frame { name, mut image, mut camera_info, width, height, truth } = frame;
            self.wait_until(due);
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let stamp = now_ns();
            let stamp_ns = stamp as StampNs;
            messages::set_stamp(&mut image, stamp_ns);
            messages::set_stamp(&mut camera_info, stamp_ns);
            last = Instant::now();
            first.get_or_insert(last);
            // The camera info first, so that it is there when the image arrives. The frame is announced before it is
            // published: no answer can come earlier than that.
            if self.sender.send(Played { name, stamp_ns, width, height, truth }).is_err() {
                break;
            }
            self.camera_info.publish_raw(&camera_info).map_err(ros("cannot publish a camera info"))?;
            self.image.publish_raw(&image).map_err(ros("cannot publish an image"))?;
            self.feed.record(INPUT_CAMERA_INFO, stamp, stamp, camera_info);
            self.feed.record(INPUT_IMAGE, stamp, stamp, image);
            // A late frame moves the rest: frames are never played in a burst to catch up.
            due = (due + self.period).max(last);
        }
        Ok(last - first.unwrap_or(last))
    }
}

fn offered(qos: &r2r::QosProfile) -> bag::Qos {
    use r2r::qos::{DurabilityPolicy, HistoryPolicy, LivelinessPolicy, ReliabilityPolicy};
    let time = |d: Duration| {
        let time = QosTime { sec: d.as_secs(), nsec: u64::from(d.subsec_nanos()) };
        // r2r spells "no limit" as zero or as the largest duration.
        if d.is_zero() || time.sec >= QosTime::INFINITE.sec {
            QosTime::INFINITE
        } else {
            time
        }
    };
    Qos {
        history: match qos.history {
            HistoryPolicy::KeepAll => "keep_all",
            HistoryPolicy::KeepLast => "keep_last",
            HistoryPolicy::SystemDefault => "system_default",
            // DDS discovery does not carry the history.
            HistoryPolicy::Unknown => "unknown",
        },
        depth: qos.depth,
        reliability: match qos.reliability {
            ReliabilityPolicy::BestEffort => "best_effort",
            ReliabilityPolicy::SystemDefault => "system_default",
            ReliabilityPolicy::Unknown => "unknown",
            _ => "reliable",
        },
        durability: match qos.durability {
            DurabilityPolicy::TransientLocal => "transient_local",
            DurabilityPolicy::SystemDefault => "system_default",
            DurabilityPolicy::Unknown => "unknown",
            _ => "volatile",
        },
        deadline: time(qos.deadline),
        lifespan: time(qos.lifespan),
        liveliness: match qos.liveliness {
            LivelinessPolicy::ManualByTopic => "manual_by_topic",
            LivelinessPolicy::SystemDefault => "system_default",
            LivelinessPolicy::Unknown => "unknown",
            _ => "automatic",
        },
        liveliness_lease_duration: time(qos.liveliness_lease_duration),
        avoid_ros_namespace_conventions: qos.avoid_ros_namespace_conventions,
    }
}

//! A rosbag2 in MCAP, as Jazzy's `ros2 bag record -s mcap` lays it out: `<folder>/<folder>_0.mcap` and `metadata.yaml`
//! (version 9). Messages are stored byte for byte as the middleware delivered them.
//!
//! One named thread writes. It is fed through a queue that is bounded in messages and in bytes; where it overflows the
//! message is *not* recorded, which is counted by topic and reported: whoever feeds it never waits for the disk.

use super::interfaces::Interface;
use mcap::records::{MessageHeader, Metadata};
use mcap::sans_io::linear_reader::{LinearReadEvent, LinearReader, LinearReaderOptions};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender, TrySendError};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Most messages that wait for the writer.
const QUEUE_MESSAGES: usize = 256;
/// Most bytes that wait for the writer.
const QUEUE_BYTES: usize = 1 << 29;
/// Uncompressed bytes a chunk: one large image, or many small messages.
const CHUNK_BYTES: u64 = 4 << 20;

/// Why a bag cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message says what its variant is
pub enum BagError {
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("bag {path}: {source}")]
    Mcap { path: PathBuf, source: mcap::McapError },
    #[error("cannot write the bag's metadata: {0}")]
    Yaml(#[from] serde_yaml::Error),
    #[error("the bag's writer thread ended early")]
    WriterGone,
}

/// A duration as `rmw` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QosTime {
    /// Seconds.
    pub sec: u64,
    /// Nanoseconds.
    pub nsec: u64,
}

impl QosTime {
    /// No limit.
    pub const INFINITE: Self = Self { sec: 9_223_372_036, nsec: 854_775_807 };
}

/// A publisher's quality of service in rosbag2's spelling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // ROS 2's own names
pub struct Qos {
    pub history: &'static str,
    pub depth: usize,
    pub reliability: &'static str,
    pub durability: &'static str,
    pub deadline: QosTime,
    pub lifespan: QosTime,
    pub liveliness: &'static str,
    pub liveliness_lease_duration: QosTime,
    pub avoid_ros_namespace_conventions: bool,
}

impl Qos {
    /// Keep the last `depth`, reliable, volatile.
    pub fn reliable(depth: usize) -> Self {
        Self {
            history: "keep_last",
            depth,
            reliability: "reliable",
            durability: "volatile",
            deadline: QosTime::INFINITE,
            lifespan: QosTime::INFINITE,
            liveliness: "automatic",
            liveliness_lease_duration: QosTime::INFINITE,
            avoid_ros_namespace_conventions: false,
        }
    }
}

/// One topic of a bag.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Fully qualified.
    pub name: String,
    /// Its message type.
    pub interface: Interface,
    /// What its publishers offered.
    pub qos: Vec<Qos>,
}

struct Item {
    topic: usize,
    log_time_ns: u64,
    publish_time_ns: u64,
    data: Vec<u8>,
}

#[derive(Debug)]
struct Counters {
    waiting_bytes: AtomicUsize,
    lost: Vec<AtomicU64>,
    /// Nobody writes any more.
    has_ended: AtomicBool,
}

/// Feeds the writer; clones feed the same bag.
#[derive(Debug, Clone)]
pub struct Feed {
    sender: SyncSender<Item>,
    counters: Arc<Counters>,
}

impl Feed {
    /// Hands one message over, in its wire form. Never waits: false means that it was counted as lost.
    ///
    /// `topic` is the index into the topics that the bag was created with.
    pub fn record(&self, topic: usize, log_time_ns: u64, publish_time_ns: u64, data: Vec<u8>) -> bool {
        let bytes = data.len();
        let before = self.counters.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // One message larger than the whole budget must still pass when the queue is empty.
        let room = before == 0 || before + bytes <= QUEUE_BYTES;
        let sent = room.then(|| self.sender.try_send(Item { topic, log_time_ns, publish_time_ns, data }));
        if matches!(sent, Some(Err(TrySendError::Disconnected(_)))) {
            self.counters.has_ended.store(true, Ordering::Relaxed);
        }
        let taken = matches!(sent, Some(Ok(())));
        if !taken {
            self.counters.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if let Some(lost) = self.counters.lost.get(topic) {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        taken
    }

    /// Whether a message found the writer gone: it has failed, and [`Recorder::finish`] says why.
    pub fn has_ended(&self) -> bool {
        self.counters.has_ended.load(Ordering::Relaxed)
    }
}

/// What lies in a finished bag.
#[derive(Debug, Clone, Serialize)]
pub struct BagSummary {
    /// The folder.
    pub folder: PathBuf,
    /// Size of the MCAP file.
    pub bytes: u64,
    /// Messages by topic.
    pub messages: BTreeMap<String, u64>,
    /// Messages that the writer's queue had no room for, by topic; topics without loss are left out.
    pub lost: BTreeMap<String, u64>,
}

/// A bag that is being written.
#[derive(Debug)]
pub struct Recorder {
    feed: Feed,
    writer: JoinHandle<Result<Written, BagError>>,
    topics: Vec<Topic>,
    folder: PathBuf,
    file_name: String,
}

#[derive(Debug)]
struct Written {
    counts: Vec<u64>,
    first_ns: u64,
    last_ns: u64,
}

impl Recorder {
    /// Creates `folder` (an earlier bag of the same name in it is replaced) and starts the writer.
    pub fn create(folder: &Path, topics: Vec<Topic>) -> Result<Self, BagError> {
        let io = |what, path: &Path| {
            let path = path.to_path_buf();
            move |source| BagError::Io { what, path, source }
        };
        std::fs::create_dir_all(folder).map_err(io("create folder", folder))?;
        let stem = folder.file_name().map_or_else(|| "bag".into(), |n| n.to_string_lossy().into_owned());
        let file_name = format!("{stem}_0.mcap");
        let path = folder.join(&file_name);
        let metadata = folder.join("metadata.yaml");
        if metadata.exists() {
            // Before the data changes: a bag cut off half-way must not be described by an older one's metadata.
            std::fs::remove_file(&metadata).map_err(io("remove", &metadata))?;
        }
        let file = File::create(&path).map_err(io("create", &path))?;
        // Compression beside the network competes with it for the cores; above four there is room to share it.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if cores > 4 { 2 } else { 0 };
        let mcap_error = |source| BagError::Mcap { path: path.clone(), source };
        let mut writer = mcap::WriteOptions::new()
            .profile("ros2")
            .library(concat!("semantic_depth ", env!("CARGO_PKG_VERSION")))
            .compression(Some(mcap::Compression::Zstd))
            .compression_level(1)
            .compression_threads(threads)
            .chunk_size(Some(CHUNK_BYTES))
            .create(BufWriter::new(file))
            .map_err(mcap_error)?;
        let mut channels = Vec::with_capacity(topics.len());
        for topic in &topics {
            let interface = &topic.interface;
            let schema = writer
                .add_schema(&interface.type_name, "ros2msg", interface.definition.as_bytes())
                .map_err(mcap_error)?;
            let metadata = BTreeMap::from([
                ("offered_qos_profiles".to_owned(), serde_yaml::to_string(&topic.qos)?),
                ("topic_type_hash".to_owned(), interface.hash.clone()),
            ]);
            channels.push(writer.add_channel(schema, &topic.name, "cdr", &metadata).map_err(mcap_error)?);
        }
        let (sender, receiver) = sync_channel(QUEUE_MESSAGES);
        let lost = topics.iter().map(|_| AtomicU64::new(0)).collect();
        let counters =
            Arc::new(Counters { waiting_bytes: AtomicUsize::new(0), lost, has_ended: AtomicBool::new(false) });
        let job = Job {
            writer,
            channels,
            path: path.clone(),
            file_name: file_name.clone(),
            topics: topics.clone(),
            counters: Arc::clone(&counters),
        };
        let writer = std::thread::Builder::new()
            .name("demo-bag".into())
            .spawn(move || job.run(&receiver))
            .map_err(|source| BagError::Io { what: "start a thread to write", path: path.clone(), source })?;
        Ok(Self { feed: Feed { sender, counters }, writer, topics, folder: folder.to_path_buf(), file_name })
    }

    /// Something to feed it with.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Waits until all that was fed is written (every other [`Feed`] must be dropped) and closes the bag.
    pub fn finish(self) -> Result<BagSummary, BagError> {
        let counters = Arc::clone(&self.feed.counters);
        drop(self.feed);
        let written = self.writer.join().map_err(|_| BagError::WriterGone)??;
        let path = self.folder.join("metadata.yaml");
        let metadata = metadata(&self.topics, &written, &self.file_name);
        let text = serde_yaml::to_string(&MetadataFile { rosbag2_bagfile_information: metadata })?;
        std::fs::write(&path, text).map_err(|source| BagError::Io { what: "write", path, source })?;
        let names = || self.topics.iter().map(|t| t.name.clone());
        let lost = counters.lost.iter().map(|l| l.load(Ordering::Relaxed));
        Ok(BagSummary {
            bytes: std::fs::metadata(self.folder.join(&self.file_name)).map_or(0, |m| m.len()),
            messages: names().zip(written.counts.iter().copied()).collect(),
            lost: names().zip(lost).filter(|(_, lost)| *lost > 0).collect(),
            folder: self.folder,
        })
    }
}

struct Job {
    writer: mcap::Writer<BufWriter<File>>,
    channels: Vec<u16>,
    path: PathBuf,
    file_name: String,
    topics: Vec<Topic>,
    counters: Arc<Counters>,
}

impl Job {
    fn run(mut self, receiver: &Receiver<Item>) -> Result<Written, BagError> {
        let mut counts = vec![0; self.channels.len()];
        let (mut first_ns, mut last_ns) = (u64::MAX, 0);
        for Item { topic, log_time_ns, publish_time_ns, data } in receiver.iter() {
            let Some(&channel_id) = self.channels.get(topic) else { continue };
            let header = MessageHeader {
                channel_id,
                sequence: counts[topic] as u32 + 1,
                log_time: log_time_ns,
                publish_time: publish_time_ns,
            };
            let result = self.writer.write_to_known_channel(&header, &data);
            self.counters.waiting_bytes.fetch_sub(data.len(), Ordering::Relaxed);
            result.map_err(|source| BagError::Mcap { path: self.path.clone(), source })?;
            counts[topic] += 1;
            first_ns = first_ns.min(log_time_ns);
            last_ns = last_ns.max(log_time_ns);
        }
        let written = Written { counts, first_ns: first_ns.min(last_ns), last_ns };
        // rosbag2 keeps a copy of metadata.yaml inside, so that the MCAP file alone can be opened.
        let serialized = serde_yaml::to_string(&metadata(&self.topics, &written, &self.file_name))?;
        let mcap_error = |source| BagError::Mcap { path: self.path.clone(), source };
        let metadata = BTreeMap::from([("serialized_metadata".to_owned(), serialized)]);
        self.writer.write_metadata(&Metadata { name: "rosbag2".into(), metadata }).map_err(mcap_error)?;
        self.writer.finish().map_err(mcap_error)?;
        let file = self.writer.into_inner();
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(|source| BagError::Io { what: "finish", path: self.path.clone(), source })?;
        Ok(written)
    }
}

#[derive(Serialize)]
struct MetadataFile {
    rosbag2_bagfile_information: Information,
}

/// rosbag2's `BagMetadata`, version 9.
#[derive(Serialize)]
struct Information {
    version: u32,
    storage_identifier: &'static str,
    duration: Nanoseconds,
    starting_time: Epoch,
    message_count: u64,
    topics_with_message_count: Vec<TopicCount>,
    compression_format: &'static str,
    compression_mode: &'static str,
    relative_file_paths: Vec<String>,
    files: Vec<FileInformation>,
    custom_data: Option<BTreeMap<String, String>>,
    ros_distro: String,
}

#[derive(Serialize)]
struct Nanoseconds {
    nanoseconds: u64,
}

#[derive(Serialize)]
struct Epoch {
    nanoseconds_since_epoch: u64,
}

#[derive(Serialize)]
struct TopicCount {
    topic_metadata: TopicMetadata,
    message_count: u64,
}

#[derive(Serialize)]
struct TopicMetadata {
    name: String,
    r#type: String,
    serialization_format: &'static str,
    offered_qos_profiles: Vec<Qos>,
    type_description_hash: String,
}

#[derive(Serialize)]
struct FileInformation {
    path: String,
    starting_time: Epoch,
    duration: Nanoseconds,
    message_count: u64,
}

fn metadata(topics: &[Topic], written: &Written, file_name: &str) -> Information {
    let message_count = written.counts.iter().sum();
    let nanoseconds = written.last_ns - written.first_ns;
    let nanoseconds_since_epoch = written.first_ns;
    Information {
        version: 9,
        storage_identifier: "mcap",
        duration: Nanoseconds { nanoseconds },
        starting_time: Epoch { nanoseconds_since_epoch },
        message_count,
        topics_with_message_count: topics
            .iter()
            .zip(&written.counts)
            .map(|(topic, &message_count)| TopicCount {
                topic_metadata: TopicMetadata {
                    name: topic.name.clone(),
                    r#type: topic.interface.type_name.clone(),
                    serialization_format: "cdr",
                    offered_qos_profiles: topic.qos.clone(),
                    type_description_hash: topic.interface.hash.clone(),
                },
                message_count,
            })
            .collect(),
        // MCAP compresses its own chunks; these two speak of whole files or messages.
        compression_format: "",
        compression_mode: "",
        relative_file_paths: vec![file_name.to_owned()],
        files: vec![FileInformation {
            path: file_name.to_owned(),
            starting_time: Epoch { nanoseconds_since_epoch },
            duration: Nanoseconds { nanoseconds },
            message_count,
        }],
        custom_data: None,
        ros_distro: std::env::var("ROS_DISTRO").unwrap_or_else(|_| "unknown".into()),
    }
}

/// Longest record of a bag that is read: larger than any image.
const MOST_RECORD_BYTES: usize = 1 << 30;

/// Reads a bag's MCAP file from front to back in bounded memory; `visit` gets each message's topic and bytes.
pub fn read<E: From<BagError>>(path: &Path, mut visit: impl FnMut(&str, &[u8]) -> Result<(), E>) -> Result<(), E> {
    let mcap_error = |source| E::from(BagError::Mcap { path: path.to_path_buf(), source });
    let io = |source| E::from(BagError::Io { what: "read", path: path.to_path_buf(), source });
    let mut file = File::open(path).map_err(io)?;
    // Without it a number in a damaged file is taken for how much memory is needed.
    let options = LinearReaderOptions::default().with_record_length_limit(MOST_RECORD_BYTES);
    let mut reader = LinearReader::new_with_options(options);
    let mut topics = BTreeMap::new();
    while let Some(event) = reader.next_event() {
        match event.map_err(mcap_error)? {
            LinearReadEvent::ReadRequest(bytes) => {
                let count = file.read(reader.insert(bytes)).map_err(io)?;
                reader.notify_read(count);
            }
            LinearReadEvent::Record { data, opcode } => match mcap::parse_record(opcode, data).map_err(mcap_error)? {
                mcap::records::Record::Channel(channel) => {
                    topics.insert(channel.id, channel.topic);
                }
                mcap::records::Record::Message { header, data } => {
                    if let Some(topic) = topics.get(&header.channel_id) {
                        visit(topic, &data)?;
                    }
                }
                _ => {}
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::interfaces::Prefixes;
    use crate::demo::messages;

    fn topics() -> Vec<Topic> {
        let prefixes = Prefixes::from_env();
        [("/a/image", "sensor_msgs/msg/Image"), ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")]
            .map(|(name, type_name)| Topic {
                name: name.into(),
                interface: prefixes.load(type_name).expect("a sourced ROS 2 has it"),
                qos: vec![Qos::reliable(5)],
            })
            .into()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let bag = folder.path().join("drive");
        let recorder = Recorder::create(&bag, topics()).expect("created");
        let feed = recorder.feed();
        let rgb: Vec<u8> = (0..64 * 48 * 3).map(|i| (i % 251) as u8).collect();
        let mut sent = Vec::new();
        for i in 0..20_u64 {
            let mut message = messages::image("camera", 64, 48, rgb.clone()).expect("ROS writes it");
            messages::set_stamp(&mut message, 1_000_000_000 + i as i64);
            assert!(feed.record(0, 5_000 + i, 4_000 + i, message.clone()));
            sent.push(message);
        }
        drop(feed);
        let summary = recorder.finish().expect("finished");
        assert_eq!(summary.messages["/a/image"], 20);
        assert_eq!(summary.messages["/diagnostics"], 0);
        assert!(summary.lost.is_empty());
        let mut back = Vec::new();
        read::<BagError>(&bag.join("drive_0.mcap"), |topic, data| {
            assert_eq!(topic, "/a/image");
            back.push(data.to_vec());
            Ok(())
        })
        .expect("read");
        assert!(back == sent, "the bytes differ");
        let text = std::fs::read_to_string(bag.join("metadata.yaml")).expect("metadata");
        let yaml: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
        let information = &yaml["rosbag2_bagfile_information"];
        assert_eq!(information["version"].as_u64(), Some(9));
        assert_eq!(information["message_count"].as_u64(), Some(20));
        assert_eq!(information["duration"]["nanoseconds"].as_u64(), Some(19));
        assert_eq!(information["starting_time"]["nanoseconds_since_epoch"].as_u64(), Some(5_000));
    }

    #[test]
    fn overflow_is_counted_and_does_not_wait() {
        // A feed whose writer never takes anything: the bound is what stops it.
        let (sender, receiver) = sync_channel(2);
        let (lost, has_ended) = (vec![AtomicU64::new(0)], AtomicBool::new(false));
        let counters = Arc::new(Counters { waiting_bytes: AtomicUsize::new(0), lost, has_ended });
        let feed = Feed { sender, counters };
        assert_eq!([1, 2, 3, 4].map(|_| feed.record(0, 0, 0, vec![0; 10])), [true, true, false, false]);
        assert_eq!(feed.counters.lost[0].load(Ordering::Relaxed), 2);
        assert_eq!(feed.counters.waiting_bytes.load(Ordering::Relaxed), 20);
        assert!(!feed.has_ended(), "it is only slow");
        drop(receiver);
        assert!(!feed.record(0, 1, 1, vec![0; 10]) && feed.has_ended());
        assert_eq!(feed.counters.lost[0].load(Ordering::Relaxed), 3);
    }

    /// The MCAP file of a bag of one image.
    fn bag_of_one(folder: &Path) -> PathBuf {
        let bag = folder.join("drive");
        let recorder = Recorder::create(&bag, topics()).expect("created");
        recorder.feed().record(0, 1, 1, messages::image("camera", 10, 10, vec![7; 300]).expect("ROS writes it"));
        recorder.finish().expect("finished");
        bag.join("drive_0.mcap")
    }

    #[test]
    fn numbers_of_a_damaged_bag_are_not_taken_for_memory() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = bag_of_one(folder.path());
        let bytes = std::fs::read(&path).expect("bag");
        for at in 8..bytes.len() - 9 {
            let mut damaged = bytes.clone();
            damaged[at..at + 8].copy_from_slice(&0x4b6d_2f00_dead_beef_u64.to_le_bytes());
            std::fs::write(&path, damaged).expect("written");
            // An error or not, but no end of the process.
            let _ = read::<BagError>(&path, |_, _| Ok(()));
        }
    }

    #[test]
    fn a_bag_cut_off_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = bag_of_one(folder.path());
        let bytes = std::fs::read(&path).expect("bag");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("cut");
        let error = read::<BagError>(&path, |_, _| Ok(())).expect_err("cut off");
        assert!(error.to_string().contains("drive_0.mcap"), "{error}");
    }
}

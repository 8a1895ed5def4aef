//! The `log` crate's records: to standard error in ROS's own form, and through a bounded queue to `/rosout`.
//!
//! (rcl's logging on Jazzy publishes `/rosout` only for nodes of its own client libraries.)

use r2r::rcl_interfaces::msg::Log;
use r2r::QosProfile;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Records that may wait for `/rosout`; more are left out there (the console has them).
const QUEUE: usize = 256;

/// A record on its way to `/rosout`.
#[derive(Debug)]
pub struct Record {
    level: log::Level,
    text: String,
    file: String,
    line: u32,
    since_epoch: Duration,
}

struct Logger {
    queue: SyncSender<Record>,
}

static NAME: OnceLock<String> = OnceLock::new();

fn name() -> &'static str {
    NAME.get().map_or(super::NAME, String::as_str)
}

/// Sets the node's name, once it is known.
pub fn set_name(fully_qualified: &str) {
    // A logger's name has dots where a node's has slashes; the second call changes nothing.
    let _ = NAME.set(fully_qualified.trim_start_matches('/').replace('/', "."));
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // Of the crates below only what is serious.
        metadata.level() <= log::max_level()
            && (metadata.target().starts_with("semantic_depth") || metadata.level() <= log::Level::Warn)
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let label = match record.level() {
            log::Level::Error => "ERROR",
            log::Level::Warn => "WARN",
            log::Level::Info => "INFO",
            log::Level::Debug | log::Level::Trace => "DEBUG",
        };
        eprintln!(
            "[{label}] [{}.{:09}] [{}]: {}",
            since_epoch.as_secs(),
            since_epoch.subsec_nanos(),
            name(),
            record.args()
        );
        // A full queue leaves the record out of /rosout; waiting here could stop the hot path.
        let _ = self.queue.try_send(Record {
            level: record.level(),
            text: record.args().to_string(),
            file: record.file().unwrap_or_default().into(),
            line: record.line().unwrap_or_default(),
            since_epoch,
        });
    }

    fn flush(&self) {}
}

/// Installs the logger, at the level of the ROS arguments (`--log-level LEVEL`, the last one counts).
///
/// # Errors
/// There is a logger already.
pub fn init() -> anyhow::Result<Receiver<Record>> {
    let (queue, records) = sync_channel(QUEUE);
    log::set_boxed_logger(Box::new(Logger { queue }))?;
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    log::set_max_level(level(&arguments));
    Ok(records)
}

fn level(arguments: &[String]) -> log::LevelFilter {
    let said = arguments.windows(2).filter(|w| w[0] == "--log-level").map(|w| w[1].as_str()).next_back();
    // Per-logger levels are NAME:=LEVEL; there is one logger here.
    match said.map(|s| s.rsplit(":=").next().unwrap_or(s).to_ascii_lowercase()).as_deref() {
        Some("debug") => log::LevelFilter::Debug,
        Some("warn") => log::LevelFilter::Warn,
        Some("error" | "fatal") => log::LevelFilter::Error,
        _ => log::LevelFilter::Info,
    }
}

/// The publisher of `/rosout`.
pub struct Rosout {
    publisher: r2r::Publisher<Log>,
    records: Receiver<Record>,
}

impl Rosout {
    /// Publishes what `records` receives.
    ///
    /// # Errors
    /// The topic cannot be published.
    pub fn create(node: &mut r2r::Node, records: Receiver<Record>) -> anyhow::Result<Self> {
        // What rclcpp uses: late listeners get the last records.
        let qos = QosProfile::default().keep_last(1000).reliable().transient_local();
        Ok(Self { publisher: node.create_publisher::<Log>("/rosout", qos)?, records })
    }

    /// Publishes what waits.
    pub fn flush(&self) {
        while let Ok(record) = self.records.try_recv() {
            let mut message = Log {
                level: match record.level {
                    log::Level::Error => Log::ERROR as u8,
                    log::Level::Warn => Log::WARN as u8,
                    log::Level::Info => Log::INFO as u8,
                    log::Level::Debug | log::Level::Trace => Log::DEBUG as u8,
                },
                name: name().into(),
                // A C string ends at a NUL.
                msg: record.text.replace('\0', "\u{fffd}"),
                file: record.file,
                line: record.line,
                ..Log::default()
            };
            message.stamp.sec = record.since_epoch.as_secs() as i32;
            message.stamp.nanosec = record.since_epoch.subsec_nanos();
            // Not through `log`: that would come back here.
            let _ = self.publisher.publish(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn the_last_level_counts() {
        let of = |text: &str| level(&text.split(' ').map(String::from).collect::<Vec<_>>());
        assert_eq!(of("node"), log::LevelFilter::Info);
        assert_eq!(of("node --ros-args --log-level debug"), log::LevelFilter::Debug);
        assert_eq!(of("node --ros-args --log-level debug --log-level WARN"), log::LevelFilter::Warn);
        assert_eq!(of("node --ros-args --log-level semantic_depth:=error"), log::LevelFilter::Error);
        assert_eq!(of("node --log-level"), log::LevelFilter::Info);
    }
}

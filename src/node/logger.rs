//! The `log` crate's records: to standard error and rcl's log file in ROS's own form, and through a bounded queue to `/rosout`.
//!
//! (rcl's logging on Jazzy publishes `/rosout` only for nodes of its own client libraries, and has no line of ours on its way to
//! the file.)
//!
//! Levels are ROS's: a logger's name has dots, and what is not set for it is taken from the part of its name before the
//! last dot, in the end from the root logger `""`. `--log-level` sets them at the start, [`set_level`] and
//! `~/set_logger_levels` while the node runs. Stamps are the system's time even under `use_sim_time`, as in rclcpp.

use super::command_line::{arguments, is_enabled};
use super::console::Console;
use super::lock;
use super::publishers::is_heard;
use super::service::{respond, Requests};
use r2r::rcl_interfaces::msg::{Log, LoggerLevel, SetLoggerLevelsResult};
use r2r::rcl_interfaces::srv::{GetLoggerLevels, SetLoggerLevels};
use r2r::QosProfile;
use std::cell::Cell;
use std::ffi::{c_char, c_int, CString, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Records that may wait for `/rosout`; more are left out there (the console has them).
const QUEUE: usize = 256;
/// How long a line waits for room on the console before it is left out.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same of the reason for the end.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// How long a new publisher of `/rosout` and those who listen may take to find each other. With Fast DDS it is 0.1 s or,
/// nearly as often, 1.3 to 3 s.
const DISCOVERY: Duration = Duration::from_secs(3);
/// How long a record may take to those who listen: r2r cannot tell when it has arrived.
const DELIVERY: Duration = Duration::from_millis(300);
/// The form of a line on the console where `RCUTILS_CONSOLE_OUTPUT_FORMAT` gives no other.
const FORMAT: &str = "[{severity}] [{time}] [{name}]: {message}";

/// How serious a record is. The discriminant is ROS's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Severity {
    /// For those who look for a fault.
    Debug = 10,
    /// The course of events.
    Info = 20,
    /// Something is not as it should be, and the node goes on.
    Warn = 30,
    /// Something could not be done.
    Error = 40,
    /// The node ends.
    Fatal = 50,
}

impl Severity {
    const ALL: [Self; 5] = [Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal];

    /// Of a number of `rcl_interfaces/msg/LoggerLevel`; `None` if it is none of the five (0 is "unset").
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u8 == number)
    }

    /// As it is written in ROS's lines.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }

    /// What the `log` crate lets through. It knows nothing above an error.
    const fn filter(self) -> log::LevelFilter {
        match self {
            Self::Debug => log::LevelFilter::Debug,
            Self::Info => log::LevelFilter::Info,
            Self::Warn => log::LevelFilter::Warn,
            Self::Error => log::LevelFilter::Error,
            Self::Fatal => log::LevelFilter::Off,
        }
    }
}

impl From<log::LevelFilter> for Severity {
    fn from(filter: log::LevelFilter) -> Self {
        filter.to_level().map_or(Self::Fatal, Self::from)
    }
}

impl From<log::Level> for Severity {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Error => Self::Error,
            log::Level::Warn => Self::Warn,
            log::Level::Info => Self::Info,
            log::Level::Debug | log::Level::Trace => Self::Debug,
        }
    }
}

impl std::str::FromStr for Severity {
    type Err = String;

    /// Any case, as `--log-level` takes it.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|s| s.label().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("expected debug, info, warn, error or fatal, got '{text}'"))
    }
}

/// Levels by logger. Unset ones are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Levels {
    /// The root logger's number; 0 (unset) lets everything through, as in rcutils.
    root: u8,
    named: Vec<(String, Severity)>,
}

impl Levels {
    const fn new() -> Self {
        Self { root: Severity::Info as u8, named: Vec::new() }
    }

    /// What `--ros-args --log-level LEVEL` and `--log-level LOGGER:=LEVEL` say; of each logger the last one counts.
    /// (rcl has refused malformed ones before.)
    fn from_arguments(arguments: &[String]) -> Self {
        let mut levels = Self::new();
        let mut is_ros = false;
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--ros-args" => is_ros = true,
                "--" => is_ros = false,
                "--log-level" if is_ros => {
                    let said = arguments.next().map_or("", String::as_str);
                    let (name, level) = said.rsplit_once(":=").unwrap_or(("", said));
                    if let Ok(severity) = level.parse::<Severity>() {
                        levels.set(name, Some(severity));
                    }
                }
                _ => {}
            }
        }
        levels
    }

    fn set(&mut self, name: &str, severity: Option<Severity>) {
        if name.is_empty() {
            self.root = severity.map_or(0, |s| s as u8);
            return;
        }
        self.named.retain(|(n, _)| n != name);
        self.named.extend(severity.map(|s| (name.to_string(), s)));
    }

    /// The number that was set for exactly this logger; 0 for none.
    fn get(&self, name: &str) -> u8 {
        if name.is_empty() {
            return self.root;
        }
        self.named.iter().find(|(n, _)| n == name).map_or(0, |(_, s)| *s as u8)
    }

    /// The level that counts for a logger.
    fn effective(&self, name: &str) -> Severity {
        let mut part = name;
        while !part.is_empty() {
            if let Some(severity) = Severity::from_number(self.get(part)) {
                return severity;
            }
            part = part.rsplit_once('.').map_or("", |(before, _)| before);
        }
        Severity::from_number(self.root).unwrap_or(Severity::Debug)
    }
}

/// Whether a level of this logger counts for the logger `own`: it is that one, one of those above it, or the root.
fn counts_for(own: &str, name: &str) -> bool {
    name.is_empty() || own.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A record on its way to `/rosout`.
#[derive(Debug)]
pub struct Record {
    severity: Severity,
    text: String,
    file: String,
    line: u32,
    since_epoch: Duration,
}

struct Logger {
    /// `None` where `--disable-rosout-logs` is given.
    queue: Option<SyncSender<Record>>,
    format: Vec<Piece>,
    /// None where there was no file descriptor left for it.
    console: Option<Mutex<Console>>,
    /// Not with `--disable-stdout-logs`.
    has_console: bool,
}

/// rcl's writer of log lines.
type WriteLine = unsafe extern "C" fn(c_int, *const c_char, *const c_char);
/// What sets the level below which it leaves lines out.
type SetLevel = unsafe extern "C" fn(*const c_char, c_int) -> c_int;

static NAME: OnceLock<String> = OnceLock::new();
static LOGGER: OnceLock<Logger> = OnceLock::new();
static LEVELS: Mutex<Levels> = Mutex::new(Levels::new());
static FILE: OnceLock<WriteLine> = OnceLock::new();

fn name() -> &'static str {
    NAME.get().map_or(super::NAME, String::as_str)
}

/// Sets the node's name, once it is known.
pub fn set_name(fully_qualified: &str) {
    // A logger's name has dots where a node's has slashes; the second call changes nothing.
    let _ = NAME.set(fully_qualified.trim_start_matches('/').replace('/', "."));
    apply(&lock(&LEVELS));
}

/// The level of the node's logger.
pub fn level() -> Severity {
    lock(&LEVELS).effective(name())
}

/// Sets the level of the node's logger.
pub fn set_level(severity: impl Into<Severity>) {
    let mut levels = lock(&LEVELS);
    levels.set(name(), Some(severity.into()));
    apply(&levels);
}

fn apply(levels: &Levels) {
    log::set_max_level(levels.effective(name()).filter());
}

/// Says why the node ends. Nothing turns this off.
pub fn fatal(text: std::fmt::Arguments<'_>) {
    match LOGGER.get() {
        Some(logger) => logger.put(Severity::Fatal, text, "", ("", 0)),
        None => eprintln!("[FATAL] [{}]: {text}", name()),
    }
}

/// A part of a line on the console.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Severity,
    Name,
    Message,
    Time,
    TimeNs,
    Function,
    File,
    Line,
}

/// Splits a format as rcutils does; braces around anything else are text.
fn pieces(format: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(c) = rest.chars().next() {
        let token = rest.strip_prefix('{').and_then(|r| r.split_once('}')).and_then(|(token, after)| {
            let piece = match token {
                "severity" => Piece::Severity,
                "name" => Piece::Name,
                "message" => Piece::Message,
                "time" => Piece::Time,
                "time_as_nanoseconds" => Piece::TimeNs,
                "function_name" => Piece::Function,
                "file_name" => Piece::File,
                "line_number" => Piece::Line,
                _ => return None,
            };
            Some((piece, after))
        });
        if let Some((piece, after)) = token {
            if !text.is_empty() {
                found.push(Piece::Text(std::mem::take(&mut text)));
            }
            found.push(piece);
            rest = after;
        } else {
            text.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    if !text.is_empty() {
        found.push(Piece::Text(text));
    }
    found
}

/// A line for the console, with its end. Log lines are few; each is a string of its own.
fn line(format: &[Piece], name: &str, record: &Record, module: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(64 + record.text.len());
    for piece in format {
        // Writing to a string cannot fail.
        let _ = match piece {
            Piece::Text(text) => out.write_str(text),
            Piece::Severity => out.write_str(record.severity.label()),
            Piece::Name => out.write_str(name),
            Piece::Message => out.write_str(&record.text),
            Piece::Time => {
                write!(out, "{}.{:09}", record.since_epoch.as_secs(), record.since_epoch.subsec_nanos())
            }
            Piece::TimeNs => write!(out, "{}", record.since_epoch.as_nanos()),
            Piece::Function => out.write_str(module),
            Piece::File => out.write_str(&record.file),
            Piece::Line => write!(out, "{}", record.line),
        };
    }
    out.push('\n');
    out
}

thread_local! {
    /// This thread is about to log a record.
    static IS_LOGGING: Cell<bool> = const { Cell::new(false) };
}

impl Logger {
    /// To the console, the file and the queue of `/rosout`.
    fn put(&self, severity: Severity, text: std::fmt::Arguments<'_>, module: &str, (file, line_number): (&str, u32)) {
        IS_LOGGING.set(true);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record { severity, text: text.to_string(), file: file.into(), line: line_number, since_epoch };
        let text = line(&self.format, name(), &record, module);
        if self.has_console || severity == Severity::Fatal {
            if let Some(console) = &self.console {
                // The last word waits longer for whoever reads slowly.
                let patience = if severity == Severity::Fatal { LAST_PATIENCE } else { PATIENCE };
                lock(console).line(&text, patience);
            }
        }
        if let Some(write) = FILE.get() {
            to_file(*write, severity, &text);
        }
        if let Some(queue) = &self.queue {
            // A full queue leaves the record out of /rosout; waiting here could stop the hot path.
            let _ = queue.try_send(record);
        }
        IS_LOGGING.set(false);
    }
}

/// Lines are to be on the disk at once.
static IS_LAST: AtomicBool = AtomicBool::new(false);

/// For who is about to end the process without its destructors: the file has the lines after this one, and all before them,
/// when they have been logged. rcl's writer keeps lines for seconds, but for those of an error.
pub fn write_through() {
    IS_LAST.store(true, Ordering::Relaxed);
}

/// `text` ends a line, which rcl's writer does itself.
#[allow(unsafe_code)]
fn to_file(write: WriteLine, severity: Severity, text: &str) {
    // The text says itself of what severity it is.
    let severity = if IS_LAST.load(Ordering::Relaxed) { severity.max(Severity::Error) } else { severity };
    // A C string ends at a NUL.
    let Ok(text) = CString::new(text.trim_end_matches('\n').replace('\0', "\u{fffd}")) else { return };
    // SAFETY: rcl's function (`open_file`), which may be called by many threads; the name is not needed.
    unsafe { write(severity as c_int, c"".as_ptr(), text.as_ptr()) }
}

/// From here on lines go to the file, too, that rcl has opened for this process in `ROS_LOG_DIR`. There has to be a context: before,
/// rcl's writer has no file and does not look whether it has. Nothing with `--disable-external-lib-logs`, as rcl opens none then.
#[allow(unsafe_code)]
pub fn open_file() {
    if !is_enabled(arguments(), "external-lib-logs") {
        return;
    }
    let process = libloading::os::unix::Library::this();
    // SAFETY: the functions of rcl_logging_interface, which every implementation of it has with these types; rcl loaded one.
    let found = unsafe {
        let write = process.get::<WriteLine>(b"rcl_logging_external_log\0").map(|f| *f);
        write.and_then(|write| Ok((write, *process.get::<SetLevel>(b"rcl_logging_external_set_logger_level\0")?)))
    };
    match found {
        Ok((write, set_level)) => {
            // What comes here has passed our own levels.
            // SAFETY: as above; null is the root logger, as rcl itself calls it, and the file is open.
            unsafe { set_level(std::ptr::null(), Severity::Debug as c_int) };
            let _ = FILE.set(write);
        }
        Err(e) => log::debug!("no log file: {e}"),
    }
}

/// Why rcl has no place for its log file, where that is so. It does not start then, and its own reason does not come through.
pub fn file_fault() -> Option<String> {
    if !is_enabled(arguments(), "external-lib-logs") {
        return None;
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    folder_fault(variable("ROS_LOG_DIR"), variable("ROS_HOME"), variable("HOME"))
}

/// Of the three variables, as `rcl_logging_interface` reads them.
fn folder_fault(log: Option<OsString>, ros: Option<OsString>, home: Option<OsString>) -> Option<String> {
    let remedy =
        "set ROS_LOG_DIR to a folder that can be written to, or start with --ros-args --disable-external-lib-logs";
    let given = log.map(PathBuf::from).or_else(|| Some(PathBuf::from(ros?).join("log")));
    let folder = match (given, home) {
        // A tilde is the home's.
        (Some(folder), Some(home)) => {
            folder.strip_prefix("~").map(|rest| Path::new(&home).join(rest)).unwrap_or(folder)
        }
        (Some(folder), None) => folder,
        (None, Some(home)) => Path::new(&home).join(".ros/log"),
        (None, None) => return Some(format!("neither ROS_LOG_DIR nor HOME says where its log file goes; {remedy}")),
    };
    let tried = std::fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(&folder).map(drop));
    tried.err().map(|why| format!("its log file cannot be written in {} ({why}); {remedy}", folder.display()))
}

/// Whether a record is kept, where those up to `most` are.
fn is_kept(metadata: &log::Metadata<'_>, most: log::LevelFilter) -> bool {
    // r2r says every time what we say throttled, and with the output's name.
    !metadata.target().starts_with("r2r::publishers")
        // Of the crates below only what is serious.
        && metadata.level() <= most
        && (metadata.target().starts_with("semantic_depth") || metadata.level() <= log::Level::Warn)
}

/// What the `log` crate calls; the state is in [`LOGGER`], where [`fatal`] finds it too.
struct Front;

impl log::Log for Front {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        is_kept(metadata, log::max_level())
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some(logger) = LOGGER.get().filter(|_| self.enabled(record.metadata())) {
            logger.put(
                record.level().into(),
                *record.args(),
                record.module_path().unwrap_or_default(),
                (record.file().unwrap_or_default(), record.line().unwrap_or_default()),
            );
        }
    }

    fn flush(&self) {}
}

/// Installs the logger, at the levels of the ROS arguments and in the form of `RCUTILS_CONSOLE_OUTPUT_FORMAT`.
///
/// # Errors
/// There is a logger already.
pub fn init() -> anyhow::Result<Receiver<Record>> {
    let (queue, records) = sync_channel(QUEUE);
    let format = std::env::var("RCUTILS_CONSOLE_OUTPUT_FORMAT").ok().filter(|f| !f.is_empty());
    let format = pieces(format.as_deref().unwrap_or(FORMAT));
    log::set_logger(&Front)?;
    let queue = is_enabled(arguments(), "rosout-logs").then_some(queue);
    let console = Console::new(std::io::stderr()).ok().map(Mutex::new);
    let has_console = is_enabled(arguments(), "stdout-logs");
    if LOGGER.set(Logger { queue, format, console, has_console }).is_err() {
        anyhow::bail!("there is a logger already");
    }
    // The usual hook writes to standard error itself, and waits where nobody reads it.
    std::panic::set_hook(Box::new(|panic| {
        // A panic on its way to the log would come here again, or wait for its own lock.
        if !IS_LOGGING.get() {
            let backtrace = std::backtrace::Backtrace::capture();
            let is_wanted = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
            let trace = if is_wanted { format!("\n{backtrace}") } else { String::new() };
            log::error!("thread '{}': {panic}{trace}", std::thread::current().name().unwrap_or("without a name"));
        }
    }));
    let mut levels = lock(&LEVELS);
    *levels = Levels::from_arguments(&arguments().collect::<Vec<_>>());
    apply(&levels);
    Ok(records)
}

/// The publisher of `/rosout`.
pub struct Rosout {
    publisher: r2r::Publisher<Log>,
    records: Receiver<Record>,
    created: Instant,
}

impl Rosout {
    /// What rclcpp uses: late listeners get the last records of ten seconds.
    pub const QOS: QosProfile =
        QosProfile::default().keep_last(1000).reliable().transient_local().lifespan(Duration::from_secs(10));

    /// Publishes what `records` receives.
    ///
    /// # Errors
    /// The topic cannot be published.
    pub fn create(node: &mut r2r::Node, records: Receiver<Record>, qos: QosProfile) -> anyhow::Result<Self> {
        Ok(Self { publisher: node.create_publisher::<Log>("/rosout", qos)?, records, created: Instant::now() })
    }

    /// Publishes what waits; what comes meanwhile may be left to the next time.
    pub fn flush(&self) {
        for record in self.records.try_iter().take(QUEUE) {
            let mut message = Log {
                level: record.severity as u8,
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

    /// For a process that has one thing more to say before it ends: stays until somebody listens, or until `stop`. A node that ends
    /// as it begins has not been found by anybody yet, and who is volatile gets nothing that was published before.
    pub fn await_listeners(&self, stop: &AtomicBool) {
        while self.is_in_use() && !is_heard(&self.publisher) {
            if self.created.elapsed() > DISCOVERY || stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stays until those who listen can have what was published: what they have not taken goes with the process.
    pub fn await_delivery(&self) {
        if self.is_in_use() && is_heard(&self.publisher) {
            std::thread::sleep(DELIVERY);
        }
    }

    /// Not with `--disable-rosout-logs`.
    fn is_in_use(&self) -> bool {
        LOGGER.get().is_some_and(|logger| logger.queue.is_some())
    }
}

/// `~/get_logger_levels` and `~/set_logger_levels`, as rclcpp's `enable_logger_service` offers them.
///
/// One difference: rclcpp accepts a level for any name. Here a name that no record of this node can have is refused
/// with the name that it has, because setting it would do nothing.
pub struct LevelServices {
    get: Requests<GetLoggerLevels::Service>,
    set: Requests<SetLoggerLevels::Service>,
}

impl LevelServices {
    /// Offers both services.
    ///
    /// # Errors
    /// One of them cannot be created.
    pub fn create(node: &mut r2r::Node) -> anyhow::Result<Self> {
        let qos = QosProfile::services_default();
        Ok(Self {
            get: Requests::serve(node, "~/get_logger_levels", qos.clone())?,
            set: Requests::serve(node, "~/set_logger_levels", qos)?,
        })
    }

    /// Answers what waits; true if the level of the node's logger is another one now.
    pub fn poll(&mut self) -> bool {
        let before = level();
        while let Some(request) = self.set.waiting() {
            let mut levels = lock(&LEVELS);
            let results = request.message.levels.iter().map(|l| set_result(&mut levels, name(), l)).collect();
            apply(&levels);
            drop(levels);
            respond(request, SetLoggerLevels::Response { results });
        }
        while let Some(request) = self.get.waiting() {
            let levels = lock(&LEVELS);
            let of = |name: &String| LoggerLevel { name: name.clone(), level: u32::from(levels.get(name)) };
            let answer = request.message.names.iter().map(of).collect();
            drop(levels);
            respond(request, GetLoggerLevels::Response { levels: answer });
        }
        level() != before
    }
}

fn set_result(levels: &mut Levels, own: &str, wanted: &LoggerLevel) -> SetLoggerLevelsResult {
    let refuse = |reason: String| SetLoggerLevelsResult { successful: false, reason };
    let severity = u8::try_from(wanted.level).ok().and_then(Severity::from_number);
    if severity.is_none() && wanted.level != 0 {
        return refuse(format!(
            "expected 0 (unset), 10 (debug), 20 (info), 30 (warn), 40 (error) or 50 (fatal), got {}",
            wanted.level
        ));
    }
    if !counts_for(own, &wanted.name) {
        return refuse(format!("there is no logger '{}' here: this node's is '{own}', the root is ''", wanted.name));
    }
    levels.set(&wanted.name, severity);
    SetLoggerLevelsResult { successful: true, reason: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_folder_that_cannot_be_written_to_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let of = |text: &str| Some(root.path().join(text).into_os_string());
        std::fs::write(root.path().join("file"), "").expect("written");
        assert_eq!(folder_fault(of("new/log"), of("file"), None), None);
        assert_eq!(folder_fault(None, of("ros"), of("file")), None);
        assert_eq!(folder_fault(None, None, of("home")), None);
        assert_eq!(folder_fault(Some("~/own".into()), None, of("home")), None);
        for made in ["new/log", "ros/log", "home/.ros/log", "home/own"] {
            assert!(root.path().join(made).is_dir(), "{made}");
        }
        let why = folder_fault(of("file"), None, of("home")).expect("it is no folder");
        assert!(why.contains("/file (") && why.contains("set ROS_LOG_DIR"), "{why}");
        let why = folder_fault(None, None, None).expect("nowhere");
        assert!(why.contains("neither ROS_LOG_DIR nor HOME"), "{why}");
    }

    #[test]
    fn the_last_level_of_each_logger_counts() {
        let of = |text: &str| {
            let arguments: Vec<_> = text.split(' ').map(String::from).collect();
            Levels::from_arguments(&arguments).effective("ns.semantic_depth")
        };
        for (text, expected) in [
            ("node", Severity::Info),
            ("node --ros-args --log-level debug", Severity::Debug),
            ("node --ros-args --log-level debug --log-level WARN", Severity::Warn),
            ("node --ros-args --log-level ns.semantic_depth:=error", Severity::Error),
            ("node --ros-args --log-level ns:=error", Severity::Error),
            ("node --ros-args --log-level ns.semantic_depth:=debug --log-level fatal", Severity::Debug),
            ("node --ros-args --log-level n:=error --log-level other:=error", Severity::Info),
            ("node --ros-args --log-level fatal", Severity::Fatal),
            ("node --log-level debug", Severity::Info),
            ("node --ros-args -- --log-level debug", Severity::Info),
            ("node --ros-args --log-level", Severity::Info),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_level_comes_from_the_nearest_name_above() {
        let mut levels = Levels::new();
        assert_eq!((levels.get(""), levels.get("a.b")), (20, 0));
        levels.set("a", Some(Severity::Error));
        assert_eq!(levels.effective("a.b"), Severity::Error);
        assert_eq!(levels.effective("ab"), Severity::Info);
        levels.set("a.b", Some(Severity::Debug));
        levels.set("a.b", Some(Severity::Warn));
        assert_eq!((levels.effective("a.b"), levels.get("a.b")), (Severity::Warn, 30));
        levels.set("a.b", None);
        levels.set("a", None);
        assert_eq!((levels.effective("a.b"), levels.named.len()), (Severity::Info, 0));
        // rcutils: without any level everything comes.
        levels.set("", None);
        assert_eq!((levels.effective("a.b"), levels.get("")), (Severity::Debug, 0));
    }

    #[test]
    fn wrong_levels_and_names_are_refused_and_change_nothing() {
        let mut levels = Levels::new();
        let before = levels.clone();
        let mut set = |name: &str, level: u32| {
            let result = set_result(&mut levels, "ns.node", &LoggerLevel { name: name.into(), level });
            assert_eq!(result.successful, result.reason.is_empty());
            (result, levels.clone())
        };
        for (name, level, reason) in [
            ("ns.node", 15, "got 15"),
            ("ns.node", 60, "got 60"),
            ("ns.node", 276, "got 276"), // 20 in its lowest byte
            ("node", 10, "this node's is 'ns.node'"),
            ("ns.nod", 10, "there is no logger 'ns.nod'"),
            ("ns.node.part", 10, "there is no logger"),
            ("ns.", 10, "there is no logger"),
        ] {
            let (result, after) = set(name, level);
            assert!(result.reason.contains(reason), "'{reason}' is not in '{}'", result.reason);
            assert_eq!(after, before);
        }
        for (name, level) in [("ns.node", 50), ("ns", 10), ("", 40), ("ns.node", 0)] {
            let (result, after) = set(name, level);
            assert!(result.successful, "{}", result.reason);
            assert_eq!(u32::from(after.get(name)), level);
        }
        assert_eq!(levels.effective("ns.node"), Severity::Debug);
    }

    #[test]
    fn what_r2r_says_of_publishing_is_said_by_us() {
        let metadata = |target| log::Metadata::builder().level(log::Level::Error).target(target).build();
        let kept = |target| is_kept(&metadata(target), log::LevelFilter::Info);
        assert!(kept("semantic_depth::node") && kept("r2r::nodes"));
        assert!(!kept("r2r::publishers"));
    }

    #[test]
    fn of_other_crates_only_what_is_serious_is_kept() {
        use log::Level::{Debug, Info, Warn};
        let kept = |target, level, most| is_kept(&log::Metadata::builder().level(level).target(target).build(), most);
        let (ours, others) = ("semantic_depth::node", "tokio::runtime");
        assert!(kept(ours, Info, log::LevelFilter::Info) && !kept(ours, Debug, log::LevelFilter::Info));
        assert!(kept(ours, Debug, log::LevelFilter::Debug) && !kept(ours, Warn, log::LevelFilter::Error));
        assert!(kept(others, Warn, log::LevelFilter::Debug) && !kept(others, Info, log::LevelFilter::Debug));
        assert!(!kept(others, Warn, log::LevelFilter::Error));
    }

    #[test]
    fn nothing_but_the_fatal_is_above_an_error() {
        assert_eq!(Severity::Fatal.filter(), log::LevelFilter::Off);
        for severity in Severity::ALL {
            assert_eq!(Severity::from_number(severity as u8), Some(severity));
            assert_eq!(severity.label().to_lowercase().parse(), Ok(severity));
            if let Some(level) = severity.filter().to_level() {
                assert_eq!(Severity::from(level), severity);
            }
        }
        assert_eq!(Severity::from_number(0), None);
        assert!("warning".parse::<Severity>().is_err());
    }

    #[test]
    fn severities_have_the_numbers_of_rcl_interfaces() {
        let numbers = [Log::DEBUG as u8, Log::INFO as u8, Log::WARN as u8, Log::ERROR as u8, Log::FATAL as u8];
        assert_eq!(Severity::ALL.map(|s| s as u8), numbers);
    }

    #[test]
    fn a_line_has_the_wanted_form() {
        let record = Record {
            severity: Severity::Warn,
            text: "{name} is text here".into(),
            file: "src/x.rs".into(),
            line: 7,
            since_epoch: Duration::new(12, 34),
        };
        for (format, expected) in [
            (FORMAT, "[WARN] [12.000000034] [a.b]: {name} is text here\n"),
            ("", "\n"),
            ("{line_number}{file_name}", "7src/x.rs\n"),
            ("é{time_as_nanoseconds} {function_name}", "é12000000034 m::n\n"),
            ("{{severity}} {unknown} {", "{WARN} {unknown} {\n"),
            ("} {severity", "} {severity\n"),
        ] {
            assert_eq!(line(&pieces(format), "a.b", &record, "m::n"), expected, "{format}");
        }
    }
}

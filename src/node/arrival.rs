//! From the middleware's messages to frames: the layout is proven here, and what is malformed ends here.

use super::inbox::Inbox;
use super::lock;
use super::stats::{Stats, Throttle};
use crate::frame::camera::{Calibration, RoiInfo};
use crate::frame::compressed;
use crate::frame::view::{ImageView, LayoutError};
use r2r::sensor_msgs::msg::{CameraInfo, CompressedImage, Image};
use r2r::{Clock, NativeMsg};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Calibrations that are kept for their images.
const CALIBRATIONS: usize = 8;
/// How long an image waits at most for its calibration, which most drivers publish right behind it.
const HOLD: Duration = Duration::from_millis(20);
/// Images in a row that waited in vain, after which none waits any more.
const MOST_IN_VAIN: u32 = 3;
/// How much earlier than its turn a frame may come at a limited rate, as a share of the period: cameras jitter.
const RATE_SLACK: f64 = 0.1;

/// A message in the middleware's own memory: the pixels are not copied.
struct Message<T: r2r::WrappedTypesupport>(NativeMsg<T>);

// SAFETY: the message is a plain C structure on the C heap that this value owns alone; nothing in it belongs to the
// thread that took it. (`NativeMsg` is not Send because of its pointer, and because a loaned message has to
// go back to its subscription; `Arrival::take` refuses loaned messages.)
#[allow(unsafe_code)]
unsafe impl<T: r2r::WrappedTypesupport> Send for Message<T> {}

enum Payload {
    Raw(Message<Image>),
    Compressed(Message<CompressedImage>),
}

/// What a frame holds.
#[derive(Debug)]
pub enum Content<'a> {
    /// Pixels, proven.
    Raw(ImageView<'a>),
    /// A JPEG or PNG file, whose head was looked at.
    Compressed {
        /// As it came.
        format: &'a str,
        /// The file.
        data: &'a [u8],
    },
}

/// An image that arrived whole.
pub struct Frame {
    payload: Payload,
    size: (usize, usize),
    /// When it was taken from the middleware.
    pub arrived: Instant,
    /// Time from taking it to the inbox.
    pub receive: Duration,
}

/// A message's stamp and frame, as they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// Seconds.
    pub sec: i32,
    /// Nanoseconds.
    pub nanosec: u32,
    /// `frame_id`.
    pub frame_id: String,
}

impl Header {
    /// The stamp in nanoseconds.
    pub fn stamp_ns(&self) -> i64 {
        stamp_ns((self.sec, self.nanosec))
    }
}

/// A stamp of seconds and nanoseconds in nanoseconds.
fn stamp_ns((sec, nanosec): (i32, u32)) -> i64 {
    i64::from(sec) * 1_000_000_000 + i64::from(nanosec)
}

/// The bytes of a message's `data`.
macro_rules! bytes {
    ($message:expr) => {{
        let data = &$message.data;
        if data.data.is_null() || data.size == 0 {
            &[]
        } else {
            // SAFETY: a rosidl sequence has `size` initialised elements at `data`, which is not null here; the
            // message owns them and lives as long as the borrow of it, and nothing writes to it.
            unsafe { std::slice::from_raw_parts(data.data, data.size) }
        }
    }};
}

impl Frame {
    fn new(payload: Payload) -> Self {
        Self { payload, size: (0, 0), arrived: Instant::now(), receive: Duration::ZERO }
    }

    fn is_loaned(&self) -> bool {
        match &self.payload {
            Payload::Raw(m) => m.0.is_loaned,
            Payload::Compressed(m) => m.0.is_loaned,
        }
    }

    /// The pixels, or the file that holds them.
    ///
    /// # Errors
    /// The image is malformed.
    #[allow(unsafe_code)]
    pub fn content(&self) -> Result<Content<'_>, LayoutError> {
        match &self.payload {
            Payload::Raw(Message(m)) => {
                let (encoding, bigendian) = (m.encoding.to_str(), m.is_bigendian != 0);
                ImageView::new(encoding, m.width, m.height, m.step, bigendian, bytes!(m)).map(Content::Raw)
            }
            Payload::Compressed(Message(m)) => Ok(Content::Compressed { format: m.format.to_str(), data: bytes!(m) }),
        }
    }

    /// Columns and rows: the image's own, or what the head of a compressed one says.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The image's own, or `compressed`; `None` of what has not been proven.
    pub fn encoding(&self) -> Option<&'static str> {
        self.content().ok().map(|content| match content {
            Content::Raw(view) => view.encoding().name(),
            Content::Compressed { .. } => "compressed",
        })
    }

    /// Columns and rows of a frame that can be used; of a compressed image the head is looked at.
    fn prove(&self) -> Result<(usize, usize), String> {
        if self.is_loaned() {
            return Err("a loaned message, which this node does not read; disable loaned messages".into());
        }
        match self.content().map_err(|e| e.to_string())? {
            Content::Raw(view) => Ok((view.width(), view.height())),
            Content::Compressed { format, data } => {
                let (_, width, height) = compressed::inspect(format, data).map_err(|e| e.to_string())?;
                Ok((width as usize, height as usize))
            }
        }
    }

    /// Stamp and frame.
    pub fn header(&self) -> Header {
        let h = match &self.payload {
            Payload::Raw(m) => &m.0.header,
            Payload::Compressed(m) => &m.0.header,
        };
        Header { sec: h.stamp.sec, nanosec: h.stamp.nanosec, frame_id: h.frame_id.to_str().into() }
    }

    /// Seconds and nanoseconds.
    fn stamp(&self) -> (i32, u32) {
        let stamp = match &self.payload {
            Payload::Raw(m) => &m.0.header.stamp,
            Payload::Compressed(m) => &m.0.header.stamp,
        };
        (stamp.sec, stamp.nanosec)
    }
}

/// Lets frames through at most so often.
#[derive(Debug, Default)]
struct RateLimit {
    next: Option<Instant>,
}

impl RateLimit {
    /// Whether a frame may pass at `now`.
    fn pass(&mut self, now: Instant, min_period: Option<Duration>) -> bool {
        let Some(period) = min_period else { return true };
        let slack = period.mul_f64(RATE_SLACK);
        // A turn farther away than one period belongs to a lower rate, that of before the parameter changed.
        let due = self.next.filter(|next| *next <= now + slack + period);
        self.next = match due {
            Some(next) if now + slack < next => return false,
            // From the due time while the camera keeps up, so that the rate is met on average; after a pause, from now.
            Some(next) if now < next + period => Some(next + period),
            _ => Some(now + period),
        };
        true
    }
}

/// Takes the images of one camera: counts, proves, and puts them into the inbox.
pub struct Arrival {
    camera: usize,
    stats: Arc<Stats>,
    calibrations: Arc<Mutex<Calibrations>>,
    inbox: Arc<Inbox<Frame>>,
    enabled: Arc<AtomicBool>,
    clock: Arc<Mutex<Clock>>,
    limit: RateLimit,
    /// Waits for its calibration.
    held: Option<Frame>,
    /// Images in a row that did so in vain.
    in_vain: u32,
    throttle: Throttle,
    /// For the log: ` of camera NAME`, or nothing.
    whose: String,
}

impl Arrival {
    /// Puts frames of camera number `camera` into `inbox` while `enabled`; `calibrations` are those of the camera.
    pub fn new(
        (camera, name): (usize, &str),
        stats: Arc<Stats>,
        calibrations: Arc<Mutex<Calibrations>>,
        inbox: Arc<Inbox<Frame>>,
        enabled: Arc<AtomicBool>,
        clock: Arc<Mutex<Clock>>,
    ) -> Self {
        let whose = if name.is_empty() { String::new() } else { format!(" of camera {name}") };
        let (limit, held, throttle) = Default::default();
        Self { camera, stats, calibrations, inbox, enabled, clock, limit, held, in_vain: 0, throttle, whose }
    }

    /// Takes an image.
    pub fn take(&mut self, message: NativeMsg<Image>, min_period: Option<Duration>) {
        self.take_frame(Frame::new(Payload::Raw(Message(message))), min_period);
    }

    /// Takes a compressed image.
    pub fn take_compressed(&mut self, message: NativeMsg<CompressedImage>, min_period: Option<Duration>) {
        self.take_frame(Frame::new(Payload::Compressed(Message(message))), min_period);
    }

    /// Lets the image go that waits for its calibration, once that is there or has not come in time. Returns how long it still
    /// waits, if it does.
    pub fn release(&mut self) -> Option<Duration> {
        let frame = self.held.take()?;
        let left = HOLD.saturating_sub(frame.arrived.elapsed());
        if self.is_calibrated(&frame) {
            self.in_vain = 0;
        } else if left.is_zero() {
            self.in_vain += 1;
        } else {
            self.held = Some(frame);
            return Some(left);
        }
        self.put(frame);
        None
    }

    /// No more images are taken: the one that waits for its calibration is not answered.
    pub fn let_go(&mut self) {
        self.in_vain = 0;
        if self.held.take().is_some() {
            Stats::count(&self.stats.skipped);
        }
    }

    /// Without the calibration of the first image, or of the first of another size, its depth would be scaled by the fallback.
    /// The latest one serves all others.
    fn is_calibrated(&self, frame: &Frame) -> bool {
        lock(&self.calibrations).serve(frame.stamp(), frame.size)
    }

    fn put(&mut self, frame: Frame) {
        if !self.enabled.load(Ordering::Relaxed) {
            Stats::count(&self.stats.skipped);
        } else if self.inbox.put(self.camera, frame).is_some() {
            Stats::count(&self.stats.dropped);
        }
    }

    fn take_frame(&mut self, mut frame: Frame, min_period: Option<Duration>) {
        let arrived = frame.arrived;
        Stats::count(&self.stats.received);
        *lock(&self.stats.last_arrival) = Some(arrived);
        let ros_now_ns = lock(&self.clock).get_now().map_or(0, |d| d.as_nanos() as i64);
        lock(&self.stats.arrivals).add(arrived, stamp_ns(frame.stamp()), ros_now_ns);
        if !self.enabled.load(Ordering::Relaxed) {
            Stats::count(&self.stats.skipped);
            return;
        }
        match frame.prove() {
            Ok(size) => frame.size = size,
            Err(reason) => {
                self.stats.refuse(&reason);
                return self.throttle.warn(format_args!("an image{} was refused: {reason}", self.whose));
            }
        }
        if !self.limit.pass(arrived, min_period) {
            Stats::count(&self.stats.throttled);
            Stats::count(&self.stats.dropped);
            return;
        }
        frame.receive = arrived.elapsed();
        // The newest frame wins here, too.
        if self.held.take().is_some() {
            self.in_vain += 1;
            Stats::count(&self.stats.dropped);
        }
        if self.is_calibrated(&frame) {
            self.in_vain = 0;
        } else if self.in_vain < MOST_IN_VAIN {
            self.held = Some(frame);
            return;
        }
        self.put(frame);
    }
}

/// The newest calibrations of one camera, with their stamps (seconds, nanoseconds), for the images they belong to.
#[derive(Debug, Default)]
pub struct Calibrations {
    newest: VecDeque<((i32, u32), Arc<Calibration>)>,
}

impl Calibrations {
    /// Whether none has come yet.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// Keeps one.
    pub fn add(&mut self, info: &CameraInfo) {
        if self.newest.len() == CALIBRATIONS {
            self.newest.pop_front();
        }
        self.newest.push_back(((info.header.stamp.sec, info.header.stamp.nanosec), Arc::new(calibration(info))));
    }

    /// The calibration of an image: the one of its stamp or, of a camera that publishes them apart, the latest.
    pub fn of(&self, header: &Header) -> Option<Arc<Calibration>> {
        self.at((header.sec, header.nanosec)).cloned()
    }

    /// Whether there is one that may be that of an image of this stamp and size.
    fn serve(&self, stamp: (i32, u32), size: (usize, usize)) -> bool {
        self.at(stamp).is_some_and(|calibration| calibration.check_size(size).is_ok())
    }

    fn at(&self, stamp: (i32, u32)) -> Option<&Arc<Calibration>> {
        let exact = self.newest.iter().rev().find(|(of, _)| *of == stamp);
        exact.or(self.newest.back()).map(|(_, calibration)| calibration)
    }
}

/// Without ROS's types. A matrix of the wrong length (r2r gives a vector) becomes one of zeros: "not calibrated".
fn calibration(info: &CameraInfo) -> Calibration {
    fn array<const N: usize>(values: &[f64]) -> [f64; N] {
        values.try_into().unwrap_or([0.0; N])
    }
    Calibration {
        width: info.width,
        height: info.height,
        model: info.distortion_model.clone(),
        d: info.d.clone(),
        k: array(&info.k),
        r: array(&info.r),
        p: array(&info.p),
        binning_x: info.binning_x,
        binning_y: info.binning_y,
        roi: RoiInfo {
            x_offset: info.roi.x_offset,
            y_offset: info.roi.y_offset,
            height: info.roi.height,
            width: info.roi.width,
            do_rectify: info.roi.do_rectify,
        },
    }
}

/// The message of a calibration, under an image's header.
pub fn camera_info(c: &Calibration, header: &Header) -> CameraInfo {
    let mut info = CameraInfo {
        width: c.width,
        height: c.height,
        distortion_model: c.model.clone(),
        d: c.d.clone(),
        k: c.k.to_vec(),
        r: c.r.to_vec(),
        p: c.p.to_vec(),
        binning_x: c.binning_x,
        binning_y: c.binning_y,
        ..CameraInfo::default()
    };
    info.roi.x_offset = c.roi.x_offset;
    info.roi.y_offset = c.roi.y_offset;
    info.roi.height = c.roi.height;
    info.roi.width = c.roi.width;
    info.roi.do_rectify = c.roi.do_rectify;
    info.header.stamp.sec = header.sec;
    info.header.stamp.nanosec = header.nanosec;
    info.header.frame_id.clone_from(&header.frame_id);
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(sec: i32, width: u32) -> CameraInfo {
        let mut i = CameraInfo { width, k: vec![f64::from(width); 9], d: vec![0.5; 5], ..CameraInfo::default() };
        i.p = (0..12).map(f64::from).collect();
        i.roi.x_offset = 7;
        i.header.stamp.sec = sec;
        i
    }

    #[test]
    fn a_calibration_is_found_by_stamp_else_the_latest_serves() {
        let mut c = Calibrations::default();
        let header = |sec| Header { sec, nanosec: 0, frame_id: "cam".into() };
        assert!(c.of(&header(1)).is_none());
        for sec in 0..20 {
            c.add(&info(sec, sec as u32));
        }
        assert_eq!(c.newest.len(), CALIBRATIONS, "old ones go");
        assert_eq!(c.of(&header(15)).map(|i| i.width), Some(15));
        assert_eq!(c.of(&header(99)).map(|i| i.width), Some(19), "the latest");
        // A size that it does not say is believed; these say a width and no height.
        assert!(c.serve((99, 0), (640, 480)) && !Calibrations::default().serve((99, 0), (640, 480)));
        c.add(&CameraInfo { width: 640, height: 480, ..info(20, 640) });
        assert!(c.serve((99, 0), (640, 480)) && !c.serve((99, 0), (320, 240)));
    }

    #[test]
    fn calibrations_go_there_and_back() {
        let header = Header { sec: 3, nanosec: 4, frame_id: "cam".into() };
        let mut original = info(3, 640);
        original.header.stamp.nanosec = 4;
        original.header.frame_id = "cam".into();
        original.r = (0..9).map(f64::from).collect();
        (original.height, original.binning_x, original.binning_y) = (480, 2, 3);
        (original.roi.x_offset, original.roi.y_offset, original.roi.do_rectify) = (8, 9, true);
        (original.roi.width, original.roi.height) = (320, 240);
        original.distortion_model = "plumb_bob".into();
        assert_eq!(camera_info(&calibration(&original), &header), original);
        let bad = CameraInfo { k: vec![1.0; 3], ..CameraInfo::default() };
        assert_eq!(calibration(&bad).k, [0.0; 9]);
    }

    #[test]
    fn a_limited_rate_is_met_on_average() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let passed = |hz: f64, every_ms: u64, frames: u64| {
            let mut limit = RateLimit::default();
            let period = Some(Duration::from_secs_f64(1.0 / hz));
            (0..frames).filter(|i| limit.pass(at(i * every_ms), period)).count()
        };
        assert!(RateLimit::default().pass(start, None));
        // 100, and one more at most: the second frame may come early by the slack.
        assert!((100..=101).contains(&passed(10.0, 10, 1000)), "100 Hz for 10 s, limited to 10 Hz");
        assert!((100..=101).contains(&passed(10.0, 33, 303)), "30 Hz for 10 s: not every fourth, but three in ten");
        assert_eq!(passed(50.0, 33, 303), 303, "slower than the limit");
        // From one frame in 1000 s to ten a second: the next turn does not wait for the old one.
        let mut limit = RateLimit::default();
        assert!(limit.pass(start, Some(Duration::from_secs(1000))));
        assert!(!limit.pass(at(100), Some(Duration::from_secs(1000))));
        let quicker = |limit: &mut RateLimit, ms| limit.pass(at(ms), Some(Duration::from_millis(100)));
        assert!(quicker(&mut limit, 200) && !quicker(&mut limit, 250) && quicker(&mut limit, 300));
    }
}

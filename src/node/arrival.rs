//! From the middleware's messages to frames: the layout is proven here, and what is malformed ends here.

use super::lock;
use super::mailbox::Mailbox;
use super::stats::{Stats, Throttle};
use crate::frame::view::{ImageView, LayoutError};
use r2r::sensor_msgs::msg::{CameraInfo, Image};
use r2r::NativeMsg;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// At most one warning about malformed images in this time.
const WARNING_PERIOD: Duration = Duration::from_secs(5);
/// Calibrations that are kept for their images.
const CALIBRATIONS: usize = 8;

/// A message in the middleware's own memory: the pixels are not copied.
struct Message(NativeMsg<Image>);

// SAFETY: the message is a plain C structure on the C heap that this value owns alone; nothing in it belongs to the
// thread that took it. (`NativeMsg` is not Send because of its pointer, and because a loaned message has to
// go back to its subscription; `Frame::new` refuses loaned messages.)
#[allow(unsafe_code)]
unsafe impl Send for Message {}

/// An image that arrived whole.
pub struct Frame {
    message: Message,
    /// When it was taken from the middleware.
    pub arrived: Instant,
    /// Time from taking it to the mailbox.
    pub receive: Duration,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({}x{})", self.message.0.width, self.message.0.height)
    }
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
        i64::from(self.sec) * 1_000_000_000 + i64::from(self.nanosec)
    }
}

impl Frame {
    /// The proven layout of the image.
    ///
    /// # Errors
    /// The image is malformed.
    pub fn view(&self) -> Result<ImageView<'_>, LayoutError> {
        let m = &self.message.0;
        ImageView::new(m.encoding.to_str(), m.width, m.height, m.step, m.is_bigendian != 0, self.bytes())
    }

    #[allow(unsafe_code)]
    fn bytes(&self) -> &[u8] {
        let data = &self.message.0.data;
        if data.data.is_null() || data.size == 0 {
            return &[];
        }
        // SAFETY: a rosidl sequence has `size` initialised elements at `data`, which is not null here; the message
        // owns them and lives as long as the borrow, and nothing writes to it.
        unsafe { std::slice::from_raw_parts(data.data, data.size) }
    }

    /// Stamp and frame.
    pub fn header(&self) -> Header {
        let h = &self.message.0.header;
        Header { sec: h.stamp.sec, nanosec: h.stamp.nanosec, frame_id: h.frame_id.to_str().into() }
    }
}

/// Takes images: counts, proves, and puts them into the mailbox.
#[derive(Debug)]
pub struct Arrival {
    stats: Arc<Stats>,
    mailbox: Arc<Mailbox<Frame>>,
    throttle: Throttle,
}

impl Arrival {
    /// Puts frames into `mailbox`.
    pub fn new(stats: Arc<Stats>, mailbox: Arc<Mailbox<Frame>>) -> Self {
        Self { stats, mailbox, throttle: Throttle::default() }
    }

    /// Takes one message.
    pub fn take(&mut self, message: NativeMsg<Image>) {
        let arrived = Instant::now();
        Stats::count(&self.stats.received);
        *lock(&self.stats.last_arrival) = Some(arrived);
        if message.is_loaned {
            return self.refuse("a loaned message, which this node does not read; disable loaned messages");
        }
        let mut frame = Frame { message: Message(message), arrived, receive: Duration::ZERO };
        if let Err(e) = frame.view() {
            return self.refuse(&e.to_string());
        }
        frame.receive = arrived.elapsed();
        if self.mailbox.put(frame).is_some() {
            Stats::count(&self.stats.dropped);
        }
    }

    fn refuse(&mut self, reason: &str) {
        self.stats.refuse(reason);
        if let Some(more) = self.throttle.pass(Instant::now(), WARNING_PERIOD) {
            log::warn!("an image was refused: {reason} ({more} more since the last such message)");
        }
    }
}

/// The newest calibrations, for the images they belong to.
#[derive(Debug, Default)]
pub struct Calibrations {
    newest: VecDeque<CameraInfo>,
}

impl Calibrations {
    /// Keeps one.
    pub fn add(&mut self, info: CameraInfo) {
        if self.newest.len() == CALIBRATIONS {
            self.newest.pop_front();
        }
        self.newest.push_back(info);
    }

    /// The calibration of an image: the one of its stamp or, of a camera that publishes them apart, the latest,
    /// under the image's own header.
    pub fn of(&self, header: &Header) -> Option<CameraInfo> {
        let exact = self
            .newest
            .iter()
            .rev()
            .find(|i| (i.header.stamp.sec, i.header.stamp.nanosec) == (header.sec, header.nanosec));
        let mut info = exact.or(self.newest.back())?.clone();
        info.header.stamp.sec = header.sec;
        info.header.stamp.nanosec = header.nanosec;
        info.header.frame_id.clone_from(&header.frame_id);
        Some(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(sec: i32, width: u32) -> CameraInfo {
        let mut i = CameraInfo { width, ..CameraInfo::default() };
        i.header.stamp.sec = sec;
        i
    }

    #[test]
    fn a_calibration_is_found_by_stamp_else_the_latest_serves() {
        let mut c = Calibrations::default();
        let header = |sec| Header { sec, nanosec: 0, frame_id: "cam".into() };
        assert!(c.of(&header(1)).is_none());
        for sec in 0..20 {
            c.add(info(sec, sec as u32));
        }
        assert_eq!(c.newest.len(), CALIBRATIONS, "old ones go");
        assert_eq!(c.of(&header(15)).map(|i| i.width), Some(15));
        let other = c.of(&header(99)).expect("the latest");
        assert_eq!((other.width, other.header.stamp.sec, other.header.frame_id.as_str()), (19, 99, "cam"));
    }
}

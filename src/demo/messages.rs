//! The messages of the demo, in their wire form where they are played and recorded.

use crate::interface::diagnostics::{self, key};
use r2r::builtin_interfaces::msg::Time;
pub use r2r::semantic_depth::msg::FrameTiming;
use r2r::sensor_msgs::msg::{CameraInfo, Image};
use r2r::std_msgs::msg::Header;
use r2r::WrappedTypesupport;

/// A pinhole camera without distortion, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pinhole {
    /// Focal length.
    pub fx: f64,
    /// Focal length.
    pub fy: f64,
    /// Principal point.
    pub cx: f64,
    /// Principal point.
    pub cy: f64,
}

/// Stamp as one number, nanoseconds since the epoch; what frames are matched by.
pub type StampNs = i64;

const SECOND_NS: StampNs = 1_000_000_000;

/// A stamp as one number.
pub fn stamp_ns(stamp: &Time) -> StampNs {
    StampNs::from(stamp.sec) * SECOND_NS + StampNs::from(stamp.nanosec)
}

/// The stamp of any message that starts with a `std_msgs/Header`, as this machine writes it; `None` of anything else. Without
/// looking at the rest: it may be a picture.
pub fn stamp(message: &[u8]) -> Option<StampNs> {
    // The encapsulation (CDR, little-endian), sec, nanosec.
    let [0, 1, _, _, rest @ ..] = message else { return None };
    let (sec, rest) = rest.split_first_chunk()?;
    let (nanosec, _) = rest.split_first_chunk()?;
    Some(stamp_ns(&Time { sec: i32::from_le_bytes(*sec), nanosec: u32::from_le_bytes(*nanosec) }))
}

/// Replaces the stamp of a message that starts with a `std_msgs/Header`.
pub fn set_stamp(message: &mut [u8], stamp_ns: StampNs) {
    // sec and nanosec are the first eight bytes after the encapsulation.
    if let Some(slot) = message.get_mut(4..12) {
        slot[..4].copy_from_slice(&(stamp_ns.div_euclid(SECOND_NS) as i32).to_le_bytes());
        slot[4..].copy_from_slice(&(stamp_ns.rem_euclid(SECOND_NS) as u32).to_le_bytes());
    }
}

fn header(frame_id: &str) -> Header {
    Header { frame_id: frame_id.into(), ..Default::default() }
}

/// A tight `rgb8` `sensor_msgs/msg/Image` with stamp 0, in its wire form; `rgb` is `[height, width, 3]`.
///
/// # Errors
/// ROS cannot write it.
pub fn image(frame_id: &str, width: u32, height: u32, rgb: Vec<u8>) -> r2r::Result<Vec<u8>> {
    let encoding = "rgb8".into();
    Image { header: header(frame_id), height, width, encoding, is_bigendian: 0, step: width * 3, data: rgb }
        .to_serialized_bytes()
}

/// A `sensor_msgs/msg/CameraInfo` with stamp 0, in its wire form.
///
/// # Errors
/// ROS cannot write it.
pub fn camera_info(frame_id: &str, width: u32, height: u32, camera: Pinhole) -> r2r::Result<Vec<u8>> {
    let Pinhole { fx, fy, cx, cy } = camera;
    CameraInfo {
        header: header(frame_id),
        height,
        width,
        distortion_model: "plumb_bob".into(),
        d: vec![0.0; 5],
        k: vec![fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p: vec![fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
        ..Default::default()
    }
    .to_serialized_bytes()
}

/// A message of its wire form.
///
/// # Errors
/// It is none of this type.
pub fn read<T: WrappedTypesupport>(message: &[u8]) -> r2r::Result<T> {
    T::from_serialized_bytes(message)
}

/// The node's own counts of its one camera's frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Arrived.
    pub received: u64,
    /// Answered.
    pub answered: u64,
    /// Replaced by a newer one, or over `max_rate_hz`.
    pub dropped: u64,
    /// Malformed, or not to be computed.
    pub refused: u64,
    /// Nobody wanted an output.
    pub skipped: u64,
}

impl Counts {
    /// Whether nothing waits and nothing is computed of so many frames.
    pub fn settle(&self, played: u64) -> bool {
        let Self { received, answered, dropped, refused, skipped } = *self;
        received == played && received == answered + dropped + refused + skipped
    }

    /// What a `diagnostic_msgs/msg/DiagnosticArray` says of `node`'s input; `None` where it is another node's.
    pub fn read(message: &[u8], node: &str) -> Option<Self> {
        let array: r2r::diagnostic_msgs::msg::DiagnosticArray = read(message).ok()?;
        let name = diagnostics::status("input")?.name(node, "");
        let status = array.status.iter().find(|status| status.name == name)?;
        let count = |key| status.values.iter().find(|v| v.key == key).and_then(|v| v.value.parse().ok());
        Some(Self {
            received: count(key::RECEIVED)?,
            answered: count(key::ANSWERED)?,
            dropped: count(key::DROPPED)?,
            refused: count(key::REFUSED)?,
            skipped: count(key::SKIPPED)?,
        })
    }
}

impl From<&FrameTiming> for Counts {
    fn from(t: &FrameTiming) -> Self {
        let FrameTiming { received, sequence: answered, dropped, refused, skipped, .. } = *t;
        Self { received, answered, dropped, refused, skipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_and_replaced_in_the_wire_form() {
        let rgb: Vec<u8> = (0..3 * 5 * 2).collect();
        let mut bytes = image("camera", 5, 2, rgb.clone()).expect("ROS writes it");
        assert_eq!(stamp(&bytes), Some(0));
        for stamp_of_it in [1_700_000_000_123_456_789, -1, 0] {
            set_stamp(&mut bytes, stamp_of_it);
            assert_eq!(stamp(&bytes), Some(stamp_of_it));
            let ros: Image = read(&bytes).expect("ROS reads it");
            assert_eq!(stamp_ns(&ros.header.stamp), stamp_of_it);
            assert_eq!((ros.header.frame_id.as_str(), ros.encoding.as_str()), ("camera", "rgb8"));
            assert_eq!((ros.width, ros.height, ros.step, ros.is_bigendian), (5, 2, 15, 0));
            assert_eq!(ros.data, rgb);
        }
        assert_eq!(stamp(&bytes[..11]), None);
        assert_eq!(stamp(&[]), None);
        // Big-endian.
        bytes[1] = 0;
        assert_eq!(stamp(&bytes), None);
    }

    #[test]
    fn camera_infos_are_what_ros_reads() {
        let camera = Pinhole { fx: 900.0, fy: 901.0, cx: 1024.5, cy: 512.5 };
        let bytes = camera_info("camera_frame", 2048, 1024, camera).expect("ROS writes it");
        let ros: CameraInfo = read(&bytes).expect("ROS reads it");
        assert_eq!((ros.width, ros.height), (2048, 1024));
        assert_eq!((ros.header.frame_id.as_str(), ros.distortion_model.as_str()), ("camera_frame", "plumb_bob"));
        assert_eq!(ros.d, vec![0.0; 5]);
        assert_eq!(ros.k.as_slice(), &[900.0, 0.0, 1024.5, 0.0, 901.0, 512.5, 0.0, 0.0, 1.0]);
        assert_eq!(ros.p.as_slice(), &[900.0, 0.0, 1024.5, 0.0, 0.0, 901.0, 512.5, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(ros.r.as_slice(), &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        assert!(!ros.roi.do_rectify);
    }

    #[test]
    fn counts_are_those_of_a_timing() {
        let timing =
            FrameTiming { sequence: 1, received: 10, dropped: 3, refused: 4, skipped: 2, ..Default::default() };
        let expected = Counts { received: 10, answered: 1, dropped: 3, refused: 4, skipped: 2 };
        assert_eq!(Counts::from(&timing), expected);
    }

    #[test]
    fn counts_are_read_of_the_nodes_own_diagnostics() {
        use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
        let array = |name: &str, counts: [u64; 5]| {
            let keys = [key::RECEIVED, key::ANSWERED, key::DROPPED, key::REFUSED, key::SKIPPED];
            let values = keys.iter().zip(counts).map(|(key, n)| KeyValue { key: (*key).into(), value: n.to_string() });
            let status = DiagnosticStatus { name: name.into(), values: values.collect(), ..Default::default() };
            let array = DiagnosticArray { status: vec![DiagnosticStatus::default(), status], ..Default::default() };
            array.to_serialized_bytes().expect("ROS writes it")
        };
        let name = diagnostics::status("input").expect("it is in the table").name("/semantic_depth", "");
        let read = |name: &str, counts| Counts::read(&array(name, counts), "/semantic_depth");
        let found = read(&name, [9, 4, 3, 1, 1]).expect("it is the node's");
        assert_eq!(found, Counts { received: 9, answered: 4, dropped: 3, refused: 1, skipped: 1 });
        assert!(found.settle(9) && !found.settle(10));
        assert!(!Counts { answered: 3, ..found }.settle(9), "one is being computed");
        assert_eq!(read("other: input", [9, 4, 3, 1, 1]), None);
        assert_eq!(Counts::read(b"no message", "/semantic_depth"), None);
    }
}

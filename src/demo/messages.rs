//! The messages of the demo in their wire form.

use super::cdr::{CdrError, Reader, Writer};
use crate::interface::diagnostics::{self, key};
use r2r::WrappedTypesupport as _;
use serde::Serialize;

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

fn write_header(writer: &mut Writer, stamp_ns: StampNs, frame_id: &str) {
    writer.i32((stamp_ns.div_euclid(1_000_000_000)) as i32);
    writer.u32((stamp_ns.rem_euclid(1_000_000_000)) as u32);
    writer.string(frame_id);
}

fn read_header<'a>(reader: &mut Reader<'a>) -> Result<(StampNs, &'a str), CdrError> {
    let stamp_ns = i64::from(reader.i32()?) * 1_000_000_000 + i64::from(reader.u32()?);
    Ok((stamp_ns, reader.string()?))
}

/// The stamp of any message that starts with a `std_msgs/Header`.
pub fn stamp(message: &[u8]) -> Result<StampNs, CdrError> {
    read_header(&mut Reader::new(message)?).map(|h| h.0)
}

/// Replaces the stamp of a message made here that starts with a `std_msgs/Header`.
pub fn set_stamp(message: &mut [u8], stamp_ns: StampNs) {
    // sec and nanosec are the first eight bytes after the encapsulation header.
    if let Some(slot) = message.get_mut(4..12) {
        slot[..4].copy_from_slice(&((stamp_ns.div_euclid(1_000_000_000)) as i32).to_le_bytes());
        slot[4..].copy_from_slice(&((stamp_ns.rem_euclid(1_000_000_000)) as u32).to_le_bytes());
    }
}

/// A tight `rgb8` `sensor_msgs/msg/Image` with stamp 0; `rgb` is `[height, width, 3]`.
pub fn image(frame_id: &str, width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(rgb.len() + 64 + frame_id.len());
    write_header(&mut writer, 0, frame_id);
    writer.u32(height);
    writer.u32(width);
    writer.string("rgb8");
    writer.u8(0);
    writer.u32(width * 3);
    writer.byte_sequence(rgb);
    writer.finish()
}

/// A `sensor_msgs/msg/CameraInfo` with stamp 0.
pub fn camera_info(frame_id: &str, width: u32, height: u32, camera: Pinhole) -> Vec<u8> {
    let Pinhole { fx, fy, cx, cy } = camera;
    let mut writer = Writer::with_capacity(400);
    write_header(&mut writer, 0, frame_id);
    writer.u32(height);
    writer.u32(width);
    writer.string("plumb_bob");
    writer.u32(5);
    writer.f64_array(&[0.0; 5]);
    writer.f64_array(&[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]);
    writer.f64_array(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    writer.f64_array(&[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]);
    for _ in 0..6 {
        // binning and region of interest: none
        writer.u32(0);
    }
    writer.u8(0);
    writer.finish()
}

/// A `sensor_msgs/msg/Image` seen in its wire form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageMessage<'a> {
    /// Stamp of its header.
    pub stamp_ns: StampNs,
    /// Frame of its header.
    pub frame_id: &'a str,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Name of the pixel format.
    pub encoding: &'a str,
    /// Bytes a row.
    pub step: u32,
    /// Rows.
    pub data: &'a [u8],
}

impl<'a> ImageMessage<'a> {
    /// Reads the message; the pixels stay where they are.
    pub fn read(message: &'a [u8]) -> Result<Self, CdrError> {
        let mut reader = Reader::new(message)?;
        let (stamp_ns, frame_id) = read_header(&mut reader)?;
        let height = reader.u32()?;
        let width = reader.u32()?;
        let encoding = reader.string()?;
        reader.u8()?;
        let step = reader.u32()?;
        Ok(Self { stamp_ns, frame_id, width, height, encoding, step, data: reader.byte_sequence()? })
    }
}

/// A `semantic_depth/msg/FrameTiming`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the fields are documented in msg/FrameTiming.msg
pub struct FrameTiming {
    pub stamp_ns: StampNs,
    pub camera: String,
    pub sequence: u64,
    pub received: u64,
    pub dropped: u64,
    pub refused: u64,
    pub skipped: u64,
    pub batch_size: u32,
    pub receive_ns: u64,
    pub wait_ns: u64,
    pub decode_ns: u64,
    pub infer_ns: u64,
    pub labels_ns: u64,
    pub depth_ns: u64,
    pub confidence_ns: u64,
    pub overlay_ns: u64,
    pub mask_ns: u64,
    pub points_ns: u64,
    pub compress_ns: u64,
    pub publish_ns: u64,
    pub total_ns: u64,
    pub age_ns: i64,
    pub backend: String,
    pub device: String,
}

impl FrameTiming {
    /// Reads the message.
    pub fn read(message: &[u8]) -> Result<Self, CdrError> {
        let mut r = Reader::new(message)?;
        let (stamp_ns, _) = read_header(&mut r)?;
        // Struct fields are evaluated in the order written, which is the message's.
        Ok(Self {
            stamp_ns,
            camera: r.string()?.to_owned(),
            sequence: r.u64()?,
            received: r.u64()?,
            dropped: r.u64()?,
            refused: r.u64()?,
            skipped: r.u64()?,
            batch_size: r.u32()?,
            receive_ns: r.u64()?,
            wait_ns: r.u64()?,
            decode_ns: r.u64()?,
            infer_ns: r.u64()?,
            labels_ns: r.u64()?,
            depth_ns: r.u64()?,
            confidence_ns: r.u64()?,
            overlay_ns: r.u64()?,
            mask_ns: r.u64()?,
            points_ns: r.u64()?,
            compress_ns: r.u64()?,
            publish_ns: r.u64()?,
            total_ns: r.u64()?,
            age_ns: r.i64()?,
            backend: r.string()?.to_owned(),
            device: r.string()?.to_owned(),
        })
    }
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
        let array = r2r::diagnostic_msgs::msg::DiagnosticArray::from_serialized_bytes(message).ok()?;
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
    use r2r::WrappedTypesupport;

    #[test]
    fn images_are_what_ros_reads() {
        let rgb: Vec<u8> = (0..3 * 5 * 2).collect();
        let mut bytes = image("camera", 5, 2, &rgb);
        set_stamp(&mut bytes, 1_700_000_000_123_456_789);
        let ros = r2r::sensor_msgs::msg::Image::from_serialized_bytes(&bytes).expect("ROS reads it");
        assert_eq!((ros.header.stamp.sec, ros.header.stamp.nanosec), (1_700_000_000, 123_456_789));
        assert_eq!(ros.header.frame_id, "camera");
        assert_eq!((ros.width, ros.height, ros.step, ros.is_bigendian), (5, 2, 15, 0));
        assert_eq!(ros.encoding, "rgb8");
        assert_eq!(ros.data, rgb);
        let again = ros.to_serialized_bytes().expect("ROS writes it");
        let read = ImageMessage::read(&again).expect("we read it");
        assert_eq!(read.data, rgb);
        assert_eq!(read.stamp_ns, 1_700_000_000_123_456_789);
        assert_eq!(stamp(&again), Ok(read.stamp_ns));
        assert_eq!((read.width, read.height, read.step, read.encoding, read.frame_id), (5, 2, 15, "rgb8", "camera"));
    }

    #[test]
    fn camera_infos_are_what_ros_reads() {
        let bytes = camera_info("camera_frame", 2048, 1024, Pinhole { fx: 900.0, fy: 901.0, cx: 1024.5, cy: 512.5 });
        let ros = r2r::sensor_msgs::msg::CameraInfo::from_serialized_bytes(&bytes).expect("ROS reads it");
        assert_eq!((ros.width, ros.height), (2048, 1024));
        assert_eq!(ros.distortion_model, "plumb_bob");
        assert_eq!(ros.d, vec![0.0; 5]);
        assert_eq!(ros.k.as_slice(), &[900.0, 0.0, 1024.5, 0.0, 901.0, 512.5, 0.0, 0.0, 1.0]);
        assert_eq!(ros.p.as_slice(), &[900.0, 0.0, 1024.5, 0.0, 0.0, 901.0, 512.5, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(ros.r.as_slice(), &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        assert!(!ros.roi.do_rectify);
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

    #[test]
    fn timings_are_read_as_ros_writes_them() {
        let ros = r2r::semantic_depth::msg::FrameTiming {
            camera: "front".into(),
            sequence: 1,
            received: 2,
            dropped: 3,
            refused: 4,
            skipped: 15,
            batch_size: 16,
            receive_ns: 5,
            wait_ns: 6,
            decode_ns: 7,
            infer_ns: 8,
            labels_ns: 9,
            depth_ns: 10,
            confidence_ns: 17,
            overlay_ns: 11,
            mask_ns: 18,
            points_ns: 19,
            compress_ns: 20,
            publish_ns: 12,
            total_ns: 13,
            age_ns: -14,
            backend: "torchscript".into(),
            device: "cpu".into(),
            ..Default::default()
        };
        let read = FrameTiming::read(&ros.to_serialized_bytes().expect("ROS writes it")).expect("we read it");
        assert_eq!((read.camera.as_str(), read.batch_size, read.skipped), ("front", 16, 15));
        assert_eq!((read.sequence, read.received, read.dropped, read.refused), (1, 2, 3, 4));
        assert_eq!((read.receive_ns, read.wait_ns, read.decode_ns, read.infer_ns), (5, 6, 7, 8));
        assert_eq!((read.labels_ns, read.depth_ns, read.overlay_ns, read.publish_ns), (9, 10, 11, 12));
        assert_eq!((read.confidence_ns, read.mask_ns, read.points_ns, read.compress_ns), (17, 18, 19, 20));
        assert_eq!((read.total_ns, read.age_ns), (13, -14));
        assert_eq!((read.backend.as_str(), read.device.as_str()), ("torchscript", "cpu"));
    }
}

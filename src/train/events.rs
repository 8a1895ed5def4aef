//! TensorBoard event files: scalars and pictures of a run.
//!
//! The messages are TensorFlow's `event.proto` and `summary.proto`, as far as they are used here; the framing is its
//! `record_writer`: length, masked CRC32C of the length, message, masked CRC32C of the message, little-endian.

use anyhow::Context as _;
use prost::Message as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SessionLog {
    /// 1: a session starts.
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3: RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// Writes one event file. A part of a run that was resumed writes a file of its own: TensorBoard reads all of a folder.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Makes `events.out.tfevents.SECONDS.semantic_depth` in a folder. A resumed run takes some steps again: TensorBoard
    /// forgets what earlier files say of `first_step`, the step that comes next, and of later ones.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(folder: &Path, first_step: i64) -> anyhow::Result<Self> {
        let seconds = now_s() as u64;
        // Two parts of a run within a second have two files.
        let (path, file) = (seconds..)
            .map(|s| folder.join(format!("events.out.tfevents.{s}.semantic_depth")))
            .find_map(|path| match File::create_new(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => None,
                made => Some((path, made)),
            })
            .context("no free name for an event file")?;
        let file = BufWriter::new(file.with_context(|| path.display().to_string())?);
        let mut writer = Self { path, file };
        writer.write(0, |event| event.file_version = Some("brain.Event:2".into()))?;
        writer.write(first_step, |event| event.session_log = Some(SessionLog { status: 1 }))?;
        writer.flush()?;
        Ok(writer)
    }

    /// Adds a number.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub fn scalar(&mut self, tag: &str, step: i64, number: f32) -> anyhow::Result<()> {
        self.value(step, Value { tag: tag.into(), simple_value: Some(number), image: None })
    }

    /// Adds a picture, encoded as PNG.
    ///
    /// # Errors
    /// It is no PNG, or the file cannot be written to.
    pub fn image(&mut self, tag: &str, step: i64, png: &[u8]) -> anyhow::Result<()> {
        let reader = image::ImageReader::with_format(std::io::Cursor::new(png), image::ImageFormat::Png);
        let (width, height) = reader.into_dimensions().context("a picture for TensorBoard")?;
        let image =
            Image { height: height as i32, width: width as i32, colorspace: 3, encoded_image_string: png.into() };
        self.value(step, Value { tag: tag.into(), simple_value: None, image: Some(image) })
    }

    /// Hands everything to the system, so that a kill loses nothing of it.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| self.path.display().to_string())
    }

    fn value(&mut self, step: i64, value: Value) -> anyhow::Result<()> {
        self.write(step, |event| event.summary = Some(Summary { value: vec![value] }))
    }

    fn write(&mut self, step: i64, fill: impl FnOnce(&mut Event)) -> anyhow::Result<()> {
        let mut event = Event { wall_time: now_s(), step, ..Event::default() };
        fill(&mut event);
        let record = framed(&event.encode_to_vec());
        self.file.write_all(&record).with_context(|| self.path.display().to_string())
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(message.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(message);
    record.extend(masked_crc(message).to_le_bytes());
    record
}

/// TensorFlow's mask: a checksum of data that holds checksums would be weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers: RFC 3720's CRC32C of 32 zero bytes, and how every file begins that TensorFlow writes (a first
    /// record of 24 bytes).
    #[test]
    fn the_checksum_is_tensorflows() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(framed(&[0; 24])[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = EventWriter::create(folder.path(), 3).expect("a file");
        writer.scalar("loss", 3, 0.25).expect("written");
        let mut png = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(4, 2).write_to(&mut png, image::ImageFormat::Png).expect("a picture");
        writer.image("look", 4, png.get_ref()).expect("written");
        assert!(writer.image("look", 5, b"no picture").is_err());
        writer.flush().expect("written");
        let _second = EventWriter::create(folder.path(), 4).expect("a file of its own");

        let bytes = std::fs::read(&writer.path).expect("read");
        let (mut at, mut events) = (0, Vec::new());
        while at < bytes.len() {
            let word = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().expect("four bytes"));
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
            assert_eq!(word(at + 8), masked_crc(&bytes[at..at + 8]));
            let message = &bytes[at + 12..at + 12 + length];
            assert_eq!(word(at + 12 + length), masked_crc(message));
            events.push(Event::decode(message).expect("an event"));
            at += 16 + length;
        }
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!((events[1].step, events[1].session_log.as_ref().map(|l| l.status)), (3, Some(1)));
        let value = |i: usize| &events[i].summary.as_ref().expect("a summary").value[0];
        assert_eq!((events[2].step, value(2).tag.as_str(), value(2).simple_value), (3, "loss", Some(0.25)));
        let picture = value(3).image.as_ref().expect("a picture");
        assert_eq!((picture.width, picture.height), (4, 2));
    }
}

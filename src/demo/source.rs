//! Where the demo's frames come from: a drive in the Cityscapes layout (with a truth), a folder of pictures, a video.

use super::messages::{self, Pinhole};
use crate::data::cityscapes::{no_root, Part, Sample};
use crate::data::disk::{self, DataError};
use crate::data::picture;
use crate::panics::caught;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{sync_channel, Receiver, TrySendError};
use std::thread::JoinHandle;

/// Frame of the demo's camera, with the axes of REP 103's optical frames.
pub const FRAME_ID: &str = "camera_front_optical_frame";
/// Frames decoded ahead of their time, in bytes: the default drive fits, so that decoding does not compete with the node.
const AHEAD_BYTES: usize = 768 << 20;
/// Largest width or height that is taken from a decoder's output.
const MAX_SIDE: u32 = 1 << 15;
/// What is kept of the end of a decoder's complaints, bytes.
const COMPLAINTS: usize = 8192;

/// Why there are no frames.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message says what its variant is
pub enum SourceError {
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{folder} holds no {expected}")]
    Empty { folder: PathBuf, expected: &'static str },
    #[error("{path} is not a camera file of the Cityscapes layout: {reason}")]
    Camera { path: PathBuf, reason: String },
    #[error("a video needs ffmpeg, and {program} cannot be started ({source}); install ffmpeg, put it on PATH, or name it in SEMANTIC_DEPTH_FFMPEG")]
    NoFfmpeg { program: String, source: std::io::Error },
    #[error("ffmpeg could not decode {path}: {reason}")]
    Ffmpeg { path: PathBuf, reason: String },
    #[error("cannot make a message of a frame: {0}")]
    Message(r2r::Error),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("the thread that reads the frames ended early")]
    Gone,
    #[error("a frame cannot be read, which is this program's fault: {0}")]
    Panic(String),
}

/// A frame's truth, read when it is needed.
#[derive(Debug, Clone)]
pub struct Truth {
    sample: Sample,
    labels: bool,
    depth: bool,
}

impl Truth {
    /// What there is of a frame; `None` where there is nothing.
    fn find(sample: Sample) -> Option<Self> {
        let is = |part| sample.path(part).is_file();
        let (labels, depth) = (is(Part::Labels), is(Part::Depth) || (is(Part::Disparity) && is(Part::Camera)));
        (labels || depth).then_some(Self { sample, labels, depth })
    }

    /// Train ids, `[height, width]`, with width and height, where there are labels.
    pub fn labels(&self) -> Result<Option<(Vec<u8>, u32, u32)>, DataError> {
        self.labels.then(|| self.sample.read_labels()).transpose()
    }

    /// Metres, `[height, width]`, with width and height, where there is depth; not finite where it is not known.
    pub fn depth_m(&self) -> Result<Option<(Vec<f32>, u32, u32)>, DataError> {
        self.depth.then(|| self.sample.read_depth()).transpose()
    }
}

/// One frame, ready to be played.
#[derive(Debug)]
pub struct Frame {
    /// File name, or number in the video.
    pub name: String,
    /// `sensor_msgs/msg/Image` with stamp 0.
    pub image: Vec<u8>,
    /// `sensor_msgs/msg/CameraInfo` with stamp 0; its K is zero (uncalibrated) where the camera is not known.
    pub camera_info: Vec<u8>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Its truth.
    pub truth: Option<Truth>,
}

impl Frame {
    fn new(
        name: String,
        picture: image::RgbImage,
        camera: Option<Pinhole>,
        truth: Option<Truth>,
    ) -> Result<Self, SourceError> {
        let (width, height) = picture.dimensions();
        // CameraInfo's own rule: K[0] = 0 says that the camera is not calibrated.
        let camera = camera.unwrap_or(Pinhole { fx: 0.0, fy: 0.0, cx: 0.0, cy: 0.0 });
        let image = messages::image(FRAME_ID, width, height, picture.into_raw()).map_err(SourceError::Message)?;
        let camera_info = messages::camera_info(FRAME_ID, width, height, camera).map_err(SourceError::Message)?;
        Ok(Self { image, camera_info, name, width, height, truth })
    }
}

/// What to play.
#[derive(Debug, Clone)]
pub enum Source {
    /// A folder in the Cityscapes layout.
    Drive(PathBuf),
    /// A folder of PNG and JPEG files, played in the order of their names.
    Images(PathBuf),
    /// Anything that ffmpeg decodes.
    Video(PathBuf),
}

type Frames = Box<dyn Iterator<Item = Result<Frame, SourceError>> + Send>;

impl Source {
    /// The frames, at most `count` of them, how many there will be where that is known, and what is to be said of them.
    fn frames(&self, count: usize, rate_hz: f64) -> Result<(Frames, Option<usize>, Vec<String>), SourceError> {
        match self {
            Self::Drive(root) => {
                let (left, ending) = Part::Left.names();
                if !root.join(left).is_dir() {
                    return Err(no_root(root, "; --images plays a folder of pictures").into());
                }
                let mut files = list(&root.join(left))?;
                files.retain(|f| f.to_string_lossy().ends_with(ending));
                files.sort();
                files.truncate(count);
                let known = files.len();
                if files.is_empty() {
                    let expected = "leftImg8bit/*/*/*_leftImg8bit.png";
                    return Err(SourceError::Empty { folder: root.clone(), expected });
                }
                let frames: Vec<_> = files.into_iter().map(|file| DriveFrame::find(root, file)).collect();
                let notes = lacking(&frames);
                Ok((Box::new(frames.into_iter().map(DriveFrame::read)), Some(known), notes))
            }
            Self::Images(folder) => {
                if !folder.is_dir() {
                    return Err(DataError::Nowhere(disk::no_such_folder(folder, "folders")).into());
                }
                let mut files = list(folder)?;
                files.retain(|f| {
                    let extension = f.extension().map(|e| e.to_string_lossy().to_lowercase());
                    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
                });
                files.sort();
                files.truncate(count);
                let known = files.len();
                if files.is_empty() {
                    return Err(SourceError::Empty { folder: folder.clone(), expected: "*.png or *.jpg" });
                }
                let frames = files.into_iter().map(|f| Frame::new(name(&f), open(&f)?, None, None));
                Ok((Box::new(frames), Some(known), Vec::new()))
            }
            Self::Video(file) => Ok((Box::new(Video::open(file, count, rate_hz)?), None, Vec::new())),
        }
    }

    /// Starts to read ahead, on a thread of its own, and returns once enough frames wait (or all of them).
    pub fn open(&self, count: usize, rate_hz: f64) -> Result<Opened, SourceError> {
        let (mut frames, known, notes) = self.frames(count, rate_hz)?;
        let empty = || SourceError::Empty {
            folder: match self {
                Self::Drive(path) | Self::Images(path) | Self::Video(path) => path.clone(),
            },
            expected: "frames",
        };
        let first = frames.next().ok_or_else(empty)??;
        let ahead = (AHEAD_BYTES / first.image.len().max(1)).clamp(2, 4096).min(known.unwrap_or(usize::MAX));
        let frames = read_ahead(std::iter::once(Ok(first)).chain(frames), ahead)?;
        Ok(Opened { frames, known, notes })
    }
}

/// Reads the frames on a thread of its own, so many of them ahead, and returns once those wait (or all there are).
fn read_ahead(
    mut frames: impl Iterator<Item = Result<Frame, SourceError>> + Send + 'static,
    ahead: usize,
) -> Result<Receiver<Result<Frame, SourceError>>, SourceError> {
    let (sender, receiver) = sync_channel(ahead);
    let (ready, wait) = sync_channel::<()>(1);
    std::thread::Builder::new()
        .name("demo-frames".into())
        .spawn(move || {
            let mut ready = Some(ready);
            // A thread that panics and is gone would look like the drive's end.
            let mut next = || caught(|| frames.next()).unwrap_or_else(|why| Some(Err(SourceError::Panic(why))));
            while let Some(frame) = next() {
                let failed = frame.is_err();
                match sender.try_send(frame) {
                    Ok(()) => {}
                    Err(TrySendError::Full(frame)) => {
                        ready = None; // dropping it wakes the waiter
                        if sender.send(frame).is_err() {
                            return;
                        }
                    }
                    Err(TrySendError::Disconnected(_)) => return,
                }
                if failed {
                    break;
                }
            }
            drop(ready);
        })
        .map_err(SourceError::Thread)?;
    // Nothing is ever sent: the other end is dropped when the frames are ready.
    let _ = wait.recv();
    Ok(receiver)
}

/// A source that is being read.
#[derive(Debug)]
pub struct Opened {
    /// The frames, in order; ends after the last one.
    pub frames: Receiver<Result<Frame, SourceError>>,
    /// How many there will be, where that is known.
    pub known: Option<usize>,
    /// What is not there of a drive, a line each.
    pub notes: Vec<String>,
}

/// All files under `folder`, those behind links, too.
fn list(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    /// `above`: the folders that this one is in, as they are without links: a link to one of them has no end.
    fn add(folder: &Path, above: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) -> Result<(), SourceError> {
        let io = |source| SourceError::Io { path: folder.to_path_buf(), source };
        let real = folder.canonicalize().map_err(io)?;
        if above.contains(&real) {
            return Ok(());
        }
        above.push(real);
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.is_dir() {
                add(&path, above, files)?;
            } else {
                files.push(path);
            }
        }
        above.pop();
        Ok(())
    }
    let mut files = Vec::new();
    add(folder, &mut Vec::new(), &mut files)?;
    Ok(files)
}

fn name(file: &Path) -> String {
    file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

fn open(file: &Path) -> Result<image::RgbImage, SourceError> {
    picture::size(file, None)?;
    Ok(picture::read(file, None)?.into_rgb8())
}

/// What there is of one frame of a drive.
struct DriveFrame {
    name: String,
    picture: PathBuf,
    camera: Option<PathBuf>,
    truth: Option<Truth>,
}

impl DriveFrame {
    fn find(root: &Path, picture: PathBuf) -> Self {
        match sample(root, &picture) {
            Some(sample) => Self {
                name: sample.stem().to_owned(),
                picture,
                camera: Some(sample.path(Part::Camera)).filter(|file| file.is_file()),
                truth: Truth::find(sample),
            },
            // In a folder elsewhere it has nothing beside it.
            None => Self { name: name(&picture), picture, camera: None, truth: None },
        }
    }

    fn read(self) -> Result<Frame, SourceError> {
        let picture = open(&self.picture)?;
        let camera = self.camera.as_deref().map(camera).transpose()?;
        Frame::new(self.name, picture, camera, self.truth)
    }
}

/// The frame of `leftImg8bit/<split>/<city>/<stem>_leftImg8bit.png`, whatever its stem is.
fn sample(root: &Path, file: &Path) -> Option<Sample> {
    let (left, ending) = Part::Left.names();
    let inside = file.strip_prefix(root.join(left)).ok()?;
    let names: Vec<_> = inside.components().map(|c| c.as_os_str().to_str()).collect::<Option<_>>()?;
    let [split, city, file] = names[..] else { return None };
    Some(Sample::named(root, split, city, file.strip_suffix(ending)?))
}

/// What frames of a drive lack, a line for each kind: it is played and shown without it all the same.
fn lacking(frames: &[DriveFrame]) -> Vec<String> {
    type Has = fn(&DriveFrame) -> bool;
    let kinds: [(&str, &str, &str, Has); 3] = [
        (
            "no camera file",
            "camera/<split>/<city>/<frame>_camera.json",
            "they are played as of a camera that is not calibrated, so depth is not scaled to it",
            |frame| frame.camera.is_some(),
        ),
        (
            "no true labels",
            "gtFine/<split>/<city>/<frame>_gtFine_labelIds.png",
            "their labels are not scored",
            |frame| frame.truth.as_ref().is_some_and(|truth| truth.labels),
        ),
        (
            "no true depth",
            "exactDepth/<split>/<city>/<frame>_depth.npy, or disparity/<split>/<city>/<frame>_disparity.png with camera",
            "their depth is not scored",
            |frame| frame.truth.as_ref().is_some_and(|truth| truth.depth),
        ),
    ];
    let line = |(what, place, so, has): (&str, &str, &str, Has)| {
        let mut without = frames.iter().filter(|frame| !has(frame));
        let first = name(&without.next()?.picture);
        let count = 1 + without.count();
        Some(format!("{count} of {} frames have {what} ({place}), the first is {first}: {so}", frames.len()))
    };
    kinds.into_iter().filter_map(line).collect()
}

fn camera(path: &Path) -> Result<Pinhole, SourceError> {
    let text = std::fs::read(path).map_err(|source| SourceError::Io { path: path.to_path_buf(), source })?;
    let bad = |reason: String| SourceError::Camera { path: path.to_path_buf(), reason };
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let number = |key: &str| {
        json["intrinsic"][key]
            .as_f64()
            .filter(|v| v.is_finite())
            .ok_or_else(|| bad(format!("intrinsic.{key} is missing")))
    };
    // The file counts from the picture's edge, ROS from the first pixel's centre.
    Ok(Pinhole { fx: number("fx")?, fy: number("fy")?, cx: number("u0")? - 0.5, cy: number("v0")? - 0.5 })
}

/// Frames of a video, decoded by ffmpeg into a pipe of PPM pictures: each carries its own size.
struct Video {
    path: PathBuf,
    child: Child,
    pipe: BufReader<ChildStdout>,
    /// The end of what the decoder printed as errors; `None` once it was asked for.
    complaints: Option<JoinHandle<String>>,
    number: usize,
    ended: bool,
}

/// The end of all that comes. A pipe that nobody empties stops the program at its other end.
fn tail(mut pipe: impl Read) -> String {
    let (mut kept, mut part) = (Vec::new(), [0; COMPLAINTS]);
    loop {
        match pipe.read(&mut part) {
            Ok(0) => break,
            Ok(n) => {
                kept.extend_from_slice(&part[..n]);
                kept.drain(..kept.len().saturating_sub(COMPLAINTS));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

impl Video {
    fn open(path: &Path, count: usize, rate_hz: f64) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { path: path.to_path_buf(), source };
        std::fs::metadata(path).map_err(io)?;
        let program = std::env::var("SEMANTIC_DEPTH_FFMPEG").unwrap_or_else(|_| "ffmpeg".into());
        let mut child = Command::new(&program)
            .args(["-v", "error", "-nostdin", "-i"])
            .arg(path)
            // Frames at the rate they are played at, so that the demo runs as fast as the video does.
            .args(["-r", &rate_hz.to_string(), "-frames:v", &count.to_string()])
            .args(["-an", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| SourceError::NoFfmpeg { program, source })?;
        let pipe = child.stdout.take().ok_or(SourceError::Gone)?;
        let stderr = child.stderr.take().ok_or(SourceError::Gone)?;
        let complaints = std::thread::Builder::new().name("demo-ffmpeg".into()).spawn(move || tail(stderr));
        Ok(Self {
            path: path.to_path_buf(),
            child,
            pipe: BufReader::with_capacity(1 << 20, pipe),
            complaints: Some(complaints.map_err(SourceError::Thread)?),
            number: 0,
            ended: false,
        })
    }

    fn error(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Ffmpeg { path: self.path.clone(), reason: reason.into() }
    }

    /// After the pipe's end: was it a good one?
    fn end(&mut self) -> Result<(), SourceError> {
        let text = self.complaints.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let status = self.child.wait().map_err(|source| SourceError::Io { path: self.path.clone(), source })?;
        if status.success() && self.number > 0 {
            return Ok(());
        }
        let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it printed no reason");
        Err(self.error(format!("{status}: {last}")))
    }

    fn frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let io = |source| SourceError::Io { path: self.path.clone(), source };
        if self.pipe.fill_buf().map_err(io)?.is_empty() {
            self.end()?;
            return Ok(None);
        }
        let mut field = || -> Result<String, SourceError> {
            let mut text = Vec::new();
            for byte in self.pipe.by_ref().bytes().take(64) {
                match byte.map_err(io)? {
                    b if b.is_ascii_whitespace() => break,
                    b => text.push(b),
                }
            }
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        let header = [field()?, field()?, field()?, field()?];
        let side = |text: &str| text.parse::<u32>().ok().filter(|s| (1..=MAX_SIDE).contains(s));
        let (Some(width), Some(height), "P6", "255") =
            (side(&header[1]), side(&header[2]), header[0].as_str(), header[3].as_str())
        else {
            return Err(self.error(format!("expected a PPM header `P6 width height 255`, got `{}`", header.join(" "))));
        };
        let mut rgb = vec![0; width as usize * height as usize * 3];
        self.pipe.read_exact(&mut rgb).map_err(io)?;
        let picture = image::RgbImage::from_raw(width, height, rgb).ok_or(SourceError::Gone)?;
        self.number += 1;
        Frame::new(format!("frame {}", self.number - 1), picture, None, None).map(Some)
    }
}

impl Iterator for Video {
    type Item = Result<Frame, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let frame = self.frame().transpose();
        self.ended = !matches!(frame, Some(Ok(_)));
        frame
    }
}

impl Drop for Video {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r2r::sensor_msgs::msg::Image;

    fn picture(width: u32, height: u32, value: u8) -> image::RgbImage {
        image::RgbImage::from_pixel(width, height, image::Rgb([value, 0, 255 - value]))
    }

    #[test]
    fn pictures_come_sorted_and_in_any_size() {
        let folder = tempfile::tempdir().expect("temporary folder");
        picture(4, 2, 20).save(folder.path().join("b.png")).expect("saved");
        picture(3, 5, 10).save(folder.path().join("a.png")).expect("saved");
        std::fs::write(folder.path().join("notes.txt"), "no picture").expect("written");
        let opened = Source::Images(folder.path().into()).open(10, 10.0).expect("opened");
        assert_eq!(opened.known, Some(2));
        let frames: Vec<_> = opened.frames.iter().map(|f| f.expect("decoded")).collect();
        assert_eq!(frames.iter().map(|f| (f.width, f.height)).collect::<Vec<_>>(), [(3, 5), (4, 2)]);
        let message = messages::read::<Image>(&frames[0].image).expect("an image");
        assert_eq!((message.width, message.height, message.step), (3, 5, 9));
        assert_eq!(&message.data[..3], &[10, 0, 245]);
        assert_eq!(message.header.frame_id, FRAME_ID);
    }

    #[test]
    fn what_is_no_drive_is_told_with_what_was_expected() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = folder.path().join("data");
        std::fs::create_dir_all(root.join("set/leftImg8bit")).expect("folder");
        let says = |source: Source, texts: [&str; 2]| {
            let error = source.open(1, 10.0).expect_err("no frames").to_string();
            assert!(texts.iter().all(|text| error.contains(text)), "{error}");
        };
        let layout = "expected the root of a data set in the Cityscapes layout";
        says(Source::Drive(root.join("nowhere")), ["nowhere is not there: ", layout]);
        says(Source::Drive(root.clone()), [layout, "data/set is"]);
        says(Source::Drive(folder.path().into()), [layout, "--images plays a folder of pictures"]);
        says(Source::Drive(root.join("set")), ["data/set holds no leftImg8bit/*/*/", "_leftImg8bit.png"]);
        says(Source::Images(root.join("pictures")), ["pictures is not there; ", "data has the folders set"]);
    }

    /// Frames of any name, in a city folder that is a link, with camera and labels but no depth.
    #[test]
    fn a_drive_has_its_camera_and_truth_whatever_its_frames_are_called() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (root, real) = (folder.path().join("drive"), folder.path().join("real"));
        std::fs::create_dir_all(root.join("leftImg8bit/val")).expect("made");
        std::fs::create_dir_all(&real).expect("made");
        std::os::unix::fs::symlink(&real, root.join("leftImg8bit/val/neu-ulm")).expect("linked");
        // A way round in circles.
        std::os::unix::fs::symlink(&root, real.join("round")).expect("linked");
        let samples = ["0000000012", "frame_7"].map(|stem| Sample::named(&root, "val", "neu-ulm", stem));
        for sample in &samples {
            picture(4, 2, 20).save(sample.path(Part::Left)).expect("saved");
            sample.write_labels(&[0; 8], 4, 2).expect("written");
        }
        let camera = r#"{"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": 3, "fy": 3, "u0": 2, "v0": 1}}"#;
        std::fs::create_dir_all(samples[0].path(Part::Camera).parent().expect("a folder")).expect("made");
        std::fs::write(samples[0].path(Part::Camera), camera).expect("written");

        let opened = Source::Drive(root).open(10, 10.0).expect("opened");
        let frames: Vec<_> = opened.frames.iter().map(|f| f.expect("read")).collect();
        assert_eq!(frames.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["0000000012", "frame_7"]);
        let k =
            |frame: &Frame| messages::read::<r2r::sensor_msgs::msg::CameraInfo>(&frame.camera_info).expect("read").k[0];
        assert_eq!((k(&frames[0]), k(&frames[1])), (3.0, 0.0));
        for frame in &frames {
            let truth = frame.truth.as_ref().expect("labels");
            assert_eq!(truth.labels().expect("read"), Some((vec![0; 8], 4, 2)));
            assert!(truth.depth_m().expect("nothing to read").is_none());
        }
        let [camera, depth] = &opened.notes[..] else { panic!("{:?}", opened.notes) };
        assert!(
            camera.starts_with("1 of 2 frames have no camera file (camera/") && camera.contains("frame_7"),
            "{camera}"
        );
        assert!(depth.starts_with("2 of 2 frames have no true depth (exactDepth/"), "{depth}");
    }

    #[test]
    fn a_broken_picture_is_named_where_it_comes() {
        let folder = tempfile::tempdir().expect("temporary folder");
        picture(4, 2, 20).save(folder.path().join("a.png")).expect("saved");
        std::fs::write(folder.path().join("b.png"), "no picture").expect("written");
        let opened = Source::Images(folder.path().into()).open(10, 10.0).expect("opened");
        let frames: Vec<_> = opened.frames.iter().collect();
        assert!(frames[0].is_ok());
        assert!(frames[1].as_ref().expect_err("broken").to_string().contains("b.png"));
    }

    #[test]
    fn a_panic_is_an_error_and_not_the_drives_end() {
        let frames = (0..3).map(|i| match i {
            0 => Frame::new("first".into(), picture(4, 2, 20), None, None),
            _ => panic!("a fault of a decoder"),
        });
        let frames: Vec<_> = read_ahead(frames, 8).expect("a thread").iter().collect();
        assert_eq!(frames.len(), 2);
        assert!(frames[0].is_ok());
        let error = frames[1].as_ref().expect_err("it panicked").to_string();
        assert!(error.contains("a fault of a decoder"), "{error}");
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let error = Source::Images(folder.path().into()).open(10, 10.0).expect_err("empty");
        assert!(error.to_string().contains("*.png"), "{error}");
    }

    #[test]
    fn a_video_is_read_from_the_decoder_of_the_environment() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("temporary folder");
        let program = folder.path().join("ffmpeg");
        // A stand-in decoder: two pictures of different sizes, or a failure for a file named "bad", after more complaints
        // than a pipe holds for one named "broken".
        let script = "#!/bin/sh\ncase \"$*\" in *bad*) echo 'moov atom not found' >&2; exit 1;; esac\n\
                      case \"$*\" in *broken*) yes 'corrupt macroblock' | head -n 20000 >&2;; esac\n\
                      printf 'P6\\n2 1\\n255\\nabcdef'\nprintf 'P6\\n1 1\\n255\\nxyz'\n";
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        for file in ["good.mp4", "bad.mp4", "broken.mp4"] {
            std::fs::write(folder.path().join(file), "x").expect("written");
        }
        std::env::set_var("SEMANTIC_DEPTH_FFMPEG", &program);
        let opened = Source::Video(folder.path().join("good.mp4")).open(10, 10.0).expect("opened");
        let frames: Vec<_> = opened.frames.iter().map(|f| f.expect("decoded")).collect();
        assert_eq!(frames.iter().map(|f| (f.width, f.height)).collect::<Vec<_>>(), [(2, 1), (1, 1)]);
        assert_eq!(messages::read::<Image>(&frames[0].image).expect("an image").data, b"abcdef");
        let opened = Source::Video(folder.path().join("broken.mp4")).open(10, 10.0).expect("opened");
        assert_eq!(
            opened.frames.iter().filter(Result::is_ok).count(),
            2,
            "it does not wait for its complaints to be read"
        );
        let error = Source::Video(folder.path().join("bad.mp4")).open(10, 10.0).expect_err("fails");
        assert!(error.to_string().contains("moov atom not found"), "{error}");
        std::env::set_var("SEMANTIC_DEPTH_FFMPEG", folder.path().join("absent"));
        let error = Source::Video(folder.path().join("good.mp4")).open(10, 10.0).expect_err("no decoder");
        assert!(error.to_string().contains("install ffmpeg"), "{error}");
    }
}

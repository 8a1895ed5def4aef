//! What a user feels: bytes of whole frames in host memory in, labels and metric depth at their size in host memory out.

use super::encode::encode;
use super::measure::{Spread, Stopwatch, Timing};
use super::memory::{resident, GpuMemory, OnGpu, Resident};
use super::BenchError;
use crate::data::street::{Drive, DriveConfig};
use crate::frame::clock::StageTimes;
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::pipeline::{Job, Outputs, Pipeline, PipelineError, Wanted};
use crate::frame::view::{Encoding, ImageView, LayoutError};
use crate::model::Task;
use serde::Serialize;
use std::ops::Range;
use tch::Device;

/// After how many frames memory is expected to stay as it is.
const SETTLED: usize = 100;
/// Looks at the memory while frames are answered.
const COURSE: usize = 20;

/// Cameras with a picture each, and where their answers go.
#[derive(Debug)]
pub struct Cameras {
    encoding: Encoding,
    pictures: Vec<Vec<u8>>,
    geometry: Geometry,
    outputs: Vec<Outputs>,
}

/// The left picture of a rendered street, rgb.
fn street((width, height): (usize, usize)) -> Vec<u8> {
    Drive::new(&DriveConfig::new(3, 1, width, height)).frame(0, false).left.into_raw()
}

fn view<'a>(encoding: Encoding, geometry: &Geometry, picture: &'a [u8]) -> Result<ImageView<'a>, LayoutError> {
    let (width, height) = geometry.source();
    ImageView::without_padding(encoding, (width as u32, height as u32), picture)
}

impl Cameras {
    /// `count` cameras of this size (width, height) and encoding for a network of that size. Each looks at the same rendered
    /// street, turned round by another angle.
    ///
    /// # Errors
    /// A size that is not usable, or that the encoding cannot have.
    pub fn new(
        count: usize,
        size: (usize, usize),
        network: (usize, usize),
        encoding: Encoding,
    ) -> Result<Self, BenchError> {
        // Before a picture is drawn: it takes seconds.
        encoding.check_size((size.0 as u32, size.1 as u32))?;
        let geometry = Geometry::new(&Placement::default(), size, network)?;
        let picture = street(size);
        let turned = |by: usize| {
            let mut turned = picture.clone();
            for row in turned.chunks_exact_mut(3 * size.0) {
                row.rotate_left(3 * (by * size.0 / count));
            }
            turned
        };
        let pictures = (0..count).map(|camera| match encoding {
            Encoding::Rgb8 => turned(camera),
            other => encode(other, size, &turned(camera)),
        });
        Ok(Self { encoding, geometry, pictures: pictures.collect(), outputs: vec![Outputs::default(); count] })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.pictures.len()
    }

    /// The bytes of a camera's picture, without padding.
    pub fn picture(&self, camera: usize) -> &[u8] {
        &self.pictures[camera]
    }

    /// A camera's picture.
    ///
    /// # Errors
    /// None that [`Self::new`] has not returned.
    pub fn image(&self, camera: usize) -> Result<ImageView<'_>, LayoutError> {
        view(self.encoding, &self.geometry, self.picture(camera))
    }

    /// What a camera's last frame was answered with.
    pub fn outputs(&self, camera: usize) -> &Outputs {
        &self.outputs[camera]
    }

    /// Answers a frame of each of these cameras, together in one batch: labels and depth, as far as the model answers them, at
    /// the frame's size.
    ///
    /// Returns the stages' times, summed over the frames; the network's, which is one for all, once.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub fn run(&mut self, pipeline: &mut Pipeline, which: Range<usize>) -> Result<StageTimes, PipelineError> {
        let (geometry, encoding) = (&self.geometry, self.encoding);
        let answers = |task| pipeline.manifest().answers(task);
        let (labels, depth) = (answers(Task::Segmentation), answers(Task::Depth));
        let mut jobs = Vec::with_capacity(which.len());
        for (picture, outputs) in self.pictures[which.clone()].iter().zip(&mut self.outputs[which]) {
            // Made anew for each frame, as a frame's bytes come: its check is part of the work.
            let image = view(encoding, geometry, picture).map_err(|e| {
                PipelineError::Network(crate::frame::network::NetworkError::Torch {
                    what: "read the bench's own picture".into(),
                    reason: e.to_string(),
                })
            })?;
            jobs.push(Job {
                image,
                geometry,
                wanted: Wanted { labels, depth, ..Wanted::default() },
                confidence_stride: 1,
                depth_factor: 1.0,
                overlay_opacity: 0.0,
                mask_values: &[0; 256],
                outputs,
                times: StageTimes::default(),
                is_broken: false,
            });
        }
        pipeline.run(&mut jobs)?;
        let mut sum = StageTimes::default();
        for Job { times, .. } in &jobs {
            sum.decode_ns += times.decode_ns;
            sum.infer_ns = times.infer_ns;
            sum.labels_ns += times.labels_ns;
            sum.depth_ns += times.depth_ns;
        }
        Ok(sum)
    }
}

/// A stage's name and where its time is.
type StageOf = (&'static str, fn(&StageTimes) -> u64);

/// The stages that have work here.
const STAGES: [StageOf; 4] =
    [("decode", |t| t.decode_ns), ("infer", |t| t.infer_ns), ("labels", |t| t.labels_ns), ("depth", |t| t.depth_ns)];

/// Times of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stage {
    /// As in diagnostics.
    pub name: &'static str,
    /// By the monotonic clock.
    pub wall_ms: Spread,
}

/// Whole frames, one at a time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Frames {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Of the frame's bytes.
    pub encoding: &'static str,
    /// Bytes in to labels and depth out.
    pub whole: Timing,
    /// By stage; what is missing to the whole is the checks between them.
    pub stages: Vec<Stage>,
    /// One after the other, without a pause.
    pub frames_a_second: f64,
    /// While they were answered.
    pub memory: Memory,
}

/// Memory of this process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    /// Before the model was loaded, the pictures in memory.
    pub before_load: Option<Resident>,
    /// After it was.
    pub loaded: Option<Resident>,
    /// After this many frames it is expected to stay as it is.
    pub settled_frame: usize,
    /// Then.
    pub settled: Option<Resident>,
    /// At the end.
    pub end: Option<Resident>,
    /// Resident bytes after each twentieth of the frames: whether it grows on, or grew once.
    pub course_bytes: Vec<u64>,
    /// From `settled` to the end; below 0 if memory was given back.
    pub growth_bytes: Option<i64>,
    /// Of the GPU, at the end; `None` on the processor.
    pub gpu: Option<OnGpu>,
    /// Why the GPU's memory is not known.
    pub gpu_unreadable: Option<String>,
}

/// Answers `warm_up` and then `count` frames of one camera; the pipeline is loaded by `load`, so that the memory of that
/// is seen.
///
/// # Errors
/// [`PipelineError`].
pub fn alone(
    cameras: &mut Cameras,
    device: Device,
    warm_up: usize,
    count: usize,
    load: impl FnOnce() -> Result<Pipeline, PipelineError>,
) -> Result<(Option<Frames>, Pipeline), PipelineError> {
    let before_load = resident();
    let gpu = GpuMemory::watch(device);
    let mut pipeline = load()?;
    let loaded = resident();
    for _ in 0..warm_up {
        cameras.run(&mut pipeline, 0..1)?;
    }
    let settled_frame = SETTLED.min(count / 2);
    let (mut settled, mut course_bytes) = (None, Vec::with_capacity(COURSE));
    let (mut stopwatch, mut stages) = (Stopwatch::default(), Vec::with_capacity(count));
    for frame in 0..count {
        if frame == settled_frame {
            settled = resident();
        }
        stages.push(stopwatch.time(|| cameras.run(&mut pipeline, 0..1))?);
        if (frame + 1) % count.div_ceil(COURSE) == 0 {
            course_bytes.extend(resident().map(|r| r.now_bytes));
        }
    }
    let end = resident();
    let (gpu, gpu_unreadable) = match gpu.map(|watched| watched.and_then(|w| w.read())) {
        Some(Ok(read)) => (Some(read), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let memory = Memory {
        before_load,
        loaded,
        settled_frame,
        settled,
        end,
        course_bytes,
        growth_bytes: settled.zip(end).map(|(a, b)| b.now_bytes as i64 - a.now_bytes as i64),
        gpu,
        gpu_unreadable,
    };
    let (width, height) = cameras.geometry.source();
    let spread = |of: fn(&StageTimes) -> u64| Spread::of(&stages.iter().map(of).collect::<Vec<_>>());
    let frames = stopwatch.timing().map(|whole| Frames {
        width,
        height,
        encoding: cameras.encoding.name(),
        whole,
        stages: STAGES.iter().filter_map(|&(name, of)| Some(Stage { name, wall_ms: spread(of)? })).collect(),
        frames_a_second: 1e3 / whole.wall_ms.mean,
        memory,
    });
    Ok((frames, pipeline))
}

/// A frame of each of several cameras.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Together {
    /// How many.
    pub cameras: usize,
    /// All of them, one after the other.
    pub in_turn: Timing,
    /// Frames a second, over all cameras.
    pub in_turn_frames_a_second: f64,
    /// All of them, as one batch.
    pub batch: Timing,
    /// Frames a second, over all cameras.
    pub batch_frames_a_second: f64,
}

/// From one camera to all of them, `rounds` times each way, the ways taking turns so that a drift of the machine hits
/// both alike. The pipeline has to take all of them as a batch.
///
/// # Errors
/// [`PipelineError`].
pub fn together(cameras: &mut Cameras, pipeline: &mut Pipeline, rounds: usize) -> Result<Vec<Together>, PipelineError> {
    let mut rows = Vec::new();
    for count in 1..=cameras.count() {
        let (mut in_turn, mut batch) = (Stopwatch::default(), Stopwatch::default());
        for _ in 0..rounds {
            in_turn.time(|| (0..count).try_for_each(|i| cameras.run(pipeline, i..i + 1).map(|_| ())))?;
            batch.time(|| cameras.run(pipeline, 0..count))?;
        }
        let rate = |t: &Timing| count as f64 * 1e3 / t.wall_ms.mean;
        rows.extend(in_turn.timing().zip(batch.timing()).map(|(in_turn, batch)| Together {
            cameras: count,
            in_turn_frames_a_second: rate(&in_turn),
            batch_frames_a_second: rate(&batch),
            in_turn,
            batch,
        }));
    }
    Ok(rows)
}

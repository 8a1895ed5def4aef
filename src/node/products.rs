//! What becomes of a frame behind the network: its outputs are made and published, as long as the node is open, and it is counted.

use super::arrival::{camera_info, Frame, Header};
use super::loader::Ready;
use super::lock;
use super::publishers::{is_heard, Native, Publishers};
use super::settings::ClassSets;
use super::stats::{CalibrationState, FrameTimes, Stats, Throttle};
#[cfg(has_vision_msgs)]
use crate::data::classes::Class;
use crate::export::Manifest;
use crate::frame::amend::{confidence_bytes, set_far, IgnoreMask};
use crate::frame::camera::{Calibration, CameraError, FactorSource, Rays};
use crate::frame::clock::nanoseconds;
use crate::frame::cloud::{Cloud, CloudBuilder, CloudSettings};
use crate::frame::geometry::Geometry;
use crate::frame::pipeline::{Job, Outputs, Wanted};
use crate::frame::png::{depth_mm, PngEncoder, PngError, COMPRESSED_DEPTH_HEADER};
use crate::frame::view::ImageView;
use crate::interface::classes;
use crate::interface::settings::{ConfidenceEncoding, DepthEncoding};
use crate::interface::CameraSettings;
use crate::model::Task;
use r2r::semantic_depth::msg::FrameTiming;
use r2r::sensor_msgs::msg::{CompressedImage, Image};
use r2r::Clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes as _;

/// Whether frames are answered: asked before each output, and told by the spinning thread.
#[derive(Debug, Default)]
pub struct Gate {
    /// `~/enable`.
    enabled: Arc<AtomicBool>,
    /// The managed node is active.
    active: AtomicBool,
    /// An output is on its way to the middleware.
    publishing: AtomicBool,
}

impl Gate {
    /// Of a node that is not active, with what `~/enable` sets.
    pub fn new(enabled: Arc<AtomicBool>) -> Self {
        Self { enabled, ..Self::default() }
    }

    /// Whether the managed node is active.
    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::SeqCst);
    }

    /// Whether an output is on its way to the middleware.
    pub fn is_in_use(&self) -> bool {
        self.publishing.load(Ordering::SeqCst)
    }

    /// Whether frames are to be answered. Sequentially consistent, together with `publishing`: either who says no sees
    /// that an output is being sent, or the look before that output sees the no.
    pub fn is_open(&self) -> bool {
        self.active.load(Ordering::SeqCst) && self.enabled.load(Ordering::SeqCst)
    }

    /// Sends one output if frames are to be answered still. Each on its own: what is made between two of them may take
    /// far longer than who closes the node waits.
    ///
    /// # Errors
    /// They are not.
    pub fn send<T>(&self, output: impl FnOnce() -> T) -> Result<T, Closed> {
        self.publishing.store(true, Ordering::SeqCst);
        let sent = if self.is_open() { Ok(output()) } else { Err(Closed) };
        self.publishing.store(false, Ordering::SeqCst);
        sent
    }
}

/// The node was disabled or deactivated while a frame was answered: nothing more of it is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

/// Which outputs somebody hears, no parameter switches off and the model can give.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand {
    labels: bool,
    labels_compressed: bool,
    depth: bool,
    depth_compressed: bool,
    depth_compressed_depth: bool,
    /// The probability of the label.
    pub confidence: bool,
    overlay: bool,
    labels_color: bool,
    mask: bool,
    /// The point cloud.
    pub points: bool,
    /// The calibration at the outputs' size.
    pub camera_info: bool,
}

impl Demand {
    fn of(p: &Publishers, s: &CameraSettings, manifest: &Manifest) -> Self {
        let o = &s.outputs;
        let (classes, depth) = (manifest.answers(Task::Segmentation), manifest.answers(Task::Depth));
        Self {
            labels: classes && o.labels && p.labels.is_heard(),
            labels_compressed: classes && o.labels_compressed && p.labels_compressed.is_heard(),
            depth: depth && o.depth && p.depth.is_heard(),
            depth_compressed: depth && o.depth_compressed && p.depth_compressed.is_heard(),
            depth_compressed_depth: depth && o.depth_compressed && p.depth_compressed_depth.is_heard(),
            confidence: classes && o.confidence && p.confidence.is_heard(),
            overlay: classes && o.overlay && p.overlay.is_heard(),
            labels_color: classes && o.labels_color && p.labels_color.is_heard(),
            mask: classes && o.mask && p.mask.is_heard(),
            // Without classes its points are unlabelled.
            points: depth && o.points && p.points.is_heard(),
            camera_info: o.camera_info && is_heard(&p.camera_info),
        }
    }

    /// What the network's answer is to be made into.
    pub fn wanted(&self, sets: &ClassSets) -> Wanted {
        let depth = self.depth || self.depth_compressed || self.depth_compressed_depth || self.points;
        Wanted {
            // Depth has to know them where it depends on the class.
            labels: self.labels || self.labels_compressed || self.points || (depth && sets.has_far()),
            depth,
            confidence: self.confidence || self.points,
            overlay: self.overlay,
            colors: self.labels_color,
            mask: self.mask,
            normals: false,
        }
    }
}

/// What rays were made for: calibration, whether the input is rectified, geometry.
type RaysKey = (Arc<Calibration>, bool, Geometry);

/// What is needed of one camera after the network.
pub struct Products {
    name: String,
    publishers: Publishers,
    stats: Arc<Stats>,
    rays: Option<(RaysKey, Result<Rays, String>)>,
    builder: CloudBuilder,
    cloud: Cloud,
    ignore: Option<IgnoreMask>,
    depth_mm: Vec<u16>,
    /// In bytes.
    confidence: Vec<u8>,
    encoder: PngEncoder,
    png: Vec<u8>,
    failures: Throttle,
    misfits: Throttle,
    fallbacks: Throttle,
    /// What became of the frame's outputs at the middleware.
    sending: Sending,
    /// What the labels mean has been published.
    #[cfg(has_vision_msgs)]
    is_announced: bool,
}

/// A frame between the network's input and its publication.
pub struct InFlight<'a> {
    /// As it came.
    pub frame: &'a Frame,
    /// Its stamp and frame.
    pub header: Header,
    /// What is made of it.
    pub demand: Demand,
    /// Its camera's.
    pub calibration: Option<Arc<Calibration>>,
    /// As they were when it was taken up.
    pub settings: &'a CameraSettings,
    /// What its classes are to the outputs.
    pub sets: &'a ClassSets,
    /// In the inbox.
    pub wait_ns: u64,
    /// Decompression and colour conversion.
    pub convert_ns: u64,
    /// Its camera's.
    pub products: &'a mut Products,
}

/// What the frames that went through the network together have in common.
pub struct Batch<'a> {
    /// How many.
    pub size: u32,
    /// What the model is.
    pub ready: &'a Ready,
    /// The node's.
    pub clock: &'a Mutex<Clock>,
    /// Whether they are to be published still.
    pub gate: &'a Gate,
}

impl InFlight<'_> {
    /// Counters of its camera.
    pub fn stats(&self) -> Arc<Stats> {
        self.products.stats.clone()
    }

    /// Counts it as one that could not be computed.
    pub fn fail(&self, why: &str) {
        self.products.stats.fail(why);
    }

    /// Makes and sends what is demanded; what is left when the node closes is not.
    ///
    /// # Errors
    /// It closed.
    pub fn publish(self, job: &mut Job<'_>, batch: &Batch<'_>) -> Result<(), Closed> {
        let gate = batch.gate;
        // The network takes its time: there may be nothing to make any more.
        if !gate.is_open() {
            return Err(Closed);
        }
        let Self { frame, header, demand, calibration, settings, sets, wait_ns, convert_ns, products } = self;
        products.sending = Sending::default();
        let receive_ns = nanoseconds(frame.receive);
        let mut times = FrameTimes { receive_ns, wait_ns, stages: job.times, ..FrameTimes::default() };
        times.stages.decode_ns += convert_ns;
        // Publishing is interleaved with what is made from labels and depth, so that a raw image does not wait for a
        // cloud or a PNG; its parts are added up.
        let mut publishing = Duration::ZERO;
        let mut timed = |work: &mut dyn FnMut() -> Result<(), Closed>| {
            let start = Instant::now();
            let sent = work();
            publishing += start.elapsed();
            sent
        };
        if job.wanted.depth && sets.has_far() {
            let start = Instant::now();
            set_far(&job.outputs.labels, &mut job.outputs.depth_m, &sets.far);
            times.stages.depth_ns += nanoseconds(start.elapsed());
        }
        if let Some(ignore) = &products.ignore {
            let start = Instant::now();
            ignore.apply(job.geometry, job.outputs, classes::NEITHER);
            times.stages.labels_ns += nanoseconds(start.elapsed());
        }
        // Once, for whichever output needs them first.
        let is_published_in_mm = demand.depth && settings.depth_encoding == DepthEncoding::Millimetres;
        if is_published_in_mm {
            let start = Instant::now();
            depth_mm(&job.outputs.depth_m, &mut products.depth_mm);
            times.stages.depth_ns += nanoseconds(start.elapsed());
        }
        if demand.confidence && settings.confidence_encoding == ConfidenceEncoding::Byte {
            let start = Instant::now();
            confidence_bytes(&job.outputs.confidence, &mut products.confidence);
            times.stages.confidence_ns += nanoseconds(start.elapsed());
        }
        timed(&mut || products.publish_images(&header, &demand, settings, job.outputs, gate))?;
        let output = job.geometry.output();
        if demand.camera_info {
            timed(&mut || products.publish_camera_info(&header, calibration.as_deref(), job.geometry, gate))?;
        }
        if demand.labels_compressed {
            let start = Instant::now();
            let Products { encoder, png, .. } = &mut *products;
            let encoded = encoder.grey8(&job.outputs.labels, output.0, output.1, settings.png_level, png);
            times.compress_ns += nanoseconds(start.elapsed());
            timed(&mut || products.publish_png(&encoded, 0, &header, |p| &mut p.labels_compressed, gate))?;
        }
        if demand.depth_compressed || demand.depth_compressed_depth {
            let start = Instant::now();
            let Products { encoder, png, depth_mm: mm, .. } = &mut *products;
            if !is_published_in_mm {
                depth_mm(&job.outputs.depth_m, mm);
            }
            let encoded = encoder.compressed_depth(mm, output.0, output.1, settings.png_level, png);
            times.compress_ns += nanoseconds(start.elapsed());
            if demand.depth_compressed_depth {
                timed(&mut || products.publish_png(&encoded, 0, &header, |p| &mut p.depth_compressed_depth, gate))?;
            }
            if demand.depth_compressed {
                // The same file without the transport's own header.
                let skip = COMPRESSED_DEPTH_HEADER.len();
                timed(&mut || products.publish_png(&encoded, skip, &header, |p| &mut p.depth_compressed, gate))?;
            }
        }
        if demand.points {
            let start = Instant::now();
            let made = products.make_points(&job.image, job.geometry, job.outputs, settings, sets);
            times.points_ns = nanoseconds(start.elapsed());
            if made {
                timed(&mut || products.publish_points(&header, gate))?;
            }
        }
        if let Some(why) = products.sending.failure() {
            // Computed, and nobody has it.
            products.stats.fail(why);
            return Ok(());
        }
        times.publish_ns = nanoseconds(publishing);
        times.total_ns = nanoseconds(frame.arrived.elapsed());
        products.conclude(header, &times, settings, batch);
        Ok(())
    }
}

impl Products {
    /// Of a camera by this name, with nothing made yet.
    pub fn new(name: String, publishers: Publishers, stats: Arc<Stats>, ignore: Option<IgnoreMask>) -> Self {
        Self {
            name,
            publishers,
            stats,
            rays: None,
            builder: CloudBuilder::new(),
            cloud: Cloud::default(),
            ignore,
            depth_mm: Vec::new(),
            confidence: Vec::new(),
            encoder: PngEncoder::new(),
            png: Vec::new(),
            failures: Throttle::default(),
            misfits: Throttle::default(),
            fallbacks: Throttle::default(),
            sending: Sending::default(),
            #[cfg(has_vision_msgs)]
            is_announced: false,
        }
    }

    /// Makes the picture of what is ignored fit.
    ///
    /// # Errors
    /// The images have another aspect.
    pub fn fit_ignore_mask(&mut self, geometry: &Geometry) -> Result<(), String> {
        self.ignore.as_mut().map_or(Ok(()), |ignore| ignore.fit(geometry))
    }

    /// For another thread, after this one.
    pub fn into_publishers(self) -> Publishers {
        self.publishers
    }

    /// Everything that followed from the model's manifest is made anew.
    pub fn forget_model(&mut self) {
        self.rays = None;
        *lock(&self.stats.calibration) = CalibrationState::default();
        #[cfg(has_vision_msgs)]
        {
            self.is_announced = false;
        }
    }

    /// Publishes what the labels mean, once for each model and switching on; who comes late gets it too.
    #[cfg(has_vision_msgs)]
    pub fn announce_classes(&mut self, is_wanted: bool, classes: &[Class], clock: &Mutex<Clock>) {
        use r2r::vision_msgs::msg::{LabelInfo, VisionClass};
        if self.is_announced == is_wanted {
            return;
        }
        self.is_announced = is_wanted;
        if !is_wanted {
            return;
        }
        let mut info = LabelInfo::default();
        if let Ok(now) = lock(clock).get_now() {
            info.header.stamp = Clock::to_builtin_time(&now);
        }
        let class = |c: &Class| VisionClass { class_id: c.id.into(), class_name: c.name.clone() };
        info.class_map = classes.iter().map(class).collect();
        let result = self.publishers.label_info.publish(&info);
        check(&mut self.failures, &mut Sending::default(), "label_info", result);
    }

    /// What of a frame is to be made now.
    pub fn demand(&self, settings: &CameraSettings, manifest: &Manifest) -> Demand {
        Demand::of(&self.publishers, settings, manifest)
    }

    /// Says to the diagnostics that nobody wants a point cloud.
    pub fn note_no_cloud(&self) {
        note_cloud(&self.stats, None);
    }

    /// A frame that came whole and cannot be computed.
    pub fn refuse(&mut self, why: &str) {
        self.stats.refuse(why);
        let (of, camera) = if self.name.is_empty() { ("", "") } else { (" of camera ", self.name.as_str()) };
        self.failures.warn(format_args!("an image{of}{camera} was refused: {why}"));
    }

    fn publish_images(
        &mut self,
        header: &Header,
        demand: &Demand,
        settings: &CameraSettings,
        o: &mut Outputs,
        gate: &Gate,
    ) -> Result<(), Closed> {
        let Self { publishers: p, depth_mm: mm, confidence: bytes, failures, sending, .. } = self;
        let size = (o.width, o.height);
        let mut send = |output: &str, image: &mut Native<Image>, encoding: &str, pixel: usize, data: &mut [u8]| {
            let result = gate.send(|| image.publish(header, encoding, size, size.0 * pixel, data));
            result.map(|result| check(failures, sending, output, result))
        };
        if demand.labels {
            send("labels", &mut p.labels, "mono8", 1, &mut o.labels)?;
        }
        if demand.depth {
            match settings.depth_encoding {
                DepthEncoding::Metres => send("depth", &mut p.depth, "32FC1", 4, o.depth_m.as_mut_bytes())?,
                DepthEncoding::Millimetres => send("depth", &mut p.depth, "16UC1", 2, mm.as_mut_bytes())?,
            }
        }
        if demand.confidence {
            match settings.confidence_encoding {
                ConfidenceEncoding::Share => {
                    send("confidence", &mut p.confidence, "32FC1", 4, o.confidence.as_mut_bytes())?;
                }
                ConfidenceEncoding::Byte => send("confidence", &mut p.confidence, "mono8", 1, bytes)?,
            }
        }
        if demand.overlay {
            send("overlay", &mut p.overlay, "rgb8", 3, &mut o.overlay)?;
        }
        if demand.labels_color {
            send("labels_color", &mut p.labels_color, "rgb8", 3, &mut o.colors)?;
        }
        if demand.mask {
            send("mask", &mut p.mask, "mono8", 1, &mut o.mask)?;
        }
        Ok(())
    }

    fn publish_png(
        &mut self,
        encoded: &Result<(), PngError>,
        skip: usize,
        header: &Header,
        topic: impl FnOnce(&mut Publishers) -> &mut Native<CompressedImage>,
        gate: &Gate,
    ) -> Result<(), Closed> {
        let Self { publishers, png, failures, sending, .. } = self;
        match encoded {
            Ok(()) => {
                let file = png.get_mut(skip..).unwrap_or_default();
                let result = gate.send(|| topic(publishers).publish(header, file))?;
                check(failures, sending, "a compressed image", result);
            }
            Err(e) => failures.warn(format_args!("an image could not be compressed: {e}")),
        }
        Ok(())
    }

    /// The cloud that [`Self::make_points`] filled.
    fn publish_points(&mut self, header: &Header, gate: &Gate) -> Result<(), Closed> {
        let Self { publishers, cloud, failures, sending, .. } = self;
        let result = gate.send(|| publishers.points.publish(header, cloud))?;
        check(failures, sending, "points", result);
        Ok(())
    }

    /// The calibration as it is at the outputs' size. That of images of another size is not published: nothing in the
    /// message would say that its K is wrong.
    ///
    /// # Errors
    /// The node closed.
    pub fn publish_camera_info(
        &mut self,
        header: &Header,
        calibration: Option<&Calibration>,
        geometry: &Geometry,
        gate: &Gate,
    ) -> Result<(), Closed> {
        let Some(calibration) = calibration else { return Ok(()) };
        if let Err(e) = calibration.check_size(geometry.source()) {
            self.misfits.warn(format_args!("camera_info is not published: {e}"));
            return Ok(());
        }
        let scaled = calibration.scaled(&geometry.output_from_source(), geometry.output());
        let message = camera_info(&scaled, header);
        let result = gate.send(|| self.publishers.camera_info.publish(&message))?;
        check(&mut self.failures, &mut self.sending, "camera_info", result);
        Ok(())
    }

    /// Says, when it changes, where the depth's scale comes from.
    pub fn note_calibration(
        &mut self,
        (factor, from): (f64, FactorSource),
        calibration: Option<&Calibration>,
        rectified: bool,
        source: (usize, usize),
    ) {
        let why = match (from, calibration) {
            (FactorSource::CameraInfo, _) => "camera_info".into(),
            (FactorSource::Fixed, _) => "depth_scaling".into(),
            (FactorSource::Fallback, None) => "depth_scaling_fallback: no camera_info has arrived".into(),
            (FactorSource::Fallback, Some(c)) => match c.check_size(source) {
                Err(e) => format!("depth_scaling_fallback: {e}"),
                Ok(()) => format!("depth_scaling_fallback: {}", no_focal_length(c, rectified)),
            },
        };
        let degraded = from == FactorSource::Fallback;
        let is_new = {
            let state = lock(&self.stats.calibration);
            state.why != why || state.factor != factor
        };
        if is_new {
            // Not while others wait for the state: a console may be slow.
            if degraded {
                let camera = &self.name;
                let colon = if camera.is_empty() { "" } else { ": " };
                // Images of two sizes in turn would change it with every frame.
                self.fallbacks.warn(format_args!("{camera}{colon}depth is multiplied by {factor}, by {why}"));
            }
            *lock(&self.stats.calibration) = CalibrationState { why, factor, degraded };
        }
    }

    /// Whether there can be a cloud: its rays are made where those at hand are another's. Why there can be none is logged,
    /// and kept for the diagnostics.
    pub fn find_rays(&mut self, calibration: Option<&Arc<Calibration>>, rectified: bool, geometry: &Geometry) -> bool {
        let Self { rays, misfits, stats, .. } = self;
        let mut none = |why: &str| {
            misfits.warn(format_args!("no points: {why}"));
            note_cloud(stats, Some(Err(why)));
            false
        };
        let Some(calibration) = calibration else { return none("no camera_info has arrived") };
        let fits = |((c, r, g), _): &(RaysKey, _)| c.is_same(calibration) && *r == rectified && g == geometry;
        if !rays.as_ref().is_some_and(fits) {
            let made = Rays::new(calibration, rectified, geometry).map_err(|e| e.to_string());
            *rays = Some(((calibration.clone(), rectified, geometry.clone()), made));
        }
        match rays {
            Some((_, Err(why))) => none(why),
            found => found.is_some(),
        }
    }

    /// Fills the cloud, with the rays that [`Self::find_rays`] found.
    fn make_points(
        &mut self,
        image: &ImageView<'_>,
        geometry: &Geometry,
        outputs: &Outputs,
        settings: &CameraSettings,
        sets: &ClassSets,
    ) -> bool {
        let Some((_, Ok(rays))) = &self.rays else { return false };
        let cloud = CloudSettings {
            stride: settings.points.stride,
            min_range_m: settings.points.min_range_m,
            voxel_size_m: settings.points.voxel_size_m,
            max_range_m: settings.points.max_range_m,
            classes: sets.points,
        };
        match self.builder.build(outputs, image, geometry, rays, &cloud, &mut self.cloud) {
            Ok(()) => {
                note_cloud(&self.stats, Some(Ok(())));
                true
            }
            Err(e) => {
                self.misfits.warn(format_args!("no points: {e}"));
                note_cloud(&self.stats, Some(Err(&e.to_string())));
                false
            }
        }
    }

    /// Counts a frame as answered, and tells its times: to the diagnostics, and on `output/timing` where that is wanted.
    fn conclude(&mut self, header: Header, times: &FrameTimes, settings: &CameraSettings, batch: &Batch<'_>) {
        let now_ns = lock(batch.clock).get_now().map_or(0, |d| d.as_nanos() as i64);
        let age_ns = now_ns - header.stamp_ns();
        let stats = &self.stats;
        let sequence = Stats::count(&stats.answered);
        // What becomes of images is counted after their arrival: read in the other order, never more has become of them.
        let [dropped, refused, skipped] = [&stats.dropped, &stats.refused, &stats.skipped].map(Stats::read);
        {
            let (now, mut measures) = (Instant::now(), lock(&stats.measures));
            measures.add(now, times, (header.stamp_ns() != 0).then_some(age_ns));
            measures.batch.add(now, batch.size.into());
        }
        if !settings.outputs.timing || !is_heard(&self.publishers.timing) {
            return;
        }
        let s = &times.stages;
        let mut message = FrameTiming {
            camera: self.name.clone(),
            sequence,
            received: Stats::read(&stats.received),
            dropped,
            refused,
            skipped,
            batch_size: batch.size,
            receive_ns: times.receive_ns,
            wait_ns: times.wait_ns,
            decode_ns: s.decode_ns,
            infer_ns: s.infer_ns,
            labels_ns: s.labels_ns,
            depth_ns: s.depth_ns,
            confidence_ns: s.confidence_ns,
            overlay_ns: s.overlay_ns,
            mask_ns: s.mask_ns,
            points_ns: times.points_ns,
            compress_ns: times.compress_ns,
            publish_ns: times.publish_ns,
            total_ns: times.total_ns,
            age_ns,
            backend: batch.ready.backend.clone(),
            device: batch.ready.device.clone(),
            ..FrameTiming::default()
        };
        message.header.stamp.sec = header.sec;
        message.header.stamp.nanosec = header.nanosec;
        message.header.frame_id = header.frame_id;
        // A frame whose outputs are all sent is answered, even if this is not sent.
        if let Ok(result) = batch.gate.send(|| self.publishers.timing.publish(&message)) {
            check(&mut self.failures, &mut self.sending, "timing", result);
        }
    }
}

/// What became of one frame's outputs at the middleware.
#[derive(Debug, Default)]
struct Sending {
    /// It took one of them.
    is_sent: bool,
    /// Why it did not take the last one that it did not.
    refusal: Option<String>,
}

impl Sending {
    /// Why none of them went out, if so.
    fn failure(&self) -> Option<&str> {
        self.refusal.as_deref().filter(|_| !self.is_sent)
    }
}

/// Keeps whether an output could be published, and logs that it could not.
fn check(failures: &mut Throttle, sending: &mut Sending, output: &str, result: r2r::Result<()>) {
    match result {
        Ok(()) => sending.is_sent = true,
        Err(e) => {
            let why = format!("{output} could not be published: {e}");
            failures.warn(format_args!("{why}"));
            sending.refusal = Some(why);
        }
    }
}

/// Says to the diagnostics whether there is a point cloud; most often it is what was said before.
fn note_cloud(stats: &Stats, state: Option<Result<(), &str>>) {
    let mut known = lock(&stats.cloud);
    let before = known.as_ref().map(|state| state.as_ref().copied().map_err(String::as_str));
    if before != state {
        *known = state.map(|state| state.map_err(String::from));
    }
}

/// Why a calibration has no focal length that depth could be scaled by: in K, or in P for a rectified input.
fn no_focal_length(c: &Calibration, rectified: bool) -> CameraError {
    let (matrix, fx, fy) = if rectified { ("P", c.p[0], c.p[5]) } else { ("K", c.k[0], c.k[4]) };
    if ![fx, fy].iter().all(|f| f.is_finite() && *f > 0.0) {
        CameraError::Uncalibrated { matrix, fx, fy }
    } else if c.focal_px(rectified).is_none() {
        // Then it is the principal point.
        CameraError::NotFinite { field: matrix }
    } else {
        CameraError::Implausible { matrix, fx, fy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::{ParameterSet, Value};

    #[test]
    fn depth_that_depends_on_the_class_needs_the_labels() {
        let depth = Demand { depth_compressed: true, ..Demand::default() };
        let (mut sets, table) = (ClassSets::default(), crate::data::classes::cityscapes());
        let mut wanted = |classes: &[&str]| {
            let names = Value::Strings(classes.iter().map(|name| name.to_string()).collect());
            let set = ParameterSet::new([("depth_far_classes".to_string(), names)]).expect("valid");
            sets.follow(&set.camera(0), &table);
            let wanted = depth.wanted(&sets);
            assert!(wanted.depth && !Demand { mask: true, ..Demand::default() }.wanted(&sets).labels);
            wanted.labels
        };
        assert_eq!([&[][..], &["sky"], &[]].map(&mut wanted), [false, true, false]);
        assert!(sets.far.iter().all(|far| !far));
    }

    #[test]
    fn an_output_is_sent_only_while_frames_are_to_be_answered() {
        let gate = Gate::default();
        let is_publishing = || gate.publishing.load(Ordering::SeqCst);
        assert_eq!(gate.send(is_publishing), Err(Closed), "neither active nor enabled");
        gate.active.store(true, Ordering::SeqCst);
        gate.enabled.store(true, Ordering::SeqCst);
        assert_eq!(gate.send(is_publishing), Ok(true), "who closes the node sees it");
        assert!(!is_publishing(), "and does not wait for what is made next");
        for flag in [&gate.active, &*gate.enabled] {
            flag.store(false, Ordering::SeqCst);
            let mut is_sent = false;
            assert_eq!(gate.send(|| is_sent = true), Err(Closed));
            assert!(!is_sent && !is_publishing());
            flag.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_frame_of_which_nothing_went_out_is_told_from_one_that_lacks_an_output() {
        let (mut failures, mut sending) = (Throttle::default(), Sending::default());
        assert_eq!(sending.failure(), None, "nothing was to be sent");
        check(&mut failures, &mut sending, "labels", Err(r2r::Error::RCL_RET_ERROR));
        assert!(sending.failure().is_some_and(|why| why.starts_with("labels could not be published: ")));
        check(&mut failures, &mut sending, "depth", Ok(()));
        assert_eq!(sending.failure(), None);
    }

    #[test]
    fn the_matrix_without_a_focal_length_is_named() {
        let mut c = Calibration { k: [100.0; 9], ..Calibration::default() };
        let said = |c: &Calibration, rectified| no_focal_length(c, rectified).to_string();
        assert!(said(&c, true).contains("the focal lengths in P are 0 and 0"), "{}", said(&c, true));
        (c.p[0], c.p[6]) = (80.0, 240.0);
        assert!(said(&c, true).contains("the focal lengths in P are 80 and 0"), "{}", said(&c, true));
        c.k[4] = 0.0;
        assert!(said(&c, false).contains("the focal lengths in K are 100 and 0"), "{}", said(&c, false));
        c.k[4] = 100.0;
        c.k[2] = f64::NAN;
        assert!(said(&c, false).contains("K holds a number that is not finite"), "{}", said(&c, false));
        c.k[2] = 100.0;
        c.k[0] = 0.004;
        assert!(said(&c, false).contains("in K are 0.004 and 100: depth would be"), "{}", said(&c, false));
    }
}

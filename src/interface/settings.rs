//! The parameters' values, typed, as the parts of the node take them.

use super::parameters::index;
use super::set::ParameterSet;
use super::value::Value;
use crate::frame::camera::DepthScaling;
use crate::frame::geometry::{Placement, Rect, ResizeMode};
use crate::frame::network::{BackendChoice, DeviceChoice, Precision};
use std::time::Duration;

/// What belongs to the node as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSettings {
    /// Empty for the installed model.
    pub model_path: String,
    /// Where the network runs.
    pub device: DeviceChoice,
    /// Number format of the network.
    pub precision: Precision,
    /// What runs the network.
    pub backend: BackendChoice,
    /// Whether something else may where that does not do.
    pub fallback: bool,
    /// Load the model, say so and end.
    pub build_only: bool,
    /// 0 for one per core.
    pub num_threads: i32,
    /// Configure and activate at the start.
    pub autostart: bool,
    /// Names of the cameras; empty for the one unnamed camera.
    pub cameras: Vec<String>,
    /// 0: all cameras on CUDA, 1 on the processor. See [`NodeSettings::batch_limit`].
    pub max_batch_size: usize,
    /// How long a frame waits for others.
    pub batch_timeout: Duration,
    /// What is logged.
    pub log_level: log::LevelFilter,
    /// Time between two reports of `/diagnostics`.
    pub diagnostics_period: Duration,
    /// What rates, ratios and percentiles are taken over.
    pub diagnostics_window: Duration,
    /// Time without an image after which a camera is STALE.
    pub stale_after: Duration,
    /// Failure of the network for this long ends the node; `None`: never.
    pub exit_after_failure: Option<Duration>,
    /// Time from `/clock`.
    pub use_sim_time: bool,
}

impl NodeSettings {
    /// Most frames that go through the network together.
    pub fn batch_limit(&self, on_cuda: bool) -> usize {
        let cameras = self.cameras.len().max(1);
        match self.max_batch_size {
            0 if on_cuda => cameras,
            0 => 1,
            // One camera never has two frames in a batch.
            n => n.min(cameras),
        }
    }
}

/// What kind of messages the images come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageTransport {
    /// sensor_msgs/Image.
    Raw,
    /// sensor_msgs/CompressedImage.
    Compressed,
}

/// What depth images are published as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DepthEncoding {
    /// `32FC1`: metres, NaN invalid.
    Metres,
    /// `16UC1`: millimetres, 0 invalid.
    Millimetres,
}

/// What the confidence is published as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfidenceEncoding {
    /// `32FC1`: 0 to 1, NaN invalid.
    Share,
    /// `mono8`: 0 to 255, 0 also invalid.
    Byte,
}

/// Which outputs are switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputSwitches {
    /// `output/labels`
    pub labels: bool,
    /// `output/depth`
    pub depth: bool,
    /// `output/camera_info`
    pub camera_info: bool,
    /// `output/label_info`
    pub label_info: bool,
    /// `output/confidence`
    pub confidence: bool,
    /// `output/overlay`
    pub overlay: bool,
    /// `output/labels_color`
    pub labels_color: bool,
    /// `output/points`
    pub points: bool,
    /// `output/mask`
    pub mask: bool,
    /// `output/labels/compressed`
    pub labels_compressed: bool,
    /// `output/depth/compressed` and `output/depth/compressedDepth`
    pub depth_compressed: bool,
    /// `output/timing`
    pub timing: bool,
}

/// The point cloud.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSettings {
    /// Every n-th pixel of every n-th row.
    pub stride: usize,
    /// Metres; 0: no thinning.
    pub voxel_size_m: f32,
    /// Metres from the camera.
    pub min_range_m: f32,
    /// Metres from the camera.
    pub max_range_m: f32,
    /// Names or ids; empty: all. See [`super::classes`].
    pub classes: Vec<String>,
}

/// The obstacle / free-space mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskSettings {
    /// Names or ids. See [`super::classes`].
    pub free_classes: Vec<String>,
    /// Names or ids. See [`super::classes`].
    pub obstacle_classes: Vec<String>,
}

/// What belongs to one camera: `CAMERA.NAME` where it was given, else `NAME`.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraSettings {
    /// Empty for the one unnamed camera.
    pub name: String,
    /// Kind of messages.
    pub image_transport: ImageTransport,
    /// Reliable subscriptions instead of best effort.
    pub reliable_input: bool,
    /// The calibration's P holds, not K and D.
    pub input_rectified: bool,
    /// Path of the picture of what is to be ignored; empty: none.
    pub ignore_mask: String,
    /// Least time between two images; `None`: no limit.
    pub min_period: Option<Duration>,
    /// From the image to the network and to the outputs.
    pub placement: Placement,
    /// What depth is multiplied with.
    pub depth_scaling: DepthScaling,
    /// While there is no valid calibration.
    pub depth_scaling_fallback: f64,
    /// What depth is published as.
    pub depth_encoding: DepthEncoding,
    /// Classes whose depth is infinite. Names or ids. See [`super::classes`].
    pub depth_far_classes: Vec<String>,
    /// What the confidence is published as.
    pub confidence_encoding: ConfidenceEncoding,
    /// Which outputs are switched on.
    pub outputs: OutputSwitches,
    /// Share of the class colour, 0 to 1.
    pub overlay_opacity: f32,
    /// The point cloud.
    pub points: PointSettings,
    /// The mask.
    pub mask: MaskSettings,
    /// 1 (fast) to 9 (small).
    pub png_level: u8,
}

/// A warning and an error level; `None` is off.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limit<T> {
    /// From here on WARN.
    pub warn: Option<T>,
    /// From here on ERROR.
    pub error: Option<T>,
}

/// What diagnostics compare with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Thresholds {
    /// Median age at publication.
    pub age: Limit<Duration>,
    /// p95 of decoding.
    pub decode: Limit<Duration>,
    /// p95 of the network.
    pub infer: Limit<Duration>,
    /// p95 of everything between network and publishing.
    pub postprocess: Limit<Duration>,
    /// p95 of publishing.
    pub publish: Limit<Duration>,
    /// p95 of arrival to publication.
    pub total: Limit<Duration>,
    /// Rate of images, Hz; worse is lower.
    pub rate_hz: Limit<f64>,
    /// Rate of answered images, Hz; worse is lower.
    pub output_hz: Limit<f64>,
    /// Share of dropped images, 0 to 1.
    pub drop_ratio: Limit<f64>,
    /// Temperature of the GPU, degrees Celsius.
    pub gpu_temperature_c: Limit<f64>,
}

/// How bad a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Within the limits.
    Ok,
    /// Beyond the warning level.
    Warn,
    /// Beyond the error level.
    Error,
}

impl<T: PartialOrd + Copy> Limit<T> {
    /// Of a value that is worse when it is higher.
    pub fn above(&self, value: T) -> Severity {
        self.judge(|limit| value > limit)
    }

    /// Of a value that is worse when it is lower.
    pub fn below(&self, value: T) -> Severity {
        self.judge(|limit| value < limit)
    }

    fn judge(&self, beyond: impl Fn(T) -> bool) -> Severity {
        match (self.warn.is_some_and(&beyond), self.error.is_some_and(&beyond)) {
            (_, true) => Severity::Error,
            (true, false) => Severity::Warn,
            (false, false) => Severity::Ok,
        }
    }
}

/// Reads values whose types were checked when they were set: another type cannot come, and reads as zero.
struct Reader<F>(F);

impl<'a, F: Fn(&str) -> &'a Value> Reader<F> {
    fn flag(&self, name: &str) -> bool {
        matches!((self.0)(name), Value::Bool(true))
    }

    fn number(&self, name: &str) -> f64 {
        match (self.0)(name) {
            Value::Double(x) => *x,
            Value::Integer(n) => *n as f64,
            _ => 0.0,
        }
    }

    fn whole(&self, name: &str) -> usize {
        match (self.0)(name) {
            Value::Integer(n) => usize::try_from(*n).unwrap_or(0),
            _ => 0,
        }
    }

    fn text(&self, name: &str) -> &'a str {
        match (self.0)(name) {
            Value::String(s) => s,
            _ => "",
        }
    }

    fn texts(&self, name: &str) -> Vec<String> {
        match (self.0)(name) {
            Value::Strings(v) => v.clone(),
            _ => Vec::new(),
        }
    }
}

impl ParameterSet {
    /// What belongs to the node as a whole.
    pub fn node(&self) -> NodeSettings {
        let r = Reader(|name: &str| self.of_node(name));
        NodeSettings {
            model_path: r.text("model_path").into(),
            // Checked by the same parser.
            device: r.text("device").parse().unwrap_or_default(),
            precision: r.text("precision").parse().unwrap_or_default(),
            backend: r.text("backend").parse().unwrap_or_default(),
            fallback: r.flag("fallback"),
            build_only: r.flag("build_only"),
            num_threads: r.whole("num_threads") as i32,
            autostart: r.flag("autostart"),
            cameras: self.camera_names().to_vec(),
            max_batch_size: r.whole("max_batch_size"),
            batch_timeout: Duration::from_secs_f64(r.number("batch_timeout_ms") / 1e3),
            log_level: r.text("log_level").parse().unwrap_or(log::LevelFilter::Info),
            diagnostics_period: Duration::from_secs_f64(1.0 / r.number("diagnostics_rate_hz").max(0.1)),
            diagnostics_window: Duration::from_secs_f64(r.number("diagnostics_window_s")),
            stale_after: Duration::from_secs_f64(r.number("stale_after_s")),
            exit_after_failure: Some(r.number("exit_after_failure_s"))
                .filter(|s| *s > 0.0)
                .map(Duration::from_secs_f64),
            use_sim_time: r.flag("use_sim_time"),
        }
    }

    /// What belongs to each camera, in the order of `cameras`; one if there are no names.
    pub fn cameras(&self) -> Vec<CameraSettings> {
        (0..self.camera_count()).map(|i| self.camera(i)).collect()
    }

    /// What belongs to the camera of this index, below [`ParameterSet::camera_count`].
    pub fn camera(&self, camera: usize) -> CameraSettings {
        let r = Reader(|name: &str| index(name).map_or(&Value::NotSet, |i| self.of_camera(camera, i)));
        let roi = match (r.0)("roi") {
            Value::Integers(v) if v.len() == 4 => {
                let side = |i: usize| usize::try_from(v[i]).unwrap_or(0);
                Some(Rect { x: side(0), y: side(1), width: side(2), height: side(3) })
            }
            _ => None,
        };
        let mode = r.text("resize_mode").parse().unwrap_or_default();
        let max_rate_hz = r.number("max_rate_hz");
        let switch = |name: &str| r.flag(&format!("outputs.{name}"));
        CameraSettings {
            name: self.camera_names().get(camera).cloned().unwrap_or_default(),
            image_transport: match r.text("image_transport") {
                "compressed" => ImageTransport::Compressed,
                _ => ImageTransport::Raw,
            },
            reliable_input: r.text("input_reliability") == "reliable",
            input_rectified: r.flag("input_rectified"),
            ignore_mask: r.text("ignore_mask").into(),
            min_period: (max_rate_hz > 0.0).then(|| Duration::from_secs_f64(1.0 / max_rate_hz.max(1e-3))),
            placement: Placement {
                mode,
                roi: roi.filter(|_| mode == ResizeMode::Roi),
                output: r.text("output_size").parse().unwrap_or_default(),
            },
            depth_scaling: r.text("depth_scaling").parse().unwrap_or(DepthScaling::CameraInfo),
            depth_scaling_fallback: r.number("depth_scaling_fallback"),
            depth_encoding: match r.text("depth_encoding") {
                "16UC1" => DepthEncoding::Millimetres,
                _ => DepthEncoding::Metres,
            },
            depth_far_classes: r.texts("depth_far_classes"),
            confidence_encoding: match r.text("confidence_encoding") {
                "mono8" => ConfidenceEncoding::Byte,
                _ => ConfidenceEncoding::Share,
            },
            outputs: OutputSwitches {
                labels: switch("labels"),
                depth: switch("depth"),
                camera_info: switch("camera_info"),
                label_info: switch("label_info"),
                confidence: switch("confidence"),
                overlay: switch("overlay"),
                labels_color: switch("labels_color"),
                points: switch("points"),
                mask: switch("mask"),
                labels_compressed: switch("labels_compressed"),
                depth_compressed: switch("depth_compressed"),
                timing: switch("timing"),
            },
            overlay_opacity: r.number("overlay_opacity") as f32,
            points: PointSettings {
                stride: r.whole("points.stride").max(1),
                voxel_size_m: r.number("points.voxel_size_m") as f32,
                min_range_m: r.number("points.min_range_m") as f32,
                max_range_m: r.number("points.max_range_m") as f32,
                classes: r.texts("points.classes"),
            },
            mask: MaskSettings {
                free_classes: r.texts("mask.free_classes"),
                obstacle_classes: r.texts("mask.obstacle_classes"),
            },
            png_level: r.whole("png_level").clamp(1, 9) as u8,
        }
    }

    /// What diagnostics compare with.
    pub fn thresholds(&self) -> Thresholds {
        let r = Reader(|name: &str| self.of_node(name));
        let value = |name: &str, off: f64| Some(r.number(&format!("thresholds.{name}"))).filter(|x| *x != off);
        let stage = |name: &str| {
            let ms = |level: &str| value(&format!("{name}_{level}_ms"), 0.0).map(|x| Duration::from_secs_f64(x / 1e3));
            Limit { warn: ms("warn"), error: ms("error") }
        };
        let pair = |warn: &str, error: &str, off: f64| Limit { warn: value(warn, off), error: value(error, off) };
        Thresholds {
            age: stage("age"),
            decode: stage("decode"),
            infer: stage("infer"),
            postprocess: stage("postprocess"),
            publish: stage("publish"),
            total: stage("total"),
            rate_hz: pair("rate_warn_hz", "rate_error_hz", 0.0),
            output_hz: pair("output_rate_warn_hz", "output_rate_error_hz", 0.0),
            drop_ratio: pair("drop_ratio_warn", "drop_ratio_error", 1.0),
            gpu_temperature_c: pair("gpu_temperature_warn_c", "gpu_temperature_error_c", 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(given: &[(&str, Value)]) -> ParameterSet {
        ParameterSet::new(given.iter().map(|(name, value)| (name.to_string(), value.clone()))).expect("valid")
    }

    #[test]
    fn numbers_reach_their_places_in_their_units() {
        use Value::{Double, Integer};
        let set = set(&[
            ("num_threads", Integer(3)),
            ("max_batch_size", Integer(5)),
            ("batch_timeout_ms", Double(250.0)),
            ("diagnostics_rate_hz", Double(2.0)),
            ("diagnostics_window_s", Double(20.0)),
            ("stale_after_s", Double(7.0)),
            ("exit_after_failure_s", Double(9.0)),
            ("max_rate_hz", Double(4.0)),
            ("depth_scaling_fallback", Double(0.75)),
            ("overlay_opacity", Double(0.25)),
            ("points.stride", Integer(6)),
            ("points.voxel_size_m", Double(0.125)),
            ("points.min_range_m", Double(1.5)),
            ("points.max_range_m", Double(30.0)),
            ("png_level", Integer(8)),
        ]);
        let (node, ms) = (set.node(), Duration::from_millis);
        assert_eq!((node.num_threads, node.max_batch_size), (3, 5));
        let times = [node.batch_timeout, node.diagnostics_period, node.diagnostics_window, node.stale_after];
        assert_eq!(times, [250, 500, 20_000, 7_000].map(ms));
        assert_eq!(node.exit_after_failure, Some(ms(9000)));
        assert_eq!(ParameterSet::default().node().exit_after_failure, None, "0: never");
        let camera = set.camera(0);
        assert_eq!((camera.min_period, camera.png_level), (Some(ms(250)), 8));
        assert_eq!((camera.depth_scaling_fallback, camera.overlay_opacity), (0.75, 0.25));
        let points = camera.points;
        assert_eq!((points.stride, points.voxel_size_m), (6, 0.125));
        assert_eq!((points.min_range_m, points.max_range_m), (1.5, 30.0));
        assert_eq!(ParameterSet::default().camera(0).min_period, None, "0: no limit");
    }

    #[test]
    fn words_and_switches_reach_their_places() {
        let word = |s: &str| Value::String(s.into());
        let given = set(&[
            ("device", word("cuda:1")),
            ("precision", word("bf16")),
            ("log_level", word("debug")),
            ("image_transport", word("compressed")),
            ("input_reliability", word("reliable")),
            ("depth_encoding", word("16UC1")),
            ("depth_scaling", word("none")),
            ("confidence_encoding", word("mono8")),
            ("ignore_mask", word("/vehicle.png")),
            ("depth_far_classes", Value::Strings(vec!["sky".into()])),
        ]);
        let (node, camera) = (given.node(), given.camera(0));
        assert_eq!((node.device, node.precision), (DeviceChoice::Cuda(1), Precision::Bf16));
        assert_eq!(node.log_level, log::LevelFilter::Debug);
        assert_eq!(camera.image_transport, ImageTransport::Compressed);
        assert_eq!((camera.depth_encoding, camera.depth_scaling), (DepthEncoding::Millimetres, DepthScaling::None));
        assert_eq!(camera.confidence_encoding, ConfidenceEncoding::Byte);
        assert_eq!((camera.ignore_mask.as_str(), camera.depth_far_classes), ("/vehicle.png", vec!["sky".to_string()]));
        assert!(camera.reliable_input && !ParameterSet::default().camera(0).reliable_input);
        // Each switch alone: no two of them are taken for each other.
        type Switch = fn(&ParameterSet) -> bool;
        let switches: [(&str, Switch); 6] = [
            ("fallback", |set| set.node().fallback),
            ("build_only", |set| set.node().build_only),
            ("autostart", |set| set.node().autostart),
            ("use_sim_time", |set| set.node().use_sim_time),
            ("input_rectified", |set| set.camera(0).input_rectified),
            ("outputs.mask", |set| set.camera(0).outputs.mask),
        ];
        for (name, _) in switches {
            let only = set(&switches.map(|(other, _)| (other, Value::Bool(other == name))));
            let found = switches.map(|(other, is_on)| (other, is_on(&only)));
            assert_eq!(found, switches.map(|(other, _)| (other, other == name)));
        }
    }

    #[test]
    fn a_batch_is_of_as_many_cameras_as_there_are_at_most() {
        let limit = |most, cameras: &[&str], on_cuda| {
            let cameras = cameras.iter().map(|name| name.to_string()).collect();
            set(&[("max_batch_size", Value::Integer(most)), ("cameras", Value::Strings(cameras))])
                .node()
                .batch_limit(on_cuda)
        };
        let three = ["front", "left", "rear"];
        assert_eq!((limit(0, &[], true), limit(0, &[], false), limit(4, &[], false)), (1, 1, 1));
        assert_eq!((limit(0, &three, true), limit(0, &three, false)), (3, 1));
        assert_eq!((limit(2, &three, true), limit(2, &three, false), limit(4, &three, false)), (2, 2, 3));
    }

    #[test]
    fn each_limit_is_its_own_and_can_be_off() {
        let of_stages = ["age", "decode", "infer", "postprocess", "publish", "total"];
        let mut given: Vec<(String, Value)> = Vec::new();
        for (warn, stage) in (1..).step_by(2).zip(of_stages) {
            given.push((format!("thresholds.{stage}_warn_ms"), Value::Double(f64::from(warn))));
            given.push((format!("thresholds.{stage}_error_ms"), Value::Double(f64::from(warn + 1))));
        }
        let others = [
            ("rate_warn_hz", 20.0),
            ("rate_error_hz", 10.0),
            ("output_rate_warn_hz", 9.0),
            ("output_rate_error_hz", 8.0),
            ("drop_ratio_warn", 0.0),
            ("drop_ratio_error", 0.5),
            ("gpu_temperature_warn_c", 70.0),
            ("gpu_temperature_error_c", 0.0),
        ];
        given.extend(others.map(|(name, value)| (format!("thresholds.{name}"), Value::Double(value))));
        let found = ParameterSet::new(given).expect("valid").thresholds();
        let limits = [found.age, found.decode, found.infer, found.postprocess, found.publish, found.total];
        let ms = |x| Some(Duration::from_millis(x));
        let expected = [1, 3, 5, 7, 9, 11].map(|warn| Limit { warn: ms(warn), error: ms(warn + 1) });
        assert_eq!(limits, expected);
        assert_eq!(found.rate_hz, Limit { warn: Some(20.0), error: Some(10.0) });
        assert_eq!(found.output_hz, Limit { warn: Some(9.0), error: Some(8.0) });
        assert_eq!(found.drop_ratio, Limit { warn: Some(0.0), error: Some(0.5) }, "where 1 is off, 0 is a limit");
        assert_eq!(found.gpu_temperature_c, Limit { warn: Some(70.0), error: None });
        assert_eq!(ParameterSet::default().thresholds().drop_ratio, Limit { warn: None, error: None });
        // What is as much as the limit is not beyond it.
        let limit = Limit { warn: Some(20.0), error: Some(10.0) };
        let severities = [20.0, 19.0, 10.0, 9.0].map(|hz| limit.below(hz));
        assert_eq!(severities, [Severity::Ok, Severity::Warn, Severity::Warn, Severity::Error]);
        let limit = Limit { warn: Some(10.0), error: Some(20.0) };
        let severities = [10.0, 11.0, 20.0, 21.0].map(|value| limit.above(value));
        assert_eq!(severities, [Severity::Ok, Severity::Warn, Severity::Warn, Severity::Error]);
    }
}

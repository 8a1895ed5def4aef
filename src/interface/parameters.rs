//! The table of parameters: name, type, default, range, unit and meaning are written here and nowhere else.

use super::value::{Kind, Value};
use crate::frame::camera::DepthScaling;
use crate::frame::geometry::OutputSize;
use crate::frame::network::DeviceChoice;

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Full name; a dot separates a group from its members.
    pub name: &'static str,
    /// Value where nothing else is said; its type is the parameter's.
    pub default: Preset,
    /// Which values are valid.
    pub rule: Rule,
    /// Unit, or empty.
    pub unit: &'static str,
    /// What it does, one sentence or two without a full stop.
    pub meaning: &'static str,
    /// Whether it may change while the node runs.
    pub at_run_time: bool,
    /// Whether `CAMERA.NAME` sets it for one camera.
    pub per_camera: bool,
}

/// A value that can stand in a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preset {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Double(f64),
    /// Text.
    Text(&'static str),
    /// Text that may be written as a number.
    TextOrNumber(&'static str),
    /// Whole numbers.
    Integers(&'static [i64]),
    /// Texts; whole numbers are taken as texts.
    Texts(&'static [&'static str]),
}

/// Which values of the right type are valid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// All.
    Any,
    /// From the first to the second, both included.
    Between(f64, f64),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// What can be parsed as this.
    Syntax(Syntax),
}

/// A value with a form of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `auto`, `cpu`, `cuda`, `cuda:N`.
    Device,
    /// `source`, `network`, `WIDTHxHEIGHT`.
    OutputSize,
    /// `camera_info`, `none`, or a decimal number from 0.001 to 1000.
    DepthScaling,
    /// x, y, width, height.
    Roi,
    /// Names for cameras.
    Cameras,
    /// Names of classes, or their ids.
    Classes,
}

/// Most cameras of one node.
pub const MAX_CAMERAS: usize = 32;
/// Most classes in a list: as many as there are ids.
pub const MAX_CLASSES: usize = 256;
/// Longest name of a camera.
pub const MAX_CAMERA_NAME: usize = 64;

impl Preset {
    /// The parameter's type.
    pub const fn kind(self) -> Kind {
        match self {
            Preset::Bool(_) => Kind::Bool,
            Preset::Integer(_) => Kind::Integer,
            Preset::Double(_) => Kind::Double,
            Preset::Text(_) | Preset::TextOrNumber(_) => Kind::String,
            Preset::Integers(_) => Kind::Integers,
            Preset::Texts(_) => Kind::Strings,
        }
    }

    /// As a value.
    pub fn value(self) -> Value {
        match self {
            Preset::Bool(x) => Value::Bool(x),
            Preset::Integer(x) => Value::Integer(x),
            Preset::Double(x) => Value::Double(x),
            Preset::Text(x) | Preset::TextOrNumber(x) => Value::String(x.into()),
            Preset::Integers(x) => Value::Integers(x.to_vec()),
            Preset::Texts(x) => Value::Strings(x.iter().map(|s| s.to_string()).collect()),
        }
    }
}

impl Spec {
    /// The value, with what means the same brought into the parameter's type.
    ///
    /// # Errors
    /// Expected and found, in words.
    pub fn accept(&self, value: Value) -> Result<Value, String> {
        let numbers_as_text = matches!(self.default, Preset::TextOrNumber(_) | Preset::Texts(_));
        if let (Rule::Syntax(Syntax::Classes), Value::Integers(ids)) = (self.rule, &value) {
            if let Some(id) = ids.iter().find(|id| !(0..=255).contains(*id)) {
                return Err(format!("expected {}, 0 to 255, got {id}", Syntax::Classes.words()));
            }
        }
        let value = value.into_kind(self.default.kind(), numbers_as_text)?;
        self.rule.check(&value)?;
        Ok(value)
    }

    /// The group's name of `group.member`.
    pub fn group(&self) -> Option<&'static str> {
        self.name.split_once('.').map(|(group, _)| group)
    }
}

impl Rule {
    /// Which values are valid, in words; empty if all are.
    pub fn words(&self) -> String {
        match self {
            Rule::Any => String::new(),
            Rule::Between(low, high) => format!("{low} to {high}"),
            Rule::OneOf(choices) => match choices.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                _ => choices.concat(),
            },
            Rule::Syntax(syntax) => syntax.words().into(),
        }
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        let valid = match (self, value) {
            (Rule::Any, _) => true,
            (Rule::Between(low, high), Value::Double(x)) => (*low..=*high).contains(x),
            (Rule::Between(low, high), Value::Integer(x)) => (*low..=*high).contains(&(*x as f64)),
            (Rule::OneOf(choices), Value::String(s)) => choices.contains(&s.as_str()),
            (Rule::Syntax(syntax), value) => return syntax.check(value),
            _ => false,
        };
        valid.then_some(()).ok_or_else(|| format!("expected {}, got {value}", self.words()))
    }
}

impl Syntax {
    /// Which values are valid, in words.
    pub const fn words(self) -> &'static str {
        match self {
            Syntax::Device => "auto (the first CUDA device, else the processor), cpu, cuda or cuda:N",
            Syntax::OutputSize => "source, network, or WIDTHxHEIGHT in pixels up to 8192x8192",
            Syntax::DepthScaling => "camera_info, none, or a factor from 0.001 to 1000",
            Syntax::Roi => "four whole numbers of 0 or more: x, y, width, height",
            Syntax::Cameras => {
                "up to 32 different names of up to 64 small letters, digits and single underscores, a letter first"
            }
            Syntax::Classes => "up to 256 names of the model's classes, or their ids",
        }
    }

    /// A regular expression (ECMA 262) of the valid texts, or of the list's elements: exactly those that the node takes.
    pub fn pattern(self) -> String {
        // Up to crate::frame::geometry::MOST_PIXELS.
        let side = "([1-9][0-9]{0,2}|[1-7][0-9]{3}|80[0-9]{2}|81[0-8][0-9]|819[0-2])";
        match self {
            Syntax::Device => "^(auto|cpu|cuda|cuda:[0-9]{1,3})$".into(),
            Syntax::OutputSize => format!("^(source|network|{side}x{side})$"),
            Syntax::DepthScaling => {
                let number = "0[.]0{0,2}[1-9][0-9]*|[1-9][0-9]{0,2}([.][0-9]+)?|1000([.]0+)?";
                format!("^(camera_info|none|{number})$")
            }
            Syntax::Roi => String::new(),
            Syntax::Cameras => "^(?![a-z0-9_]*__)[a-z][a-z0-9_]{0,63}$".into(),
            // Not blank.
            Syntax::Classes => "[^ \\t\\r\\n]".into(),
        }
    }

    fn check(self, value: &Value) -> Result<(), String> {
        let failed = |found: &str| Err(format!("expected {}, got {found}", self.words()));
        match (self, value) {
            (Syntax::Device, Value::String(s)) if s.parse::<DeviceChoice>().is_ok() => Ok(()),
            (Syntax::OutputSize, Value::String(s)) if s.parse::<OutputSize>().is_ok() => Ok(()),
            (Syntax::DepthScaling, Value::String(s)) if is_depth_scaling(s) => Ok(()),
            (Syntax::Roi, Value::Integers(v)) if v.len() == 4 && v.iter().all(|n| (0..=65_535).contains(n)) => Ok(()),
            (Syntax::Cameras, Value::Strings(names)) => cameras(names),
            (Syntax::Classes, Value::Strings(names)) if names.len() > MAX_CLASSES => {
                Err(format!("expected up to {MAX_CLASSES} classes, got {}", names.len()))
            }
            (Syntax::Classes, Value::Strings(names)) => match names.iter().find(|n| is_blank(n)) {
                Some(n) => failed(&format!("{n:?}")),
                None => Ok(()),
            },
            (_, value) => failed(&value.to_string()),
        }
    }
}

/// Of numbers the plain decimal ones, which can be told in a regular expression.
fn is_depth_scaling(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let zeros = fraction.bytes().take_while(|b| *b == b'0').count();
    let in_range = match whole {
        "0" => zeros < 3 && zeros < fraction.len(),
        "1000" => zeros == fraction.len(),
        _ => whole.len() < 4 && !whole.starts_with('0'),
    };
    let is_number = digits(whole) && digits(fraction) && in_range;
    text.parse::<DepthScaling>().is_ok_and(|scaling| is_number || !matches!(scaling, DepthScaling::Factor(_)))
}

fn is_blank(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'))
}

/// First segments of names that a camera's name would collide with: groups and parameters (`NAME.x` would have two
/// meanings), and the topics of the one unnamed camera.
pub fn reserved() -> impl Iterator<Item = &'static str> {
    let first = |name: &'static str| name.split_once('.').map_or(name, |(group, _)| group);
    PARAMETERS.iter().map(move |s| first(s.name)).chain(["qos_overrides", "input", "output"])
}

/// Valid names for cameras, all different.
fn cameras(names: &[String]) -> Result<(), String> {
    if names.len() > MAX_CAMERAS {
        return Err(format!("expected up to {MAX_CAMERAS} cameras, got {}", names.len()));
    }
    for (i, name) in names.iter().enumerate() {
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let valid = name.len() <= MAX_CAMERA_NAME
            && name.bytes().all(letters)
            && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
            // ROS names have no two underscores in a row.
            && !name.contains("__");
        if !valid {
            let shown: String = name.chars().take(MAX_CAMERA_NAME).collect();
            return Err(format!("expected {}, got {shown:?}", Syntax::Cameras.words()));
        }
        if names[..i].contains(name) {
            return Err(format!("camera {name:?} is there twice; every camera has a name of its own"));
        }
        if reserved().any(|r| r == name) {
            return Err(format!("a camera cannot be called {name:?}: parameters or topics have that name"));
        }
    }
    Ok(())
}

/// The table of the parameter called `name` for all cameras, or for the node.
pub fn spec(name: &str) -> Option<&'static Spec> {
    index(name).map(|i| &PARAMETERS[i])
}

/// Where it is in [`PARAMETERS`].
pub(super) fn index(name: &str) -> Option<usize> {
    PARAMETERS.iter().position(|s| s.name == name)
}

const fn fixed(name: &'static str, default: Preset, rule: Rule, unit: &'static str, meaning: &'static str) -> Spec {
    Spec { name, default, rule, unit, meaning, at_run_time: false, per_camera: false }
}

const fn live(name: &'static str, default: Preset, rule: Rule, unit: &'static str, meaning: &'static str) -> Spec {
    Spec { at_run_time: true, ..fixed(name, default, rule, unit, meaning) }
}

const fn camera_fixed(name: &'static str, default: Preset, rule: Rule, meaning: &'static str) -> Spec {
    Spec { per_camera: true, ..fixed(name, default, rule, "", meaning) }
}

const fn camera(name: &'static str, default: Preset, rule: Rule, unit: &'static str, meaning: &'static str) -> Spec {
    Spec { per_camera: true, ..live(name, default, rule, unit, meaning) }
}

const fn output(name: &'static str, meaning: &'static str) -> Spec {
    camera(name, Preset::Bool(true), Rule::Any, "", meaning)
}

const fn limit(name: &'static str, default: f64, high: f64, unit: &'static str, meaning: &'static str) -> Spec {
    live(name, Preset::Double(default), Rule::Between(0.0, high), unit, meaning)
}

const fn limit_ms(name: &'static str, default: f64, meaning: &'static str) -> Spec {
    limit(name, default, 1e6, "ms", meaning)
}

use Preset::{Bool, Double, Integer, Integers, Text, TextOrNumber, Texts};
use Rule::{Any, Between, OneOf};

/// All parameters, in the order in which they are shown. Those of `qos_overrides` are in [`super::qos`].
pub const PARAMETERS: &[Spec] = &[
    // The model and where it runs.
    live(
        "model_path",
        Text(""),
        Any,
        "",
        "The model: its manifest (model.yaml), its folder, or the name of an installed one, such as street_refined; \
         empty: street. A change is used by the next ~/reload_model or configure transition",
    ),
    fixed("device", Text("auto"), Rule::Syntax(Syntax::Device), "", "Where the network runs"),
    fixed(
        "precision",
        Text("auto"),
        OneOf(&["auto", "fp32", "fp16", "bf16"]),
        "",
        "Number format of the network; auto is fp32 on the processor, and on CUDA fp16 where its answers stay near those of \
         fp32",
    ),
    fixed(
        "backend",
        Text("auto"),
        OneOf(&["auto", "torchscript", "tensorrt", "native"]),
        "",
        "What runs the network. auto is the best that answers the model's golden input as it should: a TensorRT engine that \
         was compiled before, else native, else torchscript",
    ),
    fixed(
        "fallback",
        Bool(false),
        Any,
        "",
        "If the named back end or precision cannot be used, take another, with a warning; false: end with the reason",
    ),
    fixed("build_only", Bool(false), Any, "", "Load the model, compile its TensorRT engine where one can be used, say so and end; nothing is subscribed"),
    fixed(
        "num_threads",
        Integer(0),
        Between(0.0, 256.0),
        "",
        "Processor threads of the network and of what is done before and after it; 0: one per core",
    ),
    fixed("autostart", Bool(true), Any, "", "Configure and activate without being told; false: wait for the transitions"),
    // Cameras and batches.
    fixed(
        "cameras",
        Texts(&[]),
        Rule::Syntax(Syntax::Cameras),
        "",
        "Names of the cameras: each has topics of its own, ~/NAME/input/image and so on; empty: one unnamed camera with \
         ~/input/image and so on",
    ),
    fixed(
        "max_batch_size",
        Integer(0),
        Between(0.0, 32.0),
        "",
        "At most so many frames, of different cameras, go through the network together; 0: all cameras on CUDA, 1 on \
         the processor",
    ),
    live(
        "batch_timeout_ms",
        Double(0.0),
        Between(0.0, 1000.0),
        "ms",
        "How long a frame waits, from its arrival, for other cameras' frames to fill the batch; 0: it does not wait",
    ),
    // The node.
    live("log_level", Text("info"), OneOf(&["debug", "info", "warn", "error"]), "", "What is logged; if not set, what --log-level says"),
    live("diagnostics_rate_hz", Double(1.0), Between(0.1, 10.0), "Hz", "How often /diagnostics is published"),
    live(
        "diagnostics_window_s",
        Double(10.0),
        Between(1.0, 600.0),
        "s",
        "Time over which diagnostics take rates, ratios and percentiles; percentiles and the rate of arrival of its newest 4096 images at most",
    ),
    live("stale_after_s", Double(2.0), Between(0.1, 1e6), "s", "Time without an image after which a camera is STALE"),
    live(
        "exit_after_failure_s",
        Double(0.0),
        Between(0.0, 1e6),
        "s",
        "End with code 1, for a supervisor (respawn) to start the node anew, once the network has failed on every image for so long, \
         or has been at one batch for so long; 0: never",
    ),
    live("use_sim_time", Bool(false), Any, "", "Take the time from /clock: the age of frames of a played bag"),
    // One camera's input.
    camera_fixed(
        "image_transport",
        Text("raw"),
        OneOf(&["raw", "compressed"]),
        "Images come as sensor_msgs/Image on input/image, or as JPEG or PNG on input/image/compressed",
    ),
    camera_fixed(
        "input_reliability",
        Text("best_effort"),
        OneOf(&["best_effort", "reliable"]),
        "QoS reliability of the image and calibration subscriptions",
    ),
    camera("input_rectified", Bool(false), Any, "", "The images are rectified: the calibration's P holds, not K and D"),
    camera_fixed(
        "ignore_mask",
        Text(""),
        Any,
        "Path of a picture with the aspect of the images, white where they are to be ignored (the vehicle itself, say) and black \
         elsewhere: there are no label, depth, confidence and points there, and the mask is 127; empty: none",
    ),
    camera(
        "max_rate_hz",
        Double(0.0),
        Between(0.0, 1000.0),
        "Hz",
        "Images above this rate are dropped and counted; 0: no limit",
    ),
    // Geometry.
    camera(
        "resize_mode",
        Text("stretch"),
        OneOf(&["stretch", "letterbox", "crop", "roi"]),
        "",
        "How the image becomes the network's input: stretch it, all of it between bars, its centre in the network's aspect, or the part in roi",
    ),
    camera(
        "roi",
        Integers(&[0, 0, 0, 0]),
        Rule::Syntax(Syntax::Roi),
        "px",
        "The part of the image, in its own pixels, that resize_mode roi sends through the network",
    ),
    camera(
        "output_size",
        Text("source"),
        Rule::Syntax(Syntax::OutputSize),
        "",
        "Size of labels, depth and the other pictures",
    ),
    // Depth.
    camera(
        "depth_scaling",
        TextOrNumber("camera_info"),
        Rule::Syntax(Syntax::DepthScaling),
        "",
        "What depth is multiplied with: the ratio of the camera's focal length to the training camera's \
         (camera_info), nothing (none), or a factor",
    ),
    camera(
        "depth_scaling_fallback",
        Double(1.0),
        Between(1e-3, 1e3),
        "",
        "The factor used with depth_scaling camera_info while there is no valid calibration",
    ),
    camera(
        "depth_encoding",
        Text("32FC1"),
        OneOf(&["32FC1", "16UC1"]),
        "",
        "32FC1: metres, NaN invalid; 16UC1: millimetres, 0 invalid or beyond 65.535 m",
    ),
    camera(
        "depth_far_classes",
        Texts(&[]),
        Rule::Syntax(Syntax::Classes),
        "",
        "Classes without a distance, such as sky: their depth is +Inf (REP 117; 0 in 16UC1), and they have no points",
    ),
    camera(
        "confidence_encoding",
        Text("32FC1"),
        OneOf(&["32FC1", "mono8"]),
        "",
        "32FC1: 0 to 1, NaN where nothing was computed; mono8: 0 to 255, 0 where nothing was computed",
    ),
    // Outputs.
    output("outputs.labels", "Publish output/labels"),
    output("outputs.depth", "Publish output/depth"),
    output("outputs.camera_info", "Publish output/camera_info"),
    output(
        "outputs.label_info",
        "Publish output/label_info; what was published before it was switched off still reaches late subscribers",
    ),
    output("outputs.confidence", "Publish output/confidence"),
    output("outputs.overlay", "Publish output/overlay"),
    output("outputs.labels_color", "Publish output/labels_color"),
    output("outputs.points", "Publish output/points"),
    output("outputs.mask", "Publish output/mask"),
    output("outputs.labels_compressed", "Publish output/labels/compressed"),
    output("outputs.depth_compressed", "Publish output/depth/compressed and output/depth/compressedDepth"),
    output("outputs.timing", "Publish output/timing"),
    camera("overlay_opacity", Double(0.5), Between(0.0, 1.0), "", "Share of the class colour in the overlay"),
    camera("points.stride", Integer(4), Between(1.0, 64.0), "px", "Every n-th pixel of every n-th row becomes a point"),
    camera(
        "points.voxel_size_m",
        Double(0.0),
        Between(0.0, 100.0),
        "m",
        "Edge of the cubes that are thinned to one point each, and points farther than 2^20 edges are left out; 0: no thinning, and the cloud is \
         organised",
    ),
    camera("points.min_range_m", Double(0.0), Between(0.0, 1e4), "m", "Points nearer than this to the camera are left out"),
    camera("points.max_range_m", Double(80.0), Between(0.1, 1e4), "m", "Points farther than this from the camera are left out"),
    camera(
        "points.classes",
        Texts(&[]),
        Rule::Syntax(Syntax::Classes),
        "",
        "Classes whose points are published; empty: all",
    ),
    camera("mask.free_classes", Texts(&["road"]), Rule::Syntax(Syntax::Classes), "", "Classes that are free space in the mask (0)"),
    camera(
        "mask.obstacle_classes",
        Texts(&["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]),
        Rule::Syntax(Syntax::Classes),
        "",
        "Classes that are obstacles in the mask (255); what is neither is 127",
    ),
    camera("png_level", Integer(1), Between(1.0, 9.0), "", "Effort of the PNG encoder: 1 is the fastest, 9 the smallest"),
    // When diagnostics warn. For every limit, 0 (for ratios 1) is off.
    limit_ms("thresholds.age_warn_ms", 1000.0, "WARN above this median age of frames at publication; 0: off"),
    limit_ms("thresholds.age_error_ms", 5000.0, "ERROR above this median age of frames at publication; 0: off"),
    limit_ms("thresholds.decode_warn_ms", 0.0, "WARN above this p95 of decoding and resizing; 0: off"),
    limit_ms("thresholds.decode_error_ms", 0.0, "ERROR above this p95 of decoding and resizing; 0: off"),
    limit_ms("thresholds.infer_warn_ms", 0.0, "WARN above this p95 of the network; 0: off"),
    limit_ms("thresholds.infer_error_ms", 0.0, "ERROR above this p95 of the network; 0: off"),
    limit_ms("thresholds.postprocess_warn_ms", 0.0, "WARN above this p95 of everything between network and publishing; 0: off"),
    limit_ms("thresholds.postprocess_error_ms", 0.0, "ERROR above this p95 of everything between network and publishing; 0: off"),
    limit_ms("thresholds.publish_warn_ms", 200.0, "WARN above this p95 of publishing; 0: off"),
    limit_ms("thresholds.publish_error_ms", 0.0, "ERROR above this p95 of publishing; 0: off"),
    limit_ms("thresholds.total_warn_ms", 0.0, "WARN above this p95 of arrival to publication; 0: off"),
    limit_ms("thresholds.total_error_ms", 0.0, "ERROR above this p95 of arrival to publication; 0: off"),
    limit("thresholds.rate_warn_hz", 0.0, 1000.0, "Hz", "WARN below this rate of images; 0: off"),
    limit("thresholds.rate_error_hz", 0.0, 1000.0, "Hz", "ERROR below this rate of images; 0: off"),
    limit("thresholds.output_rate_warn_hz", 0.0, 1000.0, "Hz", "WARN below this rate of answered images; 0: off. Images of which nobody wants an output are not answered"),
    limit("thresholds.output_rate_error_hz", 0.0, 1000.0, "Hz", "ERROR below this rate of answered images; 0: off"),
    limit("thresholds.drop_ratio_warn", 1.0, 1.0, "", "WARN above this share of dropped images; 1: off"),
    limit("thresholds.drop_ratio_error", 1.0, 1.0, "", "ERROR above this share of dropped images; 1: off"),
    limit("thresholds.gpu_temperature_warn_c", 85.0, 200.0, "\u{b0}C", "WARN above this temperature of the GPU; 0: off"),
    limit("thresholds.gpu_temperature_error_c", 95.0, 200.0, "\u{b0}C", "ERROR above this temperature of the GPU; 0: off"),
];

/// Pairs of thresholds: the first must come first, (warn, error, a higher value is worse).
pub(super) const THRESHOLD_PAIRS: &[(&str, &str, bool)] = &[
    ("thresholds.age_warn_ms", "thresholds.age_error_ms", true),
    ("thresholds.decode_warn_ms", "thresholds.decode_error_ms", true),
    ("thresholds.infer_warn_ms", "thresholds.infer_error_ms", true),
    ("thresholds.postprocess_warn_ms", "thresholds.postprocess_error_ms", true),
    ("thresholds.publish_warn_ms", "thresholds.publish_error_ms", true),
    ("thresholds.total_warn_ms", "thresholds.total_error_ms", true),
    ("thresholds.rate_warn_hz", "thresholds.rate_error_hz", false),
    ("thresholds.output_rate_warn_hz", "thresholds.output_rate_error_hz", false),
    ("thresholds.drop_ratio_warn", "thresholds.drop_ratio_error", true),
    ("thresholds.gpu_temperature_warn_c", "thresholds.gpu_temperature_error_c", true),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (i, s) in PARAMETERS.iter().enumerate() {
            assert_eq!(s.accept(s.default.value()), Ok(s.default.value()), "{}: the default is valid", s.name);
            assert!(!PARAMETERS[..i].iter().any(|other| other.name == s.name), "{} is there twice", s.name);
            assert!(!s.meaning.is_empty() && !s.meaning.ends_with('.'), "{}", s.name);
            assert!(s.name.matches('.').count() < 2, "{}: groups have no groups", s.name);
            // A unit in the name is the unit in the table.
            for (suffix, unit) in [("_ms", "ms"), ("_s", "s"), ("_hz", "Hz"), ("_m", "m"), ("_c", "\u{b0}C")] {
                assert!(!s.name.ends_with(suffix) || s.unit == unit, "{} in {}", s.name, s.unit);
            }
        }
        for (warn, error, _) in THRESHOLD_PAIRS {
            assert!(spec(warn).is_some() && spec(error).is_some(), "{warn} {error}");
        }
        let pairs = PARAMETERS.iter().filter(|s| s.group() == Some("thresholds")).count();
        assert_eq!(THRESHOLD_PAIRS.len() * 2, pairs, "every threshold has a partner");
    }

    #[test]
    fn ranges_and_forms_are_checked() {
        let s = |x: &str| Value::String(x.into());
        let list = |v: &[&str]| Value::Strings(v.iter().map(|s| s.to_string()).collect());
        for (name, value) in [
            ("overlay_opacity", Value::Integer(1)),
            ("depth_scaling", Value::Double(1.25)),
            ("depth_scaling", s("2")),
            ("depth_scaling", Value::Double(1e-3)),
            ("depth_scaling", Value::Integer(1000)),
            ("output_size", s("640x480")),
            ("roi", Value::Integers(vec![1, 2, 3, 4])),
            ("points.classes", Value::Integers(vec![0, 13])),
            ("cameras", list(&["front", "rear_left2"])),
            ("device", s("cuda:1")),
        ] {
            let spec = spec(name).expect(name);
            assert!(spec.accept(value.clone()).is_ok(), "{name} {value}");
        }
        for (name, value, expected) in [
            ("overlay_opacity", Value::Double(1.5), "expected 0 to 1, got 1.5"),
            ("overlay_opacity", Value::Double(f64::NAN), "expected 0 to 1, got NaN"),
            ("png_level", Value::Integer(0), "expected 1 to 9, got 0"),
            ("precision", s("int8"), "expected auto, fp32, fp16 or bf16, got \"int8\""),
            ("device", s("tpu:0"), "expected auto"),
            ("output_size", s("0x480"), "expected source, network"),
            ("output_size", s("9000x480"), "8192x8192, got \"9000x480\""),
            ("depth_scaling", Value::Double(0.0), "expected camera_info, none, or a factor from 0.001 to 1000"),
            ("depth_scaling", Value::Double(1e300), "got \"1e300\""),
            ("depth_scaling", s("inf"), "a factor from 0.001 to 1000, got \"inf\""),
            ("points.classes", Value::Integers(vec![0, 256]), "0 to 255, got 256"),
            ("roi", Value::Integers(vec![0, 0, 5]), "four whole numbers"),
            ("roi", Value::Integers(vec![0, -1, 5, 5]), "four whole numbers"),
            ("roi", Value::Doubles(vec![0.5; 4]), "expected an integer array, got the double array"),
            ("cameras", list(&["front", "front"]), "twice"),
            ("cameras", list(&["Front"]), "small letters"),
            ("cameras", list(&["points"]), "cannot be called \"points\""),
            ("cameras", list(&["input"]), "cannot be called \"input\""),
            ("cameras", list(&["a__b"]), "single underscores"),
            ("mask.free_classes", list(&["road", ""]), "got \"\""),
            ("mask.free_classes", list(&["road"; 257]), "expected up to 256 classes, got 257"),
            ("points.classes", Value::Integers(vec![0; 257]), "expected up to 256 classes, got 257"),
        ] {
            let e = spec(name).expect(name).accept(value).expect_err(expected);
            assert!(e.contains(expected), "'{expected}' is not in '{e}'");
        }
    }
}

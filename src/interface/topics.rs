//! The tables of topics and services.

use super::qos::{Durability, Reliability, Role};

/// A topic.
#[derive(Debug, Clone, Copy)]
pub struct Topic {
    /// Name for the one unnamed camera; with a camera's name, `~/` becomes `~/CAMERA/`.
    pub name: &'static str,
    /// Which end the node has.
    pub role: Role,
    /// Type, `package/Type`.
    pub message: &'static str,
    /// What is in it, one sentence or two without a full stop.
    pub meaning: &'static str,
    /// Whether every camera has one.
    pub per_camera: bool,
    /// QoS where no parameter says otherwise.
    pub qos: Qos,
    /// The parameter that switches it on, below `outputs`.
    pub switch: Option<&'static str>,
}

/// The QoS of a topic's end; its history keeps the last `depth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qos {
    /// Policy.
    pub reliability: Reliability,
    /// Policy.
    pub durability: Durability,
    /// Messages kept.
    pub depth: usize,
}

impl Topic {
    /// The private name of a camera's topic; `camera` is empty for the unnamed one.
    pub fn name_for(&self, camera: &str) -> String {
        match self.name.strip_prefix("~/").filter(|_| self.per_camera && !camera.is_empty()) {
            Some(rest) => format!("~/{camera}/{rest}"),
            None => self.name.into(),
        }
    }
}

impl Qos {
    /// In words.
    pub fn words(&self) -> String {
        let reliability = match self.reliability {
            Reliability::Reliable => "reliable",
            Reliability::BestEffort => "best effort",
        };
        let durability = match self.durability {
            Durability::Volatile => "",
            Durability::TransientLocal => ", transient local",
        };
        format!("{reliability}{durability}, depth {}", self.depth)
    }
}

/// Every topic of a node with these cameras (none: the one unnamed camera): private, relative or absolute name, and the table.
pub fn all(cameras: &[String]) -> Vec<(String, &'static Topic)> {
    let mut found = Vec::new();
    for topic in TOPICS {
        match cameras {
            [] => found.push((topic.name.to_string(), topic)),
            _ if !topic.per_camera => found.push((topic.name.to_string(), topic)),
            names => found.extend(names.iter().map(|camera| (topic.name_for(camera), topic))),
        }
    }
    found
}

/// The topic of this name in the table.
pub fn find(name: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.name == name)
}

/// A service.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Private name.
    pub name: &'static str,
    /// Type, `package/Type`.
    pub service: &'static str,
    /// What it does, without a full stop.
    pub meaning: &'static str,
}

const SENSOR: Qos = Qos { reliability: Reliability::BestEffort, durability: Durability::Volatile, depth: 1 };
const OUTPUT: Qos = Qos { reliability: Reliability::Reliable, durability: Durability::Volatile, depth: 5 };
const LATCHED: Qos = Qos { reliability: Reliability::Reliable, durability: Durability::TransientLocal, depth: 1 };

const fn input(name: &'static str, message: &'static str, depth: usize, meaning: &'static str) -> Topic {
    let qos = Qos { depth, ..SENSOR };
    Topic { name, role: Role::Subscription, message, meaning, per_camera: true, qos, switch: None }
}

const fn output(name: &'static str, message: &'static str, switch: &'static str, meaning: &'static str) -> Topic {
    Topic { name, role: Role::Publisher, message, meaning, per_camera: true, qos: OUTPUT, switch: Some(switch) }
}

const fn common(name: &'static str, message: &'static str, qos: Qos, meaning: &'static str) -> Topic {
    Topic { name, role: Role::Publisher, message, meaning, per_camera: false, qos, switch: None }
}

/// All topics, in the order in which they are shown.
pub const TOPICS: &[Topic] = &[
    input(
        "~/input/image",
        "sensor_msgs/Image",
        1,
        "With image_transport raw: mono8/16, rgb, bgr, rgba and bgra 8/16, the four Bayer patterns 8/16, UYVY, YUYV, NV12; \
         any valid step, any size, either byte order",
    ),
    input(
        "~/input/image/compressed",
        "sensor_msgs/CompressedImage",
        1,
        "With image_transport compressed, instead of input/image: JPEG or PNG of up to 8192x8192; IMAGE/compressed where input/image is remapped to IMAGE and this is not",
    ),
    input("~/input/camera_info", "sensor_msgs/CameraInfo", 8, "The camera's calibration: for metric depth, output/camera_info and points; camera_info beside the image where input/image is remapped and this is not"),
    output("~/output/labels", "sensor_msgs/Image", "labels", "mono8: class ids, 255 unlabelled"),
    output(
        "~/output/labels/compressed",
        "sensor_msgs/CompressedImage",
        "labels_compressed",
        "The same as PNG, lossless: image_transport's compressed",
    ),
    output("~/output/depth", "sensor_msgs/Image", "depth", "32FC1: metres along the optical axis, NaN invalid, +Inf for depth_far_classes; or 16UC1: millimetres, 0 invalid or beyond 65.535 m"),
    output(
        "~/output/depth/compressed",
        "sensor_msgs/CompressedImage",
        "depth_compressed",
        "16UC1 millimetres as PNG, 0 invalid or beyond 65.535 m: image_transport's compressed",
    ),
    output(
        "~/output/depth/compressedDepth",
        "sensor_msgs/CompressedImage",
        "depth_compressed",
        "The same with the header of image_transport's compressedDepth",
    ),
    output("~/output/camera_info", "sensor_msgs/CameraInfo", "camera_info", "The calibration, scaled to the outputs' size, with the image's own header; nothing where the calibration is of another image size"),
    Topic {
        qos: LATCHED,
        ..output("~/output/label_info", "vision_msgs/LabelInfo", "label_info", "Names of the class ids, where vision_msgs was there when this was built")
    },
    output("~/output/confidence", "sensor_msgs/Image", "confidence", "32FC1: probability of the label, 0 to 1, NaN where nothing was computed; or mono8: 0 to 255"),
    output("~/output/overlay", "sensor_msgs/Image", "overlay", "rgb8: class colours over the image"),
    output("~/output/labels_color", "sensor_msgs/Image", "labels_color", "rgb8: class colours"),
    output("~/output/points", "sensor_msgs/PointCloud2", "points", "x, y, z, rgb, label, confidence in the optical frame"),
    output("~/output/mask", "sensor_msgs/Image", "mask", "mono8: 0 free space, 255 obstacle, 127 neither"),
    output("~/output/timing", "semantic_depth/FrameTiming", "timing", "Nanoseconds per stage, age at publication, counts, back end, device"),
    common("~/transition_event", "lifecycle_msgs/TransitionEvent", Qos { depth: 10, ..OUTPUT }, "Every change of the node's state"),
    common("bond", "bond/Status", OUTPUT, "Answers to a lifecycle manager's bond, and to nobody else's, where the package bond was there when this was built"),
    common("/diagnostics", "diagnostic_msgs/DiagnosticArray", Qos { depth: 10, ..OUTPUT }, "Input and timing of each camera and of all together, model, device"),
    common("/rosout", "rcl_interfaces/Log", Qos { depth: 1000, ..LATCHED }, "The log"),
    common("/parameter_events", "rcl_interfaces/ParameterEvent", Qos { depth: 1000, ..OUTPUT }, "Every change of a parameter"),
];

const fn service(name: &'static str, service: &'static str, meaning: &'static str) -> Service {
    Service { name, service, meaning }
}

/// All services, in the order in which they are shown.
pub const SERVICES: &[Service] = &[
    service("~/enable", "std_srvs/SetBool", "Answer images, or skip them (they are counted) until told otherwise"),
    service(
        "~/reload_model",
        "std_srvs/Trigger",
        "Load model_path again and swap; a model that cannot be loaded leaves the old one at work and says why",
    ),
    service("~/change_state", "lifecycle_msgs/ChangeState", "Configure, activate, deactivate, clean up, shut down"),
    service("~/get_state", "lifecycle_msgs/GetState", "The node's state"),
    service("~/get_available_states", "lifecycle_msgs/GetAvailableStates", "All states"),
    service("~/get_available_transitions", "lifecycle_msgs/GetAvailableTransitions", "Transitions from here"),
    service("~/get_transition_graph", "lifecycle_msgs/GetAvailableTransitions", "All transitions"),
    service("~/list_parameters", "rcl_interfaces/ListParameters", "Names"),
    service("~/get_parameters", "rcl_interfaces/GetParameters", "Values"),
    service("~/get_parameter_types", "rcl_interfaces/GetParameterTypes", "Types"),
    service(
        "~/describe_parameters",
        "rcl_interfaces/DescribeParameters",
        "Meaning, range, valid values, whether read-only",
    ),
    service("~/set_parameters", "rcl_interfaces/SetParameters", "Each set, or refused with a reason"),
    service("~/set_parameters_atomically", "rcl_interfaces/SetParametersAtomically", "All set, or none"),
    service("~/get_logger_levels", "rcl_interfaces/GetLoggerLevels", "Log levels"),
    service("~/set_logger_levels", "rcl_interfaces/SetLoggerLevels", "Set log levels"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::parameters::spec;

    #[test]
    fn cameras_have_topics_of_their_own() {
        let labels = TOPICS.iter().find(|t| t.name == "~/output/labels").expect("labels");
        assert_eq!(labels.name_for(""), "~/output/labels");
        assert_eq!(labels.name_for("front"), "~/front/output/labels");
        assert_eq!(all(&[]).len(), TOPICS.len());
        let two = all(&["a".into(), "b".into()]);
        assert_eq!(two.len(), TOPICS.len() + TOPICS.iter().filter(|t| t.per_camera).count());
        assert!(two.iter().any(|(name, _)| name == "~/b/input/image"));
        assert_eq!(two.iter().filter(|(name, _)| name == "/diagnostics").count(), 1);
    }

    #[test]
    fn every_output_has_its_switch_and_every_switch_an_output() {
        for topic in TOPICS {
            if let Some(switch) = topic.switch {
                assert!(spec(&format!("outputs.{switch}")).is_some_and(|s| s.per_camera), "{}", topic.name);
            }
        }
        for spec in crate::interface::PARAMETERS.iter().filter(|s| s.group() == Some("outputs")) {
            let used = TOPICS.iter().any(|t| t.switch.is_some_and(|s| spec.name == format!("outputs.{s}")));
            assert!(used, "{}", spec.name);
        }
    }
}

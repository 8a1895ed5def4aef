//! The table of `/diagnostics`: statuses and their keys. Names are `node: subtask` (REP 107); where diagnostic_updater
//! has a key (FrequencyStatus, TimeStampStatus), it is that one, colon and all.

/// A status.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// What is judged; the end of the status's name.
    pub subtask: &'static str,
    /// Whether every camera has one.
    pub per_camera: bool,
    /// Levels and when they come, the worst first.
    pub levels: &'static [(Level, &'static str)],
    /// Keys, in the order in which they are shown.
    pub keys: &'static [Key],
}

/// A key of a status.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As it is published; [`STAGE`] in it stands for each of [`STAGES`].
    pub key: &'static str,
    /// What it says, without a full stop.
    pub meaning: &'static str,
}

/// Levels of diagnostic_msgs/DiagnosticStatus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Ok = 0,
    /// Look at it.
    Warn = 1,
    /// It does not work.
    Error = 2,
    /// Nothing is known.
    Stale = 3,
}

impl Level {
    /// As in diagnostic_msgs.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Stale => "STALE",
        }
    }
}

impl Status {
    /// The status's name. `node`: the fully qualified name; `camera`: empty for the unnamed one.
    pub fn name(&self, node: &str, camera: &str) -> String {
        let node = node.trim_start_matches('/');
        if self.per_camera && !camera.is_empty() {
            format!("{node}: {camera} {}", self.subtask)
        } else {
            format!("{node}: {}", self.subtask)
        }
    }
}

/// The subtask of the status of all cameras together, which is there where there are several.
pub const ALL_CAMERAS: &str = "all cameras";

/// Stands for a stage in a key.
pub const STAGE: &str = "STAGE";

/// The stages whose percentiles are published; a stage without work in the window has no keys.
pub const STAGES: &[&str] = &[
    "receive",
    "wait",
    "decode",
    "infer",
    "labels",
    "depth",
    "confidence",
    "overlay",
    "mask",
    "points",
    "compress",
    "postprocess",
    "publish",
    "total",
];

/// The keys' texts, for whoever fills a status.
pub mod key {
    #![allow(missing_docs)]
    // diagnostic_updater::FrequencyStatus
    pub const EVENTS_IN_WINDOW: &str = "Events in window";
    pub const EVENTS_SINCE_STARTUP: &str = "Events since startup";
    pub const WINDOW_S: &str = "Duration of window (s)";
    pub const ACTUAL_HZ: &str = "Actual frequency (Hz)";
    pub const LEAST_HZ: &str = "Minimum acceptable frequency (Hz)";
    pub const MOST_HZ: &str = "Maximum acceptable frequency (Hz)";
    // diagnostic_updater::TimeStampStatus
    pub const EARLIEST_DELAY: &str = "Earliest timestamp delay:";
    pub const LATEST_DELAY: &str = "Latest timestamp delay:";
    pub const EARLIEST_ACCEPTABLE: &str = "Earliest acceptable timestamp delay:";
    pub const LATEST_ACCEPTABLE: &str = "Latest acceptable timestamp delay:";
    pub const LATE_COUNT: &str = "Late diagnostic update count:";
    pub const EARLY_COUNT: &str = "Early diagnostic update count:";
    pub const ZERO_COUNT: &str = "Zero seen diagnostic update count:";
    // Our own: input.
    pub const RECEIVED: &str = "Frames received";
    pub const ANSWERED: &str = "Frames answered";
    pub const DROPPED: &str = "Frames dropped";
    pub const THROTTLED: &str = "Frames throttled";
    pub const REFUSED: &str = "Frames refused";
    pub const SKIPPED: &str = "Frames skipped";
    pub const DROP_RATIO: &str = "Drop ratio in window";
    pub const OUTPUT_HZ: &str = "Output frequency (Hz)";
    pub const AGE_P50: &str = "Image age p50 (ms)";
    pub const AGE_P95: &str = "Image age p95 (ms)";
    pub const AGE_P99: &str = "Image age p99 (ms)";
    pub const AGE_MAX: &str = "Image age max (ms)";
    pub const STAMPS_BACK: &str = "Stamps that jumped back";
    pub const STAMPS_REPEATED: &str = "Stamps repeated";
    pub const STAMPS_ZERO: &str = "Stamps of zero";
    pub const SILENCE_S: &str = "Time since last image (s)";
    pub const LAST_REFUSAL: &str = "Last refusal";
    pub const QOS_PROBLEM: &str = "Publisher QoS";
    pub const CALIBRATION: &str = "Calibration";
    pub const DEPTH_FACTOR: &str = "Depth factor";
    pub const POINT_CLOUD: &str = "Point cloud";
    pub const IMAGE: &str = "Image";
    // Timing.
    pub const STAGE_P50: &str = "STAGE p50 (ms)";
    pub const STAGE_P95: &str = "STAGE p95 (ms)";
    pub const STAGE_P99: &str = "STAGE p99 (ms)";
    pub const STAGE_MAX: &str = "STAGE max (ms)";
    pub const BATCH_MEAN: &str = "Mean batch size";
    // All cameras: the sums and percentiles have the keys of one camera.
    pub const CAMERAS: &str = "Cameras";
    pub const CAMERAS_STALE: &str = "Cameras stale";
    pub const CAMERAS_QOS_PROBLEM: &str = "Cameras with a QoS problem";
    pub const WORST_AGE_P50: &str = "Worst camera's image age p50 (ms)";
    pub const WORST_AGE_P95: &str = "Worst camera's image age p95 (ms)";
    pub const WORST_AGE_P99: &str = "Worst camera's image age p99 (ms)";
    // Model.
    pub const STATE: &str = "State";
    pub const NAME: &str = "Name";
    pub const SHA256: &str = "sha256";
    pub const BACKEND: &str = "Back end";
    pub const PRECISION: &str = "Precision";
    pub const DEVICE: &str = "Device";
    pub const INPUT: &str = "Input";
    pub const ANSWERS: &str = "Answers";
    pub const FOCAL_LENGTH_PX: &str = "Focal length (px)";
    pub const BATCH_MOST: &str = "Largest batch";
    // Device: the order of crate::node::device::KEYS.
    pub const GPU_MEMORY_USED_MIB: &str = "GPU memory used (MiB)";
    pub const GPU_MEMORY_TOTAL_MIB: &str = "GPU memory total (MiB)";
    pub const GPU_MEMORY_PROCESS_MIB: &str = "GPU memory of this process (MiB)";
    pub const GPU_TEMPERATURE_C: &str = "GPU temperature (C)";
    pub const GPU_UTILISATION: &str = "GPU utilisation (%)";
    pub const GPU_MEMORY_UTILISATION: &str = "GPU memory utilisation (%)";
    pub const GPU_CLOCK_MHZ: &str = "GPU clock (MHz)";
    pub const GPU_MEMORY_CLOCK_MHZ: &str = "GPU memory clock (MHz)";
    pub const GPU_POWER_W: &str = "GPU power (W)";
    pub const GPU_POWER_LIMIT_W: &str = "GPU power limit (W)";
    pub const GPU_LIMITED_BY: &str = "GPU clocks limited by";
    pub const PROCESS_MEMORY_MIB: &str = "Process memory (MiB)";
    pub const PROCESS_THREADS: &str = "Process threads";
    pub const PROCESS_CPU: &str = "Process CPU (% of one core)";
    pub const CPU_TEMPERATURE_C: &str = "CPU temperature (C)";
    pub const CPU_CLOCK_MHZ: &str = "CPU clock (MHz)";
    pub const CPU_CORE_THROTTLES: &str = "CPU core throttle events";
    pub const CPU_PACKAGE_THROTTLES: &str = "CPU package throttle events";
}

/// The key of a stage's percentile, made of one of [`key::STAGE_P50`] and its like.
pub fn stage_key(pattern: &str, stage: &str) -> String {
    pattern.replace(STAGE, stage)
}

const fn k(key: &'static str, meaning: &'static str) -> Key {
    Key { key, meaning }
}

/// All statuses, in the order in which they are published.
pub const DIAGNOSTICS: &[Status] = &[
    Status {
        subtask: "input",
        per_camera: true,
        levels: &[
            (Level::Stale, "no image yet, or none for stale_after_s"),
            (
                Level::Error,
                "rate below thresholds.rate_error_hz, or that of answers below thresholds.output_rate_error_hz (once a whole window lies behind \
                 the activation); drop ratio above thresholds.drop_ratio_error; a publisher whose \
                 QoS cannot reach the node, and no image for stale_after_s; the network or the middleware failed on images in the window and \
                 answered none",
            ),
            (
                Level::Warn,
                "rate, rate of answers or drop ratio beyond the warning threshold; images refused, images that the network or the middleware failed on, answers \
                 without a number (labels 255, depth NaN), or stamps of zero or that jumped back, \
                 in the window; all images of the window from the future; no valid calibration where depth_scaling needs one; \
                 output/points is subscribed to and there can be none; a publisher of the image or its camera_info whose QoS cannot reach the node while images arrive",
            ),
        ],
        keys: &[
            k(key::EVENTS_IN_WINDOW, "Images that arrived in the window"),
            k(key::EVENTS_SINCE_STARTUP, "Images that arrived since the start"),
            k(key::WINDOW_S, "diagnostics_window_s; shorter if the camera has been subscribed for less time, or if more than 4096 images came in it"),
            k(key::ACTUAL_HZ, "Rate of arrival over the window"),
            k(key::LEAST_HZ, "thresholds.rate_warn_hz; 0: no limit"),
            k(key::MOST_HZ, "max_rate_hz, above which images are dropped; inf: no limit"),
            k(key::EARLIEST_DELAY, "Least age of an image on arrival in the window, seconds; negative: from the future"),
            k(key::LATEST_DELAY, "Greatest age of an image on arrival in the window, seconds"),
            k(key::EARLIEST_ACCEPTABLE, "-1 s, as in diagnostic_updater"),
            k(key::LATEST_ACCEPTABLE, "thresholds.age_error_ms in seconds; inf: no limit"),
            k(key::LATE_COUNT, "Reports with an image older than acceptable"),
            k(key::EARLY_COUNT, "Reports with an image from farther in the future than acceptable"),
            k(key::ZERO_COUNT, "Reports with a stamp of zero"),
            k(key::RECEIVED, "Since the start, like the following five"),
            k(key::ANSWERED, "Computed and published"),
            k(key::DROPPED, "Replaced by a newer image before they were computed, or over max_rate_hz"),
            k(key::THROTTLED, "Those of the dropped that were over max_rate_hz"),
            k(key::REFUSED, "Malformed, or the network failed on them, or none of their outputs could be published; the message says why"),
            k(key::SKIPPED, "Nobody wanted an output that can be made, or the node was disabled or deactivated"),
            k(key::DROP_RATIO, "Dropped images among those received in the window, 0 to 1; both without the throttled, whose dropping was asked for"),
            k(key::OUTPUT_HZ, "Rate of answered images over the window"),
            k(key::AGE_P50, "Age at publication over the window, of its newest 4096 images at most; below zero (clocks that disagree, a bag that loops) counts as zero"),
            k(key::AGE_P95, "The same, 95th percentile"),
            k(key::AGE_P99, "The same, 99th percentile"),
            k(key::AGE_MAX, "The same, largest"),
            k(key::STAMPS_BACK, "Images with an older stamp than the one before, since the start"),
            k(key::STAMPS_REPEATED, "Images with the stamp of the one before, since the start"),
            k(key::STAMPS_ZERO, "Images without a stamp, since the start"),
            k(key::SILENCE_S, "On the monotonic clock"),
            k(key::LAST_REFUSAL, "Why an image was refused last"),
            k(key::QOS_PROBLEM, "ok; not subscribed: the node is not active; none: nobody publishes images; or which publisher of the image or its camera_info cannot reach the node (or has published before it came), and what to change"),
            k(key::CALIBRATION, "ok, or why depth_scaling_fallback serves: no camera_info, no focal length in its K (its P where input_rectified), or not of this image's size"),
            k(key::DEPTH_FACTOR, "What depth is multiplied with, and where it comes from"),
            k(key::POINT_CLOUD, "ok, or why there is none: no camera_info, or one that gives no rays; only while output/points is subscribed to"),
            k(key::IMAGE, "Size and encoding of the last image"),
        ],
    },
    Status {
        subtask: "timing",
        per_camera: true,
        levels: &[
            (Level::Error, "median age, or a stage's p95, above its error threshold (thresholds.*_error_ms)"),
            (Level::Warn, "the same for the warning threshold"),
        ],
        keys: &[
            k(key::STAGE_P50, "Over the window, of its newest 4096 values at most; stages as in FrameTiming; postprocess is everything between network and publishing"),
            k(key::STAGE_P95, "The same, 95th percentile"),
            k(key::STAGE_P99, "The same, 99th percentile"),
            k(key::STAGE_MAX, "The same, largest"),
            k(key::BATCH_MEAN, "Frames that were answered together; on CUDA the network may take them one after the other"),
        ],
    },
    Status {
        subtask: ALL_CAMERAS,
        per_camera: false,
        levels: &[
            (Level::Stale, "the input of a camera is STALE (this status is there only where there are several cameras)"),
            (Level::Error, "the input or timing of a camera is ERROR"),
            (Level::Warn, "the input or timing of a camera is WARN"),
        ],
        keys: &[
            k(key::CAMERAS, "How many there are"),
            k(key::CAMERAS_STALE, "Those whose input is STALE"),
            k(key::CAMERAS_QOS_PROBLEM, "Those with a publisher of the image or its camera_info that cannot reach the node"),
            k(key::RECEIVED, "Of all cameras since the start, like the following five; what they mean is said above"),
            k(key::ANSWERED, "The sum"),
            k(key::DROPPED, "The sum"),
            k(key::THROTTLED, "The sum"),
            k(key::REFUSED, "The sum"),
            k(key::SKIPPED, "The sum"),
            k(key::DROP_RATIO, "Dropped images of all cameras among those received in the window, both without the throttled"),
            k(key::ACTUAL_HZ, "Sum of the rates of arrival"),
            k(key::OUTPUT_HZ, "Answered images of all cameras per second"),
            k(key::AGE_P50, "Age at publication over the window, of all cameras' images together"),
            k(key::AGE_P95, "The same, 95th percentile"),
            k(key::AGE_P99, "The same, 99th percentile"),
            k(key::AGE_MAX, "The same, largest"),
            k(key::WORST_AGE_P50, "That of the camera for which it is largest"),
            k(key::WORST_AGE_P95, "The same, 95th percentile"),
            k(key::WORST_AGE_P99, "The same, 99th percentile"),
            k(key::STAGE_P50, "Over the window, of all cameras' frames together"),
            k(key::STAGE_P95, "The same, 95th percentile"),
            k(key::STAGE_P99, "The same, 99th percentile"),
            k(key::STAGE_MAX, "The same, largest"),
        ],
    },
    Status {
        subtask: "model",
        per_camera: false,
        levels: &[
            (
                Level::Error,
                "no model could be loaded; the network failed on the newest frames, or has been at one batch for more \
                 than 5 s and more than thresholds.age_error_ms",
            ),
            (Level::Warn, "the last ~/reload_model failed and the old model is at work; another node has this one's name"),
        ],
        keys: &[
            k(key::STATE, "Of the managed node: unconfigured, inactive, active, finalized; with disabled after ~/enable false"),
            k(key::NAME, "From the manifest"),
            k(key::SHA256, "Of the model's file"),
            k(key::BACKEND, "native, torchscript or tensorrt"),
            k(key::PRECISION, "fp32, fp16 or bf16"),
            k(key::DEVICE, "cpu or cuda:N"),
            k(key::INPUT, "The network's input, WIDTHxHEIGHT"),
            k(key::ANSWERS, "classes, depth, or both; outputs that need what is not there are not published"),
            k(key::FOCAL_LENGTH_PX, "Of the training camera, in pixels of the network's input; of a model with depth"),
            k(key::BATCH_MOST, "Most frames that go through the network together"),
        ],
    },
    Status {
        subtask: "device",
        per_camera: false,
        levels: &[
            (Level::Error, "GPU temperature above thresholds.gpu_temperature_error_c"),
            (
                Level::Warn,
                "GPU temperature above thresholds.gpu_temperature_warn_c; the GPU is throttled by heat or power; a reading \
                 of all this takes more than 5 s",
            ),
        ],
        keys: &[
            k(key::DEVICE, "cpu or cuda:N"),
            k(key::GPU_MEMORY_USED_MIB, "By all processes. GPU keys appear only where NVML (on a Jetson /sys) can tell them"),
            k(key::GPU_MEMORY_TOTAL_MIB, "Built in"),
            k(key::GPU_MEMORY_PROCESS_MIB, "By this process; not known inside most containers"),
            k(key::GPU_TEMPERATURE_C, "Of the chip"),
            k(key::GPU_UTILISATION, "Share of time in which something ran"),
            k(key::GPU_MEMORY_UTILISATION, "Share of time in which memory was read or written"),
            k(key::GPU_CLOCK_MHZ, "Of the multiprocessors"),
            k(key::GPU_MEMORY_CLOCK_MHZ, "Of the memory"),
            k(key::GPU_POWER_W, "Drawn now"),
            k(key::GPU_POWER_LIMIT_W, "At most"),
            k(key::GPU_LIMITED_BY, "Why the clocks are not higher"),
            k(key::PROCESS_MEMORY_MIB, "Resident"),
            k(key::PROCESS_THREADS, "Of this process"),
            k(key::PROCESS_CPU, "Since the report before; 200 is two cores"),
            k(key::CPU_TEMPERATURE_C, "The hottest sensor"),
            k(key::CPU_CLOCK_MHZ, "Mean of the cores"),
            k(key::CPU_CORE_THROTTLES, "Since the machine started"),
            k(key::CPU_PACKAGE_THROTTLES, "Since the machine started"),
        ],
    },
];

/// The status of this subtask.
pub fn status(subtask: &str) -> Option<&'static Status> {
    DIAGNOSTICS.iter().find(|s| s.subtask == subtask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::parameters::spec;

    #[test]
    fn names_follow_rep_107() {
        let input = status("input").expect("input");
        assert_eq!(input.name("/ns/semantic_depth", ""), "ns/semantic_depth: input");
        assert_eq!(input.name("/semantic_depth", "front"), "semantic_depth: front input");
        assert_eq!(status("model").expect("model").name("/n", "front"), "n: model");
        assert_eq!(status(ALL_CAMERAS).expect("all").name("/n", ""), "n: all cameras");
    }

    #[test]
    fn keys_are_there_once() {
        for status in DIAGNOSTICS {
            for (i, k) in status.keys.iter().enumerate() {
                assert!(!status.keys[..i].iter().any(|other| other.key == k.key), "{} is there twice", k.key);
            }
        }
    }

    #[test]
    fn thresholds_that_are_named_are_parameters() {
        for (_, when) in DIAGNOSTICS.iter().flat_map(|s| s.levels) {
            for word in when.split([' ', ';', ',', '(', ')']).filter(|w| w.starts_with("thresholds.")) {
                assert!(word.contains('*') || spec(word).is_some(), "{word}");
            }
        }
    }
}

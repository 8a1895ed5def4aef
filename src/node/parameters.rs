//! The node's parameters: name, type, range, unit and meaning are written once, in [`SPECS`].

use crate::frame::network::DeviceChoice;
use r2r::indexmap::IndexMap;
use r2r::{Parameter, ParameterValue, RosParams};
use std::time::Duration;

/// A parameter.
struct Spec {
    name: &'static str,
    /// Meaning, with unit and range.
    meaning: &'static str,
    default: fn() -> ParameterValue,
    /// Says what is wrong with a value of the right type.
    check: fn(&ParameterValue) -> Result<(), String>,
    /// Whether it may change while the node runs.
    at_run_time: bool,
}

fn any(_: &ParameterValue) -> Result<(), String> {
    Ok(())
}

/// A range check of a double.
macro_rules! within {
    ($low:expr, $high:expr) => {
        |v| match v {
            ParameterValue::Double(x) if ($low..=$high).contains(x) => Ok(()),
            other => Err(format!("expected {} to {}, got {}", $low, $high, show(other))),
        }
    };
}

/// All parameters.
const SPECS: &[Spec] = &[
    Spec {
        name: "model_path",
        meaning: "The model's manifest (model.yaml) or its folder; empty: the model installed with the package",
        default: || ParameterValue::String(String::new()),
        check: any,
        at_run_time: false,
    },
    Spec {
        name: "device",
        meaning: "auto (the first CUDA device, else the processor), cpu, or cuda:N",
        default: || ParameterValue::String("auto".into()),
        check: |v| match v {
            ParameterValue::String(s) => s.parse::<DeviceChoice>().map(|_| ()).map_err(|e| e.to_string()),
            other => Err(format!("got {}", show(other))),
        },
        at_run_time: false,
    },
    Spec {
        name: "num_threads",
        meaning: "Processor threads of the network, 0 to 256; 0: libtorch's own choice (one a core)",
        default: || ParameterValue::Integer(0),
        check: |v| match v {
            ParameterValue::Integer(n) if (0..=256).contains(n) => Ok(()),
            other => Err(format!("expected 0 to 256, got {}", show(other))),
        },
        at_run_time: false,
    },
    Spec {
        name: "input_reliability",
        meaning: "QoS reliability of the image and calibration subscriptions: best_effort (sensor data) or reliable",
        default: || ParameterValue::String("best_effort".into()),
        check: |v| match v {
            ParameterValue::String(s) if s == "best_effort" || s == "reliable" => Ok(()),
            other => Err(format!("expected best_effort or reliable, got {}", show(other))),
        },
        at_run_time: false,
    },
    Spec {
        name: "overlay_opacity",
        meaning: "Share of the class colour in the overlay picture, 0 to 1",
        default: || ParameterValue::Double(0.5),
        check: within!(0.0, 1.0),
        at_run_time: true,
    },
    Spec {
        name: "max_age_ms",
        meaning: "Median age of a frame at publication above which diagnostics warn, milliseconds, 1 to 1e6",
        default: || ParameterValue::Double(1000.0),
        check: within!(1.0, 1e6),
        at_run_time: true,
    },
    Spec {
        name: "stale_after_s",
        meaning: "Time without an image after which diagnostics say STALE, seconds, 0.1 to 1e6",
        default: || ParameterValue::Double(2.0),
        check: within!(0.1, 1e6),
        at_run_time: true,
    },
    Spec {
        name: "use_sim_time",
        meaning: "Take the time from /clock: the age of frames of a played bag",
        default: || ParameterValue::Bool(false),
        check: any,
        at_run_time: false,
    },
];

/// A value as a user writes it.
fn show(v: &ParameterValue) -> String {
    match v {
        ParameterValue::Bool(x) => x.to_string(),
        ParameterValue::Integer(x) => x.to_string(),
        ParameterValue::Double(x) => format!("{x:?}"),
        ParameterValue::String(x) => format!("'{x}'"),
        other => other.type_name().to_string(),
    }
}

/// What is needed to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Empty for the installed model.
    pub model_path: String,
    /// Device.
    pub device: DeviceChoice,
    /// 0 for libtorch's own choice.
    pub num_threads: i32,
    /// Reliable instead of best effort.
    pub reliable_input: bool,
}

/// What diagnostics compare with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Median age at publication.
    pub max_age: Duration,
    /// Without an image.
    pub stale_after: Duration,
}

/// The parameters' values.
#[derive(Debug)]
pub struct Parameters {
    /// In the order of [`SPECS`].
    values: Vec<ParameterValue>,
    /// From now on only what may change at run time may change.
    started: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { values: SPECS.iter().map(|s| (s.default)()).collect(), started: false }
    }
}

impl Parameters {
    /// The start is over.
    pub fn start(&mut self) {
        self.started = true;
    }

    fn value(&self, name: &str) -> ParameterValue {
        let at = SPECS.iter().position(|s| s.name == name);
        at.map_or(ParameterValue::NotSet, |i| self.values[i].clone())
    }

    fn number(&self, name: &str) -> f64 {
        match self.value(name) {
            ParameterValue::Double(x) => x,
            _ => 0.0,
        }
    }

    fn text(&self, name: &str) -> String {
        match self.value(name) {
            ParameterValue::String(s) => s,
            _ => String::new(),
        }
    }

    /// What is needed to start.
    ///
    /// # Errors
    /// Never in practice: every value was checked when it was set.
    pub fn settings(&self) -> Result<Settings, String> {
        let threads = match self.value("num_threads") {
            ParameterValue::Integer(n) => n as i32,
            _ => 0,
        };
        Ok(Settings {
            model_path: self.text("model_path"),
            device: self.text("device").parse().map_err(|e| format!("device: {e}"))?,
            num_threads: threads,
            reliable_input: self.text("input_reliability") == "reliable",
        })
    }

    /// What diagnostics compare with.
    pub fn limits(&self) -> Limits {
        Limits {
            max_age: Duration::from_secs_f64(self.number("max_age_ms") / 1e3),
            stale_after: Duration::from_secs_f64(self.number("stale_after_s")),
        }
    }

    /// Share of the class colour in the overlay.
    pub fn overlay_opacity(&self) -> f32 {
        self.number("overlay_opacity") as f32
    }

    /// The value that may be set, or why not.
    fn accept(&self, name: &str, value: &ParameterValue) -> Result<(usize, ParameterValue), String> {
        let Some(at) = SPECS.iter().position(|s| s.name == name) else {
            let nearest = nearest(name).map_or(String::new(), |n| format!("; did you mean {n}?"));
            return Err(format!("there is no such parameter{nearest}"));
        };
        let spec = &SPECS[at];
        let wanted = (spec.default)();
        let value = match (value, &wanted) {
            // 1 is written for 1.0 more often than not.
            (ParameterValue::Integer(n), ParameterValue::Double(_)) => ParameterValue::Double(*n as f64),
            (v, _) => v.clone(),
        };
        if value.type_name() != wanted.type_name() {
            return Err(format!("expected a {}, got the {} {}", wanted.type_name(), value.type_name(), show(&value)));
        }
        (spec.check)(&value)?;
        if self.started && !spec.at_run_time && value != self.values[at] {
            return Err("it is read at the start only; set it in the parameter file and start the node again".into());
        }
        Ok((at, value))
    }
}

/// The parameter whose name is nearest, if any is near (Levenshtein distance of at most a third of its length).
fn nearest(name: &str) -> Option<&'static str> {
    SPECS.iter().map(|s| (distance(name, s.name), s.name)).filter(|(d, n)| *d * 3 <= n.len()).min().map(|(_, n)| n)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn refusal(name: &str, msg: String) -> r2r::Error {
    r2r::Error::ParameterValueConv { name: name.into(), msg }
}

/// The text of an error of r2r's parameter handler, without its own preamble.
pub fn message(e: &r2r::Error) -> String {
    match e {
        r2r::Error::ParameterValueConv { name, msg } => format!("{name}: {msg}"),
        other => other.to_string(),
    }
}

impl RosParams for Parameters {
    fn register_parameters(
        &mut self,
        _prefix: &str,
        _param: Option<Parameter>,
        params: &mut IndexMap<String, Parameter>,
    ) -> r2r::Result<()> {
        // What the command line and the parameter file say is in `params` already.
        for (name, given) in params.iter() {
            let (at, value) = self.accept(name, &given.value).map_err(|msg| refusal(name, msg))?;
            self.values[at] = value;
        }
        for (spec, value) in SPECS.iter().zip(&self.values) {
            let mut parameter = Parameter::new(value.clone());
            parameter.description = spec.meaning;
            params.insert(spec.name.into(), parameter);
        }
        Ok(())
    }

    fn get_parameter(&mut self, name: &str) -> r2r::Result<ParameterValue> {
        match self.value(name) {
            ParameterValue::NotSet => Err(r2r::Error::InvalidParameterName { name: name.into() }),
            value => Ok(value),
        }
    }

    fn set_parameter(&mut self, name: &str, value: &ParameterValue) -> r2r::Result<()> {
        let (at, value) = self.accept(name, value).map_err(|msg| refusal(name, msg))?;
        self.values[at] = value;
        Ok(())
    }

    fn check_parameter(&self, name: &str, value: &ParameterValue) -> r2r::Result<()> {
        self.accept(name, value).map(|_| ()).map_err(|msg| refusal(name, msg))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str, value: ParameterValue) -> Result<Parameters, String> {
        let mut p = Parameters::default();
        let mut params = IndexMap::new();
        params.insert(name.to_string(), Parameter::new(value));
        p.register_parameters("", None, &mut params).map_err(|e| message(&e))?;
        assert_eq!(params.len(), SPECS.len(), "every parameter is declared");
        assert!(params.values().all(|p| !p.description.is_empty()));
        Ok(p)
    }

    #[test]
    fn every_default_passes_its_own_check() {
        for s in SPECS {
            (s.check)(&(s.default)()).expect(s.name);
        }
        assert!(Parameters::default().settings().is_ok());
    }

    #[test]
    fn values_are_taken_and_wrong_ones_named() {
        let p = given("overlay_opacity", ParameterValue::Integer(1)).expect("1 is 1.0");
        assert_eq!(p.overlay_opacity(), 1.0);
        for (name, value, expected) in [
            ("overlay_opacity", ParameterValue::Double(1.5), "overlay_opacity: expected 0 to 1, got 1.5"),
            ("overlay_opacity", ParameterValue::Double(f64::NAN), "expected 0 to 1, got NaN"),
            ("device", ParameterValue::String("tpu:0".into()), "device: "),
            ("device", ParameterValue::Integer(3), "device: expected a string, got the integer 3"),
            ("overlay_opasity", ParameterValue::Double(0.1), "did you mean overlay_opacity?"),
            ("zebra", ParameterValue::Double(0.1), "zebra: there is no such parameter"),
            ("input_reliability", ParameterValue::String("maybe".into()), "expected best_effort or reliable"),
            ("num_threads", ParameterValue::Integer(-1), "expected 0 to 256, got -1"),
        ] {
            let message = given(name, value).expect_err(expected);
            assert!(message.contains(expected), "'{expected}' is not in '{message}'");
        }
    }

    #[test]
    fn after_the_start_only_some_may_change() {
        let mut p = Parameters::default();
        p.start();
        p.set_parameter("overlay_opacity", &ParameterValue::Double(0.2)).expect("may change");
        assert_eq!(p.overlay_opacity(), 0.2);
        let e = p.set_parameter("device", &ParameterValue::String("cpu".into())).expect_err("may not change");
        assert!(message(&e).contains("start the node again"), "{e}");
        p.set_parameter("device", &ParameterValue::String("auto".into())).expect("it is what it was");
    }
}

//! The node's parameters on the ROS side: what the command line and files gave, the six services, `/parameter_events`.
//! What the parameters are and what is valid is in [`crate::interface`].
//!
//! Everything happens on the spinning thread: [`ParameterServer::poll`] answers what waits, so a value that a client has
//! just set holds for whatever the thread does next.

use super::service::{respond, Requests};
use super::settings::Settings;
use super::{lock, logger, names::Names, parameter_files, qos};
use crate::causes::cut;
use crate::data::classes::Class;
use crate::interface::qos::Role;
use crate::interface::set::list;
use crate::interface::{topics, Change, Kind, ParameterSet, Value};
use anyhow::{anyhow, Context as _};
use r2r::rcl_interfaces::msg::{
    FloatingPointRange, IntegerRange, ListParametersResult, Parameter, ParameterDescriptor, ParameterEvent,
    ParameterValue, SetParametersResult,
};
use r2r::rcl_interfaces::srv::{
    DescribeParameters, GetParameterTypes, GetParameters, ListParameters, SetParameters, SetParametersAtomically,
};
use r2r::{Clock, QosProfile};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// What the names of classes in new values are held against.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// Nothing: there is no model, and the one to come is held against them.
    Nothing,
    /// A model that loads: it was asked for with the values that there are, and one that it lacks would end the loading
    /// in a failure, the node's own start even in its end. They are not changed.
    Loading,
    /// Those of the model in use.
    Classes(&'a [Class]),
}

impl Known<'_> {
    fn check(self, next: &ParameterSet) -> Result<(), String> {
        match self {
            Self::Nothing => Ok(()),
            Self::Loading => Err("a model is loading: set it once that is done".into()),
            Self::Classes(table) => Settings::of(next).check_classes(table),
        }
    }
}

/// The parameters, and the services through which others see and change them.
pub struct ParameterServer {
    set: ParameterSet,
    /// Fully qualified, for the events.
    node: String,
    list: Requests<ListParameters::Service>,
    get: Requests<GetParameters::Service>,
    types: Requests<GetParameterTypes::Service>,
    describe: Requests<DescribeParameters::Service>,
    set_each: Requests<SetParameters::Service>,
    set_together: Requests<SetParametersAtomically::Service>,
    events: r2r::Publisher<ParameterEvent>,
    clock: Arc<Mutex<Clock>>,
}

impl ParameterServer {
    /// Reads what the command line and parameter files gave (r2r keeps it in `node.params`), proves all of it, and
    /// creates the services. `--log-level` is the default of `log_level`: the logger is there already. With
    /// `use_sim_time`, the node's clock follows `/clock` from here on.
    ///
    /// # Errors
    /// A key of a parameter file that would be ignored; everything that is wrong with the parameters, each with its name; a
    /// service that cannot be created.
    pub fn create(node: &mut r2r::Node) -> anyhow::Result<Self> {
        let name = node.fully_qualified_name().context("the node's own name")?;
        let ours = parameter_files::check(&name)?;
        let (set, mut ignored) = read(node, &ours)?;
        let names = Names::of(node)?;
        let of_node: Vec<(String, Role)> =
            topics::all(set.camera_names()).iter().map(|(n, t)| (names.topic(&names.request(n)), t.role)).collect();
        let is_ours = |name: &str| ours.contains(name);
        ignored.extend(set.check_qos_topics(&of_node, is_ours).map_err(|e| anyhow!("parameters: {e}"))?);
        if !ignored.is_empty() {
            log::warn!("parameters that were said to all nodes and are none of this one: {}", ignored.join(", "));
        }
        if set.node().use_sim_time {
            node.get_time_source().enable_sim_time(node).context("use_sim_time: cannot subscribe to /clock")?;
        }
        let events = names.topic("/parameter_events");
        let event_qos = qos::overridden(QosProfile::parameter_events(), &set, &events, Role::Publisher);
        Ok(Self {
            set,
            node: name,
            list: Requests::serve(node, "~/list_parameters", QosProfile::parameters())?,
            get: Requests::serve(node, "~/get_parameters", QosProfile::parameters())?,
            types: Requests::serve(node, "~/get_parameter_types", QosProfile::parameters())?,
            describe: Requests::serve(node, "~/describe_parameters", QosProfile::parameters())?,
            set_each: Requests::serve(node, "~/set_parameters", QosProfile::parameters())?,
            set_together: Requests::serve(node, "~/set_parameters_atomically", QosProfile::parameters())?,
            events: node
                .create_publisher("/parameter_events", event_qos)
                .context("cannot publish /parameter_events")?,
            clock: node.get_ros_clock(),
        })
    }

    /// The values now.
    pub fn set(&self) -> &ParameterSet {
        &self.set
    }

    /// Answers waiting requests; true if a value changed. `known`: what class names of new values must be among.
    pub fn poll(&mut self, node: &mut r2r::Node, known: Known<'_>) -> bool {
        while let Some(request) = self.list.waiting() {
            let (names, prefixes) = list(&self.set.names(), &request.message.prefixes, request.message.depth);
            respond(request, ListParameters::Response { result: ListParametersResult { names, prefixes } });
        }
        while let Some(request) = self.get.waiting() {
            let value = |name: &String| message(self.set.get(name).unwrap_or(Value::NotSet));
            let values = request.message.names.iter().map(value).collect();
            respond(request, GetParameters::Response { values });
        }
        while let Some(request) = self.types.waiting() {
            let type_of = |name: &String| type_number(&self.set.get(name).unwrap_or(Value::NotSet));
            let types = request.message.names.iter().map(type_of).collect();
            respond(request, GetParameterTypes::Response { types });
        }
        while let Some(request) = self.describe.waiting() {
            let descriptors = request.message.names.iter().map(|name| descriptor(&self.set, name)).collect();
            respond(request, DescribeParameters::Response { descriptors });
        }
        let mut changed = false;
        while let Some(request) = self.set_each.waiting() {
            let mut results = Vec::with_capacity(request.message.parameters.len());
            for parameter in &request.message.parameters {
                results.push(self.apply(node, std::slice::from_ref(parameter), known, &mut changed));
            }
            respond(request, SetParameters::Response { results });
        }
        while let Some(request) = self.set_together.waiting() {
            let result = self.apply(node, &request.message.parameters, known, &mut changed);
            respond(request, SetParametersAtomically::Response { result });
        }
        changed
    }

    /// Sets all of them or none.
    fn apply(
        &mut self,
        node: &mut r2r::Node,
        parameters: &[Parameter],
        known: Known<'_>,
        changed: &mut bool,
    ) -> SetParametersResult {
        match self.try_apply(node, parameters, known) {
            Ok(any) => {
                *changed |= any;
                SetParametersResult { successful: true, reason: String::new() }
            }
            Err((name, why)) => {
                // A value is said again in it, whatever its length.
                let reason = cut(format!("{name}: {why}"));
                log::warn!("a parameter was not set: {reason}");
                // A C string ends at a NUL.
                SetParametersResult { successful: false, reason: reason.replace('\0', "\u{fffd}") }
            }
        }
    }

    fn try_apply(
        &mut self,
        node: &mut r2r::Node,
        parameters: &[Parameter],
        known: Known<'_>,
    ) -> Result<bool, (String, String)> {
        let wanted = parameters.iter().map(|p| (p.name.clone(), value(&p.value))).collect();
        let mut next = self.set.clone();
        let changes = next.set_all(wanted)?;
        if let Some(p) = parameters.iter().find(|p| p.name.ends_with("classes")) {
            known.check(&next).map_err(|why| (p.name.clone(), why))?;
        }
        let (before, after) = (self.set.node().use_sim_time, next.node().use_sim_time);
        if after && !before {
            let enabled = node.get_time_source().enable_sim_time(node);
            enabled.map_err(|e| ("use_sim_time".to_string(), format!("cannot subscribe to /clock: {e}")))?;
        } else if before && !after {
            node.get_time_source().disable_sim_time();
        }
        self.set = next;
        if parameters.iter().any(|p| p.name == "log_level") {
            // Even where the value is what it was: `~/set_logger_levels` may have said otherwise meanwhile.
            logger::set_level(self.set.node().log_level);
        }
        let mut event = ParameterEvent { node: self.node.clone(), ..ParameterEvent::default() };
        for (parameter, change) in parameters.iter().zip(&changes) {
            let value = self.set.get(&parameter.name).unwrap_or(Value::NotSet);
            if *change != Change::None {
                log::info!("parameter {} is {value}", parameter.name);
            }
            let now = || Parameter { name: parameter.name.clone(), value: message(value.clone()) };
            match change {
                Change::None => {}
                Change::New => event.new_parameters.push(now()),
                Change::Changed => event.changed_parameters.push(now()),
                Change::Deleted => event
                    .deleted_parameters
                    .push(Parameter { name: parameter.name.clone(), value: ParameterValue::default() }),
            }
        }
        let any = changes.iter().any(|c| *c != Change::None);
        if any {
            if let Ok(time) = lock(&self.clock).get_now() {
                event.stamp = Clock::to_builtin_time(&time);
            }
            if let Err(e) = self.events.publish(&event) {
                log::warn!("cannot publish /parameter_events: {e}");
            }
        }
        Ok(any)
    }
}

/// The parameters that were given, proven, and those that are another node's. `ours`: what was said to this node by its name.
fn read(node: &r2r::Node, ours: &HashSet<String>) -> anyhow::Result<(ParameterSet, Vec<String>)> {
    let mut given: Vec<(String, Value)> = Vec::new();
    // What files and `-p` say comes after it and wins.
    given.push(("log_level".into(), Value::String(level_name(log::max_level()).into())));
    for (name, parameter) in lock(&node.params).iter() {
        given.push((name.clone(), from_r2r(&parameter.value)));
    }
    ParameterSet::of_shared(given, |name| ours.contains(name)).map_err(|problems| match problems.0.as_slice() {
        [one] => anyhow!("parameters: {one}"),
        many => anyhow!("parameters:\n  {}", many.join("\n  ")),
    })
}

/// As the parameter `log_level` has it.
fn level_name(level: log::LevelFilter) -> &'static str {
    match level {
        log::LevelFilter::Off | log::LevelFilter::Error => "error",
        log::LevelFilter::Warn => "warn",
        log::LevelFilter::Info => "info",
        log::LevelFilter::Debug | log::LevelFilter::Trace => "debug",
    }
}

fn descriptor(set: &ParameterSet, name: &str) -> ParameterDescriptor {
    let mut descriptor = ParameterDescriptor { name: name.into(), ..ParameterDescriptor::default() };
    let Some(d) = set.describe(name) else { return descriptor };
    descriptor.type_ = kind_number(d.kind);
    descriptor.description = d.meaning;
    descriptor.additional_constraints = d.constraints;
    descriptor.read_only = d.read_only;
    match (d.kind, d.range) {
        (Kind::Integer, Some((low, high))) => {
            descriptor.integer_range.push(IntegerRange { from_value: low as i64, to_value: high as i64, step: 1 });
        }
        (_, Some((low, high))) => {
            descriptor.floating_point_range.push(FloatingPointRange { from_value: low, to_value: high, step: 0.0 });
        }
        _ => {}
    }
    descriptor
}

/// The numbers of rcl_interfaces/ParameterType.
mod number {
    use r2r::rcl_interfaces::msg::ParameterType as T;
    pub const NOT_SET: u8 = T::PARAMETER_NOT_SET as u8;
    pub const BOOL: u8 = T::PARAMETER_BOOL as u8;
    pub const INTEGER: u8 = T::PARAMETER_INTEGER as u8;
    pub const DOUBLE: u8 = T::PARAMETER_DOUBLE as u8;
    pub const STRING: u8 = T::PARAMETER_STRING as u8;
    pub const BYTES: u8 = T::PARAMETER_BYTE_ARRAY as u8;
    pub const BOOLS: u8 = T::PARAMETER_BOOL_ARRAY as u8;
    pub const INTEGERS: u8 = T::PARAMETER_INTEGER_ARRAY as u8;
    pub const DOUBLES: u8 = T::PARAMETER_DOUBLE_ARRAY as u8;
    pub const STRINGS: u8 = T::PARAMETER_STRING_ARRAY as u8;
}

fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::Bool => number::BOOL,
        Kind::Integer => number::INTEGER,
        Kind::Double => number::DOUBLE,
        Kind::String => number::STRING,
        Kind::Integers => number::INTEGERS,
        Kind::Strings => number::STRINGS,
    }
}

fn type_number(value: &Value) -> u8 {
    match value {
        Value::NotSet => number::NOT_SET,
        Value::Bool(_) => number::BOOL,
        Value::Integer(_) => number::INTEGER,
        Value::Double(_) => number::DOUBLE,
        Value::String(_) => number::STRING,
        Value::Bytes(_) => number::BYTES,
        Value::Bools(_) => number::BOOLS,
        Value::Integers(_) => number::INTEGERS,
        Value::Doubles(_) => number::DOUBLES,
        Value::Strings(_) => number::STRINGS,
    }
}

fn message(value: Value) -> ParameterValue {
    let mut m = ParameterValue { type_: type_number(&value), ..ParameterValue::default() };
    match value {
        Value::NotSet => {}
        Value::Bool(x) => m.bool_value = x,
        Value::Integer(x) => m.integer_value = x,
        Value::Double(x) => m.double_value = x,
        Value::String(x) => m.string_value = x,
        Value::Bytes(v) => m.byte_array_value = v,
        Value::Bools(v) => m.bool_array_value = v,
        Value::Integers(v) => m.integer_array_value = v,
        Value::Doubles(v) => m.double_array_value = v,
        Value::Strings(v) => m.string_array_value = v,
    }
    m
}

/// A type that rcl_interfaces does not have reads as no value.
fn value(m: &ParameterValue) -> Value {
    match m.type_ {
        number::BOOL => Value::Bool(m.bool_value),
        number::INTEGER => Value::Integer(m.integer_value),
        number::DOUBLE => Value::Double(m.double_value),
        number::STRING => Value::String(m.string_value.clone()),
        number::BYTES => Value::Bytes(m.byte_array_value.clone()),
        number::BOOLS => Value::Bools(m.bool_array_value.clone()),
        number::INTEGERS => Value::Integers(m.integer_array_value.clone()),
        number::DOUBLES => Value::Doubles(m.double_array_value.clone()),
        number::STRINGS => Value::Strings(m.string_array_value.clone()),
        _ => Value::NotSet,
    }
}

fn from_r2r(value: &r2r::ParameterValue) -> Value {
    match value {
        r2r::ParameterValue::NotSet => Value::NotSet,
        r2r::ParameterValue::Bool(x) => Value::Bool(*x),
        r2r::ParameterValue::Integer(x) => Value::Integer(*x),
        r2r::ParameterValue::Double(x) => Value::Double(*x),
        r2r::ParameterValue::String(x) => Value::String(x.clone()),
        r2r::ParameterValue::ByteArray(v) => Value::Bytes(v.clone()),
        r2r::ParameterValue::BoolArray(v) => Value::Bools(v.clone()),
        r2r::ParameterValue::IntegerArray(v) => Value::Integers(v.clone()),
        r2r::ParameterValue::DoubleArray(v) => Value::Doubles(v.clone()),
        r2r::ParameterValue::StringArray(v) => Value::Strings(v.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_there_and_back() {
        for v in [
            Value::NotSet,
            Value::Bool(true),
            Value::Integer(-3),
            Value::Double(0.5),
            Value::String("x".into()),
            Value::Bytes(vec![1]),
            Value::Bools(vec![false]),
            Value::Integers(vec![1, 2]),
            Value::Doubles(vec![0.25]),
            Value::Strings(vec!["a".into()]),
        ] {
            assert_eq!(value(&message(v.clone())), v);
        }
        assert_eq!(value(&ParameterValue { type_: 77, ..ParameterValue::default() }), Value::NotSet);
    }

    #[test]
    fn descriptors_have_ranges_of_their_type() {
        let set = ParameterSet::default();
        let opacity = descriptor(&set, "overlay_opacity");
        assert_eq!(opacity.floating_point_range.len(), 1);
        assert_eq!((opacity.floating_point_range[0].to_value, opacity.read_only), (1.0, false));
        let level = descriptor(&set, "png_level");
        assert_eq!((level.integer_range[0].from_value, level.integer_range[0].to_value), (1, 9));
        let device = descriptor(&set, "device");
        assert!(device.read_only && device.additional_constraints.contains("cuda:N"));
        let nothing = descriptor(&set, "zebra");
        assert_eq!((nothing.name.as_str(), nothing.type_), ("zebra", number::NOT_SET));
    }
}

//! The parameters' values: read, checked, changed.

use super::parameters::{index, Spec, PARAMETERS, THRESHOLD_PAIRS};
use super::qos::{self, Key, Overrides, QosOverride, Role};
use super::value::{Kind, Value};
use crate::nearest::{nearest, suggestion};
use std::collections::BTreeMap;
use std::fmt;

/// All values of the parameters. It is valid at every moment: what would make it invalid is refused.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSet {
    /// In the order of [`PARAMETERS`].
    values: Vec<Value>,
    /// Names of the cameras; empty for the one unnamed camera.
    cameras: Vec<String>,
    /// (camera, parameter) as indices -> the value of `CAMERA.NAME`, where it was given.
    overrides: BTreeMap<(usize, usize), Value>,
    qos: Overrides,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// Index into [`PARAMETERS`].
    Node(usize),
    /// Index into the cameras, and into [`PARAMETERS`].
    Camera(usize, usize),
    Qos(Key),
}

/// Everything that is wrong with the given parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// What setting a parameter did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The value is what it was.
    None,
    /// `CAMERA.NAME` has a value of its own now.
    New,
    /// Another value.
    Changed,
    /// `CAMERA.NAME` follows `NAME` again.
    Deleted,
}

/// What there is to know of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Type.
    pub kind: Kind,
    /// What it does, with its unit.
    pub meaning: String,
    /// Valid values that are no range, in words; and whether it can be set for one camera.
    pub constraints: String,
    /// Smallest and largest value of a number.
    pub range: Option<(f64, f64)>,
    /// Whether it is read at the start only.
    pub read_only: bool,
}

impl Default for ParameterSet {
    fn default() -> Self {
        Self {
            values: PARAMETERS.iter().map(|s| s.default.value()).collect(),
            cameras: Vec::new(),
            overrides: BTreeMap::new(),
            qos: Overrides::default(),
        }
    }
}

/// Why a name is refused that is near no other one.
const NO_SUCH: &str = "there is no such parameter";

impl ParameterSet {
    /// The defaults, and over them what was given (a file, the command line); of a name given twice, the last counts.
    ///
    /// # Errors
    /// Everything that is wrong with it: misspelt names with the nearest right one, wrong types, values out of range.
    pub fn new(given: impl IntoIterator<Item = (String, Value)>) -> Result<Self, Problems> {
        Self::of_shared(given, |_| true).map(|(set, _)| set)
    }

    /// As [`Self::new`], of values some of which were said to all nodes and may be meant for others. `is_ours`: whether a name was
    /// said to this node by the node's name. Of the others one that is near no name of ours is ignored; returned are these names.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_shared(
        given: impl IntoIterator<Item = (String, Value)>,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<(Self, Vec<String>), Problems> {
        let given: Vec<(String, Value)> = given.into_iter().collect();
        let mut set = Self::default();
        let (mut problems, mut ignored) = (Vec::new(), Vec::new());
        let is_cameras = |name: &str| name == "cameras";
        // Which names there are depends on the cameras, so they are read first.
        let (first, rest): (Vec<_>, Vec<_>) = given.into_iter().partition(|(name, _)| is_cameras(name));
        let cameras_are_known = first.iter().all(|(_, value)| {
            index("cameras").is_some_and(|i| PARAMETERS[i].accept(from_file(&PARAMETERS[i], value.clone())).is_ok())
        });
        for (name, value) in first.into_iter().chain(rest) {
            let put = set.target(&name).and_then(|target| set.put(&target, value, true));
            if let Err(why) = put {
                if !is_ours(&name) && set.is_foreign(&name, &why) {
                    ignored.push(name);
                    continue;
                }
                // Without the cameras' names, names that begin with one cannot be judged.
                if cameras_are_known || is_cameras(&name) || !name.contains('.') {
                    problems.push(format!("{name}: {why}"));
                }
            }
        }
        if problems.is_empty() {
            problems = set.conflicts();
        }
        if problems.is_empty() {
            Ok((set, ignored))
        } else {
            Err(Problems(problems))
        }
    }

    /// Whether nothing in a name that was refused with this reason is ours.
    fn is_foreign(&self, name: &str, why: &str) -> bool {
        let first = name.split('.').next().unwrap_or(name);
        let is_group = |group: &str| PARAMETERS.iter().any(|p| p.name.split_once('.').is_some_and(|(g, _)| g == group));
        why == NO_SUCH && !is_group(first) && !self.cameras.iter().any(|camera| camera == first)
    }

    /// Names of the cameras; empty for the one unnamed camera.
    pub fn camera_names(&self) -> &[String] {
        &self.cameras
    }

    /// How many cameras there are: the unnamed one counts.
    pub fn camera_count(&self) -> usize {
        self.cameras.len().max(1)
    }

    /// The value of a parameter; for `CAMERA.NAME` without a value of its own, that of `NAME`. `None`: no such
    /// parameter.
    pub fn get(&self, name: &str) -> Option<Value> {
        match self.find(name)? {
            Target::Node(i) => Some(self.values[i].clone()),
            Target::Camera(camera, i) => Some(self.of_camera(camera, i).clone()),
            Target::Qos(key) => self.qos.0.get(&key).cloned(),
        }
    }

    /// All names that have a value of their own, sorted: every parameter, and those of `CAMERA.NAME` and
    /// `qos_overrides` that were given.
    pub fn names(&self) -> Vec<String> {
        let node = PARAMETERS.iter().map(|s| s.name.to_string());
        let cameras = self.overrides.keys().map(|&(c, i)| format!("{}.{}", self.cameras[c], PARAMETERS[i].name));
        let mut names: Vec<String> = node.chain(cameras).chain(self.qos.0.keys().map(Key::name)).collect();
        names.sort();
        names
    }

    /// What there is to know of a parameter; `None`: no such parameter.
    pub fn describe(&self, name: &str) -> Option<Description> {
        let (i, camera) = match self.find(name)? {
            Target::Node(i) => (i, None),
            Target::Camera(camera, i) => (i, Some(camera)),
            Target::Qos(key) => {
                return self.qos.0.contains_key(&key).then(|| Description {
                    kind: key.policy.kind(),
                    meaning: format!("{} of the {} {}", key.policy.meaning(), key.role.name(), key.topic),
                    constraints: key.policy.choices().join(" or "),
                    range: key.policy.choices().is_empty().then(|| {
                        let (least, most) = key.policy.range();
                        (least as f64, most as f64)
                    }),
                    read_only: true,
                })
            }
        };
        let spec = &PARAMETERS[i];
        let mut constraints = Vec::new();
        let range = match spec.rule {
            super::Rule::Between(low, high) => Some((low, high)),
            ref other => {
                constraints.extend(Some(other.words()).filter(|w| !w.is_empty()));
                None
            }
        };
        let mut meaning = spec.meaning.to_string();
        if !spec.unit.is_empty() {
            meaning = format!("{meaning} [{}]", spec.unit);
        }
        match camera {
            Some(camera) => meaning = format!("{meaning} (camera {})", self.cameras[camera]),
            None if spec.per_camera => constraints.push(format!("CAMERA.{} sets it for one camera", spec.name)),
            None => {}
        }
        Some(Description {
            kind: spec.default.kind(),
            meaning,
            constraints: constraints.join("; "),
            range,
            read_only: !spec.at_run_time,
        })
    }

    /// Sets all of them or none, while the node runs. [`Value::NotSet`] takes the value of `CAMERA.NAME` away.
    ///
    /// # Errors
    /// The name of one that cannot be set, and why.
    pub fn set_all(&mut self, wanted: Vec<(String, Value)>) -> Result<Vec<Change>, (String, String)> {
        let mut next = self.clone();
        let mut changes = Vec::with_capacity(wanted.len());
        let mut last = String::new();
        for (name, value) in wanted {
            let change = next.target(&name).and_then(|target| next.put(&target, value, false));
            changes.push(change.map_err(|why| (name.clone(), why))?);
            last = name;
        }
        // Together: of a pair that must fit, either may be set first.
        if let Some(conflict) = next.conflicts().into_iter().next() {
            return Err((last, conflict));
        }
        *self = next;
        Ok(changes)
    }

    /// What the parameters say of the QoS of one end of a topic (final name).
    pub fn qos_override(&self, topic: &str, role: Role) -> QosOverride {
        self.qos.of(topic, role)
    }

    /// Holds the topics of `qos_overrides` against the topics that there are (final names). `is_ours` as in [`Self::of_shared`];
    /// returned are the names that were ignored.
    ///
    /// # Errors
    /// Topics that the node does not have, each with the nearest one it has.
    pub fn check_qos_topics(
        &self,
        topics: &[(String, Role)],
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, Problems> {
        let (mut problems, mut ignored) = (Vec::new(), Vec::new());
        for key in self.qos.0.keys() {
            if topics.iter().any(|(topic, role)| *topic == key.topic && *role == key.role) {
                continue;
            }
            let verb = match key.role {
                Role::Publisher => "publish",
                Role::Subscription => "subscribe to",
            };
            let same_role = topics.iter().filter(|(_, role)| *role == key.role).map(|(topic, _)| topic.as_str());
            let near = suggestion(&key.topic, same_role);
            if near.is_empty() && !is_ours(&key.name()) {
                ignored.push(key.name());
                continue;
            }
            problems.push(format!("{}: the node does not {verb} {}{near}", key.name(), key.topic));
        }
        if problems.is_empty() {
            Ok(ignored)
        } else {
            Err(Problems(problems))
        }
    }

    /// The value that holds for a camera (index). Both indices are valid.
    pub(super) fn of_camera(&self, camera: usize, parameter: usize) -> &Value {
        self.overrides.get(&(camera, parameter)).unwrap_or(&self.values[parameter])
    }

    /// The value of a parameter of the node.
    pub(super) fn of_node(&self, name: &str) -> &Value {
        index(name).map_or(&Value::NotSet, |i| &self.values[i])
    }

    /// What a name means.
    fn find(&self, name: &str) -> Option<Target> {
        if let Some(i) = index(name) {
            return Some(Target::Node(i));
        }
        let (prefix, rest) = name.split_once('.')?;
        if prefix == qos::PREFIX {
            return name.parse().ok().map(Target::Qos);
        }
        let camera = self.cameras.iter().position(|c| c == prefix)?;
        index(rest).filter(|&i| PARAMETERS[i].per_camera).map(|i| Target::Camera(camera, i))
    }

    /// What a name means, or what is wrong with it and what it may have meant: to find out takes hundreds of comparisons.
    fn target(&self, name: &str) -> Result<Target, String> {
        self.find(name).ok_or_else(|| self.explain(name))
    }

    /// What is wrong with a name that means nothing, and what it may have meant.
    fn explain(&self, name: &str) -> String {
        if name == qos::PREFIX || name.starts_with(&format!("{}.", qos::PREFIX)) {
            return name.parse::<Key>().err().unwrap_or_default();
        }
        let none = NO_SUCH;
        let per_camera = || PARAMETERS.iter().filter(|s| s.per_camera).map(|s| s.name);
        if let Some((prefix, rest)) = name.split_once('.') {
            if self.cameras.iter().any(|c| c == prefix) {
                if index(rest).is_some() {
                    return format!("{rest} belongs to the node and cannot be set for one camera");
                }
                return match nearest(rest, per_camera()) {
                    Some(near) => format!("{none}; did you mean {prefix}.{near}?"),
                    None => none.into(),
                };
            }
            if index(rest).is_some_and(|i| PARAMETERS[i].per_camera) {
                let known = match self.cameras.as_slice() {
                    [] => "the parameter cameras is empty".to_string(),
                    names => format!("cameras: {}", names.join(", ")),
                };
                let near = nearest(prefix, self.cameras.iter().map(String::as_str))
                    .map_or_else(String::new, |n| format!("; did you mean {n}.{rest}?"));
                return format!("there is no camera {prefix:?} ({known}){near}");
            }
            if rest.starts_with('/') && nearest(prefix, [qos::PREFIX]).is_some() {
                return format!("{none}; did you mean {}.{rest}?", qos::PREFIX);
            }
        }
        let of_cameras: Vec<String> =
            self.cameras.iter().flat_map(|c| per_camera().map(move |n| format!("{c}.{n}"))).collect();
        let all = PARAMETERS.iter().map(|s| s.name).chain(of_cameras.iter().map(String::as_str));
        format!("{none}{}", suggestion(name, all))
    }

    /// Stores one value. `starting`: everything may still be set.
    fn put(&mut self, target: &Target, value: Value, starting: bool) -> Result<Change, String> {
        let fixed =
            || "it is read at the start only; set it in the parameter file and start the node again".to_string();
        match target {
            Target::Node(i) => {
                let spec = &PARAMETERS[*i];
                if value == Value::NotSet && !starting {
                    return Err("it cannot be deleted".into());
                }
                let value = spec.accept(if starting { from_file(spec, value) } else { value })?;
                if self.values[*i] == value {
                    return Ok(Change::None);
                }
                if !starting && !spec.at_run_time {
                    return Err(fixed());
                }
                if let (true, Value::Strings(names)) = (spec.name == "cameras", &value) {
                    self.cameras.clone_from(names);
                    self.overrides.clear();
                }
                self.values[*i] = value;
                Ok(Change::Changed)
            }
            &Target::Camera(camera, i) => {
                let spec = &PARAMETERS[i];
                let before = self.overrides.get(&(camera, i)).cloned();
                let after = match value {
                    Value::NotSet if !starting => None,
                    value => Some(spec.accept(if starting { from_file(spec, value) } else { value })?),
                };
                let effective = after.as_ref().unwrap_or(&self.values[i]);
                if !starting && !spec.at_run_time && effective != self.of_camera(camera, i) {
                    return Err(fixed());
                }
                let change = match (&before, &after) {
                    (None, None) => Change::None,
                    (None, Some(_)) => Change::New,
                    (Some(_), None) => Change::Deleted,
                    (Some(a), Some(b)) if a == b => Change::None,
                    (Some(_), Some(_)) => Change::Changed,
                };
                match after {
                    Some(value) => self.overrides.insert((camera, i), value),
                    None => self.overrides.remove(&(camera, i)),
                };
                Ok(change)
            }
            Target::Qos(key) => {
                let before = self.qos.0.get(key);
                if !starting {
                    return match key.accept(value) {
                        Ok(value) if before == Some(&value) => Ok(Change::None),
                        Ok(_) => Err(fixed()),
                        Err(why) => Err(why),
                    };
                }
                self.qos.0.insert(key.clone(), key.accept(value)?);
                Ok(Change::Changed)
            }
        }
    }

    /// Values that are valid each, but not together.
    fn conflicts(&self) -> Vec<String> {
        let mut found = Vec::new();
        for &(warn, error, higher_is_worse) in THRESHOLD_PAIRS {
            let (Value::Double(w), Value::Double(e)) = (self.of_node(warn), self.of_node(error)) else { continue };
            // Where 1 is off, 0 is a value like any other.
            let off = if warn.starts_with("thresholds.drop_ratio") { 1.0 } else { 0.0 };
            if *w == off || *e == off {
                continue;
            }
            let (worse, word) = if higher_is_worse { (w > e, "above") } else { (w < e, "below") };
            if worse {
                found.push(format!("{warn} ({w:?}) is {word} {error} ({e:?}): the warning would never come first"));
            }
        }
        for camera in 0..self.camera_count() {
            let label = |name: &str| match self.cameras.get(camera) {
                Some(c) => format!("{name} of camera {c}"),
                None => name.into(),
            };
            let of = |name: &str| index(name).map_or(&Value::NotSet, |i| self.of_camera(camera, i));
            if let (Value::String(mode), Value::Integers(roi)) = (of("resize_mode"), of("roi")) {
                if mode == "roi" && (roi[2] == 0 || roi[3] == 0) {
                    found.push(format!(
                        "{} is roi, but roi is {roi:?}: set roi to x, y, width, height with a width and height above 0",
                        label("resize_mode")
                    ));
                }
            }
            if let (Value::Double(least), Value::Double(most)) = (of("points.min_range_m"), of("points.max_range_m")) {
                if least >= most {
                    found.push(format!(
                        "{} ({least:?}) is not below points.max_range_m ({most:?}): there would be no points",
                        label("points.min_range_m")
                    ));
                }
            }
            if let (Value::Strings(free), Value::Strings(obstacles)) =
                (of("mask.free_classes"), of("mask.obstacle_classes"))
            {
                if let Some(both) = free.iter().find(|c| obstacles.contains(c)) {
                    found.push(format!(
                        "{both:?} is in both {} and mask.obstacle_classes; a class is one or the other",
                        label("mask.free_classes")
                    ));
                }
            }
        }
        found.dedup();
        found
    }
}

/// rcl makes no value at all of `[]` in a YAML file.
fn from_file(spec: &Spec, value: Value) -> Value {
    match (spec.default.kind(), value) {
        (Kind::Strings, Value::NotSet) => Value::Strings(Vec::new()),
        (Kind::Integers, Value::NotSet) => Value::Integers(Vec::new()),
        (_, value) => value,
    }
}

/// The names and prefixes that `list_parameters` answers, as rclcpp does. `depth` 0: all levels.
pub fn list(names: &[String], prefixes: &[String], depth: u64) -> (Vec<String>, Vec<String>) {
    let shallow = |name: &str| depth == 0 || (name.matches('.').count() as u64) < depth;
    let wanted = |name: &str| {
        if prefixes.is_empty() {
            return shallow(name);
        }
        prefixes.iter().any(|prefix| match name.strip_prefix(prefix.as_str()) {
            Some("") => true,
            Some(rest) => rest.strip_prefix('.').is_some_and(shallow),
            None => false,
        })
    };
    let found: Vec<String> = names.iter().filter(|n| wanted(n)).cloned().collect();
    let mut groups: Vec<String> =
        found.iter().filter_map(|n| n.rsplit_once('.')).map(|(group, _)| group.to_string()).collect();
    groups.sort();
    groups.dedup();
    (found, groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Value {
        Value::String(s.into())
    }

    fn texts(v: &[&str]) -> Value {
        Value::Strings(v.iter().map(|s| s.to_string()).collect())
    }

    fn given(pairs: &[(&str, Value)]) -> Result<ParameterSet, Problems> {
        ParameterSet::new(pairs.iter().map(|(n, v)| (n.to_string(), v.clone())))
    }

    #[test]
    fn a_camera_has_its_own_value_or_the_common_one() {
        let set = given(&[
            // The order of a file does not matter.
            ("front.roi", Value::Integers(vec![8, 16, 320, 160])),
            ("front.resize_mode", text("roi")),
            ("overlay_opacity", Value::Double(0.25)),
            ("rear.overlay_opacity", Value::Integer(1)),
            ("rear.outputs.depth", Value::Bool(false)),
            ("points.classes", texts(&["road"])),
            // `[]` in a file.
            ("rear.points.classes", Value::NotSet),
            ("cameras", texts(&["front", "rear"])),
        ])
        .expect("valid");
        let [front, rear] = &set.cameras()[..] else { panic!("two cameras") };
        assert_eq!((front.name.as_str(), rear.name.as_str()), ("front", "rear"));
        assert_eq!((front.overlay_opacity, rear.overlay_opacity), (0.25, 1.0));
        assert!(front.outputs.depth && !rear.outputs.depth);
        let roi = front.placement.roi.expect("a region");
        assert_eq!((roi.x, roi.y, roi.width, roi.height), (8, 16, 320, 160));
        assert!(rear.placement.roi.is_none());
        assert_eq!(set.get("rear.overlay_opacity"), Some(Value::Double(1.0)));
        assert_eq!(set.get("front.overlay_opacity"), Some(Value::Double(0.25)), "what holds");
        assert_eq!(set.get("left.overlay_opacity"), None);
        assert_eq!((front.points.classes.len(), rear.points.classes.len()), (1, 0));
        let names = set.names();
        assert!(names.contains(&"rear.overlay_opacity".into()) && !names.contains(&"front.overlay_opacity".into()));
        assert_eq!(names.len(), PARAMETERS.len() + 5);
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn misspelt_names_are_named_with_the_nearest() {
        let cameras = ("cameras", texts(&["front", "left"]));
        for (name, expected) in [
            ("overlay_opasity", "overlay_opasity: there is no such parameter; did you mean overlay_opacity?"),
            ("fornt.roi", "there is no camera \"fornt\" (cameras: front, left); did you mean front.roi?"),
            ("front.rio", "did you mean front.roi?"),
            ("front.overlay_opasity", "did you mean front.overlay_opacity?"),
            ("front.device", "device belongs to the node and cannot be set for one camera"),
            ("rear.roi", "there is no camera \"rear\" (cameras: front, left)"),
            ("output.labels", "did you mean outputs.labels?"),
            ("outputs.lables", "did you mean outputs.labels?"),
            ("fornt.output.labels", "did you mean front.outputs.labels?"),
            ("thresholds.age_warn", "did you mean thresholds.age_warn_ms?"),
            ("qos_override./a.publisher.depth", "did you mean qos_overrides./a.publisher.depth?"),
            ("qos_overrides./a.publisher.dept", "did you mean depth?"),
            ("zebra", "zebra: there is no such parameter"),
        ] {
            let e = given(&[cameras.clone(), (name, Value::Integer(1))]).expect_err(expected).to_string();
            assert!(e.contains(expected), "'{expected}' is not in '{e}'");
        }
        // Said to all nodes, only what is near none of ours may be another's.
        for name in
            ["overlay_opasity", "front.zebra", "thresholds.zebra", "zebra.roi", "qos_overrides./a.publisher.dept"]
        {
            let pairs = [cameras.clone(), (name, Value::Integer(1))].map(|(n, v)| (n.to_string(), v));
            ParameterSet::of_shared(pairs, |_| false).expect_err(name);
        }
        let pairs = [("zebra", Value::Integer(1)), ("a.zebra", Value::Integer(1)), ("png_level", Value::Integer(2))];
        let pairs = pairs.map(|(n, v)| (n.to_string(), v));
        let (set, ignored) = ParameterSet::of_shared(pairs.clone(), |_| false).expect("another node's");
        assert_eq!((set.get("png_level"), ignored), (Some(Value::Integer(2)), vec!["zebra".into(), "a.zebra".into()]));
        let e = ParameterSet::of_shared(pairs, |name| name == "zebra").expect_err("said to this one").to_string();
        assert!(e.contains("zebra: there is no such parameter") && !e.contains("a.zebra"), "{e}");
        // By the first part of a name, that of a camera: also of the only one.
        let one = [("cameras".to_string(), texts(&["front"])), ("a.zebra".to_string(), Value::Integer(1))];
        let (_, ignored) = ParameterSet::of_shared(one.clone(), |_| false).expect("another node's");
        assert_eq!(ignored, ["a.zebra"]);
        let [cameras_of_one, _] = one;
        let own = [cameras_of_one, ("front.zebra".to_string(), Value::Integer(1))];
        ParameterSet::of_shared(own, |_| false).expect_err("the camera's");
        let e = given(&[("front.roi", Value::Integers(vec![0; 4]))]).expect_err("no cameras").to_string();
        assert!(e.contains("the parameter cameras is empty"), "{e}");
    }

    #[test]
    fn what_means_nothing_has_no_value_and_no_description() {
        let set = given(&[("cameras", texts(&["front"]))]).expect("valid");
        for name in ["front.overlay_opacity", "overlay_opacity"] {
            assert!(set.get(name).is_some() && set.describe(name).is_some(), "{name}");
        }
        let qos = "qos_overrides./a.publisher.depth";
        for name in ["", "zebra", "front", "front.device", "front.zebra", "rear.roi", "qos_overrides", qos] {
            assert!(set.get(name).is_none() && set.describe(name).is_none(), "{name}");
        }
    }

    #[test]
    fn all_problems_come_at_once() {
        let e = given(&[
            ("overlay_opasity", Value::Double(0.5)),
            ("png_level", Value::Integer(11)),
            ("device", Value::Integer(0)),
        ])
        .expect_err("three");
        assert_eq!(e.0.len(), 3, "{e}");
        // Wrong names of cameras are one problem, not one a parameter.
        let e = given(&[("cameras", texts(&["Front"])), ("Front.png_level", Value::Integer(1))]).expect_err("one");
        assert_eq!(e.0.len(), 1, "{e}");
    }

    #[test]
    fn values_must_fit_together() {
        // Of equals the error comes at once.
        given(&[("thresholds.age_warn_ms", Value::Double(5e3))]).expect("as much as the error's");
        let rates = ["thresholds.rate_warn_hz", "thresholds.rate_error_hz"].map(|name| (name, Value::Double(5.0)));
        given(&rates).expect("as much as the error's");
        for (pairs, expected) in [
            (
                vec![("thresholds.age_warn_ms", Value::Double(9e3))],
                "thresholds.age_warn_ms (9000.0) is above thresholds.age_error_ms (5000.0)",
            ),
            (
                vec![("thresholds.rate_warn_hz", Value::Double(5.0)), ("thresholds.rate_error_hz", Value::Double(8.0))],
                "thresholds.rate_warn_hz (5.0) is below thresholds.rate_error_hz (8.0)",
            ),
            (
                vec![
                    ("thresholds.drop_ratio_warn", Value::Double(0.5)),
                    ("thresholds.drop_ratio_error", Value::Double(0.2)),
                ],
                "thresholds.drop_ratio_warn (0.5) is above thresholds.drop_ratio_error (0.2)",
            ),
            (vec![("resize_mode", text("roi"))], "resize_mode is roi, but roi is [0, 0, 0, 0]"),
            (vec![("mask.free_classes", texts(&["road", "car"]))], "\"car\" is in both mask.free_classes and"),
        ] {
            let e = given(&pairs).expect_err(expected).to_string();
            assert!(e.contains(expected), "'{expected}' is not in '{e}'");
        }
        let off = [("thresholds.age_warn_ms", Value::Double(9e3)), ("thresholds.age_error_ms", Value::Integer(0))];
        let thresholds = given(&off).expect("an error level that is off").thresholds();
        assert_eq!(thresholds.age.error, None);
        assert_eq!(thresholds.age.above(std::time::Duration::from_secs(10)), crate::interface::Severity::Warn);
        assert_eq!(thresholds.drop_ratio, Default::default(), "a ratio of 1 is off");
        // Either of them may be used alone.
        let error = given(&[("thresholds.drop_ratio_error", Value::Double(0.5))]).expect("an error level alone");
        assert_eq!(error.thresholds().drop_ratio, crate::interface::Limit { warn: None, error: Some(0.5) });
        given(&[("thresholds.drop_ratio_warn", Value::Double(0.5))]).expect("a warning level alone");
    }

    #[test]
    fn empty_lists_of_a_file_are_empty_lists() {
        let set = given(&[("cameras", Value::NotSet), ("mask.free_classes", Value::NotSet)]).expect("valid");
        assert_eq!(set.camera(0).mask.free_classes, Vec::<String>::new());
        let e = given(&[("device", Value::NotSet)]).expect_err("no value").to_string();
        assert!(e.contains("expected a string, got no value"), "{e}");
    }

    fn set_one(set: &mut ParameterSet, name: &str, value: Value) -> Result<Change, String> {
        set.set_all(vec![(name.into(), value)]).map(|changes| changes[0]).map_err(|(_, why)| why)
    }

    #[test]
    fn at_run_time_some_change_and_others_say_why_not() {
        let mut set = given(&[("cameras", texts(&["front"]))]).expect("valid");
        assert_eq!(set_one(&mut set, "overlay_opacity", Value::Double(0.2)), Ok(Change::Changed));
        assert_eq!(set_one(&mut set, "overlay_opacity", Value::Double(0.2)), Ok(Change::None));
        assert_eq!(set_one(&mut set, "front.overlay_opacity", Value::Integer(1)), Ok(Change::New));
        assert_eq!(set.camera(0).overlay_opacity, 1.0);
        assert_eq!(set_one(&mut set, "front.overlay_opacity", Value::NotSet), Ok(Change::Deleted));
        assert_eq!(set.camera(0).overlay_opacity, 0.2);
        assert_eq!(set_one(&mut set, "device", text("auto")), Ok(Change::None), "it is what it was");
        for (name, value, expected) in [
            ("device", text("cpu"), "read at the start only"),
            ("cameras", texts(&["rear"]), "read at the start only"),
            ("front.image_transport", text("compressed"), "read at the start only"),
            ("overlay_opacity", Value::NotSet, "cannot be deleted"),
            ("overlay_opacity", Value::Double(7.0), "expected 0 to 1, got 7.0"),
            ("overlay_opasity", Value::Double(0.5), "did you mean overlay_opacity?"),
            ("front.resize_mode", text("roi"), "resize_mode of camera front is roi, but roi is"),
        ] {
            let before = set.clone();
            let e = set_one(&mut set, name, value).expect_err(expected);
            assert!(e.contains(expected), "'{expected}' is not in '{e}'");
            assert_eq!(set, before, "what is refused changes nothing");
        }
    }

    #[test]
    fn together_all_or_none() {
        let mut set = ParameterSet::default();
        let both = |w: i64| {
            vec![("resize_mode".to_string(), text("roi")), ("roi".to_string(), Value::Integers(vec![0, 0, w, 9]))]
        };
        let (name, why) = set.set_all(both(0)).expect_err("an empty region");
        assert!(name == "roi" && why.contains("resize_mode is roi"), "{name}: {why}");
        assert_eq!(set, ParameterSet::default());
        assert_eq!(set.set_all(both(9)), Ok(vec![Change::Changed, Change::Changed]));
        let mixed = vec![("png_level".to_string(), Value::Integer(5)), ("zebra".to_string(), Value::Integer(5))];
        assert_eq!(set.set_all(mixed).expect_err("one is wrong").0, "zebra");
        assert_eq!(set.get("png_level"), Some(Value::Integer(1)));
        assert_eq!(set.set_all(Vec::new()), Ok(Vec::new()));
    }

    #[test]
    fn descriptions_say_what_is_valid() {
        let set =
            given(&[("cameras", texts(&["front"])), ("qos_overrides./front.subscription.depth", Value::Integer(2))])
                .expect("valid");
        let d = set.describe("overlay_opacity").expect("a parameter");
        assert_eq!((d.kind, d.range, d.read_only), (Kind::Double, Some((0.0, 1.0)), false));
        assert!(d.constraints.contains("CAMERA.overlay_opacity"));
        let d = set.describe("front.image_transport").expect("a parameter");
        assert_eq!((d.kind, d.constraints.as_str(), d.read_only), (Kind::String, "raw or compressed", true));
        assert!(d.meaning.ends_with("(camera front)"));
        let d = set.describe("batch_timeout_ms").expect("a parameter");
        assert!(d.meaning.ends_with("[ms]"));
        let d = set.describe("qos_overrides./front.subscription.depth").expect("a parameter");
        assert!(d.read_only && d.kind == Kind::Integer);
        assert_eq!(d.range, Some((1.0, 10_000.0)));
        assert_eq!(set.describe("qos_overrides./front.publisher.depth"), None);
        assert_eq!(set.describe("zebra"), None);
        for name in set.names() {
            assert!(set.describe(&name).is_some() && set.get(&name).is_some(), "{name}");
        }
    }

    #[test]
    fn qos_topics_must_be_the_nodes_own() {
        let set = given(&[
            ("qos_overrides./n/input/image.subscription.reliability", text("reliable")),
            ("qos_overrides./n/output/dept.publisher.depth", Value::Integer(1)),
        ])
        .expect("valid");
        let topics = [("/n/input/image".to_string(), Role::Subscription), ("/n/output/depth".into(), Role::Publisher)];
        let e = set.check_qos_topics(&topics, |_| true).expect_err("misspelt");
        assert_eq!(e.0.len(), 1);
        assert!(e.0[0].contains("does not publish /n/output/dept; did you mean /n/output/depth?"), "{e}");
        assert_eq!(set.check_qos_topics(&topics, |_| false), Err(e), "said to all nodes, it is near one of ours");
        let set = given(&[("qos_overrides./zebra.publisher.depth", Value::Integer(1))]).expect("valid");
        let e = set.check_qos_topics(&topics, |_| true).expect_err("said to this one").to_string();
        assert!(e.ends_with("the node does not publish /zebra"), "{e}");
        let ignored = vec!["qos_overrides./zebra.publisher.depth".to_string()];
        assert_eq!(set.check_qos_topics(&topics, |_| false), Ok(ignored), "another node's");
    }

    #[test]
    fn lists_as_rclcpp_does() {
        let names: Vec<String> = ["a", "b.c", "b.d.e", "bc"].iter().map(|s| s.to_string()).collect();
        let of = |prefixes: &[&str], depth| {
            let prefixes: Vec<String> = prefixes.iter().map(|s| s.to_string()).collect();
            list(&names, &prefixes, depth).0.join(" ")
        };
        assert_eq!(of(&[], 0), "a b.c b.d.e bc");
        assert_eq!(of(&[], 1), "a bc");
        assert_eq!(of(&[], 2), "a b.c bc");
        assert_eq!(of(&["b"], 0), "b.c b.d.e");
        assert_eq!(of(&["b"], 1), "b.c");
        assert_eq!(of(&["b.c", "a"], 1), "a b.c");
        assert_eq!(of(&["zebra"], 0), "");
        assert_eq!(list(&names, &[], 0).1, ["b", "b.d"]);
        let unsorted = ["z.a", "b.c", "z.b"].map(String::from);
        assert_eq!(list(&unsorted, &[], 0).1, ["b", "z"], "each group once, in order");
    }
}

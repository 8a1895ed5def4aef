//! Names as rcl makes them: private and relative ones expanded, then the command line's remap rules. r2r keeps rcl's
//! answer to itself, and `qos_overrides`, the search for publishers and the log need it.

use super::command_line::{arguments, ros_values};
use anyhow::Context as _;

/// Expands and remaps the names of topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Without slashes.
    node: String,
    /// `/`, or without a slash at the end.
    namespace: String,
    rules: Vec<Rule>,
}

/// `from:=to`, for a node of this name or all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    node: Option<String>,
    from: String,
    to: String,
}

impl Names {
    /// For this node, with the rules of this process's arguments.
    ///
    /// # Errors
    /// The node has no name.
    pub fn of(node: &r2r::Node) -> anyhow::Result<Self> {
        let name = node.name().context("the node's own name")?;
        let namespace = node.namespace().context("the node's own namespace")?;
        Ok(Self::new(&namespace, &name, arguments()))
    }

    /// For a node of this name and namespace: the final ones, after `__node` and `__ns`.
    pub fn new(namespace: &str, node: &str, arguments: impl IntoIterator<Item = String>) -> Self {
        let namespace = match namespace.trim_end_matches('/') {
            "" => "/".into(),
            full => full.into(),
        };
        Self { node: node.into(), namespace, rules: rules(arguments) }
    }

    /// The final name of a topic: `~/x`, `x` and `/x` made absolute, and remapped by the first rule that fits.
    pub fn topic(&self, name: &str) -> String {
        self.remapped(name).unwrap_or_else(|| self.expand(name))
    }

    /// The final name of a topic that a rule fits.
    fn remapped(&self, name: &str) -> Option<String> {
        let expanded = self.expand(name);
        let of_this_node = |rule: &&Rule| rule.node.as_ref().is_none_or(|node| *node == self.node);
        let fits = |rule: &&Rule| self.expand(&rule.from) == expanded;
        self.rules.iter().filter(of_this_node).find(fits).map(|rule| self.expand(&rule.to))
    }

    /// The name to ask rcl for. That of the table, but where `input/image` of a camera is remapped and `name` is not:
    /// then as image_transport has it, IMAGE/compressed and the camera_info beside IMAGE.
    pub fn request(&self, name: &str) -> String {
        let image_above = |ending: &str| {
            let camera = name.strip_suffix(ending).filter(|_| self.remapped(name).is_none())?;
            self.remapped(&format!("{camera}/input/image"))
        };
        if let Some(image) = image_above("/input/image/compressed") {
            format!("{image}/compressed")
        } else if let Some(image) = image_above("/input/camera_info") {
            let namespace = image.rsplit_once('/').map_or("", |(namespace, _)| namespace);
            format!("{namespace}/camera_info")
        } else {
            name.into()
        }
    }

    fn expand(&self, name: &str) -> String {
        let below = |prefix: &str, rest: &str| format!("{}/{rest}", prefix.trim_end_matches('/'));
        let name = name.replace("{node}", &self.node);
        let own = below(&self.namespace, &self.node);
        // The namespace begins with a slash itself.
        let name = name.replace("{namespace}", &self.namespace).replace("{ns}", &self.namespace);
        if name.starts_with('/') {
            name
        } else if name == "~" {
            own
        } else if let Some(rest) = name.strip_prefix("~/") {
            below(&own, rest)
        } else {
            below(&self.namespace, &name)
        }
    }
}

/// A node's full name, of the parts that the graph tells: `/`, or a namespace that begins with a slash, and the bare name.
pub fn full_name(namespace: &str, name: &str) -> String {
    format!("{}/{name}", namespace.trim_end_matches('/'))
}

/// The rules for topics, in order.
fn rules(arguments: impl IntoIterator<Item = String>) -> Vec<Rule> {
    ros_values(arguments, &["-r", "--remap"]).iter().filter_map(|text| rule(text)).collect()
}

/// `[node:][rostopic://]from:=to`. What is for services or names the node itself is no rule for topics; rcl has refused
/// what is malformed when it started.
fn rule(text: &str) -> Option<Rule> {
    let (from, to) = text.split_once(":=")?;
    let (node, from) = match from.strip_prefix("rostopic://") {
        Some(from) => (None, from),
        None if from.starts_with("rosservice://") => return None,
        None => match from.split_once(':') {
            Some((node, rest)) => (Some(node.to_string()), rest.strip_prefix("rostopic://").unwrap_or(rest)),
            None => (None, from),
        },
    };
    if from.is_empty() || to.is_empty() || from.starts_with("__") || from.starts_with("rosservice://") {
        return None;
    }
    Some(Rule { node, from: from.into(), to: to.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(namespace: &str, arguments: &str) -> Names {
        Names::new(namespace, "depth", arguments.split(' ').map(String::from))
    }

    #[test]
    fn names_become_absolute() {
        let root = names("/", "program");
        assert_eq!(root.topic("~/input/image"), "/depth/input/image");
        assert_eq!(root.topic("image"), "/image");
        assert_eq!(root.topic("/diagnostics"), "/diagnostics");
        let car = names("/car/front", "program");
        assert_eq!(car.topic("~/input/image"), "/car/front/depth/input/image");
        assert_eq!(car.topic("image"), "/car/front/image");
        assert_eq!(car.topic("~"), "/car/front/depth");
        assert_eq!(car.topic("{ns}/x/{node}"), "/car/front/x/depth");
        assert_eq!(car.topic("{namespace}/x"), "/car/front/x");
    }

    #[test]
    fn rules_of_every_form_fit() {
        for rule in [
            "~/input/image:=/camera/image",
            "/car/depth/input/image:=/camera/image",
            "depth/input/image:=/camera/image",
            "depth:~/input/image:=/camera/image",
            "rostopic://~/input/image:=/camera/image",
            "depth:rostopic://~/input/image:=/camera/image",
        ] {
            for flag in ["-r", "--remap"] {
                let n = names("/car", &format!("program --ros-args {flag} {rule}"));
                assert_eq!(n.topic("~/input/image"), "/camera/image", "{rule}");
                assert_eq!(n.topic("~/input/camera_info"), "/car/depth/input/camera_info", "{rule}");
            }
        }
    }

    #[test]
    fn targets_are_expanded_too() {
        let n = names("/car", "program --ros-args -r ~/input/image:=camera/image -r ~/output/labels:=~/labels");
        assert_eq!(n.topic("~/input/image"), "/car/camera/image");
        assert_eq!(n.topic("~/output/labels"), "/car/depth/labels");
    }

    #[test]
    fn what_belongs_to_a_remapped_image_is_beside_it() {
        let of = |rules: &str, name: &str| {
            let n = names("/car", &format!("program --ros-args {rules}"));
            n.topic(&n.request(name))
        };
        let (image, info, compressed) = ("~/input/image", "~/input/camera_info", "~/input/image/compressed");
        let rule = "-r ~/input/image:=camera/image_raw";
        assert_eq!(of(rule, image), "/car/camera/image_raw");
        assert_eq!(of(rule, info), "/car/camera/camera_info");
        assert_eq!(of(rule, compressed), "/car/camera/image_raw/compressed");
        assert_eq!(of("-r ~/input/image:=/image", info), "/camera_info", "at the root, too");
        let front = "-r ~/front/input/image:=/front/image_raw";
        assert_eq!(of(front, "~/front/input/camera_info"), "/front/camera_info");
        for name in [image, info, compressed, "~/rear/input/camera_info", "~/output/camera_info"] {
            assert_eq!(of(front, name), name.replace('~', "/car/depth"), "another camera, another topic");
        }
        // What is remapped itself stays where it was put.
        assert_eq!(of(&format!("{rule} -r ~/input/camera_info:=/info"), info), "/info");
        assert_eq!(of(&format!("{rule} -r depth/input/image/compressed:=/jpeg"), compressed), "/jpeg");
    }

    #[test]
    fn other_rules_do_not_fit() {
        let n = names(
            "/car",
            "program -r ~/input/image:=/not_ros --ros-args -r other:~/input/image:=/a -r rosservice://~/input/image:=/b \
             -r __node:=depth -r __ns:=/car -p ~/input/image:=/c -- -r ~/input/image:=/d",
        );
        assert_eq!(n.topic("~/input/image"), "/car/depth/input/image");
    }

    #[test]
    fn the_first_rule_wins_and_sections_may_come_again() {
        let n = names("/", "program --ros-args -r /a:=/one -- x --ros-args -r /b:=/two -r /a:=/three");
        assert_eq!(n.topic("/a"), "/one");
        assert_eq!(n.topic("/b"), "/two");
        // A target is not remapped again.
        let n = names("/", "program --ros-args -r /a:=/b -r /b:=/c");
        assert_eq!(n.topic("/a"), "/b");
    }
}

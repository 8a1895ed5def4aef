//! The node's own command line, beside ROS arguments.

use anyhow::bail;

/// What `--help` says.
const HELP: &str = "\
semantic_depth_node: labels and metric depth of each pixel of camera images, as a ROS 2 node

Usage: semantic_depth_node [--ros-args ARGUMENTS]

  -h, --help                        This text
  -V, --version                     The version
  --ros-args -p NAME:=VALUE         A parameter, such as -p model_path:=/path/to/model.yaml -p device:=cuda:0
  --ros-args --params-file FILE     Parameters from a file; share/semantic_depth/config holds an example of each
  --ros-args -r FROM:=TO            Another name of a topic, service or the node itself (__node:=NAME, __ns:=/NAMESPACE)
  --ros-args --log-level LEVEL      debug, info, warn, error, fatal
  --ros-args --disable-WHAT-logs    WHAT: stdout (the console), rosout, or external-lib (the file in ROS_LOG_DIR)

Topics, services and parameters: `semantic_depth interface --format markdown`, or `ros2 node info` and
`ros2 param list` while it runs.";

/// The text that the command line asks for in place of the node.
///
/// # Errors
/// An argument that means nothing here.
pub(super) fn asked(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<Option<String>> {
    let mut is_ros = false;
    for argument in arguments {
        match (argument.as_str(), is_ros) {
            ("--ros-args", _) => is_ros = true,
            ("--", true) => is_ros = false,
            (_, true) => {}
            ("-h" | "--help", false) => return Ok(Some(HELP.into())),
            ("-V" | "--version", false) => {
                return Ok(Some(concat!("semantic_depth_node ", env!("CARGO_PKG_VERSION")).into()))
            }
            (other, false) => {
                bail!("expected ROS arguments after --ros-args, found {other}; semantic_depth_node --help says more")
            }
        }
    }
    Ok(None)
}

/// Options of ROS arguments that have a value.
const WITH_VALUE: [&str; 10] = [
    "-r",
    "--remap",
    "-p",
    "--param",
    "--params-file",
    "--log-level",
    "-e",
    "--enclave",
    "--log-config-file",
    "--log-file-name",
];

/// What this process was started with; the program first.
pub(super) fn arguments() -> impl Iterator<Item = String> {
    std::env::args_os().map(|a| a.to_string_lossy().into_owned())
}

/// Calls with the options of ROS arguments (`--ros-args ... [--]`, which may come many times) and their values, in order.
fn ros_options(arguments: impl IntoIterator<Item = String>, mut found: impl FnMut(&str, Option<String>)) {
    let mut is_ros = false;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match (is_ros, argument.as_str()) {
            (_, "--ros-args") => is_ros = true,
            (true, "--") => is_ros = false,
            // Whatever a value looks like, it is no option.
            (true, option) if WITH_VALUE.contains(&option) => found(option, arguments.next()),
            (true, option) => found(option, None),
            _ => {}
        }
    }
}

/// The values of these options among ROS arguments, in order.
pub(super) fn ros_values(arguments: impl IntoIterator<Item = String>, options: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    ros_options(arguments, |option, value| found.extend(value.filter(|_| options.contains(&option))));
    found
}

/// Whether `--enable-WHAT` or `--disable-WHAT` came last among ROS arguments; true without either.
pub(super) fn is_enabled(arguments: impl IntoIterator<Item = String>, what: &str) -> bool {
    let mut found = true;
    ros_options(arguments, |option, _| match option.strip_suffix(what) {
        Some("--enable-") => found = true,
        Some("--disable-") => found = false,
        _ => {}
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_ros_arguments() {
        let line = "node --params-file x --ros-args --params-file a -r --params-file --params-file b -p --ros-args -- \
                    --params-file y --ros-args -r c --params-file";
        let of = |options: &[&str]| ros_values(line.split_whitespace().map(String::from), options);
        assert_eq!(of(&["--params-file"]), ["a", "b"]);
        assert_eq!(of(&["-r", "--remap"]), ["--params-file", "c"]);
    }

    #[test]
    fn the_last_switch_counts() {
        let of = |line: &str| is_enabled(line.split_whitespace().map(String::from), "rosout-logs");
        for line in
            ["", "--disable-rosout-logs", "--ros-args --disable-stdout-logs", "--ros-args -p --disable-rosout-logs"]
        {
            assert!(of(line), "{line}");
        }
        assert!(!of("--ros-args --disable-rosout-logs"));
        assert!(of("--ros-args --disable-rosout-logs -r a:=b -- x --ros-args --enable-rosout-logs"));
    }

    fn of(line: &str) -> anyhow::Result<Option<String>> {
        asked(line.split_whitespace().map(String::from))
    }

    #[test]
    fn ros_arguments_go_by_and_others_are_named() {
        for line in ["", "--ros-args", "--ros-args -p a:=b --params-file x -r __node:=y --", "--ros-args -h"] {
            assert_eq!(of(line).expect(line), None, "{line}");
        }
        assert!(of("--help").expect("a text").is_some_and(|text| text.contains("--params-file")));
        assert!(of("--ros-args -p a:=b -- -V").expect("a text").is_some_and(|t| t.contains(env!("CARGO_PKG_VERSION"))));
        for line in ["help", "--model x --ros-args", "--ros-args -p a:=b -- more"] {
            let error = of(line).expect_err(line).to_string();
            assert!(error.contains("--ros-args") && error.contains("found"), "{error}");
        }
    }
}

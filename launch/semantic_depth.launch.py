r"""Starts the semantic_depth node for one or many cameras, and on request RViz and a recording.

    ros2 launch semantic_depth semantic_depth.launch.py image:=/camera/image_raw rviz:=true
    ros2 launch semantic_depth semantic_depth.launch.py \
        cameras:=front,left,right image:=/sensors/{camera}/image_raw record:=true

In XML: <include file="$(find-pkg-share semantic_depth)/launch/semantic_depth.launch.py"> with <arg name= value=/> in it.

What is started follows from the arguments in plain Python (`node_action`, `record_command`, `rviz_action`), so that it
can be read and tested where the launch system is not installed.

The node is a process of its own and not a component: a component is a C++ class that rclcpp loads into a container, and
this node is Rust on the C client library, with signal handling, a way to leave while a model loads, and CUDA state that
belong to its process. Many cameras share that one process (`cameras`), which is what a container would be used for.
`with_depth_image_proc.launch.py` puts the standard image components beside it into a container.
"""

import os
import re
import tempfile
from pathlib import Path

import yaml

PACKAGE = "semantic_depth"
EXECUTABLE = "semantic_depth_node"
NAME = "semantic_depth"

# share/semantic_depth where this file is installed. Not resolved: a symlink install links single files.
SHARE = Path(__file__).absolute().parents[1]
PROFILE = SHARE / "config" / "fastdds.xml"
INSTALLED_MODEL = SHARE / "models" / "street" / "model.yaml"

FILE_SAYS = "empty: what the parameter file says"

# name: (default, what it means)
ARGUMENTS = {
    "namespace": ("", "Namespace of the node"),
    "params_file": (str(SHARE / "config" / "semantic_depth.param.yaml"), "Parameter file (absolute path)"),
    "model_path": (
        "",
        "The model: its manifest (model.yaml), its folder, or the name of an installed one, such as street_refined; "
        f"{FILE_SAYS}, and where that is empty too street",
    ),
    "device": ("", f"auto, cpu or cuda:N; {FILE_SAYS}"),
    "gpu_id": ("", "Number of a CUDA device: 1 is short for device:=cuda:1; empty: see device"),
    "precision": ("", f"auto, fp32, fp16 or bf16; {FILE_SAYS}"),
    "backend": ("", f"auto, torchscript, tensorrt or native; {FILE_SAYS}"),
    "build_only": ("false", "true: load the model, compile its TensorRT engine where one can be used, then end; nothing else is started"),
    "use_sim_time": (
        "",
        f"Take the time from /clock (true or false), in RViz and the recording too; {FILE_SAYS}, and false there",
    ),
    "autostart": ("", f"false: stay unconfigured and wait for a lifecycle manager; {FILE_SAYS}"),
    "log_level": (
        "",
        f"debug, info, warn, error or fatal; {FILE_SAYS}, and info where that says nothing. fatal gives way to what the "
        "parameter file says",
    ),
    "cameras": ("", f"Names of the cameras, as in front,left,right; {FILE_SAYS} (one camera without a name)"),
    "image": (
        "",
        "Topic of the images; {camera} in it stands for the camera's name, or one topic a camera, separated by "
        "commas; empty: ~/input/image and ~/CAMERA/input/image",
    ),
    "camera_info": ("", "Topic of the calibration, written like image; empty: camera_info beside the image"),
    "image_transport": (
        "",
        f"raw or compressed (the topic is then IMAGE/compressed); {FILE_SAYS}",
    ),
    "respawn": ("false", "true: start the node again when it ends by itself"),
    "record": ("false", "true: record the topics below with `ros2 bag record --storage mcap`"),
    "record_path": ("", "Folder of the recording, which must not exist; empty: a new rosbag2_DATE in the current folder"),
    "record_outputs": (
        "labels,depth,camera_info,label_info,timing",
        "Outputs to record, separated by commas, or all; what is recorded is computed. timing comes with what is "
        "computed: beside nothing but camera_info and label_info there is none. The default is what the others can be "
        "computed from again",
    ),
    "record_input": ("false", "true: record the images that the node reads too"),
    "rviz": ("false", "true: start RViz with this package's configuration"),
    "rviz_camera": ("", "The camera that RViz shows; empty: the first"),
    "fixed_frame": ("", "RViz's fixed frame; empty: the one in its configuration"),
}

CHOICES = {
    "precision": ("auto", "fp32", "fp16", "bf16"),
    "backend": ("auto", "torchscript", "tensorrt", "native"),
    "image_transport": ("raw", "compressed"),
    "log_level": ("debug", "info", "warn", "error", "fatal"),
}

# Everything that a camera's outputs can be, below ~/output/ or ~/CAMERA/output/.
OUTPUTS = (
    "labels",
    "labels/compressed",
    "depth",
    "depth/compressed",
    "depth/compressedDepth",
    "camera_info",
    "label_info",
    "confidence",
    "overlay",
    "labels_color",
    "points",
    "mask",
    "timing",
)
# What `record_outputs:=all` records: not the same picture twice.
RECORDED = tuple(output for output in OUTPUTS if "/" not in output)
# Recorded with every camera's own topics.
COMMON_TOPICS = ("/diagnostics", "/tf", "/tf_static")

# What RViz shows: the outputs in its configuration.
SHOWN = ("labels_color", "depth", "overlay", "points")
# RViz's configurations, by the images' transport, which RViz takes from the end of the topic's name in its configuration and not
# from what that is remapped to, and by the depth's encoding: 80 m are 80 or 80000.
VIEWS = {
    ("raw", "32FC1"): "semantic_depth.rviz",
    ("raw", "16UC1"): "semantic_depth_mm.rviz",
    ("compressed", "32FC1"): "semantic_depth_compressed.rviz",
    ("compressed", "16UC1"): "semantic_depth_compressed_mm.rviz",
}

CAMERA_NAME = re.compile(r"(?!.*__)[a-z][a-z0-9_]{0,63}")


def defaults():
    """Returns the arguments' default values by name."""
    return {name: default for name, (default, _) in ARGUMENTS.items()}


def is_true(name, text):
    """Reads a launch argument that is true or false; anything else is an error that names it."""
    lowered = text.strip().lower()
    if lowered not in ("true", "false", "1", "0"):
        raise ValueError(f"launch argument {name}:={text}: expected true or false")
    return lowered in ("true", "1")


def yaml_bool(name, text):
    """A launch argument that is true or false, as the ROS argument parser reads it."""
    return "true" if is_true(name, text) else "false"


def quoted(text):
    """Writes a string so that the ROS argument parser reads it as a string, whatever it looks like."""
    return "'" + text.replace("'", "''") + "'"


def file_parameters(values, outer="", said_to=None):
    """What the parameter file says to the node, by parameter: scalars as text, lists of it. outer: see `node_namespace`.

    The blocks are those that the node takes: below `/**`, its full name (also nested) or its bare one; of two that say
    the same, the later one wins, as there. said_to: only the blocks with these keys.
    """
    file = values["params_file"]
    try:
        # The base loader makes nothing of scalars and tags: whatever rcl's parser takes, it takes.
        content = yaml.load(Path(file).read_bytes(), Loader=yaml.BaseLoader)
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"launch argument params_file:={file}: expected a YAML file of parameters: {error}") from None
    taken = said_to or ("/**", "**", full_name(values, outer), NAME)
    found = {}

    def read(above, block):
        for key, below in block.items() if isinstance(block, dict) else ():
            if key != "ros__parameters":
                read(f"{above}{key}" if not above or above.endswith("/") else f"{above}/{key}", below)
            elif above in taken and isinstance(below, dict):
                found.update(below)

    read("", content)
    return found


def is_said(found, name):
    """Whether parameters of a file have this one: as it stands, or its parts nested."""
    first, _, rest = name.partition(".")
    below = found.get(first)
    return name in found or (bool(rest) and isinstance(below, dict) and is_said(below, rest))


def camera_parameter(values, outer, camera, name, argument=""):
    """What holds for a camera: what the file says of it alone, else the launch argument, else what the file says of all.

    Empty where nobody says anything.
    """
    found = file_parameters(values, outer)
    nested = found.get(camera) if camera else None
    own = nested.get(name) if isinstance(nested, dict) else None
    return own or found.get(f"{camera}.{name}") or argument or found.get(name) or ""


def sim_time(values, outer=""):
    """Whether what is started beside the node takes the time from /clock: as the node does."""
    if values["use_sim_time"]:
        return is_true("use_sim_time", values["use_sim_time"])
    # What rcl's parser takes for true; what is no boolean at all ends the node with the reason.
    return str(file_parameters(values, outer).get("use_sim_time")).lower() in ("true", "yes", "on", "y")


def image_transport(values, outer="", camera=""):
    """raw or compressed: how the node takes a camera's images."""
    return camera_parameter(values, outer, camera, "image_transport", values["image_transport"]) or "raw"


def listed(text):
    """The items of `a,b, c`."""
    return [item.strip() for item in text.split(",")] if text.strip() else []


def complete(values=None):
    """The arguments with their defaults; an unknown name or a value out of a fixed choice is an error."""
    values = {**defaults(), **(values or {})}
    unknown = sorted(set(values) - set(ARGUMENTS))
    if unknown:
        raise ValueError(f"unknown launch arguments {unknown}: expected some of {sorted(ARGUMENTS)}")
    for name, choices in CHOICES.items():
        if values[name] and values[name] not in choices:
            raise ValueError(f"launch argument {name}:={values[name]}: expected {', '.join(choices)} or nothing")
    return values


def device(values):
    """What `device` and `gpu_id` say together; empty where neither is given."""
    gpu_id = values["gpu_id"].strip()
    if not gpu_id:
        return values["device"]
    if not gpu_id.isascii() or not gpu_id.isdigit():
        raise ValueError(f"launch argument gpu_id:={gpu_id}: expected a number, 0 for the first CUDA device")
    named = f"cuda:{int(gpu_id)}"
    if values["device"] not in ("", named):
        raise ValueError(f"launch arguments gpu_id:={gpu_id} and device:={values['device']} differ: give one of them")
    return named


def cameras(values, outer=""):
    """The cameras' names, the parameter file's where the argument is empty; one empty name where there are none."""
    names, given = listed(values["cameras"]), f"launch argument cameras:={values['cameras']}"
    if not names:
        names = file_parameters(values, outer).get("cameras", [])
        given = f"parameter file {values['params_file']}: cameras: {names}"
    if not isinstance(names, list):
        raise ValueError(f"{given}: expected a list, as in [front, rear]")
    for name in names:
        if not isinstance(name, str) or not CAMERA_NAME.fullmatch(name):
            raise ValueError(
                f"{given}: {name!r} is not a camera's name, "
                "expected up to 64 small letters, digits and single underscores, a letter first"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"{given}: a name occurs twice")
    return names or [""]


def camera_info_beside(image):
    """The calibration topic that belongs to an image topic: `/front/image_raw` -> `/front/camera_info`."""
    head, _, _ = image.rpartition("/")
    return f"{head}/camera_info" if head or image.startswith("/") else "camera_info"


def topics_of(argument, values, names):
    """What `image` or `camera_info` says for every camera in `names`, in their order; empty strings where nothing."""
    given = f"launch argument {argument}:={values[argument]}"
    topics = listed(values[argument])
    if not topics:
        return [""] * len(names)
    if len(topics) == 1 and "{camera}" in topics[0]:
        if names == [""]:
            raise ValueError(f"{given}: {{camera}} stands for a camera's name, and cameras names none")
        topics = [topics[0].replace("{camera}", name) for name in names]
    if len(topics) != len(names):
        raise ValueError(
            f"{given}: {len(topics)} topics for {len(names)} cameras; give one for each, or one with {{camera}} in it"
        )
    for topic in topics:
        # Anything else in braces is a mistyped {camera}: ROS itself would complain about the braces only.
        if not topic or "{" in topic or "}" in topic:
            raise ValueError(f"{given}: {topic!r} is not a topic; only {{camera}} is replaced")
    if len(set(topics)) != len(topics):
        raise ValueError(f"{given}: two cameras would have the same topic")
    return topics


def inputs(values, outer=""):
    """(camera, image topic, calibration topic) of every camera; empty topics are the node's own names."""
    names = cameras(values, outer)
    images = topics_of("image", values, names)
    infos = topics_of("camera_info", values, names)
    for image in images:
        if image.endswith("/compressed"):
            base = image.removesuffix("/compressed")
            raise ValueError(
                f"launch argument image: {image} is the compressed transport's topic; "
                f"give image:={base} image_transport:=compressed"
            )
    beside = [info or (camera_info_beside(image) if image else "") for image, info in zip(images, infos)]
    named = [info for info in beside if info]
    if len(set(named)) != len(named):
        raise ValueError(
            f"launch argument image:={values['image']}: the cameras would share the calibration {named[0]} beside "
            "their images; give each its own with camera_info"
        )
    return list(zip(names, images, beside))


def private(camera, name):
    """A topic of one camera below the node's name: `input/image` -> `~/front/input/image`."""
    return f"~/{camera}/{name}" if camera else f"~/{name}"


def joined(*names):
    """Namespaces put together: `joined("a", "/b/") == "/a/b"`; nothing at all is `/`."""
    return "/" + "/".join(part for name in names for part in name.split("/") if part)


def node_namespace(values, outer=""):
    """The node's final namespace. outer: the one that a launch file around this one has pushed."""
    namespace = values["namespace"]
    return joined(namespace) if namespace.startswith("/") else joined(outer, namespace)


def full_name(values, outer=""):
    """The node's name with its namespace."""
    return joined(node_namespace(values, outer), NAME)


def resolved(topic, values, outer=""):
    """The name that the node's topic has on the graph."""
    namespace = node_namespace(values, outer)
    if topic.startswith("~"):
        return joined(namespace, NAME, topic[1:])
    return joined(topic) if topic.startswith("/") else joined(namespace, topic)


def on_graph(topic, values, outer="", remaps=(), own=""):
    """The name that the node's topic has on the graph, remapped.

    own: what an argument remaps it to, if so. remaps: the rules of a group around (SetRemap), which an argument beats.
    """
    name = resolved(topic, values, outer)
    targets = [own] if own else [target for source, target in remaps if resolved(source, values, outer) == name]
    return resolved(targets[0], values, outer) if targets else name


def inputs_on_graph(values, outer="", remaps=()):
    """(camera, image topic, calibration topic) of every camera, by the names on the graph. remaps: see `on_graph`."""
    found = []
    for camera, *own in inputs(values, outer):
        topics = [private(camera, name) for name in ("input/image", "input/camera_info")]
        image, camera_info = (on_graph(topic, values, outer, remaps, said) for topic, said in zip(topics, own))
        plain_image, plain_info = (resolved(topic, values, outer) for topic in topics)
        if image != plain_image and camera_info == plain_info:
            # As the node has it: the calibration is beside an image that alone is remapped.
            camera_info = camera_info_beside(image)
        found.append((camera, image, camera_info))
    return found


def said_parameters(values, more=()):
    """What the arguments say to the node: (name, YAML text) of parameters. more: see `node_action`."""
    parameters = []
    for name, text in (
        ("model_path", values["model_path"]),
        ("device", device(values)),
        ("precision", values["precision"]),
        ("backend", values["backend"]),
        ("image_transport", values["image_transport"]),
        # As a parameter, too: the file's beats --log-level.
        ("log_level", "" if values["log_level"] == "fatal" else values["log_level"]),
    ):
        if text:
            parameters.append((name, quoted(text)))
    if listed(values["cameras"]):
        parameters.append(("cameras", "[" + ", ".join(quoted(name) for name in cameras(values)) + "]"))
    if is_true("build_only", values["build_only"]):
        parameters.append(("build_only", "true"))
    if values["autostart"]:
        parameters.append(("autostart", yaml_bool("autostart", values["autostart"])))
    if values["use_sim_time"]:
        parameters.append(("use_sim_time", yaml_bool("use_sim_time", values["use_sim_time"])))
    return [*parameters, *more]


def node_action(values=None, more=(), outer=""):
    """The node to start, as keyword arguments of `launch_ros.actions.Node`. outer: see `node_namespace`.

    values: the arguments by name; those left out have their defaults.
    more: (name, YAML text) of further parameters, for launch files that build on this one.
    What is ours and has an order is in `ros_arguments`: a later parameter beats an earlier one, so what
    was said on the command line comes after the file. What the file says to the node by name beats what is said to all
    nodes all the same, as plain `-p` is: where it does, the argument is said by name, too. Parameters of a group around
    (SetParameter, SetParametersFromFile) are written behind all this by launch_ros: see `last_word`.
    """
    values = complete(values)
    ros_arguments = ["--params-file", values["params_file"]]
    by_full_name = file_parameters(values, outer, [full_name(values, outer)])
    by_bare_name = file_parameters(values, outer, [NAME])
    for name, text in said_parameters(values, more):
        ros_arguments += ["-p", f"{name}:={text}"]
        if is_said(by_full_name, name) and by_bare_name:
            # rcl takes no full names on the command line, and the bare one's place is the file's.
            raise ValueError(
                f"parameter file {values['params_file']}: {name} is said to {full_name(values, outer)}, beside a block for "
                f"{NAME}, and would beat the launch argument {name}; say all of it in one block"
            )
        if is_said(by_full_name, name) or is_said(by_bare_name, name):
            ros_arguments += ["-p", f"{NAME}:{name}:={text}"]
    if values["log_level"]:
        ros_arguments += ["--log-level", values["log_level"]]

    remappings = []
    for camera, image, camera_info in inputs(values, outer):
        if image:
            # A rule for a topic says nothing of the topics below it, and the parameter file may choose the transport.
            remappings.append((private(camera, "input/image"), image))
            remappings.append((private(camera, "input/image/compressed"), f"{image}/compressed"))
        if camera_info:
            remappings.append((private(camera, "input/camera_info"), camera_info))
    return {
        "package": PACKAGE,
        "executable": EXECUTABLE,
        "name": NAME,
        "namespace": values["namespace"],
        "remappings": remappings,
        "ros_arguments": ros_arguments,
        "additional_env": node_environment(),
        "respawn": is_true("respawn", values["respawn"]) and not is_true("build_only", values["build_only"]),
        "respawn_delay": 2.0,
        # After Control-C: a batch may be under way on a slow machine.
        "sigterm_timeout": "10",
        "output": "screen",
    }


def last_word(parameters, values, outer=""):
    """The text of a parameter file that, read last, beats all that was said to the node before.

    The node goes through the names that parameters are said to in the order in which they first came up, and takes what it
    finds last; so each of them has to have the value. parameters: (name, YAML text).
    """
    block = "".join(f"    {quoted(name)}: {text}\n" for name, text in parameters)
    return "".join(f"{quoted(key)}:\n  ros__parameters:\n{block}" for key in ("/**", NAME, full_name(values, outer)))


def node_environment(environment=None):
    """What the node needs in its environment beside the caller's own.

    Fast DDS loses large best-effort images whose sender has its default shared memory. This is for what the node
    sends; the camera's driver needs it in its own environment. The user's own profile wins, and so does the user's own
    choice of transports, which Fast DDS would not look at beside a profile with transports of its own.
    """
    environment = os.environ if environment is None else environment
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(environment.get(name) for name in (*names, "FASTDDS_BUILTIN_TRANSPORTS")):
        return {}
    return {name: str(PROFILE) for name in names}


def node_command(values=None):
    """The command line that the launch system makes of `node_action`: a list, the executable first."""
    action = node_action(values)
    executable = SHARE.parents[1] / "lib" / PACKAGE / EXECUTABLE
    command = [str(executable), "--ros-args", *action["ros_arguments"]]
    command += ["--ros-args", "-r", f"__node:={action['name']}"]
    command += ["-r", f"__ns:={joined(action['namespace'])}"]
    for source, target in action["remappings"]:
        command += ["-r", f"{source}:={target}"]
    return command


def record_topics(values=None, outer="", remaps=()):
    """The topics that `record:=true` records, by the names they have on the graph. remaps: see `on_graph`."""
    values = complete(values)
    outputs = listed(values["record_outputs"])
    if outputs == ["all"]:
        outputs = list(RECORDED)
    unknown = [output for output in outputs if output not in OUTPUTS]
    if unknown:
        raise ValueError(f"launch argument record_outputs: {unknown} are no outputs, expected all or some of {OUTPUTS}")
    topics = []
    for camera, image, camera_info in inputs_on_graph(values, outer, remaps):
        topics += [on_graph(private(camera, f"output/{output}"), values, outer, remaps) for output in outputs]
        # The calibration as it came: the output's is scaled, and is there only where somebody listens to it.
        topics.append(camera_info)
        if is_true("record_input", values["record_input"]):
            transports = {"raw": ("",), "compressed": ("/compressed",)}
            # Where the parameter file chooses the transport, both are named: what nobody publishes is not recorded.
            topics += [image + ending for ending in transports.get(values["image_transport"], ("", "/compressed"))]
    topics += [on_graph(topic, values, outer, remaps) for topic in COMMON_TOPICS]
    return [*dict.fromkeys(topics)]


def record_command(values=None, outer="", remaps=()):
    """The command line of the recorder. remaps: see `on_graph`."""
    values = complete(values)
    command = ["ros2", "bag", "record", "--storage", "mcap"]
    if values["record_path"]:
        command += ["--output", values["record_path"]]
    # The recorder shares the terminal with the other processes: its keys would be theirs.
    command.append("--disable-keyboard-controls")
    if sim_time(values, outer):
        command.append("--use-sim-time")
    return [*command, "--topics", *record_topics(values, outer, remaps)]


def rviz_action(values=None, outer="", remaps=()):
    """RViz, as keyword arguments of `launch_ros.actions.Node`: its topics follow the node's. remaps: see `on_graph`."""
    values = complete(values)
    names = cameras(values, outer)
    camera = values["rviz_camera"] or names[0]
    if camera not in names:
        raise ValueError(f"launch argument rviz_camera:={camera}: expected one of {', '.join(names) or 'no camera'}")
    image = {name: image for name, image, _ in inputs_on_graph(values, outer, remaps)}[camera]
    wanted = image_transport(values, outer, camera), camera_parameter(values, outer, camera, "depth_encoding") or "32FC1"
    # Another transport or encoding in the file ends the node with the reason.
    transport, encoding = wanted if wanted in VIEWS else ("raw", "32FC1")
    view, ending = VIEWS[transport, encoding], "/compressed" if transport == "compressed" else ""
    remappings = [(f"/semantic_depth/input/image{ending}", image + ending)]
    for output in SHOWN:
        shown = on_graph(private(camera, f"output/{output}"), values, outer, remaps)
        remappings.append((f"/semantic_depth/output/{output}", shown))
    arguments = ["-d", str(SHARE / "rviz" / view)]
    if values["fixed_frame"]:
        arguments += ["-f", values["fixed_frame"]]
    return {
        "package": "rviz2",
        "executable": "rviz2",
        "name": "semantic_depth_rviz",
        "arguments": arguments,
        "ros_arguments": ["-p", f"use_sim_time:={str(sim_time(values, outer)).lower()}"],
        "remappings": [(source, target) for source, target in remappings if source != target],
        "output": "screen",
    }


def group_remaps(context):
    """The rules that a group around this launch file has set for all nodes in it (SetRemap): (source, target)."""
    return tuple(context.launch_configurations.get("ros_remaps") or ())


def started(context, values, more=()):
    """The launch system's actions for the arguments. values: as from `from_context`. more: see `node_action`."""
    from launch.actions import ExecuteProcess
    from launch_ros.actions import Node

    outer = context.launch_configurations.get("ros_namespace", "")
    # Everything is made before anything is started: a wrong argument starts nothing.
    node = node_action(values, more, outer)
    remaps = group_remaps(context)
    record = record_command(values, outer, remaps) if is_true("record", values["record"]) else None
    rviz = rviz_action(values, outer, remaps) if is_true("rviz", values["rviz"]) else None
    if remaps:
        # launch_ros writes these before `remappings`, and of rules for one topic the first holds; arguments beat a group.
        node["ros_arguments"] = [
            *(word for source, target in node["remappings"] for word in ("-r", f"{source}:={target}")),
            *node["ros_arguments"],
        ]
    if context.launch_configurations.get("global_params"):
        # launch_ros writes these behind `ros_arguments`, and behind these what is in `parameters`.
        sim_time_is_given = bool(context.launch_configurations["use_sim_time"])
        again = [said for said in said_parameters(values, more) if said[0] != "use_sim_time" or sim_time_is_given]
        if again:
            # Kept, as launch_ros keeps its own: a node that is started again reads it again.
            with tempfile.NamedTemporaryFile(prefix="launch_params_", suffix=".yaml", delete=False) as file:
                file.write(last_word(again, values, outer).encode())
            node["parameters"] = [file.name]
        if rviz and sim_time_is_given:
            rviz["parameters"] = [{"use_sim_time": sim_time(values, outer)}]
    found = [Node(**node)]
    if is_true("build_only", values["build_only"]):
        return found
    if record:
        # Before the node, so that its first frames are in the recording.
        # The recorder still has its cache to write when it is told to end.
        found.insert(0, ExecuteProcess(cmd=record, name="record", output="screen", sigterm_timeout="30"))
    if rviz:
        found.append(Node(**rviz))
    return found


def from_context(context, names):
    """The arguments of these names in a launch context; `use_sim_time` where it is set for all nodes around (SetParameter)."""
    values = {name: context.launch_configurations[name] for name in names}
    if not values["use_sim_time"]:
        for said in context.launch_configurations.get("global_params") or ():
            # Files are among them, too; what they say reaches the node alone.
            if isinstance(said, tuple) and said[0] == "use_sim_time":
                values["use_sim_time"] = str(said[1]).lower()
    return values


def actions(context):
    """What to start for the arguments in a launch context."""
    return started(context, from_context(context, ARGUMENTS))


def declarations(changed=None):
    """The arguments as the launch system declares them. changed: other defaults, by name."""
    from launch.actions import DeclareLaunchArgument

    values = complete(changed)
    return [
        DeclareLaunchArgument(name, default_value=values[name], description=meaning)
        for name, (_, meaning) in ARGUMENTS.items()
    ]


def generate_launch_description():
    """What `ros2 launch` calls."""
    from launch import LaunchDescription
    from launch.actions import OpaqueFunction

    return LaunchDescription([*declarations(), OpaqueFunction(function=actions)])

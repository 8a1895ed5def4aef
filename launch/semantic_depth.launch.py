"""Starts the semantic_depth node, and RViz on request.

    ros2 launch semantic_depth semantic_depth.launch.py image:=/camera/image_raw rviz:=true

What is started follows from the arguments in plain Python (`node_action` and `node_command`), so that it can be read
and tested where the launch system is not installed.
"""

import os
from pathlib import Path

PACKAGE = "semantic_depth"
EXECUTABLE = "semantic_depth_node"
NAME = "semantic_depth"

# share/semantic_depth where this file is installed. Not resolved: a symlink install links single files.
SHARE = Path(__file__).absolute().parents[1]
PROFILE = SHARE / "config" / "fastdds.xml"

# name: (default, what it means)
ARGUMENTS = {
    "namespace": ("", "Namespace of the node"),
    "params_file": (str(SHARE / "config" / "semantic_depth.param.yaml"), "Parameter file (absolute path)"),
    "model_path": (
        "",
        "Manifest (model.yaml) of the model; empty: what the parameter file says, and where that is empty too "
        "the model installed with this package",
    ),
    "device": ("", "auto, cpu or cuda:N; empty: what the parameter file says"),
    "use_sim_time": ("false", "Take the time from /clock (true or false)"),
    "image": ("", "Topic of the images; empty: ~/input/image"),
    "camera_info": ("", "Topic of the camera's calibration; empty: camera_info beside the image"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "rviz": ("false", "Start RViz with this package's configuration too (true or false)"),
}

INSTALLED_MODEL = SHARE / "models" / "street" / "model.yaml"


def defaults():
    """Returns the arguments' default values by name."""
    return {name: default for name, (default, _) in ARGUMENTS.items()}


def is_true(name, text):
    """Reads a launch argument that is true or false; anything else is an error that names it."""
    lowered = text.strip().lower()
    if lowered not in ("true", "false", "1", "0"):
        raise ValueError(f"launch argument {name}:={text}: expected true or false")
    return lowered in ("true", "1")


def quoted(text):
    """Writes a string so that the ROS argument parser reads it as a string, whatever it looks like."""
    return "'" + text.replace("'", "''") + "'"


def camera_info_beside(image):
    """The calibration topic that belongs to an image topic: `/front/image_raw` -> `/front/camera_info`."""
    head, _, _ = image.rpartition("/")
    return f"{head}/camera_info" if head or image.startswith("/") else "camera_info"


def node_action(values=None):
    """The node to start, as keyword arguments of `launch_ros.actions.Node`.

    values: the arguments by name; those left out have their defaults.
    Everything that has an order is in `ros_arguments`: a later parameter beats an earlier one, so what
    was said on the command line comes after the file.
    """
    values = {**defaults(), **(values or {})}
    unknown = sorted(set(values) - set(ARGUMENTS))
    if unknown:
        raise ValueError(f"unknown launch arguments {unknown}: expected some of {sorted(ARGUMENTS)}")
    model_path = values["model_path"]
    ros_arguments = ["--params-file", values["params_file"]]
    if model_path:
        ros_arguments += ["-p", f"model_path:={quoted(model_path)}"]
    if values["device"]:
        ros_arguments += ["-p", f"device:={quoted(values['device'])}"]
    sim_time = is_true("use_sim_time", values["use_sim_time"])
    ros_arguments += ["-p", f"use_sim_time:={'true' if sim_time else 'false'}"]
    ros_arguments += ["--log-level", values["log_level"]]

    remappings = []
    image = values["image"]
    camera_info = values["camera_info"] or (camera_info_beside(image) if image else "")
    if image:
        remappings.append(("~/input/image", image))
    if camera_info:
        remappings.append(("~/input/camera_info", camera_info))
    return {
        "package": PACKAGE,
        "executable": EXECUTABLE,
        "name": NAME,
        "namespace": values["namespace"],
        "remappings": remappings,
        "ros_arguments": ros_arguments,
        "additional_env": node_environment(),
        "output": "screen",
    }


def node_environment(environment=None):
    """What the node needs in its environment beside the caller's own.

    Fast DDS loses large best-effort images with its default shared memory; the user's own profile wins.
    """
    environment = os.environ if environment is None else environment
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(environment.get(name) for name in names):
        return {}
    return {name: str(PROFILE) for name in names}


def node_command(values=None):
    """The command line that the launch system makes of `node_action`: a list, the executable first."""
    action = node_action(values)
    executable = SHARE.parents[1] / "lib" / PACKAGE / EXECUTABLE
    command = [str(executable), "--ros-args", *action["ros_arguments"]]
    command += ["--ros-args", "-r", f"__node:={action['name']}"]
    namespace = "/" + action["namespace"].strip("/")
    command += ["-r", f"__ns:={namespace}"]
    for source, target in action["remappings"]:
        command += ["-r", f"{source}:={target}"]
    return command


def rviz_action(values):
    """RViz, as keyword arguments of `launch_ros.actions.Node`: its topics follow the node's."""
    values = {**defaults(), **values}
    node = "/".join(["", *[part for part in values["namespace"].split("/") if part], NAME])
    image = values["image"] or f"{node}/input/image"
    outputs = ("labels", "depth", "overlay")
    return {
        "package": "rviz2",
        "executable": "rviz2",
        "name": "semantic_depth_rviz",
        "arguments": ["-d", str(SHARE / "rviz" / "semantic_depth.rviz")],
        "ros_arguments": ["-p", f"use_sim_time:={'true' if is_true('use_sim_time', values['use_sim_time']) else 'false'}"],
        "remappings": [
            ("/semantic_depth/input/image", image),
            *[(f"/semantic_depth/output/{name}", f"{node}/output/{name}") for name in outputs],
        ],
        "output": "screen",
    }


def actions(context):
    """The nodes to start for the arguments in a launch context."""
    from launch_ros.actions import Node

    values = {name: context.launch_configurations[name] for name in ARGUMENTS}
    started = [Node(**node_action(values))]
    if is_true("rviz", values["rviz"]):
        started.append(Node(**rviz_action(values)))
    return started


def generate_launch_description():
    """What `ros2 launch` calls."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    declared = [
        DeclareLaunchArgument(name, default_value=default, description=meaning)
        for name, (default, meaning) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=actions)])

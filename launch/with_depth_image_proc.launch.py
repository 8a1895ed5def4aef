r"""The node, and beside it a container with the standard components: rectification before, coloured point cloud after.

    ros2 launch semantic_depth with_depth_image_proc.launch.py image:=/camera/image_raw
    ros2 launch semantic_depth with_depth_image_proc.launch.py image:=/camera/image_raw rectify:=true color:=overlay

For users who already run image_proc and depth_image_proc, or who want rectified images; the node's own
~/output/points needs none of this and carries labels and confidence too. For each camera:

    IMAGE -> [image_proc::RectifyNode] -> node -> depth, camera_info -> depth_image_proc::PointCloudXyzrgbNode -> points

The node itself cannot be loaded into the container: it is no rclcpp component (see semantic_depth.launch.py). The
components share one process, `component_container_mt`, and pass images to each other without a copy. Needs the
packages image_proc, depth_image_proc and rclcpp_components.

PointCloudXyzrgbNode takes the projection from camera_info and knows no distortion: the cloud is right with
`rectify:=true` or a camera that publishes rectified images.
"""

import importlib.util
from pathlib import Path

# name: (default, what it means); semantic_depth.launch.py's are there too.
ARGUMENTS = {
    "container": ("semantic_depth_image_proc", "Name of the container, below the node's namespace"),
    "rectify": ("false", "true: the node reads images that image_proc has rectified"),
    "color": ("image", "Colour of the points: image, overlay or labels_color"),
    "image_reliability": (
        "best_effort",
        "How the components listen to the camera: best_effort hears every publisher, reliable loses nothing",
    ),
}
COLORS = ("image", "overlay", "labels_color")
RELIABILITIES = ("best_effort", "reliable")

# Frames of the camera that the cloud keeps until their depth is there: half a second at 30 Hz.
QUEUE = 15


def single():
    """semantic_depth.launch.py beside this file, as a module."""
    path = Path(__file__).absolute().with_name("semantic_depth.launch.py")
    spec = importlib.util.spec_from_file_location("semantic_depth_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def complete(base, values=None):
    """Splits the arguments into the node's own and this file's, with their defaults."""
    values = dict(values or {})
    own = {name: values.pop(name, default) for name, (default, _) in ARGUMENTS.items()}
    values = base.complete(values)
    for name, choices in (("color", COLORS), ("image_reliability", RELIABILITIES)):
        if own[name] not in choices:
            raise ValueError(f"launch argument {name}:={own[name]}: expected {', '.join(choices)}")
    if not values["image"]:
        raise ValueError("launch argument image is empty: the components need to know the images' topic")
    return values, own


def rectified(base, camera):
    """The topic of a camera's rectified images, and of the calibration beside it."""
    image = base.private(camera, "rectified/image_rect")
    return image, base.camera_info_beside(image)


def node_values(base, values, own, outer=""):
    """The node's arguments where its images come from the container."""
    if not base.is_true("rectify", own["rectify"]):
        return values
    topics = [rectified(base, camera) for camera in base.cameras(values, outer)]
    # Raw: the rectified images are new ones. The calibration stays the camera's: its P is the rectified image's.
    return {
        **values,
        "image": ",".join(image for image, _ in topics),
        "camera_info": ",".join(info for _, _, info in base.inputs(values, outer)),
        "image_transport": "raw",
    }


def node_parameters(base, values, own, outer=""):
    """What the node has to know of images from the container: (name, YAML text)."""
    if not base.is_true("rectify", own["rectify"]):
        return []
    # A camera's own transport in the file is that of its driver, and would beat what is said of all.
    driver = {name: base.camera_parameter(values, outer, name, "image_transport", "raw") for name in base.cameras(values, outer)}
    raw = [(f"{name}.image_transport", "'raw'") for name, transport in driver.items() if name and transport != "raw"]
    return [("input_rectified", "true"), *raw]


def component_descriptions(base, values=None, outer="", remaps=()):
    """The components, as keyword arguments of `launch_ros.descriptions.ComposableNode`. remaps: see `on_graph` of the base."""
    values, own = complete(base, values)
    namespace = base.node_namespace(values, outer)
    sim_time = base.sim_time(values, outer)
    described = []

    def component(package, plugin, camera, name, parameters, remappings):
        described.append(
            {
                "package": package,
                "plugin": plugin,
                "name": f"{camera}_{name}" if camera else name,
                "namespace": namespace,
                "parameters": [{"use_sim_time": sim_time, "queue_size": QUEUE, **parameters}],
                "remappings": remappings,
                "extra_arguments": [{"use_intra_process_comms": True}],
            }
        )

    def listening(topic):
        # image_transport's own subscriptions are reliable, and a best-effort camera would not be heard.
        return {f"qos_overrides.{topic}.subscription.reliability": own["image_reliability"]}

    for camera, image, camera_info in base.inputs(values, outer):
        image = base.resolved(image, values, outer)
        camera_info = base.resolved(camera_info, values, outer)
        output = {
            name: base.on_graph(base.private(camera, f"output/{name}"), values, outer, remaps)
            for name in ("depth", "camera_info", "overlay", "labels_color")
        }
        transport = base.image_transport(values, outer, camera)
        size = base.camera_parameter(values, outer, camera, "output_size") or "source"
        if own["color"] == "image" and size != "source":
            # PointCloudXyzrgbNode takes camera_info for that of the picture: it would scale what is scaled already.
            raise ValueError(
                f"launch argument color:=image: the parameter file says output_size: {size}, and the depth's camera_info is not "
                "the image's then; give color:=overlay or color:=labels_color, or output_size: source"
            )
        color, color_transport = image, transport
        if base.is_true("rectify", own["rectify"]):
            image_rect = base.resolved(rectified(base, camera)[0], values, outer)
            component(
                "image_proc",
                "image_proc::RectifyNode",
                camera,
                "rectify",
                {"image_transport": transport},
                # The components look for camera_info beside the resolved image, and that name can be remapped again.
                [
                    ("image", image),
                    (base.camera_info_beside(image), camera_info),
                    ("image_rect", image_rect),
                ],
            )
            color, color_transport = image_rect, "raw"
        if own["color"] != "image":
            color, color_transport = output[own["color"]], "raw"
        component(
            "depth_image_proc",
            "depth_image_proc::PointCloudXyzrgbNode",
            camera,
            "points",
            {
                # The node's outputs have the stamp of their image: nothing needs to be guessed.
                "exact_sync": True,
                "image_transport": color_transport,
                **listening(color if color_transport == "raw" else f"{color}/compressed"),
            },
            [
                ("depth_registered/image_rect", output["depth"]),
                ("rgb/image_rect_color", color),
                (base.camera_info_beside(color), output["camera_info"]),
                ("points", base.resolved(base.private(camera, "proc/points"), values, outer)),
            ],
        )
    return described


def actions(context):
    """What to start for the arguments in a launch context."""
    from launch_ros.actions import ComposableNodeContainer, Node
    from launch_ros.descriptions import ComposableNode

    base = single()
    given = base.from_context(context, (*base.ARGUMENTS, *ARGUMENTS))
    outer = context.launch_configurations.get("ros_namespace", "")
    values, own = complete(base, given)
    descriptions = component_descriptions(base, given, outer, base.group_remaps(context))
    more = node_parameters(base, values, own, outer)
    started = base.started(context, node_values(base, values, own, outer), more)
    if base.is_true("build_only", values["build_only"]):
        return started
    container = ComposableNodeContainer(
        name=own["container"],
        namespace=values["namespace"],
        package="rclcpp_components",
        executable="component_container_mt",
        composable_node_descriptions=[ComposableNode(**description) for description in descriptions],
        additional_env=base.node_environment(),
        output="screen",
    )
    return [container, *started]


def generate_launch_description():
    """What `ros2 launch` calls."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    declared = [
        DeclareLaunchArgument(name, default_value=default, description=meaning)
        for name, (default, meaning) in ARGUMENTS.items()
    ]
    return LaunchDescription([*single().declarations(), *declared, OpaqueFunction(function=actions)])

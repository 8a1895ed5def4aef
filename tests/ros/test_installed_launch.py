"""The installed package as a user starts it: the command line is the installed launch file's own."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import launch_stand_in
import pytest
import rclpy
import yaml
from conftest import Peer, launch_is_there, launch_module
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

START_S = 60.0
STOP_S = 5.0


@pytest.fixture(scope="module")
def launch_file():
    return launch_module("semantic_depth.launch.py")


@pytest.fixture(scope="module")
def multi():
    return launch_module("semantic_depth_multi.launch.py")


@pytest.fixture(scope="module")
def beside():
    return launch_module("with_depth_image_proc.launch.py")


def start(launch_file, values):
    """Starts the node as the launch file would; the caller stops it."""
    return subprocess.Popen(
        launch_file.node_command(values),
        env={**os.environ, **launch_file.node_environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_the_launch_file_names_is_installed(launch_file):
    command = launch_file.node_command()
    assert os.access(command[0], os.X_OK), command[0]
    params_file = command[command.index("--params-file") + 1]
    assert Path(params_file).is_file(), params_file
    views = [f"rviz/{name}" for name in launch_file.VIEWS.values()]
    shipped = (*views, "foxglove/semantic_depth.json", "plotjuggler/semantic_depth.xml")
    for path in (launch_file.PROFILE, launch_file.INSTALLED_MODEL, *(launch_file.SHARE / name for name in shipped)):
        assert path.is_file(), path


def test_the_readme_and_the_models_cards_lead_to_what_is_installed(launch_file):
    cards = [launch_file.SHARE / "README.md", *(launch_file.SHARE / "models").glob("*/README.md")]
    links = {(card, target) for card in cards for target in re.findall(r"\]\((?!https?:)([^)#]+)", card.read_text())}
    assert {target for _, target in links} >= {"../../docs/BENCHMARKS.md", "../street/README.md"}
    missing = [(str(card), target) for card, target in links if not (card.parent / target).exists()]
    assert not missing


def test_arguments_become_remappings_and_parameters(launch_file):
    command = launch_file.node_command(
        {"namespace": "front", "image": "/camera/image_raw", "device": "cuda:0", "use_sim_time": "true"}
    )
    assert "~/input/image:=/camera/image_raw" in command
    assert "~/input/camera_info:=/camera/camera_info" in command
    assert "device:='cuda:0'" in command
    assert "use_sim_time:=true" in command
    assert "__ns:=/front" in command
    # A later parameter wins: what the caller said must come after the file.
    assert command.index("--params-file") < command.index("device:='cuda:0'")


def remapped(command):
    """The remappings of a command line, in their order."""
    return [command[i + 1] for i, word in enumerate(command) if word == "-r" and not command[i + 1].startswith("__")]


def parameters(command):
    """The parameters of a command line by name, as YAML text; the last one wins."""
    pairs = [command[i + 1].split(":=", 1) for i, word in enumerate(command) if word == "-p"]
    return dict(pairs)


def test_what_is_not_said_is_left_to_the_parameter_file(launch_file):
    assert parameters(launch_file.node_command()) == {}
    assert remapped(launch_file.node_command()) == []
    assert "--log-level" not in launch_file.node_command()


def test_every_parameter_reaches_the_node(launch_file):
    said = {
        "model_path": "/it's/model.yaml",
        "gpu_id": "1",
        "precision": "fp16",
        "backend": "tensorrt",
        "image_transport": "compressed",
        "build_only": "true",
        "autostart": "False",
        "use_sim_time": "true",
        "cameras": "front, left",
        "log_level": "debug",
    }
    assert parameters(launch_file.node_command(said)) == {
        "model_path": "'/it''s/model.yaml'",
        "device": "'cuda:1'",
        "precision": "'fp16'",
        "backend": "'tensorrt'",
        "image_transport": "'compressed'",
        "build_only": "true",
        "autostart": "false",
        "use_sim_time": "true",
        "cameras": "['front', 'left']",
        "log_level": "'debug'",
    }


def test_the_log_level_holds_from_the_start_and_beats_the_file(launch_file):
    command = launch_file.node_command({"log_level": "debug"})
    assert command[command.index("--log-level") + 1] == "debug"
    assert command.index("--params-file") < command.index("log_level:='debug'")
    # Which is no value of the parameter.
    command = launch_file.node_command({"log_level": "fatal"})
    assert command[command.index("--log-level") + 1] == "fatal" and parameters(command) == {}


def test_a_gpu_is_named_once(launch_file):
    assert launch_file.device(launch_file.complete({"gpu_id": "0", "device": "cuda:0"})) == "cuda:0"
    for said in ({"gpu_id": "0", "device": "cpu"}, {"gpu_id": "-1"}, {"gpu_id": "cuda:0"}, {"gpu_id": "\u00b2"}):
        with pytest.raises(ValueError, match="gpu_id"):
            launch_file.node_command(said)


def test_the_compressed_topic_is_remapped_too(launch_file):
    """A remapping of ~/input/image says nothing of ~/input/image/compressed."""
    assert remapped(launch_file.node_command({"image": "/camera/image_raw"})) == [
        "~/input/image:=/camera/image_raw",
        "~/input/image/compressed:=/camera/image_raw/compressed",
        "~/input/camera_info:=/camera/camera_info",
    ]


def test_cameras_have_topics_of_their_own(launch_file):
    cameras = {"cameras": "front,left"}
    expected = [
        "~/front/input/image:=/sensors/front/image_raw",
        "~/front/input/image/compressed:=/sensors/front/image_raw/compressed",
        "~/front/input/camera_info:=/sensors/front/camera_info",
        "~/left/input/image:=/sensors/left/image_raw",
        "~/left/input/image/compressed:=/sensors/left/image_raw/compressed",
        "~/left/input/camera_info:=/sensors/left/camera_info",
    ]
    for image in ("/sensors/{camera}/image_raw", "/sensors/front/image_raw, /sensors/left/image_raw"):
        assert remapped(launch_file.node_command({**cameras, "image": image})) == expected
    own = {**cameras, "image": "/cams/{camera}", "camera_info": "/calib/{camera}"}
    assert remapped(launch_file.node_command(own))[2::3] == [
        "~/front/input/camera_info:=/calib/front",
        "~/left/input/camera_info:=/calib/left",
    ]
    assert remapped(launch_file.node_command(cameras)) == []


def test_the_multi_camera_file_has_three_cameras(multi):
    command = multi.single().node_command(multi.CHANGED)
    assert parameters(command)["cameras"] == "['front', 'left', 'right']"
    assert "~/right/input/image:=/sensors/right/image_raw" in command


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"use_sim_time": "maybe"}, "use_sim_time:=maybe"),
        ({"build_only": "maybe"}, "build_only:=maybe"),
        ({"autostart": "maybe"}, "autostart:=maybe"),
        ({"imgae": "/camera"}, "imgae"),
        ({"precision": "fp8"}, "precision:=fp8: expected auto, fp32, fp16, bf16"),
        ({"image_transport": "theora"}, "image_transport:=theora: expected raw, compressed"),
        ({"log_level": "loud"}, "log_level:=loud"),
        ({"cameras": "front,Left"}, "'Left' is not a camera's name"),
        ({"cameras": "front,,left"}, "'' is not a camera's name"),
        ({"cameras": "front__left"}, "'front__left' is not a camera's name"),
        ({"cameras": "a" * 65}, "expected up to 64 small letters, digits and single underscores"),
        ({"cameras": "front,front"}, "a name occurs twice"),
        ({"image": "/cam/{camera}"}, "cameras names none"),
        ({"cameras": "a,b", "image": "/cam/image"}, "1 topics for 2 cameras"),
        ({"cameras": "a,b", "image": "/cam/{camera},/b"}, "only {camera} is replaced"),
        ({"cameras": "a", "image": "/cam/{name}/image"}, "only {camera} is replaced"),
        ({"cameras": "a,b", "image": "/x,/x"}, "the same topic"),
        ({"cameras": "a,b", "image": "/cams/{camera}"}, "share the calibration /cams/camera_info"),
        ({"image": "/cam/image_raw/compressed"}, "image:=/cam/image_raw image_transport:=compressed"),
    ],
)
def test_wrong_arguments_are_named(launch_file, values, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        launch_file.node_command(values)


def recorded(command):
    assert command[:5] == ["ros2", "bag", "record", "--storage", "mcap"]
    return command[command.index("--topics") + 1 :]


def test_the_recording_is_of_the_topics_on_the_graph(launch_file):
    values = {"namespace": "vehicle", "image": "camera/image_raw", "record_path": "/bags/drive 1"}
    command = launch_file.record_command(values, outer="/fleet/7")
    assert command[command.index("--output") + 1] == "/bags/drive 1"
    assert "--disable-keyboard-controls" in command and "--use-sim-time" not in command
    node = "/fleet/7/vehicle/semantic_depth"
    assert recorded(command) == [
        f"{node}/output/labels",
        f"{node}/output/depth",
        f"{node}/output/camera_info",
        f"{node}/output/label_info",
        f"{node}/output/timing",
        "/fleet/7/vehicle/camera/camera_info",
        "/diagnostics",
        "/tf",
        "/tf_static",
    ]
    assert "--use-sim-time" in launch_file.record_command({"use_sim_time": "true"})
    assert "--use-sim-time" not in launch_file.record_command({"use_sim_time": "false"})


def test_the_recording_of_chosen_outputs_and_inputs(launch_file):
    values = {"cameras": "front,left", "image": "/s/{camera}/image", "record_outputs": "depth/compressed,mask"}
    topics = recorded(launch_file.record_command({**values, "record_input": "true", "image_transport": "compressed"}))
    assert topics == [
        "/semantic_depth/front/output/depth/compressed",
        "/semantic_depth/front/output/mask",
        "/s/front/camera_info",
        "/s/front/image/compressed",
        "/semantic_depth/left/output/depth/compressed",
        "/semantic_depth/left/output/mask",
        "/s/left/camera_info",
        "/s/left/image/compressed",
        "/diagnostics",
        "/tf",
        "/tf_static",
    ]
    everything = recorded(launch_file.record_command({"record_outputs": "all", "record_input": "true"}))
    for topic in ("output/points", "output/overlay", "output/confidence", "input/image", "input/image/compressed"):
        assert f"/semantic_depth/{topic}" in everything
    assert not [topic for topic in everything if topic.startswith("/semantic_depth/output/") and "compressed" in topic]
    with pytest.raises(ValueError, match="lables"):
        launch_file.record_command({"record_outputs": "lables"})


NODE_SAYS = "ros__parameters: {cameras: [front, rear], use_sim_time: true}"


@pytest.mark.parametrize(
    "text",
    [
        f"/**:\n  {NODE_SAYS}\n",
        f"semantic_depth:\n  {NODE_SAYS}\n",
        f"/fleet/v/semantic_depth:\n  {NODE_SAYS}\n",
        f"/fleet:\n  v:\n    semantic_depth:\n      {NODE_SAYS}\n",
        # The later block wins, as in the node; what other nodes have is theirs.
        f"/**:\n  ros__parameters: {{cameras: [left], use_sim_time: false}}\n/fleet/v/semantic_depth:\n  {NODE_SAYS}\n"
        "/v/semantic_depth:\n  ros__parameters: {cameras: [other], use_sim_time: false}\n"
        "other:\n  ros__parameters: {cameras: 7, date: 2001-01-01, tagged: !x y}\n",
    ],
)
def test_what_the_parameter_file_says_holds_beside_the_node_too(launch_file, beside, tmp_path, text):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    values = {"params_file": str(file), "namespace": "v", "image": "/s/{camera}/image"}

    command = launch_file.record_command(values, "fleet")
    assert "--use-sim-time" in command
    topics = recorded(command)
    for name in ("front", "rear"):
        assert f"/fleet/v/semantic_depth/{name}/output/labels" in topics and f"/s/{name}/camera_info" in topics
    assert "/fleet/v/semantic_depth/output/labels" not in topics

    rviz = launch_file.rviz_action({**values, "rviz_camera": "rear"}, "fleet")
    assert rviz["ros_arguments"] == ["-p", "use_sim_time:=true"]
    assert dict(rviz["remappings"])["/semantic_depth/output/depth"] == "/fleet/v/semantic_depth/rear/output/depth"

    node = launch_file.node_action(values, outer="fleet")
    assert ("~/rear/input/image", "/s/rear/image") in node["remappings"]
    # The node reads the file itself.
    assert "-p" not in node["ros_arguments"]

    components = beside.component_descriptions(launch_file, values, "fleet")
    assert [component["name"] for component in components] == ["front_points", "rear_points"]
    assert components[0]["parameters"][0]["use_sim_time"] is True

    said = {**values, "cameras": "side", "use_sim_time": "false"}
    command = launch_file.record_command(said, "fleet")
    assert "--use-sim-time" not in command and recorded(command)[0] == "/fleet/v/semantic_depth/side/output/labels"
    # One topic for two cameras.
    with pytest.raises(ValueError, match="1 topics for 2 cameras"):
        launch_file.node_action({**values, "image": "/x"}, outer="fleet")


def test_an_argument_beats_what_the_file_says_to_the_node_by_name(launch_file, tmp_path):
    file = tmp_path / "params.yaml"
    values = {"params_file": str(file), "namespace": "v", "device": "cuda:0", "backend": "torchscript"}
    shared = "/**:\n  ros__parameters: {backend: native}\n"
    for key in ("semantic_depth", "/fleet/v/semantic_depth"):
        file.write_text(f"{shared}{key}:\n  ros__parameters: {{device: cpu}}\n")
        action = launch_file.node_action(values, outer="fleet")
        said = [word for before, word in zip(action["ros_arguments"], action["ros_arguments"][1:]) if before == "-p"]
        assert said == ["device:='cuda:0'", "semantic_depth:device:='cuda:0'", "backend:='torchscript'"]
    # Which one wins would depend on their order.
    file.write_text(f"{file.read_text()}semantic_depth:\n  ros__parameters: {{png_level: 1}}\n")
    with pytest.raises(ValueError, match="device is said to /fleet/v/semantic_depth, beside a block for semantic_depth"):
        launch_file.node_action(values, outer="fleet")


@pytest.mark.parametrize("order", [("/**", "semantic_depth"), ("semantic_depth", "/**"), ("/**", "/front/semantic_depth")])
def test_the_node_takes_the_argument_whatever_the_order_of_the_file(launch_file, start_node, tmp_path, order):
    file = tmp_path / "params.yaml"
    blocks = {key: {"ros__parameters": {"precision": "fp16", "png_level": level}} for level, key in enumerate(order)}
    file.write_text(yaml.safe_dump(blocks, sort_keys=False))
    values = {"params_file": str(file), "namespace": "front", "precision": "fp32", "autostart": "false"}
    peer = Peer(start_node(command=launch_file.node_command(values)), outputs=())
    try:
        request = GetParameters.Request(names=["precision", "png_level"])
        client = peer.node.create_client(GetParameters, "/front/semantic_depth/get_parameters")
        peer.until(client.service_is_ready, "the service")
        future = client.call_async(request)
        peer.until(future.done, "the parameters")
        precision, level = future.result().values
        assert (precision.string_value, level.integer_value) == ("fp32", 1), "of blocks, the later one"
    finally:
        peer.close()


def test_each_camera_has_its_own_transport_beside_the_node_too(launch_file, beside, tmp_path):
    file = tmp_path / "params.yaml"
    for text in ("rear: {image_transport: compressed}", "rear.image_transport: compressed"):
        file.write_text(f"/**:\n  ros__parameters:\n    cameras: [front, rear]\n    {text}\n")
        values = {"params_file": str(file), "image": "/s/{camera}/image", "rviz": "true"}
        points = beside.component_descriptions(launch_file, values)
        assert [p["parameters"][0]["image_transport"] for p in points] == ["raw", "compressed"]
        for camera, view in (("front", "semantic_depth.rviz"), ("rear", "semantic_depth_compressed.rviz")):
            assert launch_file.rviz_action({**values, "rviz_camera": camera})["arguments"][1].endswith(f"/{view}")


def test_the_container_rectifies_what_its_camera_sends_and_the_node_gets_it_raw(launched, tmp_path):
    file = tmp_path / "params.yaml"
    cameras = "    cameras: [front, rear]\n    rear: {image_transport: compressed}\n"
    values = {"params_file": str(file), "image": "/s/{camera}/image", "rectify": "true"}
    for key in ("/**", "semantic_depth"):
        file.write_text(f"{key}:\n  ros__parameters:\n{cameras}")
        container, node = launched("with_depth_image_proc.launch.py", **values)
        rectify = [c for c in container.composable_node_descriptions if c.package == "image_proc"]
        assert [c.parameters[0]["image_transport"] for c in rectify] == ["raw", "compressed"]
        said = [word for before, word in zip(node.ros_arguments, node.ros_arguments[1:]) if before == "-p"]
        assert "rear.image_transport:='raw'" in said and not any("front.image_transport" in word for word in said)
        assert ("semantic_depth:rear.image_transport:='raw'" in said) == (key == "semantic_depth")


def test_colours_of_the_image_need_outputs_of_its_size(launch_file, beside, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("/**:\n  ros__parameters:\n    output_size: network\n")
    values = {"params_file": str(file), "image": "/s/image"}
    with pytest.raises(ValueError, match="output_size: network.*color:=overlay"):
        beside.component_descriptions(launch_file, values)
    (points,) = beside.component_descriptions(launch_file, {**values, "color": "overlay"})
    assert ("rgb/image_rect_color", "/semantic_depth/output/overlay") in points["remappings"]


def test_simulated_time_for_all_nodes_is_the_recorders_and_the_components_too(launched):
    """SetParameter around the file; launch_ros itself says it to the nodes."""
    params = [("use_sim_time", True), "/a/file.yaml"]
    record, node = launched("semantic_depth.launch.py", global_params=params, record="true")
    assert "--use-sim-time" in record.cmd and "use_sim_time:=true" in node.ros_arguments
    record, node = launched("semantic_depth.launch.py", global_params=params, record="true", use_sim_time="false")
    assert "--use-sim-time" not in record.cmd, "the file's own argument wins"
    container, *_ = launched("with_depth_image_proc.launch.py", global_params=params, image="/s/image")
    assert container.composable_node_descriptions[0].parameters[0]["use_sim_time"] is True


@pytest.mark.parametrize("file", ["semantic_depth", "semantic_depth_multi", "with_depth_image_proc"])
def test_an_argument_beats_a_group_around_the_file(launched, file):
    """launch_ros writes the group's parameters behind `ros_arguments`, and what is in `parameters` behind these."""
    image = {"image": "/s/{camera}/image", "cameras": "a,b", "namespace": "v"}
    file = f"{file}.launch.py"
    *_, node = launched(file, "fleet", backend="native", gpu_id="1", **image)
    assert "parameters" not in node.said, "where there is no group, the command line is as it was"

    params = [("use_sim_time", True), ("backend", "torchscript"), "/a/file.yaml"]
    given = {"backend": "native", "gpu_id": "1", "autostart": "false", "build_only": "true", **image}
    *_, node = launched(file, "fleet", global_params=params, **given)
    (path,) = node.parameters
    said = yaml.safe_load(Path(path).read_text())
    expected = {"backend": "native", "device": "cuda:1", "autostart": False, "build_only": True, "cameras": ["a", "b"]}
    # Each name that the node goes by: which one it takes last is the files' to say.
    blocks = {key: {"ros__parameters": expected} for key in ("/**", "semantic_depth", "/fleet/v/semantic_depth")}
    assert said == blocks, "the group's own use_sim_time is the group's to say"


def test_what_rectified_images_need_beats_a_group_around_the_file_too(launched):
    values = {"image": "/s/image", "rectify": "true", "image_transport": "compressed"}
    *_, node = launched("with_depth_image_proc.launch.py", global_params=[("image_transport", "compressed")], **values)
    said = yaml.safe_load(Path(node.parameters[0]).read_text())
    assert said["/**"]["ros__parameters"] == {"image_transport": "raw", "input_rectified": True}


def test_rviz_has_the_arguments_time_in_a_group_too(launched):
    params = [("use_sim_time", True)]
    *_, rviz = launched("semantic_depth.launch.py", global_params=params, rviz="true", use_sim_time="false")
    assert rviz.parameters == [{"use_sim_time": False}]
    *_, node, rviz = launched("semantic_depth.launch.py", global_params=params, rviz="true")
    assert "parameters" not in {**node.said, **rviz.said}


def test_the_components_take_the_transport_of_the_parameter_file(launch_file, beside, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("/**:\n  ros__parameters:\n    image_transport: compressed\n")
    values = {"params_file": str(file), "image": "/s/image"}
    for said, expected in (("", "compressed"), ("raw", "raw")):
        (points,) = beside.component_descriptions(launch_file, {**values, "image_transport": said})
        assert points["parameters"][0]["image_transport"] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "expected a YAML file of parameters: [Errno 2]"),
        ("/**: [\n", "expected a YAML file of parameters: while parsing"),
        ("/**:\n  ros__parameters: {cameras: front}\n", "cameras: front: expected a list, as in [front, rear]"),
        ("/**:\n  ros__parameters: {cameras: [Front]}\n", "'Front' is not a camera's name"),
    ],
)
def test_what_is_wrong_in_the_parameter_file_is_named(launch_file, tmp_path, text, words):
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        launch_file.node_command({"params_file": str(file)})
    assert str(file) in str(error.value)


def test_rviz_shows_one_camera(launch_file):
    assert launch_file.rviz_action()["remappings"] == []
    for said, expected in (("", "false"), ("false", "false"), ("true", "true")):
        arguments = launch_file.rviz_action({"use_sim_time": said})["ros_arguments"]
        assert arguments == ["-p", f"use_sim_time:={expected}"]
    values = {"cameras": "front,left", "image": "/s/{camera}/image", "namespace": "v", "fixed_frame": "base_link"}
    action = launch_file.rviz_action({**values, "rviz_camera": "left"}, outer="out")
    assert action["arguments"][-2:] == ["-f", "base_link"]
    assert dict(action["remappings"]) == {
        "/semantic_depth/input/image": "/s/left/image",
        **{
            f"/semantic_depth/output/{name}": f"/out/v/semantic_depth/left/output/{name}"
            for name in ("labels_color", "depth", "overlay", "points")
        },
    }
    with pytest.raises(ValueError, match="rviz_camera:=rear"):
        launch_file.rviz_action({**values, "rviz_camera": "rear"})


def test_rviz_takes_compressed_images_where_the_node_does(launch_file, tmp_path):
    """By the name in its configuration: a remapping alone changes no transport."""
    file = tmp_path / "params.yaml"
    file.write_text("/**:\n  ros__parameters:\n    image_transport: compressed\n")
    image = {"namespace": "v", "image": "s/image"}
    written = {**image, "params_file": str(file)}
    for values in ({**image, "image_transport": "compressed"}, written):
        action = launch_file.rviz_action(values, outer="out")
        assert action["arguments"] == ["-d", str(launch_file.SHARE / "rviz" / "semantic_depth_compressed.rviz")]
        inputs = [pair for pair in action["remappings"] if "/input/" in pair[0]]
        assert inputs == [("/semantic_depth/input/image/compressed", "/out/v/s/image/compressed")]
    action = launch_file.rviz_action({**written, "image_transport": "raw"})
    assert action["arguments"] == ["-d", str(launch_file.SHARE / "rviz" / "semantic_depth.rviz")]
    assert ("/semantic_depth/input/image", "/v/s/image") in action["remappings"]


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_rvizs_remappings_are_of_the_topics_in_its_configuration(launch_file, transport):
    action = launch_file.rviz_action({"namespace": "x", "image_transport": transport})
    configuration = yaml.safe_load(Path(action["arguments"][1]).read_text())
    displays = configuration["Visualization Manager"]["Displays"]
    shown = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert {source for source, _ in action["remappings"]} == shown


def test_rviz_knows_depth_in_millimetres(launch_file, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("/**:\n  ros__parameters:\n    front.depth_encoding: 16UC1\n")
    values = {"params_file": str(file), "cameras": "front,rear"}
    for more, view in (
        ({}, "semantic_depth_mm.rviz"),
        ({"image_transport": "compressed"}, "semantic_depth_compressed_mm.rviz"),
        ({"rviz_camera": "rear"}, "semantic_depth.rviz"),
    ):
        assert launch_file.rviz_action({**values, **more})["arguments"][1] == str(launch_file.SHARE / "rviz" / view)


def test_rvizs_configurations_differ_in_what_they_are_for(launch_file):
    texts = [(launch_file.SHARE / "rviz" / name).read_text().splitlines() for name in launch_file.VIEWS.values()]

    def differ(other):
        return [(a.strip(), b.strip()) for a, b in zip(texts[0], other, strict=True) if a != b]

    topic = "Value: /semantic_depth/input/image"
    source, depth = (topic, f"{topic}/compressed"), ("Max Value: 80", "Max Value: 80000")
    assert [differ(other) for other in texts] == [[], [depth], [source], [source, depth]]


def test_the_components_are_wired_to_the_node(launch_file, beside):
    values = {"namespace": "v", "image": "/cam/image_raw"}
    (points,) = beside.component_descriptions(launch_file, values)
    assert (points["package"], points["plugin"]) == ("depth_image_proc", "depth_image_proc::PointCloudXyzrgbNode")
    assert dict(points["remappings"]) == {
        "depth_registered/image_rect": "/v/semantic_depth/output/depth",
        "rgb/image_rect_color": "/cam/image_raw",
        # Where the component looks for the calibration: beside its colour image.
        "/cam/camera_info": "/v/semantic_depth/output/camera_info",
        "points": "/v/semantic_depth/proc/points",
    }
    (simulated,) = beside.component_descriptions(launch_file, {**values, "use_sim_time": "true"})
    assert simulated["parameters"][0]["use_sim_time"] is True
    (settings,) = points["parameters"]
    assert settings["exact_sync"] is True and settings["use_sim_time"] is False
    assert settings["qos_overrides./cam/image_raw.subscription.reliability"] == "best_effort"
    (overlay,) = beside.component_descriptions(launch_file, {**values, "color": "overlay"})
    assert dict(overlay["remappings"])["rgb/image_rect_color"] == "/v/semantic_depth/output/overlay"


def test_the_node_reads_what_the_container_rectifies(launch_file, beside):
    values = {"cameras": "front,left", "image": "/s/{camera}/image", "image_transport": "compressed", "rectify": "true"}
    described = beside.component_descriptions(launch_file, values)
    assert [d["name"] for d in described] == ["front_rectify", "front_points", "left_rectify", "left_points"]
    rectify, points = described[:2]
    assert dict(rectify["remappings"]) == {
        "image": "/s/front/image",
        "/s/front/camera_info": "/s/front/camera_info",
        "image_rect": "/semantic_depth/front/rectified/image_rect",
    }
    assert rectify["parameters"][0]["image_transport"] == "compressed"
    assert points["parameters"][0]["image_transport"] == "raw"
    assert dict(points["remappings"])["rgb/image_rect_color"] == "/semantic_depth/front/rectified/image_rect"

    node = launch_file.node_command(beside.node_values(launch_file, *beside.complete(launch_file, values)))
    assert "~/front/input/image:=~/front/rectified/image_rect" in node
    assert "~/left/input/camera_info:=/s/left/camera_info" in node
    assert parameters(node)["image_transport"] == "'raw'"


def test_the_container_needs_to_know_the_images(launch_file, beside):
    with pytest.raises(ValueError, match="image is empty"):
        beside.component_descriptions(launch_file)
    with pytest.raises(ValueError, match="color:=depth"):
        beside.component_descriptions(launch_file, {"image": "/a/b", "color": "depth"})


# --- the launch files' own lines, with a stand-in for the launch system ----------------------------------------------

FILES = ("semantic_depth.launch.py", "semantic_depth_multi.launch.py", "with_depth_image_proc.launch.py")
# What can be started.
KINDS = (launch_stand_in.ComposableNodeContainer, launch_stand_in.ExecuteProcess, launch_stand_in.Node)
NO_PROFILE = {"FASTRTPS_DEFAULT_PROFILES_FILE": "", "FASTDDS_DEFAULT_PROFILES_FILE": ""}


@pytest.fixture
def launched(monkeypatch):
    """What a launch file starts with these arguments: its actions."""
    if launch_is_there():
        pytest.skip("the real launch is there, and test_launch_system.py runs")
    launch_stand_in.install(monkeypatch)
    for name, value in NO_PROFILE.items():
        monkeypatch.setenv(name, value)

    def launch(name, outer="", **arguments):
        actions = launch_stand_in.run(launch_module(name).generate_launch_description(), arguments, outer)
        assert all(isinstance(action, KINDS) for action in actions)
        return actions

    return launch


def test_the_launch_files_declare_their_arguments(launched, launch_file, multi, beside):
    own = {name: default for name, (default, _) in beside.ARGUMENTS.items()}
    expected = (launch_file.defaults(), {**launch_file.defaults(), **multi.CHANGED}, {**launch_file.defaults(), **own})
    for name, defaults in zip(FILES, expected, strict=True):
        *declared, last = launch_module(name).generate_launch_description().entities
        assert isinstance(last, launch_stand_in.OpaqueFunction)
        assert {argument.name: argument.default_value for argument in declared} == defaults
        assert all(argument.description for argument in declared)


def test_one_node_is_launched(launched, launch_file):
    (node,) = launched("semantic_depth.launch.py")
    profile = str(launch_file.PROFILE)
    assert node.said == {
        "package": "semantic_depth",
        "executable": "semantic_depth_node",
        "name": "semantic_depth",
        "namespace": "",
        "remappings": [],
        "ros_arguments": ["--params-file", str(launch_file.SHARE / "config" / "semantic_depth.param.yaml")],
        "additional_env": {"FASTRTPS_DEFAULT_PROFILES_FILE": profile, "FASTDDS_DEFAULT_PROFILES_FILE": profile},
        "respawn": False,
        "respawn_delay": 2.0,
        "sigterm_timeout": "10",
        "output": "screen",
    }


def test_recorder_node_and_rviz_are_launched_in_this_order(launched):
    arguments = {"namespace": "v", "image": "cam/image", "image_transport": "compressed", "use_sim_time": "true"}
    switches = {"record": "true", "record_outputs": "labels", "record_input": "true", "rviz": "true", "respawn": "true"}
    recorder, node, rviz = launched("semantic_depth.launch.py", "out", **arguments, **switches)
    assert recorder.name == "record" and recorder.sigterm_timeout == "30"
    assert "--use-sim-time" in recorder.cmd
    assert recorded(recorder.cmd) == [
        "/out/v/semantic_depth/output/labels",
        "/out/v/cam/camera_info",
        "/out/v/cam/image/compressed",
        "/diagnostics",
        "/tf",
        "/tf_static",
    ]
    # The namespace around it is the launch system's to add.
    assert node.executable == "semantic_depth_node" and node.namespace == "v" and node.respawn is True
    assert node.remappings == [
        ("~/input/image", "cam/image"),
        ("~/input/image/compressed", "cam/image/compressed"),
        ("~/input/camera_info", "cam/camera_info"),
    ]
    assert node.ros_arguments[2:] == ["-p", "image_transport:='compressed'", "-p", "use_sim_time:=true"]
    assert (rviz.package, rviz.executable) == ("rviz2", "rviz2")
    assert rviz.arguments[1].endswith("/semantic_depth_compressed.rviz")
    assert ("/semantic_depth/input/image/compressed", "/out/v/cam/image/compressed") in rviz.remappings
    # The launch ends when nothing of it runs any more: no process ends the others.
    assert not any("on_exit" in action.said for action in (recorder, node, rviz))


def test_three_cameras_are_launched(launched):
    (node,) = launched("semantic_depth_multi.launch.py")
    assert node.ros_arguments[2:] == ["-p", "cameras:=['front', 'left', 'right']"]
    assert [target for source, target in node.remappings if source.endswith("input/image")] == [
        f"/sensors/{name}/image_raw" for name in ("front", "left", "right")
    ]
    (node,) = launched("semantic_depth_multi.launch.py", cameras="rear", image="/cam")
    assert node.remappings[0] == ("~/rear/input/image", "/cam")


def test_the_container_is_launched_beside_the_node(launched, launch_file):
    values = {"namespace": "v", "image": "/cam/image", "image_transport": "compressed", "rviz": "true"}
    container, node, _ = launched("with_depth_image_proc.launch.py", "out", **values)
    assert container.said == {
        "name": "semantic_depth_image_proc",
        "namespace": "v",
        "package": "rclcpp_components",
        "executable": "component_container_mt",
        "composable_node_descriptions": container.composable_node_descriptions,
        "additional_env": {name: str(launch_file.PROFILE) for name in NO_PROFILE},
        "output": "screen",
    }
    (points,) = container.composable_node_descriptions
    assert isinstance(points, launch_stand_in.ComposableNode) and points.namespace == "/out/v"
    assert node.remappings[0] == ("~/input/image", "/cam/image")

    container, node, rviz = launched("with_depth_image_proc.launch.py", "out", rectify="true", **values)
    assert [component.name for component in container.composable_node_descriptions] == ["rectify", "points"]
    assert node.remappings[0] == ("~/input/image", "~/rectified/image_rect")
    assert node.ros_arguments[2:] == ["-p", "image_transport:='raw'", "-p", "input_rectified:=true"]
    # What is rectified is not compressed.
    assert rviz.arguments[1] == str(launch_file.SHARE / "rviz" / "semantic_depth.rviz")
    assert ("/semantic_depth/input/image", "/out/v/semantic_depth/rectified/image_rect") in rviz.remappings


@pytest.mark.parametrize("file", FILES)
def test_build_only_launches_the_node_alone(launched, file):
    switches = {name: "true" for name in ("build_only", "record", "rviz", "respawn")}
    (node,) = launched(file, image="/{camera}/image", cameras="a,b", **switches)
    assert node.executable == "semantic_depth_node" and node.respawn is False
    assert "build_only:=true" in node.ros_arguments


@pytest.mark.parametrize("file", FILES)
def test_a_wrong_argument_launches_nothing(launched, file):
    for wrong in ("record", "rviz"):
        with pytest.raises(ValueError, match=f"{wrong}:=maybe: expected true or false"):
            launched(file, image="/{camera}/image", cameras="a,b", **{wrong: "maybe"})


def test_the_stand_in_takes_the_real_keywords_only(launched):
    with pytest.raises(TypeError, match="Node: unknown or missing keywords .'node_name', 'executable'."):
        launch_stand_in.Node(package="a", node_name="b")


def test_the_users_own_middleware_profile_wins(launch_file):
    assert launch_file.node_environment({"FASTRTPS_DEFAULT_PROFILES_FILE": "/own.xml"}) == {}
    # Which a profile with transports of its own would undo.
    assert launch_file.node_environment({"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}) == {}
    assert launch_file.node_environment({})["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(launch_file.PROFILE)


def test_the_installed_node_answers_and_stops(launch_file):
    process = start(launch_file, {"namespace": "front", "image": "/camera/image_raw", "device": "cpu"})
    rclpy.init()
    try:
        peer = rclpy.create_node("launch_peer")
        executor = SingleThreadedExecutor()
        executor.add_node(peer)
        answers = []
        peer.create_subscription(Image, "/front/semantic_depth/output/labels", answers.append, 10)
        publisher = peer.create_publisher(Image, "/camera/image_raw", qos_profile_sensor_data)
        image = Image(height=48, width=64, encoding="rgb8", step=64 * 3, data=bytes(48 * 64 * 3))
        image.header.frame_id = "camera_front"
        deadline = time.monotonic() + START_S
        while not answers and time.monotonic() < deadline and process.poll() is None:
            image.header.stamp = peer.get_clock().now().to_msg()
            publisher.publish(image)
            executor.spin_once(timeout_sec=0.2)
        assert answers, f"no labels within {START_S} s; exit code {process.poll()}"
        assert (answers[0].width, answers[0].height, answers[0].encoding) == (64, 48, "mono8")
        assert answers[0].header.frame_id == "camera_front"

        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=STOP_S)
        assert process.returncode == 0, output
    finally:
        process.kill()
        process.wait()
        rclpy.try_shutdown()


def test_a_missing_model_ends_the_node_with_the_reason(launch_file):
    process = start(launch_file, {"model_path": "/nonexistent/model.yaml", "device": "cpu"})
    try:
        output, _ = process.communicate(timeout=START_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, output
    assert "/nonexistent/model.yaml" in output


def test_a_group_that_remaps_is_followed(launch_file, monkeypatch):
    """SetRemap around the launch file: of the node's topics, and of those that are recorded beside them."""
    launch_stand_in.install(monkeypatch)
    rules = [("/tf", "tf"), ("/diagnostics", "diagnostics"), ("~/output/depth", "/depth"), ("~/input/image", "/other/image")]
    said = {"record": "true", "record_input": "true", "rviz": "true", "ros_remaps": rules}
    record, node, rviz = launch_stand_in.run(launch_file.generate_launch_description(), said, "veh")
    topics = record.cmd[record.cmd.index("--topics") + 1 :]
    assert {"/veh/tf", "/tf_static", "/veh/diagnostics", "/depth", "/veh/semantic_depth/output/labels"} <= set(topics)
    assert {"/other/image", "/other/camera_info"} <= set(topics), "the node takes the calibration beside it"
    assert not {"/tf", "/diagnostics", "/veh/semantic_depth/output/depth"} & set(topics)
    assert dict(rviz.remappings)["/semantic_depth/output/depth"] == "/depth"
    assert dict(rviz.remappings)["/semantic_depth/input/image"] == "/other/image"
    assert "-r" not in node.ros_arguments
    # An argument beats the group: rcl takes the first rule for a topic, and these come before launch_ros's.
    _, node, rviz = launch_stand_in.run(launch_file.generate_launch_description(), {**said, "image": "/cam/image"}, "veh")
    first = node.ros_arguments.index("-r")
    assert node.ros_arguments[first : first + 2] == ["-r", "~/input/image:=/cam/image"]
    assert "~/input/camera_info:=/cam/camera_info" in node.ros_arguments
    assert dict(rviz.remappings)["/semantic_depth/input/image"] == "/cam/image"


def test_the_components_follow_a_group_that_remaps(launch_file, beside):
    (points,) = beside.component_descriptions(launch_file, {"image": "/cam/image"}, "veh", [("~/output/depth", "depth")])
    assert dict(points["remappings"])["depth_registered/image_rect"] == "/veh/depth"

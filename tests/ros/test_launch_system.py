"""The launch files in the real launch system: a LaunchService of its own process, and the node that it starts.

Where the packages `launch` and `launch_ros` cannot be imported, this is skipped (a sourced ROS 2 has them, the ROS 2
packages on PyPI do not); what the launch files decide is tested without them in test_installed_launch.py, and what they
hand to the launch system with stand-ins for it.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import rclpy
import yaml
from conftest import LIMIT_S, key, launch_is_there, launch_module, launch_path, new_domain, picture, qos, until
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import parameter_value_to_python
from sensor_msgs.msg import CompressedImage, Image


pytestmark = pytest.mark.skipif(
    not launch_is_there(), reason="launch and launch_ros cannot be imported: source a ROS 2 that has ros2launch"
)

STOP_S = 20.0

# Includes a launch file as an integrator's file does, and writes down every process that is started.
DRIVER = """
import json, sys
from launch import LaunchDescription, LaunchService
from launch.actions import GroupAction, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace

file, outer, record, *arguments = sys.argv[1:]

def write(**what):
    with open(record, "a") as out:
        out.write(json.dumps(what) + "\\n")

included = IncludeLaunchDescription(
    AnyLaunchDescriptionSource(file), launch_arguments=[a.split(":=", 1) for a in arguments]
)
description = LaunchDescription([
    RegisterEventHandler(OnProcessStart(on_start=lambda event, context: write(started=list(event.cmd), pid=event.pid))),
    RegisterEventHandler(OnProcessExit(on_exit=lambda event, context: write(pid=event.pid, exit_code=event.returncode))),
    GroupAction([PushRosNamespace(outer), included] if outer else [included]),
])
# As `ros2 launch` without a terminal: no terminal sends Control-C to the children, so the service does.
service = LaunchService(argv=arguments, noninteractive=True)
service.include_launch_description(description)
sys.exit(service.run())
"""


class Launched:
    """A launch system at work in a process of its own."""

    def __init__(self, folder, command, record, environment=None):
        self.domain = new_domain()
        self.record = record
        self.log_path = folder / "launch.log"
        environment = {**os.environ, **(environment or {}), "ROS_DOMAIN_ID": str(self.domain)}
        environment["ROS_LOG_DIR"] = str(folder / "ros")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=folder
            )

    def log(self):
        return self.log_path.read_text(errors="replace")

    def events(self):
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [json.loads(line) for line in lines]

    def started(self):
        """The command lines of what was started, in the order of their start."""
        return [event["started"] for event in self.events() if "started" in event]

    def check(self):
        assert self.process.poll() is None, f"launch ended with {self.process.returncode}:\n{self.log()[-4000:]}"

    def end(self):
        """Control-C; returns the launch system's own exit code."""
        self.check()
        self.process.send_signal(signal.SIGINT)
        return self.wait(STOP_S)

    def wait(self, limit_s=LIMIT_S):
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"launch did not end within {limit_s} s:\n{self.log()[-4000:]}")

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        # Whatever the launch system left behind.
        ended = {event["pid"] for event in self.events() if "exit_code" in event}
        for event in self.events():
            if "started" in event and event["pid"] not in ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(event["pid"], signal.SIGKILL)


@pytest.fixture
def start(tmp_path, model):
    """Starts launch files that end with the test."""
    with contextlib.ExitStack() as stack:

        def launch(file, outer="", environment=None, **arguments):
            arguments = {"model_path": str(model), "device": "cpu", **arguments}
            driver = tmp_path / "driver.py"
            driver.write_text(DRIVER)
            record = tmp_path / "events.jsonl"
            words = [f"{name}:={text}" for name, text in arguments.items()]
            command = [sys.executable, str(driver), str(file), outer, str(record), *words]
            launched = Launched(tmp_path, command, record, environment)
            stack.callback(launched.close)
            return launched

        yield launch


class Camera:
    """A camera and a listener in the domain of what was launched."""

    def __init__(self, launched, topic, labels, kind=Image):
        self.launched = launched
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=launched.domain)
        self.node = rclpy.create_node("launch_peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.publisher = self.node.create_publisher(kind, topic, qos())
        self.labels = {}
        self.node.create_subscription(Image, labels, lambda m: self.labels.update({key(m.header): m}), qos())

    def spin(self, timeout_s=0.05):
        self.executor.spin_once(timeout_sec=timeout_s)

    def ask(self, message):
        """Publishes until an image is answered; returns its labels."""
        sent = set()

        def answered():
            self.launched.check()
            message.header.stamp = self.node.get_clock().now().to_msg()
            sent.add(key(message.header))
            self.publisher.publish(message)
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline and not sent & set(self.labels):
                self.spin()
            return sent & set(self.labels)

        return self.labels[next(iter(until(answered, f"an answer; launch says:\n{self.launched.log()[-3000:]}")))]

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@contextlib.contextmanager
def camera(*arguments, **more):
    peer = Camera(*arguments, **more)
    try:
        yield peer
    finally:
        peer.close()


def exit_codes(launched):
    """Exit codes by the executable's name."""
    names = {event["pid"]: Path(event["started"][0]).name for event in launched.events() if "started" in event}
    return {names[event["pid"]]: event["exit_code"] for event in launched.events() if "exit_code" in event}


def test_an_image_is_answered_and_control_c_ends_it(start):
    launched = start(launch_path("semantic_depth.launch.py"), namespace="front", image="/camera/image_raw")
    with camera(launched, "/camera/image_raw", "/front/semantic_depth/output/labels") as peer:
        labels = peer.ask(picture(64, 48))
    assert (labels.width, labels.height, labels.encoding) == (64, 48, "mono8")
    assert labels.header.frame_id == "camera_front_optical_frame"
    assert launched.end() == 0, launched.log()
    assert exit_codes(launched) == {"semantic_depth_node": 0}
    assert "sending signal 'SIGINT' to process[semantic_depth_node-1]" in launched.log()


def test_the_command_line_is_the_one_that_is_tested_without_launch(start, model):
    values = {"namespace": "front", "image": "camera/image_raw", "use_sim_time": "true", "log_level": "warn"}
    launched = start(launch_path("semantic_depth.launch.py"), **values)
    until(launched.started, "the node's start")
    values = {"model_path": str(model), "device": "cpu", **values}
    expected = launch_module("semantic_depth.launch.py").node_command(values)
    assert launched.started() == [expected]


def test_a_pushed_namespace_goes_before_the_nodes(start):
    """The names that the launch file works out itself, for the recorder, are those on the graph."""
    values = {"namespace": "front", "image": "camera/image_raw"}
    launched = start(launch_path("semantic_depth.launch.py"), outer="vehicle", **values)
    base = launch_module("semantic_depth.launch.py")
    labels = base.resolved("~/output/labels", base.complete(values), "vehicle")
    assert labels == "/vehicle/front/semantic_depth/output/labels"
    with camera(launched, base.resolved("camera/image_raw", base.complete(values), "vehicle"), labels) as peer:
        peer.ask(picture(64, 32))


# An integrator's file: parameters for all nodes of a group, of which one is ours.
VEHICLE = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter, SetParametersFromFile


def generate_launch_description():
    around = [SetParameter(name, value) for name, value in {parameters!r}.items()]
    included = IncludeLaunchDescription(AnyLaunchDescriptionSource({file!r}), launch_arguments={arguments!r}.items())
    return LaunchDescription([GroupAction([PushRosNamespace("fleet"), *around, SetParametersFromFile({said!r}), included])])
"""


def parameters_of(launched, node, names):
    """What a node answers when it is asked for parameters."""
    context = Context()
    rclpy.init(args=[], context=context, domain_id=launched.domain)
    peer = rclpy.create_node("launch_peer", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(peer)

    def spin():
        launched.check()
        executor.spin_once(timeout_sec=0.05)

    try:
        client = peer.create_client(GetParameters, f"{node}/get_parameters")
        until(client.service_is_ready, f"the service; launch says:\n{launched.log()[-3000:]}", step=spin)
        future = client.call_async(GetParameters.Request(names=list(names)))
        until(future.done, "the parameters", step=spin)
        return {name: parameter_value_to_python(value) for name, value in zip(names, future.result().values)}
    finally:
        executor.shutdown()
        peer.destroy_node()
        rclpy.shutdown(context=context)


NAMES = ("/**", "semantic_depth", "/fleet/v/semantic_depth")


@pytest.mark.parametrize("file", ["semantic_depth.launch.py", "semantic_depth_multi.launch.py"])
@pytest.mark.parametrize(("own", "around"), [(NAMES[:1], NAMES[:1]), (NAMES[2:], NAMES[1:2]), (NAMES[1:], NAMES[::-1])])
def test_an_argument_beats_a_group_around_the_file(start, tmp_path, file, own, around):
    """own, around: the names by which the parameter file, and the group's, speak to the node."""
    given = {
        "model_path": "/model.yaml",
        "device": "cpu",
        "precision": "fp32",
        "backend": "native",
        "use_sim_time": "false",
        "autostart": "false",
        "log_level": "warn",
        "cameras": "front,rear",
        "image_transport": "raw",
    }
    others = {
        "model_path": "/other.yaml",
        "device": "cuda:7",
        "precision": "bf16",
        "backend": "torchscript",
        "use_sim_time": True,
        "autostart": True,
        "log_level": "error",
        "cameras": ["left"],
        "image_transport": "compressed",
    }
    written = {}
    for path, names, said in (("own.yaml", own, {"png_level": 3}), ("group.yaml", around, {**others, "png_level": 5})):
        written[path] = tmp_path / path
        written[path].write_text("".join(f"{name}:\n  ros__parameters: {json.dumps(said)}\n" for name in names))
    arguments = {**given, "namespace": "v", "image": "/s/{camera}/image", "params_file": str(written["own.yaml"])}
    # A list cannot be said by SetParameter.
    parameters = {name: value for name, value in others.items() if name != "cameras"}
    vehicle = tmp_path / "vehicle.launch.py"
    included = str(launch_path(file))
    vehicle.write_text(
        VEHICLE.format(parameters=parameters, file=included, arguments=arguments, said=str(written["group.yaml"]))
    )
    launched = start(vehicle)
    found = parameters_of(launched, "/fleet/v/semantic_depth", (*given, "png_level"))
    typed = {"use_sim_time": False, "autostart": False, "cameras": ["front", "rear"]}
    png_level = found.pop("png_level")
    assert found == {**given, **typed}
    assert png_level == 5 or own != NAMES[:1], "what no argument says is the group's"
    launched.end()


def test_an_xml_file_can_include_it(start, tmp_path):
    if importlib.util.find_spec("launch_xml") is None:
        pytest.skip("launch_xml cannot be imported")
    xml = tmp_path / "vehicle.launch.xml"
    xml.write_text(
        textwrap.dedent("""\
        <launch>
          <include file="$(find-pkg-share semantic_depth)/launch/semantic_depth.launch.py">
            <arg name="image" value="/front/image_raw"/>
            <arg name="namespace" value="perception"/>
          </include>
        </launch>
        """)
    )
    launched = start(xml)
    with camera(launched, "/front/image_raw", "/perception/semantic_depth/output/labels") as peer:
        peer.ask(picture(64, 32))
    assert launched.end() == 0


def test_ros2_launch_starts_it(tmp_path, model):
    """The command of the README."""
    if shutil.which("ros2") is None or importlib.util.find_spec("ros2launch") is None:
        pytest.skip("there is no `ros2 launch`")
    command = ["ros2", "launch", "semantic_depth", "semantic_depth.launch.py"]
    shown = subprocess.run([*command, "--show-args"], capture_output=True, text=True, timeout=LIMIT_S)
    assert shown.returncode == 0, shown.stderr
    for name, (_, meaning) in launch_module("semantic_depth.launch.py").ARGUMENTS.items():
        assert f"'{name}':" in shown.stdout and meaning in shown.stdout, name
    command += [f"model_path:={model}", "device:=cpu", "image:=/camera/image_raw"]
    launched = Launched(tmp_path, command, tmp_path / "none")
    try:
        with camera(launched, "/camera/image_raw", "/semantic_depth/output/labels") as peer:
            peer.ask(picture(64, 32))
        assert launched.end() == 0
    finally:
        launched.close()


@pytest.mark.parametrize("file", ["semantic_depth.launch.py", "semantic_depth_multi.launch.py", "with_depth_image_proc.launch.py"])
def test_a_wrong_argument_starts_nothing_and_is_named(start, file):
    launched = start(launch_path(file), build_only="maybe", image="/cam/{camera}/image", cameras="a,b")
    assert launched.wait() != 0
    assert "build_only:=maybe: expected true or false" in launched.log()
    assert launched.started() == []


def test_a_model_that_is_not_there_ends_the_launch(start):
    launched = start(launch_path("semantic_depth.launch.py"), model_path="/nonexistent/model.yaml")
    launched.wait()
    assert exit_codes(launched)["semantic_depth_node"] != 0
    assert "/nonexistent/model.yaml" in launched.log()


def test_a_node_that_ends_by_itself_is_started_again(start):
    launched = start(launch_path("semantic_depth.launch.py"), respawn="true", image="/camera/image_raw")
    with camera(launched, "/camera/image_raw", "/semantic_depth/output/labels") as peer:
        peer.ask(picture(64, 32))
        (first,) = [event["pid"] for event in launched.events() if "started" in event]
        os.kill(first, signal.SIGKILL)
        peer.ask(picture(64, 32))
    assert len(launched.started()) == 2
    assert launched.end() == 0


def test_three_cameras(start):
    params = yaml.safe_load((launch_path(".").parent / "config" / "semantic_depth.param.yaml").read_text())
    if "cameras" not in params["/**"]["ros__parameters"]:
        pytest.skip("the installed node has one camera: no parameter `cameras` in its parameter file")
    launched = start(launch_path("semantic_depth_multi.launch.py"))
    for name in ("front", "left", "right"):
        labels = f"/semantic_depth/{name}/output/labels"
        with camera(launched, f"/sensors/{name}/image_raw", labels) as peer:
            assert peer.ask(picture(64, 32)).width == 64


def test_compressed_images(start):
    params = yaml.safe_load((launch_path(".").parent / "config" / "semantic_depth.param.yaml").read_text())
    if "image_transport" not in params["/**"]["ros__parameters"]:
        pytest.skip("the installed node reads raw images only: no parameter `image_transport` in its parameter file")
    import io

    from conftest import pixels
    from PIL import Image as Picture

    encoded = io.BytesIO()
    Picture.fromarray(pixels(64, 48)).save(encoded, "PNG")
    message = CompressedImage(format="rgb8; png compressed bgr8", data=encoded.getvalue())
    launched = start(launch_path("semantic_depth.launch.py"), image="/cam/image_raw", image_transport="compressed")
    labels = "/semantic_depth/output/labels"
    with camera(launched, "/cam/image_raw/compressed", labels, kind=CompressedImage) as peer:
        answer = peer.ask(message)
    assert (answer.width, answer.height) == (64, 48)


def stand_in(folder, name, text):
    """A program of that name, first on PATH, that writes its arguments down and waits for its end."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
    program.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_the_recorder_is_started_before_and_ended_with_the_node(start, tmp_path):
    """With a stand-in for `ros2`: what is tested is that it is called, with what, and how it ends."""
    environment = stand_in(
        tmp_path / "bin",
        "ros2",
        """
        import signal, sys
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        signal.pause()
        """,
    )
    values = {"namespace": "front", "image": "camera/image_raw", "record": "true", "record_path": "drive 1"}
    launched = start(launch_path("semantic_depth.launch.py"), outer="vehicle", environment=environment, **values)
    until(lambda: len(launched.started()) == 2, "two processes")
    recorder, node = launched.started()
    assert recorder == launch_module("semantic_depth.launch.py").record_command(values, "vehicle")
    assert Path(node[0]).name == "semantic_depth_node"
    with camera(launched, "/vehicle/front/camera/image_raw", "/vehicle/front/semantic_depth/output/labels") as peer:
        peer.ask(picture(64, 32))
        for topic in ("labels", "depth", "camera_info", "timing"):
            full = f"/vehicle/front/semantic_depth/output/{topic}"
            assert full in recorder
            until(lambda topic=full: peer.node.count_publishers(topic) > 0, topic, step=peer.spin)
    assert launched.end() == 0
    assert exit_codes(launched) == {"ros2": 0, "semantic_depth_node": 0}


def has_ros2_bag():
    if shutil.which("ros2") is None:
        return False
    help_text = subprocess.run(["ros2", "bag", "record", "--help"], capture_output=True, text=True, timeout=LIMIT_S)
    return help_text.returncode == 0 and "mcap" in help_text.stdout


def test_a_recording_holds_what_was_answered(start, tmp_path):
    """The real recorder, read by an independent reader."""
    if not has_ros2_bag():
        pytest.skip("there is no `ros2 bag record` with MCAP: source a ROS 2 that has ros2bag and rosbag2_storage_mcap")
    from rosbags.highlevel import AnyReader

    bag = tmp_path / "bag"
    launched = start(
        launch_path("semantic_depth.launch.py"), image="/camera/image_raw", record="true", record_path=str(bag)
    )
    with camera(launched, "/camera/image_raw", "/semantic_depth/output/labels") as peer:
        # The recorder and this listener.
        until(lambda: peer.node.count_subscribers("/semantic_depth/output/labels") == 2, "the recorder", step=peer.spin)
        labels = peer.ask(picture(64, 32))
    assert launched.end() == 0
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic == "/semantic_depth/output/labels"]
        found = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)]
        assert "/semantic_depth/output/timing" in {c.topic for c in reader.connections}
    assert key(labels.header) in {(m.header.stamp.sec, m.header.stamp.nanosec) for m in found}


def test_build_only_starts_the_node_alone(start, tmp_path):
    environment = stand_in(tmp_path / "bin", "ros2", "raise SystemExit('must not be called')")
    arguments = {"build_only": "true", "record": "true", "respawn": "true"}
    launched = start(launch_path("semantic_depth.launch.py"), environment=environment, **arguments)
    until(launched.started, "the node's start")
    launched.process.send_signal(signal.SIGINT)
    launched.wait()
    (command,) = launched.started()
    assert "build_only:=true" in command


# A container as launch_ros sees one: the service that loads components. It writes down what it is asked for.
CONTAINER = """
    import json, os, sys
    import rclpy
    from composition_interfaces.srv import LoadNode

    rclpy.init(args=sys.argv)
    node = rclpy.create_node("container")

    def load(request, response):
        kinds = {1: "bool_value", 2: "integer_value", 4: "string_value"}
        values = {p.name: getattr(p.value, kinds[p.value.type]) for p in request.parameters}
        extra = {p.name: p.value.bool_value for p in request.extra_arguments}
        with open(os.environ["LOADED"], "a") as out:
            out.write(json.dumps({
                "plugin": f"{request.package_name} {request.plugin_name}", "namespace": request.node_namespace,
                "name": request.node_name, "remappings": list(request.remap_rules), "parameters": values, "extra": extra,
            }) + "\\n")
        response.success = True
        response.full_node_name = f"{request.node_namespace}/{request.node_name}"
        response.unique_id = 1
        return response

    node.create_service(LoadNode, "~/_container/load_node", load)
    try:
        rclpy.spin(node)
    except BaseException:
        pass
"""


def test_the_components_are_loaded_beside_the_node(start, tmp_path):
    """With a stand-in for the container, as image_proc and depth_image_proc may not be installed."""
    prefix = tmp_path / "prefix"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "rclcpp_components").touch()
    (prefix / "lib").mkdir()
    stand_in(prefix / "lib" / "rclcpp_components", "component_container_mt", CONTAINER)
    loaded_path = tmp_path / "loaded.jsonl"
    environment = {
        "AMENT_PREFIX_PATH": f"{prefix}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}",
        "LOADED": str(loaded_path),
    }
    values = {"namespace": "front", "image": "camera/image_raw", "color": "overlay"}
    launched = start(launch_path("with_depth_image_proc.launch.py"), outer="vehicle", environment=environment, **values)

    def loaded():
        return loaded_path.exists() and [json.loads(line) for line in loaded_path.read_text().splitlines()]

    (component,) = until(loaded, f"the components:\n{launched.log()}")
    base = launch_module("semantic_depth.launch.py")
    (expected,) = launch_module("with_depth_image_proc.launch.py").component_descriptions(base, values, "vehicle")
    assert component["plugin"] == "depth_image_proc depth_image_proc::PointCloudXyzrgbNode"
    assert component["namespace"] == expected["namespace"] == "/vehicle/front"
    assert component["remappings"] == [f"{source}:={target}" for source, target in expected["remappings"]]
    assert component["parameters"] == expected["parameters"][0]
    assert component["extra"] == {"use_intra_process_comms": True}
    with camera(launched, "/vehicle/front/camera/image_raw", "/vehicle/front/semantic_depth/output/labels") as peer:
        peer.ask(picture(64, 32))
        # What the component would listen to is there.
        for topic in ("depth", "overlay", "camera_info"):
            full = f"/vehicle/front/semantic_depth/output/{topic}"
            assert any(rule.endswith(f":={full}") for rule in component["remappings"])
            until(lambda topic=full: peer.node.count_publishers(topic) > 0, topic, step=peer.spin)
    assert launched.end() == 0


def test_the_node_listens_below_its_own_name(start):
    """A remapping to a private name, as the container's rectified images have."""
    launched = start(launch_path("semantic_depth.launch.py"), namespace="v", image="~/rectified/image_rect")
    with camera(launched, "/v/semantic_depth/rectified/image_rect", "/v/semantic_depth/output/labels") as peer:
        peer.ask(picture(64, 32))

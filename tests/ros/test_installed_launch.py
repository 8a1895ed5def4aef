"""The installed package as a user starts it: the command line is the installed launch file's own."""

import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

START_S = 60.0
STOP_S = 5.0


@pytest.fixture(scope="module")
def launch_file():
    """The installed launch file, imported as the launch system imports it."""
    path = Path(get_package_share_directory("semantic_depth")) / "launch" / "semantic_depth.launch.py"
    spec = importlib.util.spec_from_file_location("semantic_depth_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    for path in (launch_file.PROFILE, launch_file.INSTALLED_MODEL, launch_file.SHARE / "rviz/semantic_depth.rviz"):
        assert path.is_file(), path


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


def test_wrong_arguments_are_named(launch_file):
    with pytest.raises(ValueError, match="use_sim_time:=maybe"):
        launch_file.node_command({"use_sim_time": "maybe"})
    with pytest.raises(ValueError, match="imgae"):
        launch_file.node_command({"imgae": "/camera"})


def test_the_users_own_middleware_profile_wins(launch_file):
    assert launch_file.node_environment({"FASTRTPS_DEFAULT_PROFILES_FILE": "/own.xml"}) == {}
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
    assert process.returncode != 0
    assert "/nonexistent/model.yaml" in output

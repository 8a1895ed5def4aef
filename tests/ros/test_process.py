"""Start and end: signals, exit codes, reasons."""

import os
import pathlib
import platform
import signal
import subprocess
import time

import pytest
from conftest import picture, until
from PIL import Image as Picture


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(start_node, connect, number):
    node = start_node()
    connect(node).ask(picture(320, 160))
    code, took_s = node.end(number)
    assert code == 0, node.log()[-3000:]
    assert took_s < 1.0


def test_a_signal_while_ros_2_starts_leaves_nothing_behind(start_node):
    node = start_node()
    segments = until(node.segments, "the middleware's shared memory")
    code, took_s = node.end(signal.SIGTERM)
    assert code == 0 and took_s < 3.0, node.log()[-3000:]
    assert not [path for path in segments if path.exists()]


def test_two_nodes_of_one_name_are_warned_of(start_node, connect):
    first = start_node()
    peer = connect(first, outputs=())
    second = start_node(domain=first.domain)

    def model():
        """The newest status of that name, of either node."""
        statuses = [s for _, message in peer.diagnostics for s in message.status if s.name == "semantic_depth: model"]
        return (statuses[-1].level, statuses[-1].message) if statuses else (None, "")

    words = "another node is called /semantic_depth: "
    peer.until(lambda: all(words in node.log() for node in (first, second)), "the warning of both")
    peer.until(lambda: model()[0] == b"\x01" and "-r __node:=NAME" in model()[1], "the warning's status")
    assert second.end()[0] == 0
    peer.diagnostics.clear()
    peer.until(lambda: model()[0] == b"\x00", "the warning's end")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere it is left alone")
@pytest.mark.parametrize("said", [{}, {"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "7"}])
def test_libtorchs_threads_spin_little_unless_somebody_says_how_long(start_node, connect, monkeypatch, said):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    node = start_node()
    connect(node, outputs=())
    environment = pathlib.Path(f"/proc/{node.process.pid}/environ").read_text().split("\0")
    about_it = {line for line in environment if line.startswith(("OMP_WAIT_POLICY=", "GOMP_SPINCOUNT="))}
    assert about_it == {f"{name}={value}" for name, value in (said or {"GOMP_SPINCOUNT": "2000"}).items()}


def test_it_outlives_its_terminal_where_it_is_told_to(start_node, node_program, tiny, connect):
    node = start_node(command=["nohup", str(node_program), "--ros-args", "-p", f"model_path:={tiny}", "-p", "device:=cpu"])
    peer = connect(node)
    peer.ask(picture(64, 32))
    node.process.send_signal(signal.SIGHUP)
    peer.spin_for(0.5)
    peer.ask(picture(64, 32))
    assert node.end()[0] == 0


def test_a_signal_ends_it_cleanly_under_load(start_node, connect):
    node = start_node()
    peer = connect(node)
    message = picture(1024, 512)
    peer.ask(message)
    for _ in range(20):
        message.header.stamp = peer.stamp()
        peer.images.publish(message)
        peer.spin(0.01)
    code, took_s = node.end()
    assert code == 0, node.log()[-3000:]
    # Within a second and the frame that is being computed.
    longest_s = max(t.total_ns - t.wait_ns for t in peer.outputs["timing"].messages) / 1e9
    assert took_s < 1.0 + 2 * longest_s


def test_a_signal_while_it_starts_ends_it_too(start_node):
    node = start_node()
    time.sleep(0.2)
    node.process.send_signal(signal.SIGINT)
    # Before its handler is installed the signal's own default ends it.
    assert node.wait() in (0, -signal.SIGINT)


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--version"], 0), (["--model", "x"], 1)])
def test_arguments_that_are_not_for_ros_start_no_node(node_program, arguments, code):
    done = subprocess.run([node_program, *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == code
    assert "--ros-args" in (done.stderr if code else done.stdout) or arguments == ["--version"]
    assert "panicked" not in done.stderr


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ROS_LOG_DIR": "/proc/nope"}, ("its log file cannot be written in /proc/nope", "set ROS_LOG_DIR")),
        ({"ROS_LOG_DIR": None, "ROS_HOME": None, "HOME": None}, ("neither ROS_LOG_DIR nor HOME", "set ROS_LOG_DIR")),
        ({"ROS_DOMAIN_ID": "300"}, ("ROS_DOMAIN_ID is '300', expected a number from 0 to 232",)),
        ({"ROS_DOMAIN_ID": "abc"}, ("ROS_DOMAIN_ID is 'abc', expected a number from 0 to 232",)),
    ],
)
def test_what_keeps_ros_from_starting_is_said(node_program, tool_program, model, tmp_path, changed, words):
    environment = {name: value for name, value in {**os.environ, **changed}.items() if value is not None}
    Picture.new("RGB", (64, 32)).save(tmp_path / "a.png")
    demo = [tool_program, "demo", "--images", tmp_path, "--model", model, "--out", tmp_path / "out"]
    for command in ([node_program], demo):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "panicked" not in done.stderr, done.stderr
        assert all(word in done.stderr for word in words), done.stderr


def reason(node):
    assert node.wait() == 1
    return node.log()


def test_a_missing_model_is_a_reason_to_end(start_node, tmp_path):
    missing = tmp_path / "absent" / "model.yaml"
    text = reason(start_node(model_path=str(missing)))
    assert str(missing) in text and "panicked" not in text


def test_a_damaged_model_is_a_reason_to_end(start_node, tmp_path, model):
    for file in filter(pathlib.Path.is_file, model.parent.iterdir()):
        data = bytearray(file.read_bytes())
        if file.suffix == ".ts":
            data[len(data) // 2] ^= 1
        (tmp_path / file.name).write_bytes(data)
    text = reason(start_node(model_path=str(tmp_path / model.name)))
    assert "sha256" in text.lower() and "panicked" not in text


@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        ("device", "tpu:0", 'got "tpu:0"'),
        ("device", "cuda:99", "device cuda:99 was asked for"),
        ("device", 3, "device: expected a string, got the integer 3"),
        ("model_path", 7, "model_path: expected a string, got the integer 7"),
    ],
)
def test_a_bad_parameter_is_a_reason_to_end(start_node, parameter, value, words):
    text = reason(start_node(**{parameter: value}))
    assert words in text, text
    assert "panicked" not in text

"""Log levels at run time, the console's format, /rosout."""

import contextlib
import fcntl
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from conftest import NAME, new_domain, qos, release_domain, until
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Log, LoggerLevel
from rcl_interfaces.srv import GetLoggerLevels, SetLoggerLevels
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage
from test_lifecycle import Manager

OWN = NAME.strip("/")
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def peer_of():
    peers = []

    def make(under_test):
        peer = Manager(under_test, outputs=())
        peers.append(peer)
        peer.records = []
        peer.node.create_subscription(Log, "/rosout", peer.records.append, qos(depth=1000))
        return peer

    yield make
    for peer in peers:
        peer.close()


def levels(peer, *names):
    answer = peer.call(GetLoggerLevels, "get_logger_levels", names=list(names)).levels
    assert [level.name for level in answer] == list(names)
    return [level.level for level in answer]


def set_levels(peer, *pairs):
    wanted = [LoggerLevel(name=name, level=level) for name, level in pairs]
    return peer.call(SetLoggerLevels, "set_logger_levels", levels=wanted).results


def provoke(peer):
    """Makes the node write one warning: a transition that no state has."""
    assert not peer.call(ChangeState, "change_state", transition=Transition(id=99)).success


def test_the_log_is_in_rcls_file_too(start_node, peer_of, tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    node = start_node(autostart=False, arguments=("--log-level", "debug"))
    peer = peer_of(node)
    provoke(peer)
    peer.call(ChangeState, "change_state", transition=Transition(label="configure"))
    assert node.end()[0] == 0
    (file,) = (tmp_path / "log").glob(f"semantic_depth_node_{node.process.pid}_*.log")
    written = file.read_text().splitlines()
    on_console = [line for line in node.log().splitlines() if f"[{OWN}]" in line]
    assert len(on_console) > 4 and [line for line in written if f"[{OWN}]" in line] == on_console
    assert any("[WARN]" in line and "transition 99" in line for line in written)
    assert any("[DEBUG]" in line for line in written)


@pytest.fixture
def unread(start_node, node_program, tiny, tmp_path):
    """Starts a node whose console is a pipe that nobody reads, as of a launcher that has been stopped: it is full after some
    lines, and stays so. Also the pipe's end."""
    fifo = tmp_path / "console"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)

    def start(**parameters):
        fcntl.fcntl(held, fcntl.F_SETPIPE_SZ, 8192)
        script = 'fifo=$1; shift; exec "$@" 2>"$fifo"'
        given = {"model_path": tiny, "device": "cpu", **parameters}
        arguments = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
        command = ["sh", "-c", script, "sh", str(fifo), str(node_program), "--ros-args", *arguments]
        return start_node(command=command), held

    yield start
    os.close(held)


def test_a_picture_that_breaks_its_decoder_stops_nothing(unread, connect):
    """A panic that is printed as Rust does it waits for room on the console, and with it the thread that answers frames."""
    node, held = unread(image_transport="compressed")
    peer = connect(node, ("labels",), transport="compressed")
    good = CompressedImage(format="png", data=cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes())
    bad = CompressedImage(format="jpeg", data=(GOLDEN / "decoder_panics.jpg").read_bytes())
    camera = peer.cameras[""]
    camera.ask(good)
    # Whatever room there is.
    os.set_blocking(held, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(held, bytes(512)):
            pass
    for _ in range(3):
        camera.send(bad)
        peer.spin_for(0.1)
    camera.ask(good)
    assert "the decoder gave up" in peer.status("input")[2]["Last refusal"]


def test_a_console_that_nobody_reads_stops_nothing(unread, peer_of):
    node, held = unread(autostart="false")
    peer = peer_of(node)
    for _ in range(200):
        provoke(peer)
    # It answers, and ends as ever.
    assert levels(peer, OWN) == [0]
    code, took_s = node.end()
    assert code == 0 and took_s < 2.0, (code, took_s)
    # All that there was room for is whole lines.
    written = os.read(held, 1 << 16).decode()
    assert len(written) <= 8192 and written.endswith("\n") and "transition 99" in written


def test_each_way_of_the_log_can_be_switched_off(start_node, peer_of, tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    names = ("stdout", "rosout", "external-lib")
    for off in names:
        node = start_node(autostart=False, arguments=(f"--disable-{off}-logs",))
        peer = peer_of(node)
        peer.until(lambda: peer.node.count_publishers("/rosout") > 0, "discovery of /rosout")
        for _ in range(5):
            provoke(peer)
        peer.spin_for(0.5)
        node.end()
        files = (tmp_path / "log").glob(f"semantic_depth_node_{node.process.pid}_*.log")
        found = (node.log(), str([r.msg for r in peer.records]), "".join(file.read_text() for file in files))
        assert ["transition 99" in text for text in found] == [name != off for name in names], (off, found)


def test_the_level_changes_while_it_runs(start_node, peer_of):
    node = start_node(autostart=False)
    peer = peer_of(node)
    assert levels(peer, OWN, "", "other") == [0, 20, 0]
    peer.until(lambda: peer.node.count_publishers("/rosout") > 0, "discovery of /rosout")
    provoke(peer)
    peer.until(lambda: any("transition 99" in r.msg for r in peer.records), "the warning on /rosout")
    warning = next(r for r in peer.records if "transition 99" in r.msg)
    assert warning.level == 30 and warning.name == OWN and warning.file.endswith(".rs") and warning.line > 0
    node.says(f"] [{OWN}]: ")
    node.says("[WARN] [")

    # Above a warning nothing of it is left, neither here nor there.
    assert [r.successful for r in set_levels(peer, (OWN, 40))] == [True]
    assert levels(peer, OWN, "") == [40, 20]
    before = node.log().count("transition 99")
    provoke(peer)
    assert [r.successful for r in set_levels(peer, (OWN, 0), ("", 30))] == [True, True]
    assert levels(peer, OWN, "") == [0, 30]
    provoke(peer)
    until(lambda: node.log().count("transition 99") == before + 1, "the second warning, and not the third")

    # Debug brings what was not there.
    assert "unconfigured -> configuring" not in node.log()
    set_levels(peer, (OWN, 10))
    peer.call(ChangeState, "change_state", transition=Transition(label="configure"))
    until(lambda: "unconfigured -> configuring" in node.log(), "a debug line")
    peer.until(lambda: any(r.level == 10 and "-> configuring" in r.msg for r in peer.records), "it on /rosout")


def test_wrong_levels_and_loggers_are_refused(start_node, peer_of):
    peer = peer_of(start_node(autostart=False))
    results = set_levels(peer, (OWN, 15), ("other", 10), (OWN, 30))
    assert [r.successful for r in results] == [False, False, True]
    assert "got 15" in results[0].reason and OWN in results[1].reason
    assert levels(peer, OWN, "other") == [30, 0]


def test_the_parameter_counts_even_where_it_has_that_value_already(start_node, peer_of):
    peer = peer_of(start_node(autostart=False))
    assert [r.successful for r in set_levels(peer, (OWN, 40))] == [True]
    assert peer.set_parameter("log_level", "info").successful
    assert levels(peer, OWN) == [20]


@pytest.mark.parametrize("parameters", [{}, {"log_level": "error"}])
def test_fatal_on_the_command_line_is_left_as_it_is(start_node, peer_of, parameters):
    """No value of the parameter is fatal; one that is given counts."""
    node = start_node(autostart=False, arguments=("--log-level", "fatal"), **parameters)
    peer = peer_of(node)
    assert levels(peer, OWN, "") == [40 if parameters else 0, 50]
    provoke(peer)
    assert "[WARN]" not in node.log()


@contextlib.contextmanager
def listener(domain):
    """The records of /rosout, and what takes them: of a node that ends by itself."""
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain)
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    records = []
    node.create_subscription(Log, "/rosout", records.append, qos(depth=1000))
    try:
        yield records, lambda: executor.spin_once(timeout_sec=0.02)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_the_reason_for_the_end_is_on_rosout_and_said_once(start_node):
    domain = new_domain()
    try:
        with listener(domain) as (records, spin):
            # The node stays for a while to be found; where two cores do much else, that is not always enough.
            for _ in range(5):
                node = start_node(domain=domain, **{"points.classes": ["zebra"]})
                assert node.wait() == 1
                assert node.log().count("[FATAL]") == 1
                # One record a call.
                for _ in range(30):
                    spin()
                if any(r.level == 50 for r in records):
                    break
        (fatal,) = [r for r in records if r.level == 50]
        assert "zebra" in fatal.msg and fatal.name == OWN and fatal.msg in node.log()
    finally:
        release_domain(domain)


def test_the_consoles_format_comes_from_the_environment(start_node, peer_of, monkeypatch):
    monkeypatch.setenv("RCUTILS_CONSOLE_OUTPUT_FORMAT", "<{severity}|{name}|{message}|{file_name}>")
    node = start_node(autostart=False, arguments=("--log-level", "warn"))
    peer = peer_of(node)
    assert levels(peer, "") == [30]
    provoke(peer)
    until(lambda: "transition 99" in node.log(), "the warning")
    line = next(line for line in node.log().splitlines() if "transition 99" in line)
    assert line.startswith(f"<WARN|{OWN}|") and line.endswith(".rs>")
    assert "<INFO|" not in node.log()

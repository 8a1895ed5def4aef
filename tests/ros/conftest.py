"""The real node as a process of its own, and real rclpy peers around it.

The programs and the model come from the environment: SEMANTIC_DEPTH_NODE, SEMANTIC_DEPTH_TOOL, SEMANTIC_DEPTH_MODEL;
what is not set is looked for in the installed package (AMENT_PREFIX_PATH). Every node under test has a ROS domain of
its own. Nothing here sleeps for a fixed time to let something happen: it waits for the condition, up to a limit that is
generous because the machine may be slow and busy.
"""

import contextlib
import fcntl
import importlib.util
import itertools
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

import numpy as np
import pytest
import tiny_model
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
NAME = "/semantic_depth"
DIAGNOSTICS_DEPTH = 10
OUTPUTS = ("labels", "depth", "overlay", "camera_info", "timing")

# Before the first participant is created: large images need more shared memory than Fast DDS has by default.
os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds.xml"))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
# Whom the user's own nodes meet by, which is nobody here: peers of these tests find each other as ROS 2 does by itself.
MEETING = (
    *("ROS_DISCOVERY_SERVER", "ROS_SUPER_CLIENT", "ROS_STATIC_PEERS", "FASTDDS_ENVIRONMENT_FILE"),
    *("ROS_SECURITY_ENABLE", "ROS_SECURITY_STRATEGY", "ROS_SECURITY_KEYSTORE", "ROS_SECURITY_ENCLAVE_OVERRIDE"),
)
# And how the user's own nodes write their log; tests read it.
for variable in (*MEETING, *(name for name in os.environ if name.startswith("RCUTILS_"))):
    os.environ.pop(variable, None)

import rclpy  # noqa: E402
from ament_index_python.packages import get_package_share_directory  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.qos import qos_profile_services_default  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from semantic_depth.msg import FrameTiming  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2  # noqa: E402

TYPES = {
    "labels": Image,
    "labels/compressed": CompressedImage,
    "depth": Image,
    "depth/compressed": CompressedImage,
    "depth/compressedDepth": CompressedImage,
    "confidence": Image,
    "overlay": Image,
    "labels_color": Image,
    "mask": Image,
    "points": PointCloud2,
    "camera_info": CameraInfo,
    "timing": FrameTiming,
}


def installed(relative, variable):
    """A file named by an environment variable, or of the installed package."""
    named = os.environ.get(variable)
    candidates = [pathlib.Path(named)] if named else []
    if not named:
        prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
        candidates += [pathlib.Path(prefix) / relative for prefix in prefixes if prefix]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    pytest.fail(f"{relative} was not found: set {variable}, or source the workspace; looked at {candidates}")


def launch_path(name):
    """Where an installed launch file is."""
    return pathlib.Path(get_package_share_directory("semantic_depth")) / "launch" / name


def launch_module(name):
    """An installed launch file, imported as the launch system imports it."""
    spec = importlib.util.spec_from_file_location(name.partition(".")[0], launch_path(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch_is_there():
    """Whether the real `launch` and `launch_ros` can be imported; a mere folder, as launch/ here, has no origin."""
    found = [importlib.util.find_spec(name) for name in ("launch", "launch_ros")]
    return all(spec is not None and spec.origin is not None for spec in found)


@pytest.fixture(scope="session")
def node_program():
    return installed("lib/semantic_depth/semantic_depth_node", "SEMANTIC_DEPTH_NODE")


@pytest.fixture(scope="session")
def tool_program():
    return installed("lib/semantic_depth/semantic_depth", "SEMANTIC_DEPTH_TOOL")


@pytest.fixture(scope="session")
def interface(tool_program):
    """Parameters, topics, services and diagnostics as the tool prints them."""
    printed = subprocess.run(
        [str(tool_program), "interface", "--format", "json"], check=True, capture_output=True, text=True
    )
    return json.loads(printed.stdout)


@pytest.fixture(scope="session")
def model():
    return installed("share/semantic_depth/models/street/model.yaml", "SEMANTIC_DEPTH_MODEL")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The model whose answers tiny_model can compute; small and quick."""
    return tiny_model.write(tmp_path_factory.mktemp("tiny"))


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: measures rates and ages, which other tests beside it would change")


def pytest_collection_modifyitems(items):
    """The longest file first: several processes share the files out, and whoever takes the last one is to be done soon."""
    items.sort(key=lambda item: item.path.name != "test_training_path.py")


# Up to 101, a domain's ports lie below those that the system gives to clients.
_domains = itertools.count(os.getpid() * 7)
_held = {}


def lock_file(path):
    """Opens a file to lock it, which may be another user's: then it is there already, and to be read at most."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)


def new_domain():
    """A domain that no other test run on this machine uses: a lock on a file says so, whatever TMPDIR each of them has."""
    domains = pathlib.Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    for _ in range(100):
        domain = next(_domains) % 100 + 1
        if domain in _held:
            continue
        try:
            file = lock_file(domains / f"semantic_depth_domain_{domain}")
        except OSError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            continue
        _held[domain] = file
        return domain
    pytest.fail("all 100 ROS domains are in use by test runs on this machine")


# What a test starts without a domain of its own: not in one that anybody else is in.
os.environ["ROS_DOMAIN_ID"] = str(new_domain())


def release_domain(domain):
    """Another may have it."""
    if domain in _held:
        os.close(_held.pop(domain))


def until(condition, what, limit_s=LIMIT_S, step=None):
    """Waits until `condition()` is truthy and returns it; `step` is what to do meanwhile."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {limit_s} s")
        if step:
            step()
        else:
            time.sleep(0.01)


class NodeProcess:
    """A running semantic_depth_node; `command` is a whole command line instead of program, parameters and arguments."""

    def __init__(self, program, folder, parameters, domain=None, arguments=(), command=None):
        self.owns_domain = domain is None
        self.domain = new_domain() if domain is None else domain
        folder.mkdir(parents=True, exist_ok=True)
        if command is None:
            file = folder / "parameters.yaml"
            file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
            command = [str(program), "--ros-args", "--params-file", str(file), *arguments]
        self.log_path = folder / "node.log"
        self._log = open(self.log_path, "wb")
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain)}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def log(self):
        return self.log_path.read_text(errors="replace")

    def says(self, words):
        """Waits for words in its log: a message may be here before the line that was written after it."""
        until(lambda: words in self.log(), f"{words!r} in the log")

    def segments(self):
        """The files of shared memory that its participant has made."""
        opened = pathlib.Path(f"/proc/{self.process.pid}/maps").read_text().split()
        return {pathlib.Path(path) for path in opened if path.startswith("/dev/shm/fastrtps_")}

    def check(self):
        assert self.process.poll() is None, f"the node ended with {self.process.returncode}:\n{self.log()[-3000:]}"

    def wait(self, limit_s=LIMIT_S):
        """Waits for the end; returns the exit code."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the node did not end within {limit_s} s:\n{self.log()[-3000:]}")

    def end(self, number=signal.SIGINT):
        """Sends a signal; returns the exit code and the time to the end."""
        self.check()
        start = time.monotonic()
        self.process.send_signal(number)
        code = self.wait()
        return code, time.monotonic() - start

    def close(self):
        """Ends it if it still runs, and checks that it ends in order: a process that is killed leaves its shared memory."""
        runs = self.process.poll() is None
        if runs:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._log.close()
        if self.owns_domain:
            release_domain(self.domain)
        assert code == 0 or not runs, f"the node ended with {code}:\n{self.log()[-3000:]}"


@pytest.fixture
def start_node(node_program, tiny, tmp_path):
    """Starts nodes that end with the test; keywords are parameters. Without a `model_path` it is the small model: half of
    what these tests would compute otherwise is the loading and running of networks."""
    with contextlib.ExitStack() as stack:
        count = itertools.count()

        def start(domain=None, arguments=(), command=None, **parameters):
            parameters = {"model_path": str(tiny), "device": "cpu", **parameters}
            node = NodeProcess(node_program, tmp_path / f"node{next(count)}", parameters, domain, arguments, command)
            stack.callback(node.close)
            return node

        yield start


def qos(reliability="reliable", depth=10):
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def key(header):
    return (header.stamp.sec, header.stamp.nanosec)


class Collector:
    """The messages of one subscription, by stamp and in order."""

    def __init__(self, peer, output, profile, prefix=NAME):
        self.messages = []
        self.by_stamp = {}
        self.subscription = peer.node.create_subscription(TYPES[output], f"{prefix}/output/{output}", self._take, profile)

    def _take(self, message):
        self.messages.append(message)
        self.by_stamp[key(message.header)] = message


class CameraPeer:
    """The other side of one of the node's cameras: publishers of its inputs, listeners to its outputs."""

    def __init__(self, peer, name, outputs, transport):
        self.peer = peer
        self.prefix = f"{NAME}/{name}" if name else NAME
        if isinstance(transport, dict):
            transport = transport.get(name, "raw")
        kind, suffix = (CompressedImage, "/compressed") if transport == "compressed" else (Image, "")
        self.images = peer.node.create_publisher(kind, f"{self.prefix}/input/image{suffix}", qos())
        self.infos = peer.node.create_publisher(CameraInfo, f"{self.prefix}/input/camera_info", qos())
        self.outputs = {output: Collector(peer, output, qos(), self.prefix) for output in outputs}

    def is_known(self):
        count = self.peer.node.count_publishers
        return self.images.get_subscription_count() > 0 and all(
            count(f"{self.prefix}/output/{output}") > 0 for output in self.outputs
        )

    def answers(self, stamp):
        """What came back for a stamp, by output."""
        return {name: c.by_stamp[stamp] for name, c in self.outputs.items() if stamp in c.by_stamp}

    def send(self, message, info=None):
        """Publishes an image with the time of now, its calibration before it; returns the stamp."""
        message.header.stamp = self.peer.stamp()
        if info is not None:
            info.header = message.header
            self.infos.publish(info)
        self.images.publish(message)
        return key(message.header)

    def ask(self, message, needed=("labels", "depth", "overlay", "timing"), info=None):
        """Publishes an image and waits for its answers.

        The way to the node is best effort, so a frame may be lost: it is then sent again with a new stamp.
        """
        needed = [name for name in needed if name in self.outputs]
        for limit_s in (2, 4, 8, 16, 32):
            stamp = self.send(message, info)
            deadline = time.monotonic() + limit_s
            while time.monotonic() < deadline:
                self.peer.spin()
                found = self.answers(stamp)
                if all(name in found for name in needed):
                    return found
        log = self.peer.under_test.log()[-3000:]
        pytest.fail(f"{self.prefix}: no answer with {needed} to {message}"[:600] + f"\n{log}")

    def ask_calibrated(self, message, info, needed=("labels", "depth", "camera_info")):
        """As `ask`, until the answer is by this calibration; needs the output camera_info.

        A calibration may reach the node after its image, which is then answered by the one before. R, which the node
        only hands on, marks them.
        """
        info.r[8] = 1 + next(_marks) * 1e-9
        for _ in range(5):
            answers = self.ask(message, {*needed, "camera_info"}, info)
            if answers["camera_info"].r[8] == info.r[8]:
                return answers
        pytest.fail(f"{self.prefix}: the calibration does not reach the answers")


_marks = itertools.count(1)


class Peer:
    """An rclpy node in the domain of the node under test: cameras, and listeners."""

    def __init__(self, under_test, outputs=OUTPUTS, cameras=("",), transport="raw"):
        self.under_test = under_test
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=under_test.domain)
        self.node = rclpy.create_node("camera", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.cameras = {name: CameraPeer(self, name, outputs, transport) for name in cameras}
        # Most tests have one camera.
        first = next(iter(self.cameras.values()))
        self.images, self.infos, self.outputs = first.images, first.infos, first.outputs
        self.answers, self.ask, self.send = first.answers, first.ask, first.send
        self.ask_calibrated = first.ask_calibrated
        self.clients = {}
        self.diagnostics = []
        self.node.create_subscription(
            DiagnosticArray,
            "/diagnostics",
            lambda m: self.diagnostics.append((time.monotonic(), m)),
            qos(depth=DIAGNOSTICS_DEPTH),
        )

    def listen(self, output):
        """One output more of the first camera."""
        self.outputs[output] = Collector(self, output, qos())
        return self.outputs[output]

    def deaf_to(self, output):
        """And not any more."""
        self.node.destroy_subscription(self.outputs.pop(output).subscription)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin(self, timeout_s=0.02):
        self.executor.spin_once(timeout_sec=timeout_s)
        self.under_test.check()

    def until(self, condition, what, limit_s=LIMIT_S):
        return until(condition, what, limit_s, self.spin)

    def spin_for(self, seconds):
        """To see that something does not happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.spin()

    def connect(self):
        """Waits until both sides know each other."""
        self.until(lambda: all(camera.is_known() for camera in self.cameras.values()), "discovery of the node")
        return self

    def stamp(self):
        return self.node.get_clock().now().to_msg()

    def call(self, kind, name, limit_s=LIMIT_S, **fields):
        """Calls a service of the node under test; returns the response."""
        # One client for all calls: an answer to a client that the server has not discovered yet is lost.
        if (client := self.clients.get(name)) is None:
            client = self.node.create_client(kind, f"{NAME}/{name}", qos_profile=qos_profile_services_default)
            self.clients[name] = client
        self.until(client.service_is_ready, f"the service {name}")
        future = client.call_async(kind.Request(**fields))
        self.until(future.done, f"an answer of {name}", limit_s)
        return future.result()

    def set_parameters(self, values):
        """Sets parameters by name, each on its own; returns the results."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return self.call(SetParameters, "set_parameters", parameters=parameters).results

    def change(self, name, value):
        """Sets a parameter that must be accepted."""
        (result,) = self.set_parameters({name: value})
        assert result.successful, result.reason

    def statuses(self):
        """The node's own latest diagnostic statuses, by name."""
        found = {}
        for _, array in self.diagnostics:
            for status in array.status:
                if status.name.startswith(("semantic_depth", "/semantic_depth")):
                    found[status.name] = status
        return found

    def status(self, subtask):
        """Level, message and values of a fresh status of the node: one that is published from now on."""
        self.diagnostics.clear()
        asked = self.node.get_clock().now().nanoseconds
        status = self.until(lambda: self.status_since(asked, subtask), f"a status {subtask}")
        return status.level, status.message, {v.key: v.value for v in status.values}

    def status_since(self, asked_ns, subtask):
        """The newest status that was published since then, if any; what waited in our queue is older.

        Under simulated time stamps say nothing: there it is what comes after a queue's length.
        """
        for _, array in reversed(self.diagnostics):
            stamp_ns = array.header.stamp.sec * 10**9 + array.header.stamp.nanosec
            is_new = stamp_ns >= asked_ns if stamp_ns > 10**18 else len(self.diagnostics) > DIAGNOSTICS_DEPTH
            for status in array.status:
                if is_new and status.name == f"semantic_depth: {subtask}":
                    return status
        return None


@pytest.fixture
def connect():
    """Peers that end with the test."""
    with contextlib.ExitStack() as stack:

        def make(under_test, outputs=OUTPUTS, cameras=("",), transport="raw"):
            peer = Peer(under_test, outputs, cameras, transport)
            stack.callback(peer.close)
            return peer.connect()

        yield make


@contextlib.contextmanager
def running(program, folder, model, outputs=OUTPUTS, cameras=("",), transport="raw", **parameters):
    """A node and its peer for a whole module; the node must end well."""
    parameters = {"model_path": str(model), "device": "cpu", **parameters}
    if any(cameras):
        parameters["cameras"] = list(cameras)
    node = NodeProcess(program, folder, parameters)
    peer = None
    try:
        peer = Peer(node, outputs, cameras, transport).connect()
        yield peer
        code, took_s = node.end()
        assert code == 0, f"exit code {code} after {took_s} s:\n{node.log()[-3000:]}"
    finally:
        if peer:
            peer.close()
        node.close()


@pytest.fixture(scope="module")
def shared(node_program, model, tmp_path_factory):
    """One node and one peer for the tests of a module that leave the node as it was."""
    with running(node_program, tmp_path_factory.mktemp("shared"), model) as peer:
        peer.ask(picture(64, 32))
        yield peer


CHANNELS = {"rgb8": "rgb", "bgr8": "bgr", "rgba8": "rgba", "bgra8": "bgra", "mono8": "m"}


def pixels(width, height, seed=1):
    """A picture with large and small structures, `[height, width, 3]`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / (7 + 9 * c) + c) + np.cos(y / (5 + 4 * c) - c) for c in range(3)]
    picture = 127 + 50 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def encode(rgb, encoding, padding=0, seed=2):
    """A sensor_msgs/Image of `[height, width, 3]` pixels; alpha and padding are noise."""
    rng = np.random.default_rng(seed)
    height, width, _ = rgb.shape
    alpha = rng.integers(0, 256, (height, width), dtype=np.uint8)
    planes = {"r": rgb[..., 0], "g": rgb[..., 1], "b": rgb[..., 2], "a": alpha, "m": rgb[..., 0]}
    rows = np.stack([planes[c] for c in CHANNELS[encoding]], -1).reshape(height, -1)
    rows = np.hstack([rows, rng.integers(0, 256, (height, padding), dtype=np.uint8)])
    message = Image(height=height, width=width, encoding=encoding, step=rows.shape[1])
    message.header.frame_id = "camera_front_optical_frame"
    message.data = rows.tobytes()
    return message


def picture(width, height, encoding="rgb8", seed=1):
    return encode(pixels(width, height, seed), encoding)


def labels_of(message):
    assert message.encoding == "mono8" and message.step == message.width
    assert len(message.data) == message.width * message.height
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def depth_of(message):
    assert message.encoding == "32FC1" and message.step == 4 * message.width and message.is_bigendian == 0
    assert len(message.data) == 4 * message.width * message.height
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width)

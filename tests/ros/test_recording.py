"""What the node publishes records and plays back without loss.

An rclpy peer takes the serialised bytes of every output. They are written as rosbag2 in both of its storages and read
back by the independent library `rosbags`, and played to another peer on a graph of its own. The README's bandwidth table
is held against the sizes of the same bytes.
"""

import collections
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import re
import time

import numpy as np
import pytest
import rclpy
from conftest import LIMIT_S, NAME, ROOT, NodeProcess, key, new_domain, picture, qos, until
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from semantic_depth.msg import FrameTiming
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

# Every topic that the node publishes, by its name; the types are those found on the graph.
TOPICS = (
    f"{NAME}/output/labels",
    f"{NAME}/output/labels/compressed",
    f"{NAME}/output/depth",
    f"{NAME}/output/depth/compressed",
    f"{NAME}/output/depth/compressedDepth",
    f"{NAME}/output/confidence",
    f"{NAME}/output/overlay",
    f"{NAME}/output/labels_color",
    f"{NAME}/output/mask",
    f"{NAME}/output/points",
    f"{NAME}/output/label_info",
    f"{NAME}/output/camera_info",
    f"{NAME}/output/timing",
    "/diagnostics",
)
# Published when somebody comes, not with every image.
LATCHED = (f"{NAME}/output/label_info",)
# Published by the clock, not with every image.
PERIODIC = ("/diagnostics",)

SIZES = ((2048, 1024), (640, 480), (31, 17))
STORAGES = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}

Taken = collections.namedtuple("Taken", "topic time_ns data")


# -- Types, from the environment


def share(package):
    for prefix in os.environ["AMENT_PREFIX_PATH"].split(os.pathsep):
        folder = pathlib.Path(prefix) / "share" / package
        if (folder / "msg").is_dir():
            return folder
    pytest.fail(f"{package} has no message definitions below AMENT_PREFIX_PATH={os.environ['AMENT_PREFIX_PATH']}")


@functools.cache
def definition(kind):
    """The text of `package/msg/Name` as it is installed."""
    package, _, name = kind.split("/")
    return (share(package) / "msg" / f"{name}.msg").read_text()


@functools.cache
def needed(kind):
    """The types that a type is made of, itself first."""
    package = kind.split("/")[0]
    found = [kind]
    for line in definition(kind).splitlines():
        match = re.match(r"\s*([A-Za-z]\w*(?:/\w+)?)(\[[^\]]*\])?\s+\w", line.split("#")[0])
        name = match and match.group(1)
        if not match or not re.search(r"(^|/)[A-Z]", name):
            continue
        owner, _, short = name.rpartition("/")
        if short == "Header" and not owner:
            owner = "std_msgs"
        for inner in needed(f"{owner or package}/msg/{short}"):
            if inner not in found:
                found.append(inner)
    return tuple(found)


def whole_definition(kind):
    """The definition with those it needs, in the form that rosbag2 keeps."""
    first, *others = needed(kind)
    parts = [definition(first)]
    for other in others:
        package, _, name = other.split("/")
        parts.append(f"{'=' * 80}\nMSG: {package}/{name}\n{definition(other)}")
    return "\n".join(parts)


@functools.cache
def type_hash(kind):
    """The RIHS01 hash in the installed interface description."""
    package, _, name = kind.split("/")
    described = json.loads((share(package) / "msg" / f"{name}.json").read_text())
    (found,) = [entry["hash_string"] for entry in described["type_hashes"] if entry["type_name"] == kind]
    return found


def typestore(kinds):
    """rosbags' types, made of the installed definitions alone."""
    store = get_typestore(Stores.EMPTY)
    types = {}
    for kind in kinds:
        for inner in needed(kind):
            types.update(get_types_from_msg(definition(inner), inner))
    store.register(types)
    return store


def message_class(kind):
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


# -- A recording


def latched():
    return QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Graph:
    """An rclpy node in a domain, that listens to serialised messages."""

    def __init__(self, domain, name):
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.taken = []

    def listen(self, topic, kind):
        def take(data):
            self.taken.append(Taken(topic, time.time_ns(), bytes(data)))

        profile = latched() if topic in LATCHED else qos(depth=100)
        return self.node.create_subscription(message_class(kind), topic, take, profile, raw=True)

    def of(self, topic):
        return [taken for taken in self.taken if taken.topic == topic]

    def spin(self, timeout_s=0.02):
        self.executor.spin_once(timeout_sec=timeout_s)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


class Recording:
    """What was taken, in its order; the types and QoS of the topics as found on the graph."""

    def __init__(self, taken, types, offered, hashes):
        self.taken = taken
        self.types = types
        self.offered = offered
        self.hashes = hashes

    def of(self, topic):
        return [taken for taken in self.taken if taken.topic == topic]

    def messages(self, topic):
        return [deserialize_message(taken.data, message_class(self.types[topic])) for taken in self.of(topic)]


def calibration(message):
    info = CameraInfo(width=message.width, height=message.height, distortion_model="plumb_bob")
    info.d = [-0.25, 0.0625, 1e-3, -1e-3, 0.0]
    info.k = [500.0, 0.0, message.width / 2, 0.0, 500.0, message.height / 2, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [500.0, 0.0, message.width / 2, 0.0, 0.0, 500.0, message.height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


@pytest.fixture(scope="module")
def recording(node_program, model, tmp_path_factory):
    """Images of three sizes answered by the node, and all that it published for them."""
    node = NodeProcess(node_program, tmp_path_factory.mktemp("node"), {"model_path": str(model), "device": "cpu"})
    graph = None
    try:
        graph = Graph(node.domain, "recorder")

        def spin():
            graph.spin()
            node.check()

        def found():
            types = dict(graph.node.get_topic_names_and_types())
            return all(types.get(topic) for topic in TOPICS) and types

        types = {topic: kinds[0] for topic, kinds in until(found, "the node's topics", step=spin).items()}
        types = {topic: types[topic] for topic in TOPICS}
        for topic in TOPICS:
            graph.listen(topic, types[topic])
        images = graph.node.create_publisher(Image, f"{NAME}/input/image", qos())
        infos = graph.node.create_publisher(CameraInfo, f"{NAME}/input/camera_info", qos())
        until(lambda: images.get_subscription_count() and infos.get_subscription_count(), "the node's inputs", step=spin)

        per_frame = [topic for topic in TOPICS if topic not in PERIODIC + LATCHED]

        def answered(stamp):
            for topic in per_frame:
                kind = message_class(types[topic])
                stamps = {key(deserialize_message(taken.data, kind).header) for taken in graph.of(topic)}
                if stamp not in stamps:
                    return False
            return True

        for width, height in SIZES:
            message = picture(width, height)
            info = calibration(message)
            deadline = time.monotonic() + LIMIT_S
            while True:
                assert time.monotonic() < deadline, f"{width}x{height} was not answered:\n{node.log()[-3000:]}"
                message.header.stamp = info.header.stamp = graph.node.get_clock().now().to_msg()
                info.header.frame_id = message.header.frame_id
                infos.publish(info)
                images.publish(message)
                # The way to the node is best effort: a lost image is sent again.
                again = time.monotonic() + 4
                while time.monotonic() < again and not answered(key(message.header)):
                    spin()
                if answered(key(message.header)):
                    break
        until(lambda: all(graph.of(topic) for topic in TOPICS), "a message on every topic", step=spin)
        offered, hashes = {}, {}
        for topic in TOPICS:
            (publisher,) = graph.node.get_publishers_info_by_topic(topic)
            offered[topic] = publisher.qos_profile
            hashes[topic] = publisher.topic_type_hash
        yield Recording(list(graph.taken), types, offered, hashes)
    finally:
        if graph:
            graph.close()
        node.close()


def rosbag_qos(profile):
    """A QoS profile as rosbags writes it; nothing here has a deadline, a lifespan or a lease."""
    forever = QosTime(2**31 - 1, 2**32 - 1)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=profile.depth,
        reliability=QosReliability(int(profile.reliability)),
        durability=QosDurability(int(profile.durability)),
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )


@pytest.fixture(scope="module", params=list(STORAGES))
def bag(request, recording, tmp_path_factory):
    """The recording as a rosbag2 of one storage."""
    path = tmp_path_factory.mktemp(request.param) / "bag"
    with Writer(path, version=9, storage_plugin=STORAGES[request.param]) as writer:
        connections = {
            topic: writer.add_connection(
                topic,
                kind,
                msgdef=whole_definition(kind),
                rihs01=type_hash(kind),
                serialization_format="cdr",
                offered_qos_profiles=[rosbag_qos(recording.offered[topic])],
            )
            for topic, kind in recording.types.items()
        }
        for taken in recording.taken:
            writer.write(connections[taken.topic], taken.time_ns, taken.data)
    return path


# -- Tests


def test_every_size_was_answered_on_every_topic(recording):
    for output in ("labels", "depth", "overlay", "camera_info"):
        sizes = {(m.width, m.height) for m in recording.messages(f"{NAME}/output/{output}")}
        assert sizes == set(SIZES), output
    assert len(recording.messages(f"{NAME}/output/timing")) >= len(SIZES)
    assert recording.messages("/diagnostics")


def test_the_graph_the_descriptions_and_rosbags_agree_on_the_types(recording):
    """RIHS01 three times: as the node announces it, as installed, as rosbags works it out from the installed text."""
    store = typestore(recording.types.values())
    for topic, kind in recording.types.items():
        installed = type_hash(kind)
        assert installed.startswith("RIHS01_") and len(installed) == 7 + 64
        assert store.hash_rihs01(kind) == installed, kind
        announced = recording.hashes[topic]
        assert announced.version == 1
        assert f"RIHS01_{bytes(announced.value).hex()}" == installed, topic


def test_nothing_is_lost_in_a_bag(recording, bag):
    with Reader(bag) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == recording.types
        for connection in reader.connections:
            assert connection.digest == type_hash(connection.msgtype), connection.topic
            assert connection.ext.serialization_format == "cdr"
            (offered,) = connection.ext.offered_qos_profiles
            assert offered.reliability.name == recording.offered[connection.topic].reliability.name
            assert offered.durability.name == recording.offered[connection.topic].durability.name
        assert reader.message_count == len(recording.taken)
        assert reader.start_time == recording.taken[0].time_ns
        read = [Taken(connection.topic, time_ns, bytes(raw)) for connection, time_ns, raw in reader.messages()]
    # Two messages of one nanosecond have no order between topics.
    assert sorted(read) == sorted(recording.taken)
    for topic in recording.types:
        assert [taken for taken in read if taken.topic == topic] == recording.of(topic)


def same(theirs, ours, path="message"):
    """Compares rosbags' message with rclpy's, field by field, whatever the depth; returns the number of leaves."""
    if hasattr(ours, "get_fields_and_field_types"):
        return sum(same(getattr(theirs, f), getattr(ours, f), f"{path}.{f}") for f in ours.get_fields_and_field_types())
    if isinstance(theirs, np.ndarray):
        # Bytes, so that NaN is equal to itself.
        assert theirs.tobytes() == np.asarray(ours, theirs.dtype).tobytes(), path
        return 1
    if isinstance(theirs, list):
        assert len(theirs) == len(ours), path
        return sum(same(*pair, f"{path}[{i}]") for i, pair in enumerate(zip(theirs, ours)))
    if isinstance(ours, bytes):
        # `byte`, as DiagnosticStatus.level.
        ours = ours[0]
    assert type(theirs) is type(ours) and theirs == ours, (path, theirs, ours)
    return 1


def test_every_field_is_read_as_ros_reads_it(recording, bag):
    """With the definitions in the bag alone, as a tool elsewhere would."""
    leaves = collections.Counter()
    with AnyReader([bag]) as reader:
        for connection, _, raw in reader.messages():
            ours = deserialize_message(bytes(raw), message_class(connection.msgtype))
            leaves[connection.topic] += same(reader.deserialize(raw, connection.msgtype), ours)
    assert set(leaves) == set(recording.types)
    assert all(count >= 6 for count in leaves.values()), leaves


def test_a_bag_plays_back_byte_for_byte(recording, bag):
    """Read by rosbags, published as serialised messages, taken by a subscriber in a domain of its own."""
    domain = new_domain()
    player, listener = Graph(domain, "player"), Graph(domain, "listener")
    try:
        with Reader(bag) as reader:
            publishers = {
                c.topic: player.node.create_publisher(
                    message_class(c.msgtype), c.topic, latched() if c.topic in LATCHED else qos(depth=100)
                )
                for c in reader.connections
            }
            for connection in reader.connections:
                listener.listen(connection.topic, connection.msgtype)

            def spin():
                player.spin(0)
                listener.spin(0.01)

            until(lambda: all(p.get_subscription_count() for p in publishers.values()), "the listener", step=spin)
            for connection, _, raw in reader.messages():
                before = len(listener.taken)
                publishers[connection.topic].publish(bytes(raw))
                until(lambda count=before: len(listener.taken) > count, f"{connection.topic} played", step=spin)
    finally:
        player.close()
        listener.close()
    for topic in recording.types:
        assert [taken.data for taken in listener.of(topic)] == [taken.data for taken in recording.of(topic)], topic


# -- The README's bandwidth table


@pytest.fixture(scope="module")
def bandwidth():
    spec = importlib.util.spec_from_file_location("bandwidth", ROOT / "scripts" / "bandwidth.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_table_is_the_scripts(bandwidth):
    text = (ROOT / "README.md").read_text()
    assert bandwidth.replaced(text, bandwidth.table()) == text, "run scripts/bandwidth.py --write README.md"


def rows(text):
    """The table's sizes: (topic, message) -> [bytes for each size]."""
    lines = text.split("<!-- bandwidth -->")[1].split("<!-- /bandwidth -->")[0].strip().splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    columns = [head.index(f"bytes at {width}x{height}") for width, height in SIZES[:2]]
    found = {}
    for line in lines[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[(cells[0].strip("`"), cells[1])] = [int(cells[column].replace(",", "")) for column in columns]
        for column in columns:
            total = int(cells[column].replace(",", ""))
            for rate, cell in zip((10, 30), cells[column + 1 : column + 3]):
                assert head[column + 1 if rate == 10 else column + 2] == f"MB/s at {rate} Hz"
                assert float(cell) == pytest.approx(total * rate / 1e6, abs=0.005 if total > 1e5 else 5e-5)
    return found


def test_the_table_is_what_goes_over_the_graph(recording, bandwidth):
    """Measured: the serialised bytes of the node's own messages, to the byte."""
    table = rows((ROOT / "README.md").read_text())
    measured = {}
    for topic in TOPICS:
        for taken, message in zip(recording.of(topic), recording.messages(topic)):
            if isinstance(message, FrameTiming):
                # The text in it is this machine's; the table's row is for a CUDA device.
                assert len(taken.data) == bandwidth.timing(device=message.device, backend=message.backend)
                assert table[("output/timing", "FrameTiming")] == [bandwidth.timing()] * 2
                continue
            # Compressed images have no size of their own on paper, diagnostics and label_info no rate.
            if not isinstance(message, (Image, CameraInfo, PointCloud2)):
                continue
            kind, stride = type(message).__name__, 1
            if isinstance(message, Image):
                kind += f" {message.encoding}"
            elif isinstance(message, PointCloud2):
                stride = bandwidth.STRIDE
                kind += f", stride {stride}"
            if (message.width * stride, message.height * stride) not in SIZES[:2]:
                continue
            size = SIZES.index((message.width * stride, message.height * stride))
            measured.setdefault((topic.removeprefix(f"{NAME}/"), kind), [None, None])[size] = len(taken.data)
    assert {kind for _, kind in measured} >= {"Image mono8", "Image 32FC1", "Image rgb8", "CameraInfo"}
    for row, sizes in measured.items():
        assert table[row] == sizes, row


def test_the_rest_of_the_table_is_what_ros_serialises(bandwidth):
    """Rows that the node did not publish here: messages of the same layout, serialised by ROS."""
    for (topic, kind), sizes in rows((ROOT / "README.md").read_text()).items():
        if not kind.startswith(("Image ", "PointCloud2")):
            continue
        for (width, height), total in zip(SIZES, sizes):
            if kind.startswith("Image "):
                encoding = kind.removeprefix("Image ")
                depth = {"mono8": 1, "rgb8": 3, "32FC1": 4, "16UC1": 2}[encoding]
                message = Image(width=width, height=height, encoding=encoding, step=width * depth)
                message.data = bytes(message.step * height)
            else:
                stride = int(kind.rpartition(" ")[2])
                message = PointCloud2(width=width // stride, height=height // stride, point_step=bandwidth.POINT_STEP)
                message.fields = [PointField(name=name, count=1) for name in bandwidth.POINT_FIELDS]
                message.row_step = message.point_step * message.width
                message.data = bytes(message.row_step * message.height)
            message.header.frame_id = bandwidth.FRAME_ID
            # DDS fills the last word of a message up that it does not send in fragments.
            size = len(serialize_message(message))
            filling = 0 if size > bandwidth.ONE_PACKET else -size % 4
            assert size + filling == total, (topic, kind)

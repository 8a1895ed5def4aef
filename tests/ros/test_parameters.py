"""Parameters as a client sees them: descriptors, refusals with reasons, all or none, events, files, QoS overrides."""

import pytest
import rclpy
import yaml
from conftest import NAME, ROOT, Peer, qos
from rcl_interfaces.msg import Parameter, ParameterEvent, ParameterType, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

SERVICES = {
    "describe_parameters": DescribeParameters,
    "get_parameters": GetParameters,
    "get_parameter_types": GetParameterTypes,
    "list_parameters": ListParameters,
    "set_parameters": SetParameters,
    "set_parameters_atomically": SetParametersAtomically,
}


def message(name, value):
    return rclpy.parameter.Parameter(name, value=value).to_parameter_msg()


class Client:
    """The six services and the events of a node, of any client."""

    def __init__(self, peer, name=NAME):
        self.peer = peer
        self.clients = {s: peer.node.create_client(t, f"{name}/{s}") for s, t in SERVICES.items()}
        self.events = []
        self.subscription = peer.node.create_subscription(
            ParameterEvent, "/parameter_events", lambda m: self._take(m, name), qos(depth=1000)
        )
        for service, client in self.clients.items():
            peer.until(client.service_is_ready, f"the service {service}")
        peer.until(lambda: peer.node.count_publishers("/parameter_events") > 1, "the node's /parameter_events")

    def _take(self, event, name):
        if event.node == name:
            self.events.append(event)

    def call(self, service, **fields):
        future = self.clients[service].call_async(SERVICES[service].Request(**fields))
        self.peer.until(future.done, f"an answer of {service}")
        return future.result()

    def get(self, *names):
        return [parameter_value_to_python(v) for v in self.call("get_parameters", names=list(names)).values]

    def set(self, **values):
        """Names with two underscores for a dot; returns (successful, reason) of each."""
        parameters = [message(name.replace("__", "."), value) for name, value in values.items()]
        return [(r.successful, r.reason) for r in self.call("set_parameters", parameters=parameters).results]

    def set_atomically(self, **values):
        parameters = [message(name.replace("__", "."), value) for name, value in values.items()]
        result = self.call("set_parameters_atomically", parameters=parameters).result
        return result.successful, result.reason

    def delete(self, name):
        nothing = Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_NOT_SET))
        result = self.call("set_parameters", parameters=[nothing]).results[0]
        return result.successful, result.reason

    def describe(self, name):
        return self.call("describe_parameters", names=[name]).descriptors[0]

    def list(self, prefixes=(), depth=0):
        return self.call("list_parameters", prefixes=list(prefixes), depth=depth).result


@pytest.fixture(scope="module")
def client(shared):
    return Client(shared)


@pytest.fixture(scope="module")
def table(interface):
    return {entry["name"]: entry for entry in interface["parameters"]}


def test_what_is_listed_is_what_the_tool_prints(client, table):
    listed = client.list()
    assert sorted(listed.names) == sorted(table)
    assert set(listed.prefixes) == {name.rpartition(".")[0] for name in table if "." in name}
    assert set(client.list(prefixes=["mask"]).names) == {"mask.free_classes", "mask.obstacle_classes"}
    assert not [name for name in client.list(depth=1).names if "." in name]
    assert client.list(prefixes=["zebra"]).names == []


def test_every_parameter_is_described(client, table):
    kinds = {
        "boolean": ParameterType.PARAMETER_BOOL,
        "integer": ParameterType.PARAMETER_INTEGER,
        "double": ParameterType.PARAMETER_DOUBLE,
        "string": ParameterType.PARAMETER_STRING,
        "integer array": ParameterType.PARAMETER_INTEGER_ARRAY,
        "string array": ParameterType.PARAMETER_STRING_ARRAY,
    }
    names = list(table)
    types = client.call("get_parameter_types", names=names).types
    for name, kind, described in zip(names, types, client.call("describe_parameters", names=names).descriptors):
        entry = table[name]
        assert described.name == name and kind == described.type == kinds[entry["type"]], name
        assert described.description.startswith(entry["meaning"]), name
        assert described.read_only == (not entry["at_run_time"]), name
        ranges = [*described.floating_point_range, *described.integer_range]
        assert [[r.from_value, r.to_value] for r in ranges] == ([entry["range"]] if "range" in entry else []), name
        for choice in entry.get("choices", []):
            assert choice in described.additional_constraints, name


def test_defaults_are_those_of_the_tool(client, table):
    names = [name for name in table if name not in ("model_path", "device")]
    for name, value in zip(names, client.get(*names)):
        value = value if isinstance(value, (str, bool, int, float)) else list(value)
        assert value == table[name]["default"], name
    assert client.get("device", "zebra") == ["cpu", None]


def test_values_change_or_are_refused_with_a_reason(client):
    assert client.set(overlay_opacity=0.25) == [(True, "")]
    assert client.get("overlay_opacity") == [0.25]
    assert client.set(overlay_opacity=1) == [(True, "")], "1 is 1.0"
    assert client.set(depth_scaling=1.5, points__classes=[0, 13]) == [(True, ""), (True, "")]
    assert client.get("depth_scaling", "points.classes") == ["1.5", ["0", "13"]]
    for values, expected in [
        ({"overlay_opacity": 1.5}, "overlay_opacity: expected 0 to 1, got 1.5"),
        ({"overlay_opacity": "half"}, "expected a double, got the string"),
        ({"png_level": 0}, "expected 1 to 9, got 0"),
        ({"resize_mode": "squeeze"}, "expected stretch, letterbox, crop or roi"),
        ({"device": "cuda:0"}, "read at the start only"),
        ({"image_transport": "compressed"}, "read at the start only"),
        ({"overlay_opasity": 0.5}, "did you mean overlay_opacity?"),
        ({"front__overlay_opacity": 0.5}, "cameras is empty"),
        ({"thresholds__age_warn_ms": 1e5}, "is above thresholds.age_error_ms"),
        ({"mask__free_classes": ["road", "car"]}, "is in both"),
    ]:
        [(successful, reason)] = client.set(**values)
        assert not successful and expected in reason, (values, reason)
    successful, reason = client.delete("overlay_opacity")
    assert not successful and "cannot be deleted" in reason
    assert client.set(device="cpu") == [(True, "")], "it is what it was"
    # Each on its own: one that is refused does not keep the others.
    results = client.set(png_level=99, overlay_opacity=0.5, depth_scaling="camera_info", points__classes=[])
    assert [successful for successful, _ in results] == [False, True, True, True]
    assert client.get("png_level", "overlay_opacity", "points.classes") == [1, 0.5, []]


def test_together_all_or_none(client):
    assert not client.set(resize_mode="roi")[0][0], "there is no region yet"
    successful, reason = client.set_atomically(png_level=3, resize_mode="roi")
    assert not successful and "roi is [0, 0, 0, 0]" in reason
    assert client.get("png_level", "resize_mode") == [1, "stretch"]
    assert client.set_atomically(resize_mode="roi", roi=[0, 0, 32, 16]) == (True, "")
    assert client.set_atomically(resize_mode="stretch", roi=[0, 0, 0, 0]) == (True, "")


def test_changes_are_events(client):
    client.events.clear()
    client.set(png_level=4, overlay_opacity=7.0)
    client.set(png_level=4)
    client.set_atomically(png_level=1, max_rate_hz=0.5)
    client.set(max_rate_hz=0.0)
    client.peer.until(lambda: len(client.events) >= 3, "three events")
    changes = [
        {p.name: parameter_value_to_python(p.value) for p in event.changed_parameters} for event in client.events
    ]
    assert changes == [{"png_level": 4}, {"png_level": 1, "max_rate_hz": 0.5}, {"max_rate_hz": 0.0}]
    assert all(event.stamp.sec > 0 and not event.new_parameters for event in client.events)
    [publisher] = [
        i for i in client.peer.node.get_publishers_info_by_topic("/parameter_events") if i.node_name == "semantic_depth"
    ]
    assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert publisher.qos_profile.durability == DurabilityPolicy.VOLATILE


def test_the_log_level_changes_at_run_time(client):
    assert client.get("log_level") == ["info"]
    assert client.set(log_level="error") == [(True, "")]
    before = client.peer.under_test.log().count("png_level")
    assert not client.set(png_level=0)[0][0]
    assert client.peer.under_test.log().count("png_level") == before, "a warning is not logged at level error"
    assert client.set(log_level="info") == [(True, "")]
    assert not client.set(png_level=0)[0][0]
    client.peer.until(lambda: client.peer.under_test.log().count("png_level") > before, "the warning")


def test_cameras_have_values_of_their_own(start_node):
    node = start_node(
        cameras=["front", "rear"],
        overlay_opacity=0.75,
        front={"overlay_opacity": 0.25, "outputs": {"depth": False}},
        arguments=["-p", "rear.png_level:=9"],
    )
    peer = Peer(node, outputs=())
    try:
        client = Client(peer)
        names = ("front.overlay_opacity", "rear.overlay_opacity", "front.outputs.depth", "rear.png_level", "left.roi")
        assert client.get(*names) == [0.25, 0.75, False, 9, None]
        assert set(client.list(prefixes=["front"]).names) == {"front.overlay_opacity", "front.outputs.depth"}
        described = client.describe("rear.overlay_opacity")
        assert described.type == ParameterType.PARAMETER_DOUBLE and "camera rear" in described.description
        assert client.set(rear__overlay_opacity=1.0, overlay_opacity=0.5) == [(True, ""), (True, "")]
        assert client.get("rear.overlay_opacity", "front.overlay_opacity") == [1.0, 0.25]
        assert client.delete("front.overlay_opacity") == (True, "")
        assert client.get("front.overlay_opacity") == [0.5], "it follows the common one again"
        peer.until(lambda: len(client.events) >= 3, "three events")
        new, changed, deleted = client.events
        assert [p.name for p in new.new_parameters] == ["rear.overlay_opacity"]
        assert [p.name for p in changed.changed_parameters] == ["overlay_opacity"]
        assert [p.name for p in deleted.deleted_parameters] == ["front.overlay_opacity"]
        [(successful, reason)] = client.set(front__device="cpu")
        assert not successful and "cannot be set for one camera" in reason
    finally:
        peer.close()
    assert node.end()[0] == 0


def test_the_default_parameter_file_is_taken_and_says_the_defaults(start_node, model):
    file = ROOT / "config" / "semantic_depth.param.yaml"
    text = yaml.safe_load(file.read_text())
    assert text["/**"]["ros__parameters"]["cameras"] == []
    # Its model is the installed one; here, that of the tests.
    arguments = ["--params-file", str(file), "-p", f"model_path:={model}", "-p", "device:=cpu"]
    node = start_node(arguments=[*arguments, "--log-level", "debug"])
    peer = Peer(node, outputs=())
    try:
        client = Client(peer)
        assert client.get("cameras", "log_level") == [[], "debug"]
    finally:
        peer.close()
    assert node.end()[0] == 0


def write(file, *keys):
    """A parameter file with one value, under these keys."""
    value = {"ros__parameters": {"png_level": 7}}
    for key in reversed(keys):
        value = {key: value}
    file.write_text(yaml.safe_dump(value))
    return ["--params-file", str(file)]


def test_what_is_said_to_all_nodes_may_be_meant_for_others(start_node, tmp_path):
    """As a bring-up says vehicle dimensions, or rclcpp's own parameters, to whatever it starts."""
    of_others = {"wheel_radius": 0.3, "vehicle": {"width": 1.8}, "qos_overrides": {"/tf": {"publisher": {"depth": 5}}}}
    shared, own = tmp_path / "shared.yaml", tmp_path / "own.yaml"
    shared.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"png_level": 7, **of_others}}}))
    arguments = ["--params-file", str(shared), "-p", "start_type_description_service:=false"]
    node = start_node(arguments=arguments)
    peer = Peer(node, outputs=())
    try:
        assert Client(peer).get("png_level") == [7]
        [warning] = [line for line in node.log().splitlines() if "said to all nodes" in line]
        for name in ("wheel_radius", "vehicle.width", "start_type_description_service", "qos_overrides./tf.publisher"):
            assert name in warning
    finally:
        peer.close()
    assert node.end()[0] == 0
    # Said to this one by its name they are mistakes.
    for name, value in of_others.items():
        own.write_text(yaml.safe_dump({"semantic_depth": {"ros__parameters": {name: value}}}))
        node = start_node(arguments=["--params-file", str(own)])
        assert node.wait() == 1
        assert name in node.log() and "said to all nodes" not in node.log()


@pytest.mark.parametrize("keys", [("front", "semantic_depth"), ("/**/semantic_depth",), ("/*/semantic_depth",)])
def test_a_key_that_would_be_ignored_is_a_reason_to_end(start_node, tmp_path, keys):
    file = tmp_path / "ours.yaml"
    node = start_node(arguments=["-r", "__ns:=/front", *write(file, *keys)])
    assert node.wait() == 1
    text = node.log()
    assert "panicked" not in text
    for words in (str(file), f"found {'/'.join(keys)}:", "/front/semantic_depth: or /**:"):
        assert words in text, text[-2000:]


def test_a_file_for_another_node_is_warned_of(start_node, tmp_path):
    ours = write(tmp_path / "ours.yaml", "/front/semantic_depth")
    theirs = write(tmp_path / "theirs.yaml", "/rear", "semantic_depth")
    node = start_node(arguments=["-r", "__ns:=/front", *ours, *theirs])
    peer = Peer(node, outputs=())
    try:
        assert Client(peer, "/front/semantic_depth").get("png_level") == [7]
        [warning] = [line for line in node.log().splitlines() if "says nothing to this node" in line]
        for words in (str(tmp_path / "theirs.yaml"), "/front/semantic_depth: or /**:", "found /rear/semantic_depth:"):
            assert words in warning
    finally:
        peer.close()
    assert node.end()[0] == 0


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"overlay_opasity": 0.5}, ["overlay_opasity: there is no such parameter; did you mean overlay_opacity?"]),
        ({"outputs": {"lables": True}}, ["did you mean outputs.labels?"]),
        ({"cameras": ["front"], "fornt": {"roi": [0, 0, 8, 8]}}, ["did you mean front.roi?"]),
        ({"overlay_opacity": 2.0, "png_level": "best"}, ["expected 0 to 1, got 2.0", "expected an integer, got the string"]),
        ({"resize_mode": "roi"}, ["resize_mode is roi, but roi is [0, 0, 0, 0]"]),
        ({"qos_overrides": {"/image": {"subscription": {"dept": 1}}}}, ["did you mean depth?"]),
        (
            {"qos_overrides": {f"{NAME}/input/imgae": {"subscription": {"depth": 1}}}},
            [f"does not subscribe to {NAME}/input/imgae; did you mean {NAME}/input/image?"],
        ),
    ],
)
def test_wrong_files_are_a_reason_to_end(start_node, parameters, expected):
    node = start_node(**parameters)
    assert node.wait() == 1
    text = node.log()
    assert "panicked" not in text
    for words in expected:
        assert words in text, text[-2000:]


def test_qos_overrides_are_honoured(start_node):
    overrides = {
        "/camera/image": {"subscription": {"reliability": "reliable", "depth": 3}},
        # Beside the image, which alone is remapped.
        "/camera/camera_info": {"subscription": {"reliability": "reliable"}},
        f"{NAME}/output/labels": {"publisher": {"reliability": "best_effort", "durability": "transient_local"}},
        f"{NAME}/transition_event": {"publisher": {"reliability": "best_effort"}},
        "/rosout": {"publisher": {"durability": "volatile"}},
    }
    node = start_node(qos_overrides=overrides, arguments=["-r", "~/input/image:=/camera/image"])
    peer = Peer(node, outputs=())
    try:
        client = Client(peer)
        found = peer.node.get_subscriptions_info_by_topic

        def ours():
            # Whose a subscription is arrives in a message of its own, now and then after the subscription.
            return [i for i in found("/camera/image") if i.node_name == "semantic_depth"]

        [image] = peer.until(ours, "the node's subscription to the image")
        assert image.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        [info] = peer.until(lambda: found("/camera/camera_info"), "the subscription to the calibration")
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        found = peer.node.get_publishers_info_by_topic
        [labels] = peer.until(lambda: found(f"{NAME}/output/labels"), "the publisher of labels")
        assert labels.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        assert labels.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        [depth] = peer.until(lambda: found(f"{NAME}/output/depth"), "the publisher of depth")
        assert depth.qos_profile.reliability == ReliabilityPolicy.RELIABLE, "not overridden"
        # Of the node as a whole, too.
        [events] = peer.until(lambda: found(f"{NAME}/transition_event"), "the publisher of transitions")
        assert events.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT

        def log():
            return [i for i in found("/rosout") if i.node_name == "semantic_depth"]

        [rosout] = peer.until(log, "the node's publisher of /rosout")
        assert rosout.qos_profile.durability == DurabilityPolicy.VOLATILE
        assert rosout.qos_profile.lifespan.nanoseconds == 10 * 10**9, "not overridden: rcl's own"
        key = "qos_overrides./camera/image.subscription.depth"
        assert client.get(key) == [3] and client.describe(key).read_only
        [(successful, reason)] = client.set(**{key: 4})
        assert not successful and "read at the start only" in reason
    finally:
        peer.close()
    assert node.end()[0] == 0


def test_sim_time_comes_and_goes(client):
    """The stamp of /diagnostics is the node's own clock."""
    from rosgraph_msgs.msg import Clock

    peer = client.peer
    clock = peer.node.create_publisher(Clock, "/clock", qos("best_effort", 1))

    def tick():
        message = Clock()
        message.clock.sec = 1234
        clock.publish(message)
        peer.spin()

    def stamp():
        return peer.diagnostics[-1][1].header.stamp.sec if peer.diagnostics else None

    try:
        assert client.set(use_sim_time=True) == [(True, "")]
        peer.until(lambda: tick() or stamp() == 1234, "diagnostics in simulated time")
        assert client.set(use_sim_time=False) == [(True, "")]
        peer.until(lambda: tick() or stamp() > 1_500_000_000, "diagnostics in real time")
    finally:
        peer.node.destroy_publisher(clock)

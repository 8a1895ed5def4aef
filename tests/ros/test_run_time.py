"""What can change at run time really changes, with the next frame; what cannot is refused with a reason.

Elsewhere: rates, windows, thresholds, staleness and the scaling's fallback (test_diagnostics), batches (test_cameras),
the log level (test_parameters, test_logger), model_path (test_control).
"""

import numpy as np
import pytest
from conftest import TYPES, depth_of, labels_of, picture, pixels, running
from sensor_msgs.msg import CameraInfo

SWITCHES = {
    "labels_compressed": ["labels/compressed"],
    "depth_compressed": ["depth/compressed", "depth/compressedDepth"],
    **{name: [name] for name in TYPES if "/" not in name},
}
SIZE = (96, 64)


@pytest.fixture(scope="module")
def peer(node_program, model, tmp_path_factory):
    with running(node_program, tmp_path_factory.mktemp("node"), model, outputs=tuple(TYPES)) as peer:
        yield peer


@pytest.fixture(scope="module")
def table(interface):
    return {entry["name"]: entry for entry in interface["parameters"]}


@pytest.fixture
def change(peer, table):
    """Sets parameters that are set back at the end."""
    changed = []

    def change(name, value):
        changed.append(name)
        peer.change(name, value)

    yield change
    for name in reversed(changed):
        peer.change(name, table[name]["default"])


def calibration(k_px=60.0, p_px=60.0):
    width, height = SIZE
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [k_px, 0.0, width / 2, 0.0, k_px, height / 2, 0.0, 0.0, 1.0]
    info.p = [p_px, 0.0, width / 2, 0.0, 0.0, p_px, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def ask(peer, *needed, info=None):
    return peer.ask(picture(*SIZE), needed, info or calibration())


def cloud_of(message):
    kinds = {"names": ["x", "y", "z", "label"], "formats": ["<f4", "<f4", "<f4", "<u2"]}
    offsets = {f.name: f.offset for f in message.fields}
    kinds["offsets"] = [offsets[name] for name in kinds["names"]]
    points = np.frombuffer(message.data, np.dtype({**kinds, "itemsize": message.point_step}))
    return points[np.isfinite(points["x"])]


@pytest.mark.parametrize("switch", sorted(SWITCHES))
def test_an_output_goes_and_comes(peer, change, switch):
    off = SWITCHES[switch]
    others = [name for name in TYPES if name not in off]
    ask(peer, *TYPES)
    change(f"outputs.{switch}", False)
    found = ask(peer, *others)
    peer.spin_for(0.1)
    assert not set(found) & set(off)
    stamp = (found[others[0]].header.stamp.sec, found[others[0]].header.stamp.nanosec)
    assert not set(peer.answers(stamp)) & set(off)
    change(f"outputs.{switch}", True)
    assert set(off) <= set(ask(peer, *TYPES))


def test_label_info_goes_and_comes(start_node, connect):
    messages = pytest.importorskip("vision_msgs.msg")
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    peer = connect(start_node(outputs={"label_info": False}), outputs=("labels",))
    topic = "/semantic_depth/output/label_info"
    if not peer.node.count_publishers(topic):
        pytest.skip("the node was built without vision_msgs")
    peer.ask(picture(*SIZE), ("labels",))
    late = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    infos = []
    peer.node.create_subscription(messages.LabelInfo, topic, infos.append, late)
    peer.spin_for(0.7)
    assert not infos, "it is off"
    peer.change("outputs.label_info", True)
    peer.until(lambda: infos, "the table of classes")
    assert len(infos[0].class_map) > 3


def test_overlay_opacity(peer, change):
    def overlay(opacity):
        change("overlay_opacity", opacity)
        message = ask(peer, "overlay", "labels_color")
        colors = np.frombuffer(message["labels_color"].data, np.uint8)
        return np.frombuffer(message["overlay"].data, np.uint8).astype(int), colors.astype(int)

    source = pixels(*SIZE).astype(int).ravel()
    clear, colors = overlay(0.0)
    np.testing.assert_array_equal(clear, source)
    half, _ = overlay(0.5)
    assert abs(half - (source + colors) / 2).max() <= 1
    full, _ = overlay(1.0)
    np.testing.assert_array_equal(full, colors)


def test_depth_encoding(peer, change):
    metres = depth_of(ask(peer, "depth")["depth"])
    change("depth_encoding", "16UC1")
    message = ask(peer, "depth")["depth"]
    assert message.encoding == "16UC1" and message.step == 2 * SIZE[0]
    mm = np.frombuffer(message.data, "<u2").reshape(metres.shape)
    expected = np.minimum(np.round(metres.astype(np.float64) * 1000), 65535)
    assert abs(mm - expected).max() <= 1


def test_geometry(peer, change):
    change("output_size", "network")
    message = ask(peer, "labels")["labels"]
    network = (message.width, message.height)
    stretched = labels_of(message)
    assert network != SIZE and (stretched != 255).all()
    change("resize_mode", "letterbox")
    boxed = labels_of(ask(peer, "labels")["labels"])
    # A picture of 3:2 in a network of 2:1 has bars left and right.
    assert (boxed[:, 0] == 255).all() and (boxed[:, -1] == 255).all() and (boxed[:, network[0] // 2] != 255).all()
    change("output_size", "source")
    change("roi", [32, 16, 32, 16])
    change("resize_mode", "roi")
    seen = labels_of(ask(peer, "labels")["labels"]) != 255
    assert seen.shape == (SIZE[1], SIZE[0]) and seen[16:32, 32:64].all() and seen.sum() == 32 * 16
    change("resize_mode", "crop")
    seen = labels_of(ask(peer, "labels")["labels"]) != 255
    assert seen.any(axis=0).all() and seen.sum() == SIZE[0] * SIZE[0] // 2, "the middle 2:1 of it"
    change("output_size", "48x40")
    message = ask(peer, "labels")["labels"]
    assert (message.width, message.height) == (48, 40)


def test_depth_scaling(peer, change):
    change("depth_scaling", "none")
    once = depth_of(ask(peer, "depth")["depth"])
    change("depth_scaling", "2.5")
    np.testing.assert_allclose(depth_of(ask(peer, "depth")["depth"]), 2.5 * once, rtol=1e-4)
    change("depth_scaling", "camera_info")
    raw = depth_of(ask(peer, "depth", info=calibration(60.0, 90.0))["depth"])
    change("input_rectified", True)
    rectified = depth_of(ask(peer, "depth", info=calibration(60.0, 90.0))["depth"])
    np.testing.assert_allclose(rectified, 1.5 * raw, rtol=1e-4)


def test_the_cloud(peer, change):
    def cloud():
        found = ask(peer, "points", "labels")
        return found["points"], labels_of(found["labels"])

    message, labels = cloud()
    assert (message.width, message.height) == (SIZE[0] // 4, SIZE[1] // 4)
    change("points.stride", 2)
    message, _ = cloud()
    assert (message.width, message.height) == (SIZE[0] // 2, SIZE[1] // 2)
    change("points.max_range_m", 1e3)
    points = cloud_of(cloud()[0])
    assert len(points)
    distance = np.sqrt(sum(points[a].astype(float) ** 2 for a in "xyz"))
    middle = float(np.median(distance))
    change("points.max_range_m", middle)
    assert 0 < len(cloud_of(cloud()[0])) < len(points)
    change("points.max_range_m", 1e3)
    wanted = int(np.bincount(points["label"]).argmax())
    change("points.classes", [str(wanted)])
    chosen = cloud_of(cloud()[0])
    assert set(chosen["label"]) == {wanted} and len(chosen) == (points["label"] == wanted).sum()
    change("points.classes", [])
    change("points.voxel_size_m", 50.0)
    message, _ = cloud()
    assert message.height == 1 and message.is_dense and 0 < message.width < len(points)


def test_the_masks_classes(peer, change):
    found = ask(peer, "mask", "labels")
    labels, mask = labels_of(found["labels"]), labels_of(found["mask"])
    present = [str(i) for i in np.unique(labels)]
    assert set(np.unique(mask)) <= {0, 127, 255}
    change("mask.obstacle_classes", [])
    change("mask.free_classes", present)
    assert (labels_of(ask(peer, "mask")["mask"]) == 0).all()
    change("mask.free_classes", [])
    assert (labels_of(ask(peer, "mask")["mask"]) == 127).all()
    change("mask.obstacle_classes", present[:1])
    mask = labels_of(ask(peer, "mask")["mask"])
    np.testing.assert_array_equal(mask == 255, labels == int(present[0]))


def test_png_level(peer, change):
    quick = bytes(ask(peer, "labels/compressed")["labels/compressed"].data)
    change("png_level", 9)
    small = bytes(ask(peer, "labels/compressed")["labels/compressed"].data)
    assert small[:4] == quick[:4] == b"\x89PNG" and small != quick and len(small) <= len(quick)


def test_what_is_read_at_the_start_only_is_refused(peer, table):
    other = {
        "boolean": lambda v: not v,
        "integer": lambda v: v + 1,
        "double": lambda v: v + 1,
        "string": lambda v: {"raw": "compressed", "best_effort": "reliable", "": "/vehicle.png"}[v],
        "string array": lambda v: [*v, "front"],
    }
    fixed = {name: entry for name, entry in table.items() if not entry["at_run_time"]}
    values = {
        name: {"device": "cuda", "precision": "fp32", "backend": "native"}.get(name) or other[entry["type"]](entry["default"])
        for name, entry in fixed.items()
    }
    assert len(values) >= 8
    for name, result in zip(values, peer.set_parameters(values)):
        assert not result.successful and "read at the start only" in result.reason, (name, result)
    (result,) = peer.set_parameters({"mask.free_classes": ["zebra"]})
    assert not result.successful and "zebra" in result.reason, "the model has no such class"

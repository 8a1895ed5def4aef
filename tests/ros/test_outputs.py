"""Every output: what is in it, held against the definition with a model that can be computed; switches; no work unasked."""

import io

import numpy as np
import pytest
import tiny_model
from conftest import NAME, TYPES, depth_of, encode, labels_of, qos, running
from PIL import Image as Picture
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, PointField
from std_srvs.srv import Trigger
from vision_msgs.msg import LabelInfo

WIDTH, HEIGHT = tiny_model.WIDTH, tiny_model.HEIGHT
IMAGES = (
    "labels",
    "labels/compressed",
    "depth",
    "depth/compressed",
    "depth/compressedDepth",
    "confidence",
    "overlay",
    "labels_color",
    "mask",
    "points",
)
OUTPUTS = (*IMAGES, "camera_info", "timing")
FREE, NEITHER, OBSTACLE = 0, 127, 255
FX, FY, CX, CY = 50.0, 48.0, 31.3, 14.6


@pytest.fixture(scope="module")
def node(node_program, tiny, tmp_path_factory):
    parameters = {"depth_scaling": "none", "input_reliability": "reliable", "points.stride": 1}
    with running(node_program, tmp_path_factory.mktemp("outputs"), tiny, OUTPUTS, **parameters) as peer:
        yield peer


@pytest.fixture
def settings(node):
    """Changes parameters for one test."""
    before = {}

    def change(**values):
        for name, value in values.items():
            name = name.replace("__", ".")
            before.setdefault(name, DEFAULTS[name])
            node.change(name, value)

    yield change
    # The last one first: lists that exclude each other go back as they came.
    for name, value in reversed(before.items()):
        node.change(name, value)


DEFAULTS = {
    "depth_encoding": "32FC1",
    "depth_far_classes": [],
    "confidence_encoding": "32FC1",
    "overlay_opacity": 0.5,
    "points.stride": 1,
    "points.voxel_size_m": 0.0,
    "points.min_range_m": 0.0,
    "points.max_range_m": 80.0,
    "points.classes": ["road", "car", "vegetation", "unlabelled"],
    "mask.free_classes": ["road"],
    "mask.obstacle_classes": ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"],
    "png_level": 1,
    "output_size": "source",
    "input_rectified": False,
}


def scene(seed=1):
    """Classes in blocks of 4x4 pixels, each pixel with a depth of its own, some without; `[h, w]` channels beside it."""
    rng = np.random.default_rng(seed)
    channels = np.kron(rng.integers(0, 4, (HEIGHT // 4, WIDTH // 4)), np.ones((4, 4), int))
    rgb = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    rgb[..., :2] = np.array([tiny_model.ROAD, tiny_model.CAR, tiny_model.VEGETATION, tiny_model.UNLABELLED])[channels]
    rgb[..., :2] -= rng.integers(0, 12, (HEIGHT, WIDTH, 2), np.uint8)
    rgb[..., 2] = rng.integers(0, 255, (HEIGHT, WIDTH))
    rgb[rng.random((HEIGHT, WIDTH)) < 0.05, 2] = 255
    return rgb, channels


RGB, CHANNELS = scene()
LABELS = tiny_model.IDS[CHANNELS]
DEPTH_M = np.where(RGB[..., 2] == 255, np.nan, tiny_model.depth_of_blue(RGB[..., 2]))


def calibration():
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [FX, 0.0, CX, 0.0, FY, CY, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [FX, 0.0, CX, 0.0, 0.0, FY, CY, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


@pytest.fixture
def answers(node):
    return ask(node)


def ask(node, needed=OUTPUTS):
    message = encode(RGB, "rgb8")
    answers = node.ask_calibrated(message, calibration(), needed)
    for name, answer in answers.items():
        assert answer.header == message.header, name
    return answers


def image_of(message, encoding, dtype, channels=1):
    assert (message.encoding, message.width, message.height) == (encoding, WIDTH, HEIGHT)
    assert message.step == WIDTH * channels * np.dtype(dtype).itemsize and message.is_bigendian == 0
    image = np.frombuffer(message.data, dtype)
    return image.reshape((HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels))


def test_labels_and_depth_are_the_models(answers):
    np.testing.assert_array_equal(labels_of(answers["labels"]), LABELS)
    np.testing.assert_allclose(depth_of(answers["depth"]), DEPTH_M, rtol=1e-5)


def test_confidence_is_the_softmax_of_the_label(answers):
    scores, _ = tiny_model.scores_and_code(RGB)
    softmax = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    confidence = image_of(answers["confidence"], "32FC1", "<f4")
    expected = np.take_along_axis(softmax, CHANNELS[..., None], -1)[..., 0]
    np.testing.assert_allclose(confidence, expected, rtol=1e-5)
    assert (confidence > 1 / 4).all() and (confidence <= 1).all()
    assert confidence.max() - confidence.min() > 0.2, "this picture does not tell much"


def test_confidence_in_bytes(node, answers, settings):
    shares = image_of(answers["confidence"], "32FC1", "<f4")
    settings(confidence_encoding="mono8")
    answers = ask(node)
    octets = image_of(answers["confidence"], "mono8", np.uint8)
    np.testing.assert_array_equal(octets, np.floor(shares * np.float32(255) + np.float32(0.5)).astype(np.uint8))
    # A point's is a share still.
    np.testing.assert_array_equal(points_of(answers["points"])["confidence"], shares)


def test_colours_and_overlay_have_the_manifests_palette(node, answers, settings):
    colors = tiny_model.COLORS[LABELS]
    np.testing.assert_array_equal(image_of(answers["labels_color"], "rgb8", np.uint8, 3), colors)
    for opacity in (1.0, 0.25, 0.0):
        settings(overlay_opacity=opacity)
        overlay = image_of(ask(node, ("overlay",))["overlay"], "rgb8", np.uint8, 3)
        expected = RGB * (1 - opacity) + colors * opacity
        # Blended in whole numbers.
        np.testing.assert_allclose(overlay, expected, atol=0.51 if opacity in (0, 1) else 1)


def test_the_mask_has_three_values_by_lists_that_can_change(node, answers, settings):
    mask = image_of(answers["mask"], "mono8", np.uint8)
    np.testing.assert_array_equal(mask, np.select([LABELS == 0, LABELS == 13], [FREE, OBSTACLE], NEITHER))
    settings(mask__obstacle_classes=["vegetation"])
    settings(mask__free_classes=["13", "road"])
    mask = image_of(ask(node, ("mask",))["mask"], "mono8", np.uint8)
    expected = np.select([(LABELS == 0) | (LABELS == 13), LABELS == 8], [FREE, OBSTACLE], NEITHER)
    np.testing.assert_array_equal(mask, expected)


def test_a_class_that_the_model_lacks_is_refused_with_the_nearest_name(node):
    for name, value, reason in (
        ("mask.free_classes", ["raod"], 'mask.free_classes: the model has no class "raod"; did you mean road?'),
        ("mask.obstacle_classes", ["person"], 'the model has no class "person"'),
        ("depth_far_classes", ["sky"], 'depth_far_classes: the model has no class "sky"'),
        ("points.classes", ["cars"], 'points.classes: the model has no class "cars"; did you mean car?'),
        ("mask.free_classes", ["car"], '"car" is in both mask.free_classes and mask.obstacle_classes'),
        ("mask.free_classes", ["13"], '"car" is free space and an obstacle'),
    ):
        (result,) = node.set_parameters({name: value})
        assert not result.successful, (name, value)
        assert reason in result.reason.replace(" (did", "; did"), result.reason
    mask = image_of(ask(node, ("mask",))["mask"], "mono8", np.uint8)
    np.testing.assert_array_equal(mask, np.select([LABELS == 0, LABELS == 13], [FREE, OBSTACLE], NEITHER))


def millimetres(depth_m):
    """REP 118: 0 is invalid, also beyond what 16 bits hold."""
    mm = np.floor(np.nan_to_num(depth_m.astype(np.float32) * np.float32(1000) + np.float32(0.5)))
    return np.where(mm <= 65535, mm, 0).astype(np.uint16)


def test_depth_in_millimetres(node, answers, settings):
    metres = depth_of(answers["depth"])
    settings(depth_encoding="16UC1")
    depth_mm = image_of(ask(node, ("depth",))["depth"], "16UC1", "<u2")
    np.testing.assert_array_equal(depth_mm, millimetres(metres))
    assert (depth_mm[np.isnan(DEPTH_M)] == 0).all() and (depth_mm[DEPTH_M > 65.6] == 0).all()
    assert ((depth_mm == 0) == (np.isnan(metres) | (metres > 65.5355))).all()
    near = (depth_mm > 0) & (DEPTH_M < 65)
    np.testing.assert_allclose(depth_mm[near] / 1000, DEPTH_M[near], atol=0.00051 + 65e-5)


def test_classes_without_a_distance_are_infinitely_far(node, answers, settings):
    metres, far = depth_of(answers["depth"]), LABELS == 8
    settings(depth_far_classes=["vegetation"])
    answers = ask(node)
    np.testing.assert_array_equal(depth_of(answers["depth"]), np.where(far, np.inf, metres))
    assert np.isfinite(metres[far]).any(), "they had a depth"
    np.testing.assert_array_equal(labels_of(answers["labels"]), LABELS)
    np.testing.assert_array_equal(decoded(answers["depth/compressed"].data), np.where(far, 0, millimetres(metres)))
    points = xyz(points_of(answers["points"]))
    np.testing.assert_allclose(points, expected_xyz(~far), rtol=1e-5, atol=1e-6)
    settings(depth_encoding="16UC1")
    depth_mm = image_of(ask(node, ("depth",))["depth"], "16UC1", "<u2")
    np.testing.assert_array_equal(depth_mm, np.where(far, 0, millimetres(metres)))


def test_what_is_to_be_ignored_is_in_no_output(node_program, tiny, tmp_path):
    ignored = np.zeros((HEIGHT, WIDTH), bool)
    ignored[-6:, 10:-10] = ignored[3:5, 20:22] = True
    # Twice the size of the images.
    mask = np.kron(ignored, np.full((2, 2), 255, np.uint8)).astype(np.uint8)
    Picture.fromarray(mask).save(tmp_path / "vehicle.png")
    parameters = {
        "depth_scaling": "none",
        "input_reliability": "reliable",
        "points.stride": 1,
        "ignore_mask": str(tmp_path / "vehicle.png"),
    }
    with running(node_program, tmp_path / "node", tiny, OUTPUTS, **parameters) as peer:
        answers = ask(peer)
        labels = np.where(ignored, 255, LABELS)
        np.testing.assert_array_equal(labels_of(answers["labels"]), labels)
        np.testing.assert_array_equal(decoded(answers["labels/compressed"].data), labels)
        depth = depth_of(answers["depth"])
        np.testing.assert_allclose(depth, np.where(ignored, np.nan, DEPTH_M), rtol=1e-5)
        np.testing.assert_array_equal(decoded(answers["depth/compressed"].data), millimetres(depth))
        confidence = image_of(answers["confidence"], "32FC1", "<f4")
        np.testing.assert_array_equal(np.isnan(confidence), ignored)
        found = image_of(answers["mask"], "mono8", np.uint8)
        np.testing.assert_array_equal(found, np.select([labels == 0, labels == 13], [FREE, OBSTACLE], NEITHER))
        colors = image_of(answers["labels_color"], "rgb8", np.uint8, 3)
        np.testing.assert_array_equal(colors, tiny_model.COLORS[labels])
        overlay = image_of(answers["overlay"], "rgb8", np.uint8, 3)
        assert (overlay[ignored] == 0).all() and (overlay[~ignored] > 0).any(-1).all()
        points = points_of(answers["points"])
        np.testing.assert_allclose(xyz(points), expected_xyz(~ignored), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(points["label"], labels)
        # Images of another aspect than the mask's.
        peer.send(encode(RGB[:, :WIDTH // 2], "rgb8"))
        peer.until(lambda: "images are refused" in peer.status("input")[1], "a diagnostic")
        assert "which is another aspect than that of the images, 32x32" in peer.status("input")[1]
        np.testing.assert_array_equal(labels_of(ask(peer)["labels"]), labels)


def test_a_mask_that_cannot_be_used_is_a_reason_to_end(start_node, tmp_path):
    Picture.new("L", (WIDTH, HEIGHT)).save(tmp_path / "black.png")
    for name, words in (("black.png", "all of it is black"), ("none.png", "No such file")):
        node = start_node(ignore_mask=str(tmp_path / name))
        assert node.wait() == 1
        assert "ignore_mask: " in node.log() and name in node.log() and words in node.log(), node.log()


def decoded(data):
    picture = Picture.open(io.BytesIO(bytes(data)))
    assert picture.format == "PNG"
    return np.asarray(picture)


@pytest.mark.parametrize("level", [1, 9])
def test_compressed_outputs_are_the_raw_ones(node, settings, level):
    settings(png_level=level)
    answers = ask(node)
    labels = answers["labels/compressed"]
    assert labels.format == "mono8; png compressed mono8"
    found = decoded(labels.data)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels_of(answers["labels"]))
    expected_mm = millimetres(depth_of(answers["depth"]))
    depth = answers["depth/compressed"]
    assert depth.format == "16UC1; png compressed 16UC1"
    np.testing.assert_array_equal(decoded(depth.data).astype(int), expected_mm)
    # compressed_depth_image_transport: an enum (0) and two floats that 16-bit pictures do not use, then the file.
    depth = answers["depth/compressedDepth"]
    assert depth.format == "16UC1; compressedDepth png"
    assert bytes(depth.data[:12]) == bytes(12)
    np.testing.assert_array_equal(decoded(depth.data[12:]).astype(int), expected_mm)


# --- points ----------------------------------------------------------------------------------------------------------

DTYPES = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}


def points_of(cloud):
    """The cloud as a structured array `[height, width]`."""
    layout = {
        "names": [f.name for f in cloud.fields],
        "formats": [DTYPES[f.datatype] for f in cloud.fields],
        "offsets": [f.offset for f in cloud.fields],
        "itemsize": cloud.point_step,
    }
    assert layout["names"] == ["x", "y", "z", "rgb", "label", "confidence"]
    assert all(f.count == 1 for f in cloud.fields) and not cloud.is_bigendian
    assert cloud.row_step == cloud.width * cloud.point_step and len(cloud.data) == cloud.height * cloud.row_step
    return np.frombuffer(cloud.data, np.dtype(layout)).reshape(cloud.height, cloud.width)


def xyz(points):
    return np.stack([points[name] for name in "xyz"], -1)


def colours(points):
    packed = np.ascontiguousarray(points["rgb"]).view("<u4")
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], -1)


V, U = np.mgrid[0:HEIGHT, 0:WIDTH]
XYZ = np.stack([(U - CX) / FX * DEPTH_M, (V - CY) / FY * DEPTH_M, DEPTH_M], -1)
RANGE_M = np.linalg.norm(XYZ, axis=-1)


def expected_xyz(keep=True, max_range_m=80.0, min_range_m=0.0):
    return np.where((keep & (RANGE_M >= min_range_m) & (RANGE_M <= max_range_m))[..., None], XYZ, np.nan)


# A point at the range's end may be in or out by rounding.
assert min(np.abs(RANGE_M - end)[np.isfinite(RANGE_M)].min() for end in (5.0, 20.0, 80.0)) > 1e-4


@pytest.mark.parametrize("stride", [1, 4, 5])
def test_the_cloud_is_organised_and_every_point_its_pixels(node, settings, stride):
    settings(points__stride=stride)
    answers = ask(node)
    cloud, middle = answers["points"], stride // 2
    points = points_of(cloud)
    pick = np.s_[middle::stride, middle::stride]
    assert points.shape == LABELS[pick].shape and not cloud.is_dense
    np.testing.assert_allclose(xyz(points), expected_xyz()[pick], rtol=1e-5, atol=1e-6)
    assert np.isnan(xyz(points)).any(), "some pixels have no depth"
    np.testing.assert_array_equal(points["label"], LABELS[pick])
    np.testing.assert_array_equal(colours(points), RGB[pick])
    confidence = image_of(answers["confidence"], "32FC1", "<f4")
    np.testing.assert_array_equal(points["confidence"], confidence[pick])


def test_range_and_classes_choose_points(node, settings):
    settings(points__max_range_m=20.0)
    points = points_of(ask(node, ("points",))["points"])
    np.testing.assert_allclose(xyz(points), expected_xyz(max_range_m=20.0), rtol=1e-5, atol=1e-6)
    settings(points__min_range_m=5.0)
    points = points_of(ask(node, ("points",))["points"])
    np.testing.assert_allclose(xyz(points), expected_xyz(True, 20.0, 5.0), rtol=1e-5, atol=1e-6)
    (result,) = node.set_parameters({"points.min_range_m": 20.0})
    assert not result.successful and "points.min_range_m (20.0) is not below points.max_range_m" in result.reason
    settings(points__classes=["car", "8"])
    points = points_of(ask(node, ("points",))["points"])
    keep = (LABELS == 13) | (LABELS == 8)
    np.testing.assert_allclose(xyz(points), expected_xyz(keep, 20.0, 5.0), rtol=1e-5, atol=1e-6)
    # The pixels stay where they are, with what is known of them.
    np.testing.assert_array_equal(points["label"], LABELS)


@pytest.mark.parametrize("rectified", [False, True])
def test_points_of_another_output_size_lie_on_their_pixels_rays(node, settings, rectified):
    settings(output_size=f"{WIDTH // 2}x{HEIGHT // 2}", input_rectified=rectified)
    info = calibration()
    fx, fy, cx, cy = (60.0, 55.0, 30.0, 17.0) if rectified else (FX, FY, CX, CY)
    if rectified:
        info.p[0], info.p[5], info.p[2], info.p[6], info.p[3] = fx, fy, cx, cy, -10.0
    answers = node.ask_calibrated(encode(RGB, "rgb8"), info, ("points", "depth", "labels"))
    points, z = points_of(answers["points"]), depth_of(answers["depth"])
    v, u = np.mgrid[0 : HEIGHT // 2, 0 : WIDTH // 2]
    # The middle of an output pixel is the corner of four source pixels, half a pixel from their centres.
    expected = np.stack([(2 * u + 0.5 - cx) / fx * z, (2 * v + 0.5 - cy) / fy * z, z], -1)
    distance = np.linalg.norm(expected, axis=-1)
    assert np.nanmin(np.abs(distance - 80.0)) > 1e-4
    expected[~(distance <= 80.0)] = np.nan
    np.testing.assert_allclose(xyz(points), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(points["label"], labels_of(answers["labels"]))
    np.testing.assert_array_equal(colours(points), RGB[1::2, 1::2])


def test_a_lens_is_undone(node):
    """plumb_bob: the pixel of a point, by OpenCV's model and the published coordinates, is the point's own."""
    info = calibration()
    k1, k2, p1, p2, k3 = info.d = [-0.2, 0.05, 0.003, -0.002, 0.01]
    answers = node.ask_calibrated(encode(RGB, "rgb8"), info, ("points", "depth"))
    points = xyz(points_of(answers["points"])).astype(np.float64)
    there = np.isfinite(points[..., 2])
    assert there.mean() > 0.5
    x, y = points[..., 0] / points[..., 2], points[..., 1] / points[..., 2]
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    column = FX * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)) + CX
    row = FY * (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y) + CY
    np.testing.assert_allclose(column[there], U[there], atol=2e-3)
    np.testing.assert_allclose(row[there], V[there], atol=2e-3)
    # Distortion is not nothing here.
    assert np.abs(x * FX + CX - U)[there].max() > 1


def test_without_a_calibration_there_are_no_points_and_it_is_said(start_node, connect, tiny):
    node = start_node(model_path=str(tiny), input_reliability="reliable")
    peer = connect(node, ("labels", "points", "timing"))
    peer.ask(encode(RGB, "rgb8"), ("labels", "timing"))
    peer.spin_for(0.1)
    assert not peer.outputs["points"].messages
    node.says("no points: no camera_info has arrived")


def test_a_model_of_one_task_publishes_what_it_can(start_node, connect, tiny, tmp_path):
    """And says what it cannot; one is changed for the other at run time, and for one of both."""
    paths = {
        "depth": tiny_model.write(tmp_path / "depth", name="depth", code=tiny_model.DEPTH_ALONE),
        "classes": tiny_model.write(tmp_path / "classes", name="classes", code=tiny_model.CLASSES_ALONE),
    }
    of_classes = ("labels", "labels/compressed", "confidence", "overlay", "labels_color", "mask")
    of_depth = ("depth", "depth/compressed", "points")
    parameters = {"depth_scaling": "none", "input_reliability": "reliable", "points.stride": 1}
    node = start_node(model_path=str(paths["depth"]), **parameters)
    peer = connect(node, (*of_classes, *of_depth, "camera_info", "timing"))

    def answers(expected, absent):
        before = {name: len(peer.outputs[name].messages) for name in absent}
        found = peer.ask_calibrated(encode(RGB, "rgb8"), calibration(), (*expected, "camera_info", "timing"))
        peer.spin_for(0.1)
        assert before == {name: len(peer.outputs[name].messages) for name in absent}
        return found

    found = answers(of_depth, of_classes)
    node.says("model depth answers no classes: labels, confidence, overlay, labels_color and mask are not published")
    depth = image_of(found["depth"], "32FC1", np.float32)
    np.testing.assert_allclose(depth, DEPTH_M, rtol=1e-5)
    fields = {field.name: field.offset for field in found["points"].fields}
    points = np.frombuffer(found["points"].data, np.uint8).reshape(-1, found["points"].point_step)
    assert len(points) == RGB[..., 0].size and (points[:, fields["label"]] == 255).all()
    values = peer.status("model")[2]
    assert values["Answers"] == "depth" and "Focal length (px)" in values

    def reload(path):
        peer.change("model_path", str(path))
        response = peer.call(Trigger, "reload_model")
        assert response.success, response.message

    reload(paths["classes"])
    found = answers(of_classes, of_depth)
    node.says("model classes answers no depth: depth and points are not published")
    assert (image_of(found["labels"], "mono8", np.uint8) == LABELS).all()
    level, _, values = peer.status("model")
    assert level == b"\x00" and values["Answers"] == "classes" and "Focal length (px)" not in values
    # A class that this model has, and the other one does not.
    peer.change("points.classes", ["car"])
    peer.change("model_path", str(paths["depth"]))
    response = peer.call(Trigger, "reload_model")
    assert not response.success and 'no class "car" (it answers depth alone)' in response.message, response.message
    peer.change("points.classes", [])
    reload(tiny)
    answers((*of_classes, *of_depth), ())
    assert peer.status("model")[2]["Answers"] == "classes, depth"


def test_nothing_is_computed_for_a_cloud_that_cannot_be(start_node, connect, tiny):
    """Points are the only output that is subscribed to."""
    node = start_node(
        model_path=str(tiny), input_reliability="reliable", depth_scaling="none", diagnostics_rate_hz=10.0
    )
    peer = connect(node, ("points",))

    def until(why, info=None):
        def said():
            peer.send(encode(RGB, "rgb8"), info)
            level, message, values = peer.status("input")
            return why in values.get("Point cloud", "") and (level, message, values)

        return peer.until(said, f"a point cloud's {why}", 20)

    level, message, values = until("no camera_info has arrived")
    assert level == b"\x01" and "there is no point cloud: no camera_info has arrived" in message
    unknown = calibration()
    unknown.distortion_model, unknown.d = "of_mars", [0.1] * 5
    level, message, values = until("of_mars", unknown)
    assert level == b"\x01" and "of_mars" in message
    node.says("no points: ")
    assert int(values["Frames skipped"]) > 0 and int(values["Frames answered"]) == 0
    assert not peer.outputs["points"].messages
    # It comes with a calibration that will do, and nothing is said of it where nobody wants it.
    level, message, values = until("ok", calibration())
    assert level == b"\x00", message
    peer.until(lambda: peer.outputs["points"].messages, "a cloud")
    peer.listen("labels")
    peer.deaf_to("points")

    def forgotten():
        peer.send(encode(RGB, "rgb8"), calibration())
        return "Point cloud" not in peer.status("input")[2]

    peer.until(forgotten, "a status without a point cloud", 20)


def test_voxels_make_a_dense_cloud_without_order(node, settings):
    size_m = 0.59
    settings(points__voxel_size_m=size_m)
    answers = ask(node)
    cloud = answers["points"]
    points = points_of(cloud)
    assert cloud.height == 1 and cloud.is_dense
    position = expected_xyz().reshape(-1, 3)
    valid = np.isfinite(position[:, 2])
    position, labels, rgb = position[valid], LABELS.reshape(-1)[valid], RGB.reshape(-1, 3)[valid]
    confidence = image_of(answers["confidence"], "32FC1", "<f4").reshape(-1)[valid]
    cells = np.floor(position / size_m).astype(int)
    # A point on the edge of two cells may be of either, by rounding; this picture should have none.
    assert np.abs(position / size_m - np.rint(position / size_m)).min() > 3e-5
    found = {tuple(cell): i for i, cell in enumerate(np.floor(xyz(points)[0] / size_m).astype(int))}
    cells_there = {tuple(cell) for cell in cells}
    assert len(found) == cloud.width == len(cells_there) < valid.sum(), "one point each, and some thinning"
    shared = 0
    for cell in cells_there:
        inside = (cells == cell).all(1)
        point = points[0, found[cell]]
        shared += inside.sum() > 1
        np.testing.assert_allclose([point[n] for n in "xyz"], position[inside].mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(point["confidence"], confidence[inside].mean(), rtol=1e-4)
        np.testing.assert_allclose(colours(points[0, found[cell]].reshape(1))[0], rgb[inside].mean(0), atol=0.51)
        ids, counts = np.unique(labels[inside], return_counts=True)
        assert point["label"] in ids[counts == counts.max()]
    assert shared > 20


def test_other_readers_read_the_cloud(answers):
    """sensor_msgs_py, where it is installed: the reader of most Python nodes."""
    reader = pytest.importorskip("sensor_msgs_py.point_cloud2")
    points = reader.read_points(answers["points"], field_names=["x", "y", "z", "label"], reshape_organized_cloud=True)
    np.testing.assert_allclose(points["z"], expected_xyz()[..., 2], rtol=1e-5)
    np.testing.assert_array_equal(points["label"], LABELS)


# --- label info ------------------------------------------------------------------------------------------------------


def latched():
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def test_who_comes_late_learns_what_the_labels_mean(node):
    """The node has been publishing for long: transient local."""
    ask(node, ("labels",))
    heard = []
    subscription = node.node.create_subscription(LabelInfo, f"{NAME}/output/label_info", heard.append, latched())
    node.until(lambda: heard, "a label info for a late subscriber", 20)
    node.spin_for(0.2)
    node.node.destroy_subscription(subscription)
    (info,) = heard
    found = [(entry.class_id, entry.class_name) for entry in info.class_map]
    assert found == [(c["id"], c["name"]) for c in tiny_model.CLASSES]
    assert info.header.stamp.sec > 0


# --- switches, and no work unasked -----------------------------------------------------------------------------------

SWITCHES = {
    "labels": ["labels"],
    "labels_compressed": ["labels/compressed"],
    "depth": ["depth"],
    "depth_compressed": ["depth/compressed", "depth/compressedDepth"],
    "confidence": ["confidence"],
    "overlay": ["overlay"],
    "labels_color": ["labels_color"],
    "mask": ["mask"],
    "points": ["points"],
    "camera_info": ["camera_info"],
    "timing": ["timing"],
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_stops_its_topics_and_no_other(node, switch):
    stopped = SWITCHES[switch]
    others = [output for output in OUTPUTS if output not in stopped]
    node.change(f"outputs.{switch}", False)
    try:
        answers = node.ask(encode(RGB, "rgb8"), others, calibration())
        # Everything else of the frame is there, and this would have been published before the last of it.
        node.spin_for(0.05)
        stamp = next((a.header.stamp.sec, a.header.stamp.nanosec) for a in answers.values())
        assert not set(stopped) & set(node.answers(stamp)), "published although switched off"
    finally:
        node.change(f"outputs.{switch}", True)
    assert set(node.ask(encode(RGB, "rgb8"), OUTPUTS, calibration())) == set(OUTPUTS)


def test_label_info_can_be_switched_off(start_node, connect, tiny):
    peer = connect(start_node(model_path=str(tiny), **{"outputs.label_info": False}), ("labels", "timing"))
    peer.ask(encode(RGB, "rgb8"))
    heard = []
    peer.node.create_subscription(LabelInfo, f"{NAME}/output/label_info", heard.append, latched())
    peer.until(lambda: peer.node.count_publishers(f"{NAME}/output/label_info"), "the topic")
    peer.spin_for(0.5)
    assert not heard
    # Switched on while the node runs, it comes at once, and once.
    peer.change("outputs.label_info", True)
    peer.until(lambda: heard, "a label info after it was switched on", 20)
    peer.ask(encode(RGB, "rgb8"))
    peer.spin_for(0.6)
    assert len(heard) == 1


# What each stage works for: it is 0 if none of these is wanted.
STAGES = {
    "labels_ns": {"labels", "labels_compressed", "overlay", "labels_color", "mask", "points"},
    "depth_ns": {"depth", "depth_compressed", "points"},
    "confidence_ns": {"confidence", "points"},
    "overlay_ns": {"overlay", "labels_color"},
    "mask_ns": {"mask"},
    "points_ns": {"points"},
    "compress_ns": {"labels_compressed", "depth_compressed"},
}


def held(timing, wanted):
    for stage, serves in STAGES.items():
        time_ns = getattr(timing, stage)
        assert (time_ns > 0) == bool(serves & wanted), f"{stage} is {time_ns} with {sorted(wanted)}"
    assert (timing.infer_ns > 0) == bool(wanted)


def test_a_stage_that_serves_nobody_does_not_work(node):
    pictures = [switch for switch in SWITCHES if switch not in ("camera_info", "timing")]
    node.ask(encode(RGB, "rgb8"), OUTPUTS, calibration())
    for result in node.set_parameters({f"outputs.{switch}": False for switch in pictures}):
        assert result.successful, result.reason
    try:
        for switch in pictures:
            node.change(f"outputs.{switch}", True)
            held(node.ask(encode(RGB, "rgb8"), ("timing", *SWITCHES[switch]), calibration())["timing"], {switch})
            node.change(f"outputs.{switch}", False)
        # Nothing at all: the frame is counted as skipped, and its calibration is handed on.
        before = node.outputs["timing"].messages[-1].skipped
        seen = len(node.outputs["timing"].messages)
        node.ask(encode(RGB, "rgb8"), ("camera_info",), calibration())
        node.spin_for(0.05)
        assert len(node.outputs["timing"].messages) == seen
        node.change("outputs.labels", True)
        assert node.ask(encode(RGB, "rgb8"), ("timing", "labels"))["timing"].skipped > before
    finally:
        for result in node.set_parameters({f"outputs.{switch}": True for switch in pictures}):
            assert result.successful, result.reason
    held(node.ask(encode(RGB, "rgb8"), OUTPUTS, calibration())["timing"], set(pictures))


def test_what_nobody_subscribes_to_is_not_computed(start_node, connect, tiny):
    """All switches are on; one listener after the other comes and goes."""
    peer = connect(start_node(model_path=str(tiny), input_reliability="reliable"), ("timing",))
    for switch in ("labels", "depth", "confidence", "overlay", "mask", "labels_compressed", "points"):
        (output,) = SWITCHES[switch]
        heard = []
        topic = f"{NAME}/output/{output}"
        subscription = peer.node.create_subscription(TYPES[output], topic, heard.append, qos())

        def answered():
            peer.send(encode(RGB, "rgb8"), calibration())
            peer.spin_for(0.05)
            return heard

        peer.until(answered, f"{output} for its only listener", 20)
        stamp = (heard[-1].header.stamp.sec, heard[-1].header.stamp.nanosec)
        peer.until(lambda: stamp in peer.outputs["timing"].by_stamp, "its timing", 10)
        held(peer.outputs["timing"].by_stamp[stamp], {switch})
        peer.node.destroy_subscription(subscription)

        def deaf():
            seen = len(peer.outputs["timing"].messages)
            peer.send(encode(RGB, "rgb8"), calibration())
            peer.spin_for(0.1)
            return len(peer.outputs["timing"].messages) == seen

        peer.until(deaf, f"no work after {output}'s listener left", 20)

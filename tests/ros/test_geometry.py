"""Where the answers lie: every resize mode at every output size, against matrices that say what the definition says.

The model under test (tiny_model) is linear in its input, so its scores and its log depth at any output pixel are the
picture times two matrices an axis: one that resizes, one that interpolates.
"""

import numpy as np
import pytest
import tiny_model
from conftest import depth_of, encode, labels_of, picture, running
from sensor_msgs.msg import CameraInfo

NETWORK = (tiny_model.WIDTH, tiny_model.HEIGHT)
OUTPUTS = ("labels", "depth", "confidence", "overlay", "camera_info", "timing")
ANSWERS = ("labels", "depth", "confidence", "overlay")


@pytest.fixture(scope="module")
def node(node_program, tiny, tmp_path_factory):
    parameters = {"depth_scaling": "none", "input_reliability": "reliable", "overlay_opacity": 0.0}
    with running(node_program, tmp_path_factory.mktemp("geometry"), tiny, OUTPUTS, **parameters) as peer:
        yield peer


@pytest.fixture
def place(node):
    """Sets mode, region and output size; what is already so is left."""

    def set_placement(mode, output, roi=(0, 0, 0, 0)):
        # The region before the mode that needs it; other modes do not read it.
        values = {"roi": list(roi)} if mode == "roi" else {}
        for result in node.set_parameters({**values, "resize_mode": mode, "output_size": output}):
            assert result.successful, result.reason
        return node

    return set_placement


def centred(inner, outer):
    """x, y, width, height of the largest rectangle of `inner`'s aspect in the middle of `outer`."""
    scale = min(outer[0] / inner[0], outer[1] / inner[1])
    width, height = (max(1, int(np.floor(side * scale + 0.5))) for side in inner)
    return (outer[0] - width) // 2, (outer[1] - height) // 2, width, height


def rectangles(mode, source, roi):
    """What the network sees, in source pixels, and where in its input that lies."""
    whole_source, whole_network = (0, 0, *source), (0, 0, *NETWORK)
    return {
        "stretch": (whole_source, whole_network),
        "letterbox": (whole_source, centred(source, NETWORK)),
        "crop": (centred(NETWORK, source), whole_network),
        "roi": (roi if any(roi) else whole_source, whole_network),
    }[mode]


def size_of(output, source):
    if output in ("source", "network"):
        return source if output == "source" else NETWORK
    return tuple(int(side) for side in output.split("x"))


def bilinear(at, low, length, row):
    """Weights of position `at` (0.5 is the first centre) in `length` samples from `low` on, edges replicated."""
    at = min(max(at - 0.5, 0), length - 1)
    j = int(at)
    row[low + j] += 1 - (at - j)
    if at > j:
        row[low + j + 1] += at - j


def resizing(source, seen_at, seen, net):
    """`[net, source]`: the part of the source that is seen, as `net` samples."""
    matrix = np.zeros((net, source))
    scale = seen / net
    for i in range(net):
        if scale >= 2:
            low, high = i * scale, (i + 1) * scale
            for j in range(seen):
                matrix[i, seen_at + j] = max(0, min(high, j + 1) - max(low, j)) / scale
        else:
            bilinear((i + 0.5) * scale, seen_at, seen, matrix[i])
    return matrix


def showing(output, network, where, net_at, net):
    """`[output, network]`: `where` gives the place, 0 to 1 of what is seen, of each output pixel; outside: no weights."""
    matrix = np.zeros((output, network))
    for i, place in enumerate(where):
        if 0 <= place < 1:
            bilinear(place * net, net_at, net, matrix[i])
    return matrix


class Expected:
    """All that is published for a picture `[h, w, 3]`, from the definition."""

    def __init__(self, rgb, mode, output, roi=(0, 0, 0, 0)):
        height, width, _ = rgb.shape
        source = (width, height)
        seen, net = rectangles(mode, source, roi)
        self.size = size_of(output, source)
        visible, axes = [], []
        for axis in (0, 1):
            length, out = NETWORK[axis], self.size[axis]
            (seen_at, seen_length), (net_at, net_length) = ((r[axis], r[axis + 2]) for r in (seen, net))
            centres = np.arange(out) + 0.5
            if output == "network":
                where = (centres - net_at) / net_length
            else:
                where = (centres * source[axis] / out - seen_at) / seen_length
            visible.append((where >= 0) & (where < 1))
            resize = np.zeros((length, source[axis]))
            resize[net_at : net_at + net_length] = resizing(source[axis], seen_at, seen_length, net_length)
            axes.append((resize, showing(out, length, where, net_at, net_length)))
        (resize_x, show_x), (resize_y, show_y) = axes
        seen_by_network = np.einsum("yj,jkc,xk->yxc", resize_y, rgb.astype(np.float64), resize_x)
        scores, code = tiny_model.scores_and_code(seen_by_network)
        scores = np.einsum("yj,jkc,xk->yxc", show_y, scores, show_x)
        code = show_y @ code @ show_x.T
        self.seen = np.outer(visible[1], visible[0])
        ordered = np.sort(scores, -1)
        # Where two scores are this near, rounding in single precision may decide.
        self.sure = ~self.seen | (ordered[..., -1] - ordered[..., -2] > 1e-4)
        self.labels = np.where(self.seen, tiny_model.IDS[scores.argmax(-1)], 255)
        self.depth_m = np.where(self.seen, np.exp(5 * code), np.nan)
        exponentials = np.exp(scores - scores.max(-1, keepdims=True))
        self.confidence = np.where(self.seen, 1 / exponentials.sum(-1), np.nan)

    def hold(self, answers):
        labels = labels_of(answers["labels"])
        assert labels.shape == (self.size[1], self.size[0])
        assert self.sure.mean() > 0.98
        np.testing.assert_array_equal(labels[self.sure], self.labels[self.sure])
        np.testing.assert_array_equal(labels[~self.seen], 255)
        np.testing.assert_allclose(depth_of(answers["depth"]), self.depth_m, rtol=1e-4)
        np.testing.assert_allclose(depth_of(answers["confidence"]), self.confidence, rtol=1e-4)


def blobs(width, height, seed):
    """Discs and boxes of all classes over shades of blue: edges in all directions."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[..., :2] = tiny_model.VEGETATION
    rgb[..., 2] = (30 + 150 * x / width + 60 * y / height).astype(np.uint8)
    for i in range(12):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.08, 0.25) * min(width, height)
        inside = (x - cx) ** 2 + (y - cy) ** 2 < r * r if i % 2 else (abs(x - cx) < r) & (abs(y - cy) < r)
        rgb[inside, :2] = (tiny_model.ROAD, tiny_model.CAR, tiny_model.UNLABELLED)[i % 3]
        rgb[inside, 2] = rng.integers(0, 250)
    return rgb


SOURCES = [(64, 32), (50, 70), (201, 67)]
MODES = {"stretch": (0, 0, 0, 0), "letterbox": (0, 0, 0, 0), "crop": (0, 0, 0, 0), "roi": (7, 11, 41, 21)}
SIZES = ["source", "network", "97x40"]


@pytest.mark.parametrize("output", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_answers_lie_where_the_definition_says(place, mode, output):
    peer = place(mode, output, MODES[mode])
    for seed, (width, height) in enumerate(SOURCES):
        rgb = blobs(width, height, seed)
        message = encode(rgb, "rgb8")
        answers = peer.ask(message, ANSWERS)
        size = size_of(output, (width, height))
        for name in ANSWERS:
            assert answers[name].header == message.header, name
            assert (answers[name].width, answers[name].height) == size, name
        Expected(rgb, mode, output, MODES[mode]).hold(answers)


# Sources of which the network sees a part pixel for pixel: x, y, width, height of that part in the source.
EXACT = {
    "stretch": ((64, 32), (0, 0, 0, 0), (0, 0, 64, 32)),
    "letterbox": ((64, 20), (0, 0, 0, 0), (0, 0, 64, 20)),
    "letterbox, tall": ((24, 32), (0, 0, 0, 0), (0, 0, 24, 32)),
    "crop": ((90, 32), (0, 0, 0, 0), (13, 0, 64, 32)),
    "crop, tall": ((64, 51), (0, 0, 0, 0), (0, 9, 64, 32)),
    "roi": ((100, 80), (5, 41, 64, 32), (5, 41, 64, 32)),
}


@pytest.mark.parametrize("what", EXACT)
def test_a_known_pattern_is_found_to_the_pixel(place, what):
    """Noise of classes and depths, each pixel its own: nothing may be off by one, nor be smoothed."""
    mode = what.split(",")[0]
    (width, height), roi, (x, y, w, h) = EXACT[what]
    rng = np.random.default_rng(7)
    classes = rng.integers(0, 4, (height, width))
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[..., :2] = np.array([tiny_model.ROAD, tiny_model.CAR, tiny_model.VEGETATION, tiny_model.UNLABELLED])[classes]
    # Some pixels have no depth, and do not take their neighbours' away.
    rgb[..., 2] = rng.integers(0, 256, (height, width))
    rgb[rng.random((height, width)) < 0.03, 2] = 255
    labels = tiny_model.IDS[classes]
    blue = rgb[..., 2]
    depth_m = np.where(blue == 255, np.nan, tiny_model.depth_of_blue(blue))
    part = np.s_[y : y + h, x : x + w]

    answers = place(mode, "source", roi).ask(encode(rgb, "rgb8"), ANSWERS)
    expected_labels, expected_depth = np.full_like(labels, 255), np.full_like(depth_m, np.nan)
    expected_labels[part], expected_depth[part] = labels[part], depth_m[part]
    np.testing.assert_array_equal(labels_of(answers["labels"]), expected_labels)
    np.testing.assert_allclose(depth_of(answers["depth"]), expected_depth, rtol=1e-5)
    overlay = np.frombuffer(answers["overlay"].data, np.uint8).reshape(height, width, 3)
    np.testing.assert_array_equal(overlay, rgb)

    answers = place(mode, "network", roi).ask(encode(rgb, "rgb8"), ANSWERS)
    top, left = (NETWORK[1] - h) // 2, (NETWORK[0] - w) // 2
    part_of_network = np.s_[top : top + h, left : left + w]
    expected_labels, expected_depth = np.full((32, 64), 255, np.uint8), np.full((32, 64), np.nan)
    expected_labels[part_of_network], expected_depth[part_of_network] = labels[part], depth_m[part]
    np.testing.assert_array_equal(labels_of(answers["labels"]), expected_labels)
    np.testing.assert_allclose(depth_of(answers["depth"]), expected_depth, rtol=1e-5)
    overlay = np.frombuffer(answers["overlay"].data, np.uint8).reshape(32, 64, 3)
    np.testing.assert_array_equal(overlay[part_of_network], rgb[part])
    bars = np.ones((32, 64), bool)
    bars[part_of_network] = False
    assert not overlay[bars].any(), "where there is no source, the overlay is black"


def test_a_region_outside_of_the_image_is_refused_with_its_reason(node, place):
    place("stretch", "source").ask(encode(blobs(64, 32, 0), "rgb8"), ANSWERS)
    place("roi", "source", (10, 5, 60, 20))
    stamp = node.send(encode(blobs(64, 32, 0), "rgb8"))
    node.until(lambda: "Last refusal" in node.status("input")[2], "a refusal in the diagnostics")
    level, message, values = node.status("input")
    assert "the region of interest is 60x20 at (10, 5), but the image is 64x32" in values["Last refusal"]
    assert level > b"\x00" and not node.answers(stamp)
    # An image that holds it is answered.
    node.ask(encode(blobs(100, 80, 0), "rgb8"), ANSWERS)


# ---------------------------------------------------------------------------------------------------------------------


def calibration(width, height, fx=300.0, fy=290.0, cx=63.5, cy=41.25, d=(0.1, -0.2, 0.001, 0.002, 0.03)):
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=list(d))
    info.k = [fx, 0.5, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [fx * 1.1, 0.0, cx + 2, -12.0, 0.0, fy * 1.1, cy - 1, 3.0, 0.0, 0.0, 1.0, 0.0]
    return info


@pytest.mark.parametrize("output", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_camera_info_is_scaled_as_image_pipeline_does(place, mode, output):
    width, height = 128, 96
    message, info = encode(blobs(width, height, 1), "rgb8"), calibration(width, height)
    found = place(mode, output, MODES[mode]).ask_calibrated(message, info)["camera_info"]
    assert found.header == message.header
    size = size_of(output, (width, height))
    assert (found.width, found.height) == size
    if output == "network":
        # The crop first, then the resize, then the bars: image_proc's crop, resize and the letterbox's offset.
        (x, y, w, h), (nx, ny, nw, nh) = rectangles(mode, (width, height), MODES[mode])
        sx, sy = nw / w, nh / h
        ox, oy = nx - x * sx, ny - y * sy
    else:
        (sx, sy), (ox, oy) = (size[0] / width, size[1] / height), (0, 0)
    k, p = np.array(info.k).reshape(3, 3), np.array(info.p).reshape(3, 4)
    scale = np.array([[sx, 0, ox], [0, sy, oy], [0, 0, 1]])
    np.testing.assert_allclose(np.array(found.k).reshape(3, 3)[:, [0, 2]], (scale @ k)[:, [0, 2]], rtol=1e-12)
    np.testing.assert_allclose(found.k[4], k[1, 1] * sy)
    expected = scale @ p
    # Tx and Ty are fx and fy times a baseline: an offset of the picture does not move the other camera.
    expected[:, 3] = [p[0, 3] * sx, p[1, 3] * sy, 0]
    np.testing.assert_allclose(np.array(found.p).reshape(3, 4), expected, rtol=1e-12)
    np.testing.assert_array_equal(found.d, info.d)
    np.testing.assert_array_equal(found.r, info.r)
    assert found.distortion_model == info.distortion_model
    if size == (width, height):
        np.testing.assert_array_equal(found.k, info.k)
    assert (found.roi.width, found.roi.height, found.binning_x, found.binning_y) == (0, 0, 0, 0)


def test_a_region_of_the_sensor_is_scaled(place):
    """The picture is a part, 128x96 at (40, 24), of a sensor of 400x300."""
    info = calibration(400, 300, cx=210.0, cy=140.0)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 40, 24, 128, 96
    message = encode(blobs(128, 96, 1), "rgb8")
    found = place("stretch", "64x48").ask_calibrated(message, info)["camera_info"]
    roi = found.roi
    assert (found.width, found.height) == (200, 150)
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (20, 12, 64, 48)
    np.testing.assert_allclose(found.k, [150.0, 0.25, 105.0, 0.0, 145.0, 70.0, 0.0, 0.0, 1.0])
    # At the source's size nothing changes.
    found = place("stretch", "source").ask_calibrated(message, info)["camera_info"]
    assert found.roi == info.roi and (found.width, found.height) == (400, 300)
    np.testing.assert_array_equal(found.k, info.k)
    # Where the region does not scale to whole pixels, a pixel of the picture is where it was.
    found = place("stretch", "97x40").ask_calibrated(message, info)["camera_info"]
    assert (found.roi.width, found.roi.height) == (97, 40)
    for k, p, offset, before, scale in (
        (2, 2, "x_offset", 210.0 - 40, 97 / 128),
        (5, 6, "y_offset", 140.0 - 24, 40 / 96),
    ):
        at = getattr(found.roi, offset)
        assert at == int(getattr(info.roi, offset) * scale)
        np.testing.assert_allclose(found.k[k] - at, before * scale)
        np.testing.assert_allclose(found.p[p] - at, (info.p[p] - getattr(info.roi, offset)) * scale)


@pytest.mark.parametrize("output", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_depth_and_camera_info_give_the_right_point(place, mode, output):
    """depth_image_proc's formula, X = (u - cx) Z / fx, on what is published, for a slanted wall in front of a camera.

    image_pipeline's scaled calibration takes a pixel's index times the scale for its place; the picture is resized by
    pixel edges. The two differ by half a pixel times (scale - 1), which the tolerance has to allow.
    """
    width, height, fx, fy, cx, cy = 128, 96, 100.0, 110.0, 60.0, 50.0
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    # A wall n . X = 1 through (0, 0, 8), turned: its inverse depth is linear in the pixel.
    wall = np.array([0.03, -0.05, 1 / 8])
    z = 1 / (wall[0] * (u - cx) / fx + wall[1] * (v - cy) / fy + wall[2])
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., :2] = tiny_model.ROAD
    rgb[..., 2] = tiny_model.blue_of(z)
    info = calibration(width, height, fx, fy, cx, cy, d=(0.0,) * 5)
    info.k[1] = 0.0
    answers = place(mode, output, MODES[mode]).ask_calibrated(encode(rgb, "rgb8"), info)
    depth_m, k = depth_of(answers["depth"]), answers["camera_info"].k
    v, u = np.mgrid[0 : depth_m.shape[0], 0 : depth_m.shape[1]]
    points = np.stack([(u - k[2]) * depth_m / k[0], (v - k[5]) * depth_m / k[4], depth_m], -1)
    points = points[np.isfinite(depth_m)]
    assert len(points) > 0.05 * depth_m.size
    distance = (points @ wall - 1) / np.linalg.norm(wall)
    # Blue has 255 steps of 2 %; smoothing of its steps adds less than one more.
    assert np.abs(distance / points[:, 2]).max() < 0.03, np.abs(distance / points[:, 2]).max()
    # On the wall is not enough: the rays of the first and the last pixel are those of the part that was seen.
    scale = np.array([k[0] / fx, k[4] / fy])
    seen = np.isfinite(depth_m)
    place_in_source = np.stack([(u[seen] - k[2]) / k[0] * fx + cx, (v[seen] - k[5]) / k[4] * fy + cy], -1)
    (x, y, w, h), _ = rectangles(mode, (width, height), MODES[mode])
    slack = 0.5 * np.abs(1 / scale - 1) + 1e-6
    lowest, highest = place_in_source.min(0), place_in_source.max(0)
    first, last = np.array([x, y]), np.array([x + w - 1, y + h - 1])
    if output == "source":
        np.testing.assert_allclose(lowest, first, atol=1e-9)
        np.testing.assert_allclose(highest, last, atol=1e-9)
    else:
        assert (np.abs(lowest - first) < slack + 1 / scale).all() and (np.abs(highest - last) < slack + 1 / scale).all()


def test_camera_info_is_scaled_where_nothing_else_is_wanted_too(start_node, connect):
    peer = connect(start_node(output_size="network"), outputs=("camera_info",))
    info = CameraInfo(width=1024, height=1024)
    info.k = [500.0, 0.0, 512.0, 0.0, 500.0, 512.0, 0.0, 0.0, 1.0]
    found = peer.ask(picture(1024, 1024), ("camera_info",), info)["camera_info"]
    assert (found.width, found.height) == (tiny_model.WIDTH, tiny_model.HEIGHT)
    assert list(found.k) == [31.25, 0.0, 32.0, 0.0, 15.625, 16.0, 0.0, 0.0, 1.0]

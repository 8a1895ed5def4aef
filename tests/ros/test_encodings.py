"""Every encoding, pixel by pixel against OpenCV: an overlay without colours is the picture that the node has read."""

import cv2
import numpy as np
import pytest
import tiny_model
from conftest import running, until
from sensor_msgs.msg import CompressedImage, Image

# cv_bridge's table: ROS names a mosaic by its first 2x2 pixels, OpenCV by two of the second row, from the second on.
BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
TO_RGB = {
    "mono8": cv2.COLOR_GRAY2RGB,
    "mono16": cv2.COLOR_GRAY2RGB,
    "rgb8": None,
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "rgb16": None,
    "bgr16": cv2.COLOR_BGR2RGB,
    "rgba16": cv2.COLOR_RGBA2RGB,
    "bgra16": cv2.COLOR_BGRA2RGB,
    **{f"bayer_{pattern}{bits}": code for pattern, code in BAYER.items() for bits in (8, 16)},
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "nv12": cv2.COLOR_YUV2RGB_NV12,
}
CASES = [(e, end) for e in TO_RGB for end in (("little", "big") if e.endswith("16") else ("little",))]


@pytest.fixture(scope="module")
def node(node_program, tiny, tmp_path_factory):
    """Camera `plain` takes raw images, camera `packed` compressed ones."""
    parameters = {
        "overlay_opacity": 0.0,
        "input_reliability": "reliable",
        "diagnostics_rate_hz": 10.0,
        "packed.image_transport": "compressed",
    }
    outputs = ("overlay", "labels", "depth", "timing")
    folder = tmp_path_factory.mktemp("encodings")
    cameras, transport = ("plain", "packed"), {"packed": "compressed"}
    with running(node_program, folder, tiny, outputs, cameras, transport, **parameters) as peer:
        yield peer


@pytest.fixture
def plain(node):
    return node.cameras["plain"]


@pytest.fixture
def packed(node):
    return node.cameras["packed"]


def eight(image):
    """cv_bridge's way from 16 to 8 bits."""
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255 / 65535)


def converted(image, code):
    # A mosaic is interpolated in its own bits.
    return eight(image if code is None else cv2.cvtColor(image, code))


def rows_of(encoding, width, height, seed=3):
    """Noise in an encoding, as OpenCV takes it."""
    rng = np.random.default_rng(seed)
    kind = np.uint16 if encoding.endswith("16") else np.uint8
    shape = (height, width)
    if encoding == "nv12":
        shape = (height * 3 // 2, width)
    elif encoding.startswith(("uyvy", "yuyv", "yuv")):
        shape = (height, width, 2)
    elif encoding.startswith(("rgb", "bgr")):
        shape = (height, width, 4 if "a" in encoding else 3)
    image = rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
    # The ends of the range more often than chance would have them.
    image[rng.random(shape) < 0.05] = 0
    image[rng.random(shape) < 0.05] = np.iinfo(kind).max
    return image


def message_of(image, encoding, width, height, order="little", padding=0):
    """`padding` bytes of noise after every row."""
    stored = image.astype(image.dtype.newbyteorder(">" if order == "big" else "<"))
    rows = np.frombuffer(stored.tobytes(), np.uint8).reshape(image.shape[0], -1)
    noise = np.random.default_rng(4).integers(0, 256, (len(rows), padding), np.uint8)
    rows = np.hstack([rows, noise])
    message = Image(width=width, height=height, encoding=encoding, step=rows.shape[1], is_bigendian=order == "big")
    message.header.frame_id = "camera_front_optical_frame"
    message.data = rows.tobytes()
    return message


def overlay_of(answers):
    overlay = answers["overlay"]
    assert overlay.encoding == "rgb8" and overlay.step == 3 * overlay.width
    return np.frombuffer(overlay.data, np.uint8).reshape(overlay.height, overlay.width, 3)


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize(("encoding", "order"), CASES)
def test_a_raw_encoding_is_what_opencv_makes_of_it(plain, encoding, order, padding):
    sizes = [(70, 6)] if encoding == "nv12" else [(70, 5)] if encoding[:3] in ("uyv", "yuy", "yuv") else [(71, 5), (3, 3)]
    for width, height in sizes:
        image = rows_of(encoding, width, height)
        message = message_of(image, encoding, width, height, order, padding)
        answers = plain.ask(message, ("overlay", "labels", "depth"))
        expected = converted(image, TO_RGB[encoding])
        np.testing.assert_array_equal(overlay_of(answers), expected)
        assert answers["overlay"].header == message.header


def test_what_is_compared_is_what_the_network_sees(plain):
    """The depth of the model under test is in the blue of the converted picture."""
    for encoding in ("bgr16", "uyvy", "bayer_grbg8"):
        image = rows_of(encoding, tiny_model.WIDTH, tiny_model.HEIGHT)
        answers = plain.ask(message_of(image, encoding, tiny_model.WIDTH, tiny_model.HEIGHT), ("overlay", "depth"))
        blue = converted(image, TO_RGB[encoding])[..., 2]
        depth_m = np.frombuffer(answers["depth"].data, "<f4").reshape(blue.shape)
        expected = np.where(blue == 255, np.nan, tiny_model.depth_of_blue(blue))
        np.testing.assert_allclose(depth_m, expected, rtol=1e-4)


def test_byte_order_means_nothing_to_bytes(plain):
    for encoding in ("bgr8", "nv12"):
        image = rows_of(encoding, 32, 16)
        message = message_of(image, encoding, 32, 16, "big")
        np.testing.assert_array_equal(overlay_of(plain.ask(message, ("overlay",))), converted(image, TO_RGB[encoding]))


def raw(encoding, width, height, step, length):
    return Image(encoding=encoding, width=width, height=height, step=step, data=bytes(length))


MALFORMED = {
    "uyvy of odd width": (raw("uyvy", 31, 4, 62, 248), "needs an even width, but this one is 31x4"),
    "nv12 of odd height": (raw("nv12", 32, 5, 32, 240), "needs an even width and height, but this one is 32x5"),
    "nv12 without its colours": (raw("nv12", 32, 4, 32, 128), "data has 128 bytes, but step 32 x height 4 x 3/2 is 192"),
    "a mosaic of 2x2": (raw("bayer_rggb8", 2, 2, 2, 4), "needs at least 3x3 pixels, but this one is 2x2"),
    "a step of 8 bits for 16": (
        raw("rgb16", 10, 2, 30, 60),
        "step is 30 bytes, but a row of 10 rgb16 pixels needs at least 60",
    ),
    "a short mono16": (raw("mono16", 10, 2, 20, 39), "data has 39 bytes, but step 20 x height 2 is 40"),
    "channels without colours": (raw("8UC3", 10, 2, 30, 60), 'encoding "8UC3" is not supported (it says how many'),
    "a YUV that is not read": (raw("nv21", 10, 2, 10, 30), 'encoding "nv21" is not supported; publish one of mono8'),
}


def refused(peer, camera, message, good):
    """Sends good, malformed, good; returns the diagnostics' words of the refusal."""
    before = camera.ask(good, ("overlay", "timing"))["timing"]
    for sent in range(1, 6):
        stamp = camera.send(message)
        # The node keeps the newest image only: this one must have been taken before the next one comes.
        peer.spin_for(0.05)
        after = camera.ask(good, ("overlay", "timing"))["timing"]
        assert not camera.answers(stamp), "it was answered"
        if after.refused > before.refused:
            break
    assert 1 <= after.refused - before.refused <= sent, "the malformed image was not counted as refused"
    name = camera.prefix.rsplit("/", 1)[1]
    return peer.status(f"{name} input")[2]["Last refusal"]


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_image_between_good_ones_is_refused_with_its_reason(node, plain, what):
    message, reason = MALFORMED[what]
    good = message_of(rows_of("nv12", 32, 16), "nv12", 32, 16)
    assert reason in refused(node, plain, message, good)


# ---------------------------------------------------------------------------------------------------------------------


def scene(width=52, height=36):
    """Shades, an edge, some texture: what JPEG is made for. bgr."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    bgr = np.stack([40 + 150 * x / width, 60 + 120 * y / height + 12 * np.sin(x / 2.5), 120 + 80 * np.sin((x + y) / 17)], 2)
    bgr[(x - 20) ** 2 + (y - 18) ** 2 < 100] = (30, 40, 220)
    return np.clip(bgr, 0, 255).astype(np.uint8)


def file_of(extension, image, *options):
    ok, data = cv2.imencode(extension, image, list(options))
    assert ok
    return data.tobytes()


def compressed(image_format, data):
    message = CompressedImage(format=image_format, data=data)
    message.header.frame_id = "camera_left_optical_frame"
    return message


BGR = scene()
GREY = cv2.cvtColor(BGR, cv2.COLOR_BGR2GRAY)
WIDE = BGR.astype(np.uint16) * 257 + np.random.default_rng(5).integers(0, 255, BGR.shape, np.uint16)
ALPHA = np.random.default_rng(6).integers(0, 256, (*GREY.shape, 1), np.uint8)
RGB = cv2.cvtColor(BGR, cv2.COLOR_BGR2RGB)

PNGS = {
    "bgr8": ("bgr8; png compressed bgr8", BGR, RGB),
    "bgra8": ("bgra8; png compressed bgra8", np.dstack([BGR, ALPHA]), RGB),
    "mono8": ("mono8; png compressed mono8", GREY, cv2.cvtColor(GREY, cv2.COLOR_GRAY2RGB)),
    "mono16": ("mono16; png compressed mono16", WIDE[..., 1], cv2.cvtColor(eight(WIDE[..., 1]), cv2.COLOR_GRAY2RGB)),
    "bgr16": ("bgr16; png compressed bgr16", WIDE, eight(cv2.cvtColor(WIDE, cv2.COLOR_BGR2RGB))),
    "plain format": ("png", BGR, RGB),
    "mosaic": ("bayer_grbg8; png compressed ", GREY, cv2.cvtColor(GREY, BAYER["grbg"])),
}


@pytest.mark.parametrize("what", PNGS)
def test_a_png_is_exact(packed, what):
    image_format, image, expected = PNGS[what]
    message = compressed(image_format, file_of(".png", image))
    answers = packed.ask(message, ("overlay", "labels", "depth"))
    np.testing.assert_array_equal(overlay_of(answers), expected)
    for name in ("overlay", "labels", "depth"):
        assert answers[name].header == message.header
        assert answers[name].header.frame_id == "camera_left_optical_frame"


QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 90)
JPEGS = {
    "colour": ("rgb8; jpeg compressed bgr8", file_of(".jpg", BGR, *QUALITY)),
    "progressive": ("jpeg", file_of(".jpg", BGR, *QUALITY, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "odd size": ("jpeg", file_of(".jpg", BGR[:35, :51], *QUALITY)),
    "restarts": ("jpg", file_of(".jpg", BGR, *QUALITY, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    "grey": ("mono8; jpeg compressed ", file_of(".jpg", GREY, *QUALITY)),
}


@pytest.mark.parametrize("what", JPEGS)
def test_a_jpeg_is_what_another_decoder_makes_of_it(packed, what):
    image_format, data = JPEGS[what]
    message = compressed(image_format, data)
    answers = packed.ask(message, ("overlay", "labels", "depth"))
    expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    difference = np.abs(overlay_of(answers).astype(int) - expected)
    # Decoders differ in the rounding of the inverse transform and in how they interpolate colours.
    assert difference.max() <= 4 and difference.mean() < 0.5, (difference.max(), difference.mean())
    assert answers["overlay"].header == message.header


PNG, JPEG = file_of(".png", BGR), file_of(".jpg", BGR, *QUALITY)
DEPTH = bytes(12) + file_of(".png", WIDE[..., 0])
BAD_FILES = {
    "depth": (compressed("16UC1; compressedDepth png", DEPTH), "carries depth, but a colour or grey picture is expected"),
    "numbers": (compressed("16UC1; png compressed ", file_of(".png", WIDE[..., 0])), "carries 16UC1 values"),
    "half a JPEG": (compressed("jpeg", JPEG[: len(JPEG) // 2]), f"the JPEG ends after {len(JPEG) // 2} bytes"),
    "half a PNG": (compressed("png", PNG[: len(PNG) // 2]), f"the PNG ends after {len(PNG) // 2} bytes"),
    "the head of a PNG": (compressed("png", PNG[:20]), "the PNG ends after 20 bytes"),
    "a damaged PNG": (compressed("png", PNG[:60] + bytes(20) + PNG[80:]), "expected a whole PNG of 8 or 16 bits"),
    "no file": (compressed("jpeg", b""), "found no data"),
    "another file": (compressed("jpeg", b"GIF89a" + bytes(50)), "found 47 49 46 38"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_file_that_is_no_picture_is_refused_with_its_reason(node, packed, what):
    message, reason = BAD_FILES[what]
    assert reason in refused(node, packed, message, compressed("png", PNG))


def test_refusals_are_logged_with_their_camera(node):
    until(lambda: "camera packed" in node.under_test.log(), "a line of the refused file", step=node.spin)

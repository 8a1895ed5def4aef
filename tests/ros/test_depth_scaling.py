"""Metres by the camera's focal length: what depth is multiplied with, and what is said where that is not known."""

import json
import re
import subprocess
import time

import numpy as np
import pytest
import tiny_model
from conftest import ROOT, depth_of, encode, key, running
from PIL import Image as Picture
from sensor_msgs.msg import CameraInfo

OUTPUTS = ("labels", "depth", "camera_info", "timing")
WIDTH, HEIGHT = 128, 96
# All of the image on all of the network's input: network pixels a source pixel.
SX, SY = tiny_model.WIDTH / WIDTH, tiny_model.HEIGHT / HEIGHT


@pytest.fixture(scope="module")
def node(node_program, tiny, tmp_path_factory):
    """Camera `front` is given calibrations; nobody ever gives `bare` one."""
    parameters = {
        "input_reliability": "reliable",
        "diagnostics_rate_hz": 10.0,
        "depth_scaling_fallback": 0.75,
        "bare.output_size": "source",
    }
    folder = tmp_path_factory.mktemp("depth_scaling")
    with running(node_program, folder, tiny, OUTPUTS, ("front", "bare"), **parameters) as peer:
        yield peer


@pytest.fixture
def front(node):
    return node.cameras["front"]


def wall(width=WIDTH, height=HEIGHT, blue=130):
    """A picture of one depth."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 2] = blue
    return encode(rgb, "rgb8")


NETWORK_M = tiny_model.depth_of_blue(130)


def calibration(fx, fy=None, width=WIDTH, height=HEIGHT, rectified_f=None):
    fy = fx if fy is None else fy
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [fx, 0.0, width / 2, 0.0, fy, height / 2, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    f = rectified_f or fx
    info.p = [f, 0.0, width / 2, 0.0, 0.0, f, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def factor_of(answers):
    """What the depth was multiplied with; the same everywhere."""
    ratio = depth_of(answers["depth"]) / NETWORK_M
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-6)
    return float(ratio.mean())


def expected_factor(fx, fy, sx=SX, sy=SY):
    return np.sqrt(fx * sx * fy * sy) / tiny_model.FOCAL_PX


def input_status(node, camera, wanted):
    """The first status of the camera's input, of those that come from now on, that says `wanted`."""

    def told():
        level, message, values = node.status(f"{camera} input")
        return (level, message, values) if wanted in message + str(values) else None

    return node.until(told, f"a status of {camera} with {wanted!r}", 10)


def test_depth_is_scaled_by_the_ratio_of_the_focal_lengths(node, front):
    factors = {}
    for fx, fy in ((100.0, 100.0), (250.0, 250.0), (120.0, 180.0)):
        factors[fx] = factor_of(front.ask_calibrated(wall(), calibration(fx, fy)))
        np.testing.assert_allclose(factors[fx], expected_factor(fx, fy), rtol=1e-5)
    np.testing.assert_allclose(factors[250.0] / factors[100.0], 2.5, rtol=1e-6)
    level, _, values = input_status(node, "front", "camera_info")
    assert level == b"\x00", "a calibrated camera is nothing to warn of"
    assert values["Depth factor"] == f"{expected_factor(120, 180):.4f} (camera_info)"
    assert values["Calibration"] == "ok"


def test_the_focal_length_is_taken_after_resizing(node, front):
    """What counts is how large the network sees things: a crop shows them larger than a stretch."""
    try:
        for mode, roi, (sx, sy) in (
            ("crop", None, (64 / 128, 32 / 64)),
            ("letterbox", None, (43 / 128, 32 / 96)),
            ("roi", [10, 20, 64, 40], (1.0, 32 / 40)),
        ):
            if roi:
                node.change("front.roi", roi)
            node.change("front.resize_mode", mode)
            answers = front.ask_calibrated(wall(), calibration(200.0))
            seen = depth_of(answers["depth"])
            np.testing.assert_allclose(np.nanmedian(seen) / NETWORK_M, expected_factor(200, 200, sx, sy), rtol=1e-5)
        # How large the output is does not matter.
        node.change("front.resize_mode", "stretch")
        for size in ("network", "40x30"):
            node.change("front.output_size", size)
            factor = factor_of(front.ask_calibrated(wall(), calibration(200.0)))
            np.testing.assert_allclose(factor, expected_factor(200, 200), rtol=1e-5)
    finally:
        node.change("front.resize_mode", "stretch")
        node.change("front.output_size", "source")


def test_a_region_and_binning_of_the_sensor_count(front):
    """The picture is every second pixel of 256x192 ones of a sensor of 400x300: half the focal length in its pixels."""
    info = calibration(300.0, width=400, height=300)
    info.binning_x = info.binning_y = 2
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 40, 24, 256, 192
    np.testing.assert_allclose(factor_of(front.ask_calibrated(wall(), info)), expected_factor(150, 150), rtol=1e-5)


def test_the_factor_can_be_set_while_frames_come(node, front):
    info = calibration(200.0)
    try:
        for value, expected in (("none", 1.0), ("2.5", 2.5), (0.5, 0.5), (3, 3.0)):
            node.change("front.depth_scaling", value)
            np.testing.assert_allclose(factor_of(front.ask_calibrated(wall(), info)), expected, rtol=1e-5)
            level, _, values = input_status(node, "front", f"{expected:.4f} (depth_scaling)")
            assert level == b"\x00"
        for value in ("camera", "-1", 0.0, "nan", "inf"):
            (result,) = node.set_parameters({"front.depth_scaling": value})
            assert not result.successful and "camera_info, none, or a factor from 0.001 to 1000" in result.reason, value
        np.testing.assert_allclose(factor_of(front.ask_calibrated(wall(), info)), 3.0, rtol=1e-5)
    finally:
        node.change("front.depth_scaling", "camera_info")
    np.testing.assert_allclose(factor_of(front.ask_calibrated(wall(), info)), expected_factor(200, 200), rtol=1e-5)


def test_a_rectified_image_is_scaled_by_p(node, front):
    info = calibration(200.0, rectified_f=170.0)
    np.testing.assert_allclose(factor_of(front.ask_calibrated(wall(), info)), expected_factor(200, 200), rtol=1e-5)
    try:
        node.change("front.input_rectified", True)
        np.testing.assert_allclose(factor_of(front.ask_calibrated(wall(), info)), expected_factor(170, 170), rtol=1e-5)
    finally:
        node.change("front.input_rectified", False)


def test_without_a_calibration_the_fallback_is_taken_and_said(node):
    bare = node.cameras["bare"]
    answers = bare.ask(wall(), ("labels", "depth"))
    np.testing.assert_allclose(factor_of(answers), 0.75, rtol=1e-5)
    assert not bare.outputs["camera_info"].messages, "there is no calibration to publish"
    level, message, values = input_status(node, "bare", "depth_scaling_fallback")
    assert level == b"\x01" and "no camera_info has arrived" in message
    assert values["Depth factor"].startswith("0.7500 (depth_scaling_fallback")
    node.change("bare.depth_scaling_fallback", 1.25)
    np.testing.assert_allclose(factor_of(bare.ask(wall(), ("labels", "depth"))), 1.25, rtol=1e-5)
    # Whoever wants no scaling is not warned.
    node.change("bare.depth_scaling", "none")
    np.testing.assert_allclose(factor_of(bare.ask(wall(), ("labels", "depth"))), 1.0, rtol=1e-5)
    level, message, _ = input_status(node, "bare", "1.0000 (depth_scaling)")
    assert level == b"\x00", message


UNUSABLE = {
    "K of zeros": (calibration(0.0), "the focal lengths in K are 0 and 0"),
    "K without fy": (calibration(200.0, 0.0), "the focal lengths in K are 200 and 0"),
    "K that is not a number": (calibration(float("nan")), "the focal lengths in K are NaN and NaN"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_an_unusable_calibration_is_said_and_the_fallback_taken(node, front, what):
    info, reason = UNUSABLE[what]
    answers = front.ask_calibrated(wall(), info)
    np.testing.assert_allclose(factor_of(answers), 0.75, rtol=1e-5)
    level, message, values = input_status(node, "front", reason)
    assert level == b"\x01" and "depth is scaled by depth_scaling_fallback" in message
    assert reason in values["Calibration"]
    # And a good one heals it.
    factor = factor_of(front.ask_calibrated(wall(), calibration(100.0)))
    np.testing.assert_allclose(factor, expected_factor(100, 100), rtol=1e-5)
    assert input_status(node, "front", "(camera_info)")[0] == b"\x00"


def test_the_first_image_of_a_size_waits_for_the_calibration_behind_it(start_node, connect):
    """As image_transport's camera publisher sends them. The latest calibration serves all further images."""
    peer = connect(start_node(input_reliability="reliable", depth_scaling_fallback=0.75), OUTPUTS)
    peer.until(lambda: peer.infos.get_subscription_count() > 0, "the node's subscription to camera_info")
    seen = []
    for width in (128, 132, 136, 140, 144, 148):
        message, info = wall(width), calibration(100.0, width=width)
        message.header.stamp = info.header.stamp = peer.stamp()
        peer.images.publish(message)
        begun = time.monotonic()
        time.sleep(0.003)
        peer.infos.publish(info)
        took_s = time.monotonic() - begun
        stamp = key(message.header)
        peer.until(lambda: all(name in peer.answers(stamp) for name in ("depth", "timing")), "an answer")
        # Longer than it waits, where the machine is busy.
        if took_s < 0.01:
            factor = factor_of(peer.answers(stamp))
            np.testing.assert_allclose(factor, expected_factor(100, 100, tiny_model.WIDTH / width), rtol=1e-5)
            seen.append(width)
    assert len(seen) >= 2, "the first size and another one"


def test_no_image_waits_for_ever(start_node, connect):
    """Somebody could publish calibrations and does not: three images wait, in vain, and no other one."""
    peer = connect(start_node(input_reliability="reliable", depth_scaling_fallback=0.75), OUTPUTS)
    answers = [peer.ask(wall(), ("depth", "timing")) for _ in range(9)]
    waits_ms = [a["timing"].wait_ns / 1e6 for a in answers]
    assert all(np.isclose(factor_of(a), 0.75) for a in answers)
    # 20 ms, less the time until it waits.
    assert min(waits_ms[:3]) > 19 > min(waits_ms[3:]), waits_ms
    assert answers[-1]["timing"].dropped == 0


def test_a_rectified_image_without_p_is_said(node, front):
    info = calibration(200.0)
    info.p = [0.0] * 12
    try:
        node.change("front.input_rectified", True)
        np.testing.assert_allclose(factor_of(front.ask_calibrated(wall(), info)), 0.75, rtol=1e-5)
        assert input_status(node, "front", "the focal lengths in P are 0 and 0")[0] == b"\x01"
    finally:
        node.change("front.input_rectified", False)


def test_a_calibration_of_another_size_is_said_and_not_published(node, front):
    """Its K is in pixels of other images, and nothing in a message would say so."""
    front.ask_calibrated(wall(), calibration(100.0))
    info = calibration(200.0, width=640, height=480)

    def by_the_fallback():
        answers = front.ask(wall(), ("labels", "depth"), info)
        # The calibration may come after its image, which is then answered by the one before.
        return answers if np.isclose(factor_of(answers), 0.75, rtol=1e-5) else None

    answers = node.until(by_the_fallback, "an answer by the fallback", 20)
    level, message, values = input_status(node, "front", "640x480")
    assert level == b"\x01" and "depth is scaled by depth_scaling_fallback" in message
    assert "640x480" in values["Calibration"]
    # It would have come long since.
    assert "camera_info" not in front.answers(key(answers["labels"].header))
    node.under_test.says("camera_info is not published")
    factor = factor_of(front.ask_calibrated(wall(), calibration(100.0)))
    np.testing.assert_allclose(factor, expected_factor(100, 100), rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, network", [("street", "512x256"), ("street_refined", "768x384")])
def test_depth_of_a_rendered_street_is_about_right(node_program, tool_program, model, tmp_path, name, network):
    """Frames that training never saw, in their own metres; the model card's figure is the mean over 64 of them.

    By the camera of the training, by one of 0.75 and by one of 1.5 times its focal length.
    """
    size = (1024, 512)

    def street(focal_px):
        """A picture, its depth in metres and its calibration."""
        folder = tmp_path / f"street{focal_px}"
        command = [tool_program, "render", "--out", folder, "--seed", "1", "--splits", "test=1", "--frames", "1"]
        command += ["--size", f"{size[0]}x{size[1]}", "--no-stereo", "--focal", str(focal_px)]
        subprocess.run([str(part) for part in command], check=True, timeout=60)

        def only(pattern):
            (path,) = folder.rglob(pattern)
            return path

        k = json.loads(only("*_camera.json").read_text())["intrinsic"]
        assert abs(k["fx"] - focal_px) < 1
        info = calibration(k["fx"], k["fy"], *size)
        info.k[2], info.k[5] = k["u0"], k["v0"]
        return np.asarray(Picture.open(only("*_leftImg8bit.png")).convert("RGB")), np.load(only("*_depth.npy")), info

    card = (ROOT / "models" / name / "README.md").read_text()
    stated = float(re.search(rf"^\| {network} \|[^|]*\|[^|]*\| ([0-9.]+) \|", card, re.MULTILINE)[1])
    parameters = {"input_reliability": "reliable"}
    # The models are installed beside each other.
    model = model if name == "street" else model.parents[1] / name / "model.yaml"
    with running(node_program, tmp_path / "node", model, OUTPUTS, **parameters) as peer:
        for focal_px in (1131, 848, 1697):
            rgb, truth_m, info = street(focal_px)
            answers = peer.ask_calibrated(encode(rgb, "rgb8"), info)
            found_m = depth_of(answers["depth"])
            known = np.isfinite(truth_m) & (truth_m > 0) & (truth_m < 80)
            abs_rel = np.mean(np.abs(found_m - truth_m)[known] / truth_m[known])
            assert abs_rel < 2 * stated, f"{focal_px} px: AbsRel {abs_rel:.3f}; the card says {stated} on average"
            # It is the scale that is right, not only the shape: without it, by the pixels' ratio alone, it would differ.
            scale = np.median(found_m[known] / truth_m[known])
            assert 0.8 < scale < 1.25, f"{focal_px} px: {scale}"

"""Every encoding, any valid step, odd sizes; what is malformed is refused, and the node goes on."""

import time

import numpy as np
import pytest
from conftest import depth_of, encode, labels_of, picture, pixels, until
from sensor_msgs.msg import Image


def same(a, b):
    np.testing.assert_array_equal(labels_of(a["labels"]), labels_of(b["labels"]))
    # The same bytes reach the network; only its own summation order may differ between runs.
    np.testing.assert_allclose(depth_of(a["depth"]), depth_of(b["depth"]), rtol=1e-5)


@pytest.fixture(scope="module")
def reference(shared):
    return shared.ask(encode(pixels(320, 160), "rgb8"))


@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_encodings_and_padding_do_not_matter(shared, reference, encoding, padding):
    answers = shared.ask(encode(pixels(320, 160), encoding, padding))
    same(answers, reference)
    assert answers["overlay"].data == reference["overlay"].data


@pytest.mark.parametrize("padding", [0, 5])
def test_mono8_is_grey(shared, padding):
    grey = np.repeat(pixels(200, 100)[..., :1], 3, axis=2)
    same(shared.ask(encode(grey, "mono8", padding)), shared.ask(encode(grey, "rgb8")))


def test_another_picture_has_another_answer(shared, reference):
    """What the comparisons above rest on: the answer depends on the pixels."""
    other = shared.ask(encode(255 - pixels(320, 160), "rgb8"))
    assert (depth_of(other["depth"]) != depth_of(reference["depth"])).mean() > 0.5


def test_red_and_blue_are_told_apart(shared, reference):
    swapped = shared.ask(encode(pixels(320, 160)[..., ::-1], "rgb8"))
    assert (depth_of(swapped["depth"]) != depth_of(reference["depth"])).mean() > 0.5


SIZES = [(1, 1), (2, 1), (1, 333), (7, 5), (33, 31), (641, 481), (4096, 3), (3, 4096), (1024, 512)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_any_size_is_answered_at_its_own_size(shared, width, height):
    message = picture(width, height)
    answers = shared.ask(message)
    for name in ("labels", "depth", "overlay"):
        answer = answers[name]
        assert answer.header == message.header, f"{name}: another header"
        assert (answer.width, answer.height) == (width, height), name
    labels, depth_m = labels_of(answers["labels"]), depth_of(answers["depth"])
    assert set(np.unique(labels)) <= {*range(19), 255}
    known = depth_m[~np.isnan(depth_m)]
    assert np.isfinite(known).all() and (known >= 0).all() and (known <= 250).all()
    assert known.size > 0, "no depth at all"
    overlay = answers["overlay"]
    assert overlay.encoding == "rgb8" and overlay.step == 3 * width and len(overlay.data) == 3 * width * height


def broken(**changes):
    message = picture(40, 20)
    for field, value in changes.items():
        setattr(message, field, value)
    return message


BROKEN = {
    "data one byte short": broken(data=bytes(40 * 20 * 3 - 1)),
    "data one byte long": broken(data=bytes(40 * 20 * 3 + 1)),
    "no data": broken(data=b""),
    "step under a row": broken(step=119, data=bytes(119 * 20)),
    "step zero": broken(step=0),
    "zero width": broken(width=0),
    "zero height": broken(height=0),
    "zero size": Image(encoding="rgb8"),
    "unknown encoding": broken(encoding="yuv_of_mars"),
    "no encoding": broken(encoding=""),
    "more than memory": broken(width=2**32 - 1, height=2**32 - 1, step=2**32 - 1),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_malformed_image_is_refused_and_the_node_goes_on(shared, what):
    before = shared.ask(picture(16, 16))["timing"]
    message = BROKEN[what]
    stamps = set()
    after = before
    # The way to the node is best effort, and on a busy machine the picture that is asked next takes its place before it was
    # looked at: send it until it was counted, with more time each time.
    for attempt in range(8):
        message.header.stamp = shared.stamp()
        stamps.add((message.header.stamp.sec, message.header.stamp.nanosec))
        shared.images.publish(message)
        time.sleep(0.1 * attempt)
        after = shared.ask(picture(16, 16))["timing"]
        if after.refused > before.refused:
            break
    assert before.refused < after.refused <= before.refused + len(stamps), what
    for stamp in stamps:
        assert not shared.answers(stamp), f"{what}: it was answered"


def test_refusals_are_in_the_diagnostics(shared):
    def told():
        words = [f"{s.message} " + " ".join(f"{v.key}={v.value}" for v in s.values) for s in shared.statuses().values()]
        return any("yuv_of_mars" in text for text in words) or None

    message = broken(encoding="yuv_of_mars")

    def send():
        message.header.stamp = shared.stamp()
        shared.images.publish(message)
        shared.spin_for(0.3)

    until(told, "a diagnostic that names the encoding", step=send)


def test_refusals_are_in_the_log_but_do_not_flood_it(shared):
    def logged():
        return shared.under_test.log().count("yuv_of_mars")

    before, message = logged(), broken(encoding="yuv_of_mars")
    refused = shared.ask(picture(16, 16))["timing"].refused

    def send():
        message.header.stamp = shared.stamp()
        shared.images.publish(message)
        shared.spin(0.01)

    # Refusals of the tests before this one may have taken the line of this period: it comes with the next.
    until(lambda: logged() > before, "a line in the log", step=send)
    for _ in range(50):
        send()
    after = shared.ask(picture(16, 16))["timing"].refused
    assert after - refused >= 10, "too few arrived for this test to say anything"
    assert logged() - before < (after - refused) / 2, "one line an image"

"""`/diagnostics`: the table of statuses and keys, levels and their thresholds, counts, rates, ages, simulated time.

One node, with the small model, serves most tests: it reports ten times a second over a window of two seconds, so that a
level comes and goes quickly. Its images carry a calibration, so that nothing is wrong with it unless a test makes it so.
"""

import contextlib
import math
import re
import signal
import time

import numpy as np
import pytest
import tiny_model
from builtin_interfaces.msg import Time
from conftest import NAME, TYPES, Peer, encode, key, picture, qos, running
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from test_lifecycle import loops_on_white

pytestmark = pytest.mark.alone
OK, WARN, ERROR, STALE = b"\x00", b"\x01", b"\x02", b"\x03"
WINDOW_S, STALE_AFTER_S = 2.0, 1.0
QUICK = {"diagnostics_rate_hz": 10.0, "diagnostics_window_s": WINDOW_S, "stale_after_s": STALE_AFTER_S}
COUNTS = ("answered", "dropped", "refused", "skipped")
STAGES = ("receive", "wait", "decode", "infer", "labels", "depth", "confidence", "overlay", "mask", "points", "compress")
STAGES += ("postprocess", "publish", "total")
# The status of all cameras together, where there are several.
ALL = "all cameras"


def calibration(focal_px=50.0):
    info = CameraInfo(width=64, height=32, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [focal_px, 0.0, 32.0, 0.0, focal_px, 16.0, 0.0, 0.0, 1.0]
    info.p = [focal_px, 0.0, 32.0, 0.0, 0.0, focal_px, 16.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


class Feed:
    """A camera that goes on sending while the test waits for something."""

    def __init__(self, peer, info=None, period_s=0.05, uncalibrated=False):
        self.peer, self.period_s = peer, period_s
        self.info = None if uncalibrated else info or calibration()
        self.image = picture(64, 32)
        self.due = 0.0
        self.sent = []
        # Sent now and then beside the others: the way to the node is best effort, so one alone may be lost.
        self.odd = None

    def step(self):
        now = time.monotonic()
        if now >= self.due:
            # A late sender does not catch up: what counts is what was sent.
            self.due = max(self.due + self.period_s, now)
            self.peer.send(self.image, self.info)
            self.sent.append(now)
            if self.odd and len(self.sent) % 4 == 0:
                self.peer.spin(0.02)
                self.odd()
        self.peer.spin(0.005)

    def go_on(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def until(self, subtask, level, words="", **expected):
        """Goes on until a status has this level, says these words, and has values that begin so.

        Returns its message and values.
        """
        self.peer.diagnostics.clear()
        asked_ns = self.peer.node.get_clock().now().nanoseconds
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            self.step()
            last = self.peer.status_since(asked_ns, subtask)
            if last and last.level == level and words in last.message:
                values = values_of(last)
                if all(key in values and values[key].startswith(value) for key, value in expected.items()):
                    return last.message, values
        found = last and (last.level, last.message)
        pytest.fail(f"{subtask}: {level} with `{words}` {expected} did not come; the last was {found}")


@pytest.fixture(scope="module")
def peer(node_program, tiny, tmp_path_factory):
    with running(node_program, tmp_path_factory.mktemp("node"), tiny, outputs=("labels", "timing"), **QUICK) as peer:
        yield peer


@pytest.fixture
def feed(peer):
    """A feed of a node that is well, and is well again at the end."""
    feed = Feed(peer)
    feed.until("input", OK)
    feed.until("timing", OK)
    return feed


@pytest.fixture(scope="module")
def table(interface):
    """Keys by status, as the tool prints them."""
    statuses = interface["diagnostics"]
    names = [s["status"].removeprefix("NODE: ").removeprefix("[CAMERA ]") for s in statuses]
    keys = dict(zip(names, [[k["key"] for k in s["keys"]] for s in statuses]))
    return {name: {k.replace("STAGE", s) for k in ks for s in (STAGES if "STAGE" in k else [""])} for name, ks in keys.items()}


def values_of(status):
    return {v.key: v.value for v in status.values}


def test_the_last_image_is_told_of_though_nobody_listens(node_program, tiny, tmp_path):
    with running(node_program, tmp_path, tiny, outputs=(), **QUICK) as peer:
        feed = Feed(peer)
        feed.until("input", OK, Image="64x32 rgb8", Calibration="ok")
        # Of another size than the calibration.
        feed.image = picture(32, 16)
        feed.until("input", WARN, "depth is scaled by", Image="32x16 rgb8", Calibration="depth_scaling_fallback")


def test_before_the_first_image_nothing_is_made_up(peer, table):
    level, message, values = peer.status("input")
    assert level == STALE and message == "no image has arrived yet"
    assert int(values["Frames received"]) == 0 and float(values["Actual frequency (Hz)"]) == 0.0
    for absent in ("Latest timestamp delay:", "Image age p50 (ms)", "Time since last image (s)", "Last refusal", "Image"):
        assert absent not in values
    level, message, values = peer.status("timing")
    assert level == OK and message.startswith("no frame was answered") and values == {}


def test_every_status_and_key_of_the_table_and_no_other(peer, table, feed):
    broken = picture(64, 32)
    broken.encoding = "of_mars"
    feed.odd = lambda: peer.send(broken)
    feed.until("input", WARN, "images are refused")
    feed.odd = None
    others = [output for output in TYPES if output not in peer.outputs]
    for output in others:
        peer.listen(output)
    peer.until(lambda: feed.step() or all(peer.outputs[o].messages for o in others), "all outputs")
    feed.go_on(1.0)
    seen = {}
    for _, array in peer.diagnostics:
        for status in array.status:
            assert status.name.startswith("semantic_depth: ") and status.hardware_id == "cpu"
            pairs = [v.key for v in status.values]
            assert len(pairs) == len(set(pairs)), f"{status.name} has a key twice"
            assert all(v.value for v in status.values), f"{status.name}: a key without a value"
            seen.setdefault(status.name.removeprefix("semantic_depth: "), set()).update(pairs)
    assert list(seen) == [name for name in table if name != ALL], "statuses, in this order"
    for subtask in ("input", "timing", "model"):
        assert seen[subtask] == table[subtask], subtask
    for output in others:
        peer.deaf_to(output)
    # Of the device, what is there on every machine; the rest where the hardware tells.
    assert seen["device"] <= table["device"]
    assert {"Device", "Process memory (MiB)", "Process threads", "Process CPU (% of one core)"} <= seen["device"]
    assert not [k for k in seen["device"] if k.startswith("GPU")], "the network runs on the processor"


def test_what_is_said_of_model_and_process(peer, feed, tiny):
    import yaml

    manifest = yaml.safe_load(tiny.read_text())
    _, _, values = peer.status("model")
    assert values["State"] == "active" and values["Name"] == manifest["name"] and values["Device"] == "cpu"
    assert values["sha256"] in manifest["files"].values() and values["Precision"] == "fp32"
    assert values["Input"] == f"{manifest['input']['width']}x{manifest['input']['height']}"
    _, _, values = peer.status("device")
    status = dict(
        line.split(":", 1) for line in open(f"/proc/{peer.under_test.process.pid}/status", encoding="utf8")
    )
    resident_mib = int(status["VmRSS"].split()[0]) / 1024
    assert float(values["Process memory (MiB)"]) == pytest.approx(resident_mib, rel=0.2)
    assert abs(int(values["Process threads"]) - int(status["Threads"])) <= 2


def test_rates_are_right_and_percentiles_in_order(peer, feed):
    feed.go_on(WINDOW_S + 0.5)
    peer.diagnostics.clear()
    feed.until("input", OK)
    now = time.monotonic()
    values = values_of(peer.statuses()["semantic_depth: input"])
    sent_hz = sum(now - WINDOW_S < at for at in feed.sent) / WINDOW_S
    assert float(values["Duration of window (s)"]) == pytest.approx(WINDOW_S, abs=0.01)
    assert float(values["Actual frequency (Hz)"]) == pytest.approx(sent_hz, rel=0.2)
    assert int(values["Events in window"]) == pytest.approx(
        float(values["Actual frequency (Hz)"]) * float(values["Duration of window (s)"]), abs=0.6
    )
    assert int(values["Events since startup"]) == int(values["Frames received"])
    ratio, answered_hz = float(values["Drop ratio in window"]), float(values["Output frequency (Hz)"])
    assert answered_hz == pytest.approx(sent_hz * (1 - ratio), rel=0.2)
    assert values["Image"] == "64x32 rgb8" and values["Publisher QoS"] == "ok" and values["Calibration"] == "ok"
    delays = [float(values[f"{which} timestamp delay:"]) for which in ("Earliest", "Latest")]
    assert 0 <= delays[0] <= delays[1] < 5
    ages = [float(values[f"Image age {p} (ms)"]) for p in ("p50", "p95", "p99", "max")]
    assert ages == sorted(ages) and 0 < ages[0] < 5000
    timing = values_of(peer.statuses()["semantic_depth: timing"])
    for stage in ("receive", "wait", "decode", "infer", "labels", "postprocess", "publish", "total"):
        of_stage = [float(timing[f"{stage} {p} (ms)"]) for p in ("p50", "p95", "p99", "max")]
        assert of_stage == sorted(of_stage), stage
    # The newest of the window bound what the percentiles can be.
    recent = [t.infer_ns / 1e6 for t in peer.outputs["timing"].messages[-200:]]
    assert min(recent) - 0.001 <= float(timing["infer p50 (ms)"]) <= max(recent) + 0.001
    assert float(timing["total max (ms)"]) <= max(t.total_ns for t in peer.outputs["timing"].messages) / 1e6 + 0.001


def test_the_report_rate_changes_at_once(peer):
    def period_s(rate_hz, count):
        peer.change("diagnostics_rate_hz", rate_hz)
        peer.spin_for(0.3)
        peer.diagnostics.clear()
        peer.until(lambda: len(peer.diagnostics) > count, f"{count} reports", 8)
        stamps = [m.header.stamp.sec + m.header.stamp.nanosec / 1e9 for _, m in peer.diagnostics]
        return (stamps[-1] - stamps[0]) / (len(stamps) - 1)

    try:
        assert period_s(2.0, 4) == pytest.approx(0.5, rel=0.3)
        peer.change("diagnostics_rate_hz", 0.1)
        peer.spin_for(0.5)
        # Ten seconds away is the next report now, but for this.
        assert period_s(5.0, 5) == pytest.approx(0.2, rel=0.3)
    finally:
        peer.change("diagnostics_rate_hz", QUICK["diagnostics_rate_hz"])


def test_a_silent_camera_is_stale(peer, feed):
    start = time.monotonic()
    peer.diagnostics.clear()
    peer.until(
        lambda: peer.statuses().get("semantic_depth: input") and peer.statuses()["semantic_depth: input"].level == STALE,
        "STALE",
    )
    assert time.monotonic() - start > STALE_AFTER_S - 0.2
    level, message, values = peer.status("input")
    assert level == STALE and message.startswith("no image for ")
    assert float(values["Time since last image (s)"]) > STALE_AFTER_S
    # What stale means can change while it runs.
    peer.change("stale_after_s", 1000.0)
    try:
        peer.spin_for(0.2)
        assert peer.status("input")[0] != STALE
    finally:
        peer.change("stale_after_s", STALE_AFTER_S)
    feed.until("input", OK)


def test_all_cameras_together(start_node, connect, table):
    names = ("front", "left", "silent")
    node = start_node(cameras=list(names), input_reliability="reliable", **QUICK)
    peer = connect(node, ("labels", "timing"), names)

    def report(condition, what):
        """The values by status, and the levels, of the first report that fits."""
        peer.diagnostics.clear()
        due = 0.0

        def fits():
            nonlocal due
            # Not as fast as they are answered: nothing but answers would be read then.
            if time.monotonic() >= due:
                due = time.monotonic() + 0.05
                for name in names[:2]:
                    peer.cameras[name].send(picture(64, 32), calibration())
            peer.spin(0.05)
            for _, array in peer.diagnostics:
                found = {s.name.removeprefix("semantic_depth: "): s for s in array.status}
                values, levels = {n: values_of(s) for n, s in found.items()}, {n: s.level for n, s in found.items()}
                if ALL in found and condition(values, levels):
                    return values, levels, found[ALL].message
            return None

        return peer.until(fits, what, 20)

    def at_work(values, levels):
        # The first frames may have been answered slowly, and without a calibration.
        each = [levels[f"{name} {what}"] for name in names[:2] for what in ("input", "timing")]
        answered = all("Image age p50 (ms)" in values[f"{name} input"] for name in names[:2])
        return each == [OK] * 4 and answered and float(values[ALL]["Output frequency (Hz)"]) > 0

    values, levels, message = report(at_work, "two cameras at work beside a silent one")
    assert list(levels) == [*(f"{n} {what}" for n in names for what in ("input", "timing")), ALL, "model", "device"]
    every = values[ALL]
    assert levels[ALL] == levels["silent input"] == STALE and message == "silent is STALE"
    assert (every["Cameras"], every["Cameras stale"], every["Cameras with a QoS problem"]) == ("3", "1", "0")
    for count in ("received", "throttled", *COUNTS):
        assert int(every[f"Frames {count}"]) == sum(int(values[f"{n} input"][f"Frames {count}"]) for n in names), count
    for rate in ("Actual frequency (Hz)", "Output frequency (Hz)"):
        total_hz = sum(float(values[f"{n} input"][rate]) for n in names)
        assert float(every[rate]) == pytest.approx(total_hz, abs=0.01) and total_hz > 0, rate
    assert 0 <= float(every["Drop ratio in window"]) <= 1
    heard = [values[f"{n} input"] for n in names[:2]]
    for percentile in ("p50", "p95", "p99", "max"):
        ages = [float(v[f"Image age {percentile} (ms)"]) for v in heard]
        assert min(ages) <= float(every[f"Image age {percentile} (ms)"]) <= max(ages), percentile
        if percentile != "max":
            assert float(every[f"Worst camera's image age {percentile} (ms)"]) == max(ages)
        infer = [float(values[f"{n} timing"][f"infer {percentile} (ms)"]) for n in names[:2]]
        assert min(infer) <= float(every[f"infer {percentile} (ms)"]) <= max(infer), percentile
    pictures = ("confidence", "overlay", "mask", "points", "compress", "depth")
    unused = {f"{stage} {percentile} (ms)" for stage in pictures for percentile in ("p50", "p95", "p99", "max")}
    assert set(every) == table[ALL] - unused
    # A publisher that cannot be heard is the reason for the silence.
    peer.node.create_publisher(Image, f"{NAME}/silent/input/image", qos("best effort"))
    values, levels, message = report(
        lambda *found: at_work(*found) and found[0][ALL]["Cameras with a QoS problem"] == "1", "the problem"
    )
    assert levels[ALL] == levels["silent input"] == ERROR and message == "silent is ERROR"
    assert values[ALL]["Cameras stale"] == "0"


@pytest.mark.parametrize("what", ["age", "decode", "infer", "postprocess", "publish", "total"])
def test_time_beyond_a_threshold(peer, feed, what):
    names = [f"thresholds.{what}_{severity}_ms" for severity in ("warn", "error")]
    before = (1000.0, 5000.0) if what == "age" else (0.0, 0.0)
    words = "median age" if what == "age" else f"{what} p95"
    peer.change(names[0], 0.001)
    message, _ = feed.until("timing", WARN, words)
    assert "is above 0.0 ms" in message
    peer.change(names[1], 0.001)
    feed.until("timing", ERROR, words)
    peer.change(names[1], before[1])
    feed.until("timing", WARN, words)
    peer.change(names[0], before[0])
    feed.until("timing", OK)


def test_a_rate_below_a_threshold(peer, feed):
    peer.change("thresholds.rate_warn_hz", 500.0)
    _, values = feed.until("input", WARN, "rate")
    assert float(values["Minimum acceptable frequency (Hz)"]) == 500.0
    peer.change("thresholds.rate_error_hz", 500.0)
    message, _ = feed.until("input", ERROR, "rate")
    assert "is below 500.0 Hz" in message
    peer.change("thresholds.rate_error_hz", 0.0)
    peer.change("thresholds.rate_warn_hz", 0.0)
    feed.until("input", OK)


def test_a_rate_of_answers_below_a_threshold(peer, feed):
    peer.change("thresholds.output_rate_error_hz", 500.0)
    message, _ = feed.until("input", ERROR, "rate of answers")
    assert "is below 500.0 Hz" in message
    peer.change("thresholds.output_rate_error_hz", 0.0)
    feed.until("input", OK)


def test_throttled_frames_are_counted_and_nothing_to_warn_of(peer, feed):
    try:
        peer.change("thresholds.drop_ratio_warn", 0.5)
        start = time.monotonic()
        peer.change("max_rate_hz", 4.0)
        before = {c: int(peer.status("input")[2][f"Frames {c}"]) for c in ("received", "throttled", *COUNTS)}
        feed.go_on(WINDOW_S + 0.5)
        _, values = feed.until("input", OK)
        took_s = time.monotonic() - start
        counts = {c: int(values[f"Frames {c}"]) - before[c] for c in before}
        # Four of five; a slow machine may drop some of the others as well.
        assert 0 < counts["throttled"] <= counts["dropped"] and float(values["Drop ratio in window"]) <= 0.5, values
        # At either report, one may wait and one be computed.
        assert abs(counts["received"] - sum(counts[c] for c in COUNTS)) <= 2, counts
        # The others came at the rate, each early by a tenth of the period at most.
        assert counts["received"] - counts["throttled"] <= 4.0 * 1.1 * took_s + 2, (counts, took_s)
        assert float(values["Maximum acceptable frequency (Hz)"]) == 4.0
        # A slow machine answers fewer.
        assert 0 < float(values["Output frequency (Hz)"]) < 4.0 * 1.3
        # A higher rate counts at once, not when the old one's turn has come.
        peer.change("max_rate_hz", 0.01)
        feed.go_on(0.3)
        peer.change("max_rate_hz", 1000.0)
        answered = len(peer.outputs["timing"].messages)
        peer.until(lambda: feed.step() or len(peer.outputs["timing"].messages) > answered + 3, "answers", 10)
    finally:
        peer.change("max_rate_hz", 0.0)
        peer.change("thresholds.drop_ratio_warn", 1.0)
    _, values = feed.until("input", OK)
    assert math.isinf(float(values["Maximum acceptable frequency (Hz)"]))


def test_a_share_of_dropped_frames_above_a_threshold(peer, feed):
    feed.image, feed.period_s = picture(512, 256), 0.0
    try:
        peer.change("thresholds.drop_ratio_warn", 0.01)
        feed.until("input", WARN, "share of dropped frames")
        peer.change("thresholds.drop_ratio_error", 0.01)
        feed.until("input", ERROR, "share of dropped frames")
    finally:
        feed.image, feed.period_s = picture(64, 32), 0.05
        peer.change("thresholds.drop_ratio_error", 1.0)
        peer.change("thresholds.drop_ratio_warn", 1.0)
    feed.until("input", OK)


def test_overload_drops_and_the_counts_add_up(peer, feed):
    before = {c: int(peer.status("input")[2][f"Frames {c}"]) for c in ("received", *COUNTS)}
    large = picture(512, 256)
    sent = 0
    end = time.monotonic() + 2
    while time.monotonic() < end:
        peer.send(large, calibration())
        sent += 1
        peer.spin(0.002)

    def done():
        _, _, values = peer.status("input")
        counts = {c: int(values[f"Frames {c}"]) - before[c] for c in before}
        # Until the last one is answered, one waits and one is computed.
        return counts if counts["received"] == sum(counts[c] for c in COUNTS) else None

    counts = peer.until(done, "counts that add up", 10)
    assert 0 < counts["received"] <= sent and counts["dropped"] > 0 and counts["answered"] > 0, (counts, sent)
    assert counts["refused"] == counts["skipped"] == 0
    assert float(peer.status("input")[2]["Drop ratio in window"]) > 0


def test_refused_images(peer, feed):
    before = int(peer.status("input")[2]["Frames refused"])
    short = picture(64, 32)
    short.data = short.data[:-1]
    feed.odd = lambda: peer.send(short)
    message, values = feed.until("input", WARN, "images are refused: ")
    feed.odd = None
    assert int(values["Frames refused"]) > before
    assert values["Last refusal"] in message and "bytes" in values["Last refusal"]
    _, values = feed.until("input", OK)
    assert values["Last refusal"] in message, "the reason stays, the alarm goes with the window"


def test_images_without_a_stamp_have_no_age(peer, feed):
    before = int(peer.status("input")[2]["Stamps of zero"])
    image, info = picture(64, 32), calibration()
    for _ in range(int(WINDOW_S / 0.05) + 20):
        info.header.stamp = image.header.stamp = Time()
        peer.infos.publish(info)
        peer.images.publish(image)
        peer.spin_for(0.05)
    level, message, values = peer.status("input")
    assert level == WARN and "without a stamp" in message
    assert int(values["Stamps of zero"]) > before and int(values["Zero seen diagnostic update count:"]) > 0
    level, message, _ = peer.status("timing")
    assert level == OK, f"an age since 1970: {message}"
    assert "Image age max (ms)" not in values and "Latest timestamp delay:" not in values
    # The first image with a stamp again has jumped forwards.
    _, values = feed.until("input", OK, **{"Image age max (ms)": ""})
    assert float(values["Image age max (ms)"]) < 60e3


def test_images_from_the_future_are_an_alarm(peer, feed):
    """As of a camera whose computer's clock is ahead."""
    count = "Early diagnostic update count:"
    before = int(peer.status("input")[2][count])
    image = picture(64, 32)

    def is_said():
        image.header.stamp = peer.stamp()
        image.header.stamp.sec += 5
        peer.images.publish(image)
        peer.spin_for(0.05)
        level, message, _ = peer.status("input")
        return level == WARN and re.search(r"images are (4\.\d|5\.0) s from the future", message)

    peer.until(is_said, "the warning")
    _, values = feed.until("input", OK)
    assert int(values[count]) > before
    acceptable = [float(values[f"{which} acceptable timestamp delay:"]) for which in ("Earliest", "Latest")]
    assert acceptable == [-1.0, 5.0], "up to thresholds.age_error_ms"


def test_a_stamp_that_jumps_back_is_an_alarm_for_a_window(peer, feed):
    counts = ("Stamps that jumped back", "Late diagnostic update count:")
    before = [int(peer.status("input")[2][count]) for count in counts]
    image = picture(64, 32)

    def an_old_one():
        image.header.stamp = peer.stamp()
        image.header.stamp.sec -= 60
        peer.images.publish(image)

    feed.odd = an_old_one
    feed.until("input", WARN, "stamps jumped back")
    feed.odd = None
    _, values = feed.until("input", OK)
    assert all(int(values[count]) > known for count, known in zip(counts, before)), values


def test_no_valid_calibration(peer, feed):
    blank, why = Feed(peer, calibration(0.0)), "the focal lengths in K are 0 and 0"
    message, values = blank.until("input", WARN, why)
    assert why in values["Calibration"] and values["Depth factor"].startswith("1.0000 (depth_scaling_fallback")
    other = calibration()
    other.width, other.height = 640, 320
    Feed(peer, other).until("input", WARN, "depth is scaled by depth_scaling_fallback")
    peer.change("depth_scaling_fallback", 2.0)
    blank.until("input", WARN, why, **{"Depth factor": "2.0000 (depth_scaling_fallback"})
    peer.change("depth_scaling", "none")
    blank.until("input", OK, **{"Depth factor": "1.0000 (depth_scaling)"})
    peer.change("depth_scaling", "camera_info")
    peer.change("depth_scaling_fallback", 1.0)
    peer.until(lambda: feed.go_on(0.2) or peer.status("input")[2]["Depth factor"].endswith("(camera_info)"), "its own")
    feed.until("input", OK, Calibration="ok")


class SimulatedTime:
    """The clock of a played bag, and the images in it."""

    def __init__(self, peer):
        self.peer = peer
        self.clock = peer.node.create_publisher(Clock, "/clock", qos("best effort", 1))
        self.image, self.info = picture(64, 32), calibration()

    def at(self, seconds, age_s=None):
        """It is `seconds`; with an image of this age, if any."""
        self.clock.publish(Clock(clock=self.time(seconds)))
        self.peer.spin(0.01)
        if age_s is None:
            return None
        self.image.header.stamp = self.info.header.stamp = self.time(seconds - age_s)
        self.peer.infos.publish(self.info)
        self.peer.images.publish(self.image)
        return key(self.image.header)

    @staticmethod
    def time(seconds):
        nanoseconds = round(seconds * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


@pytest.fixture
def simulated(peer):
    simulated = SimulatedTime(peer)
    peer.until(lambda: peer.node.count_publishers("/clock") > 0, "/clock")
    peer.change("use_sim_time", True)
    peer.until(lambda: simulated.clock.get_subscription_count() > 0, "the node's subscription to /clock")
    # Real time's ages are out of the window.
    peer.spin_for(WINDOW_S + 0.3)
    yield simulated
    peer.change("use_sim_time", False)
    peer.node.destroy_publisher(simulated.clock)


def test_ages_are_those_of_the_simulated_clock(peer, simulated):
    for _ in range(30):
        simulated.at(1000.0, 0.25)
        peer.spin_for(0.05)
    _, _, values = peer.status("input")
    for which in ("p50", "p95", "p99", "max"):
        assert float(values[f"Image age {which} (ms)"]) == pytest.approx(250.0, abs=0.01), which
    assert float(values["Latest timestamp delay:"]) == pytest.approx(0.25, abs=1e-5)
    assert peer.outputs["timing"].messages[-1].age_ns == 250_000_000
    assert peer.diagnostics[-1][1].header.stamp.sec == 1000


def test_a_bag_that_loops_is_no_alarm(peer, simulated):
    before = int(peer.status("input")[2]["Stamps that jumped back"])
    # Nobody sent while the clock was changed: STALE until the first image.
    peer.diagnostics.clear()

    def is_heard():
        simulated.at(500.0, 0.02)
        peer.spin_for(0.05)
        status = peer.statuses().get("semantic_depth: input")
        return status and status.level == OK

    peer.until(is_heard, "an image of the bag")
    messages = []
    for loop in range(3):
        stamps, answered = set(), set()
        # A slow machine's loop is longer.
        for i in range(600):
            stamps.add(simulated.at(500.0 + 0.05 * i, 0.02))
            peer.spin_for(0.04)
            messages += [s for _, m in peer.diagnostics for s in m.status]
            peer.diagnostics.clear()
            answered = stamps & set(peer.outputs["labels"].by_stamp)
            if i >= 30 and answered:
                break
        assert answered, f"loop {loop}: the node goes on answering"
        # So that the next loop's answers are its own.
        peer.outputs["labels"].by_stamp.clear()
    for status in messages:
        # A busy machine may be silent for longer than stale_after_s, or slow; of the stamps there is nothing to say.
        slow = status.message.startswith(("no image for", "median age"))
        assert status.level == OK or slow, (status.name, status.message)
        assert "stamps jumped back" not in status.message
        for name, value in values_of(status).items():
            if name.startswith("Image age"):
                # At the jump an image may be held against the other loop's clock: never more than a bag's length.
                assert 0 <= float(value) <= 31e3, (name, value)
    _, _, values = peer.status("input")
    assert int(values["Stamps that jumped back"]) >= before + 2
    assert float(values["Image age p50 (ms)"]) < 10e3
    assert 0 < float(values["Actual frequency (Hz)"]) < 40


def test_a_network_that_fails_is_the_models_fault(start_node, connect, tmp_path):
    model = tiny_model.write(tmp_path / "model", code=tiny_model.FAILS_ON_WHITE)
    peer = connect(start_node(model_path=str(model), **QUICK), outputs=("labels", "timing"))
    feed = Feed(peer)
    feed.until("model", OK)
    before = int(peer.status("input")[2]["Frames refused"])
    good, feed.image = feed.image, encode(np.full((32, 64, 3), 255, np.uint8), "rgb8")
    feed.until("model", ERROR, "the network fails: ")
    _, message, values = peer.status("input")
    assert int(values["Frames refused"]) > before, "they are counted"
    assert "refused" not in message and "Last refusal" not in values, "and nothing is wrong with them"
    feed.until("input", ERROR, "the network fails on images: ")
    # Now and then one that it answers: the model's status comes and goes, the camera's does not.
    feed.odd = lambda: peer.send(good)
    feed.until("input", WARN, "the network fails on images: ")
    peer.diagnostics.clear()
    feed.go_on(1.5)
    statuses = [s for _, array in peer.diagnostics for s in array.status if s.name.endswith(": input")]
    assert len(statuses) > 5 and all(s.level in (WARN, ERROR) for s in statuses)
    feed.image, feed.odd = good, None
    feed.until("model", OK)
    feed.until("input", OK)


def test_an_answer_without_numbers_is_unlabelled_and_warned_of(start_node, connect, tmp_path):
    code = tiny_model.NONE_ON_BLUE
    model = tiny_model.write(tmp_path / "model", code=code)
    outputs = ("labels", "depth", "confidence", "mask", "timing")
    peer = connect(start_node(model_path=str(model), **QUICK), outputs=outputs)
    feed = Feed(peer)
    feed.until("input", OK)
    car, blue = np.full((32, 64, 3), (20, 200, 100), np.uint8), np.full((32, 64, 3), (20, 200, 255), np.uint8)
    for rgb, label, mask in ((car, 13, 255), (blue, 255, 127), (car, 13, 255)):
        found = peer.ask(encode(rgb, "rgb8"), outputs)
        assert set(found["labels"].data) == {label} and set(found["mask"].data) == {mask}
        for name in ("depth", "confidence"):
            assert np.isnan(np.frombuffer(found[name].data, np.float32)).all() == (label == 255), name
    feed.image = encode(blue, "rgb8")
    feed.until("input", WARN, "the network answered pixels without a number")
    assert "the network answered pixels without a number" in peer.under_test.log()
    feed.image = encode(car, "rgb8")
    feed.until("input", OK)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (tiny_model.FAILS_ON_WHITE, "this picture is too white"),
        (loops_on_white(1_000_000_000), "ending, as exit_after_failure_s says"),
    ],
    ids=["fails", "hangs"],
)
def test_a_network_that_does_not_answer_any_more_ends_the_node_where_that_is_asked_for(
    start_node, connect, tmp_path, code, why
):
    model = tiny_model.write(tmp_path / "model", code=code)
    node = start_node(model_path=str(model), exit_after_failure_s=3.0, **QUICK)
    peer = connect(node, outputs=("labels", "timing"))
    feed = Feed(peer)
    feed.until("model", OK)
    good, white = feed.image, encode(np.full((32, 64, 3), 255, np.uint8), "rgb8")
    if "RaiseException" in code:
        # Some failures among answers are no reason.
        feed.image, feed.odd = white, lambda: peer.send(good)
        feed.go_on(4.0)
        node.check()
        # Nor is one that is long ago, where no image came since, or one more then.
        feed.odd = None
        feed.until("model", ERROR)
        peer.spin_for(4.0)
        peer.send(white)
        peer.spin_for(1.0)
        node.check()
        feed.image = good
        feed.until("model", OK)
    feed.image = white
    start = time.monotonic()
    with pytest.raises(AssertionError, match="the node ended with 1"):
        feed.go_on(30.0)
    # The end of a batch is waited for, for 5 s.
    assert 2.5 < time.monotonic() - start < 20, node.log()[-3000:]
    last = [line for line in node.log().splitlines() if "FATAL" in line][-1]
    assert "the network has answered nothing for 3 s" in last and why in last, node.log()[-3000:]


@pytest.mark.parametrize("again", [False, True])
def test_a_network_that_hangs_is_an_error_and_a_signal_ends_the_node(start_node, connect, tmp_path, again):
    model = tiny_model.write(tmp_path / "model", code=loops_on_white(1_000_000_000))
    node = start_node(model_path=str(model), **QUICK)
    peer = connect(node, outputs=("labels", "timing"))
    feed = Feed(peer, uncalibrated=True)
    feed.until("model", OK)
    feed.image = encode(np.full((32, 64, 3), 255, np.uint8), "rgb8")
    feed.until("model", ERROR, "the network has been at one batch for ")
    if not again:
        # What needs the thread is answered, too.
        for label, expected in (("deactivate", True), ("cleanup", False)):
            response = peer.call(ChangeState, "change_state", transition=Transition(label=label))
            assert response.success == expected, node.log()[-2000:]
        node.says("cannot cleanup: the network has been at one batch")
        level, message, values = peer.status("model")
        assert level == ERROR and "at one batch" in message and values["State"] == "inactive"
    start = time.monotonic()
    node.process.send_signal(signal.SIGINT)
    if again:
        # Within a second it would count as the same one.
        time.sleep(1.5)
        node.process.send_signal(signal.SIGTERM)
    assert node.wait() == 1, node.log()[-3000:]
    took_s = time.monotonic() - start
    assert took_s < (4.5 if again else 15), "it waits for five seconds, or until the second signal"
    said = node.log().partition("ending\n")[2]
    assert ("a second signal" if again else "cannot be interrupted") in said, said


def test_a_late_start_does_not_lower_the_rate(start_node):
    window_s = 20.0
    with client(start_node(autostart=False, **{**QUICK, "diagnostics_window_s": window_s})) as peer:
        for transition in ("configure", "activate"):
            if transition == "activate":
                peer.spin_for(3.0)
            response = peer.call(ChangeState, "change_state", transition=Transition(label=transition))
            assert response.success
        activated = time.monotonic()
        peer.until(lambda: peer.images.get_subscription_count() > 0, "the node's subscription")
        feed = Feed(peer)
        feed.go_on(2.0)
        _, _, values = peer.status("input")
        since_s = time.monotonic() - activated
        assert 1.5 < float(values["Duration of window (s)"]) < since_s + 0.5
        sent_hz = len(feed.sent) / since_s
        assert float(values["Actual frequency (Hz)"]) == pytest.approx(sent_hz, rel=0.3)


@contextlib.contextmanager
def client(under_test):
    peer = Peer(under_test, outputs=("labels", "timing"))
    try:
        yield peer
    finally:
        peer.close()


def test_states_and_reasons(start_node, model, tmp_path):
    node = start_node(autostart=False, model_path=str(tmp_path / "absent.yaml"), **QUICK)
    with client(node) as peer:

        def go(transition, expected=True):
            response = peer.call(ChangeState, "change_state", transition=Transition(label=transition))
            assert response.success == expected, node.log()[-2000:]

        def shows(subtask, level, words, state):
            def found():
                at, message, values = peer.status(subtask)
                return at == level and words in message and values.get("State", state) == state

            peer.until(found, f"{subtask} {level} {words} {state}", 10)

        shows("model", OK, "no model is loaded: the node is unconfigured", "unconfigured")
        shows("input", OK, "not subscribed: the node is unconfigured", "unconfigured")
        go("configure", False)
        shows("model", ERROR, "absent.yaml", "unconfigured")
        peer.change("model_path", str(model))
        go("configure")
        shows("model", OK, "inactive", "inactive")
        shows("input", OK, "not subscribed: the node is inactive", "inactive")
        assert peer.status("input")[2]["Publisher QoS"] == "not subscribed"
        go("activate")
        shows("model", OK, "active", "active")
        shows("input", STALE, "no image has arrived yet", "active")
        assert peer.status("input")[2]["Publisher QoS"] in ("ok", "none")
        peer.until(lambda: peer.images.get_subscription_count() > 0, "the node's subscription")
        feed = Feed(peer, uncalibrated=True)
        message, values = feed.until("input", WARN, "no camera_info has arrived")
        assert "no camera_info" in values["Calibration"]
        # A batch, and what nobody asked for, are not made up.
        _, values = feed.until("timing", OK, **{"Mean batch size": "1.0"})
        assert float(values["Mean batch size"]) == 1.0 and "overlay p50 (ms)" not in values
        go("deactivate")
        shows("model", OK, "inactive", "inactive")
        shows("input", OK, "not subscribed", "inactive")
        go("shutdown")
        shows("model", OK, "no model is loaded: the node is finalized", "finalized")
    assert node.end()[0] == 0

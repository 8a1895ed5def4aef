"""`semantic_depth demo`, and its bag as independent readers see it."""

import importlib
import json
import os
import signal
import subprocess
import time

import imageio_ffmpeg
import mcap.reader
import numpy as np
import pytest
import tiny_model
import yaml
from conftest import new_domain, pixels, until
from PIL import Image as Picture
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

PREFIX = "/semantic_depth"
LARGE = ("labels", "depth", "overlay")
LABEL_INFO = f"{PREFIX}/output/label_info"


def get_message(type_name):
    """The Python class of `package/msg/Name`."""
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def command(tool, node, model, out, *arguments):
    return [str(tool), "demo", "--node", str(node), "--model", str(model), "--device", "cpu", "--out", str(out), *arguments]


def environment(**more):
    return {**os.environ, "ROS_DOMAIN_ID": str(new_domain()), **more}


def run(*arguments, **more):
    return subprocess.run(arguments[0], capture_output=True, text=True, timeout=170, env=environment(**more))


@pytest.fixture(scope="module")
def played(tool_program, node_program, model, tmp_path_factory):
    """A short drive, played once; the model is named by its folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    arguments = ["--frames", "6", "--rate", "2", "--size", "320x160"]
    result = run(command(tool_program, node_program, model.parent, out, *arguments))
    assert result.returncode == 0, result.stdout + result.stderr
    return out, json.loads((out / "report.json").read_text()), result.stdout


def test_the_report_adds_up(played):
    out, report, printed = played
    frames = report["frames"]
    assert frames["played"] == 6
    assert frames["answered"] >= 1
    assert frames["played"] == frames["answered"] + frames["dropped"] + frames["refused"] + frames["lost"]
    assert report["node_end"]["exit_code"] == 0 and report["node_end"]["took_s"] < 5
    assert [s["name"] for s in report["stages"]][-1] == "total"
    for stage in report["stages"]:
        assert 0 <= stage["p50_ms"] <= stage["p95_ms"] <= stage["p99_ms"] <= stage["max_ms"]
    scores = report["scores"]
    assert scores["labels_frames"] == scores["depth_frames"] == frames["complete"]
    assert 0 <= scores["miou"] <= 1 and 0 <= scores["pixel_accuracy"] <= 1 and scores["abs_rel"] > 0
    for word in ("frames", "p99", "age at publication", "mIoU", "AbsRel", "On cpu"):
        assert word in printed
    assert "panicked" not in printed


def test_the_contact_sheet_has_six_columns(played):
    out, report, _ = played
    with Picture.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 6 * 384 and sheet.height > 160 * min(report["frames"]["complete"], 6)


def test_rosbags_reads_every_message(played):
    out, report, _ = played
    complete = report["frames"]["complete"]
    with AnyReader([out / "bag"]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        by_topic = {}
        for connection, _, raw in reader.messages():
            by_topic.setdefault(connection.topic, []).append((reader.deserialize(raw, connection.msgtype), raw))
    assert counts == report["bag"]["messages"] and not report["bag"]["lost"]
    assert {topic: len(m) for topic, m in by_topic.items()} == {t: n for t, n in counts.items() if n}
    for name in LARGE:
        assert len(by_topic[f"{PREFIX}/output/{name}"]) >= complete
    assert counts[f"{PREFIX}/input/image"] == counts[f"{PREFIX}/input/camera_info"] == 6
    assert counts["/diagnostics"] >= 1

    def stamps(topic):
        return [(m.header.stamp.sec, m.header.stamp.nanosec) for m, _ in by_topic[topic]]

    played_stamps = stamps(f"{PREFIX}/input/image")
    assert played_stamps == stamps(f"{PREFIX}/input/camera_info") == sorted(set(played_stamps))
    for topic in by_topic:
        if topic.startswith(f"{PREFIX}/output") and topic != LABEL_INFO:
            assert set(stamps(topic)) <= set(played_stamps), topic
            assert all(m.header.frame_id == "camera_front_optical_frame" for m, _ in by_topic[topic])
    timings = [m for m, _ in by_topic[f"{PREFIX}/output/timing"]]
    assert [t.sequence for t in timings] == sorted({t.sequence for t in timings})
    last = timings[-1]
    assert last.sequence == report["frames"]["answered"] and last.dropped == report["frames"]["dropped"]
    totals = sorted(t.total_ns for t in timings)
    assert report["stages"][-1]["max_ms"] == pytest.approx(totals[-1] / 1e6)


def test_the_bag_has_what_was_said_before_it_began(played):
    """As any recorder gets it: what the labels mean, and the node's log."""
    out, report, _ = played
    assert set(report["bag"]["messages"]) == {
        *(f"{PREFIX}/input/{name}" for name in ("image", "camera_info")),
        *(f"{PREFIX}/output/{name}" for name in ("labels", "depth", "depth/compressed", "overlay", "camera_info", "timing", "label_info")),
        "/diagnostics",
        "/rosout",
    }
    with AnyReader([out / "bag"]) as reader:
        found = {LABEL_INFO: [], "/rosout": []}
        for connection, _, raw in reader.messages([c for c in reader.connections if c.topic in found]):
            found[connection.topic].append(reader.deserialize(raw, connection.msgtype))
    (info,) = found[LABEL_INFO]
    assert {"road", "car", "person"} <= {entry.class_name for entry in info.class_map}
    assert {record.name for record in found["/rosout"]} == {"semantic_depth"}


def test_ros_and_rosbags_agree_on_the_bytes(played):
    """The bytes are what ROS itself deserialises, FrameTiming included."""
    out, _, _ = played
    seen = set()
    with AnyReader([out / "bag"]) as reader:
        for connection, _, raw in reader.messages():
            theirs = reader.deserialize(raw, connection.msgtype)
            ours = deserialize_message(bytes(raw), get_message(connection.msgtype))
            seen.add(connection.msgtype)
            if connection.msgtype == "sensor_msgs/msg/Image":
                assert (ours.width, ours.height, ours.encoding) == (theirs.width, theirs.height, theirs.encoding)
                assert bytes(ours.data) == theirs.data.tobytes()
            elif connection.msgtype == "semantic_depth/msg/FrameTiming":
                for field in ours.get_fields_and_field_types():
                    if field != "header":
                        assert getattr(ours, field) == getattr(theirs, field), field
    assert {"sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "semantic_depth/msg/FrameTiming"} <= seen


def test_the_played_pictures_are_the_rendered_ones(played):
    out, _, _ = played
    files = sorted(out.glob("drives/*/leftImg8bit/*/*/*.png"))
    assert len(files) == 6
    with AnyReader([out / "bag"]) as reader:
        connections = [c for c in reader.connections if c.topic == f"{PREFIX}/input/image"]
        for file, (connection, _, raw) in zip(files, reader.messages(connections), strict=True):
            message = reader.deserialize(raw, connection.msgtype)
            assert message.encoding == "rgb8"
            with Picture.open(file) as expected:
                np.testing.assert_array_equal(message.data.reshape(160, 320, 3), np.asarray(expected))


def test_the_metadata_is_rosbag2s(played):
    out, report, _ = played
    metadata = yaml.safe_load((out / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["version"] == 9 and metadata["storage_identifier"] == "mcap"
    assert metadata["relative_file_paths"] == [file["path"] for file in metadata["files"]] == ["bag_0.mcap"]
    with Reader(out / "bag") as reader:
        assert reader.ros_distro == os.environ["ROS_DISTRO"]
        for connection in reader.connections:
            assert connection.digest.startswith("RIHS01_")
            assert connection.ext.serialization_format == "cdr"
            assert connection.ext.offered_qos_profiles, connection.topic
        assert reader.message_count == sum(report["bag"]["messages"].values())


def test_mcap_reads_it(played):
    out, report, _ = played
    with open(out / "bag" / "bag_0.mcap", "rb") as file:
        reader = mcap.reader.make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert {i.compression for i in summary.chunk_indexes} == {"zstd"}
        schemas = {schema.name: schema for schema in summary.schemas.values()}
        assert all(schema.encoding == "ros2msg" for schema in schemas.values())
        assert "MSG: std_msgs/Header" in schemas["semantic_depth/msg/FrameTiming"].data.decode()
        counts = {}
        times = []
        for _, channel, message in reader.iter_messages():
            assert channel.message_encoding == "cdr" and message.publish_time <= message.log_time
            counts[channel.topic] = counts.get(channel.topic, 0) + 1
            times.append(message.log_time)
    assert counts == {topic: count for topic, count in report["bag"]["messages"].items() if count}
    assert abs(times[-1] / 1e9 - time.time()) < 600
    assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (min(times), max(times))


def pictures(folder, sizes):
    folder.mkdir()
    for index, (width, height) in enumerate(sizes):
        ending = "jpg" if index % 2 else "png"
        Picture.fromarray(pixels(width, height, index)).save(folder / f"{index:03}.{ending}")


def test_own_pictures_of_mixed_sizes(tool_program, node_program, model, tmp_path):
    sizes = [(64, 32), (31, 17), (200, 120)]
    pictures(tmp_path / "mine", sizes)
    out = tmp_path / "out"
    arguments = ["--images", str(tmp_path / "mine"), "--rate", "1", "--param", "backend:=torchscript"]
    result = run(command(tool_program, node_program, model, out, *arguments))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["frames"]["played"] == 3 and report["scores"] is None
    assert report["backend"] == "torchscript"
    with AnyReader([out / "bag"]) as reader:
        connections = [c for c in reader.connections if c.topic == f"{PREFIX}/input/image"]
        messages = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)]
    assert [(m.width, m.height) for m in messages] == sizes


def test_a_video(tool_program, node_program, model, tmp_path):
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    video = tmp_path / "clip.mp4"
    made = [ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc=size=192x108:rate=2", "-t", "2", str(video)]
    subprocess.run(made, check=True, timeout=60)
    out = tmp_path / "out"
    arguments = command(tool_program, node_program, model, out, "--video", str(video), "--rate", "2")
    result = run(arguments, SEMANTIC_DEPTH_FFMPEG=ffmpeg)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["frames"]["played"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--video", "{tmp}/a.mp4"], ["install ffmpeg"]),
        (["--images", "{tmp}/empty"], ["no *.png"]),
        (["--images", "{tmp}/absent"], ["absent"]),
        (["--model", "{tmp}/absent.yaml"], ["absent.yaml", "semantic_depth export"]),
        (["--model", "{tmp}/depth/model.yaml"], ["the demo shows labels and depth", "semantic_depth evaluate"]),
        (["--node", "{tmp}/absent"], ["absent", "--node"]),
        (["--frames", "0"], ["--frames"]),
        (["--rate", "0"], ["--rate"]),
        (["--rate", "1e-20"], ["--rate is 1e-20", "0.001"]),
        (["--param", "backend=native"], ["NAME:=VALUE", "backend=native"]),
        (["--param", "backend:=none"], ["backend", "none", "native"]),
        (["--param", "output_size:=network"], ["--param output_size: the demo needs source"]),
        (["--param", "image_transport:=compressed"], ["--param image_transport: the demo needs raw"]),
        (["--param", "use_sim_time:=true"], ["--param use_sim_time: the demo needs false"]),
        (["--param", "model_path:=/a/model.yaml"], ["--param model_path: use --model"]),
    ],
)
def test_what_cannot_be_played_is_an_error_with_a_reason(tool_program, node_program, model, tmp_path, arguments, words):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    tiny_model.write(tmp_path / "depth", code=tiny_model.DEPTH_ALONE)
    given = command(tool_program, node_program, model, tmp_path / "out")
    for argument in [a.format(tmp=tmp_path) for a in arguments]:
        if argument in given:
            del given[given.index(argument) : given.index(argument) + 2]
    given += [a.format(tmp=tmp_path) for a in arguments]
    if not any(a in ("--images", "--video") for a in arguments):
        given += ["--size", "64x32"] + ([] if "--frames" in arguments else ["--frames", "1"])
    result = run(given, SEMANTIC_DEPTH_FFMPEG=str(tmp_path / "no-ffmpeg"))
    assert result.returncode != 0
    for word in words:
        assert word in result.stderr, result.stderr
    assert "panicked" not in result.stderr


def test_a_domain_that_there_is_not_is_refused_before_the_rendering(tool_program, node_program, model, tmp_path):
    out = tmp_path / "out"
    result = run(command(tool_program, node_program, model, out), ROS_DOMAIN_ID="500")
    assert result.returncode == 1 and "ROS_DOMAIN_ID is '500', expected a number from 0 to 232" in result.stderr, result.stderr
    assert not out.exists()


def test_a_parameter_is_no_remapping_to_rcl(tool_program, node_program, model, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Picture.new("RGB", (64, 32)).save(pictures / "a.png")
    arguments = ["--images", str(pictures), "--param", "backend:=native", "--param", "png_level:=3"]
    result = run(command(tool_program, node_program, model, tmp_path / "out", *arguments))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "remap rule" not in result.stdout + result.stderr


@pytest.mark.alone
def test_frames_over_max_rate_hz_are_no_lost_ones_and_not_waited_for(tool_program, node_program, model, tmp_path):
    """The last frames are dropped: no answer says so, the node's diagnostics do."""
    out = tmp_path / "out"
    arguments = ["--frames", "8", "--rate", "4", "--size", "320x160", "--param", "max_rate_hz:=0.1"]
    result = run(command(tool_program, node_program, model, out, *arguments))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((out / "report.json").read_text())
    frames = report["frames"]
    assert (frames["played"], frames["answered"]) == (8, 1), frames
    # One more may be replaced in the middleware, where nobody counts it. The last timing has counted none of them.
    assert frames["dropped"] >= 6 and frames["dropped"] + frames["lost"] == 7, frames
    # The last message is not long after the last frame: the bag's own span.
    metadata = yaml.safe_load((out / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["duration"]["nanoseconds"] < 10e9, metadata["duration"]


def test_a_node_that_dies_is_an_error_with_its_log(tool_program, model, tmp_path):
    dying = tmp_path / "node"
    dying.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 5\n")
    dying.chmod(0o755)
    result = run(command(tool_program, dying, model, tmp_path / "out", "--size", "64x32", "--frames", "2"))
    assert result.returncode != 0
    assert "the disk is on fire" in result.stderr and "5" in result.stderr


def test_no_node_is_left_behind(tool_program, node_program, model, tmp_path):
    """Interrupted in the middle of a drive, the demo ends the node first, then itself."""
    out = tmp_path / "out"
    arguments = command(tool_program, node_program, model, out, "--frames", "600", "--rate", "10")
    arguments += ["--images", str(tmp_path / "mine")]
    pictures(tmp_path / "mine", [(32, 32)] * 200)
    with open(tmp_path / "log", "wb") as log:
        demo = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment())
    try:

        def children():
            listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(demo.pid)], capture_output=True, text=True)
            return [int(pid) for pid in listed.stdout.split()]

        mcap_file = out / "bag" / "bag_0.mcap"
        until(lambda: mcap_file.exists() and mcap_file.stat().st_size > 100_000 and children(), "some frames")
        node = children()[0]
        # Another one would write into the same bag.
        other = run(arguments)
        assert other.returncode == 1 and f"{out} is in use by another demo; wait for its end" in other.stderr, other.stderr
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) != 0
    finally:
        demo.kill()
        demo.wait()
    assert not os.path.exists(f"/proc/{node}"), "the node is still there"
    log = (tmp_path / "log").read_text()
    assert "interrupted after" in log and "panicked" not in log
    # What was played is reported.
    report = json.loads((out / "report.json").read_text())
    assert 0 < report["frames"]["played"] < 200 and report["node_end"]["exit_code"] == 0
    assert (out / "contact_sheet.png").is_file()


def test_an_interrupt_is_heard_between_two_slow_frames(tool_program, node_program, model, tmp_path):
    out = tmp_path / "out"
    pictures(tmp_path / "mine", [(32, 32)] * 3)
    # 50 s from frame to frame.
    arguments = command(tool_program, node_program, model, out, "--images", str(tmp_path / "mine"), "--rate", "0.02")
    with open(tmp_path / "log", "wb") as log:
        demo = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment())
    try:
        # The bag is made just before the first frame is played.
        until((out / "bag" / "bag_0.mcap").exists, "the bag")
        time.sleep(2)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(25) != 0
    finally:
        demo.kill()
        demo.wait()
    log = (tmp_path / "log").read_text()
    assert "interrupted" in log and "panicked" not in log

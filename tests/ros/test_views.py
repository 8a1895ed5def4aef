"""The shipped views (RViz, Foxglove, PlotJuggler) name what the node has: topics, types, fields, and a QoS that fits."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from conftest import NAME, ROOT
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from semantic_depth.msg import FrameTiming

TIMING = f"{NAME}/output/timing"
# The point cloud's fields that the views use.
CLOUD_FIELDS = {"x", "y", "z", "rgb", "label", "confidence"}
# RViz's display classes, by what they show.
DISPLAYS = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
}
POLICIES = {
    "Reliable": ReliabilityPolicy.RELIABLE,
    "Best Effort": ReliabilityPolicy.BEST_EFFORT,
    "Volatile": DurabilityPolicy.VOLATILE,
    "Transient Local": DurabilityPolicy.TRANSIENT_LOCAL,
    "Keep Last": HistoryPolicy.KEEP_LAST,
}


@pytest.fixture(scope="module")
def rviz():
    return yaml.safe_load((ROOT / "rviz" / "semantic_depth.rviz").read_text())["Visualization Manager"]


@pytest.fixture(scope="module")
def foxglove():
    return json.loads((ROOT / "foxglove" / "semantic_depth.json").read_text())


@pytest.fixture(scope="module")
def plotjuggler():
    return ElementTree.parse(ROOT / "plotjuggler" / "semantic_depth.xml").getroot()


def shown(rviz):
    """The displays that show a topic, by name."""
    return {display["Name"]: display for display in rviz["Displays"] if "Topic" in display}


def types(peer, topic):
    """The types with which the node itself (not the peer) has a topic; empty where it has none."""
    reads = topic.startswith(f"{NAME}/input/")
    look_up = peer.node.get_subscriptions_info_by_topic if reads else peer.node.get_publishers_info_by_topic
    return {end.topic_type for end in look_up(topic) if f"/{end.node_name}" == NAME}


def check_topic(peer, topic, kind):
    peer.until(lambda: types(peer, topic), f"{topic} on the graph")
    assert types(peer, topic) == {kind}, topic


def test_rviz_shows_source_overlay_labels_depth_and_points(rviz, shared):
    displays = shown(rviz)
    assert list(displays) == ["Source", "Overlay", "Labels", "Depth", "Points"]
    for display in displays.values():
        check_topic(shared, display["Topic"]["Value"], DISPLAYS[display["Class"]])
        assert display["Enabled"] is True
    topics = {name: display["Topic"]["Value"] for name, display in displays.items()}
    assert topics == {
        "Source": f"{NAME}/input/image",
        "Overlay": f"{NAME}/output/overlay",
        "Labels": f"{NAME}/output/labels_color",
        "Depth": f"{NAME}/output/depth",
        "Points": f"{NAME}/output/points",
    }


def test_rviz_hears_the_node(rviz, shared):
    """What RViz asks for is offered by the node, and asks the camera's publisher for no more than sensor data is."""
    for name, display in shown(rviz).items():
        asked = display["Topic"]
        requested = QoSProfile(
            history=POLICIES[asked["History Policy"]],
            depth=asked["Depth"],
            reliability=POLICIES[asked["Reliability Policy"]],
            durability=POLICIES[asked["Durability Policy"]],
            liveliness=LivelinessPolicy.AUTOMATIC,
        )
        if name == "Source":
            assert requested.reliability == ReliabilityPolicy.BEST_EFFORT
            assert requested.durability == DurabilityPolicy.VOLATILE
            continue
        publishers = shared.node.get_publishers_info_by_topic(asked["Value"])
        assert publishers, asked["Value"]
        for publisher in publishers:
            fit, reason = qos_check_compatible(publisher.qos_profile, requested)
            assert fit == QoSCompatibility.OK, f"{name}: {reason}"


def test_rviz_draws_the_cloud_in_its_own_colours(rviz):
    points = shown(rviz)["Points"]
    assert points["Color Transformer"] == "RGB8" and points["Position Transformer"] == "XYZ"
    assert points["Style"] == "Flat Squares" and 0 < points["Alpha"] < 1
    assert points["Channel Name"] in CLOUD_FIELDS
    assert rviz["Global Options"]["Fixed Frame"]


def test_rviz_scales_depth_as_it_is(rviz):
    """RViz scales 32FC1, 16UC1 and mono16; other encodings are shown as they are, ids in mono8 all but black."""
    depth = shown(rviz)["Depth"]
    assert depth["Normalize Range"] is False
    assert (depth["Min Value"], depth["Max Value"]) == (0, 80)


def leaves(layout):
    """The panels of a Foxglove layout."""
    if isinstance(layout, str):
        return [layout]
    assert set(layout) <= {"direction", "splitPercentage", "first", "second"}, layout
    assert layout["direction"] in ("row", "column")
    return leaves(layout["first"]) + leaves(layout["second"])


def test_foxgloves_panels_are_laid_out_once(foxglove):
    panels = leaves(foxglove["layout"])
    assert sorted(panels) == sorted(foxglove["configById"])
    assert {panel.split("!")[0] for panel in panels} == {"Image", "3D", "Plot", "DiagnosticSummary", "RosOut"}


def test_foxgloves_topics_are_the_nodes(foxglove, shared):
    panels = foxglove["configById"]
    images = {panel: c["imageMode"]["imageTopic"] for panel, c in panels.items() if panel.startswith("Image!")}
    assert images == {
        "Image!source": f"{NAME}/input/image",
        "Image!overlay": f"{NAME}/output/overlay",
        "Image!depth": f"{NAME}/output/depth/compressed",
    }
    for topic in images.values():
        check_topic(shared, topic, "sensor_msgs/msg/" + ("CompressedImage" if topic.endswith("/compressed") else "Image"))
    clouds = panels["3D!points"]["topics"]
    assert list(clouds) == [f"{NAME}/output/points"]
    check_topic(shared, f"{NAME}/output/points", "sensor_msgs/msg/PointCloud2")
    for cloud in clouds.values():
        assert cloud["visible"] and cloud["colorField"] in CLOUD_FIELDS
    assert panels["DiagnosticSummary!all"]["topicToRender"] == "/diagnostics"
    check_topic(shared, "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    assert panels["RosOut!log"]["topicToRender"] == "/rosout"
    check_topic(shared, "/rosout", "rcl_interfaces/msg/Log")


def numeric_fields():
    """FrameTiming's numbers; every duration among them is in nanoseconds."""
    fields = FrameTiming.get_fields_and_field_types()
    return {name for name, kind in fields.items() if re.fullmatch("u?int(32|64)", kind)}


def durations():
    return {name for name in numeric_fields() if name.endswith("_ns")}


def test_foxglove_plots_every_stage(foxglove, shared):
    check_topic(shared, TIMING, "semantic_depth/msg/FrameTiming")
    plotted = {}
    for panel, config in foxglove["configById"].items():
        if panel.startswith("Plot!"):
            for path in config["paths"]:
                topic, _, field = path["value"].rpartition(".")
                assert topic == TIMING and path["enabled"], path
                plotted.setdefault(panel, []).append(field)
    assert set(sum(plotted.values(), [])) == numeric_fields(), "add the field to a plot, or take it out"
    assert set(plotted["Plot!stages"]) == durations() - {"age_ns"}
    assert all(len(set(fields)) == len(fields) for fields in plotted.values())


def test_plotjuggler_plots_every_stage_in_ms(plotjuggler, shared):
    check_topic(shared, TIMING, "semantic_depth/msg/FrameTiming")
    assert plotjuggler.tag == "root"
    plotted = {}
    for area in plotjuggler.iter("DockArea"):
        for curve in area.iter("curve"):
            topic, _, field = curve.get("name").rpartition("/")
            assert topic == TIMING, curve.get("name")
            plotted.setdefault(area.get("name"), []).append(field)
            transform = curve.find("transform")
            if field in durations():
                assert transform.get("name") == "Scale/Offset" and transform.get("alias").endswith(" [ms]")
                options = transform.find("options")
                assert float(options.get("value_scale")) == 1e-6
                assert float(options.get("value_offset")) == float(options.get("time_offset")) == 0
            else:
                assert transform is None
    assert set(sum(plotted.values(), [])) == numeric_fields()
    assert set(plotted["Stages (ms)"]) == durations() - {"age_ns"}


def test_plotjuggler_listens_to_the_timing(plotjuggler):
    (streamer,) = plotjuggler.findall("previouslyLoaded_Streamer")
    plugins = {plugin.get("ID"): plugin for plugin in plotjuggler.iter("plugin")}
    assert plugins[streamer.get("name")].find("selected_topics").get("value") == TIMING
    for splitter in plotjuggler.iter("DockSplitter"):
        sizes = [float(size) for size in splitter.get("sizes").split(";")]
        assert len(sizes) == len(list(splitter)) == int(splitter.get("count")) and sum(sizes) == pytest.approx(1)

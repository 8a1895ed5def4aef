"""Publishers that cannot be heard are named, in the log and in the diagnostics."""

import time

import rclpy
from conftest import LIMIT_S, NAME, new_domain, picture, qos, release_domain
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, LivelinessPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

WARN, ERROR, STALE = b"\x01", b"\x02", b"\x03"


def logged(peer, text):
    return text in peer.under_test.log()


def test_a_best_effort_publisher_of_a_reliable_subscription_is_named(start_node, connect):
    peer = connect(start_node(input_reliability="reliable"))
    peer.ask(picture(64, 32))
    bad = peer.node.create_publisher(Image, f"{NAME}/input/image", qos("best effort"))
    start = time.monotonic()
    peer.until(lambda: logged(peer, "publishes best effort"), "a line in the log", 10)
    # Discovery of the publisher and the node's look at it; the machine may be busy.
    assert time.monotonic() - start < 4
    peer.until(lambda: "best effort" in peer.status("input")[2]["Publisher QoS"], "a diagnostic", 10)
    level, message, values = peer.status("input")
    assert "/camera" in values["Publisher QoS"] and "reliab" in values["Publisher QoS"]
    assert level in (ERROR, STALE) or "best effort" in message
    peer.node.destroy_publisher(bad)
    peer.until(lambda: peer.status("input")[2]["Publisher QoS"] == "ok", "the end of it", 20)


def test_a_calibration_that_cannot_be_heard_is_named_beside_images_that_can(start_node, connect):
    peer = connect(start_node(input_reliability="reliable", stale_after_s=LIMIT_S))
    topic = f"{NAME}/input/camera_info"
    bad = peer.node.create_publisher(CameraInfo, topic, qos("best effort"))
    peer.until(lambda: logged(peer, f"/camera on {topic}: it publishes best effort"), "a line in the log", 10)
    peer.ask(picture(64, 32))
    level, message, values = peer.status("input")
    assert topic in values["Publisher QoS"] and f"{NAME}/input/image" not in values["Publisher QoS"]
    assert level == WARN and values["Publisher QoS"] in message, "images are heard"
    peer.node.destroy_publisher(bad)
    peer.until(lambda: peer.status("input")[2]["Publisher QoS"] == "ok", "the end of it", 20)


def test_a_calibration_that_was_latched_before_the_node_came_is_named_with_the_way_to_it(start_node, connect):
    topic = f"{NAME}/input/camera_info"
    latched = qos(depth=1)
    latched.durability = DurabilityPolicy.TRANSIENT_LOCAL
    info = CameraInfo(width=64, height=32, distortion_model="plumb_bob")
    info.k = [60.0, 0.0, 32.0, 0.0, 60.0, 16.0, 0.0, 0.0, 1.0]

    def heard(**parameters):
        """What the diagnostics say of a node that starts after the calibration was sent."""
        domain = new_domain()
        context = Context()
        rclpy.init(args=[], context=context, domain_id=domain)
        driver = rclpy.create_node("driver", context=context)
        try:
            driver.create_publisher(CameraInfo, topic, latched).publish(info)
            peer = connect(start_node(domain=domain, stale_after_s=LIMIT_S, **parameters))

            def said():
                peer.ask(picture(64, 32))
                values = peer.status("input")[2]
                return values if "/driver" in values["Publisher QoS"] or values["Calibration"] == "ok" else None

            return peer.until(said, "a calibration or why there is none", 20)
        finally:
            driver.destroy_node()
            rclpy.shutdown(context=context)
            release_domain(domain)

    missed = heard()["Publisher QoS"]
    assert f"/driver on {topic}: nothing has come" in missed and "transient_local" in missed
    override = f"qos_overrides.{topic}.subscription"
    found = heard(**{f"{override}.durability": "transient_local", f"{override}.reliability": "reliable"})
    assert found["Calibration"] == "ok"


def test_the_diagnostics_do_not_wait_for_their_turn(start_node, connect):
    peer = connect(start_node(input_reliability="reliable", diagnostics_rate_hz=10.0))
    peer.change("diagnostics_rate_hz", 0.1)
    # The next report is ten seconds away now, but for this.
    peer.spin_for(0.5)
    peer.diagnostics.clear()
    peer.node.create_publisher(Image, f"{NAME}/input/image", qos("best effort"))

    def said():
        status = peer.statuses().get("semantic_depth: input")
        return status and "best effort" in {v.key: v.value for v in status.values}["Publisher QoS"]

    peer.until(said, "a report of the problem", 6)


def test_a_publisher_of_another_type_is_named(start_node, connect):
    peer = connect(start_node())
    # One participant cannot have a topic with two types: another one.
    context = Context()
    rclpy.init(args=[], context=context, domain_id=peer.under_test.domain)
    node = rclpy.create_node("confused", context=context)
    try:
        node.create_publisher(CompressedImage, f"{NAME}/input/image", qos())
        peer.until(lambda: logged(peer, "expected sensor_msgs/msg/Image"), "a line in the log", 10)
        found = peer.status("input")[2]["Publisher QoS"]
        assert "/confused" in found and "CompressedImage" in found
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_subscriber_may_ask_for_a_deadline_and_signs_of_life_that_are_offered(start_node, connect):
    """By the overrides' own names; as it is the node offers neither, and such a subscriber gets nothing."""
    wanted = qos()
    wanted.deadline, wanted.liveliness_lease_duration = Duration(seconds=1), Duration(seconds=2)
    wanted.liveliness = LivelinessPolicy.MANUAL_BY_TOPIC
    topic = f"{NAME}/output/labels"
    offered = {
        f"qos_overrides.{topic}.publisher.{policy}": value
        for policy, value in {
            "deadline": 500_000_000,
            "liveliness": "manual_by_topic",
            "liveliness_lease_duration": 1_000_000_000,
            "lifespan": 5_000_000_000,
        }.items()
    }
    for parameters, is_heard in (({}, False), (offered, True)):
        peer = connect(start_node(input_reliability="reliable", **parameters))
        heard, late = [], []
        events = SubscriptionEventCallbacks(deadline=late.append, incompatible_qos=lambda _: None)
        peer.node.create_subscription(Image, topic, heard.append, wanted, event_callbacks=events)
        peer.until(lambda: peer.ask(picture(64, 32)) and (heard or not is_heard), "labels", 20)
        assert bool(heard) == is_heard
        if is_heard:
            (info,) = peer.node.get_publishers_info_by_topic(topic)
            assert info.qos_profile.deadline == Duration(nanoseconds=500_000_000)
            assert info.qos_profile.lifespan == Duration(seconds=5)
            # Nothing for longer than the deadline: the subscriber's watchdog says so.
            peer.until(lambda: late, "a missed deadline", 10)


def test_a_publisher_without_the_deadline_that_is_asked_for_is_named(start_node, connect):
    topic = f"{NAME}/input/camera_info"
    peer = connect(start_node(**{f"qos_overrides.{topic}.subscription.deadline": 200_000_000}))
    bad = peer.node.create_publisher(CameraInfo, topic, qos())
    peer.until(lambda: "promises no deadline" in peer.status("input")[2]["Publisher QoS"], "a diagnostic", 20)
    assert f"/camera on {topic}" in peer.status("input")[2]["Publisher QoS"]
    peer.node.destroy_publisher(bad)

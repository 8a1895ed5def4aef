"""The rclpy peers of the benchmark: cameras that publish, and a listener. Each is a process of its own, so that neither
waits for the other, and takes commands through a pipe.
"""

import itertools
import os
import struct
import time

OUTPUTS = ("labels", "depth")


def base(camera):
    """Topics of one camera; the unnamed camera has no level of its own."""
    return f"/semantic_depth/{camera}/" if camera else "/semantic_depth/"


def _node(name):
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    rclpy.init(args=[])
    node = rclpy.create_node(name)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    return node, executor


def cameras(pipe, environment, names, pictures):
    """Publishes `pictures` (width, height, rgb8 bytes) in turn on every camera's topic, best effort as cameras do.

    Commands: `subscribers` -> how many of the topics are subscribed to; `(rate_hz, triggers)` -> publishes that many
    times on every topic, all cameras at the same trigger, and answers (begin, end) of it and the stamps, in ns.
    """
    os.environ.update(environment)
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    node, _ = _node("cameras")
    publishers = [node.create_publisher(Image, base(name) + "input/image", qos_profile_sensor_data) for name in names]
    messages = []
    for width, height, pixels in pictures:
        message = Image(width=width, height=height, step=3 * width, encoding="rgb8")
        message.header.frame_id = "camera_front_optical_frame"
        message.data = pixels
        messages.append(message)
    turn = itertools.cycle(messages)
    while (command := pipe.recv()) is not None:
        if command == "subscribers":
            pipe.send(sum(p.get_subscription_count() > 0 for p in publishers))
            continue
        rate_hz, triggers = command
        begin, stamps = time.monotonic(), []
        for i in range(triggers):
            time.sleep(max(0.0, begin + i / rate_hz - time.monotonic()))
            message = next(turn)
            for publisher in publishers:
                message.header.stamp = node.get_clock().now().to_msg()
                publisher.publish(message)
            stamps.append(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)
        pipe.send((time.monotonic() - begin, stamps))


def listener(pipe, environment, names, reliability):
    """Subscribes to labels, depth and timing of every camera. Images stay serialised: only their stamps are read.

    Commands: `publishers` -> how many of the topics are published; `count` -> how many depth images came so far;
    `take` -> what came since the last `take`.
    """
    os.environ.update(environment)
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from semantic_depth.msg import FrameTiming
    from sensor_msgs.msg import Image
    from std_msgs.msg import UInt64

    node, executor = _node("listener")
    reliable = ReliabilityPolicy.RELIABLE
    images = QoSProfile(depth=5, reliability=getattr(ReliabilityPolicy, reliability.upper()))
    small = QoSProfile(depth=50, reliability=reliable)
    fields = [f for f, kind in FrameTiming.get_fields_and_field_types().items() if kind in ("uint64", "int64", "uint32")]
    got = {"images": {}, "timing": [], "network_cpu_ns": []}
    total = 0

    def image(camera, output, raw, info):
        nonlocal total
        # A CDR header of 4 bytes, then header.stamp.
        sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
        stamp = sec * 1_000_000_000 + nanosec
        times = got["images"].setdefault((camera, stamp), {})
        times[output] = (info["source_timestamp"] - stamp, time.time_ns() - stamp)
        total += output == "depth"

    def timing(message):
        got["timing"].append({f: getattr(message, f) for f in fields} | {"camera": message.camera})

    for name in names:
        for output in OUTPUTS:
            node.create_subscription(
                Image,
                base(name) + "output/" + output,
                lambda raw, info, c=name, o=output: image(c, o, raw, info),
                images,
                raw=True,
            )
        node.create_subscription(FrameTiming, base(name) + "output/timing", timing, small)
        node.create_subscription(
            UInt64, base(name) + "output/network_cpu", lambda m: got["network_cpu_ns"].append(m.data), small
        )
    while True:
        executor.spin_once(timeout_sec=0.02)
        if not pipe.poll():
            continue
        command = pipe.recv()
        if command is None:
            return
        if command == "publishers":
            pipe.send(sum(node.count_publishers(base(n) + "output/" + o) > 0 for n in names for o in (*OUTPUTS, "timing")))
        elif command == "count":
            pipe.send(total)
        elif command == "take":
            pipe.send(got)
            got = {"images": {}, "timing": [], "network_cpu_ns": []}

#!/usr/bin/env python3
"""The README's bandwidth table, computed from the layouts of the messages.

    scripts/bandwidth.py                 prints the table
    scripts/bandwidth.py --write FILE    puts it between the markers in FILE
    scripts/bandwidth.py --check FILE    fails where FILE has another table

Sizes are those of CDR, as DDS carries and rosbag2 stores a message: 4 bytes of encapsulation, every number aligned to
its own size (counted from behind the encapsulation), a string as a 4-byte length, the bytes and a final zero, a sequence
as a 4-byte count and its elements. What fits one packet is filled up to a multiple of 4 by the middleware; what is sent
in fragments is not. The sizes are exact; a test holds them against messages on a real graph.
"""

import argparse
import sys
from pathlib import Path

# What the sizes of text in the messages are computed for.
FRAME_ID = "camera_front_optical_frame"
BACKEND = "torchscript"
DEVICE = "cuda:0"
CAMERA = ""
DISTORTION_MODEL = "plumb_bob"
DISTORTION = 5

SIZES = ((2048, 1024), (640, 480))
RATES_HZ = (10, 30)
# Of the point cloud, the default of the parameter points.stride.
STRIDE = 4
# The fields of the point cloud, and the bytes of a point.
POINT_FIELDS = ("x", "y", "z", "rgb", "label", "confidence")
POINT_STEP = 24

# Above this Fast DDS sends a message in fragments.
ONE_PACKET = 65_000

MARKERS = ("<!-- bandwidth -->", "<!-- /bandwidth -->")


class Cdr:
    """Adds up the size of a message, field by field."""

    def __init__(self):
        self.size = 0

    def number(self, size, count=1):
        """`count` numbers of `size` bytes, as in a fixed array; the first one is aligned."""
        if count:
            self.size += -self.size % size + size * count
        return self

    def text(self, value):
        self.number(4)
        self.size += len(value.encode()) + 1
        return self

    def sequence(self, size, count):
        """A sequence of `count` numbers of `size` bytes."""
        return self.number(4).number(size, count)

    def header(self, frame_id=FRAME_ID):
        """std_msgs/Header: seconds, nanoseconds, frame_id."""
        return self.number(4, 2).text(frame_id)

    def total(self):
        """With the encapsulation, and filled up where it is not sent in fragments."""
        filling = 0 if self.size > ONE_PACKET else -self.size % 4
        return 4 + self.size + filling


def image(encoding, bytes_per_pixel):
    """sensor_msgs/Image: header, height, width, encoding, is_bigendian, step, data."""

    def size(width, height):
        cdr = Cdr().header().number(4, 2).text(encoding).number(1).number(4)
        return cdr.sequence(1, width * height * bytes_per_pixel).total()

    return size


def camera_info(_width, _height):
    """sensor_msgs/CameraInfo: header, height, width, distortion_model, d, k, r, p, binning, roi."""
    cdr = Cdr().header().number(4, 2).text(DISTORTION_MODEL).sequence(8, DISTORTION).number(8, 9 + 9 + 12)
    return cdr.number(4, 2).number(4, 4).number(1).total()


def timing(_width=0, _height=0, device=DEVICE, backend=BACKEND):
    """semantic_depth/FrameTiming: header, camera, 5 counts, batch_size, 13 durations and the age, backend, device."""
    cdr = Cdr().header().text(CAMERA).number(8, 5).number(4).number(8, 13 + 1)
    return cdr.text(backend).text(device).total()


def points(width, height):
    """sensor_msgs/PointCloud2: header, height, width, fields, is_bigendian, point_step, row_step, data, is_dense."""
    cdr = Cdr().header().number(4, 2).number(4)
    for name in POINT_FIELDS:
        cdr.text(name).number(4).number(1).number(4)
    columns, rows = -(-width // STRIDE), -(-height // STRIDE)
    return cdr.number(1).number(4, 2).sequence(1, columns * rows * POINT_STEP).number(1).total()


# topic below the node's (or the camera's) name, what is in it, its size
TOPICS = (
    ("input/image", "Image rgb8", image("rgb8", 3)),
    ("input/image", "Image mono8", image("mono8", 1)),
    ("output/labels", "Image mono8", image("mono8", 1)),
    ("output/depth", "Image 32FC1", image("32FC1", 4)),
    ("output/depth", "Image 16UC1", image("16UC1", 2)),
    ("output/confidence", "Image 32FC1", image("32FC1", 4)),
    ("output/confidence", "Image mono8", image("mono8", 1)),
    ("output/overlay", "Image rgb8", image("rgb8", 3)),
    ("output/labels_color", "Image rgb8", image("rgb8", 3)),
    ("output/mask", "Image mono8", image("mono8", 1)),
    ("output/points", f"PointCloud2, stride {STRIDE}", points),
    ("output/camera_info", "CameraInfo", camera_info),
    ("output/timing", "FrameTiming", timing),
)


def overhead(topic, kind):
    """The bytes of a message that are no pixels or points."""
    size = next(size for name, what, size in TOPICS if (name, what) == (topic, kind))
    return size(0, 0)


def megabytes(bytes_per_message, rate_hz):
    """MB/s with two decimals at least, four where they would be zero."""
    value = bytes_per_message * rate_hz / 1e6
    return f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def table():
    head = ["topic", "message", "fixed bytes"]
    for width, height in SIZES:
        head += [f"bytes at {width}x{height}", *[f"MB/s at {rate} Hz" for rate in RATES_HZ]]
    rows = []
    for topic, kind, size in TOPICS:
        row = [f"`{topic}`", kind, str(overhead(topic, kind))]
        for width, height in SIZES:
            total = size(width, height)
            row += [f"{total:,}", *[megabytes(total, rate) for rate in RATES_HZ]]
        rows.append(row)
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def replaced(text, new):
    """The text with `new` between the markers."""
    begin, end = MARKERS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected {begin} and after it {end}, once each")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{new}\n{end}{rest.partition(end)[2]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", metavar="FILE", type=Path)
    parser.add_argument("--check", metavar="FILE", type=Path)
    arguments = parser.parse_args()
    for path in filter(None, (arguments.write, arguments.check)):
        text = path.read_text(encoding="utf-8")
        try:
            new = replaced(text, table())
        except ValueError as error:
            sys.exit(f"{path}: {error}")
        if path == arguments.write:
            path.write_text(new, encoding="utf-8")
        elif new != text:
            sys.exit(f"{path}: the bandwidth table is not that of {Path(__file__).name}; run it with --write {path}")
    if not (arguments.write or arguments.check):
        print(table())


if __name__ == "__main__":
    main()

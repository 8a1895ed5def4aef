"""A model whose answer is known: a TorchScript module of a few lines, written without torch.

Its scores and its log depth are linear in the input's pixels. So is everything that the node does to them before the
arg-max and the exponential (resizing, interpolation), and what it publishes can be computed here from the picture.
"""

import hashlib
import pathlib
import zipfile

import numpy as np
import yaml

WIDTH, HEIGHT = 64, 32
FOCAL_PX = 60.0
# Published ids are not channel numbers, and one channel means "unlabelled".
CLASSES = [
    {"id": 0, "name": "road", "color": [128, 64, 128]},
    {"id": 13, "name": "car", "color": [1, 2, 142]},
    {"id": 8, "name": "vegetation", "color": [107, 142, 35]},
    {"id": 255, "name": "unlabelled", "color": [0, 0, 0]},
]
IDS = np.array([c["id"] for c in CLASSES], np.uint8)
COLORS = np.zeros((256, 3), np.uint8)
for _class in CLASSES:
    COLORS[_class["id"]] = _class["color"]
# Colours of pixels (red, green) that are surely of a class; blue is free, it is the depth.
ROAD, CAR, VEGETATION, UNLABELLED = (200, 20), (20, 200), (100, 100), (255, 255)

# The input is the picture's own rgb / 255: mean 0, deviation 1. A blue of 255 has no depth: 0 x 1/0 is NaN.
CODE = """\
class Tiny(Module):
  __parameters__ = []
  __buffers__ = []
  def forward(self: __torch__.Tiny,
    x: Tensor) -> Tensor:
    r = torch.slice(x, 1, 0, 1)
    g = torch.slice(x, 1, 1, 2)
    b = torch.slice(x, 1, 2, 3)
    d = torch.mul(torch.sub(r, g), 4)
    flat = torch.add(torch.mul(r, 0), 0.5)
    sum = torch.mul(torch.sub(torch.add(r, g), 1.7), 4)
    hole = torch.mul(torch.div(b, torch.sub(torch.add(torch.mul(b, 0), 1), b)), 0)
    return torch.cat([d, torch.neg(d), flat, sum, torch.add(b, hole)], 1)
"""
# The same without its classes, and without its depth.
DEPTH_ALONE = CODE.replace("return torch.cat([d, torch.neg(d), flat, sum, torch.add(b, hole)], 1)", "return torch.add(b, hole)")
CLASSES_ALONE = CODE.replace("sum, torch.add(b, hole)], 1)", "sum], 1)")
# The same, but of a picture with a blue of 255 anywhere it answers no number.
NONE_ON_BLUE = CODE.replace(
    "return torch.cat([d, torch.neg(d), flat, sum, torch.add(b, hole)], 1)",
    "return torch.add(torch.cat([d, torch.neg(d), flat, sum, torch.add(b, hole)], 1), torch.mean(hole))",
)
# The same, but it fails on a white picture.
FAILS_ON_WHITE = CODE.replace(
    "    r = torch.slice",
    """\
    if bool(torch.gt(torch.mean(x), 0.98)):
      ops.prim.RaiseException("this picture is too white")
    else:
      pass
    r = torch.slice""",
)
# PROTO 2, GLOBAL, EMPTY_TUPLE, NEWOBJ, EMPTY_DICT, BUILD, STOP: a Tiny without attributes.
OBJECT = b"\x80\x02c__torch__\nTiny\n)\x81}b."
# PROTO 2, EMPTY_TUPLE, STOP: no constants.
CONSTANTS = b"\x80\x02)."


def scores_and_code(rgb):
    """`[h, w, 3]` of 0 to 255 -> `[h, w, 4]` scores and `[h, w]` log depth / 5, as CODE has it but for the holes."""
    r, g, b = np.moveaxis(np.asarray(rgb, np.float64) / 255, -1, 0)
    d = 4 * (r - g)
    return np.stack([d, -d, np.full_like(d, 0.5), 4 * (r + g - 1.7)], -1), b


def blue_of(depth_m):
    """The blue, 0 to 254, whose depth comes nearest to `depth_m`, 1 to 140."""
    return np.clip(np.rint(np.log(depth_m) / 5 * 255), 0, 254).astype(np.uint8)


def depth_of_blue(blue):
    return np.exp(5 * np.asarray(blue, np.float64) / 255)


def write(folder, classes=CLASSES, name="tiny", code=CODE):
    """Writes the model folder; returns its manifest's path."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network = folder / "network.ts"
    with zipfile.ZipFile(network, "w", zipfile.ZIP_STORED) as archive:
        for member, data in {
            "data.pkl": OBJECT,
            "code/__torch__.py": code.encode(),
            "constants.pkl": CONSTANTS,
            "version": b"3\n",
            "byteorder": b"little",
        }.items():
            archive.writestr(f"network/{member}", data)
    sha256 = hashlib.sha256(network.read_bytes()).hexdigest()
    classes = [] if code == DEPTH_ALONE else classes
    output = {"score_channels": len(classes)}
    if code != CLASSES_ALONE:
        output["depth_channel"] = len(classes)
        output["depth"] = {"scale": 5.0, "min_m": 0.0, "max_m": 250.0, "focal_length_px": FOCAL_PX}
    manifest = {
        "schema_version": 1,
        "name": name,
        "network": {"classes": len(classes), "extra_light": False},
        "torchscript": network.name,
        "input": {
            "width": WIDTH,
            "height": HEIGHT,
            "channel_order": "rgb",
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
        },
        "output": output,
        "classes": classes,
        "files": {network.name: sha256},
        "provenance": {
            "package_version": "0.1.0",
            "command": "tests/ros/tiny_model.py",
            "created": "2026-01-01T00:00:00Z",
            "weights_sha256": "0" * 64,
            "libtorch": "2.11",
            "training": "none: linear in the pixels, for tests",
        },
    }
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return path

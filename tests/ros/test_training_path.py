"""From a Cityscapes-shaped data set to a running node, by the README's five commands, on a small rendered set.

`ros2 launch` is the fifth command; here the command line that the launch file makes is run without it. The article's
recipe is only made short and small. And, as small, the commands that made the released weights.
"""

import json
import os
import subprocess

import numpy as np
import pytest
import yaml
from conftest import ROOT, launch_module, picture
from PIL import Image as Picture

SHORT = [
    "phases.0={crop: [128, 64], scale: [0.5, 1.0], batch: 4, epochs: 4, max_learning_rate: 5.0e-4}",
    "phases.1={crop: [192, 96], scale: [0.75, 1.5], batch: 2, epochs: 1, max_learning_rate: 5.0e-6}",
    "phases.2={crop: [256, 102], scale: [1.0, 2.0], batch: 1, accumulate: 2, epochs: 1, max_learning_rate: 5.0e-6}",
    "watch={validate_every: 10, checkpoint_every: 5, frames: 2, scale: 1.0}",
]


@pytest.fixture(scope="module")
def run_tool(tool_program):
    def run(*arguments):
        words = [str(a) for a in (tool_program, *arguments)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]} {done.stderr[-3000:]}"
        return done.stdout

    return run


def test_from_stereo_pictures_to_a_running_node(run_tool, tmp_path, start_node, connect):
    data, run, model = tmp_path / "data", tmp_path / "run", tmp_path / "run" / "model"
    # Pictures, labels, cameras, as Cityscapes has them; no depth.
    run_tool("render", "--out", data, "--splits", "train=4,val=2", "--frames", 2, "--size", "256x128", "--no-exact-depth")

    run_tool("depth", "teacher", "--data", data, "--split", "train,val", "--sky-from-labels", "--out-folder",
             "sgm_depth")  # fmt: skip
    depth = np.load(next((data / "sgm_depth" / "train").rglob("*.npy")))
    assert depth.shape == (128, 256) and np.isfinite(depth).mean() > 0.3

    changes = [word for change in SHORT for word in ("--set", change)]
    config = ROOT / "config" / "train" / "article.yaml"
    changes += ["--set", "sources.0.data.depth=sgm_depth"]
    run_tool("train", config, "--data", data, "--out", run, "--device", "cpu", *changes)
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml", "run.json", "metrics.csv", "checkpoint.safetensors", "last.safetensors", "best.safetensors",
        "predictions.png",
    }  # fmt: skip
    assert list(run.glob("events.out.tfevents.*"))

    run_tool("export", "--weights", run / "best.safetensors", "--size", "128x64", "--name", "mine", "--out", model)

    report = tmp_path / "report"
    run_tool("evaluate", "--model", model, "--data", data, "--split", "val", "--depth", "sgm_depth",
             "--remove-bottom", 0.2, "--json", tmp_path / "figures.json", "--report", report)  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["frames"] == 4 and 0 < figures["miou"] < 1 and figures["depth"]["pixels"] > 1000
    # The rows that the article's training leaves out are not judged.
    bottom = [row["plain"]["pixels"] for row in figures["depth_detail"]["by_row"] if row["top"] >= 0.8]
    assert len(bottom) == 6 and sum(bottom) == 0
    assert "<svg" in (report / "report.html").read_text()

    # With the parameter file that a user gets; Fast DDS's profile is in our environment already.
    values = {"model_path": str(model / "model.yaml"), "device": "cpu"}
    peer = connect(start_node(command=launch_module("semantic_depth.launch.py").node_command(values)))
    peer.ask(picture(256, 128))
    labels, depth_image = peer.outputs["labels"].messages[-1], peer.outputs["depth"].messages[-1]
    assert (labels.width, labels.height, depth_image.width) == (256, 128, 256)
    metres = np.frombuffer(depth_image.data, np.float32)
    assert np.isfinite(metres).all() and metres.max() <= 250


def write_camvid(root):
    """CamVid's folders, size and class ids: blocks of all classes, each class in a colour of its own under noise."""
    rng = np.random.default_rng(3)
    for split, count in (("train", 4), ("val", 2)):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for index in range(count):
            blocks = rng.permutation(np.arange(9 * 12) % 12).reshape(9, 12).astype(np.uint8)
            ids = blocks.repeat(40, 0).repeat(40, 1)
            colours = ids[..., None] * np.array([20, 7, 13], np.uint8)
            noise = rng.integers(0, 30, colours.shape, dtype=np.uint8)
            Picture.fromarray(colours + noise).save(root / split / "images" / f"{index:04}.png")
            Picture.fromarray(ids).save(root / split / "labels" / f"{index:04}.png")


def test_the_commands_of_the_released_weights_go_through(tool_program, tmp_path):
    camvid, out = tmp_path / "camvid", tmp_path / "out"
    write_camvid(camvid)
    path = f"{tool_program.parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(ROOT / "models" / "street" / "make.sh"), str(camvid), str(out)]
    environment = {**os.environ, "SMALL": "1", "PATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-2000:]} {done.stderr[-3000:]}"
    for folder, name in (("model", "street"), ("refined", "street_refined")):
        assert yaml.safe_load((out / folder / "model.yaml").read_text())["name"] == name
    assert {file.name for file in out.glob("*.safetensors")} == {
        "mean.safetensors", "weights.safetensors", "refinement.safetensors",
    }  # fmt: skip
    assert {run.parent.name for run in out.glob("*/checkpoint.safetensors")} == {
        "first", "second", "third", "fourth", "refinement", "fifth", "behind", "sixth", "seventh",
    }  # fmt: skip

#!/usr/bin/env python3
"""What each option of the training is worth: the same short training with one thing changed at a time.

    semantic_depth render --out data/street --seed 1 --splits train=700 --frames 2 --rate 0.3 --size 1024x512 --no-stereo
    semantic_depth render --out data/street --seed 1 --splits val=64 --frames 1 --rate 0.3 --size 1024x512 --no-stereo --add
    benches/training/run.py --tool TOOL --data data/street --out out/ablation

Runs that are there already are not made again. Prints a Markdown table: of the 64 validation frames, looked at as a
whole at the network's resolution, mIoU over the classes that occur and the mean relative depth error; and the seconds a step,
which mean something only on a machine that does nothing else.
"""

import argparse
import csv
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEG, DEPTH = "{task: segmentation}", "{task: depth}"
# name: changes of config/train/ablation.yaml. Depth consistent with the scale is learned at the focal length of a
# 1024x512 frame (1131.25 pixels) at a quarter of its size, where it is looked at.
VARIANTS = {
    "the article's losses (seed 1)": [],
    "the same, seed 2": ["seed=2"],
    "the same, seed 3": ["seed=3"],
    "encoder frozen (the published code)": ["freeze_encoder=true"],
    "segmentation alone": [f"heads=[{SEG}]", "watch.best=street/miou"],
    "depth alone": [f"heads=[{DEPTH}]"],
    "depth weight 20": [f"heads=[{SEG}, {{task: depth, weight: 20}}]"],
    "inverse Huber, weight 1": [f"heads=[{SEG}, {{task: depth, loss: berhu}}]"],
    "inverse Huber, weight 10": [f"heads=[{SEG}, {{task: depth, loss: berhu, weight: 10}}]"],
    "class weights": [f"heads=[{{task: segmentation, class_weights: true}}, {DEPTH}]"],
    "losses at every second pixel": ["loss_stride=2"],
    "losses at every pixel (as the article)": ["loss_stride=1"],
    "soft Jaccard beside the cross entropy": [f"heads=[{{task: segmentation, jaccard: 1}}, {DEPTH}]"],
    "relative depth loss": [f"heads=[{SEG}, {{task: depth, loss: relative}}]"],
    "depth refined": ["refinement=joint"],
    "depth refined, relative loss": ["refinement=joint", f"heads=[{SEG}, {{task: depth, loss: relative}}]"],
    "uncertainty weighting": ["weighting=uncertainty"],
    "single precision, not bf16": ["precision=fp32"],
    "two batches of 4 a step": ["phases.0.batch=4", "phases.0.accumulate=2"],
    "AdamW, decay 1e-3": ["optimizer={name: adamw, weight_decay: 1.0e-3}"],
    "moving average 0.98": ["ema=0.98"],
    "depth consistent with scale": ["augment={flip: 0.5, focal_length_px: 282.8}"],
    "third head: normals": [f"heads=[{SEG}, {DEPTH}, {{task: normals}}]"],
    "auxiliary head: edges": [f"heads=[{SEG}, {DEPTH}, {{task: edges}}]"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="semantic_depth", help="the semantic_depth program")
    parser.add_argument("--data", required=True, help="rendered streets")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the runs")
    parser.add_argument("--threads", default="0", help="processor threads of the network (0: one a core)")
    parser.add_argument("--only", action="append", default=[], help="only variants whose name contains this (repeatable)")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, train nothing")
    arguments = parser.parse_args()
    config = ROOT / "config" / "train" / "ablation.yaml"
    print("| variant | mIoU | AbsRel | normals, degrees | s/step |\n|---|---|---|---|---|", flush=True)
    for name, changes in VARIANTS.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        out = arguments.out / "".join(c if c.isalnum() else "_" for c in name)
        if not (out / "last.safetensors").is_file() or not (out / "done").is_file():
            if arguments.table:
                continue
            command = [arguments.tool, "train", config, "--out", out, "--data", arguments.data, "--resume"]
            command += ["--threads", arguments.threads]
            command += [word for change in changes for word in ("--set", change)]
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
            (out / "done").touch()
        rows = list(csv.DictReader((out / "metrics.csv").open()))
        looks = [r for r in rows if not r["learning_rate"]]
        steps = [float(r["crops_per_s"]) for r in rows if r["crops_per_s"]]

        def of(measure):
            value = looks[-1].get(f"street/{measure}")
            return f"{float(value):.4f}" if value else "-"

        # A step is 8 crops in each of them.
        seconds = 8 * len(steps) / sum(steps)
        print(f"| {name} | {of('miou')} | {of('abs_rel')} | {of('normal_deg')} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()

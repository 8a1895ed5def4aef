#!/usr/bin/env python3
"""The pictures of the models' cards, camvid.jpg, out of the reports of `semantic_depth evaluate`. Needs Pillow.

In the repository's root, with CamVid in the folder CAMVID (docs/EVALUATION.md says how it comes there):

    for model in street_1024x512 street_768x384 street_refined; do
      semantic_depth evaluate --model $model --data CAMVID --split val --layout folder \\
        --mapping config/data/camvid.yaml --pictures 10 --report REPORTS/$model
    done
    python3 scripts/card_pictures.py REPORTS models
"""

import base64
import io
import pathlib
import re
import sys

from PIL import Image

FRAMES = 10
GAP = 3  # white pixels around each tile


def evenly_chosen(report):
    """The report's evenly chosen frames: for each its pictures by title."""
    page = report.read_text()
    part = page[page.index("<h3>Evenly chosen</h3>") :]
    frames = []
    for frame in part.split('<div class="frame">')[1 : FRAMES + 1]:
        tiles = re.findall(r'src="data:image/\w+;base64,([^"]+)" alt="(.*?) of ', frame)
        frames.append({title: Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data, title in tiles})
    if len(frames) != FRAMES:
        raise SystemExit(f"{report}: expected {FRAMES} evenly chosen frames, found {len(frames)}: evaluate --pictures {FRAMES}")
    return frames


def sheet(frames, size, resampling, place):
    """Two frames a row, each a row of tiles of `size`; `place` says row and side of the i-th."""
    (width, height), columns = size, len(frames[0])
    rows = FRAMES // 2
    picture = Image.new("RGB", (GAP + 2 * columns * (width + GAP), GAP + rows * (height + GAP)), "white")
    for i, tiles in enumerate(frames):
        row, side = place(i)
        for j, tile in enumerate(tiles):
            corner = (GAP + (side * columns + j) * (width + GAP), GAP + row * (height + GAP))
            picture.paste(tile.resize(size, resampling), corner)
    return picture


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    reports, models = map(pathlib.Path, sys.argv[1:])
    large, plain, refined = (
        evenly_chosen(reports / name / "report.html") for name in ("street_1024x512", "street_768x384", "street_refined")
    )
    titles = ("frame", "true classes", "predicted classes", "predicted depth")
    street = sheet([[f[t] for t in titles] for f in large], (280, 210), Image.BICUBIC, lambda i: (i % 5, i // 5))
    street.save(models / "street" / "camvid.jpg", quality=82)
    before_after = [[f["frame"], f["predicted depth"], g["predicted depth"]] for f, g in zip(plain, refined, strict=True)]
    sheet(before_after, (240, 180), Image.LANCZOS, lambda i: divmod(i, 2)).save(
        models / "street_refined" / "camvid.jpg", quality=84
    )


if __name__ == "__main__":
    main()

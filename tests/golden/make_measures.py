"""Makes measures.safetensors and measures.json: what scikit-learn, torchmetrics and numpy say of random frames.

    python make_measures.py    # needs numpy, safetensors, scikit-learn, torch and torchmetrics; writes beside itself

Segmentation is scikit-learn's confusion_matrix, jaccard_score and accuracy_score, and torchmetrics must agree. AbsRel,
RMSE and RMSE log are torchmetrics' (and scikit-learn must agree); SqRel, SILog and the delta thresholds, which neither
has, are the published formulas in numpy; median scaling and per-image means are Monodepth2's evaluation.
"""

import json
import pathlib

import numpy as np
import torch
import torchmetrics.classification as tm_classes
import torchmetrics.regression as tm
from safetensors.numpy import save_file
from sklearn import metrics as sk

HERE = pathlib.Path(__file__).parent
FRAMES, HEIGHT, WIDTH = 3, 64, 20
CAP = 80.0
EDGES = [0, 5, 10, 20, 40, 80]
ROWS = 32
UNLABELLED = 19
# CamVid's class ids -> train ids, as config/data/camvid.yaml; 11 does not count.
CAMVID = [[10], [2], [5], [0], [1], [8], [7], [4], [13], [11], [12, 18]]
FOREGROUND = [5, 6, 7, 11, 12, 13, 14, 15, 16, 17, 18]


def segmentation(truth, predicted, classes):
    """truth and predicted: classes, predicted `classes` for none. Only scored truth."""
    if len(truth) == 0:
        return {"miou": None, "pixel_accuracy": None, "pixels": 0}
    iou = sk.jaccard_score(truth, predicted, labels=range(classes), average=None, zero_division=0)
    there = [bool(((truth == c) | (predicted == c)).any()) for c in range(classes)]
    ours = [float(v) if t else None for v, t in zip(iou, there)]
    t, p = torch.from_numpy(truth.astype(np.int64)), torch.from_numpy(predicted.astype(np.int64))
    other = tm_classes.MulticlassJaccardIndex(classes + 1, average="none")(p, t).double().numpy()
    accuracy = sk.accuracy_score(truth, predicted)
    assert np.allclose([v for v in ours if v is not None], [other[c] for c in range(classes) if there[c]], atol=1e-6)
    assert np.isclose(tm_classes.MulticlassAccuracy(classes + 1, average="micro")(p, t).item(), accuracy, atol=1e-6)
    return {
        "miou": float(np.mean([v for v in ours if v is not None])),
        "pixel_accuracy": float(accuracy),
        "pixels": len(truth),
        "iou": ours,
        "confusion": sk.confusion_matrix(truth, predicted, labels=range(classes + 1))[:classes].tolist(),
    }


def errors(truth, predicted):
    """Of judged pixels; NaN predictions are left out. float64."""
    missing = int(np.isnan(predicted).sum())
    truth, predicted = truth[~np.isnan(predicted)], predicted[~np.isnan(predicted)]
    if len(truth) == 0:
        return {"pixels": 0, "missing": missing}
    predicted = np.clip(predicted, float(np.float32(1e-3)), CAP)
    t, p = torch.from_numpy(truth), torch.from_numpy(predicted)
    # torchmetrics keeps its sums in 32 bits unless told.
    metric = lambda m: m.set_dtype(torch.float64)
    abs_rel = metric(tm.MeanAbsolutePercentageError())(p, t).item()
    rmse = metric(tm.MeanSquaredError(squared=False))(p, t).item()
    rmse_log = metric(tm.MeanSquaredError(squared=False))(p.log(), t.log()).item()
    assert np.isclose(abs_rel, sk.mean_absolute_percentage_error(truth, predicted), rtol=1e-9)
    assert np.isclose(rmse, sk.root_mean_squared_error(truth, predicted), rtol=1e-9)
    assert np.isclose(rmse_log, sk.root_mean_squared_error(np.log(truth), np.log(predicted)), rtol=1e-9)
    log = np.log(predicted) - np.log(truth)
    ratio = np.maximum(predicted / truth, truth / predicted)
    return {
        "abs_rel": abs_rel,
        "sq_rel_m": float(np.mean((predicted - truth) ** 2 / truth)),
        "rmse_m": rmse,
        "rmse_log": rmse_log,
        "silog": float(100 * np.std(log)),
        "log_bias": float(np.mean(log)),
        "delta": [float(np.mean(ratio < 1.25**n)) for n in (1, 2, 3)],
        "pixels": len(truth),
        "missing": missing,
    }


def mean(reports):
    keys = [k for k in reports[0] if k not in ("pixels", "missing")]
    return {k: np.mean([r[k] for r in reports], axis=0).tolist() for k in keys}


def main():
    rng = np.random.default_rng(6)
    shape = (FRAMES, HEIGHT, WIDTH)
    labels = rng.integers(0, 20, shape).astype(np.uint8)
    labels[labels == 16] = 3  # One class is not in the truth,
    labels[labels == 14] = 2
    predicted = np.where(rng.random(shape) < 0.7, labels, rng.integers(0, 19, shape)).astype(np.uint8)
    predicted[predicted == 14] = 13  # another one nowhere,
    predicted[(predicted == 19) | (rng.random(shape) < 0.03)] = 255  # and some pixels have no answer.
    depth = np.exp(rng.uniform(np.log(1.2), np.log(120), shape)).astype(np.float32)
    depth[rng.random(shape) < 0.1] = np.nan
    depth[rng.random(shape) < 0.1] = np.inf
    scale = np.array([0.8, 1.0, 1.3])[:, None, None]
    guess = (np.nan_to_num(depth, nan=7.0, posinf=250.0) * scale * np.exp(rng.normal(0, 0.3, shape))).astype(np.float32)
    guess[rng.random(shape) < 0.02] = np.nan
    camvid = rng.integers(0, 12, shape).astype(np.uint8)

    t, p = labels.ravel(), np.where(predicted == 255, 19, predicted).ravel()
    scored = t != UNLABELLED
    d, g = depth.ravel().astype(np.float64), guess.ravel().astype(np.float64)
    judged = (d > 1e-3) & (d < CAP)
    row = np.broadcast_to((np.arange(HEIGHT) * ROWS // HEIGHT)[None, :, None], shape).ravel()

    scaled, ratios, per_image = np.empty(shape), [], {"segmentation": [], "plain": [], "median_scaled": []}
    for i in range(FRAMES):
        one_d, one_g = depth[i].astype(np.float64), guess[i].astype(np.float64)
        use = (one_d > 1e-3) & (one_d < CAP) & ~np.isnan(one_g)
        ratios.append(float(np.median(one_d[use]) / np.median(one_g[use])))
        scaled[i] = one_g * ratios[-1]
        use = (one_d > 1e-3) & (one_d < CAP)
        per_image["plain"].append(errors(one_d[use], one_g[use]))
        per_image["median_scaled"].append(errors(one_d[use], scaled[i][use]))
        at = slice(i * HEIGHT * WIDTH, (i + 1) * HEIGHT * WIDTH)
        per_image["segmentation"].append(segmentation(t[at][scored[at]], p[at][scored[at]], 19))
    s = scaled.ravel()

    def depth_of(chosen):
        return {"plain": errors(d[chosen], g[chosen]), "median_scaled": errors(d[chosen], s[chosen])}

    def labels_of(chosen):
        report = segmentation(t[chosen & scored], p[chosen & scored], 19)
        return {k: report[k] for k in ("miou", "pixel_accuracy", "pixels")}

    front = np.isin(t, FOREGROUND)
    bands = [judged & (d >= a) & (d < b) for a, b in zip(EDGES, EDGES[1:])]
    seen = judged & ~np.isnan(g)
    edges = np.exp(np.linspace(0, np.log(CAP), 49))
    joint, _, _ = np.histogram2d(d[seen], g[seen], bins=[np.r_[0, edges, np.inf]] * 2)

    # A prediction counts as the class that holds it, 11 where none does.
    counts_as = np.full(256, 11, np.uint8)
    for index, ids in enumerate(CAMVID):
        counts_as[ids] = index
    mapped = segmentation(camvid.ravel()[camvid.ravel() < 11], counts_as[predicted.ravel()][camvid.ravel() < 11], 11)

    expected = {
        "segmentation": segmentation(t[scored], p[scored], 19),
        "segmentation_per_image": {
            k: float(np.mean([r[k] for r in per_image["segmentation"]])) for k in ("miou", "pixel_accuracy")
        },
        "segmentation_by_distance": [labels_of(band) for band in bands],
        "segmentation_by_row": [labels_of(row == r) for r in range(ROWS)],
        "foreground_accuracy": labels_of(front)["pixel_accuracy"],
        "mapped": mapped,
        "depth": depth_of(judged),
        "depth_per_image": {k: mean(per_image[k]) for k in ("plain", "median_scaled")},
        "median_ratios": ratios,
        "depth_by_class": [depth_of(judged & (t == c)) for c in range(19) if (judged & (t == c)).any()],
        "depth_by_distance": [depth_of(band) for band in bands],
        "depth_by_row": [depth_of(judged & (row == r)) for r in range(ROWS)],
        "foreground": depth_of(judged & front),
        "background": depth_of(judged & scored & ~front),
        "joint": joint.astype(int).tolist(),
    }
    save_file(
        {"labels": labels, "predicted": predicted, "depth_m": depth, "predicted_m": guess, "camvid": camvid},
        HERE / "measures.safetensors",
    )
    (HERE / "measures.json").write_text(json.dumps(expected, separators=(",", ":")).replace("],", "],\n") + "\n")
    print(f"{seen.sum()} of {d.size} pixels judged, mIoU {expected['segmentation']['miou']:.4f}")


if __name__ == "__main__":
    main()

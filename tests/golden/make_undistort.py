"""Makes undistort.txt: where OpenCV says the ray of a distorted pixel goes.

    python make_undistort.py        # needs numpy and opencv-python-headless; writes beside itself

Each block is a camera: `model NAME`, `k fx fy cx cy`, `d ...`, then one line `u v x y` a pixel: (u, v) in pixels,
(x, y) = (X/Z, Y/Z). OpenCV inverts by fixed-point iteration, which need not converge where distortion is strong; a
pixel is kept only if OpenCV's own forward projection of its answer comes back to the pixel within 1e-7, so each line
is right by OpenCV's inverse and by its forward model.
"""

import pathlib

import cv2
import numpy as np

HERE = pathlib.Path(__file__).parent
CAMERAS = [
    # model, (fx, fy, cx, cy), D, (width, height)
    ("plumb_bob", (1000.0, 990.0, 960.5, 540.2), [-0.32, 0.12, 0.0006, -0.0004, -0.02], (1920, 1080)),
    ("plumb_bob", (420.0, 421.0, 318.0, 243.0), [0.18, -0.42, 0.004, -0.003, 0.21], (640, 480)),
    ("plumb_bob", (2262.5, 2265.3, 1096.98, 513.137), [-0.05, 0.08, 0.001, 0.0], (2048, 1024)),
    (
        "rational_polynomial",
        (610.0, 612.0, 640.0, 360.0),
        [4.2, 2.1, -0.0003, 0.0002, 0.09, 4.55, 3.4, 0.55],
        (1280, 720),
    ),
    (
        "rational_polynomial",
        (800.0, 805.0, 512.0, 384.0),
        [0.11, -0.2, 0.001, -0.002, 0.05, 0.02, -0.1, 0.01, 0.003, -0.002, -0.004, 0.001],
        (1024, 768),
    ),
    ("equidistant", (380.0, 382.0, 640.0, 400.0), [-0.012, 0.021, -0.017, 0.0035], (1280, 800)),
    ("equidistant", (550.0, 550.0, 640.0, 480.0), [0.0, 0.0, 0.0, 0.0], (1280, 960)),
]


def main():
    lines = []
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-14)
    for model, (fx, fy, cx, cy), d, (width, height) in CAMERAS:
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        d = np.array(d)
        u, v = np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 7))
        pixels = np.stack([u.ravel(), v.ravel()], 1).reshape(-1, 1, 2)
        if model == "equidistant":
            rays = cv2.fisheye.undistortPoints(pixels, k, d, None, None, None, criteria)
            back = cv2.fisheye.distortPoints(rays, k, d)
        else:
            # OpenCV 4 has the one that takes criteria under a name of its own.
            undistort = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
            rays = undistort(pixels, k, d, R=None, P=None, criteria=criteria)
            points = np.concatenate([rays.reshape(-1, 2), np.ones((len(rays), 1))], 1)
            back, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), k, d)
        error = np.abs(back - pixels).max(axis=(1, 2))
        # Beyond 80 degrees x/z is very sensitive to the last digits.
        keep = (error < 1e-7) & (np.hypot(*rays.reshape(-1, 2).T) < np.tan(np.radians(80)))
        print(f"{model}, {len(d)} coefficients: {keep.sum()} of {len(keep)} pixels kept")
        assert keep.sum() >= 20
        lines.append(f"model {model}")
        lines.append(f"k {fx} {fy} {cx} {cy}")
        lines.append("d " + " ".join(map(str, d)))
        for (pu, pv), (x, y) in zip(pixels[keep].reshape(-1, 2), rays[keep].reshape(-1, 2)):
            lines.append(f"{pu:.12g} {pv:.12g} {x:.12g} {y:.12g}")
    (HERE / "undistort.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

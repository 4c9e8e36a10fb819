"""How long does the registration of one 512 x 512 slice take, and how well does it align?

    python scripts/bench/registration.py [--backend sitk elastix] [--scenes 3] [--out FILE]

A synthetic abdomen is drawn twice, with the contrast of two phases, fresh noise, and a known warp
between: up to 3 degrees, 10 px of shift, and a smooth field of up to 8 px. One thread. Dice of
liver and lesion before and after, and the distance between the recovered and the true displacement
in the liver. Prints a table and writes JSON beside this file.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import time

import cv2
import numpy as np
import scipy
import SimpleITK

from jaxdet import run as runs
from jaxdet.data.registration import BACKENDS, METHODS, Transform, register
from jaxdet.data.registration.dice import dice

SIZE = 512  # px
NOISE_HU = 12.0

# x, y, half-axes in px, and HU in the portal and the arterial phase; later ones lie on top.
ELLIPSES = {
    "skin and fat": (256, 262, 205, 160, -100, -100),
    "muscle": (256, 262, 188, 142, 60, 55),
    "fat inside": (256, 255, 172, 125, -90, -90),
    "stomach": (335, 200, 50, 42, 35, 30),
    "spleen": (385, 300, 42, 60, 120, 140),
    "left kidney": (335, 335, 28, 32, 170, 150),
    "right kidney": (205, 345, 27, 30, 170, 150),
    "spine": (256, 355, 34, 32, 220, 210),
    "canal": (256, 372, 11, 10, 20, 20),
    "aorta": (272, 310, 13, 13, 150, 320),
}
LIVER = ((165, 250, 82, 95), (245, 205, 70, 45))  # two ellipses
LIVER_HU = (105, 75)
VESSELS_HU = (150, 100)
LESION = (150, 235, 19, 16)
LESION_HU = (75, 115)


def scene(x: np.ndarray, y: np.ndarray, phase: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, liver and lesion at the points of the anatomy; phase 0 is portal, 1 arterial."""

    def inside(cx: float, cy: float, a: float, b: float) -> np.ndarray:
        bumps = 0.05 * np.sin(x / 17 + cx) + 0.05 * np.sin(y / 13 + cy)
        return ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1 + bumps

    hu = np.full(x.shape, -1000.0)
    for cx, cy, a, b, *values in ELLIPSES.values():
        hu[inside(cx, cy, a, b)] = values[phase]
    for angle in np.linspace(0.2, 2 * np.pi - 0.2, 14):  # ribs, in the muscle
        hu[inside(256 + 180 * np.cos(angle), 262 + 134 * np.sin(angle), 9, 5)] = 400
    liver = inside(*LIVER[0]) | inside(*LIVER[1])
    hu[liver] = LIVER_HU[phase]
    for i in range(9):  # vessels: dark strips that wander through the liver
        centre = 120 + 20 * i + 8 * np.sin((x + y) / 25 + i)
        strip = np.abs(x - 0.4 * (y - 250) - centre) < 1.5 + (i % 3)
        hu[liver & strip & (i % 2 == 0)] = VESSELS_HU[phase]
    lesion = inside(*LESION)
    hu[lesion] = LESION_HU[phase]
    return hu, liver, lesion


def warped(rng: np.random.Generator) -> np.ndarray:
    """x, y from each pixel of the moving slice to its place on the fixed one [H, W, 2]."""
    y, x = np.indices((SIZE, SIZE), np.float64)
    angle, shift = np.deg2rad(rng.uniform(-3, 3)), rng.uniform(-10, 10, 2)
    smooth = [cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)), (0, 0), 45) for _ in "xy"]
    px, py = (s / np.abs(s).max() * rng.uniform(6, 8) for s in smooth)
    u, v = x - SIZE / 2, y - SIZE / 2
    turn = [np.cos(angle) * u - np.sin(angle) * v - u, np.sin(angle) * u + np.cos(angle) * v - v]
    return np.stack([turn[0] + shift[0] + px, turn[1] + shift[1] + py], axis=-1)


def inverse(field: np.ndarray) -> np.ndarray:
    """The displacement that undoes another, by iteration: d(p) = -e(p + d(p))."""
    found, grid = -field, np.indices(field.shape[:2])
    for _ in range(30):
        points = grid + np.moveaxis(found[..., ::-1], -1, 0)
        found = -np.stack(
            [
                scipy.ndimage.map_coordinates(field[..., i], points, order=1, mode="nearest")
                for i in (0, 1)
            ],
            axis=-1,
        )
    return found


def draw(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE), np.float64)
    field = warped(rng)
    slices = [scene(x, y, 0), scene(x + field[..., 0], y + field[..., 1], 1)]
    hu = []
    for clean, _, _ in slices:
        noise = cv2.GaussianBlur(rng.normal(size=clean.shape), (0, 0), 0.8)
        blurred = cv2.GaussianBlur(clean, (0, 0), 0.8) + noise / noise.std() * NOISE_HU
        hu.append(np.rint(blurred).astype(np.int16))
    return {
        "fixed": hu[0], "moving": hu[1], "truth": inverse(field),
        "liver": (slices[0][1], slices[1][1]), "lesion": (slices[0][2], slices[1][2]),
    }  # fmt: skip


def quality(drawn: dict, transform: Transform) -> dict:
    liver, lesion = (
        (pair[0], transform.warp_mask(pair[1])) for pair in (drawn["liver"], drawn["lesion"])
    )
    off = np.linalg.norm(transform.displacement_px - drawn["truth"], axis=-1)[drawn["liver"][0]]
    return {
        "liver_dice": dice(*liver),
        "lesion_dice": dice(*lesion),
        "error_px": float(off.mean()),
    }


def measure(scenes: list[dict], method: str, backend: str) -> dict:
    rows = []
    for drawn in scenes:
        if method == "none":
            rows.append(quality(drawn, Transform(np.zeros((SIZE, SIZE, 2), np.float32))))
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        found = register(drawn["fixed"], drawn["moving"], method, backend=backend)
        times = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        rows.append(times | quality(drawn, found))
    means = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    return {"method": method, "backend": backend if method != "none" else "", **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", nargs="+", choices=tuple(BACKENDS), default=["sitk"])
    parser.add_argument("--scenes", type=int, default=3, help="slices a method")
    parser.add_argument(
        "--out", type=pathlib.Path, help="JSON file (default: results/ beside this)"
    )
    args = parser.parse_args()
    device = runs.device_name()
    slug = re.sub(r"\W+", "_", device.lower()).strip("_")
    out = args.out or pathlib.Path(__file__).parent / "results" / f"registration_{slug}.json"
    load = round(os.getloadavg()[0], 2)
    scenes = [draw(seed) for seed in range(args.scenes)]
    rows = [measure(scenes, "none", "")]
    for backend in args.backend:
        register(scenes[0]["fixed"], scenes[0]["moving"], "rigid", backend=backend)  # loads it
        rows += [measure(scenes, method, backend) for method in METHODS]
    columns = (
        "method",
        "backend",
        "seconds",
        "cpu_seconds",
        "liver_dice",
        "lesion_dice",
        "error_px",
    )
    for row in (dict(zip(columns, columns, strict=True)), *rows):
        print("  ".join(f"{row.get(column, '')!s:<11}" for column in columns).rstrip())
    versions = {"python": platform.python_version(), "SimpleITK": SimpleITK.Version_VersionString()}
    versions |= {m.__name__: m.__version__ for m in (np, cv2, scipy)}
    result = {
        "what": f"registration of one synthetic {SIZE}x{SIZE} slice to another phase, one thread",
        "device": device,
        "cores": os.cpu_count(),
        "load_average": load,  # of the minute before; above 0.3 a core the times say too much
        "date": datetime.date.today().isoformat(),
        "scenes": args.scenes,
        "seed": 0,
        "versions": versions,
        "results": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {out}")


if __name__ == "__main__":
    main()

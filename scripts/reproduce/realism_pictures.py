"""Pictures beside the realism table: phantom and real, side by side, at the same windows."""

import pathlib

import cv2
import matplotlib
import numpy as np
import realism_real as real
import realism_samples as samples
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8

from jaxdet.data.phantom import SETS, patients, render, sets

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CROP_MM, CROP_PX = 90.0, 128
SHOWN = (-25.0, 125.0)  # W150/L50
CROP_SHOWN = (0.0, 150.0)  # T03 is cut off below 0 HU
Slice = tuple[Float[np.ndarray, "H W"], Bool[np.ndarray, "H W"], float]  # HU, liver, mm a pixel


def phantom_slices(seed: int, count: int) -> list[Slice]:
    """Half of set 1 and half of set 2, portal, at heights spread over the liver."""
    found = []
    for k in range(count):
        which = SETS["sltd" if k % 2 else "multiphase"]["paper"]
        p = patients.patient(which, seed, 100 + k)
        z = sets.nearest_slice(which, -40.0 + 80.0 * k / max(1, count - 1))
        found.append((render.hounsfield(p, z), render.liver(p, z), p.scanner.pixel_mm))
    return found


def real_slices(shared: pathlib.Path, count: int) -> list[Slice]:
    """A fifth of C20, else T03 (one slice a patient)."""
    c20 = real.series(shared)
    pick = np.linspace(0, len(c20.hu) - 1, count // 5).astype(int)
    found = [(c20.hu[z], c20.labels[z] == real.LIVER, c20.pixel_mm) for z in pick]
    seen: set[str] = set()
    for patient, hu, liver in real.portal_slices(shared):
        if patient not in seen and liver.sum() > 4000 and len(found) < count:
            seen.add(patient)
            found.append((hu, liver, real.T03_PIXEL_MM))
    return found


def crop(one: Slice, rng: np.random.Generator) -> UInt8[np.ndarray, "S S"]:
    """A square of 90 mm about a place in the liver, shown at 0 to 150 HU."""
    hu, liver, pixel = one
    side = round(CROP_MM / pixel)
    depth = scipy.ndimage.distance_transform_edt(liver)
    places = np.argwhere(depth > 0.4 * depth.max())
    y, x = places[int(rng.integers(len(places)))] - side // 2
    y, x = (int(np.clip(v, 0, n - side)) for v, n in zip((y, x), hu.shape, strict=True))
    part = hu[y : y + side, x : x + side]
    low, high = CROP_SHOWN
    shown = np.clip((part - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return cv2.resize(shown, (CROP_PX, CROP_PX), interpolation=cv2.INTER_AREA)


def sheet(file: pathlib.Path, seed: int, shared: pathlib.Path, spectra: dict) -> None:
    """20 phantom crops, 20 real ones, their grey values and their spectra."""
    rng = np.random.default_rng(seed)
    sides = {
        "phantom": [crop(s, rng) for s in phantom_slices(seed, 20)],
        "real": [crop(s, rng) for s in real_slices(shared, 20)],
    }
    figure = plt.figure(figsize=(10.4, 7.6), dpi=100)
    for k, (title, crops) in enumerate(sides.items()):
        axes = figure.add_axes([0.01 + 0.5 * k, 0.36, 0.48, 0.6])
        rows = [np.hstack(crops[r : r + 4]) for r in range(0, 20, 4)]
        axes.imshow(np.vstack(rows), cmap="gray", vmin=0, vmax=255, aspect="auto")
        axes.set_title(f"{title}: 90 mm, 0 to 150 HU")
        axes.axis("off")
    left = figure.add_axes([0.07, 0.07, 0.4, 0.24])
    right = figure.add_axes([0.56, 0.07, 0.4, 0.24])
    for title, crops in sides.items():
        grey = np.concatenate([c.ravel() for c in crops])
        left.hist(grey, bins=64, range=(0, 255), density=True, histtype="step", label=title)
    left.set_xlabel("grey value")
    left.legend()
    for title, spectrum in spectra.items():
        right.plot(samples.FREQUENCIES, spectrum / np.nanmax(spectrum), label=title)
    right.set_xlabel("noise power in the liver against 1/mm")
    right.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    plt.close(figure)
    _shrink(file, 400_000)


def beside(file: pathlib.Path, seed: int, shared: pathlib.Path) -> None:
    """A slice of each set beside a real one, at both papers' windows."""
    c20 = real.series(shared)
    z = len(c20.hu) // 2
    shown = {"real CT (portal, 3 mm)": (c20.hu[z], c20.pixel_mm)}
    for title, kind in (
        ("phantom, set of paper 1 (1 mm)", "sltd"),
        ("phantom, set of paper 2 (3 mm)", "multiphase"),
    ):
        p, at = _middle(kind, seed)
        shown[title] = (render.hounsfield(p, at), p.scanner.pixel_mm)
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.6), dpi=100)
    windows = (("W150/L50", SHOWN), ("-150 to 250 HU", (-150.0, 250.0)))
    for row, (name, (low, high)) in zip(axes, windows, strict=True):
        for axis, (title, (hu, pixel)) in zip(row, shown.items(), strict=True):
            half = len(hu) * pixel / 2
            extent = (-half, half, half, -half)
            axis.imshow(hu, cmap="gray", vmin=low, vmax=high, extent=extent)
            axis.set(xlim=(-185, 185), ylim=(150, -150))
            axis.set_title(f"{title}, {name}", fontsize=7)
            axis.axis("off")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.93, 0.03, 0.12)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    plt.close(figure)
    _shrink(file, 300_000)


def _middle(kind: str, seed: int) -> tuple[patients.Patient, int]:
    """Of twelve patients the one with an annotated slice nearest to the middle of the liver."""
    which = SETS[kind]["paper"]
    wanted = sets.nearest_slice(which, 8.0)
    found = [patients.patient(which, seed, number) for number in range(12)]
    pairs = [(p, z) for p in found for z in p.slices[len(p.slices) // 4 :]]
    return min(pairs, key=lambda pair: abs(pair[1] - wanted))


def _shrink(file: pathlib.Path, most: int) -> None:
    """Fewer greys, then fewer pixels, until the file is small enough for a README."""
    image = cv2.imread(str(file))
    scale = 1.0
    while True:
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(file), small & 0xF8, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if file.stat().st_size < most:
            return
        scale *= 0.93

"""The phantom's lesions in a real CT: real background and noise, lesions of known truth."""

import dataclasses

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8

from jaxdet.data.phantom import lesions, multiphase, sltd, tissue
from jaxdet.data.phantom.lesions import Lesion
from jaxdet.types import PHASES, Volume

FLATTEN_MM = 3.0  # vessels wider than this are levelled where a lesion displaces them
PSF_MM = 0.6  # sigma
GAP_MM = 2.0  # between two implanted lesions
GRAIN_MM = 5.0  # correlation of a lesion's texture
CONTRASTS = {"sltd": ("portal",), "multiphase": PHASES}  # kind -> phases whose contrasts it knows


def implant(
    volume: Volume,
    liver: Bool[np.ndarray, "Z Y X"],
    seed: int,
    count: int,
    kind: str = "sltd",
    phase: str = "portal",
) -> tuple[Volume, UInt8[np.ndarray, "Z Y X"]]:
    """`count` lesions in the liver of a CT: the new volume, and i + 1 on the voxels of lesion i.

    Sizes, outlines and contrasts are those of the phantom's sets; contrasts are to the liver that
    is there (median of the mask). Inside a lesion the vessels are levelled and the contrast is
    added, so the scanner's own noise stays; nothing outside of the lesions' soft edges changes.
    The new volume says it: `faults["implanted"]` counts them. A liver in which fewer fit is a
    ValueError with the number that did, and so is a kind or a phase that is not in `CONTRASTS`.
    """
    if phase not in CONTRASTS.get(kind, ()):
        known = "; ".join(f"{name}: {', '.join(phases)}" for name, phases in CONTRASTS.items())
        raise ValueError(f"no lesions of kind {kind!r} in phase {phase!r}; there are {known}")
    if liver.shape != volume.hu.shape:
        raise ValueError(
            f"{volume.source}: the liver mask is {liver.shape}, the volume {volume.hu.shape}: "
            "bring the mask to the volume's grid first"
        )
    if not 1 <= count <= 255:
        raise ValueError(f"implant wants 1 to 255 lesions; got {count}")
    if not liver.any():
        raise ValueError(f"{volume.source}: the liver mask is empty: nothing can be implanted")
    rng = np.random.default_rng([seed, 8])
    spacing_zyx = np.array(volume.spacing_mm[::-1])
    depth = scipy.ndimage.distance_transform_edt(liver, spacing_zyx).astype(np.float32)
    level = float(np.median(volume.hu[liver]))
    flat = scipy.ndimage.gaussian_filter(volume.hu, FLATTEN_MM / spacing_zyx)
    hu, drawn = volume.hu.copy(), np.zeros(liver.shape, np.uint8)
    for number in range(count):
        lesion = _placed(rng, _drawn(rng, kind), depth, drawn, spacing_zyx)
        if lesion is None:
            raise ValueError(
                f"{volume.source}: {number} of {count} lesions fit into this liver; ask for fewer"
            )
        _add(rng, volume, hu, drawn, flat, level, lesion, number + 1, phase)
    implanted = volume.faults.get("implanted", 0) + count
    return dataclasses.replace(
        volume, hu=hu, faults={**volume.faults, "implanted": implanted}
    ), drawn


def _drawn(rng: np.random.Generator, kind: str) -> Lesion:
    hu = tissue.draw(rng, kind)
    if kind == "sltd":
        return sltd.tumour(rng, hu)[0]
    diameter = float(np.clip(10 * np.exp(multiphase.MU + multiphase.SIGMA * rng.normal()), 10, 160))
    return multiphase.tumour(rng, hu, diameter)


def _placed(
    rng: np.random.Generator,
    lesion: Lesion,
    depth: Float[np.ndarray, "Z Y X"],
    drawn: UInt8[np.ndarray, "Z Y X"],
    spacing_zyx: Float[np.ndarray, "3"],
) -> Lesion | None:
    """The lesion at a voxel that is deep enough in the liver and far enough from the others."""
    away = scipy.ndimage.distance_transform_edt(drawn == 0, spacing_zyx) if drawn.any() else None
    radius = float(lesion.semi.max())
    free = depth > 0.75 * radius
    if away is not None:
        free &= away > lesion.radius_mm + GAP_MM
    where = np.flatnonzero(free)
    if not len(where):
        return None
    zyx = np.array(np.unravel_index(where[int(rng.integers(len(where)))], depth.shape))
    return lesions.moved(lesion, (zyx * spacing_zyx)[::-1])


def _add(
    rng: np.random.Generator,
    volume: Volume,
    hu: Float[np.ndarray, "Z Y X"],
    drawn: UInt8[np.ndarray, "Z Y X"],
    flat: Float[np.ndarray, "Z Y X"],
    level: float,
    lesion: Lesion,
    number: int,
    phase: str,
) -> None:
    """Changes `hu` and `drawn` in the box around the lesion."""
    spacing = np.array(volume.spacing_mm)
    reach = lesion.radius_mm + 2 * lesions.edge_mm(lesion)
    low = np.floor((lesion.centre - reach) / spacing).astype(int).clip(0)
    high = (np.ceil((lesion.centre + reach) / spacing).astype(int) + 1).clip(0, hu.shape[::-1])
    window = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    axes = [
        np.arange(a, b, dtype=np.float32) * s for a, b, s in zip(low, high, spacing, strict=True)
    ]
    points = (axes[0][None, None, :], axes[1][None, :, None], axes[2][:, None, None])
    f = np.asarray(lesions.distance(lesion, points), np.float32)
    spacing_zyx = spacing[::-1]
    grain = scipy.ndimage.gaussian_filter(rng.normal(size=f.shape), GRAIN_MM / 2 / spacing_zyx)
    grain = (grain / max(float(grain.std()), 1e-6)).astype(np.float32)
    value = lesions.hounsfield(lesion, phase, level, points, f, grain)
    share = np.clip(0.5 - f / max(lesions.edge_mm(lesion), float(spacing.min())), 0, 1)
    share = scipy.ndimage.gaussian_filter(share, PSF_MM / spacing_zyx)
    hu[window] += share * (value - flat[window])
    drawn[window][(f < 0) & (drawn[window] == 0)] = number

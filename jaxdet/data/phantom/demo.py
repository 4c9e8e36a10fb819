"""The demo's set: several larger tumours in every patient, and slices with and without them."""

import numpy as np

from jaxdet.data.phantom import anatomy, lesions, place, sets, sltd
from jaxdet.data.phantom.lesions import Lesion
from jaxdet.data.phantom.place import Plan
from jaxdet.data.phantom.sets import Set

DIAMETER_MM, MEDIAN_MM, SPREAD = (10.0, 44.0), 23.0, 0.45
LEAST_BOX_MM = 4.0
GROUP_SIZES = (0.45, 0.30, 0.15, 0.10)  # 1 to 4 tumours near one height
FREE_SHARE = 1 / 6  # of slices without a tumour
SHOWN = range(6, 58)  # slices with enough liver


def plan(
    rng: np.random.Generator,
    which: Set,
    seed: int,
    number: int,
    body: anatomy.Body,
    hu: dict[str, dict[str, float]],
) -> Plan:
    """2 to 4 groups of tumours, and all slices in the order in which they are to be shown.

    Each draws how many tumours it wants to show and takes a slice with that many, or with the next
    fewer; so a higher count of slices only adds some.
    """
    found = _tumours(rng, body, hu, which.tumour_scale)
    shown = {z: n for z in SHOWN if (n := _visible(which, found, z)) is not None}
    picked: list[int] = []
    while shown:
        wanted = 0 if rng.random() < FREE_SHARE else 1 + int(rng.choice(4, p=sltd.COUNTS))
        off = {z: abs(n - wanted) + 0.5 * (n > wanted) for z, n in shown.items()}
        best = [z for z, far in off.items() if far == min(off.values())]
        picked.append(best[int(rng.integers(len(best)))])
        shown.pop(picked[-1])
    return Plan(tuple(found), tuple(picked), "portal")


def _tumours(rng: np.random.Generator, body: anatomy.Body, hu: dict, scale: float) -> list[Lesion]:
    points, depth = place.inside_liver(rng, body, 5000)
    found: list[Lesion] = []
    for _ in range(int(rng.integers(2, 5))):
        height = points[int(rng.integers(len(points))), 2]
        near = abs(points[:, 2] - height) < 7.0
        for _ in range(1 + int(rng.choice(4, p=GROUP_SIZES))):
            lesion = _tumour(rng, hu, scale)
            free = near & (depth > 0.5 * lesion.radius_mm)
            free &= place.apart(points, lesion.radius_mm, found, 1.0)
            if free.any():
                at = points[free][int(rng.integers(int(free.sum())))]
                found.append(lesions.moved(lesion, at))
    return found


def _tumour(rng: np.random.Generator, hu: dict, scale: float) -> Lesion:
    diameter = 0.0
    while not DIAMETER_MM[0] <= diameter <= DIAMETER_MM[1]:
        diameter = MEDIAN_MM * np.exp(SPREAD * rng.normal())
    return sltd.of_diameter(rng, hu, scale * diameter)


def _visible(which: Set, found: list[Lesion], z: int) -> int | None:
    """How many tumours slice z shows; None where one shows too little of itself for a box."""
    height = sets.height_mm(which, z)
    near = [t for t in found if abs(height - float(t.centre[2])) < t.radius_mm]
    sides = [max(lesions.sides_mm(t, height - float(t.centre[2]))) for t in near]
    if any(0 < side < LEAST_BOX_MM for side in sides):
        return None
    return sum(side > 0 for side in sides)

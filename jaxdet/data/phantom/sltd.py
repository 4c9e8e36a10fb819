"""The single-phase set of paper 1: which tumours, and which slices near their ends are annotated.

208 volumes, 452 slices, 1 to 4 tumours a slice (mean 1.49), boxes of 0.4 to 5.0 cm. The slices are
fixed first, near the first and the last in which a tumour shows, and the tumours are then laid
through them; so the counts and sizes of the paper come out by construction.
"""

import functools
import itertools

import numpy as np
from jaxtyping import Float

from jaxdet.data.phantom import anatomy, lesions, place, tissue
from jaxdet.data.phantom.lesions import Lesion
from jaxdet.data.phantom.place import Plan
from jaxdet.data.phantom.sets import Set, height_mm, nearest_slice

VOLUMES, SLICES = 208, 452  # of the paper: every volume has 2 annotated slices, some have 3
COUNTS = (0.653, 0.234, 0.083, 0.030)  # of 1 to 4 tumours in a slice: mean 1.49
DIAMETER_MM, MEDIAN_MM, SPREAD = (10.0, 65.0), 20.0, 0.5  # log-normal between its ends
BOX_MM = (4.0, 50.0)
NEAR_END = (0.5, 1.0)  # |z| / R of an annotated slice: near the first and last
CLUSTER, TOUCHING = 0.35, 0.10  # of further tumours of a slice: close by, and of those in contact
INSIDE = 0.42  # depth in the liver of the middle of a section, as a share of its longer side
SUBCAPSULAR = 0.25  # share of the radius that may stick out of the liver, where it is cut off
LEVEL_MM = 8.0  # of a slice: so near lies tissue that is like that in it
TRIES = 60


def plan(
    rng: np.random.Generator,
    which: Set,
    seed: int,
    number: int,
    body: anatomy.Body,
    hu: dict[str, dict[str, float]],
) -> Plan:
    """The tumours of volume `number`, and its annotated slices."""
    points, _ = place.inside_liver(rng, body, 12000)
    wanted = counts(seed, number)
    found, slices = [], []
    while len(slices) < len(wanted):
        lead, through = _lead(rng, which, body, hu, points, found, slices, len(wanted))
        found.append(lead)
        slices += through
    slices = sorted(slices)
    for z, count in zip(slices, wanted, strict=True):
        for _ in range(TRIES):
            if len(showing(which, found, z)) >= count:
                break
            lesion, side = tumour(rng, hu)
            level = points[np.abs(points[:, 2] - height_mm(which, z)) < LEVEL_MM]
            if not len(level):
                break
            near = place.one_segment(rng, body, level)
            tries = (_through(rng, which, lesion, side, near, found, z) for _ in range(TRIES))
            good = (one for one in tries if _may_join(which, body, found, slices, wanted, *one))
            found += [one for one, _ in itertools.islice(good, 1)]
    return Plan(tuple(found), tuple(slices), "portal")


@functools.lru_cache(maxsize=8)
def _table(seed: int, block: int) -> tuple[tuple[int, ...], ...]:
    """Of every volume of a block of 208 how many tumours each of its slices shows."""
    first = [number * SLICES // VOLUMES for number in range(VOLUMES + 1)]
    rng = np.random.default_rng([seed, 11, block])
    # One key a volume and a little of each slice's own: slices of a volume resemble each other.
    keys = np.repeat(rng.normal(size=VOLUMES), np.diff(first)) + 0.7 * rng.normal(size=SLICES)
    rank = np.argsort(np.argsort(keys))
    count = 1 + np.searchsorted(np.cumsum(COUNTS), (rank + 0.5) / SLICES)
    return tuple(tuple(map(int, count[a:b])) for a, b in itertools.pairwise(first))


def counts(seed: int, number: int) -> tuple[int, ...]:
    """How many tumours each annotated slice of a volume shows; exact shares over 208 volumes."""
    return _table(seed, number // VOLUMES)[number % VOLUMES]


def showing(which: Set, found: list[Lesion], z: int) -> list[tuple[float, float]]:
    """Width and height in mm of every tumour's section in slice z."""
    height = height_mm(which, z)
    near = [t for t in found if abs(height - float(t.centre[2])) < t.radius_mm]
    sections = [lesions.sides_mm(t, height - float(t.centre[2])) for t in near]
    return [section for section in sections if max(section) > 0]


def tumour(rng: np.random.Generator, hu: dict) -> tuple[Lesion, float]:
    """A tumour of the set's sizes at the origin, and the longer side of its box near an end."""
    while True:
        diameter = MEDIAN_MM * np.exp(SPREAD * rng.normal())
        side = diameter * np.sqrt(1 - rng.uniform(*NEAR_END) ** 2)
        if DIAMETER_MM[0] <= diameter <= DIAMETER_MM[1] and BOX_MM[0] <= side <= BOX_MM[1]:
            return of_diameter(rng, hu, diameter), float(side)


def of_diameter(rng: np.random.Generator, hu: dict, diameter: float) -> Lesion:
    """A small tumour of that longest diameter at the origin."""
    found = Lesion(
        centre=np.zeros(3, np.float32),
        **lesions.shape(rng, diameter, gross=False),
        contrast=tissue.small_tumour(rng, hu, diameter),
        margin_mm=lesions.margin(rng, diameter, ill_defined=0.3),
        texture_hu=float(rng.uniform(4, 8)),
        mosaic_hu=0.0,
        core=lesions.necrosis(rng, diameter),
        capsule_mm=1.5,
    )
    return lesions.sized(found, diameter)


def _lead(
    rng: np.random.Generator,
    which: Set,
    body: anatomy.Body,
    hu: dict,
    points: Float[np.ndarray, "N 3"],
    found: list[Lesion],
    slices: list[int],
    wanted: int,
) -> tuple[Lesion, list[int]]:
    """A tumour with free slices near its first and last, or near one of them."""
    both = wanted - len(slices) >= 2
    for attempt in range(TRIES):
        lesion, side = tumour(rng, hu)
        up = (False, True) if both else (bool(rng.random() < 0.5),)
        offsets = [lesions.height_of(lesion, side, up[0])]
        offsets += [lesions.height_of(lesion, _other(rng, lesion), True)] * both
        # Many places for one size before another is drawn: else the large ones would be rarer.
        near = place.one_segment(rng, body, points)
        for at in near[rng.integers(len(near), size=TRIES)]:
            z = [nearest_slice(which, at[2] + offset) for offset in offsets]
            # The first of the slices is hit exactly; the second is the nearest that there is.
            centre = np.array([at[0], at[1], height_mm(which, z[0]) - offsets[0]], np.float32)
            there = lesions.moved(lesion, centre)
            # Late tries may share a slice with an earlier tumour, so that small livers end too.
            if _may_lead(which, body, found, slices, there, z, strict=attempt < TRIES // 2):
                return there, z
    raise RuntimeError("phantom: no place for a tumour; this is a fault of the phantom")


def _may_lead(
    which: Set,
    body: anatomy.Body,
    found: list[Lesion],
    slices: list[int],
    lesion: Lesion,
    z: list[int],
    *,
    strict: bool,
) -> bool:
    """Whether the lesion lies in the liver and shows well in new slices `z` and in no old one."""
    if len({*slices, *z}) < len(slices) + len(z) or not 0 <= min(z) <= max(z) < which.depth:
        return False
    apart = place.apart(lesion.centre[None], lesion.radius_mm, found, 1.0)[0]
    if not apart or not _fits(body, lesion):
        return False
    if strict and any(showing(which, found, s) for s in z):
        return False
    if any(showing(which, [lesion], s) for s in slices):
        return False
    return all(_shows_well(which, body, lesion, s) for s in z)


def _other(rng: np.random.Generator, lesion: Lesion) -> float:
    """The longer side of the box in the slice at the lesion's other end."""
    across = 2 * float(lesion.semi[:2].max())
    return float(
        np.clip(across * np.sqrt(1 - rng.uniform(*NEAR_END) ** 2), 1.02 * BOX_MM[0], BOX_MM[1])
    )


def _shows_well(which: Set, body: anatomy.Body, lesion: Lesion, z: int) -> bool:
    """Whether slice z misses the lesion, or cuts it as wide as a box may be, inside the liver."""
    sections = showing(which, [lesion], z)
    if not sections:
        return True
    side = max(sections[0])
    middle = np.array([*lesion.centre[:2], height_mm(which, z)], np.float32)
    depth = -float(anatomy.liver(body, tuple(middle[:, None]))[0])
    return BOX_MM[0] <= side <= BOX_MM[1] and depth > INSIDE * side


def _fits(body: anatomy.Body, lesion: Lesion) -> bool:
    """Whether the lesion lies in the liver but for a little that may stick out and is cut off."""
    depth = -float(anatomy.liver(body, tuple(lesion.centre[:, None]))[0])
    return depth > (1 - SUBCAPSULAR) * float(lesion.semi.min())


def _through(
    rng: np.random.Generator,
    which: Set,
    lesion: Lesion,
    side: float,
    points: Float[np.ndarray, "N 3"],
    found: list[Lesion],
    z: int,
) -> tuple[Lesion, tuple[int, float] | None]:
    """The lesion somewhere, so that slice z cuts it `side` wide; whether it is of a cluster."""
    middle = height_mm(which, z) - lesions.height_of(lesion, side, bool(rng.random() < 0.5))
    at = _beside(rng, which, found, z, side) if rng.random() < CLUSTER else None
    close = (z, side) if at is not None else None
    if at is None:
        at = points[int(rng.integers(len(points)))][:2]
    return lesions.moved(lesion, np.array([*at, middle], np.float32)), close


def _may_join(
    which: Set,
    body: anatomy.Body,
    found: list[Lesion],
    slices: list[int],
    wanted: tuple[int, ...],
    lesion: Lesion,
    close: tuple[int, float] | None,
) -> bool:
    """Whether it lies in the liver and shows well, and in no slice that has enough already.

    Neighbours of a cluster may touch; others keep their distance.
    """
    if close is None:
        free = place.apart(lesion.centre[None], lesion.radius_mm, found, 5.0)[0]
    else:
        free = not _overlaps(which, found, lesion, *close)
    if not free or not _fits(body, lesion):
        return False
    shown = [len(showing(which, [*found, lesion], s)) for s in slices]
    well = all(_shows_well(which, body, lesion, s) for s in slices)
    return well and all(n <= m for n, m in zip(shown, wanted, strict=True))


def _beside(
    rng: np.random.Generator, which: Set, found: list[Lesion], z: int, side: float
) -> Float[np.ndarray, "2"] | None:
    """A place 0 to 5 mm beside a section that slice z already shows, or in contact with it."""
    there = [t for t in found if showing(which, [t], z)]
    if not there:
        return None
    neighbour = there[int(rng.integers(len(there)))]
    width = max(showing(which, [neighbour], z)[0])
    gap = -0.06 * side if rng.random() < TOUCHING else rng.uniform(0.0, 5.0)
    turn = rng.uniform(0, 2 * np.pi)
    away = (width + side) / 2 + gap
    return neighbour.centre[:2] + away * np.array([np.cos(turn), np.sin(turn)], np.float32)


def _overlaps(which: Set, found: list[Lesion], lesion: Lesion, z: int, side: float) -> bool:
    """Whether the new section lies on one that is there, by more than tumours in contact do."""
    for other in found:
        sections = showing(which, [other], z)
        if sections:
            away = float(np.linalg.norm(other.centre[:2] - lesion.centre[:2]))
            if away < (max(sections[0]) + side) / 2 - 0.07 * side:
                return True
    return False

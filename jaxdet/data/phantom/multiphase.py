"""The four-phase set of paper 2: one HCC a patient, drawn on one phase, seen in all four.

280 patients, 4.3 +- 2.7 cm (1 to 16), about 17 slices each; the mask was drawn on the delayed phase
in 158, on the arterial in 91 and on the portal in 31.
"""

import functools

import numpy as np
from jaxtyping import Float

from jaxdet.data.phantom import anatomy, lesions, place, tissue
from jaxdet.data.phantom.lesions import Lesion
from jaxdet.data.phantom.place import Plan
from jaxdet.data.phantom.sets import Set, nearest_slice

PATIENTS = 280
ANNOTATED = {"delayed": 158, "arterial": 91, "portal": 31}
MU, SIGMA = 1.256, 0.666  # of ln(cm), truncated to 1 to 16 cm: mean 4.30, SD 2.70
DIAMETER_MM = (10.0, 160.0)
SATELLITES = 0.08  # of patients; drawn, but paper 2 annotates the main tumour only
TRIES = 24


def plan(
    rng: np.random.Generator,
    which: Set,
    seed: int,
    number: int,
    body: anatomy.Body,
    hu: dict[str, dict[str, float]],
) -> Plan:
    """The tumour of patient `number`; the slices are those that its mask reaches, in `cases`."""
    points, _ = place.inside_liver(rng, body, 9000)
    diameter = diameter_mm(seed, number)
    main = _placed(rng, body, tumour(rng, hu, diameter), points)
    found = [main]
    if rng.random() < SATELLITES:
        found += _satellites(rng, body, hu, main, points)
    reach = main.radius_mm + 2 * which.pitch_mm
    low, high = (nearest_slice(which, main.centre[2] + side * reach) for side in (-1, 1))
    slices = tuple(range(max(low, 1), min(high, which.depth - 2) + 1))
    return Plan(tuple(found), slices, annotated(seed, number))


@functools.lru_cache(maxsize=8)
def _sizes(seed: int, block: int) -> Float[np.ndarray, "N"]:
    """Quantiles of the truncated log-normal: every block of 280 has its mean, SD and ends."""
    rng = np.random.default_rng(0)
    many = np.exp(MU + SIGMA * rng.normal(size=400_000)) * 10
    many = np.sort(many[(many >= DIAMETER_MM[0]) & (many <= DIAMETER_MM[1])])
    return np.quantile(many, place.ranked(seed, 12, block, PATIENTS))


def tumour(rng: np.random.Generator, hu: dict, diameter: float) -> Lesion:
    """An HCC of that longest diameter at the origin."""
    found = Lesion(
        centre=np.zeros(3, np.float32),
        **lesions.shape(rng, diameter, gross=True),
        contrast=tissue.hcc(rng, hu, diameter),
        margin_mm=lesions.margin(rng, diameter, ill_defined=0.15),
        texture_hu=float(rng.uniform(5, 9)),
        mosaic_hu=float(rng.uniform(6, 12)) if diameter > 30 and rng.random() < 0.5 else 0.0,
        core=lesions.necrosis(rng, diameter),
        capsule_mm=float(rng.uniform(1.0, 2.5)),
    )
    return lesions.sized(found, diameter)


def diameter_mm(seed: int, number: int) -> float:
    """The longest diameter of a patient's tumour."""
    return float(_sizes(seed, number // PATIENTS)[number % PATIENTS])


def annotated(seed: int, number: int) -> str:
    """The phase on which the tumour is drawn; the paper's shares are exact over 280 patients."""
    rank = place.ranked(seed, 13, number // PATIENTS, PATIENTS)[number % PATIENTS]
    ends = np.cumsum(list(ANNOTATED.values())) / PATIENTS
    return list(ANNOTATED)[int(np.searchsorted(ends, rank))]


def _placed(
    rng: np.random.Generator,
    body: anatomy.Body,
    lesion: Lesion,
    points: Float[np.ndarray, "N 3"],
) -> Lesion:
    """The lesion at a point of the liver that holds most of it; enlarged by what is cut off.

    Of some random points the first that keeps enough of it inside wins, else the best one.
    """
    wanted, best = lesions.diameter_mm(lesion), (-1.0, lesion)
    ball = rng.normal(size=(400, 3))
    ball *= (rng.uniform(0, 1, (400, 1)) ** (1 / 3)) / np.linalg.norm(ball, axis=1, keepdims=True)
    near = place.one_segment(rng, body, points)
    for at in near[rng.integers(len(near), size=TRIES)]:
        there = lesions.moved(lesion, at)
        samples = tuple((at + ball * lesion.semi).astype(np.float32).T)
        inside = float(
            (place.bulged(anatomy.liver(body, samples), body, (there,), samples) < 0).mean()
        )
        best = max(best, (inside, there), key=lambda pair: pair[0])
        if inside > (0.85 if wanted < place.BULGE_MM else 0.97):
            break
    return best[1]


def _satellites(
    rng: np.random.Generator,
    body: anatomy.Body,
    hu: dict,
    main: Lesion,
    points: Float[np.ndarray, "N 3"],
) -> list[Lesion]:
    """1 to 3 nodules of 3 to 8 mm within 20 mm of the tumour."""
    away = np.linalg.norm(points - main.centre, axis=1) - main.radius_mm
    near = points[(away > 5) & (away < 20)]
    found = []
    for at in near[rng.integers(len(near), size=int(rng.integers(1, 4)))] if len(near) else []:
        diameter = float(rng.uniform(3, 8))
        nodule = Lesion(
            centre=at,
            **lesions.shape(rng, diameter, gross=False),
            contrast=tissue.hcc(rng, hu, diameter),
            margin_mm=0.5,
            texture_hu=4.0,
            mosaic_hu=0.0,
            core=np.zeros(4, np.float32),
            capsule_mm=0.0,
        )
        found.append(nodule)
    return found

"""Where do lesions fit? Free points of the liver, apart from what already lies there."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdet.data.phantom import anatomy, lesions, shapes
from jaxdet.data.phantom.lesions import Lesion
from jaxdet.data.phantom.shapes import Field, Points

SOLID = ("right_kidney", "gallbladder", "cava", "aorta")  # a tumour grows around these
BULGE_MM = 40.0  # from this diameter on a tumour pushes the liver's surface out


class Plan(NamedTuple):
    """What a kind of phantom decides for one patient."""

    lesions: tuple[Lesion, ...]
    slices: tuple[int, ...]  # the annotated ones, rising
    annotated: str  # the phase on which the lesions are drawn


def inside_liver(
    rng: np.random.Generator, body: anatomy.Body, count: int
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N"]]:
    """Points uniform in the liver, about count / 7 of them, and their depth under its surface."""
    low, high = np.array(anatomy.LIVER_BOX_MM, np.float32).T
    points = rng.uniform(low, high, (count, 3)).astype(np.float32)
    depth = -anatomy.liver(body, tuple(points.T))
    return points[depth > 0], depth[depth > 0]


def one_segment(
    rng: np.random.Generator, body: anatomy.Body, points: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, "M 3"]:
    """The points of one Couinaud segment, drawn by volume.

    Lesions are spread as the liver's volume is. Tries that fail, as most do in thin parts, must not
    move them to the thick right lobe, so all tries of a lesion stay in its segment.
    """
    segments = anatomy.segment(body, tuple(points.T))
    return points[segments == segments[int(rng.integers(len(points)))]]


def apart(
    points: Float[np.ndarray, "N 3"], radius: float, others: list[Lesion], gap_mm: float
) -> np.ndarray:
    """Which points could be the centre of a ball that stays `gap_mm` from every other lesion."""
    free = np.ones(len(points), bool)
    for other in others:
        away = np.linalg.norm(points - other.centre, axis=1)
        free &= away > radius + other.radius_mm + gap_mm
    return free


def ranked(seed: int, stream: int, block: int, count: int) -> Float[np.ndarray, "N"]:
    """`count` numbers in (0, 1), each of the N equal parts hit once, in an order of the seed.

    Patient i of a block of N takes entry i: so shares that a paper reports come out exactly over a
    whole set, while every patient is still a pure function of (seed, number).
    """
    rng = np.random.default_rng([seed, stream, block])
    return (rng.permutation(count) + rng.uniform(0, 1, count)) / count


def bulged(liver: Field, body: anatomy.Body, found: tuple[Lesion, ...], points: Points) -> Field:
    """The liver with the large tumours that push its surface out, as far as wall and spine let."""
    for lesion in found:
        if 2 * float(lesion.semi.max()) >= BULGE_MM:
            grown = shapes.smooth_min(liver, lesions.distance(lesion, points) - 2.0, 10.0)
            others = [-anatomy.organ(body, name, points, 1.0) for name in SOLID]
            liver = shapes.common(grown, anatomy.limits(body, points), *others)
    return liver

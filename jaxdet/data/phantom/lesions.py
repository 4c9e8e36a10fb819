"""Tumours and cysts: where they lie, what they look like, and their masks in a slice."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float

from jaxdet.data.phantom import anatomy
from jaxdet.data.phantom.shapes import Field, Points

DIAMETER_MM = (10.0, 44.0)  # largest diameter
MEDIAN_MM, SPREAD = 23.0, 0.45  # of its log-normal
LEAST_BOX_MM, LEAST_BOX_PX = 4.0, 3
GROUP_SIZES = (0.45, 0.30, 0.15, 0.10)  # 1 to 4 tumours near one height
WAVES = np.arange(2, 9)  # outline harmonics; amplitude falls as (2 / l)^1.2


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A star-shaped solid: an ellipsoid whose radius varies with the direction from its centre."""

    centre: Float[np.ndarray, "3"]  # mm, frame of the body
    semi: Float[np.ndarray, "3"]  # mm; the largest is half of the diameter
    waves: Float[np.ndarray, "7 5"]  # unit direction xyz, phase, amplitude of each harmonic
    contrast_hu: float  # to the liver
    margin_mm: float  # width of the edge
    texture_hu: float
    rim_hu: float  # of a shell, to the lesion; nearly iso tumours show by it
    core: float  # share of the radius that is necrotic
    tumour: bool  # cysts are no tumours and carry no box


def draw(
    rng: np.random.Generator, body: anatomy.Body, hu: dict[str, float], mm: float
) -> list[Lesion]:
    """The lesions of one patient, apart from each other and with their centres inside the liver.

    `mm` is the size of one frame millimetre in this patient.
    """
    points, depth = _inside_liver(rng, body)
    found: list[Lesion] = []
    for _ in range(int(rng.integers(2, 5))):
        height = points[int(rng.integers(len(points))), 2]
        for _ in range(1 + int(rng.choice(4, p=GROUP_SIZES))):
            near = abs(points[:, 2] - height) < 7.0
            _place(rng, found, points[near], depth[near], _tumour(rng, mm))
    if rng.random() < 0.35:
        for _ in range(int(rng.integers(1, 4))):
            _place(rng, found, points, depth, _cyst(rng, hu, mm))
    return found


def distance(lesion: Lesion, points: Points) -> Field:
    """Signed distance to the irregular outline, about mm."""
    away = [(p - c) / s for p, c, s in zip(points, lesion.centre, lesion.semi, strict=True)]
    radius = np.sqrt(sum(a * a for a in away)) + 1e-6
    outline = 1.0
    for (x, y, z, phase, amplitude), wave in zip(lesion.waves, WAVES, strict=True):
        if amplitude:
            cosine = (away[0] * x + away[1] * y + away[2] * z) / radius
            outline = outline + amplitude * np.cos(wave * cosine + phase)
    return (radius - outline) * float(lesion.semi.min())


def reaches(lesion: Lesion, z: float) -> bool:
    """Whether the lesion's section at height z can be as wide as the least box."""
    beside = abs(z - float(lesion.centre[2])) / float(lesion.semi[2])
    return beside < 1 and float(lesion.semi[:2].min()) * (1 - beside**2) ** 0.5 > LEAST_BOX_MM / 2


def section(
    lesion: Lesion, points: Points, liver: Field, pixel_mm: float
) -> Bool[np.ndarray, "H W"] | None:
    """The pixels of one lesion in a slice; None where it is below the least box.

    The largest connected part, inside the liver. What is below the least box is not drawn either,
    so that every visible tumour has its box.
    """
    mask = (distance(lesion, points) < 0) & (liver < -0.5 * pixel_mm)
    if not mask.any():
        return None
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    best = 1 + int(np.argmax(stats[1:count, cv2.CC_STAT_AREA]))
    least = max(LEAST_BOX_PX, LEAST_BOX_MM / pixel_mm)
    if min(stats[best, cv2.CC_STAT_WIDTH], stats[best, cv2.CC_STAT_HEIGHT]) < least:
        return None
    return parts == best


def _inside_liver(
    rng: np.random.Generator, body: anatomy.Body
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N"]]:
    low, high = np.array(anatomy.LIVER_BOX_MM).T
    points = rng.uniform(low, high, (5000, 3)).astype(np.float32)
    depth = -anatomy.liver(body, tuple(points.T))
    return points[depth > 3], depth[depth > 3]


def _place(
    rng: np.random.Generator,
    found: list[Lesion],
    points: Float[np.ndarray, "N 3"],
    depth: Float[np.ndarray, "N"],
    lesion: Lesion,
) -> None:
    """Adds the lesion at a free point, if any: half its radius or more under the capsule."""
    radius = float(lesion.semi.max())
    free = depth > 0.5 * radius
    for other in found:
        away = np.linalg.norm(points - other.centre, axis=1)
        free &= away > 1.15 * (radius + float(other.semi.max())) + 1.0
    if free.any():
        at = points[free][int(rng.integers(int(free.sum())))]
        found.append(dataclasses.replace(lesion, centre=at))


def _tumour(rng: np.random.Generator, mm: float) -> Lesion:
    diameter = 0.0
    while not DIAMETER_MM[0] <= diameter <= DIAMETER_MM[1]:
        diameter = MEDIAN_MM * np.exp(SPREAD * rng.normal())
    iso = rng.random() < 0.12
    contrast = -rng.uniform(5, 12) if iso else -np.clip(rng.normal(36, 16), 12, 75)
    blurred = rng.random() < 0.3
    return Lesion(
        centre=np.zeros(3, np.float32),
        semi=_semi(rng, diameter / mm, 0.12),
        waves=_waves(rng, rng.uniform(0.05, 0.08) if diameter < 20 else rng.uniform(0.08, 0.14)),
        contrast_hu=float(contrast * (0.85 if diameter < 10 else 1.0)),
        margin_mm=float(rng.uniform(2.5, 5.0) if blurred else rng.uniform(0.8, 2.0)) * 2,
        texture_hu=float(rng.uniform(4, 8)),
        rim_hu=float(-rng.uniform(12, 22)) if iso else 0.0,
        core=float(rng.uniform(0.3, 0.55)) if diameter > 22 and rng.random() < 0.35 else 0.0,
        tumour=True,
    )


def _cyst(rng: np.random.Generator, hu: dict[str, float], mm: float) -> Lesion:
    return Lesion(
        centre=np.zeros(3, np.float32),
        semi=_semi(rng, rng.uniform(6, 26) / mm, 0.04),
        waves=_waves(rng, 0.0),
        contrast_hu=hu["cyst"] - hu["liver"],
        margin_mm=1.0,
        texture_hu=0.0,
        rim_hu=0.0,
        core=0.0,
        tumour=False,
    )


def _semi(rng: np.random.Generator, diameter: float, spread: float) -> Float[np.ndarray, "3"]:
    aspect = np.exp(spread * rng.normal(size=3))
    return (diameter / 2 * aspect / aspect.max()).astype(np.float32)


def _waves(rng: np.random.Generator, amplitude: float) -> Float[np.ndarray, "7 5"]:
    direction = rng.normal(size=(len(WAVES), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    phase = rng.uniform(0, 2 * np.pi, (len(WAVES), 1))
    sizes = rng.normal(size=(len(WAVES), 1)).clip(-1.5, 1.5) * 0.5 * amplitude
    return np.hstack([direction, phase, sizes * (2 / WAVES[:, None]) ** 1.2]).astype(np.float32)

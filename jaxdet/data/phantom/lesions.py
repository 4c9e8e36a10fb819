"""Tumours: their solid shape, how wide their sections are, and what they look like in a phase."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float

from jaxdet.data.phantom import shapes
from jaxdet.data.phantom.shapes import Field, Points
from jaxdet.data.phantom.tissue import Contrast

WAVES = np.arange(2, 9)  # outline harmonics; amplitude falls as (2 / l)^1.2
GRID = 97  # points a side on which a section is measured


@dataclasses.dataclass(frozen=True)
class Lesion:
    """An ellipsoid whose radius varies with the direction, with bumps: any gross class of HCC."""

    centre: Float[np.ndarray, "3"]  # mm, frame of the body
    semi: Float[np.ndarray, "3"]  # mm
    waves: Float[np.ndarray, "7 5"]  # unit direction xyz, phase, amplitude of each harmonic
    bumps: Float[np.ndarray, "K 4"]  # centre and radius of further balls, in units of `semi`
    contrast: dict[str, Contrast]  # by phase
    margin_mm: float  # SD of the edge, beside the scanner's own blur
    texture_hu: float
    mosaic_hu: float  # of compartments; 0 without
    core: Float[np.ndarray, "4"]  # centre and radius of the necrosis in units of `semi`; 0 without
    capsule_mm: float  # thickness of the shell that has its own HU; 0 without

    @property
    def radius_mm(self) -> float:
        """Of a ball around the centre that holds all of the lesion."""
        out = np.linalg.norm(self.bumps[:, :3], axis=1) + self.bumps[:, 3]
        swell = 1.0 + float(np.abs(self.waves[:, 4]).sum())
        return (
            float(self.semi.max()) * float(max(swell, *out))
            if len(out)
            else (float(self.semi.max()) * swell)
        )


def distance(lesion: Lesion, points: Points) -> Field:
    """Signed distance to the irregular outline, about mm."""
    away = _away(lesion, points)
    radius = np.sqrt(sum(a * a for a in away)) + np.float32(1e-6)
    outline = np.float32(1.0)
    for (x, y, z, phase, amplitude), wave in zip(lesion.waves, WAVES, strict=True):
        if amplitude:
            cosine = (away[0] * x + away[1] * y + away[2] * z) / radius
            outline = outline + amplitude * np.cos(wave * cosine + phase)
    f = radius - outline
    for x, y, z, r in lesion.bumps:
        ball = np.sqrt((away[0] - x) ** 2 + (away[1] - y) ** 2 + (away[2] - z) ** 2) - r
        f = shapes.smooth_min(f, ball, 0.15)
    return f * np.float32(lesion.semi.min())


def hounsfield(
    lesion: Lesion, phase: str, liver_hu: float, points: Points, f: Field, grain: Field
) -> Field:
    """HU of the lesion in a phase: parenchyma, compartments, necrosis, capsule.

    `f` is the lesion's signed distance at `points`, `grain` smooth noise of SD 1 there.
    """
    here = lesion.contrast[phase]
    value = liver_hu + here.inside_hu + lesion.texture_hu * here.texture * grain
    if lesion.mosaic_hu:
        # Compartments: coarse noise made nearly two-valued.
        value = value + lesion.mosaic_hu * np.tanh(4.0 * _coarse(lesion, points))
    dead = core(lesion, points)
    if dead is not None:
        value = value + shapes.inside(dead, 4.0) * (here.necrosis_hu - value)
    if here.unfilled:  # the middle of a haemangioma, which contrast has not reached yet
        middle = f + np.float32((1 - here.unfilled) * lesion.semi.min())
        value = value + shapes.inside(middle, 2.0) * (here.necrosis_hu - value)
    if here.rim_share and lesion.capsule_mm:
        shell = np.exp(-(((f + lesion.capsule_mm / 2) / (0.6 * lesion.capsule_mm)) ** 2))
        there = shapes.inside(_around(lesion, points) - here.rim_share, 0.1)
        value = value + shell * there * (liver_hu + here.rim_hu - value)
    return value


def edge_mm(lesion: Lesion) -> float:
    """Width of the linear edge that has the margin's SD."""
    return float(np.sqrt(12.0) * lesion.margin_mm)


def core(lesion: Lesion, points: Points) -> Field | None:
    """Signed distance to the necrosis, about mm; None where there is none."""
    x, y, z, r = lesion.core
    if not r:
        return None
    away = _away(lesion, points)
    ball = np.sqrt((away[0] - x) ** 2 + (away[1] - y) ** 2 + (away[2] - z) ** 2) - r
    return ball * np.float32(lesion.semi.min())


def sides_mm(lesion: Lesion, above_mm: float) -> tuple[float, float]:
    """Width and height of the box of the section `above_mm` over the centre; 0, 0 beyond."""
    f, step = _section(lesion, above_mm)
    return float((f < 0).any(axis=0).sum() * step), float((f < 0).any(axis=1).sum() * step)


def height_of(lesion: Lesion, side_mm: float, up: bool) -> float:
    """How far from the centre the longer side of the box is `side_mm`: mm, negative below.

    Half-way along the falling part is found by bisection; 0 where the lesion is nowhere as wide.
    """
    inner, outer = 0.0, 1.3 * float(lesion.semi[2]) * (1.0 if up else -1.0)
    if max(sides_mm(lesion, 0.0)) <= side_mm:
        return 0.0
    for _ in range(9):
        middle = (inner + outer) / 2
        wide = max(sides_mm(lesion, middle)) > side_mm
        inner, outer = (middle, outer) if wide else (inner, middle)
    return (inner + outer) / 2


def diameter_mm(lesion: Lesion) -> float:
    """The longest in-plane diameter of the section through the centre."""
    f, step = _section(lesion, 0.0)
    outlines, _ = cv2.findContours(
        (f < 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    hull = cv2.convexHull(np.concatenate(outlines))[:, 0].astype(np.float32)
    apart = np.linalg.norm(hull[:, None] - hull[None], axis=-1).max()
    return float((apart + 1) * step)


def sized(lesion: Lesion, wanted_mm: float) -> Lesion:
    """The same shape with its longest in-plane diameter through the centre as wanted."""
    factor = np.float32(wanted_mm / diameter_mm(lesion))
    return dataclasses.replace(lesion, semi=lesion.semi * factor)


def moved(lesion: Lesion, centre: Float[np.ndarray, "3"]) -> Lesion:
    """The same lesion elsewhere."""
    return dataclasses.replace(lesion, centre=np.asarray(centre, np.float32))


def shape(rng: np.random.Generator, diameter: float, *, gross: bool) -> dict[str, np.ndarray]:
    """Semi-axes, harmonics and bumps of a lesion `diameter` mm wide, for `Lesion(**...)`.

    Outlines are the rougher the larger the lesion. With `gross` the classes of 144 resected HCC
    (fact sheet, section 7): single nodular 17 %, with extranodular growth 24 %, confluent 23 %,
    infiltrative 36 %; the last has no form of its own but a wide margin, see `margin`.
    """
    low, high = (0.07, 0.11) if diameter < 20 else (0.09, 0.15) if diameter < 50 else (0.19, 0.29)
    aspect = np.exp([0.0, -abs(0.16 * rng.normal()), 0.0])
    if rng.random() < 0.5:
        aspect[[0, 1]] = aspect[[1, 0]]
    aspect[2] = aspect[:2].mean() * rng.uniform(0.9, 1.1)
    kind = rng.choice(4, p=(0.17, 0.24, 0.23, 0.36)) if gross and diameter > 20 else 0
    return {
        "semi": (diameter / 2 * aspect).astype(np.float32),
        "waves": _waves(rng, rng.uniform(low, high)),
        "bumps": _bumps(rng, int(kind)),
    }


def margin(rng: np.random.Generator, diameter: float, ill_defined: float) -> float:
    """SD of the edge in mm: 2.5 to 5 for a share `ill_defined` of lesions, else 0.5 to 2."""
    drawn = rng.uniform(2.5, 5.0) if rng.random() < ill_defined else rng.uniform(0.5, 2.0)
    return float(min(drawn, 0.1 * diameter))


def necrosis(rng: np.random.Generator, diameter: float) -> Float[np.ndarray, "4"]:
    """Off-centre, 5 to 40 % of the volume: 10 % of 2 to 3 cm, 35 % to 5 cm, 65 % above."""
    likely = np.searchsorted([20, 30, 50], diameter, side="right")
    if rng.random() >= (0.0, 0.10, 0.35, 0.65)[likely]:
        return np.zeros(4, np.float32)
    direction = rng.normal(size=3)
    radius = rng.uniform(0.05, 0.40) ** (1 / 3)
    centre = direction / np.linalg.norm(direction) * rng.uniform(0, 0.9 * (1 - radius))
    return np.array([*centre, radius], np.float32)


def _coarse(lesion: Lesion, points: Points) -> Field:
    """Smooth noise of a few bumps across the lesion, the same in every phase."""
    away = _away(lesion, points)
    total = np.float32(0)
    for x, y, z, phase, _ in lesion.waves[:5]:
        total = total + np.sin(np.float32(5.0) * (away[0] * x + away[1] * y + away[2] * z) + phase)
    return total / np.float32(1.6)


def _around(lesion: Lesion, points: Points) -> Field:
    """0 to 1 with the direction from the centre: which part of the outline has the rim."""
    away = _away(lesion, points)
    x, y, z = lesion.waves[0, :3]
    radius = np.sqrt(sum(a * a for a in away)) + np.float32(1e-6)
    return 0.5 + 0.5 * (away[0] * x + away[1] * y + away[2] * z) / radius


def _away(lesion: Lesion, points: Points) -> list[np.ndarray | np.floating]:
    return [(p - c) / s for p, c, s in zip(points, lesion.centre, lesion.semi, strict=True)]


def _section(lesion: Lesion, above_mm: float) -> tuple[Float[np.ndarray, "G G"], float]:
    reach = 1.05 * lesion.radius_mm
    line = np.linspace(-reach, reach, GRID, dtype=np.float32)
    x, y, z = lesion.centre
    points = (x + line[None, :], y + line[:, None], z + np.float32(above_mm))
    return distance(lesion, points), float(line[1] - line[0])


def _waves(rng: np.random.Generator, amplitude: float) -> Float[np.ndarray, "7 5"]:
    direction = rng.normal(size=(len(WAVES), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    phase = rng.uniform(0, 2 * np.pi, (len(WAVES), 1))
    sizes = rng.normal(size=(len(WAVES), 1)).clip(-1.5, 1.5) * 1.1 * amplitude
    return np.hstack([direction, phase, sizes * (2 / WAVES[:, None]) ** 1.2]).astype(np.float32)


def _bumps(rng: np.random.Generator, kind: int) -> Float[np.ndarray, "K 4"]:
    """Balls on the surface for extranodular growth (1), larger and deeper for confluent (2)."""
    if kind not in (1, 2):
        return np.zeros((0, 4), np.float32)
    count = int(rng.integers(1, 4) if kind == 1 else rng.integers(2, 6))
    low, high = (0.3, 0.6) if kind == 1 else (0.5, 0.8)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.uniform(low, high, (count, 1))
    return np.hstack([direction * rng.uniform(0.7, 0.95, (count, 1)), radius]).astype(np.float32)

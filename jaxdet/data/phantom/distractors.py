"""What looks like a small tumour in the liver and is none: drawn, never labelled, in every phase.

Kinds and shares of patients are those of the project's fact sheet on abdominal CT, section 7; how
many nodules and perfusion spots a patient has is an estimate. Vessel sections, fissures,
gallbladder and bowel beside the liver, which readers mistake as well, are anatomy.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxdet.data.phantom import anatomy, lesions, tissue
from jaxdet.data.phantom.lesions import Lesion

Tissue = Literal["cyst", "haemangioma", "focal_fat", "sparing", "perfusion", "nodule"]
Avoid = list[tuple[Float[np.ndarray, "3"], float]]  # centre and radius, mm

POINTS, GAP_MM = 9000, 4.0  # tried in the liver's box; kept from lesions and each other
SHARES: dict[Tissue, float] = {
    "cyst": 0.10,
    "haemangioma": 0.05,
    "focal_fat": 0.08,
    "sparing": 0.06,
}
COUNTS: dict[Tissue, tuple[int, int]] = {"cyst": (1, 3), "haemangioma": (1, 2)}  # in who has any
DIAMETER_MM: dict[Tissue, tuple[float, float]] = {
    "cyst": (6.0, 26.0),
    "haemangioma": (7.0, 30.0),
    "focal_fat": (9.0, 22.0),
    "sparing": (9.0, 22.0),
    "perfusion": (6.0, 20.0),
    "nodule": (4.0, 9.5),
}
MARGIN_MM: dict[Tissue, float] = {"cyst": 0.5, "haemangioma": 0.8, "nodule": 1.0}  # others soft
SOFT_MM = 2.0
PERFUSION = {"sltd": 0.0, "multiphase": 1.6}  # spots a patient; seen in the arterial phase only
NODULES = {"sltd": 45.0, "multiphase": 30.0}  # in a fully cirrhotic liver
SLEEVE_SHARE, SLEEVE_MM = 0.7, (1.0, 2.0)  # periportal low attenuation, PubMed 10399776


@dataclasses.dataclass(frozen=True)
class Distractor:
    """A star-shaped solid of a benign tissue, in the frame of the body."""

    tissue: Tissue  # a name of tissue.BENIGN: its HU in each phase
    centre: Float[np.ndarray, "3"]  # mm
    semi: Float[np.ndarray, "3"]  # mm
    waves: Float[np.ndarray, "7 5"]  # as of lesions.Lesion
    margin_mm: float  # SD of the edge
    texture_hu: float
    seed: int  # of the HU it takes in a patient


def draw(
    rng: np.random.Generator, body: anatomy.Body, kind: str, avoid: Avoid
) -> tuple[Distractor, ...]:
    """One patient's distractors, `GAP_MM` and more from the balls to `avoid` and from each other.

    What finds no free place is left out; a liver without room has none. ValueError: an unknown
    kind.
    """
    if kind not in PERFUSION:
        raise ValueError(f"distractors.draw wants a kind of {sorted(PERFUSION)}; got {kind!r}")
    low, high = np.array(anatomy.LIVER_BOX_MM, np.float32).T
    points = rng.uniform(low, high, (POINTS, 3)).astype(np.float32)
    depth = -anatomy.liver(body, tuple(points.T))
    points, depth = points[depth > 1], depth[depth > 1]
    found: list[Distractor] = []
    taken = list(avoid)
    for name in _wanted(rng, body, kind):
        diameter = _diameter(rng, name)
        free = _allowed(rng, body, name, diameter, points, depth)
        for centre, radius in taken:
            away = np.linalg.norm(points - centre, axis=1)
            free &= away > radius + 0.6 * diameter + GAP_MM
        if free.any():
            at = points[free][int(rng.integers(int(free.sum())))]
            found.append(_solid(rng, body, name, diameter, at))
            taken.append((at, 0.6 * diameter))
    return tuple(found)


def as_lesion(found: Distractor, hu: dict[str, dict[str, float]]) -> Lesion:
    """The same solid as a Lesion, so that tumours and what mimics them are painted alike.

    A haemangioma's unfilled middle is `Contrast.unfilled` of each phase, not `core`.
    """
    diameter = 2 * float(found.semi[:2].max())
    contrast = tissue.BENIGN[found.tissue](np.random.default_rng(found.seed), hu, diameter)
    return Lesion(
        centre=found.centre,
        semi=found.semi,
        waves=found.waves,
        bumps=np.zeros((0, 4), np.float32),
        contrast=contrast,
        margin_mm=found.margin_mm,
        texture_hu=found.texture_hu,
        mosaic_hu=0.0,
        core=np.zeros(4, np.float32),
        capsule_mm=0.0,
    )


def sleeve_mm(rng: np.random.Generator, body: anatomy.Body) -> float:
    """Width of the dark sleeve beside portal branches in the portal phase; 0 in 30 %.

    Paint it as fat-free fluid, about 25 HU under the liver, where 0 < vessels.distances < width;
    wider in cirrhosis.
    """
    if rng.random() >= SLEEVE_SHARE:
        return 0.0
    return float(rng.uniform(*SLEEVE_MM) * (1 + 0.3 * body.cirrhosis))


def _wanted(rng: np.random.Generator, body: anatomy.Body, kind: str) -> list[Tissue]:
    names: list[Tissue] = []
    for name, share in SHARES.items():
        if rng.random() < share:
            low, high = COUNTS.get(name, (1, 1))
            names += [name] * int(rng.integers(low, high + 1))
    names += ["perfusion"] * int(rng.poisson(PERFUSION[kind]))
    severe = max(0.0, body.cirrhosis - 0.5) * 2
    names += ["nodule"] * int(rng.poisson(NODULES[kind] * severe))
    return names


def _diameter(rng: np.random.Generator, name: Tissue) -> float:
    """Log-uniform: small ones are more frequent."""
    return float(np.exp(rng.uniform(*np.log(DIAMETER_MM[name]))))


def _allowed(
    rng: np.random.Generator,
    body: anatomy.Body,
    name: Tissue,
    diameter: float,
    points: Float[np.ndarray, "N 3"],
    depth: Float[np.ndarray, "N"],
) -> np.ndarray:
    """Which points can be its centre."""
    if name == "perfusion":  # on the capsule
        return depth < 0.35 * diameter
    if name in ("focal_fat", "sparing"):  # beside falciform ligament, gallbladder or hilum
        place = ("porta", "gallbladder", "falciform")[int(rng.integers(3))]
        away = _beside(body, place, points)
        return (away > 0) & (away < 0.5 * diameter + 3) & (depth > 0.1 * diameter)
    return depth > (0.3 if name == "cyst" else 0.5) * diameter


def _beside(body: anatomy.Body, place: str, points: Float[np.ndarray, "N 3"]) -> np.ndarray:
    where = tuple(points.T)
    if place == "falciform":
        return anatomy.falciform(body, where)
    return anatomy.organ(body, place, where)


def _solid(
    rng: np.random.Generator,
    body: anatomy.Body,
    name: Tissue,
    diameter: float,
    at: Float[np.ndarray, "3"],
) -> Distractor:
    rough = {"cyst": 0.0, "nodule": 0.04, "haemangioma": 0.10}.get(name, 0.2)
    aspect = np.exp(0.10 * rng.normal(size=3)) if name != "cyst" else np.ones(3)
    if name in ("focal_fat", "sparing"):
        aspect = aspect * rng.permutation([1.0, 0.6, 0.9])
    waves = _waves(rng, rough)
    if name == "perfusion":
        waves[0] = _wedge(body, at)
    return Distractor(
        tissue=name,
        centre=at,
        semi=(diameter / 2 * aspect / aspect.max()).astype(np.float32),
        waves=waves,
        margin_mm=MARGIN_MM.get(name, SOFT_MM),
        texture_hu=0.0 if name == "cyst" else float(rng.uniform(2, 5)),
        seed=int(rng.integers(2**31)),
    )


def _wedge(body: anatomy.Body, at: Float[np.ndarray, "3"]) -> Float[np.ndarray, "5"]:
    """A first harmonic that draws the solid out to a tip, away from the capsule."""
    steps = np.concatenate([at + 2 * np.eye(3), at - 2 * np.eye(3)]).astype(np.float32)
    f = anatomy.liver(body, tuple(steps.T))
    inwards = f[3:] - f[:3]  # down the distance
    inwards = inwards / (np.linalg.norm(inwards) + 1e-6)
    # cos(2 c - 2) is 1 towards the tip (c = 1) and -.65 on the other side.
    return np.array([*inwards, -2.0, 0.45], np.float32)


def _waves(rng: np.random.Generator, amplitude: float) -> Float[np.ndarray, "7 5"]:
    count = len(lesions.WAVES)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    sizes = amplitude * rng.normal(size=(count, 1)).clip(-1.5, 1.5)
    falls = (2 / lesions.WAVES[:, None]) ** 1.2
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    return np.hstack([direction, phase, sizes * falls]).astype(np.float32)

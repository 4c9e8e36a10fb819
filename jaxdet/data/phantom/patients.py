"""One patient: size, outlines, HU, vessels, lesions and noise, drawn once from (seed, number)."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from jaxdet.data.phantom import anatomy, lesions, tissue, vessels

NOISE_HU, NOISE_SPREAD = 12.0, 0.25  # log-normal between patients, at full bandwidth


@dataclasses.dataclass(frozen=True)
class Patient:
    """All that is drawn once a patient. Lengths are in frame mm, each `mm` of the patient's mm."""

    seed: int
    number: int
    mm: float
    shift: Float[np.ndarray, "2"]  # x, y of the body on the table
    body: anatomy.Body
    hu: dict[str, float]
    portal: Float[np.ndarray, "S 7"]
    hepatic: Float[np.ndarray, "T 7"]
    lesions: tuple[lesions.Lesion, ...]
    noise_hu: float


@functools.lru_cache(maxsize=256)
def patient(seed: int, number: int) -> Patient:
    """Patient `number` of the phantom `seed`."""
    rng = np.random.default_rng([seed, number, 0])
    mm = float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.04))
    body, hu = anatomy.draw(rng), tissue.draw(rng)
    noise = float(NOISE_HU * np.exp(NOISE_SPREAD * rng.normal()))
    shift = rng.normal(0, 2.0, 2).clip(-4, 4)
    portal, hepatic = _trees(np.random.default_rng([seed, number, 1]), body)
    drawn = lesions.draw(np.random.default_rng([seed, number, 2]), body, hu, mm)
    return Patient(seed, number, mm, shift, body, hu, portal, hepatic, tuple(drawn), noise)


def _trees(rng: np.random.Generator, body: anatomy.Body) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.array(anatomy.LIVER_BOX_MM).T
    points = rng.uniform(low, high, (1500, 3)).astype(np.float32)
    points = points[anatomy.liver(body, tuple(points.T)) < -5.0]
    half = len(points) // 2
    trunk = np.array([[*anatomy.PORTAL_START, *anatomy.HILUM, 6.8]], np.float32)
    portal = np.vstack([trunk, vessels.grow(anatomy.HILUM, points[:half], 6.4)])
    # Right, middle and left hepatic vein: thirds of the liver as seen from the cava.
    fed = points[half:]
    turn = np.arctan2(*(fed[:, :2] - anatomy.CAVAL_INLET[:2] + [0, 8]).T[::-1])
    thirds = np.array_split(fed[np.argsort(turn, kind="stable")], 3)
    trees = [vessels.grow(anatomy.CAVAL_INLET, third, 4.6) for third in thirds]
    return portal, np.vstack(trees)

"""How far apart are the phantom's livers before registration? Table II of paper 2 says Dice .900.

    python scripts/reproduce/motion.py --out scripts/reproduce/results/motion.json
    python scripts/reproduce/motion.py --fit

Measured on masks alone: the liver of the portal phase against that of each other phase, axial
slice by slice, where the portal one has more than 8 cm2 and the two touch. --fit finds the factor
jaxdet.data.phantom.motion.STRENGTH at which the mean Dice is .900.
"""

import argparse
import datetime
import importlib.metadata
import pathlib

import numpy as np

from jaxdet import run as runs
from jaxdet.data.phantom import anatomy, motion, tissue
from jaxdet.types import PHASES

PUBLISHED_DICE = 0.9001  # Lee 2021, Table II, unregistered
LEAST_CM2 = 8.0
FIELD_MM, SIZE = 370.0, 256
BANDS = {  # facts on CT phantoms, sections 8 and 10
    "dice_mean": (0.895, 0.905),
    "dice_10th_percentile": (0.78, 0.85),
    "shift_in_plane_median_mm": (5.0, 7.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=160)
    parser.add_argument("--slices", type=int, default=2, help="a phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    chosen = parser.parse_args()
    if chosen.fit:
        print(f"STRENGTH = {fit(chosen.seed, chosen.patients, chosen.slices):.3f}")
        return
    result = measure(chosen.seed, chosen.patients, chosen.slices)
    for name, value in result.items():
        low, high = BANDS.get(name, (-np.inf, np.inf))
        wanted = f"  wanted {low} to {high}" if name in BANDS else ""
        print(f"{name:28s} {value:8.4f}{wanted}{'' if low <= value <= high else '  OUTSIDE'}")
    if chosen.out:
        runs.write_json(chosen.out, _record(chosen, result))


def fit(seed: int, patients: int, slices: int) -> float:
    """The STRENGTH at which the mean Dice is the published one, by secants on the same draws."""
    factors, off = [0.85, 1.15], []
    for _ in range(5):
        while len(off) < len(factors):
            dice = measure(seed, patients, slices, factors[len(off)])["dice_mean"]
            off.append(dice - PUBLISHED_DICE)
            print(f"factor {factors[len(off) - 1] * motion.STRENGTH:.3f}: Dice {dice:.4f}")
        if abs(off[-1]) < 5e-4:
            break
        slope = (off[-1] - off[-2]) / (factors[-1] - factors[-2])
        factors.append(factors[-1] - off[-1] / slope)
    return factors[-1] * motion.STRENGTH


def measure(seed: int, patients: int, slices: int, factor: float = 1.0) -> dict[str, float]:
    """Dice of slices and displacement of points of the liver, over all phases but the portal."""
    found, shifts, by_patient = [], [], []
    for number in range(patients):
        first = len(found)
        body, motions = _patient(seed, number, factor)
        rng = np.random.default_rng([seed, number, 90])
        for phase in (phase for phase in PHASES if phase != motion.REFERENCE):
            found += [_dice(body, motions[phase], z) for z in _heights(rng, body, slices)]
            shifts.append(motion.displacement_mm(motions[phase], body, _points(rng, body)))
        by_patient.append(np.mean([dice for dice in found[first:] if dice > 0]))
    dice = np.array(found)
    dice, moved = dice[dice > 0], np.concatenate(shifts)
    in_plane = np.hypot(moved[:, 0], moved[:, 1])
    return {
        "slices": float(len(dice)),
        "dice_mean": float(dice.mean()),
        "dice_standard_error": float(np.std(by_patient) / np.sqrt(patients)),
        "dice_sd": float(dice.std()),
        "dice_10th_percentile": float(np.quantile(dice, 0.1)),
        "shift_in_plane_median_mm": float(np.median(in_plane)),
        "shift_in_plane_over_10_mm": float((in_plane > 10).mean()),
        "shift_through_plane_sd_mm": float(moved[:, 2].std()),
    }


def _patient(seed: int, number: int, factor: float) -> tuple[anatomy.Body, dict]:
    """Body and motions as jaxdet.data.phantom.patients draws them for the four-phase set."""
    rng = np.random.default_rng([seed, number, 0])
    body = anatomy.draw(rng, tissue.cirrhosis(rng, "multiphase"))
    return body, motion.draw(np.random.default_rng([seed, number, 6]), factor)


def _grid(z: float) -> tuple[np.ndarray, np.ndarray, float]:
    pixel = FIELD_MM / SIZE
    line = ((np.arange(SIZE) - (SIZE - 1) / 2) * pixel).astype(np.float32)
    # The slice without what is surely no liver.
    (x0, x1), (y0, y1), _ = anatomy.LIVER_BOX_MM
    x, y = (line[(line > a - 25) & (line < b + 25)] for a, b in ((x0, x1), (y0, y1)))
    return x[None, :], y[:, None], z


def _heights(rng: np.random.Generator, body: anatomy.Body, count: int) -> list[float]:
    """Heights, evenly likely, at which the portal liver has more than LEAST_CM2."""
    least, found = LEAST_CM2 * 100 / (FIELD_MM / SIZE) ** 2, []
    while len(found) < count:
        z = float(rng.uniform(*anatomy.LIVER_BOX_MM[2]))
        if (anatomy.liver(body, _grid(z)) < 0).sum() > least:
            found.append(z)
    return found


def _dice(body: anatomy.Body, moved: motion.Motion, z: float) -> float:
    points = _grid(z)
    fixed = anatomy.liver(body, points) < 0
    other = anatomy.liver(body, motion.pull(moved, body, points)) < 0
    return float(2 * (fixed & other).sum() / (fixed.sum() + other.sum()))


def _points(rng: np.random.Generator, body: anatomy.Body) -> tuple[np.ndarray, ...]:
    """Where lesions are: points uniform in the liver."""
    low, high = np.array(anatomy.LIVER_BOX_MM).T
    points = rng.uniform(low, high, (400, 3)).astype(np.float32)
    return tuple(points[anatomy.liver(body, tuple(points.T)) < -3].T)


def _record(chosen: argparse.Namespace, result: dict[str, float]) -> dict:
    return {
        "date": datetime.date.today().isoformat(),
        "device": runs.device_name(),
        "versions": runs.versions() | {"scipy": importlib.metadata.version("scipy")},
        "seed": chosen.seed,
        "patients": chosen.patients,
        "slices_a_phase": chosen.slices,
        "strength": motion.STRENGTH,
        "published": {"dice_mean": PUBLISHED_DICE, "source": "Lee 2021, Table II, unregistered"},
        "wanted": {name: list(band) for name, band in BANDS.items()},
        "result": result,
    }


if __name__ == "__main__":
    main()

"""How far apart are the phantom's livers before registration? Table II of paper 2 says Dice .900.

    python scripts/reproduce/motion.py --out scripts/reproduce/results/motion.json
    python scripts/reproduce/motion.py --fit

Measured on masks alone, on the set's data points, which are the slices with a lesion: the liver of
the portal phase against that of each other phase where the two touch, and how far the lesion's box
moves. --fit finds the factor jaxdet.data.phantom.motion.STRENGTH at which the mean Dice is .900.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import pathlib

import numpy as np

from jaxdet import run as runs
from jaxdet.data.phantom import SETS, motion, render
from jaxdet.data.phantom import patients as patients_room
from jaxdet.data.phantom.cases import boxes
from jaxdet.data.registration import dice
from jaxdet.types import PHASES

PUBLISHED_DICE = 0.9001  # Lee 2021, Table II, unregistered
SIZE = 128  # px of the masks
BANDS = {  # facts on CT phantoms, sections 8 and 10
    "dice_mean": (0.895, 0.905),
    "dice_10th_percentile": (0.78, 0.85),
    "box_shift_median_mm": (5.0, 7.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=160)
    parser.add_argument("--slices", type=int, default=2, help="of a patient")
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
    factors, off = [1.15, 1.35], []
    for _ in range(5):
        while len(off) < len(factors):
            mean = measure(seed, patients, slices, factors[len(off)])["dice_mean"]
            off.append(mean - PUBLISHED_DICE)
            print(f"factor {factors[len(off) - 1] * motion.STRENGTH:.3f}: Dice {mean:.4f}")
        if abs(off[-1]) < 5e-4:
            break
        slope = (off[-1] - off[-2]) / (factors[-1] - factors[-2])
        factors.append(factors[-1] - off[-1] / slope)
    return factors[-1] * motion.STRENGTH


def measure(seed: int, patients: int, slices: int, factor: float = 1.0) -> dict[str, float]:
    """Dice of livers and shift of the lesion's box, portal against every other phase."""
    found, shifts, by_patient = [], [], []
    for number in range(patients):
        first = len(found)
        p = _patient(seed, number, factor)
        for z in _data_points(p, slices):
            portal, box = render.liver(p, z), _middle_mm(p, z, motion.REFERENCE)
            for phase in (phase for phase in PHASES if phase != motion.REFERENCE):
                found.append(dice.dice(portal, render.liver(p, z, phase)))
                shifts.append(np.linalg.norm(_middle_mm(p, z, phase) - box))
        by_patient.append(np.mean([value for value in found[first:] if value > 0]))
    counted = np.array([value for value in found if value > 0])
    moved = np.array([value for value in shifts if np.isfinite(value)])
    return {
        "pairs": float(len(counted)),
        "dice_mean": float(counted.mean()),
        "dice_standard_error": float(np.std(by_patient) / np.sqrt(patients)),
        "dice_sd": float(counted.std()),
        "dice_10th_percentile": float(np.quantile(counted, 0.1)),
        "box_shift_median_mm": float(np.median(moved)),
        "box_shift_over_10_mm": float((moved > 10).mean()),
    }


def _patient(seed: int, number: int, factor: float) -> patients_room.Patient:
    """A patient of the four-phase set with its own motion, times a factor."""
    which = dataclasses.replace(SETS["multiphase"]["paper"], size=SIZE)
    p = patients_room.patient(which, seed, number)
    rng = np.random.default_rng([seed, number, 6])  # as patients.patient draws it
    return dataclasses.replace(p, motions=motion.draw(rng, factor))


def _data_points(p: patients_room.Patient, count: int) -> list[int]:
    """Slices, evenly spread, in which the mask that was drawn has a box."""
    drawn = [z for z in p.slices if len(boxes(p, z).boxes_xyxy)]
    return [drawn[int((k + 0.5) / count * len(drawn))] for k in range(count)]


def _middle_mm(p: patients_room.Patient, z: int, phase: str) -> np.ndarray:
    """The middle of the box of the main lesion in a phase; NaN where it left the slice."""
    rows, columns = np.nonzero(render.tumours(p, z, phase) == 1)
    if not len(rows):
        return np.full(2, np.nan)
    middle = [columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]
    return np.array(middle) / 2 * p.scanner.pixel_mm


def _record(chosen: argparse.Namespace, result: dict[str, float]) -> dict:
    return {
        "date": datetime.date.today().isoformat(),
        "device": runs.device_name(),
        "versions": runs.versions() | {"scipy": importlib.metadata.version("scipy")},
        "seed": chosen.seed,
        "patients": chosen.patients,
        "slices_a_patient": chosen.slices,
        "strength": motion.STRENGTH,
        "published": {"dice_mean": PUBLISHED_DICE, "source": "Lee 2021, Table II, unregistered"},
        "wanted": {name: list(band) for name, band in BANDS.items()},
        "result": result,
    }


if __name__ == "__main__":
    main()

"""Table II of paper 2 on the phantom: do the livers of the phases lie on each other?

    python scripts/reproduce/table2.py --out scripts/reproduce/results/table2.json

Slices of the four-phase phantom are registered to the portal phase one by one, as the paper did,
and the Dice of the phantom's own liver masks is averaged without zeros. Beside it: how far the
recovered displacement is from the true one, in the plane and inside the portal liver.
"""

import argparse
import dataclasses
import datetime
import multiprocessing
import os
import pathlib
import time
from concurrent import futures

import numpy as np
from tqdm import tqdm

from jaxdet import run as runs
from jaxdet.data.phantom import SETS, cases
from jaxdet.data.phantom.cases import EVERY_PX
from jaxdet.data.registration import dice, portal
from jaxdet.types import CtSlice

PAPER = {"none": 0.9001, "rigid": 0.9119, "affine": 0.9213, "nonrigid": 0.9622}
FAR_MM = 1.0  # through the slice: tissue further away is not in the picture and cannot be found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--slices", type=int, default=2, help="of a patient, evenly spread")
    parser.add_argument("--size", type=int, default=256, help="px")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom")
    parser.add_argument("--backend", default="sitk", choices=["sitk", "elastix"])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path, required=True)
    chosen = parser.parse_args()
    began = time.perf_counter()
    jobs = [
        (chosen.size, chosen.seed, number, chosen.slices, chosen.backend)
        for number in range(chosen.patients)
    ]
    with futures.ProcessPoolExecutor(chosen.workers, multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(one_patient, *job) for job in jobs]
        done = tqdm(futures.as_completed(tasks), total=len(tasks), unit="patient")
        measured = [slice_ for task in done for slice_ in task.result()]
    rows = [summary(method, [slice_[method] for slice_ in measured]) for method in PAPER]
    content = {
        "date": datetime.date.today().isoformat(),
        "device": runs.device_name(),
        "cores": os.cpu_count(),
        "versions": runs.versions(),
        "seed": chosen.seed,
        "set": {"patients": chosen.patients, "size_px": chosen.size, "slices": len(measured)},
        "backend": chosen.backend,
        "seconds": round(time.perf_counter() - began),
        "rows": rows,
    }
    runs.write_json(chosen.out, content)
    print(f"{'':10} {'paper':>7} {'ours':>7} {'p10':>6}  error mm: median, 95 %")
    for row in rows:
        print(
            f"{row['method']:10} {row['paper']:7.4f} {row['dice']:7.4f} {row['dice_p10']:6.3f}"
            f"  {row['error_mm']['median']:.2f}, {row['error_mm']['p95']:.2f}"
        )


def one_patient(
    size: int, seed: int, number: int, slices: int, backend: str
) -> list[dict[str, dict[str, list[float]]]]:
    """Dice of the three pairs and displacement errors of every method, for a patient's slices."""
    which = dataclasses.replace(SETS["multiphase"]["paper"], size=size, neighbours=1)
    found = cases(which, seed, number, most=slices)
    return [{method: measure(case, method, backend) for method in PAPER} for case in found]


def measure(case: CtSlice, method: str, backend: str) -> dict[str, list[float]]:
    """Dice with the portal liver by pair, and the error of the displacement in mm at points."""
    if method == "none":
        after, shifts = case, {}
    else:
        transforms = portal.transforms(case, method, backend=backend)
        after = portal.warp(case, transforms)
        shifts = {phase: each[0].displacement_px for phase, each in transforms.items()}
    return {
        "dice": list(dice.mismatch(after.livers, after.phases).values()),
        "error_mm": [e for ph in case.phases if ph != "portal" for e in errors(case, ph, shifts)],
    }


def errors(case: CtSlice, phase: str, shifts: dict[str, np.ndarray]) -> list[float]:
    """Distance in the plane between recovered and true displacement, inside the portal liver."""
    half, i = EVERY_PX // 2, case.phases.index(phase)
    inside = case.livers[half::EVERY_PX, half::EVERY_PX, case.phases.index("portal")]
    true = case.displacement_mm[..., i, :]
    inside = inside & (np.abs(true[..., 2]) < FAR_MM)
    recovered = np.zeros_like(true[..., :2])
    if phase in shifts:
        px = shifts[phase]
        blocks = px.reshape(px.shape[0] // EVERY_PX, EVERY_PX, -1, EVERY_PX, 2)
        recovered = blocks.mean(axis=(1, 3)) * case.spacing_mm[0]
    return np.linalg.norm(recovered - true[..., :2], axis=-1)[inside].tolist()


def summary(method: str, measured: list[dict[str, list[float]]]) -> dict:
    """One row of the table."""
    values = np.array([value for one in measured for value in one["dice"]])
    agreement = dice.average(values)
    error = np.array([value for one in measured for value in one["error_mm"]])
    return {
        "method": method,
        "paper": PAPER[method],
        "dice": agreement.mean,
        "dice_p10": float(np.percentile(values[values > 0], 10)),
        "pairs": agreement.counted,
        "left_out": agreement.left_out,
        "error_mm": {
            "mean": float(error.mean()),
            "median": float(np.median(error)),
            "p95": float(np.percentile(error, 95)),
            "points": len(error),
        },
    }


if __name__ == "__main__":
    main()

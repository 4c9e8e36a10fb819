"""Which phantoms are there? Kinds, sizes, and the resolution of each."""

import dataclasses
from typing import Literal

import numpy as np

from jaxdet.types import PHASES

Kind = Literal["sltd", "multiphase", "demo"]
Size = Literal["tiny", "small", "paper"]


@dataclasses.dataclass(frozen=True)
class Set:
    """How many patients are made, and how they are scanned."""

    kind: Kind
    patients: int
    size: int  # px of a slice's side; the field of view is the patient's
    pitch_mm: float  # from one slice to the next
    thickness_mm: float
    depth: int  # slices of a volume, from below the liver to above it
    phases: tuple[str, ...] = ("portal",)
    neighbours: int = 1  # slices of each phase in one example
    free_slices: int = 0  # of each volume, without any tumour, beside the annotated ones
    # Of each volume so many with a tumour, of four phases evenly spread, else the first; 0 is all
    annotated_slices: int = 0
    tumour_scale: float = 1.0  # of "demo": times the diameters; few pixels want larger tumours


def _sltd(patients: int, size: int) -> Set:
    """As paper 1: 1 mm slices every 0.8 mm, portal phase."""
    return Set("sltd", patients, size, 0.8, 1.0, 200)


def _multiphase(patients: int, size: int, annotated_slices: int = 0) -> Set:
    """As paper 2; its spacing is not given: 2.25 mm makes its 17 data points a patient."""
    few = {"annotated_slices": annotated_slices}
    return Set("multiphase", patients, size, 2.25, 3.0, 72, PHASES, 3, **few)


def demo(patients: int, size: int, annotated_slices: int = 0, tumour_scale: float = 1.0) -> Set:
    """Larger tumours in thicker slices, which a small detector finds after minutes of training."""
    return Set(
        "demo",
        patients,
        size,
        2.5,
        2.5,
        64,
        annotated_slices=annotated_slices,
        tumour_scale=tumour_scale,
    )


SETS: dict[str, dict[Size, Set]] = {
    "sltd": {"tiny": _sltd(16, 256), "small": _sltd(64, 512), "paper": _sltd(208, 512)},
    "multiphase": {
        "tiny": _multiphase(20, 256),
        "small": _multiphase(40, 256),
        "paper": _multiphase(280, 512),
    },
    # Few slices of many patients: a patient has one tumour, and a network learns from many.
    "multiphase_demo": {
        "tiny": _multiphase(96, 128, 4),
        "small": _multiphase(128, 256, 4),
        "paper": _multiphase(280, 512, 4),
    },
    "demo": {
        "tiny": demo(96, 128, 4, tumour_scale=2.0),
        "small": demo(128, 256, 4),
        "paper": demo(208, 512, 4),
    },
}


def height_mm(which: Set, z: int) -> float:
    """Height of slice z in the frame of the body."""
    return (z - (which.depth - 1) / 2) * which.pitch_mm


def nearest_slice(which: Set, height: float | np.floating) -> int:
    """The slice nearest to a height in mm; may lie outside of the volume."""
    return round(float(height) / which.pitch_mm + (which.depth - 1) / 2)

"""phantom_sltd, phantom_multiphase and the demos of both: the built-in CT as prepared sets.

Every patient is a function of (seed, number) alone, so a set is the same however it is made.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxdet.data.builders.store import WHOLE
from jaxdet.data.builders.stream import Patient, Plan, official
from jaxdet.types import CtSlice

PART_PX = 4 << 20  # HU that one task makes at most, about: a patient of more is made in parts
SLICES = 72  # of the largest tumour of the four-phase set


def plan(
    kind: str,
    size: str,
    seed: int = 0,
    *,
    free_slices: int = 0,
    first: int = 0,
    cases: Callable[..., Sequence[CtSlice]] | None = None,
) -> Plan:
    """The set phantom_KIND/SIZE; one of another seed than 0 is called SIZE_seedN.

    With `free_slices` every patient has so many slices without a tumour too: SIZE_freeN. With
    `first` only so many patients are made, the same ones as in the whole set: SIZE_firstN.
    `cases(set, seed, number, part=(i, n))` makes the slices of a patient, or a share of them; by
    default the phantom does. An unknown size is a ValueError.
    """
    from jaxdet.data import phantom

    sizes = phantom.SETS[kind]
    if size not in sizes:
        raise ValueError(f"phantom_{kind} has the sizes {', '.join(sizes)}; got {size!r}")
    if free_slices < 0:
        raise ValueError(
            f"phantom_{kind} wants 0 lesion-free slices a patient or more; got {free_slices}"
        )
    if not 0 <= first <= sizes[size].patients:
        raise ValueError(
            f"phantom_{kind}/{size} has {sizes[size].patients} patients; got the first {first}"
        )
    count = first or sizes[size].patients
    chosen = dataclasses.replace(sizes[size], free_slices=free_slices, patients=count)
    patients = tuple(str(number) for number in range(chosen.patients))
    splits = official(patients) if kind == "multiphase" else (WHOLE,) * len(patients)
    parts = _parts(chosen)
    return Plan(
        name=f"phantom_{kind}/{size}"
        + (f"_seed{seed}" if seed else "")
        + (f"_free{free_slices}" if free_slices else "")
        + (f"_first{first}" if first else ""),
        patients=tuple(patient for patient in patients for _ in range(parts)),
        splits=tuple(split for split in splits for _ in range(parts)),
        cases=functools.partial(_part, cases or phantom.cases, chosen, seed, parts),
        metadata={
            "class_names": ["tumour"],
            "seed": seed,
            "phantom": dataclasses.asdict(chosen),
        },
    )


def _parts(chosen: Any) -> int:
    """In how many tasks a patient is made, so that the memory stays small at any size."""
    most = chosen.size**2 * len(chosen.phases) * chosen.neighbours
    return 1 if len(chosen.phases) == 1 else max(1, most * SLICES // (12 * PART_PX))


def _part(
    cases: Callable[..., Sequence[CtSlice]], chosen: Any, seed: int, parts: int, task: int
) -> Patient:
    number, part = divmod(task, parts)
    return Patient(cases(chosen, seed, number, part=(part, parts)))

"""From the phases of a patient to what a detector sees of one slice: 2.5-D stacks and windows.

    Study -> centres -> stack [H, W, P x 3], phase-major: (z-1, z, z+1) of precontrast, arterial, ..

Paper 2 (Lee 2021, Section IV) stacks four phases of three slices; "portal only" of its Table I is
the portal phase in all four places.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from jaxdet.data import phases as phase_names
from jaxdet.types import PHASES, Study

ABSENT_HU = -1024.0  # of a phase that is missing: air, which every window maps to 0
Missing = Literal["error", "zero", "portal"]


def window(width: float | int, level: float | int) -> tuple[float, float]:
    """(low, high) in HU of a window as radiology names it: level -+ width / 2."""
    if not width > 0:
        raise ValueError(f"a window wants a width above 0 HU; got {width}")
    return level - width / 2, level + width / 2


WINDOW_PCA_YOLO = window(150, 50)  # (-25, 125): paper 1
WINDOW_GSSD = (-150.0, 250.0)  # paper 2


def centres(study: Study, neighbours: int = 3) -> range:
    """The slices z that have all their neighbours: without the first and the last for three.

    Empty where the study has fewer slices than that. As paper 2, edges are no data points.
    """
    half = _half(neighbours)
    depth = next(iter(study.volumes.values())).hu.shape[0] if study.volumes else 0
    return range(half, max(depth - half, half))


def stack(
    study: Study,
    z: int,
    phases: Sequence[str] = PHASES,
    missing: Missing = "error",
    neighbours: int = 3,
) -> Float[np.ndarray, "H W C"]:
    """HU of slice z with its neighbours in every phase, phase-major, in a phase feet to head.

    float32 [H, W, P x neighbours]. A phase may be named twice: ("portal",) * 4 is "portal only". A
    phase that is missing is a ValueError with the patient, air (`missing="zero"`: -1024 HU, which a
    window maps to 0), or a copy of the portal phase ("portal"); `substitutes` says which was done.
    Where z has not all neighbours, and where phases lie on different grids, it is a ValueError.
    """
    half, there = _half(neighbours), centres(study, neighbours)
    replaced = substitutes(study, phases, missing)
    if z not in there:
        raise ValueError(
            f"patient {study.patient}: slice {z} has not {neighbours} neighbouring slices; wanted "
            + (f"{there[0]} to {there[-1]}" if there else "a study with more slices")
        )
    phase_names.check_grids(study)
    size = next(iter(study.volumes.values())).hu.shape[1:]
    out = np.empty((*size, len(phases) * neighbours), np.float32)
    for i, phase in enumerate(phases):
        part = out[..., i * neighbours : (i + 1) * neighbours]
        if replaced.get(phase) == "zero":
            part[:] = ABSENT_HU
        else:
            hu = study.volumes["portal" if phase in replaced else phase].hu
            part[:] = hu[z - half : z + half + 1].transpose(1, 2, 0)
    return out


def substitutes(
    study: Study, phases: Sequence[str] = PHASES, missing: Missing = "error"
) -> dict[str, str]:
    """What stands for each phase that a patient lacks: {"arterial": "zero"}; empty if none does."""
    unknown = [phase for phase in phases if phase not in PHASES]
    if unknown or not phases:
        raise ValueError(f"phases want names of {', '.join(PHASES)}; got {list(phases)}")
    absent = [phase for phase in dict.fromkeys(phases) if phase not in study.volumes]
    if absent and missing == "error":
        raise ValueError(
            f"patient {study.patient} has no {' and no '.join(absent)} phase (there are: "
            f"{', '.join(study.volumes) or 'none'}). Leave the patient out, or let air (missing="
            '"zero") or the portal phase (missing="portal") stand for it'
        )
    if not study.volumes or (absent and missing == "portal" and "portal" not in study.volumes):
        raise ValueError(f"patient {study.patient} has no portal phase that could stand for others")
    return dict.fromkeys(absent, missing)


def by_phase(
    image: Shaped[np.ndarray, "H W C"], phases: Sequence[str] = PHASES, neighbours: int = 3
) -> list[tuple[str, Shaped[np.ndarray, "H W n"]]]:
    """The slices of each phase in a stack, in its order, as views.

    ValueError for another number of channels, with the phases that were expected.
    """
    if image.shape[2] != len(phases) * neighbours:
        raise ValueError(
            f"{len(phases)} phases ({', '.join(phases)}) of {neighbours} slices are "
            f"{len(phases) * neighbours} channels; got {image.shape[2]}"
        )
    parts = np.split(image, len(phases), axis=2)
    return list(zip(phases, parts, strict=True))


def _half(neighbours: int) -> int:
    if neighbours < 1 or neighbours % 2 == 0:
        raise ValueError(
            f"neighbours counts the slice itself: wanted 1, 3, 5, ..; got {neighbours}"
        )
    return neighbours // 2

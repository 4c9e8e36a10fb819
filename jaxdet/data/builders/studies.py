"""From the volumes and masks of one patient to the slices that a prepared set holds."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from jaxdet.data import masks, slices
from jaxdet.types import PHASES, CtSlice, Study


def cases(
    study: Study,
    *,
    phases: tuple[str, ...] = PHASES,
    missing: slices.Missing = "error",
    neighbours: int = 3,
    smooth: bool = True,
) -> list[CtSlice]:
    """Every slice with a lesion, feet to head, HU rounded to int16; a study without one gives none.

    As paper 2: slices without all neighbours are left out, and so are those whose mask is empty
    after smoothing. Phases whose liver is not known have an empty liver mask; where no liver is
    known there is none. A missing phase as slices.stack says.
    """
    if study.lesions is None:
        return []
    found = []
    for z in slices.centres(study, neighbours):
        if study.lesions[z].any():
            found += _case(study, z, phases, missing, neighbours, smooth)
    return found


def notes(
    study: Study,
    found: Sequence[CtSlice],
    *,
    phases: tuple[str, ...] = PHASES,
    missing: slices.Missing = "error",
    neighbours: int = 3,
) -> dict[str, int]:
    """What was counted while the study was read, which phases are stood in for, what is left out.

    `found` is what `cases` made of the study with the same options.
    """
    told: dict[str, int] = {}
    for volume in study.volumes.values():
        for kind, times in volume.faults.items():
            told[kind] = told.get(kind, 0) + times
    stood_in = slices.substitutes(study, phases, missing)
    told |= {f"{phase} missing: {by}": 1 for phase, by in stood_in.items()}
    return told | _left_out(study, len(found), neighbours)


def _left_out(study: Study, data_points: int, neighbours: int) -> dict[str, int]:
    whole = slices.centres(study, neighbours)
    drawn = [] if study.lesions is None else np.flatnonzero(study.lesions.any(axis=(1, 2)))
    inside = sum(int(z) in whole for z in drawn)
    counts = {
        "lesion slices at an edge": len(drawn) - inside,
        "lesion slices empty after smoothing": inside - data_points,
        "no data point": int(data_points == 0),
    }
    return {kind: times for kind, times in counts.items() if times}


def _case(
    study: Study,
    z: int,
    phases: tuple[str, ...],
    missing: slices.Missing,
    neighbours: int,
    smooth: bool,
) -> list[CtSlice]:
    boxes, instances = masks.boxes_of(study.lesions[z], smooth)
    if not len(boxes):
        return []
    spacing = study.volumes[study.annotated].spacing_mm
    hu = slices.stack(study, z, phases, missing, neighbours)
    info = np.iinfo(np.int16)
    return [
        CtSlice(
            hu=np.rint(hu).clip(info.min, info.max).astype(np.int16),
            boxes_xyxy=boxes,
            labels=np.zeros(len(boxes), np.int32),
            diameters_mm=masks.diameters_mm(instances, spacing[:2]),
            lesions=instances,
            livers=_livers(study, z, phases),
            displacement_mm=None,
            spacing_mm=spacing,
            phases=phases,
            annotated=study.annotated,
            touching=masks.merged(instances),
            patient=study.patient,
            name=f"patient {study.patient} slice {z}",
            z=z,
        )
    ]


def _livers(study: Study, z: int, phases: tuple[str, ...]) -> Bool[np.ndarray, "H W P"] | None:
    if not study.livers:
        return None
    empty = np.zeros(study.lesions.shape[1:], bool)
    known = [study.livers[phase][z] if phase in study.livers else empty for phase in phases]
    return np.stack(known, axis=-1)

"""What does a prepared set hold? Counts, sizes, spacing, phases, faults; liver HU and Dice."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdet.data.builders import store
from jaxdet.data.builders.store import Truth
from jaxdet.data.registration import dice
from jaxdet.types import CtSlice

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def inspect(
    prepared: store.Prepared, sample: int = 48, segment: dice.Segment | None = None
) -> dict[str, Any]:
    """All that is counted over a set, as plain numbers for JSON and `report.tables`.

    Truths are read of every slice; pixels and masks of `sample` slices evenly spread over the set,
    for what needs them (HU of the liver by phase, Dice between the phases' livers). A number that
    the set cannot tell is None. `segment` is that of `chosen`.
    """
    cases = chosen(prepared, sample, segment)
    truths = {split: prepared.truths(split) for split in prepared.splits}
    every = [truth for each in truths.values() for truth in each]
    return {
        "name": prepared.name,
        "folder": str(prepared.folder),
        "splits": {split: _counts(each) for split, each in truths.items()},
        "whole": _counts(every),
        "classes": list(prepared.class_names),
        "phases": list(prepared.phases),
        "neighbours": prepared.metadata["neighbours"],
        "size_px": sorted({"x".join(map(str, truth.shape)) for truth in every}),
        "spacing_mm": _spacing(every),
        "annotated_patients": _annotated(every),
        "boxes_per_slice": dict(sorted(Counter(len(t.labels) for t in every).items())),
        "box_mm": _spread([side for t in every for side in box_sides_mm(t)]),
        "diameter_mm": _spread([d for t in every for d in t.diameters_mm.tolist()]),
        "largest_diameter_mm": _spread(largest_diameters_mm(every)),
        "misaligned_mm": _misaligned(prepared, every),
        "touching": _touching(every, cases),
        # Kind -> patient -> count, of which only the counts are told: a name may say who it is.
        "faults": {
            k: sum(each.values()) for k, each in prepared.metadata.get("faults", {}).items()
        },
        **_sampled(cases),
    }


def chosen(
    prepared: store.Prepared, count: int, segment: dice.Segment | None = None
) -> list[CtSlice]:
    """`count` slices, or all there are, evenly spread over the splits in their order.

    `segment` finds the livers of those that have no liver masks.
    """
    total = sum(prepared.splits.values())
    picked = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    found, before = [], 0
    for split, length in prepared.splits.items():
        slices = prepared.slices(split)
        found += [slices[int(i) - before] for i in picked if before <= i < before + length]
        before += length
    return [_with_livers(case, segment) for case in found]


def _with_livers(case: CtSlice, segment: dice.Segment | None) -> CtSlice:
    if segment is None or case.livers is not None:
        return case
    return dataclasses.replace(case, livers=dice.livers_of(case, segment))


def box_sides_mm(truth: Truth) -> list[float]:
    """The longer side of every box in mm."""
    sides = (truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]) * np.array(truth.spacing_mm[:2])
    return sides.max(axis=1).tolist() if len(sides) else []


def largest_diameters_mm(truths: Sequence[Truth]) -> list[float]:
    """Of every patient with a lesion mask the longest diameter in any of its slices."""
    longest: dict[str, float] = {}
    for truth in truths:
        for diameter in truth.diameters_mm[np.isfinite(truth.diameters_mm)].tolist():
            longest[truth.patient] = max(longest.get(truth.patient, 0.0), diameter)
    return list(longest.values())


def liver_hu(case: CtSlice) -> dict[str, float]:
    """The median HU of the liver in the central slice of each phase that has a liver mask."""
    if case.livers is None:
        return {}
    depth = case.hu.shape[2] // len(case.phases)
    found = {}
    for i, phase in enumerate(case.phases):
        inside = case.livers[..., i]
        if inside.any():
            found[phase] = float(np.median(case.hu[:, :, i * depth + depth // 2][inside]))
    return found


def _counts(truths: Sequence[Truth]) -> dict[str, int]:
    return {
        "slices": len(truths),
        "patients": len({truth.patient for truth in truths}),
        "boxes": sum(len(truth.labels) for truth in truths),
    }


def _misaligned(prepared: store.Prepared, truths: Sequence[Truth]) -> dict[str, float | int] | None:
    """How far the phases lie apart at the lesions; None for one phase, where it is 0."""
    if len(set(prepared.phases)) < 2:
        return None
    return _spread([mm for t in truths for mm in t.misaligned_mm.tolist()])


def _touching(truths: Sequence[Truth], cases: Sequence[CtSlice]) -> int | None:
    """Lesions that touch another; None where there are boxes, but no sign of a lesion mask."""
    count = sum(truth.touching for truth in truths)
    boxes = any(len(truth.labels) for truth in truths)
    # Without spacing a mask has no diameter, so the sampled masks are asked too.
    masks = any(np.isfinite(truth.diameters_mm).any() for truth in truths) or any(
        case.lesions is not None for case in cases
    )
    return count if count or masks or not boxes else None


def _annotated(truths: Sequence[Truth]) -> dict[str, int]:
    by_patient = {truth.patient: truth.annotated for truth in truths}
    return dict(Counter(by_patient.values()).most_common())


def _spacing(truths: Sequence[Truth]) -> dict[str, Any]:
    spacing = np.array([truth.spacing_mm for truth in truths], np.float64).reshape(-1, 3)
    return {axis: _spread(spacing[:, k].tolist()) for k, axis in enumerate("xyz")}


def _spread(values: Sequence[float]) -> dict[str, float | int] | None:
    """Number, mean, SD and percentiles; NaN are left out, and None stands for nothing at all."""
    known = np.array([v for v in values if math.isfinite(v)], np.float64)
    if not len(known):
        return None
    at = np.percentile(known, PERCENTILES)
    named = {f"p{p}": round(float(v), 3) for p, v in zip(PERCENTILES, at, strict=True)}
    deviation = float(known.std(ddof=1)) if len(known) > 1 else 0.0
    return {"count": len(known), "mean": float(known.mean()), "sd": deviation, **named}


def _sampled(cases: Sequence[CtSlice]) -> dict[str, Any]:
    levels: dict[str, list[float]] = {}
    mismatch: list[float] = []
    for case in cases:
        for phase, level in liver_hu(case).items():
            levels.setdefault(phase, []).append(level)
        if case.livers is not None and len(case.phases) > 1 and "portal" in case.phases:
            mismatch += dice.mismatch(case.livers, case.phases).values()
    agreement = dice.average(np.array(mismatch))
    return {
        "sampled": len(cases),
        "liver_hu": {phase: _spread(values) for phase, values in levels.items()},
        "liver_dice": {"mean": agreement.mean, "pairs": agreement.counted} if mismatch else None,
    }

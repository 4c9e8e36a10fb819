"""How good are the detections on small lesions, on each phase, where the phases lie apart?

Every stratum is judged by itself, with the truths outside it ignored.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from jaxdet.metrics import facts as known
from jaxdet.metrics.average_precision import (
    Cases,
    Verdict,
    areas_by_class,
    check,
    judge,
    prepare,
    recalls_by_class,
)
from jaxdet.metrics.facts import Facts
from jaxdet.metrics.protocols import protocol_named
from jaxdet.metrics.rows import reaches

# Lower bounds of the intervals, which hold their lower end and not their upper one.
DIAMETERS_MM = {"below 4": 0.0, "4-10": 4.0, "10-20": 10.0, "20-50": 20.0, "50 and more": 50.0}
MISALIGNED_MM = {"below 5": 0.0, "5-10": 5.0, "10-15": 10.0, "15 and more": 15.0}
UNKNOWN = "unknown"

Row = Callable[..., dict[str, Any]]  # (name, wanted [M], out [D]) -> row


def strata(
    detections: Iterable[Any],
    truths: Iterable[Any],
    facts: Facts | None = None,
    *,
    protocol: str = "coco",
    overlap: Literal["iou", "iobb"] = "iou",
    thresholds: float | Sequence[float | int] | np.ndarray = (0.5,),
    score_threshold: float | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Average precision and recall of every stratum, as lists of rows that JSON can hold.

    detections, truths, protocol, overlap and thresholds as in `average_precision`. Keys:

      diameter_mm    the longest diameter of a lesion: 0 to below 4 mm, 4 to below 10, 10 to below
                     20, 20 to below 50, 50 and more. What finds no lesion is false where the longer
                     side of its box, in mm, lies in the same interval, and ignored elsewhere, like
                     the sizes of COCO; where the size of a pixel is unknown it is false everywhere.
      phase          the phase on which the lesions were drawn, in the order in which they first
                     come: only images of that phase are looked at.
      misaligned_mm  how far the phases lie apart at the lesion: 0 to below 5 mm, 5 to below 10, 10
                     to below 15, 15 and more. What finds no lesion is false in every row.

    A last row "unknown" comes only where there are such lesions (images, for the phase), and
    there all that finds nothing is false. Without facts it holds everything.

    Rows: name; truths, those that count; images that hold one; ap and recall, lists with one
    number a threshold, means over the classes that have truth in the stratum; with
    `score_threshold` recall_at_score, of the detections that score so much or more. All detections
    the protocol looks at are in the others. Without truth the three are None; with truth and no
    detections 0. Lesions of other strata, and what finds them, are ignored.

    ValueError: as in `average_precision`; facts that do not fit, or a length below 0: it names the
    image.
    """
    overlaps, rules = check(thresholds, overlap), protocol_named(protocol)
    if score_threshold is not None and not np.isfinite(score_threshold):
        raise ValueError(f"score_threshold wants a number; got {score_threshold}")
    cases = prepare(detections, truths, rules, overlap)
    facts = known.fitting(facts, cases.images, cases.truths)
    nothing = np.zeros(len(cases.dets.scores), bool)

    def row(name: str, wanted: np.ndarray, out: np.ndarray = nothing) -> dict[str, Any]:
        verdict = judge(cases, overlaps, rules, wanted=wanted, out=out)
        return _row(name, verdict, areas_by_class(verdict, rules)[1], score_threshold)

    sides = np.maximum(cases.dets.boxes_xyxy[:, 2:] - cases.dets.boxes_xyxy[:, :2], 0)
    sides_mm = (sides * facts.pixel_mm[cases.dets.image]).max(axis=1)
    diameters = _lengths(facts.diameters_mm, cases, "diameter")
    apart = _lengths(facts.misaligned_mm, cases, "misalignment")
    return {
        "diameter_mm": _intervals(row, cases, DIAMETERS_MM, diameters, sides_mm),
        "phase": _phases(row, cases, facts.phases),
        "misaligned_mm": _intervals(row, cases, MISALIGNED_MM, apart),
    }


def _intervals(
    row: Row,
    cases: Cases,
    lower_mm: dict[str, float],
    lengths_mm: Float[np.ndarray, "M"],
    sides_mm: Float[np.ndarray, "D"] | None = None,
) -> list[dict[str, Any]]:
    """One row an interval; boxes with a side outside it are out, NaN and None never are."""
    sides_mm = np.full(len(cases.dets.scores), np.nan) if sides_mm is None else sides_mm
    uppers = [*lower_mm.values(), np.inf][1:]
    rows = [
        row(
            name,
            (lengths_mm >= low) & (lengths_mm < high),
            (sides_mm < low) | (sides_mm >= high),
        )
        for (name, low), high in zip(lower_mm.items(), uppers, strict=True)
    ]
    rest = np.isnan(lengths_mm)
    return rows + ([row(UNKNOWN, rest)] if (rest & ~cases.truths.crowd).any() else [])


def _phases(row: Row, cases: Cases, phases: Sequence[str]) -> list[dict[str, Any]]:
    names = np.array([phase or UNKNOWN for phase in phases], np.str_)
    order = sorted(dict.fromkeys(names.tolist()), key=lambda name: name == UNKNOWN)
    return [
        row(name, (names == name)[cases.truths.image], (names != name)[cases.dets.image])
        for name in order
    ]


def _row(
    name: str, verdict: Verdict, areas: Float[np.ndarray, "K T"], score_threshold: float | None
) -> dict[str, Any]:
    counted = verdict.counted
    row = {
        "name": name,
        "truths": int(counted.sum()),
        "images": len(np.unique(verdict.cases.truths.image[counted])),
        "ap": _means(areas),
        "recall": _means(recalls_by_class(verdict)[1]),
    }
    if score_threshold is None:
        return row
    # What scores less is matched later, so to take it away changes nothing before it.
    sure = reaches(verdict.cases.dets.scores, score_threshold)
    kept = verdict._replace(found=np.where(sure[:, None], verdict.found, -1))
    return row | {"recall_at_score": _means(recalls_by_class(kept)[1])}


def _means(values: Float[np.ndarray, "K T"]) -> list[float] | None:
    return values.mean(axis=0).tolist() if len(values) else None


def _lengths(
    values: Sequence[Float[np.ndarray, "_"]], cases: Cases, what: str
) -> Float[np.ndarray, "M"]:
    lengths = known.of_truths(values, cases.truths)
    wrong = np.flatnonzero(lengths < 0)
    if len(wrong):
        image = cases.truths.image[wrong[0]]
        raise ValueError(f"image {image} (counted from 0) has a lesion with a {what} below 0 mm")
    return lengths

"""Free-response ROC: how many lesions are found at how many false boxes an image or a patient?

    judge -> right and false boxes -> one point a score -> read off at fixed rates -> their mean

Unlike average precision it counts lesion-free slices and weighs them as they come.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxdet.metrics.average_precision import (
    Cases,
    check,
    enough,
    judge,
    overlapping,
    prepare,
)
from jaxdet.metrics.facts import Facts, patient_of
from jaxdet.metrics.levels import at_least
from jaxdet.metrics.protocols import Protocol, protocol_named

RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # false boxes a unit, as in LUNA16
WORDS = {
    "per": ("image", "patient"),
    "of": ("lesion", "slice", "patient"),
    "duplicates": ("false", "ignored"),
}


class Curve(NamedTuple):
    """One point for each distinct score, falling: boxes of equal score cannot be told apart."""

    false_positives: Float[np.ndarray, "N"]  # a unit; never falls
    sensitivity: Float[np.ndarray, "N"]  # never falls; NaN without truth
    scores: Float[np.ndarray, "N"]


class Froc(NamedTuple):
    """Sensitivities at R rates of false boxes, and what they were counted on."""

    rates: Float[np.ndarray, "R"]  # false boxes a unit
    sensitivity: Float[np.ndarray, "R"]  # on straight lines between the points; NaN without truth
    attained: Float[np.ndarray, "R"]  # at the best point whose rate is not above; NaN likewise
    scores: Float[np.ndarray, "R"]  # of that point: keep what scores so much; NaN: keep nothing
    cpm: float  # mean of `sensitivity`; NaN without truth
    curve: Curve
    per: str  # what a unit is
    units: int  # images or patients, lesion-free ones too: what false boxes are divided by
    of: str  # what a target is
    targets: int  # lesions, or slices or patients with one: what is to be found
    lesions: int  # those that count, so no crowds


def froc(
    detections: Iterable[Any],
    truths: Iterable[Any],
    facts: Facts | None = None,
    *,
    per: Literal["image", "patient"] = "image",
    of: Literal["lesion", "slice", "patient"] = "lesion",
    overlap: Literal["iou", "iobb"] = "iou",
    threshold: float = 0.5,
    protocol: str = "coco",
    rates: Sequence[float | int] | np.ndarray = RATES,
    duplicates: Literal["false", "ignored"] = "false",
) -> Froc:
    """Sensitivity at fixed numbers of false boxes an image or a patient.

    detections, truths, overlap and protocol as in `average_precision`; threshold is one overlap.
    facts name the patients; without them, and where the name is "", an image is one of its own.

    per: what false boxes are counted a unit of. All images count, those without lesion too:
      departs from "l0sg", which leaves false boxes there out ("fixed" is the same here).
    of: what is to be found: lesions; images with a lesion, of which one hit is enough; or patients.
    duplicates: a further box on a lesion that was found is a false one, as under AP, or with
      "ignored" neither right nor wrong, as in DeepLesion's evaluation (facts, gssd_baselines 9.4).
      Departs: a box still finds one lesion at most.
    Classes are pooled; a hit needs the right one. Crowds and what finds them are ignored.

    The curve starts at (0, 0), where nothing is kept, rises at rate 0 as long as only right boxes
    come, and its last value holds beyond its end. `sensitivity` is read off straight lines between
    the points, the largest where several have that rate, as in LUNA16 and nnDetection; their mean
    is LUNA16's CPM. Below one false box in all there is no real operating point between: there
    `attained` is what a user can have, with the score in `scores`.

    No truth: sensitivity, attained and cpm are NaN (`as_json`: None), rates and scores are defined.
    Truth and no detections: 0, scores NaN. ValueError: as in `average_precision`, no rates or a
    negative or NaN one, facts of another number of images.
    """
    check_words(per=per, of=of, duplicates=duplicates)
    at, overlaps = _rates(rates), check(threshold, overlap)
    if len(overlaps) != 1:
        raise ValueError(f"froc wants one overlap as threshold; got {threshold!r}")
    rules = protocol_named(protocol)._replace(empty_images="false")
    cases = prepare(detections, truths, rules, overlap)
    found, right, false, wanted = _judged(cases, overlaps, rules, duplicates)
    patients, scores, image = patient_of(cases.images, facts), cases.dets.scores, cases.truths.image
    target = {"lesion": np.arange(len(image)), "slice": image, "patient": patients[image]}[of]
    hit = np.full(target.max(initial=-1) + 1, -np.inf)
    np.maximum.at(hit, target[found[right]], scores[right])
    hit = hit[np.unique(target[wanted])]
    units = cases.images if per == "image" else int(patients.max(initial=-1)) + 1
    kept = np.unique(scores[right | false])[::-1]
    share = at_least(hit, kept) / len(hit) if len(hit) else np.full(len(kept), np.nan)
    curve = Curve(at_least(scores[false], kept) / max(units, 1), share, kept)
    sensitivity, attained, lowest = _read_off(curve, at, 0.0 if len(hit) else np.nan)
    cpm = float(sensitivity.mean())
    return Froc(
        at, sensitivity, attained, lowest, cpm, curve, per, units, of, len(hit), int(wanted.sum())
    )


def as_json(result: Froc, curve: bool = False) -> dict[str, Any]:
    """A plain dict that JSON can hold, NaN as None; the points of the curve if asked for."""
    columns = result._asdict() | {"curve": result.curve._asdict()}
    if not curve:
        del columns["curve"]
    return _plain(columns)


def check_words(**words: str) -> None:
    """A ValueError where an option is not one of its words."""
    for name, got in words.items():
        if got not in WORDS[name]:
            raise ValueError(f"{name} wants one of {', '.join(WORDS[name])}; got {got!r}")


def _rates(rates: Any) -> Float[np.ndarray, "R"]:
    at = np.asarray(rates, np.float64)
    if at.ndim != 1 or not at.size or not (np.isfinite(at) & (at >= 0)).all():
        raise ValueError(f"rates want a list of finite numbers from 0; got {rates!r}")
    return at


def _judged(
    cases: Cases, overlaps: np.ndarray, rules: Protocol, duplicates: str
) -> tuple[np.ndarray, Bool[np.ndarray, "D"], Bool[np.ndarray, "D"], Bool[np.ndarray, "M"]]:
    """Row of the truth that each box finds, which are right, which false; truths to be found."""
    verdict = judge(cases, overlaps, rules)
    found, counts = verdict.found[:, 0], ~verdict.ignored[:, 0]
    false = (found < 0) & counts
    if duplicates == "ignored":
        near = overlapping(cases, rules, float(enough(overlaps, rules)[0])).det
        false[near] = False
    return found, (found >= 0) & counts, false, verdict.wanted


def _read_off(curve: Curve, rates: np.ndarray, start: float) -> tuple[np.ndarray, ...]:
    """Sensitivity on straight lines and at the last point not above each rate, and its score."""
    x = np.append(0.0, curve.false_positives)
    y, scores = np.append(start, curve.sensitivity), np.append(np.nan, curve.scores)
    low = np.searchsorted(x, rates, "right") - 1  # of several points at one rate the last, the best
    high = np.minimum(low + 1, len(x) - 1)
    width = x[high] - x[low]
    part = np.divide(rates - x[low], width, out=np.zeros(len(rates)), where=width > 0)
    return y[low] + part * (y[high] - y[low]), y[low], scores[low]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    return None if value != value else value  # NaN alone differs from itself

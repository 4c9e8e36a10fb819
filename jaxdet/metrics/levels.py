"""Is there a lesion at all? Slices, or whole patients, as yes or no.

The score of a slice or patient is that of its surest detection, wherever that lies and whatever
class it names; its truth is whether it has a lesion of any class.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdet.metrics.facts import Facts, patient_of
from jaxdet.metrics.rows import Found, Truth, reaches, read


class Ranked(NamedTuple):
    """Slices or patients in the order in which they first come."""

    scores: Float[np.ndarray, "U"]  # of the surest detection; minus infinity without any
    lesion: Bool[np.ndarray, "U"]
    unsure: int  # those whose only truths are crowds, which are in neither column


def levels(
    detections: Iterable[Any],
    truths: Iterable[Any],
    facts: Facts | None = None,
    level: Literal["slice", "patient"] = "slice",
    score_thresholds: float | Sequence[float | int] | np.ndarray = (),
) -> dict[str, Any]:
    """How well slices or patients with a lesion are told from those without, ready for JSON.

    detections and truths as in `average_precision`; an image is a slice. facts name the patient of
    each image; without them, and where the name is "", an image is a patient of its own.

    Keys: level; with_lesion and without_lesion, their numbers; unsure, those that hold crowds and
    nothing else, which count nowhere; auc, the probability that one with a lesion scores higher
    than one without, an equal score counting one half (exact: Mann-Whitney U over the number of
    pairs); ap, the average precision of the ranking, equal scores taken together and nothing
    interpolated; at, a list with score, sensitivity (share of those with a lesion that hold a
    detection of that score or more) and specificity (share of those without that hold none), one
    for each of `score_thresholds`.

    What has no detection ranks below every score, all such tied. None where a number is not
    defined: auc without both kinds, ap and sensitivity with no lesion anywhere, specificity where
    all have one. No protocol has a say here: all detections count. ValueError: as in
    `average_precision`, facts of another number of images, a threshold that is not finite.
    """
    if level not in ("slice", "patient"):
        raise ValueError(f"level wants 'slice' or 'patient'; got {level!r}")
    found, true, images = read(detections, truths)
    unit = patient_of(images, facts) if level == "patient" else np.arange(images)
    ranked = rank(found, true, unit)
    yes, no = ranked.scores[ranked.lesion], ranked.scores[~ranked.lesion]
    return {
        "level": level,
        "with_lesion": len(yes),
        "without_lesion": len(no),
        "unsure": ranked.unsure,
        "auc": area_under_roc(yes, no),
        "ap": ranking_precision(yes, no),
        "at": [_at(yes, no, float(score)) for score in np.atleast_1d(score_thresholds)],
    }


def rank(found: Found, true: Truth, unit: Int[np.ndarray, "N"]) -> Ranked:
    """Score and truth of every unit; `unit` is the number of each image's, from 0, without gaps."""
    count = int(unit.max(initial=-1)) + 1
    scores = np.full(count, -np.inf)
    np.maximum.at(scores, unit[found.image], found.scores)
    lesion, crowd = np.zeros((2, count), bool)
    lesion[unit[true.image[~true.crowd]]] = True
    crowd[unit[true.image[true.crowd]]] = True
    sure = lesion | ~crowd
    return Ranked(scores[sure], lesion[sure], int(count - sure.sum()))


def area_under_roc(yes: Float[np.ndarray, "P"], no: Float[np.ndarray, "N"]) -> float | None:
    """Share of the pairs in which `yes` scores higher, ties one half; None without a pair."""
    if not len(yes) or not len(no):
        return None
    no = np.sort(no)
    # Below and up to: their sum counts a tie once and a win twice, in whole numbers.
    twice = np.searchsorted(no, yes, "left").sum() + np.searchsorted(no, yes, "right").sum()
    return int(twice) / (2 * len(yes) * len(no))


def ranking_precision(yes: Float[np.ndarray, "P"], no: Float[np.ndarray, "N"]) -> float | None:
    """Mean over `yes` of the precision at its score; None without any.

    The same as the sum of recall steps times precision over distinct scores.
    """
    if not len(yes):
        return None
    right, false = at_least(yes, yes), at_least(no, yes)
    return float((right / (right + false)).mean())


def at_least(values: Float[np.ndarray, "V"], score: Float[np.ndarray, "S"]) -> Int[np.ndarray, "S"]:
    """How many values are as large as each score, or larger."""
    return len(values) - np.searchsorted(np.sort(values), score, "left")


def _at(yes: np.ndarray, no: np.ndarray, score: float) -> dict[str, float | None]:
    if not np.isfinite(score):
        raise ValueError(f"score_thresholds want numbers; got {score}")
    return {
        "score": score,
        "sensitivity": float(reaches(yes, score).mean()) if len(yes) else None,
        "specificity": float((~reaches(no, score)).mean()) if len(no) else None,
    }

"""Everything there is to say of a set of detections, in one dict: what `jaxdet evaluate` keeps.

detections, truths, facts -> summary, protocols side by side, FROC, slices and patients, strata,
                             errors, confidence interval, one row a patient
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdet.metrics import statistics
from jaxdet.metrics.audit import Audit, audit, to_json
from jaxdet.metrics.average_precision import Verdict, judge, prepare
from jaxdet.metrics.comparison import compare
from jaxdet.metrics.facts import Facts, fitting, patient_of
from jaxdet.metrics.froc import as_json, froc
from jaxdet.metrics.levels import levels
from jaxdet.metrics.protocols import protocol_named
from jaxdet.metrics.resampled import average_precision_resampled
from jaxdet.metrics.rows import entries, reaches
from jaxdet.metrics.strata import strata
from jaxdet.metrics.summary import summarise

AT = np.array([0.5])  # the overlap of all that has one overlap
USUAL_SCORE = 0.25  # where no detection is right, no score is best
FROC = (  # what is found, false boxes a .., overlap
    ("lesion", "image", 0.5),
    ("lesion", "image", 0.1),
    ("lesion", "patient", 0.5),
    ("slice", "image", 0.5),
    ("patient", "patient", 0.5),
)


class Scorecard(NamedTuple):
    """The numbers, which JSON can hold, and the single errors behind them."""

    numbers: dict[str, Any]
    audit: Audit


def scorecard(
    detections: Iterable[Any],
    truths: Iterable[Any],
    class_names: Sequence[str],
    facts: Facts | None = None,
    *,
    protocol: str = "yolo",
    skip_empty_images: bool = False,
    samples: int = 2000,
    seed: int = 0,
) -> Scorecard:
    """All scores of one model on one set of images.

    detections, truths, class_names, protocol, skip_empty_images and errors as in `summarise`; facts
    of the images, without which each is a patient of its own. samples and seed: of the bootstrap.

    The numbers are those of `summarise` and: patients; protocols, the rows of `compare`; froc, a
    list of `froc.as_json` with their overlap; levels, of slices and of patients; strata; audit at
    the score of the best F1, the counts of `audit.to_json`; interval, of ap50 with resampled
    patients; per_patient, the rows of `per_patient` at that score.
    All under the one protocol, with IoU 0.5 where nothing else is said; but levels look at every
    detection, and what `skip_empty_images` leaves out is left out of the summary, its row of
    protocols and the interval only: the others count every lesion.
    """
    detections, truths = entries(detections), entries(truths)
    rules = protocol_named(protocol)
    numbers = summarise(
        detections, truths, class_names, protocol, skip_empty_images=skip_empty_images, curves=True
    )
    score = numbers["threshold"] if numbers["recall"] else USUAL_SCORE
    cases = prepare(detections, truths, rules, "iou", skip_empty_images)
    facts = fitting(facts, cases.images, cases.truths)
    verdict, patients = judge(cases, AT, rules), patient_of(cases.images, facts)
    of_patients = statistics.bootstrap(
        lambda weights: average_precision_resampled(verdict, rules, patients, weights),
        int(patients.max(initial=-1)) + 1,
        samples,
        seed,
    )
    errors = audit(detections, truths, score_threshold=score, protocol=protocol)
    told = {
        "patients": len(set(patients.tolist())),
        "protocols": compare(detections, truths, skip_empty_images=skip_empty_images),
        "froc": [_froc(detections, truths, facts, protocol, *which) for which in FROC],
        "levels": [
            levels(detections, truths, facts, level, (score,)) for level in ("slice", "patient")
        ],
        "strata": strata(
            detections, truths, facts, protocol=protocol, thresholds=AT, score_threshold=score
        ),
        "audit": to_json(errors),
        "interval": of_patients[0]._asdict(),
        "per_patient": per_patient(verdict._replace(counted=verdict.wanted), facts, score),
    }
    return Scorecard(numbers | told, errors)


def per_patient(verdict: Verdict, facts: Facts, score: float) -> list[dict[str, Any]]:
    """What became of each patient, in the order in which they come, at the first threshold.

    Rows: patient, slices, lesions (that count), found and false (boxes of that score or more), and
    surest (the highest score that the protocol looks at; None without one).
    """
    (dets, truths), number = verdict.cases[:2], patient_of(verdict.cases.images, facts)
    count = int(number.max(initial=-1)) + 1
    first = np.unique(number, return_index=True)[1]
    sure, found = reaches(dets.scores, score), verdict.found[:, 0]
    false = sure & (found < 0) & ~verdict.ignored[:, 0]
    hit = np.unique(found[sure & (found >= 0)])
    hit = hit[verdict.counted[hit]]
    surest = np.full(count, -np.inf)
    np.maximum.at(surest, number[dets.image], dets.scores)

    def per(images: np.ndarray) -> list[int]:
        return np.bincount(number[images], minlength=count).tolist()

    columns = {
        "patient": [facts.patients[i] or f"image {i}" for i in first],
        "slices": per(np.arange(len(number))),
        "lesions": per(truths.image[verdict.counted]),
        "found": per(truths.image[hit]),
        "false": per(dets.image[false]),
        "surest": [float(s) if np.isfinite(s) else None for s in surest],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _froc(
    detections: list[Any],
    truths: list[Any],
    facts: Facts,
    protocol: str,
    of: str,
    per: str,
    overlap: float,
) -> dict[str, Any]:
    result = froc(detections, truths, facts, of=of, per=per, threshold=overlap, protocol=protocol)
    return {"iou": overlap} | as_json(result)

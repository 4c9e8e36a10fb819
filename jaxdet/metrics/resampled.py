"""Average precision of other patients: what if each had been drawn so and so often?

Matching is within an image and does not depend on who else is there, so detections are judged
once, and a resample is only another way of counting them.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from jaxdet.metrics.average_precision import Verdict, labels_with_truth
from jaxdet.metrics.protocols import Protocol

CHUNK = 1 << 21  # numbers counted together: bounds the memory, not the answer


def average_precision_resampled(
    verdict: Verdict,
    rules: Protocol,
    patient_of_image: Int[np.ndarray, "N"],
    weights: Int[np.ndarray, "S P"],
) -> Float[np.ndarray, "S T"]:
    """Average precision of S resamples at the T thresholds of the verdict.

    weights: how often each patient counts; ones give `average_precision`. In each resample it is
    the mean over the classes that have truth there; NaN where none has.

    The same as `average_precision` of a list in which every image stands as often as its patient
    was drawn, its copies next to each other (np.repeat of the images): detections with equal scores
    then follow image by image and, in an image, copy by copy. With whole patients repeated in turn
    only the order of equal scores could differ.

    ValueError: a weight below 0, or patients that do not fit the images or the weights.
    """
    _check(verdict, patient_of_image, weights)
    cases = verdict.cases
    labels = labels_with_truth(verdict)
    total = np.zeros((len(weights), verdict.found.shape[1]))
    classes = np.zeros((len(weights), 1))
    for label in labels.tolist():
        mine = cases.truths.labels == label
        owner = patient_of_image[cases.truths.image]
        there, missable = (
            weights @ np.bincount(owner[mine & kind], minlength=weights.shape[1])
            for kind in (verdict.wanted, verdict.counted)
        )
        areas = _areas(verdict, rules, label, patient_of_image, weights, np.maximum(missable, 1))
        total += np.where(there[:, None] > 0, areas, 0)
        classes += there[:, None] > 0
    return np.divide(total, classes, out=np.full_like(total, np.nan), where=classes > 0)


def _areas(
    verdict: Verdict,
    rules: Protocol,
    label: int,
    patient_of_image: Int[np.ndarray, "N"],
    weights: Int[np.ndarray, "S P"],
    truths: Int[np.ndarray, "S"],
) -> Float[np.ndarray, "S T"]:
    """Average precision of one class; `truths` are how many there are in each resample."""
    dets = verdict.cases.dets
    mine = slice(*np.searchsorted(dets.labels, [label, label + 1]))
    found, image = verdict.found[mine] >= 0, dets.image[mine]
    row, copy = _copies(dets.scores[mine], image, found.any(axis=1), int(weights.max(initial=0)))
    column = (copy + 1) * weights.shape[1] + patient_of_image[image][row]
    columns = (int(copy.max(initial=-1)) + 2) * weights.shape[1]
    areas = np.zeros((len(weights), verdict.found.shape[1]))
    for t in range(areas.shape[1]):
        kept = ~verdict.ignored[mine, t][row]
        counts = _counts(found[row, t][kept], column[kept], columns)
        for s, (right, seen) in enumerate(_cumulated(counts, weights)):
            first = np.searchsorted(seen, 1)  # before it nobody was drawn
            right, seen = right[first:], seen[first:]
            areas[s, t] = rules.area(right / truths[s], right / seen)
    return areas


def _copies(
    scores: Float[np.ndarray, "D"],
    image: Int[np.ndarray, "D"],
    found: Bool[np.ndarray, "D"],
    most: int,
) -> tuple[Int[np.ndarray, "R"], Int[np.ndarray, "R"]]:
    """Rows in the order in which they count, and which copy of the image each is.

    Copy -1 stands for all of them: equal rows in a row need no telling apart. Only where
    detections of one image tie, and one of them is right, do copies take turns (a, b, a, b), and
    then the order matters to the curve.
    """
    new = (np.diff(scores, prepend=np.nan) != 0) | (np.diff(image, prepend=-1) != 0)
    run = np.cumsum(new) - 1
    size, right = np.bincount(run), np.bincount(run, weights=found)
    turns = ((size > 1) & (right > 0))[run]
    row = np.concatenate([np.flatnonzero(~turns), np.repeat(np.flatnonzero(turns), most)])
    copy = np.concatenate([np.full((~turns).sum(), -1), np.tile(np.arange(most), turns.sum())])
    order = np.lexsort((row, copy, run[row]))
    return row[order], copy[order]


def _counts(right: Bool[np.ndarray, "R"], column: Int[np.ndarray, "R"], columns: int) -> csr_array:
    """Detections of each column between the points of the curve that decide: [2 F + 1, columns].

    With F right ones these are the points just before and at each of them, and the last. Between
    two of them either precision only falls (false ones), so that the envelope is that of the first,
    or it only rises (copies of one right detection), so that it is that of the last: steps and
    straight lines are the same without the points between. Row 2 i + 1 counts right ones only, row
    2 i false ones only.
    """
    point = 2 * np.cumsum(right) - right
    shape = (2 * np.count_nonzero(right) + 1, columns)
    return csr_array((np.ones(len(right), np.int64), (point, column)), shape=shape)


def _cumulated(
    counts: csr_array, weights: Int[np.ndarray, "S P"]
) -> Iterator[tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]]:
    """For each resample, how many right ones and how many at all up to each point."""
    copies = counts.shape[1] // max(weights.shape[1], 1) - 1
    many = max(CHUNK // sum(counts.shape), 1)
    for start in range(0, len(weights), many):
        drawn = weights[start : start + many]
        drawn = np.concatenate([drawn, *(drawn > copy for copy in range(copies))], axis=1)
        new = np.ascontiguousarray((counts @ drawn.T).T)
        seen = new.cumsum(axis=1)
        new[:, ::2] = 0
        yield from zip(new.cumsum(axis=1), seen, strict=True)


def _check(
    verdict: Verdict, patient_of_image: Int[np.ndarray, "N"], weights: Int[np.ndarray, "S P"]
) -> None:
    images, patients = verdict.cases.images, weights.shape[1]
    if len(patient_of_image) != images:
        raise ValueError(
            f"one patient an image is wanted; got {len(patient_of_image)} for {images} images"
        )
    if images and (patient_of_image.min() < 0 or patient_of_image.max() >= patients):
        raise ValueError(
            f"patients want numbers from 0 to {patients - 1}, the columns of the weights; got"
            f" {patient_of_image.min()} to {patient_of_image.max()}"
        )
    if (weights < 0).any():
        raise ValueError(f"a patient is drawn 0 times or more; got a weight of {weights.min()}")

"""Which truth does a detection find? The matching under every average precision.

Only pairs that overlap enough are kept, so the work grows with the overlaps and not with the
images. Rows of the tables are those of `rows.read`; a detection only meets the truths of its own
image and class.

The two rules differ where detections compete:

    greedy      a detection, in falling score, takes the best truth that is still free (COCO)
    best_truth  a detection has one best truth; the highest score takes it, others are duplicates
                (Pascal VOC and classic ultralytics, 8.2)
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdet.metrics.rows import Found, Truth

CHUNK = 1 << 20  # pairs looked at together: bounds the memory, not the answer
ALMOST_ONE = 1 - 1e-10  # pycocotools asks no more than this, whatever the threshold

Overlap = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Pairs(NamedTuple):
    """Detections and truths of one image and class that overlap."""

    det: Int[np.ndarray, "P"]  # row of the detection, rising
    truth: Int[np.ndarray, "P"]  # row of the truth
    overlap: Float[np.ndarray, "P"]


def pairs(dets: Found, truths: Truth, overlap: Overlap, floor: float) -> Pairs:
    """Every pair of one image and class with an overlap of at least `floor`, which must be above 0.

    `overlap(boxes_xyxy [P, 4], truths_xyxy [P, 4], crowd [P]) -> [P]` measures them. Empty tables
    give none.
    """
    first = np.searchsorted(truths.group, dets.group, "left")
    count = np.searchsorted(truths.group, dets.group, "right") - first
    ends = np.cumsum(count)
    starts = ends - count
    cuts = np.searchsorted(ends, np.arange(CHUNK, count.sum(), CHUNK))
    parts = [Pairs(first[:0], first[:0], np.zeros(0))]
    for a, b in pairwise(np.unique([0, *cuts, len(count)])):
        det = np.repeat(np.arange(a, b), count[a:b])
        nth = np.arange(starts[a], ends[b - 1]) - starts[det]
        truth = first[det] + nth
        shared = overlap(dets.boxes_xyxy[det], truths.boxes_xyxy[truth], truths.crowd[truth])
        near = shared >= floor
        parts.append(Pairs(det[near], truth[near], shared[near]))
    return Pairs(*map(np.concatenate, zip(*parts, strict=True)))


def greedy(
    pairs: Pairs,
    group: Int[np.ndarray, "D"],
    ignored: Bool[np.ndarray, "M"],
    crowd: Bool[np.ndarray, "M"],
    thresholds: Float[np.ndarray, "T"],
) -> Int[np.ndarray, "D T"]:
    """Row of the truth that each detection takes at each threshold, or -1.

    In falling score a detection takes the free truth of largest overlap (the later one of a tie);
    one that is ignored only if no other reaches the threshold. A crowd is always free. As in
    pycocotools 2.0.

    `group` tells images and classes apart. All take their n-th detection together: they share no
    truth, so it is the same as one by one.
    """
    taken_by = np.full((len(group), len(thresholds)), -1)
    taken = np.zeros((len(crowd), len(thresholds)), bool)
    wanted = np.minimum(thresholds, ALMOST_ONE)
    # The first free pair of a detection, in this order, is its choice.
    order = np.lexsort((-pairs.truth, -pairs.overlap, ignored[pairs.truth], pairs.det))
    det, truth, overlap = (column[order] for column in pairs)
    meets, row = np.unique(det, return_inverse=True)
    turn = place_in_group(group[meets])[row]
    for step in _split_by(turn):
        d, g = det[step], truth[step]
        free = (overlap[step, None] >= wanted) & (~taken[g] | crowd[g, None])
        starts = np.flatnonzero(np.diff(d, prepend=-1))
        choice = np.minimum.reduceat(
            np.where(free, np.arange(len(step))[:, None], len(step)), starts, axis=0
        )
        row, t = np.nonzero(choice < len(step))
        chosen = g[choice[row, t]]
        taken_by[d[starts[row]], t], taken[chosen, t] = chosen, True
    return taken_by


def best_truth(
    pairs: Pairs,
    group: Int[np.ndarray, "D"],
    ignored: Bool[np.ndarray, "M"],
    crowd: Bool[np.ndarray, "M"],
    thresholds: Float[np.ndarray, "T"],
) -> Int[np.ndarray, "D T"]:
    """Row of the truth that each detection finds at each threshold, or -1.

    The best truth of a detection is the one of largest overlap (the first of a tie), taken or not.
    Of the detections that reach the threshold there, the highest score finds it, the others are
    duplicates (-1). An ignored truth, crowds among them, may be found any number of times. As in
    Pascal VOC's devkit and in ultralytics 8.2 (facts, 4.4), where the order of equal overlaps is
    left open.
    """
    found = np.full((len(group), len(thresholds)), -1)
    order = np.lexsort((pairs.truth, -pairs.overlap, pairs.det))
    best = order[np.flatnonzero(np.diff(pairs.det[order], prepend=-1))]
    for t, threshold in enumerate(thresholds):
        near = best[pairs.overlap[best] >= threshold]
        det, truth = pairs.det[near], pairs.truth[near]
        first = np.isin(np.arange(len(truth)), np.unique(truth, return_index=True)[1])
        found[det, t] = np.where(first | ignored[truth] | crowd[truth], truth, -1)
    return found


def place_in_group(group: Int[np.ndarray, "D"]) -> Int[np.ndarray, "D"]:
    """How many earlier rows have the same number: 0 for the first of each."""
    order = np.argsort(group, kind="stable")
    place = np.empty_like(order)
    ordered = group[order]
    place[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered, "left")
    return place


def _split_by(turn: np.ndarray) -> list[np.ndarray]:
    """Rows of turn 0, rows of turn 1 and so on; no rows give no turns."""
    order = np.argsort(turn, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(turn[order])) + 1) if len(turn) else []

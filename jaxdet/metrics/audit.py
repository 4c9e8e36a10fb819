"""What went wrong, by kind, at one score: every detection and every truth gets one verdict.

What is found, the protocol's own matching says. The rest is told apart by how boxes lie, in one
image and class, and the first kind that fits is the verdict.

    a detection is
    right       it finds a truth
    duplicate   it overlaps, by `threshold` or more, a truth that another detection found
    merged      it covers neighbours: joined, they would be a truth that it overlaps enough
    piece       with others: joined, they would overlap enough the truth that they lie in
    mislocated  it overlaps some truth by `least` or more
    background  none of these

    a truth is
    found       by a right detection
    merged      a detection covers it and a neighbour as above, be it right, duplicate or merged
    split       it is neither, and pieces lie in it
    mislocated  a mislocated detection belongs to it
    missed      none of these

"Joined" is the smallest box around all of them. Merged and split are the failures at adjacent
tumours of paper 1 (PCA-YOLO, Fig. 4); the other kinds follow Bolya 2020 (TIDE, arXiv:2008.08115),
its thresholds 0.5 and 0.1 included.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxdet.metrics.average_precision import (
    Cases,
    Verdict,
    check,
    enough,
    judge,
    overlapping,
    prepare,
)
from jaxdet.metrics.match import ALMOST_ONE
from jaxdet.metrics.protocols import Protocol, protocol_named
from jaxdet.metrics.rows import Found, box_area, reaches

TRUTHS = ("found", "missed", "merged", "split", "mislocated")
DETECTIONS = ("right", "duplicate", "merged", "piece", "mislocated", "background", "ignored")
KINDS = ("missed", "merged", "split", "mislocated", "duplicate", "background")  # of an Error

# Shares of an area. Half is most of it, and it is what IoU 0.5 asks for at least.
COVERED = 0.5  # of a truth, that lies in the detection that merges it or, added up, in its pieces
INSIDE = 0.5  # of a piece, that lies in the truth
TOUCHING = 1e-9  # IoU of pairs that are looked at: a wide box over a tiny truth has little


class Error(NamedTuple):
    """One thing that went wrong; the rows are positions in its image as given, padding counted.

    kind        detections                       truths               overlap (IoU)
    missed      none                             the missed           the largest that it has
    merged      the one that merges              all that it covers   with them joined
    split       its pieces, falling score        the split            of the pieces joined
    mislocated  the mislocated                   that it belongs to   of the two
    duplicate   the duplicate, then the right    the found            of the first
    background  the background                   none                 the largest that it has

    There is one for every detection or truth with that verdict, except that "mislocated" counts
    detections and "merged" every detection that merges, one that is right or a duplicate too.
    """

    kind: str
    image: int
    detections: tuple[int, ...]
    truths: tuple[int, ...]
    overlap: float


class Audit(NamedTuple):
    """Verdicts of all truths and detections at one operating point, and what went wrong."""

    score_threshold: float
    threshold: float
    least: float
    protocol: str
    images: int
    truths: dict[str, int]  # of TRUTHS: all that count, so neither crowds nor padding
    detections: dict[str, int]  # of DETECTIONS: all of that score that the protocol sees
    errors: tuple[Error, ...]  # by image, then in the order of KINDS


def audit(
    detections: Iterable[Any],
    truths: Iterable[Any],
    *,
    score_threshold: float | int,
    threshold: float | int = 0.5,
    least: float | int = 0.1,
    protocol: str = "coco",
) -> Audit:
    """What became of every detection with a score of at least `score_threshold`, and every truth.

    detections, truths, protocol and errors as in `average_precision`; overlap is IoU. Scores are
    compared in float32, in which detectors give them: float32(0.7) meets 0.7.

    A detection that lies on several truths belongs to one that is not explained yet, of these to
    that of largest overlap (the first of a tie). A truth that is found is no longer split: what
    else lies on it is a duplicate, mislocated or background. Truths inside each other are
    neighbours too. A neighbour that was found by itself stays found when another box merges it.

    Crowds are never missed and no neighbours, and what finds them is ignored ("yolo" knows none).
    What the protocol leaves out, such as the detections after the hundredth under "coco", has no
    verdict. A box without area is missed as truth, background as detection. No image gives zeros.

    ValueError: a score threshold outside [0, 1], or not 0 < least <= threshold <= 1; NaN is
    neither.
    """
    _check(score_threshold, threshold, least)
    rules = protocol_named(protocol)
    level = float(enough(np.array([min(threshold, ALMOST_ONE)]), rules)[0])
    everything = prepare(detections, truths, rules, "iou")
    verdict = judge(_from_score(everything, score_threshold), np.array([threshold]), rules)
    near = _near(verdict, rules)
    links = _links(verdict, near, rules, level, least)
    return Audit(
        float(score_threshold),
        float(threshold),
        float(least),
        protocol,
        verdict.cases.images,
        _counts(links.truth_kind, TRUTHS),
        _counts(links.det_kind, DETECTIONS),
        tuple(sorted(_errors(verdict.cases, near, links, rules), key=_order)),
    )


def to_json(audit: Audit) -> dict[str, Any]:
    """The audit without its single errors, as a dict that JSON can hold.

    Keys: score_thresholds (one; several in a sum), threshold, least, protocol, images, truths and
    detections (counts by verdict, and "all"), errors (counts by kind).
    """
    kinds = [error.kind for error in audit.errors]
    return {
        "score_thresholds": [audit.score_threshold],
        "threshold": audit.threshold,
        "least": audit.least,
        "protocol": audit.protocol,
        "images": audit.images,
        "truths": {"all": sum(audit.truths.values()), **audit.truths},
        "detections": {"all": sum(audit.detections.values()), **audit.detections},
        "errors": {kind: kinds.count(kind) for kind in KINDS},
    }


def summed(audits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several audits as `to_json` gives them, as of folds, counted together.

    ValueError where there is none, or where protocols or overlaps differ; scores may.
    """
    rules = {tuple(one[name] for name in ("protocol", "threshold", "least")) for one in audits}
    if len(rules) != 1:
        told = ", ".join(map(str, sorted(rules))) or "none"
        raise ValueError(f"audits add up under one protocol, threshold and least; got {told}")
    total = dict(audits[0])
    total["score_thresholds"] = sorted({s for one in audits for s in one["score_thresholds"]})
    total["images"] = sum(one["images"] for one in audits)
    for what in ("truths", "detections", "errors"):
        total[what] = {kind: sum(one[what][kind] for one in audits) for kind in total[what]}
    return total


def _check(score_threshold: float | int, threshold: float | int, least: float | int) -> None:
    check(threshold, "iou")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold wants a probability, 0 to 1; got {score_threshold}")
    if not 0 < least <= threshold:
        raise ValueError(f"least wants to be above 0 and up to {threshold}; got {least}")


def _from_score(cases: Cases, score_threshold: float | int) -> Cases:
    """Only the detections with that score. Nothing changes for them: higher scores match first."""
    kept = reaches(cases.dets.scores, score_threshold)
    return cases._replace(dets=Found(*(column[kept] for column in cases.dets)))


class _Near(NamedTuple):
    """Detections and truths that touch and that both count; `det` rises, so its score falls."""

    det: Int[np.ndarray, "P"]
    truth: Int[np.ndarray, "P"]
    iou: Float[np.ndarray, "P"]
    of_det: Float[np.ndarray, "P"]  # share of the detection that lies in the truth
    of_truth: Float[np.ndarray, "P"]


def _near(verdict: Verdict, rules: Protocol) -> _Near:
    dets, truths = verdict.cases.dets, verdict.cases.truths
    pairs = overlapping(verdict.cases, rules, TOUCHING)
    both = verdict.counted[pairs.truth] & ~verdict.ignored[pairs.det, 0]
    det, truth, iou = pairs.det[both], pairs.truth[both], pairs.overlap[both]
    a, b = dets.boxes_xyxy[det], truths.boxes_xyxy[truth]
    shared = np.hstack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])])
    area = box_area(shared)
    return _Near(det, truth, iou, area / box_area(a), area / box_area(b))


class _Links(NamedTuple):
    """The verdicts, and the rows of `_Near` that gave them."""

    det_kind: Shaped[np.ndarray, "D"]  # words of DETECTIONS
    truth_kind: Shaped[np.ndarray, "M"]  # words of TRUTHS, or "ignored"
    found_by: Int[np.ndarray, "M"]  # a detection, or -1
    again: Int[np.ndarray, "_"]  # duplicates, one row each
    merging: Int[np.ndarray, "_"]  # a row for each truth of each detection that merges
    pieces: Int[np.ndarray, "_"]  # a row for each piece
    off: Int[np.ndarray, "_"]  # mislocated, one row each


def _links(
    verdict: Verdict, near: _Near, rules: Protocol, level: float, least: float | int
) -> _Links:
    """The cascade: each step looks at what the steps before it left unexplained."""
    ignored, found = verdict.ignored[:, 0], verdict.found[:, 0]
    hits = np.flatnonzero((found >= 0) & ~ignored)
    det_kind = np.where(ignored, "ignored", "background")
    truth_kind = np.where(verdict.counted, "missed", "ignored").astype(det_kind.dtype)
    det_kind[hits], truth_kind[found[hits]] = "right", "found"

    enough = (near.iou >= level) & (truth_kind == "found")[near.truth]
    again = _best(near, enough & (det_kind == "background")[near.det])
    det_kind[near.det[again]] = "duplicate"

    merging = _merging(verdict.cases, near, rules, level)
    _explain(det_kind, near.det[merging], "merged")
    _explain(truth_kind, near.truth[merging], "merged")

    free = (det_kind == "background")[near.det] & (truth_kind == "missed")[near.truth]
    inside = _best(near, free & (near.of_det >= INSIDE))
    pieces = _pieces(verdict.cases, near, inside, rules, level)
    det_kind[near.det[pieces]], truth_kind[near.truth[pieces]] = "piece", "split"

    some = (near.iou >= least) & (det_kind == "background")[near.det]
    off = _best(near, some, first=truth_kind == "missed")
    det_kind[near.det[off]] = "mislocated"
    _explain(truth_kind, near.truth[off], "mislocated")

    found_by = np.full(len(truth_kind), -1)
    found_by[found[hits]] = hits
    return _Links(det_kind, truth_kind, found_by, again, merging, pieces, off)


def _explain(kinds: Shaped[np.ndarray, "N"], rows: Int[np.ndarray, "_"], word: str) -> None:
    """Gives the word to those of the rows that no step has explained so far."""
    kinds[rows[np.isin(kinds[rows], ("background", "missed"))]] = word


def _best(
    near: _Near, among: Bool[np.ndarray, "P"], first: Bool[np.ndarray, "M"] | None = None
) -> Int[np.ndarray, "_"]:
    """One row a detection: its largest overlap with truths that come `first`, else with any."""
    rows = np.flatnonzero(among)
    later = np.zeros(len(rows), bool) if first is None else ~first[near.truth[rows]]
    order = rows[np.lexsort((near.truth[rows], -near.iou[rows], later, near.det[rows]))]
    return order[np.flatnonzero(np.diff(near.det[order], prepend=-1))]


def _merging(cases: Cases, near: _Near, rules: Protocol, level: float) -> Int[np.ndarray, "_"]:
    """Rows of detections that cover two truths or more and would find them joined."""
    rows = np.flatnonzero(near.of_truth >= COVERED)
    parts, det = cases.truths.boxes_xyxy[near.truth[rows]], near.det[rows]
    return rows[_as_one(parts, det, cases.dets.boxes_xyxy, rules)[det] >= level]


def _pieces(
    cases: Cases, near: _Near, rows: Int[np.ndarray, "_"], rules: Protocol, level: float
) -> Int[np.ndarray, "_"]:
    """Of the `rows`, one a detection, those whose detections would find the truth joined.

    Together they also cover it: two dots in its corners are no pieces.
    """
    parts, truth = cases.dets.boxes_xyxy[near.det[rows]], near.truth[rows]
    covered = np.bincount(truth, near.of_truth[rows], len(cases.truths.crowd)) >= COVERED
    found = _as_one(parts, truth, cases.truths.boxes_xyxy, rules) >= level
    return rows[(covered & found)[truth]]


def _as_one(
    parts_xyxy: Float[np.ndarray, "P 4"],
    owner: Int[np.ndarray, "P"],
    wholes_xyxy: Float[np.ndarray, "N 4"],
    rules: Protocol,
) -> Float[np.ndarray, "N"]:
    """IoU of each whole with the smallest box around the parts it owns; 0 with fewer than two."""
    around = wholes_xyxy.copy()
    several = np.bincount(owner, minlength=len(around)) >= 2
    around[several] = [np.inf, np.inf, -np.inf, -np.inf]
    kept = several[owner]
    np.minimum.at(around[:, :2], owner[kept], parts_xyxy[kept, :2])
    np.maximum.at(around[:, 2:], owner[kept], parts_xyxy[kept, 2:])
    return rules.overlap(wholes_xyxy, around, np.zeros(len(around), bool), "iou") * several


def _order(error: Error) -> tuple[Any, ...]:
    return error.image, KINDS.index(error.kind), error.detections, error.truths


def _counts(kinds: Shaped[np.ndarray, "N"], words: Sequence[str]) -> dict[str, int]:
    return {word: int(np.count_nonzero(kinds == word)) for word in words}


def _errors(cases: Cases, near: _Near, links: _Links, rules: Protocol) -> Iterator[Error]:
    dets, truths = cases.dets, cases.truths
    best_det, best_truth = np.zeros(len(dets.row)), np.zeros(len(truths.row))
    np.maximum.at(best_det, near.det, near.iou)
    np.maximum.at(best_truth, near.truth, near.iou)
    rows = np.flatnonzero(links.truth_kind == "missed")
    for image, row, overlap in _columns(truths.image[rows], truths.row[rows], best_truth[rows]):
        yield Error("missed", image, (), (row,), overlap)
    rows = np.flatnonzero(links.det_kind == "background")
    for image, row, overlap in _columns(dets.image[rows], dets.row[rows], best_det[rows]):
        yield Error("background", image, (row,), (), overlap)
    for kind, rows in (("duplicate", links.again), ("mislocated", links.off)):
        det, truth = near.det[rows], near.truth[rows]
        right = dets.row[links.found_by[truth]]
        columns = dets.image[det], dets.row[det], right, truths.row[truth], near.iou[rows]
        for image, one, other, row, overlap in _columns(*columns):
            found = (one, other) if kind == "duplicate" else (one,)
            yield Error(kind, image, found, (row,), overlap)
    yield from _joint_errors(cases, near, links, rules)


def _joint_errors(cases: Cases, near: _Near, links: _Links, rules: Protocol) -> Iterator[Error]:
    dets, truths = cases.dets, cases.truths
    det, truth = near.det[links.merging], near.truth[links.merging]
    overlap = _as_one(truths.boxes_xyxy[truth], det, dets.boxes_xyxy, rules)
    for rows in _groups(det):
        one, covered = det[rows[:1]], truth[rows]
        # A box may cover neighbours that are found, as a lesion in a lesion: that is no error.
        if links.det_kind[one] == "merged" or (links.truth_kind[covered] == "merged").any():
            yield _error("merged", cases, one, covered, overlap[one])
    det, truth = near.det[links.pieces], near.truth[links.pieces]
    overlap = _as_one(dets.boxes_xyxy[det], truth, truths.boxes_xyxy, rules)
    for rows in _groups(truth):
        one = truth[rows[:1]]
        yield _error("split", cases, det[rows], one, overlap[one])


def _error(
    kind: str,
    cases: Cases,
    det: Int[np.ndarray, "_"],
    truth: Int[np.ndarray, "_"],
    overlap: Float[np.ndarray, "1"],
) -> Error:
    found, true = cases.dets.row[det].tolist(), cases.truths.row[truth].tolist()
    return Error(kind, int(cases.dets.image[det[0]]), tuple(found), tuple(true), float(overlap[0]))


def _columns(*columns: Shaped[np.ndarray, "N"]) -> Iterator[tuple[Any, ...]]:
    """Row by row in Python's own numbers, fast: there may be 100 errors an image."""
    return zip(*(column.tolist() for column in columns), strict=True)


def _groups(owner: Int[np.ndarray, "_"]) -> list[Int[np.ndarray, "_"]]:
    """Positions of each owner's entries, in their order."""
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(owner[order])) + 1) if len(owner) else []

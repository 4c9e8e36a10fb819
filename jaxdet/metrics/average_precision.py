"""Average precision of detections against true boxes, under a named protocol.

    read -> match -> curve of each class -> its area -> mean

Matching, which is the work that grows with the detections, is a jitted program on the device that
predicts (`on_device`). Where a decision needs the float in which a protocol has always been counted
(float64; "yolo" float32), at ties and at thresholds that are met exactly, it is made again on the
host, and so are small sets, which are done before a program is compiled. The answer is the same.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdet.metrics import match, on_device
from jaxdet.metrics.protocols import Protocol, protocol_named
from jaxdet.metrics.rows import Found, Truth, box_area, read


def average_precision(
    detections: Iterable[Any],
    truths: Iterable[Any],
    overlap: Literal["iou", "iobb"] = "iou",
    thresholds: float | Sequence[float | int] | np.ndarray = (0.5,),
    protocol: str = "coco",
    skip_empty_images: bool = False,
) -> Float[np.ndarray, "T"]:
    """Average precision in [0, 1], one a threshold: the mean over the classes that have truth.

    detections: one (boxes_xyxy [N, 4], scores [N], labels [N]) an image, or padded `Detections`,
      one an image or one of a whole batch.
    truths: one (boxes_xyxy [M, 4], labels [M]) an image, where needed (.., crowd [M], area [M]).
    overlap: "iou", or "iobb", the intersection over the *detected* box.
    thresholds: in (0, 1]; an equal overlap is enough, but not under l0sg and fixed.
    NumPy or JAX arrays; rows with label -1 are padding.

    protocol:
      "coco"   pycocotools 2.0, bbox: 100 detections an image and class, 101 recall levels, crowds
               ignored. Equal to it to 1e-9, ties included.
      "voc"    Pascal VOC 2010: the area under the envelope; a crowd is a "difficult" object.
      "voc07"  Pascal VOC 2007: 11 levels. Departs, both: a width is x2 - x1, not one pixel more.
      "yolo"   ultralytics 8.2 (facts, 4.4 and 4.5): straight lines that end in (1, 0), so that the
               best there is is 0.995; crowds dropped. Departs: equal scores keep their order (its
               np.argsort is not stable), and of equal overlaps the first counts.
      "l0sg"   the evaluator of GSSD++'s official code (Lee 2021; facts, gssd_reference 5): scores
               up to 0.2 are dropped, an overlap must exceed the threshold, matching and area of
               "voc", detections on images without truth are neither right nor wrong.
               With `skip_empty_images`, as that code does for the PixelLink family only, truths of
               images without any detection, whatever its score, are no misses: the AP is that of
               "l0sg" times truths / (truths - skipped).
      "l0sg07" the same with the 11 levels of "voc07", the official code's own default.
      "fixed"  "l0sg" without the skip, for every model; what lies on images without truth is false.

    No truth in any class: NaN (pycocotools says -1). Truth and no detections: 0. A class without
    truth does not count, nor do its detections. A box without area, or inverted, overlaps nothing:
    as truth it is missed, as detection it is false. Equal scores are taken in the order of the
    images, then as given. ValueError: a score or box that is NaN or infinite (names the image, from
    0), columns that do not fit, an unknown protocol or overlap, thresholds out of range.
    """
    levels, rules = check(thresholds, overlap), protocol_named(protocol)
    if skip_empty_images and not protocol.startswith("l0sg"):
        raise ValueError(f"skip_empty_images belongs to the protocol l0sg; got {protocol!r}")
    cases = prepare(detections, truths, rules, overlap, skip_empty_images)
    areas = areas_by_class(judge(cases, levels, rules), rules)[1]
    return areas.mean(axis=0) if len(areas) else np.full(len(levels), np.nan)


class Cases(NamedTuple):
    """Detections and truths that a protocol looks at."""

    dets: Found
    truths: Truth
    overlap: Literal["iou", "iobb"]
    images: int
    skipped: Bool[np.ndarray, "M"]  # truths that nobody looked for


class Verdict(NamedTuple):
    """What became of every detection and truth, at each threshold."""

    cases: Cases
    found: Int[np.ndarray, "D T"]  # row of the truth, or -1
    ignored: Bool[np.ndarray, "D T"]  # neither right nor wrong
    wanted: Bool[np.ndarray, "M"]  # truths that ought to be found
    counted: Bool[np.ndarray, "M"]  # and that make a miss when they are not: all but the skipped


def check(thresholds: Any, overlap: str) -> Float[np.ndarray, "T"]:
    """The thresholds as an array; a ValueError where they or the kind of overlap make no sense."""
    levels = np.atleast_1d(np.asarray(thresholds, np.float64))
    if overlap not in ("iou", "iobb"):
        raise ValueError(f"overlap wants 'iou' or 'iobb'; got {overlap!r}")
    if levels.ndim != 1 or not levels.size or not ((levels > 0) & (levels <= 1)).all():
        raise ValueError(f"thresholds want numbers above 0 and up to 1; got {thresholds!r}")
    return levels


def prepare(
    detections: Iterable[Any],
    truths: Iterable[Any],
    rules: Protocol,
    overlap: Literal["iou", "iobb"],
    skip_empty_images: bool = False,
) -> Cases:
    """Read both lists and leave out what the protocol does not look at."""
    dets, true, images = read(detections, truths)
    if rules.crowd == "drop":
        true = Truth(*(column[~true.crowd] for column in true))
    skipped = skip_empty_images & ~np.isin(true.image, dets.image)
    if rules.above_score is not None:
        dets = Found(*(column[dets.scores > rules.above_score] for column in dets))
    if rules.max_dets is not None:
        first = match.place_in_group(dets.group) < rules.max_dets
        dets = Found(*(column[first] for column in dets))
    return Cases(dets, true, overlap, images, skipped)


def overlapping(cases: Cases, rules: Protocol, floor: float) -> match.Pairs:
    """Pairs of one image and class with an overlap of at least `floor`, above 0; on the host."""
    measure = functools.partial(rules.overlap, over=cases.overlap)
    return match.pairs(cases.dets, cases.truths, measure, floor)


def enough(thresholds: Float[np.ndarray, "T"], rules: Protocol) -> Float[np.ndarray, "T"]:
    """The least overlaps that meet the thresholds, in the protocol's type of float."""
    levels = thresholds.astype(rules.number)
    return np.nextafter(levels, rules.number(2)) if rules.strict else levels


def judge(
    cases: Cases,
    thresholds: Float[np.ndarray, "T"],
    rules: Protocol,
    *,
    wanted: Bool[np.ndarray, "M"] | None = None,
    out: Bool[np.ndarray, "D"] | None = None,
) -> Verdict:
    """Match under the rules. Only truths that are `wanted` count; None means all but crowds.

    What finds another truth is neither right nor wrong, and so is a detection that is `out` and
    finds none.
    """
    dets, truths = cases.dets, cases.truths
    ignored = truths.crowd if wanted is None else truths.crowd | ~wanted
    out = np.zeros(len(dets.group), bool) if out is None else out
    if rules.empty_images == "ignore":
        out = out | ~np.isin(dets.image, truths.image)
    levels = enough(thresholds, rules)
    if on_device.worthwhile(dets, truths):
        found = on_device.find(dets, truths, ignored, levels, rules, cases.overlap)
    else:
        pairs = overlapping(cases, rules, float(np.minimum(levels, match.ALMOST_ONE).min()))
        found = rules.match(pairs, dets.group, ignored, truths.crowd, levels)
    # Row -1 stands for "found none": whether that is ignored depends on the detection alone.
    skipped = np.where(found >= 0, np.append(ignored, False)[found], out[:, None])
    return Verdict(cases, found, skipped, ~ignored, ~ignored & ~cases.skipped)


def of_size(
    cases: Cases, least_px2: float, most_px2: float
) -> tuple[Bool[np.ndarray, "M"], Bool[np.ndarray, "D"]]:
    """`wanted` and `out` for objects of such an area, both bounds included, as in pycocotools."""
    area, box = cases.truths.area, box_area(cases.dets.boxes_xyxy)
    return (area >= least_px2) & (area <= most_px2), (box < least_px2) | (box > most_px2)


def labels_with_truth(verdict: Verdict) -> Int[np.ndarray, "K"]:
    """Classes that have a truth which ought to be found, rising."""
    return np.unique(verdict.cases.truths.labels[verdict.wanted])


def curve(
    verdict: Verdict, label: int, threshold: int
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Scores (falling), recall and precision of a class after each detection that is not ignored.

    `threshold` is a position. The class must have truth; where all of it was skipped recall is 0.
    """
    dets, truths = verdict.cases.dets, verdict.cases.truths
    rows = slice(*np.searchsorted(dets.labels, [label, label + 1]))
    kept = ~verdict.ignored[rows, threshold]
    right = np.cumsum(verdict.found[rows, threshold][kept] >= 0)
    total = np.count_nonzero(verdict.counted[truths.labels == label])
    return dets.scores[rows][kept], right / max(total, 1), right / np.arange(1, len(right) + 1)


def areas_by_class(
    verdict: Verdict, rules: Protocol
) -> tuple[Int[np.ndarray, "K"], Float[np.ndarray, "K T"]]:
    """Labels of the classes that have truth, and their average precision at each threshold."""
    labels = labels_with_truth(verdict)
    areas = np.zeros((len(labels), verdict.found.shape[1]))
    for k, t in np.ndindex(areas.shape):
        _, recall, precision = curve(verdict, int(labels[k]), t)
        areas[k, t] = rules.area(recall, precision)
    return labels, areas


def recalls_by_class(
    verdict: Verdict, most: int | None = None
) -> tuple[Int[np.ndarray, "K"], Float[np.ndarray, "K T"]]:
    """Labels of the classes that have truth, and the share of it that was found.

    `most` takes the surest detections of an image and class only: AR at maxDets of pycocotools.
    Several detections on one truth, as of an ignored one, count once.
    """
    labels, (dets, truths) = labels_with_truth(verdict), verdict.cases[:2]
    first = slice(None) if most is None else match.place_in_group(dets.group) < most
    taken = np.zeros((len(truths.labels) + 1, verdict.found.shape[1]), bool)
    for t, column in enumerate(verdict.found[first].T):
        taken[column, t] = True  # the last row collects those that found none
    recalls = [
        taken[:-1][mine].sum(axis=0) / max(np.count_nonzero(mine), 1)
        for mine in (verdict.counted & (truths.labels == label) for label in labels)
    ]
    return labels, np.array(recalls).reshape(len(labels), verdict.found.shape[1])

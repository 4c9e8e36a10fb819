"""What an average precision is: one line a protocol, each of four small rules.

The numbers of two protocols are not comparable: print the name beside every one.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxdet.metrics import match
from jaxdet.metrics.rows import box_area

COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # 0.9 is one ulp less than 0.9, as in pycocotools
LEVELS = np.linspace(0, 1, 101)  # of recall
SKIPPING = ", PixelLink"  # behind the name of a protocol that leaves out empty images
SIZES_PX2 = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


class Protocol(NamedTuple):
    """How overlaps are measured, detections matched, and a curve turned into one number."""

    overlap: Callable[..., np.ndarray]  # (boxes, truths, crowd, over) -> [P]
    match: Callable[..., np.ndarray]  # match.greedy or match.best_truth
    precision: Callable[..., np.ndarray]  # (recall, precision, levels) -> precision at those levels
    area: Callable[..., float]  # (recall, precision) -> average precision
    number: type = np.float64  # in which overlaps meet their thresholds
    crowd: Literal["ignore", "drop"] = "ignore"  # "drop": as if it were not there
    max_dets: int | None = None  # an image and class; None keeps all
    above_score: float | None = None  # only higher scores are looked at
    strict: bool = False  # an overlap that equals the threshold is not enough
    empty_images: Literal["false", "ignore"] = "false"  # what detections are where no truth is
    why: str = ""  # how its numbers differ from those of others, for a reader of a report


def protocol_named(name: str) -> Protocol:
    """The rules called `name`; an unknown name is a ValueError that lists the known ones."""
    if name not in PROTOCOLS:
        raise ValueError(f"protocol wants one of {', '.join(PROTOCOLS)}; got {name!r}")
    return PROTOCOLS[name]


def exact_overlap(
    boxes_xyxy: Float[np.ndarray, "P 4"],
    truths_xyxy: Float[np.ndarray, "P 4"],
    crowd: Bool[np.ndarray, "P"],
    over: Literal["iou", "iobb"],
) -> Float[np.ndarray, "P"]:
    """Overlap of row with row in float64, 0 where a box is empty.

    "iou" is over the union, "iobb", and always at a crowd, over the detected box. Sides and corners
    are added up in pycocotools' order (x + w, not x1), so that a threshold that is met exactly is
    met here too.
    """
    a_wh, b_wh = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], truths_xyxy[:, 2:] - truths_xyxy[:, :2]
    end = np.minimum(boxes_xyxy[:, :2] + a_wh, truths_xyxy[:, :2] + b_wh)
    wh = np.maximum(end - np.maximum(boxes_xyxy[:, :2], truths_xyxy[:, :2]), 0)
    shared, area = wh[:, 0] * wh[:, 1], a_wh[:, 0] * a_wh[:, 1]
    whole = (
        area if over == "iobb" else np.where(crowd, area, area + b_wh[:, 0] * b_wh[:, 1] - shared)
    )
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


def plain_overlap(
    boxes_xyxy: Float[np.ndarray, "P 4"],
    truths_xyxy: Float[np.ndarray, "P 4"],
    crowd: Bool[np.ndarray, "P"],
    over: Literal["iou", "iobb"],
) -> Float[np.ndarray, "P"]:
    """`exact_overlap` where a crowd is one object, hard to see (Pascal VOC's "difficult")."""
    return exact_overlap(boxes_xyxy, truths_xyxy, np.zeros_like(crowd), over)


def float32_overlap(
    boxes_xyxy: Float[np.ndarray, "P 4"],
    truths_xyxy: Float[np.ndarray, "P 4"],
    crowd: Bool[np.ndarray, "P"],
    over: Literal["iou", "iobb"],
) -> Float[np.ndarray, "P"]:
    """Overlap of row with row with 1e-7 under the fraction, all in float32 (facts, 4.4).

    The kind of float matters where a threshold is met exactly: 50 / (100 + 1e-7) is 0.5 in float32
    and less in float64. Crowds play no part.
    """
    a, b = boxes_xyxy.astype(np.float32), truths_xyxy.astype(np.float32)
    wh = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0)
    shared, whole = wh[:, 0] * wh[:, 1], box_area(a)
    if over == "iou":
        whole = box_area(b) + whole - shared
    return shared / (whole + np.float32(1e-7))


def envelope(precision: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The best precision at this recall or a larger one."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def step(
    recall: Float[np.ndarray, "N"], precision: Float[np.ndarray, "N"], levels: np.ndarray
) -> np.ndarray:
    """Best precision with at least that recall, 0 beyond the last (COCO, Pascal VOC)."""
    return np.append(envelope(precision), 0.0)[np.searchsorted(recall, levels, "left")]


def linear(
    recall: Float[np.ndarray, "N"], precision: Float[np.ndarray, "N"], levels: np.ndarray
) -> np.ndarray:
    """Straight lines from (0, 1) along the envelope to (1, 0) (ultralytics 8.2; facts, 4.5).

    With nothing detected it is 0 and not the line, as there.
    """
    if not len(recall):
        return np.zeros(len(levels))
    recall = np.concatenate([[0.0], recall, [1.0]])
    return np.interp(levels, recall, envelope(np.concatenate([[1.0], precision, [0.0]])))


def mean_of_101(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean of the step curve at recall 0, 0.01 ... 1 (COCO)."""
    return float(step(recall, precision, LEVELS).mean())


def mean_of_11(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean of the step curve at recall 0, 0.1 ... 1 (Pascal VOC 2007).

    The levels 0.3, 0.6 and 0.7 lie one ulp above those numbers, as in the public evaluators, so
    that a recall of exactly 3 / 5 does not reach 0.6.
    """
    return float(step(recall, precision, np.linspace(0, 1, 11)).mean())


def trapezoids(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the straight lines, sampled at recall 0, 0.01 ... 1 (ultralytics 8.2)."""
    return float(np.trapezoid(linear(recall, precision, LEVELS), LEVELS))


def area_under_steps(recall: np.ndarray, precision: np.ndarray) -> float:
    """Exact area under the envelope (Pascal VOC 2010)."""
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope(precision)))


_L0SG = Protocol(
    plain_overlap,
    match.best_truth,
    step,
    area_under_steps,
    above_score=0.2,
    strict=True,
    empty_images="ignore",
    why="official GSSD++ code: scores up to 0.2 dropped, so recall ends early; an overlap must "
    "exceed the threshold; false boxes on slices without a lesion are not counted; for PixelLink "
    "lesions on slices without any detection are not counted either",
)

PROTOCOLS = {
    "coco": Protocol(
        exact_overlap,
        match.greedy,
        step,
        mean_of_101,
        max_dets=100,
        why="pycocotools: a detection takes the best truth still free, 101 recall levels, at most "
        "100 detections an image and class",
    ),
    "voc": Protocol(
        plain_overlap,
        match.best_truth,
        step,
        area_under_steps,
        why="Pascal VOC 2010: a detection has one best truth, the second one on it is false; exact "
        "area under the envelope",
    ),
    "voc07": Protocol(
        plain_overlap,
        match.best_truth,
        step,
        mean_of_11,
        why="Pascal VOC 2007: as voc, but the mean of 11 recall levels, which is coarse",
    ),
    "yolo": Protocol(
        float32_overlap,
        match.best_truth,
        linear,
        trapezoids,
        np.float32,
        "drop",
        why="ultralytics 8.2: straight lines between the points of the curve instead of steps; a "
        "perfect detector gets 0.995",
    ),
    "l0sg": _L0SG,
    "l0sg07": _L0SG._replace(area=mean_of_11, why="as l0sg, but the mean of 11 recall levels"),
    "fixed": _L0SG._replace(
        empty_images="false",
        why="as l0sg, but every lesion counts, found or not, and so does every false box",
    ),
}

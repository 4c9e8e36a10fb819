"""The numbers of an evaluation in one plain dict: overall, a class and a size of object."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdet.metrics.average_precision import (
    Cases,
    Verdict,
    areas_by_class,
    curve,
    judge,
    of_size,
    prepare,
    recalls_by_class,
)
from jaxdet.metrics.protocols import (
    COCO_THRESHOLDS,
    LEVELS,
    SIZES_PX2,
    SKIPPING,
    Protocol,
    protocol_named,
)

MAX_DETS = (1, 10, 100)  # an image and class, of pycocotools' AR
CONFIDENCES = np.linspace(0, 1, 1000)  # where precision and recall are compared


def summarise(
    detections: Iterable[Any],
    truths: Iterable[Any],
    class_names: Sequence[str],
    protocol: str = "yolo",
    sizes: Mapping[str, Sequence[float | int]] | None = None,
    curves: bool = False,
    skip_empty_images: bool = False,
) -> dict[str, Any]:
    """How good the detections are, as a dict that JSON can hold (None: not defined).

    detections, truths, protocol and errors as in `average_precision`; overlap is IoU at 0.5, 0.55
    to 0.95. sizes: {name: (least, most) px^2, both included}; None gives COCO's three.

    Keys: protocol, images, truths (those that count), ap50, ap75, ap50_95, ar_1, ar_10, ar_100
    (recall with so many detections an image and class, the mean over the thresholds), precision,
    recall, threshold; per_class, a list of name, images (with such truth), truths, precision,
    recall, ap50, ap50_95; per_size, a list of name, area_px2, truths, precision, recall (at the
    best F1 of that size), ap50, ap50_95, ar_100. Under a size, as in pycocotools, truths of another
    area are ignored, what finds them, and false boxes of another: with "coco" the twelve numbers
    of pycocotools are here.

    precision and recall are those at one score for all classes, `threshold`, where F1 at IoU 0.5,
    averaged over the classes and smoothed, is largest: the classic rule of ultralytics (facts 4.5),
    here for every protocol. Overall numbers are means over the classes that have truth: without any
    they are None; with truth and no detections they are 0, and the threshold too.

    skip_empty_images names the protocol "l0sg, PixelLink". `curves` adds pr_curve to each class
    with truth: recall 0, 0.01 to 1 and the protocol's precision there, at IoU 0.5. ValueError: a
    label that `class_names` does not reach, a score that is no probability.
    """
    rules = protocol_named(protocol)
    cases = prepare(detections, truths, rules, "iou", skip_empty_images)
    _check(cases, class_names)
    verdict = judge(cases, COCO_THRESHOLDS, rules)
    labels, areas = areas_by_class(verdict, rules)
    precision, recall, best = _at_best_f1(verdict, labels)
    rows = {
        int(label): {
            "precision": precision[k],
            "recall": recall[k],
            "ap50": areas[k, 0],
            "ap50_95": areas[k].mean(),
        }
        for k, label in enumerate(labels)
    }
    summary = {
        "protocol": protocol + SKIPPING * skip_empty_images,
        "images": cases.images,
        "truths": int(verdict.counted.sum()),
        **_means(areas),
        **{f"ar_{most}": _mean(recalls_by_class(verdict, most)[1]) for most in MAX_DETS},
        "precision": _mean(precision),
        "recall": _mean(recall),
        "threshold": CONFIDENCES[best] if len(labels) else None,
        "per_class": [
            _class_row(verdict, i, name, rows.get(i)) for i, name in enumerate(class_names)
        ],
        "per_size": [
            _size_row(cases, rules, name, (float(least), float(most)))
            for name, (least, most) in (SIZES_PX2 if sizes is None else sizes).items()
        ],
    }
    if curves:
        for label in labels:
            _, at, precise = curve(verdict, int(label), 0)
            summary["per_class"][label]["pr_curve"] = {
                "recall": LEVELS,
                "precision": rules.precision(at, precise, LEVELS),
            }
    return _plain(summary)


def smoothed(values: Float[np.ndarray, "N"], fraction: float = 0.1) -> Float[np.ndarray, "N"]:
    """Running mean over `fraction` of the length (an odd width), the ends repeated (facts, 4.5)."""
    width = round(len(values) * fraction * 2) // 2 + 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def _at_best_f1(
    verdict: Verdict, labels: np.ndarray
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"], int]:
    """Precision and recall of each class at the score of the best mean F1, and its position."""
    precision, recall = np.zeros((2, len(labels), len(CONFIDENCES)))
    for k, label in enumerate(labels):
        scores, at, precise = curve(verdict, int(label), 0)
        if len(scores):
            # Scores fall and np.interp wants rising numbers, hence the minus. Above the highest
            # score nothing is found: recall 0, and precision 1 by convention.
            recall[k] = np.interp(-CONFIDENCES, -scores, at, left=0)
            precision[k] = np.interp(-CONFIDENCES, -scores, precise, left=1)
    f1 = 2 * precision * recall / (precision + recall + 1e-16)
    best = int(smoothed(f1.mean(axis=0)).argmax()) if len(labels) else 0
    return precision[:, best], recall[:, best], best


def _check(cases: Cases, class_names: Sequence[str]) -> None:
    scores = cases.dets.scores
    odd = np.flatnonzero((scores < 0) | (scores > 1))
    if len(odd):
        raise ValueError(
            f"scores want to be probabilities; image {cases.dets.image[odd[0]]} has"
            f" {scores[odd[0]]:g}: put logits through a sigmoid or softmax first"
        )
    for table, what in ((cases.truths, "truth"), (cases.dets, "detection")):
        high = np.flatnonzero(table.labels >= len(class_names))
        if len(high):
            raise ValueError(
                f"labels want 0 to {len(class_names) - 1}, one a class name; image"
                f" {table.image[high[0]]} has a {what} with label {table.labels[high[0]]}"
            )


def _class_row(
    verdict: Verdict, label: int, name: str, numbers: dict[str, Any] | None
) -> dict[str, Any]:
    mine = verdict.counted & (verdict.cases.truths.labels == label)
    counts = {
        "name": name,
        "images": len(np.unique(verdict.cases.truths.image[mine])),
        "truths": int(mine.sum()),
    }
    return counts | (numbers or dict.fromkeys(("precision", "recall", "ap50", "ap50_95")))


def _size_row(
    cases: Cases, rules: Protocol, name: str, bounds: tuple[float, float]
) -> dict[str, Any]:
    wanted, out = of_size(cases, *bounds)
    verdict = judge(cases, COCO_THRESHOLDS, rules, wanted=wanted, out=out)
    labels, areas = areas_by_class(verdict, rules)
    precision, recall, _ = _at_best_f1(verdict, labels)
    means = _means(areas)
    return {
        "name": name,
        "area_px2": list(bounds),
        "truths": int(verdict.counted.sum()),
        "precision": _mean(precision),
        "recall": _mean(recall),
        "ap50": means["ap50"],
        "ap50_95": means["ap50_95"],
        "ar_100": _mean(recalls_by_class(verdict, 100)[1]),
    }


def _means(areas: np.ndarray) -> dict[str, float | None]:
    """areas [K, 10] of classes and COCO thresholds; None without classes."""
    columns = {"ap50": areas[:, 0], "ap75": areas[:, 5], "ap50_95": areas}
    return {name: _mean(column) for name, column in columns.items()}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _plain(value: Any) -> Any:
    """Python's own numbers and lists, which JSON can hold."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

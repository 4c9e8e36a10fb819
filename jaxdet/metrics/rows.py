"""What was found and what is true, of all images in two long tables.

Padding (label -1) is gone, every number is checked, and nothing is rounded: float32 boxes become
float64 without change. The tables are sorted once, so that a class is a slice of them.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Found(NamedTuple):
    """Every detection, sorted by label, falling score, image and the order it was given in."""

    boxes_xyxy: Float[np.ndarray, "D 4"]
    scores: Float[np.ndarray, "D"]
    labels: Int[np.ndarray, "D"]
    image: Int[np.ndarray, "D"]  # position of the image
    group: Int[np.ndarray, "D"]  # one number for each image and label, the same as in Truth
    row: Int[np.ndarray, "D"]  # position in its image as given, padding counted


class Truth(NamedTuple):
    """Every true box, sorted by label, image and the order it was given in."""

    boxes_xyxy: Float[np.ndarray, "M 4"]
    labels: Int[np.ndarray, "M"]
    crowd: Bool[np.ndarray, "M"]  # a region with many objects, or too difficult: never a miss
    area: Float[np.ndarray, "M"]  # px^2; of the object where it is known, else of its box
    image: Int[np.ndarray, "M"]
    group: Int[np.ndarray, "M"]  # rising
    row: Int[np.ndarray, "M"]  # position in its image as given, padding counted


def read(detections: Iterable[Any], truths: Iterable[Any]) -> tuple[Found, Truth, int]:
    """Both tables and the number of images.

    Detections are one (boxes_xyxy [N, 4], scores [N], labels [N]) an image, truths one (boxes_xyxy
    [M, 4], labels [M], crowd [M], area [M]) of which the last two may be left out or None. An entry
    whose boxes are [B, N, 4] counts as B images. Rows with label -1 are padding. No image at all
    gives two empty tables.

    ValueError where the two lists differ in length, columns differ in length, or a score, box,
    label or area is not finite: it names the image.
    """
    found = [_detections(entry, i) for i, entry in enumerate(_images(detections, 3))]
    true = [_truths(entry, i) for i, entry in enumerate(_images(truths, 4))]
    if len(found) != len(true):
        raise ValueError(
            f"one entry an image is wanted in both lists; got {len(found)} images with detections"
            f" and {len(true)} with truths"
        )
    empty = np.zeros((0, 4)), np.zeros(0), np.zeros(0)  # no image at all has columns too
    boxes, scores, labels, image, row = _joined([_detections(list(empty), 0), *found])
    order = np.lexsort((image, -scores, labels))
    columns = boxes, scores, labels, image, labels * len(found) + image, row
    dets = Found(*(column[order] for column in columns))
    boxes, labels, crowd, area, image, row = _joined([_truths(list(empty[:2]), 0), *true])
    order = np.lexsort((image, labels))
    columns = boxes, labels, crowd, area, image, labels * len(true) + image, row
    return dets, Truth(*(column[order] for column in columns)), len(found)


def box_area(boxes_xyxy: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N"]:
    """Width times height in px^2; an inverted box is empty, not negative."""
    sides = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def _images(entries: Iterable[Any], columns: int) -> Iterator[list[Any]]:
    """One list of columns an image; a batch is taken apart, and `Detections` alone is a batch."""
    for entry in [entries] if hasattr(entries, "boxes_xyxy") else entries:
        parts = [None if part is None else np.asarray(part) for part in entry]
        if not 2 <= len(parts) <= columns:
            raise ValueError(f"an image wants {columns} columns at most; got {len(parts)}")
        if parts[0].ndim != 3:
            yield parts
            continue
        for row in range(len(parts[0])):
            yield [None if part is None else part[row] for part in parts]


def _detections(entry: list[Any], image: int) -> tuple[np.ndarray, ...]:
    if len(entry) != 3:
        raise ValueError(
            f"detections want boxes, scores and labels; image {image} has {len(entry)} columns"
        )
    boxes, scores, labels = entry
    labels = _labels(labels, image)
    boxes, scores = _boxes(boxes, len(labels), image), _column(scores, "scores", len(labels), image)
    real = labels >= 0
    _finite(boxes[real], "a detected box", image)
    _finite(scores[real], "a score", image)
    return boxes[real], scores[real], labels[real], np.full(real.sum(), image), np.flatnonzero(real)


def _truths(entry: list[Any], image: int) -> tuple[np.ndarray, ...]:
    boxes, labels, crowd, area = entry + [None] * (4 - len(entry))
    labels = _labels(labels, image)
    real, rows = labels >= 0, len(labels)
    boxes = _boxes(boxes, rows, image)[real]
    _finite(boxes, "a true box", image)
    crowd = np.zeros(rows) if crowd is None else crowd
    crowd = _column(crowd, "crowd flags", rows, image)[real].astype(bool)
    area = box_area(boxes) if area is None else _column(area, "areas", rows, image)[real]
    _finite(area, "an area", image)
    return boxes, labels[real], crowd, area, np.full(len(boxes), image), np.flatnonzero(real)


def _labels(labels: Any, image: int) -> np.ndarray:
    labels = np.asarray(labels)
    whole = np.isfinite(labels) & (labels == np.round(labels)) & (labels >= -1)
    if labels.ndim != 1 or not whole.all():
        raise ValueError(
            f"labels want whole numbers [N] from 0, -1 for padding; image {image} has {labels}"
        )
    return labels.astype(np.int64)


def _boxes(boxes: Any, rows: int, image: int) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.shape != (rows, 4) and (boxes.size or rows):
        raise ValueError(
            f"boxes want the shape ({rows}, 4) of their labels; image {image} has {boxes.shape}"
        )
    return boxes.reshape(rows, 4)


def _column(values: Any, what: str, rows: int, image: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (rows,):
        raise ValueError(
            f"{what} want the shape ({rows},) of their labels; image {image} has {values.shape}"
        )
    return values


def _finite(values: np.ndarray, what: str, image: int) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"image {image} (counted from 0) holds {what} that is NaN or infinite")


def _joined(images: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    return [np.concatenate(column) for column in zip(*images, strict=True)]

"""What was found and what is true, of all images in two long tables.

Padding (label -1) is gone, every number is checked, and nothing is rounded: float32 boxes become
float64 without change. The tables are sorted once, so that a class is a slice of them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

FARTHEST_PX = 2.0**30  # what lies beyond is no picture, and its area overflows float32
MOST_LABELS = 2**31


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
    label or area is not finite, an area below 0, a coordinate beyond 2^30 px: it names the image.
    """
    (boxes, labels, scores), image, row, images = _table(detections, _detections)
    _refuse_boxes(boxes, image, "a detected box")
    _refuse(~np.isfinite(scores), image, "a score that is NaN or infinite")
    order = np.lexsort((image, -scores, labels))
    columns = boxes, scores, labels, image, labels * images + image, row
    dets = Found(*(column[order] for column in columns))
    (boxes, labels, crowd, area), image, row, others = _table(truths, _truths)
    if images != others:
        raise ValueError(
            f"one entry an image is wanted in both lists; got {images} images with detections"
            f" and {others} with truths"
        )
    _refuse_boxes(boxes, image, "a true box")
    _refuse(~np.isfinite(crowd), image, "a crowd flag that is NaN or infinite")
    _refuse(~(np.isfinite(area) & (area >= 0)), image, "an area that is negative, NaN or infinite")
    order = np.lexsort((image, labels))
    columns = boxes, labels, crowd != 0, area, image, labels * images + image, row
    return dets, Truth(*(column[order] for column in columns)), images


def entries(given: Iterable[Any]) -> list[Any]:
    """The entries as a list; `Detections` alone is one batch."""
    return [given] if hasattr(given, "boxes_xyxy") else list(given)


def reaches(scores: Float[np.ndarray, "*N"], threshold: float | int) -> Bool[np.ndarray, "*N"]:
    """Which scores are so much or more, in float32 as detectors give them: float32(0.7) is 0.7."""
    with np.errstate(over="ignore"):
        return scores.astype(np.float32) >= np.float32(threshold)


def box_area(boxes_xyxy: Float[np.ndarray, "*N 4"]) -> Float[np.ndarray, "*N"]:
    """Width times height in px^2; an inverted box is empty, not negative."""
    sides = np.maximum(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def _table(
    given: Iterable[Any], columns_of: Callable[[Any, int], list[np.ndarray]]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, int]:
    """Columns of all rows but padding, boxes and labels first; image and row; number of images.

    An entry is an image [N] or a batch of them [B, N]; `Detections` alone is one batch.
    """
    blocks, lengths = [columns_of(_NOTHING, 0)], []  # no image at all has columns too
    for entry in entries(given):
        columns = columns_of(entry, len(lengths))
        *batch, rows = columns[1].shape
        lengths += [rows] * (batch[0] if batch else 1)
        blocks.append([columns[0].reshape(-1, 4), *(c.reshape(-1) for c in columns[1:])])
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    counts = np.array(lengths, np.int64)
    image = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
    labels = columns[1]
    whole = (labels == np.round(labels)) & (labels >= -1) & (labels < MOST_LABELS)  # NaN is not
    _refuse(~whole, image, "a label; labels want whole numbers from 0, -1 for padding")
    real = labels >= 0
    columns = [column[real] for column in columns]
    columns[1] = columns[1].astype(np.int64)
    return columns, image[real], row[real], len(counts)


_NOTHING = np.zeros((0, 4)), np.zeros(0), np.zeros(0)


def _detections(entry: Any, image: int) -> list[np.ndarray]:
    parts = list(entry)
    if len(parts) != 3:
        raise ValueError(
            f"detections want boxes, scores and labels; image {image} has {len(parts)} columns"
        )
    return _fitting(parts[0], parts[2], {"scores": parts[1]}, image)


def _truths(entry: Any, image: int) -> list[np.ndarray]:
    parts = list(entry)
    if not 2 <= len(parts) <= 4:
        raise ValueError(
            "truths want boxes, labels and at most crowd flags and areas;"
            f" image {image} has {len(parts)} columns"
        )
    boxes, labels, crowd, area = parts + [None] * (4 - len(parts))
    crowd = np.zeros(np.shape(labels)) if crowd is None else crowd
    told = {"crowd flags": crowd} if area is None else {"crowd flags": crowd, "areas": area}
    columns = _fitting(boxes, labels, told, image)
    if area is None:
        with np.errstate(invalid="ignore"):  # an infinite box is refused later, by its image
            columns.append(box_area(columns[0]))
    return columns


def _fitting(boxes: Any, labels: Any, others: dict[str, Any], image: int) -> list[np.ndarray]:
    """Float64 columns whose shapes are those of the labels, [N] or [B, N]."""
    labels = np.asarray(labels, np.float64)
    boxes = np.asarray(boxes, np.float64)
    if labels.ndim not in (1, 2):
        raise ValueError(f"labels want the shape [N]; image {image} has {labels.shape}")
    if boxes.shape != (*labels.shape, 4) and (boxes.size or labels.size):
        raise ValueError(
            f"boxes want the shape {(*labels.shape, 4)} of their labels; image {image} has"
            f" {boxes.shape}"
        )
    columns = [boxes.reshape(*labels.shape, 4), labels]
    for what, values in others.items():
        values = np.asarray(values, np.float64)
        if values.shape != labels.shape:
            raise ValueError(
                f"{what} want the shape {labels.shape} of their labels; image {image} has"
                f" {values.shape}"
            )
        columns.append(values)
    return columns


def _refuse_boxes(boxes: np.ndarray, image: np.ndarray, what: str) -> None:
    _refuse(~np.isfinite(boxes).all(axis=1), image, f"{what} that is NaN or infinite")
    far = (np.abs(boxes) > FARTHEST_PX).any(axis=1)
    _refuse(far, image, f"{what} with a coordinate beyond {FARTHEST_PX:g} px")


def _refuse(wrong: np.ndarray, image: np.ndarray, what: str) -> None:
    if wrong.any():
        raise ValueError(f"image {image[wrong][0]} (counted from 0) holds {what}")

"""What does a lesion mask say about boxes, diameters and lesions that touch?

A mask is [H, W]; zero is no lesion. An instance mask has i + 1 on the lesion of box i, as
`CtSlice.lesions`.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

MOST = 255  # instances that a uint8 mask can number

_BLUR = (11, 11)  # px; OpenCV makes sigma 2 of it
_SQUARE = np.ones((5, 5), np.uint8)  # of opening and closing
_PEAK, _NECK = 2.0, 0.7  # px half width of a lesion; of a neck, as a share of it


class Boxes(NamedTuple):
    """The lesions of one slice, from top to bottom and there from left to right."""

    boxes_xyxy: Float[np.ndarray, "N 4"]  # float32 px
    instances: UInt8[np.ndarray, "H W"]  # i + 1 on the lesion of box i


def boxes_of(mask: Shaped[np.ndarray, "H W"], smooth: bool = True) -> Boxes:
    """A box around each lesion of a mask, and the mask that belongs to the boxes.

    With `smooth`, as the labels of GSSD++ were made (Lee 2021; facts, gssd_reference 6.2): all that
    is not zero is lesion, blurred by an 11 x 11 Gaussian on uint8 (which rounds, so a majority of
    the neighbourhood decides), opened and closed by 5 x 5, parted into 8-connected components.
    Lesions thinner than about 5 px vanish; such that touch become one.
    Without, nothing is cleaned and an instance is a component of one value, so that neighbours of
    different value stay apart. No lesion is 0 boxes. More than 255 lesions and a mask of numbers
    that are not finite are a ValueError.
    """
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise ValueError(
            f"a mask [H, W] of {mask.shape} holds NaN or infinity; wanted 0 and labels"
        )
    parts = [_cleaned(mask)] if smooth else [mask == value for value in np.unique(mask[mask != 0])]
    found = [lesion for part in parts for lesion in _components(part.astype(np.uint8))]
    if len(found) > MOST:
        raise ValueError(f"a mask with {len(found)} lesions; wanted at most {MOST}: is it noise?")
    found.sort(key=_reading_order)
    instances = np.zeros(mask.shape, np.uint8)
    for i, ((x0, y0, x1, y1), pixels) in enumerate(found, 1):
        instances[y0:y1, x0:x1][pixels] = i
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    return Boxes(boxes, instances)


def diameters_mm(
    instances: UInt8[np.ndarray, "H W"], spacing_xy: tuple[float, float]
) -> Float[np.ndarray, "N"]:
    """The longest diameter of each instance in the slice in mm, float32, N the highest number.

    As RECIST measures the long axis, between the two farthest points of the outline, also across
    an indentation. A pixel is a rectangle of `spacing_xy` (x, y; mm), not a point: one pixel alone
    has its diagonal, and a disc is measured about one pixel too long rather than too short. A
    number below the highest that has no pixel is NaN, and so are all where the spacing is (it is
    not known). Other spacings that are not above 0 and finite are a ValueError.
    """
    if any(side <= 0 or np.isinf(side) for side in spacing_xy):
        raise ValueError(f"a diameter in mm wants spacings (x, y) above 0; got {spacing_xy}")
    lengths = [
        _longest(instances == i, spacing_xy) for i in range(1, int(instances.max(initial=0)) + 1)
    ]
    return np.array(lengths, np.float32)


def touching(instances: Shaped[np.ndarray, "H W"]) -> int:
    """How many instances touch another one, corners included (8-connected).

    What parts lesions by their pixels joins these, and their boxes overlap (PCA-YOLO, Fig. 7). Only
    an instance mask can tell: in a mask of lesion and no lesion, such as that of LiTS, two that
    touch are one component; `merged` guesses there.
    """
    found: set[int] = set()
    down, up, left, right, every = np.s_[1:], np.s_[:-1], np.s_[:-1], np.s_[1:], np.s_[:]
    for a, b in (
        ((every, left), (every, right)),
        ((up, every), (down, every)),
        ((up, left), (down, right)),
        ((up, right), (down, left)),
    ):
        one, other = instances[a], instances[b]
        meet = (one != other) & (one != 0) & (other != 0)
        found.update(one[meet].tolist(), other[meet].tolist())
    return len(found)


def merged(mask: Shaped[np.ndarray, "H W"]) -> int:
    """An estimate of how many lesions touch in a mask that says lesion and no lesion only.

    Inside a component the distance to its edge has a peak for every lesion and a saddle at the neck
    between two. A component counts with its parts where two or more peaks of 2 px and above are
    parted by a neck of at most 0.7 of their height. Deeply merged lesions stay one: on 65 slices
    of the single-phase phantom it found 5 of the 9 lesions that touch, and two slices of 61 where
    none does.
    """
    padded = np.pad((mask != 0).astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    count, labels = cv2.connectedComponents(padded, connectivity=8)
    parts = [_parts(np.where(labels == i, depth, 0)) for i in range(1, count)]
    return sum(n for n in parts if n > 1)


def _parts(depth: Float[np.ndarray, "H W"]) -> int:
    """Into how many parts a component falls, at the level of erosion that shows most."""
    most = 1
    for level in np.arange(1.0, float(depth.max()), 0.25):
        count, labels = cv2.connectedComponents((depth > level).astype(np.uint8), connectivity=8)
        peaks = [float(depth[labels == k].max()) for k in range(1, count)]
        cores = [peak for peak in peaks if peak >= _PEAK and level <= _NECK * peak]
        most = max(most, len(cores))
    return most


def _cleaned(mask: np.ndarray) -> np.ndarray:
    lesion = (mask != 0).astype(np.uint8)
    if not lesion.any():  # and OpenCV refuses an empty image
        return lesion
    blurred = cv2.GaussianBlur(lesion, _BLUR, 0)
    opened = cv2.morphologyEx(blurred, cv2.MORPH_OPEN, _SQUARE)
    return cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _SQUARE)


def _components(mask: np.ndarray) -> list[tuple[tuple[int, int, int, int], np.ndarray]]:
    """Box x0, y0, x1, y1 and the pixels in the box, of each 8-connected component."""
    if not mask.any():
        return []
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = []
    for i in range(1, count):
        x, y, wide, high = (int(v) for v in stats[i, :4])
        found.append(((x, y, x + wide, y + high), labels[y : y + high, x : x + wide] == i))
    return found


def _reading_order(lesion: tuple[tuple[int, int, int, int], np.ndarray]) -> tuple[int, ...]:
    x0, y0, x1, y1 = lesion[0]
    return y0, x0, y1, x1


def _longest(lesion: np.ndarray, spacing_xy: tuple[float, float]) -> float:
    rows = np.flatnonzero(lesion.any(axis=1))
    if not len(rows):
        return np.nan
    # The corners of the first and last pixel of each row: no other can be on the hull.
    first = lesion[rows].argmax(axis=1)
    end = lesion.shape[1] - lesion[rows, ::-1].argmax(axis=1)
    corners = [np.stack([x, y], 1) for x in (first, end) for y in (rows, rows + 1)]
    hull = cv2.convexHull(np.concatenate(corners).astype(np.int32))[:, 0] * np.array(spacing_xy)
    return float(np.linalg.norm(hull[:, None] - hull[None], axis=-1).max())

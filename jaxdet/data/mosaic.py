"""Four images around a random point of a picture twice the size, as in YOLOv8.

    canvas 2s x 2s, centre (xc, yc) in [s/2, 3s/2]:    0 | 1
                                                       --+--
                                                       2 | 3

Each image touches the centre with one corner; what does not fit is cut, what is not covered is
padding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from jaxdet.config import Augment
from jaxdet.data.transforms import (
    Sample,
    blank,
    clip_boxes,
    fitted_size,
    random_matrix,
    translation,
    warp,
    warp_image,
)


class Window(NamedTuple):
    """A part of the canvas in px; x1 and y1 exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    def cut(self, other: "Window") -> "Window":
        """What both share; empty where x1 <= x0 or y1 <= y0."""
        low = np.maximum(self[:2], other[:2]).tolist()
        return Window(*low, *np.minimum(self[2:], other[2:]).tolist())


def mosaic(
    samples: Sequence[Sample],
    size: int,
    pad: tuple[float, ...],
    rng: np.random.Generator,
) -> Sample:
    """Four samples, longer sides brought to `size`, on a canvas of 2 size x 2 size.

    Boxes are cut at the edge of the canvas and dropped where nothing is left.
    """
    tiles = _tiles(samples, size, _centre(size, rng))
    whole = Window(0, 0, 2 * size, 2 * size)
    return _paint(samples, tiles, whole, size, pad)


def mosaic_perspective(
    samples: Sequence[Sample],
    size: int,
    augment: Augment,
    pad: tuple[float, ...],
    rng: np.random.Generator,
) -> Sample:
    """`mosaic` and then `random_perspective` back to size x size: the same draws, the same result.

    Only the part of the canvas that the second step looks at is painted: a third of it on average
    with the default scale, which saves most of the resizing.
    """
    tiles = _tiles(samples, size, _centre(size, rng))
    matrix, gain = random_matrix(2 * size, 2 * size, size, augment, rng)
    seen = _seen(matrix, size)
    joined = _paint(samples, tiles, seen, size, pad)
    return warp(joined, matrix, gain, size, pad, origin_xy=(seen.x0, seen.y0))


def _centre(size: int, rng: np.random.Generator) -> tuple[int, int]:
    y, x = rng.uniform(size / 2, 3 * size / 2, 2)
    return int(x), int(y)


def _tiles(samples: Sequence[Sample], size: int, centre: tuple[int, int]) -> list[Window]:
    """Where each whole image would lie; parts may be off the canvas."""
    if len(samples) != 4 or len({(s.image.dtype, s.image.shape[2]) for s in samples}) != 1:
        got = ", ".join(f"{s.image.shape[2]} x {s.image.dtype}" for s in samples)
        raise ValueError(f"a mosaic wants four images alike in channels and type; got {got}")
    xc, yc = centre
    tiles = []
    for k, sample in enumerate(samples):
        height, width = fitted_size(*sample.image.shape[:2], size)
        x0 = xc - width if k % 2 == 0 else xc
        y0 = yc - height if k < 2 else yc
        tiles.append(Window(x0, y0, x0 + width, y0 + height))
    return tiles


def _seen(matrix: Float64[np.ndarray, "3 3"], size: int) -> Window:
    """The part of the canvas that the output shows, with a border for the interpolation."""
    whole = Window(0, 0, 2 * size, 2 * size)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], np.float64)
    back = corners @ np.linalg.inv(matrix).T
    if (back[:, 2] <= 0).any():  # the output looks over the horizon of the canvas
        return whole
    points = back[:, :2] / back[:, 2:]
    low, high = np.floor(points.min(0)) - 2, np.ceil(points.max(0)) + 2
    seen = whole.cut(Window(*low.astype(int).tolist(), *high.astype(int).tolist()))
    # A shift can move the whole canvas out of sight: one pixel is then enough to go on with.
    x0, y0 = min(seen.x0, whole.x1 - 1), min(seen.y0, whole.y1 - 1)
    return Window(x0, y0, max(seen.x1, x0 + 1), max(seen.y1, y0 + 1))


def _paint(
    samples: Sequence[Sample],
    tiles: list[Window],
    window: Window,
    size: int,
    pad: tuple[float, ...],
) -> Sample:
    """The window of the canvas as image; the boxes stay in the frame of the whole canvas."""
    image = blank(window.y1 - window.y0, window.x1 - window.x0, pad, samples[0].image)
    boxes, labels = [], []
    for sample, tile in zip(samples, tiles, strict=True):
        scale, move = _place(sample.image, tile)
        shown = window.cut(tile)
        if shown.x1 > shown.x0 and shown.y1 > shown.y0:
            rows = slice(shown.y0 - window.y0, shown.y1 - window.y0)
            columns = slice(shown.x0 - window.x0, shown.x1 - window.x0)
            image[rows, columns] = _part(sample.image, scale, tile, shown)
        boxes.append(sample.boxes_xyxy * np.tile(scale, 2) + np.tile(move, 2))
        labels.append(sample.labels)
    whole = clip_boxes(np.concatenate(boxes).astype(np.float32), 2 * size, 2 * size)
    some = (whole[:, 2] > whole[:, 0]) & (whole[:, 3] > whole[:, 1])
    return Sample(image, whole[some], np.concatenate(labels)[some])


def _place(
    image: Shaped[np.ndarray, "H W C"], tile: Window
) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]]:
    height, width = image.shape[:2]
    scale = np.array([(tile.x1 - tile.x0) / width, (tile.y1 - tile.y0) / height])
    return scale, np.array([tile.x0, tile.y0], np.float64)


def _part(
    image: Shaped[np.ndarray, "H W C"],
    scale: Float64[np.ndarray, "2"],
    tile: Window,
    shown: Window,
) -> Shaped[np.ndarray, "H2 W2 C"]:
    x, y = shown.x0 - tile.x0, shown.y0 - tile.y0
    height, width = shown.y1 - shown.y0, shown.x1 - shown.x0
    if (scale == 1).all():
        return image[y : y + height, x : x + width]
    # The same bilinear samples as a resize of the whole image, but only of what is shown.
    matrix = translation(-x, -y) @ np.diag([*scale, 1.0])
    return warp_image(image, matrix, height, width, None)

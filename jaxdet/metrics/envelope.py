"""Which boxes did the authors' evaluation score for PixelLink?"""

import cv2
import jax
import numpy as np
from jaxtyping import Float

from jaxdet.ops import links
from jaxdet.types import Detections

_labelled = jax.jit(links.labelled, static_argnames=("pixel_threshold", "link_threshold"))


def official_boxes(
    pixel_logits: Float[np.ndarray, "H W 2"],
    link_logits: Float[np.ndarray, "H W 16"],
    image_size: int = 300,
    *,
    pixel_threshold: float = 0.2,
    link_threshold: float = 0.8,
    min_area: float = 3.0,
    min_height: float = 1.0,
) -> Detections:
    """The lesions of one image as the official decoding draws them, by falling score; not padded.

    Components as `ops.links.labelled` has them. Each is enlarged to `image_size` px (nearest), gets
    the rectangle of least area around its first contour, at any angle, and of that the upright
    envelope, truncated and clamped: the "noisy post-filtering" of Lee 2021. A rectangle below
    `min_area` px^2 or with a side below `min_height` px is none. The score is the mean over its
    pixels of the probability, enlarged bilinearly (facts, gssd_reference 4.6), where NaN, which is
    in no component, counts as 0. No component is no box. Where the size is no multiple of a cell
    the last cells reach beyond the image, and are cut (the reference knows no such size).

    Corners are of pixels that belong to the box: x1 and y1 are the last ones and not exclusive, so
    a block of 4 px is 3 wide, and the official evaluation counts it so.
    Departs: the reference numbers components in uint8, and fails above 255 of them.
    """
    side = -(-image_size // len(pixel_logits)) * len(pixel_logits)  # whole cells
    thresholds = {"pixel_threshold": pixel_threshold, "link_threshold": link_threshold}
    labels, prob = jax.device_get(_labelled(pixel_logits, link_logits, **thresholds))
    prob = np.where(np.isnan(prob), np.float32(0), prob)
    large = cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST)
    score = cv2.resize(prob, (side, side), interpolation=cv2.INTER_LINEAR)
    large, score = (enlarged[:image_size, :image_size] for enlarged in (large, score))
    rows = []
    for first in np.unique(large[large >= 0]):
        lesion = large == first
        box = _envelope(lesion, min_area, min_height)
        if box is not None:
            rows.append((*box, score[lesion].mean()))
    table = np.array(rows, np.float32).reshape(-1, 5)
    table = table[np.argsort(-table[:, 4], kind="stable")]
    return Detections(table[:, :4], table[:, 4], np.zeros(len(table), np.int32))


def _envelope(lesion: np.ndarray, min_area: float, min_height: float) -> np.ndarray | None:
    """x0, y0, x1, y1 of the pixels at its ends."""
    contours, _ = cv2.findContours(lesion.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rectangle = cv2.minAreaRect(contours[0])
    wide, high = rectangle[1]
    if min(wide, high) < min_height or wide * high < min_area:
        return None
    corners = cv2.boxPoints(rectangle).astype(np.int32)  # truncated
    corners = np.clip(corners, 0, np.array(lesion.shape)[::-1] - 1)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])

"""What the models of linked pixels share, by fields of one name: checks, truth, and boxes.

A cell is lesion or not, and of one lesion with a neighbour or not. A model of this kind answers
`pixel_logits` [B, H, W, 2] and `link_logits` [B, H, W, 16], and its Config has the fields that are
read here.
"""

from typing import Any

import numpy as np

from jaxdet.metrics.envelope import official_boxes
from jaxdet.ops import links
from jaxdet.types import Array, Batch, Detections


def check(cfg: Any, called: str) -> None:
    """Refuses phases that do not divide the channels, a second class, and numbers without sense."""
    if cfg.phases < 1:
        raise ValueError(f"model.phases wants 1 or more; got {cfg.phases}")
    if cfg.channels < 1 or cfg.channels % cfg.phases:
        raise ValueError(
            f"model.channels wants a multiple of the {cfg.phases} phases; got {cfg.channels}"
        )
    if not 0 < cfg.width <= 4:
        raise ValueError(f"model.width wants more than 0, at most 4; got {cfg.width}")
    if cfg.num_classes != 1:
        raise ValueError(
            f"{called} tells lesion from none: model.num_classes wants 1; got {cfg.num_classes}"
        )
    if cfg.image_size < 32:
        raise ValueError(f"model.image_size wants 32 px or more; got {cfg.image_size}")
    for name in ("pixel_threshold", "link_threshold", "score_threshold"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise ValueError(f"model.{name} is a probability in [0, 1]; got {getattr(cfg, name)}")
    for name in ("min_cells", "max_detections"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"model.{name} wants 1 or more; got {getattr(cfg, name)}")
    if not 0 <= cfg.neg_ratio < np.inf:
        raise ValueError(f"model.neg_ratio wants 0 or more; got {cfg.neg_ratio}")


def check_images(x: Array, cfg: Any) -> None:
    """Refuses images that are not of the size and the channels that the Config names."""
    wanted = (cfg.image_size, cfg.image_size, cfg.channels)
    if x.ndim != 4 or x.shape[1:] != wanted:
        raise ValueError(
            f"this model wants images [B, {', '.join(map(str, wanted))}]; got {list(x.shape)}. Set "
            "model.image_size and data.image_size to the same size, and model.channels to the "
            "data's channels: a number of slices for each of its phases"
        )


def targets(batch: Batch, cells: tuple[int, int], stride: int, cfg: Any) -> links.Targets:
    """What `cells` (H, W) of `stride` px are told: of boxes, or of lesions where `truth` is mask.

    ValueError for lesions that the batch does not have.
    """
    told = {"shape": cells, "stride": stride, "border": cfg.border}
    if cfg.truth == "box":
        return links.of_boxes(batch.boxes_xyxy, batch.labels, cover=cfg.cover, **told)
    if batch.lesions is None:
        raise ValueError('model.truth="mask" wants the masks of lesions: set data.lesions=True')
    return links.of_lesions(batch.lesions, **told)


def decode(pixel_logits: Array, link_logits: Array, stride: int, cfg: Any) -> Detections:
    """The surest components, in px: the extent of their cells, scored as `cfg.score` says."""
    return links.decode(
        pixel_logits,
        link_logits,
        stride=stride,
        size=cfg.image_size,
        most=cfg.max_detections,
        pixel_threshold=cfg.pixel_threshold,
        link_threshold=cfg.link_threshold,
        score_threshold=cfg.score_threshold,
        min_cells=cfg.min_cells,
        extent=cfg.extent,
        score=cfg.score,
    )


def count(out: Any, *, cfg: Any) -> Array:
    """How many lesions each image has, int [B]: those too for which `decode` has no room."""
    lesions = links.components_of(
        *out[:2],
        most=1,
        pixel_threshold=cfg.pixel_threshold,
        link_threshold=cfg.link_threshold,
        min_cells=cfg.min_cells,
    )
    return lesions.count


def decode_officially(out: tuple[np.ndarray, ...], *, cfg: Any) -> Detections:
    """`decode` of one image as PixelLink's and MSCR's code does it, on the host: metrics.envelope.

    `min_cells`, `extent` and `score` are not asked: that code has its own least sizes, ends boxes
    at their last px, and scores by pixels.
    """
    found = official_boxes(
        *out[:2],
        cfg.image_size,
        pixel_threshold=cfg.pixel_threshold,
        link_threshold=cfg.link_threshold,
    )
    rows = min(int((found.scores > cfg.score_threshold).sum()), cfg.max_detections)
    room = cfg.max_detections - rows
    boxes, scores, labels = (part[:rows] for part in found)
    return Detections(
        np.pad(boxes, ((0, room), (0, 0))),
        np.pad(scores, (0, room)),
        np.pad(labels, (0, room), constant_values=-1),
    )

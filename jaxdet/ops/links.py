"""What should a pixel say of its neighbours, and which lesions follow from what it says?"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt8

from jaxdet.ops.components import NEIGHBOURS, Components, found, label
from jaxdet.types import Array, Detections

Extent = Literal["official", "cells"]
Border = Literal["official", "clean"]
Cover = Literal["official", "touched"]
Score = Literal["cells", "pixels"]


class Targets(NamedTuple):
    """What every cell is told. A cell of several lesions is neither positive nor negative."""

    positive: Bool[Array, "*B H W"]
    negative: Bool[Array, "*B H W"]
    weight: Float[Array, "*B H W"]  # every lesion sums to the same, all to their cells; 0 elsewhere
    links: Bool[Array, "*B H W 8"]  # NEIGHBOURS of the same lesion


def of_boxes(
    boxes_xyxy: Float[Array, "B M 4"],
    labels: Int[Array, "B M"],
    *,
    shape: tuple[int, int],
    stride: int,
    border: Border = "official",
    cover: Cover = "official",
) -> Targets:
    """The targets of boxes in px on `shape` (H, W) cells of `stride` px; labels of -1 pad.

    Of a box what lies off the image covers nothing. No box, or none with a cell of its own, is no
    positive cell. `cover` says which cells a box has:
    official  all from that of its first corner to that of its last one, which is x1 itself and not
              the pixel before, both truncated to whole px: as the reference draws it (facts,
              gssd_reference 4.4). So a box that ends between two cells has one more, and less than
              a cell above or left of the image truncates to the first one
    touched   all of which it has a part: as `of_lesions` of the same box filled; a box without
              width or height, which fills nothing, still touches the cells it lies in
    `border` "official" is the reference's slip: at the edge of the image a link over the opposite
    edge counts as one inside, which shows on lesions one cell thick there. "clean": no such links.
    """
    if cover not in ("official", "touched"):
        raise ValueError(f"cover must be official or touched; got {cover!r}")
    first, last = jnp.split(boxes_xyxy, 2, axis=-1)
    if cover == "official":
        first, last = (jnp.trunc(jnp.trunc(corner) / stride) for corner in (first, last))
    else:
        first, last = jnp.floor(first / stride), jnp.ceil(last / stride) - 1

    def covered(axis: int, length: int) -> Array:
        at = jnp.arange(length)
        inside = (at >= first[..., axis, None]) & (at <= last[..., axis, None])
        return (inside & (labels >= 0)[..., None]).astype(jnp.float32)

    rows, columns = covered(1, shape[0]), covered(0, shape[1])
    number = rows * jnp.arange(1.0, labels.shape[1] + 1)[:, None]
    times, owner = (
        jnp.einsum("bmh,bmw->bhw", sides, columns, precision="highest") for sides in (rows, number)
    )
    owner = jnp.where(times == 1, owner, 0).astype(jnp.int32)
    return _targets(owner, times == 0, labels.shape[1], border)


def of_lesions(
    lesions: UInt8[Array, "B S S"],
    *,
    shape: tuple[int, int],
    stride: int,
    border: Border = "official",
) -> Targets:
    """The targets of masks (i + 1 on lesion i, 0 on none) on `shape` (H, W) cells of `stride` px.

    A cell belongs to every lesion that has a pixel in it. An empty mask is no positive cell, and
    cells beyond the mask have no lesion; `border` as in `of_boxes`. A mask that is larger than the
    cells is a ValueError.
    """
    (height, width), side = shape, lesions.shape[-1]
    if side > min(height, width) * stride:
        raise ValueError(
            f"cells {shape} of {stride} px cover less than a mask of {side} px; wanted at least "
            f"{-(-side // stride)} cells a side, the shape of the network's outputs"
        )
    room = ((0, 0), (0, height * stride - side), (0, width * stride - side))
    blocks = jnp.pad(lesions, room).reshape(-1, height, stride, width, stride).astype(jnp.int32)
    last = blocks.max(axis=(2, 4))
    first = jnp.where(blocks > 0, blocks, 256).min(axis=(2, 4))  # 256: above all that uint8 has
    owner = jnp.where(first == last, last, 0)
    return _targets(owner, last == 0, 255, border)  # all that uint8 can number


def labelled(
    pixel_logits: Float[Array, "*B H W 2"],
    link_logits: Float[Array, "*B H W 16"],
    *,
    pixel_threshold: float = 0.2,
    link_threshold: float = 0.8,
) -> tuple[Int[Array, "*B H W"], Float[Array, "*B H W"]]:
    """To which lesion each cell belongs, as `components.label` has it, and its probability.

    A cell is positive where its probability is strictly above `pixel_threshold`, and joined to a
    neighbour where that of the link (2k no, 2k + 1 yes) is strictly above `link_threshold`, on one
    of both sides (facts, gssd_reference 4.6). NaN is neither.
    """
    pixels, links = pixel_logits.astype(jnp.float32), link_logits.astype(jnp.float32)
    lead = pixels[..., 1] - pixels[..., 0]
    joined = links[..., 1::2] - links[..., ::2] > _logit(link_threshold)
    return label(lead > _logit(pixel_threshold), joined), jax.nn.sigmoid(lead)


def components_of(
    pixel_logits: Float[Array, "*B H W 2"],
    link_logits: Float[Array, "*B H W 16"],
    *,
    most: int,
    pixel_threshold: float = 0.2,
    link_threshold: float = 0.8,
    min_cells: int = 1,
    score: Score = "cells",
) -> Components:
    """The `most` best lesions in cells, and how many there were of at least `min_cells` cells.

    Thresholds as in `labelled`. A stack of images is quicker than vmap, see `components.label`.
    `score` is the mean probability of
    cells   a lesion's own (departs): a small one is not less sure for what lies around it
    pixels  its pixels, in a map that was enlarged bilinearly, as the reference does it (facts,
            gssd_reference 4.6): neighbours outside of the lesion count too, and a lesion of one
            cell of probability 0.9 among zeros scores 0.51
    """
    if score not in ("cells", "pixels"):
        raise ValueError(f"score must be cells or pixels; got {score!r}")
    labels, prob = labelled(
        pixel_logits, link_logits, pixel_threshold=pixel_threshold, link_threshold=link_threshold
    )
    if score == "pixels":
        prob = _mean_of_pixels(prob)
    return found(labels, prob, most, min_cells)


def decode(
    pixel_logits: Float[Array, "*B H W 2"],
    link_logits: Float[Array, "*B H W 16"],
    *,
    stride: int,
    size: int,
    most: int,
    pixel_threshold: float = 0.2,
    link_threshold: float = 0.8,
    score_threshold: float = 0.0,
    min_cells: int = 1,
    extent: Extent = "official",
    score: Score = "cells",
) -> Detections:
    """The `most` best lesions as boxes in px, by falling score; padded with zeros, labels -1.

    A box is the upright extent of its cells of `stride` px in an image of `size` px (departs: the
    reference draws the envelope of a rotated rectangle, metrics.envelope; of upright blocks it is
    the same. And it drops rectangles below 3 px^2, which are single cells of 2 px: `min_cells`=2
    does so here). Scores as in `components_of`. `extent` says where a box ends:
    official  at its last px, which the official evaluation takes for x1: a px short, but never
              less than a px wide, as a last cell of one px would be
    cells     behind it
    Kept is what scores above `score_threshold`. As `components_of`, whose `count` tells whether
    `most` was enough.
    """
    lesions = components_of(
        pixel_logits,
        link_logits,
        most=most,
        pixel_threshold=pixel_threshold,
        link_threshold=link_threshold,
        min_cells=min_cells,
        score=score,
    )
    real = (lesions.sizes > 0) & (lesions.scores > score_threshold)
    # Where a side is no multiple of the stride the last cells reach beyond the image.
    boxes = jnp.minimum(lesions.cells_xyxy * stride, jnp.float32(size))
    if extent == "official":
        low, high = jnp.split(boxes, 2, axis=-1)
        boxes = jnp.concatenate([low, jnp.maximum(high - 1, low + 1)], -1)
    labels = jnp.where(real, 0, -1).astype(jnp.int32)
    boxes = jnp.where(real[..., None], boxes, 0.0)
    return Detections(boxes, jnp.where(real, lesions.scores, 0.0), labels)


def _mean_of_pixels(prob: Float[Array, "*B H W"]) -> Float[Array, "*B H W"]:
    """The mean over each cell's pixels of a map enlarged bilinearly, edges continued.

    Of a cell of 2 or of 4 px, as of any even number, an eighth is of the neighbour on each side,
    first along one axis and then along the other. NaN, which is in no lesion, counts as 0.
    """
    prob = jnp.where(jnp.isnan(prob), 0.0, prob)
    for axis in (-2, -1):
        room = [(0, 0)] * prob.ndim
        room[axis] = (1, 1)
        padded = jnp.pad(prob, room, mode="edge")
        before, after = (
            jax.lax.slice_in_dim(padded, start, start + prob.shape[axis], axis=axis)
            for start in (0, 2)
        )
        prob = 0.75 * prob + 0.125 * (before + after)
    return prob


def _targets(
    owner: Int[Array, "B H W"], negative: Bool[Array, "B H W"], most: int, border: Border
) -> Targets:
    """`owner`: i + 1 where lesion i of at most `most` lies alone, 0 elsewhere."""
    positive = owner > 0
    flat = owner.reshape(len(owner), -1)
    sizes = jax.vmap(lambda row: jnp.bincount(row, length=most + 1))(flat).at[:, 0].set(0)
    share = sizes.sum(-1) / jnp.maximum((sizes > 0).sum(-1), 1)
    own = jnp.take_along_axis(sizes, flat, axis=1).reshape(owner.shape)
    weight = share[:, None, None] / jnp.maximum(own, 1)
    weight = jnp.where(positive, weight, 0.0).astype(jnp.float32)
    return Targets(positive, negative, weight, _links(owner, border))


def _links(owner: Array, border: Border) -> Bool[Array, "B H W 8"]:
    """Which neighbours of a cell have the same owner, 0 being none."""
    if border not in ("official", "clean"):
        raise ValueError(f"border must be official or clean; got {border!r}")
    _, height, width = owner.shape
    padded = jnp.pad(owner, ((0, 0), (1, 1), (1, 1)))

    def same(dy: int, dx: int) -> Array:
        other = padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        return (other == owner) & (owner > 0)

    # The reference moves each positive cell against the direction and clips what leaves the image:
    # so at the edge where the move ends, the axis that was clipped counts as not moved too.
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    links = []
    for dy, dx in NEIGHBOURS:
        link = same(dy, dx)
        if border == "official":
            below = (y == (height - 1 if dy < 0 else 0)) & (dy != 0)
            right = (x == (width - 1 if dx < 0 else 0)) & (dx != 0)
            link |= (below & same(0, dx)) | (right & same(dy, 0)) | (below & right & same(0, 0))
        links.append(link)
    return jnp.stack(links, axis=-1)


def _logit(probability: float) -> float:
    """ln(p / (1 - p)): of two logits the second has probability p where it leads by that much."""
    if not 0 <= probability <= 1:
        raise ValueError(f"a threshold is a probability in [0, 1]; got {probability}")
    if probability in (0, 1):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))

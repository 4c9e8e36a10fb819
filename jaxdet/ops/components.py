"""Which pixels hang together, and where does each group lie?"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxdet.types import Array

# (dy, dx), clockwise from the top left; what looks back from neighbour k is neighbour (k + 4) % 8.
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))

_JUMPS = 4  # along the pointers in a round: 16 steps, so the usual lesion is done in one or two
_SURE = {"mode": "promise_in_bounds", "wrap_negative_indices": False}
_DROP = {"mode": "drop", "wrap_negative_indices": False}  # -1 is no cell, not the last one


class Components(NamedTuple):
    """Groups of cells by falling score, of equal ones the earlier first; zeros behind the last."""

    cells_xyxy: Float[Array, "*B D 4"]  # extent in cells, x1 and y1 exclusive
    scores: Float[Array, "*B D"]  # mean over the cells
    sizes: Int[Array, "*B D"]  # cells; 0 at padding
    count: Int[Array, "*B"]  # how many there are, also those beyond D


def label(positive: Bool[Array, "*B H W"], joined: Bool[Array, "*B H W 8"]) -> Int[Array, "*B H W"]:
    """The smallest flat index y * W + x in the component of each positive cell, -1 elsewhere.

    `joined[..., k]` is a link to neighbour k of NEIGHBOURS; from either side it suffices. Links of
    cells that are not positive, to such, and over the edge are none. Images are best stacked here,
    vmap gives the same but is slower.

    Exact for every shape. Cells point to a cell of their component that is no later, in the end all
    to the first; each round the cells pointed to are told of earlier ones that any of their own
    touches, and pointers are followed (FastSV, Zhang 2020, arXiv:1910.05971). Rounds grow with the
    logarithm of the longest path: 4 for a spiral of 150 x 150, 6 for a maze.
    """
    height, width = positive.shape[-2:]
    if positive.size == 0:
        return jnp.zeros(positive.shape, jnp.int32)
    ways, steps = _ways(positive, joined), _steps(width)
    cells, room = ways[0].size, width + 2

    def least(parent: Array) -> Array:
        """The earliest cell that a cell or one it hangs together with points to."""
        known, padded = parent, jnp.pad(parent, room)
        for way, step in zip(ways, steps, strict=True):
            other = padded[room + step : room + step + cells]
            known = jnp.minimum(known, jnp.where(way, other, cells))
        return known

    def merge(state: tuple[Array, Array]) -> tuple[Array, Array]:
        parent, known = state
        parent = known.at[parent].min(known, **_SURE)
        for _ in range(_JUMPS):
            parent = parent.at[parent].get(**_SURE)
        return parent, least(parent)

    def news(state: tuple[Array, Array]) -> Array:
        return (state[0] != state[1]).any()

    own = jnp.arange(cells, dtype=jnp.int32)
    back = functools.reduce(jnp.minimum, map(jnp.where, ways, steps, [0] * 8))
    first, _ = jax.lax.while_loop(news, merge, (own, own + back))  # that is least(own)
    first = first.reshape(-1, height + 1, width + 1)[:, :height, :width].reshape(positive.shape)
    first = first % ((height + 1) * (width + 1))  # in its own image
    return jnp.where(positive, first // (width + 1) * width + first % (width + 1), -1)


def found(
    labels: Int[Array, "*B H W"], prob: Float[Array, "*B H W"], most: int, smallest: int = 1
) -> Components:
    """The `most` components of an image that score best, among those of at least `smallest` cells.

    `labels` as `label` gives them; `prob` is not negative, and a component with a NaN is none. Of
    equal scores that with the earlier first cell goes first. On a GPU floats are added in no fixed
    order, so the last digit of a score may change from run to run.
    """
    if most < 1 or smallest < 1:
        raise ValueError(f"wanted at least 1 component and 1 cell; got {most=} and {smallest=}")
    *images, height, width = labels.shape
    total, cells = math.prod(images), height * width
    labels, prob = labels.reshape(total, cells), prob.reshape(-1).astype(jnp.float32)
    start = jnp.arange(total, dtype=jnp.int32)[:, None] * cells
    at = jnp.where(labels < 0, -1, labels + start).reshape(-1)
    y, x = jnp.divmod(jnp.arange(at.shape[0], dtype=jnp.int32) % max(cells, 1), max(width, 1))

    sums = jnp.stack([jnp.ones_like(prob), prob], -1)
    sums = jnp.zeros_like(sums).at[at].add(sums, **_DROP).reshape(total, cells, 2)
    ends = jnp.stack([width - x, x + 1, y + 1], -1)
    ends = jnp.zeros_like(ends).at[at].max(ends, **_DROP).reshape(total, cells, 3)

    sizes = sums[..., 0]
    scores = jnp.where(sizes >= smallest, sums[..., 1] / jnp.maximum(sizes, 1), -1.0)
    scores = jnp.where(scores >= 0, scores, -1.0)
    best, first = jax.lax.top_k(scores, min(most, cells))
    left, right, bottom = jnp.moveaxis(jnp.take_along_axis(ends, first[..., None], 1), -1, 0)
    boxes = jnp.stack([width - left, first // max(width, 1), right, bottom], -1)
    sizes = jnp.take_along_axis(sizes, first, 1).astype(jnp.int32)

    def padded(rows: Array) -> Array:
        real = (best >= 0).reshape(best.shape + (1,) * (rows.ndim - 2))
        rows = jnp.where(real, rows, 0)
        room = [(0, 0), (0, most - rows.shape[1])] + [(0, 0)] * (rows.ndim - 2)
        return jnp.pad(rows, room).reshape(*images, most, *rows.shape[2:])

    count = (scores >= 0).sum(-1).reshape(images)
    return Components(padded(boxes.astype(jnp.float32)), padded(best), padded(sizes), count)


def _ways(positive: Array, joined: Array) -> list[Array]:
    """For each neighbour, where a cell hangs together with it; all images in one row.

    The row has a zero behind each line of cells, and a line of them behind each image. So a
    neighbour is a fixed step away, no step leads into another image, and XLA compares whole rows of
    memory instead of asking each cell whether it lies at an edge.
    """
    *stack, height, width = positive.shape
    # All that a cell says in one number, bit 8 for positive.
    said = positive.astype(jnp.uint16) << 8
    for k in range(8):
        said |= (joined[..., k] & positive).astype(jnp.uint16) << k
    # With an empty image at both ends as room for the steps: one pad is quicker than two.
    said = jnp.pad(said.reshape(math.prod(stack), height, width), ((1, 1), (0, 1), (0, 1)))
    said, room = said.reshape(-1), (height + 1) * (width + 1)

    def ahead(step: int) -> Array:
        return said[room + step : said.size - room + step]

    ways, own = [], ahead(0)
    for k, step in enumerate(_steps(width)):
        either = (own >> k) | (ahead(step) >> (k + 4) % 8)
        ways.append((either & (own >> 8) & (ahead(step) >> 8) & 1) == 1)
    return ways


def _steps(width: int) -> list[int]:
    """How far ahead in the row each neighbour is."""
    return [dy * (width + 1) + dx for dy, dx in NEIGHBOURS]

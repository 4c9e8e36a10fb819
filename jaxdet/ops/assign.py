"""Which prediction is responsible for which truth?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxdet.ops import overlap
from jaxdet.types import Array


class Assignment(NamedTuple):
    """What every anchor is told. A background anchor has truth 0 and score 0."""

    foreground: Bool[Array, "A"]
    truth: Int[Array, "A"]  # row of the truth
    score: Float[Array, "A"]  # the soft label of the truth's class, in [0, 1]


class Match(NamedTuple):
    """What every prior is told; `truth` is the one it overlaps most, also for background."""

    truth: Int[Array, "A"]  # row of the truth
    label: Int[Array, "A"]  # 0 background, k + 1 class k


def max_iou(
    priors_xyxy: Float[Array, "A 4"],
    truths_xyxy: Float[Array, "M 4"],
    labels: Int[Array, "M"],
    *,
    threshold: float = 0.5,
) -> Match:
    """Each prior takes the truth it overlaps most; one image (Liu 2016, arXiv:1512.02325, 2.2).

    An IoU below `threshold` is background, but every truth has the prior that fits it best, however
    badly; where two truths want the same, the last one has it. Both boxes in one unit; labels of -1
    are padding: they take nothing and want nothing. Without a truth all is background of truth 0.
    Ties go to the first truth and to the first prior: so a truth without area has prior 0.
    """
    count = len(priors_xyxy)
    if len(labels) == 0:
        return Match(jnp.zeros(count, jnp.int32), jnp.zeros(count, jnp.int32))
    labels = jnp.asarray(labels)
    real = labels >= 0
    close = jnp.where(real[:, None], overlap.iou(truths_xyxy, priors_xyxy), -1.0)
    # A row behind the last is dropped; the largest number of equals is the last truth.
    favourite = jnp.where(real, jnp.argmax(close, axis=1), count)
    order = jnp.arange(len(labels), dtype=jnp.int32)
    forced = jnp.full(count, -1, jnp.int32).at[favourite].max(order, mode="drop")
    truth = jnp.where(forced >= 0, forced, jnp.argmax(close, axis=0).astype(jnp.int32))
    found = (forced >= 0) | (close.max(axis=0) >= threshold)
    return Match(truth, jnp.where(found, labels[truth] + 1, 0).astype(jnp.int32))


def task_aligned(
    boxes_xyxy: Float[Array, "A 4"],
    probs: Float[Array, "A K"],
    centres_px: Float[Array, "A 2"],
    truths_xyxy: Float[Array, "M 4"],
    labels: Int[Array, "M"],
    *,
    top_k: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    smallest_px: float = 0.0,
) -> Assignment:
    """Task-aligned assignment (TOOD, Feng 2021, arXiv:2108.07755, Eq. 3) as in YOLOv8; one image.

    Each truth takes the `top_k` anchors inside its box with the best probability^alpha * CIoU^beta;
    an anchor wanted by several truths goes to the one it overlaps most. Boxes in px; labels of -1
    are padding and take nothing. No gradient flows.

    Ties: the lowest anchor first. As in the reference there is no minimum alignment: when fewer
    than `top_k` anchors align at all, the first anchors of the image fill the list, and those of
    them that lie in the box become foreground with score 0.

    `smallest_px`: sides below it are widened to it in the in-box test alone (ultralytics since 8.4:
    16); 0 is the classic rule.
    """
    boxes_xyxy, probs = jax.lax.stop_gradient((boxes_xyxy, probs))
    real = labels >= 0
    inside = _inside(centres_px, truths_xyxy, smallest_px) & real[:, None]
    close = jnp.maximum(overlap.ciou(truths_xyxy[:, None], boxes_xyxy[None]), 0.0)
    close = jnp.where(inside, close, 0.0)
    class_probs = jnp.take(probs, jnp.maximum(labels, 0), axis=1).T
    align = jnp.where(inside, class_probs**alpha * close**beta, 0.0)

    wanted = _best(align, top_k) & inside
    # An anchor wanted more than once goes to the truth it overlaps most, among all truths.
    contested = wanted.sum(axis=0) > 1
    winner = jax.nn.one_hot(jnp.argmax(close, axis=0), len(labels), axis=0, dtype=bool)
    taken = jnp.where(contested[None], winner, wanted)

    # The best anchor of a truth is told that truth's best CIoU, the others in proportion (Eq. 4).
    align = jnp.where(taken, align, 0.0)
    best_close = jnp.max(jnp.where(taken, close, 0.0), axis=1, keepdims=True)
    best_align = jnp.max(align, axis=1, keepdims=True)
    score = jnp.max(align * best_close / (best_align + 1e-9), axis=0)
    return Assignment(taken.any(axis=0), jnp.argmax(taken, axis=0).astype(jnp.int32), score)


def _inside(centres_px: Array, truths_xyxy: Array, smallest_px: float) -> Array:
    """Which centres lie strictly inside which truths, [A, 2] x [M, 4] -> [M, A]."""
    low, high = truths_xyxy[:, :2], truths_xyxy[:, 2:]
    if smallest_px > 0:
        middle, half = (low + high) / 2, (high - low) / 2
        half = jnp.where(high - low < smallest_px, smallest_px / 2, half)
        low, high = middle - half, middle + half
    # Four comparisons, not the least of four margins: XLA reduces a short axis slowly on CPU.
    x, y = centres_px[None, :, 0], centres_px[None, :, 1]
    across = (x - low[:, :1] > 1e-9) & (high[:, :1] - x > 1e-9)
    return across & (y - low[:, 1:] > 1e-9) & (high[:, 1:] - y > 1e-9)


def _best(align: Array, top_k: int) -> Array:
    """Marks the `top_k` largest of each row, [M, A] -> bool [M, A]; ties go to the lower index."""
    _, index = jax.lax.top_k(align, min(top_k, align.shape[1]))
    rows = jnp.arange(align.shape[0])[:, None]
    return jnp.zeros(align.shape, bool).at[rows, index].set(True)

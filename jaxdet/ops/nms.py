"""Which of many overlapping detections stay?"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxdet.ops import overlap
from jaxdet.types import Array, Detections


def candidates(
    probs: Float[Array, "A K"], *, limit: int, multi_label: bool
) -> tuple[Float[Array, "N"], Int[Array, "N"], Int[Array, "N"]]:
    """The `limit` most probable (anchor, class) pairs: scores, anchors, labels, by falling score.

    With `multi_label` an anchor may answer with every class, without it only with its best one (the
    first of equals). Ties keep anchor order. N = min(limit, what there is).
    """
    num_classes = probs.shape[1]
    if multi_label and num_classes > 1:
        flat = probs.reshape(-1)
        scores, index = jax.lax.top_k(flat, min(limit, flat.shape[0]))
        return scores, index // num_classes, index % num_classes
    best = probs.max(axis=1)
    scores, anchors = jax.lax.top_k(best, min(limit, best.shape[0]))
    return scores, anchors, jnp.argmax(probs[anchors], axis=1)


def greedy(
    boxes_xyxy: Float[Array, "N 4"],
    scores: Float[Array, "N"],
    labels: Int[Array, "N"],
    *,
    iou_threshold: float,
    max_detections: int,
    per_class: bool = True,
) -> Detections:
    """Greedy hard suppression of one image: take the best, drop what overlaps it, repeat.

    A box goes when its IoU with a better box, of its own class if `per_class`, is strictly above
    `iou_threshold`. Scores of 0 or less are no candidates. The answer has a fixed `max_detections`
    rows by falling score; ties keep the given order. The loop runs as often as detections are
    found, and no N x N table is made.
    """
    boxes_xyxy, scores, labels = map(jnp.asarray, (boxes_xyxy, scores, labels))

    def unfinished(state):
        count, alive, _ = state
        return (count < max_detections) & (alive.max() > 0)

    def take(state):
        count, alive, keep = state
        best = jnp.argmax(alive)
        near = overlap.iou(boxes_xyxy[best][None], boxes_xyxy)[0] > iou_threshold
        if per_class:
            near &= labels == labels[best]
        # The box itself goes too, also when it is empty and its IoU with itself is 0.
        gone = near | (jnp.arange(len(alive)) == best)
        return count + 1, jnp.where(gone, 0.0, alive), keep.at[count].set(best)

    start = (0, jnp.maximum(scores, 0.0), jnp.full(max_detections, -1, jnp.int32))
    _, _, keep = jax.lax.while_loop(unfinished, take, start)
    found = keep >= 0
    return Detections(
        jnp.where(found[:, None], boxes_xyxy[keep], 0.0),
        jnp.where(found, scores[keep], 0.0),
        jnp.where(found, labels[keep], -1).astype(jnp.int32),
    )

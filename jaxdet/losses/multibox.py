"""SSD's loss: where are the boxes, what are they, and which background is worth a look?"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxdet.ops import assign, replicas
from jaxdet.ops.deltas import corners, encode
from jaxdet.types import Array


def multibox(
    deltas: Float[Array, "B A 4"],
    class_logits: Float[Array, "B A L"],
    priors_cxcywh: Float[Array, "A 4"],
    boxes_xyxy: Float[Array, "B M 4"],
    labels: Int[Array, "B M"],
    *,
    neg_ratio: float = 3.0,
    threshold: float = 0.5,
) -> dict[str, Array]:
    """Smooth L1 of the positives "box", cross-entropy "class", and their sum "total" (SSD, Eq. 1).

    Logit 0 is background: L = K + 1. Truths are fractions of the image, labels of -1 pad. The class
    part sums over the positives and over the worst of the background, `neg_ratio` for each positive
    of the same image. Both parts are divided by the positives of the whole batch of all replicas;
    on a replica the values are its share times the number of replicas, so that their mean over the
    replicas is the value of the whole batch. Always float32.

    An image without boxes mines no background; a batch of such has both parts exactly 0, and all
    gradients 0 (departs: the reference divides by 0). A label that no logit stands for gives NaN.
    """
    deltas, class_logits = deltas.astype(jnp.float32), class_logits.astype(jnp.float32)
    # One row of padding more: then there is something to take, also where M is 0.
    boxes_xyxy = jnp.pad(boxes_xyxy, ((0, 0), (0, 1), (0, 0)))
    labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=-1)

    match = functools.partial(assign.max_iou, threshold=threshold)
    told = jax.vmap(match, in_axes=(None, 0, 0))(corners(priors_cxcywh), boxes_xyxy, labels)
    positive = told.label > 0
    truth = jnp.take_along_axis(boxes_xyxy, told.truth[..., None], axis=1)
    off = _smooth_l1(deltas - encode(truth, priors_cxcywh)).sum(axis=-1)
    log_probs = jax.nn.log_softmax(class_logits, axis=-1)
    surprise = -jnp.take_along_axis(log_probs, told.label[..., None], axis=-1)[..., 0]
    counted = positive | hard_negatives(surprise, positive, neg_ratio)

    replica_count = replicas.count()
    norm = jnp.maximum(replicas.mean(positive.sum()) * replica_count, 1.0) / replica_count
    box = jnp.where(positive, off, 0.0).sum() / norm
    cls = jnp.where(counted, surprise, 0.0).sum() / norm
    return {"box": box, "class": cls, "total": box + cls}


def hard_negatives(
    surprise: Float[Array, "*B A"], positive: Bool[Array, "*B A"], ratio: float
) -> Bool[Array, "*B A"]:
    """The `ratio` * positives background priors of each image that surprise most.

    As in the reference the positives take part with a surprise of 0, and at most A - 1 ranks are
    given away: so a positive may be marked, where all background is known without doubt. Ties go
    to the earlier prior. No gradient flows.
    """
    count = positive.shape[-1]
    surprise = jax.lax.stop_gradient(jnp.where(positive, 0.0, surprise))
    order = jnp.argsort(surprise, axis=-1, stable=True, descending=True)
    most = jnp.minimum(ratio * positive.sum(axis=-1, keepdims=True), count - 1)
    within = jnp.broadcast_to(jnp.arange(count) < most, order.shape)
    marked = jnp.zeros(order.shape, bool)
    return jnp.put_along_axis(marked, order, within, axis=-1, inplace=False)


def _smooth_l1(x: Array) -> Array:
    """x^2 / 2 up to 1, then |x| - 1/2 (Girshick 2015, arXiv:1504.08083, Eq. 3)."""
    away = jnp.abs(x)
    return jnp.where(away < 1, away * away / 2, away - 0.5)

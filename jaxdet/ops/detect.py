"""What did SSD find?"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.ops import nms
from jaxdet.ops.deltas import decode
from jaxdet.types import Array, Detections


def ssd(
    class_logits: Float[Array, "A L"],
    deltas: Float[Array, "A 4"],
    priors_cxcywh: Float[Array, "A 4"],
    image_size: int,
    *,
    score_threshold: float = 0.01,
    iou_threshold: float = 0.45,
    candidates: int = 200,
    max_detections: int = 200,
) -> Detections:
    """The boxes of one image after suppression, in px of an image of `image_size`; not clipped.

    Logit 0 is background: L = K + 1, and class k speaks through logit k + 1. Of each class the
    `candidates` most probable priors with a probability strictly above `score_threshold` enter, and
    a box goes when its IoU with a better one of its class is strictly above `iou_threshold`. The
    best `max_detections` of all classes stay, by falling score; ties: the lower class, then the
    earlier prior. A prior may answer with several classes. A probability of NaN is no candidate.
    As in the reference's Detect (facts, gssd_reference 3.5), which keeps a table for each class.
    """
    probs = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)[:, 1:]
    probs = jnp.where(probs > score_threshold, probs, 0.0)
    scores, prior = jax.lax.top_k(probs.T, min(candidates, len(probs)))  # [K, N]
    labels = jnp.broadcast_to(jnp.arange(len(scores))[:, None], scores.shape)
    deltas, priors_cxcywh = jnp.asarray(deltas, jnp.float32), jnp.asarray(priors_cxcywh)
    boxes = decode(deltas[prior.reshape(-1)], priors_cxcywh[prior.reshape(-1)])
    # Classes do not touch one another, so one loop over all of them finds the merged list.
    found = nms.greedy(
        boxes,
        scores.reshape(-1),
        labels.reshape(-1),
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )
    return found._replace(boxes_xyxy=found.boxes_xyxy * image_size)

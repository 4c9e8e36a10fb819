"""PixelLink's loss: which cells are lesion, and which of them belong together?"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxdet.ops.links import Targets
from jaxdet.types import Array


def pixel_link(
    pixel_logits: Float[Array, "B H W 2"],
    link_logits: Float[Array, "B H W 16"],
    targets: Targets,
    *,
    neg_ratio: float = 3.0,
    none: int = 10000,
) -> dict[str, Array]:
    """Cross-entropy of cells "pixel" and of links "link", "total" = 2 pixel + link; float32.

    As in the official code (facts, gssd_reference 4.5; Deng 2018, arXiv:1801.01315, Eq. 1 to 6),
    each image for itself and then the mean over the images: so on replicas of equal size the mean
    over the replicas is that of the whole batch.
    pixel   positive cells by their weight, and the `neg_ratio` times as many negative ones that are
            mistaken most (`none` where nothing is positive, at most all); divided by both counts
    link    of the positive cells by their weight, true links and others each divided by the sum of
            their weights; logits 2k no and 2k + 1 yes
    An image without positive cells has only negative ones to learn from, and link 0; one without
    negative cells only positive ones. Cells of several lesions count for nothing.
    """
    pixel_logits = pixel_logits.astype(jnp.float32)
    pixels = jax.nn.log_softmax(pixel_logits, axis=-1)
    told = jnp.where(targets.positive, -targets.weight * pixels[..., 1], 0.0).sum(axis=(1, 2))
    area = targets.positive.sum(axis=(1, 2))
    wanted = jnp.where(area > 0, jnp.floor(neg_ratio * area), none).astype(jnp.int32)
    count = jnp.minimum(wanted, targets.negative.sum(axis=(1, 2)))
    hard = hard_negatives(jax.nn.softmax(pixel_logits)[..., 0], targets.negative, count)
    told += jnp.where(hard, -pixels[..., 0], 0.0).sum(axis=(1, 2))
    pixel = (told / jnp.maximum(area + count, 1)).mean()

    links = link_logits.astype(jnp.float32).reshape(*link_logits.shape[:-1], 8, 2)
    surprise = -jax.nn.log_softmax(links, axis=-1)
    weight = jnp.where(targets.positive, targets.weight, 0.0)[..., None]
    yes = _mean(surprise[..., 1], weight * targets.links)
    no = _mean(surprise[..., 0], weight * ~targets.links)
    link = (yes + no).mean()
    return {"pixel": pixel, "link": link, "total": 2 * pixel + link}


def hard_negatives(
    probs: Float[Array, "B H W"], negative: Bool[Array, "B H W"], count: Int[Array, "B"]
) -> Bool[Array, "B H W"]:
    """The `count` negative cells of each image that are least sure of being background.

    Ties with the last of them come along, as in the reference: there are many where probabilities
    round to 1. `probs` are of the background; no gradient flows.
    """
    probs = jax.lax.stop_gradient(probs)
    ranked = jnp.sort(jnp.where(negative, probs, jnp.inf).reshape(len(probs), -1), axis=-1)
    last = jnp.take_along_axis(ranked, jnp.maximum(count - 1, 0)[:, None], axis=1)
    return negative & (probs <= last[..., None]) & (count > 0)[:, None, None]


def _mean(values: Float[Array, "B H W 8"], weight: Float[Array, "B H W 8"]) -> Float[Array, "B"]:
    """The weighted mean of each image; 0 where there is no weight."""
    total = weight.sum(axis=(1, 2, 3))
    summed = (values * weight).sum(axis=(1, 2, 3))
    return jnp.where(total > 0, summed / jnp.where(total > 0, total, 1.0), 0.0)

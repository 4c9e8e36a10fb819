"""Distribution focal loss: a box side as a distribution over whole distances."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.types import Array


def expectation(logits: Float[Array, "*B L"], bins: int = 16) -> Float[Array, "*B 4"]:
    """The mean of each side's distribution, in cells: left, top, right, bottom.

    `logits` are 4 * bins channels, side-major, `bins` a side, bin i meaning a distance of i cells.
    """
    probs = jax.nn.softmax(logits.reshape(*logits.shape[:-1], 4, bins), axis=-1)
    return probs @ jnp.arange(bins, dtype=probs.dtype)


def dfl(
    logits: Float[Array, "*B L"], sides: Float[Array, "*B 4"], bins: int = 16
) -> Float[Array, "*B"]:
    """Cross-entropy of each side against its true distance, mean over the four sides.

    A distance between two bins is shared by them in proportion (Li 2020, arXiv:2006.04388, Eq. 6).
    `sides` are in cells and are clipped to [0, bins - 1.01]: nothing longer can be told.
    """
    sides = jnp.clip(sides, 0.0, bins - 1 - 0.01)
    # A hat of width one puts the two neighbouring bins' shares where they belong without a gather.
    share = jnp.maximum(1.0 - jnp.abs(sides[..., None] - jnp.arange(bins)), 0.0)
    log_probs = jax.nn.log_softmax(logits.reshape(*logits.shape[:-1], 4, bins), axis=-1)
    return -(share * log_probs).sum(axis=-1).mean(axis=-1)

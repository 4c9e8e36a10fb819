"""Binary cross-entropy on logits."""

import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.types import Array


def bce(logits: Float[Array, "*B"], target: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """-[t log p + (1 - t) log(1 - p)] with p = sigmoid(logit), for any target in [0, 1].

    Stable at both ends: max(x, 0) - x t + log(1 + exp(-|x|)).
    """
    return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))

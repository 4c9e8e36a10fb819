"""How does a box differ from its prior, as SSD's heads say it?

    ((centre - prior centre) / prior side / 0.1, log(side / prior side) / 0.2)

Liu 2016, arXiv:1512.02325, Eq. 2, with the variances of its code. Boxes are fractions of the image;
leading axes broadcast, so one set of priors serves a batch.
"""

import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.types import Array

CENTRE_VARIANCE, SIDE_VARIANCE = 0.1, 0.2
SMALLEST = 1e-6  # fraction of the image; its logarithm is as long as any can get
MOST_GROWTH = 10.0  # e^10 priors a side: far beyond any image, and no overflow


def corners(boxes_cxcywh: Float[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """(centre x, centre y, width, height) to xyxy, in the same unit."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def encode(
    truths_xyxy: Float[Array, "*T 4"], priors_cxcywh: Float[Array, "*A 4"]
) -> Float[Array, "*TA 4"]:
    """What a prior should say of the truth that stands opposite it.

    Departs: sides below SMALLEST count as SMALLEST, so that padding (four zeros) and inverted boxes
    give finite numbers and gradients where the reference has log(0).
    """
    low, high = truths_xyxy[..., :2], truths_xyxy[..., 2:]
    centre, side = priors_cxcywh[..., :2], priors_cxcywh[..., 2:]
    away = ((low + high) / 2 - centre) / (CENTRE_VARIANCE * side)
    growth = jnp.log(jnp.maximum(high - low, SMALLEST) / side) / SIDE_VARIANCE
    return jnp.concatenate([away, growth], axis=-1)


def decode(
    deltas: Float[Array, "*D 4"], priors_cxcywh: Float[Array, "*A 4"]
) -> Float[Array, "*DA 4"]:
    """The boxes that the priors' answers mean, xyxy; the inverse of `encode`. Not clipped.

    Departs: a side ends at e^MOST_GROWTH times the prior's, where the reference runs to infinity.
    """
    centre, side = priors_cxcywh[..., :2], priors_cxcywh[..., 2:]
    centre = centre + deltas[..., :2] * CENTRE_VARIANCE * side
    side = side * jnp.exp(jnp.minimum(deltas[..., 2:] * SIDE_VARIANCE, MOST_GROWTH))
    return corners(jnp.concatenate([centre, side], axis=-1))

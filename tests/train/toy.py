"""A detector of one convolution, so that steps compile in no time. It obeys the whole contract."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdet.models.detector import Detector
from jaxdet.nn.conv import ConvNorm
from jaxdet.ops import replicas
from jaxdet.types import Array, Batch, Detections


class Outputs(NamedTuple):
    """One number an image."""

    value: Array


class Toy(nn.Module):
    """Mean of one normalised convolution."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = ConvNorm(4, 3, name="stem")(x, train=train)
        return Outputs(nn.Dense(1, name="head")(x.mean((1, 2)))[:, 0])


def loss(out: Outputs, batch: Batch):
    """Squared error against the number of boxes, over the boxes of the whole batch."""
    count = (batch.labels >= 0).sum(axis=1)
    norm = jnp.maximum(replicas.mean(1.0 * count.sum()), 1.0)
    total = ((out.value - count) ** 2).sum() / norm
    return {"part": total / 2, "total": total}


def decode(out: Outputs):
    """One detection an image."""
    score = nn.sigmoid(out.value)[:, None]
    boxes = jnp.broadcast_to(jnp.array([0.0, 0, 4, 4]), (*score.shape, 4))
    return Detections(boxes, score, jnp.zeros(score.shape, jnp.int32))


DETECTOR = Detector(Toy(), loss, decode)


def batch(seed: int, size: int = 8) -> Batch:
    """A random batch of 8x8 images."""
    rng = np.random.default_rng(seed)
    return Batch(
        rng.uniform(0, 1, (size, 8, 8, 3)).astype(np.float32),
        np.zeros((size, 3, 4), np.float32),
        rng.integers(-1, 1, (size, 3)).astype(np.int32),
        np.arange(size, dtype=np.int32),
    )

"""What brings features to a size: batch normalisation, L2 over channels, spectral normalisation.

Running statistics and singular vectors live in the collection "batch_stats", as Flax has it.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.ops import replicas
from jaxdet.types import Array

MOMENTUM, EPSILON = 0.9, 1e-5  # PyTorch's own: new = 0.9 old + 0.1 batch
L2_EPSILON = 1e-10
TINY = 1e-12  # least norm that a vector is divided by


class BatchNorm(nn.Module):
    """Batch normalisation as PyTorch has it: the running variance is the unbiased one.

    Statistics are over batch and places of all replicas, in float32; x keeps its dtype. One value a
    channel has no unbiased variance: the biased one, 0, is kept there.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """`train`: by the statistics of this batch, which update the kept ones."""
        features = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        kept_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        kept_var = self.variable("batch_stats", "var", jnp.ones, features)
        mean, var = kept_mean.value, kept_var.value
        if train:
            # In two passes: x^2 - mean^2 would lose the small variances of the last maps.
            wide = x.astype(jnp.float32)
            mean = replicas.mean(wide.mean((0, 1, 2)))
            var = replicas.mean(jnp.square(wide - mean).mean((0, 1, 2)))
            if not self.is_initializing():
                count = x.size // x.shape[-1] * replicas.count()
                unbiased = var * (count / max(count - 1, 1))
                kept_mean.value = MOMENTUM * kept_mean.value + (1 - MOMENTUM) * mean
                kept_var.value = MOMENTUM * kept_var.value + (1 - MOMENTUM) * unbiased
        factor = scale * jax.lax.rsqrt(var + EPSILON)
        return (x.astype(jnp.float32) * factor + (bias - mean * factor)).astype(x.dtype)


class NoNorm(nn.Module):
    """x as it came; no parameters."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """The identity."""
        return x


NORM: dict[str, Any] = {"batch": BatchNorm, "none": NoNorm}


class L2Norm(nn.Module):
    """x over the length of its vector of channels, times a scale a channel that starts at 20.

    Liu 2015, ParseNet; in SSD on conv4_3. A vector of zeros stays, with a gradient of 0.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Every place by itself, in float32; x keeps its dtype."""
        scale = self.param("scale", nn.initializers.constant(20.0), x.shape[-1:])
        wide = x.astype(jnp.float32)
        square = jnp.square(wide).sum(-1, keepdims=True)
        some = square > 0
        length = jnp.sqrt(jnp.where(some, square, 1.0)) + L2_EPSILON
        return jnp.where(some, wide / length * scale, 0.0).astype(x.dtype)


class Spectral(nn.Module):
    """A kernel divided by its largest singular value, estimated as PyTorch's spectral_norm does.

    The kernel is [..., I, O], seen as the matrix [O, the rest]. Training takes one step of power
    iteration from the kept vectors, without gradient; evaluation takes the kept vectors. They are
    drawn at random and not converged at the start (facts, gssd_reference 2.2).
    Departs: kept vectors are brought to length 1 in evaluation, so that a moving average of them
    means the same.
    """

    @nn.compact
    def __call__(self, kernel: Float[Array, "h w I O"], *, train: bool) -> Float[Array, "h w I O"]:
        """The kernel over u^T W v, through which the gradient flows too (u and v are constants)."""
        matrix = kernel.reshape(-1, kernel.shape[-1]).T  # [O, rest]
        u = self.variable("batch_stats", "u", self._random, matrix.shape[0])
        v = self.variable("batch_stats", "v", self._random, matrix.shape[1])
        left, right = _unit(u.value), _unit(v.value)
        if train:
            fixed = jax.lax.stop_gradient(matrix)
            right = _unit(_product(fixed.T, u.value))
            left = _unit(_product(fixed, right))
            if not self.is_initializing():
                u.value, v.value = left, right
        return kernel / jnp.dot(left, _product(matrix, right))

    def _random(self, size: int) -> Array:
        return _unit(jax.random.normal(self.make_rng("params"), (size,)))


def _product(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), TINY)

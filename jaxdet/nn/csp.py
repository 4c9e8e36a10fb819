"""Cross-stage-partial blocks: split the channels, refine one part, join every step."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.nn import pool
from jaxdet.nn.conv import ConvNorm
from jaxdet.types import Array


class Bottleneck(nn.Module):
    """Two 3x3 convolutions at equal width, added to the input when `shortcut`."""

    shortcut: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """The sides stay; so do the channels."""
        y = ConvNorm(x.shape[-1], 3, dtype=self.dtype, name="conv1")(x, train=train)
        y = ConvNorm(x.shape[-1], 3, dtype=self.dtype, name="conv2")(y, train=train)
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """YOLOv8's stage: half the channels pass `blocks` bottlenecks in a row; all are joined."""

    features: int
    blocks: int
    shortcut: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W F"]:
        """The sides stay; the channels become `features`."""
        half = self.features // 2
        x = ConvNorm(2 * half, dtype=self.dtype, name="split")(x, train=train)
        parts = [x[..., :half], x[..., half:]]
        for i in range(self.blocks):
            block = Bottleneck(self.shortcut, self.dtype, name=f"block_{i}")
            parts.append(block(parts[-1], train=train))
        joined = jnp.concatenate(parts, axis=-1)
        return ConvNorm(self.features, dtype=self.dtype, name="merge")(joined, train=train)


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast: three 5x5 max pools in a row see 5, 9 and 13 cells."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W F"]:
        """The sides stay; the channels become `features`."""
        parts = [ConvNorm(x.shape[-1] // 2, dtype=self.dtype, name="reduce")(x, train=train)]
        for _ in range(3):
            parts.append(pool.around(parts[-1], 5))
        joined = jnp.concatenate(parts, axis=-1)
        return ConvNorm(self.features, dtype=self.dtype, name="merge")(joined, train=train)


def upsample2(x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
    """Every pixel becomes 2x2 equal ones."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)

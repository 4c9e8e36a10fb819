"""Where the phases come together: channel fusion by 1x1 convolutions (Lee 2018, Fig. 3).

FUSE maps a config word to a part, `part(x, train=train)`, that keeps the number of channels.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.nn.grouped import FLOAT32, ConvReLU
from jaxdet.types import Array


class NoFuse(nn.Module):
    """x as it came; no parameters."""

    norm: Literal["batch", "none"] = "batch"
    relu: bool = True
    dtype: jnp.dtype = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """The identity."""
        return x


class Fuse(nn.Module):
    """A dense 1x1 convolution, started by Xavier's rule, with its normalisation and ReLU."""

    norm: Literal["batch", "none"] = "batch"
    relu: bool = True
    dtype: jnp.dtype = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """C stays."""
        made = {"norm": self.norm, "relu": self.relu, "dtype": self.dtype, "start": "xavier"}
        return ConvReLU(x.shape[-1], 1, **made, name="conv1x1")(x, train=train)


FUSE: dict[str, Any] = {"none": NoFuse, "conv1x1": Fuse}

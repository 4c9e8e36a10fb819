"""Convolutions that keep groups of channels apart, such as the phases of a CT.

XLA's own grouped convolution is many times slower on a CPU than one convolution a group, forward
and back (scripts/bench/gssd.py), and of few channels one dense convolution is quicker still; on an
accelerator XLA's own is one kernel. Kernels are [h, w, I / groups, O] in every way, so a checkpoint
does not know which was used.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxdet.nn.conv import torch_default
from jaxdet.nn.norm import NORM
from jaxdet.types import Array

Grouping = Literal["auto", "native", "split", "diagonal"]
Start = Literal["torch", "xavier", "he"]
FLOAT32 = jnp.dtype("float32")
FEW = 8  # inputs a group: up to here zeros cost less than more convolutions (scripts/bench/gssd.py)
LAST = ("NHWC", "HWIO", "NHWC")  # channels last
# Xavier's fan out counts all outputs of a grouped kernel, as PyTorch's does.
KERNELS = {
    "torch": torch_default,
    "xavier": nn.initializers.xavier_uniform(),
    "he": nn.initializers.he_uniform(),
}


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "h w I O"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    grouping: Grouping = "auto",
) -> Float[Array, "B H2 W2 O"]:
    """Convolution in C / I groups: each sees its own C / groups inputs and gives O / groups.

    grouping: native is one program of XLA, split one a group, diagonal a dense one whose kernel is
    0 between groups. auto is native, and on a CPU split, or diagonal for groups of few channels.
    The numbers are the same to rounding.
    """
    groups = x.shape[-1] // kernel.shape[2]
    if groups * kernel.shape[2] != x.shape[-1] or kernel.shape[3] % max(groups, 1):
        raise ValueError(
            f"a kernel {kernel.shape} wants a multiple of {kernel.shape[2]} channels, and as many "
            f"groups as divide {kernel.shape[3]}; got {x.shape[-1]} channels"
        )

    def plain(x: Array, kernel: Array, groups: int) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=LAST,
            feature_group_count=groups,
        )

    way = _way(grouping, kernel.shape[2]) if groups > 1 else "native"
    if way == "native":
        return plain(x, kernel, groups)
    if way == "diagonal":
        return plain(x, _diagonal(kernel, groups), 1)
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([plain(a, b, 1) for a, b in parts], -1)


def _way(grouping: Grouping, inputs: int) -> Grouping:
    if grouping != "auto":
        return grouping
    if jax.default_backend() != "cpu":
        return "native"
    return "diagonal" if inputs <= FEW else "split"


def _diagonal(kernel: Array, groups: int) -> Float[Array, "h w C O"]:
    """[h, w, C / groups, O] as the kernel of all C inputs, 0 where the groups differ."""
    h, w, inputs, outputs = kernel.shape
    group_of = jnp.arange(outputs) // (outputs // groups)
    mine = (jnp.arange(groups)[:, None, None] == group_of).astype(kernel.dtype)  # [G, 1, O]
    return (kernel[:, :, None] * mine).reshape(h, w, groups * inputs, outputs)


class Conv(nn.Module):
    """Convolution with bias, [B, H, W, C] -> [B, H2, W2, features], padded by kernel // 2.

    `start`: torch draws kernel and bias from U(+-1/sqrt(fan in)), as PyTorch does by itself;
    xavier draws the kernel by Xavier's rule and starts the bias at 0; he draws it by He's of the
    fan in (2015, arXiv:1502.01852), which keeps the scale through ReLUs; zero starts both at 0.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    padding: int | None = None  # None: kernel // 2 times the dilation
    dilation: int = 1
    groups: int = 1
    dtype: jnp.dtype = FLOAT32
    start: Literal["torch", "xavier", "he", "zero"] = "torch"
    grouping: Grouping = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 F"]:
        """C and features are multiples of `groups`, else ValueError."""
        inputs = x.shape[-1]
        if inputs % self.groups or self.features % self.groups:
            raise ValueError(
                f"{inputs} channels to {self.features} do not divide into {self.groups} groups"
            )
        shape = (self.kernel, self.kernel, inputs // self.groups, self.features)
        fan_in = self.kernel**2 * inputs // self.groups
        kernel = self.param("kernel", KERNELS.get(self.start, nn.initializers.zeros), shape)
        bias = self.param("bias", bias_start(self.start, fan_in), (self.features,))
        pad = self.kernel // 2 * self.dilation if self.padding is None else self.padding
        y = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=pad,
            dilation=self.dilation,
            grouping=self.grouping,
        )
        return y + bias.astype(self.dtype)


def bias_start(start: str, fan_in: int) -> Callable[..., Array]:
    """What a bias starts as: PyTorch's own draw for "torch", else zeros."""
    if start != "torch":
        return nn.initializers.zeros

    def draw(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / fan_in**0.5

    return draw


class ConvReLU(nn.Module):
    """Convolution with bias -> batch normalisation or none -> ReLU: what VGG is made of."""

    features: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    norm: Literal["batch", "none"] = "batch"
    relu: bool = True
    dtype: jnp.dtype = FLOAT32
    start: Start = "torch"
    grouping: Grouping = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H2 W2 F"]:
        """`train`: by the statistics of the batch of all replicas."""
        x = Conv(
            self.features,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.dtype,
            self.start,
            self.grouping,
            name="conv",
        )(x)
        x = NORM[self.norm](name="norm")(x, train=train)
        return nn.relu(x) if self.relu else x


def scaled(width: float, features: int, *places: int, **made: Any) -> ConvReLU:
    """A ConvReLU of `width` times the features, at least one."""
    return ConvReLU(max(round(features * width), 1), *places, **made)

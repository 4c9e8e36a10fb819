"""Attention on one feature map: look again at where, and at which channels, something is.

`ATTENTION` maps a config word to a part. Every part is called alike, `part(x, train=train)`, and
gives back the shape and dtype of x; none of them keeps statistics or drops anything, so training
and evaluation agree. Every part takes `dtype`, of its convolutions and projections (means, gates,
layer norms and softmax are float32), and `position`, which self-attention alone reads.

Kernels of convolutions and linear layers start as PyTorch's do. The papers name no start; biases
start at 0, which PyTorch does for its attention and not for its linear layers.

Not built: self-attention in CSP form (attention in place of the bottlenecks of the deepest C2f, as
ViT-YOLO has it), and MTNet at the input (its segmentation of the lesion as a fourth channel of the
image).
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdet.nn.conv import torch_default
from jaxdet.types import Array

Position = Literal["none", "sincos"]

FLOAT32 = jnp.dtype("float32")

REDUCTION = 16  # channels for each hidden unit of channel attention
HEADS = 8
EXPANSION = 4  # hidden units of the encoder's MLP for each channel

# PyTorch draws query, key and value as one matrix [3C, C], by Xavier's rule: U(+-sqrt(6 / 4C)).
joint_xavier = nn.initializers.variance_scaling(1 / 2, "fan_in", "uniform")


class NoAttention(nn.Module):
    """x as it came; no parameters."""

    dtype: jnp.dtype = FLOAT32
    position: Position = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """The identity."""
        return x


class ChannelAttention(nn.Module):
    """x times one gate in (0, 1) an image and channel, the channel attention of CBAM.

    sigmoid(W2 relu(W1 mean(x)) + W2 relu(W1 max(x))), over the places of the image (Woo 2018,
    Eq. 2). One W1 [C, C / 16] and one W2 serve both pools, without biases: C^2 / 8 parameters,
    12,800 at 320 channels. Of equal largest values each gets its share of the gradient.
    """

    dtype: jnp.dtype = FLOAT32
    position: Position = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """C is a multiple of 16, else ValueError."""
        _check_multiple(x, REDUCTION, "channel attention")
        mean, largest = x.mean((1, 2), dtype=jnp.float32), x.max((1, 2)).astype(jnp.float32)
        pools = jnp.stack([mean, largest], axis=1)[:, :, None]  # [B, 2, 1, C]
        hidden = nn.relu(_conv(x.shape[-1] // REDUCTION, 1, self.dtype, "reduce")(pools))
        logits = _conv(x.shape[-1], 1, self.dtype, "expand")(hidden).astype(jnp.float32)
        return _gated(x, logits.sum(axis=1, keepdims=True))


class SpatialAttention(nn.Module):
    """x times one gate in (0, 1) an image and place, the spatial attention of CBAM.

    sigmoid of a 7x7 convolution without bias over [mean, max] of the channels (Woo 2018, Eq. 3):
    98 parameters at any width. Outside the map there are zeros.
    """

    dtype: jnp.dtype = FLOAT32
    position: Position = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """Sides and channels stay."""
        mean, largest = x.mean(-1, dtype=jnp.float32), x.max(-1).astype(jnp.float32)
        pools = jnp.stack([mean, largest], axis=-1)
        return _gated(x, _conv(1, 7, self.dtype, "conv")(pools))


class CBAM(nn.Module):
    """Channel attention, then spatial attention on what it gives (Woo 2018)."""

    dtype: jnp.dtype = FLOAT32
    position: Position = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """C is a multiple of 16, else ValueError."""
        x = ChannelAttention(self.dtype, name="channel")(x, train=train)
        return SpatialAttention(self.dtype, name="spatial")(x, train=train)


class TriAttention(nn.Module):
    """(CBAM(x) + SA(x) + CA(x)) / 3, the three attentions of MTNet's decoders (Zhong 2023).

    The branches share nothing: CBAM has its own channel and spatial parts. Inside each channel part
    the two pools share their layers. So C^2 / 4 + 196 parameters: 25,796 at 320 channels, 102,596
    at 640. Gates start near 1/2, so that x leaves at less than half its size; there is no residual
    that makes up for it, and the batch normalisation that follows in YOLOv8 takes it in.
    Departs: MTNet has a decoder for each, whose masks are averaged; here it is their features.
    """

    dtype: jnp.dtype = FLOAT32
    position: Position = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """C is a multiple of 16, else ValueError."""
        both = CBAM(self.dtype, name="cbam")(x, train=train)
        spatial = SpatialAttention(self.dtype, name="spatial")(x, train=train)
        channel = ChannelAttention(self.dtype, name="channel")(x, train=train)
        return (both + spatial + channel) / 3


class SelfAttention(nn.Module):
    """One pre-norm transformer encoder over the H * W places: x + MHA(LN x), then x + MLP(LN x).

    8 heads; the MLP widens four times, with the exact GELU; no dropout; LN has epsilon 1e-5. All
    projections have biases: 12 C^2 + 13 C parameters, 4,923,520 at 640 channels. (That of the
    keys, which PyTorch has too, moves all logits of a query alike and so changes nothing.)
    `position` "sincos" adds `sincos` to queries and keys, not to values; with "none" the part
    commutes with every permutation of the places. Memory grows with (H * W)^2.
    """

    dtype: jnp.dtype = FLOAT32
    position: Position = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        """C is a multiple of 8, else ValueError. The sums are float32 whatever x is."""
        _check_multiple(x, HEADS, "self-attention")
        b, h, w, c = x.shape
        tokens = x.reshape(b, h * w, c).astype(jnp.float32)
        normed = nn.LayerNorm(1e-5, dtype=jnp.float32, name="norm1")(tokens)
        placed = normed + POSITION[self.position](h, w, c).reshape(h * w, c)
        attend = nn.MultiHeadDotProductAttention(
            HEADS,
            dtype=self.dtype,
            kernel_init=joint_xavier,
            out_kernel_init=torch_default,
            force_fp32_for_softmax=True,
            name="attend",
        )
        tokens = tokens + attend(placed, placed, normed)
        normed = nn.LayerNorm(1e-5, dtype=jnp.float32, name="norm2")(tokens)
        hidden = nn.gelu(_dense(EXPANSION * c, self.dtype, "expand")(normed), approximate=False)
        tokens = tokens + _dense(c, self.dtype, "reduce")(hidden)
        return tokens.reshape(b, h, w, c).astype(x.dtype)


def sincos(height: int, width: int, features: int) -> Float[np.ndarray, "H W C"]:
    """Where each place is, as sines and cosines in [-1, 1] of its column and its row.

    A quarter of the channels each: sin x, cos x, sin y, cos y, of the cell's index times
    10000^(-k / (C / 4)), k = 0 ... C / 4 - 1 (Vaswani 2017, section 3.5, for each of two axes).
    """
    frequencies = 1e4 ** -(np.arange(features // 4) / (features // 4))
    rows, columns = np.mgrid[:height, :width][..., None] * frequencies
    waves = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    return np.concatenate(waves, axis=-1).astype(np.float32)


def nowhere(height: int, width: int, features: int) -> Float[np.ndarray, "H W C"]:
    """Zeros: every place is like every other."""
    return np.zeros((height, width, features), np.float32)


ATTENTION = {
    "none": NoAttention,
    "channel": ChannelAttention,
    "self": SelfAttention,
    "mtnet": TriAttention,
}
POSITION = {"none": nowhere, "sincos": sincos}


def _conv(features: int, kernel: int, dtype: jnp.dtype, name: str) -> nn.Conv:
    return nn.Conv(
        features,
        (kernel, kernel),
        padding=kernel // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=torch_default,
        name=name,
    )


def _dense(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, kernel_init=torch_default, name=name)


def _gated(x: Array, logits: Array) -> Array:
    return (x * nn.sigmoid(logits.astype(jnp.float32))).astype(x.dtype)


def _check_multiple(x: Array, of: int, what: str) -> None:
    if x.shape[-1] % of:
        raise ValueError(
            f"{what} wants a multiple of {of} channels; got {x.shape[-1]}, in {x.shape}"
        )

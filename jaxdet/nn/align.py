"""Alignment in feature space: each phase is sampled where its own offsets point (the DC module).

Lee 2021 (arXiv:2112.01535) on DCNv2 (Zhu 2019), as its code has it (facts, gssd_reference 2.4).
ALIGN maps a config word to a part, `part(x, gate)`.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.nn.conv import torch_default
from jaxdet.nn.grouped import FLOAT32, Conv
from jaxdet.ops import deform
from jaxdet.types import Array

Guide = Literal["features", "features+gate", "features+stopped_gate"]
KERNEL = 3
TAPS = KERNEL**2


class NoAlign(nn.Module):
    """x as it came; no parameters."""

    phases: int = 4
    guide: Guide = "features+gate"
    offset_groups: int = 4
    weight_groups: int = 1
    offset_start: Literal["zero", "xavier"] = "zero"
    dtype: jnp.dtype = FLOAT32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], gate: Float[Array, "B H W G"] | None
    ) -> Float[Array, "B H W C"]:
        """The identity."""
        return x


class DeformAlign(nn.Module):
    """A modulated deformable 3x3 convolution whose offsets come from its own input; C stays.

    guide: the input is x, phase by phase with the gate of the attention before it, if there is one,
    which may be stopped from learning by this way.
    One dense 3x3 convolution sees all phases and gives, for each of the `offset_groups` parts of
    the channels and each tap, an offset and a logit of its mask. At zero start the masks are 1/2,
    so that the layer is half of a plain convolution. No normalisation and no ReLU follow.
    weight_groups: 1 mixes the phases, as the code does; 4 keeps them apart, as Fig. 2 draws it.
    offset_start: zero in GSSD++; xavier in PixelLink++, whose code draws it anew by mistake.
    """

    phases: int = 4
    guide: Guide = "features+gate"
    offset_groups: int = 4
    weight_groups: int = 1
    offset_start: Literal["zero", "xavier"] = "zero"
    dtype: jnp.dtype = FLOAT32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], gate: Float[Array, "B H W G"] | None
    ) -> Float[Array, "B H W C"]:
        """The offsets (dy, dx) in px of this map, [B, H, W, G, 9, 2], are sown as intermediates."""
        features = x.shape[-1]
        if gate is not None:
            x = GUIDES[self.guide](x, gate, self.phases)
        start = {"start": self.offset_start, "dtype": self.dtype}
        raw = Conv(3 * TAPS * self.offset_groups, KERNEL, **start, name="offset")(x)
        offsets, mask = deform.split_channels(raw.astype(jnp.float32), self.offset_groups, TAPS)
        self.sow("intermediates", "offsets", offsets)
        self.sow("intermediates", "mask", mask)
        shape = (KERNEL, KERNEL, x.shape[-1] // self.weight_groups, features)
        kernel = self.param("kernel", torch_default, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,)).astype(self.dtype)
        return deform.deform_conv(x.astype(self.dtype), offsets, mask, kernel, bias, padding=1)


ALIGN: dict[str, Any] = {"none": NoAlign, "deform": DeformAlign}


def interleave(
    x: Float[Array, "B H W C"], gate: Float[Array, "B H W G"], phases: int
) -> Float[Array, "B H W CG"]:
    """Features and gate phase by phase: [x0, g0, x1, g1, ...], each C / phases and G / phases."""
    parts = [a.reshape(*a.shape[:3], phases, -1) for a in (x, gate)]
    return jnp.concatenate(parts, -1).reshape(*x.shape[:3], -1)


GUIDES: dict[str, Callable[[Array, Array, int], Array]] = {
    "features": lambda x, gate, phases: x,
    "features+gate": interleave,
    "features+stopped_gate": lambda x, gate, phases: interleave(
        x, jax.lax.stop_gradient(gate), phases
    ),
}

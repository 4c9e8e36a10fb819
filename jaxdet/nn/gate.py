"""Self-attention that also tells what it added: the gate of GSSD++ and PixelLink++.

Lee 2021 (arXiv:2112.01535), Eq. 1 to 3, as its code has it (facts, gssd_reference 2.1): the code
divides all four kernels by their spectral norm, which the paper does not say, and has no
1/sqrt(d) in the softmax. GATE maps a config word to a part, `part(x, train=train) -> (y, gate)`.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.nn.grouped import FLOAT32, KERNELS, Grouping, Start, bias_start, convolve
from jaxdet.nn.norm import Spectral
from jaxdet.ops import resample
from jaxdet.types import Array

Interphase = Literal["shared", "grouped", "per_phase"]
Told = Literal["projected", "raw"]


class NoGate(nn.Module):
    """x as it came, and no gate; no parameters."""

    pool: int = 1
    phases: int = 4
    interphase: Interphase = "shared"
    told: Told = "projected"
    dtype: jnp.dtype = FLOAT32
    grouping: Grouping = "auto"
    start: Start = "torch"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> tuple[Array, Array | None]:
        """The identity, None."""
        return x, None


class SelfGate(nn.Module):
    """y = x + gate, gate = sigma W_o (attention over all places of W_g x).

    attention = softmax over places j of (W_theta x)_i . (W_phi x)_j; theta and phi have C / 8
    channels, g has C / 2. phi and g are averaged over `pool` x `pool` places first (the paper's
    down-sample factor D, for which the code's flag says "max"; windows overlap where sides do not
    divide). sigma starts at 0, so that y = x.

    interphase: shared is one map for all phases, from sums over all channels. Without interphase
    attention the paper "applied grouped convolutions in the SA module", read two ways: grouped has
    the four convolutions in groups of a phase and still one map, per_phase a map a phase as well.
    told: which gate is given back. projected: sigma W_o g, C channels, as the code has it; raw: g
    under the attention, C / 2 channels, before W_o, as the paper's Fig. 2 draws it.
    start: of the four convolutions, torch in GSSD++ and xavier in PixelLink++.
    """

    pool: int = 1
    phases: int = 4
    interphase: Interphase = "shared"
    told: Told = "projected"
    dtype: jnp.dtype = FLOAT32
    grouping: Grouping = "auto"
    start: Start = "torch"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W G"]]:
        """C is a multiple of 8, and of 8 times the phases unless interphase is shared."""
        b, h, w, c = x.shape
        groups = 1 if self.interphase == "shared" else self.phases
        if c % (8 * groups):
            raise ValueError(f"attention over {c} channels wants a multiple of {8 * groups}")
        part = {"groups": groups, "dtype": self.dtype}
        part |= {"grouping": self.grouping, "start": self.start}
        # A 1x1 convolution and an average may change places: pooled once for both, it is less work.
        few = x if self.pool == 1 else _averaged(x, self.pool)
        theta = SpectralConv(c // 8, **part, name="theta")(x, train=train)
        phi = SpectralConv(c // 8, **part, name="phi")(few, train=train)
        g = SpectralConv(c // 2, **part, name="g")(few, train=train)
        maps = self.phases if self.interphase == "per_phase" else 1
        attended = _attend(theta, phi, g, maps).reshape(b, h, w, c // 2)
        sigma = self.param("sigma", nn.initializers.zeros, (1,))
        out = SpectralConv(c, **part, name="out")(attended, train=train)
        gate = sigma.astype(x.dtype) * out
        told = gate if self.told == "projected" else attended
        self.sow("intermediates", "gate", told)
        return x + gate, told


GATE: dict[str, Any] = {"none": NoGate, "self_gate": SelfGate}


class SpectralConv(nn.Module):
    """A 1x1 convolution with bias whose kernel has spectral norm 1 (nn.norm.Spectral)."""

    features: int
    groups: int = 1
    dtype: jnp.dtype = FLOAT32
    grouping: Grouping = "auto"
    start: Start = "torch"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W F"]:
        """C and features are multiples of `groups`."""
        fan_in = x.shape[-1] // self.groups
        kernel = self.param("kernel", KERNELS[self.start], (1, 1, fan_in, self.features))
        bias = self.param("bias", bias_start(self.start, fan_in), (self.features,))
        kernel = Spectral(name="spectral")(kernel, train=train)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), grouping=self.grouping)
        return y + bias.astype(self.dtype)


def _averaged(x: Array, factor: int) -> Array:
    """Adaptive average pooling to max(1, side // factor) places a side, as PyTorch's windows."""
    rows, columns = (resample.average_matrix(n, max(n // factor, 1)) for n in x.shape[1:3])
    return resample.apply(x, rows, columns)


def _attend(theta: Array, phi: Array, g: Array, maps: int) -> Array:
    """g under the attention of theta to phi, [B, N, C / 2]; `maps` parts of the channels alone."""
    theta, phi, g = (a.reshape(a.shape[0], -1, maps, a.shape[-1] // maps) for a in (theta, phi, g))
    logits = jnp.einsum("bipc,bjpc->bpij", theta, phi, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, -1).astype(g.dtype)
    mixed = jnp.einsum("bpij,bjpc->bipc", weights, g)
    return mixed.reshape(*mixed.shape[:2], -1)

"""The convolution that YOLO is made of: convolution, batch normalisation, SiLU."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.ops import replicas
from jaxdet.types import Array

# PyTorch's default for convolutions, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), from which YOLOv8 starts.
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ConvNorm(nn.Module):
    """Convolution without bias -> BatchNorm -> SiLU, [B, H, W, C] -> [B, H/s, W/s, features].

    Padding is kernel // 2 on both sides. XLA's "SAME" pads even sizes on one side only when it
    strides, and would shift every feature by half a pixel against PyTorch's weights.
    BatchNorm takes its statistics over all replicas of a step.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H2 W2 F"]:
        """Sides are divided by the stride and rounded up."""
        pad = self.kernel // 2
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=torch_default,
            name="conv",
        )(x)
        # Departs: Flax accumulates the biased batch variance, PyTorch the unbiased one. The factor
        # n / (n - 1) is below 1.001 from 1000 values a channel on.
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.97,
            epsilon=1e-3,
            dtype=self.dtype,
            axis_name=replicas.bound_axis() if train else None,
            name="norm",
        )(x)
        return nn.silu(x)

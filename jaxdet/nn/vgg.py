"""The parts of VGG16 that SSD and PixelLink share (Simonyan 2015; conv6 and conv7 as in SSD)."""

import functools

from jaxtyping import Float

from jaxdet.nn import pool
from jaxdet.types import Array

DEPTHS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}  # convolutions of a stage
WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}
TOP = 1024  # channels of conv6 and conv7


def stage(i: int, block: functools.partial, x: Array, *, train: bool) -> Float[Array, "B H W F"]:
    """The 3x3 convolutions conv{i}_1, conv{i}_2 ... of stage i, without a pooling.

    Called inside of a compact module, whose children they become. `block(features, kernel,
    name=...)` makes a convolution with its norm and ReLU.
    """
    for j in range(1, DEPTHS[i] + 1):
        x = block(WIDTHS[i], 3, name=f"conv{i}_{j}")(x, train=train)
    return x


def top(block: functools.partial, x: Array, *, train: bool) -> Float[Array, "B H W F"]:
    """pool5 (3x3, stride 1), conv6 (3x3, dilation 6) and conv7 (1x1): sides stay as they are."""
    x = pool.around(x, 3)
    x = block(TOP, 3, dilation=6, name="conv6")(x, train=train)
    return block(TOP, 1, name="conv7")(x, train=train)

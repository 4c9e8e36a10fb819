"""A convolution through Fourier tiles: lax.conv's answer for a tenth of its multiplications.

A direct 7x7 convolution multiplies 49 times for each output and pair of channels. Here the image
is cut into overlapping tiles (overlap-save: Stockham 1966) and the product is taken a frequency at
a time: tiles of 24 x 24 with 18 x 18 outputs take 3.9 real products an output. The transforms are
products of matrices as well; at these sizes that beats a fast Fourier transform, which wants its
axes innermost where the products want them outermost.

    image -> tiles -> rows -> columns -> kernel, at each frequency -> columns -> rows -> image

It is made for CPUs (scripts/bench/siamese.py times it): images pass one after another, so that a
spectrum stays small. All arithmetic is float32 at full precision: the
difference to a direct convolution is rounding, about 1e-6 of the output's scale.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from jaxdet.types import Array

MOST_TILES = 256  # in one pass: long rows for the products, and the spectrum fits in memory
FEWEST_INPUTS = 4  # channels; with fewer, transforms of the outputs cost more than is saved
LAST = ("NHWC", "HWIO", "NHWC")  # channels last


def conv(
    x: Float[Array, "N H W I"], kernel: Float[Array, "h w _ O"], tile: int | None = None
) -> Float[Array, "N H2 W2 O"]:
    """Convolution with stride 1 and without padding, as lax.conv: H2 = H - h + 1. x's type.

    `tile` is a tile's side, by default four times that of the kernel; it must be at least
    2 max(h, w) - 2, so that a tile reaches no further than its neighbour.
    """
    n, height, width, _ = x.shape
    kh, kw, _, outputs = kernel.shape
    tile = tile or max(4 * (max(kh, kw) - 1), 8)
    _check(x.shape, kernel.shape, tile)
    rows, columns = height - kh + 1, width - kw + 1
    valid = tile - kh + 1, tile - kw + 1  # outputs of a tile
    grid = -(-rows // valid[0]), -(-columns // valid[1])
    weights = _products(kernel.astype(jnp.float32), tile)

    @jax.checkpoint  # a spectrum is several times its image: made again for the gradient
    def some(images: Array) -> Array:
        spectrum = _spectrum(_cut(images, tile, valid, grid), tile)
        product = _matmul(weights, spectrum.reshape(weights.shape[0], weights.shape[2], -1))
        tiles = _inverse(product, tile, valid).reshape(*valid, outputs, -1, *grid)
        image = tiles.transpose(3, 4, 0, 5, 1, 2)
        image = image.reshape(-1, grid[0] * valid[0], grid[1] * valid[1], outputs)
        return image[:, :rows, :columns].astype(x.dtype)

    most = max(MOST_TILES // (grid[0] * grid[1]), 1)
    at_once = max((d for d in range(1, min(n, most) + 1) if n % d == 0), default=1)
    out = lax.map(some, x.reshape(n // at_once, at_once, *x.shape[1:]))
    return out.reshape(n, rows, columns, outputs)


def like_lax(
    x: Float[Array, "N H W I"],
    kernel: Float[Array, "h w _ O"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **plain: Any,
) -> Float[Array, "N H2 W2 O"]:
    """`conv` for flax.linen.Conv(conv_general_dilated=...), with padding.

    An image of fewer than FEWEST_INPUTS channels passes `few`, which is faster there. Channels
    last; strides, dilations and groups are refused.
    """
    steps = [*strides, *(plain.get("lhs_dilation") or ()), *(plain.get("rhs_dilation") or ())]
    groups = plain.get("feature_group_count", 1)
    if set(steps) != {1} or groups != 1:
        raise ValueError(
            "a convolution by Fourier tiles wants strides and dilations of 1 and one group; got "
            f"{steps} and {groups}. Take the direct one"
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return few(x, kernel) if x.shape[-1] < FEWEST_INPUTS else conv(x, kernel)


@jax.custom_vjp
def few(x: Float[Array, "N H W I"], kernel: Float[Array, "h w I O"]) -> Float[Array, "N H2 W2 O"]:
    """lax.conv with a kernel's gradient of bounded memory: one image's neighbourhoods at a time.

    XLA unfolds the whole batch for that gradient on a CPU: 1.8 GB for 17 images of 512 px and a
    10x10 kernel, which its own account (memory_analysis) leaves out.
    """
    return _direct(x, kernel)


def _direct(x: Array, kernel: Array) -> Array:
    highest = lax.Precision.HIGHEST
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=LAST, precision=highest
    )


def _few_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _direct(x, kernel), (x, kernel)


def _few_backward(kept: tuple[Array, Array], ct: Array) -> tuple[Array, Array]:
    x, kernel = kept
    (kh, kw, _, _), (_, h, w, _) = kernel.shape, ct.shape

    def add(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        pixels, ct = image
        near = jnp.stack([pixels[a : a + h, b : b + w] for a in range(kh) for b in range(kw)])
        exact = {"precision": lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
        return total + jnp.einsum("khwi,hwo->kio", near, ct, **exact), None

    of_kernel, _ = lax.scan(add, jnp.zeros((kh * kw, *kernel.shape[2:])), (x, ct))
    (of_x,) = jax.linear_transpose(lambda x: _direct(x, kernel), x)(ct)
    return of_x, of_kernel.reshape(kernel.shape).astype(kernel.dtype)


few.defvjp(_few_forward, _few_backward)


def _check(image: tuple[int, ...], kernel: tuple[int, ...], tile: int) -> None:
    if image[3] != kernel[2]:
        raise ValueError(f"a kernel {kernel} wants {kernel[2]} channels; got an image {image}")
    if image[1] < kernel[0] or image[2] < kernel[1]:
        raise ValueError(f"an image {image} is smaller than the kernel {kernel}")
    least = 2 * max(kernel[:2]) - 2
    if tile < least:
        raise ValueError(
            f"a kernel of {kernel[0]}x{kernel[1]} wants tiles of {least} px or more; got {tile}"
        )


def _cut(x: Array, tile: int, valid: tuple[int, int], grid: tuple[int, int]) -> Array:
    """Images to tiles that overlap, float32 [tile, tile, I * N * tiles], images behind channels.

    A tile is a block of the size of its outputs, and the first rows and columns of the next.
    """
    n, height, width, channels = x.shape
    (h, w), (down, across) = valid, (grid[0] + 1, grid[1] + 1)
    x = jnp.pad(x, ((0, 0), (0, down * h - height), (0, across * w - width), (0, 0)))
    x = x.astype(jnp.float32).reshape(n, down, h, across, w, channels).transpose(2, 4, 5, 0, 1, 3)
    x = jnp.concatenate([x[..., :-1, :], x[: tile - h, ..., 1:, :]], axis=0)
    x = jnp.concatenate([x[..., :-1], x[:, : tile - w, ..., 1:]], axis=1)
    return x.reshape(tile, tile, -1)


def _products(kernel: Array, tile: int) -> Array:
    """At each frequency the matrix [re|im of O, re|im of I] that multiplies by the kernel there.

    By its conjugate: what networks call a convolution is a correlation.
    """
    h, w, inputs, outputs = kernel.shape
    spectrum = _spectrum(kernel.transpose(0, 1, 3, 2).reshape(h, w, -1), tile)
    spectrum = spectrum.reshape(-1, 2, outputs, inputs)
    real, imag = spectrum[:, 0], spectrum[:, 1]
    of_real, of_imag = jnp.concatenate([real, imag], 2), jnp.concatenate([-imag, real], 2)
    return jnp.concatenate([of_real, of_imag], 1)


def _spectrum(x: Array, tile: int) -> Array:
    """DFT of real [h, w, R], zeros behind them to tile x tile: [tile//2 + 1, tile * re|im, R]."""
    height, width, rest = x.shape
    wave = _wave(tile)
    half = wave[: tile // 2 + 1, :height]
    rows = np.stack([half.real, half.imag], 1).reshape(-1, height)
    x = _matmul(rows, x.reshape(height, -1)).reshape(tile // 2 + 1, 2 * width, rest)
    return _matmul(_complex(wave[:, :width], pairs_first=False), x)


def _inverse(z: Array, tile: int, valid: tuple[int, int]) -> Array:
    """From [frequencies, re|im * R] the first `valid` rows and columns, [h, w * R]."""
    wave = _wave(tile).conj() / tile
    z = z.reshape(tile // 2 + 1, 2 * tile, -1)
    z = _matmul(_complex(wave[: valid[1]], pairs_first=True), z)
    # The other half of the rows are conjugates: what they add is the same again.
    once = np.arange(tile) * 2 % tile == 0
    half = (np.where(once, 1, 2) * wave)[: valid[0], : tile // 2 + 1]
    rows = np.stack([half.real, -half.imag], 2).reshape(valid[0], -1)
    return _matmul(rows, z.reshape(rows.shape[1], -1))


def _wave(tile: int) -> np.ndarray:
    t = np.arange(tile)
    return np.exp(-2j * np.pi * (np.outer(t, t) % tile) / tile)


def _complex(a: np.ndarray, pairs_first: bool) -> np.ndarray:
    """A complex matrix as a real one; re|im outermost on the side of space, else innermost."""
    real = np.array([[a.real, -a.imag], [a.imag, a.real]])  # out, in, rows, columns
    order = (0, 2, 3, 1) if pairs_first else (2, 0, 1, 3)
    return real.transpose(order).reshape(2 * a.shape[0], 2 * a.shape[1])


def _matmul(a: Array, b: Array) -> Array:
    """a @ b in full float32. One `a` for a batch is repeated: else XLA joins it and transposes."""
    a = jnp.asarray(a, jnp.float32)
    if b.ndim > a.ndim:
        a = jnp.broadcast_to(a, (b.shape[0], *a.shape))
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)

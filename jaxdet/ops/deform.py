"""What does a kernel see whose taps are moved? The modulated deformable convolution, DCNv2.

Zhu 2019, arXiv:1811.11168, as torchvision.ops.deform_conv2d computes it (facts, gssd_reference
2.4). A plain convolution reads a fixed grid; here every place has an offset for each tap and each
group of channels, a fraction of a pixel or a whole map away, and a mask that dims what was read.

    offsets -> points -> four pixels each with bilinear weights -> columns, a tap at a time -> sum

Outside the image all is 0, and the pixel beyond the edge fades: a point half a pixel outside reads
half of the edge. Offsets are [group][tap][dy, dx], taps row by row; group g moves the channels
from g C/G on, which is a CT phase when channels are phase-major.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from jaxdet.types import Array

Pair = int | tuple[int, int]  # the same for both sides, or (y, x)


def deform_conv(
    x: Float[Array, "B H W C"],
    offsets: Float[Array, "_ Ho Wo G K _"],
    mask: Float[Array, "_ _ _ _ _"] | None,
    kernel: Float[Array, "kh kw _ O"],
    bias: Float[Array, "_"] | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
) -> Float[Array, "B Ho Wo O"]:
    """Modulated deformable convolution in x's type; offsets [B, Ho, Wo, G, K, (dy, dx)] in px.

    `mask` [B, Ho, Wo, G, K] multiplies what a tap reads; None is ones. The kernel says the groups
    of weights, C over its third side: group g reads the g-th part of the channels and writes the
    g-th part of the outputs. Sampling is float32 at least, also where x is bfloat16. The memory is
    that of one tap's columns, in the gradient as well.

    Differentiable in all five. At a whole coordinate the derivative is that of the cell to the
    right and below, as in torchvision, so also at exactly one pixel outside. Departs: there the
    CUDA kernel of the authors has 0. A point further away, or at infinity, reads 0 and has no
    gradient; a NaN stays one. A batch of none is answered, shapes that do not fit are refused.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    groups = _check(x, offsets, mask, kernel, bias, stride, padding, dilation)
    (batch, height, width, channels), (_, rows, columns, split, taps, _) = x.shape, offsets.shape
    exact = jnp.promote_types(jnp.result_type(x, offsets), jnp.float32)
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    points = sample_points(offsets.astype(exact), kernel.shape[:2], **how)
    reads = _reads(points, None if mask is None else mask.astype(exact), height, width)
    # Exact already here: the gradient of x is a sum over many points and must not round each time.
    features = x.reshape(batch * height * width, channels).astype(exact)
    places, outputs = batch * rows * columns, kernel.shape[3]

    @jax.checkpoint  # columns are made again for the gradient: else those of all taps would stay
    def add(total: Array, tap: tuple[Array, Array, Array]) -> tuple[Array, None]:
        *reads, kernel = tap
        parts = jnp.split(features, split, axis=1)
        # A group after the other: one gather of all, reshaped, is a loop that XLA cannot vectorise.
        seen = [_sample(*part) for part in zip(parts, *reads, strict=True)]
        seen = jnp.concatenate(seen, axis=1).astype(x.dtype)
        return total + _by_group(seen, kernel, groups, exact), None

    kernels = kernel.astype(x.dtype).reshape(taps, channels // groups, outputs)
    total, _ = lax.scan(add, jnp.zeros((places, outputs), exact), (*reads, kernels))
    total = total if bias is None else total + bias
    return total.reshape(batch, rows, columns, outputs).astype(x.dtype)


def sample_points(
    offsets: Float[Array, "B Ho Wo G K 2"],
    kernel_size: tuple[int, int],
    *,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
) -> Float[Array, "B Ho Wo G K 2"]:
    """Where every tap reads: (y, x) in px of the input, the centre of its first pixel (0, 0)."""
    if offsets.shape[4] != kernel_size[0] * kernel_size[1]:
        raise ValueError(
            f"a kernel of {kernel_size[0]}x{kernel_size[1]} wants offsets [B, Ho, Wo, G, "
            f"{kernel_size[0] * kernel_size[1]}, 2]; got {offsets.shape}"
        )
    stride, padding, dilation = (np.array(_pair(v)) for v in (stride, padding, dilation))
    places = np.stack(np.mgrid[: offsets.shape[1], : offsets.shape[2]], -1) * stride - padding
    taps = np.stack(np.mgrid[: kernel_size[0], : kernel_size[1]], -1).reshape(-1, 2) * dilation
    grid = places[:, :, None, None] + taps
    return offsets + jnp.asarray(grid, offsets.dtype)


def split_channels(
    raw: Float[Array, "B Ho Wo N"], groups: int, taps: int
) -> tuple[Float[Array, "B Ho Wo G K 2"], Float[Array, "B Ho Wo G K"]]:
    """Offsets in px and masks in (0, 1) from the 3 K G channels of their predictor.

    The first two thirds are offsets [group][tap][dy, dx], the last the logits of the masks
    [group][tap]: the order of the official weights. All zeros are no offset and a mask of 0.5.
    """
    if raw.shape[3] != 3 * groups * taps:
        raise ValueError(
            f"{groups} groups of {taps} taps want {3 * groups * taps} channels, dy, dx and mask "
            f"for each tap; got {raw.shape[3]}"
        )
    offsets, logits = jnp.split(raw, [2 * groups * taps], axis=3)
    places = raw.shape[:3]
    mask = jax.nn.sigmoid(logits).reshape(*places, groups, taps)
    return offsets.reshape(*places, groups, taps, 2), mask


def _reads(
    points: Float[Array, "B Ho Wo G K 2"],
    mask: Float[Array, "B Ho Wo G K"] | None,
    height: int,
    width: int,
) -> tuple[Int[Array, "K G 4 N"], Float[Array, "K G 4 N"]]:
    """The four pixels about each point and their weights, of N = B * Ho * Wo places.

    A pixel is a row of the features [B * H * W, C]. All taps' weights at once: inside the loop XLA
    would compute them again for every channel.
    """
    batch, rows, columns, split, taps, _ = points.shape
    shape = taps, split, batch * rows * columns
    y, x = points.transpose(5, 4, 3, 0, 1, 2).reshape(2, *shape)
    mask = 1.0 if mask is None else mask.transpose(4, 3, 0, 1, 2).reshape(shape)
    image = jnp.arange(shape[2], dtype=jnp.int32) // (rows * columns)
    # Corner by corner: the gradient of one outer product is a sum that crashes jaxlib 0.10.2 on
    # CPUs when there is but one image.
    corners = [
        ((image * height + row) * width + column, mask * of_row * of_column)
        for (row, of_row), (column, of_column) in itertools.product(
            _ends(y, height), _ends(x, width)
        )
    ]
    pixels, weights = zip(*corners, strict=True)
    return jnp.stack(pixels, axis=2), jnp.stack(weights, axis=2)


def _ends(
    at: Float[Array, "*any"], size: int
) -> list[tuple[Int[Array, "*any"], Float[Array, "*any"]]]:
    """The two pixels beside a coordinate on one side of the image, and how much each counts.

    Comparisons are such that a NaN is not found outside: its weight stays NaN.
    """
    # What is far reads nothing wherever it lies; an infinity minus its floor would be NaN.
    at = jnp.where((at < -1) | (at >= size), -2.0, at)
    low = jnp.floor(at)
    ends = []
    for index, weight in ((low, 1 - (at - low)), (low + 1, at - low)):
        outside = (index < 0) | (index >= size)
        inside = jnp.clip(index, 0, size - 1).astype(jnp.int32)
        ends.append((inside, jnp.where(outside, 0.0, weight)))
    return ends


def _sample(features: Array, pixels: Array, weights: Array) -> Array:
    """The weighted sum of four rows of features [B * H * W, c] for each place, [N, c]."""
    read = (jnp.take(features, at, axis=0, mode="clip") for at in pixels)
    return sum(a * w[:, None] for a, w in zip(read, weights, strict=True))


def _by_group(columns: Array, kernel: Array, groups: int, dtype: np.dtype) -> Array:
    """[N, C] columns @ [C/groups, O] kernel, each group its part of C and of O, summed exactly."""
    parts = zip(jnp.split(columns, groups, 1), jnp.split(kernel, groups, 1), strict=True)
    return jnp.concatenate([jnp.matmul(a, k, preferred_element_type=dtype) for a, k in parts], 1)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _check(
    x: Array,
    offsets: Array,
    mask: Array | None,
    kernel: Array,
    bias: Array | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> int:
    """The groups of weights, if all shapes fit together."""
    (batch, *sides, channels), (kh, kw, inputs, outputs) = x.shape, kernel.shape
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError(
            "deform_conv wants stride and dilation of 1 or more and padding of 0 or more; got "
            f"{stride}, {dilation} and {padding}"
        )
    places = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, s, p, d in zip(sides, (kh, kw), stride, padding, dilation, strict=True)
    ]
    if min(places) < 1:
        raise ValueError(
            f"a kernel of {kh}x{kw} with dilation {dilation} is larger than the image "
            f"{x.shape} with padding {padding}"
        )
    split = offsets.shape[3] if offsets.ndim == 6 else 0
    if not split or offsets.shape != (batch, *places, split, kh * kw, 2):
        raise ValueError(
            f"x {x.shape} and kernel {kernel.shape} want offsets [{batch}, {places[0]}, "
            f"{places[1]}, groups, {kh * kw}, 2]; got {offsets.shape}"
        )
    if mask is not None and mask.shape != offsets.shape[:5]:
        raise ValueError(
            f"offsets {offsets.shape} want a mask {offsets.shape[:5]} or None; got {mask.shape}"
        )
    if channels % split:
        raise ValueError(f"{channels} channels do not fall into the {split} groups of the offsets")
    groups = channels // inputs if inputs else 0
    if not groups or groups * inputs != channels or outputs % groups:
        raise ValueError(
            f"a kernel {kernel.shape} wants channels that are a multiple of {inputs}, and outputs "
            f"that fall into as many groups; got {channels} channels"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"a kernel {kernel.shape} wants a bias ({outputs},); got {bias.shape}")
    return groups

"""How does an image come to another size?

Every resampling here is linear and separable: one small matrix for the rows, one for the columns,
built in NumPy when the program is traced, and two products of matrices on the device. Centres of
pixels are at half coordinates: output i looks at (i + 0.5) * n_in / n_out - 0.5 of the input.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdet.types import Array

Matrix = Float[np.ndarray, "n_out n_in"]


def bicubic(
    images: Float[Array, "*B H W C"], height: int, width: int, a: float = -0.75
) -> Float[Array, "*B H2 W2 C"]:
    """Images resampled with Keys' cubic kernel; a = -0.75 is cv2.INTER_CUBIC, -0.5 is Pillow's.

    The kernel has negative lobes: the answer leaves the range of the input by up to a tenth of it.
    """
    rows, columns = _sides(images)
    return apply(images, bicubic_matrix(rows, height, a), bicubic_matrix(columns, width, a))


def bilinear(
    images: Float[Array, "*B H W C"], height: int, width: int
) -> Float[Array, "*B H2 W2 C"]:
    """Images resampled between the two nearest pixels, as cv2.INTER_LINEAR: no antialiasing."""
    rows, columns = _sides(images)
    return apply(images, bilinear_matrix(rows, height), bilinear_matrix(columns, width))


def align_corners(
    images: Float[Array, "*B H W C"], height: int, width: int
) -> Float[Array, "*B H2 W2 C"]:
    """Images resampled bilinearly so that the centres of the corners stay: PyTorch's align_corners.

    Output i looks at i * (n_in - 1) / (n_out - 1); a single output at the first pixel.
    """
    rows, columns = _sides(images)
    return apply(images, corner_matrix(rows, height), corner_matrix(columns, width))


def shrink(images: Float[Array, "*B H W C"], height: int, width: int) -> Float[Array, "*B H2 W2 C"]:
    """Images made smaller without aliasing: the linear kernel, as wide as an output pixel.

    Equal to jax.image.resize(method="linear") and to Pillow's BILINEAR. A side that grows is
    resampled as `bilinear` does.
    """
    rows, columns = _sides(images)
    return apply(images, shrink_matrix(rows, height), shrink_matrix(columns, width))


def apply(
    images: Float[Array, "*B H W C"],
    rows: Float[np.ndarray, "H2 H"],
    columns: Float[np.ndarray, "W2 W"],
) -> Float[Array, "*B H2 W2 C"]:
    """rows @ image @ columns.T for every image and channel, in the type of the images.

    Full float32 products: the short ones of a GPU would cost a thousandth of the range.
    """
    rows, columns = (jnp.asarray(m, images.dtype) for m in (rows, columns))
    precision = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("...hwc,ih->...iwc", images, rows, precision=precision)
    return jnp.einsum("...iwc,jw->...ijc", tall, columns, precision=precision)


def bicubic_matrix(n_in: int, n_out: int, a: float = -0.75) -> Matrix:
    """Weights of Keys' cubic convolution (Keys 1981, Eq. 4); outside, the edge pixel repeats."""
    at = _centres(n_in, n_out)
    taps = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
    far = np.abs(at[:, None] - taps)
    near = ((a + 2) * far - (a + 3)) * far**2 + 1
    beyond = ((far - 5) * far + 8) * far * a - 4 * a
    matrix = np.zeros((n_out, n_in))
    inside = np.clip(taps, 0, n_in - 1)
    np.add.at(matrix, (np.arange(n_out)[:, None], inside), np.where(far <= 1, near, beyond))
    return matrix.astype(np.float32)


def bilinear_matrix(n_in: int, n_out: int) -> Matrix:
    """Weights of the two nearest pixels; outside, the edge pixel repeats."""
    return _triangles(n_in, n_out, 1.0)


def shrink_matrix(n_in: int, n_out: int) -> Matrix:
    """Weights of a triangle whose half width is an output pixel, but at least an input pixel."""
    return _triangles(n_in, n_out, max(1.0, n_in / max(n_out, 1)))


def corner_matrix(n_in: int, n_out: int) -> Matrix:
    """Weights of the two nearest pixels, the first and the last output on the first and last."""
    _centres(n_in, n_out)  # refuses sizes below 1
    at = np.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
    return np.maximum(1 - np.abs(at[:, None] - np.arange(n_in)), 0).astype(np.float32)


def average_matrix(n_in: int, n_out: int) -> Matrix:
    """Means over PyTorch's adaptive bins: from floor(i n_in / n_out) to ceil((i+1) n_in / n_out).

    Bins overlap where n_out does not divide n_in. One output is the mean of all.
    """
    _centres(n_in, n_out)  # refuses sizes below 1
    i, pixels = np.arange(n_out)[:, None], np.arange(n_in)
    start, end = i * n_in // n_out, -(-(i + 1) * n_in // n_out)
    inside = (start <= pixels) & (pixels < end)
    return (inside / (end - start)).astype(np.float32)


def _centres(n_in: int, n_out: int) -> Float[np.ndarray, "n_out"]:
    if n_in < 1 or n_out < 1:
        raise ValueError(f"resampling wants sides of 1 px or more; got {n_in} to {n_out}")
    return (np.arange(n_out) + 0.5) * n_in / n_out - 0.5


def _triangles(n_in: int, n_out: int, half_width: float) -> Matrix:
    far = np.abs(_centres(n_in, n_out)[:, None] - np.arange(n_in)) / half_width
    weights = np.maximum(1 - far, 0)
    # At the edge a part of the triangle has no pixel: the rest counts for it.
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _sides(images: Array) -> tuple[int, int]:
    if images.ndim < 3:
        raise ValueError(f"resampling wants images [..., H, W, C]; got {images.shape}")
    return images.shape[-3:-1]

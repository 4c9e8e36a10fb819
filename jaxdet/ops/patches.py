"""How does a slice fall into patches, and how do values of patches become a map again?

A slice of side S holds n = (S / m)^2 patches of side m that do not overlap, row by row from the
top left (PCA-YOLO, MIDL 2025, section 2).
"""

import math

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from jaxdet.config import check_side
from jaxdet.types import Array


def crop(images: Shaped[Array, "B H W C"], side: int) -> Shaped[Array, "B n m m C"]:
    """The patches of every slice, row by row. A side that does not divide the slice's: ValueError.

    `stitch` is the inverse.
    """
    b, height, width, c = images.shape
    if height != width:
        raise ValueError(f"patches are cut from square slices; got {height}x{width} px")
    check_side(height, side)
    rows = height // side
    tiles = images.reshape(b, rows, side, rows, side, c).transpose(0, 1, 3, 2, 4, 5)
    return tiles.reshape(b, rows * rows, side, side, c)


def stitch(tiles: Shaped[Array, "B n m m *C"]) -> Shaped[Array, "B S S *C"]:
    """Patches, row by row, put together to slices; axes behind the fourth stay."""
    b, n, m, _, *more = tiles.shape
    rows = _rows(n)
    grid = tiles.reshape(b, rows, rows, m, m, *more).swapaxes(2, 3)
    return grid.reshape(b, rows * m, rows * m, *more)


def spread(values: Shaped[Array, "B n"], side: int) -> Shaped[Array, "B S S"]:
    """One value a patch to a map of squares of `side` px (PCA-YOLO, Eq. 1: y' = y J_m)."""
    rows = _rows(values.shape[1])
    grid = values.reshape(-1, rows, rows)
    return jnp.repeat(jnp.repeat(grid, side, axis=1), side, axis=2)


def minmax(values: Float[Array, "B *N"], eps: float = 1e-12) -> Float[Array, "B *N"]:
    """g(y) = (y - min) / (max - min) over all values of a slice, in [0, 1] (PCA-YOLO, Eq. 2).

    The least value becomes 0 and the greatest 1, whatever they were: a slice without a tumour gets
    its hot patch too. Values that differ by no more than `eps` have no order: all become 0, with
    gradient 0. A NaN makes its slice NaN.
    """
    axes = tuple(range(1, values.ndim))
    low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    flat = high - low <= eps
    # Two wheres: the inner one keeps 0/0 out of the backward pass as well.
    g = (values - low) / jnp.where(flat, 1.0, high - low)
    # Compiled, a division may end a bit below 1; the greatest is 1 whatever it is, gradient 0.
    return jnp.where(flat, 0.0, jnp.where(values == high, 1.0, g))


def _rows(n: int) -> int:
    rows = math.isqrt(n)
    if rows * rows != n or not n:
        raise ValueError(f"the patches of a square slice are a square number, 1, 4, 9..; got {n}")
    return rows

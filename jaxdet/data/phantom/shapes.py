"""Solids as signed distances in mm: f < 0 inside, true to first order near the surface.

A point is three arrays (x, y, z) that broadcast, so one slice is a row, a column and a number, and
a slice that breathing bent is three full arrays. x grows to the patient's left, y to the back, z to
the head.
"""

import functools

import numpy as np
from jaxtyping import Float

Number = float | int | np.floating
Triple = tuple[Number, Number, Number]
Points = tuple[np.ndarray | Number, np.ndarray | Number, np.ndarray | Number]
Field = Float[np.ndarray, "..."]

TINY = 1e-8  # keeps 0 / 0 away from the centre of an ellipsoid


def ellipsoid(points: Points, centre: Triple, semi: Triple, power: float = 2.0) -> Field:
    """Super-ellipsoid sum |p / semi|^power < 1; minus the least semi-axis at its centre.

    Near the surface mm: (level - 1) / |gradient of level|, so edges are equally wide all around.
    """
    parts = [
        (np.asarray(p, np.float32) - np.float32(c)) * np.float32(1 / s)
        for p, c, s in zip(points, centre, semi, strict=True)
    ]
    weights = [np.float32(1 / (s * s)) for s in semi]
    deepest = 1 / min(semi) ** 2
    if power == 2.0:
        squares = [p * p for p in parts]
        level = np.sqrt(_total(squares, TINY))
        slope = _total([q * w for q, w in zip(squares, weights, strict=True)], TINY * deepest)
        return (level - 1) * level / np.sqrt(slope)
    size = [np.abs(p) for p in parts]
    steep = [p ** np.float32(power - 1) for p in size]
    total = _total([s * p for s, p in zip(steep, size, strict=True)], TINY)
    slope = [s * s * w for s, w in zip(steep, weights, strict=True)]
    level = total ** np.float32(1 / power)
    return (level - 1) * total / (level * np.sqrt(_total(slope, TINY ** (2 - 2 / power) * deepest)))


def _total(parts: list, least: Number) -> Field:
    """Their sum and `least`. z first: in a slice it is a number, and only one sum is a full one."""
    x, y, z = parts
    return (z + np.float32(least)) + x + y


def union(*solids: Field | Number) -> Field:
    """What lies in any of the solids."""
    return functools.reduce(np.minimum, solids)


def common(*solids: Field | Number) -> Field:
    """What lies in all of the solids; common(a, -b) cuts b out of a."""
    return functools.reduce(np.maximum, solids)


def smooth_min(a: Field, b: Field, width: float) -> Field:
    """Union of two solids whose seam is rounded over `width` mm."""
    # min(a, b) less a parabola where they are closer than `width`.
    near = np.maximum(np.float32(width) - np.abs(a - b), 0)
    return np.minimum(a, b) - near * near * np.float32(0.25 / width)


def smooth_max(a: Field, b: Field, width: float) -> Field:
    """Intersection of two solids whose edge is rounded over `width` mm."""
    near = np.maximum(np.float32(width) - np.abs(a - b), 0)
    return np.maximum(a, b) + near * near * np.float32(0.25 / width)


def inside(f: Field, width: float) -> Field:
    """Share of a pixel that lies inside, 0 to 1, rising over `width` mm about the surface."""
    return np.clip(0.5 - f / width, 0.0, 1.0)


def tube(
    points: Points, start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"], radius: Number
) -> Field:
    """Segment of a vessel with round ends."""
    axis = end - start
    away = [p - a for p, a in zip(points, start, strict=True)]
    length = max(float(axis @ axis), 1e-9)
    along = np.clip(sum(d * a for d, a in zip(away, axis, strict=True)) / length, 0.0, 1.0)
    return np.sqrt(sum((d - along * a) ** 2 for d, a in zip(away, axis, strict=True))) - radius


def near(
    points: Points,
    low: Float[np.ndarray, "3"],
    high: Float[np.ndarray, "3"],
    known: tuple | None = None,
) -> tuple[tuple, Points] | None:
    """The part of a slice that can lie between two corners: its window, and the points in it.

    Points are x [1, W], y [H, 1] and a number z, or three arrays [H, W]; a window of anything else
    is all of it. None where no point can lie between the corners. `known` are the points' extents,
    where many windows of the same slice are asked for.
    """
    x, y, z = (np.asarray(p, np.float32) for p in points)
    if x.ndim != 2 or y.ndim != 2:
        return (...,), points
    (x0, x1), (y0, y1), (z0, z1) = extents(points) if known is None else known
    if z1 < low[2] or z0 > high[2]:
        return None
    columns = np.flatnonzero((x1 >= low[0]) & (x0 <= high[0]))
    rows = np.flatnonzero((y1 >= low[1]) & (y0 <= high[1]))
    if not len(columns) or not len(rows):
        return None
    window = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return window, (_part(x, window), _part(y, window), _part(z, window))


def extents(points: Points) -> tuple[tuple, tuple, tuple]:
    """Least and largest x of each column, y of each row, and z of all, of a slice."""
    x, y, z = (np.asarray(p, np.float32) for p in points)
    return (x.min(axis=0), x.max(axis=0)), (y.min(axis=1), y.max(axis=1)), (z.min(), z.max())


def _part(p: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """What the window holds of an array that broadcasts to the slice."""
    if not p.ndim:
        return p
    return p[tuple(w if n > 1 else slice(None) for w, n in zip(window, p.shape, strict=True))]

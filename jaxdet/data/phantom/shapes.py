"""Solids as signed distances: f < 0 inside, about mm near the surface.

A point is three arrays (x, y, z) that broadcast, so one slice is a row, a column and a number. x
grows to the patient's left, y to the back, z to the head.
"""

import numpy as np
from jaxtyping import Float

Number = float | int | np.floating
Triple = tuple[Number, Number, Number]
Points = tuple[np.ndarray | Number, np.ndarray | Number, np.ndarray | Number]
Field = Float[np.ndarray, "..."]


def ellipsoid(
    points: Points,
    centre: Triple,
    semi: Triple,
    power: float = 2.0,
) -> Field:
    """Super-ellipsoid sum |p / semi|^power < 1; 0 on its surface, else scaled by the least semi."""
    parts = [abs((p - c) / s) for p, c, s in zip(points, centre, semi, strict=True)]
    if power == 2.0:
        radius = np.sqrt(sum(p * p for p in parts))
    else:
        radius = sum(p**power for p in parts) ** (1.0 / power)
    return (radius - 1.0) * min(semi)


def smooth_min(a: Field, b: Field, width: float) -> Field:
    """Union of two solids whose seam is rounded over `width` mm."""
    share = np.clip(0.5 + 0.5 * (b - a) / width, 0.0, 1.0)
    return b * (1 - share) + a * share - width * share * (1 - share)


def inside(f: Field, width: float) -> Field:
    """Share of a pixel that lies inside, 0 to 1, rising over `width` mm about the surface."""
    return np.clip(0.5 - f / width, 0.0, 1.0)


def tube(
    points: Points, start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"], radius: float
) -> Field:
    """Segment of a vessel with round ends."""
    axis = end - start
    away = [p - a for p, a in zip(points, start, strict=True)]
    length = max(float(axis @ axis), 1e-9)
    along = np.clip(sum(d * a for d, a in zip(away, axis, strict=True)) / length, 0.0, 1.0)
    return np.sqrt(sum((d - along * a) ** 2 for d, a in zip(away, axis, strict=True))) - radius

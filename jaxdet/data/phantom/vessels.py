"""Vessel trees that fill the liver: each branch heads for the middle of the tissue it feeds."""

import numpy as np
from jaxtyping import Float

MURRAY = 2.7  # r0^g = r1^g + r2^g for portal and hepatic veins, so r goes as (tissue fed)^(1/g)


def grow(
    start: Float[np.ndarray, "3"], ends: Float[np.ndarray, "N 3"], radius: float
) -> Float[np.ndarray, "S 7"]:
    """Segments (start xyz, end xyz, radius; mm) from `start` to every point of `ends`.

    The points are halved along their widest axis until one is left; a branch goes half of the way
    to the middle of its points. Without points there is no tree: S = 0.
    """
    segments, open_branches = [], [(start, ends)] if len(ends) else []
    while open_branches:
        root, fed = open_branches.pop()
        tip = fed[0] if len(fed) == 1 else root + 0.5 * (fed.mean(axis=0) - root)
        segments.append([*root, *tip, radius * (len(fed) / len(ends)) ** (1 / MURRAY)])
        if len(fed) > 1:
            axis = int(np.argmax(fed.var(axis=0)))
            order = np.argsort(fed[:, axis], kind="stable")
            half = len(fed) // 2
            open_branches += [(tip, fed[order[:half]]), (tip, fed[order[half:]])]
    return np.array(segments, np.float32).reshape(-1, 7)


def crossing(tree: Float[np.ndarray, "S 7"], z: float, reach: float) -> Float[np.ndarray, "K 7"]:
    """The segments that come within `reach` mm of touching the plane z."""
    low = np.minimum(tree[:, 2], tree[:, 5]) - tree[:, 6] - reach
    high = np.maximum(tree[:, 2], tree[:, 5]) + tree[:, 6] + reach
    return tree[(low <= z) & (z <= high)]

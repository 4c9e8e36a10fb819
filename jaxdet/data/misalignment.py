"""How far do the phases of a slice lie apart where a lesion is?

The tissue that the annotated phase shows in a lesion is shown elsewhere by the other phases. The
distance to the farthest of them, in mm in three dimensions, is the misalignment at that place; that
of a lesion is the median over the blocks of 8 x 8 pixels that lie in it. The papers have no such
number: paper 2 measures a slice by the Dice of its livers (registration/dice.py).
"""

import numpy as np
from jaxtyping import Bool, Float

from jaxdet.types import CtSlice

BLOCK_PX = 8  # of CtSlice.displacement_mm


def misaligned_mm(case: CtSlice) -> Float[np.ndarray, "N"]:
    """The misalignment at each lesion of a slice, float32, in the order of its boxes.

    0 where the annotated phase is the only one, for it is not apart from itself. NaN (not known)
    where the displacement is: of all real CT and of registered sets, where nobody measured what is
    left; also without spacing, and where the annotated phase is not among the phases. A lesion is
    its mask, or its box where there is none. In one without the middle of a block the nearest block
    counts.
    """
    count = len(case.labels)
    if set(case.phases) == {case.annotated}:
        return np.zeros(count, np.float32)
    known = case.displacement_mm is not None and np.isfinite(case.spacing_mm[:2]).all()
    if not known or case.annotated not in case.phases:
        return np.full(count, np.nan, np.float32)
    seen = case.displacement_mm[:, :, case.phases.index(case.annotated)]
    apart = np.linalg.norm(case.displacement_mm - seen[:, :, None], axis=-1).max(axis=2)
    # Blocks are of the portal phase; a lesion is where the annotated one shows their tissue.
    x, y = np.moveaxis(_middles(apart.shape) + seen[..., :2] / np.array(case.spacing_mm[:2]), -1, 0)
    found = [np.median(apart[_blocks(case, i, x, y)]) for i in range(count)]
    return np.array(found, np.float32)


def _middles(blocks: tuple[int, int]) -> Float[np.ndarray, "h w 2"]:
    """x and y of the middle of each block in px, where the first pixel is from 0 to 1."""
    rows, columns = np.indices(blocks)
    return (np.stack([columns, rows], axis=-1) + 0.5) * BLOCK_PX


def _blocks(
    case: CtSlice, i: int, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Which blocks have their tissue, now at x and y, in lesion i; the nearest one if none has."""
    x0, y0, x1, y1 = case.boxes_xyxy[i]
    inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    if case.lesions is not None:
        high, wide = case.lesions.shape
        row, column = (np.floor(v).astype(int).clip(0, n - 1) for v, n in ((y, high), (x, wide)))
        inside &= case.lesions[row, column] == i + 1
    if inside.any():
        return inside
    away = np.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2)
    return away == away.min()

"""Where does each prediction of a feature pyramid look?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def grid(
    shapes_hw: Sequence[tuple[int, int]], strides_px: Sequence[int]
) -> tuple[Float[np.ndarray, "A 2"], Float[np.ndarray, "A"]]:
    """Centres (x, y) in px and strides in px of all cells, level after level, row-major inside one.

    Cell (row, column) of a level looks at ((column + 0.5) * stride, (row + 0.5) * stride). The
    answer is NumPy: shapes are known when a model is traced, so this is a constant of the program.
    """
    centres, strides = [], []
    for (height, width), stride in zip(shapes_hw, strides_px, strict=True):
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        centres.append((np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(np.full(height * width, stride, np.float32))
    return np.concatenate(centres), np.concatenate(strides)

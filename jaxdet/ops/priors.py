"""Where and how large are the prior boxes of SSD?

Liu 2016, arXiv:1512.02325, 2.2, with the sides of amdegroot/ssd.pytorch, which GSSD takes over
(facts, gssd_reference 3.1 and 1.6, gssd_baselines 2.3).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Level(NamedTuple):
    """One feature map: how many cells it has and which boxes stand in each."""

    side: int  # cells a side
    step_px: int  # from one cell to the next
    min_px: float  # side of the first box, a square
    max_px: float  # the second is the square of side sqrt(min_px * max_px)
    ratios: tuple[int, ...]  # each adds a wide and a tall box with the first one's area


class Layout(NamedTuple):
    """All levels of a network, and the side of the image that they are made for."""

    image_px: int
    levels: tuple[Level, ...]


SSD = {  # by the side of the image: 8732 and 24564 priors
    300: Layout(
        300,
        (
            Level(38, 8, 30, 60, (2,)),
            Level(19, 16, 60, 111, (2, 3)),
            Level(10, 32, 111, 162, (2, 3)),
            Level(5, 64, 162, 213, (2, 3)),
            Level(3, 100, 213, 264, (2,)),
            Level(1, 300, 264, 315, (2,)),
        ),
    ),
    512: Layout(
        512,
        (
            Level(64, 8, 20, 51, (2,)),
            Level(32, 16, 51, 133, (2, 3)),
            Level(16, 32, 133, 215, (2, 3)),
            Level(8, 64, 215, 296, (2, 3)),
            Level(4, 128, 296, 378, (2, 3)),
            Level(2, 256, 378, 460, (2,)),
            Level(1, 512, 460, 542, (2,)),
        ),
    ),
}


def boxes_a_cell(layout: Layout) -> tuple[int, ...]:
    """How many priors stand in each cell, level after level: what a head's channels follow."""
    return tuple(2 + 2 * len(level.ratios) for level in layout.levels)


def ssd(shapes_hw: Sequence[tuple[int, int]], layout: Layout) -> Float[np.ndarray, "A 4"]:
    """Priors as (centre x, centre y, width, height), fractions of the image, clipped to [0, 1].

    Levels follow one another, row-major inside one; in a cell the two squares, then for each ratio
    the wide box and the tall one. `shapes_hw` are the feature maps that the network really made: a
    ValueError says where they are not those of the layout. The answer is NumPy: a constant of the
    program.

    As in the reference it is the four numbers that are clipped: sides shrink to 1 at the last
    levels, and a box at the border still reaches over it.
    """
    wanted = [(level.side, level.side) for level in layout.levels]
    came = [tuple(shape) for shape in shapes_hw]
    if came != wanted:
        raise ValueError(
            f"the priors for images of {layout.image_px} px stand on feature maps {wanted}; the "
            f"network made {came}. Give it images of {layout.image_px}x{layout.image_px} px, or "
            "take the priors of its size"
        )
    boxes = [_level(level, layout.image_px) for level in layout.levels]
    return np.clip(np.concatenate(boxes).astype(np.float32), 0.0, 1.0)


def _level(level: Level, image_px: int) -> np.ndarray:
    """Float64 [side * side * boxes a cell, 4]; the caller rounds once, as the reference does."""
    small, large = level.min_px / image_px, level.max_px / image_px
    between = np.sqrt(small * large)
    sides = [(small, small), (between, between)]
    for root in np.sqrt(level.ratios):
        sides += [(small * root, small / root), (small / root, small * root)]
    row, column = np.mgrid[0 : level.side, 0 : level.side].reshape(2, -1)
    # Steps, not sides, set the grid: at level 0 of 300 px 37.5 cells fill the image, not 38.
    centres = (np.stack([column, row], axis=-1) + 0.5) / (image_px / level.step_px)
    cells, kinds = len(centres), len(sides)
    return np.concatenate([np.repeat(centres, kinds, axis=0), np.tile(sides, (cells, 1))], axis=1)

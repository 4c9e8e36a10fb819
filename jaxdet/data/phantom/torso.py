"""The frame of the trunk as signed distances: skin, muscles, spine, ribs, diaphragm, lungs.

Functions of (body, points), as in anatomy.
"""

import numpy as np

from jaxdet.data.phantom.body import BACK_MM, Body, organ, roughness
from jaxdet.data.phantom.shapes import (
    Field,
    Number,
    Points,
    common,
    ellipsoid,
    smooth_max,
    smooth_min,
    union,
)

ROUND = 2.35  # power of the cavity's super-ellipse


def skin(body: Body, points: Points, depth_mm: float = 0.0) -> Field:
    """The body less `depth_mm` all around; its back is flattened and grooved over the spine."""
    return _outline(body, points, depth_mm, depth_mm, depth_mm, 2.4)


def flesh(body: Body, points: Points) -> Field:
    """The body less its subcutaneous fat, which is thicker in front than at the side."""
    return _outline(body, points, body.fat_mm, body.front_fat_mm, 1.1 * body.fat_mm, 2.5)


def _outline(
    body: Body, points: Points, side: float, front: float, back: float, power: float
) -> Field:
    x, y, _ = points
    deep = (body.ap_mm - front - back) / 2 * 1.05
    middle = front + deep - body.ap_mm / 2
    semi = (body.lr_mm / 2 - side, deep, 1e4)
    end = body.ap_mm / 2 - back
    f = ellipsoid((x, y, 0.0), (0.0, middle, 0.0), semi, power)
    groove = 5.0 * np.exp(-((x / 13.0) ** 2)) * np.clip(y / 30.0 - 1, 0.0, 1.0)
    return smooth_max(f, y - np.float32(end), 10.0) + groove


def wall(body: Body, points: Points, depth_mm: float = 0.0) -> Field:
    """The inner side of the abdominal wall and rib cage, `depth_mm` further in."""
    (middle, deep), (x, y, _) = _cavity(body), points
    semi = (body.side_mm - depth_mm, deep - depth_mm, 1e4)
    cavity = ellipsoid((x, y, 0.0), (0.0, middle, 0.0), semi, ROUND)
    return smooth_max(cavity, depth_mm + 2.0 - _beside_spine(body, x, y), 8.0)


def _cavity(body: Body) -> tuple[float, float]:
    """y of the cavity's middle, and half of its depth."""
    back = body.canal_y_mm + BACK_MM
    return (back - body.front_mm) / 2, (back + body.front_mm) / 2


def spine(body: Body, points: Points) -> Field:
    """Vertebrae, crura and the fat beside them: what the liver never enters."""
    x, y, _ = points
    return ellipsoid((x, y, 0.0), (0.0, body.canal_y_mm - 6.0, 0.0), (29.0, 42.0, 1e4))


def erectors(body: Body, points: Points) -> Field:
    """The muscles beside the spine's processes."""
    return np.maximum(_beside_spine(body, *points[:2]), flesh(body, points) + 1.0)


def _beside_spine(body: Body, x: Number | np.ndarray, y: Number | np.ndarray) -> Field:
    side = np.maximum(np.abs(x) - np.float32(33.0), np.float32(0.0))
    return ellipsoid((side, y, 0.0), (0.0, body.canal_y_mm + 31.0, 0.0), (34.0, 22.0, 1e4))


def crura(body: Body, points: Points) -> Field:
    """The diaphragm's crura around aorta and spine, and the psoas below them."""
    x, y, z = (np.asarray(p, np.float32) for p in points)
    arch = ellipsoid((x, y, 0.0), (3.0, body.canal_y_mm - 34.0, 0.0), (29.0, 39.0, 1e4))
    behind = y - np.float32(body.canal_y_mm - 22.0)
    bands = common(np.abs(arch) - 2.3, behind, np.abs(z - 5.0) - 50.0)
    size = np.clip(-(z + 25.0) * np.float32(0.16), 0.1, 13.0)
    beside = np.sqrt((np.abs(x) - 29.0) ** 2 + (y - np.float32(body.canal_y_mm - 15.0)) ** 2)
    return np.minimum(bands, beside - size)


def processes(body: Body) -> list[tuple[tuple[float, float], tuple[float, float], float]]:
    """Start and end (x, y) and radius of a vertebra's bony processes, the spinous one first."""
    y = body.canal_y_mm
    found = [((0.0, y + 9.0), (0.0, y + 38.0), 3.5)]
    for side in (-1.0, 1.0):
        found.append(((side * 14.0, y - 14.0), (side * 14.0, y + 2.0), 4.5))
        found.append(((side * 13.0, y + 4.0), (side * 36.0, y + 10.0), 4.5))
    return found


def ribs(body: Body, z: float) -> list[tuple[float, float, float]]:
    """(x, y, direction in rad) of the rib sections: they run forward and down along the wall."""
    (middle, deep), outwards = _cavity(body), 5.5
    semi = np.array([body.side_mm + outwards, deep + outwards])
    found = []
    for side, ahead in ((1.0, 0.0), (-1.0, 0.21)):
        turns = 0.38 + (body.rib_turn + ahead + 0.0085 * z) % 0.48 + 0.48 * np.arange(6)
        for turn in turns[turns < 2.62]:
            way = np.array([[np.sin(t), np.cos(t)] for t in (turn, turn + 0.02)])
            way /= ((np.abs(way / semi) ** ROUND).sum(axis=1) ** (1 / ROUND))[:, None]
            (x, y), (dx, dy) = way[0], way[1] - way[0]
            along = float(np.arctan2(dy, side * dx))
            found.append((float(side * x), float(y + middle), along))
    return found


def diaphragm(body: Body, points: Points) -> Field:
    """What lies under the two domes."""
    domes = []
    for name in ("right_dome", "left_dome"):
        (cx, cy, cz), semi = body.places[name]
        x, y, z = points
        # Below its middle a dome goes on as a cylinder.
        domes.append(ellipsoid((x, y, np.maximum(z, np.float32(cz))), (cx, cy, cz), semi))
    return smooth_min(*domes, 46.0)


def lungs(body: Body, points: Points) -> Field:
    """What lies over the diaphragm, inside the wall and beside the mediastinum."""
    x, y, z = points
    behind = y - np.float32(body.canal_y_mm)
    # The recesses beside the domes reach further down at the back than in front.
    floor = 48.0 - 46.0 * np.clip((behind + 110.0) / 130.0, 0.0, 1.0) - z
    floor = floor + 7.0 * roughness(body, points)
    middle = ellipsoid((x, y, 0.0), (-4.0, body.canal_y_mm - 48.0, 0.0), (40.0, 46.0, 1e4))
    heart = organ(body, "heart", points, 3.0, power=2.2)
    return common(
        wall(body, points, 1.5),
        -diaphragm(body, points),
        floor,
        -union(middle, heart, spine(body, points)),
    )

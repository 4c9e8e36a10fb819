"""The solids of one upper abdomen, as signed distances in mm, before any patient's size.

The frame is the body's: origin at its middle, x to the left, y to the back, z to the head. Sizes
and places follow the project's fact sheet on abdominal CT, section 5, moved a little so that the
organs touch.
"""

import dataclasses

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from jaxdet.data.phantom.shapes import Field, Points, ellipsoid, smooth_min, tube

ROUGH_MM = 8.0  # grid of the noise that makes outlines irregular
LIVER_BOX_MM = ((-150.0, 95.0), (-95.0, 95.0), (-80.0, 84.0))

# organ: centre and semi-axes in mm
ORGANS = {
    "heart": ((25.0, -38.0, 100.0), (62.0, 48.0, 48.0)),
    "spleen": ((108.0, 30.0, 14.0), (30.0, 52.0, 52.0)),
    "left_kidney": ((58.0, 42.0, -58.0), (27.0, 24.0, 54.0)),
    "right_kidney": ((-55.0, 48.0, -72.0), (27.0, 24.0, 54.0)),
    "stomach": ((66.0, -38.0, 16.0), (46.0, 42.0, 44.0)),
    "gallbladder": ((-38.0, -52.0, -42.0), (15.0, 17.0, 27.0)),
    "aorta": ((12.0, 2.0, 0.0), (10.0, 10.0, 1e4)),
    "cava": ((-25.0, -3.0, 0.0), (12.5, 8.5, 1e4)),
    "vertebra": ((0.0, 31.0, 0.0), (22.0, 17.0, 1e4)),
    "canal": ((0.0, 54.0, 0.0), (10.5, 8.0, 1e4)),
}
PANCREAS = np.array([[-28, -26, -40], [0, -34, -30], [35, -22, -24], [78, 8, -8]], np.float32)
HILUM = np.array([-34.0, -24.0, -6.0], np.float32)
PORTAL_START = np.array([-6.0, -16.0, -52.0], np.float32)
CAVAL_INLET = np.array([-25.0, -6.0, 58.0], np.float32)  # where the hepatic veins end


@dataclasses.dataclass(frozen=True)
class Body:
    """What differs between two patients' outlines."""

    rough: Float[np.ndarray, "Z Y X"]  # smooth noise of SD 1 on a grid of ROUGH_MM
    places: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]]
    fat_mm: float  # under the skin at the side
    liver_size: float  # factor on the liver's semi-axes
    gas: float  # level of the gas in the stomach: 0 half full of it, 1 none
    rib_turn: float  # rad
    disc_mm: float  # height of the first disc
    bowel: Float[np.ndarray, "N 5"]  # centre, radius, content from 0 to 1


def draw(rng: np.random.Generator) -> Body:
    """One patient's outlines."""
    shape = (32, 48, 48)
    rough = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 14.0 / ROUGH_MM, mode="wrap")
    places = {
        name: (
            tuple(c + m for c, m in zip(centre, rng.normal(0, _wander(name), 3), strict=True)),
            tuple(
                s * f for s, f in zip(semi, rng.normal(1, 0.05, 3).clip(0.88, 1.12), strict=True)
            ),
        )
        for name, (centre, semi) in ORGANS.items()
    }
    low, high = np.array([-95, -78, -95, 11, 0]), np.array([118, 12, 2, 21, 1])
    return Body(
        rough=(rough / rough.std()).astype(np.float32),
        places=places,
        fat_mm=float(rng.uniform(7, 19)),
        liver_size=float(0.91 * np.exp(rng.normal(0, 0.05)).clip(0.88, 1.1)),
        gas=float(rng.uniform(0.2, 1.2)),
        rib_turn=float(rng.uniform(0, 0.5)),
        disc_mm=float(rng.uniform(0, 32)),
        bowel=rng.uniform(low, high, (int(rng.integers(22, 36)), 5)).astype(np.float32),
    )


def _wander(name: str) -> float:
    return {"stomach": 5.0, "spleen": 3.0, "gallbladder": 4.0, "heart": 4.0}.get(name, 1.2)


def organ(
    body: Body, name: str, points: Points, grown_mm: float = 0.0, power: float = 2.0
) -> Field:
    """An ellipsoid of the table ORGANS at this patient's place, `grown_mm` larger all around."""
    centre, semi = body.places[name]
    return ellipsoid(points, centre, tuple(s + grown_mm for s in semi), power)


def roughness(body: Body, points: Points, stretch: float = 1.0) -> Field:
    """Smooth noise of SD 1 and about 14 mm (divided by `stretch`), periodic, at any points."""
    at = [np.asarray(p, np.float32) * np.float32(stretch / ROUGH_MM) for p in points]
    if at[2].ndim:
        where = np.broadcast_arrays(*reversed(at))
        return scipy.ndimage.map_coordinates(body.rough, where, order=1, mode="grid-wrap")
    # A slice: x is a row and y a column, so the axes can be done one after the other.
    plane = _between(body.rough, at[2].reshape(1), 0)[0]
    return _between(_between(plane, at[1].ravel(), 0), at[0].ravel(), 1)


def _between(values: np.ndarray, at: Float[np.ndarray, "N"], axis: int) -> np.ndarray:
    """Linear interpolation along one periodic axis."""
    low = np.floor(at).astype(int)
    shape = [1] * values.ndim
    shape[axis] = -1
    share = (at - low).astype(np.float32).reshape(shape)
    a = values.take(low, axis, mode="wrap")
    return a + share * (values.take(low + 1, axis, mode="wrap") - a)


def skin(body: Body, points: Points, depth_mm: float = 0.0) -> Field:
    """The body less `depth_mm` all around; its back is flattened."""
    semi = (168.0 - depth_mm, 124.0 - depth_mm, 1e4)
    x, y, _ = points
    return np.maximum(ellipsoid((x, y, 0.0), (0, 0, 0), semi, 2.4), y - (113.0 - depth_mm))


def wall(body: Body, points: Points, depth_mm: float = 0.0) -> Field:
    """The inner side of the abdominal wall and rib cage, `depth_mm` further in."""
    side = 168.0 - body.fat_mm - 12.0 - depth_mm
    front = 124.0 - 1.15 * body.fat_mm - 9.0 - depth_mm
    x, y, _ = points
    return np.maximum(
        ellipsoid((x, y, 0.0), (0, -4, 0), (side, front, 1e4), 2.3), y - (88.0 - depth_mm)
    )


def lungs(body: Body, points: Points) -> Field:
    """What lies over the two domes of the diaphragm, inside the wall and beside the mediastinum."""
    x, y, z = points
    right = 92.0 - 85.0 * (((x + 70.0) / 80.0) ** 2 + ((y - 4.0) / 84.0) ** 2)
    left = 78.0 - 85.0 * (((x - 76.0) / 78.0) ** 2 + ((y - 4.0) / 84.0) ** 2)
    # The lungs reach further down at the back than in front.
    domes = np.where(x < 0, right, left) + 45.0 * np.clip(-y / 90.0, 0.0, 1.0)
    middle = ellipsoid((x, y, 0.0), (2, 12, 0), (34, 48, 1e4))
    return np.maximum.reduce([wall(body, points, 1.0), domes - z, -middle])


def liver(body: Body, points: Points) -> Field:
    """Right and left lobe, hollowed by the viscera and the spine, inside the wall, irregular.

    The gallbladder, the cava, the right kidney and the fissure of the falciform ligament are cut
    out.
    """
    x, y, z = points
    k = body.liver_size
    right = ellipsoid(points, (-80, 6, 0), (70 * k, 78 * k, 80 * k), 2.3)
    left = ellipsoid(points, (12, -56, 26), (72 * k, 32 * k, 36 * k))
    viscera = ellipsoid(points, (34, 30, -44), (72, 60, 92))
    spine = np.sqrt(x * x + (y - 38.0) ** 2) - 33.0
    f = smooth_min(right, left, 14.0) + 2.4 * roughness(body, points)
    f = -smooth_min(-f, viscera, 10.0)
    fissure = np.maximum(abs(x - 2.0 + 0.2 * (y + 60.0)) - 1.4, np.maximum(y + 56.0, z - 14.0))
    holes = [
        -spine,
        -organ(body, "gallbladder", points, 1.0),
        -organ(body, "cava", points),
        -organ(body, "right_kidney", points, 4.0),
        -fissure,
        wall(body, points, 2.5),
    ]
    for hole in holes:
        f = np.maximum(f, hole)
    return f


def spleen(body: Body, points: Points) -> Field:
    """A crescent against the left wall."""
    hollow = ellipsoid(points, (68, 6, 12), (38, 52, 80))
    f = organ(body, "spleen", points) + 1.2 * roughness(body, points)
    return np.maximum.reduce([f, -hollow, wall(body, points, 2.0)])


def pancreas(body: Body, points: Points) -> Field:
    """From the duodenum behind the stomach to the spleen."""
    parts = [
        tube(points, a, b, r)
        for a, b, r in zip(PANCREAS[:-1], PANCREAS[1:], (12.0, 9.0, 8.0), strict=True)
    ]
    return np.minimum.reduce(parts) + 1.5 * roughness(body, points, 2.0)


def ribs(body: Body, z: float) -> list[tuple[float, float, float]]:
    """(x, y, direction in rad) of the rib sections: they run forward and down along the wall."""
    side, front = 168.0 - body.fat_mm - 6.0, 124.0 - 1.15 * body.fat_mm - 4.0
    first = 0.42 + (body.rib_turn + 0.01 * z) % 0.5
    turns = first + 0.5 * np.arange(5)
    found = []
    for turn in turns[turns < 2.6]:
        x, y = side * np.sin(turn), min(front * np.cos(turn) - 4.0, 92.0)
        along = float(np.arctan2(-front * np.sin(turn), side * np.cos(turn)))
        found += [(float(x), float(y), along), (-float(x), float(y), -along)]
    return found

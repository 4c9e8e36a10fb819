"""One patient's outlines: what differs between two bodies, and the tables they are drawn from.

The frame is the body's: origin at its middle, x to the left, y to the back, z to the head, 0 at the
middle of the liver; lengths in mm. Sizes and places follow the project's fact sheet on abdominal
CT, section 5, and the organ labels of the two real CT that it measured.
"""

import dataclasses
import itertools

import cv2
import numpy as np
import scipy.ndimage
from jaxtyping import Float

from jaxdet.data.phantom.shapes import Field, Points, ellipsoid, tube, union

ROUGH_MM = 8.0  # grid of the noise that makes outlines irregular
LIVER_BOX_MM = ((-164.0, 76.0), (-114.0, 110.0), (-112.0, 78.0))  # holds the liver of every patient

# Sizes of the mean patient, to whose cavity the tables below are scaled.
LR_MM, AP_MM, CANAL_MM = 330.0, 245.0, 55.5  # width, depth, y of the spinal canal
SIDE_MM, FRONT_MM, BACK_MM = 140.0, 154.0, 36.0  # cavity: half width, before and behind the canal

# Centre and semi-axes in mm, x and y from the spinal canal (as in the fact sheet). These scale with
# the cavity:
ORGANS = {
    "heart": ((28.0, -112.0, 86.0), (58.0, 38.0, 38.0)),
    "spleen": ((104.0, -26.0, 6.0), (30.0, 52.0, 50.0)),
    "spleen_hollow": ((58.0, -60.0, 4.0), (42.0, 50.0, 84.0)),
    "left_kidney": ((62.0, -22.0, -46.0), (26.0, 24.0, 52.0)),
    "right_kidney": ((-60.0, -22.0, -60.0), (26.0, 24.0, 52.0)),
    "fundus": ((62.0, -66.0, 32.0), (30.0, 32.0, 26.0)),
    "stomach": ((58.0, -96.0, 2.0), (26.0, 31.0, 38.0)),
    "antrum": ((14.0, -116.0, -34.0), (38.0, 17.0, 15.0)),
    "gallbladder": ((-68.0, -104.0, -34.0), (13.5, 19.0, 26.0)),
}
# These scale with the cavity and with the liver, whose diaphragm stays where it is:
LOBES = {
    "right_lobe": ((-66.0, -62.0, 0.0), (82.0, 90.0, 78.0)),
    "left_lobe": ((-7.0, -116.0, 16.0), (64.0, 51.0, 46.0)),
    "caudate": ((-16.0, -78.0, 14.0), (15.0, 14.0, 27.0)),
    "hollow": ((48.0, -54.0, -46.0), (94.0, 54.0, 90.0)),
    "gut": ((18.0, -76.0, -72.0), (102.0, 84.0, 72.0)),
    "porta": ((-34.0, -87.0, -6.0), (32.0, 5.5, 9.0)),
    "venosum": ((-8.0, -92.0, 4.0), (16.0, 1.8, 13.0)),
}
DOMES = {
    "right_dome": ((-62.0, -64.0, -34.0), (88.0, 91.0, 97.0)),
    "left_dome": ((64.0, -70.0, -38.0), (90.0, 92.0, 90.0)),
}
# These do not scale:
SPINE = {
    "aorta": ((14.0, -57.0, 0.0), (10.0, 10.0, 1e4)),
    "cava": ((-30.0, -62.0, 0.0), (12.5, 8.5, 1e4)),
    "vertebra": ((0.0, -24.0, 0.0), (21.0, 16.0, 1e4)),
    "canal": ((0.0, 0.0, 0.0), (11.0, 8.0, 1e4)),
}
SLOPES = {  # how far x and y move for each mm towards the head
    "left_kidney": (-0.28, 0.16),
    "right_kidney": (0.28, 0.16),
    "spleen": (-0.10, 0.10),
    "gallbladder": (0.15, 0.30),
    "cava": (0.0, -0.10),
    "right_lobe": (0.30, 0.0),
}
PATHS = {  # x, y, z from the canal and radius, along tubes; they scale with the cavity
    "pancreas": [(-20, -88, -46, 12), (0, -94, -34, 9), (32, -88, -18, 8), (82, -48, 4, 8)],
    "right_adrenal": [(-31, -46, 18, 2.4), (-34, -38, 2, 2.8), (-40, -28, -8, 2.2)],
    "left_adrenal": [(38, -48, 20, 2.6), (42, -44, 6, 3.0), (46, -34, -4, 2.4)],
    "oesophagus": [(4, -68, 100, 7), (10, -72, 52, 8), (38, -78, 34, 9)],
    "mesenteric_vein": [(-2, -94, -118, 5.6), (-6, -90, -52, 5.6)],
    "splenic_vein": [(92, -38, 4, 3.6), (72, -50, 0, 4), (34, -82, -18, 4.3), (-6, -90, -52, 4)],
    "splenic_artery": [(92, -32, 10, 2), (64, -52, 8, 2.2), (38, -74, -4, 2.4), (11, -78, -4, 2)],
    "coeliac": [(13, -62, -8, 3.4), (11, -78, -4, 3.2)],
    "hepatic_artery": [(11, -78, -4, 2.5), (-12, -92, -16, 2.4)],
    "mesenteric_artery": [(13, -62, -24, 3.4), (10, -80, -42, 3.4), (8, -90, -118, 3.2)],
}
COLON = [(-98, -48, -118), (-96, -82, -72), (-78, -122, -58), (-30, -134, -76), (24, -136, -74)]
COLON += [(72, -130, -36), (100, -108, 10), (120, -84, -4), (122, -62, -46), (122, -44, -118)]
DUODENUM = [(-26, -106, -30), (-46, -94, -38), (-46, -78, -62), (-16, -74, -84)]
ANCHOR = (-30.0, -62.0, 58.0)  # where hepatic veins enter the cava: the liver scales about it

FISSURE_MM = 15.0  # from the middle of the hilum to the umbilical fissure


@dataclasses.dataclass(frozen=True)
class Body:
    """What differs between two patients' outlines. Lengths in mm."""

    rough: Float[np.ndarray, "Z Y X"]  # smooth noise of SD 1 on a grid of ROUGH_MM
    places: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]]
    paths: dict[str, Float[np.ndarray, "_ 4"]]  # x, y, z, radius along a tube
    lr_mm: float  # the body's width
    ap_mm: float  # and depth
    canal_y_mm: float  # of the middle of the spinal canal
    fat_mm: float  # under the skin at the side
    front_fat_mm: float
    side_mm: float  # half width of the cavity
    front_mm: float  # from the origin to the cavity's front
    liver_size: float  # factor on the liver's lobes
    cirrhosis: float  # 0 healthy to 1
    nodules_mm: float  # SD of the liver's nodular surface
    ascites_mm: float  # of fluid around the liver
    gas: float  # level of the gas in the stomach: 0 half full of it, 1 none
    rib_turn: float  # rad
    disc_mm: float  # height of the first disc
    bowel: Float[np.ndarray, "L 5"]  # centre, radius, content from 0 to 1


def organ(
    body: Body, name: str, points: Points, grown_mm: float = 0.0, power: float = 2.0
) -> Field:
    """An ellipsoid of the tables at this patient's place, `grown_mm` larger all around."""
    centre, semi = body.places[name]
    if name in SLOPES:
        x, y, z = points
        a, b = SLOPES[name]
        points = x - a * (z - centre[2]), y - b * (z - centre[2]), z
    if name == "venosum":  # it runs forward to the left
        x, y, z = points
        points = x, y + np.float32(0.5) * (x - np.float32(centre[0])), z
    return ellipsoid(points, centre, tuple(s + grown_mm for s in semi), power)


def path(body: Body, name: str, points: Points) -> Field:
    """A chain of tubes of the table PATHS: pancreas, adrenals, oesophagus."""
    knots = body.paths[name]
    parts = [tube(points, a[:3], b[:3], a[3]) for a, b in itertools.pairwise(knots)]
    return union(*parts)


def roughness(body: Body, points: Points, stretch: float = 1.0) -> Field:
    """Smooth noise of SD 1 and about 14 mm (divided by `stretch`), periodic, at any points."""
    x, y, z = (np.asarray(p, np.float32) * np.float32(stretch / ROUGH_MM) for p in points)
    if z.size == 1 and x.ndim == y.ndim == 2 and x.shape[0] == y.shape[1] == 1:
        # A slice: x is a row and y a column, so the axes can be done one after the other.
        plane = _between(body.rough, z.reshape(1), 0)[0]
        return _between(_between(plane, y.ravel(), 0), x.ravel(), 1)
    x, y, z = np.broadcast_arrays(x, y, z)
    if x.ndim != 2 or np.ptp(z) > 24:
        return scipy.ndimage.map_coordinates(body.rough, (z, y, x), order=1, mode="grid-wrap")
    return _layered(body.rough, x, y, z)


def _layered(rough: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Field:
    """Trilinear interpolation of a displaced slice: a quick bilinear map of each layer it meets."""
    depth, height, width = rough.shape
    x, y = x - width * np.floor(x / width), y - height * np.floor(y / height)
    found = np.zeros(x.shape, np.float32)
    for k in range(int(np.floor(z.min())), int(np.floor(z.max())) + 2):
        layer = cv2.copyMakeBorder(rough[k % depth], 0, 2, 0, 2, cv2.BORDER_WRAP)
        found += np.maximum(1 - np.abs(z - k), 0) * cv2.remap(layer, x, y, cv2.INTER_LINEAR)
    return found


def _between(values: np.ndarray, at: Float[np.ndarray, "N"], axis: int) -> np.ndarray:
    """Linear interpolation along one periodic axis."""
    low = np.floor(at).astype(int)
    shape = [1] * values.ndim
    shape[axis] = -1
    share = (at - low).astype(np.float32).reshape(shape)
    a = values.take(low, axis, mode="wrap")
    return a + share * (values.take(low + 1, axis, mode="wrap") - a)


def sizes_mm(rng: np.random.Generator) -> dict[str, float]:
    """Width, depth and layers of the body: depth over width stays between .70 and .80."""
    lr, ap = 0.0, 0.0
    while not (0.705 <= ap / max(lr, 1.0) <= 0.795 and 265 <= lr <= 405):
        a, b = rng.normal(size=2)
        lr, ap = LR_MM + 30 * a, AP_MM + 28 * (0.8 * a + 0.6 * b)
    fat = float(np.clip(12.5 + 0.10 * (lr - LR_MM) + 3.0 * rng.normal(), 8, 20))
    front = float(np.clip(fat * rng.uniform(1.05, 1.45), 9, 24))
    deep = float(np.clip(66 + 0.4 * (fat - 12) + 2 * rng.normal(), 62, 75))
    found = {
        "lr_mm": lr,
        "ap_mm": ap,
        "canal_y_mm": ap / 2 - deep,
        "fat_mm": fat,
        "front_fat_mm": front,
        "side_mm": lr / 2 - fat - 12.5,
        "front_mm": ap / 2 - front - 9,
    }
    return {name: float(size) for name, size in found.items()}


def scale_of(sizes: dict[str, float]) -> Float[np.ndarray, "3"]:
    """Of the tables' x and y to this patient's cavity."""
    depth = sizes["front_mm"] + sizes["canal_y_mm"]
    return np.array([sizes["side_mm"] / SIDE_MM, depth / FRONT_MM, 1.0])

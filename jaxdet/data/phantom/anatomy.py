"""The solids of one upper abdomen, as signed distances in mm.

    draw -> Body -> skin > flesh > wall > organs, each a function of (body, points)

Points are a slice (x [1, S], y [S, 1], z a number), three full arrays that breathing displaced, or
for most also a list (x [N], y [N], z [N]). The frame is that of `body`; the trunk is in `torso` and
named here too, so that callers know one room.
"""

import dataclasses

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Int8

from jaxdet.data.phantom.body import (
    ANCHOR,
    COLON,
    DOMES,
    DUODENUM,
    FISSURE_MM,
    LIVER_BOX_MM,
    LOBES,
    ORGANS,
    PATHS,
    ROUGH_MM,
    SLOPES,
    SPINE,
    Body,
    organ,
    path,
    roughness,
    scale_of,
    sizes_mm,
)
from jaxdet.data.phantom.shapes import (
    Field,
    Number,
    Points,
    common,
    ellipsoid,
    extents,
    near,
    smooth_max,
    smooth_min,
    union,
)
from jaxdet.data.phantom.torso import (
    crura,
    diaphragm,
    erectors,
    flesh,
    lungs,
    processes,
    ribs,
    skin,
    spine,
    wall,
)

__all__ = [
    "LIVER_BOX_MM",
    "Body",
    "ascites",
    "crura",
    "diaphragm",
    "draw",
    "erectors",
    "falciform",
    "flesh",
    "kidney",
    "limits",
    "liver",
    "loop",
    "lungs",
    "organ",
    "pancreas",
    "path",
    "planes",
    "processes",
    "ribs",
    "roughness",
    "segment",
    "skin",
    "spine",
    "spleen",
    "stomach",
    "wall",
]

LIVER_ML, LIVER_SPREAD = 1360.0, 0.17  # log-normal between patients; cirrhosis takes some away
SPLEEN_ML, SPLEEN_SPREAD, SPLEEN_TABLE_ML = 182.0, 0.38, 176.0  # median; of the table's shape
GALLBLADDER_ML, GALLBLADDER_TABLE_ML = (20.0, 45.0), 29.5
LIVER_HOLES = {"porta": 0.0, "venosum": 0.0, "gallbladder": 1.0, "cava": 0.0, "aorta": 1.5}
LIVER_HOLES |= {"right_kidney": 4.0}
LIVER_SIZE = (0.72, 1.18)  # what its lobes may be scaled by
CUT_MM = 12.0  # from a hole: beyond, it changes no signed distance of a slice
VOLUME_GRID_MM = 8.0  # of the points that measure the liver: about 1 %
Plane = tuple[float, float, float]
LOOP = 1.15  # how much wider than high a piece of bowel is


def draw(rng: np.random.Generator, cirrhosis: float = 0.0) -> Body:
    """One patient's outlines. With `cirrhosis` (0 to 1) the signs of the fact sheet's section 4.

    They are: caudate and left lobe larger, right lobe and the whole smaller, a nodular surface, a
    wide hilum, a large spleen, and ascites in some of the severe.
    """
    sizes = sizes_mm(rng)
    white = rng.normal(size=(32, 48, 48))
    rough = scipy.ndimage.gaussian_filter(white, 14.0 / ROUGH_MM, mode="wrap")
    severe = max(0.0, cirrhosis - 0.5) * 2
    scale = scale_of(sizes) * (1.0, 1.0, np.clip(rng.normal(1.05, 0.035), 0.98, 1.12))
    table = _table(rng, cirrhosis, scale)
    body = Body(
        rough=(rough / rough.std()).astype(np.float32),
        places={},
        paths={name: _scaled(path, scale, sizes["canal_y_mm"]) for name, path in PATHS.items()},
        **sizes,
        liver_size=1.0,
        cirrhosis=float(cirrhosis),
        nodules_mm=float(cirrhosis * rng.uniform(0.4, 1.1)),
        ascites_mm=float(rng.uniform(5, 18)) if rng.random() < 0.35 * severe else 0.0,
        gas=float(rng.uniform(0.2, 1.2)),
        rib_turn=float(rng.uniform(0, 0.5)),
        disc_mm=float(rng.uniform(0, 32)),
        bowel=np.zeros((0, 5), np.float32),
    )
    girth, own = float(np.log(scale[:2].prod())) / 0.2, np.clip(rng.normal(), -2.3, 2.3)
    wanted = LIVER_ML * np.exp(LIVER_SPREAD * (0.7 * girth + 0.7 * own))
    body = _fitted(body, table, scale, wanted * (1 - 0.2 * cirrhosis))
    return dataclasses.replace(body, bowel=_bowel(rng, body, scale))


def _table(rng: np.random.Generator, cirrhosis: float, scale: Float[np.ndarray, "3"]) -> dict:
    """The tables with this patient's own wandering, before they are scaled."""
    wander = {"stomach": 4.0, "fundus": 4.0, "antrum": 4.0, "spleen": 2.5, "heart": 4.0}
    wander |= {"gallbladder": 3.0}
    spread = {"vertebra": 0.03, "canal": 0.03, "aorta": 0.08, "cava": 0.08} | dict.fromkeys(
        (*LOBES, *DOMES), 0.025
    )
    grown = {"caudate": 0.3, "left_lobe": 0.12, "right_lobe": -0.07, "porta": 0.5}
    spleen = SPLEEN_ML * np.exp(SPLEEN_SPREAD * np.clip(rng.normal(), -2, 2))
    spleen *= 1 + cirrhosis * rng.uniform(0.5, 1.5)
    bile = rng.uniform(*GALLBLADDER_ML)
    volume = float(scale.prod())
    sized = {
        "spleen": (spleen / SPLEEN_TABLE_ML / volume) ** (1 / 3),
        "gallbladder": (bile / GALLBLADDER_TABLE_ML / volume) ** (1 / 3),
    }
    found = {}
    for name, (centre, semi) in (ORGANS | LOBES | DOMES | SPINE).items():
        moved = np.array(centre) + rng.normal(0, wander.get(name, 1.2), 3).clip(-8, 8)
        factor = rng.normal(1, spread.get(name, 0.04), 3).clip(0.85, 1.15)
        if name in ("aorta", "cava"):  # round, whatever their size
            factor[1] = factor[0]
        factor = factor * sized.get(name, 1.0) * (1 + cirrhosis * grown.get(name, 0.0))
        found[name] = moved, np.array(semi) * factor
    found["canal"] = np.zeros(3), found["canal"][1]
    return found


def _fitted(body: Body, table: dict, scale: Float[np.ndarray, "3"], wanted_ml: float) -> Body:
    """The body with its places, the lobes scaled until the liver has its volume."""
    lines = [np.arange(low, high, VOLUME_GRID_MM, dtype=np.float32) for low, high in LIVER_BOX_MM]
    points = tuple(p.ravel() for p in np.meshgrid(*lines, indexing="ij"))
    size = 1.0
    for _ in range(5):
        places = _places(table, scale, body.canal_y_mm, size)
        body = dataclasses.replace(body, places=places, liver_size=float(size))
        found_ml = np.count_nonzero(liver(body, points) < 0) * VOLUME_GRID_MM**3 / 1000
        size = float(np.clip(size * (wanted_ml / found_ml) ** 0.4, *LIVER_SIZE))
    return body


def _places(table: dict, scale: Float[np.ndarray, "3"], canal_y: float, size: float) -> dict:
    found = {}
    for name, (centre, semi) in table.items():
        if name in LOBES:
            # What hollows the liver out gives way downwards and grows less than the liver does.
            own = size**0.3 if name in ("hollow", "gut") else size
            centre = ANCHOR + np.array([own, own, size]) * (centre - ANCHOR)
            semi = own * semi
        if name not in SPINE:
            centre, semi = centre * scale, semi * scale
        x, y, z = (float(c) for c in centre)
        found[name] = (x, y + canal_y, z), tuple(float(s) for s in semi)
    return found


def _scaled(path: list, scale: Float[np.ndarray, "3"], canal_y: float) -> Float[np.ndarray, "N 4"]:
    found = np.array(path, np.float32)
    found[:, :3] *= scale
    found[:, 1] += canal_y
    return found


def _bowel(
    rng: np.random.Generator, body: Body, scale: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "N 5"]:
    """Colon, duodenum and small bowel as balls, each as large as its neighbours let it be."""
    low, high = np.array([-60, -128, -120, 9, 0]), np.array([100, -60, -40, 15, 0.25])
    loops = [rng.uniform(low, high, (70, 5))]
    for line, step, radius, content in (
        (COLON, 20.0, (16, 24), (0.2, 1.1)),
        (DUODENUM, 14.0, (12, 15), (0.0, 0.4)),
    ):
        knots = np.array(line, float)
        along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))]
        at = np.arange(0, along[-1], step)
        middles = np.stack([np.interp(at, along, knots[:, k]) for k in range(3)], axis=1)
        middles += rng.normal(0, 3, middles.shape)
        sizes = rng.uniform(*np.transpose([radius, content]), (len(at), 2))
        loops.insert(0, np.hstack([middles, sizes]))
    found = np.concatenate(loops)
    found[:, :3] = found[:, :3] * scale + [0, body.canal_y_mm, 0]
    free = _free(body, tuple(found[:, :3].astype(np.float32).T))
    found[:, 3] = np.minimum(found[:, 3], (free + 2.0) / LOOP)
    kept: list[np.ndarray] = []
    for k, loop in enumerate(found):
        small = k >= len(found) - 70
        apart = all(np.linalg.norm(loop[:3] - o[:3]) > 0.8 * (loop[3] + o[3]) for o in kept)
        if loop[3] > 8 and (apart or not small):
            kept.append(loop)
    return np.array(kept, np.float32).reshape(-1, 5)


def _free(body: Body, points: Points) -> Field:
    """Distance to all that bowel may not enter, negative inside of it."""
    solids = [organ(body, n, points) for n in ("left_kidney", "right_kidney", "aorta", "cava")]
    solids += [organ(body, "gallbladder", points), organ(body, "vertebra", points)]
    solids += [f(body, points) for f in (liver, spleen, stomach, pancreas)]
    return union(*solids, -wall(body, points))


def liver(body: Body, points: Points) -> Field:
    """Right, left and caudate lobe under the diaphragm, hollowed by the viscera, irregular.

    Gallbladder, cava, right kidney, the fat of the hilum and both fissures are cut out. At any
    points, also a list of them.
    """
    rough = roughness(body, points)
    right = organ(body, "right_lobe", points)
    f = smooth_min(right, organ(body, "left_lobe", points), 14.0) + 2.2 * rough
    f = smooth_max(f, -organ(body, "hollow", points), 10.0)
    f = smooth_max(f, -organ(body, "gut", points), 12.0)
    f = _with_caudate(body, points, f)
    if body.nodules_mm:
        f = f + body.nodules_mm * roughness(body, points, 6.0)
    known = extents(points) if f.ndim == 2 else None
    for name, grown in LIVER_HOLES.items():
        _cut(f, body, name, points, grown, known)
    return common(f, -falciform(body, points), limits(body, points))


def _with_caudate(body: Body, points: Points, f: Field) -> Field:
    lobe = organ(body, "caudate", points) + 0.8 * roughness(body, points)
    return smooth_min(f, lobe, 7.0)


def _cut(
    f: Field, body: Body, name: str, points: Points, grown_mm: float, known: tuple | None
) -> None:
    """Cuts an organ out of f, in place; in a slice, f changes up to CUT_MM from it only."""
    centre, semi = (np.array(p) for p in body.places[name])
    lean = np.array([*SLOPES.get(name, (0.0, 0.0)), 0.0]) * min(semi[2], 200.0)
    reach = semi + np.abs(lean) + grown_mm + CUT_MM
    part = near(points, centre - reach, centre + reach, known)
    if part is not None:
        window, close = part
        hole = organ(body, name, close, grown_mm)
        f[window] = np.maximum(f[window], -hole)


def limits(body: Body, points: Points) -> Field:
    """Wall, spine and diaphragm: no liver lies beyond, however large a tumour makes it."""
    depth = 1.6 + 0.8 * body.ascites_mm
    # Slips of the diaphragm press grooves into the upper surface.
    slips = np.clip(roughness(body, points, 1.8) - 1.0, 0.0, 2.0)
    slips = slips * np.clip(points[2] * np.float32(0.1), 0.0, 4.0)
    solids = [wall(body, points, depth), diaphragm(body, points) + 2.5 + slips]
    return common(*solids, -spine(body, points))


def falciform(body: Body, points: Points) -> Field:
    """The fat in the umbilical fissure: a sheet, thicker and deeper towards the feet."""
    x, y, z = points
    (px, py, pz), _ = body.places["porta"]
    top = pz + 24.0
    half = np.clip(0.9 + np.float32(0.035) * (top - z), 0.5, 2.8)
    sheet = np.abs(x - np.float32(px + FISSURE_MM) - np.float32(0.12) * (y - np.float32(py))) - half
    front = np.float32(py) - np.float32(2.0) * (top - z) - y
    return common(sheet, front, z - top, y - np.float32(py + 8.0))


def segment(body: Body, points: Points) -> Int8[np.ndarray, "..."]:
    """Couinaud's segment, 1 to 8, of any points as if they were liver.

    Cantlie's plane runs through gallbladder and cava, the right hepatic vein's beside it, the
    umbilical fissure parts IV from II and III, and the portal bifurcation upper from lower ones.
    """
    x, y, z = points
    cantlie, veins, fissure, level = planes(body)
    right = _beyond(cantlie, x, y) > 0
    behind = _beyond(veins, x, y) > 0
    lateral = _beyond(fissure, x, y) < 0
    upper = z > np.float32(level)
    # The left portal vein climbs in its fissure before it parts II from III.
    above = z > np.float32(level + 22.0)
    on_right = np.where(behind, np.where(upper, 7, 6), np.where(upper, 8, 5))
    on_left = np.where(lateral, np.where(above, 2, 3), 4)
    found = np.where(right, on_right, on_left)
    caudate = organ(body, "caudate", points, 3.5) < 0
    return np.where(caudate, 1, found).astype(np.int8)


def planes(body: Body) -> tuple[Plane, Plane, Plane, float]:
    """Cantlie's, the right hepatic vein's and the fissure's plane, and the bifurcation's height.

    A plane is vertical: a point (x, y) and the angle of its trace, from the front to the right.
    """
    (vx, vy, _), _ = body.places["cava"]
    (px, py, pz), _ = body.places["porta"]
    gx, gy, _ = body.places["gallbladder"][0]
    turn = float(np.clip(np.arctan2(vx - gx, vy - gy) + 0.06, 0.4, 0.9))
    return (vx, vy, turn), (vx, vy, turn + 1.14), (px + FISSURE_MM, py, -0.12), pz - 8.0


def _beyond(plane: Plane, x: Number | np.ndarray, y: Number | np.ndarray) -> Field:
    """mm to the right of a plane, as seen from its point to the front."""
    px, py, turn = plane
    return np.float32(np.cos(turn)) * (px - x) - np.float32(np.sin(turn)) * (py - y)


def loop(body: Body, number: int, points: Points, liver: Field | None = None) -> Field:
    """Ball `number` of body.bowel, a little flattened and irregular; beside the `liver`."""
    x, y, z, radius, _ = (float(v) for v in body.bowel[number])
    f = ellipsoid(points, (x, y, z), (LOOP * radius, radius, radius))
    f = f + roughness(body, points, 2.0)
    return f if liver is None else np.maximum(f, 0.5 - liver)


def kidney(body: Body, name: str, points: Points) -> tuple[Field, Field, Field]:
    """Cortex (all of the kidney), the medulla inside it, and the fat of its sinus."""
    (cx, cy, cz), _ = body.places[name]
    cortex = organ(body, name, points) + roughness(body, points)
    medulla = organ(body, name, points, -7.0) + 2.0 * roughness(body, points, 4.0)
    x, y, z = points
    a, b = SLOPES[name]
    points = x - a * (z - cz), y - b * (z - cz), z
    inwards = (cx - np.sign(cx) * 14.0, cy - 6.0, cz)
    return cortex, medulla, np.maximum(ellipsoid(points, inwards, (14, 7, 22)), cortex - 1.0)


def spleen(body: Body, points: Points) -> Field:
    """A crescent against wall and diaphragm, hollowed by the stomach and the kidney."""
    f = organ(body, "spleen", points) + 1.2 * roughness(body, points)
    f = smooth_max(f, -organ(body, "spleen_hollow", points), 6.0)
    holes = [-organ(body, "left_kidney", points, 3.0), wall(body, points, 2.0)]
    return common(f, *holes, diaphragm(body, points) + 2.0)


def stomach(body: Body, points: Points, liver: Field | None = None) -> Field:
    """Fundus, body and antrum in one; beside the spleen, and beside the `liver` where given."""
    f = smooth_min(organ(body, "fundus", points), organ(body, "stomach", points), 14.0)
    f = smooth_min(f, organ(body, "antrum", points), 14.0) + 3.5 * roughness(body, points)
    solids = [
        f,
        0.5 - spleen(body, points),
        0.5 - pancreas(body, points),
        wall(body, points, 3.0),
        diaphragm(body, points) + 3.0,
    ]
    if liver is not None:
        solids.append(0.5 - liver)
    return common(*solids)


def pancreas(body: Body, points: Points) -> Field:
    """From the duodenum behind the stomach to the spleen."""
    return path(body, "pancreas", points) + 1.2 * roughness(body, points, 2.0)


def ascites(body: Body, points: Points, liver: Field) -> Field:
    """Fluid around the liver and in front of the spleen; far outside where there is none."""
    if not body.ascites_mm:
        return np.full(np.shape(liver), 1e3, np.float32)
    close = np.minimum(liver, spleen(body, points)) - 1.5 * body.ascites_mm
    return common(close, wall(body, points, 0.5), diaphragm(body, points) + 1.0)

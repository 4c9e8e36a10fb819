"""One axial slice of a patient in one phase: tissue by tissue, then what the scanner adds.

    Patient, phase -> breathing -> solids -> HU -> mean over the slice's thickness -> blur and noise

Everything is a function of (set, seed, patient, phase, slice), so any slice can be made alone.
Lesions are drawn before blur and noise, and the noise knows nothing of them.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxdet.data.phantom import (
    anatomy,
    lesions,
    motion,
    place,
    scanner,
    sets,
    shapes,
    tissue,
    vessels,
)
from jaxdet.data.phantom.patients import Patient
from jaxdet.types import PHASES

THROUGH = (-1 / 3, 0.0, 1 / 3)  # planes that a slice is the mean of, in thicknesses
FAR_MM = 1e3
DISC_HU = np.float32(95.0)
MOTTLE_HU = 2.0  # of the liver's own texture
SLEEVE_HU = -25.0  # of the fluid beside portal branches, to the liver
CORONA_MM = 4.0  # how far a corona reaches into the liver
EDGE_MM = 2.2  # width of an organ's edge: motion and partial volume, beside the point spread


def hounsfield(p: Patient, z: int, phase: str = "portal") -> Float[np.ndarray, "S S"]:
    """Slice z in HU, float32. What lies beyond the ends is the end slice."""
    z = min(max(z, 0), p.set.depth - 1)
    at = (p.seed, p.number, PHASES.index(phase), z)
    return scanner.expose(ideal(p, z, phase), p.scanner, at)


def ideal(p: Patient, z: int, phase: str = "portal") -> Float[np.ndarray, "S S"]:
    """Slice z in HU without blur and noise: the mean over its thickness."""
    middle = sets.height_mm(p.set, z)
    still = _canvas(p, middle, phase)
    _static(p, still)
    planes = []
    for share in THROUGH:
        canvas = _canvas(p, middle + share * p.set.thickness_mm, phase, still.hu.copy())
        _inside(p, canvas)
        planes.append(canvas.hu)
    return np.mean(planes, axis=0, dtype=np.float32)


def tissues(p: Patient, z: int, phase: str = "portal") -> UInt8[np.ndarray, "S S"]:
    """The number of each pixel's tissue (tissue.NUMBER) in the middle of slice z."""
    canvas = _canvas(p, sets.height_mm(p.set, z), phase)
    _static(p, canvas)
    _inside(p, canvas)
    return canvas.number


def liver(p: Patient, z: int, phase: str = "portal") -> Bool[np.ndarray, "S S"]:
    """The liver in slice z, with the vessels and lesions in it. No HU are computed."""
    canvas = _canvas(p, sets.height_mm(p.set, z), phase)
    mask = np.zeros(canvas.hu.shape, bool)
    window = _liver_window(canvas)
    mask[window] = _liver_field(p, canvas, window) < 0
    return mask


def tumours(p: Patient, z: int, phase: str = "portal") -> UInt8[np.ndarray, "S S"]:
    """i + 1 on the pixels of lesion i in slice z, 0 elsewhere. No HU are computed."""
    canvas = _canvas(p, sets.height_mm(p.set, z), phase)
    found = np.zeros(canvas.hu.shape, np.uint8)
    for number, (window, f) in _sections(p, canvas).items():
        there = found[window]
        there[(f < 0) & (there == 0)] = number + 1
    return found


@dataclasses.dataclass(frozen=True)
class _Canvas:
    x: np.ndarray  # [1, S] mm in the frame of the body, of what does not move with breathing
    y: np.ndarray  # [S, 1]
    z: float
    pixel: float  # mm
    phase: str
    moved: shapes.Points  # where the tissue that is seen here lies in the portal phase
    drift: float  # mm, the most that `moved` differs in x or y
    z_range: tuple[float, float]  # of `moved`
    hu: np.ndarray
    number: np.ndarray

    @property
    def points(self) -> shapes.Points:
        return self.x, self.y, self.z


Window = tuple[slice, slice]
ALL: Window = (slice(None), slice(None))


def _canvas(p: Patient, z: float, phase: str, hu: np.ndarray | None = None) -> _Canvas:
    x, y, moved, drift, z_range = _grid(p, z, phase)
    size = p.scanner.size
    if hu is None:
        hu = np.full((size, size), p.hu[phase]["air"], np.float32)
    number = np.zeros((size, size), np.uint8)
    return _Canvas(x, y, z, p.scanner.pixel_mm, phase, moved, drift, z_range, hu, number)


def _grid(p: Patient, z: float, phase: str) -> tuple:
    """Coordinates of a plane's pixels, at rest and as breathing moved them."""
    size = p.scanner.size
    line = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * np.float32(p.scanner.pixel_mm)
    x = (line - np.float32(p.shift_mm[0]))[None, :]
    y = (line - np.float32(p.shift_mm[1]))[:, None]
    if phase not in p.motions or phase == "portal":
        return x, y, (x, y, z), 0.0, (z, z)
    return _breathed(p, x, y, z, phase)


def _breathed(p: Patient, x: np.ndarray, y: np.ndarray, z: float, phase: str) -> tuple:
    moved = motion.pull(p.motions[phase], p.body, (x, y, z))
    at_rest = motion.pull_static(p.motions[phase], (x, y, z))
    drift = max(
        float(np.abs(moved[0] - at_rest[0]).max()), float(np.abs(moved[1] - at_rest[1]).max())
    )
    return at_rest[0], at_rest[1], moved, drift, (float(moved[2].min()), float(moved[2].max()))


def _window(canvas: _Canvas, low: tuple, high: tuple) -> Window:
    """Rows and columns that can show what lies between two corners (x, y) in mm."""
    x, y, more = canvas.x[0], canvas.y[:, 0], 2 * canvas.pixel + canvas.drift
    columns = np.searchsorted(x, [low[0] - more, high[0] + more])
    rows = np.searchsorted(y, [low[1] - more, high[1] + more])
    return slice(*map(int, rows)), slice(*map(int, columns))


def _around(canvas: _Canvas, centre: tuple | np.ndarray, reach: shapes.Number) -> Window:
    cx, cy = float(centre[0]), float(centre[1])
    return _window(canvas, (cx - reach, cy - reach), (cx + reach, cy + reach))


def _still(canvas: _Canvas, window: Window) -> shapes.Points:
    return canvas.x[:, window[1]], canvas.y[window[0]], canvas.z


def _points(canvas: _Canvas, window: Window = ALL) -> shapes.Points:
    x, y, z = canvas.moved
    if not np.ndim(z):
        return x[:, window[1]], y[window[0]], z
    return x[window], y[window], z[window]


def _misses(canvas: _Canvas, z: shapes.Number, reach: shapes.Number) -> bool:
    """Whether no pixel of the plane comes within `reach` mm of height z."""
    return bool(canvas.z_range[0] > z + reach or canvas.z_range[1] < z - reach)


def _put(
    p: Patient,
    canvas: _Canvas,
    name: str,
    f: np.ndarray,
    window: Window = ALL,
    value: shapes.Number | np.ndarray | None = None,
    width: float = 0.0,
) -> None:
    """Paints a solid over what is there; `value` is the tissue's own HU unless given."""
    value = np.float32(p.hu[canvas.phase][name]) if value is None else value
    share = shapes.inside(f, max(width, canvas.pixel))
    there = canvas.hu[window]
    canvas.hu[window] = there + share * (value - there)
    canvas.number[window][f < 0] = tissue.NUMBER[name]


def _static(p: Patient, canvas: _Canvas) -> None:
    """All that breathing leaves where it is."""
    _body(p, canvas)
    _bones(p, canvas)
    _ribs(p, canvas)


def _body(p: Patient, canvas: _Canvas) -> None:
    body, points = p.body, canvas.points
    skin = anatomy.skin(body, points) + 1.5 * anatomy.roughness(body, points, 0.5)
    _put(p, canvas, "skin", skin)
    _put(p, canvas, "fat", skin + 2.0)
    flesh = anatomy.flesh(body, points) + 1.5 * anatomy.roughness(body, points, 0.7)
    _put(p, canvas, "muscle", flesh, width=EDGE_MM)
    wall = anatomy.wall(body, points)
    strands = p.hu[canvas.phase]["visceral_fat"] + 6.0 * anatomy.roughness(body, points, 1.5)
    _put(p, canvas, "visceral_fat", wall, value=strands, width=EDGE_MM)
    _put(p, canvas, "muscle", anatomy.erectors(body, points), width=EDGE_MM)


def _bones(p: Patient, canvas: _Canvas) -> None:
    y = p.body.canal_y_mm
    window = _window(canvas, (-62, y - 50), (62, y + 50))
    points = _still(canvas, window)
    # Every 32 mm a disc of 7 mm, which has no bone.
    disc = (canvas.z + p.body.disc_mm) % 32.0 < 7.0
    _put(p, canvas, "bone", anatomy.organ(p.body, "canal", points, 4.0), window)
    for number, (start, end, radius) in enumerate(anatomy.processes(p.body)):
        if number and disc:
            continue
        ends = np.array([*start, 0.0]), np.array([*end, 0.0])
        process = shapes.tube((points[0], points[1], 0.0), *ends, radius)
        _put(p, canvas, "bone", process, window)
        _put(p, canvas, "marrow", process + 2.0, window)
    vertebra = anatomy.organ(p.body, "vertebra", points, power=2.3)
    if disc:
        _put(p, canvas, "muscle", vertebra, window, value=DISC_HU)
    else:
        grain = p.hu[canvas.phase]["marrow"] + 14 * anatomy.roughness(p.body, points, 4.0)
        _put(p, canvas, "bone", vertebra, window)
        _put(p, canvas, "marrow", vertebra + 1.8, window, value=grain)
    _put(p, canvas, "canal", anatomy.organ(p.body, "canal", points), window)


def _ribs(p: Patient, canvas: _Canvas) -> None:
    for x, y, along in anatomy.ribs(p.body, canvas.z):
        window = _around(canvas, (x, y), 14)
        px, py, _ = _still(canvas, window)
        c, s = np.float32(np.cos(along)), np.float32(np.sin(along))
        turned = ((px - x) * c + (py - y) * s, (py - y) * c - (px - x) * s, 0.0)
        rib = shapes.ellipsoid(turned, (0, 0, 0), (9.0, 3.8, 1.0))
        _put(p, canvas, "bone", rib, window)
        _put(p, canvas, "marrow", rib + 1.6, window)


def _inside(p: Patient, canvas: _Canvas) -> None:
    """All that breathing moves."""
    window = _liver_window(canvas)
    liver = _liver_field(p, canvas, window)
    _chest(p, canvas)
    everywhere = np.full(canvas.hu.shape, FAR_MM, np.float32)
    everywhere[window] = liver
    if p.body.ascites_mm:
        fluid = anatomy.ascites(p.body, _points(canvas), everywhere)
        _put(p, canvas, "ascites", fluid, width=EDGE_MM)
    _gut(p, canvas, everywhere)
    _organs(p, canvas)
    _liver(p, canvas, window, liver)
    _great_vessels(p, canvas)


def _chest(p: Patient, canvas: _Canvas) -> None:
    body = p.body
    if canvas.z_range[1] > -30:
        _put(p, canvas, "lung", anatomy.lungs(body, _points(canvas)), width=EDGE_MM)
    if canvas.z_range[1] > 40:
        heart = anatomy.organ(body, "heart", _points(canvas), power=2.2)
        _put(p, canvas, "heart", heart, width=EDGE_MM)
    window = _window(canvas, (-50, body.canal_y_mm - 82), (50, body.canal_y_mm + 12))
    _put(p, canvas, "muscle", anatomy.crura(body, _still(canvas, window)), window, width=EDGE_MM)


def _gut(p: Patient, canvas: _Canvas, liver: shapes.Field) -> None:
    body = p.body
    _path(p, canvas, "oesophagus", "bowel")
    for number, (x, y, z, radius, content) in enumerate(body.bowel.tolist()):
        if not _misses(canvas, z, radius + 2):
            window = _around(canvas, (x, y), 1.3 * radius)
            loop = anatomy.loop(body, number, _points(canvas, window), liver[window])
            _hollow(p, canvas, loop, window, y + (content - 0.5) * 2 * radius)
    (cx, cy, cz), semi = body.places["stomach"]
    if not _misses(canvas, cz, semi[2] + 50):
        window = _around(canvas, (cx - 20, cy + 10), 88)
        stomach = anatomy.stomach(body, _points(canvas, window), liver[window])
        _hollow(p, canvas, stomach, window, cy + (0.5 - body.gas) * semi[1])


def _organs(p: Patient, canvas: _Canvas) -> None:
    body = p.body
    _path(p, canvas, "pancreas", "pancreas")
    for name in ("left_kidney", "right_kidney"):
        _kidney(p, canvas, name)
    for name in ("left_adrenal", "right_adrenal"):
        _path(p, canvas, name, "bowel")
    (cx, cy, _), _ = body.places["spleen"]
    window = _around(canvas, (cx, cy), 85)
    spleen = anatomy.spleen(body, _points(canvas, window))
    _put(p, canvas, "spleen", spleen, window, width=EDGE_MM)


def _path(p: Patient, canvas: _Canvas, name: str, tissue_name: str) -> None:
    knots = p.body.paths[name]
    low, high = (knots[:, :3] - knots[:, 3:]).min(axis=0), (knots[:, :3] + knots[:, 3:]).max(axis=0)
    if _misses(canvas, (low[2] + high[2]) / 2, (high[2] - low[2]) / 2 + 2):
        return
    window = _window(canvas, (low[0] - 4, low[1] - 4), (high[0] + 4, high[1] + 4))
    points = _points(canvas, window)
    rough = name == "pancreas"
    f = anatomy.pancreas(p.body, points) if rough else anatomy.path(p.body, name, points)
    _put(p, canvas, tissue_name, f, window, width=EDGE_MM)


def _hollow(p: Patient, canvas: _Canvas, f: np.ndarray, window: Window, level: float) -> None:
    """A wall of 2.5 mm, fluid in it, and gas before (above, as the patient lies) the level y."""
    _put(p, canvas, "bowel", f, window, width=EDGE_MM)
    _put(p, canvas, "fluid", f + 2.5, window)
    # The level is flat whatever breathing does to the wall.
    _put(p, canvas, "gas", np.maximum(f + 2.5, canvas.y[window[0]] - level), window)


def _kidney(p: Patient, canvas: _Canvas, name: str) -> None:
    (cx, cy, cz), semi = p.body.places[name]
    if _misses(canvas, cz, semi[2] + 3):
        return
    slope_x, slope_y = anatomy.SLOPES[name]
    off = float(np.clip(canvas.z - cz, -semi[2], semi[2]))
    here = (cx + slope_x * off, cy + slope_y * off)
    window = _around(canvas, here, 42)
    cortex, medulla, sinus = anatomy.kidney(p.body, name, _points(canvas, window))
    _put(p, canvas, "kidney", cortex, window, width=EDGE_MM)
    _put(p, canvas, "medulla", medulla, window)
    _put(p, canvas, "visceral_fat", sinus, window)


def _liver_window(canvas: _Canvas) -> Window:
    (x0, x1), (y0, y1), _ = anatomy.LIVER_BOX_MM
    return _window(canvas, (x0, y0), (x1, y1))


def _liver_field(p: Patient, canvas: _Canvas, window: Window) -> shapes.Field:
    points = _points(canvas, window)
    return place.bulged(anatomy.liver(p.body, points), p.body, p.lesions, points)


def _liver(p: Patient, canvas: _Canvas, window: Window, liver: shapes.Field) -> None:
    points, hu = _points(canvas, window), p.hu[canvas.phase]
    _put(p, canvas, "bile", anatomy.organ(p.body, "gallbladder", points), window, width=EDGE_MM)
    mottle = MOTTLE_HU * anatomy.roughness(p.body, points, 3.0)
    _put(p, canvas, "liver", liver, window, value=hu["liver"] + mottle, width=EDGE_MM)
    for name, tree in p.trees.items():
        reach = canvas.pixel + p.sleeve_mm
        f = vessels.distances(tree, _points(canvas), reach)
        if name == "portal_vein" and canvas.phase == "portal" and p.sleeve_mm:
            around = np.maximum(f[window] - np.float32(p.sleeve_mm), liver)
            _put(p, canvas, "liver", around, window, value=hu["liver"] + SLEEVE_HU)
        _put(p, canvas, name, f)
    for name, lesion in p.benign:
        section = _section(p, canvas, lesion)
        if section is not None:
            _lesion(p, canvas, lesion, *section, name if name in tissue.NUMBER else "liver")
    for number, section in _sections(p, canvas).items():
        _lesion(p, canvas, p.lesions[number], *section, "tumour")


def _lesion(
    p: Patient,
    canvas: _Canvas,
    lesion: lesions.Lesion,
    window: Window,
    f: np.ndarray,
    name: str,
) -> None:
    """Paints a lesion; its texture is a property of the tissue, so it moves with it."""
    points = _points(canvas, window)
    hu = p.hu[canvas.phase]["liver"]
    corona = lesion.contrast[canvas.phase].corona_hu
    if corona:
        halo = np.clip(1 - f / CORONA_MM, 0, 1) * (_liver_field(p, canvas, window) < 0)
        canvas.hu[window] += np.float32(corona) * halo
    grain = anatomy.roughness(p.body, points, 2.8)
    value = lesions.hounsfield(lesion, canvas.phase, hu, points, f, grain)
    _put(p, canvas, name, f, window, value=value, width=lesions.edge_mm(lesion))


def _sections(p: Patient, canvas: _Canvas) -> dict[int, tuple[Window, np.ndarray]]:
    """The section of every tumour that reaches the plane, by its number."""
    found = {i: _section(p, canvas, lesion) for i, lesion in enumerate(p.lesions)}
    return {i: section for i, section in found.items() if section is not None}


def _section(
    p: Patient, canvas: _Canvas, lesion: lesions.Lesion
) -> tuple[Window, np.ndarray] | None:
    """A lesion's window and its signed distance there, cut off at the liver's surface."""
    if _misses(canvas, float(lesion.centre[2]), lesion.radius_mm):
        return None
    window = _around(canvas, lesion.centre, 1.1 * lesion.radius_mm)
    inside = _liver_field(p, canvas, window)
    f = np.maximum(lesions.distance(lesion, _points(canvas, window)), inside)
    return (window, f) if (f < 0).any() else None


def _great_vessels(p: Patient, canvas: _Canvas) -> None:
    for name in ("cava", "aorta"):
        window = _around(canvas, p.body.places[name][0], 18)
        vessel = anatomy.organ(p.body, name, _points(canvas, window))
        _put(p, canvas, name, vessel, window, width=EDGE_MM)

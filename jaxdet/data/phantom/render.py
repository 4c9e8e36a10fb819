"""One axial slice of a patient: tissue by tissue, then the scanner's blur and noise.

    Patient -> solids -> HU and label map -> lesions -> point spread -> correlated noise -> HU

Everything is a function of (seed, patient, slice), so any slice can be made alone. Lesions are
drawn before blur and noise, and the noise knows nothing of them.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxdet.data.phantom import anatomy, lesions, scanner, shapes, tissue, vessels
from jaxdet.data.phantom.patients import Patient

PITCH_MM = 2.5  # from one slice to the next
SLICES = 64  # 0 at the lower tip of the liver, 63 over its dome


def hounsfield(p: Patient, z: int, size: int) -> Float[np.ndarray, "S S"]:
    """Slice z in HU, float32, `size` pixels a side. What lies beyond the ends is the end slice."""
    z = min(max(z, 0), SLICES - 1)
    hu, _ = tissues(p, z, size)
    hu = scanner.blur(hu) + scanner.noise((p.seed, p.number, z), p.noise_hu, size)
    return np.clip(hu, -1024.0, 3071.0).astype(np.float32)


def tumours(p: Patient, z: int, size: int) -> list[Bool[np.ndarray, "S S"]]:
    """The mask of every tumour in slice z, none touching another's pixels. No HU are computed."""
    canvas = _canvas(p, z, size)
    return [_whole(size, *part) for lesion, part in _sections(p, canvas) if lesion.tumour]


def tumours_expected(p: Patient, z: int) -> int:
    """How many tumours slice z shows, by their smooth shapes: cheap, and nearly always right."""
    height = _height(p, z)
    return sum(lesion.tumour and lesions.reaches(lesion, height) for lesion in p.lesions)


def tissues(
    p: Patient, z: int, size: int
) -> tuple[Float[np.ndarray, "S S"], UInt8[np.ndarray, "S S"]]:
    """Slice z without blur and noise: HU, and the number of each pixel's tissue (tissue.NUMBER)."""
    canvas = _canvas(p, z, size)
    _body(p, canvas)
    _bones(p, canvas)
    _viscera(p, canvas)
    _liver(p, canvas)
    _great_vessels(p, canvas)
    return canvas.hu, canvas.number


@dataclasses.dataclass(frozen=True)
class _Canvas:
    x: np.ndarray  # [1, S] frame mm
    y: np.ndarray  # [S, 1]
    z: float
    pixel: float  # frame mm
    hu: np.ndarray
    number: np.ndarray

    @property
    def points(self) -> shapes.Points:
        return self.x, self.y, self.z


Window = tuple[slice, slice]
ALL: Window = (slice(None), slice(None))


def _height(p: Patient, z: int) -> float:
    return (z - SLICES / 2 + 0.5) * PITCH_MM / p.mm


def _canvas(p: Patient, z: int, size: int) -> _Canvas:
    pixel = scanner.FIELD_MM / size / p.mm
    line = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * np.float32(pixel)
    x, y = line - np.float32(p.shift[0]), line - np.float32(p.shift[1])
    air = np.full((size, size), p.hu["air"], np.float32)
    number = np.zeros((size, size), np.uint8)
    return _Canvas(x[None, :], y[:, None], _height(p, z), pixel, air, number)


def _window(canvas: _Canvas, low: tuple, high: tuple) -> Window:
    """Rows and columns between two corners (x, y) in mm, with a margin of two pixels."""
    x, y, more = canvas.x[0], canvas.y[:, 0], 2 * canvas.pixel
    columns = np.searchsorted(x, [low[0] - more, high[0] + more])
    rows = np.searchsorted(y, [low[1] - more, high[1] + more])
    return slice(*map(int, rows)), slice(*map(int, columns))


def _around(canvas: _Canvas, centre: tuple | np.ndarray, reach: shapes.Number) -> Window:
    cx, cy = float(centre[0]), float(centre[1])
    return _window(canvas, (cx - reach, cy - reach), (cx + reach, cy + reach))


def _points(canvas: _Canvas, window: Window) -> shapes.Points:
    return canvas.x[:, window[1]], canvas.y[window[0]], canvas.z


def _put(
    p: Patient,
    canvas: _Canvas,
    name: str,
    f: np.ndarray,
    window: Window = ALL,
    value: float | np.ndarray | None = None,
    width: float | None = None,
) -> None:
    """Paints a solid over what is there; `value` is the tissue's own HU unless given."""
    value = p.hu[name] if value is None else value
    share = shapes.inside(f, max(width or 0.0, canvas.pixel))
    there = canvas.hu[window]
    canvas.hu[window] = there + share * (value - there)
    canvas.number[window][f < 0] = tissue.NUMBER[name]


def _body(p: Patient, canvas: _Canvas) -> None:
    body, points = p.body, canvas.points
    skin = anatomy.skin(body, points) + 1.5 * anatomy.roughness(body, points, 0.5)
    _put(p, canvas, "skin", skin)
    _put(p, canvas, "fat", skin + 2.0)
    muscle = anatomy.skin(body, points, body.fat_mm) + 1.5 * anatomy.roughness(body, points, 0.7)
    _put(p, canvas, "muscle", muscle)
    wall = anatomy.wall(body, points)
    strands = p.hu["visceral_fat"] + 6.0 * anatomy.roughness(body, points, 1.5)
    _put(p, canvas, "visceral_fat", wall, value=strands)
    if canvas.z > -20:
        _put(p, canvas, "lung", anatomy.lungs(body, points))
    for side in (-1, 1):
        window = _around(canvas, (35 * side, 76), 34)
        back = shapes.ellipsoid(_points(canvas, window), (33 * side, 76, 0), (30, 24, 1e4), 2.4)
        _put(p, canvas, "muscle", np.maximum(back, muscle[window]), window)


def _bones(p: Patient, canvas: _Canvas) -> None:
    window = _window(canvas, (-62, 0), (62, 110))
    points = _points(canvas, window)
    # Every 32 mm a disc of 7 mm, which has no bone.
    disc = (canvas.z + p.body.disc_mm) % 32.0 < 7.0
    arch = anatomy.organ(p.body, "canal", points, 5.0)
    _put(p, canvas, "bone", arch, window)
    for end, radius in (((0, 92), 4.0), ((-38, 62), 5.0), ((38, 62), 5.0)):
        if disc and end[0]:
            continue
        start, stop = np.array([0.4 * end[0], 58.0, 0.0]), np.array([*end, 0.0])
        process = shapes.tube((points[0], points[1], 0.0), start, stop, radius)
        _put(p, canvas, "bone", process, window)
        _put(p, canvas, "marrow", process + 2.0, window)
    vertebra = anatomy.organ(p.body, "vertebra", points)
    if disc:
        _put(p, canvas, "muscle", vertebra, window, value=95.0)
    else:
        grain = p.hu["marrow"] + 14 * anatomy.roughness(p.body, points, 4.0)
        _put(p, canvas, "bone", vertebra, window)
        _put(p, canvas, "marrow", vertebra + 2.0, window, value=grain)
    _put(p, canvas, "canal", anatomy.organ(p.body, "canal", points), window)
    for x, y, along in anatomy.ribs(p.body, canvas.z):
        window = _around(canvas, (x, y), 14)
        px, py, _ = _points(canvas, window)
        c, s = np.cos(along), np.sin(along)
        turned = ((px - x) * c + (py - y) * s, (py - y) * c - (px - x) * s, 0.0)
        rib = shapes.ellipsoid(turned, (0, 0, 0), (10.0, 4.2, 1.0))
        _put(p, canvas, "bone", rib, window)
        _put(p, canvas, "marrow", rib + 1.8, window)


def _viscera(p: Patient, canvas: _Canvas) -> None:
    body = p.body
    if canvas.z > 45:
        _put(p, canvas, "heart", anatomy.organ(body, "heart", canvas.points, power=2.2))
    for x, y, z, radius, content in body.bowel.tolist():
        if abs(canvas.z - z) < radius:
            window = _around(canvas, (x, y), 1.4 * radius)
            points = _points(canvas, window)
            loop = shapes.ellipsoid(points, (x, y, z), (1.3 * radius, radius, radius))
            loop = loop + 2.0 * anatomy.roughness(body, points, 2.0)
            _hollow(p, canvas, "bowel", loop, window, y + (content - 0.5) * 2 * radius)
    if -70 < canvas.z < 15:
        window = _window(canvas, (-45, -55), (95, 25))
        _put(p, canvas, "pancreas", anatomy.pancreas(body, _points(canvas, window)), window)
    for side in ("left_kidney", "right_kidney"):
        _kidney(p, canvas, side)
    window = _window(canvas, (60, -45), (150, 95))
    _put(p, canvas, "spleen", anatomy.spleen(body, _points(canvas, window)), window)
    centre, semi = body.places["stomach"]
    if abs(canvas.z - centre[2]) < semi[2]:
        window = _around(canvas, centre, 1.3 * max(semi[:2]))
        points = _points(canvas, window)
        stomach = anatomy.organ(body, "stomach", points) + 3.0 * anatomy.roughness(body, points)
        stomach = np.maximum(stomach, anatomy.wall(body, points, 3.0))
        _hollow(p, canvas, "bowel", stomach, window, centre[1] + (0.5 - body.gas) * semi[1])


def _hollow(
    p: Patient, canvas: _Canvas, wall: str, f: np.ndarray, window: Window, level: float
) -> None:
    """A wall of 3 mm, fluid in it, and gas before (above, as the patient lies) the level y."""
    _put(p, canvas, wall, f, window)
    _put(p, canvas, "fluid", f + 3.0, window)
    _put(p, canvas, "gas", np.maximum(f + 3.0, canvas.y[window[0]] - level), window)


def _kidney(p: Patient, canvas: _Canvas, name: str) -> None:
    centre, semi = p.body.places[name]
    if abs(canvas.z - centre[2]) > semi[2]:
        return
    window = _around(canvas, centre, 34)
    points = _points(canvas, window)
    cortex = anatomy.organ(p.body, name, points)
    medulla = anatomy.organ(p.body, name, points, -7.0) + 2.0 * anatomy.roughness(
        p.body, points, 4.0
    )
    inward = centre[0] - np.sign(centre[0]) * 15.0
    sinus = shapes.ellipsoid(points, (inward, centre[1] - 4, centre[2]), (14, 8, 22))
    _put(p, canvas, "kidney", cortex, window)
    _put(p, canvas, "medulla", medulla, window)
    _put(p, canvas, "visceral_fat", np.maximum(sinus, cortex - 2.0), window)


def _liver(p: Patient, canvas: _Canvas) -> None:
    (x0, x1), (y0, y1), _ = anatomy.LIVER_BOX_MM
    window = _window(canvas, (x0, y0), (x1, y1))
    points = _points(canvas, window)
    liver = anatomy.liver(p.body, points)
    mottle = 2.0 * anatomy.roughness(p.body, points, 3.0)
    _put(p, canvas, "liver", liver, window, value=p.hu["liver"] + mottle)
    for name, tree in (("hepatic_vein", p.hepatic), ("portal_vein", p.portal)):
        tubes = _tubes(canvas, tree)[window]
        within = tubes if name == "portal_vein" else np.maximum(tubes, liver)
        _put(p, canvas, name, within, window)
    _put(p, canvas, "bile", anatomy.organ(p.body, "gallbladder", points), window)
    for lesion, (part, mask) in _sections(p, canvas):
        _lesion(p, canvas, lesion, part, mask)


def _lesion(
    p: Patient, canvas: _Canvas, lesion: lesions.Lesion, window: Window, mask: np.ndarray
) -> None:
    points = _points(canvas, window)
    f = lesions.distance(lesion, points)
    inside = p.hu["liver"] + lesion.contrast_hu
    value = inside + lesion.texture_hu * anatomy.roughness(p.body, points, 2.8)
    if lesion.rim_hu:
        value = value + lesion.rim_hu * np.exp(-(((f + 1.5) / 1.5) ** 2))
    if lesion.core:
        core = f + float(lesion.semi.min()) * (1 - lesion.core)
        value = value + shapes.inside(core, 4.0) * (33.0 - value)
    # Soft edges spread over the liver only, and only around the part that has the box.
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    liver = canvas.number[window] >= tissue.NUMBER["liver"]
    share = shapes.inside(f, max(lesion.margin_mm, canvas.pixel)) * (near & liver)
    there = canvas.hu[window]
    canvas.hu[window] = there + share * (value - there)
    canvas.number[window][mask] = tissue.NUMBER["tumour" if lesion.tumour else "cyst"]


def _sections(
    p: Patient, canvas: _Canvas
) -> Iterator[tuple[lesions.Lesion, tuple[Window, Bool[np.ndarray, "h w"]]]]:
    """Lesions with a section in this slice, each with its window and its mask in that window."""
    taken = np.zeros(canvas.hu.shape, bool)
    for lesion in p.lesions:
        if not lesions.reaches(lesion, canvas.z):
            continue
        window = _around(canvas, lesion.centre, 1.3 * float(lesion.semi.max()))
        points = _points(canvas, window)
        mask = lesions.section(lesion, points, anatomy.liver(p.body, points), canvas.pixel)
        # Lesions lie apart, but an outline may still swell into a neighbour's pixels.
        if mask is not None and not (mask & taken[window]).any():
            taken[window] |= mask
            yield lesion, (window, mask)


def _whole(size: int, window: Window, mask: np.ndarray) -> Bool[np.ndarray, "S S"]:
    image = np.zeros((size, size), bool)
    image[window] = mask
    return image


def _great_vessels(p: Patient, canvas: _Canvas) -> None:
    for name in ("cava", "aorta"):
        window = _around(canvas, p.body.places[name][0], 18)
        _put(p, canvas, name, anatomy.organ(p.body, name, _points(canvas, window)), window)


def _tubes(canvas: _Canvas, tree: np.ndarray) -> np.ndarray:
    f = np.full(canvas.hu.shape, 1e3, np.float32)
    for segment in vessels.crossing(tree, canvas.z, canvas.pixel):
        start, end, radius = segment[:3], segment[3:6], float(segment[6])
        low = np.minimum(start, end)[:2] - radius
        high = np.maximum(start, end)[:2] + radius
        window = _window(canvas, tuple(low), tuple(high))
        f[window] = np.minimum(f[window], shapes.tube(_points(canvas, window), start, end, radius))
    return f

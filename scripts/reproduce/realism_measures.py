"""What a CT slice measures: noise and its spectrum, edges, outlines, vessels.

Pure functions of arrays, used alike on phantom and on real slices, so that both columns of the
realism table mean the same. Lengths are in mm, HU in HU, frequencies in 1/mm.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import contourpy
import cv2
import numpy as np
import scipy.ndimage
import scipy.optimize
import scipy.signal
import scipy.special
from jaxtyping import Bool, Float, Integer

Corners = list[tuple[int, int]]


# Patches


def corners(mask: Bool[np.ndarray, "H W"], side: int) -> Corners:
    """Top left corners of the square patches, side by side, that lie wholly in the mask."""
    height, width = mask.shape
    rows, columns = range(0, height - side + 1, side), range(0, width - side + 1, side)
    return [(y, x) for y in rows for x in columns if mask[y : y + side, x : x + side].all()]


def cut(hu: Float[np.ndarray, "H W"], at: Corners, side: int) -> Float[np.ndarray, "N S S"]:
    """Those patches of a slice; N = 0 where there is none."""
    return np.array([hu[y : y + side, x : x + side] for y, x in at], np.float64).reshape(
        -1, side, side
    )


def detrended(patches: Float[np.ndarray, "N S S"], order: int) -> Float[np.ndarray, "N S S"]:
    """Patches less their polynomial of best fit: order 1 takes a plane away, 2 a curved one."""
    count, side, _ = patches.shape
    basis = _basis(side, order)
    flat = patches.reshape(count, side * side)
    return (flat - (flat @ basis) @ basis.T).reshape(patches.shape)


@functools.lru_cache(maxsize=32)
def _basis(side: int, order: int) -> Float[np.ndarray, "P K"]:
    line = np.linspace(-1, 1, side)
    terms = [
        np.outer(line**j, line**i).ravel() for i in range(order + 1) for j in range(order + 1 - i)
    ]
    return np.linalg.qr(np.stack(terms, axis=1))[0]


def quiet(patches: Float[np.ndarray, "N S S"], share: float = 0.5) -> Float[np.ndarray, "K S S"]:
    """The patches with the smallest SD: those without large vessels, in phantom and real alike."""
    order = np.argsort(patches.std(axis=(1, 2)))
    return patches[order[: max(1, round(share * len(patches)))]] if len(patches) else patches


# Noise


def deviations(
    hu: Float[np.ndarray, "H W"],
    mask: Bool[np.ndarray, "H W"],
    pixel_mm: float,
    side_mm: float = 8.0,
) -> Float[np.ndarray, "N"]:
    """SD of every patch of 8 mm in the mask, after its plane is taken away."""
    side = max(4, round(side_mm / pixel_mm))
    return detrended(cut(hu, corners(mask, side), side), 1).std(axis=(1, 2))


def autocorrelation(patches: Float[np.ndarray, "N S S"], lag: int = 1) -> tuple[float, float]:
    """Correlation of detrended patches with themselves `lag` px further along x, and along y."""
    power = float((patches**2).mean())
    along_x = float((patches[:, :, lag:] * patches[:, :, :-lag]).mean())
    along_y = float((patches[:, lag:] * patches[:, :-lag]).mean())
    return along_x / power, along_y / power


def correlation(a: Float[np.ndarray, "*S"], b: Float[np.ndarray, "*S"]) -> float:
    """Of two stacks of detrended patches of the same places, in one slice and in another."""
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def power_2d(patches: Float[np.ndarray, "N S S"]) -> Float[np.ndarray, "S S"]:
    """Noise power of detrended patches in HU^2 px^2, Hann windowed, zero frequency first."""
    line = np.hanning(patches.shape[-1] + 1)[:-1]
    window = np.outer(line, line)
    spectra = np.abs(np.fft.fft2(patches * window)) ** 2
    return spectra.mean(axis=0) / (window**2).sum()


def radial(
    power: Float[np.ndarray, "S S"], pixel_mm: float, at: Float[np.ndarray, "F"]
) -> Float[np.ndarray, "F"]:
    """Mean of a 2-D power over the circle of each frequency, linear between rings of one bin."""
    side = len(power)
    f = np.fft.fftfreq(side)
    ring = np.hypot(f[:, None], f[None]) * side
    inside = ring <= side / 2
    number = np.rint(ring[inside]).astype(int)
    total = np.bincount(number, power[inside])
    mean = total / np.bincount(number)
    centre = np.bincount(number, ring[inside]) / np.bincount(number)
    return np.interp(at, centre / (side * pixel_mm), mean)


def peaks(spectrum: Float[np.ndarray, "F"], prominence: float = 0.15) -> Integer[np.ndarray, "K"]:
    """Places of the peaks that stand out by more than this share of the highest."""
    padded = np.concatenate([[0.0], spectrum, [0.0]])
    found, _ = scipy.signal.find_peaks(padded, prominence=prominence * spectrum.max())
    return found - 1


def spike(power: Float[np.ndarray, "S S"]) -> float:
    """How far one frequency stands over its neighbourhood (median of 5 x 5): rings, lines, tiles.

    The frequencies that detrending takes away are left out.
    """
    centred = np.fft.fftshift(power)
    around = scipy.ndimage.median_filter(centred, 5, mode="wrap")
    middle = len(power) // 2
    ratio = centred / np.maximum(around, 1e-3 * around.max())
    ratio[middle - 2 : middle + 3, middle - 2 : middle + 3] = 1.0
    return float(ratio.max())


def grain(hu: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], pixel_mm: float) -> float:
    """SD of the finest noise in a region, whatever its outline: robust, of a high pass of 1 mm."""
    fine = hu - scipy.ndimage.gaussian_filter(hu, 1.0 / pixel_mm)
    values = fine[mask]
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def body(hu: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The patient: the largest thing denser than -400 HU, filled; the table is cut off."""
    dense = cv2.morphologyEx(
        (hu > -400).astype(np.uint8), cv2.MORPH_OPEN, np.ones((7, 7), np.uint8)
    )
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dense, connectivity=4)
    if len(stats) < 2:
        return np.zeros(hu.shape, bool)
    return scipy.ndimage.binary_fill_holes(labels == 1 + int(np.argmax(stats[1:, 4])))


def rim_over_middle(hu: Float[np.ndarray, "H W"], pixel_mm: float) -> float:
    """Noise in the fat within 30 mm of the skin, over noise in soft tissue deeper than 70 mm."""
    smooth = scipy.ndimage.gaussian_filter(hu, 1.5 / pixel_mm)
    depth = scipy.ndimage.distance_transform_edt(body(hu)) * pixel_mm
    flat = scipy.ndimage.gaussian_gradient_magnitude(hu, 2.0 / pixel_mm) / pixel_mm < 8
    rim = (smooth > -140) & (smooth < -60) & (depth > 4) & (depth < 30) & flat
    middle = (smooth > 20) & (smooth < 180) & (depth > 70) & flat
    if rim.sum() < 200 or middle.sum() < 200:
        return float("nan")
    return grain(hu, rim, pixel_mm) / grain(hu, middle, pixel_mm)


# Edges and outlines


def outline(mask: Bool[np.ndarray, "H W"], smooth_px: float) -> list[Float[np.ndarray, "K 2"]]:
    """Closed outlines (x, y; px) of a mask between its pixels, the longest first."""
    padded = np.pad(mask.astype(np.float32), 4)
    lines = contourpy.contour_generator(z=scipy.ndimage.gaussian_filter(padded, smooth_px)).lines(
        0.5
    )
    return sorted((line - 4 for line in lines), key=len, reverse=True)


def circularity(mask: Bool[np.ndarray, "H W"]) -> float:
    """4 pi area / perimeter^2 of the longest outline: 1 for a disc; NaN for an empty mask."""
    lines = outline(mask, 1.2)
    if not lines:
        return float("nan")
    x, y = lines[0].T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    around = np.hypot(x - np.roll(x, -1), y - np.roll(y, -1)).sum()
    return float(4 * np.pi * area / around**2)


def profiles(
    hu: Float[np.ndarray, "H W"],
    mask: Bool[np.ndarray, "H W"],
    pixel_mm: float,
    at_mm: Float[np.ndarray, "D"],
    most: int = 150,
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N 2"]]:
    """HU along the normals of a mask's outline, `at_mm` outwards from it, and where (x, y; px)."""
    lines = [line for line in outline(mask, 2.0) if len(line) > 8]
    if not lines:
        return np.zeros((0, len(at_mm))), np.zeros((0, 2))
    points = np.concatenate(lines)
    points = points[:: max(1, len(points) // most)]
    soft = scipy.ndimage.gaussian_filter(mask.astype(np.float32), 2.0)
    where = points.T[::-1]
    normal = np.stack(
        [
            -scipy.ndimage.map_coordinates(g, where, order=1, mode="nearest")
            for g in np.gradient(soft)
        ]
    )
    normal /= np.linalg.norm(normal, axis=0) + 1e-9
    along = where[:, :, None] + normal[:, :, None] * at_mm / pixel_mm
    return scipy.ndimage.map_coordinates(hu, along, order=3, mode="nearest"), points


class Edge(NamedTuple):
    """One fitted edge."""

    sigma_mm: float
    step_hu: float  # outside less inside
    misfit: float  # RMS, as a share of the step


def edge(at_mm: Float[np.ndarray, "D"], hu: Float[np.ndarray, "D"]) -> Edge | None:
    """The error function of best fit through a profile; None where there is no fit."""
    step = float(hu[-3:].mean() - hu[:3].mean())
    if abs(step) < 1e-6:
        return None
    start = (float(hu[:3].mean()), step, 0.0, 1.0)
    try:
        found, _ = scipy.optimize.curve_fit(_rise, at_mm, hu, start, maxfev=300)
    except RuntimeError:
        return None
    low, step, middle, sigma = map(float, found)
    if abs(middle) > 0.7 * float(np.abs(at_mm).max()) or abs(step) < 1e-6:
        return None
    misfit = float(np.sqrt(np.mean((_rise(at_mm, low, step, middle, sigma) - hu) ** 2)))
    return Edge(abs(sigma), step, misfit / abs(step))


def _rise(
    at: Float[np.ndarray, "D"], low: float, step: float, middle: float, sigma: float
) -> Float[np.ndarray, "D"]:
    return low + step * 0.5 * (1 + scipy.special.erf((at - middle) / (np.sqrt(2) * sigma)))


def liver_fat(
    hu: Float[np.ndarray, "H W"], liver: Bool[np.ndarray, "H W"], pixel_mm: float
) -> list[float]:
    """Sigma in mm of the edges where the liver meets fat that is at least 4 mm deep."""
    at = np.arange(-4.0, 4.01, 0.25)
    found, _ = profiles(hu, liver, pixel_mm, at)
    # The last 2 mm must be fat, the first 2 mm soft tissue without a bright vessel.
    inner, outer = found[:, :8].mean(1), found[:, -8:].mean(1)
    wanted = found[(inner > 30) & (inner < 150) & (outer > -130) & (outer < -60)]
    return [e.sigma_mm for e in (edge(at, p) for p in wanted) if e and e.misfit < 0.16]


def skin_air(hu: Float[np.ndarray, "H W"], pixel_mm: float) -> list[float]:
    """Sigma in mm of the edge between skin and air; the table's side is where there is no air."""
    at = np.arange(-1.0, 4.01, 0.2)
    found, _ = profiles(hu, body(hu), pixel_mm, at)
    wanted = found[(found[:, -8:].max(1) < -880) & (found[:, :4].mean(1) > -250)]
    return [e.sigma_mm for e in (edge(at, p) for p in wanted) if e and e.misfit < 0.06]


def lesion_edge(
    hu: Float[np.ndarray, "H W"],
    lesion: Bool[np.ndarray, "H W"],
    liver: Bool[np.ndarray, "H W"],
    pixel_mm: float,
) -> Edge | None:
    """A lesion's edge where it meets liver, median of all directions; wants a clean image."""
    reach = float(np.clip(0.45 * np.sqrt(lesion.sum()) * pixel_mm, 2.0, 6.0))
    at = np.arange(-reach, reach + 0.01, reach / 12)
    found, points = profiles(hu, lesion, pixel_mm, at)
    if not len(found):
        return None
    deep = scipy.ndimage.distance_transform_edt(liver) * pixel_mm
    inside = scipy.ndimage.map_coordinates(deep, points.T[::-1], order=1) > reach
    return edge(at, np.median(found[inside], axis=0)) if inside.sum() >= 8 else None


# Shapes


def equivalent_mm(area_px: float, pixel_mm: float) -> float:
    """Diameter of the disc of that area."""
    return float(2 * np.sqrt(area_px / np.pi) * pixel_mm)


def sections(mask: Bool[np.ndarray, "H W"], pixel_mm: float, least_mm: float = 2.0) -> int:
    """How many separate sections of vessels a slice shows that are wider than 2 mm."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return sum(equivalent_mm(area, pixel_mm) > least_mm for area in stats[1:count, 4])


def murray(
    tree: Float[np.ndarray, "S 7"], exponent: float
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K 3"]]:
    """|r0^g - sum of r_i^g| / r0^g of every fork, and where it is (mm)."""
    ends = {tuple(end): row for row, end in enumerate(np.round(tree[:, 3:6], 3).tolist())}
    children: dict[int, list[int]] = {}
    for row, start in enumerate(np.round(tree[:, :3], 3).tolist()):
        parent = ends.get(tuple(start))
        if parent is not None and parent != row:
            children.setdefault(parent, []).append(row)
    power = tree[:, 6].astype(np.float64) ** exponent
    forks = {parent: rows for parent, rows in children.items() if len(rows) > 1}
    off = [abs(power[parent] - power[rows].sum()) / power[parent] for parent, rows in forks.items()]
    return np.array(off, np.float64), tree[list(forks), 3:6].reshape(-1, 3)


def eroded(mask: Bool[np.ndarray, "H W"], mm: float, pixel_mm: float) -> Bool[np.ndarray, "H W"]:
    """What lies deeper than `mm` in the mask."""
    return scipy.ndimage.distance_transform_edt(mask) * pixel_mm > mm


def shares(values: Sequence[int] | Integer[np.ndarray, "N"], most: int) -> list[float]:
    """Shares of 1 to `most` among counts."""
    counted = np.bincount(np.asarray(values, int), minlength=most + 1)[1 : most + 1]
    return (counted / max(1, counted.sum())).tolist()

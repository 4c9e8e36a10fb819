"""What one phantom patient gives to the realism table: geometry without HU, and pixels.

Each function here measures one patient and returns small numbers, so that a pool of processes can
go through all of them.
"""

import concurrent.futures
import dataclasses
import functools
import importlib
import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
import realism_detectors as detectors
import realism_measures as measures
import scipy.ndimage
from jaxtyping import Bool, Float
from tqdm import tqdm

from jaxdet.data import masks
from jaxdet.data.phantom import (
    SETS,
    anatomy,
    lesions,
    multiphase,
    patients,
    render,
    scanner,
    sets,
    tissue,
    vessels,
)
from jaxdet.types import PHASES

cases = importlib.import_module("jaxdet.data.phantom.cases")  # the package exports its function

FREQUENCIES = np.arange(0.0, 0.601, 0.02)  # 1/mm
NPS_PX, ACF_PX = 28, 24
WHITE_HU = 125.0  # white point of W150/L50
VESSELS = ("portal_vein", "hepatic_vein")
LIVER_TISSUES = ("liver", *VESSELS, "artery", "tumour")
ORGANS = ("aorta", "liver", "spleen", "pancreas", "hepatic_vein", "portal_vein")
HEIGHTS_MM = (-28.0, 18.0, 40.0)  # slices in which all of ORGANS show


def over(
    function: Callable, numbers: Iterable[int], seed: int, title: str, workers: int = 2
) -> list[Any]:
    """`function(seed, number)` for all patients, in a pool, with a bar."""
    numbers = list(numbers)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        found = pool.map(functools.partial(function, seed), numbers, chunksize=1)
        return list(tqdm(found, total=len(numbers), desc=title, leave=False))


# Geometry


def tumour_places(p: patients.Patient) -> dict[str, list]:
    """Couinaud segment of every tumour, and whether its outline reaches the liver's surface."""
    centres = np.array([t.centre for t in p.lesions], np.float32)
    touching = []
    for t in p.lesions:
        ball = np.random.default_rng(0).normal(size=(600, 3))
        ball /= np.linalg.norm(ball, axis=1, keepdims=True)
        points = tuple((t.centre + ball * t.semi).astype(np.float32).T)
        touching.append(float(anatomy.liver(p.body, points).max()))
    segments = np.asarray(anatomy.segment(p.body, tuple(centres.T))).astype(int)
    return {"segment": segments.tolist(), "beyond_mm": touching}


def sltd_geometry(seed: int, number: int) -> dict:
    """Boxes, counts and outlines of the annotated slices of one volume of the single-phase set."""
    p = patients.patient(SETS["sltd"]["paper"], seed, number)
    pixel = p.scanner.pixel_mm
    found: dict = {"counts": [], "sides_cm": [], "aspects": [], "touching": []}
    for z in p.slices:
        truth = cases.boxes(p, z)
        wide_high = (truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]) * pixel
        found["counts"].append(len(wide_high))
        found["sides_cm"] += (wide_high.max(1) / 10).tolist()
        found["aspects"] += (wide_high.max(1) / wide_high.min(1)).tolist()
        found["touching"].append(masks.touching(truth.instances))
    found["circularity"] = [
        (d, c) for t in p.lesions for d, c in [_middle_section(p, t, "portal")] if np.isfinite(c)
    ]
    cnr = [
        abs(t.contrast["portal"].inside_hu) / p.scanner.noise_hu[PHASES.index("portal")]
        for t in p.lesions
    ]
    return found | tumour_places(p) | {"cnr": cnr}


def multiphase_geometry(seed: int, number: int) -> dict:
    """Diameter, data points, outline and places of the one tumour of a four-phase patient.

    Long tumours are read at every few slices: enough for the widest and for a count of slices.
    """
    p = patients.patient(SETS["multiphase"]["paper"], seed, number)
    pixel = p.scanner.pixel_mm
    best, points, aspect = 0.0, 0, float("nan")
    step = max(1, len(p.slices) // 10)
    for z in p.slices[step // 2 :: step]:
        truth = cases.boxes(p, z)
        if not len(truth.boxes_xyxy):
            continue
        points += 1
        longest = masks.diameters_mm(truth.instances, (pixel, pixel))
        if longest.max() > best:
            best = float(longest.max())
            sides = truth.boxes_xyxy[int(longest.argmax())]
            wide, high = float(sides[2] - sides[0]), float(sides[3] - sides[1])
            aspect = max(wide, high) / min(wide, high)
    hu = {phase: {name: p.hu[phase][name] for name in ORGANS} for phase in PHASES}
    cnr = {
        phase: abs(p.lesions[0].contrast[phase].inside_hu) / p.scanner.noise_hu[k]
        for k, phase in enumerate(PHASES)
    }
    return {
        "drawn_mm": multiphase.diameter_mm(seed, number),
        "measured_mm": best,
        "points": points * step,
        "aspects": [aspect],
        "circularity": [_middle_section(p, p.lesions[0], p.annotated)],
        "annotated": p.annotated,
        "hu": hu,
        "cnr": cnr,
    } | {key: values[:1] for key, values in tumour_places(p).items()}


def _middle_section(p: patients.Patient, lesion: lesions.Lesion, phase: str) -> tuple[float, float]:
    """Longest diameter in mm and circularity of the section through a lesion's centre."""
    z = sets.nearest_slice(p.set, float(lesion.centre[2]))
    number = 1 + [t is lesion for t in p.lesions].index(True)
    mask = render.tumours(p, int(np.clip(z, 0, p.set.depth - 1)), phase) == number
    if mask.sum() < 40:
        return 0.0, float("nan")
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    mask = labels == 1 + int(np.argmax(stats[1:, 4]))
    pixel = p.scanner.pixel_mm
    longest = float(masks.diameters_mm(mask.astype(np.uint8), (pixel, pixel))[0])
    return longest, measures.circularity(mask)


def body_geometry(seed: int, number: int) -> dict:
    """Sizes and places of the organs of one four-phase patient, of points and of one slice."""
    p = patients.patient(SETS["multiphase"]["paper"], seed, number)
    step = 3.0
    (x0, x1), (y0, y1), (z0, z1) = anatomy.LIVER_BOX_MM
    x, y = np.arange(x0, x1, step)[None, :], np.arange(y0, y1, step)[:, None]
    areas, volume_, overlap = [], 0.0, {"spleen": 0.0}
    for height in np.arange(z0, z1, step):
        plane = (x.astype(np.float32), y.astype(np.float32), float(height))
        liver = np.broadcast_to(anatomy.liver(p.body, plane) < 0, (y.size, x.size))
        areas.append(liver.sum() * step * step / 100)
        volume_ += areas[-1] * step / 10
        solid = np.broadcast_to(anatomy.spleen(p.body, plane) < 0, liver.shape)
        overlap["spleen"] += float((liver & solid).sum()) * step**3 / 1000
        for name in ("left_kidney", "right_kidney", "aorta", "cava", "gallbladder"):
            solid = np.broadcast_to(anatomy.organ(p.body, name, plane) < 0, liver.shape)
            overlap[name] = overlap.get(name, 0.0) + float((liver & solid).sum()) * step**3 / 1000
    there = np.flatnonzero(np.array(areas) > 1)
    middle = (there[0] + there[-1]) // 2  # half-way between the lowest and the highest
    map_, widest = (
        render.tissues(p, sets.nearest_slice(p.set, z0 + step * k))
        for k in (middle, int(np.argmax(areas)))
    )
    return {
        "volume_ml": volume_,
        "mid_cm2": float(areas[middle]),
        "max_cm2": max(areas),
        "height_mm": float((np.array(areas) > 1).sum() * step),
        "overlap_ml": overlap,
        "sections": vessel_sections(map_, p.scanner.pixel_mm),
        "widest_sections": vessel_sections(widest, p.scanner.pixel_mm),
    } | _layout(map_, p.scanner.pixel_mm, p.body)


def vessel_sections(map_: np.ndarray, pixel: float) -> int:
    """Sections of veins wider than 2 mm in a tissue map."""
    return measures.sections(np.isin(map_, [tissue.NUMBER[name] for name in VESSELS]), pixel)


def _layout(map_: np.ndarray, pixel: float, body: anatomy.Body) -> dict:
    """Where things are in one slice: mm from the canal's middle, x to the image's right."""

    def centre(*names: str) -> Float[np.ndarray, "2"]:
        rows, columns = np.nonzero(np.isin(map_, [tissue.NUMBER[n] for n in names]))
        return np.array([columns.mean(), rows.mean()]) * pixel if len(rows) else np.full(2, np.nan)

    there = map_ != tissue.NUMBER["air"]
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    canal = centre("canal")
    middle = np.array([columns.mean(), rows.mean()]) * pixel
    aorta, vertebra = (body.places[name][0] for name in ("aorta", "vertebra"))
    return {
        "ap_over_lr": float(len(rows) / len(columns)),
        "lr_mm": float(len(columns) * pixel),
        "ap_mm": float(len(rows) * pixel),
        "aorta_mm": measures.equivalent_mm(float((map_ == tissue.NUMBER["aorta"]).sum()), pixel),
        "aorta_left_mm": float(centre("aorta")[0] - canal[0]),
        "aorta_before_vertebra_mm": float(vertebra[1] - aorta[1]),
        "cava_right_mm": float(canal[0] - centre("cava")[0]),
        "spleen": (centre("spleen") - middle).tolist(),
        "liver": (centre(*LIVER_TISSUES) - middle).tolist(),
        "back_mm": float((rows[-1] + 1) * pixel - canal[1]),
    }


def vessel_facts(seed: int, number: int) -> dict:
    """Murray's law in the trees, and how much of them lies outside of the liver."""
    p = patients.patient(SETS["multiphase"]["paper"], seed, number)
    residual, outside, length = [], 0.0, 0.0
    gates = np.array([p.body.places["porta"][0], p.trees["hepatic_vein"][0, :3]])
    for name in VESSELS:
        tree = p.trees[name]
        off, forks = measures.murray(tree, vessels.MURRAY)
        # Before the hilum vessels of spleen and gut join, which have radii of their own.
        inside = np.asarray(anatomy.liver(p.body, tuple(forks.T))) < 0
        residual += off[inside].tolist()
        branch = tree[(tree[:, 6] > 0.6) & (tree[:, 6] < vessels.HILAR_MM)]
        middle = (branch[:, :3] + branch[:, 3:6]) / 2
        away = np.linalg.norm(middle[:, None] - gates, axis=-1).min(axis=1)
        field = np.asarray(anatomy.liver(p.body, tuple(middle.astype(np.float32).T)))
        along = np.linalg.norm(branch[:, 3:6] - branch[:, :3], axis=1)
        outside += float(along[(field > 1.0) & (away > vessels.ENTRY_MM)].sum())
        length += float(along.sum())
    z = sets.nearest_slice(p.set, float(p.lesions[0].centre[2]))
    z = int(np.clip(z, 0, p.set.depth - 1))
    inside = scipy.ndimage.binary_erosion(render.tumours(p, z) == 1, iterations=2)
    crossing = np.isin(render.tissues(p, z), [tissue.NUMBER[n] for n in VESSELS])[inside]
    return {
        "residual": residual,
        "outside_share": outside / max(length, 1e-9),
        "in_lesion_share": float(crossing.mean()) if crossing.size else float("nan"),
        "segments": sum(len(p.trees[n]) for n in VESSELS),
    }


# Pixels


def noise_of(
    hu: Float[np.ndarray, "H W"],
    lags: list[Float[np.ndarray, "H W"] | None],
    mask: Bool[np.ndarray, "H W"],
    pixel: float,
) -> dict:
    """SD of patches, spectrum and correlations of one slice in a mask that is eroded already.

    `lags` holds the slices 1, 2, 3 further up, or None.
    """
    hu = hu.astype(np.float64)
    side = max(4, round(8.0 / pixel))
    at = measures.corners(mask, side)
    small = measures.detrended(measures.cut(hu, at, side), 1)
    keep = small.std(axis=(1, 2)) <= np.median(small.std(axis=(1, 2))) if len(at) else []
    along_z = [
        measures.correlation(
            small[keep], measures.detrended(measures.cut(other, at, side), 1)[keep]
        )
        if other is not None and len(at) > 3
        else float("nan")
        for other in lags
    ]
    large = measures.corners(mask, NPS_PX)
    patches = measures.quiet(measures.detrended(measures.cut(hu, large, NPS_PX), 2))
    found = {"sd": small.std(axis=(1, 2)).tolist(), "along_z": along_z, "patches": len(patches)}
    if len(patches):
        power = measures.power_2d(patches)
        found["power"] = power / power.sum()
        spectrum = measures.radial(power, pixel, FREQUENCIES)
        found["nps"] = spectrum / spectrum.sum()
        found["acf"] = measures.autocorrelation(patches)
    return found


def sltd_pixels(seed: int, number: int) -> dict:
    """HU, noise, edges, contrast, easy detections of one volume's first annotated slice."""
    p = patients.patient(SETS["sltd"]["paper"], seed, number)
    pixel, z = p.scanner.pixel_mm, p.slices[number % len(p.slices)]
    hu, liver, drawn = render.hounsfield(p, z), render.liver(p, z), render.tumours(p, z)
    above = [render.hounsfield(p, z + k) for k in (1, 2, 3)]
    tumour = scipy.ndimage.binary_dilation(drawn > 0, iterations=3)
    inner = measures.eroded(liver, 4, pixel)
    truth = cases.boxes(p, z)
    clean = scanner.blur(render.ideal(p, z), p.scanner)
    noise = noise_of(hu, above, inner & ~tumour, pixel)
    rng = np.random.default_rng([seed, number, 51])
    free = measures.eroded(liver & ~tumour, 2, pixel)
    return {
        "median": float(np.median(hu[inner])) if inner.any() else float("nan"),
        "white": float((hu[inner] >= WHITE_HU).mean()) if inner.any() else float("nan"),
        "noise": noise,
        "alone": _noise_alone(p, z, inner & ~tumour),
        "rim": measures.rim_over_middle(hu, pixel),
        "liver_fat": measures.liver_fat(hu, liver, pixel),
        "skin_air": measures.skin_air(hu, pixel),
        "lesion_edges": _lesion_edges(clean, truth.instances, liver, pixel),
        "cnr": _cnr(hu, truth.instances, inner & ~tumour, pixel, float(np.median(noise["sd"])))
        if noise["sd"]
        else [],
        "truth": (truth.boxes_xyxy, np.zeros(len(truth.boxes_xyxy), np.int32)),
        "blobs": [detectors.blobs(hu, liver, pixel, *s) for s in detectors.SETTINGS],
        "found": {
            f"{diameter:g} mm": detectors.found_by_template(
                hu, free, pixel, p.scanner.psf_mm, diameter, -35.0, rng
            )
            for diameter in (5.0, 10.0)
        },
        "sections": vessel_sections(render.tissues(p, z), pixel),
    }


def _lesion_edges(
    clean: np.ndarray, instances: np.ndarray, liver: np.ndarray, pixel: float
) -> list:
    found = [
        measures.lesion_edge(clean, instances == k, liver, pixel)
        for k in range(1, int(instances.max(initial=0)) + 1)
    ]
    # A step of 5 HU is the least whose edge is told from the liver's own texture.
    return [e.sigma_mm for e in found if e and abs(e.step_hu) > 5 and e.misfit < 0.2]


def _cnr(
    hu: np.ndarray, instances: np.ndarray, around: np.ndarray, pixel: float, deviation: float
) -> list[float]:
    """|lesion - liver around it| / SD of 8-mm patches of the liver, of every lesion."""
    found = []
    for k in range(1, int(instances.max(initial=0)) + 1):
        lesion = instances == k
        core = scipy.ndimage.binary_erosion(lesion, iterations=2)
        core = core if core.sum() >= 9 else lesion
        away = scipy.ndimage.distance_transform_edt(~lesion) * pixel
        ring = around & (away > 3) & (away < 12)
        if ring.sum() > 30:
            found.append(abs(float(hu[core].mean() - np.median(hu[ring]))) / deviation)
    return found


def slice_statistics(seed: int, number: int) -> list[dict]:
    """Numbers of whole slices, with and without tumours, for the probe; liver mask not used."""
    which = dataclasses.replace(SETS["sltd"]["paper"], free_slices=2)
    p = patients.patient(which, seed, number)
    found = []
    free = cases.free_slices(p)
    for z in [*p.slices[:2], *free]:
        hu = render.hounsfield(p, z)
        found.append({"patient": number, "lesion": z not in free, "z": z} | _statistics(hu, p, z))
    return found


def _statistics(hu: np.ndarray, p: patients.Patient, z: int) -> dict:
    inside = measures.body(hu)
    values = hu[inside]
    soft = inside & (hu > 0) & (hu < 200)
    fine = hu - scipy.ndimage.gaussian_filter(hu, 1.0 / p.scanner.pixel_mm)
    shown = np.clip((hu + 25) / 150, 0, 1)
    ring = measures.radial(
        np.abs(np.fft.fft2(shown - shown.mean())) ** 2, p.scanner.pixel_mm, np.array(BANDS)
    )
    return {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "soft_mean": float(hu[soft].mean()),
        "soft_sd": float(hu[soft].std()),
        "grain": float(fine[soft].std()),
        "bands": np.log(ring + 1e-9).tolist(),
        "parity": [number_ % 2 for number_ in (z, p.number, p.seed)],
    }


BANDS = (0.02, 0.06, 0.1, 0.2, 0.3, 0.4, 0.5)  # 1/mm


def multiphase_organs(seed: int, number: int) -> dict[str, dict[str, float]]:
    """Phase -> organ -> median HU in the images of a four-phase patient; NaN where it is unseen."""
    p = patients.patient(SETS["multiphase"]["paper"], seed, number)
    pixel = p.scanner.pixel_mm
    values: dict[str, dict[str, list]] = {phase: {n: [] for n in ORGANS} for phase in PHASES}
    for height in HEIGHTS_MM:
        z = sets.nearest_slice(p.set, height)
        for phase in PHASES:
            map_, hu = render.tissues(p, z, phase), render.hounsfield(p, z, phase)
            for name in ORGANS:
                core = measures.eroded(map_ == tissue.NUMBER[name], 1.5 * pixel, pixel)
                values[phase][name] += hu[core].tolist()
    return {
        phase: {n: float(np.median(v)) if len(v) > 20 else float("nan") for n, v in row.items()}
        for phase, row in values.items()
    }


def multiphase_noise(seed: int, number: int) -> dict:
    """Noise and edges of one portal slice of a four-phase patient."""
    p = patients.patient(SETS["multiphase"]["paper"], seed, number)
    pixel, z = p.scanner.pixel_mm, sets.nearest_slice(p.set, 18.0)
    liver, drawn = render.liver(p, z), render.tumours(p, z)
    tumour = scipy.ndimage.binary_dilation(drawn > 0, iterations=4)
    mask = measures.eroded(liver, 4, pixel) & ~tumour
    hu = render.hounsfield(p, z)
    above = [render.hounsfield(p, z + k) for k in (1, 2, 3)]
    return {
        "noise": noise_of(hu, above, mask, pixel),
        "alone": _noise_alone(p, z, mask),
        "rim": measures.rim_over_middle(hu, pixel),
        "liver_fat": measures.liver_fat(hu, liver, pixel),
        "skin_air": measures.skin_air(hu, pixel),
    }


def _noise_alone(p: patients.Patient, z: int, mask: Bool[np.ndarray, "H W"]) -> dict:
    """The same measures of what the scanner adds, without tissue: tells noise from texture."""
    pure = scanner.noise(p.scanner, (p.seed, p.number, PHASES.index("portal"), z))
    return noise_of(pure, [], mask, p.scanner.pixel_mm)

"""All annotated slices of one phantom patient, as the data sets store them.

SLTD gives its 2 or 3 slices; the four-phase set every slice in which the mask of the annotated
phase has a box, with its neighbours in all phases; the demo the first few that have a box of those
that it would show when they are read (on_demand.py).
"""

import itertools

import numpy as np
from jaxtyping import Float, Int16, UInt8

from jaxdet.data import masks
from jaxdet.data.phantom import motion, patients, place, render, sets
from jaxdet.data.phantom.patients import Patient
from jaxdet.data.phantom.sets import Set
from jaxdet.types import CtSlice

EVERY_PX = 8  # of the grid on which the displacement is kept
SMOOTHED_PX = 512  # masks of this size are cleaned as paper 2's; smaller ones have no rough outline


def cases(
    which: Set, seed: int, number: int, *, most: int | None = None, part: tuple[int, int] = (0, 1)
) -> list[CtSlice]:
    """The examples of patient `number`, from feet to head; the same ones however they are made.

    Lesion-free slices, where the set has them, come last. `most` picks so many, evenly spread, of
    those with a box. `part` (i, n) gives the i-th of n shares of them all, for little memory.
    """
    p = patients.patient(which, seed, number)
    truths, few = _annotated(p), which.annotated_slices
    if which.kind == "multiphase" and few:
        most = few if most is None else min(most, few)
    if most is not None and most < len(truths):
        middles = (np.arange(most) + 0.5) / most * len(truths)
        truths = {z: truths[z] for z in [list(truths)[int(k)] for k in middles]}
    truths |= {z: boxes(p, z) for z in free_slices(p)}
    first, last = (len(truths) * k // part[1] for k in (part[0], part[0] + 1))
    slices: dict[tuple[str, int], np.ndarray] = {}
    found = []
    for z in list(truths)[first:last]:
        found.append(_case(p, z, truths[z], slices))
        for key in [key for key in slices if key[1] < z - 1]:
            del slices[key]
    return found


def boxes(p: Patient, z: int) -> masks.Boxes:
    """The boxes and lesions of slice z, as the annotated phase shows them. No HU are computed."""
    drawn = render.tumours(p, z, p.annotated)
    if p.set.kind == "multiphase":
        main = (drawn == 1).astype(np.uint8)  # satellites are not annotated
        return masks.boxes_of(main, smooth=p.set.size >= SMOOTHED_PX)
    return masks.boxes_of(_largest_parts(drawn), smooth=False)


def _annotated(p: Patient) -> dict[int, masks.Boxes]:
    """The truth of every slice that the set may annotate, from feet to head; each has a box."""
    few = p.set.annotated_slices if p.set.kind != "multiphase" else 0
    shown = ((z, boxes(p, z)) for z in p.slices)
    with_box = ((z, truth) for z, truth in shown if len(truth.boxes_xyxy))
    return dict(sorted(itertools.islice(with_box, few or None), key=lambda s: s[0]))


def free_slices(p: Patient) -> list[int]:
    """`free_slices` slices that show no tumour, rising, at heights where tumours are as likely."""
    if not p.set.free_slices:
        return []
    rng = np.random.default_rng([p.seed, p.number, 7])
    points, _ = place.inside_liver(rng, p.body, 2000)
    levels = [sets.nearest_slice(p.set, height) for height in points[:, 2]]
    taken = () if p.set.kind == "demo" else p.slices  # the demo's list has slices without any too
    found: list[int] = []
    for z in dict.fromkeys(levels):
        if len(found) == p.set.free_slices:
            break
        inside = 0 < z < p.set.depth - 1 and z not in taken
        if inside and render.liver(p, z).any() and not render.tumours(p, z).any():
            found.append(z)
    return sorted(found)


def _case(p: Patient, z: int, truth: masks.Boxes, slices: dict) -> CtSlice:
    spacing = (p.scanner.pixel_mm, p.scanner.pixel_mm, p.set.pitch_mm)
    return CtSlice(
        hu=_stack(p, z, slices),
        boxes_xyxy=truth.boxes_xyxy,
        labels=np.zeros(len(truth.boxes_xyxy), np.int32),
        diameters_mm=masks.diameters_mm(truth.instances, spacing[:2]),
        lesions=truth.instances,
        livers=np.stack([render.liver(p, z, phase) for phase in p.set.phases], axis=-1),
        displacement_mm=displacement_mm(p, z) if p.motions else None,
        spacing_mm=spacing,
        phases=p.set.phases,
        annotated=p.annotated,
        touching=masks.touching(truth.instances),
        patient=p.name,
        name=f"{p.name} slice {z}",
        z=z,
    )


def displacement_mm(p: Patient, z: int) -> Float[np.ndarray, "h w P 3"]:
    """How far each phase shows the tissue from where the portal phase shows it; x, y, z in mm.

    Known at every 8th pixel of portal slice z, in the middle of blocks of 8 x 8 pixels.
    """
    size, pixel = p.scanner.size, p.scanner.pixel_mm
    line = np.arange(EVERY_PX / 2 - 0.5, size, EVERY_PX, dtype=np.float32)
    line = (line - (size - 1) / 2) * np.float32(pixel)
    points = (
        (line - np.float32(p.shift_mm[0]))[None, :],
        (line - np.float32(p.shift_mm[1]))[:, None],
        sets.height_mm(p.set, z),
    )
    fields = [
        motion.displacement_mm(p.motions[phase], p.body, points)
        if phase != "portal"
        else np.zeros((len(line), len(line), 3), np.float32)
        for phase in p.set.phases
    ]
    return np.stack(fields, axis=2)


def _stack(p: Patient, z: int, slices: dict) -> Int16[np.ndarray, "H W C"]:
    """HU as int16, phase-major; neighbouring data points share the slices they have in common."""
    half = p.set.neighbours // 2
    for phase in p.set.phases:
        for k in range(z - half, z + half + 1):
            if (phase, k) not in slices:
                slices[phase, k] = np.rint(render.hounsfield(p, k, phase)).astype(np.int16)
    channels = [slices[ph, k] for ph in p.set.phases for k in range(z - half, z + half + 1)]
    return np.stack(channels, axis=-1)


def _largest_parts(drawn: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Every lesion's largest connected part: a vessel or a neighbour may cut a corner off."""
    kept = np.zeros_like(drawn)
    for number in np.unique(drawn[drawn > 0]):
        parts = masks.boxes_of((drawn == number).astype(np.uint8), smooth=False).instances
        best = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
        kept[parts == best] = number
    return kept

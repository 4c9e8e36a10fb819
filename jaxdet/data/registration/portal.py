"""A data point whose phases lie on the portal one, as the registered sets of paper 2.

    CtSlice -> transforms() -> warp() -> CtSlice

Paper 2 calls these sets rigid, affine and non-rigid (Lee 2021, Section V-E, Table II).
"""

import dataclasses

import numpy as np
from jaxtyping import Shaped

from jaxdet.data.masks import boxes_of, diameters_mm
from jaxdet.data.registration.pair import register
from jaxdet.data.registration.transform import Transform, identity
from jaxdet.types import CtSlice

FIXED = "portal"

Transforms = dict[str, tuple[Transform, ...]]  # by phase: one for each slice, from feet to head


def to_portal(
    case: CtSlice,
    method: str,
    *,
    per_slice: bool = True,
    backend: str = "sitk",
    seed: int = 0,
) -> CtSlice:
    """The same data point with every phase registered to the portal one: `transforms`, `warp`."""
    found = transforms(case, method, per_slice=per_slice, backend=backend, seed=seed)
    return warp(case, found)


def transforms(
    case: CtSlice,
    method: str,
    *,
    per_slice: bool = True,
    backend: str = "sitk",
    seed: int = 0,
) -> Transforms:
    """For each phase, the transform of each of its slices to the portal slice of the same height.

    Each slice of the stack has its own, as the official scripts do it; without `per_slice` the
    central one's serves them all, in a third of the time. The portal phase stays where it is. No
    portal phase, and what `pair.register` refuses, are a ValueError that names the case.
    """
    stack = _stack(case)
    fixed = stack[:, :, case.phases.index(FIXED)]
    depth = stack.shape[3]
    found = {}
    for i, phase in enumerate(case.phases):
        if phase == FIXED:
            found[phase] = (identity(fixed.shape[:2]),) * depth
            continue
        try:
            each = [
                register(fixed[..., s], stack[:, :, i, s], method, backend=backend, seed=seed)
                for s in (range(depth) if per_slice else (depth // 2,))
            ]
        except ValueError as error:
            raise ValueError(f"{case.name}: {phase} phase to {FIXED}: {error}") from error
        found[phase] = tuple(each) if per_slice else tuple(each * depth)
    return found


def warp(case: CtSlice, found: Transforms) -> CtSlice:
    """The data point with its phases, lesions and livers moved by transforms of `transforms`.

    HU are interpolated linearly in their own type, air beyond the edge. The lesion mask was drawn
    on the central slice of one phase and follows that one's transform; boxes are taken from the
    warped mask anew, unsmoothed, as the official clean-up does it (facts, gssd_reference 6.6), so
    a lesion that leaves the image has no box and one that is torn has two; labels follow. Of a
    mask drawn on the portal phase nothing changes. A liver follows the central slice of its phase.
    `displacement_mm` is None: the true motion is that of the case before. `touching` stays: a
    transform parts nothing. Boxes without a mask on another phase than the portal one are a
    ValueError.
    """
    stack = _stack(case)
    depth = stack.shape[3]
    hu = np.stack(
        [
            found[phase][s].warp(stack[:, :, i, s])
            for i, phase in enumerate(case.phases)
            for s in range(depth)
        ],
        axis=-1,
    )
    livers = case.livers
    if livers is not None:
        each = [found[p][depth // 2].warp_mask(livers[..., i]) for i, p in enumerate(case.phases)]
        livers = np.stack(each, axis=-1)
    moved = dataclasses.replace(case, hu=hu, livers=livers, displacement_mm=None)
    if case.annotated == FIXED:
        return moved
    return _with_lesions(moved, found[case.annotated][depth // 2])


def _stack(case: CtSlice) -> Shaped[np.ndarray, "H W P S"]:
    """HU by phase and slice; checks that there is something to register to."""
    for wanted in (FIXED, case.annotated):
        if wanted not in case.phases:
            raise ValueError(
                f"{case.name}: has no {wanted} phase, only {', '.join(case.phases)}; phases are"
                f" registered to the {FIXED} one, and lesions follow the phase they were drawn on"
            )
    high, wide, channels = case.hu.shape
    if channels % len(case.phases):
        raise ValueError(
            f"{case.name}: {channels} channels are no equal number of slices for each of"
            f" {len(case.phases)} phases"
        )
    return case.hu.reshape(high, wide, len(case.phases), -1)


def _with_lesions(case: CtSlice, transform: Transform) -> CtSlice:
    if case.lesions is None:
        if not len(case.boxes_xyxy):
            return case
        raise ValueError(
            f"{case.name}: has boxes on the {case.annotated} phase and no lesion mask; boxes alone"
            f" cannot follow a registration. Give masks, or boxes drawn on the {FIXED} phase"
        )
    warped = transform.warp_mask(case.lesions)
    boxes, instances = boxes_of(warped, smooth=False)
    # All pixels of an instance come from one lesion; its number before the warp finds its label.
    before = [int(warped[instances == i].max()) for i in range(1, len(boxes) + 1)]
    return dataclasses.replace(
        case,
        boxes_xyxy=boxes,
        labels=case.labels[np.array(before, np.int64) - 1],
        diameters_mm=diameters_mm(instances, case.spacing_mm[:2]),
        lesions=instances,
    )

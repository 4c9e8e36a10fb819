"""Slices as the data sets get them: truth fits the pixels, phases fit each other, seeds decide."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.ndimage

from jaxdet.config import Data
from jaxdet.data import masks, misalignment, phantom
from jaxdet.data.phantom import SETS, cases, motion, patients, render, sets, tissue
from jaxdet.types import PHASES

ONE = dataclasses.replace(SETS["sltd"]["paper"], size=160)
FOUR = dataclasses.replace(SETS["multiphase"]["paper"], size=96)


@pytest.fixture(scope="module")
def single():
    return [case for number in range(4) for case in cases(ONE, 1, number)]


@pytest.fixture(scope="module")
def four():
    """A patient annotated on another phase than the portal one, with a tumour of a usual size."""
    return cases(FOUR, 0, _usual())


def _usual() -> int:
    for number in range(40):
        p = patients.patient(FOUR, 0, number)
        if p.annotated != "portal" and 25 < 2 * p.lesions[0].semi.max() < 45:
            return number
    raise LookupError("no such patient")


def test_shapes_types_and_names(single, four):
    for case, channels, phases in ((single[0], 1, ("portal",)), (four[0], 12, PHASES)):
        size = case.hu.shape[0]
        assert case.hu.shape == (size, size, channels) and case.hu.dtype == np.int16
        assert case.phases == phases and case.livers.shape == (size, size, len(phases))
        assert case.lesions.shape == (size, size) and case.livers.dtype == bool
        assert case.boxes_xyxy.dtype == np.float32 and len(case.labels) == len(case.boxes_xyxy)
        assert case.name == f"{case.patient} slice {case.z}"
    assert four[0].displacement_mm.shape == (12, 12, 4, 3)
    assert single[0].displacement_mm is None


def test_boxes_are_those_of_the_mask_and_lesions_lie_in_the_liver(single, four):
    for case in [*single, *four]:
        found = masks.boxes_of(case.lesions, smooth=False)
        assert np.array_equal(found.boxes_xyxy, case.boxes_xyxy)
        assert len(case.boxes_xyxy) >= 1
        liver = case.livers[..., case.phases.index(case.annotated)]
        assert (liver | (case.lesions == 0)).all()
        assert np.array_equal(
            masks.diameters_mm(case.lesions, case.spacing_mm[:2]), case.diameters_mm
        )


def test_data_points_of_a_patient_share_their_slices(four):
    for low, high in itertools.pairwise(four):
        if high.z == low.z + 1:
            a, b = (c.hu.reshape(*c.hu.shape[:2], 4, 3) for c in (low, high))
            assert np.array_equal(a[..., 1:], b[..., :2])
    assert all(1 <= case.z <= FOUR.depth - 2 for case in four)


def test_any_slice_alone_is_the_same_slice(four):
    number = _usual()
    patients.patient.cache_clear()
    p = patients.patient(FOUR, 0, number)
    alone = render.hounsfield(p, four[1].z, "delayed")
    assert np.array_equal(np.rint(alone).astype(np.int16), four[1].hu[..., 10])
    patients.patient.cache_clear()
    again = cases(FOUR, 0, number)
    assert all(np.array_equal(a.hu, b.hu) for a, b in zip(four, again, strict=True))


def test_tissues_have_the_patients_hu_in_every_phase():
    p = patients.patient(FOUR, 3, 1)
    quiet = dataclasses.replace(p, scanner=dataclasses.replace(p.scanner, cupping_hu=0.0))
    for phase in PHASES:
        hu, number = render.ideal(quiet, 32, phase), render.tissues(quiet, 32, phase)
        for name in ("liver", "spleen", "aorta", "fat"):
            where = number == tissue.NUMBER[name]
            if where.sum() > 40:
                assert np.median(hu[where]) == pytest.approx(p.hu[phase][name], abs=9.0), name


def test_liver_and_tumour_masks_are_those_of_the_tissues():
    p = patients.patient(FOUR, 0, _usual())
    z = p.slices[len(p.slices) // 2]
    for phase in ("portal", "arterial"):
        drawn = render.tissues(p, z, phase) == tissue.NUMBER["tumour"]
        assert np.array_equal(drawn, render.tumours(p, z, phase) > 0)
        assert (render.liver(p, z, phase) | ~drawn).all()


def test_phases_are_displaced_as_stored(four):
    """Tissue deep in the portal liver is liver again at point + displacement, in every phase."""
    seen, moved = [], []
    for case in four:
        pixel = case.spacing_mm[0]
        depth = scipy.ndimage.distance_transform_edt(case.livers[..., 2]) * pixel
        assert np.abs(case.displacement_mm[..., 2, :]).max() == 0
        for row, column in np.argwhere(depth[4::8, 4::8] > 6.0):
            for k in range(4):
                dx, dy, dz = case.displacement_mm[row, column, k]
                if abs(dz) < 2.0:  # else it left this slice
                    x, y = column * 8 + 3.5 + dx / pixel, row * 8 + 3.5 + dy / pixel
                    seen.append(case.livers[round(float(y)), round(float(x)), k])
                    moved.append(np.hypot(dx, dy))
    assert len(seen) > 200 and np.mean(seen) > 0.99
    assert np.max(moved) > 2.0


def test_free_slices_show_the_liver_and_no_tumour():
    which = dataclasses.replace(ONE, free_slices=2)
    found = cases(which, 1, 0)
    free = [case for case in found if not len(case.boxes_xyxy)]
    assert len(free) == 2 and all(case.livers.any() for case in free)
    assert all(not case.lesions.any() for case in free)
    some = [case for case in found if len(case.boxes_xyxy)]
    wanted = cases(ONE, 1, 0)
    assert all(np.array_equal(a.hu, b.hu) for a, b in zip(some, wanted, strict=True))


def test_the_demos_slices_are_those_that_it_shows_with_a_tumour():
    """The prepared demo is the on-demand one without its empty slices, HU and all."""
    which = dataclasses.replace(SETS["demo"]["tiny"], size=96, tumour_scale=1.0)
    cfg = Data(image_size=96, channels=1, phantom_patients=2, phantom_slices=12)
    _, shown, read = phantom.records(cfg)
    for number in range(2):
        made = cases(which, 0, number)
        wanted = {r.name: i for i, r in enumerate(shown) if f"patient {number} " in r.name}
        full = [name for name, i in wanted.items() if len(shown[i].labels)]
        assert len(full) < len(wanted) and {case.name for case in made} == set(full[:4])
        assert [case.z for case in made] == sorted(case.z for case in made)
        for case in made:
            i = wanted[case.name]
            assert np.array_equal(case.boxes_xyxy, shown[i].boxes_xyxy)
            assert np.array_equal(case.hu, np.rint(read(i)).astype(np.int16))


def test_free_slices_of_the_demo_leave_the_others_as_they_are():
    which = dataclasses.replace(SETS["demo"]["tiny"], size=64)
    for number in range(3):
        plain = cases(which, 0, number)
        both = cases(dataclasses.replace(which, free_slices=3), 0, number)
        free = [case for case in both if not len(case.boxes_xyxy)]
        assert len(plain) == 4 and len(free) == 3 and len(both) == 7
        assert all(case.livers.any() and not case.lesions.any() for case in free)
        for a, b in zip(plain, both, strict=False):
            assert np.array_equal(a.hu, b.hu) and np.array_equal(a.boxes_xyxy, b.boxes_xyxy)


def test_noise_knows_nothing_of_the_tumours():
    p = patients.patient(ONE, 1, 0)
    z = p.slices[0]
    without = dataclasses.replace(p, lesions=())
    far = scipy.ndimage.binary_dilation(render.liver(p, z), iterations=6)
    a, b = render.hounsfield(p, z), render.hounsfield(without, z)
    assert np.allclose(a[~far], b[~far], atol=1e-3)  # the blur's own rounding
    assert np.abs(a - b).max() > 8.0


def test_misalignment_is_that_of_the_tumours_own_tissue(four):
    """The blocks tell what the motions do to the tissue behind the middle of the drawn tumour."""
    p = patients.patient(FOUR, 0, _usual())
    case = four[len(four) // 2]
    largest = int(np.argmax(np.bincount(case.lesions.ravel())[1:]))
    y, x = (v.mean() for v in np.nonzero(case.lesions == largest + 1))
    pixel, middle = p.scanner.pixel_mm, (p.scanner.size - 1) / 2
    at = ((x - middle) * pixel - p.shift_mm[0], (y - middle) * pixel - p.shift_mm[1])
    point = tuple(np.full(1, v, np.float32) for v in (*at, sets.height_mm(FOUR, case.z)))
    rest = motion.pull(p.motions[p.annotated], p.body, point)
    shown = {f: motion.displacement_mm(p.motions[f], p.body, rest) for f in PHASES}
    apart = max(np.linalg.norm(shown[f] - shown[p.annotated]) for f in PHASES)
    found = misalignment.misaligned_mm(case)[largest]
    assert found == pytest.approx(apart, rel=0.15) and apart > 3


def test_the_demo_of_four_phases_has_few_slices_evenly_spread():
    few = dataclasses.replace(SETS["multiphase_demo"]["tiny"], size=48)
    whole = cases(dataclasses.replace(few, annotated_slices=0), 0, 1)
    found = cases(few, 0, 1)
    assert len(found) == 4 < len(whole)
    heights = [one.z for one in whole]
    assert np.ptp([heights.index(one.z) for one in found]) >= len(whole) // 2
    for one in found:
        same = whole[heights.index(one.z)]
        np.testing.assert_array_equal(one.hu, same.hu)
        np.testing.assert_array_equal(one.boxes_xyxy, same.boxes_xyxy)
    (middle,) = cases(few, 0, 1, most=1)
    assert heights.index(middle.z) == len(whole) // 2

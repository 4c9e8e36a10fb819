import dataclasses

import numpy as np
import pytest

from jaxdet.data.registration import portal
from jaxdet.data.registration.dice import mismatch
from jaxdet.data.registration.transform import Transform, identity


def shifted(case, x, y):
    """Transforms as `transforms` gives them: the arterial phase moved, the others not."""
    still, field = identity(case.hu.shape[:2]), np.zeros((*case.hu.shape[:2], 2), np.float32)
    field[:] = x, y
    found = dict.fromkeys(case.phases, (still,) * 3)
    return found | {"arterial": (still, Transform(field), still)}


def test_the_phases_come_to_lie_on_the_portal_one(case_of):
    case = case_of(size=96)
    found = portal.to_portal(case, "rigid")
    before, after = (mismatch(c.livers, c.phases) for c in (case, found))
    assert before["arterial"] < 0.88 and after["arterial"] > 0.96
    assert found.hu.dtype == np.int16 and found.hu.shape == case.hu.shape
    np.testing.assert_array_equal(found.hu[..., 6:], case.hu[..., 6:])  # portal
    x, y = (case.boxes_xyxy - found.boxes_xyxy).reshape(2, 2).mean(0)
    assert abs(x + 3) < 1 and abs(y - 4) < 1  # the box went along
    assert found.labels.tolist() == [4] and found.lesions.max() == 1
    assert found.displacement_mm is None and found.name == case.name
    assert found.diameters_mm[0] == pytest.approx(2 * 0.05 * 96 * 0.8, abs=1.7)


def test_each_slice_has_its_own_transform_or_the_central_ones(case_of):
    case = case_of(size=96)
    own = portal.transforms(case, "rigid")["arterial"]
    dy = [transform.displacement_px[48, 48, 1] for transform in own]
    np.testing.assert_allclose(np.diff(dy), -1, atol=0.5)  # slices differ by one px in y
    shared = portal.transforms(case, "rigid", per_slice=False)
    assert set(shared) == set(case.phases)
    for transform in shared["arterial"]:
        np.testing.assert_array_equal(transform.displacement_px, own[1].displacement_px)
    assert not any(transform.displacement_px.any() for transform in shared["portal"])


def test_lesions_follow_the_central_slice_of_their_phase(case_of):
    case = case_of()
    found = portal.warp(case, shifted(case, 2, -3))
    np.testing.assert_array_equal(found.lesions[3:, :-2], case.lesions[:-3, 2:])
    np.testing.assert_array_equal(found.boxes_xyxy, case.boxes_xyxy + np.array([-2, 3, -2, 3]))
    np.testing.assert_array_equal(found.livers[3:, :-2, 1], case.livers[:-3, 2:, 1])
    np.testing.assert_array_equal(found.livers[..., 0], case.livers[..., 0])
    np.testing.assert_array_equal(found.hu[3:, :-2, 4], case.hu[:-3, 2:, 4])
    np.testing.assert_array_equal(found.hu[..., [0, 3, 5, 7]], case.hu[..., [0, 3, 5, 7]])


def test_portal_lesions_stay(case_of):
    case = case_of("portal")
    found = portal.warp(case, shifted(case, 5, 5))
    np.testing.assert_array_equal(found.lesions, case.lesions)
    np.testing.assert_array_equal(found.boxes_xyxy, case.boxes_xyxy)
    np.testing.assert_array_equal(found.diameters_mm, case.diameters_mm)
    only_boxes = dataclasses.replace(case, lesions=None, livers=None)
    assert portal.warp(only_boxes, shifted(case, 5, 5)).lesions is None


def test_labels_follow_and_what_leaves_has_no_box(case_of):
    case = case_of()
    lesions = np.zeros_like(case.lesions)
    lesions[10:14, 2:6], lesions[14:18, 2:6], lesions[10:20, 40:46] = 1, 2, 3
    boxes = [[2, 10, 6, 14], [2, 14, 6, 18], [40, 10, 46, 20]]
    case = dataclasses.replace(
        case,
        lesions=lesions,
        boxes_xyxy=np.array(boxes, np.float32),
        labels=np.array([7, 8, 9], np.int32),
        diameters_mm=np.ones(3, np.float32),
        touching=2,
        spacing_mm=(float("nan"),) * 3,  # of the official npy layout
    )
    found = portal.warp(case, shifted(case, 0, 8))
    # y0 and x0 order the boxes, and the third is on top as well.
    assert found.boxes_xyxy.tolist() == [[2, 2, 6, 6], [40, 2, 46, 12], [2, 6, 6, 10]]
    assert found.labels.tolist() == [7, 9, 8] and found.labels.dtype == np.int32
    assert found.touching == 2 and np.isnan(found.diameters_mm).all()
    gone = portal.warp(case, shifted(case, 12, 0))
    assert gone.labels.tolist() == [9] and gone.lesions.max() == 1
    none = portal.warp(case, shifted(case, 100, 0))
    assert none.boxes_xyxy.shape == (0, 4) and none.labels.shape == (0,)


def test_what_cannot_follow_is_refused(case_of):
    case = case_of()
    still = shifted(case, 0, 0)
    with pytest.raises(ValueError, match=r"slice 5: has boxes on the arterial phase and no lesion"):
        portal.warp(dataclasses.replace(case, lesions=None), still)
    with pytest.raises(ValueError, match="slice 5: has no portal phase, only"):
        portal.transforms(
            dataclasses.replace(case, phases=("precontrast", "arterial", "x")), "rigid"
        )
    with pytest.raises(ValueError, match="slice 5: has no delayed phase"):
        portal.to_portal(dataclasses.replace(case, annotated="delayed"), "rigid")
    with pytest.raises(ValueError, match="slice 5: 8 channels are no equal number"):
        portal.to_portal(dataclasses.replace(case, hu=case.hu[..., :8]), "rigid")
    broken = case.hu.astype(np.float32)
    broken[0, 0, 3] = np.nan
    with pytest.raises(ValueError, match="slice 5: arterial phase to portal: moving slice: 1 of"):
        portal.to_portal(dataclasses.replace(case, hu=broken), "rigid")

import dataclasses

import numpy as np
import pytest

from jaxdet.data import misalignment
from jaxdet.data.misalignment import misaligned_mm
from jaxdet.types import PHASES, CtSlice


def case(boxes, lesions=None, displacement_mm=None, annotated="portal", phases=PHASES, pixel=1.0):
    """A slice of 64 x 64 px, or 8 x 8 blocks."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return CtSlice(
        hu=np.zeros((64, 64, len(phases)), np.int16),
        boxes_xyxy=boxes,
        labels=np.zeros(len(boxes), np.int32),
        diameters_mm=np.full(len(boxes), np.nan, np.float32),
        lesions=lesions,
        livers=None,
        displacement_mm=displacement_mm,
        spacing_mm=(pixel, pixel, 2.0),
        phases=phases,
        annotated=annotated,
        touching=0,
        patient="p",
        name="p slice 3",
        z=3,
    )


def moved(**by_phase):
    """The same displacement everywhere, of the phases that are named."""
    found = np.zeros((8, 8, len(PHASES), 3), np.float32)
    for phase, xyz in by_phase.items():
        found[:, :, PHASES.index(phase)] = xyz
    return found


BOX = [[16, 16, 40, 40]]


def test_it_is_the_farthest_phase_in_three_dimensions():
    field = moved(arterial=(2, 3, 6), delayed=(0, 0, -5))
    assert misaligned_mm(case(BOX, None, field)).tolist() == [7.0]
    # From the arterial phase the delayed one is at (-2, -3, -11), the portal one at 7 mm.
    assert misaligned_mm(case(BOX, None, field, "arterial"))[0] == pytest.approx(134**0.5)
    found = misaligned_mm(case([*BOX, [0, 0, 3, 3]], None, moved()))
    assert found.tolist() == [0.0, 0.0] and found.dtype == np.float32


def test_it_is_the_median_over_the_blocks_of_the_lesion():
    field = moved()
    field[2:5, 2:5, 3, 2] = [[1, 2, 3], [4, 5, 6], [7, 8, 90]]
    assert misaligned_mm(case(BOX, None, field)).tolist() == [5.0]
    lesions = np.zeros((64, 64), np.uint8)
    lesions[16:24, 16:40] = 1  # the upper three blocks
    lesions[32:40, 24:40] = 2  # the two at the lower right
    assert misaligned_mm(case([*BOX, [24, 32, 40, 40]], lesions, field)).tolist() == [2.0, 49.0]


def test_a_lesion_between_the_middles_takes_the_nearest_block():
    field = moved()
    field[..., 0, 0] = np.arange(64).reshape(8, 8)
    assert misaligned_mm(case([[22, 15, 26, 18]], None, field)).tolist() == [8 * 2 + 2.5]
    lesions = np.zeros((64, 64), np.uint8)
    lesions[62:, 62:] = 1
    assert misaligned_mm(case([[62, 62, 64, 64]], lesions, field)).tolist() == [63.0]


@pytest.mark.parametrize("pixel", [1.0, 0.5])
def test_blocks_are_looked_for_where_the_annotated_phase_shows_them(pixel):
    # The arterial phase lies 16 px to the right: its lesion is two blocks left of it in portal.
    field = moved(arterial=(16 * pixel, 0, 0))
    field[:, 2:5, 3, 2] = 30
    field[:, 4:, 3, 2] = 0
    wanted = np.hypot(16 * pixel, 30)
    lesions = np.zeros((64, 64), np.uint8)
    lesions[8:24, 32:48] = 1
    for mask in (None, lesions):
        found = misaligned_mm(case([[32, 8, 48, 24]], mask, field, "arterial", pixel=pixel))
        assert found[0] == pytest.approx(wanted)
        found = misaligned_mm(case([[32, 8, 48, 24]], mask, field, "portal", pixel=pixel))
        assert found[0] == pytest.approx(16 * pixel)


def test_what_is_not_known_is_nan_and_one_phase_is_zero():
    one = case(BOX, phases=("portal",))
    assert misaligned_mm(one).tolist() == [0.0]
    arterial = dataclasses.replace(one, annotated="arterial")  # drawn on a phase that is not there
    unknown = [
        arterial,
        case(BOX),
        case(BOX, None, moved(), pixel=float("nan")),
        case(BOX, None, moved(), "venous"),
    ]
    for each in unknown:
        assert misaligned_mm(each).shape == (1,) and np.isnan(misaligned_mm(each)).all()
    for each in (case([]), case([], None, moved()), case([], phases=("portal",))):
        assert misaligned_mm(each).shape == (0,) and misaligned_mm(each).dtype == np.float32


def test_phases_that_stand_in_for_one_are_not_apart():
    assert misaligned_mm(case(BOX, phases=("portal",) * 4)).tolist() == [0.0]
    assert misalignment.BLOCK_PX == 8

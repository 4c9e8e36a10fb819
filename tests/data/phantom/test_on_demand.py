"""The demo's slices: truth fits the pixels, everything comes from the seed."""

import numpy as np
import pytest

from jaxdet.config import Data
from jaxdet.data import phantom
from jaxdet.data.phantom import patients, render, sets

SIDE = 96


def config(**fields) -> Data:
    return Data(**({"image_size": SIDE, "channels": 1, "phantom_patients": 3} | fields))


@pytest.fixture(scope="module")
def many():
    return phantom.records(config(phantom_patients=30, seed=7))


def test_same_seed_same_pixels_in_any_order():
    names, first, read = phantom.records(config())
    forwards = [read(i) for i in range(len(first))]
    patients.patient.cache_clear()
    _, again, read = phantom.records(config())
    assert names == ("tumour",) and len(first) == 12
    for i in (11, 4, 0):  # each alone
        patients.patient.cache_clear()
        assert np.array_equal(read(i), forwards[i])
        assert np.array_equal(first[i].boxes_xyxy, again[i].boxes_xyxy)
        assert first[i].name == again[i].name


def test_seeds_and_patients_differ():
    which = sets.demo(2, 64)

    def made(seed, number):
        return render.hounsfield(patients.patient(which, seed, number), 30)

    assert np.abs(made(0, 0) - made(1, 0)).mean() > 20
    assert np.abs(made(0, 0) - made(0, 1)).mean() > 20


def test_more_patients_or_slices_leave_the_others():
    _, few, _ = phantom.records(config(phantom_patients=2, phantom_slices=2))
    _, more, _ = phantom.records(config(phantom_patients=3, phantom_slices=5))
    assert {r.name for r in few} <= {r.name for r in more}
    assert len({r.name for r in more}) == len(more) == 15
    assert len({r.patient for r in more}) == 3


def test_numbers_and_sizes_of_tumours(many):
    _, found, _ = many
    counts = np.array([len(r.labels) for r in found])
    assert 0.08 < np.mean(counts == 0) < 0.30  # about 1 in 6
    assert counts.max() <= 6 and 1.2 < counts[counts > 0].mean() < 1.8
    boxes = np.concatenate([r.boxes_xyxy for r in found])
    assert boxes.min() >= 0 and boxes.max() <= SIDE
    assert np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)) > 0.03 * SIDE


def test_record_types(many):
    _, found, _ = many
    for record in found:
        m = len(record.labels)
        assert record.boxes_xyxy.shape == (m, 4) and record.boxes_xyxy.dtype == np.float32
        assert record.labels.dtype == np.int32 and not record.labels.any()
        assert record.crowd.shape == (m,) and record.crowd.dtype == bool
        assert record.area.shape == (m,) and record.area.dtype == np.float32
        assert not m or record.area.min() > 0
        assert record.diameters_mm.shape == record.misaligned_mm.shape == (m,)
        assert record.diameters_mm.dtype == np.float32 and not record.misaligned_mm.any()


def test_diameters_are_those_of_the_tumours_and_phase_and_pixels_are_told(many):
    _, found, _ = many
    lesions = 0
    for i, record in enumerate(found):
        p = patients.patient(sets.demo(30, SIDE), 7, i // 4)
        assert record.patient == p.name and record.phase == p.annotated == "portal"
        assert record.pixel_mm == (p.scanner.pixel_mm, p.scanner.pixel_mm)
        sides = (record.boxes_xyxy[:, 2:] - record.boxes_xyxy[:, :2]) * p.scanner.pixel_mm
        slack = 1e-4
        assert (record.diameters_mm >= sides.max(axis=1, initial=0) - slack).all()
        assert (record.diameters_mm <= np.hypot(*sides.T) + slack).all()
        lesions += len(sides)
    assert lesions > 100


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_channels_are_neighbouring_slices(channels):
    _, found, read = phantom.records(
        config(channels=channels, image_size=64, phantom_patients=1, phantom_slices=1)
    )
    z = int(found[0].name.split()[-1])
    image = read(0)
    assert image.shape == (64, 64, channels) and image.dtype == np.float32
    patient = patients.patient(sets.demo(1, 64), 0, 0)
    for c in range(channels):
        assert np.array_equal(image[..., c], render.hounsfield(patient, z - channels // 2 + c))


def test_slices_beyond_the_ends_repeat_the_end():
    patient = patients.patient(sets.demo(1, 48), 0, 0)
    assert np.array_equal(*(render.hounsfield(patient, z) for z in (-3, 0)))


@pytest.mark.parametrize("fields", [{"phantom_patients": 0}, {"phantom_slices": 99}])
def test_wrong_counts_are_named(fields):
    with pytest.raises(ValueError, match=r"data\.phantom_slices 1 to 26; got"):
        phantom.records(config(**fields))

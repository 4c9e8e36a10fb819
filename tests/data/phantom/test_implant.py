"""Lesions in a CT that is there already: known truth, and nothing changed elsewhere."""

import numpy as np
import pytest
import scipy.ndimage

from jaxdet.data import volume as ct
from jaxdet.data.phantom import implant
from jaxdet.types import Volume


def plain(shape=(24, 80, 90), liver_hu=100.0) -> tuple[Volume, np.ndarray]:
    rng = np.random.default_rng(0)
    hu = (liver_hu + 5 * rng.normal(size=shape)).astype(np.float32)
    liver = np.zeros(shape, bool)
    liver[2:-2, 6:-6, 6:-6] = True
    eye = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return Volume(hu, (1.0, 1.0, 2.5), (0.0, 0.0, 0.0), eye, "made up"), liver


def away_mm(drawn: np.ndarray, volume: Volume) -> np.ndarray:
    return scipy.ndimage.distance_transform_edt(drawn == 0, volume.spacing_mm[::-1])


def test_truth_lies_in_the_liver_and_nothing_changes_elsewhere():
    volume, liver = plain()
    new, drawn = implant.implant(volume, liver, seed=3, count=3)
    assert drawn.dtype == np.uint8 and set(np.unique(drawn)) == {0, 1, 2, 3}
    far = away_mm(drawn, volume) > 14
    assert far.mean() > 0.2 and np.array_equal(new.hu[far], volume.hu[far])
    assert liver[drawn > 0].mean() > 0.95
    again, same = implant.implant(volume, liver, seed=3, count=3)
    assert np.array_equal(again.hu, new.hu) and np.array_equal(same, drawn)
    other, _ = implant.implant(volume, liver, seed=4, count=3)
    assert not np.array_equal(other.hu, new.hu)
    more, _ = implant.implant(new, liver, seed=4, count=1)
    assert (volume.faults, new.faults, more.faults) == ({}, {"implanted": 3}, {"implanted": 4})
    assert (new.spacing_mm, new.origin_mm, new.direction) == (
        volume.spacing_mm, volume.origin_mm, volume.direction,
    )  # fmt: skip


def test_most_lesions_are_dark_and_the_noise_stays():
    volume, liver = plain()
    differences, noise = [], []
    for seed in range(12):
        new, drawn = implant.implant(volume, liver, seed=seed, count=1)
        inside = scipy.ndimage.binary_erosion(drawn > 0, iterations=2)
        if inside.sum() > 20:
            differences.append(float(new.hu[inside].mean() - 100))
            noise.append(float((new.hu - scipy.ndimage.median_filter(new.hu, 3))[inside].std()))
    assert len(differences) >= 6 and np.mean(np.array(differences) < -5) > 0.6
    assert 2.5 < np.median(noise) < 9


@pytest.mark.parametrize(
    ("count", "change", "message"),
    [
        (0, None, "1 to 255 lesions; got 0"),
        (1, "shape", r"liver mask is \(24, 80, 89\), the volume \(24, 80, 90\)"),
        (1, "empty", "mask is empty"),
        (40, None, "of 40 lesions fit"),
    ],
)
def test_what_cannot_be_done_is_said(count, change, message):
    volume, liver = plain()
    liver = liver[..., 1:] if change == "shape" else liver & (change != "empty")
    with pytest.raises(ValueError, match=message):
        implant.implant(volume, liver, seed=0, count=count)


@pytest.mark.parametrize(
    ("kind", "phase"), [("sltd", "arterial"), ("multiphase", "venous"), ("demo", "portal")]
)
def test_unknown_kinds_and_phases_are_refused(kind, phase):
    volume, liver = plain()
    with pytest.raises(ValueError, match=f"'{kind}' in phase '{phase}'; there are sltd: portal; "):
        implant.implant(volume, liver, seed=0, count=1, kind=kind, phase=phase)


def test_in_the_real_series(shared):
    folder = shared / "data" / "totalseg_ct"
    volume = ct.to_lps(ct.read(folder / "dicom_20slices"))
    labels = ct.to_lps(ct.read(folder / "example_seg_dicom.nii.gz"))
    liver = labels.hu == 5
    new, drawn = implant.implant(volume, liver, seed=1, count=2)
    assert liver[drawn > 0].mean() > 0.9
    far = away_mm(drawn, volume) > 14
    assert far.mean() > 0.2 and np.array_equal(new.hu[far], volume.hu[far])
    assert np.abs(new.hu - volume.hu).max() > 10

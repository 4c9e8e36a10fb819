"""What a user names becomes slices: every kind of file, neighbours, LPS order, faults."""

import cv2
import numpy as np
import pytest

from jaxdet.config import Data
from jaxdet.predict import inputs

RNG = np.random.default_rng(0)


def ct(channels: int = 3) -> Data:
    return Data(channels=channels, window_hu=(-100.0, 200.0))


def save_nifti(path, hu, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(hu)
    image.SetDirection([float(v) for v in direction])
    image.SetSpacing((0.8, 0.9, 2.0))
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
def test_one_image(tmp_path, suffix):
    grey = RNG.integers(0, 256, (5, 7), np.uint8)
    if suffix == ".npy":
        np.save(tmp_path / "a.npy", grey)
    else:
        cv2.imwrite(str(tmp_path / f"a{suffix}"), grey)
    (found,) = inputs.read([tmp_path / f"a{suffix}"], Data(channels=1))
    assert np.array_equal(found.image[..., 0], grey) and found.image.dtype == np.uint8
    assert (found.name, found.volume, found.z) == (f"a{suffix}", None, None)


def test_jpeg_and_colour(tmp_path):
    colour = np.zeros((16, 16, 3), np.uint8)
    colour[..., 0] = 200  # red
    cv2.imwrite(str(tmp_path / "a.jpg"), colour[..., ::-1])
    (found,) = inputs.read([tmp_path / "a.jpg"], Data(channels=3))
    assert abs(found.image.astype(int) - colour).max() < 8


def test_npy_with_channels_is_one_image(tmp_path):
    image = RNG.random((6, 5, 4), np.float32)
    np.save(tmp_path / "a.npy", image)
    (found,) = inputs.read([tmp_path / "a.npy"], Data(channels=4))
    assert np.array_equal(found.image, image) and found.z is None


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_npy_stack_gives_neighbours(tmp_path, channels):
    stack = RNG.integers(0, 256, (4, 6, 20), np.uint8)
    np.save(tmp_path / "a.npy", stack)
    found = list(inputs.read([tmp_path / "a.npy"], Data(channels=channels)))
    assert [f.z for f in found] == [0, 1, 2, 3]
    padded = np.pad(stack, ((8, 8), (0, 0), (0, 0)), mode="edge")
    for f in found:
        low = f.z + 8 - channels // 2
        assert np.array_equal(f.image, padded[low : low + channels].transpose(1, 2, 0))


def test_wrong_channel_count_is_no_stack(tmp_path):
    np.save(tmp_path / "a.npy", RNG.integers(0, 256, (30, 30, 5), np.uint8))
    with pytest.raises(ValueError, match=r"5 channels, data\.channels wants 4"):
        list(inputs.read([tmp_path / "a.npy"], Data(channels=4)))


def test_nifti_is_windowed_and_turned_to_lps(tmp_path):
    hu = RNG.integers(-300, 400, (3, 6, 8)).astype(np.float32)
    # Stored as most NIfTI tools do, right and back first: x and y run against LPS.
    save_nifti(tmp_path / "a.nii.gz", hu, (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    found = list(inputs.read([tmp_path / "a.nii.gz"], ct(channels=1)))
    wanted = np.clip((hu[:, ::-1, ::-1] + 100) / 300, 0, 1)
    assert [f.z for f in found] == [0, 1, 2] and found[0].name == "a.nii.gz"
    for f in found:
        assert f.image.dtype == np.float32
        assert np.allclose(f.image[..., 0], wanted[f.z], atol=1e-6)
        assert f.volume.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_real_dicom_folder(shared):
    folder = shared / "data" / "totalseg_ct" / "dicom_20slices"
    found = list(inputs.read([folder], ct()))
    assert [f.z for f in found] == list(range(20))
    assert found[4].image.shape == (512, 512, 3) and found[4].name == "dicom_20slices"
    assert np.array_equal(found[4].image[..., 2], found[5].image[..., 1])
    assert np.array_equal(found[0].image[..., 0], found[0].image[..., 1])


def test_folder_is_walked_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.png", "b/a.png", "a.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    found = list(inputs.read([tmp_path], Data(channels=3)))
    assert [f.name for f in found] == ["a.png", "b/a.png", "c.png"]


def test_ct_without_window_says_so(tmp_path):
    save_nifti(tmp_path / "a.nii", np.zeros((2, 3, 4), np.float32))
    with pytest.raises(ValueError, match=r"is a CT .*train with data\.window_hu"):
        list(inputs.read([tmp_path / "a.nii"], Data()))
    np.save(tmp_path / "a.npy", np.full((30, 30), -500, np.int16))
    with pytest.raises(ValueError, match="window_hu"):
        list(inputs.read([tmp_path / "a.npy"], Data(channels=1)))


def test_faults_are_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        list(inputs.read([tmp_path / "nowhere"], Data()))
    with pytest.raises(ValueError, match="holds no input: wanted a DICOM folder"):
        list(inputs.read([tmp_path], Data()))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    with pytest.raises(ValueError, match=r"a\.png"):
        list(inputs.read([tmp_path / "a.png"], Data()))
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read"):
        list(inputs.read([tmp_path / "a.npy"], Data()))
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "1.dcm").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"1\.dcm is truncated or no DICOM"):
        list(inputs.read([tmp_path / "ct"], ct()))


def test_neighbours_repeat_the_edges():
    assert inputs.neighbours(0, 3, 5) == [0, 0, 1]
    assert inputs.neighbours(4, 3, 5) == [3, 4, 4]
    assert inputs.neighbours(2, 1, 5) == [2]
    assert inputs.neighbours(2, 4, 5) == [0, 1, 2, 3]
    assert inputs.neighbours(0, 3, 1) == [0, 0, 0]


OFFICIAL = ("arterial", "delayed", "portal", "precontrast")
LEVEL = {"precontrast": 10.0, "arterial": 20.0, "portal": 30.0, "delayed": 40.0}


def four(channels: int = 12) -> Data:
    return Data(channels=channels, window_hu=(0.0, 100.0))


def patient(folder, absent=()):
    """Phases whose HU tell phase and slice, and a mask that is no CT."""
    folder.mkdir()
    for phase, level in LEVEL.items():
        if phase not in absent:
            hu = np.broadcast_to(level + np.arange(5, dtype=np.float32)[:, None, None], (5, 4, 6))
            save_nifti(folder / f"{phase}.nii.gz", np.ascontiguousarray(hu))
    save_nifti(folder / "mask_portal.nii.gz", np.eye(4, 6, dtype=np.uint8)[None].repeat(5, 0))
    return folder


@pytest.mark.parametrize("order", [tuple(LEVEL), OFFICIAL, ("portal", "arterial")])
def test_a_patients_folder_is_all_phases_in_the_runs_order(tmp_path, order):
    folder, reading = patient(tmp_path / "p1"), inputs.Reading(order, 3)
    found = list(inputs.read([folder], four(3 * len(order)), reading=reading))
    assert [(f.name, f.z) for f in found] == [("p1", 1), ("p1", 2), ("p1", 3)]
    for f in found:
        wanted = [(LEVEL[phase] + f.z + d) / 100 for phase in order for d in (-1, 0, 1)]
        assert np.allclose(f.image, np.broadcast_to(wanted, (4, 6, len(wanted))), atol=1e-6)
        assert f.image.dtype == np.float32 and f.volume.source.endswith("portal.nii.gz")
        assert np.allclose(f.image[0, 0, f.shown], (30 + f.z) / 100)


def test_several_phases_refuse_one_volume_or_image(tmp_path):
    folder, reading = patient(tmp_path / "p1"), inputs.Reading(OFFICIAL, 3)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    for path in (folder / "portal.nii.gz", tmp_path / "a.png"):
        with pytest.raises(ValueError, match=r"arterial, delayed, portal, precon.*patient's fold"):
            list(inputs.read([path], four(), reading=reading))
    with pytest.raises(ValueError, match="with a series UID is one series"):
        list(inputs.read([folder], four(), "1.2.3", reading))
    with pytest.raises(ValueError, match="does not exist"):
        list(inputs.read([tmp_path / "nowhere"], four(), reading=reading))
    with pytest.raises(ValueError, match=r"train with data\.window_hu"):
        list(inputs.read([folder], Data(channels=12), reading=reading))
    with pytest.raises(ValueError, match="no slice with 6 neighbours"):
        list(inputs.read([folder], four(28), reading=inputs.Reading(OFFICIAL, 7)))


def test_a_missing_phase_is_an_error_air_or_portal(tmp_path):
    folder = patient(tmp_path / "p1", absent=("delayed",))
    with pytest.raises(ValueError, match=r"p1 has no delayed phase .*missing=\"zero\""):
        list(inputs.read([folder], four(), reading=inputs.Reading(OFFICIAL, 3)))
    for missing, wanted in (("zero", [0, 0, 0]), ("portal", [0.3, 0.31, 0.32])):
        reading = inputs.Reading(OFFICIAL, 3, missing)
        first = next(inputs.read([folder], four(), reading=reading))
        assert np.allclose(first.image[0, 0, 3:6], wanted)


@pytest.mark.parametrize(("order", "near"), [(("portal",) * 4, 3), (("portal",), 1)])
def test_one_phase_repeated_takes_a_single_volume(tmp_path, order, near):
    hu = RNG.uniform(0, 100, (4, 5, 6)).astype(np.float32)
    save_nifti(tmp_path / "a.nii.gz", hu)
    reading = inputs.Reading(order, near)
    found = list(inputs.read([tmp_path / "a.nii.gz"], four(), reading=reading))
    once = list(inputs.read([tmp_path / "a.nii.gz"], four(near)))
    assert [f.z for f in found] == [0, 1, 2, 3]
    for many, one in zip(found, once, strict=True):
        assert np.array_equal(many.image, np.concatenate([one.image] * (12 // near), axis=2))
        assert np.allclose(many.image[..., many.shown], hu[many.z] / 100)


def test_nan_becomes_air_when_asked(tmp_path):
    hu = np.full((3, 4, 5), 50, np.float32)
    hu[1, 2, 3] = np.nan
    save_nifti(tmp_path / "a.nii.gz", hu)
    with pytest.raises(ValueError, match="NaN"):
        list(inputs.read([tmp_path / "a.nii.gz"], four(1)))
    found = list(inputs.read([tmp_path / "a.nii.gz"], four(1), reading=inputs.Reading(nan="fill")))
    assert found[1].image[2, 3, 0] == 0 and found[1].image[0, 0, 0] == 0.5

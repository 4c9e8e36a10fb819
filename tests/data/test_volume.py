"""CT from disk: geometry as it was written, real series against its source, faults by name."""

import gzip
import pathlib

import numpy as np
import pytest

from jaxdet.data import volume
from jaxdet.types import Volume

sitk = pytest.importorskip("SimpleITK")

ANGLE = np.deg2rad(20.0)
OBLIQUE = np.array(
    [
        [np.cos(ANGLE), -np.sin(ANGLE) * np.cos(0.3), np.sin(ANGLE) * np.sin(0.3)],
        [np.sin(ANGLE), np.cos(ANGLE) * np.cos(0.3), -np.cos(ANGLE) * np.sin(0.3)],
        [0.0, np.sin(0.3), np.cos(0.3)],
    ]
)
SPACING = (0.8, 0.7, 2.5)
ORIGIN = (-100.25, -80.5, 12.125)


def raw(z: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 750, (z, 12, 16)).astype(np.int16) * np.int16(2)


def write_dicom(
    folder: pathlib.Path,
    uid: str = "1.2.3.4",
    origins: np.ndarray | None = None,
    cosines: np.ndarray = OBLIQUE,
    modality: str = "CT",
) -> np.ndarray:
    """One file a slice, named from head to feet. On disk lies (HU + 1024) / 2, as the tags say."""
    stored, folder = raw(), pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    if origins is None:
        origins = np.array(ORIGIN) + np.outer(np.arange(5) * SPACING[2], cosines[:, 2])
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, origin in enumerate(origins):
        image = sitk.GetImageFromArray(stored[k : k + 1])
        image.SetSpacing(SPACING)
        tags = {
            "0008|0060": modality,
            "0010|0010": "Doe^Jane",
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{k + 1}",
            "0020|000e": uid,
            "0020|0037": "\\".join(f"{v:.12g}" for v in cosines[:, :2].T.ravel()),
            "0020|0032": "\\".join(f"{v:.10g}" for v in origin),
            "0028|1052": "-1024",
            "0028|1053": "2",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}_{9 - k}.dcm"))
        writer.Execute(image)
    return stored


def write_nifti(path: pathlib.Path, cosines: np.ndarray = OBLIQUE) -> np.ndarray:
    image = sitk.GetImageFromArray(raw())
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(cosines.ravel())
    sitk.WriteImage(image, str(path))
    return raw()


def check_boxes_to_mm_and_back(read: Volume) -> None:
    box = np.array([2.0, 3.0, 9.0, 7.0], np.float32)
    found = volume.box_to_mm(read, 4, box)
    # By hand, from the header's numbers: pixel edges of [2, 9) are 1.5 and 8.5.
    centre = np.array(ORIGIN) + OBLIQUE @ (np.array([5.0, 4.5, 4.0]) * SPACING)
    assert np.allclose(found["center_mm"], centre, atol=1e-3)
    assert np.allclose(found["size_mm"], [7 * 0.8, 4 * 0.7], atol=1e-3)
    middle = read.to_voxels(np.array([found["center_mm"]]))[0]
    half = np.array(found["size_mm"]) / read.spacing_mm[:2] / 2
    back = np.concatenate([middle[:2] - half, middle[:2] + half]) + 0.5
    assert np.allclose(back, box, atol=1e-3) and np.isclose(middle[2], 4, atol=1e-3)


def test_oblique_dicom_is_sorted_and_scaled(tmp_path):
    stored = write_dicom(tmp_path / "ct")
    read = volume.read(tmp_path / "ct")
    assert read.hu.dtype == np.float32
    assert np.array_equal(read.hu, stored)
    assert np.allclose(read.spacing_mm, SPACING, atol=1e-4)
    assert np.allclose(read.origin_mm, ORIGIN, atol=1e-3)
    assert np.allclose(np.reshape(read.direction, (3, 3)), OBLIQUE, atol=1e-4)
    check_boxes_to_mm_and_back(read)
    assert "Doe" not in repr(read)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_oblique_nifti(tmp_path, suffix):
    stored = write_nifti(tmp_path / f"ct{suffix}")
    read = volume.read(tmp_path / f"ct{suffix}")
    assert np.array_equal(read.hu, stored) and read.hu.dtype == np.float32
    assert np.allclose(read.direction, OBLIQUE.ravel(), atol=1e-4)
    check_boxes_to_mm_and_back(read)


def test_real_series(shared):
    folder = shared / "data" / "totalseg_ct"
    read = volume.read(folder / "dicom_20slices")
    assert read.hu.shape == (20, 512, 512)
    assert np.allclose(read.spacing_mm, (0.977, 0.977, 2.0), atol=1e-3)
    labels = volume.to_lps(volume.read(folder / "example_seg_dicom.nii.gz"))
    assert np.allclose(labels.origin_mm, read.origin_mm, atol=1e-2)
    for label, hu in ((5, 89), (52, 177), (1, 80)):
        assert np.mean(read.hu[labels.hu == label]) == pytest.approx(hu, abs=1)


def test_real_nifti(shared):
    read = volume.read(shared / "data" / "totalseg_ct" / "example_ct.nii.gz")
    assert read.hu.shape == (112, 101, 122) and np.allclose(read.spacing_mm, 3.0)
    assert (read.hu.min(), read.hu.max()) == (-1207, 3382)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2), (0, 2, 1)])
def test_to_lps_moves_no_voxel(order):
    signs = np.array([-1.0, 1.0, -1.0])
    cosines = (OBLIQUE * signs)[:, order]
    given = Volume(raw().astype(np.float32), SPACING, ORIGIN, tuple(cosines.ravel()), "made")
    turned = volume.to_lps(given)
    assert (np.diag(np.reshape(turned.direction, (3, 3))) > 0.5).all()
    where = np.array([[3.0, 5.0, 2.0], [0.0, 0.0, 0.0], [15.0, 11.0, 4.0]])
    there = turned.to_voxels(given.to_mm(where)).round().astype(int)
    for (x, y, z), (i, j, k) in zip(where.astype(int), there, strict=True):
        assert turned.hu[k, j, i] == given.hu[z, y, x]
    oracle = sitk.GetImageFromArray(given.hu)
    oracle.SetSpacing(SPACING)
    oracle.SetOrigin(ORIGIN)
    oracle.SetDirection(cosines.ravel())
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(oracle, "LPS")), turned.hu)
    assert volume.to_lps(turned) is turned


def test_tilted_gantry_keeps_its_shear(tmp_path):
    step = np.array([0.0, 0.5, 2.4])
    write_dicom(tmp_path / "ct", origins=np.outer(np.arange(5), step), cosines=np.eye(3))
    read = volume.read(tmp_path / "ct")
    assert np.allclose(read.to_mm(np.array([[0.0, 0.0, 3.0]]))[0], 3 * step, atol=1e-4)


def test_several_series_are_listed_or_named(tmp_path):
    write_dicom(tmp_path / "ct", uid="1.2.3.4")
    write_dicom(tmp_path / "ct", uid="1.2.3.5")
    with pytest.raises(ValueError, match=r"2 series.*1\.2\.3\.4: 5 slices.*1\.2\.3\.5: 5 slices"):
        volume.read(tmp_path / "ct")
    with pytest.raises(ValueError, match="'9' is not among them"):
        volume.read(tmp_path / "ct", series_uid="9")
    assert volume.read(tmp_path / "ct", series_uid="1.2.3.5").hu.shape == (5, 12, 16)


def test_missing_slice_names_the_gap(tmp_path):
    write_dicom(tmp_path / "ct")
    (tmp_path / "ct" / "1.2.3.4_7.dcm").unlink()  # the third
    with pytest.raises(ValueError, match=r"slices 1 and 2 .*5\.000 mm apart, the others 2\.500 mm"):
        volume.read(tmp_path / "ct")


def test_two_phases_in_one_series(tmp_path):
    heights = np.array([0.0, 1.0, 1.0, 2.0, 3.0])
    write_dicom(tmp_path / "ct", origins=np.outer(heights, [0, 0, 1.0]), cosines=np.eye(3))
    with pytest.raises(ValueError, match=r"slices 1 and 2 .*at the same place"):
        volume.read(tmp_path / "ct")


def test_truncated_last_slice_is_no_shorter_volume(tmp_path):
    write_dicom(tmp_path / "ct")
    last = tmp_path / "ct" / "1.2.3.4_5.dcm"
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"1\.2\.3\.4_5\.dcm is truncated or no DICOM"):
        volume.read(tmp_path / "ct")


def test_folders_without_ct(tmp_path):
    with pytest.raises(ValueError, match="is empty: give the folder"):
        volume.read(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="holds no DICOM image"):
        volume.read(tmp_path)
    (tmp_path / "a.dcm").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.dcm is truncated or no DICOM"):
        volume.read(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        volume.read(tmp_path / "nowhere")


def test_mr_has_no_hu(tmp_path):
    write_dicom(tmp_path / "mr", modality="MR")
    with pytest.raises(ValueError, match="is MR, which has no Hounsfield units"):
        volume.read(tmp_path / "mr")


def test_one_dicom_file_asks_for_its_folder(tmp_path):
    write_dicom(tmp_path / "ct")
    with pytest.raises(ValueError, match="give the folder it lies in"):
        volume.read(tmp_path / "ct" / "1.2.3.4_9.dcm")


@pytest.mark.parametrize("keep", [10, 200, 800, 1500])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_nifti(tmp_path, suffix, keep):
    # ITK itself fills the rest with zeros and says nothing.
    path = tmp_path / f"ct{suffix}"
    write_nifti(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"ct\.nii.* (is truncated|is no NIfTI)"):
        volume.read(path)


def test_other_files(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"x" * 1000))
    with pytest.raises(ValueError, match="its header is wrong"):
        volume.read(tmp_path / "a.nii.gz")
    (tmp_path / "a.mha").write_text("x")
    with pytest.raises(ValueError, match=r"wanted a DICOM folder, \.nii or \.nii\.gz"):
        volume.read(tmp_path / "a.mha")
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.float32)), str(tmp_path / "b.nii")
    )
    with pytest.raises(ValueError, match="wanted one grey volume"):
        volume.read(tmp_path / "b.nii")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused(tmp_path, bad):
    # ITK itself turns them into zeros, which is water.
    hu = raw().astype(np.float32)
    hu[3, 2, 1] = bad
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "a.nii.gz"))
    with pytest.raises(ValueError, match="1 voxels that are NaN or infinite"):
        volume.read(tmp_path / "a.nii.gz")


def test_box_in_a_slice_that_is_not_there():
    made = Volume(raw().astype(np.float32), SPACING, ORIGIN, tuple(OBLIQUE.ravel()), "made")
    with pytest.raises(ValueError, match="slices 0 to 4; got slice 5"):
        volume.box_to_mm(made, 5, np.zeros(4, np.float32))


def made(hu: np.ndarray, **fields) -> Volume:
    values = {"spacing_mm": SPACING, "origin_mm": ORIGIN, "direction": tuple(OBLIQUE.ravel())}
    return Volume(hu.astype(np.float32), **(values | fields), source="made")


def test_boxes_to_mm_and_back_to_pixels():
    given, rng = made(raw()), np.random.default_rng(1)
    for z in range(5):
        corner = rng.uniform(0, 8, 2)
        box = np.concatenate([corner, corner + rng.uniform(0.5, 8, 2)]).astype(np.float32)
        there, back = volume.box_to_px(given, volume.box_to_mm(given, z, box))
        assert there == z and back.dtype == np.float32 and np.allclose(back, box, atol=1e-4)
        again = volume.box_to_mm(given, there, back)
        for name, value in volume.box_to_mm(given, z, box).items():
            assert np.allclose(again[name], value, atol=1e-3)
    place = volume.box_to_mm(given, 4, np.array([0, 0, 1, 1], np.float32))
    place["center_mm"] = list(np.array(place["center_mm"]) + OBLIQUE @ [0, 0, 2.5])
    with pytest.raises(ValueError, match="slices 0 to 4; got slice 5"):
        volume.box_to_px(given, place)


def test_masks_travel_with_their_voxels():
    rng = np.random.default_rng(2)
    mask = rng.integers(0, 4, (5, 12, 16)).astype(np.uint8)
    given = made(raw())
    assert volume.resample_mask(mask, given, given) is mask
    # Onto the same place, stored otherwise: every label keeps its place, and comes back.
    turned = volume.to_lps(made(raw(), direction=tuple((OBLIQUE * [-1, -1, -1]).ravel())))
    stored = made(raw(), direction=tuple((OBLIQUE * [-1, -1, -1]).ravel()))
    there = volume.resample_mask(mask, stored, turned)
    assert np.array_equal(there, mask[::-1, ::-1, ::-1])
    assert np.array_equal(volume.resample_mask(there, turned, stored), mask)
    # Half a voxel aside the nearest is not known, a third aside it is.
    aside = made(raw(), origin_mm=tuple(np.array(ORIGIN) + OBLIQUE @ [0.8 / 3, 0, -2.5]))
    moved = volume.resample_mask(mask > 1, given, aside)
    assert moved.dtype == bool and not moved[0].any() and np.array_equal(moved[1:], mask[:-1] > 1)
    with pytest.raises(ValueError, match=r"mask of made has shape \(1, 2, 3\)"):
        volume.resample_mask(np.zeros((1, 2, 3), np.uint8), given, aside)


def test_resample_is_linear_and_air_outside():
    z, y, x = np.indices((5, 12, 16))
    given = made(100 * z + 10 * y + x)
    fine = made(
        np.zeros((9, 12, 31)),
        spacing_mm=(0.4, 0.7, 1.25),
        origin_mm=tuple(given.to_mm(np.array([[1.0, 0.0, 0.0]]))[0]),
    )
    found = volume.resample(given, fine)
    assert found.hu.shape == (9, 12, 31) and found.hu.dtype == np.float32
    z, y, x = np.indices((9, 12, 29))
    assert np.allclose(found.hu[..., :29], 50 * z + 10 * y + 1 + x / 2, atol=1e-3)
    assert (found.hu[..., 30] == -1024).all()
    assert found.source == "made" and found.faults == {"resampled": 1}
    assert volume.resample(given, made(raw())) is given


def test_row_14_nan_and_infinity(tmp_path):
    hu = raw().astype(np.float32)
    hu[3, 2, 1:3], hu[1, 0, 0] = np.nan, -np.inf
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "a.nii.gz"))
    with pytest.raises(ValueError, match=r"3 voxels .* first in slice 1 of 2 such.*nan=.fill"):
        volume.read(tmp_path / "a.nii.gz")
    found = volume.read(tmp_path / "a.nii.gz", nan="fill")
    assert found.faults == {"nan_voxels": 3, "nan_slices": 2}
    assert np.array_equal(found.hu, np.where(np.isfinite(hu), hu, -1024))


def lying(path: pathlib.Path) -> np.ndarray:
    """As PLC-CECT: a window of [-200, 200] in 8 bits, 1 x 1 x 1 mm, head first. The true HU."""
    hu = np.linspace(-200, 200, 256)[np.arange(5 * 256).reshape(5, 16, 16) % 256]
    stored = np.round((hu[::-1] + 200) / 400 * 255).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(stored), str(path))
    return hu


def test_a_header_that_lies(tmp_path):
    path = tmp_path / "a.nii.gz"
    hu = lying(path)
    with pytest.raises(ValueError, match="8-bit values from 0 to 255 and claims 1 x 1 x 1 mm"):
        volume.read(path)
    true = volume.Correction((0.78125, 0.78125, 2), reverse_z=True, stored_window_hu=(-200, 200))
    found = volume.read(path, correction=true)
    assert np.allclose(found.hu, hu, atol=1e-3) and found.hu.dtype == np.float32
    assert found.spacing_mm == (0.78125, 0.78125, 2)
    assert found.faults == {"spacing_corrected": 1, "slices_reversed": 1, "window_undone": 1}
    box = volume.box_to_mm(found, 1, np.array([0, 0, 4, 4], np.float32))
    assert box["size_mm"] == [3.125, 3.125]
    assert volume.read(path, correction=volume.Correction()).hu.max() == 255
    mask = np.zeros((5, 16, 16), np.uint8)
    mask[4, 2, 3] = 2  # in the first slice from the feet
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / "m.nii.gz"))
    labels = volume.read_labels(tmp_path / "m.nii.gz", found, correction=true)
    assert labels.sum() == 2 and labels[0, 2, 3] == 2
    with pytest.raises(ValueError, match=r"a\.nii\.gz has values .* low < high; got \(200, -200\)"):
        volume.read(path, correction=volume.Correction(stored_window_hu=(200, -200)))
    with pytest.raises(ValueError, match="three numbers above 0"):
        volume.corrected(found, spacing_mm=(1, 0, 1))
    with pytest.raises(ValueError, match="wants 0 to 255"):
        volume.corrected(found, stored_window_hu=(-200, 200))


def test_labels_of_a_volume(tmp_path):
    write_nifti(tmp_path / "ct.nii.gz")
    given = volume.read(tmp_path / "ct.nii.gz")
    with pytest.raises(ValueError, match=r"a mask wants whole numbers 0 to 255. Is it a CT"):
        volume.read_labels(tmp_path / "ct.nii.gz", given)
    far = sitk.GetImageFromArray(np.ones((2, 2, 2), np.uint8))
    sitk.WriteImage(far, str(tmp_path / "far.nii.gz"))
    with pytest.raises(ValueError, match="do not meet: 2 x 2 x 2 voxels"):
        volume.read_labels(tmp_path / "far.nii.gz", given)


def test_real_labels_lie_on_the_real_series(shared):
    folder = shared / "data" / "totalseg_ct"
    read = volume.read(folder / "dicom_20slices")
    assert read.faults == {} and read.spacing_mm[2] == 2.0
    labels = volume.read_labels(folder / "example_seg_dicom.nii.gz", read)
    for label, hu in ((5, 89), (52, 177), (1, 80)):  # liver, aorta, spleen: its SOURCE.txt
        assert np.mean(read.hu[labels == label]) == pytest.approx(hu, abs=1)
    small = volume.to_lps(volume.read(folder / "example_ct_sm.nii.gz"))
    whole = volume.to_lps(volume.read(folder / "example_ct.nii.gz"))
    organs = volume.read_labels(folder / "example_seg.nii.gz", small)
    assert np.mean(small.hu[organs == 5]) == pytest.approx(45, abs=1)
    # Its slices are the 83rd and those above of the whole, though its header has the same origin.
    assert np.array_equal(small.hu, whole.hu[82:]) and small.spacing_mm == whole.spacing_mm

"""Four phases of one patient: by folder, file name, DICOM words and times; faults by name."""

import pathlib

import numpy as np
import pytest

from jaxdet.data import phases
from jaxdet.data import volume as ct
from jaxdet.types import PHASES

sitk = pytest.importorskip("SimpleITK")

SHAPE = (4, 6, 5)
LEVEL = dict(zip(PHASES, (10, 20, 30, 40), strict=True))  # HU by which a test knows a phase


def write_nifti(path: pathlib.Path, hu: float, spacing=(1.0, 1.0, 2.0), shape=SHAPE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.full(shape, hu, np.int16))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def write_mask(path: pathlib.Path, z: int, shape=SHAPE, spacing=(1.0, 1.0, 2.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(shape, np.uint8)
    mask[z, 1:3, 2] = 2
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def write_series(
    folder: pathlib.Path, uid: str, hu: int, description: str, time: str, **tags: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(3):
        image = sitk.GetImageFromArray(np.full((1, 6, 5), hu, np.int16))
        values = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{k + 1}",
            "0008|0022": "20260102",
            "0008|0032": time,
            "0008|0060": "CT",
            "0008|103e": description,
            "0010|0010": "Doe^Jane",
            "0010|0020": "MRN-4711",
            "0020|000e": uid,
            "0020|0032": f"0\\0\\{2 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "0",
            "0028|1053": "1",
        } | {key[1:5] + "|" + key[5:]: value for key, value in tags.items()}
        for tag, value in values.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}_{k}.dcm"))
        writer.Execute(image)


def write_four(folder: pathlib.Path, descriptions, times, one_folder: bool = True) -> None:
    for i, (description, time) in enumerate(zip(descriptions, times, strict=True)):
        place = folder if one_folder else folder / f"series{i}"
        write_series(place, f"1.2.{i + 1}", 10 * (i + 1), description, time)


def levels(study) -> dict[str, float]:
    return {phase: float(np.median(volume.hu)) for phase, volume in study.volumes.items()}


@pytest.mark.parametrize(
    "names",
    [
        ["nc.nii.gz", "art.nii.gz", "pvp.nii.gz", "delay.nii.gz"],
        ["Pre.nii", "A.nii", "P.nii", "D.nii"],
        ["NIFTI/NC/ct.nii.gz", "NIFTI/ART/ct.nii.gz", "NIFTI/PVP/ct.nii.gz", "NIFTI/DL/ct.nii.gz"],
        ["x_P.nii.gz", "x_C1.nii.gz", "x_C2.nii.gz", "x_C3.nii.gz"],
        ["c/plain.nii.gz", "c/late arterial.nii.gz", "c/portal-venous.nii.gz", "c/late.nii.gz"],
    ],
)
def test_folders_and_file_patterns(tmp_path, names):
    folder = tmp_path / "patient_art_7"  # the patient's own name must not count
    for name, phase in zip(names, PHASES, strict=True):
        write_nifti(folder / name, LEVEL[phase])
    study = phases.read_study(folder)
    assert levels(study) == LEVEL and tuple(study.volumes) == PHASES
    assert study.patient == "patient_art_7" and study.lesions is None and study.livers == {}
    assert study.annotated == "portal"


def test_masks_by_their_names(tmp_path):
    for name, phase in zip(("nc", "art", "pvp", "delay"), PHASES, strict=True):
        write_nifti(tmp_path / f"{name}.nii.gz", LEVEL[phase])
    write_mask(tmp_path / "mask_pvp.nii.gz", 2)
    write_mask(tmp_path / "liver_mask_pvp.nii.gz", 1)
    write_mask(tmp_path / "liver_art.nii.gz", 3)
    study = phases.read_study(tmp_path, patient="p1")
    assert study.annotated == "portal" and study.patient == "p1"
    assert study.lesions.dtype == np.uint8 and study.lesions.sum() == 4
    assert study.lesions[2, 1, 2] == 2
    assert sorted(study.livers) == ["arterial", "portal"]
    assert study.livers["arterial"][3, 1, 2] and study.livers["portal"].sum() == 2


def test_lesions_without_a_phase_ask_for_it(tmp_path):
    for name, phase in zip(("nc", "art", "pvp", "delay"), PHASES, strict=True):
        write_nifti(tmp_path / f"{name}.nii.gz", LEVEL[phase])
    write_mask(tmp_path / "tumor.nii.gz", 2)
    with pytest.raises(ValueError, match=r"lesion masks .*tumor\.nii\.gz.*annotated="):
        phases.read_study(tmp_path)
    assert phases.read_study(tmp_path, annotated="delayed").annotated == "delayed"
    write_mask(tmp_path / "mask_art.nii.gz", 1)
    study = phases.read_study(tmp_path, annotated="arterial")
    assert study.annotated == "arterial" and study.lesions[1, 1, 2] == 2
    (tmp_path / "liver_mask.nii.gz").write_bytes((tmp_path / "tumor.nii.gz").read_bytes())
    with pytest.raises(ValueError, match=r"liver_mask\.nii\.gz names no phase"):
        phases.read_study(tmp_path, annotated="arterial")


@pytest.mark.parametrize("one_folder", [True, False])
def test_dicom_by_description(tmp_path, one_folder):
    words = ["Leber nativ", "Abd ART 1.0", "Abd portalvenös", "Leber 5min"]
    write_four(tmp_path, words, ["100000", "100120", "100200", "100600"], one_folder)
    write_series(tmp_path, "1.2.9", 5, "Topogram", "095900")
    study = phases.read_study(tmp_path)
    assert levels(study) == LEVEL
    assert "Doe" not in repr(study) and "4711" not in repr(study) and "nativ" not in repr(study)


def test_dicom_by_times_alone(tmp_path):
    times = ["100000", "100120", "100200", "100600"]
    write_four(tmp_path, ["Abdomen"] * 4, times)
    assert levels(phases.read_study(tmp_path)) == LEVEL
    for file in tmp_path.glob("1.2.4_*"):
        file.unlink()  # three series for four phases: which one is missing is not known
    with pytest.raises(ValueError, match="has no precontrast and no arterial"):
        phases.read_study(tmp_path)


def test_dicom_times_over_midnight(tmp_path):
    words = ["nc", "art", "pvp", "delay"]
    for i, (word, day, time) in enumerate(
        zip(words, ("20260101",) * 2 + ("20260102",) * 2, ("235900", "235940", "000010", "000400"),
            strict=True)
    ):  # fmt: skip
        write_series(tmp_path, f"1.2.{i + 1}", 10 * (i + 1), word, time, _00080022=day)
    assert levels(phases.read_study(tmp_path)) == LEVEL


def test_row_26_phases_out_of_order(tmp_path):
    words = ["native", "arterial", "portal", "delayed"]
    write_four(tmp_path, words, ["100000", "100200", "100120", "100600"])
    with pytest.raises(ValueError, match="arterial was taken 40 s after portal") as caught:
        phases.read_study(tmp_path)
    assert "native" not in str(caught.value) and "1002" not in str(caught.value)
    swapped = phases.read_study(tmp_path, {"arterial": "1.2.3", "portal": "1.2.2"})
    assert levels(swapped) == LEVEL | {"arterial": 30, "portal": 20}
    kept = phases.read_study(tmp_path, {"arterial": "1.2.2", "portal": "1.2.3"})
    assert levels(kept) == LEVEL


def test_row_26_a_repeated_phase(tmp_path):
    for name, phase in zip(("nc", "art", "pvp", "delay"), PHASES, strict=True):
        write_nifti(tmp_path / f"{name}.nii.gz", LEVEL[phase])
    write_nifti(tmp_path / "art_thin.nii.gz", 99)
    with pytest.raises(ValueError, match=r"has the arterial phase 2 times: .*art\.nii.*art_thin"):
        phases.read_study(tmp_path)
    for name, hu in (("art.nii.gz", 20), ("art_thin.nii.gz", 99)):
        assert levels(phases.read_study(tmp_path, {"arterial": name}))["arterial"] == hu
    with pytest.raises(ValueError, match="names 'art9', which is no path"):
        phases.read_study(tmp_path, {"arterial": "art9"})
    with pytest.raises(ValueError, match=r"override wants phases of .* got 'venous'"):
        phases.read_study(tmp_path, {"venous": "art.nii.gz"})


def test_row_25_a_missing_phase(tmp_path):
    for name in ("nc", "art", "delay"):
        write_nifti(tmp_path / f"{name}.nii.gz", 0)
    with pytest.raises(ValueError, match=r"has no portal phase.*missing="):
        phases.read_study(tmp_path)
    study = phases.read_study(tmp_path, missing="leave")
    assert list(study.volumes) == ["precontrast", "arterial", "delayed"]
    assert study.annotated == "precontrast"
    (tmp_path / "empty").mkdir()
    for folder, match in (("empty", "found: none"), ("nowhere", "is no folder")):
        with pytest.raises(ValueError, match=match):
            phases.read_study(tmp_path / folder, missing="leave")


def test_row_28_phases_of_different_grids(tmp_path):
    for name, phase in zip(("nc", "art", "pvp", "delay"), PHASES, strict=True):
        write_nifti(tmp_path / f"{name}.nii.gz", LEVEL[phase])
    write_nifti(tmp_path / "delay.nii.gz", 40, (0.5, 0.5, 1.0), (8, 12, 10))
    write_mask(tmp_path / "mask_delay.nii.gz", 4, (8, 12, 10), (0.5, 0.5, 1.0))
    with pytest.raises(
        ValueError,
        match=r"portal and delayed have different grids: portal 5 x 6 x 4 voxels of 1 x 1 x 2 mm.*"
        r"delayed 10 x 12 x 8 voxels of 0\.5 x 0\.5 x 1 mm.*resample_to",
    ):
        phases.read_study(tmp_path)
    study = phases.read_study(tmp_path, resample_to="portal")
    assert {v.hu.shape for v in study.volumes.values()} == {SHAPE}
    assert study.volumes["delayed"].faults == {"resampled": 1}
    assert levels(study) == LEVEL and study.volumes["portal"].faults == {}
    assert study.lesions.shape == SHAPE and study.lesions[2, 1, 1] == 2
    with pytest.raises(ValueError, match="cannot be resampled to 'late'"):
        phases.read_study(tmp_path, resample_to="late")


def test_row_32_a_flipped_file_and_its_mask(tmp_path):
    for name, phase in zip(("nc", "art", "pvp", "delay"), PHASES, strict=True):
        write_nifti(tmp_path / f"{name}.nii.gz", LEVEL[phase])
    write_mask(tmp_path / "mask_pvp.nii.gz", 1)
    straight = phases.read_study(tmp_path)
    for file in tmp_path.iterdir():  # the same patient, stored head first and right to left
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), "RPI"), str(file))
    flipped = phases.read_study(tmp_path)
    assert np.array_equal(flipped.lesions, straight.lesions)
    assert ct.same_grid(flipped.volumes["portal"], straight.volumes["portal"])

import dataclasses
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from jaxdet.data import builders, formats_coco, phantom, volume
from jaxdet.data.builders import Options, gssd, lits, multiphase, phantoms, sltd, store, stream
from jaxdet.data.formats import Row, sound
from jaxdet.types import PHASES, CtSlice

SIZE, DEPTH = 48, 6
BALL = np.zeros((DEPTH, SIZE, SIZE), np.uint8)
BALL[2:4, 10:24, 12:30] = 1  # slices 2 and 3; box 12, 10, 30, 24


def nifti(path, array, spacing=(0.7, 0.7, 2.5), origin=(0.0, 0.0, 0.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def hu(seed, shape=(DEPTH, SIZE, SIZE)):
    return np.random.default_rng(seed).integers(-200, 300, shape).astype(np.int16)


def made(plan, workers=1):
    notes = {}
    return list(stream.examples(plan, workers, notes)), notes


# stream and phantoms


def fake_cases(chosen, seed, number, part=(0, 1)):
    return [
        CtSlice(
            hu=np.full((8, 8, 1), 100 * seed + number, np.int16),
            boxes_xyxy=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int32),
            diameters_mm=np.zeros(0, np.float32),
            lesions=None,
            livers=None,
            displacement_mm=None,
            spacing_mm=(1.0, 1.0, 1.0),
            phases=("portal",),
            annotated="portal",
            touching=0,
            patient=str(number),
            name=f"phantom patient {number} slice {z}",
            z=z,
        )
        for z in range(number % 3)
    ]


@pytest.fixture
def sets(monkeypatch):
    table = {
        kind: {"tiny": dataclasses.replace(phantom.SETS[kind]["tiny"], patients=20)}
        for kind in ("sltd", "multiphase")
    }
    monkeypatch.setattr("jaxdet.data.phantom.SETS", table, raising=False)


def test_a_phantom_is_a_plan_of_patients(sets):
    plan = phantoms.plan("sltd", "tiny", 3, cases=fake_cases)
    examples, notes = made(plan)
    assert plan.name == "phantom_sltd/tiny_seed3" and notes == {}
    assert [(s, one.patient, one.z) for s, one in examples] == [
        ("whole", str(n), z) for n in range(20) for z in range(n % 3)
    ]
    assert plan.metadata["phantom"]["kind"] == "sltd" and plan.metadata["phantom"]["size"] == 256
    free = phantoms.plan("sltd", "tiny", free_slices=2, cases=fake_cases)
    assert free.name == "phantom_sltd/tiny_free2" and free.metadata["phantom"]["free_slices"] == 2
    few = phantoms.plan("multiphase", "tiny", first=3, cases=fake_cases)
    assert few.name == "phantom_multiphase/tiny_first3" and few.patients == ("0", "1", "2")
    with pytest.raises(ValueError, match="tiny has 20 patients; got the first 21"):
        phantoms.plan("sltd", "tiny", first=21)
    with pytest.raises(ValueError, match="0 lesion-free slices a patient or more; got -1"):
        phantoms.plan("sltd", "tiny", free_slices=-1)
    plan = phantoms.plan("multiphase", "tiny", cases=fake_cases)
    assert plan.name == "phantom_multiphase/tiny"
    assert plan.splits == ("val",) * 2 + ("train",) * 8 + ("test",) * 10
    with pytest.raises(ValueError, match="phantom_sltd has the sizes tiny; got 'huge'"):
        phantoms.plan("sltd", "huge")


def test_the_demo_is_a_set_too():
    plan = phantoms.plan("demo", "tiny", free_slices=2, cases=fake_cases)
    tiny = phantom.SETS["demo"]["tiny"]
    assert plan.name == "phantom_demo/tiny_free2" and len(plan.patients) == tiny.patients
    assert set(plan.splits) == {store.WHOLE}  # folds are drawn from all
    assert plan.metadata["phantom"] == dataclasses.asdict(tiny) | {"free_slices": 2}
    one = dataclasses.replace(phantom.SETS["demo"]["paper"], size=48)
    assert len(phantom.cases(one, 5, 207)) == 4
    assert "larger tumours" in builders.BUILDERS["phantom_demo"].wants


def test_large_patients_are_made_in_parts():
    plan = phantoms.plan("multiphase", "paper", cases=fake_cases)
    assert plan.patients[:5] == ("0", "0", "0", "0", "1") and len(plan.patients) == 4 * 280
    assert plan.splits.count("train") == 4 * 216 and plan.splits.count("test") == 4 * 10
    paper = phantom.SETS["multiphase"]["paper"]
    which = dataclasses.replace(paper, size=48, neighbours=1, phases=("portal",))
    whole = phantom.cases(which, 0, 0)
    shares = [one for k in range(4) for one in phantom.cases(which, 0, 0, part=(k, 4))]
    assert [one.z for one in shares] == [one.z for one in whole] and len(whole) > 4
    assert all(np.array_equal(a.hu, b.hu) for a, b in zip(shares, whole, strict=True))


def test_the_phantom_itself(tmp_path):
    one = dataclasses.replace(phantom.SETS["sltd"]["tiny"], patients=1)
    examples = phantom.cases(one, 0, 0)
    prepared = store.write(
        tmp_path, "p/one", [("whole", e) for e in examples], {"class_names": ["tumour"]}
    )
    truths = prepared.truths("whole")
    assert len(truths) == len(examples)
    np.testing.assert_array_equal(prepared.pixels(truths[0]), examples[0].hu)


def test_patients_are_made_when_they_are_asked_for():
    seen = []

    def cases(number):
        seen.append(number)
        return stream.Patient(fake_cases(None, 0, 2), {"fault": number})

    plan = stream.Plan("a/b", tuple("abcdef"), ("whole",) * 6, cases, {})
    notes = {}
    examples = stream.examples(plan, 1, notes)
    for _ in range(3):
        next(examples)
    assert seen == [0, 1] and notes == {"fault": {"a": 0, "b": 1}}
    assert len(list(examples)) == 9 and len(notes["fault"]) == 6


# LiTS


def make_lits(folder, numbers=(2, 10), decathlon=False):
    for n in numbers:
        mask = np.minimum(BALL * 2 + 1, 2) * (np.arange(SIZE) > 4).astype(np.uint8)
        names = (f"volume-{n}.nii", f"segmentation-{n}.nii")
        if decathlon:
            names = (f"imagesTr/liver_{n}_0000.nii.gz", f"labelsTr/liver_{n}.nii.gz")
        nifti(folder / names[0], hu(n))
        nifti(folder / names[1], mask)
    return folder


@pytest.mark.parametrize("decathlon", [False, True])
def test_lits(tmp_path, decathlon):
    plan = lits.plan(str(make_lits(tmp_path, decathlon=decathlon)))
    examples, notes = made(plan)
    assert plan.patients == (("liver_2", "liver_10") if decathlon else ("2", "10"))
    assert [(s, e.patient, e.z) for s, e in examples] == [
        ("whole", p, z) for p in plan.patients for z in (2, 3)
    ]
    one = examples[0][1]
    np.testing.assert_array_equal(one.hu, hu(2)[1:4].transpose(1, 2, 0))
    assert one.boxes_xyxy.tolist() == [[12, 10, 30, 24]] and one.hu.dtype == np.int16
    np.testing.assert_allclose(one.diameters_mm, [0.7 * np.hypot(18, 14)], rtol=1e-5)
    assert one.livers[0, :, 0].tolist() == [x > 4 for x in range(SIZE)]
    assert one.spacing_mm == pytest.approx((0.7, 0.7, 2.5)) and notes == {}


def test_nan_is_filled_on_request_and_counted(tmp_path):
    make_lits(tmp_path, (1,))
    broken = hu(1).astype(np.float32)
    broken[2, 0, :7] = np.nan
    nifti(tmp_path / "volume-1.nii", broken)
    with pytest.raises(ValueError, match=r"volume-1\.nii has 7 voxels that are NaN"):
        made(lits.plan(str(tmp_path)))
    examples, notes = made(lits.plan(str(tmp_path), nan="fill"))
    assert (examples[0][1].hu[0, :7, 1] == -1024).all()
    assert {"1": 7} in notes.values()


def test_lits_over_processes_is_the_same(tmp_path):
    plan = lits.plan(str(make_lits(tmp_path, range(3))))
    alone, together = made(plan)[0], made(plan, 2)[0]
    assert len(alone) == 6
    for (_, a), (_, b) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.hu, b.hu)
        assert a.name == b.name
    nifti(tmp_path / "segmentation-1.nii", BALL * 3)
    with pytest.raises(ValueError, match=r"segmentation-1\.nii has labels up to 3"):
        made(plan, 2)


def test_lits_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="holds neither volume-"):
        lits.plan(str(tmp_path))
    make_lits(tmp_path)
    (tmp_path / "segmentation-10.nii").unlink()
    with pytest.raises(ValueError, match=r"1 volumes have no mask in segmentation-\*.*\['10'\]"):
        lits.plan(str(tmp_path))
    nifti(tmp_path / "segmentation-10.nii", BALL * 3)
    with pytest.raises(ValueError, match=r"segmentation-10\.nii has labels up to 3"):
        made(lits.plan(str(tmp_path)))


def test_lits_files_of_one_number_and_masks_alone(tmp_path):
    make_lits(tmp_path / "both" / "a", (1,))
    make_lits(tmp_path / "both" / "b", (1,))
    with pytest.raises(ValueError, match=r"volume-1 is there twice: .*a/volume-1\.nii and .*b/vol"):
        lits.plan(str(tmp_path / "both"))
    make_lits(tmp_path / "packed", (1,))
    nifti(tmp_path / "packed" / "segmentation-1.nii.gz", BALL)
    with pytest.raises(ValueError, match=r"segmentation-1 is there twice: .*1\.nii and .*nii\.gz"):
        lits.plan(str(tmp_path / "packed"))
    make_lits(tmp_path / "alone", (1, 2))
    (tmp_path / "alone" / "volume-2.nii").unlink()
    with pytest.raises(ValueError, match=r"1 masks have no volume in volume-\*, such as \['2'\]"):
        lits.plan(str(tmp_path / "alone"))


def test_what_is_left_out_is_counted(tmp_path):
    make_lits(tmp_path, (1, 2, 3))
    nifti(tmp_path / "segmentation-2.nii", np.zeros_like(BALL))
    edges = BALL * 2
    edges[[0, -1], 5:15, 5:15] = 2
    nifti(tmp_path / "segmentation-3.nii", edges)
    examples, notes = made(lits.plan(str(tmp_path)))
    assert [(e.patient, e.z) for _, e in examples] == [(p, z) for p in "13" for z in (2, 3)]
    assert notes == {"no data point": {"2": 1}, "lesion slices at an edge": {"3": 2}}


def test_a_header_that_lies_is_corrected_by_options(tmp_path):
    ball = BALL.copy()
    ball[3, 30:40, 30:40] = 1
    shown = hu(1).clip(0, 255).astype(np.uint8)
    nifti(tmp_path / "volume-1.nii", shown, (1.0, 1.0, 1.0))
    nifti(tmp_path / "segmentation-1.nii", ball * 2, (1.0, 1.0, 1.0))
    options = Options(path=str(tmp_path))
    with pytest.raises(ValueError, match="--spacing-mm X Y Z --stored-window LOW HIGH"):
        builders.make("lits", tmp_path / "sets", options)
    options = dataclasses.replace(
        options, spacing_mm=(0.7, 0.8, 2.5), stored_window=(-100.0, 155.0), reverse_z=True
    )
    prepared = builders.make("lits", tmp_path / "sets", options)
    one, other = prepared.slices("whole")
    assert one.z == 2 and one.spacing_mm == (0.7, 0.8, 2.5)
    assert (len(one.labels), len(other.labels)) == (2, 1)  # the mask is turned round too
    np.testing.assert_array_equal(one.hu, shown[::-1][1:4].transpose(1, 2, 0) - 100.0)
    assert {"spacing_corrected", "slices_reversed", "window_undone"} <= set(
        prepared.metadata["faults"]
    )


# four phases


FILES = {"precontrast": "nc", "arterial": "art", "portal": "pvp", "delayed": "delay"}


def make_patient(folder, seed, absent=(), moved=0.0):
    for i, (phase, name) in enumerate(FILES.items()):
        if phase not in absent:
            origin = (0.0, 0.0, moved * 2.5 * (phase != "portal"))
            nifti(folder / "NIFTI" / f"{name}.nii.gz", hu([seed, i]), origin=origin)
    nifti(folder / "NIFTI" / "mask_pvp.nii.gz", BALL)
    nifti(folder / "NIFTI" / "liver_mask_pvp.nii.gz", np.ones_like(BALL))


def test_mct_ltdiag_from_folders_and_archives(tmp_path):
    make_patient(tmp_path / "data" / "case2", 2)
    make_patient(tmp_path / "case10", 10)
    with tarfile.open(tmp_path / "data" / "case10.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "case10", "case10")
    plan = multiphase.plan(str(tmp_path / "data"))
    examples, notes = made(plan)
    assert plan.name == "multiphase_ct/mct_ltdiag" and plan.patients == ("case2", "case10")
    assert [(s, e.patient, e.z) for s, e in examples] == [
        ("whole", p, z) for p in plan.patients for z in (2, 3)
    ]
    one = examples[2][1]
    wanted = np.concatenate([hu([10, i])[1:4] for i in range(4)]).transpose(1, 2, 0)
    np.testing.assert_array_equal(one.hu, wanted)
    assert one.phases == PHASES and one.annotated == "portal" and one.hu.dtype == np.int16
    assert one.boxes_xyxy.tolist() == [[12, 10, 30, 24]]
    assert one.livers.sum(axis=(0, 1)).tolist() == [0, 0, SIZE * SIZE, 0]
    assert notes == {}


def test_a_missing_phase_follows_the_policy(tmp_path):
    make_patient(tmp_path / "case1", 1, absent=("arterial",))
    with pytest.raises(ValueError, match="patient case1 has no arterial phase"):
        made(multiphase.plan(str(tmp_path)))
    examples, notes = made(multiphase.plan(str(tmp_path), missing="portal"))
    one = examples[0][1]
    np.testing.assert_array_equal(one.hu[..., 3:6], one.hu[..., 6:9])
    assert notes == {"arterial missing: portal": {"case1": 1}}
    examples, notes = made(multiphase.plan(str(tmp_path), missing="zero"))
    assert (examples[0][1].hu[..., 3:6] == -1024).all()
    assert notes == {"arterial missing: zero": {"case1": 1}}


def test_waw_tace_comes_onto_the_portal_grid(tmp_path):
    make_patient(tmp_path / "case1", 1, moved=1)
    with pytest.raises(ValueError, match="have different grids"):
        made(multiphase.plan(str(tmp_path), "mct_ltdiag"))
    examples, notes = made(multiphase.plan(str(tmp_path), "waw_tace"))
    one = examples[0][1]
    assert one.z == 2
    # Moved up by one slice: the portal grid's z 2 is slice 1 of the others.
    np.testing.assert_array_equal(one.hu[..., 1], hu([1, 0])[1])
    np.testing.assert_array_equal(one.hu[..., 7], hu([1, 2])[2])
    assert any("resampled" in kind for kind in notes), notes


def test_multiphase_takes_the_ways_out_of_its_errors(tmp_path):
    make_patient(tmp_path / "data" / "case1", 1, moved=1)
    place = tmp_path / "data" / "case1" / "NIFTI"
    (place / "mask_pvp.nii.gz").rename(place / "mask.nii.gz")
    options = Options(path=str(tmp_path / "data"))
    with pytest.raises(ValueError, match="--annotated"):
        builders.make("multiphase_ct", tmp_path / "sets", options)
    options = dataclasses.replace(options, annotated="portal")
    with pytest.raises(ValueError, match="--resample-to portal"):
        builders.make("multiphase_ct", tmp_path / "sets", options)
    options = dataclasses.replace(options, resample_to="portal")
    prepared = builders.make("multiphase_ct", tmp_path / "sets", options)
    assert prepared.splits == {"whole": 2} and prepared.metadata["faults"] == {
        "resampled": {"case1": 3}
    }


def test_lesions_that_smoothing_takes_away_are_counted(tmp_path):
    make_patient(tmp_path / "case1", 1)
    thin = BALL.copy()
    thin[1, 30:32, 30:32] = 1
    nifti(tmp_path / "case1" / "NIFTI" / "mask_pvp.nii.gz", thin)
    examples, notes = made(multiphase.plan(str(tmp_path)))
    assert [e.z for _, e in examples] == [2, 3]
    assert notes == {"lesion slices empty after smoothing": {"case1": 1}}


def test_the_official_split_wants_a_data_point_of_every_patient():
    def cases(number):
        return stream.Patient(fake_cases(None, 0, 2 if number % 7 else 0))

    names = tuple(f"p{n}" for n in range(15))
    plan = stream.Plan("a/b", names, stream.official(names), cases, {}, every_patient=True)
    with pytest.raises(ValueError, match="3 of 15 patients have no data point: p0, p7, p14"):
        made(plan)
    assert len(made(dataclasses.replace(plan, every_patient=False))[0]) == 24


def test_the_official_split_of_ct_has_ten_for_test(tmp_path):
    for n in range(15):
        (tmp_path / f"case{n}").mkdir()
    plan = multiphase.plan(str(tmp_path))
    assert plan.every_patient and plan.splits.count("test") == 10
    (tmp_path / "case0").rmdir()
    assert not multiphase.plan(str(tmp_path)).every_patient


def test_multiphase_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="holds 0 patients: wanted a folder or a TAR"):
        multiphase.plan(str(tmp_path))
    with pytest.raises(ValueError, match="mct_ltdiag, waw_tace, gssd; not dicom"):
        multiphase.plan(str(tmp_path), "dicom")
    make_patient(tmp_path / "case1", 1)
    (tmp_path / "case1" / "NIFTI" / "mask_pvp.nii.gz").unlink()
    with pytest.raises(ValueError, match="patient case1 has no lesion mask"):
        made(multiphase.plan(str(tmp_path)))
    (tmp_path / "case1.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="patient case1 is there twice"):
        multiphase.plan(str(tmp_path))


# the official npy files


def make_gssd(folder, subjects=2, points=2):
    lines = []
    for s in range(subjects):
        (folder / f"HCC_{s}").mkdir(parents=True)
        for i in range(points):
            stem = f"HCC_{s}/HCC_{s}_{i}"
            lines.append(f"{stem}|HCC_{s}")
            order = np.array([1, 3, 2, 0], np.float32)  # where each stored phase is of ours
            unit = np.broadcast_to(order[:, None, None, None] / 4, (4, 3, SIZE, SIZE)).copy()
            unit[:, :, 0, 0] = i / 10
            np.save(folder / f"{stem}_ct.npy", unit)
            np.save(folder / f"{stem}_bbox.npy", np.array([[12, 10, 30, 24, 0]]))
            np.save(folder / f"{stem}_phase.npy", np.array(1))
            np.save(folder / f"{stem}_mask.npy", BALL[2])
    (folder / "metadata.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_gssd_is_permuted_to_our_phases(tmp_path):
    plan = multiphase.plan(str(make_gssd(tmp_path, 16)))
    assert plan.name == "multiphase_ct/gssd" and plan.splits[0] == "val"
    assert plan.splits[1:] == ("train",) * 5 + ("test",) * 10
    examples, _ = made(plan)
    assert len(examples) == 32
    one = examples[3][1]
    assert one.name == "HCC_1_1" and one.z == 1 and one.annotated == "delayed"
    assert one.hu[5, 5].tolist() == [v for v in (-150, -50, 50, 150) for _ in range(3)]
    assert one.hu[0, 0, 0] == pytest.approx(0.1 * 400 - 150) and one.hu.dtype == np.float32
    assert one.boxes_xyxy.tolist() == [[12, 10, 30, 24]] and np.isnan(one.spacing_mm).all()
    np.testing.assert_array_equal(one.lesions, BALL[2])


def test_gssd_names_what_is_wrong(tmp_path):
    make_gssd(tmp_path, 1, 1)
    stem = tmp_path / "HCC_0" / "HCC_0_0"
    good = np.load(f"{stem}_ct.npy")
    for bad, message in [
        (good + 1, r"HCC_0_0_ct\.npy: wanted \[4, 3, H, W\] in \[0, 1\]; got .* to 1\.75"),
        (good[:3], r"got \[3, 3, 48, 48\]"),
        (np.full_like(good, np.nan), r"_ct\.npy: wanted 4 axes of finite numbers"),
    ]:
        np.save(f"{stem}_ct.npy", bad)
        with pytest.raises(ValueError, match=message):
            made(gssd.plan(tmp_path))
    np.save(f"{stem}_ct.npy", good)
    np.save(f"{stem}_bbox.npy", np.array([[12, 10, 80, 24, 0]]))
    with pytest.raises(ValueError, match=r"_bbox\.npy row 0: the box .* partly outside"):
        made(gssd.plan(tmp_path))
    (tmp_path / "HCC_0" / "HCC_0_0_bbox.npy").unlink()
    with pytest.raises(ValueError, match=r"_bbox\.npy: cannot be read as npy"):
        made(gssd.plan(tmp_path))
    (tmp_path / "metadata.txt").write_text("HCC_0/HCC_0_0\n")
    with pytest.raises(ValueError, match=r"metadata\.txt:1: wanted path\|subject"):
        gssd.plan(tmp_path)


# single slices


def make_slices(folder, names, kind=np.uint16):
    (folder / "images").mkdir(parents=True)
    truths = []
    for name in names:
        pixels = np.full((32, 40), 32768 + sum(name.encode()) % 200, np.uint16).astype(kind)
        (folder / "images" / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        truths.append(sound(name, 32, 40, [Row((2.0, 3.0, 12.0, 13.5), 0, name)]))
    (folder / "annotations").mkdir()
    formats_coco.write(folder / "annotations.json", ("tumour",), truths)
    return folder


def test_slices_with_coco_boxes(tmp_path):
    names = ["p10_1.png", "p2_10.png", "p2_9.png"]
    folder = make_slices(tmp_path, names)
    plan = sltd.plan(str(folder), patient_pattern=r"(p\d+)_", intercept=-32768.0)
    examples, _ = made(plan)
    assert plan.name == "sltd/coco" and plan.patients == ("p2", "p10")
    assert [e.name for _, e in examples] == [f"images/{n}" for n in reversed(names)]
    one = examples[0][1]
    assert one.hu.shape == (32, 40, 1) and one.hu.dtype == np.float32
    assert one.hu[0, 0, 0] == sum(b"p2_9.png") % 200  # no HU is lost to 8 bits
    assert one.boxes_xyxy.tolist() == [[2, 3, 12, 13.5]] and np.isnan(one.diameters_mm).all()
    with pytest.raises(ValueError, match=r"sltd has the layouts .*; got 'nifti'"):
        sltd.plan(str(folder), "nifti")


def test_slices_with_a_csv_and_dicom(tmp_path):
    wanted = np.arange(-200, 1080, dtype=np.int16).reshape(32, 40)
    image = sitk.GetImageFromArray(wanted[None])
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetMetaData("0008|0060", "CT")
    image.SetMetaData("0028|1052", "-1024")
    image.SetMetaData("0028|1053", "1")
    sitk.WriteImage(image, str(tmp_path / "slice.dcm"))
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1,patient\nslice.dcm,1,2,11,12,ann\n")
    plan = sltd.plan(str(tmp_path / "boxes.csv"), "csv")
    ((split, one),), _ = made(plan)
    assert (split, one.patient, one.name) == ("whole", "ann", "slice.dcm")
    np.testing.assert_array_equal(one.hu[..., 0], wanted)
    assert one.spacing_mm[:2] == (0.5, 0.75)
    correction = volume.Correction(spacing_mm=(0.6, 0.6, 3.0))
    plan = sltd.plan(str(tmp_path / "boxes.csv"), "csv", correction=correction)
    ((_, one),), notes = made(plan)
    assert one.spacing_mm == (0.6, 0.6, 3.0) and notes["spacing_corrected"] == {"ann": 1}
    (tmp_path / "slice.dcm").write_bytes((tmp_path / "slice.dcm").read_bytes()[:900])
    with pytest.raises(ValueError, match=r"slice\.dcm"):
        made(sltd.plan(str(tmp_path / "boxes.csv"), "csv"))


def test_whole_numbers_are_no_hu_until_it_is_said(tmp_path):
    folder = make_slices(tmp_path, ["a.png"], np.uint8)
    stored = cv2.imread(str(folder / "images" / "a.png"), cv2.IMREAD_UNCHANGED)
    with pytest.raises(ValueError, match=r"uint8 .* --slope and --intercept .*--stored-window LOW"):
        made(sltd.plan(str(folder)))
    window = volume.Correction(spacing_mm=(0.7, 0.7, 5.0), stored_window_hu=(-25.0, 125.0))
    plan = sltd.plan(str(folder), correction=window)
    ((_, one),), _ = made(plan)
    np.testing.assert_allclose(one.hu[..., 0], -25 + stored / 255 * 150.0, rtol=1e-6)
    assert one.spacing_mm == (0.7, 0.7, 5.0)
    assert plan.metadata["stored_window_hu"] == (-25.0, 125.0)
    ((_, one),), _ = made(sltd.plan(str(folder), slope=1.0, intercept=0.0))
    np.testing.assert_array_equal(one.hu[..., 0], stored)
    with pytest.raises(ValueError, match="neither --slope nor --intercept"):
        made(sltd.plan(str(folder), slope=2.0, correction=window))
    wide = make_slices(tmp_path / "wide", ["a.png"])
    with pytest.raises(ValueError, match=r"uint16 .* wants 8 bits"):
        made(sltd.plan(str(wide), correction=window))


def test_boxes_that_are_dropped_or_clipped_are_noted_by_patient(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / "images" / name, np.zeros((32, 40), np.float32))
    (tmp_path / "boxes.csv").write_text(
        "file,x0,y0,x1,y1,patient\na.npy,1,2,50,12,ann\na.npy,60,2,70,12,ann\n"
        "b.npy,1,2,11,12,bea\nb.npy,9,2,1,12,bea\n"
    )
    plan = sltd.plan(str(tmp_path / "boxes.csv"), "csv", faulty_boxes="clip")
    examples, notes = made(plan)
    assert [len(e.labels) for _, e in examples] == [1, 1]
    assert notes == {
        "box partly outside": {"ann": 1},
        "box outside": {"ann": 1},
        "box inverted": {"bea": 1},
    }


def test_diameters_and_pixels_of_a_csv_are_kept(tmp_path):
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", np.zeros((32, 40), np.float32))
    (tmp_path / "boxes.csv").write_text(
        "file,x0,y0,x1,y1,diameter_mm,pixel_mm\n"
        "a.npy,60,2,70,12,5,0.7\na.npy,1,2,11,12,6.5,0.7\na.npy,9,2,11,12,,0.7\n"
    )
    ((_, one),), _ = made(sltd.plan(str(tmp_path / "boxes.csv"), "csv", faulty_boxes="drop"))
    np.testing.assert_array_equal(one.diameters_mm, np.array([6.5, np.nan], np.float32))
    assert one.spacing_mm[:2] == (0.7, 0.7) and np.isnan(one.spacing_mm[2])
    told = volume.Correction(spacing_mm=(0.6, 0.6, 3.0))
    ((_, one),), _ = made(
        sltd.plan(str(tmp_path / "boxes.csv"), "csv", faulty_boxes="drop", correction=told)
    )
    assert one.spacing_mm == (0.6, 0.6, 3.0)


# make


def test_make_writes_what_the_plan_says(tmp_path):
    make_patient(tmp_path / "data" / "case1", 1, absent=("delayed",))
    options = Options(path=str(tmp_path / "data"), missing="zero")
    prepared = builders.make("multiphase_ct", tmp_path / "sets", options)
    assert prepared.name == "multiphase_ct/mct_ltdiag" and prepared.splits == {"whole": 2}
    assert prepared.metadata["faults"] == {"delayed missing: zero": {"case1": 1}}
    assert prepared.metadata["missing"] == "zero" and prepared.phases == PHASES
    with pytest.raises(ValueError, match="is there already"):
        builders.make("multiphase_ct", tmp_path / "sets", options)


def test_make_unpacks_an_archive_and_refuses_a_bad_one(tmp_path):
    make_slices(tmp_path / "slices", ["a.png", "b.png"])
    archive = tmp_path / "slices.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in (tmp_path / "slices").rglob("*"):
            packed.write(file, f"top/{file.relative_to(tmp_path / 'slices')}")
    prepared = builders.make("sltd", tmp_path / "sets", Options(path=str(archive), slope=1.0))
    assert [t.patient for t in prepared.truths("whole")] == ["images/a.png", "images/b.png"]
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../canary", b"x")
    with pytest.raises(ValueError, match=r"\.\./canary"):
        builders.make("sltd", tmp_path / "other", Options(path=str(archive)))
    assert not list(tmp_path.rglob("canary"))


def test_make_says_what_it_wants(tmp_path):
    with pytest.raises(ValueError, match="there is no builder 'litz'; there are phantom_sltd"):
        builders.make("litz", tmp_path, Options())
    for path in ("", str(tmp_path / "none")):
        with pytest.raises(
            ValueError, match=r"lits wants --path, the data; got '.*', which is not"
        ):
            builders.make("lits", tmp_path, Options(path=path))
    folder = make_slices(tmp_path / "empty", [])
    with pytest.raises(ValueError, match=r"sltd/coco: 0 slices \(0 patients\)"):
        builders.make("sltd", tmp_path / "sets", Options(path=str(folder)))

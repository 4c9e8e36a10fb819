import collections
import re
import shutil
import subprocess
import sys
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from jaxdet.config import Data
from jaxdet.data import formats_coco, formats_voc, formats_yolo, sources
from jaxdet.data.builders import store
from jaxdet.data.formats import Row, sound
from jaxdet.types import PHASES, CtSlice

NAMES = ("cyst", "tumour")
IMAGES = {  # split -> names; three slices of a patient
    "train": [f"p{p}_{s}.png" for p in range(4) for s in range(3)],
    "val": [f"p{p}_{s}.png" for p in (4, 5) for s in range(3)],
}


def pixels(name):
    return np.full((48, 64, 3), sum(name.encode()) % 251, np.uint8)


def truth(name, count=2):
    boxes = [(4.0 + i, 5.0, 30.0, 40.0 + i) for i in range(count)]
    rows = [Row(box, i % 2, name) for i, box in enumerate(boxes)]
    return sound(name, 48, 64, rows)


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels(path.name))[1].tobytes())


def make_coco(folder, images):
    (folder / "annotations").mkdir()
    for split, names in images.items():
        for name in names:
            draw(folder / "images" / name)
        file = folder / "annotations" / f"{split}.json"
        formats_coco.write(file, NAMES, [truth(name) for name in names])
    return folder


def make_yolo(folder, images):
    formats_yolo.write(folder, NAMES, {s: [truth(n) for n in names] for s, names in images.items()})
    for split, names in images.items():
        for name in names:
            draw(folder / "images" / split / name)
    return folder / "data.yaml"


def make_voc(folder, images):
    for part in ("splits", "annotations"):
        (folder / part).mkdir()
    for split, names in images.items():
        stems = [name.removesuffix(".png") for name in names]
        (folder / "splits" / f"{split}.txt").write_text("\r\n".join(stems), encoding="utf-8-sig")
        for name, stem in zip(names, stems, strict=True):
            draw(folder / "images" / name)
            formats_voc.write(folder / "annotations" / f"{stem}.xml", NAMES, truth(name))
    return folder


MAKE = {"coco": make_coco, "yolo": make_yolo, "voc": make_voc}
KINDS = sorted(MAKE)


def config(kind, folder, images=IMAGES, **fields):
    folder = folder / "Daten ü"
    folder.mkdir()
    return Data(source=kind, path=str(MAKE[kind](folder, images)), **fields)


def change(cfg, **fields):
    return Data(**{**vars(cfg), **fields})


def patients(dataset):
    return {record.patient for record in dataset.records}


@pytest.mark.parametrize("kind", KINDS)
def test_given_splits_are_read(tmp_path, kind):
    cfg = config(kind, tmp_path)
    for split, names in IMAGES.items():
        data = sources.load(cfg, split)
        assert (len(data), data.class_names, data.split, data.faults) == (
            len(names),
            NAMES,
            split,
            {},
        )
        assert [record.name.split("/")[-1] for record in data.records] == names
        assert [record.patient for record in data.records] == [r.name for r in data.records]
        example = data[1]
        np.testing.assert_array_equal(example.image, pixels(names[1]))
        np.testing.assert_allclose(example.boxes_xyxy, truth(names[1]).boxes_xyxy, atol=1e-3)
        assert example.labels.tolist() == [0, 1] and example.name == data.records[1].name


@pytest.mark.parametrize("kind", KINDS)
def test_patients_are_pooled_and_parted(tmp_path, kind):
    cfg = config(kind, tmp_path, split="patient", patient_pattern=r"(p\d)_", fractions=(1, 1, 1))
    parts = [sources.load(cfg, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 6, 6]
    assert set.union(*map(patients, parts)) == {f"p{i}" for i in range(6)}
    assert sum(len(patients(part)) for part in parts) == 6
    again = sources.load(change(cfg, split_seed=1), "train")
    assert patients(again) != patients(parts[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_patient_in_two_given_splits_is_refused(tmp_path, kind):
    images = {"train": ["p1_0.png", "p2_0.png"], "val": ["p2_1.png"]}
    cfg = config(kind, tmp_path, images, patient_pattern=r"(p\d)_")
    message = r"1 patients or pictures are in two splits: patient p2 \(train and val\)"
    with pytest.raises(ValueError, match=message):
        sources.load(cfg, "train")
    assert len(sources.load(change(cfg, patient_pattern=""), "train")) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_without_a_patient_names_the_file(tmp_path, kind):
    cfg = config(kind, tmp_path, patient_pattern=r"(case\d+)")
    with pytest.raises(ValueError, match=r"p0_0\.png: data\.patient_pattern .* finds no patient"):
        sources.load(cfg, "train")


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_split_is_an_error(tmp_path, kind):
    cfg = config(kind, tmp_path, {"train": ["p1_0.png"], "val": []})
    where = re.escape(cfg.path)
    with pytest.raises(ValueError, match=rf"val split has 0 images \(0 patients\) in {where}"):
        sources.load(cfg, "val")
    with pytest.raises(ValueError, match="test"):
        sources.load(cfg, "test")
    cfg = change(cfg, split="patient", fractions=(1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="test split has 0 images"):
        sources.load(cfg, "test")


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_boxes_are_an_error(tmp_path, kind):
    cfg = config(kind, tmp_path, max_boxes=1)
    with pytest.raises(ValueError, match=r"p0_0\.png has 2 boxes; data\.max_boxes is 1"):
        sources.load(cfg, "train")


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_channels_are_found_at_load(tmp_path, kind):
    cfg = config(kind, tmp_path, channels=4)
    with pytest.raises(ValueError, match=r"p0_0\.png: .* has 3 channels, data\.channels wants 4"):
        sources.load(cfg, "train")
    assert sources.load(change(cfg, channels=1), "train")[0].image.shape == (48, 64, 1)


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_a_missing_image_names_the_file(tmp_path, kind):
    cfg = config(kind, tmp_path)
    (tmp_path / "Daten ü" / "images" / "p1_2.png").unlink()
    with pytest.raises(ValueError, match="p1_2"):
        sources.load(cfg, "train")


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_boxes_of_another_image_size_are_refused(tmp_path, kind):
    cfg = config(kind, tmp_path)
    small = cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes()
    (tmp_path / "Daten ü" / "images" / "p0_0.png").write_bytes(small)
    with pytest.raises(ValueError, match=r"p0_0\.png: the image is 32 x 24, .* says 64 x 48"):
        sources.load(cfg, "train")


@pytest.mark.parametrize("kind", KINDS)
def test_classes_give_the_order_or_an_error(tmp_path, kind):
    cfg = config(kind, tmp_path, classes=("tumour", "cyst"))
    data = sources.load(cfg, "train")
    assert data.class_names == ("tumour", "cyst")
    assert data.records[0].labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="cyst"):
        sources.load(change(cfg, classes=("tumour", "haemangioma")), "train")


@pytest.mark.parametrize("kind", KINDS)
def test_faulty_boxes_follow_the_config(tmp_path, kind):
    cfg = config(kind, tmp_path)
    bad = [Row((-4.0, 5.0, 30.0, 40.0), 1, "x"), Row((9.0, 9.0, 20.0, 20.0), 0, "x")]
    wide = sound("p0_0.png", 48, 64, bad, "clip")
    boxes = np.array([bad[0].box_xyxy, bad[1].box_xyxy], np.float32)
    wide = type(wide)(**{**vars(wide), "boxes_xyxy": boxes})
    folder = tmp_path / "Daten ü"
    if kind == "voc":
        formats_voc.write(folder / "annotations/p0_0.xml", NAMES, wide)
    elif kind == "coco":
        others = [truth(name) for name in IMAGES["train"][1:]]
        formats_coco.write(folder / "annotations/train.json", NAMES, [wide, *others])
    else:
        splits = {"train": [wide], "val": [truth(name) for name in IMAGES["val"]]}
        formats_yolo.write(folder, NAMES, splits)
    with pytest.raises(ValueError, match="is partly outside in an image of 64 x 48"):
        sources.load(cfg, "train")
    clipped = sources.load(change(cfg, faulty_boxes="clip"), "train")
    np.testing.assert_allclose(clipped[0].boxes_xyxy[0], [0, 5, 30, 40], atol=1e-3)
    dropped = sources.load(change(cfg, faulty_boxes="drop"), "train")
    assert dropped.faults == clipped.faults == {"partly outside": 1}
    assert dropped[0].labels.tolist() == [0]
    assert sources.load(cfg, "val").faults == {}


def test_crowd_is_kept_in_the_record_and_not_taught(tmp_path):
    cfg = config("coco", tmp_path, max_boxes=1)
    rows = [Row((1.0, 1.0, 9.0, 9.0), 0, "x"), Row((1.0, 1.0, 60.0, 40.0), 1, "x", True, 99.0)]
    crowded = sound("p0_0.png", 48, 64, rows)
    formats_coco.write(tmp_path / "Daten ü" / "annotations/train.json", NAMES, [crowded])
    data = sources.load(cfg, "train")
    assert data.records[0].crowd.tolist() == [False, True]
    assert data.records[0].area.tolist() == [64, 99]
    assert data[0].labels.tolist() == [0] and data[0].boxes_xyxy.tolist() == [[1, 1, 9, 9]]


def test_one_coco_file_is_split_by_patient(tmp_path):
    for name in IMAGES["train"]:
        draw(tmp_path / name)
    formats_coco.write(tmp_path / "instances.json", NAMES, [truth(n) for n in IMAGES["train"]])
    cfg = Data(source="coco", path=str(tmp_path), split="patient", patient_pattern="(p.)")
    assert [len(sources.load(cfg, s)) for s in ("train", "val", "test")] == [6, 3, 3]
    with pytest.raises(ValueError, match=r"there is no annotations/train\.json; data\.split="):
        sources.load(change(cfg, split="given"), "train")


def test_images_of_the_own_split_come_first(tmp_path):
    make_coco(tmp_path, {"train": ["a.png"], "val": ["a.png"]})
    (tmp_path / "val").mkdir()
    shutil.copy(tmp_path / "images" / "a.png", tmp_path / "val" / "a.png")
    cfg = Data(source="coco", path=str(tmp_path))
    assert sources.load(cfg, "val").records[0].name == "val/a.png"
    assert sources.load(cfg, "train").records[0].name == "images/a.png"


def test_an_image_in_two_pooled_lists_is_taken_once(tmp_path):
    cfg = config("voc", tmp_path, {"train": ["a.png", "b.png", "c.png"], "val": ["c.png"]})
    cfg = change(cfg, split="patient", fractions=(1, 0, 0))
    assert len(sources.load(cfg, "train")) == 3


def test_voc_without_lists_is_split_by_patient(tmp_path):
    cfg = config("voc", tmp_path, split="patient", patient_pattern="(p.)")
    shutil.rmtree(tmp_path / "Daten ü" / "splits")
    assert sum(len(sources.load(cfg, split)) for split in ("train", "val", "test")) == 18


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_a_missing_folder_is_an_error(tmp_path, kind):
    for path in ("", str(tmp_path / "none")):
        with pytest.raises(ValueError, match=rf"data\.path '{path}' is no folder; source '{kind}'"):
            sources.load(Data(source=kind, path=path), "train")


def test_the_cache_reads_once_and_cannot_be_written(tmp_path):
    cfg = config("coco", tmp_path, cache="ram")
    data = sources.load(cfg, "train")
    with ThreadPoolExecutor(4) as threads:
        first = list(threads.map(data.__getitem__, range(len(data))))
    shutil.rmtree(tmp_path / "Daten ü")
    for i, example in enumerate(first):
        np.testing.assert_array_equal(data[i].image, example.image)
    with pytest.raises(ValueError, match="read-only"):
        data[0].image[0, 0] = 1


def test_the_window_of_the_config_is_applied(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[-100, 70, 240, 900]], np.int16))
    row = Row((0.0, 0.0, 2.0, 1.0), 0, "x")
    formats_coco.write(tmp_path / "train.json", NAMES, [sound("a.npy", 1, 4, [row])])
    cfg = Data(source="coco", path=str(tmp_path), channels=1)
    with pytest.raises(ValueError, match=r"a\.npy: int16 pixels .* data\.window_hu"):
        sources.load(cfg, "train")
    image = sources.load(change(cfg, window_hu=(-100, 240)), "train")[0].image
    assert image.dtype == np.float32 and image.ravel().tolist() == [0, 0.5, 1, 1]


def test_the_phantom_is_split_by_patient(monkeypatch):
    records = [
        sources.Record(
            name=f"phantom patient {i // 2} slice {i}",
            patient=str(i // 2),
            boxes_xyxy=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int32),
            crowd=np.zeros(0, bool),
            area=np.zeros(0, np.float32),
        )
        for i in range(20)
    ]
    stand_in = types.SimpleNamespace(
        records=lambda cfg: (("tumour",), records, lambda i: np.full((8, 8, 3), i, np.uint8))
    )
    monkeypatch.setitem(sys.modules, "jaxdet.data.phantom", stand_in)
    monkeypatch.setattr("jaxdet.data.phantom", stand_in, raising=False)
    seen = []
    for split in ("train", "val", "test"):
        data = sources.load(Data(), split)
        for i in range(len(data)):
            number = int(data[i].image[0, 0, 0])
            assert data[i].name == records[number].name
            seen.append(number)
    assert sorted(seen) == list(range(20))


def ct_slice(patient, z, phases=PHASES, neighbours=3, count=1, noise=None, lesions=None):
    """A slice in which channel c of patient n is about 100 n + c."""
    hu = np.random.default_rng([patient, z] if noise is None else noise).integers(
        -9, 9, (32, 32, 1)
    )
    base = np.kron(np.random.default_rng([patient]).integers(0, 200, (16, 16)), np.ones((2, 2)))
    channels = np.arange(len(phases) * neighbours)
    return CtSlice(
        hu=(hu + base[..., None] + channels).astype(np.int16),
        boxes_xyxy=np.array([[2, 3, 9, 12]] * count, np.float32).reshape(-1, 4),
        labels=np.zeros(count, np.int32),
        diameters_mm=np.full(count, 7, np.float32),
        lesions=lesions,
        livers=None,
        displacement_mm=None,
        spacing_mm=(1.0, 1.0, 2.0),
        phases=phases,
        annotated="portal",
        touching=0,
        patient=f"HCC_{patient}",
        name=f"patient {patient} slice {z}",
        z=z,
    )


WINDOW = (-100, 300)


def prepared(folder, examples, name="fake/tiny"):
    store.write(folder, name, examples, {"class_names": ["tumour"]})
    return Data(
        source="tfds",
        builder=name,
        path=str(folder),
        channels=examples[0][1].hu.shape[2],
        window_hu=WINDOW,
    )


def given(patients=4):
    where = {0: "train", 1: "train", 2: "val", 3: "test"}
    return [(where[p], ct_slice(p, z)) for p in range(patients) for z in (4, 5)]


def test_a_prepared_set_is_read_by_its_own_splits(tmp_path):
    examples = given()
    cfg = prepared(tmp_path, examples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = {split: sources.load(cfg, split) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [4, 2, 2]
    for split, part in parts.items():
        own = [one for name, one in examples if name == split]
        for one, example, record in zip(own, part, part.records, strict=True):
            wanted = np.clip((one.hu.astype(np.float32) + 100) / 400, 0, 1)
            np.testing.assert_allclose(example.image, wanted, atol=1e-6)
            assert (example.name, example.patient) == (one.name, one.patient)
            assert example.boxes_xyxy.tolist() == [[2, 3, 9, 12]] and record.area.tolist() == [63]
            assert not record.crowd.any()


def test_records_tell_diameters_misalignment_phase_and_pixels(tmp_path):
    moved = np.zeros((4, 4, 4, 3), np.float32)
    moved[:, :, 3] = 0, 3, 4
    one = replace(
        ct_slice(0, 4, count=2),
        displacement_mm=moved,
        diameters_mm=np.array([7, np.nan], np.float32),
        annotated="delayed",
        spacing_mm=(0.7, 0.8, 2.0),
    )
    unknown = replace(ct_slice(1, 4), spacing_mm=(float("nan"),) * 3)
    empty = ct_slice(2, 4, count=0)
    cfg = prepared(tmp_path, [("train", one), ("train", unknown), ("train", empty)])
    told, nothing, free = sources.load(cfg, "train").records
    np.testing.assert_array_equal(told.diameters_mm, one.diameters_mm)
    assert told.misaligned_mm.tolist() == [5.0, 5.0]
    assert (told.phase, told.pixel_mm) == ("delayed", (0.7, 0.8))
    assert (nothing.phase, nothing.pixel_mm) == ("portal", None)
    assert nothing.diameters_mm.tolist() == [7] and np.isnan(nothing.misaligned_mm).all()
    assert free.diameters_mm.shape == free.misaligned_mm.shape == (0,)
    fewer = change(cfg, phases=("portal",), channels=3, pad=(0.0,))
    assert sources.load(fewer, "train").records[0].misaligned_mm.tolist() == [5.0, 5.0]


def test_records_of_a_csv_tell_what_its_columns_do(tmp_path):
    lines = ["file,x0,y0,x1,y1,diameter_mm,pixel_mm,phase"]
    for i in range(3):
        draw(tmp_path / f"{i}.png")
        lines += [f"{i}.png,60,0,70,9,5,0.7,portal", f"{i}.png,2,3,9,12,8.{i},0.7,portal"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    cfg = Data(source="csv", path=str(tmp_path / "boxes.csv"), split="patient", faulty_boxes="drop")
    records = [r for split in ("train", "val", "test") for r in sources.load(cfg, split).records]
    for record in records:
        np.testing.assert_array_equal(record.diameters_mm, np.float32([f"8.{record.name[0]}"]))
        assert len(record.boxes_xyxy) == 1 and record.misaligned_mm is None
        assert (record.phase, record.pixel_mm) == ("portal", (0.7, 0.7))


def mask(number=1):
    drawn = np.zeros((32, 32), np.uint8)
    drawn[3:12, 2:9] = number
    return drawn


def masked(cfg, **fields):
    return change(cfg, lesions=True, pipeline="ssd", **fields)


def test_masks_come_when_they_are_asked_for_and_are_not_read_before(tmp_path, monkeypatch):
    drawn = [mask(), np.zeros((32, 32), np.uint8)]
    examples = [("train", ct_slice(0, z, lesions=m)) for z, m in enumerate(drawn)]
    cfg = prepared(tmp_path, examples)
    for kept in ("none", "ram"):
        data = sources.load(masked(cfg, cache=kept), "train")
        for _ in range(2):
            with ThreadPoolExecutor(4) as threads:
                together = list(threads.map(data.__getitem__, [0, 1] * 4))
            for i, example in enumerate(together):
                np.testing.assert_array_equal(example.lesions, drawn[i % 2])
    tmp_path.joinpath("fake").rename(tmp_path / "gone")
    np.testing.assert_array_equal(data[0].lesions, mask())  # of the cache
    tmp_path.joinpath("gone").rename(tmp_path / "fake")

    def read(*_):
        raise AssertionError("the mask is read")

    monkeypatch.setattr(store.Prepared, "lesions", read)
    assert all(example.lesions is None for example in sources.load(cfg, "train"))
    with pytest.raises(AssertionError, match="the mask is read"):
        sources.load(masked(cfg), "train")


def test_a_set_of_boxes_has_no_masks_to_give(tmp_path):
    cfg = masked(prepared(tmp_path, given()))
    message = r"patient 0 slice 4: data\.lesions asks .* only boxes: .* set data\.lesions=False"
    with pytest.raises(ValueError, match=message):
        sources.load(cfg, "train")


def test_a_mask_with_more_lesions_than_boxes_is_refused(tmp_path):
    cfg = prepared(tmp_path, [("train", ct_slice(0, 4, count=2, lesions=mask(3)))])
    message = r"patient 0 slice 4: its lesion mask goes up to 3, but it has 2 boxes: wanted i \+ 1"
    with pytest.raises(ValueError, match=message):
        sources.load(masked(cfg), "train")
    many = ct_slice(0, 4, count=256, lesions=mask(3))
    cfg = masked(prepared(tmp_path, [("train", many)], "fake/many"), max_boxes=300)
    with pytest.raises(ValueError, match=r"has 256 boxes: .* 255 boxes at most"):
        sources.load(cfg, "train")


def test_reading_from_threads_is_reading(tmp_path):
    data = sources.load(prepared(tmp_path, given()), "train")
    alone = [example.image for example in data]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(data.__getitem__, [*range(len(data))] * 8))
    for i, example in enumerate(together):
        np.testing.assert_array_equal(example.image, alone[i % len(data)])


def test_phases_are_chosen_and_permuted_at_load(tmp_path):
    cfg = prepared(tmp_path, given())
    whole = sources.load(cfg, "val")[0].image
    official = ("arterial", "delayed", "portal", "precontrast")
    image = sources.load(change(cfg, phases=official), "val")[0].image
    np.testing.assert_array_equal(image, whole[..., [3, 4, 5, 9, 10, 11, 6, 7, 8, 0, 1, 2]])
    image = sources.load(change(cfg, phases=("portal",) * 4), "val")[0].image
    np.testing.assert_array_equal(image, np.tile(whole[..., 6:9], 4))
    cfg = change(cfg, phases=("portal",), channels=3, pad=(0.0,))
    np.testing.assert_array_equal(sources.load(cfg, "val")[0].image, whole[..., 6:9])
    with pytest.raises(
        ValueError, match=r"data\.phases wants venous; fake/tiny holds precontrast, "
    ):
        sources.load(change(cfg, phases=("venous",)), "val")


def test_wrong_channels_of_a_prepared_set_name_the_phases(tmp_path):
    cfg = prepared(tmp_path, given())
    message = (
        r"4 phases \(precontrast, arterial, portal, delayed\) of 3 slices are 12 channels, but"
        r" data\.channels is 3"
    )
    with pytest.raises(ValueError, match=message):
        sources.load(change(cfg, channels=3), "train")


def test_single_slices_asked_for_as_three_are_repeated(tmp_path):
    examples = [("whole", ct_slice(p, 4, ("portal",), 1)) for p in range(6)]
    cfg = change(prepared(tmp_path, examples), split="patient")
    grey = sources.load(cfg, "train")
    three = sources.load(change(cfg, channels=3), "train")
    np.testing.assert_array_equal(three[0].image, np.repeat(grey[0].image, 3, 2))
    with pytest.raises(ValueError, match=r"1 phases \(portal\) of 1 slices are 1 channels"):
        sources.load(change(cfg, channels=4), "train")
    parts = [sources.load(cfg, split) for split in ("train", "val", "test")]
    assert sorted(r.patient for part in parts for r in part.records) == [
        f"HCC_{p}" for p in range(6)
    ]
    message = r"has no split 'train' but whole: data\.split=\"patient\" draws"
    with pytest.raises(ValueError, match=message):
        sources.load(change(cfg, split="given"), "train")


def test_the_official_split_pools_what_the_set_has(tmp_path):
    examples = [("whole", ct_slice(p, 4)) for p in range(16)]
    cfg = change(prepared(tmp_path, examples), split="official")
    names = [[r.patient for r in sources.load(cfg, s).records] for s in ("train", "val", "test")]
    assert names == [[f"HCC_{p}" for p in part] for part in (range(1, 6), [0], range(6, 16))]
    few = change(prepared(tmp_path, given(), "fake/few"), split="official")
    with pytest.raises(ValueError, match="at least 15 patients; there are 4"):
        sources.load(few, "train")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("selection", ["nested", "test_fold"])
def test_folds_pool_all_lists_and_test_every_patient_once(tmp_path, kind, selection):
    fields = {"split": "fold", "folds": 3, "patient_pattern": r"(p\d)_", "selection": selection}
    cfg = config(kind, tmp_path, **fields)
    records, tested_in = sources.tested_in(cfg)
    assert len(records) == 18 and np.bincount(tested_in).tolist() == [6, 6, 6]
    for fold in range(3):
        parts = [sources.load(change(cfg, fold=fold), s) for s in ("train", "val", "test")]
        train, val, test = map(patients, parts)
        assert test == {r.patient for r, t in zip(records, tested_in, strict=True) if t == fold}
        assert not train & test and train | val | test == {f"p{i}" for i in range(6)}
        if selection == "nested":
            assert not val & train and not val & test and (len(train), len(val)) == (3, 1)
        else:
            assert val == test and [r.name for r in parts[1].records] == [
                r.name for r in parts[2].records
            ]
    # Neither the lists' own names nor the fold that is asked for decide who is tested where.
    again = sources.tested_in(change(cfg, split="given", fold=2, patient_pattern=r"(p\d)_"))[1]
    np.testing.assert_array_equal(again, tested_in)
    assert (sources.tested_in(change(cfg, split_seed=1))[1] != tested_in).any()


def test_more_folds_than_patients_and_a_fold_without_lesions(tmp_path):
    examples = [("whole", ct_slice(p, 4, count=int(p < 2))) for p in range(4)]
    cfg = change(prepared(tmp_path, examples), split="fold", folds=4)
    with pytest.raises(ValueError, match="5 folds want at least 5 patients; there are 4"):
        sources.load(change(cfg, folds=5), "train")
    with pytest.warns(UserWarning, match=r"fold \d of 4 has 1 entries and no lesion"):
        _, tested_in = sources.tested_in(cfg)
    fold = int(tested_in[3])
    with pytest.warns(UserWarning, match="test split has no lesion: 1 images of 1 patients"):
        assert len(sources.load(change(cfg, fold=fold), "test")) == 1


def test_a_split_by_slice_deals_images(tmp_path):
    cfg = config("coco", tmp_path, split="fold", folds=3, split_unit="slice")
    cfg = change(cfg, patient_pattern=r"(p\d)_")
    records, tested_in = sources.tested_in(cfg)
    assert np.bincount(tested_in).tolist() == [6, 6, 6]
    leaks = []
    for fold in range(3):
        parts = [sources.load(change(cfg, fold=fold), s) for s in ("train", "val", "test")]
        names = [{record.name for record in part.records} for part in parts]
        wanted = {r.name for r, t in zip(records, tested_in, strict=True) if t == fold}
        assert names[2] == wanted and sum(map(len, names)) == 18 == len(set.union(*names))
        leaks.append(patients(parts[0]) & patients(parts[2]))
    assert any(leaks)  # which is what it is there to show
    # Other splits are drawn by patient all the same.
    drawn = [patients(sources.load(change(cfg, split="patient"), s)) for s in ("train", "test")]
    assert not drawn[0] & drawn[1]


def test_the_same_pixels_are_refused_by_slice_too(tmp_path):
    one = ct_slice(0, 4)
    examples = [("train", one), ("train", replace(one, name="other"))]
    cfg = change(prepared(tmp_path, examples), folds=2, split_unit="slice")
    with pytest.raises(ValueError, match=r"same pixels under other and .* \(fold 0 and fold 1"):
        sources.tested_in(cfg)


@pytest.mark.parametrize("kind", KINDS)
def test_folds_of_patients_want_patients(tmp_path, kind):
    cfg = config(kind, tmp_path, folds=3)
    message = r"none of its 18 images says whose it is.*patient_pattern.*split_unit=\"slice\""
    with pytest.raises(ValueError, match=message):
        sources.tested_in(cfg)
    for fields in ({"split_unit": "slice"}, {"patient_pattern": "(.*)"}):
        told = change(cfg, **fields)
        assert len(set(sources.units(told, sources.tested_in(told)[0]))) == 18


@pytest.mark.parametrize("other", ["Q0", "q0 "])
def test_one_patient_under_two_spellings_is_refused(tmp_path, other):
    names = [f"{i}_{p}.png" for i, p in enumerate(("q0", other, "q2", "q3"))]
    for name in names:
        draw(tmp_path / name)
    (tmp_path / "boxes.csv").write_text(
        "\n".join(["file,x0,y0,x1,y1", *(f"{n},1,2,10,12" for n in names)])
    )
    cfg = Data(
        source="csv", path=str(tmp_path / "boxes.csv"), folds=2, patient_pattern=r"_(.*)\.png"
    )
    message = f"the patients 'q0' and '{other}' .*differ only in capitals or spaces"
    with pytest.raises(ValueError, match=message):
        sources.tested_in(cfg)
    assert len(sources.tested_in(change(cfg, split_unit="slice"))[0]) == 4


def test_the_same_pixels_in_two_folds_are_refused(tmp_path):
    one = ct_slice(0, 4)
    examples = [("train", one), ("train", replace(one, patient="HCC_9", name="other"))]
    cfg = change(prepared(tmp_path, examples), folds=2)
    with pytest.raises(ValueError, match=r"same pixels under HCC_0 and HCC_9 \(fold 0 and fold 1"):
        sources.tested_in(cfg)


def test_a_patient_in_two_splits_of_a_prepared_set_is_refused(tmp_path):
    examples = [*given(), ("test", ct_slice(0, 9))]
    with pytest.raises(ValueError, match=r"patient HCC_0 \(test and train\); data\.split="):
        sources.load(prepared(tmp_path, examples), "val")


@pytest.mark.parametrize("split", ["given", "patient"])
def test_the_same_pixels_under_two_patients_are_refused(tmp_path, split):
    one = ct_slice(0, 4)
    examples = [("train", one), ("test", replace(one, patient="HCC_9", name="other"))]
    cfg = change(prepared(tmp_path, examples), split=split, fractions=(0.5, 0.0, 0.5))
    with pytest.raises(ValueError, match=r"the same pixels under HCC_0 and HCC_9 \(test and train"):
        sources.load(cfg, "train")


def test_pictures_that_look_alike_are_a_warning(tmp_path):
    other = replace(ct_slice(0, 4, noise=9), patient="HCC_9", name="other")
    cfg = prepared(tmp_path, [*given(), ("test", other)])
    with pytest.warns(UserWarning, match=r"2 pairs .* patient 0 slice 4 and other"):
        sources.load(cfg, "train")


def test_a_split_without_a_lesion_is_a_warning(tmp_path):
    examples = [("train", ct_slice(0, 4)), ("val", ct_slice(1, 4, count=0))]
    cfg = prepared(tmp_path, examples)
    with pytest.warns(UserWarning, match=r"val split has no lesion: 1 images of 1 patients and 0"):
        sources.load(cfg, "val")


def test_a_set_that_is_not_there(tmp_path):
    cfg = Data(source="tfds", builder="fake/none", path=str(tmp_path), window_hu=WINDOW)
    with pytest.raises(ValueError, match=r"no prepared set 'fake/none' .* there are: none"):
        sources.load(cfg, "train")


def test_csv_boxes_are_split_by_their_patients(tmp_path):
    lines = ["file,x0,y0,x1,y1,patient"]
    for p in range(4):
        for s in range(2):
            draw(tmp_path / "images" / f"{p}_{s}.png")
            lines.append(f"{p}_{s}.png,1,2,10,12,ann{p}")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    cfg = Data(source="csv", path=str(tmp_path / "boxes.csv"), split="patient")
    parts = [sources.load(cfg, split) for split in ("train", "val", "test")]
    assert sorted({r.patient for part in parts for r in part.records}) == [
        f"ann{p}" for p in range(4)
    ]
    assert [len(part) for part in parts] == [4, 2, 2]
    assert parts[0].records[0].name.startswith("images/")
    by_name = sources.load(change(cfg, patient_pattern=r"(\d)_"), "train")
    assert {r.patient for r in by_name.records} < set("0123")
    with pytest.raises(ValueError, match=r"a CSV has no list train; data\.split="):
        sources.load(change(cfg, split="given"), "train")
    (tmp_path / "images" / "2_1.png").unlink()
    with pytest.raises(ValueError, match=r"there is no image 2_1\.png"):
        sources.load(cfg, "train")


def test_the_digest_sees_the_names_the_splits_and_the_truth(tmp_path):
    cfg = config("coco", tmp_path)
    train, val = (sources.load(cfg, split) for split in ("train", "val"))
    digest = sources.digest(train, val)
    assert len(digest) == 16

    def with_first(**fields):
        first = replace(train.records[0], **fields)
        return sources.digest(replace(train, records=(first, *train.records[1:])), val)

    first = train.records[0]
    assert with_first(patient="another") == digest
    assert with_first(boxes_xyxy=first.boxes_xyxy.copy()) == digest
    others = [
        sources.digest(val, train),
        with_first(name="another"),
        with_first(boxes_xyxy=first.boxes_xyxy + np.float32(0.5)),
        with_first(labels=1 - first.labels),
        with_first(crowd=~first.crowd),
    ]
    assert len({*others, digest}) == 6
    turned = replace(train, records=train.records[::-1])
    assert sources.digest(turned, val) == digest


def test_no_jax_is_loaded():
    code = "import sys, jaxdet.data.sources; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("split", "images", "boxes"),
    [
        ("train", 205, {"Platelets": 209, "RBC": 2381, "WBC": 214}),
        ("val", 87, {"Platelets": 83, "RBC": 967, "WBC": 87}),
    ],
)
def test_blood_cells(shared, split, images, boxes):
    cfg = Data(source="voc", path=str(shared / "data" / "bccd"), faulty_boxes="drop")
    data = sources.load(cfg, split)
    counts = collections.Counter(
        data.class_names[label] for record in data.records for label in record.labels
    )
    assert (len(data), dict(counts), data.faults) == (images, boxes, {"degenerate": 1})
    assert data[0].image.shape == (480, 640, 3)
    with pytest.raises(ValueError, match=r"BloodImage_003(38|43)\.xml: object .* is degenerate"):
        sources.load(change(cfg, faulty_boxes="error"), split)


def test_phases_of_channels_without_names_are_a_warning():
    made = {"phantom_patients": 10, "phantom_slices": 1, "image_size": 64}
    cfg = Data(**made, window_hu=(-100.0, 200.0), phases=("portal",))
    with pytest.warns(UserWarning, match="those of source='phantom' are taken to be"):
        sources.load(cfg, "train")

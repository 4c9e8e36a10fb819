import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest

from jaxdet.data.builders import features, records, store
from jaxdet.data.misalignment import misaligned_mm
from jaxdet.types import PHASES, CtSlice

METADATA = {"class_names": ["cyst", "tumour"], "seed": 3, "nothing": None}


def one(number=0, z=4, count=2, size=40, dtype=np.int16, phases=PHASES, masks=True):
    rng = np.random.default_rng([number, z])
    lesions = np.zeros((size, size), np.uint8)
    for i in range(count):
        lesions[5 * i : 5 * i + 4, 3:9] = i + 1
    livers = rng.random((size, size, len(phases))) < 0.5
    moved = rng.normal(size=(5, 5, len(phases), 3)).astype(np.float32)
    return CtSlice(
        hu=rng.normal(50, 300, (size, size, 3 * len(phases))).astype(dtype),
        boxes_xyxy=np.array([[3, 5 * i, 9, 5 * i + 4] for i in range(count)], np.float32).reshape(
            -1, 4
        ),
        labels=np.arange(count) % 2,
        diameters_mm=np.full(count, np.nan, np.float32),
        lesions=lesions if masks else None,
        livers=livers if masks else None,
        displacement_mm=moved if masks else None,
        spacing_mm=(0.7, 0.7, 2.5),
        phases=phases,
        annotated=phases[-1],
        touching=1,
        patient=f"p{number}",
        name=f"patient {number} slice {z}",
        z=z,
    )


def same(a, b):
    for field in dataclasses.fields(CtSlice):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y, field.name


EXAMPLES = [("train", one(0)), ("test", one(1, count=0)), ("train", one(2, masks=False))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return store.write(tmp_path_factory.mktemp("sets"), "fake/tiny", EXAMPLES, METADATA)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("masks", [True, False])
def test_a_slice_survives_its_features(dtype, count, masks):
    made = one(count=count, dtype=dtype, masks=masks)
    stored = features.to_features(made)
    told = features.features(dtype)
    again = told.deserialize_example_np(told.serialize_example(stored))
    assert again["hu"].dtype == dtype
    same(features.from_features(again, {"phases": list(PHASES)}), made)
    sides = [24.0] * count
    np.testing.assert_array_equal(again["areas_px2"], np.array(sides, np.float32))
    np.testing.assert_array_equal(again["misaligned_mm"], misaligned_mm(made))
    assert again["misaligned_mm"].shape == (count,)


def test_nan_is_refused_and_other_types_too():
    bad = one(dtype=np.float32)
    bad.hu[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match=r"patient 0 slice 4: 1 of \d+ pixels are NaN"):
        features.to_features(bad)
    with pytest.raises(ValueError, match="int16 or float32 Hounsfield units; got uint8"):
        features.features(np.uint8)


def test_a_set_survives_the_disk(prepared):
    assert prepared.splits == {"train": 2, "test": 1}
    assert prepared.phases == PHASES and prepared.class_names == ("cyst", "tumour")
    told = {"phases": list(PHASES), "neighbours": 3, "dtype": "int16"}
    assert prepared.metadata == METADATA | told
    for split in prepared.splits:
        written = [made for name, made in EXAMPLES if name == split]
        for made, full, truth in zip(
            written, prepared.slices(split), prepared.truths(split), strict=True
        ):
            same(full, made)
            pixels = prepared.pixels(truth)
            np.testing.assert_array_equal(pixels, made.hu)
            assert pixels.dtype == np.int16 and pixels.flags.writeable
            np.testing.assert_array_equal(truth.boxes_xyxy, made.boxes_xyxy)
            assert truth.labels.tolist() == made.labels.tolist()
            assert (truth.name, truth.patient, truth.z) == (made.name, made.patient, made.z)
            assert truth.spacing_mm == made.spacing_mm and truth.touching == 1
            np.testing.assert_array_equal(truth.misaligned_mm, misaligned_mm(made))
            assert truth.misaligned_mm.dtype == np.float32
            assert np.isfinite(truth.misaligned_mm).all() == (made.displacement_mm is not None)


def test_masks_are_read_alone(prepared):
    for split in prepared.splits:
        written = [made for name, made in EXAMPLES if name == split]
        for made, truth in zip(written, prepared.truths(split), strict=True):
            mask = prepared.lesions(truth)
            assert (mask is None) == (made.lesions is None)
            if mask is not None:  # that of a slice without a lesion is empty, and there
                np.testing.assert_array_equal(mask, made.lesions)
                assert mask.dtype == np.uint8 and not mask.flags.writeable


def test_a_damaged_mask_is_named(prepared):
    truth = dataclasses.replace(prepared.truths("train")[0], shape=(41, 40, 12))
    message = r"patient 0 slice 4: no lesion mask of 41 x 40 pixels .* in .*array_record.*damaged"
    with pytest.raises(ValueError, match=message):
        prepared.lesions(truth)
    with pytest.raises(ValueError, match="no lesion mask of 4 x 5 pixels"):
        features.unpacked(np.arange(9, dtype=np.uint8), 4, 5)


def test_tfds_itself_reads_it(prepared):
    import tensorflow_datasets as tfds

    builder = tfds.builder("fake/tiny", data_dir=str(prepared.folder.parents[2]))
    source = builder.as_data_source(split="train")
    assert len(source) == 2
    np.testing.assert_array_equal(source[0]["hu"], EXAMPLES[0][1].hu)
    assert builder.info.metadata["seed"] == 3 and builder.info.splits["test"].num_examples == 1


def test_slices_can_be_pickled_and_indexed(prepared):
    slices = pickle.loads(pickle.dumps(prepared.slices("train")))
    assert len(slices) == 2 and len(list(slices)) == 2
    same(slices[1], EXAMPLES[2][1])
    with pytest.raises(IndexError, match="fake/tiny train has 2 slices, no 2"):
        slices[2]


def test_the_same_slices_give_the_same_bytes(prepared, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_store as t\n"
        "t.store.write(sys.argv[2], 'fake/tiny', t.EXAMPLES, t.METADATA)\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules, 'heavy'\n"
        "found = t.store.find(sys.argv[2], 'fake/tiny')\n"
        "assert [found.pixels(x).shape for x in found.truths('test')] == [(40, 40, 12)]\n"
        "assert len(list(found.slices('train'))) == 2\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules, 'heavy'\n"
    )
    here = __file__.rpartition("/")[0]
    # Another process: the order of a hash table may change from one to the next.
    subprocess.run([sys.executable, "-c", code, here, str(tmp_path)], check=True)
    for file in prepared.folder.iterdir():
        again = tmp_path / "fake/tiny" / store.VERSION / file.name
        assert again.read_bytes() == file.read_bytes(), file.name


def test_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 60_000)
    made = store.write(tmp_path, "fake/sharded", [("whole", one(i)) for i in range(5)], METADATA)
    assert len(list(made.folder.glob("fake-whole.array_record-*-of-00003"))) == 3
    assert [t.patient for t in made.truths("whole")] == [f"p{i}" for i in range(5)]
    same(made.slices("whole")[4], one(4))
    sorted(made.folder.glob("*of-00003"))[1].unlink()
    with pytest.raises(ValueError, match=r"array_record-00001-of-00003 is missing"):
        made.truths("whole")


def test_what_cannot_be_written(tmp_path, prepared):
    folder = prepared.folder.parents[2]
    with pytest.raises(ValueError, match=r"is there already: delete it"):
        store.write(folder, "fake/tiny", EXAMPLES, METADATA)
    cases = {
        r"fake/bad: 0 slices \(0 patients\)": [],
        r"patient 1 slice 4: .*'float32'.* have .*'int16'": [one(), one(1, dtype=np.float32)],
        r"patient 1 slice 4: .*'portal'\], .* have": [one(), one(1, phases=("portal",))],
        r"patient 0 slice 4: label 1 for 1 class names": [one()],
        r"12 channels for 5 phases": [dataclasses.replace(one(), phases=(*PHASES, "portal"))],
    }
    for message, slices in cases.items():
        metadata = METADATA | ({"class_names": ["x"]} if "label" in message else {})
        with pytest.raises(ValueError, match=message):
            store.write(tmp_path, "fake/bad", [("whole", s) for s in slices], metadata)
        assert not list((tmp_path / "fake" / "bad").iterdir())  # nothing is left


def test_sets_of_others_hide_none_of_ours(tmp_path):
    store.write(tmp_path, "fake/tiny", EXAMPLES, METADATA)
    for name, files in {
        "alone": {"metadata.json": "{}"},
        "tfds": {"metadata.json": '{"a": 1}', "dataset_info.json": '{"splits": []}'},
        "list": {"metadata.json": '["phases", "dtype", "class_names"]'},
        "broken": {"metadata.json": "{"},
    }.items():
        place = tmp_path / name / "x" / store.VERSION
        place.mkdir(parents=True)
        for file, text in files.items():
            (place / file).write_text(text)
    assert [p.name for p in store.found(tmp_path)] == ["fake/tiny"]
    with pytest.raises(ValueError, match=r"no prepared set 'alone/x' .*; there are: fake/tiny"):
        store.find(tmp_path, "alone/x")
    with pytest.raises(ValueError, match="its metadata lack phases"):
        store.find(tmp_path, "tfds/x")


def test_what_cannot_be_found(tmp_path, prepared):
    folder = prepared.folder.parents[2]
    assert [p.name for p in store.found(folder)] == ["fake/tiny"] and store.found(tmp_path) == []
    with pytest.raises(ValueError, match=r"no prepared set 'fake/huge' in .*; there are: fake/tin"):
        store.find(folder, "fake/huge")
    with pytest.raises(ValueError, match=r"has no split 'val'; it has train, test"):
        prepared.truths("val")


def test_a_set_of_another_version_is_to_be_made_again(tmp_path):
    made = store.write(tmp_path, "fake/tiny", EXAMPLES, METADATA)
    made.folder.rename(made.folder.with_name("1.0.0"))
    assert store.VERSION != "1.0.0" and store.found(tmp_path) == []
    message = rf"fake/tiny/1\.0\.0 was made by another jaxdet, .* {store.VERSION}: make it again"
    with pytest.raises(ValueError, match=message):
        store.find(tmp_path, "fake/tiny")
    again = store.write(tmp_path, "fake/tiny", EXAMPLES, METADATA)  # beside the old one
    assert store.find(tmp_path, "fake/tiny") == again


def record_file(path, payloads, options="group_size:1,uncompressed"):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for payload in payloads:
        writer.write(payload)
    writer.close()
    return path


@pytest.mark.parametrize("around", [0, 40, 65436, 65512, 65536, 131072, 200_000])
def test_records_lie_where_they_are_said_to(tmp_path, around):
    # Sizes about a block's: the record, its chunk's header or the file's index meets the edge.
    rng = np.random.default_rng(around)
    payloads = [rng.bytes(max(around + i, 1)) for i in (-3, -2, -1, 0, 1, 2, 5, 24, 40)]
    file = record_file(tmp_path / "a", payloads)
    found = list(records.places(file, len(payloads)))
    for place, payload in zip(found, payloads, strict=True):
        read = records.array(place, (len(payload),), np.dtype(np.uint8))
        assert read.tobytes() == payload


def test_large_records_need_several_reads(tmp_path):
    payload = np.random.default_rng(0).bytes(40_000_000)  # more blocks than one read takes
    (place,) = records.places(record_file(tmp_path / "a", [payload]), 1)
    assert records.array(place, (10_000_000,), np.dtype(np.int32)).tobytes() == payload


def test_damaged_and_foreign_files_are_named(tmp_path):
    file = record_file(tmp_path / "zipped", [b"x" * 1000], "group_size:1")
    with pytest.raises(ValueError, match="zipped is compressed or grouped"):
        list(records.places(file, 1))
    file = record_file(tmp_path / "short", [bytes(200_000)])
    (place,) = records.places(file, 1)
    with pytest.raises(ValueError, match="200000 bytes of pixels where"):
        records.array(place, (3,), np.dtype(np.int16))
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="short is cut short"):
        records.array(place, (200_000,), np.dtype(np.uint8))
    with pytest.raises(ValueError, match="short is cut short"):
        list(records.places(file, 2))

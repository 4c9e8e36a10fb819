import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxdet.config import Data
from jaxdet.data import folds, manifest, sources


def make(folder, counts, name="boxes.csv"):
    """A CSV of patients p0, p1 ... with two images each, `counts` boxes on the first."""
    folder.mkdir(exist_ok=True)
    lines = ["file,x0,y0,x1,y1,patient"]
    for p, count in enumerate(counts):
        for s in range(2):
            cv2.imwrite(str(folder / f"p{p}_{s}.png"), np.full((20, 20, 3), p, np.uint8))
        lines += [f"p{p}_0.png,{i},2,10,12,p{p}" for i in range(count)] + [f"p{p}_1.png,,,,,p{p}"]
    (folder / name).write_text("\n".join(lines))
    return Data(source="csv", path=str(folder / name), folds=3)


COUNTS = [1, 2, 1, 3, 1, 2, 1, 1]
CHANGED = "the names, the boxes or labels of some images have changed"


def test_a_manifest_tells_who_is_tested_where(tmp_path):
    cfg = make(tmp_path, COUNTS)
    told = manifest.manifest(cfg)
    assert json.loads(json.dumps(told)) == told
    assert (told["format"], told["k"], told["seed"]) == (2, 3, 0)
    assert (told["selection"], told["val_share"]) == ("nested", 0.125)
    assert told["data"] == {
        "source": "csv",
        "path": cfg.path,
        "builder": "",
        "patient_pattern": "",
        "images": 16,
        "boxes": 12,
        "patients": 8,
    }
    assert [row["fold"] for row in told["folds"]] == [0, 1, 2]
    assert [row["images"] for row in told["folds"]] == [
        2 * len(row["patients"]) for row in told["folds"]
    ]
    tested = [name for row in told["folds"] for name in row["patients"]]
    assert sorted(tested) == [f"p{i}" for i in range(8)]
    assert told["patients"] == {n: row["fold"] for row in told["folds"] for n in row["patients"]}
    for row in told["folds"]:
        assert row["boxes"] == sum(COUNTS[int(name[1:])] for name in row["patients"])
        assert row["val_patients"] and not set(row["val_patients"]) & set(row["patients"])
        assert row["patients"] == sorted(row["patients"], key=folds.natural)
        val = sources.load(replace(cfg, split="fold", fold=row["fold"]), "val")
        assert {record.patient for record in val.records} == set(row["val_patients"])
        assert row["val_boxes"] == sum(COUNTS[int(name[1:])] for name in row["val_patients"])
        train = sources.load(replace(cfg, split="fold", fold=row["fold"]), "train")
        assert (row["train_images"], row["val_images"]) == (len(train), len(val))
        assert row["images"] + len(train) + len(val) == 16


def test_the_digest_is_of_the_folds_and_nothing_else(tmp_path):
    cfg = make(tmp_path / "a", COUNTS)
    digest = manifest.manifest(cfg)["digest"]
    assert len(digest) == 16
    moved = make(tmp_path / "b", COUNTS)
    free = (
        replace(cfg, split="fold", fold=2),
        replace(cfg, split="patient", image_size=64, threads=0),
        moved,
    )
    assert {manifest.manifest(other)["digest"] for other in free} == {digest}
    others = (
        replace(cfg, split_seed=1),
        replace(cfg, folds=2),
        replace(cfg, selection="test_fold"),
        replace(cfg, val_share=0.4),
        make(tmp_path / "c", [*COUNTS, 1]),
        make(tmp_path / "d", [1, 2, 1, 3, 1, 2, 1, 2]),
    )
    assert len({manifest.manifest(other)["digest"] for other in others} | {digest}) == 7


def test_of_test_fold_nobody_is_val(tmp_path):
    told = manifest.manifest(replace(make(tmp_path, COUNTS), selection="test_fold"))
    assert told["val_share"] is None
    assert [row["val_patients"] for row in told["folds"]] == [[], [], []]
    assert [(row["val_images"], row["val_boxes"]) for row in told["folds"]] == [(0, 0)] * 3
    assert [row["images"] + row["train_images"] for row in told["folds"]] == [16] * 3


def test_dealt_by_slice_images_are_listed_and_patients_counted_once(tmp_path):
    cfg = replace(make(tmp_path, COUNTS), split_unit="slice")
    told = manifest.manifest(cfg)
    assert (told["split_unit"], told["data"]["patients"], len(told["patients"])) == ("slice", 8, 16)
    assert sum(len(row["patients"]) for row in told["folds"]) > 8
    plain = manifest.manifest(replace(cfg, split_unit="patient"))
    assert "split_unit: was 'slice', now 'patient'" in manifest.differences(told, plain)


def test_differences_are_named(tmp_path):
    cfg = make(tmp_path / "a", COUNTS)
    old = manifest.manifest(cfg)
    assert manifest.differences(old, manifest.manifest(cfg)) == []
    said = manifest.differences(old, manifest.manifest(replace(cfg, folds=2, split_seed=4)))
    assert "k: was 3, now 2" in said
    assert "seed: was 0, now 4" in said
    said = manifest.differences(old, manifest.manifest(replace(cfg, selection="test_fold")))
    assert said == ["selection: was 'nested', now 'test_fold'", "val_share: was 0.125, now None"]
    said = "\n".join(manifest.differences(old, manifest.manifest(make(tmp_path / "a", [1] * 9))))
    assert "data.patients: was 8, now 9" in said
    assert "data.boxes: was 12, now 9" in said
    assert "1 patients are new: p8" in said
    said = "\n".join(manifest.differences(old, manifest.manifest(make(tmp_path / "a", COUNTS[:4]))))
    assert "4 patients are gone: p" in said
    seeds = [manifest.manifest(replace(cfg, split_seed=seed)) for seed in range(1, 4)]
    assert any("have moved: p" in row for new in seeds for row in manifest.differences(old, new))


def test_images_under_other_names_are_a_difference(tmp_path):
    old = manifest.manifest(make(tmp_path, COUNTS))
    (tmp_path / "p0_0.png").rename(tmp_path / "p0_9.png")
    file = tmp_path / "boxes.csv"
    file.write_text(file.read_text().replace("p0_0", "p0_9"))
    new = manifest.manifest(Data(source="csv", path=str(file), folds=3))
    assert manifest.differences(old, new) == [CHANGED]


def test_moved_boxes_and_other_labels_are_a_difference(tmp_path):
    cfg = make(tmp_path, COUNTS)
    old, file = manifest.manifest(cfg), tmp_path / "boxes.csv"
    file.write_text(file.read_text().replace(",2,10,12,", ",3,11,13,", 1))
    moved = manifest.manifest(cfg)
    assert moved["digest"] != old["digest"]
    assert manifest.differences(old, moved) == [CHANGED]
    head, *rows = make_labelled(cfg)
    file.write_text("\n".join([head, *rows]))
    named = manifest.manifest(cfg)
    first = next(i for i, row in enumerate(rows) if row.endswith(",b"))
    rows[first] = rows[first][:-1] + "a"
    file.write_text("\n".join([head, *rows]))
    assert manifest.differences(named, manifest.manifest(cfg)) == [CHANGED]


def make_labelled(cfg):
    """The lines of the CSV with classes a and b in turn, which both stay when one row changes."""
    head, *rows = Path(cfg.path).read_text().splitlines()
    with_box = iter(range(99))
    return [f"{head},class"] + [
        row + ("," if ",,," in row else f",{'ab'[next(with_box) % 2]}") for row in rows
    ]


def test_where_the_data_lie_is_no_difference(tmp_path, monkeypatch):
    old = manifest.manifest(make(tmp_path / "a", COUNTS))
    moved = manifest.manifest(make(tmp_path / "b", COUNTS))
    assert moved["data"]["path"] != old["data"]["path"]
    monkeypatch.chdir(tmp_path / "b")
    near = manifest.manifest(Data(source="csv", path="boxes.csv", folds=3))
    assert manifest.differences(old, moved) == manifest.differences(old, near) == []


def test_one_patient_and_too_few_for_a_nested_val(tmp_path):
    with pytest.raises(ValueError, match="3 folds want at least 3 patients; there are 1"):
        manifest.manifest(make(tmp_path, [3]))
    two = replace(make(tmp_path, [3, 1]), folds=2)
    with pytest.raises(ValueError, match="outside fold 0 of 2 there is 1 patient"):
        manifest.manifest(two)
    assert manifest.manifest(replace(two, selection="test_fold"))["k"] == 2

"""A table from nothing to its numbers, gone on with, and refused; with toys for networks."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
import toy

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Train, to_json
from jaxdet.data import builders, manifest, phantom, sources
from jaxdet.models import pca_yolo
from jaxdet.report import reproduced
from jaxdet.study import asked as asking
from jaxdet.study import crossval, lesion_free, papers, prepared, scales, siamese
from jaxdet.study import reproduce as study
from jaxdet.study.asked import Asked
from jaxdet.study.papers import Printed, Row
from jaxdet.train import engine, loop

FEW = dataclasses.replace(phantom.SETS["demo"]["tiny"], patients=6, size=64, annotated_slices=2)
TOYS = (
    Row("nnunet", "nnU-Net", Printed(36.1), p=0.0, model="nnunet"),
    Row("yolov8", "YOLOv8x", Printed(73.7, 3.4), Printed(80.8), p=0.035, model="toy"),
    Row("pca", "PCA-YOLO", Printed(77.2, 2.1), model="toy", fields={"width": 6}),
)
TRAIN = Train(epochs=1, batch_size=8, nominal_batch=8, optimizer="adamw", warmup_epochs=0.0)


def quick(patch):
    """Toys for networks, a scale of seconds, and no pictures of a training."""
    toy.enlist(patch.setitem)
    patch.setattr(loop.curves, "curves", lambda *_: None)
    patch.setattr(loop.pictures, "truths_and_detections", lambda *_, **__: None)
    tiny = dataclasses.replace(
        scales.TINY,
        side_px=64,
        folds=2,
        train=TRAIN,
        siamese_train=TRAIN,
        free_slices=1,
        start_epochs=0,
    )
    patch.setitem(scales.SCALES, "tiny", tiny)
    patch.setitem(papers.TABLES, "pca-table2", TOYS)
    patch.setitem(phantom.SETS["demo"], "tiny", FEW)


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    quick(monkeypatch)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """phantom_demo/tiny with 6 patients of 2 slices, and the same with a free slice each."""
    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(phantom.SETS["demo"], "tiny", FEW)
        for free in (0, 1):
            builders.make("phantom_demo", folder, builders.Options(free_slices=free), workers=1)
    return folder


def asked(sets, **fields):
    return Asked(**{"table": "pca-table2", "path": str(sets), **fields})


def run(out, one, *, say=lambda text: None, **fields):
    return study.reproduce(one, out, say=say, **fields)


@pytest.fixture(scope="module")
def straight(sets, tmp_path_factory):
    """A table that nothing disturbed: its folder, what it holds and what was told."""
    out, told = tmp_path_factory.mktemp("straight") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        result = run(out, asked(sets), say=told.append)
    return out, result, told


def read(file):
    return json.loads(file.read_text())


def test_the_table_holds_the_paper_beside_ours(straight):
    out, result, told = straight
    assert read(out / "pca-table2.json") == json.loads(json.dumps(result))
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["nnunet", "yolov8", "pca"]
    assert not rows["nnunet"]["built"] and "mean" not in rows["nnunet"]
    assert "nnU-Net: not built" in told
    assert rows["yolov8"]["paper"]["ap50"] == {"mean": 73.7, "sd": 3.4}
    assert rows["yolov8"]["paper"]["recall"] is None and rows["yolov8"]["paper"]["p"] == 0.035
    assert (result["k"], result["protocol"], result["ddof"]) == (2, "yolo", 1)
    assert result["set"]["patients"] == 6 and result["set"]["images"] == 12
    assert result["flags"]["train.epochs"] == 1 and result["minutes"] > 0
    for name in ("yolov8", "pca"):
        kept = read(out / "rows" / name / "crossval.json")
        for metric in study.METRICS:
            folds = [fold[metric] for fold in rows[name]["folds"]]
            assert folds == [fold[metric] for fold in kept["folds"]]
            assert rows[name]["mean"][metric] == pytest.approx(np.mean(folds))
            assert rows[name]["sd"][metric] == pytest.approx(np.std(folds, ddof=1))


def test_the_papers_row_is_tested_against_every_other(straight):
    out, result, _ = straight
    rows = {row["name"]: row for row in result["rows"]}
    against = read(out / "rows" / "pca" / "crossval.json")["against"]
    assert [pathlib.Path(told["rival"]).name for told in against] == ["yolov8"]
    assert set(rows["yolov8"]["tests"]) == {"paired_t", "paired_t_greater", "corrected_t"}
    assert rows["pca"]["tests"] is None
    ours, theirs = ([f["ap50"] for f in rows[n]["folds"]] for n in ("pca", "yolov8"))
    test = rows["yolov8"]["tests"]["paired_t"]
    assert test["difference"] == pytest.approx(np.mean(np.subtract(ours, theirs)))


def test_slices_without_a_tumour_are_of_the_tested_patients_alone(straight, sets):
    out, result, _ = straight
    told = result["lesion_free"]
    assert told["builder"] == "phantom_demo/tiny_free1" and told["why"] == ""
    assert [row["name"] for row in told["rows"]] == ["yolov8", "pca"]
    plan = read(out / "folds.json")
    one = runs.open_run(out / "rows" / "pca" / "fold_0")
    for row in told["rows"]:
        assert [f["slices"] for f in row["folds"]] == [len(f["patients"]) for f in plan["folds"]]
        each = [fold["false"] / fold["slices"] for fold in row["folds"]]
        assert row["mean"] == pytest.approx(np.mean(each))
        assert row["sd"] == pytest.approx(np.std(each, ddof=1))
    free = lesion_free.slices(one.experiment.data, told["builder"], plan["folds"][0]["patients"])
    assert {r.patient for r in free.records} == set(plan["folds"][0]["patients"])
    assert not any(len(r.labels) for r in free.records)
    assert not {r.patient for r in free.records} & set(one.facts["trained_on"])
    whole = sources.load(one.experiment.data, "test")
    np.testing.assert_array_equal(
        free[0].image.shape, whole[0].image.shape
    )  # read in the same window and size


def test_a_toy_that_always_finds_one_box_has_one_false_positive_a_slice(straight):
    out = straight[0]
    one = runs.open_run(out / "rows" / "pca" / "fold_0")
    plan = read(out / "folds.json")
    free = lesion_free.slices(
        one.experiment.data, "phantom_demo/tiny_free1", plan["folds"][0]["patients"]
    )
    row = {"fold": 0, "threshold": 0.0, "recall": 0.5}
    told = lesion_free.count(one, free, row)
    assert (told["false"], told["false_per_slice"], told["share_with"]) == (len(free), 1.0, 1.0)
    assert lesion_free.count(one, free, {**row, "threshold": 1.0})["false"] == 0
    assert lesion_free.score_of({"threshold": 0.9, "recall": 0.0}) == 0.25
    nobody = lesion_free.slices(
        one.experiment.data, "phantom_demo/tiny", plan["folds"][0]["patients"]
    )
    assert nobody is None


def test_figures_are_drawn_or_said_not_to_be(straight):
    out, result, told = straight
    files = [one["file"] for one in result["figures"] if "file" in one]
    names = ("yolov8", "pca")
    assert files == [
        "figures/pca-table2/examples.png",
        "figures/pca-table2/detections.png",
        *(f"figures/pca-table2/errors_{name}.png" for name in names),
        "figures/pca-table2/by_size.png",
    ]
    assert all((out / file).stat().st_size > 100 for file in files)
    (missing,) = [one for one in result["figures"] if "why" in one]
    assert missing["figure"] == "attention.png" and "no row with an attention map" in missing["why"]
    assert any("figures/pca-table2/attention.png: not drawn" in text for text in told)


def test_two_tables_in_one_folder_keep_their_own_figures(straight, sets, tmp_path, monkeypatch):
    out = shutil.copytree(straight[0], tmp_path / "out")
    monkeypatch.setitem(papers.TABLES, "pca-table1", TOYS[:2])
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
    run(out, asked(sets, table="pca-table1"), resume=True)
    one, two = (out / "figures" / table for table in ("pca-table1", "pca-table2"))
    shared = {"examples.png", "detections.png", "errors_yolov8.png", "by_size.png"}
    assert {file.name for file in one.iterdir()} == shared
    assert {file.name for file in two.iterdir()} == shared | {"errors_pca.png"}
    for file in two.iterdir():
        before = straight[0] / "figures" / "pca-table2" / file.name
        assert file.read_bytes() == before.read_bytes()
    for table in ("pca-table1", "pca-table2"):
        told = read(out / f"{table}.json")["figures"]
        files = {f["file"] for f in told if "file" in f}
        assert files == {f"figures/{table}/{f.name}" for f in (out / "figures" / table).iterdir()}
    # Of other rows, so other pictures; the examples are those of the data.
    same = {n for n in shared if (one / n).read_bytes() == (two / n).read_bytes()}
    assert same == {"examples.png", "errors_yolov8.png"}


def test_the_text_of_the_table(straight):
    _, result, _ = straight
    text = reproduced.text(result)
    lines = text.splitlines()
    assert lines[0].startswith("pca-table2, scale tiny: phantom_demo/tiny, 6 patients, 12 slices")
    (row,) = [line for line in lines if line.startswith("nnU-Net")]
    assert row.split()[1:] == ["-", *["not", "built", "36.1"], *["not", "built", "-"] * 2]
    assert "73.7 +- 3.4" in text and "PCA against" in text
    assert "false positives a slice on 6 slices without a tumour of the tested patients" in text
    assert "attention.png: no row with an attention map" in text


def test_going_on_trains_nothing_anew(straight, sets, monkeypatch):
    out, result, _ = straight
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
    again = run(out, asked(sets), resume=True)
    assert {k: v for k, v in again.items() if k != "minutes"} == {
        k: v for k, v in result.items() if k != "minutes"
    }


def without_tables(straight, folder):
    """The folder of a whole table, with its rows and without what was said of them."""
    out = shutil.copytree(straight[0], folder)
    (out / "pca-table2.json").unlink()
    shutil.rmtree(out / "figures")
    return out


def test_some_rows_of_a_table(straight, sets, tmp_path, monkeypatch):
    out = without_tables(straight, tmp_path / "out")
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
    few = run(out, asked(sets, rows=("nnunet",)), resume=True)
    assert "none of yolov8, without_g, pca is among the rows" in few["lesion_free"]["why"]
    assert "no row is built" in reproduced.text(few)
    assert "detections.png: none of the rows is built" in reproduced.text(few)
    (out / "pca-table2.json").unlink()
    few = run(out, asked(sets, rows=("pca",)), resume=True)
    assert [row["name"] for row in few["rows"]] == ["pca"]
    assert "they want PCA-YOLO's own row and another" in reproduced.text(few)


def test_a_row_joins_those_that_the_table_has(straight, sets, tmp_path, monkeypatch):
    out = without_tables(straight, tmp_path / "out")
    plain = {k: v for k, v in straight[1].items() if k != "minutes"}
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
    run(out, asked(sets, rows=("pca",)), resume=True)
    two = run(out, asked(sets, rows=("yolov8",)), resume=True)
    assert [row["name"] for row in two["rows"]] == ["yolov8", "pca"]  # in the paper's order
    assert two["rows"] == plain["rows"][1:]  # tested against each other too
    all_of_them = run(out, asked(sets, rows=("nnunet",)), resume=True)
    del all_of_them["minutes"]
    assert all_of_them == plain
    assert read(out / "pca-table2.json")["rows"] == json.loads(json.dumps(plain["rows"]))
    # and any choice of what is there leaves it whole
    again = run(out, asked(sets, rows=("pca",)), resume=True)
    assert again["rows"] == plain["rows"] and again["figures"] == plain["figures"]


def test_rows_of_other_folds_or_flags_or_without_a_folder_do_not_stay(
    straight, sets, tmp_path, monkeypatch
):
    out = shutil.copytree(straight[0], tmp_path / "out")
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
    file, one = out / "pca-table2.json", asked(sets, rows=("yolov8",))
    content = read(file)
    changes = (
        {"set": {**content["set"], "folds_digest": "0123"}},
        {"flags": {**content["flags"], "train.lr": 7.0}},
    )
    for change in changes:
        file.write_text(json.dumps({**content, **change}))
        assert [row["name"] for row in run(out, one, resume=True)["rows"]] == ["yolov8"]
    file.write_text(json.dumps({**content, "flags": {**content["flags"], "path": "elsewhere"}}))
    shutil.rmtree(out / "rows" / "pca")
    assert [row["name"] for row in run(out, one, resume=True)["rows"]] == ["nnunet", "yolov8"]
    for broken in ("{", "[]", '{"rows": [3]}', '{"rows": []}'):
        file.write_text(broken)
        with pytest.raises(ValueError, match=r"pca-table2\.json is broken: .* Remove that file"):
            run(out, one, resume=True)
        assert file.read_text() == broken


class Killed(BaseException):
    """As sudden as a kill."""


def test_killed_in_the_middle_and_gone_on_with(sets, tmp_path, straight, monkeypatch):
    trained, one = [], asked(sets, rows=("yolov8",))
    plain = loop.train

    def train(experiment, out, *, resume):
        if trained:
            raise Killed
        trained.append(str(out))
        return plain(experiment, out, resume=resume)

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(Killed):
        run(tmp_path / "out", one)
    assert not (tmp_path / "out" / "pca-table2.json").exists()
    with pytest.raises(ValueError, match="holds a reproduction already: add --resume"):
        run(tmp_path / "out", one)
    monkeypatch.setattr(loop, "train", plain)
    result = run(tmp_path / "out", one, resume=True)
    (whole,) = [row for row in straight[1]["rows"] if row["name"] == "yolov8"]
    assert result["rows"][0]["folds"] == whole["folds"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 1}, r"(?s)other flags or recipes.*seed: was 0, now 1"),
        ({"folds": 3}, "folds: was 2, now 3"),
        ({"epochs": 7}, r"train\.epochs: was 1, now 7"),
        ({"siamese_epochs": 7}, r"siamese_train\.epochs: was 1, now 7"),
        ({"optimizer": "auto"}, r"train\.optimizer: was 'adamw', now 'auto'"),
        ({"scale": "small"}, "scale: was 'tiny', now 'small'"),
    ],
)
def test_other_flags_are_refused_by_name(straight, sets, fields, message):
    with pytest.raises(ValueError, match=message):
        run(straight[0], asked(sets, **fields), resume=True)


def test_what_is_none_of_ours_is_refused_and_left_alone(sets, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="was not made by `jaxdet reproduce`"):
        run(tmp_path, asked(sets), resume=True)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="wants a folder; got --out ''"):
        run("", asked(sets))
    with pytest.raises(ValueError, match=r"there is no prepared set 'sltd/coco' in"):
        run(tmp_path / "new", asked(sets, builder="sltd/coco"))
    with pytest.raises(ValueError, match="pca-table2 has no row 'yolov9'; it has nnunet, yolov8"):
        run(tmp_path / "new", asked(sets, rows=("yolov9",)))
    assert not (tmp_path / "new").exists()


def test_a_call_that_failed_before_training_leaves_the_folder_free(sets, tmp_path):
    with pytest.raises(ValueError, match="7 folds want at least 7 patients; there are 6"):
        run(tmp_path / "out", asked(sets, folds=7))
    result = run(tmp_path / "out", asked(sets, rows=("nnunet",)))
    assert result["k"] == 2 and not result["rows"][0]["built"]


def test_folds_that_the_data_no_longer_give_are_refused(straight, sets, monkeypatch):
    told = manifest.manifest

    def other(cfg):
        return {**told(cfg), "digest": "0" * 16}

    monkeypatch.setattr(study.manifest, "manifest", other)
    with pytest.raises(ValueError, match="other folds than its data give now"):
        run(straight[0], asked(sets), resume=True)


def test_a_phantom_that_is_not_there_is_made(sets, tmp_path, monkeypatch):
    made = []

    def make(name, folder, options):
        made.append((name, str(folder), options.size, options.free_slices))

    monkeypatch.setattr(prepared.builders, "make", make)
    one = asking.study(Asked("pca-table2"), tmp_path)
    assert prepared.make(one.data, 0, made.append) == "phantom_demo/tiny"
    assert made == [
        f"making phantom_demo/tiny in {tmp_path}/sets",
        ("phantom_demo", f"{tmp_path}/sets", "tiny", 0),
    ]
    made.clear()
    assert prepared.lesion_free(one, made.append) == "phantom_demo/tiny_free1"
    assert made[1] == ("phantom_demo", f"{tmp_path}/sets", "tiny", 1)
    made.clear()
    there = asking.study(asked(sets), tmp_path)
    assert prepared.make(there.data, 0, made.append) == "phantom_demo/tiny"
    mine = asking.study(asked(sets, builder="sltd/coco"), tmp_path)
    assert prepared.make(mine.data, 0, made.append) == "sltd/coco"
    assert prepared.lesion_free(mine, made.append) == "sltd/coco" and made == []


@pytest.mark.parametrize("free", ["", "_free1"])
def test_another_phantom_of_that_name_is_refused(sets, tmp_path, monkeypatch, free):
    """As one that an older jaxdet made: it had other patients, or did not say which."""
    folder, out = tmp_path / "sets", tmp_path / "out"
    place = shutil.copytree(sets, folder) / f"phantom_demo/tiny{free}" / "1.1.0"
    metadata = read(place / "metadata.json")
    drawn = {**metadata["phantom"], "patients": 3}
    (place / "metadata.json").write_text(json.dumps({**metadata, "phantom": drawn}))
    message = r"(?s)is another phantom.*patients: it has 3, wanted 6\nRemove .* --path elsewhere"
    with pytest.raises(ValueError, match=message):
        run(out, asked(folder))
    (place / "metadata.json").write_text(json.dumps({**metadata, "seed": 5}))
    with pytest.raises(ValueError, match="seed: it has 5, wanted 0"):
        run(out, asked(folder))
    del metadata["phantom"]
    (place / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="kind: it has None, wanted 'demo'"):
        run(out, asked(folder))
    assert not out.exists()  # found before anything is written or trained


# what is trained


def test_rows_of_the_paper_are_the_experiments_they_say(tmp_path):
    one = asking.study(Asked("pca-table1", "paper", seed=3), tmp_path)
    made = {
        row.name: asking.detector(one, row, 1, tmp_path)
        for row in (*papers.TABLE1, *papers.TABLE2)
        if asking.is_built(row)
    }
    assert {"yolov8", "channel", "self", "mtnet", "pca", "cam", "without_g"} <= set(made)
    base, ours = made["yolov8"], made["pca"]
    assert models.name_of(base.model) == "yolov8x" and base.model.channels == 3
    assert base.data.channels == 3 and ours.data.channels == 1 and ours.model.channels == 4
    assert made["self"].model.attention == "self" and made["cam"].model.attention_from == "cam"
    assert made["without_g"].model.normalise == "none"
    sides = [made[n].model.siamese.patches.side for n in ("pca", "pca_quarter", "pca_half")]
    assert sides == [64, 128, 256]
    assert ours.model.siamese_from == f"{tmp_path}/siamese_m64/fold_{{fold}}"
    assert made["cam"].model.siamese_from == ours.model.siamese_from
    assert made["pca_half"].model.siamese_from == f"{tmp_path}/siamese_m256/fold_{{fold}}"
    braces = asking.detector(one, papers.PCA, 1, tmp_path / "a{b}").model.siamese_from
    assert braces.replace("{fold}", "3") == f"{tmp_path}/a{{b}}/siamese_m64/fold_3"
    assert asking.siamese(one, 8).model == ours.model.siamese
    for row in made.values():
        assert row.train == base.train and row.evaluate == base.evaluate
        assert dataclasses.replace(row.data, channels=1) == one.data
    train, augment = base.train, base.data.augment
    assert (train.lr, train.epochs, train.patience, train.seed) == (5e-5, 2000, 100, 3)
    assert (augment.mosaic, augment.mixup, base.data.window_hu) == (0.3, 0.1, (-25.0, 125.0))
    assert asking.siamese(one, 8).train == dataclasses.replace(pca_yolo.SIAMESE_TRAIN, seed=3)
    assert asking.parts_of(papers.TABLE1) == (8,)
    assert sorted(asking.parts_of(papers.TABLE2)) == [2, 4, 8]


def test_overrides_change_what_they_name_and_are_recorded(tmp_path):
    plain = asking.study(Asked("pca-table1"), tmp_path)
    other = Asked(
        "pca-table1", folds=4, seed=2, epochs=5, siamese_epochs=6, optimizer="auto", path="p"
    )
    changed = asking.study(other, tmp_path)
    assert (changed.data.folds, changed.data.split_seed, changed.data.path) == (4, 2, "p")
    assert changed.scale.train == dataclasses.replace(
        plain.scale.train, epochs=5, optimizer="auto", seed=2
    )
    assert (changed.scale.siamese_train.epochs, changed.scale.siamese_train.seed) == (6, 2)
    old, new = (asking.flags(a, s) for a, s in ((Asked("t"), plain), (other, changed)))
    assert {name for name in old if old[name] != new[name]} == {
        *("folds", "seed", "path", "train.epochs", "train.optimizer", "train.seed"),
        *("siamese_train.epochs", "siamese_train.seed"),
    }
    assert json.loads(json.dumps(new)) == new  # so that it compares after a round trip
    with pytest.raises(ValueError, match=r"Train\.epochs wants 1 or more; got 0"):
        asking.study(Asked("pca-table1", epochs=0), tmp_path)


def test_scales_are_of_one_kind():
    for name, scale in scales.SCALES.items():
        for parts in (8, 4, 2):
            cfg = scales.siamese_config(scale, parts)
            assert scale.side_px == parts * cfg.patches.side, name
        assert asking.is_phantom(scale.builder)
    assert [len(row) for row in scales.table()] == [4] * len(scales.table())
    timed = dataclasses.replace(scales.TINY, minutes={"pca-table2": 28.0}, on="2 cores")
    assert scales.ROWS["minutes, pca-table2"](timed) == "28 on 2 cores"
    assert scales.ROWS["minutes, pca-table1"](timed) == "not measured"


def test_the_papers_numbers():
    one = {row.name: row for row in papers.TABLE1}
    two = {row.name: row for row in papers.TABLE2}
    assert [row.ap50.mean for row in papers.TABLE1] == [
        *(36.1, 70.8, 55.8, 66.5, 72.5, 73.7, 73.9, 74.8, 74.9, 77.2)
    ]
    assert [row.ap50 for row in papers.TABLE2] == [
        *((73.7, 3.4), (74.5, 3.6), (75.6, 3.9), (75.9, 2.3), (76.7, 2.5), (77.2, 2.1))
    ]
    assert {n: row.p for n, row in one.items() if row.p is not None and n != "nnunet"} == {
        **{"spn_ts": 0.018, "swin_unet": 0.002, "rtdetr": 0.001, "rcs_yolo": 0.012},
        **{"yolov8": 0.035, "channel": 0.031, "self": 0.052, "mtnet": 0.064},
    }
    assert one["pca"].precision == (82.5, None) and one["pca"].recall == (71.0, None)
    assert [row.accuracy for row in papers.TABLE3] == [(93.4, 2.5), None, None]
    # SDs that are not at hand are not made up.
    assert {n for n, row in one.items() if row.ap50.sd is not None} == {"spn_ts", "yolov8", "pca"}
    assert two["yolov8"].ap50 == one["yolov8"].ap50 and two["pca"].ap50 == one["pca"].ap50
    with pytest.raises(ValueError, match="no table is called 'pca-table4'; there are pca-table1"):
        papers.rows("pca-table4")


# Table 3


def pairs(auroc):
    return {
        **{"accuracy": 0.9, "always_negative": 0.95, "auroc": auroc, "ap": 0.5, "loss": 0.1},
        "recall_at_k": {"1": 0.5, "3": 0.75},
        "ranks": {"mean": 2.0, "median": 1.0, "best_mean": 1.0, "best_median": 1.0, "best": [1]},
        **{"positives": 3, "patches": 64, "slices": 1, "slices_without_positives": 0},
        **{"split": "test", "weights": "best"},
    }


@pytest.fixture
def scorer(monkeypatch):
    """A training that makes an empty RUN, and scores that are fold / 10 + 0.8."""
    trained = []

    def train(experiment, out, *, resume):
        trained.append(experiment.data.fold)
        digest = manifest.manifest(experiment.data)["digest"]
        if (pathlib.Path(out) / "run.json").exists():
            return runs.open_run(out)
        return runs.create(out, experiment, ("tumour",), folds_digest=digest)

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(
        siamese.training, "score_run", lambda run: pairs(0.8 + run.experiment.data.fold / 10)
    )
    return trained


def test_table_3_from_the_siamese_alone(sets, tmp_path, scorer):
    told = []
    result = run(tmp_path / "out", asked(sets, table="pca-table3"), say=told.append)
    assert scorer == [0, 1] * 3
    rows = {row["name"]: row for row in result["rows"]}
    assert [row["m_px"] for row in rows.values()] == [8, 16, 32]
    one = rows["siamese"]
    assert one["mean"]["auroc"] == pytest.approx(0.85)
    assert one["sd"]["auroc"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert one["mean"]["recall_at_3"] == 0.75 and one["folds"][1]["ranks"]["median"] == 1.0
    assert one["paper"]["accuracy"] == {"mean": 93.4, "sd": 2.5}
    text = reproduced.text(result)
    assert "93.4 +- 2.5" in text and "85.0 +- 7.1" in text and "all negative" in text
    examples = [{"figure": "examples.png", "file": "figures/pca-table3/examples.png"}]
    assert [one for one in result["figures"] if "file" in one] == examples
    why = {one["figure"]: one["why"] for one in result["figures"] if "why" in one}
    assert list(why) == ["detections.png", "errors.png", "by_size.png", "attention.png"]
    assert set(why.values()) == {
        "pca-table3 scores patches alone, and has no boxes; a table of detectors draws it"
    }
    assert "figures/pca-table3/examples.png" in text
    assert [file.name for file in (tmp_path / "out/figures").iterdir()] == ["pca-table3"]
    assert "siamese_m8, fold 1 (0 to 1): AUROC 0.9000 on 1 slices" in told
    # the same again, and what is done stays
    scorer.clear()
    again = run(tmp_path / "out", asked(sets, table="pca-table3"), resume=True)
    assert scorer == [] and again["rows"] == result["rows"]
    (tmp_path / "out/siamese_m8/fold_1/metrics/test_patches.json").unlink()
    run(tmp_path / "out", asked(sets, table="pca-table3"), resume=True)
    assert scorer == [1]


def test_rows_of_table_3_join_those_that_are_there(sets, tmp_path, scorer):
    one = {"table": "pca-table3"}
    run(tmp_path / "out", asked(sets, **one, rows=("siamese_half",)))
    two = run(tmp_path / "out", asked(sets, **one, rows=("siamese",)), resume=True)
    assert [row["name"] for row in two["rows"]] == ["siamese", "siamese_half"]
    assert scorer == [0, 1] * 2
    (tmp_path / "out/siamese_m32/fold_1/metrics/test_patches.json").unlink()
    two = run(tmp_path / "out", asked(sets, **one, rows=("siamese",)), resume=True)
    assert [row["name"] for row in two["rows"]] == ["siamese"] and scorer == [0, 1] * 2


# stopped


def test_sigterm_between_trainings_ends_with_143(sets, tmp_path, scorer, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def score_run(_):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")

    monkeypatch.setattr(siamese.training, "score_run", score_run)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "out", asked(sets, table="pca-table3"))
    assert ended.value.code == 143 and scorer == [0]
    assert signal.getsignal(signal.SIGTERM) == before


def test_inside_a_training_sigterm_waits_for_a_step_and_is_handed_on(
    sets, tmp_path, scorer, monkeypatch
):
    plain, steps, handlers = loop.train, [], [signal.getsignal(signal.SIGTERM)]

    def train(experiment, out, *, resume):
        made = plain(experiment, out, resume=resume)
        handlers.append(signal.getsignal(signal.SIGTERM))
        with engine._stop_signal(None) as asked_to_stop:  # as the engine's own training has it
            if experiment.data.fold == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            steps.append(asked_to_stop(1))
        handlers.append(signal.getsignal(signal.SIGTERM))
        return made

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "out", asked(sets, table="pca-table3"))
    assert ended.value.code == 143
    assert steps == [False, True]  # the step was done, and then it ended
    assert handlers[1] == handlers[2] == handlers[3] != handlers[0]
    assert signal.getsignal(signal.SIGTERM) == handlers[0]
    assert not (tmp_path / "out/siamese_m8/fold_1/metrics").exists()


def test_siamese_networks_of_another_study_are_refused(sets, tmp_path, scorer):
    one = asking.study(asked(sets), tmp_path)
    plan, folder = manifest.manifest(one.data), tmp_path / "siamese_m8"
    experiment = asking.siamese(one, 8)
    siamese.cross(experiment, folder, plan, say=str)
    other = dataclasses.replace(experiment, train=dataclasses.replace(TRAIN, lr=0.5))
    with pytest.raises(ValueError, match=r"train\.lr: was 0\.01, now 0\.5"):
        siamese.cross(other, folder, plan, say=str)
    with pytest.raises(ValueError, match=r"was not trained in these folds \(0123\)"):
        siamese.cross(experiment, folder, {**plan, "digest": "0123"}, say=str)
    (folder / "fold_0/metrics/test_patches.json").write_text("{")
    with pytest.raises(ValueError, match=r"is broken: .* --resume scores the fold again"):
        siamese.cross(experiment, folder, plan, say=str)
    (folder / "fold_0/metrics/test_patches.json").write_text(
        json.dumps(pairs(0.7) | {"weights": "latest"})
    )
    scorer.clear()
    siamese.cross(experiment, folder, plan, say=str)
    assert scorer == [0]  # those were not of the best weights
    (folder / "fold_1/run.json").unlink()
    (folder / "fold_1/checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"holds checkpoints and no run\.json"):
        siamese.cross(experiment, folder, plan, say=str)


def test_a_score_that_no_fold_has_is_not_made_up():
    told = siamese.summarise([pairs(None), pairs(None)])
    assert told["mean"]["auroc"] is None and told["n"]["auroc"] == 0
    assert told["sd"]["accuracy"] == 0.0
    row = {"title": "Siamese", "m_px": 8, "paper": {"accuracy": None}, **told}
    assert reproduced._mean_sd(row, "auroc") == "n/a"


def test_crossval_rows_are_usable_on_their_own(straight, sets):
    """Rows are cross-validations as `jaxdet crossval` makes them."""
    out, result, _ = straight
    one = asking.detector(asking.study(asked(sets), out), TOYS[1], 1, out)
    again = crossval.crossval(one, out / "rows" / "yolov8", resume=True, say=str)
    assert again["mean"]["ap50"] == {r["name"]: r for r in result["rows"]}["yolov8"]["mean"]["ap50"]
    assert again["experiment"] == to_json(crossval.of_fold(one, 0))


def test_detectors_begin_with_a_common_start_that_saw_other_patients(sets, tmp_path, monkeypatch):
    monkeypatch.setitem(
        scales.SCALES, "tiny", dataclasses.replace(scales.SCALES["tiny"], start_epochs=3)
    )
    one, made, trained = asking.study(asked(sets), tmp_path), [], []

    def train(experiment, folder, *, resume):
        trained.append((experiment, folder))
        (folder / "metrics").mkdir(parents=True)
        (folder / "metrics" / "val.json").write_text("{}")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(prepared.builders, "make", lambda name, path, told: made.append(told))
    for _ in range(2):  # trained once
        study._start(one, 1, tmp_path, lambda text: None)
    ((experiment, folder),) = trained
    assert (folder, [told.seed for told in made]) == (tmp_path / "start", [1])
    assert (experiment.data.builder, experiment.data.split) == (
        "phantom_demo/tiny_seed1",
        "patient",
    )
    assert (experiment.model.channels, experiment.train.epochs) == (3, 3)
    row = asking.detector(one, TOYS[1], 1, tmp_path)
    assert row.train.init_from == str(tmp_path / "start")
    assert row.train.init_patients == "others"  # other people, called the same
    own = asking.study(asked(sets, builder="sltd/coco"), tmp_path)
    assert asking.detector(own, TOYS[1], 1, tmp_path).train.init_from == ""

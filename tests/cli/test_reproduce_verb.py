"""`jaxdet reproduce` as a user meets it."""

import dataclasses
import json

import pytest

from jaxdet.cli.main import main
from jaxdet.study import multiphase, papers_gssd, scales, scales_gssd
from jaxdet.study import reproduce as study


def fails(capsys, *argv):
    """What is printed to stderr by a command that ends with code 2, without a traceback."""
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *map(str, argv)])
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in told.err
    return " ".join(told.err.replace("│", " ").split())


def row(name, title, printed, value):
    numbers = dict.fromkeys(study.METRICS, value)
    return {
        **{"name": name, "title": title, "m_px": None, "built": value is not None},
        "paper": {**{key: {"mean": printed, "sd": None} for key in study.METRICS}, "p": None},
        **({"mean": numbers, "sd": numbers, "folds": [{"fold": 0, **numbers}]} if value else {}),
        "tests": None,
    }


RESULT = {
    **{"table": "pca-table2", "scale": "tiny", "k": 2, "protocol": "yolo", "ddof": 1},
    "set": {"builder": "b/c", "patients": 6, "images": 12, "boxes": 20, "folds_digest": "0123"},
    "flags": {"side_px": 128, "yolo": "n", "seed": 0},
    "rows": [row("a", "Rival", 70.0, None), row("pca", "PCA-YOLO", 77.2, 0.5)],
    "lesion_free": {"why": "there are none", "rows": []},
    "figures": [{"figure": "attention.png", "why": "no map"}],
}


def test_flags_reach_the_study_and_the_table_is_printed(capsys, tmp_path, monkeypatch):
    seen = {}

    def reproduce(asked, out, *, resume, say):
        seen.update(dataclasses.asdict(asked), out=out, resume=resume)
        say("training")
        return RESULT

    monkeypatch.setattr(study, "reproduce", reproduce)
    flags = "--scale small --folds 2 --seed 3 --epochs 4 --siamese-epochs 5 --optimizer auto"
    rest = "--path sets --builder sltd/coco --rows yolov8 pca --resume"
    main(["reproduce", "pca-table2", "--out", str(tmp_path), *flags.split(), *rest.split()])
    told = capsys.readouterr()
    assert seen == {
        **{"table": "pca-table2", "scale": "small", "folds": 2, "seed": 3, "epochs": 4},
        **{"siamese_epochs": 5, "optimizer": "auto", "path": "sets", "builder": "sltd/coco"},
        **{"rows": ("yolov8", "pca"), "out": str(tmp_path), "resume": True},
    }
    assert told.err == "training\n"
    assert "not built" in told.out and "50.0 +- 50.0" in told.out and "77.2" in told.out
    assert "slices without a tumour: not counted, there are none" in told.out
    assert "attention.png: no map" in told.out and "figures\n" not in told.out


def test_without_a_table_the_scales_are_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "usage: jaxdet reproduce pca-table1|pca-table2|pca-table3" in told
    assert "|gssd-table1|gssd-table2|gssd-table3|gssd-tableS1|gssd-tableS2|gssd-fig5" in told
    for table in (scales.table(), scales_gssd.table()):
        for what, *words in table[1:]:
            (line,) = [line for line in told.splitlines() if line.startswith(what + "  ")]
            assert [word for word in words if word not in line] == []


def test_a_table_of_gssd_goes_to_its_own_study(capsys, tmp_path, monkeypatch):
    seen = {}
    trained = {"mean": dict.fromkeys(papers_gssd.EIGHT, 0.5)}
    trained["sd"] = dict.fromkeys(papers_gssd.EIGHT)
    split = {"patients": 3, "images": 9, "boxes": 9}
    rows = [
        {"title": row.title, "paper": row.paper, "state": "not built"}
        for row in papers_gssd.TABLE1[:2]
    ]
    rows[0] |= {"state": "trained", "seeds": [{}], "best": trained, "latest": trained}

    def reproduce(asked, out, *, resume, say):
        seen.update(dataclasses.asdict(asked), out=out, resume=resume)
        return {
            **{"table": "gssd-table1", "scale": "tiny", "protocol": "l0sg", "ddof": 1},
            "set": {
                "builder": "b/c",
                "digest": "0123",
                "train": split,
                "val": split,
                "test": split,
            },
            "flags": {"width": 0.25, "seed": 3},
            "metrics": list(papers_gssd.EIGHT),
            **{"registrations": {}, "rows": rows, "figures": [{"file": "a.png"}]},
        }

    monkeypatch.setattr(multiphase, "reproduce", reproduce)
    flags = "--seed 3 --seeds 2 --epochs 4 --path sets --builder b/c --rows gssd gssd_pp --resume"
    main(["reproduce", "gssd-table1", "--out", str(tmp_path), *flags.split()])
    assert seen == {
        **{"table": "gssd-table1", "scale": "tiny", "seed": 3, "seeds": 2, "epochs": 4},
        **{"path": "sets", "builder": "b/c", "rows": ("gssd", "gssd_pp")},
        **{"out": str(tmp_path), "resume": True},
    }
    told = capsys.readouterr().out
    assert "SSD" in told and "55.26" in told and "50.00" in told and "not built" in told
    assert "+-" not in told.split("IoBB50", 1)[1] and "  a.png" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["pca-table9"], "no table is called 'pca-table9'; there are pca-table1, pca-table2"),
        (["pca-table2", "--rows", "yolov9"], "pca-table2 has no row 'yolov9'; it has yolov8"),
        (["pca-table2", "--folds", "1"], "Data.folds wants 2 or more; got 1"),
        (["pca-table2", "--epochs", "0"], "Train.epochs wants 1 or more; got 0"),
        (["pca-table2", "--seed", "-1"], "wants 0 or more; got -1"),
        (["pca-table2", "--builder", "sltd/coco"], "there is no prepared set 'sltd/coco'"),
        (["pca-table2", "--scale", "huge"], "invalid choice 'huge'"),
        (["pca-table2", "--seeds", "3"], "--seeds says nothing to pca-table2: leave it out"),
        (["gssd-table1", "--folds", "3"], "--folds says nothing to gssd-table1: leave it out"),
        (["gssd-table1", "--siamese-epochs", "3"], "--siamese-epochs says nothing to gssd-table1"),
        (["gssd-table3", "--rows", "gssd"], "gssd-table3 has no row 'gssd'; it has gssd_pp"),
        (["gssd-table1", "--epochs", "0"], "Train.epochs wants 1 or more; got 0"),
        (["gssd-fig5", "--builder", "sltd/coco"], "there is no prepared set 'sltd/coco'"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(capsys, tmp_path, flags, message):
    assert message in fails(capsys, *flags, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_of_table_2_and_3(capsys, tmp_path):
    """One epoch of everything on the demo phantom: minutes."""
    flags = ["--out", str(tmp_path), "--folds", "2", "--epochs", "1", "--siamese-epochs", "1"]
    main(["reproduce", "pca-table2", *flags])
    told = capsys.readouterr().out
    assert "PCA against" in told and "false positives a slice on" in told
    content = json.loads((tmp_path / "pca-table2.json").read_text())
    assert all(row["built"] for row in content["rows"])
    assert [row["m_px"] for row in content["rows"]] == [None, 16, 16, 32, 64, 16]
    assert all("file" in one for one in content["figures"])
    main(["reproduce", "pca-table3", *flags, "--resume"])
    assert "AUROC" in capsys.readouterr().out

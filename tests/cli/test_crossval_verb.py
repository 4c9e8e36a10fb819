"""`jaxdet crossval` as a user meets it."""

import json

import pytest
import toy

from jaxdet.cli.main import main
from jaxdet.metrics.audit import audit, to_json
from jaxdet.study import crossval

CONFIG = """
import toy

def experiment():
    return toy.experiment(data={"phantom_patients": 6, "phantom_slices": 1})
"""

SIAMESE = """
import dataclasses, toy
from jaxdet.config import Patches
from jaxdet.models import siamese

def experiment():
    cfg = siamese.Config(input_size=72, head="flat", width=0.1, patches=Patches(side=16))
    return toy.experiment(cfg, data={"phantom_patients": 6, "phantom_slices": 1})
"""


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    toy.enlist(monkeypatch.setitem)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path / "config.py"


def fails(capsys, *argv):
    """What is printed to stderr by a command that ends with code 2, without a traceback."""
    with pytest.raises(SystemExit) as ended:
        main(["crossval", *map(str, argv)])
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in told.err
    return " ".join(told.err.replace("│", " ").split())


def test_help_explains_folds_and_lists(capsys, config):
    with pytest.raises(SystemExit) as ended:
        main(["crossval", str(config), "--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert ended.value.code == 0
    flags = ("--folds", "--seed", "--selection", "--against", "--resume", "--train.lr", "--out")
    assert [flag for flag in flags if flag not in told] == []
    assert "pooled" in told
    assert "flatters" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--folds", "7"], "7 folds want at least 7 patients; there are 6: ask for fewer"),
        (["--folds", "1"], "Data.folds wants 2 or more; got 1"),
        (["--selection", "best"], "nested"),
        (["--seed", "-1"], "Data.split_seed wants 0 or more; got -1"),
        (["--train.leraning-rate", "1"], "Train has no field 'leraning_rate'"),
        (["--folds", "2", "--against", "nowhere"], "nowhere is no finished cross-validation"),
        (["--folds", "2", "--train.init-from", "nowhere"], "nowhere is not a RUN"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(capsys, config, tmp_path, flags, message):
    assert message in fails(capsys, config, "--out", tmp_path / "cv", *flags)
    assert not (tmp_path / "cv").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--folds", "3", "--data.folds", "4"], "--folds says 3 and --data.folds says 4"),
        # Five is the default: what was typed counts, not what differs from the config.
        (["--data.folds=5", "--folds", "3"], "--folds says 3 and --data.folds says 5"),
        (["--seed", "1", "--data.split-seed", "2"], "--seed says 1 and --data.split-seed says 2"),
        (
            ["--selection", "nested", "--data.selection", "test_fold"],
            "--selection says nested and --data.selection says test_fold: give one of them",
        ),
    ],
)
def test_one_thing_said_twice_in_two_ways_is_refused(capsys, config, tmp_path, flags, message):
    assert message in fails(capsys, config, "--out", tmp_path / "cv", *flags)
    assert not (tmp_path / "cv").exists()


def test_a_siamese_network_has_no_boxes_to_score(capsys, tmp_path):
    (tmp_path / "config.py").write_text(SIAMESE)
    told = fails(capsys, tmp_path / "config.py", "--out", tmp_path / "cv", "--folds", 2)
    assert "a Siamese network has none: train it alone with `jaxdet train CONFIG`" in told
    assert "`jaxdet reproduce pca-table3`" in told
    assert not (tmp_path / "cv").exists()


def test_an_empty_out_is_refused(capsys, config):
    assert "a cross-validation wants a folder" in fails(capsys, config, "--out", "")


def test_without_a_config_the_usage_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["crossval", "--help"])
    told = capsys.readouterr().out
    assert "usage: jaxdet crossval CONFIG --out DIR [--folds 5] [--seed 0]" in told
    assert "[--selection nested|test_fold] [--against DIR ...] [--resume]" in told


def test_flags_reach_the_study_and_the_table_is_printed(capsys, config, tmp_path, monkeypatch):
    asked = {}

    def study(experiment, out, *, resume, against, say):
        asked.update(data=experiment.data, out=out, resume=resume, against=against)
        asked["lr"] = experiment.train.lr
        say("fold 0")
        rows = [
            {"fold": i, "images": 1, "patients": 1, "truths": 1}
            | dict.fromkeys((*crossval.METRICS, *crossval.OVERLAPS), 0.25 * i)
            for i in range(2)
        ]
        return {
            **{"k": 2, "selection": "test_fold", "folds_digest": "0123", "protocol": "coco"},
            **{"folds": rows, "against": [], **crossval.summarise(rows)},
            **{
                "split_unit": "patient",
                "test_share": 1.0,
                "audit": to_json(audit([], [], score_threshold=0.5)),
            },
        }

    monkeypatch.setattr(crossval, "crossval", study)
    flags = ["--folds", "2", "--seed", "7", "--selection", "test_fold", "--train.lr", "0.5"]
    against = ["--against", "a", "b", "--against", "c", "--resume"]
    main(["crossval", str(config), "--out", str(tmp_path / "cv"), *flags, *against])
    data = asked["data"]
    assert (data.folds, data.split_seed, data.selection) == (2, 7, "test_fold")
    assert (asked["lr"], asked["resume"], asked["against"]) == (0.5, True, ("a", "b", "c"))
    told = capsys.readouterr()
    assert "fold 0" in told.err
    assert "2 folds, selection test_fold, digest 0123" in told.out
    assert "these numbers flatter" in told.out
    main(["crossval", str(config), "--out", "x", "--data.folds", "2", "--data.fold", "1"])
    assert (asked["data"].folds, asked["data"].split_seed, asked["resume"]) == (2, 0, False)
    assert json.dumps(asked["against"]) == "[]"

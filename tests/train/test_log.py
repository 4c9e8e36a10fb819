"""What a run writes while it goes, and what is left of it after a kill."""

import json

from jaxdet.train import log


def rows(path):
    return [(row["epoch"], row["step"]) for row in log.read_rows(path / "train.jsonl")]


def test_rows_and_lines(tmp_path, capsys):
    logger = log.Log(tmp_path, 2, main=True, start_step=0)
    logger.epoch(0, 1, 4, 0)
    for step in range(1, 5):
        logger.step(0, step, {"total": 1.0 / step, "lr": 0.5})
    logger.row({"epoch": 0, "step": 4, "ap50": 0.25, "recall": None})
    logger.close()
    assert rows(tmp_path) == [(0, 2), (0, 4), (0, 4)]  # every second step, and the evaluation
    assert log.read_rows(tmp_path / "train.jsonl")[0] == {
        "epoch": 0,
        "step": 2,
        "total": 0.5,
        "lr": 0.5,
    }
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3  # no terminal: a line a row
    assert told[0].endswith("epoch 0 step 2 total 0.5 lr 0.5")
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_rows_behind_the_checkpoint_are_forgotten(tmp_path):
    first = log.Log(tmp_path, 1, main=True, start_step=0)
    for step in range(1, 6):
        first.step(0, step, {"total": 1.0})
    first.close()
    with open(tmp_path / "train.jsonl", "a") as file:
        file.write('{"epoch": 0, "step": 6, "tot')  # killed here
    again = log.Log(tmp_path, 1, main=True, start_step=3)
    assert rows(tmp_path) == [(0, 1), (0, 2), (0, 3)]
    again.step(0, 4, {"total": 2.0})
    again.close()
    assert log.read_rows(tmp_path / "train.jsonl")[-1] == {"epoch": 0, "step": 4, "total": 2.0}
    for line in (tmp_path / "train.jsonl").read_text().splitlines():
        json.loads(line)


def test_other_processes_are_silent(tmp_path, capsys):
    logger = log.Log(tmp_path, 1, main=False, start_step=0)
    logger.epoch(0, 1, 1, 0)
    logger.step(0, 1, {"total": 1.0})
    logger.say("hello")
    logger.close()
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_no_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(log.sys.stderr, "isatty", lambda: True, raising=False)
    logger = log.Log(tmp_path, 1, main=True, start_step=0)
    logger.epoch(1, 3, 2, 1)
    assert (logger.bar.n, logger.bar.total) == (1, 2)  # resumed inside the epoch
    logger.step(1, 4, {"total": 1.0})
    assert logger.bar.n == 2
    logger.finish_bar()
    logger.close()
    told = capsys.readouterr().err
    assert "epoch 2/3" in told
    assert "step 4 total" not in told


def test_no_file_has_no_rows(tmp_path):
    assert log.read_rows(tmp_path / "train.jsonl") == []

"""Two processes with two devices each are one run: the same steps, one RUN, one evaluation."""

import json
import signal
import socket
import subprocess
import time

import child
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import toy

from jaxdet import run as runs
from jaxdet.train import log

# A toy through the real loop, then every process keeps what it believes all detections to be.
TOY = """
import sys
import numpy as np
import toy
from jaxdet import run as runs
from jaxdet.data import sources
from jaxdet.train import evaluate, loop, parallel

parallel.start_processes()
toy.enlist()
out, flags = sys.argv[1], sys.argv[2:]
experiment = toy.experiment(epochs=3, nominal_batch=16, data={"fractions": (0.7, 0.3, 0.0)})
run = loop.train(experiment, out, resume="--resume" in flags)
dataset = sources.load(experiment.data, "val")
detect = parallel.map_detect(run.detector().detect)
weights = parallel.replicate(run.weights("latest"))
found = evaluate.detect_all(detect, weights, dataset, experiment, progress=False)
np.savez(f"{out}_{parallel.process()[0]}.npz", **found._asdict())
"""

CONFIG = """
import toy
from jaxdet import models

def experiment():
    model = models.config("yolov8n", channels=1, num_classes=1)
    # No warm-up of the rate of biases: a gradient of nothing but rounding must not move them.
    return toy.experiment(model, epochs=2, optimizer="sgd", lr=0.001)
"""


def start_two(program, arguments, folder):
    """Two processes with two devices each that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        child.start(
            program,
            arguments,
            2,
            folder / f"{i}.log",
            JAXDET_COORDINATOR=place,
            JAXDET_PROCESSES="2",
            JAXDET_PROCESS=str(i),
        )
        for i in range(2)
    ]


def finish(processes, folder, seconds=180):
    """The exit codes; nothing is left running."""
    try:
        until = time.monotonic() + seconds
        return [p.wait(timeout=max(until - time.monotonic(), 0.1)) for p in processes]
    except subprocess.TimeoutExpired:
        pytest.fail(f"no end after {seconds} s:\n{said(folder)}")
    finally:
        for process in processes:
            process.kill()


def said(folder):
    return "\n".join(p.name + ": " + p.read_text()[-2000:] for p in sorted(folder.glob("*.log")))


def state_of(path):
    """The state of the last checkpoint."""
    with runs.open_run(path).manager(read_only=True) as manager:
        parts = ocp.args.Composite(state=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=parts)["state"]


def assert_close(a, b, tolerance):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        scale = max(np.abs(y).max(), 1e-3)
        assert np.abs(x - y).max() <= tolerance * scale, jax.tree_util.keystr(path)


def test_two_processes_are_one_run(tmp_path, monkeypatch):
    toy.enlist(monkeypatch.setitem)
    one, two = tmp_path / "one", tmp_path / "two"
    alone = child.start(TOY, [one], 4, tmp_path / "alone.log")
    pair = start_two(TOY, [two], tmp_path)
    assert finish([alone, *pair], tmp_path) == [0, 0, 0], said(tmp_path)

    for field in ("params", "ema", "batch_stats"):
        assert_close(state_of(two)[field], state_of(one)[field], 1e-5)
    rows = [log.read_rows(path / "train.jsonl") for path in (one, two)]
    assert len(rows[0]) == len(rows[1]) == 9  # six steps, three evaluations; written once
    for a, b in zip(*rows, strict=True):
        assert a.keys() == b.keys()
        assert list(a.values()) == pytest.approx(list(b.values()), rel=1e-4)
    assert (two / "pictures" / "contact_sheet.png").exists()
    assert "] epoch 2 step 6 " in (tmp_path / "0.log").read_text()
    assert "] epoch " not in (tmp_path / "1.log").read_text()

    wanted, *both = (np.load(f"{path}.npz") for path in (f"{one}_0", f"{two}_0", f"{two}_1"))
    assert len(wanted["scores"]) % 4  # the shares and their last batches are not full
    assert len(np.unique(wanted["scores"])) == len(wanted["scores"])  # so order is seen
    for got in both:
        for field in ("boxes_xyxy", "scores", "labels"):
            np.testing.assert_allclose(got[field], wanted[field], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_at_the_same_step(tmp_path, monkeypatch):
    toy.enlist(monkeypatch.setitem)
    program = TOY.replace("epochs=3", "epochs=300, evaluate_every=300, patience=0")
    pair = start_two(program, [tmp_path / "run"], tmp_path)
    until = time.monotonic() + 120
    while not log.read_rows(tmp_path / "run" / "train.jsonl"):
        assert pair[0].poll() is None and time.monotonic() < until, said(tmp_path)
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGTERM)
    assert finish(pair, tmp_path) == [143, 143], said(tmp_path)
    stopped = int(state_of(tmp_path / "run")["step"])
    assert 0 < stopped < 600
    assert log.read_rows(tmp_path / "run" / "train.jsonl")[-1]["step"] == stopped

    # What is a RUN already is refused by both, and neither waits for the other.
    assert finish(start_two(program, [tmp_path / "run"], tmp_path), tmp_path, 60) == [1, 1]
    for i in range(2):
        assert "is a RUN already: add --resume" in (tmp_path / f"{i}.log").read_text()


@pytest.mark.slow
def test_the_command_trains_yolov8_in_two_processes(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["train", tmp_path / "config.py", "--out"]
    assert finish(
        [child.start(child.COMMAND, [*command, one], 4, tmp_path / "alone.log")], tmp_path, 400
    ) == [0]
    pair = start_two(child.COMMAND, [*command, two], tmp_path)
    assert finish(pair, tmp_path, 400) == [0, 0], said(tmp_path)
    for field in ("params", "ema"):
        assert_close(state_of(two)[field], state_of(one)[field], 1e-5)
    ours, theirs = (json.loads((p / "metrics" / "val.json").read_text()) for p in (two, one))
    assert ours["ap50"] == pytest.approx(theirs["ap50"], abs=1e-3)
    assert (two / "pictures" / "curves.png").exists()
    assert "AP, protocol yolo" in (tmp_path / "0.log").read_text()
    assert "AP, protocol" not in (tmp_path / "1.log").read_text()

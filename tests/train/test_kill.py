"""A run that is killed again and again ends with the bytes of one that was not."""

import pathlib
import random
import signal
import subprocess
import time

import child
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxdet import run as runs
from jaxdet.train import log

pytestmark = pytest.mark.slow

CONFIG = """
import toy
from jaxdet import models

def experiment():
    model = models.config("yolov8n", channels=1, num_classes=1)
    return toy.experiment(model, epochs=6, nominal_batch=16, warmup_epochs=1.0, lr=0.002)
"""
STEPS = 12  # two an epoch


class Command:
    """`jaxdet train` on fake devices, and what its RUN says meanwhile."""

    def __init__(self, folder: pathlib.Path, devices: int, name: str = "run"):
        self.path, self.devices = folder / name, devices
        self.config = folder / "config.py"
        self.config.write_text(CONFIG)

    def start(self, *flags: str) -> subprocess.Popen:
        argv = ["train", self.config, "--out", self.path, *flags]
        return child.start(child.COMMAND, argv, self.devices, self.path.with_suffix(".log"))

    def finish(self, *flags: str) -> int:
        return self.start(*flags).wait(timeout=400)

    def step(self) -> int:
        """The last step that train.jsonl tells of."""
        return max((r["step"] for r in log.read_rows(self.path / "train.jsonl")), default=0)

    def saving(self) -> bool:
        """Whether a checkpoint is being written right now."""
        folder = self.path / "checkpoints"
        return folder.is_dir() and any("tmp" in p.name for p in folder.iterdir())

    def last(self):
        """The state of the last checkpoint and its progress."""
        with runs.open_run(self.path).manager(read_only=True) as manager:
            parts = {"state": ocp.args.StandardRestore(), "meta": ocp.args.JsonRestore()}
            kept = manager.restore(manager.latest_step(), args=ocp.args.Composite(**parts))
        return kept["state"], kept["meta"]

    def told(self) -> str:
        return self.path.with_suffix(".log").read_text()[-3000:]


def wait_until(happens, process: subprocess.Popen, command: Command) -> None:
    until = time.monotonic() + 300
    while not happens():
        assert process.poll() is None, command.told()
        assert time.monotonic() < until, command.told()
        time.sleep(0.002)


def assert_same_bytes(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    leaves = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    wrong = [
        jax.tree_util.keystr(path)
        for (path, x), y in leaves
        if np.asarray(x).tobytes() != np.asarray(y).tobytes()
    ]
    assert not wrong, f"{len(wrong)} arrays differ, such as {wrong[:5]}"


@pytest.fixture(scope="module", params=[1, 8])
def straight(request, tmp_path_factory):
    """A run on 1 or 8 devices that nobody disturbed."""
    command = Command(tmp_path_factory.mktemp(f"straight{request.param}"), request.param)
    assert command.finish() == 0, command.told()
    assert command.last()[1]["step"] == STEPS
    return command


def kill(command: Command, when: str, delay: float) -> bool:
    """Resumes, kills the run a step or more later or while it saves; False when it ended before."""
    before, process = command.step(), command.start("--resume")
    if when == "saving":
        wait_until(command.saving, process, command)
    else:
        wait_until(lambda: command.step() > before + 1, process, command)
        time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait(timeout=60) == -signal.SIGKILL


def test_killed_at_any_time_it_resumes_to_the_same_bytes(straight, tmp_path):
    command, rng, half = Command(tmp_path, straight.devices), random.Random(0), 0
    # A step and up to a second: in training, evaluation or saving. Each run does an epoch or two.
    for when in ("step", "saving", "step", "saving"):
        assert kill(command, when, rng.uniform(0, 1))
        half += command.saving()
    assert half  # a checkpoint that was being written lies there
    assert command.finish("--resume") == 0, command.told()
    assert_same_bytes(command.last(), straight.last())
    rows = [log.read_rows(c.path / "train.jsonl") for c in (command, straight)]
    assert rows[0] == rows[1]


def test_sigterm_saves_at_a_step_and_ends_with_143(straight, tmp_path):
    command = Command(tmp_path, straight.devices)
    process = command.start()
    wait_until(lambda: command.step() >= 2, process, command)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143, command.told()
    state, meta = command.last()
    assert int(state["step"]) == meta["step"] == command.step() < STEPS
    assert command.finish("--resume") == 0, command.told()
    assert_same_bytes(command.last(), straight.last())


def test_a_run_of_eight_devices_goes_on_with_one(straight, tmp_path):
    if straight.devices == 1:
        pytest.skip("the other way round is the same")
    command = Command(tmp_path, 8)
    assert command.finish("--train.epochs", "2") == 0, command.told()
    before = command.last()[1]["step"]
    command.devices = 1
    assert command.finish("--resume", "--train.epochs", "3") == 0, command.told()
    assert (before, command.last()[1]["step"]) == (4, 6)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(command.last()[0]))

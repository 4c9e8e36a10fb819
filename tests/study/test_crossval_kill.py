"""`jaxdet crossval` that is killed again and again prints the whole table of one that was not."""

import pathlib
import shutil
import signal
import subprocess
import time

import child
import pytest

pytestmark = pytest.mark.slow

CONFIG = """
import toy

def experiment():
    data = {"phantom_patients": 6, "phantom_slices": 2}
    return toy.experiment(data=data, epochs=40, batch_size=2, nominal_batch=2)

toy.enlist()
"""


class Command:
    """The command on one device, and what lies in its folder meanwhile."""

    def __init__(self, folder: pathlib.Path):
        self.out, self.log = folder / "cv", folder / "log"
        self.config = folder / "config.py"
        self.config.write_text(CONFIG)

    def start(self, *flags: str) -> subprocess.Popen:
        argv = ["crossval", self.config, "--out", self.out, "--folds", 3, *flags]
        return child.start(child.COMMAND, argv, 1, self.log)

    def finish(self, *flags: str) -> int:
        return self.start(*flags).wait(timeout=300)

    def told(self) -> str:
        return self.log.read_text()

    def table(self) -> list[str]:
        """The last lines: the title of the table and what follows."""
        lines = self.told().splitlines()
        first = max(i for i, line in enumerate(lines) if line.startswith("3 folds, selection"))
        return lines[first:]

    def rows(self, fold: int) -> int:
        """How much the RUN of a fold has told of so far."""
        file = self.out / f"fold_{fold}" / "train.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def kill_when(self, happens, how: signal.Signals, *flags: str) -> int:
        process, until = self.start(*flags), time.monotonic() + 200
        while not happens():
            assert process.poll() is None, self.told()[-3000:]
            assert time.monotonic() < until, self.told()[-3000:]
            time.sleep(0.002)
        process.send_signal(how)
        return process.wait(timeout=60)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    command = Command(tmp_path_factory.mktemp("straight"))
    assert command.finish() == 0, command.told()[-3000:]
    return command


def test_killed_and_resumed_it_prints_the_whole_table(straight, tmp_path):
    command = Command(tmp_path)
    assert command.kill_when(lambda: command.rows(0) > 5, signal.SIGKILL) == -signal.SIGKILL
    assert command.finish() == 2
    assert "is a cross-validation already: add --resume" in command.told()
    at = command.rows(0) + 5
    killed = command.kill_when(lambda: command.rows(0) > at, signal.SIGKILL, "--resume")
    assert killed == -signal.SIGKILL
    scored = command.out / "fold_0" / "metrics" / "val.json"
    killed = command.kill_when(scored.exists, signal.SIGKILL, "--resume")
    assert killed == -signal.SIGKILL
    ended = command.kill_when(lambda: command.rows(1) > 5, signal.SIGTERM, "--resume")
    assert ended == 143, command.told()[-3000:]
    assert command.finish("--resume") == 0, command.told()[-3000:]
    for name in ("folds.json", "crossval.json"):
        assert (command.out / name).read_bytes() == (straight.out / name).read_bytes()
    assert command.table() == straight.table()
    assert [line.split()[0] for line in command.table()[2:8]] == [
        *("fold", "fold", "fold", "fold"),
        *("mean", "+-"),
    ]


def test_against_after_the_fact_only_prints(straight, tmp_path):
    before = straight.told()
    other = shutil.copytree(straight.out, tmp_path / "other")
    assert straight.finish("--resume", "--against", str(other)) == 0
    told = straight.told().removeprefix(before)
    assert f"against {other}: p-values of paired tests" in told
    assert "n/a (all differences are 0)" in told
    assert "training into" not in told

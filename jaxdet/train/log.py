"""What a run says while it goes: JSON lines, TensorBoard, and a progress bar or log lines."""

import json
import pathlib
import sys
import time
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm


class Log:
    """Writes rows to RUN/train.jsonl and TensorBoard, and shows progress.

    On a terminal a bar a epoch; elsewhere (a cluster's log file) a line every `every` steps. With
    `main=False`, in all processes but the first, nothing is written or shown.
    """

    def __init__(self, path: pathlib.Path, every: int, *, main: bool, start_step: int):
        self.path, self.every, self.main = path / "train.jsonl", every, main
        self.terminal = main and sys.stderr.isatty()
        self.bar: tqdm | None = None
        self.since = time.monotonic()
        if main:
            # Rows behind the checkpoint that a resumed run starts from will be written again.
            kept = [r for r in read_rows(self.path) if r["step"] <= start_step]
            part = self.path.with_name(self.path.name + ".part")
            part.write_text("".join(json.dumps(row) + "\n" for row in kept))
            part.replace(self.path)
            self.board = SummaryWriter(
                str(path / "tensorboard"), purge_step=start_step, write_to_disk=True
            )

    def epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """A new epoch starts, `done` of its steps being there already."""
        self.finish_bar()
        if self.terminal:
            title = f"epoch {epoch + 1}/{epochs}"
            self.bar = tqdm(total=steps, initial=done, desc=title, leave=False)

    def step(self, epoch: int, step: int, scalars: dict[str, float]) -> None:
        """One training step; kept every `every` steps."""
        if self.bar is not None:
            self.bar.update()
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in scalars.items()}, refresh=False)
        if step % self.every == 0:
            self.row({"epoch": epoch, "step": step, **scalars})

    def row(self, row: dict[str, Any]) -> None:
        """One row for every writer. Rows have "epoch" and "step"; the rest are numbers."""
        if not self.main:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name not in ("epoch", "step") and value is not None:
                self.board.add_scalar(name, value, row["step"])
        if not self.terminal:
            told = " ".join(f"{k} {v:.5g}" for k, v in row.items() if isinstance(v, (int, float)))
            self.say(f"[{time.monotonic() - self.since:7.1f} s] {told}")

    def say(self, text: str) -> None:
        """A message between the progress."""
        if self.main:
            tqdm.write(text, file=sys.stderr)

    def finish_bar(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def close(self) -> None:
        """Flushes every writer."""
        self.finish_bar()
        if self.main:
            self.board.close()


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a train.jsonl; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows

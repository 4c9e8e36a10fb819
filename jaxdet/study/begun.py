"""The folder of a reproduction: was it begun, with what, and who writes into it.

OUT/reproduce.json     what decides the numbers: the scale with all overrides
OUT/.lock              who is at work, while somebody is
"""

import contextlib
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from jaxdet import run as runs
from jaxdet.study import kept
from jaxdet.train import parallel

FORMAT = 1
FLAGS = "reproduce.json"
BEFORE_TRAINING = (".lock", FLAGS, f"{FLAGS}.part", "folds.json", "sets")


def refuse_changes(
    path: pathlib.Path, flags: Mapping[str, Any], resume: bool, movable: Collection[str]
) -> None:
    """What is there already was made by the same call, but for the table and its rows.

    `flags` in `movable` may differ. ValueError: a folder of somebody else, one that was begun
    without `resume`, other flags.
    """
    if not begun(path):
        return
    ours = path / FLAGS
    if not ours.is_file():
        raise ValueError(
            f"{path} is there and was not made by `jaxdet reproduce`: it has no {FLAGS}."
            " Choose another --out"
        )
    if not resume:
        raise ValueError(
            f"{path} holds a reproduction already: add --resume to go on or to add another table,"
            " or choose another --out"
        )
    before = kept.read(ours, "Choose another --out, or remove that folder")
    changed = changes(before, {"format": FORMAT, **flags}, movable)
    if changed:
        raise ValueError(f"{path} was made with other flags or recipes:\n" + "\n".join(changed))


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], movable: Collection[str]
) -> list[str]:
    """A line for every flag that decides a number and was another before."""
    return [
        f"  {name}: was {before.get(name)!r}, now {now[name]!r}"
        for name in now
        if name not in movable and before.get(name) != now[name]
    ]


def begun(path: pathlib.Path) -> bool:
    """Whether something was trained there, or the folder is somebody else's."""
    if not path.is_dir():
        return path.exists()
    return any(file.name not in BEFORE_TRAINING for file in path.iterdir())


def by_first(file: pathlib.Path, content: dict[str, Any]) -> None:
    """A JSON file, written by the first process while the others wait."""
    if parallel.process()[0] == 0:
        runs.write_json(file, content)
    parallel.wait(f"{file.name} is written")


def alone_in(path: pathlib.Path) -> contextlib.AbstractContextManager:
    """The folder's lock, which the first process holds for all."""
    return runs.locked(path) if parallel.process()[0] == 0 else contextlib.nullcontext()

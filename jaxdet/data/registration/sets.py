"""A whole set registered to its portal phase: over processes, one file a case, resumable.

cases -> register_all() -> folder/settings.json, 00000.npz, 00001.npz ... -> read() -> CtSlice
"""

import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import zipfile
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, runtime_checkable

import numpy as np

from jaxdet.data.registration.pair import BACKENDS, METHODS
from jaxdet.data.registration.portal import to_portal
from jaxdet.types import CtSlice

_ARRAYS = ("hu", "boxes_xyxy", "labels", "diameters_mm", "lesions", "livers", "displacement_mm")
_SETTINGS = "settings.json"


@runtime_checkable
class Cases(Protocol):
    """What has a length and gives the case of a position: a list, or a reader of a prepared set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> CtSlice: ...


_cases: Cases = ()  # of a worker process: sent once, not with every task


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the files of a folder were made with; one folder, one of these."""

    method: str  # of METHODS
    source: str  # which cases: a name, version and seed that say when they are the same
    per_slice: bool = True
    backend: str = "sitk"
    seed: int = 0


def register_all(
    cases: Cases,
    folder: str | os.PathLike,
    settings: Settings,
    *,
    workers: int = 1,
    progress: bool = True,
) -> list[pathlib.Path]:
    """Register every case into `folder`; the files, in the order of the cases.

    `cases` is a list, or anything with a length and cases by position that can be pickled: it is
    sent to each worker once, so one that reads a case when it is asked keeps the memory small.
    Files that are there already are kept, so an interrupted call goes on where it stopped; a
    folder of other settings or another number of cases is a ValueError. The result does not depend
    on `workers`: each is a fresh process (spawned: a script calls this under
    `if __name__ == "__main__"`) that works on one thread. A case that fails stops the rest.
    """
    folder, count = pathlib.Path(folder), len(cases)
    _check(settings, workers)
    _claim(folder, settings, count)
    files = [folder / f"{i:05d}.npz" for i in range(count)]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    done = _here(cases, missing, folder, settings)
    if workers > 1 and len(missing) > 1:
        done = _elsewhere(cases, missing, folder, settings, min(workers, len(missing)))
    if progress:
        from tqdm import tqdm

        done = tqdm(
            done, desc=settings.method, total=count, initial=count - len(missing), unit="case"
        )
    for _ in done:
        pass
    return files


def read(file: str | os.PathLike) -> CtSlice:
    """A case as `register_all` wrote it; a file that is missing or broken is a ValueError."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "rest"}
            rest = json.loads(str(stored["rest"]))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: no case of a registered set: {error}; delete it") from None
    rest |= {name: tuple(rest[name]) for name in ("spacing_mm", "phases")}
    return CtSlice(**{name: arrays.get(name) for name in _ARRAYS}, **rest)


def _check(settings: Settings, workers: int) -> None:
    if settings.method not in METHODS or settings.backend not in BACKENDS:
        raise ValueError(
            f"wanted a method of {', '.join(METHODS)} and a backend of {', '.join(BACKENDS)}; got"
            f" {settings.method!r} and {settings.backend!r}"
        )
    if workers < 1:
        raise ValueError(f"registration wants 1 worker or more; got {workers}")


def _claim(folder: pathlib.Path, settings: Settings, count: int) -> None:
    """Write the settings, or refuse a folder that has others."""
    wanted = dataclasses.asdict(settings) | {"cases": count}
    file = folder / _SETTINGS
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.npz")):
            raise ValueError(f"{folder}: has .npz files and no {_SETTINGS}; name an empty folder")
        _replace(file, json.dumps(wanted, indent=2).encode())
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is no JSON ({error}); name another folder") from None
    if found != wanted:
        raise ValueError(
            f"{folder}: was begun with {json.dumps(found)}, and now {json.dumps(wanted)} is asked"
            " for; name another folder, or delete it"
        )


def _here(
    cases: Cases, which: list[int], folder: pathlib.Path, settings: Settings
) -> Iterator[int]:
    for i in which:
        yield _one(cases, i, folder, settings)


def _elsewhere(
    cases: Cases, which: list[int], folder: pathlib.Path, settings: Settings, n: int
) -> Iterator[int]:
    with futures.ProcessPoolExecutor(
        n, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(cases,)
    ) as pool:
        tasks = [pool.submit(_task, i, folder, settings) for i in which]
        try:
            for task in futures.as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            error.add_note(
                "a worker process ended early: too little memory, or a script without"
                ' `if __name__ == "__main__"`; what is done is kept, so run it again'
            )
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(cases: Cases) -> None:
    global _cases
    import cv2

    cv2.setNumThreads(1)  # the backends see to their own
    _cases = cases


def _task(index: int, folder: pathlib.Path, settings: Settings) -> int:
    return _one(_cases, index, folder, settings)


def _one(cases: Cases, index: int, folder: pathlib.Path, settings: Settings) -> int:
    chosen = {"per_slice": settings.per_slice, "backend": settings.backend, "seed": settings.seed}
    _write(folder / f"{index:05d}.npz", to_portal(cases[index], settings.method, **chosen))
    return index


def _write(file: pathlib.Path, case: CtSlice) -> None:
    values = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
    arrays = {n: values.pop(n) for n in _ARRAYS if values[n] is not None}
    rest = {n: v for n, v in values.items() if n not in _ARRAYS}
    content = io.BytesIO()
    np.savez_compressed(content, rest=np.array(json.dumps(rest)), **arrays)
    _replace(file, content.getvalue())


def _replace(file: pathlib.Path, content: bytes) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(content)
    os.replace(part, file)  # a file under its own name is whole

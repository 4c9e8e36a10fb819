"""Patients made or read side by side and given on in order, whatever the number of workers."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxdet.data import folds
from jaxdet.data.builders.store import WHOLE
from jaxdet.types import CtSlice

PARTS = ("train", "val", "test")
MOST_WORKERS = 8  # unless asked for more: a patient of the four-phase set takes about 130 MB


@dataclasses.dataclass(frozen=True)
class Patient:
    """What was made or read of one patient."""

    slices: Sequence[CtSlice]
    notes: dict[str, int] = dataclasses.field(default_factory=dict)  # faults by kind, counted


@dataclasses.dataclass(frozen=True)
class Plan:
    """A set that can be made: its patients, where each belongs, and what makes its slices."""

    name: str  # "phantom_sltd/tiny"
    patients: tuple[str, ...]  # in the order in which they are written
    splits: tuple[str, ...]  # of each patient
    cases: Callable[[int], Patient]  # patient number n; goes to other processes
    metadata: dict[str, Any]
    workers: int | None = None  # None: one a core, MOST_WORKERS at most
    every_patient: bool = False  # one that gives no slice is an error: the split counted it


def examples(
    plan: Plan, workers: int | None = None, notes: dict[str, dict[str, int]] | None = None
) -> Iterator[tuple[str, CtSlice]]:
    """(split, slice) of every patient in order, with a progress bar, made by so many processes.

    At most one patient more than there are workers is held, so memory does not grow with the set.
    With one worker everything happens in this process. Notes of the patients are put into `notes`
    as they come: kind -> patient -> count. Patients without a slice, where the plan wants one of
    every patient, are a ValueError that names them all, raised behind the last slice.
    """
    import tqdm

    count = workers or plan.workers or min(os.cpu_count() or 1, MOST_WORKERS)
    bar = tqdm.tqdm(
        list(zip(plan.patients, plan.splits, strict=True)),
        desc=plan.name,
        unit="patient",
        disable=None,
    )
    empty: dict[str, None] = {}
    with contextlib.closing(_made(plan, min(count, len(plan.patients)))) as made:
        for (patient, split), own in zip(bar, made, strict=True):
            for kind, times in own.notes.items():
                (notes if notes is not None else {}).setdefault(kind, {})[patient] = times
            if not own.slices:
                empty[patient] = None
            for one in own.slices:
                yield split, one
    if empty and plan.every_patient:
        raise ValueError(
            f"{plan.name}: {len(empty)} of {len(plan.patients)} patients have no data point:"
            f" {', '.join(empty)}. The official split counts patients with data points only: take"
            " them out of the folder"
        )


def official(patients: Sequence[str]) -> tuple[str, ...]:
    """The split of each patient by the official rule; all in one where they are too few for it."""
    if len(set(patients)) < folds.OFFICIAL_LEAST:
        return (WHOLE,) * len(patients)
    return tuple(PARTS[part] for part in folds.official(patients))


def _made(plan: Plan, workers: int) -> Iterator[Patient]:
    numbers = range(len(plan.patients))
    if workers <= 1:
        yield from map(plan.cases, numbers)
        return
    # Spawned: a fork of a process with threads (grain's, JAX's) may hang.
    context = multiprocessing.get_context("spawn")
    with (
        _one_thread_each(),
        concurrent.futures.ProcessPoolExecutor(workers, context, _begin) as pool,
    ):
        ahead: collections.deque = collections.deque()
        try:
            for number in numbers:
                ahead.append(pool.submit(plan.cases, number))
                if len(ahead) > workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start in here have one BLAS thread: as many as the cores are processes."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin() -> None:
    import cv2

    cv2.setNumThreads(1)

"""Whom a RUN was trained on, and the refusal to score it on them."""

import re
import warnings
from typing import Any, Literal

from jaxdet.config import Data
from jaxdet.data.sources import Dataset, Record
from jaxdet.run import Run, open_run

_TOLD = 5  # patients that an error names


def trained_on(cfg: Data, dataset: Dataset, start: Run | None = None) -> list[str]:
    """The patients of a training split, sorted: `trained_on` of run.json.

    Those of the RUN that the first weights are from belong to them if it was trained on the same
    data; the names of other data would mean other people. A start that does not know adds none.
    """
    same = start is not None and _same_data(cfg, start.experiment.data)
    before = start.facts.get("trained_on") or () if same else ()
    return sorted({record.patient for record in dataset.records} | set(before))


def check_unseen(
    run: Run, dataset: Dataset, *, other_data: bool = False
) -> Literal["unseen", "training", "unknown"]:
    """Refuses a data set with a patient whom the RUN was trained on; says what was found.

    "unseen": nobody of the data set is in the RUN's `trained_on`. "training": not checked, for it
    is the RUN's own training split, scored on purpose. "unknown": the RUN is imported or older than
    `trained_on`, so nothing could be checked. Patients of val chose the weights and are not
    refused: that is what val means. Names count, apart from capitals and spaces at their ends. An
    image whose patient is not known, as in lists without a pattern, is looked at through the
    data.patient_pattern of run.json as well (`run.experiment` may be that of other data).
    """
    if "trained_on" not in run.facts:
        return "unknown"
    if dataset.split == "train" and not other_data:
        return "training"
    found = _met(run, dataset)
    if found:
        raise ValueError(
            f"{run.path} was trained on {_told(found, dataset)}: their scores say nothing about"
            " new ones. Score the val or test split of the data it was trained on, or other data;"
            " if those hold other people of the same names, say --other-patients"
        )
    return "unseen"


def check_start(start: Run, cfg: Data, dataset: Dataset) -> None:
    """Refuses first weights that know patients of a split that is to be scored.

    Where the start was trained on other data, equal names may be other people: a warning.
    """
    found = _met(start, dataset)
    if not found:
        return
    told = f"train.init_from: {start.path} was trained on {_told(found, dataset)}"
    if _same_data(cfg, start.experiment.data):
        raise ValueError(
            f"{told}, so its scores would flatter. Begin with a RUN of the same split, or with"
            " fresh weights"
        )
    warnings.warn(f"{told}, if these are the same people: its data are others", stacklevel=2)


def _met(run: Run, dataset: Dataset) -> list[str]:
    """Patients of the data set that the RUN was trained on, sorted."""
    pattern = open_run(run.path).experiment.data.patient_pattern
    seen = {_plain(name) for name in run.facts.get("trained_on", ())}
    names = {name for record in dataset.records for name in _names(record, pattern)}
    return sorted(name for name in names if _plain(name) in seen)


def _same_data(a: Data, b: Data) -> bool:
    names = ("source", "path", "builder", *(("seed",) if a.source == "phantom" else ()))
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _names(record: Record, pattern: str) -> list[str]:
    found: Any = re.search(pattern, record.name) if pattern else None
    hidden = record.patient == record.name and found and found.re.groups and found[1] is not None
    return [record.patient, found[1]] if hidden else [record.patient]


def _plain(name: str) -> str:
    return name.strip().casefold()


def _told(names: list[str], dataset: Dataset) -> str:
    first = ", ".join(names[:_TOLD]) + (" ..." if len(names) > _TOLD else "")
    return f"{len(names)} of the patients of this {dataset.split} split ({first})"

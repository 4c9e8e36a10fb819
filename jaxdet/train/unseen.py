"""Whom and what a RUN was trained on, and the refusal to score it on them or on changed data."""

import re
from typing import Any, Literal

from jaxdet.config import Data
from jaxdet.data import manifest, sources
from jaxdet.data.sources import Dataset, Record, plain
from jaxdet.run import Run, open_run

_TOLD = 5  # patients that an error names


def trained_on(dataset: Dataset, start: Run | None = None) -> list[str]:
    """The patients of a training split, sorted: `trained_on` of run.json.

    All of the RUN that the first weights are from belong to them, whatever its data were called: a
    split may come back under another path, and through a RUN of other data. A start that does not
    know adds none.
    """
    before = (start.facts.get("trained_on") or ()) if start else ()
    return sorted({record.patient for record in dataset.records} | set(before))


def digests(cfg: Data, train: Dataset, val: Dataset) -> dict[str, str]:
    """What run.json, every checkpoint and every metrics file say of the split."""
    told = {"split_digest": sources.digest(train, val)}
    if cfg.split == "fold":
        told["folds_digest"] = manifest.manifest(cfg)["digest"]
    return told


def check_unchanged(run: Run) -> None:
    """Refuses the RUN's own data if they, or their split, are no longer those of its training."""
    kept, cfg = run.digests, run.experiment.data
    if not kept:
        return
    now = digests(cfg, *(sources.load(cfg, split) for split in ("train", "val")))
    if any(now.get(name) != digest for name, digest in kept.items()):
        raise ValueError(
            f"{run.path}: the images of {cfg.path or cfg.source}, their truth or their split have"
            " changed since training, so held-out may be no longer held out. Give the data it was"
            " trained on, or lists of their own with --source"
        )


def check_unseen(
    run: Run, dataset: Dataset, *, other_data: bool = False
) -> Literal["unseen", "training", "split by slice", "unknown"]:
    """Refuses a data set with a patient whom the RUN was trained on; says what was found.

    "unseen": nobody of the data set is in the RUN's `trained_on`. "training": not checked, for it
    is the RUN's own training split, scored on purpose. "split by slice": not checked, for its own
    data were dealt by image (data.split_unit), patients on both sides. "unknown": the RUN is
    imported or older than `trained_on`, so nothing could be checked. Patients of val chose the
    weights and are not refused: that is what val means. Names count, apart from capitals and spaces
    at their ends. An image whose patient is not known, as in lists without a pattern, is looked at
    through the data.patient_pattern of run.json as well (`run.experiment` may be that of other
    data).
    """
    if "trained_on" not in run.facts:
        return "unknown"
    if dataset.split == "train" and not other_data:
        return "training"
    own = run.experiment.data
    if not other_data and (own.split, own.split_unit) == ("fold", "slice"):
        return "split by slice"
    found = _met(run, dataset)
    if found:
        raise ValueError(
            f"{run.path} was trained on {_told(found, dataset)}: their scores say nothing about"
            " new ones. Score the val or test split of the data it was trained on, or other data;"
            " if those hold other people of the same names, say --other-patients"
        )
    return "unseen"


def check_start(start: Run, dataset: Dataset) -> None:
    """Refuses first weights that know patients, by name, of a split that is to be scored."""
    found = _met(start, dataset)
    if found:
        raise ValueError(
            f"train.init_from: {start.path} was trained on {_told(found, dataset)}, so its scores"
            " would flatter. Begin with a RUN of the same split, or with fresh weights; if it was"
            ' trained on other people of the same names, say train.init_patients="others"'
        )


def _met(run: Run, dataset: Dataset) -> list[str]:
    """Patients of the data set that the RUN was trained on, sorted."""
    pattern = open_run(run.path).experiment.data.patient_pattern
    seen = {plain(name) for name in run.facts.get("trained_on", ())}
    names = {name for record in dataset.records for name in _names(record, pattern)}
    return sorted(name for name in names if plain(name) in seen)


def _names(record: Record, pattern: str) -> list[str]:
    found: Any = re.search(pattern, record.name) if pattern else None
    hidden = record.patient == record.name and found and found.re.groups and found[1] is not None
    return [record.patient, found[1]] if hidden else [record.patient]


def _told(names: list[str], dataset: Dataset) -> str:
    first = ", ".join(names[:_TOLD]) + (" ..." if len(names) > _TOLD else "")
    return f"{len(names)} of the patients of this {dataset.split} split ({first})"

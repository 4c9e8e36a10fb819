"""False positives on slices without a tumour: does min-max attention make some?

Min-max gives some patch of every slice the attention 1, with a tumour in it or not (facts, pca_yolo
2.4). So each fold's detector is shown slices without a lesion of the fold's own test patients, and
every box of the fold's best-F1 score or more is counted.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdet.config import Data
from jaxdet.data import sources
from jaxdet.data.sources import Dataset
from jaxdet.metrics import statistics
from jaxdet.metrics.rows import reaches
from jaxdet.metrics.scorecard import USUAL_SCORE
from jaxdet.run import Run
from jaxdet.train import evaluate as scoring
from jaxdet.train import parallel


def slices(data: Data, builder: str, patients: Sequence[str]) -> Dataset | None:
    """The slices without any box in the prepared set `builder` of these patients; None if none.

    `data` is the Data of the fold's RUN and `patients` are the fold's tested ones. Whoever else the
    set holds is left out, so that nobody who was trained on is looked at.
    """
    everybody = {"split": "patient", "fractions": (0.0, 0.0, 1.0)}
    whole = sources.load(dataclasses.replace(data, builder=builder, **everybody), "test")
    index = [
        i
        for i, record in enumerate(whole.records)
        if not len(record.labels) and record.patient in patients
    ]
    if not index:
        return None
    return dataclasses.replace(
        whole,
        records=tuple(whole.records[i] for i in index),
        pixels=lambda i: whole.pixels(index[i]),
        cache=None,
    )


def score_of(row: Mapping[str, Any]) -> float:
    """From which score a box counts in a fold of crossval.json: that of its best F1.

    The usual 0.25 where no lesion was found, so that no score is best.
    """
    return row["threshold"] if row["recall"] else USUAL_SCORE


def count(run: Run, free: Dataset, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the RUN's best weights find on slices where nothing is.

    `row` is the fold's of crossval.json, for `score_of`. Keys: fold, slices, threshold, false
    (boxes), false_per_slice, share_with (of the slices: one false box or more).
    """
    experiment, score = run.experiment, score_of(row)
    detect = parallel.map_detect(run.program())
    variables = parallel.replicate(run.all_weights("best"))
    found = scoring.found_in(detect, variables, free, experiment, progress=False)
    false = (reaches(found.scores, score) & (found.labels >= 0)).sum(axis=1)
    return {
        "fold": row["fold"],
        "slices": len(free),
        "threshold": score,
        "false": int(false.sum()),
        "false_per_slice": float(false.mean()),
        "share_with": float(np.mean(false > 0)),
    }


def summarise(name: str, folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The folds of one row with mean and SD (ddof 1) of false positives a slice over them."""
    mean, sd = statistics.mean_sd([fold["false_per_slice"] for fold in folds])
    share, _ = statistics.mean_sd([fold["share_with"] for fold in folds])
    return {"name": name, "folds": list(folds), "mean": mean, "sd": sd, "share_with": share}

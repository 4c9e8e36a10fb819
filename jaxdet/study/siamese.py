"""The Siamese networks of a study: one a fold, trained once and scored on the fold's own patients.

FOLDER/fold_i/    a RUN; metrics/test_patches.json in it says that the fold is done
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from jaxdet import run as runs
from jaxdet.config import Experiment
from jaxdet.metrics import statistics
from jaxdet.study import crossval, kept
from jaxdet.train import loop, parallel
from jaxdet.train import siamese as training

PATCHES = "test_patches"  # of RUN/metrics, as `jaxdet evaluate` calls it
SCORES = ("accuracy", "always_negative", "auroc", "ap")  # and recall_at_k beside them
COUNTS = ("positives", "patches", "slices")


def cross(
    experiment: Experiment,
    folder: pathlib.Path,
    plan: dict[str, Any],
    *,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """What `metrics.pairs` says of every fold's test patients, by networks that never saw them.

    `plan` is the manifest of the folds. Folds that are done stay; one that was begun goes on.
    ValueError, before any training: a fold's RUN of another config or of other folds.
    """
    folds = [crossval.of_fold(experiment, fold) for fold in range(plan["k"])]
    places = [folder / f"fold_{fold}" for fold in range(plan["k"])]
    found = [_done(place, one, plan) for place, one in zip(places, folds, strict=True)]
    for fold, (place, one) in enumerate(zip(places, folds, strict=True)):
        title = f"{folder.name}, fold {fold} (0 to {plan['k'] - 1})"
        if found[fold] is None:
            say(f"{title}: training into {place}")
            run = loop.train(one, place, resume=True)
            scored = training.score_run(run)
            if parallel.process()[0] == 0:
                run.write_metrics(PATCHES, scored)
            parallel.wait(f"{title} is scored")
            found[fold] = _done(place, one, plan)
        told = found[fold]
        if told is None:
            raise OSError(f"{place}/metrics does not hold what was just written there")
        words = "n/a" if told["auroc"] is None else f"{told['auroc']:.4f}"
        say(f"{title}: AUROC {words} on {told['slices']} slices")
    return found


def summarise(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Folds, mean and SD of a row of Table 3. A fold's None is in no mean."""
    flat = [
        {**fold, **{f"recall_at_{k}": share for k, share in fold["recall_at_k"].items()}}
        for fold in found
    ]
    names = [*SCORES, *(f"recall_at_{k}" for k in found[0]["recall_at_k"])]
    known = {name: [fold[name] for fold in flat if fold[name] is not None] for name in names}
    both = {name: statistics.mean_sd(values, crossval.DDOF) for name, values in known.items()}
    return {
        "folds": [
            {
                "fold": i,
                **{name: fold[name] for name in (*names, *COUNTS)},
                "ranks": {name: rank for name, rank in fold["ranks"].items() if name != "best"},
            }
            for i, fold in enumerate(flat)
        ],
        "mean": {name: mean for name, (mean, _) in both.items()},
        "sd": {name: sd for name, (_, sd) in both.items()},
        "n": {name: len(values) for name, values in known.items()},
    }


def _done(place: pathlib.Path, one: Experiment, plan: dict[str, Any]) -> dict[str, Any] | None:
    """A fold's scores by its best weights, if it has any; ValueError for a RUN of another study."""
    run = kept.run_in(place)
    if run is None:
        return None
    runs.check_same(run, one, free=runs.MOVABLE)
    if run.digests.get("folds_digest") != plan["digest"]:
        raise ValueError(
            f"{place} was not trained in these folds ({plan['digest']}): its run.json says"
            f" {run.digests.get('folds_digest')}. Remove it to train this fold anew"
        )
    file = place / "metrics" / f"{PATCHES}.json"
    way = "Remove that file, and --resume scores the fold again"
    found = kept.read(file, way) if file.exists() else {}
    return found if found.get("weights") == "best" else None

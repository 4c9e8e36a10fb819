"""k folds of patients, one after another: train, score the fold, and one answer from all.

    DIR/folds.json       who is tested in which fold, and the digest of it (data/manifest.py)
    DIR/fold_i/          a RUN; metrics/test_PROTOCOL.json in it says that the fold is done
    DIR/crossval.json    numbers of the folds, their mean and SD, tests against others

Every fold starts anew: the first weights are a pure function of train.seed, so that all folds start
from the same fresh ones and none from what another has learned.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxdet import run as runs
from jaxdet.config import Experiment, to_json
from jaxdet.data import manifest, sources
from jaxdet.metrics import statistics
from jaxdet.study import versus
from jaxdet.train import evaluate as scoring
from jaxdet.train import loop, parallel, unseen

FORMAT = 1
METRICS = ("precision", "recall", "ap50", "ap75", "ap50_95")  # those that are tested
OVERLAPS = ("iou30", "iou50", "iou70", "iobb30", "iobb50", "iobb70")  # of paper 2's Table I
COUNTS = ("images", "patients", "truths")
DDOF = 1  # the SD of the sample: the folds stand for others that might have been drawn


def crossval(
    experiment: Experiment,
    out: str | os.PathLike,
    *,
    resume: bool = False,
    against: Sequence[str] = (),
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Trains and scores every fold of `experiment` into the folder `out`; what crossval.json holds.

    data.folds, split_seed and selection say how patients are drawn; data.split and data.fold play
    no part. A fold's number is that of its best weights on its test patients, under
    evaluate.protocol. With `resume` folds that are done are not trained again, and one that was
    begun goes on to the same bytes. `against` names folders of other cross-validations of the same
    folds. `say` is told where it stands.

    Keys: format, folds_digest, k, seed, selection, protocol, experiment (of fold 0; the others
    differ in data.fold), folds (a dict each: fold, images, patients, truths, the METRICS and AP at
    the OVERLAPS; None where the fold has no truth), mean, sd, n (folds that are in them), ddof,
    pooled (counts over all folds), against (see `versus.compare`).

    ValueError before any training: a folder that is there without `resume`; folds, data or config
    that differ from those it was made with; others that have other folds; an experiment that does
    not fit the data of a fold; a start (train.init_from) that was trained on the tested.
    """
    path, plan = pathlib.Path(out), manifest.manifest(experiment.data)
    experiments = [of_fold(experiment, fold) for fold in range(plan["k"])]
    rivals = [versus.read(other, plan, experiment.evaluate.protocol) for other in against]
    _refuse_changes(path, experiments, plan, resume)
    todo = [i for i, one in enumerate(experiments) if _done(path, one, plan) is None]
    for fold in todo:
        _check(experiments[fold])
    _write(path / "folds.json", plan)
    say(_words(plan, len(todo)))
    with _ended_by_sigterm():
        rows = [_row(path, one, plan, say) for one in experiments]
    result = {
        "format": FORMAT,
        "folds_digest": plan["digest"],
        **{name: plan[name] for name in ("k", "seed", "selection")},
        "protocol": experiment.evaluate.protocol,
        "experiment": to_json(experiments[0]),
        "folds": rows,
        **summarise(rows),
        "against": versus.compare(rows, rivals, METRICS),
    }
    _write(path / "crossval.json", result)
    return result


def of_fold(experiment: Experiment, fold: int) -> Experiment:
    """The experiment of one fold: it differs from those of the others in data.fold alone."""
    return dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, split="fold", fold=fold),
        evaluate=dataclasses.replace(experiment.evaluate, split="test"),
    )


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and SD over folds of every metric, and counts over all. A fold's None is left out."""
    names = (*METRICS, *OVERLAPS)
    known = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    both = {name: statistics.mean_sd(values, DDOF) for name, values in known.items()}
    return {
        "mean": {name: mean for name, (mean, _) in both.items()},
        "sd": {name: sd for name, (_, sd) in both.items()},
        "n": {name: len(values) for name, values in known.items()},
        "ddof": DDOF,
        "pooled": {name: sum(row[name] for row in rows) for name in COUNTS},
    }


def _refuse_changes(
    path: pathlib.Path, experiments: list[Experiment], plan: dict[str, Any], resume: bool
) -> None:
    """What is there already must have been made with these folds and this config."""
    file = path / "folds.json"
    if not file.exists():
        return
    if not resume:
        raise ValueError(
            f"{path} is a cross-validation already: add --resume to go on, or choose another --out"
        )
    changed = manifest.differences(json.loads(file.read_text()), plan)
    if changed:
        rows = "\n".join(f"  {what}" for what in changed)
        raise ValueError(f"{path} has other folds than this config and its data give:\n{rows}")
    for fold, experiment in enumerate(experiments):
        if not (_folder(path, fold) / "run.json").exists():
            continue
        run = runs.open_run(_folder(path, fold))
        runs.check_same(run, experiment, free=())  # more epochs for some folds would be unfair
        if run.digests.get("folds_digest") != plan["digest"]:
            raise ValueError(
                f"{run.path} was not trained in these folds ({plan['digest']}): its run.json says"
                f" {run.digests.get('folds_digest')}. Remove it to train this fold anew"
            )


def _check(experiment: Experiment) -> None:
    """What loop.train would refuse in hours, when this fold's turn comes."""
    data = {split: sources.load(experiment.data, split) for split in ("train", "val", "test")}
    loop.check(experiment, data)
    if experiment.train.init_from:
        start = runs.open_run(experiment.train.init_from)
        unseen.check_start(start, experiment.data, data["test"])


def _row(
    path: pathlib.Path, experiment: Experiment, plan: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """The numbers of one fold, trained and scored now or before."""
    tested, summary = plan["folds"][experiment.data.fold], _done(path, experiment, plan)
    title = f"fold {experiment.data.fold} (0 to {plan['k'] - 1})"
    if summary is None:
        folder = _folder(path, experiment.data.fold)
        say(
            f"{title}: training into {folder}; {len(tested['patients'])} patients wait for its test"
        )
        run = loop.train(experiment, folder, resume=True)
        scored = scoring.score_run(run, "best")
        if parallel.process()[0] == 0:
            scoring.write(run, _metrics_name(experiment), scored)
        parallel.wait(f"{title} is scored")
        summary = _done(path, experiment, plan)
        if summary is None:
            raise OSError(f"{folder}/metrics does not hold what was just written there")
    row = {
        "fold": experiment.data.fold,
        "patients": len(tested["patients"]),
        **{name: summary[name] for name in ("images", "truths", "threshold", *METRICS)},
        **_under_overlaps(summary),
    }
    told = ("n/a" if row[name] is None else f"{row[name]:.4f}" for name in ("ap50", "ap50_95"))
    say(f"{title}: AP50 {next(told)}, AP50-95 {next(told)} on {row['images']} images")
    return row


def _under_overlaps(summary: dict[str, Any]) -> dict[str, float | None]:
    """AP at IoU and IoBB 0.3, 0.5 and 0.7 under the fold's own protocol."""
    # The last one: "l0sg, PixelLink" comes after "l0sg", where a family has it.
    own = [r for r in summary["protocols"] if r["protocol"].split(",")[0] == summary["protocol"]]
    return {name: own[-1][name] for name in OVERLAPS}


def _done(
    path: pathlib.Path, experiment: Experiment, plan: dict[str, Any]
) -> dict[str, Any] | None:
    """The fold's numbers if it was scored in these folds, with its best weights; else None."""
    folder = _folder(path, experiment.data.fold)
    file = folder / "metrics" / f"{_metrics_name(experiment)}.json"
    if not file.exists():
        return None
    summary = json.loads(file.read_text())
    # `jaxdet evaluate` writes a file of this name too, perhaps of other data or later weights.
    told = {"folds_digest": plan["digest"], "weights": "best", "other_data": False}
    return summary if all(summary.get(key) == value for key, value in told.items()) else None


def _metrics_name(experiment: Experiment) -> str:
    return f"test_{experiment.evaluate.protocol}"


def _folder(path: pathlib.Path, fold: int) -> pathlib.Path:
    return path / f"fold_{fold}"


def _words(plan: dict[str, Any], todo: int) -> str:
    data = plan["data"]
    val = "the test fold" if plan["selection"] == "test_fold" else "other patients than the tested"
    return (
        f"{plan['k']} folds of {data['patients']} patients ({data['images']} images,"
        f" {data['boxes']} boxes), digest {plan['digest']}; weights are chosen on {val};"
        f" {todo} folds to do"
    )


def _write(file: pathlib.Path, content: dict[str, Any]) -> None:
    """By the first process, when all have looked at what was there before."""
    parallel.wait(f"all have read {file.name}")
    if parallel.process()[0] == 0:
        runs.write_json(file, content)
    parallel.wait(f"{file.name} is written")


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends with 143 between trainings too, as inside of one (loop.train)."""

    def end(*_: Any) -> None:
        raise SystemExit(143)

    alone = parallel.process()[1] == 1
    mine = alone and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if mine else None
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, before)

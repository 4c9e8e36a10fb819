"""k folds of patients, one after another: train, score the fold, and one answer from all.

    DIR/folds.json       who is tested in which fold, and the digest of it (data/manifest.py)
    DIR/fold_i/          a RUN; metrics/test_PROTOCOL.json in it says that the fold is done
    DIR/crossval.json    numbers of the folds, their mean and SD, tests against others

Every fold starts anew: the first weights are a pure function of train.seed, so that all folds start
from the same fresh ones and none from what another has learned.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Experiment, to_json
from jaxdet.data import manifest, sources
from jaxdet.metrics import statistics
from jaxdet.metrics.audit import summed
from jaxdet.study import kept, versus
from jaxdet.study.kept import FORMAT, METRICS, OVERLAPS
from jaxdet.train import engine, loop, parallel
from jaxdet.train import evaluate as scoring

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

    Keys: format, folds_digest, k, seed, selection, split_unit, protocol, family, experiment (of
    fold 0; the others differ in data.fold), folds (a dict each: fold, images, patients, truths, the
    METRICS and AP at the OVERLAPS; None where the fold has no truth), mean, sd, n (folds that are
    in them), ddof, pooled (counts over all folds), test_share (images tested for each that is
    trained on, a mean over folds), audit (of all folds together, see `audit.summed`), against (see
    `versus.compare`). Tests of before stay where `against` is empty and no fold's numbers are new.

    ValueError before any training: a folder that holds something else, or is there without
    `resume`, or is in use; files in it that are broken; folds, data or config that differ from
    those it was made with (run.MOVABLE may); others that have other folds; a nested val without a
    lesion; an experiment that does not fit the data of a fold; a start (train.init_from) that was
    trained on the tested.
    """
    if not str(out):
        raise ValueError("a cross-validation wants a folder; got --out ''")
    path, plan = pathlib.Path(out), manifest.manifest(experiment.data)
    refuse_empty_val(plan)
    experiments = [of_fold(experiment, fold) for fold in range(plan["k"])]
    rivals = versus.read_all(against, plan, experiment.evaluate.protocol, path)
    _refuse_changes(path, experiments, plan, resume)
    todo = [i for i, one in enumerate(experiments) if _done(path, one, plan) is None]
    for fold in todo:
        check(experiments[fold])
    with _alone_in(path), engine.ended_by_sigterm():
        _refuse_changes(path, experiments, plan, resume)  # another may have begun it since
        before = _before(path)
        _write(path / "folds.json", plan)
        say(_words(plan, len(todo)))
        rows, audits = zip(*(_row(path, one, plan, say) for one in experiments), strict=True)
        share = _test_share(plan)
        tests = versus.compare(rows, rivals, METRICS, share)
        if not rivals and before and before["folds"] == list(rows):
            tests = before["against"]
        result = {
            "format": FORMAT,
            "folds_digest": plan["digest"],
            **{name: plan[name] for name in ("k", "seed", "selection", "split_unit")},
            "protocol": experiment.evaluate.protocol,
            "family": _family(experiment),
            "experiment": to_json(experiments[0]),
            "folds": list(rows),
            **_summary(rows, plan),
            "test_share": share,
            "audit": summed(audits),
            "against": tests,
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


def _summary(rows: Sequence[dict[str, Any]], plan: dict[str, Any]) -> dict[str, Any]:
    """Of all folds; a patient whose images are tested in several is counted once."""
    told = summarise(rows)
    return {**told, "pooled": {**told["pooled"], "patients": plan["data"]["patients"]}}


def _test_share(plan: dict[str, Any]) -> float:
    """n_test / n_train of Nadeau and Bengio 2003: what val takes is not trained on."""
    shares = [row["images"] / row["train_images"] for row in plan["folds"]]
    return sum(shares) / len(shares)


def refuse_empty_val(plan: dict[str, Any]) -> None:
    """A val without a lesion would choose weights by nothing."""
    for row in plan["folds"]:
        if plan["selection"] == "nested" and not row["val_boxes"]:
            raise ValueError(
                f"fold {row['fold']}'s val has no lesion ({row['val_images']} images of"
                f" {', '.join(row['val_patients'])}), so that nothing could choose its weights:"
                " ask for fewer --folds, another --seed, or --selection test_fold"
            )


def _refuse_changes(
    path: pathlib.Path, experiments: list[Experiment], plan: dict[str, Any], resume: bool
) -> None:
    """What is there already must have been made with these folds and this config."""
    if not _holds_something(path):
        return
    if not (path / "folds.json").is_file():
        raise ValueError(
            f"{path} is there and is no cross-validation: it has no folds.json. Choose another"
            " --out"
        )
    if not resume:
        raise ValueError(
            f"{path} is a cross-validation already: add --resume to go on, or choose another --out"
        )
    changed = manifest.differences(kept.plan(path), plan)
    if changed:
        rows = "\n".join(f"  {what}" for what in changed)
        raise ValueError(f"{path} has other folds than this config and its data give:\n{rows}")
    for experiment in experiments:
        _refuse_changed_fold(_folder(path, experiment.data.fold), experiment, plan)
    before = _before(path)
    if before:
        first = runs.experiment_from_json(before["family"], before["experiment"])
        _check_same(runs.Run(path, first, (), {"family": before["family"]}), experiments[0])


def _holds_something(path: pathlib.Path) -> bool:
    """More than what a cross-validation leaves that ended before its first file."""
    if not path.is_dir():
        return path.exists()
    return any(file.name not in (".lock", "folds.json.part") for file in path.iterdir())


def _refuse_changed_fold(
    folder: pathlib.Path, experiment: Experiment, plan: dict[str, Any]
) -> None:
    run = kept.run_in(folder)
    if run is None:
        return
    _check_same(run, experiment)
    if run.digests.get("folds_digest") != plan["digest"]:
        raise ValueError(
            f"{folder} was not trained in these folds ({plan['digest']}): its run.json says"
            f" {run.digests.get('folds_digest')}. Remove it to train this fold anew"
        )


def _check_same(run: runs.Run, experiment: Experiment) -> None:
    runs.check_same(run, experiment, free=runs.MOVABLE)  # more epochs for some would be unfair


def _before(path: pathlib.Path) -> dict[str, Any] | None:
    """What crossval.json said before, if there is one."""
    return kept.result(path) if (path / "crossval.json").exists() else None


def _family(experiment: Experiment) -> str:
    return type(experiment.model).__module__.rsplit(".", 1)[-1]


def check(experiment: Experiment) -> None:
    """What loop.train would refuse in hours, when this fold's turn comes; and what has no boxes."""
    if models.is_scorer(experiment.model):
        raise ValueError(
            "a cross-validation scores boxes, and a Siamese network has none: train it alone with"
            " `jaxdet train CONFIG`, or fold by fold with `jaxdet reproduce pca-table3`"
        )
    data = {split: sources.load(experiment.data, split) for split in ("train", "val", "test")}
    loop.check(experiment, data)


def _row(
    path: pathlib.Path, experiment: Experiment, plan: dict[str, Any], say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers of one fold and its audit, trained and scored now or before."""
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
        **kept.under_overlaps(summary),
    }
    told = ("n/a" if row[name] is None else f"{row[name]:.4f}" for name in ("ap50", "ap50_95"))
    say(f"{title}: AP50 {next(told)}, AP50-95 {next(told)} on {row['images']} images")
    return row, summary["audit"]


def _done(
    path: pathlib.Path, experiment: Experiment, plan: dict[str, Any]
) -> dict[str, Any] | None:
    """The fold's numbers if it was scored in these folds, with its best weights; else None."""
    folder = _folder(path, experiment.data.fold)
    file = folder / "metrics" / f"{_metrics_name(experiment)}.json"
    if not file.exists() or not (folder / "run.json").exists():
        return None
    # `jaxdet evaluate` writes a file of this name too, perhaps of other data or later weights.
    told = {"folds_digest": plan["digest"], "weights": "best", "other_data": False}
    return kept.scores(file, {**kept.fold_run(folder).digests, **told})


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


def _alone_in(path: pathlib.Path) -> contextlib.AbstractContextManager:
    """The folder's lock, which the first process holds for all."""
    return runs.locked(path) if parallel.process()[0] == 0 else contextlib.nullcontext()

"""Two stages in one RUN: the Siamese network, then its maps, then the detector.

    RUN/siamese/               the first stage, a RUN itself, trained or taken over
    RUN/siamese/maps/          what it says of every slice of train and val, with whose it is
    RUN/siamese_cross_K/       networks that saw all training patients but a part (cross_fit)

The detector's training then reads slices with their maps (data.attended).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxdet import run as runs
from jaxdet.config import Experiment, check_side, to_json
from jaxdet.data import attended, folds, sources
from jaxdet.data.sources import Dataset
from jaxdet.models import pca_yolo, yolov8
from jaxdet.ops.images import to_unit
from jaxdet.run import SIAMESE, Run
from jaxdet.train import evaluate, parallel, siamese, unseen

AT_ONCE = 16  # slices that are normalised together
# Of Data: what a slice looks like, and of which set, whose registered twin has the same names.
IMAGE = ("image_size", "window_hu", "pad", "channels", "source", "builder", "phases")
TAKEN = "taken_from"  # in the run.json of a first stage that was not trained here


def with_maps(run: Run, data: dict[str, Dataset]) -> tuple[Experiment, dict[str, Dataset]]:
    """The detector's experiment and data: slices with the maps of the first stage beside them.

    Trains the Siamese, or goes on with it, unless it is there. Its maps are kept; those of another
    network, split or image size are refused by their digests.
    """
    experiment, cfg = run.experiment, run.experiment.model
    stage = _first_stage(run, data)
    said = {split: _cached(stage, split, experiment, of) for split, of in data.items()}
    if cfg.fit == "cross_fit":
        said["train"] = _cross_fitted(run, data)
    if parallel.process()[0] == 0:
        runs.remember(run, siamese_digest=runs.digest_of(stage.weights("best")))
    parallel.wait("run.json knows its first stage")
    copies = cfg.channels - pca_yolo.RAW_CHANNELS
    seen = attended.training_data(experiment.data, copies, cfg.map_pad)
    shown = {
        split: attended.attended(of, experiment.data, copies, _maps(experiment, said[split]))
        for split, of in data.items()
    }
    return dataclasses.replace(experiment, data=seen), shown


def check(
    experiment: Experiment, data: dict[str, Dataset], out: str | os.PathLike | None = None
) -> None:
    """Refuses a first stage that could not be trained, or is not the one that is wanted.

    One that `out`, the RUN, has taken over already needs its source no more.
    """
    cfg, side = experiment.model, experiment.data.image_size
    m = cfg.siamese.patches.side
    check_side(side, m, multiple=yolov8.MULTIPLE)
    if cfg.normalise == "minmax" and cfg.attention_from == "scores" and side == m:
        raise ValueError(
            f"a slice of {side} px is one patch of {m} px, so that min-max leaves no attention: set"
            " model.siamese.patches.side to a smaller divisor"
        )
    told = stage_experiment(experiment)
    siamese.check(told, data, "model.siamese_train")
    if cfg.fit == "cross_fit":
        for kept, _ in _parts(experiment, data["train"]):
            part = {"train": _subset(data["train"], kept), "val": data["val"]}
            siamese.check(told, part, "model.siamese_train")
    path = _source(experiment)
    if path is not None and not (out and _is_whole(pathlib.Path(out) / SIAMESE)):
        _refuse_other(runs.open_run(path), experiment, data)


def stage_experiment(experiment: Experiment) -> Experiment:
    """The experiment of the first stage alone: the same data, its own model and recipe."""
    model = experiment.model
    return Experiment(
        model=model.siamese,
        data=experiment.data,
        train=model.siamese_train,
        evaluate=experiment.evaluate,
    )


def _source(experiment: Experiment) -> pathlib.Path | None:
    told = experiment.model.siamese_from
    # Not str.format: a folder may have braces in its name.
    return pathlib.Path(told.replace("{fold}", str(experiment.data.fold))) if told else None


def _is_whole(path: pathlib.Path) -> bool:
    """Whether a RUN is there with a checkpoint that is complete."""
    if not (path / "run.json").exists() or not (path / "checkpoints").is_dir():
        return False
    with runs.open_run(path).manager(read_only=True) as manager:
        return manager.latest_step() is not None


def _refuse_other(source: Run, experiment: Experiment, data: dict[str, Dataset]) -> None:
    """ValueError unless `source` is the network that this experiment would train, to its end."""
    where = f"model.siamese_from: {source.path}"
    runs.refuse_other_siamese(source, experiment.model.siamese)
    wanted, got = experiment.data, source.experiment.data
    differ = [name for name in IMAGE if getattr(wanted, name) != getattr(got, name)]
    if differ:
        rows = "\n".join(
            f"  data.{name}: it has {getattr(got, name)!r}, wanted {getattr(wanted, name)!r}"
            for name in differ
        )
        raise ValueError(f"{where} read its slices otherwise:\n{rows}")
    digests = unseen.digests(wanted, data["train"], data["val"])
    if any(source.digests.get(name) != digest for name, digest in digests.items()):
        raise ValueError(
            f"{where} was trained on another split or fold than this one, so that it may know whom"
            " the detector is tested on. Name one of the same split; {fold} stands for data.fold"
        )
    if not _is_whole(source.path) or not (source.path / "metrics" / "val.json").exists():
        raise ValueError(f"{where} is not trained to its end: go on with it by --resume first")


def _first_stage(run: Run, data: dict[str, Dataset]) -> Run:
    """The RUN of the Siamese network in RUN/siamese, trained or copied there."""
    path, source = run.path / SIAMESE, _source(run.experiment)
    whole = _is_whole(path)
    taken = whole and TAKEN in runs.open_run(path).facts
    _refuse_change_of_mind(path, taken=taken, wanted=source is not None)
    if source is None:
        return siamese.train(stage_experiment(run.experiment), path, data, resume=True)
    if not whole:
        _refuse_other(runs.open_run(source), run.experiment, data)
        parallel.wait("all have looked for a first stage")
        if parallel.process()[0] == 0:
            _copy(runs.open_run(source), path)
        parallel.wait("the first stage is there")
    stage = runs.open_run(path)
    runs.refuse_other_siamese(stage, run.experiment.model.siamese)
    run.check_digests(stage.digests, str(path))
    return stage


def _refuse_change_of_mind(path: pathlib.Path, *, taken: bool, wanted: bool) -> None:
    there = (path / "run.json").exists()
    if there and wanted and not taken:
        raise ValueError(
            f"{path} was begun here, but model.siamese_from names another: leave it out to go on,"
            " or take another --out"
        )
    if there and taken and not wanted:
        raise ValueError(
            f"{path} was taken over from {runs.open_run(path).facts[TAKEN]}: say"
            " model.siamese_from again (the folder itself may be gone)"
        )


def _copy(source: Run, path: pathlib.Path) -> None:
    """The source's best weights as a RUN of their own, whole or not there; its facts come along."""
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    made = ("format", "family", "class_names", "versions", "window_hu")
    facts = {k: v for k, v in source.facts.items() if k not in made}
    facts[TAKEN] = str(source.path)
    copy = runs.create(part, source.experiment, source.class_names, **facts)
    copy.save_weights(source.weights("best"))
    part.rename(path)


def _parts(experiment: Experiment, dataset: Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """The training slices that each network of a cross-fit sees, and those that it answers for."""
    owners = sources.units(experiment.data, dataset.records)
    boxes = [len(record.labels) for record in dataset.records]
    cfg = experiment.model
    return folds.folds(owners, cfg.cross_folds, cfg.siamese_train.seed, boxes)


def _cross_fitted(run: Run, data: dict[str, Dataset]) -> np.ndarray:
    """What each training slice is told by the network that did not see its patient."""
    experiment, dataset = run.experiment, data["train"]
    said: np.ndarray | None = None
    for k, (kept, held) in enumerate(_parts(experiment, dataset)):
        part = {"train": _subset(dataset, kept), "val": data["val"]}
        path, told = run.path / f"{SIAMESE}_cross_{k}", stage_experiment(experiment)
        stage = siamese.train(told, path, part, resume=True, held_out=k)
        answers = _cached(stage, "held_out", experiment, _subset(dataset, held))
        if said is None:
            said = np.zeros((len(dataset), *answers.shape[1:]), np.float32)
        said[held] = answers
    return said


def _subset(dataset: Dataset, index: Int[np.ndarray, "K"]) -> Dataset:
    where = [int(i) for i in index]
    return dataclasses.replace(
        dataset,
        records=tuple(dataset.records[i] for i in where),
        pixels=lambda i: dataset.pixels(where[i]),
        cache=None if dataset.cache is None else {},
    )


def _cached(
    stage: Run, name: str, experiment: Experiment, dataset: Dataset
) -> Float[np.ndarray, "N ..."]:
    """The answers of `pca_yolo.attention` to a dataset, from the stage's cache or made now.

    A cache of something else is refused; one that is cut off or broken is made again.
    """
    folder, what = stage.path / "maps", experiment.model.attention_from
    told, values = folder / f"{what}_{name}.json", folder / f"{what}_{name}.npy"
    weights = stage.weights("best")
    wanted = {
        "siamese": runs.digest_of(weights),
        "slices": sources.digest(dataset),
        **stage.digests,
        "image": {field: to_json(getattr(experiment.data, field)) for field in IMAGE},
    }
    kept = _kept(told, values, wanted)
    parallel.wait(f"all have looked for {told.name}")
    if kept is not None:
        return kept
    made = _answers(experiment, weights, dataset)
    if parallel.process()[0] == 0:
        folder.mkdir(exist_ok=True)
        part = values.with_name(f"{values.name}.part")
        with open(part, "wb") as file:
            np.save(file, made)
            file.flush()
            os.fsync(file.fileno())
        part.replace(values)
        runs.write_json(told, {**wanted, "values": _digest(made)})  # last: the values are whole
    parallel.wait(f"{told.name} is written")
    return made


def _kept(told: pathlib.Path, values: pathlib.Path, wanted: dict[str, Any]) -> np.ndarray | None:
    """The values of a cache, if it is there and whole. ValueError: they are of something else."""
    try:
        kept = json.loads(told.read_text())
        known = {**kept}
    except (OSError, ValueError, TypeError):
        return None
    words = {
        "siamese": "another Siamese network",
        "slices": "other slices, or another split of them",
        "split_digest": "another split",
        "folds_digest": "another fold",
        "image": "slices of another set, size, window or padding",
    }
    wrong = [words[key] for key in wanted if known.get(key) != wanted[key]]
    if wrong:
        raise ValueError(
            f"{told} is of {', of '.join(wrong)}: these maps are not used here. Remove the folder"
            f" {told.parent} and they are made again"
        )
    try:
        found = np.load(values)
    except (OSError, ValueError, EOFError):
        return None
    return found if _digest(found) == known.get("values") else None


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).hexdigest()[:16]


def _answers(experiment: Experiment, weights: Any, dataset: Dataset) -> np.ndarray:
    cfg = experiment.model
    program = parallel.map_detect(
        lambda variables, slices: (pca_yolo.attention(cfg, variables, to_unit(slices)),)
    )
    rows = evaluate.answers_of(
        program,
        parallel.replicate({"params": weights["params"]}),
        dataset,
        experiment,
        title=f"attention of {dataset.split}",
        progress=True,
    )
    return evaluate.together([row for _, row in rows], len(dataset))[0]


def _maps(experiment: Experiment, said: np.ndarray) -> Callable[[int], np.ndarray]:
    """The map of slice i, f32[S, S]: normalised on the device now, spread when it is asked for."""
    cfg, m = experiment.model, experiment.model.siamese.patches.side
    weigh = jax.jit(lambda some: pca_yolo.weighted(cfg, some))
    values = np.concatenate(
        [np.asarray(weigh(np.array(said[i : i + AT_ONCE]))) for i in range(0, len(said), AT_ONCE)]
    )
    if values.ndim == 3:
        return lambda i: values[i]
    side = experiment.data.image_size // m
    return lambda i: values[i].reshape(side, side).repeat(m, axis=0).repeat(m, axis=1)

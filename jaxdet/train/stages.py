"""Two stages in one RUN: the Siamese network, then its maps, then the detector.

    RUN/siamese/               the first stage, a RUN itself, trained or taken over
    RUN/siamese/maps/          what it says of every slice of train and val, with whose it is
    RUN/siamese_cross_K/       networks that saw all training patients but a part (cross_fit)

The detector's training then reads slices with their maps (data.attended).
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxdet import run as runs
from jaxdet.config import Experiment, to_json
from jaxdet.data import attended, folds, sources
from jaxdet.data.sources import Dataset
from jaxdet.models import pca_yolo
from jaxdet.ops.images import to_unit
from jaxdet.run import SIAMESE, Run
from jaxdet.train import evaluate, parallel, siamese

AT_ONCE = 16  # slices that are normalised together
IMAGE = ("image_size", "window_hu", "pad", "channels")  # of Data: what a slice looks like


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
    copies = cfg.channels - pca_yolo.RAW_CHANNELS
    seen = attended.training_data(experiment.data, copies, cfg.map_pad)
    shown = {
        split: attended.attended(of, experiment.data, copies, _maps(experiment, said[split]))
        for split, of in data.items()
    }
    return dataclasses.replace(experiment, data=seen), shown


def check(experiment: Experiment, data: dict[str, Dataset]) -> None:
    """Refuses a first stage that could not be trained, or is not the one that is wanted."""
    siamese.check(stage_experiment(experiment), data)
    path = _source(experiment)
    if path is not None:
        _refuse_other(runs.open_run(path), experiment)


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
    return pathlib.Path(told.format(fold=experiment.data.fold)) if told else None


def _refuse_other(source: Run, experiment: Experiment) -> None:
    if source.facts["family"] != SIAMESE:
        raise ValueError(
            f"model.siamese_from: {source.path} is a RUN of {source.facts['family']}, no Siamese"
            " network"
        )
    wanted, got = experiment.data, source.experiment.data
    differ = [name for name in IMAGE if getattr(wanted, name) != getattr(got, name)]
    if differ:
        rows = "\n".join(
            f"  data.{name}: it has {getattr(got, name)!r}, wanted {getattr(wanted, name)!r}"
            for name in differ
        )
        raise ValueError(f"model.siamese_from: {source.path} read its slices otherwise:\n{rows}")


def _first_stage(run: Run, data: dict[str, Dataset]) -> Run:
    path, source = run.path / SIAMESE, _source(run.experiment)
    if source is None:
        return siamese.train(stage_experiment(run.experiment), path, data, resume=True)
    there = (path / "checkpoints").exists()  # written after run.json
    parallel.wait("all have looked for a first stage")
    if not there and parallel.process()[0] == 0:
        found = runs.open_run(source)
        run.check_stage(found)
        _copy(found, path)
    parallel.wait("the first stage is there")
    stage = runs.open_run(path)
    run.check_stage(stage)
    return stage


def _copy(source: Run, path: pathlib.Path) -> None:
    """The source's best weights as a RUN of their own; its facts come along."""
    if (path / "run.json").exists():  # a kill came before the weights
        (path / "run.json").unlink()
    made = ("format", "family", "class_names", "versions", "window_hu")
    facts = {k: v for k, v in source.facts.items() if k not in made}
    copy = runs.create(path, source.experiment, source.class_names, **facts)
    copy.save_weights(source.weights("best"))


def _cross_fitted(run: Run, data: dict[str, Dataset]) -> np.ndarray:
    """What each training slice is told by the network that did not see its patient."""
    experiment, dataset = run.experiment, data["train"]
    owners = sources.units(experiment.data, dataset.records)
    boxes = [len(record.labels) for record in dataset.records]
    pairs = folds.folds(owners, experiment.model.cross_folds, experiment.train.seed, boxes)
    said: np.ndarray | None = None
    for k, (kept, held) in enumerate(pairs):
        part = {"train": _subset(dataset, kept), "val": data["val"]}
        path = run.path / f"{SIAMESE}_cross_{k}"
        stage = siamese.train(stage_experiment(experiment), path, part, resume=True)
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
    """The answers of `pca_yolo.attention` to a dataset, from the stage's cache or made now."""
    folder, what = stage.path / "maps", experiment.model.attention_from
    told, values = folder / f"{what}_{name}.json", folder / f"{what}_{name}.npy"
    weights = stage.weights("best")
    wanted = {
        "siamese": _digest_of(weights),
        "slices": sources.digest(dataset),
        **stage.digests,
        "image": {name: to_json(getattr(experiment.data, name)) for name in IMAGE},
    }
    if told.exists():
        _refuse_foreign(told, wanted)
        return np.load(values, mmap_mode="r")
    made = _answers(experiment, weights, dataset)
    parallel.wait(f"{told.name} is not there")
    if parallel.process()[0] == 0:
        folder.mkdir(exist_ok=True)
        part = values.with_name(values.name + ".part.npy")
        np.save(part, made)
        part.replace(values)
        runs.write_json(told, wanted)  # last: it says that the values are whole
    parallel.wait(f"{told.name} is written")
    return made


def _refuse_foreign(told: pathlib.Path, wanted: dict[str, Any]) -> None:
    kept = json.loads(told.read_text())
    words = {
        "siamese": "another Siamese network",
        "slices": "other slices, or another split of them",
        "split_digest": "another split",
        "folds_digest": "another fold",
        "image": "another size, window or padding of the slices",
    }
    wrong = [words[key] for key in wanted if kept.get(key) != wanted[key]]
    if wrong:
        raise ValueError(
            f"{told} is of {', of '.join(wrong)}: these maps are not used here. Remove the folder"
            f" {told.parent} and they are made again"
        )


def _digest_of(weights: Any) -> str:
    """16 hexadecimal digits of all variables, names and bytes."""
    told = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        told.update(jax.tree_util.keystr(path).encode())
        told.update(np.ascontiguousarray(leaf).tobytes())
    return told.hexdigest()[:16]


def _answers(experiment: Experiment, weights: Any, dataset: Dataset) -> np.ndarray:
    cfg = experiment.model
    program = parallel.map_detect(
        lambda variables, slices: (pca_yolo.attention(cfg, variables, to_unit(slices)),)
    )
    rows = evaluate.answers_of(
        program,
        parallel.replicate({"params": weights["params"]}),
        dataset,
        experiment.data,
        experiment.evaluate.batch_size,
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

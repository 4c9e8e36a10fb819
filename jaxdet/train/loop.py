"""Training a detector, from an experiment to a RUN. Reads as the story of a run."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Experiment
from jaxdet.data import batch as batches
from jaxdet.data import sources
from jaxdet.data.sources import Dataset
from jaxdet.report import curves, tables
from jaxdet.run import Run
from jaxdet.train import engine, log, optim, parallel, pictures, siamese, stages, unseen
from jaxdet.train.evaluate import evaluate
from jaxdet.train.step import make_step, of_detector

NUMBERS = ("ap50", "ap50_95", "precision", "recall")  # of an evaluation, in the log


def train(experiment: Experiment, out: str | os.PathLike, *, resume: bool = False) -> Run:
    """Trains `experiment` into the folder `out`, or goes on there, and returns the RUN.

    A model of two stages (models.stages) has the RUN of its first, with its maps, inside of its
    own; a Siamese network alone is trained by `siamese.train`.

    Checkpoints are written after every epoch and on SIGTERM, at a step boundary; a run that was
    killed at any time resumes to the same bytes. One that is trained on with other epochs or
    patience says so in run.json. Raises ValueError for an experiment that does not fit its data and
    for a folder that another process trains into, and FloatingPointError, naming the loss parts and
    the images, when a loss is not finite.
    """
    data = {split: sources.load(experiment.data, split) for split in ("train", "val")}
    if models.is_scorer(experiment.model):
        return siamese.train(experiment, out, data, resume=resume)
    check(experiment, data, out)
    main = parallel.process()[0] == 0
    with runs.locked(out) if main else contextlib.nullcontext():
        run = engine.open_run(experiment, out, data, resume)
        # What the detector sees: the slices themselves, or with the first stage's maps beside them.
        seen, shown = experiment, data
        if models.has_stages(experiment.model):
            with engine.ended_by_sigterm():
                seen, shown = stages.with_maps(run, data)
        task = _task(seen, shown)
        words = [f"{name}: {len(of)} images{tables.faults(of.faults)}" for name, of in data.items()]
        engine.train(run, task, words)
        _finish(run, seen, shown["val"], main=main)
    return run


def _task(experiment: Experiment, data: dict[str, Dataset]) -> engine.Task:
    detector = models.from_config(experiment.model)
    detect = parallel.map_detect(detector.detect)
    plan = optim.plan(
        experiment.train,
        num_images=len(data["train"]),
        num_classes=len(data["train"].class_names),
        steps_per_epoch=batches.steps_per_epoch(len(data["train"]), experiment.train.batch_size),
    )

    def judge(variables: Any, progress: bool) -> tuple[dict[str, Any], float]:
        summary = evaluate(detect, variables, data["val"], experiment, progress=progress)
        better = fitness(summary, experiment.train.fitness)
        return {name: summary[name] for name in NUMBERS}, better

    return engine.Task(
        plan=plan,
        step=make_step(of_detector(detector), plan),
        fresh=lambda: _first_variables(experiment),
        batches=lambda step: _batches(experiment, data["train"], step),
        judge=judge,
        dataset=data["train"],
    )


def check(
    experiment: Experiment, data: dict[str, Dataset], out: str | os.PathLike | None = None
) -> None:
    """Refuses an experiment whose model, data and devices do not fit, before any compilation.

    `data` holds train and val, and may hold test, whom train.init_from must not know either. `out`
    is the RUN, if it is known: a first stage that was taken over is there and needs no source.
    """
    model, names = experiment.model, data["train"].class_names
    _check_images(experiment)
    if model.num_classes != len(names):
        raise ValueError(
            f"model.num_classes is {model.num_classes} but the data has {len(names)} classes: "
            f"{', '.join(names)}"
        )
    if data["val"].class_names != names:
        raise ValueError(f"train has the classes {names}, val has {data['val'].class_names}")
    if (masks := models.wants_masks(model)) and not experiment.data.lesions:
        raise ValueError(f"{masks} wants the masks of lesions: set data.lesions=True")
    if experiment.evaluate.boxes == "official":
        models.official_decode(model)  # refuses a model that has none
    _check_crowding(experiment, data["train"])
    parallel.check_batch(experiment.train.batch_size, "train.batch_size")
    parallel.check_batch(experiment.evaluate.batch_size, "evaluate.batch_size")
    # Traces the model: sides that do not divide are named.
    optim.check_patterns(runs.abstract_variables(experiment)["params"], experiment.train)
    if models.has_stages(model):
        stages.check(experiment, data, out)
    start = engine.start_run(experiment)
    if start and experiment.train.init_patients == "check":
        for split in [name for name in data if name != "train"]:
            unseen.check_start(start, data[split])


def _check_images(experiment: Experiment) -> None:
    model, given = experiment.model, experiment.data.channels
    side = getattr(model, "image_size", experiment.data.image_size)
    if side != experiment.data.image_size:
        raise ValueError(
            f"data.image_size is {experiment.data.image_size}, but this model is built for {side} "
            "px: set data.image_size or model.image_size to the other"
        )
    if given == models.raw_channels(model):
        return
    if models.has_stages(model):
        raise ValueError(
            f"data.channels is {given}, but this model takes slices of"
            f" {models.raw_channels(model)} channel and adds its map itself: set data.channels to"
            f" {models.raw_channels(model)}; model.channels says what the detector behind it sees"
        )
    raise ValueError(
        f"model.channels is {model.channels} but data.channels is {given}: "
        "set both to the number of channels of the images"
    )


def _check_crowding(experiment: Experiment, dataset: Dataset) -> None:
    """A mosaic of the most crowded image with itself must fit: found now, not in mid-run."""
    augment, most = experiment.data.augment, experiment.data.max_boxes
    if experiment.train.epochs <= augment.close_mosaic or experiment.data.pipeline == "ssd":
        return
    joined = (4 if augment.mosaic > 0 else 1) * (2 if augment.mixup > 0 else 1)
    counts = [int((~record.crowd).sum()) for record in dataset.records]  # crowds are not taught
    count, crowded = max(counts), dataset.records[int(np.argmax(counts))]
    if joined * count > most:
        raise ValueError(
            f"{crowded.name} has {count} boxes, and mosaic and mixup join up to "
            f"{joined} images: set data.max_boxes to {joined * count} (now {most})"
        )


def _first_variables(experiment: Experiment) -> tuple[Any, str]:
    """Another RUN's weights as far as they fit, or fresh ones, and in words which."""
    variables, start = fresh_variables(experiment), engine.start_run(experiment)
    if start is None:
        return variables, "fresh weights"
    return _take_over(variables, start.weights(), experiment.model.channels)


def fresh_variables(experiment: Experiment) -> Any:
    """Initial variables of an experiment's model, a pure function of train.seed."""
    module, example = models.module(experiment.model), models.example(experiment.model, 64)
    # Drawing weights is hundreds of small programs that run once: on CPU compiling them without
    # optimisation takes half the time.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    init = jax.jit(module.init, compiler_options=quick)
    return init(jax.random.key(experiment.train.seed), *example)


def _take_over(fresh: Any, other: Any, channels: int = 0) -> tuple[Any, str]:
    """`other`'s tensors where name and shape agree, and in words which stayed fresh.

    A first convolution of more input channels (in all `channels`) starts with zeros for the new
    ones, so that the network answers as before whatever they show, such as a map beside the slice.
    """
    found = dict(jax.tree_util.tree_leaves_with_path(other))
    missed = []

    def pick(path: Any, leaf: Any) -> Any:
        got = found.get(path)
        if got is not None and got.shape == leaf.shape:
            return got
        if got is not None and _fewer_channels(got.shape, leaf.shape, channels):
            return np.pad(got, ((0, 0), (0, 0), (0, channels - got.shape[2]), (0, 0)))
        missed.append(jax.tree_util.keystr(path, simple=True, separator="/"))
        return leaf

    merged = jax.tree_util.tree_map_with_path(pick, fresh)
    total = len(jax.tree.leaves(fresh))
    if len(missed) == total:
        raise ValueError("train.init_from names a RUN of another model: no tensor fits")
    told = f"{total - len(missed)} of {total} tensors from train.init_from"
    return merged, told + (f"; fresh: {', '.join(missed)}" if missed else "")


def _fewer_channels(got: tuple[int, ...], wanted: tuple[int, ...], channels: int) -> bool:
    """Whether two kernels [h, w, I, O] differ in the image's channels alone, `got` having fewer."""
    alike = len(got) == len(wanted) == 4 and (*got[:2], got[3]) == (*wanted[:2], wanted[3])
    return alike and got[2] < wanted[2] == channels


def _batches(experiment: Experiment, dataset: Dataset, start_step: int) -> Iterator[Any]:
    process, processes = parallel.process()
    return batches.train_batches(
        dataset,
        experiment.data,
        batch_size=experiment.train.batch_size,
        epochs=experiment.train.epochs,
        seed=experiment.train.seed,
        start_step=start_step,
        process=process,
        processes=processes,
    )


def fitness(summary: dict[str, Any], rule: str) -> float:
    """What "better" is: classic 0.1 AP50 + 0.9 AP50-95, map AP50-95, ap50 AP50. No AP counts 0."""
    ap50, ap = (summary[k] or 0.0 for k in ("ap50", "ap50_95"))
    return {"classic": 0.1 * ap50 + 0.9 * ap, "map": ap, "ap50": ap50}[rule]


def _finish(run: Run, experiment: Experiment, dataset: Dataset, *, main: bool) -> None:
    """The best weights' table, curves and some pictures; all processes evaluate, `main` writes."""
    detect = parallel.map_detect(run.detector().detect)
    variables = parallel.replicate(run.weights("best"))
    summary = evaluate(detect, variables, dataset, experiment, progress=False)
    if not main:
        return
    run.write_metrics("val", summary)
    curves.curves(log.read_rows(run.path / "train.jsonl"), run.path / "pictures" / "curves.png")
    surest = summary["threshold"] or 0.25  # where F1 is best; nothing found: the usual score
    pictures.truths_and_detections(
        run, experiment.data, detect, variables, dataset, score_threshold=surest
    )

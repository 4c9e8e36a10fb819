"""Training and scoring the Siamese network of PCA-YOLO: a RUN of its own.

slices -> patches in groups of a slice -> loss -> engine -> RUN/metrics/val.json
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Experiment, check_side
from jaxdet.data import patches as cutting
from jaxdet.data import sources
from jaxdet.data.patches import PatchBatch
from jaxdet.data.sources import Dataset
from jaxdet.metrics import pairs
from jaxdet.models import siamese
from jaxdet.report import curves
from jaxdet.run import Run
from jaxdet.train import engine, evaluate, log, optim, parallel, unseen
from jaxdet.train.step import make_step
from jaxdet.types import Array

NUMBERS = ("loss", "auroc", "ap", "accuracy", "always_negative")  # of an evaluation, in the log
SMALLEST = 1e-7  # a probability, where its logarithm is taken


def train(
    experiment: Experiment,
    out: str | os.PathLike,
    data: dict[str, Dataset],
    *,
    resume: bool,
    **facts: Any,
) -> Run:
    """Trains the Siamese of `experiment` on data["train"], chosen on data["val"]; its RUN.

    As `loop.train` in all that concerns the RUN: locks, checkpoints, resume, errors. `facts` go
    into run.json.
    """
    check(experiment, data)
    main = parallel.process()[0] == 0
    with runs.locked(out) if main else contextlib.nullcontext():
        run = engine.open_run(experiment, out, data, resume, **facts)
        words = [f"{name}: {len(of)} slices" for name, of in data.items()]
        engine.train(run, _task(experiment, data), words)
        summary = score(run, data["val"], progress=False)
        if main:
            run.write_metrics("val", summary)
            rows = log.read_rows(run.path / "train.jsonl")
            curves.curves(rows, run.path / "pictures" / "curves.png", panels=CURVES)
    return run


CURVES = (
    ("learning rate", ("lr",)),
    ("of patches, held out", ("auroc", "ap")),
    ("accuracy", ("accuracy", "always_negative")),
)


def check(experiment: Experiment, data: dict[str, Dataset], field: str = "train") -> None:
    """Refuses what would fail after the data were read: channels, sides, devices, memory.

    `field` is what the recipe is called where the user wrote it.
    """
    cfg, given, recipe = experiment.model, experiment.data, experiment.train
    if cfg.channels != given.channels:
        raise ValueError(
            f"the Siamese network's channels are {cfg.channels} but data.channels is"
            f" {given.channels}: set both to the number of channels of the slices"
        )
    if recipe.init_from or recipe.fitness != "classic":
        raise ValueError(
            f"{field}.init_from and {field}.fitness are a detector's: a Siamese network starts"
            " fresh, and siamese.fitness says what its early stop watches"
        )
    check_side(given.image_size, cfg.patches.side)
    parallel.check_batch(recipe.batch_size, f"{field}.batch_size")
    parallel.check_batch(experiment.evaluate.batch_size, "evaluate.batch_size")
    params = runs.abstract_variables(experiment)["params"]
    _check_memory(params)
    optim.check_patterns(params, recipe)
    shared = {"batch_size": recipe.batch_size, "replicas": jax.device_count()}
    cutting.cut(data["train"], given, cfg.patches, **shared)
    if cfg.fitness == "ap" and not cutting.truth(data["val"], given, cfg.patches).any():
        raise ValueError(
            'siamese.fitness="ap" wants a positive patch among the val slices, and there is none:'
            " draw another split, or watch val_loss"
        )


def _check_memory(params: Any) -> None:
    """Weights, gradients and both moments of Adam must fit: the literal 512 px net wants 53 GB."""
    wanted = 4 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    there = parallel.memory()
    if there is not None and wanted > there:
        raise ValueError(
            f"this Siamese network wants {wanted / 2**30:.1f} GiB for weights, gradients and Adam"
            f" alone, and there are {there / 2**30:.1f} GiB: choose head='pool7' or a smaller"
            " input_size"
        )


def _task(experiment: Experiment, data: dict[str, Dataset]) -> engine.Task:
    cfg, given, recipe = experiment.model, experiment.data, experiment.train
    process, processes = parallel.process()
    shared = {"batch_size": recipe.batch_size, "replicas": jax.device_count()}
    plan = optim.plan(
        recipe,
        num_images=len(data["train"]),
        num_classes=1,
        steps_per_epoch=cutting.cut(data["train"], given, cfg.patches, **shared).steps,
    )

    def batches(step: int) -> Iterator[PatchBatch]:
        return cutting.train_batches(
            data["train"],
            given,
            cfg.patches,
            **shared,
            epochs=recipe.epochs,
            seed=recipe.seed,
            start_step=step,
            process=process,
            processes=processes,
        )

    program = parallel.map_detect(_program(cfg))
    truth = cutting.truth(data["val"], given, cfg.patches)

    def judge(variables: Any, progress: bool) -> tuple[dict[str, Any], float]:
        found = _scores(program, variables, data["val"], experiment, progress=progress)
        summary = _summary(found, truth, data["val"])
        better = {"val_loss": float(np.exp(-summary["loss"])), "ap": summary["ap"] or 0.0}
        return {name: summary[name] for name in NUMBERS}, better[cfg.fitness]

    return engine.Task(
        plan=plan,
        step=make_step(_forward(cfg), plan),
        fresh=lambda: (_fresh(experiment), "fresh weights"),
        batches=batches,
        judge=judge,
        dataset=data["train"],
    )


def _forward(cfg: siamese.Config) -> Callable:
    module = models.module(cfg)

    def forward(variables: Any, batch: PatchBatch) -> tuple[dict[str, Array], Any]:
        params = {"params": variables["params"]}
        logits = module.apply(params, batch.slices, batch.patches, train=True)
        told = batch.labels, batch.weights
        return siamese.loss(logits, *told, variables["params"], cfg=cfg), {}

    return forward


def _program(cfg: siamese.Config) -> Callable:
    """(variables, slices) -> a tuple of one, as evaluate.answers_of wants it."""
    return lambda variables, slices: (siamese.score(cfg, {"params": variables["params"]}, slices),)


def _fresh(experiment: Experiment) -> Any:
    """Initial variables, a pure function of train.seed."""
    example = models.example(experiment.model, experiment.data.image_size)
    init = jax.jit(models.module(experiment.model).init)
    return init(jax.random.key(experiment.train.seed), *example)


def _scores(
    program: Callable, variables: Any, dataset: Dataset, experiment: Experiment, *, progress: bool
) -> Float[np.ndarray, "N n"]:
    answers = evaluate.answers_of(
        program,
        variables,
        dataset,
        experiment,
        title="score patches",
        progress=progress,
    )
    return evaluate.together([answer for _, answer in answers], len(dataset))[0]


def score(run: Run, dataset: Dataset, *, progress: bool, which: str = "best") -> dict[str, Any]:
    """What metrics.pairs says of the RUN's best weights on a dataset, with "loss" (BCE, a pair)."""
    experiment = run.experiment
    program = parallel.map_detect(_program(experiment.model))
    variables = parallel.replicate(run.weights(which))
    found = _scores(program, variables, dataset, experiment, progress=progress)
    truth = cutting.truth(dataset, experiment.data, experiment.model.patches)
    return _summary(found, truth, dataset)


def score_run(run: Run, which: str = "best") -> dict[str, Any]:
    """`score` on the split evaluate.split of the RUN's own data, which must be as in training."""
    if "held_out" in run.facts:
        raise ValueError(
            f"{run.path} saw a part of its parent's training patients alone, for the maps of the"
            " others (fit=cross_fit): score RUN/siamese"
        )
    unseen.check_unchanged(run)
    dataset = sources.load(run.experiment.data, run.experiment.evaluate.split)
    patients = unseen.check_unseen(run, dataset)
    found = score(run, dataset, progress=True, which=which)
    return {**found, "split": dataset.split, "weights": which, "patients_are": patients}


def _summary(
    found: Float[np.ndarray, "N n"], truth: Bool[np.ndarray, "N n"], dataset: Dataset
) -> dict[str, Any]:
    right = np.where(truth, found, 1 - found).astype(np.float64)
    names = [record.name for record in dataset.records]
    return {
        "loss": float(-np.log(np.maximum(right, SMALLEST)).mean()),
        **pairs.summarise(found, truth, names),
    }

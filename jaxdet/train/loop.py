"""Training, from an experiment to a RUN. Reads as the story of a run."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
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
from jaxdet.train import checkpoint, log, optim, parallel, pictures, unseen
from jaxdet.train.evaluate import evaluate
from jaxdet.train.step import TrainState, init_state, make_step

UNKNOWN = -1.0  # the fitness of a checkpoint that nobody evaluated: it is never the best


@dataclasses.dataclass
class Progress:
    """Where a run stands; kept in every checkpoint beside the state."""

    step: int = 0  # micro-batches done
    fitness: float = UNKNOWN  # of the weights at this step
    best: float = UNKNOWN
    waited: int = 0  # epochs since the best


def train(experiment: Experiment, out: str | os.PathLike, *, resume: bool = False) -> Run:
    """Trains `experiment` into the folder `out`, or goes on there, and returns the RUN.

    Checkpoints are written after every epoch and on SIGTERM, at a step boundary; a run that was
    killed at any time resumes to the same bytes. One that is trained on with other epochs or
    patience says so in run.json. Raises ValueError for an experiment that does not fit its data and
    for a folder that another process trains into, and FloatingPointError, naming the loss parts and
    the images, when a loss is not finite.
    """
    data = {split: sources.load(experiment.data, split) for split in ("train", "val")}
    check(experiment, data)
    plan = optim.plan(
        experiment.train,
        num_images=len(data["train"]),
        num_classes=len(data["train"].class_names),
        steps_per_epoch=batches.steps_per_epoch(len(data["train"]), experiment.train.batch_size),
    )
    main = parallel.process()[0] == 0
    with runs.locked(out) if main else contextlib.nullcontext():
        return _train(experiment, out, data, plan, resume=resume, main=main)


def _train(
    experiment: Experiment,
    out: str | os.PathLike,
    data: dict[str, Dataset],
    plan: optim.Plan,
    *,
    resume: bool,
    main: bool,
) -> Run:
    run = _open(experiment, out, data, resume)
    detector = models.from_config(experiment.model)
    step = parallel.map_step(make_step(detector, plan))
    detect = parallel.map_detect(detector.detect)
    with run.manager() as manager, _stop_signal(manager) as stop_asked:
        state, now, source = _start(run, manager, plan)
        if main and _goes_on(now, plan):
            runs.rewrite_experiment(run)
        logger = log.Log(run.path, experiment.train.log_every, main=main, start_step=now.step)
        logger.say(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {plan.optimizer}")
        logger.say(source)
        for split, dataset in data.items():
            logger.say(f"{split}: {len(dataset)} images{tables.faults(dataset.faults)}")
        state = parallel.replicate(state)
        feed = parallel.prefetch(_batches(experiment, data["train"], now.step))
        try:
            while _goes_on(now, plan):
                state, stopped = _epoch(
                    state, step, feed, now, plan, logger, data["train"], stop_asked
                )
                kept = parallel.to_host(state)
                checkpoint.check_finite(kept)
                if now.step % plan.steps_per_epoch:  # stopped inside an epoch
                    now.fitness = UNKNOWN
                else:
                    _judge(state, detect, data["val"], experiment, now, plan, logger)
                _save(manager, kept, now, run)
                if stopped:
                    logger.say(f"stopped at step {now.step}; go on with --resume")
                    raise SystemExit(143)
        finally:
            manager.wait_until_finished()
            logger.close()
    _finish(run, detect, data["val"], main=main)
    return run


def check(experiment: Experiment, data: dict[str, Dataset]) -> None:
    """Refuses an experiment whose model, data and devices do not fit, before any compilation.

    `data` holds train and val, and may hold test, whom train.init_from must not know either.
    """
    model, names = experiment.model, data["train"].class_names
    if model.channels != experiment.data.channels:
        raise ValueError(
            f"model.channels is {model.channels} but data.channels is {experiment.data.channels}: "
            "set both to the number of channels of the images"
        )
    if model.num_classes != len(names):
        raise ValueError(
            f"model.num_classes is {model.num_classes} but the data has {len(names)} classes: "
            f"{', '.join(names)}"
        )
    if data["val"].class_names != names:
        raise ValueError(f"train has the classes {names}, val has {data['val'].class_names}")
    _check_crowding(experiment, data["train"])
    parallel.check_batch(experiment.train.batch_size, "train.batch_size")
    parallel.check_batch(experiment.evaluate.batch_size, "evaluate.batch_size")
    # Traces the model: sides that do not divide are named.
    optim.check_patterns(runs.abstract_variables(experiment)["params"], experiment.train)
    start = _start_run(experiment)
    if start and experiment.train.init_patients == "check":
        for split in [name for name in data if name != "train"]:
            unseen.check_start(start, data[split])


def _check_crowding(experiment: Experiment, dataset: Dataset) -> None:
    """A mosaic of the most crowded image with itself must fit: found now, not in mid-run."""
    augment, most = experiment.data.augment, experiment.data.max_boxes
    if experiment.train.epochs <= augment.close_mosaic:
        return
    joined = (4 if augment.mosaic > 0 else 1) * (2 if augment.mixup > 0 else 1)
    counts = [int((~record.crowd).sum()) for record in dataset.records]  # crowds are not taught
    count, crowded = max(counts), dataset.records[int(np.argmax(counts))]
    if joined * count > most:
        raise ValueError(
            f"{crowded.name} has {count} boxes, and mosaic and mixup join up to "
            f"{joined} images: set data.max_boxes to {joined * count} (now {most})"
        )


def _open(
    experiment: Experiment, out: str | os.PathLike, data: dict[str, Dataset], resume: bool
) -> Run:
    path, main = pathlib.Path(out), parallel.process()[0] == 0
    digests = unseen.digests(experiment.data, data["train"], data["val"])
    there = (path / "run.json").exists()
    parallel.wait("all have looked")  # before the first process writes it
    if not (there and resume) and (main or there):  # one that is there is refused by everybody
        kin = _start_run(experiment) if experiment.train.init_patients == "check" else None
        seen = unseen.trained_on(data["train"], kin)
        facts = {**digests, "trained_on": seen, **runs.phase_facts(experiment.data)}
        runs.create(path, experiment, data["train"].class_names, **facts)
    parallel.wait("run.json")
    run = runs.open_run(path)
    runs.check_same(run, experiment)
    if any(digests.get(name) != kept for name, kept in run.digests.items()):
        raise ValueError(
            f"{path} was made with other images or another split than the data has now"
        )
    # Epochs and patience may be new, for a finished run can be extended; the data may have moved.
    return dataclasses.replace(run, experiment=experiment)


def _start_run(experiment: Experiment) -> Run | None:
    """The RUN whose weights begin this one, if there is one."""
    path = experiment.train.init_from
    return runs.open_run(path) if path else None


def _save(manager: Any, state: TrainState, now: Progress, run: Run) -> None:
    checkpoint.save(manager, state, dataclasses.asdict(now), now.fitness, run.digests)


def _start(run: Run, manager: Any, plan: optim.Plan) -> tuple[TrainState, Progress, str]:
    """The host state to begin with, and in words where it is from.

    The last checkpoint, or else another RUN's weights, or else fresh ones.
    """
    shapes = runs.abstract_variables(run.experiment)
    shapes = jax.eval_shape(lambda variables: init_state(variables, plan), shapes)
    kept = checkpoint.restore(manager, shapes)
    if kept is not None:
        state, meta = kept
        run.check_digests(meta, f"{run.checkpoints}/{meta['step']}")
        now = Progress(**{k: v for k, v in meta.items() if k not in runs.DIGESTS})
        return state, now, f"resumed at step {now.step}"
    variables, source = fresh_variables(run.experiment), "fresh weights"
    start = _start_run(run.experiment)
    if start:
        variables, source = _take_over(variables, start.weights())
    return jax.tree.map(np.asarray, init_state(variables, plan)), Progress(), source


def fresh_variables(experiment: Experiment) -> Any:
    """Initial variables of an experiment's model, a pure function of train.seed."""
    module = models.from_config(experiment.model).module
    image = np.zeros((1, 64, 64, experiment.data.channels), np.float32)
    # Drawing weights is hundreds of small programs that run once: on CPU compiling them without
    # optimisation takes half the time.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    init = jax.jit(module.init, compiler_options=quick)
    return init(jax.random.key(experiment.train.seed), image)


def _take_over(fresh: Any, other: Any) -> tuple[Any, str]:
    """`other`'s tensors where name and shape agree, and in words which stayed fresh."""
    found = dict(jax.tree_util.tree_leaves_with_path(other))
    missed = []

    def pick(path: Any, leaf: Any) -> Any:
        if path in found and found[path].shape == leaf.shape:
            return found[path]
        missed.append(jax.tree_util.keystr(path, simple=True, separator="/"))
        return leaf

    merged = jax.tree_util.tree_map_with_path(pick, fresh)
    total = len(jax.tree.leaves(fresh))
    if len(missed) == total:
        raise ValueError("train.init_from names a RUN of another model: no tensor fits")
    told = f"{total - len(missed)} of {total} tensors from train.init_from"
    return merged, told + (f"; fresh: {', '.join(missed)}" if missed else "")


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


def _epoch(
    state: TrainState,
    step: Callable,
    feed: Iterator[Any],
    now: Progress,
    plan: optim.Plan,
    logger: log.Log,
    dataset: Dataset,
    stop_asked: Callable[[int], bool],
) -> tuple[TrainState, bool]:
    """The rest of the current epoch, or less of it when a signal asks to stop, and whether it did.

    A signal that comes by with the epoch's last step stops the run after its evaluation.
    """
    epoch, done = divmod(now.step, plan.steps_per_epoch)
    logger.epoch(epoch, plan.epochs, plan.steps_per_epoch, done)
    # Looked at one step late, so that no device waits for the host.
    waiting: list[tuple[int, Any, Any]] = []
    stopped = False
    for _ in range(done, plan.steps_per_epoch):
        batch = next(feed)
        state, scalars = step(state, batch)
        now.step += 1
        waiting.append((now.step, scalars, batch.index))
        if len(waiting) > 1:
            _report(*waiting.pop(0), epoch, logger, dataset)
        stopped = stop_asked(now.step)
        if stopped:
            break
    for late in waiting:
        _report(*late, epoch, logger, dataset)
    return state, stopped


def _report(step: int, scalars: Any, index: Any, epoch: int, logger: Any, dataset: Dataset) -> None:
    values = {k: float(v) for k, v in parallel.to_host(scalars).items()}
    bad = [k for k, v in values.items() if not np.isfinite(v)]
    if bad:
        names = [dataset.records[i].name for i in np.asarray(index).reshape(-1) if i >= 0]
        raise FloatingPointError(
            f"step {step}: {', '.join(f'{k} = {values[k]}' for k in bad)} "
            f"(all: {values}) on the images {', '.join(names)}. The last good checkpoint is kept; "
            "lower train.lr, or look at these images and their boxes"
        )
    logger.step(epoch, step, values)


def _judge(
    state: TrainState,
    detect: Callable,
    dataset: Dataset,
    experiment: Experiment,
    now: Progress,
    plan: optim.Plan,
    logger: log.Log,
) -> None:
    """Evaluates the moving average and counts the epochs since the best."""
    cfg = experiment.train
    epochs_done = now.step // plan.steps_per_epoch
    now.waited += 1
    now.fitness = UNKNOWN
    if epochs_done % cfg.evaluate_every and epochs_done != cfg.epochs:
        return
    logger.finish_bar()
    summary = evaluate(detect, state.ema, dataset, experiment, progress=logger.terminal)
    names = ("ap50", "ap50_95", "precision", "recall")
    logger.row({"epoch": epochs_done - 1, "step": now.step, **{k: summary[k] for k in names}})
    now.fitness = fitness(summary, cfg.fitness)
    if now.fitness >= now.best:
        now.best, now.waited = now.fitness, 0


def _goes_on(now: Progress, plan: optim.Plan) -> bool:
    """Whether epochs and patience are left. Patience 0 waits for ever, as in ultralytics."""
    patient = not 0 < plan.cfg.patience <= now.waited
    return now.step < plan.epochs * plan.steps_per_epoch and patient


def fitness(summary: dict[str, Any], rule: str) -> float:
    """What "better" is: classic 0.1 AP50 + 0.9 AP50-95, map AP50-95, ap50 AP50. No AP counts 0."""
    ap50, ap = (summary[k] or 0.0 for k in ("ap50", "ap50_95"))
    return {"classic": 0.1 * ap50 + 0.9 * ap, "map": ap, "ap50": ap50}[rule]


def _finish(run: Run, detect: Any, dataset: Dataset, *, main: bool) -> None:
    """The best weights' table, curves and some pictures; all processes evaluate, `main` writes."""
    variables = parallel.replicate(run.weights("best"))
    summary = evaluate(detect, variables, dataset, run.experiment, progress=False)
    if not main:
        return
    run.write_metrics("val", summary)
    curves.curves(log.read_rows(run.path / "train.jsonl"), run.path / "pictures" / "curves.png")
    surest = summary["threshold"] or 0.25  # where F1 is best; nothing found: the usual score
    pictures.truths_and_detections(run, detect, variables, dataset, score_threshold=surest)


@contextlib.contextmanager
def _stop_signal(manager: Any) -> Iterator[Callable[[int], bool]]:
    """Whether SIGTERM, which clusters send before they kill, has come by a step.

    With several processes JAX's own notice makes all of them stop at the same step; alone it stays
    silent, and a handler of our own does it, for as long as the run lasts. A signal that came with
    the last step stops nothing here: it is handed on to a handler from before, if there is one.
    """
    stop = threading.Event()
    several = parallel.process()[1] > 1
    mine = not several and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set()) if mine else None

    def asked(step: int) -> bool:
        if several and manager.reached_preemption(step):  # true at this one step only
            stop.set()
        return stop.is_set()

    try:
        yield asked
    finally:
        if mine:
            signal.signal(signal.SIGTERM, before)
    if stop.is_set() and callable(before):
        before(signal.SIGTERM, None)

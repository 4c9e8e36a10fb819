"""What every training does, whatever is trained: begin or go on, step, judge, save, stop.

A Task says what is trained. Checkpoints are written after every epoch and on SIGTERM, at a step
boundary; a run that was killed at any time resumes to the same bytes.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdet import run as runs
from jaxdet.config import Experiment
from jaxdet.data.sources import Dataset
from jaxdet.run import Run
from jaxdet.train import checkpoint, log, optim, parallel, unseen
from jaxdet.train.step import TrainState, init_state

UNKNOWN = -1.0  # the fitness of a checkpoint that nobody evaluated: it is never the best


class Task(NamedTuple):
    """One thing that is trained; the engine knows nothing else about it."""

    plan: optim.Plan
    step: Callable  # (state, batch) -> (state, scalars), of one replica
    fresh: Callable[[], tuple[Any, str]]  # the first variables, and in words where they are from
    batches: Callable[[int], Iterator[Any]]  # host batches from a step on, with a field `index`
    # (the replicated moving average, whether to show a bar) -> (numbers of the log, fitness >= 0)
    judge: Callable[[Any, bool], tuple[dict[str, Any], float]]
    dataset: Dataset  # whose records the `index` of a batch means


@dataclasses.dataclass
class Progress:
    """Where a run stands; kept in every checkpoint beside the state."""

    step: int = 0  # micro-batches done
    fitness: float = UNKNOWN  # of the weights at this step
    best: float = UNKNOWN
    waited: int = 0  # epochs since the best


def train(run: Run, task: Task, words: list[str]) -> None:
    """Trains until the epochs or the patience are over. `words` are said at the start.

    FloatingPointError, naming the loss parts and the images, when a loss is not finite; SystemExit
    143 when SIGTERM ended it.
    """
    plan, main = task.plan, parallel.process()[0] == 0
    step = parallel.map_step(task.step)
    with run.manager() as manager, _stop_signal(manager) as stop_asked:
        state, now, source = _start(run, manager, task)
        if main and _goes_on(now, plan):
            runs.rewrite_experiment(run)
        logger = log.Log(run.path, plan.cfg.log_every, main=main, start_step=now.step)
        logger.say(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {plan.optimizer}")
        for text in (source, *words):
            logger.say(text)
        state = parallel.replicate(state)
        feed = parallel.prefetch(task.batches(now.step))
        try:
            while _goes_on(now, plan):
                state, stopped = _epoch(state, step, feed, now, task, logger, stop_asked)
                kept = parallel.to_host(state)
                checkpoint.check_finite(kept)
                if now.step % plan.steps_per_epoch:  # stopped inside an epoch
                    now.fitness = UNKNOWN
                else:
                    _judge(state, task, now, logger)
                _save(manager, kept, now, run)
                if stopped:
                    logger.say(f"stopped at step {now.step}; go on with --resume")
                    raise SystemExit(143)
        finally:
            manager.wait_until_finished()
            logger.close()


def open_run(
    experiment: Experiment,
    out: str | os.PathLike,
    data: dict[str, Dataset],
    resume: bool,
    **facts: Any,
) -> Run:
    """The RUN folder `out`, new, or there already and of the same experiment and data.

    `data` holds train and val; `facts` go into a new run.json.
    """
    path, main = pathlib.Path(out), parallel.process()[0] == 0
    digests = unseen.digests(experiment.data, data["train"], data["val"])
    there = (path / "run.json").exists()
    parallel.wait("all have looked")  # before the first process writes it
    if not (there and resume) and (main or there):  # one that is there is refused by everybody
        kin = start_run(experiment) if experiment.train.init_patients == "check" else None
        seen = unseen.trained_on(data["train"], kin)
        told = {**digests, "trained_on": seen, **runs.phase_facts(experiment.data), **facts}
        runs.create(path, experiment, data["train"].class_names, **told)
    parallel.wait("run.json")
    run = runs.open_run(path)
    runs.check_same(run, experiment)
    if any(digests.get(name) != kept for name, kept in run.digests.items()):
        raise ValueError(
            f"{path} was made with other images or another split than the data has now"
        )
    # Epochs and patience may be new, for a finished run can be extended; the data may have moved.
    return dataclasses.replace(run, experiment=experiment)


def start_run(experiment: Experiment) -> Run | None:
    """The RUN whose weights begin this one, if there is one."""
    path = experiment.train.init_from
    return runs.open_run(path) if path else None


def _save(manager: Any, state: TrainState, now: Progress, run: Run) -> None:
    checkpoint.save(manager, state, dataclasses.asdict(now), now.fitness, run.digests)


def _start(run: Run, manager: Any, task: Task) -> tuple[TrainState, Progress, str]:
    """The host state to begin with, and in words where it is from: the last checkpoint, or new."""
    shapes = runs.abstract_variables(run.experiment)
    shapes = jax.eval_shape(lambda variables: init_state(variables, task.plan), shapes)
    kept = checkpoint.restore(manager, shapes)
    if kept is not None:
        state, meta = kept
        run.check_digests(meta, f"{run.checkpoints}/{meta['step']}")
        now = Progress(**{k: v for k, v in meta.items() if k not in runs.DIGESTS})
        return state, now, f"resumed at step {now.step}"
    variables, source = task.fresh()
    return jax.tree.map(np.asarray, init_state(variables, task.plan)), Progress(), source


def _epoch(
    state: TrainState,
    step: Callable,
    feed: Iterator[Any],
    now: Progress,
    task: Task,
    logger: log.Log,
    stop_asked: Callable[[int], bool],
) -> tuple[TrainState, bool]:
    """The rest of the current epoch, or less of it when a signal asks to stop, and whether it did.

    A signal that comes by with the epoch's last step stops the run after its evaluation.
    """
    plan = task.plan
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
            _report(*waiting.pop(0), epoch, logger, task.dataset)
        stopped = stop_asked(now.step)
        if stopped:
            break
    for late in waiting:
        _report(*late, epoch, logger, task.dataset)
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


def _judge(state: TrainState, task: Task, now: Progress, logger: log.Log) -> None:
    """Evaluates the moving average and counts the epochs since the best."""
    cfg = task.plan.cfg
    epochs_done = now.step // task.plan.steps_per_epoch
    now.waited += 1
    now.fitness = UNKNOWN
    if epochs_done % cfg.evaluate_every and epochs_done != cfg.epochs:
        return
    logger.finish_bar()
    numbers, now.fitness = task.judge(state.ema, logger.terminal)
    logger.row({"epoch": epochs_done - 1, "step": now.step, **numbers})
    if now.fitness >= now.best:
        now.best, now.waited = now.fitness, 0


def _goes_on(now: Progress, plan: optim.Plan) -> bool:
    """Whether epochs and patience are left. Patience 0 waits for ever, as in ultralytics."""
    patient = not 0 < plan.cfg.patience <= now.waited
    return now.step < plan.epochs * plan.steps_per_epoch and patient


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


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends with 143 between trainings too, as inside of one (`train`).

    One inside of another does the same. The handler of before is back when it ends.
    """

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

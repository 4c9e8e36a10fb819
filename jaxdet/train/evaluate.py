"""Scoring a model: one jitted program from images to padded Detections, then the metrics room."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxdet import metrics
from jaxdet.config import Experiment
from jaxdet.data import batch as batches
from jaxdet.data import sources
from jaxdet.data.sources import Dataset
from jaxdet.run import Run
from jaxdet.train import parallel
from jaxdet.types import Detections, Example


class Share:
    """Every `processes`-th example of a dataset: what one process evaluates.

    All shares are equally long; where the dataset ends too early they begin again from its start.
    """

    def __init__(self, dataset: batches.Dataset, process: int, processes: int):
        self.dataset, self.process, self.processes = dataset, process, processes

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.processes)

    def __getitem__(self, index: int) -> Example:
        return self.dataset[(self.process + index * self.processes) % len(self.dataset)]


def detect_all(
    detect: Callable,
    variables: Any,
    dataset: batches.Dataset,
    experiment: Experiment,
    *,
    progress: bool,
) -> Detections:
    """Detections of a whole dataset in px of the original images, [N, D, ...], in its order.

    `detect` is parallel.map_detect's, `variables` replicated. Every process reads and detects its
    own share; all of them get the whole answer.
    """
    process, processes = parallel.process()
    share = Share(dataset, process, processes)
    size = experiment.evaluate.batch_size // processes
    todo = batches.eval_batches(share, experiment.data, batch_size=size)
    steps = batches.steps_per_epoch(len(share), size)
    found: list[Detections] = []
    for batch, places in tqdm(todo, total=steps, desc="evaluate", disable=not progress):
        images = parallel.split(batch.images)
        here = parallel.join(detect(variables, images))
        found += [
            Detections(place.to_original(boxes) * (labels >= 0)[:, None], scores, labels)
            for place, boxes, scores, labels in zip(places, *here, strict=False)
        ]
    return _together(found, len(dataset))


def _together(found: list[Detections], total: int) -> Detections:
    """All processes' detections in dataset order, without those that only filled a share."""
    stacked = Detections(*(np.stack(field) for field in zip(*found, strict=True)))
    gathered = parallel.gather(stacked)  # [processes, longest, ...]
    return Detections(*(np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:total] for x in gathered))


def evaluate(
    detect: Callable, variables: Any, dataset: Dataset, experiment: Experiment, *, progress: bool
) -> dict[str, Any]:
    """The summary of metrics.summarise for a dataset, under the experiment's protocol.

    FloatingPointError names the first image whose scores are not finite: the weights are broken.
    """
    found = detect_all(detect, variables, dataset, experiment, progress=progress)
    broken = np.flatnonzero(~np.isfinite(found.scores).all(axis=1))
    if len(broken):
        raise FloatingPointError(
            f"scores on {dataset.records[broken[0]].name} and {len(broken) - 1} more images are "
            "not finite. The last good checkpoint is kept; lower train.lr"
        )
    truths = [(r.boxes_xyxy, r.labels, r.crowd, r.area) for r in dataset.records]
    protocol = experiment.evaluate.protocol
    summary = metrics.summarise(found, truths, dataset.class_names, protocol=protocol)
    return {**summary, "faults": dataset.faults}


def evaluate_run(run: Run, which: str = "best", *, other_data: bool = False) -> dict[str, Any]:
    """The summary of a RUN's own split and protocol, on all local devices.

    Unless they are `other_data`, the images must be split as they were when the RUN was trained: a
    patient that has moved since could be one that was trained on.
    """
    experiment = run.experiment
    parallel.check_batch(experiment.evaluate.batch_size, "evaluate.batch_size")
    kept = run.facts.get("split_digest")
    if kept and not other_data:
        trained = (sources.load(experiment.data, split) for split in ("train", "val"))
        if sources.digest(*trained) != kept:
            raise ValueError(
                f"{run.path}: the images of {experiment.data.path or experiment.data.source} or "
                "their split have changed since training, so held-out may be no longer held out. "
                "Give the data it was trained on, or lists of their own with --source"
            )
    dataset = sources.load(experiment.data, experiment.evaluate.split)
    detect = parallel.map_detect(run.detector().detect)
    variables = parallel.replicate(run.weights(which))
    return evaluate(detect, variables, dataset, experiment, progress=True)

"""Scoring a model: one jitted program from images to padded Detections, then the metrics room."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxdet import metrics, models
from jaxdet.config import Experiment
from jaxdet.data import batch as batches
from jaxdet.data import sources
from jaxdet.data.patches import check_square
from jaxdet.data.sources import Dataset
from jaxdet.data.transforms import Letterbox
from jaxdet.metrics.facts import Facts
from jaxdet.metrics.scorecard import Scorecard
from jaxdet.report import curves, errors, tables
from jaxdet.run import Run
from jaxdet.train import parallel, unseen
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
    answers = answers_of(
        detect, variables, dataset, experiment, title="evaluate", progress=progress
    )
    return _at_home(answers, len(dataset))


def detect_officially(
    variables: Any, dataset: batches.Dataset, experiment: Experiment, *, progress: bool
) -> Detections:
    """`detect_all`, but every image is decoded on the host as the model's authors do it.

    ValueError for a model whose authors' boxes are not known.
    """
    model = experiment.model
    decode = models.official_decode(model)
    program = parallel.map_detect(models.from_config(model).module.apply)
    told = {"title": "evaluate", "progress": progress}
    answers = answers_of(program, variables, dataset, experiment, **told)
    return _at_home(((place, decode(out)) for place, out in answers), len(dataset))


def _at_home(answers: Iterable[tuple[Letterbox, Any]], total: int) -> Detections:
    """Detections of all processes in px of the original images."""
    found = [
        Detections(place.to_original(boxes) * (labels >= 0)[:, None], scores, labels)
        for place, (boxes, scores, labels) in answers
    ]
    return together(found, total)


def answers_of(
    program: Callable,
    variables: Any,
    dataset: batches.Dataset,
    experiment: Experiment,
    *,
    title: str,
    progress: bool,
) -> Iterator[tuple[Letterbox, tuple[np.ndarray, ...]]]:
    """What a mapped program answers to each image of this process's share, and the image's place.

    `program(variables, images)` gives a tree of arrays with a row an image; the leaves are taken.
    Where patches are scored, images that are not square are refused, by name.
    """
    process, processes = parallel.process()
    share = Share(dataset, process, processes)
    size = experiment.evaluate.batch_size // processes
    todo = batches.eval_batches(share, experiment.data, batch_size=size)
    square = models.wants_squares(experiment.model)
    steps = batches.steps_per_epoch(len(share), size)
    for batch, places in tqdm(todo, total=steps, desc=title, disable=not progress):
        for place, index in zip(places, batch.index, strict=False):
            if square and place.height != place.width:
                check_square(place, share[int(index)].name)
        answer = parallel.join(program(variables, parallel.split(batch.images)))
        yield from zip(places, zip(*jax.tree.leaves(answer), strict=True), strict=False)


def together(rows: list[Any], total: int) -> Any:
    """All processes' rows (tuples of arrays) stacked in dataset order, without what filled up."""
    stacked = jax.tree.map(lambda *column: np.stack(column), *rows)
    gathered = parallel.gather(stacked)  # [processes, longest, ...]
    return jax.tree.map(lambda x: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:total], gathered)


def evaluate(
    detect: Callable, variables: Any, dataset: Dataset, experiment: Experiment, *, progress: bool
) -> dict[str, Any]:
    """The summary of metrics.summarise for a dataset, under the experiment's protocol.

    What training looks at after an epoch, and chooses the best weights by. So no slice is skipped,
    for PixelLink neither (departs): else the network that finds nothing but its surest lesion would
    be the best. FloatingPointError as in `found_in`.
    """
    found = found_in(detect, variables, dataset, experiment, progress=progress)
    summary = metrics.summarise(
        found,
        truths_of(dataset),
        dataset.class_names,
        protocol=experiment.evaluate.protocol,
    )
    return {**summary, "faults": dataset.faults, "full": full(found)}


def full(found: Detections) -> int:
    """Images with as many detections as fit: of these some may have been left out."""
    return int((found.labels >= 0).all(axis=1).sum())


def left_out(variables: Any, dataset: Dataset, experiment: Experiment) -> int | None:
    """Lesions for which max_detections had no room; None for a model that cannot count them.

    Another pass over the dataset: worth it where an image is `full`.
    """
    count = models.counter(experiment.model)
    if count is None:
        return None
    room = experiment.model.max_detections
    told = {"title": "count", "progress": True}
    answers = answers_of(parallel.map_detect(count), variables, dataset, experiment, **told)
    (counts,) = together([numbers for _, numbers in answers], len(dataset))
    return int(np.maximum(counts - room, 0).sum())


def found_in(
    detect: Callable, variables: Any, dataset: Dataset, experiment: Experiment, *, progress: bool
) -> Detections:
    """`detect_all`; FloatingPointError names the first image whose numbers are not finite."""
    if experiment.evaluate.boxes == "official":
        found = detect_officially(variables, dataset, experiment, progress=progress)
    else:
        found = detect_all(detect, variables, dataset, experiment, progress=progress)
    finite = np.isfinite(found.scores).all(axis=1) & np.isfinite(found.boxes_xyxy).all(axis=(1, 2))
    broken = np.flatnonzero(~finite)
    if len(broken):
        raise FloatingPointError(
            f"scores or boxes on {dataset.records[broken[0]].name} and {len(broken) - 1} more"
            " images are not finite. The last good checkpoint is kept; lower train.lr"
        )
    return found


def truths_of(dataset: Dataset) -> list[tuple[np.ndarray, ...]]:
    """Boxes, labels, crowd flags and areas of each image, as the metrics take them."""
    return [(r.boxes_xyxy, r.labels, r.crowd, r.area) for r in dataset.records]


def facts_of(dataset: Dataset) -> Facts:
    """What the records tell beside their boxes; NaN and "" where they tell nothing."""
    records = dataset.records
    unknown = [np.full(len(r.labels), np.nan, np.float32) for r in records]
    return Facts(
        patients=tuple(r.patient for r in records),
        phases=tuple(r.phase for r in records),
        pixel_mm=np.array([r.pixel_mm or (np.nan, np.nan) for r in records]).reshape(-1, 2),
        diameters_mm=tuple(
            u if r.diameters_mm is None else r.diameters_mm
            for r, u in zip(records, unknown, strict=True)
        ),
        misaligned_mm=tuple(
            u if r.misaligned_mm is None else r.misaligned_mm
            for r, u in zip(records, unknown, strict=True)
        ),
    )


def _skips(experiment: Experiment) -> bool:
    """Whether the official evaluator skips slices without detections for this model's family.

    Only under its own protocol: "fixed" counts them for every model.
    """
    official = experiment.evaluate.protocol.startswith("l0sg")
    return official and models.skips_empty_images(experiment.model)


class Scored(NamedTuple):
    """A RUN's detections on a dataset, and all that is said of them."""

    dataset: Dataset
    found: Detections  # [N, D, ...] in px of the original images
    card: Scorecard


def score_run(
    run: Run, which: str = "best", *, other_data: bool = False, other_patients: bool = False
) -> Scored:
    """Detections and scorecard of a RUN on its own split and under its protocol, on all devices.

    A patient that the RUN was trained on is refused, except in its own split "train", which is
    nothing else, and where images were dealt (data.split_unit). Unless they are `other_data`, the
    images must also be those of the training, split as then. `other_patients` says that other data
    hold other people, whatever their names.
    """
    experiment = run.experiment
    parallel.check_batch(experiment.evaluate.batch_size, "evaluate.batch_size")
    if not other_data:
        unseen.check_unchanged(run)
    dataset = sources.load(experiment.data, experiment.evaluate.split)
    patients = "declared others"
    if not (other_data and other_patients):
        patients = unseen.check_unseen(run, dataset, other_data=other_data)
    detect = parallel.map_detect(run.program())
    variables = parallel.replicate(run.all_weights(which))
    found = found_in(detect, variables, dataset, experiment, progress=True)
    card = metrics.scorecard(
        found,
        truths_of(dataset),
        dataset.class_names,
        facts_of(dataset),
        protocol=experiment.evaluate.protocol,
        skip_empty_images=_skips(experiment),
    )
    card.numbers.update(
        split=dataset.split,
        faults=dataset.faults,
        full=full(found),
        left_out=left_out(variables, dataset, experiment) if full(found) else 0,
        weights=which,
        boxes=experiment.evaluate.boxes,
        other_data=other_data,
        patients_are=patients,
    )
    return Scored(dataset, found, card)


def evaluate_run(run: Run, which: str = "best", *, other_data: bool = False) -> dict[str, Any]:
    """The numbers of `score_run`."""
    return score_run(run, which, other_data=other_data).card.numbers


def write(run: Run, name: str, scored: Scored) -> None:
    """RUN/metrics/NAME_patients.csv, NAME_detections.npz, pictures, and last NAME.json.

    The pictures are RUN/pictures/NAME_errors.png, NAME_froc.png and NAME_precision_recall.png. The
    JSON says that all is there: a cross-validation takes a fold that has one for done.
    """
    dataset, found, card = scored
    folder = run.path / "metrics"
    folder.mkdir(exist_ok=True)
    tables.write_csv(folder / f"{name}_patients.csv", card.numbers["per_patient"])
    names = np.array([record.name for record in dataset.records])
    np.savez_compressed(folder / f"{name}_detections.npz", **found._asdict(), names=names)
    pictures = run.path / "pictures"
    pictures.mkdir(exist_ok=True)
    curves.precision_recall(card.numbers, pictures / f"{name}_precision_recall.png")
    curves.froc(card.numbers, pictures / f"{name}_froc.png")
    errors.contact_sheet(
        card.audit.errors,
        lambda i: dataset[i].image,
        found,
        truths_of(dataset),
        list(names),
        pictures / f"{name}_errors.png",
    )
    run.write_metrics(name, card.numbers)

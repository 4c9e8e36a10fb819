"""From files to findings: read, detect, put back into the image's own pixels, write."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from jaxdet import models
from jaxdet.data.batch import model_input
from jaxdet.data.patches import check_square
from jaxdet.data.slices import Missing
from jaxdet.data.transforms import Letterbox
from jaxdet.predict import inputs, write
from jaxdet.predict.inputs import Slice
from jaxdet.run import Run
from jaxdet.types import Detections


def predict(
    run: Run,
    paths: Iterable[str],
    out: str | os.PathLike,
    *,
    score_threshold: float = 0.25,
    which: Literal["best", "latest"] = "best",
    batch_size: int = 8,
    series_uid: str | None = None,
    missing: Missing = "error",
    nan: Literal["error", "fill"] = "error",
    gaps: Literal["error", "allow"] = "error",
) -> dict[str, int]:
    """Detects in every input and writes boxes, overlays and a sheet to `out`; counts what it did.

    Inputs are read and windowed as the RUN was trained. At most `batch_size` slices
    are in the device's memory, and a volume or patient is read one at a time. `missing`, `nan` and
    `gaps` are those of `inputs.Reading`.
    """
    order, near = run.phases()
    reading = inputs.Reading(order, near, missing, nan, gaps)
    pieces = inputs.read(paths, run.experiment.data, series_uid, reading)
    found = detect(run, pieces, score_threshold, which, batch_size)
    shown = iter(tqdm(found, desc="predict", unit="slice"))
    return write.write(out, shown, run.class_names, score_threshold)


def detect(
    run: Run,
    pieces: Iterable[Slice],
    score_threshold: float,
    which: Literal["best", "latest"] = "best",
    batch_size: int = 8,
) -> Iterator[tuple[Slice, Detections]]:
    """Every slice with its Detections in px of that slice.

    A model that takes any multiple of some px (its family's MULTIPLE) sees each image in the
    smallest such rectangle, as the reference predicts; another in its square. One compilation a
    shape.
    """
    pieces = iter(pieces)
    ahead = list(itertools.islice(pieces, 2))
    size = batch_size if len(ahead) > 1 else 1  # a single image is a batch of one
    variables = jax.device_put(run.all_weights(which))
    program = jax.jit(run.predictor(score_threshold))
    multiple = getattr(models.family(run.facts["family"]), "MULTIPLE", None)
    data = run.experiment.data

    square = models.wants_squares(run.experiment.model)

    def place(piece: Slice) -> tuple[Slice, np.ndarray, Letterbox]:
        image, where = model_input(piece.image, data, piece.name, multiple)
        if square:
            check_square(where, piece.name)
        return piece, image, where

    placed = map(place, itertools.chain(ahead, pieces))
    for _, group in itertools.groupby(placed, key=lambda row: row[1].shape):
        while rows := list(itertools.islice(group, size)):
            yield from _detect_batch(program, variables, rows, size)


def _detect_batch(
    program: Any, variables: Any, rows: list[tuple[Slice, np.ndarray, Letterbox]], size: int
) -> Iterator[tuple[Slice, Detections]]:
    images = np.stack([image for _, image, _ in rows])
    blank = np.zeros((size - len(rows), *images.shape[1:]), images.dtype)
    here = jax.device_get(program(variables, np.concatenate([images, blank])))
    for (piece, _, place), boxes, scores, labels in zip(rows, *here, strict=False):
        real = (labels >= 0)[:, None]
        yield piece, Detections(place.to_original(boxes) * real, scores, labels)

"""From files to findings: read, detect, put back into the image's own pixels, write."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from jaxdet.data.transforms import letterbox
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
) -> dict[str, int]:
    """Detects in every input and writes boxes, overlays and a sheet to `out`; counts what it did.

    Inputs are read, windowed and letterboxed as the RUN was trained. At most `batch_size` slices are
    in the device's memory, and a volume is read one at a time.
    """
    pieces = inputs.read(paths, run.experiment.data, series_uid)
    found = detect(run, pieces, score_threshold, which, batch_size)
    return write.write(
        out, tqdm(found, desc="predict", unit="slice"), run.class_names, score_threshold
    )


def detect(
    run: Run,
    pieces: Iterable[Slice],
    score_threshold: float,
    which: Literal["best", "latest"] = "best",
    batch_size: int = 8,
) -> Iterator[tuple[Slice, Detections]]:
    """Every slice with its Detections in px of that slice. One compilation, for one batch shape."""
    variables = jax.device_put(run.weights(which))
    program = jax.jit(run.predictor(score_threshold).detect)
    pieces = iter(pieces)
    first = list(itertools.islice(pieces, batch_size))
    size = len(first)  # a single image is a batch of one
    while first:
        yield from _detect_batch(program, variables, first, size, run)
        first = list(itertools.islice(pieces, batch_size))


def _detect_batch(
    program: Any, variables: Any, pieces: list[Slice], size: int, run: Run
) -> Iterator[tuple[Slice, Detections]]:
    data = run.experiment.data
    placed = [letterbox(piece.image, data.image_size, data.pad) for piece in pieces]
    images = np.stack([image for image, _ in placed])
    filled = np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), images.dtype)])
    here = jax.device_get(program(variables, filled))
    for piece, (_, place), boxes, scores, labels in zip(pieces, placed, *here, strict=False):
        real = (labels >= 0)[:, None]
        yield piece, Detections(place.to_original(boxes) * real, scores, labels)

"""What a trained detector sees on the images it was judged by."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from jaxdet.config import Data
from jaxdet.data import batch as batches
from jaxdet.data.sources import Dataset
from jaxdet.report import figures
from jaxdet.run import Run
from jaxdet.train import parallel

SHOWN = 12  # pictures


def truths_and_detections(
    run: Run,
    data: Data,
    detect: Callable,
    variables: Any,
    dataset: Dataset,
    *,
    score_threshold: float,
) -> None:
    """RUN/pictures/*.png and a contact sheet: truths and detections on SHOWN spread images.

    `data` says how the images of `dataset` enter `detect`.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, SHOWN).astype(int))
    shown = [dataset[int(i)] for i in chosen]
    size = run.experiment.evaluate.batch_size
    folder = run.path / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    tiles = []
    for batch, places in batches.eval_batches(shown, data, batch_size=size):
        found = parallel.join(detect(variables, parallel.split(batch.images)))
        for place, index, boxes, scores, labels in zip(places, batch.index, *found, strict=False):
            example, keep = shown[index], scores >= score_threshold
            tile = figures.overlay(
                example.image,
                place.to_original(boxes[keep]),
                scores[keep],
                labels[keep],
                run.class_names,
                truths_xyxy=example.boxes_xyxy,
            )
            cv2.imwrite(str(folder / f"val_{chosen[index]:05d}.png"), tile[..., ::-1])
            tiles.append(tile)
    sheet = figures.contact_sheet(tiles, columns=4)
    cv2.imwrite(str(folder / "contact_sheet.png"), sheet[..., ::-1])

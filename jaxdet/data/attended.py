"""Slices with their attention map as a last channel: what the detector of PCA-YOLO reads.

    raw grey slice -> resize -> [grey x copies, map]; boxes are scaled along

A dataset of grey slices goes in and one of X' comes out, so that the detector's training,
evaluation and reports need not know of the first stage (PCA-YOLO, section 2.1; facts 2.1, 2.2).
"""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Float32

from jaxdet.config import Data
from jaxdet.data.batch import letterboxed
from jaxdet.data.patches import check_square
from jaxdet.data.sources import Dataset, Record
from jaxdet.data.transforms import to_unit


def attended(
    dataset: Dataset, cfg: Data, copies: int, maps: Callable[[int], np.ndarray]
) -> Dataset:
    """The dataset with images f32[S, S, copies + 1]: the grey slice so many times, then its map.

    cfg describes `dataset`: square grey slices, resized to S = cfg.image_size; boxes, areas and
    pixel sizes follow, all else of the records stays. `maps(i)` is the map of slice i, f32[S, S] in
    [0, 1]; it is asked for with the pixels, by several threads. Nothing is kept in memory here: the
    cache of `dataset` goes on serving. Every slice is read once at the start, because its size says
    where its boxes go.
    ValueError: slices of several channels; naming it, one that is not square; and, when an image is
    read, a map of another shape, with NaN, or outside [0, 1].
    """
    _refuse_channels(cfg)
    if copies < 1:
        raise ValueError(f"attended wants 1 or more copies of the grey slice; got {copies}")

    def scaled(index: int) -> Record:
        record, (_, place) = dataset.records[index], letterboxed(dataset, cfg, index)
        check_square(place, record.name)
        return _scaled(record, place.gain)

    with ThreadPoolExecutor(max(cfg.threads, 1)) as readers:
        records = tuple(readers.map(scaled, range(len(dataset))))
    pixels = functools.partial(_pixels, dataset, cfg, copies, maps)
    return dataclasses.replace(dataset, records=records, pixels=pixels, window=None, cache=None)


def training_data(cfg: Data, copies: int, map_pad: float = 0.0) -> Data:
    """The config that trains and evaluates on `attended(dataset, cfg, copies, maps)`.

    copies + 1 channels, the last a map, which colour jitter leaves alone and which is padded with
    `map_pad`, the grey ones with the padding of cfg. ValueError: cfg is not of grey slices.
    """
    _refuse_channels(cfg)
    pad = (cfg.pad[0],) * copies + (float(map_pad),)
    return dataclasses.replace(cfg, channels=copies + 1, maps=1, pad=pad, window_hu=None)


def _scaled(record: Record, gain: float) -> Record:
    return dataclasses.replace(
        record,
        boxes_xyxy=record.boxes_xyxy * np.float32(gain),
        area=record.area * np.float32(gain) ** 2,
        pixel_mm=record.pixel_mm and (record.pixel_mm[0] / gain, record.pixel_mm[1] / gain),
    )


def _pixels(
    dataset: Dataset, cfg: Data, copies: int, maps: Callable[[int], np.ndarray], index: int
) -> Float32[np.ndarray, "S S C"]:
    grey = to_unit(letterboxed(dataset, cfg, index)[0].image)
    chart = _checked(maps(index), cfg.image_size, dataset.records[index].name)
    return np.concatenate([np.repeat(grey, copies, axis=2), chart[..., None]], axis=2)


def _checked(chart: np.ndarray, side: int, name: str) -> Float[np.ndarray, "S S"]:
    if chart.shape != (side, side):
        raise ValueError(
            f"{name}: its attention map is {list(chart.shape)}; wanted [{side}, {side}], as"
            " data.image_size says: was the map made at another size?"
        )
    low, high = float(chart.min()), float(chart.max())
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise ValueError(
            f"{name}: its attention map goes from {low:g} to {high:g}; wanted values in [0, 1],"
            " none of them NaN"
        )
    return chart.astype(np.float32)


def _refuse_channels(cfg: Data) -> None:
    if cfg.channels != 1:
        raise ValueError(
            f"PCA-YOLO reads raw slices of one grey channel and makes the others itself;"
            f" data.channels is {cfg.channels}: set data.channels=1"
        )

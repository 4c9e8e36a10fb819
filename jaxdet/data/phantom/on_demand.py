"""The phantom without a data set on disk: the demo's slices, made when they are read."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxdet.config import Data
from jaxdet.data import masks
from jaxdet.data.phantom import demo, patients, render, sets
from jaxdet.data.phantom.cases import boxes

CLASS_NAMES = ("tumour",)


def records(cfg: Data) -> tuple[tuple[str, ...], list, Callable[[int], np.ndarray]]:
    """Class names, one sources.Record a slice, and `read(i) -> float32 [S, S, channels]` in HU.

    Channels are neighbouring slices about the record's own, from feet to head; an even number has
    one more below. Only tumour masks are drawn here, so this is quick; `read` is safe from several
    threads.
    """
    from jaxdet.data.sources import Record  # here, because sources imports this room too

    most = len(demo.SHOWN) // 2
    if cfg.phantom_patients < 1 or not 1 <= cfg.phantom_slices <= most:
        raise ValueError(
            "data.phantom_patients wants 1 or more and data.phantom_slices 1 to "
            f"{most}; got {cfg.phantom_patients} and {cfg.phantom_slices}"
        )
    which = sets.demo(cfg.phantom_patients, cfg.image_size)
    where = [
        (number, z)
        for number in range(cfg.phantom_patients)
        for z in patients.patient(which, cfg.seed, number).slices[: cfg.phantom_slices]
    ]

    def record(number: int, z: int) -> Record:
        p = patients.patient(which, cfg.seed, number)
        truth = boxes(p, z)
        count, pixel_mm = len(truth.boxes_xyxy), (p.scanner.pixel_mm, p.scanner.pixel_mm)
        return Record(
            name=f"{p.name} slice {z}",
            patient=p.name,
            boxes_xyxy=truth.boxes_xyxy,
            labels=np.zeros(count, np.int32),
            crowd=np.zeros(count, bool),
            area=np.bincount(truth.instances.ravel(), minlength=count + 1)[1:].astype(np.float32),
            diameters_mm=masks.diameters_mm(truth.instances, pixel_mm),
            misaligned_mm=np.zeros(count, np.float32),  # there is one phase
            phase=p.annotated,
            pixel_mm=pixel_mm,
        )

    def read(i: int) -> Float[np.ndarray, "S S C"]:
        number, z = where[i]
        p = patients.patient(which, cfg.seed, number)
        first = z - cfg.channels // 2
        slices = [render.hounsfield(p, first + c) for c in range(cfg.channels)]
        return np.stack(slices, axis=-1)

    return CLASS_NAMES, [record(*at) for at in where], read

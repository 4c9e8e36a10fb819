"""Which slices the phantom shows, with the box of every tumour in them."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from jaxdet.config import Data
from jaxdet.data.phantom import patients, render

CLASS_NAMES = ("tumour",)
FREE_SHARE = 1 / 6  # of slices without a tumour
COUNTS = (0.653, 0.234, 0.083, 0.030)  # of 1 to 4 tumours in the others: mean 1.49
SHOWN = range(6, 58)  # slices with enough liver


def records(cfg: Data) -> tuple[tuple[str, ...], list, Callable[[int], np.ndarray]]:
    """Class names, one sources.Record a slice, and `read(i) -> float32 [S, S, channels]` in HU.

    Channels are neighbouring slices about the record's own, from feet to head; an even number has
    one more below. Only tumour masks are drawn here, so this is quick; `read` is safe from several
    threads.
    """
    from jaxdet.data.sources import Record  # here, because sources imports this room too

    if cfg.phantom_patients < 1 or not 1 <= cfg.phantom_slices <= len(SHOWN):
        raise ValueError(
            "data.phantom_patients wants 1 or more and data.phantom_slices 1 to "
            f"{len(SHOWN)}; got {cfg.phantom_patients} and {cfg.phantom_slices}"
        )
    where = [
        (number, z)
        for number in range(cfg.phantom_patients)
        for z in chosen(patients.patient(cfg.seed, number), cfg.phantom_slices)
    ]

    def record(number: int, z: int) -> Record:
        masks = render.tumours(patients.patient(cfg.seed, number), z, cfg.image_size)
        return Record(
            name=f"phantom patient {number} slice {z}",
            patient=f"phantom patient {number}",
            boxes_xyxy=np.array([tight_box(m) for m in masks], np.float32).reshape(-1, 4),
            labels=np.zeros(len(masks), np.int32),
            crowd=np.zeros(len(masks), bool),
            area=np.array([m.sum() for m in masks], np.float32),
        )

    def read(i: int) -> Float[np.ndarray, "S S C"]:
        number, z = where[i]
        patient = patients.patient(cfg.seed, number)
        first = z - cfg.channels // 2
        slices = [
            render.hounsfield(patient, first + c, cfg.image_size) for c in range(cfg.channels)
        ]
        return np.stack(slices, axis=-1)

    return CLASS_NAMES, [record(*at) for at in where], read


def chosen(patient: patients.Patient, count: int) -> list[int]:
    """The slices of a patient that are shown, in the order drawn; a higher count only adds some.

    Each draws how many tumours it wants to show and takes a slice with that many, or with the next
    fewer.
    """
    rng = np.random.default_rng([patient.seed, patient.number, 4])
    shown = {z: render.tumours_expected(patient, z) for z in SHOWN}
    picked: list[int] = []
    for _ in range(count):
        wanted = 0 if rng.random() < FREE_SHARE else 1 + int(rng.choice(4, p=COUNTS))
        left = {z: n for z, n in shown.items() if z not in picked}
        fits = min(abs(n - wanted) + 0.5 * (n > wanted) for n in left.values())
        best = [z for z, n in left.items() if abs(n - wanted) + 0.5 * (n > wanted) == fits]
        picked.append(best[int(rng.integers(len(best)))])
    return picked


def tight_box(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """The xyxy box of a mask that is not empty, x1 and y1 exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

"""The npy files of GSSD's own code (Lee 2021; facts, gssd_reference 6.3) as a prepared set.

metadata.txt has lines `path|subject`; a data point is path_ct.npy [4, 3, H, W] in [0, 1] with the
phases arterial, delayed, portal, precontrast, path_bbox.npy [n, 5], path_phase.npy (the annotated
phase) and path_mask.npy [H, W]. [0, 1] was HU clipped to slices.WINDOW_GSSD.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from jaxdet.data import folds, masks, slices
from jaxdet.data.builders.stream import Patient, Plan, official
from jaxdet.data.formats import Row, Truth, read_text, sound
from jaxdet.types import PHASES, CtSlice

STORED = ("arterial", "delayed", "portal", "precontrast")  # phase order of the files
LOW_HU, HIGH_HU = slices.WINDOW_GSSD


def plan(folder: pathlib.Path) -> Plan:
    """The set multiphase_ct/gssd, float32 because the official files are; spacing is not known.

    Phases are permuted to the order of this house. A line of another form, a file that is missing
    or of another shape, and values outside [0, 1] are a ValueError with the file.
    """
    points: dict[str, list[str]] = {}
    for i, line in enumerate(read_text(folder / "metadata.txt").splitlines(), 1):
        path, bar, subject = line.partition("|")
        if line.strip() and not (bar and path.strip() and subject.strip()):
            raise ValueError(f"{folder / 'metadata.txt'}:{i}: wanted path|subject; got {line!r}")
        if line.strip():
            points.setdefault(subject.split("|")[0].strip(), []).append(path.strip())
    patients = tuple(sorted(points, key=folds.natural))
    order = [sorted(points[patient], key=folds.natural) for patient in patients]
    return Plan(
        name="multiphase_ct/gssd",
        patients=patients,
        splits=official(patients),
        cases=functools.partial(_patient, folder, patients, order),
        metadata={"class_names": ["lesion"], "layout": "gssd", "window_hu": [LOW_HU, HIGH_HU]},
        workers=1,
    )


def _patient(
    folder: pathlib.Path, patients: Sequence[str], points: Sequence[Sequence[str]], number: int
) -> Patient:
    own = enumerate(points[number])
    return Patient([_slice(folder / path, patients[number], z) for z, path in own])


def _slice(stem: pathlib.Path, patient: str, place: int) -> CtSlice:
    unit = _load(stem, "ct", 4)
    if unit.shape[:2] != (4, 3) or not (unit.min() >= 0 and unit.max() <= 1):
        raise ValueError(
            f"{stem}_ct.npy: wanted [4, 3, H, W] in [0, 1]; got {list(unit.shape)} from"
            f" {unit.min():g} to {unit.max():g}"
        )
    ours = unit[[STORED.index(phase) for phase in PHASES]].astype(np.float32)
    height, width = ours.shape[2:]
    hu = (ours * np.float32(HIGH_HU - LOW_HU) + np.float32(LOW_HU)).transpose(2, 3, 0, 1)
    truth = _boxes(stem, height, width)
    lesions = _lesions(stem, truth)
    number = re.search(r"(\d+)$", stem.name)
    unknown = float("nan")
    return CtSlice(
        hu=np.ascontiguousarray(hu.reshape(height, width, 12)),
        boxes_xyxy=truth.boxes_xyxy,
        labels=truth.labels,
        diameters_mm=np.full(len(truth.labels), unknown, np.float32),
        lesions=lesions,
        livers=None,
        displacement_mm=None,
        spacing_mm=(unknown, unknown, unknown),
        phases=PHASES,
        annotated=STORED[int(_load(stem, "phase", None).reshape(-1)[0])],
        touching=0 if lesions is None else masks.touching(lesions),
        patient=patient,
        name=stem.name,
        z=int(number[1]) if number else place,
    )


def _boxes(stem: pathlib.Path, height: int, width: int) -> Truth:
    # Five columns, or six: one script of the reference writes the class twice.
    rows = _load(stem, "bbox", 2).astype(np.float64)
    if rows.shape[1] not in (5, 6) or (rows[:, 4:] != 0).any():
        raise ValueError(f"{stem}_bbox.npy: wanted [n, 5], x0, y0, x1, y1 and class 0; got {rows}")
    found = [
        Row(tuple(map(float, row[:4])), 0, f"{stem}_bbox.npy row {i}") for i, row in enumerate(rows)
    ]
    return sound(stem.name, height, width, found)


def _lesions(stem: pathlib.Path, truth: Truth) -> UInt8[np.ndarray, "H W"] | None:
    """The mask with a number for each box; a pixel of two boxes belongs to the first."""
    if not pathlib.Path(f"{stem}_mask.npy").is_file():
        return None
    mask = _load(stem, "mask", 2) > 0
    if mask.shape != (truth.height, truth.width):
        raise ValueError(
            f"{stem}_mask.npy is {list(mask.shape)}, the CT {truth.height} x {truth.width}"
        )
    out = np.zeros(mask.shape, np.uint8)
    for i, box in reversed(list(enumerate(truth.boxes_xyxy, 1))):
        x0, y0, x1, y1 = (int(v) for v in [*np.floor(box[:2]), *np.ceil(box[2:])])
        out[y0:y1, x0:x1][mask[y0:y1, x0:x1]] = i
    return out


def _load(stem: pathlib.Path, what: str, rank: int | None) -> Float[np.ndarray, "..."]:
    file = pathlib.Path(f"{stem}_{what}.npy")
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file}: cannot be read as npy: {error}") from None
    if (rank is not None and found.ndim != rank) or not np.isfinite(found).all():
        raise ValueError(f"{file}: wanted {rank} axes of finite numbers; got {list(found.shape)}")
    return found.astype(np.float64 if found.dtype.kind != "f" else found.dtype)

"""sltd: a folder of single slices with boxes, 8- or 16-bit images or DICOM, as a prepared set.

    layouts.read -> (file, boxes) by patient -> stored numbers -> HU = slope x stored + intercept

The layout of paper 1's SLTD is not published; this takes what layouts.py reads.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from jaxdet.config import Data
from jaxdet.data import folds, images, layouts, sources, volume
from jaxdet.data.builders.store import WHOLE
from jaxdet.data.builders.stream import Patient, Plan
from jaxdet.data.formats import Truth
from jaxdet.types import CtSlice

LAYOUTS = ("coco", "yolo", "voc", "csv")
DICOM = (".dcm", ".ima")


@dataclasses.dataclass(frozen=True)
class _File:
    path: pathlib.Path
    name: str  # below the folder of the data set
    truth: Truth


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How stored numbers become HU; None: not told."""

    slope: float | None
    intercept: float | None
    correction: volume.Correction


class _Pixels(NamedTuple):
    hu: Shaped[np.ndarray, "H W 1"]
    spacing_mm: tuple[float, float, float]
    faults: dict[str, int]


def plan(
    path: str,
    layout: str = "coco",
    *,
    patient_pattern: str = "",
    faulty_boxes: str = "error",
    slope: float | None = None,
    intercept: float | None = None,
    correction: volume.Correction | None = None,
) -> Plan:
    """The set sltd/LAYOUT of all slices below a folder, patients sorted by name.

    DICOM slices bring their own slope and intercept and their spacing. Numbers of other images
    become HU by `slope` and `intercept` (None: 1 and 0), or by the window that `correction` says
    was stored in 8 bits; the spacing is the correction's, else that of a CSV (x and y), else not
    known (NaN). Whole numbers that are nowhere negative are a ValueError where none of these is
    told. Patients come from group 1 of the pattern on the path, or from the column patient of a
    CSV; without either, each file is a patient. ValueErrors as layouts.read.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"sltd has the layouts {', '.join(LAYOUTS)}; got {layout!r}")
    cfg = Data(source=layout, path=path, patient_pattern=patient_pattern, faulty_boxes=faulty_boxes)
    listings = [layouts.read(cfg, split) for split in layouts.present(cfg) or ("",)]
    scale = _Scale(slope, intercept, correction or volume.Correction())
    if len({listing.class_names for listing in listings}) > 1:
        raise ValueError(f"{path}: its lists differ in their classes")
    files: dict[str, dict[str, _File]] = {}
    for listing in listings:
        for file, truth in listing.truths:
            name = sources.name_of(listing, file)
            patient = sources.patient_of(cfg, listing, name, truth.file)
            files.setdefault(patient, {})[name] = _File(file, name, truth)
    patients = tuple(sorted(files, key=folds.natural))
    by_patient = [sorted(files[p].values(), key=lambda f: folds.natural(f.name)) for p in patients]
    return Plan(
        name=f"sltd/{layout}",
        patients=patients,
        splits=(WHOLE,) * len(patients),
        cases=functools.partial(_cases, patients, by_patient, scale),
        metadata={
            "class_names": list(listings[0].class_names),
            "layout": layout,
            "slope": 1.0 if slope is None else slope,
            "intercept": 0.0 if intercept is None else intercept,
            "stored_window_hu": scale.correction.stored_window_hu,
        },
        workers=1,
    )


def _cases(
    patients: Sequence[str],
    files: Sequence[Sequence[_File]],
    scale: _Scale,
    number: int,
) -> Patient:
    slices, notes = [], collections.Counter()
    for z, file in enumerate(files[number]):
        pixels, spacing, faults = _read(file.path, scale)
        slices.append(_slice(file, patients[number], z, pixels, spacing))
        notes.update(faults)
        notes.update(f"box {fault}" for fault in file.truth.faults)
    return Patient(slices, dict(notes))


def _read(file: pathlib.Path, scale: _Scale) -> _Pixels:
    """HU, spacing and what was counted of one slice."""
    if file.suffix.lower() in DICOM:
        return _dicom(file, scale.correction)
    stored, unknown = images.read(file, 1), float("nan")
    pixels = _to_hu(file, stored, scale)
    return _Pixels(pixels, scale.correction.spacing_mm or (unknown, unknown, unknown), {})


def _to_hu(
    file: pathlib.Path, stored: Shaped[np.ndarray, "H W 1"], scale: _Scale
) -> Float[np.ndarray, "H W 1"]:
    linear, window = (scale.slope, scale.intercept), scale.correction.stored_window_hu
    seen = f"{file} has {stored.dtype} values from {stored.min():g} to {stored.max():g}"
    slope, intercept = (
        default if v is None else v for v, default in zip(linear, (1, 0), strict=True)
    )
    if window is not None:
        if linear != (None, None) or not window[0] < window[1] or stored.dtype != np.uint8:
            raise ValueError(
                f"{seen}: --stored-window LOW HIGH wants 8 bits, LOW < HIGH and neither --slope nor"
                f" --intercept; got {window}, {linear}"
            )
        slope, intercept = (window[1] - window[0]) / 255, window[0]
    elif linear == (None, None) and stored.dtype.kind in "ui" and stored.min() >= 0:
        raise ValueError(
            f"{seen}, which are no HU, for air has -1000: say --slope and --intercept (HU = slope x"
            " stored + intercept; 1 and 0 if they are HU), or --stored-window LOW HIGH for 8 bits"
            " that hold a window"
        )
    # float32 holds every number of 8 and 16 bits, and a set is of one type.
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _slice(
    file: _File,
    patient: str,
    z: int,
    pixels: Shaped[np.ndarray, "H W 1"],
    spacing: tuple[float, float, float],
) -> CtSlice:
    truth = file.truth
    if pixels.shape[:2] != (truth.height, truth.width):
        raise ValueError(
            f"{file.path}: the image is {pixels.shape[1]} x {pixels.shape[0]}, its annotation says"
            f" {truth.width} x {truth.height}: the boxes belong to another image"
        )
    taught = ~truth.crowd
    diameters = np.full(len(taught), np.nan, np.float32)
    if truth.diameters_mm is not None:
        diameters = truth.diameters_mm
    if truth.pixel_mm is not None and np.isnan(spacing[0]):
        spacing = (*truth.pixel_mm, spacing[2])
    return CtSlice(
        hu=pixels,
        boxes_xyxy=truth.boxes_xyxy[taught],
        labels=truth.labels[taught],
        diameters_mm=diameters[taught],
        lesions=None,
        livers=None,
        displacement_mm=None,
        spacing_mm=spacing,
        phases=("portal",),
        annotated="portal",
        touching=0,
        patient=patient,
        name=file.name,
        z=z,
    )


def _dicom(file: pathlib.Path, correction: volume.Correction) -> _Pixels:
    """One slice alone, through the reader of series."""
    with tempfile.TemporaryDirectory() as alone:
        os.symlink(file.resolve(), pathlib.Path(alone) / file.name)
        try:
            told = correction if correction != volume.Correction() else None
            found = volume.read(alone, correction=told)
        except ValueError as error:
            raise ValueError(str(error).replace(alone, str(file.parent))) from None
    return _Pixels(found.hu[0][..., None], found.spacing_mm, found.faults)

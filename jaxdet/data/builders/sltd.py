"""sltd: a folder of single slices with boxes, 8- or 16-bit images or DICOM, as a prepared set.

    layouts.read -> (file, boxes) by patient -> stored numbers -> HU = slope x stored + intercept

The layout of paper 1's SLTD is not published; this takes what layouts.py reads.
"""

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

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


def plan(
    path: str,
    layout: str = "coco",
    *,
    patient_pattern: str = "",
    faulty_boxes: str = "error",
    slope: float = 1.0,
    intercept: float = 0.0,
) -> Plan:
    """The set sltd/LAYOUT of all slices below a folder, patients sorted by name.

    DICOM slices bring their own slope and intercept and their spacing; of other images the spacing
    is not known (NaN) and the numbers become HU by `slope` and `intercept`. Patients come from
    group 1 of the pattern on the path, or from the column patient of a CSV; without either, each
    file is a patient. ValueErrors as layouts.read.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"sltd has the layouts {', '.join(LAYOUTS)}; got {layout!r}")
    cfg = Data(source=layout, path=path, patient_pattern=patient_pattern, faulty_boxes=faulty_boxes)
    listings = [layouts.read(cfg, split) for split in layouts.present(cfg) or ("",)]
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
    faults = [
        fault for listing in listings for _, truth in listing.truths for fault in truth.faults
    ]
    return Plan(
        name=f"sltd/{layout}",
        patients=patients,
        splits=(WHOLE,) * len(patients),
        cases=functools.partial(_cases, patients, by_patient, slope, intercept),
        metadata={
            "class_names": list(listings[0].class_names),
            "layout": layout,
            "slope": slope,
            "intercept": intercept,
            "boxes_dropped_or_clipped": {f: faults.count(f) for f in sorted(set(faults))},
        },
        workers=1,
    )


def _cases(
    patients: Sequence[str],
    files: Sequence[Sequence[_File]],
    slope: float,
    intercept: float,
    number: int,
) -> Patient:
    own = enumerate(files[number])
    return Patient([_slice(file, patients[number], z, slope, intercept) for z, file in own])


def _slice(file: _File, patient: str, z: int, slope: float, intercept: float) -> CtSlice:
    if file.path.suffix.lower() in DICOM:
        pixels, spacing = _dicom(file.path)
    else:
        stored, unknown = images.read(file.path, 1), float("nan")
        # float32 holds every number of 8 and 16 bits, and a set is of one type.
        pixels = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
        spacing = (unknown, unknown, unknown)
    truth = file.truth
    if pixels.shape[:2] != (truth.height, truth.width):
        raise ValueError(
            f"{file.path}: the image is {pixels.shape[1]} x {pixels.shape[0]}, its annotation says"
            f" {truth.width} x {truth.height}: the boxes belong to another image"
        )
    taught = ~truth.crowd
    return CtSlice(
        hu=pixels,
        boxes_xyxy=truth.boxes_xyxy[taught],
        labels=truth.labels[taught],
        diameters_mm=np.full(int(taught.sum()), np.nan, np.float32),
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


def _dicom(file: pathlib.Path) -> tuple[Shaped[np.ndarray, "H W 1"], tuple[float, float, float]]:
    """One slice alone, through the reader of series."""
    with tempfile.TemporaryDirectory() as alone:
        os.symlink(file.resolve(), pathlib.Path(alone) / file.name)
        try:
            found = volume.read(alone)
        except ValueError as error:
            raise ValueError(str(error).replace(alone, str(file.parent))) from None
    return found.hu[0][..., None], found.spacing_mm

"""lits: volumes with masks of liver and tumour, of LiTS or MSD Task03, as a prepared set.

volume-N.nii[.gz] with segmentation-N.nii[.gz] in one folder, or imagesTr with labelsTr. In a mask 0
is background, 1 liver, 2 tumour. Tumours that touch are one component there, and so one box.
"""

import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdet.data import folds, volume
from jaxdet.data.builders import studies
from jaxdet.data.builders.store import WHOLE
from jaxdet.data.builders.stream import Patient, Plan
from jaxdet.types import Study


def plan(
    path: str,
    *,
    neighbours: int = 3,
    nan: str = "error",
    gaps: str = "error",
    prefer: str | None = None,
    correction: volume.Correction | None = None,
) -> Plan:
    """The set lits/slices: every slice with a tumour, of patients sorted by name.

    The options behind `neighbours` as volume.read. A volume without its mask, a mask without its
    volume, two files of one number, and a folder without any pair are a ValueError with the names.
    """
    pairs = _pairs(pathlib.Path(path))
    patients = tuple(sorted(pairs, key=folds.natural))
    reading = {"nan": nan, "gaps": gaps, "prefer": prefer, "correction": correction}
    return Plan(
        name="lits/slices",
        patients=patients,
        splits=(WHOLE,) * len(patients),
        cases=functools.partial(
            _patient, patients, [pairs[p] for p in patients], neighbours, reading
        ),
        metadata={"class_names": ["tumour"]},
        workers=1,  # a volume of 1000 slices takes a GiB
    )


def _pairs(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    decathlon = (folder / "imagesTr").is_dir()
    scans = _numbered(folder / "imagesTr", "") if decathlon else _numbered(folder, "volume-")
    if not scans:
        raise ValueError(
            f"{folder} holds neither volume-*.nii[.gz] nor imagesTr/*.nii[.gz]: give the folder of"
            " LiTS or of MSD Task03"
        )
    labels = _numbered(folder / "labelsTr", "") if decathlon else _numbered(folder, "segmentation-")
    places = ("imagesTr", "labelsTr") if decathlon else ("volume-*", "segmentation-*")
    _check_whole(folder, set(scans) - set(labels), f"volumes have no mask in {places[1]}")
    _check_whole(folder, set(labels) - set(scans), f"masks have no volume in {places[0]}")
    return {name: (file, labels[name]) for name, file in scans.items()}


def _numbered(folder: pathlib.Path, prefix: str) -> dict[str, pathlib.Path]:
    """The NIfTI files below a folder by what their names have behind the prefix."""
    name = re.compile(rf"{prefix}([^.].*?)(?:_0000)?\.nii(?:\.gz)?", re.IGNORECASE)
    found: dict[str, pathlib.Path] = {}
    for file in sorted(folder.rglob("*")):
        match = name.fullmatch(file.name)
        if not match or not file.is_file():
            continue
        if match[1] in found:
            raise ValueError(
                f"{prefix}{match[1]} is there twice: {found[match[1]]} and {file}: keep one"
            )
        found[match[1]] = file
    return found


def _check_whole(folder: pathlib.Path, alone: set[str], what: str) -> None:
    if alone:
        some = sorted(alone, key=folds.natural)[:5]
        raise ValueError(
            f"{folder}: {len(alone)} {what}, such as {some}: add what is missing, or take them out"
        )


def _patient(
    patients: Sequence[str],
    pairs: Sequence[tuple[pathlib.Path, pathlib.Path]],
    neighbours: int,
    reading: Mapping[str, Any],
    number: int,
) -> Patient:
    scan, mask = pairs[number]
    found = volume.to_lps(volume.read(scan, **reading))
    marks = {key: reading[key] for key in ("prefer", "correction")}
    labels = volume.read_labels(mask, found, **marks)
    if labels.max(initial=0) > 2:
        raise ValueError(
            f"{mask} has labels up to {labels.max()}; wanted 0 background, 1 liver, 2 tumour"
        )
    study = Study(
        patient=patients[number],
        volumes={"portal": found},
        lesions=(labels == 2).astype(np.uint8),
        livers={"portal": labels > 0},
        annotated="portal",
    )
    phases = ("portal",)
    # Not smoothed: that takes away tumours of less than 5 px, which paper 1 is about.
    slices = studies.cases(study, phases=phases, neighbours=neighbours, smooth=False)
    return Patient(slices, studies.notes(study, slices, phases=phases, neighbours=neighbours))

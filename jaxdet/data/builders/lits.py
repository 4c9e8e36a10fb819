"""lits: volumes with masks of liver and tumour, of LiTS or MSD Task03, as a prepared set.

volume-N.nii[.gz] with segmentation-N.nii[.gz] in one folder, or imagesTr with labelsTr. In a mask 0
is background, 1 liver, 2 tumour. Tumours that touch are one component there, and so one box.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from jaxdet.data import folds, volume
from jaxdet.data.builders import studies
from jaxdet.data.builders.store import WHOLE
from jaxdet.data.builders.stream import Patient, Plan
from jaxdet.types import Study

_NAME = re.compile(r"(?:volume-)?(.+?)(?:_0000)?\.nii(?:\.gz)?", re.IGNORECASE)  # group 1: patient


def plan(path: str, *, neighbours: int = 3, nan: str = "error", gaps: str = "error") -> Plan:
    """The set lits/slices: every slice with a tumour, of patients sorted by name.

    `nan` and `gaps` as volume.read. A volume without its mask, and a folder without any pair, are a
    ValueError with the names.
    """
    pairs = _pairs(pathlib.Path(path))
    patients = tuple(sorted(pairs, key=folds.natural))
    return Plan(
        name="lits/slices",
        patients=patients,
        splits=(WHOLE,) * len(patients),
        cases=functools.partial(
            _patient, patients, [pairs[p] for p in patients], neighbours, nan, gaps
        ),
        metadata={"class_names": ["tumour"]},
        workers=1,  # a volume of 1000 slices takes a GiB
    )


def _pairs(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    decathlon = (folder / "imagesTr").is_dir()
    first = folder / "imagesTr" if decathlon else folder
    scans = {}
    for file in sorted(first.rglob("*")):
        match = _NAME.fullmatch(file.name)
        named = decathlon or file.name.lower().startswith("volume-")
        if match and named and not file.name.startswith("."):
            scans[match[1]] = file
    if not scans:
        raise ValueError(
            f"{folder} holds neither volume-*.nii[.gz] nor imagesTr/*.nii[.gz]: give the folder of"
            " LiTS or of MSD Task03"
        )
    places = [folder / "labelsTr"] if decathlon else [folder]
    labels = {}
    for file in (file for place in places for file in sorted(place.rglob("*.nii*"))):
        bare = re.sub(r"^segmentation-", "", file.name, flags=re.IGNORECASE)
        if (decathlon or bare != file.name) and not file.name.startswith("."):
            labels[bare.split(".nii")[0]] = file
    missing = sorted(set(scans) - set(labels), key=folds.natural)
    if missing:
        wanted = "labelsTr" if decathlon else "segmentation-*"
        raise ValueError(
            f"{folder}: {len(missing)} volumes have no mask in {wanted}, such as {missing[:5]}"
        )
    return {name: (file, labels[name]) for name, file in scans.items()}


def _patient(
    patients: Sequence[str],
    pairs: Sequence[tuple[pathlib.Path, pathlib.Path]],
    neighbours: int,
    nan: str,
    gaps: str,
    number: int,
) -> Patient:
    scan, mask = pairs[number]
    found = volume.to_lps(volume.read(scan, nan=nan, gaps=gaps))
    labels = volume.read_labels(mask, found)
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
    return Patient(slices, studies.notes(study, phases, "error"))

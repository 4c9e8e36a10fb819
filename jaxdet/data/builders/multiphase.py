"""multiphase_ct: four phases of a patient as a prepared set, split by the official rule.

mct_ltdiag   a folder or TAR a patient, phases on one grid, as MCT-LTDiag publishes them
waw_tace     a folder a patient, each phase on its own grid, lesions drawn in one phase: resampled
             to the portal phase
gssd         the npy files of GSSD's own code, listed in metadata.txt (gssd.py)
"""

import functools
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdet.data import archives, folds, volume
from jaxdet.data import phases as phase_names
from jaxdet.data.builders import gssd, studies
from jaxdet.data.builders.store import WHOLE
from jaxdet.data.builders.stream import Patient, Plan, official
from jaxdet.data.slices import Missing

RESAMPLE = {"mct_ltdiag": None, "waw_tace": "portal"}  # to the grid of which phase
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


def plan(
    path: str,
    layout: str = "",
    *,
    missing: Missing = "error",
    neighbours: int = 3,
    nan: str = "error",
    gaps: str = "error",
    prefer: str | None = None,
    correction: volume.Correction | None = None,
    annotated: str | None = None,
    resample_to: str | None = None,
) -> Plan:
    """The set multiphase_ct/LAYOUT: every slice with a lesion, of patients sorted by name.

    An empty layout is gssd where there is a metadata.txt, else mct_ltdiag. Fewer than 15 patients
    are too few for the official split and lie in the split "whole"; of more, each must have a data
    point. The options behind `neighbours` as phases.read_study; `resample_to` None: as the layout.
    """
    folder = pathlib.Path(path)
    layout = layout or ("gssd" if (folder / "metadata.txt").is_file() else "mct_ltdiag")
    if layout == "gssd":
        return gssd.plan(folder)
    if layout not in RESAMPLE:
        raise ValueError(f"multiphase_ct has the layouts {', '.join(RESAMPLE)}, gssd; not {layout}")
    places = _places(folder)
    patients = tuple(sorted(places, key=folds.natural))
    order = [places[patient] for patient in patients]
    reading = {
        "nan": nan,
        "gaps": gaps,
        "prefer": prefer,
        "correction": correction,
        "annotated": annotated,
        "resample_to": resample_to or RESAMPLE[layout],
    }
    splits = official(patients)
    return Plan(
        name=f"multiphase_ct/{layout}",
        patients=patients,
        splits=splits,
        cases=functools.partial(_patient, patients, order, missing, neighbours, reading),
        metadata={"class_names": ["lesion"], "layout": layout, "missing": missing},
        workers=1,  # four volumes are held at a time
        every_patient=WHOLE not in splits,
    )


def _places(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folder or archive of each patient."""
    found: dict[str, pathlib.Path] = {}
    for place in sorted(folder.iterdir()):
        ending = next((e for e in ARCHIVES if place.name.lower().endswith(e)), None)
        if place.name.startswith(".") or not (place.is_dir() or ending):
            continue
        name = place.name if place.is_dir() else place.name[: -len(ending)]
        if name in found:
            raise ValueError(f"patient {name} is there twice: {found[name]} and {place}: keep one")
        found[name] = place
    if not found:
        raise ValueError(f"{folder} holds 0 patients: wanted a folder or a TAR for each")
    return found


def _patient(
    patients: Sequence[str],
    places: Sequence[pathlib.Path],
    missing: Missing,
    neighbours: int,
    reading: Mapping[str, Any],
    number: int,
) -> Patient:
    place = places[number]
    with tempfile.TemporaryDirectory() as unpacked:
        if not place.is_dir():
            archives.unpack(place, unpacked)
        study = phase_names.read_study(
            place if place.is_dir() else unpacked,
            patient=patients[number],
            missing="error" if missing == "error" else "leave",
            **reading,
        )
    if study.lesions is None:
        raise ValueError(
            f"patient {study.patient} has no lesion mask in {place}: wanted a file such as"
            " mask_pvp.nii.gz; take patients without one out of the folder"
        )
    slices = studies.cases(study, missing=missing, neighbours=neighbours)
    notes = studies.notes(study, slices, missing=missing, neighbours=neighbours)
    return Patient(slices, notes)

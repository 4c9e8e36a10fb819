"""Which file or series is which phase of the contrast? From a patient's folder to a Study.

    folder -> CT and masks found -> phase by name, else by time -> checked -> read in LPS order

Names are the paths below the folder and, of DICOM, the series description and protocol; these and
the acquisition times are read here and never written, not even into an error.
"""

import datetime
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from jaxdet.data import dicom, dicom_header, phase_words
from jaxdet.data import volume as ct
from jaxdet.types import PHASES, Study, Volume

_DEEP = 4  # folders below the patient's


class Found(NamedTuple):
    """A CT or a mask below a patient's folder."""

    path: pathlib.Path  # a NIfTI file or a DICOM folder
    uid: str | None  # of the DICOM series
    words: str  # what names it
    seconds: float | None  # when it was taken; only differences mean anything

    def named(self) -> str:
        """What an error may say: path and UID, never the description."""
        return str(self.path) if self.uid is None else f"{self.path} series {self.uid or '(none)'}"


def read_study(
    folder: str | pathlib.Path,
    override: Mapping[str, str | pathlib.Path] | None = None,
    *,
    patient: str | None = None,
    annotated: str | None = None,
    missing: Literal["error", "leave"] = "error",
    resample_to: str | None = None,
    nan: Literal["error", "fill"] = "error",
    gaps: Literal["error", "allow"] = "error",
    prefer: Literal["qform", "sform"] | None = None,
    correction: ct.Correction | None = None,
) -> Study:
    """The phases of one patient below a folder, with the lesion and liver masks that lie there.

    Phases come from sub-folders (`arterial/`), file names (`art.nii.gz`, `A.nii.gz`) or DICOM
    descriptions; where none of those names a phase and the series are as many as the phases that
    are missing, from the order of their acquisition times. `override` says it for a phase: a path,
    absolute or below the folder, or a series UID. Volumes are in LPS order.

    Mask files have a word such as mask or seg in their name, those of the liver also "liver", and
    say their phase. `annotated` names the phase of the lesions where the file does not, or picks
    one where several phases have a mask; without lesions it is "portal".

    All phases must lie on one grid; `resample_to` brings them onto that of a phase. `patient` is
    the folder's name if None: nothing of a DICOM header. The rest is passed to `volume.read`.
    ValueError names the patient and the files: a phase that is missing (missing="leave" leaves it
    out), there twice, or taken at a time that contradicts its name; grids that differ.
    """
    folder = pathlib.Path(folder)
    patient = folder.name if patient is None else patient
    scans, masks = _search(folder)
    table = phase_words.table_for([scan.words for scan in scans])
    chosen = assign(scans, override or {}, folder, patient, table)
    absent = [phase for phase in PHASES if phase not in chosen]
    if absent and (missing == "error" or not chosen):
        raise ValueError(
            f"patient {patient} has no {' and no '.join(absent)} phase in {folder} (found: "
            f"{_listed(chosen.values()) or 'none'}). Name it with override={{phase: path or series "
            'UID}, or go without it with missing="leave"'
        )
    options = {"nan": nan, "gaps": gaps, "prefer": prefer, "correction": correction}
    volumes = {
        phase: ct.to_lps(ct.read(chosen[phase].path, chosen[phase].uid, **options))
        for phase in PHASES
        if phase in chosen
    }
    marks = {"prefer": prefer, "correction": correction}
    drawn = [(phase_words.phase_of(mask.words, table), mask) for mask in masks]
    lesions, annotated = _lesions(drawn, volumes, annotated, patient, marks)
    livers = _livers(drawn, volumes, patient, marks)
    study = Study(patient, volumes, lesions, livers, annotated)
    if resample_to is not None:
        return resampled(study, resample_to)
    check_grids(study)
    return study


def assign(
    scans: Sequence[Found],
    override: Mapping[str, str | pathlib.Path],
    folder: pathlib.Path,
    patient: str,
    table: Mapping[str, Sequence[str]] = phase_words.WORDS,
) -> dict[str, Found]:
    """Which scan is which phase: by override, by name, and else by time. Faults are ValueErrors."""
    for phase in override:
        if phase not in PHASES:
            raise ValueError(f"override wants phases of {', '.join(PHASES)}; got {phase!r}")
    chosen = {phase: _named(scans, wanted, folder) for phase, wanted in override.items()}
    left = [scan for scan in scans if scan not in chosen.values()]
    phases = [phase_words.phase_of(scan.words, table) for scan in left]
    for phase in PHASES:
        same = [scan for scan, its in zip(left, phases, strict=True) if its == phase]
        if len(same) > 1 and phase not in chosen:
            raise ValueError(
                f"patient {patient} has the {phase} phase {len(same)} times: {_listed(same)}. Keep "
                f'one, or name it with override={{"{phase}": path or series UID}}'
            )
        if same:
            chosen.setdefault(phase, same[0])
    unnamed = [scan for scan, its in zip(left, phases, strict=True) if its is None]
    chosen |= _by_time(unnamed, [phase for phase in PHASES if phase not in chosen])
    _check_times(chosen, set(override), patient)
    return chosen


def check_grids(study: Study) -> None:
    """Refuses phases whose voxels lie at different places."""
    for (a, first), (b, second) in itertools.pairwise(study.volumes.items()):
        if not ct.same_grid(first, second):
            raise ValueError(
                f"patient {study.patient}: the phases {a} and {b} have different grids: {a} "
                f"{ct.describe(first)}; {b} {ct.describe(second)}. Bring all phases onto one with "
                'resample_to="portal" (--resample-to portal)'
            )


def resampled(study: Study, phase: str) -> Study:
    """The study with volumes and masks on the grid of one phase; each that moved counts it."""
    if phase not in study.volumes:
        raise ValueError(
            f"patient {study.patient} cannot be resampled to {phase!r}: there are "
            f"{', '.join(study.volumes)}"
        )
    like = study.volumes[phase]
    lesions = study.lesions
    if lesions is not None:
        lesions = ct.resample_mask(lesions, study.volumes[study.annotated], like)
    return Study(
        patient=study.patient,
        volumes={name: ct.resample(volume, like) for name, volume in study.volumes.items()},
        lesions=lesions,
        livers={
            name: ct.resample_mask(liver, study.volumes[name], like)
            for name, liver in study.livers.items()
        },
        annotated=study.annotated,
    )


def _search(folder: pathlib.Path) -> tuple[list[Found], list[Found]]:
    """CTs and masks below a folder, in the order of their names."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give the folder of one patient")
    scans, masks = [], []
    for place in [folder, *_below(folder, 1)]:
        scans += _dicom_scans(place, folder)
        for file in sorted(place.iterdir()):
            if ct.is_nifti(file) and file.is_file():
                name = file.name[: file.name.lower().rindex(".nii")]
                words = " ".join([*place.relative_to(folder).parts, name])
                fitting = masks if phase_words.is_mask(words) else scans
                fitting.append(Found(file, None, words, None))
    return scans, masks


def _below(folder: pathlib.Path, depth: int) -> Iterable[pathlib.Path]:
    for place in sorted(folder.iterdir()):
        # A link may lead out of the folder, or round in a circle.
        if place.is_dir() and not place.is_symlink():
            yield place
            if depth < _DEEP:
                yield from _below(place, depth + 1)


def _dicom_scans(place: pathlib.Path, folder: pathlib.Path) -> list[Found]:
    found = []
    for uid, headers in dicom.series(place, dicom_header.PHASE_TAGS).items():
        first = headers[0]
        names = [
            *place.relative_to(folder).parts,
            first.text("description"),
            first.text("protocol"),
        ]
        words = " ".join(names)
        scout = "LOCALIZER" in first.text("image_type") or phase_words.is_scout(words)
        if first.text("modality", "CT") == "CT" and not scout:
            times = [t for t in map(_seconds, headers) if t is not None]
            found.append(Found(place, uid, words, min(times, default=None)))
    return found


def _seconds(header: dicom_header.Header) -> float | None:
    """The acquisition time of a slice in seconds; without a date, since midnight."""
    text = header.text("date_time")[:14] or header.text("date") + header.text("time")[:6]
    for form in ("%Y%m%d%H%M%S", "%H%M%S"):
        try:
            moment = datetime.datetime.strptime(text, form)
        except ValueError:
            continue
        return (moment - datetime.datetime(1900, 1, 1)).total_seconds()
    return None


def _by_time(unnamed: Sequence[Found], absent: Sequence[str]) -> dict[str, Found]:
    times = {scan.seconds for scan in unnamed}
    if not absent or len(unnamed) != len(absent) or None in times or len(times) != len(unnamed):
        return {}
    return dict(zip(absent, sorted(unnamed, key=lambda scan: scan.seconds or 0.0), strict=True))


def _check_times(chosen: Mapping[str, Found], trusted: set[str], patient: str) -> None:
    there = [phase for phase in PHASES if phase in chosen]
    for early, late in itertools.combinations(there, 2):
        first, second = chosen[early].seconds, chosen[late].seconds
        if first is None or second is None or first <= second or {early, late} <= trusted:
            continue
        raise ValueError(
            f"patient {patient}: {early} was taken {first - second:.0f} s after {late}, which no "
            f"injection does: {chosen[early].named()} against {chosen[late].named()}. If the names "
            f'are right all the same, say so with override={{"{early}": ..., "{late}": ...}}'
        )


def _named(scans: Sequence[Found], wanted: str | pathlib.Path, folder: pathlib.Path) -> Found:
    """The scan that an override means: a series UID or a path."""
    path = folder / wanted
    for scan in scans:
        if scan.uid is not None and scan.uid == str(wanted):
            return scan
    same = [scan for scan in scans if scan.path == path]
    if len(same) == 1:
        return same[0]
    if not same and path.exists():
        return Found(path, None, "", None)
    raise ValueError(
        f"override names {str(wanted)!r}, which is no path and no series UID of one scan in "
        f"{folder}: there are {_listed(scans) or 'none'}"
    )


def _lesions(
    masks: Sequence[tuple[str | None, Found]],
    volumes: Mapping[str, Volume],
    annotated: str | None,
    patient: str,
    marks: Mapping[str, Any],
) -> tuple[UInt8[np.ndarray, "Z Y X"] | None, str]:
    """The one mask that is meant, on the grid of its phase, and that phase."""
    drawn = [(phase, mask) for phase, mask in masks if not phase_words.is_liver(mask.words)]
    if not drawn:
        return None, annotated or ("portal" if "portal" in volumes else next(iter(volumes)))
    found = drawn
    if annotated is not None:
        # A mask that names no phase is taken at the user's word, if none names that phase itself.
        own = [(phase, mask) for phase, mask in drawn if phase == annotated]
        found = own or [(annotated, mask) for phase, mask in drawn if phase is None]
    phase, mask = found[0] if len(found) == 1 else (None, drawn[0][1])
    if phase is None or phase not in volumes:
        raise ValueError(
            f"patient {patient} has lesion masks {_listed(m for _, m in drawn)}: wanted one, of a "
            f"phase that is there ({', '.join(volumes)}). Name its phase with annotated=... "
            "(--annotated PHASE), or take the others out of the folder"
        )
    return ct.read_labels(mask.path, volumes[phase], **marks), phase


def _livers(
    masks: Sequence[tuple[str | None, Found]],
    volumes: Mapping[str, Volume],
    patient: str,
    marks: Mapping[str, Any],
) -> dict[str, Bool[np.ndarray, "Z Y X"]]:
    livers: dict[str, np.ndarray] = {}
    for phase, mask in masks:
        if not phase_words.is_liver(mask.words):
            continue
        if phase in livers or phase is None:
            raise ValueError(
                f"patient {patient}: the liver mask {mask.path} names "
                f"{'no phase' if phase is None else 'a phase that has one already'}. Name it as "
                "liver_mask_pvp.nii.gz, one a phase"
            )
        if phase in volumes:
            livers[phase] = ct.read_labels(mask.path, volumes[phase], **marks) > 0
    return livers


def _listed(scans: Iterable[Found]) -> str:
    return "; ".join(scan.named() for scan in scans)

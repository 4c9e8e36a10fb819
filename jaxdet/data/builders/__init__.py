"""Prepared sets: what can be made, and how. `jaxdet data make` calls this.

phantoms, sltd, lits, multiphase   each a Plan: patients, their splits, what makes their slices
stream     patients made side by side, given on in order
store      written as a TFDS data set in array_record files, found and read again
features   what an example holds;  records   where its pixels lie in the file
"""

import contextlib
import dataclasses
import importlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Options:
    """What `jaxdet data make` can be told; a builder takes what it knows."""

    size: str = "tiny"
    seed: int = 0
    free_slices: int = 0
    first: int = 0
    path: str = ""
    layout: str = ""
    patient_pattern: str = ""
    missing: Literal["error", "zero", "portal"] = "error"
    neighbours: int = 3
    nan: Literal["error", "fill"] = "error"
    gaps: Literal["error", "allow"] = "error"
    resample_to: Literal["", "portal"] = ""
    annotated: str = ""
    prefer: Literal["", "qform", "sform"] = ""
    spacing_mm: tuple[float, float, float] | None = None
    stored_window: tuple[float, float] | None = None
    reverse_z: bool = False
    slope: float | None = None
    intercept: float | None = None
    faulty_boxes: Literal["error", "clip", "drop"] = "error"


@dataclasses.dataclass(frozen=True)
class Builder:
    """How one kind of set is planned."""

    wants: str  # for the list
    plan: Callable[[Options], Any]  # -> stream.Plan


def _room(name: str) -> Any:
    return importlib.import_module(f"jaxdet.data.builders.{name}")


def _correction(o: Options) -> Any:
    from jaxdet.data import volume

    told = volume.Correction(o.spacing_mm, o.reverse_z, o.stored_window)
    return None if told == volume.Correction() else told


def _reading(o: Options) -> dict[str, Any]:
    """How volumes are read: what volume.read is told."""
    return {
        "nan": o.nan,
        "gaps": o.gaps,
        "prefer": o.prefer or None,
        "correction": _correction(o),
    }


def _phantom(kind: str, o: Options) -> Any:
    return _room("phantoms").plan(kind, o.size, o.seed, free_slices=o.free_slices, first=o.first)


BUILDERS = {
    "phantom_sltd": Builder(
        "--size tiny|small|paper --seed 0: portal slices with small tumours, as paper 1's SLTD",
        lambda o: _phantom("sltd", o),
    ),
    "phantom_multiphase": Builder(
        "--size tiny|small|paper --seed 0: four phases that breathing moves, as GSSD++'s set",
        lambda o: _phantom("multiphase", o),
    ),
    "phantom_multiphase_demo": Builder(
        "--size tiny|small|paper --seed 0: four phases, few slices of many patients, for studies",
        lambda o: _phantom("multiphase_demo", o),
    ),
    "phantom_demo": Builder(
        "--size tiny|small|paper --seed 0: larger tumours in thick slices, for studies of minutes",
        lambda o: _phantom("demo", o),
    ),
    "sltd": Builder(
        "--path FOLDER --layout coco|yolo|voc|csv --patient-pattern '(p\\d+)': slices with boxes",
        lambda o: _room("sltd").plan(
            o.path,
            o.layout or "coco",
            patient_pattern=o.patient_pattern,
            faulty_boxes=o.faulty_boxes,
            slope=o.slope,
            intercept=o.intercept,
            correction=_correction(o),
        ),
    ),
    "lits": Builder(
        "--path FOLDER: volume-N.nii[.gz] with segmentation-N.nii[.gz], or imagesTr and labelsTr",
        lambda o: _room("lits").plan(o.path, neighbours=o.neighbours, **_reading(o)),
    ),
    "multiphase_ct": Builder(
        "--path FOLDER --layout mct_ltdiag|waw_tace|gssd --missing error|zero|portal: four phases",
        lambda o: _room("multiphase").plan(
            o.path,
            o.layout,
            missing=o.missing,
            neighbours=o.neighbours,
            annotated=o.annotated or None,
            resample_to=o.resample_to or None,
            **_reading(o),
        ),
    ),
}


def make(name: str, out: str | pathlib.Path, options: Options, workers: int | None = None) -> Any:
    """Makes a set below the folder `out` and returns it (store.Prepared).

    ValueError for an unknown name, a path that is missing where one is wanted, a set that is there
    already, and whatever is wrong with the data.
    """
    from jaxdet.data.builders import store, stream

    if name not in BUILDERS:
        raise ValueError(f"there is no builder {name!r}; there are {', '.join(BUILDERS)}")
    if not name.startswith("phantom_") and not pathlib.Path(options.path or "/nowhere").exists():
        raise ValueError(f"{name} wants --path, the data; got {options.path!r}, which is not there")
    with _unpacked(options) as options:
        plan, notes = BUILDERS[name].plan(options), {}
        made = stream.examples(plan, workers, notes)
        # The notes are complete when the last patient is written, and only then are they.
        return store.write(out, plan.name, made, {**plan.metadata, "faults": notes})


@contextlib.contextmanager
def _unpacked(options: Options) -> Iterator[Options]:
    """The options with the folder into which an archive was unpacked, for as long as it is read."""
    if not options.path.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        yield options
        return
    from jaxdet.data import archives

    with tempfile.TemporaryDirectory() as folder:
        archives.unpack(options.path, folder)
        inside = list(pathlib.Path(folder).iterdir())
        alone = len(inside) == 1 and inside[0].is_dir()  # all packed below one folder
        yield dataclasses.replace(options, path=str(inside[0]) if alone else folder)

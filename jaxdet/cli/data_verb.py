"""jaxdet data make|list|inspect|register|figures: prepared sets, phantoms or CT on disk."""

import json
import pathlib
from typing import Annotated, Literal

import numpy as np
import tyro

from jaxdet.data import builders
from jaxdet.data.builders import store

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]


def main(argv: list[str]) -> None:
    """Runs one of the sub-verbs."""
    tyro.extras.subcommand_cli_from_dict(SUBVERBS, prog="jaxdet data", args=argv)


def make(
    name: Name,
    out: str,
    size: Literal["tiny", "small", "paper"] = "tiny",
    seed: int = 0,
    free_slices: int = 0,
    first: int = 0,
    path: str = "",
    layout: str = "",
    patient_pattern: str = "",
    missing: Literal["error", "zero", "portal"] = "error",
    neighbours: int = 3,
    nan: Literal["error", "fill"] = "error",
    gaps: Literal["error", "allow"] = "error",
    resample_to: Literal["", "portal"] = "",
    annotated: str = "",
    prefer: Literal["", "qform", "sform"] = "",
    spacing_mm: tuple[float, float, float] | None = None,
    stored_window: tuple[float, float] | None = None,
    reverse_z: bool = False,
    slope: float | None = None,
    intercept: float | None = None,
    faulty_boxes: Literal["error", "clip", "drop"] = "error",
    workers: int | None = None,
) -> None:
    """Makes a prepared set, DIR/NAME/CONFIG, which TFDS reads too. `jaxdet data list` has names.

    Args:
        name: the builder, such as phantom_sltd.
        out: the folder in which prepared sets lie.
        size: of a phantom.
        seed: of a phantom.
        free_slices: of each patient of a phantom, without a tumour, beside the annotated ones.
        first: so many patients of a phantom only; default: all of them.
        path: the CT or the slices, of any other builder; a zip or tar of them is unpacked.
        layout: how they lie there; empty: found out (multiphase_ct) or coco (sltd).
        patient_pattern: regular expression on the path of a slice, group 1 the patient (sltd).
        missing: what a missing phase becomes (multiphase_ct).
        neighbours: slices of each phase in an example (lits, multiphase_ct).
        nan: NaN and infinity become air with "fill", counted (lits, multiphase_ct).
        gaps: uneven or missing slices are interpolated with "allow", counted (the same two).
        resample_to: the phase onto whose grid all come; empty: as the layout (multiphase_ct).
        annotated: the phase in which the lesions are drawn, where no file says it (multiphase_ct).
        prefer: which orientation counts where the two of a NIfTI differ (lits, multiphase_ct).
        spacing_mm: x, y and z, where the header lies or has none (of any CT).
        stored_window: LOW HIGH, the HU that 0 and 255 stand for, where 8 bits hold a window.
        reverse_z: the slices are stored the other way round (lits, multiphase_ct).
        slope: HU = slope x stored + intercept; of images that are no DICOM (sltd); 1 if not told.
        intercept: see slope; DeepLesion's 16-bit files want -32768.
        faulty_boxes: what to do with boxes outside their image (sltd).
        workers: processes; default: one a core, 8 at most, for a phantom; one for CT.
    """
    options = builders.Options(
        size=size,
        seed=seed,
        free_slices=free_slices,
        first=first,
        path=path,
        layout=layout,
        patient_pattern=patient_pattern,
        missing=missing,
        neighbours=neighbours,
        nan=nan,
        gaps=gaps,
        resample_to=resample_to,
        annotated=annotated,
        prefer=prefer,
        spacing_mm=spacing_mm,
        stored_window=stored_window,
        reverse_z=reverse_z,
        slope=slope,
        intercept=intercept,
        faulty_boxes=faulty_boxes,
    )
    print(_line(builders.make(name, out, options, workers)))


def list_(path: str = ".") -> None:
    """Lists what can be made, and the sets that lie ready in a folder.

    Args:
        path: the folder in which prepared sets lie.
    """
    print("builders, for `jaxdet data make NAME --out DIR`:")
    width = max(map(len, builders.BUILDERS))
    for name, builder in builders.BUILDERS.items():
        print(f"  {name:{width}}  {builder.wants}")
    ready = store.found(path)
    print(f"prepared in {path}:" if ready else f"prepared in {path}: none")
    for prepared in ready:
        print(f"  {_line(prepared)}")


def _line(prepared: store.Prepared) -> str:
    truths = {split: prepared.truths(split) for split in prepared.splits}
    parts = [
        f"{split} {len(truths[split])} slices of {len({t.patient for t in truths[split]})} patients"
        for split in truths
    ]
    size = sum(file.stat().st_size for file in pathlib.Path(prepared.folder).iterdir()) / 2**20
    faults = prepared.metadata.get("faults") or {}
    counts = [f"{kind} {sum(patients.values())}" for kind, patients in sorted(faults.items())]
    told = f"; faults: {', '.join(counts)}" if counts else ""
    return f"{prepared.name}: {', '.join(parts)}{told}; {size:.0f} MiB in {prepared.folder}"


def inspect(
    name: Name, path: str = ".", out: str = "", sample: int = 48, segmenter: str = ""
) -> None:
    """Tells what a prepared set holds, and draws a contact sheet of it.

    Args:
        name: the set, such as phantom_sltd/tiny.
        path: the folder in which prepared sets lie.
        out: the folder for inspect.json and contact_sheet.png; default: beside the set.
        sample: slices whose pixels are read, for the liver's HU and the sheet.
        segmenter: module:function, a function of yours (on PYTHONPATH) from a slice in HU [H, W]
            to where liver is, bool [H, W]; for slices without liver masks.
    """
    from jaxdet.data import inspection
    from jaxdet.data.registration import dice
    from jaxdet.report import datasets

    _at_least(1, sample=sample)
    segment = dice.segmenter(segmenter) if segmenter else None
    prepared = store.find(path, name)
    found = inspection.inspect(prepared, sample, segment)
    print(datasets.table(found))
    folder = pathlib.Path(out or prepared.folder.parent / "inspect")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inspect.json").write_text(json.dumps(found, indent=1))
    shown = inspection.chosen(prepared, min(sample, SHEET_TILES // len(prepared.phases)), segment)
    _picture(folder / "contact_sheet.png", datasets.contact_sheet(shown))


def register(
    name: Name,
    method: Literal["rigid", "affine", "nonrigid"],
    path: str = ".",
    backend: Literal["sitk", "elastix"] = "sitk",
    central: bool = False,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Makes the set NAME_METHOD, in which every phase is registered to the portal one.

    Can be interrupted: the same call goes on where it stopped.

    Args:
        name: the set, such as phantom_multiphase/tiny.
        method: rigid, affine, or nonrigid (affine, then B-spline).
        path: the folder in which prepared sets lie.
        backend: plain SimpleITK, or the paper's elastix (pip install 'jaxdet[registration]').
        central: one transform for the neighbouring slices, the central one's, in a third of the
            time; else each has its own, as the official scripts do it.
        seed: of the random samples of the metric.
        workers: processes; default: one a core.
    """
    from jaxdet.data.builders import registered

    _at_least(0, seed=seed)
    _at_least(1, workers=workers)
    prepared = store.find(path, name)
    made = registered.make(
        prepared, path, method, per_slice=not central, backend=backend, seed=seed, workers=workers
    )
    print(_line(made))


def figures(
    name: Name,
    out: str,
    path: str = ".",
    registered: str = "",
    sample: int = 60,
    segmenter: str = "",
) -> None:
    """Draws how well the phases lie on each other, as Fig. 1 and Fig. S1 of the GSSD++ paper.

    Args:
        name: a set of several phases with liver masks, or else with --segmenter.
        out: the folder for alignment.png and registration.png.
        path: the folder in which prepared sets lie.
        registered: the same set after `jaxdet data register`, for registration.png.
        sample: slices from which the best, the median and the worst are taken.
        segmenter: as of `jaxdet data inspect`.
    """
    from jaxdet.data import inspection
    from jaxdet.data.registration import dice
    from jaxdet.report import datasets

    _at_least(1, sample=sample)
    segment = dice.segmenter(segmenter) if segmenter else None
    prepared = store.find(path, name)
    cases = inspection.chosen(prepared, sample, segment)
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _picture(folder / "alignment.png", datasets.alignment(cases))
    if registered:
        moved = inspection.chosen(store.find(path, registered), sample, segment)
        after = {case.name: case for case in moved}
        pairs = [(case, after[case.name]) for case in cases if case.name in after]
        _picture(folder / "registration.png", datasets.before_and_after(pairs))


def _at_least(least: int, **flags: int | None) -> None:
    """Refuses a flag below `least`; one that was left out is None."""
    for flag, value in flags.items():
        if value is not None and value < least:
            raise ValueError(f"--{flag} wants {least} or more; got {value}")


def _picture(file: pathlib.Path, rgb: np.ndarray) -> None:
    import cv2

    if not cv2.imwrite(str(file), rgb[..., ::-1]):
        raise OSError(f"{file} cannot be written")
    print(file)


SHEET_TILES = 24
SUBVERBS = {
    "make": make,
    "list": list_,
    "inspect": inspect,
    "register": register,
    "figures": figures,
}

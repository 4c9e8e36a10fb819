"""From the paths a user names to the slices a detector sees.

paths -> images, npy stacks, CT volumes -> LPS order -> C neighbouring slices -> window -> Slice
patient's folder -> phases on the portal grid -> each phase's neighbours, phase-major -> Slice
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from jaxdet.config import Data
from jaxdet.data import images, phases, slices
from jaxdet.data import volume as ct
from jaxdet.types import Volume

MOST_CHANNELS = 16  # a longer last axis of an npy is the width of a stack's slices


@dataclasses.dataclass(frozen=True)
class Slice:
    """One image to predict on, and where it comes from."""

    image: Shaped[np.ndarray, "H W C"]  # uint8, or float32 in [0, 1]
    name: str  # the file or folder as found; every slice of a volume has the volume's name
    volume: Volume | None  # in LPS order; None where no place in a patient is known
    z: int | None  # slice of the volume or of the npy stack; None for a single image
    shown: int | None = None  # the channel that is slice z itself; None: the middle one


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the channels of a RUN are, and what to do with faults of a CT."""

    phase_order: tuple[str, ...] = ()  # of the channels, phase-major; empty: no phases are known
    neighbours: int | None = None  # slices of each phase; None: all channels are neighbours
    missing: slices.Missing = "error"  # what stands for a phase that a patient lacks
    nan: Literal["error", "fill"] = "error"  # as `volume.read`
    gaps: Literal["error", "allow"] = "error"  # as `volume.read`


def read(
    paths: Iterable[str | pathlib.Path],
    data: Data,
    series_uid: str | None = None,
    reading: Reading = Reading(),
) -> Iterator[Slice]:
    """Every slice of PNG, JPEG, BMP, TIFF, npy, NIfTI and folders; one volume is held at a time.

    A folder with DICOM files is one series; any other folder is walked, in the order of names. An
    npy is [H, W], [H, W, C], or a stack [Z, H, W] where its last axis is neither `data.channels`
    nor 16 or less. From volumes and stacks come C neighbouring slices about each, edges repeated;
    an even C has one more below. CT turns to LPS order, so that every axial slice looks as in a
    radiology viewer.

    Where `reading` names one phase, once or often, the neighbours are repeated as often. Where it
    names several, each path is the folder of a patient: all phases come onto the portal grid, whose
    mm count, and the first and the last slices, that have not all neighbours, are left out.

    ValueError for a single volume or image where several phases are wanted, for a path without any
    input, for a CT when the RUN has no window, and for whatever cannot be read.
    """
    for path in map(pathlib.Path, paths):
        if len(set(reading.phase_order)) > 1:
            yield from _patient(path, data, series_uid, reading)
            continue
        found = list(_files(path))
        if not found:
            raise ValueError(
                f"{path} holds no input: wanted a DICOM folder, .nii, .nii.gz, or "
                + ", ".join(images.SUFFIXES)
            )
        for file in found:
            name = file.name if file == path else file.relative_to(path).as_posix()
            yield from _slices(file, name, data, series_uid, reading)


def neighbours(z: int, channels: int, depth: int) -> list[int]:
    """The `channels` slices about z, rising, edges repeated; an even number has one more below."""
    return [min(max(z - channels // 2 + c, 0), depth - 1) for c in range(channels)]


def _files(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Images, stacks, NIfTI files and DICOM folders at or below a path."""
    if not path.exists():
        raise ValueError(f"{path} does not exist: wanted an image, a NIfTI file or a folder")
    if path.is_file():
        yield path
        return
    inside = sorted(path.iterdir())
    if any(map(_looks_dicom, inside)):
        yield path
        return
    for entry in inside:
        if entry.is_dir():
            yield from _files(entry)
        elif ct.is_nifti(entry) or entry.suffix.lower() in images.SUFFIXES:
            yield entry


def _looks_dicom(path: pathlib.Path) -> bool:
    return ct.is_dicom(path) or (path.is_file() and path.suffix.lower() == ".dcm")


def _patient(
    folder: pathlib.Path, data: Data, series_uid: str | None, reading: Reading
) -> Iterator[Slice]:
    """The slices of all phases of one patient."""
    order = reading.phase_order
    near = reading.neighbours or data.channels // len(order)
    if not folder.is_dir() or series_uid is not None:
        what = "does not exist" if not folder.exists() else "is one volume or image"
        raise ValueError(
            f"{folder} {'with a series UID is one series' if folder.is_dir() else what}: this RUN "
            f"sees {len(order)} CT phases ({', '.join(order)}) at once. Give the patient's folder, "
            "with a file, sub-folder or series for each phase, and no series UID"
        )
    _check_window(folder, data)
    study = phases.read_study(
        folder, missing="leave", resample_to="portal", nan=reading.nan, gaps=reading.gaps
    )
    there = slices.centres(study, near)
    if not there:
        raise ValueError(f"{folder} has no slice with {near - 1} neighbours, as this RUN wants")
    # Boxes are drawn on the phase whose place counts.
    shown = (order.index("portal") if "portal" in order else 0) * near + near // 2
    for z in there:
        hu = slices.stack(study, z, order, reading.missing, near)
        image = images.to_range(hu, data.window_hu, f"{folder} slice {z}")
        yield Slice(image, folder.name, study.volumes["portal"], z, shown)


def _check_window(path: pathlib.Path, data: Data) -> None:
    if data.window_hu is None:
        raise ValueError(
            f"{path} is a CT in Hounsfield units, but this RUN was trained on images without a "
            "window (data.window_hu is empty): predict on images as it was trained on, or "
            "train with data.window_hu=(low, high)"
        )


def _slices(
    file: pathlib.Path, name: str, data: Data, series_uid: str | None, reading: Reading
) -> Iterator[Slice]:
    near = reading.neighbours or data.channels
    if file.is_dir() or ct.is_nifti(file) or ct.is_dicom(file):
        _check_window(file, data)
        volume = ct.to_lps(ct.read(file, series_uid, nan=reading.nan, gaps=reading.gaps))
        yield from _stack(volume.hu, name, data, volume, near)
    elif file.suffix.lower() == ".npy" and _is_stack(file, data.channels):
        yield from _stack(images.read(file), name, data, None, near)
    else:
        image = images.read(file, channels=data.channels)
        yield Slice(images.to_range(image, data.window_hu, str(file)), name, None, None)


def _is_stack(file: pathlib.Path, channels: int) -> bool:
    """Whether an npy is [Z, H, W]: three axes, the last too long for channels and not theirs.

    Few channels of the wrong number are an image that `images.read` converts or refuses.
    """
    try:
        shape = np.load(file, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file}: cannot be read as an image: {error}") from None
    return len(shape) == 3 and shape[-1] != channels and shape[-1] > MOST_CHANNELS


def _stack(
    values: Shaped[np.ndarray, "Z H W"], name: str, data: Data, volume: Volume | None, near: int
) -> Iterator[Slice]:
    for z in range(values.shape[0]):
        part = values[neighbours(z, near, values.shape[0])].transpose(1, 2, 0)
        image = np.tile(part, (1, 1, data.channels // near))  # "portal only" is portal four times
        image = images.to_range(image, data.window_hu, f"{name} slice {z}")
        yield Slice(image, name, volume, z, near // 2)

"""From the paths a user names to the slices a detector sees.

paths -> images, npy stacks, CT volumes -> LPS order -> C neighbouring slices -> window -> Slice
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Shaped

from jaxdet.config import Data
from jaxdet.data import images
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


def read(
    paths: Iterable[str | pathlib.Path], data: Data, series_uid: str | None = None
) -> Iterator[Slice]:
    """Every slice of PNG, JPEG, BMP, TIFF, npy, NIfTI and folders; one volume is held at a time.

    A folder with DICOM files is one series; any other folder is walked, in the order of names. An
    npy is [H, W], [H, W, C], or a stack [Z, H, W] where its last axis is neither `data.channels`
    nor 16 or less. From volumes and stacks come C neighbouring slices about each, edges repeated;
    an even C has one more below. CT turns to LPS order, so that every axial slice looks as in a
    radiology viewer. ValueError for a path without any input, for a CT when the RUN has no window,
    and for whatever cannot be read.
    """
    for path in map(pathlib.Path, paths):
        found = list(_files(path))
        if not found:
            raise ValueError(
                f"{path} holds no input: wanted a DICOM folder, .nii, .nii.gz, or "
                + ", ".join(images.SUFFIXES)
            )
        for file in found:
            name = file.name if file == path else file.relative_to(path).as_posix()
            yield from _slices(file, name, data, series_uid)


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


def _slices(file: pathlib.Path, name: str, data: Data, series_uid: str | None) -> Iterator[Slice]:
    if file.is_dir() or ct.is_nifti(file) or ct.is_dicom(file):
        if data.window_hu is None:
            raise ValueError(
                f"{file} is a CT in Hounsfield units, but this RUN was trained on images without a "
                "window (data.window_hu is empty): predict on images as it was trained on, or "
                "train with data.window_hu=(low, high)"
            )
        volume = ct.to_lps(ct.read(file, series_uid))
        yield from _stack(volume.hu, name, data, volume)
    elif file.suffix.lower() == ".npy" and _is_stack(file, data.channels):
        yield from _stack(images.read(file), name, data, None)
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
    values: Shaped[np.ndarray, "Z H W"], name: str, data: Data, volume: Volume | None
) -> Iterator[Slice]:
    for z in range(values.shape[0]):
        near = values[neighbours(z, data.channels, values.shape[0])]
        image = np.ascontiguousarray(near.transpose(1, 2, 0))
        yield Slice(images.to_range(image, data.window_hu, f"{name} slice {z}"), name, volume, z)

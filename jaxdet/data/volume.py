"""How does a CT on disk become Hounsfield units with a place in the patient?

    DICOM folder -> dicom.py \\
                               Volume -> NaN, header that lies -> to_lps -> slices
    NIfTI file   -> nifti.py /

Boxes and masks travel between the pixels of a slice, patient mm (LPS) and other grids. SimpleITK is
loaded inside the functions, so that a machine without it can still train on prepared data. No name,
date or number of a patient leaves this room.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxdet.data import dicom, nifti
from jaxdet.data.dicom import is_dicom
from jaxdet.data.dicom_pixels import AIR_HU
from jaxdet.data.nifti import is_nifti
from jaxdet.types import Volume

__all__ = ["AIR_HU", "Correction", "box_to_mm", "box_to_px", "corrected", "is_dicom", "is_nifti"]
__all__ += ["read", "read_labels", "resample", "resample_mask", "same_grid", "to_lps"]

Number = float | int
SAME = 0.05  # of the smallest voxel side: how far the corners of one grid may lie from another's


@dataclasses.dataclass(frozen=True)
class Correction:
    """What is true where the header of a data set lies. Empty: the header is right after all."""

    spacing_mm: tuple[Number, Number, Number] | None = None  # x, y, z
    reverse_z: bool = False  # the slices are stored the other way round
    stored_window_hu: tuple[Number, Number] | None = None  # what 0 and 255 stand for


def read(
    path: str | pathlib.Path,
    series_uid: str | None = None,
    *,
    nan: Literal["error", "fill"] = "error",
    gaps: Literal["error", "allow"] = "error",
    prefer: Literal["qform", "sform"] | None = None,
    correction: Correction | None = None,
) -> Volume:
    """The volume of a DICOM folder or a .nii or .nii.gz file in HU [Z, Y, X], axes as stored.

    HU come through slope and intercept, of each slice its own. DICOM slices are sorted by position
    along their normal (axial: from feet to head). Tilted gantries keep their shear: the third
    column of `direction` is then not normal to the slices. Padding is air (-1024 HU).

    `nan="fill"` makes NaN and infinity air; `gaps="allow"` interpolates uneven or missing slices
    onto even ones; `prefer` settles a NIfTI whose two orientations differ; `correction` replaces
    what a lying header says. Each is counted in `Volume.faults`; without them each is a ValueError.
    So is, with the file and the way out: a missing, broken or truncated file, several series and
    none named, absurd sizes, a decoder that is missing, no pixel spacing, and a CT of 8 bits that
    is nowhere negative and claims 1 x 1 x 1 mm (as PLC-CECT does, whose numbers are a window).
    """
    volume, bits = _read(pathlib.Path(path), series_uid, gaps, prefer)
    volume = _finite(volume, nan)
    known = correction is not None and correction.spacing_mm is not None
    if "no_spacing" in volume.faults and not known:
        raise ValueError(
            f"{path} has no pixel spacing, so nothing could be told in mm. If you know it, pass "
            "correction=Correction(spacing_mm=(x, y, z)), or --spacing-mm X Y Z"
        )
    if correction is not None:
        return corrected(volume, **vars(correction))
    if bits == 8 and np.allclose(volume.spacing_mm, 1.0, atol=1e-6) and volume.hu.min() >= 0:
        raise ValueError(
            f"{path} has 8-bit values from {volume.hu.min():g} to {volume.hu.max():g} and claims 1 "
            "x 1 x 1 mm: a picture under a window, whose header lies. Pass correction=Correction("
            "spacing_mm=(x, y, z), stored_window_hu=(low, high), reverse_z=...) with what its "
            "source says (--spacing-mm X Y Z --stored-window LOW HIGH --reverse-z), or Correction()"
            " if all is true (--spacing-mm 1 1 1)"
        )
    return volume


def read_labels(
    path: str | pathlib.Path,
    like: Volume,
    *,
    prefer: Literal["qform", "sform"] | None = None,
    correction: Correction | None = None,
) -> UInt8[np.ndarray, "Z Y X"]:
    """The labels 0 to 255 of a mask file, on the grid of `like` (nearest voxel where it differs).

    `like` may be in LPS order, the file need not. A file whose header lies takes the correction
    that the CT took (its window does not count). ValueError for labels that are no whole numbers
    from 0 to 255, and for a mask that does not meet the volume at all.
    """
    labels, _ = _read(pathlib.Path(path), None, "error", prefer)
    if correction is not None:
        labels = corrected(labels, **vars(dataclasses.replace(correction, stored_window_hu=None)))
    low, high = labels.hu.min(), labels.hu.max()
    if not (low >= 0 and high <= 255 and np.array_equal(labels.hu, np.round(labels.hu))):
        raise ValueError(
            f"{path} has values from {low:g} to {high:g}: a mask wants whole numbers 0 to 255. "
            "Is it a CT?"
        )
    turned = to_lps(labels)
    if same_grid(turned, like):
        return turned.hu.astype(np.uint8)
    there = resample_mask(turned.hu.astype(np.uint8), turned, like)
    if high > 0 and not there.any():
        raise ValueError(
            f"{path} and {like.source} do not meet: {describe(turned)} against {describe(like)}. "
            "Is it the mask of another patient?"
        )
    return there


def corrected(
    volume: Volume,
    *,
    spacing_mm: tuple[Number, Number, Number] | None = None,
    reverse_z: bool = False,
    stored_window_hu: tuple[Number, Number] | None = None,
) -> Volume:
    """The volume with what is true in place of what its header said; None and False change nothing.

    `reverse_z` turns the slices round and leaves the header's place of the first slice.
    `stored_window_hu` (low, high): numbers 0 to 255 were HU clipped to that window; HU outside of
    it are lost. The origin stays, so positions are true up to a shift. Counted in `faults`.
    """
    faults = dict(volume.faults)
    hu, spacing = volume.hu, volume.spacing_mm
    if spacing_mm is not None:
        if not min(spacing_mm) > 0:
            raise ValueError(f"spacing_mm wants three numbers above 0; got {spacing_mm}")
        spacing, faults["spacing_corrected"] = _three(spacing_mm), 1
        faults.pop("no_spacing", None)
    if reverse_z:
        hu, faults["slices_reversed"] = np.ascontiguousarray(hu[::-1]), 1
    if stored_window_hu is not None:
        low, high = stored_window_hu
        if not low < high or (hu.size and not (hu.min() >= 0 and hu.max() <= 255)):
            raise ValueError(
                f"{volume.source} has values from {hu.min():g} to {hu.max():g}; a window stored in "
                f"8 bits wants 0 to 255, and (low, high) with low < high; got {stored_window_hu}"
            )
        hu = (hu * ((high - low) / 255) + low).astype(np.float32)
        faults["window_undone"] = 1
    return dataclasses.replace(volume, hu=hu, spacing_mm=spacing, faults=faults)


def to_lps(volume: Volume) -> Volume:
    """The same voxels with x nearest to the patient's left, y to the back and z to the head.

    Axes are swapped and flipped, never resampled; every voxel keeps its place in mm. Axial slices
    then look as in a radiology viewer, however the file stored them. A volume in that order comes
    back as it is.
    """
    cosines = np.asarray(volume.direction).reshape(3, 3)
    axes = _nearest_axes(cosines)
    flips = [bool(cosines[row, axis] < 0) for row, axis in enumerate(axes)]
    if axes == [0, 1, 2] and not any(flips):
        return volume
    sizes = volume.hu.shape[::-1]
    corner = [sizes[axis] - 1 if flip else 0 for axis, flip in zip(axes, flips, strict=True)]
    first = np.zeros((1, 3))
    first[0, axes] = corner
    hu = volume.hu.transpose([2 - axis for axis in reversed(axes)])
    hu = hu[tuple(slice(None, None, -1 if flip else 1) for flip in reversed(flips))]
    signs = np.where(flips, -1.0, 1.0)
    return dataclasses.replace(
        volume,
        hu=np.ascontiguousarray(hu),
        spacing_mm=_three(volume.spacing_mm[axis] for axis in axes),
        origin_mm=_three(volume.to_mm(first)[0]),
        direction=tuple(float(v) for v in (cosines[:, axes] * signs).ravel()),
    )


def box_to_mm(volume: Volume, z: int, box_xyxy: Float[np.ndarray, "4"]) -> dict[str, list[float]]:
    """Where a box of slice z lies: `center_mm` [3] in patient LPS and `size_mm` [2] along x and y.

    A box goes from pixel edge to pixel edge and x1, y1 are exclusive, so in voxel coordinates,
    whose whole numbers are pixel centres, it reaches from x0 - 0.5 to x1 - 0.5. ValueError for a
    slice that is not there.
    """
    _check_slice(volume, z)
    x0, y0, x1, y1 = np.asarray(box_xyxy, np.float64)
    centre = volume.to_mm(np.array([[(x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2, z]], np.float64))[0]
    size = [(x1 - x0) * volume.spacing_mm[0], (y1 - y0) * volume.spacing_mm[1]]
    return {"center_mm": [float(v) for v in centre], "size_mm": [float(v) for v in size]}


def box_to_px(
    volume: Volume, place: Mapping[str, Sequence[float]]
) -> tuple[int, Float[np.ndarray, "4"]]:
    """The slice and the box in its pixels of a place in mm: the inverse of `box_to_mm`.

    `place` has `center_mm` and `size_mm`; size runs along the volume's own x and y. The slice is
    the nearest one (a tie goes to the even one). ValueError for a place above or below the volume.
    """
    x, y, z = volume.to_voxels(np.array([place["center_mm"]], np.float64))[0]
    _check_slice(volume, round(float(z)))
    half = np.array(place["size_mm"], np.float64) / volume.spacing_mm[:2] / 2
    box = np.concatenate([np.array([x, y]) + 0.5 - half, np.array([x, y]) + 0.5 + half])
    return round(float(z)), box.astype(np.float32)


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes have voxels at the same places: shape, and corners to 5 % of a voxel."""
    if a.hu.shape != b.hu.shape:
        return False
    ends = [(0.0, n - 1.0) for n in a.hu.shape[::-1]]
    corners = np.array(list(itertools.product(*ends)))
    apart = np.linalg.norm(a.to_mm(corners) - b.to_mm(corners), axis=1).max()
    return bool(apart <= SAME * min(*a.spacing_mm, *b.spacing_mm))


def resample(volume: Volume, like: Volume) -> Volume:
    """The volume on the grid of another one, linear between voxels; outside it is air."""
    import SimpleITK as sitk

    if same_grid(volume, like):
        return volume
    image = sitk.Resample(
        _to_itk(volume.hu, volume),
        _to_itk(like.hu, like),
        sitk.Transform(),
        sitk.sitkLinear,
        AIR_HU,
    )
    return dataclasses.replace(
        like,
        hu=sitk.GetArrayFromImage(image),
        source=volume.source,
        faults=volume.faults | {"resampled": 1},
    )


def resample_mask(
    mask: Shaped[np.ndarray, "Z Y X"], volume: Volume, like: Volume
) -> Shaped[np.ndarray, "z y x"]:
    """A mask (bool or uint8) on the grid of `volume`, on that of `like`: the nearest voxel's label.

    Outside it is 0. ValueError where mask and volume differ in shape.
    """
    import SimpleITK as sitk

    if mask.shape != volume.hu.shape:
        raise ValueError(
            f"the mask of {volume.source} has shape {mask.shape}, the volume {volume.hu.shape}"
        )
    if same_grid(volume, like):
        return mask
    image = sitk.Resample(
        _to_itk(mask.astype(np.uint8), volume),
        _to_itk(like.hu, like),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0.0,
    )
    return sitk.GetArrayFromImage(image).astype(mask.dtype)


def describe(volume: Volume) -> str:
    """The grid of a volume in words: voxels, spacing, place of the first."""
    sizes = " x ".join(str(n) for n in volume.hu.shape[::-1])
    spacing = " x ".join(f"{v:.4g}" for v in volume.spacing_mm)
    origin = ", ".join(f"{v:.1f}" for v in volume.origin_mm)
    return f"{sizes} voxels of {spacing} mm from ({origin})"


def _read(path: pathlib.Path, series_uid: str | None, gaps: str, prefer: Any) -> tuple[Volume, int]:
    if path.is_dir():
        return dicom.read(path, series_uid, gaps)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: wanted a DICOM folder or a .nii or .nii.gz file")
    if not is_nifti(path):
        hint = "wanted a DICOM folder, .nii or .nii.gz"
        if is_dicom(path):
            hint = "give the folder it lies in"
        raise ValueError(f"{path} is no CT volume that can be read by itself: {hint}")
    return nifti.read(path, prefer)


def _finite(volume: Volume, nan: str) -> Volume:
    bad = ~np.isfinite(volume.hu)
    count, slices = int(bad.sum()), np.flatnonzero(bad.any(axis=(1, 2)))
    if not count:
        return volume
    if nan == "error":
        raise ValueError(
            f"{volume.source} has {count} voxels that are NaN or infinite, first in slice "
            f"{slices[0]} of {len(slices)} such: export the volume again, or make them air with "
            'nan="fill" (--nan fill)'
        )
    volume.hu[bad] = AIR_HU
    faults = volume.faults | {"nan_voxels": count, "nan_slices": len(slices)}
    return dataclasses.replace(volume, faults=faults)


def _check_slice(volume: Volume, z: int) -> None:
    if not 0 <= z < volume.hu.shape[0]:
        raise ValueError(f"{volume.source} has slices 0 to {volume.hu.shape[0] - 1}; got slice {z}")


def _nearest_axes(cosines: Float[np.ndarray, "3 3"]) -> list[int]:
    """For L, P and S the stored axis most along it, each axis once, the clearest pair first."""
    left, axes = np.abs(cosines), [0, 0, 0]
    for _ in range(3):
        row, axis = np.unravel_index(np.argmax(left), left.shape)
        axes[int(row)] = int(axis)
        left[row, :] = left[:, axis] = -1.0
    return axes


def _to_itk(values: Shaped[np.ndarray, "Z Y X"], grid: Volume) -> Any:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z

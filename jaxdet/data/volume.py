"""How does a CT on disk become Hounsfield units with a place in the patient?

Read are a folder that holds one DICOM series and one NIfTI file. SimpleITK is loaded inside the
functions, so that a machine without it can still train on prepared data. Of a DICOM header only
geometry, pixels, modality and series UID are looked at: no name, date or number of the patient
leaves this file.
"""

import contextlib
import gzip
import math
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdet.types import Volume

UNEVEN = 0.01  # share of the slice step by which a gap may differ from the others
MODALITY = "0008|0060"  # the only text of a header that is read
NO_HU = ("MR", "PT", "NM", "US")  # modalities whose numbers are no Hounsfield units
IMAGE_CLASSES = (
    b"1.2.840.10008.5.1.4.1.1.2",
    b"1.2.840.10008.5.1.4.1.1.7",
)  # CT; secondary capture


def read(path: str | pathlib.Path, series_uid: str | None = None) -> Volume:
    """The volume of a DICOM folder or a .nii or .nii.gz file in HU [Z, Y, X], axes as stored.

    HU come through slope and intercept. DICOM slices are sorted by position along their normal
    (axial: from feet to head). Tilted gantries keep their shear: the third column of `direction`
    is then not normal to the slices. ValueError, with the file and the way out, for a missing,
    broken or truncated file, several series and none named, gaps or doubles between the slices,
    and numbers that are not finite.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        volume = _read_dicom(path, series_uid)
    elif path.is_file():
        volume = _read_nifti(path)
    else:
        raise ValueError(f"{path} does not exist: wanted a DICOM folder or a .nii or .nii.gz file")
    bad = int(np.count_nonzero(~np.isfinite(volume.hu)))
    if bad:
        raise ValueError(_not_finite(path, bad))
    return volume


def is_dicom(path: pathlib.Path) -> bool:
    """Whether a file carries the DICOM mark at byte 128. A DICOMDIR, an index, does not count."""
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_nifti(path: pathlib.Path) -> bool:
    """Whether a file's name says NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


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
    return Volume(
        hu=np.ascontiguousarray(hu),
        spacing_mm=_three(volume.spacing_mm[axis] for axis in axes),
        origin_mm=_three(volume.to_mm(first)[0]),
        direction=tuple(float(v) for v in (cosines[:, axes] * signs).ravel()),
        source=volume.source,
    )


def box_to_mm(volume: Volume, z: int, box_xyxy: Float[np.ndarray, "4"]) -> dict[str, list[float]]:
    """Where a box of slice z lies: `center_mm` [3] in patient LPS and `size_mm` [2] along x and y.

    A box goes from pixel edge to pixel edge and x1, y1 are exclusive, so in voxel coordinates,
    whose whole numbers are pixel centres, it reaches from x0 - 0.5 to x1 - 0.5. ValueError for a
    slice that is not there.
    """
    if not 0 <= z < volume.hu.shape[0]:
        raise ValueError(f"{volume.source} has slices 0 to {volume.hu.shape[0] - 1}; got slice {z}")
    x0, y0, x1, y1 = np.asarray(box_xyxy, np.float64)
    centre = volume.to_mm(np.array([[(x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2, z]], np.float64))[0]
    size = [(x1 - x0) * volume.spacing_mm[0], (y1 - y0) * volume.spacing_mm[1]]
    return {"center_mm": [float(v) for v in centre], "size_mm": [float(v) for v in size]}


def _nearest_axes(cosines: Float[np.ndarray, "3 3"]) -> list[int]:
    """For L, P and S the stored axis most along it, each axis once, the clearest pair first."""
    left, axes = np.abs(cosines), [0, 0, 0]
    for _ in range(3):
        row, axis = np.unravel_index(np.argmax(left), left.shape)
        axes[int(row)] = int(axis)
        left[row, :] = left[:, axis] = -1.0
    return axes


def _read_dicom(folder: pathlib.Path, series_uid: str | None) -> Volume:
    import SimpleITK as sitk

    names = _series_files(sitk, folder, series_uid)
    images = [_read_slice(sitk, name) for name in names]
    origins = np.array([image.GetOrigin() for image in images])
    cosines = np.array(images[0].GetDirection()).reshape(3, 3)
    for name, image in zip(names, images, strict=True):
        if not _alike(image, images[0]):
            raise ValueError(
                f"{name} has another size, pixel spacing or orientation than {names[0]}: "
                "keep one series of parallel slices in the folder"
            )
    order = np.argsort(origins @ cosines[:, 2], kind="stable")
    origins, names = origins[order], [names[i] for i in order]
    step = _slice_step(folder, names, origins, cosines[:, 2], images[0].GetSpacing()[2])
    length = float(np.linalg.norm(step))
    return Volume(
        hu=np.concatenate([sitk.GetArrayViewFromImage(images[i]) for i in order]),
        spacing_mm=_three((*images[0].GetSpacing()[:2], length)),
        origin_mm=_three(origins[0]),
        direction=tuple(float(v) for v in np.column_stack([cosines[:, :2], step / length]).ravel()),
        source=str(folder),
    )


def _series_files(sitk: Any, folder: pathlib.Path, series_uid: str | None) -> list[str]:
    """The files of the one series that is meant. A slice GDCM cannot read is an error, no gap."""
    find = sitk.ImageSeriesReader
    with _without_warnings(sitk):
        series = {
            uid: list(find.GetGDCMSeriesFileNames(str(folder), uid))
            for uid in find.GetGDCMSeriesIDs(str(folder))
        }
    readable = {pathlib.Path(name).name for names in series.values() for name in names}
    for file in sorted(folder.iterdir()):
        if file.name not in readable and _should_be_slice(file):
            raise ValueError(
                f"{file} is truncated or no DICOM: copy it again, or take it out of the folder"
            )
    if not series:
        what = "is empty" if not any(folder.iterdir()) else "holds no DICOM image"
        raise ValueError(f"{folder} {what}: give the folder in which the .dcm files themselves lie")
    if series_uid is None and len(series) == 1:
        return next(iter(series.values()))
    if series_uid in series:
        return series[series_uid]
    found = "; ".join(f"{uid or '(no UID)'}: {len(names)} slices" for uid, names in series.items())
    asked = "none was named" if series_uid is None else f"{series_uid!r} is not among them"
    raise ValueError(
        f"{folder} holds {len(series)} series and {asked}. They are {found}. "
        "Name one with series_uid, or give it a folder of its own"
    )


def _should_be_slice(file: pathlib.Path) -> bool:
    if not is_dicom(file):
        return file.suffix.lower() in (".dcm", ".ima") and file.is_file()
    with file.open("rb") as opened:
        head = opened.read(1024)
    # Reports and structure sets may lie beside a series; only images are missed.
    return any(uid in head for uid in IMAGE_CLASSES)


def _read_slice(sitk: Any, name: str) -> Any:
    image = _read_grey(sitk, name)
    kind = image.GetMetaData(MODALITY).strip() if image.HasMetaDataKey(MODALITY) else "CT"
    if kind in NO_HU:
        raise ValueError(f"{name} is {kind}, which has no Hounsfield units: give a CT series")
    if image.GetSize()[2] != 1:
        raise ValueError(
            f"{name} holds {image.GetSize()[2]} frames: wanted one slice a file. "
            "Make it a NIfTI first, for example with dcm2niix"
        )
    return image


def _read_grey(sitk: Any, name: str) -> Any:
    """One file as float32 with its slope and intercept. ValueError unless it is grey and 3-D."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        with _without_warnings(sitk):
            reader.ReadImageInformation()
            size, parts = reader.GetSize(), reader.GetNumberOfComponents()
            image = reader.Execute() if len(size) == 3 and parts == 1 else None
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{name} cannot be read ({why}): copy or export it again") from None
    if image is None:
        raise ValueError(
            f"{name} has size {tuple(size)} and {parts} values a voxel: wanted one grey volume "
            "[Z, Y, X]. Write the one that is meant to a file of its own"
        )
    return image


def _alike(image: Any, first: Any) -> bool:
    pairs = (image.GetDirection(), first.GetDirection()), (image.GetSpacing(), first.GetSpacing())
    return image.GetSize() == first.GetSize() and all(np.allclose(*p, atol=1e-3) for p in pairs)


def _slice_step(
    folder: pathlib.Path,
    names: list[str],
    origins: Float[np.ndarray, "Z 3"],
    normal: Float[np.ndarray, "3"],
    thickness_mm: float,
) -> Float[np.ndarray, "3"]:
    """From one slice to the next in mm, all alike. ValueError names the first gap or double."""
    if len(origins) == 1:
        return normal * thickness_mm
    steps = np.diff(origins, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    usual = steps[np.argsort(lengths, kind="stable")[(len(steps) - 1) // 2]]
    usual_mm = float(np.linalg.norm(usual))
    uneven = np.linalg.norm(steps - usual, axis=1) > UNEVEN * usual_mm
    doubles = lengths < 1e-4
    if not doubles.any() and not uneven.any():
        return (origins[-1] - origins[0]) / len(steps)
    k = int(np.argmax(doubles if doubles.any() else uneven))
    first, second = pathlib.Path(names[k]).name, pathlib.Path(names[k + 1]).name
    pair = f"{folder}: slices {k} and {k + 1} ({first}, {second})"
    if doubles.any():
        raise ValueError(
            f"{pair} lie at the same place: several phases in one series, or slices without a "
            "position. Keep one phase in the folder"
        )
    raise ValueError(
        f"{pair} are {lengths[k]:.3f} mm apart, the others {usual_mm:.3f} mm: slices are missing "
        "or uneven. Add the missing files, or resample the series to even slices"
    )


def _read_nifti(path: pathlib.Path) -> Volume:
    import SimpleITK as sitk

    if not is_nifti(path):
        hint = "wanted a DICOM folder, .nii or .nii.gz"
        if is_dicom(path):
            hint = "give the folder it lies in"
        raise ValueError(f"{path} is no CT volume that can be read by itself: {hint}")
    _check_bytes(path)
    image = _read_grey(sitk, str(path))
    return Volume(
        hu=sitk.GetArrayFromImage(image),
        spacing_mm=_three(image.GetSpacing()),
        origin_mm=_three(image.GetOrigin()),
        direction=tuple(float(v) for v in image.GetDirection()),
        source=str(path),
    )


def _check_bytes(path: pathlib.Path) -> None:
    """Refuses what ITK reads in silence: it fills a truncated file with zeros, and makes NaN zero.

    Layout: the NIfTI-1 and NIfTI-2 headers (nifti.nimh.nih.gov), either byte order.
    """
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            head = file.read(540)
            start, wanted, kind = _nifti_layout(head)
            file.seek(start)
            there = bad = 0
            while there < wanted and (part := file.read(min(1 << 22, wanted - there))):
                there += len(part)
                if kind is not None and len(part) % kind.itemsize == 0:
                    bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(part, kind))))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or no gzip file ({error}): copy it again") from None
    except struct.error:
        raise ValueError(
            f"{path} is no NIfTI: its header is wrong or cut short. Export it again"
        ) from None
    if there < wanted:
        raise ValueError(f"{path} is truncated: {there} of {wanted} bytes. Copy it again")
    if bad:
        raise ValueError(_not_finite(path, bad))


def _nifti_layout(head: bytes) -> tuple[int, int, np.dtype | None]:
    """Where the voxels start, how many bytes they take, and their type where it knows NaN."""
    for order in "<>":
        version = struct.unpack_from(f"{order}i", head)[0]
        if version not in (348, 540):
            continue
        # Places of dim, datatype with bitpix, and vox_offset in the two headers.
        dim, kind, start = ("8h", 40), ("2h", 70), ("f", 108)
        if version == 540:
            dim, kind, start = ("8q", 16), ("2h", 12), ("q", 168)
        rank, *sizes = struct.unpack_from(order + dim[0], head, dim[1])
        code, bits = struct.unpack_from(order + kind[0], head, kind[1])
        offset = struct.unpack_from(order + start[0], head, start[1])[0]
        if 1 <= rank <= 7 and offset >= 0:
            wanted = math.prod(max(n, 1) for n in sizes[:rank]) * bits // 8
            floats = {16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}
            return int(offset), wanted, floats.get(code)
    raise struct.error("no NIfTI header")


def _not_finite(path: pathlib.Path, count: int) -> str:
    return (
        f"{path} has {count} voxels that are NaN or infinite: export the volume again, or fill "
        "them with the HU of air (-1000)"
    )


@contextlib.contextmanager
def _without_warnings(sitk: Any) -> Iterator[None]:
    """ITK writes to the terminal what the errors here say better."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z

"""How does a folder of DICOM slices become a volume in HU?

    headers of all files -> one series -> sorted by place -> stored numbers -> HU, slice by slice

A slice whose declared size is absurd is refused before anything is allocated.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdet.data import dicom_header, dicom_pixels
from jaxdet.data.dicom_header import MOST_PIXELS, Header
from jaxdet.types import Volume

MOST_VOXELS = 1 << 30  # of one volume: 4 GiB as float32
UNEVEN = 0.01  # share of the slice step by which a gap may differ from the others
NO_HU = ("MR", "PT", "NM", "US")  # modalities whose numbers are no Hounsfield units
BESIDE = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTIMAGE", "REG")
IMAGE_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7")  # CT; second capture


def is_dicom(path: pathlib.Path) -> bool:
    """Whether a file carries the DICOM mark at byte 128. A DICOMDIR, an index, does not count."""
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def series(
    folder: pathlib.Path, tags: Mapping[str, int] = dicom_header.TAGS
) -> dict[str, list[Header]]:
    """The headers of the pictures in a folder by series UID, in the order of file names.

    Reports, plans and segmentations that lie beside are left out. A file that should be a slice and
    is truncated is a ValueError, no gap.
    """
    found: dict[str, list[Header]] = {}
    for file in sorted(folder.iterdir()):
        if not is_dicom(file):
            if file.suffix.lower() in (".dcm", ".ima") and file.is_file():
                raise ValueError(
                    f"{file} is truncated or no DICOM: copy it again, or take it out of the folder"
                )
            continue
        header = dicom_header.read(file, tags)
        if header.text("modality") in BESIDE:
            continue
        if header.length:
            found.setdefault(header.text("series"), []).append(header)
        elif header.text("sop_class") in IMAGE_CLASSES:
            raise ValueError(
                f"{file} is truncated or no DICOM image (it has no pixels): copy it again, or take "
                "it out of the folder"
            )
    return found


def read(
    folder: pathlib.Path, series_uid: str | None = None, gaps: str = "error"
) -> tuple[Volume, int]:
    """The volume of one series, and how many bits a stored number has.

    HU = slope x stored + intercept with the slope and intercept of each slice; where they are
    missing, 1 and 0. Padding becomes air. What was done is counted in `Volume.faults`. With
    gaps="allow", uneven or missing slices are interpolated onto even ones. ValueErrors name the
    file, the series or the slices, and say what to do.
    """
    headers = _one_series(folder, series(folder), series_uid)
    for header in headers:
        _check_size(header)
    origins, normal = np.array([_position(h) for h in headers]), _cosines(headers[0])[:, 2]
    order = np.argsort(origins @ normal, kind="stable")
    headers, origins = [headers[i] for i in order], origins[order]
    for header in headers:
        _check_alike(header, headers[0])
    rows, columns = headers[0].integer("rows", 0), headers[0].integer("columns", 0)
    if len(headers) * rows * columns > MOST_VOXELS:
        raise ValueError(
            f"{folder} has {len(headers)} slices of {columns} x {rows}: more than {MOST_VOXELS} "
            "voxels. Take out what is no slice of this patient, or resample the series"
        )
    step, uneven = _slice_step(folder, headers, origins, normal, gaps)
    hu = np.empty((len(headers), rows, columns), np.float32)
    faults = {"no_position": sum("position_mm" not in h.values for h in headers)}
    for k, header in enumerate(headers):
        hu[k] = dicom_pixels.to_hu(header, faults)
    if uneven:
        faults["uneven_gaps"] = uneven
        hu = _evened(folder, hu, origins, step)
    spacing, bits = _spacing(headers[0], faults), headers[0].integer("bits_allocated", 16)
    length = float(np.linalg.norm(step))
    x, y, z = (float(v) for v in origins[0])
    cosines = np.column_stack([_cosines(headers[0])[:, :2], step / length])
    volume = Volume(
        hu=hu,
        spacing_mm=(*spacing, length),
        origin_mm=(x, y, z),
        direction=tuple(float(v) for v in cosines.ravel()),
        source=str(folder),
        faults={name: count for name, count in faults.items() if count},
    )
    return volume, bits


def _one_series(
    folder: pathlib.Path, found: dict[str, list[Header]], series_uid: str | None
) -> list[Header]:
    if not found:
        what = "is empty" if not any(folder.iterdir()) else "holds no DICOM image"
        raise ValueError(f"{folder} {what}: give the folder in which the .dcm files themselves lie")
    if series_uid is None and len(found) == 1:
        return next(iter(found.values()))
    if series_uid in found:
        return found[series_uid]
    listed = "; ".join(f"{uid or '(no UID)'}: {len(part)} slices" for uid, part in found.items())
    asked = "none was named" if series_uid is None else f"{series_uid!r} is not among them"
    raise ValueError(
        f"{folder} holds {len(found)} series and {asked}. They are {listed}. "
        "Name one with series_uid, or give it a folder of its own"
    )


def _check_size(header: Header) -> None:
    """Refuses from the header alone what no CT slice is."""
    path, rows, columns = header.path, header.integer("rows", 0), header.integer("columns", 0)
    frames, kind = int((header.numbers("frames", 1) or [1])[0]), header.text("modality", "CT")
    if not 0 < rows * columns <= MOST_PIXELS or header.length > dicom_header.MOST_BYTES:
        raise ValueError(
            f"{path} declares {columns} x {rows} pixels and {frames} frame(s): wanted 1 to "
            f"{MOST_PIXELS} pixels. It is damaged or made to harm: take it out of the folder"
        )
    if frames != 1:
        raise ValueError(
            f"{path} holds {frames} frames: wanted one slice a file. "
            "Make it a NIfTI first, for example with dcm2niix"
        )
    bits, allocated = header.integer("bits_stored", 16), header.integer("bits_allocated", 16)
    if allocated not in (8, 16, 32) or not 0 < bits <= allocated:
        raise ValueError(
            f"{path} stores {bits} of {allocated} bits: wanted 8, 16 or 32 allocated. Export it "
            "again"
        )
    picture = header.text("photometric", "MONOCHROME2")
    if header.integer("samples", 1) != 1 or not picture.startswith("MONOCHROME"):
        raise ValueError(f"{path} is a {picture} picture, which has no Hounsfield units")
    if kind in NO_HU:
        raise ValueError(f"{path} is {kind}, which has no Hounsfield units: give a CT series")


def _position(header: Header) -> list[float]:
    return header.numbers("position_mm", 3) or [0.0, 0.0, 0.0]


def _cosines(header: Header) -> Float[np.ndarray, "3 3"]:
    """Columns: the directions of x (along a row), y (down a column) and the slices' normal."""
    found = np.array(header.numbers("orientation", 6) or [1.0, 0, 0, 0, 1, 0]).reshape(2, 3)
    normal = np.cross(*found)
    if abs(np.linalg.norm(normal) - 1) > 1e-2:
        raise ValueError(
            f"{header.path} has orientation {found.ravel().tolist()}, which are no two directions "
            "at right angles. Export the series again"
        )
    return np.column_stack([*found, normal])


def _spacing(header: Header, faults: dict[str, int]) -> tuple[float, float]:
    """Of x and y in mm. DICOM writes the distance of rows, which is y, first."""
    found = header.numbers("spacing_mm", 2)
    faults["no_spacing"] = int(found is None)
    y, x = found or [1.0, 1.0]
    if min(x, y) <= 0:
        raise ValueError(f"{header.path} has pixel spacing {x} x {y} mm: wanted more than 0")
    return x, y


def _check_alike(header: Header, first: Header) -> None:
    def shape(h: Header) -> list[Any]:
        return [h.integer("rows", 0), h.integer("columns", 0), *_spacing(h, {}), *_cosines(h).flat]

    if not np.allclose(shape(header), shape(first), atol=1e-3):
        raise ValueError(
            f"{header.path} has another size, pixel spacing or orientation than {first.path}: "
            "keep one series of parallel slices in the folder"
        )


def _slice_step(
    folder: pathlib.Path,
    headers: list[Header],
    origins: Float[np.ndarray, "Z 3"],
    normal: Float[np.ndarray, "3"],
    gaps: str,
) -> tuple[Float[np.ndarray, "3"], int]:
    """From one slice to the next in mm, all alike, and how many differ where that is allowed."""
    if len(origins) == 1:
        return normal * (headers[0].numbers("thickness_mm", 1) or [1.0])[0], 0
    steps = np.diff(origins, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    usual = steps[np.argsort(lengths, kind="stable")[(len(steps) - 1) // 2]]
    usual_mm = float(np.linalg.norm(usual))
    uneven = np.linalg.norm(steps - usual, axis=1) > UNEVEN * usual_mm
    doubles = lengths < 1e-4
    if not doubles.any() and not uneven.any():
        return (origins[-1] - origins[0]) / len(steps), 0
    k = int(np.argmax(doubles if doubles.any() else uneven))
    first, second = headers[k].path.name, headers[k + 1].path.name
    pair = f"{folder}: slices {k} and {k + 1} ({first}, {second})"
    if doubles.any():
        raise ValueError(
            f"{pair} lie at the same place: several phases in one series, or slices without a "
            "position. Keep one phase in the folder"
        )
    aside = np.linalg.norm(steps - lengths[:, None] * (usual / usual_mm), axis=1) > UNEVEN * lengths
    if gaps == "allow" and not aside.any():
        return usual, int(uneven.sum())
    raise ValueError(
        f"{pair} are {lengths[k]:.3f} mm apart, the others {usual_mm:.3f} mm: slices are missing "
        "or uneven. Add the missing files, resample the series to even slices, or let them be "
        'interpolated with gaps="allow" (--gaps allow)'
    )


def _evened(
    folder: pathlib.Path,
    hu: Float[np.ndarray, "Z Y X"],
    origins: Float[np.ndarray, "Z 3"],
    step: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "N Y X"]:
    """Slices at every whole step from the first, linear between the two that lie about each."""
    at = (origins - origins[0]) @ step / (step @ step)
    wanted = np.arange(np.floor(at[-1] + 1e-3) + 1)
    if len(wanted) * hu[0].size > MOST_VOXELS:
        raise ValueError(f"{folder} has gaps that would take {len(wanted)} slices to fill")
    above = np.clip(np.searchsorted(at, wanted), 1, len(at) - 1)
    share = (wanted - at[above - 1]) / (at[above] - at[above - 1])
    out = np.empty((len(wanted), *hu.shape[1:]), np.float32)
    for i, (k, s) in enumerate(zip(above, np.clip(share, 0, 1).astype(np.float32), strict=True)):
        out[i] = hu[k - 1] * (1 - s) + hu[k] * s
    return out

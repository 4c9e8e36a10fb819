"""How does a NIfTI file become a volume with a place in the patient?

Read by its own bytes, because readers at hand fill a truncated file with zeros, turn NaN into
zeros, and pick one of two contradicting orientations in silence. Layout: NIfTI-1 and NIfTI-2
(nifti.nimh.nih.gov), one file, either byte order; orientation by its methods 1 to 3.
"""

import dataclasses
import gzip
import io
import math
import pathlib
import struct
import zlib
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

from jaxdet.types import Volume

MOST_VOXELS = 1 << 30  # of one volume: 4 GiB as float32
MOST_DEFLATE = 1032  # no gzip is smaller than its content divided by that
FREE_BYTES, MOST_RATIO = 1 << 28, 200  # beyond so many bytes, a CT packed tighter than that is none
AGREE = 0.5  # of the smallest voxel side: how far two orientations may part at a corner

# Name, format and place of the fields, in NIfTI-1 and in NIfTI-2.
_FIELDS = {
    348: (
        *(("dim", "8h", 40), ("code", "h", 70), ("bits", "h", 72), ("pixdim", "8f", 76)),
        *(("start", "f", 108), ("slope", "f", 112), ("inter", "f", 116), ("units", "B", 123)),
        *(("qform_code", "h", 252), ("sform_code", "h", 254), ("quatern", "6f", 256)),
        *(("srow", "12f", 280), ("magic", "3s", 344)),
    ),
    540: (
        *(("magic", "3s", 4), ("code", "h", 12), ("bits", "h", 14), ("dim", "8q", 16)),
        *(("pixdim", "8d", 104), ("start", "q", 168), ("slope", "d", 176), ("inter", "d", 184)),
        *(("qform_code", "i", 344), ("sform_code", "i", 348), ("quatern", "6d", 352)),
        *(("srow", "12d", 400), ("units", "i", 500)),
    ),
}
_KINDS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_KINDS |= {1024: "i8", 1280: "u8"}
_TO_MM = {1: 1000.0, 2: 1.0, 3: 1e-3}  # metre, millimetre, micrometre; 0 is taken as mm
_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI counts to the right and to the front


@dataclasses.dataclass(frozen=True)
class Header:
    """What of a NIfTI header is needed."""

    shape_xyz: tuple[int, int, int]
    kind: np.dtype
    start: int  # of the voxels, in bytes of the content
    slope: float
    intercept: float
    affine: Float[np.ndarray, "3 4"]  # voxel x, y, z to LPS mm
    placed: bool  # whether the file has an orientation at all


def is_nifti(path: pathlib.Path) -> bool:
    """Whether a file's name says NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read(path: pathlib.Path, prefer: Literal["qform", "sform"] | None = None) -> tuple[Volume, int]:
    """The volume of a .nii or .nii.gz file, slope and intercept applied, and the bits of a number.

    NaN stay what they are. ValueError, with the way out, for a broken or truncated file, for one
    that is no grey 3-D volume, for absurd sizes (from the header alone), and where qform and sform
    put the volume at different places and `prefer` names neither.
    """
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            header = _header(path, file.read(544), prefer)
            stored = _voxels(path, file, header, packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or no gzip file ({error}): copy it again") from None
    except struct.error:
        raise ValueError(
            f"{path} is no NIfTI: its header is wrong or cut short. Export it again"
        ) from None
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is counted where it is read
        hu = stored.astype(np.float32)
        if (header.slope, header.intercept) != (1.0, 0.0):
            hu *= np.float32(header.slope)
            hu += np.float32(header.intercept)
    spacing = np.linalg.norm(header.affine[:, :3], axis=0)
    volume = Volume(
        hu=hu,
        spacing_mm=_three(spacing),
        origin_mm=_three(header.affine[:, 3]),
        direction=tuple(float(v) for v in (header.affine[:, :3] / spacing).ravel()),
        source=str(path),
        faults={} if header.placed else {"no_orientation": 1},
    )
    return volume, 8 * header.kind.itemsize


def _voxels(
    path: pathlib.Path, file: io.BufferedIOBase, header: Header, packed: bool
) -> Shaped[np.ndarray, "Z Y X"]:
    count = math.prod(header.shape_xyz)
    wanted, there = count * header.kind.itemsize, path.stat().st_size
    if packed and wanted > max(FREE_BYTES, MOST_RATIO * there) and MOST_DEFLATE * there > wanted:
        raise ValueError(
            f"{path} would grow from {there} to {wanted} bytes: no CT packs so well. It is damaged "
            "or made to harm; if it is yours, unpack it to .nii first"
        )
    if there * (MOST_DEFLATE if packed else 1) < wanted:
        raise ValueError(f"{path} is truncated: {wanted} bytes of voxels do not fit in. Copy again")
    stored = np.empty(count, header.kind)
    file.seek(header.start)
    view, done = memoryview(stored).cast("B"), 0
    while done < wanted and (part := file.readinto(view[done : done + (1 << 22)])):
        done += part
    if done < wanted:
        raise ValueError(f"{path} is truncated: {done} of {wanted} bytes. Copy it again")
    file.read(1)  # at the end of a gzip this compares the checksum
    return stored.reshape(header.shape_xyz[::-1])


def _header(path: pathlib.Path, head: bytes, prefer: str | None) -> Header:
    fields, order = _fields(head)
    rank, *sizes = fields["dim"]
    code = fields["code"][0]
    if not 1 <= rank <= 7 or fields["magic"][0] not in (b"n+1", b"n+2"):
        raise struct.error("no NIfTI header")
    if not 0 <= fields["start"][0] < 1 << 31:  # NaN fails too
        raise struct.error("no place of the voxels")
    sizes = sizes[:rank]
    if rank < 3 or math.prod(sizes[3:]) != 1 or code not in _KINDS:
        raise ValueError(
            f"{path} has size {tuple(sizes)} and data type {code}: wanted one grey volume "
            "[Z, Y, X]. Write the one that is meant to a file of its own"
        )
    if min(sizes) < 1 or math.prod(sizes) > MOST_VOXELS:
        raise ValueError(
            f"{path} declares {' x '.join(map(str, sizes))} voxels: wanted 1 to {MOST_VOXELS}. "
            "Its header is damaged or made to harm; export it again, or crop it"
        )
    slope, inter = fields["slope"][0], fields["inter"][0]
    if not math.isfinite(slope) or slope == 0:  # the standard: 0 means that nothing is scaled
        slope, inter = 1.0, 0.0
    kind = np.dtype(order + _KINDS[code])
    affine = _affine(path, fields, sizes[:3], prefer)
    start, inter = int(fields["start"][0]), inter if math.isfinite(inter) else 0.0
    placed = fields["qform_code"][0] > 0 or fields["sform_code"][0] > 0
    return Header((sizes[0], sizes[1], sizes[2]), kind, start, slope, inter, affine, placed)


def _fields(head: bytes) -> tuple[dict[str, tuple[Any, ...]], str]:
    for order in "<>":
        places = _FIELDS.get(struct.unpack_from(f"{order}i", head)[0])
        if places is not None:
            return {name: struct.unpack_from(order + f, head, at) for name, f, at in places}, order
    raise struct.error("no NIfTI header")


def _affine(
    path: pathlib.Path, fields: dict[str, tuple[Any, ...]], sizes: list[int], prefer: str | None
) -> Float[np.ndarray, "3 4"]:
    """Voxel to LPS mm: the sform, else the qform, else only the spacing (method 1)."""
    found: dict[str, np.ndarray] = {}
    if fields["qform_code"][0] > 0:
        found["qform"] = _qform(fields)
    if fields["sform_code"][0] > 0:
        found["sform"] = np.array(fields["srow"], np.float64).reshape(3, 4)
    if not found:
        spacing = np.abs(np.array(fields["pixdim"][1:4], np.float64))
        # Without a code nothing says where right is: the axes count as the patient's own, LPS.
        found["pixdim"] = _TO_LPS @ np.column_stack([np.diag(spacing), np.zeros(3)])
    for name, affine in found.items():
        side = np.linalg.norm(affine[:, :3], axis=0)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:, :3])) < 1e-3 * side.prod():
            raise ValueError(f"{path} has a {name} that is no orientation: export it again")
        if not (side > 1e-6).all():
            raise ValueError(f"{path} has voxels without size ({name}): export it again")
    if len(found) == 2 and prefer is None:
        _check_agree(path, found["qform"], found["sform"], sizes)
    chosen = found.get(prefer or "sform", next(reversed(found.values())))
    return _TO_LPS @ chosen * _TO_MM.get(fields["units"][0] & 7, 1.0)


def _qform(fields: dict[str, tuple[Any, ...]]) -> Float[np.ndarray, "3 4"]:
    """Voxel to RAS by the quaternion (method 2)."""
    b, c, d, *origin = fields["quatern"]
    a = math.sqrt(max(1.0 - (b * b + c * c + d * d), 0.0))
    # Rounded to float32 the four may not be of length 1.
    a, b, c, d = np.array([a, b, c, d], np.float64) / max(math.hypot(a, b, c, d), 1e-12)
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    hand, *spacing = fields["pixdim"][:4]
    spacing = np.array(spacing, np.float64) * [1, 1, -1 if hand < 0 else 1]
    return np.column_stack([turn * spacing, origin])


def _check_agree(
    path: pathlib.Path,
    qform: Float[np.ndarray, "3 4"],
    sform: Float[np.ndarray, "3 4"],
    sizes: list[int],
) -> None:
    ends = [np.array([0.0, n - 1.0]) for n in sizes]
    corners = np.stack([*np.meshgrid(*ends, indexing="ij"), np.ones((2, 2, 2))]).reshape(4, 8)
    apart = float(np.linalg.norm((qform - sform) @ corners, axis=0).max())
    if apart > AGREE * float(np.linalg.norm(sform[:, :3], axis=0).min()):
        raise ValueError(
            f"{path} has two orientations that differ by up to {apart:.1f} mm: qform "
            f"{_said(qform)}; sform {_said(sform)} (rows of voxel to RAS mm). Say which is right "
            'with prefer="sform" or prefer="qform" (--prefer), or export it again'
        )


def _said(affine: Float[np.ndarray, "3 4"]) -> str:
    return ", ".join("[" + " ".join(f"{v:.4g}" for v in row) + "]" for row in affine)


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z

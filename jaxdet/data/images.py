"""What is in an image file? Any channel count, 8 or 16 bit or float, in the precision of the file.

PNG, JPEG, BMP, TIFF and npy, told apart by their first bytes. Colour comes out as RGB or RGBA
(OpenCV's own order is BGR). An orientation that a camera wrote into the file is ignored, because
boxes are drawn on the pixels as they are stored.
"""

import os
import pathlib
import re
import struct
import zlib
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import Shaped

from jaxdet.data import tiff

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x93NUMPY": "npy",
}
_LUMA = np.array([0.299, 0.587, 0.114])  # of R, G, B: ITU-R BT.601
_EXACT = 1 << 24  # whole numbers up to here are exact in float32

# In the coded data of a JPEG: 0xFF and what is neither a stuffed zero, a restart nor filling.
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def read(path: str | os.PathLike, channels: int | None = None) -> Shaped[np.ndarray, "H W C"]:
    """The pixels of an image file, uint8, uint16, int16 or float32.

    Wider numbers become float32 where that is exact (float64 is rounded). TIFF pages are stacked on
    the channel axis; an npy holds [H, W] or [H, W, C]. With `channels`, a grey file asked for as 3
    is repeated and an RGB file asked for as 1 goes through BT.601 luma; every other mismatch is a
    ValueError. A file that is missing, corrupt, truncated or of another kind is a ValueError that
    names it. What no reader can tell: JPEG data that were changed and are still grammatical, such
    as zeros in the middle or an end marker put early; PNG has checksums.
    """
    path = pathlib.Path(path)
    try:
        kind = _kind(path)
        image = _read_npy(path) if kind == "npy" else _decode(path.read_bytes(), kind)
        image = _in_house_types(image)
    except (OSError, ValueError, struct.error, cv2.error, MemoryError) as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}") from None
    return image if channels is None else _with_channels(image, channels, path)


def size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of an image file, from its header; the pixels are not decoded.

    A file without a readable header is a ValueError that names it.
    """
    path = pathlib.Path(path)
    try:
        kind = _kind(path)
        if kind == "npy":
            return _open_npy(path).shape[:2]
        if kind == "TIFF":
            return tiff.size(path.read_bytes())
        with path.open("rb") as file:
            return {"PNG": _png_size, "BMP": _bmp_size, "JPEG": _jpeg_size}[kind](file)
    except struct.error:
        raise ValueError(f"{path}: truncated before its size is told") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}") from None


def to_range(
    image: Shaped[np.ndarray, "H W C"],
    window: tuple[float | int, float | int] | None,
    name: str = "image",
) -> Shaped[np.ndarray, "H W C"]:
    """Pixels as the pipeline carries them, uint8 or float32 in [0, 1]; scaled only here.

    With a window (low, high), in the unit of the file such as HU: clip((x - low) / (high - low), 0,
    1). Without one, uint8 stays as it is, uint16 is divided by 65535, float must lie in [0, 1]
    already, and int16 is an error, because its range means nothing. NaN and infinity are errors.
    `name` is what an error says.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        count = int(np.size(image) - np.isfinite(image).sum())
        raise ValueError(f"{name}: {count} of {image.size} pixels are NaN or infinite")
    if window is not None:
        return _windowed(image, *window)
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return image.astype(np.float32) / np.float32(65535)
    low, high = (image.min(), image.max()) if image.size else (0, 0)
    if image.dtype == np.float32 and low >= 0 and high <= 1:
        return image
    raise ValueError(
        f"{name}: {image.dtype} pixels from {low:g} to {high:g}; wanted uint8, uint16 or"
        " float in [0, 1]. Set data.window_hu to (low, high) to say which range is shown"
    )


def _windowed(image: np.ndarray, low: float | int, high: float | int) -> np.ndarray:
    if not low < high:
        raise ValueError(f"data.window_hu wants (low, high) with low < high; got ({low}, {high})")
    scaled = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0.0, 1.0)


def _kind(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError("the file is empty")
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    raise ValueError("it is none of PNG, JPEG, BMP, TIFF and npy")


def _decode(data: bytes, kind: str) -> np.ndarray:
    if kind == "TIFF":
        return tiff.decode(data)
    # OpenCV fills what a truncated file lacks with grey or the row above, without an error.
    {"PNG": _check_png, "JPEG": _check_jpeg, "BMP": _check_bmp}[kind](data)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError(f"corrupt {kind}")
    return tiff.from_bgr(image)


def _check_png(data: bytes) -> None:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"corrupt PNG: check sum of its {name.decode('latin-1')} part")
        if name == b"IEND":
            return
        at = end + 4
    raise ValueError("truncated PNG: its end marker is missing")


def _check_jpeg(data: bytes) -> None:
    # The thumbnail in a camera's header has an end marker too, so the search begins at the first
    # scan.
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    while (found := _MARKER.search(data, at)) and found[0][-1] != 0xD9:
        if found[0][-1] < 0xC0:
            raise ValueError(f"corrupt JPEG: no marker may stand at byte {found.start()}")
        at = found.end() + struct.unpack_from(">H", data, found.end())[0]
    if not found:
        raise ValueError("truncated JPEG: its end marker is missing")


def _check_bmp(data: bytes) -> None:
    told = struct.unpack_from("<I", data, 2)[0] if len(data) >= 26 else 26
    if told > len(data):
        raise ValueError(f"truncated BMP: {len(data)} of {told} bytes")


def _open_npy(path: pathlib.Path) -> np.ndarray:
    # Mapped, so that a header which promises more than the file holds allocates nothing.
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's header reader lets SyntaxError, TokenError and more out
        raise ValueError(f"corrupt npy: {error}") from None
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"an npy image is [H, W] or [H, W, C]; this one is {list(array.shape)}")
    return array


def _read_npy(path: pathlib.Path) -> np.ndarray:
    array = np.array(_open_npy(path))
    return array[..., None] if array.ndim == 2 else array


def _in_house_types(image: np.ndarray) -> np.ndarray:
    kind, width = image.dtype.kind, image.dtype.itemsize
    if (kind, width) in (("u", 1), ("u", 2), ("i", 2), ("f", 4)):
        return image.astype(image.dtype.newbyteorder("="), copy=False)
    if kind == "f" or (kind in "ui" and abs(image.astype(np.float64)).max() <= _EXACT):
        return image.astype(np.float32)
    raise ValueError(f"pixels of type {image.dtype}: save uint8, uint16, int16 or float32")


def _with_channels(image: np.ndarray, channels: int, path: pathlib.Path) -> np.ndarray:
    have = image.shape[2]
    if have == channels:
        return image
    if (have, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (have, channels) == (3, 1):
        grey = image.astype(np.float64) @ _LUMA
        grey = grey if image.dtype.kind == "f" else np.rint(grey)
        return grey.astype(image.dtype)[..., None]
    raise ValueError(
        f"{path}: the image has {have} channels, data.channels wants {channels}; only grey to 3 and"
        " RGB to 1 are converted"
    )


def _png_size(file: BinaryIO) -> tuple[int, int]:
    width, height = struct.unpack(">II", file.read(24)[16:])
    return height, width


def _bmp_size(file: BinaryIO) -> tuple[int, int]:
    head = file.read(26)
    if struct.unpack_from("<I", head, 14)[0] == 12:  # the header of OS/2
        width, height = struct.unpack_from("<HH", head, 18)
    else:
        width, height = struct.unpack_from("<ii", head, 18)
    return abs(height), width  # a negative height says that the top row comes first


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    file.seek(2)
    while True:
        mark, code = struct.unpack(">BB", file.read(2))
        while code == 0xFF:  # fill bytes
            (code,) = struct.unpack(">B", file.read(1))
        if mark != 0xFF or code == 0xDA:
            raise ValueError("corrupt JPEG: no frame header before the first scan")
        (length,) = struct.unpack(">H", file.read(2))
        # SOF0 to SOF15 are frames, except DHT, JPG and DAC, which share the range.
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">xHH", file.read(5))
            return height, width
        file.seek(length - 2, os.SEEK_CUR)

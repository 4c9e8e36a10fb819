"""TIFF with any number of bands, pages and 8 to 64 bits, uncompressed or deflated.

OpenCV alone will not do: of a twelve-band file it refuses, of a grey file with extra bands it hands
back the first band without a word. What is compressed otherwise is left to it where it is known to
be right: one band or RGB(A). Layout: TIFF 6.0 (Adobe, 1992); deflate is tag value 8 of its 2002
supplement.
"""

import math
import struct
import zlib

import cv2
import numpy as np
from jaxtyping import Shaped

_MAX_NUMBERS = 1 << 30  # of one page: a header can promise more than any file holds
_CODES = {1: "B", 3: "H", 4: "I"}  # field types that carry whole numbers
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _BANDS, _STRIP_ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _FORMAT, _SUBFILE = 322, 323, 324, 325, 339, 254

Page = dict[int, tuple[int, ...]]


def decode(data: bytes) -> Shaped[np.ndarray, "H W C"]:
    """Every page of a TIFF, stacked on the channel axis: bands fast, pages slow.

    Pages that are only a smaller copy (overviews) are skipped. A truncated file, pages of unequal
    size or type, and more than three bands under a compression other than deflate are a ValueError.
    """
    pages = read_pages(data)
    if all(_is_plain(page) for page in pages):
        planes = [_page(data, page) for page in pages]
    else:
        planes = _by_opencv(data, pages)
    kinds = {(plane.shape[:2], plane.dtype) for plane in planes}
    if len(kinds) != 1:
        raise ValueError(f"pages differ in size or type: {sorted(map(str, kinds))}")
    return np.concatenate(planes, axis=2)


def size(data: bytes) -> tuple[int, int]:
    """(height, width) of the first page."""
    page = read_pages(data)[0]
    return page[_HEIGHT][0], page[_WIDTH][0]


def read_pages(data: bytes) -> list[Page]:
    """The whole-number tags of every full-size page."""
    pages, seen = [], set()
    try:
        order = _order(data)
        if struct.unpack_from(order + "H", data, 2)[0] != 42:
            raise ValueError("BigTIFF is not read: save a plain TIFF or npy")
        (at,) = struct.unpack_from(order + "I", data, 4)
        while at:
            if at in seen:
                raise ValueError("TIFF pages run in a circle")
            seen.add(at)
            page, at = _tags(data, at, order)
            if not page.get(_SUBFILE, (0,))[0] & 1:
                pages.append(page)
    except struct.error:
        raise ValueError("truncated TIFF: a page directory lies beyond the end") from None
    if not pages or any(not page.get(_WIDTH) or not page.get(_HEIGHT) for page in pages):
        raise ValueError("TIFF without a page of known size")
    return pages


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _tags(data: bytes, at: int, order: str) -> tuple[Page, int]:
    (count,) = struct.unpack_from(order + "H", data, at)
    page: Page = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, n = struct.unpack_from(order + "HHI", data, entry)
        if kind not in _CODES:
            continue
        layout = f"{order}{n}{_CODES[kind]}"
        # Up to four bytes lie in the entry itself, more lie where it points.
        inside = struct.calcsize(layout) <= 4
        where = entry + 8 if inside else struct.unpack_from(order + "I", data, entry + 8)[0]
        page[tag] = struct.unpack_from(layout, data, where)
    return page, struct.unpack_from(order + "I", data, at + 2 + 12 * count)[0]


def _is_plain(page: Page) -> bool:
    bits, kind = set(page.get(_BITS, (1,))), set(page.get(_FORMAT, (1,)))
    return (
        page.get(_COMPRESSION, (1,))[0] in (1, 8, 32946)
        and page.get(_PHOTOMETRIC, (1,))[0] in (1, 2)
        and page.get(_PREDICTOR, (1,))[0] in (1, 2)
        and len(bits) == len(kind) == 1
        and bits <= ({16, 32, 64} if kind == {3} else {8, 16, 32, 64})
        and kind <= {1, 2, 3}  # unsigned, signed, float
    )


def _by_opencv(data: bytes, pages: list[Page]) -> list[np.ndarray]:
    for page in pages:
        bands, colour = page.get(_BANDS, (1,))[0], page.get(_PHOTOMETRIC, (1,))[0] in (2, 6)
        if bands != 1 and not (colour and bands in (3, 4)):
            raise ValueError(
                f"{bands} bands under TIFF compression {page.get(_COMPRESSION, (1,))[0]}: save it"
                " uncompressed, deflated, or as npy"
            )
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    done, planes = cv2.imdecodemulti(np.frombuffer(data, np.uint8), flags)
    if not done or len(planes) != len(pages):
        raise ValueError(f"OpenCV decodes {len(planes)} of {len(pages)} TIFF pages")
    return [from_bgr(plane) for plane in planes]


def from_bgr(image: Shaped[np.ndarray, "*S"]) -> Shaped[np.ndarray, "H W C"]:
    """OpenCV's decoded picture with its channel axis, BGR turned into RGB and BGRA into RGBA."""
    if image.ndim == 2:
        return image[..., None]
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[2])
    return image if order is None else np.ascontiguousarray(image[..., order])


def _page(data: bytes, page: Page) -> np.ndarray:
    height, width, bands = page[_HEIGHT][0], page[_WIDTH][0], page.get(_BANDS, (1,))[0]
    apart = page.get(_PLANAR, (1,))[0] == 2  # each band in blocks of its own
    deep = 1 if apart else bands
    tiled = _TILES in page
    tall, wide = (
        (page.get(_TILE_HEIGHT, (0,))[0], page.get(_TILE_WIDTH, (0,))[0])
        if tiled
        else (min(page.get(_STRIP_ROWS, (height,))[0], height), width)
    )
    starts = page.get(_TILES if tiled else _STRIPS, ())
    sizes = page.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    if not 0 < height * width * bands <= _MAX_NUMBERS or tall * wide == 0:
        raise ValueError(f"TIFF page of {height} x {width} x {bands} in blocks {tall} x {wide}")
    blocks = math.ceil(height / tall) * math.ceil(width / wide) * (bands if apart else 1)
    if not blocks == len(starts) == len(sizes) or tall * wide * deep > _MAX_NUMBERS:
        raise ValueError(f"TIFF page wants {blocks} blocks; it lists {len(starts)}")
    kind = f"{_order(data)}{'uif'[page.get(_FORMAT, (1,))[0] - 1]}{page[_BITS][0] // 8}"
    out = np.empty((height, width, bands), np.dtype(kind).newbyteorder("="))
    places = (
        (y, x, band)
        for band in (range(bands) if apart else (0,))
        for y in range(0, height, tall)
        for x in range(0, width, wide)
    )
    for (y, x, band), start, length in zip(places, starts, sizes, strict=True):
        # The last strip is short; a tile is always whole, with padding beyond the edge.
        shape = (tall if tiled else min(tall, height - y), wide, deep)
        block = _block(data[start : start + length], length, shape, np.dtype(kind), page)
        out[y : y + tall, x : x + wide, band : band + deep] = block[: height - y, : width - x]
    return out


def _block(
    raw: bytes, length: int, shape: tuple[int, int, int], kind: np.dtype, page: Page
) -> np.ndarray:
    wanted = math.prod(shape) * kind.itemsize
    if len(raw) == length and page.get(_COMPRESSION, (1,))[0] != 1:
        try:
            raw = zlib.decompressobj().decompress(raw, wanted)
        except zlib.error as error:
            raise ValueError(f"corrupt TIFF block: {error}") from None
    if len(raw) < wanted:
        raise ValueError(f"truncated TIFF: a block of {wanted} bytes has {len(raw)}")
    block = np.frombuffer(raw, kind, math.prod(shape)).reshape(shape)
    if page.get(_PREDICTOR, (1,))[0] == 2:  # each number is the difference from its left neighbour
        block = np.cumsum(block, axis=1, dtype=kind.newbyteorder("="))
    return block

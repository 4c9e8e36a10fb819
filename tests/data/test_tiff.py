import struct
import zlib

import cv2
import numpy as np
import pytest

from jaxdet.data import tiff


def encode(pages, *, order="<", apart=False, tile=0, rows=0, deflate=False, predictor=1, tags=()):
    """A TIFF written straight from the specification: the oracle of the reader."""
    out = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 0))
    link = 4
    for image in pages:
        height, width, bands = image.shape
        grid = {**_blocks(out, image, order, apart, tile, rows, deflate, predictor)}
        fields = {
            256: ("I", [width]),
            257: ("I", [height]),
            258: ("H", [image.dtype.itemsize * 8] * bands),
            259: ("H", [8 if deflate else 1]),
            262: ("H", [1]),
            277: ("H", [bands]),
            284: ("H", [2 if apart else 1]),
            317: ("H", [predictor]),
            339: ("H", [{"u": 1, "i": 2, "f": 3}[image.dtype.kind]] * bands),
            **grid,
            **dict(tags),
        }
        entries = b""
        for tag, (code, values) in sorted(fields.items()):
            raw = struct.pack(f"{order}{len(values)}{code}", *values)
            if len(raw) > 4:
                raw, data = struct.pack(order + "I", len(out)), raw
                out += data
            kind = {"H": 3, "I": 4}[code]
            entries += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
        struct.pack_into(order + "I", out, link, len(out))
        out += struct.pack(order + "H", len(fields)) + entries + bytes(4)
        link = len(out) - 4
    return bytes(out)


def _blocks(out, image, order, apart, tile, rows, deflate, predictor):
    height, width, bands = image.shape
    rows = rows or height
    tall, wide = (tile, tile) if tile else (rows, width)
    starts, sizes = [], []
    for plane in np.split(image, bands, axis=2) if apart else [image]:
        for y in range(0, height, tall):
            for x in range(0, width, wide):
                block = plane[y : y + tall, x : x + wide]
                if tile:
                    pad = [(0, tall - block.shape[0]), (0, wide - block.shape[1]), (0, 0)]
                    block = np.pad(block, pad)
                if predictor == 2:
                    block = np.diff(block, axis=1, prepend=block.dtype.type(0))
                raw = block.astype(block.dtype.newbyteorder(order)).tobytes()
                raw = zlib.compress(raw) if deflate else raw
                starts.append(len(out))
                sizes.append(len(raw))
                out += raw
    if tile:
        return {322: ("I", [tile]), 323: ("I", [tile]), 324: ("I", starts), 325: ("I", sizes)}
    return {273: ("I", starts), 278: ("I", [rows]), 279: ("I", sizes)}


def noise(shape, dtype):
    return (np.random.default_rng(0).random(shape) * 250).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_band_comes_back(dtype, bands, order):
    image = noise((9, 7, bands), dtype)
    for options in ({}, {"apart": True}, {"tile": 4}, {"rows": 2, "deflate": True}):
        read = tiff.decode(encode([image], order=order, **options))
        np.testing.assert_array_equal(read, image)
        assert read.dtype == dtype


def test_predictor_adds_the_left_neighbour_with_overflow():
    image = noise((9, 7, 3), np.uint8)[:, ::-1]
    read = tiff.decode(encode([image], predictor=2, deflate=True))
    np.testing.assert_array_equal(read, image)


def test_pages_are_stacked_on_the_channel_axis():
    pages = [noise((5, 6, 2), np.uint16), noise((5, 6, 2), np.uint16) + 1]
    data = encode(pages)
    np.testing.assert_array_equal(tiff.decode(data), np.concatenate(pages, axis=2))
    assert tiff.size(data) == (5, 6)


def test_pages_of_unequal_size_are_refused_and_overviews_skipped():
    with pytest.raises(ValueError, match="pages differ in size"):
        tiff.decode(encode([noise((5, 6, 1), np.uint8), noise((4, 6, 1), np.uint8)]))
    both = tiff.decode(encode([noise((5, 6, 1), np.uint8)]))
    with pytest.raises(ValueError, match="without a page"):
        tiff.decode(encode([both], tags=[(254, ("I", [1]))]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_lzw_goes_to_opencv_as_rgb(dtype):
    image = noise((9, 7, 3), dtype)
    data = cv2.imencode(".tiff", image[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    np.testing.assert_array_equal(tiff.decode(data), image)
    pages = cv2.imencodemulti(".tiff", [image[..., 0], image[..., 1]])[1].tobytes()
    np.testing.assert_array_equal(tiff.decode(pages), image[..., :2])


def test_many_bands_under_another_compression_are_refused():
    with pytest.raises(ValueError, match="12 bands under TIFF compression 5: save it uncompressed"):
        tiff.decode(encode([noise((4, 4, 12), np.uint8)], tags=[(259, ("H", [5]))]))


def test_truncation_anywhere_is_an_error():
    data = encode([noise((9, 7, 5), np.uint16)], deflate=True)
    for length in range(8, len(data), 7):
        with pytest.raises(ValueError, match=r"TIFF|truncated|block"):
            tiff.decode(data[:length])


def test_hostile_headers_are_errors():
    image = noise((4, 4, 2), np.uint8)
    with pytest.raises(ValueError, match="page of 4000000000 x 4 x 2"):
        tiff.decode(encode([image], tags=[(257, ("I", [4_000_000_000]))]))
    with pytest.raises(ValueError, match="BigTIFF"):
        tiff.decode(b"II+\0" + bytes(40))
    circle = bytearray(encode([image]))
    circle[-4:] = circle[4:8]
    with pytest.raises(ValueError, match="in a circle"):
        tiff.decode(bytes(circle))

"""Where in an array_record file do the pixels lie? So that they are read straight into an array.

array_record's own reader checks and copies every record: 6 ms for 12 channels of 512 x 512, where
np.load takes under one. The files that store.py writes are not compressed, so the pixels lie in
them as they are, cut only by the block headers of the Riegeli format, which one vectored read
leaves out. Everything else reads these files as any other array_record.

The formats: https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md and
https://protobuf.dev/programming-guides/encoding of tf.Example: a list of (name, values) pairs.
"""

import dataclasses
import os
import pathlib
import struct
from collections.abc import Collection, Iterator

import numpy as np
from jaxtyping import Shaped

BLOCK, HEADER = 1 << 16, 24  # bytes; every block of a Riegeli file starts with a header
_ROOM = BLOCK - HEADER
_CHUNK = 40  # bytes of a chunk's header
_AHEAD = 32  # bytes behind it that say how long the record is; the index is always longer
_VECTORS = 1000  # of one read; Linux takes 1024


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a file the bytes of a record or a feature lie; block headers are not counted."""

    file: pathlib.Path
    start: int
    size: int


def places(file: pathlib.Path, count: int) -> Iterator[Place]:
    """Where the first `count` records of a file lie, in order; the index behind them is no record.

    ValueError, with the file, where it is cut short or not written by store.py (compressed).
    """
    at = 0
    with file.open("rb") as opened:
        while count:
            head = _at(opened.fileno(), Place(file, at, _CHUNK + _AHEAD))
            size, kind = struct.unpack_from("<Q", head, 8)[0], head[24]
            if kind == ord("r"):
                yield _only_record(file, at + _CHUNK, size, head)
                count -= 1
            at += _CHUNK + size


def parts(place: Place, wanted: Collection[str], pixels: str) -> tuple[bytes, Place]:
    """A tf.Example with only the wanted features, and where the bytes of the feature `pixels` lie.

    The other features are not read.
    """
    at, kept, found = place.start, b"", None
    end = place.start + place.size
    with place.file.open("rb") as opened:
        fd = opened.fileno()
        window = _at(fd, Place(place.file, at, min(64, place.size)))
        at += _field(window, 0)[1]  # Example.features
        while at < end:
            window = _at(fd, Place(place.file, at, min(160, end - at)))
            size, entry = _field(window, 0)  # of the map entry
            length, key = _field(window, entry)
            name = window[key : key + length].decode()
            if name == pixels:
                found = _bytes_value(place.file, window, at, key + length)
            elif name.split("/")[0] in wanted:
                kept += _at(fd, Place(place.file, at, entry + size))
            at += entry + size
    if found is None:
        raise ValueError(f"{place.file}: an example without the feature {pixels!r}: make it again")
    return b"\x0a" + _varint(len(kept)) + kept, found


def array(place: Place, shape: tuple[int, ...], dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
    """The array whose bytes lie there, read in one go. A short file is a ValueError."""
    out = np.empty(shape, dtype)
    if out.nbytes != place.size:
        raise ValueError(
            f"{place.file}: {place.size} bytes of pixels where {shape} {dtype} wants {out.nbytes}:"
            " the set is damaged; make it again"
        )
    with place.file.open("rb", buffering=0) as opened:
        _into(opened.fileno(), place, memoryview(out).cast("B"))
    return out


def _at(fd: int, place: Place) -> bytes:
    out = bytearray(place.size)
    _into(fd, place, memoryview(out))
    return bytes(out)


def _into(fd: int, place: Place, out: memoryview) -> None:
    """Reads a stretch of a file, its block headers left out, into `out`."""
    skipped, done = bytearray(HEADER), 0
    while done < len(out):
        start = place.start + done
        pieces, wanted, room = [], 0, _ROOM - start % _ROOM
        while done < len(out) and len(pieces) < _VECTORS:
            piece = out[done : done + room]
            pieces += [piece, skipped]
            wanted, done, room = wanted + len(piece) + HEADER, done + len(piece), _ROOM
        pieces.pop()
        if os.preadv(fd, pieces, start + (start // _ROOM + 1) * HEADER) != wanted - HEADER:
            raise ValueError(f"{place.file} is cut short: make the set again")


def _only_record(file: pathlib.Path, at: int, size: int, head: bytes) -> Place:
    """The one record of a chunk whose data begin at `at`: kind 0 is not compressed."""
    if head[_CHUNK] != 0 or head[25] != 1 or any(head[26:32]):
        raise ValueError(
            f"{file} is compressed or grouped, so it was not written by jaxdet: make the set again"
        )
    lengths, after = _number(head, _CHUNK + 1)
    values = after - _CHUNK + lengths
    return Place(file, at + values, size - values)


def _bytes_value(file: pathlib.Path, window: bytes, at: int, value: int) -> Place:
    """Feature -> BytesList -> the one value, each a tag and a length before its content."""
    for _ in range(3):
        size, value = _field(window, value)
    return Place(file, at + value, size)


def _field(window: bytes, at: int) -> tuple[int, int]:
    """Length of a field with a one-byte tag, and where its content begins."""
    return _number(window, at + 1)


def _number(window: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends: seven bits a byte, low ones first."""
    value, shift = 0, 0
    while window[at] & 0x80:
        value |= (window[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | window[at] << shift, at + 1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))

"""What does a DICOM file say of itself? A few named tags, read with bounds, nothing decoded.

Only tags of a whitelist are ever looked at: no name, number or birthday of a patient can leave this
file, private tags are stepped over, and the preamble (the first 128 bytes, which may be a program)
is neither run nor copied. Sizes are compared with the file before anybody allocates for them.
Layout: DICOM PS3.5 (2024), sections 7 and 10 and annex A.
"""

import dataclasses
import math
import mmap
import pathlib
import struct
import zlib
from collections.abc import Iterator, Mapping

MOST_PIXELS = 1 << 24  # of one slice: 4096 x 4096, eight times the side of a usual CT
MOST_BYTES = 1 << 28  # of one file after inflation
MOST_RATIO = 200  # of inflation, for what is larger than a slice has to be
MOST_DEPTH = 32  # sequences in sequences

NATIVE = {
    "1.2.840.10008.1.2": ("<", False),  # byte order, and whether value types are written
    "1.2.840.10008.1.2.1": ("<", True),
    "1.2.840.10008.1.2.1.99": ("<", True),  # deflated
    "1.2.840.10008.1.2.2": (">", True),
}
DEFLATED = "1.2.840.10008.1.2.1.99"
TAGS = {
    "sop_class": 0x00080016,
    "image_type": 0x00080008,
    "modality": 0x00080060,
    "thickness_mm": 0x00180050,
    "series": 0x0020000E,
    "position_mm": 0x00200032,
    "orientation": 0x00200037,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "spacing_mm": 0x00280030,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
    "padding": 0x00280120,
    "padding_limit": 0x00280121,
    "intercept": 0x00281052,
    "slope": 0x00281053,
}
# What tells the phase. Asked for only to sort series, and never written anywhere.
PHASE_TAGS = TAGS | {
    "date": 0x00080022,
    "date_time": 0x0008002A,
    "time": 0x00080032,
    "description": 0x0008103E,
    "protocol": 0x00181030,
}

_SYNTAX, _PIXELS = 0x00020010, 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_EXPLICIT = (
    *_LONG,
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN"),
    *(b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
)


@dataclasses.dataclass(frozen=True)
class Header:
    """The whitelisted values of one file as bytes, and where its pixels lie."""

    path: pathlib.Path
    syntax: str  # the UID of the transfer syntax
    values: dict[str, bytes]  # by the names of TAGS; an absent or empty tag has no entry
    start: int  # of the pixels, in bytes of the file; of a deflated file: after inflation
    length: int  # bytes of pixels, items and delimiters included; 0: no picture in the file

    def text(self, name: str, default: str = "") -> str:
        """A value as text without the blanks around it."""
        found = self.values.get(name)
        return default if found is None else found.decode("latin-1").strip(" \0")

    def numbers(self, name: str, count: int) -> list[float] | None:
        """A value written as decimal text; None where it is absent. ValueError if it is broken."""
        if name not in self.values:
            return None
        try:
            found = [float(part) for part in self.text(name).split("\\")]
        except ValueError:
            found = []
        if len(found) != count or not all(map(math.isfinite, found)):
            raise ValueError(
                f"{self.path} has {self.text(name)!r} as {name}: wanted {count} finite number(s). "
                "Export the series again"
            )
        return found

    def integer(self, name: str, default: int, signed: bool = False) -> int:
        """A value written as two bytes."""
        found = self.values.get(name, b"")
        if len(found) < 2:
            return default
        order = NATIVE.get(self.syntax, ("<", True))[0]
        return int(struct.unpack_from(order + ("h" if signed else "H"), found)[0])


def read(path: pathlib.Path, tags: Mapping[str, int] = TAGS) -> Header:
    """The tags of a file that carries the DICOM mark. Values of other tags are not looked at.

    ValueError for what is truncated or no DICOM, and for what inflates beyond MOST_BYTES.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            syntax, at = _meta(data)
            if syntax == DEFLATED:
                return _header(path, inflate(path, data[at:]), 0, syntax, tags)
            return _header(path, data, at, syntax, tags)
    except (struct.error, IndexError, OSError, zlib.error):
        raise ValueError(
            f"{path} is truncated or no DICOM: copy it again, or take it out of the folder"
        ) from None


def pixels(header: Header) -> bytes:
    """The bytes of the picture as they lie in the file, still coded."""
    with header.path.open("rb") as file:
        if header.syntax != DEFLATED:
            file.seek(header.start)
            return file.read(header.length)
        data = file.read()
    whole = inflate(header.path, data[_meta(data)[1] :])
    return whole[header.start : header.start + header.length]


def fragments(data: bytes) -> list[bytes]:
    """The coded parts of an encapsulated picture; the first item, an index, is left out."""
    at, parts = 0, []
    while struct.unpack_from("<HH", data, at) == (0xFFFE, 0xE000):
        (length,) = struct.unpack_from("<I", data, at + 4)
        parts.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    return parts[1:]


def inflate(path: pathlib.Path, data: bytes) -> bytes:
    """A deflated data set, inflated. ValueError where it grows beyond what a slice can be."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(MOST_BYTES, max(4 * MOST_PIXELS, MOST_RATIO * len(data)))
    done = engine.decompress(data, most + 1)
    if len(done) > most:
        raise ValueError(
            f"{path} inflates from {len(data)} to more than {most} bytes: no CT slice does. "
            "Take it out of the folder"
        )
    if not engine.eof:
        raise zlib.error("cut short")
    return done


def _meta(data: bytes | mmap.mmap) -> tuple[str, int]:
    """The transfer syntax, and where the data set behind the file's own header starts."""
    at, syntax = 132, ""
    if data[128:132] != b"DICM":
        raise struct.error("no DICOM mark")
    while struct.unpack_from("<H", data, at)[0] == 2:
        tag, length, value, at = _element(data, at, "<", True)
        if tag == _SYNTAX:
            syntax = data[value : value + length].decode("latin-1").strip(" \0")
    return syntax, at


def _header(
    path: pathlib.Path,
    data: bytes | mmap.mmap,
    at: int,
    syntax: str,
    tags: Mapping[str, int],
) -> Header:
    names = {tag: name for name, tag in tags.items()}
    values: dict[str, bytes] = {}
    for tag, length, value in _elements(data, at, *NATIVE.get(syntax, ("<", True))):
        if tag == _PIXELS:
            if length == _UNDEFINED:
                length = _after_items(data, value, "<", True, 0) - value
            if value + length > len(data):
                raise struct.error("cut short")
            return Header(path, syntax, values, value, length)
        if tag in names and 0 < length < 4096:
            values[names[tag]] = bytes(data[value : value + length])
    return Header(path, syntax, values, 0, 0)


def _elements(
    data: bytes | mmap.mmap, at: int, order: str, explicit: bool
) -> Iterator[tuple[int, int, int]]:
    """Tag, length and place of every value of the data set, up to the pixels."""
    while at < len(data):
        tag, length, value, after = _element(data, at, order, explicit, tag_only=_PIXELS)
        yield tag, length, value
        if tag == _PIXELS:
            return
        if after > len(data):
            raise struct.error("cut short")
        at = after


def _element(
    data: bytes | mmap.mmap,
    at: int,
    order: str,
    explicit: bool,
    depth: int = 0,
    tag_only: int | None = None,
) -> tuple[int, int, int, int]:
    """Tag, length, place of the value, and the place behind it (0 for the tag `tag_only`)."""
    group, number = struct.unpack_from(order + "HH", data, at)
    tag, kind, value = group << 16 | number, b"", at + 8
    if explicit and group != 0xFFFE:
        kind = bytes(data[at + 4 : at + 6])
        if kind not in _EXPLICIT:
            raise struct.error("no value type")
        if kind in _LONG:
            (length,), value = struct.unpack_from(order + "I", data, at + 8), at + 12
        else:
            (length,) = struct.unpack_from(order + "H", data, at + 6)
    else:
        (length,) = struct.unpack_from(order + "I", data, at + 4)
    if tag == tag_only:
        return tag, length, value, 0
    if length != _UNDEFINED:
        return tag, length, value, value + length
    # A value of unknown type and undefined length is written implicitly (CP-246).
    inside = explicit and kind != b"UN"
    return tag, length, value, _after_items(data, value, order, inside, depth + 1)


def _after_items(data: bytes | mmap.mmap, at: int, order: str, explicit: bool, depth: int) -> int:
    """The place behind the delimiter that ends a sequence of undefined length."""
    if depth > MOST_DEPTH:
        raise struct.error("sequences too deep")
    while True:
        group, number, length = struct.unpack_from(order + "HHI", data, at)
        tag, at = group << 16 | number, at + 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise struct.error("no item")
        if length != _UNDEFINED:
            at += length
            continue
        while tag != _ITEM_END:
            tag, _, _, at = _element(data, at, order, explicit, depth)

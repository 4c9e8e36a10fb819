"""How do the pixels of one DICOM slice become HU?

Uncompressed pixels are read here. Compressed ones go to GDCM (inside SimpleITK) in a file that is
written for it and holds nothing else: no tag of the original but those of the pixel format reaches
the decoder. Formats: DICOM PS3.5 (2024), section 8 and annexes A and G; PS3.3, C.7.6.3.
"""

import pathlib
import struct
import tempfile

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdet.data import dicom_header
from jaxdet.data.dicom_header import NATIVE, Header

AIR_HU = -1024.0  # what padding becomes
CAPTURE = b"1.2.840.10008.5.1.4.1.1.7"  # secondary capture: a picture of which nothing more is said
GDCM_READS = tuple(
    f"1.2.840.10008.1.2.{end}"
    for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")
)  # JPEG, JPEG lossless, JPEG-LS, JPEG 2000, RLE


def to_hu(header: Header, faults: dict[str, int]) -> Float[np.ndarray, "Y X"]:
    """HU of one slice; counts in `faults` what had to be assumed or replaced.

    MONOCHROME1 says how to show numbers, not what they are: slope and intercept give HU as they are
    (DICOM PS3.3, C.7.6.3.1.2 and C.11.1). Some exporters mirror the numbers as well. Then more than
    half of the slice would be denser than 1023 HU, which no patient is; such a slice is mirrored
    back and counted.
    """
    slope, intercept = header.numbers("slope", 1), header.numbers("intercept", 1)
    _count(faults, "no_rescale", int(slope is None or intercept is None))
    m, b = (slope or [1.0])[0], (intercept or [0.0])[0]
    if m == 0:
        raise ValueError(f"{header.path} has rescale slope 0: export the series again")
    numbers = stored(header)
    padded = _padded(numbers, header)
    if header.text("photometric") == "MONOCHROME1":
        _count(faults, "monochrome1", 1)
        inside = numbers[~padded]
        if inside.size and float(np.median(inside)) * m + b > 1023:
            _count(faults, "mirrored", 1)
            bits = header.integer("bits_stored", 16)
            numbers = (-1 if header.integer("signed", 0) else (1 << bits) - 1) - numbers
    hu = (numbers * m + b).astype(np.float32)
    hu[padded] = AIR_HU
    _count(faults, "padding_voxels", int(padded.sum()))
    return hu


def stored(header: Header) -> Int[np.ndarray, "Y X"]:
    """The numbers of one slice as they are stored, before slope and intercept, int32."""
    rows, columns = header.integer("rows", 0), header.integer("columns", 0)
    if header.syntax not in NATIVE:
        return _by_gdcm(header, rows, columns)
    wide = header.integer("bits_allocated", 16) // 8
    if header.length < rows * columns * wide:
        raise ValueError(
            f"{header.path} is truncated: {header.length} of {rows * columns * wide} bytes of "
            "pixels. Copy it again"
        )
    kind = np.dtype(f"{NATIVE[header.syntax][0]}u{wide}")
    numbers = np.frombuffer(dicom_header.pixels(header), kind, rows * columns)
    return _significant(numbers.astype(np.int64), header).reshape(rows, columns)


def _significant(numbers: np.ndarray, header: Header) -> np.ndarray:
    """Only the bits that are stored: 12 in 16 may carry an overlay in the rest. Sign extended."""
    bits = header.integer("bits_stored", header.integer("bits_allocated", 16))
    low = max(header.integer("high_bit", bits - 1) + 1 - bits, 0)
    numbers = (numbers >> low) & ((1 << bits) - 1)
    if header.integer("signed", 0):
        numbers = numbers - ((numbers >> (bits - 1)) << bits)
    return numbers.astype(np.int32)


def _by_gdcm(header: Header, rows: int, columns: int) -> Int[np.ndarray, "Y X"]:
    import SimpleITK as sitk

    way_out = (
        "Decompress the series first, for example with `gdcmconv --raw IN OUT` or `dcmdjpeg`, or "
        "export it uncompressed"
    )
    if header.syntax not in GDCM_READS:
        raise ValueError(
            f"{header.path} is compressed with transfer syntax {header.syntax or '(none named)'}, "
            f"for which there is no decoder. {way_out}"
        )
    data = dicom_header.pixels(header)
    coded = _coded_size(b"".join(dicom_header.fragments(data))[: 1 << 16])
    if coded is not None and coded != (rows, columns):
        raise ValueError(
            f"{header.path} declares {columns} x {rows} pixels, its coded picture has {coded[1]} x "
            f"{coded[0]}: export it again"
        )
    with tempfile.TemporaryDirectory() as place:
        bare = pathlib.Path(place) / "slice.dcm"
        bare.write_bytes(_bare_file(header, data))
        before = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)  # the error below says it better
        try:
            numbers = sitk.GetArrayFromImage(sitk.ReadImage(str(bare), imageIO="GDCMImageIO"))
        except RuntimeError:
            raise ValueError(
                f"{header.path} is truncated or corrupt: its pixels cannot be decoded (transfer "
                f"syntax {header.syntax}). Copy it again. {way_out}"
            ) from None
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(before)
    return numbers.reshape(rows, columns).astype(np.int32)


def _bare_file(header: Header, pixels: bytes) -> bytes:
    """A DICOM file with the coded pixels and their format, without rescale, name or preamble."""

    def element(tag: int, kind: bytes, value: bytes) -> bytes:
        value += (b"\0" if kind == b"UI" else b" ") * (len(value) % 2)
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, kind, len(value)) + value

    instance = b"1.2.3"
    meta = element(0x00020002, b"UI", CAPTURE) + element(0x00020003, b"UI", instance)
    meta += element(0x00020010, b"UI", header.syntax.encode())
    size = element(0x00020000, b"UL", struct.pack("<I", len(meta)))
    body = element(0x00080016, b"UI", CAPTURE) + element(0x00080018, b"UI", instance)
    body += element(0x00280002, b"US", struct.pack("<H", 1))
    body += element(0x00280004, b"CS", b"MONOCHROME2")
    for name in ("rows", "columns", "bits_allocated", "bits_stored", "high_bit", "signed"):
        value = struct.pack("<H", header.integer(name, 0))
        body += element(dicom_header.TAGS[name], b"US", value)
    body += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    return b"\0" * 128 + b"DICM" + size + meta + body + pixels


def _coded_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 stream; None where it does not say."""
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 24:  # J2K: SOC, SIZ
        x1, y1, x0, y0 = struct.unpack_from(">4I", data, 8)
        return y1 - y0, x1 - x0
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        # Start of frame: C0 to CF but for tables (C4, C8, CC), and F7 of JPEG-LS.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack_from(">HH", data, at + 5)
            return rows, columns
        at += 2 + length
    return None


def _padded(numbers: Int[np.ndarray, "Y X"], header: Header) -> Bool[np.ndarray, "Y X"]:
    """Where the stored number says: no patient here."""
    if "padding" not in header.values:
        return np.zeros(numbers.shape, bool)
    signed = bool(header.integer("signed", 0))
    ends = [header.integer("padding", 0, signed)]
    ends.append(header.integer("padding_limit", ends[0], signed))
    low, high = np.sort(_significant(np.array(ends, np.int64), header))
    return (numbers >= low) & (numbers <= high)


def _count(faults: dict[str, int], name: str, by: int) -> None:
    faults[name] = faults.get(name, 0) + by

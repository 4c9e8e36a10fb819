"""DICOM by the byte: HU of every pixel format, faults and bombs by name, nothing personal."""

import pathlib
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from jaxdet.data import dicom, dicom_header, volume

sitk = pytest.importorskip("SimpleITK")

IMPLICIT, EXPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{e}" for e in ("", ".1", ".1.99", ".2"))
CT = "1.2.840.10008.5.1.4.1.1.2"
HU = np.array([[-1000, -50, 0, 40], [55, 120, 300, 1000], [-1024, 7, 8, 9]], np.int64)
ROW_34 = 5.0  # seconds


def element(tag: int, kind: str, value: bytes | str, order: str = "<") -> bytes:
    value = value.encode() if isinstance(value, str) else value
    value += (b"\0" if kind in ("UI", "OB") else b" ") * (len(value) % 2)
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if kind == "implicit":
        return head + struct.pack("<I", len(value)) + value
    if kind in ("OB", "OW", "SQ", "UN"):
        return head + kind.encode() + struct.pack(order + "HI", 0, len(value)) + value
    return head + kind.encode() + struct.pack(order + "H", len(value)) + value


def make(
    pixels: np.ndarray | bytes,
    shape: tuple[int, int] = HU.shape,
    *,
    z: float = 0.0,
    syntax: str = EXPLICIT,
    slope: str | None = "1",
    intercept: str | None = "-1024",
    allocated: int = 16,
    stored: int = 16,
    signed: int = 0,
    photometric: str = "MONOCHROME2",
    frames: str | None = None,
    padding: bytes | None = None,
    preamble: bytes = bytes(128),
    extra: bytes = b"",
) -> bytes:
    """A DICOM file, byte by byte."""
    order = ">" if syntax == BIG else "<"

    def us(number: int) -> bytes:
        return struct.pack(order + "H", number)

    rows: list[tuple[int, str, bytes | str | None]] = [
        (0x00080016, "UI", CT),
        (0x00080060, "CS", "CT"),
        (0x00100010, "PN", "Doe^Jane"),
        (0x00100020, "LO", "MRN-4711"),
        (0x0020000E, "UI", "1.2.3.4"),
        (0x00200032, "DS", f"-10\\-20\\{z}"),
        (0x00200037, "DS", "1\\0\\0\\0\\1\\0"),
        (0x00280002, "US", us(1)),
        (0x00280004, "CS", photometric),
        (0x00280008, "IS", frames),
        (0x00280010, "US", us(shape[0])),
        (0x00280011, "US", us(shape[1])),
        (0x00280030, "DS", "0.5\\0.75"),
        (0x00280100, "US", us(allocated)),
        (0x00280101, "US", us(stored)),
        (0x00280102, "US", us(stored - 1)),
        (0x00280103, "US", us(signed)),
        (0x00280120, "US", padding),
        (0x00281052, "DS", intercept),
        (0x00281053, "DS", slope),
    ]
    kind = "implicit" if syntax == IMPLICIT else None
    body = b"".join(element(t, kind or k, v, order) for t, k, v in rows if v is not None)
    body += extra
    data = pixels if isinstance(pixels, bytes) else pixels.tobytes()
    body += element(0x7FE00010, kind or "OW", data, order)
    meta = element(0x00020010, "UI", syntax)
    meta = element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    if syntax == DEFLATED:
        engine = zlib.compressobj(wbits=-15)
        body = engine.compress(body) + engine.flush()
    return preamble + b"DICM" + meta + body


def read(folder: pathlib.Path, *files: bytes, **options):
    folder.mkdir(exist_ok=True)
    for i, data in enumerate(files):
        (folder / f"{i}.dcm").write_bytes(data)
    return volume.read(folder, **options)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG])
def test_every_uncompressed_syntax(tmp_path, syntax):
    kind = ">u2" if syntax == BIG else "<u2"
    found = read(tmp_path / "ct", make((HU + 1024).astype(kind), syntax=syntax))
    assert np.array_equal(found.hu[0], HU) and found.faults == {}
    assert found.spacing_mm[:2] == (0.75, 0.5) and found.origin_mm == (-10, -20, 0)
    # An oracle where there is one: ITK reads the same.
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ct" / "0.dcm")))
    assert np.array_equal(other[0], HU)


def test_row_30_slope_and_intercept_of_each_slice(tmp_path):
    # Some writers scale every slice by itself: the same HU from other numbers.
    hu, parts = HU - HU % 2, []
    for k, (slope, intercept) in enumerate([("1", "-1024"), ("2", "-3000"), ("0.5", "-1024")]):
        numbers = (hu - float(intercept)) / float(slope)
        parts.append(make(numbers.astype("<u2"), z=2.0 * k, slope=slope, intercept=intercept))
    found = read(tmp_path / "ct", *parts)
    assert np.array_equal(found.hu, np.stack([hu] * 3)) and found.faults == {}


def test_row_30_missing_rescale_is_counted(tmp_path):
    first = make(HU.astype("<i2"), signed=1, slope=None, intercept=None)
    second = make(HU.astype("<i2"), z=1.0, signed=1, slope=None, intercept="0")
    found = read(tmp_path / "ct", first, second)
    assert np.array_equal(found.hu, np.stack([HU] * 2)) and found.faults == {"no_rescale": 2}
    with pytest.raises(ValueError, match=r"0\.dcm has rescale slope 0"):
        read(tmp_path / "ct", make(HU.astype("<i2"), slope="0"))
    with pytest.raises(ValueError, match=r"0\.dcm has '1,5' as slope: wanted 1 finite"):
        read(tmp_path / "ct", make(HU.astype("<i2"), slope="1,5"))


def test_row_31_signed_12_of_16_bits(tmp_path):
    # Above the 12 bits an old scanner wrote its overlay.
    low = (HU.clip(-1024, 1000) & 0xFFF).astype("<u2")
    found = read(tmp_path / "a", make(low | 0xA000, stored=12, signed=1, intercept="0"))
    assert np.array_equal(found.hu[0], HU)
    found = read(tmp_path / "b", make((HU + 1024).astype("<u2") | 0xF000, stored=12))
    assert np.array_equal(found.hu[0], HU)


@pytest.mark.parametrize("signed", [0, 1])
def test_row_31_padding_becomes_air(tmp_path, signed):
    numbers = (HU + 1024 * (1 - signed)).astype("<i2" if signed else "<u2")
    pad = -2000 if signed else 63536
    numbers[0, :2] = pad
    padding = struct.pack("<h" if signed else "<H", pad)
    intercept = "0" if signed else "-1024"
    found = read(
        tmp_path / "ct", make(numbers, signed=signed, padding=padding, intercept=intercept)
    )
    assert found.hu[0, 0, :2].tolist() == [-1024, -1024] and found.faults == {"padding_voxels": 2}
    assert np.array_equal(found.hu[0].ravel()[2:], HU.ravel()[2:])


def test_row_31_monochrome1_is_a_way_to_show(tmp_path):
    stored = (HU + 1024).astype("<u2")
    plain = read(tmp_path / "a", make(stored, stored=12, photometric="MONOCHROME1"))
    assert np.array_equal(plain.hu[0], HU) and plain.faults == {"monochrome1": 1}
    mirrored = read(tmp_path / "b", make(4095 - stored, stored=12, photometric="MONOCHROME1"))
    assert np.array_equal(mirrored.hu[0], HU)
    assert mirrored.faults == {"monochrome1": 1, "mirrored": 1}
    with pytest.raises(ValueError, match="is a RGB picture, which has no Hounsfield"):
        read(tmp_path / "c", make(stored, photometric="RGB"))


def compressed(path: pathlib.Path, numbers: np.ndarray, kind: str) -> bytes:
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path / "made.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(kind)
    image = sitk.GetImageFromArray(numbers[None])
    for tag, value in {"0008|0016": CT, "0028|1052": "-1024", "0028|1053": "1"}.items():
        image.SetMetaData(tag, value)
    writer.Execute(image)
    data = (path / "made.dcm").read_bytes()
    (path / "made.dcm").unlink()
    return data


@pytest.mark.parametrize(("kind", "uid"), [("JPEG", b".4.70"), ("JPEG2000", b".4.90")])
def test_compressed_slices(tmp_path, kind, uid):
    hu = (np.arange(48 * 40).reshape(48, 40) - 1000).astype(np.int16)
    data = compressed(tmp_path, hu, kind)
    assert uid in data[:400]
    options = {"correction": volume.Correction(spacing_mm=(1, 1, 1))}
    assert np.array_equal(read(tmp_path / "ct", data, **options).hu[0], hu)
    with pytest.raises(ValueError, match=r"0\.dcm is truncated"):
        read(tmp_path / "ct", data[: len(data) // 2], **options)
    # A picture that is larger than declared would be decoded at its own size.
    at = data.index(b"\x28\x00\x10\x00US\x02\x00") + 8
    lying = data[:at] + struct.pack("<H", 24) + data[at + 2 :]
    with pytest.raises(ValueError, match="declares 40 x 24 pixels, its coded picture has 40 x 48"):
        read(tmp_path / "ct", lying, **options)


def rle(numbers: np.ndarray) -> bytes:
    """PS3.5, annex G: high and low bytes apart, here as literal runs."""
    coded = []
    for plane in ((numbers >> 8).astype(np.uint8), numbers.astype(np.uint8)):
        part = b"".join(bytes([len(row) - 1]) + row.tobytes() for row in plane)
        coded.append(part + b"\0" * (len(part) % 2))
    starts = [64, 64 + len(coded[0])]
    frame = struct.pack("<16I", 2, *starts, *[0] * 13) + b"".join(coded)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    return struct.pack("<HHI", 0xFFFE, 0xE000, 0) + item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def encapsulated(pixels: bytes, syntax: str, shape: tuple[int, int], **options) -> bytes:
    data = make(b"", shape, syntax=syntax, **options)
    return data[:-4] + b"\xff\xff\xff\xff" + pixels


LARGER = np.tile(HU, (6, 5))  # GDCM reads no run-length coded picture of a few bytes


def test_run_length_coded_slices(tmp_path):
    pixels = rle((LARGER + 1024).astype(np.uint16))
    data = encapsulated(pixels, "1.2.840.10008.1.2.5", LARGER.shape)
    assert np.array_equal(read(tmp_path / "ct", data).hu[0], LARGER)


def test_row_33_a_syntax_without_decoder(tmp_path):
    htj2k = "1.2.840.10008.1.2.4.201"
    data = encapsulated(rle((HU + 1024).astype(np.uint16)), htj2k, HU.shape)
    with pytest.raises(ValueError, match=r"0\.dcm .*transfer syntax 1\.2\.840.*4\.201.*gdcmconv"):
        read(tmp_path / "ct", data)
    broken = encapsulated(rle((HU + 1024).astype(np.uint16)), "1.2.840.10008.1.2.4.70", HU.shape)
    with pytest.raises(ValueError, match=r"cannot be decoded \(transfer syntax 1\.2.*4\.70\)"):
        read(tmp_path / "ct", broken)


def test_row_29_gaps(tmp_path):
    hu = [HU, HU + 10, HU + 20, HU + 50]  # the slices at 6 and 8 mm are missing
    heights = [0, 2, 4, 10]
    parts = [make((h + 1024).astype("<u2"), z=z) for h, z in zip(hu, heights, strict=True)]
    with pytest.raises(ValueError, match=r"slices 2 and 3 .*6\.000 mm apart.*gaps=.allow"):
        read(tmp_path / "ct", *parts)
    found = read(tmp_path / "ct", *parts, gaps="allow")
    assert found.hu.shape[0] == 6 and found.spacing_mm[2] == 2
    assert found.faults == {"uneven_gaps": 1}
    # HU grow by 5 a mm, so linear interpolation is exact.
    wanted = np.stack([HU + 5 * z for z in (0, 2, 4, 6, 8, 10)])
    assert np.allclose(found.hu, wanted, atol=1e-3)
    for k, z in ((2, 4.0), (5, 10.0)):
        assert found.to_mm(np.array([[0.0, 0.0, k]]))[0, 2] == z
    twice = [*parts[:3], make((HU + 1024).astype("<u2"), z=4.0)]
    with pytest.raises(ValueError, match="at the same place"):
        read(tmp_path / "ct", *twice, gaps="allow")


def test_row_29_one_percent(tmp_path):
    for share, even in ((0.005, True), (0.02, False)):
        parts = [make((HU + 1024).astype("<u2"), z=z) for z in (0, 2, 4 + 2 * share)]
        if even:
            assert read(tmp_path / "ct", *parts).hu.shape[0] == 3
        else:
            with pytest.raises(ValueError, match="missing or uneven"):
                read(tmp_path / "ct", *parts)


BOMB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from jaxdet.data import volume
try:
    volume.read(sys.argv[1])
except ValueError as error:
    print(error)
"""


def under_a_cap(path: pathlib.Path) -> str:
    """What reading says in a process that may take 1 GiB, imports and all, within 5 seconds."""
    start = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert time.monotonic() - start < ROW_34
    return found.stdout


def deflated_bomb() -> bytes:
    start = make(bytes(0), shape=(2, 2), syntax=EXPLICIT)
    engine = zlib.compressobj(9, wbits=-15)
    body = start[start.index(b"\x08\x00\x16\x00") :]
    coded = engine.compress(body)
    for _ in range(256):
        coded += engine.compress(bytes(1 << 20))
    head = make(b"", syntax=DEFLATED)
    return head[: head.index(DEFLATED.encode()) + len(DEFLATED)] + coded + engine.flush()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (make(b"ab", (65535, 65535)), "declares 65535 x 65535 pixels"),
        (make(b"ab", (65535, 65535), frames="2147483647"), "65535 x 65535 pixels and 2147483647"),
        (make(bytes(24), frames="100000"), "holds 100000 frames"),
        (make(b"ab", (0, 0)), "declares 0 x 0 pixels"),
        (make(bytes(24), (4000, 4000)), "truncated"),
        (encapsulated(rle(np.zeros((2, 2), np.uint16)), "1.2.840.10008.1.2.4.70", (65535, 65535)),
         "declares 65535 x 65535"),
        (deflated_bomb(), "inflates from"),
    ],
    ids=["rows", "rows_frames", "frames", "nothing", "short", "coded", "deflated"],
)  # fmt: skip
def test_row_34_bombs_are_refused_from_the_header(tmp_path, data, match):
    (tmp_path / "a.dcm").write_bytes(data)
    assert match in under_a_cap(tmp_path)


def test_row_34_nesting_without_end(tmp_path):
    # Sequences in sequences: the parser must not follow them down.
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    deep = (struct.pack("<HH2sHI", 0x0009, 0x0010, b"SQ", 0, 0xFFFFFFFF) + item) * 5000
    with pytest.raises(ValueError, match="truncated or no DICOM"):
        read(tmp_path / "ct", make((HU + 1024).astype("<u2"), extra=deep))


def test_row_35_preamble_private_tags_and_names(tmp_path):
    program = b"#!/bin/sh\ntouch " + str(tmp_path / "canary").encode() + b"\n"
    private = element(0x00291010, "OB", b"secret of the vendor")
    nested = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
    nested += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + element(0x00100010, "PN", "Doe")
    nested += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    pixels = (HU + 1024).astype("<u2")
    data = make(pixels, preamble=program.ljust(128, b"\0")[:128], extra=private + nested)
    found = read(tmp_path / "ct", data)
    assert np.array_equal(found.hu[0], HU) and not (tmp_path / "canary").exists()
    header = dicom_header.read(tmp_path / "ct" / "0.dcm", dicom_header.PHASE_TAGS)
    for said in (repr(found), repr(header)):
        assert not any(word in said for word in ("Doe", "4711", "secret", "/bin/sh"))
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "ct", data[:-30])
    assert "Doe" not in str(caught.value) and "4711" not in str(caught.value)


def test_row_35_what_the_decoder_gets(tmp_path, monkeypatch):
    given = []
    real = sitk.ReadImage
    monkeypatch.setattr(
        sitk, "ReadImage", lambda name, **k: given.append(pathlib.Path(name).read_bytes())
        or real(name, **k),
    )  # fmt: skip
    pixels, program = rle((LARGER + 1024).astype(np.uint16)), b"MZ".ljust(128, b"x")
    data = encapsulated(pixels, "1.2.840.10008.1.2.5", LARGER.shape, preamble=program)
    read(tmp_path / "ct", data)
    assert len(given) == 1 and b"Doe" not in given[0] and given[0][:128] == bytes(128)


def test_every_cut_of_a_file_is_refused(tmp_path):
    whole = make((HU + 1024).astype("<u2"))
    for keep in range(0, len(whole) - 1, 7):
        with pytest.raises(ValueError, match=r"0\.dcm is truncated or no DICOM"):
            read(tmp_path / "ct", whole[:keep])


def test_reports_beside_a_series(tmp_path):
    data = make((HU + 1024).astype("<u2"))
    report = data.replace(b"CS\x02\x00CT", b"CS\x02\x00SR").replace(b"1.2.3.4", b"1.2.3.9")
    assert read(tmp_path / "ct", data, report).hu.shape == (1, 3, 4)


def test_slices_that_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "MOST_VOXELS", 23)
    parts = [make((HU + 1024).astype("<u2"), z=z) for z in (0.0, 1.0)]
    with pytest.raises(ValueError, match="2 slices of 4 x 3: more than 23 voxels"):
        read(tmp_path / "ct", *parts)

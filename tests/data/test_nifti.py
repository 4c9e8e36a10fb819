"""NIfTI by the byte: places and numbers as ITK reads them, two orientations, bombs."""

import gzip
import pathlib
import struct
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from jaxdet.data import images, nifti, volume

sitk = pytest.importorskip("SimpleITK")

TURN, TILT = 0.4, 0.3
OBLIQUE = np.array(
    [[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]]
) @ np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
QFORM, SFORM, UNITS = 252, 254, 123  # bytes of the NIfTI-1 header


def write(path: pathlib.Path, cosines: np.ndarray = OBLIQUE, values: np.ndarray = HU) -> bytearray:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetOrigin((-10.0, 20.0, 30.0))
    image.SetDirection(cosines.ravel())
    sitk.WriteImage(image, str(path))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, 1, -1), (-1, 1, 1)])
def test_places_are_those_of_itk(tmp_path, codes, signs):
    path = tmp_path / "a.nii"
    raw = write(path, OBLIQUE @ np.diag(signs))
    struct.pack_into("<2h", raw, QFORM, *codes)
    path.write_bytes(raw)
    image, (found, bits) = sitk.ReadImage(str(path)), nifti.read(path)
    assert bits == 16 and np.array_equal(found.hu, HU)
    assert np.allclose(found.spacing_mm, image.GetSpacing(), atol=1e-5)
    assert np.allclose(found.origin_mm, image.GetOrigin(), atol=1e-4)
    assert np.allclose(found.direction, image.GetDirection(), atol=1e-5)
    assert found.faults == ({} if any(codes) else {"no_orientation": 1})


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_numbers_are_those_of_itk(tmp_path, kind):
    values = np.arange(24).reshape(2, 3, 4).astype(kind)
    write(tmp_path / "a.nii.gz", values=values)
    found, bits = nifti.read(tmp_path / "a.nii.gz")
    assert np.array_equal(found.hu, values.astype(np.float32)) and bits == 8 * values.itemsize


def test_slope_units_and_byte_order(tmp_path):
    path = tmp_path / "a.nii"
    raw = write(path)
    struct.pack_into("<2f", raw, 112, 2.0, -1024.0)
    raw[UNITS] = 3  # micrometres
    path.write_bytes(raw)
    found, _ = nifti.read(path)
    assert np.array_equal(found.hu, HU * 2.0 - 1024)
    assert np.allclose(found.spacing_mm, [0.8e-3, 0.7e-3, 2.5e-3], rtol=1e-5)
    for slope in (0.0, np.nan):  # both say: nothing is scaled
        struct.pack_into("<2f", raw, 112, slope, 5.0)
        path.write_bytes(raw)
        assert np.array_equal(nifti.read(path)[0].hu, HU)


def nifti_2(shape=(6, 5, 4), values: bytes = HU.astype(">i2").tobytes()) -> bytes:
    """Big-endian NIfTI-2, by the standard's table."""
    head = bytearray(544)
    struct.pack_into(">i", head, 0, 540)
    head[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into(">hh8q", head, 12, 4, 16, 3, *shape, 1, 1, 1, 1)
    struct.pack_into(">8d", head, 104, 1.0, 0.8, 0.7, 2.5, 0, 0, 0, 0)
    struct.pack_into(">q2d", head, 168, 544, 1.0, 0.0)
    struct.pack_into(">2i", head, 344, 0, 1)
    struct.pack_into(">12d", head, 400, -0.8, 0, 0, 10.0, 0, -0.7, 0, -20.0, 0, 0, 2.5, 30.0)
    struct.pack_into(">i", head, 500, 2)
    return bytes(head) + values


def test_nifti_2(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti_2())
    found, _ = nifti.read(tmp_path / "a.nii")
    assert np.array_equal(found.hu, HU) and np.allclose(found.spacing_mm, (0.8, 0.7, 2.5))
    assert found.origin_mm == (-10, 20, 30) and np.allclose(found.direction, np.eye(3).ravel())


def test_row_32_two_orientations(tmp_path):
    path = tmp_path / "a.nii"
    raw = write(path)
    struct.pack_into("<f", raw, 256 + 12, struct.unpack_from("<f", raw, 256 + 12)[0] + 7)  # qform x
    path.write_bytes(raw)
    with pytest.raises(
        ValueError, match=r"differ by up to 7\.0 mm: qform \[.*; sform \[.*prefer=.sform"
    ):
        volume.read(path)
    by_s, by_q = (volume.read(path, prefer=p) for p in ("sform", "qform"))
    assert np.allclose(by_s.origin_mm, (-10, 20, 30), atol=1e-4)
    assert np.allclose(by_q.origin_mm, (-17, 20, 30), atol=1e-4)
    assert np.allclose(by_q.direction, OBLIQUE.ravel(), atol=1e-5)
    raw = write(path)
    struct.pack_into("<f", raw, 280, -struct.unpack_from("<f", raw, 280)[0])  # the sform mirrors
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="two orientations"):
        volume.read(path)
    struct.pack_into("<12f", raw, 280, *[0.0] * 12)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"voxels without size \(sform\)"):
        volume.read(path)


def test_row_32_boxes_return_to_the_file(tmp_path):
    # Stored right to left, back to front and head to feet: pixels of LPS, mm, pixels of the file.
    path = tmp_path / "a.nii"
    write(path, OBLIQUE @ np.diag([-1, -1, -1]))
    stored = volume.read(path)
    turned = volume.to_lps(stored)
    box = np.array([1.0, 2.0, 3.0, 4.5], np.float32)
    place = volume.box_to_mm(turned, 3, box)
    z, there = volume.box_to_px(stored, place)
    assert z == 0 and np.allclose(there, [6 - 3, 5 - 4.5, 6 - 1, 5 - 2], atol=1e-4)
    again = volume.box_to_mm(stored, z, there)
    assert np.allclose(again["center_mm"], place["center_mm"], atol=1e-3)
    assert np.allclose(again["size_mm"], place["size_mm"], atol=1e-3)


CAPPED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from jaxdet.data import volume
try:
    print(volume.read(sys.argv[1]).hu.shape)
except ValueError as error:
    print(error)
"""


def under_a_cap(path: pathlib.Path) -> str:
    """What reading says in a process that may take 1 GiB, imports and all, within 5 seconds."""
    start = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", CAPPED, str(path)], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert time.monotonic() - start < 5
    return found.stdout


def header_only(shape, packed: bytes = b"") -> bytes:
    raw = bytearray(352)
    struct.pack_into("<i", raw, 0, 348)
    struct.pack_into("<8h2h", raw, 40, 3, *shape, 1, 1, 1, 1, 0, 0)
    struct.pack_into("<2h", raw, 70, 64, 64)
    struct.pack_into("<8f", raw, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", raw, 108, 352)
    raw[344:348] = b"n+1\0"
    return bytes(raw)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.nii", header_only((32767, 32767, 32767)), "declares 32767 x 32767 x 32767 voxels"),
        ("a.nii.gz", gzip.compress(header_only((32767,) * 3)), "declares 32767"),
        ("a.nii", nifti_2((1 << 40, 1 << 40, 1 << 40)), "declares 1099511627776 x"),
        ("a.nii", header_only((-5, 3, 3)), "declares -5 x 3 x 3"),
        ("a.nii", header_only((512, 512, 4000)), "is truncated"),  # 8 GiB in 352 bytes
        ("a.nii.gz", gzip.compress(header_only((512, 512, 4000))), "is truncated"),
    ],
    ids=["huge", "huge_gz", "huge_2", "negative", "short", "short_gz"],
)
def test_row_34_absurd_sizes(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    assert match in under_a_cap(tmp_path / name)


def test_row_34_gzip_bombs(tmp_path):
    # 1.6 GB of zeros in 1.6 MB that the header declares as voxels; then the same undeclared.
    zeros = gzip.compress(bytes(1 << 24), 9) * 96
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header_only((512, 512, 700))) + zeros)
    assert "made to harm" in under_a_cap(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header_only((6, 5, 4))) + zeros)
    assert "(4, 5, 6)" in under_a_cap(tmp_path / "b.nii.gz")  # what is declared, and no byte more


def test_row_38_cut_files_are_no_partial_images(tmp_path):
    path = tmp_path / "a.nii.gz"
    whole = bytes(write(path))
    for keep in range(1, len(whole), 9):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"a\.nii\.gz is (truncated|no NIfTI)"):
            volume.read(path)
    png = cv2.imencode(".png", np.full((30, 30), 7, np.uint8))[1].tobytes()
    for keep in range(8, len(png), 9):
        (tmp_path / "a.png").write_bytes(png[:keep])
        with pytest.raises(ValueError, match=r"a\.png"):
            images.read(tmp_path / "a.png")


def test_row_38_a_flipped_byte_of_a_gzip(tmp_path):
    path = tmp_path / "a.nii.gz"
    raw = write(path)
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="copy it again"):
        volume.read(path)


def test_other_kinds(tmp_path):
    path = tmp_path / "a.nii"
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros((2, 3, 4, 3), np.uint8), isVector=True), str(path)
    )
    with pytest.raises(ValueError, match="wanted one grey volume"):
        volume.read(path)
    write(path, values=HU[..., None].repeat(1, -1)[..., 0])
    raw = bytearray(path.read_bytes())
    struct.pack_into("<8h", raw, 40, 4, 6, 5, 4, 1, 1, 1, 1)  # one volume of a time series
    path.write_bytes(raw)
    assert np.array_equal(volume.read(path).hu, HU)


@pytest.mark.parametrize("start", [np.nan, np.inf, -1.0, 1e30])
def test_voxels_that_start_nowhere(tmp_path, start):
    raw = write(tmp_path / "a.nii")
    struct.pack_into("<f", raw, 108, start)
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.nii is no NIfTI: its header is wrong"):
        volume.read(tmp_path / "a.nii")

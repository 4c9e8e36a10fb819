import struct

import cv2
import numpy as np
import pytest

from jaxdet.data import images


def noise(shape, dtype=np.uint8):
    return (np.random.default_rng(0).random(shape) * 250).astype(dtype)


def save(path, image):
    """Writes RGB(A) or grey with OpenCV, which wants BGR(A), at any path."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[2], [0])
    path.write_bytes(cv2.imencode(path.suffix, image[..., order])[1].tobytes())
    return path


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_come_back_in_their_precision(tmp_path, suffix, dtype, channels):
    image = noise((5, 7, channels), dtype)
    image[0, 0] = np.iinfo(dtype).max - 1
    read = images.read(save(tmp_path / f"a{suffix}", image))
    np.testing.assert_array_equal(read, image)
    assert read.dtype == dtype


def test_bmp_and_jpeg_are_rgb(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_array_equal(images.read(save(tmp_path / "a.bmp", red)), red)
    assert np.abs(images.read(save(tmp_path / "a.jpg", red)).astype(int) - red).max() <= 2


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int16", "float32"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 12)])
def test_npy(tmp_path, dtype, shape):
    np.save(tmp_path / "a.npy", noise(shape, dtype))
    read = images.read(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, noise(shape, dtype).reshape(5, 7, -1))
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    assert images.size(tmp_path / "a.npy") == (5, 7)


def test_wide_npy_types_become_float32_only_where_exact(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[-1024, 3071]], np.int64))
    read = images.read(tmp_path / "a.npy")
    assert read.dtype == np.float32 and read.ravel().tolist() == [-1024, 3071]
    for odd in (np.array([[1 << 25]]), np.ones((2, 2), complex), np.ones((2, 2), bool)):
        np.save(tmp_path / "a.npy", odd)
        with pytest.raises(ValueError, match=r"a\.npy.*save uint8, uint16, int16 or float32"):
            images.read(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3, 4), (0, 3), ()])
def test_npy_of_another_rank_is_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(ValueError, match=r"a\.npy"):
        images.read(tmp_path / "a.npy")


def test_npy_with_objects_or_a_lying_header_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy"):
        images.read(tmp_path / "a.npy")
    for head in (b"{'shape': (2, 2", b"\xff" * 20, b"'\n"):
        size = struct.pack("<H", len(head))
        (tmp_path / "c.npy").write_bytes(b"\x93NUMPY\1\0" + size + head)
        with pytest.raises(ValueError, match=r"c\.npy: .*corrupt npy"):
            images.read(tmp_path / "c.npy")
    with (tmp_path / "b.npy").open("wb") as file:
        head = {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
        np.lib.format.write_array_header_1_0(file, head)
    with pytest.raises(ValueError, match=r"b\.npy"):
        images.read(tmp_path / "b.npy")


def test_odd_paths_just_work(tmp_path):
    path = save(tmp_path / "Leber Größe 肝 1.PNG".replace("PNG", "png"), noise((5, 7, 3)))
    assert images.read(path).shape == (5, 7, 3)
    assert images.size(path) == (5, 7)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".npy"])
def test_truncated_files_are_errors_that_name_them(tmp_path, suffix):
    path = tmp_path / f"whole{suffix}"
    if suffix == ".npy":
        np.save(path, noise((40, 50, 3)))
    else:
        save(path, noise((40, 50, 3)))
    data = path.read_bytes()
    for length in (0, 1, 4, len(data) // 2, len(data) - 2):
        (tmp_path / f"cut{suffix}").write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"cut\{suffix}: cannot be read as an image"):
            images.read(tmp_path / f"cut{suffix}")


def test_end_marker_of_a_thumbnail_is_not_that_of_the_jpeg(tmp_path):
    data = save(tmp_path / "a.jpg", noise((40, 50, 3))).read_bytes()
    thumb = b"\xff\xe1" + struct.pack(">H", 2 + 4) + b"\xff\xd8\xff\xd9"
    (tmp_path / "a.jpg").write_bytes(data[:2] + thumb + data[2:] + b"trailing")
    assert images.read(tmp_path / "a.jpg").shape == (40, 50, 3)
    (tmp_path / "a.jpg").write_bytes(data[:2] + thumb + data[2:-20])
    with pytest.raises(ValueError, match="truncated JPEG: its end marker is missing"):
        images.read(tmp_path / "a.jpg")


def test_a_flipped_byte_in_a_png_is_found(tmp_path):
    data = bytearray(save(tmp_path / "a.png", noise((40, 50, 3))).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png: .*corrupt PNG: check sum of its IDAT"):
        images.read(tmp_path / "a.png")


def test_missing_and_foreign_files(tmp_path):
    for function in (images.read, images.size):
        with pytest.raises(ValueError, match=r"none\.png: .*No such file"):
            function(tmp_path / "none.png")
        (tmp_path / "a.png").write_text("a text that is no picture")
        with pytest.raises(ValueError, match=r"a\.png: .*none of PNG, JPEG"):
            function(tmp_path / "a.png")


def test_an_orientation_in_the_file_is_ignored(tmp_path):
    data = save(tmp_path / "a.jpg", noise((8, 16, 3))).read_bytes()
    # TIFF header and one entry: Orientation = 6, turned by 90 degrees.
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    head = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    (tmp_path / "a.jpg").write_bytes(data[:2] + head + data[2:])
    turned = cv2.imread(str(tmp_path / "a.jpg"))
    assert turned.shape[:2] == (16, 8)  # the oracle sees the tag
    assert images.read(tmp_path / "a.jpg").shape[:2] == images.size(tmp_path / "a.jpg") == (8, 16)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_size_is_that_of_the_pixels(tmp_path, suffix, channels):
    path = save(tmp_path / f"a{suffix}", noise((13, 29, channels)))
    assert images.size(path) == images.read(path).shape[:2] == (13, 29)
    for length in (2, 9, 20):
        (tmp_path / "cut").write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match="cut"):
            images.size(tmp_path / "cut")


def test_channels_are_converted_between_grey_and_rgb_only(tmp_path):
    grey, rgb = noise((5, 7, 1), np.uint16), noise((5, 7, 3))
    as_rgb = images.read(save(tmp_path / "g.png", grey), channels=3)
    np.testing.assert_array_equal(as_rgb, np.repeat(grey, 3, axis=2))
    as_grey = images.read(save(tmp_path / "c.png", rgb), channels=1)
    oracle = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]
    assert as_grey.dtype == np.uint8 and np.abs(as_grey.astype(int) - oracle).max() <= 1
    with pytest.raises(
        ValueError, match=r"c\.png: the image has 3 channels, data\.channels wants 4"
    ):
        images.read(tmp_path / "c.png", channels=4)
    with pytest.raises(ValueError, match=r"has 1 channels, data\.channels wants 12"):
        images.read(tmp_path / "g.png", channels=12)


def test_range_without_a_window():
    eight = noise((4, 4, 2))
    assert images.to_range(eight, None) is eight
    ends = images.to_range(np.array([[[0, 65535]]], np.uint16), None)
    assert ends.dtype == np.float32 and ends.ravel().tolist() == [0, 1]
    unit = np.array([[[0, 0.5, 1]]], np.float32)
    assert images.to_range(unit, None) is unit
    assert images.to_range(np.zeros((0, 4, 1), np.float32), None).shape == (0, 4, 1)


@pytest.mark.parametrize(
    "image",
    [
        np.array([[[0, 1.01]]], np.float32),
        np.array([[[-0.01]]], np.float32),
        np.array([[[5]]], np.int16),
    ],
)
def test_range_that_means_nothing_asks_for_a_window(image):
    with pytest.raises(ValueError, match=r"p3\.npy: .*Set data\.window_hu"):
        images.to_range(image, None, "p3.npy")


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_one_hu_survives_every_window(dtype):
    hu = np.arange(-1024, 3072).astype(dtype).reshape(64, 64, 1)
    for low, high in [(-1024.0, 3071.0), (-100.0, 240.0), (0.0, 1.0)]:
        shown = images.to_range(hu, (low, high)).ravel()
        assert shown.dtype == np.float32 and shown.min() == 0 and shown.max() == 1
        inside = (hu.ravel() >= low) & (hu.ravel() <= high)
        oracle = (hu.ravel()[inside].astype(np.float64) - low) / (high - low)
        np.testing.assert_allclose(shown[inside], oracle, atol=1e-7)
        assert (np.diff(shown[inside]) > 0.9 / (high - low)).all()


def test_one_step_of_sixteen_bits_survives():
    steps = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    assert len(np.unique(images.to_range(steps, None))) == 65536


def test_a_window_on_eight_bits_is_float():
    shown = images.to_range(np.array([[[0, 50, 100, 255]]], np.uint8), (50.0, 100.0))
    assert shown.ravel().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_an_error_with_the_file(bad):
    image = np.array([[[0.5, bad]]], np.float32)
    for window in (None, (0.0, 1.0)):
        with pytest.raises(ValueError, match=r"p3\.npy: 1 of 2 pixels are NaN or infinite"):
            images.to_range(image, window, "p3.npy")


def test_an_empty_window_is_an_error():
    with pytest.raises(ValueError, match=r"data\.window_hu wants .* got \(5\.0, 5\.0\)"):
        images.to_range(noise((2, 2, 1)), (5.0, 5.0))


def test_damage_inside_a_jpeg_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    coded = cv2.imencode(".jpg", rng.integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
    middle = len(coded) // 2
    path = tmp_path / "a.jpg"
    path.write_bytes(coded[:middle] + b"\xff\x07" + coded[middle + 2 :])
    with pytest.raises(ValueError, match=r"a\.jpg: .*corrupt JPEG: no marker may stand at byte"):
        images.read(path)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    sound = cv2.imencode(".jpg", rng.integers(0, 256, (64, 64, 3), np.uint8), progressive)[1]
    path.write_bytes(sound.tobytes() + b"\xff\x07 what follows the end is nobody's business")
    assert images.read(path).shape == (64, 64, 3)

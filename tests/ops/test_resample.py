"""Resampling against OpenCV, JAX's own and loops."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxdet.ops import resample


def noise(height, width, channels=1):
    return np.random.default_rng(0).random((height, width, channels), np.float32)


def smooth(side):
    y, x = np.mgrid[:side, :side] / side
    return (0.5 + 0.3 * np.sin(7 * x) * np.cos(5 * y))[..., None].astype(np.float32)


def by_cv2(image, height, width, how):
    return cv2.resize(image, (width, height), interpolation=how).reshape(height, width, -1)


@pytest.mark.parametrize("image", [noise(64, 64), smooth(64)], ids=["noise", "smooth"])
@pytest.mark.parametrize("side", [512, 256, 128, 301])
def test_bicubic_is_opencvs(image, side):
    ours = resample.bicubic(image, side, side)
    np.testing.assert_allclose(ours, by_cv2(image, side, side, cv2.INTER_CUBIC), atol=1e-4)


@pytest.mark.parametrize("sizes", [(13, 17, 40, 105), (1, 5, 3, 7), (2, 2, 9, 4)])
def test_bicubic_takes_odd_sizes_and_channels(sizes):
    height, width, tall, wide = sizes
    image = noise(height, width, 3)
    ours = resample.bicubic(image, tall, wide)
    np.testing.assert_allclose(ours, by_cv2(image, tall, wide, cv2.INTER_CUBIC), atol=1e-4)


@pytest.mark.parametrize(("a", "least"), [(-0.75, -0.110), (-0.5, -0.073)])
def test_the_kernel_undershoots_an_impulse_as_its_a_says(a, least):
    impulse = np.zeros((64, 64, 1), np.float32)
    impulse[32, 32] = 1.0
    assert float(resample.bicubic(impulse, 512, 512, a).min()) == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("sizes", [(56, 56, 64, 64), (6, 8, 13, 16), (64, 64, 20, 33)])
def test_bilinear_is_opencvs(sizes):
    height, width, tall, wide = sizes
    image = noise(height, width)
    ours = resample.bilinear(image, tall, wide)
    np.testing.assert_allclose(ours, by_cv2(image, tall, wide, cv2.INTER_LINEAR), atol=1e-4)


def test_no_hot_pixel_vanishes_in_shrinking():
    """As bilinear loses it: of 56 px it looks at 32 for 16, so a CAM could go dark."""
    hot = np.eye(56, dtype=np.float32)[:, :, None, None] * np.ones((1, 1, 56, 1), np.float32)
    assert float(resample.shrink(hot, 16, 16).max((1, 2, 3)).min()) > 0.1
    assert int((resample.bilinear(hot, 16, 16).max((1, 2, 3)) == 0).sum()) == 24


@pytest.mark.parametrize("sizes", [(128, 128, 105, 105), (64, 50, 16, 7), (5, 9, 1, 1)])
def test_shrink_is_the_antialiased_linear_one(sizes):
    height, width, low, narrow = sizes
    image = noise(height, width, 2)
    want = jax.image.resize(image, (low, narrow, 2), "linear", antialias=True)
    np.testing.assert_allclose(resample.shrink(image, low, narrow), want, atol=1e-5)


@pytest.mark.parametrize("n_out", [6, 7, 1, 56])
def test_averages_are_over_pytorchs_adaptive_bins(n_out):
    bins = [(i * 56 // n_out, int(np.ceil((i + 1) * 56 / n_out))) for i in range(n_out)]
    want = np.zeros((n_out, 56))
    for row, (start, end) in zip(want, bins, strict=True):
        row[start:end] = 1 / (end - start)
    np.testing.assert_allclose(resample.average_matrix(56, n_out), want, atol=1e-7)


def test_56_to_7_is_a_mean_of_blocks_of_8():
    image, matrix = noise(56, 56, 3), resample.average_matrix(56, 7)
    blocks = image.reshape(7, 8, 7, 8, 3).mean((1, 3))
    np.testing.assert_allclose(resample.apply(image, matrix, matrix), blocks, atol=1e-6)


def test_averages_whose_bins_overlap_equal_the_golden(shared):
    golden = np.load(shared / "golden" / "gssd_golden_misc.npz")
    matrix = resample.average_matrix(19, 9)
    ours = resample.apply(golden["aap/in"].transpose(0, 2, 3, 1), matrix, matrix)
    np.testing.assert_allclose(ours, golden["aap/out9"].transpose(0, 2, 3, 1), atol=1e-6)


MATRICES = [
    resample.bicubic_matrix,
    resample.bilinear_matrix,
    resample.shrink_matrix,
    resample.average_matrix,
]


@pytest.mark.parametrize("matrix", MATRICES)
def test_weights_sum_to_one_and_the_same_size_changes_nothing(matrix):
    for n_in, n_out in [(64, 512), (105, 37), (1, 4), (4, 1)]:
        np.testing.assert_allclose(matrix(n_in, n_out).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix(9, 9), np.eye(9), atol=1e-7)


@pytest.mark.parametrize("matrix", MATRICES)
def test_nothing_has_no_size(matrix):
    with pytest.raises(ValueError, match="1 px or more; got 5 to 0"):
        matrix(5, 0)


def test_batches_of_any_depth_and_jit_are_the_same():
    images = np.random.default_rng(1).random((2, 3, 6, 8, 2), np.float32)
    ours = jax.jit(lambda x: resample.bicubic(x, 12, 20))(images)
    assert ours.shape == (2, 3, 12, 20, 2) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours[1, 2], resample.bicubic(images[1, 2], 12, 20), atol=1e-6)


def test_align_corners_is_what_interpolation_between_corner_centres_gives():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    grown = resample.align_corners(image, 11, 4)
    rows, columns = np.linspace(0, 4, 11), np.linspace(0, 6, 4)
    wanted = scipy.ndimage.map_coordinates(
        image[1, ..., 2], np.meshgrid(rows, columns, indexing="ij"), order=1
    )
    np.testing.assert_allclose(grown[1, ..., 2], wanted, atol=1e-5)
    np.testing.assert_allclose(grown[:, ::10, ::3], image[:, ::4, ::6], atol=1e-6)  # the corners
    np.testing.assert_allclose(resample.align_corners(image, 5, 7), image, atol=1e-6)
    np.testing.assert_allclose(
        resample.align_corners(image, 1, 1)[:, 0, 0], image[:, 0, 0], atol=1e-6
    )

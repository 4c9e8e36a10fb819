"""The measures behind the realism table, on arrays whose answers are known."""

import importlib.util
import math
import pathlib

import numpy as np
import pytest
import scipy.ndimage
import scipy.special

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts" / "reproduce"
PIXEL = 0.7  # mm


def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


measures, detectors = load("realism_measures"), load("realism_detectors")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def away_from(y, x, size=128):
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(rows - y, columns - x)


def coloured(rng, peak, size=256):
    """Noise of SD 1 whose power is a ring about the frequency `peak` (1/mm)."""
    f = np.fft.fftfreq(size, PIXEL)
    ring = np.exp(-(((np.hypot(f[:, None], f[None]) - peak) / 0.05) ** 2) / 2)
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * ring).real
    return noise / noise.std()


def test_deviation_of_white_noise_on_a_plane(rng):
    plane = 3.0 * np.arange(256)[:, None] - 2.0 * np.arange(256)[None]
    hu = plane + 17.0 * rng.normal(size=(256, 256))
    found = measures.deviations(hu, np.ones(hu.shape, bool), PIXEL)
    # 11 x 11 px less 3 parameters
    assert np.sqrt((found**2).mean()) == pytest.approx(17 * math.sqrt(118 / 121), rel=0.01)
    assert len(found) == (256 // 11) ** 2


def test_patches_lie_in_the_mask():
    mask = np.zeros((40, 40), bool)
    mask[8:24, 8:24] = True
    assert measures.corners(mask, 8) == [(8, 8), (8, 16), (16, 8), (16, 16)]
    assert measures.cut(np.zeros((40, 40)), [], 8).shape == (0, 8, 8)


def test_detrending_takes_the_polynomial_and_no_more(rng):
    y, x = np.mgrid[:24, :24] / 10
    curved = (1 + 2 * x - y + x * y + 3 * y * y)[None]
    assert np.abs(measures.detrended(curved, 2)).max() < 1e-9
    assert measures.detrended(curved, 1).std() > 0.5
    noise = rng.normal(size=(5, 24, 24))
    left = measures.detrended(noise, 2)
    np.testing.assert_allclose(measures.detrended(left, 2), left, atol=1e-9)


def test_autocorrelation_of_smoothed_noise(rng):
    # A filter (a, b) along x has the correlation ab / (a^2 + b^2) at lag 1, and none along y.
    white = rng.normal(size=(200, 24, 25))
    patches = white[:, :, 1:] + 0.5 * white[:, :, :-1]
    along_x, along_y = measures.autocorrelation(patches)
    assert along_x == pytest.approx(0.4, abs=0.02)
    assert along_y == pytest.approx(0.0, abs=0.02)


def test_correlation_of_slices_that_share_noise(rng):
    a, own = rng.normal(size=(2, 300, 8, 8))
    assert measures.correlation(a, 0.6 * a + 0.8 * own) == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("peak", [0.15, 0.3])
def test_place_of_the_peak_of_coloured_noise(rng, peak):
    hu = coloured(rng, peak)
    at = measures.corners(np.ones(hu.shape, bool), 32)
    patches = measures.detrended(measures.cut(hu, at, 32), 2)
    f = np.arange(0, 0.6, 0.02)
    spectrum = measures.radial(measures.power_2d(patches), PIXEL, f)
    assert f[np.argmax(spectrum)] == pytest.approx(peak, abs=0.04)
    assert len(measures.peaks(spectrum)) == 1


def test_power_of_white_noise_is_its_variance_at_each_frequency(rng):
    power = measures.power_2d(5.0 * rng.normal(size=(800, 28, 28)))
    assert power.mean() == pytest.approx(25, rel=0.02)
    assert measures.spike(power) < 1.3


def test_two_peaks_and_a_tile_are_seen(rng):
    f = np.arange(0, 0.6, 0.02)
    two = np.exp(-(((f - 0.12) / 0.04) ** 2)) + 0.6 * np.exp(-(((f - 0.4) / 0.04) ** 2))
    assert f[measures.peaks(two)] == pytest.approx([0.12, 0.4])
    tile = 0.5 * np.sin(2 * np.pi * np.arange(28) / 4)
    assert measures.spike(measures.power_2d(rng.normal(size=(400, 28, 28)) + tile)) > 5


def test_grain_ignores_steps(rng):
    hu = 10.0 * rng.normal(size=(128, 128))
    flat = measures.grain(hu, np.ones(hu.shape, bool), PIXEL)
    hu[:, 64:] += 200
    assert measures.grain(hu, np.ones(hu.shape, bool), PIXEL) == pytest.approx(flat, rel=0.05)


def test_body_is_the_patient_without_the_table():
    hu = np.full((128, 128), -1000.0)
    hu[away_from(60, 64) < 40] = 50
    hu[away_from(60, 64) < 10] = -900  # gas inside
    hu[112:116] = 100
    assert measures.body(hu).sum() == pytest.approx(np.pi * 40**2, rel=0.02)
    assert not measures.body(np.full((32, 32), -1000.0)).any()


@pytest.mark.parametrize("sigma", [0.6, 1.0, 1.6])
def test_sigma_of_a_round_edge(rng, sigma):
    away = (away_from(63.3, 64.1) - 40) * PIXEL
    hu = 100 - 200 * 0.5 * (1 + scipy.special.erf(away / (np.sqrt(2) * sigma)))
    hu += 5 * rng.normal(size=hu.shape)
    found = measures.liver_fat(hu, away < 0, PIXEL)
    assert len(found) > 60
    assert np.median(found) == pytest.approx(sigma, rel=0.12)


def test_skin_edge():
    away = (away_from(63.3, 64.1) - 45) * PIXEL
    hu = 20 - 1020 * 0.5 * (1 + scipy.special.erf(away / (np.sqrt(2) * 0.7)))
    assert np.median(measures.skin_air(hu, PIXEL)) == pytest.approx(0.7, abs=0.05)


def test_no_edge_in_a_flat_profile():
    assert measures.edge(np.linspace(-3, 3, 20), np.full(20, 7.0)) is None
    empty, _ = measures.profiles(np.zeros((32, 32)), np.zeros((32, 32), bool), 1.0, np.arange(3.0))
    assert empty.shape == (0, 3)


def test_edge_of_a_lesion_inside_of_the_liver():
    away = (away_from(64, 64) - 14) * PIXEL
    hu = 60 + 40 * 0.5 * (1 + scipy.special.erf(away / (np.sqrt(2) * 1.2)))
    liver = away_from(64, 64) < 55
    found = measures.lesion_edge(hu, away < 0, liver, PIXEL)
    assert found.sigma_mm == pytest.approx(1.2, rel=0.1)
    assert found.step_hu == pytest.approx(40, rel=0.05)
    assert measures.lesion_edge(hu, away < 0, away < 0, PIXEL) is None  # nowhere any liver


@pytest.mark.parametrize("radius", [4, 12, 40])
def test_circularity_of_a_disc(radius):
    assert measures.circularity(away_from(64, 64) < radius) == pytest.approx(1, abs=0.03)


def test_circularity_of_an_ellipse_a_square_and_nothing():
    y, x = np.mgrid[-64:64, -64:64]
    ellipse = (x / 50) ** 2 + (y / 20) ** 2 < 1
    around = np.pi * (3 * 70 - np.sqrt((3 * 50 + 20) * (50 + 3 * 20)))  # Ramanujan
    wanted = 4 * np.pi * np.pi * 50 * 20 / around**2
    assert measures.circularity(ellipse) == pytest.approx(wanted, rel=0.02)
    square = np.zeros((128, 128), bool)
    square[20:100, 20:100] = True
    assert measures.circularity(square) == pytest.approx(np.pi / 4, rel=0.03)
    assert math.isnan(measures.circularity(np.zeros((16, 16), bool)))


def test_sections_wider_than_2_mm():
    mask = (away_from(30, 30) < 3) | (away_from(80, 80) < 5) | (away_from(100, 20) < 1)
    assert measures.sections(mask, PIXEL) == 2
    assert measures.sections(np.zeros((16, 16), bool), PIXEL) == 0


def test_murray_of_a_tree_and_of_a_broken_one():
    g, (left, right) = 2.7, (1.0, 2.0)
    root = (left**g + right**g) ** (1 / g)
    tree = [[0, 0, 0, 0, 0, 9, root], [0, 0, 9, 5, 0, 20, left], [0, 0, 9, -5, 0, 20, right]]
    tree = np.array(tree, np.float32)
    off, where = measures.murray(tree, g)
    assert off == pytest.approx([0], abs=1e-6)
    np.testing.assert_array_equal(where, [[0, 0, 9]])
    tree[1, 6] *= 1.1
    assert measures.murray(tree, g)[0][0] > 0.01
    assert len(measures.murray(np.zeros((0, 7), np.float32), g)[0]) == 0


def test_shares():
    assert measures.shares([1, 1, 2, 4], 4) == [0.5, 0.25, 0, 0.25]


def test_blobs_find_a_dark_disc_and_nothing_in_a_plain_liver(rng):
    liver = away_from(64, 64) < 55
    hu = 100 + 5 * rng.normal(size=liver.shape)
    boxes, scores, labels = detectors.blobs(hu, liver, PIXEL, 1.5, 18.0)
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,)
    hu[away_from(60, 50) < 10] -= 50
    boxes, scores, _ = detectors.blobs(hu, liver, PIXEL, 1.5, 18.0)
    np.testing.assert_allclose(boxes, [[41, 51, 60, 70]], atol=2)
    assert len(scores) == 1


def test_matched_filter_finds_the_bright_contrast_and_not_the_weak(rng):
    liver = away_from(64, 64) < 55
    hu = 100 + 15 * scipy.ndimage.gaussian_filter(rng.normal(size=liver.shape), 0.6)
    hit = [
        np.mean(detectors.found_by_template(hu, liver, PIXEL, 1.4, 10.0, c, rng, 20))
        for c in (-40.0, -0.5)
    ]
    assert hit[0] > 0.9 and hit[1] < 0.5
    assert detectors.found_by_template(hu, liver & False, PIXEL, 1.4, 10.0, -40.0, rng) == []


def test_auc_and_probe(rng):
    truth = np.array([False, False, True, True])
    assert detectors.auc(np.array([1.0, 2.0, 3.0, 4.0]), truth) == 1
    assert detectors.auc(np.array([1.0, 1.0, 1.0, 1.0]), truth) == 0.5
    assert math.isnan(detectors.auc(np.ones(2), np.ones(2, bool)))
    truth, patients = rng.random(400) < 0.5, np.repeat(np.arange(100), 4)
    noise = rng.normal(size=(400, 3))
    assert detectors.probe(noise, truth, patients) == pytest.approx(0.5, abs=0.1)
    told = np.hstack([noise, (truth + rng.normal(0, 0.3, 400))[:, None]])
    assert detectors.probe(told, truth, patients) > 0.95


def test_no_patch_no_noise():
    assert measures.deviations(np.zeros((64, 64)), np.zeros((64, 64), bool), PIXEL).shape == (0,)
    assert measures.quiet(np.zeros((0, 8, 8))).shape == (0, 8, 8)

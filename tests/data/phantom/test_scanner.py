"""Noise has the SD, spectrum and correlation of real CT, and knows nothing of what is shown."""

import dataclasses

import numpy as np
import pytest

from jaxdet.data.phantom import scanner, sets
from jaxdet.data.phantom.tissue import Kind

PAPER = {kind: sets.SETS[kind]["paper"] for kind in ("sltd", "multiphase")}


def machine(kind: Kind = "sltd", seed: int = 0, size: int = 512, **fields) -> scanner.Scanner:
    which = dataclasses.replace(PAPER[kind], size=size)
    found = scanner.draw(np.random.default_rng(seed), kind, 340.0, which)
    return dataclasses.replace(found, **fields)


def even(found: scanner.Scanner, at: tuple[int, int, int, int]) -> np.ndarray:
    """Noise without its map: SD the same everywhere, in units of the patient's."""
    level = scanner._level(found, at[0], at[1])
    return scanner.noise(found, at) / level * scanner.LIVER_LEVEL / found.noise_hu[at[2]]


def patch_deviation(image: np.ndarray, side: int) -> float:
    """Median SD of patches, each less the plane of best fit."""
    y, x = np.mgrid[:side, :side]
    plane = np.stack([np.ones(side * side), x.ravel(), y.ravel()], axis=1)
    rows = len(image) // side
    patches = image[: rows * side, : rows * side].reshape(rows, side, rows, side)
    columns = patches.transpose(1, 3, 0, 2).reshape(side * side, -1)
    left = columns - plane @ np.linalg.lstsq(plane, columns, rcond=None)[0]
    return float(np.median(left.std(axis=0)))


def lag(image: np.ndarray, dy: int, dx: int) -> float:
    a, b = image[dy:, dx:], image[: len(image) - dy, : len(image) - dx]
    return float((a * b).mean() / (image**2).mean())


@pytest.mark.parametrize("kind", PAPER)
def test_scanners_have_the_numbers_of_their_kind(kind):
    rng = np.random.default_rng(0)
    found = [scanner.draw(rng, kind, w, PAPER[kind]) for w in rng.normal(338, 28, 600)]
    pixels = np.array([s.pixel_mm for s in found])
    assert pixels.min() >= 300 / 512 and pixels.max() <= 450 / 512
    assert pixels.mean() == pytest.approx(0.73, abs=0.02)
    assert pixels.std() == pytest.approx(0.06, abs=0.015)
    noise = np.array([s.noise_hu for s in found])
    wanted = {"sltd": 17.0, "multiphase": 12.0}[kind]
    assert np.median(noise) == pytest.approx(wanted, rel=0.04)
    assert np.log(noise[:, 2]).std() == pytest.approx(0.26, abs=0.03)
    assert np.corrcoef(np.log(noise[:, 1]), np.log(noise[:, 2]))[0, 1] == pytest.approx(
        0.9, abs=0.04
    )
    psf = {"sltd": 1.4, "multiphase": 1.5}[kind]
    assert np.mean([s.psf_mm for s in found]) == pytest.approx(psf, abs=0.03)
    assert np.mean([s.bands_hu > 0 for s in found]) == pytest.approx(0.1, abs=0.04)
    assert max(s.cupping_hu for s in found) <= {"sltd": 2.5, "multiphase": 5.0}[kind]
    if kind == "multiphase":
        assert np.mean([s.peak == 0.40 for s in found]) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(("kind", "seed"), [("sltd", 0), ("multiphase", 0), ("multiphase", 1)])
def test_patches_have_the_deviation_drawn(kind, seed):
    found = machine(kind, seed)
    side = round(8 / found.pixel_mm)
    measured = np.mean([patch_deviation(even(found, (1, 2, 2, z)), side) for z in (0, 9)])
    assert measured == pytest.approx(1.0, abs=0.025)


def test_noise_is_less_at_the_skin():
    found = machine()
    images = np.stack([scanner.noise(found, (n, 0, 2, 0)) for n in range(6)])
    half = round(found.body_mm / 2 / found.pixel_mm)
    middle = images[:, 236:276, 236:276].std()
    side = images[:, 236:276, 256 + half - 30 : 256 + half - 5].std()
    assert 0.6 < side / middle < 0.85


@pytest.mark.parametrize("kind", PAPER)
def test_neighbouring_slices_correlate_as_their_profiles_overlap(kind):
    found = machine(kind)
    planes = [even(found, (3, 1, 2, z)).ravel() for z in (20, 21, 22, 23)]
    r = [float(np.corrcoef(planes[0], p)[0, 1]) for p in planes[1:]]
    apart = found.pitch_mm / (found.thickness_mm / 2.355)
    assert r[0] == pytest.approx(np.exp(-(apart**2) / 4), abs=0.02)
    assert 0.35 < r[0] < 0.55 and abs(r[2]) < 0.03
    # Three taps have this correlation with the slice after the next.
    side, middle, _ = scanner._taps(found.pitch_mm / found.thickness_mm)
    assert r[1] == pytest.approx(side**2 / (middle**2 + 2 * side**2), abs=0.01)


def test_thin_steps_of_thick_slices_correlate_too():
    weights = np.array(scanner._taps(0.25))
    for step in range(6):
        r = float((weights[step:] * weights[: len(weights) - step]).sum())
        assert r == pytest.approx(np.exp(-((step * 0.25 * 2.3548) ** 2) / 4), abs=0.02)


@pytest.mark.parametrize(("kind", "seed"), [("sltd", 0), ("multiphase", 0), ("multiphase", 1)])
def test_spectrum_has_the_peak_of_real_scans(kind, seed):
    found = machine(kind, seed)
    side, power = 64, 0.0
    for z in (0, 5, 10):
        image = even(found, (5, 0, 2, z))
        cut = image.reshape(512 // side, side, 512 // side, side).transpose(0, 2, 1, 3)
        power = power + (np.abs(np.fft.fft2(cut)) ** 2).mean(axis=(0, 1))
    f = np.fft.fftfreq(side, found.pixel_mm)
    radius = np.hypot(f[:, None], f[None, :])
    ring = np.array(
        [power[(radius >= a) & (radius < a + 0.04)].mean() for a in np.arange(0, 0.6, 0.04)]
    )
    peak = (np.argmax(ring) + 0.5) * 0.04
    assert 0.08 < peak < 0.30
    # At 0.5 / mm; filtered back projection (f0 .40) has half of its peak at .45 on a real scanner.
    assert ring[12] < {0.40: 0.65}.get(found.peak, 0.35) * ring.max()
    assert power[0, 0] < 0.5 * ring.max()
    x, y = lag(image, 0, 1), lag(image, 1, 0)
    assert 0.2 < x < 0.6 and 0.15 < y < 0.6 and 0 <= x - y < 0.4


def test_coarse_pixels_have_about_the_noise_of_averaged_fine_ones():
    # Not quite: an average also damps what it keeps, a cut band does not.
    fine, coarse = machine(size=512), machine(size=256)
    assert coarse.pixel_mm == pytest.approx(2 * fine.pixel_mm)
    image = even(fine, (1, 1, 2, 4))
    mean = image.reshape(256, 2, 256, 2).mean(axis=(1, 3))
    assert even(coarse, (1, 1, 2, 4)).std() == pytest.approx(mean.std(), rel=0.13)
    assert mean.std() < 0.85 * image.std()


def test_slices_are_pure_and_the_noise_knows_no_content():
    found = machine(size=128)
    flat, step = np.zeros((2, 128, 128), np.float32)
    step[40:80, 30:90] = 100
    at = (7, 3, 2, 11)
    first = scanner.expose(flat, found, at)
    for z in (10, 12, 9):
        scanner.expose(step, found, (7, 3, 2, z))
    scanner._white.cache_clear()
    scanner._level.cache_clear()
    assert np.array_equal(scanner.expose(flat, found, at), first)
    assert first.dtype == np.float32 and not flat.any()
    apart = scanner.expose(step, found, at) - first
    assert np.allclose(apart, scanner.blur(step, found), atol=1e-3)
    for other in ((8, 3, 2, 11), (7, 4, 2, 11), (7, 3, 1, 11), (7, 3, 2, 15)):
        r = np.corrcoef(first.ravel(), scanner.expose(flat, found, other).ravel())[0, 1]
        assert abs(r) < 0.1


def test_point_spread_in_mm():
    for size in (512, 256):
        found = machine(size=size, psf_mm=3.0)
        image = np.zeros((size, size), np.float32)
        image[:, size // 2 :] = 1
        edge = np.diff(scanner.blur(image, found)[size // 2])
        at = (np.arange(len(edge)) - (edge * np.arange(len(edge))).sum()) * found.pixel_mm
        # A pixel adds no variance: the step itself is sampled, not averaged.
        assert np.sqrt((edge * at**2).sum()) == pytest.approx(3.0 / 2.3548, rel=0.05)


def test_artefacts_are_mild_and_spare_air():
    found = machine(size=256, noise_hu=(0.0,) * 4, cupping_hu=2.5, bands_hu=4.0)
    dense = scanner.expose(np.zeros((256, 256), np.float32), found, (0, 0, 2, 3))
    rows = dense.mean(axis=1)
    assert 1.0 < rows.std() < 8.0 and np.abs(dense).max() < 25
    assert np.allclose(dense - rows[:, None], (dense - rows[:, None])[128], atol=2.6)
    air = scanner.expose(np.full((256, 256), -1000, np.float32), found, (0, 0, 2, 3))
    assert np.allclose(air, -1000)
    quiet = dataclasses.replace(found, bands_hu=0.0)
    cupped = scanner.expose(np.zeros((256, 256), np.float32), quiet, (0, 0, 2, 3))
    assert cupped[128, 128] == pytest.approx(-2.5, abs=0.05) and cupped[0, 0] == 0


def test_values_are_clipped_as_in_files():
    found = machine(size=64)
    image = scanner.expose(np.full((64, 64), -1020, np.float32), found, (0, 0, 2, 0))
    assert image.min() == -1024
    image = scanner.expose(np.full((64, 64), 5000, np.float32), found, (0, 0, 2, 0))
    assert image.max() == 3071


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match=r"slice of 64 x 64 px.*got \(32, 32\)"):
        scanner.expose(np.zeros((32, 32), np.float32), machine(size=64), (0, 0, 2, 0))

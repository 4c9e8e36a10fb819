"""A lesion's solid against rasters of it, and its HU against what its parts say."""

import dataclasses

import cv2
import numpy as np
import pytest

from jaxdet.data.phantom import lesions, tissue
from jaxdet.data.phantom.lesions import Lesion

PLAIN = tissue.Contrast(inside_hu=-30.0, rim_hu=-30.0)


def ball(radius: float = 10.0, **changes) -> Lesion:
    fields = {
        "centre": np.array([3.0, -4.0, 5.0], np.float32),
        "semi": np.full(3, radius, np.float32),
        "waves": np.zeros((7, 5), np.float32),
        "bumps": np.zeros((0, 4), np.float32),
        "contrast": {"portal": PLAIN},
        "margin_mm": 1.0,
        "texture_hu": 0.0,
        "mosaic_hu": 0.0,
        "core": np.zeros(4, np.float32),
        "capsule_mm": 0.0,
    }
    return Lesion(**(fields | changes))


def drawn(seed: int, diameter: float, gross: bool = True) -> Lesion:
    rng = np.random.default_rng(seed)
    return lesions.sized(ball(**lesions.shape(rng, diameter, gross=gross)), diameter)


def grid(lesion: Lesion, step: float) -> tuple:
    reach = np.arange(-1.1 * lesion.radius_mm, 1.1 * lesion.radius_mm, step, np.float32)
    x, y, z = lesion.centre
    return (x + reach)[None, None], (y + reach)[None, :, None], (z + reach)[:, None, None]


def test_ball_has_its_volume_distance_sections_and_diameter():
    one = ball()
    f = lesions.distance(one, grid(one, 0.5))
    assert (f < 0).sum() * 0.125 == pytest.approx(4 / 3 * np.pi * 1000, rel=0.01)
    above = (np.array([3.0], np.float32), np.array([-4.0], np.float32), np.array([8.0], np.float32))
    assert lesions.distance(one, above) == pytest.approx(-7.0, abs=1e-4)
    assert lesions.diameter_mm(one) == pytest.approx(20.0, abs=0.5)
    assert lesions.sides_mm(one, 6.0) == pytest.approx((16.0, 16.0), abs=0.5)
    assert lesions.sides_mm(one, 11.0) == (0.0, 0.0)
    assert lesions.height_of(one, 16.0, up=True) == pytest.approx(6.0, abs=0.4)
    assert lesions.height_of(one, 16.0, up=False) == pytest.approx(-6.0, abs=0.4)
    assert lesions.height_of(one, 30.0, up=True) == 0.0  # nowhere so wide


@pytest.mark.parametrize("diameter", [8.0, 35.0, 120.0])
def test_any_gross_class_has_the_diameter_that_was_asked(diameter):
    for seed in range(12):
        one = drawn(seed, diameter)
        assert lesions.diameter_mm(one) == pytest.approx(diameter, rel=0.03)
        z, y, x = np.nonzero(lesions.distance(one, grid(one, diameter / 30)) < 0)
        reach = 1.1 * one.radius_mm
        away = np.stack([x, y, z]) * diameter / 30 - reach
        assert np.linalg.norm(away, axis=0).max() <= one.radius_mm * 1.05  # radius_mm holds it


def test_outlines_are_rougher_the_larger_the_lesion():
    def circularity(one: Lesion) -> float:
        x, y, _ = grid(one, one.radius_mm / 100)
        f = lesions.distance(one, (x[0], y[0], one.centre[2]))
        mask = cv2.GaussianBlur((f < 0).astype(np.float32), (0, 0), 2.0)
        outlines, _ = cv2.findContours(
            (mask > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        best = max(outlines, key=cv2.contourArea)
        return 4 * np.pi * cv2.contourArea(best) / cv2.arcLength(best, True) ** 2

    disc = circularity(ball())  # a chain of pixels is longer than the outline
    small = [circularity(drawn(s, 14.0)) / disc for s in range(30)]
    large = [circularity(drawn(s, 70.0)) / disc for s in range(30)]
    assert 0.9 <= np.median(small) <= 1.0  # fact sheet, section 10, item 10
    assert 0.7 <= np.median(large) <= 0.92
    assert np.median(small) > np.median(large) + 0.03


def test_hu_of_parenchyma_core_and_capsule():
    contrast = tissue.Contrast(-30.0, 25.0, rim_share=1.0, necrosis_hu=33.0)
    core = np.array([0, 0, 0, 0.4], np.float32)
    one = ball(20.0, contrast={"portal": contrast}, core=core, capsule_mm=2.0)
    line = np.array([0.0, 12.0, 18.9, 19.0], np.float32) + 3.0
    points = (line, np.float32(-4.0), np.float32(5.0))
    f = lesions.distance(one, points)
    hu = lesions.hounsfield(one, "portal", 100.0, points, f, np.zeros(4, np.float32))
    assert hu[0] == pytest.approx(33.0)  # dead
    assert hu[1] == pytest.approx(70.0, abs=0.5)
    assert hu[3] == pytest.approx(125.0, abs=1.0)  # the capsule, absolute: liver + 25
    grain = np.array([0, 1, 0, 0], np.float32)
    textured = dataclasses.replace(one, texture_hu=6.0)
    more = lesions.hounsfield(textured, "portal", 100.0, points, f, grain)
    assert more[1] - hu[1] == pytest.approx(6.0, abs=1e-3)


def test_necrosis_is_commoner_in_larger_tumours_and_lies_inside():
    rng = np.random.default_rng(0)
    for diameter, share in ((15.0, 0.0), (25.0, 0.10), (40.0, 0.35), (80.0, 0.65)):
        cores = np.array([lesions.necrosis(rng, diameter) for _ in range(600)])
        some = cores[cores[:, 3] > 0]
        assert len(some) / 600 == pytest.approx(share, abs=0.06)
        if len(some):
            assert (np.linalg.norm(some[:, :3], axis=1) + some[:, 3]).max() < 1.0

"""The official input pipeline against its steps written out a second time, a phase at a time."""

import numpy as np
import pytest
from PIL import Image

from jaxdet.config import Data
from jaxdet.data import official

CFG = Data(image_size=30, channels=12, pipeline="ssd", input="official")
NEAREST = Data(
    image_size=30, channels=12, pipeline="ssd", input="official", official_filter="nearest"
)
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


def picture(side=52, channels=12, seed=0):
    return np.random.default_rng(seed).random((side, side, channels)).astype(np.float32)


def by_phase(image):
    """[H, W, 12] -> [4, H, W, 3], as the reference carries it."""
    return np.stack(np.split(image, 4, axis=2))


def small(phases, method):
    """[4, H, W, 3] in 8 bits -> [4, 30, 30, 3], an RGB picture a phase."""
    return np.stack([np.asarray(Image.fromarray(p).resize((30, 30), method)) for p in phases])


def ranged(phases):
    less = phases.astype(np.float32) - np.float32(49)
    return (less - less.min()) / (less.max() - less.min())


@pytest.mark.parametrize("cfg", [CFG, NEAREST])
def test_evaluation_resizes_first(cfg):
    image = picture()
    got, _ = official.evaluate(image, cfg, "one")
    eight = (by_phase(image) * 255).astype(np.uint8)
    wanted = ranged(small(eight, FILTERS[cfg.official_filter]))
    np.testing.assert_array_equal(by_phase(got), wanted)
    assert got.dtype == np.float32 and got.min() == 0 and got.max() == 1


@pytest.mark.parametrize("cfg", [CFG, NEAREST])
def test_training_resizes_last_and_cuts_to_8_bits_again(cfg):
    image = np.floor(255 * picture()) + np.float32(0.5)
    got = official.train(image, cfg)
    eight = (ranged(by_phase(image)) * np.float32(255)).astype(np.uint8)
    wanted = small(eight, FILTERS[cfg.official_filter]) / np.float32(255)
    np.testing.assert_array_equal(by_phase(got), wanted)
    assert got.dtype == np.float32


def test_training_and_evaluation_differ_as_in_the_reference():
    image = picture()
    seen, _ = official.evaluate(image, CFG, "one")
    taught = official.train(official.read(image).astype(np.float32), CFG)
    assert 0.01 < np.abs(seen - taught).max() < 0.5


def test_reading_cuts_to_8_bits():
    image = np.float32([0, 0.5, 0.999, 1]).reshape(2, 2, 1)
    assert official.read(image).ravel().tolist() == [0, 127, 254, 255]
    eight = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    assert official.read(eight) is eight


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("cfg", [CFG, NEAREST])
def test_every_channel_is_resized_by_itself(channels, cfg):
    image = official.read(picture(channels=channels))
    got = official.resize(image, cfg)
    assert got.shape == (30, 30, channels) and got.dtype == np.uint8
    for c in range(channels):
        alone = Image.fromarray(np.ascontiguousarray(image[..., c]))
        method = FILTERS[cfg.official_filter]
        np.testing.assert_array_equal(got[..., c], np.asarray(alone.resize((30, 30), method)))


def test_the_default_filter_is_pillows_own():
    image = official.read(picture(channels=3))
    plain = np.asarray(Image.fromarray(image).resize((30, 30)))
    np.testing.assert_array_equal(official.resize(image, CFG), plain)


def test_min_max_forgets_brightness_and_contrast():
    image = 255 * picture()
    for offset, factor in ((-32, 1), (32, 0.5), (5, 1.5)):
        lit = (image + np.float32(offset)) * np.float32(factor)
        np.testing.assert_allclose(official.min_max(lit), official.min_max(image), atol=1e-6)


def test_min_max_is_over_all_channels():
    image = np.stack([np.full((4, 4), 10), np.full((4, 4), 20), np.full((4, 4), 30)], 2)
    ranged = official.min_max(image.astype(np.float32))
    assert ranged[0, 0].tolist() == [0, 0.5, 1]


def test_a_constant_image_is_zero_not_nan():
    flat = np.full((52, 52, 12), 0.4, np.float32)
    assert not official.evaluate(flat, CFG, "flat")[0].any()
    assert not official.train(255 * flat, CFG).any()


def test_the_place_brings_boxes_back():
    _, place = official.evaluate(picture(512), CFG, "one")
    boxes = np.float32([[0, 0, 512, 512], [100, 20, 130.5, 90]])
    there = place.from_original(boxes)
    np.testing.assert_allclose(there[0], [0, 0, 30, 30], rtol=1e-6)
    np.testing.assert_allclose(place.to_original(there), boxes, rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 52, 12), (52, 40, 12), (0, 0, 12)])
def test_oblong_images_are_refused_by_name(shape):
    message = rf"scan7\.png: .*square ones only; this one is {shape[0]} x {shape[1]}"
    with pytest.raises(ValueError, match=message):
        official.evaluate(np.zeros(shape, np.float32), CFG, "scan7.png")

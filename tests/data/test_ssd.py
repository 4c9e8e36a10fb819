"""Boxes follow pixels through the SSD augmentations, and each word does what it says."""

import collections
import dataclasses

import numpy as np
import pytest

from jaxdet.config import Data, SSDAugment
from jaxdet.data import ssd
from jaxdet.data.mosaic import Window
from jaxdet.data.transforms import Sample, flip_lr, letterbox, to_unit

OFF = SSDAugment(photometric="none", expand=1.0, crop="none", mirror=0.0)
NOTHING = np.zeros((0, 4), np.float32)


def config(size=60, channels=12, pad=(0.25,), **fields):
    augment = dataclasses.replace(
        SSDAugment(),
        **{k: fields.pop(k) for k in [*fields] if k in SSDAugment.__dataclass_fields__},
    )
    return Data(
        image_size=size, channels=channels, pad=pad, pipeline="ssd", **{"ssd": augment, **fields}
    )


def still(**fields):
    return config(ssd=OFF, **fields)


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(height=96, width=96, channels=12, boxes=((20, 30, 50, 70),), dtype=np.float32):
    """Noise of the full range, read-only: no augmentation may write to what it is given."""
    image = rng(1).random((height, width, channels))
    image[0, 0], image[0, 1] = 0, 1
    image = (255 * image).astype(np.uint8) if dtype == np.uint8 else image.astype(dtype)
    image.setflags(write=False)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    boxes.setflags(write=False)
    return Sample(image, boxes, np.arange(len(boxes), dtype=np.int32))


def painted(box, height=120, width=120, channels=2):
    image = np.zeros((height, width, channels), np.float32)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 1
    return Sample(image, np.float32([box]), np.int32([3]))


def bounds(image):
    rows, columns = (np.flatnonzero((image > 0.5).any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("side", [60, 41, 103, 512])
def test_without_augmentation_it_is_the_letterboxed_square(side, dtype):
    sample = picture(side, side, boxes=[(3, 4, 20, 30)], dtype=dtype)
    got = ssd.train(sample, still(), rng())
    image, place = letterbox(sample.image, 60, (0.25,))
    np.testing.assert_array_equal(got.image, to_unit(image))
    np.testing.assert_allclose(got.boxes_xyxy, place.from_original(sample.boxes_xyxy), rtol=1e-6)
    assert got.image.dtype == got.boxes_xyxy.dtype == np.float32 and got.labels.tolist() == [0]


@pytest.mark.parametrize(("height", "width"), [(120, 80), (50, 120)])
def test_an_oblong_picture_keeps_its_shape_as_in_the_letterbox(height, width):
    sample = painted((10, 6, 60, 40), height, width)
    got = ssd.train(sample, still(channels=2, pad=(0.0,)), rng())
    image, place = letterbox(sample.image, 60, (0.0,))
    np.testing.assert_allclose(got.boxes_xyxy, place.from_original(sample.boxes_xyxy), atol=0.5)
    np.testing.assert_allclose(bounds(got.image[..., 0]), bounds(image[..., 0]), atol=1)


@pytest.mark.parametrize("input", ["clean", "official"])
@pytest.mark.parametrize("rule", ["official", "iou"])
def test_boxes_follow_pixels(rule, input):
    fields = {"photometric": "none", "crop": rule, "input": input, "official_mean": 0.0}
    cfg = config(channels=2, pad=(0.0,), **fields)
    sizes = collections.Counter()
    for seed in range(60):
        got = ssd.train(painted((31, 40, 77, 70)), cfg, rng(seed))
        assert got.labels.tolist() == [3]
        scale = 60 / 120 / (1 / 6)  # px of the answer a px of the image, at most about so many
        np.testing.assert_allclose(bounds(got.image[..., 1]), got.boxes_xyxy[0], atol=scale / 2)
        assert (got.boxes_xyxy >= 0).all() and (got.boxes_xyxy <= 60).all()
        sizes[tuple(got.boxes_xyxy[0].round(2))] += 1
    assert len(sizes) > 50


def test_the_same_generator_gives_the_same_sample_and_words_of_light_the_same_window():
    sample = picture(boxes=[(3, 4, 20, 30), (40, 50, 80, 90)])
    for seed in range(10):
        first, again = (ssd.train(sample, config(), rng(seed)) for _ in range(2))
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
        for word in ("official", "none"):
            other = ssd.train(sample, config(photometric=word), rng(seed))
            np.testing.assert_array_equal(other.boxes_xyxy, first.boxes_xyxy)
            assert other.image.dtype == np.float32 and other.image.shape == (60, 60, 12)
    assert not np.array_equal(first.image, ssd.train(sample, config(), rng(99)).image)


def test_mirroring_is_an_involution():
    sample = picture()
    plain, turned = (ssd.train(sample, config(mirror=p), rng(4)) for p in (0.0, 1.0))
    assert not np.array_equal(plain.image, turned.image)
    back = flip_lr(turned)
    np.testing.assert_allclose(back.image, plain.image, atol=1e-6)
    np.testing.assert_allclose(back.boxes_xyxy, plain.boxes_xyxy, atol=1e-5)


# Expansion


def test_the_canvas_is_filled_around_an_unchanged_picture():
    sample = picture(40, 50, channels=3, boxes=NOTHING)
    grown = [ssd.expand(Window(0, 0, 50, 40), SSDAugment(expand=2.0), rng(s)) for s in range(40)]
    for window in grown:
        width, height = window.x1 - window.x0, window.y1 - window.y0
        assert 50 <= width <= 100 and 40 <= height <= 80 and abs(width * 4 - height * 5) <= 5
        assert window.x0 <= 0 <= 50 <= window.x1 and window.y0 <= 0 <= 40 <= window.y1
        seen = ssd.view(sample, window, (0.1, 0.2, 0.3)).image
        inner = seen[-window.y0 : 40 - window.y0, -window.x0 : 50 - window.x0]
        np.testing.assert_array_equal(inner, sample.image)
        outside = np.ones((height, width), bool)
        outside[-window.y0 : 40 - window.y0, -window.x0 : 50 - window.x0] = False
        assert (seen[outside] == np.float32([0.1, 0.2, 0.3])).all()
    assert len(set(grown)) > 30
    sides = [w.x1 - w.x0 for w in grown]
    assert min(sides) < 60 and max(sides) > 90


def test_expansion_happens_as_often_as_asked():
    start = Window(0, 0, 500, 500)
    half = SSDAugment(expand_probability=0.5, expand=4.0)
    hit = [ssd.expand(start, half, rng(s)) != start for s in range(400)]
    assert 160 < sum(hit) < 240
    assert ssd.expand(start, SSDAugment(expand=1.0), rng()) == start
    assert ssd.expand(start, SSDAugment(expand_probability=0.0), rng()) == start


def test_the_official_canvas_is_the_mean_in_the_range_of_the_picture():
    cfg = config(size=96, photometric="none", crop="none", mirror=0.0, input="official")
    cfg = dataclasses.replace(cfg, official_filter="nearest")
    levels = 255 * ssd.train(picture(), cfg, rng(3)).image[[0, -1]]  # a border is left and right
    assert set(np.unique(levels[:, [0, -1]]).round(3)) & {48.0, 49.0}
    count = collections.Counter(levels.round(3).ravel().tolist())
    assert count[48.0] + count[49.0] > 0.9 * 96 * 12  # at least one of the two rows is canvas


# Crop


def test_a_crop_shows_a_centre_and_keeps_those_it_shows():
    boxes = rng(5).uniform(0, 80, (8, 2))
    boxes = np.hstack([boxes, boxes + rng(6).uniform(2, 16, (8, 2))])
    sample = picture(boxes=boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    whole = Window(-5, -9, 115, 111)
    for rule in ("official", "iou"):
        for seed in range(60):
            window = ssd.crop(whole, sample.boxes_xyxy, SSDAugment(crop=rule), rng(seed))
            kept = ssd.view(sample, window, (0.0,))
            low, high = np.array(window).reshape(2, 2)
            inside = ((centres > low) & (centres < high)).all(1)
            assert inside.any()
            np.testing.assert_array_equal(kept.labels, np.flatnonzero(inside))
            wanted = np.clip(boxes[inside], np.tile(low, 2), np.tile(high, 2)) - np.tile(low, 2)
            np.testing.assert_allclose(kept.boxes_xyxy, wanted, atol=1e-4)
            sides = (kept.boxes_xyxy[:, 2:] - kept.boxes_xyxy[:, :2]).T
            assert (sides * 2 >= (boxes[inside, 2:] - boxes[inside, :2]).T - 1e-4).all()


def test_crops_have_legal_sides_and_five_modes_of_six():
    whole, box = Window(0, 0, 1000, 500), np.float32([[0, 0, 1000, 500]])
    crops = [ssd.crop(whole, box, SSDAugment(), rng(seed)) for seed in range(600)]
    cut = np.array([c for c in crops if c != whole])
    assert 60 < len(crops) - len(cut) < 140  # one in six leaves it whole
    width, height = cut[:, 2] - cut[:, 0], cut[:, 3] - cut[:, 1]
    assert (cut >= 0).all() and (cut[:, 2] <= 1000).all() and (cut[:, 3] <= 500).all()
    assert width.min() >= 299 and height.min() >= 149
    assert (height / width).min() > 0.49 and (height / width).max() < 2.01
    assert ssd.crop(whole, box, SSDAugment(crop="none"), rng()) == whole


def raster_iou(crop, box):
    grid = np.zeros((2, 200, 200), bool)
    for plane, (x0, y0, x1, y1) in zip(grid, (crop, box), strict=True):
        plane[y0:y1, x0:x1] = True
    return (grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum()


def test_only_the_rule_iou_asks_for_an_iou(monkeypatch):
    whole, small = Window(0, 0, 200, 200), np.float32([[90, 90, 110, 110]])  # IoU at most .11
    monkeypatch.setattr(ssd, "MODES", (None, 0.9, 0.9, 0.9))
    for seed in range(20):
        assert ssd.crop(whole, small, SSDAugment(crop="iou"), rng(seed)) == whole
    official = [ssd.crop(whole, small, SSDAugment(), rng(seed)) for seed in range(40)]
    assert sum(window != whole for window in official) > 20


def test_a_crop_reaches_its_iou_with_every_box_it_keeps(monkeypatch):
    whole = Window(0, 0, 200, 200)
    boxes = np.float32([[20, 30, 150, 170], [0, 0, 4, 4]])  # the centre of the second may be missed
    monkeypatch.setattr(ssd, "MODES", (0.7,))
    kept = []
    for seed in range(20):
        window = ssd.crop(whole, boxes, SSDAugment(crop="iou"), rng(seed))
        assert raster_iou(window, (20, 30, 150, 170)) >= 0.7
        kept.append(
            ssd.view(Sample(np.zeros((200, 200, 1)), boxes, np.int32([0, 1])), window, (0.0,))
        )
    assert all(sample.labels.tolist() == [0] for sample in kept)
    free = [
        raster_iou(ssd.crop(whole, boxes[:1], SSDAugment(), rng(s)), boxes[0].astype(int))
        for s in range(20)
    ]
    assert min(free) < 0.7


def test_without_a_box_any_crop_will_do():
    whole = Window(-10, -10, 86, 86)
    for rule in ("official", "iou"):
        got = [ssd.crop(whole, NOTHING, SSDAugment(crop=rule), rng(seed)) for seed in range(60)]
        assert 40 < sum(window != whole for window in got) < 60
    for seed in range(20):
        sample = ssd.train(picture(boxes=NOTHING), config(expand=8.0), rng(seed))
        assert sample.boxes_xyxy.shape == (0, 4) and np.isfinite(sample.image).all()


def test_a_window_beside_the_picture_is_padding():
    seen = ssd.view(picture(10, 10, 1, NOTHING), Window(12, -9, 20, -1), (0.25,))
    assert seen.image.shape == (8, 8, 1) and (seen.image == 0.25).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (2, 2)])
def test_the_smallest_pictures(height, width):
    for boxes in (NOTHING, [(0, 0, width, height)]):
        for seed in range(10):
            got = ssd.train(picture(height, max(width, 2), boxes=boxes), config(size=8), rng(seed))
            assert got.image.shape == (8, 8, 12) and np.isfinite(got.image).all()
            assert len(got.labels) == len(boxes)


# Brightness and contrast


def test_brightness_and_contrast_are_each_drawn_half_of_the_time():
    draws = np.array([ssd.light(SSDAugment(), rng(seed)) for seed in range(400)])
    for drawn, low, high in ((draws[:, 0], -32 / 255, 32 / 255), (draws[:, 1] - 1, -0.5, 0.5)):
        changed = drawn[drawn != 0]
        assert 160 < len(changed) < 240
        assert low <= changed.min() < 0.8 * low and 0.8 * high < changed.max() <= high
    both = (draws[:, 0] != 0) & (draws[:, 1] != 1)
    assert 70 < both.sum() < 130


def test_official_light_is_undone_by_the_range_and_effective_is_not():
    sample, moved = picture(), []
    for seed in range(12):
        shown = {
            word: ssd.train(
                sample, config(photometric=word, expand=1.0, input="official"), rng(seed)
            ).image
            for word in ("none", "official", "effective")
        }
        # One level of 8 bits by cutting, times the overshoot of the filter.
        np.testing.assert_allclose(shown["official"], shown["none"], atol=2.01 / 255)
        moved.append(np.abs(shown["effective"] - shown["none"]).max())
    assert 6 <= np.sum(np.array(moved) > 0.05) <= 12


def test_official_light_moves_nothing_but_the_border():
    sample, cfg = picture(), config(size=96, crop="none", mirror=0.0, input="official")
    cfg = dataclasses.replace(cfg, official_filter="nearest")
    dark = dataclasses.replace(
        cfg, ssd=dataclasses.replace(cfg.ssd, photometric="official", contrast=(0.5, 0.5))
    )
    none = dataclasses.replace(cfg, ssd=dataclasses.replace(cfg.ssd, photometric="none"))
    seen = [[ssd.train(sample, c, rng(s)).image for c in (none, dark)] for s in range(8)]
    gaps = [np.abs(a - b) for a, b in seen]
    # The picture is 4 / 9 of the largest canvas.
    assert min((gap <= 1.01 / 255).mean() for gap in gaps) > 4 / 9
    assert max(gap.max() for gap in gaps) > 0.1  # the canvas


def test_effective_light_is_clipped_and_official_light_is_not():
    sample = picture()
    for seed in range(10):
        offset, factor = ssd.light(SSDAugment(), _after_jitter(sample, seed))
        plain = ssd.train(sample, config(photometric="none", crop="none"), rng(seed)).image
        lit = ssd.train(sample, config(crop="none"), rng(seed)).image
        wanted = np.clip((plain.astype(np.float64) + offset) * factor, 0, 1)
        np.testing.assert_allclose(lit, wanted, atol=1e-6)
    first = [ssd.train(sample, config(photometric="official"), rng(s)).image for s in range(10)]
    assert max(image.max() for image in first) > 1.1


def _after_jitter(sample, seed):
    generator = rng(seed)
    ssd.jitter(sample, 0.0, generator)
    return generator


def test_maps_are_no_picture():
    cfg, sample = config(crop="none", maps=2), picture()
    for seed in range(6):
        lit = ssd.train(sample, cfg, rng(seed)).image
        plain = ssd.train(
            sample,
            dataclasses.replace(cfg, ssd=dataclasses.replace(cfg.ssd, photometric="none")),
            rng(seed),
        ).image
        np.testing.assert_array_equal(lit[..., -2:], plain[..., -2:])


# Jitter


def test_jitter_moves_by_whole_pixels_within_its_share():
    sample = picture(500, 1000, 1, boxes=[(300, 200, 700, 300)] * 200)
    np.testing.assert_array_equal(ssd.jitter(sample, 0.0, rng()).boxes_xyxy, sample.boxes_xyxy)
    moves = ssd.jitter(sample, 0.01, rng()).boxes_xyxy - sample.boxes_xyxy
    assert (moves == np.round(moves)).all()
    assert np.abs(moves[:, ::2]).max() == 9 and np.abs(moves[:, 1::2]).max() == 4  # cut towards 0
    far = ssd.jitter(sample, 0.2, rng()).boxes_xyxy - sample.boxes_xyxy
    assert np.abs(far).max() > 150  # no wrap at 127


def test_jitter_leaves_what_would_have_no_area():
    sample = picture(400, 400, 1, boxes=[(200, 200, 202, 202)] * 300)
    got = ssd.jitter(sample, 0.01, rng()).boxes_xyxy
    assert (got[:, 2:] > got[:, :2]).all()
    same = (got == sample.boxes_xyxy).all(1)
    assert 30 < same.sum() < 290  # those were put back whole
    edge = picture(400, 400, 1, boxes=[(0, 0, 400, 400)] * 50)
    inside = ssd.jitter(edge, 0.05, rng()).boxes_xyxy
    assert (inside >= 0).all() and (inside <= 400).all()
    assert ssd.jitter(picture(boxes=NOTHING), 0.1, rng()).boxes_xyxy.shape == (0, 4)


# Masks of lesions


BOXES = ((31, 40, 77, 70), (4, 6, 24, 30), (80, 10, 115, 36), (90, 80, 110, 118), (40, 86, 66, 112))


def masked(height=120, width=120):
    """Lesions that fill their boxes, the image their numbers."""
    mask = np.zeros((height, width), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(BOXES, 1):
        mask[y0:y1, x0:x1] = i
    mask.setflags(write=False)
    boxes = np.float32(BOXES)
    return Sample(np.float32(mask[..., None]) / 5, boxes, np.arange(5, dtype=np.int32), mask)


def box_of(mask, number):
    rows, columns = (np.flatnonzero((mask == number).any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize("input", ["clean", "official"])
@pytest.mark.parametrize("rule", ["official", "iou"])
@pytest.mark.parametrize("size", [60, 240])
def test_masks_follow_boxes(rule, input, size):
    cfg = config(size=size, channels=1, pad=(0.0,), crop=rule, input=input)
    counts = collections.Counter()
    for seed in range(60):
        got = ssd.train(masked(), cfg, rng(seed))
        assert got.lesions.shape == (size, size) and got.lesions.dtype == np.uint8
        count = len(got.labels)
        assert np.unique(got.lesions[got.lesions > 0]).tolist() == list(range(1, count + 1))
        for i, box in enumerate(got.boxes_xyxy):
            np.testing.assert_allclose(box_of(got.lesions, i + 1), box, atol=0.51)
        counts[count] += 1
    assert set(counts) >= {1, 5} and len(counts) > 2


def test_masks_follow_pixels():
    cfg = config(size=240, channels=1, pad=(0.0,), photometric="none")
    for seed in range(30):
        got = ssd.train(masked(), cfg, rng(seed))
        shown = np.append(-1, got.labels)[got.lesions] + 1  # the first numbers, which are painted
        painted = got.image[..., 0] * 5
        kept = np.isin(painted.round(), np.append(0, got.labels + 1))  # not those left out
        assert (np.abs(painted - shown)[kept] < 0.5).mean() > 0.98  # but for blurred edges


@pytest.mark.parametrize("input", ["clean", "official"])
def test_a_mask_changes_nothing_else(input):
    cfg = config(channels=1, input=input)
    for seed in range(10):
        first, again = (ssd.train(masked(), cfg, rng(seed)) for _ in range(2))
        bare = ssd.train(masked()._replace(lesions=None), cfg, rng(seed))
        assert bare.lesions is None
        np.testing.assert_array_equal(first.lesions, again.lesions)
        for a, b in zip(first[:3], bare[:3], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("height", "width"), [(120, 120), (120, 160), (150, 120)])
def test_without_augmentation_the_mask_lies_in_the_square(height, width):
    sample, side = masked(height, width), max(height, width)
    got = ssd.train(sample, still(size=side, channels=1), rng())
    whole = np.zeros((side, side), np.uint8)
    top, left = (side - height + 1) // 2, (side - width + 1) // 2
    whole[top : top + height, left : left + width] = sample.lesions
    np.testing.assert_array_equal(got.lesions, whole)


def test_a_lesion_whose_box_is_left_out_leaves_the_mask():
    window = Window(-5, 24, 96, 115)  # shows parts of the second to fourth, not their centres
    assert (np.bincount(masked().lesions[24:115, :96].ravel()) > 0).all()
    got = ssd.view(masked(), window, (0.0,))
    assert got.labels.tolist() == [0, 4] and np.unique(got.lesions).tolist() == [0, 1, 2]
    for number, (x0, y0, x1, y1) in enumerate(np.array(BOXES)[[0, 4]], 1):
        wanted = np.zeros((120, 120), bool)
        wanted[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(got.lesions[:, 5:] == number, wanted[24:115, :96])
    assert not got.lesions[:, :5].any()
    none = ssd.view(masked(), Window(0, 110, 20, 120), (0.0,))
    assert none.lesions.shape == (10, 20) and not none.lesions.any()


def test_mirroring_a_mask_is_an_involution():
    plain, turned = (
        ssd.train(masked(), config(size=60, channels=1, mirror=p), rng(4)) for p in (0.0, 1.0)
    )
    np.testing.assert_array_equal(flip_lr(flip_lr(turned)).lesions, turned.lesions)
    # Centres that fall between two pixels take the right one, before and after the turn.
    assert (flip_lr(turned).lesions == plain.lesions).mean() > 0.97
    assert (turned.lesions != plain.lesions).mean() > 0.1


def test_jitter_is_of_boxes():
    sample = masked()
    moved = ssd.jitter(sample, 0.05, rng())
    assert moved.lesions is sample.lesions
    assert not np.array_equal(moved.boxes_xyxy, sample.boxes_xyxy)


def test_an_empty_mask_stays_empty():
    empty = Sample(
        np.zeros((40, 40, 1), np.float32), NOTHING, np.int32([]), np.zeros((40, 40), np.uint8)
    )
    for seed in range(10):
        got = ssd.train(empty, config(channels=1), rng(seed))
        assert got.lesions.shape == (60, 60) and not got.lesions.any()

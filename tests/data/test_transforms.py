"""Boxes follow pixels: rectangles are painted where the boxes say, moved, and found again."""

import functools
import subprocess
import sys

import cv2
import numpy as np
import pytest

from jaxdet.config import Augment
from jaxdet.data import transforms as t
from jaxdet.data.mosaic import mosaic, mosaic_perspective

BLACK = (0.0,)
CHANNELS = (1, 3, 4, 12)
DTYPES = (np.uint8, np.float32)
TILTED = Augment(degrees=20.0, shear=8.0, perspective=0.0008, translate=0.05, scale=0.2)
ROTATED = Augment(degrees=25.0, shear=8.0, translate=0.05, scale=0.3)


def painted(box, height=150, width=120, channels=4, dtype=np.uint8):
    """A black image with one white rectangle, and its box."""
    image = np.zeros((height, width, channels), dtype)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255 if dtype == np.uint8 else 1.0
    return t.Sample(image, np.float32([box]), np.int32([3]))


def noise(height, width, channels, dtype, seed=0):
    image = np.random.default_rng(seed).random((height, width, channels))
    return (image * 255).astype(np.uint8) if dtype == np.uint8 else image.astype(np.float32)


def extent(image):
    """The box around what is bright in every single channel."""
    boxes = []
    for c in range(image.shape[2]):
        ys, xs = np.nonzero(image[..., c] > 0.35 * (255 if image.dtype == np.uint8 else 1))
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    assert (np.array(boxes) == boxes[0]).all()
    return np.array(boxes[0], np.float32)


def joined(sample, rng, *, place):
    """The sample as tile `place` of a mosaic of black images."""
    four = [painted((0, 0, 0, 0), channels=sample.image.shape[2], dtype=sample.image.dtype)] * 4
    four = [s._replace(boxes_xyxy=np.zeros((0, 4), np.float32), labels=s.labels[:0]) for s in four]
    four[place] = sample
    return mosaic(four, 100, BLACK, rng)


def boxed(sample, rng):
    image, place = t.letterbox(sample.image, 200, BLACK)
    return t.Sample(image, place.from_original(sample.boxes_xyxy), sample.labels)


MOVES = {
    "fit": lambda s, rng: t.fit_long_side(s, 190),
    "letterbox": boxed,
    "affine": lambda s, rng: t.random_perspective(s, 160, ROTATED, BLACK, rng),
    "perspective": lambda s, rng: t.random_perspective(s, 160, TILTED, BLACK, rng),
    "flip_lr": lambda s, rng: t.flip_lr(s),
    "flip_ud": lambda s, rng: t.flip_ud(s),
    **{f"mosaic{k}": functools.partial(joined, place=k) for k in range(4)},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("move", MOVES)
def test_boxes_follow_pixels(move, channels, dtype):
    for seed in range(4):
        sample = painted((37, 52, 84, 101), channels=channels, dtype=dtype)
        out = MOVES[move](sample, np.random.default_rng(seed))
        assert out.image.shape[2] == channels and out.image.dtype == dtype
        assert out.boxes_xyxy.dtype == np.float32 and out.labels.tolist() == [3]
        np.testing.assert_allclose(out.boxes_xyxy[0], extent(out.image), atol=1.0)


@pytest.mark.parametrize("augment", [Augment(), ROTATED, TILTED])
def test_every_pixel_comes_from_where_the_matrix_says(augment):
    """An image that holds its own coordinates tells where each new pixel was taken from."""
    ys, xs = np.mgrid[:200, :180].astype(np.float32) + 0.5
    image = np.stack([xs, ys], axis=2)
    rng = np.random.default_rng(7)
    for _ in range(5):
        matrix, _ = t.random_matrix(200, 180, 96, augment, rng)
        out = t.warp_image(image, matrix, 96, 96, (-1000.0,))
        v, u = np.mgrid[:96, :96] + 0.5
        back = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(matrix).T
        want = back[..., :2] / back[..., 2:]
        inside = (want > 1).all(-1) & (want < [179, 199]).all(-1)
        assert inside.sum() > 1000
        # OpenCV before 5 rounds the place to 1/32 px.
        np.testing.assert_allclose(out[inside], want[inside], atol=0.04)


def test_scale_gain_is_the_one_that_the_box_filter_uses():
    still = Augment(translate=0.0, scale=0.5)
    for seed in range(5):
        matrix, gain = t.random_matrix(80, 80, 80, still, np.random.default_rng(seed))
        want = [40 - 20 * gain, 40 - 10 * gain, 40 + 20 * gain, 40 + 10 * gain]
        moved = t.warp_boxes(np.float32([[20, 30, 60, 50]]), matrix)
        np.testing.assert_allclose(moved[0], want, atol=1e-4)


def test_the_strongest_perspective_keeps_the_horizon_out_of_the_picture():
    wild = Augment(perspective=0.01)
    corners = np.array([[0, 0, 1], [1280, 0, 1], [0, 1280, 1], [1280, 1280, 1]], float)
    for seed in range(50):
        matrix, _ = t.random_matrix(1280, 1280, 640, wild, np.random.default_rng(seed))
        assert (corners @ matrix[2] > 0.99 * t.NEAREST_HORIZON).all()


@pytest.mark.parametrize("augment", [Augment(), TILTED])
def test_uint8_and_float_share_their_geometry(augment):
    image = cv2.GaussianBlur(noise(150, 120, 4, np.uint8), (0, 0), 3)
    box, label = np.float32([[37, 52, 84, 101]]), np.int32([0])
    outs = []
    for array in (image, image.astype(np.float32) / 255):
        rng = np.random.default_rng(5)
        four = [t.Sample(array, box, label)] * 4
        outs.append(t.flip_lr(mosaic_perspective(four, 100, augment, (0.25,), rng)))
    np.testing.assert_array_equal(outs[0].boxes_xyxy, outs[1].boxes_xyxy)
    np.testing.assert_allclose(outs[0].image / 255, outs[1].image, atol=2.5 / 255)


def test_a_scale_that_could_reach_zero_is_refused():
    with pytest.raises(ValueError, match=r"0 <= scale < 1; got 1\.0"):
        Augment(scale=1.0)


def test_what_is_hardly_left_is_dropped():
    before = np.float32([[0, 0, 20, 20]] * 6)
    after = np.float32(
        [
            [0, 0, 20, 20],  # whole
            [0, 0, 2, 20],  # 2 px wide: not over 2
            [0, 0, 20, 1.9],  # too low
            [0, 0, 3, 13],  # 39 of 400: under a tenth
            [0, 0, 3, 14],  # 42 of 400
            [5, 5, 5, 5],  # outside
        ]
    )
    assert t.worth_keeping(before, after, 1.0).tolist() == [True, False, False, False, True, False]
    assert not t.worth_keeping(before[:1], np.float32([[0, 0, 300, 2.9]]), 1.0)[0]  # 103 to 1
    assert not t.worth_keeping(before[:1], np.float32([[0, 0, 9, 9]]), 2.0)[0]  # 81 of 1600


def test_boxes_moved_out_of_sight_go_with_their_labels():
    image = noise(40, 40, 4, np.uint8)
    sample = t.Sample(image, np.float32([[0, 0, 10, 10], [20, 20, 40, 40]]), np.int32([7, 8]))
    out = t.warp(sample, t.translation(-15, -15), 1.0, 40, BLACK)
    assert out.labels.tolist() == [8]
    np.testing.assert_array_equal(out.boxes_xyxy, [[5, 5, 25, 25]])
    np.testing.assert_array_equal(out.image[:25, :25], image[15:, 15:])
    assert (out.image[25:] == 0).all() and (out.image[:, 25:] == 0).all()


@pytest.mark.parametrize("shape", [(150, 120), (33, 517), (64, 64), (1, 900), (640, 480)])
@pytest.mark.parametrize("scale_up", [True, False])
def test_letterbox_round_trip(shape, scale_up):
    image, place = t.letterbox(noise(*shape, 4, np.uint8), 256, BLACK, scale_up)
    assert image.shape == (256, 256, 4)
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((50, 2, 2)), axis=1).reshape(50, 4) * np.tile(shape[::-1], 2)
    boxes = boxes.astype(np.float32)
    there = place.from_original(boxes)
    assert (there >= 0).all() and (there <= 256.5).all()
    np.testing.assert_allclose(place.to_original(there), boxes, atol=1e-3)
    if not scale_up:
        assert place.gain <= 1


def test_letterbox_puts_the_odd_pixel_right_and_below():
    image = noise(7, 4, 3, np.uint8)
    out, place = t.letterbox(image, 9, (0.0, 0.4, 1.0), scale_up=False)
    assert place == t.Letterbox(gain=1.0, pad_x=2, pad_y=1, height=7, width=4)
    np.testing.assert_array_equal(out[1:8, 2:6], image)
    for c, value in enumerate((0, 102, 255)):
        assert (out[0, :, c] == value).all() and (out[8, :, c] == value).all()
        assert (out[:, :2, c] == value).all() and (out[:, 6:, c] == value).all()


def test_letterbox_clips_to_the_original():
    _, place = t.letterbox(noise(50, 100, 1, np.uint8), 100, BLACK)
    got = place.to_original(np.float32([[-5, 0, 200, 100], [10, 30, 20, 40], [0, 0, 0, 0]]))
    np.testing.assert_array_equal(got, [[0, 0, 100, 50], [10, 5, 20, 15], [0, 0, 0, 0]])
    assert place.to_original(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_what_needs_no_change_is_not_copied():
    image = noise(64, 64, 4, np.uint8)
    assert t.letterbox(image, 64, BLACK)[0] is image
    assert t.resize(image, 64, 64) is image
    assert t.warp_image(image, np.eye(3), 64, 64, BLACK) is image


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_channel_has_its_own_padding(channels, dtype):
    pad = tuple(np.linspace(0.1, 0.9, channels).tolist())
    values = np.array(pad) if dtype == np.float32 else np.round(np.array(pad) * 255)
    sample = t.Sample(noise(20, 40, channels, dtype), np.zeros((0, 4), np.float32), np.int32([]))
    rng = np.random.default_rng(0)
    boxed = t.letterbox(sample.image, 40, pad)[0][0]
    shrunk = t.random_perspective(sample, 90, Augment(), pad, rng).image[0]
    tilted = t.random_perspective(sample, 90, Augment(perspective=0.001), pad, rng).image[0]
    corner = mosaic([sample] * 4, 40, pad, rng).image[0]
    for row in (boxed, shrunk, tilted, corner):
        np.testing.assert_allclose(row, np.broadcast_to(values, row.shape), atol=1e-6)


def test_padding_of_another_number_of_channels_is_an_error():
    with pytest.raises(ValueError, match=r"one value or one a channel \(4\); got 2"):
        t.letterbox(noise(20, 40, 4, np.uint8), 40, (0.1, 0.2))


@pytest.mark.parametrize("flip", [t.flip_lr, t.flip_ud])
@pytest.mark.parametrize("channels", CHANNELS)
def test_flips_twice_are_the_identity(flip, channels):
    sample = t.Sample(
        noise(30, 41, channels, np.uint8),
        np.float32([[3, 4, 10, 20], [0, 0, 41, 30]]),
        np.int32([1, 2]),
    )
    once, twice = flip(sample), flip(flip(sample))
    assert not np.array_equal(once.image, sample.image)
    for got, want in zip(twice, sample, strict=True):
        np.testing.assert_array_equal(got, want)


def test_flips_are_those_of_numpy():
    sample = painted((2, 3, 7, 9), 20, 30)
    np.testing.assert_array_equal(t.flip_lr(sample).image, sample.image[:, ::-1])
    np.testing.assert_array_equal(t.flip_ud(sample).image, sample.image[::-1])


def test_mosaic_places_exact_pixels():
    """Square images of the right size are copied, not resampled, and cut at the canvas."""
    size, images = 32, [noise(32, 32, 4, np.uint8, seed=k) for k in range(4)]
    whole = np.float32([[0, 0, 32, 32]])
    four = [t.Sample(image, whole, np.int32([k])) for k, image in enumerate(images)]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        yc, xc = (int(v) for v in rng.uniform(size / 2, 3 * size / 2, 2))
        big = np.full((128, 128, 4), 114, np.uint8)  # the canvas with 32 px around it
        for k, image in enumerate(images):
            y, x = 32 + yc - (32 if k < 2 else 0), 32 + xc - (32 if k % 2 == 0 else 0)
            big[y : y + 32, x : x + 32] = image
        out = mosaic(four, size, (114 / 255,), np.random.default_rng(seed))
        np.testing.assert_array_equal(out.image, big[32:96, 32:96])
        np.testing.assert_array_equal(out.boxes_xyxy[0], np.clip([xc - 32, yc - 32, xc, yc], 0, 64))
        assert out.labels.tolist() == [0, 1, 2, 3]


def test_mosaic_drops_what_lies_outside_the_canvas():
    corner = t.Sample(noise(32, 32, 1, np.uint8), np.float32([[0, 0, 4, 4]]), np.int32([0]))
    counts = {
        len(mosaic([corner] * 4, 32, BLACK, np.random.default_rng(s)).labels) for s in range(30)
    }
    assert min(counts) < 4 and max(counts) == 4


def test_mosaic_tiles_are_resized_images():
    image = cv2.GaussianBlur(noise(90, 60, 4, np.uint8), (0, 0), 4)
    empty = t.Sample(image, np.zeros((0, 4), np.float32), np.int32([]))
    rng = np.random.default_rng(2)
    yc, xc = (int(v) for v in np.random.default_rng(2).uniform(32, 96, 2))
    out = mosaic([empty] * 4, 64, BLACK, rng).image
    want = cv2.resize(image, (43, 64), interpolation=cv2.INTER_LINEAR)  # 60 * 64 / 90 rounded up
    shown = out[yc : yc + 64, xc : xc + 43]
    np.testing.assert_allclose(shown, want[: shown.shape[0], : shown.shape[1]].astype(int), atol=2)


@pytest.mark.parametrize("augment", [Augment(), ROTATED, TILTED, Augment(translate=0.9)])
@pytest.mark.parametrize("channels", (4, 5))
def test_painting_only_what_is_seen_changes_nothing(augment, channels):
    rng = np.random.default_rng(1)
    for seed in range(6):
        four = [
            t.Sample(
                noise(*rng.integers(30, 90, 2), channels, np.uint8, seed=seed + k),
                np.float32([[2, 3, 25, 28]]),
                np.int32([k]),
            )
            for k in range(4)
        ]
        fast = mosaic_perspective(four, 64, augment, (0.3,), np.random.default_rng(seed))
        rng2 = np.random.default_rng(seed)
        slow = t.random_perspective(mosaic(four, 64, (0.3,), rng2), 64, augment, (0.3,), rng2)
        np.testing.assert_array_equal(fast.boxes_xyxy, slow.boxes_xyxy)
        np.testing.assert_array_equal(fast.labels, slow.labels)
        difference = np.abs(fast.image.astype(int) - slow.image)
        # The two sums of offsets differ in the last bits, which OpenCV before 5 may round apart.
        assert np.mean(difference > 1) < 0.01


def test_mosaic_wants_four_images_alike():
    a, b = (
        t.Sample(noise(8, 8, c, np.uint8), np.zeros((0, 4), np.float32), np.int32([]))
        for c in (3, 4)
    )
    with pytest.raises(ValueError, match="four images alike in channels and type; got 3 x uint8"):
        mosaic([a, a, b, a], 16, BLACK, np.random.default_rng(0))
    with pytest.raises(ValueError, match="four images"):
        mosaic([a], 16, BLACK, np.random.default_rng(0))


@pytest.mark.parametrize("move", MOVES)
def test_no_boxes_stay_no_boxes(move):
    sample = painted((37, 52, 84, 101))
    sample = sample._replace(boxes_xyxy=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int32))
    out = MOVES[move](sample, np.random.default_rng(0))
    assert out.boxes_xyxy.shape == (0, 4) and out.labels.shape == (0,)
    assert out.boxes_xyxy.dtype == np.float32


def test_mixup_blends_and_cuts():
    a, b = (painted(box, 20, 20, 4) for box in ((2, 2, 8, 8), (5, 5, 15, 15)))
    a.image[:] = np.maximum(a.image, 114)
    b.image[:] = np.maximum(b.image, 114)
    out = t.mixup(a, b, np.random.default_rng(3))
    share = np.random.default_rng(3).beta(32, 32)
    exact = share * a.image + (1 - share) * b.image
    assert out.image.dtype == np.uint8 and 0.2 < share < 0.8
    # What is equal in both stays; the rest is cut, never rounded up.
    np.testing.assert_array_equal(out.image[a.image == b.image], a.image[a.image == b.image])
    np.testing.assert_array_equal(out.image, np.floor(exact + 1e-4))
    np.testing.assert_array_equal(out.boxes_xyxy, [[2, 2, 8, 8], [5, 5, 15, 15]])
    real = t.mixup(
        *(s._replace(image=s.image / np.float32(255)) for s in (a, b)), np.random.default_rng(3)
    )
    assert real.image.dtype == np.float32
    np.testing.assert_allclose(real.image, exact / 255, atol=1e-6)


def test_mixup_refuses_two_shapes():
    a, b = painted((2, 2, 8, 8), 20, 20), painted((2, 2, 8, 8), 20, 21)
    with pytest.raises(ValueError, match="20x20x4 uint8 and 20x21x4 uint8"):
        t.mixup(a, b, np.random.default_rng(0))


def test_hsv_leaves_other_channel_counts_alone():
    for channels in (1, 2, 4, 12):
        image = noise(8, 8, channels, np.uint8)
        assert t.random_hsv(image, Augment(), np.random.default_rng(0)) is image


def test_hsv_factors_are_multiplicative():
    """Against colorsys, pixel by pixel."""
    import colorsys

    image = noise(6, 6, 3, np.float32)
    augment = Augment(hsv_h=0.2, hsv_s=0.3, hsv_v=0.4)
    h, s, v = 1 + np.random.default_rng(4).uniform(-1, 1, 3) * [0.2, 0.3, 0.4]
    want = [
        colorsys.hsv_to_rgb(a * h % 1, min(b * s, 1), min(c * v, 1))
        for a, b, c in (colorsys.rgb_to_hsv(*p) for p in image.reshape(-1, 3).tolist())
    ]
    got = t.random_hsv(image, augment, np.random.default_rng(4))
    np.testing.assert_allclose(got.reshape(-1, 3), want, atol=1e-4)
    bytes_ = t.random_hsv(np.round(image * 255).astype(np.uint8), augment, np.random.default_rng(4))
    # Hue in 180 steps and cut products: up to some grey levels.
    assert np.abs(bytes_.reshape(-1, 3) / 255 - want).max() < 0.06


@pytest.mark.parametrize("dtype", DTYPES)
def test_hsv_leaves_maps_alone(dtype):
    image = noise(8, 8, 4, dtype)
    image.flags.writeable = False
    out = t.random_hsv(image, Augment(), np.random.default_rng(0), maps=1)
    colours = np.ascontiguousarray(image[..., :3])
    want = t.random_hsv(colours, Augment(), np.random.default_rng(0))
    assert out.dtype == dtype and not np.array_equal(want, colours)
    np.testing.assert_array_equal(out[..., :3], want)
    np.testing.assert_array_equal(out[..., 3], image[..., 3])
    for channels, maps in ((1, 0), (2, 0), (4, 0), (5, 1), (1, 1)):  # neither colours nor grey
        other = noise(8, 8, channels, dtype)
        assert t.random_hsv(other, Augment(), np.random.default_rng(0), maps=maps) is other


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 2])  # 0 makes it darker; 2 brighter, beyond the top
def test_grey_before_a_map_gets_the_value_that_three_copies_get(seed, dtype):
    grey, maps = noise(40, 40, 1, dtype), noise(40, 40, 1, dtype)[::-1]
    top = np.iinfo(np.uint8).max if dtype == np.uint8 else 1.0
    grey[0, 0], grey[0, 1] = 0, top
    factor = 1 + np.random.default_rng(seed).uniform(-1, 1, 3)[2] * 0.4  # the third draw
    want = np.minimum(grey * factor, top)
    assert factor < 0.7 if seed == 0 else factor > 1.2
    for copies in (1, 2, 3):
        image = np.concatenate([*[grey] * copies, maps], axis=2)
        image.flags.writeable = False
        out = t.random_hsv(image, Augment(), np.random.default_rng(seed), maps=1)
        assert out.dtype == dtype and out.shape == image.shape
        np.testing.assert_array_equal(out[..., -1:], maps)
        exact = np.floor(want) if dtype == np.uint8 else want
        for c in range(copies):
            np.testing.assert_allclose(out[..., c : c + 1], exact, atol=1e-6, rtol=1e-6)


# How each move is called on a sample with a padding; those without padding ignore it.
CARRIES = {
    "letterbox": lambda s, pad, rng: s._replace(image=t.letterbox(s.image, 200, pad)[0]),
    "affine": lambda s, pad, rng: t.random_perspective(s, 160, ROTATED, pad, rng),
    "perspective": lambda s, pad, rng: t.random_perspective(s, 160, TILTED, pad, rng),
    "mosaic": lambda s, pad, rng: mosaic([s] * 4, 100, pad, rng),
    "mosaic_perspective": lambda s, pad, rng: mosaic_perspective([s] * 4, 100, TILTED, pad, rng),
    "mixup": lambda s, pad, rng: t.mixup(s, t.flip_lr(s), rng),
    "flip_lr": lambda s, pad, rng: t.flip_lr(s),
    "flip_ud": lambda s, pad, rng: t.flip_ud(s),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("move", CARRIES)
def test_a_map_moves_with_its_image_and_is_padded_with_nothing(move, dtype):
    """Four equal channels, the last a map: they differ afterwards by the padding alone."""
    sample, shares = painted((37, 52, 84, 101), dtype=dtype), []
    full = 255 if dtype == np.uint8 else 1.0
    for seed in range(4):
        black, white, out = (
            CARRIES[move](sample, pad, np.random.default_rng(seed)).image / full
            for pad in (BLACK, (1.0,), (0.4, 0.4, 0.4, 0.0))
        )
        np.testing.assert_array_equal(out[..., 3], black[..., 0])
        share = white - black  # of each pixel that is padding
        for c in range(3):
            want = black[..., c] + 0.4 * share[..., c]
            np.testing.assert_allclose(out[..., c], want, atol=2 / 255)
        outside = share[..., 0] == 1
        assert not out[..., 3][outside].any()
        shares.append(outside.mean())
    assert (max(shares) > 0.02) == (move not in ("mixup", "flip_lr", "flip_ud"))


def test_hsv_without_ranges_changes_nothing():
    image = noise(8, 8, 3, np.uint8)
    off = Augment(hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)
    assert t.random_hsv(image, off, np.random.default_rng(0)) is image


def test_inputs_are_never_written_to():
    image = noise(50, 70, 3, np.float32)
    image.flags.writeable = False
    boxes, labels = np.float32([[3, 4, 30, 40]]), np.int32([0])
    boxes.flags.writeable = labels.flags.writeable = False
    sample, rng = t.Sample(image, boxes, labels), np.random.default_rng(0)
    for move in (t.flip_lr, t.flip_ud, lambda s: boxed(s, rng), lambda s: t.mixup(s, s, rng)):
        move(sample)
    out = mosaic_perspective([sample] * 4, 64, ROTATED, BLACK, rng)
    assert t.random_hsv(image, Augment(), rng).shape == image.shape
    assert out.image.shape == (64, 64, 3)


def test_an_image_without_pixels_is_an_error():
    with pytest.raises(ValueError, match="at least one pixel a side; got 0 x 5"):
        t.letterbox(np.zeros((0, 5, 3), np.uint8), 16, BLACK)
    with pytest.raises(ValueError, match="got 5 x 0"):
        t.fitted_size(5, 0, 16)


def test_the_room_loads_no_jax():
    code = "import sys, jaxdet.data.batch; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Masks of lesions


def disc_mask(height=37, width=50):
    y, x = np.indices((height, width))
    mask = np.where((y - 10) ** 2 + (x - 12) ** 2 < 50, 1, 0)
    mask[20:30, 25:44] = 2
    return mask.astype(np.uint8)


@pytest.mark.parametrize("after", [(37, 50), (20, 31), (80, 77), (111, 150), (1, 1), (37, 9)])
def test_a_mask_shows_what_lies_under_the_centres_of_its_pixels(after):
    mask = np.random.default_rng(0).integers(0, 256, (37, 50), np.uint8)
    got = t.resize_lesions(mask, *after)
    wanted = cv2.resize(mask, after[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    # OpenCV rounds where a centre falls between two pixels: there the right one is wanted.
    middles = [(np.arange(n) + 0.5) * old / n for n, old in zip(after, mask.shape, strict=True)]
    rows, columns = (np.abs(m - m.round()) > 1e-9 for m in middles)
    np.testing.assert_array_equal(got[rows][:, columns], wanted[rows][:, columns])
    rows, columns = (np.floor(m + 1e-9).astype(int) for m in middles)
    np.testing.assert_array_equal(got, mask[np.ix_(rows, columns)])
    assert got.dtype == np.uint8 and t.resize_lesions(None, *after) is None
    assert (got is mask) == (after == mask.shape)


def test_lesions_are_numbered_as_the_boxes_that_are_kept():
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    keep = np.array([False, True, False, True, True])
    assert t.renumbered(mask, keep).ravel().tolist() == [0, 0, 1, 0, 2, 3]
    assert not t.renumbered(mask, np.zeros(5, bool)).any()
    assert t.renumbered(mask, np.ones(5, bool)) is mask and t.renumbered(None, keep) is None
    most = np.arange(256, dtype=np.uint8).reshape(16, 16)
    last = t.renumbered(most, np.arange(255) >= 1)
    assert last.ravel().tolist() == [0, 0, *range(1, 255)]


def test_a_mask_is_flipped_and_fitted_with_its_image():
    mask = disc_mask()
    image = np.repeat(mask[..., None] * 60, 3, axis=2)
    sample = t.Sample(image, np.zeros((0, 4), np.float32), np.int32([]), mask)
    for flip in (t.flip_lr, t.flip_ud):
        turned = flip(sample)
        np.testing.assert_array_equal(turned.image[..., 0], turned.lesions * 60)
        assert not np.array_equal(turned.lesions, mask)
        np.testing.assert_array_equal(flip(turned).lesions, mask)
        assert flip(sample._replace(lesions=None)).lesions is None
    fitted = t.fit_long_side(sample, 100)
    assert fitted.lesions.shape == fitted.image.shape[:2] == (74, 100)
    inside = (fitted.image[..., 0] > 60) == (fitted.lesions == 2)
    assert inside.mean() > 0.97  # but for the edges that the image blurs

"""Boxes are drawn where they are, text stays in the picture, sheets hold every tile."""

import numpy as np
import pytest

from jaxdet.report import figures

NOTHING = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)


def drawn(image, boxes, truths=None, names=("tumour",)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    return figures.overlay(
        image, boxes, np.full(n, 0.8, np.float32), np.zeros(n, np.int32), names, truths
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_the_middle_channel_is_shown(channels):
    image = np.random.default_rng(0).random((500, 490, channels)).astype(np.float32)
    shown = figures.overlay(image, *NOTHING, ("a",))
    assert shown.shape == (500, 490, 3) and shown.dtype == np.uint8
    if channels == 3:
        assert np.allclose(shown / 255, image, atol=0.003)
    else:
        assert np.allclose(shown[..., 1] / 255, image[..., channels // 2], atol=0.003)


def test_the_image_itself_is_left_alone():
    image = np.zeros((500, 500, 3), np.uint8)
    drawn(image, [[100, 100, 200, 200]])
    assert not image.any()


def test_box_edges_are_its_outer_pixels():
    shown = drawn(np.zeros((600, 600, 1), np.uint8), [[300, 200, 400, 260]])
    lit = shown[205:].any(axis=2)  # without the text above
    rows, columns = np.flatnonzero(lit.any(axis=1)) + 205, np.flatnonzero(lit.any(axis=0))
    assert abs(columns.min() - 300) <= 2 and abs(columns.max() - 399) <= 2
    assert abs(rows.max() - 259) <= 2
    assert not shown[215:245, 315:385].any()  # the inside stays visible


@pytest.mark.parametrize("box", [[0, 0, 5, 5], [55, 35, 60, 40], [-9, -9, 80, 80], [0, 39, 60, 40]])
def test_small_images_grow_and_text_stays_inside(box):
    shown = drawn(np.zeros((40, 60, 1), np.uint8), [box], names=("a very long name of a class",))
    assert shown.shape == (480, 720, 3)
    assert shown.any()


def test_padding_is_not_drawn_and_truth_is_white():
    image = np.zeros((480, 480, 1), np.uint8)
    boxes, scores = np.array([[10, 10, 90, 90]], np.float32), np.ones(1, np.float32)
    assert not figures.overlay(image, boxes, scores, np.array([-1], np.int32), ("a",)).any()
    truth = drawn(image, [], truths=boxes)
    assert set(np.unique(truth)) == {0, 255} and (truth[..., 0] == truth[..., 2]).all()


def test_colours_go_from_green_to_red():
    low, high = figures.score_rgb(0.0), figures.score_rgb(1.0)
    assert high[0] > 150 and high[0] > 2 * max(high[1:]) and low[0] < 100 < low[1]


def test_caption_stays_in_its_corner():
    image = np.zeros((320, 320, 3), np.uint8)
    shown = figures.captioned(image, "case_z012")
    rows, columns = np.flatnonzero(shown.any(axis=(1, 2))), np.flatnonzero(shown.any(axis=(0, 2)))
    assert rows.min() > 290 and columns.max() < 160 and not image.any()


def test_sheet():
    tiles = [
        np.full((h, w, 3), 50 * (i + 1), np.uint8)
        for i, (h, w) in enumerate([(9, 9), (5, 20), (30, 3)])
    ]
    sheet = figures.contact_sheet(tiles, 2, side=40)
    assert sheet.shape == (80, 80, 3)
    assert sheet[20, 20, 0] == 50 and sheet[20, 60, 0] == 100 and sheet[60, 20, 0] == 150
    assert not sheet[45:, 45:].any() and not sheet[0, 60].any()
    assert figures.contact_sheet(tiles[:1], 4, side=40).shape == (40, 40, 3)
    with pytest.raises(ValueError, match="1 tile"):
        figures.contact_sheet([], 3)

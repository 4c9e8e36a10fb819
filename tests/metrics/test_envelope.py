"""The official boxes of PixelLink against the reference's rows, and by hand."""

import numpy as np
import pytest

from jaxdet.metrics.envelope import official_boxes


def said(cells, joined=True, prob=0.9):
    margin = np.log(prob / (1 - prob))
    pixels = np.stack([np.zeros(cells.shape), np.where(cells, margin, -9)], -1)
    joins = np.tile([0.0, 9.0 if joined else -9.0], (*cells.shape, 8))
    return pixels.astype(np.float32), joins.astype(np.float32)


@pytest.mark.parametrize("name, knobs", [("0.2", {}), ("0.01", {"pixel_threshold": 0.01})])
def test_equals_the_reference(shared, name, knobs):
    golden = np.load(shared / "golden/gssd_golden_misc.npz")
    logits = (np.moveaxis(golden[f"decode/{what}"][0], 0, -1) for what in ("pixel", "link"))
    rows = golden[f"decode/boxes_{name}"]
    rows = rows[np.argsort(-rows[:, 0])]
    found = official_boxes(*logits, **knobs)
    np.testing.assert_array_equal(found.boxes_xyxy, rows[:, 1:])
    np.testing.assert_allclose(found.scores, rows[:, 0], rtol=1e-6)
    assert found.labels.tolist() == [0] * 4


def test_what_is_no_number_beside_a_lesion_changes_no_box():
    cells = np.zeros((75, 75), bool)
    cells[10:14, 20:24] = True
    pixels, joins = said(cells)
    wanted = official_boxes(pixels, joins)
    pixels[14, 20:24] = np.nan
    found = official_boxes(pixels, joins)
    np.testing.assert_array_equal(found.boxes_xyxy, wanted.boxes_xyxy)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4)


def test_cells_that_overhang_the_image_are_cut():
    """Of 301 px the 76th cell has one: boxes are where the targets are, 4 px a cell."""
    cells = np.zeros((76, 76), bool)
    cells[70:73, 70:73] = cells[10, 74:] = True
    found = official_boxes(*said(cells), 301)
    assert sorted(found.boxes_xyxy.tolist()) == [[280, 280, 291, 291], [296, 40, 300, 43]]


def test_nothing_is_no_box():
    found = official_boxes(*said(np.zeros((75, 75), bool)))
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)


def test_everything_is_the_image():
    found = official_boxes(*said(np.ones((75, 75), bool)))
    assert found.boxes_xyxy.tolist() == [[0, 0, 299, 299]]
    np.testing.assert_allclose(found.scores, 0.9, rtol=1e-5)


def test_a_slanted_lesion_is_inflated():
    cells = np.eye(75, dtype=bool)
    cells[:20] = cells[40:] = False
    ((x0, y0, x1, y1),) = official_boxes(*said(cells)).boxes_xyxy.tolist()
    assert x0 <= 80 and y0 <= 80 and x1 >= 159 and y1 >= 159
    assert (x1 - x0) * (y1 - y0) > 80 * 80


def test_specks_are_dropped_by_area_and_by_side():
    cells = np.zeros((150, 150), bool)
    cells[10, 10] = cells[50, 50:52] = True  # 2 x 2 px, with corners 1 apart; and 2 x 4
    assert official_boxes(*said(cells)).boxes_xyxy.tolist() == [[100, 100, 103, 101]]
    assert len(official_boxes(*said(cells), min_area=1.0).scores) == 2
    assert len(official_boxes(*said(cells), min_area=1.0, min_height=1.5).scores) == 0


def test_more_lesions_than_uint8_can_number():
    cells = np.zeros((75, 75), bool)
    cells[::2, ::2] = True
    found = official_boxes(*said(cells))
    assert len(found.scores) == 38 * 38
    assert (np.diff(found.scores) <= 0).all()


def test_links_part_what_touches():
    cells = np.zeros((75, 75), bool)
    cells[3, 3:6] = True
    found = official_boxes(*said(cells, joined=False))
    assert sorted(found.boxes_xyxy.tolist()) == [[x, 12, x + 3, 15] for x in (12, 16, 20)]

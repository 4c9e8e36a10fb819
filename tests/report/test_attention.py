"""Maps over slices: bare where they are 0, orange where they are 1, boxes and borders in place."""

import numpy as np
import pytest

from jaxdet.report import attention as pictures
from jaxdet.report import figures
from jaxdet.report.attention import Attended, Map, attention, attention_sheet, heat
from jaxdet.report.figures import LINE_PX, PICTURE_PX, TITLED_PX

GREY = np.full((64, 64, 1), 0.5, np.float32)
NO_BOX = np.zeros((0, 4), np.float32)
BOX = np.array([[16, 16, 32, 32]], np.float32)
SCORES = np.array([[0.9, 0.1], [0.2, 0.4]], np.float32)
ZERO = np.zeros((64, 64), np.float32)


def spread(scores):
    return np.kron(scores, np.ones((64 // len(scores),) * 2, np.float32))


def picture(sheet, column, row=0):
    """The picture of a tile, without its title."""
    y, x = row * TITLED_PX + 2 * LINE_PX, column * TITLED_PX + LINE_PX
    return sheet[y : y + PICTURE_PX, x : x + PICTURE_PX]


def title(sheet, column, line):
    return sheet[LINE_PX * line : LINE_PX * (line + 1), column * TITLED_PX :][:, :TITLED_PX]


def test_lightness_rises_with_the_value_and_white_is_seen_on_the_top():
    colours = heat(np.linspace(0, 1, 256, dtype=np.float32)[None])[0].astype(float)
    lightness = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -0.8).all() and lightness[0] < 3 and 100 < lightness[-1] < 170
    assert colours[-1, 0] > 2 * colours[-1, 2]  # orange
    assert (heat(np.array([[-1.0, 2.0]])) == heat(np.array([[0.0, 1.0]]))).all()


def test_three_tiles_and_a_scale():
    sheet = attention(GREY, spread(SCORES), BOX, SCORES)
    assert sheet.shape == (TITLED_PX + LINE_PX, 3 * TITLED_PX, 3) and sheet.dtype == np.uint8
    slice_, alone, over = (picture(sheet, i).astype(int) for i in range(3))
    assert (slice_[20, 20] == 128).all()
    at = PICTURE_PX // 4, PICTURE_PX // 8  # in the patch of 0.9, beside the box
    assert np.abs(alone[at] - heat(np.array([[0.9]]))[0, 0]).max() <= 2
    share = 0.9 * pictures.STRONGEST
    blended = share * heat(np.array([[0.9]]))[0, 0] + (1 - share) * 128
    assert np.abs(over[at] - blended).max() <= 2


def test_a_map_of_zeros_leaves_the_slice_bare_and_says_its_range():
    rng = np.random.default_rng(0)
    image = rng.random((64, 64, 1)).astype(np.float32)
    sheet = attention(image, ZERO, NO_BOX)
    assert (picture(sheet, 0) == picture(sheet, 2)).all()
    assert (picture(sheet, 1) == heat(np.zeros((1, 1)))).all()
    other = attention(image, ZERO + 0.25, NO_BOX)
    assert (title(sheet, 1, 1) != title(other, 1, 1)).any()
    assert (title(sheet, 1, 0) == title(other, 1, 0)).all()


def test_boxes_lie_in_all_three_and_borders_between_patches():
    without, with_box = (attention(GREY, ZERO, boxes, SCORES) for boxes in (NO_BOX, BOX))
    for column in range(3):
        changed = (picture(without, column) != picture(with_box, column)).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        for found in (rows, columns):
            assert abs(found.min() - PICTURE_PX / 4) <= 3 and abs(found.max() - PICTURE_PX / 2) <= 3
        assert picture(with_box, column)[changed].max() > 180  # white, if thinned by shrinking
    plain = picture(attention(GREY, ZERO, NO_BOX), 2)
    lined = (plain != picture(without, 2)).any(axis=2)
    half = PICTURE_PX // 2
    assert lined[half].all() and lined[:, half].all() and lined.sum() == 2 * PICTURE_PX - 1


def test_scores_are_written_where_there_is_room():
    def numbers(side):
        grid = np.zeros((side, side), np.float32)
        with_, without = (attention(GREY, ZERO, NO_BOX, grid + v) for v in (0.25, 0.75))
        return (picture(with_, 1) != picture(without, 1)).any(axis=2)

    assert numbers(16).sum() == 0  # 25 px have no room
    drawn = numbers(8)
    cell = PICTURE_PX // 8
    for y in range(8):
        for x in range(8):
            assert drawn[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].any()
    over = [picture(attention(GREY, ZERO, NO_BOX, np.full((8, 8), v)), 2) for v in (0.25, 0.75)]
    assert (over[0] == over[1]).all()  # nothing is written over the slice


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
@pytest.mark.parametrize("side", [1, 64, 513])
def test_any_slice(channels, side):
    image = np.full((side, side, channels), 100, np.uint8)
    if channels == 4:
        image[..., 3] = 255  # the map of an augmented slice: the grey is shown
    sheet = attention(image, np.ones((side, side), np.float32), NO_BOX, SCORES)
    assert sheet.shape == (TITLED_PX + LINE_PX, 3 * TITLED_PX, 3)
    assert (picture(sheet, 0) == 100).all()


def test_a_map_that_does_not_fit():
    with pytest.raises(ValueError, match=r"the slice: a square.*64 x 64 px and a map of 32 x 16"):
        attention(GREY, np.zeros((16, 32), np.float32), NO_BOX)
    with pytest.raises(ValueError, match=r"square.*20 x 10 px"):
        attention(np.zeros((10, 20, 1), np.uint8), np.zeros((10, 20), np.float32), NO_BOX)
    with pytest.raises(ValueError, match=r"values in \[0, 1\]; got 0 to 255"):
        attention(GREY, spread(255 * (SCORES > 0.5)).astype(np.float32), NO_BOX)
    with pytest.raises(ValueError, match="got nan to nan"):
        attention(GREY, ZERO + np.nan, NO_BOX)
    attention(GREY, ZERO + 1.00001, NO_BOX)  # as resizing rounds


def row(name, image=GREY, boxes=BOX, **maps):
    return Attended(name, image, boxes, {k: Map(v, SCORES) for k, v in maps.items()})


def test_a_sheet_has_a_row_a_slice_and_a_column_a_map():
    ones = ZERO + 1
    rows = [row("a", g=ones, cam=ZERO), row("b", boxes=NO_BOX, g=ZERO, cam=ones)]
    sheet = attention_sheet(rows)
    assert sheet.shape == (2 * TITLED_PX + LINE_PX, 3 * TITLED_PX, 3)
    at = 20, 20
    for y, x, hot in [(0, 1, True), (0, 2, False), (1, 1, False), (1, 2, True)]:
        red, _, blue = picture(sheet, x, y)[at].astype(int)
        assert (red - blue > 50) == hot and (hot or red == blue == 128)
    assert (picture(attention_sheet(rows[:1]), 1) == picture(sheet, 1)).all()
    without = attention_sheet([Attended("a", GREY, BOX, {})])
    assert without.shape == (TITLED_PX + LINE_PX, TITLED_PX, 3)


def test_a_sheet_that_cannot_be_made():
    with pytest.raises(ValueError, match="1 row or more"):
        attention_sheet([])
    with pytest.raises(ValueError, match=r"same maps in all.*'cam'"):
        attention_sheet([row("a", g=ZERO), row("b", cam=ZERO)])
    with pytest.raises(ValueError, match="b, g: a map wants"):
        attention_sheet([row("a", g=ZERO), row("b", g=ZERO + 2)])


def test_the_scale_shows_the_colours_from_end_to_end():
    strip = attention(GREY, ZERO, NO_BOX)[TITLED_PX:]
    assert strip.shape[0] == LINE_PX
    coloured = np.flatnonzero(np.ptp(strip[2].astype(int), axis=1) > 60)
    assert 100 < len(coloured) < 200
    assert np.abs(strip[2, coloured[-1]] - heat(np.ones((1, 1)))[0, 0].astype(int)).max() <= 1
    assert (figures.lines(["attention 0"], 94) == strip[:, :94]).all()

"""The table of verdicts, and contact sheets whose boxes and titles can be found again."""

import cv2
import numpy as np
import pytest

from jaxdet.metrics.audit import Error, audit, to_json
from jaxdet.report import errors, figures
from jaxdet.report.errors import SIDE_PX, audit_table, contact_sheet

PAIR = np.array([[100, 100, 200, 200], [210, 100, 310, 200]], float)
BOTH = np.array([[100, 100, 310, 200]], float)
GREY = np.full((400, 400, 12), 0.2, np.float32)
LEGEND_PX = 2 * errors.LINE_PX


def case(boxes, truths, scores=None):
    boxes, truths = (np.reshape(np.array(b, float), (-1, 4)) for b in (boxes, truths))
    scores = np.full(len(boxes), 0.8) if scores is None else np.array(scores)
    return (boxes, scores, np.zeros(len(boxes), int)), (truths, np.zeros(len(truths), int))


def sheet(path, cases, each=6, image=lambda i: GREY, names=None):
    found, true = zip(*cases, strict=True)
    made = audit(found, true, score_threshold=0.0).errors
    names = [f"slice {i}" for i in range(len(cases))] if names is None else names
    contact_sheet(made, image, found, true, names, path, each=each)
    return cv2.imread(str(path))[..., ::-1]


def near(image, colour, within=40):
    return (np.abs(image.astype(int) - colour) < within).all(axis=2)


def test_the_whole_table():
    merged, clean = case(BOTH, PAIR), case(PAIR, PAIR)
    audits = {
        "a long name": audit(merged[:1], merged[1:], score_threshold=0.25),
        "gssd": audit(clean[:1], clean[1:], score_threshold=0.5),
        "none": audit([([], [], [])], [([], [])], score_threshold=0.5),
    }
    lines = audit_table({name: to_json(one) for name, one in audits.items()}).splitlines()
    assert lines[0] == "verdicts, protocol coco, IoU 0.5, mislocated from IoU 0.1"
    want = ["truths", "score", "all", "found", "missed", "merged", "split", "mislocated"]
    assert lines[1].split() == want
    zero = ["0", "(0.0%)"]
    assert lines[2].split() == ["a", "long", "name", "0.250", "2", *zero * 2, "2", "(100.0%)"] + (
        zero * 2
    )
    assert lines[3].split() == ["gssd", "0.500", "2", "2", "(100.0%)", *zero * 4]
    assert lines[4].split() == ["none", "0.500", "0", *["0", "(-)"] * 5]
    assert lines[5].split()[:5] == ["detections", "score", "all", "right", "duplicate"]
    assert lines[6].split() == ["a", "long", "name", "0.250", "1", *zero * 2, "1", "(100.0%)"] + (
        zero * 4
    )
    assert len(lines) == 9 and "\t" not in "".join(lines)
    assert len({len(line) for line in lines[1:5]}) == len({len(line) for line in lines[5:]}) == 1


def test_folds_with_scores_of_their_own_and_models_that_cannot_stand_side_by_side():
    one = to_json(audit([], [], score_threshold=0.25))
    assert " 0.250-0.300 " in audit_table({"a": {**one, "score_thresholds": [0.25, 0.3]}})
    with pytest.raises(ValueError, match=r"one protocol.*'coco'.*'voc'"):
        audit_table({"a": one, "b": {**one, "protocol": "voc"}})
    with pytest.raises(ValueError, match="got none"):
        audit_table({})


def test_a_row_a_kind_and_a_column_an_example(tmp_path):
    cases = [case([], PAIR)] * 3 + [case(BOTH, PAIR)]  # six missed, one merging box
    shown = sheet(tmp_path / "new" / "errors.png", cases, each=4)
    assert shown.shape == (2 * SIDE_PX + LEGEND_PX, 4 * SIDE_PX, 3)
    row = shown[SIDE_PX : 2 * SIDE_PX]
    assert row[:, :SIDE_PX].any() and not row[:, SIDE_PX:].any()


def test_boxes_lie_where_they_are(tmp_path):
    shown = sheet(tmp_path / "errors.png", [case(BOTH, PAIR, [0.9])])
    # The window is twice as wide as the box, so the box is half the tile, and in its middle.
    red = near(shown[: SIDE_PX - 1], figures.score_rgb(0.9))
    rows, columns = (np.flatnonzero(red.sum(axis=axis) > 60) for axis in (1, 0))
    middle = errors.WIDE_PX / 2 + 2
    assert abs(columns.min() - middle / 2) < 5 and abs(columns.max() - 1.5 * middle) < 5
    tall = columns.max() - columns.min()
    assert abs((rows.max() - rows.min()) / tall - 100 / 210) < 0.03
    white = near(shown[rows.min() : rows.max()], figures.TRUTH_RGB).sum(axis=0) > 50
    assert white[: columns.min() - 4].sum() == 0 and white[columns.min() : columns.max()].sum() >= 8
    between = np.flatnonzero(white)
    gap = np.diff(between).max()
    assert gap > 40  # the inside of a lesion stays visible


def test_the_surest_and_the_largest_come_first(tmp_path):
    far = [[10, 10, 60, 60], [300, 300, 350, 350]]
    cases = [case(far, [], [0.3, 0.95]), case([], [[0, 0, 20, 20], [100, 100, 300, 300]])]
    asked = []
    shown = sheet(tmp_path / "errors.png", cases, 1, lambda i: asked.append(i) or GREY)
    assert shown.shape[1] == SIDE_PX and asked == [1, 0]
    missed, background = shown[:SIDE_PX], shown[SIDE_PX : 2 * SIDE_PX]
    assert near(background, figures.score_rgb(0.95), 25).sum() > 200
    assert near(background, figures.score_rgb(0.3), 25).sum() == 0
    rows = np.flatnonzero(near(missed, figures.TRUTH_RGB).sum(axis=1) > 60)
    assert rows.max() - rows.min() > 140  # half the tile: the large one


@pytest.mark.parametrize("shape", [(3, 900, 1), (20, 20, 3), (1, 1, 12), (600, 300, 2)])
@pytest.mark.parametrize("box", [[-50, -50, 5, 5], [900, 900, 950, 950], [0, 0, 1e9, 1e9]])
def test_any_image_and_any_box_give_a_tile(tmp_path, shape, box):
    image = np.zeros(shape, np.uint8)
    shown = sheet(tmp_path / "errors.png", [case([box], [])], image=lambda i: image)
    assert shown.shape == (SIDE_PX + LEGEND_PX, SIDE_PX, 3)


def test_labels_do_not_lie_on_each_other():
    image, taken = np.zeros((200, 300, 3), np.uint8), []
    for _ in range(12):
        taken.append(errors._label(image, [60, 60, 250, 150], "0.85", (9, 200, 9), taken))
    placed = [here for here in taken if here != (0, 0, 0, 0)]
    assert len(placed) == 8
    drawn = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in placed)
    assert image.any(axis=2).sum() > 0.7 * drawn  # letters are black
    canvas = np.zeros(image.shape[:2], int)
    for x0, y0, x1, y1 in placed:
        canvas[y0:y1, x0:x1] += 1
    assert canvas.max() == 1 and not image[canvas == 0].any()


def test_a_long_name_keeps_its_end(tmp_path):
    def title(name):
        path = tmp_path / "errors.png"
        return sheet(path, [case([], PAIR[:1])], names=[name])[errors.LINE_PX : 2 * errors.LINE_PX]

    one, other = title("x" * 90 + " slice 4"), title("x" * 90 + " slice 5")
    assert (one[:, :300] == other[:, :300]).all() and (one != other).any()
    assert not one[:, SIDE_PX - 4 :].any()


def test_without_errors_the_sheet_says_so(tmp_path):
    shown = sheet(tmp_path / "errors.png", [case(PAIR, PAIR)])
    assert shown.shape == (SIDE_PX + LEGEND_PX, SIDE_PX, 3) and shown[:SIDE_PX].any()


def test_padding_rows_and_equal_names(tmp_path):
    boxes = np.array([[0, 0, 0, 0], [300, 300, 350, 350]], np.float32)
    found = [(boxes, np.array([0.0, 0.9], np.float32), np.array([-1, 0], np.int32))]
    one = Error("background", 0, (1,), (), 0.0)
    path = tmp_path / "errors.png"
    contact_sheet([one], lambda i: GREY, found, [([], [])], ["a"], path)
    red = near(cv2.imread(str(path))[:SIDE_PX, :, ::-1], figures.score_rgb(0.9), 25)
    assert red.sum() > 200


def test_too_few_names(tmp_path):
    with pytest.raises(ValueError, match="1 names, 1 a row or more; got 0, 6"):
        sheet(tmp_path / "errors.png", [case([], PAIR)], names=[])
    with pytest.raises(ValueError, match="got 1, 0"):
        sheet(tmp_path / "errors.png", [case([], PAIR)], each=0)

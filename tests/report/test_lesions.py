"""Figs. 1, 3 and 5: every slice, model and size has its tile, and the words over it are true."""

import numpy as np
import pytest

from jaxdet.report import figures, lesions
from jaxdet.report.figures import LINE_PX, PICTURE_PX, TITLED_PX
from jaxdet.report.lesions import by_size, detections, examples, spread_by_size
from jaxdet.types import Detections

GREY = np.full((100, 100, 1), 0.5, np.float32)
NAMES = ("tumour",)
ONE = [20.0, 20.0, 40.0, 40.0]
OTHER = [60.0, 60.0, 70.0, 70.0]


def truth(*boxes, labels=None, crowd=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int32) if labels is None else np.array(labels)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd)
    return boxes, labels, crowd, np.ones(len(boxes), np.float32)


def found(*images, width=4):
    """Padded Detections of lists of (box, score) an image, all of class 0."""
    boxes = np.zeros((len(images), width, 4), np.float32)
    scores = np.zeros((len(images), width), np.float32)
    labels = np.full((len(images), width), -1, np.int32)
    for i, image in enumerate(images):
        for j, (box, score) in enumerate(image):
            boxes[i, j], scores[i, j], labels[i, j] = box, score, 0
    return Detections(boxes, scores, labels)


def picture(sheet, column, row=0):
    y, x = row * TITLED_PX + 2 * LINE_PX, column * TITLED_PX + LINE_PX
    return sheet[y : y + PICTURE_PX, x : x + PICTURE_PX]


def says(sheet, column, row, line, words):
    """Whether exactly these words stand there."""
    y, x = row * TITLED_PX + line * LINE_PX, column * TITLED_PX
    strip = sheet[y : y + LINE_PX, x : x + TITLED_PX]
    return (strip == figures.lines([words], TITLED_PX)).all()


def near(image, colour, within=40):
    return (np.abs(image.astype(int) - colour) < within).all(axis=2)


def test_a_spread_goes_from_the_smallest_to_the_largest():
    sizes = np.array([5.0, np.nan, 1.0, 9.0, 3.0, 7.0])
    assert spread_by_size(sizes, 3).tolist() == [2, 0, 3]
    assert spread_by_size(sizes, 2).tolist() == [2, 3]
    assert spread_by_size(sizes, 1).tolist() == [0]
    assert (
        spread_by_size(sizes, 5).tolist() == spread_by_size(sizes, 50).tolist() == [2, 4, 0, 5, 3]
    )
    assert spread_by_size(np.array([2.0, 2.0, 2.0, 1.0]), 4).tolist() == [3, 0, 1, 2]
    for n in range(1, 40):
        chosen = spread_by_size(np.arange(40.0), n)
        assert len(set(chosen.tolist())) == n and (np.diff(chosen) > 0).all()
    with pytest.raises(ValueError, match="0 known sizes of 2"):
        spread_by_size(np.full(2, np.nan), 1)
    with pytest.raises(ValueError, match="n = 0"):
        spread_by_size(sizes, 0)


def test_examples():
    truths = [truth(ONE), truth(ONE, OTHER), truth(), truth(ONE, OTHER, crowd=[True, False])]
    truths.append((np.array([ONE, [0, 0, 0, 0]]), np.array([0, -1])))  # padding; no crowd, no area
    sheet = examples([GREY] * 5, truths, list("abcde"), columns=2)
    assert sheet.shape == (3 * TITLED_PX, 2 * TITLED_PX, 3)
    wanted = ["20 x 20 px", "20 x 20, 10 x 10 px", "no lesion", "10 x 10 px", "20 x 20 px"]
    for i, words in enumerate(wanted):
        assert says(sheet, i % 2, i // 2, 0, "abcde"[i]) and says(sheet, i % 2, i // 2, 1, words)
    white = near(picture(sheet, 0), figures.TRUTH_RGB, 60)
    rows = np.flatnonzero(white.any(axis=1))
    assert abs(rows.min() - 80) <= 2 and abs(rows.max() - 160) <= 2
    assert (picture(sheet, 0, 1) == 128).all()  # no lesion, no line


def test_a_row_a_slice_and_a_column_a_model():
    truths = [truth(ONE, OTHER), truth()]
    rival = found([(ONE, 0.9), (ONE, 0.5), (OTHER, 0.1)], [(OTHER, 0.8)])
    ours = found([(ONE, 0.7), (OTHER, 0.3)], [])
    models, scores = {"rival": rival, "ours": ours}, {"rival": 0.2, "ours": 0.3}
    sheet = detections([GREY] * 2, truths, models, NAMES, ["a", "b"], scores)
    assert sheet.shape == (2 * TITLED_PX + LINE_PX, 3 * TITLED_PX, 3)
    for row, name, lesions_ in ((0, "a", 2), (1, "b", 0)):
        assert says(sheet, 0, row, 0, name) and says(sheet, 0, row, 1, f"lesions: {lesions_}")
        assert says(sheet, 1, row, 0, "rival, scores from 0.20")
        assert says(sheet, 2, row, 0, "ours, scores from 0.30")
    assert says(sheet, 1, 0, 1, "hit: 1 of 2, false: 1")  # the second on one lesion is false
    assert says(sheet, 2, 0, 1, "hit: 2 of 2, false: 0")  # float32(0.3) has 0.3 or more
    assert says(sheet, 1, 1, 1, "hit: 0 of 0, false: 1")
    assert says(sheet, 2, 1, 1, "hit: 0 of 0, false: 0")
    assert near(picture(sheet, 1), figures.score_rgb(0.9)).any()
    assert not near(picture(sheet, 1), figures.score_rgb(0.1), 20).any()  # below the threshold
    assert not near(picture(sheet, 0), figures.score_rgb(0.9)).any()
    assert (picture(sheet, 0, 1) == picture(sheet, 2, 1)).all()


def test_a_crowd_is_neither_hit_nor_false():
    truths = [truth(ONE, crowd=[True])]
    sheet = detections([GREY], truths, {"m": found([(ONE, 0.9)])}, NAMES, ["a"], {"m": 0.5})
    assert says(sheet, 0, 0, 1, "lesions: 0") and says(sheet, 1, 0, 1, "hit: 0 of 0, false: 0")


def test_without_models_or_detections_the_truth_stands():
    assert detections([GREY], [truth()], {}, NAMES, ["a"], {}).shape[1] == TITLED_PX
    none = Detections(np.zeros((1, 0, 4)), np.zeros((1, 0)), np.zeros((1, 0), int))
    sheet = detections([GREY], [truth(ONE)], {"m": none}, NAMES, ["a"], {"m": 0.5})
    assert says(sheet, 1, 0, 1, "hit: 0 of 1, false: 0")


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
@pytest.mark.parametrize("shape", [(1, 1), (30, 90), (600, 520)])
def test_any_image(channels, shape):
    image = np.full((*shape, channels), 90, np.uint8)
    if channels == 4:
        image[..., 3] = 255  # a map beside three copies of the grey
    models, scores = {"m": found([([0, 0, 1e6, 1], 0.9)])}, {"m": 0.5}
    for truths in ([truth()], [truth([0, 0, 1, 1])]):
        assert examples([image], truths, ["a"]).shape == (TITLED_PX, TITLED_PX, 3)
        sheet = detections([image], truths, models, NAMES, ["a"], scores)
        assert sheet.shape == (TITLED_PX + LINE_PX, 2 * TITLED_PX, 3)
    sheet = by_size(lambda i: image, truths, None, models, NAMES, ["a"], scores)
    assert sheet.shape == (3 * TITLED_PX + LINE_PX, 2 * TITLED_PX, 3)
    assert (examples([image], [truth()], ["a"])[2 * LINE_PX + PICTURE_PX // 2, -180] == 90).all()


def test_sizes_have_rows_and_lesions_are_hit_or_missed():
    truths = [truth(ONE, OTHER), truth(), truth([10, 10, 12, 12], OTHER)]
    mm = [np.array([20.0, 10.0]), np.zeros(0), np.array([3.0, np.nan])]
    models = {
        "good": found([(ONE, 0.9), ([60, 60, 70, 66], 0.6)], [], [([10, 10, 12, 12], 0.4)]),
        "bad": found([(OTHER, 0.1), ([20, 20, 24, 24], 0.8)], [], []),
    }
    asked = []
    sheet = by_size(
        lambda i: asked.append(i) or GREY,
        truths,
        [m.astype(np.float32) for m in mm],
        models,
        NAMES,
        ["a", "b", "c"],
        {"good": 0.4, "bad": 0.5},
    )
    assert sheet.shape == (3 * TITLED_PX + LINE_PX, 3 * TITLED_PX, 3) and asked == [2, 0, 0]
    told = ["small (below 10 mm): 3.0", "medium (10 to 20 mm): 10.0", "large (from 20 mm): 20.0"]
    for row, (words, name) in enumerate(zip(told, "caa", strict=True)):
        assert says(sheet, 0, row, 0, f"{words} mm") and says(sheet, 0, row, 1, name)
        assert says(sheet, 1, row, 0, "good, scores from 0.40")
    good = ["hit: IoU 1.00, score 0.40", "hit: IoU 0.60, score 0.60", "hit: IoU 1.00, score 0.90"]
    bad = ["missed", "missed", "missed: IoU 0.04, score 0.80"]
    for row in range(3):
        assert says(sheet, 1, row, 1, good[row]) and says(sheet, 2, row, 1, bad[row])


def test_without_millimetres_the_sizes_are_thirds():
    truths = [truth([0, 0, s, 2]) for s in (30, 10, 90, 20, 60, 40)]
    unknown = [np.full(1, np.nan, np.float32)] * 6
    for mm in (None, unknown):
        sheet = by_size(lambda i: GREY, truths, mm, {}, NAMES, list("abcdef"), {}, each=2)
        assert sheet.shape == (6 * TITLED_PX + LINE_PX, TITLED_PX, 3)
        for row, px in enumerate((10, 20, 30, 40, 60, 90)):
            size = ("small", "medium", "large")[row // 2]
            assert says(sheet, 0, row, 0, f"{size} (a third of the set): {px}.0 px")


def test_a_size_that_is_not_there_says_so():
    sheet = by_size(lambda i: GREY, [truth(ONE)], [np.array([15.0])], {}, NAMES, ["a"], {})
    assert says(sheet, 0, 0, 0, "small (below 10 mm): none") and not picture(sheet, 0).any()
    assert says(sheet, 0, 1, 0, "medium (10 to 20 mm): 15.0 mm") and picture(sheet, 0, 1).any()
    lone = by_size(lambda i: GREY, [truth(ONE)], None, {}, NAMES, ["a"], {})
    assert says(lone, 0, 1, 0, "medium (a third of the set): none")


def test_a_lesion_is_hit_by_its_own_class_alone():
    truths = [truth(ONE, labels=[1])]
    args = lambda i: GREY, truths, [np.array([5.0])], {"m": found([(ONE, 0.9)])}, ("a", "b"), ["n"]
    assert says(by_size(*args, {"m": 0.5}), 1, 0, 1, "missed")


def test_the_crop_holds_the_lesion_in_the_middle_and_only_what_meets_it():
    lesion, far = [500, 500, 530, 520], [10, 10, 40, 40]
    image = np.zeros((1000, 1000, 1), np.uint8)
    image[500:520, 500:530] = 200
    models = {"m": found([(far, 0.9), ([0, 0, 1e5, 1e5], 0.5)])}
    none = {"m": found([])}
    crop = lambda i: image, [truth(lesion)], [np.array([5.0])]
    sheet = by_size(*crop, none, NAMES, ["a"], {"m": 0.1})
    rows, columns = (
        np.flatnonzero(near(picture(sheet, 0), (200,) * 3, 9).any(axis=axis)) for axis in (1, 0)
    )
    assert abs(columns.mean() - PICTURE_PX / 2) < 3 and abs(rows.mean() - PICTURE_PX / 2) < 3
    assert abs(np.ptp(columns) / np.ptp(rows) - 1.5) < 0.15
    with_, without = picture(by_size(*crop, models, NAMES, ["a"], {"m": 0.1}), 1), picture(sheet, 1)
    assert not near(with_, figures.score_rgb(0.9), 20).any()  # the far one
    lines_ = (with_ != without).any(axis=2)
    assert lines_.any() and not lines_[60:].any()  # of the huge one its score alone


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"1 image or more.*0 images"):
        examples([], [], [])
    with pytest.raises(ValueError, match="2 images, 1 truths and 2 names"):
        examples([GREY] * 2, [truth()], ["a", "b"])
    with pytest.raises(ValueError, match="2 names"):
        detections([GREY], [truth()], {}, NAMES, ["a", "b"], {})
    models = {"m": found([(ONE, 0.9)]), "other": found([])}
    with pytest.raises(ValueError, match="a score for each model; got none for other"):
        detections([GREY], [truth()], models, NAMES, ["a"], {"m": 0.5})
    with pytest.raises(ValueError, match="one entry an image"):
        detections([GREY] * 2, [truth()] * 2, {"m": found([])}, NAMES, ["a", "b"], {"m": 0.5})
    with pytest.raises(ValueError, match=r"label 0 has no name among \[\]"):
        detections([GREY], [truth()], {"m": models["m"]}, (), ["a"], {"m": 0.5})
    with pytest.raises(ValueError, match="got 0 lesions"):
        by_size(lambda i: GREY, [truth()], None, {}, NAMES, ["a"], {})
    with pytest.raises(ValueError, match=r"cuts that rise.*\(20.0, 10.0\)"):
        by_size(lambda i: GREY, [truth(ONE)], None, {}, NAMES, ["a"], {}, cuts_mm=(20.0, 10.0))
    with pytest.raises(ValueError, match="0 images"):
        by_size(lambda i: GREY, [], None, {}, NAMES, [], {})


def test_images_are_left_alone():
    image = GREY.copy()
    by_size(lambda i: image, [truth(ONE)], None, {}, NAMES, ["a"], {})
    examples([image], [truth(ONE)], ["a"])
    assert (image == GREY).all() and lesions.HIT_IOU == 0.5

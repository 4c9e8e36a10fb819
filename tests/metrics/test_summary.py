"""The summary: hand cases of precision and recall at the best F1, sizes, empties, JSON."""

import json

import numpy as np
import pytest

from jaxdet.metrics import average_precision, summarise
from jaxdet.metrics.protocols import COCO_THRESHOLDS, PROTOCOLS
from jaxdet.metrics.summary import smoothed

SMALL, LARGE = np.array([[0, 0, 10, 10.0]]), np.array([[100, 100, 300, 300.0]])
FAR = np.array([[500, 500, 510, 510.0]])


def test_precision_and_recall_at_the_best_f1_by_hand():
    # Two truths, right at 0.8, wrong at 0.4. Recall is 1/2 for every score up to 0.8 and 0 above.
    # Precision is 1 at 0.8 and falls in a line to 1/2 at 0.4, so F1 grows up to 0.8 and then drops
    # to 0. Smoothing over 101 of 1000 scores takes 0.05 to both sides: the best place is 0.8 - 0.05
    # = 0.75, where the precision is 1 - 0.5 * 0.05 / 0.4 = 0.9375.
    found = [(np.concatenate([SMALL, FAR]), np.array([0.8, 0.4]), np.zeros(2, int))]
    truth = [(np.concatenate([SMALL, LARGE]), np.zeros(2, int))]
    got = summarise(found, truth, ["lesion"])
    assert got["threshold"] == pytest.approx(0.75, abs=0.002)
    assert got["precision"] == pytest.approx(0.9375, abs=0.002)
    assert got["recall"] == 0.5
    # Points (0, 1) (.5, 1) (.5, .5) (1, 0), as in the test of average precision.
    assert got["ap50"] == got["ap75"] == pytest.approx((49 + 0.75 + 12.5) / 100)
    row = got["per_class"][0]
    assert (row["name"], row["images"], row["truths"]) == ("lesion", 1, 2)
    assert row["precision"] == got["precision"] and row["ap50_95"] == got["ap50_95"]


def test_one_score_for_all_classes():
    # Class 0 is right at 0.9 and wrong at 0.5, class 1 right at 0.3: below 0.3 the mean F1 is
    # (2 * .5 / 1.5 + 1) / 2 = 5/6, between 0.5 and 0.9 it is at most 1/2. Class 0 then has
    # precision 1/2.
    boxes, labels = np.concatenate([SMALL, FAR, LARGE]), np.array([0, 0, 1])
    found = [(boxes, np.array([0.9, 0.5, 0.3]), labels)]
    truth = [(boxes[[0, 2]], labels[[0, 2]])]
    got = summarise(found, truth, ["a", "b"])
    assert 0 <= got["threshold"] <= 0.3
    assert got["precision"] == pytest.approx((0.5 + 1) / 2) and got["recall"] == 1
    assert [row["precision"] for row in got["per_class"]] == pytest.approx([0.5, 1])


def test_smoothing_by_hand():
    # 20 values, a tenth: round(20 * .1 * 2) // 2 + 1 = 3 wide, the ends repeated.
    values = np.zeros(20)
    values[0], values[10] = 3, 3
    want = np.zeros(20)
    want[0], want[1], want[9:12] = 2, 1, 1
    np.testing.assert_allclose(smoothed(values), want, atol=1e-12)
    assert len(smoothed(np.arange(1000.0))) == 1000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_agrees_with_average_precision(protocol):
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(6):
        corner, labels = rng.uniform(0, 300, (5, 2)), rng.integers(0, 3, 5)
        boxes = np.concatenate([corner, corner + rng.uniform(10, 150, (5, 2))], 1)
        truth.append((boxes, labels, rng.random(5) < 0.2))
        near = np.repeat(boxes, 2, 0) + rng.normal(0, 6, (10, 4))
        found.append((near, rng.random(10), np.repeat(labels, 2)))
    names = ["a", "b", "c", "never there"]
    got = summarise(found, truth, names, protocol, curves=True)
    want = average_precision(found, truth, thresholds=COCO_THRESHOLDS, protocol=protocol)
    assert got["ap50"] == pytest.approx(want[0]) and got["ap75"] == pytest.approx(want[5])
    assert got["ap50_95"] == pytest.approx(want.mean()) and 0 < want[0] < 1
    assert got["protocol"] == protocol and got["images"] == 6
    rows = got["per_class"]
    assert [row["name"] for row in rows] == names
    assert got["ap50"] == pytest.approx(np.mean([row["ap50"] for row in rows[:3]]))
    assert got["truths"] == sum(row["truths"] for row in rows) == sum((~t[2]).sum() for t in truth)
    assert rows[3]["ap50"] is None and rows[3]["truths"] == 0 and "pr_curve" not in rows[3]
    if protocol == "coco":
        assert rows[0]["ap50"] == pytest.approx(np.mean(rows[0]["pr_curve"]["precision"]))
    assert json.loads(json.dumps(got, allow_nan=False)) == got


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sizes(protocol):
    # The small truth is found, the large one is not; a false box of the large size comes first.
    false = np.array([[600, 600, 800, 800.0]])
    found = [(np.concatenate([SMALL, false]), np.array([0.8, 0.9]), np.zeros(2, int))]
    truth = [(np.concatenate([SMALL, LARGE]), np.zeros(2, int))]
    small, medium, large = summarise(found, truth, ["lesion"], protocol)["per_size"]
    assert (small["name"], small["area_px2"], small["truths"]) == ("small", [0, 1024], 1)
    assert small["ap50"] > 0.99  # the false one is no small one: ignored
    assert medium["truths"] == 0 and medium["ap50"] is None and medium["ap50_95"] is None
    assert large["truths"] == 1 and large["ap50"] == 0
    mine = {"tiny": (0, 50), "rest": (50, 1e9)}
    tiny, rest = summarise(found, truth, ["lesion"], protocol, sizes=mine)["per_size"]
    assert (tiny["name"], tiny["truths"], rest["truths"]) == ("tiny", 0, 2)
    assert rest["ap50"] == summarise(found, truth, ["lesion"], protocol)["ap50"]


def test_a_known_area_comes_before_that_of_the_box():
    found = [(SMALL, np.ones(1), np.zeros(1, int))]
    truth = [(SMALL, np.zeros(1, int), None, np.array([2000.0]))]
    sizes = summarise(found, truth, ["lesion"], "coco")["per_size"]
    assert [row["truths"] for row in sizes] == [0, 1, 0]
    assert sizes[1]["ap50"] == 1  # found, so it counts, though its own box is small


def test_nothing_at_all():
    got = summarise([([], [], [])], [(SMALL[:0], [])], ["lesion"], curves=True)
    numbers = ("ap50", "ap75", "ap50_95", "precision", "recall", "threshold")
    assert all(got[name] is None for name in numbers)
    assert (got["images"], got["truths"]) == (1, 0)
    assert got["per_class"][0]["images"] == 0


def test_truth_and_no_detections():
    got = summarise([([], [], [])], [(SMALL, [0])], ["lesion"])
    numbers = ("ap50", "ap75", "ap50_95", "precision", "recall", "threshold")
    assert all(got[name] == 0 for name in numbers)


def test_labels_beyond_the_names():
    one = (SMALL, np.ones(1), np.array([2]))
    with pytest.raises(ValueError, match=r"0 to 1.* image 1 has a detection with label 2"):
        summarise([([], [], []), one], [(SMALL, [0])] * 2, ["a", "b"])
    with pytest.raises(ValueError, match="image 0 has a truth with label 2"):
        summarise([one], [(SMALL, [2])], ["a", "b"])
    with pytest.raises(ValueError, match="protocol wants one of coco"):
        summarise([one], [(SMALL, [0])], ["a"], "classic")

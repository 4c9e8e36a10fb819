"""Slices and patients as yes or no, against SciPy, a slow count, and by hand."""

import json

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from jaxdet.metrics import facts
from jaxdet.metrics.facts import patient_of
from jaxdet.metrics.levels import levels, rank
from jaxdet.metrics.rows import read

BOX = np.array([[0, 0, 10, 10.0]])
FREE = (np.zeros((0, 4)), np.zeros(0, int))
LESION = (BOX, np.zeros(1, int))
CROWD = (BOX, np.zeros(1, int), np.ones(1, bool))


def found(*scores):
    """Boxes anywhere, of whatever class."""
    n = len(scores)
    return np.tile(BOX + 500, (n, 1)), np.array(scores, float), np.arange(n)


def of_patients(*names):
    return facts.unknown([0] * len(names))._replace(patients=names)


def case(seed):
    rng = np.random.default_rng(seed)
    images = int(rng.integers(4, 40))
    scores = [np.round(rng.random(rng.integers(0, 4)), 1) for _ in range(images)]
    truths = [(FREE, LESION)[int(i % 2 or rng.random() < 0.3)] for i in range(images)]
    patients = of_patients(*(f"p{i}" for i in rng.integers(0, 6, images)))
    return [found(*s) for s in scores], truths, patients


def slow_precision(yes, no):
    """Recall steps times precision over distinct scores, all of them counted anew."""
    area = before = 0.0
    for score in sorted({*yes, *no}, reverse=True):
        right, false = sum(s >= score for s in yes), sum(s >= score for s in no)
        area, before = (
            area + (right / len(yes) - before) * right / (right + false),
            right / len(yes),
        )
    return area


@pytest.mark.parametrize("level", ["slice", "patient"])
@pytest.mark.parametrize("seed", range(15))
def test_it_equals_scipy_and_a_slow_count(seed, level):
    detections, truths, known = case(seed)
    units = known.patients if level == "patient" else range(len(truths))
    best = {unit: (-1.0, False) for unit in units}
    for unit, (_, scores, _), (boxes, _) in zip(units, detections, truths, strict=True):
        score, lesion = best[unit]
        best[unit] = max([score, *scores]), lesion or len(boxes) > 0
    yes, no = ([s for s, lesion in best.values() if lesion is want] for want in (True, False))
    got = levels(detections, truths, known, level, score_thresholds=(0.5,))
    assert (got["with_lesion"], got["without_lesion"]) == (len(yes), len(no))
    assert got["ap"] == pytest.approx(slow_precision(yes, no), abs=1e-12)
    at = got["at"][0]
    assert at["sensitivity"] == sum(s >= 0.5 for s in yes) / len(yes)
    if no:
        want = mannwhitneyu(yes, no).statistic / (len(yes) * len(no))
        assert got["auc"] == pytest.approx(want, abs=1e-12)
        assert at["specificity"] == sum(s < 0.5 for s in no) / len(no)
    else:
        assert got["auc"] is None and at["specificity"] is None


def hand_case():
    """With a lesion 0.9 and 0.4, without 0.4 and nothing."""
    detections = [found(0.9, 0.2), found(0.4), found(0.3, 0.4), found()]
    return detections, [LESION, LESION, FREE, FREE]


def test_by_hand():
    got = levels(*hand_case(), score_thresholds=(0.4, 0.5, 0))
    # Pairs: 0.9 beats both, 0.4 ties one and beats the other: 3.5 of 4. Precision 1 and 2/3.
    assert got["auc"] == 3.5 / 4
    assert got["ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert (got["level"], got["with_lesion"], got["without_lesion"]) == ("slice", 2, 2)
    assert got["at"] == [
        {"score": 0.4, "sensitivity": 1.0, "specificity": 0.5},
        {"score": 0.5, "sensitivity": 0.5, "specificity": 1.0},
        {"score": 0.0, "sensitivity": 1.0, "specificity": 0.5},  # what holds nothing is no alarm
    ]
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_a_patient_has_the_surest_of_his_slices():
    # "b" has a lesion on one slice and his surest box on the other.
    detections, truths = [found(0.3), found(0.1), found(0.8)], [FREE, LESION, FREE]
    got = levels(detections, truths, of_patients("a", "b", "b"), "patient", 0.5)
    assert (got["with_lesion"], got["without_lesion"], got["auc"]) == (1, 1, 1.0)
    assert got["at"] == [{"score": 0.5, "sensitivity": 1.0, "specificity": 1.0}]


def test_without_names_an_image_is_a_patient():
    for known in (None, of_patients("", "", "", "")):
        got = levels(*hand_case(), known, "patient")
        assert got | {"level": "slice"} == levels(*hand_case())


def test_units_are_numbered_as_they_come():
    assert patient_of(5, of_patients("b", "", "a", "", "b")).tolist() == [0, 1, 2, 3, 0]
    assert patient_of(0, None).shape == (0,)
    scores, lesion, unsure = rank(*read(*hand_case())[:2], np.array([0, 1, 1, 2]))
    assert scores.tolist() == [0.9, 0.4, -np.inf]
    assert lesion.tolist() == [True, True, False] and unsure == 0


def test_a_crowd_alone_is_no_answer():
    got = levels([found(0.9), found(0.8), found(0.1)], [CROWD, LESION, FREE])
    assert (got["with_lesion"], got["without_lesion"], got["unsure"]) == (1, 1, 1)
    assert got["auc"] == got["ap"] == 1
    # With a lesion elsewhere in the patient he has one.
    got = levels([found()] * 2, [CROWD, LESION], of_patients("a", "a"), "patient")
    assert (got["with_lesion"], got["without_lesion"], got["unsure"]) == (1, 0, 0)


def test_all_tied_is_a_coin():
    got = levels([found(0.5)] * 4, [LESION, FREE, FREE, FREE])
    assert (got["auc"], got["ap"]) == (0.5, 0.25)
    got = levels([found()] * 4, [LESION, FREE, FREE, FREE])
    assert (got["auc"], got["ap"]) == (0.5, 0.25)


def test_what_is_not_defined_is_none():
    got = levels([found(0.5)], [LESION], score_thresholds=0.5)
    assert (got["auc"], got["ap"]) == (None, 1)
    assert got["at"] == [{"score": 0.5, "sensitivity": 1.0, "specificity": None}]
    got = levels([found(0.5)], [FREE], score_thresholds=0.5)
    assert (got["auc"], got["ap"]) == (None, None)
    assert got["at"] == [{"score": 0.5, "sensitivity": None, "specificity": 0.0}]
    for level in ("slice", "patient"):
        got = levels([], [], level=level)
        assert got["auc"] is got["ap"] is None and got["at"] == []
        assert got["with_lesion"] == got["without_lesion"] == got["unsure"] == 0


def test_errors():
    with pytest.raises(ValueError, match="want numbers; got nan"):
        levels(*hand_case(), score_thresholds=(0.5, np.nan))
    with pytest.raises(ValueError, match="4 images; got 1: image 1"):
        levels(*hand_case(), of_patients("a"), "patient")
    with pytest.raises(ValueError, match="1 images; got 2: image 1"):
        levels([found()], [FREE], of_patients("a", "b"), "patient")

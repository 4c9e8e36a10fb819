"""FROC against a slow recount at every score, and by hand."""

import json

import numpy as np
import pytest

from jaxdet.metrics import facts
from jaxdet.metrics.froc import RATES, as_json, check_words, froc

TWO = np.array([[0, 0, 10, 10], [100, 0, 110, 10.0]])
FAR = np.array([[500, 500, 510, 510.0]])
NONE = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
FREE = (np.zeros((0, 4)), np.zeros(0, int))


def found(boxes, scores):
    return np.reshape(boxes, (-1, 4)), np.array(scores, float), np.zeros(len(scores), int)


def lesions(boxes):
    return np.reshape(boxes, (-1, 4)), np.zeros(len(boxes), int)


def of_patients(names):
    return facts.unknown([0] * len(names))._replace(patients=tuple(names))


def case(seed):
    """Ties of scores and overlaps, crowds, two classes, free slices, patients of several slices."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(int(rng.integers(3, 9))):
        m = int(rng.integers(1, 4)) * int(rng.random() < 0.6)
        corner = rng.integers(0, 8, (m, 2)) * 5.0
        boxes, labels = np.hstack([corner, corner + 20]), rng.integers(0, 2, m)
        truths.append((boxes, labels, rng.random(m) < 0.15))
        guess = rng.integers(0, 8, (int(rng.integers(0, 5)), 2)) * 5.0
        guess = np.vstack([np.hstack([guess, guess + 20]), boxes, boxes + np.array([0, 5, 0, 5])])
        n = len(guess)
        scores = rng.integers(1, 9, n) / 8 if seed % 2 else rng.random(n)
        detections.append((guess, scores, rng.integers(0, 2, n)))
    return detections, truths, tuple(f"p{i}" for i in rng.integers(0, 3, len(truths)))


def iou(a, b, crowd):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared, area = max(w, 0) * max(h, 0), (a[2] - a[0]) * (a[3] - a[1])
    return shared / (area if crowd else area + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def recount(detections, truths, patients, score, per, of, duplicates):
    """False boxes a unit, and the share of targets hit, of the boxes that score so much or more."""
    false, hits, targets = 0, set(), set()
    for i, ((boxes, scores, labels), (true, named, crowd)) in enumerate(
        zip(detections, truths, strict=True)
    ):
        names = {
            g: {"lesion": (i, g), "slice": i, "patient": patients[i]}[of] for g in range(len(true))
        }
        targets |= {name for g, name in names.items() if not crowd[g]}
        taken = set()
        for d in sorted(range(len(scores)), key=lambda d: -scores[d]):
            if scores[d] < score:
                continue
            near = [(iou(boxes[d], true[g], crowd[g]), g) for g in names if labels[d] == named[g]]
            near = [(shared, g) for shared, g in near if shared >= 0.5]
            free = [pair for pair in near if pair[1] not in taken and not crowd[pair[1]]]
            if free:
                taken.add(max(free)[1])
                hits.add(names[max(free)[1]])
            elif not any(crowd[g] for _, g in near):
                false += not (near and duplicates == "ignored")
    units = len(truths) if per == "image" else len(set(patients))
    return false / units, len(hits) / len(targets)


OPTIONS = [
    ("image", "lesion", "false"),
    ("image", "slice", "ignored"),
    ("patient", "patient", "false"),
    ("patient", "lesion", "ignored"),
]


@pytest.mark.parametrize(("per", "of", "duplicates"), OPTIONS)
@pytest.mark.parametrize("seed", range(20))
def test_every_point_equals_a_recount(seed, per, of, duplicates):
    detections, truths, patients = case(seed)
    options = dict(per=per, of=of, duplicates=duplicates)
    got = froc(detections, truths, of_patients(patients), **options)
    if not got.targets:
        raise RuntimeError("this seed holds no truth")
    points = {s: recount(detections, truths, patients, s, **options) for s in got.curve.scores}
    np.testing.assert_allclose(list(zip(*got.curve[:2], strict=True)), list(points.values()))
    # A score that is not in the curve belongs to boxes that count for nothing.
    known = [(np.inf, 0.0, 0.0), *((s, *point) for s, point in points.items())]
    for score in np.unique(np.concatenate([d[1] for d in detections])):
        _, *want = min(k for k in known if k[0] >= score)
        assert recount(detections, truths, patients, score, **options) == pytest.approx(want)
    for r, rate in enumerate(RATES):
        best = max((sensitivity for _, false, sensitivity in known if false <= rate))
        assert got.attained[r] == best
    corners = sorted((false, sensitivity) for _, false, sensitivity in known)
    want = np.interp(RATES, *np.transpose(corners))
    np.testing.assert_allclose(got.sensitivity, want, atol=1e-12)
    assert got.cpm == pytest.approx(want.mean())


def test_the_random_cases_hold_what_they_are_for():
    cases = [case(seed) for seed in range(20)]
    assert any(crowd.any() for _, truths, _ in cases for *_, crowd in truths)
    assert any(len(boxes) == 0 for _, truths, _ in cases for boxes, *_ in truths)
    strict = [froc(d, t, duplicates="false").cpm for d, t, _ in cases]
    mild = [froc(d, t, duplicates="ignored").cpm for d, t, _ in cases]
    assert np.all(np.greater_equal(mild, strict)) and np.greater(mild, strict).any()


@pytest.mark.parametrize("seed", range(6))
def test_more_false_boxes_never_find_less(seed):
    detections, truths, patients = case(seed)
    for protocol in ("coco", "voc", "yolo", "l0sg", "fixed"):
        got = froc(
            detections, truths, of_patients(patients), protocol=protocol, rates=np.arange(9) / 3
        )
        for rising in (*got.curve[:2], got.sensitivity, got.attained, -got.curve.scores):
            assert (np.diff(rising) >= 0).all()
        assert (got.attained <= got.sensitivity + 1e-12).all() and got.sensitivity.max() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_a_patient_of_one_image_is_an_image(seed):
    detections, truths, _ = case(seed)
    names = of_patients([f"p{i}" for i in range(len(truths))])
    want = froc(detections, truths)
    for known in (None, names, of_patients([""] * len(truths))):
        got = froc(detections, truths, known, per="patient")
        assert got.units == want.units
        np.testing.assert_array_equal(got.sensitivity, want.sensitivity)
        a = froc(detections, truths, known, of="patient")
        np.testing.assert_array_equal(a.sensitivity, froc(detections, truths, of="slice")[1])


def hand_case():
    """Two lesions in one slice and three slices without: right 0.9, false 0.8, right 0.7."""
    detections = [found(TWO, [0.9, 0.7]), NONE, found(FAR, [0.8]), NONE]
    return detections, [lesions(TWO), FREE, FREE, FREE]


def test_two_lesions_and_three_free_slices_by_hand():
    got = froc(*hand_case(), rates=(0, 1 / 8, 1 / 4, 1 / 2))
    # Points (0, 1/2) (1/4, 1/2) (1/4, 1): half way to the second nothing is gained.
    assert got.curve.false_positives.tolist() == [0, 0.25, 0.25]
    assert got.curve.sensitivity.tolist() == [0.5, 0.5, 1]
    assert got.curve.scores.tolist() == [0.9, 0.8, 0.7]
    assert got.sensitivity.tolist() == got.attained.tolist() == [0.5, 0.5, 1, 1]
    assert got.scores.tolist() == [0.9, 0.9, 0.7, 0.7]
    assert got.cpm == 0.75
    assert (got.units, got.targets, got.lesions) == (4, 2, 2)


def test_one_hit_is_enough_for_a_slice():
    got = froc(*hand_case(), of="slice")
    assert (got.targets, got.lesions, got.cpm) == (1, 2, 1.0)
    patients = of_patients(["a", "a", "b", "b"])
    got = froc(*hand_case(), patients, per="patient", of="patient", rates=(0.5,))
    assert (got.units, got.targets) == (2, 1)
    assert got.curve.false_positives.tolist() == [0, 0.5, 0.5]  # 1 of 2 patients, not of 4 slices


def test_boxes_of_equal_score_come_together():
    # One right and one false box at 0.9: from (0, 0) straight to (1, 1/2); no score keeps less.
    got = froc([found(np.vstack([TWO[:1], FAR]), [0.9, 0.9])], [lesions(TWO)], rates=(0, 0.5, 1, 9))
    assert len(got.curve.scores) == 1
    assert got.sensitivity.tolist() == [0, 0.25, 0.5, 0.5]
    assert got.attained.tolist() == [0, 0, 0.5, 0.5]
    np.testing.assert_array_equal(got.scores, [np.nan, np.nan, 0.9, 0.9])


def test_duplicates():
    # Twice the first lesion, then the second: the duplicate costs one false box or nothing.
    detections = [found(TWO[[0, 0, 1]], [0.9, 0.8, 0.7])]
    got = froc(detections, [lesions(TWO)], rates=(0,))
    assert got.attained.tolist() == [0.5]
    got = froc(detections, [lesions(TWO)], rates=(0,), duplicates="ignored")
    assert got.attained.tolist() == [1] and got.scores.tolist() == [0.7]
    assert got.curve.scores.tolist() == [0.9, 0.7]  # the duplicate makes no point
    # Of another class it is no duplicate: it found nothing.
    boxes, scores, _ = detections[0]
    other = [(boxes, scores, np.array([0, 1, 0]))]
    assert froc(other, [lesions(TWO)], rates=(0,), duplicates="ignored").attained.tolist() == [0.5]


@pytest.mark.parametrize(("protocol", "want"), [("coco", 0), ("voc", 0), ("yolo", 0), ("l0sg", 1)])
def test_a_duplicate_is_what_the_protocol_would_call_a_hit(protocol, want):
    # The second box covers half of the lesion: IoU 0.5, which l0sg wants to be exceeded.
    half = np.array([[0, 0, 10, 5.0]])
    got = froc(
        [found(np.vstack([TWO[:1], half]), [0.9, 0.8])],
        [lesions(TWO[:1])],
        protocol=protocol,
        duplicates="ignored",
    )
    assert got.curve.false_positives[-1] == want and got.cpm == 1


def test_crowds_and_what_finds_them_do_not_count():
    truth = [(TWO, np.zeros(2, int), np.array([True, False]))]
    got = froc([found(TWO[[0, 0, 1]], [0.9, 0.8, 0.7])], truth, rates=(0,))
    assert (got.targets, got.lesions, got.cpm) == (1, 1, 1.0)
    assert got.curve.scores.tolist() == [0.7]
    assert froc([NONE], [(TWO[:1], np.zeros(1, int), np.array([True]))], of="slice").targets == 0


def test_free_slices_count_under_l0sg_too():
    # The protocol itself leaves false boxes on them out; a rate over all images must not.
    for protocol in ("l0sg", "fixed"):
        got = froc(*hand_case(), protocol=protocol, rates=(0.25,))
        assert got.curve.false_positives.tolist() == [0, 0.25, 0.25]


def test_no_truth():
    got = froc([found(FAR, [0.9]), NONE], [FREE, FREE])
    assert np.isnan([*got.sensitivity, *got.attained, got.cpm, *got.curve.sensitivity]).all()
    assert got.curve.false_positives.tolist() == [0.5]
    np.testing.assert_array_equal(got.scores, [np.nan] * 2 + [0.9] * 5)
    plain = as_json(got, curve=True)
    assert plain["cpm"] is None and plain["sensitivity"] == [None] * 7
    assert plain["scores"] == [None, None] + [0.9] * 5
    assert plain["curve"] == {"false_positives": [0.5], "sensitivity": [None], "scores": [0.9]}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


@pytest.mark.parametrize("per", ["image", "patient"])
@pytest.mark.parametrize("of", ["lesion", "slice", "patient"])
class TestEmpty:
    def test_no_detections(self, per, of):
        got = froc([NONE, NONE], [lesions(TWO), FREE], per=per, of=of)
        assert (got.sensitivity == 0).all() and (got.attained == 0).all() and got.cpm == 0
        assert np.isnan(got.scores).all() and len(got.curve.scores) == 0

    def test_no_image(self, per, of):
        got = froc([], [], per=per, of=of)
        assert (got.units, got.targets, got.lesions) == (0, 0, 0) and np.isnan(got.cpm)


def test_json_by_hand():
    plain = as_json(froc(*hand_case(), rates=(0, 0.25)))
    want = {
        "rates": [0.0, 0.25],
        "sensitivity": [0.5, 1.0],
        "attained": [0.5, 1.0],
        "scores": [0.9, 0.7],
        "cpm": 0.75,
        "per": "image",
        "units": 4,
        "of": "lesion",
        "targets": 2,
        "lesions": 2,
    }
    assert plain == json.loads(json.dumps(plain, allow_nan=False)) == want


class TestErrors:
    def test_rates(self):
        for bad in ((), (-1.0,), (0.5, np.nan), np.ones((1, 1))):
            with pytest.raises(ValueError, match="numbers from 0"):
                froc(*hand_case(), rates=bad)

    def test_words(self):
        with pytest.raises(ValueError, match="of wants one of lesion, slice, patient; got 'box'"):
            check_words(per="image", of="box")

    def test_facts_of_other_images(self):
        with pytest.raises(ValueError, match="4 images; got 2: image 2"):
            froc(*hand_case(), of_patients(["a", "b"]))

    def test_threshold_and_scores(self):
        with pytest.raises(ValueError, match="above 0 and up to 1"):
            froc(*hand_case(), threshold=0.0)
        with pytest.raises(ValueError, match=r"image 0 .* a score that is NaN"):
            froc([found(FAR, [np.nan])], [FREE])


def test_rates_that_are_not_finite():
    with pytest.raises(ValueError, match="finite numbers from 0"):
        froc([], [], rates=[1, np.inf])

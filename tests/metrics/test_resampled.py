"""Weighted average precision against average_precision of the list with its images repeated."""

import numpy as np
import pytest

from jaxdet.metrics import average_precision
from jaxdet.metrics.average_precision import judge, prepare
from jaxdet.metrics.protocols import PROTOCOLS
from jaxdet.metrics.resampled import average_precision_resampled

THRESHOLDS = np.array([0.3, 0.5, 0.75])


def case(seed, images=8):
    """Few positions and scores: detections of one image tie, right ones with false ones."""
    rng = np.random.default_rng(seed)
    classes, detections, truths = int(rng.integers(1, 4)), [], []
    for _ in range(images):
        m, n = rng.integers(0, 4), rng.integers(0, 9) * (rng.random() < 0.8)
        corner = rng.integers(0, 4, (m, 2)) * 30.0
        boxes, labels = np.concatenate([corner, corner + 25], 1), rng.integers(0, classes, m)
        guess, named = rng.integers(0, 4, (n, 2)) * 30.0, rng.integers(0, classes, n)
        guess = np.concatenate([guess, guess + 25], 1) + rng.integers(-1, 2, (n, 4)) * 5.0
        near = rng.integers(0, m, n // 2) if m else np.zeros(0, int)
        guess[: len(near)], named[: len(near)] = boxes[near], labels[near]
        scores = rng.integers(1, 7, n) / 6 if seed % 3 else rng.random(n)
        truths.append((boxes, labels, rng.random(m) < 0.2))
        detections.append((guess, scores, named))
    patient = rng.integers(0, 4, images)
    weights = rng.multinomial(4, np.full(4, 0.25), 6)
    return detections, truths, patient, weights


def verdict_of(detections, truths, protocol, overlap="iou", skip=False):
    rules = PROTOCOLS[protocol]
    cases = prepare(detections, truths, rules, overlap, skip)
    return judge(cases, THRESHOLDS, rules), rules


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_repeated_list(protocol, seed):
    detections, truths, patient, weights = case(seed)
    skip = protocol == "l0sg" and seed % 2 == 1
    overlap = "iobb" if seed % 4 == 3 else "iou"
    verdict, rules = verdict_of(detections, truths, protocol, overlap, skip)
    got = average_precision_resampled(verdict, rules, patient, weights)
    for row, weight in zip(got, weights, strict=True):
        picked = np.repeat(np.arange(len(patient)), weight[patient])
        wanted = average_precision(
            [detections[i] for i in picked],
            [truths[i] for i in picked],
            overlap,
            THRESHOLDS,
            protocol,
            skip,
        )
        np.testing.assert_allclose(row, wanted, rtol=0, atol=1e-14)


def test_copies_of_a_tie_take_turns():
    # One image, a right and a false detection of the same score. Twice: right, false, right, false.
    box, far = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
    detections = [(np.array([box, far]), np.array([0.5, 0.5]), np.array([0, 0]))]
    truths = [(np.array([box]), np.array([0]))]
    verdict, rules = verdict_of(detections, truths, "voc")
    got = average_precision_resampled(verdict, rules, np.array([0]), np.array([[1], [2], [3]]))
    # Precision 1 up to recall 1/2, then 2/3; three copies: 1, 2/3, 3/5 at thirds.
    np.testing.assert_allclose(got[:, 0], [1, 0.5 + 0.5 * 2 / 3, (1 + 2 / 3 + 3 / 5) / 3])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ones_give_the_value_itself_and_no_truth_gives_nan(protocol):
    detections, truths, patient, _ = case(5)
    truths[0] = (np.zeros((0, 4)), np.zeros(0, int))
    patient = np.where(np.arange(len(patient)) == 0, 4, patient)
    verdict, rules = verdict_of(detections, truths, protocol)
    weights = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 3], [0, 0, 0, 0, 0]])
    got = average_precision_resampled(verdict, rules, patient, weights)
    wanted = average_precision(detections, truths, "iou", THRESHOLDS, protocol)
    np.testing.assert_allclose(got[0], wanted, rtol=0, atol=1e-14)
    assert np.isnan(got[1:]).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_chunks_are_one(monkeypatch, protocol):
    detections, truths, patient, weights = case(4)
    verdict, rules = verdict_of(detections, truths, protocol)
    whole = average_precision_resampled(verdict, rules, patient, weights)
    monkeypatch.setattr("jaxdet.metrics.resampled.CHUNK", 60)
    np.testing.assert_array_equal(
        average_precision_resampled(verdict, rules, patient, weights), whole
    )


def test_no_detections_no_images_no_resamples():
    truths = [(np.array([[0.0, 0, 10, 10]]), np.array([0]))]
    none = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))]
    verdict, rules = verdict_of(none, truths, "coco")
    got = average_precision_resampled(verdict, rules, np.array([0]), np.array([[1], [0]]))
    np.testing.assert_array_equal(got, [[0, 0, 0], [np.nan] * 3])
    nobody = np.zeros((0, 1), int)
    assert average_precision_resampled(verdict, rules, np.array([0]), nobody).shape == (0, 3)
    verdict, rules = verdict_of([], [], "coco")
    got = average_precision_resampled(verdict, rules, np.zeros(0, int), np.zeros((2, 0), int))
    assert np.isnan(got).all() and got.shape == (2, 3)


@pytest.mark.parametrize(
    ("patient", "weights", "message"),
    [
        ([0, 1], [[1, 1]], "one patient an image is wanted; got 2 for 8 images"),
        ([0] * 7 + [2], [[1, 1]], "numbers from 0 to 1, .* got 0 to 2"),
        ([0] * 8, [[-1, 1]], "got a weight of -1"),
    ],
)
def test_what_does_not_fit(patient, weights, message):
    detections, truths, _, _ = case(1)
    verdict, rules = verdict_of(detections, truths, "coco")
    with pytest.raises(ValueError, match=message):
        average_precision_resampled(verdict, rules, np.array(patient), np.array(weights))

"""Both assignments against slow, literal readings of their rules in NumPy; the goldens of SSD's."""

import pathlib

import jax
import numpy as np
import pytest

from jaxdet.ops import anchors, assign, deltas, overlap, priors

EXTRACT = pathlib.Path(__file__).parents[1] / "golden/gssd_boxes.npz"  # its provenance is inside

assigned = jax.jit(assign.task_aligned, static_argnames="smallest_px")
iou = jax.jit(overlap.iou)
matched = jax.jit(assign.max_iou, static_argnames="threshold")


def literal(boxes, probs, centres, truths, labels, k=10):
    """The rule as the facts spell it, one truth and one anchor at a time."""
    count, total = len(truths), len(centres)
    inside = np.zeros((count, total), bool)
    close, align = np.zeros((count, total)), np.zeros((count, total))
    pairs = np.asarray(jax.jit(overlap.ciou)(truths[:, None], boxes[None]))
    for g in range(count):
        for a in range(total):
            x, y = centres[a]
            x0, y0, x1, y1 = truths[g]
            inside[g, a] = labels[g] >= 0 and min(x - x0, y - y0, x1 - x, y1 - y) > 1e-9
            if inside[g, a]:
                close[g, a] = max(pairs[g, a], 0)
                align[g, a] = probs[a, labels[g]] ** 0.5 * close[g, a] ** 6
    positive = np.zeros((count, total), bool)
    for g in range(count):
        if labels[g] >= 0:
            best = np.argsort(-align[g], kind="stable")[:k]
            positive[g, best] = inside[g, best]
    for a in range(total):
        if positive[:, a].sum() > 1:
            positive[:, a] = False
            positive[np.argmax(close[:, a]), a] = True
    score = np.zeros(total)
    for g in range(count):
        if positive[g].any():
            align_g = align[g] * positive[g]
            best_close = (close[g] * positive[g]).max()
            score = np.maximum(score, align_g * best_close / (align_g.max() + 1e-9))
    return positive.any(0), positive.argmax(0), score


def scene(seed, count, side=64):
    rng = np.random.default_rng(seed)
    centres, _ = anchors.grid([(8, 8), (4, 4), (2, 2)], (8, 16, 32))
    low = rng.uniform(0, side - 10, (count, 2))
    truths = np.concatenate([low, low + rng.uniform(2, 40, (count, 2))], 1).astype(np.float32)
    labels = rng.integers(0, 3, count).astype(np.int32)
    jitter = rng.normal(0, 4, (len(centres), 4))
    boxes = np.concatenate([centres - 10, centres + 10], 1) + jitter
    probs = rng.uniform(0, 1, (len(centres), 3))
    return boxes.astype(np.float32), probs.astype(np.float32), centres, truths, labels


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_literal_rule(seed):
    case = scene(seed, count=seed + 1)
    wanted = literal(*case)
    found = assigned(*case)
    np.testing.assert_array_equal(found.foreground, wanted[0])
    np.testing.assert_array_equal(np.where(found.foreground, found.truth, 0), wanted[1])
    np.testing.assert_allclose(found.score, wanted[2], atol=1e-6)


def test_padding_changes_nothing():
    boxes, probs, centres, truths, labels = scene(3, count=4)
    more = np.concatenate([truths, np.zeros((5, 4), np.float32)])
    padded = np.concatenate([labels, np.full(5, -1, np.int32)])
    plain = assigned(boxes, probs, centres, truths, labels)
    other = assigned(boxes, probs, centres, more, padded)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_truth_no_foreground():
    boxes, probs, centres, _, _ = scene(0, count=1)
    truths, labels = np.zeros((3, 4), np.float32), np.full(3, -1, np.int32)
    found = assigned(boxes, probs, centres, truths, labels)
    assert not found.foreground.any()
    assert not found.score.any()


def test_the_newer_rule_reaches_tiny_truths():
    boxes, probs, centres, _, _ = scene(0, count=1)
    tiny = np.array([[9.0, 9.0, 11.0, 11.0]], np.float32)  # between all anchor centres
    label = np.zeros(1, np.int32)
    classic = assigned(boxes, probs, centres, tiny, label)
    newer = assigned(boxes, probs, centres, tiny, label, smallest_px=16.0)
    assert not classic.foreground.any()
    assert newer.foreground.any()


def ssd300():
    layout = priors.SSD[300]
    return priors.ssd([(level.side, level.side) for level in layout.levels], layout)


def literal_match(boxes, truths, labels, threshold=0.5):
    """SSD's matching one pair at a time: best truth a prior, then every truth forces its best."""
    truth, label = np.zeros(len(boxes), int), np.zeros(len(boxes), int)
    real = [m for m in range(len(truths)) if labels[m] >= 0]
    pairs = np.asarray(iou(boxes, truths))
    best = np.full(len(boxes), -1.0)
    for m in real:
        for a in range(len(boxes)):
            if pairs[a, m] > best[a]:
                best[a], truth[a] = pairs[a, m], m
    for m in real:
        a = max(range(len(boxes)), key=lambda a: (pairs[a, m], -a))
        best[a], truth[a] = 2.0, m
    for a in range(len(boxes)):
        label[a] = labels[truth[a]] + 1 if best[a] >= threshold else 0
    return truth, label


@pytest.mark.parametrize("seed", range(8))
def test_match_equals_the_literal_rule(seed):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 10, (60, 2))  # whole numbers: many equal overlaps
    boxes = np.concatenate([low, low + rng.integers(1, 8, (60, 2))], 1).astype(np.float32)
    low = rng.integers(0, 10, (8, 2))
    truths = np.concatenate([low, low + rng.integers(0, 8, (8, 2))], 1).astype(np.float32)
    labels = rng.integers(-1, 3, 8).astype(np.int32)  # padding between the truths
    labels[seed + 1 :] = -1
    found = matched(boxes, truths, labels)
    truth, label = literal_match(boxes, truths, labels)
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_array_equal(found.truth, truth)


@pytest.mark.parametrize("image", [0, 1])
def test_match_equals_the_reference_on_all_priors(shared, image):
    golden = np.load(shared / "golden/gssd_golden_misc.npz")
    cells, truths = ssd300(), np.load(EXTRACT)[f"truths{image}"]
    found = matched(deltas.corners(cells), truths[:, :4], truths[:, 4].astype(np.int32))
    np.testing.assert_array_equal(found.label, golden[f"match/conf{image}"])
    said = deltas.encode(truths[:, :4][found.truth], cells)
    np.testing.assert_allclose(said, golden[f"match/loc{image}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("image", [0, 1])
def test_match_equals_the_reference(image):
    golden = np.load(EXTRACT)
    cells, truths = ssd300(), golden[f"truths{image}"]
    found = matched(deltas.corners(cells), truths[:, :4], truths[:, 4].astype(np.int32))
    positive = np.flatnonzero(found.label)
    np.testing.assert_array_equal(positive, golden[f"match/prior{image}"])
    said = deltas.encode(truths[:, :4][found.truth[positive]], cells[positive])
    np.testing.assert_allclose(said, golden[f"match/loc{image}"], rtol=1e-5, atol=1e-6)


def test_match_forces_a_prior_for_a_box_below_a_pixel():
    tiny = np.array([[0.3, 0.3, 0.3005, 0.3005]], np.float32)
    found = matched(deltas.corners(ssd300()), tiny, np.zeros(1, np.int32))
    assert (found.label > 0).sum() == 1 and found.label.max() == 1


def test_match_gives_a_contested_prior_to_the_last_truth():
    boxes = np.array([[0, 0, 4, 4], [20, 20, 24, 24]], np.float32)
    truths = np.array([[0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 1, 1]], np.float32)
    found = matched(boxes, truths, np.array([0, 1, 2], np.int32))
    assert found.truth.tolist() == [2, 0] and found.label.tolist() == [3, 0]


def test_match_threshold_is_included():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 1]], np.float32)
    truth = np.array([[0, 0, 4, 4]], np.float32)
    found = matched(boxes, truth, np.zeros(1, np.int32))
    assert found.label.tolist() == [1, 1, 0]  # IoU 1, 0.5, 0.25
    found = matched(boxes, truth, np.zeros(1, np.int32), threshold=0.51)
    assert found.label.tolist() == [1, 0, 0]


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_match_of_nothing_is_background(rows):
    none, labels = np.zeros((rows, 4), np.float32), np.full(rows, -1, np.int32)
    found = matched(deltas.corners(ssd300()), none, labels)
    assert found.label.shape == found.truth.shape == (8732,)
    assert not found.label.any() and not found.truth.any()


def test_match_ignores_padding():
    boxes, truths = deltas.corners(ssd300()), np.load(EXTRACT)["truths1"]
    labels = truths[:, 4].astype(np.int32)
    plain = matched(boxes, truths[:, :4], labels)
    more = np.concatenate([truths[:, :4], np.ones((3, 4), np.float32) * [0, 0, 1, 1]])
    padded = np.concatenate([labels, np.full(3, -1, np.int32)])
    other = matched(boxes, more.astype(np.float32), padded)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a, b)

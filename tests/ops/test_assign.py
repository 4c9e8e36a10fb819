"""Task-aligned assignment against a slow, literal reading of the rule in NumPy."""

import jax
import numpy as np
import pytest

from jaxdet.ops import anchors, assign, overlap

assigned = jax.jit(assign.task_aligned, static_argnames="smallest_px")


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

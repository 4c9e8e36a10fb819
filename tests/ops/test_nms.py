"""Suppression against a plain Python greedy loop."""

import jax
import numpy as np
import pytest

from jaxdet.ops import nms, overlap


def plain_greedy(boxes, scores, labels, threshold, limit, per_class):
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > 0]
    iou, keep = np.asarray(jax.jit(overlap.iou)(boxes, boxes)), []
    for i in order:
        same = [k for k in keep if not per_class or labels[k] == labels[i]]
        if all(iou[i, k] <= threshold for k in same):
            keep.append(i)
    return keep[:limit]


def crowd(rng, n, classes=3):
    low = rng.uniform(0, 60, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (n, 2))], 1).astype(np.float32)
    scores = rng.choice(np.linspace(0, 1, 21), n).astype(np.float32)  # many ties and zeros
    return boxes, scores, rng.integers(0, classes, n).astype(np.int32)


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("n", [1, 2, 7, 60, 300])
def test_equals_a_plain_loop(n, per_class):
    boxes, scores, labels = crowd(np.random.default_rng(n), n)
    wanted = plain_greedy(boxes, scores, labels, 0.5, 20, per_class)
    found = jax.jit(
        lambda *x: nms.greedy(*x, iou_threshold=0.5, max_detections=20, per_class=per_class)
    )(boxes, scores, labels)
    count = len(wanted)
    np.testing.assert_array_equal(found.boxes_xyxy[:count], boxes[wanted])
    np.testing.assert_array_equal(found.scores[:count], scores[wanted])
    np.testing.assert_array_equal(found.labels[:count], labels[wanted])
    assert (found.labels[count:] == -1).all()
    assert not found.scores[count:].any() and not found.boxes_xyxy[count:].any()


def test_threshold_is_strict_and_empty_boxes_end():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [3, 3, 3, 3], [3, 3, 3, 3]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    found = nms.greedy(boxes, scores, np.zeros(4, np.int32), iou_threshold=0.5, max_detections=10)
    # IoU of the first two is exactly 0.5: both stay. Boxes without area overlap nothing.
    assert (found.labels >= 0).sum() == 4


def test_nothing_above_zero_gives_padding():
    found = nms.greedy(
        np.zeros((5, 4), np.float32),
        np.zeros(5, np.float32),
        np.zeros(5, np.int32),
        iou_threshold=0.5,
        max_detections=3,
    )
    assert found.labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("multi_label", [True, False])
def test_candidates_are_the_best_pairs(multi_label):
    probs = np.array([[0.1, 0.9], [0.8, 0.3], [0.5, 0.5]], np.float32)
    scores, anchors, labels = nms.candidates(probs, limit=4, multi_label=multi_label)
    found = [
        (round(float(s), 2), int(a), int(k))
        for s, a, k in zip(scores, anchors, labels, strict=True)
    ]
    both = [(0.9, 0, 1), (0.8, 1, 0), (0.5, 2, 0), (0.5, 2, 1)]
    assert found == (both if multi_label else both[:3])

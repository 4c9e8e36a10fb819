"""The official GSSD++ evaluator: its golden answers, its quirks, and what "fixed" does instead."""

import numpy as np
import pytest

from jaxdet.metrics import average_precision, summarise

# Inputs and answers of ap/* in the goldens of L0SG/grouped-ssd-pytorch 178b236 (recipe.py):
# detections are score, x0, y0, x1, y1 on three images of 512 px.
TRUTHS = [
    [[10, 10, 60, 60]],
    [[100, 100, 200, 180], [300, 300, 340, 350]],
    [[5, 5, 25, 30]],
]
DETECTIONS = [
    [[0.9, 12, 8, 58, 66], [0.6, 15, 15, 50, 50], [0.15, 10, 10, 60, 60]],
    [[0.8, 110, 90, 210, 170], [0.7, 305, 305, 330, 340], [0.4, 400, 400, 450, 450]],
    [],
]
THRESHOLDS = (0.3, 0.5, 0.7)
GOLDEN = {
    ("iou", "l0sg"): [0.75, 0.5, 0.25],
    ("iobb", "l0sg"): [0.75, 0.75, 0.75],
    ("iou", "l0sg07"): np.array([8, 6, 3]) / 11,
    ("iobb", "l0sg07"): np.array([8, 8, 8]) / 11,
}


def of(detections):
    rows = [np.reshape(np.array(image, float), (-1, 5)) for image in detections]
    return [(row[:, 1:], row[:, 0], np.zeros(len(row), int)) for row in rows]


def true(truths):
    return [(np.array(boxes, float).reshape(-1, 4), np.zeros(len(boxes), int)) for boxes in truths]


@pytest.mark.parametrize(("overlap", "protocol"), GOLDEN)
def test_it_equals_the_official_evaluator(overlap, protocol):
    got = average_precision(of(DETECTIONS), true(TRUTHS), overlap, THRESHOLDS, protocol)
    np.testing.assert_allclose(got, GOLDEN[overlap, protocol], atol=1e-12)


@pytest.mark.parametrize(("overlap", "protocol"), GOLDEN)
def test_these_are_the_goldens(overlap, protocol, shared):
    with np.load(shared / "golden" / "gssd_golden_misc.npz") as golden:
        want = golden[f"ap/{overlap}_07{protocol == 'l0sg07'}"]
    np.testing.assert_allclose(GOLDEN[overlap, protocol], want, atol=1e-12)


def random_images(seed, images=40):
    """Slices of which some hold no detection and some no lesion."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(images):
        corner = rng.uniform(0, 300, (int(rng.integers(0, 4)), 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 90, corner.shape)], 1)
        near = np.repeat(boxes, 2, axis=0) + rng.normal(0, 6, (2 * len(boxes), 4))
        corner = rng.uniform(0, 300, (int(rng.integers(0, 3)), 2))
        near = np.concatenate([near, np.concatenate([corner, corner + 30], 1)])
        near = near[: 0 if rng.random() < 0.3 else None]
        truths.append((boxes, np.zeros(len(boxes), int)))
        detections.append((near, rng.random(len(near)), np.zeros(len(near), int)))
    return detections, truths


def official(detections, truths, threshold, over_box, skip):
    """The facts' section 5 in plain loops: the area, and how many truths it counted."""
    rows, boxes, count = [], {}, 0
    for i, ((det, scores, _), (true_boxes, _)) in enumerate(zip(detections, truths, strict=True)):
        if skip and len(scores) == 0:
            continue
        count += len(true_boxes)
        boxes[i] = true_boxes
        rows += [(s, i, b) for s, b in zip(scores, det, strict=True) if s > 0.2]
    rows.sort(key=lambda row: -row[0])
    taken, right, wrong, points = set(), 0, 0, []
    for _, i, a in rows:
        overlaps = []
        for b in boxes[i]:
            w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
            h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
            own = (a[2] - a[0]) * (a[3] - a[1])
            union = own + (b[2] - b[0]) * (b[3] - b[1]) - w * h
            overlaps.append(w * h / (own if over_box else union))
        if overlaps:
            best = int(np.argmax(overlaps))
            hit = overlaps[best] > threshold and (i, best) not in taken
            if hit:
                taken.add((i, best))
            right, wrong = right + hit, wrong + (not hit)
        points.append((right / count, right / max(right + wrong, 1e-16)))
    area, before = 0.0, 0.0
    for n, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[n:])
        before = recall
    return area, count


@pytest.mark.parametrize("overlap", ["iou", "iobb"])
@pytest.mark.parametrize("seed", range(6))
def test_it_equals_the_slow_official_rule(seed, overlap):
    detections, truths = random_images(seed)
    for skip in (False, True):
        want = [official(detections, truths, t, overlap == "iobb", skip)[0] for t in THRESHOLDS]
        got = average_precision(
            detections, truths, overlap, THRESHOLDS, "l0sg", skip_empty_images=skip
        )
        np.testing.assert_allclose(got, want, atol=1e-12)
        assert got.min() > 0 and got.max() < 1


@pytest.mark.parametrize("seed", range(6))
def test_the_skip_inflates_by_the_share_of_the_truths_it_leaves_out(seed):
    detections, truths = random_images(seed)
    empty = [len(d[0]) == 0 for d in detections]
    total = sum(len(t[0]) for t in truths)
    left_out = sum(len(t[0]) for t, e in zip(truths, empty, strict=True) if e)
    plain = average_precision(detections, truths, "iou", THRESHOLDS, "l0sg")
    skipped = average_precision(
        detections, truths, "iou", THRESHOLDS, "l0sg", skip_empty_images=True
    )
    assert left_out > 0
    np.testing.assert_allclose(skipped, plain * total / (total - left_out), rtol=1e-12)


def test_the_toy_of_the_facts():
    # Two slices, one lesion found, the other slice without any detection: 1.0 where it should be
    # 0.5 (facts, gssd_reference 8.1).
    detections, truths = of([[[0.9, 0, 0, 10, 10]], []]), true([[[0, 0, 10, 10]], [[0, 0, 9, 9]]])
    skip = average_precision(detections, truths, protocol="l0sg", skip_empty_images=True)
    assert skip == 1
    assert average_precision(detections, truths, protocol="l0sg") == 0.5
    assert average_precision(detections, truths, protocol="fixed") == 0.5


def test_a_dropped_detection_still_saves_its_slice_from_the_skip():
    # The code skips before it drops low scores.
    detections, truths = (
        of([[[0.9, 0, 0, 10, 10]], [[0.1, 0, 0, 5, 5]]]),
        true([[[0, 0, 10, 10]]] * 2),
    )
    assert average_precision(detections, truths, protocol="l0sg", skip_empty_images=True) == 0.5


def test_no_detection_at_all_is_zero_as_in_the_official_code():
    for skip in (False, True):
        got = average_precision(
            of([[], []]), true(TRUTHS[:2]), protocol="l0sg", skip_empty_images=skip
        )
        assert got == 0


def test_fixed_counts_false_boxes_on_slices_without_a_lesion():
    detections = of([[[0.9, 0, 0, 10, 10]], [[0.95, 0, 0, 10, 10]]])
    truths = true([[[0, 0, 10, 10]], []])
    assert average_precision(detections, truths, protocol="l0sg") == 1
    assert average_precision(detections, truths, protocol="fixed") == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_fixed_is_l0sg_where_every_slice_has_a_lesion(seed):
    pairs = [(d, t) for d, t in zip(*random_images(seed), strict=True) if len(t[0])]
    detections, truths = zip(*pairs, strict=True)
    a, b = (
        average_precision(detections, truths, "iobb", THRESHOLDS, name)
        for name in ("l0sg", "fixed")
    )
    np.testing.assert_array_equal(a, b)


def test_scores_up_to_a_fifth_are_dropped():
    boxes = [[0.2, 0, 0, 10, 10], [np.nextafter(0.2, 1), 20, 0, 30, 10]]
    truths = true([[[0, 0, 10, 10], [20, 0, 30, 10]]])
    assert average_precision(of([boxes]), truths, protocol="l0sg") == 0.5
    assert average_precision(of([boxes]), truths, protocol="voc") == 1


def test_the_summary_skips_too():
    detections, truths = random_images(0)
    plain = summarise(detections, truths, ["lesion"], "l0sg")
    skipped = summarise(detections, truths, ["lesion"], "l0sg", skip_empty_images=True)
    share = plain["truths"] / skipped["truths"]
    assert share > 1
    assert skipped["ap50"] == pytest.approx(plain["ap50"] * share, rel=1e-12)

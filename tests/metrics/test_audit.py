"""The audit: a drawn case for each kind, a plain loop, laws that counts obey, and bad input."""

import json

import numpy as np
import pytest

from jaxdet.metrics.audit import DETECTIONS, KINDS, TRUTHS, Error, audit, summed, to_json
from jaxdet.metrics.average_precision import judge, prepare
from jaxdet.metrics.protocols import PROTOCOLS

LESION = [0, 0, 100, 100]


def seen(boxes, truths, **more):
    """The audit of one image; scores fall in the order of the boxes."""
    boxes, truths = (np.reshape(np.array(b, float), (-1, 4)) for b in (boxes, truths))
    found = boxes, 1 - np.arange(len(boxes)) / 20, np.zeros(len(boxes), int)
    crowd = more.pop("crowd", [False] * len(truths))
    true = truths, np.zeros(len(truths), int), np.array(crowd, bool)
    return audit([found], [true], **{"score_threshold": 0.0, **more})


def told(counts):
    return {kind: n for kind, n in counts.items() if n}


def test_found():
    got = seen([LESION], [LESION])
    assert told(got.truths) == {"found": 1} and told(got.detections) == {"right": 1}
    assert got.errors == ()


def test_missed():
    got = seen([], [LESION])
    assert told(got.truths) == {"missed": 1} and told(got.detections) == {}
    assert got.errors == (Error("missed", 0, (), (0,), 0.0),)


def test_background():
    # 20 x 20 of 100 x 100 are shared: IoU 400 / 19600, less than 0.1.
    got = seen([[80, 80, 180, 180]], [LESION])
    assert told(got.truths) == {"missed": 1} and told(got.detections) == {"background": 1}
    missed, background = got.errors
    assert missed.kind == "missed" and missed.overlap == pytest.approx(400 / 19600)
    assert background == Error("background", 0, (0,), (), missed.overlap)


def test_mislocated():
    # IoU 0.3: the lower 30 rows.
    got = seen([[0, 70, 100, 100]], [LESION])
    assert told(got.truths) == told(got.detections) == {"mislocated": 1}
    assert got.errors == (Error("mislocated", 0, (0,), (0,), 0.3),)


@pytest.mark.parametrize(("rows", "kind"), [(10, "mislocated"), (9, "background"), (50, "right")])
def test_both_overlaps_are_enough_when_they_are_met_exactly(rows, kind):
    assert told(seen([[0, 0, 100, rows]], [LESION]).detections) == {kind: 1}


def test_duplicate():
    got = seen([[0, 0, 100, 90], LESION], [LESION])
    assert told(got.truths) == {"found": 1}
    assert told(got.detections) == {"right": 1, "duplicate": 1}
    assert got.errors == (Error("duplicate", 0, (1, 0), (0,), 1.0),)


def test_a_second_box_too_far_off_a_found_truth_is_mislocated():
    got = seen([LESION, [0, 70, 100, 100]], [LESION])
    assert told(got.truths) == {"found": 1}
    assert told(got.detections) == {"right": 1, "mislocated": 1}
    assert got.errors == (Error("mislocated", 0, (1,), (0,), 0.3),)


def test_merged_neighbours():
    # Two lesions of 100 x 100 with 10 px between, one box around both: IoU 100/210 with each.
    got = seen([[0, 0, 210, 100]], [LESION, [110, 0, 210, 100]])
    assert told(got.truths) == {"merged": 2} and told(got.detections) == {"merged": 1}
    assert got.errors == (Error("merged", 0, (0,), (0, 1), 1.0),)


def test_a_box_that_finds_one_neighbour_and_takes_in_the_other():
    # 160 px wide: IoU 100/160 with the first, and 60 % of the second are covered.
    got = seen([[0, 0, 160, 100]], [LESION, [100, 0, 200, 100]])
    assert told(got.truths) == {"found": 1, "merged": 1}
    assert told(got.detections) == {"right": 1}
    assert got.errors == (Error("merged", 0, (0,), (0, 1), 0.8),)
    less = seen([[0, 0, 140, 100]], [LESION, [100, 0, 200, 100]])  # 40 % of it: only missed
    assert told(less.truths) == {"found": 1, "missed": 1}


def test_a_neighbour_that_is_found_by_itself_is_not_merged():
    truths = [LESION, [110, 0, 210, 100]]
    got = seen([truths[1], [0, 0, 210, 100]], truths)
    assert told(got.truths) == {"found": 1, "merged": 1}
    assert told(got.detections) == {"right": 1, "merged": 1}
    assert got.errors == (Error("merged", 0, (1,), (0, 1), 1.0),)


def test_a_wide_box_over_far_lesions_does_not_merge_them():
    truths = [[400, 400, 420, 420], [430, 400, 450, 420]]
    got = seen([[0, 0, 500, 500]], truths)
    assert told(got.truths) == {"missed": 2} and told(got.detections) == {"background": 1}


def test_a_lesion_in_a_found_lesion():
    inner = [40, 40, 60, 60]
    alone = seen([LESION], [LESION, inner])
    assert told(alone.truths) == {"found": 1, "merged": 1}
    both = seen([LESION, inner], [LESION, inner])
    assert told(both.truths) == {"found": 2} and both.errors == ()


def test_split():
    # Two boxes of 100 x 30 side by side, IoU 0.3 each: joined they are 60 rows of 100.
    got = seen([[0, 0, 100, 30], [0, 30, 100, 60]], [LESION])
    assert told(got.truths) == {"split": 1} and told(got.detections) == {"piece": 2}
    assert got.errors == (Error("split", 0, (0, 1), (0,), 0.6),)


def test_twelve_small_pieces_are_a_split_too():
    # 25 x 100/3, 0.083 of the lesion each: alone every one would be background.
    boxes = [[x, y, x + 25, y + 100 / 3] for x in range(0, 100, 25) for y in (0, 100 / 3, 200 / 3)]
    got = seen(boxes, [LESION])
    assert told(got.truths) == {"split": 1} and told(got.detections) == {"piece": 12}


def test_two_boxes_at_one_place_are_no_pieces():
    got = seen([[0, 0, 100, 30], [0, 0, 100, 31]], [LESION])
    assert told(got.truths) == {"mislocated": 1} and told(got.detections) == {"mislocated": 2}
    assert [e.detections for e in got.errors] == [(0,), (1,)]


def test_two_dots_in_the_corners_are_no_pieces():
    got = seen([[0, 0, 10, 10], [90, 90, 100, 100]], [LESION])
    assert told(got.truths) == {"missed": 1} and told(got.detections) == {"background": 2}


def test_what_remains_of_a_found_lesion_is_no_piece():
    got = seen([[0, 0, 100, 55], [0, 60, 100, 100]], [LESION])
    assert told(got.truths) == {"found": 1}
    assert told(got.detections) == {"right": 1, "mislocated": 1}


def test_a_box_belongs_to_the_truth_that_nothing_explains_yet():
    # The second box overlaps the found lesion by 0.43 and the other one by 0.25.
    other = [100, 0, 200, 100]
    got = seen([LESION, [40, 0, 140, 100]], [LESION, other])
    assert told(got.truths) == {"found": 1, "mislocated": 1}
    assert got.errors == (Error("mislocated", 0, (1,), (1,), 0.25),)


def test_other_classes_and_images_are_strangers():
    box = np.array([LESION], float)
    found = [(box, [0.9], [1]), (box, [0.9], [0])]
    got = audit(found, [(box, [0]), (box[:0], [])], score_threshold=0.5)
    assert told(got.truths) == {"missed": 1} and told(got.detections) == {"background": 2}
    assert [(e.image, e.kind) for e in got.errors] == [
        (0, "missed"),
        (0, "background"),
        (1, "background"),
    ]


def test_crowds_are_never_missed_and_what_finds_them_is_ignored():
    got = seen([[0, 0, 50, 50]], [LESION], crowd=[True])
    assert told(got.truths) == {} and told(got.detections) == {"ignored": 1}
    assert got.errors == ()
    pair = [LESION, [100, 0, 200, 100]]  # one box over a lesion and a crowd merges nothing
    got = seen([[0, 0, 200, 100]], pair, crowd=[False, True])
    assert told(got.truths) == {"found": 1} and got.errors == ()
    assert told(seen([LESION], [LESION], crowd=[True], protocol="yolo").detections) == {
        "background": 1
    }


def test_no_truth_and_no_image():
    got = seen([LESION, LESION], [])
    assert told(got.truths) == {} and told(got.detections) == {"background": 2}
    empty = audit([], [], score_threshold=0.5)
    assert empty.images == 0 and told(empty.truths) == told(empty.detections) == {}


def test_boxes_without_area():
    got = seen([[5, 5, 5, 9], LESION], [[0, 0, 9, 0], LESION])
    assert told(got.truths) == {"found": 1, "missed": 1}
    assert told(got.detections) == {"right": 1, "background": 1}


def test_the_rows_are_those_that_were_given():
    boxes = np.array([[0, 0, 0, 0], [300, 0, 400, 100], LESION, [0, 0, 100, 40]], float)
    found = boxes, np.array([0.0, 0.3, 0.2, 0.9]), np.array([-1, 0, 0, 0])
    true = np.array([[0, 0, 0, 0], LESION], float), np.array([-1, 0])
    got = audit([found], [true], score_threshold=0.0)
    assert got.errors == (
        Error("mislocated", 0, (3,), (1,), 0.4),
        Error("background", 0, (1,), (), 0.0),
    )


def test_a_score_at_the_threshold_counts():
    one = np.array([LESION], np.float32)
    for score in (0.1, 0.3, 0.7):  # float32(0.7) is less than 0.7
        found = [(one, np.array([score], np.float32), [0])]
        got = audit(found, [(one, [0])], score_threshold=score)
        assert told(got.truths) == {"found": 1}
        above = float(np.nextafter(np.float32(score), np.float32(1)))
        got = audit(found, [(one, [0])], score_threshold=above)
        assert told(got.truths) == {"missed": 1} and told(got.detections) == {}


@pytest.mark.parametrize("score", [np.nan, -0.1, 1.1, np.inf])
def test_score_thresholds_that_mean_nothing(score):
    with pytest.raises(ValueError, match="score_threshold wants a probability"):
        seen([LESION], [LESION], score_threshold=score)


@pytest.mark.parametrize("threshold", [np.nan, 0.0, -0.5, 1.1])
def test_overlaps_that_mean_nothing(threshold):
    with pytest.raises(ValueError, match="thresholds want numbers above 0"):
        seen([LESION], [LESION], threshold=threshold)
    with pytest.raises(ValueError, match="least wants to be above 0 and up to"):
        seen([LESION], [LESION], least=threshold)


def test_scores_and_protocols_that_mean_nothing():
    with pytest.raises(ValueError, match="protocol wants one of coco"):
        seen([LESION], [LESION], protocol="classic")
    with pytest.raises(ValueError, match=r"image 0 .* a score that is NaN"):
        audit([([LESION], [np.nan], [0])], [([LESION], [0])], score_threshold=0.5)


def crowded(seed, images=6, crowds=0.2):
    """Truths on a grid that often touch: some found, cut, joined with another, or missed."""
    rng = np.random.default_rng(seed)
    found, true = [], []
    for _ in range(images):
        m = rng.integers(0, 6)
        corner, size = rng.integers(0, 14, (m, 2)) * 5.0, rng.integers(2, 7, (m, 2)) * 5.0
        truths, classes = np.hstack([corner, corner + size]), rng.integers(0, 2, m)
        boxes = [([80, 80, 90, 90], 0)]
        for box, label in zip(truths, classes, strict=True):
            boxes += [(made, label) for made in reported(rng, box, truths[rng.integers(m)])]
        xyxy = np.array([box for box, _ in boxes], float)
        scores = rng.integers(0, 5, len(boxes)) / 5 + 0.1
        found.append((xyxy, scores, np.array([label for _, label in boxes])))
        true.append((truths, classes, rng.random(m) < crowds))
    return found, true


def reported(rng, box, other):
    """Boxes that a detector may give for the lesion `box`."""
    x0, y0, x1, y1 = box
    third, half = y0 + (y1 - y0) / 3, y0 + 0.45 * (y1 - y0)
    around_both = [*np.minimum(box, other)[:2], *np.maximum(box, other)[2:]]
    x, y = rng.integers(-3, 4, 2) * 5
    return [
        [],
        [box],
        [box, [x0, y0, x1, y1 + 5]],
        [[x0, y0, x1, half], [x0, half, x1, y1 - 1]],
        [[x0, y0, x1, third], [x0, y1 + y0 - third, x1, y1 + 2]],
        [[x0, y0, x1, third], np.add(box, [-5, -5, 5, 5])],
        [around_both, other],
        [around_both],
        [[x0 + x, y0 + y, x1 + x + 5, y1 + y]],
    ][rng.integers(9)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(10))
def test_counts_add_up(seed, protocol):
    found, true = crowded(seed)
    got = audit(found, true, score_threshold=0.3, protocol=protocol)
    assert tuple(got.truths) == TRUTHS and tuple(got.detections) == DETECTIONS
    assert sum(got.truths.values()) == sum((~t[2]).sum() for t in true)
    rules, level = PROTOCOLS[protocol], np.array([0.5])
    kept = [tuple(column[f[1] >= 0.3] for column in f) for f in found]
    verdict = judge(prepare(kept, true, rules, "iou"), level, rules)
    assert sum(got.detections.values()) == len(verdict.found)
    assert got.detections["ignored"] == verdict.ignored.sum()
    right = ((verdict.found >= 0) & ~verdict.ignored).sum()
    assert got.truths["found"] == got.detections["right"] == right
    kinds = to_json(got)["errors"]
    assert kinds["missed"] == got.truths["missed"] and kinds["split"] == got.truths["split"]
    for kind in ("mislocated", "duplicate", "background"):
        assert kinds[kind] == got.detections[kind]
    assert kinds["merged"] >= got.detections["merged"]
    order = [(e.image, KINDS.index(e.kind)) for e in got.errors]
    assert order == sorted(order)


def iou(a, b):
    wide, tall = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    shared = wide * tall
    size = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / (sum(size) - shared), shared / size[0], shared / size[1]


def around(boxes):
    return [*np.min(boxes, axis=0)[:2], *np.max(boxes, axis=0)[2:]]


def one_by_one(boxes, truths, threshold, least):
    """The kinds of boxes (falling score) and truths of one image and class, as the words say."""
    overlap = {(d, g): iou(b, t) for d, b in enumerate(boxes) for g, t in enumerate(truths)}
    box, true = ["background"] * len(boxes), ["missed"] * len(truths)
    for d in range(len(boxes)):
        free = [g for g in range(len(truths)) if true[g] == "missed"]
        best = max(free, key=lambda g: (overlap[d, g][0], g), default=None)
        if best is not None and overlap[d, best][0] >= threshold:
            box[d], true[best] = "right", "found"
    taken = [g for g in range(len(truths)) if true[g] == "found"]
    for d in range(len(boxes)):
        if box[d] != "right" and any(overlap[d, g][0] >= threshold for g in taken):
            box[d] = "duplicate"
    for d, b in enumerate(boxes):
        covered = [g for g in range(len(truths)) if overlap[d, g][2] >= 0.5]
        if len(covered) > 1 and iou(b, around([truths[g] for g in covered]))[0] >= threshold:
            box[d] = "merged" if box[d] == "background" else box[d]
            for g in covered:
                true[g] = "merged" if true[g] == "missed" else true[g]
    pieces = {g: [] for g in range(len(truths)) if true[g] == "missed"}
    for d in range(len(boxes)):
        near = [g for g in pieces if overlap[d, g][1] >= 0.5]
        if near and box[d] == "background":
            pieces[max(near, key=lambda g: (overlap[d, g][0], -g))].append(d)
    for g, parts in pieces.items():
        covers = sum(overlap[d, g][2] for d in parts) >= 0.5
        joint = around([boxes[d] for d in parts]) if parts else truths[g]
        if len(parts) > 1 and covers and iou(truths[g], joint)[0] >= threshold:
            true[g] = "split"
            for d in parts:
                box[d] = "piece"
    last = [g for g in range(len(truths)) if true[g] == "missed"]
    for d in range(len(boxes)):
        near = [g for g in range(len(truths)) if overlap[d, g][0] >= least]
        if near and box[d] == "background":
            box[d] = "mislocated"
            true_one = max(near, key=lambda g: (g in last, overlap[d, g][0], -g))
            true[true_one] = "mislocated" if true_one in last else true[true_one]
    return box, true


@pytest.mark.parametrize("seed", range(25))
def test_it_equals_one_by_one(seed):
    found, true = crowded(seed, crowds=0)
    threshold, least = [(0.5, 0.1), (0.3, 0.3), (0.7, 0.05)][seed % 3]
    got = audit(found, true, score_threshold=0.2, threshold=threshold, least=least)
    kinds = [], []
    for (boxes, scores, labels), (truths, classes, _) in zip(found, true, strict=True):
        for label in (0, 1):
            order = np.argsort(-scores, kind="stable")
            order = order[(labels[order] == label) & (scores[order] >= 0.2)]
            one = one_by_one(boxes[order], truths[classes == label], threshold, least)
            for all_kinds, more in zip(kinds, one, strict=True):
                all_kinds.extend(more)
    assert got.detections == {kind: kinds[0].count(kind) for kind in DETECTIONS}
    assert got.truths == {kind: kinds[1].count(kind) for kind in TRUTHS}


def test_the_random_cases_hold_every_kind():
    got = summed([to_json(audit(*crowded(seed), score_threshold=0.2)) for seed in range(25)])
    assert min(*got["truths"].values(), *got["detections"].values()) > 5
    assert min(got["errors"].values()) > 5


def test_perfect_detections_make_no_error():
    _, true = crowded(3, crowds=0)
    true = [tuple(c[np.unique(t[0], axis=0, return_index=True)[1]] for c in t) for t in true]
    found = [(boxes, np.ones(len(boxes)), labels) for boxes, labels, _ in true]
    got = audit(found, true, score_threshold=1.0)
    assert got.errors == () and got.truths["found"] == sum(len(t[0]) for t in true) > 5
    none = [([], [], [])] * len(true)
    got = audit(none, true, score_threshold=0.0)
    assert got.truths["missed"] == sum(len(t[0]) for t in true) == len(got.errors)


def test_parts_add_up_to_the_whole():
    found, true = crowded(1, images=9)
    whole = to_json(audit(found, true, score_threshold=0.2))
    cuts = ((0, 2), (2, 2), (2, 9))
    parts = [to_json(audit(found[a:b], true[a:b], score_threshold=0.2)) for a, b in cuts]
    assert summed(parts) == whole and summed([whole]) == whole
    both = summed([to_json(audit(found, true, score_threshold=0.4)), whole])
    assert both["score_thresholds"] == [0.2, 0.4] and both["images"] == 18


def test_audits_that_do_not_add_up():
    one, other = seen([LESION], [LESION]), seen([LESION], [LESION], threshold=0.3)
    with pytest.raises(ValueError, match=r"'coco', 0.3, 0.1.*'coco', 0.5, 0.1"):
        summed([to_json(one), to_json(other)])
    with pytest.raises(ValueError, match="got none"):
        summed([])


def test_json():
    got = to_json(audit(*crowded(1), score_threshold=0.2))
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["truths"]["all"] == sum(got["truths"][kind] for kind in TRUTHS) > 0
    assert got["detections"]["all"] == sum(got["detections"][kind] for kind in DETECTIONS) > 0
    assert tuple(got["errors"]) == KINDS and got["images"] == 6


def test_a_strict_protocol_wants_more_than_the_threshold():
    half = [0, 0, 100, 50]
    assert told(seen([half], [LESION], protocol="l0sg").detections) == {"mislocated": 1}
    got = seen([LESION, half], [LESION], protocol="l0sg")
    assert told(got.detections) == {"right": 1, "mislocated": 1}
    assert told(seen([LESION, half], [LESION]).detections) == {"right": 1, "duplicate": 1}

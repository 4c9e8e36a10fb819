"""The device says what the host says: on random tables, on ties, and a hair beside thresholds."""

import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.metrics import match, on_device
from jaxdet.metrics.protocols import (
    COCO_THRESHOLDS,
    PROTOCOLS,
    exact_overlap,
    float32_overlap,
    plain_overlap,
)
from jaxdet.metrics.rows import read

# One of each way to count and to match; the others differ after the matching.
RULES = ("coco", "voc", "yolo", "l0sg")


@pytest.fixture
def one_shape(monkeypatch):
    """Every group in the same small table, so that few programs are compiled."""
    monkeypatch.setattr(on_device, "DETS", np.array([64]))
    monkeypatch.setattr(on_device, "TRUTHS", np.array([16]))
    monkeypatch.setattr(on_device, "PAIRS", 64 * 64 * 16)
    monkeypatch.setattr(on_device, "MOST_PADDING", 1 << 30)


@pytest.fixture
def on_host(monkeypatch):
    """Collects how many detections each call of `find` leaves to the host."""
    counts, plain = [], on_device._on_host

    def counted(dets, truths, rows, *rest):
        counts.append(len(rows))
        return plain(dets, truths, rows, *rest)

    monkeypatch.setattr(on_device, "_on_host", counted)
    return counts


def wanted(dets, truths, ignored, thresholds, rules, overlap):
    def measure(boxes, true, crowd):
        return rules.overlap(boxes, true, crowd, overlap)

    floor = float(min(thresholds.min(), match.ALMOST_ONE))
    pairs = match.pairs(dets, truths, measure, floor)
    return rules.match(pairs, dets.group, ignored, truths.crowd, thresholds)


def levels_of(rules, thresholds=COCO_THRESHOLDS):
    levels = np.asarray(thresholds).astype(rules.number)
    return np.nextafter(levels, rules.number(2)) if rules.strict else levels


def check(dets, truths, ignored, thresholds, rules, overlap="iou"):
    got = on_device.find(dets, truths, ignored, thresholds, rules, overlap)
    want = wanted(dets, truths, ignored, thresholds, rules, overlap)
    np.testing.assert_array_equal(got, want)
    row, level = np.nonzero(got >= 0)  # and what it takes is of its own image and class
    assert (truths.group[got[row, level]] == dets.group[row]).all()
    return got


def case(seed):
    """Tables of a few images; what is odd about them goes with the seed."""
    rng = np.random.default_rng(seed)
    kind = ("whole", "float32", "float64", "tiny", "flat")[seed % 5]
    classes = (1, 5, 80)[seed % 3]
    detections, truths = [], []
    for _ in range(int(rng.integers(1, 6))):
        m, n = (
            rng.integers(1, 12) * (rng.random() < 0.9),
            rng.integers(1, 32) * (rng.random() < 0.9),
        )
        low, side = rng.uniform(0, 60, (m, 2)), rng.uniform(5, 50, (m, 2))
        if kind == "flat":
            side[:, 0] /= 1000
        true = np.concatenate([low, low + side], axis=1)
        mine = rng.integers(0, max(m, 1), n)
        near = true[mine] if m else rng.uniform(0, 60, (n, 4))
        boxes = near + rng.normal(0, 3, (n, 4)) * (np.tile(side[mine] / 30, 2) if m else 1)
        if kind == "whole":  # every third coordinate, so that much is equal and much is met
            true, boxes = np.round(true / 6) * 6, np.round(boxes / 6) * 6
        if kind == "tiny":
            true, boxes = 5000 + true * 1e-4, 5000 + boxes * 1e-4
        if kind != "float64":
            true, boxes = true.astype(np.float32), boxes.astype(np.float32)
        labels = rng.integers(0, classes, m)
        named = np.where(rng.random(n) < 0.8, labels[mine] if m else 0, rng.integers(0, classes, n))
        truths.append((true, labels, rng.random(m) < 0.2))
        detections.append((boxes, rng.integers(0, 9, n) / 8, named))
    dets, truths, _ = read(detections, truths)
    return dets, truths, truths.crowd | (rng.random(len(truths.crowd)) < 0.2)


@pytest.mark.parametrize("overlap", ["iou", "iobb"])
@pytest.mark.parametrize("protocol", RULES)
def test_equals_the_host(protocol, overlap, one_shape, on_host):
    rules, hits, all_dets = PROTOCOLS[protocol], 0, 0
    for seed in range(40):
        dets, truths, ignored = case(seed)
        got = check(dets, truths, ignored, levels_of(rules), rules, overlap)
        hits, all_dets = hits + (got >= 0).sum(), all_dets + len(got)
    assert hits > 1000  # something is found, and not by the host alone
    assert 0 < sum(on_host) < 0.8 * all_dets


def test_equals_the_host_in_its_own_shapes(monkeypatch):
    monkeypatch.setattr(on_device, "SHARE", 0)
    monkeypatch.setattr(on_device, "MOST_PADDING", 1 << 30)
    rng = np.random.default_rng(0)
    dets, truths = ordinary(rng, images=40, classes=3)
    ignored, rules = rng.random(len(truths.crowd)) < 0.3, PROTOCOLS["coco"]
    shapes = on_device._shapes(on_device._groups(dets, truths))
    assert len({shape[1:] for _, shape in on_device._together(shapes)}) > 2
    check(dets, truths, ignored, levels_of(rules), rules)


ODD = [[1, 1, 2, 2], [0, 0, 2.5, 2.5], [0, 0, 4, 4], [-2, -2, -1, -1], [-3, -3, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("overlap", ["iou", "iobb"])
@pytest.mark.parametrize("many", [3, 15, 63])  # one truth of padding, and one detection
def test_padding_is_never_found(many, overlap, on_host):
    low = np.stack([100.0 + 30 * np.arange(many), np.full(many, 50.0)], axis=1)
    true = np.concatenate([low, low + 20], axis=1)
    near_origin = np.concatenate([true[1:], [[-2, -2, -1, -1]]])
    plain = (true[:3] + 1, [0.3, 0.2, 0.1], [0] * 3)
    odd = np.concatenate([ODD, true[:1] + 1]), np.linspace(0.9, 0.3, 7), [0] * 7
    found = [odd, plain, plain, odd, plain, plain, odd, odd]
    dets, truths, _ = read(found, [(true, [0] * many)] * 7 + [(near_origin, [0] * many)])
    for rules in PROTOCOLS.values():
        levels = levels_of(rules, [0.02, 0.1, 0.5])
        check(dets, truths, truths.crowd, levels, rules, overlap)
        check(dets, truths, np.arange(len(truths.crowd)) % 2 == 0, levels, rules, overlap)
    assert max(on_host) <= 12  # the three images with few detections; the rest is the device's


def test_equals_the_host_with_64_bits(one_shape):
    dets, truths = ordinary(np.random.default_rng(7), images=9, classes=2)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in RULES:
            check(dets, truths, truths.crowd, levels_of(PROTOCOLS[name]), PROTOCOLS[name])


def ordinary(rng, images, classes):
    """What a detector gives: float32 boxes, some near their truths, of all sizes."""
    detections, truths = [], []
    for _ in range(images):
        low = rng.uniform(0, 500, (8, 2))
        true = np.concatenate([low, low + rng.uniform(10, 120, (8, 2))], axis=1)
        labels, mine = rng.integers(0, classes, 8), rng.integers(0, 8, 60)
        boxes = true[mine] + rng.normal(0, 8, (60, 4))
        detections.append((boxes.astype(np.float32), rng.random(60), labels[mine]))
        truths.append((true.astype(np.float32), labels))
    return read(detections, truths)[:2]


@pytest.mark.parametrize("protocol", RULES)
def test_ordinary_detections_are_not_left_to_the_host(protocol, one_shape, on_host):
    dets, truths = ordinary(np.random.default_rng(1), images=400, classes=6)
    rules = PROTOCOLS[protocol]
    got = check(dets, truths, truths.crowd, levels_of(rules), rules)
    assert (got[:, 0] >= 0).sum() > 1000
    assert on_host[0] < 0.01 * len(got)


@pytest.mark.parametrize("protocol", RULES)
def test_a_hair_beside_the_thresholds(protocol, one_shape, on_host):
    # Boxes as wide as their truth and `level` as high, a few ulp or 1e-9 to 1e-7 more or less.
    rules, rng = PROTOCOLS[protocol], np.random.default_rng(2)
    detections, truths = [], []
    for level in COCO_THRESHOLDS:
        for move in (0, 1e-9, -1e-9, 1e-8, -1e-8, 1e-7, -1e-7):
            side = rng.choice([100.0, 64.0, 33.3])
            height = side * level * (1 + move)
            for box in (height, np.float32(height), np.nextafter(np.float32(height), 0)):
                truths.append(([[0, 0, side, side]], [0]))
                detections.append(([[0, 0, side, float(box)]], [0.5], [0]))
    dets, truths, images = read(detections, truths)
    got = check(dets, truths, truths.crowd, levels_of(rules), rules)
    assert on_host == [images]
    edge = (got >= 0).sum(axis=1).reshape(10, -1)
    assert all(len(set(row)) == 2 for row in edge.tolist()[1:])  # on either side of the threshold


def test_truths_that_tie_and_truths_that_nearly_do(one_shape, on_host):
    true = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 0, 60, 10], [50, 1e-7, 60, 10 + 1e-7]])
    found = ([[0, 0, 10, 8.7], [50, 0, 60, 8.7]] * 2, [0.9, 0.8, 0.7, 0.6], [0] * 4)
    dets, truths, _ = read([found] * 2, [(true, [0] * 4), (true[::-1], [0] * 4)])
    for name in RULES:
        got = check(dets, truths, truths.crowd, levels_of(PROTOCOLS[name]), PROTOCOLS[name])
        assert (got[:, 0] >= 0).sum() == (8 if name == "coco" else 4)
    assert on_host == [8] * len(RULES)


def test_who_comes_first_takes_it_and_the_next_goes_on(one_shape, on_host):
    # Truths in a row, a detection on the first and then more of them, pushed along; the best of a
    # detection is gone, so under COCO it takes the second or third. Sure, so without the host.
    true = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [2.1, 0, 12.1, 10], [3.3, 0, 13.3, 10]])
    boxes = np.tile([0.2, 0, 10.2, 10.1], (4, 1)).astype(np.float32)
    dets, truths, _ = read(
        [(boxes, [0.9, 0.8, 0.7, 0.6], [0] * 4)], [(true.astype(np.float32), [0] * 4)]
    )
    got = check(dets, truths, truths.crowd, np.array([0.5, 0.9]), PROTOCOLS["coco"])
    assert got.tolist() == [[0, 0], [1, -1], [2, -1], [3, -1]]
    crowded = truths._replace(crowd=np.array([True, False, False, False]))
    check(dets, crowded, crowded.crowd, np.array([0.5, 0.9]), PROTOCOLS["coco"])
    ignored = np.array([True, False, True, False])
    got = check(dets, truths, ignored, np.array([0.5, 0.9]), PROTOCOLS["coco"])
    assert got[:, 0].tolist() == [1, 3, 0, 2]
    got = check(dets, truths, ignored, np.array([0.5, 0.9]), PROTOCOLS["voc"])
    assert got[:, 0].tolist() == [0, 0, 0, 0]
    assert on_host == [0] * 4


def test_more_truths_than_a_detection_may_try(one_shape, on_host):
    many = on_device.CHOICES + 2
    true = np.array([[0, 0, 10 + 0.3 * i, 10] for i in range(many)]).astype(np.float32)
    boxes = np.tile(np.float32([0, 0, 9.9, 10]), (many + 1, 1))
    scores = np.linspace(0.9, 0.1, many + 1)
    dets, truths, _ = read([(boxes, scores, [0] * (many + 1))], [(true, [0] * many)])
    got = check(dets, truths, truths.crowd, np.array([0.5]), PROTOCOLS["coco"])
    assert got[:, 0].tolist() == [*range(many), -1]
    assert on_host == [many + 1]


def test_many_thresholds_in_any_order(one_shape, on_host):
    dets, truths = ordinary(np.random.default_rng(3), images=30, classes=4)
    thresholds = np.random.default_rng(4).permutation(np.linspace(0.05, 1, 23))
    for name in ("coco", "yolo"):
        rules = PROTOCOLS[name]
        got = check(dets, truths, truths.crowd, levels_of(rules, thresholds), rules)
        assert got.shape == (len(dets.group), 23)
    assert max(on_host) < 0.5 * len(dets.group)


def test_groups_too_large_for_a_call_and_tables_without_rows(one_shape, monkeypatch, on_host):
    dets, truths, ignored = case(1)
    none = read([([], [], [])], [([], [])])[:2]
    rules = PROTOCOLS["coco"]
    for a, b in ((dets, none[1]), (none[0], truths), none):
        got = check(a, b, np.zeros(len(b.crowd), bool), levels_of(rules), rules)
        assert got.shape == (len(a.group), 10) and (got == -1).all()
    monkeypatch.setattr(on_device, "PAIRS", 500)
    check(dets, truths, ignored, levels_of(rules), rules)
    assert on_host[:3] == [0, 0, 0] and on_host[3] > 0


def test_numbers_that_float32_cannot_hold(one_shape, on_host):
    far = [[0, 0, 1e150, 1e150], [1e39, 0, 2e39, 1e39], [2**40, 0, 2**41, 9], [0, 0, 1e-30, 1e-30]]
    boxes = np.array([*far, [0, 0, 1e-300, 5], [0, 0, 0, 0], [9, 9, 1, 1], [1, 1, 1 + 1e-12, 2]])
    one = (np.zeros((8, 4)), np.linspace(1, 0.3, 8), np.zeros(8, int))
    tables = read([one], [(np.zeros((8, 4)), np.zeros(8, int))])[:2]
    dets, truths = (table._replace(boxes_xyxy=boxes) for table in tables)  # `read` refuses the far
    for name in ("coco", "voc", "l0sg"):
        got = check(dets, truths, truths.crowd, levels_of(PROTOCOLS[name]), PROTOCOLS[name])
        assert (got[:, 0] >= 0).sum() > 3
    assert on_host == [8] * 3


def test_other_rules_are_refused():
    dets, truths, ignored = case(1)
    with pytest.raises(ValueError, match=r"greedy or best_truth, with exact_overlap.*got pairs"):
        rules = PROTOCOLS["coco"]._replace(match=match.pairs)
        on_device.find(dets, truths, ignored, COCO_THRESHOLDS, rules)


def test_a_second_data_set_compiles_nothing(one_shape):
    rules = PROTOCOLS["coco"]
    for seed in (1, 2):
        dets, truths = ordinary(np.random.default_rng(seed), images=9 * seed, classes=7)
        on_device.find(dets, truths, truths.crowd, levels_of(rules)[: 3 * seed], rules)
        programs = on_device._match._cache_size()
        if seed == 1:
            before = programs
    assert programs == before > 0


def ragged(rng, images):
    """0 to 129 detections an image, in one class, of 0 to 19 truths."""
    detections, truths = [], []
    for m, n in zip(rng.integers(0, 20, images), rng.integers(0, 130, images), strict=True):
        low, mine = rng.uniform(0, 400, (m, 2)), rng.integers(0, max(m, 1), n)
        true = np.concatenate([low, low + rng.uniform(8, 60, (m, 2))], axis=1)
        boxes = true[mine] if m else np.tile([0, 0, 9, 9], (n, 1))
        boxes = (boxes + rng.normal(0, 5, (n, 4))).astype(np.float32)
        detections.append((boxes, rng.random(n), np.zeros(n)))
        truths.append((true.astype(np.float32), np.zeros(m)))
    return read(detections, truths)[:2]


def test_ragged_data_needs_few_programs_in_the_shapes_of_the_module(monkeypatch, on_host):
    programs, plain = [], on_device._match

    def counted(*tables, choices):
        programs.append((*(np.shape(table) for table in tables), choices))
        return plain(*tables, choices=choices)

    monkeypatch.setattr(on_device, "_match", counted)
    known = []
    for seed in (1, 2, 3):
        dets, truths = ragged(np.random.default_rng(seed), images=500)
        check(dets, truths, truths.crowd, levels_of(PROTOCOLS["coco"]), PROTOCOLS["coco"])
        known.append((len(set(programs)), plain._cache_size()))
        assert on_host[-1] < 0.5 * len(dets.group)
    assert 0 < known[0][0] <= 4
    assert known[2] == known[1] == known[0]


def test_shapes_that_do_not_pay_are_left_to_the_host():
    def shapes(dets, truths):
        nothing = np.zeros(len(dets), int)
        groups = on_device._Groups(nothing[:0], nothing, np.array(dets), nothing, np.array(truths))
        return (on_device._shapes(groups) >= 0).tolist()

    assert shapes([100] * 9 + [5], [12] * 9 + [3]) == [True] * 9 + [False]  # too few
    assert shapes([130] * 9, [5] * 9) == [False] * 9  # padded to 512 and 16
    assert shapes([1 << 17], [3]) == [False]  # fits into no call
    assert shapes([8, 32, 128, 512, 2048], [4] * 5) == [False] * 4 + [True]
    assert shapes([], []) == []


def test_worthwhile():
    none = ([], [], [])
    some = (np.zeros((200, 4)), np.zeros(200), np.zeros(200))
    true = (np.zeros((100, 4)), np.zeros(100))
    for images, want in ((24, False), (25, True)):
        assert on_device.worthwhile(*read([some] * images, [true] * images)[:2]) is want
    other = (true[0], np.arange(100) % 2)  # half of them of another class
    for images, want in ((49, False), (50, True)):
        assert on_device.worthwhile(*read([some] * images, [other] * images)[:2]) is want
    # Detections here and truths there are no pairs.
    assert not on_device.worthwhile(*read([some] * 30 + [none], [([], [])] * 30 + [true])[:2])
    assert not on_device.worthwhile(*read([], [])[:2])


def test_the_memory_of_a_call_is_bounded():
    choices = on_device.CHOICES
    for d, m in ((128, 16), (8, 4), (8, 1 << 14), (1 << 13, 4)):
        seats = on_device.PAIRS // (d * m)
        shapes = (seats, d, 5), (seats, m, 5), (), (on_device.LEVELS,)
        boxes, truths, extra, levels = (jax.ShapeDtypeStruct(s, np.float32) for s in shapes)
        flags = jax.ShapeDtypeStruct((seats, m, 3), bool)
        program = on_device._match.lower(boxes, truths, flags, extra, levels, choices=choices)
        used = program.compile().memory_analysis()
        total = used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes
        assert total < 16 << 20


def two_sets(kind):
    """Twice 300 x 20 boxes in float64, those of one row near each other."""
    rng = np.random.default_rng(5)
    low = rng.uniform(0, 20, (300, 40, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 50, (300, 40, 2))], axis=-1)
    if kind == "long":
        boxes[..., [1, 3]] *= 10.0 ** rng.integers(-6, 4, (300, 1, 1))
    if kind == "far":
        boxes *= 10.0 ** rng.integers(-4, 1, (300, 1, 1))
        boxes += 10.0 ** rng.integers(1, 7, (300, 1, 1))
    if kind == "near":
        boxes = boxes[:, :1] + rng.normal(0, 1e-3, (300, 40, 4))
    if kind == "inverted":
        boxes += rng.normal(0, 30, (300, 40, 4))
    return boxes[:, :20], boxes[:, 20:]


@pytest.mark.parametrize("held", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["plain", "long", "far", "near", "inverted"])
def test_the_bound_is_never_passed(kind, held):
    a, b = two_sets(kind)
    if held == "float32":
        a, b = a.astype(np.float32).astype(float), b.astype(np.float32).astype(float)
    alone = np.random.default_rng(6).random((300, 20)) < 0.3
    every = [np.broadcast_to(x, (300, 20, 20, *x.shape[3:])) for x in (a[:, :, None], b[:, None])]
    rows = [x.reshape(-1, 4) for x in every]
    crowd = np.broadcast_to(alone[:, None], (300, 20, 20)).ravel()
    for function, number, extra in (
        (exact_overlap, np.float64, 0),
        (float32_overlap, np.float32, 1e-7),
    ):
        cast = [on_device._cast(x.reshape(-1, 4), number).reshape(300, 20, 5) for x in (a, b)]
        flags = alone if extra == 0 else np.zeros_like(alone)
        got, bound = jax.jit(on_device.bounded_overlaps)(*cast, flags, np.float32(extra))
        want = function(*rows, crowd, "iou").reshape(300, 20, 20)
        off = np.abs(np.asarray(got, np.float64) - want.astype(np.float64))
        assert (off <= np.asarray(bound)).all()
        assert (want > 0).mean() > (0.1 if kind == "inverted" else 0.3)
        if kind in ("plain", "near") and held == "float32":
            assert off.max() < np.max(bound) / 2 < 1e-4  # and it is neither tight nor idle


def test_the_bound_holds_against_exact_fractions():
    for kind in ("plain", "far"):
        a, b = (boxes[:20, :3] for boxes in two_sets(kind))
        cast = [on_device._cast(x.reshape(-1, 4), np.float64).reshape(20, 3, 5) for x in (a, b)]
        got, bound = on_device.bounded_overlaps(*cast, np.zeros((20, 3), bool), jnp.float32(0))
        for i, d, m in np.ndindex(20, 3, 3):
            p, q = ([Fraction(float(x)) for x in box] for box in (a[i, d], b[i, m]))
            w, h = (max(min(p[k + 2], q[k + 2]) - max(p[k], q[k]), 0) for k in (0, 1))
            areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (p, q)]
            want = w * h / (sum(areas) - w * h)
            assert not np.isfinite(bound[i, d, m]) or abs(
                Fraction(float(got[i, d, m])) - want
            ) <= Fraction(float(bound[i, d, m]))


def test_a_crowd_is_an_object_for_voc_and_not_for_coco():
    assert on_device.KINDS[exact_overlap][0] and not on_device.KINDS[plain_overlap][0]
    assert {rules.overlap for rules in PROTOCOLS.values()} == set(on_device.KINDS)

"""Strata against average precision on the same lists, laws, and by hand."""

import json

import numpy as np
import pytest

from jaxdet.metrics import average_precision, facts
from jaxdet.metrics.protocols import PROTOCOLS
from jaxdet.metrics.strata import DIAMETERS_MM, MISALIGNED_MM, strata

NONE = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
FREE = (np.zeros((0, 4)), np.zeros(0, int))
THRESHOLDS = (0.3, 0.5, 0.7)


def boxes(*sides):
    """Squares in a row, far apart."""
    x, side = 200.0 * np.arange(len(sides)), np.array(sides, float)
    return np.stack([x, 0 * x, x + side, 0 * x + side], 1)


def lesions(*sides):
    return boxes(*sides), np.zeros(len(sides), int)


def found(box, *scores):
    return box, np.array(scores, float), np.zeros(len(scores), int)


def known(truths, diameters=None, apart=None, phases=None, pixel_mm=np.nan):
    base = facts.unknown([len(truth[1]) for truth in truths])
    fill = [np.full(len(truth[1]), np.nan) for truth in truths]
    return base._replace(
        phases=tuple(phases or base.phases),
        pixel_mm=np.full((len(truths), 2), pixel_mm),
        diameters_mm=tuple(np.array(d, float) for d in diameters or fill),
        misaligned_mm=tuple(np.array(a, float) for a in apart or fill),
    )


def case(seed):
    """Two classes; truths do not touch, so that no detection competes for two."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for i in range(8):
        m = int(rng.integers(1, 6)) * (i % 4 > 0)
        true, labels = boxes(*rng.integers(20, 60, m)), rng.integers(0, 2, m)
        near = np.vstack(
            [true + rng.normal(0, 4, (m, 4)), boxes(30, 40) + np.array([0, 300, 0, 300])]
        )
        truths.append((true, labels, rng.random(m) < 0.1))
        named = np.append(labels, rng.integers(0, 2, 2))
        detections.append((near, np.round(rng.random(m + 2), 1), named))
    return detections, truths


def by_name(rows):
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(4))
def test_a_stratum_of_everything_is_average_precision(seed, protocol):
    detections, truths = case(seed)
    want = average_precision(detections, truths, thresholds=THRESHOLDS, protocol=protocol)
    options = dict(protocol=protocol, thresholds=THRESHOLDS)
    full = [np.full(len(t[1]), 12.0) for t in truths]
    everything = known(truths, full, full, ["portal"] * 8)
    for got, name in (
        (strata(detections, truths, everything, **options), ["10-20", "portal", "10-15"]),
        (strata(detections, truths, **options), ["unknown"] * 3),
    ):
        assert list(got) == ["diameter_mm", "phase", "misaligned_mm"]
        for rows, only in zip(got.values(), name, strict=True):
            rows = by_name(rows)
            np.testing.assert_allclose(rows[only]["ap"], want, atol=1e-12)
            assert all(row["ap"] is None for name, row in rows.items() if name != only)
            assert all(row["truths"] == 0 for name, row in rows.items() if name != only)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(4))
def test_a_phase_is_average_precision_of_its_images(seed, protocol):
    detections, truths = case(seed)
    phases = np.array(["portal", "", "arterial", "portal", "arterial", "", "portal", "portal"])
    got = strata(
        detections,
        truths,
        known(truths, phases=phases.tolist()),
        protocol=protocol,
        thresholds=THRESHOLDS,
    )
    assert [row["name"] for row in got["phase"]] == ["portal", "arterial", "unknown"]
    for row, phase in zip(got["phase"], ["portal", "arterial", ""], strict=True):
        mine = np.flatnonzero(phases == phase)
        parts = [detections[i] for i in mine], [truths[i] for i in mine]
        want = average_precision(*parts, thresholds=THRESHOLDS, protocol=protocol)
        np.testing.assert_allclose(row["ap"], want, atol=1e-12)
        assert row["truths"] == sum((~t[2]).sum() for t in parts[1])
        assert row["images"] == sum((~t[2]).any() for t in parts[1])


@pytest.mark.parametrize("seed", range(6))
def test_recalls_add_up_where_nothing_competes(seed):
    rng = np.random.default_rng(seed)
    detections, truths = case(seed)
    truths = [(true, np.zeros(len(true), int)) for true, *_ in truths]
    detections = [(box, scores, np.zeros(len(box), int)) for box, scores, _ in detections]
    lengths = [rng.choice([1.0, 4, 10, 19.9, 50, np.nan], len(t[1])) for t in truths]
    phases = rng.choice(["a", "b", ""], len(truths)).tolist()
    options = dict(thresholds=THRESHOLDS, score_threshold=0.4)
    got = strata(detections, truths, known(truths, lengths, lengths, phases, 1.0), **options)
    [total] = strata(detections, truths, **options)["phase"]
    for rows in got.values():
        assert sum(row["truths"] for row in rows) == total["truths"] > 0
        for what in ("recall", "recall_at_score"):
            hits = sum(np.array(row[what] or 0) * row["truths"] for row in rows)
            np.testing.assert_allclose(hits / total["truths"], total[what], atol=1e-12)
    assert 0 < total["recall_at_score"][0] < total["recall"][0] <= 1


def test_intervals_hold_their_lower_end():
    truths = [lesions(*[20] * 9)]
    lengths = [[0, 3.999, 4, 9.999, 10, 19.999, 20, 50, np.nan]]
    got = strata([NONE], truths, known(truths, lengths, lengths))
    assert [(r["name"], r["truths"]) for r in got["diameter_mm"]] == [
        ("below 4", 2),
        ("4-10", 2),
        ("10-20", 2),
        ("20-50", 1),
        ("50 and more", 1),
        ("unknown", 1),
    ]
    apart = [(r["name"], r["truths"]) for r in got["misaligned_mm"]]
    want = [("below 5", 3), ("5-10", 1), ("10-15", 1), ("15 and more", 3), ("unknown", 1)]
    assert apart == want
    lengths = [list(range(9))]
    got = strata([NONE], truths, known(truths, lengths, lengths, ["portal"]))
    names = [[row["name"] for row in rows] for rows in got.values()]
    assert names == [list(DIAMETERS_MM), ["portal"], list(MISALIGNED_MM)]


def test_small_found_large_missed_by_hand():
    # A lesion of 5 mm found at 0.5, one of 30 mm missed; a false box of 30 px at 0.9.
    truths = [lesions(5, 30)]
    false = np.array([[600.0, 600, 605, 630]])
    detections = [found(np.vstack([boxes(5), false]), 0.5, 0.9)]
    got = strata(
        detections,
        truths,
        known(truths, [[5, 30]], [[1, 1]], ["portal"], pixel_mm=1.0),
        score_threshold=0.6,
    )
    rows = by_name(got["diameter_mm"])
    # The false box is a large one: it does no harm to the small lesion, which was found after it.
    assert rows["4-10"] == {
        "name": "4-10",
        "truths": 1,
        "images": 1,
        "ap": [1.0],
        "recall": [1.0],
        "recall_at_score": [0.0],
    }
    assert rows["20-50"]["ap"] == rows["20-50"]["recall"] == [0.0]
    assert rows["10-20"]["ap"] is rows["10-20"]["recall_at_score"] is None
    # Of the phases' distance nothing is said by a box: there it is false. Right after false: 1/2
    # up to recall 0.5, 51 of 101 levels.
    assert by_name(got["misaligned_mm"])["below 5"]["ap"] == pytest.approx([51 / 101 / 2])
    assert by_name(got["misaligned_mm"])["below 5"]["recall"] == [0.5]
    assert got["phase"][0]["ap"] == pytest.approx([51 / 101 / 2])
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    [all_of_it] = strata(detections, truths, score_threshold=0.5)["phase"]
    assert all_of_it["recall_at_score"] == [0.5]  # an equal score is enough


def test_without_the_size_of_a_pixel_a_false_box_counts_everywhere():
    truths = [lesions(5)]
    false = np.array([[600.0, 600, 605, 630]])
    detections = [found(np.vstack([boxes(5), false]), 0.5, 0.9)]
    for pixel_mm, want in (
        (np.nan, 0.5),
        (1.0, 1.0),
        (0.2, 0.5),  # 30 px are 6 mm, so it is one of these
        ([1.0, 0.3], 0.5),  # 5 mm wide and 9 mm high
        ([1.0, 0.4], 1.0),  # 12 mm high
        ([1.0, np.nan], 0.5),
    ):
        got = strata(detections, truths, known(truths, [[5]], pixel_mm=pixel_mm))
        assert by_name(got["diameter_mm"])["4-10"]["ap"] == [want]
    # A lesion of unknown diameter may be of any: so may a false box.
    got = strata(detections, truths, known(truths, [[np.nan]], pixel_mm=1.0))
    assert by_name(got["diameter_mm"])["unknown"]["ap"] == [0.5]


def test_an_inverted_box_is_of_no_size():
    truths = [lesions(5)]
    inverted = np.array([[600.0, 600, 570, 570]])
    detections = [found(np.vstack([inverted, boxes(5)]), 0.9, 0.5)]
    for diameter, want in ((3, 0.5), (5, 1.0)):  # false among the smallest, out elsewhere
        got = strata(detections, truths, known(truths, [[diameter]], pixel_mm=1.0))
        rows = [row for row in got["diameter_mm"] if row["truths"]]
        assert [row["ap"] for row in rows] == [[want]]


def test_a_box_on_a_lesion_of_another_stratum_is_neither_right_nor_wrong():
    truths = [lesions(5, 30)]
    detections = [found(boxes(5, 30)[::-1], 0.9, 0.8)]
    got = strata(detections, truths, known(truths, [[5, 30]], [[1, 7]]))
    for rows in (got["diameter_mm"], got["misaligned_mm"]):
        assert [row["ap"] for row in rows if row["truths"]] == [[1.0], [1.0]]


def test_classes_are_averaged():
    # Class 0 found, class 1 missed; class 2 has no truth in the stratum.
    truths = [(boxes(5, 5, 30), np.arange(3))]
    detections = [(boxes(5), np.array([0.9]), np.zeros(1, int))]
    got = strata(detections, truths, known(truths, [[5, 5, 30]]), score_threshold=0.1)
    small, large = (row for row in got["diameter_mm"] if row["truths"])
    assert small["ap"] == small["recall"] == small["recall_at_score"] == [0.5]
    assert large["ap"] == large["recall"] == [0.0]


def test_a_crowd_is_in_no_stratum():
    truths = [(boxes(5, 5), np.zeros(2, int), np.array([False, True]))]
    got = strata([found(boxes(5, 5), 0.5, 0.9)], truths, known(truths, [[5, np.nan]]))
    rows = by_name(got["diameter_mm"])
    assert (rows["4-10"]["truths"], rows["4-10"]["ap"]) == (1, [1.0])
    assert "unknown" not in rows  # a crowd of unknown size makes no row


def test_nothing_at_all():
    for detections, truths in (([], []), ([NONE], [FREE])):
        for of in (None, known(truths, phases=["portal"] * len(truths))):
            got = strata(detections, truths, of)
            rows = [row for rows in got.values() for row in rows]
            assert len(rows) == 9 + len(truths)  # no row "unknown" but that of the phase
            assert all(row["ap"] is row["recall"] is None for row in rows)
            assert all(row["truths"] == row["images"] == 0 for row in rows)


def test_no_detections():
    [row] = strata([NONE], [lesions(5)], thresholds=(0.5, 0.7))["phase"]
    assert row["ap"] == row["recall"] == [0.0, 0.0] and row["images"] == 1
    assert "recall_at_score" not in row


class TestErrors:
    truths = (lesions(5), lesions(5, 30))

    def test_facts_of_other_images(self):
        short = known(self.truths[:1])
        with pytest.raises(ValueError, match="each of the 2 images; patients has 1: image 1"):
            strata([NONE] * 2, self.truths, short)
        whole = known(self.truths)
        with pytest.raises(ValueError, match="pixel_mm has 3: image 2"):
            strata([NONE] * 2, self.truths, whole._replace(pixel_mm=np.ones((3, 2))))

    def test_a_lesion_without_a_fact(self):
        with pytest.raises(ValueError, match="image 1 has a truth in row 1"):
            strata([NONE] * 2, self.truths, known(self.truths, apart=[[1], [1]]))

    def test_lengths_below_zero(self):
        with pytest.raises(ValueError, match=r"image 1 .* a diameter below 0 mm"):
            strata([NONE] * 2, self.truths, known(self.truths, [[1], [1, -1]]))

    def test_protocol_and_thresholds(self):
        with pytest.raises(ValueError, match="protocol wants one of coco"):
            strata([NONE] * 2, self.truths, protocol="classic")
        with pytest.raises(ValueError, match="above 0 and up to 1"):
            strata([NONE] * 2, self.truths, thresholds=0.0)


def test_a_score_threshold_that_is_no_number():
    with pytest.raises(ValueError, match="score_threshold wants a number; got nan"):
        strata([NONE], [lesions(5)], score_threshold=np.nan)

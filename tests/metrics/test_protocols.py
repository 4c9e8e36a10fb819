"""The small rules of a protocol, by hand."""

import numpy as np
import pytest

from jaxdet.metrics import protocols
from jaxdet.metrics.protocols import PROTOCOLS

ONE = np.array([1.0])


@pytest.mark.parametrize("measure", [rules.overlap for rules in PROTOCOLS.values()])
def test_overlap_by_hand(measure):
    # 10 x 10 and 10 x 20, shared 5 x 10 = 50: union 250.
    a, b = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 20]])
    no = np.array([False])
    assert measure(a, b, no, "iou")[0] == pytest.approx(50 / 250)
    assert measure(a, b, no, "iobb")[0] == pytest.approx(50 / 100)
    assert measure(b, a, no, "iobb")[0] == pytest.approx(50 / 200)
    touching = a + np.array([10, 0, 10, 0])
    assert measure(a, touching, no, "iou")[0] == 0
    assert measure(a[:0], b[:0], no[:0], "iou").shape == (0,)


def test_only_coco_measures_a_crowd_by_the_detection():
    a, b, yes = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 20]]), np.array([True])
    got = {name: rules.overlap(a, b, yes, "iou")[0] for name, rules in PROTOCOLS.items()}
    assert got == pytest.approx({name: 0.5 if name == "coco" else 0.2 for name in PROTOCOLS})


@pytest.mark.parametrize("rules", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_areas_of_nothing_and_of_everything(rules):
    assert rules.area(ONE[:0], ONE[:0]) == 0
    assert rules.area(ONE, ONE) > 0.99
    assert (rules.precision(ONE[:0], ONE[:0], protocols.LEVELS) == 0).all()


def test_eleven_levels_as_the_public_evaluators_count_them():
    # Recall 3/5 reaches the levels 0 to 0.5 and not the one at 0.6000000000000001.
    recall, precision = np.array([1, 2, 3]) / 5, np.ones(3)
    assert protocols.mean_of_11(recall, precision) == pytest.approx(6 / 11)


def test_envelope_is_the_best_that_is_still_to_come():
    got = protocols.envelope(np.array([0.2, 0.9, 0.4, 0.5]))
    assert got.tolist() == [0.9, 0.9, 0.5, 0.5]


def test_unknown_protocol_names_the_known_ones():
    with pytest.raises(ValueError, match=r"coco, voc, voc07, yolo, l0sg, .*; got 'coc'"):
        protocols.protocol_named("coc")

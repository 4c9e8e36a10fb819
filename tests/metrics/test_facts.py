"""Facts of truths in the order of the table, whatever order the images came in."""

import numpy as np
import pytest

from jaxdet.metrics import facts
from jaxdet.metrics.rows import read

BOX = [0.0, 0, 10, 10]


def test_facts_follow_their_truths():
    truths = [
        (np.array([BOX, [0, 0, 0, 0], BOX]), np.array([1, -1, 0])),  # padding in the middle
        (np.zeros((0, 4)), np.zeros(0)),
        (np.array([BOX]), np.array([0])),
    ]
    nothing = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0))] * 3
    table = read(nothing, truths)[1]
    values = (np.array([10.0, -1, 12]), np.zeros(0), np.array([30.0]))
    assert table.labels.tolist() == [0, 0, 1]
    assert facts.of_truths(values, table).tolist() == [12, 30, 10]


def test_unknown_facts_make_every_image_a_patient():
    known = facts.unknown([2, 0])
    assert known.patients == ("image 0", "image 1")
    assert [len(d) for d in known.diameters_mm] == [2, 0]
    assert np.isnan(known.diameters_mm[0]).all()
    assert np.isnan(known.pixel_mm).all()


def test_a_missing_fact_names_the_image():
    table = read([([BOX], [0.5], [0])], [([BOX, BOX], [0, 0])])[1]
    with pytest.raises(ValueError, match="image 0 has a truth in row 1"):
        facts.of_truths([np.zeros(1)], table)
    with pytest.raises(ValueError, match="image 0"):
        facts.of_truths([], table)


def test_no_truth_at_all():
    table = read([], [])[1]
    assert facts.of_truths([], table).shape == (0,)

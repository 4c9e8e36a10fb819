"""All protocols in one table: the numbers are those of average_precision."""

import json

import numpy as np
import pytest

from jaxdet.metrics import average_precision
from jaxdet.metrics.comparison import compare
from jaxdet.metrics.protocols import PROTOCOLS
from jaxdet.types import Detections

TRUTHS = [(np.array([[0, 0, 10, 10.0]]), np.zeros(1, int))] * 3 + [(np.zeros((0, 4)), np.zeros(0))]
BOXES = np.array([[[1, 0, 11, 10]], [[0, 0, 5, 5]], [[0, 0, 0, 0]], [[0, 0, 9, 9.0]]])
FOUND = Detections(BOXES, np.array([[0.9], [0.8], [0], [0.95]]), np.array([[0], [0], [-1], [0]]))


def test_a_row_a_protocol():
    rows = compare(FOUND, TRUTHS)
    assert [row["protocol"] for row in rows] == list(PROTOCOLS)
    for row in rows:
        for overlap in ("iou", "iobb"):
            want = average_precision(FOUND, TRUTHS, overlap, (0.3, 0.5, 0.7), row["protocol"])
            got = [row[f"{overlap}{t}"] for t in (30, 50, 70)]
            assert got == want.tolist()
    assert len({row["why"] for row in rows}) == len(PROTOCOLS)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_they_differ_as_they_say():
    rows = {row["protocol"]: row for row in compare(FOUND, TRUTHS, skip_empty_images=True)}
    # The surest box is on a slice without a lesion: l0sg does not see it, fixed does.
    assert rows["l0sg"]["iou50"] == pytest.approx(1 / 3)
    assert rows["fixed"]["iou50"] == pytest.approx(1 / 6)
    assert rows["l0sg, PixelLink"]["iou50"] == pytest.approx(1 / 2)  # 2 of 3 truths count
    assert rows["voc"]["iou50"] == pytest.approx(1 / 6)


def test_without_truth_nothing_is_defined():
    rows = compare([], [])
    assert all(row["iou50"] is None and row["iobb70"] is None for row in rows)

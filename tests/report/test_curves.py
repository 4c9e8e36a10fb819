"""Curves: the numbers that are drawn, and that a picture comes out, whatever the history."""

import math

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from jaxdet.metrics import summarise
from jaxdet.report.curves import curves, epoch_means, precision_recall

BOX = np.array([[0, 0, 10, 10.0]])
HISTORY = [
    {"epoch": 0, "step": 1, "box": 4.0, "cls": 2.0, "dfl": 1.0, "total": 7.0, "lr": 0.1, "x": "?"},
    {"epoch": 0, "step": 2, "box": 2.0, "cls": 2.0, "dfl": 1.0, "total": 5.0, "lr": 0.2},
    {"epoch": 0, "ap50": 0.3, "ap50_95": 0.1, "precision": 0.5, "recall": None},
    {"epoch": 1, "step": 3, "box": 1.0, "cls": 2.0, "dfl": 1.0, "total": math.nan, "lr": 0.3},
]


@pytest.fixture
def drawn(monkeypatch):
    """What is plotted: {label: (x, y)}."""
    lines, plot = {}, Axes.plot

    def noted(self, x, y, **style):
        lines[style["label"]] = (list(x), list(y))
        return plot(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", noted)
    return lines


def test_means_of_an_epoch():
    assert epoch_means(HISTORY, "box") == ([0, 1], [3.0, 1.0])
    assert epoch_means(HISTORY, "ap50") == ([0], [0.3])
    assert epoch_means(HISTORY, "never") == ([], [])
    epochs, means = epoch_means(HISTORY, "total")
    assert epochs == [0, 1] and means[0] == 6 and math.isnan(means[1])
    assert math.isnan(epoch_means(HISTORY, "recall")[1][0])


def test_every_part_but_the_total_is_drawn_once(tmp_path, drawn):
    curves(HISTORY, tmp_path / "new" / "folder" / "curves.png")
    wanted = {"box", "cls", "dfl", "lr", "AP50", "AP50-95", "precision", "recall"}
    assert drawn.keys() == wanted
    assert drawn["lr"] == ([0, 1], pytest.approx([0.15, 0.3]))
    image = cv2.imread(str(tmp_path / "new" / "folder" / "curves.png"))
    assert image.shape[1] > 3 * image.shape[0] and image.std() > 5


def test_a_resumed_run_writes_a_step_twice_and_the_later_counts(tmp_path, drawn):
    again, evaluated = HISTORY[1] | {"box": 8.0}, HISTORY[2] | {"ap50": 0.9}
    curves([*HISTORY, again, evaluated], tmp_path / "curves.png")
    assert drawn["box"] == ([0, 1], [6.0, 1.0]) and drawn["AP50"] == ([0], [0.9])


def test_other_losses_and_no_rows(tmp_path, drawn):
    curves([{"epoch": 0, "step": 0, "link": 1.0, "box": 2.0}], tmp_path / "a.png", losses=("link",))
    assert drawn == {"link": ([0], [1.0])}
    drawn.clear()
    curves([], str(tmp_path / "b.png"))
    assert drawn == {} and cv2.imread(str(tmp_path / "b.png")).std() > 0


def test_precision_recall(tmp_path, drawn):
    found, truth = [(BOX, np.ones(1), np.zeros(1, int))], [(BOX, [0])]
    summary = summarise(found, truth, ["lesion", "cyst"], "coco", curves=True)
    precision_recall(summary, tmp_path / "pr.png")
    assert list(drawn) == ["lesion 1.000"]
    assert drawn["lesion 1.000"][1] == [1.0] * 101
    assert cv2.imread(str(tmp_path / "pr.png")).std() > 0
    with pytest.raises(ValueError, match="curves=True"):
        precision_recall(summarise(found, truth, ["lesion"]), tmp_path / "pr.png")
    drawn.clear()
    nothing = summarise([([], [], [])], [([], [])], ["lesion"], curves=True)
    precision_recall(nothing, tmp_path / "e.png")
    assert drawn == {} and (tmp_path / "e.png").is_file()

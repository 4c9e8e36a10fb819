"""Pictures of what GSSD++ does inside: phases in medical order, maps and taps where they belong."""

import cv2
import numpy as np
import pytest

from jaxdet.report import alignment as pictures
from jaxdet.report.alignment import Cells, Line
from jaxdet.types import PHASES, Detections

OFFICIAL = ("arterial", "delayed", "portal", "precontrast")
CELLS = Cells(4.0, 8.0)
BOX = np.array([[8, 16, 24, 32]], np.float32)
NO_BOX = np.zeros((0, 4), np.float32)


def image(phases=4):
    """Phase g is g / 10, its middle slice; the others are NaN and must not be looked at."""
    found = np.full((64, 64, 3 * phases), np.nan, np.float32)
    found[..., 1::3] = np.arange(phases) / 10
    return found


def read(path):
    shown = cv2.imread(str(path))
    assert shown is not None and shown.std() > 5
    return shown


def interval(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def test_phases_come_in_medical_order_whatever_the_channels_are():
    assert [OFFICIAL[i] for i in pictures.medical(OFFICIAL)] == list(PHASES)
    assert pictures.medical(("portal",) * 4) == [0, 1, 2, 3]
    assert pictures.medical(("other", "portal")) == [1, 0]
    found = pictures.middle_slices(image(), OFFICIAL)
    assert found.shape == (4, 64, 64)
    np.testing.assert_allclose(found[:, 5, 7], [0, 0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"12 channels are no equal number .* 5 phases"):
        pictures.middle_slices(image(), (*OFFICIAL, "late"))


def test_strength_is_the_norm_over_the_channels_of_a_phase():
    gate = np.zeros((3, 2, 8), np.float32)
    gate[1, 0, 2:4] = 3, -4
    found = pictures.strengths(gate, 4)
    assert found.shape == (4, 3, 2) and found[1, 1, 0] == 5 and found.sum() == 5
    with pytest.raises(ValueError, match="8 channels does not fall into 3 phases"):
        pictures.strengths(gate, 3)


def test_a_map_is_upsampled_about_the_middles_of_its_cells():
    rng = np.random.default_rng(0)
    ramp = pictures.upsampled(np.arange(8.0)[None].repeat(8, 0), CELLS, (64, 64))
    np.testing.assert_allclose(ramp[9, 4:60], (np.arange(4, 60) + 0.5 - 4) / 8, atol=1e-5)
    assert (ramp[:, :4] == 0).all() and (ramp[:, 60:] == 7).all()
    values = rng.random((8, 8))
    found = pictures.upsampled(values, Cells(4.5, 8.0), (64, 64))  # middles on those of pixels
    np.testing.assert_allclose(found[4::8, 4::8], values, atol=1e-6)


def test_places_are_nearest_to_the_boxes_centres():
    far = np.array([[60, 900, 70, 910]], np.float32)
    found = pictures.places_of(np.concatenate([BOX, far]), CELLS, (8, 8))
    assert found.tolist() == [[2, 2], [7, 7]]  # centre (16, 24): of a tie the even one
    assert pictures.places_of(NO_BOX, CELLS, (8, 8)).tolist() == [[4, 4]]


def test_taps_lie_about_their_place_and_move_by_dy_dx():
    offsets = np.zeros((8, 8, 4, 9, 2), np.float32)
    offsets[2, 3, 1, 5] = 0.5, -1
    taps = pictures.taps_px(offsets, CELLS)
    y, x = 4 + 8 * 2, 4 + 8 * 3
    grid = [[y + dy, x + dx] for dy in (-8, 0, 8) for dx in (-8, 0, 8)]
    np.testing.assert_allclose(taps[2, 3, 0], grid)
    np.testing.assert_allclose(taps[2, 3, 1, 5], [y + 4, x + 8 - 8])
    assert (taps[2, 3, 1] == taps[2, 3, 0]).all(axis=1).sum() == 8


def test_detections_stand_side_by_side_and_padding_is_not_drawn(tmp_path):
    slices, truths = [np.full((64, 48), 0.4, np.float32)] * 2, [BOX, NO_BOX]
    boxes = np.tile(np.float32([2, 2, 30, 50]), (2, 3, 1))
    labels, scores = np.int32([[0, 0, -1]] * 2), np.float32([[0.9, 0.1, 0.95]] * 2)
    found = {"GSSD": Detections(boxes, scores, labels)}
    nothing = {"GSSD": Detections(boxes, 0 * scores, labels * 0 - 1)}
    both = found | {"GSSD++": Detections(boxes, scores / 2, labels)}
    for name, some in {"one": found, "none": nothing, "two": both}.items():
        pictures.detections(slices, truths, some, ["p slice 1", "p slice 2"], tmp_path / name)
    one, none, two = (read(tmp_path / name) for name in ("one", "none", "two"))
    assert two.shape[1] > 1.6 * one.shape[1] and two.shape[0] == one.shape[0]
    assert one.shape == none.shape and (one != none).any()
    unsure = found["GSSD"]._replace(labels=np.int32([[-1, 0, -1]] * 2))  # 0.1 alone
    pictures.detections(
        slices, truths, {"GSSD": unsure}, ["p slice 1", "p slice 2"], tmp_path / "u"
    )
    assert (read(tmp_path / "u") == none).all()
    with pytest.raises(ValueError, match=r"1 data point and 1 model or more.* GSSD 2"):
        pictures.detections(slices[:1], truths[:1], found, ["p"], tmp_path / "x")
    with pytest.raises(ValueError, match="0 models"):
        pictures.detections(slices, truths, {}, ["p", "q"], tmp_path / "x")


def test_gate_and_samples_are_drawn_for_every_phase(tmp_path):
    rng = np.random.default_rng(0)
    gate = np.zeros((8, 8, 8), np.float32)
    pictures.gate(image(), gate, BOX, OFFICIAL, CELLS, tmp_path / "zero", "p slice 1")
    gate[2, 2, 3] = 1  # of the delayed phase, the last of the four
    pictures.gate(image(), gate, BOX, OFFICIAL, CELLS, tmp_path / "gate", "p slice 1")
    zero, one = read(tmp_path / "zero"), read(tmp_path / "gate")
    quarter = zero.shape[1] // 5  # the colour bar takes the last fifth, about
    same = (zero == one)[80:].all(axis=(0, 2))
    assert same[: 2 * quarter].all() and not same[3 * quarter : 4 * quarter].all()
    offsets = rng.normal(size=(8, 8, 4, 9, 2)).astype(np.float32)
    mask = rng.random((8, 8, 4, 9)).astype(np.float32)
    where = np.array([[0, 0], [7, 3]])
    two = tmp_path / "two"
    pictures.samples(image(), offsets, mask, NO_BOX, OFFICIAL, CELLS, two, where, "p slice 1")
    pictures.samples(
        image(), offsets[:, :, :1], mask[:, :, :1], BOX, OFFICIAL, CELLS, tmp_path / "a"
    )
    assert read(two).shape[0] > 1.2 * read(tmp_path / "a").shape[0]
    with pytest.raises(ValueError, match=r"on a map \(8, 8\)"):
        pictures.samples(image(), offsets, mask, BOX, OFFICIAL, CELLS, two, np.array([[8, 0]]))
    with pytest.raises(ValueError, match="4 phases want offsets"):
        pictures.samples(image(), offsets[:, :, :3], mask[:, :, :3], BOX, OFFICIAL, CELLS, two)


def test_a_line_and_no_pairs(tmp_path):
    x = np.linspace(-4, 4, 50)
    nothing = Line("A", np.zeros(0), np.zeros(0), np.nan, np.nan, "not defined")
    pictures.against_truth([[Line("A", x, x / 2, 0.5, 0.0, "slope 0.50"), nothing]], tmp_path / "p")
    assert read(tmp_path / "p").shape[1] > 500
    with pytest.raises(ValueError, match="1 panel or more"):
        pictures.against_truth([], tmp_path / "p")


def test_curves_of_one_kind_over_mm(tmp_path):
    points = [
        {"mm": 2.0, "ap": {"iou50": interval(0.6, 0.5, 0.7)}, "lost": {"iou50": interval(0.0)}},
        {"mm": 7.0, "ap": {"iou50": interval(0.4, 0.2, 0.5)}, "lost": {"iou50": interval(None)}},
    ]
    one = {"name": "GSSD", "along": "mm", "lost_is": "loss", "points": points}
    pictures.over_mm([one, one | {"name": "GSSD++"}], tmp_path / "p.png")
    read(tmp_path / "p.png")
    with pytest.raises(ValueError, match="curves of one kind"):
        pictures.over_mm([one, one | {"lost_is": "sensitivity"}], tmp_path / "p.png")
    with pytest.raises(ValueError, match="none"):
        pictures.over_mm([], tmp_path / "p.png")

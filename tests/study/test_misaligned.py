"""Curves over millimetres: bins against AP of their images alone, shifts against what moved."""

import dataclasses
import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxdet import metrics
from jaxdet import run as runs
from jaxdet.data.builders import store
from jaxdet.data.sources import Dataset, Record
from jaxdet.metrics.strata import MISALIGNED_MM
from jaxdet.study import misaligned
from jaxdet.study.misaligned import Seen
from jaxdet.train import loop
from jaxdet.types import PHASES, CtSlice, Detections

ORDER = ("arterial", "delayed", "portal", "precontrast")
APART = (1.0, 2.0, 3.0, 6.0, 7.0, 12.0, 13.0, float("nan"))


def dataset(apart=APART, side=40, pixel=0.5, phase="portal", channels=12):
    """An image for each misalignment, two of a patient, a lesion each; phases are a bright spot."""
    records = tuple(
        Record(
            name=f"p{i // 2} slice {i % 2}",
            patient=f"p{i // 2}",
            boxes_xyxy=np.array([[10, 10, 20, 20]], np.float32),
            labels=np.zeros(1, np.int32),
            crowd=np.zeros(1, bool),
            area=np.full(1, 100.0, np.float32),
            misaligned_mm=np.array([mm], np.float32),
            phase=phase,
            pixel_mm=(pixel, 2 * pixel),
        )
        for i, mm in enumerate(apart)
    )

    def pixels(i):
        image = np.full((side, side, channels), -1024, np.int16)
        image[18:22, 18:22] = 100 + np.arange(channels)
        return image

    return Dataset(("hcc",), records, "test", {}, pixels, (-150.0, 250.0))


def detections(shift_px):
    """One detection an image, so many px beside its lesion, and a false one on each."""
    shift = np.asarray(shift_px, np.float32)[:, None, None]
    boxes = np.float32([[[10, 10, 20, 20], [30, 30, 38, 38]]]) + shift * np.float32([1, 0, 1, 0])
    scores = np.tile(np.float32([0.8, 0.5]), (len(shift), 1))
    return Detections(boxes, scores, np.zeros((len(shift), 2), np.int32))


def seen(shift_px, name="GSSD", **fields):
    return Seen(name, dataset(**fields), detections(shift_px))


def ap(one, rows, overlap):
    found = [tuple(field[i] for field in one.found) for i in rows]
    truths = [(r.boxes_xyxy, r.labels) for r in (one.dataset.records[i] for i in rows)]
    return metrics.average_precision(found, truths, overlap, protocol="l0sg")[0]


def test_a_bin_is_the_ap_of_its_images_and_what_is_lost_against_the_lowest():
    one = seen([0, 0, 0, 0, 9, 9, 2, 0])
    told = misaligned.in_bins(one, samples=50)
    rows = {"below 5": [0, 1, 2], "5-10": [3, 4], "10-15": [5, 6]}
    assert [point["name"] for point in told["points"]] == list(rows)
    assert [point["mm"] for point in told["points"]] == [2.0, 6.5, 12.5]
    assert [(p["data_points"], p["patients"]) for p in told["points"]] == [(3, 2), (2, 2), (2, 2)]
    assert (told["unknown"], told["data_points"], told["protocol"]) == (1, 8, "l0sg")
    assert told["compared_with"] == "below 5" and "Eq. 6" not in told["lost_is"]
    for key, overlap in misaligned.OVERLAPS.items():
        lowest = ap(one, rows["below 5"], overlap)
        for point in told["points"]:
            value = ap(one, rows[point["name"]], overlap)
            assert point["ap"][key]["value"] == pytest.approx(value, abs=1e-12)
            assert point["lost"][key]["value"] == pytest.approx(1 - value / lowest, abs=1e-12)
    assert told["points"][0]["lost"]["iou50"]["low"] == 0.0
    assert list(rows) == list(MISALIGNED_MM)[:3]  # those of the strata
    assert json.loads(json.dumps(told)) == told


def test_against_the_registered_twin_it_is_equation_6_on_the_same_data_points():
    one = seen([0, 9, 0, 9, 9, 9, 0, 0])
    twin = seen([0, 0, 0, 0, 9, 0, 0, 9], "registered", apart=[float("nan")] * 8)
    back = np.arange(8)[::-1]  # found by name, not by place
    records = tuple(twin.dataset.records[i] for i in back)
    twin = Seen(
        "registered",
        dataclasses.replace(twin.dataset, records=records),
        Detections(*(field[back] for field in twin.found)),
    )
    told = misaligned.in_bins(one, twin, samples=20)
    assert told["lost_is"] == misaligned.EQ6 and told["compared_with"] == "registered"
    for point, rows in zip(told["points"], ([0, 1, 2], [3, 4], [5, 6]), strict=True):
        unregistered = ap(one, rows, "iou")
        registered = ap(twin, [7 - i for i in rows], "iou")
        assert point["ap"]["iou50"]["value"] == pytest.approx(unregistered)
        assert point["compared"]["iou50"]["value"] == pytest.approx(registered)
        assert point["lost"]["iou50"]["value"] == pytest.approx(1 - unregistered / registered)


def test_an_interval_is_over_patients_and_nothing_found_has_no_loss():
    many = seen(np.tile([0, 0, 9, 0], 10), apart=[2.0, 8.0] * 20)
    told = misaligned.in_bins(many, samples=300)
    for point in told["points"]:
        one = point["ap"]["iou50"]
        assert one["low"] < one["value"] < one["high"] or one["low"] == pytest.approx(1)
        assert one["patients"] == 20
    nothing = seen(np.full(8, 9))
    told = misaligned.in_bins(nothing, samples=10)
    assert told["points"][0]["ap"]["iou50"]["value"] == 0
    assert told["points"][0]["lost"]["iou50"]["value"] is None


def test_bins_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"of 8 data points none has a known .*phantom_multiphase"):
        misaligned.in_bins(seen([0] * 8, apart=[float("nan")] * 8))
    with pytest.raises(ValueError, match="lower ends in mm that rise"):
        misaligned.in_bins(seen([0] * 8), lower_mm={"b": 5.0, "a": 0.0})
    other = seen([0] * 4, "other", apart=APART[:4])
    with pytest.raises(ValueError, match=r"other has looked at other .* lacks 4, such as p2"):
        misaligned.in_bins(seen([0] * 8), other)


def centre(image):
    """y, x of the bright spot of each channel."""
    weights = image.astype(float) - image.min()
    grid = np.indices(image.shape[:2])[..., None]
    return (grid * weights).sum((1, 2)) / weights.sum((0, 1))


@pytest.mark.parametrize("mm", [2.0, 4.0, 8.0])
def test_every_phase_but_the_annotated_one_is_so_many_mm_away(mm):
    plain = dataset(pixel=1.0, side=64)
    moved = misaligned.shifted(plain, ORDER, mm)
    for i in range(3):
        before, after = plain.pixels(i), moved.pixels(i)
        assert after.dtype == np.int16 and after.shape == before.shape
        away = (centre(after) - centre(before)) * np.array([[2.0], [1.0]])  # y, x in mm
        apart = np.hypot(*away).reshape(4, 3)
        np.testing.assert_allclose(apart[[0, 1, 3]], mm, atol=0.15)
        assert (apart[2] == 0).all()  # portal
        by_phase = away.reshape(2, 4, 3)
        np.testing.assert_allclose(by_phase, by_phase[..., :1].repeat(3, -1), atol=0.05)
        assert np.abs(by_phase[:, 0, 0] - by_phase[:, 1, 0]).max() > 0.2  # a direction each
    assert all(record.misaligned_mm is None for record in moved.records)
    assert moved[0].image.dtype == np.float32 and moved[0].image.min() == 0


def test_directions_hold_for_all_mm_and_follow_the_seed():
    plain = dataset(pixel=1.0, side=64)
    two, four, other = (
        centre(misaligned.shifted(plain, ORDER, mm, seed).pixels(5)) - centre(plain.pixels(5))
        for mm, seed in ((2, 0), (4, 0), (4, 1))
    )
    np.testing.assert_allclose(2 * two, four, atol=0.1)
    assert np.abs(four - other).max() > 0.5
    still = misaligned.shifted(plain, ORDER, 0).pixels(5)
    np.testing.assert_array_equal(still, plain.pixels(5))
    # Portal only: the four copies of a phase that is not the annotated one move as one.
    drawn = dataset(phase="delayed", pixel=1.0, side=64)
    same = centre(misaligned.shifted(drawn, ("portal",) * 4, 4).pixels(0))
    np.testing.assert_allclose(same, same[:, :1].repeat(12, 1), atol=0.05)


def test_shifts_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"p0 slice 0: a shift in mm wants .* drawn; got"):
        misaligned.shifted(dataset(phase=""), ORDER, 2)
    with pytest.raises(ValueError, match="0 mm or more"):
        misaligned.shifted(dataset(), ORDER, -1)
    with pytest.raises(ValueError, match="p0 slice 0: 12 channels do not fall into 5 phases"):
        misaligned.shifted(dataset(), (*ORDER, "late"), 2).pixels(0)


def test_a_run_loses_as_its_phases_go_apart(tmp_path, monkeypatch):
    """A detector that boxes what is bright in all channels, scored with 0, 4 and 16 mm."""
    toy.enlist(monkeypatch.setitem)
    plain = dataset(pixel=1.0, side=64)
    boxes = np.array([[17, 17, 23, 23]], np.float32)
    records = tuple(dataclasses.replace(r, boxes_xyxy=boxes) for r in plain.records)
    plain = dataclasses.replace(plain, records=records)
    monkeypatch.setattr(misaligned, "_unseen", lambda *_: plain)

    def detect(_, images):
        bright = (images > 0.4).all(-1).any((1, 2))
        found = jnp.broadcast_to(jnp.array([[17.0, 17, 23, 23]]), (len(images), 1, 4))
        return Detections(found, 0.9 * bright[:, None], jnp.where(bright, 0, -1)[:, None])

    monkeypatch.setattr(
        misaligned,
        "_program",
        lambda *_: (misaligned.parallel.map_detect(detect), misaligned.parallel.replicate(0.0)),
    )
    made = toy.experiment(toy.Config(channels=12), data={"channels": 12, "threads": 1})
    run = runs.create(tmp_path / "run", made, ("hcc",), phase_order=list(ORDER), neighbours=3)
    told = misaligned.against_shift(run, shifts_mm=(0, 1, 16), samples=20)
    values = [point["ap"]["iou50"]["value"] for point in told["points"]]
    assert values[0] == 1 and values[-1] == 0 and values[1] >= values[2]
    assert told["points"][-1]["lost"]["iou50"]["value"] == 1
    assert told["points"][0]["lost"]["iou50"]["low"] == 0
    assert told["along"] == misaligned.SHIFTED and "Eq. 6" not in told["lost_is"]
    misaligned.write([told], tmp_path, "shifts")
    assert json.loads((tmp_path / "shifts.json").read_text()) == {"curves": [told]}
    for overlap in misaligned.OVERLAPS:
        assert cv2.imread(str(tmp_path / f"shifts_{overlap}.png")).std() > 5
    bare = runs.create(tmp_path / "bare", made, ("hcc",))
    with pytest.raises(ValueError, match=r"not known.*write phase_order into its run.json"):
        misaligned.against_shift(bare)


def ct(patient):
    field = np.zeros((5, 5, 4, 3), np.float32)
    field[:, :, PHASES.index("delayed"), 0] = 4 * patient  # mm
    return CtSlice(
        hu=np.full((40, 40, 12), 50, np.int16) + np.arange(40, dtype=np.int16)[:, None] + patient,
        boxes_xyxy=np.array([[8, 8, 24, 24]], np.float32),
        labels=np.zeros(1, np.int32),
        diameters_mm=np.full(1, 18, np.float32),
        lesions=None,
        livers=None,
        displacement_mm=field,
        spacing_mm=(1.0, 1.0, 5.0),
        phases=PHASES,
        annotated="portal",
        touching=0,
        patient=f"p{patient}",
        name=f"p{patient} slice 3",
        z=3,
    )


def test_a_run_is_seen_on_its_own_prepared_set(tmp_path, monkeypatch):
    toy.enlist(monkeypatch.setitem)
    examples = [("test", ct(i)) for i in range(3)]
    store.write(tmp_path, "fake/tiny", examples, {"class_names": ["hcc"]})
    data = {"source": "tfds", "path": str(tmp_path), "builder": "fake/tiny", "split": "given"}
    data |= {"channels": 12, "phases": ORDER, "threads": 1, "window_hu": (-150.0, 250.0)}
    made = toy.experiment(toy.Config(channels=12), data=data)
    facts = {"phase_order": list(ORDER), "neighbours": 3, "trained_on": ["p9"]}
    run = runs.create(tmp_path / "run", made, ("hcc",), **facts)
    run.save_weights(loop.fresh_variables(made))
    one = misaligned.see(run)
    assert one.name == "run" and one.found.scores.shape[0] == len(one.dataset) == 3
    assert misaligned.see(run, name="gssd_pp").name == "gssd_pp"
    told = misaligned.in_bins(one, samples=5, protocol="coco")
    assert [(p["name"], p["mm"]) for p in told["points"]] == [("below 5", 2.0), ("5-10", 8.0)]
    told = misaligned.against_shift(run, shifts_mm=(0.0, 4.0), samples=5)
    assert [point["data_points"] for point in told["points"]] == [3, 3]
    runs.remember(run, trained_on=["p1"])
    with pytest.raises(ValueError, match=r"was trained on 1 of the patients .*p1"):
        misaligned.see(runs.open_run(run.path))

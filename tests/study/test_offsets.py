"""Offsets that are the truth, a share of it, or nothing to do with it: what is said of them."""

import json

import cv2
import jax
import numpy as np
import pytest

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Data, Evaluate, Experiment
from jaxdet.data import sources
from jaxdet.data.builders import store
from jaxdet.models import gssd
from jaxdet.ops import deform
from jaxdet.study import inside, offsets
from jaxdet.study.offsets import Measured
from jaxdet.types import PHASES, CtSlice

OFFICIAL = ("arterial", "delayed", "portal", "precontrast")
SIDE = 64


def case(patient, z=3, *, moved=True, annotated="delayed", livers=True, spacing=0.8):
    """64 x 64 px; body but for a border of air, the liver on the left, a lesion, phases apart."""
    rng = np.random.default_rng(patient)
    hu = np.full((SIDE, SIDE, 12), 50, np.int16)
    hu[:6] = hu[-6:] = -1000
    hu[30:34, 30:34] = -900  # gas inside
    hu[2, 10:20] = 300  # the table
    lesions = np.zeros((SIDE, SIDE), np.uint8)
    lesions[20:36, 8:24] = 1
    field = rng.normal(0, 4, (8, 8, 4, 3)).astype(np.float32)
    field[:, :, PHASES.index("portal")] = 0
    liver = np.zeros((SIDE, SIDE, 4), bool)
    liver[8:56, :32, PHASES.index("portal")] = True
    return CtSlice(
        hu=hu + rng.integers(0, 30, hu.shape, np.int16),
        boxes_xyxy=np.array([[8, 20, 24, 36]], np.float32),
        labels=np.zeros(1, np.int32),
        diameters_mm=np.full(1, 18, np.float32),
        lesions=lesions,
        livers=liver if livers else None,
        displacement_mm=field if moved else None,
        spacing_mm=(spacing, 2 * spacing, 5.0),
        phases=PHASES,
        annotated=annotated,
        touching=0,
        patient=f"p{patient}",
        name=f"p{patient} slice {z}",
        z=z,
    )


def experiment(path, *, phases=OFFICIAL, builder="fake/tiny", **model):
    return Experiment(
        model=models.config("gssd_pp", **{"width": 1 / 16, "attention_heads": "none", **model}),
        data=Data(
            source="tfds",
            path=str(path),
            builder=builder,
            phases=phases,
            image_size=300,
            channels=12,
            window_hu=(-150.0, 250.0),
            pad=(0.0,),
            threads=1,
        ),
        evaluate=Evaluate(batch_size=8, split="test"),
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    known = {"class_names": ["hcc"]}
    store.write(path, "fake/tiny", [("test", case(i // 2, i % 2)) for i in range(4)], known)
    store.write(path, "fake/registered", [("test", case(0, moved=False))], known)
    return path


@pytest.fixture(scope="module")
def run(sets, tmp_path_factory):
    """A RUN whose offsets are the same everywhere: its offset predictor is a bias alone."""
    made = experiment(sets)
    path = tmp_path_factory.mktemp("runs") / "run"
    found = runs.create(path, made, ("hcc",), phase_order=list(OFFICIAL), neighbours=3)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: np.full(x.shape, 0.01, np.float32) + rng.random(x.shape, np.float32) / 50,
        runs.abstract_variables(made),
    )
    part = variables["params"]["align_0"]["offset"]
    part["kernel"] = np.zeros_like(part["kernel"])
    part["bias"] = rng.normal(size=part["bias"].shape).astype(np.float32)
    found.save_weights(variables)
    return found


def synthetic(share, noise, *, patients=12, common=0.0, seed=0):
    """Two slices a patient of 10 x 10 places; offsets are a share of the truth and noise."""
    rng = np.random.default_rng(seed)
    # Each patient's phases lie apart by shifts, and bend a little.
    shifts = rng.normal(0, 4, (patients, 1, 1, 1, 4, 2)).repeat(2, 1)
    truths = (shifts + rng.normal(0, 1, (patients, 2, 10, 10, 4, 2))).reshape(-1, 10, 10, 4, 2)
    truths[:, :, :, OFFICIAL.index("portal")] = 0
    whole = share * truths + noise * rng.normal(size=truths.shape)
    whole += common * rng.normal(0, 4, (len(truths), 1, 1, 1, 2))  # of all phases alike
    names = tuple(f"p{i // 2} slice {i % 2}" for i in range(len(truths)))
    inside = rng.random(truths.shape[:3]) < 0.7
    whole[~inside] = 1000  # must not be looked at
    return Measured(
        names, tuple(n.split()[0] for n in names), OFFICIAL, np.float32(whole), truths, inside
    )


def row(rows, frame="to portal", pairs="true", phase="all", axis="both"):
    wanted = {"frame": frame, "pairs": pairs, "phase": phase, "axis": axis}
    (found,) = [one for one in rows if wanted.items() <= one.items()]
    return found


def test_half_of_the_truth_has_a_slope_of_a_half_and_shuffled_none():
    found = synthetic(0.5, 0.5)
    rows = offsets.regress(found, samples=400)
    assert len(rows) == 2 * 3 * 4 * 3
    for phase in ("precontrast", "arterial", "delayed", "all"):
        for axis in offsets.AXES:
            true = row(rows, phase=phase, axis=axis)
            assert true["slope"] == pytest.approx(0.5, abs=0.03)
            assert true["slope_low"] < 0.5 < true["slope_high"]
            assert true["slope_high"] - true["slope_low"] < 0.1 and true["r"] > 0.85
            assert true["r_low"] < true["r"] < true["r_high"] and not true["why"]
    for pairs in ("other phases", "other patients"):
        chance = row(rows, pairs=pairs)
        assert abs(chance["slope"]) < 0.2 and abs(chance["r"]) < 0.35
        assert chance["slope_low"] < 0 < chance["slope_high"]
    assert row(rows, phase="arterial", axis="x")["n"] == found.inside.sum()
    assert row(rows)["n"] == 6 * found.inside.sum()
    assert json.loads(json.dumps(rows)) == rows


def test_a_row_is_the_least_squares_line_of_its_places():
    found = synthetic(0.3, 1.0)
    p = OFFICIAL.index("arterial")
    x = found.truths_mm[..., p, 0][found.inside]
    y = found.offsets_mm[..., p, 0][found.inside].astype(float)
    one = row(offsets.regress(found, samples=5), frame="own", phase="arterial", axis="y")
    np.testing.assert_allclose((one["slope"], one["intercept"]), np.polyfit(x, y, 1), rtol=1e-9)
    assert one["r"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
    assert one["truth_rms_mm"] == pytest.approx(np.sqrt((x**2).mean()))
    assert one["offset_rms_mm"] == pytest.approx(np.sqrt((y**2).mean()))


def test_a_shift_of_all_phases_is_seen_in_their_own_frame_only():
    rows = offsets.regress(synthetic(1.0, 0.1, common=3.0), samples=100)
    assert row(rows)["slope"] == pytest.approx(1.0, abs=0.02) and row(rows)["r"] > 0.99
    assert row(rows, frame="own")["r"] < 0.6
    assert row(rows, frame="own")["slope_high"] - row(rows, frame="own")["slope_low"] > 0.2


def test_what_is_not_defined_is_none_and_says_why():
    one = synthetic(0.5, 0.5, patients=1)
    rows = offsets.regress(one, samples=20)
    true, chance = row(rows), row(rows, pairs="other patients")
    assert true["slope"] is not None and true["slope_low"] is None and true["why"] == "1 patient"
    assert (chance["slope"], chance["r"], chance["n"]) == (None, None, 0)
    still = one._replace(offsets_mm=np.zeros_like(one.offsets_mm))  # as the training begins
    true = row(offsets.regress(still, samples=20))
    assert true["slope"] == 0 and true["r"] is None
    nowhere = one._replace(inside=np.zeros_like(one.inside))
    assert row(offsets.regress(nowhere, samples=20))["slope"] is None
    assert "NaN" not in json.dumps(rows)


@pytest.mark.parametrize("share", [-1.0, 0.0, 1.0])
def test_an_offset_of_plus_the_displacement_aligns(share):
    """Through the op itself: a phase that shows tissue 2 px lower and 1 px to the right."""
    rng = np.random.default_rng(0)
    portal = cv2.GaussianBlur(rng.random((SIDE, SIDE), np.float32), (0, 0), 2)
    late = np.roll(portal, (2, 1), (0, 1))
    one = case(0, spacing=0.8)
    one.displacement_mm[:, :, PHASES.index("delayed"), :2] = 1 * 0.8, 2 * 1.6  # x, y in mm
    middles = np.arange(SIDE) + 0.5
    order = ("portal", "delayed")
    moved_mm = offsets.displacements(one, order, middles, middles)
    moved_px = moved_mm / np.array([1.6, 0.8])  # y, x
    kernel = np.zeros((3, 3, 1, 2), np.float32)
    kernel[1, 1] = 1  # each phase as it is read
    taps = share * moved_px[None, :, :, :, None].repeat(9, 4).astype(np.float32)
    x = np.stack([portal, late], -1)[None]
    read = np.asarray(deform.deform_conv(x, taps, None, kernel))[0, 4:-4, 4:-4]
    apart = np.abs(read[..., 1] - read[..., 0]).max()
    assert apart < 1e-5 if share == 1 else apart > 0.05


def test_displacements_are_linear_between_the_blocks_middles_and_in_the_order_asked():
    one = case(0)
    at = np.array([4.0, 12.0, 60.0])
    found = offsets.displacements(one, OFFICIAL, at, at)
    wanted = one.displacement_mm[[0, 1, 7]][:, [0, 1, 7]][
        ..., [PHASES.index(p) for p in OFFICIAL], :
    ]
    np.testing.assert_allclose(found, wanted[..., 1::-1], rtol=1e-6)
    halfway = offsets.displacements(one, ("arterial",), np.array([8.0]), np.array([4.0]))[0, 0, 0]
    np.testing.assert_allclose(halfway, one.displacement_mm[:2, 0, 1, 1::-1].mean(0), rtol=1e-6)
    beyond = offsets.displacements(one, ("arterial",), np.array([-9.0]), np.array([99.0]))[0, 0, 0]
    np.testing.assert_allclose(beyond, one.displacement_mm[0, 7, 1, 1::-1], rtol=1e-6)


def test_places_inside_liver_body_and_lesion():
    one, at = case(0), np.arange(-4.0, 76, 8)
    liver = offsets.places_inside(one, at, at, "liver")
    wanted = (at[:, None] >= 8) & (at[:, None] < 56) & (at < 32) & (at >= 0)
    np.testing.assert_array_equal(liver, wanted)
    fine = np.arange(SIDE) + 0.5
    body = offsets.places_inside(one, fine, fine, "body")
    assert body[6:-6].all() and not body[:6].any() and not body[-6:].any()  # gas in, table out
    one.displacement_mm[:, :, PHASES.index("delayed"), :2] = 8 * 0.8, 16 * 1.6  # px: x 8, y 16
    lesion = offsets.places_inside(one, fine, fine, "lesion")
    assert lesion[4:20, :16].all() and lesion.sum() == 16 * 16


def test_a_run_is_measured_in_mm_of_the_original(run, tmp_path, monkeypatch):
    found = offsets.measure(run)  # in the liver, by the masks
    assert found.offsets_mm.shape == found.truths_mm.shape == (4, 38, 38, 4, 2)
    bias = run.all_weights()["params"]["align_0"]["offset"]["bias"]
    by_tap, mask = bias[:72].reshape(4, 9, 2), 1 / (1 + np.exp(-bias[72:].reshape(4, 9)))
    mean = (by_tap * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    per_px = np.array([1.6, 0.8]) * 8 * SIDE / 300  # map, image, original, mm
    np.testing.assert_allclose(
        found.offsets_mm, np.broadcast_to(mean * per_px, found.offsets_mm.shape), rtol=1e-4
    )
    # Place (9, 10) has its middle at 76 px and 84 px of 300.
    at = (np.array([n]) * SIDE / 300 for n in (76, 84))
    wanted = offsets.displacements(case(1, 0), OFFICIAL, *at)[0, 0]
    np.testing.assert_allclose(found.truths_mm[2, 9, 10], wanted, rtol=1e-4, atol=1e-5)
    assert found.names[2] == "p1 slice 0" and found.inside[2, 9, 10]
    assert found.inside.sum() == 4 * found.inside[0].sum() and not found.inside[:, :, 20:].any()

    monkeypatch.setattr(offsets, "measure", lambda *_, **__: found)
    told = offsets.against_truth(run, tmp_path, samples=10)
    assert (told["data_points"], told["patients"], told["phases"]) == (4, 2, list(OFFICIAL))
    assert told["places"] == found.inside.sum() and told["level"] == "conv4_3"
    assert told["run"] == "run"  # its folder, not where that lies
    assert json.loads((tmp_path / "offsets.json").read_text()) == told
    assert cv2.imread(str(tmp_path / "offsets.png")).std() > 5


@pytest.mark.parametrize("taps", ["masked", "plain"])
def test_the_mean_over_taps_is_by_their_masks_or_plain(monkeypatch, taps):
    rng = np.random.default_rng(0)
    moved = rng.normal(size=(2, 3, 3, 4, 9, 2)).astype(np.float32)
    mask = rng.random((2, 3, 3, 4, 9), np.float32)
    mask[0, 0, 0] = 0
    monkeypatch.setattr(offsets, "sown", lambda *_: (None, moved, mask))
    cfg = models.config("gssd_pp")
    (found,) = offsets.mean_offsets(cfg, {}, np.zeros((2, 300, 300, 12), np.float32), taps)
    if taps == "plain":
        np.testing.assert_allclose(found, moved.mean(4), rtol=1e-5, atol=1e-6)
    else:
        wanted = np.average(moved[1], axis=3, weights=mask[1, ..., None].repeat(2, -1))
        np.testing.assert_allclose(found[1], wanted, rtol=1e-5, atol=1e-6)
        assert (np.asarray(found)[0, 0, 0] == 0).all()


def test_looking_inside_draws_gates_and_taps(run, tmp_path):
    dataset = sources.load(run.experiment.data, "test")
    (one,) = inside.look(run, dataset, [3])
    assert one.name == "p1 slice 1" and one.image.shape == (300, 300, 12)
    assert one.gate.shape == (38, 38, 32) and one.offsets.shape == (38, 38, 4, 9, 2)
    np.testing.assert_allclose(one.truths_xyxy, [[37.5, 93.75, 112.5, 168.75]], rtol=1e-5)
    files = inside.draw(run, [one], tmp_path)
    assert [file.name for file in files] == ["gate_0.png", "samples_0.png"]
    assert all(cv2.imread(str(file)).std() > 5 for file in files)


def test_cells_follow_the_network():
    for size, levels in gssd.EXTRAS.items():
        wanted = [(4.0, 8.0), (8.0, 16.0), (8.0, 32.0), (8.0, 64.0)]
        for level, cells in zip(gssd.LEVELS, wanted, strict=False):
            cfg = models.config("gssd_pp", image_size=size, align_at=level)
            assert inside.cells_of(cfg) == cells
        assert len(levels) >= 4
    last = models.config("gssd_pp", align_at="conv10_2")
    assert inside.cells_of(last) == (8.0 + 64, 64.0)  # 5 to 3 places, nothing around
    for version, level, cells in (("4s", "conv3_3", (2, 4)), ("2s", "conv7", (8, 16))):
        linked = models.config("pixellink_pp", version=version, align_at=level)
        assert inside.cells_of(linked) == cells
    assert models.aligned(models.config("pixellink_pp", version="2s"))[0] == 1
    assert models.aligned(models.config("gssd")) is None
    assert models.aligned(models.config("yolov8n")) is None


@pytest.mark.parametrize(
    ("model", "phases", "match"),
    [
        ({"align": "none"}, OFFICIAL, "no deformable alignment.* train one with --model.align"),
        ({"align_groups": 1}, OFFICIAL, "model.align_groups=1.* belong to no phase"),
        ({}, ("portal",) * 4, "has the phases .portal, portal.* wanted 4 different ones"),
    ],
)
def test_a_run_without_offsets_of_its_phases_is_refused(sets, tmp_path, model, phases, match):
    made = experiment(sets, phases=phases, **model)
    bare = runs.create(tmp_path / "run", made, ("hcc",), phase_order=list(phases), neighbours=3)
    with pytest.raises(ValueError, match=match):
        offsets.measure(bare)


def test_data_without_displacements_are_refused(sets, tmp_path):
    made = experiment(sets, builder="fake/registered")
    other = runs.create(tmp_path / "a", made, ("hcc",), phase_order=list(OFFICIAL), neighbours=3)
    with pytest.raises(ValueError, match=r"p0 slice 3: its displacements .* take it unregistered"):
        offsets.measure(other)
    made = Experiment(model=made.model, data=Data(channels=12, image_size=300))
    other = runs.create(tmp_path / "b", made, ("hcc",), phase_order=list(OFFICIAL), neighbours=3)
    with pytest.raises(ValueError, match=r"knows no displacements: .*phantom_multiphase"):
        offsets.measure(other)

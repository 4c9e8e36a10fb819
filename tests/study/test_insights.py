"""Pictures and curves of two networks, on a phantom's slices and on such as real CT is."""

import dataclasses
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Data, Evaluate, Experiment
from jaxdet.data.builders import store
from jaxdet.study import insights, misaligned
from jaxdet.types import PHASES, CtSlice, Detections

ORDER = ("arterial", "delayed", "portal", "precontrast")
SIDE = 64
NAN = float("nan")
PICTURES = [
    "detections.png",
    *(f"{what}_{i}.png" for i in range(2) for what in ("gate", "samples")),
]
CURVES = ("misaligned", "shifted", "sensitivity")
LESION = (8.0, 20.0, 24.0, 36.0)


def case(patient):
    """A slice with a lesion; the delayed phase lies 4 mm further away in each next patient."""
    field = np.zeros((8, 8, 4, 3), np.float32)
    field[:, :, PHASES.index("delayed"), 0] = 2 + 4 * patient
    hu = np.random.default_rng(patient).integers(0, 80, (SIDE, SIDE, 12), np.int16)
    return CtSlice(
        hu=hu,
        boxes_xyxy=np.array([LESION], np.float32),
        labels=np.zeros(1, np.int32),
        diameters_mm=np.full(1, 18, np.float32),
        lesions=None,
        livers=np.ones((SIDE, SIDE, 4), bool),
        displacement_mm=field,
        spacing_mm=(0.8, 0.8, 5.0),
        phases=PHASES,
        annotated="portal",
        touching=0,
        patient=f"p{patient}",
        name=f"p{patient} slice 3",
        z=3,
    )


def bare(patient):
    """As data/builders/gssd.py has the official files: nothing is known in mm, nor the liver."""
    unknown = {"diameters_mm": np.full(1, NAN, np.float32), "spacing_mm": (NAN, NAN, NAN)}
    return dataclasses.replace(case(patient), livers=None, displacement_mm=None, **unknown)


def registered(patient):
    return dataclasses.replace(case(patient), displacement_mm=None)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder, known = tmp_path_factory.mktemp("sets"), {"class_names": ["hcc"]}
    for name, make in (("ct", case), ("ct_nonrigid", registered), ("real", bare)):
        store.write(folder, f"fake/{name}", [("test", make(i)) for i in range(3)], known)
    return folder


def network(sets, out, key, model, builder):
    """A RUN of any weights in the folder where the study keeps the first seed of a row."""
    data = Data(
        source="tfds",
        path=str(sets),
        builder=f"fake/{builder}",
        split="given",
        phases=ORDER,
        image_size=300,
        channels=12,
        window_hu=(-150.0, 250.0),
        pad=(0.0,),
        threads=1,
    )
    evaluate = Evaluate(batch_size=8, protocol="l0sg", split="test")
    made = Experiment(model=model, data=data, evaluate=evaluate)
    facts = {"phase_order": list(ORDER), "neighbours": 3, "trained_on": ["p9"]}
    run = runs.create(out / "rows" / key / "seed_0", made, ("hcc",), **facts)
    rng = np.random.default_rng(0)
    shapes = runs.abstract_variables(made)
    run.save_weights(jax.tree.map(lambda x: rng.random(x.shape, np.float32) / 50, shapes))
    return run


def gssd(sets, out, builder="ct", key="gssd"):
    """A toy in the place of GSSD: it aligns nothing either."""
    return network(sets, out, key, toy.Config(channels=12), builder)


def both(sets, out, builder):
    """And GSSD++ of a sixteenth of the width."""
    aligns = models.config("gssd_pp", width=1 / 16, attention_heads="none")
    pp = network(sets, out, "gssd_pp", aligns, builder)
    return {"GSSD": gssd(sets, out, builder), "GSSD++": pp}


def detect(_, images):
    """Boxes each lesion, in px of the 300 that go in; where phases were shifted it is less sure."""
    box = jnp.array(LESION) * 300 / SIDE
    found = jnp.broadcast_to(box, (len(images), 1, 4))
    return Detections(
        found, 0.9 * images.mean((1, 2, 3))[:, None], jnp.zeros((len(images), 1), int)
    )


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    """Toys, and heads that need not compile: what is asked here lies before them."""
    toy.enlist(monkeypatch.setitem)
    parallel = misaligned.parallel
    program = parallel.map_detect(detect), parallel.replicate(0.0)
    monkeypatch.setattr(misaligned, "_program", lambda *_: program)
    monkeypatch.setattr(insights, "SHOWN", 2)


def split(files):
    """What was made, and why what was not made was not; names without their folder."""
    assert all(one["file"].startswith(f"{insights.FOLDER}/") for one in files)
    short = [{**one, "file": one["file"].rpartition("/")[2]} for one in files]
    made = [one["file"] for one in short if "why" not in one]
    return made, {one["file"]: one["why"] for one in short if "why" in one}


def are_there(folder, made):
    """Exactly the files that were told of; pictures show something."""
    assert sorted(made) == sorted(path.name for path in folder.iterdir())
    for name in made:
        assert not name.endswith(".png") or cv2.imread(str(folder / name)).std() > 5


def test_on_a_phantom_everything_is_drawn_and_says_of_what(sets, tmp_path):
    plain = both(sets, tmp_path, "ct")
    twin = gssd(sets, tmp_path, "ct_nonrigid", "gssd_nonrigid")
    told = []
    found = insights.write(plain, {"GSSD": twin}, tmp_path, told.append, samples=20)
    made, lacking = split(found)
    folder = tmp_path / insights.FOLDER
    assert lacking == {} and len(told) == 5
    ends = (".json", *(f"_{overlap}.png" for overlap in misaligned.OVERLAPS))
    wanted = [f"{name}{end}" for name in CURVES for end in ends]
    assert made == [*PICTURES, *wanted, "offsets.json", "offsets.png"]
    are_there(folder, made)

    read = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in (*CURVES, "offsets")
    }
    curves = {name: read[name]["curves"] for name in CURVES}
    for name in ("misaligned", "shifted"):
        assert [curve["name"] for curve in curves[name]] == ["GSSD", "GSSD++"]
    assert [point["mm"] for point in curves["misaligned"][0]["points"]] == [2.0, 6.0, 10.0]
    assert [point["mm"] for point in curves["shifted"][1]["points"]] == list(misaligned.SHIFTS_MM)
    (curve,) = curves["sensitivity"]  # GSSD++ has no twin
    assert (curve["name"], curve["compared_with"]) == ("GSSD", "gssd_nonrigid")
    assert curve["lost_is"] == misaligned.EQ6
    for point in curve["points"]:
        assert point["ap"]["iou50"]["value"] == point["compared"]["iou50"]["value"] == 1
        assert point["lost"]["iou50"]["value"] == 0
    assert read["offsets"]["run"] == "gssd_pp" and read["offsets"]["data_points"] == 3
    assert str(tmp_path) not in json.dumps([read, found])


def test_on_real_ct_all_that_needs_no_mm_is_drawn_and_the_rest_says_why(sets, tmp_path):
    plain, told = both(sets, tmp_path, "real"), []
    twin = gssd(sets, tmp_path, "real", "gssd_nonrigid")
    made, lacking = split(insights.write(plain, {"GSSD": twin}, tmp_path, told.append, samples=20))
    assert made == PICTURES
    are_there(tmp_path / insights.FOLDER, made)
    assert list(lacking) == [f"{name}.json" for name in (*CURVES, "offsets")]
    unknown = "of 3 data points none has a known misalignment"
    assert unknown in lacking["misaligned.json"] and unknown in lacking["sensitivity.json"]
    assert "p0 slice 3: a shift in mm wants the size of a pixel" in lacking["shifted.json"]
    assert "p0 slice 3: its displacements are not known, as of real CT" in lacking["offsets.json"]
    assert [line.split(":")[1] for line in told] == [" done", *[" not done"] * 4]


def test_without_twins_and_without_a_network_that_aligns(sets, tmp_path):
    """As at first, when only GSSD is trained: what is there is drawn."""
    plain = {"GSSD": gssd(sets, tmp_path)}
    made, lacking = split(insights.write(plain, {}, tmp_path, lambda _: None, samples=20))
    assert lacking == {
        "sensitivity.json": "no row has a registered twin yet",
        "offsets.json": "no row that is trained aligns the phases",
    }
    assert {"detections.png", "misaligned.json", "shifted.json"} < set(made)
    are_there(tmp_path / insights.FOLDER, made)


def test_a_twin_of_other_data_points_is_named(sets, tmp_path):
    """Both RUNs lie in a seed_0, which would say nothing."""
    plain = {"GSSD": gssd(sets, tmp_path)}
    store.write(tmp_path / "sets", "fake/less", [("test", registered(0))], {"class_names": ["hcc"]})
    less = gssd(tmp_path / "sets", tmp_path, "less", "gssd_rigid")
    _, lacking = split(insights.write(plain, {"GSSD": less}, tmp_path, lambda _: None, samples=20))
    wanted = "gssd_rigid has looked at other data points than gssd: it lacks 2, such as p1 slice 3"
    assert wanted in lacking["sensitivity.json"]

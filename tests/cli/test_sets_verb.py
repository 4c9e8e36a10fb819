"""A model that was trained on a prepared set is scored on another one."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxdet import models
from jaxdet.cli.main import main
from jaxdet.config import Data
from jaxdet.data import sources
from jaxdet.data.builders import store
from jaxdet.data.phantom import SETS, cases
from jaxdet.run import create, open_run
from jaxdet.types import PHASES

CONFIG = """
from jaxdet import models
from jaxdet.config import Augment, Data, Evaluate, Experiment, Train

def experiment():
    return Experiment(
        model=models.config("yolov8n", channels=12, num_classes=1),
        data=Data(source="tfds", path={path!r}, builder="phantom_multiphase/one", image_size=64,
                  channels=12, window_hu=(-150.0, 250.0), pad=(0.0,), split="patient",
                  fractions=(0.5, 0.5, 0.0), augment=Augment(mosaic=0.0)),
        train=Train(epochs=1, batch_size=8, optimizer="adamw", lr=0.001),
        evaluate=Evaluate(batch_size=8),
    )
"""


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of the same two patients; the second has one more slice of each, and one split."""
    folder = tmp_path_factory.mktemp("sets")
    which = dataclasses.replace(SETS["multiphase"]["paper"], size=64)
    for name, most in (("one", 2), ("two", 3)):
        examples = [("whole", one) for i in range(2) for one in cases(which, 0, i, most=most)]
        metadata = {"class_names": ["tumour"]}
        store.write(folder, f"phantom_multiphase/{name}", examples, metadata)
    return folder


def test_one_phase_can_stand_for_four(sets):
    data = Data(
        source="tfds", path=str(sets), builder="phantom_multiphase/one", split="patient",
        fractions=(0.5, 0.5, 0.0), channels=12, window_hu=(-150.0, 250.0),
        phases=("portal",) * 4, pad=(0.0,),
    )  # fmt: skip
    image = sources.load(data, "train")[0].image
    as_stored = sources.load(dataclasses.replace(data, phases=()), "train")[0].image
    portal = 3 * PHASES.index("portal")
    assert image.shape == (64, 64, 12)
    assert np.array_equal(image, np.tile(as_stored[..., portal : portal + 3], 4))


@pytest.mark.slow
def test_a_run_is_scored_on_another_prepared_set(sets, tmp_path, capsys):
    (tmp_path / "config.py").write_text(CONFIG.format(path=str(sets)))
    run = tmp_path / "run"
    main(["train", str(tmp_path / "config.py"), "--out", str(run)])
    trained = open_run(run).experiment.data
    main(["evaluate", str(run), "--builder", "phantom_multiphase/two"])
    scored = json.loads((run / "metrics/val_yolo.json").read_text())
    other = dataclasses.replace(trained, builder="phantom_multiphase/two")
    held_out = sources.load(other, "val")
    assert scored["images"] == len(held_out) == 3
    assert scored["truths"] == sum(len(record.labels) for record in held_out.records)
    own = {record.patient for record in sources.load(trained, "val").records}
    assert {record.patient for record in held_out.records} == own
    capsys.readouterr()
    for argv, message in (
        (["--builder", "phantom_multiphase/three"], "phantom_multiphase/three"),
        (["--source", "coco", "--builder", "phantom_multiphase/two"], "leave --source out"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(run), *argv])
        assert ended.value.code == 2 and message in capsys.readouterr().err


LINKED = """
from jaxdet import models
from jaxdet.config import Data, Evaluate, Experiment, Train

def experiment():
    fields = {{"width": 1 / 8, "image_size": 64, "trunk_start": "he", "truth": "mask"}}
    return Experiment(
        model=models.config("pixellink_g", **fields),
        data=Data(source="tfds", path={path!r}, builder="phantom_multiphase/one", image_size=64,
                  channels=12, window_hu=(-150.0, 250.0), split="patient", pipeline="ssd",
                  fractions=(0.5, 0.5, 0.0)),
        train=Train(epochs=1, batch_size=8, optimizer="adamw", lr=0.001),
        evaluate=Evaluate(batch_size=8, protocol="l0sg"),
    )
"""


def test_linked_pixels_learn_from_masks_and_are_scored_by_both_decodings(sets, tmp_path, capsys):
    (tmp_path / "config.py").write_text(LINKED.format(path=str(sets)))
    run, start = tmp_path / "run", ["train", str(tmp_path / "config.py"), "--out"]
    with pytest.raises(SystemExit) as ended:
        main([*start, str(run)])
    assert ended.value.code == 2 and not run.exists()
    assert "model.truth=mask wants the masks of lesions: set data.les" in capsys.readouterr().err
    main([*start, str(run), "--data.lesions"])
    # Another RUN of that experiment, which calls every cell a part of one lesion.
    trained = open_run(run)
    variables = trained.weights()
    for name in ("pixel", "link"):
        last = variables["params"][name]
        last |= {"kernel": 0 * last["kernel"], "bias": np.tile(np.float32([0, 9]), 8)}
    variables["params"]["pixel"]["bias"] = np.float32([0, 9])
    run = tmp_path / "sure"
    create(run, trained.experiment, trained.class_names).save_weights(variables)
    for flags, name in (([], "val_l0sg"), (["--boxes", "official"], "val_l0sg_official")):
        main(["evaluate", str(run), *flags])
        told = json.loads((run / "metrics" / f"{name}.json").read_text())
        assert told["protocol"] == "l0sg, PixelLink" and told["images"] == 2
        found = np.load(run / "metrics" / f"{name}_detections.npz")
        assert found["boxes_xyxy"][0, 0].tolist() == [0, 0, 63, 63]
        assert found["labels"][0].tolist() == [0] + [-1] * 99
        assert (told["full"], told["left_out"]) == (0, 0)
    # For users a box ends behind its last pixel.
    predicted = open_run(run).predictor(0.1)(variables, np.zeros((1, 64, 64, 12), np.float32))
    assert predicted.boxes_xyxy[0, 0].tolist() == [0, 0, 64, 64]
    # And one that calls every cell a lesion of its own: 256 of them, where 100 have room.
    parted = jax.tree.map(np.copy, variables)
    parted["params"]["link"]["bias"] = np.tile(np.float32([9, 0]), 8)
    create(tmp_path / "parted", trained.experiment, trained.class_names).save_weights(parted)
    capsys.readouterr()
    main(["evaluate", str(tmp_path / "parted")])
    told = json.loads((tmp_path / "parted" / "metrics" / "val_l0sg.json").read_text())
    assert (told["full"], told["left_out"]) == (2, 2 * (256 - 100))
    assert "as fit: model.max_detections, 312 more were found" in capsys.readouterr().out
    main(["export", str(run), "--format", "torch", "--out", str(tmp_path / "run.safetensors")])
    main(["import", "pixellink_g", str(tmp_path / "run.safetensors"), "--out", str(tmp_path / "b")])
    again = open_run(tmp_path / "b").weights()["params"]
    jax.tree.map(np.testing.assert_array_equal, again, variables["params"])


def test_official_boxes_are_of_pixellink():
    with pytest.raises(ValueError, match="of PixelLink and MSCR, not of yolov8n: set eval"):
        models.official_decode(models.config("yolov8n"))

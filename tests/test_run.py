"""The RUN folder: what is written is read, and what is not a RUN says so."""

import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Augment, Data, Experiment, Train
from jaxdet.data.builders import store


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    toy.enlist(monkeypatch.setitem)


def yolo(**fields):
    return Experiment(
        model=models.config("yolov8n", channels=1, num_classes=2, dtype="bfloat16"),
        data=Data(
            image_size=64,
            channels=1,
            window_hu=(-25.0, 175.0),
            pad=(0.0,),
            classes=("liver", "tumour"),
            augment=Augment(mosaic=0.5),
        ),
        train=Train(freeze=("backbone/",), lr_factors=(("neck/", 0.1), ("head/", 2.0)), **fields),
    )


@pytest.fixture
def run(tmp_path):
    """A toy RUN with weights."""
    made = runs.create(tmp_path / "run", toy.experiment(), ("tumour",), split_digest="abc")
    made.save_weights(weights(toy.experiment()))
    return made


def weights(experiment, start=0):
    shapes = runs.abstract_variables(experiment)
    sizes = iter(range(start, 10**6))
    return jax.tree.map(lambda x: np.full(x.shape, next(sizes), x.dtype), shapes)


def test_an_experiment_comes_back_as_it_was(tmp_path):
    made = runs.create(tmp_path / "run", yolo(), ("liver", "tumour"), split_digest="abc")
    again = runs.open_run(tmp_path / "run")
    assert again == made
    assert again.experiment == yolo()
    assert type(again.experiment.train.lr_factors[0]) is tuple
    assert again.class_names == ("liver", "tumour")
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["format"] == runs.FORMAT
    assert told["window_hu"] == [-25.0, 175.0]
    assert told["split_digest"] == "abc"
    assert told["versions"]["jax"] == jax.__version__
    assert not list((tmp_path / "run").glob("*.part"))


def test_weights_come_back_bit_for_bit(run):
    wanted = weights(run.experiment)
    for which in ("best", "latest"):
        got = run.weights(which)
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())


def test_a_folder_that_is_a_run_is_never_overwritten(run):
    with pytest.raises(ValueError, match="is a RUN already: add --resume to go on"):
        runs.create(run.path, run.experiment, ("tumour",))


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"is not a RUN: it has no run\.json"):
        runs.open_run(tmp_path)


def test_another_format_is_refused(run):
    file = run.path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="has format 99; this jaxdet reads format 1"):
        runs.open_run(run.path)


def test_a_run_without_a_checkpoint_says_what_is_there(tmp_path):
    run = runs.create(tmp_path / "run", toy.experiment(), ("tumour",))
    with pytest.raises(ValueError, match="holds no checkpoints: nothing was saved yet"):
        run.weights()
    run.checkpoints.mkdir()
    with pytest.raises(ValueError, match=r"no complete checkpoint in .*: it is empty"):
        run.weights()
    (run.checkpoints / "4.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(
        ValueError, match=r"no complete checkpoint in .* holds 4\.orbax-checkpoint-tmp"
    ):
        run.weights()


def test_weights_of_another_model_are_refused_with_a_table(run):
    wider = toy.experiment(toy.Config(channels=1, width=6))
    other = dataclasses.replace(run, experiment=wider)
    with pytest.raises(ValueError, match="is of another model; 6 tensors differ") as told:
        other.weights()
    assert "  params/head/kernel: wanted (6, 1), got (4, 1)" in str(told.value)
    yolo_run = dataclasses.replace(run, experiment=yolo())
    with pytest.raises(ValueError, match="tensors differ") as told:
        yolo_run.weights()
    assert "got None" in str(told.value)
    assert len(str(told.value).splitlines()) == 13  # a table of the first twelve


def test_a_damaged_checkpoint_is_named(run):
    for file in (run.checkpoints / "0" / "weights").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint 0 in .* cannot be read"):
        run.weights()


def moved(experiment, **data):
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **data))


def test_only_epochs_patience_and_what_teaches_nothing_may_change(tmp_path):
    run = runs.create(tmp_path / "run", yolo(), ("liver", "tumour"))
    runs.check_same(run, yolo(epochs=500, patience=7))
    elsewhere = moved(yolo(log_every=3), path="elsewhere", threads=5, cache="ram")
    runs.check_same(run, elsewhere)
    runs.check_same(run, elsewhere, free=runs.MOVABLE)
    with pytest.raises(ValueError, match=r"train\.epochs: was 100, now 500"):
        runs.check_same(run, yolo(epochs=500), free=runs.MOVABLE)
    with pytest.raises(ValueError, match=r"data\.path: was '', now 'elsewhere'"):
        runs.check_same(run, elsewhere, free=())
    with pytest.raises(ValueError, match="resume with the same") as told:
        runs.check_same(run, yolo(lr=0.5))
    assert str(told.value).splitlines()[1:] == ["  train.lr: was 0.01, now 0.5"]
    with pytest.raises(ValueError, match="is a RUN of yolov8, not of toy"):
        runs.check_same(run, toy.experiment())


def test_a_run_of_an_unknown_family_says_which_there_are(run, monkeypatch):
    monkeypatch.delitem(models.DETECTORS, "toy")
    with pytest.raises(ValueError, match=r"no model family is called 'toy'; there are .*yolov8"):
        runs.open_run(run.path)


def test_a_new_experiment_replaces_the_old_and_nothing_else(run):
    before = json.loads((run.path / "run.json").read_text())
    longer = toy.experiment(epochs=9)
    runs.rewrite_experiment(dataclasses.replace(run, experiment=longer))
    assert runs.open_run(run.path) == dataclasses.replace(run, experiment=longer)
    after = json.loads((run.path / "run.json").read_text())
    assert list(after) == list(before) and after["split_digest"] == "abc"


HOLDER = """
import sys, time
from jaxdet import run
with run.locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_holder_ends(tmp_path):
    folder = tmp_path / "run"
    argv = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            message = f"run is in use by process {holder.pid} on {socket.gethostname()}: wait"
            with pytest.raises(ValueError, match=message), runs.locked(folder):
                pass
        finally:
            holder.kill()
    for _ in range(2):  # nothing is left of one that was killed, nor of one that ended
        with runs.locked(folder):
            assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} on ")
            with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
                runs.locked(folder).__enter__()


def test_without_locks_a_folder_is_written_with_a_warning_or_as_it_is(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(runs.fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="no locks .No locks available"), runs.locked(tmp_path):
        pass
    monkeypatch.setattr(runs, "fcntl", None)
    with runs.locked(tmp_path / "new"):
        assert (tmp_path / "new").is_dir() and not any((tmp_path / "new").iterdir())


def test_half_a_json_file_is_never_seen(tmp_path):
    path = tmp_path / "deep" / "a.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_prediction_takes_the_familys_own_fields(tmp_path, monkeypatch):
    run = runs.create(tmp_path / "run", yolo(), ("liver", "tumour"))
    monkeypatch.setattr(models, "program", lambda cfg: lambda *_: cfg)
    decode = run.predictor(0.4)(None, None)
    assert (decode.multi_label, decode.score_threshold) == (False, 0.4)
    assert run.detector().decode.keywords["cfg"].multi_label


def prepared_set(folder, phases=("portal", "arterial"), neighbours=3):
    """The papers of a prepared set without examples."""
    place = folder / "fake" / "tiny" / store.VERSION
    place.mkdir(parents=True)
    (place / "dataset_info.json").write_text(json.dumps({"splits": []}))
    told = {"phases": phases, "neighbours": neighbours, "dtype": "int16", "class_names": ["tumour"]}
    (place / "metadata.json").write_text(json.dumps(told))
    return Data(source="tfds", path=str(folder), builder="fake/tiny", channels=6)


def test_a_run_of_a_prepared_set_says_its_phases(tmp_path):
    data = prepared_set(tmp_path / "sets")
    for phases, wanted in ((), ("portal", "arterial")), (("portal",) * 2, ("portal",) * 2):
        told = dataclasses.replace(data, phases=phases)
        experiment = dataclasses.replace(toy.experiment(), data=told)
        path = tmp_path / f"run{len(phases)}"
        runs.create(path, experiment, ("tumour",), **runs.phase_facts(told))
        content = json.loads((path / "run.json").read_text())
        assert (content["phase_order"], content["neighbours"]) == (list(wanted), 3)
        assert runs.open_run(path).phases() == (wanted, 3)


def test_a_run_without_phases_is_read_as_before(tmp_path, run):
    assert runs.phase_facts(run.experiment.data) == {}
    assert (run.facts["phase_order"], run.facts["neighbours"]) == (None, None)
    assert run.phases() == ((), None)
    data = prepared_set(tmp_path / "sets")
    experiment = dataclasses.replace(toy.experiment(), data=data)
    old = runs.create(tmp_path / "old", experiment, ("tumour",))  # says nothing: asks the set
    assert old.phases() == (("portal", "arterial"), 3)
    gone = dataclasses.replace(data, path=str(tmp_path / "nowhere"))
    old = dataclasses.replace(old, experiment=dataclasses.replace(experiment, data=gone))
    with pytest.raises(ValueError, match=r"run\.json says no phase_order.*\"neighbours\": 3"):
        old.phases()

"""A run from nothing to a RUN folder, stopped and gone on with, and refused where it must be."""

import dataclasses
import json
import os
import shutil
import signal

import child
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import toy

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Augment, Data, Experiment
from jaxdet.data import sources
from jaxdet.train import log, loop


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    toy.enlist(monkeypatch.setitem)


def without_pictures(patch):
    """Drawing takes longer than a toy's whole run; the run of YOLOv8 shows that it works."""
    patch.setattr(loop.curves, "curves", lambda *_: None)
    patch.setattr(loop.pictures, "truths_and_detections", lambda *_, **__: None)


@pytest.fixture
def plain(monkeypatch):
    without_pictures(monkeypatch)


def saved(run, step=None):
    """The state of a checkpoint, the latest by default, and its progress."""
    with run.manager(read_only=True) as manager:
        parts = ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        kept = manager.restore(manager.latest_step() if step is None else step, args=parts)
    return kept["state"], kept["meta"]


def assert_same_bytes(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


def stop_at(monkeypatch, step):
    """SIGTERM to ourselves when a step is told of."""
    plain = log.Log.step

    def told(self, epoch, now, scalars):
        plain(self, epoch, now, scalars)
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(log.Log, "step", told)


def with_train(experiment, **fields):
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, **fields))


YOLOV8 = """
import toy
from jaxdet import models

def experiment():
    return toy.experiment(models.config("yolov8n", channels=1, num_classes=1), lr=0.002)
"""


def test_a_run_of_yolov8_leaves_all_that_it_should(tmp_path):
    """The command itself, on one device, which compiles much faster than on eight."""
    (tmp_path / "config.py").write_text(YOLOV8)
    argv = ["train", tmp_path / "config.py", "--out", tmp_path / "run"]
    process = child.start(child.COMMAND, argv, 1, tmp_path / "told")
    assert process.wait(timeout=400) == 0, (tmp_path / "told").read_text()[-3000:]
    run = runs.open_run(tmp_path / "run")

    experiment = toy.experiment(models.config("yolov8n", channels=1, num_classes=1), lr=0.002)
    assert run.experiment == experiment
    assert run.facts["family"] == "yolov8"
    assert run.facts["window_hu"] == [-25.0, 175.0]
    assert run.class_names == ("tumour",)
    rows = log.read_rows(run.path / "train.jsonl")
    losses = [row for row in rows if "total" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 4]
    assert all(
        row["total"] == pytest.approx(8 * (row["box"] + row["cls"] + row["dfl"]), rel=1e-5)
        for row in losses
    )
    assert [(row["epoch"], row["step"]) for row in rows if "ap50" in row] == [(0, 2), (1, 4)]
    summary = json.loads((run.path / "metrics" / "val.json").read_text())
    assert 0 <= (summary["ap50"] or 0) <= 1
    assert "AP, protocol yolo" in (tmp_path / "told").read_text()
    pictures = {p.name for p in (run.path / "pictures").iterdir()}
    assert {"curves.png", "contact_sheet.png", "val_00000.png"} <= pictures
    assert all((run.path / "pictures" / name).stat().st_size > 500 for name in pictures)
    assert any((run.path / "tensorboard").iterdir())

    state, meta = saved(run)
    assert (int(state["step"]), meta["step"]) == (4, 4)
    assert_same_bytes(run.weights("latest"), state["ema"])
    assert jax.tree.structure(run.weights("best")) == jax.tree.structure(state["ema"])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A toy run of three epochs that nothing disturbed; its updates wait for two micro-batches."""
    with pytest.MonkeyPatch.context() as patch:
        toy.enlist(patch.setitem)
        without_pictures(patch)
        experiment = toy.experiment(epochs=3, nominal_batch=16, warmup_epochs=1.0)
        return loop.train(experiment, tmp_path_factory.mktemp("straight") / "run")


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("step", [2, 3])
def test_stopped_and_resumed_is_byte_equal(straight, tmp_path, monkeypatch, step):
    """Two steps an epoch: stopped inside one with gradients in waiting, and at the end of one."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        stop_at(patch, step)
        loop.train(straight.experiment, tmp_path / "run")
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    cut = runs.open_run(tmp_path / "run")
    at = saved(cut)[1]["step"]
    assert at == step + 1  # a step is told of when the next one is on its way
    assert "grads" in saved(cut)[0]

    run = loop.train(straight.experiment, tmp_path / "run", resume=True)
    assert_same_bytes(saved(run), saved(straight))
    told = lambda r: log.read_rows(r.path / "train.jsonl")  # noqa: E731
    assert told(run) == told(straight)


@pytest.mark.usefixtures("plain")
def test_a_finished_run_can_be_extended_and_trains_on(straight, tmp_path):
    short = with_train(straight.experiment, epochs=1)
    loop.train(short, tmp_path / "run")
    with pytest.raises(ValueError, match="is a RUN already: add --resume"):
        loop.train(straight.experiment, tmp_path / "run")
    run = loop.train(straight.experiment, tmp_path / "run", resume=True)
    assert saved(run)[1]["step"] == 6
    assert runs.open_run(run.path).experiment == straight.experiment  # as it was trained, longer
    loop.train(short, tmp_path / "run", resume=True)  # nothing is left to do, and nothing unlearned
    assert runs.open_run(run.path).experiment == straight.experiment
    again = loop.train(straight.experiment, tmp_path / "run", resume=True)  # nothing left to do
    assert_same_bytes(saved(again), saved(run))


@pytest.mark.usefixtures("plain")
def test_a_folder_that_another_trains_into_is_refused(straight, tmp_path):
    short = with_train(straight.experiment, epochs=1)
    with runs.locked(tmp_path / "run"):
        for resume in (False, True):
            with pytest.raises(ValueError, match="run is in use by process"):
                loop.train(short, tmp_path / "run", resume=resume)
        assert not (tmp_path / "run" / "run.json").exists()
    run = loop.train(short, tmp_path / "run")
    with runs.locked(run.path):  # it has let go
        assert saved(run)[1]["step"] == 2


@pytest.mark.usefixtures("plain")
def test_resume_of_nothing_is_a_new_run(straight, tmp_path):
    run = loop.train(with_train(straight.experiment, epochs=1), tmp_path / "run", resume=True)
    assert saved(run)[1]["step"] == 2


def test_resume_with_another_config_names_fields_and_values(straight):
    other = with_train(straight.experiment, lr=0.5, seed=3)
    with pytest.raises(ValueError, match="another config") as told:
        loop.train(other, straight.path, resume=True)
    assert "train.lr: was 0.01, now 0.5" in str(told.value)
    assert "train.seed: was 0, now 3" in str(told.value)


def test_resume_of_another_model_is_refused(straight):
    yolo = toy.experiment(models.config("yolov8n", channels=1, num_classes=1))
    with pytest.raises(ValueError, match="is a RUN of toy, not of yolov8"):
        loop.train(yolo, straight.path, resume=True)


@pytest.mark.usefixtures("plain")
def test_resume_on_other_images_is_refused(straight, tmp_path):
    run = loop.train(with_train(straight.experiment, epochs=1), tmp_path / "run")
    file = run.path / "run.json"
    file.write_text(file.read_text().replace(run.facts["split_digest"], "0123"))
    with pytest.raises(ValueError, match="other images or another split"):
        loop.train(straight.experiment, run.path, resume=True)


@pytest.mark.usefixtures("plain")
def test_a_checkpoint_of_another_split_is_refused(straight, tmp_path):
    other = toy.experiment(data={"split_seed": 1}, epochs=1, nominal_batch=16)
    run = loop.train(other, tmp_path / "run")
    split = {"split_digest": run.facts["split_digest"]}
    assert split.items() <= saved(run)[1].items()
    assert split.items() <= json.loads((run.path / "metrics" / "val.json").read_text()).items()
    trained = sources.load(other.data, "train").records
    assert run.facts["trained_on"] == sorted({record.patient for record in trained})

    shutil.rmtree(run.checkpoints)
    shutil.copytree(straight.checkpoints, run.checkpoints)
    message = (
        rf"checkpoints/6 says split_digest {straight.facts['split_digest']}, but .*another RUN"
    )
    with pytest.raises(ValueError, match=message):
        run.weights("latest")
    with pytest.raises(ValueError, match=message):
        loop.train(with_train(other, epochs=9), run.path, resume=True)


@pytest.mark.usefixtures("plain")
def test_a_start_that_knows_the_judges_is_refused(straight, tmp_path):
    other = toy.experiment(data={"split_seed": 1}, init_from=str(straight.path))
    with pytest.raises(
        ValueError, match=r"init_from: .* was trained on \d of the patients .* val split"
    ):
        loop.train(other, tmp_path / "run")
    # They are others, says who knows: then their names are nobody's here.
    other = with_train(other, init_patients="others", epochs=1)
    own = {record.patient for record in sources.load(other.data, "train").records}
    run = loop.train(other, tmp_path / "run")
    assert run.facts["trained_on"] == sorted(own) != straight.facts["trained_on"]


@pytest.mark.usefixtures("plain")
def test_patients_are_inherited_through_a_run_of_other_data(straight, tmp_path):
    """X, then Y from X, then X again from Y: patients of X that Y never saw are still known."""
    data = {"phantom_patients": 6, "seed": 5}
    between = toy.experiment(data=data, epochs=1, init_from=str(straight.path))
    own = {record.patient for record in sources.load(between.data, "train").records}
    run = loop.train(between, tmp_path / "y")
    assert own < set(run.facts["trained_on"]) == set(straight.facts["trained_on"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"channels": 3}}, r"model.channels is 3 but data.channels is 1"),
        ({"model": {"num_classes": 5}}, r"model.num_classes is 5 but the data has 1 class"),
        ({"data": {"classes": ("liver", "spleen")}}, r"data.classes wants \('liver', 'spleen'\)"),
        ({"data": {"max_boxes": 3}}, r"has 2 boxes, and mosaic .* data.max_boxes to 8 \(now 3\)"),
        ({"data": {"max_boxes": 1}}, r"has 2 boxes; data.max_boxes is 1: raise it"),
        (
            {"train": {"batch_size": 12}},
            r"train.batch_size=12 cannot be split over 8 devices; the nearest legal size is 8",
        ),
        ({"train": {"freeze": ("neck/",)}}, "'neck/' matches no parameter"),
        ({"train": {"init_from": "nowhere"}}, "nowhere is not a RUN"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(
    tmp_path, monkeypatch, change, message
):
    def compiled(*_):
        raise AssertionError("a program was mapped")

    monkeypatch.setattr(loop, "fresh_variables", compiled)
    model = toy.Config(**{"channels": 1, **change.get("model", {})})
    experiment = toy.experiment(model, data=change.get("data"), **change.get("train", {}))
    with pytest.raises(ValueError, match=message):
        loop.train(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing stands in the way of the corrected command


def test_an_odd_side_is_refused_before_anything_compiles(tmp_path):
    model = models.config("yolov8n", channels=1, num_classes=1)
    with pytest.raises(ValueError, match="32"):
        loop.train(toy.experiment(model, data={"image_size": 50}), tmp_path / "run")


def poison(monkeypatch, step):
    """The loss part "part" is not a number from a step on."""
    plain = loop.make_step

    def make_step(detector, plan):
        clean = plain(detector, plan)

        def poisoned(state, batch):
            after, scalars = clean(state, batch)
            bad = jnp.where(after.step >= step, jnp.nan, scalars["part"])
            return after, {**scalars, "part": bad}

        return poisoned

    monkeypatch.setattr(loop, "make_step", make_step)


def test_nan_names_the_loss_part_and_the_images(tmp_path, monkeypatch):
    poison(monkeypatch, 4)
    experiment = toy.experiment(epochs=3)
    with pytest.raises(FloatingPointError, match="step 4: part = nan") as told:
        loop.train(experiment, tmp_path / "run")
    names = {r.name for r in sources.load(experiment.data, "train").records}
    named = str(told.value).split("on the images ")[1].split(". The last")[0].split(", ")
    assert len(named) == 8
    assert set(named) < names
    run = runs.open_run(tmp_path / "run")
    assert saved(run)[1]["step"] == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.weights("latest")))


@pytest.mark.usefixtures("plain")
def test_an_absurd_rate_never_replaces_a_good_checkpoint(tmp_path):
    """Two steps an epoch, and the rate is 0 at the first: the second one breaks the weights."""
    experiment = toy.experiment(
        epochs=4,
        optimizer="sgd",
        lr=3e38,
        clip_norm=1e30,
        warmup_epochs=1.0,
        warmup_min_steps=0,
        warmup_bias_lr=0.0,
    )
    with pytest.raises(FloatingPointError, match=r"not finite|= inf|= nan"):
        loop.train(experiment, tmp_path / "run")
    run = runs.open_run(tmp_path / "run")
    if run.checkpoints.exists() and any(run.checkpoints.iterdir()):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved(run)[0]))


def judged(monkeypatch, fitnesses):
    """Evaluations give these AP50s, one an epoch."""
    values = iter(fitnesses)

    def evaluate(*_, **__):
        return {"ap50": next(values), "ap50_95": 0.0, "precision": 0.0, "recall": 0.0}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(loop, "_finish", lambda *_, **__: None)


def test_patience_counts_across_a_stop(tmp_path, monkeypatch):
    experiment = toy.experiment(epochs=9, patience=3, fitness="ap50")
    judged(monkeypatch, [0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    run = loop.train(experiment, tmp_path / "straight")
    assert saved(run)[1] == {
        "step": 10,
        "fitness": 0.2,
        "best": 0.5,
        "waited": 3,
        **run.digests,
    }
    with run.manager(read_only=True) as manager:
        assert (manager.best_step(), manager.latest_step()) == (4, 10)
        assert sorted(manager.all_steps()) == [4, 8, 10]

    judged(monkeypatch, [0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_at(patch, 6)
        loop.train(experiment, tmp_path / "cut")
    cut = loop.train(experiment, tmp_path / "cut", resume=True)
    assert_same_bytes(saved(cut), saved(run))
    # It had lost patience and stays stopped; more patience lets it go on.
    loop.train(experiment, tmp_path / "cut", resume=True)
    assert saved(cut)[1]["step"] == 10
    judged(monkeypatch, [0.9] * 9)
    loop.train(with_train(experiment, patience=0), tmp_path / "cut", resume=True)
    assert saved(cut)[1]["step"] == 18


def test_evaluation_every_other_epoch_still_ends_with_one(tmp_path, monkeypatch):
    judged(monkeypatch, [0.5, 0.6, 0.7])
    run = loop.train(toy.experiment(epochs=5, evaluate_every=2, fitness="ap50"), tmp_path / "run")
    rows = [row for row in log.read_rows(run.path / "train.jsonl") if "ap50" in row]
    assert [(row["epoch"], row["ap50"]) for row in rows] == [(1, 0.5), (3, 0.6), (4, 0.7)]
    assert saved(run)[1]["best"] == 0.7


@pytest.mark.usefixtures("plain")
def test_init_from_takes_over_what_fits(straight, tmp_path):
    start = straight.weights("best")
    frozen = toy.experiment(epochs=1, init_from=str(straight.path), freeze=(".",))
    run = loop.train(frozen, tmp_path / "same")
    assert_same_bytes(run.weights("latest")["params"], start["params"])

    wider = dataclasses.replace(frozen, model=toy.Config(channels=1, width=6))
    got = loop.train(wider, tmp_path / "wider").weights("latest")["params"]
    fresh = loop.fresh_variables(wider)["params"]
    np.testing.assert_array_equal(got["head"]["bias"], start["params"]["head"]["bias"])
    np.testing.assert_array_equal(got["head"]["kernel"], fresh["head"]["kernel"])

    seeing = {"channels": 2, "pad": (0.0,)}
    more = toy.experiment(toy.Config(channels=2), data=seeing, epochs=1, freeze=(".",))
    more = with_train(more, init_from=str(straight.path))
    got = loop._first_variables(more)[0]["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(got[:, :, :1], start["params"]["stem"]["conv"]["kernel"])
    assert not np.any(got[:, :, 1:])  # new channels say nothing at first

    with pytest.raises(ValueError, match="init_from names a RUN of another model: no tensor fits"):
        loop._take_over({"params": {"a": np.zeros(3)}}, {"params": {"a": np.zeros(4)}})


@pytest.mark.usefixtures("plain")
def test_leftovers_of_a_killed_save_are_harmless(straight, tmp_path):
    run = loop.train(with_train(straight.experiment, epochs=1), tmp_path / "run")
    half = run.checkpoints / "4.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    (half / "state" / "manifest.ocdbt").write_bytes(b"\0" * 9)
    assert run.weights("latest")["params"]
    run = loop.train(straight.experiment, tmp_path / "run", resume=True)
    assert saved(run)[1]["step"] == 6
    assert not half.exists()


def test_mosaic_that_never_happens_needs_no_room():
    experiment = toy.experiment(data={"max_boxes": 3, "augment": Augment(close_mosaic=2)})
    loop.check(
        experiment, {split: sources.load(experiment.data, split) for split in ("train", "val")}
    )


def test_fitness_rules():
    summary = {"ap50": 0.5, "ap50_95": 0.3}
    assert loop.fitness(summary, "classic") == pytest.approx(0.32)
    assert loop.fitness(summary, "map") == 0.3
    assert loop.fitness(summary, "ap50") == 0.5
    assert loop.fitness({"ap50": None, "ap50_95": None}, "classic") == 0  # no truth to find


def test_a_model_of_one_image_size_refuses_another():
    experiment = Experiment(
        model=models.config("gssd"), data=Data(image_size=320, channels=12, source="coco")
    )
    with pytest.raises(ValueError, match=r"data.image_size is 320.*is built for 300 px"):
        loop._check_images(experiment)
    phases = dataclasses.replace(experiment.data, image_size=300, channels=9)
    with pytest.raises(ValueError, match=r"model.channels is 12 but data.channels is 9"):
        loop._check_images(dataclasses.replace(experiment, data=phases))

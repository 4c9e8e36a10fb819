"""Siamese, maps, detector in one RUN: what it leaves, resumes to, takes over and refuses."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import toy

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Data, Patches
from jaxdet.data import batch as batches
from jaxdet.data import patches as cutting
from jaxdet.data import sources
from jaxdet.models import pca_yolo, siamese
from jaxdet.predict import predict as predicting
from jaxdet.predict.inputs import Slice
from jaxdet.train import evaluate, log, loop, parallel, stages
from jaxdet.train import siamese as scorer

NETWORK = siamese.Config(
    input_size=72, head="flat", width=1 / 32, rematerialise=False, patches=Patches(side=16)
)
RECIPE = dataclasses.replace(
    pca_yolo.SIAMESE_TRAIN, epochs=2, batch_size=64, nominal_batch=64, lr=1e-3, log_every=1
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The toy in place of YOLOv8, and no pictures: what is tested is what lies before."""
    small(monkeypatch)


def small(patch):
    patch.setattr(pca_yolo, "build", lambda cfg: toy.build(toy.Config(channels=cfg.channels)))
    patch.setattr(loop.curves, "curves", lambda *_, **__: None)
    patch.setattr(loop.pictures, "truths_and_detections", lambda *_, **__: None)


def experiment(data=None, **fields):
    model = models.config("pca_yolo", **{"siamese": NETWORK, "siamese_train": RECIPE, **fields})
    return toy.experiment(model, data=data)


def with_recipe(**fields):
    return dataclasses.replace(RECIPE, **fields)


def alone(data=None, network=NETWORK, **recipe):
    """The Siamese network as an experiment of its own."""
    plain = toy.experiment(network, data=data)
    return dataclasses.replace(plain, train=dataclasses.replace(RECIPE, **recipe))


def state_of(run):
    with run.manager(read_only=True) as manager:
        part = ocp.args.Composite(state=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=part)["state"]


def assert_same_bytes(a, b):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        return loop.train(experiment(), tmp_path_factory.mktemp("straight") / "run")


def test_one_run_holds_both_stages(straight):
    stage = straight.first_stage()
    assert (stage.facts["family"], straight.facts["family"]) == ("siamese", "pca_yolo")
    assert stage.digests == straight.digests
    assert stage.facts["trained_on"] == straight.facts["trained_on"]
    assert stage.experiment.train == RECIPE
    assert state_of(stage)["step"] == 2 * 6  # 16 slices, each 3 times 8 patches, 8 at once
    summary = json.loads((stage.path / "metrics" / "val.json").read_text())
    assert summary["patches"] == 4 * 16 and 0 <= summary["auroc"] <= 1
    assert summary["loss"] > 0
    rows = log.read_rows(stage.path / "train.jsonl")
    assert [row["epoch"] for row in rows if "auroc" in row] == [0, 1]
    found = json.loads((straight.path / "metrics" / "val.json").read_text())
    assert found["images"] == 4
    assert {p.name for p in (stage.path / "maps").iterdir()} == {
        f"scores_{split}.{kind}" for split in ("train", "val") for kind in ("npy", "json")
    }
    assert np.load(stage.path / "maps" / "scores_train.npy").shape == (16, 16)


def test_what_training_saw_is_what_the_whole_program_sees(straight):
    """Kept maps and the one jitted program agree: same detections, the image in its own frame."""
    data = {s: sources.load(straight.experiment.data, s) for s in ("train", "val")}
    seen, shown = stages.with_maps(straight, data)
    assert (seen.data.channels, seen.data.maps, seen.data.pad) == (4, 1, (0.0, 0.0, 0.0, 0.0))
    two = evaluate.found_in(
        parallel.map_detect(straight.detector().detect),
        parallel.replicate(straight.weights("best")),
        shown["val"],
        seen,
        progress=False,
    )
    one = evaluate.found_in(
        parallel.map_detect(straight.program()),
        parallel.replicate(straight.all_weights("best")),
        data["val"],
        straight.experiment,
        progress=False,
    )
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)
    image = shown["val"][0].image
    np.testing.assert_array_equal(image[..., 0], data["val"][0].image[..., 0])
    tiles = image[..., 3].reshape(4, 16, 4, 16).transpose(0, 2, 1, 3).reshape(16, -1)
    assert (tiles == tiles[:, :1]).all()
    assert (tiles.min(), tiles.max()) == (0, 1)


def stop_at(monkeypatch, folder, step):
    """SIGTERM to ourselves when the run in `folder` tells of a step."""
    plain = log.Log.step

    def told(self, epoch, now, scalars):
        plain(self, epoch, now, scalars)
        if now == step and self.path.parent.name == folder:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(log.Log, "step", told)


@pytest.mark.parametrize(
    ("folder", "step"), [("siamese", 3), ("siamese", 6), ("siamese", 12), ("run", 1)]
)
def test_stopped_in_either_stage_it_resumes_to_the_same_bytes(
    straight, tmp_path, monkeypatch, folder, step
):
    with monkeypatch.context() as patch:
        stop_at(patch, folder, step)
        with pytest.raises(SystemExit) as ended:
            loop.train(experiment(), tmp_path / "run")
        assert ended.value.code == 143
    run = loop.train(experiment(), tmp_path / "run", resume=True)
    assert_same_bytes(state_of(run), state_of(straight))
    assert_same_bytes(state_of(run.first_stage()), state_of(straight.first_stage()))


def test_maps_of_another_network_or_split_are_refused(straight, tmp_path):
    data = {s: sources.load(straight.experiment.data, s) for s in ("train", "val")}
    told = straight.path / "siamese" / "maps" / "scores_train.json"
    kept = told.read_text()
    words = {
        "siamese": "another Siamese network",
        "slices": "other slices",
        "split_digest": "another split",
        "image": "slices of another set, size, window or padding",
    }
    try:
        for key, wanted in words.items():
            told.write_text(json.dumps({**json.loads(kept), key: "something else"}))
            with pytest.raises(ValueError, match=f"scores_train.json is of {wanted}.*Remove the"):
                stages.with_maps(straight, data)
    finally:
        told.write_text(kept)
    stages.with_maps(straight, data)


def fold(number):
    return {"split": "fold", "folds": 2, "fold": number, "val_share": 0.3}


@pytest.mark.parametrize("fault", ["gone", "cut", "empty", "reversed", "no JSON", "other JSON"])
def test_a_broken_cache_is_made_again(straight, tmp_path, fault):
    shutil.copytree(straight.path, tmp_path / "run")
    run = runs.open_run(tmp_path / "run")
    data = {s: sources.load(run.experiment.data, s) for s in ("train", "val")}
    folder = run.path / "siamese" / "maps"
    values, told = folder / "scores_train.npy", folder / "scores_train.json"
    good = np.load(values)
    match fault:
        case "gone":
            values.unlink()
        case "cut":
            values.write_bytes(values.read_bytes()[:-100])
        case "empty":
            values.write_bytes(b"")
        case "reversed":
            np.save(values, good[::-1])
        case "no JSON":
            told.write_text("{")
        case "other JSON":
            told.write_text("[]")
    stages.with_maps(run, data)
    np.testing.assert_array_equal(np.load(values), good)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with a trained Siamese of each of two folds."""
    folder = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        for number in range(2):
            loop.train(alone(fold(number), epochs=1), folder / f"fold_{number}")
    return folder


def of_fold_1(networks, **fields):
    return experiment(fold(1), **{"siamese_from": f"{networks}/fold_{{fold}}", **fields})


def test_the_folds_own_siamese_is_taken_over(networks, tmp_path):
    run = loop.train(of_fold_1(networks), tmp_path / "run")
    source = runs.open_run(networks / "fold_1")
    assert_same_bytes(run.first_stage().weights("best"), source.weights("best"))
    assert run.all_weights("best").keys() == {"detector", "siamese"}
    assert run.first_stage().facts["taken_from"] == str(networks / "fold_1")
    # It is RUN's own now: the source may be gone, but that it was taken cannot be unsaid.
    loop.train(of_fold_1("gone"), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"was taken over from .* say model\.siamese_from again"):
        loop.train(of_fold_1(networks, siamese_from=""), tmp_path / "run", resume=True)


def test_a_kill_while_it_is_taken_over_is_mended(networks, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "save_weights", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(of_fold_1(networks), tmp_path / "run")
    run = loop.train(of_fold_1(networks), tmp_path / "run", resume=True)
    assert run.all_weights("best")
    assert not (tmp_path / "run" / "siamese.part").exists()


def test_a_stage_that_was_begun_here_is_not_replaced(networks, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, "siamese", 3)
        with pytest.raises(SystemExit):
            loop.train(of_fold_1(networks, siamese_from=""), tmp_path / "run")
    with pytest.raises(ValueError, match=r"was begun here, but model\.siamese_from names another"):
        loop.train(of_fold_1(networks), tmp_path / "run", resume=True)


def test_other_networks_are_refused_before_anything_is_written(networks, tmp_path, monkeypatch):
    def refused(told, match):
        with pytest.raises(ValueError, match=match):
            loop.train(told, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    refused(of_fold_1(networks, siamese_from=f"{networks}/fold_0"), "another split or fold")
    thicker = dataclasses.replace(NETWORK, l2=0.1)
    refused(of_fold_1(networks, siamese=thicker), r"another Siamese.*\n  l2: was 0.0002")
    hazy = {**fold(1), "window_hu": (-100.0, 300.0)}
    told = experiment(hazy, siamese_from=f"{networks}/fold_{{fold}}")
    refused(told, r"data\.window_hu: it has")
    refused(of_fold_1(networks, siamese_from=str(tmp_path / "{x}")), "is not a RUN")
    with monkeypatch.context() as patch:
        stop_at(patch, "begun", 2)
        with pytest.raises(SystemExit):
            loop.train(alone(fold(1)), tmp_path / "begun")
    refused(of_fold_1(networks, siamese_from=str(tmp_path / "begun")), "not trained to its end")
    detector = toy.experiment(data=fold(1))
    toy.enlist(monkeypatch.setitem)
    loop.train(detector, tmp_path / "toy")
    refused(of_fold_1(networks, siamese_from=str(tmp_path / "toy")), "is a RUN of toy, no Siamese")


def test_how_it_is_computed_may_change(networks, tmp_path):
    otherwise = dataclasses.replace(NETWORK, rematerialise=True, convolution="fourier")
    run = loop.train(of_fold_1(networks, siamese=otherwise), tmp_path / "run")
    assert run.all_weights("best")


def test_a_first_stage_that_is_no_longer_the_one_of_the_maps_is_refused(straight, tmp_path):
    shutil.copytree(straight.path, tmp_path / "run")
    run = runs.open_run(tmp_path / "run")
    run.all_weights("best")
    stage = run.first_stage()
    moved = jax.tree.map(lambda x: x + 1e-3, stage.weights("best"))
    shutil.rmtree(stage.checkpoints)
    stage.save_weights(moved)
    with pytest.raises(ValueError, match="no longer the network whose maps the detector was"):
        run.all_weights("best")


def test_cross_fitted_maps_come_from_networks_that_did_not_see_the_patient(tmp_path):
    told = experiment(fit="cross_fit", cross_folds=2)
    run = loop.train(told, tmp_path / "run")
    data = {s: sources.load(told.data, s) for s in ("train", "val")}
    _, shown = stages.with_maps(run, data)
    networks = [runs.open_run(tmp_path / "run" / f"siamese_cross_{k}") for k in range(2)]
    seen = [set(network.facts["trained_on"]) for network in networks]
    patients = {record.patient for record in data["train"].records}
    assert seen[0] | seen[1] == patients and not seen[0] & seen[1]
    for i, record in enumerate(data["train"].records):
        (k,) = [k for k in range(2) if record.patient not in seen[k]]
        image = data["train"][i].image[None]
        wanted = pca_yolo.attention_map(told.model, networks[k].weights("best"), image)
        np.testing.assert_allclose(shown["train"][i].image[..., 3], wanted[0, ..., 0], atol=1e-5)
    with pytest.raises(ValueError, match="saw a part of its parent's training patients"):
        scorer.score_run(networks[0])
    in_fold = run.first_stage().weights("best")
    image = data["val"][0].image[None]
    wanted = pca_yolo.attention_map(told.model, in_fold, image)
    np.testing.assert_allclose(shown["val"][0].image[..., 3], wanted[0, ..., 0], atol=1e-5)


def test_a_cam_is_kept_as_large_as_its_slice(tmp_path):
    told = experiment(attention_from="cam", siamese_train=dataclasses.replace(RECIPE, epochs=1))
    run = loop.train(told, tmp_path / "run")
    kept = np.load(run.path / "siamese" / "maps" / "cam_val.npy", mmap_mode="r")
    assert kept.shape == (4, 64, 64)


def test_a_siamese_alone_is_scored_on_its_own_split(tmp_path):
    run = loop.train(alone(epochs=1), tmp_path / "run")
    found = scorer.score_run(run)
    assert (found["split"], found["patients_are"]) == ("val", "unseen")
    dataset = sources.load(run.experiment.data, "val")
    truth = cutting.truth(dataset, run.experiment.data, NETWORK.patches)
    assert (found["positives"], found["patches"]) == (truth.sum(), truth.size)
    (batch, _), *_ = batches.eval_batches(dataset, run.experiment.data, batch_size=4)
    scores = np.asarray(siamese.score(NETWORK, run.weights("best"), batch.images))
    loss = -np.log(np.where(truth, scores, 1 - scores)).mean()
    assert found["loss"] == pytest.approx(loss, rel=1e-4)


def test_what_cannot_be_trained_is_refused_before_anything_compiles(tmp_path):
    def refused(told, match, data=None, **fields):
        with pytest.raises(ValueError, match=match):
            loop.train(told if told else experiment(data, **fields), tmp_path / "run")

    colour = {"channels": 3, "pad": (0.0,)}
    refused(None, "this model takes slices of 1 channel and adds its map itself", colour)
    refused(alone(colour), "channels are 1 but data.channels is 3")
    refused(None, "64 and 96", {"image_size": 72})
    refused(None, "is one patch", siamese=dataclasses.replace(NETWORK, patches=Patches(side=64)))
    refused(None, r"model\.siamese_train\.init_from", siamese_train=with_recipe(init_from="a"))
    refused(None, r"siamese_train\.batch_size", siamese_train=with_recipe(batch_size=63))
    refused(None, "groups|folds|patients", fit="cross_fit", cross_folds=50)
    thick = dataclasses.replace(NETWORK, patches=Patches(side=16, label="patch_share", min_share=1))
    refused(alone(network=thick), "has no positive patch")
    refused(None, "no positive patch", siamese=thick)
    literal = dataclasses.replace(NETWORK, input_size=512, width=16.0)
    refused(alone(network=literal), r"wants [\d,.]+ GiB for weights, gradients and Adam alone")
    refused(alone(batch_size=63), "cannot be split over 8 devices")


def test_slices_that_are_not_square_are_refused_by_name(straight):
    wide = Slice(np.zeros((48, 64, 1), np.float32), "wide.npy", None, None)
    with pytest.raises(ValueError, match=r"wide\.npy.*square"):
        list(predicting.detect(straight, [wide], 0.1))


def test_a_run_without_its_first_stage_says_so(straight, tmp_path):
    run = runs.create(tmp_path / "run", straight.experiment, straight.class_names)
    run.save_weights(straight.weights("best"))
    with pytest.raises(ValueError, match=r"has no siamese/run.json.*--resume"):
        run.all_weights("best")


def test_data_says_how_many_channels_are_maps():
    with pytest.raises(ValueError, match=r"Data\.maps wants 0 to 2"):
        Data(channels=3, maps=3)

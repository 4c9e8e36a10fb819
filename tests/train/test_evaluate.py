"""Every image of a dataset is detected once, in order, whatever the batch and the processes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxdet import run as runs
from jaxdet.data import sources
from jaxdet.data.transforms import letterbox
from jaxdet.train import evaluate, loop, parallel
from jaxdet.types import Detections, Example


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    toy.enlist(monkeypatch.setitem)


class Pictures:
    """Images of many shapes, each with a brightness of its own."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        shape = (20 + 3 * (i % 4), 40 - 5 * (i % 3), 1)
        image = np.full(shape, (i + 1) / 32, np.float32)
        return Example(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), f"{i}", f"{i}")


def look(variables, images):
    """Two detections an image that tell it from any other, one of them padding in every third."""
    bright = images.mean((1, 2, 3)) * variables
    few = jnp.round(images.max((1, 2, 3)) * 32) % 3 == 0
    boxes = jnp.stack([bright * 8, bright, bright * 8 + 10, bright + 20], -1)[:, None]
    labels = jnp.stack([jnp.zeros_like(few, jnp.int32), jnp.where(few, -1, 1)], -1)
    scores = jnp.stack([bright, jnp.where(few, 0.0, bright / 2)], -1)
    return Detections(jnp.concatenate([boxes, boxes + 2], 1), scores, labels)


@pytest.mark.parametrize("count", [1, 8, 11])
def test_a_last_batch_that_is_not_full_changes_nothing(count):
    """8 devices, 8 images a batch: against one image at a time without any batch."""
    experiment, pictures = toy.experiment(), Pictures(count)
    detect, variables = parallel.map_detect(look), np.float32(2)
    found = evaluate.detect_all(
        detect, parallel.replicate(variables), pictures, experiment, progress=False
    )
    assert found.boxes_xyxy.shape == (count, 2, 4)
    for i in range(count):
        image, place = letterbox(pictures[i].image, 64, (0.0,))
        boxes, scores, labels = (np.asarray(x[0]) for x in jax.jit(look)(variables, image[None]))
        wanted = place.to_original(boxes) * (labels >= 0)[:, None]
        np.testing.assert_allclose(found.boxes_xyxy[i], wanted, atol=1e-4)
        np.testing.assert_allclose(found.scores[i], scores, rtol=1e-6)
        np.testing.assert_array_equal(found.labels[i], labels)


@pytest.mark.parametrize(("total", "processes"), [(7, 3), (8, 4), (1, 2), (5, 1)])
def test_shares_are_equally_long_and_interleave_to_the_whole(total, processes):
    shares = [evaluate.Share(Pictures(total), p, processes) for p in range(processes)]
    assert len({len(share) for share in shares}) == 1
    names = [share[i].name for i in range(len(shares[0])) for share in shares]
    assert names[:total] == [str(i) for i in range(total)]
    assert set(names[total:]) <= set(names[:total])


def test_broken_scores_name_an_image():
    def broken(variables, images):
        found = look(variables, images)
        return found._replace(scores=found.scores * jnp.nan)

    experiment = toy.experiment()
    dataset = sources.load(experiment.data, "val")
    with pytest.raises(
        FloatingPointError, match=r"scores on phantom patient .* and 3 more"
    ) as told:
        evaluate.evaluate(
            parallel.map_detect(broken),
            parallel.replicate(np.float32(1)),
            dataset,
            experiment,
            progress=False,
        )
    assert dataset.records[0].name in str(told.value)


def test_a_run_is_scored_on_its_own_split_and_protocol(tmp_path):
    experiment = toy.experiment()
    run = runs.create(tmp_path / "run", experiment, ("tumour",))
    variables = jax.device_get(loop.fresh_variables(experiment))
    run.save_weights(variables)
    val = evaluate.evaluate_run(run)
    other = dataclasses.replace(experiment.evaluate, split="train", protocol="coco")
    run = dataclasses.replace(run, experiment=dataclasses.replace(experiment, evaluate=other))
    train = evaluate.evaluate_run(run, "latest")
    assert (val["images"], val["protocol"]) == (4, "yolo")
    assert (train["images"], train["protocol"]) == (16, "coco")
    path = run.write_metrics("train_coco", train)
    assert path == run.path / "metrics" / "train_coco.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(train))


def test_a_batch_that_devices_cannot_share_is_refused(tmp_path):
    experiment = toy.experiment()
    experiment = dataclasses.replace(
        experiment, evaluate=dataclasses.replace(experiment.evaluate, batch_size=20)
    )
    run = runs.create(tmp_path / "run", experiment, ("tumour",))
    with pytest.raises(ValueError, match=r"evaluate.batch_size=20 .* 8 devices.* legal size is 16"):
        evaluate.evaluate_run(run)

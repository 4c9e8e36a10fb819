"""The contract of every detector: it starts, steps, differentiates and decodes at fixed shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdet
from jaxdet import models
from jaxdet.types import Batch

SMALLEST = {"channels": 3, "num_classes": 2}
OWN = {"pca_yolo": {"size": "n", "channels": 4}}  # not x; with its map
FAST = {"yolov8n"}
# The other words of every Literal field, each on the smallest model.
VARIANTS = [
    {"dtype": "bfloat16"},
    {"small_boxes": "widened"},
    {"multi_label": False},
    {"per_class_nms": False},
    {"box_bias": 2.0},
    {"attention": "channel"},
    {"attention": "self"},
    {"attention": "self", "attention_position": "sincos"},
    {"attention": "mtnet"},
    {"attention": "mtnet", "attention_at": "neck"},
]


def batch_of(boxes_per_image, channels, side=64, max_boxes=6):
    """Two images with boxes of 18, 34 and 62 px: one size for every level."""
    rng = np.random.default_rng(0)
    boxes = np.zeros((2, max_boxes, 4), np.float32)
    labels = np.full((2, max_boxes), -1, np.int32)
    for b in range(2):
        for m in range(boxes_per_image[b]):
            size = (18, 34, 62)[m % 3]
            low = rng.uniform(0, side - size, 2)
            boxes[b, m] = [*low, *(low + size)]
            labels[b, m] = m % 2
    image = rng.uniform(0, 1, (2, side, side, channels)).astype(np.float32)
    return Batch(image, boxes, labels, np.arange(2, dtype=np.int32))


def about_one_cell(variables):
    """At its start YOLOv8 boxes 120 to 480 px, which fit nothing in 64 px: here 16, 32 and 64."""
    bias = np.tile(-3.0 * np.abs(np.arange(16) - 1), 4).astype(np.float32)
    for level in range(3):
        variables["params"]["head"][f"box_{level}"]["out"]["bias"] = jnp.asarray(bias)
    return variables


def names():
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in models.DETECTORS
    ]


@pytest.mark.parametrize("name", names())
def test_contract(name):
    fields = {**SMALLEST, **OWN.get(name, {})}
    check_contract(jaxdet.build(name, **fields), fields["channels"])


@pytest.mark.slow
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_variants_keep_the_contract(fields):
    check_contract(jaxdet.build("yolov8n", **SMALLEST, **fields))


def check_contract(detector, channels=SMALLEST["channels"]):
    traces = []

    @jax.jit
    def step(variables, batch):
        traces.append(1)

        def total(params):
            out, changed = detector.module.apply(
                {**variables, "params": params}, batch.images, train=True, mutable=["batch_stats"]
            )
            losses = detector.loss(out, batch)
            return losses["total"], (losses, changed)

        grads, (losses, changed) = jax.grad(total, has_aux=True)(variables["params"])
        return grads, losses, changed

    crowded = batch_of((3, 3), channels)
    variables = jax.jit(detector.module.init)(jax.random.key(0), crowded.images)
    variables = about_one_cell(variables)
    grads, losses, changed = step(variables, crowded)
    assert "total" in losses
    assert all(np.isfinite(value) for value in losses.values())
    for path, grad in jax.tree_util.tree_leaves_with_path(jax.device_get(grads)):
        assert np.isfinite(grad).all(), path
        assert np.any(grad != 0), f"{path} gets no gradient"
    before, after = jax.device_get((variables["batch_stats"], changed["batch_stats"]))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), before, after)))

    empty = step(variables, batch_of((0, 0), channels))
    assert all(np.isfinite(value) for value in empty[1].values())
    assert empty[1]["box"] == 0 and empty[1]["dfl"] == 0
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(jax.device_get(empty[0])))
    assert len(traces) == 1  # a batch without boxes is no other program

    found = jax.jit(detector.detect)(variables, crowded.images)
    assert found.boxes_xyxy.shape == (*found.scores.shape, 4)
    assert found.labels.shape == found.scores.shape
    boxes, scores, labels = jax.device_get(found)
    assert np.isfinite(boxes).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores[labels == -1] == 0).all()


def test_unknown_names_and_fields_are_refused():
    with pytest.raises(ValueError, match=r"yolov8n, yolov8s"):
        jaxdet.build("yolov9")
    with pytest.raises(ValueError, match="did you mean 'num_classes'"):
        jaxdet.build("yolov8n", num_clases=3)
    with pytest.raises(ValueError, match="one of 'n', 's', 'm', 'l', 'x'"):
        functools.partial(models.config, "yolov8n")(size="q")

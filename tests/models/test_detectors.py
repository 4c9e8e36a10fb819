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
# Not x, with its map; the SSD family has one image size, and four phases in 12 channels.
NARROW = {"channels": 12, "num_classes": 2, "width": 1 / 8}
OWN = {"pca_yolo": {"size": "n", "channels": 4}, "ssd": NARROW, "gssd": NARROW, "gssd_pp": NARROW}
LINKED = {"channels": 12, "num_classes": 1, "image_size": 64}  # lesion or not
OWN |= {f"pixellink{more}": {**LINKED, "width": 1 / 8} for more in ("", "_g", "_pp")}
OWN["mscr"] = {**LINKED, "width": 1 / 16}
SIZES = {64: (18, 34, 62), 300: (40, 80, 130, 180, 235, 290)}  # px, by the image's side
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
PHASES_VARIANTS = [
    {"dtype": "bfloat16"},
    {"gate": "raw"},
    {"align_conv": "grouped"},
    {"align_at": "conv7"},
    {"align_input": "features+stopped_gate"},
    {"align_input": "features"},
    {"interphase": "grouped"},
    {"interphase": "per_phase"},
    {"gate_pool": 4},
    {"align_start": "xavier"},
    {"grouping": "native"},
]


LINKED_VARIANTS = [
    *(
        ("pixellink_pp", fields)
        for fields in (
            *(f for f in PHASES_VARIANTS if f not in ({"gate_pool": 4}, {"align_start": "xavier"})),
            {"gate_pool": 1},
            {"align_start": "zero"},
            {"align_at": "conv4_3"},
            {"trunk_start": "he"},
            {"fuse_norm": "batch"},
            {"neck": "cascade"},
            {"version": "2s"},
            {"border": "official"},
        )
    ),
    ("mscr", {"phases_fused": "concat"}),
    ("mscr", {"trunk_start": "he"}),
    ("mscr", {"dtype": "bfloat16"}),
]


def batch_of(boxes_per_image, channels, side=64, max_boxes=6):
    """Two images whose boxes have one size for every level of a detector for such images."""
    rng = np.random.default_rng(0)
    boxes = np.zeros((2, max_boxes, 4), np.float32)
    labels = np.full((2, max_boxes), -1, np.int32)
    for b in range(2):
        for m in range(boxes_per_image[b]):
            size = SIZES[side][(3 * b + m) % len(SIZES[side])]
            low = rng.uniform(0, side - size, 2)
            boxes[b, m] = [*low, *(low + size)]
            labels[b, m] = m % 2
    image = rng.uniform(0, 1, (2, side, side, channels)).astype(np.float32)
    return Batch(image, boxes, labels, np.arange(2, dtype=np.int32))


def awake(variables):
    """Variables whose every parameter is felt by the losses of `batch_of`.

    At its start YOLOv8 boxes 120 to 480 px, which fit nothing in 64 px: here 16, 32 and 64. Gates
    start at 0, behind which nothing learns: here at 1/2.
    """
    params = dict(jax.device_get(variables)["params"])
    if "head" not in params:
        raised = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf + 0.5 if path[-1].key == "sigma" else leaf, params
        )
        return {**variables, "params": raised}
    bias = np.tile(-3.0 * np.abs(np.arange(16) - 1), 4).astype(np.float32)
    for level in range(3):
        variables["params"]["head"][f"box_{level}"]["out"]["bias"] = jnp.asarray(bias)
    return variables


LAST_MAPS = {f"{part}_{k}" for part in ("attend", "look") for k in (3, 4, 5)}  # 5, 3 and 1 px


def is_normalised_away(path, params):
    """A convolution's bias before a BatchNorm: the batch's mean takes it out again.

    So does a softmax with the bias of phi, the same for all its logits; and over one place, as the
    last maps of SSD have or are pooled to, it is 1 whatever theta and phi are. PixelLink has four
    maps, and the last is larger.
    """
    keys = [key.key for key in path]
    of_ssd = {"attend_5", "look_5"} & params.keys()
    if of_ssd and keys[0] in LAST_MAPS and keys[1] in ("theta", "phi"):
        return True
    if keys[-2:] == ["conv", "bias"] and len(keys) > 2:
        return "norm" in functools.reduce(lambda tree, key: tree[key], keys[:-2], params)
    return keys[-2:] == ["phi", "bias"]


def names():
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in models.DETECTORS
    ]


@pytest.mark.parametrize("name", names())
def test_contract(name):
    fields = {**SMALLEST, **OWN.get(name, {})}
    side = getattr(models.config(name, **fields), "image_size", 64)
    check_contract(jaxdet.build(name, **fields), fields["channels"], side)


@pytest.mark.slow
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_variants_keep_the_contract(fields):
    check_contract(jaxdet.build("yolov8n", **SMALLEST, **fields))


@pytest.mark.slow
@pytest.mark.parametrize("fields", PHASES_VARIANTS, ids=str)
def test_variants_of_gssd_pp_keep_the_contract(fields):
    check_contract(jaxdet.build("gssd_pp", **NARROW, **fields), NARROW["channels"], 300)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields"), LINKED_VARIANTS, ids=str)
def test_variants_of_linked_pixels_keep_the_contract(name, fields):
    check_contract(jaxdet.build(name, **OWN[name], **fields), OWN[name]["channels"], 64)


def check_contract(detector, channels=SMALLEST["channels"], side=64):
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

    crowded = batch_of((3, 3), channels, side)
    variables = jax.jit(detector.module.init)(jax.random.key(0), crowded.images)
    variables = awake(variables)
    grads, losses, changed = step(variables, crowded)
    assert "total" in losses
    assert all(np.isfinite(value) for value in losses.values())
    for path, grad in jax.tree_util.tree_leaves_with_path(jax.device_get(grads)):
        assert np.isfinite(grad).all(), path
        if not is_normalised_away(path, grads):
            assert np.any(grad != 0), f"{path} gets no gradient"
    stats = (tree.get("batch_stats", {}) for tree in (variables, changed))
    before, after = jax.device_get(tuple(stats))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), before, after)))

    empty = step(variables, batch_of((0, 0), channels, side))
    assert all(np.isfinite(value) for value in empty[1].values())
    assert all(empty[1].get(part, 0) == 0 for part in ("box", "dfl", "link"))
    assert {"box", "link"} & empty[1].keys()
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

"""YOLOv8 against the golden answers of the reference, and against its published counts."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdet import bridge, models
from jaxdet.models import yolov8
from jaxdet.ops import assign
from jaxdet.types import Batch

# Trainable parameters (the reference counts 16 more: the constant bins of its DFL).
COUNTS = {
    "n": (3157184, 3157328, 3011027, 3011171),
    "s": (11166544, 11166832, 11135971, 11136259),
    "m": (25902624, 25903056, 25856883, 25857315),
    "l": (43691504, 43692080, 43630595, 43631171),
    "x": (68229632, 68230352, 68153555, 68154275),
}


@pytest.mark.parametrize("size", COUNTS)
def test_parameter_counts(size):
    cases = [(80, 3), (80, 4), (1, 3), (1, 4)]
    for (classes, channels), wanted in zip(cases, COUNTS[size], strict=True):
        module = models.build(f"yolov8{size}", num_classes=classes, channels=channels).module
        image = jnp.zeros((1, 64, 64, channels))
        shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == wanted


# YOLOv8x, one class, by the reference's count (facts, 2.2 and 11); four channels are above.
PCA_YOLO_COUNTS = [
    (68_152_851, {"channels": 2}),
    (68_152_131, {"channels": 1}),
    (68_268_771, {"attention": "channel"}),
    (73_077_091, {"attention": "self", "attention_position": "sincos"}),
    (68_384_559, {"attention": "mtnet"}),
]


def count(shapes):
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@functools.cache
def shapes_of(name, **fields):
    module = models.build(name, **fields).module
    image = jax.ShapeDtypeStruct((1, 64, 64, fields.get("channels", 3)), jnp.float32)
    return traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), image))


@pytest.mark.parametrize(("wanted", "fields"), PCA_YOLO_COUNTS, ids=str)
def test_parameter_counts_of_the_rivals(wanted, fields):
    shapes = shapes_of("yolov8x", num_classes=1, **fields)
    assert count([leaf for path, leaf in shapes.items() if path[0] == "params"]) == wanted - 16


@pytest.mark.parametrize(
    ("word", "wanted"), [("none", 0), ("channel", 115_200), ("self", 4_923_520), ("mtnet", 230_988)]
)
def test_attention_in_the_neck_has_as_many_parameters(word, wanted):
    neck = yolov8.Neck(models.config("yolov8x", attention=word, attention_at="neck"))
    levels = [
        jax.ShapeDtypeStruct((1, side, side, width), jnp.float32)
        for side, width in ((8, 320), (4, 640), (2, 640))
    ]
    start = functools.partial(neck.init, jax.random.key(0), train=False)
    params = jax.eval_shape(start, *levels)["params"]
    added = [part for stage, part in params.items() if stage.endswith("_attention")]
    assert count(added) == wanted


@pytest.mark.parametrize(
    ("fields", "sites"),
    [
        ({"attention": "none", "attention_at": "neck"}, []),
        (
            {"attention": "mtnet"},
            [("backbone", f"{stage}_attention") for stage in ("sppf", "stage3", "stage4")],
        ),
        (
            {"attention": "channel", "attention_at": "neck"},
            [("neck", f"{stage}_attention") for stage in ("bottom4", "bottom5", "top3")],
        ),
        ({"attention": "self"}, [("backbone", "sppf_attention")]),
        ({"attention": "self", "attention_at": "neck"}, [("neck", "bottom5_attention")]),
    ],
    ids=str,
)
def test_attention_stands_at_its_sites_and_changes_no_other_name(fields, sites):
    plain, ours = shapes_of("yolov8n"), shapes_of("yolov8n", **fields)
    assert sorted({path[1:3] for path in ours.keys() - plain.keys()}) == sites
    assert {path: ours[path] for path in plain} == plain


def test_a_detector_with_attention_answers_in_one_program():
    """The program that predict, evaluate and export take; the slow contract has every word."""
    fields = {"attention": "self", "attention_position": "sincos", "num_classes": 1}
    detector = models.build("yolov8n", **fields, score_threshold=0.0, max_detections=7)
    flat = {
        path: np.full(s.shape, 0.01, s.dtype) for path, s in shapes_of("yolov8n", **fields).items()
    }
    image = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    found = jax.device_get(jax.jit(detector.detect)(traverse_util.unflatten_dict(flat), image))
    assert found.boxes_xyxy.shape == (2, 7, 4) and np.isfinite(found.boxes_xyxy).all()
    assert found.labels.max() == 0 and (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("word", ["none", "channel", "mtnet"])
def test_positions_without_self_attention_are_refused(word):
    message = f"attention_position='sincos' is for model.attention='self'; got '{word}'"
    with pytest.raises(ValueError, match=message):
        models.config("yolov8n", attention=word, attention_position="sincos")


@pytest.fixture(scope="module")
def recipe(shared):
    spec = importlib.util.spec_from_file_location("recipe", shared / "golden" / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def variables(shared, recipe):
    """YOLOv8n's golden weights, which came in by the bridge."""
    lines = (shared / "golden/names/yolov8_statedict_n_nc80_ch3.txt").read_text().splitlines()
    state = {}
    for name, *shape in (line.split(maxsplit=1) for line in lines if line.strip()):
        dims = [int(s) for s in "".join(shape).strip("()[] ").replace(",", " ").split()]
        state[name] = recipe.yolov8_tensor(name, tuple(dims))
    return bridge.from_torch("yolov8n", state)


@pytest.fixture(scope="module")
def answers(shared):
    def load(name):
        return np.load(shared / "golden" / f"yolov8_golden_n_nc80_ch3_{name}.npz")

    return load


@pytest.fixture(scope="module")
def outputs(recipe, variables):
    image = recipe.yolov8_input("yolov8n_nc80_ch3_512", (1, 3, 512, 512)).transpose(0, 2, 3, 1)
    return jax.jit(models.build("yolov8n").module.apply)(variables, image)


def test_logits_and_boxes_equal_the_golden(outputs, answers):
    wanted = answers("512")
    np.testing.assert_allclose(outputs.box_logits[0].T, wanted["boxes_logits"][0], atol=1e-4)
    np.testing.assert_allclose(outputs.class_logits[0].T, wanted["cls_logits"][0], atol=1e-4)
    boxes, probs = yolov8.boxes_and_probs(outputs)
    xywh = wanted["decoded_xywh_scores"][0].T
    corners = np.concatenate(
        [xywh[:, :2] - xywh[:, 2:4] / 2, xywh[:, :2] + xywh[:, 2:4] / 2], axis=1
    )
    np.testing.assert_allclose(boxes[0], corners, atol=5e-3)
    np.testing.assert_allclose(probs[0], xywh[:, 4:], atol=1e-5)


@pytest.mark.parametrize("case", ["nms_val_0", "nms_pred_0"])
def test_suppression_equals_the_golden(outputs, answers, case):
    fields = {} if case == "nms_val_0" else {"multi_label": False, "score_threshold": 0.25}
    found = jax.jit(models.build("yolov8n", **fields).decode)(outputs)
    wanted = answers("512")[case]
    np.testing.assert_allclose(found.boxes_xyxy[0], wanted[:, :4], atol=5e-3)
    np.testing.assert_allclose(found.scores[0], wanted[:, 4], atol=1e-5)
    np.testing.assert_array_equal(found.labels[0], wanted[:, 5])


def golden_batch(recipe, wanted, name, max_boxes=8):
    image = recipe.yolov8_input("yolov8n_nc80_ch3_loss", (2, 3, 256, 256)).transpose(0, 2, 3, 1)
    boxes = np.zeros((2, max_boxes, 4), np.float32)
    labels = np.full((2, max_boxes), -1, np.int32)
    rows = [0, 0]
    truths = (wanted[f"loss_{name}_{k}"] for k in ("batch_idx", "cls", "bboxes"))
    for i, label, (cx, cy, w, h) in zip(*truths, strict=True):
        i = int(i)
        boxes[i, rows[i]] = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * 256
        labels[i, rows[i]] = int(label[0])
        rows[i] += 1
    return Batch(image, boxes, labels, np.arange(2, dtype=np.int32))


GRADIENTS = {
    "model.0.conv.weight": "backbone/stem/conv/kernel",
    "model.2.m.0.cv1.bn.weight": "backbone/stage2/block_0/conv1/norm/scale",
    "model.9.cv2.bn.bias": "backbone/sppf/merge/norm/bias",
    "model.22.cv2.0.2.bias": "head/box_0/out/bias",
    "model.22.cv3.2.2.weight": "head/class_2/out/kernel",
    "model.22.cv3.0.2.bias": "head/class_0/out/bias",
}


@pytest.fixture(scope="module")
def loss_and_gradients(variables):
    """Losses and gradients in evaluation mode, compiled once a rule."""

    def make(rule):
        detector = models.build("yolov8n", small_boxes=rule)

        @jax.jit
        def run(batch):
            def total(params):
                out = detector.module.apply({**variables, "params": params}, batch.images)
                losses = detector.loss(out, batch)
                return losses["total"], (losses, out)

            return jax.grad(total, has_aux=True)(variables["params"])

        return run

    return {rule: make(rule) for rule in ("classic", "widened")}


@pytest.mark.parametrize("rule", ["classic", "widened"])
@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_losses_and_gradients_equal_the_golden(recipe, answers, loss_and_gradients, name, rule):
    wanted = answers("loss256")
    batch = golden_batch(recipe, wanted, name)
    grads, (losses, _) = loss_and_gradients[rule](batch)
    file = wanted if rule == "widened" else answers("loss256_classic82")
    items = file[f"loss_{name}_items_box_cls_dfl"]
    np.testing.assert_allclose([losses[k] for k in ("box", "cls", "dfl")], items, rtol=1e-4)
    np.testing.assert_allclose(losses["total"], items.sum() * 2, rtol=1e-4)
    for theirs, ours in GRADIENTS.items():
        golden = wanted[f"loss_{name}_evalgrad:{theirs}"]
        golden = golden.transpose(2, 3, 1, 0) if golden.ndim == 4 else golden
        leaf = grads
        for key in ours.split("/"):
            leaf = leaf[key]
        np.testing.assert_allclose(leaf, golden, atol=1e-3 * np.abs(golden).max() + 1e-12)


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_assignment_equals_the_golden(recipe, answers, loss_and_gradients, name):
    wanted = answers("loss256")
    batch = golden_batch(recipe, wanted, name)
    _, (_, out) = loss_and_gradients["widened"](batch)
    boxes, probs = yolov8.boxes_and_probs(out)
    told = jax.jit(
        jax.vmap(lambda *x: assign.task_aligned(*x, smallest_px=16.0), in_axes=(0, 0, None, 0, 0))
    )(boxes, probs, out.centres_px, batch.boxes_xyxy, batch.labels)
    np.testing.assert_array_equal(told.foreground, wanted[f"loss_{name}_fg_mask"])
    truth = np.where(told.foreground, told.truth, -1)
    np.testing.assert_array_equal(truth, wanted[f"loss_{name}_gt_idx"])
    total = wanted[f"loss_{name}_target_scores_sum"]
    np.testing.assert_allclose(told.score.sum(), total, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_first_running_statistics_equal_the_golden(recipe, variables, answers):
    wanted = answers("loss256")
    batch = golden_batch(recipe, wanted, "A")
    apply = jax.jit(
        lambda x: models.build("yolov8n").module.apply(
            variables, x, train=True, mutable=["batch_stats"]
        )[1]
    )
    stem = apply(batch.images)["batch_stats"]["backbone"]["stem"]["norm"]
    np.testing.assert_allclose(stem["mean"], wanted["train_bn0_running_mean"], atol=1e-5)
    np.testing.assert_allclose(stem["var"], wanted["train_bn0_running_var"], rtol=1e-4)


@pytest.mark.parametrize(("classes", "wanted"), [(1, -7.154615), (80, -11.536642)])
def test_class_bias_starts_at_the_prior(classes, wanted):
    levels = [jnp.zeros((1, 4, 4, 16)), jnp.zeros((1, 2, 2, 16)), jnp.zeros((1, 1, 1, 16))]
    head = yolov8.Head(models.config("yolov8n", num_classes=classes))
    start = jax.jit(lambda key: head.init(key, levels, train=False))(jax.random.key(0))["params"]
    np.testing.assert_allclose(start["class_0"]["out"]["bias"], wanted, atol=1e-5)
    np.testing.assert_array_equal(start["box_0"]["out"]["bias"], 1.0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 64, 64, 4), r"channels=3.*\(1, 64, 64, 4\)"),
        ((1, 60, 64, 3), "multiples of 32; got 60x64.*64x64"),
    ],
)
def test_wrong_images_are_refused_before_compilation(shape, message):
    module = models.build("yolov8n").module
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))

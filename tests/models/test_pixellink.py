"""PixelLink and PixelLink++ against the goldens of the reference and its parameter counts."""

import functools
import itertools
import pathlib

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import golden, official

from jaxdet import bridge, models
from jaxdet.bridge import infer, torch_names
from jaxdet.losses import link
from jaxdet.models import mscr, pixellink
from jaxdet.ops import links
from jaxdet.ops.components import NEIGHBOURS
from jaxdet.types import Batch

# Case of the reference: model, fields, parameters, and where they are known the sums of its answers
# on the golden's image and its loss (facts, gssd_reference 1.5 and 9, gssd_baselines 6.3).
CASES = {
    "pixellink_base": ("pixellink", {}, 20_530_910, -67.9632, 4979.7464, 2.767146),
    "pixellink": ("pixellink_g", {}, 6_809_502, -375.4986, 3347.8527, 2.768937),
    "pixellinkpp": ("pixellink_pp", {}, 12_591_250, 342.5653, 2176.8269, 2.755147),
    "pixellinkpp_bn": (
        *("pixellink_pp", {"fuse_norm": "batch"}),
        *(12_595_858, 2040.1426, 9519.6563, 4.080674),
    ),
    "pixellinkpp_cascade": (
        *("pixellink_pp", {"neck": "cascade"}),
        *(12_592_030, 120.9444, -116.8409, 2.739316),
    ),
    "pixellinkpp_wo_phase_offsets": (
        *("pixellink_pp", {"align_groups": 1}),
        *(12_217_921, 407.3955, 2513.4115, 2.762263),
    ),
    "pixellinkpp_wo_dc": (
        *("pixellink_pp", {"align": "none"}),
        *(10_913_574, -368.1209, 5124.3135, 2.758528),
    ),
    "pixellinkpp_wo_sa_base": (
        *("pixellink_pp", {"attention_trunk": "none"}),
        *(9_700_558, 294.1891, 4785.0274, 2.776123),
    ),
    "pixellinkpp_wo_sa_fusion": (
        *("pixellink_pp", {"attention_heads": "none"}),
        *(10_539_214, 75.4284, 1282.9403, 2.734679),
    ),
    "pixellinkpp_wo_interphase": (
        *("pixellink_pp", {"interphase": "grouped"}),
        *(9_519_250, 379.2143, 1463.1057, 2.759597),
    ),
}
SHIPPED = ("pixellink_base", "pixellink", "pixellinkpp")
COUNTS = [(row[2], row[0], row[1]) for row in CASES.values()] + [
    (6_814_110, "pixellink_g", {"fuse_norm": "batch"}),
    # ZJU's, which have no convolutions behind the sums: of 2 and of 16 scores
    (20_525_448 + 6 + 272, "pixellink", {"channels": 3, "phases": 1}),
    (20_527_770 + 6 + 272, "pixellink", {"channels": 3, "phases": 1, "version": "2s"}),
    (9_519_250, "pixellink_pp", {"interphase": "per_phase"}),
]
NARROW = {"width": 1 / 8}
# Every word of every field that changes what is computed.
WORDS = [
    {"version": "2s"},
    {"version": "2s", "align_at": "conv2_2"},
    {"version": "2s", "align": "none"},
    {"image_size": 512},
    {"image_size": 301},
    {"fuse": "none"},
    {"fuse_norm": "batch"},
    {"neck": "cascade"},
    {"neck": "cascade", "version": "2s"},
    {"attention_trunk": "none"},
    {"attention_heads": "none"},
    {"gate_pool": 1},
    {"gate_pool": 4},
    {"gate_pool": 8},
    {"interphase": "grouped"},
    {"interphase": "per_phase"},
    {"gate": "raw"},
    {"align": "none"},
    {"align_groups": 1},
    {"align_input": "features+stopped_gate"},
    {"align_input": "features"},
    {"align_at": "conv4_3"},
    {"align_at": "conv7"},
    {"align_conv": "grouped"},
    {"align_start": "zero"},
    {"trunk_start": "he"},
    {"dtype": "bfloat16"},
    {"grouping": "native"},
    {"grouping": "split"},
    {"grouping": "diagonal"},
    {"groups": 1},
]
# Words whose tensors have the shapes of another word's, which is what is read.
READ_AS = [
    ({"interphase": "per_phase"}, {"interphase": "grouped"}),
    ({"align_input": "features+stopped_gate"}, {}),
    ({"align_at": "conv5_3"}, {"align_at": "conv4_3"}),
    (
        {
            **{"image_size": 301, "gate_pool": 1, "align_start": "zero", "trunk_start": "he"},
            "dtype": "bfloat16",
        },
        {},
    ),
]


@functools.cache
def shapes_of(name, items):
    cfg = models.config(name, **dict(items))
    init = models.from_config(cfg).module.init
    return jax.eval_shape(init, jax.random.key(0), *models.example(cfg, 300))


@pytest.mark.parametrize(("wanted", "name", "fields"), COUNTS, ids=str)
def test_parameter_counts(wanted, name, fields):
    leaves = jax.tree.leaves(shapes_of(name, tuple(fields.items()))["params"])
    assert sum(np.prod(leaf.shape) for leaf in leaves) == wanted


@pytest.mark.parametrize("fields", WORDS, ids=str)
def test_every_word_has_outputs_of_one_shape(fields):
    cfg = models.config("pixellink_pp", **{**NARROW, **fields})
    module = models.from_config(cfg).module
    (image,) = models.example(cfg, 0)
    both = jax.ShapeDtypeStruct((2, *image.shape[1:]), jnp.float32)
    out, _ = jax.eval_shape(
        functools.partial(module.init_with_output, train=True), jax.random.key(0), both
    )
    cells = -(-cfg.image_size // {"4s": 4, "2s": 2}[cfg.version])
    assert out.pixel_logits.shape == (2, cells, cells, 2)
    assert out.link_logits.shape == (2, cells, cells, 16)
    assert {leaf.dtype for leaf in out} == {jnp.dtype("float32")}


def test_words_change_what_they_name():
    def paths(**fields):
        tree = shapes_of("pixellink_pp", tuple({**NARROW, **fields}.items()))["params"]
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(p, simple=True, separator="/"): a.shape for p, a in leaves}

    plain = paths()
    assert plain["align_0/offset/kernel"] == (3, 3, 64, 108)
    assert plain["pixel/kernel"] == (1, 1, 2, 2) and plain["link/kernel"] == (1, 1, 16, 16)
    assert paths(neck="cascade")["link/kernel"] == (1, 1, 64, 16)
    assert paths(attention_trunk="none")["align_0/kernel"] == (3, 3, 32, 32)
    assert paths(gate="raw")["align_0/kernel"] == (3, 3, 48, 32)
    assert paths(align_conv="grouped")["align_0/kernel"] == (3, 3, 16, 32)
    assert paths(align_groups=1)["align_0/offset/kernel"] == (3, 3, 64, 27)
    moved = paths(align_at="conv4_3")
    assert "align_1/kernel" in moved and not any("align_0" in path for path in moved)
    fine = paths(version="2s")
    assert fine["pixel_0/kernel"] == (1, 1, 16, 2) and fine["pixel_4/kernel"] == (1, 1, 128, 2)
    assert "align_1/kernel" in fine and "look_4/theta/kernel" in fine
    assert not any("attend" in path for path in paths(attention_trunk="none"))
    assert not any("look" in path for path in paths(attention_heads="none"))
    assert not any("fuse" in path for path in paths(fuse="none"))


@pytest.fixture(scope="module")
def recipe(shared):
    return goldens.recipe(shared)


@pytest.fixture(scope="module")
def weights(shared):
    @functools.cache
    def load(case):
        name, fields, *_ = CASES[case]
        return bridge.from_torch(name, official(shared, case), **fields)

    return load


QUICK = {"pixellinkpp"}  # has all parts of the others but the cascade and a normalisation
ALL = [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES]
HELD = [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in SHIPPED]


@pytest.mark.parametrize("case", ALL)
def test_official_weights_come_and_go_bit_for_bit(shared, weights, case):
    state, (name, fields, *_) = official(shared, case), CASES[case]
    back = bridge.to_torch(name, weights(case), **fields)
    assert list(back) == list(state)
    for key, tensor in state.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)
    found, read = infer.infer_fields({f"module.{key}": tensor for key, tensor in state.items()})
    assert found == name
    assert models.config(found, **read) == models.config(name, **fields)
    again = bridge.from_torch(name, {f"module.{k}": t for k, t in state.items()}, **fields)
    jax.tree.map(np.testing.assert_array_equal, again, weights(case))


def check_reading(fields, wanted):
    """Zeros of a Config's official names and shapes are read as the Config of `wanted`.

    The names and shapes that to_torch writes, without the numbers.
    """
    entries = torch_names._entries("pixellink_pp", fields)
    name, read = infer.infer_fields({e.torch_name: np.zeros(e.shape) for e in entries})
    assert models.config(name, **read) == models.config("pixellink_pp", **wanted)


# Of which shapes tell nothing; and version 2s has no official names.
UNTOLD = {"image_size", "gate_pool", "align_start", "trunk_start", "dtype", "grouping", "version"}
TOLD = [
    word
    for word in WORDS
    if not word.keys() & UNTOLD and word not in [fields for fields, _ in READ_AS]
]
TOGETHER = [
    {"width": 1.0, "gate": "raw", "align_conv": "grouped"},
    {"phases": 2, "channels": 10, "groups": 2, "align_groups": 2, "width": 3 / 16},
    {"attention_trunk": "none", "align_conv": "grouped", "align_at": "conv7"},
]
# Each word alone is slow for their number.
READ = [*TOGETHER, *(pytest.param(word, marks=pytest.mark.slow) for word in TOLD)]


@pytest.mark.parametrize("fields", READ, ids=str)
def test_what_changes_a_shape_is_read_from_it(fields):
    check_reading({**NARROW, **fields}, {**NARROW, **fields})


@pytest.mark.parametrize(("fields", "told"), READ_AS, ids=str)
def test_of_words_with_the_same_shapes_one_is_told(fields, told):
    check_reading({**NARROW, **fields}, {**NARROW, **told})


def test_a_checkpoint_of_another_variant_is_a_table(shared):
    state = official(shared, "pixellinkpp")
    with pytest.raises(ValueError, match=r"tensors do not fit pixellink_pp") as told:
        bridge.from_torch("pixellink_pp", state, neck="cascade")
    assert "final_1.weight: wanted float (2, 8, 1, 1), got (2, 2, 1, 1)" in str(told.value)
    with pytest.raises(ValueError, match=r"of version 4s; got model\.version '2s'"):
        bridge.from_torch("pixellink_pp", state, version="2s")


@pytest.mark.parametrize("case", ALL)
def test_evaluation_equals_the_golden(shared, recipe, weights, case):
    """Place by place where a file holds the answers, else in their sums."""
    wanted, (name, fields, _, *sums, _) = golden(shared, case), CASES[case]
    image = recipe.gssd_input(1).transpose(0, 2, 3, 1)
    out = jax.jit(models.build(name, **fields).module.apply)(weights(case), image)
    for answer, total in zip(jax.device_get(out), sums, strict=True):
        # Of 11,250 and 90,000 numbers, each within 1e-6 or so; printed to four digits
        assert np.sum(answer, dtype=np.float64) == pytest.approx(total, abs=2e-3)
    if wanted:
        pixel, link = wanted["eval/pixel"], wanted["eval/link"]
        np.testing.assert_allclose(out.pixel_logits, pixel.transpose(0, 2, 3, 1), atol=1e-4)
        np.testing.assert_allclose(out.link_logits, link.transpose(0, 2, 3, 1), atol=1e-4)


def test_gate_and_offsets_equal_the_golden(shared, recipe, weights):
    wanted = golden(shared, "pixellinkpp")
    image = recipe.gssd_input(1).transpose(0, 2, 3, 1)
    module = models.build("pixellink_pp").module
    call = jax.jit(functools.partial(module.apply, mutable=["intermediates"]))
    _, seen = call(weights("pixellinkpp"), image)
    sown = seen["intermediates"]
    (gate,), (offsets,) = sown["attend_0"]["gate"], sown["align_0"]["offsets"]
    flat = np.asarray(offsets).reshape(1, 75, 75, -1)
    for ours, key in ((gate, "self_attn_base_list.0#1"), (flat, "dcn_list.0#1")):
        sampled = np.asarray(ours).transpose(0, 3, 1, 2).ravel()
        step = -(-sampled.size // 4096)
        np.testing.assert_allclose(sampled[::step], wanted[f"act/{key}"], atol=1e-4)


def golden_batch(recipe):
    boxes, labels = np.zeros((2, 3, 4), np.float32), np.full((2, 3), -1, np.int32)
    for i, rows in enumerate(recipe.GSSD_TARGETS):
        boxes[i, : len(rows)], labels[i, : len(rows)] = rows[:, :4] * 300, 0
    image = recipe.gssd_input(2, "input2").transpose(0, 2, 3, 1)
    return Batch(image, boxes, labels, np.arange(2, dtype=np.int32))


def ties_of(out, batch):
    """How much of the total comes from negative cells that tie with the last one wanted.

    Two probabilities that are one number by our softmax may be two by the reference's; then it
    takes one cell less.
    """
    cfg = models.config("pixellink_pp")
    truths = batch.boxes_xyxy, batch.labels
    told = links.of_boxes(*truths, shape=(75, 75), stride=4, border=cfg.border)
    area = told.positive.sum((1, 2))
    count = jnp.minimum(3 * area, told.negative.sum((1, 2)))
    background = jax.nn.softmax(out.pixel_logits)[..., 0]
    hard = link.hard_negatives(background, told.negative, count)
    last = jnp.where(hard, background, 0).max((1, 2))
    extra = hard.sum((1, 2)) - count
    return float((2 * extra * -jnp.log(last) / (area + count)).mean())


# A gradient that is further than 1e-3 from the golden's. By our code in float64 (an extract lies in
# tests/golden) the reference rounds, a ReLU's input over zero in one of conv6's 1,024 channels: it
# is compared with that, and with the golden to 5e-3.
FLOAT64 = np.load(pathlib.Path(__file__).parents[1] / "golden/pixellink_float64.npz")
# And what is ours: in one channel of conv4_2 the ReLU, and of lengths a sum of 3e-6 that cancels.
OURS = {
    ("pixellink", "conv4_2.bias"): 2e-3,
    ("pixellinkpp", "self_attn_base_list.2.snconv1x1_theta.weight_orig"): 2e-3,
}


def recomputed(attention):
    """Attention as the reference differentiates it: anew, a power iteration behind the answer.

    It computes it a second time to save memory (facts, gssd_reference 4.2), and then with other
    vectors. Ours does not: that moves gradients of attention by up to 4e-3.
    """

    def made(*told):
        part, stop = attention(*told), jax.lax.stop_gradient

        def twice(x, *, train):
            first, second = part(x, train=train), part(x, train=train)
            return jax.tree.map(lambda a, b: stop(a) + (b - stop(b)), first, second)

        return twice

    return made


# Slow: compiling the step of the full network takes a minute on a CPU.
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_training_step_equals_the_golden(shared, recipe, weights, case, monkeypatch):
    monkeypatch.setattr(pixellink, "_attention", recomputed(pixellink._attention))
    wanted, (name, fields, *_, total) = golden(shared, case), CASES[case]
    detector, variables = models.build(name, **fields), weights(case)
    batch = golden_batch(recipe)

    @jax.jit
    def step(params, stats):
        def whole(params):
            given = {"params": params, "batch_stats": stats} if stats else {"params": params}
            out, changed = detector.module.apply(
                given, batch.images, train=True, mutable=["batch_stats"]
            )
            losses = detector.loss(out, batch)
            return losses["total"], (losses, out, changed)

        return jax.grad(whole, has_aux=True)(params)

    grads, (losses, out, changed) = step(variables["params"], variables.get("batch_stats", {}))
    with_ties = float(losses["total"])
    if case == "pixellinkpp_wo_sa_fusion":  # the one with ties at the last negative cell
        ties = ties_of(out, batch)
        assert ties > 1e-4
        with_ties -= ties
    assert with_ties == pytest.approx(total, rel=1e-5)
    if not wanted:
        return
    parts = wanted["train/loss_parts"]
    assert losses["pixel"] == pytest.approx(parts[:2].sum(), rel=1e-5)
    assert losses["link"] == pytest.approx(parts[2:4].sum(), rel=1e-5)
    stats = changed.get("batch_stats", {})
    theirs = bridge.to_torch(name, {"params": grads, "batch_stats": stats}, **fields)
    checked = 0
    for key in (key for key in wanted if key.startswith("train/grad/")):
        tensor = key.removeprefix("train/grad/")
        full, want = theirs[tensor].ravel(), wanted[key].ravel()
        if f"{case}/{tensor}" in FLOAT64:
            np.testing.assert_allclose(full, want, rtol=0, atol=5e-3 * np.abs(want).max())
            want = FLOAT64[f"{case}/{tensor}"].ravel()
        if tensor.endswith("phi.bias"):  # a softmax takes it out: its true value is 0
            assert np.abs(full).max() < 1e-9 and np.abs(want).max() < 1e-9, tensor
            continue
        every = 1 if want.size == full.size else -(-full.size // 4096)
        far = np.abs(full[::every][: want.size] - want).max() / np.abs(want).max()
        assert far <= OURS.get((case, tensor), 1e-3), (tensor, far)
        checked += 1
    assert checked > 20
    norms = dict(zip(wanted["train/grad_names"], wanted["train/grad_norms"], strict=True))
    assert {tensor for tensor in theirs if tensor in norms} == set(norms)
    for tensor, norm in norms.items():
        ours = np.linalg.norm(theirs[tensor].astype(np.float64))
        limit = OURS.get((case, tensor), 1e-3)
        assert ours == pytest.approx(norm, rel=limit, abs=1e-10), tensor
    for key in (key for key in wanted if key.startswith("train/buf/")):
        buffer, want = theirs[key.removeprefix("train/buf/")], wanted[key]
        np.testing.assert_allclose(buffer, want, rtol=0, atol=1e-4 * np.abs(want).max())


def narrow(**fields):
    cfg = models.config("pixellink_pp", **{**NARROW, "image_size": 64, **fields})
    return cfg, models.from_config(cfg)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channels": 10}, "multiple of the 4 phases; got 10"),
        ({"channels": 0}, "multiple of the 4 phases; got 0"),
        ({"phases": 0}, "model.phases wants 1 or more; got 0"),
        ({"phases": 1}, "model.groups wants 1, the number of phases; got 4"),
        ({"groups": 3}, "model.groups wants 1 or 4, the number of phases; got 3"),
        ({"align_groups": 2}, "model.align_groups wants 1 or 4"),
        ({"align_at": "conv2_2"}, "conv7 in version 4s; got 'conv2_2'"),
        ({"num_classes": 2}, "model.num_classes wants 1; got 2"),
        ({"width": 0.0}, "model.width wants more than 0"),
        ({"width": 0.1}, r"model.width wants a multiple of 0.0625, .*got 0.1: 6 .* multiple of 4"),
        ({"width": 1 / 16, "interphase": "grouped"}, "model.width wants a multiple of 0.125,"),
        ({"width": 1 / 8, "interphase": "grouped", "version": "2s"}, "a multiple of 0.25,"),
        ({"image_size": 16}, "32 px or more; got 16"),
        ({"pixel_threshold": 80.0}, r"model.pixel_threshold is a probability in \[0, 1\]; got 80"),
        ({"link_threshold": -0.1}, "model.link_threshold is a probability"),
        ({"score_threshold": float("nan")}, "model.score_threshold is a probability"),
        ({"min_cells": 0}, "model.min_cells wants 1 or more; got 0"),
        ({"max_detections": 0}, "model.max_detections wants 1 or more; got 0"),
        ({"neg_ratio": -1.0}, "model.neg_ratio wants 0 or more; got -1"),
    ],
)
def test_configs_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        models.config("pixellink_pp", **fields)


@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (1, 300, 300, 12)])
def test_images_that_do_not_fit_are_refused_with_the_way_out(shape):
    _, detector = narrow()
    with pytest.raises(ValueError, match=r"wants images \[B, 64, 64, 12\].*data.image_size"):
        jax.eval_shape(detector.module.init, jax.random.key(0), jnp.zeros(shape))


def outputs(cells, lesions):
    """Sure scores: cells x cells of no lesion but for `lesions`, (y0, x0, y1, x1); all linked."""
    pixel = np.zeros((1, cells, cells, 2), np.float32)
    pixel[..., 0] = 6.0
    for y0, x0, y1, x1 in lesions:
        pixel[0, y0:y1, x0:x1] = [-3.0, 3.0]
    link = np.tile(np.float32([-6, 6]), (1, cells, cells, 8))
    return pixellink.Outputs(jnp.asarray(pixel), jnp.asarray(link))


def test_detections_are_in_pixels_of_the_image():
    cfg, detector = narrow()
    found = detector.decode(outputs(16, [(2, 3, 5, 9), (10, 0, 12, 4)]))
    boxes = {tuple(box) for box in np.asarray(found.boxes_xyxy[0, :2]).tolist()}
    assert boxes == {(12, 8, 35, 19), (0, 40, 15, 47)}
    assert found.boxes_xyxy.shape == (1, cfg.max_detections, 4)
    np.testing.assert_allclose(found.scores[0, :3], [1 / (1 + np.exp(-6))] * 2 + [0], rtol=1e-5)
    np.testing.assert_array_equal(found.labels[0, :3], [0, 0, -1])


def test_what_counts_as_found_are_fields():
    said = outputs(16, [(2, 3, 5, 9), (10, 0, 11, 1)])
    _, whole = narrow(extent="cells", min_cells=2)
    found = whole.decode(said)
    assert found.boxes_xyxy[0, 0].tolist() == [12, 8, 36, 20] and found.labels[0, 1] == -1
    _, sure = narrow(score_threshold=0.999)
    assert (sure.decode(said).labels == -1).all()


def said_of_one_box():
    """A box at the top edge that ends between two cells, and logits that say little of it."""
    rng = np.random.default_rng(0)
    images, boxes = np.zeros((1, 64, 64, 12), np.float32), np.float32([[[8, 0, 24, 3]]])
    batch = Batch(images, boxes, np.zeros((1, 1), np.int32), np.array([0]))
    pixel, link = (rng.normal(0, 2, (1, 16, 16, n)).astype(np.float32) for n in (2, 16))
    answers = {"pixellink_pp": pixellink.Outputs(pixel, link)}
    answers["mscr"] = mscr.Outputs(pixel, link, None)
    return jax.tree.map(jnp.asarray, answers), batch


@pytest.mark.parametrize("name", ["pixellink_pp", "mscr"])
@pytest.mark.parametrize(
    "field",
    [{"cover": "touched"}, {"border": "official"}, {"neg_ratio": 1.0}, {"truth": "mask"}],
    ids=str,
)
def test_each_field_of_the_truth_reaches_the_loss(name, field):
    said, batch = said_of_one_box()
    lesions = np.zeros((1, 64, 64), np.uint8)
    lesions[0, 0:3, 10:13] = 1
    batch = batch._replace(lesions=lesions)

    def total(**fields):
        cfg = models.config(name, image_size=64, **fields)
        return float(models.from_config(cfg).loss(said[name], batch)["total"])

    assert abs(total() - total(**field)) > 1e-3


@pytest.mark.parametrize("name", ["pixellink_pp", "mscr"])
@pytest.mark.parametrize(
    ("field", "officially"),
    [
        ({"pixel_threshold": 0.9}, True),
        ({"link_threshold": 0.99}, True),
        ({"score_threshold": 0.97}, True),
        ({"max_detections": 2}, True),
        ({"min_cells": 2}, False),
        ({"extent": "cells"}, False),
        ({"score": "pixels"}, False),
    ],
    ids=str,
)
def test_each_field_of_decoding_reaches_the_boxes(name, field, officially):
    said, _ = said_of_one_box()
    one = tuple(np.asarray(a[0]) for a in jax.tree.leaves(said[name]))

    def found(**fields):
        """Rows of the device's decoding and of the official one."""
        cfg = models.config(name, image_size=64, **fields)
        ours = jax.tree.map(lambda a: a[0], models.from_config(cfg).decode(said[name]))
        for rows in (ours, models.official_decode(cfg)(one)):
            yield np.c_[rows.boxes_xyxy, rows.scores][np.asarray(rows.labels) >= 0].tolist()

    (ours, theirs), (others, others_theirs) = found(), found(**field)
    assert ours != others and (theirs != others_theirs) == officially


@pytest.mark.parametrize(
    "words",
    [
        ({"gate_pool": 1}, {"gate_pool": 2}, {"gate_pool": 4}),
        ({"interphase": "grouped"}, {"interphase": "per_phase"}),
    ],
    ids=str,
)
def test_words_of_the_attention_change_its_answers(words):
    x = np.random.default_rng(0).uniform(0, 1, (1, 64, 64, 12)).astype(np.float32)
    answers = []
    for fields in words:
        _, detector = narrow(**fields)
        rng = np.random.default_rng(1)
        shapes = jax.eval_shape(detector.module.init, jax.random.key(0), x)
        variables = jax.tree.map(
            lambda a, r=rng: r.standard_normal(a.shape, "f") / max(a.size, 9) ** 0.25, shapes
        )
        quick = {"xla_backend_optimization_level": 0}
        out = jax.jit(detector.module.apply, compiler_options=quick)(variables, x)
        answers.append(np.asarray(out.pixel_logits))
    for one, other in itertools.combinations(answers, 2):
        assert np.abs(one - other).max() > 1e-3 * np.abs(one).max() > 0


def test_boxes_stay_in_an_image_that_cells_overhang():
    _, detector = narrow(image_size=61)
    found = detector.decode(outputs(16, [(14, 14, 16, 16)]))
    np.testing.assert_array_equal(found.boxes_xyxy[0, 0], [56, 56, 60, 60])
    found = detector.decode(outputs(16, [(15, 15, 16, 16)]))  # a cell of one px
    np.testing.assert_array_equal(found.boxes_xyxy[0, 0], [60, 60, 61, 61])


def test_every_parameter_learns():
    """The quick part of the contract, which is slow: of PixelLink++ and of plain PixelLink."""
    boxes, labels = np.float32([[[8, 12, 30, 40]]] * 2), np.zeros((2, 1), np.int32)
    for name, fields in (("pixellink_pp", {}), ("pixellink", {})):
        detector = models.build(name, **NARROW, image_size=64, trunk_start="he", **fields)
        images = np.random.default_rng(0).uniform(size=(2, 64, 64, 12)).astype(np.float32)
        batch = Batch(images, boxes, labels, np.arange(2))
        shapes = jax.eval_shape(detector.module.init, jax.random.key(0), images)
        rng = np.random.default_rng(1)
        variables = jax.tree.map(lambda a, r=rng: 0.1 * r.standard_normal(a.shape, "f"), shapes)

        def total(params, rest, detector=detector, batch=batch):
            out, _ = detector.module.apply(
                {**rest, "params": params}, batch.images, train=True, mutable=["batch_stats"]
            )
            return detector.loss(out, batch)["total"]

        params, rest = variables["params"], {"batch_stats": variables.get("batch_stats", {})}
        quick = {"xla_backend_optimization_level": 0}
        grads = jax.jit(jax.grad(total), compiler_options=quick)(params, rest)
        for path, grad in jax.tree_util.tree_leaves_with_path(jax.device_get(grads)):
            assert np.isfinite(grad).all(), path
            # Of a key's bias a softmax takes the effect out.
            assert grad.any() or [part.key for part in path[-2:]] == ["phi", "bias"], path


def test_perfect_answers_lose_nothing_and_find_the_boxes():
    _, detector = narrow()
    boxes = np.float32([[[8, 12, 24, 20], [40, 40, 60, 52]]])
    batch = Batch(
        np.zeros((1, 64, 64, 12), np.float32), boxes, np.zeros((1, 2), np.int32), np.array([0])
    )
    # The reference's raster takes the cell at the far edge too.
    out = outputs(16, [(3, 2, 6, 7), (10, 10, 14, 16)])
    links = np.array(out.link_logits)
    for y0, x0, y1, x1 in [(3, 2, 6, 7), (10, 10, 14, 16)]:
        for k, (dy, dx) in enumerate(NEIGHBOURS):
            y, x = np.mgrid[y0:y1, x0:x1]
            inside = (y + dy >= y0) & (y + dy < y1) & (x + dx >= x0) & (x + dx < x1)
            links[0, y0:y1, x0:x1, 2 * k] = np.where(inside, -6, 6)
            links[0, y0:y1, x0:x1, 2 * k + 1] = np.where(inside, 6, -6)
    found = detector.decode(out._replace(link_logits=jnp.asarray(links)))
    both = sorted(np.asarray(found.boxes_xyxy[0, :2]).tolist())
    assert both == [[8, 12, 27, 23], [40, 40, 63, 55]] and found.labels[0, 2] == -1
    losses = detector.loss(out._replace(link_logits=jnp.asarray(links)), batch)
    assert (
        losses["link"] < 0.01 and losses["pixel"] < 0.05
    )  # all background ties, and so all counts
    worse = detector.loss(out._replace(link_logits=jnp.asarray(-links)), batch)
    assert worse["link"] > 5 and worse["pixel"] == losses["pixel"]


def test_masks_are_the_truth_where_they_are_asked_for():
    _, detector = narrow(truth="mask")
    lesions = np.zeros((1, 64, 64), np.uint8)
    lesions[0, 20:30, 8:14] = 1
    boxes, labels = np.float32([[[8, 20, 14, 30]]]), np.zeros((1, 1), np.int32)
    batch = Batch(np.zeros((1, 64, 64, 12), np.float32), boxes, labels, np.array([0]))
    out = outputs(16, [(5, 2, 8, 4)])
    with pytest.raises(ValueError, match=r"set data\.lesions=True"):
        detector.loss(out, batch)
    told = detector.loss(out, batch._replace(lesions=lesions))
    far = detector.loss(outputs(16, [(1, 10, 4, 14)]), batch._replace(lesions=lesions))
    assert told["pixel"] < 0.05 < far["pixel"]  # all background ties, and so all counts


def test_a_phase_stays_apart_until_it_is_fused():
    cfg = models.config("pixellink_g", **NARROW, image_size=64)
    module = models.from_config(cfg).module
    (image,) = models.example(cfg, 0)
    call = jax.jit(functools.partial(module.apply, capture_intermediates=True, mutable=True))
    shapes, rng = jax.eval_shape(module.init, jax.random.key(0), image), np.random.default_rng(0)
    variables = jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), shapes)
    image = rng.uniform(0, 1, image.shape).astype(np.float32)
    other = image.copy()
    other[..., 3:6] = rng.uniform(0, 1, other[..., 3:6].shape)  # the second phase
    seen = [call(variables, x)[1]["intermediates"]["conv7"]["__call__"][0] for x in (image, other)]
    moved = np.abs(np.asarray(seen[0]) - seen[1]).max((0, 1, 2)).reshape(4, -1).max(1) > 0
    np.testing.assert_array_equal(moved, [False, True, False, False])


def started(**fields):
    """Parameters as training starts with them, by path."""
    _, detector = narrow(**fields)
    # Hundreds of small programs that run once: not worth optimising.
    quick = {"xla_backend_optimization_level": 0}
    init = jax.jit(
        lambda key: detector.module.init(key, jnp.zeros((1, 64, 64, 12))), compiler_options=quick
    )
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(init(jax.random.key(0)))["params"])
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def test_all_convolutions_start_by_xavier():
    fresh = started()
    kernels = {name: a for name, a in fresh.items() if name.endswith("/kernel")}
    assert "attend_0/theta/kernel" in kernels and "align_0/offset/kernel" in kernels
    for name, kernel in kernels.items():
        if name == "align_0/kernel":  # no nn.Conv2d: PyTorch's own draw
            bound = np.prod(kernel.shape[:3]) ** -0.5
        else:
            area = kernel.shape[0] * kernel.shape[1]
            bound = (6 / (area * (kernel.shape[2] + kernel.shape[3]))) ** 0.5
        least = 0.4 if kernel.size < 100 else 0.9
        assert least * bound < np.abs(kernel).max() <= bound * 1.000001, name
    assert not any(a.any() for name, a in fresh.items() if name.endswith(("bias", "sigma")))


def test_offsets_may_start_at_zero_as_those_of_gssd_pp():
    fresh = started(align_start="zero", attention_trunk="none", attention_heads="none")
    assert not fresh["align_0/offset/kernel"].any() and fresh["align_0/kernel"].any()


def test_he_keeps_the_scale_that_xavier_loses_in_the_trunk():
    """Of the code's start 1e-7 or so of an image is left behind conv7, of He's about itself."""
    slices = np.random.default_rng(0).uniform(size=(1, 64, 64, 12)).astype(np.float32)
    left = {}
    for start in ("xavier", "he"):
        fields = {"attention_trunk": "none", "attention_heads": "none", "align": "none"}
        module = models.build("pixellink_g", **fields, image_size=64, trunk_start=start).module
        variables = module.init(jax.random.key(0), slices)
        _, kept = module.apply(variables, slices, capture_intermediates=True, mutable=True)
        (conv7,) = kept["intermediates"]["conv7"]["__call__"]
        left[start] = float(np.abs(conv7).max())
    assert left["xavier"] < 1e-4 < 0.1 < left["he"] < 10


def learned(detector):
    """Losses of 60 steps on two slices with a bright box in each; parameters before and after."""
    rng = np.random.default_rng(0)
    boxes = np.float32([[[10, 12, 30, 28]], [[40, 36, 56, 60]]])
    images = rng.uniform(0, 0.3, (2, 64, 64, 12)).astype(np.float32)
    for image, (x0, y0, x1, y1) in zip(images, boxes[:, 0].astype(int), strict=True):
        image[y0:y1, x0:x1] += 0.5
    batch = Batch(images, boxes, np.zeros((2, 1), np.int32), np.arange(2, dtype=np.int32))
    variables = jax.jit(detector.module.init)(jax.random.key(0), images)
    first = variables["params"]

    @jax.jit
    def step(variables):
        def total(params):
            out, changed = detector.module.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return detector.loss(out, batch)["total"], changed

        (loss, changed), grads = jax.value_and_grad(total, has_aux=True)(variables["params"])
        moved = jax.tree.map(lambda p, g: p - 0.05 * g, variables["params"], grads)
        return {"params": moved, **changed}, loss

    losses = []
    for _ in range(60):
        variables, loss = step(variables)
        losses.append(float(loss))
    return losses, first, variables["params"]


STARTED = {"trunk_start": "he", "fuse_norm": "batch"}


@pytest.mark.slow  # compiles a training step
@pytest.mark.parametrize("fields", [{"version": "2s"}, {"version": "2s", "align_at": "conv2_2"}])
def test_2s_learns(fields):
    losses, before, after = learned(narrow(gate_pool=4, **STARTED, **fields)[1])
    assert losses[-1] < 1  # 4.7 is the loss of one who says nothing
    (name,) = (name for name in after if name.startswith("align"))
    kernels = [params[name]["offset"]["kernel"] for params in (before, after)]
    assert np.abs(kernels[1] - kernels[0]).max() > 1e-3


@pytest.mark.slow  # compiles two training steps
def test_a_start_by_he_and_a_normalised_fusion_learn_sooner():
    """What docs/reproduce.md says of it: from 2.8 to 2.5 as the code starts, from 10.8 to 0.4."""
    kind = {**NARROW, "image_size": 64}
    plain, *_ = learned(models.build("pixellink_g", **kind))
    sooner, *_ = learned(models.build("pixellink_g", **kind, **STARTED))
    ends = [plain[0], plain[-1], sooner[0], sooner[-1]]
    np.testing.assert_allclose(ends, [2.8, 2.5, 10.8, 0.4], atol=0.2)

"""The Siamese network: its counts, one slice tower for all patches, its loss, scores and CAM."""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdet.config import Patches, from_json, to_json
from jaxdet.models import siamese
from jaxdet.ops import patches, replicas

TINY = siamese.Config(width=1 / 32, input_size=116, patches=Patches(side=16))
GAP = dataclasses.replace(TINY, head="gap", input_size=93)
VGG = dataclasses.replace(TINY, trunk="vgg16", head="flat", input_size=32)
SLICES = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
TILES = patches.crop(SLICES, 16)  # [2, 4, 16, 16, 1]


@functools.cache
def variables(cfg):
    """Weights scaled by fan in and biases off zero, drawn by NumPy: nothing to compile.

    He's gain in VGG16, or its thirteen layers would fade to their biases, the same for all images.
    """
    rng, gain = np.random.default_rng(0), 2**0.5 if cfg.trunk == "vgg16" else 1.0

    def draw(shape):
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 400
        return jnp.asarray(rng.normal(size=shape) * gain * fan_in**-0.5, jnp.float32)

    start = functools.partial(siamese.build(cfg).init, jax.random.key(0))
    return jax.tree.map(lambda w: draw(w.shape), jax.eval_shape(start, SLICES, TILES))


@functools.cache
def logits_of(cfg):
    return np.array(jax.jit(siamese.build(cfg).apply)(variables(cfg), SLICES, TILES))


def naive(cfg, weights, slices, tiles):
    """Every pair by itself: the slice repeated for every patch, two towers a pair."""
    g, p = tiles.shape[:2]
    call = functools.partial(siamese.build(cfg).apply, weights)
    h_slices = call(jnp.repeat(slices, p, axis=0), method="embed")
    h_tiles = call(tiles.reshape(g * p, *tiles.shape[2:]), method="embed")
    return call(h_slices, h_tiles[:, None], method="compare").reshape(g, p)


@pytest.mark.parametrize(
    ("count", "fields"),
    [
        (38_951_745, {"head": "flat", "input_size": 105}),  # Koch's own
        (52_583_233, {}),
        (38_951_745, {"head": "pool6"}),
        (1_195_073, {"head": "gap"}),
        (68_311_873, {"head": "flat", "input_size": 128}),
        (3_289_537_345, {"head": "flat"}),
        (81_824_577, {"trunk": "vgg16", "head": "flat", "channels": 3}),
        (81_823_425, {"trunk": "vgg16", "head": "flat"}),
    ],
)
def test_parameters_are_as_many_as_the_facts_say(count, fields):
    cfg = siamese.Config(**fields)
    start = functools.partial(siamese.build(cfg).init, jax.random.key(0))
    shapes = jax.eval_shape(start, *siamese.example(cfg, 512))
    assert sum(int(np.prod(w.shape)) for w in jax.tree.leaves(shapes)) == count


def test_names_are_those_that_checkpoints_hold():
    params = variables(TINY)["params"]
    assert set(params) == {"trunk", "dense", "score"}
    assert set(params["trunk"]) == {"conv1", "conv2", "conv3", "conv4"}
    assert params["trunk"]["conv1"]["kernel"].shape == (10, 10, 1, 2)
    assert params["dense"]["kernel"].shape == (7 * 7 * 8, 128)
    assert set(variables(GAP)["params"]) == {"trunk", "score"}
    assert len(variables(VGG)["params"]["trunk"]) == 13


def close_by_leaf(ours, theirs):
    """Within a ten-thousandth of the greatest value of each leaf, so that no small one hides."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        atol = 1e-4 * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("cfg", [TINY, GAP, VGG], ids=["pool7", "gap", "vgg16"])
def test_one_slice_tower_is_the_naive_pairs(cfg):
    labels = np.array([[0, 1, 1, 0], [1, 0, 0, 0]], np.float32)
    weights = np.array([[1, 1, 1, 0], [1, 1, 0, 1]], np.float32)

    def shared(w):
        logits = siamese.build(cfg).apply(w, SLICES, TILES, train=True)
        return siamese.loss(logits, labels, weights, w["params"], cfg=cfg)["total"], logits

    def repeated(w):
        logits = naive(cfg, w, SLICES, TILES)
        return siamese.loss(logits, labels, weights, w["params"], cfg=cfg)["total"], logits

    grads, logits = jax.jit(jax.grad(shared, has_aux=True))(variables(cfg))
    want_grads, want = jax.jit(jax.grad(repeated, has_aux=True))(variables(cfg))
    assert logits.dtype == jnp.float32 and np.ptp(logits) > 1e-4
    np.testing.assert_allclose(logits, want, atol=1e-5)
    close_by_leaf(grads, want_grads)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_the_slice_passes_the_trunk_once_for_all_its_patches():
    program = str(jax.make_jaxpr(siamese.build(TINY).apply)(variables(TINY), SLICES, TILES))
    assert "f32[10,107,107,2]" in program  # 2 slices and 8 patches; the naive pairs are 16
    assert "conv_general_dilated" in program and "f32[16,107,107,2]" not in program


def test_rematerialising_changes_no_parameter_and_no_gradient():
    kept = dataclasses.replace(TINY, rematerialise=False)

    def total(w, cfg):
        return jnp.square(siamese.build(cfg).apply(w, SLICES, TILES)).sum()

    grad = jax.jit(jax.grad(total), static_argnums=1)
    ours, plain = grad(variables(TINY), TINY), grad(variables(TINY), kept)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, plain)
    assert jax.tree.structure(variables(TINY)) == jax.tree.structure(variables(kept))


def test_fourier_tiles_give_the_direct_logits_gradients_and_parameters():
    cfg = dataclasses.replace(TINY, width=1 / 16, convolution="direct")  # 4 channels for conv2
    fourier = dataclasses.replace(cfg, convolution="fourier")
    tiles = TILES[:1, :3]

    def total(w, cfg):
        logits = siamese.build(cfg).apply(w, SLICES[:1], tiles)
        return jnp.square(logits).sum(), logits

    grad = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    (ours, logits), (plain, want) = grad(variables(cfg), fourier), grad(variables(cfg), cfg)
    np.testing.assert_allclose(logits, want, atol=1e-5)
    close_by_leaf(ours, plain)
    program = str(jax.make_jaxpr(siamese.build(fourier).apply)(variables(cfg), SLICES, TILES))
    assert program.count("conv_general_dilated[") == 1  # the first one
    assert jax.tree.structure(variables(fourier)) == jax.tree.structure(variables(cfg))


@pytest.mark.parametrize(
    ("fields", "backend", "word"),
    [
        ({"input_size": 512}, "cpu", "fourier"),
        ({"input_size": 512}, "gpu", "direct"),
        ({"input_size": 72, "head": "flat"}, "cpu", "direct"),
        ({"trunk": "vgg16", "input_size": 512}, "cpu", "direct"),
        ({"convolution": "direct"}, "cpu", "direct"),
        ({"convolution": "fourier"}, "gpu", "fourier"),
    ],
)
def test_auto_takes_fourier_tiles_where_they_gain(monkeypatch, fields, backend, word):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert siamese._word(siamese.Config(**fields)) == word


@pytest.mark.parametrize("at_once", [3, 16])
def test_scores_are_the_sigmoid_of_the_modules_logits(at_once):
    score = jax.jit(functools.partial(siamese.score, TINY, at_once=at_once))
    ours = score(variables(TINY), SLICES)
    assert ours.shape == (2, 4) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, jax.nn.sigmoid(logits_of(TINY)), atol=1e-6)


def test_permuting_patches_permutes_scores():
    order = np.array([2, 0, 3, 1])
    moved = jax.jit(siamese.build(TINY).apply)(variables(TINY), SLICES, TILES[:, order])
    np.testing.assert_allclose(moved, logits_of(TINY)[:, order], atol=1e-6)


def test_no_slices_and_no_patches_give_no_logits():
    call = siamese.build(TINY).apply
    assert call(variables(TINY), SLICES, TILES[:, :0]).shape == (2, 0)
    for slices, tiles in ((SLICES[:0], TILES[:0]), (SLICES[:0], TILES[:0, :0])):
        logits = call(variables(TINY), slices, tiles)
        assert logits.shape == tiles.shape[:2] and logits.dtype == jnp.float32
    assert siamese.score(TINY, variables(TINY), SLICES[:0]).shape == (0, 4)
    assert siamese.cam(TINY, variables(TINY), SLICES[:0]).shape == (0, 32, 32)


def test_bytes_are_fractions_and_grow_as_opencv_grows_them():
    cfg = dataclasses.replace(TINY, input_size=128)
    grey = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 1), np.uint8)
    ours = siamese.build(cfg).apply({}, grey, method="enter")
    assert float(ours.min()) == 0 and float(ours.max()) == 1  # clipped, as bytes are
    theirs = cv2.resize(grey[0, ..., 0], (128, 128), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(ours[0, ..., 0] * 255, theirs, atol=1)


def test_inputs_of_every_side_are_brought_to_input_size():
    enter = functools.partial(siamese.build(TINY).apply, {}, method="enter")
    for side in (32, 116, 232):
        x = enter(np.full((1, side, side, 1), 0.25, np.float32))
        assert x.shape == (1, 116, 116, 1)
        np.testing.assert_allclose(x, 0.25, atol=1e-6)


def test_bfloat16_convolutions_give_float32_logits_close_by():
    low = dataclasses.replace(TINY, dtype="bfloat16")
    ours = jax.jit(siamese.build(low).apply)(variables(TINY), SLICES, TILES)
    assert ours.dtype == jnp.float32
    assert np.ptp(logits_of(TINY)) > 1e-2  # or else anything would be close by
    np.testing.assert_allclose(ours, logits_of(TINY), atol=1e-3)


def test_gap_has_one_weight_a_channel_and_its_cam_has_them_with_a_sign():
    weights = variables(GAP)["params"]["score"]["kernel"][:, 0]
    assert weights.shape == (8,)
    call = jax.jit(functools.partial(siamese.build(GAP).apply, variables(GAP), method="features"))
    of_tiles = call(TILES.reshape(8, 16, 16, 1))
    of_slices = jnp.repeat(call(SLICES).mean((1, 2)), 4, axis=0)
    # |f_slice - f_patch| falls or rises with the patch's activations: that is a weight's sign.
    signed = weights * jnp.sign(of_tiles.mean((1, 2)) - of_slices)
    heat = np.maximum(np.einsum("phwk,pk->phw", of_tiles, signed), 0)
    pixels = heat[0].size
    want = np.stack([cv2.resize(z / pixels, (16, 16)) for z in heat]).reshape(2, 4, 16, 16)
    assert heat.shape == (8, 4, 4) and heat.max() > 0
    ours = jax.jit(functools.partial(siamese.cam, GAP))(variables(GAP), SLICES)
    np.testing.assert_allclose(ours, patches.stitch(want), atol=1e-6)


@pytest.mark.parametrize("input_size", [116, 216])  # 7x7 and 19x19 activations for 16 px
def test_cam_is_the_gradient_of_the_logit_by_the_patchs_branch(input_size):
    weights, cfg = variables(TINY), dataclasses.replace(TINY, input_size=input_size)

    @jax.jit
    def naive_cam(weights, slices, tiles):
        call = functools.partial(siamese.build(cfg).apply, weights)
        h = call(slices, method="embed")
        acts = call(tiles, method="features")

        def logits(a):
            return call(h, call(a, method="project").reshape(2, 4, -1), method="compare").sum()

        alpha = jax.grad(logits)(acts).mean((1, 2), keepdims=True)
        return jax.nn.relu((alpha * acts).sum(-1))

    maps = naive_cam(weights, SLICES, TILES.reshape(8, 16, 16, 1))
    tiles = np.array(jax.image.resize(maps, (8, 16, 16), "linear"))
    ours = jax.jit(functools.partial(siamese.cam, cfg, at_once=3))(weights, SLICES)
    assert ours.shape == (2, 32, 32) and float(ours.max()) > 0
    np.testing.assert_allclose(ours, patches.stitch(tiles.reshape(2, 4, 16, 16)), atol=1e-6)


def test_loss_is_the_weighted_mean_plus_the_kernels_squares():
    cfg = dataclasses.replace(TINY, l2=0.5)
    params = {"trunk": {"kernel": jnp.array([3.0]), "bias": jnp.array([9.0])}}
    logits, labels = jnp.array([[0.0, 2.0, 50.0]]), jnp.array([[1.0, 0.0, 0.0]])
    out = siamese.loss(logits, labels, jnp.array([[1.0, 3.0, 0.0]]), params, cfg=cfg)
    want = (np.log(2) + 3 * np.log1p(np.exp(2))) / 4
    assert float(out["bce"]) == pytest.approx(want, rel=1e-6)
    assert float(out["l2"]) == pytest.approx(4.5)
    assert float(out["total"]) == pytest.approx(want + 4.5, rel=1e-6)


def test_a_batch_of_padding_is_zero_with_finite_gradients():
    def total(logits):
        zeros = jnp.zeros_like(logits)
        return siamese.loss(logits, zeros, zeros, {"kernel": jnp.ones(2)}, cfg=TINY)["bce"]

    value, grad = jax.value_and_grad(total)(jnp.array([[3.0, -3.0]]))
    assert value == 0 and (grad == 0).all()


def test_the_mean_over_replicas_is_the_loss_of_the_whole_batch():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(4, 3)), rng.integers(0, 2, (4, 3))
    weights = rng.random((4, 3)) * [[1], [1], [1], [0]]  # one replica has only padding
    batch = [jnp.asarray(x, jnp.float32) for x in (logits, labels, weights)]
    params = {"kernel": jnp.array([1.0, 2.0])}
    whole = siamese.loss(*batch, params, cfg=TINY)
    share = jax.vmap(
        lambda *x: siamese.loss(*(a[None] for a in x), params, cfg=TINY), axis_name=replicas.AXIS
    )(*batch)
    for name, value in whole.items():
        assert float(share[name].mean()) == pytest.approx(float(value), rel=1e-5)


def test_kochs_start_is_his():
    cfg = dataclasses.replace(TINY, init="koch", width=1 / 8)
    start = jax.jit(siamese.build(cfg).init)  # compiles to the draws alone
    params = start(jax.random.key(1), SLICES[:1], TILES[:1, :1])["params"]
    conv, dense = params["trunk"]["conv2"], params["dense"]
    assert float(conv["kernel"].std()) == pytest.approx(0.01, rel=0.1)
    assert float(conv["bias"].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(dense["kernel"].std()) == pytest.approx(0.2 * (9216 / 1568) ** 0.5, rel=0.1)
    assert float(dense["bias"].std()) == pytest.approx(0.01, rel=0.2)


def test_it_learns_which_patch_holds_a_bright_spot():
    cfg = dataclasses.replace(GAP, input_size=65)
    labels = np.eye(4, dtype=np.float32)
    tiles = np.random.default_rng(5).random((4, 4, 16, 16, 1), np.float32) * 0.3
    tiles[:, :, 4:12, 4:12] += 0.6 * labels[..., None, None, None]
    slices = patches.stitch(tiles)
    module, adam = siamese.build(cfg), optax.adam(0.03)

    @jax.jit
    def step(params, state):
        def total(p):
            logits = module.apply({"params": p}, slices, tiles, train=True)
            return siamese.loss(logits, labels, np.ones_like(labels), p, cfg=cfg)["total"]

        updates, state = adam.update(jax.grad(total)(params), state)
        return optax.apply_updates(params, updates), state

    params = variables(cfg)["params"]
    state = adam.init(params)
    for _ in range(30):
        params, state = step(params, state)
    scores = siamese.score(cfg, {"params": params}, slices)
    assert float(scores[labels == 1].min()) > float(scores[labels == 0].max())


def test_the_config_goes_to_json_and_back():
    assert from_json(siamese.Config, to_json(TINY)) == TINY


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input_size": 100}, "wants 7x7 features .* the smallest input_size is 113"),
        ({"input_size": 104, "head": "pool6"}, "the smallest input_size is 105"),
        ({"input_size": 10, "head": "flat"}, "the smallest input_size is 65"),
        ({"input_size": 200, "trunk": "vgg16"}, "the smallest input_size is 224"),
        ({"trunk": "vgg16", "init": "koch"}, "set init='lecun'"),
        ({"width": 0.0}, "width above 0"),
        ({"width": float("inf")}, "all finite"),
        ({"l2": float("inf")}, "all finite"),
        ({"l2": float("nan")}, "all finite"),
        ({"bicubic_a": float("nan")}, "bicubic_a wants -1 to 0; got nan"),
        ({"bicubic_a": 0.5}, "bicubic_a wants -1 to 0; got 0.5"),
        ({"bicubic_a": -1.5}, "bicubic_a wants -1 to 0; got -1.5"),
    ],
)
def test_what_cannot_be_built_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        siamese.Config(**fields)


def test_the_smallest_legal_input_has_the_features_it_needs():
    for head, wanted in (("pool7", 7), ("pool6", 6)):
        least = {"pool7": 113, "pool6": 105}[head]
        assert siamese.trunk_side("koch", least) == wanted
        assert siamese.trunk_side("koch", least - 1) < wanted
    assert siamese.trunk_side("koch", 512) == 56 and siamese.trunk_side("vgg16", 512) == 16


def test_the_wrong_number_of_channels_and_sides_is_refused():
    with pytest.raises(ValueError, match="channels=1 wants square images"):
        siamese.score(TINY, variables(TINY), np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match="legal sides are 32 and 48"):
        siamese.score(TINY, variables(TINY), np.zeros((1, 40, 40, 1), np.float32))
    with pytest.raises(ValueError, match="legal sides are 32 and 48"):
        siamese.example(TINY, 40)

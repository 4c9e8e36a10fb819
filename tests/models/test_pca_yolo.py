"""The map of PCA-YOLO against its equations, both stages as one program, sizes, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

import jaxdet
from jaxdet import models
from jaxdet.config import Patches
from jaxdet.models import pca_yolo, siamese

SIDE, M = 64, 32
# Koch's trunk on 72 px leaves one pixel; a few channels are enough to tell patches apart.
NETWORK = siamese.Config(
    input_size=72, head="flat", width=1 / 32, rematerialise=False, patches=Patches(side=M)
)


def config(**fields):
    return models.config("pca_yolo", size="n", siamese=NETWORK, **fields)


@pytest.fixture(scope="module")
def variables():
    return siamese.build(NETWORK).init(jax.random.key(0), *siamese.example(NETWORK, SIDE))


def slices_of(count, side=SIDE):
    return np.random.default_rng(0).uniform(0, 1, (count, side, side, 1)).astype(np.float32)


def count(cfg):
    shapes = jax.eval_shape(models.module(cfg).init, jax.random.key(0), *models.example(cfg, 64))
    fixed_bins = 16  # of DFL, which the reference counts
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) + fixed_bins


@pytest.mark.parametrize(
    ("channels", "wanted"), [(4, 68_154_291), (3, 68_153_571), (2, 68_152_851)]
)
def test_parameter_counts_of_the_paper(channels, wanted):
    assert count(models.config("pca_yolo", channels=channels)) == wanted  # facts 2.2


def test_defaults_are_the_papers():
    cfg = models.config("pca_yolo")
    assert (cfg.size, cfg.num_classes, cfg.channels) == ("x", 1, 4)
    assert (cfg.siamese.patches.side, cfg.c, cfg.normalise) == (64, 255.0, "minmax")
    recipe = cfg.siamese_train
    assert (recipe.optimizer, recipe.lr, recipe.batch_size) == ("adam", 1e-4, 16)
    assert (recipe.epochs, recipe.patience) == (200, 50)
    assert models.name_of(cfg) == "pca_yolo"


def test_scores_become_the_map_of_equations_1_and_2():
    scores = np.array([[0.2, 0.6, 0.4, 0.3], [0.5, 0.5, 0.5, 0.5]], np.float32)
    g = np.array([[0, 1, 0.5, 0.25], [0, 0, 0, 0]], np.float32)  # all equal: no attention
    np.testing.assert_allclose(pca_yolo.weighted(config(), scores), g, atol=1e-6)
    np.testing.assert_allclose(pca_yolo.weighted(config(c=51.0), scores), g / 5, atol=1e-6)
    plain = pca_yolo.weighted(config(normalise="none"), scores)
    np.testing.assert_allclose(plain, scores, atol=1e-6)


def test_equal_scores_give_no_nan_gradient():
    grad = jax.grad(lambda y: pca_yolo.weighted(config(), y).sum())(jnp.full((1, 4), 0.7))
    assert np.isfinite(grad).all()


def test_quantised_maps_have_whole_grey_levels():
    scores = np.random.default_rng(1).uniform(0, 1, (3, 4)).astype(np.float32)
    fine = np.asarray(pca_yolo.weighted(config(), scores))
    coarse = np.asarray(pca_yolo.weighted(config(quantize_uint8=True), scores))
    np.testing.assert_allclose(coarse * 255, np.rint(coarse * 255), atol=1e-4)
    assert np.abs(coarse - fine).max() <= 0.5 / 255 + 1e-6
    # What PNG does to maps without g: a probability of a thousandth is nothing.
    faint = config(quantize_uint8=True, normalise="none")
    assert not np.asarray(pca_yolo.weighted(faint, np.full((1, 4), 1e-3, np.float32))).any()


def test_a_cam_is_normalised_over_its_slice_or_each_patch():
    heat = np.random.default_rng(2).uniform(0, 1, (2, SIDE, SIDE)).astype(np.float32)
    heat[:, :M, :M] *= 0.1  # a patch that says little
    by_slice = np.asarray(pca_yolo.weighted(config(attention_from="cam"), heat))
    low = heat.min((1, 2), keepdims=True)
    by_hand = (heat - low) / (heat.max((1, 2), keepdims=True) - low)
    np.testing.assert_allclose(by_slice, by_hand, atol=1e-6)
    by_patch = np.asarray(pca_yolo.weighted(config(attention_from="cam", cam_norm="patch"), heat))
    tiles = by_patch.reshape(2, 2, M, 2, M).transpose(0, 1, 3, 2, 4).reshape(8, -1)
    np.testing.assert_allclose(tiles.max(1), 1, atol=1e-6)
    np.testing.assert_allclose(tiles.min(1), 0, atol=1e-6)
    assert by_slice[:, :M, :M].max() < 0.2


@pytest.mark.parametrize("fields", [{}, {"attention_from": "cam"}], ids=["scores", "cam"])
def test_the_map_covers_the_slice_from_0_to_1(variables, fields):
    maps = np.asarray(pca_yolo.attention_map(config(**fields), variables, slices_of(2)))
    assert maps.shape == (2, SIDE, SIDE, 1)
    np.testing.assert_allclose(maps.min((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(maps.max((1, 2, 3)), 1, atol=1e-6)


def test_the_map_is_piecewise_constant_and_each_patch_lies_in_its_place(variables):
    slices = slices_of(1)
    maps = np.asarray(pca_yolo.attention_map(config(normalise="none"), variables, slices))
    for row in range(2):
        for column in range(2):
            part = np.s_[:, row * M : (row + 1) * M, column * M : (column + 1) * M]
            logit = siamese.build(NETWORK).apply(variables, slices, slices[part][:, None])
            np.testing.assert_allclose(maps[part], jax.nn.sigmoid(logit)[0, 0], atol=1e-5)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_the_augmented_slice_is_grey_then_the_map(channels):
    grey, maps = slices_of(2), 1 - slices_of(2)
    out = np.asarray(pca_yolo.augmented(config(channels=channels), grey, maps))
    assert out.shape == (2, SIDE, SIDE, channels)
    np.testing.assert_array_equal(out[..., :-1], np.repeat(grey, channels - 1, axis=-1))
    np.testing.assert_array_equal(out[..., -1:], maps)


def test_both_stages_are_one_program(variables, monkeypatch):
    monkeypatch.setattr(pca_yolo, "build", lambda cfg: toy.DETECTOR)  # YOLOv8 compiles for long
    cfg = config()
    detector = models.from_config(cfg)
    weights = detector.module.init(jax.random.key(1), np.zeros((1, SIDE, SIDE, 4), np.float32))
    both = {"detector": weights, "siamese": variables}
    program = jax.jit(models.program(cfg))
    slices = slices_of(2)
    found = program(both, slices)
    maps = pca_yolo.attention_map(cfg, variables, slices)
    wanted = detector.detect(weights, pca_yolo.augmented(cfg, slices, maps))
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    flat = detector.detect(weights, pca_yolo.augmented(cfg, slices, 0 * maps))
    assert np.abs(found.scores - flat.scores).max() > 1e-3  # the map is not lost on the way
    bytes_ = np.round(slices * 255).astype(np.uint8)
    again = program(both, bytes_)
    plain = program(both, (bytes_ / 255).astype(np.float32))
    np.testing.assert_allclose(again.scores, plain.scores, atol=1e-6)


def test_wrong_channels_and_sides_are_refused(variables):
    both = {"detector": {}, "siamese": variables}
    detect = models.program(config())
    with pytest.raises(ValueError, match=r"wants raw slices \[B, S, S, 1\]; got \(1, 64, 64, 3\)"):
        detect(both, np.zeros((1, 64, 64, 3), np.float32))
    with pytest.raises(ValueError, match="64 and 96"):
        detect(both, np.zeros((1, 70, 70, 1), np.float32))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"attention_from": "cam", "normalise": "none"}, "a CAM has no range of its own"),
        ({"cam_norm": "patch"}, "a patch has one score"),
        ({"c": 0.0}, "more than 0, at most 255"),
        ({"c": 300.0}, "more than 0, at most 255"),
        ({"channels": 1}, "one of 2, 3, 4"),
        ({"map_pad": 2.0}, "0 to 1"),
        ({"cross_folds": 1}, "2 or more"),
        ({"fit": "cross_fit", "siamese_from": "somewhere"}, "no meaning"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        config(**fields)


def test_the_siamese_sees_one_channel():
    wide = dataclasses.replace(NETWORK, channels=3)
    with pytest.raises(ValueError, match="wants 1, the grey slice; got 3"):
        models.config("pca_yolo", siamese=wide)


def test_official_weights_are_its_detectors():
    fields = {"size": "n", "num_classes": 1}
    shapes = jax.eval_shape(
        jaxdet.build("pca_yolo", **fields).module.init,
        jax.random.key(0),
        np.zeros((1, 64, 64, 4), np.float32),
    )
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    state = jaxdet.bridge.to_torch("pca_yolo", drawn, **fields)
    assert state["model.0.conv.weight"].shape == (16, 4, 3, 3)
    back = jaxdet.bridge.from_torch("pca_yolo", state, **fields)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, drawn))
    again = jaxdet.bridge.to_torch("pca_yolo", back, **fields)
    assert all(state[name].tobytes() == again[name].tobytes() for name in state)

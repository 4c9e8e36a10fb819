"""Each part against NumPy written from its formula, and the laws that tell the parts apart."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxdet.nn import attention
from jaxdet.nn.attention import ATTENTION

CASES = [("none", "none"), ("channel", "none"), ("self", "none"), ("self", "sincos")]
CASES += [("mtnet", "none")]
PARTS = {
    **ATTENTION,
    "spatial": attention.SpatialAttention,
    "cbam": attention.CBAM,
}


def features(shape=(2, 4, 5, 32), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn(word, x, position="none", dtype="float32"):
    """A part and numbers for it, so large that gates and softmax are far from flat."""
    part = PARTS[word](jnp.dtype(dtype), position)
    shapes = jax.eval_shape(lambda: part.init(jax.random.key(0), jnp.asarray(x), train=True))
    rng = np.random.default_rng(1)

    def draw(leaf):
        spread = 1.5 / np.sqrt(np.prod(leaf.shape[:-1]))
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    return part, jax.tree.map(draw, shapes)


def answer(word, x, position="none"):
    part, variables = drawn(word, x, position)
    apply = jax.jit(lambda variables, x: part.apply(variables, x, train=False))
    return np.asarray(apply(variables, x)), variables.get("params", {})


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def channel_by_hand(x, params):
    w1, w2 = params["reduce"]["kernel"][0, 0], params["expand"]["kernel"][0, 0]
    logits = sum(np.maximum(pool @ w1, 0) @ w2 for pool in (x.mean((1, 2)), x.max((1, 2))))
    return x * sigmoid(logits)[:, None, None, :]


def spatial_by_hand(x, params):
    kernel = params["conv"]["kernel"][..., 0]
    pools = np.stack([x.mean(-1), x.max(-1)], axis=-1)
    padded = np.pad(pools, [(0, 0), (3, 3), (3, 3), (0, 0)])
    gate = np.zeros(x.shape[:3])
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            gate[:, i, j] = (padded[:, i : i + 7, j : j + 7] * kernel).sum((1, 2, 3))
    return x * sigmoid(gate)[..., None]


def cbam_by_hand(x, params):
    return spatial_by_hand(channel_by_hand(x, params["channel"]), params["spatial"])


def mtnet_by_hand(x, params):
    branches = (
        cbam_by_hand(x, params["cbam"]),
        spatial_by_hand(x, params["spatial"]),
        channel_by_hand(x, params["channel"]),
    )
    return sum(branches) / 3


def norm_by_hand(x, params):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * params["scale"] + params["bias"]


def self_by_hand(x, params, places=0.0):
    """One image, one head and one query at a time; `places` [H * W, C] go to queries and keys."""
    out = np.zeros(x.shape)
    for b, image in enumerate(x.reshape(len(x), -1, x.shape[-1]).astype(np.float64)):
        normed = norm_by_hand(image, params["norm1"])
        p = params["attend"]
        seen = []
        for head in range(8):
            q, k, v = (
                tokens @ p[name]["kernel"][:, head] + p[name]["bias"][head]
                for name, tokens in (
                    ("query", normed + places),
                    ("key", normed + places),
                    ("value", normed),
                )
            )
            rows = []
            for query in q:
                weight = np.exp(k @ query / np.sqrt(len(query)))
                rows.append(weight @ v / weight.sum())
            seen.append(np.stack(rows) @ p["out"]["kernel"][head])
        image = image + sum(seen) + p["out"]["bias"]
        hidden = norm_by_hand(image, params["norm2"]) @ params["expand"]["kernel"]
        hidden = hidden + params["expand"]["bias"]
        hidden = hidden * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2))) / 2
        image = image + hidden @ params["reduce"]["kernel"] + params["reduce"]["bias"]
        out[b] = image.reshape(x.shape[1:])
    return out


@pytest.mark.parametrize(
    ("word", "by_hand"),
    [
        ("channel", channel_by_hand),
        ("spatial", spatial_by_hand),
        ("cbam", cbam_by_hand),
        ("mtnet", mtnet_by_hand),
        ("self", self_by_hand),
    ],
)
def test_parts_equal_their_formula(word, by_hand):
    x = features()
    got, params = answer(word, x)
    np.testing.assert_allclose(got, by_hand(x, params), atol=2e-5)


def places_by_hand(height, width, channels):
    """sin x, cos x, sin y, cos y, a quarter each, a place and a channel at a time."""
    quarter = channels // 4
    places = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            for k in range(quarter):
                angles = x / 10000 ** (k / quarter), y / 10000 ** (k / quarter)
                waves = [f(angle) for angle in angles for f in (math.sin, math.cos)]
                places[y, x, k::quarter] = waves
    return places


def test_positions_are_waves_that_only_queries_and_keys_see():
    x = features()
    places = places_by_hand(4, 5, 32)
    np.testing.assert_allclose(attention.sincos(4, 5, 32), places, atol=1e-6)
    got, params = answer("self", x, "sincos")
    np.testing.assert_allclose(got, self_by_hand(x, params, places.reshape(20, 32)), atol=2e-5)


def test_no_attention_is_the_input_and_has_no_parameters():
    x = features((1, 2, 3, 5))  # any width
    got, params = answer("none", x)
    assert params == {}
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize(
    ("word", "channels", "wanted"),
    [
        ("none", 640, 0),
        ("channel", 320, 12_800),
        ("channel", 640, 51_200),
        ("spatial", 640, 98),
        ("self", 640, 4_923_520),
        ("mtnet", 320, 25_796),
        ("mtnet", 640, 102_596),
    ],
)
def test_parameter_counts(word, channels, wanted):
    x = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
    part = PARTS[word]()
    shapes = jax.eval_shape(lambda x: part.init(jax.random.key(0), x, train=False), x)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == wanted


def test_self_attention_commutes_with_permutations_unless_it_knows_places():
    x = features((1, 3, 4, 32))
    order = np.random.default_rng(2).permutation(12)

    def shuffled(x):
        return x.reshape(1, 12, 32)[:, order].reshape(x.shape)

    free, placed = (
        np.abs(answer("self", shuffled(x), p)[0] - shuffled(answer("self", x, p)[0])).max()
        for p in ("none", "sincos")
    )
    assert free < 1e-5
    assert placed > 0.1


@pytest.mark.parametrize("word", ["channel", "spatial", "cbam", "mtnet"])
def test_gates_only_weaken(word):
    x = features() * 3
    ratio = answer(word, x)[0] / x
    assert (ratio > 0).all() and (ratio < 1).all()


def test_channel_gate_is_one_a_channel_and_spatial_gate_one_a_place():
    x = features()
    of_channel, of_place = (answer(word, x)[0] / x for word in ("channel", "spatial"))
    assert np.ptp(of_channel, axis=(1, 2)).max() < 1e-5 < np.ptp(of_channel, axis=3).max()
    assert np.ptp(of_place, axis=3).max() < 1e-5 < np.ptp(of_place, axis=(1, 2)).max()


@functools.cache
def gradients(word, position):
    """Of a weighted sum of the answer: a compiled function of x."""
    x = features()
    part, variables = drawn(word, x, position)
    weights = features(seed=3)

    def total(variables, x):
        return (part.apply(variables, x, train=True) * weights).sum()

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    return lambda x: jax.device_get(gradient(variables, x))


@pytest.mark.parametrize(("word", "position"), CASES)
def test_every_parameter_gets_a_finite_gradient(word, position):
    of_params, of_x = gradients(word, position)(features())
    assert np.isfinite(of_x).all() and np.any(of_x != 0)
    for path, grad in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.isfinite(grad).all(), path
        # The keys' bias adds one number to all logits of a query: softmax does not see it.
        if "['key']['bias']" in jax.tree_util.keystr(path):
            np.testing.assert_allclose(grad, 0, atol=1e-5)
        else:
            assert np.abs(grad).max() > 1e-4, f"{path} gets no gradient"


@pytest.mark.parametrize(("word", "position"), CASES)
@pytest.mark.parametrize("value", [0.0, 1e4])
def test_flat_maps_have_finite_gradients(word, position, value):
    """All values equal: every maximum is a tie and the layer norm divides by almost nothing."""
    flat = np.full((2, 4, 5, 32), value, np.float32)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients(word, position)(flat)))


def test_starts_are_pytorchs():
    """Uniform, as far as 1 / sqrt(C), and sqrt(6 / 4C) for query, key and value; biases 0."""
    start = jax.jit(lambda key, x: attention.SelfAttention().init(key, x, train=True))
    params = jax.device_get(start(jax.random.key(0), features((1, 1, 1, 32))))["params"]
    assert len(jax.tree.leaves(params)) == 16
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            joint = any(word in name for word in ("query", "'key'", "value"))
            inputs = leaf.size // (128 if "expand" in name else 32)
            bound = np.sqrt(1.5 / inputs) if joint else 1 / np.sqrt(inputs)
            assert 0.95 * bound < np.abs(leaf).max() <= bound, name
            np.testing.assert_allclose(np.std(leaf), bound / np.sqrt(3), rtol=0.1)
        else:
            np.testing.assert_array_equal(leaf, 1.0 if "scale" in name else 0.0)


@pytest.mark.parametrize(("word", "position"), CASES)
def test_an_empty_batch_stays_empty(word, position):
    x = np.zeros((0, 2, 3, 32), np.float32)
    assert answer(word, x, position)[0].shape == x.shape


@pytest.mark.parametrize(("word", "position"), CASES)
def test_bfloat16_stays_bfloat16_and_near(word, position):
    x = features()
    part, variables = drawn(word, x, position, "bfloat16")
    coarse = jnp.asarray(x, jnp.bfloat16)
    got = jax.jit(lambda v, x: part.apply(v, x, train=True))(variables, coarse)
    wanted, _ = answer(word, np.asarray(coarse, np.float32), position)
    assert got.dtype == jnp.bfloat16
    assert np.abs(np.asarray(got, np.float32) - wanted).mean() < 0.01 * np.abs(wanted).max()


@pytest.mark.parametrize(("word", "position"), CASES)
def test_the_batch_may_be_left_open(word, position):
    """Export to StableHLO traces with a batch of unknown size."""
    part, variables = drawn(word, features(), position)
    (batch,) = export.symbolic_shape("batch")
    apply = jax.jit(lambda x: part.apply(variables, x, train=False))
    exported = export.export(apply)(jax.ShapeDtypeStruct((batch, 4, 5, 32), jnp.float32))
    (wanted,) = exported.out_avals
    assert wanted.shape == (batch, 4, 5, 32)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "channel",
            r"channel attention wants a multiple of 16 channels; got 20, in \(1, 2, 2, 20\)",
        ),
        ("mtnet", "multiple of 16 channels; got 20"),
        ("self", "self-attention wants a multiple of 8 channels; got 20"),
    ],
)
def test_widths_that_do_not_divide_are_refused(word, message):
    x = jnp.zeros((1, 2, 2, 20))
    with pytest.raises(ValueError, match=message):
        ATTENTION[word]().init(jax.random.key(0), x, train=False)

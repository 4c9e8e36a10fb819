"""Self-attention with a gate against its formulas in NumPy, and what the phases tell each other."""

import jax
import numpy as np
import pytest

from jaxdet.nn.align import GUIDES, interleave
from jaxdet.nn.gate import GATE, SelfGate


def features(c=32, side=6, seed=0):
    return np.random.default_rng(seed).normal(size=(2, side, side, c)).astype(np.float32)


def started(part, x, sigma=0.5):
    """Variables with a gate that is open, and singular vectors as after a long training."""
    variables = jax.device_get(part.init(jax.random.key(1), x, train=False))
    variables["params"]["sigma"] = np.array([sigma], np.float32)
    for name, kept in variables["batch_stats"].items():
        kernel = variables["params"][name]["kernel"]
        left, _, right = np.linalg.svd(kernel[0, 0].T)
        kept["spectral"] = {"u": left[:, 0], "v": right[0]}
    return variables


def windows(n, m):
    """Rows of an adaptive average pooling, as PyTorch's floor and ceiling say."""
    matrix = np.zeros((m, n))
    for i in range(m):
        low, high = i * n // m, -(-(i + 1) * n // m)
        matrix[i, low:high] = 1 / (high - low)
    return matrix


def by_hand(variables, x, pool, maps, groups):
    b, h, w, c = x.shape
    m = max(h // pool, 1)

    def conv(name, x):
        part, stats = variables["params"][name], variables["batch_stats"][name]["spectral"]
        kernel = np.asarray(part["kernel"], np.float64)[0, 0]
        kernel = kernel / (stats["u"] @ kernel.T @ stats["v"])
        parts = np.split(x, groups, -1)
        kernels = np.split(kernel, groups, -1)
        return (
            np.concatenate([a @ k for a, k in zip(parts, kernels, strict=True)], -1) + part["bias"]
        )

    def pooled(x):
        return np.einsum("ih,bhwc,jw->bijc", windows(h, m), x, windows(w, m)).reshape(b, m * m, -1)

    theta = conv("theta", x).reshape(b, h * w, -1)
    phi, g = pooled(conv("phi", x)), pooled(conv("g", x))
    mixed = []
    for t, p, v in zip(*(np.split(a, maps, -1) for a in (theta, phi, g)), strict=True):
        logits = t @ p.transpose(0, 2, 1)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        mixed.append(weights / weights.sum(-1, keepdims=True) @ v)
    raw = np.concatenate(mixed, -1).reshape(b, h, w, c // 2)
    gate = variables["params"]["sigma"] * conv("out", raw)
    return x + gate, gate, raw


@pytest.mark.parametrize("pool", [1, 2, 4, 8])
@pytest.mark.parametrize("interphase", ["shared", "grouped", "per_phase"])
def test_the_gate_is_its_formula(pool, interphase):
    x, part = features(side=7), SelfGate(pool=pool, interphase=interphase)
    variables = started(part, x)
    maps, groups = {"shared": (1, 1), "grouped": (1, 4), "per_phase": (4, 4)}[interphase]
    y, gate, raw = by_hand(variables, x.astype(np.float64), pool, maps, groups)
    ours = jax.jit(lambda v, x: part.apply(v, x, train=False))(variables, x)
    np.testing.assert_allclose(ours[0], y, atol=2e-5)
    np.testing.assert_allclose(ours[1], gate, atol=2e-5)
    untold = SelfGate(pool=pool, interphase=interphase, told="raw")
    np.testing.assert_allclose(untold.apply(variables, x, train=False)[1], raw, atol=2e-5)


@pytest.mark.parametrize(
    ("interphase", "mixed"), [("shared", True), ("grouped", True), ("per_phase", False)]
)
def test_which_readings_let_a_phase_see_another(interphase, mixed):
    x, part = features(), SelfGate(interphase=interphase)
    variables = started(part, x)
    other = x.copy()
    other[..., 8:16] += np.random.default_rng(3).normal(size=other[..., 8:16].shape)
    gates = [np.asarray(part.apply(variables, a, train=False)[1]) for a in (x, other)]
    moved = np.abs(gates[0] - gates[1]).reshape(-1, 4, 8).max((0, 2)) > 1e-6
    assert moved[1] and moved[[0, 2, 3]].all() == mixed and moved[[0, 2, 3]].any() == mixed


def test_it_starts_as_the_identity_and_learns_sigma_first():
    x, part = features(), SelfGate()
    variables = part.init(jax.random.key(0), x, train=False)
    y, gate = part.apply(variables, x, train=False)
    np.testing.assert_array_equal(y, x)
    assert not np.any(gate)

    def loss(params):
        return (part.apply({**variables, "params": params}, x, train=False)[0] ** 2).sum()

    grads = jax.grad(loss)(variables["params"])
    assert grads.pop("sigma") != 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_training_moves_the_singular_vectors_and_evaluation_does_not():
    x, part = features(), SelfGate()
    variables = started(part, x)
    before = variables["batch_stats"]["theta"]["spectral"]
    before["u"] = np.roll(before["u"], 1)  # no longer where it converged to
    _, changed = part.apply(variables, x, train=True, mutable=["batch_stats"])
    _, same = part.apply(variables, x, train=False, mutable=["batch_stats"])
    assert np.abs(changed["batch_stats"]["theta"]["spectral"]["u"] - before["u"]).max() > 1e-3
    np.testing.assert_array_equal(same["batch_stats"]["theta"]["spectral"]["u"], before["u"])


def test_a_map_of_one_place_is_attended_as_well():
    x, part = features(side=1), SelfGate()
    variables = started(part, x)
    y, _, _ = by_hand(variables, x.astype(np.float64), 1, 1, 1)
    np.testing.assert_allclose(part.apply(variables, x, train=False)[0], y, atol=2e-5)


def test_none_is_a_part_too_and_few_channels_are_refused():
    x = features()
    part = GATE["none"]()
    y, gate = part.apply(part.init(jax.random.key(0), x, train=False), x, train=False)
    assert gate is None and y is x
    with pytest.raises(ValueError, match="attention over 16 channels wants a multiple of 32"):
        SelfGate(interphase="grouped").init(jax.random.key(0), features(16), train=False)


def test_features_and_gate_lie_phase_by_phase():
    x = np.arange(8.0).reshape(1, 1, 1, 8)
    gate = 100 + np.arange(4.0).reshape(1, 1, 1, 4)
    wanted = [0, 1, 100, 2, 3, 101, 4, 5, 102, 6, 7, 103]
    np.testing.assert_array_equal(interleave(x, gate, 4)[0, 0, 0], wanted)
    np.testing.assert_array_equal(GUIDES["features"](x, gate, 4), x)

    def flows(word):
        return np.any(jax.grad(lambda g: GUIDES[word](x, g, 4).sum())(gate))

    assert flows("features+gate") and not flows("features+stopped_gate")

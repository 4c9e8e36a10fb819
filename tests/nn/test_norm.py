"""Normalisations against PyTorch's formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.nn.norm import BatchNorm, L2Norm, Spectral
from jaxdet.ops import replicas


def features(shape=(3, 4, 5, 6), seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(np.float32)


def test_batch_norm_keeps_the_unbiased_variance():
    x, norm = features(), BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, changed = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, biased = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(biased + 1e-5), atol=2e-6)
    kept = changed["batch_stats"]
    np.testing.assert_allclose(kept["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(kept["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)
    later = norm.apply({**variables, **changed}, x, train=False)
    wanted = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * x.var((0, 1, 2), ddof=1) + 1e-5)
    np.testing.assert_allclose(later, wanted, atol=2e-6)


def test_initialising_keeps_the_statistics_of_the_start():
    stats = BatchNorm().init(jax.random.key(0), features(), train=True)["batch_stats"]
    assert not stats["mean"].any() and (stats["var"] == 1).all()


def test_statistics_are_those_of_all_replicas():
    x, norm = features((8, 3, 3, 4)), BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)

    def step(x):
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])

    whole, wanted = step(x)
    parts, kept = jax.vmap(step, axis_name=replicas.AXIS)(x.reshape(4, 2, 3, 3, 4))
    np.testing.assert_allclose(parts.reshape(x.shape), whole, atol=1e-5)
    for name in ("mean", "var"):
        ours, theirs = kept["batch_stats"][name], wanted["batch_stats"][name]
        np.testing.assert_allclose(ours, np.broadcast_to(theirs, ours.shape), rtol=1e-5)


def test_one_value_a_channel_has_no_variance():
    x, norm = features((1, 1, 1, 4)), BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, changed = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, np.zeros_like(x))
    np.testing.assert_allclose(changed["batch_stats"]["var"], 0.9)


def test_l2_norm_has_length_twenty_and_no_nan_at_zero():
    x = features()
    x[0, 0, 0] = 0
    norm = L2Norm()
    variables = norm.init(jax.random.key(0), x)
    lengths = np.linalg.norm(norm.apply(variables, x), axis=-1)
    assert lengths[0, 0, 0] == 0
    np.testing.assert_allclose(np.delete(lengths.ravel(), 0), 20, rtol=1e-5)
    grad = jax.grad(lambda x: (norm.apply(variables, x) * jnp.cos(x)).sum())(jnp.asarray(x))
    assert np.isfinite(grad).all() and not grad[0, 0, 0].any()


def spectral(kernel, u, v, train):
    stats = {"u": jnp.asarray(u), "v": jnp.asarray(v)}
    call = jax.jit(Spectral().apply, static_argnames=("train", "mutable"))
    return call({"batch_stats": stats}, kernel, train=train, mutable=("batch_stats",))


def test_spectral_norm_is_one_power_iteration():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1, 1, 6, 4)).astype(np.float32)
    u, v = (a / np.linalg.norm(a) for a in (rng.normal(size=4), rng.normal(size=6)))
    matrix = kernel.reshape(6, 4).T.astype(np.float64)
    still, same = spectral(kernel, u.astype(np.float32), v.astype(np.float32), False)
    np.testing.assert_allclose(still, kernel / (u @ matrix @ v), rtol=1e-5)
    np.testing.assert_allclose(same["batch_stats"]["u"], u, rtol=1e-6)
    right = matrix.T @ u / np.linalg.norm(matrix.T @ u)
    left = matrix @ right / np.linalg.norm(matrix @ right)
    moved, kept = spectral(kernel, u.astype(np.float32), v.astype(np.float32), True)
    np.testing.assert_allclose(moved, kernel / (left @ matrix @ right), rtol=1e-5)
    np.testing.assert_allclose(kept["batch_stats"]["u"], left, rtol=1e-5)
    np.testing.assert_allclose(kept["batch_stats"]["v"], right, rtol=1e-5)


def test_spectral_norm_converges_to_the_largest_singular_value():
    kernel = np.random.default_rng(0).normal(size=(1, 1, 6, 4)).astype(np.float32)
    variables = Spectral().init(jax.random.key(0), kernel, train=False)["batch_stats"]
    for _ in range(60):
        used, changed = spectral(kernel, variables["u"], variables["v"], True)
        variables = changed["batch_stats"]
    assert np.linalg.norm(used.reshape(6, 4), 2) == pytest.approx(1, rel=1e-4)


def test_the_gradient_flows_through_the_norm_and_not_through_its_vectors():
    rng = np.random.default_rng(0)
    kernel, weights = rng.normal(size=(2, 1, 1, 6, 4)).astype(np.float32)
    u, v = (a / np.linalg.norm(a) for a in (rng.normal(size=4), rng.normal(size=6)))

    def loss(kernel):
        used, _ = spectral(kernel, u.astype(np.float32), v.astype(np.float32), True)
        return (used * weights).sum()

    matrix, wide = (a.reshape(6, 4).T.astype(np.float64) for a in (kernel, weights))
    right = matrix.T @ u / np.linalg.norm(matrix.T @ u)
    left = matrix @ right / np.linalg.norm(matrix @ right)
    sigma = left @ matrix @ right
    wanted = wide / sigma - (wide * matrix).sum() / sigma**2 * np.outer(left, right)
    np.testing.assert_allclose(jax.grad(loss)(kernel).reshape(6, 4).T, wanted, rtol=1e-4, atol=1e-5)

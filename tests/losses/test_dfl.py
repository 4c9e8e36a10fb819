"""Distribution focal loss against its two-bin definition."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdet.losses.bce import bce
from jaxdet.losses.dfl import dfl, expectation


def test_dfl_is_the_cross_entropy_of_two_neighbours():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 64)).astype(np.float32)
    sides = rng.uniform(-1, 17, (20, 4)).astype(np.float32)
    log_probs = np.asarray(jax.nn.log_softmax(logits.reshape(20, 4, 16)))
    wanted = np.zeros(20)
    for n in range(20):
        for s in range(4):
            t = np.clip(sides[n, s], 0, 14.99)
            left = int(np.floor(t))
            near, far = log_probs[n, s, left], log_probs[n, s, left + 1]
            wanted[n] -= (near * (left + 1 - t) + far * (t - left)) / 4
    np.testing.assert_allclose(dfl(logits, sides), wanted, rtol=1e-5)


def test_expectation_of_a_sharp_distribution_is_its_bin():
    logits = np.full((1, 4, 16), -50.0, np.float32)
    for side, bin_ in enumerate((0, 3, 15, 7)):
        logits[0, side, bin_] = 50
    assert expectation(logits.reshape(1, 64))[0].tolist() == [0, 3, 15, 7]


def test_bce_is_stable_at_both_ends():
    logits = jnp.array([-200.0, -1.0, 0.0, 1.0, 200.0])
    target = jnp.array([0.0, 1.0, 0.5, 0.3, 1.0])
    p = 1 / (1 + np.exp(-np.array([-1.0, 0.0, 1.0])))
    t = np.array([1.0, 0.5, 0.3])
    wanted = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    np.testing.assert_allclose(bce(logits, target)[1:4], wanted, rtol=1e-6)
    assert bce(logits, target)[0] == 0 and bce(logits, target)[4] == 0
    assert jnp.isfinite(jax.grad(lambda x: bce(x, target).sum())(logits)).all()

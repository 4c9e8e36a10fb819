"""The hand-written pools against the library's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.nn import pool


def agree(ours, theirs, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    want = jax.jit(theirs)(x)
    np.testing.assert_array_equal(jax.jit(ours)(x), want)
    weights = np.random.default_rng(1).normal(size=want.shape).astype(np.float32)
    grads = [jax.jit(jax.grad(lambda x, f=f: (f(x) * weights).sum()))(x) for f in (ours, theirs)]
    np.testing.assert_allclose(*grads, atol=1e-5)  # no ties here


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(2, 7, 9, 3), (1, 1, 1, 2), (1, 2, 16, 1)])
def test_around_is_the_librarys_pool_of_stride_one(shape, size):
    def theirs(x):
        return nn.max_pool(x, window_shape=(size, size), strides=(1, 1), padding="SAME")

    agree(functools.partial(pool.around, size=size), theirs, shape)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 7, 5, 2), (1, 1, 3, 1), (2, 75, 75, 2)])
@pytest.mark.parametrize("ceil", [False, True])
def test_halve_drops_or_keeps_an_odd_side(shape, ceil):
    def theirs(x):
        odd = [(0, 0), (0, shape[1] % 2), (0, shape[2] % 2), (0, 0)] if ceil else [(0, 0)] * 4
        return nn.max_pool(jnp.pad(x, odd, constant_values=-jnp.inf), (2, 2), (2, 2))

    if not ceil and min(shape[1:3]) < 2:
        return
    agree(functools.partial(pool.halve, ceil=ceil), theirs, shape)

"""The hand-written pool and the upsampling against the library's own and a loop."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxdet.nn import csp


@pytest.mark.parametrize("shape", [(2, 7, 9, 3), (1, 1, 1, 2), (1, 2, 16, 1)])
def test_pool_equals_the_librarys(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def theirs(x):
        return nn.max_pool(x, window_shape=(5, 5), strides=(1, 1), padding="SAME")

    np.testing.assert_array_equal(jax.jit(csp.max_pool5)(x), jax.jit(theirs)(x))
    weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    grads = [
        jax.jit(jax.grad(lambda x, f=f: (f(x) * weights).sum()))(x) for f in (csp.max_pool5, theirs)
    ]
    np.testing.assert_allclose(*grads, atol=1e-5)  # no ties here


def test_upsampling_repeats_pixels():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(csp.upsample2(x), x.repeat(2, axis=1).repeat(2, axis=2))

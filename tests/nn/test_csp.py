"""The upsampling against a loop."""

import numpy as np

from jaxdet.nn import csp


def test_upsampling_repeats_pixels():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(csp.upsample2(x), x.repeat(2, axis=1).repeat(2, axis=2))

"""Convolution by Fourier tiles against lax.conv."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdet.ops import fourier

SHAPES = [  # images, height, width, inputs, kernel height and width, outputs, tile
    (1, 31, 37, 5, 7, 7, 3, 24),  # no multiple of the tile
    (3, 24, 24, 4, 7, 7, 6, 24),  # exactly one tile
    (2, 9, 8, 3, 4, 4, 2, 16),  # smaller than a tile
    (2, 40, 23, 1, 10, 10, 4, 18),  # the smallest tile, one channel
    (5, 20, 21, 4, 3, 5, 4, 9),  # kernel and tile odd, not square
    (2, 12, 13, 3, 1, 1, 2, None),
    (1, 7, 7, 2, 7, 7, 3, None),  # one output
    (7, 60, 62, 8, 4, 4, 5, None),  # several passes
]


def direct(x, kernel):
    how = ("NHWC", "HWIO", "NHWC")
    highest = lax.Precision.HIGHEST
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=how, precision=highest
    )


def case(n, height, width, inputs, kh, kw, outputs, *_):
    rng = np.random.default_rng(0)
    x = rng.random((n, height, width, inputs), np.float32)
    return x, rng.normal(size=(kh, kw, inputs, outputs)).astype(np.float32)


def near(ours, want, share):
    np.testing.assert_allclose(ours, want, rtol=0, atol=share * np.abs(want).max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_lax(shape):
    x, kernel = case(*shape)
    want, pull = jax.vjp(direct, x, kernel)
    ct = np.random.default_rng(1).normal(size=want.shape).astype(np.float32)

    @jax.jit
    def both(x, kernel, ct):
        y, pull = jax.vjp(lambda x, k: fourier.conv(x, k, shape[-1]), x, kernel)
        return y, pull(ct)

    ours, grads = both(x, kernel, ct)
    assert ours.dtype == jnp.float32
    near(ours, want, 1e-5)
    for grad, wanted in zip(grads, pull(ct), strict=True):
        near(grad, wanted, 1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_few_channels_have_the_gradients_of_lax_too(shape):
    x, kernel = case(*shape)
    want, pull = jax.vjp(direct, x, kernel)
    ct = np.random.default_rng(1).normal(size=want.shape).astype(np.float32)
    ours, pull_ours = jax.vjp(jax.jit(fourier.few), x, kernel)
    np.testing.assert_array_equal(ours, want)
    for grad, wanted in zip(pull_ours(ct), pull(ct), strict=True):
        near(grad, wanted, 1e-5)


def test_many_channels_sum_in_float32():
    x, kernel = case(1, 20, 20, 64, 7, 7, 8)
    near(fourier.conv(x + 100, kernel), direct(x + 100, kernel), 1e-5)


def test_an_impulse_cuts_out_the_kernel():
    x = np.zeros((1, 30, 30, 1), np.float32)
    x[0, 12, 20] = 1
    kernel = np.arange(1, 13, dtype=np.float32).reshape(3, 4, 1, 1)
    y = fourier.conv(x, kernel)[0, ..., 0]
    want = np.zeros((28, 27), np.float32)
    want[10:13, 17:21] = kernel[::-1, ::-1, 0, 0]
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_jit_is_eager_and_no_images_give_no_outputs():
    x, kernel = case(*SHAPES[0])
    near(jax.jit(fourier.conv)(x, kernel), fourier.conv(x, kernel), 1e-6)
    assert fourier.conv(x[:0], kernel).shape == (0, 25, 31, 3)


def test_bfloat16_is_computed_in_float32():
    x, kernel = (a.astype(jnp.bfloat16) for a in case(1, 30, 30, 32, 7, 7, 4))
    ours, want = fourier.conv(x, kernel), direct(*(a.astype(np.float32) for a in (x, kernel)))
    assert ours.dtype == jnp.bfloat16
    near(ours.astype(np.float32), want, 2**-8)  # its own rounding of the answer
    np.testing.assert_array_equal(
        ours, fourier.conv(x.astype(np.float32), kernel.astype(np.float32)).astype(jnp.bfloat16)
    )


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("inputs", [2, 4])
def test_a_flax_convolution_takes_it_with_the_same_parameters(padding, inputs):
    x, _ = case(2, 20, 20, inputs, 1, 1, 1)
    plain = nn.Conv(6, (4, 4), padding=padding, precision=lax.Precision.HIGHEST)
    ours = nn.Conv(6, (4, 4), padding=padding, conv_general_dilated=fourier.like_lax)
    kernel = np.random.default_rng(2).normal(size=(4, 4, inputs, 6)).astype(np.float32)
    weights = {"params": {"kernel": kernel, "bias": np.ones(6, np.float32)}}
    near(ours.apply(weights, x), plain.apply(weights, x), 1e-5)
    direct_too = "conv_general_dilated" in str(jax.make_jaxpr(ours.apply)(weights, x))
    assert direct_too == (inputs < fourier.FEWEST_INPUTS)


@pytest.mark.parametrize(
    ("image", "kernel", "tile", "words"),
    [
        ((1, 9, 9, 2), (3, 3, 3, 1), None, r"wants 3 channels; got an image \(1, 9, 9, 2\)"),
        ((1, 6, 9, 2), (7, 7, 2, 1), None, "smaller than the kernel"),
        ((1, 30, 30, 2), (7, 7, 2, 1), 11, "7x7 wants tiles of 12 px or more; got 11"),
    ],
)
def test_what_does_not_fit_is_refused(image, kernel, tile, words):
    with pytest.raises(ValueError, match=words):
        fourier.conv(np.zeros(image, np.float32), np.zeros(kernel, np.float32), tile)


@pytest.mark.parametrize(
    "fields", [{"strides": 2}, {"feature_group_count": 2}, {"kernel_dilation": 2}]
)
def test_strides_groups_and_dilations_are_refused(fields):
    x = np.zeros((1, 9, 9, 4), np.float32)
    conv = nn.Conv(4, (3, 3), conv_general_dilated=fourier.like_lax, **fields)
    kernel = np.zeros((3, 3, 4 // fields.get("feature_group_count", 1), 4), np.float32)
    with pytest.raises(ValueError, match="strides and dilations of 1 and one group"):
        conv.apply({"params": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}, x)

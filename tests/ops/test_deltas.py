"""Boxes to offsets and back: a round trip, an example by hand, and boxes that are hardly there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops import deltas

encode, decode = jax.jit(deltas.encode), jax.jit(deltas.decode)
encode_slopes = jax.jit(jax.grad(lambda *x: deltas.encode(*x).sum(), argnums=(0, 1)))
PRIOR = np.array([[0.5, 0.4, 0.2, 0.1]], np.float32)


def test_corners():
    np.testing.assert_allclose(deltas.corners(PRIOR), [[0.4, 0.35, 0.6, 0.45]], rtol=1e-6)


def test_encode_by_hand():
    truth = np.array([[0.41, 0.36, 0.81, 0.46]], np.float32)  # centre .61 .41, sides .4 .1
    wanted = [[0.11 / 0.2 / 0.1, 0.01 / 0.1 / 0.1, np.log(2) / 0.2, 0.0]]
    np.testing.assert_allclose(deltas.encode(truth, PRIOR), wanted, atol=1e-5)


def test_no_delta_is_the_prior():
    zero = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(deltas.decode(zero, PRIOR), deltas.corners(PRIOR))
    np.testing.assert_allclose(deltas.encode(deltas.corners(PRIOR), PRIOR), zero, atol=1e-5)


def random_pairs(rng, count):
    low = rng.uniform(0, 0.9, (count, 2))
    truths = np.concatenate([low, low + rng.uniform(1e-3, 0.5, (count, 2))], 1)
    priors = rng.uniform(0.03, 1, (count, 4))
    return truths.astype(np.float32), priors.astype(np.float32)


def test_round_trip():
    truths, priors = random_pairs(np.random.default_rng(0), 200)
    back = decode(encode(truths, priors), priors)
    np.testing.assert_allclose(back, truths, atol=1e-6)


def test_round_trip_from_the_other_side():
    rng = np.random.default_rng(1)
    _, priors = random_pairs(rng, 200)
    said = rng.normal(0, 2, (3, 200, 4)).astype(np.float32)  # one set of priors, three images
    back = encode(decode(said, priors), priors)
    np.testing.assert_allclose(back, said, atol=1e-4)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 0),  # padding
        (0.5, 0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5 + 1e-5, 0.5 + 1e-5),  # far below a pixel
        (0.6, 0.6, 0.5, 0.5),  # inverted
    ],
)
def test_hardly_a_box_is_finite_with_its_gradients(box):
    truth = jnp.array([box], jnp.float32)
    value = encode(truth, PRIOR)
    slopes = encode_slopes(truth, PRIOR)
    assert np.isfinite(value).all() and all(np.isfinite(slope).all() for slope in slopes)
    assert np.abs(value).max() < 100


def test_a_box_below_a_pixel_is_exact():
    truth = np.array([[0.25, 0.25, 0.25 + 2**-12, 0.25 + 2**-11]], np.float32)  # 0.07 x 0.15 px
    wanted = np.log(np.array([2**-12 / 0.2, 2**-11 / 0.1])) / 0.2
    np.testing.assert_allclose(deltas.encode(truth, PRIOR)[0, 2:], wanted, rtol=1e-5)


def test_wild_answers_stay_finite():
    said = np.array([[1e4, -1e4, 1e4, 1e4], [0, 0, -1e4, 500]], np.float32)
    priors = np.repeat(PRIOR, 2, axis=0)
    slope = jax.jit(jax.grad(lambda d: deltas.decode(d, priors).sum()))(said)
    assert np.isfinite(decode(said, priors)).all() and np.isfinite(slope).all()


def test_no_boxes():
    none = np.zeros((0, 4), np.float32)
    assert deltas.encode(none, none).shape == deltas.decode(none, none).shape == (0, 4)

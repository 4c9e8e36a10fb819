"""Patches: out of a slice and back, and the min-max of their scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops import patches


def random(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("side", [2, 4, 12])
def test_stitch_undoes_crop(side):
    images = random(3, 12, 12, 2)
    np.testing.assert_array_equal(patches.stitch(patches.crop(images, side)), images)


def test_patches_come_row_by_row():
    numbers = np.arange(16).reshape(1, 4, 4, 1)
    tiles = patches.crop(numbers, 2)
    assert tiles.shape == (1, 4, 2, 2, 1)
    assert tiles[0, 1, ..., 0].tolist() == [[2, 3], [6, 7]]
    assert tiles[0, 2, ..., 0].tolist() == [[8, 9], [12, 13]]


def test_bytes_are_cut_too_and_stitch_takes_any_last_axes():
    assert patches.crop(np.zeros((1, 4, 4, 3), np.uint8), 2).dtype == np.uint8
    assert patches.stitch(random(2, 9, 4, 4)).shape == (2, 12, 12)


def test_spread_is_a_stitch_of_constant_patches():
    values = random(2, 9)
    tiles = np.broadcast_to(values[:, :, None, None], (2, 9, 3, 3))
    np.testing.assert_array_equal(patches.spread(values, 3), patches.stitch(tiles))


@pytest.mark.parametrize("shape", [(4, 64), (3, 8, 8)])
def test_minmax_attains_both_ends_in_every_slice_and_keeps_the_order(shape):
    values = random(*shape) * np.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    g = np.asarray(patches.minmax(jnp.asarray(values, jnp.float32))).reshape(shape[0], -1)
    assert (g.min(1) == 0).all() and (g.max(1) == 1).all()
    flat = values.reshape(shape[0], -1)
    for row, before in zip(g, flat, strict=True):
        np.testing.assert_array_equal(row.argsort(kind="stable"), before.argsort(kind="stable"))


def test_minmax_of_one_slice_knows_nothing_of_the_others():
    values = random(2, 16)
    values[1] += 5
    np.testing.assert_array_equal(patches.minmax(values)[1], patches.minmax(values[1:])[0])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("n", [1, 4])
def test_equal_scores_are_zeros_with_a_finite_gradient(value, n):
    values = jnp.full((2, n), value)
    assert (patches.minmax(values) == 0).all()
    assert (jax.grad(lambda y: (patches.minmax(y) ** 2).sum())(values) == 0).all()


def test_a_flat_slice_leaves_its_neighbours_gradient_alone():
    def weighed(y):
        return (patches.minmax(y) * jnp.arange(4.0)).sum()

    rows = jnp.array([[0.5, 0.5, 0.5, 0.5], [0.1, 0.4, 0.2, 0.9]])
    both, alone = jax.grad(weighed)(rows), jax.grad(weighed)(rows[1:])
    np.testing.assert_allclose(both[1], alone[0], rtol=1e-6)
    assert np.abs(alone).max() > 0


def test_nan_stays_to_be_seen():
    g = patches.minmax(jnp.array([[0.1, jnp.nan, 0.2], [0.0, 1.0, 0.5]]))
    assert np.isnan(g[0]).all() and np.isfinite(g[1]).all()


@pytest.mark.parametrize(
    ("image", "side", "words"),
    [(500, 64, "sides are 448 and 512"), (48, 64, "sides are 64 and 128")],
)
def test_a_side_that_does_not_divide_names_the_nearest(image, side, words):
    with pytest.raises(ValueError, match=words):
        patches.crop(np.zeros((1, image, image, 1), np.float32), side)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="got 8x12 px"):
        patches.crop(random(1, 8, 12, 1), 4)
    with pytest.raises(ValueError, match="square number"):
        patches.stitch(random(1, 6, 2, 2))
    with pytest.raises(ValueError, match="square number"):
        patches.spread(random(1, 3), 2)
    with pytest.raises(ValueError, match="1 px or more"):
        patches.crop(random(1, 64, 64, 1), 0)

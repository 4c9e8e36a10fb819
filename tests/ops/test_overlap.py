"""Overlaps against a pixel raster, by hand, and at the edges where gradients break."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops import overlap

ciou, iou, iobb = jax.jit(overlap.ciou), jax.jit(overlap.iou), jax.jit(overlap.iobb)


def random_boxes(rng, n, side=12):
    low = rng.integers(0, side - 1, (n, 2))
    high = low + 1 + rng.integers(0, side - low.max(), (n, 2))
    return np.concatenate([low, np.minimum(high, side)], axis=1).astype(np.float32)


def raster(boxes, side=12):
    grid = np.zeros((len(boxes), side, side), bool)
    for mask, (x0, y0, x1, y1) in zip(grid, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return grid.reshape(len(boxes), -1).astype(int)


def test_equals_a_raster():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 40), random_boxes(rng, 30)
    pa, pb = raster(a), raster(b)
    shared = pa @ pb.T
    union = pa.sum(1)[:, None] + pb.sum(1) - shared
    np.testing.assert_allclose(iou(a, b), shared / union, rtol=1e-6)
    np.testing.assert_allclose(iobb(a, b), shared / pa.sum(1)[:, None], rtol=1e-6)
    np.testing.assert_array_equal(overlap.intersection(a, b), shared)


def test_padding_and_inverted_boxes_overlap_nothing():
    boxes = np.array([[0, 0, 0, 0], [5, 5, 2, 2], [0, 0, 4, 4]], np.float32)
    assert iou(boxes, boxes).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert overlap.iou(np.zeros((0, 4), np.float32), boxes).shape == (0, 3)


@pytest.mark.parametrize("measure", [overlap.iou, overlap.iobb])
def test_gradients_are_finite_at_padding(measure):
    boxes = jnp.array([[0.0, 0, 0, 0], [1, 1, 3, 3]])
    grads = jax.jit(jax.grad(lambda a: measure(a, boxes).sum()))(boxes)
    assert jnp.isfinite(grads).all()
    assert (grads[0] == 0).all()


def ciou_by_hand(a, b):
    aw, ah, bw, bh = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    w = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    plain = w * h / (aw * ah + bw * bh - w * h)
    hull = [max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])]
    centre = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    v = 4 / np.pi**2 * (np.arctan(bw / bh) - np.arctan(aw / ah)) ** 2
    alpha = v / (1 - plain + v) if v else 0
    return plain - centre / (hull[0] ** 2 + hull[1] ** 2) - alpha * v


def test_ciou_equals_the_formula():
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 50), random_boxes(rng, 50)
    wanted = [ciou_by_hand(x, y) for x, y in zip(a.astype(float), b.astype(float), strict=True)]
    np.testing.assert_allclose(ciou(a, b), wanted, atol=1e-5)
    pairs = ciou(a[:, None], b[None])
    np.testing.assert_allclose(np.diagonal(pairs), wanted, atol=1e-5)


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [3, 3, 3, 9], [-1e4, -1e4, 1e4, 1e4], [7, 7, 2, 2]])
def test_ciou_is_finite_with_finite_gradients(box):
    a, b = jnp.array(box, jnp.float32), jnp.array([2.0, 3.0, 7.0, 8.0])
    both = jax.jit(jax.value_and_grad(overlap.ciou, argnums=(0, 1)))
    for x, y in ((a, b), (b, a), (a, a)):
        value, grads = both(x, y)
        assert jnp.isfinite(value)
        assert all(jnp.isfinite(g).all() for g in grads)


def test_jit_equals_eager():
    rng = np.random.default_rng(2)
    a, b = random_boxes(rng, 9), random_boxes(rng, 9)
    np.testing.assert_allclose(ciou(a, b), overlap.ciou(a, b), atol=1e-6)

"""PixelLink's loss against the reference's numbers, a slow NumPy twin, and degenerate images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.losses.link import hard_negatives, pixel_link
from jaxdet.ops import links, replicas

MODELS = ("pixellink", "pixellink_base", "pixellinkpp")
# The truths of the goldens (recipe.GSSD_TARGETS): fractions of an image of 300 px.
TRUTHS = (
    [[0.20, 0.30, 0.42, 0.55]],
    [[0.10, 0.12, 0.18, 0.21], [0.50, 0.45, 0.93, 0.88]],
)

loss = jax.jit(pixel_link, static_argnames=("neg_ratio", "none"))


@jax.jit
def parts_and_slopes(pixels, joins, targets):
    """The parts of the loss, and the gradients of its total by both kinds of logits."""

    def total(pixels, joins):
        parts = pixel_link(pixels, joins, targets)
        return parts["total"], parts

    slopes, parts = jax.grad(total, argnums=(0, 1), has_aux=True)(pixels, joins)
    return parts, slopes


@pytest.mark.parametrize("model", MODELS)
def test_equals_the_reference(shared, model):
    golden = np.load(shared / f"golden/gssd_golden_{model}.npz")
    boxes, labels = np.zeros((2, 3, 4), np.float32), np.full((2, 3), -1, np.int32)
    for image, truths in enumerate(TRUTHS):
        boxes[image, : len(truths)] = np.array(truths, np.float32) * np.float32(300)
        labels[image, : len(truths)] = 0
    told = links.of_boxes(boxes, labels, shape=(75, 75), stride=4)
    logits = (np.moveaxis(golden[f"train/{what}"], 1, -1) for what in ("pixel", "link"))
    found = loss(*logits, told)
    positive, negative, linked, parted, total = golden["train/loss_parts"]
    np.testing.assert_allclose(found["pixel"], positive + negative, rtol=1e-5)
    np.testing.assert_allclose(found["link"], linked + parted, rtol=1e-5)
    np.testing.assert_allclose(found["total"], total, rtol=1e-5)


def scene(seed, images=4, side=9):
    """Random logits with many ties; a lesion or more, none, everything, everything twice."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(-2, 3, (images, side, side, 2)).astype(np.float32)
    joins = rng.normal(0, 2, (images, side, side, 16)).astype(np.float32)
    low = rng.integers(0, side - 3, (images, 3, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 5, (images, 3, 2))], -1) * 4.0
    labels = np.zeros((images, 3), np.int32)
    labels[1] = -1
    boxes[2] = boxes[3] = [0, 0, 100, 100]
    labels[2, 1:] = labels[3, 2] = -1
    told = links.of_boxes(boxes.astype(np.float32), labels, shape=(side, side), stride=4)
    return pixels, joins, jax.device_get(told)


def twin(pixels, joins, told, neg_ratio=3.0, none=10000):
    """The loss as the facts spell it, float64, one cell at a time: (pixel, link)."""
    pixel, link = [], []
    for image in range(len(pixels)):
        positive, negative, weight, linked = (np.asarray(t)[image] for t in told)
        surprise = np.logaddexp(*np.moveaxis(pixels[image].astype(np.float64), -1, 0))[..., None]
        surprise = surprise - pixels[image]
        area, every = int(positive.sum()), int(negative.sum())
        count = min(int(neg_ratio * area) if area else none, every)
        ranked = sorted(np.exp(-surprise[..., 0])[negative])
        told_by, sums = 0.0, np.zeros((2, 2))  # [yes, no] of values and of weights
        for y, x in np.ndindex(*positive.shape):
            if positive[y, x]:
                told_by += weight[y, x] * surprise[y, x, 1]
                for k in range(8):
                    no, yes = joins[image, y, x, 2 * k : 2 * k + 2].astype(np.float64)
                    other = 0 if linked[y, x, k] else 1
                    off = np.logaddexp(no, yes) - (no if other else yes)
                    sums[other] += weight[y, x] * np.array([off, 1])
            if count and negative[y, x] and np.exp(-surprise[y, x, 0]) < ranked[count - 1] + 1e-9:
                told_by += surprise[y, x, 0]
        pixel.append(told_by / max(area + count, 1))
        link.append(sum(value / total if total else 0 for value, total in sums))
    return np.mean(pixel), np.mean(link)


@pytest.mark.parametrize("knobs", [{}, {"neg_ratio": 0.7, "none": 5}, {"neg_ratio": 0.0}])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_twin(seed, knobs):
    case = scene(seed)
    found, (pixel, link) = loss(*case, **knobs), twin(*case, **knobs)
    np.testing.assert_allclose(found["pixel"], pixel, rtol=1e-5)
    np.testing.assert_allclose(found["link"], link, rtol=1e-5)
    np.testing.assert_allclose(found["total"], 2 * pixel + link, rtol=1e-5)


def targets(positive, negative, linked=False):
    """Of equal weights, all neighbours `linked` or none."""
    joined = np.broadcast_to(positive[..., None] & linked, (*positive.shape, 8))
    return links.Targets(positive, negative, positive.astype(np.float32), joined)


def some_logits(shape, seed=0):
    rng = np.random.default_rng(seed)
    pixels, joins = rng.normal(size=(*shape, 2)), rng.normal(size=(*shape, 16))
    return pixels.astype(np.float32), joins.astype(np.float32)


def test_no_positive_cell_leaves_the_background():
    nothing = np.zeros((2, 6, 6), bool)
    pixels, joins = some_logits(nothing.shape)
    parts, slopes = parts_and_slopes(pixels, joins, targets(nothing, ~nothing))
    assert parts["link"] == 0 and not np.asarray(slopes[1]).any()
    background = -np.asarray(jax.nn.log_softmax(pixels))[..., 0]
    np.testing.assert_allclose(parts["pixel"], background.mean(), rtol=1e-6)
    assert np.isfinite(slopes[0]).all() and (np.asarray(slopes[0])[..., 1] > 0).all()


@pytest.mark.parametrize("linked", [False, True])
def test_every_cell_positive_has_no_background(linked):
    every = np.ones((2, 6, 6), bool)
    pixels, joins = some_logits(every.shape)
    parts, slopes = parts_and_slopes(pixels, joins, targets(every, ~every, linked))
    wanted = -np.asarray(jax.nn.log_softmax(pixels))[..., 1].mean()
    np.testing.assert_allclose(parts["pixel"], wanted, rtol=1e-6)
    pairs = -np.asarray(jax.nn.log_softmax(joins.reshape(2, 6, 6, 8, 2)))
    np.testing.assert_allclose(parts["link"], pairs[..., int(linked)].mean(), rtol=1e-6)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_ignored_cells_count_for_nothing():
    nothing = np.zeros((2, 6, 6), bool)
    parts, slopes = parts_and_slopes(*some_logits(nothing.shape), targets(nothing, nothing))
    assert {k: float(v) for k, v in parts.items()} == {"pixel": 0.0, "link": 0.0, "total": 0.0}
    assert not any(np.asarray(slope).any() for slope in slopes)


def test_large_logits_stay_finite():
    pixels, joins, told = scene(0)
    parts, slopes = parts_and_slopes(1e4 * pixels, 1e4 * joins, told)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((parts, slopes)))


def test_links_learn_on_positive_cells_only():
    pixels, joins, told = scene(1)
    _, (_, slope) = parts_and_slopes(pixels, joins, told)
    np.testing.assert_array_equal(np.abs(slope).sum(-1) > 0, told.positive)


def test_equally_hard_cells_come_along():
    probs = jnp.array([[[0.5, 0.9, 0.5, 0.1], [0.9, 1.0, 1.0, 0.2]]])
    negative = jnp.array([[[True, True, True, False], [True, True, True, True]]])

    def mined(count):
        return np.asarray(hard_negatives(probs, negative, jnp.array([count])))[0].tolist()

    assert mined(0) == [[False] * 4, [False] * 4]
    assert mined(1) == [[False] * 4, [False, False, False, True]]
    assert mined(2) == mined(3) == [[True, False, True, False], [False, False, False, True]]
    assert mined(6) == mined(7) == np.asarray(negative[0]).tolist()


def test_a_low_precision_head_is_summed_in_float32():
    pixels, joins, told = scene(2)
    low = jnp.asarray(pixels, jnp.bfloat16), jnp.asarray(joins, jnp.bfloat16)
    found = loss(*low, told)
    same = loss(*(x.astype(jnp.float32) for x in low), told)
    assert found["total"].dtype == jnp.float32 and found["total"] == same["total"]


def test_replicas_together_give_the_whole_batch():
    case = scene(3)
    parts, slopes = parts_and_slopes(*case)

    def share(*case):
        parts, slopes = parts_and_slopes(*case)
        return replicas.mean(parts), slopes

    cut = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), case)
    of_all, cut = jax.pmap(share, axis_name=replicas.AXIS, devices=jax.devices()[:2])(*cut)
    for name, value in parts.items():
        np.testing.assert_allclose(of_all[name], np.full(2, value), rtol=1e-6)
    # A step takes the mean of the gradients too: here each replica has only its own images.
    for whole, share in zip(slopes, cut, strict=True):
        np.testing.assert_allclose(share.reshape(whole.shape) / 2, whole, rtol=1e-5, atol=1e-7)

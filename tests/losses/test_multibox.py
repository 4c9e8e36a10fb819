"""SSD's loss against the reference's numbers, a slow NumPy twin, and batches without a box."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.losses.multibox import hard_negatives, multibox
from jaxdet.ops import assign, deltas, priors, replicas

EXTRACT = pathlib.Path(__file__).parents[1] / "golden/gssd_boxes.npz"  # its provenance is inside
MODELS = ("ssd", "gssd", "gssdpp", "gssdpp_wo_dc")

multibox_jit = jax.jit(multibox, static_argnames=("neg_ratio", "threshold"))


@jax.jit
def parts_and_slopes(said, logits, *rest):
    """The parts of the loss, and the gradients of its total by offsets and logits."""

    def total(said, logits):
        parts = multibox(said, logits, *rest)
        return parts["total"], parts

    slopes, parts = jax.grad(total, argnums=(0, 1), has_aux=True)(said, logits)
    return parts, slopes


def ssd300():
    layout = priors.SSD[300]
    return priors.ssd([(level.side, level.side) for level in layout.levels], layout)


def targets(rows=4):
    """The two images of the goldens, padded to `rows` boxes."""
    golden = np.load(EXTRACT)
    boxes, labels = np.zeros((2, rows, 4), np.float32), np.full((2, rows), -1, np.int32)
    for image in range(2):
        truths = golden[f"truths{image}"]
        boxes[image, : len(truths)] = truths[:, :4]
        labels[image, : len(truths)] = truths[:, 4]
    return boxes, labels


@pytest.mark.parametrize("model", MODELS)
def test_equals_the_reference(shared, model):
    golden = np.load(shared / f"golden/gssd_golden_{model}.npz")
    found = multibox_jit(golden["train/loc"], golden["train/conf"], ssd300(), *targets())
    np.testing.assert_allclose(found["box"], golden["train/loss_l"], rtol=1e-5)
    np.testing.assert_allclose(found["class"], golden["train/loss_c"], rtol=1e-5)
    np.testing.assert_allclose(found["total"], found["box"] + found["class"], rtol=1e-6)


def test_equals_the_reference_on_the_priors_that_count():
    golden = np.load(EXTRACT)
    cells = ssd300()[golden["train/prior"]]
    found = multibox_jit(golden["train/loc"], golden["train/conf"], cells, *targets())
    np.testing.assert_allclose(found["box"], golden["train/loss_l"], rtol=1e-5)
    np.testing.assert_allclose(found["class"], golden["train/loss_c"], rtol=1e-5)


def scene(seed, images=4, rows=3, classes=2):
    """Random answers and truths; the last image has no box."""
    rng = np.random.default_rng(seed)
    # No two alike: a truth overlaps all equal priors inside it alike, up to rounding.
    cells = np.concatenate([rng.uniform(0, 1, (50, 2)), rng.uniform(0.2, 0.4, (50, 2))], 1)
    low = rng.uniform(0, 0.6, (images, rows, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.4, (images, rows, 2))], -1)
    labels = rng.integers(-1, classes, (images, rows))
    labels[:-1, 0], labels[-1] = 0, -1
    said = rng.normal(0, 2, (images, len(cells), 4))
    logits = rng.integers(-2, 3, (images, len(cells), classes + 1))  # many ties
    floats = (x.astype(np.float32) for x in (said, logits, cells, boxes))
    return *floats, labels.astype(np.int32)


def iou(a, b):
    wh = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(wh[0], 0) * max(wh[1], 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def twin(said, logits, cells, boxes, labels, neg_ratio=3.0, threshold=0.5):
    """The loss as the facts spell it, float64, one prior at a time."""
    said, logits, cells, boxes = (x.astype(np.float64) for x in (said, logits, cells, boxes))
    box, cls, total = 0.0, 0.0, 0
    for image in range(len(said)):
        best, truth = np.full(len(cells), -1.0), np.zeros(len(cells), int)
        pairs = {}
        for m in np.flatnonzero(labels[image] >= 0):
            for a, (cx, cy, w, h) in enumerate(cells):
                prior = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                pairs[m, a] = iou(prior, boxes[image, m])
                if pairs[m, a] > best[a]:
                    best[a], truth[a] = pairs[m, a], m
        for m in np.flatnonzero(labels[image] >= 0):
            a = int(np.argmax([pairs[m, a] for a in range(len(cells))]))
            best[a], truth[a] = 2, m
        told = np.where(best >= threshold, labels[image][truth] + 1, 0)
        shifted = logits[image] - logits[image].max(1, keepdims=True)
        surprise = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(cells)), told]
        # Equal logits give equal float32 values in the library: rounding makes them equal here.
        mining = np.where(told > 0, 0, np.round(surprise, 6))
        ranks = np.argsort(-mining, kind="stable")
        most = int(np.ceil(min(neg_ratio * (told > 0).sum(), len(cells) - 1)))
        counted = set(ranks[:most]) | set(np.flatnonzero(told))
        for a in np.flatnonzero(told):
            x0, y0, x1, y1 = boxes[image, truth[a]]
            cx, cy, w, h = cells[a]
            near = ((x0 + x1) / 2 - cx) / (0.1 * w), ((y0 + y1) / 2 - cy) / (0.1 * h)
            size = np.log((x1 - x0) / w) / 0.2, np.log((y1 - y0) / h) / 0.2
            for said_by, wanted in zip(said[image, a], near + size, strict=True):
                off = abs(said_by - wanted)
                box += off**2 / 2 if off < 1 else off - 0.5
        cls += sum(surprise[a] for a in counted)
        total += (told > 0).sum()
    return box / max(total, 1), cls / max(total, 1)


@pytest.mark.parametrize("neg_ratio", [0.0, 2.5, 1000.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_twin(seed, neg_ratio):
    case = scene(seed)
    found = multibox_jit(*case, neg_ratio=neg_ratio)
    box, cls = twin(*case, neg_ratio=neg_ratio)
    np.testing.assert_allclose(found["box"], box, rtol=1e-5)
    np.testing.assert_allclose(found["class"], cls, rtol=1e-5)


def test_threshold_counts():
    case = scene(0)
    found = multibox_jit(*case, threshold=0.3)
    np.testing.assert_allclose([found["box"], found["class"]], twin(*case, threshold=0.3), 1e-5)
    assert found["box"] != multibox_jit(*case)["box"]


def test_padding_changes_nothing():
    said, logits, cells, boxes, labels = scene(1)
    more = np.pad(boxes, ((0, 0), (0, 4), (0, 0)))
    padded = np.pad(labels, ((0, 0), (0, 4)), constant_values=-1)
    plain, other = (
        multibox_jit(said, logits, cells, *truths) for truths in ((boxes, labels), (more, padded))
    )
    assert {k: float(v) for k, v in plain.items()} == {k: float(v) for k, v in other.items()}


@pytest.mark.parametrize("rows", [0, 3])
def test_a_batch_without_boxes_is_zero(rows):
    said, logits, cells, _, _ = scene(0)
    boxes, labels = np.zeros((4, rows, 4), np.float32), np.full((4, rows), -1, np.int32)
    found, slopes = parts_and_slopes(said, logits, cells, boxes, labels)
    assert {k: float(v) for k, v in found.items()} == {"box": 0.0, "class": 0.0, "total": 0.0}
    assert all((np.asarray(slope) == 0).all() for slope in slopes)


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.50005, 0.50005), (0.4, 0.4, 0.4, 0.4)])
def test_a_box_that_is_hardly_there(box):
    said, logits, cells, boxes, labels = scene(0)
    boxes[:], labels[:] = 0, -1
    boxes[2, 1], labels[2, 1] = box, 0
    found, slopes = parts_and_slopes(said, logits, cells, boxes, labels)
    assert 0 < found["box"] < 1000 and np.isfinite(found["class"])
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_gradients_flow_to_what_counts():
    said, logits, cells, boxes, labels = scene(2)
    _, (of_boxes, of_logits) = parts_and_slopes(said, logits, cells, boxes, labels)
    match = jax.jit(jax.vmap(lambda *truths: assign.max_iou(deltas.corners(cells), *truths)))
    positive = np.asarray(match(boxes, labels).label > 0)
    np.testing.assert_array_equal(np.abs(np.asarray(of_boxes)).sum(-1) > 0, positive)
    pushed = np.abs(np.asarray(of_logits)).sum(-1) > 0
    assert pushed[positive].all()
    mined = (pushed & ~positive).sum(axis=1)
    np.testing.assert_array_equal(mined, 3 * positive.sum(axis=1))


def test_ties_go_to_the_earlier_prior():
    surprise = jnp.array([[1.0, 2.0, 1.0, 5.0, 1.0, 0.5]])
    positive = jnp.array([[False, False, False, True, False, False]])
    found = hard_negatives(surprise, positive, 2.0)
    assert found.tolist() == [[True, True, False, False, False, False]]
    found = hard_negatives(surprise, positive, 3.0)
    assert found.tolist() == [[True, True, True, False, False, False]]


def test_at_most_all_but_one_are_mined():
    surprise = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    found = hard_negatives(surprise, jnp.array([[True, False, False, False]]), 100.0)
    assert found.tolist() == [[False, True, True, True]]


def test_a_low_precision_head_is_summed_in_float32():
    said, logits, cells, boxes, labels = scene(3)
    low = jnp.asarray(said, jnp.bfloat16), jnp.asarray(logits, jnp.bfloat16)
    found = multibox_jit(*low, cells, boxes, labels)
    same = multibox_jit(*(x.astype(jnp.float32) for x in low), cells, boxes, labels)
    assert found["total"].dtype == jnp.float32 and found["total"] == same["total"]


def test_a_label_without_a_logit_shows():
    said, logits, cells, boxes, labels = scene(0)
    found = multibox_jit(said, logits, cells, boxes, np.where(labels == 0, 7, labels))
    assert np.isnan(found["class"])


def test_replicas_together_give_the_whole_batch():
    *answers, cells, boxes, labels = scene(5, images=8)
    parts, (slope, _) = parts_and_slopes(*answers, cells, boxes, labels)

    def share(said, logits, boxes, labels):
        parts, (slope, _) = parts_and_slopes(said, logits, cells, boxes, labels)
        return replicas.mean(parts), slope

    cut = [x.reshape(4, 2, *x.shape[1:]) for x in (*answers, boxes, labels)]
    of_all, slopes = jax.pmap(share, axis_name=replicas.AXIS, devices=jax.devices()[:4])(*cut)
    for name, value in parts.items():
        np.testing.assert_allclose(of_all[name], np.full(4, value), rtol=1e-6)
    # A step takes the mean of the gradients too: here each replica has only its own images.
    np.testing.assert_allclose(slopes.reshape(slope.shape) / 4, slope, rtol=1e-5, atol=1e-7)

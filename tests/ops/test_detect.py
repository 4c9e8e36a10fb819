"""SSD's detections against the reference's rows and a slow NumPy twin, class by class."""

import pathlib

import jax
import numpy as np
import pytest

from jaxdet.ops import deltas, detect, priors

EXTRACT = pathlib.Path(__file__).parents[1] / "golden/gssd_boxes.npz"  # its provenance is inside
KNOBS = ("score_threshold", "iou_threshold", "candidates", "max_detections")
found_by = jax.jit(detect.ssd, static_argnums=3, static_argnames=KNOBS)
MODELS = ("ssd", "gssd", "gssdpp", "gssdpp_wo_dc")


def ssd300():
    layout = priors.SSD[300]
    return priors.ssd([(level.side, level.side) for level in layout.levels], layout)


def check_rows(found, rows, size):
    """`rows` are (score, xyxy as fractions) by falling score; the rest is padding."""
    count = len(rows)
    np.testing.assert_allclose(found.scores[:count], rows[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.boxes_xyxy[:count] / size, rows[:, 1:], atol=1e-5)
    assert (found.labels[:count] == 0).all() and (found.labels[count:] == -1).all()
    assert not found.scores[count:].any() and not found.boxes_xyxy[count:].any()


@pytest.mark.parametrize("model", MODELS)
def test_equals_the_reference(shared, model):
    golden = np.load(shared / f"golden/gssd_golden_{model}.npz")
    rows = golden["eval/detect"][0, 1]
    found = found_by(golden["eval/conf"][0], golden["eval/loc"][0], ssd300(), 300)
    assert found.scores.shape == (200,)
    check_rows(found, rows[rows[:, 0] > 0], 300)


def test_equals_the_reference_on_the_priors_that_count():
    golden = np.load(EXTRACT)
    cells = ssd300()[golden["eval/prior"]]
    found = found_by(golden["eval/conf"], golden["eval/loc"], cells, 512)
    check_rows(found, golden["eval/rows"], 512)


def twin(logits, said, cells, size, score, iou, candidates, most):
    """Class by class, box by box; then all classes by falling score."""
    exp = np.exp(logits - logits.max(1, keepdims=True))
    probs = exp / exp.sum(1, keepdims=True)
    boxes = np.asarray(deltas.decode(said, cells))
    kept = []
    for k in range(1, logits.shape[1]):
        order = [a for a in np.argsort(-probs[:, k], kind="stable") if probs[a, k] > score]
        stay = []
        for a in order[:candidates]:
            if all(overlap(boxes[a], boxes[b]) <= iou for b in stay):
                stay.append(a)
        kept += [(probs[a, k], k - 1, a) for a in stay]
    kept = sorted(kept, key=lambda row: (-row[0], row[1], row[2]))[:most]
    return kept, boxes * size


def overlap(a, b):
    wh = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = wh[0] * wh[1]
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0


def scene(seed, count, classes):
    rng = np.random.default_rng(seed)
    cells = rng.uniform(0.1, 0.9, (count, 4)).astype(np.float32)
    said = rng.normal(0, 1, (count, 4)).astype(np.float32)
    # Few different numbers: many priors, and classes, have the same probability.
    logits = rng.integers(-2, 3, (count, classes + 1)).astype(np.float32)
    return logits, said, cells


SETTINGS = {"score": 0.2, "iou": 0.3, "candidates": 25, "most": 12}


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("count", [5, 90])
def test_equals_the_twin(count, classes):
    logits, said, cells = scene(count + classes, count, classes)
    kept, boxes = twin(logits, said, cells, 64, **SETTINGS)
    found = found_by(
        logits,
        said,
        cells,
        64,
        score_threshold=0.2,
        iou_threshold=0.3,
        candidates=25,
        max_detections=12,
    )
    n = len(kept)
    np.testing.assert_allclose(found.scores[:n], [row[0] for row in kept], rtol=1e-6)
    np.testing.assert_array_equal(found.labels[:n], [row[1] for row in kept])
    wanted = np.array([boxes[row[2]] for row in kept]).reshape(-1, 4)
    np.testing.assert_allclose(found.boxes_xyxy[:n], wanted, rtol=1e-5, atol=1e-5)
    assert (found.labels[n:] == -1).all() and found.boxes_xyxy.shape == (12, 4)


def test_a_batch_is_its_images():
    scenes = [scene(seed, 40, 2)[:2] for seed in range(3)]
    cells = scene(0, 40, 2)[2]
    answers = [np.stack(parts) for parts in zip(*scenes, strict=True)]
    batch = jax.jit(jax.vmap(lambda *answer: detect.ssd(*answer, cells, 300)))(*answers)
    for i, answer in enumerate(scenes):
        alone = found_by(*answer, cells, 300)
        np.testing.assert_allclose(batch.boxes_xyxy[i], alone.boxes_xyxy, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(batch.labels[i], alone.labels)


def test_both_thresholds_are_strict():
    cells = np.array([[0.5, 0.5, 1.0, 1.0], [0.5, 0.25, 1.0, 0.5]], np.float32)  # IoU 0.5
    logits, said = np.zeros((2, 2), np.float32), np.zeros((2, 4), np.float32)  # p = 0.5

    def count(**knobs):
        return (found_by(logits, said, cells, 10, **knobs).labels >= 0).sum()

    assert count(iou_threshold=0.5) == 2
    assert count(iou_threshold=0.49) == 1
    assert count(score_threshold=0.5) == 0


def test_only_background_gives_padding():
    logits = np.array([[20.0, 0, 0]] * 30, np.float32)
    said, cells = np.ones((30, 4), np.float32), np.full((30, 4), 0.5, np.float32)
    found = found_by(logits, said, cells, 300)
    assert found.labels.shape == (200,) and (found.labels == -1).all()
    assert not found.boxes_xyxy.any() and not found.scores.any()


def test_a_broken_answer_is_no_candidate():
    logits = np.array([[np.nan, 0], [0, 3]], np.float32)
    said, cells = np.zeros((2, 4), np.float32), np.full((2, 4), 0.5, np.float32)
    found = found_by(logits, said, cells, 300, max_detections=3)
    assert found.labels.tolist() == [0, -1, -1]
    assert np.isfinite(found.boxes_xyxy).all()

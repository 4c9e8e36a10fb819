"""GSSD++ learns a few slices of the phantom by heart: every part of it carries a gradient."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest

from jaxdet import metrics, models
from jaxdet.config import Train
from jaxdet.data import phantom
from jaxdet.train import optim
from jaxdet.train.step import init_state, make_step, of_detector
from jaxdet.types import Batch

STEPS = 150
SIDE = 300


def slices(count):
    """Data points of the four-phase phantom, 128 px grown to 300, each of another patient."""
    which = dataclasses.replace(phantom.SETS["multiphase"]["tiny"], size=128)
    for number in range(count):
        cases = phantom.cases(which, 0, number)
        case = max(cases, key=lambda case: np.ptp(case.boxes_xyxy[0]))
        unit = np.clip((case.hu.astype(np.float32) + 150) / 400, 0, 1)
        image = np.stack([cv2.resize(unit[..., c], (SIDE, SIDE)) for c in range(12)], -1)
        yield image, case.boxes_xyxy * np.float32(SIDE / 128)


@pytest.mark.slow  # ten minutes on two cores: a quarter of the channels, four slices, 150 steps
def test_gssd_pp_overfits_a_few_phantom_slices():
    images, boxes = zip(*slices(4), strict=True)
    padded, labels = np.zeros((4, 4, 4), np.float32), np.full((4, 4), -1, np.int32)
    for i, rows in enumerate(boxes):
        padded[i, : len(rows)], labels[i, : len(rows)] = rows, 0
    batch = Batch(np.stack(images), padded, labels, np.arange(4, dtype=np.int32))
    detector = models.build("gssd_pp", width=1 / 4)
    cfg = Train(
        optimizer="adamw",
        lr=1e-3,
        batch_size=4,
        nominal_batch=4,
        epochs=STEPS,
        warmup_epochs=0.0,
        ema_decay=0.0,
        lr_factors=(("^align", 0.1),),
    )
    plan = optim.plan(cfg, num_images=4, num_classes=1, steps_per_epoch=1)
    step = jax.jit(make_step(of_detector(detector), plan), donate_argnums=0)
    variables = jax.jit(detector.module.init)(jax.random.key(0), batch.images)
    state = init_state(jax.tree.map(np.array, variables), plan)
    for _ in range(STEPS):
        state, losses = step(state, batch)
    assert np.isfinite(losses["total"])
    found = jax.device_get(jax.jit(detector.detect)(state.ema, batch.images))
    truths = [(rows, np.zeros(len(rows), np.int32)) for rows in boxes]
    (ap50,) = metrics.average_precision(found, truths, thresholds=(0.5,), protocol="coco")
    assert ap50 > 0.9
    for name in ("attend_0", "look_0"):  # gates opened, and offsets moved
        assert np.abs(state.params[name]["sigma"]).max() > 1e-3
    assert np.abs(state.params["align_0"]["offset"]["kernel"]).max() > 1e-4

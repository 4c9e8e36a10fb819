"""One step on 1, 2 and 8 devices is one step; what accumulates is a sum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxdet import models
from jaxdet.config import Train
from jaxdet.ops.replicas import AXIS
from jaxdet.train import optim
from jaxdet.train.step import init_state, make_step, of_detector
from jaxdet.types import Batch

SGD = Train(optimizer="sgd", batch_size=64, warmup_epochs=0.0, ema_tau=10.0)


def plan_of(cfg):
    return optim.plan(cfg, num_images=80, num_classes=1, steps_per_epoch=10)


def run(detector, variables, batches, plan, devices, mapped=jax.pmap):
    """The states and scalars after all batches, split over `devices` replicas."""
    how = {"devices": jax.devices()[:devices]} if mapped is jax.pmap else {}
    step = mapped(make_step(of_detector(detector), plan), axis_name=AXIS, **how)
    state = jax.tree.map(lambda x: np.stack([x] * devices), init_state(variables, plan))
    split = functools.partial(jax.tree.map, lambda x: x.reshape(devices, -1, *x.shape[1:]))
    for batch in batches:
        state, scalars = step(state, split(batch))
    return jax.device_get((state, scalars))


def assert_close(a, b, tolerance):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        scale = max(np.abs(y).max(), 1e-3)
        assert np.abs(x - y).max() <= tolerance * scale, jax.tree_util.keystr(path)


@pytest.mark.parametrize("devices", [2, 8])
def test_toy_step_is_the_same_on_many_devices(devices):
    variables = jax.jit(toy.DETECTOR.module.init)(jax.random.key(0), toy.batch(0).images)
    batches = [toy.batch(i) for i in range(3)]
    one = run(toy.DETECTOR, variables, batches, plan_of(SGD), 1)
    many = run(toy.DETECTOR, variables, batches, plan_of(SGD), devices)
    twin = run(toy.DETECTOR, variables, batches, plan_of(SGD), devices, mapped=jax.vmap)
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    # Momentum is left out: three steps on, it carries the rounding of three BatchNorms.
    for other in (many, twin):
        for field in ("params", "batch_stats", "ema"):
            wanted = getattr(first(one)[0], field)
            assert_close(getattr(first(other)[0], field), wanted, 1e-5)
        assert_close(first(other)[1], first(one)[1], 1e-5)
    last = jax.tree.map(lambda x: x[-1], many)
    assert_close(last, first(many), 0)  # replicas never part


def yolo_batch(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (8, 4, 2))
    boxes = np.concatenate([low, low + rng.uniform(6, 24, (8, 4, 2))], -1).astype(np.float32)
    labels = rng.integers(-1, 2, (8, 4)).astype(np.int32)  # uneven over the devices, some none
    boxes *= (labels >= 0)[..., None]
    images = rng.uniform(0, 1, (8, 64, 64, 1)).astype(np.float32)
    return Batch(images, boxes, labels, np.arange(8, dtype=np.int32))


def gssd_batch(seed):
    few = yolo_batch(seed)
    rng = np.random.default_rng(seed)
    (y, x), centre = np.mgrid[:300, :300][..., None] / 300, rng.uniform(0, 1, (2, 8, 1, 1, 12))
    blobs = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.05)  # images that differ
    images = (0.7 * blobs + rng.uniform(0, 0.3, blobs.shape)).astype(np.float32)
    return few._replace(images=images, boxes_xyxy=4 * few.boxes_xyxy)


def check_field(states, start):
    """Of (ours, theirs, those near theirs): ours is theirs but for what the near ones differ by."""
    amplified = []
    for ours, theirs, *others, begun in zip(
        *map(jax.tree.leaves, jax.device_get((*states, start))), strict=True
    ):
        moved, rounding = np.abs(theirs - begun).max(), 1.2e-7 * np.abs(theirs).max()
        limit = min(1e-5, 1e-3 * moved + rounding)
        conditioning = max(np.abs(other - theirs).max() for other in others)
        assert np.abs(ours - theirs).max() <= max(limit, 3 * conditioning)
        if moved > rounding:
            amplified.append(conditioning / moved)
    assert np.median(amplified) < 0.1  # else this would be no test


@pytest.fixture
def compiled_anew():
    """On a CPU, to read programs of thousands of kernels back may crash XLA's loader (0.10)."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("name", ["yolov8n", "gssd_pp"])
def test_step_of_a_detector_is_the_same_on_many_devices(name, devices):
    fields, make = {
        "yolov8n": ({"channels": 1}, yolo_batch),
        "gssd_pp": ({"width": 1 / 8}, gssd_batch),
    }[name]
    detector = models.build(name, num_classes=2, **fields)
    variables = jax.jit(detector.module.init)(jax.random.key(0), make(0).images)
    batches = [make(i) for i in range(2)]
    plan = plan_of(SGD)
    begun = init_state(variables, plan)
    beginning = {f: getattr(begun, f) for f in ("params", "batch_stats", "ema")}
    one = run(detector, variables, batches, plan, 1)
    # BatchNorm over the few values of the last maps amplifies every rounding: by how much, the same
    # steps on images with other last bits say.
    rng = np.random.default_rng(0)

    def noisy(batch):
        noise = rng.choice([-4, 4], batch.images.shape) * 2.0**-23
        return batch._replace(images=batch.images * np.float32(1 + noise))

    near = [run(detector, variables, [noisy(b) for b in batches], plan, 1) for _ in range(3)]
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    for mapped in (jax.pmap, jax.vmap):
        many = run(detector, variables, batches, plan, devices, mapped)
        # To 1e-5 as it stands, and to 1e-3 of what moved, one rounding of the weight itself apart:
        # updates carry the float32 rounding of many BatchNorms over 32 values, 1e-4 of them.
        for field in ("params", "batch_stats", "ema"):
            states = [getattr(first(state)[0], field) for state in (many, one, *near)]
            check_field(states, beginning[field])
        losses, *others = (first(state)[1] for state in (many, one, *near))
        wanted, *others = others
        for key, value in wanted.items():
            conditioning = max(abs(float(other[key] - value)) for other in others)
            assert abs(losses[key] - value) <= max(1e-5 * abs(value), 3 * conditioning), key


def test_accumulated_gradients_are_summed_until_due():
    cfg = Train(optimizer="sgd", batch_size=8, nominal_batch=16, warmup_epochs=0.0, clip_norm=1e9)
    plan = plan_of(cfg)
    assert plan.accumulate == 2
    step = jax.jit(make_step(of_detector(toy.DETECTOR), plan))
    variables = jax.jit(toy.DETECTOR.module.init)(jax.random.key(0), toy.batch(0).images)
    start = init_state(variables, plan)
    first, _ = step(start, toy.batch(1))
    second, _ = step(first, toy.batch(2))
    assert (int(first.updates), int(second.updates), int(second.step)) == (0, 1, 2)
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(start.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(np.any(g) for g in jax.tree.leaves(jax.device_get(second.grads)))

    def gradient(stats, batch):
        def total(params):
            out, _ = toy.DETECTOR.module.apply(
                {"params": params, "batch_stats": stats},
                batch.images,
                train=True,
                mutable=["batch_stats"],
            )
            return toy.loss(out, batch)["total"]

        return jax.jit(jax.grad(total))(start.params)

    total = jax.tree.map(
        jnp.add,
        gradient(start.batch_stats, toy.batch(1)),
        gradient(first.batch_stats, toy.batch(2)),
    )
    now = optim.rates(plan, 1)
    wanted, _ = optim.update(plan, total, start.optimizer, start.params, now)
    assert_close(second.params, wanted, 1e-6)


def test_a_step_compiles_once_and_leaves_the_state_finite():
    plan, traces = plan_of(SGD), []
    plain = make_step(of_detector(toy.DETECTOR), plan)

    @jax.jit
    def step(state, batch):
        traces.append(1)
        return plain(state, batch)

    variables = jax.jit(toy.DETECTOR.module.init)(jax.random.key(0), toy.batch(0).images)
    state = init_state(variables, plan)
    for i in range(3):
        empty = toy.batch(i)._replace(labels=np.full((8, 3), -1, np.int32))
        state, scalars = step(state, empty)
    assert len(traces) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get((state, scalars))))

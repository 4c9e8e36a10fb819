"""Optimisers, schedules and groups against PyTorch's formulas and the classic recipe's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet import models
from jaxdet.config import Train
from jaxdet.train import optim


def plan_of(cfg, images=160, classes=1, steps=10):
    return optim.plan(cfg, num_images=images, num_classes=classes, steps_per_epoch=steps)


@pytest.mark.parametrize(
    ("images", "epochs", "classes", "wanted"),
    [
        (1000, 100, 1, ("adamw", 0.002)),
        (1000, 100, 80, ("adamw", 0.000119)),
        (640_100, 1, 80, ("sgd", 0.01)),  # 10,002 updates of 64 images
        (640_000, 1, 80, ("adamw", 0.000119)),  # exactly 10,000 is not more
    ],
)
def test_auto_is_the_classic_rule(images, epochs, classes, wanted):
    made = plan_of(Train(epochs=epochs), images=images, classes=classes)
    assert (made.optimizer, made.lr) == wanted
    assert made.warmup_bias_lr == 0
    assert made.beta1 == 0.9


def test_weight_decay_grows_with_the_images_of_an_update():
    assert plan_of(Train(batch_size=16)).weight_decay == pytest.approx(5e-4)
    assert plan_of(Train(batch_size=128)).weight_decay == pytest.approx(1e-3)
    assert plan_of(Train(batch_size=16)).accumulate == 4
    assert plan_of(Train(batch_size=128)).accumulate == 1


def test_linear_and_cosine_fall_once_an_epoch():
    for schedule, at_half in (("linear", 0.505), ("cosine", 0.505)):
        cfg = Train(optimizer="sgd", epochs=100, schedule=schedule, warmup_epochs=0.0)
        made = plan_of(cfg)
        lrs = [float(optim.rates(made, s).lr) for s in (0, 9, 10, 500, 999)]
        assert lrs[0] == lrs[1] == pytest.approx(0.01)
        assert lrs[2] < lrs[1]
        assert lrs[3] == pytest.approx(0.01 * at_half, rel=1e-4)
    assert lrs[4] == pytest.approx(0.01 * ((1 - np.cos(0.99 * np.pi)) / 2 * -0.99 + 1), rel=1e-3)


def test_steps_fall_at_the_start_of_the_step_they_are_named_for():
    cfg = Train(optimizer="sgd", lr=1e-3, epochs=600, schedule="steps", warmup_epochs=0.0)
    made = plan_of(cfg, steps=100)  # 60,000 steps, as GSSD's
    at = (0, 29_999, 30_000, 49_999, 50_000, 59_999)
    found = [float(optim.rates(made, step).lr) for step in at]
    np.testing.assert_allclose(found, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)
    other = Train(
        optimizer="sgd",
        schedule="steps",
        drops=(0.25,),
        drop_factor=0.5,
        warmup_epochs=0.0,
        epochs=4,
    )
    assert float(optim.rates(plan_of(other), 10).lr) == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("until", "wanted"), [("end", (1e-4, 1e-5, 1e-6)), ("first_drop", (1e-4, 1e-4, 1e-5))]
)
def test_factors_are_kept_or_forgotten_at_the_first_drop(until, wanted):
    cfg = Train(
        optimizer="sgd",
        lr=1e-3,
        epochs=6,
        schedule="steps",
        warmup_epochs=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
        lr_factors=(("^a/", 0.1),),
        lr_factors_until=until,
    )
    made, params = plan_of(cfg), tree()
    grads = jax.tree.map(np.ones_like, params)
    for step, rate in zip((0, 30, 50), wanted, strict=True):
        now = optim.rates(made, step)
        moved, _ = optim.update(made, grads, optim.init(made, params), params, now)
        gone = params["a"]["kernel"] - moved["a"]["kernel"]
        np.testing.assert_allclose(gone, rate * 1.937, atol=1e-7)  # Nesterov's first step


def test_plain_momentum_that_decays_everything():
    cfg = Train(optimizer="sgd", weight_decay=0.1, clip_norm=0.0, nesterov=False, decay="all")
    found, made = follow(cfg, steps=2)
    p, buffer = tree()["norm"]["bias"], 0
    for step in range(2):
        buffer = 0.9 * buffer + p * 0.3 + step * 0.1 + made.weight_decay * p
        p = p - 0.05 * buffer
    np.testing.assert_allclose(found["norm"]["bias"], p, rtol=1e-7)


def test_warm_up_ramps_everything():
    cfg = Train(optimizer="sgd", epochs=100, batch_size=16)
    made = plan_of(cfg, steps=50)  # 150 warm-up steps
    start, half, end = (optim.rates(made, s) for s in (0, 75, 150))
    assert (start.lr, start.bias_lr) == (0, pytest.approx(0.1))
    assert start.momentum == pytest.approx(0.8)
    assert start.accumulate == 1
    assert half.accumulate == 2  # np.interp gives 2.5, which rounds to even
    assert half.momentum == pytest.approx((0.8 + 0.937) / 2)
    assert end.momentum == pytest.approx(0.937)
    assert end.lr == pytest.approx(float(end.bias_lr), rel=1e-6)
    assert end.accumulate == 4
    assert plan_of(cfg, steps=2).warmup_steps == 100  # the classic floor


def tree():
    rng = np.random.default_rng(0)
    return {
        "a": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)},
        "norm": {"scale": rng.normal(size=2), "bias": rng.normal(size=2)},
    }


def follow(cfg, steps=5, momentum=0.9, lr=0.1):
    """A few updates with fixed rates; gradients are the parameters themselves plus the step."""
    made = plan_of(cfg)
    # In float64: Adam's 1 - 0.999^t has only four digits in float32 at the start.
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, tree())
        state = optim.init(made, params)
        now = optim.Rates(lr, lr / 2, momentum, 1, 1.0)
        update = jax.jit(lambda g, s, p: optim.update(made, g, s, p, now))
        for step in range(steps):
            grads = jax.tree.map(lambda x, step=step: x * 0.3 + step * 0.1, params)
            params, state = update(grads, state, params)
        return jax.device_get(params), made


def torch_formula(kind, leaf, decay, rate, made, steps=5, momentum=0.9):
    """PyTorch's SGD with Nesterov, Adam and AdamW, one array."""
    p, buf, m, v = leaf.copy(), 0, 0, 0
    for t in range(1, steps + 1):
        g = p * 0.3 + (t - 1) * 0.1
        if kind == "sgd":
            g = g + decay * p
            buf = momentum * buf + g
            p = p - rate * (g + momentum * buf)
            continue
        g = g + decay * p if kind == "adam" else g
        m, v = made.beta1 * m + (1 - made.beta1) * g, 0.999 * v + 0.001 * g * g
        step = (m / (1 - made.beta1**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = p - rate * (step + (decay * p if kind == "adamw" else 0))
    return p


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_updates_equal_pytorchs_formulas(kind):
    cfg = Train(optimizer=kind, weight_decay=0.1, clip_norm=1e9, batch_size=64)
    found, made = follow(cfg)
    start = tree()
    for group, name, decay, rate in (
        ("a", "kernel", 0.1, 0.1),
        ("a", "bias", 0.0, 0.05),
        ("norm", "scale", 0.0, 0.1),
        ("norm", "bias", 0.0, 0.05),
    ):
        wanted = torch_formula(kind, start[group][name], decay, rate, made)
        np.testing.assert_allclose(found[group][name], wanted, rtol=1e-7)


def test_clipping_bounds_the_global_norm():
    cfg = Train(optimizer="sgd", weight_decay=0.0, clip_norm=0.01, batch_size=64)
    found, _ = follow(cfg, steps=1, momentum=0.0)
    moved = jax.tree.map(lambda a, b: a - b, tree(), found)
    # Biases move at half the rate here.
    moved = jax.tree_util.tree_map_with_path(
        lambda path, x: x * (2 if "bias" in str(path[-1]) else 1), moved
    )
    norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(moved)))
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-4)


def test_freeze_and_factors_by_pattern():
    cfg = Train(optimizer="adamw", freeze=("norm/",), lr_factors=(("a/kernel", 0.0),))
    found, _ = follow(cfg)
    start = tree()
    np.testing.assert_array_equal(found["norm"]["scale"], start["norm"]["scale"])
    np.testing.assert_array_equal(found["a"]["kernel"], start["a"]["kernel"])
    assert (found["a"]["bias"] != start["a"]["bias"]).all()
    with pytest.raises(ValueError, match="'neck/' matches no parameter"):
        optim.check_patterns(start, Train(freeze=("neck/",)))


def test_a_factor_scales_one_module():
    plain, _ = follow(Train(optimizer="sgd", weight_decay=0.0), steps=1)
    slow, _ = follow(Train(optimizer="sgd", weight_decay=0.0, lr_factors=(("^a/", 0.1),)), steps=1)
    start = tree()
    ratio = (slow["a"]["kernel"] - start["a"]["kernel"]) / (
        plain["a"]["kernel"] - start["a"]["kernel"]
    )
    np.testing.assert_allclose(ratio, 0.1, rtol=1e-3)
    np.testing.assert_array_equal(slow["norm"]["bias"], plain["norm"]["bias"])


@pytest.mark.parametrize(("updates", "wanted"), [(1, 5.0e-4), (100, 0.0488), (2000, 0.632)])
def test_moving_average_starts_slowly(updates, wanted):
    made = plan_of(Train())
    one, zero = {"x": jnp.ones(())}, {"x": jnp.zeros(())}
    kept = optim.moving_average(made, one, zero, jnp.int32(updates))["x"]
    assert kept == pytest.approx(wanted, rel=2e-3)


def test_groups_of_yolov8n():
    shapes = jax.eval_shape(
        models.build("yolov8n").module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
    names = jax.tree.leaves(optim.paths(shapes["params"]))
    assert sum(name.endswith("scale") for name in names) == 57
    assert sum(name.endswith("kernel") for name in names) == 63
    assert sum(optim.is_bias(name) for name in names) == 63

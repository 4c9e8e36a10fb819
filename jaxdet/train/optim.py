"""How does a gradient change the weights? Optimisers, schedules, groups and the moving average.

A step counter is a micro-batch ("iteration" in ultralytics); an update happens after some of them.
The classic YOLOv8 rules (facts, 3.2 to 3.6) are the defaults.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdet.config import Train
from jaxdet.types import Array


class Plan(NamedTuple):
    """A training recipe with every choice made; plain numbers, so a step can close over it."""

    optimizer: str  # sgd, adam or adamw
    lr: float
    warmup_bias_lr: float
    momentum: float
    beta1: float
    weight_decay: float  # already scaled by the images of an update
    accumulate: int  # micro-batches of an update, after the warm-up
    warmup_steps: int
    steps_per_epoch: int
    epochs: int
    cfg: Train


class Rates(NamedTuple):
    """What one step uses, all scalars."""

    lr: Array
    bias_lr: Array
    momentum: Array
    accumulate: Array  # micro-batches of an update
    factors: Array  # 1 while lr_factors count, 0 from the step on where they are forgotten


def plan(cfg: Train, *, num_images: int, num_classes: int, steps_per_epoch: int) -> Plan:
    """Resolves `cfg` for a data set.

    optimizer="auto" is ultralytics' rule: SGD at 0.01 when more than 10,000 updates are to come,
    else AdamW at 0.002 * 5 / (4 + classes), in both cases without a warm-up of the bias rate.
    Weight decay grows with the images of an update over the nominal batch.
    """
    kind, lr, bias_lr, beta1 = cfg.optimizer, cfg.lr, cfg.warmup_bias_lr, cfg.momentum
    if kind == "auto":
        updates = int(np.ceil(num_images / max(cfg.batch_size, cfg.nominal_batch))) * cfg.epochs
        bias_lr, beta1 = 0.0, 0.9
        if updates > 10_000:
            kind, lr = "sgd", 0.01
        else:
            kind, lr = "adamw", round(0.002 * 5 / (4 + num_classes), 6)
    accumulate = max(round(cfg.nominal_batch / cfg.batch_size), 1)
    warmup = round(cfg.warmup_epochs * steps_per_epoch)
    return Plan(
        optimizer=kind,
        lr=lr,
        warmup_bias_lr=bias_lr,
        momentum=cfg.momentum,
        beta1=beta1,
        weight_decay=cfg.weight_decay * cfg.batch_size * accumulate / cfg.nominal_batch,
        accumulate=accumulate,
        warmup_steps=max(warmup, cfg.warmup_min_steps) if cfg.warmup_epochs > 0 else 0,
        steps_per_epoch=steps_per_epoch,
        epochs=cfg.epochs,
        cfg=cfg,
    )


def rates(plan: Plan, step: Array) -> Rates:
    """Learning rates, momentum and micro-batches an update at a step, all scalars.

    The rate falls once an epoch, linearly or as half a cosine, to final_lr of itself, or in steps
    that each begin with the step they are named for; the warm-up raises it from 0 (biases: from
    warmup_bias_lr) a step at a time.
    """
    cfg, step = plan.cfg, jnp.asarray(step, jnp.float32)
    epoch = jnp.floor(step / plan.steps_per_epoch)
    done = epoch / plan.epochs
    drops = np.array([round(share * plan.epochs * plan.steps_per_epoch) for share in cfg.drops])
    dropped = (step >= drops).sum()
    forgotten = cfg.lr_factors_until == "first_drop"
    factors = jnp.where(forgotten & (dropped > 0), 0.0, 1.0)
    if cfg.schedule == "steps":
        factor = jnp.float32(cfg.drop_factor) ** dropped
    elif cfg.schedule == "cosine":
        factor = jnp.maximum((1 - jnp.cos(np.pi * done)) / 2, 0.0) * (cfg.final_lr - 1) + 1
    else:
        factor = jnp.maximum(1 - done, 0.0) * (1 - cfg.final_lr) + cfg.final_lr
    lr = plan.lr * factor
    if plan.warmup_steps == 0:
        steady = jnp.float32(plan.momentum), jnp.float32(plan.accumulate)
        return Rates(lr, lr, *steady, factors)
    warm = jnp.clip(step / plan.warmup_steps, 0.0, 1.0)
    ramp = 1 + warm * (cfg.nominal_batch / cfg.batch_size - 1)
    return Rates(
        lr=lr * warm,
        bias_lr=plan.warmup_bias_lr + warm * (lr - plan.warmup_bias_lr),
        momentum=cfg.warmup_momentum + warm * (plan.momentum - cfg.warmup_momentum),
        accumulate=jnp.where(warm < 1, jnp.maximum(jnp.round(ramp), 1.0), plan.accumulate),
        factors=factors,
    )


def init(plan: Plan, params: Any) -> Any:
    """The optimiser's own state at the start."""
    return _transform(plan, params, plan.momentum).init(params)


def update(plan: Plan, grads: Any, state: Any, params: Any, now: Rates) -> tuple[Any, Any]:
    """One update: new parameters and new optimiser state. Frozen parameters stay what they are."""
    direction, state = _transform(plan, params, now.momentum).update(grads, state, params)
    names = paths(params)

    def move(name: str, param: Array, step: Array) -> Array:
        rate, factor = now.bias_lr if is_bias(name) else now.lr, factor_of(name, plan.cfg)
        if factor not in (0, 1):  # frozen stays frozen
            factor = factor**now.factors
        return param - rate * factor * step

    return jax.tree.map(move, names, params, direction), state


def moving_average(plan: Plan, ema: Any, model: Any, updates: Array) -> Any:
    """ema + (1 - d) (model - ema) with d = decay (1 - exp(-updates / tau)), on every leaf.

    Written so, and not as a sum of two products, what never moves keeps its bits.
    """
    decay = plan.cfg.ema_decay * (1 - jnp.exp(-updates.astype(jnp.float32) / plan.cfg.ema_tau))
    return jax.tree.map(lambda e, m: e + (1 - decay) * (m - e), ema, model)


def paths(params: Any) -> Any:
    """The tree of the parameters' own names, such as "head/box_0/out/bias"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(key.key) for key in path), params
    )


def is_bias(name: str) -> bool:
    """Biases of convolutions and of normalisations: no decay, and a warm-up rate of their own."""
    return name.endswith("bias")


def factor_of(name: str, cfg: Train) -> float:
    """What multiplies a parameter's learning rate; 0 where a `freeze` pattern matches.

    Frozen modules still follow the batches with their BatchNorm statistics, as in the reference.
    """
    if any(re.search(pattern, name) for pattern in cfg.freeze):
        return 0.0
    factor = 1.0
    for pattern, times in cfg.lr_factors:
        factor *= times if re.search(pattern, name) else 1.0
    return factor


def check_patterns(params: Any, cfg: Train) -> None:
    """Refuses a `freeze` or `lr_factors` pattern that matches no parameter: it would do nothing."""
    names = jax.tree.leaves(paths(params))
    for pattern in (*cfg.freeze, *(p for p, _ in cfg.lr_factors)):
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"train.freeze / train.lr_factors: {pattern!r} matches no parameter; "
                f"names look like {names[0]!r} and {names[-1]!r}"
            )


def _transform(plan: Plan, params: Any, momentum: Array) -> optax.GradientTransformation:
    """Gradient to direction, still without the learning rate, in PyTorch's order of things."""
    everything = plan.cfg.decay == "all"
    kernels = jax.tree.map(lambda name: everything or name.endswith("kernel"), paths(params))
    moving = jax.tree.map(lambda name: factor_of(name, plan.cfg) > 0, paths(params))
    decay = optax.add_decayed_weights(plan.weight_decay, mask=kernels)
    # A frozen parameter must not count in the norm that the others are clipped by.
    clip = optax.masked(optax.clip_by_global_norm(plan.cfg.clip_norm or np.inf), moving)
    if plan.optimizer == "sgd":
        return optax.chain(clip, decay, optax.trace(momentum, nesterov=plan.cfg.nesterov))
    adam = optax.scale_by_adam(b1=plan.beta1, b2=0.999, eps=1e-8)
    # Adam's decay is part of the gradient, AdamW's is not (Loshchilov 2019, arXiv:1711.05101).
    parts = (decay, adam) if plan.optimizer == "adam" else (adam, decay)
    return optax.chain(clip, *parts)

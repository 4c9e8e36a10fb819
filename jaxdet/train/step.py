"""One training step: pure, and the same function alone, under vmap and under pmap."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxdet.models.detector import Detector
from jaxdet.ops import replicas
from jaxdet.train import optim
from jaxdet.types import Array, Batch


class TrainState(flax.struct.PyTreeNode):
    """All that a run must remember. Batches, order and augmentation follow from `step` alone."""

    step: Array  # i32, micro-batches seen
    updates: Array  # i32, updates made
    last_update: Array  # i32, the micro-batch of the last update; -1 at the start
    params: Any
    batch_stats: Any
    ema: Any  # {"params", "batch_stats"}: what is evaluated and kept
    optimizer: Any
    grads: Any  # the sum since the last update; empty when every micro-batch is an update


def init_state(variables: Any, plan: optim.Plan) -> TrainState:
    """The state before the first step, from {"params", "batch_stats"}."""
    params, stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        last_update=-jnp.ones((), jnp.int32),
        params=params,
        batch_stats=stats,
        ema={"params": params, "batch_stats": stats},
        optimizer=optim.init(plan, params),
        grads=jax.tree.map(jnp.zeros_like, params) if plan.accumulate > 1 else {},
    )


def of_detector(detector: Detector) -> Callable:
    """(variables, batch) -> (losses, changed collections): what a step differentiates."""

    def forward(variables: Any, batch: Batch) -> tuple[dict[str, Array], Any]:
        out, changed = detector.module.apply(
            variables, batch.images, train=True, mutable=["batch_stats"]
        )
        return detector.loss(out, batch), changed

    return forward


def make_step(forward: Callable, plan: optim.Plan) -> Callable:
    """(state, batch) -> (state, scalars). Losses and gradients are means over the replicas.

    `forward(variables, batch)` gives the losses, their sum under "total", and what the step changed
    beside the parameters: {} or {"batch_stats"}.

    Gradients of the micro-batches of an update are summed, not averaged, then clipped, as in the
    classic recipe. Nothing random happens here and nothing leaves the device.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        def total(params: Any) -> tuple[Array, tuple[dict, Any]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            losses, changed = forward(variables, batch)
            return losses["total"], (losses, changed.get("batch_stats", {}))

        grads, (losses, stats) = jax.grad(total, has_aux=True)(state.params)
        grads, losses = replicas.mean((grads, losses))
        now = optim.rates(plan, state.step)
        state = state.replace(batch_stats=stats)
        if plan.accumulate > 1:
            grads = jax.tree.map(jnp.add, state.grads, grads)
            due = state.step - state.last_update >= now.accumulate
            wait = lambda s: s.replace(grads=grads)  # noqa: E731
            state = jax.lax.cond(due, lambda s: _update(s, grads, plan, now), wait, state)
        else:
            state = _update(state, grads, plan, now)
        return state.replace(step=state.step + 1), {**losses, "lr": now.lr}

    return step


def _update(state: TrainState, grads: Any, plan: optim.Plan, now: optim.Rates) -> TrainState:
    params, optimizer = optim.update(plan, grads, state.optimizer, state.params, now)
    updates = state.updates + 1
    model = {"params": params, "batch_stats": state.batch_stats}
    return state.replace(
        params=params,
        optimizer=optimizer,
        updates=updates,
        last_update=state.step,
        ema=optim.moving_average(plan, state.ema, model, updates),
        grads=jax.tree.map(jnp.zeros_like, state.grads),
    )

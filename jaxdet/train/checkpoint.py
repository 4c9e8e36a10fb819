"""Keeping and finding again all that a run must remember.

Only host NumPy arrays are saved: a checkpoint of one device opens on eight, and the other way
round.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdet.train.step import TrainState


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    progress: dict[str, Any],
    fitness: float,
    digests: Mapping[str, str],
) -> None:
    """Saves a host state, its progress and the RUN's digests under its step, asynchronously.

    A step that is there already is left alone: a run that stops right after an epoch has it.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            weights=ocp.args.StandardSave(state.ema),
            meta=ocp.args.JsonSave({**progress, **digests}),
        ),
        metrics={"fitness": fitness},
    )


def restore(
    manager: ocp.CheckpointManager, like: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
    """The latest state and its meta (progress, digests), or None if nothing was saved.

    `like` gives the shapes.
    """
    step = manager.latest_step()
    if step is None:
        return None
    target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    kept = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
        ),
    )
    return kept["state"], kept["meta"]


def check_finite(state: TrainState) -> None:
    """Refuses a host state that is broken already, so that it never takes a good one's place.

    The loss is that of the weights before an update: it can be finite where the new weights are
    not.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    bad = [jax.tree_util.keystr(path) for path, x in leaves if not np.isfinite(x).all()]
    if bad:
        raise FloatingPointError(
            f"step {int(state.step)}: {len(bad)} arrays of the state are not finite, such as "
            f"{bad[0]}. The last good checkpoint is kept; lower train.lr"
        )

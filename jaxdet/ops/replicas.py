"""How does a replica speak to the others?

A train step runs once a device with the mapped axis named AXIS. The same code must also run alone
(evaluation, a notebook, a test), so every sum here looks whether the axis is bound when it is
traced.
"""

import jax

from jaxdet.types import Array

AXIS = "batch"


def count() -> int:
    """How many replicas run this step together; 1 outside any mapped axis."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:  # JAX's word for "no such axis is bound here"
        return 1


def bound_axis() -> str | None:
    """AXIS inside a mapped step, None outside: what Flax calls `axis_name`."""
    return AXIS if count() > 1 else None


def mean(tree: Array) -> Array:
    """Mean over the replicas of every leaf; the leaf itself when it runs alone."""
    return jax.lax.pmean(tree, AXIS) if count() > 1 else tree

"""Replicas: the same code alone and under a mapped axis."""

import jax
import jax.numpy as jnp

from jaxdet.ops import replicas


def test_alone_there_is_one():
    assert replicas.count() == 1
    assert replicas.bound_axis() is None
    assert jax.jit(lambda x: replicas.mean(x))(3.0) == 3.0


def test_mapped_there_are_many():
    x = jnp.arange(4.0)
    mean = jax.vmap(replicas.mean, axis_name=replicas.AXIS)(x)
    count = jax.vmap(lambda _: replicas.count(), axis_name=replicas.AXIS)(x)
    assert mean.tolist() == [1.5] * 4
    assert count.tolist() == [4] * 4

"""Grouped convolutions: every way of computing them, their starts, and what flows where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.nn.grouped import Conv, ConvReLU, convolve


def case(inputs=8, outputs=12, groups=4, kernel=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 7, inputs)).astype(np.float32)
    return x, rng.normal(size=(kernel, kernel, inputs // groups, outputs)).astype(np.float32)


@pytest.mark.parametrize("how", [{}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2}])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_all_ways_agree_with_their_gradients(groups, how):
    x, kernel = case(groups=groups)

    def both(grouping):
        f = jax.jit(lambda x, k: convolve(x, k, grouping=grouping, **how))
        y, pull = jax.vjp(f, x, kernel)
        return y, *pull(jnp.cos(y))

    native = both("native")
    for word in ("split", "diagonal"):
        for ours, theirs in zip(both(word), native, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "count", "dense"), [(8, 1, True), (64, 4, False)])
def test_auto_parts_groups_on_a_cpu_and_nowhere_else(monkeypatch, inputs, count, dense):
    x, kernel = case(inputs=inputs)

    def traced():
        return str(jax.make_jaxpr(lambda x, k: convolve(x, k))(x, kernel))  # a new function a time

    assert traced().count("conv_general_dilated[") == count
    assert ("feature_group_count=4" not in traced()) and (f"3,3,{inputs},12" in traced()) == dense
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert traced().count("conv_general_dilated[") == 1 and "feature_group_count=4" in traced()


def test_a_group_sees_its_own_channels_alone():
    x, kernel = case()
    y = convolve(x, kernel, padding=1)
    other = x.copy()
    other[..., 2:4] += 1  # of group 1
    changed = np.abs(convolve(other, kernel, padding=1) - y).max((0, 1, 2)) > 0
    np.testing.assert_array_equal(changed, [False] * 3 + [True] * 3 + [False] * 6)


@pytest.mark.parametrize(
    ("start", "bound"),
    [("torch", 72**-0.5), ("xavier", (6 / (72 + 288)) ** 0.5), ("he", (6 / 72) ** 0.5)],
)
def test_starts_are_pytorchs(start, bound):
    x = np.zeros((1, 5, 5, 32), np.float32)
    params = Conv(32, 3, groups=4, start=start).init(jax.random.key(0), x)["params"]
    assert params["kernel"].shape == (3, 3, 8, 32)
    assert 0.97 * bound < np.abs(params["kernel"]).max() <= bound
    if start != "torch":
        assert not params["bias"].any()
    else:
        assert 0.7 * bound < np.abs(params["bias"]).max() <= bound


def test_zero_start_is_zero():
    params = Conv(5, 3, start="zero").init(jax.random.key(0), np.zeros((1, 5, 5, 2)))["params"]
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))


def test_bfloat16_comes_out_and_parameters_stay_float32():
    block = ConvReLU(8, 3, groups=2, dtype=jnp.dtype("bfloat16"))
    x = np.ones((2, 5, 5, 4), np.float32)
    y, variables = block.init_with_output(jax.random.key(0), x, train=True)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_what_does_not_divide_is_refused():
    x = np.zeros((1, 5, 5, 6), np.float32)
    with pytest.raises(ValueError, match="6 channels to 8 do not divide into 4 groups"):
        Conv(8, 3, groups=4).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"wants a multiple of 4 channels.*got 6 channels"):
        convolve(x, np.zeros((3, 3, 4, 8), np.float32))

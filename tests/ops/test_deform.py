"""The deformable convolution against a pixel loop, golden answers and finite differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdet.ops.deform import deform_conv, sample_points, split_channels

CASES = {  # image, groups of offsets, kernel, outputs, how
    "phases": ((2, 6, 7, 8), 4, (3, 3, 8), 3, {}),
    "stride": ((2, 9, 8, 4), 2, (3, 3, 2), 6, {"stride": 2}),
    "one group, oblong": (
        (1, 9, 10, 6),
        1,
        (3, 2, 2),
        3,
        {"stride": (2, 1), "padding": (0, 2), "dilation": (2, 3)},
    ),
    "single pixel": ((1, 1, 1, 2), 2, (3, 3, 2), 2, {"padding": 1}),
}
NAMES = ("x", "offsets", "mask", "kernel", "bias")


def sides(image, kernel, stride=1, padding=1, dilation=1):
    """Output height and width, from PyTorch's formula of Conv2d."""
    both = (np.broadcast_to(v, 2) for v in (image[1:3], kernel[:2], stride, padding, dilation))
    return [int((n + 2 * p - d * (k - 1) - 1) / s + 1) for n, k, s, p, d in zip(*both, strict=True)]


def case(name, offset_px=2.0, dtype=np.float64):
    """The five inputs and the keywords; a third of the offsets are whole or half pixels."""
    image, groups, kernel, outputs, how = CASES[name]
    rng, taps = np.random.default_rng(3), kernel[0] * kernel[1]
    places = (image[0], *sides(image, kernel, **how), groups, taps)
    offsets = offset_px * rng.normal(size=(*places, 2))
    offsets = np.where(rng.random(offsets.shape) < 1 / 3, np.round(2 * offsets) / 2, offsets)
    x, weights = rng.normal(size=image), rng.normal(size=(*kernel, outputs))
    inputs = x, offsets, rng.random(places), weights, rng.normal(size=outputs)
    return [a.astype(dtype) for a in inputs], how


def read(image, y, x):
    """All channels at one point: its four neighbours, those outside the image are zeros."""
    seen = np.zeros(image.shape[2])
    for row, column in itertools.product(
        (np.floor(y), np.floor(y) + 1), (np.floor(x), np.floor(x) + 1)
    ):
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            seen += share * image[int(row), int(column)]
    return seen


def pixel_loop(x, offsets, mask, kernel, bias, stride=1, padding=1, dilation=1):
    """The definition, a number at a time (Zhu 2019, Eq. 1)."""
    (sy, sx), (py, px), (dy, dx) = (np.broadcast_to(v, 2) for v in (stride, padding, dilation))
    kh, kw, inputs, outputs = kernel.shape
    split, groups = offsets.shape[3], x.shape[3] // inputs
    y = np.tile(bias, (*offsets.shape[:3], 1))
    for b, i, j, k in np.ndindex(*offsets.shape[:3], kh * kw):
        at = i * sy - py + k // kw * dy, j * sx - px + k % kw * dx
        moved = offsets[b, i, j, :, k] + at
        seen = np.concatenate(
            [
                mask[b, i, j, g, k] * read(part, *moved[g])
                for g, part in enumerate(np.split(x[b], split, 2))
            ]
        )
        for g, o in itertools.product(range(groups), range(outputs)):
            if o * groups // outputs == g:
                taken = seen[g * inputs : (g + 1) * inputs]
                y[b, i, j, o] += taken @ kernel[k // kw, k % kw, :, o]
    return y


conv = functools.partial(jax.jit, static_argnames=("stride", "padding", "dilation"))(deform_conv)


@functools.partial(jax.jit, static_argnames=("stride", "padding", "dilation"))
def value_and_grads(inputs, ct, **how):
    """Output and the gradients of all five inputs."""
    y, pull = jax.vjp(lambda *a: deform_conv(*a, **how), *inputs)
    return y, pull(ct)


def test_equals_the_golden(shared):
    with np.load(shared / "golden" / "gssd_golden_misc.npz") as npz:
        golden = {k[4:]: npz[k] for k in npz if k.startswith("dcn/")}

    def ours(kind, prefix=""):
        a = golden[prefix + kind]
        if kind in ("w", "b"):
            return a.transpose(2, 3, 1, 0) if a.ndim == 4 else a
        a = a.transpose(0, 2, 3, 1)
        shape = {"off": (4, 9, 2), "mask": (4, 9)}.get(kind, a.shape[3:])
        return a.reshape(*a.shape[:3], *shape)

    kinds = ("x", "off", "mask", "w", "b")
    with jax.enable_x64(True):
        y, grads = value_and_grads([ours(k) for k in kinds], 2 * ours("y"))  # of sum(y**2)
    np.testing.assert_allclose(y, ours("y"), rtol=0, atol=1e-10)
    for kind, grad in zip(kinds, grads, strict=True):
        np.testing.assert_allclose(grad, ours(kind, "grad_"), rtol=1e-10, atol=1e-10, err_msg=kind)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_pixel_loop(name):
    inputs, how = case(name)
    want = pixel_loop(*inputs, **how)
    with jax.enable_x64(True):
        np.testing.assert_allclose(conv(*inputs, **how), want, rtol=0, atol=1e-12)


def test_jit_is_eager_in_float32():
    inputs, how = case("one group, oblong", dtype=np.float32)
    eager, jitted = deform_conv(*inputs, **how), conv(*inputs, **how)
    assert eager.dtype == jitted.dtype == jnp.float32
    np.testing.assert_allclose(jitted, eager, rtol=0, atol=1e-5)


def test_images_do_not_see_each_other():
    (x, offsets, mask, kernel, bias), how = case("phases")
    ct = np.random.default_rng(4).normal(size=(2, 6, 7, 3))
    with jax.enable_x64(True):
        both, grads = value_and_grads((x, offsets, mask, kernel, bias), ct, **how)
        alone = [
            value_and_grads((x[i], offsets[i], mask[i], kernel, bias), ct[i], **how)
            for i in (slice(0, 1), slice(1, 2))
        ]
    for i, (y, each) in enumerate(alone):
        np.testing.assert_allclose(y[0], both[i], rtol=0, atol=1e-12)
        for name, one, two in zip(NAMES[:3], each, grads, strict=False):
            np.testing.assert_allclose(one[0], two[i], rtol=0, atol=1e-12, err_msg=name)
    for name, one, other, two in zip(
        NAMES[3:], alone[0][1][3:], alone[1][1][3:], grads[3:], strict=True
    ):
        np.testing.assert_allclose(np.add(one, other), two, rtol=0, atol=1e-12, err_msg=name)


HOWS = [({}, 1), ({"stride": 2}, 1), ({"dilation": 2}, 2), ({"padding": 0}, 2)]
HOWS += [({"stride": (1, 2), "padding": (2, 0)}, 1)]


@pytest.mark.parametrize(("how", "groups"), HOWS, ids=str)
def test_without_offsets_and_mask_it_is_the_plain_convolution(how, groups):
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(2, 8, 9, 4)), rng.normal(size=(3, 3, 4 // groups, 6))
    still = np.zeros((2, *sides(x.shape, kernel.shape, **how), 2, 9, 2))
    stride, padding, dilation = (
        tuple(int(v) for v in np.broadcast_to(how.get(name, 1), 2))
        for name in ("stride", "padding", "dilation")
    )
    with jax.enable_x64(True):
        want = lax.conv_general_dilated(
            x,
            kernel,
            stride,
            [(p, p) for p in padding],
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        y = conv(x, still, None, kernel, **how)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-12)


def test_an_offset_moves_its_own_group_of_channels():
    x = np.random.default_rng(2).normal(size=(1, 5, 6, 6)).astype(np.float32)
    offsets = np.zeros((1, 5, 6, 3, 1, 2), np.float32)
    offsets[..., 1, 0, :] = [1, -2]  # one pixel down, two to the left
    y = conv(x, offsets, None, np.eye(6, dtype=np.float32)[None, None], padding=0)
    np.testing.assert_array_equal(y[..., [0, 1, 4, 5]], x[..., [0, 1, 4, 5]])
    moved = np.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0)))[:, 1:, :6, 2:4]
    np.testing.assert_array_equal(y[..., 2:4], moved)


def test_the_pixel_beyond_the_edge_fades():
    dy = np.array([-1.5, -1, -0.75, 0.25, 1, 1.25, 2, 2.5, 1e6], np.float32)
    offsets = np.zeros((9, 2, 1, 1, 1, 2), np.float32)
    offsets[:, 0, 0, 0, 0, 0] = dy
    ones = np.ones((9, 2, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    y = conv(ones[0], offsets, None, ones[1], padding=0)
    np.testing.assert_array_equal(y[:, 0, 0, 0], [0, 0, 0.25, 1, 1, 0.75, 0, 0, 0])


def differences(f, inputs, step):
    """Central differences of a scalar f for every number of the inputs."""
    flat, unravel = ravel_pytree(inputs)

    def one(i):
        return f(unravel(flat.at[i].add(step))) - f(unravel(flat.at[i].add(-step)))

    return unravel(lax.map(one, jnp.arange(flat.size), batch_size=100) / (2 * step))


def spots(height, width):
    """Points that lie near whole pixels, in the rims, just outside, in corners and far away."""
    near = 2e-3
    rims = [-1 - near, -1 + near, -0.4, -near, near, 0.6, 1 - near, 1 + near]
    y = [*rims, height - 1 - near, height - 1 + near, height - 0.3, height - near, height + near]
    x = [*rims, width - 1 - near, width - 1 + near, width - 0.3, width - near, width + near]
    return np.array([*itertools.product(y, x), (1e6, 1.5), (1.5, -1e6), (-1e9, 1e9)])


def test_gradients_are_finite_differences_at_borders_near_pixels_and_far_outside():
    rng, (height, width) = np.random.default_rng(5), (3, 4)
    points = rng.permutation(spots(height, width))
    points = np.resize(points, (2, height, width, 2, 9, 2))  # 2 images, 2 groups, 9 taps
    x, kernel = rng.normal(size=(2, height, width, 4)), rng.normal(size=(3, 3, 2, 2))
    mask, ct = rng.random(points.shape[:5]), rng.normal(size=(2, height, width, 2))
    with jax.enable_x64(True):
        offsets = points - sample_points(np.zeros_like(points), (3, 3))
        inputs = [jnp.asarray(a) for a in (x, offsets, mask, kernel, rng.normal(size=2))]
        _, grads = value_and_grads(inputs, ct)

        wanted = jax.jit(
            lambda inputs: differences(lambda a: jnp.sum(ct * deform_conv(*a)), inputs, 1e-4)
        )(inputs)
    for name, grad, want in zip(NAMES, grads, wanted, strict=True):
        assert np.isfinite(grad).all() and np.abs(want).max() > 0.1
        np.testing.assert_allclose(grad, want, rtol=0, atol=1e-7, err_msg=name)


def test_at_whole_pixels_the_derivative_looks_right_and_down():
    (x, offsets, mask, kernel, bias), _ = case("phases")
    still = np.zeros_like(offsets)  # with the padding some taps lie at exactly -1
    ct = np.random.default_rng(6).normal(size=(*offsets.shape[:3], 3))
    step = 1e-6  # any: inside a cell the output is linear in each offset
    with jax.enable_x64(True):
        y, (_, grad, *_) = value_and_grads((x, still, mask, kernel, bias), ct)
        for axis, g, k in itertools.product(range(2), range(4), (0, 2, 4, 6, 8)):
            moved = still.copy()
            moved[:, :, :, g, k, axis] = step
            rise = (np.asarray(conv(x, moved, mask, kernel, bias)) - y) / step
            want = (rise * ct).sum(-1)
            np.testing.assert_allclose(grad[..., g, k, axis], want, rtol=0, atol=1e-7)


@pytest.mark.parametrize("far", [1e6, -1e6, 1e30, np.inf, -np.inf])
def test_offsets_off_the_map_read_zero_with_finite_gradients(far):
    inputs, how = case("phases", dtype=np.float32)
    inputs[1] = np.full_like(inputs[1], far)
    y, grads = value_and_grads(inputs, np.ones((2, 6, 7, 3), np.float32), **how)
    np.testing.assert_array_equal(y, np.broadcast_to(inputs[4], y.shape))
    for name, grad in zip(NAMES[:4], grads, strict=False):
        np.testing.assert_array_equal(grad, 0, err_msg=name)
    np.testing.assert_allclose(grads[4], 2 * 6 * 7)


def test_a_nan_is_not_hidden():
    (x, offsets, mask, kernel, bias), how = case("phases", dtype=np.float32)
    offsets[0, 2, 3, 1, 4] = np.nan
    y = np.isnan(conv(x, offsets, mask, kernel, bias, **how)).all(-1)
    assert y[0, 2, 3] and y.sum() == 1


def test_no_image_and_no_bias():
    (x, offsets, mask, kernel, bias), how = case("phases", dtype=np.float32)
    assert conv(x[:0], offsets[:0], mask[:0], kernel, bias, **how).shape == (0, 6, 7, 3)
    with_bias = conv(x, offsets, mask, kernel, bias, **how)
    without = conv(x, offsets, mask, kernel, **how)
    np.testing.assert_allclose(with_bias, without + bias, rtol=0, atol=1e-5)


def full_columns(x, offsets, mask, kernel, bias):
    """The usual form: the columns of all taps in memory, then one product; same padding."""
    (batch, height, width, channels), (*_, split, taps, _) = x.shape, offsets.shape
    points = sample_points(offsets, kernel.shape[:2])
    low = jnp.floor(points)
    part = points - low
    image = jnp.arange(batch)[:, None, None, None, None]
    group = jnp.arange(split)[:, None]
    grouped = x.reshape(batch, height, width, split, channels // split)
    columns = 0
    for step in itertools.product((0, 1), (0, 1)):
        at = low + jnp.array(step)
        share = jnp.prod(jnp.where(jnp.array(step) == 1, part, 1 - part), -1) * mask
        inside = ((at >= 0) & (at < jnp.array([height, width]))).all(-1)
        y, x_ = (jnp.clip(at[..., i], 0, n - 1).astype(int) for i, n in enumerate((height, width)))
        columns += grouped[image, y, x_, group] * jnp.where(inside, share, 0)[..., None]
    columns = columns.transpose(0, 1, 2, 4, 3, 5).reshape(batch, height, width, -1)
    return columns @ kernel.reshape(taps * channels, -1) + bias


def test_memory_is_at_most_a_third_of_full_columns():
    rng, (batch, side, channels, split, outputs) = np.random.default_rng(7), (2, 14, 512, 4, 32)
    places = (batch, side, side, split, 9)
    shapes = (batch, side, side, channels), (*places, 2), places, (3, 3, channels, outputs)
    inputs = [rng.normal(size=s).astype(np.float32) for s in (*shapes, (outputs,))]

    def compiled(f):
        def both(*inputs):
            return jax.value_and_grad(lambda *a: (f(*a) ** 2).sum(), tuple(range(5)))(*inputs)

        return jax.jit(f).lower(*inputs).compile(), jax.jit(both).lower(*inputs).compile()

    for ours, full in zip(compiled(deform_conv), compiled(full_columns), strict=True):
        for a, b in zip(*(jax.tree.leaves(p(*inputs)) for p in (ours, full)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(jnp.abs(b).max()))
        ours, full = (p.memory_analysis().temp_size_in_bytes for p in (ours, full))
        assert 0 < ours <= full / 3, f"{ours} of {full} bytes"


def test_bfloat16_samples_in_float32():
    (x, offsets, mask, kernel, bias), how = case("phases", dtype=np.float32)
    short = [jnp.asarray(a, jnp.bfloat16) for a in (x, offsets, mask, kernel)]
    y = conv(*short, bias, **how)
    want = np.asarray(conv(*(a.astype(jnp.float32) for a in short), bias, **how))
    assert y.dtype == jnp.bfloat16
    assert np.abs(np.asarray(y, np.float32) - want).max() < 0.01 * np.abs(want).max()
    # 200.3 in bfloat16 is 200: so far out only a float32 position knows the fraction.
    step = (jnp.arange(256) > 200).astype(jnp.bfloat16)[None, None, :, None]
    right = jnp.zeros((1, 1, 256, 1, 1, 2), jnp.bfloat16).at[..., 1].set(0.3)
    read = conv(step, right, None, jnp.ones((1, 1, 1, 1), jnp.bfloat16), padding=0)
    assert abs(float(read[0, 0, 200, 0]) - 0.3) < 2e-3


def test_gradients_of_bfloat16_add_up_in_float32():
    x = jnp.zeros((1, 20, 20, 1), jnp.bfloat16)
    to_origin = -sample_points(jnp.zeros((1, 20, 20, 1, 1, 2)), (1, 1), padding=0)
    one = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    grad = jax.jit(jax.grad(lambda x: conv(x, to_origin, None, one, padding=0).sum()))(x)
    assert grad.dtype == jnp.bfloat16
    assert grad[0, 0, 0, 0] == 400  # one at a time bfloat16 stops at 256


def test_split_channels_has_the_order_of_the_official_weights():
    raw = np.arange(2 * 3 * 4 * 3 * 2 * 6, dtype=np.float32).reshape(2, 3, 4, 36) / 100
    offsets, mask = split_channels(raw, groups=2, taps=6)
    assert offsets.shape == (2, 3, 4, 2, 6, 2) and mask.shape == (2, 3, 4, 2, 6)
    for g, k in itertools.product(range(2), range(6)):
        np.testing.assert_array_equal(offsets[..., g, k, 0], raw[..., g * 12 + 2 * k])
        np.testing.assert_array_equal(offsets[..., g, k, 1], raw[..., g * 12 + 2 * k + 1])
        logit = raw[..., 24 + g * 6 + k]
        np.testing.assert_allclose(mask[..., g, k], 1 / (1 + np.exp(-logit)), rtol=1e-6)


def test_sample_points_by_hand():
    offsets = np.zeros((1, 3, 2, 2, 6, 2), np.float32)
    offsets[0, 2, 1, 1, 3] = [0.5, -7]  # tap 3 is row 1, column 1 of a 3x2 kernel
    points = sample_points(offsets, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(4, 5))
    np.testing.assert_array_equal(points[0, 0, 0, 0, 0], [-1, 0])
    np.testing.assert_array_equal(points[0, 0, 0, 0, :, 0], [-1, -1, 3, 3, 7, 7])
    np.testing.assert_array_equal(points[0, 0, 0, 0, :, 1], [0, 5, 0, 5, 0, 5])
    np.testing.assert_array_equal(points[0, 2, 1, 0, 3], [2 * 2 - 1 + 4, 3 + 5])
    np.testing.assert_array_equal(points[0, 2, 1, 1, 3], [7.5, 1])


def shaped(**other):
    shapes = {"x": (2, 6, 7, 8), "offsets": (2, 6, 7, 4, 9, 2), "mask": (2, 6, 7, 4, 9)}
    shapes |= {"kernel": (3, 3, 8, 3), "bias": (3,)} | other
    return [np.zeros(shapes[name], np.float32) for name in NAMES]


WRONG = {
    r"want offsets \[2, 6, 7, groups, 9, 2\]; got \(2, 7, 6": {"offsets": (2, 7, 6, 4, 9, 2)},
    r"want offsets .* got \(1, 6, 7": {"offsets": (1, 6, 7, 4, 9, 2)},
    r"want offsets .* got \(2, 6, 7, 4, 8, 2\)": {"offsets": (2, 6, 7, 4, 8, 2)},
    r"want offsets .* got \(2, 6, 7, 4, 9, 3\)": {"offsets": (2, 6, 7, 4, 9, 3)},
    r"want offsets .* got \(2, 6, 7, 0": {"offsets": (2, 6, 7, 0, 9, 2)},
    r"8 channels do not fall into the 3 groups": {
        "offsets": (2, 6, 7, 3, 9, 2),
        "mask": (2, 6, 7, 3, 9),
    },
    r"want a mask \(2, 6, 7, 4, 9\) or None; got \(2, 6, 7, 1, 9\)": {"mask": (2, 6, 7, 1, 9)},
    r"multiple of 3, .* got 8 channels": {"kernel": (3, 3, 3, 3)},
    r"outputs that fall into as many groups": {"kernel": (3, 3, 4, 3)},
    r"wants a bias \(3,\); got \(4,\)": {"bias": (4,)},
    r"larger than the image": {"kernel": (9, 1, 8, 3)},
}


@pytest.mark.parametrize("words", WRONG)
def test_shapes_that_do_not_fit_are_refused_in_words(words):
    with pytest.raises(ValueError, match=words):
        deform_conv(*shaped(**WRONG[words]))


@pytest.mark.parametrize(
    "how", [{"stride": 0}, {"padding": (0, -1)}, {"dilation": (1, 0)}], ids=str
)
def test_a_stride_of_zero_is_refused(how):
    with pytest.raises(ValueError, match="stride and dilation of 1 or more"):
        deform_conv(*shaped(), **how)


def test_channels_and_taps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"4 groups of 9 taps want 108 channels.*got 107"):
        split_channels(np.zeros((1, 2, 2, 107), np.float32), 4, 9)
    with pytest.raises(ValueError, match=r"kernel of 3x3 wants offsets .* 9, 2\]; got .*6, 2"):
        sample_points(np.zeros((1, 2, 2, 4, 6, 2), np.float32), (3, 3))

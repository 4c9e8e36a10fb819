"""How much do two sets of boxes overlap?

Boxes are xyxy: [x0, y0, x1, y1] in pixels, x1 and y1 exclusive, so width = x1 - x0.
A padding box is four zeros: iou and iobb, and their gradients, are 0 there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdet.types import Array

CIOU_EPS = 1e-7


def area(boxes_xyxy: Float[Array, "*B 4"]) -> Float[Array, "*B"]:
    """Areas in px^2. An inverted box is empty, not negative."""
    wh = jnp.maximum(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2], 0.0)
    return wh[..., 0] * wh[..., 1]


def intersection(
    a_xyxy: Float[Array, "*B N 4"], b_xyxy: Float[Array, "*B M 4"]
) -> Float[Array, "*B N M"]:
    """Shared area of every pair in px^2."""
    a, b = a_xyxy[..., :, None, :], b_xyxy[..., None, :, :]
    corners = [jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])]
    return area(jnp.concatenate(corners, axis=-1))


def iou(a_xyxy: Float[Array, "*B N 4"], b_xyxy: Float[Array, "*B M 4"]) -> Float[Array, "*B N M"]:
    """Intersection over union of every pair, in [0, 1]."""
    shared = intersection(a_xyxy, b_xyxy)
    union = area(a_xyxy)[..., :, None] + area(b_xyxy)[..., None, :] - shared
    return _ratio(shared, union)


def iobb(
    pred_xyxy: Float[Array, "*B N 4"], true_xyxy: Float[Array, "*B M 4"]
) -> Float[Array, "*B N M"]:
    """Intersection over the *predicted* box of every pair, in [0, 1]; not symmetric.

    The lenient overlap reported beside IoU for lesions with loose labels: a small prediction
    inside a large lesion scores 1.
    """
    return _ratio(intersection(pred_xyxy, true_xyxy), area(pred_xyxy)[..., :, None])


def ciou(a_xyxy: Float[Array, "*A 4"], b_xyxy: Float[Array, "*B 4"]) -> Float[Array, "*AB"]:
    """Complete IoU of boxes that stand opposite each other (leading axes broadcast), in [-1.5, 1].

    IoU minus the squared centre distance over the enclosing diagonal, minus a penalty for unlike
    aspect (Zheng 2020, arXiv:1911.08287, Eq. 10 and 11). The aspect weight takes no gradient. The
    small constants stand where ultralytics puts them (height has one, width none), so that losses
    agree to the last digits: two padding boxes give 0 / 1e-7 = 0, never NaN.
    """
    ax0, ay0, ax1, ay1 = jnp.split(a_xyxy, 4, axis=-1)
    bx0, by0, bx1, by1 = jnp.split(b_xyxy, 4, axis=-1)
    aw, ah = ax1 - ax0, ay1 - ay0 + CIOU_EPS
    bw, bh = bx1 - bx0, by1 - by0 + CIOU_EPS
    shared_w = jnp.maximum(jnp.minimum(ax1, bx1) - jnp.maximum(ax0, bx0), 0.0)
    shared_h = jnp.maximum(jnp.minimum(ay1, by1) - jnp.maximum(ay0, by0), 0.0)
    shared = shared_w * shared_h
    plain = shared / (aw * ah + bw * bh - shared + CIOU_EPS)

    hull_w = jnp.maximum(ax1, bx1) - jnp.minimum(ax0, bx0)
    hull_h = jnp.maximum(ay1, by1) - jnp.minimum(ay0, by0)
    distance = ((bx0 + bx1 - ax0 - ax1) ** 2 + (by0 + by1 - ay0 - ay1) ** 2) / 4
    away = distance / (hull_w**2 + hull_h**2 + CIOU_EPS)
    unlike = (4 / np.pi**2) * (jnp.arctan(bw / bh) - jnp.arctan(aw / ah)) ** 2
    weight = jax.lax.stop_gradient(unlike / (unlike - plain + (1 + CIOU_EPS)))
    return (plain - (away + unlike * weight))[..., 0]


def _ratio(num: Array, den: Array) -> Array:
    # Two wheres: the inner one keeps 0/0 out of the backward pass as well.
    ok = den > 0
    return jnp.where(ok, num / jnp.where(ok, den, 1.0), 0.0)

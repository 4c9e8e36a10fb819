"""How does one CT slice move onto another? Rigid, affine or non-rigid, in the plane."""

import numpy as np
from jaxtyping import Float, Shaped

from jaxdet.data import images, slices
from jaxdet.data.registration import elastix, sitk
from jaxdet.data.registration.transform import Transform, identity

METHODS = ("rigid", "affine", "nonrigid")
BACKENDS = {"sitk": sitk.displacement, "elastix": elastix.displacement}
WINDOW_HU = slices.WINDOW_GSSD  # what is compared: soft tissue, as paper 2 shows it
SMALLEST = 16  # px, the least side of a slice


def register(
    fixed: Shaped[np.ndarray, "H W"],
    moving: Shaped[np.ndarray, "h w"],
    method: str,
    *,
    backend: str = "sitk",
    seed: int = 0,
) -> Transform:
    """The transform that brings `moving` onto `fixed`, both in HU on one pixel grid.

    "rigid" turns and shifts, "affine" also scales and shears, "nonrigid" is affine and then a
    B-spline. Both slices are windowed to [-150, 250] HU, and a pixel is the unit of length, as in
    the official scripts. The same input and seed give the same bytes (each backend runs on one
    thread). Backend "sitk" is plain SimpleITK; "elastix" is itk-elastix with the paper's default
    maps and wants the extra jaxdet[registration].

    Slices with nothing to align, two that are equal or one that is constant in the window (such as
    a missing phase filled with one value), stay where they are. Different shapes, sides below 16
    px, NaN, unknown words and an optimiser that gives up are a ValueError.
    """
    for word, known in ((method, METHODS), (backend, tuple(BACKENDS))):
        if word not in known:
            raise ValueError(f"registration knows {', '.join(known)}; got {word!r}")
    if fixed.shape != moving.shape or min(fixed.shape) < SMALLEST:
        raise ValueError(
            f"registration wants two slices of one shape, {SMALLEST} px or more a side; got"
            f" {fixed.shape} and {moving.shape}"
        )
    if seed < 0:
        raise ValueError(f"the seed of a registration wants 0 or more; got {seed}")
    one, other = _windowed(fixed, "fixed slice"), _windowed(moving, "moving slice")
    if np.array_equal(one, other) or np.ptp(one) == 0 or np.ptp(other) == 0:
        return identity(fixed.shape)
    try:
        found = BACKENDS[backend](one, other, method, seed)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1]
        raise ValueError(
            f"{method} registration by {backend} failed ({reason}): do the slices show the same"
            " part of the body?"
        ) from error
    return Transform(np.ascontiguousarray(found, np.float32))


def _windowed(image: np.ndarray, name: str) -> Float[np.ndarray, "H W"]:
    return images.to_range(image[..., None], WINDOW_HU, name)[..., 0]

"""How well do the livers of two phases cover each other? The mismatch of paper 2, Table II.

The liver is known for the phantom. For real data it is a mask file, or any function that finds the
liver in a slice: `segmenter("package.module:function")`.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxdet.types import CtSlice

REFERENCE = "portal"

Segment = Callable[[np.ndarray], np.ndarray]  # a slice in HU [H, W] -> where liver is, bool [H, W]


class Agreement(NamedTuple):
    """The Dice of a set, as Table II gives it."""

    mean: float  # over those counted; NaN where none is
    counted: int
    left_out: int  # zeros, and pairs without any liver


def dice(a: Bool[np.ndarray, "*S"], b: Bool[np.ndarray, "*S"]) -> float:
    """2 |a and b| / (|a| + |b|) in [0, 1]; NaN where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def mismatch(livers: Bool[np.ndarray, "H W P"], phases: tuple[str, ...]) -> dict[str, float]:
    """The Dice of each other phase's liver with the portal one's, by phase.

    The paper does not say which pairs it took; these three are the ones that registration aligns.
    0 or NaN where a liver is missing. No portal phase is a ValueError.
    """
    if REFERENCE not in phases:
        raise ValueError(f"the Dice to the {REFERENCE} liver wants that phase; got {phases}")
    if len(phases) != livers.shape[2]:
        raise ValueError(f"livers {livers.shape} of phases {phases}: wanted one a phase")
    portal = livers[..., phases.index(REFERENCE)]
    return {
        phase: dice(portal, livers[..., i]) for i, phase in enumerate(phases) if phase != REFERENCE
    }


def average(values: Float[np.ndarray, "*N"]) -> Agreement:
    """The mean of many Dice without zeros (as the paper says) and NaN; says how many those are."""
    counted = np.asarray(values, np.float64).ravel()
    kept = counted[counted > 0]
    mean = float(kept.mean()) if len(kept) else float("nan")
    return Agreement(mean, len(kept), len(counted) - len(kept))


def segmenter(name: str) -> Segment:
    """The function named "package.module:function"; a name that leads nowhere is a ValueError."""
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f'a liver segmenter is named "package.module:function"; got {name!r}')
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"liver segmenter {name!r} cannot be loaded: {error}") from error
    if not callable(found):
        raise ValueError(f"liver segmenter {name!r} is a {type(found).__name__}, no function")
    return found


def livers_of(case: CtSlice, segment: Segment) -> Bool[np.ndarray, "H W P"]:
    """The livers that `segment` finds in the central slice of each phase.

    It gets one slice in HU [H, W] at a time. An answer that is not a bool mask of that shape is a
    ValueError.
    """
    depth = case.hu.shape[2] // len(case.phases)
    return np.stack(
        [
            _checked(segment, case.hu[:, :, i * depth + depth // 2], f"{case.name}, {phase} phase")
            for i, phase in enumerate(case.phases)
        ],
        axis=-1,
    )


def _checked(segment: Segment, hu: Shaped[np.ndarray, "H W"], name: str) -> np.ndarray:
    found = np.asarray(segment(hu))
    if found.dtype != bool or found.shape != hu.shape:
        raise ValueError(
            f"{name}: the liver segmenter gave {found.dtype} {found.shape}; wanted bool {hu.shape}"
        )
    return found

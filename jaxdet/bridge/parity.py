"""Does an exported program answer what the detector answers?"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdet.types import Array

TOLERANCE = 1e-4  # absolute below 1, relative above


def answers(outputs: Any) -> dict[str, Array]:
    """The arrays of a NamedTuple by name, without the fields that are None."""
    return {name: array for name, array in outputs._asdict().items() if array is not None}


def check(
    path: str | os.PathLike[str], wanted: Mapping[str, Array], got: Mapping[str, Array]
) -> None:
    """Raises and removes `path` unless every array agrees to 1e-4, integers exactly.

    The ValueError names the first array that differs, by how much, or both shapes. NaN never
    agrees.
    """
    for name, array in wanted.items():
        fault = _fault(np.asarray(array), np.asarray(got[name]))
        if fault is not None:
            pathlib.Path(path).unlink()
            raise ValueError(
                f"{path}: the exported program answers otherwise than the model: {name} {fault}. "
                "Nothing was kept; this is a fault of the exporter, please report it"
            )


def _fault(wanted: np.ndarray, got: np.ndarray) -> str | None:
    if wanted.shape != got.shape:
        return f"has the shape {got.shape} instead of {wanted.shape}"
    if wanted.size == 0:
        return None
    difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
    allowed = TOLERANCE * np.maximum(np.abs(wanted.astype(np.float64)), 1.0)
    if np.issubdtype(wanted.dtype, np.integer):
        allowed = np.zeros_like(allowed)
    good = difference <= allowed  # false where either is NaN
    return (
        None if good.all() else f"differs by up to {difference.max():.3g} at {(~good).sum()} places"
    )

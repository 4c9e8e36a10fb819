"""jaxdet finds liver lesions in CT, in JAX.

This file loads nothing: `jaxdet.data` must stay free of JAX, so the names below come when they are
used.
"""

import importlib
from typing import Any

_ROOMS = (
    "bridge",
    "config",
    "data",
    "metrics",
    "models",
    "ops",
    "predict",
    "report",
    "run",
    "study",
    "train",
)


def __getattr__(name: str) -> Any:
    if name == "build":
        return importlib.import_module("jaxdet.models").build
    if name in _ROOMS:
        return importlib.import_module(f"jaxdet.{name}")
    raise AttributeError(f"module 'jaxdet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_ROOMS, "build"]

"""The bridge: weights and programs of other frameworks, in and out."""

from jaxdet.bridge.torch_names import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]

"""The one contract of the project: a detector is a module, a loss and a decode, side by side."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from jaxdet.types import Array, Batch, Detections


class Detector(NamedTuple):
    """Training, evaluation, checkpoints, export and reports know nothing else about a model."""

    module: nn.Module  # images f32[B,H,W,C] in [0, 1] -> Outputs
    loss: Callable[[Any, Batch], dict[str, Array]]  # scalars, the sum under "total"
    decode: Callable[[Any], Detections]  # fixed size, boxes in input px

    def detect(self, variables: Any, images: Array) -> Detections:
        """Images to Detections, one program: what evaluation and prediction compile."""
        return self.decode(self.module.apply(variables, images))

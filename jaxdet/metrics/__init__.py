"""How good detections are: average precision under a named protocol, and its summary."""

from jaxdet.metrics.average_precision import average_precision
from jaxdet.metrics.summary import summarise

__all__ = ["average_precision", "summarise"]

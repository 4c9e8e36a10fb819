"""How good detections are: average precision under a named protocol, and all other scores."""

from jaxdet.metrics.audit import audit
from jaxdet.metrics.average_precision import average_precision
from jaxdet.metrics.comparison import compare
from jaxdet.metrics.facts import Facts
from jaxdet.metrics.froc import froc
from jaxdet.metrics.levels import levels
from jaxdet.metrics.scorecard import scorecard
from jaxdet.metrics.strata import strata
from jaxdet.metrics.summary import summarise

__all__ = [
    "Facts",
    "audit",
    "average_precision",
    "compare",
    "froc",
    "levels",
    "scorecard",
    "strata",
    "summarise",
]

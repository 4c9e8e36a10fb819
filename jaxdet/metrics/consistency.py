"""Can a printed p-value come from a paired t-test, given the printed means and deviations?

Papers print mean +- SD and p, not the folds. But the differences of two rows have a deviation
between |sd_a - sd_b| and sd_a + sd_b, whatever their correlation, and so p has bounds.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxdet.metrics.statistics import Alternative, check_alternative

LEAST_FOLDS = 3  # two folds always correlate with -1 or 1: nothing between the bounds is reached


class Consistency(NamedTuple):
    """What a printed p-value asks for, and the p-values that the printed numbers allow."""

    t: float | None  # None where p is so far at an end (0) that t has no number
    sd_difference: float | None  # what the SD of the differences must be, with the ddof of the SDs
    correlation: float | None  # of the folds of both rows; beyond -1 and 1 it cannot be
    least_p: float
    most_p: float
    possible: bool


def check(
    mean_a: float,
    sd_a: float,
    mean_b: float,
    sd_b: float,
    p: float,
    n: int = 5,
    rounding: float = 0.05,
    ddof: int = 1,
    alternative: Alternative = "two-sided",
    p_rounding: float = 0.0005,
) -> Consistency:
    """Is `p` possible for a paired t-test of a against b on n folds (facts, pca_yolo 3.4)?

    t, sd_difference and correlation are what the printed numbers imply as they stand; None where
    nothing does, as for a p of 0 or a difference of the wrong sign. least_p and most_p are the
    bounds over every correlation from -1 to 1 and all means and SDs within `rounding` of the
    printed ones, and `possible` says whether a number that is printed as p (`p_rounding`) lies
    there. Where both SDs may be equal all differences may be the same, and least_p is 0.

    ddof says how the printed SDs were computed: 1 (divided by n - 1) or 0 (by n). "greater" asks
    whether a is above b. ValueError: n below 3, p above 1, an SD, p or rounding below 0, NaN, an
    alternative of another name.
    """
    check_alternative(alternative)
    numbers = {"mean_a": mean_a, "sd_a": sd_a, "mean_b": mean_b, "sd_b": sd_b}
    _check_numbers(numbers | {"p": p, "rounding": rounding, "p_rounding": p_rounding}, n, ddof)
    difference, near = mean_a - mean_b, 2 * rounding
    error = 1 / np.sqrt(n if ddof == 1 else n - 1)  # of the mean difference, where the SD is 1
    sds = (max(abs(sd_a - sd_b) - near, 0.0), sd_a + sd_b + near)
    ends = [
        d / (sd * error) if sd else _no_error(d) for d in _around(difference, near) for sd in sds
    ]
    least_p, *_, most_p = sorted(_p(t, n, alternative) for t in ends)
    t, sd = _implied(difference, p, n, alternative)
    sd = None if sd is None else sd / error
    product = 2 * sd_a * sd_b
    correlation = None if sd is None or not product else (sd_a**2 + sd_b**2 - sd**2) / product
    possible = least_p <= p + p_rounding and p - p_rounding <= most_p
    return Consistency(t, sd, correlation, least_p, most_p, possible)


def _around(difference: float, near: float) -> tuple[float, ...]:
    """The ends of what a rounded difference may be, and 0 where it lies between them."""
    low, high = difference - near, difference + near
    return (low, 0.0, high) if low < 0 < high else (low, high)


def _no_error(difference: float) -> float:
    """t where all differences are the same."""
    return float(np.sign(difference) * np.inf) if difference else 0.0


def _p(t: float, n: int, alternative: Alternative) -> float:
    if alternative == "two-sided":
        return float(2 * stats.t.sf(abs(t), n - 1))
    return float(stats.t.sf(t if alternative == "greater" else -t, n - 1))


def _implied(
    difference: float, p: float, n: int, alternative: Alternative
) -> tuple[float | None, float | None]:
    """t of such a p, and the standard error of the mean difference that gives it."""
    tail = p / 2 if alternative == "two-sided" else p
    t = float(stats.t.isf(tail, n - 1))
    if alternative == "less" or (alternative == "two-sided" and difference < 0):
        t = -t
    if not np.isfinite(t):
        return None, None
    return t, difference / t if t * difference > 0 else None


def _check_numbers(numbers: dict[str, float], n: int, ddof: int) -> None:
    for name, value in numbers.items():
        if not np.isfinite(value) or (value < 0 and not name.startswith("mean")):
            raise ValueError(f"{name} wants a finite number, SDs and p none below 0; got {value}")
    if numbers["p"] > 1:
        raise ValueError(f"p wants a number from 0 to 1; got {numbers['p']}")
    if n < LEAST_FOLDS:
        raise ValueError(f"the check wants {LEAST_FOLDS} folds or more; got {n}")
    if ddof not in (0, 1):
        raise ValueError(f"ddof is 1 (SDs divided by n - 1) or 0 (by n); got {ddof}")

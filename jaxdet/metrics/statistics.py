"""What do the values of a few folds, or of a few patients, allow one to say?

    values of two systems, fold by fold -> paired_t, corrected_t, wilcoxon -> holm over many
    a metric under resampled patients   -> bootstrap
    a metric before and after registration -> sensitivity (paper 2, Eq. 6)

What is not defined is None and says why; NaN neither goes in nor comes out. docs/statistics.md
tells in plain words which number to trust.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

Alternative = Literal["two-sided", "greater", "less"]
Values = Sequence[float | int] | np.ndarray

ALL_SIGNS = 13  # differences up to which every choice of signs is counted: 2^13 of them
NO_SPREAD = 1e-12  # of the largest value: differences closer than this differ by rounding only
MOST_LEFT_OUT = 0.1  # share of resamples that may lack a value before an interval does

EIGHT_METRICS = {  # of paper 2's Table I: split, overlap and threshold
    "val IoU30": ("val", "iou", 0.3),
    "val IoU50": ("val", "iou", 0.5),
    "val IoU70": ("val", "iou", 0.7),
    "val IoBB30": ("val", "iobb", 0.3),
    "val IoBB50": ("val", "iobb", 0.5),
    "val IoBB70": ("val", "iobb", 0.7),
    "test IoU50": ("test", "iou", 0.5),
    "test IoBB50": ("test", "iobb", 0.5),
}


class Test(NamedTuple):
    """What a paired test of a against b says; statistic and p are None where `why` tells why."""

    name: str
    statistic: float | None
    p: float | None
    df: int | None  # degrees of freedom; None for a test without
    n: int  # pairs that count
    difference: float | None  # mean of a - b; None without pairs
    alternative: Alternative  # "greater": a above b
    why: str = ""


class Interval(NamedTuple):
    """A value with its confidence interval; low and high are None where `why` tells why."""

    value: float | None  # of all patients as they are
    low: float | None
    high: float | None
    level: float
    method: str
    patients: int
    samples: int  # resamples that were drawn
    left_out: int  # of them, because the value was not defined there
    why: str = ""


class Sensitivity(NamedTuple):
    """The mean of several sensitivities and what it is made of."""

    mean: float | None
    n: int  # metrics in the mean
    each: dict[str, float | None]


def mean_sd(values: Values, ddof: int = 1) -> tuple[float | None, float | None]:
    """Mean and standard deviation; ddof 1 divides by n - 1 (the sample's), 0 by n.

    No values: no mean. n <= ddof: no deviation. A value that is NaN or infinite is a ValueError.
    """
    numbers = _numbers(values, "values")
    mean = float(numbers.mean()) if len(numbers) else None
    return mean, float(numbers.std(ddof=ddof)) if len(numbers) > ddof else None


def paired_t(a: Values, b: Values, alternative: Alternative = "two-sided") -> Test:
    """Student's t-test of the differences a - b, as in paper 1: 5 folds, 4 degrees of freedom.

    It takes the folds for independent, which they are not (see `corrected_t`). p is None with less
    than two pairs, and where all differences are equal. ValueError: lengths differ, NaN, or an
    alternative of another name (so too in the other tests).
    """
    check_alternative(alternative)
    difference = _differences(a, b)
    name, why = "paired t-test", _no_t(difference, a, b)
    if why:
        return _undefined(name, difference, alternative, why)
    test = stats.ttest_1samp(difference, 0.0, alternative=alternative)
    return Test(
        name,
        float(test.statistic),
        float(test.pvalue),
        len(difference) - 1,
        len(difference),
        float(difference.mean()),
        alternative,
    )


def corrected_t(
    a: Values, b: Values, test_share: float, alternative: Alternative = "two-sided"
) -> Test:
    """The paired t-test for folds that share training data (Nadeau and Bengio 2003).

    test_share is n_test / n_train of a fold, of what was really trained on: 1 / (k - 1) for k
    folds, more where some of the others are held out. The variance of the mean difference is
    (1 / n + test_share) of that of the differences, not 1 / n: with 5 folds t is 1.5 times smaller.
    test_share 0 gives `paired_t`, and what is not defined there is not here.
    """
    if not 0 <= test_share < np.inf:
        raise ValueError(
            "test_share is n_test / n_train of a fold, 1 / (k - 1) for k folds when all others are"
            f" trained on; got {test_share}"
        )
    name = f"corrected paired t-test (test share {test_share:.4g})"
    plain = paired_t(a, b, alternative)
    if plain.statistic is None:
        return plain._replace(name=name)
    t = plain.statistic / float(np.sqrt(1 + plain.n * test_share))
    upper = {"two-sided": 2 * stats.t.sf(abs(t), plain.df), "greater": stats.t.sf(t, plain.df)}
    p = upper.get(alternative, stats.t.cdf(t, plain.df))
    return plain._replace(name=name, statistic=t, p=float(p))


def wilcoxon(a: Values, b: Values, alternative: Alternative = "two-sided") -> Test:
    """Wilcoxon's signed-rank test of the differences a - b.

    With n = 5 the least p is 1/32 one-sided and 0.0625 two-sided: five folds cannot reach 0.05
    two-sided, whatever they show. Differences of 0 are left out (Wilcoxon's own way) and n is what
    remains. Differences that rounding made of 0, or of equal ones, count as 0 and as equal: those
    within 1e-12 of the largest value. p is exact up to 13 differences, equal ones among them or
    not, by counting all signs; beyond as SciPy's "auto". The statistic is SciPy's: the sum of the
    ranks of the positive differences, two-sided the smaller of both sums.
    """
    check_alternative(alternative)
    difference = _differences(a, b)
    moved = _with_ties(difference[difference != 0], _near(a, b))
    name = "Wilcoxon signed-rank test"
    if len(difference) < 2 or not len(moved):
        why = f"n = {len(difference)}" if len(difference) < 2 else "all differences are 0"
        return _undefined(name, difference, alternative, why)
    method = stats.PermutationMethod() if len(moved) <= ALL_SIGNS else "auto"
    method = "exact" if len(moved) == 1 else method  # SciPy permutes two or more
    test = stats.wilcoxon(moved, alternative=alternative, method=method)
    return Test(
        name,
        float(test.statistic),
        float(test.pvalue),
        None,
        len(moved),
        float(difference.mean()),
        alternative,
    )


def holm(ps: Sequence[float | int | None]) -> list[float | None]:
    """p-values adjusted for being many (Holm 1979), in the order given.

    The i-th smallest of m is multiplied by m - i + 1, is no less than those before it, and no more
    than 1. None stays None and is not counted in m.
    """
    known = [i for i, p in enumerate(ps) if p is not None]
    values = _numbers([ps[i] for i in known], "p-values")
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"p-values lie in [0, 1]; got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1))
    adjusted: list[float | None] = [None] * len(ps)
    for place, step in zip(order, steps, strict=True):
        adjusted[known[place]] = min(float(step), 1.0)
    return adjusted


def bootstrap(
    statistic: Callable[[Int[np.ndarray, "S P"]], Float[np.ndarray, "S T"]],
    patients: int,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
) -> tuple[Interval, ...]:
    """Confidence intervals of T metrics when other patients might have come.

    Patients are drawn with replacement, all slices of one together: row s of the weights [S, P]
    says how often each was drawn, and `statistic` returns the T metrics under those weights
    (`resampled.average_precision_resampled` does), NaN where one is not defined. Weights of ones
    give the value itself. A difference of two models is a statistic too.

    "percentile" are the quantiles of the resamples; "bca" corrects them for bias and for a spread
    that grows with the value (Efron 1987), leaving out one patient at a time. The same seed gives
    the same intervals.

    No interval (None), with the reason: fewer than two patients; no value; a value in fewer than
    nine tenths of the resamples; for "bca", all resamples on one side of the value, or no patient
    that matters when left out.
    """
    if patients < 0 or samples < 1 or not 0 < level < 1:
        raise ValueError(
            "bootstrap wants patients from 0, samples from 1 and a level between 0 and 1; got"
            f" {patients}, {samples} and {level}"
        )
    if method not in ("percentile", "bca"):
        raise ValueError(f"method wants 'percentile' or 'bca'; got {method!r}")
    values = statistic(np.ones((1, patients), np.int64))[0]
    if patients < 2:
        drawn, without = np.full((2, samples, len(values)), np.nan)
    else:
        drawn = statistic(_draws(patients, samples, seed))
        one_less = np.ones((patients, patients), np.int64) - np.eye(patients, dtype=np.int64)
        without = statistic(one_less) if method == "bca" else np.zeros((0, len(values)))
    return tuple(
        _interval(float(value), drawn[:, t], without[:, t], level, method, patients)
        for t, value in enumerate(values)
    )


def sensitivity(unregistered: float | int | None, registered: float | int | None) -> float | None:
    """1 - unregistered / registered: the share of a performance that misalignment costs.

    Lee 2021, Eq. 6; above 0 is a loss. None where a performance is None or the registered one 0, or
    so near to 0 that the quotient is infinite.
    """
    if unregistered is None or not registered:
        return None
    _numbers([unregistered, registered], "performances")
    lost = 1 - float(unregistered) / float(registered)
    return lost if np.isfinite(lost) else None


def eight_metrics(val: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, float | None]:
    """Paper 2's eight metrics by name, from a row of `comparison.compare` of val and one of test.

    Such rows are the "protocols" of a file of `jaxdet evaluate`. ValueError: rows of two protocols,
    whose numbers are not comparable, or a row without one of the numbers.
    """
    if val.get("protocol") != test.get("protocol"):
        raise ValueError(
            "val and test want rows of one protocol; got"
            f" {val.get('protocol')!r} and {test.get('protocol')!r}"
        )
    rows, found = {"val": val, "test": test}, {}
    for name, (split, overlap, threshold) in EIGHT_METRICS.items():
        key = f"{overlap}{100 * threshold:.0f}"
        if key not in rows[split]:
            raise ValueError(f"{name} wants {key} in the row of {split}; it has {[*rows[split]]}")
        found[name] = rows[split][key]
    return found


def mean_sensitivity(
    unregistered: Mapping[str, float | int | None],
    registered: Mapping[str, float | int | None],
    metrics: Sequence[str] = tuple(EIGHT_METRICS),
) -> Sensitivity:
    """The mean of the sensitivities to misalignment over paper 2's eight metrics (Table I).

    Both give a performance for every name of `metrics`; one missing is a ValueError. Sensitivities
    that are not defined are not in the mean, and `n` says how many are.
    """
    lacking = [name for name in metrics if name not in unregistered or name not in registered]
    if lacking:
        raise ValueError(f"a performance is wanted for every metric; {', '.join(lacking)} lacks")
    each = {name: sensitivity(unregistered[name], registered[name]) for name in metrics}
    known = [value for value in each.values() if value is not None]
    return Sensitivity(mean_sd(known)[0], len(known), each)


def check_alternative(alternative: str) -> None:
    """ValueError for a word that is no Alternative; SciPy sees it only where a test is defined."""
    if alternative not in get_args(Alternative):
        words = ", ".join(map(repr, get_args(Alternative)))
        raise ValueError(f"alternative wants one of {words}; got {alternative!r}")


def p_text(test: Test) -> str:
    """ "p = 0.012", "p < 0.001" or "n/a (n = 1)"."""
    if test.p is None:
        return f"n/a ({test.why})"
    return "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"


def mean_sd_text(values: Values, ddof: int = 1, digits: int = 1) -> str:
    """ "73.7 +- 3.4 (SD, ddof 1, n 5)"; "73.7 (SD n/a, n 1)"; "n/a (n = 0)"."""
    mean, sd = mean_sd(values, ddof)
    if mean is None:
        return "n/a (n = 0)"
    if sd is None:
        return f"{mean:.{digits}f} (SD n/a, n {len(values)})"
    return f"{mean:.{digits}f} +- {sd:.{digits}f} (SD, ddof {ddof}, n {len(values)})"


def interval_text(interval: Interval, digits: int = 3) -> str:
    """ "0.614 to 0.752 (95 % bca, 41 patients)", with what was left out; "n/a (1 patient)"."""
    if interval.low is None or interval.high is None:
        return f"n/a ({interval.why})"
    least, most = f"{interval.low:.{digits}f}", f"{interval.high:.{digits}f}"
    lost = f", {interval.left_out} of {interval.samples} resamples left out"
    lost = lost if interval.left_out else ""
    which = f"{100 * interval.level:g} % {interval.method}, {interval.patients} patients"
    return f"{least} to {most} ({which}{lost})"


def _numbers(values: Values, what: str) -> Float[np.ndarray, "N"]:
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"{what} want one dimension; got the shape {numbers.shape}")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(
            f"{what} want finite numbers; number {bad[0]} (counted from 0) is {values[bad[0]]}:"
            " leave it out, and its partner in a pair too"
        )
    return numbers


def _differences(a: Values, b: Values) -> Float[np.ndarray, "N"]:
    left, right = _numbers(a, "values a"), _numbers(b, "values b")
    if len(left) != len(right):
        raise ValueError(
            f"a paired test wants both values of every fold; got {len(left)} and {len(right)}"
        )
    difference = left - right
    difference[np.abs(difference) <= _near(a, b)] = 0.0
    return difference


def _near(a: Values, b: Values) -> float:
    """Differences that are no further from each other differ by rounding only."""
    return NO_SPREAD * max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))


def _with_ties(moved: Float[np.ndarray, "N"], near: float) -> Float[np.ndarray, "N"]:
    """Differences, of which those that rounding only keeps apart in size have one size."""
    sizes = np.sort(np.abs(moved))
    # Not rounded to a grid: two sizes as near as can be may lie on both sides of its border.
    first = sizes[np.diff(sizes, prepend=-np.inf) > near]
    return np.copysign(first[np.searchsorted(first, np.abs(moved), "right") - 1], moved)


def _no_t(difference: np.ndarray, a: Values, b: Values) -> str:
    """Why these differences have no t; "" where they have."""
    if len(difference) < 2:
        return f"n = {len(difference)}"
    if not difference.any():
        return "all differences are 0"
    if np.ptp(difference) <= _near(a, b):
        return f"all differences are {difference[0]:.4g}"
    return ""


def _undefined(name: str, difference: np.ndarray, alternative: Alternative, why: str) -> Test:
    mean = float(difference.mean()) if len(difference) else None
    return Test(name, None, None, None, len(difference), mean, alternative, why)


def _draws(patients: int, samples: int, seed: int) -> Int[np.ndarray, "S P"]:
    """How often each patient is drawn in each resample."""
    picks = np.random.default_rng(seed).integers(0, patients, (samples, patients))
    flat = (picks + np.arange(samples)[:, None] * patients).ravel()
    return np.bincount(flat, minlength=samples * patients).reshape(samples, patients)


def _interval(
    value: float,
    drawn: Float[np.ndarray, "S"],
    without: Float[np.ndarray, "_"],
    level: float,
    method: str,
    patients: int,
) -> Interval:
    kept = drawn[~np.isnan(drawn)]
    lost = len(drawn) - len(kept)
    shares = np.array([(1 - level) / 2, (1 + level) / 2])
    why = ""
    if patients < 2:
        lost, why = 0, f"{patients} patient{'s' if patients != 1 else ''}"
    elif np.isnan(value):
        why = "not defined for these patients"
    elif lost > MOST_LEFT_OUT * len(drawn):
        why = f"not defined in {lost} of {len(drawn)} resamples"
    elif method == "bca":
        shares, why = _bca(value, kept, without, shares)
    low, high = (None, None) if why else map(float, np.quantile(kept, shares))
    known = None if np.isnan(value) else value
    return Interval(known, low, high, level, method, patients, len(drawn), lost, why)


def _bca(
    value: float, kept: np.ndarray, without: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, str]:
    """The shares of the resamples between which the interval lies, or why there are none."""
    below = ((kept < value).mean() + (kept <= value).mean()) / 2
    if below in (0, 1):
        return shares, "all resamples lie on one side of the value"
    if np.isnan(without).any():
        return shares, "not defined without one of the patients"
    pull = without.mean() - without
    if not pull.any():
        return shares, "no patient changes the value when left out"
    growth = np.sum(pull**3) / (6 * np.sum(pull**2) ** 1.5)
    bias = stats.norm.ppf(below)
    reach = bias + stats.norm.ppf(shares)
    return stats.norm.cdf(bias + reach / (1 - growth * reach)), ""

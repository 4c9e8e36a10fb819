"""Statistics against SciPy, against definitions and by hand; what is not defined is None."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jaxdet.metrics import statistics as st
from jaxdet.metrics.average_precision import judge, prepare
from jaxdet.metrics.comparison import compare
from jaxdet.metrics.protocols import PROTOCOLS
from jaxdet.metrics.resampled import average_precision_resampled

A = [77.1, 79.0, 74.2, 78.8, 76.9]
B = [73.0, 77.5, 70.1, 78.9, 69.0]
ALTERNATIVES = ["two-sided", "greater", "less"]
TESTS = [st.paired_t, st.wilcoxon, lambda a, b, **kw: st.corrected_t(a, b, 0.25, **kw)]


def folds(seed, n):
    rng = np.random.default_rng(seed)
    return rng.normal(70, 3, n), rng.normal(69, 3, n)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("n", [2, 5, 12, 40, 60])
def test_t_and_wilcoxon_equal_scipy(alternative, n):
    a, b = folds(n, n)
    got, want = st.paired_t(a, b, alternative), stats.ttest_rel(a, b, alternative=alternative)
    assert got.statistic == pytest.approx(want.statistic, rel=1e-12)
    assert got.p == pytest.approx(want.pvalue, rel=1e-12)
    assert (got.df, got.n, got.difference) == (n - 1, n, pytest.approx((a - b).mean()))
    got, want = st.wilcoxon(a, b, alternative), stats.wilcoxon(a, b, alternative=alternative)
    assert got.statistic == pytest.approx(want.statistic, rel=1e-12)
    assert got.p == pytest.approx(want.pvalue, rel=1e-12)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("k", [2, 5, 10])
def test_corrected_t_is_the_formula(alternative, k):
    a, b = folds(k, k)
    share = 1 / (k - 1)
    t = (a - b).mean() / math.sqrt((1 / k + share) * (a - b).var(ddof=1))
    tail = {"two-sided": 2 * stats.t.sf(abs(t), k - 1), "greater": stats.t.sf(t, k - 1)}
    got = st.corrected_t(a, b, share, alternative)
    assert got.statistic == pytest.approx(t, rel=1e-12)
    assert got.p == pytest.approx(tail.get(alternative, stats.t.cdf(t, k - 1)), rel=1e-12)
    plain = st.paired_t(a, b, alternative)
    uncorrected = st.corrected_t(a, b, 0.0, alternative)
    assert uncorrected[1:3] == pytest.approx(plain[1:3], rel=1e-12)


def test_corrected_t_with_five_folds_is_one_and_a_half_times_smaller():
    assert st.corrected_t(A, B, 0.25).statistic == pytest.approx(
        st.paired_t(A, B).statistic / 1.5, rel=1e-12
    )
    with pytest.raises(ValueError, match="n_test / n_train"):
        st.corrected_t(A, B, float("nan"))


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_the_other_way_round(alternative):
    turned = {"greater": "less", "less": "greater"}.get(alternative, alternative)
    for test in TESTS:
        there, back = test(A, B, alternative=alternative), test(B, A, alternative=turned)
        assert there.p == pytest.approx(back.p, rel=1e-12)
        assert there.difference == -back.difference


def test_wilcoxon_of_five_folds_cannot_go_below_a_sixteenth():
    better = [b + 10 + i for i, b in enumerate(B)]
    assert st.wilcoxon(better, B).p == pytest.approx(0.0625)
    assert st.wilcoxon(better, B, "greater").p == pytest.approx(1 / 32)
    assert st.paired_t(better, B).p < 0.001
    # Neither do equal differences make it smaller.
    assert st.wilcoxon([2.0, 3, 4, 5, 6], [1.0, 2, 3, 4, 4]).p == pytest.approx(0.0625)


def test_wilcoxon_leaves_zeros_out_and_counts_all_signs_of_equal_ones():
    a, b = [1.0, 2, 3, 4, 9, 5], [1.0, 1, 2, 5, 5, 5]  # differences 0, 1, 1, -1, 4, 0
    got = st.wilcoxon(a, b)
    assert got.n == 4 and got.difference == pytest.approx(5 / 6)
    # Ranks 2, 2, 2, 4: the sum of the positive ones is 8 here; of the 16 sums those are as far.
    ranks = np.array([2, 2, 2, 4])
    sums = np.array([ranks @ [(i >> j) & 1 for j in range(4)] for i in range(16)])
    assert got.p == pytest.approx(min(1, 2 * (sums >= 8).mean()))


def test_undefined_tests_say_why():
    for test in TESTS:
        for values, why in [([], "n = 0"), ([1.0], "n = 1")]:
            got = test(values, values)
            assert (got.statistic, got.p, got.df, got.why) == (None, None, None, why)
        assert test(A, A).why == "all differences are 0"
        assert test(A, A).p is None and test(A, A).difference == 0
    # 0.3 - 0.2 is not 0.2 - 0.1 in floats, but no deviation either.
    equal = st.paired_t([0.2, 0.3, 1.1], [0.1, 0.2, 1.0])
    assert equal.p is None and equal.why == "all differences are 0.1"
    assert st.paired_t([], []).difference is None


def test_rounding_is_no_difference():
    noise = [0.1 + 0.2] * 5  # 0.30000000000000004
    for test in TESTS:
        got = test(noise, [0.3] * 5)
        assert (got.p, got.difference, got.why) == (None, 0.0, "all differences are 0")
    # One that is 0 but for rounding, and four of 0.1 that rounding keeps apart.
    a, b = [0.1 + 0.2, 0.7, 0.8, 0.9, 0.5], [0.3, 0.6, 0.7, 0.8, 0.6]
    assert len({abs(x - y) for x, y in zip(a, b, strict=True)}) > 2
    for alternative in ALTERNATIVES:
        got = st.wilcoxon(a, b, alternative)
        want = st.wilcoxon([3.0, 7, 8, 9, 5], [3.0, 6, 7, 8, 6], alternative)
        assert (got.n, got.statistic) == (want.n, want.statistic) == (4, got.statistic)
        assert got.p == pytest.approx(want.p, rel=1e-12)
    # Small next to the values is no noise yet.
    assert st.wilcoxon([1 + 1e-9, 1.0, 1 + 3e-9], [1.0, 1 + 2e-9, 1.0]).n == 3


def unchecked(function):
    """Without the check of annotations, which tests switch on and users do not have."""
    return getattr(function, "__wrapped__", function)


@pytest.mark.parametrize("values", [(A, B), (A, A), ([], [])])
def test_an_alternative_that_there_is_not(values, monkeypatch):
    monkeypatch.setattr(st, "paired_t", unchecked(st.paired_t))  # corrected_t calls it
    for test, rest in [(st.paired_t, ()), (st.corrected_t, (0.25,)), (st.wilcoxon, ())]:
        with pytest.raises(ValueError, match="one of 'two-sided', 'greater', 'less'; got 'grater'"):
            unchecked(test)(*values, *rest, "grater")


@pytest.mark.parametrize("test", TESTS)
def test_values_that_tests_refuse(test):
    with pytest.raises(ValueError, match="both values of every fold; got 5 and 4"):
        test(A, B[:4])
    with pytest.raises(ValueError, match=r"number 1 \(counted from 0\) is nan"):
        test(A, [*B[:1], float("nan"), *B[2:]])
    with pytest.raises(ValueError, match="values a want one dimension"):
        test(np.zeros((2, 2)), B)


def test_mean_sd():
    assert st.mean_sd(A) == pytest.approx((np.mean(A), np.std(A, ddof=1)), rel=1e-12)
    assert st.mean_sd(A, ddof=0) == pytest.approx((np.mean(A), np.std(A)), rel=1e-12)
    assert st.mean_sd([]) == (None, None)
    assert st.mean_sd([3.0]) == (3.0, None)
    assert st.mean_sd([3.0], ddof=0) == (3.0, 0.0)
    assert st.mean_sd([2.0, 2.0]) == (2.0, 0.0)
    with pytest.raises(ValueError, match=r"number 1 .* is inf: leave it out"):
        st.mean_sd([1.0, float("inf")])
    with pytest.raises(ValueError, match=r"number 1 .* is None: leave it out"):
        st.mean_sd(np.array([1.0, None]))


def test_holm_by_hand():
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert st.holm([0.9, 0.8]) == [1.0, 1.0]
    assert st.holm([]) == [] and st.holm([None]) == [None]
    for bad, message in [(1.5, r"lie in \[0, 1\]"), (float("nan"), "finite")]:
        with pytest.raises(ValueError, match=message):
            st.holm([0.1, bad])


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_its_definition(seed):
    """Adjusted p <= level if and only if the step-down procedure at that level rejects."""
    rng = np.random.default_rng(seed)
    ps = np.round(rng.random(7) ** 3, 2).tolist()  # rounded: some are equal
    adjusted = st.holm(ps)
    for level in (0.011, 0.051, 0.21):
        rejected = set()
        for step, i in enumerate(np.argsort(ps, kind="stable")):
            if ps[i] > level / (len(ps) - step):
                break
            rejected.add(int(i))
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bootstrap_equals_scipy_on_the_same_resamples(method, level):
    values = np.random.default_rng(3).exponential(2, 25)

    def moments(weights):
        mean = weights @ values / weights.sum(axis=1)
        return np.stack([mean, weights @ values**2 / weights.sum(axis=1) - mean**2], axis=1)

    got = st.bootstrap(moments, len(values), 500, seed=7, level=level, method=method)
    for interval, statistic in zip(got, (np.mean, np.var), strict=True):
        # Both draw integers(0, n, (samples, n)) from the same generator.
        want = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=500,
            confidence_level=level,
            method=method,
            rng=np.random.default_rng(7),
        ).confidence_interval
        assert (interval.low, interval.high) == pytest.approx(tuple(want), rel=1e-12)
        assert interval.value == pytest.approx(statistic(values))
        assert (interval.left_out, interval.why, interval.patients) == (0, "", 25)


def first_column(column):
    return lambda weights: np.where(weights.sum(axis=1) > 0, column(weights), np.nan)[:, None]


def test_bootstrap_without_an_interval_says_why():
    constant = first_column(lambda w: np.full(len(w), 0.5))
    for patients, why in [(0, "0 patients"), (1, "1 patient")]:
        got = st.bootstrap(constant, patients, 50)[0]
        assert (got.low, got.high, got.why) == (None, None, why)
    assert st.bootstrap(constant, 1, 50)[0].value == 0.5
    assert st.bootstrap(constant, 0, 50)[0].value is None
    flat = st.bootstrap(constant, 4, 50)[0]
    assert (flat.low, flat.high) == (0.5, 0.5)
    assert "no patient changes" in st.bootstrap(constant, 4, 50, method="bca")[0].why
    most = first_column(lambda w: w.max(axis=1) * 1.0)  # 1 for the ones, mostly more when drawn
    assert "one side" in st.bootstrap(most, 20, 50, method="bca")[0].why
    # Defined only when patient 0 was drawn: not so in (1 - 1 / 3)^3 of the resamples.
    rare = first_column(lambda w: np.where(w[:, 0] > 0, 1.0, np.nan))
    got = st.bootstrap(rare, 3, 2000)[0]
    assert got.left_out / 2000 == pytest.approx(8 / 27, abs=0.03)
    assert got.why == f"not defined in {got.left_out} of 2000 resamples" and got.low is None
    never = first_column(lambda w: np.full(len(w), np.nan))
    assert st.bootstrap(never, 3, 10)[0].why == "not defined for these patients"


def test_bootstrap_leaves_a_few_resamples_out():
    # Lacking both of two patients of ten is rare enough: (1 - 2 / 10)^10 is 11 %, of three 3 %.
    three = first_column(lambda w: np.where(w[:, :3].sum(axis=1) > 0, w[:, 0] * 1.0, np.nan))
    got = st.bootstrap(three, 10, 1000)[0]
    assert 0 < got.left_out < 60 and got.low is not None
    assert f"{got.left_out} of 1000 resamples left out" in st.interval_text(got)


def test_bootstrap_of_average_precision():
    rng = np.random.default_rng(0)
    box = np.array([[0.0, 0, 10, 10]])
    truths = [(box, np.array([0]))] * 30
    detections = [(box + 20 * (rng.random() < 0.4), rng.random(1), np.array([0])) for _ in truths]
    levels, rules, patient = np.array([0.5]), PROTOCOLS["coco"], np.arange(30) // 3
    verdict = judge(prepare(detections, truths, rules, "iou"), levels, rules)

    def ap(weights):
        return average_precision_resampled(verdict, rules, patient, weights)

    for method in ("percentile", "bca"):
        got = st.bootstrap(ap, 10, 300, method=method)[0]
        assert got.low < got.value < got.high and got.why == ""
        assert got == st.bootstrap(ap, 10, 300, method=method)[0]
    assert got != st.bootstrap(ap, 10, 300, seed=1, method="bca")[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patients": -1}, "patients from 0"),
        ({"samples": 0}, "samples from 1"),
        ({"level": 1.0}, "between 0 and 1"),
    ],
)
def test_bootstrap_refuses(changed, message):
    wanted = {"patients": 3, "samples": 10, "level": 0.95} | changed
    with pytest.raises(ValueError, match=message):
        st.bootstrap(lambda weights: np.zeros((len(weights), 1)), **wanted)


def test_sensitivity_is_table_s2():
    # GSSD, non-rigid, val IoU30: 11.15 % (facts, gssd_baselines 8.8).
    assert round(100 * st.sensitivity(56.58, 63.68), 2) == 11.15
    assert st.sensitivity(70.0, 70.0) == 0
    assert st.sensitivity(70.0, 0.0) is None
    assert st.sensitivity(0.1, 1e-320) is None
    assert st.sensitivity(None, 60.0) is None and st.sensitivity(60.0, None) is None
    with pytest.raises(ValueError, match="performances want finite numbers"):
        st.sensitivity(float("nan"), 60.0)


def test_mean_sensitivity_counts_what_is_defined():
    unregistered = {name: 40.0 + i for i, name in enumerate(st.EIGHT_METRICS)}
    registered = dict.fromkeys(st.EIGHT_METRICS, 50.0)
    got = st.mean_sensitivity(unregistered, registered)
    assert got.n == 8 and got.mean == pytest.approx(1 - 43.5 / 50)
    got = st.mean_sensitivity(unregistered, registered | {"val IoU70": 0.0})
    assert got.n == 7 and got.each["val IoU70"] is None
    assert got.mean == pytest.approx(1 - (sum(range(40, 48)) - 42) / 7 / 50)
    nothing = st.mean_sensitivity(unregistered, dict.fromkeys(st.EIGHT_METRICS, 0.0))
    assert (nothing.mean, nothing.n) == (None, 0)
    with pytest.raises(ValueError, match="test IoBB50"):
        st.mean_sensitivity(unregistered, {k: 1.0 for k in list(registered)[:7]})


def test_eight_metrics_of_the_rows_of_a_comparison():
    box = np.array([[10.0, 10, 30, 30]])
    val = [(box, [0.9], [0]), (box + 4, [0.8], [0])]
    test = [(box, [0.9], [0]), (box + 12, [0.8], [0])]
    rows = [
        next(row for row in compare(found, [(box, [0])] * 2) if row["protocol"] == "l0sg")
        for found in (val, test)
    ]
    got = st.eight_metrics(*rows)
    assert tuple(got) == tuple(st.EIGHT_METRICS)
    rules = PROTOCOLS["l0sg"]
    for name, (split, overlap, threshold) in st.EIGHT_METRICS.items():
        found = {"val": val, "test": test}[split]
        cases = prepare(found, [(box, [0])] * 2, rules, overlap)
        verdict, once = judge(cases, np.array([threshold]), rules), np.ones((1, 2), np.int64)
        want = average_precision_resampled(verdict, rules, np.arange(2), once)
        assert got[name] == pytest.approx(want.item())
    assert got["val IoU30"] == 1 and got["val IoU70"] < 1 and got["test IoU50"] < 1
    with pytest.raises(ValueError, match="rows of one protocol; got 'l0sg' and 'coco'"):
        st.eight_metrics(rows[0], rows[1] | {"protocol": "coco"})
    with pytest.raises(ValueError, match="test IoBB50 wants iobb50 in the row of test"):
        st.eight_metrics(rows[0], {k: v for k, v in rows[1].items() if k != "iobb50"})


def test_texts():
    assert st.p_text(st.paired_t([1.0], [2.0])) == "n/a (n = 1)"
    assert st.p_text(st.paired_t(A, B)._replace(p=0.01249)) == "p = 0.012"
    assert st.p_text(st.paired_t(A, B)._replace(p=0.00099)) == "p < 0.001"
    assert st.mean_sd_text([70.3, 73.7, 77.1]) == "73.7 +- 3.4 (SD, ddof 1, n 3)"
    assert st.mean_sd_text([0.703, 0.771], ddof=0, digits=3) == "0.737 +- 0.034 (SD, ddof 0, n 2)"
    assert st.mean_sd_text([73.7]) == "73.7 (SD n/a, n 1)"
    assert st.mean_sd_text([]) == "n/a (n = 0)"
    interval = st.Interval(0.7, 0.6143, 0.7516, 0.95, "bca", 41, 2000, 0)
    assert st.interval_text(interval) == "0.614 to 0.752 (95 % bca, 41 patients)"
    alone = interval._replace(low=None, high=None, why="1 patient")
    assert st.interval_text(alone) == "n/a (1 patient)"


@pytest.mark.parametrize(
    ("alternative", "up", "down"), [("two-sided", 1, 1), ("greater", 0.5, 1), ("less", 1, 0.5)]
)
def test_wilcoxon_where_only_one_pair_differs(alternative, up, down):
    # One sign: above or below with probability one half each.
    more, same = [0.1, 0.2, 0.4], [0.1, 0.2, 0.3]
    assert st.wilcoxon(more, same, alternative).p == pytest.approx(up)
    assert st.wilcoxon(same, more, alternative).p == pytest.approx(down)


def test_every_pattern_of_zeros_and_signs_has_an_answer():
    for signs in itertools.product((-1, 0, 1), repeat=4):
        a = np.array(signs) * [0.1, 0.2, 0.3, 0.4]
        for alternative in ("two-sided", "greater", "less"):
            tests = (
                st.wilcoxon(a, np.zeros(4), alternative),
                st.paired_t(a, np.zeros(4), alternative),
                st.corrected_t(a, np.zeros(4), 0.3, alternative),
            )
            for test in tests:
                assert (test.p is None) == (not any(signs)) and (test.p is None or 0 < test.p <= 1)

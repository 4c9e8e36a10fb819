"""Two cross-validations of the same folds, compared pair by pair."""

import json

import numpy as np
import pytest
from scipy import stats

from jaxdet.study import kept, versus

OURS = [0.71, 0.64, 0.80, 0.69, 0.75]
THEIRS = [0.66, 0.65, 0.71, 0.60, 0.72]


def rows(values, name="ap50"):
    return [{"fold": i, name: value} for i, value in enumerate(values)]


def test_tests_equal_scipy():
    told = versus.compare(rows(OURS), [versus.Rival("other", rows(THEIRS))], ["ap50"], 0.25)
    assert [one["rival"] for one in told] == ["other"]
    row = told[0]["metrics"][0]
    assert (row["metric"], row["folds"]) == ("ap50", [0, 1, 2, 3, 4])
    assert row["ours"] == pytest.approx(np.mean(OURS), abs=1e-15)
    assert row["theirs"] == pytest.approx(np.mean(THEIRS), abs=1e-15)
    assert row["difference"] == pytest.approx(np.mean(OURS) - np.mean(THEIRS), abs=1e-15)
    two, one = (stats.ttest_rel(OURS, THEIRS, alternative=a) for a in ("two-sided", "greater"))
    assert row["paired_t"]["p"] == pytest.approx(two.pvalue, abs=1e-12)
    assert row["paired_t_greater"]["p"] == pytest.approx(one.pvalue, abs=1e-12)
    # Nadeau and Bengio: the variance of the mean times (1/k + 1/(k-1)) / (1/k) = 1 + 5/4.
    p = 2 * stats.t.sf(two.statistic / 1.5, 4)
    assert row["corrected_t"]["p"] == pytest.approx(p, abs=1e-12)
    assert row["wilcoxon"]["p"] == pytest.approx(stats.wilcoxon(OURS, THEIRS).pvalue, abs=1e-12)
    assert row["corrected_t"]["holm"] == row["corrected_t"]["p"]  # the only test of the table
    assert json.loads(json.dumps(told)) == told


def test_holm_is_over_rivals_and_metrics_a_kind_of_test_at_a_time():
    ours = [{"fold": i, "ap50": a, "ap75": a / 2} for i, a in enumerate(OURS)]
    theirs = [{"fold": i, "ap50": b, "ap75": b / 3} for i, b in enumerate(THEIRS)]
    worse = [{"fold": i, "ap50": b / 2, "ap75": b / 9} for i, b in enumerate(THEIRS)]
    rivals = [versus.Rival("a", theirs), versus.Rival("b", worse)]
    told = versus.compare(ours, rivals, ["ap50", "ap75"], 0.25)
    for test in versus.TESTS:
        four = [row[test] for one in told for row in one["metrics"]]
        p = [one["p"] for one in four]
        assert [one["holm"] for one in four][np.argmin(p)] == pytest.approx(4 * min(p), abs=1e-12)
        assert all(one["holm"] >= one["p"] for one in four)


def test_folds_are_paired_by_their_numbers():
    ours = rows(OURS)
    told = [
        versus.compare(ours, [versus.Rival("b", theirs)], ["ap50"], 0.25)
        for theirs in (rows(THEIRS), rows(THEIRS)[::-1])
    ]
    assert told[0] == told[1]


def test_what_val_takes_makes_the_test_share_larger():
    """Bouckaert and Frank 2004, eq. for resampling: t = mean / sqrt((1 / J + n2 / n1) s^2)."""
    train, test = 70, 20  # images, of 100; the other 10 choose the weights
    row = versus.compare(rows(OURS), [versus.Rival("b", rows(THEIRS))], ["ap50"], test / train)
    d = np.subtract(OURS, THEIRS)
    t = d.mean() / np.sqrt((0.2 + 2 / 7) * d.var(ddof=1))
    told = row[0]["metrics"][0]["corrected_t"]
    assert told["statistic"] == pytest.approx(t, abs=1e-12)
    assert told["p"] == pytest.approx(2 * stats.t.sf(t, 4), abs=1e-12)


def test_folds_without_a_value_are_left_out_of_both_sides():
    ours, theirs = [*OURS[:3], None, 0.4], [0.3, None, *THEIRS[2:]]
    row = versus.compare(rows(ours), [versus.Rival("b", rows(theirs))], ["ap50"], 0.25)[0][
        "metrics"
    ][0]
    assert row["folds"] == [0, 2, 4]
    assert row["ours"] == pytest.approx(np.mean([OURS[0], OURS[2], 0.4]))
    assert (row["paired_t"]["n"], row["paired_t"]["df"]) == (3, 2)


@pytest.mark.parametrize("ours", [[0.5, None], [None, None], [0.2, 0.3]])
def test_what_is_not_defined_says_why(ours):
    told = versus.compare(rows(ours), [versus.Rival("b", rows([0.2, 0.3]))], ["ap50"], 0.25)
    for test in versus.TESTS:
        row = told[0]["metrics"][0][test]
        assert (row["p"], row["holm"]) == (None, None)
        assert row["why"]
    assert "NaN" not in json.dumps(told)


def test_without_rivals_there_is_nothing_to_say():
    assert versus.compare(rows(OURS), [], ["ap50"], 0.25) == []


def test_overlaps_of_a_family_that_skips_empty_images_are_those_of_its_own_row():
    rows = [
        {"protocol": name, **dict.fromkeys(kept.OVERLAPS, value)}
        for name, value in (("l0sg", 0.25), ("fixed", 0.2), ("l0sg, PixelLink", 0.5))
    ]
    for name, value in (("l0sg", 0.25), ("l0sg, PixelLink", 0.5)):
        told = kept.under_overlaps({"protocol": name, "protocols": rows})
        assert told == dict.fromkeys(kept.OVERLAPS, value)

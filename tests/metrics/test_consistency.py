"""The consistency check against the facts of paper 1's Table 1, and against folds made up here."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest
from scipy import stats

from jaxdet.metrics.consistency import check

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts/reproduce/table1_tests.py"

# facts, pca_yolo 3.4: t, SD of the differences and r of the two-sided reading, r of the one-sided
FACTS = {
    "SPN-TS": (3.87, 3.70, 0.62, 0.22),
    "Swin-Unet": (7.17, 6.67, 0.08, -0.66),
    "RT-DETR": (8.61, 2.78, 0.64, 0.41),
    "RCS-YOLO": (4.37, 2.41, 1.12, 0.98),
    "YOLOv8x": (3.14, 2.50, 0.68, 0.41),
    "+ channel attention": (3.26, 2.26, 0.73, 0.51),
    "+ self-attention": (2.74, 1.96, 0.85, 0.66),
    "+ MTNet": (2.54, 2.03, 0.72, 0.46),
}
BOUNDS = {  # of p, two-sided, as the facts print them, as far as they do
    "SPN-TS": ("0.004", "0.107"),
    "Swin-Unet": ("0.0004", "0.0054"),
    "RT-DETR": ("0.0001", "0.015"),
    "RCS-YOLO": ("0.0186", "0.226"),
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("table1_tests_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(script, alternative, ddof):
    picked = [r for r in script.table() if (r["alternative"], r["ddof"]) == (alternative, ddof)]
    return {row["row"]: row for row in picked}


def test_table1_is_that_of_the_facts(script):
    two, one = rows_of(script, "two-sided", 1), rows_of(script, "greater", 1)
    assert two.keys() == FACTS.keys()
    for name, (t, sd, r, r_one) in FACTS.items():
        got = two[name]["t"], two[name]["sd_difference"], two[name]["correlation"]
        # Half a unit of the last printed digit: what rounding allows.
        np.testing.assert_allclose(got, (t, sd, r), rtol=0, atol=0.00501)
        assert one[name]["correlation"] == pytest.approx(r_one, abs=0.00501)
        assert one[name]["possible"]
    for name, bounds in BOUNDS.items():
        got = two[name]["least_p"], two[name]["most_p"]
        assert (
            tuple(f"{p:.{len(printed) - 2}f}" for p, printed in zip(got, bounds, strict=True))
            == bounds
        )
    assert [name for name, row in two.items() if not row["possible"]] == ["RCS-YOLO"]


def test_rcs_yolo_with_the_deviations_of_ddof_0(script):
    two, one = rows_of(script, "two-sided", 0), rows_of(script, "greater", 0)
    assert two["RCS-YOLO"]["least_p"] == pytest.approx(0.0266, abs=0.00005)
    assert one["RCS-YOLO"]["least_p"] == pytest.approx(0.0133, abs=0.00005)
    assert [name for name, row in one.items() if not row["possible"]] == ["RCS-YOLO"]


def test_no_other_decimal_gives_the_recovered_deviations(script):
    two, one = rows_of(script, "two-sided", 1), rows_of(script, "greater", 1)
    for name, (_, _, r, r_one) in FACTS.items():
        sds = np.round(np.arange(0.1, 20, 0.1), 1)
        sd_d = np.array([two[name]["sd_difference"], one[name]["sd_difference"]])[:, None]
        implied = (sds**2 + 2.1**2 - sd_d**2) / (2 * 2.1 * sds)
        fits = (np.abs(implied - np.array([[r], [r_one]])) <= 0.00501).all(axis=0)
        assert sds[fits].tolist() == [two[name]["sd"]]


def test_the_script_writes_what_it_prints(script, tmp_path, monkeypatch, capsys):
    out = tmp_path / "table1.json"
    monkeypatch.setattr(sys, "argv", ["table1_tests.py", "--out", str(out)])
    script.main()
    printed = capsys.readouterr().out
    assert json.loads(out.read_text())["rows"] == script.table()
    assert [line for line in printed.splitlines() if "IMPOSSIBLE" in line and "RCS-YOLO" in line]
    assert printed.count("IMPOSSIBLE") == 3


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_real_folds_are_always_possible(seed, ddof, alternative):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    shared = rng.normal(0, 4, n)
    a = 70 + rng.normal(0, 3) + shared + rng.normal(0, rng.choice([0.02, 1, 4]), n)
    b = 70 + shared * rng.choice([-1, 0, 1]) + rng.normal(0, 1, n)
    p = stats.ttest_rel(a, b, alternative=alternative).pvalue
    printed = [round(float(x), 1) for x in (a.mean(), a.std(ddof=ddof), b.mean(), b.std(ddof=ddof))]
    told = check(*printed, round(float(p), 3), n=n, ddof=ddof, alternative=alternative)
    assert told.least_p <= p <= told.most_p
    assert told.possible
    # Without rounding, what is implied is what the folds have.
    exact = [float(x) for x in (a.mean(), a.std(ddof=ddof), b.mean(), b.std(ddof=ddof))]
    told = check(*exact, float(p), n=n, ddof=ddof, alternative=alternative)
    assert told.t == pytest.approx(stats.ttest_rel(a, b).statistic, rel=1e-7)
    assert told.sd_difference == pytest.approx((a - b).std(ddof=ddof), rel=1e-7)
    assert told.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_bounds_are_reached(alternative):
    shape = np.array([-1.2, 0.3, 0.1, 1.9, -1.1])
    shape = (shape - shape.mean()) / shape.std(ddof=1)
    a = 77.2 + 2.1 * shape
    ps = [
        stats.ttest_rel(a, 73.7 + sign * 3.4 * shape, alternative=alternative).pvalue
        for sign in (1, -1)
    ]
    told = check(77.2, 2.1, 73.7, 3.4, 0.5, rounding=0.0, alternative=alternative)
    np.testing.assert_allclose([told.least_p, told.most_p], sorted(ps), rtol=1e-10)


def test_degenerate_numbers():
    same = check(70.0, 2.0, 70.0, 2.0, 1.0)
    assert (same.least_p, same.most_p, same.possible) == (0.0, 1.0, True)
    still = check(70.0, 0.0, 70.0, 0.0, 1.0, rounding=0.0)
    assert (still.least_p, still.most_p, still.correlation) == (1.0, 1.0, None)
    sure = check(70.0, 0.0, 60.0, 0.0, 0.0, rounding=0.0)
    assert sure == (None, None, None, 0.0, 0.0, True)
    wrong_way = check(60.0, 2.0, 70.0, 2.0, 0.01, alternative="greater")
    assert wrong_way.sd_difference is None and not wrong_way.possible


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 2}, "wants 3 folds or more; got 2"),
        ({"p": 1.2}, "from 0 to 1; got 1.2"),
        ({"p": float("nan")}, "p wants a finite number"),
        ({"mean_a": float("nan")}, "mean_a wants a finite number"),
        ({"sd_b": -1.0}, "sd_b wants a finite number.*got -1.0"),
        ({"rounding": -0.1}, "rounding wants"),
        ({"ddof": 2}, "ddof is 1 .* got 2"),
    ],
)
def test_what_makes_no_sense(changed, message):
    printed = {"mean_a": 77.2, "sd_a": 2.1, "mean_b": 73.7, "sd_b": 3.4, "p": 0.035}
    with pytest.raises(ValueError, match=message):
        check(**(printed | changed))


def test_an_alternative_that_there_is_not():
    with pytest.raises(ValueError, match="one of 'two-sided', 'greater', 'less'; got 'x'"):
        unchecked(check)(77.2, 2.1, 73.7, 3.4, 0.035, alternative="x")


def unchecked(function):
    """Without the check of annotations, which tests switch on and users do not have."""
    return getattr(function, "__wrapped__", function)

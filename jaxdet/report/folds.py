"""A cross-validation as plain text: its folds, their mean and SD, and tests against others."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdet.metrics import statistics
from jaxdet.report import errors, tables

_COUNTS = ("images", "patients", "truths")
_METRICS = {"precision": "P", "recall": "R", "ap50": "AP50", "ap75": "AP75", "ap50_95": "AP50-95"}
_OVERLAPS = {
    f"{overlap.lower()}{t}": f"{overlap}{t}" for overlap in ("IoU", "IoBB") for t in (30, 50, 70)
}
_TESTS = {"paired_t": "t", "paired_t_greater": "t, ours >", "corrected_t": "corrected t"}


def fold_table(result: Mapping[str, Any]) -> str:
    """The table of crossval.json: a row a fold, then the mean and the standard deviation.

    A number that is not defined is "-"; which folds a mean is without is said below. With rivals,
    their tests follow (`test_table`). Last come the verdicts of all folds together, a row for this
    one and one for each rival (`errors.audit_table`).
    """
    return "\n".join(
        [
            *_title(result),
            *_means(result, _COUNTS, _METRICS),
            *_left_out(result),
            "",
            "the same folds: AP at overlaps over the union (IoU) and over the detected box (IoBB)",
            *_means(result, (), _OVERLAPS),
            *(line for r in result["against"] for line in test_table(r, result["test_share"])),
            "",
            *_audits(result),
        ]
    )


def test_table(rival: Mapping[str, Any], test_share: float) -> list[str]:
    """Lines: every metric against one rival, as `versus.compare` gives it.

    Columns are p-values: t (paired, two-sided), one-sided (ours is larger), corrected t for folds
    that share training data (Nadeau and Bengio) with Holm's correction beside it, and Wilcoxon.
    Where a test is not defined there is n/a, and at the end of the row why.
    """
    head = ("metric", "folds", "ours", "theirs", "difference", *_TESTS.values(), "Holm", "Wilcoxon")
    rows = [
        (
            _METRICS[row["metric"]],
            str(len(row["folds"])),
            *(tables.cell(row[key]) for key in ("ours", "theirs")),
            "-" if row["difference"] is None else f"{row['difference']:+.4f}",
            *(_p(row[test], "p") for test in _TESTS),
            _p(row["corrected_t"], "holm"),
            _p(row["wilcoxon"], "p"),
        )
        for row in rival["metrics"]
    ]
    # Behind the table, or one long reason would widen a column of all rows.
    whys = ["", *map(_why, rival["metrics"])]
    lines = zip(tables.aligned([head, *rows]), whys, strict=True)
    title = (
        f"against {rival['rival']}: p-values of paired tests; corrected t has test share"
        f" {test_share:.3f}, Holm is of corrected t over all rivals and metrics"
    )
    return ["", title, *(line + why for line, why in lines)]


def _audits(result: Mapping[str, Any]) -> list[str]:
    """The verdicts of this one and of the rivals that were audited under the same overlaps."""
    same = ("protocol", "threshold", "least")
    ours, rivals = result["audit"], result["against"]
    alike = [r for r in rivals if all(r["audit"][key] == ours[key] for key in same)]
    rows = {"this": ours, **{f"against {r['rival']}": r["audit"] for r in alike}}
    left_out = [r["rival"] for r in rivals if r not in alike]
    return [errors.audit_table(rows)] + [
        f"{name} was audited under another protocol or other overlaps" for name in left_out
    ]


def _title(result: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{result['pooled'][key]} {key}" for key in _COUNTS)
    lines = [
        f"{result['k']} folds, selection {result['selection']}, digest {result['folds_digest']}",
        f"protocol {result['protocol']}; {counts}; P and R at IoU 0.5, each fold at the score of"
        f" its best F1; SD with ddof {result['ddof']}",
    ]
    if result["selection"] == "test_fold":
        lines.append("weights were chosen on the tested images: these numbers flatter")
    if result["split_unit"] == "slice":
        lines.append("images were dealt, not patients: who is tested was trained on; this flatters")
    return lines


def _means(
    result: Mapping[str, Any], counts: Sequence[str], metrics: Mapping[str, str]
) -> list[str]:
    """A row a fold, then mean and SD of the metrics, which name their columns."""
    rows = [
        (f"fold {row['fold']}", *(tables.cell(row[key]) for key in (*counts, *metrics)))
        for row in result["folds"]
    ]
    rows += [
        (name, *("" for _ in counts), *(_or_na(result[key][metric]) for metric in metrics))
        for name, key in (("mean", "mean"), ("+- SD", "sd"))
    ]
    return tables.aligned([("fold", *counts, *metrics.values()), *rows])


def _left_out(result: Mapping[str, Any]) -> list[str]:
    """Which folds are in no mean: they have no truth, or for one metric no value."""
    lines = []
    for key, n in result["n"].items():
        without = [str(row["fold"]) for row in result["folds"] if row[key] is None]
        if without and key in _METRICS:
            names = ", ".join(without)
            lines.append(f"{_METRICS[key]}: mean of {n} folds; not defined in fold {names}")
    return lines


def _or_na(value: float | None) -> str:
    return "n/a" if value is None else tables.cell(value)


def _p(test: Mapping[str, Any], key: str) -> str:
    fields = {name: test[name] for name in statistics.Test._fields}
    if test[key] is None:
        return "n/a"
    told = statistics.p_text(statistics.Test(**{**fields, "p": test[key]}))
    return told.removeprefix("p ").removeprefix("= ")


def _why(row: Mapping[str, Any]) -> str:
    whys = dict.fromkeys(row[test]["why"] for test in (*_TESTS, "wilcoxon") if row[test]["why"])
    return f"  n/a ({'; '.join(whys)})" if whys else ""

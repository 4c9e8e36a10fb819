"""A table of a paper as plain text: its numbers beside ours, and what the folds say.

All in percent, except false positives a slice. What is not known is "-".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdet.metrics import statistics
from jaxdet.report import tables

_METRICS = {"ap50": "mAP50", "precision": "P", "recall": "R"}
_TESTS = {"paired_t": "t", "paired_t_greater": "t, PCA >", "corrected_t": "corrected t"}
_SCORES = {
    "accuracy": "accuracy",
    "always_negative": "all negative",
    "auroc": "AUROC",
    "ap": "AP",
}
_RECALL = "recall_at_"


def text(result: Mapping[str, Any]) -> str:
    """The table of TABLE.json (`study.reproduce`): mean +- SD and tests, each fold, what else is.

    Rows whose model is not there yet say "not built".
    """
    scores = "auroc" in result["rows"][0].get("mean", {})
    parts = _scores(result) if scores else _detectors(result)
    return "\n".join([*_title(result), *parts, *_figures(result)])


def _title(result: Mapping[str, Any]) -> list[str]:
    data, flags = result["set"], result["flags"]
    return [
        f"{result['table']}, scale {result['scale']}: {data['builder']}, {data['patients']}"
        f" patients, {data['images']} slices, {data['boxes']} boxes; {flags['side_px']} px,"
        f" yolov8{flags['yolo']}, seed {flags['seed']}, {result['k']} folds by patient, digest"
        f" {data['folds_digest']}",
        f"percent; mean +- SD over folds (ddof {result['ddof']}); protocol {result['protocol']}",
    ]


def _detectors(result: Mapping[str, Any]) -> list[str]:
    heads = [f"{name}{whose}" for name in _METRICS.values() for whose in ("", ", paper")]
    rows = [("row", "m", *heads)]
    rows += [_detector(row) for row in result["rows"]]
    lines = [*tables.aligned(rows), "", *_tested(result["rows"]), ""]
    lines += ["mAP50 of each fold", *_of_folds(result, _METRICS, ("ap50",))]
    return [*lines, "", *_lesion_free(result["lesion_free"])]


def _detector(row: Mapping[str, Any]) -> tuple[str, ...]:
    cells = []
    for name in _METRICS:
        cells.append(_mean_sd(row, name) if row["built"] else "not built")
        cells.append(_printed(row["paper"][name]))
    return (row["title"], _px(row), *cells)


def _tested(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """p-values of PCA-YOLO against each row; "" for the row itself and for those without tests."""
    shown = [row for row in rows if row.get("tests")]
    if not shown:
        return ["no paired tests: they want PCA-YOLO's own row and another"]
    cells = [
        (
            row["title"],
            *(_p(row["tests"][test]) for test in _TESTS),
            "-" if row["paper"]["p"] is None else f"{row['paper']['p']:.3f}",
        )
        for row in shown
    ]
    head = ("PCA against", *_TESTS.values(), "p, paper")
    return [
        "p-values of PCA-YOLO's mAP50 against the row: paired t two-sided and one-sided, and"
        " corrected for shared training data (two-sided)",
        *tables.aligned([head, *cells]),
    ]


def _lesion_free(told: Mapping[str, Any]) -> list[str]:
    if not told["rows"]:
        return [f"slices without a tumour: not counted, {told['why']}"]
    head = ("row", "mean", "+- SD", "slices with one", *_fold_heads(told["rows"][0]["folds"]))
    rows = [
        (
            row["name"],
            f"{row['mean']:.3f}",
            "n/a" if row["sd"] is None else f"{row['sd']:.3f}",
            f"{100 * row['share_with']:.1f} %",
            *(f"{fold['false_per_slice']:.3f}" for fold in row["folds"]),
        )
        for row in told["rows"]
    ]
    slices = sum(fold["slices"] for fold in told["rows"][0]["folds"])
    return [
        f"false positives a slice on {slices} slices without a tumour of the tested patients"
        f" ({told['builder']}), each fold from the score of its best F1",
        *tables.aligned([head, *rows]),
    ]


def _scores(result: Mapping[str, Any]) -> list[str]:
    recalls = [name for name in result["rows"][0]["mean"] if name.startswith(_RECALL)]
    names = {**_SCORES, **{name: f"R@{name.removeprefix(_RECALL)}" for name in recalls}}
    rows = [("row", "m", *names.values(), "accuracy, paper")]
    rows += [
        (
            row["title"],
            _px(row),
            *(_mean_sd(row, name) for name in names),
            _printed(row["paper"]["accuracy"]),
        )
        for row in result["rows"]
    ]
    lines = [
        "patches with a tumour against healthy ones; all negative: the accuracy of never saying"
        " tumour; R@k: share of a slice's positive patches among its k highest",
        *tables.aligned(rows),
        "",
        "each fold",
    ]
    return [*lines, *_of_folds(result, names, ("accuracy", "always_negative", "auroc", "ap"))]


def _of_folds(
    result: Mapping[str, Any], words: Mapping[str, str], names: Sequence[str]
) -> list[str]:
    """A row for each metric of each row of the table, a column a fold."""
    shown = [row for row in result["rows"] if "folds" in row]
    if not shown:
        return ["no row is built"]
    rows = [
        (row["title"], words[name], *(_percent(fold[name]) for fold in row["folds"]))
        for row in shown
        for name in names
    ]
    return tables.aligned([("row", "", *_fold_heads(shown[0]["folds"])), *rows])


def _figures(result: Mapping[str, Any]) -> list[str]:
    told = [f"  {one['file']}" for one in result["figures"] if "file" in one]
    missing = [f"  {one['figure']}: {one['why']}" for one in result["figures"] if "why" in one]
    lines = ["", "figures", *told] if told else []
    return [*lines, *(["figures that were not drawn", *missing] if missing else [])]


def _fold_heads(folds: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"fold {fold['fold']}" for fold in folds]


def _px(row: Mapping[str, Any]) -> str:
    return "-" if row["m_px"] is None else str(row["m_px"])


def _mean_sd(row: Mapping[str, Any], name: str) -> str:
    mean, sd = row["mean"][name], row["sd"][name]
    if mean is None:
        return "n/a"
    return f"{100 * mean:.1f}" + ("" if sd is None else f" +- {100 * sd:.1f}")


def _printed(number: Mapping[str, float | None] | None) -> str:
    if number is None:
        return "-"
    sd = number["sd"]
    return f"{number['mean']:.1f}" + ("" if sd is None else f" +- {sd:.1f}")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _p(test: Mapping[str, Any]) -> str:
    fields = {name: test[name] for name in statistics.Test._fields}
    return statistics.p_text(statistics.Test(**fields)).removeprefix("p ").removeprefix("= ")

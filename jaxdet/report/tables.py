"""Numbers as plain text: what a terminal shows and a log keeps."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLUMNS = ("images", "truths", "P", "R", "AP50", "AP50-95")
_KEYS = ("images", "truths", "precision", "recall", "ap50", "ap50_95")


def ap_table(summary: Mapping[str, Any]) -> str:
    """The table of `metrics.summarise`: all classes, each class, each size of object.

    The first line names the protocol, the score at which P and R hold, and in words what was left
    out of truths or detections. A number that is not defined is "-". Without tabs; the first column
    is as wide as the longest name.
    """
    at = summary["threshold"]
    score = "" if at is None else f"; P and R at IoU 0.5, score {at:.3f}"
    rows = [_row("all", summary)]
    rows += [_row(row["name"], row) for row in summary["per_class"]]
    rows += [_row(_size_name(row), row) for row in summary["per_size"]]
    lines = aligned([("class", *_COLUMNS), *rows])
    told = faults(summary.get("faults", {}))
    if summary.get("full"):
        told += f"; {summary['full']} images hold as many detections as fit: model.max_detections"
    if summary.get("left_out"):
        told += f", {summary['left_out']} more were found"
    return "\n".join([f"AP, protocol {summary['protocol']}{score}{told}", *lines])


def pairs_table(summary: Mapping[str, Any]) -> str:
    """The numbers of `metrics.pairs.summarise`: how well patches with a tumour are told apart.

    Accuracy stands beside that of calling every patch healthy. A number that is not defined is "-".
    """
    head = (
        f"{summary['positives']} of {summary['patches']} patches of {summary['slices']} slices"
        " hold a tumour"
    )
    ranks = summary["ranks"]
    rows = [
        ("AUROC", summary["auroc"]),
        ("average precision", summary["ap"]),
        ("accuracy", summary["accuracy"]),
        ("accuracy of always healthy", summary["always_negative"]),
        *((f"recall at {k}", value) for k, value in summary["recall_at_k"].items()),
        ("median rank of a tumour's patch", ranks["median"]),
        ("median rank of a slice's best", ranks["best_median"]),
    ]
    return "\n".join([head, *aligned([(name, cell(value)) for name, value in rows])])


def faults(counts: Mapping[str, int]) -> str:
    """Boxes that the data's config clipped or left out, as the end of a sentence; "" for none."""
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"; boxes clipped or left out: {told}" if told else ""


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same keys with a head line; None is an empty cell, no rows no file.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _harmless(v) for k, v in row.items()} for row in rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _row(name: str, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    return (name, *(cell(numbers.get(key)) for key in _KEYS))


def cell(value: float | int | None) -> str:
    """A whole number, four decimals, or "-" where it is not defined."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _size_name(row: Mapping[str, Any]) -> str:
    """Bounds as side lengths: 32 px says more than 1024 px^2."""
    least, most = (side**0.5 for side in row["area_px2"])
    upper = f"{most:.4g}" if most < 1e4 else "..."
    return f"{row['name']} ({least:.4g}-{upper} px)"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others, 7 wide or more, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = (cell.rjust(max(width, 7)) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return lines

"""Numbers as plain text: what a terminal shows and a log keeps."""

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = ("images", "truths", "P", "R", "AP50", "AP50-95")
_KEYS = ("images", "truths", "precision", "recall", "ap50", "ap50_95")


def ap_table(summary: Mapping[str, Any]) -> str:
    """The table of `metrics.summarise`: all classes, each class, each size of object.

    The first line names the protocol and the score at which P and R hold. A number that is not
    defined is "-". Without tabs; the first column is as wide as the longest name.
    """
    at = summary["threshold"]
    score = "" if at is None else f"; P and R at IoU 0.5, score {at:.3f}"
    rows = [_row("all", summary)]
    rows += [_row(row["name"], row) for row in summary["per_class"]]
    rows += [_row(_size_name(row), row) for row in summary["per_size"]]
    lines = _aligned([("class", *_COLUMNS), *rows])
    told = faults(summary.get("faults", {}))
    return "\n".join([f"AP, protocol {summary['protocol']}{score}{told}", *lines])


def faults(counts: Mapping[str, int]) -> str:
    """Boxes that the data's config clipped or left out, as the end of a sentence; "" for none."""
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"; boxes clipped or left out: {told}" if told else ""


def _row(name: str, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    return (name, *(_cell(numbers.get(key)) for key in _KEYS))


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _size_name(row: Mapping[str, Any]) -> str:
    """Bounds as side lengths: 32 px says more than 1024 px^2."""
    least, most = (side**0.5 for side in row["area_px2"])
    upper = f"{most:.4g}" if most < 1e4 else "..."
    return f"{row['name']} ({least:.4g}-{upper} px)"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = (cell.rjust(max(width, 7)) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return lines

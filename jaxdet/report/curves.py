"""Pictures of a run's numbers: how it was trained, and precision against recall.

Matplotlib's objects are used directly: pyplot keeps figures in a global list and looks for a
screen.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS = (
    ("learning rate", ("lr",)),
    ("average precision", ("ap50", "ap50_95")),
    ("at best F1", ("precision", "recall")),
)
_NAMES = {"ap50": "AP50", "ap50_95": "AP50-95"}


def curves(
    history: Iterable[Mapping[str, Any]],
    path: str | Path,
    losses: Sequence[str] | None = None,
    panels: Sequence[tuple[str, Sequence[str]]] = PANELS,
) -> None:
    """Write losses and other numbers of a training over the epochs as a PNG.

    panels: title and keys of each picture after that of the losses; by default learning rate, AP,
    and precision and recall.

    losses: the parts to draw; by default whatever numbers a training row has, the total apart,
    whose scale would hide them.
    history: the rows of train.jsonl. A training row has "epoch", "step", "lr" and the loss parts,
    and is averaged over its epoch; an evaluation row has "epoch" and the metrics. Of two rows with
    the same epoch, step and keys, as a resumed run leaves them, the later is right. Keys that are
    not asked for are passed over; a missing, None or NaN value leaves a gap. No rows give empty
    axes that say so.
    """
    latest = {(row["epoch"], row.get("step"), *sorted(row)): row for row in history}
    parts = _loss_parts(latest.values()) if losses is None else losses
    drawings = (("loss", tuple(parts)), *panels)
    figure, axes = _figure(len(drawings))
    for ax, (title, keys) in zip(axes, drawings, strict=True):
        drawn = [_line(ax, latest.values(), key) for key in keys]
        ax.set(title=title, xlabel="epoch")
        _finish(ax, any(drawn), "no rows yet")
    _save(figure, path)


def froc(card: Mapping[str, Any], path: str | Path) -> None:
    """Write sensitivity against false boxes, a line a way to count, as a PNG.

    card: of `metrics.scorecard`. Ways without truth are left out; where none is left the axes are
    empty and say so.
    """
    figure, (ax,) = _figure(1)
    held = [one for one in card["froc"] if one["cpm"] is not None]
    for one in held:
        name = f"{one['of']}s, false boxes per {one['per']}, IoU {one['iou']:g}: {one['cpm']:.3f}"
        ax.plot(one["rates"], one["sensitivity"], marker="o", label=name)
    if held:
        ax.set_xscale("log", base=2)
        ax.set_xticks(held[0]["rates"], [f"{rate:g}" for rate in held[0]["rates"]])
    ax.set(title="FROC", xlabel="false boxes", ylabel="sensitivity", ylim=(0, 1.02))
    _finish(ax, False, "" if held else "no truth")
    if held:  # beside the axes: five lines of text would hide the curves
        figure.set_size_inches(8.5, 3.6)
        ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
    _save(figure, path)


def precision_recall(summary: Mapping[str, Any], path: str | Path) -> None:
    """Write precision against recall at IoU 0.5, a line a class with truth, as a PNG.

    summary: of `metrics.summarise(..., curves=True)`; one without curves is a ValueError. Where no
    class has truth the axes are empty and say so.
    """
    rows = [row for row in summary["per_class"] if "pr_curve" in row]
    if not rows and any(row["truths"] for row in summary["per_class"]):
        raise ValueError(
            "precision_recall wants a summary with pr_curve: summarise(..., curves=True)"
        )
    figure, (ax,) = _figure(1)
    for row in rows:
        label = f"{row['name']} {row['ap50']:.3f}"
        ax.plot(row["pr_curve"]["recall"], row["pr_curve"]["precision"], label=label)
    ax.set(title=f"AP50, protocol {summary['protocol']}", xlabel="recall", ylabel="precision")
    ax.set(xlim=(0, 1.01), ylim=(0, 1.01))
    _finish(ax, 0 < len(rows) <= 20, "" if rows else "no truth")
    _save(figure, path)


def epoch_means(rows: Iterable[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """The epochs that have `key`, rising, and its mean there; NaN where a value was not finite."""
    by_epoch: dict[int, list[float]] = {}
    for row in rows:
        if key in row:
            value = row[key]
            by_epoch.setdefault(row["epoch"], []).append(math.nan if value is None else value)
    epochs = sorted(by_epoch)
    means = [sum(by_epoch[epoch]) / len(by_epoch[epoch]) for epoch in epochs]
    return epochs, [mean if math.isfinite(mean) else math.nan for mean in means]


def _loss_parts(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Numbers of training rows, which are those with a learning rate, in order of appearance."""
    training = [row for row in rows if "lr" in row]
    names = {k: None for row in training for k, v in row.items() if isinstance(v, int | float)}
    return [name for name in names if name not in ("epoch", "step", "lr", "total")]


def _line(ax: Axes, rows: Iterable[Mapping[str, Any]], key: str) -> bool:
    epochs, means = epoch_means(rows, key)
    if epochs:
        ax.plot(epochs, means, label=_NAMES.get(key, key), marker="." if len(epochs) < 30 else "")
    return bool(epochs)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.5 * panels, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _finish(ax: Axes, legend: bool, otherwise: str) -> None:
    ax.grid(alpha=0.3)
    if legend:
        ax.legend(fontsize="small")
    elif otherwise:
        ax.text(0.5, 0.5, otherwise, ha="center", va="center", transform=ax.transAxes)


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")

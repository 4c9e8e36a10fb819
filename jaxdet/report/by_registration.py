"""What does registration change? AP of each model against how its set was registered (Fig. 5)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS = ("val IoU50", "val IoBB50", "test IoU50", "test IoBB50")
ORDER = ("none", "rigid", "affine", "nonrigid")  # how well the phases lie on each other, rising
WEIGHTS = "best"  # on val


def draw(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write AP at IoU and IoBB 0.5 of val and test against registration as a PNG, a line a model.

    rows: of the TABLE.json of gssd-fig5, unregistered and registered; by the best weights, the mean
    over seeds with its SD. Rows that are not trained are left out, a kind that a model lacks leaves
    a gap, and where nothing is trained the axes are empty and say so.
    """
    trained = [row for row in rows if row["state"] == "trained"]
    kinds = [kind for kind in ORDER if any(row["registration"] == kind for row in trained)]
    figure = Figure(figsize=(4 * len(PANELS), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, metric in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for name in dict.fromkeys(row["name"] for row in trained):
            of = {row["registration"]: row for row in trained if row["name"] == name}
            _line(ax, name, [of.get(kind) for kind in kinds], metric)
        ax.set_xticks(range(len(kinds)), kinds)
        ax.set(title=metric, ylabel="AP, percent")
        ax.grid(alpha=0.3)
        if trained:
            ax.set_ylim(bottom=0)
            ax.legend(fontsize="small")
        else:
            words = {"ha": "center", "va": "center", "transform": ax.transAxes}
            ax.text(0.5, 0.5, "nothing is trained", **words)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")


def _line(ax: Axes, name: str, rows: Sequence[Mapping[str, Any] | None], metric: str) -> None:
    """A model's means where they are known, with their SD where there is one."""
    means = [_percent(row, "mean", metric) for row in rows]
    spread = [_percent(row, "sd", metric) for row in rows]
    errors = [0.0 if math.isnan(sd) else sd for sd in spread]
    ax.errorbar(range(len(rows)), means, yerr=errors, marker="o", capsize=3, label=name)


def _percent(row: Mapping[str, Any] | None, of: str, metric: str) -> float:
    value = None if row is None else row[WEIGHTS][of][metric]
    return math.nan if value is None else 100 * value

"""A table of the GSSD++ paper as plain text: its numbers and, under them, ours.

All in percent. What is not known is "-"; rows without numbers of ours say why.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdet.report import tables

WEIGHTS = {"best": "best on val", "latest": "last"}


def text(result: Mapping[str, Any]) -> str:
    """The table of TABLE.json (`study.multiphase`): of every row the paper and ours.

    Ours twice: by the weights that were best on val, and by the last. Mean +- SD over seeds, if
    there are several. Table II is a line a row.
    """
    lines = _livers(result) if result["metrics"] == ["Dice"] else _detectors(result)
    return "\n".join([*_title(result), *lines, *_figures(result)])


def _title(result: Mapping[str, Any]) -> list[str]:
    of, flags = result["set"], result["flags"]
    splits = ", ".join(
        f"{name} {of[name]['patients']} patients, {of[name]['images']} slices"
        for name in ("train", "val", "test")
    )
    return [
        f"{result['table']}, scale {result['scale']}: {of['builder']}; {splits}; width"
        f" {flags['width']:g}, seed {flags['seed']}, digest {of['digest']}",
        *(f"{kind}: {_made(how)}" for kind, how in result["registrations"].items()),
    ]


def _made(how: Mapping[str, Any]) -> str:
    each = "each slice by itself" if how["per_slice"] else "all slices by the central one"
    return f"registered to the portal phase, {each}, {how['backend']}"


def _detectors(result: Mapping[str, Any]) -> list[str]:
    """A block a row: the paper, then ours by the best and by the last weights, by each protocol."""
    metrics, lines = result["metrics"], []
    for row in result["rows"]:
        lines.append((row["title"], "", *([""] * len(metrics))))
        lines.append(("  paper", "", *(_printed(row["paper"][name]) for name in metrics)))
        if row["state"] != "trained":
            lines.append((f"  {row['state']}", "", *(["-"] * len(metrics))))
            continue
        for protocol, told in ((None, row), *row.get("beside", {}).items()):
            for which, words in WEIGHTS.items():
                ours = (_mean_sd(told[which], name) for name in metrics)
                words = f"  {words}" + (f", {protocol}" if protocol else "")
                lines.append((words, str(len(row["seeds"])), *ours))
    of = "sensitivity, 1 - unregistered / registered (Eq. 6)" if "mean" in metrics else "AP"
    head = (
        f"{of}, percent, protocol {result['protocol']}; mean +- SD over seeds (ddof"
        f" {result['ddof']})"
    )
    return [head, *_stripped(tables.aligned([("", "seeds", *metrics), *lines])), *_full(result)]


def _full(result: Mapping[str, Any]) -> list[str]:
    """Rows of which some detections may have been left out, for there was no room."""
    lines = []
    for row in result["rows"]:
        for one in row.get("seeds", ()):
            told = one.get("full", {}).get("best", {})
            if any(told.values()):
                counts = " and ".join(f"{count} images of {split}" for split, count in told.items())
                lines.append(
                    f"{row['title']}, seed {one['seed']}: {counts} hold as many detections as fit "
                    "(model.max_detections), less sure ones may be missing"
                )
    return lines


def _livers(result: Mapping[str, Any]) -> list[str]:
    rows = [("set", "paper", "ours", "pairs", "left out")]
    for row in result["rows"]:
        ours = ("-", "-", "-")
        if row["state"] == "made":
            ours = (f"{100 * row['dice']:.2f}", str(row["pairs"]), str(row["left_out"]))
        title = row["title"] + ("" if row["state"] == "made" else f" ({row['state']})")
        rows.append((title, f"{row['paper']['Dice']:.2f}", *ours))
    head = "Dice of each phase's liver with the portal one's, percent, without zeros"
    return [head, *_stripped(tables.aligned(rows))]


def _figures(result: Mapping[str, Any]) -> list[str]:
    files = [
        f"  {one['file']}" + (f": {one['why']}" if "why" in one else "")
        for one in result["figures"]
    ]
    return ["", "figures", *files] if files else []


def _stripped(lines: Sequence[str]) -> list[str]:
    return [line.rstrip() for line in lines]


def _printed(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"


def _mean_sd(several: Mapping[str, Any], name: str) -> str:
    mean, sd = several["mean"][name], several["sd"][name]
    if mean is None:
        return "n/a"
    return f"{100 * mean:.2f}" + ("" if sd is None else f" +- {100 * sd:.2f}")

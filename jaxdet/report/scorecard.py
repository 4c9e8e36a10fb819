"""A scorecard as plain text: one section a question, every number beside its protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdet.metrics.statistics import Interval, interval_text
from jaxdet.report import errors, tables

_PAPER_2 = ("iou30", "iou50", "iou70", "iobb30", "iobb50", "iobb70")
_HEADS = ("IoU30", "IoU50", "IoU70", "IoBB30", "IoBB50", "IoBB70")


def text(card: Mapping[str, Any]) -> str:
    """All of `metrics.scorecard`'s numbers, for a terminal. What is not defined is "-" or "n/a"."""
    parts = (summary, protocols, froc, strata, levels, audit)
    return "\n\n".join([*_warning(card), *(part(card) for part in parts)])


def summary(card: Mapping[str, Any]) -> str:
    """The table of average precisions, recall by number of detections, and the interval."""
    lines = [tables.ap_table(card)]
    if card["protocol"] == "coco":
        recalls = (f"{n}: {tables.cell(card[f'ar_{n}'])}" for n in (1, 10, 100))
        lines.append(f"AR-50-95 with so many detections an image and class: {', '.join(recalls)}")
    interval = Interval(**card["interval"])
    lines.append(f"AP50 {tables.cell(interval.value)}, other patients: {interval_text(interval)}")
    return "\n".join(lines)


def protocols(card: Mapping[str, Any]) -> str:
    """Average precision under every protocol, and below why they differ."""
    rows = [
        (row["protocol"], *(tables.cell(row[key]) for key in _PAPER_2)) for row in card["protocols"]
    ]
    whys = (f"  {row['protocol']}: {row['why']}" for row in card["protocols"])
    title = "The same detections under every protocol; numbers of two protocols do not compare"
    return "\n".join([title, *tables.aligned([("protocol", *_HEADS), *rows]), *whys])


def froc(card: Mapping[str, Any]) -> str:
    """Sensitivity at so many false boxes, a row a way to count."""
    curves = card["froc"]
    heads = ("found, false boxes per, IoU", *map(_rate, curves[0]["rates"]), "CPM")
    rows = [
        (
            f"{_plural(one['of'], one['targets'])}, {one['per']}, {one['iou']:g}",
            *map(_share, one["sensitivity"]),
            _share(one["cpm"]),
        )
        for one in curves
    ]
    rows.append(("  score, first row", *map(_share, curves[0]["scores"]), ""))
    title = f"FROC, protocol {_base(card)}: sensitivity at false boxes an image or a patient"
    return "\n".join([title, *tables.aligned([heads, *rows])])


def strata(card: Mapping[str, Any]) -> str:
    """AP50 and recall by diameter, phase and misalignment; strata without a lesion are left out."""
    lines = []
    for key, title in (
        ("diameter_mm", "lesion, mm"),
        ("phase", "drawn on"),
        ("misaligned_mm", "phases apart, mm"),
    ):
        held = [row for row in card["strata"][key] if row["truths"]]
        if all(row["name"] == "unknown" for row in held):
            lines.append(f"{title}: not known")
            continue
        rows = [(row["name"], str(row["truths"]), *_firsts(row)) for row in held]
        lines += tables.aligned([(title, "truths", "AP50", "recall", "R score"), *rows])
    at = _score(card)
    return "\n".join([f"By stratum, protocol {_base(card)}; R score is recall{at}", *lines])


def levels(card: Mapping[str, Any]) -> str:
    """Slices and patients told apart by their surest box."""
    rows = [
        (
            f"{one['level']}s",
            str(one["with_lesion"]),
            str(one["without_lesion"]),
            _share(one["auc"]),
            _share(one["ap"]),
            _share(one["at"][0]["sensitivity"]),
            _share(one["at"][0]["specificity"]),
        )
        for one in card["levels"]
    ]
    heads = ("", "lesion", "free", "AUC", "AP", "sens", "spec")
    title = f"With or without a lesion, by the surest box; sens and spec{_score(card)}"
    return "\n".join([title, *tables.aligned([heads, *rows])])


def audit(card: Mapping[str, Any]) -> str:
    """What became of truths and detections at the score of the best F1."""
    return errors.audit_table({"all": card["audit"]})


def _warning(card: Mapping[str, Any]) -> list[str]:
    """What a reader must know before any number; nothing where the patients are new."""
    words = {
        "training": "TRAINED ON THESE PATIENTS: the numbers say nothing about new ones.",
        "unknown": "This RUN does not say whom it was trained on: whether these patients are new is"
        " not known.",
        "split by slice": "SPLIT BY SLICE: slices of one patient may be on both sides; the numbers"
        " flatter.",
        "declared others": "Whether these patients are new was not checked: declared to be others.",
    }
    told = words.get(card.get("patients_are", ""))
    return [told] if told else []


def _base(card: Mapping[str, Any]) -> str:
    """The protocol without what it skips: the sections below the first two count every lesion."""
    return card["audit"]["protocol"]


def _score(card: Mapping[str, Any]) -> str:
    return f" at score {card['audit']['score_thresholds'][0]:.3f}"


def _firsts(row: Mapping[str, Any]) -> Sequence[str]:
    return [_share((row[key] or [None])[0]) for key in ("ap", "recall", "recall_at_score")]


def _rate(rate: float) -> str:
    return f"1/{1 / rate:g}" if 0 < rate < 1 else f"{rate:g}"


def _plural(word: str, count: int) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

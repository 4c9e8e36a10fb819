"""What cross-validations left in their folders, read again.

Whatever is cut off, empty, of another format or holds what is no number is a ValueError that names
the file and the way out. It is raised here, where a training has not begun, and not hours later.
"""

import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdet import run as runs
from jaxdet.data import manifest
from jaxdet.report import errors
from jaxdet.report import folds as reporting

FORMAT = 2  # of crossval.json; 2: with family, test_share and audit
METRICS = ("precision", "recall", "ap50", "ap75", "ap50_95")  # those that are tested
OVERLAPS = ("iou30", "iou50", "iou70", "iobb30", "iobb50", "iobb70")  # of paper 2's Table I


def plan(folder: pathlib.Path) -> dict[str, Any]:
    """Its folds.json, as `manifest.manifest` gives it."""
    return read(folder / "folds.json", "Choose another --out, or remove that folder", _check_plan)


def result(folder: pathlib.Path) -> dict[str, Any]:
    """Its crossval.json, as `crossval.crossval` gives it; folds in the order of the file."""
    way = "Remove that file, and `jaxdet crossval --resume` makes it again"
    return read(folder / "crossval.json", way, _check_result)


def scores(file: pathlib.Path, told: Mapping[str, Any]) -> dict[str, Any] | None:
    """A fold's metrics, as `train.evaluate` writes them; None if they do not say all that is told.

    Only those that do are looked at further: others are no concern of a cross-validation.
    """

    def ours(content: dict[str, Any]) -> bool:
        return all(content.get(name) == value for name, value in told.items())

    def check(content: dict[str, Any]) -> None:
        if ours(content):
            _check_scores(content)

    way = "Remove that file, and --resume scores the fold again"
    content = read(file, way, check)
    return content if ours(content) else None


def fold_run(folder: pathlib.Path) -> runs.Run:
    """The RUN of a fold."""
    read(folder / "run.json", f"Remove {folder} to train this fold anew", _check_run)
    return runs.open_run(folder)


def run_in(folder: pathlib.Path) -> runs.Run | None:
    """The RUN in a folder; None if there is none. ValueError for checkpoints that nobody names."""
    if (folder / "run.json").exists():
        return fold_run(folder)
    if (folder / "checkpoints").exists():  # training would go on with them, whose they may be
        raise ValueError(
            f"{folder} holds checkpoints and no run.json that says what they are. Remove it to"
            " train it anew"
        )
    return None


def under_overlaps(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """AP at IoU and IoBB 0.3, 0.5 and 0.7 under the fold's own protocol."""
    own = {row["protocol"]: row for row in summary["protocols"]}[summary["protocol"]]
    return {name: own[name] for name in OVERLAPS}


def read(
    file: pathlib.Path,
    way_out: str,
    check: Callable[[dict[str, Any]], None] = lambda content: None,
) -> dict[str, Any]:
    """The object in a JSON file that passes `check`; else a ValueError that tells the way out."""
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it wants to hold an object and holds a {type(content).__name__}")
        check(content)
    except KeyError as error:
        raise ValueError(f"{file} is broken: it has no {error}. {way_out}") from error
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{file} is broken: {error}. {way_out}") from error
    return content


def _check_plan(content: dict[str, Any]) -> None:
    _format(content, manifest.FORMAT)
    _kinds(content, k=int, seed=int, selection=str, data=dict, patients=dict, digest=str)
    _kinds(content["patients"], **dict.fromkeys(content["patients"], int))


def _check_result(content: dict[str, Any]) -> None:
    _format(content, FORMAT)
    _kinds(content, folds_digest=str, k=int, protocol=str, family=str, experiment=dict)
    _kinds(content, folds=list, against=list)
    numbers = [row["fold"] for row in content["folds"]]
    if sorted(numbers) != list(range(content["k"])):
        raise ValueError(f"its folds want to be 0 to {content['k'] - 1} and are {numbers}")
    for row in content["folds"]:
        _finite(row, METRICS)
    _finite(content, ("test_share",))
    # What prints them is the judge of what is nested deeper.
    errors.audit_table({"": content["audit"]})
    for rival in content["against"]:
        reporting.test_table(rival, content["test_share"])
        errors.audit_table({"": rival["audit"]})
    runs.experiment_from_json(content["family"], content["experiment"])


def _check_scores(content: dict[str, Any]) -> None:
    _kinds(content, images=int, truths=int, protocol=str, protocols=list, audit=dict)
    _finite(content, ("threshold", *METRICS))
    _finite(under_overlaps(content), OVERLAPS)
    errors.audit_table({"": content["audit"]})


def _check_run(content: dict[str, Any]) -> None:
    _format(content, runs.FORMAT)
    _kinds(content, family=str, class_names=list, experiment=dict)
    runs.experiment_from_json(content["family"], content["experiment"])


def _format(content: Mapping[str, Any], wanted: int) -> None:
    if content["format"] != wanted:
        raise ValueError(f"its format is {content['format']!r}; this jaxdet reads {wanted}")


def _kinds(content: Mapping[str, Any], **kinds: type) -> None:
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise ValueError(f"{name} wants a {kind.__name__}; got {content[name]!r}")


def _finite(content: Mapping[str, Any], names: Sequence[str]) -> None:
    """Numbers, or null where a metric is not defined."""
    for name in names:
        value = content[name]
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"{name} wants a finite number or null; got {value!r}")

"""Is one cross-validation better than another of the same folds? Paired tests, fold by fold."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxdet.data import manifest
from jaxdet.metrics import statistics

TESTS = ("paired_t", "paired_t_greater", "corrected_t", "wilcoxon")


class Rival(NamedTuple):
    """Another cross-validation: the folder as it was named, and the numbers of its folds."""

    name: str
    folds: list[dict[str, Any]]


def read(folder: str, plan: dict[str, Any], protocol: str) -> Rival:
    """The finished cross-validation in a folder. ValueError: other folds or another protocol."""
    file = pathlib.Path(folder) / "crossval.json"
    if not file.exists():
        raise ValueError(
            f"{folder} is no finished cross-validation: it has no crossval.json. Finish it with"
            " `jaxdet crossval --resume` first"
        )
    content = json.loads(file.read_text())
    if content["folds_digest"] != plan["digest"]:
        kept = pathlib.Path(folder) / "folds.json"
        told = manifest.differences(json.loads(kept.read_text()), plan) if kept.exists() else []
        raise ValueError(
            f"{folder} has other folds (digest {content['folds_digest']}) than this"
            f" cross-validation (digest {plan['digest']}), so that their numbers do not pair. Give"
            " both the same data, --folds, --seed and --selection"
            + "".join(f"\n  {what}" for what in told)
        )
    if content["protocol"] != protocol:
        raise ValueError(
            f"{folder} was scored under the protocol {content['protocol']}, this one under"
            f" {protocol}: their numbers cannot be compared"
        )
    return Rival(folder, content["folds"])


def compare(
    ours: Sequence[dict[str, Any]], rivals: Sequence[Rival], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """A dict for every rival: rival, and for each metric what the paired tests say.

    Of a metric: metric, folds (those in which both have a value), ours and theirs (means over
    these), difference, and the tests of statistics as dicts: paired_t (two-sided, as in PCA-YOLO's
    Table 1), paired_t_greater (one-sided: ours above theirs), corrected_t (two-sided, for folds
    that share training data; test share 1 / (k - 1)), wilcoxon (two-sided). Each has `holm` beside
    its p: Holm's correction over all rivals and metrics of this call, a kind of test at a time,
    because a reader looks for the smallest p of the whole table. None, with `why`, where a test is
    not defined.
    """
    found = [
        {"rival": rival.name, "metrics": [_metric(ours, rival.folds, name) for name in metrics]}
        for rival in rivals
    ]
    rows = [row for one in found for row in one["metrics"]]
    for test in TESTS:
        for row, p in zip(rows, statistics.holm([row[test]["p"] for row in rows]), strict=True):
            row[test]["holm"] = p
    return found


def _metric(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], name: str
) -> dict[str, Any]:
    pairs = [(a["fold"], a[name], b[name]) for a, b in zip(ours, theirs, strict=True)]
    pairs = [pair for pair in pairs if None not in pair]
    folds, a, b = ([pair[i] for pair in pairs] for i in range(3))
    tests = (
        statistics.paired_t(a, b),
        statistics.paired_t(a, b, "greater"),
        statistics.corrected_t(a, b, 1 / (len(ours) - 1)),
        statistics.wilcoxon(a, b),
    )
    return {
        "metric": name,
        "folds": folds,
        "ours": statistics.mean_sd(a)[0],
        "theirs": statistics.mean_sd(b)[0],
        "difference": tests[0].difference,
        **{key: test._asdict() for key, test in zip(TESTS, tests, strict=True)},
    }

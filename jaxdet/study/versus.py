"""Is one cross-validation better than another of the same folds? Paired tests, fold by fold."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxdet.data import manifest
from jaxdet.metrics import statistics
from jaxdet.study import kept

TESTS = ("paired_t", "paired_t_greater", "corrected_t", "wilcoxon")


class Rival(NamedTuple):
    """Another cross-validation: the folder as it was named, and what it says of its folds."""

    name: str
    folds: list[dict[str, Any]]
    audit: dict[str, Any] | None = None  # of all folds together


def read_all(
    folders: Sequence[str], plan: dict[str, Any], protocol: str, out: pathlib.Path
) -> list[Rival]:
    """The rivals of the cross-validation in `out`.

    ValueError as in `read`, for a folder that is named twice, and for `out` itself: both would only
    make Holm's correction harder on the others.
    """
    places = [out.resolve(), *(pathlib.Path(folder).resolve() for folder in folders)]
    for i, place in enumerate(places):
        if place in places[:i]:
            what = "the cross-validation itself" if place == places[0] else "named twice"
            raise ValueError(f"--against {folders[i - 1]}: {place} is {what}; name others, once")
    return [read(folder, plan, protocol) for folder in folders]


def read(folder: str, plan: dict[str, Any], protocol: str) -> Rival:
    """The finished cross-validation in a folder.

    ValueError: not finished, a broken file (see `kept`), other folds, or another protocol.
    """
    path = pathlib.Path(folder)
    if not (path / "crossval.json").exists():
        raise ValueError(
            f"{folder} is no finished cross-validation: it has no crossval.json. Finish it with"
            " `jaxdet crossval --resume` first"
        )
    content = kept.result(path)
    if content["folds_digest"] != plan["digest"] or content["k"] != plan["k"]:
        told = (path / "folds.json").exists()
        rows = manifest.differences(kept.plan(path), plan) if told else []
        raise ValueError(
            f"{folder} has other folds (digest {content['folds_digest']}) than this"
            f" cross-validation (digest {plan['digest']}), so that their numbers do not pair. Give"
            " both the same data, --folds, --seed and --selection"
            + "".join(f"\n  {what}" for what in rows)
        )
    if content["protocol"] != protocol:
        raise ValueError(
            f"{folder} was scored under the protocol {content['protocol']}, this one under"
            f" {protocol}: their numbers cannot be compared"
        )
    return Rival(folder, content["folds"], content["audit"])


def compare(
    ours: Sequence[dict[str, Any]],
    rivals: Sequence[Rival],
    metrics: Sequence[str],
    test_share: float,
) -> list[dict[str, Any]]:
    """A dict for every rival: rival, its audit, and for each metric what the paired tests say.

    Folds are paired by their numbers. test_share is n_test / n_train, a mean over the folds.

    Of a metric: metric, folds (those in which both have a value), ours and theirs (means over
    these), difference, and the tests of statistics as dicts: paired_t (two-sided, as in PCA-YOLO's
    Table 1), paired_t_greater (one-sided: ours above theirs), corrected_t (two-sided, for folds
    that share training data), wilcoxon (two-sided). Each has `holm` beside its p: Holm's correction
    over all rivals and metrics of this call, a kind of test at a time, because a reader looks for
    the smallest p of the whole table. None, with `why`, where a test is not defined.
    """
    found = [
        {
            "rival": rival.name,
            "audit": rival.audit,
            "metrics": [_metric(ours, rival.folds, name, test_share) for name in metrics],
        }
        for rival in rivals
    ]
    rows = [row for one in found for row in one["metrics"]]
    for test in TESTS:
        for row, p in zip(rows, statistics.holm([row[test]["p"] for row in rows]), strict=True):
            row[test]["holm"] = p
    return found


def _metric(
    ours: Sequence[dict[str, Any]],
    theirs: Sequence[dict[str, Any]],
    name: str,
    test_share: float,
) -> dict[str, Any]:
    numbers = {row["fold"]: row[name] for row in theirs}
    pairs = [(row["fold"], row[name], numbers[row["fold"]]) for row in ours]
    pairs = [pair for pair in pairs if None not in pair]
    folds, a, b = ([pair[i] for pair in pairs] for i in range(3))
    tests = (
        statistics.paired_t(a, b),
        statistics.paired_t(a, b, "greater"),
        statistics.corrected_t(a, b, test_share),
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

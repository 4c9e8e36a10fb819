"""jaxdet evaluate RUN [--split val] [--protocol coco]."""

import dataclasses
from typing import Literal

import tyro

from jaxdet import run as runs
from jaxdet.cli import arguments
from jaxdet.report import tables
from jaxdet.train import evaluate as scoring


def main(argv: list[str]) -> None:
    """Scores a RUN."""
    tyro.cli(evaluate, prog="jaxdet evaluate", args=argv)


def evaluate(
    run: arguments.RunFolder,
    split: Literal["train", "val", "test"] | None = None,
    protocol: Literal["coco", "yolo", "voc", "voc07"] | None = None,
    which: Literal["best", "latest"] = "best",
    source: Literal["coco", "yolo", "voc"] | None = None,
    path: str | None = None,
) -> None:
    """Scores a RUN on a split, prints the table and writes RUN/metrics/SPLIT_PROTOCOL.json.

    Args:
        run: the RUN folder.
        split: default: the experiment's own.
        protocol: default: the experiment's own.
        which: the best checkpoint or the latest.
        source: the format of other data, whose own lists are the splits; an imported RUN needs it.
        path: where those data, or else the experiment's own, lie.
    """
    opened = runs.open_run(run)
    experiment = opened.experiment
    if "imported_from" in opened.facts and source is None:
        raise ValueError(f"{run} was imported and has no data of its own: add --source and --path")
    lists = {"source": source, "split": "given", "patient_pattern": ""} if source else {}
    # The RUN's own names: data whose classes differ are refused, another order of them is followed.
    data = _replaced(experiment.data, path=path, classes=opened.class_names, **lists)
    wanted = _replaced(experiment.evaluate, split=split, protocol=protocol)
    experiment = dataclasses.replace(experiment, evaluate=wanted, data=data)
    changed = dataclasses.replace(opened, experiment=experiment)
    summary = scoring.evaluate_run(changed, which, other_data=source is not None)
    opened.write_metrics(f"{wanted.split}_{wanted.protocol}", summary)
    print(tables.ap_table(summary))


def _replaced(part: object, **told: object) -> object:
    """A part of the experiment with what was told on the command line in place."""
    return dataclasses.replace(part, **{k: v for k, v in told.items() if v is not None})

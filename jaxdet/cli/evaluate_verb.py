"""jaxdet evaluate RUN [--split val] [--protocol coco]."""

import dataclasses
from typing import Literal

import tyro

from jaxdet import run as runs
from jaxdet.report import tables
from jaxdet.train import evaluate as scoring


def main(argv: list[str]) -> None:
    """Scores a RUN."""
    tyro.cli(evaluate, prog="jaxdet evaluate", args=argv)


def evaluate(
    run: tyro.conf.Positional[str],
    split: Literal["train", "val", "test"] | None = None,
    protocol: Literal["coco", "yolo", "voc", "voc07"] | None = None,
    which: Literal["best", "latest"] = "best",
) -> None:
    """Scores a RUN on a split, prints the table and writes RUN/metrics/SPLIT_PROTOCOL.json.

    Args:
        run: the RUN folder.
        split: default: the experiment's own.
        protocol: default: the experiment's own.
        which: the best checkpoint or the latest.
    """
    opened = runs.open_run(run)
    wanted = opened.experiment.evaluate
    wanted = dataclasses.replace(
        wanted, split=split or wanted.split, protocol=protocol or wanted.protocol
    )
    opened = dataclasses.replace(
        opened, experiment=dataclasses.replace(opened.experiment, evaluate=wanted)
    )
    summary = scoring.evaluate_run(opened, which)
    opened.write_metrics(f"{wanted.split}_{wanted.protocol}", summary)
    print(tables.ap_table(summary))

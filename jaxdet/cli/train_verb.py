"""jaxdet train CONFIG --out RUN [--resume] [--train.lr 1e-3 ...]."""

import json
from typing import Annotated

import tyro

from jaxdet import models
from jaxdet.cli import arguments
from jaxdet.report import tables
from jaxdet.train import loop, parallel


def main(argv: list[str]) -> None:
    """Trains the experiment of a config file."""
    start = arguments.load_config(arguments.config_path(argv, "train"))
    arguments.check_flags(argv, start)

    def train(
        config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")],
        out: str,
        experiment: arguments.typed(start) = start,
        resume: bool = False,
    ) -> None:
        """Trains the experiment of CONFIG into the RUN folder OUT.

        Args:
            config: a Python file with a function experiment().
            out: the RUN folder to make, or to go on in.
            experiment: every field of the experiment; the config file's values are the defaults.
            resume: go on with the RUN's last checkpoint if it has one.
        """
        parallel.start_processes()
        run = loop.train(experiment, out, resume=resume)
        if parallel.process()[0] == 0:
            summary = json.loads((run.path / "metrics" / "val.json").read_text())
            scorer = models.is_scorer(run.experiment.model)
            print(tables.pairs_table(summary) if scorer else tables.ap_table(summary))

    tyro.cli(train, prog="jaxdet train", args=argv, config=(tyro.conf.FlagCreatePairsOff,))

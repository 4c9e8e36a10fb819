"""jaxdet crossval CONFIG --folds 5 --out DIR [--resume] [--against DIR ...]."""

import dataclasses
import sys
from typing import Annotated, Literal

import tyro

from jaxdet.cli import arguments
from jaxdet.report import folds as reporting
from jaxdet.study import crossval as study
from jaxdet.train import parallel


def main(argv: list[str]) -> None:
    """Cross-validates the experiment of a config file."""
    start = arguments.load_config(arguments.config_path(argv, "crossval"))
    arguments.check_flags(argv, start)

    def crossval(
        config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")],
        out: str,
        experiment: arguments.typed(start) = start,
        folds: int | None = None,
        seed: int | None = None,
        selection: Literal["nested", "test_fold"] | None = None,
        against: tuple[str, ...] = (),
        resume: bool = False,
    ) -> None:
        """Trains and scores the experiment of CONFIG fold by fold, and prints mean +- SD.

        Every patient is tested once, by weights that never saw them; each fold is a RUN in
        OUT/fold_i that starts anew. All images of the data set are pooled first, also where it has
        lists of its own for train, val and test: folds are drawn from all patients, in equal
        shares of the boxes.

        Args:
            config: a Python file with a function experiment().
            out: the folder to make, or to go on in: folds.json, fold_i and crossval.json.
            experiment: every field of the experiment; the config file's values are the defaults.
            folds: how many; default: data.folds of the config.
            seed: of the drawing of patients; default: data.split_seed. The weights' is train.seed.
            selection: who chooses each fold's weights: nested, patients held out of training
                (data.val_share); or test_fold, the tested ones themselves, which flatters.
                Default: data.selection.
            against: folders of other cross-validations of the same folds, to be tested against.
            resume: go on in OUT; folds that are done stay as they are.
        """
        parallel.start_processes()
        told = {"folds": folds, "split_seed": seed, "selection": selection, "fold": 0}
        data = {name: value for name, value in told.items() if value is not None}
        experiment = dataclasses.replace(
            experiment, data=dataclasses.replace(experiment.data, **data)
        )
        main = parallel.process()[0] == 0
        result = study.crossval(experiment, out, resume=resume, against=against, say=_say(main))
        if main:
            print(reporting.fold_table(result))

    tyro.cli(crossval, prog="jaxdet crossval", args=argv, config=(tyro.conf.FlagCreatePairsOff,))


def _say(main: bool):
    """Progress goes where the log of a training goes: to stderr, from the first process."""
    return lambda text: print(text, file=sys.stderr, flush=True) if main else None

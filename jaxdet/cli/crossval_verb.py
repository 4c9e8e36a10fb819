"""jaxdet crossval CONFIG --folds 5 --out DIR [--resume] [--against DIR ...]."""

import dataclasses
import sys
from typing import Annotated, Any, Literal

import tyro

from jaxdet.cli import arguments
from jaxdet.config import Data
from jaxdet.report import folds as reporting
from jaxdet.study import crossval as study
from jaxdet.train import parallel

_FLAGS = (
    "--out DIR [--folds 5] [--seed 0] [--selection nested|test_fold] [--against DIR ...] [--resume]"
)
_FIELDS = {"folds": "folds", "seed": "split_seed", "selection": "selection"}  # of data
_Folders = Annotated[
    tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], tyro.conf.arg(metavar="DIR ...")
]


def main(argv: list[str]) -> None:
    """Cross-validates the experiment of a config file."""
    start = arguments.load_config(arguments.config_path(argv, "crossval", _FLAGS))
    arguments.check_flags(argv, start)

    def crossval(
        config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")],
        out: str,
        experiment: arguments.typed(start) = start,
        folds: int | None = None,
        seed: int | None = None,
        selection: Literal["nested", "test_fold"] | None = None,
        against: _Folders = (),
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
            against: folders of other cross-validations of the same folds, to be tested against:
                one or more, and the flag may come again.
            resume: go on in OUT; folds that are done stay as they are.
        """
        parallel.start_processes()
        told = {"folds": folds, "seed": seed, "selection": selection}
        data = _drawn(experiment.data, told, argv)
        experiment = dataclasses.replace(experiment, data=data)
        main, rivals = parallel.process()[0] == 0, tuple(name for some in against for name in some)
        result = study.crossval(experiment, out, resume=resume, against=rivals, say=_say(main))
        if main:
            print(reporting.fold_table(result))

    tyro.cli(crossval, prog="jaxdet crossval", args=argv, config=(tyro.conf.FlagCreatePairsOff,))


def _drawn(data: Data, told: dict[str, Any], argv: list[str]) -> Data:
    """How folds are drawn: as the flags say, and where they are silent as the config does."""
    given = {word.split("=")[0].replace("_", "-") for word in argv}
    for flag, name in _FIELDS.items():
        long, wanted, there = f"--data.{name}".replace("_", "-"), told[flag], getattr(data, name)
        if long in given and wanted not in (None, there):
            raise ValueError(f"--{flag} says {wanted} and {long} says {there}: give one of them")
    changed = {name: told[flag] for flag, name in _FIELDS.items() if told[flag] is not None}
    return dataclasses.replace(data, fold=0, **changed)


def _say(main: bool):
    """Progress goes where the log of a training goes: to stderr, from the first process."""
    return lambda text: print(text, file=sys.stderr, flush=True) if main else None

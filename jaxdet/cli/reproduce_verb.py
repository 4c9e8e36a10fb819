"""jaxdet reproduce TABLE [--scale tiny|small|paper] --out DIR [--resume]."""

import sys
from typing import Annotated, Literal

import tyro

from jaxdet.report import reproduced, tables
from jaxdet.study import asked as asking
from jaxdet.study import papers, scales
from jaxdet.study import reproduce as study
from jaxdet.train import parallel

_Table = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]


def main(argv: list[str]) -> None:
    """Reproduces a table of a paper."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: jaxdet reproduce {'|'.join(papers.TABLES)} --scale tiny --out DIR\n")
        print("\n".join(line.rstrip() for line in tables.aligned(scales.table())))
        print("\n`jaxdet reproduce TABLE --help` lists the flags")
        raise SystemExit(0 if argv else 2)
    tyro.cli(reproduce, prog="jaxdet reproduce", args=argv)


def reproduce(
    table: _Table,
    out: str,
    scale: scales.Name = "tiny",
    folds: int | None = None,
    seed: int = 0,
    epochs: int | None = None,
    siamese_epochs: int | None = None,
    optimizer: Literal["adamw", "auto"] | None = None,
    path: str = "",
    builder: str = "",
    rows: tuple[str, ...] = (),
    resume: bool = False,
) -> None:
    """Trains and scores every row of a table of PCA-YOLO, and prints the paper beside ours.

    pca-table1: the detectors and attention rivals. pca-table2: the ablations, with false positives
    on slices without a tumour. pca-table3: the Siamese network alone. docs/reproduce.md says what
    each scale means and which fields hold what the paper leaves open.

    Args:
        table: pca-table1, pca-table2 or pca-table3.
        out: the folder to make, or to go on in; several tables of one scale may share it.
        scale: pixels, patients, networks and epochs together.
        folds: how many; default: the scale's.
        seed: of the folds and of all first weights. The phantom's patients stay.
        epochs: of every detector; default: the scale's.
        siamese_epochs: of every Siamese network; default: the scale's.
        optimizer: of the detectors: adamw at the scale's rate, or auto, ultralytics' own rule,
            which ignores the rate. Default: adamw.
        path: the folder of prepared sets; default: OUT/sets. A phantom that is not there is made.
        builder: a prepared set of yours, such as sltd/NAME; default: the scale's phantom.
        rows: names of rows, for less than the whole table; those that it has already stay.
        resume: go on in OUT; what is done stays as it is.
    """
    parallel.start_processes()
    main = parallel.process()[0] == 0
    wanted = asking.Asked(
        table=table,
        scale=scale,
        folds=folds,
        seed=seed,
        epochs=epochs,
        siamese_epochs=siamese_epochs,
        path=path,
        builder=builder,
        optimizer=optimizer,
        rows=rows,
    )
    result = study.reproduce(wanted, out, resume=resume, say=_say(main))
    if main:
        print(reproduced.text(result))


def _say(main: bool):
    """Progress goes where the log of a training goes: to stderr, from the first process."""
    return lambda text: print(text, file=sys.stderr, flush=True) if main else None

"""jaxdet reproduce TABLE [--scale tiny|small|paper] --out DIR [--resume]."""

import sys
from typing import Annotated, Literal

import tyro

from jaxdet.report import reproduced, reproduced_gssd, tables
from jaxdet.study import asked as asking
from jaxdet.study import asked_gssd, multiphase, papers, papers_gssd, scales, scales_gssd
from jaxdet.study import reproduce as study
from jaxdet.train import parallel

_Table = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
TABLES = (*papers.TABLES, *papers_gssd.TABLES)


def main(argv: list[str]) -> None:
    """Reproduces a table of a paper."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: jaxdet reproduce {'|'.join(TABLES)} --scale tiny --out DIR")
        for paper, table in (("pca-...", scales.table()), ("gssd-...", scales_gssd.table())):
            print(f"\n{paper}")
            print("\n".join(line.rstrip() for line in tables.aligned(table)))
        print("\n`jaxdet reproduce TABLE --help` lists the flags")
        raise SystemExit(0 if argv else 2)
    tyro.cli(reproduce, prog="jaxdet reproduce", args=argv)


def reproduce(
    table: _Table,
    out: str,
    scale: scales.Name = "tiny",
    folds: int | None = None,
    seed: int = 0,
    seeds: int | None = None,
    epochs: int | None = None,
    siamese_epochs: int | None = None,
    optimizer: Literal["adamw", "auto"] | None = None,
    path: str = "",
    builder: str = "",
    rows: tuple[str, ...] = (),
    resume: bool = False,
) -> None:
    """Trains and scores every row of a table of a paper, and prints the paper beside ours.

    PCA-YOLO. pca-table1: the detectors and attention rivals. pca-table2: the ablations, with false
    positives on slices without a tumour. pca-table3: the Siamese network alone.
    GSSD++. gssd-table1: the detectors. gssd-table2: how well the phases' livers cover each other.
    gssd-table3: the ablations. gssd-tableS1, -tableS2, -fig5: the detectors on registered sets, and
    what misalignment costs them. gssd-inside: their gates, sampling points and offsets in pictures.
    docs/reproduce.md says what each scale means and which fields hold what a paper leaves open.

    Args:
        table: such as pca-table1 or gssd-table1.
        out: the folder to make, or to go on in; several tables of one scale may share it.
        scale: pixels, patients, networks and epochs together.
        folds: how many, of PCA-YOLO; default: the scale's.
        seed: of folds or split and of all first weights. The phantom's patients stay.
        seeds: trainings of every row, of GSSD++, from `seed` on; default: 1.
        epochs: of every detector; default: the scale's.
        siamese_epochs: of every Siamese network; default: the scale's.
        optimizer: of PCA-YOLO's detectors: adamw at the scale's rate, or auto, ultralytics' own
            rule, which ignores the rate. Default: adamw.
        path: the folder of prepared sets; default: OUT/sets. A phantom that is not there is made.
        builder: a prepared set of yours, such as sltd/NAME; default: the scale's phantom.
        rows: names of rows, for less than the whole table; what it has already stays.
        resume: go on in OUT; what is done stays as it is.
    """
    if table not in TABLES:
        raise ValueError(f"no table is called {table!r}; there are {', '.join(TABLES)}")
    both = {"table": table, "scale": scale, "seed": seed, "epochs": epochs, "path": path}
    both |= {"builder": builder, "rows": rows}
    yolo = {"folds": folds, "siamese_epochs": siamese_epochs, "optimizer": optimizer}
    gssd = {"seeds": seeds}
    ours = table in papers_gssd.TABLES
    _refuse(table, yolo if ours else gssd)
    parallel.start_processes()
    main = parallel.process()[0] == 0
    if ours:
        wanted = asked_gssd.Asked(**both, seeds=1 if seeds is None else seeds)
        result = multiphase.reproduce(wanted, out, resume=resume, say=_say(main))
    else:
        result = study.reproduce(asking.Asked(**both, **yolo), out, resume=resume, say=_say(main))
    if main:
        print((reproduced_gssd if ours else reproduced).text(result))


def _refuse(table: str, flags: dict[str, object]) -> None:
    """Flags of the other paper, which would change nothing."""
    given = [name.replace("_", "-") for name, value in flags.items() if value is not None]
    if given:
        raise ValueError(f"--{given[0]} says nothing to {table}: leave it out")


def _say(main: bool):
    """Progress goes where the log of a training goes: to stderr, from the first process."""
    return lambda text: print(text, file=sys.stderr, flush=True) if main else None

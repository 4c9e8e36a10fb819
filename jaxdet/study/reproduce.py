"""A table of the PCA-YOLO paper, from nothing to the paper's numbers beside ours.

    OUT/reproduce.json     what decides the numbers: the scale with all overrides
    OUT/folds.json         who is tested in which fold (data/manifest.py)
    OUT/sets/              the phantom, where no other folder of sets was named
    OUT/start/             the RUN that all detectors begin with, where the scale has one
    OUT/siamese_M/fold_i   a Siamese RUN for patches of M px, shared by all rows that want it
    OUT/rows/NAME/         the cross-validation of a row (study/crossval.py)
    OUT/TABLE.json         the table
    OUT/figures/TABLE/     the paper's figures of fold 0, by the rows of that table

A folder may hold several tables of one scale; what they share is trained once. Killed anywhere, the
same call with resume goes on.
"""

import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdet import run as runs
from jaxdet.data import manifest
from jaxdet.data.builders import store
from jaxdet.study import asked as asking
from jaxdet.study import begun, crossval, illustrate, kept, lesion_free, papers, prepared, siamese
from jaxdet.study.asked import Asked, Study
from jaxdet.study.papers import Printed, Row, Scores
from jaxdet.train import engine, loop

METRICS = ("ap50", "precision", "recall")  # of Tables 1 and 2
TESTS = ("paired_t", "paired_t_greater", "corrected_t")  # of AP50, the paper's row against another

Say = Callable[[str], None]


def reproduce(
    asked: Asked, out: str | os.PathLike, *, resume: bool = False, say: Say
) -> dict[str, Any]:
    """Trains and scores what the table `asked.table` wants into `out`; what TABLE.json holds.

    The set is made if it is a phantom's and is not there. Rows whose detector is not in
    models.DETECTORS are listed as not built. Where `asked.rows` names some, those that TABLE.json
    had before stay beside them, and tests and figures are of all. `say` is told where it stands.

    Keys: format, table, scale, flags (see asked.flags), protocol, set (builder, images, patients,
    boxes, folds_digest), k, ddof, versions, device, minutes (of this call alone), rows, figures,
    and for Tables 1 and 2 lesion_free. Our numbers are shares of 1 and the paper's percent.

    ValueError before any training: a table or row that is not there; `out` that holds something
    else, or is there without `resume`, or was made with other flags; a set that is not there and is
    no phantom's, or has a phantom's name and is another; a TABLE.json that is broken; whatever
    `crossval.crossval` refuses. SystemExit 143 when SIGTERM ended it.
    """
    if not str(out):
        raise ValueError("reproduce wants a folder; got --out ''")
    path, began = pathlib.Path(out), time.monotonic()
    papers.rows(asked.table, asked.rows)  # refuses names that are none
    study = asking.study(asked, path)
    flags = asking.flags(asked, study)
    prepared.check(study)
    begun.refuse_changes(path, flags, resume, asking.MOVABLE)
    with begun.alone_in(path), engine.ended_by_sigterm():
        begun.refuse_changes(path, flags, resume, asking.MOVABLE)  # another may have begun it since
        begun.by_first(path / "reproduce.json", {"format": begun.FORMAT, **flags})
        prepared.make(study.data, 0, say)
        plan = _plan(study, path)
        rows = _with_those_before(asked, study, path, plan)
        if isinstance(rows[0], Scores):
            told = {"rows": [_scores_row(study, row, path, plan, say) for row in rows]}
        else:
            told = _detectors(study, rows, path, plan, say)
        told["figures"] = illustrate.draw(study, asked.table, rows, path, say)
        result = {
            "format": begun.FORMAT,
            "table": asked.table,
            "scale": asked.scale,
            "flags": flags,
            "protocol": asking.PROTOCOL,
            "set": {**plan["data"], "folds_digest": plan["digest"]},
            "k": plan["k"],
            "ddof": crossval.DDOF,
            "versions": runs.versions(),
            "device": runs.device_name(),
            **told,
            "minutes": (time.monotonic() - began) / 60,
        }
        begun.by_first(path / f"{asked.table}.json", result)
    return result


def _with_those_before(
    asked: Asked, study: Study, path: pathlib.Path, plan: Mapping[str, Any]
) -> tuple[Row, ...] | tuple[Scores, ...]:
    """The rows that are asked for; beside a choice those that TABLE.json has, in paper's order.

    Of these only what was made with these flags and folds, and is there still or is not built:
    nobody who asked for one row trains another.
    """
    file = path / f"{asked.table}.json"
    if not asked.rows or not file.exists():
        return papers.rows(asked.table, asked.rows)
    before = kept.read(file, "Remove that file, and --resume makes it again", _told)
    flags, digest, names = _told(before)
    ours = digest == plan["digest"] and not begun.changes(
        flags, asking.flags(asked, study), asking.MOVABLE
    )
    there = [
        row.name
        for row in papers.rows(asked.table)
        if ours and row.name in names and _is_free(study, row, path, plan)
    ]
    return papers.rows(asked.table, (*asked.rows, *there))


def _told(table: Mapping[str, Any]) -> tuple[dict[str, Any], str, list[str]]:
    """Flags, digest of the folds and names of the rows of a TABLE.json."""
    return dict(table["flags"]), table["set"]["folds_digest"], [r["name"] for r in table["rows"]]


def _is_free(study: Study, row: Row | Scores, path: pathlib.Path, plan: Mapping[str, Any]) -> bool:
    """Whether a row wants no training: it is done, or not built."""
    if isinstance(row, Row):
        return not asking.is_built(row) or (path / "rows" / row.name / "crossval.json").exists()
    folder = asking.siamese_folder(study, row.parts, path)
    folds = [folder / f"fold_{i}" / "metrics" / f"{siamese.PATCHES}.json" for i in range(plan["k"])]
    return all(file.exists() for file in folds)


def _detectors(
    study: Study, rows: Sequence[Row], path: pathlib.Path, plan: dict[str, Any], say: Say
) -> dict[str, Any]:
    """Tables 1 and 2: Siamese networks, then every row, PCA-YOLO last and against the others."""
    built = [row for row in rows if asking.is_built(row)]
    for row in rows:
        if row not in built:
            say(f"{row.title}: not built")
    classes = len(store.find(study.data.path, study.data.builder).class_names)
    for row in built:  # in a minute, what would else be found in hours
        crossval.check(crossval.of_fold(asking.detector(study, row, classes), 0))
    for parts in asking.parts_of(tuple(built)):
        _siamese(study, parts, path, plan, say)
    if built and asking.has_start(study):
        _start(study, classes, path, say)
    folders = {row.name: path / "rows" / row.name for row in built}
    results: dict[str, dict[str, Any]] = {}
    for row in sorted(built, key=lambda row: row.name == papers.OURS):
        ours = row.name == papers.OURS
        rivals = [str(folders[name]) for name in results] if ours else []
        experiment = asking.detector(study, row, classes, path)
        results[row.name] = crossval.crossval(
            experiment, folders[row.name], resume=True, against=rivals, say=_titled(say, row.title)
        )
    tests = _tests(results)
    return {
        "rows": [_row(study, row, results.get(row.name), tests.get(row.name)) for row in rows],
        "lesion_free": _lesion_free(study, results, path, plan, say),
    }


def _start(study: Study, classes: int, path: pathlib.Path, say: Say) -> None:
    """Trains what all detectors begin with into OUT/start, unless it is trained to its end."""
    folder = path / asking.START
    if (folder / "metrics" / "val.json").exists():  # written last
        return
    prepared.make(study.data, 0, say, asking.START_SEED)
    say(f"the common start: training into {folder}")
    loop.train(asking.start(study, classes), folder, resume=True)


def _plan(study: Study, path: pathlib.Path) -> dict[str, Any]:
    """Who is tested in which fold; ValueError where the data are no longer those of before."""
    plan = manifest.manifest(study.data)
    crossval.refuse_empty_val(plan)
    if begun.begun(path) and (path / "folds.json").exists():
        changed = manifest.differences(kept.plan(path), plan)
        if changed:
            rows = "\n".join(f"  {what}" for what in changed)
            raise ValueError(f"{path} has other folds than its data give now:\n{rows}")
    begun.by_first(path / "folds.json", plan)
    return plan


def _row(
    study: Study, row: Row, found: dict[str, Any] | None, tests: dict[str, Any] | None
) -> dict[str, Any]:
    """What TABLE.json says of a row of Table 1 or 2; without numbers where it is not built."""
    side = row.model == "pca_yolo"
    head = {
        "name": row.name,
        "title": row.title,
        "m_px": study.scale.side_px // row.parts if side else None,
        "paper": {**{name: _printed(getattr(row, name)) for name in METRICS}, "p": row.p},
        "built": found is not None,
    }
    if found is None:
        return head
    names = ("fold", "images", "truths", "threshold", *METRICS)
    return {
        **head,
        "folds": [{name: fold[name] for name in names} for fold in found["folds"]],
        **{key: {name: found[key][name] for name in METRICS} for key in ("mean", "sd", "n")},
        "tests": tests,
    }


def _tests(results: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of every other row, the paired tests of AP50 of the paper's own row against it."""
    ours = results.get(papers.OURS, {"against": []})
    against = {pathlib.Path(told["rival"]).name: told["metrics"] for told in ours["against"]}
    found = {}
    for name in (name for name in against if name in results):
        (ap50,) = (row for row in against[name] if row["metric"] == "ap50")
        found[name] = {test: ap50[test] for test in TESTS}
    return found


def _lesion_free(
    study: Study,
    results: Mapping[str, dict[str, Any]],
    path: pathlib.Path,
    plan: dict[str, Any],
    say: Say,
) -> dict[str, Any]:
    """False positives where nothing is, by row and fold, or why that is not known."""
    names = [name for name in papers.LESION_FREE if name in results]
    if not names:
        return {"why": f"none of {', '.join(papers.LESION_FREE)} is among the rows", "rows": []}
    builder = prepared.lesion_free(study, say)
    data = {name: kept.fold_run(path / "rows" / name / "fold_0").experiment.data for name in names}
    rows = []
    for name in names:
        folds = []
        for planned, row in zip(plan["folds"], results[name]["folds"], strict=True):
            free = lesion_free.slices(data[name], builder, planned["patients"])
            if free is None:
                return {
                    "why": f"{builder} has no slice without a lesion of fold {row['fold']}'s"
                    " patients",
                    "rows": [],
                }
            run = kept.fold_run(path / "rows" / name / f"fold_{row['fold']}")
            folds.append(lesion_free.count(run, free, row))
        rows.append(lesion_free.summarise(name, folds))
        say(f"{name}: {rows[-1]['mean']:.3f} false positives a slice without a tumour")
    return {"why": "", "builder": builder, "rows": rows}


def _siamese(
    study: Study, parts: int, path: pathlib.Path, plan: dict[str, Any], say: Say
) -> list[dict[str, Any]]:
    """The scores of the Siamese networks for so many patches on a side, fold by fold."""
    folder = asking.siamese_folder(study, parts, path)
    return siamese.cross(asking.siamese(study, parts), folder, plan, say=say)


def _scores_row(
    study: Study, row: Scores, path: pathlib.Path, plan: dict[str, Any], say: Say
) -> dict[str, Any]:
    """What TABLE.json says of a row of Table 3."""
    return {
        "name": row.name,
        "title": row.title,
        "m_px": study.scale.side_px // row.parts,
        "paper": {"accuracy": _printed(row.accuracy)},
        **siamese.summarise(_siamese(study, row.parts, path, plan, say)),
    }


def _titled(say: Say, title: str) -> Say:
    return lambda text: say(f"{title}: {text}")


def _printed(number: Printed | None) -> dict[str, float | None] | None:
    return None if number is None else number._asdict()

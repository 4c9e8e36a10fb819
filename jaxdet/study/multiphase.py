"""The tables of the GSSD++ paper, from nothing to the paper's numbers beside ours.

    OUT/reproduce.json           what decides the numbers: the scale with all overrides
    OUT/sets/                    the phantom and its registered twins, where no folder was named
    OUT/rows/KEY/seed_S/         a RUN; its metrics, by the best weights and by the last, of val and
                                 test, say that it is done. KEY is a row, and its registration
    OUT/TABLE.json               the table
    OUT/figures/gssd-fig5.png    AP against the kind of registration

A row is trained on one split, once from each seed. A table lists all its rows, those too that are
not trained yet; several tables of one scale may share a folder, and rows with it. Killed anywhere,
the same call with resume goes on.
"""

import dataclasses
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdet import models
from jaxdet import run as runs
from jaxdet.config import Data, Experiment
from jaxdet.data import sources
from jaxdet.data.sources import Dataset
from jaxdet.metrics import statistics
from jaxdet.metrics.protocols import SKIPPING
from jaxdet.report import by_registration
from jaxdet.study import asked_gssd as asking
from jaxdet.study import begun, insights, kept, papers_gssd, twins
from jaxdet.study.asked_gssd import Asked, Study
from jaxdet.study.papers_gssd import EIGHT, KINDS, MEAN, UNREGISTERED, Row
from jaxdet.study.scales_gssd import PROTOCOL
from jaxdet.train import engine, loop, parallel
from jaxdet.train import evaluate as scoring

DDOF = 1  # the SD of the sample: the seeds stand for others that might have been drawn
WEIGHTS = ("best", "latest")  # on val; at the end. The paper does not say which it prints
SPLITS = ("val", "test")
# Protocols beside PROTOCOL: without its quirks, and with the one that PixelLink's evaluator adds
BESIDE = ("fixed", f"{PROTOCOL}{SKIPPING}")
OFFICIAL = ", official boxes"  # behind the name of a protocol that scored evaluate.boxes=official
FIGURE = "figures/gssd-fig5.png"

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Work:
    """What a table is made of: a study, all rows, those to be trained, where, and who is told."""

    study: Study
    table: str
    rows: tuple[Row, ...]
    chosen: tuple[Row, ...]
    path: pathlib.Path
    say: Say
    # train, val and test of every way in which the rows read a set; filled when they are asked for
    loaded: dict[Data, dict[str, Dataset]] = dataclasses.field(default_factory=dict)

    def data(self, row: Row) -> dict[str, Dataset]:
        """The splits of a row's set; pixels are not read."""
        cfg = asking.data_of(self.study, row)
        if cfg not in self.loaded:
            splits = ("train", "val", "test")
            self.loaded[cfg] = {split: sources.load(cfg, split) for split in splits}
        return self.loaded[cfg]

    def experiment(self, row: Row, seed: int) -> Experiment:
        """What trains a row from a seed."""
        train = self.data(row)["train"]
        told = {"classes": len(train.class_names), "images": len(train)}
        return asking.experiment(self.study, row, seed, **told)


def reproduce(
    asked: Asked, out: str | os.PathLike, *, resume: bool = False, say: Say
) -> dict[str, Any]:
    """Trains and scores what the table `asked.table` wants into `out`; what TABLE.json holds.

    The set is made if it is a phantom's and is not there, and registered if the table wants it.
    `asked.rows` says which rows are trained now; the others are listed with what they have. `say`
    is told where it stands.

    Keys: format, table, scale, flags (`asked_gssd.flags`), protocol, metrics, set, registrations
    (how each twin was made), ddof, versions, device, minutes (of this call alone), rows, figures.
    A row: name, key, title, registration, model, paper (percent by metric), state (trained, not
    trained, not built, or a registration that the scale leaves out), and where it is trained seeds
    (a dict each: seed, epochs, for best and latest the metrics, and under `full` the images of val
    and test with as many detections as fit) and for best and latest mean, sd, n; under `beside` the
    same by other protocols, and of models whose authors draw other boxes, by those. Our numbers are
    shares of 1. Of Table S2 they are sensitivities (Eq. 6), seed by seed; of Table II a row has
    dice, pairs and left_out.

    ValueError before any training: a table or row that is not there; `out` that holds something
    else, or is there without `resume`, or was made with other flags; a set that is not there and is
    no phantom's, or is another; a RUN of another config or split. SystemExit 143 when SIGTERM ended
    it.
    """
    if not str(out):
        raise ValueError("reproduce wants a folder; got --out ''")
    path, began = pathlib.Path(out), time.monotonic()
    chosen = papers_gssd.rows(asked.table, asked.rows)
    study = asking.study(asked, path)
    flags = asking.flags(asked, study)
    twins.check(study.data)
    begun.refuse_changes(path, flags, resume, asking.MOVABLE)
    with begun.alone_in(path), engine.ended_by_sigterm():
        begun.refuse_changes(path, flags, resume, asking.MOVABLE)  # another may have begun it since
        begun.by_first(path / begun.FLAGS, {"format": begun.FORMAT, **flags})
        work = Work(study, asked.table, papers_gssd.TABLES[asked.table], chosen, path, say)
        twins.make_set(study.data, say)
        told = TABLES.get(asked.table, _detectors)(work)
        result = {
            "format": begun.FORMAT,
            "table": asked.table,
            "scale": asked.scale,
            "flags": flags,
            "protocol": PROTOCOL,
            "metrics": list(work.rows[0].paper),
            "set": _set(work),
            "registrations": twins.told(study.data, KINDS),
            "ddof": DDOF,
            "versions": runs.versions(),
            "device": runs.device_name(),
            "figures": [],
            **told,
            "minutes": (time.monotonic() - began) / 60,
        }
        begun.by_first(path / f"{asked.table}.json", result)
    return result


def _detectors(work: Work) -> dict[str, Any]:
    """Tables I, III and S1: every row by itself."""
    _train(work, work.chosen)
    return {"rows": [_row(work, row, found(work, row)) for row in work.rows]}


def _sensitivities(work: Work) -> dict[str, Any]:
    """Table S2: every row of S1 against the same model on the unregistered set, seed by seed."""
    plain = {row.name: _unregistered(row) for row in work.chosen if not _state(work, row)}
    _train(work, (*plain.values(), *work.chosen))
    rows = []
    for row in work.rows:
        before = {one["seed"]: one for one in found(work, _unregistered(row))}
        both = [(before[one["seed"]], one) for one in found(work, row) if one["seed"] in before]
        rows.append(_row(work, row, [_sensitivity(*pair) for pair in both]))
    return {"rows": rows}


def _figure(work: Work) -> dict[str, Any]:
    """Fig. 5: what Tables I and S1 have, as a picture."""
    told = _detectors(work)
    if parallel.process()[0] == 0:
        by_registration.draw(told["rows"], work.path / FIGURE)
    return {**told, "figures": [{"file": FIGURE}]}


def _inside(work: Work) -> dict[str, Any]:
    """What the networks of Tables I and S1 do inside: no table, pictures and two curves."""
    told = _detectors(work)
    plain: dict[str, runs.Run] = {}
    twin: dict[str, runs.Run] = {}
    seed = work.study.seeds[0]
    for row in work.rows:
        if seed in (one["seed"] for one in found(work, row)):
            run = kept.run_in(asking.folder(row, seed, work.path))
            place = plain if row.registration == UNREGISTERED else twin
            # The last of KINDS that is trained: non-rigid, of which the paper's number of Eq. 6 is.
            place[row.title.removesuffix(f", {row.registration}")] = run
    if not plain:
        why = "neither GSSD nor GSSD++ is trained on the unregistered set"
        return {**told, "figures": [{"file": insights.FOLDER, "why": why}]}
    return {**told, "figures": insights.write(plain, twin, work.path, work.say)}


def _livers(work: Work) -> dict[str, Any]:
    """Table II: how well the livers of the phases cover each other, in each set."""
    scale, named = work.study.scale.kinds, len(work.chosen) < len(work.rows)
    wanted = [row.registration for row in work.chosen if named or row.registration in scale]
    for kind in wanted:
        if kind != UNREGISTERED:
            twins.make(work.study.data, kind, work.study.scale.per_slice, work.say)
    rows = []
    for row in work.rows:
        head = {"name": row.name, "title": row.title, "paper": row.paper}
        builder = asking.builder_of(work.study, row.registration)
        agreement = twins.livers(work.study.data.path, builder)
        state = "not registered" if agreement is None else "made"
        rows.append({**head, "state": state, **(agreement or {})})
    return {"rows": rows}


# Of tables that are not rows of detectors alone; a study of its own is a line here.
TABLES: dict[str, Callable[[Work], dict[str, Any]]] = {
    "gssd-table2": _livers,
    "gssd-tableS2": _sensitivities,
    "gssd-fig5": _figure,
    "gssd-inside": _inside,
}


def _train(work: Work, rows: Sequence[Row]) -> None:
    """Trains and scores rows from all seeds, as far as they are not done."""
    study, possible = work.study, []
    for row in rows:
        why = _state(work, row)
        if why:
            work.say(f"{row.title}: {why}")
        else:
            possible.append(row)
    for kind in dict.fromkeys(row.registration for row in possible):
        if kind != UNREGISTERED:
            twins.make(study.data, kind, study.scale.per_slice, work.say)
    todo = [(row, seed) for seed in study.seeds for row in possible if not _done(work, row, seed)]
    for row, seed in todo:  # in a minute, what would else be found in hours
        loop.check(work.experiment(row, seed), work.data(row))
    for row, seed in todo:
        place = asking.folder(row, seed, work.path)
        work.say(f"{row.title}, seed {seed}: training into {place}")
        run = loop.train(work.experiment(row, seed), place, resume=True)
        score(run)
        scores = _done(work, row, seed)
        if scores is None:
            raise OSError(f"{place}/metrics does not hold what was just written there")
        best, last = (_words(scores[which]["test IoU50"]) for which in WEIGHTS)
        work.say(f"{row.title}, seed {seed}: AP50 of test {best} by the best weights, {last} last")


def score(run: runs.Run) -> None:
    """Scores a RUN by its best and its last weights on val and test, and writes that into it.

    Where its model's authors draw other boxes than the model does, those too.
    """
    for which, split, boxes in itertools.product(WEIGHTS, SPLITS, _boxes(run.experiment)):
        chosen = dataclasses.replace(run.experiment.evaluate, split=split, boxes=boxes)
        experiment = dataclasses.replace(run.experiment, evaluate=chosen)
        scored = scoring.score_run(dataclasses.replace(run, experiment=experiment), which)
        if parallel.process()[0] == 0:
            scoring.write(run, _name(split, which, boxes), scored)
        parallel.wait(f"{split} is scored by the {which} weights and {boxes} boxes")


def found(work: Work, row: Row) -> list[dict[str, Any]]:
    """What there is of a row, seed by seed: its scores under the eight metrics."""
    if _state(work, row):
        return []
    if not twins.is_there(work.study.data, row.registration):
        return []
    scores = [_done(work, row, seed) for seed in work.study.seeds]
    return [one for one in scores if one is not None]


def _done(work: Work, row: Row, seed: int) -> dict[str, Any] | None:
    """The scores of a row from a seed, if it has all; ValueError for a RUN of another study."""
    place = asking.folder(row, seed, work.path)
    run = kept.run_in(place)
    if run is None:
        return None
    experiment, data = work.experiment(row, seed), work.data(row)
    runs.check_same(run, experiment, free=runs.MOVABLE)
    digest = sources.digest(data["train"], data["val"])
    if run.digests.get("split_digest") != digest:
        raise ValueError(
            f"{place} was not trained on these images ({digest}): its run.json says"
            f" {run.digests.get('split_digest')}. Remove it to train it anew"
        )
    scores: dict[str, Any] = {"seed": seed, "epochs": experiment.train.epochs}
    for which in WEIGHTS:
        for boxes in _boxes(experiment):
            val, test = (_scores(run, split, which, boxes) for split in SPLITS)
            if val is None or test is None:
                return None
            by_protocol = _eight(val, test)
            if boxes == "model":
                scores[which] = by_protocol.pop(PROTOCOL)
                full = {split: one["full"] for split, one in zip(SPLITS, (val, test), strict=True)}
                scores.setdefault("full", {})[which] = full
            for name, eight in by_protocol.items():
                name += OFFICIAL if boxes == "official" else ""
                scores.setdefault("beside", {}).setdefault(name, {})[which] = eight
    return scores


def _boxes(experiment: Experiment) -> tuple[str, ...]:
    """Which boxes are scored, words of evaluate.boxes."""
    return ("model", "official") if models.draws_otherwise(experiment.model) else ("model",)


def _scores(run: runs.Run, split: str, which: str, boxes: str) -> dict[str, Any] | None:
    """What `jaxdet evaluate` writes of a split; None where there is nothing, or others' scores."""
    file = run.path / "metrics" / f"{_name(split, which, boxes)}.json"
    if not file.exists():
        return None
    # `jaxdet evaluate` writes a file of this name too, perhaps of other data or later weights.
    told = {"weights": which, "split": split, "boxes": boxes, "other_data": False}
    return kept.scores(file, {**run.digests, **told})


def _eight(val: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The eight metrics by each protocol of this study that was scored."""
    rows = [{row["protocol"]: row for row in one["protocols"]} for one in (val, test)]
    there = [name for name in (PROTOCOL, *BESIDE) if name in rows[0]]
    return {name: statistics.eight_metrics(*(one[name] for one in rows)) for name in there}


def _name(split: str, which: str, boxes: str = "model") -> str:
    by_whom = "" if boxes == "model" else f"_{boxes}"
    return f"{split}_{PROTOCOL}{by_whom}" + ("" if which == "best" else f"_{which}")


def _state(work: Work, row: Row) -> str:
    """Why a row cannot be trained; "" where it can."""
    if not asking.is_built(row):
        return "not built"
    if row.registration not in (UNREGISTERED, *work.study.scale.kinds):
        return "not at this scale"
    return ""


def _row(work: Work, row: Row, scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What TABLE.json says of a row; without numbers where it is not trained."""
    head = {
        "name": row.name,
        "key": row.key,
        "title": row.title,
        "registration": row.registration,
        "model": row.model,
        "paper": row.paper,
        "state": _state(work, row) or ("trained" if scores else "not trained"),
    }
    if not scores:
        return head
    metrics = tuple(row.paper)
    several = {which: summarise([one[which] for one in scores], metrics) for which in WEIGHTS}
    others = [
        name
        for name in scores[0].get("beside", {})
        if all(name in one.get("beside", {}) for one in scores)
    ]
    beside = {
        name: {
            which: summarise([one["beside"][name][which] for one in scores], metrics)
            for which in WEIGHTS
        }
        for name in others
    }
    return {**head, "seeds": list(scores), **several, **({"beside": beside} if beside else {})}


def summarise(scores: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, Any]:
    """Mean and SD over seeds of every metric. A seed's None is in no mean."""
    known = {name: [one[name] for one in scores if one[name] is not None] for name in metrics}
    both = {name: statistics.mean_sd(values, DDOF) for name, values in known.items()}
    return {
        "mean": {name: mean for name, (mean, _) in both.items()},
        "sd": {name: sd for name, (_, sd) in both.items()},
        "n": {name: len(values) for name, values in known.items()},
    }


def _sensitivity(unregistered: Mapping[str, Any], registered: Mapping[str, Any]) -> dict[str, Any]:
    """A seed of a row of Table S2: Eq. 6 of every metric, and their arithmetic mean."""
    told: dict[str, Any] = {"seed": registered["seed"], "epochs": registered["epochs"]}
    for which in WEIGHTS:
        lost = statistics.mean_sensitivity(unregistered[which], registered[which], EIGHT)
        told[which] = {**lost.each, MEAN: lost.mean}
    return told


def _unregistered(row: Row) -> Row:
    title = row.title.removesuffix(f", {row.registration}")
    return row._replace(title=title, registration=UNREGISTERED, paper=dict.fromkeys(EIGHT))


def _set(work: Work) -> dict[str, Any]:
    """The unregistered set and its split in numbers."""
    splits = work.data(Row("", "", {}))
    return {
        "builder": work.study.data.builder,
        "digest": sources.digest(splits["train"], splits["val"]),
        **{
            name: {
                "patients": len({record.patient for record in split.records}),
                "images": len(split),
                "boxes": sum(int((~record.crowd).sum()) for record in split.records),
            }
            for name, split in splits.items()
        },
    }


def _words(ap: float | None) -> str:
    return "n/a" if ap is None else f"{ap:.4f}"
